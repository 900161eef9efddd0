//! What happens when the group gives partitions to this member or takes them, and the commit.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rdkafka::{
    ClientContext, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext, base_consumer::PartitionQueue},
    error::{KafkaError as ClientError, RDKafkaErrorCode},
    topic_partition_list::TopicPartitionListElem,
    types::RDKafkaRespErr,
    util::Timeout,
};

use super::{
    super::{
        Partition, TopicFacts, bootstrap::Bootstrap, identity, producer, statistics::Statistics,
        wakeup::Wakeup,
    },
    GroupEvents, POLL, Shared,
    slots::{Key, Slots},
    watcher::{Broker, Ends},
};
use crate::{
    id::TopicId,
    metrics::ClientMetrics,
    offsets::{CompletionMap, Start, Tracker},
};

/// How long an answer may take that a rebalance waits for.
const ANSWER: Duration = Duration::from_secs(5);
/// The same where nothing waits.
const WATCH_ANSWER: Duration = Duration::from_secs(2);

/// What the client library has fetched for one partition.
pub struct Fetched {
    /// Its queue.
    pub(super) queue: PartitionQueue<GroupContext>,
    /// False only while the queue is empty: the library tells when it gets its first record.
    pub(super) has_some: Arc<AtomicBool>,
}

/// Partitions that the group takes, until what is under way for them has ended.
pub(super) struct Revocation {
    list: TopicPartitionList,
    partitions: Vec<Arc<Partition>>,
    deadline: Instant,
}

/// What the client library calls back, on the thread that polls it.
pub struct GroupContext {
    pub(super) group: String,
    pub(super) events: Arc<dyn GroupEvents>,
    pub(super) metrics: ClientMetrics,
    pub(super) shared: Arc<Shared>,
    pub(super) slots: Mutex<Slots<Fetched>>,
    /// Rings when a partition gets something to read.
    pub(super) fetched: Arc<Wakeup>,
    /// Rings when something completes.
    pub(super) completed: Arc<Wakeup>,
    /// The consumer that this is the context of.
    pub(super) consumer: OnceLock<Weak<BaseConsumer<Self>>>,
    /// Held during a commit, and from the last commit of partitions that are given up until they
    /// are gone: no commit overtakes the revocation of its partition.
    pub(super) committing: Mutex<()>,
    /// At most one at a time: the group waits for it.
    pub(super) revocation: Mutex<Option<Revocation>>,
    /// How long what is under way may take when the group takes its partition.
    pub(super) revoke_timeout: Duration,
    /// This member leaves: what is under way has had its time.
    pub(super) leaving: AtomicBool,
    /// Whether the broker knows topic ids.
    pub(super) has_topic_ids: bool,
    pub(super) bootstrap: Bootstrap,
}

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        producer::log(level, facility, message);
    }

    fn error(&self, error: ClientError, reason: &str) {
        self.report(&error, reason);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        let Some(statistics) = Statistics::parse(statistics) else { return };
        statistics.show(&self.metrics);
        self.bootstrap.mend(&statistics);
        for partition in self.slots.lock().partitions() {
            statistics.look_at(&partition, &self.metrics);
        }
    }
}

impl GroupContext {
    pub(super) fn report(&self, error: &ClientError, reason: &str) {
        let code = error.rdkafka_error_code();
        let name = code.map_or_else(|| "unknown".to_owned(), |code| format!("{code:?}"));
        self.metrics.error(&name);
        match code {
            Some(RDKafkaErrorCode::Fatal) => {
                tracing::error!(%error, reason, "the Kafka consumer cannot go on; restart it");
                self.shared.fail(format!("{error}: {reason}"));
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
        let topics = self.topics(consumer, list);
        for mut element in list.elements() {
            let (topic, number): (Arc<str>, i32) = (element.topic().into(), element.partition());
            let id = topics.get(topic.as_ref()).and_then(|facts| facts.id);
            let key = (Arc::clone(&topic), number);
            let offset = match &committed {
                // Where it is not known what is committed, the library asks once more by itself.
                None => {
                    self.begin(topic, number, Tracker::new(CompletionMap::default()));
                    Offset::Stored
                }
                Some(known) => {
                    let known = known.get(&key).map(|(offset, text)| (*offset, text.as_str()));
                    let start = Start::of(known, id);
                    self.begin_at(topic, number, start, id, known.map_or("", |(_, text)| text))
                }
            };
            // The list and the offset are valid, so setting it cannot fail.
            let _ = element.set_offset(offset);
        }
    }

    /// Starts on a partition; returns where it is read from.
    fn begin_at(
        &self,
        topic: Arc<str>,
        number: i32,
        start: Start,
        id: Option<TopicId>,
        metadata: &str,
    ) -> Offset {
        let (offset, mut tracker) = match start {
            Start::Resume { offset, map, topic: known, damage } => {
                if let Some(error) = damage {
                    tracing::warn!(
                        %topic, partition = number, %error,
                        "commit metadata cannot be read: some deliveries may repeat"
                    );
                }
                let mut tracker = Tracker::resume(offset, map, metadata.to_owned());
                tracker.identify(known);
                (Offset::Offset(offset), tracker)
            }
            Start::First => self.oldest(&topic, number),
            Start::NewTopic => {
                self.replaced(&topic, number);
                self.oldest(&topic, number)
            }
        };
        tracker.identify(id);
        self.begin(topic, number, tracker);
        offset
    }

    /// The oldest record of a partition as a position; where that cannot be asked, it shows with the
    /// first record.
    fn oldest(&self, topic: &str, number: i32) -> (Offset, Tracker) {
        let consumer = self.consumer.get().and_then(Weak::upgrade);
        let ends = consumer.and_then(|c| c.fetch_watermarks(topic, number, ANSWER).ok());
        match ends {
            Some((oldest, _)) => (Offset::Offset(oldest), Tracker::begin_at(oldest)),
            None => (Offset::Beginning, Tracker::new(CompletionMap::default())),
        }
    }

    /// A topic's name stands for another topic than the one that was read.
    fn replaced(&self, topic: &Arc<str>, number: i32) {
        tracing::error!(
            group = self.group, %topic, partition = number,
            "the topic was created anew: it is read from its beginning, and nothing that was \
             committed for the old one counts"
        );
        self.metrics.topic_replaced(topic);
        self.shared.replaced.lock().insert(topic.to_string());
    }

    /// Begins a partition of a topic that was created anew while it was read.
    pub(super) fn restart(
        &self,
        consumer: &BaseConsumer<Self>,
        old: &Arc<Partition>,
        id: Option<TopicId>,
    ) {
        let (topic, number) = (Arc::clone(old.topic()), old.number());
        let offset = {
            // No commit of the old log's offsets comes later.
            let _committing = self.committing.lock();
            old.release();
            old.close();
            self.events.released(std::slice::from_ref(old));
            self.begin_at(Arc::clone(&topic), number, Start::NewTopic, id, "")
        };
        self.publish();
        self.read_from(consumer, &topic, number, offset);
    }

    /// Begins a partition whose log became shorter: what is not done up to `end` is read again.
    pub(super) fn cut_short(&self, consumer: &BaseConsumer<Self>, old: &Arc<Partition>, end: i64) {
        let (topic, number) = (Arc::clone(old.topic()), old.number());
        let from = {
            let _committing = self.committing.lock();
            old.release();
            old.close();
            self.events.released(std::slice::from_ref(old));
            let tracker = old.tracker().lock();
            let from = tracker.watermark().unwrap_or(end).min(end);
            let mut next = Tracker::begin_at(from);
            next.identify(tracker.topic());
            drop(tracker);
            self.begin(Arc::clone(&topic), number, next);
            from
        };
        self.publish();
        self.read_from(consumer, &topic, number, Offset::Offset(from));
    }

    /// Moves a partition whose fetching has stopped: seeking works only while it goes on.
    pub(super) fn read_from(
        &self,
        consumer: &BaseConsumer<Self>,
        topic: &str,
        number: i32,
        offset: Offset,
    ) {
        let mut list = TopicPartitionList::new();
        let moved = list
            .add_partition_offset(topic, number, offset)
            .and_then(|()| consumer.incremental_unassign(&list))
            .and_then(|()| consumer.incremental_assign(&list));
        if let Err(error) = moved {
            self.report(&error, "going on with a partition");
        }
    }

    /// Starts on a partition with a tracker of its own. One that was there is let go of without a
    /// word: what was read for it is finished, and changes nothing for the new one.
    fn begin(&self, topic: Arc<str>, number: i32, tracker: Tracker) {
        // Before the new queue is there: both are the same to the client library, and letting go of
        // the old one ends the wakeups of the new one.
        self.slots.lock().remove(&(Arc::clone(&topic), number));
        let Some(fetched) = self.split(&topic, number) else {
            let why = format!("the client library has no queue for {topic} [{number}]");
            tracing::error!("{why}; restart this instance");
            self.shared.fail(why);
            return;
        };
        self.metrics.reads_topic(&topic);
        let partition = Arc::new(Partition::new(topic, number, tracker));
        partition.wakes(Arc::clone(&self.completed));
        let assigned = self.slots.lock().insert(partition, fetched);
        self.events.assigned(assigned);
        // Where reading begins is committed before anything is read.
        self.completed.ring();
    }

    /// A queue for what is fetched for this partition. Asked for before the partition is assigned,
    /// it gets all of it.
    fn split(&self, topic: &str, number: i32) -> Option<Fetched> {
        let consumer = self.consumer.get()?.upgrade()?;
        let mut queue = consumer.split_partition_queue(topic, number)?;
        let has_some = Arc::new(AtomicBool::new(true));
        let (fills, fetched) = (Arc::clone(&has_some), Arc::clone(&self.fetched));
        queue.set_nonempty_callback(move || {
            fills.store(true, Ordering::Release);
            fetched.ring();
        });
        Some(Fetched { queue, has_some })
    }

    fn topics(
        &self,
        consumer: &BaseConsumer<Self>,
        list: &TopicPartitionList,
    ) -> BTreeMap<String, TopicFacts> {
        if !self.has_topic_ids {
            return BTreeMap::new();
        }
        let elements = list.elements();
        let names: BTreeSet<&str> = elements.iter().map(TopicPartitionListElem::topic).collect();
        let names: Vec<&str> = names.into_iter().collect();
        identity::describe(consumer.client().native_ptr(), &names, ANSWER).unwrap_or_else(|code| {
            tracing::warn!(group = self.group, %code, "the ids of topics are not known yet");
            BTreeMap::new()
        })
    }

    /// The committed offsets with their metadata; `None` when the broker did not answer.
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
            match consumer.committed_offsets(asked.clone(), ANSWER) {
                Ok(found) => {
                    let offsets = found.elements().into_iter().filter_map(|element| {
                        let Offset::Offset(offset) = element.offset() else { return None };
                        // The library panics on metadata that is not UTF-8; another tool may have
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

    /// The group takes partitions. Nothing more starts for them; what is under way may end while
    /// the other partitions go on, and the group waits for it.
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
        if keys.is_empty() {
            return;
        }
        let deadline = Instant::now() + self.revoke_timeout;
        let revocation = Revocation { list: list.clone(), partitions, deadline };
        *self.revocation.lock() = Some(revocation);
        self.finish_revocation(consumer);
    }

    /// Hands partitions back that the group takes, once nothing is under way for them.
    pub(super) fn finish_revocation(&self, consumer: &BaseConsumer<Self>) {
        let lost = consumer.assignment_lost();
        let is_over = |revocation: &mut Revocation| {
            lost || self.leaving.load(Ordering::Acquire)
                || Instant::now() >= revocation.deadline
                || revocation.partitions.iter().all(|partition| partition.is_quiet())
        };
        let Some(revocation) = self.revocation.lock().take_if(is_over) else { return };
        let unfinished = revocation.partitions.iter().filter(|one| !one.is_quiet()).count();
        if unfinished > 0 && !lost {
            tracing::warn!(
                group = self.group,
                partitions = unfinished,
                "partitions are given away with requests under way, which may repeat"
            );
        }
        for partition in &revocation.partitions {
            partition.close();
        }
        {
            let _committing = self.committing.lock();
            if !lost {
                self.commit(consumer, &revocation.partitions);
            }
            let mut slots = self.slots.lock();
            for partition in &revocation.partitions {
                slots.remove(&(Arc::clone(partition.topic()), partition.number()));
                self.metrics.forget_lag(partition.topic(), partition.number());
            }
        }
        if let Err(error) = consumer.incremental_unassign(&revocation.list) {
            self.report(&error, "unassign");
        }
        self.publish();
    }

    pub(super) fn publish(&self) {
        *self.shared.partitions.lock() = self.slots.lock().partitions();
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
        let (group, partitions) = (&self.group, list.count());
        match code {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                tracing::info!(group, partitions, "partitions assigned");
                self.assign(consumer, list);
            }
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS => {
                tracing::info!(group, partitions, "partitions revoked");
                self.revoke(consumer, list);
            }
            other => {
                tracing::warn!(group, code = ?other, "rebalance failed; the group tries again");
                self.revoke(consumer, list);
            }
        }
    }

    fn main_queue_min_poll_interval(&self) -> Timeout {
        Timeout::After(POLL)
    }
}

impl Broker for Weak<BaseConsumer<GroupContext>> {
    fn topics(&self, names: &[&str]) -> Option<BTreeMap<String, TopicFacts>> {
        let consumer = self.upgrade()?;
        if !consumer.context().has_topic_ids {
            return Some(BTreeMap::new());
        }
        identity::describe(consumer.client().native_ptr(), names, WATCH_ANSWER).ok()
    }

    fn ends(&self, topic: &str, partition: i32) -> Option<Ends> {
        let consumer = self.upgrade()?;
        consumer.fetch_watermarks(topic, partition, WATCH_ANSWER).ok()
    }
}
