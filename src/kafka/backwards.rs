//! Reads a partition from its end towards its beginning: for lists that show the newest first.
//!
//! Kafka reads forwards only, so this reads windows, each before the last one, and turns each round.

use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError as ClientError,
    message::Message,
};

use super::{
    Connection, FETCH_QUEUE_BACKOFF, KafkaError, REQUEST_TIMEOUT, Span,
    identity::Identities,
    reader::Quiet,
    scan::{SCAN_PATIENCE, Seen},
};
use crate::id::TopicId;

/// Records of the first window; each further one has twice as many …
const FIRST_WINDOW: i64 = 256;
/// … up to this.
const LARGEST_WINDOW: i64 = 8192;
/// Clients that are kept for the next request.
const MAX_IDLE_CLIENTS: usize = 4;
const POLL: Duration = Duration::from_millis(20);

/// How much one request may read.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Offsets that are looked at.
    pub records: u64,
    /// Time after which no further window begins.
    pub time: Duration,
}

/// Reads one topic backwards. Requests at once have clients of their own.
pub struct Backwards {
    connection: Connection,
    topic: String,
    idle: Mutex<Vec<BaseConsumer<Quiet>>>,
    identities: Identities,
}

impl Backwards {
    /// Connects at the first request.
    pub fn new(connection: &Connection, topic: String) -> Result<Self, KafkaError> {
        let identities = Identities::new(connection)?;
        Ok(Self { connection: connection.clone(), topic, idle: Mutex::default(), identities })
    }

    /// The topic's id, where brokers have some, and how many partitions it has. Blocks.
    pub fn facts(&self) -> Result<(Option<TopicId>, i32), KafkaError> {
        let facts = self.identities.of(&[&self.topic], REQUEST_TIMEOUT)?;
        let facts = facts.get(&self.topic);
        let facts = facts.ok_or_else(|| KafkaError::TopicMissing(self.topic.clone()))?;
        Ok((facts.id, facts.partitions))
    }

    /// Hands over what `keep` makes of the records before an offset (the end, if there is none), the
    /// newest first, until `each` breaks, the beginning is reached or the budget is used up. Returns
    /// the offset before which nothing was looked at; nothing when that is the beginning. Blocks.
    ///
    /// `keep` sees a window's records in their order, so it must not depend on what came before.
    pub fn read<T>(
        &self,
        partition: i32,
        before: Option<i64>,
        budget: Budget,
        keep: impl Fn(&Seen<'_>) -> Option<T>,
        mut each: impl FnMut(i64, T) -> ControlFlow<()>,
    ) -> Result<Option<i64>, KafkaError> {
        let idle = self.idle.lock().pop();
        let consumer = idle.map_or_else(|| client(&self.connection), Ok)?;
        let (low, high) = consumer
            .fetch_watermarks(&self.topic, partition, REQUEST_TIMEOUT)
            .map_err(|e| KafkaError::request(&self.connection, &e))?;
        let mut to = before.unwrap_or(high).clamp(low, high);
        let (began, first) = (Instant::now(), to);
        let mut size = FIRST_WINDOW;
        let next = 'windows: loop {
            if to <= low {
                break None;
            }
            let spent = u64::try_from(first - to).unwrap_or_default();
            if spent >= budget.records || (spent > 0 && began.elapsed() >= budget.time) {
                break Some(to);
            }
            let left = i64::try_from(budget.records - spent).unwrap_or(i64::MAX);
            let from = to.saturating_sub(size.min(left)).max(low);
            for (offset, kept) in
                self.window(&consumer, partition, Span { from, to }, &keep)?.into_iter().rev()
            {
                if each(offset, kept).is_break() {
                    break 'windows (offset > low).then_some(offset);
                }
            }
            to = from;
            size = (size * 2).min(LARGEST_WINDOW);
        };
        // Not after an error: that client may hold what belongs to the failed request.
        let mut idle = self.idle.lock();
        if consumer.unassign().is_ok() && idle.len() < MAX_IDLE_CLIENTS {
            idle.push(consumer);
        }
        Ok(next)
    }

    /// What is kept of a window, in the order of the log.
    fn window<T>(
        &self,
        consumer: &BaseConsumer<Quiet>,
        partition: i32,
        span: Span,
        keep: &impl Fn(&Seen<'_>) -> Option<T>,
    ) -> Result<Vec<(i64, T)>, KafkaError> {
        let other = |error: ClientError| KafkaError::request(&self.connection, &error);
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, partition, Offset::Offset(span.from))
            .map_err(|e| KafkaError::Other(e.to_string()))?;
        consumer.assign(&list).map_err(other)?;
        let mut kept = Vec::new();
        let mut last_progress = Instant::now();
        loop {
            match consumer.poll(POLL) {
                Some(Ok(message)) => {
                    last_progress = Instant::now();
                    let offset = message.offset();
                    if (span.from..span.to).contains(&offset)
                        && let Some(one) = keep(&Seen::of(&message))
                    {
                        kept.push((offset, one));
                    }
                    if offset + 1 >= span.to {
                        return Ok(kept);
                    }
                }
                Some(Err(ClientError::PartitionEOF(_))) => return Ok(kept),
                Some(Err(error)) if last_progress.elapsed() > SCAN_PATIENCE => {
                    return Err(other(error));
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, topic = self.topic, "reading backwards");
                }
                None if last_progress.elapsed() > SCAN_PATIENCE => {
                    let why = format!("{} could not be read: no record came", self.topic);
                    return Err(KafkaError::Other(why));
                }
                None => {}
            }
        }
    }
}

fn client(connection: &Connection) -> Result<BaseConsumer<Quiet>, KafkaError> {
    connection
        .client(&[
            // A group's name is asked for even where no group is joined; nothing is committed.
            ("group.id", "dunmore-reader"),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            // What retention has deleted meanwhile cannot be read any more.
            ("auto.offset.reset", "earliest"),
            ("enable.partition.eof", "true"),
            ("fetch.wait.max.ms", "50"),
            // Beyond the window nothing is wanted.
            ("queued.min.messages", "1"),
            ("queued.max.messages.kbytes", "8192"),
            FETCH_QUEUE_BACKOFF,
            ("isolation.level", "read_committed"),
        ])
        .create_with_context(Quiet::new(connection))
        .map_err(|e| KafkaError::settings(&e))
}
