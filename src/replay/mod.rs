//! Replay, backfill and redrive: which deliveries are to be made again, what a careful operator
//! wants to know before, and how far a job has come.

mod dead;
mod history;
mod job;
mod plan;
mod redrive;
mod selection;
mod story;
mod warning;
mod when;

pub use dead::{
    DeadFilter, DeadLetter, Letter, MAX_MARKS, Marks, NOTE, NOTE_REDRIVEN, Position, Purgeable,
    REDRIVE, RedrivenNote, Tally, TooManyMarks,
};
pub use history::{History, HistoryFull, MAX_HISTORY, Shown};
pub use job::{Job, JobNote, NoteTooLong};
pub use plan::{Choice, Connectors, Known, MAX_SAMPLES, Plan, Row};
pub use redrive::{Fate, Newest, RedrivePlan, RedriveRow, Sifter, Which};
pub use selection::{ConnectorName, Head, Selection, event_types};
pub use story::{
    Answer, AttemptFilter, Behind, Consumed, NotWanted, Place, Refused, Story, Told, Unreadable,
};
pub use warning::{Warning, warnings};
pub use when::moment;

#[cfg(test)]
mod tests {
    use crate::{
        clock::Timestamp,
        delivery::{AttemptRecord, Outcome, Source},
        destination::ConnectorType,
        id::{ConnectorKey, DeliveryId},
    };

    /// An attempt for a slack connector of `proj_1`.
    pub(super) fn attempt(
        connector: &str,
        event: &str,
        outcome: Outcome,
    ) -> AttemptRecord<'static> {
        let key = ConnectorKey {
            project: "proj_1".parse().unwrap(),
            connector: connector.parse().unwrap(),
        };
        AttemptRecord {
            delivery_id: DeliveryId::new(&key, &event.parse().unwrap()),
            project_id: "proj_1".into(),
            connector_id: connector.to_owned().into(),
            connector_type: ConnectorType::Slack,
            event_id: event.to_owned().into(),
            event_type: "payment.settled".into(),
            source: Source::Live,
            attempt: 1,
            outcome,
            reason: None,
            detail: None,
            status: None,
            duration_ms: None,
            tier: None,
            job: None,
            at: Timestamp::default(),
        }
    }
}
