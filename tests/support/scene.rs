//! What a test of one behaviour begins with.

#![allow(dead_code, reason = "not every test binary uses this")]

use serde_json::Value;

use super::{
    broker::broker,
    events::{create, set_tier},
    serve::Stage,
    sink::Sink,
};

/// Topics of two partitions (unless the settings say otherwise), a sink, and a project `proj_1` on the
/// largest tier.
pub(crate) fn stage(tiers: &str, more: &str) -> Option<(Stage, Sink)> {
    let broker = broker()?;
    let sink = Sink::start();
    let partitions = if more.contains("topics.partitions") { "" } else { "topics.partitions = 2" };
    let more = format!("{partitions}\n{more}");
    let stage = Stage::new(&broker.bootstrap, &broker.unique_prefix(), tiers, &more);
    stage.command_all(&[set_tier("cmd_tier", "proj_1", "enterprise")]);
    Some((stage, sink))
}

/// A command that creates an n8n connector of `proj_1`, which delivers to a path of its name.
pub(crate) fn n8n(sink: &Sink, connector: &str, events: &[&str]) -> Value {
    let url = sink.url(&format!("/webhook/{connector}"));
    create(&format!("cmd_{connector}"), "proj_1", connector, "n8n", &url, events)
}
