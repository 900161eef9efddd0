//! What became of an event: where it was read, whom it was matched with, each attempt, and where
//! each of its deliveries is now.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use super::{ConnectorName, DeadLetter, Marks, Position};
use crate::{
    clock::Timestamp,
    delivery::{AttemptRecord, Origin, Outcome, Reason, Source},
    destination::ConnectorType,
    event::EventType,
    id::{ConnectorKey, DeliveryId, ProjectId},
};

/// Which attempts are meant. An empty list means every one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttemptFilter {
    /// The event.
    pub event: Option<String>,
    /// The projects.
    pub projects: Vec<ProjectId>,
    /// The connectors.
    pub connectors: Vec<ConnectorName>,
    /// The connectors' types.
    pub types: Vec<ConnectorType>,
    /// The event types.
    pub event_types: Vec<EventType>,
    /// The outcomes.
    pub outcomes: Vec<Outcome>,
    /// The reasons.
    pub reasons: Vec<Reason>,
    /// What made this program deliver.
    pub sources: Vec<Source>,
    /// The replay or redrive that asked for it.
    pub job: Option<String>,
}

impl AttemptFilter {
    /// Whether this attempt is meant.
    #[must_use]
    pub fn takes(&self, attempt: &AttemptRecord<'_>) -> bool {
        let any = |list: &[ConnectorName]| {
            list.iter().any(|name| name.is(&attempt.project_id, &attempt.connector_id))
        };
        self.event.as_deref().is_none_or(|event| event == attempt.event_id)
            && (self.projects.is_empty()
                || self.projects.iter().any(|project| project.as_str() == attempt.project_id))
            && (self.connectors.is_empty() || any(&self.connectors))
            && (self.types.is_empty() || self.types.contains(&attempt.connector_type))
            && (self.event_types.is_empty()
                || self.event_types.iter().any(|kind| kind.as_str() == attempt.event_type))
            && (self.outcomes.is_empty() || self.outcomes.contains(&attempt.outcome))
            && (self.reasons.is_empty()
                || attempt.reason.is_some_and(|reason| self.reasons.contains(&reason)))
            && (self.sources.is_empty() || self.sources.contains(&attempt.source))
            && self.job.as_deref().is_none_or(|job| attempt.job.as_deref() == Some(job))
    }
}

/// Where a delivery is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "where")]
pub enum Place {
    /// At the destination.
    Delivered {
        /// Since when.
        at: Timestamp,
    },
    /// Nowhere: the destination has nothing to do for it.
    Skipped,
    /// Nowhere: it was not wanted any more.
    Cancelled {
        /// Why.
        reason: Option<Reason>,
    },
    /// In a retry tier.
    Waiting {
        /// The tier.
        tier: String,
        /// Since when.
        since: Timestamp,
    },
    /// In the dead-letter topic.
    Dead {
        /// Where in it.
        position: Option<Position>,
        /// Whether it was redriven from there.
        redriven: bool,
    },
    /// Waiting in the replay topic: asked for and not tried yet.
    Replaying {
        /// By whom.
        job: String,
    },
    /// Not tried as far as the attempts tell: in flight, or older than what they keep.
    Unknown,
}

impl Place {
    /// In a few words.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::Delivered { at } => format!("delivered at {at}"),
            Self::Skipped => "skipped: the destination has nothing to do for it".to_owned(),
            Self::Cancelled { reason } => {
                format!("cancelled: {}", reason.map_or("not wanted any more", Reason::help))
            }
            Self::Waiting { tier, since } => format!("in retry tier {tier} since {since}"),
            Self::Dead { position, redriven } => {
                let place = position.map_or_else(String::new, |at| format!(" at {at}"));
                let redriven = if *redriven { ", redriven from there" } else { "" };
                format!("dead letter{place}{redriven}")
            }
            Self::Replaying { job } => format!("in the replay topic, asked for by {job}"),
            Self::Unknown => "in flight, or too long ago: no attempt is on record".to_owned(),
        }
    }
}

/// A record of the events topic that holds the event.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Consumed {
    /// Where it is.
    #[serde(flatten)]
    pub origin: Origin,
    /// When Kafka took it on.
    pub at: Timestamp,
    /// Its project.
    pub project: String,
    /// Its type.
    pub event_type: String,
}

/// One delivery of the event.
#[derive(Debug, Default)]
struct Part {
    connector: Option<(ConnectorKey, ConnectorType)>,
    matches_now: bool,
    attempts: Vec<AttemptRecord<'static>>,
    dead: Option<(Position, bool)>,
    replaying: Option<(Timestamp, String)>,
}

/// What became of an event.
#[derive(Debug, Default)]
pub struct Story {
    /// Where it was read.
    pub consumed: Vec<Consumed>,
    parts: BTreeMap<DeliveryId, Part>,
}

impl Story {
    /// A connector wants the event by what the view says now.
    pub fn matches(&mut self, id: DeliveryId, key: &ConnectorKey, kind: ConnectorType) {
        let part = self.parts.entry(id).or_default();
        part.connector = Some((key.clone(), kind));
        part.matches_now = true;
    }

    /// An attempt was made.
    pub fn attempt(&mut self, attempt: AttemptRecord<'static>) {
        let part = self.parts.entry(attempt.delivery_id).or_default();
        if let (Ok(project), Ok(connector)) =
            (attempt.project_id.parse(), attempt.connector_id.parse())
        {
            let key = ConnectorKey { project, connector };
            part.connector.get_or_insert((key, attempt.connector_type));
        }
        part.attempts.push(attempt);
        part.attempts.sort_by_key(|attempt| attempt.at);
    }

    /// A dead letter holds a delivery of it.
    pub fn dead(&mut self, letter: &DeadLetter, marks: &Marks) {
        let Some(delivery) = letter.delivery() else { return };
        let part = self.parts.entry(delivery.delivery_id).or_default();
        part.connector.get_or_insert((delivery.connector.clone(), delivery.connector_type));
        part.dead = Some((letter.position, marks.has(letter.position)));
    }

    /// A replay asked for a delivery of it.
    pub fn replayed(&mut self, id: DeliveryId, at: Timestamp, job: &str) {
        self.parts.entry(id).or_default().replaying = Some((at, job.to_owned()));
    }

    /// Whether nothing is known of the event.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.consumed.is_empty() && self.parts.is_empty()
    }

    /// Each delivery: the connector, whether it wants the event now, where the delivery is, and
    /// its attempts.
    pub fn deliveries(&self) -> impl Iterator<Item = Told<'_>> {
        self.parts.iter().map(|(id, part)| Told {
            id: *id,
            connector: part.connector.as_ref(),
            matches_now: part.matches_now,
            place: part.place(),
            attempts: &part.attempts,
        })
    }

    /// The story as programs read it.
    #[must_use]
    pub fn to_json(&self, event: &str) -> Value {
        let deliveries = self.deliveries().map(|told| {
            json!({
                "deliveryId": told.id,
                "projectId": told.connector.map(|(key, _)| &key.project),
                "connectorId": told.connector.map(|(key, _)| &key.connector),
                "connectorType": told.connector.map(|(_, kind)| kind),
                "matchesNow": told.matches_now,
                "now": told.place,
                "attempts": told.attempts,
            })
        });
        let deliveries: Vec<Value> = deliveries.collect();
        json!({ "eventId": event, "consumed": self.consumed, "deliveries": deliveries })
    }
}

/// What is told of one delivery.
#[derive(Debug)]
pub struct Told<'a> {
    /// Its id.
    pub id: DeliveryId,
    /// Its connector, with the type.
    pub connector: Option<&'a (ConnectorKey, ConnectorType)>,
    /// Whether the connector wants the event now.
    pub matches_now: bool,
    /// Where it is.
    pub place: Place,
    /// Its attempts in the order of time.
    pub attempts: &'a [AttemptRecord<'static>],
}

impl Part {
    fn place(&self) -> Place {
        let last = self.attempts.last();
        if let Some((asked_at, job)) = &self.replaying
            && last.is_none_or(|last| last.at < *asked_at)
        {
            return Place::Replaying { job: job.clone() };
        }
        let Some(last) = last else {
            return match self.dead {
                Some((position, redriven)) => Place::Dead { position: Some(position), redriven },
                None => Place::Unknown,
            };
        };
        match last.outcome {
            Outcome::Delivered => Place::Delivered { at: last.at },
            Outcome::Skipped => Place::Skipped,
            Outcome::Cancelled => Place::Cancelled { reason: last.reason },
            Outcome::Retry | Outcome::Deferred => Place::Waiting {
                tier: last.tier.as_deref().unwrap_or_default().to_owned(),
                since: last.at,
            },
            Outcome::Dead => Place::Dead {
                position: self.dead.map(|(position, _)| position),
                redriven: self.dead.is_some_and(|(_, redriven)| redriven),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(at: i64, outcome: Outcome) -> AttemptRecord<'static> {
        AttemptRecord {
            tier: (outcome == Outcome::Retry).then(|| "5s".into()),
            at: Timestamp::from_millis(at),
            ..crate::replay::tests::attempt("conn_1", "evt_1", outcome)
        }
    }

    fn place(story: &Story) -> Place {
        story.deliveries().next().unwrap().place
    }

    #[test]
    fn a_delivery_is_where_its_last_step_put_it() {
        let mut story = Story::default();
        // Attempts of several partitions come in no order of time.
        story.attempt(attempt(20, Outcome::Dead));
        story.attempt(attempt(10, Outcome::Retry));
        assert_eq!(place(&story), Place::Dead { position: None, redriven: false });
        let id = attempt(0, Outcome::Retry).delivery_id;
        story.replayed(id, Timestamp::from_millis(30), "redrive-1");
        assert_eq!(place(&story), Place::Replaying { job: "redrive-1".to_owned() });
        story.attempt(attempt(40, Outcome::Delivered));
        assert_eq!(place(&story), Place::Delivered { at: Timestamp::from_millis(40) });
        assert_eq!(story.deliveries().count(), 1);
    }

    #[test]
    fn a_filter_takes_what_it_names() {
        let one = attempt(0, Outcome::Retry);
        let takes = |filter: AttemptFilter| filter.takes(&one);
        let none = AttemptFilter::default;
        assert!(takes(none()));
        assert!(takes(AttemptFilter { event: Some("evt_1".into()), ..none() }));
        assert!(!takes(AttemptFilter { event: Some("evt_2".into()), ..none() }));
        assert!(takes(AttemptFilter { outcomes: vec![Outcome::Retry], ..none() }));
        assert!(!takes(AttemptFilter { outcomes: vec![Outcome::Delivered], ..none() }));
        assert!(takes(AttemptFilter { connectors: vec!["conn_1".parse().unwrap()], ..none() }));
        assert!(!takes(AttemptFilter { connectors: vec!["p/conn_1".parse().unwrap()], ..none() }));
        assert!(!takes(AttemptFilter { reasons: vec![Reason::Gone], ..none() }));
        assert!(!takes(AttemptFilter { sources: vec![Source::Replay], ..none() }));
        assert!(!takes(AttemptFilter { job: Some("replay-1".into()), ..none() }));
    }
}
