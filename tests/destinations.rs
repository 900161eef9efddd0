//! The tests that every destination must pass. A new one passes them too, or it is not ready:
//! nothing here names a single service but the table of documented answers.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

#[path = "destinations/checks.rs"]
mod checks;
#[path = "destinations/events.rs"]
mod events;
#[path = "destinations/extension.rs"]
mod extension;
#[path = "destinations/golden.rs"]
mod golden;
#[path = "destinations/incidents.rs"]
mod incidents;
#[path = "destinations/kit.rs"]
mod kit;
#[path = "destinations/messages.rs"]
mod messages;
#[path = "destinations/money.rs"]
mod money;
#[path = "destinations/rates.rs"]
mod rates;
#[path = "destinations/readme.rs"]
mod readme;
#[path = "destinations/setup.rs"]
mod setup;
#[path = "destinations/verdicts.rs"]
mod verdicts;
