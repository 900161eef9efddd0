//! Dead letters: what they say, which of them are meant, and what was redriven already.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    str::FromStr,
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{ConnectorName, Which};
use crate::{
    clock::Timestamp,
    delivery::{DeliveryRecord, Reason},
    destination::ConnectorType,
    event::EventType,
    id::ProjectId,
};

/// What the jobs of redrives are called at the beginning.
pub const REDRIVE: &str = "redrive-";
/// Header of a record that is no dead letter but a note about some: its value.
pub const NOTE: &str = "dunmore-note";
/// The value of [`NOTE`] for a note of what was redriven.
pub const NOTE_REDRIVEN: &str = "redriven";
/// The most redriven letters that are remembered at once: about 300 MB.
pub const MAX_MARKS: usize = 8_000_000;

/// Where a dead letter is: `partition:offset` of the dead-letter topic.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Position {
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.partition, self.offset)
    }
}

impl FromStr for Position {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = || {
            let (partition, offset) = text.split_once(':')?;
            let position =
                Self { partition: partition.parse().ok()?, offset: offset.parse().ok()? };
            (position.partition >= 0 && position.offset >= 0).then_some(position)
        };
        read().ok_or_else(|| format!("{text:?} is no position such as 3:1207 (partition:offset)"))
    }
}

impl Serialize for Position {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What is in a dead letter.
#[derive(Clone, Debug)]
pub enum Letter {
    /// A delivery that ended.
    Delivery(Box<DeliveryRecord>),
    /// A record that could not be read, as it was.
    Raw(Vec<u8>),
}

/// A record of the dead-letter topic.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// Where it is.
    pub position: Position,
    /// When it was written.
    pub at: Timestamp,
    /// Why, as its header says.
    pub reason: String,
    /// Why, in the words of the destination or of this program.
    pub detail: String,
    /// The topic that the record came from.
    pub source_topic: String,
    /// Its partition there.
    pub source_partition: i32,
    /// Its offset there.
    pub source_offset: i64,
    /// What is in it.
    pub letter: Letter,
}

impl DeadLetter {
    /// Reads a record of the dead-letter topic. `header` gives a header's value, `delivery` reads
    /// a delivery.
    pub fn read<'a>(
        position: Position,
        at: Timestamp,
        value: &[u8],
        header: impl Fn(&str) -> Option<&'a [u8]>,
        delivery: impl Fn(&[u8]) -> Option<DeliveryRecord>,
    ) -> Self {
        let text = |name: &str| {
            header(name)
                .map(|value| String::from_utf8_lossy(value).into_owned())
                .unwrap_or_default()
        };
        let is_delivery = header("dunmore-connector-id").is_some();
        let delivery = is_delivery.then(|| delivery(value)).flatten();
        Self {
            position,
            at,
            reason: text("dunmore-error-reason"),
            detail: text("dunmore-error-detail"),
            source_topic: text("dunmore-source-topic"),
            source_partition: text("dunmore-source-partition").parse().unwrap_or(-1),
            source_offset: text("dunmore-source-offset").parse().unwrap_or(-1),
            letter: match delivery {
                Some(delivery) => Letter::Delivery(Box::new(delivery)),
                None => Letter::Raw(value.to_vec()),
            },
        }
    }

    /// The delivery in it, if it is one.
    #[must_use]
    pub fn delivery(&self) -> Option<&DeliveryRecord> {
        match &self.letter {
            Letter::Delivery(delivery) => Some(delivery),
            Letter::Raw(_) => None,
        }
    }

    /// Whether it failed again after a redrive.
    #[must_use]
    pub fn has_returned(&self) -> bool {
        let job = self.delivery().and_then(|delivery| delivery.job.as_deref());
        job.is_some_and(|job| job.starts_with(REDRIVE))
    }

    /// What has become of it.
    #[must_use]
    pub fn state(&self, marks: &Marks) -> &'static str {
        match (marks.has(self.position), self.has_returned()) {
            (true, _) => "redriven",
            (false, true) => "failed again",
            (false, false) => "waiting",
        }
    }

    /// Without the event, as programs read it in a list.
    #[must_use]
    pub fn to_json(&self, marks: &Marks) -> Value {
        let delivery = self.delivery();
        json!({
            "position": self.position,
            "at": self.at,
            "reason": self.reason,
            "detail": self.detail,
            "state": self.state(marks),
            "projectId": delivery.map(|d| &d.connector.project),
            "connectorId": delivery.map(|d| &d.connector.connector),
            "connectorType": delivery.map(|d| d.connector_type),
            "eventId": delivery.map(|d| &d.event.id),
            "eventType": delivery.map(|d| d.event.kind),
            "deliveryId": delivery.map(|d| d.delivery_id),
            "attempts": delivery.map(|d| d.attempts),
            "job": delivery.and_then(|d| d.job.as_ref()),
            "source": {
                "topic": self.source_topic,
                "partition": self.source_partition,
                "offset": self.source_offset,
            },
        })
    }
}

/// Which dead letters are meant. An empty list means every one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadFilter {
    /// Written at this moment or later.
    pub from: Option<Timestamp>,
    /// Written before this moment.
    pub to: Option<Timestamp>,
    /// The reasons.
    pub reasons: Vec<Reason>,
    /// The projects.
    pub projects: Vec<ProjectId>,
    /// The connectors.
    pub connectors: Vec<ConnectorName>,
    /// The connectors' types.
    pub types: Vec<ConnectorType>,
    /// The event types.
    pub event_types: Vec<EventType>,
    /// The positions.
    pub positions: Vec<Position>,
}

impl DeadFilter {
    /// Whether this letter is meant.
    #[must_use]
    pub fn takes(&self, letter: &DeadLetter) -> bool {
        if !self.positions.is_empty() && !self.positions.contains(&letter.position) {
            return false;
        }
        if !self.reasons.is_empty() && !self.reasons.iter().any(|r| r.as_str() == letter.reason) {
            return false;
        }
        let of_delivery = self.projects.is_empty()
            && self.connectors.is_empty()
            && self.types.is_empty()
            && self.event_types.is_empty();
        let Some(delivery) = letter.delivery() else { return of_delivery };
        let key = &delivery.connector;
        (self.projects.is_empty() || self.projects.contains(&key.project))
            && (self.connectors.is_empty() || self.connectors.iter().any(|c| c.means(key)))
            && (self.types.is_empty() || self.types.contains(&delivery.connector_type))
            && (self.event_types.is_empty() || self.event_types.contains(&delivery.event.kind))
    }
}

/// The value of a note about letters of its own partition.
#[derive(Debug, Serialize, Deserialize)]
pub struct RedrivenNote {
    /// The redrive.
    pub job: String,
    /// The letters' offsets.
    pub offsets: Vec<i64>,
}

/// What was redriven, as the notes in the dead-letter topic say.
#[derive(Clone, Debug, Default)]
pub struct Marks {
    redriven: HashSet<Position>,
}

/// More notes than can be remembered.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "more than {MAX_MARKS} dead letters are in this time: purge those that were redriven (dunmore dlq purge --redriven), or narrow the time with --from"
)]
pub struct TooManyMarks;

impl Marks {
    /// Takes the note of a partition in; a value that is none changes nothing.
    pub fn add(&mut self, partition: i32, value: &[u8]) -> Result<(), TooManyMarks> {
        if let Ok(note) = serde_json::from_slice::<RedrivenNote>(value) {
            let positions = note.offsets.into_iter();
            self.redriven.extend(positions.map(|offset| Position { partition, offset }));
        }
        if self.redriven.len() > MAX_MARKS { Err(TooManyMarks) } else { Ok(()) }
    }

    /// Takes one letter in.
    pub fn mark(&mut self, position: Position) {
        self.redriven.insert(position);
    }

    /// Whether a letter was redriven.
    #[must_use]
    pub fn has(&self, position: Position) -> bool {
        self.redriven.contains(&position)
    }

    /// Whether a redrive of these letters sends this one: what went before, or came back from one,
    /// goes again only when it is asked for.
    #[must_use]
    pub fn permits(&self, letter: &DeadLetter, which: Which) -> bool {
        let (was_sent, has_returned) = (self.has(letter.position), letter.has_returned());
        match which {
            Which::Waiting => !was_sent && !has_returned,
            Which::FailedAgain => !was_sent && has_returned,
            Which::Again => true,
        }
    }
}

/// Dead letters, counted by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// By reason: all, those that were redriven, and those that failed again after that.
    pub reasons: BTreeMap<String, [u64; 3]>,
}

impl Tally {
    /// Counts a letter.
    pub fn add(&mut self, letter: &DeadLetter, marks: &Marks) {
        let counts = self.reasons.entry(letter.reason.clone()).or_default();
        counts[0] += 1;
        counts[1] += u64::from(marks.has(letter.position));
        counts[2] += u64::from(!marks.has(letter.position) && letter.has_returned());
    }

    /// Of every reason: all, those that were redriven, and those that failed again after that.
    #[must_use]
    pub fn sum(&self) -> [u64; 3] {
        let add = |sum: [u64; 3], counts: &[u64; 3]| {
            [sum[0] + counts[0], sum[1] + counts[1], sum[2] + counts[2]]
        };
        self.reasons.values().fold([0; 3], add)
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.sum()[0]
    }

    /// As programs read it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let reasons = self.reasons.iter().map(|(reason, [all, redriven, again])| {
            json!({"reason": reason, "letters": all, "redriven": redriven, "failedAgain": again})
        });
        reasons.collect()
    }
}

/// How much of the beginning of a partition was redriven as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purgeable {
    /// The first offset that must stay, once one was found.
    pub keep_from: Option<i64>,
}

impl Purgeable {
    /// Looks at the letters of a partition in their order.
    pub fn see(&mut self, letter: &DeadLetter, marks: &Marks) {
        if self.keep_from.is_none() && !marks.has(letter.position) {
            self.keep_from = Some(letter.position.offset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &str = include_str!("../../tests/fixtures/records/delivery-1.json");

    fn letter(offset: i64, reason: &str, value: &str) -> DeadLetter {
        let position = Position { partition: 1, offset };
        DeadLetter::read(
            position,
            Timestamp::default(),
            value.as_bytes(),
            |name| match name {
                "dunmore-error-reason" => Some(reason.as_bytes()),
                "dunmore-connector-id" if value.starts_with('{') => Some(b"conn_1"),
                _ => None,
            },
            |value| DeliveryRecord::from_json(value).ok(),
        )
    }

    #[test]
    fn a_position_is_read_as_it_is_written() {
        let position: Position = "3:1207".parse().unwrap();
        assert_eq!(position.to_string(), "3:1207");
        for wrong in ["", "3", "3:", ":7", "-1:7", "3:-7", "a:b"] {
            assert!(wrong.parse::<Position>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_filter_takes_what_it_names() {
        let gone = letter(0, "gone", RECORD);
        let raw = letter(1, "undecodable", "\u{1}\u{2}");
        assert!(gone.delivery().is_some() && raw.delivery().is_none());
        let all = DeadFilter::default();
        assert!(all.takes(&gone) && all.takes(&raw));
        let reasons = DeadFilter { reasons: vec![Reason::Gone], ..DeadFilter::default() };
        assert!(reasons.takes(&gone) && !reasons.takes(&raw));
        let project = gone.delivery().unwrap().connector.project.clone();
        let projects = DeadFilter { projects: vec![project], ..DeadFilter::default() };
        assert!(projects.takes(&gone) && !projects.takes(&raw));
        let connectors =
            DeadFilter { connectors: vec!["none".parse().unwrap()], ..DeadFilter::default() };
        assert!(!connectors.takes(&gone));
        let positions =
            DeadFilter { positions: vec!["1:1".parse().unwrap()], ..DeadFilter::default() };
        assert!(!positions.takes(&gone) && positions.takes(&raw));
    }

    #[test]
    fn what_was_redriven_goes_again_only_when_asked_for() {
        let mut marks = Marks::default();
        marks.add(1, br#"{"job":"redrive-1","offsets":[0,7]}"#).unwrap();
        marks.add(1, b"no note").unwrap();
        let (sent, waiting) = (letter(7, "gone", RECORD), letter(8, "gone", RECORD));
        assert_eq!((sent.state(&marks), waiting.state(&marks)), ("redriven", "waiting"));
        assert!(!marks.permits(&sent, Which::Waiting) && marks.permits(&sent, Which::Again));
        assert!(marks.permits(&waiting, Which::Waiting));
        let returned =
            RECORD.trim().replacen("\"origin\":", "\"job\":\"redrive-1\",\"origin\":", 1);
        let returned = letter(9, "gone", &returned);
        assert_eq!(returned.state(&marks), "failed again");
        assert!(
            !marks.permits(&returned, Which::Waiting) && marks.permits(&returned, Which::Again)
        );
        assert!(marks.permits(&returned, Which::FailedAgain));
        let mut tally = Tally::default();
        for letter in [&sent, &waiting, &returned] {
            tally.add(letter, &marks);
        }
        assert_eq!(tally.reasons["gone"], [3, 1, 1]);
        let mut purgeable = Purgeable::default();
        for letter in [&letter(0, "gone", RECORD), &sent, &waiting, &returned] {
            purgeable.see(letter, &marks);
        }
        assert_eq!(purgeable.keep_from, Some(8));
    }
}
