//! The registrar: decides each connector command once and writes what follows from it.
//!
//! The order of its writes is what makes a take-over safe. For a batch of commands of one
//! partition: first the results of the rejected ones, then the state records, then (when this
//! instance's own view has applied them) the results of the accepted ones, then the offset is
//! committed. So whoever takes over knows of every command up to the last state record: if a state
//! record names it, it was accepted and its result may be missing; if none does, it was rejected
//! and its result is durable. Everything later is decided again, with the same outcome.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use parking_lot::Mutex;

use super::{COMMAND_ID, COMMAND_OFFSET, view_feed::Repairs};
use crate::{
    connector::{
        Change, Command, CommandResult, Context, Decision, Problem, ProjectState, Refused,
        StateKey, decide,
    },
    delivery::Reason,
    egress::EgressPolicy,
    id::ProjectId,
    kafka::{
        Assigned, Connection, GroupEvents, KafkaError, Outgoing, Partition, ProduceError, Producer,
        Reader, Record, TopicKind, Topics,
    },
    metrics::Metrics,
    offsets::Begin,
    view::{StateRecord, View},
};

/// Commands decided together. It bounds what a take-over may have to answer again.
const MAX_BATCH: usize = 256;
/// How often a partition without commands looks for repairs.
const REPAIR_INTERVAL: Duration = Duration::from_secs(2);
const BACKOFF: Duration = Duration::from_millis(500);

/// Decides commands.
pub struct Registrar {
    connection: Connection,
    topics: Topics,
    view: Arc<View>,
    repairs: Repairs,
    egress: EgressPolicy,
    /// For results and dead letters.
    producer: Producer,
    /// For state records, whose order is the truth.
    state_producer: Producer,
    partitions: i32,
    metrics: Arc<Metrics>,
    failed: Mutex<Option<String>>,
    runtime: tokio::runtime::Handle,
}

/// The partition was given up, or the registrar cannot go on: nothing more is to be written.
struct Stopped;

/// What follows from a batch of commands.
#[derive(Default)]
struct Outcomes {
    rejected: Vec<CommandResult>,
    accepted: Vec<(Change, CommandResult, i64, crate::id::CommandId)>,
    again: Vec<CommandResult>,
    unanswerable: Vec<(usize, String)>,
    misplaced: Vec<usize>,
}

impl Registrar {
    /// A registrar for the commands topic of `partitions` partitions.
    #[expect(clippy::too_many_arguments, reason = "each is a part of its own")]
    pub fn new(
        connection: &Connection,
        topics: Topics,
        view: Arc<View>,
        repairs: Repairs,
        egress: EgressPolicy,
        producer: Producer,
        partitions: i32,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Self>, KafkaError> {
        let state_producer = Producer::gapless(connection, metrics.kafka_errors())?;
        Ok(Arc::new(Self {
            connection: connection.clone(),
            topics,
            view,
            repairs,
            egress,
            producer,
            state_producer,
            partitions,
            metrics,
            failed: Mutex::new(None),
            runtime: tokio::runtime::Handle::current(),
        }))
    }

    /// Why the registrar stopped for good, if it did.
    pub fn failure(&self) -> Option<String> {
        self.failed.lock().clone()
    }

    async fn run(self: Arc<Self>, mut assigned: Assigned) {
        let partition = assigned.partition;
        let Some(taken_over_at) = self.take_over(&partition).await else { return };
        loop {
            let batch = match tokio::time::timeout(REPAIR_INTERVAL, assigned.records.recv()).await {
                Ok(Some(batch)) => batch,
                Ok(None) => return,
                Err(_) => Vec::new(),
            };
            if self.repair(&partition).await.is_err() {
                return;
            }
            for records in batch.chunks(MAX_BATCH) {
                for record in records {
                    partition.taken(record.size());
                }
                if self.batch(&partition, records, taken_over_at).await.is_err() {
                    return;
                }
            }
        }
    }

    /// Waits until the view has everything that earlier owners wrote; returns the last command
    /// that is in it.
    async fn take_over(&self, partition: &Arc<Partition>) -> Option<i64> {
        let number = partition.number();
        let topic = self.topics.name(TopicKind::State);
        loop {
            if partition.is_released() {
                return None;
            }
            let (connection, topic) = (self.connection.clone(), topic.clone());
            let end = tokio::task::spawn_blocking(move || {
                Reader::new(&connection, &topic, &std::collections::BTreeMap::new())?
                    .watermarks(number)
            });
            match end.await {
                Ok(Ok((_, end))) => {
                    self.view.wait_for_offset(number, end).await;
                    let last = self.view.position(number).last_command;
                    tracing::info!(partition = number, last, "registrar took over");
                    return Some(last);
                }
                Ok(Err(error)) => tracing::warn!(%error, "registrar cannot take over yet"),
                Err(error) => tracing::warn!(%error, "registrar cannot take over yet"),
            }
            tokio::time::sleep(BACKOFF).await;
        }
    }

    async fn batch(
        &self,
        partition: &Arc<Partition>,
        records: &[Record],
        taken_over_at: i64,
    ) -> Result<(), Stopped> {
        let mut todo = Vec::with_capacity(records.len());
        for record in records {
            match partition.begin(record.offset).await {
                None => return Err(Stopped),
                Some(Begin::AlreadyDone) => {}
                Some(Begin::Work) => todo.push(record),
            }
        }
        if !partition.enter() {
            return Err(Stopped);
        }
        let written = self.decide_and_write(partition, &todo, taken_over_at).await;
        if written.is_ok() {
            for record in todo {
                partition.complete(record.offset);
            }
        }
        partition.leave();
        written
    }

    async fn decide_and_write(
        &self,
        partition: &Arc<Partition>,
        records: &[&Record],
        taken_over_at: i64,
    ) -> Result<(), Stopped> {
        let outcomes = self.decide_all(partition.number(), records, taken_over_at).await;
        for (index, detail) in &outcomes.unanswerable {
            self.dead_letter(partition, records[*index], detail).await?;
        }
        for index in &outcomes.misplaced {
            self.forward(partition, records[*index]).await?;
        }
        self.results(partition, &outcomes.rejected).await?;
        let state = self.topics.name(TopicKind::State);
        let values: Vec<_> = outcomes
            .accepted
            .iter()
            .map(|(change, _, offset, id)| StateRecord {
                command_offset: *offset,
                command_id: id.clone(),
                key: change.state_key(),
                value: change.to_value(),
            })
            .collect();
        self.write_state(&state, partition.number(), &values).await?;
        if let Some((.., offset, _)) = outcomes.accepted.last() {
            self.view.wait_for_command(partition.number(), *offset).await;
        }
        let accepted: Vec<CommandResult> =
            outcomes.accepted.into_iter().map(|(_, result, ..)| result).collect();
        self.results(partition, &accepted).await?;
        self.results(partition, &outcomes.again).await
    }

    async fn decide_all(
        &self,
        partition: i32,
        records: &[&Record],
        taken_over_at: i64,
    ) -> Outcomes {
        let mut outcomes = Outcomes::default();
        let mut states: HashMap<ProjectId, ProjectState> = HashMap::new();
        for (index, record) in records.iter().enumerate() {
            let command = match Command::read(record.value.as_deref().unwrap_or_default()) {
                Ok(command) => command,
                Err(Refused::Unanswerable(detail)) => {
                    self.metrics.command("unknown", false);
                    outcomes.unanswerable.push((index, detail));
                    continue;
                }
                Err(Refused::Rejected { id, project, name, problem }) => {
                    self.metrics.command(name, false);
                    outcomes.rejected.push(CommandResult::rejected(id, project, problem));
                    continue;
                }
            };
            if partition_of(command.project.as_str(), self.partitions) != partition {
                outcomes.misplaced.push(index);
                continue;
            }
            if record.offset <= taken_over_at {
                outcomes.again.extend(self.answer_again(partition, record.offset, &command));
                continue;
            }
            let state = match states.entry(command.project.clone()) {
                std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::hash_map::Entry::Vacant(entry) => {
                    entry.insert(self.project(&command.project).await)
                }
            };
            match self.decide(state, &command, record) {
                Ok(mut change) => {
                    self.metrics.command(command.name(), true);
                    self.view.keyring().seal_change(&mut change);
                    state.apply(&change);
                    let result = CommandResult::accepted(&command, &change);
                    outcomes.accepted.push((change, result, record.offset, command.id));
                }
                Err(problem) => {
                    self.metrics.command(command.name(), false);
                    let (id, project) = (command.id, Some(command.project));
                    outcomes.rejected.push(CommandResult::rejected(id, project, problem));
                }
            }
        }
        outcomes
    }

    fn decide(
        &self,
        state: &ProjectState,
        command: &Command,
        record: &Record,
    ) -> Result<Change, Problem> {
        let mut opened = command.clone();
        self.view.keyring().open_command(&mut opened)?;
        let context = Context { at: record.timestamp, offset: record.offset, egress: &self.egress };
        match decide(state, &opened, &context) {
            Decision::Accepted(change) => Ok(change),
            Decision::Rejected(problem) => Err(problem),
        }
    }

    /// The result of a command that an earlier owner decided, if it may be missing.
    fn answer_again(
        &self,
        partition: i32,
        offset: i64,
        command: &Command,
    ) -> Option<CommandResult> {
        let key = self.view.was_accepted(partition, offset)?;
        let current = match &key {
            StateKey::Connector(key) => {
                let found = self.view.connector(key).ok().flatten();
                found.map_or_else(|| Change::ConnectorGone(key.clone()), Change::ConnectorSet)
            }
            StateKey::Project(project) => {
                let found = self.view.project(project).ok().and_then(|state| state.project);
                Change::ProjectSet(found?)
            }
        };
        Some(CommandResult::accepted(command, &current))
    }

    async fn project(&self, project: &ProjectId) -> ProjectState {
        loop {
            match self.view.project(project) {
                Ok(state) => return state,
                Err(error) => {
                    tracing::error!(%error, "the view cannot be read; check the disk of data_dir");
                    tokio::time::sleep(BACKOFF).await;
                }
            }
        }
    }

    /// Writes state records in their order. Their producer leaves no gap: a failure is final, and
    /// the next owner decides again from what is durable.
    async fn write_state(
        &self,
        topic: &str,
        partition: i32,
        records: &[StateRecord],
    ) -> Result<(), Stopped> {
        let keys: Vec<String> = records.iter().map(|record| record.key.to_string()).collect();
        let outgoing: Vec<Outgoing<'_>> = records
            .iter()
            .zip(&keys)
            .map(|(record, key)| Outgoing {
                topic,
                partition: Some(partition),
                key: key.as_bytes(),
                value: record.value.as_deref(),
                headers: vec![
                    (COMMAND_OFFSET, record.command_offset.to_string().into_bytes()),
                    (COMMAND_ID, record.command_id.as_str().into()),
                ],
            })
            .collect();
        // `join_all` polls in order, so the records are handed over in order.
        let written = join_all(outgoing.iter().map(|record| self.state_producer.send(record)));
        for result in written.await {
            if let Err(error) = result {
                tracing::error!(%error, topic, "state cannot be written; restart this instance");
                *self.failed.lock() = Some(format!("state cannot be written: {error}"));
                return Err(Stopped);
            }
        }
        Ok(())
    }

    /// Writes the newest records of keys again whose older record stands behind them.
    async fn repair(&self, partition: &Arc<Partition>) -> Result<(), Stopped> {
        let Some(records) = self.repairs.lock().remove(&partition.number()) else { return Ok(()) };
        if !partition.enter() {
            return Err(Stopped);
        }
        let topic = self.topics.name(TopicKind::State);
        let written = self.write_state(&topic, partition.number(), &records).await;
        partition.leave();
        written
    }

    async fn results(
        &self,
        partition: &Arc<Partition>,
        results: &[CommandResult],
    ) -> Result<(), Stopped> {
        let topic = self.topics.name(TopicKind::Results);
        let values: Vec<Vec<u8>> = results.iter().map(CommandResult::to_json).collect();
        let writes = results.iter().zip(&values).map(|(result, value)| {
            let record = Outgoing {
                topic: &topic,
                partition: None,
                key: result.command_id.as_str().as_bytes(),
                value: Some(value),
                headers: Vec::new(),
            };
            self.write(partition, record)
        });
        join_all(writes).await.into_iter().collect()
    }

    async fn dead_letter(
        &self,
        partition: &Arc<Partition>,
        record: &Record,
        detail: &str,
    ) -> Result<(), Stopped> {
        tracing::warn!(
            offset = record.offset,
            detail,
            "command refused; it is in the dead letters"
        );
        let reason = Reason::InvalidCommand;
        let headers = super::park::record_headers(reason, detail, partition.topic(), record);
        let dead = Outgoing {
            topic: &self.topics.name(TopicKind::Dead),
            partition: None,
            key: record.key.as_deref().unwrap_or_default(),
            value: Some(record.value.as_deref().unwrap_or_default()),
            headers: headers.iter().map(|(key, value)| (key.as_str(), value.clone())).collect(),
        };
        self.write(partition, dead).await
    }

    /// A command in another partition than its project's: its producer uses another partitioner.
    /// It is decided where the project's other commands are.
    async fn forward(&self, partition: &Arc<Partition>, record: &Record) -> Result<(), Stopped> {
        let value = record.value.as_deref().unwrap_or_default();
        let Ok(command) = Command::read(value) else { return Ok(()) };
        let project = command.project.as_str();
        let forwarded = Outgoing {
            topic: &self.topics.name(TopicKind::Commands),
            partition: Some(partition_of(project, self.partitions)),
            key: project.as_bytes(),
            value: Some(value),
            headers: Vec::new(),
        };
        self.write(partition, forwarded).await
    }

    async fn write(
        &self,
        partition: &Arc<Partition>,
        mut record: Outgoing<'_>,
    ) -> Result<(), Stopped> {
        loop {
            match self.producer.send(&record).await {
                Ok(_) => return Ok(()),
                // A dead letter's headers say where the value still stands.
                Err(ProduceError::TooLarge) if record.value.is_some_and(|v| !v.is_empty()) => {
                    tracing::error!(
                        topic = record.topic,
                        "a record is larger than the topic takes; only its headers are kept: raise max.message.bytes (dunmore topics check)"
                    );
                    record.value = Some(b"");
                }
                Err(error) => tracing::warn!(topic = record.topic, %error, "trying again"),
            }
            if partition.is_released() {
                return Err(Stopped);
            }
            tokio::time::sleep(BACKOFF).await;
        }
    }
}

/// The partition of a key as Kafka's Java clients compute it, and librdkafka's `murmur2_random`.
pub fn partition_of(key: &str, partitions: i32) -> i32 {
    let hash = murmur2(key.as_bytes()) & 0x7fff_ffff;
    let count = u32::try_from(partitions.max(1)).unwrap_or(1);
    i32::try_from(hash % count).unwrap_or_default()
}

/// Murmur2 with the seed and constants of `org.apache.kafka.common.utils.Utils.murmur2`.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut hash = 0x9747_b28c_u32 ^ length;
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    for (shift, byte) in rest.iter().enumerate().rev() {
        hash ^= u32::from(*byte) << (8 * shift);
    }
    if !rest.is_empty() {
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// What the registrar group's consumer tells, turned into workers.
pub struct RegistrarEvents(pub Arc<Registrar>);

impl GroupEvents for RegistrarEvents {
    fn assigned(&self, assigned: Assigned) {
        let registrar = Arc::clone(&self.0);
        self.0.runtime.spawn(registrar.run(assigned));
    }

    fn released(&self, _: &[Arc<Partition>]) {}

    fn error(&self, code: &str) {
        self.0.metrics.kafka_error(code);
    }

    fn committed(&self, ok: bool) {
        self.0.metrics.committed(ok);
    }

    fn lag(&self, topic: &str, partition: i32, records: Option<i64>) {
        self.0.metrics.set_lag(topic, partition, records);
    }

    fn rebalanced(&self) {
        self.0.metrics.rebalanced();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_to_the_partitions_that_java_clients_choose() {
        // The test vectors of Kafka's own UtilsTest.
        for (key, hash) in [
            ("21", -973_932_308_i32),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()), hash.cast_unsigned(), "{key}");
        }
    }
}
