//! The registrar: decides each connector command once and writes what follows from it.
//!
//! What follows, and the order in which it must become durable, is the decision of
//! [`Batch`]; this file carries it out, then lets the offset be committed.

use std::{
    collections::{BTreeMap, HashMap},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{FutureExt as _, future::join_all};
use parking_lot::Mutex;

use super::{COMMAND_ID, COMMAND_OFFSET, COMMANDS_TOPIC, FORWARDED_FROM, FORWARDED_HOPS};
use crate::{
    clock,
    codec::{Codec, ReadError, RecordKind},
    connector::{
        Asked, Batch, Change, Command, CommandResult, CommandsLog, LOOK_BACK, Office, Origin,
        Problem, ProblemCode, Progress, ProjectState, Recent, Registry, StateKey, StateRecord,
        Step, epoch_of, partition_of,
    },
    delivery::Reason,
    egress::EgressPolicy,
    id::{CommandId, ProjectId},
    kafka::{
        Admin, Assigned, Connection, GroupEvents, Identities, KafkaError, Offset, Outgoing,
        Partition, ProduceError, Producer, REQUEST_TIMEOUT, Reader, ReaderEvent, Record, TopicKind,
        Topics,
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
/// How long reading back what was asked lately may take without progress.
const LOOK_BACK_PATIENCE: Duration = Duration::from_secs(20);

/// What is said of a command whose reading panicked.
const BUG: &str = "reading the command met a bug of this program";

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
    /// Over how many partitions projects are spread.
    partitions: i32,
    metrics: Arc<Metrics>,
    failed: Mutex<Option<String>>,
    runtime: tokio::runtime::Handle,
}

/// The partition was given up, or the registrar cannot go on: nothing more is to be written.
struct Stopped;

/// What the owner of a partition knows of its log.
#[derive(Default)]
struct Ledger {
    log: CommandsLog,
    recent: Recent,
    /// The offset behind the last command that was decided.
    next: i64,
}

/// What became of a write.
enum Written {
    /// It is durable.
    Whole,
    /// The topic does not take so large a record; nothing was written.
    TooLarge,
}

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

    fn open(&self, command: &mut Command) -> Result<(), Problem> {
        self.view.keyring().open_command(command)
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

    /// Runs the worker of a partition, and ends the instance when the worker ends unasked: nobody
    /// would decide the partition's commands while this instance holds it.
    async fn supervise(self: Arc<Self>, assigned: Assigned) {
        let partition = Arc::clone(&assigned.partition);
        let ended = tokio::spawn(Arc::clone(&self).run(assigned)).await;
        if let Err(error) = ended
            && !error.is_cancelled()
        {
            let number = partition.number();
            let error = telemetry::early_end(&error);
            tracing::error!(partition = number, error, "the registrar's worker ended");
            self.fail(format!("the registrar's worker of partition {number} ended: {error}"));
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

    /// Waits until the view has everything that earlier owners wrote; false when the partition was
    /// given up before.
    async fn catch_up(&self, partition: &Arc<Partition>) -> bool {
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
    async fn look_back(&self, partition: &Arc<Partition>, first: i64) -> Option<Ledger> {
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
        let value = record.value.clone().unwrap_or_default();
        let decoded = self.codec.decode(RecordKind::Command, &value, gone);
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

    async fn results(
        &self,
        partition: &Arc<Partition>,
        results: &[CommandResult],
    ) -> Result<(), Stopped> {
        join_all(results.iter().map(|result| self.result(partition, result)))
            .await
            .into_iter()
            .collect()
    }

    async fn result(
        &self,
        partition: &Arc<Partition>,
        result: &CommandResult,
    ) -> Result<(), Stopped> {
        let topic = self.topics.name(TopicKind::Results);
        // How the command ended must be told, however little else there is room for.
        for result in [result, &result.cut()] {
            let value = self.codec.encode(TopicKind::Results, result.to_json());
            let record = Outgoing {
                topic: &topic,
                partition: None,
                key: result.command_id.as_str().as_bytes(),
                value: Some(&value),
                headers: Vec::new(),
            };
            match self.write(partition, &record).await? {
                Written::Whole => return Ok(()),
                Written::TooLarge => tracing::error!(
                    topic,
                    command = %result.command_id,
                    "a result is larger than the topic takes; it is cut: raise max.message.bytes \
                     (dunmore topics check)"
                ),
            }
        }
        self.fail(format!("{topic} does not take a result of few bytes: raise max.message.bytes"));
        Err(Stopped)
    }

    /// What is refused may hold secrets in plain, so its value is not repeated: the headers say where
    /// it stands.
    async fn dead_letter(
        &self,
        partition: &Arc<Partition>,
        record: &Record,
        reason: Reason,
        detail: &str,
    ) -> Result<(), Stopped> {
        tracing::warn!(
            offset = record.offset,
            %reason,
            detail,
            "command refused; it is in the dead letters"
        );
        let headers = super::park::record_headers(reason, detail, partition.topic(), record);
        let mut dead = Outgoing {
            topic: &self.topics.name(TopicKind::Dead),
            partition: None,
            key: record.key.as_deref().unwrap_or_default(),
            value: Some(b""),
            headers: headers.iter().map(|(key, value)| (key.as_str(), value.clone())).collect(),
        };
        if let Written::TooLarge = self.write(partition, &dead).await? {
            // A foreign key or foreign headers; where the record stands is enough.
            dead.key = b"";
            dead.headers.retain(|(name, _)| name.starts_with("dunmore-"));
            if let Written::TooLarge = self.write(partition, &dead).await? {
                tracing::error!(offset = record.offset, "no dead letter of it could be written");
            }
        }
        Ok(())
    }

    async fn forward(
        &self,
        partition: &Arc<Partition>,
        record: &Record,
        json: &[u8],
        project: &ProjectId,
        log: &CommandsLog,
    ) -> Result<(), Stopped> {
        let to = partition_of(project.as_str(), self.partitions);
        let hops = origin_of(record).map_or(0, |origin| origin.hops).saturating_add(1);
        let mut headers = vec![
            (FORWARDED_FROM, format!("{}/{}", partition.number(), record.offset).into_bytes()),
            (FORWARDED_HOPS, hops.to_string().into_bytes()),
        ];
        headers.extend(topic_header(log.topic_id.as_deref()));
        let topic = self.topics.name(TopicKind::Commands);
        let forwarded = Outgoing {
            topic: &topic,
            partition: Some(to),
            key: project.as_str().as_bytes(),
            value: record.value.as_deref(),
            headers,
        };
        let (code, detail) = match self.write_to_existing(partition, &forwarded, to).await? {
            Some(Written::Whole) => return Ok(()),
            Some(Written::TooLarge) => (
                ProblemCode::TooLarge,
                "The command is larger than its topic takes once it was forwarded to the partition \
                 of its project.",
            ),
            None => (
                ProblemCode::Unavailable,
                "The commands topic has fewer partitions than the state topic, so there is no \
                 partition for this project's commands (dunmore topics check).",
            ),
        };
        tracing::error!(offset = record.offset, to, detail, "a command cannot be forwarded");
        let Ok(command) = Command::read(json) else { return Ok(()) };
        let problem = Problem::new(code, detail);
        let result = CommandResult::rejected(command.id, Some(command.project), problem);
        self.result(partition, &result).await
    }

    /// Writes to a partition that may not exist; nothing when it does not.
    async fn write_to_existing(
        &self,
        partition: &Arc<Partition>,
        record: &Outgoing<'_>,
        to: i32,
    ) -> Result<Option<Written>, Stopped> {
        loop {
            let error = match self.producer.send(record).await {
                Ok(_) => return Ok(Some(Written::Whole)),
                Err(ProduceError::TooLarge) => return Ok(Some(Written::TooLarge)),
                Err(error) => error,
            };
            let (connection, topic) = (self.connection.clone(), record.topic.to_owned());
            let count = blocking(move || Admin::new(&connection)?.partitions(&topic)).await;
            // A topic that does not exist may come back.
            if count.is_ok_and(|count| count > 0 && count <= to) {
                return Ok(None);
            }
            tracing::warn!(topic = record.topic, %error, "trying again");
            if partition.is_released() {
                return Err(Stopped);
            }
            tokio::time::sleep(BACKOFF).await;
        }
    }

    async fn write(
        &self,
        partition: &Arc<Partition>,
        record: &Outgoing<'_>,
    ) -> Result<Written, Stopped> {
        loop {
            match self.producer.send(record).await {
                Ok(_) => return Ok(Written::Whole),
                Err(ProduceError::TooLarge) => return Ok(Written::TooLarge),
                Err(error) => tracing::warn!(topic = record.topic, %error, "trying again"),
            }
            if partition.is_released() {
                return Err(Stopped);
            }
            tokio::time::sleep(BACKOFF).await;
        }
    }
}

/// The id of the commands topic, where the broker has ids. Blocks.
fn commands_topic_id(connection: &Connection, topic: &str) -> Result<Option<String>, KafkaError> {
    let found = Identities::new(connection)?.of(&[topic], REQUEST_TIMEOUT)?;
    let facts = found.get(topic).ok_or_else(|| KafkaError::TopicMissing(topic.to_owned()))?;
    Ok(facts.id.map(|id| id.to_string()))
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
