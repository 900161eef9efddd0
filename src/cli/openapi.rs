//! `dunmore openapi`.

use super::output;

/// `dunmore openapi`
pub fn run() -> anyhow::Result<()> {
    output::json(&crate::api::openapi::document())
}
