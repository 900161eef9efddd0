//! The retry policy: which tier a delivery waits in, and when it becomes a dead letter.

use std::{fmt, str::FromStr, time::Duration};

use super::Reason;

/// How long a delivery may go round the tiers because its lane is busy, from the first time it
/// was put off. A lane that cannot catch up in three days never will.
pub const MAX_DEFERRED_AGE: Duration = Duration::from_secs(3 * 24 * 3600);

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
    /// Into the dead-letter topic: there is no tier left.
    Dead,
}

impl RetryPolicy {
    /// The tiers in order.
    #[must_use]
    pub fn tiers(&self) -> &[Tier] {
        &self.tiers
    }

    /// After a failed attempt: the next tier, or a later one if the destination asked for a
    /// longer wait.
    #[must_use]
    pub fn after_failure(&self, steps: u32, retry_after: Option<Duration>) -> Next {
        let asked = retry_after.unwrap_or_default();
        let at_least = self.first_not_shorter(asked);
        self.step(steps, at_least)
    }

    /// Without an attempt: the connector's lane would not take it.
    ///
    /// A busy lane drains, so `expected_wait` picks the tier and no step is used up; a connector
    /// that does not work gets a step further each time, so that the delivery ends some day.
    #[must_use]
    pub fn after_deferral(
        &self,
        reason: Reason,
        steps: u32,
        expected_wait: Duration,
        deferred_for: Duration,
    ) -> Next {
        match reason {
            Reason::LaneFull | Reason::RateLimited if deferred_for < MAX_DEFERRED_AGE => {
                let tier = self.tiers.iter().rposition(|tier| tier.delay <= expected_wait);
                Next::Wait { tier: tier.unwrap_or(0), steps }
            }
            _ => self.step(steps, 0),
        }
    }

    fn step(&self, steps: u32, at_least: usize) -> Next {
        let next = usize::try_from(steps).unwrap_or(usize::MAX);
        if next >= self.tiers.len() {
            return Next::Dead;
        }
        let tier = next.max(at_least);
        // A jump over tiers uses them up: the next failure goes on behind the one waited in.
        Next::Wait { tier, steps: u32::try_from(tier + 1).unwrap_or(u32::MAX) }
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
        Self { tiers }
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
        Ok(Self { tiers })
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
        assert_eq!(policy.after_failure(steps, Some(secs(1))), Next::Dead);
    }

    #[test]
    fn retry_after_picks_the_first_tier_that_is_not_shorter() {
        let policy = policy();
        assert_eq!(policy.after_failure(0, Some(secs(30))), Next::Wait { tier: 1, steps: 2 });
        assert_eq!(policy.after_failure(0, Some(secs(31))), Next::Wait { tier: 2, steps: 3 });
        assert_eq!(policy.after_failure(3, Some(secs(1))), Next::Wait { tier: 3, steps: 4 });
        assert_eq!(policy.after_failure(0, Some(secs(86_400))), Next::Wait { tier: 5, steps: 6 });
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
    fn a_connector_that_does_not_work_ends_in_the_dead_letters() {
        let policy = policy();
        let open = |steps| policy.after_deferral(Reason::CircuitOpen, steps, secs(9), secs(0));
        assert_eq!(open(0), Next::Wait { tier: 0, steps: 1 });
        assert_eq!(open(5), Next::Wait { tier: 5, steps: 6 });
        assert_eq!(open(6), Next::Dead);
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
