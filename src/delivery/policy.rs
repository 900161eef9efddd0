//! The retry policy: which tier a delivery waits in, and when it becomes a dead letter.

use std::{fmt, str::FromStr, time::Duration};

use super::{HOLD, Reason};

/// How long a delivery may go round the tiers without a request, from the first time it was put off,
/// if the settings say nothing else. It is also the longest wait that a destination may ask for.
pub const MAX_DEFERRED_AGE: Duration = Duration::from_secs(3 * 24 * 3600);
/// A delivery of a connector that this release cannot use waits in the longest tier up to this, so
/// that it is not much later than the upgrade.
pub const UNUSABLE_ROUND: Duration = Duration::from_secs(3600);

/// A delivery that an open circuit puts off waits at least this part of the time since it was first
/// put off: else each would be written again many times for each probe of a destination that is down
/// for days. So it is late after the repair by this part of the outage at most, or by its tier.
const PART_OF_OUTAGE: u32 = 8;

/// One retry tier: a topic whose records fall due after a fixed delay.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tier {
    name: String,
    delay: Duration,
}

impl Tier {
    /// The name, the last part of the topic's name: `30s`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How long its records wait.
    #[must_use]
    pub fn delay(&self) -> Duration {
        self.delay
    }
}

/// The tiers in order, and the decision which one is next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RetryPolicy {
    tiers: Vec<Tier>,
    max_deferred_age: Duration,
    hold: Duration,
}

/// Where a delivery goes that was not delivered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Into the tier of this index; it has then taken so many steps through the tiers.
    Wait {
        /// The tier's index.
        tier: usize,
        /// The steps taken, this one included.
        steps: u32,
    },
    /// Into the topic of held deliveries, until the connector's suspension is lifted.
    Hold,
    /// Into the dead-letter topic: there is no tier left.
    Dead,
}

impl RetryPolicy {
    /// The tiers in order.
    #[must_use]
    pub fn tiers(&self) -> &[Tier] {
        &self.tiers
    }

    /// How long a delivery may be put off without a request.
    #[must_use]
    pub fn max_deferred_age(&self) -> Duration {
        self.max_deferred_age
    }

    /// The same tiers with another limit for deliveries that are put off without a request.
    #[must_use]
    pub fn with_max_deferred_age(self, max_deferred_age: Duration) -> Self {
        Self { max_deferred_age, ..self }
    }

    /// How long a delivery waits for its suspended connector's owner.
    #[must_use]
    pub fn hold(&self) -> Duration {
        self.hold
    }

    /// The same tiers with another time for deliveries of suspended connectors.
    #[must_use]
    pub fn with_hold(self, hold: Duration) -> Self {
        Self { hold, ..self }
    }

    /// All tiers together: how long a destination may fail until its first delivery is dead.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.tiers.iter().map(Tier::delay).sum()
    }

    /// Whether the next failure ends a delivery, unless the destination asks for a wait then.
    #[must_use]
    pub fn is_last(&self, steps: u32) -> bool {
        steps >= self.ladder()
    }

    /// After a failed attempt: the next tier, or a longer one if the destination asked for a longer
    /// wait. Either is one step. A wait that is asked for when the tiers are used up is granted
    /// once, because the destination has just said when it will work.
    #[must_use]
    pub fn after_failure(&self, steps: u32, asked: Option<Duration>) -> Next {
        let asked = asked.unwrap_or_default();
        if steps > self.ladder() || (self.is_last(steps) && asked.is_zero()) {
            return Next::Dead;
        }
        let own = usize::try_from(steps).ok().and_then(|step| self.tiers.get(step));
        let wait = asked.max(own.map_or(Duration::ZERO, Tier::delay));
        Next::Wait { tier: self.first_not_shorter(wait), steps: steps + 1 }
    }

    /// The rest of a wait that is longer than a tier: one more round, without a step.
    #[must_use]
    pub fn next_round(&self, steps: u32, left: Duration) -> Next {
        Next::Wait { tier: self.first_not_shorter(left), steps }
    }

    /// Without an attempt: the connector's lane would not take it.
    ///
    /// What finds its connector suspended is held. Of the rest no step is used up, because nothing
    /// was asked; `expected_wait` picks the tier. Only what was
    /// put off for too long gets a step further each time, so that it ends some day.
    #[must_use]
    pub fn after_deferral(
        &self,
        reason: Reason,
        steps: u32,
        expected_wait: Duration,
        deferred_for: Duration,
    ) -> Next {
        if reason == Reason::Suspended {
            return if deferred_for >= self.hold { Next::Dead } else { Next::Hold };
        }
        if deferred_for >= self.max_deferred_age {
            return self.after_failure(steps, None);
        }
        let wait = match reason {
            Reason::Unusable => UNUSABLE_ROUND,
            Reason::CircuitOpen => expected_wait.max(deferred_for / PART_OF_OUTAGE),
            _ => expected_wait,
        };
        let tier = self.tiers.iter().rposition(|tier| tier.delay <= wait);
        Next::Wait { tier: tier.unwrap_or(0), steps }
    }

    fn ladder(&self) -> u32 {
        u32::try_from(self.tiers.len()).unwrap_or(u32::MAX)
    }

    fn first_not_shorter(&self, asked: Duration) -> usize {
        let found = self.tiers.iter().position(|tier| tier.delay >= asked);
        found.unwrap_or(self.tiers.len().saturating_sub(1))
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        let tier = |name: &str, seconds| Tier {
            name: name.to_owned(),
            delay: Duration::from_secs(seconds),
        };
        let tiers = vec![
            tier("5s", 5),
            tier("30s", 30),
            tier("2m", 120),
            tier("10m", 600),
            tier("1h", 3600),
            tier("6h", 21600),
        ];
        Self { tiers, max_deferred_age: MAX_DEFERRED_AGE, hold: HOLD }
    }
}

impl FromStr for RetryPolicy {
    type Err = String;

    /// Reads `5s,30s,2m,10m,1h,6h`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut tiers: Vec<Tier> = Vec::new();
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let delay = humantime::parse_duration(name)
                .map_err(|error| format!("retry tier {name:?}: {error}; write for example 30s"))?;
            let is_word = name.bytes().all(|b| b.is_ascii_alphanumeric());
            if !is_word {
                return Err(format!("retry tier {name:?} names a topic: write it without spaces"));
            }
            if tiers.iter().any(|tier| tier.name == name) {
                return Err(format!("retry tier {name:?} is listed twice"));
            }
            if tiers.last().is_some_and(|tier| tier.delay > delay) {
                return Err(format!("retry tier {name:?} is shorter than the one before it"));
            }
            tiers.push(Tier { name: name.to_owned(), delay });
        }
        if tiers.is_empty() || tiers.len() > 12 {
            return Err("list 1 to 12 retry tiers, for example 5s,30s,2m,10m,1h,6h".to_owned());
        }
        Ok(Self { tiers, max_deferred_age: MAX_DEFERRED_AGE, hold: HOLD })
    }
}

impl fmt::Display for RetryPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.tiers.iter().map(Tier::name).collect();
        f.write_str(&names.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> RetryPolicy {
        "5s,30s,2m,10m,1h,6h".parse().unwrap()
    }

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn failures_go_through_the_tiers_and_end() {
        let policy = policy();
        let mut steps = 0;
        for tier in 0..6 {
            let next = policy.after_failure(steps, None);
            assert_eq!(next, Next::Wait { tier, steps: steps + 1 });
            steps += 1;
        }
        assert_eq!(policy.after_failure(steps, None), Next::Dead);
        // The destination has just said when it will work: it is asked then, once.
        assert_eq!(policy.after_failure(steps, Some(secs(1))), Next::Wait { tier: 0, steps: 7 });
        assert_eq!(policy.after_failure(7, Some(secs(1))), Next::Dead);
        assert_eq!(policy.after_failure(steps, Some(secs(0))), Next::Dead);
    }

    #[test]
    fn retry_after_picks_the_first_tier_that_is_not_shorter() {
        let policy = policy();
        assert_eq!(policy.after_failure(0, Some(secs(30))), Next::Wait { tier: 1, steps: 1 });
        assert_eq!(policy.after_failure(0, Some(secs(31))), Next::Wait { tier: 2, steps: 1 });
        assert_eq!(policy.after_failure(3, Some(secs(1))), Next::Wait { tier: 3, steps: 4 });
        assert_eq!(policy.after_failure(0, Some(secs(86_400))), Next::Wait { tier: 5, steps: 1 });
        assert_eq!(policy.next_round(1, secs(3_000)), Next::Wait { tier: 4, steps: 1 });
    }

    #[test]
    fn a_busy_lane_costs_no_step_until_it_is_hopeless() {
        let policy = policy();
        let busy = |wait, age| policy.after_deferral(Reason::LaneFull, 2, wait, age);
        assert_eq!(busy(secs(1), secs(0)), Next::Wait { tier: 0, steps: 2 });
        assert_eq!(busy(secs(100), secs(0)), Next::Wait { tier: 1, steps: 2 });
        assert_eq!(busy(secs(1_000_000), secs(0)), Next::Wait { tier: 5, steps: 2 });
        assert_eq!(busy(secs(1), MAX_DEFERRED_AGE), Next::Wait { tier: 2, steps: 3 });
    }

    #[test]
    fn what_was_not_asked_for_ends_only_when_it_is_hopeless() {
        let policy = policy();
        let put_off = |reason, steps, age| policy.after_deferral(reason, steps, secs(40), age);
        for steps in [0, 5, 6, 7] {
            let open = put_off(Reason::CircuitOpen, steps, secs(0));
            assert_eq!(open, Next::Wait { tier: 1, steps });
            let unusable = put_off(Reason::Unusable, steps, MAX_DEFERRED_AGE / 2);
            assert_eq!(unusable, Next::Wait { tier: 4, steps });
            for age in [secs(0), MAX_DEFERRED_AGE, HOLD / 2] {
                assert_eq!(put_off(Reason::Suspended, steps, age), Next::Hold);
            }
            assert_eq!(put_off(Reason::Suspended, steps, HOLD), Next::Dead);
        }
        // In an outage of hours it is not written again every few seconds.
        let long = put_off(Reason::CircuitOpen, 0, secs(8 * 3600));
        assert_eq!(long, Next::Wait { tier: 4, steps: 0 });
        let old = |reason, steps| put_off(reason, steps, MAX_DEFERRED_AGE);
        assert_eq!(old(Reason::CircuitOpen, 5), Next::Wait { tier: 5, steps: 6 });
        assert_eq!(old(Reason::CircuitOpen, 6), Next::Dead);
        assert_eq!(old(Reason::Unusable, 6), Next::Dead);
    }

    #[test]
    fn tiers_are_read_strictly() {
        assert_eq!(policy().to_string(), "5s,30s,2m,10m,1h,6h");
        assert_eq!(policy(), RetryPolicy::default());
        for bad in ["", "5", "soon", "30s,5s", "5s,5s", "1m 30s"] {
            assert!(bad.parse::<RetryPolicy>().is_err(), "{bad}");
        }
        assert!("100ms,200ms".parse::<RetryPolicy>().is_ok());
    }
}
