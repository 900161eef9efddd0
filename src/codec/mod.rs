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
pub mod explain;
pub mod plan;
pub mod registry;
pub mod schemas;
pub mod wire;

use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::RwLock;
use tokio::runtime::Handle;

pub use registry::{Check, RegistryClient, RegistryError};
pub use schemas::RecordKind;

use crate::{
    config::SchemaRegistrySettings,
    delivery::Reason,
    event::{Event, EventError},
    kafka::{Record, TopicKind, Topics},
    metrics::Metrics,
};
use cloudevents::Mode;
use plan::Plan;
use registry::Fetched;
use wire::Form;

/// Schemas kept in memory. A platform has dozens; the bound is for producers that make up ids.
const MAX_SCHEMAS: usize = 1000;
/// The registry is asked again after this, doubled each time …
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
/// … up to this.
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);
/// Who waits looks this often whether it still has to.
const NAP: Duration = Duration::from_millis(200);
/// How often an id that the registry does not know is asked for: the nodes of a registry learn of
/// a new schema one after the other.
const MISSING_TRIES: u32 = 4;
/// For how long an id that is unknown or unreadable is not asked for again.
const REMEMBER_BAD: Duration = Duration::from_secs(30);

/// Why a record's value could not be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReadError {
    /// It never can.
    Refused(Reason, String),
    /// Whoever asked gave up while the registry was away.
    GivenUp,
}

/// Turns records' values into JSON and back. Clones share their cache.
#[derive(Clone)]
pub struct Codec(Option<Arc<Shared>>);

struct Shared {
    client: RegistryClient,
    cache: RwLock<HashMap<(u32, RecordKind), Known>>,
    /// One request at a time: a thousand records of a new schema need it once.
    asking: tokio::sync::Mutex<()>,
    /// The ids of our own schemas, by topic.
    ids: OnceLock<Vec<(TopicKind, u32)>>,
    waiting: AtomicUsize,
    metrics: Arc<Metrics>,
    runtime: Handle,
}

#[derive(Clone)]
enum Known {
    /// Avro.
    Plan(Arc<Plan>),
    /// The payload is JSON.
    Json,
    /// Nothing that can be read.
    Bad { reason: Reason, detail: Arc<str>, until: Instant },
}

/// What can be said of a value without asking the registry.
enum Now {
    Read(Bytes),
    Refused(Reason, String),
    /// The schema of this id is needed.
    Needs(u32),
}

impl Codec {
    /// JSON alone.
    #[must_use]
    pub const fn json() -> Self {
        Self(None)
    }

    /// JSON and, when the settings name a registry, Avro. Nothing is asked yet.
    pub fn new(settings: &SchemaRegistrySettings, metrics: Arc<Metrics>) -> Result<Self, String> {
        let Some(client) = RegistryClient::new(settings)? else { return Ok(Self::json()) };
        Ok(Self(Some(Arc::new(Shared {
            client,
            cache: RwLock::new(HashMap::new()),
            asking: tokio::sync::Mutex::new(()),
            ids: OnceLock::new(),
            waiting: AtomicUsize::new(0),
            metrics,
            runtime: Handle::current(),
        }))))
    }

    /// Whether a registry is configured.
    #[must_use]
    pub const fn has_registry(&self) -> bool {
        self.0.is_some()
    }

    /// Whether something waits for the registry.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.0.as_ref().is_some_and(|shared| shared.waiting.load(Ordering::Relaxed) > 0)
    }

    /// Gets the ids of our schemas, registering those that are not there. From then on records are
    /// written as Avro. A registry that is away is asked until it answers or `gone` says so.
    pub async fn prepare(&self, topics: &Topics, gone: impl Fn() -> bool) -> Result<(), String> {
        let Some(shared) = &self.0 else { return Ok(()) };
        let mut ids = Vec::new();
        for topic in topics.all() {
            let subject = subject(topics, topic);
            let id = shared.id(&subject, kind_of(topic).text(), &gone).await?;
            ids.push((topic, id));
            let schemas = kind_of(topic).schema();
            let plan = Plan::new(schemas, schemas)?;
            shared.keep(id, kind_of(topic), Known::Plan(Arc::new(plan)));
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
        let ids = self.0.as_ref().and_then(|shared| shared.ids.get());
        let Some((_, id)) = ids.and_then(|ids| ids.iter().find(|(kind, _)| *kind == topic)) else {
            return json;
        };
        match encode::from_json(kind_of(topic), &json, wire::header(*id).to_vec()) {
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
        let shared = self.0.as_ref()?;
        let ids = shared.ids.get()?;
        let (_, id) = ids.iter().find(|(kind, _)| *kind == TopicKind::Events)?;
        let header = wire::header(*id).to_vec();
        let avro = encode::from_json(RecordKind::Event, &event.json, header).ok()?;
        let Now::Read(back) = self.look(RecordKind::Event, &Bytes::copy_from_slice(&avro)) else {
            return None;
        };
        let value = |json: &[u8]| serde_json::from_slice::<serde_json::Value>(json).ok();
        (value(&back) == value(&event.json)).then_some(avro)
    }

    /// A record's value as JSON text. It waits for a registry that is away until `gone` says that
    /// there is nothing to wait for any more.
    pub async fn decode(
        &self,
        kind: RecordKind,
        value: &Bytes,
        gone: impl Fn() -> bool,
    ) -> Result<Bytes, ReadError> {
        let mut backoff = FIRST_BACKOFF;
        let mut missing = 0;
        let mut waits = None;
        loop {
            let id = match self.look(kind, value) {
                Now::Read(json) => return Ok(json),
                Now::Refused(reason, detail) => return Err(ReadError::Refused(reason, detail)),
                Now::Needs(id) => id,
            };
            let Some(shared) = &self.0 else { return Err(ReadError::GivenUp) };
            match shared.ask(id, kind).await {
                Ok(()) => continue,
                Err(RegistryError::Unknown(words)) => {
                    missing += 1;
                    if missing >= MISSING_TRIES {
                        let reason = Reason::UnknownSchema;
                        let detail = format!("schema id {id} is not in the registry: {words}");
                        shared.keep(id, kind, Known::bad(reason, &detail));
                        continue;
                    }
                }
                Err(error) => {
                    // Said once per wait; the metric shows how long it takes.
                    if waits.is_none() {
                        tracing::warn!(schema = id, %error, "records wait for their schema");
                    }
                    waits.get_or_insert_with(|| Waits::new(shared));
                }
            }
            if !pause(backoff, &gone).await {
                return Err(ReadError::GivenUp);
            }
            backoff = (backoff * 2).min(LONGEST_BACKOFF);
        }
    }

    /// [`Codec::decode`] for threads outside of the runtime.
    pub fn decode_blocking(
        &self,
        kind: RecordKind,
        value: &Bytes,
        gone: impl Fn() -> bool,
    ) -> Result<Bytes, ReadError> {
        match (self.look(kind, value), &self.0) {
            (Now::Read(json), _) => Ok(json),
            (Now::Refused(reason, detail), _) => Err(ReadError::Refused(reason, detail)),
            (Now::Needs(_), Some(shared)) => {
                shared.runtime.block_on(self.decode(kind, value, gone))
            }
            (Now::Needs(_), None) => Err(ReadError::GivenUp),
        }
    }

    /// The payment event in a record, whatever its form: JSON, Avro, a `CloudEvent` of either mode.
    pub async fn event(
        &self,
        record: &Record,
        gone: impl Fn() -> bool,
    ) -> Result<Event, ReadError> {
        let Some(value) = &record.value else {
            let detail = "the record has no value".to_owned();
            return Err(ReadError::Refused(Reason::Undecodable, detail));
        };
        let mode = cloudevents::mode(&record.headers);
        // In binary mode the value is the data alone, whose fields keep their names.
        let json = self.decode(RecordKind::Event, value, gone).await?;
        let json = match mode {
            None => Ok(json),
            Some(Mode::Structured) => {
                cloudevents::structured(&json, record.timestamp).map(Bytes::from)
            }
            Some(Mode::Binary) => {
                cloudevents::binary(&record.headers, &json, record.timestamp).map(Bytes::from)
            }
        };
        let json = json.map_err(|detail| ReadError::Refused(Reason::Undecodable, detail))?;
        Event::from_json(json).map_err(|error| {
            let reason = match error {
                EventError::TooLarge(_) => Reason::EventTooLarge,
                EventError::NotJson(_) => Reason::Undecodable,
                EventError::MissingProject => Reason::MissingProject,
                EventError::UnknownType(_) => Reason::UnknownEventType,
                EventError::Invalid(_) => Reason::InvalidEvent,
            };
            ReadError::Refused(reason, error.to_string())
        })
    }

    fn look(&self, kind: RecordKind, value: &Bytes) -> Now {
        let (id, payload) = match wire::form(value) {
            Form::Bare(_) => return Now::Read(value.clone()),
            Form::CutShort => {
                let detail = "the value begins like Avro in Confluent's wire format and ends \
                              within its header";
                return Now::Refused(Reason::Undecodable, detail.to_owned());
            }
            Form::Framed { schema, payload } => (schema, payload),
        };
        let Some(shared) = &self.0 else {
            let detail = "the value is Avro in Confluent's wire format, but no schema registry is \
                          configured (schema_registry.url)";
            return Now::Refused(Reason::Undecodable, detail.to_owned());
        };
        let known = shared.cache.read().get(&(id, kind)).cloned();
        match known {
            None => Now::Needs(id),
            Some(Known::Plan(plan)) => match plan.to_json(payload) {
                Ok(json) => Now::Read(json.into()),
                Err(error) => {
                    let detail = format!("the value does not fit its schema (id {id}): {error}");
                    Now::Refused(Reason::Undecodable, detail)
                }
            },
            Some(Known::Json) => Now::Read(value.slice(wire::HEADER_BYTES..)),
            Some(Known::Bad { until, .. }) if until <= Instant::now() => Now::Needs(id),
            Some(Known::Bad { reason, detail, .. }) => Now::Refused(reason, detail.to_string()),
        }
    }
}

impl Known {
    fn bad(reason: Reason, detail: &str) -> Self {
        Self::Bad { reason, detail: detail.into(), until: Instant::now() + REMEMBER_BAD }
    }
}

impl Shared {
    /// Asks for a schema, unless somebody else got it meanwhile.
    async fn ask(&self, id: u32, kind: RecordKind) -> Result<(), RegistryError> {
        let _asking = self.asking.lock().await;
        let fresh = |known: &Known| match known {
            Known::Bad { until, .. } => *until > Instant::now(),
            Known::Plan(_) | Known::Json => true,
        };
        if self.cache.read().get(&(id, kind)).is_some_and(fresh) {
            return Ok(());
        }
        let found = self.client.schema(id).await;
        self.count(found.as_ref().err());
        let known = match found? {
            Fetched::Avro(schemas) => match Plan::new(&schemas, kind.schema()) {
                Ok(plan) => Known::Plan(Arc::new(plan)),
                Err(error) => Known::bad(Reason::Undecodable, &error),
            },
            Fetched::Json => Known::Json,
            Fetched::Other(detail) => Known::bad(Reason::Undecodable, &detail),
        };
        self.keep(id, kind, known);
        Ok(())
    }

    /// The id of our schema for a subject.
    async fn id(
        &self,
        subject: &str,
        schema: &str,
        gone: &impl Fn() -> bool,
    ) -> Result<u32, String> {
        let mut backoff = FIRST_BACKOFF;
        let mut waits = None;
        loop {
            let found = match self.client.look_up(subject, schema).await {
                Ok(Some(id)) => Ok(id),
                Ok(None) => self.client.register(subject, schema).await,
                Err(error) => Err(error),
            };
            self.count(found.as_ref().err());
            match found {
                Ok(id) => return Ok(id),
                Err(RegistryError::Away(words)) => {
                    if waits.is_none() {
                        tracing::warn!(words, "waiting for the schema registry");
                    }
                    waits.get_or_insert_with(|| Waits::new(self));
                }
                Err(error) => {
                    return Err(format!(
                        "{subject}: {error}; see `dunmore schemas check`, and register the schemas \
                         with `dunmore schemas register`"
                    ));
                }
            }
            if !pause(backoff, gone).await {
                return Err("the schema registry does not answer (schema_registry.url)".to_owned());
            }
            backoff = (backoff * 2).min(LONGEST_BACKOFF);
        }
    }

    fn count(&self, error: Option<&RegistryError>) {
        self.metrics.registry_request(error.map_or("ok", RegistryError::as_str));
    }

    fn keep(&self, id: u32, kind: RecordKind, known: Known) {
        let mut cache = self.cache.write();
        if cache.len() >= MAX_SCHEMAS {
            // Whichever: what is in use comes back with one request.
            let victim = cache.keys().next().copied();
            victim.map(|victim| cache.remove(&victim));
        }
        cache.insert((id, kind), known);
    }
}

/// Counts one that waits for the registry.
struct Waits<'a>(&'a Shared);

impl<'a> Waits<'a> {
    fn new(shared: &'a Shared) -> Self {
        let waiting = shared.waiting.fetch_add(1, Ordering::Relaxed) + 1;
        shared.metrics.set_registry_waiting(waiting);
        Self(shared)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let before = self.0.waiting.fetch_sub(1, Ordering::Relaxed);
        self.0.metrics.set_registry_waiting(before.saturating_sub(1));
    }
}

/// Waits; false as soon as there is nothing to wait for.
async fn pause(time: Duration, gone: &impl Fn() -> bool) -> bool {
    let until = Instant::now() + time;
    loop {
        if gone() {
            return false;
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        tokio::time::sleep(left.min(NAP)).await;
    }
}

/// What the records of a topic are.
#[must_use]
pub const fn kind_of(topic: TopicKind) -> RecordKind {
    match topic {
        TopicKind::Commands => RecordKind::Command,
        TopicKind::State => RecordKind::State,
        TopicKind::Results => RecordKind::Result,
        TopicKind::Events => RecordKind::Event,
        TopicKind::Retry(_) | TopicKind::Replay => RecordKind::Delivery,
        TopicKind::Dead => RecordKind::DeadLetter,
        TopicKind::Attempts => RecordKind::Attempt,
    }
}

/// The subject of a topic's values, by Confluent's default strategy.
#[must_use]
pub fn subject(topics: &Topics, topic: TopicKind) -> String {
    format!("{}-value", topics.name(topic))
}

#[cfg(test)]
mod tests;
