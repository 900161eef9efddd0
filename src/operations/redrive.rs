//! Redrive: sends dead letters again, marks them as redriven, and tries a sample first where that
//! is asked for.
//!
//! The mark is a note in the dead-letter topic itself, in the letters' own partition: it lives as
//! long as they do, and every machine sees it. A letter is written to the replay topic first and
//! marked then; what a redrive that was killed wrote and did not mark is found again by the next
//! one, at the end of the replay topic, and marked before anything is sent. One redrive runs at a
//! time: it is the only member of the consumer group `<group.id>.redrive`.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::ControlFlow,
    sync::Arc,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{CanaryOutcome, Operations, Redriven, names::check_names, run::Run, writer::Writer};
use crate::{
    clock::{self, Timestamp},
    delivery::{DeliveryRecord, Outcome, Reason},
    id::DeliveryId,
    kafka::{
        Bookmark, BookmarkMap, Bookmarks, Bounds, Offset, Outgoing, Reader, ReaderEvent,
        SoleMember, Span, TopicKind,
    },
    replay::{
        DeadFilter, DeadLetter, Fate, Marks, NOTE, NOTE_REDRIVEN, Newest, Position, RedrivePlan,
        RedrivenNote, Sifter, TooManyMarks, Which,
    },
};

/// Header of a replay record: the position of the dead letter that it was made of.
const REDRIVEN_FROM: &str = "dunmore-redriven-from";
/// Letters that are marked together.
const MARK_EVERY: usize = 500;
/// What was sent is marked after this at the latest.
const MARK_INTERVAL: Duration = Duration::from_secs(1);
/// Letters that may wait between the reader and the writer.
const LETTERS: usize = 1000;
/// The most letters of a canary.
const MAX_CANARY: u64 = 1000;

/// How to redrive.
pub struct Redrive {
    /// Which letters are meant by what became of them.
    pub which: Which,
    /// The share of a sample that is sent first, between 0 and 1.
    pub canary: Option<f64>,
    /// How long the outcomes of the sample are waited for.
    pub canary_wait: Duration,
}

/// Which of the letters that are left are sent.
enum Share {
    Sample { every: u64 },
    Rest { sample: HashSet<Position> },
}

/// A redrive under way.
struct Sending<'a> {
    job: &'a str,
    filter: Arc<DeadFilter>,
    sifter: Arc<Sifter>,
    member: Arc<SoleMember>,
    writer: Writer,
    /// Up to where the replay topic is accounted for: all that redrives wrote before is marked.
    accounted: BTreeMap<i32, i64>,
    /// Letters that were sent and are not marked yet, by partition.
    unmarked: BTreeMap<i32, Vec<i64>>,
    last_marked: Instant,
    run: &'a Run,
}

/// What was redriven, with and without a note.
struct AllMarks {
    marks: Marks,
    /// By partition of the dead letters: those without a note, because their redrive was killed.
    unmarked: BTreeMap<i32, Vec<i64>>,
    /// By partition of the replay topic: up to where it was looked through.
    accounted: BTreeMap<i32, i64>,
}

impl Operations {
    /// What a redrive would do. Blocks.
    pub fn plan_redrive(&self, filter: &DeadFilter, which: Which) -> anyhow::Result<RedrivePlan> {
        Ok(self.sift(filter, which)?.0)
    }

    fn sift(
        &self,
        filter: &DeadFilter,
        which: Which,
    ) -> anyhow::Result<(RedrivePlan, Sifter, AllMarks)> {
        let all_marks = self.all_marks(filter.from)?;
        let mut sifter = Sifter {
            which,
            marks: all_marks.marks.clone(),
            connectors: self.connectors()?,
            ..Sifter::default()
        };
        self.check_positions(&filter.positions)?;
        // Letters that are named are told from each other only; else any newer letter counts,
        // whatever its reason.
        let several = DeadFilter { from: filter.from, ..DeadFilter::default() };
        let compared = if filter.positions.is_empty() { &several } else { filter };
        let mut enough: Result<(), TooManyMarks> = Ok(());
        let mut newest = Newest::default();
        self.each_letter(compared, |letter| {
            enough = newest.see(&letter);
            if enough.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        enough?;
        sifter.newest = newest;
        let (mut candidates, mut oldest) = (HashSet::new(), None::<Timestamp>);
        self.each_letter(filter, |letter| {
            if let Some(delivery) = letter.delivery()
                && sifter.fate(&letter) == Fate::Sent
            {
                candidates.insert(delivery.delivery_id);
                oldest = Some(oldest.map_or(letter.at, |oldest| oldest.min(letter.at)));
            }
            ControlFlow::Continue(())
        })?;
        if let Some(oldest) = oldest {
            self.each_attempt(Some(oldest), None, |attempt| {
                let has_arrived = matches!(attempt.outcome, Outcome::Delivered | Outcome::Skipped);
                if has_arrived && candidates.contains(&attempt.delivery_id) {
                    sifter.arrived.insert(attempt.delivery_id);
                }
                ControlFlow::Continue(())
            })?;
        }
        let unmarked = all_marks.unmarked.values().map(Vec::len).sum::<usize>() as u64;
        let mut plan = RedrivePlan { unmarked, ..RedrivePlan::default() };
        self.each_letter(filter, |letter| {
            plan.count(&letter, &sifter);
            ControlFlow::Continue(())
        })?;
        if plan.matched == 0 {
            check_names(&filter.projects, &filter.connectors, &sifter.connectors)?;
        }
        Ok((plan, sifter, all_marks))
    }

    /// Sends what a filter takes again; `job` is what this redrive is called.
    pub async fn redrive(
        &self,
        job: &str,
        filter: DeadFilter,
        how: &Redrive,
        run: &Run,
    ) -> anyhow::Result<Redriven> {
        // What comes back from this redrive is not part of it.
        let filter = DeadFilter { to: Some(filter.to.unwrap_or_else(clock::now)), ..filter };
        let (planned, which, progress) = (filter.clone(), how.which, Arc::clone(&run.progress));
        let (member, sifted) = self
            .blocking(move |own| {
                let member = own.only_redrive(&progress)?;
                Ok((member, own.sift(&planned, which)?))
            })
            .await?;
        let (plan, sifter, all_marks) = sifted;
        run.progress.planned.store(plan.send, Ordering::Relaxed);
        run.progress.records.store(plan.send, Ordering::Relaxed);
        let mut sending = Sending {
            job,
            filter: Arc::new(filter),
            sifter: Arc::new(sifter),
            member: Arc::new(member),
            writer: self.writer(run.rate)?,
            accounted: all_marks.accounted,
            unmarked: all_marks.unmarked,
            last_marked: Instant::now(),
            run,
        };
        // First of all, and also where there is nothing to send: these were sent.
        self.mark(&mut sending).await?;
        let to_send = plan.send;
        let mut done = Redriven { job: job.to_owned(), plan, ..Redriven::default() };
        done.plan.send = 0;
        if to_send == 0 {
            return Ok(done);
        }
        let mut sample = HashSet::new();
        if let Some(share) = how.canary {
            #[expect(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a share of a count"
            )]
            let size = ((to_send as f64 * share).ceil() as u64).clamp(1, MAX_CANARY);
            let (connection, topic) = (self.connection.clone(), self.topic(TopicKind::Attempts));
            // The reader stands at the end of the attempts before the first is sent.
            let reader =
                self.blocking(move |_| Ok(Reader::all(&connection, &topic, Offset::End)?)).await?;
            let every = (to_send / size).max(1);
            let sent = self.send(&mut sending, Share::Sample { every }).await?;
            done.plan.send += sent.len() as u64;
            let ids = sent.values().copied().collect();
            let (name, wait, stop) = (job.to_owned(), how.canary_wait, run.stop.clone());
            let watch = move |own: &Self| Ok(own.watch(&reader, &name, ids, wait, &stop));
            let outcome = self.blocking(watch).await?;
            let is_good = outcome.is_good();
            done.canary = Some(outcome);
            if !is_good {
                done.stopped = run.stop.is_cancelled();
                return Ok(done);
            }
            sample = sent.into_keys().collect();
        }
        let sent = self.send(&mut sending, Share::Rest { sample }).await?;
        done.plan.send += sent.len() as u64;
        done.stopped = run.stop.is_cancelled();
        Ok(done)
    }

    /// Sends a share of the letters and marks them; returns where they were and their deliveries.
    async fn send(
        &self,
        sending: &mut Sending<'_>,
        share: Share,
    ) -> anyhow::Result<HashMap<Position, DeliveryId>> {
        let (sender, mut letters) = mpsc::channel::<DeadLetter>(LETTERS);
        let (filter, sifter) = (Arc::clone(&sending.filter), Arc::clone(&sending.sifter));
        let own = self.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let mut seen = 0;
            own.each_letter(&filter, |letter| {
                if sifter.fate(&letter) != Fate::Sent {
                    return ControlFlow::Continue(());
                }
                seen += 1;
                let is_in = match &share {
                    Share::Sample { every } => seen % every == 0,
                    Share::Rest { sample } => !sample.contains(&letter.position),
                };
                if !is_in || sender.blocking_send(letter).is_ok() {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            })
        });
        let mut sent = HashMap::new();
        while let Some(letter) = letters.recv().await {
            if sending.run.stop.is_cancelled() {
                break;
            }
            let Some(delivery) = letter.delivery() else { continue };
            let again = DeliveryRecord {
                // The whole ladder of retries again; the attempts made so far stay counted.
                steps: 0,
                deferred_since: None,
                not_before: None,
                due_at: clock::now(),
                job: Some(sending.job.to_owned()),
                ..delivery.clone()
            };
            sending.writer.turn().await?;
            if !sending.member.may_write() {
                self.mark(sending).await?;
            }
            let from = letter.position.to_string().into_bytes();
            sending.writer.hand_over(&again, vec![(REDRIVEN_FROM.to_owned(), from)])?;
            sending.run.progress.sent.fetch_add(1, Ordering::Relaxed);
            sending.run.progress.scanned.fetch_add(1, Ordering::Relaxed);
            sent.insert(letter.position, again.delivery_id);
            // The older letters of the delivery are done with, too.
            let older = sending.sifter.newest.older(again.delivery_id);
            for position in older.chain([letter.position]) {
                sending.unmarked.entry(position.partition).or_default().push(position.offset);
            }
            let waiting: usize = sending.unmarked.values().map(Vec::len).sum();
            if waiting >= MARK_EVERY || sending.last_marked.elapsed() >= MARK_INTERVAL {
                self.mark(sending).await?;
            }
        }
        drop(letters);
        reading.await??;
        self.mark(sending).await?;
        Ok(sent)
    }

    /// Marks what was sent, and keeps up to where the replay topic is accounted for. Fails when
    /// another redrive has taken this one's place.
    async fn mark(&self, sending: &mut Sending<'_>) -> anyhow::Result<()> {
        sending.writer.settle().await?;
        for (partition, offsets) in std::mem::take(&mut sending.unmarked) {
            for offsets in offsets.chunks(MARK_EVERY) {
                let note = Self::note_of(sending.job, offsets)?;
                sending.writer.note(&self.note_record(partition, &note)).await?;
            }
        }
        for (partition, offset) in &sending.writer.written {
            let accounted = sending.accounted.entry(*partition).or_default();
            *accounted = (*accounted).max(*offset);
        }
        sending.last_marked = Instant::now();
        let topic = self.topic(TopicKind::Replay);
        let note = json!({"job": sending.job, "at": clock::now()}).to_string();
        let bookmarks: BookmarkMap = sending
            .accounted
            .iter()
            .map(|(partition, offset)| {
                let bookmark = Bookmark { offset: *offset, note: note.clone() };
                ((topic.clone(), *partition), bookmark)
            })
            .collect();
        let member = Arc::clone(&sending.member);
        self.blocking(move |_| Ok(member.write(&bookmarks)?)).await
    }

    /// The value of a note about letters that were redriven.
    pub(super) fn note_of(job: &str, offsets: &[i64]) -> anyhow::Result<Vec<u8>> {
        let note = RedrivenNote { job: job.to_owned(), offsets: offsets.to_vec() };
        Ok(serde_json::to_vec(&note)?)
    }

    pub(super) fn note_record<'a>(&'a self, partition: i32, value: &'a [u8]) -> Outgoing<'a> {
        Outgoing {
            topic: &self.dead_topic,
            partition: Some(partition),
            key: b"",
            value: Some(value),
            headers: vec![(NOTE, NOTE_REDRIVEN.into())],
        }
    }

    /// What was redriven by the notes, and what was without a note because its redrive was killed:
    /// it is found in the replay topic, after where the last one left off, or in all of it where
    /// Kafka does not know that any more.
    fn all_marks(&self, from: Option<Timestamp>) -> anyhow::Result<AllMarks> {
        let topic = self.topic(TopicKind::Replay);
        let bounds = Bounds::of(&self.connection, &topic)?;
        let partitions: Vec<(String, i32)> =
            bounds.whole().keys().map(|partition| (topic.clone(), *partition)).collect();
        let kept = self.redrive_bookmarks()?.read(&partitions)?;
        // What is found in all of the replay topic may have been marked long ago.
        let mut marks = self.marks(if kept.len() < partitions.len() { None } else { from })?;
        let spans = bounds.whole().iter().map(|(partition, span)| {
            let from = kept.get(&(topic.clone(), *partition)).map_or(span.from, |kept| kept.offset);
            (*partition, Span { from: from.clamp(span.from, span.to), to: span.to })
        });
        let spans = spans.collect();
        let mut unmarked: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
        self.scan(&topic, &spans, |seen| {
            let from = seen.header(REDRIVEN_FROM).and_then(|from| std::str::from_utf8(from).ok());
            if let Some(Ok(position)) = from.map(str::parse::<Position>)
                && !marks.has(position)
            {
                marks.mark(position);
                unmarked.entry(position.partition).or_default().push(position.offset);
            }
            ControlFlow::Continue(())
        })?;
        let accounted = spans.iter().map(|(partition, span)| (*partition, span.to)).collect();
        Ok(AllMarks { marks, unmarked, accounted })
    }

    fn redrive_group(&self) -> String {
        format!("{}.redrive", self.group)
    }

    fn redrive_bookmarks(&self) -> anyhow::Result<Bookmarks> {
        Ok(Bookmarks::new(&self.connection, &self.redrive_group())?)
    }

    /// Becomes the only redrive. Blocks.
    fn only_redrive(&self, progress: &super::Progress) -> anyhow::Result<SoleMember> {
        let (what, group) = ("a redrive", self.redrive_group());
        let topic = self.topic(TopicKind::Replay);
        let bounds = Bounds::of(&self.connection, &topic)?;
        let partitions: Vec<(String, i32)> =
            bounds.whole().keys().map(|partition| (topic.clone(), *partition)).collect();
        let bookmarks = self.redrive_bookmarks()?;
        let before = bookmarks.read(&partitions)?;
        let moves = || Ok(bookmarks.read(&partitions)? != before);
        self.wait_until_left(what, &group, progress, moves)?;
        self.join(what, &group, TopicKind::Replay)
    }
}

impl Operations {
    /// Waits for the outcomes of a sample.
    fn watch(
        &self,
        reader: &Reader,
        job: &str,
        mut ids: HashSet<DeliveryId>,
        patience: Duration,
        stop: &CancellationToken,
    ) -> CanaryOutcome {
        let mut outcome = CanaryOutcome { sent: ids.len() as u64, ..CanaryOutcome::default() };
        let deadline = Instant::now() + patience;
        while !ids.is_empty() && Instant::now() < deadline && !stop.is_cancelled() {
            let ReaderEvent::Record(record) = reader.poll(Duration::from_millis(100)) else {
                continue;
            };
            let value = record.value.as_deref().unwrap_or_default();
            let Some(attempt) = self.attempt(value) else { continue };
            if attempt.job.as_deref() != Some(job) || !ids.remove(&attempt.delivery_id) {
                continue;
            }
            match attempt.outcome {
                Outcome::Delivered | Outcome::Skipped | Outcome::Cancelled => outcome.arrived += 1,
                Outcome::Retry | Outcome::Dead | Outcome::Deferred => {
                    let reason = attempt.reason.map_or("unknown", Reason::as_str);
                    *outcome.failed.entry(reason.to_owned()).or_default() += 1;
                }
            }
        }
        outcome.unheard = ids.len() as u64;
        outcome
    }
}

/// A share as an operator writes it: `1%` or `0.5%`.
pub fn share(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
    match number {
        Some(percent) if percent > 0.0 && percent <= 100.0 => Ok(percent / 100.0),
        _ => {
            let wrong = format!("{text:?} is no share such as 1%");
            Err(wrong)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_percentage() {
        assert_eq!(share("1%"), Ok(0.01));
        assert_eq!(share("0.5 %"), Ok(0.005));
        for wrong in ["", "1", "0%", "101%", "-1%", "x%"] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
    }
}
