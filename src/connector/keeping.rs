//! What the keeper of a partition has under way: when it asks to renew a connector's token, and when
//! it may call the vendor. Pure, so that a simulation can play ninety days of it.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use super::{INTENT_LIFE, Intent};
use crate::{clock::Timestamp, id::ConnectorKey};

/// How long after it was asked for an intent may be used for a call. What stood still for longer
/// calls no more: another keeper may have begun.
pub const INTENT_USE: Duration = Duration::from_secs(20);
/// The most renewals under way at once, of a partition.
const MAX_UNDER_WAY: usize = 64;
/// How long a failed call waits for the next. Sooner no new intent is taken …
const FIRST_BACKOFF: Duration = INTENT_LIFE;
/// … and so often it is tried before the wait doubles: while the old access token is good.
const QUICK_TRIES: u32 = 4;
/// The longest wait.
const LONGEST_BACKOFF: Duration = Duration::from_secs(15 * 60);

/// What is to be done for a connector whose token is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Nothing now.
    Wait,
    /// Ask for a renewal with a new intent.
    Ask,
    /// Call the vendor: the stored intent is this keeper's.
    Call,
}

/// The renewals of one keeper. Its times count from any moment, and never go back.
#[derive(Debug, Default)]
pub struct Keeping {
    renewals: HashMap<ConnectorKey, Renewal>,
}

#[derive(Debug)]
struct Renewal {
    /// The intent that was asked for last.
    intent: String,
    asked_at: Duration,
    /// Whether its one call was made.
    is_called: bool,
    failures: u32,
    /// No new intent before.
    not_before: Duration,
}

impl Keeping {
    /// What to do for a connector whose stored intent is this one. `wall` is compared with the
    /// stored time, `now` with this keeper's own.
    #[must_use]
    pub fn next(
        &self,
        key: &ConnectorKey,
        stored: Option<&Intent>,
        wall: Timestamp,
        now: Duration,
    ) -> Next {
        let own = self.renewals.get(key);
        if let Some(own) = own
            && !own.is_called
            && now.saturating_sub(own.asked_at) < INTENT_USE
        {
            let is_stored = stored.is_some_and(|stored| stored.id == own.intent);
            return if is_stored { Next::Call } else { Next::Wait };
        }
        let is_blocked = own.is_some_and(|own| now < own.not_before)
            || stored.is_some_and(|stored| stored.is_young(wall))
            || self.under_way(now) >= MAX_UNDER_WAY;
        if is_blocked { Next::Wait } else { Next::Ask }
    }

    fn under_way(&self, now: Duration) -> usize {
        let is_busy = |own: &&Renewal| now.saturating_sub(own.asked_at) < INTENT_USE;
        self.renewals.values().filter(is_busy).count()
    }

    /// An intent was asked for.
    pub fn asked(&mut self, key: &ConnectorKey, intent: String, now: Duration) {
        let failures = self.renewals.get(key).map_or(0, |own| own.failures);
        let renewal =
            Renewal { intent, asked_at: now, is_called: false, failures, not_before: now };
        self.renewals.insert(key.clone(), renewal);
    }

    /// The one call of the intent that was asked for begins; returns the intent.
    pub fn called(&mut self, key: &ConnectorKey) -> Option<String> {
        let own = self.renewals.get_mut(key)?;
        own.is_called = true;
        Some(own.intent.clone())
    }

    /// The call had no result; returns how many calls in a row had none.
    pub fn failed(&mut self, key: &ConnectorKey, now: Duration) -> u32 {
        let Some(own) = self.renewals.get_mut(key) else { return 0 };
        let doubled = own.failures.saturating_sub(QUICK_TRIES - 1).min(8);
        let backoff = FIRST_BACKOFF.saturating_mul(1 << doubled);
        own.not_before = now + backoff.min(LONGEST_BACKOFF);
        own.failures += 1;
        own.failures
    }

    /// Forgets all that is not due any more.
    pub fn keep_only(&mut self, due: &HashSet<&ConnectorKey>) {
        self.renewals.retain(|key, _| due.contains(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn key(index: usize) -> ConnectorKey {
        ConnectorKey {
            project: "proj_1".parse().unwrap(),
            connector: format!("conn_{index}").parse().unwrap(),
        }
    }

    fn stored(id: &str, at: i64) -> Intent {
        Intent { id: id.to_owned(), at: Timestamp::from_millis(at * 1000) }
    }

    fn wall(at: i64) -> Timestamp {
        Timestamp::from_millis(at * 1000)
    }

    #[test]
    fn an_intent_is_used_once_and_soon() {
        let (mut keeping, key) = (Keeping::default(), key(1));
        assert_eq!(keeping.next(&key, None, wall(0), seconds(0)), Next::Ask);
        keeping.asked(&key, "a".to_owned(), seconds(0));
        assert_eq!(keeping.next(&key, None, wall(1), seconds(1)), Next::Wait);
        let other = stored("b", 0);
        assert_eq!(keeping.next(&key, Some(&other), wall(1), seconds(1)), Next::Wait);
        let own = stored("a", 0);
        assert_eq!(keeping.next(&key, Some(&own), wall(1), seconds(1)), Next::Call);
        assert_eq!(keeping.next(&key, Some(&own), wall(20), seconds(20)), Next::Wait, "too late");
        assert_eq!(keeping.called(&key).as_deref(), Some("a"));
        assert_eq!(keeping.next(&key, Some(&own), wall(2), seconds(2)), Next::Wait);
        // Its result was lost: a new intent as soon as the decision takes one.
        assert_eq!(keeping.next(&key, Some(&own), wall(119), seconds(119)), Next::Wait);
        assert_eq!(keeping.next(&key, Some(&own), wall(120), seconds(120)), Next::Ask);
    }

    #[test]
    fn failures_wait_longer_each_time() {
        let (mut keeping, key) = (Keeping::default(), key(1));
        let mut now = 0;
        for wait in [120, 120, 120, 120, 240, 480, 900, 900] {
            keeping.asked(&key, "a".to_owned(), seconds(now));
            keeping.called(&key);
            keeping.failed(&key, seconds(now));
            now += wait;
            let next = |at| keeping.next(&key, None, wall(0), seconds(at));
            assert_eq!((next(now - 1), next(now)), (Next::Wait, Next::Ask), "{wait}");
        }
        keeping.keep_only(&HashSet::new());
        assert!(keeping.renewals.is_empty());
    }

    #[test]
    fn few_are_under_way_at_once() {
        let mut keeping = Keeping::default();
        for index in 0..MAX_UNDER_WAY {
            assert_eq!(keeping.next(&key(index), None, wall(0), seconds(0)), Next::Ask);
            keeping.asked(&key(index), "a".to_owned(), seconds(0));
        }
        let another = key(MAX_UNDER_WAY);
        assert_eq!(keeping.next(&another, None, wall(0), seconds(0)), Next::Wait);
        assert_eq!(keeping.next(&another, None, wall(20), seconds(20)), Next::Ask);
    }
}
