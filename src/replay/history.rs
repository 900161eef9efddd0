//! What became of deliveries, as the attempts topic tells: a bounded memory of delivery ids.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::{
    clock::Timestamp,
    delivery::{AttemptRecord, Outcome},
    destination::ConnectorType,
    id::{ConnectorId, ConnectorKey, DeliveryId, ProjectId},
};

/// The most deliveries that are remembered: about 300 MB.
pub const MAX_HISTORY: usize = 8_000_000;

/// What the attempts show of a delivery.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shown {
    /// It has arrived, or there was nothing to do for it.
    Arrived,
    /// It waits in a retry tier.
    Waiting,
    /// It ended without arriving.
    Ended,
}

/// Deliveries that were tried, and what became of them.
#[derive(Debug, Default)]
pub struct History {
    shown: HashMap<DeliveryId, Shown>,
    connectors: BTreeMap<ProjectId, BTreeSet<(ConnectorId, ConnectorType)>>,
    /// When the first delivery arrived of which the attempts tell: before that, instances may have
    /// logged nothing that arrives.
    first_arrival: Option<Timestamp>,
    /// What the attempts told of earlier is deleted.
    begins: Option<Timestamp>,
    /// By partition of the events: what instances have not finished with.
    unread: BTreeMap<i32, i64>,
}

/// More deliveries than are remembered.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "more than {MAX_HISTORY} deliveries were attempted in this time: choose fewer with --project, --connector, --event-type or a shorter time"
)]
pub struct HistoryFull;

impl History {
    /// Takes an attempt in, in the order of the log.
    pub fn add(&mut self, attempt: &AttemptRecord<'_>) -> Result<(), HistoryFull> {
        if self.shown.len() >= MAX_HISTORY && !self.shown.contains_key(&attempt.delivery_id) {
            return Err(HistoryFull);
        }
        let now = match attempt.outcome {
            Outcome::Delivered | Outcome::Skipped => Shown::Arrived,
            Outcome::Retry | Outcome::Deferred => Shown::Waiting,
            Outcome::Dead | Outcome::Cancelled => Shown::Ended,
        };
        let shown = self.shown.entry(attempt.delivery_id).or_insert(now);
        if *shown != Shown::Arrived {
            *shown = now;
        }
        let project = ProjectId::parse(&attempt.project_id);
        let connector = ConnectorId::parse(&attempt.connector_id);
        if let (Ok(project), Ok(connector)) = (project, connector) {
            let known = self.connectors.entry(project).or_default();
            known.insert((connector, attempt.connector_type));
        }
        Ok(())
    }

    /// A delivery that was asked for and not tried since.
    pub fn is_asked_for(&mut self, id: DeliveryId) -> Result<(), HistoryFull> {
        if self.shown.len() >= MAX_HISTORY && !self.shown.contains_key(&id) {
            return Err(HistoryFull);
        }
        let shown = self.shown.entry(id).or_insert(Shown::Waiting);
        if *shown == Shown::Ended {
            *shown = Shown::Waiting;
        }
        Ok(())
    }

    /// An attempt of any delivery: from its time on, the attempts tell what arrives.
    pub fn see(&mut self, outcome: Outcome, at: Timestamp) {
        if matches!(outcome, Outcome::Delivered | Outcome::Skipped) {
            self.first_arrival = Some(self.first_arrival.map_or(at, |first| first.min(at)));
        }
    }

    /// The attempts before this moment are deleted.
    pub fn begins_at(&mut self, at: Timestamp) {
        self.begins = Some(self.begins.map_or(at, |begins| begins.max(at)));
    }

    /// The instances have finished with everything before this offset.
    pub fn finished_to(&mut self, partition: i32, offset: i64) {
        self.unread.insert(partition, offset);
    }

    /// Whether an event is one that instances have not finished with: what has no attempt yet will
    /// have one.
    #[must_use]
    pub fn is_unread(&self, partition: i32, offset: i64) -> bool {
        self.unread.get(&partition).is_some_and(|next| offset >= *next)
    }

    /// Whether the attempts would show that an event of this moment arrived at a connector that was
    /// created at that one.
    #[must_use]
    pub fn reaches(&self, event: Timestamp, created: Timestamp) -> bool {
        let is_kept = self.begins.is_none_or(|begins| event.max(created) >= begins);
        // Before its creation, nothing was delivered to it.
        is_kept && (created > event || self.first_arrival.is_some_and(|first| event >= first))
    }

    /// From when on the attempts show what arrived, if they show anything.
    #[must_use]
    pub fn since(&self) -> Option<Timestamp> {
        self.first_arrival.map(|first| self.begins.map_or(first, |begins| begins.max(first)))
    }

    /// What the attempts show of a delivery, if they do.
    #[must_use]
    pub fn of(&self, id: DeliveryId) -> Option<Shown> {
        self.shown.get(&id).copied()
    }

    /// How many deliveries are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shown.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shown.is_empty()
    }

    /// Every connector that was delivered to.
    pub fn connectors(&self) -> impl Iterator<Item = (ConnectorKey, ConnectorType)> {
        self.connectors.iter().flat_map(|(project, connectors)| {
            connectors.iter().map(|(connector, kind)| {
                let key = ConnectorKey { project: project.clone(), connector: connector.clone() };
                (key, *kind)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::tests::attempt;

    #[test]
    fn a_delivery_is_where_its_last_attempt_put_it_and_what_arrived_stays_so() {
        let mut history = History::default();
        let id = attempt("conn_1", "evt_1", Outcome::Retry).delivery_id;
        for (outcome, shown) in [
            (Outcome::Retry, Shown::Waiting),
            (Outcome::Dead, Shown::Ended),
            (Outcome::Deferred, Shown::Waiting),
            (Outcome::Cancelled, Shown::Ended),
            (Outcome::Delivered, Shown::Arrived),
            (Outcome::Dead, Shown::Arrived),
        ] {
            history.add(&attempt("conn_1", "evt_1", outcome)).unwrap();
            assert_eq!(history.of(id), Some(shown));
        }
    }

    #[test]
    fn the_attempts_tell_of_what_they_recorded_and_kept() {
        let at = Timestamp::from_millis;
        let mut history = History::default();
        assert!(!history.reaches(at(50), at(10)), "nothing that arrived was ever recorded");
        assert!(history.reaches(at(50), at(60)), "an event that is older than its connector");
        history.see(Outcome::Dead, at(20));
        history.see(Outcome::Delivered, at(40));
        assert!(!history.reaches(at(30), at(10)) && history.reaches(at(50), at(10)));
        history.begins_at(at(60));
        assert!(!history.reaches(at(50), at(10)), "what was recorded of it is deleted");
        assert!(!history.reaches(at(30), at(50)) && history.reaches(at(30), at(70)));
        history.finished_to(0, 7);
        assert!(history.is_unread(0, 7) && !history.is_unread(0, 6) && !history.is_unread(1, 7));
    }
}
