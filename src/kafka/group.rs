//! The consumer of a group: one thread polls the client library's consumer and does nothing else. It
//! hands records to one bounded queue per partition, and lets partitions go in order when the group
//! rebalances. A second thread commits what the trackers say and waits for the broker's answers.

use std::{
    collections::{BTreeMap, HashMap},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rdkafka::{
    ClientContext, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext},
    error::{KafkaError as ClientError, RDKafkaErrorCode},
    message::Message,
    types::RDKafkaRespErr,
    util::Timeout,
};
use tokio::sync::mpsc;

use super::{
    Connection, FETCH_QUEUE_BACKOFF, KafkaError, Partition, Record,
    partition::revoke_grace,
    statistics::{self, Statistics},
};
use crate::{
    metrics::ClientMetrics,
    offsets::{CompletionMap, Tracker},
};

/// Records that may wait for a partition's worker; beyond it the partition is paused …
const PAUSE_RECORDS: usize = 2048;
/// … and resumed below this many.
const RESUME_RECORDS: usize = 512;
/// Bytes that may wait for the workers of all partitions; each partition has its part of it …
const MAX_QUEUED_BYTES: usize = 32 << 20;
/// … but at least and at most this. A single record may be larger.
const PAUSE_BYTES: std::ops::RangeInclusive<usize> = 512 << 10..=8 << 20;
/// The most records, and about the most bytes, that one round of polling takes.
const MAX_ROUND: usize = 512;
const MAX_ROUND_BYTES: usize = 4 << 20;
/// Batches that a partition's queue can hold. Pausing keeps it far from full.
const QUEUE_BATCHES: usize = 256;
const POLL: Duration = Duration::from_millis(100);
/// While a partition is paused, the thread looks more often whether it can go on.
const POLL_PAUSED: Duration = Duration::from_millis(5);
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// So many completions are committed earlier, but not more often than this.
const MAX_UNCOMMITTED: u64 = 500;
const LEAST_COMMIT_INTERVAL: Duration = Duration::from_millis(200);
/// After so long without a sign of life the group gives a member's partitions away, unless
/// `kafka.properties` says otherwise.
const SESSION_TIMEOUT: Duration = Duration::from_secs(45);
const SESSION_TIMEOUT_MS: &str = "session.timeout.ms";

/// A partition that was assigned, with the queue its worker reads.
pub struct Assigned {
    /// The partition.
    pub partition: Arc<Partition>,
    /// Its records.
    pub records: mpsc::Receiver<Vec<Record>>,
}

/// What the rest of the program is told, on the polling thread: it must not block.
pub trait GroupEvents: Send + Sync + 'static {
    /// A partition was assigned: start its worker.
    fn assigned(&self, assigned: Assigned);
    /// Partitions are given up: drop what was not started for them.
    fn released(&self, partitions: &[Arc<Partition>]);
}

/// What a group's consumer reads.
#[derive(Clone)]
pub struct GroupOptions {
    /// The group's id.
    pub group: String,
    /// The topics, with prefix.
    pub topics: Vec<String>,
    /// How long in-flight work may take at shutdown.
    pub grace: Duration,
    /// What operators see of it.
    pub metrics: ClientMetrics,
}

/// A running group consumer.
pub struct GroupConsumer {
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
}

/// Tells how a group consumer is.
#[derive(Clone)]
pub struct GroupHandle(Arc<Shared>);

impl GroupHandle {
    /// Whether the group has given this instance its share, which may be nothing.
    pub fn is_assigned(&self) -> bool {
        self.0.assigned_once.load(Ordering::Acquire)
    }

    /// Why the consumer stopped for good, if it did.
    pub fn fatal(&self) -> Option<String> {
        self.0.fatal.lock().clone()
    }

    /// The partitions that this instance owns.
    pub fn partitions(&self) -> Vec<Arc<Partition>> {
        self.0.partitions.lock().clone()
    }
}

struct Shared {
    stop: AtomicBool,
    assigned_once: AtomicBool,
    fatal: Mutex<Option<String>>,
    partitions: Mutex<Vec<Arc<Partition>>>,
}

impl GroupConsumer {
    /// Joins the group and starts polling.
    pub fn start(
        connection: &Connection,
        options: &GroupOptions,
        events: Arc<dyn GroupEvents>,
    ) -> Result<Self, KafkaError> {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            assigned_once: AtomicBool::new(false),
            fatal: Mutex::new(None),
            partitions: Mutex::new(Vec::new()),
        });
        let context = GroupContext {
            events,
            metrics: options.metrics.clone(),
            shared: Arc::clone(&shared),
            slots: Mutex::new(Slots::default()),
            committing: Mutex::new(()),
            session_timeout: connection
                .property(SESSION_TIMEOUT_MS)
                .and_then(|ms| ms.parse().ok())
                .map_or(SESSION_TIMEOUT, Duration::from_millis),
        };
        let session_ms = SESSION_TIMEOUT.as_millis().to_string();
        let consumer: BaseConsumer<GroupContext> = connection
            .client(&[
                ("group.id", &options.group),
                ("partition.assignment.strategy", "cooperative-sticky"),
                ("enable.auto.commit", "false"),
                ("enable.auto.offset.store", "false"),
                // A first start names its offsets; an offset out of range is reported, not hidden.
                ("auto.offset.reset", "error"),
                (SESSION_TIMEOUT_MS, &session_ms),
                ("max.poll.interval.ms", "300000"),
                ("queued.max.messages.kbytes", "16384"),
                ("queued.min.messages", "2000"),
                FETCH_QUEUE_BACKOFF,
                ("fetch.wait.max.ms", "100"),
                ("fetch.message.max.bytes", "1048576"),
                ("statistics.interval.ms", statistics::INTERVAL_MS),
                ("isolation.level", "read_committed"),
            ])
            .create_with_context(context)
            .map_err(|e| KafkaError::settings(&e))?;
        let topics: Vec<&str> = options.topics.iter().map(String::as_str).collect();
        consumer.subscribe(&topics).map_err(|e| KafkaError::request(connection, &e))?;
        let grace = options.grace;
        let group = options.group.clone();
        let name = format!("kafka {group}");
        let polled = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name(name.chars().take(15).collect())
            .spawn(move || {
                let poller = Poller { consumer: Arc::new(consumer), grace };
                // Silence would look like a topic without records.
                if catch_unwind(AssertUnwindSafe(|| poller.run())).is_err() {
                    tracing::error!(group, "the polling thread panicked; restart this instance");
                    *polled.fatal.lock() = Some(format!("the consumer of {group} panicked"));
                }
            })
            .map_err(|e| KafkaError::Other(format!("cannot start a thread: {e}")))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Something to ask how it is.
    pub fn handle(&self) -> GroupHandle {
        GroupHandle(Arc::clone(&self.shared))
    }

    /// Begins to stop: finishes what is under way, commits, leaves the group.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Release);
    }

    /// Stops and waits until the group is left.
    pub async fn stopped(mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            // The thread keeps its own deadlines.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

impl Drop for GroupConsumer {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Slot {
    partition: Arc<Partition>,
    queue: mpsc::Sender<Vec<Record>>,
    pending: Vec<Record>,
    paused: bool,
}

#[derive(Default)]
struct Slots {
    by_topic: HashMap<Arc<str>, BTreeMap<i32, Slot>>,
}

/// A partition's full name.
type Key = (Arc<str>, i32);

impl Slots {
    fn get_mut(&mut self, topic: &str, number: i32) -> Option<&mut Slot> {
        self.by_topic.get_mut(topic)?.get_mut(&number)
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.by_topic.values_mut().flat_map(BTreeMap::values_mut)
    }

    fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.by_topic.values().flat_map(BTreeMap::values)
    }

    fn partitions(&self) -> Vec<Arc<Partition>> {
        self.iter().map(|slot| Arc::clone(&slot.partition)).collect()
    }

    fn insert(&mut self, slot: Slot) {
        let (topic, number) = (Arc::clone(slot.partition.topic()), slot.partition.number());
        self.by_topic.entry(topic).or_default().insert(number, slot);
    }

    fn remove(&mut self, (topic, number): &Key) {
        if let Some(slots) = self.by_topic.get_mut(topic) {
            slots.remove(number);
        }
    }
}

struct GroupContext {
    events: Arc<dyn GroupEvents>,
    metrics: ClientMetrics,
    shared: Arc<Shared>,
    slots: Mutex<Slots>,
    /// Held during a commit, and from the last commit of partitions that are given up until they
    /// are gone: no commit overtakes the revocation of its partition.
    committing: Mutex<()>,
    session_timeout: Duration,
}

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        super::producer::log(level, facility, message);
    }

    fn error(&self, error: ClientError, reason: &str) {
        self.report(&error, reason);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        let Some(statistics) = Statistics::parse(statistics) else { return };
        statistics.show(&self.metrics);
        for slot in self.slots.lock().iter() {
            statistics.show_lag(&slot.partition, &self.metrics);
        }
    }
}

impl GroupContext {
    fn report(&self, error: &ClientError, reason: &str) {
        let code = error.rdkafka_error_code();
        let name = code.map_or_else(|| "unknown".to_owned(), |code| format!("{code:?}"));
        self.metrics.error(&name);
        match code {
            Some(RDKafkaErrorCode::Fatal) => {
                tracing::error!(%error, reason, "the Kafka consumer cannot go on; restart it");
                *self.shared.fatal.lock() = Some(format!("{error}: {reason}"));
            }
            Some(RDKafkaErrorCode::AllBrokersDown) => {
                tracing::warn!(reason, "no Kafka broker can be reached; trying on");
            }
            _ => tracing::warn!(%error, reason, "Kafka consumer"),
        }
    }

    fn assign(&self, consumer: &BaseConsumer<Self>, list: &mut TopicPartitionList) {
        // With more members than partitions some get nothing; there is nothing to ask then.
        if list.count() > 0 {
            self.take_over(consumer, list);
        }
        if let Err(error) = consumer.incremental_assign(list) {
            self.report(&error, "assign");
        }
        self.shared.assigned_once.store(true, Ordering::Release);
        self.publish();
    }

    fn take_over(&self, consumer: &BaseConsumer<Self>, list: &mut TopicPartitionList) {
        let committed = self.committed(consumer, list);
        for mut element in list.elements() {
            let (topic, number): (Arc<str>, i32) = (element.topic().into(), element.partition());
            let known =
                committed.as_ref().and_then(|known| known.get(&(Arc::clone(&topic), number)));
            let start = match known {
                Some((offset, _)) => Offset::Offset(*offset),
                // The group's first look at this partition begins at its beginning.
                None if committed.is_some() => Offset::Beginning,
                None => Offset::Stored,
            };
            // The list and the offset are valid, so setting it cannot fail.
            let _ = element.set_offset(start);
            let map = known.map_or_else(CompletionMap::default, |(offset, metadata)| {
                CompletionMap::decode(*offset, metadata).unwrap_or_else(|error| {
                    tracing::warn!(
                        %topic, number, %error,
                        "commit metadata unreadable: some deliveries may repeat"
                    );
                    CompletionMap::default()
                })
            });
            self.begin(topic, number, map);
        }
    }

    /// Starts on a partition with a tracker of its own. One that was there is let go of without a
    /// word: what was read for it is finished, and changes nothing for the new one.
    fn begin(&self, topic: Arc<str>, number: i32, map: CompletionMap) {
        let partition = Arc::new(Partition::new(topic, number, Tracker::new(map)));
        let (queue, records) = mpsc::channel(QUEUE_BATCHES);
        let slot =
            Slot { partition: Arc::clone(&partition), queue, pending: Vec::new(), paused: false };
        self.slots.lock().insert(slot);
        self.events.assigned(Assigned { partition, records });
    }

    /// The committed offsets with their metadata; `None` when the broker did not tell.
    fn committed(
        &self,
        consumer: &BaseConsumer<Self>,
        list: &TopicPartitionList,
    ) -> Option<HashMap<Key, (i64, String)>> {
        let mut asked = TopicPartitionList::new();
        for element in list.elements() {
            asked.add_partition(element.topic(), element.partition());
        }
        for _ in 0..3 {
            match consumer.committed_offsets(asked.clone(), Duration::from_secs(5)) {
                Ok(found) => {
                    let offsets = found.elements().into_iter().filter_map(|element| {
                        let Offset::Offset(offset) = element.offset() else { return None };
                        // The library panics on metadata that is no UTF-8; another tool may have
                        // written such.
                        let metadata =
                            catch_unwind(AssertUnwindSafe(|| element.metadata().to_owned()));
                        let key = (Arc::from(element.topic()), element.partition());
                        Some((key, (offset, metadata.unwrap_or_default())))
                    });
                    return Some(offsets.collect());
                }
                Err(error) => self.report(&error, "reading committed offsets"),
            }
        }
        None
    }

    fn revoke(&self, consumer: &BaseConsumer<Self>, list: &TopicPartitionList) {
        // A null list has a count of zero, but asking it for elements is undefined.
        let keys: Vec<Key> = if list.count() == 0 {
            Vec::new()
        } else {
            list.elements().iter().map(|e| (Arc::from(e.topic()), e.partition())).collect()
        };
        let partitions: Vec<Arc<Partition>> = {
            let slots = self.slots.lock();
            let wanted = |p: &Arc<Partition>| {
                keys.iter().any(|(topic, number)| topic == p.topic() && *number == p.number())
            };
            slots.partitions().into_iter().filter(wanted).collect()
        };
        for partition in &partitions {
            partition.release();
        }
        self.events.released(&partitions);
        let lost = consumer.assignment_lost();
        if !lost {
            let deadline = Instant::now() + revoke_grace(self.session_timeout);
            for partition in &partitions {
                partition.wait_quiet(deadline);
                partition.close();
            }
        }
        let committing = self.committing.lock();
        if !lost {
            self.commit(consumer, &partitions);
        }
        for partition in &partitions {
            partition.close();
        }
        let mut slots = self.slots.lock();
        for key in &keys {
            slots.remove(key);
            self.metrics.forget_lag(&key.0, key.1);
        }
        drop(slots);
        drop(committing);
        if keys.is_empty() {
            return;
        }
        if let Err(error) = consumer.incremental_unassign(list) {
            self.report(&error, "unassign");
        }
        self.publish();
    }

    fn publish(&self) {
        *self.shared.partitions.lock() = self.slots.lock().partitions();
    }

    /// Commits what the trackers say of all partitions.
    fn commit_all(&self, consumer: &BaseConsumer<Self>) {
        let _committing = self.committing.lock();
        let partitions = self.slots.lock().partitions();
        self.commit(consumer, &partitions);
    }

    /// Commits what the trackers of these partitions say, and waits for the broker's answer; the
    /// caller holds `committing`.
    ///
    /// The answer of an asynchronous commit is lost: librdkafka gives it only to a callback that
    /// rdkafka 0.39 does not set, and without the answer nobody knows what a crash would repeat.
    fn commit(&self, consumer: &BaseConsumer<Self>, partitions: &[Arc<Partition>]) {
        let mut list = TopicPartitionList::new();
        let mut commits = Vec::new();
        for partition in partitions {
            let Some(commit) = partition.tracker().lock().commit() else { continue };
            let mut element = list.add_partition(partition.topic(), partition.number());
            if element.set_offset(Offset::Offset(commit.offset)).is_ok() {
                element.set_metadata(&commit.metadata);
                commits.push((partition, commit));
            }
        }
        if commits.is_empty() {
            return;
        }
        match consumer.commit(&list, CommitMode::Sync) {
            Ok(()) => {
                for (partition, commit) in commits {
                    partition.tracker().lock().committed(&commit);
                }
                self.metrics.committed(true);
            }
            // There was nothing to commit after all.
            Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::NoOffset) => {}
            Err(error) => {
                // The next commit covers the same and more; a rebalance under way is a normal
                // cause.
                tracing::debug!(%error, "commit failed, will be repeated");
                self.metrics.committed(false);
            }
        }
    }
}

impl ConsumerContext for GroupContext {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        code: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        self.metrics.rebalanced();
        match code {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                tracing::info!(partitions = list.count(), "partitions assigned");
                self.assign(consumer, list);
            }
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS => {
                tracing::info!(partitions = list.count(), "partitions revoked");
                self.revoke(consumer, list);
            }
            other => {
                tracing::warn!(code = ?other, "rebalance failed; the group tries again");
                self.revoke(consumer, list);
            }
        }
    }

    fn main_queue_min_poll_interval(&self) -> Timeout {
        Timeout::After(POLL)
    }
}

/// Commits when it is asked to, so that the polling thread waits for no answer: records would wait
/// with it, for tens of milliseconds several times a second.
struct Committer {
    ask: SyncSender<()>,
    thread: thread::JoinHandle<()>,
}

impl Committer {
    fn start(consumer: Arc<BaseConsumer<GroupContext>>) -> Result<Self, std::io::Error> {
        // Without room for a request: who asks while it is busy asks again.
        let (ask, asked) = sync_channel(0);
        let thread = thread::Builder::new().name("kafka commit".to_owned()).spawn(move || {
            while asked.recv().is_ok() {
                consumer.context().commit_all(&consumer);
            }
        })?;
        Ok(Self { ask, thread })
    }

    /// Whether it takes the request; an error when it has ended, which only a panic can cause.
    fn ask(&self) -> Result<bool, String> {
        match self.ask.try_send(()) {
            Ok(()) => Ok(true),
            Err(TrySendError::Full(())) => Ok(false),
            Err(TrySendError::Disconnected(())) => Err("the committing thread panicked".to_owned()),
        }
    }

    /// Waits for the commit under way.
    fn stop(self) {
        drop(self.ask);
        if self.thread.join().is_err() {
            tracing::error!("the committing thread panicked");
        }
    }
}

struct Poller {
    consumer: Arc<BaseConsumer<GroupContext>>,
    grace: Duration,
}

impl Poller {
    fn run(self) {
        let mut last_commit = Instant::now();
        let shared = Arc::clone(&self.context().shared);
        let committer = match Committer::start(Arc::clone(&self.consumer)) {
            Ok(committer) => committer,
            Err(error) => {
                *shared.fatal.lock() = Some(format!("cannot start a thread: {error}"));
                return;
            }
        };
        while !shared.stop.load(Ordering::Acquire) && shared.fatal.lock().is_none() {
            self.round();
            self.hand_over();
            let since = last_commit.elapsed();
            if since >= COMMIT_INTERVAL
                || (since >= LEAST_COMMIT_INTERVAL && self.uncommitted() >= MAX_UNCOMMITTED)
            {
                match committer.ask() {
                    Ok(true) => last_commit = Instant::now(),
                    Ok(false) => {}
                    Err(error) => *shared.fatal.lock() = Some(error),
                }
            }
        }
        committer.stop();
        self.shut_down();
    }

    fn context(&self) -> &GroupContext {
        self.consumer.context()
    }

    /// Takes what the library has fetched, up to a bound.
    fn round(&self) {
        let any_paused = self.context().slots.lock().iter().any(|slot| slot.paused);
        let mut wait = if any_paused { POLL_PAUSED } else { POLL };
        let mut bytes = 0;
        for _ in 0..MAX_ROUND {
            if bytes >= MAX_ROUND_BYTES {
                return;
            }
            match self.consumer.poll(wait) {
                None => return,
                Some(Ok(message)) => {
                    let record = Record::copy(&message);
                    bytes += record.size();
                    let mut slots = self.context().slots.lock();
                    if let Some(slot) = slots.get_mut(message.topic(), message.partition()) {
                        slot.partition.queue(1, record.size());
                        slot.pending.push(record);
                    }
                }
                Some(Err(error)) => self.consume_error(&error),
            }
            wait = Duration::ZERO;
        }
    }

    fn consume_error(&self, error: &ClientError) {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                self.reset_lost_positions();
            }
            _ => self.context().report(error, "consuming"),
        }
    }

    /// A committed offset points at records that are gone (retention) or never were (the topic was
    /// made anew). Going on at the oldest record is the only way, and it is said loudly.
    fn reset_lost_positions(&self) {
        let partitions = self.context().slots.lock().partitions();
        let committed = self.consumer.committed(Duration::from_secs(5)).ok();
        let position = self.consumer.position().ok();
        for partition in partitions {
            let (topic, number) = (partition.topic(), partition.number());
            let find = |list: &Option<TopicPartitionList>| {
                let list = list.as_ref()?;
                list.find_partition(topic, number)?.offset().to_raw().filter(|offset| *offset >= 0)
            };
            // Without any position the partition could not start at all.
            let at = find(&position).or_else(|| find(&committed)).unwrap_or(-1);
            let Ok((low, high)) =
                self.consumer.fetch_watermarks(topic, number, Duration::from_secs(5))
            else {
                continue;
            };
            if at < low || at > high {
                tracing::error!(
                    %topic, partition = number, offset = at, low, high,
                    "the committed offset is out of range: records were deleted before they were read; going on at the oldest"
                );
                self.context().metrics.out_of_range();
                if at > high {
                    // Another log than the one that was read: its offsets mean other records.
                    let map = CompletionMap::default();
                    // No commit of the old log's offsets comes later.
                    let _committing = self.context().committing.lock();
                    self.context().begin(Arc::clone(topic), number, map);
                    self.context().publish();
                }
                if let Err(error) = self.read_from(topic, number, low) {
                    self.context().report(&error, "going on at the oldest record");
                }
            }
        }
    }

    /// Moves a partition whose fetching has stopped: seeking works only while it goes on.
    fn read_from(&self, topic: &str, number: i32, offset: i64) -> Result<(), ClientError> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, number, Offset::Offset(offset))?;
        self.consumer.incremental_unassign(&list)?;
        self.consumer.incremental_assign(&list)
    }

    /// Hands pending records to the partitions' queues; pauses and resumes partitions.
    fn hand_over(&self) {
        let mut pause = TopicPartitionList::new();
        let mut resume = TopicPartitionList::new();
        {
            let mut slots = self.context().slots.lock();
            let most_bytes = pause_bytes(slots.iter().count());
            for slot in slots.iter_mut() {
                if !slot.pending.is_empty() {
                    match slot.queue.try_send(std::mem::take(&mut slot.pending)) {
                        Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
                        Err(mpsc::error::TrySendError::Full(records)) => slot.pending = records,
                    }
                }
                let (records, bytes) = slot.partition.queued();
                let full = records >= PAUSE_RECORDS || bytes >= most_bytes;
                if full && !slot.paused {
                    slot.paused = true;
                    pause.add_partition(slot.partition.topic(), slot.partition.number());
                } else if slot.paused && records < RESUME_RECORDS && bytes < most_bytes / 2 {
                    slot.paused = false;
                    resume.add_partition(slot.partition.topic(), slot.partition.number());
                }
            }
        }
        if pause.count() > 0
            && let Err(error) = self.consumer.pause(&pause)
        {
            self.context().report(&error, "pausing");
        }
        if resume.count() > 0
            && let Err(error) = self.consumer.resume(&resume)
        {
            self.context().report(&error, "resuming");
        }
    }

    /// Completions that no commit covers yet.
    fn uncommitted(&self) -> u64 {
        let slots = self.context().slots.lock();
        slots.iter().map(|slot| slot.partition.tracker().lock().uncommitted()).sum()
    }

    /// Stops fetching, waits for what is under way, commits and leaves the group.
    fn shut_down(self) {
        let partitions = self.context().slots.lock().partitions();
        if let Ok(assignment) = self.consumer.assignment()
            && assignment.count() > 0
        {
            // What is fetched from now on is thrown away, so pausing only saves work.
            let _ = self.consumer.pause(&assignment);
        }
        for partition in &partitions {
            partition.release();
        }
        self.context().events.released(&partitions);
        let deadline = Instant::now() + self.grace;
        while Instant::now() < deadline && !partitions.iter().all(|partition| partition.is_quiet())
        {
            // The group must see that this member lives.
            if let Some(Err(error)) = self.consumer.poll(Duration::from_millis(20)) {
                self.context().report(&error, "while stopping");
            }
        }
        for partition in &partitions {
            partition.close();
        }
        let unfinished = partitions.iter().filter(|partition| !partition.is_quiet()).count();
        if unfinished > 0 {
            tracing::warn!(
                partitions = unfinished,
                "stopping with requests under way; they may repeat"
            );
        }
        self.context().commit_all(&self.consumer);
        self.consumer.unsubscribe();
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline && self.context().slots.lock().iter().next().is_some() {
            let _ = self.consumer.poll(Duration::from_millis(20));
        }
    }
}

/// Bytes that may wait for one partition's worker, when this instance has so many partitions.
fn pause_bytes(partitions: usize) -> usize {
    let part = MAX_QUEUED_BYTES / partitions.max(1);
    part.clamp(*PAUSE_BYTES.start(), *PAUSE_BYTES.end())
}
