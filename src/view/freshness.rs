//! Whether a view is fresh enough to go on from. Pure.
//!
//! A connector that was deleted leaves a tombstone in the state topic, and compaction removes that
//! too in the end. A view that stood still until then, stopped or frozen, would never hear of the
//! deletion. So a view knows at which moment it last had everything, and one for which that is too
//! long ago is read anew from the beginning.

use std::{collections::BTreeMap, time::Duration};

use crate::clock::Timestamp;

const HOUR: Duration = Duration::from_secs(3600);

/// How long the state topic keeps a record from compaction (`min.compaction.lag.ms`).
pub const COMPACTION_LAG: Duration = HOUR.saturating_mul(24);
/// How long it keeps a tombstone beyond that (`delete.retention.ms`).
pub const TOMBSTONE_RETENTION: Duration = HOUR.saturating_mul(24);
/// How long ago a view may have had everything. A tombstone stays for at least twice as long, so
/// that there is time to take in what came meanwhile.
pub const MAX_STANDSTILL: Duration = HOUR.saturating_mul(24);

/// Whether a view that had everything at this moment may miss a deletion by now. Neither a clock
/// that was set back nor one that ran ahead makes an old view fresh.
#[must_use]
pub fn is_stale(complete_at: Timestamp, now: Timestamp) -> bool {
    let apart = complete_at.millis().abs_diff(now.millis());
    u128::from(apart) > MAX_STANDSTILL.as_millis()
}

/// When a view last had everything: asks now and then where the partitions end, and waits until
/// the view is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Freshness {
    complete_at: Timestamp,
    asked_at: Timestamp,
    /// Partitions that have not reached what was their end when it was asked.
    ends: BTreeMap<i32, i64>,
}

impl Freshness {
    /// Of a view that had everything at this moment; one that has nothing begins at its own.
    #[must_use]
    pub const fn new(complete_at: Timestamp) -> Self {
        Self { complete_at, asked_at: complete_at, ends: BTreeMap::new() }
    }

    /// Begins to wait for the ends that the partitions had at this moment.
    pub fn ask(&mut self, asked_at: Timestamp, ends: BTreeMap<i32, i64>) {
        self.asked_at = asked_at;
        self.ends = ends;
    }

    /// A partition was taken in up to this offset. The moment as of which the view has everything,
    /// when this was the last partition to get there.
    pub fn reached(&mut self, partition: i32, next_offset: i64) -> Option<Timestamp> {
        if self.ends.get(&partition).is_none_or(|end| next_offset < *end) {
            return None;
        }
        self.ends.remove(&partition);
        if self.is_waiting() {
            return None;
        }
        self.complete_at = self.asked_at;
        Some(self.complete_at)
    }

    /// Whether a partition has not reached its end.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !self.ends.is_empty()
    }

    /// Whether the view may miss a deletion by now. To be looked at before anything newer is asked
    /// for: who was frozen for days knows nothing of it afterwards but the time.
    #[must_use]
    pub fn is_stale(&self, now: Timestamp) -> bool {
        is_stale(self.complete_at, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_millis(1_800_000_000_000 + hours * 3_600_000)
    }

    #[test]
    fn a_view_is_stale_a_day_after_it_had_everything() {
        assert!(!is_stale(at(0), at(0)));
        assert!(!is_stale(at(0), at(24)));
        assert!(is_stale(at(0), at(25)));
        assert!(!is_stale(at(1), at(0)), "the clock was set back a little");
        assert!(is_stale(at(100_000), at(0)), "the clock had run ahead by years");
        assert!(is_stale(Timestamp::from_millis(i64::MIN), at(0)));
    }

    #[test]
    fn a_tombstone_outlives_the_longest_standstill_by_far() {
        assert!(MAX_STANDSTILL * 2 <= COMPACTION_LAG + TOMBSTONE_RETENTION);
    }

    #[test]
    fn everything_is_there_as_of_the_moment_of_the_question() {
        let mut freshness = Freshness::new(at(0));
        freshness.ask(at(1), BTreeMap::from([(0, 10), (1, 0), (2, 5)]));
        assert_eq!(freshness.reached(1, 0), None);
        assert_eq!(freshness.reached(0, 9), None);
        assert_eq!(freshness.reached(0, 12), None);
        assert_eq!(freshness.reached(0, 13), None, "it was there already");
        assert!(freshness.is_waiting());
        assert!(freshness.is_stale(at(25)));
        assert_eq!(freshness.reached(2, 5), Some(at(1)));
        assert!(!freshness.is_waiting());
        assert!(!freshness.is_stale(at(25)));
    }
}
