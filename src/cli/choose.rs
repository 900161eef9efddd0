//! Flags that choose events, connectors and times, the same for every command that has them.

use clap::Args;

use super::Usage;
use crate::{
    clock::{self, Timestamp},
    delivery::{Outcome, Reason, Source},
    destination::ConnectorType,
    event::EventType,
    id::ProjectId,
    replay::{ConnectorName, event_types, moment},
};

/// Which deliveries are meant.
#[derive(Args, Debug, Clone, Default)]
pub struct Choose {
    /// A project; may be given several times.
    #[arg(long, value_name = "PROJECT")]
    pub project: Vec<ProjectId>,
    /// A connector: its id, or PROJECT/ID; may be given several times.
    #[arg(long, value_name = "CONNECTOR")]
    pub connector: Vec<ConnectorName>,
    /// A type of connectors, such as slack; may be given several times.
    #[arg(long = "type", value_name = "TYPE")]
    pub kind: Vec<ConnectorType>,
    /// An event type, * stands for anything: 'payment.*'; may be given several times.
    #[arg(long, value_name = "TYPE")]
    pub event_type: Vec<String>,
}

impl Choose {
    /// The event types that are named.
    pub fn event_types(&self) -> Result<Vec<EventType>, Usage> {
        let mut found = Vec::new();
        for pattern in &self.event_type {
            found.extend(event_types(pattern).map_err(|e| Usage(format!("--event-type: {e}")))?);
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }
}

/// Reads a moment that a flag names; `beginning` and no flag are no limit.
pub fn when(flag: &str, text: Option<&str>) -> Result<Option<Timestamp>, Usage> {
    match text {
        None | Some("beginning") => Ok(None),
        Some(text) => {
            moment(text, clock::now()).map(Some).map_err(|error| Usage(format!("{flag}: {error}")))
        }
    }
}

fn named<T: Copy>(all: &[T], name: fn(T) -> &'static str, text: &str) -> Result<T, String> {
    let found = all.iter().copied().find(|one| name(*one) == text);
    found.ok_or_else(|| {
        let nearest = all
            .iter()
            .map(|one| (strsim::damerau_levenshtein(text, name(*one)), name(*one)))
            .min()
            .filter(|(distance, _)| *distance <= 3);
        nearest.map_or_else(
            || {
                let names: Vec<&str> = all.iter().map(|one| name(*one)).collect();
                format!("there are {}", names.join(", "))
            },
            |(_, nearest)| format!("did you mean {nearest:?}?"),
        )
    })
}

/// Reads a reason's name.
pub fn reason(text: &str) -> Result<Reason, String> {
    named(Reason::ALL, Reason::as_str, text)
}

/// Reads an outcome's name.
pub fn outcome(text: &str) -> Result<Outcome, String> {
    named(Outcome::ALL, Outcome::as_str, text)
}

/// Reads a source's name.
pub fn source(text: &str) -> Result<Source, String> {
    named(Source::ALL, Source::as_str, text)
}
