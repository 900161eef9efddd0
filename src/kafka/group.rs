//! The consumer of a group: one thread polls the client library and does nothing else. It takes
//! records from the library's queue of each partition to the bounded queue of its worker, and lets
//! partitions go in order when the group rebalances. A second thread commits what the trackers say
//! and waits for the broker's answers.

mod bell;
mod commit;
mod context;
mod slots;

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use commit::Committer;
use context::{Fetched, GroupContext};
use parking_lot::Mutex;
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError as ClientError, RDKafkaErrorCode},
    message::Message,
};
use slots::{Room, Slots};
use tokio::sync::mpsc;

use super::{
    Connection, FETCH_QUEUE_BACKOFF, KafkaError, Partition, Record, bootstrap::Bootstrap,
    statistics,
};
use crate::{metrics::ClientMetrics, offsets::CompletionMap};

/// The most records that are taken for a partition before the others get their turn.
const MAX_TURN: usize = 128;
/// How often the thread looks for a rebalance while there is nothing to read.
const POLL: Duration = Duration::from_millis(20);
/// While a partition is full, the thread looks more often whether it can go on.
const POLL_FULL: Duration = Duration::from_millis(5);
/// How often the thread looks into queues that are empty as far as was told.
const LOOK_EVERYWHERE: Duration = Duration::from_millis(100);
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
            bell: Arc::default(),
            bootstrap: Bootstrap::new(connection),
            consumer: OnceLock::new(),
            committing: Mutex::new(()),
            session_timeout: connection
                .property(SESSION_TIMEOUT_MS)
                .and_then(|ms| ms.parse().ok())
                .map_or(SESSION_TIMEOUT, Duration::from_millis),
        };
        let session_ms = SESSION_TIMEOUT.as_millis().to_string();
        let consumer: Arc<BaseConsumer<GroupContext>> = connection
            .client(&[
                ("group.id", &options.group),
                ("partition.assignment.strategy", "cooperative-sticky"),
                ("enable.auto.commit", "false"),
                ("enable.auto.offset.store", "false"),
                // A first start names its offsets; an offset out of range is reported, not hidden.
                ("auto.offset.reset", "error"),
                (SESSION_TIMEOUT_MS, &session_ms),
                ("max.poll.interval.ms", "300000"),
                // Of each partition, kept while its worker is behind.
                ("queued.max.messages.kbytes", "1024"),
                ("queued.min.messages", "1000"),
                FETCH_QUEUE_BACKOFF,
                ("fetch.wait.max.ms", "100"),
                ("fetch.message.max.bytes", "524288"),
                ("statistics.interval.ms", statistics::INTERVAL_MS),
                ("isolation.level", "read_committed"),
            ])
            .create_with_context(context)
            .map(Arc::new)
            .map_err(|e| KafkaError::settings(&e))?;
        // The first and only time, before anything is assigned.
        let _ = consumer.context().consumer.set(Arc::downgrade(&consumer));
        consumer.context().bootstrap.attach(consumer.client().native_ptr());
        let topics: Vec<&str> = options.topics.iter().map(String::as_str).collect();
        consumer.subscribe(&topics).map_err(|e| KafkaError::request(connection, &e))?;
        let grace = options.grace;
        let group = options.group.clone();
        let name = format!("kafka {group}");
        let polled = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name(name.chars().take(15).collect())
            .spawn(move || {
                let poller = Poller { consumer, grace };
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

struct Poller {
    consumer: Arc<BaseConsumer<GroupContext>>,
    grace: Duration,
}

impl Poller {
    fn run(self) {
        let mut last_commit = Instant::now();
        let mut last_look = Instant::now();
        let shared = Arc::clone(&self.context().shared);
        let committer = match self.committer() {
            Ok(committer) => committer,
            Err(error) => {
                *shared.fatal.lock() = Some(format!("cannot start a thread: {error}"));
                return;
            }
        };
        while !shared.stop.load(Ordering::Acquire) && shared.fatal.lock().is_none() {
            let everywhere = last_look.elapsed() >= LOOK_EVERYWHERE;
            if everywhere {
                last_look = Instant::now();
            }
            let wait = self.round(everywhere);
            let since = last_commit.elapsed();
            if since >= COMMIT_INTERVAL
                || (since >= LEAST_COMMIT_INTERVAL
                    && self.context().slots.lock().uncommitted() >= MAX_UNCOMMITTED)
            {
                match committer.ask() {
                    Ok(true) => last_commit = Instant::now(),
                    Ok(false) => {}
                    Err(error) => *shared.fatal.lock() = Some(error),
                }
            }
            if let Some(wait) = wait {
                self.context().bell.wait(wait);
            }
        }
        committer.stop();
        self.shut_down();
    }

    fn committer(&self) -> Result<Committer, io::Error> {
        let consumer = Arc::clone(&self.consumer);
        Committer::start(move || consumer.context().commit_all(&consumer))
    }

    fn context(&self) -> &GroupContext {
        self.consumer.context()
    }

    /// Takes what the library has fetched and the workers have room for; tells how long to wait
    /// when that was nothing.
    fn round(&self, everywhere: bool) -> Option<Duration> {
        self.serve(Duration::ZERO);
        // After a record that could not be taken, no later one may be.
        if self.context().shared.fatal.lock().is_some() {
            return None;
        }
        let (rooms, is_any_full) = self.context().slots.lock().rooms();
        let mut took = false;
        let mut failed = None;
        for room in rooms {
            // Before it is read: what comes while it is read is told again.
            if !room.fetched.has_some.swap(false, Ordering::AcqRel) && !everywhere {
                continue;
            }
            match Self::take(room) {
                Ok(any) => took |= any,
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        // It may begin partitions anew, so nobody reads the old ones any more.
        if let Some(error) = failed {
            self.consume_error(&error);
            return None;
        }
        match (took, is_any_full) {
            (true, _) => None,
            (false, true) => Some(POLL_FULL),
            (false, false) => Some(POLL),
        }
    }

    /// Serves what is no record: rebalances, errors, statistics.
    fn serve(&self, wait: Duration) {
        match self.consumer.poll(wait) {
            None => {}
            Some(Ok(message)) => {
                // All that is fetched for a partition goes to its own queue. Reading on would lose
                // this record; the next start reads it.
                let (topic, number) = (message.topic(), message.partition());
                let why = format!("a record of {topic} [{number}] came outside of its queue");
                tracing::error!("{why}; restart this instance");
                *self.context().shared.fatal.lock() = Some(why);
            }
            Some(Err(error)) => self.consume_error(&error),
        }
    }

    /// Takes records of one partition to its worker; false when there were none. What was read
    /// before an error is taken too.
    fn take(room: Room<Fetched>) -> Result<bool, ClientError> {
        let fetched = &room.fetched;
        let (mut records, mut bytes) = (Vec::new(), 0);
        // Nothing here is waited for, so one moment stands for all.
        let read_at = Instant::now();
        let most = room.records.min(MAX_TURN);
        let error = loop {
            if records.len() >= most || bytes >= room.bytes {
                fetched.has_some.store(true, Ordering::Release);
                break None;
            }
            match fetched.queue.poll(Duration::ZERO) {
                None => break None,
                Some(Ok(message)) => {
                    let record = Record::copy(&message, read_at);
                    bytes += record.size();
                    records.push(record);
                }
                Some(Err(error)) => {
                    fetched.has_some.store(true, Ordering::Release);
                    break Some(error);
                }
            }
        };
        let took = !records.is_empty();
        room.fill(records, bytes);
        error.map_or(Ok(took), Err)
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

    /// Takes nothing more, waits for what is under way, commits and leaves the group.
    fn shut_down(self) {
        let partitions = self.context().slots.lock().partitions();
        for partition in &partitions {
            partition.release();
        }
        self.context().events.released(&partitions);
        let deadline = Instant::now() + self.grace;
        while Instant::now() < deadline && !partitions.iter().all(|partition| partition.is_quiet())
        {
            // The group must see that this member lives.
            self.serve(POLL);
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
        while Instant::now() < deadline && !self.context().slots.lock().is_empty() {
            self.serve(POLL);
        }
    }
}

impl Drop for Poller {
    /// The partitions' queues keep the consumer alive, and a consumer that nobody polls keeps its
    /// partitions from the others for minutes; after a panic, too.
    fn drop(&mut self) {
        self.context().slots.lock().clear();
    }
}
