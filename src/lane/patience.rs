//! How long one partition may be held up by full lanes.
//!
//! A partition's records are read in their order, so waiting for one connector's lane makes all
//! others of the partition wait. That is worth it for a moment, when the lane is fast; it must not
//! last as long as one connector has a backlog.

use std::time::Duration;

use super::Moment;

/// A partition is held up at most this long at a stretch …
pub const MAX_HELD_UP: Duration = Duration::from_secs(2);
/// … and then for this part of the time: one in so many.
const REGAINED: u32 = 4;

/// The patience of one partition's worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    /// Time held up that was not regained yet.
    spent: Duration,
    at: Moment,
}

impl Patience {
    /// All of it.
    #[must_use]
    pub fn new(now: Moment) -> Self {
        Self { spent: Duration::ZERO, at: now }
    }

    /// Whether the partition may be held up a little longer.
    pub fn is_left(&mut self, now: Moment) -> bool {
        let regained = now.saturating_sub(self.at) / REGAINED;
        self.spent = self.spent.saturating_sub(regained);
        self.at = now;
        self.spent < MAX_HELD_UP
    }

    /// The partition was held up from then until now.
    pub fn held_up(&mut self, since: Moment, now: Moment) {
        self.spent += now.saturating_sub(since);
        self.at = now;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patience_ends_and_comes_back_slowly() {
        let secs = Duration::from_secs;
        let mut patience = Patience::new(secs(0));
        assert!(patience.is_left(secs(0)));
        patience.held_up(secs(0), secs(2));
        assert!(!patience.is_left(secs(2)));
        assert!(patience.is_left(secs(6)));
        patience.held_up(secs(6), secs(7));
        assert!(!patience.is_left(secs(7)), "in four seconds one came back");
    }

    proptest! {
        /// Whoever asks how often: the partition is held up for no more than its allowance.
        #[test]
        fn the_time_held_up_is_bounded(steps in prop::collection::vec((0u64..50, 0u64..20), 1..500)) {
            let mut now = Duration::ZERO;
            let mut held = Duration::ZERO;
            let mut patience = Patience::new(now);
            let longest = Duration::from_millis(20);
            // One hold-up of two seconds first: what counts is how it goes on.
            patience.held_up(now, now + MAX_HELD_UP);
            for (pause, wait) in steps {
                now += Duration::from_micros(pause);
                if patience.is_left(now) {
                    let since = now;
                    now += Duration::from_millis(wait);
                    patience.held_up(since, now);
                    held += now.saturating_sub(since);
                }
            }
            prop_assert!(held <= now / REGAINED + longest, "{held:?} of {now:?}");
        }
    }
}
