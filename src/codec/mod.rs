//! Bytes and what they mean: JSON, Avro in Confluent's wire format, `CloudEvents`.
//!
//! The program's own form of every record is its JSON text. What comes in as Avro is turned into
//! that text first, so that all that follows is the same for both, down to the bytes that a
//! webhook gets; what goes out is turned into Avro last, when a registry is configured. Readers
//! accept both forms, record by record.
//!
//! [`Codec`] and the registry's client are the shell; the other files are pure.

pub mod cloudevents;
pub mod decode;
pub mod encode;
pub mod form;
mod lookup;
pub mod plan;
pub mod registry;
pub mod schemas;
pub mod wire;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;

pub use registry::{Check, RegistryClient, RegistryError};
pub use schemas::{ReadAs, RecordKind};

use crate::{
    config::SchemaRegistrySettings,
    connector::Notice,
    delivery::Reason,
    event::{Event, EventError},
    json,
    kafka::{Record, TopicKind, Topics},
    metrics::Metrics,
};
use cloudevents::{CloudEvent, Headers, Mode};
use form::Form;
use lookup::{Known, Shared};
use plan::Plan;
use wire::SchemaRef;

/// How many records with another key than their project are told of; then it is known.
const MAX_ODD_KEYS: usize = 10;
/// The partition of a value that is of none.
const NO_PARTITION: i32 = -1;

/// Why a record's value could not be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReadError {
    /// It never can. The detail is one line of bounded length.
    Refused(Reason, String),
    /// Whoever asked gave up while the registry was away.
    GivenUp,
}

impl ReadError {
    /// A refusal, whose detail is cut where it is too long for a header or a log line.
    #[must_use]
    pub fn refused(reason: Reason, detail: &str) -> Self {
        Self::Refused(reason, json::bounded(detail))
    }
}

/// Turns records' values into JSON and back. Clones share their cache.
#[derive(Clone, Default)]
pub struct Codec {
    registry: Option<Arc<Shared>>,
    /// Records whose key is not their project.
    odd_keys: Arc<AtomicUsize>,
}

/// What can be said of a value without asking the registry.
enum Now {
    Read(Bytes),
    Refused(ReadError),
    /// This schema is needed for what begins at this byte.
    Needs(SchemaRef, usize),
}

impl Codec {
    /// JSON alone.
    #[must_use]
    pub fn json() -> Self {
        Self::default()
    }

    /// JSON and, when the settings name a registry, Avro. Nothing is asked yet.
    pub fn new(settings: &SchemaRegistrySettings, metrics: Arc<Metrics>) -> Result<Self, String> {
        let client = RegistryClient::new(settings)?;
        let registry = client.map(|client| Arc::new(Shared::new(client, metrics)));
        Ok(Self { registry, odd_keys: Arc::default() })
    }

    /// Whether a registry is configured.
    #[must_use]
    pub const fn has_registry(&self) -> bool {
        self.registry.is_some()
    }

    /// Whether something waits for a registry that is away. An id that a registry does not know,
    /// or fails at while it gives others, is not waited for like this.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.registry.as_ref().is_some_and(|shared| shared.is_waiting())
    }

    /// Gets the ids of our schemas, registering those that are not there. From then on records are
    /// written as Avro. A registry that is away is asked until it answers or `gone` says so.
    pub async fn prepare(&self, topics: &Topics, gone: impl Fn() -> bool) -> Result<(), String> {
        let Some(shared) = &self.registry else { return Ok(()) };
        let mut ids = Vec::new();
        for topic in topics.all() {
            let Some(kind) = kind_of(topic) else { continue };
            let subject = subject(topics, topic);
            let id = shared.id(&subject, kind.text(), &gone).await?;
            ids.push((topic, id));
            let schemas = kind.schema();
            let plan = Plan::new(schemas, schemas)?;
            let read_as = ReadAs::Record(kind);
            shared.keep(SchemaRef::Id(id), read_as, Known::Plan(Arc::new(plan)));
        }
        // Clones share this; the first to come here is as good as any other.
        let _ = shared.ids.set(ids);
        Ok(())
    }

    /// A record's value for a topic, from its JSON text.
    ///
    /// What our schema has no place for is written as JSON: readers take both, and nothing is lost.
    #[must_use]
    pub fn encode(&self, topic: TopicKind, json: Vec<u8>) -> Vec<u8> {
        let ids = self.registry.as_ref().and_then(|shared| shared.ids.get());
        let id = ids.and_then(|ids| ids.iter().find(|(kind, _)| *kind == topic));
        let (Some((_, id)), Some(kind)) = (id, kind_of(topic)) else { return json };
        match encode::from_json(kind, &json, wire::header(*id).to_vec()) {
            Ok(avro) => avro,
            Err(error) => {
                tracing::debug!(?topic, %error, "written as JSON: the schema has no place for it");
                json
            }
        }
    }

    /// An event's value in Avro, if whoever reads it gets the same event back.
    #[must_use]
    pub fn encode_event(&self, event: &Event) -> Option<Vec<u8>> {
        let shared = self.registry.as_ref()?;
        let ids = shared.ids.get()?;
        let (_, id) = ids.iter().find(|(kind, _)| *kind == TopicKind::Events)?;
        let header = wire::header(*id).to_vec();
        let avro = encode::from_json(RecordKind::Event, &event.json, header).ok()?;
        let read_as = ReadAs::Record(RecordKind::Event);
        let Now::Read(back) = self.look(read_as, &[], &Bytes::copy_from_slice(&avro)) else {
            return None;
        };
        let value = |json: &[u8]| serde_json::from_slice::<serde_json::Value>(json).ok();
        (value(&back) == value(&event.json)).then_some(avro)
    }

    /// A value as JSON text, whose record has no headers that matter. It waits for a registry that
    /// is away until `gone` says that there is nothing to wait for any more.
    pub async fn decode(
        &self,
        kind: RecordKind,
        value: &Bytes,
        gone: impl Fn() -> bool,
    ) -> Result<Bytes, ReadError> {
        self.read(ReadAs::Record(kind), &[], value, NO_PARTITION, &gone).await
    }

    /// A record's value as JSON text: [`Codec::decode`] that looks at the headers, too.
    pub async fn decode_record(
        &self,
        kind: RecordKind,
        record: &Record,
        gone: impl Fn() -> bool,
    ) -> Result<Bytes, ReadError> {
        let value = record.value.clone().unwrap_or_default();
        self.read(ReadAs::Record(kind), &record.headers, &value, record.partition, &gone).await
    }

    /// [`Codec::decode`] for threads outside of the runtime.
    pub fn decode_blocking(
        &self,
        kind: RecordKind,
        value: &Bytes,
        gone: impl Fn() -> bool,
    ) -> Result<Bytes, ReadError> {
        let read_as = ReadAs::Record(kind);
        match (self.look(read_as, &[], value), &self.registry) {
            (Now::Read(json), _) => Ok(json),
            (Now::Refused(error), _) => Err(error),
            (Now::Needs(..), Some(shared)) => {
                shared.runtime.block_on(self.read(read_as, &[], value, NO_PARTITION, &gone))
            }
            (Now::Needs(..), None) => Err(ReadError::GivenUp),
        }
    }

    async fn read(
        &self,
        read_as: ReadAs,
        headers: &Headers,
        value: &Bytes,
        partition: i32,
        gone: &impl Fn() -> bool,
    ) -> Result<Bytes, ReadError> {
        match (self.look(read_as, headers, value), &self.registry) {
            (Now::Read(json), _) => Ok(json),
            (Now::Refused(error), _) => Err(error),
            (Now::Needs(schema, start), Some(shared)) => {
                let known = shared.get(schema, read_as, partition, gone).await?;
                known.read(schema, value.slice(start..))
            }
            (Now::Needs(..), None) => Err(ReadError::GivenUp),
        }
    }

    /// The payment event in a record, whatever its form: JSON, Avro, a `CloudEvent` of either mode.
    pub async fn event(
        &self,
        record: &Record,
        gone: impl Fn() -> bool,
    ) -> Result<Event, ReadError> {
        let Some(value) = &record.value else {
            return Err(ReadError::refused(Reason::Undecodable, "the record has no value"));
        };
        let mode = cloudevents::mode(&record.headers);
        // In binary mode the value is the data alone, which has a schema of its own.
        let read_as = match mode {
            Some(Mode::Binary) => ReadAs::Data(cloudevents::event_type(&record.headers)),
            Some(Mode::Structured) | None => ReadAs::Record(RecordKind::Event),
        };
        let json = self.read(read_as, &record.headers, value, record.partition, &gone).await?;
        let cloud = match mode {
            Some(Mode::Binary) => CloudEvent::binary(&record.headers, &json),
            Some(Mode::Structured) => CloudEvent::structured(&json),
            None => match Event::from_producer(json.clone()) {
                Ok(event) => return Ok(self.checked(event, record)),
                // Some clients say that a structured CloudEvent is JSON like any other.
                Err(_) if cloudevents::is_structured(&json) => CloudEvent::structured(&json),
                Err(error) => return Err(refusal(&error)),
            },
        };
        let undecodable = |detail: String| ReadError::refused(Reason::Undecodable, &detail);
        let cloud = cloud.map_err(undecodable)?;
        let data = match cloud.bytes() {
            Some((kind, bytes)) => {
                self.read(ReadAs::Data(kind), &[], bytes, record.partition, &gone).await?
            }
            None => Bytes::new(),
        };
        let payment = cloud.payment(&data, record.timestamp).map_err(undecodable)?;
        let event = Event::from_producer(payment.into());
        let event = event.map_err(|error| refusal(&cloudevents::in_its_words(error)))?;
        Ok(self.checked(event, record))
    }

    /// The notice in a record, as an event.
    pub fn notice(&self, record: &Record) -> Result<Event, ReadError> {
        let Some(value) = &record.value else {
            return Err(ReadError::refused(Reason::Undecodable, "the record has no value"));
        };
        let event = Notice::read(value).map_err(|error| refusal(&error))?;
        Ok(self.checked(event, record))
    }

    /// Says so when an event's record has another key than its project: the order of a project's
    /// events is the order in its partition.
    fn checked(&self, event: Event, record: &Record) -> Event {
        let key = record.key.as_deref();
        if key != Some(event.project.as_str().as_bytes())
            && self.odd_keys.load(Ordering::Relaxed) < MAX_ODD_KEYS
            && self.odd_keys.fetch_add(1, Ordering::Relaxed) < MAX_ODD_KEYS
        {
            tracing::warn!(
                partition = record.partition, offset = record.offset, project = %event.project,
                has_key = key.is_some(),
                "an event's record has another key than its projectId: the project's events may \
                 be delivered out of order"
            );
        }
        event
    }

    fn look(&self, read_as: ReadAs, headers: &Headers, value: &Bytes) -> Now {
        let undecodable =
            |words: &str| Now::Refused(ReadError::refused(Reason::Undecodable, words));
        let (schema, start) = match form::form(headers, value) {
            Form::Bare { start } => return Now::Read(value.slice(start..)),
            Form::Other(words) => return undecodable(&words),
            Form::Framed { schema, start } => (schema, start),
        };
        let Some(shared) = &self.registry else {
            return undecodable(
                "the value is Avro in Confluent's wire format, but no schema registry is \
                 configured (schema_registry.url)",
            );
        };
        match shared.look(schema, read_as) {
            Some(Ok(known)) => match known.read(schema, value.slice(start..)) {
                Ok(json) => Now::Read(json),
                Err(error) => Now::Refused(error),
            },
            // The view waits for it; others know for now.
            Some(Err(_)) if read_as == ReadAs::Record(RecordKind::State) => {
                Now::Needs(schema, start)
            }
            Some(Err(error)) => Now::Refused(error),
            None => Now::Needs(schema, start),
        }
    }
}

impl Known {
    fn read(&self, schema: SchemaRef, payload: Bytes) -> Result<Bytes, ReadError> {
        match self {
            Self::Json => Ok(payload),
            Self::Plan(plan) => plan.to_json(&payload).map(Bytes::from).map_err(|error| {
                let detail = format!("the value does not fit its schema ({schema}): {error}");
                ReadError::refused(Reason::Undecodable, &detail)
            }),
        }
    }
}

fn refusal(error: &EventError) -> ReadError {
    let reason = match error {
        EventError::TooLarge(_) => Reason::EventTooLarge,
        EventError::NotJson(_) => Reason::Undecodable,
        EventError::MissingProject(_) => Reason::MissingProject,
        EventError::UnknownType(_) => Reason::UnknownEventType,
        EventError::Invalid(_) => Reason::InvalidEvent,
    };
    ReadError::refused(reason, &error.to_string())
}

/// What the records of a topic are; none when they are JSON always.
#[must_use]
pub const fn kind_of(topic: TopicKind) -> Option<RecordKind> {
    Some(match topic {
        TopicKind::Commands => RecordKind::Command,
        TopicKind::State => RecordKind::State,
        TopicKind::Results => RecordKind::Result,
        TopicKind::Events => RecordKind::Event,
        TopicKind::Retry(_) | TopicKind::Replay | TopicKind::Held => RecordKind::Delivery,
        TopicKind::Dead => RecordKind::DeadLetter,
        TopicKind::Attempts => RecordKind::Attempt,
        TopicKind::History => RecordKind::History,
        // A CloudEvent, which is read without this program's schemas.
        TopicKind::Notices => return None,
    })
}

/// The subject of a topic's values, by Confluent's default strategy.
#[must_use]
pub fn subject(topics: &Topics, topic: TopicKind) -> String {
    format!("{}-value", topics.name(topic))
}

#[cfg(test)]
mod decode_tests;
#[cfg(test)]
#[path = "../../tests/support/fake_registry.rs"]
mod fake_registry;
#[cfg(test)]
mod lookup_tests;
#[cfg(test)]
mod tests;
