//! Sends commands and waits for their results. One reader per instance follows the results topic
//! and wakes whoever waits for a command.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{sync::oneshot, time::Instant};

use super::blocking;
use crate::{
    codec::{Codec, RecordKind},
    connector::{Command, CommandOutcome, CommandResult, Problem, ProblemCode, partition_of},
    id::CommandId,
    kafka::{
        Connection, Offset, Outgoing, ProduceError, Producer, Reader, ReaderEvent, TopicKind,
        Topics,
    },
    metrics::{KafkaClient, Metrics},
    view::View,
};

/// How long a command may take from here to its result and back into the view.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// How long Kafka may take to acknowledge a command: nobody waits for it any longer, so it should
/// not be carried out much later.
const WRITE_TIMEOUT: Duration = Duration::from_secs(8);
/// Requests that may wait at once.
pub const MAX_WAITING: usize = 4096;
/// How long the reader waits before it looks whether it shall stop.
const POLL: Duration = Duration::from_millis(100);
/// How long after an error the reader is made anew.
const PAUSE: Duration = Duration::from_secs(1);

type Waiters = Mutex<HashMap<CommandId, Vec<oneshot::Sender<CommandResult>>>>;

/// Sends commands and waits for their results.
pub struct Commands {
    producer: Producer,
    topic: String,
    codec: Codec,
    partitions: i32,
    waiting: Arc<Waiters>,
    stop: Arc<AtomicBool>,
}

impl Commands {
    /// Starts the reader; projects are spread over so many partitions of the commands. It stands at the end of the results when this returns.
    pub async fn start(
        connection: &Connection,
        topics: &Topics,
        codec: &Codec,
        partitions: i32,
        metrics: &Metrics,
    ) -> anyhow::Result<Self> {
        let producer = Producer::with_timeout(
            connection,
            metrics.kafka_client(KafkaClient::Api),
            WRITE_TIMEOUT,
        )?;
        let (to, results) = (connection.clone(), topics.name(TopicKind::Results));
        let waiting = Arc::new(Waiters::default());
        let stop = Arc::new(AtomicBool::new(false));
        let commands = Self {
            producer,
            topic: topics.name(TopicKind::Commands),
            codec: codec.clone(),
            partitions,
            waiting: Arc::clone(&waiting),
            stop: Arc::clone(&stop),
        };
        let (make_to, make_results, codec) = (to.clone(), results.clone(), codec.clone());
        let reader = blocking(move || Reader::all(&make_to, &make_results, Offset::End)).await?;
        thread::Builder::new().name("results".to_owned()).spawn(move || {
            let make = || Reader::all(&to, &results, Offset::End);
            follow(reader, make, &stop, |key, value| {
                let Some(id) = key.and_then(|key| std::str::from_utf8(key).ok()) else { return };
                let Ok(id) = CommandId::parse(id) else { return };
                let Some(waiters) = waiting.lock().remove(&id) else { return };
                let stopping = || stop.load(Ordering::Relaxed);
                let json = codec.decode_blocking(RecordKind::Result, value, stopping);
                let result = json.ok().and_then(|json| CommandResult::from_json(&json).ok());
                let Some(result) = result else {
                    tracing::warn!(command = %id, "a result cannot be read");
                    return;
                };
                for waiter in waiters {
                    // Who has given up meanwhile needs no answer.
                    let _ = waiter.send(result.clone());
                }
            });
        })?;
        Ok(commands)
    }

    /// Ends the reader.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Sends a command whose secrets are encrypted, and returns when the view shows what became
    /// of it.
    pub async fn run(&self, command: &Command, view: &View) -> Result<(), Problem> {
        let deadline = Instant::now() + COMMAND_TIMEOUT;
        // Dropped last: it looks which receivers are gone.
        let _waiting = Waiting { commands: self, id: &command.id };
        let result = self.wait_for(&command.id)?;
        let value = self.codec.encode(TopicKind::Commands, command.to_json());
        let record = Outgoing {
            topic: &self.topic,
            // Where it is decided, also when the topic has got more partitions meanwhile.
            partition: Some(partition_of(command.project.as_str(), self.partitions)),
            key: command.project.as_str().as_bytes(),
            value: Some(&value),
            headers: Vec::new(),
        };
        let written = tokio::time::timeout_at(deadline, self.producer.send(&record)).await;
        let (partition, offset) = match written {
            Ok(Ok(written)) => written,
            Ok(Err(error)) => return Err(not_written(&error)),
            Err(_) => return Err(not_written(&"no answer in time")),
        };
        let Ok(Ok(result)) = tokio::time::timeout_at(deadline, result).await else {
            return Err(no_result("No result came in time"));
        };
        if result.outcome == CommandOutcome::Rejected {
            let unknown = || Problem::new(ProblemCode::Internal, "Rejected without a reason.");
            return Err(result.problem.unwrap_or_else(unknown));
        }
        // A release before this one answers without a number.
        let version = result.version.unwrap_or(offset);
        let seen = view.wait_for_command(partition, version);
        if tokio::time::timeout_at(deadline, seen).await.is_err() {
            return Err(no_result("It was carried out, but this instance does not see it yet"));
        }
        Ok(())
    }

    fn wait_for(&self, id: &CommandId) -> Result<oneshot::Receiver<CommandResult>, Problem> {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        if waiting.len() >= MAX_WAITING {
            let detail = "Too many changes wait for their results. Try again soon.";
            return Err(Problem::new(ProblemCode::Unavailable, detail));
        }
        waiting.entry(id.clone()).or_default().push(sender);
        Ok(receiver)
    }
}

/// Forgets those who wait no longer, however the request ended.
struct Waiting<'a> {
    commands: &'a Commands,
    id: &'a CommandId,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waiting = self.commands.waiting.lock();
        if let Some(waiters) = waiting.get_mut(self.id) {
            waiters.retain(|waiter| !waiter.is_closed());
            if waiters.is_empty() {
                waiting.remove(self.id);
            }
        }
    }
}

fn not_written(error: &dyn std::fmt::Display) -> Problem {
    tracing::warn!(%error, "a command was not written");
    if error.to_string() == ProduceError::TooLarge.to_string() {
        let detail = "The request is larger than the commands' topic takes.";
        return Problem::new(ProblemCode::TooLarge, detail);
    }
    Problem::new(
        ProblemCode::Unavailable,
        "Kafka does not answer, so nothing can be changed now; what there is can be read. Look \
         whether the change happened before you repeat it, or use an Idempotency-Key.",
    )
}

fn no_result(what: &str) -> Problem {
    Problem::new(
        ProblemCode::Timeout,
        format!(
            "{what}; the change may still happen. Look before you repeat it, or use an \
             Idempotency-Key."
        ),
    )
}

/// Reads until it is told to stop; a reader that lost its place is made anew at the end.
pub fn follow(
    mut reader: Reader,
    make: impl Fn() -> Result<Reader, crate::kafka::KafkaError>,
    stop: &AtomicBool,
    mut each: impl FnMut(Option<&[u8]>, &Bytes),
) {
    while !stop.load(Ordering::Relaxed) {
        match reader.poll(POLL) {
            ReaderEvent::Record(record) => {
                each(record.key.as_deref(), &record.value.unwrap_or_default());
            }
            ReaderEvent::End { .. } | ReaderEvent::Idle => {}
            ReaderEvent::Trouble(error) => tracing::debug!(error, "following a topic"),
            ReaderEvent::OutOfRange => {
                tracing::warn!("what was to be read next is gone; going on at the end");
                loop {
                    match make() {
                        Ok(fresh) => break reader = fresh,
                        Err(_) if stop.load(Ordering::Relaxed) => return,
                        Err(error) => {
                            tracing::warn!(%error, "cannot read");
                            thread::sleep(PAUSE);
                        }
                    }
                }
            }
        }
    }
}
