//! Reads partitions from given offsets without a group: the view, results, tools.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError as ClientError, RDKafkaErrorCode},
    message::Message,
};

use super::{
    Connection, FETCH_QUEUE_BACKOFF, KafkaError, REQUEST_TIMEOUT, Record,
    bootstrap::Bootstrap,
    statistics::{self, Statistics},
};

/// What a reader found.
#[derive(Debug)]
pub enum ReaderEvent {
    /// A record.
    Record(Record),
    /// The end of this partition was reached for now; the offset read next.
    End {
        /// The partition.
        partition: i32,
        /// The offset read next.
        next_offset: i64,
    },
    /// The position is not in the log (any more).
    OutOfRange,
    /// Nothing came in time.
    Idle,
    /// A passing trouble; the client library goes on by itself.
    Trouble(String),
}

/// A partition that was just created, or is moving, has no leader for a moment.
fn is_passing(error: &ClientError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::NotLeaderForPartition
                | Code::LeaderNotAvailable
                | Code::UnknownTopicOrPartition
                | Code::ReplicaNotAvailable
        )
    )
}

/// Keeps the client library's log in ours, and the ends of partitions out of it: they are no
/// errors here.
pub(super) struct Quiet {
    bootstrap: Bootstrap,
}

impl Quiet {
    pub(super) fn new(connection: &Connection) -> Self {
        Self { bootstrap: Bootstrap::new(connection) }
    }
}

impl ClientContext for Quiet {
    fn stats_raw(&self, statistics: &[u8]) {
        if let Some(statistics) = Statistics::parse(statistics) {
            self.bootstrap.mend(&statistics);
        }
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        super::producer::log(level, facility, message);
    }

    fn error(&self, error: ClientError, reason: &str) {
        if !matches!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::PartitionEOF)) {
            tracing::warn!(%error, reason, "Kafka reader");
        }
    }
}

impl ConsumerContext for Quiet {}

/// Reads one topic's partitions from given offsets.
pub struct Reader {
    consumer: BaseConsumer<Quiet>,
    topic: String,
    connection: Connection,
}

impl Reader {
    /// A reader of these partitions, each from an offset.
    pub fn new(
        connection: &Connection,
        topic: &str,
        from: &BTreeMap<i32, Offset>,
    ) -> Result<Self, KafkaError> {
        let consumer: BaseConsumer<Quiet> = connection
            .client(&[
                // A group's name is asked for even where no group is joined; nothing is committed.
                ("group.id", "dunmore-reader"),
                ("enable.auto.commit", "false"),
                ("enable.auto.offset.store", "false"),
                ("auto.offset.reset", "error"),
                ("enable.partition.eof", "true"),
                ("fetch.wait.max.ms", "100"),
                ("queued.max.messages.kbytes", "16384"),
                FETCH_QUEUE_BACKOFF,
                ("statistics.interval.ms", statistics::INTERVAL_MS),
                ("isolation.level", "read_committed"),
            ])
            .create_with_context(Quiet::new(connection))
            .map_err(|e| KafkaError::settings(&e))?;
        consumer.context().bootstrap.attach(consumer.client().native_ptr());
        let mut list = TopicPartitionList::new();
        for (partition, offset) in from {
            list.add_partition_offset(topic, *partition, *offset)
                .map_err(|e| KafkaError::Other(e.to_string()))?;
        }
        consumer.assign(&list).map_err(|e| KafkaError::request(connection, &e))?;
        Ok(Self { consumer, topic: topic.to_owned(), connection: connection.clone() })
    }

    /// A reader of all partitions of a topic, from its oldest or its newest record.
    pub fn all(connection: &Connection, topic: &str, from: Offset) -> Result<Self, KafkaError> {
        let count = super::Admin::new(connection)?.partitions(topic)?;
        if count == 0 {
            return Err(KafkaError::TopicMissing(topic.to_owned()));
        }
        let reader = Self::new(connection, topic, &BTreeMap::new())?;
        let mut list = TopicPartitionList::new();
        for partition in 0..count {
            // "The end" is fixed now, not when the first fetch happens: what is written after this
            // call must be seen.
            let offset = match from {
                Offset::End => Offset::Offset(reader.watermarks(partition)?.1),
                other => other,
            };
            list.add_partition_offset(topic, partition, offset)
                .map_err(|e| KafkaError::Other(e.to_string()))?;
        }
        reader.consumer.assign(&list).map_err(|e| KafkaError::request(connection, &e))?;
        Ok(reader)
    }

    /// A partition's oldest offset and the one after its newest.
    pub fn watermarks(&self, partition: i32) -> Result<(i64, i64), KafkaError> {
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        loop {
            let found = self.consumer.fetch_watermarks(&self.topic, partition, REQUEST_TIMEOUT);
            match found {
                Ok(watermarks) => return Ok(watermarks),
                Err(error) if is_passing(&error) && Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(100));
                }
                Err(error) => return Err(KafkaError::request(&self.connection, &error)),
            }
        }
    }

    /// Waits for the next thing to happen.
    pub fn poll(&self, timeout: Duration) -> ReaderEvent {
        match self.consumer.poll(timeout) {
            None => ReaderEvent::Idle,
            Some(Ok(message)) => {
                debug_assert_eq!(message.topic(), self.topic);
                ReaderEvent::Record(Record::copy(&message, Instant::now()))
            }
            Some(Err(ClientError::PartitionEOF(partition))) => {
                match self.position(partition) {
                    Some(next_offset) => ReaderEvent::End { partition, next_offset },
                    // Nothing was read yet: the end is where reading began.
                    None => match self.watermarks(partition) {
                        Ok((_, high)) => ReaderEvent::End { partition, next_offset: high },
                        Err(error) => ReaderEvent::Trouble(error.to_string()),
                    },
                }
            }
            Some(Err(error)) => {
                use RDKafkaErrorCode as Code;
                match error.rdkafka_error_code() {
                    Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => ReaderEvent::OutOfRange,
                    _ => ReaderEvent::Trouble(error.to_string()),
                }
            }
        }
    }

    fn position(&self, partition: i32) -> Option<i64> {
        let list = self.consumer.position().ok()?;
        list.find_partition(&self.topic, partition)?.offset().to_raw().filter(|offset| *offset >= 0)
    }
}
