//! The consumer of a group: one thread polls the client library and does nothing else. It takes
//! records from the library's queue of each partition to the bounded queue of its worker, and lets
//! partitions go in order when the group rebalances. A second thread commits what the trackers say
//! and waits for the broker's answers.

mod commit;
mod context;
mod offsets;
mod poller;
mod slots;
mod watcher;

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use context::GroupContext;
use parking_lot::Mutex;
use poller::Poller;
use rdkafka::consumer::{BaseConsumer, Consumer};
use slots::Slots;
use tokio::sync::mpsc;

use super::{
    Connection, FETCH_QUEUE_BACKOFF, KafkaError, Partition, Record, bootstrap::Bootstrap,
    statistics,
};
use crate::metrics::ClientMetrics;

/// How often the thread looks for a rebalance while there is nothing to read.
const POLL: Duration = Duration::from_millis(20);
/// After so long without a sign of life the group gives a member's partitions away, unless
/// `kafka.properties` says otherwise.
const SESSION_TIMEOUT_MS: &str = "45000";
/// A partition with something to do in which nothing begins and nothing completes for so long
/// stands still: longer than any request and any wait of this program takes.
pub const STALLED_AFTER: Duration = Duration::from_secs(180);
/// How long the thread may take to end after its last deadline.
const END_LOOK: Duration = Duration::from_millis(10);

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
    /// How long what is under way may take when the group takes its partition.
    pub revoke_timeout: Duration,
    /// What operators see of it.
    pub metrics: ClientMetrics,
}

/// A running group consumer.
pub struct GroupConsumer {
    shared: Arc<Shared>,
    thread: thread::JoinHandle<()>,
}

/// Tells how a group consumer is.
#[derive(Clone)]
pub struct GroupHandle(Arc<Shared>);

impl GroupHandle {
    /// Whether the group has given this instance its share, which may be nothing.
    pub fn is_assigned(&self) -> bool {
        self.0.assigned_once.load(Ordering::Acquire)
    }

    /// Why the consumer stopped for good, if it did; or the partition whose worker has ended.
    pub fn fatal(&self) -> Option<String> {
        let fatal = self.0.fatal.lock().clone();
        fatal.or_else(|| {
            let partitions = self.0.partitions.lock();
            let failed = partitions.iter().find(|one| one.has_failed() && !one.is_released())?;
            Some(format!("the worker of {} [{}] has ended", failed.topic(), failed.number()))
        })
    }

    /// The partitions that this instance owns.
    pub fn partitions(&self) -> Vec<Arc<Partition>> {
        self.0.partitions.lock().clone()
    }

    /// Topics of which this instance found that they were created anew.
    pub fn replaced(&self) -> Vec<String> {
        self.0.replaced.lock().iter().cloned().collect()
    }

    /// Partitions that have something to do and have stood still for [`STALLED_AFTER`]; to be called
    /// every now and then.
    pub fn stalled(&self, now: Instant) -> Vec<Arc<Partition>> {
        let mut seen = self.0.seen.lock();
        let partitions = self.partitions();
        let mut next = BTreeMap::new();
        let mut stalled = Vec::new();
        for partition in partitions {
            let key = Arc::as_ptr(&partition) as usize;
            let steps = partition.steps();
            let since = match seen.get(&key) {
                Some((before, since)) if *before == steps && partition.has_work() => *since,
                _ => now,
            };
            next.insert(key, (steps, since));
            if now.saturating_duration_since(since) >= STALLED_AFTER {
                stalled.push(partition);
            }
        }
        *seen = next;
        stalled
    }
}

struct Shared {
    /// When this member is to have left the group.
    stop: OnceLock<Instant>,
    assigned_once: AtomicBool,
    fatal: Mutex<Option<String>>,
    partitions: Mutex<Vec<Arc<Partition>>>,
    replaced: Mutex<BTreeSet<String>>,
    /// By partition: its steps, and since when they are the same.
    seen: Mutex<BTreeMap<usize, (u64, Instant)>>,
}

impl Shared {
    /// The consumer cannot go on. The first reason stays.
    fn fail(&self, why: String) {
        self.fatal.lock().get_or_insert(why);
    }
}

impl GroupConsumer {
    /// Joins the group and starts polling.
    pub fn start(
        connection: &Connection,
        options: &GroupOptions,
        events: Arc<dyn GroupEvents>,
    ) -> Result<Self, KafkaError> {
        let shared = Arc::new(Shared {
            stop: OnceLock::new(),
            assigned_once: AtomicBool::new(false),
            fatal: Mutex::new(None),
            partitions: Mutex::default(),
            replaced: Mutex::default(),
            seen: Mutex::default(),
        });
        let context = GroupContext {
            group: options.group.clone(),
            events,
            metrics: options.metrics.clone(),
            shared: Arc::clone(&shared),
            slots: Mutex::new(Slots::default()),
            fetched: Arc::default(),
            completed: Arc::default(),
            bootstrap: Bootstrap::new(connection),
            consumer: OnceLock::new(),
            committing: Mutex::new(()),
            revocation: Mutex::new(None),
            revoke_timeout: options.revoke_timeout,
            leaving: AtomicBool::new(false),
            has_topic_ids: !connection.is_embedded(),
        };
        let consumer: Arc<BaseConsumer<GroupContext>> = connection
            .client(&[
                ("group.id", &options.group),
                ("partition.assignment.strategy", "cooperative-sticky"),
                ("enable.auto.commit", "false"),
                ("enable.auto.offset.store", "false"),
                // A first start names its offsets; an offset out of range is reported, not hidden.
                ("auto.offset.reset", "error"),
                ("session.timeout.ms", SESSION_TIMEOUT_MS),
                // A member hears of a rebalance with its next heartbeat: so long partitions of one
                // that left stand still.
                ("heartbeat.interval.ms", "1000"),
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
        let group = options.group.clone();
        let name = format!("kafka {group}");
        let polled = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name(name.chars().take(15).collect())
            .spawn(move || {
                let poller = Poller::new(consumer);
                // Silence would look like a topic without records.
                if catch_unwind(AssertUnwindSafe(|| poller.run())).is_err() {
                    tracing::error!(group, "the polling thread panicked; restart this instance");
                    polled.fail(format!("the consumer of {group} panicked"));
                }
            })
            .map_err(|e| KafkaError::Other(format!("cannot start a thread: {e}")))?;
        Ok(Self { shared, thread })
    }

    /// Something to ask how it is.
    pub fn handle(&self) -> GroupHandle {
        GroupHandle(Arc::clone(&self.shared))
    }

    /// Begins to stop: what is under way may end until the deadline, is committed as it ends, and
    /// then the group is left. The first deadline stays.
    pub fn stop(&self, deadline: Instant) {
        let _ = self.shared.stop.set(deadline);
    }

    /// Waits until the group is left, at most until this moment; whether it was. A broker that does
    /// not answer can keep the client library for longer.
    pub async fn stopped(self, until: Instant) -> bool {
        self.stop(until);
        while !self.thread.is_finished() {
            if Instant::now() >= until {
                return false;
            }
            tokio::time::sleep(END_LOOK).await;
        }
        true
    }
}

impl Drop for GroupConsumer {
    fn drop(&mut self) {
        self.stop(Instant::now());
    }
}
