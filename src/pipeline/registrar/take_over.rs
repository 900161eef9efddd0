//! Taking a partition over: what earlier owners wrote, which log its commands are in, and what was
//! asked lately.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{BACKOFF, Registrar, blocking, origin_of};
use crate::{
    clock,
    codec::ReadError,
    connector::{Command, CommandsLog, LOOK_BACK, Recent, epoch_of, partition_of},
    kafka::{
        Connection, Identities, KafkaError, Offset, Partition, REQUEST_TIMEOUT, Reader,
        ReaderEvent, Record, TopicKind,
    },
};

/// How long reading back what was asked lately may take without progress.
const LOOK_BACK_PATIENCE: Duration = Duration::from_secs(20);

/// What the owner of a partition knows of its log.
pub(super) struct Ledger {
    pub(super) log: CommandsLog,
    pub(super) recent: Recent,
    /// The offset behind the last command that was decided.
    pub(super) next: i64,
}

impl Registrar {
    /// Waits until the view has everything that earlier owners wrote; false when the partition was
    /// given up before.
    pub(super) async fn catch_up(&self, partition: &Arc<Partition>) -> bool {
        let number = partition.number();
        if number >= self.partitions {
            // Added to the topic later: no project belongs here, all commands are passed on.
            tracing::warn!(partition = number, "a partition beyond those of the state topic");
            return true;
        }
        while !partition.is_released() {
            let (connection, topic) = (self.connection.clone(), self.topics.name(TopicKind::State));
            let end = blocking(move || {
                let reader = Reader::new(&connection, &topic, &BTreeMap::new())?;
                Ok(reader.watermarks(number)?.1)
            });
            match end.await {
                Ok(end) => {
                    self.view.wait_for_offset(number, end).await;
                    return true;
                }
                Err(error) => tracing::warn!(error, "registrar cannot take over yet"),
            }
            tokio::time::sleep(BACKOFF).await;
        }
        false
    }

    /// Finds out which log the partition's commands are in, and what was asked lately before the
    /// first one that is left; nothing when the partition was given up before.
    pub(super) async fn look_back(&self, partition: &Arc<Partition>, first: i64) -> Option<Ledger> {
        while !partition.is_released() {
            match self.try_look_back(partition, first).await {
                Ok(ledger) => return Some(ledger),
                Err(error) => tracing::warn!(error, "registrar cannot take over yet"),
            }
            tokio::time::sleep(BACKOFF).await;
        }
        None
    }

    async fn try_look_back(
        &self,
        partition: &Arc<Partition>,
        first: i64,
    ) -> Result<Ledger, String> {
        let number = partition.number();
        // Before the log: a command whose consequences are known is in it.
        let progress = self.view.progress(number);
        let (connection, topic) = (self.connection.clone(), self.topics.name(TopicKind::Commands));
        let (topic_id, end, records) = blocking(move || {
            let reader = Reader::new(&connection, &topic, &BTreeMap::new())?;
            let end = reader.watermarks(number)?.1;
            let records = read_before(&connection, &topic, number, first)?;
            Ok((commands_topic_id(&connection, &topic)?, end, records))
        })
        .await?;
        let log = CommandsLog::found(topic_id, end, &progress, clock::now());
        let mut recent = Recent::default();
        let gone = || partition.is_released();
        for record in records {
            if let Some(origin) = origin_of(&record) {
                recent.forwards_mut().saw(&origin);
            }
            let read = match self.decode(&record, gone).await {
                Ok(json) => Command::read(&json).ok(),
                Err(ReadError::Refused(..)) => None,
                Err(ReadError::GivenUp) => return Err("the partition was given up".to_owned()),
            };
            if let Some(command) = read
                && partition_of(command.project.as_str(), self.partitions) == number
            {
                recent.saw(&command, record.offset, record.timestamp, None);
            }
        }
        let (last, epoch) = (progress.last_command, log.epoch(&progress));
        if epoch > epoch_of(last) {
            tracing::warn!(
                partition = number,
                last,
                epoch,
                "the commands topic was made anew; its commands are decided from its beginning"
            );
        }
        tracing::info!(partition = number, last, epoch, first, "registrar took over");
        Ok(Ledger { log, recent, next: first })
    }
}

/// The id of the commands topic, where the broker has ids. Blocks.
fn commands_topic_id(connection: &Connection, topic: &str) -> Result<Option<String>, KafkaError> {
    let found = Identities::new(connection)?.of(&[topic], REQUEST_TIMEOUT)?;
    let facts = found.get(topic).ok_or_else(|| KafkaError::TopicMissing(topic.to_owned()))?;
    Ok(facts.id.map(|id| id.to_string()))
}

/// The records of a partition that stand before this offset, as far back as [`LOOK_BACK`]. Blocks.
fn read_before(
    connection: &Connection,
    topic: &str,
    partition: i32,
    before: i64,
) -> Result<Vec<Record>, KafkaError> {
    let low = Reader::new(connection, topic, &BTreeMap::new())?.watermarks(partition)?.0;
    let from = before.saturating_sub(LOOK_BACK).max(low);
    let mut records = Vec::new();
    if from >= before {
        return Ok(records);
    }
    let reader =
        Reader::new(connection, topic, &BTreeMap::from([(partition, Offset::Offset(from))]))?;
    let mut last_progress = Instant::now();
    let mut trouble = None;
    while last_progress.elapsed() < LOOK_BACK_PATIENCE {
        match reader.poll(Duration::from_millis(100)) {
            ReaderEvent::Record(record) if record.offset < before => {
                last_progress = Instant::now();
                records.push(record);
                if records.last().is_some_and(|last| last.offset + 1 == before) {
                    return Ok(records);
                }
            }
            // What stands before it may be no record, such as the end of a transaction.
            ReaderEvent::Record(_) | ReaderEvent::End { .. } => return Ok(records),
            ReaderEvent::Idle => {}
            ReaderEvent::OutOfRange => trouble = Some("records were deleted meanwhile".to_owned()),
            ReaderEvent::Trouble(error) => trouble = Some(error),
        }
        if trouble.is_some() && last_progress.elapsed() > Duration::from_secs(1) {
            break;
        }
    }
    let why = trouble.unwrap_or_else(|| format!("{topic} could not be read back in time"));
    Err(KafkaError::Other(why))
}
