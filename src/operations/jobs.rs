//! Jobs: what replays have done so far, kept in Kafka as the positions of a consumer group.
//!
//! The group is named after the job. Its positions in the events topic say how far the job has
//! read, with a note that holds the selection; those in the replay topic say up to where the job's
//! own records are accounted for. Both are committed in one request, after everything before them
//! was acknowledged. So whoever resumes reads the selection, and then the end of the replay topic
//! to see what was written after the last commit.
//!
//! The runner of a job is the group's only member. One that stood still is given up by the group
//! before another is taken on: the broker refuses its commits, and without an accepted commit it
//! writes nothing ([`SoleMember::may_write`]).

use std::{
    collections::{BTreeMap, HashSet},
    ops::ControlFlow,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};

use super::{NotThere, Operations, Progress, again::RESEND, names::did_you_mean};
use crate::{
    clock::{self, Timestamp},
    id::{DeliveryId, ProjectId},
    kafka::{
        Bookmark, BookmarkMap, Bookmarks, Bounds, MemberError, SESSION, SoleMember, Span, Spans,
        TopicKind, members,
    },
    replay::{Job, JobNote, REDRIVE, Selection},
};

/// What the names of replays begin with.
const REPLAY: &str = "replay-";
/// A running job commits more often than this.
pub(super) const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// For so long a job must not move before another process takes it over: one of a release that is
/// no member of the job's group moves at least so often.
const QUIET: Duration = Duration::from_millis(2500);
/// A job that moved within this time may be such a one's.
const RECENT: Duration = Duration::from_secs(60);
/// How long the group may take to give up a member that died.
const SESSION_PATIENCE: Duration = SESSION.saturating_add(Duration::from_secs(5));
/// How often it is asked.
const SESSION_POLL: Duration = Duration::from_millis(500);

/// What a job wrote after its progress was last kept: the event's record, and the delivery.
pub(super) type Ahead = HashSet<(i32, i64, DeliveryId)>;

/// Somebody else works on the job.
#[derive(Debug, thiserror::Error)]
#[error("{what} is running elsewhere ({by}). Stop it there first, or let it end")]
pub struct StillRunning {
    what: String,
    by: String,
}

/// A job's progress as it was last kept.
#[derive(Clone, Default)]
pub(super) struct Kept {
    /// How far it is.
    pub job: Job,
    /// Up to where its records in the replay topic are accounted for.
    pub written: BTreeMap<i32, i64>,
}

impl Operations {
    pub(super) fn job_group(&self, job: &str) -> String {
        format!("{}.job.{job}", self.group)
    }

    /// A new replay's name.
    pub fn new_replay(now: Timestamp) -> String {
        Self::new_job(REPLAY, now)
    }

    /// A new redrive's name.
    pub fn new_redrive(now: Timestamp) -> String {
        Self::new_job(REDRIVE, now)
    }

    /// Whether Kafka keeps how far a job of this name is: of redrives and of single deliveries that
    /// were sent again it has what they sent, and nothing else.
    pub fn keeps_progress(job: &str) -> bool {
        !job.starts_with(REDRIVE) && !job.starts_with(RESEND)
    }

    pub(super) fn new_job(prefix: &str, now: Timestamp) -> String {
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
            let job = self.kept(&Bookmarks::new(&self.connection, &group)?)?.job;
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
        let job = self.kept(&Bookmarks::new(&self.connection, &self.job_group(id))?)?.job;
        if job.partitions.is_empty() {
            let jobs = self.jobs().unwrap_or_default();
            let hint = did_you_mean(id, jobs.iter().map(|(id, _)| id.as_str()));
            let why = format!(
                "there is no job {id} (any more){hint}; `dunmore replay --list` shows those that \
                 Kafka knows, and it forgets one some days after its last progress"
            );
            return Err(NotThere(why).into());
        }
        Ok(job)
    }

    /// A job's progress.
    fn kept(&self, bookmarks: &Bookmarks) -> anyhow::Result<Kept> {
        let (events, replay) = (self.topic(TopicKind::Events), self.topic(TopicKind::Replay));
        let mut partitions = Vec::new();
        for topic in [&events, &replay] {
            let whole = Bounds::of(&self.connection, topic)?;
            partitions.extend(whole.whole().keys().map(|partition| (topic.clone(), *partition)));
        }
        let mut kept = Kept::default();
        for ((topic, partition), bookmark) in bookmarks.read(&partitions)? {
            if topic == replay {
                kept.written.insert(partition, bookmark.offset);
            } else if let Some(note) = JobNote::from_text(&bookmark.note) {
                kept.job.partitions.insert(partition, (bookmark.offset, note));
            }
        }
        Ok(kept)
    }

    /// Keeps a job's progress. Blocks.
    pub(super) fn keep(&self, member: &SoleMember, kept: &mut Kept) -> anyhow::Result<()> {
        let (events, replay) = (self.topic(TopicKind::Events), self.topic(TopicKind::Replay));
        let now = clock::now();
        let mut bookmarks = BookmarkMap::new();
        for (partition, (offset, note)) in &mut kept.job.partitions {
            note.at = now;
            let bookmark = Bookmark { offset: *offset, note: note.to_text()? };
            bookmarks.insert((events.clone(), *partition), bookmark);
        }
        for (partition, offset) in &kept.written {
            let bookmark = Bookmark { offset: *offset, note: String::new() };
            bookmarks.insert((replay.clone(), *partition), bookmark);
        }
        Ok(member.write(&bookmarks)?)
    }

    /// Starts a job: from here on it can be resumed. Blocks.
    pub(super) fn begin(
        &self,
        id: &str,
        selection: &Selection,
        spans: &Spans,
        planned: u64,
    ) -> anyhow::Result<(Kept, SoleMember)> {
        let now = clock::now();
        let mut kept = Kept::default();
        for (partition, span) in spans {
            let mut note = JobNote::new(selection.clone(), now, span.from, span.to);
            note.planned = Some(planned);
            kept.job.partitions.insert(*partition, (span.from, note));
        }
        let replay = Bounds::of(&self.connection, &self.topic(TopicKind::Replay))?;
        kept.written = replay.whole().iter().map(|(number, span)| (*number, span.to)).collect();
        let member = self.join(id, &self.job_group(id), TopicKind::Events)?;
        self.keep(&member, &mut kept)?;
        Ok((kept, member))
    }

    /// Takes a job up where it was left; returns also what it wrote beyond that. Blocks.
    pub(super) fn take_up(
        &self,
        id: &str,
        progress: &Progress,
    ) -> anyhow::Result<(Kept, SoleMember, Ahead)> {
        let before = self.job(id)?;
        let group = self.job_group(id);
        let bookmarks = Bookmarks::new(&self.connection, &group)?;
        let moves = || Ok(self.kept(&bookmarks)?.job != before);
        self.wait_until_left(id, &group, progress, moves)?;
        if clock::now().since(before.at()) < RECENT {
            thread::sleep(QUIET);
            if self.kept(&bookmarks)?.job != before {
                return Err(self.still_running(id, &group).into());
            }
        }
        let member = self.join(id, &group, TopicKind::Events)?;
        let (kept, ahead) = self.take_stock(id)?;
        Ok((kept, member, ahead))
    }

    /// Where a job is, and what it wrote beyond that, for the group's only member. Blocks.
    pub(super) fn take_stock(&self, id: &str) -> anyhow::Result<(Kept, Ahead)> {
        let kept = self.kept(&Bookmarks::new(&self.connection, &self.job_group(id))?)?;
        let ahead = self.ahead(id, &kept.written)?;
        Ok((kept, ahead))
    }

    /// Waits until a group has given up its last member, which is refused while it lives. Blocks.
    pub(super) fn wait_until_left(
        &self,
        what: &str,
        group: &str,
        progress: &Progress,
        moves: impl Fn() -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + SESSION_PATIENCE;
        // A broker that cannot tell the members of a group (the embedded one) is not asked: joining
        // decides.
        while let Ok(members) = members(&self.connection, group) {
            let Some(holder) = members.first() else { return Ok(()) };
            if Instant::now() >= deadline || moves()? {
                return Err(StillRunning { what: what.to_owned(), by: holder.to_string() }.into());
            }
            progress.wait_for(format!(
                "{what} is running at {holder}, or that process died: waiting up to {} s until \
                 the broker has given it up",
                SESSION_PATIENCE.as_secs()
            ));
            thread::sleep(SESSION_POLL);
        }
        Ok(())
    }

    /// Becomes the only member of a group. Blocks.
    pub(super) fn join(
        &self,
        what: &str,
        group: &str,
        topic: TopicKind,
    ) -> anyhow::Result<SoleMember> {
        match SoleMember::join(&self.connection, group, &self.topic(topic)) {
            Err(MemberError::Occupied(_)) => Err(self.still_running(what, group).into()),
            joined => joined.with_context(|| format!("{what} cannot be taken up")),
        }
    }

    /// One process at a time recovers a project's deliveries, for as long as what this returns
    /// lives. Blocks.
    pub fn recovering(&self, project: &ProjectId) -> anyhow::Result<SoleMember> {
        let group = format!("{}.recover.{project}", self.group);
        self.join(&format!("a recovery of {project}"), &group, TopicKind::Events)
    }

    fn still_running(&self, what: &str, group: &str) -> StillRunning {
        let members = members(&self.connection, group).unwrap_or_default();
        let own = format!("-{} at", std::process::id());
        let other = members.iter().map(ToString::to_string).find(|name| !name.contains(&own));
        let by = other.unwrap_or_else(|| "by another process".to_owned());
        StillRunning { what: what.to_owned(), by }
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

    /// Whether a text has the form of the jobs' names that this program makes.
    pub fn is_job(text: &str) -> bool {
        [REPLAY, REDRIVE, RESEND].iter().any(|prefix| text.starts_with(prefix))
            && Self::check_job_name(text).is_ok()
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
