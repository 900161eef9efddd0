//! Where reading a partition begins, and where it goes on when its position is not in the log.
//!
//! A position belongs to a topic, not to a name: a topic that was deleted and created again has
//! another id, and the same offsets mean other records.

use super::{CompletionMap, MapError, map::split_topic};
use crate::id::TopicId;

/// Where reading a partition begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Start {
    /// At this offset: the last owner got so far.
    Resume {
        /// The offset.
        offset: i64,
        /// What is complete beyond it.
        map: CompletionMap,
        /// The topic that this was committed for, where that is known.
        topic: Option<TopicId>,
        /// Why what is complete beyond the offset is not known, if so: it repeats.
        damage: Option<MapError>,
    },
    /// At the oldest record: the group never committed an offset of this partition.
    First,
    /// At the oldest record: the commit is of another topic of the same name.
    NewTopic,
}

impl Start {
    /// Decides from what the group committed and which topic the name stands for now. An id that
    /// is not known on one side is taken for the same.
    #[must_use]
    pub fn of(committed: Option<(i64, &str)>, topic: Option<TopicId>) -> Self {
        let Some((offset, metadata)) = committed else { return Self::First };
        let (text, committed_topic) = split_topic(metadata);
        if let (Some(then), Some(now)) = (committed_topic, topic)
            && then != now
        {
            return Self::NewTopic;
        }
        let (map, damage) = match CompletionMap::decode(offset, text) {
            Ok(map) => (map, None),
            Err(error) => (CompletionMap::new(offset, offset, []), Some(error)),
        };
        Self::Resume { offset, map, topic: topic.or(committed_topic), damage }
    }
}

/// Where reading goes on after the broker said that the position is not in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GoOn {
    /// Where it was: the position is in the log after all (another replica leads by now).
    Here(i64),
    /// At the oldest record: those before it were deleted before they were read.
    Deleted {
        /// The oldest offset.
        oldest: i64,
        /// How many offsets are gone.
        missed: u64,
    },
    /// At the end: the log of the same topic became shorter (an unclean leader election), and what
    /// is written from here on is new.
    CutShort(i64),
    /// At the oldest record, and nothing that was known of the old log counts: the topic was
    /// created anew.
    NewTopic,
}

impl GoOn {
    /// Decides from the position, the partition's oldest offset and its end. `is_same` says whether
    /// the topic is still the same one; where that is not known, a position beyond the end means
    /// that it is not, because repeating is better than losing.
    #[must_use]
    pub fn of(position: i64, oldest: i64, end: i64, is_same: Option<bool>) -> Self {
        if is_same == Some(false) {
            return Self::NewTopic;
        }
        if position < oldest {
            let missed = oldest.saturating_sub(position.max(0)).unsigned_abs();
            return Self::Deleted { oldest, missed };
        }
        if position <= end {
            return Self::Here(position);
        }
        if is_same == Some(true) { Self::CutShort(end) } else { Self::NewTopic }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offsets::{Begin, Tracker};

    fn topic(number: u64) -> TopicId {
        TopicId::from_halves(7, number).unwrap()
    }

    /// A commit of a partition of this topic: 5 is in flight, 6 and 7 are done.
    fn commit(topic: Option<TopicId>) -> (i64, String) {
        let mut tracker = Tracker::begin_at(5);
        tracker.identify(topic);
        (5..8).for_each(|offset| assert_eq!(tracker.begin(offset), Begin::Work));
        tracker.complete(6);
        tracker.complete(7);
        let commit = tracker.commit().unwrap();
        (commit.offset, commit.metadata)
    }

    #[test]
    fn a_commit_of_the_same_topic_is_resumed_and_one_of_another_topic_is_not() {
        let (offset, metadata) = commit(Some(topic(1)));
        let start = |now| Start::of(Some((offset, &metadata)), now);
        let Start::Resume { offset: 5, map, damage: None, .. } = start(Some(topic(1))) else {
            panic!("{:?}", start(Some(topic(1))))
        };
        assert!(!map.is_done(5) && map.is_done(6) && map.is_done(7));
        assert_eq!(start(Some(topic(2))), Start::NewTopic);
        assert!(matches!(start(None), Start::Resume { topic: Some(t), .. } if t == topic(1)));
        assert_eq!(Start::of(None, Some(topic(1))), Start::First);
    }

    #[test]
    fn a_commit_of_a_release_without_topic_ids_is_resumed() {
        let (offset, metadata) = commit(None);
        let start = Start::of(Some((offset, &metadata)), Some(topic(1)));
        let Start::Resume { map, topic: Some(_), damage: None, .. } = start else {
            panic!("{start:?}")
        };
        assert!(map.is_done(6));
        // Another tool's text: where it got to is believed, and nothing beyond it.
        let start = Start::of(Some((9, "something else")), None);
        assert!(matches!(start, Start::Resume { offset: 9, damage: Some(_), .. }));
    }

    #[test]
    fn what_is_resumed_is_committed_again_only_when_it_changed() {
        let (offset, metadata) = commit(Some(topic(1)));
        let Start::Resume { offset, map, topic, .. } = Start::of(Some((offset, &metadata)), None)
        else {
            panic!()
        };
        let mut tracker = Tracker::resume(offset, map, metadata);
        tracker.identify(topic);
        assert_eq!(tracker.commit(), None);
        assert_eq!(tracker.watermark(), Some(5));
        assert_eq!(tracker.begin(5), Begin::Work);
        assert_eq!(tracker.begin(6), Begin::AlreadyDone);
        tracker.complete(5);
        assert_eq!(tracker.begin(7), Begin::AlreadyDone);
        assert_eq!(tracker.commit().unwrap().offset, 8);
    }

    #[test]
    fn the_beginning_is_committed_before_anything_is_read() {
        let tracker = Tracker::begin_at(0);
        assert_eq!(tracker.commit().unwrap().offset, 0);
        assert_eq!(tracker.watermark(), Some(0));
    }

    #[test]
    fn markers_are_passed_over_only_when_nothing_is_under_way() {
        let mut tracker = Tracker::begin_at(3);
        tracker.begin(3);
        tracker.skip_to(9);
        assert_eq!(tracker.watermark(), Some(3));
        tracker.complete(3);
        tracker.skip_to(9);
        assert_eq!(tracker.watermark(), Some(9));
        tracker.skip_to(7);
        assert_eq!(tracker.watermark(), Some(9), "never back");
    }

    #[test]
    fn a_position_out_of_range_goes_on_where_least_is_lost_and_repeated() {
        let go_on = |position, is_same| GoOn::of(position, 10, 20, is_same);
        for is_same in [None, Some(true)] {
            assert_eq!(go_on(4, is_same), GoOn::Deleted { oldest: 10, missed: 6 });
            assert_eq!(go_on(10, is_same), GoOn::Here(10));
            assert_eq!(go_on(20, is_same), GoOn::Here(20));
        }
        assert_eq!(go_on(21, Some(true)), GoOn::CutShort(20));
        assert_eq!(go_on(21, None), GoOn::NewTopic);
        for position in [4, 15, 21] {
            assert_eq!(go_on(position, Some(false)), GoOn::NewTopic);
        }
    }
}
