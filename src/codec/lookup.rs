//! What is known of schemas, and how the registry is asked for the others: patiently while it is
//! away, and with a budget for what it does not have.

use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::{Mutex, RwLock};
use tokio::runtime::Handle;

use super::{
    ReadError,
    plan::Plan,
    registry::{Fetched, RegistryClient, RegistryError},
    schemas::{ReadAs, RecordKind},
    wire::SchemaRef,
};
use crate::{delivery::Reason, kafka::TopicKind, metrics::Metrics};

/// Schemas kept in memory. A platform has dozens; the bound is for producers that make up ids.
const MAX_SCHEMAS: usize = 1000;
/// Ids kept in memory that cannot be read, for so long.
const MAX_BAD: usize = 1000;
const REMEMBER_BAD: Duration = Duration::from_secs(30);
/// The registry is asked again after this, doubled each time …
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
/// … up to this.
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);
/// A wait checks this often whether it is still needed.
const NAP: Duration = Duration::from_millis(200);
/// How often an id that the registry does not know is asked for: the nodes of a registry learn of
/// a new schema one after the other.
const MISSING_TRIES: u32 = 4;
/// How often an id is asked for that a registry which answers for others has trouble with, or
/// answers with something that cannot be read.
const ODD_TRIES: u32 = 6;
/// How long a partition waits in all for ids that turn out to be unknown, in a window of
/// [`PATIENCE_WINDOW`]. When that is used up such ids are asked for once each: a thousand records of
/// garbage take seconds.
const PATIENCE: Duration = Duration::from_secs(8);
const PATIENCE_WINDOW: Duration = Duration::from_secs(60);
/// The most partitions whose patience is remembered.
const MAX_IMPATIENT: usize = 10_000;
/// Requests for schemas under way at once. A thousand records of a new schema need it once, and an
/// id that is slow to come holds up few others.
const ASKING: usize = 16;

pub(super) struct Shared {
    pub client: RegistryClient,
    known: RwLock<HashMap<(SchemaRef, ReadAs), Known>>,
    bad: RwLock<HashMap<(SchemaRef, ReadAs), Bad>>,
    asking: [tokio::sync::Mutex<()>; ASKING],
    /// The ids of our own schemas, by topic.
    pub ids: OnceLock<Vec<(TopicKind, u32)>>,
    /// A schema that the registry had.
    good: Mutex<Option<SchemaRef>>,
    /// By what is read and the partition that it is read from.
    patience: Mutex<HashMap<(ReadAs, i32), Patience>>,
    waiting: AtomicUsize,
    metrics: Arc<Metrics>,
    pub runtime: Handle,
}

#[derive(Clone)]
pub(super) enum Known {
    /// Avro.
    Plan(Arc<Plan>),
    /// The payload is JSON.
    Json,
}

/// Nothing that can be read.
#[derive(Clone)]
struct Bad {
    reason: Reason,
    detail: Arc<str>,
    until: Instant,
}

/// What a partition has waited for unknown ids.
struct Patience {
    since: Instant,
    spent: Duration,
}

/// Why a schema could not be had.
#[derive(Debug)]
enum Trouble {
    /// The registry does not have it, or refuses it while it gives others.
    Unknown(String),
    /// The registry fails at it while it gives others.
    Odd(String),
    /// The registry's answer cannot be read.
    Unreadable(String),
    /// The registry is away.
    Away(String),
}

impl Shared {
    pub fn new(client: RegistryClient, metrics: Arc<Metrics>) -> Self {
        Self {
            client,
            known: RwLock::default(),
            bad: RwLock::default(),
            asking: Default::default(),
            ids: OnceLock::new(),
            good: Mutex::new(None),
            patience: Mutex::default(),
            waiting: AtomicUsize::new(0),
            metrics,
            runtime: Handle::current(),
        }
    }

    /// Whether something waits for a registry that is away.
    pub fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// What is known without asking: nothing, or whether it can be read.
    pub fn look(&self, schema: SchemaRef, read_as: ReadAs) -> Option<Result<Known, ReadError>> {
        let place = (schema, read_as);
        if let Some(known) = self.known.read().get(&place) {
            return Some(Ok(known.clone()));
        }
        let bad = self.bad.read().get(&place).filter(|bad| bad.until > Instant::now()).cloned()?;
        Some(Err(ReadError::refused(bad.reason, &bad.detail)))
    }

    pub fn keep(&self, schema: SchemaRef, read_as: ReadAs, known: Known) {
        *self.good.lock() = Some(schema);
        self.bad.write().remove(&(schema, read_as));
        put(&mut self.known.write(), (schema, read_as), known, MAX_SCHEMAS);
    }

    fn keep_bad(&self, schema: SchemaRef, read_as: ReadAs, reason: Reason, detail: &str) {
        let until = Instant::now() + REMEMBER_BAD;
        let mut bad = self.bad.write();
        if bad.len() >= MAX_BAD {
            let now = Instant::now();
            bad.retain(|_, bad| bad.until > now);
        }
        put(&mut bad, (schema, read_as), Bad { reason, detail: detail.into(), until }, MAX_BAD);
    }

    /// Gets a schema, or why it cannot be read. It waits for a registry that is away until `gone`
    /// says that there is nothing to wait for any more.
    pub async fn get(
        &self,
        schema: SchemaRef,
        read_as: ReadAs,
        partition: i32,
        gone: &impl Fn() -> bool,
    ) -> Result<Known, ReadError> {
        // A state record that was passed over is not read again: it waits for its schema for ever.
        let must_wait = read_as == ReadAs::Record(RecordKind::State);
        let (mut backoff, mut tries) = (FIRST_BACKOFF, 0);
        let mut waits = None;
        let mut is_said = false;
        loop {
            let trouble = match self.ask(schema, read_as).await {
                Ok(found) => return found,
                Err(trouble) => trouble,
            };
            let (limit, words) = match &trouble {
                Trouble::Unknown(words) if !must_wait => (Some(MISSING_TRIES), words),
                Trouble::Odd(words) if !must_wait => (Some(ODD_TRIES), words),
                Trouble::Unreadable(words) => (Some(ODD_TRIES), words),
                Trouble::Unknown(words) | Trouble::Odd(words) | Trouble::Away(words) => {
                    (None, words)
                }
            };
            if let Some(limit) = limit {
                tries += 1;
                if tries >= limit || !self.has_patience((read_as, partition), backoff) {
                    let detail =
                        format!("schema {schema} cannot be had from the registry: {words}");
                    let error = ReadError::refused(Reason::UnknownSchema, &detail);
                    self.keep_bad(schema, read_as, Reason::UnknownSchema, &detail);
                    return Err(error);
                }
            } else if !is_said {
                // Said once per wait; the metric shows how long it takes.
                tracing::warn!(%schema, words, "records wait for their schema");
                is_said = true;
            }
            // An instance is not ready while the registry is away, and only then.
            waits = match trouble {
                Trouble::Away(_) => waits.or_else(|| Some(Waits::new(self))),
                _ => None,
            };
            if !pause(backoff, gone).await {
                return Err(ReadError::GivenUp);
            }
            backoff = (backoff * 2).min(LONGEST_BACKOFF);
        }
    }

    /// Takes a wait from a partition's patience, if there is so much left.
    fn has_patience(&self, reader: (ReadAs, i32), wait: Duration) -> bool {
        let now = Instant::now();
        let mut all = self.patience.lock();
        if all.len() >= MAX_IMPATIENT {
            all.retain(|_, patience| now - patience.since < PATIENCE_WINDOW);
        }
        let fresh = || Patience { since: now, spent: Duration::ZERO };
        let patience = all.entry(reader).or_insert_with(fresh);
        if now - patience.since >= PATIENCE_WINDOW {
            *patience = fresh();
        }
        patience.spent += wait;
        patience.spent <= PATIENCE
    }

    /// Asks for a schema, unless another task got it meanwhile.
    async fn ask(
        &self,
        schema: SchemaRef,
        read_as: ReadAs,
    ) -> Result<Result<Known, ReadError>, Trouble> {
        let place = match schema {
            SchemaRef::Id(id) => id as usize % ASKING,
            SchemaRef::Guid(guid) => usize::from(guid.as_bytes()[15]) % ASKING,
        };
        let _asking = self.asking[place].lock().await;
        match self.look(schema, read_as) {
            Some(Err(_)) if read_as == ReadAs::Record(RecordKind::State) => {}
            Some(found) => return Ok(found),
            None => {}
        }
        let found = self.client.schema(schema).await;
        self.count(found.as_ref().err());
        let refuse = |detail: &str| {
            self.keep_bad(schema, read_as, Reason::Undecodable, detail);
            Ok(Err(ReadError::refused(Reason::Undecodable, detail)))
        };
        let known = match found {
            Ok(Fetched::Avro(schemas)) => match Plan::of(&schemas, read_as.schema()) {
                Ok(plan) => Known::Plan(Arc::new(plan)),
                Err(error) => return refuse(&error),
            },
            Ok(Fetched::Json) => Known::Json,
            Ok(Fetched::Other(detail)) => return refuse(&detail),
            Err(error) => return Err(self.trouble(schema, error).await),
        };
        self.keep(schema, read_as, known.clone());
        Ok(Ok(known))
    }

    /// What an error means for one schema.
    async fn trouble(&self, schema: SchemaRef, error: RegistryError) -> Trouble {
        let words = error.to_string();
        match error {
            RegistryError::Unknown(words) => Trouble::Unknown(words),
            RegistryError::Unreadable(_) => Trouble::Unreadable(words),
            // It asks to be asked less.
            RegistryError::Refused { status: 408 | 429, .. } => Trouble::Away(words),
            RegistryError::Refused { .. } | RegistryError::Away(_)
                if !self.gives_others(schema).await =>
            {
                Trouble::Away(words)
            }
            RegistryError::Refused { status: 400..500, .. } => Trouble::Unknown(words),
            RegistryError::Refused { .. } | RegistryError::Away(_) => Trouble::Odd(words),
        }
    }

    /// Whether the registry gives a schema that it gave before.
    async fn gives_others(&self, schema: SchemaRef) -> bool {
        let good = *self.good.lock();
        match good {
            Some(good) if good != schema => self.client.has(good).await,
            _ => false,
        }
    }

    /// The id of our schema for a subject.
    pub async fn id(
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
            let error = match found {
                Ok(id) => return Ok(id),
                Err(error) => error,
            };
            if !error.is_away() {
                return Err(format!(
                    "{subject}: {error}; see `dunmore schemas check`, and register the schemas \
                     with `dunmore schemas register`"
                ));
            }
            if waits.is_none() {
                tracing::warn!(%error, "waiting for the schema registry");
            }
            waits.get_or_insert_with(|| Waits::new(self));
            if !pause(backoff, gone).await {
                return Err(format!("{error} (schema_registry.url)"));
            }
            backoff = (backoff * 2).min(LONGEST_BACKOFF);
        }
    }

    fn count(&self, error: Option<&RegistryError>) {
        self.metrics.registry_request(error.map_or("ok", RegistryError::as_str));
    }
}

fn put<T>(
    map: &mut HashMap<(SchemaRef, ReadAs), T>,
    place: (SchemaRef, ReadAs),
    value: T,
    max: usize,
) {
    if map.len() >= max {
        // Whichever: what is in use comes back with one request.
        let victim = map.keys().next().copied();
        victim.map(|victim| map.remove(&victim));
    }
    map.insert(place, value);
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
