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

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    Operations,
    jobs::{Ahead, COMMIT_INTERVAL, Kept},
    writer::Writer,
};
use crate::{
    clock,
    delivery::{DeliveryRecord, Origin},
    id::DeliveryId,
    kafka::{ProduceError, Seen, SoleMember, Spans, TopicKind, WRITE_TIMEOUT},
    pipeline::TRACEPARENT,
    replay::{Choice, History, Plan, Selection},
};

/// Events that are handed from the reader to the writer at once.
const CHUNK: usize = 256;
/// Chunks that may wait between them.
const CHUNKS: usize = 4;
/// Records after which the reader tells how far it is, though nothing was chosen.
const TELL_EVERY: u64 = 50_000;

/// How often a run begins again from where its progress was kept, when records were not
/// acknowledged in time: each takes about [`WRITE_TIMEOUT`] twice.
const MAX_RECOVERIES: u32 = 12;

/// How far a run is, for whoever watches.
#[derive(Debug, Default)]
pub struct Progress {
    /// Deliveries to be asked for in all; 0 where that is not known.
    pub planned: AtomicU64,
    /// Records to be read.
    pub records: AtomicU64,
    /// Records read.
    pub scanned: AtomicU64,
    /// Deliveries asked for, those of earlier runs of the job included.
    pub sent: AtomicU64,
    /// Deliveries left out because they arrived before.
    pub left_out: AtomicU64,
    /// What is waited for before the run can begin.
    waiting: Mutex<Option<String>>,
}

impl Progress {
    /// Says what is waited for.
    pub fn wait_for(&self, what: String) {
        *self.waiting.lock() = Some(what);
    }

    /// What is waited for, once.
    pub fn waits_for(&self) -> Option<String> {
        self.waiting.lock().take()
    }
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

/// What a job works with.
struct Material {
    choice: Arc<Choice>,
    history: Option<Arc<History>>,
    ahead: Ahead,
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
        let (name, planned) = (id.to_owned(), run.progress.planned.load(Ordering::Relaxed));
        let (kept, member) =
            self.blocking(move |own| own.begin(&name, &selection, &spans, planned)).await?;
        begun();
        let (choice, history) = (Arc::new(choice), history.map(Arc::new));
        self.work_on(id, kept, member, Material { choice, history, ahead: Ahead::new() }, run).await
    }

    /// Goes on with a job.
    pub async fn resume(&self, id: &str, run: &Run) -> anyhow::Result<Finished> {
        let (name, progress) = (id.to_owned(), Arc::clone(&run.progress));
        let (kept, member, ahead) = self.blocking(move |own| own.take_up(&name, &progress)).await?;
        let selection = kept.job.selection();
        let material = self
            .blocking(move |own| {
                let history =
                    selection.only_missing.then(|| own.history(&selection)).transpose()?;
                let choice = own.connectors()?.choose(&selection, history.as_ref());
                let (choice, history) = (Arc::new(choice), history.map(Arc::new));
                Ok(Material { choice, history, ahead })
            })
            .await?;
        self.work_on(id, kept, member, material, run).await
    }

    /// Works until the job is done or stopped. Where the broker did not acknowledge records in
    /// time, nobody knows whether it has them: then this begins again as a resume does.
    async fn work_on(
        &self,
        id: &str,
        mut kept: Kept,
        member: SoleMember,
        mut material: Material,
        run: &Run,
    ) -> anyhow::Result<Finished> {
        let member = Arc::new(member);
        let (mut found, mut recoveries) = (0, 0);
        loop {
            let worked = self.work(id, kept, &member, &material, run, &mut found).await;
            let error = match worked {
                Err(error) if is_unacknowledged(&error) && !run.stop.is_cancelled() => error,
                ended => return ended,
            };
            // What was sent and not acknowledged is there by now, or never will be.
            tokio::time::sleep(WRITE_TIMEOUT).await;
            recoveries += 1;
            if recoveries > MAX_RECOVERIES {
                return Err(error);
            }
            tracing::warn!(job = id, error = format!("{error:#}"), "beginning again");
            let name = id.to_owned();
            (kept, material.ahead) = self.blocking(move |own| own.take_stock(&name)).await?;
        }
    }

    async fn work(
        &self,
        id: &str,
        mut kept: Kept,
        member: &Arc<SoleMember>,
        material: &Material,
        run: &Run,
        found: &mut u64,
    ) -> anyhow::Result<Finished> {
        let progress = &run.progress;
        let (records, scanned) = kept.job.progress();
        progress.records.store(records, Ordering::Relaxed);
        progress.scanned.store(scanned, Ordering::Relaxed);
        progress.planned.store(kept.job.planned().unwrap_or_default(), Ordering::Relaxed);
        let mut writer = self.writer(run.rate)?;
        let (sender, mut chunks) = mpsc::channel(CHUNKS);
        let (own, spans, name) = (self.clone(), Self::left(&kept.job), id.to_owned());
        let (choice, history) = (Arc::clone(&material.choice), material.history.clone());
        let reading = tokio::task::spawn_blocking(move || {
            own.read(&name, &spans, &choice, history.as_deref(), &sender)
        });
        // What was kept last: kept again, it confirms that this process still runs the job.
        let mut last = kept.clone();
        material.ahead.iter().for_each(|(partition, _, _)| kept.job.sent_one(*partition));
        progress.sent.store(kept.job.sent(), Ordering::Relaxed);
        let (mut last_kept, mut stopped) = (Instant::now(), false);
        'work: while let Some(chunk) = tokio::select! {
            chunk = chunks.recv() => chunk,
            () = run.stop.cancelled() => { stopped = true; None }
        } {
            for event in chunk.events {
                if run.stop.is_cancelled() {
                    stopped = true;
                    break 'work;
                }
                for delivery in &event.deliveries {
                    let key = (event.partition, event.offset, delivery.delivery_id);
                    if material.ahead.contains(&key) {
                        *found += 1;
                        continue;
                    }
                    writer.turn().await?;
                    if !member.may_write() {
                        last = self.commit(member, last).await?;
                    }
                    let trace = event.traceparent.clone();
                    let headers = trace.map(|trace| (TRACEPARENT.to_owned(), trace));
                    writer.hand_over(delivery, headers.into_iter().collect())?;
                    kept.job.sent_one(event.partition);
                    progress.sent.fetch_add(1, Ordering::Relaxed);
                }
                kept.job.pass(event.partition, event.offset + 1);
                if last_kept.elapsed() >= COMMIT_INTERVAL {
                    self.checkpoint(member, &mut kept, &mut last, material, &mut writer).await?;
                    last_kept = Instant::now();
                }
            }
            for (partition, position) in chunk.positions {
                kept.job.pass(partition, position);
            }
            // Also where nothing is chosen: a job that does not move is taken to be left.
            if last_kept.elapsed() >= COMMIT_INTERVAL {
                self.checkpoint(member, &mut kept, &mut last, material, &mut writer).await?;
                last_kept = Instant::now();
            }
            progress.scanned.fetch_add(chunk.scanned, Ordering::Relaxed);
            progress.left_out.fetch_add(chunk.left_out, Ordering::Relaxed);
        }
        drop(chunks);
        let read = reading.await?;
        self.checkpoint(member, &mut kept, &mut last, material, &mut writer).await?;
        let plan = read?;
        let sent = kept.job.sent();
        Ok(Finished { job: id.to_owned(), plan, sent, found: *found, stopped })
    }

    /// Keeps the progress when everything before it is durable. As long as something that an
    /// earlier run wrote lies ahead, what was kept before stays: who resumes must find all of it
    /// again.
    async fn checkpoint(
        &self,
        member: &Arc<SoleMember>,
        kept: &mut Kept,
        last: &mut Kept,
        material: &Material,
        writer: &mut Writer,
    ) -> anyhow::Result<()> {
        writer.settle().await?;
        let is_ahead = |(partition, offset, _): &(i32, i64, DeliveryId)| {
            kept.job.partitions.get(partition).is_some_and(|(at, _)| at <= offset)
        };
        if !material.ahead.iter().any(is_ahead) {
            kept.written.extend(&writer.written);
            last.clone_from(kept);
        }
        *last = self.commit(member, last.clone()).await?;
        Ok(())
    }

    async fn commit(&self, member: &Arc<SoleMember>, mut kept: Kept) -> anyhow::Result<Kept> {
        let member = Arc::clone(member);
        self.blocking(move |own| own.keep(&member, &mut kept).map(|()| kept)).await
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
    id: DeliveryId,
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
        not_before: None,
        due_at: clock::now(),
        last_error: None,
        origin: Origin { topic: topic.into(), partition: seen.partition(), offset: seen.offset() },
        job: Some(job.to_owned()),
    }
}

fn is_unacknowledged(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(ProduceError::NotAcknowledged(_)))
}
