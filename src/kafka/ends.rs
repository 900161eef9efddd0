//! Where the partitions of a topic end, asked in one request to each leader.

use std::time::Duration;

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
};

use super::{Connection, KafkaError, reader::Quiet};

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(2);

/// Asks for the ends of a topic's partitions with a client of its own.
pub struct Ends {
    consumer: BaseConsumer<Quiet>,
    connection: Connection,
    asked: TopicPartitionList,
}

impl Ends {
    /// Of a topic with so many partitions.
    pub fn new(connection: &Connection, topic: &str, partitions: i32) -> Result<Self, KafkaError> {
        let consumer = connection
            .client(&[
                ("group.id", "dunmore-reader"),
                ("enable.auto.commit", "false"),
                ("isolation.level", "read_committed"),
            ])
            .create_with_context(Quiet::new(connection))
            .map_err(|e| KafkaError::settings(&e))?;
        let mut asked = TopicPartitionList::new();
        for partition in 0..partitions {
            asked
                .add_partition_offset(topic, partition, Offset::End)
                .map_err(|e| KafkaError::Other(e.to_string()))?;
        }
        Ok(Self { consumer, connection: connection.clone(), asked })
    }

    /// The offset after the last record of each partition that may be read. It waits for the
    /// answer; a partition without one is left out.
    pub fn ask(&self) -> Result<Vec<(i32, i64)>, KafkaError> {
        let found = self
            .consumer
            .offsets_for_times(self.asked.clone(), ANSWER)
            .map_err(|e| KafkaError::request(&self.connection, &e))?;
        let ends = found.elements().into_iter().filter_map(|element| match element.offset() {
            Offset::Offset(end) if element.error().is_ok() => Some((element.partition(), end)),
            _ => None,
        });
        Ok(ends.collect())
    }
}
