//! Replay, dead letters, attempts and the admin API on a real broker, as an operator uses them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../support/mod.rs"]
mod support;

mod backfill;
mod console;
mod letters;
mod screens;
mod stories;

use std::time::Duration;

use serde_json::Value;
use support::{
    broker::broker,
    events::{create, set_tier},
    serve::Stage,
    sink::Sink,
};

const PATIENCE: Duration = Duration::from_secs(90);

/// Topics of two partitions, a sink, and a project `proj_1` on the largest tier.
fn stage(tiers: &str, more: &str) -> Option<(Stage, Sink)> {
    let broker = broker()?;
    let sink = Sink::start();
    let more = format!("topics.partitions = 2\n{more}");
    let stage = Stage::new(&broker.bootstrap, &broker.unique_prefix(), tiers, &more);
    stage.command_all(&[set_tier("cmd_tier", "proj_1", "enterprise")]);
    Some((stage, sink))
}

/// A command that creates an n8n connector of `proj_1`, which delivers to a path of its name.
fn n8n(sink: &Sink, connector: &str, events: &[&str]) -> Value {
    let url = sink.url(&format!("/webhook/{connector}"));
    create(&format!("cmd_{connector}"), "proj_1", connector, "n8n", &url, events)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
