//! The REST API: on a real broker where one is needed.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

#[path = "../support/broker.rs"]
mod broker;
mod egress;
mod openapi;
mod rest;
mod stage;
mod tokens;
