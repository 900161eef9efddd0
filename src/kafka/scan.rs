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
    message::{BorrowedMessage, Message},
};

use super::{
    Admin, Connection, FETCH_QUEUE_BACKOFF, KafkaError, REQUEST_TIMEOUT, Record, consumer, reader::Quiet,
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

    /// The record, copied.
    pub fn copy(&self) -> Record {
        Record::copy(self.message, Instant::now())
    }
}

/// A topic's partitions and where they begin and end.
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
        let consumer = client(connection)?;
        let mut whole = Spans::new();
        for partition in 0..count {
            let (from, to) = consumer
                .fetch_watermarks(topic, partition, REQUEST_TIMEOUT)
                .map_err(|e| KafkaError::request(connection, &e))?;
            whole.insert(partition, Span { from, to });
        }
        Ok(Self { consumer, connection: connection.clone(), topic: topic.to_owned(), whole })
    }

    /// Everything that is in the topic.
    pub fn whole(&self) -> &Spans {
        &self.whole
    }

    /// The first offset at or after a moment, of each partition; its end when there is none.
    pub fn at(&self, moment: Timestamp) -> Result<BTreeMap<i32, i64>, KafkaError> {
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
        let offset = |(partition, span): (&i32, &Span)| {
            let found = found.find_partition(&self.topic, *partition);
            let offset = match found.map(|found| found.offset()) {
                Some(Offset::Offset(offset)) => offset.clamp(span.from, span.to),
                _ => span.to,
            };
            (*partition, offset)
        };
        Ok(self.whole.iter().map(offset).collect())
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
    let consumer = client(connection)?;
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
            ("queued.min.messages", "50000"),
            ("queued.max.messages.kbytes", "32768"),
            FETCH_QUEUE_BACKOFF,
            ("isolation.level", "read_committed"),
        ])
        .create_with_context(Quiet::new(connection))
        .map_err(|e| KafkaError::settings(&e))
}
