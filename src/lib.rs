//! Dunmore connectors: an event-sourced stream processor over Kafka.
//!
//! The way of the data: connector commands and payment events are read from Kafka. The registrar
//! decides each command once and writes the outcome to a compacted state topic; every instance
//! folds that topic into its view. The delivery plane matches each event to the connectors that
//! the view holds for its project, hands each pair to the connector's lane, sends it, and judges
//! the answer: delivered, again later through a retry tier, or a dead letter. An event's offset is
//! committed when each of its pairs has got so far.
//!
//! The rooms, in that order. The pure ones do no I/O and get the time as an argument.

/// A place where the tests of this crate can make this program panic; nothing in a build of the
/// program.
macro_rules! fault_point {
    ($name:literal) => {
        #[cfg(test)]
        crate::faults::pass($name);
    };
}

pub mod admin;
pub mod api;
pub mod cli;
pub mod clock;
pub mod codec;
pub mod config;
pub mod connector;
pub mod console;
pub mod delivery;
pub mod demo;
pub mod destination;
pub mod egress;
pub mod event;
#[cfg(test)]
mod faults;
pub mod filter;
pub mod health;
pub mod id;
pub mod json;
pub mod kafka;
pub mod lane;
pub mod listen;
pub mod metrics;
pub mod money;
pub mod offsets;
pub mod operations;
pub mod outbound;
pub mod pipeline;
pub mod redact;
pub mod replay;
pub mod rs256;
pub mod secrets;
pub mod service;
pub mod telemetry;
pub mod tokens;
pub mod view;
