//! What an operator asks in the night, on a real broker: the history and the notices of connectors,
//! those of all projects at once, and how the service is.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../support/mod.rs"]
mod support;

mod connectors;
mod doctor;
mod notices;
mod shell;
mod status;

use serde_json::Value;
use support::{broker::broker, events::create, serve::Stage};

const HOOK: &str = "https://hooks.slack.com/services/T00000000/B00000000/";

fn stage(more: &str) -> Option<Stage> {
    let broker = broker()?;
    Some(Stage::new(&broker.bootstrap, &broker.unique_prefix(), "300ms,1s", more))
}

fn slack(id: &str, project: &str, connector: &str) -> Value {
    let url = format!("{HOOK}{}", connector.replace('_', "x"));
    create(id, project, connector, "slack", &url, &["payment.settled"])
}

/// What a command prints on standard output, and its exit code.
fn printed(stage: &Stage, arguments: &[&str]) -> (String, Option<i32>) {
    let output = stage.run(arguments);
    (String::from_utf8(output.stdout).unwrap(), output.status.code())
}
