//! How far a replay has come, as it is kept in Kafka: a note beside the position of each partition
//! of the events topic.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Selection;
use crate::clock::Timestamp;

/// The longest note, in bytes. Kafka's default limit is 4,096.
pub const MAX_NOTE_BYTES: usize = 4000;
/// The version of notes that this program writes.
const VERSION: u8 = 1;

/// What is kept beside a job's position in one partition.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobNote {
    v: u8,
    /// When the job was started.
    pub started_at: Timestamp,
    /// When this was written.
    pub at: Timestamp,
    /// The partition's first offset that the job reads.
    pub from: i64,
    /// The offset after its last one.
    pub to: i64,
    /// Deliveries asked for so far.
    pub sent: u64,
    /// Deliveries of the whole job, in all partitions, as its plan counted them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planned: Option<u64>,
    /// What the job chooses.
    pub selection: Selection,
}

/// The selection names too much to be kept.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the selection has {0} bytes as JSON and a job can keep {MAX_NOTE_BYTES}: name fewer projects and connectors, or run several jobs"
)]
pub struct NoteTooLong(usize);

impl JobNote {
    /// The note of a partition in which nothing was done yet.
    #[must_use]
    pub fn new(selection: Selection, now: Timestamp, from: i64, to: i64) -> Self {
        Self { v: VERSION, started_at: now, at: now, from, to, sent: 0, planned: None, selection }
    }

    /// The text that is kept.
    pub fn to_text(&self) -> Result<String, NoteTooLong> {
        // Plain data with text keys: there is nothing that serde_json could refuse.
        let text = serde_json::to_string(self).unwrap_or_default();
        if text.len() > MAX_NOTE_BYTES { Err(NoteTooLong(text.len())) } else { Ok(text) }
    }

    /// Reads a note; nothing when it is not of this program's version.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok().filter(|note: &Self| note.v == VERSION)
    }
}

/// A job: its notes and positions.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Job {
    /// By partition: how far it is, and its note.
    pub partitions: BTreeMap<i32, (i64, JobNote)>,
}

impl Job {
    /// What it chooses.
    #[must_use]
    pub fn selection(&self) -> Selection {
        self.first().map(|note| note.selection.clone()).unwrap_or_default()
    }

    /// When it was started.
    #[must_use]
    pub fn started_at(&self) -> Timestamp {
        self.first().map(|note| note.started_at).unwrap_or_default()
    }

    /// When it last moved.
    #[must_use]
    pub fn at(&self) -> Timestamp {
        self.partitions.values().map(|(_, note)| note.at).max().unwrap_or_default()
    }

    /// Records that it reads in all, and those that it has done with.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        let between = |from: i64, to: i64| u64::try_from(to.saturating_sub(from)).unwrap_or(0);
        let all = self.partitions.values().map(|(_, note)| between(note.from, note.to)).sum();
        let done = self.partitions.values().map(|(at, note)| between(note.from, *at)).sum();
        (all, done)
    }

    /// Deliveries asked for so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.partitions.values().map(|(_, note)| note.sent).sum()
    }

    /// Deliveries of the whole job, where its plan is known.
    #[must_use]
    pub fn planned(&self) -> Option<u64> {
        self.first().and_then(|note| note.planned)
    }

    /// Counts a delivery that was asked for.
    pub fn sent_one(&mut self, partition: i32) {
        if let Some((_, note)) = self.partitions.get_mut(&partition) {
            note.sent += 1;
        }
    }

    /// Everything before this offset is done.
    pub fn pass(&mut self, partition: i32, offset: i64) {
        if let Some((at, _)) = self.partitions.get_mut(&partition) {
            *at = (*at).max(offset);
        }
    }

    /// Whether there is nothing left to do.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.partitions.values().all(|(at, note)| *at >= note.to)
    }

    fn first(&self) -> Option<&JobNote> {
        self.partitions.values().map(|(_, note)| note).next()
    }

    /// The job as programs read it.
    #[must_use]
    pub fn to_json(&self, id: &str) -> serde_json::Value {
        let (all, done) = self.progress();
        serde_json::json!({
            "job": id,
            "state": if self.is_done() { "done" } else { "unfinished" },
            "startedAt": self.started_at(),
            "lastProgressAt": self.at(),
            "records": all,
            "scanned": done,
            "sent": self.sent(),
            "planned": self.planned(),
            "selection": self.selection(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_back_and_a_foreign_one_is_not() {
        let selection = Selection { only_missing: true, ..Selection::default() };
        let note = JobNote::new(selection, Timestamp::from_millis(5), 10, 20);
        let text = note.to_text().unwrap();
        assert_eq!(
            text,
            r#"{"v":1,"startedAt":"1970-01-01T00:00:00.005Z","at":"1970-01-01T00:00:00.005Z","from":10,"to":20,"sent":0,"selection":{"onlyMissing":true}}"#
        );
        assert_eq!(JobNote::from_text(&text), Some(note));
        for foreign in ["", "{}", "AQAA", &text.replace("\"v\":1", "\"v\":2")] {
            assert_eq!(JobNote::from_text(foreign), None);
        }
    }

    #[test]
    fn a_selection_that_cannot_be_kept_is_refused() {
        let projects = (0..500).map(|n| format!("proj_{n}").parse().unwrap()).collect();
        let selection = Selection { projects, ..Selection::default() };
        let note = JobNote::new(selection, Timestamp::default(), 0, 0);
        assert!(note.to_text().unwrap_err().to_string().contains("fewer projects"));
    }

    #[test]
    fn a_job_is_done_when_each_partition_is() {
        let note = |from, to| JobNote::new(Selection::default(), Timestamp::default(), from, to);
        let mut job = Job::default();
        job.partitions.insert(0, (20, note(10, 20)));
        job.partitions.insert(1, (4, note(4, 8)));
        assert_eq!((job.progress(), job.is_done()), ((14, 10), false));
        job.partitions.insert(1, (8, note(4, 8)));
        assert_eq!((job.progress(), job.is_done()), ((14, 14), true));
    }
}
