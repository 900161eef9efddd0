//! Redrive: sends dead letters again, marks them as redriven, and tries a sample first where that
//! is asked for.
//!
//! The mark is a note in the dead-letter topic itself, in the letters' own partition: it lives as
//! long as they do, and every machine sees it. A letter is written to the replay topic first and
//! marked then; what a redrive that was killed wrote and did not mark is found again by the next
//! one, at the end of the replay topic.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::ControlFlow,
    sync::Arc,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use anyhow::bail;
use serde::Serialize;
use tokio::sync::mpsc;

use super::{Operations, run::Run, writer::Writer};
use crate::{
    clock,
    delivery::{DeliveryRecord, Outcome, Reason},
    id::DeliveryId,
    kafka::{
        Bookmark, BookmarkMap, Bookmarks, Bounds, Offset, Outgoing, Reader, ReaderEvent, Span,
        TopicKind,
    },
    replay::{DeadFilter, DeadLetter, Marks, NOTE, NOTE_REDRIVEN, Position, RedrivenNote},
};

/// Header of a replay record: the position of the dead letter that it was made of.
const REDRIVEN_FROM: &str = "dunmore-redriven-from";
/// Letters that are marked together.
const MARK_EVERY: usize = 500;
/// Letters that may wait between the reader and the writer.
const LETTERS: usize = 1000;
/// The most letters of a canary.
const MAX_CANARY: u64 = 1000;

/// How to redrive.
pub struct Redrive {
    /// Also what was redriven before, and what failed again after that.
    pub again: bool,
    /// The share of a sample that is sent first, between 0 and 1.
    pub canary: Option<f64>,
    /// How long the outcomes of the sample are waited for.
    pub canary_wait: Duration,
}

/// How a redrive ended.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Redriven {
    /// The redrive's name, which its attempts carry.
    pub job: String,
    /// Letters that the filter took.
    pub matched: u64,
    /// Letters that were sent.
    pub sent: u64,
    /// Left out: they were redriven before, or failed again after that.
    pub left_out: u64,
    /// Left out: records that could not be read, which are no deliveries.
    pub undecodable: u64,
    /// Whether it was stopped before its end.
    pub stopped: bool,
    /// How the sample did, when there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryOutcome>,
}

/// How a sample did.
#[derive(Debug, Default, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CanaryOutcome {
    /// Letters in it.
    pub sent: u64,
    /// Those that arrived, or are not wanted any more.
    pub arrived: u64,
    /// Those that failed again, by reason.
    pub failed: BTreeMap<String, u64>,
    /// Those of which nothing was heard in time.
    pub unheard: u64,
}

impl CanaryOutcome {
    /// Whether the rest may follow.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.failed.is_empty() && self.unheard == 0
    }
}

/// Which of the letters that are left are sent.
enum Share {
    Sample { every: u64 },
    Rest { sample: HashSet<Position> },
}

impl Operations {
    /// How many letters a redrive would send. Blocks.
    pub fn plan_redrive(&self, filter: &DeadFilter, again: bool) -> anyhow::Result<Redriven> {
        let marks = self.all_marks(filter)?.0;
        let mut plan = Redriven::default();
        self.each_letter(filter, |letter| {
            plan.count(&letter, &marks, again);
            ControlFlow::Continue(())
        })?;
        Ok(plan)
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
        let (planned, again) = (filter.clone(), how.again);
        let plan = self.blocking(move |own| own.plan_redrive(&planned, again)).await?;
        run.progress.records.store(plan.sent, Ordering::Relaxed);
        let job = job.to_owned();
        let mut done = Redriven { job: job.clone(), sent: 0, ..plan };
        if plan.sent == 0 {
            return Ok(done);
        }
        let filter = Arc::new(filter);
        let marked = filter.clone();
        let (marks, unmarked) = self.blocking(move |own| own.all_marks(&marked)).await?;
        let mut writer = self.writer(run.rate)?;
        for (partition, offsets) in unmarked {
            self.note(&mut writer, &job, partition, offsets).await?;
        }
        let marks = Arc::new(marks);
        let mut sample = HashSet::new();
        if let Some(share) = how.canary {
            #[expect(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a share of a count"
            )]
            let size = ((plan.sent as f64 * share).ceil() as u64).clamp(1, MAX_CANARY);
            let (connection, topic) = (self.connection.clone(), self.topic(TopicKind::Attempts));
            // The reader stands at the end of the attempts before the first is sent.
            let reader =
                self.blocking(move |_| Ok(Reader::all(&connection, &topic, Offset::End)?)).await?;
            let every = (plan.sent / size).max(1);
            let share = Share::Sample { every };
            let sent = self.send(&job, &filter, &marks, how.again, share, &mut writer, run).await?;
            done.sent += sent.len() as u64;
            let ids = sent.values().copied().collect();
            let (name, wait) = (job.clone(), how.canary_wait);
            let outcome =
                self.blocking(move |own| Ok(own.watch(&reader, &name, ids, wait))).await?;
            let is_good = outcome.is_good();
            done.canary = Some(outcome);
            if !is_good {
                return Ok(done);
            }
            sample = sent.into_keys().collect();
        }
        let share = Share::Rest { sample };
        let sent = self.send(&job, &filter, &marks, how.again, share, &mut writer, run).await?;
        done.sent += sent.len() as u64;
        done.stopped = run.stop.is_cancelled();
        self.blocking(Self::redrive_is_accounted_for).await?;
        Ok(done)
    }

    /// Sends a share of the letters and marks them; returns where they were and their deliveries.
    #[expect(clippy::too_many_arguments, reason = "one step of a redrive, taken once or twice")]
    async fn send(
        &self,
        job: &str,
        filter: &Arc<DeadFilter>,
        marks: &Arc<Marks>,
        again: bool,
        share: Share,
        writer: &mut Writer,
        run: &Run,
    ) -> anyhow::Result<HashMap<Position, DeliveryId>> {
        let (sender, mut letters) = mpsc::channel::<DeadLetter>(LETTERS);
        let (filter, marks) = (Arc::clone(filter), Arc::clone(marks));
        let own = self.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let mut seen = 0;
            own.each_letter(&filter, |letter| {
                if letter.delivery().is_none() || !marks.permits(&letter, again) {
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
        let mut to_mark: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
        let mut unmarked = 0;
        while let Some(letter) = letters.recv().await {
            if run.stop.is_cancelled() {
                break;
            }
            let Some(delivery) = letter.delivery() else { continue };
            let again = DeliveryRecord {
                // The whole ladder of retries again; the attempts made so far stay counted.
                steps: 0,
                deferred_since: None,
                due_at: clock::now(),
                job: Some(job.to_owned()),
                ..delivery.clone()
            };
            let from = letter.position.to_string().into_bytes();
            writer.write(&again, vec![(REDRIVEN_FROM.to_owned(), from)]).await?;
            run.progress.sent.fetch_add(1, Ordering::Relaxed);
            run.progress.scanned.fetch_add(1, Ordering::Relaxed);
            sent.insert(letter.position, again.delivery_id);
            to_mark.entry(letter.position.partition).or_default().push(letter.position.offset);
            unmarked += 1;
            if unmarked >= MARK_EVERY {
                writer.settle().await?;
                for (partition, offsets) in std::mem::take(&mut to_mark) {
                    self.note(writer, job, partition, offsets).await?;
                }
                unmarked = 0;
            }
        }
        drop(letters);
        reading.await??;
        writer.settle().await?;
        for (partition, offsets) in to_mark {
            self.note(writer, job, partition, offsets).await?;
        }
        Ok(sent)
    }

    async fn note(
        &self,
        writer: &mut Writer,
        job: &str,
        partition: i32,
        offsets: Vec<i64>,
    ) -> anyhow::Result<()> {
        let value = serde_json::to_vec(&RedrivenNote { job: job.to_owned(), offsets })?;
        let record = Outgoing {
            topic: &self.topic(TopicKind::Dead),
            partition: Some(partition),
            key: b"",
            value: Some(&value),
            headers: vec![(NOTE, NOTE_REDRIVEN.into())],
        };
        writer.note(&record).await
    }

    /// What was redriven by the notes, and what was without a note because its redrive was killed.
    fn all_marks(&self, filter: &DeadFilter) -> anyhow::Result<(Marks, BTreeMap<i32, Vec<i64>>)> {
        let mut marks = self.marks(filter.from)?;
        let topic = self.topic(TopicKind::Replay);
        let bounds = Bounds::of(&self.connection, &topic)?;
        let bookmarks = self.redrive_bookmarks()?;
        let partitions: Vec<(String, i32)> =
            bounds.whole().keys().map(|partition| (topic.clone(), *partition)).collect();
        let kept = bookmarks.read(&partitions)?;
        if kept.is_empty() {
            // The first redrive, or the first for a long time: from now on it is accounted for.
            self.redrive_is_accounted_for()?;
            return Ok((marks, BTreeMap::new()));
        }
        let spans = bounds.whole().iter().map(|(partition, span)| {
            let from = kept.get(&(topic.clone(), *partition)).map_or(span.from, |kept| kept.offset);
            (*partition, Span { from: from.clamp(span.from, span.to), to: span.to })
        });
        let mut unmarked: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
        self.scan(&topic, &spans.collect(), |seen| {
            let from = seen.header(REDRIVEN_FROM).and_then(|from| std::str::from_utf8(from).ok());
            if let Some(Ok(position)) = from.map(str::parse::<Position>)
                && !marks.has(position)
            {
                marks.mark(position);
                unmarked.entry(position.partition).or_default().push(position.offset);
            }
            ControlFlow::Continue(())
        })?;
        Ok((marks, unmarked))
    }

    fn redrive_bookmarks(&self) -> anyhow::Result<Bookmarks> {
        Ok(Bookmarks::new(&self.connection, &format!("{}.redrive", self.group))?)
    }

    /// Everything that is in the replay topic now has its marks.
    fn redrive_is_accounted_for(&self) -> anyhow::Result<()> {
        let topic = self.topic(TopicKind::Replay);
        let bounds = Bounds::of(&self.connection, &topic)?;
        let kept: BookmarkMap = bounds
            .whole()
            .iter()
            .map(|(partition, span)| {
                let bookmark = Bookmark { offset: span.to, note: String::new() };
                ((topic.clone(), *partition), bookmark)
            })
            .collect();
        self.redrive_bookmarks()?.write(&kept)?;
        Ok(())
    }
}

impl Redriven {
    fn count(&mut self, letter: &DeadLetter, marks: &Marks, again: bool) {
        self.matched += 1;
        if letter.delivery().is_none() {
            self.undecodable += 1;
        } else if marks.permits(letter, again) {
            self.sent += 1;
        } else {
            self.left_out += 1;
        }
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
    ) -> CanaryOutcome {
        let mut outcome = CanaryOutcome { sent: ids.len() as u64, ..CanaryOutcome::default() };
        let deadline = Instant::now() + patience;
        while !ids.is_empty() && Instant::now() < deadline {
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

/// Refuses a canary that nobody could hear of.
pub fn check_canary(logging: crate::config::AttemptLogging) -> anyhow::Result<()> {
    if logging != crate::config::AttemptLogging::All {
        bail!(
            "a canary needs the record of every attempt, and delivery.attempt_log is not `all`: \
             set it for the instances that deliver, or redrive a few letters with --position first"
        );
    }
    Ok(())
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
