//! What happens when the group gives partitions to this member or takes them, and the commit.

use std::{
    collections::HashMap,
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
    consumer::{
        BaseConsumer, CommitMode, Consumer, ConsumerContext, base_consumer::PartitionQueue,
    },
    error::{KafkaError as ClientError, RDKafkaErrorCode},
    types::RDKafkaRespErr,
    util::Timeout,
};

use super::{
    super::{
        Partition, bootstrap::Bootstrap, partition::revoke_grace, producer, statistics::Statistics,
    },
    GroupEvents, POLL, Shared,
    bell::Bell,
    slots::{Key, Slots},
};
use crate::{
    metrics::ClientMetrics,
    offsets::{CompletionMap, Tracker},
};

/// What the client library has fetched for one partition.
pub struct Fetched {
    /// Its queue.
    pub(super) queue: PartitionQueue<GroupContext>,
    /// False only while the queue is empty: the library tells when it gets its first record.
    pub(super) has_some: Arc<AtomicBool>,
}

/// What the client library calls back, on the thread that polls it.
pub struct GroupContext {
    pub(super) events: Arc<dyn GroupEvents>,
    pub(super) metrics: ClientMetrics,
    pub(super) shared: Arc<Shared>,
    pub(super) slots: Mutex<Slots<Fetched>>,
    /// Rings when a partition gets something to read.
    pub(super) bell: Arc<Bell>,
    /// The consumer that this is the context of.
    pub(super) consumer: OnceLock<Weak<BaseConsumer<Self>>>,
    /// Held during a commit, and from the last commit of partitions that are given up until they
    /// are gone: no commit overtakes the revocation of its partition.
    pub(super) committing: Mutex<()>,
    pub(super) session_timeout: Duration,
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
            statistics.show_lag(&partition, &self.metrics);
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
    pub(super) fn begin(&self, topic: Arc<str>, number: i32, map: CompletionMap) {
        // Before the new queue is there: both are the same to the client library, and letting go of
        // the old one ends the wakeups of the new one.
        self.slots.lock().remove(&(Arc::clone(&topic), number));
        let Some(fetched) = self.split(&topic, number) else {
            let why = format!("the client library has no queue for {topic} [{number}]");
            tracing::error!("{why}; restart this instance");
            *self.shared.fatal.lock() = Some(why);
            return;
        };
        let partition = Arc::new(Partition::new(topic, number, Tracker::new(map)));
        let assigned = self.slots.lock().insert(partition, fetched);
        self.events.assigned(assigned);
    }

    /// A queue for what is fetched for this partition. Asked for before the partition is assigned,
    /// it gets all of it.
    fn split(&self, topic: &str, number: i32) -> Option<Fetched> {
        let consumer = self.consumer.get()?.upgrade()?;
        let mut queue = consumer.split_partition_queue(topic, number)?;
        let has_some = Arc::new(AtomicBool::new(true));
        let (fills, bell) = (Arc::clone(&has_some), Arc::clone(&self.bell));
        queue.set_nonempty_callback(move || {
            fills.store(true, Ordering::Release);
            bell.ring();
        });
        Some(Fetched { queue, has_some })
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

    pub(super) fn publish(&self) {
        *self.shared.partitions.lock() = self.slots.lock().partitions();
    }

    /// Commits what the trackers say of all partitions.
    pub(super) fn commit_all(&self, consumer: &BaseConsumer<Self>) {
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
