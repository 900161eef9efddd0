//! What operators see: metrics, rules, dashboards and traces, on a running service.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../support/mod.rs"]
mod support;

mod boards;
mod cardinality;
mod live;
mod prometheus;
mod rules;
mod traces;
