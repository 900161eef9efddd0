//! The keeper of a partition of the held deliveries: it counts what is held for each suspended
//! connector, and writes a connector's deliveries to the replay topic, oldest first, when its
//! suspension is lifted or they were held for too long.
//!
//! What was released is noted in the same partition, after it is durable in the replay topic: a
//! crash between the two repeats at most [`CHUNK`] deliveries of each partition.

mod log;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use self::log::{Found, Note, count, read};
use super::{
    TRACEPARENT,
    dispatch::Dispatcher,
    park::{Written, header, write_until_durable},
    refuse::{self, Refused},
};
use crate::{
    clock::{self, Timestamp},
    codec::{ReadError, RecordKind},
    delivery::{DeliveryRecord, Due, EnvelopeError, Held, Reason, Source},
    destination::ConnectorType,
    id::ConnectorKey,
    kafka::{
        Admin, Assigned, Connection, GroupEvents, Outgoing, Partition, Record, Span, TopicKind,
    },
    telemetry,
};

/// Deliveries that are released together, and the most that a crash repeats of a partition.
const CHUNK: usize = 200;
/// What they may take in memory, in bytes; one record may be more.
const CHUNK_BYTES: usize = 4 << 20;
/// How often it is looked what is due.
const LOOK: Duration = Duration::from_secs(1);
/// What is held for too long is decided by two instances' clocks: the keeper waits for so long more,
/// or for a tenth of the hold where that is less, so that the second one agrees.
const CLOCK_SLACK: Duration = Duration::from_secs(60);
/// How often the view and the broker are asked again after an error.
const PAUSE: Duration = Duration::from_secs(5);

/// The held deliveries' partitions, turned into keepers.
pub struct HeldEvents {
    dispatcher: Arc<Dispatcher>,
    connection: Connection,
    runtime: tokio::runtime::Handle,
}

impl HeldEvents {
    /// Keepers run on the current runtime.
    pub fn new(dispatcher: Arc<Dispatcher>, connection: Connection) -> Self {
        Self { dispatcher, connection, runtime: tokio::runtime::Handle::current() }
    }
}

impl GroupEvents for HeldEvents {
    fn assigned(&self, assigned: Assigned) {
        let Assigned { partition, records } = assigned;
        let keeper = Keeper {
            dispatcher: Arc::clone(&self.dispatcher),
            connection: self.connection.clone(),
            partition,
            held: Arc::default(),
            known_to: 0,
            look: true,
            seen: Vec::new(),
            may_purge: false,
        };
        let supervisor = self.dispatcher.supervisor();
        supervisor.spawn_on(&self.runtime, "the keeper of held deliveries", keeper.run(records));
    }

    fn released(&self, _: &[Arc<Partition>]) {}
}

struct Keeper {
    dispatcher: Arc<Dispatcher>,
    connection: Connection,
    partition: Arc<Partition>,
    held: Arc<Mutex<Held>>,
    /// What lies before this offset is counted.
    known_to: i64,
    /// Whether something may be due that was not looked at.
    look: bool,
    /// How far the view was when that was looked at last.
    seen: Vec<i64>,
    /// Whether something was released that is still in the topic.
    may_purge: bool,
}

impl Keeper {
    async fn run(mut self, mut records: mpsc::Receiver<Vec<Record>>) {
        let Some(held) = self.count().await else { return };
        *self.held.lock() = held;
        self.dispatcher.held.lock().push(Arc::clone(&self.held));
        self.publish();
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                batch = records.recv() => match batch {
                    Some(batch) => self.take(batch).await,
                    None => break,
                },
                _ = ticks.tick() => {
                    self.release_due(&mut records).await;
                    self.purge().await;
                    self.publish();
                }
            }
        }
        // Its own alone: the partition's next keeper may have begun.
        self.dispatcher.held.lock().retain(|held| !Arc::ptr_eq(held, &self.held));
        self.publish();
        if !self.partition.is_released() {
            self.partition.fail();
        }
    }

    /// Counts what is held, from the whole partition; nothing when it was given up meanwhile.
    async fn count(&mut self) -> Option<Held> {
        loop {
            if self.partition.is_released() {
                return None;
            }
            let (connection, topic) = (self.connection.clone(), Arc::clone(self.partition.topic()));
            let number = self.partition.number();
            let counted = tokio::task::spawn_blocking(move || count(&connection, &topic, number));
            let error = match counted.await {
                Ok(Ok((held, end))) => {
                    self.known_to = end;
                    return Some(held);
                }
                Ok(Err(error)) => error.to_string(),
                Err(error) => telemetry::early_end(&error),
            };
            tracing::warn!(error, "held deliveries could not be counted; trying again");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Counts records that were just written.
    async fn take(&mut self, batch: Vec<Record>) {
        for record in batch {
            self.partition.taken(record.size());
            if self.partition.begin(record.offset).await.is_none() {
                return;
            }
            match Note::of(record.key.as_deref(), record.value.is_some(), |name| {
                record.header(name).map(|value| &**value)
            }) {
                Some(note) if record.offset >= self.known_to => {
                    note.apply(&mut self.held.lock(), record.offset, record.timestamp);
                    self.look = true;
                }
                Some(_) => {}
                None => {
                    let detail = "it does not say which connector's delivery is held".to_owned();
                    let refused = Refused { reason: Reason::InvalidRecord, detail };
                    let (dispatcher, partition) = (&self.dispatcher, &self.partition);
                    dispatcher.metrics().event_rejected(refused.reason);
                    refuse::refuse(dispatcher, partition, Source::Retry, record, refused).await;
                    continue;
                }
            }
            self.known_to = self.known_to.max(record.offset + 1);
            self.partition.complete(record.offset);
        }
    }

    fn publish(&self) {
        self.dispatcher.publish_held();
    }

    /// After how long a delivery is released though its connector is suspended.
    fn expiry(&self) -> Duration {
        let hold = self.dispatcher.options.policy.hold();
        hold + (hold / 10).min(CLOCK_SLACK)
    }

    /// Releases what is due.
    async fn release_due(&mut self, records: &mut mpsc::Receiver<Vec<Record>>) {
        let now = clock::now();
        let positions = self.dispatcher.view_positions();
        if positions != self.seen {
            self.seen = positions;
            self.look = true;
        }
        let due = {
            let (dispatcher, hold) = (&self.dispatcher, self.expiry());
            // Without a change of the view only time makes something due.
            let is_changed = std::mem::take(&mut self.look);
            self.held.lock().due(now, hold, |key| !is_changed || dispatcher.is_suspended(key))
        };
        if due.is_empty() {
            return;
        }
        if let Err(error) = self.release(&due, now, records).await {
            tracing::warn!(error, "held deliveries could not be released; trying again");
            self.look = true;
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn release(
        &mut self,
        due: &BTreeMap<ConnectorKey, Due>,
        now: Timestamp,
        records: &mut mpsc::Receiver<Vec<Record>>,
    ) -> Result<(), String> {
        let waiting: BTreeMap<_, _> = {
            let held = self.held.lock();
            due.keys().filter_map(|key| Some((key.clone(), held.get(key)?))).collect()
        };
        let from = waiting.values().map(|one| one.first).min().unwrap_or_default();
        let to = waiting.values().map(|one| one.last + 1).max().unwrap_or_default();
        let (found, mut chunks) = mpsc::channel(1);
        let reading = tokio::task::spawn_blocking({
            let (connection, topic) = (self.connection.clone(), Arc::clone(self.partition.topic()));
            let (number, due) = (self.partition.number(), due.clone());
            let hold = self.expiry();
            let stays = move |at: Timestamp| now.since(at) < hold;
            move || read(&connection, &topic, (number, Span { from, to }), &due, stays, &found)
        });
        let mut released: BTreeMap<ConnectorKey, u64> = BTreeMap::new();
        while let Some(chunk) = chunks.recv().await {
            if self.partition.is_released() {
                return Ok(());
            }
            for (key, count) in self.write(chunk, due, now).await {
                *released.entry(key).or_default() += count;
            }
            // What is written meanwhile is counted: a long release holds nothing up.
            while let Ok(batch) = records.try_recv() {
                self.take(batch).await;
            }
        }
        match reading.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(error.to_string()),
            Err(error) => return Err(telemetry::early_end(&error)),
        }
        for (key, waiting) in waiting.iter().filter(|(key, _)| due.get(*key) == Some(&Due::Lifted))
        {
            let missing = waiting.count.saturating_sub(released.get(key).copied().unwrap_or(0));
            self.held.lock().missing(key, waiting.last, missing);
        }
        self.may_purge = true;
        Ok(())
    }

    /// Writes deliveries to the replay topic, then notes how many of which connector were released.
    async fn write(
        &self,
        chunk: Vec<Found>,
        due: &BTreeMap<ConnectorKey, Due>,
        now: Timestamp,
    ) -> Vec<(ConnectorKey, u64)> {
        let is_lifted = |key: &ConnectorKey| due.get(key) != Some(&Due::Expired);
        let mut released: BTreeMap<ConnectorKey, (i64, u64)> = BTreeMap::new();
        let mut writes = Vec::new();
        let mut rests = Vec::new();
        for found in chunk {
            match found {
                Found::Record(key, record) => {
                    let (to, count) = released.entry(key.clone()).or_default();
                    (*to, *count) = (record.offset, *count + 1);
                    writes.push(self.write_one(record, is_lifted(&key), now));
                }
                Found::Rest(key, offset, at) => rests.push((key, offset, at)),
            }
        }
        if join_all(writes).await.contains(&Written::GivenUp) {
            return Vec::new();
        }
        for (key, (to, count)) in &released {
            let headers = vec![
                (header::CONNECTOR_ID, key.connector.as_str().into()),
                (header::RELEASED_TO, to.to_string().into_bytes()),
                (header::RELEASED, count.to_string().into_bytes()),
            ];
            let record = Outgoing {
                topic: self.partition.topic(),
                partition: Some(self.partition.number()),
                key: key.project.as_str().as_bytes(),
                value: None,
                headers,
            };
            // Without the note they are released again after a restart, which their ids tell.
            if let Err(error) = self.dispatcher.options.producer.send(&record).await {
                tracing::warn!(%error, connector = %key, "a release could not be noted");
            }
            self.held.lock().release(key, *to, *count);
        }
        for (key, offset, at) in rests {
            self.held.lock().begins(&key, offset, at);
        }
        released.into_iter().map(|(key, (_, count))| (key, count)).collect()
    }

    /// Writes a held delivery to the replay topic. One that cannot be read, or is too large there,
    /// becomes a dead letter.
    async fn write_one(&self, record: Record, is_lifted: bool, now: Timestamp) -> Written {
        let refused = match self.replayed(&record, is_lifted, now).await {
            Ok(value) => {
                let key = record.key.as_deref().unwrap_or_default();
                let trace = record.header(TRACEPARENT);
                let headers =
                    trace.map(|trace| (TRACEPARENT, trace.to_vec())).into_iter().collect();
                let topic = self.dispatcher.options.topics.name(TopicKind::Replay);
                let (dispatcher, partition) = (&self.dispatcher, &self.partition);
                match write_until_durable(dispatcher, partition, &topic, key, &value, headers).await
                {
                    Written::TooLarge => Refused {
                        reason: Reason::RecordTooLarge,
                        detail: Reason::RecordTooLarge.help().to_owned(),
                    },
                    written => return written,
                }
            }
            Err(Some(refused)) => refused,
            Err(None) => return Written::GivenUp,
        };
        refuse::write_refused(&self.dispatcher, &self.partition, &record, &refused).await
    }

    /// The record as it goes to the replay topic; or why it cannot be read, or nothing when the
    /// partition was given up.
    async fn replayed(
        &self,
        record: &Record,
        is_lifted: bool,
        now: Timestamp,
    ) -> Result<Vec<u8>, Option<Refused>> {
        let value = record.value.clone().unwrap_or_default();
        let codec = self.dispatcher.codec();
        let partition = &self.partition;
        let json = codec.decode(RecordKind::Delivery, &value, || partition.is_closed()).await;
        let json = json.map_err(|error| match error {
            ReadError::GivenUp => None,
            ReadError::Refused(reason, detail) => Some(Refused { reason, detail }),
        })?;
        let mut delivery = match DeliveryRecord::from_json(&json) {
            Ok(delivery) => delivery,
            // The worker of the replay topic knows how to wait for its release.
            Err(EnvelopeError::Foreign) => return Ok(value.to_vec()),
            Err(error) => {
                let detail = error.to_string();
                return Err(Some(Refused { reason: Reason::InvalidRecord, detail }));
            }
        };
        delivery.due_at = now;
        if is_lifted {
            // Its destination gets the whole patience from now on.
            delivery.deferred_since = None;
        }
        Ok(codec.encode(TopicKind::Replay, delivery.to_json()))
    }

    /// Deletes what was released and lies before everything that is held, so that the next keeper
    /// has less to count. What is not committed stays: a gap there would look like a loss.
    async fn purge(&mut self) {
        if !self.may_purge || self.partition.repeat_bound() > 0 {
            return;
        }
        self.may_purge = false;
        let lowest = self.held.lock().lowest().unwrap_or(self.known_to);
        let done = self.partition.watermark().unwrap_or_default().min(lowest);
        if done == 0 {
            return;
        }
        let purged = match Admin::new(&self.connection) {
            Ok(admin) => {
                let before = [(self.partition.number(), done)].into();
                admin.delete_before(self.partition.topic(), &before).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = purged {
            tracing::debug!(%error, "released deliveries are left to the topic's retention");
        }
    }
}

impl Dispatcher {
    /// How many deliveries are held for a connector, if this instance keeps them.
    #[must_use]
    pub fn held_count(&self, key: &ConnectorKey) -> Option<u64> {
        let keepers = self.held.lock();
        keepers.iter().find_map(|held| held.lock().get(key)).map(|waiting| waiting.count)
    }

    fn publish_held(&self) {
        let mut counts = vec![0_u64; ConnectorType::ALL.len()];
        for held in self.held.lock().iter() {
            for waiting in held.lock().iter() {
                if let Some(count) = counts.get_mut(waiting.kind.index()) {
                    *count += waiting.count;
                }
            }
        }
        self.metrics().set_held(&counts);
    }

    /// Whether the connector is suspended and its owner has it switched on. While the view cannot
    /// be read, what is held stays.
    fn is_suspended(&self, key: &ConnectorKey) -> bool {
        let Ok(subscriptions) = self.view().subscriptions(&key.project) else { return true };
        let target = subscriptions.target(&key.connector);
        target.is_some_and(|target| target.is_active && target.suspended.is_some())
    }

    fn view_positions(&self) -> Vec<i64> {
        let partitions = 0..self.options.state_partitions;
        partitions.map(|number| self.view().position(number).next_offset).collect()
    }
}
