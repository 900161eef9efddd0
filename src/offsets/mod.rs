//! Which offsets of a partition are done: the watermark, and what is done beyond it.
//!
//! The words: an offset is *begun* when its record was handed on, *complete* when each of its
//! deliveries is delivered or durably somewhere else. The *watermark* is the lowest offset that is
//! not complete; it is what is committed. What is complete beyond it is kept in the commit's
//! metadata, so that whoever takes the partition over skips it (the design of Confluent's
//! parallel consumer).

mod map;
mod start;

use std::collections::BTreeSet;

pub use map::{CompletionMap, MAX_METADATA_BYTES, MapError};
pub use start::{GoOn, Start};

use crate::id::TopicId;

/// The most offsets of a partition that may be incomplete at once. So many always fit into the
/// commit metadata; at the cap the partition waits.
pub const MAX_INCOMPLETE: usize = 1000;

/// What to commit for a partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Commit {
    /// The watermark: the offset to read next.
    pub offset: i64,
    /// What is complete beyond it, and the topic's id, as text; empty when neither is known.
    pub metadata: String,
    /// How many completions this commit makes durable.
    pub covers: u64,
}

/// Whether a record has to be worked on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Begin {
    /// It is new: work on it, then complete its offset.
    Work,
    /// It was complete before this partition was taken over.
    AlreadyDone,
}

/// Tracks one partition during one assignment.
#[derive(Debug)]
pub struct Tracker {
    incomplete: BTreeSet<i64>,
    /// One beyond the highest offset begun, or where reading begins; `None` until that is known.
    next: Option<i64>,
    restored: CompletionMap,
    /// The topic that the offsets belong to.
    topic: Option<TopicId>,
    completions: u64,
    committed_completions: u64,
    last_committed: Option<(i64, String)>,
}

impl Tracker {
    /// Starts from a committed map of what was complete.
    pub fn new(restored: CompletionMap) -> Self {
        Self {
            incomplete: BTreeSet::new(),
            next: None,
            restored,
            topic: None,
            completions: 0,
            committed_completions: 0,
            last_committed: None,
        }
    }

    /// Goes on where the last owner's commit says.
    pub fn resume(offset: i64, restored: CompletionMap, metadata: String) -> Self {
        let next = Some(offset.max(restored.watermark()));
        Self { next, last_committed: Some((offset, metadata)), ..Self::new(restored) }
    }

    /// Begins at this offset, which is committed before anything is read: a group without any
    /// commit has then lost its offsets, and did not just begin.
    pub fn begin_at(offset: i64) -> Self {
        Self { next: Some(offset), ..Self::new(CompletionMap::default()) }
    }

    /// The id of the topic became known.
    pub fn identify(&mut self, topic: Option<TopicId>) {
        self.topic = topic.or(self.topic);
    }

    /// The topic that the offsets belong to, if that is known.
    pub fn topic(&self) -> Option<TopicId> {
        self.topic
    }

    /// Everything before this offset that was to be read has been read: what lies between is no
    /// record (transaction markers, aborted or compacted records). It changes nothing while
    /// something is incomplete.
    pub fn skip_to(&mut self, offset: i64) {
        if self.incomplete.is_empty() && self.next.is_some_and(|next| next < offset) {
            self.next = Some(offset);
        }
    }

    /// A record of this offset was read. Offsets come in ascending order, with gaps; one that goes
    /// back says that the log was cut or made anew, so nothing that was known of it holds.
    pub fn begin(&mut self, offset: i64) -> Begin {
        let expected = self.next.unwrap_or(self.restored.watermark());
        if offset < expected {
            self.restored = CompletionMap::default();
            self.incomplete.clear();
        }
        self.next = Some(offset + 1);
        if self.restored.is_done(offset) {
            return Begin::AlreadyDone;
        }
        self.incomplete.insert(offset);
        Begin::Work
    }

    /// The offset is complete. Completing it twice changes nothing.
    pub fn complete(&mut self, offset: i64) {
        if self.incomplete.remove(&offset) {
            self.completions += 1;
        }
    }

    /// The lowest offset that is not complete; `None` until it is known where reading begins.
    pub fn watermark(&self) -> Option<i64> {
        self.incomplete.first().copied().or(self.next)
    }

    /// How many offsets are incomplete.
    pub fn incomplete(&self) -> usize {
        self.incomplete.len()
    }

    /// Whether no more may begin for now.
    pub fn is_full(&self) -> bool {
        self.incomplete.len() >= MAX_INCOMPLETE
    }

    /// Completions that no acknowledged commit covers yet: after a crash they repeat.
    pub fn uncommitted(&self) -> u64 {
        self.completions - self.committed_completions
    }

    /// What to commit now; `None` when it would be the same as the last acknowledged one.
    pub fn commit(&self) -> Option<Commit> {
        let next = self.next?;
        let offset = self.watermark()?;
        let seen = next.max(self.restored.end());
        let map = if self.incomplete.is_empty() && seen <= offset {
            String::new()
        } else {
            // Beyond what this assignment has read, what the last owner had done still counts.
            let incomplete: Vec<i64> = self
                .incomplete
                .iter()
                .copied()
                .chain(self.restored.incomplete().filter(|offset| *offset >= next))
                .collect();
            CompletionMap::new(offset, seen, incomplete).encode()
        };
        let metadata = map::with_topic(map, self.topic);
        if self.last_committed.as_ref().is_some_and(|(o, m)| *o == offset && *m == metadata) {
            return None;
        }
        Some(Commit { offset, metadata, covers: self.completions })
    }

    /// The broker acknowledged this commit.
    pub fn committed(&mut self, commit: &Commit) {
        self.committed_completions = self.committed_completions.max(commit.covers);
        self.last_committed = Some((commit.offset, commit.metadata.clone()));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tracker() -> Tracker {
        Tracker::new(CompletionMap::default())
    }

    fn offset(tracker: &Tracker) -> i64 {
        tracker.commit().unwrap().offset
    }

    #[test]
    fn the_watermark_never_jumps_over_incomplete_work() {
        let mut tracker = tracker();
        assert_eq!(tracker.commit(), None);
        for offset in 10..15 {
            assert_eq!(tracker.begin(offset), Begin::Work);
        }
        assert_eq!(offset(&tracker), 10);
        tracker.complete(11);
        tracker.complete(14);
        assert_eq!(offset(&tracker), 10);
        tracker.complete(10);
        assert_eq!(offset(&tracker), 12);
        tracker.complete(12);
        tracker.complete(13);
        assert_eq!(
            tracker.commit().unwrap(),
            Commit { offset: 15, metadata: String::new(), covers: 5 }
        );
    }

    #[test]
    fn a_new_owner_skips_what_was_complete() {
        let mut old = tracker();
        for offset in [3, 5, 8, 9] {
            old.begin(offset);
        }
        old.complete(5);
        old.complete(9);
        let commit = old.commit().unwrap();
        assert_eq!(commit.offset, 3);
        let mut new = Tracker::new(CompletionMap::decode(commit.offset, &commit.metadata).unwrap());
        assert_eq!(new.begin(3), Begin::Work);
        // A commit at this point must not forget what the old owner had done further on.
        let early = new.commit().unwrap();
        let again = CompletionMap::decode(early.offset, &early.metadata).unwrap();
        assert!(!again.is_done(3) && again.is_done(5) && !again.is_done(8) && again.is_done(9));
        assert_eq!(new.begin(5), Begin::AlreadyDone);
        assert_eq!(new.begin(8), Begin::Work);
        assert_eq!(new.begin(9), Begin::AlreadyDone);
        assert_eq!(new.begin(10), Begin::Work);
        new.complete(3);
        new.complete(8);
        assert_eq!(offset(&new), 10);
    }

    #[test]
    fn a_log_that_was_cut_or_made_anew_is_read_from_where_it_begins() {
        // The last owner of the old log had got far, and had done something further on.
        let restored = CompletionMap::new(5_000, 6_000, [5_000]);
        let mut tracker = Tracker::new(restored);
        assert_eq!(tracker.begin(0), Begin::Work);
        let commit = tracker.commit().unwrap();
        assert_eq!((commit.offset, commit.metadata.is_empty()), (0, false));
        let map = CompletionMap::decode(commit.offset, &commit.metadata).unwrap();
        assert!((0..6_000).all(|offset| !map.is_done(offset)), "nothing of the new log is done");
        assert_eq!(tracker.begin(5_500), Begin::Work);
        // The same during one assignment.
        tracker.complete(0);
        assert_eq!(tracker.begin(40), Begin::Work);
        assert_eq!(offset(&tracker), 40);
        tracker.complete(40);
        assert_eq!(offset(&tracker), 41);
    }

    #[test]
    fn the_bound_on_repeats_counts_what_no_commit_covers() {
        let mut tracker = tracker();
        tracker.begin(1);
        tracker.begin(2);
        tracker.complete(1);
        assert_eq!((tracker.incomplete(), tracker.uncommitted()), (1, 1));
        let commit = tracker.commit().unwrap();
        tracker.complete(2);
        tracker.committed(&commit);
        assert_eq!((tracker.incomplete(), tracker.uncommitted()), (0, 1));
        tracker.committed(&tracker.commit().unwrap());
        assert_eq!(tracker.uncommitted(), 0);
        assert_eq!(tracker.commit(), None);
    }

    proptest! {
        /// Whatever the order of completions and takeovers: every offset is worked on until it is
        /// complete, and a commit never covers one that is not.
        #[test]
        fn nothing_is_lost(steps in prop::collection::vec((0u8..10, 0usize..64), 1..300)) {
            let mut done = BTreeSet::new();
            let mut tracker = tracker();
            let mut open = Vec::new();
            let mut next = 0_i64;
            let mut durable: Option<Commit> = None;
            for (action, pick) in steps {
                match action {
                    0..=3 if !tracker.is_full() => {
                        if tracker.begin(next) == Begin::Work {
                            open.push(next);
                        } else {
                            prop_assert!(done.contains(&next));
                        }
                        next += 1;
                    }
                    4..=7 if !open.is_empty() => {
                        let offset = open.swap_remove(pick % open.len());
                        tracker.complete(offset);
                        done.insert(offset);
                    }
                    8 => if let Some(commit) = tracker.commit() {
                        prop_assert!((0..commit.offset).all(|offset| done.contains(&offset)));
                        let map = CompletionMap::decode(commit.offset, &commit.metadata).unwrap();
                        for offset in 0..next + 50 {
                            prop_assert!(!map.is_done(offset) || done.contains(&offset));
                        }
                        tracker.committed(&commit);
                        durable = Some(commit);
                    },
                    9 => {
                        // A crash: the next owner knows only the last commit.
                        let commit = durable.clone().unwrap_or(Commit { offset: 0, metadata: String::new(), covers: 0 });
                        let map = CompletionMap::decode(commit.offset, &commit.metadata).unwrap();
                        tracker = Tracker::new(map);
                        next = commit.offset;
                        open.clear();
                    }
                    _ => {}
                }
            }
        }
    }
}
