//! The numbers of commands: in which order they were asked, also beyond the life of their topic.
//!
//! A command is numbered by its offset. Offsets begin anew when the commands topic is made anew,
//! so a number has two parts: how often that happened (the epoch), and the offset within that
//! topic. Both are in one integer, epoch first, so numbers are compared as integers: versions,
//! `ifVersion`, `ETag`s and the fold need not know of epochs, and neither do releases before them.
//! As long as the topic was never made anew, a number is the offset.

use std::collections::BTreeMap;

/// How many bits of a number are the offset. With 13 bits of epochs a number still fits the 53 bits
/// that JSON readers with floating-point numbers take without loss.
const OFFSET_BITS: u32 = 40;

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
    /// An epoch that it is at least: the log turned out to be another one by its end.
    at_least: i64,
}

impl CommandsLog {
    /// The log that was found, whose next offset is `end`, after the view had everything that
    /// earlier owners wrote.
    ///
    /// Where nothing says which topic the known commands were in (the broker has no ids, or a
    /// release before this one decided them), a log that ends before the last of them is
    /// another one.
    #[must_use]
    pub fn found(topic_id: Option<String>, end: i64, progress: &Progress) -> Self {
        let newest = epoch_of(progress.last_command);
        let is_unknown = topic_id.is_none() || !progress.topics.contains_key(&newest);
        let is_another = is_unknown && end <= offset_of(progress.last_command);
        Self { topic_id, at_least: if is_another { newest + 1 } else { 0 } }
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
        CommandsLog::found(Some(id.to_owned()).filter(|id| !id.is_empty()), end, progress)
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
        assert!(number(8191, (1 << OFFSET_BITS) - 1) < 1 << 53);
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
