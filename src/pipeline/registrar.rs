//! The registrar: decides each connector command once and writes what follows from it.
//!
//! What follows, and the order in which it must become durable, is the decision of
//! [`Batch`]; this file carries it out, then lets the offset be committed.

mod keep;
mod remind;
mod take_over;
mod write;

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{FutureExt as _, future::join_all};
use parking_lot::Mutex;

use super::{COMMAND_ID, COMMAND_OFFSET, COMMANDS_TOPIC, FORWARDED_FROM, FORWARDED_HOPS};
use keep::Keeper;
use remind::Reminders;
use take_over::Ledger;

use crate::{
    codec::{Codec, ReadError, RecordKind},
    connector::{
        Asked, Batch, Change, Command, HistoryRecord, Office, Origin, Problem, Progress,
        ProjectState, Registry, StateKey, StateRecord, Step,
    },
    delivery::Reason,
    destination::ConnectorType,
    egress::EgressPolicy,
    id::{CommandId, ProjectId},
    kafka::{
        Assigned, Connection, GroupEvents, KafkaError, Outgoing, Partition, Producer, Record,
        TopicKind, Topics,
    },
    metrics::{KafkaClient, Metrics},
    offsets::Begin,
    outbound::Outbound,
    telemetry,
    view::{StoreError, View},
};

/// Commands decided together. It bounds what a take-over may have to answer again.
const MAX_BATCH: usize = 256;
/// How often a partition without commands looks for repairs.
const REPAIR_INTERVAL: Duration = Duration::from_secs(2);
const BACKOFF: Duration = Duration::from_millis(500);

/// What is said of a command whose reading panicked.
const BUG: &str = "reading the command met a bug of this program";

/// Decides commands.
pub struct Registrar {
    connection: Connection,
    topics: Topics,
    view: Arc<View>,
    egress: EgressPolicy,
    /// For the keepers' calls.
    outbound: Outbound,
    codec: Codec,
    /// For results and dead letters.
    producer: Producer,
    /// For state records, whose order is the truth.
    state_producer: Producer,
    /// Over how many partitions projects are spread.
    partitions: i32,
    metrics: Arc<Metrics>,
    /// By partition, of which projects something may still have to be told.
    reminders: Mutex<HashMap<i32, Reminders>>,
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

    fn progress(&self) -> Progress {
        self.view.progress(self.partition)
    }

    fn accepted(&self, id: &CommandId, key: &StateKey) -> Option<i64> {
        self.view.accepted(self.partition, id, key)
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
        outbound: Outbound,
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
            outbound,
            codec,
            producer,
            state_producer,
            partitions,
            metrics,
            reminders: Mutex::default(),
            failed: Mutex::new(None),
            runtime: tokio::runtime::Handle::current(),
        }))
    }

    /// Why the registrar stopped for good, if it did.
    pub fn failure(&self) -> Option<String> {
        self.failed.lock().clone()
    }

    /// Runs the worker of a partition, and ends the instance when the worker ends unasked: nobody
    /// would decide the partition's commands while this instance holds it.
    async fn supervise(self: Arc<Self>, assigned: Assigned) {
        let partition = Arc::clone(&assigned.partition);
        let keeper = Keeper::new(Arc::clone(&self), Arc::clone(&partition));
        let keeping = tokio::spawn(keeper.run());
        let ended = tokio::spawn(Arc::clone(&self).run(assigned)).await;
        if let Err(error) = ended
            && !error.is_cancelled()
        {
            let number = partition.number();
            let error = telemetry::early_end(&error);
            tracing::error!(partition = number, error, "the registrar's worker ended");
            self.fail(format!("the registrar's worker of partition {number} ended: {error}"));
        }
        self.check_call(keeping.await);
    }

    /// A panic of a renewal ends the instance: its token would never be renewed again.
    fn check_call(&self, ended: Result<(), tokio::task::JoinError>) {
        if let Err(error) = ended
            && !error.is_cancelled()
        {
            let error = telemetry::early_end(&error);
            tracing::error!(error, "the renewal of an access token ended");
            self.fail(format!("the renewal of an access token ended: {error}"));
        }
    }

    fn fail(&self, why: String) {
        self.failed.lock().get_or_insert(why);
    }

    async fn run(self: Arc<Self>, mut assigned: Assigned) {
        let partition = assigned.partition;
        if !self.catch_up(&partition).await {
            return;
        }
        self.recall(partition.number()).await;
        let mut ledger: Option<Ledger> = None;
        loop {
            let batch = match tokio::time::timeout(REPAIR_INTERVAL, assigned.records.recv()).await {
                Ok(Some(batch)) => batch,
                Ok(None) => return,
                Err(_) => Vec::new(),
            };
            if self.repair(&partition).await.is_err() {
                return;
            }
            self.remind(&partition).await;
            let Some(first) = batch.first() else { continue };
            // A log that goes back is another one.
            ledger = ledger.filter(|ledger| first.offset >= ledger.next);
            // Where the last owner left off is known with the first record.
            let ledger = match &mut ledger {
                Some(ledger) => ledger,
                none => {
                    let Some(known) = self.look_back(&partition, first.offset).await else {
                        return;
                    };
                    none.insert(known)
                }
            };
            for records in batch.chunks(MAX_BATCH) {
                for record in records {
                    partition.taken(record.size());
                }
                if self.batch(&partition, records, ledger).await.is_err() {
                    return;
                }
            }
        }
    }

    async fn batch(
        &self,
        partition: &Arc<Partition>,
        records: &[Record],
        ledger: &mut Ledger,
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
        let began = Instant::now();
        let written = self.decide_and_write(partition, &todo, ledger).await;
        if written.is_ok() {
            self.metrics.registrar_batch(todo.len(), began.elapsed());
            if let Some(last) = records.last() {
                ledger.next = last.offset + 1;
            }
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
        ledger: &mut Ledger,
    ) -> Result<(), Stopped> {
        let (values, unreadable) = self.read(partition, records).await?;
        let batch = self.decide(partition, records, &values, ledger).await?;
        for (command, accepted) in &batch.decided {
            self.metrics.command(command, *accepted);
        }
        if batch.repeated > 0 {
            let (partition, repeated) = (partition.number(), batch.repeated);
            tracing::info!(partition, repeated, "commands that were decided before came again");
        }
        for step in batch.into_steps() {
            match step {
                Step::DeadLetter { index, detail } => {
                    let unread = unreadable.get(&index).map(|(reason, text)| (*reason, &**text));
                    let refused = detail.as_deref().map(|text| (Reason::InvalidCommand, text));
                    let (reason, detail) = unread.or(refused).unwrap_or((Reason::Bug, BUG));
                    self.dead_letter(partition, records[index], reason, detail).await?;
                }
                Step::Forward { index, project } => {
                    let (record, value) = (records[index], &values[index]);
                    self.forward(partition, record, value, &project, &ledger.log).await?;
                }
                Step::Results(results) => self.results(partition, &results).await?,
                Step::Journal(history, notices) => {
                    self.journal(partition, &history, &notices).await?;
                    let reports = history.into_iter().filter(HistoryRecord::is_report);
                    let projects = reports.map(|record| record.project_id);
                    self.note_reported(partition.number(), projects);
                }
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
    ) -> Result<(Vec<Bytes>, HashMap<usize, (Reason, String)>), Stopped> {
        let mut values = Vec::with_capacity(records.len());
        let mut unreadable = HashMap::new();
        for (index, record) in records.iter().enumerate() {
            match self.decode(record, || partition.is_released()).await {
                Ok(json) => values.push(json),
                Err(ReadError::Refused(reason, detail)) => {
                    let is_bug = reason == Reason::Bug;
                    let reason = if is_bug { reason } else { Reason::InvalidCommand };
                    values.push(Bytes::new());
                    unreadable.insert(index, (reason, detail));
                }
                Err(ReadError::GivenUp) => return Err(Stopped),
            }
        }
        Ok((values, unreadable))
    }

    /// A command as JSON; a bug that it meets costs this command only.
    async fn decode(&self, record: &Record, gone: impl Fn() -> bool) -> Result<Bytes, ReadError> {
        let decoded = self.codec.decode_record(RecordKind::Command, record, gone);
        AssertUnwindSafe(decoded)
            .catch_unwind()
            .await
            .unwrap_or_else(|_| Err(ReadError::Refused(Reason::Bug, BUG.to_owned())))
    }

    async fn decide(
        &self,
        partition: &Partition,
        records: &[&Record],
        values: &[Bytes],
        ledger: &mut Ledger,
    ) -> Result<Batch, Stopped> {
        let origins: Vec<Option<Origin>> = records.iter().map(|record| origin_of(record)).collect();
        let asked: Vec<Asked<'_>> = records
            .iter()
            .zip(values.iter().zip(&origins))
            .map(|(record, (value, origin))| Asked {
                offset: record.offset,
                at: record.timestamp,
                value,
                origin: origin.as_ref(),
            })
            .collect();
        let Ledger { log, recent, .. } = ledger;
        let (number, partitions) = (partition.number(), self.partitions);
        let office = Office { partition: number, partitions, log, egress: &self.egress };
        let known = Known { view: &self.view, partition: number };
        loop {
            match Batch::decide(&asked, office, &known, recent) {
                Ok(batch) => return Ok(batch),
                Err(error) => {
                    tracing::error!(%error, "the view cannot be read; check the disk of data_dir");
                    if partition.is_released() {
                        return Err(Stopped);
                    }
                    tokio::time::sleep(BACKOFF).await;
                }
            }
        }
    }

    /// Writes state records in their order; returns the last one's offset. Their producer leaves no
    /// gap: a failure is final, and the next owner decides again from what is durable.
    async fn write_state(&self, partition: i32, records: &[StateRecord]) -> Result<i64, Stopped> {
        let topic = &self.topics.name(TopicKind::State);
        let keys: Vec<String> = records.iter().map(|record| record.key.to_string()).collect();
        let encode = |json: &Vec<u8>| self.codec.encode(TopicKind::State, json.clone());
        let values: Vec<Option<Vec<u8>>> =
            records.iter().map(|record| record.value.as_ref().map(encode)).collect();
        let outgoing: Vec<Outgoing<'_>> = records
            .iter()
            .zip(keys.iter().zip(&values))
            .map(|(record, (key, value))| {
                let mut headers = vec![
                    (COMMAND_OFFSET, record.command_offset.to_string().into_bytes()),
                    (COMMAND_ID, record.command_id.as_str().into()),
                ];
                headers.extend(topic_header(record.commands_topic.as_deref()));
                Outgoing {
                    topic,
                    partition: Some(partition),
                    key: key.as_bytes(),
                    value: value.as_deref(),
                    headers,
                }
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
                    self.fail(format!("state cannot be written: {error}"));
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
}

fn topic_header(id: Option<&str>) -> Option<(&'static str, Vec<u8>)> {
    id.map(|id| (COMMANDS_TOPIC, id.into()))
}

/// The record that a command was forwarded from, as its headers say.
fn origin_of(record: &Record) -> Option<Origin> {
    let (partition, offset) = record.header_text(FORWARDED_FROM)?.split_once('/')?;
    Some(Origin {
        topic_id: record.header_text(COMMANDS_TOPIC).map(str::to_owned),
        partition: partition.parse().ok()?,
        offset: offset.parse().ok()?,
        hops: record.header_text(FORWARDED_HOPS).and_then(|hops| hops.parse().ok()).unwrap_or(1),
    })
}

async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, KafkaError> + Send + 'static,
) -> Result<T, String> {
    match tokio::task::spawn_blocking(call).await {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(error) => Err(telemetry::early_end(&error)),
    }
}

/// What the registrar group's consumer tells, turned into workers.
pub struct RegistrarEvents(pub Arc<Registrar>);

impl GroupEvents for RegistrarEvents {
    fn assigned(&self, assigned: Assigned) {
        let registrar = Arc::clone(&self.0);
        self.0.runtime.spawn(registrar.supervise(assigned));
    }

    fn released(&self, _: &[Arc<Partition>]) {}
}
