//! The console in a plain HTTP client without scripts, on a real broker: who gets in, what the pages
//! show, that nothing from outside becomes markup, and that its forms do what they say.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

#[path = "../support/mod.rs"]
mod support;

mod browser;
mod forms;
mod login;
mod markup;
mod pages;

use std::time::Duration;

use support::{serve::Stage, sink::Sink};

const TOKEN: &str = "dmt_test";
const PATIENCE: Duration = Duration::from_secs(60);

/// A stage whose console is on.
fn stage() -> Option<(Stage, Sink)> {
    let digest = dunmore_connectors::tokens::digest_of(TOKEN);
    support::scene::stage("300ms,1s", &format!("admin.token_sha256 = \"{digest}\""))
}
