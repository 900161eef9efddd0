//! The records in which deliveries travel through Kafka: to a retry tier, to replay, to the dead
//! letters; and the record of each attempt.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{History, Outcome, Reason, fields::Fields};
use crate::{
    clock::Timestamp,
    destination::ConnectorType,
    event::{Event, EventError, EventType},
    id::{ConnectorId, ConnectorKey, DeliveryId},
    json::{self, Object},
};

/// What made this program deliver.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// An event, as it was produced.
    Live,
    /// A retry tier.
    Retry,
    /// A replay, backfill or redrive.
    Replay,
}

impl Source {
    /// Every source.
    pub const ALL: &[Self] = &[Self::Live, Self::Retry, Self::Replay];

    /// Its place in [`Self::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The name in metric labels and records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Retry => "retry",
            Self::Replay => "replay",
        }
    }
}

/// The record that the event was first read from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Origin {
    /// Its topic, with prefix.
    pub topic: Arc<str>,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
}

/// Why the last step did not deliver.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LastError {
    /// The reason's name; that of a newer release may be one that is not known here.
    pub reason: Cow<'static, str>,
    /// The destination's words.
    pub detail: String,
}

/// A delivery that waits in Kafka, self-contained: the value of a retry, replay or dead-letter
/// record. The connector's configuration is not in it; the current one is looked up when the
/// record falls due.
#[derive(Clone, PartialEq, Debug)]
pub struct DeliveryRecord {
    /// The delivery's stable id.
    pub delivery_id: DeliveryId,
    /// The connector.
    pub connector: ConnectorKey,
    /// The connector's type when the record was written.
    pub connector_type: ConnectorType,
    /// When the connector was created; records of the first release do not say.
    pub connector_created_at: Option<Timestamp>,
    /// The event.
    pub event: Event,
    /// Requests made so far.
    pub attempts: u32,
    /// Steps through the retry tiers so far.
    pub steps: u32,
    /// The event's Kafka timestamp: when the platform took it on.
    pub accepted_at: Timestamp,
    /// When the first request was made.
    pub first_attempt_at: Option<Timestamp>,
    /// When the delivery was put off for the first time since it could last be tried.
    pub deferred_since: Option<Timestamp>,
    /// The destination asked not to be called before; this release waits for it in several rounds.
    pub not_before: Option<Timestamp>,
    /// Not before this moment.
    pub due_at: Timestamp,
    /// Why it was not delivered yet.
    pub last_error: Option<LastError>,
    /// Where the event came from.
    pub origin: Origin,
    /// The replay or redrive that asked for this delivery.
    pub job: Option<String>,
}

/// Why a record is no delivery record.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// The JSON does not have the shape.
    #[error("{0}")]
    Json(String),
    /// The event in it is wrong.
    #[error("event: {0}")]
    Event(#[from] EventError),
    /// A newer release wrote it, with a connector type or an event type that is not known here.
    #[error("a newer release wrote it")]
    Foreign,
}

/// What tells a delivery record of a newer release from something else.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Marks<'a> {
    #[serde(rename = "deliveryId")]
    _delivery_id: DeliveryId,
    #[serde(rename = "connectorId")]
    _connector_id: ConnectorId,
    #[serde(borrow)]
    connector_type: Cow<'a, str>,
    #[serde(borrow)]
    event_type: Cow<'a, str>,
}

/// Whether a record names a connector type or an event type that this release does not know.
fn is_foreign(json: &[u8]) -> bool {
    let Ok(marks) = serde_json::from_slice::<Marks<'_>>(json) else { return false };
    marks.connector_type.parse::<ConnectorType>().is_err()
        || marks.event_type.parse::<EventType>().is_err()
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire<'a> {
    delivery_id: DeliveryId,
    project_id: Cow<'a, str>,
    connector_id: ConnectorId,
    connector_type: ConnectorType,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    connector_created_at: Option<Timestamp>,
    event_id: Cow<'a, str>,
    event_type: Cow<'a, str>,
    attempts: u32,
    #[serde(default)]
    steps: u32,
    accepted_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first_attempt_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deferred_since: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    not_before: Option<Timestamp>,
    due_at: Timestamp,
    #[serde(
        default,
        deserialize_with = "json::optional_object",
        skip_serializing_if = "Option::is_none"
    )]
    last_error: Option<LastError>,
    #[serde(deserialize_with = "json::object")]
    origin: Origin,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    job: Option<String>,
    event: Cow<'a, RawValue>,
}

impl DeliveryRecord {
    /// What the delivery has been through so far.
    #[must_use]
    pub fn history(&self) -> History {
        History {
            attempts: self.attempts,
            steps: self.steps,
            first_attempt_at: self.first_attempt_at,
            deferred_since: self.deferred_since,
            not_before: self.not_before,
            last_error: self.last_error.clone(),
        }
    }

    /// The record's value.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let event = RawValue::from_string(self.event.json_text().to_owned());
        let wire = Wire {
            delivery_id: self.delivery_id,
            project_id: self.connector.project.as_str().into(),
            connector_id: self.connector.connector.clone(),
            connector_type: self.connector_type,
            connector_created_at: self.connector_created_at,
            event_id: self.event.id.as_str().into(),
            event_type: self.event.kind.as_str().into(),
            attempts: self.attempts,
            steps: self.steps,
            accepted_at: self.accepted_at,
            first_attempt_at: self.first_attempt_at,
            deferred_since: self.deferred_since,
            not_before: self.not_before,
            due_at: self.due_at,
            last_error: self.last_error.clone(),
            origin: self.origin.clone(),
            job: self.job.clone(),
            event: Cow::Owned(event.unwrap_or_default()),
        };
        // Plain data with text keys: there is nothing that serde_json could refuse.
        serde_json::to_vec(&wire).unwrap_or_default()
    }

    /// Reads a record's value.
    pub fn from_json(json: &[u8]) -> Result<Self, EnvelopeError> {
        let Object(wire) = match serde_json::from_slice::<Object<Wire<'_>>>(json) {
            Err(_) if is_foreign(json) => return Err(EnvelopeError::Foreign),
            read => read.map_err(|error| EnvelopeError::Json(json::words(json, &error)))?,
        };
        let event = match Event::from_json(Bytes::copy_from_slice(wire.event.get().as_bytes())) {
            Err(_) if is_foreign(json) => return Err(EnvelopeError::Foreign),
            read => read?,
        };
        Ok(Self {
            delivery_id: wire.delivery_id,
            connector: ConnectorKey {
                project: event.project.clone(),
                connector: wire.connector_id,
            },
            connector_type: wire.connector_type,
            connector_created_at: wire.connector_created_at,
            event,
            attempts: wire.attempts,
            steps: wire.steps,
            accepted_at: wire.accepted_at,
            first_attempt_at: wire.first_attempt_at,
            deferred_since: wire.deferred_since,
            not_before: wire.not_before,
            due_at: wire.due_at,
            last_error: wire.last_error,
            origin: wire.origin,
            job: wire.job,
        })
    }
}

/// Room for the record of an attempt that went well, in bytes.
const USUAL_ATTEMPT_BYTES: usize = 512;

/// One attempt's (or deferral's) outcome, for audit: the value of a `deliveries.attempts` record.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttemptRecord<'a> {
    /// The delivery.
    pub delivery_id: DeliveryId,
    /// The project.
    pub project_id: Cow<'a, str>,
    /// The connector.
    pub connector_id: Cow<'a, str>,
    /// The connector's type.
    pub connector_type: ConnectorType,
    /// The event.
    pub event_id: Cow<'a, str>,
    /// The event's type.
    pub event_type: Cow<'a, str>,
    /// What made this program deliver.
    pub source: Source,
    /// Requests made so far, this one included.
    pub attempt: u32,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it was not delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The destination's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Cow<'a, str>>,
    /// The response's status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// How long the request took, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// The retry tier that the delivery went to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<Cow<'a, str>>,
    /// The replay or redrive that asked for this delivery.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<Cow<'a, str>>,
    /// When it ended.
    pub at: Timestamp,
}

impl AttemptRecord<'_> {
    /// The record's value, as `Serialize` would write it.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let mut fields = Fields::with_capacity(USUAL_ATTEMPT_BYTES);
        let mut id = uuid::Uuid::encode_buffer();
        fields.text("deliveryId", self.delivery_id.uuid().hyphenated().encode_lower(&mut id));
        fields.text("projectId", &self.project_id);
        fields.text("connectorId", &self.connector_id);
        fields.text("connectorType", self.connector_type.as_str());
        fields.text("eventId", &self.event_id);
        fields.text("eventType", &self.event_type);
        fields.text("source", self.source.as_str());
        fields.number("attempt", self.attempt);
        fields.text("outcome", self.outcome.as_str());
        if let Some(reason) = self.reason {
            fields.text("reason", reason.as_str());
        }
        if let Some(detail) = &self.detail {
            fields.text("detail", detail);
        }
        if let Some(status) = self.status {
            fields.number("status", status);
        }
        if let Some(duration) = self.duration_ms {
            fields.number("durationMs", duration);
        }
        if let Some(tier) = &self.tier {
            fields.text("tier", tier);
        }
        if let Some(job) = &self.job {
            fields.text("job", job);
        }
        fields.text("at", &compact_str::format_compact!("{}", self.at));
        fields.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &str = include_str!("../../tests/fixtures/records/delivery-1.json");

    #[test]
    fn a_delivery_record_of_the_first_version_is_read_and_written_the_same() {
        let record = DeliveryRecord::from_json(RECORD.trim().as_bytes()).unwrap();
        assert_eq!(record.delivery_id, DeliveryId::new(&record.connector, &record.event.id));
        assert_eq!(record.attempts, 2);
        assert_eq!(String::from_utf8(record.to_json()).unwrap(), RECORD.trim());
    }

    #[test]
    fn an_attempt_is_written_as_serde_would_write_it() {
        let plain = AttemptRecord {
            delivery_id: DeliveryRecord::from_json(RECORD.as_bytes()).unwrap().delivery_id,
            project_id: "proj_1".into(),
            connector_id: "conn_1".into(),
            connector_type: ConnectorType::Zapier,
            event_id: "evt_1".into(),
            event_type: "payment.settled".into(),
            source: Source::Live,
            attempt: 1,
            outcome: Outcome::Delivered,
            reason: None,
            detail: None,
            status: Some(200),
            duration_ms: Some(0),
            tier: None,
            job: None,
            at: Timestamp::parse("2026-11-23T08:00:00.000Z").unwrap(),
        };
        let words = ["", "plain", "\"quoted\" \\ back", "line\nline\t\u{1}\u{7f}", "é 🦀 \u{2028}"];
        let mut records = vec![plain.clone()];
        for word in words {
            records.push(AttemptRecord {
                project_id: word.into(),
                connector_id: word.into(),
                event_id: word.into(),
                event_type: word.into(),
                detail: Some(word.into()),
                tier: Some(word.into()),
                job: Some(word.into()),
                status: None,
                duration_ms: Some(u64::MAX),
                attempt: u32::MAX,
                ..plain.clone()
            });
        }
        let outcomes = Outcome::ALL
            .iter()
            .flat_map(|outcome| Reason::ALL.iter().map(|reason| (*outcome, Some(*reason))));
        records.extend(outcomes.map(|(outcome, reason)| AttemptRecord {
            outcome,
            reason,
            ..plain.clone()
        }));
        records.extend(
            ConnectorType::ALL
                .iter()
                .map(|kind| AttemptRecord { connector_type: *kind, ..plain.clone() }),
        );
        records.extend(
            Source::ALL.iter().map(|source| AttemptRecord { source: *source, ..plain.clone() }),
        );
        for record in records {
            let json = String::from_utf8(record.to_json()).unwrap();
            assert_eq!(json, serde_json::to_string(&record).unwrap());
        }
    }

    #[test]
    fn foreign_bytes_are_an_error() {
        for bytes in [&b""[..], b"{}", b"null", b"\xff\xfe", b"[]"] {
            assert!(DeliveryRecord::from_json(bytes).is_err());
        }
        // serde takes the fields of a list one after the other.
        let record: serde_json::Value = serde_json::from_str(RECORD).unwrap();
        let list = |value: &serde_json::Value| -> serde_json::Value {
            value.as_object().unwrap().values().cloned().collect()
        };
        for path in ["", "/origin", "/lastError", "/event", "/event/data"] {
            let mut wrong = record.clone();
            let place = wrong.pointer_mut(path).unwrap();
            *place = list(place);
            assert!(DeliveryRecord::from_json(wrong.to_string().as_bytes()).is_err(), "{path}");
        }
    }
}
