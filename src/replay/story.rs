//! What became of an event: where it was read, whom it was matched with, each attempt, and where
//! each of its deliveries is now.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use super::{ConnectorName, DeadLetter, Marks, Position};
use crate::{
    clock::Timestamp,
    delivery::{AttemptRecord, HELD, Origin, Outcome, Reason, Source},
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
            Self::Waiting { tier, since } if tier == HELD => {
                format!("held since {since}, until the connector's suspension is lifted")
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

/// A dead letter of a record that was refused, and names the event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Refused {
    /// Where it is.
    pub position: Position,
    /// When it was written.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
    /// Why, in words.
    pub detail: String,
    /// Where the record came from.
    pub source: Origin,
    /// Whether it was written back from there.
    pub reinjected: bool,
}

/// A record of the events topic that names the event and cannot be read as it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Unreadable {
    /// Where it is.
    #[serde(flatten)]
    pub origin: Origin,
    /// When Kafka took it on.
    pub at: Timestamp,
}

/// Records of the events topic that wait behind an open transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Behind {
    /// The partition.
    pub partition: i32,
    /// The first of them.
    pub from: i64,
    /// How many offsets.
    pub records: u64,
    /// Where the event is among them, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_at: Option<i64>,
}

/// A connector of the event's project that does not want it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NotWanted {
    /// The project.
    pub project_id: String,
    /// The connector.
    pub connector_id: String,
    /// Its type.
    pub connector_type: ConnectorType,
    /// Why: `off`, `other_event_types`, `about_itself` (a notice) or `filter`.
    pub why: &'static str,
}

/// The last answer of a destination that was an error, behind a reason of this program's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// When.
    pub at: Timestamp,
    /// The response's status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The reason.
    pub reason: Reason,
    /// The destination's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Whether it was to this delivery, or to another one of the same connector.
    pub to_this: bool,
}

impl Answer {
    /// The answer that an attempt got, if it is an error.
    #[must_use]
    pub fn of(attempt: &AttemptRecord<'_>, to_this: bool) -> Option<Self> {
        // Without a request, no time was taken.
        attempt.duration_ms.or(attempt.status.map(u64::from))?;
        let reason = attempt.reason.filter(|reason| !is_own(*reason))?;
        let detail = attempt.detail.as_deref().map(str::to_owned);
        Some(Self { at: attempt.at, status: attempt.status, reason, detail, to_this })
    }

    /// In a few words.
    #[must_use]
    pub fn words(&self) -> String {
        let status = self.status.map_or_else(String::new, |status| format!("HTTP {status} "));
        let detail = self.detail.as_ref().map_or_else(String::new, |text| format!(" \"{text}\""));
        let whose = if self.to_this { "" } else { " to another delivery" };
        format!("{status}{}{detail} at {}{whose}", self.reason, self.at)
    }
}

/// Whether a reason is this program's own, and hides what the destination answered before.
fn is_own(reason: Reason) -> bool {
    matches!(reason, Reason::CircuitOpen | Reason::LaneFull | Reason::Suspended)
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
    suspended: Option<String>,
    /// The last error that the connector answered to any delivery.
    answer: Option<Answer>,
}

/// What became of an event.
#[derive(Debug, Default)]
pub struct Story {
    /// Where it was read.
    pub consumed: Vec<Consumed>,
    /// The event as it was produced, where it could be read.
    pub event_text: Option<String>,
    /// Records that name it and cannot be read.
    pub unreadable: Vec<Unreadable>,
    /// Dead letters of such records.
    pub refused: Vec<Refused>,
    /// Connectors of its project that do not want it.
    pub not_wanted: Vec<NotWanted>,
    /// What waits behind open transactions.
    pub behind: Vec<Behind>,
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

    /// The connector of a delivery is suspended.
    pub fn suspended(&mut self, id: DeliveryId, reason: &str) {
        self.parts.entry(id).or_default().suspended = Some(reason.to_owned());
    }

    /// Takes in what connectors answered last, where this program's own reasons hide it.
    pub fn answered(&mut self, last: impl Fn(&ConnectorKey) -> Option<Answer>) {
        for part in self.parts.values_mut() {
            let hides = part.attempts.last().and_then(|last| last.reason).is_some_and(is_own);
            if !hides && part.suspended.is_none() {
                continue;
            }
            let own = part.attempts.iter().rev().find_map(|attempt| Answer::of(attempt, true));
            let other = || part.connector.as_ref().and_then(|(key, _)| last(key));
            part.answer = own.or_else(other);
        }
    }

    /// Whether this dead letter, which is no delivery, came from a record that names the event.
    #[must_use]
    pub fn has_source(&self, letter: &DeadLetter) -> bool {
        let is_it = |origin: &Origin| {
            *origin.topic == *letter.source_topic
                && origin.partition == letter.source_partition
                && origin.offset == letter.source_offset
        };
        let unreadable = self.unreadable.iter().map(|found| &found.origin);
        self.consumed.iter().map(|found| &found.origin).chain(unreadable).any(is_it)
    }

    /// A dead letter of a record that names the event.
    pub fn was_refused(&mut self, letter: &DeadLetter, marks: &Marks) {
        self.refused.push(Refused {
            position: letter.position,
            at: letter.at,
            reason: letter.reason.clone(),
            detail: letter.detail.clone(),
            source: Origin {
                topic: letter.source_topic.as_str().into(),
                partition: letter.source_partition,
                offset: letter.source_offset,
            },
            reinjected: marks.has(letter.position),
        });
    }

    /// Whether nothing is known of the event.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let is_waiting = self.behind.iter().any(|behind| behind.event_at.is_some());
        self.consumed.is_empty()
            && self.parts.is_empty()
            && self.refused.is_empty()
            && self.unreadable.is_empty()
            && !is_waiting
    }

    /// Why no connector wants the event, in a sentence.
    #[must_use]
    pub fn why_unwanted(&self) -> Option<String> {
        let project = &self.consumed.first()?.project;
        if self.parts.values().any(|part| part.matches_now) {
            return None;
        }
        let of = |why: &str| {
            let own = self.not_wanted.iter().filter(|connector| connector.why == why);
            own.map(|connector| connector.connector_id.as_str()).collect::<Vec<_>>()
        };
        let mut why = Vec::new();
        for (reason, words) in [
            ("off", "switched off"),
            ("other_event_types", "subscribed to other event types"),
            ("about_itself", "the connector that it is about"),
            ("filter", "kept out by the filter"),
        ] {
            let own = of(reason);
            if !own.is_empty() {
                why.push(format!("{words}: {}", own.join(", ")));
            }
        }
        Some(if why.is_empty() {
            format!("no connector wants it: {project} has none")
        } else {
            format!("no connector wants it now ({})", why.join("; "))
        })
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
            suspended: part.suspended.as_deref(),
            answer: part.answer.as_ref(),
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
                "suspendedReason": told.suspended,
                "lastAnswer": told.answer,
                "attempts": told.attempts,
            })
        });
        let deliveries: Vec<Value> = deliveries.collect();
        json!({
            "eventId": event,
            "consumed": self.consumed,
            "unreadable": self.unreadable,
            "refused": self.refused,
            "behindOpenTransactions": self.behind,
            "notWantedBy": self.not_wanted,
            "notWanted": self.why_unwanted(),
            "deliveries": deliveries,
        })
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
    /// Why its connector is suspended, if it is.
    pub suspended: Option<&'a str>,
    /// The last error that its connector answered, where it is not in the last attempt.
    pub answer: Option<&'a Answer>,
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
    fn the_last_real_answer_is_told_behind_reasons_of_our_own() {
        let answered = |at, reason, status: Option<u16>, outcome| AttemptRecord {
            reason: Some(reason),
            status,
            duration_ms: status.map(|_| 12),
            ..attempt(at, outcome)
        };
        let mut story = Story::default();
        story.attempt(answered(10, Reason::ServerError, Some(503), Outcome::Retry));
        story.attempt(answered(20, Reason::CircuitOpen, None, Outcome::Deferred));
        story.answered(|_| None);
        let told = story.deliveries().next().unwrap().answer.unwrap().clone();
        assert_eq!(
            (told.status, told.reason, told.to_this),
            (Some(503), Reason::ServerError, true)
        );
        // One that was never tried itself: what the connector answered to another.
        let mut story = Story::default();
        story.attempt(answered(20, Reason::LaneFull, None, Outcome::Deferred));
        story.answered(|_| Some(Answer { to_this: false, ..told.clone() }));
        assert!(!story.deliveries().next().unwrap().answer.unwrap().to_this);
        // A real answer needs no other.
        let mut story = Story::default();
        story.attempt(answered(20, Reason::Rejected, Some(400), Outcome::Dead));
        story.answered(|_| Some(told.clone()));
        assert_eq!(story.deliveries().next().unwrap().answer, None);
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
