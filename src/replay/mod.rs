//! Replay, backfill and redrive: which deliveries are to be made again, what a careful operator
//! wants to know before, and how far a job has come.

mod dead;
mod history;
mod job;
mod plan;
mod selection;
mod story;
mod warning;
mod when;

pub use dead::{
    DeadFilter, DeadLetter, Letter, Marks, NOTE, NOTE_REDRIVEN, Position, Purgeable, REDRIVE,
    RedrivenNote, Tally, TooManyMarks,
};
pub use history::{History, HistoryFull, MAX_HISTORY};
pub use job::{Job, JobNote, NoteTooLong};
pub use plan::{Choice, Connectors, Known, MAX_SAMPLES, Plan, Row};
pub use selection::{ConnectorName, Head, Selection, event_types};
pub use story::{AttemptFilter, Consumed, Place, Story, Told};
pub use warning::{Warning, warnings};
pub use when::moment;
