//! The numbers of commands: in which order they were asked, also beyond the life of their topic.
//!
//! A command is numbered by its offset. Offsets begin anew when the commands topic is made anew,
//! so a number has two parts: the epoch, which grows whenever that happens, and the offset within
//! that topic. Both are in one integer, epoch first, so numbers are compared as integers: versions,
//! `ifVersion`, `ETag`s and the fold need not know of epochs, and neither do releases before them.
//! As long as the topic was never made anew, the epoch is 0 and a number is the offset.
//!
//! An epoch is at least the hour in which it began. So it is a new one even if compaction has left
//! nothing of the epoch before: that takes two days.

use std::collections::BTreeMap;

use crate::clock::Timestamp;

/// How many bits of a number are the offset: enough for a thousand commands a second over two
/// years. Until 2040 a number then fits the 53 bits that JSON readers with floating-point numbers
/// take without loss.
const OFFSET_BITS: u32 = 36;
/// 2026-01-01T00:00:00Z, from which the hours of epochs are counted.
const FIRST_HOUR_MS: i64 = 1_767_225_600_000;
const HOUR_MS: i64 = 3_600_000;

/// The most earlier topics that are remembered by their ids.
pub const MAX_REMEMBERED_TOPICS: usize = 16;

/// The number of the command at this offset, in this epoch.
#[must_use]
pub const fn number(epoch: i64, offset: i64) -> i64 {
    (epoch << OFFSET_BITS).saturating_add(offset)
}

/// The epoch of a number; before the first command it is the first one.
#[must_use]
pub const fn epoch_of(number: i64) -> i64 {
    if number < 0 { 0 } else { number >> OFFSET_BITS }
}

/// The offset in a number; -1 before the first command.
#[must_use]
pub const fn offset_of(number: i64) -> i64 {
    if number < 0 { -1 } else { number & ((1 << OFFSET_BITS) - 1) }
}

/// How far the commands of a partition were decided, as the state topic says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Progress {
    /// The number of the last command whose consequences are known; -1 when there was none.
    pub last_command: i64,
    /// The id of the commands topic of each epoch, where it is known.
    pub topics: BTreeMap<i64, String>,
}

impl Default for Progress {
    fn default() -> Self {
        Self { last_command: -1, topics: BTreeMap::new() }
    }
}

/// The partition of the commands topic that a registrar reads.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CommandsLog {
    /// The topic's id. Brokers before Apache Kafka 2.8, and the embedded one, have none.
    pub topic_id: Option<String>,
    /// An epoch that it is at least, when the log is another one than was known.
    at_least: i64,
}

impl CommandsLog {
    /// The log that was found at this moment, whose next offset is `end`, after the view had
    /// everything that earlier owners wrote.
    ///
    /// Where nothing says which topic the known commands were in (the broker has no ids, or a
    /// release before this one decided them), a log that ends before the last of them is
    /// another one.
    #[must_use]
    pub fn found(topic_id: Option<String>, end: i64, progress: &Progress, at: Timestamp) -> Self {
        let newest = epoch_of(progress.last_command);
        let is_another = match (&topic_id, progress.topics.get(&newest)) {
            (Some(id), Some(known)) => id != known,
            _ => end <= offset_of(progress.last_command),
        };
        let hour = (at.millis() - FIRST_HOUR_MS) / HOUR_MS;
        Self { topic_id, at_least: if is_another { hour.max(newest + 1) } else { 0 } }
    }

    /// The epoch of this log's commands. The numbers of another topic mean nothing here: a log that
    /// was never seen is newer than all that were. What has no id yet is taken for the first log
    /// whose id is seen.
    #[must_use]
    pub fn epoch(&self, progress: &Progress) -> i64 {
        let newest = epoch_of(progress.last_command).max(self.at_least);
        let Some(id) = &self.topic_id else { return newest };
        let known = progress.topics.iter().rev().find(|(_, known)| *known == id);
        match known {
            Some((epoch, _)) => *epoch,
            None if progress.topics.contains_key(&newest) => newest + 1,
            None => newest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(last_command: i64, topics: &[(i64, &str)]) -> Progress {
        let topics = topics.iter().map(|(epoch, id)| (*epoch, (*id).to_owned())).collect();
        Progress { last_command, topics }
    }

    fn log(id: &str, end: i64, progress: &Progress) -> CommandsLog {
        let id = Some(id.to_owned()).filter(|id| !id.is_empty());
        CommandsLog::found(id, end, progress, Timestamp::from_millis(FIRST_HOUR_MS))
    }

    #[test]
    fn an_epoch_is_not_less_than_its_hour() {
        let known = progress(9, &[(0, "a")]);
        let at = Timestamp::parse("2026-11-30T17:00:00.000Z").unwrap();
        let log = CommandsLog::found(Some("b".to_owned()), 0, &known, at);
        assert_eq!(log.epoch(&known), 333 * 24 + 17);
        assert_eq!(CommandsLog::found(Some("a".to_owned()), 10, &known, at).epoch(&known), 0);
        // Two lives within an hour.
        let known = progress(number(log.epoch(&known), 0), &[(log.epoch(&known), "b")]);
        let next = CommandsLog::found(Some("c".to_owned()), 0, &known, at);
        assert_eq!(next.epoch(&known), 333 * 24 + 18);
        let in_2040 = Timestamp::parse("2040-01-01T00:00:00.000Z").unwrap();
        let log = CommandsLog::found(Some("c".to_owned()), 0, &known, in_2040);
        assert!(number(log.epoch(&known), (1 << OFFSET_BITS) - 1) < 1 << 53);
    }

    #[test]
    fn numbers_are_ordered_by_epoch_and_then_by_offset() {
        assert_eq!(number(0, 42), 42);
        let mut last = -1;
        for epoch in 0..3 {
            for offset in [0, 1, 1_000_000_000] {
                let next = number(epoch, offset);
                assert!(next > last);
                assert_eq!((epoch_of(next), offset_of(next)), (epoch, offset));
                last = next;
            }
        }
        assert_eq!((epoch_of(-1), offset_of(-1)), (0, -1));
    }

    #[test]
    fn a_topic_that_was_made_anew_is_a_new_epoch() {
        let nothing = Progress::default();
        assert_eq!(log("a", 0, &nothing).epoch(&nothing), 0);
        assert_eq!(log("", 0, &nothing).epoch(&nothing), 0);
        let known = progress(9, &[(0, "a")]);
        assert_eq!(log("a", 10, &known).epoch(&known), 0);
        assert_eq!(log("b", 0, &known).epoch(&known), 1);
        // However long it has got meanwhile.
        assert_eq!(log("b", 500, &known).epoch(&known), 1);
        let known = progress(number(1, 3), &[(0, "a"), (1, "b")]);
        assert_eq!(log("b", 4, &known).epoch(&known), 1);
        assert_eq!(log("c", 4, &known).epoch(&known), 2);
        // An owner that does not know that its topic is gone.
        assert_eq!(log("a", 10, &known).epoch(&known), 0);
    }

    #[test]
    fn what_has_no_id_belongs_to_the_first_id_unless_the_log_is_too_short() {
        let known = progress(9, &[]);
        assert_eq!(log("a", 10, &known).epoch(&known), 0);
        assert_eq!(log("", 10, &known).epoch(&known), 0);
        let short = log("", 9, &known);
        assert_eq!(short.epoch(&known), 1);
        assert_eq!(log("a", 9, &known).epoch(&known), 1);
        // It stays the same one when it has got longer.
        assert_eq!(short.epoch(&progress(number(1, 20), &[])), 1);
    }
}
