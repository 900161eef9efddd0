//! Sends connector commands and waits for their results.

use std::time::{Duration, Instant};

use crate::{
    codec::{Codec, RecordKind},
    connector::{Command, CommandResult},
    id::CommandId,
    kafka::{
        Connection, KafkaError, Offset, Outgoing, ProduceError, Producer, Reader, ReaderEvent,
        TopicKind, Topics,
    },
    metrics::Metrics,
};

/// How long a result is waited for.
pub const RESULT_TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Kafka.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// The command could not be written.
    #[error("the command could not be written: {0}")]
    NotSent(#[from] ProduceError),
    /// Nobody answered in time.
    #[error(
        "no result after {seconds} s: is a `dunmore serve` with the role registrar running on these topics? The command {command} is in the log and will be decided when one is",
        seconds = RESULT_TIMEOUT.as_secs()
    )]
    NoResult {
        /// The command that waits.
        command: CommandId,
    },
}

/// Sends commands one after the other.
pub struct ControlClient {
    connection: Connection,
    topics: Topics,
    codec: Codec,
    producer: Producer,
}

impl ControlClient {
    /// A client for these topics.
    pub fn new(
        connection: &Connection,
        topics: &Topics,
        codec: Codec,
    ) -> Result<Self, ControlError> {
        let metrics = Metrics::new().map_err(|e| KafkaError::Other(e.to_string()))?;
        let producer = Producer::new(connection, metrics.kafka_errors())?;
        Ok(Self { connection: connection.clone(), topics: topics.clone(), codec, producer })
    }

    /// Sends a command and waits for its result.
    pub async fn send(&self, command: &Command) -> Result<CommandResult, ControlError> {
        // The reader stands at the end of the results before the command is written.
        let (connection, topic) = (self.connection.clone(), self.topics.name(TopicKind::Results));
        let reader = blocking(move || Reader::all(&connection, &topic, Offset::End)).await?;
        let value = self.codec.encode(TopicKind::Commands, command.to_json());
        let record = Outgoing {
            topic: &self.topics.name(TopicKind::Commands),
            partition: None,
            key: command.project.as_str().as_bytes(),
            value: Some(&value),
            headers: Vec::new(),
        };
        self.producer.send(&record).await?;
        let id = command.id.clone();
        let wanted = id.clone();
        let codec = self.codec.clone();
        let found = blocking(move || Ok(wait_for(&reader, &codec, &wanted))).await?;
        found.ok_or(ControlError::NoResult { command: id })
    }
}

fn wait_for(reader: &Reader, codec: &Codec, id: &CommandId) -> Option<CommandResult> {
    let deadline = Instant::now() + RESULT_TIMEOUT;
    let late = || Instant::now() >= deadline;
    while Instant::now() < deadline {
        if let ReaderEvent::Record(record) = reader.poll(Duration::from_millis(100))
            && record.key.as_deref() == Some(id.as_str().as_bytes())
            && let value = record.value.unwrap_or_default()
            && let Ok(json) = codec.decode_blocking(RecordKind::Result, &value, late)
            && let Ok(result) = CommandResult::from_json(&json)
        {
            return Some(result);
        }
    }
    None
}

/// Runs a call that blocks.
pub async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, KafkaError> + Send + 'static,
) -> Result<T, KafkaError> {
    tokio::task::spawn_blocking(call).await.map_err(|e| KafkaError::Other(e.to_string()))?
}
