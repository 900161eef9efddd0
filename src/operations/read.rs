//! Records' values as JSON, whatever form they have: one function for each kind of record.

use std::{
    borrow::Cow,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::runtime::Handle;

use super::Operations;
use crate::{
    codec::{ReadError, RecordKind, cloudevents},
    connector::{Change, StateKey},
    delivery::{AttemptRecord, DeliveryRecord},
    event::{Event, EventType},
    json::Object,
    kafka::{Record, Seen, TopicKind},
    replay::Head,
};

/// How long the registry is waited for before it is an error that it does not answer.
const REGISTRY_PATIENCE: Duration = Duration::from_secs(10);

/// An event as a scan meets it.
pub(super) enum Met<'a> {
    /// Its head, borrowed from the record; the whole is read when it is needed.
    Head(Head<'a>, &'a [u8]),
    /// The whole, because the record is Avro or a `CloudEvent`.
    Whole(Box<Event>),
}

impl Met<'_> {
    /// What the event is about.
    pub fn head(&self) -> Head<'_> {
        match self {
            Self::Head(head, _) => Head {
                project: Cow::Borrowed(&head.project),
                kind: head.kind,
                id: Cow::Borrowed(&head.id),
            },
            Self::Whole(event) => Head {
                project: Cow::Borrowed(event.project.as_str()),
                kind: event.kind,
                id: Cow::Borrowed(event.id.as_str()),
            },
        }
    }

    /// The event as it would be delivered; nothing when it is no valid one.
    pub fn whole(self) -> Option<Event> {
        match self {
            Self::Head(_, json) => Event::from_producer(Bytes::copy_from_slice(json)).ok(),
            Self::Whole(event) => Some(*event),
        }
    }
}

fn late() -> impl Fn() -> bool {
    let deadline = Instant::now() + REGISTRY_PATIENCE;
    move || Instant::now() >= deadline
}

impl Operations {
    /// A value as JSON; borrowed when it is that already.
    pub(super) fn json<'a>(&self, kind: RecordKind, value: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        if value.first() != Some(&0) {
            return Some(Cow::Borrowed(value));
        }
        let value = Bytes::copy_from_slice(value);
        let json = self.answered(self.codec.decode_blocking(kind, &value, late()))?;
        Some(Cow::Owned(json.to_vec()))
    }

    /// The event in a record of the events topic.
    pub(super) fn met<'a>(&self, seen: &Seen<'a>) -> Option<Met<'a>> {
        let value = seen.value()?;
        let is_cloud = || cloudevents::mode(&seen.headers()).is_some();
        // What has no head may have another form that is read: a CloudEvent that says that it is
        // JSON like any other, or a byte order mark.
        if value.first() != Some(&0)
            && !(seen.has_headers() && is_cloud())
            && !cloudevents::is_structured(value)
            && let Some(head) = Head::from_json(value)
        {
            return Some(Met::Head(head, value));
        }
        self.event(&seen.copy()).map(|event| Met::Whole(Box::new(event)))
    }

    /// Where events of this type are read from.
    pub(super) fn origin_of(&self, event_type: &str) -> String {
        let is_notice = event_type.parse().is_ok_and(EventType::is_notice);
        self.topic(if is_notice { TopicKind::Notices } else { TopicKind::Events })
    }

    /// The event in a record of one of the topics that events are read from.
    pub(super) fn met_in<'a>(&self, topic: &str, seen: &Seen<'a>) -> Option<Met<'a>> {
        if topic == self.topic(TopicKind::Notices) {
            return self.event_in(topic, &seen.copy()).map(|event| Met::Whole(Box::new(event)));
        }
        self.met(seen)
    }

    /// The same as a whole.
    pub(super) fn event_in(&self, topic: &str, record: &Record) -> Option<Event> {
        if topic == self.topic(TopicKind::Notices) {
            return self.answered(self.codec.notice(record));
        }
        self.event(record)
    }

    /// The event in a record, of whatever form.
    pub(super) fn event(&self, record: &Record) -> Option<Event> {
        self.answered(Handle::current().block_on(self.codec.event(record, late())))
    }

    /// What was read; nothing when it cannot be, which is told to the scan if it is the registry's
    /// fault.
    fn answered<T>(&self, read: Result<T, ReadError>) -> Option<T> {
        if matches!(read, Err(ReadError::GivenUp)) {
            self.unanswered.fetch_add(1, Ordering::AcqRel);
        }
        read.ok()
    }

    /// The delivery in a record of the replay or dead-letter topic.
    pub(super) fn delivery(&self, value: &[u8]) -> Option<DeliveryRecord> {
        DeliveryRecord::from_json(&self.json(RecordKind::Delivery, value)?).ok()
    }

    /// The attempt in a record of the attempts topic.
    pub(super) fn attempt(&self, value: &[u8]) -> Option<AttemptRecord<'static>> {
        let json = self.json(RecordKind::Attempt, value)?;
        serde_json::from_slice(&json).ok().map(|Object(attempt)| attempt)
    }

    /// The change in a record of the state topic.
    pub(super) fn change(&self, record: &Record) -> Option<Change> {
        let key = StateKey::parse(std::str::from_utf8(record.key.as_deref()?).ok()?).ok()?;
        let json = match record.value.as_deref() {
            Some(value) => Some(self.json(RecordKind::State, value)?),
            None => None,
        };
        key.read(json.as_deref()).ok()
    }
}
