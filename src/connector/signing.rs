//! What becomes of a signing secret that is replaced.

use std::time::Duration;

use serde_json::Value;

use super::{
    Config, ConfigValue, Connector, FieldError, Patch, Problem, ProblemCode, config::ELLIPSIS,
};
use crate::{
    clock::Timestamp,
    destination::{ConnectorType, PREVIOUS_SECRET, PREVIOUS_UNTIL, SIGNING_SECRET},
};

/// An overlap is of two signing secrets.
pub(super) fn check_overlap(connector: &Connector, patch: &Patch) -> Result<(), Problem> {
    let given = patch.config.as_ref().and_then(|config| config.get(SIGNING_SECRET));
    if !connector.kind.signs() {
        Err(Problem::new(ProblemCode::ValidationFailed, not_signed(connector.kind)))
    } else if given.and_then(Value::as_str).is_some_and(|secret| !secret.contains(ELLIPSIS)) {
        Ok(())
    } else {
        let message = "goes with a new signingSecret only";
        let errors = vec![FieldError::new("overlapSeconds", message)];
        Err(Problem::with_fields(ProblemCode::ValidationFailed, errors))
    }
}

/// Why a connector of this type has no signing secret.
fn not_signed(kind: ConnectorType) -> String {
    let signing: Vec<&str> =
        ConnectorType::ALL.iter().filter(|kind| kind.signs()).map(|kind| kind.as_str()).collect();
    format!(
        "Requests to {kind} are not signed: the service has its own way to know its callers. \
         Those of {} can be.",
        signing.join(", ")
    )
}

/// The signing secret that was replaced goes on to sign for a while. Its encrypted value is still
/// bound to the name that it had: the registrar binds it anew.
pub(super) fn keep_previous(
    config: &mut Config,
    stored: &Config,
    at: Timestamp,
    overlap: Duration,
) {
    if let Some(before) = stored.get(SIGNING_SECRET).filter(|_| !overlap.is_zero()) {
        config.insert(PREVIOUS_SECRET, before.clone());
        let until = Value::String(at.plus(overlap).to_string());
        config.insert(PREVIOUS_UNTIL, ConfigValue::Plain(until));
    }
}

/// What its owner chose is all that signs.
pub(super) fn forget_previous(config: &mut Config) {
    config.remove(PREVIOUS_SECRET);
    config.remove(PREVIOUS_UNTIL);
}
