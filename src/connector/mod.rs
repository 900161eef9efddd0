//! Connectors: what a project configured, the commands that change it, and the decision about
//! each command.
//!
//! Commands are asked, state changes are facts: [`decide()`] turns a command into one [`Change`]
//! or a [`Problem`], and [`ProjectState::apply`] folds changes into state. Nothing here does I/O,
//! asks a clock or rolls dice; ids and times come from the command and its Kafka record.

mod batch;
#[cfg(test)]
mod batch_tests;
mod checks;
mod command;
mod config;
mod decide;
mod fields;
mod health;
#[cfg(test)]
mod health_tests;
mod history;
#[cfg(test)]
mod journal_tests;
mod keeping;
mod later;
mod merge;
mod notice;
mod number;
mod partition;
mod problem;
mod recent;
mod result;
mod rotation;
mod signing;
mod state;
mod suspension;
mod tier;

pub use batch::{Asked, Batch, Office, Registry, Step};
pub use command::{Command, CommandBody, MAX_ACTOR_CHARS, OWN_ACTOR, Patch, Refused};
pub(crate) use config::to_setting;
pub use config::{Config, ConfigValue, SEALED, Sealed, mask};
pub use decide::{Context, Decision, MAX_SUSPENDED_REASON_CHARS, decide};
pub use fields::{MAX_EVENT_TYPES, MAX_NAME_CHARS};
pub use health::{Ended, Health, HealthNotice, MAX_NAMED, Outage, TOLD_EVERY, Told, Turn, Untold};
pub use history::HistoryRecord;
pub use keeping::{INTENT_USE, Keeping, Next};
pub use later::Later;
pub use notice::{Notice, NoticeKind};
pub use number::{CommandsLog, MAX_REMEMBERED_TOPICS, Progress, epoch_of, number, offset_of};
pub use partition::partition_of;
pub use problem::{FieldError, MAX_FIELD_ERRORS, Problem, ProblemCode};
pub use recent::{LOOK_BACK, Origin, REPEAT_AGE, REPEAT_WINDOW, Recent};
pub use result::{CommandOutcome, CommandResult};
pub use rotation::{INTENT_LIFE, Intent, RenewalStep, is_renewal_failing, renewal_due};
pub use state::{Change, Connector, Project, ProjectState, StateError, StateKey, StateRecord};
pub use suspension::SuspensionCode;
pub use tier::Tier;

/// The known name that a misspelt one probably means, as the end of a sentence.
pub(crate) fn did_you_mean<'a>(text: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    // The distance takes time in proportion to the product of the lengths.
    if text.len() > 64 {
        return String::new();
    }
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(text, name), name))
        .filter(|(distance, name)| *distance <= 1 + name.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| format!(", did you mean {name:?}?"))
        .unwrap_or_default()
}
