//! The loop of the polling thread.

use std::{
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    Offset,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError as ClientError, RDKafkaErrorCode},
    message::Message,
};

use super::{
    super::{Partition, Record},
    POLL,
    commit::CommitLoop,
    context::{Fetched, GroupContext},
    offsets::is_member,
    slots::Room,
    watcher::{Answer, Watcher},
};
use crate::offsets::GoOn;

/// The most records that are taken for a partition before the others get their turn.
const MAX_TURN: usize = 128;
/// While a partition is full, the thread looks more often whether it can go on.
const POLL_FULL: Duration = Duration::from_millis(5);
/// How often the thread looks into queues that are empty as far as the library has said.
const LOOK_EVERYWHERE: Duration = Duration::from_millis(100);
/// How long leaving the group may take.
const LEAVE: Duration = Duration::from_secs(3);

/// Polls the client library for as long as it runs.
pub struct Poller {
    consumer: Arc<BaseConsumer<GroupContext>>,
}

/// The threads beside the polling one.
struct Helpers {
    commits: CommitLoop,
    watcher: Watcher,
}

impl Poller {
    /// Polls this consumer.
    pub const fn new(consumer: Arc<BaseConsumer<GroupContext>>) -> Self {
        Self { consumer }
    }

    /// Polls until it is to stop, then leaves the group.
    pub fn run(self) {
        let shared = Arc::clone(&self.context().shared);
        let helpers = match self.helpers() {
            Ok(helpers) => helpers,
            Err(error) => return shared.fail(format!("cannot start a thread: {error}")),
        };
        let mut last_look = Instant::now();
        while shared.stop.get().is_none() && shared.fatal.lock().is_none() {
            let everywhere = last_look.elapsed() >= LOOK_EVERYWHERE;
            if everywhere {
                last_look = Instant::now();
                if helpers.commits.has_failed() || helpers.watcher.has_failed() {
                    shared.fail("a thread beside the consumer panicked".to_owned());
                }
                self.context().finish_revocation(&self.consumer);
            }
            self.go_on(&helpers.watcher);
            if let Some(wait) = self.round(everywhere, &helpers.watcher) {
                self.context().fetched.wait(wait);
            }
        }
        let deadline = shared.stop.get().copied().unwrap_or_else(Instant::now);
        self.leave(helpers, deadline);
    }

    fn helpers(&self) -> Result<Helpers, std::io::Error> {
        let context = self.context();
        let (consumer, completed) =
            (Arc::downgrade(&self.consumer), Arc::clone(&context.completed));
        let commits = CommitLoop::start(completed, move || {
            if let Some(consumer) = consumer.upgrade() {
                consumer.context().commit_all(&consumer);
            }
        })?;
        let (consumer, shared) = (Arc::downgrade(&self.consumer), Arc::clone(&context.shared));
        let owned = move || shared.partitions.lock().clone();
        let watcher = Watcher::start(consumer, owned, Arc::clone(&context.fetched))?;
        Ok(Helpers { commits, watcher })
    }

    fn context(&self) -> &GroupContext {
        self.consumer.context()
    }

    /// Takes what the library has fetched and the workers have room for; returns how long to wait
    /// when that was nothing.
    fn round(&self, everywhere: bool, watcher: &Watcher) -> Option<Duration> {
        self.serve(Duration::ZERO);
        // After a record that could not be taken, no later one may be.
        if self.context().shared.fatal.lock().is_some() {
            return None;
        }
        let (rooms, is_any_full) = self.context().slots.lock().rooms();
        let mut took = false;
        for room in rooms {
            // Before it is read: what comes while it is read is signalled again.
            if !room.fetched.has_some.swap(false, Ordering::AcqRel) && !everywhere {
                continue;
            }
            let partition = Arc::clone(&room.partition);
            match Self::take(room) {
                Ok(any) => took |= any,
                Err(error) => self.partition_error(&error, partition, watcher),
            }
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
                self.context().shared.fail(why);
            }
            Some(Err(error)) => self.context().report(&error, "consuming"),
        }
    }

    /// Takes records of one partition to its worker; false when there were none. What was read
    /// before an error is taken too.
    fn take(room: Room<Fetched>) -> Result<bool, ClientError> {
        let fetched = &room.fetched;
        let (mut records, mut bytes) = (Vec::<Record>::new(), 0);
        let began = Instant::now();
        let most = room.records.min(MAX_TURN);
        let error = loop {
            if records.len() >= most || bytes >= room.bytes {
                fetched.has_some.store(true, Ordering::Release);
                break None;
            }
            match fetched.queue.poll(Duration::ZERO) {
                None => break None,
                Some(Ok(message)) => {
                    let record = Record::copy(&message, began);
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
        // Nothing here is waited for, so one moment stands for all: one after each was there.
        let read_at = Instant::now();
        for record in &mut records {
            record.set_read_at(read_at);
        }
        room.fill(records, bytes);
        error.map_or(Ok(took), Err)
    }

    /// An error that came with the records of a partition. When its position is not in the log, the
    /// library has stopped to fetch it and says so only once.
    fn partition_error(&self, error: &ClientError, partition: Arc<Partition>, watcher: &Watcher) {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                watcher.ask(partition);
            }
            _ => self.context().report(error, "consuming"),
        }
    }

    /// Goes on with partitions of which the brokers have said what became of them.
    fn go_on(&self, watcher: &Watcher) {
        for answer in watcher.answers() {
            match answer {
                Answer::NewTopic(partition, id) if self.is_current(&partition) => {
                    self.context().restart(&self.consumer, &partition, id);
                }
                Answer::Ends { partition, ends, is_same } if self.is_current(&partition) => {
                    self.go_on_with(&partition, ends, is_same);
                }
                _ => {}
            }
        }
    }

    /// Whether a partition is still the one that this member reads.
    fn is_current(&self, partition: &Arc<Partition>) -> bool {
        let partitions = self.context().slots.lock().partitions();
        !partition.is_released() && partitions.iter().any(|one| Arc::ptr_eq(one, partition))
    }

    fn go_on_with(&self, partition: &Arc<Partition>, ends: (i64, i64), is_same: Option<bool>) {
        let (context, consumer) = (self.context(), &self.consumer);
        let (topic, number) = (Arc::clone(partition.topic()), partition.number());
        let position = partition.read_to().unwrap_or(ends.0);
        let at = |offset| context.read_from(consumer, &topic, number, Offset::Offset(offset));
        match GoOn::of(position, ends.0, ends.1, is_same) {
            GoOn::Here(offset) => at(offset),
            GoOn::Deleted { oldest, missed } => {
                tracing::error!(
                    group = context.group, %topic, partition = number, position, oldest, missed,
                    "records were deleted before they were read; going on at the oldest record"
                );
                context.metrics.out_of_range();
                at(oldest);
            }
            GoOn::CutShort(end) => {
                tracing::error!(
                    group = context.group, %topic, partition = number, position, end,
                    "the log became shorter than what was read of it (unclean leader election?); \
                     going on at its end"
                );
                context.metrics.out_of_range();
                context.cut_short(consumer, partition, end);
            }
            GoOn::NewTopic => context.restart(consumer, partition, None),
        }
    }

    /// Takes nothing more, lets end what is under way, commits as it ends, and leaves the group.
    fn leave(self, helpers: Helpers, deadline: Instant) {
        let context = self.context();
        let partitions = context.slots.lock().partitions();
        for partition in &partitions {
            partition.release();
        }
        context.events.released(&partitions);
        // The group must see that this member lives; the commit loop goes on.
        while Instant::now() + LEAVE < deadline && !partitions.iter().all(|one| one.is_quiet()) {
            self.serve(POLL);
            context.finish_revocation(&self.consumer);
        }
        for partition in &partitions {
            partition.close();
        }
        let unfinished = partitions.iter().filter(|partition| !partition.is_quiet()).count();
        if unfinished > 0 {
            tracing::warn!(
                group = context.group,
                partitions = unfinished,
                "stopping with requests under way, which may repeat"
            );
        }
        context.leaving.store(true, Ordering::Release);
        let Helpers { commits, watcher } = helpers;
        commits.stop();
        context.commit_all(&self.consumer);
        context.finish_revocation(&self.consumer);
        self.consumer.unsubscribe();
        // The request to leave is sent when the last partition is handed back. A consumer that is
        // dropped before never sends it, and the group waits for a member that is gone.
        let leaving_until = Instant::now() + LEAVE;
        while Instant::now() < leaving_until
            && (!context.slots.lock().is_empty() || is_member(&self.consumer))
        {
            self.serve(POLL);
        }
        if is_member(&self.consumer) {
            tracing::warn!(
                group = context.group,
                "the group could not be left; it notices after the session timeout"
            );
        }
        // It may hold the consumer for the length of a request, and must not be the last to.
        let watching = watcher.ends();
        while !watching.is_finished() && Instant::now() < leaving_until {
            thread::sleep(POLL);
        }
    }
}

impl Drop for Poller {
    /// The partitions' queues keep the consumer alive, and a consumer that nothing polls keeps its
    /// partitions from the others for minutes; after a panic, too.
    fn drop(&mut self) {
        self.context().slots.lock().clear();
    }
}
