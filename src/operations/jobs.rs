//! Jobs: what replays have done so far, kept in Kafka as the positions of a group that nobody joins.
//!
//! The group is named after the job. Its positions in the events topic say how far the job has
//! read, with a note that holds the selection; those in the replay topic say up to where the job's
//! own records are accounted for. Both are committed in one request, after everything before them
//! was acknowledged. So whoever resumes reads the selection, and then the end of the replay topic
//! to see what was written after the last commit.

use std::{
    collections::{BTreeMap, HashSet},
    ops::ControlFlow,
    time::Duration,
};

use anyhow::anyhow;

use super::{NotThere, Operations};
use crate::{
    clock::{self, Timestamp},
    id::DeliveryId,
    kafka::{Bookmark, BookmarkMap, Bookmarks, Bounds, Span, Spans, TopicKind},
    replay::{Job, JobNote, REDRIVE, Selection},
};

/// A running job commits more often than this.
pub(super) const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// For so long a job must not move before another process takes it over.
const QUIET: Duration = Duration::from_millis(2500);

/// What a job wrote after its progress was last kept: the event's record, and the delivery.
pub(super) type Ahead = HashSet<(i32, i64, DeliveryId)>;

/// Somebody else works on the job.
#[derive(Debug, thiserror::Error)]
#[error("{0} is running elsewhere: it moved just now. Stop it there first, or let it end")]
pub struct StillRunning(String);

impl Operations {
    pub(super) fn job_group(&self, job: &str) -> String {
        format!("{}.job.{job}", self.group)
    }

    /// A new replay's name.
    pub fn new_replay(now: Timestamp) -> String {
        Self::new_job("replay-", now)
    }

    /// A new redrive's name.
    pub fn new_redrive(now: Timestamp) -> String {
        Self::new_job(REDRIVE, now)
    }

    fn new_job(prefix: &str, now: Timestamp) -> String {
        let moment: String =
            now.to_string().chars().filter(char::is_ascii_alphanumeric).take(15).collect();
        let chance = uuid::Uuid::new_v4().simple().to_string();
        format!("{prefix}{}-{}", moment.to_lowercase(), &chance[..6])
    }

    /// Every job that Kafka still knows, the latest first. Blocks.
    pub fn jobs(&self) -> anyhow::Result<Vec<(String, Job)>> {
        let prefix = self.job_group("");
        let mut jobs = Vec::new();
        for group in Bookmarks::names(&self.connection, &prefix)? {
            let id = group.strip_prefix(&prefix).unwrap_or_default().to_owned();
            let (job, _) = self.kept(&Bookmarks::new(&self.connection, &group)?)?;
            // One that is just begun has no progress yet, and Kafka forgets that of old ones.
            if !job.partitions.is_empty() {
                jobs.push((id, job));
            }
        }
        jobs.sort_by_key(|(_, job)| std::cmp::Reverse(job.started_at()));
        Ok(jobs)
    }

    /// A job's progress. Blocks.
    pub fn job(&self, id: &str) -> anyhow::Result<Job> {
        let (job, _) = self.kept(&Bookmarks::new(&self.connection, &self.job_group(id))?)?;
        if job.partitions.is_empty() {
            let why = format!(
                "there is no job {id} (any more): `dunmore replay --list` shows those that Kafka \
                 knows; it forgets one some days after its last progress"
            );
            return Err(NotThere(why).into());
        }
        Ok(job)
    }

    /// A job's progress, and its positions in the replay topic.
    fn kept(&self, bookmarks: &Bookmarks) -> anyhow::Result<(Job, BTreeMap<i32, i64>)> {
        let (events, replay) = (self.topic(TopicKind::Events), self.topic(TopicKind::Replay));
        let mut partitions = Vec::new();
        for topic in [&events, &replay] {
            let whole = Bounds::of(&self.connection, topic)?;
            partitions.extend(whole.whole().keys().map(|partition| (topic.clone(), *partition)));
        }
        let (mut job, mut written) = (Job::default(), BTreeMap::new());
        for ((topic, partition), bookmark) in bookmarks.read(&partitions)? {
            if topic == replay {
                written.insert(partition, bookmark.offset);
            } else if let Some(note) = JobNote::from_text(&bookmark.note) {
                job.partitions.insert(partition, (bookmark.offset, note));
            }
        }
        Ok((job, written))
    }

    /// Keeps a job's progress. Blocks.
    pub(super) fn keep(
        &self,
        bookmarks: &Bookmarks,
        job: &mut Job,
        written: &BTreeMap<i32, i64>,
    ) -> anyhow::Result<()> {
        let (events, replay) = (self.topic(TopicKind::Events), self.topic(TopicKind::Replay));
        let now = clock::now();
        let mut kept = BookmarkMap::new();
        for (partition, (offset, note)) in &mut job.partitions {
            note.at = now;
            let bookmark = Bookmark { offset: *offset, note: note.to_text()? };
            kept.insert((events.clone(), *partition), bookmark);
        }
        for (partition, offset) in written {
            let bookmark = Bookmark { offset: *offset, note: String::new() };
            kept.insert((replay.clone(), *partition), bookmark);
        }
        bookmarks.write(&kept)?;
        Ok(())
    }

    /// Starts a job: from here on it can be resumed. Blocks.
    pub(super) fn begin(
        &self,
        id: &str,
        selection: &Selection,
        spans: &Spans,
    ) -> anyhow::Result<(Job, Bookmarks)> {
        let now = clock::now();
        let mut job = Job::default();
        for (partition, span) in spans {
            let note = JobNote::new(selection.clone(), now, span.from, span.to);
            job.partitions.insert(*partition, (span.from, note));
        }
        let bookmarks = Bookmarks::new(&self.connection, &self.job_group(id))?;
        let replay = Bounds::of(&self.connection, &self.topic(TopicKind::Replay))?;
        let ends = replay.whole().iter().map(|(partition, span)| (*partition, span.to)).collect();
        self.keep(&bookmarks, &mut job, &ends)?;
        Ok((job, bookmarks))
    }

    /// Takes a job up where it was left; returns also what it wrote beyond that. Blocks.
    pub(super) fn take_up(&self, id: &str) -> anyhow::Result<(Job, Bookmarks, Ahead)> {
        let before = self.job(id)?;
        if clock::now().since(before.at()) < Duration::from_secs(60) {
            std::thread::sleep(QUIET);
        }
        let bookmarks = Bookmarks::new(&self.connection, &self.job_group(id))?;
        let (mut job, written) = self.kept(&bookmarks)?;
        if job != before {
            return Err(StillRunning(id.to_owned()).into());
        }
        let ahead = self.ahead(id, &written)?;
        for (partition, _, _) in &ahead {
            if let Some((_, note)) = job.partitions.get_mut(partition) {
                note.sent += 1;
            }
        }
        Ok((job, bookmarks, ahead))
    }

    /// What a job wrote to the replay topic from these offsets on.
    fn ahead(&self, id: &str, written: &BTreeMap<i32, i64>) -> anyhow::Result<Ahead> {
        let topic = self.topic(TopicKind::Replay);
        let bounds = Bounds::of(&self.connection, &topic)?;
        let spans = bounds.whole().iter().map(|(partition, span)| {
            let from = written.get(partition).copied().unwrap_or(span.from);
            (*partition, Span { from: from.clamp(span.from, span.to), to: span.to })
        });
        let mut ahead = Ahead::new();
        self.scan(&topic, &spans.collect(), |seen| {
            if let Some(record) = seen.value().and_then(|value| self.delivery(value))
                && record.job.as_deref() == Some(id)
            {
                let origin = record.origin;
                ahead.insert((origin.partition, origin.offset, record.delivery_id));
            }
            ControlFlow::Continue(())
        })?;
        Ok(ahead)
    }

    /// What a job has still to read.
    pub(super) fn left(job: &Job) -> Spans {
        let span = |(partition, (at, note)): (&i32, &(i64, JobNote))| {
            (*partition, Span { from: *at, to: note.to.max(*at) })
        };
        job.partitions.iter().map(span).collect()
    }

    /// Refuses a job's name that is none.
    pub fn check_job_name(id: &str) -> anyhow::Result<()> {
        let is_name = id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if id.is_empty() || id.len() > 64 || !is_name {
            return Err(anyhow!("{id:?} is no job such as replay-20261125t081500-1a2b3c"));
        }
        Ok(())
    }
}
