//! Runs a replay: reads the chosen events and writes their deliveries to the replay topic, with
//! its progress kept in Kafka.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    Operations,
    jobs::{Ahead, COMMIT_INTERVAL},
    writer::Writer,
};
use crate::{
    clock,
    delivery::{DeliveryRecord, Origin},
    kafka::{Bookmarks, Seen, Spans, TopicKind},
    pipeline::TRACEPARENT,
    replay::{Choice, History, Job, Plan, Selection},
};

/// Events that are handed from the reader to the writer at once.
const CHUNK: usize = 256;
/// Chunks that may wait between them.
const CHUNKS: usize = 4;
/// Records after which the reader tells how far it is, though nothing was chosen.
const TELL_EVERY: u64 = 50_000;

/// How far a run is, for whoever watches.
#[derive(Debug, Default)]
pub struct Progress {
    /// Records to be read.
    pub records: AtomicU64,
    /// Records read.
    pub scanned: AtomicU64,
    /// Deliveries asked for, those of earlier runs of the job included.
    pub sent: AtomicU64,
    /// Deliveries left out because they arrived before.
    pub left_out: AtomicU64,
}

/// How to run.
pub struct Run {
    /// Deliveries per second.
    pub rate: f64,
    /// Stops the run in good order.
    pub stop: CancellationToken,
    /// Where progress is told.
    pub progress: Arc<Progress>,
}

/// How a run ended.
#[derive(Debug)]
pub struct Finished {
    /// The job.
    pub job: String,
    /// What this run read and chose.
    pub plan: Plan,
    /// Deliveries asked for by the job in all.
    pub sent: u64,
    /// Of them, those that an earlier run had written without keeping its progress.
    pub found: u64,
    /// Whether it was stopped before its end.
    pub stopped: bool,
}

impl Finished {
    /// The run as programs read it.
    pub fn to_json(&self) -> Value {
        json!({
            "job": self.job,
            "state": if self.stopped { "stopped" } else { "done" },
            "sent": self.sent,
            "foundFromBefore": self.found,
            "run": self.plan.to_json(),
        })
    }
}

struct Chosen {
    partition: i32,
    offset: i64,
    deliveries: Vec<DeliveryRecord>,
    traceparent: Option<Vec<u8>>,
}

/// Events in the order of their partitions, and how far the reader is after them.
struct Chunk {
    events: Vec<Chosen>,
    positions: BTreeMap<i32, i64>,
    scanned: u64,
    left_out: u64,
}

impl Operations {
    /// Starts a job of this name with these offsets and runs it. `begun` is called as soon as it
    /// can be resumed.
    #[expect(clippy::too_many_arguments, reason = "what a job is made of")]
    pub async fn replay(
        &self,
        id: &str,
        selection: Selection,
        spans: Spans,
        choice: Choice,
        history: Option<History>,
        run: &Run,
        begun: impl FnOnce(),
    ) -> anyhow::Result<Finished> {
        let name = id.to_owned();
        let (job, bookmarks) =
            self.blocking(move |own| own.begin(&name, &selection, &spans)).await?;
        begun();
        self.work(id.to_owned(), job, bookmarks, Ahead::new(), choice, history, run).await
    }

    /// Goes on with a job.
    pub async fn resume(&self, id: &str, run: &Run) -> anyhow::Result<Finished> {
        let name = id.to_owned();
        let (job, bookmarks, ahead) = self.blocking(move |own| own.take_up(&name)).await?;
        let selection = job.selection();
        let (choice, history) = self
            .blocking(move |own| {
                let history =
                    selection.only_missing.then(|| own.history(&selection)).transpose()?;
                let choice = own.connectors()?.choose(&selection, history.as_ref());
                Ok((choice, history))
            })
            .await?;
        self.work(id.to_owned(), job, bookmarks, ahead, choice, history, run).await
    }

    #[expect(clippy::too_many_arguments, reason = "what a job is made of, used once")]
    async fn work(
        &self,
        id: String,
        mut job: Job,
        bookmarks: Bookmarks,
        ahead: Ahead,
        choice: Choice,
        history: Option<History>,
        run: &Run,
    ) -> anyhow::Result<Finished> {
        let progress = &run.progress;
        let (records, scanned) = job.progress();
        progress.records.store(records, Ordering::Relaxed);
        progress.scanned.store(scanned, Ordering::Relaxed);
        progress.sent.store(job.sent(), Ordering::Relaxed);
        let mut writer = self.writer(run.rate)?;
        let bookmarks = Arc::new(bookmarks);
        let (sender, mut chunks) = mpsc::channel(CHUNKS);
        let (own, spans, name) = (self.clone(), Self::left(&job), id.clone());
        let reading = tokio::task::spawn_blocking(move || {
            own.read(&name, &spans, &choice, history.as_ref(), &sender)
        });
        let (mut last_kept, mut stopped, mut found) = (Instant::now(), false, 0);
        'work: while let Some(chunk) = tokio::select! {
            chunk = chunks.recv() => chunk,
            () = run.stop.cancelled() => { stopped = true; None }
        } {
            for event in chunk.events {
                if run.stop.is_cancelled() {
                    stopped = true;
                    break 'work;
                }
                let Some((at, note)) = job.partitions.get_mut(&event.partition) else { continue };
                for delivery in &event.deliveries {
                    if ahead.contains(&(event.partition, event.offset, delivery.delivery_id)) {
                        found += 1;
                        continue;
                    }
                    let trace = event.traceparent.clone();
                    let headers = trace.map(|trace| (TRACEPARENT.to_owned(), trace));
                    writer.write(delivery, headers.into_iter().collect()).await?;
                    note.sent += 1;
                    progress.sent.fetch_add(1, Ordering::Relaxed);
                }
                *at = event.offset + 1;
                if last_kept.elapsed() >= COMMIT_INTERVAL {
                    job = self.commit(&bookmarks, job, &mut writer).await?;
                    last_kept = Instant::now();
                }
            }
            for (partition, position) in chunk.positions {
                if let Some((at, _)) = job.partitions.get_mut(&partition) {
                    *at = (*at).max(position);
                }
            }
            // Also where nothing is chosen: a job that does not move is taken to be left.
            if last_kept.elapsed() >= COMMIT_INTERVAL {
                job = self.commit(&bookmarks, job, &mut writer).await?;
                last_kept = Instant::now();
            }
            progress.scanned.fetch_add(chunk.scanned, Ordering::Relaxed);
            progress.left_out.fetch_add(chunk.left_out, Ordering::Relaxed);
        }
        drop(chunks);
        let read = reading.await?;
        let job = self.commit(&bookmarks, job, &mut writer).await?;
        let plan = read?;
        Ok(Finished { job: id, plan, sent: job.sent(), found, stopped })
    }

    /// Keeps the progress when everything before it is durable.
    async fn commit(
        &self,
        bookmarks: &Arc<Bookmarks>,
        mut job: Job,
        writer: &mut Writer,
    ) -> anyhow::Result<Job> {
        writer.settle().await?;
        let (written, bookmarks) = (writer.written.clone(), Arc::clone(bookmarks));
        self.blocking(move |own| own.keep(&bookmarks, &mut job, &written).map(|()| job)).await
    }

    fn read(
        &self,
        job: &str,
        spans: &Spans,
        choice: &Choice,
        history: Option<&History>,
        chunks: &mpsc::Sender<Chunk>,
    ) -> anyhow::Result<Plan> {
        let topic = self.topic(TopicKind::Events);
        let mut plan = choice.plan();
        let mut chunk = Chunk::new();
        let mut counted = (0, 0);
        let unanswered = self.unanswered();
        self.scan(&topic, spans, |seen| {
            if let Some((event, targets)) = self.weigh(seen, choice, history, &mut plan) {
                let deliveries = targets.iter().map(|known| {
                    asked_for(known.delivery(&event.id), known, &event, seen, &topic, job)
                });
                chunk.events.push(Chosen {
                    partition: seen.partition(),
                    offset: seen.offset(),
                    deliveries: deliveries.collect(),
                    traceparent: seen.header(TRACEPARENT).map(<[u8]>::to_vec),
                });
            }
            if self.unanswered() != unanswered {
                // Not passed: who resumes begins with it.
                return ControlFlow::Break(());
            }
            chunk.positions.insert(seen.partition(), seen.offset() + 1);
            if chunk.events.len() < CHUNK && plan.scanned - counted.0 < TELL_EVERY {
                return ControlFlow::Continue(());
            }
            chunk.scanned = plan.scanned - counted.0;
            let left_out = if choice.leaves_out() { plan.delivered() } else { 0 };
            chunk.left_out = left_out - counted.1;
            counted = (plan.scanned, left_out);
            // Nobody takes it when the run was stopped.
            match chunks.blocking_send(std::mem::replace(&mut chunk, Chunk::new())) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        })?;
        // To the very end, past markers and what compaction or retention left out.
        chunk.positions = spans.iter().map(|(partition, span)| (*partition, span.to)).collect();
        chunk.scanned = plan.scanned - counted.0;
        chunk.left_out =
            if choice.leaves_out() { plan.delivered().saturating_sub(counted.1) } else { 0 };
        let _ = chunks.blocking_send(chunk);
        Ok(plan)
    }
}

impl Chunk {
    fn new() -> Self {
        let (events, positions) = (Vec::with_capacity(CHUNK), BTreeMap::new());
        Self { events, positions, scanned: 0, left_out: 0 }
    }
}

fn asked_for(
    id: crate::id::DeliveryId,
    known: &crate::replay::Known,
    event: &crate::event::Event,
    seen: &Seen<'_>,
    topic: &str,
    job: &str,
) -> DeliveryRecord {
    DeliveryRecord {
        delivery_id: id,
        connector: known.key.clone(),
        connector_type: known.kind,
        connector_created_at: Some(known.created_at),
        event: event.clone(),
        attempts: 0,
        steps: 0,
        accepted_at: seen.timestamp(),
        first_attempt_at: None,
        deferred_since: None,
        due_at: clock::now(),
        last_error: None,
        origin: Origin { topic: topic.into(), partition: seen.partition(), offset: seen.offset() },
        job: Some(job.to_owned()),
    }
}
