//! The REST API: on a real broker where one is needed.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]
#![expect(clippy::similar_names, reason = "algorithms and paths have the names they have")]

#[path = "../support/broker.rs"]
mod broker;
mod customers;
mod egress;
mod limits;
mod openapi;
mod rest;
mod signing;
#[expect(dead_code, reason = "other tests look at more of it")]
mod stage;
mod tokens;
