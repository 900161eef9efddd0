//! The registrar: decides each connector command once and writes what follows from it.
//!
//! What follows, and the order in which it must become durable, is the decision of
//! [`Batch`]; this file carries it out, then lets the offset be committed.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::join_all;
use parking_lot::Mutex;

use super::{COMMAND_ID, COMMAND_OFFSET};
use crate::{
    codec::{Codec, ReadError, RecordKind},
    connector::{
        Asked, Batch, Change, Command, CommandResult, Office, Problem, ProjectState, Registry,
        StateKey, StateRecord, Step, partition_of,
    },
    delivery::Reason,
    destination::ConnectorType,
    egress::EgressPolicy,
    id::ProjectId,
    kafka::{
        Assigned, Connection, GroupEvents, KafkaError, Outgoing, Partition, ProduceError, Producer,
        Reader, Record, TopicKind, Topics,
    },
    metrics::{KafkaClient, Metrics},
    offsets::Begin,
    telemetry,
    view::{StoreError, View},
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
    egress: EgressPolicy,
    codec: Codec,
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

/// What this instance's view knows of one partition.
struct Known<'a> {
    view: &'a View,
    partition: i32,
}

impl Registry for Known<'_> {
    type Error = StoreError;

    fn last_command(&self) -> i64 {
        self.view.position(self.partition).last_command
    }

    fn was_accepted(&self, command_offset: i64) -> Option<StateKey> {
        self.view.was_accepted(self.partition, command_offset)
    }

    fn project(&self, project: &ProjectId) -> Result<ProjectState, StoreError> {
        self.view.project(project)
    }

    fn open(&self, command: &mut Command, existing: Option<ConnectorType>) -> Result<(), Problem> {
        self.view.keyring().open_command(command, existing)
    }

    fn seal(&self, command: &Command, change: &mut Change) -> Result<(), Problem> {
        self.view.keyring().seal_decided(command, change)
    }
}

impl Registrar {
    /// A registrar for the commands topic of `partitions` partitions.
    #[expect(clippy::too_many_arguments, reason = "each is a part of its own")]
    pub fn new(
        connection: &Connection,
        topics: Topics,
        view: Arc<View>,
        egress: EgressPolicy,
        codec: Codec,
        producer: Producer,
        partitions: i32,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Self>, KafkaError> {
        let state_producer =
            Producer::gapless(connection, metrics.kafka_client(KafkaClient::State))?;
        Ok(Arc::new(Self {
            connection: connection.clone(),
            topics,
            view,
            egress,
            codec,
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
        if !self.take_over(&partition).await {
            return;
        }
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
                if self.batch(&partition, records).await.is_err() {
                    return;
                }
            }
        }
    }

    /// Waits until the view has everything that earlier owners wrote; false when the partition was
    /// given up before.
    async fn take_over(&self, partition: &Arc<Partition>) -> bool {
        let number = partition.number();
        if number >= self.partitions {
            // Added to the topic later: no project belongs here, all commands are passed on.
            tracing::warn!(partition = number, "a partition beyond those of the state topic");
            return true;
        }
        let topic = self.topics.name(TopicKind::State);
        loop {
            if partition.is_released() {
                return false;
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
                    return true;
                }
                Ok(Err(error)) => tracing::warn!(%error, "registrar cannot take over yet"),
                Err(error) => {
                    let error = telemetry::early_end(&error);
                    tracing::warn!(error, "registrar cannot take over yet");
                }
            }
            tokio::time::sleep(BACKOFF).await;
        }
    }

    async fn batch(&self, partition: &Arc<Partition>, records: &[Record]) -> Result<(), Stopped> {
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
        let began = Instant::now();
        let written = self.decide_and_write(partition, &todo).await;
        if written.is_ok() {
            self.metrics.registrar_batch(todo.len(), began.elapsed());
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
    ) -> Result<(), Stopped> {
        let (values, unreadable) = self.read(partition, records).await?;
        let batch = self.decide(partition.number(), records, &values).await;
        for (command, accepted) in &batch.decided {
            self.metrics.command(command, *accepted);
        }
        for step in batch.into_steps() {
            match step {
                Step::DeadLetter { index, detail } => {
                    let detail = unreadable.get(&index).unwrap_or(&detail);
                    self.dead_letter(partition, records[index], detail).await?;
                }
                Step::Forward { index, project } => {
                    self.forward(partition, records[index], &project).await?;
                }
                Step::Results(results) => self.results(partition, &results).await?,
                Step::State(records) => {
                    self.write_state(partition.number(), &records).await?;
                }
                Step::Applied(offset) => {
                    self.view.wait_for_command(partition.number(), offset).await;
                }
            }
        }
        Ok(())
    }

    /// The commands as JSON; and why those that have no such form have none.
    async fn read(
        &self,
        partition: &Partition,
        records: &[&Record],
    ) -> Result<(Vec<Bytes>, HashMap<usize, String>), Stopped> {
        let mut values = Vec::with_capacity(records.len());
        let mut unreadable = HashMap::new();
        for (index, record) in records.iter().enumerate() {
            let value = record.value.clone().unwrap_or_default();
            let gone = || partition.is_released();
            match self.codec.decode(RecordKind::Command, &value, gone).await {
                Ok(json) => values.push(json),
                Err(ReadError::Refused(_, detail)) => {
                    values.push(Bytes::new());
                    unreadable.insert(index, detail);
                }
                Err(ReadError::GivenUp) => return Err(Stopped),
            }
        }
        Ok((values, unreadable))
    }

    async fn decide(&self, partition: i32, records: &[&Record], values: &[Bytes]) -> Batch {
        let asked: Vec<Asked<'_>> = records
            .iter()
            .zip(values)
            .map(|(record, value)| Asked { offset: record.offset, at: record.timestamp, value })
            .collect();
        let office = Office { partition, partitions: self.partitions, egress: &self.egress };
        let known = Known { view: &self.view, partition };
        loop {
            match Batch::decide(&asked, office, &known) {
                Ok(batch) => return batch,
                Err(error) => {
                    tracing::error!(%error, "the view cannot be read; check the disk of data_dir");
                    tokio::time::sleep(BACKOFF).await;
                }
            }
        }
    }

    /// Writes state records in their order; returns the last one's offset. Their producer leaves no gap: a failure is final, and
    /// the next owner decides again from what is durable.
    async fn write_state(&self, partition: i32, records: &[StateRecord]) -> Result<i64, Stopped> {
        let topic = &self.topics.name(TopicKind::State);
        let keys: Vec<String> = records.iter().map(|record| record.key.to_string()).collect();
        let encode = |json: &Vec<u8>| self.codec.encode(TopicKind::State, json.clone());
        let values: Vec<Option<Vec<u8>>> =
            records.iter().map(|record| record.value.as_ref().map(encode)).collect();
        let outgoing: Vec<Outgoing<'_>> = records
            .iter()
            .zip(keys.iter().zip(&values))
            .map(|(record, (key, value))| Outgoing {
                topic,
                partition: Some(partition),
                key: key.as_bytes(),
                value: value.as_deref(),
                headers: vec![
                    (COMMAND_OFFSET, record.command_offset.to_string().into_bytes()),
                    (COMMAND_ID, record.command_id.as_str().into()),
                ],
            })
            .collect();
        // `join_all` polls in order, so the records are handed over in order.
        let written = join_all(outgoing.iter().map(|record| self.state_producer.send(record)));
        let mut last = -1;
        for result in written.await {
            match result {
                Ok((_, offset)) => last = last.max(offset),
                Err(error) => {
                    tracing::error!(%error, topic, "state cannot be written; restart this instance");
                    *self.failed.lock() = Some(format!("state cannot be written: {error}"));
                    return Err(Stopped);
                }
            }
        }
        Ok(last)
    }

    /// Writes the newest records of keys again whose older record stands behind them, and waits
    /// until they were seen.
    async fn repair(&self, partition: &Arc<Partition>) -> Result<(), Stopped> {
        let number = partition.number();
        let records = match self.view.repairs(number) {
            Ok(records) if records.is_empty() => return Ok(()),
            Ok(records) => records,
            Err(error) => {
                tracing::error!(%error, "the view cannot be read; check the disk of data_dir");
                return Ok(());
            }
        };
        if !partition.enter() {
            return Err(Stopped);
        }
        tracing::info!(partition = number, records = records.len(), "state is written again");
        let written = self.write_state(number, &records).await;
        partition.leave();
        self.view.wait_for_offset(number, written? + 1).await;
        Ok(())
    }

    async fn results(
        &self,
        partition: &Arc<Partition>,
        results: &[CommandResult],
    ) -> Result<(), Stopped> {
        let topic = self.topics.name(TopicKind::Results);
        let encode = |json: Vec<u8>| self.codec.encode(TopicKind::Results, json);
        let values: Vec<Vec<u8>> = results.iter().map(CommandResult::to_json).map(encode).collect();
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

    async fn forward(
        &self,
        partition: &Arc<Partition>,
        record: &Record,
        project: &ProjectId,
    ) -> Result<(), Stopped> {
        let forwarded = Outgoing {
            topic: &self.topics.name(TopicKind::Commands),
            partition: Some(partition_of(project.as_str(), self.partitions)),
            key: project.as_str().as_bytes(),
            value: record.value.as_deref(),
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

/// What the registrar group's consumer tells, turned into workers.
pub struct RegistrarEvents(pub Arc<Registrar>);

impl GroupEvents for RegistrarEvents {
    fn assigned(&self, assigned: Assigned) {
        let registrar = Arc::clone(&self.0);
        self.0.runtime.spawn(registrar.run(assigned));
    }

    fn released(&self, _: &[Arc<Partition>]) {}
}
