//! Keys, passwords and certificates on real brokers: keys that are changed while the service runs, and
//! brokers that ask who is calling.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod kafka;
mod rotate;
#[path = "../support/mod.rs"]
mod support;
