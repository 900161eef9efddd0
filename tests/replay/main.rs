//! Replay, dead letters, attempts and the admin API on a real broker, as an operator uses them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../support/mod.rs"]
mod support;

mod backfill;
mod console;
mod embedded;
mod fencing;
mod foreign;
mod letters;
mod missing;
mod redrives;
mod screens;
mod stories;

use std::time::Duration;

use support::scene::{n8n, stage};

const PATIENCE: Duration = Duration::from_secs(90);

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
