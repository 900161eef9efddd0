//! Feeds the view: reads the state topic on a thread of its own and applies it in batches.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use tokio::sync::watch;

use super::{COMMAND_ID, COMMAND_OFFSET, COMMANDS_TOPIC};
use crate::{
    clock::{self, Timestamp},
    codec::{Codec, ReadError, RecordKind},
    connector::{StateKey, StateRecord, partition_of},
    id::CommandId,
    kafka::{Admin, Connection, KafkaError, Offset, Reader, ReaderEvent, Record},
    metrics::Metrics,
    view::{Freshness, MAX_STANDSTILL, View},
};

/// Records applied in one atomic batch. A restore is quickest when a batch is much longer than the
/// list of remembered commands, of which only the end is written.
const MAX_BATCH: usize = 10_000;
/// Bytes of records in one batch, so that a batch of large ones stays small too.
const MAX_BATCH_BYTES: usize = 16 << 20;
const POLL: Duration = Duration::from_millis(100);
const LAG_INTERVAL: Duration = Duration::from_secs(5);
/// How often it is written down that the view has everything.
const COMPLETE_INTERVAL: Duration = Duration::from_secs(60);

/// The thread that feeds the view.
pub struct ViewFeed {
    caught_up: watch::Receiver<bool>,
    stop: Arc<AtomicBool>,
    failed: Arc<Mutex<Option<String>>>,
    belonging: i32,
}

impl ViewFeed {
    /// Starts feeding. The view must belong to the cluster behind the connection. Projects belong to
    /// one of the first `belonging` partitions, or of all when nothing is said.
    pub fn start(
        connection: &Connection,
        topic: &str,
        view: Arc<View>,
        codec: Codec,
        metrics: Arc<Metrics>,
        belonging: Option<i32>,
    ) -> Result<Self, KafkaError> {
        let partitions = Admin::new(connection)?.partitions(topic)?;
        if partitions == 0 {
            return Err(KafkaError::TopicMissing(topic.to_owned()));
        }
        let belonging = belonging.unwrap_or(partitions);
        if belonging > partitions {
            return Err(KafkaError::Other(format!(
                "topics.state_partitions is {belonging}, but topic {topic} has {partitions}"
            )));
        }
        let from: BTreeMap<i32, Offset> =
            (0..partitions).map(|p| (p, start_of(view.position(p).next_offset))).collect();
        let reader = Reader::new(connection, topic, &from)?;
        let stored = |error| KafkaError::Other(format!("the view cannot be read: {error}"));
        let complete_at = view.complete_at().map_err(stored)?;
        let mut freshness = Freshness::new(complete_at);
        let (asked_at, mut ends) = (clock::now(), BTreeMap::new());
        for partition in 0..partitions {
            ends.insert(partition, reader.watermarks(partition)?.1);
        }
        freshness.ask(asked_at, ends);
        let (tell, caught_up) = watch::channel(false);
        let stop = Arc::new(AtomicBool::new(false));
        let failed = Arc::new(Mutex::new(None));
        let feeder = Feeder {
            reader,
            view,
            codec,
            metrics,
            freshness,
            complete_written: complete_at,
            tell,
            stop: Arc::clone(&stop),
            last_lag: Instant::now(),
            partitions,
            belonging,
        };
        let failure = Arc::clone(&failed);
        thread::Builder::new()
            .name("view".to_owned())
            .spawn(move || {
                // The store may panic where it should report, for example when its disk is full.
                let fed = catch_unwind(AssertUnwindSafe(|| feeder.run()));
                let fed = fed.unwrap_or_else(|_| Err("the view's thread panicked".to_owned()));
                if let Err(error) = fed {
                    tracing::error!(error, "the view cannot be fed; restart this instance");
                    *failure.lock() = Some(error);
                }
            })
            .map_err(|error| KafkaError::Other(format!("cannot start a thread: {error}")))?;
        Ok(Self { caught_up, stop, failed, belonging })
    }

    /// Waits until the view has everything that was in the topic when this program started.
    pub async fn caught_up(&self) {
        let mut caught_up = self.caught_up.clone();
        // The sender lives as long as the thread; when it failed, `failure` tells.
        let _ = caught_up.wait_for(|done| *done).await;
    }

    /// Whether the view has caught up.
    pub fn is_caught_up(&self) -> bool {
        *self.caught_up.borrow()
    }

    /// Why feeding stopped for good, if it did.
    pub fn failure(&self) -> Option<String> {
        self.failed.lock().clone()
    }

    /// Over how many partitions the projects are spread.
    pub fn partitions(&self) -> i32 {
        self.belonging
    }
}

impl Drop for ViewFeed {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

/// An offset of zero is the beginning, wherever that is by now.
fn start_of(next_offset: i64) -> Offset {
    if next_offset == 0 { Offset::Beginning } else { Offset::Offset(next_offset) }
}

struct Feeder {
    reader: Reader,
    view: Arc<View>,
    codec: Codec,
    metrics: Arc<Metrics>,
    /// Asked first when it is started, then again and again.
    freshness: Freshness,
    complete_written: Timestamp,
    tell: watch::Sender<bool>,
    stop: Arc<AtomicBool>,
    last_lag: Instant,
    partitions: i32,
    belonging: i32,
}

impl Feeder {
    fn run(mut self) -> Result<(), String> {
        // There may be nothing new for a long time.
        self.show_counts();
        self.reached_all()?;
        let mut batch: BTreeMap<i32, Vec<Record>> = BTreeMap::new();
        let (mut count, mut bytes) = (0, 0);
        while !self.stop.load(Ordering::Acquire) {
            let wait = if count == 0 { POLL } else { Duration::ZERO };
            match self.reader.poll(wait) {
                ReaderEvent::Record(record) => {
                    count += 1;
                    bytes += record.size();
                    batch.entry(record.partition).or_default().push(record);
                    if count < MAX_BATCH && bytes < MAX_BATCH_BYTES {
                        continue;
                    }
                    if !self.apply(&mut batch)? {
                        return Ok(());
                    }
                    (count, bytes) = (0, 0);
                }
                ReaderEvent::End { partition, next_offset } => {
                    if !self.apply(&mut batch)? {
                        return Ok(());
                    }
                    (count, bytes) = (0, 0);
                    self.reached(partition, next_offset)?;
                }
                ReaderEvent::Idle => {
                    if !self.apply(&mut batch)? {
                        return Ok(());
                    }
                    (count, bytes) = (0, 0);
                }
                ReaderEvent::OutOfRange => {
                    return Err(
                        "the state topic does not have the records that the view continues from; \
                         it was made anew"
                            .to_owned(),
                    );
                }
                ReaderEvent::Trouble(error) => {
                    tracing::warn!(error, "reading the state topic");
                    thread::sleep(POLL);
                }
            }
            self.look_around()?;
        }
        Ok(())
    }

    /// False when it was told to stop before all was applied.
    fn apply(&mut self, batch: &mut BTreeMap<i32, Vec<Record>>) -> Result<bool, String> {
        for (partition, records) in std::mem::take(batch) {
            let Some(last) = records.last() else { continue };
            let next_offset = last.offset + 1;
            let total = records.len();
            let mut states = Vec::with_capacity(total);
            for record in records {
                match self.read(record) {
                    Ok(state) => states.extend(state),
                    Err(Stopped) => return Ok(false),
                }
            }
            let skipped = total - states.len();
            for state in &states {
                check_belongs(&state.key, partition, self.belonging)?;
            }
            let applied = self
                .view
                .apply(partition, &states, next_offset)
                .map_err(|error| format!("the view cannot be written: {error}"))?;
            if applied.unreadable + skipped > 0 {
                tracing::error!(
                    partition,
                    records = applied.unreadable + skipped,
                    "state records that cannot be read were left out: a newer version wrote them; upgrade \
                     this instance and delete its data_dir"
                );
                self.metrics.view_unreadable(applied.unreadable + skipped);
            }
            self.is_at(partition, next_offset)?;
        }
        self.show_counts();
        Ok(true)
    }

    fn show_counts(&self) {
        let (connectors, projects) = self.view.counts();
        let count = |n| usize::try_from(n).unwrap_or(usize::MAX);
        self.metrics.set_view(count(connectors), count(projects));
        self.metrics.set_suspended(&self.view.suspended());
    }

    /// The state in a record; nothing when it cannot be read.
    fn read(&self, record: Record) -> Result<Option<StateRecord>, Stopped> {
        let Some(mut state) = read_headers(&record) else { return Ok(None) };
        let Some(value) = record.value else { return Ok(Some(state)) };
        let stopping = || self.stop.load(Ordering::Acquire);
        match self.codec.decode_blocking(RecordKind::State, &value, stopping) {
            Ok(json) => state.value = Some(json.to_vec()),
            Err(ReadError::GivenUp) => return Err(Stopped),
            Err(ReadError::Refused(reason, detail)) => {
                tracing::error!(key = %state.key, %reason, detail, "a state record");
                return Ok(None);
            }
        }
        Ok(Some(state))
    }

    fn reached(&mut self, partition: i32, next_offset: i64) -> Result<(), String> {
        if self.view.position(partition).next_offset < next_offset {
            self.view
                .set_position(partition, next_offset)
                .map_err(|error| format!("the view cannot be written: {error}"))?;
        }
        self.is_at(partition, next_offset)
    }

    fn reached_all(&mut self) -> Result<(), String> {
        for partition in 0..self.partitions {
            self.is_at(partition, self.view.position(partition).next_offset)?;
        }
        Ok(())
    }

    fn is_at(&mut self, partition: i32, next_offset: i64) -> Result<(), String> {
        let Some(complete_at) = self.freshness.reached(partition, next_offset) else {
            return Ok(());
        };
        if complete_at.since(self.complete_written) >= COMPLETE_INTERVAL {
            self.view
                .set_complete_at(complete_at)
                .map_err(|error| format!("the view cannot be written: {error}"))?;
            self.complete_written = complete_at;
        }
        if !*self.tell.borrow() {
            let (connectors, projects) = self.view.counts();
            tracing::info!(connectors, projects, "the view has caught up");
            let _ = self.tell.send(true);
        }
        Ok(())
    }

    /// Now and then: whether the view is fresh, how far it is behind, and how large.
    fn look_around(&mut self) -> Result<(), String> {
        if self.last_lag.elapsed() < LAG_INTERVAL {
            return Ok(());
        }
        self.last_lag = Instant::now();
        let now = clock::now();
        if self.freshness.is_stale(now) {
            return Err(format!(
                "the view did not have everything for more than {} hours, because this instance or \
                 Kafka stood still, and the state topic does not keep for ever what was deleted; \
                 the view is rebuilt when this instance starts again",
                MAX_STANDSTILL.as_secs() / 3600
            ));
        }
        let (mut lag, mut ends) = (0, BTreeMap::new());
        for partition in 0..self.partitions {
            // Reading tells of the same trouble.
            let Ok((_, high)) = self.reader.watermarks(partition) else { return Ok(()) };
            lag += (high - self.view.position(partition).next_offset).max(0);
            ends.insert(partition, high);
        }
        self.metrics.set_view_lag(lag);
        if !self.freshness.is_waiting() {
            self.freshness.ask(now, ends);
            self.reached_all()?;
        }
        match self.view.store().disk_bytes() {
            Ok(bytes) => self.metrics.set_view_disk(bytes),
            Err(error) => tracing::debug!(%error, "the size of the view cannot be read"),
        }
        Ok(())
    }
}

/// A topic that got more partitions puts projects elsewhere than before: the newer decisions of one
/// would stand beside its older ones, and nobody could tell which are which.
fn check_belongs(key: &StateKey, partition: i32, partitions: i32) -> Result<(), String> {
    let project = key.project();
    let right = partition_of(project.as_str(), partitions);
    if right == partition {
        return Ok(());
    }
    Err(format!(
        "project {project} has its state in partition {partition} of the state topic, but of \
         {partitions} partitions it belongs in {right}: the topic was given more partitions after \
         it was first used. Set topics.state_partitions to the number that it had before, then \
         start again"
    ))
}

/// Told to stop while a record waited for its schema.
struct Stopped;

/// All of a state record but its value.
fn read_headers(record: &Record) -> Option<StateRecord> {
    let command_offset = record.header_text(COMMAND_OFFSET)?.parse().ok()?;
    let command_id = CommandId::parse(record.header_text(COMMAND_ID)?).ok()?;
    let key = std::str::from_utf8(record.key.as_deref()?).ok()?;
    let key = StateKey::parse(key).ok()?;
    let commands_topic = record.header_text(COMMANDS_TOPIC).map(str::to_owned);
    Some(StateRecord { command_offset, commands_topic, command_id, key, value: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_in_a_partition_that_is_not_its_projects_is_refused() {
        for project in 0..100 {
            let key = StateKey::parse(&format!("proj_{project}/conn_1")).unwrap();
            let own = partition_of(&format!("proj_{project}"), 6);
            for partition in 0..6 {
                let checked = check_belongs(&key, partition, 6);
                assert_eq!(checked.is_ok(), partition == own);
            }
        }
        let key = StateKey::parse("proj_1").unwrap();
        let error = (0..8).find_map(|p| check_belongs(&key, p, 8).err()).unwrap();
        assert!(error.contains("topics.state_partitions"), "{error}");
    }
}
