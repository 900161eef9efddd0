//! Reads ranges of a topic from beginning to end without copying the records: for whoever looks
//! for something in a log.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    time::{Duration, Instant},
};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError as ClientError,
    message::{BorrowedMessage, Message, Timestamp as MessageTimestamp},
};

use super::{
    Admin, Connection, FETCH_QUEUE_BACKOFF, KafkaError, REQUEST_TIMEOUT, Record, consumer,
    reader::Quiet,
};
use crate::clock::Timestamp;

/// How long nothing may come before a scan gives up.
pub const SCAN_PATIENCE: Duration = Duration::from_secs(30);
/// How long one wait for a record takes.
const POLL: Duration = Duration::from_millis(100);

/// Offsets of a partition: `from` up to `to`, which is not part of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Span {
    /// The first offset.
    pub from: i64,
    /// The offset after the last one.
    pub to: i64,
}

impl Span {
    /// How many offsets it has.
    pub fn len(self) -> u64 {
        u64::try_from(self.to.saturating_sub(self.from)).unwrap_or(0)
    }

    /// Whether there is nothing in it.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// A range of each partition.
pub type Spans = BTreeMap<i32, Span>;

/// Which records are read of a topic that is written to in transactions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Isolation {
    /// Those before the first open transaction, without those of aborted ones.
    Committed,
    /// All.
    Uncommitted,
}

/// A record as it lies in the client library's buffer.
pub struct Seen<'a> {
    message: &'a BorrowedMessage<'a>,
}

impl<'a> Seen<'a> {
    /// Its partition.
    pub fn partition(&self) -> i32 {
        self.message.partition()
    }

    /// Its offset.
    pub fn offset(&self) -> i64 {
        self.message.offset()
    }

    /// When it was produced, or appended, as the topic is configured.
    pub fn timestamp(&self) -> Timestamp {
        Timestamp::from_millis(self.message.timestamp().to_millis().unwrap_or_default())
    }

    /// Whether its timestamp is its producer's: then it may be any moment.
    pub fn is_stamped_by_producer(&self) -> bool {
        matches!(self.message.timestamp(), MessageTimestamp::CreateTime(_))
    }

    /// Its key.
    pub fn key(&self) -> Option<&'a [u8]> {
        self.message.key()
    }

    /// Its value.
    pub fn value(&self) -> Option<&'a [u8]> {
        self.message.payload()
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        consumer::header_of(self.message, name)
    }

    /// Whether it has any headers.
    pub fn has_headers(&self) -> bool {
        consumer::has_headers(self.message)
    }

    /// Its headers, copied.
    pub fn headers(&self) -> Vec<(String, bytes::Bytes)> {
        super::headers_of(self.message)
    }

    /// Its headers, copied, with those that have no value told from those with an empty one.
    pub fn nullable_headers(&self) -> Vec<(String, Option<bytes::Bytes>)> {
        consumer::nullable_headers_of(self.message)
    }

    /// The record, copied.
    pub fn copy(&self) -> Record {
        Record::copy(self.message, Instant::now())
    }
}

/// A topic's partitions and where they begin and end. The end is where an open transaction begins,
/// if there is one.
pub struct Bounds {
    consumer: BaseConsumer<Quiet>,
    connection: Connection,
    topic: String,
    whole: Spans,
}

impl Bounds {
    /// Asks for the ends of every partition of a topic.
    pub fn of(connection: &Connection, topic: &str) -> Result<Self, KafkaError> {
        let count = Admin::new(connection)?.partitions(topic)?;
        if count == 0 {
            return Err(KafkaError::TopicMissing(topic.to_owned()));
        }
        let consumer = client(connection, Isolation::Committed)?;
        let mut whole = Spans::new();
        for partition in 0..count {
            let (from, to) = consumer
                .fetch_watermarks(topic, partition, REQUEST_TIMEOUT)
                .map_err(|e| KafkaError::request(connection, &e))?;
            whole.insert(partition, Span { from, to });
        }
        Ok(Self { consumer, connection: connection.clone(), topic: topic.to_owned(), whole })
    }

    /// Everything that is in the topic and can be read.
    pub fn whole(&self) -> &Spans {
        &self.whole
    }

    /// What waits in each partition behind an open transaction: whoever reads committed records
    /// only does not get it before that ends. Partitions without are left out.
    pub fn behind_open_transactions(&self) -> Result<Spans, KafkaError> {
        let consumer = client(&self.connection, Isolation::Uncommitted)?;
        let mut waiting = Spans::new();
        for (partition, span) in &self.whole {
            let (_, end) = consumer
                .fetch_watermarks(&self.topic, *partition, REQUEST_TIMEOUT)
                .map_err(|e| KafkaError::request(&self.connection, &e))?;
            // Asked for a second time: what was written since may be readable.
            let (_, stable) = self
                .consumer
                .fetch_watermarks(&self.topic, *partition, REQUEST_TIMEOUT)
                .map_err(|e| KafkaError::request(&self.connection, &e))?;
            let span = Span { from: stable.max(span.to), to: end };
            if !span.is_empty() {
                waiting.insert(*partition, span);
            }
        }
        Ok(waiting)
    }

    /// The first offset at or after a moment, of each partition; its end when there is none. A
    /// broker that cannot look up by time is read from beginning to end.
    pub fn at(&self, moment: Timestamp) -> Result<BTreeMap<i32, i64>, KafkaError> {
        let found = self.look_up(moment)?;
        // A broker that can look up by time finds the beginning of time in whatever has records.
        let in_doubt = |(partition, span): (&i32, &Span)| {
            !span.is_empty() && found.get(partition).copied().flatten().is_none()
        };
        if self.whole.iter().any(in_doubt) && !self.can_look_up()? {
            return self.search(moment);
        }
        let offset = |(partition, span): (&i32, &Span)| {
            let offset = found.get(partition).copied().flatten().unwrap_or(span.to);
            (*partition, offset.clamp(span.from, span.to))
        };
        Ok(self.whole.iter().map(offset).collect())
    }

    fn can_look_up(&self) -> Result<bool, KafkaError> {
        let found = self.look_up(Timestamp::from_millis(0))?;
        Ok(found.values().any(Option::is_some))
    }

    /// What the broker says of a moment; nothing of partitions in which nothing is so late.
    fn look_up(&self, moment: Timestamp) -> Result<BTreeMap<i32, Option<i64>>, KafkaError> {
        let mut asked = TopicPartitionList::new();
        for partition in self.whole.keys() {
            asked
                .add_partition_offset(
                    &self.topic,
                    *partition,
                    Offset::Offset(moment.millis().max(0)),
                )
                .map_err(|e| KafkaError::Other(e.to_string()))?;
        }
        let found = self
            .consumer
            .offsets_for_times(asked, REQUEST_TIMEOUT)
            .map_err(|e| KafkaError::request(&self.connection, &e))?;
        let offset = |partition: &i32| {
            let found = found.find_partition(&self.topic, *partition)?;
            match found.offset() {
                Offset::Offset(offset) if offset >= 0 => Some(offset),
                _ => None,
            }
        };
        Ok(self.whole.keys().map(|partition| (*partition, offset(partition))).collect())
    }

    /// The first offset at or after a moment, read out of the records.
    fn search(&self, moment: Timestamp) -> Result<BTreeMap<i32, i64>, KafkaError> {
        let mut found: BTreeMap<i32, i64> =
            self.whole.iter().map(|(partition, span)| (*partition, span.to)).collect();
        scan(&self.connection, &self.topic, &self.whole, |seen| {
            if seen.timestamp() >= moment
                && let Some(first) = found.get_mut(&seen.partition())
            {
                *first = (*first).min(seen.offset());
            }
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }

    /// What lies between two moments; an open end is the topic's own.
    pub fn between(
        &self,
        from: Option<Timestamp>,
        to: Option<Timestamp>,
    ) -> Result<Spans, KafkaError> {
        let mut spans = self.whole.clone();
        if let Some(from) = from {
            for (partition, offset) in self.at(from)? {
                spans.entry(partition).and_modify(|span| span.from = offset);
            }
        }
        if let Some(to) = to {
            for (partition, offset) in self.at(to)? {
                spans.entry(partition).and_modify(|span| span.to = offset.max(span.from));
            }
        }
        Ok(spans)
    }
}

/// Hands every record of these ranges over, each partition's in order, until there is none left or
/// `each` breaks. Records of aborted transactions are left out.
pub fn scan(
    connection: &Connection,
    topic: &str,
    spans: &Spans,
    each: impl FnMut(&Seen<'_>) -> ControlFlow<()>,
) -> Result<(), KafkaError> {
    scan_as(connection, topic, spans, Isolation::Committed, each)
}

/// The same with the records of transactions that are open or were aborted.
pub fn scan_uncommitted(
    connection: &Connection,
    topic: &str,
    spans: &Spans,
    each: impl FnMut(&Seen<'_>) -> ControlFlow<()>,
) -> Result<(), KafkaError> {
    scan_as(connection, topic, spans, Isolation::Uncommitted, each)
}

fn scan_as(
    connection: &Connection,
    topic: &str,
    spans: &Spans,
    isolation: Isolation,
    mut each: impl FnMut(&Seen<'_>) -> ControlFlow<()>,
) -> Result<(), KafkaError> {
    let mut left: BTreeMap<i32, i64> = BTreeMap::new();
    let mut list = TopicPartitionList::new();
    for (partition, span) in spans.iter().filter(|(_, span)| !span.is_empty()) {
        left.insert(*partition, span.to);
        list.add_partition_offset(topic, *partition, Offset::Offset(span.from))
            .map_err(|e| KafkaError::Other(e.to_string()))?;
    }
    if left.is_empty() {
        return Ok(());
    }
    let consumer = client(connection, isolation)?;
    consumer.assign(&list).map_err(|e| KafkaError::request(connection, &e))?;
    let done = |left: &mut BTreeMap<i32, i64>, partition: i32| {
        left.remove(&partition);
        let mut rest = TopicPartitionList::new();
        rest.add_partition(topic, partition);
        consumer.pause(&rest).map_err(|e| KafkaError::Other(e.to_string()))
    };
    let mut last_progress = Instant::now();
    let mut trouble = None;
    while !left.is_empty() {
        match consumer.poll(POLL) {
            Some(Ok(message)) => {
                last_progress = Instant::now();
                let (partition, offset) = (message.partition(), message.offset());
                let Some(to) = left.get(&partition).copied() else { continue };
                if offset < to && each(&Seen { message: &message }).is_break() {
                    return Ok(());
                }
                if offset + 1 >= to {
                    done(&mut left, partition)?;
                }
            }
            // The log ends here, whatever the offset of its last record: that may be a marker.
            Some(Err(ClientError::PartitionEOF(partition))) => {
                last_progress = Instant::now();
                done(&mut left, partition)?;
            }
            Some(Err(error)) => trouble = Some(error.to_string()),
            None => {}
        }
        if last_progress.elapsed() > SCAN_PATIENCE {
            let why = trouble.unwrap_or_else(|| "no record came".to_owned());
            return Err(KafkaError::Other(format!("{topic} could not be read to its end: {why}")));
        }
    }
    Ok(())
}

fn client(
    connection: &Connection,
    isolation: Isolation,
) -> Result<BaseConsumer<Quiet>, KafkaError> {
    let isolation = match isolation {
        Isolation::Committed => "read_committed",
        Isolation::Uncommitted => "read_uncommitted",
    };
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
            ("queued.min.messages", "50000"),
            ("queued.max.messages.kbytes", "32768"),
            FETCH_QUEUE_BACKOFF,
            ("isolation.level", isolation),
        ])
        .create_with_context(Quiet::new(connection))
        .map_err(|e| KafkaError::settings(&e))
}
