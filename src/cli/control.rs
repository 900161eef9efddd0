//! Sends connector commands and waits for their results.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use futures_util::future::try_join_all;

use crate::{
    codec::{Codec, RecordKind},
    connector::{Command, CommandResult, MAX_ACTOR_CHARS},
    destination::cut,
    id::CommandId,
    kafka::{
        Connection, KafkaError, Offset, Outgoing, ProduceError, Producer, Reader, ReaderEvent,
        TopicKind, Topics,
    },
    metrics::{KafkaClient, Metrics},
    telemetry,
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
        "no result for {seconds} s: is a `dunmore serve` with the role registrar running on these topics? The command {command} is in the log and will be decided when one is",
        seconds = RESULT_TIMEOUT.as_secs()
    )]
    NoResult {
        /// The command that waits.
        command: CommandId,
    },
}

/// Commands that are sent before their results are waited for.
const MAX_AHEAD: usize = 500;

/// Sends commands and waits for their results.
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
        let producer = Producer::new(connection, metrics.kafka_client(KafkaClient::Tool))?;
        Ok(Self { connection: connection.clone(), topics: topics.clone(), codec, producer })
    }

    /// Sends a command and waits for its result.
    pub async fn send(&self, command: &Command) -> Result<CommandResult, ControlError> {
        let mut found = None;
        self.send_all(std::slice::from_ref(command), |result| found = Some(result)).await?;
        found.ok_or_else(|| ControlError::NoResult { command: command.id.clone() })
    }

    /// Sends commands, [`MAX_AHEAD`] of them before the first one's result is there, and tells
    /// each result. They are decided in any order.
    pub async fn send_all(
        &self,
        commands: &[Command],
        mut each: impl FnMut(CommandResult),
    ) -> Result<(), ControlError> {
        // The reader stands at the end of the results before a command is written.
        let (connection, topic) = (self.connection.clone(), self.topics.name(TopicKind::Results));
        let mut reader = blocking(move || Reader::all(&connection, &topic, Offset::End)).await?;
        let topic = self.topics.name(TopicKind::Commands);
        for commands in commands.chunks(MAX_AHEAD) {
            try_join_all(commands.iter().map(|command| self.write(&topic, command))).await?;
            let mut wanted: BTreeSet<CommandId> = commands.iter().map(|c| c.id.clone()).collect();
            while let Some(waiting) = wanted.first().cloned() {
                let codec = self.codec.clone();
                let found;
                (reader, wanted, found) = blocking(move || {
                    let found = next_result(&reader, &codec, &mut wanted);
                    Ok((reader, wanted, found))
                })
                .await?;
                each(found.ok_or(ControlError::NoResult { command: waiting })?);
            }
        }
        Ok(())
    }

    async fn write(&self, topic: &str, command: &Command) -> Result<(), ProduceError> {
        let value = self.codec.encode(TopicKind::Commands, command.to_json());
        let record = Outgoing {
            topic,
            partition: None,
            key: command.project.as_str().as_bytes(),
            value: Some(&value),
            headers: Vec::new(),
        };
        self.producer.send(&record).await?;
        Ok(())
    }
}

/// The user of this program, as commands name it.
pub fn actor() -> String {
    let user = crate::config::user();
    cut(&format!("cli:{}", user.as_deref().unwrap_or("unknown")), MAX_ACTOR_CHARS)
}

/// The next result of one of these commands, which is then taken out of them.
fn next_result(
    reader: &Reader,
    codec: &Codec,
    wanted: &mut BTreeSet<CommandId>,
) -> Option<CommandResult> {
    let deadline = Instant::now() + RESULT_TIMEOUT;
    let late = || Instant::now() >= deadline;
    while Instant::now() < deadline {
        if let ReaderEvent::Record(record) = reader.poll(Duration::from_millis(100))
            && let Some(id) = record.key.as_deref().and_then(|key| std::str::from_utf8(key).ok())
            && let Ok(id) = CommandId::parse(id)
            && wanted.contains(&id)
            && let value = record.value.unwrap_or_default()
            && let Ok(json) = codec.decode_blocking(RecordKind::Result, &value, late)
            && let Ok(result) = CommandResult::from_json(&json)
        {
            wanted.remove(&id);
            return Some(result);
        }
    }
    None
}

/// Runs a call that blocks.
pub async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, KafkaError> + Send + 'static,
) -> Result<T, KafkaError> {
    tokio::task::spawn_blocking(call)
        .await
        .map_err(|e| KafkaError::Other(telemetry::early_end(&e)))?
}
