//! The decision what becomes of a delivery after an attempt, or instead of one. The shell writes
//! what is decided here, and completes the delivery when that is durable.

use std::time::Duration;

use super::{LastError, Next, Outcome, Reason, RetryPolicy, Verdict};
use crate::clock::Timestamp;

/// What a delivery has been through so far.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct History {
    /// Requests made so far.
    pub attempts: u32,
    /// Steps through the retry tiers so far.
    pub steps: u32,
    /// When the first request was made.
    pub first_attempt_at: Option<Timestamp>,
    /// When it was put off for the first time since it could last be tried.
    pub deferred_since: Option<Timestamp>,
    /// Why it was not delivered yet.
    pub last_error: Option<LastError>,
}

/// What becomes of a delivery.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ending {
    /// The destination has it.
    Delivered,
    /// It goes on in another topic.
    Parked(Park),
}

/// What is to be written for a delivery that was not delivered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Park {
    /// A retry tier, or the dead letters.
    pub next: Next,
    /// When the record falls due.
    pub due_at: Timestamp,
    /// How the step ended.
    pub outcome: Outcome,
    /// Why it was not delivered.
    pub reason: Reason,
    /// The destination's words, or ours.
    pub detail: String,
}

impl Park {
    /// The same for a record that its tier does not take.
    #[must_use]
    pub fn into_dead(self, reason: Reason, now: Timestamp) -> Self {
        let detail = format!("{}; before that {}: {}", reason.help(), self.reason, self.detail);
        Self { next: Next::Dead, due_at: now, outcome: Outcome::Dead, reason, detail }
    }
}

/// What the registrar is to be asked because of an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ask {
    /// The connector cannot work until its owner acts.
    Suspend,
    /// The destination has a new name for the place that a setting names.
    Change {
        /// The setting.
        field: &'static str,
        /// Its new value.
        value: String,
    },
}

impl Verdict {
    /// What the registrar is to be asked because of this verdict.
    #[must_use]
    pub fn asks(&self) -> Option<Ask> {
        match self {
            Self::Broken { .. } => Some(Ask::Suspend),
            Self::Moved { field, value } => Some(Ask::Change { field, value: value.clone() }),
            _ => None,
        }
    }
}

impl History {
    /// After an attempt. `duration` is how long the request took; `None` when none was made.
    pub fn after_attempt(
        &mut self,
        policy: &RetryPolicy,
        verdict: Verdict,
        duration: Option<Duration>,
        now: Timestamp,
    ) -> Ending {
        if let Some(duration) = duration {
            self.attempts += 1;
            let began = now.millis() - i64::try_from(duration.as_millis()).unwrap_or_default();
            self.first_attempt_at.get_or_insert(Timestamp::from_millis(began));
        }
        let (next, reason, detail) = match verdict {
            Verdict::Delivered => return Ending::Delivered,
            Verdict::Retry { reason, detail, after } => {
                (policy.after_failure(self.steps, after), reason, detail)
            }
            Verdict::Dead { reason, detail } => (Next::Dead, reason, detail),
            Verdict::Broken { reason, detail } => {
                (policy.after_failure(self.steps, None), reason, detail)
            }
            Verdict::Moved { field, .. } => {
                let detail = format!("the destination has a new {field}; it is being stored");
                (policy.after_failure(self.steps, None), Reason::NotReady, detail)
            }
        };
        Ending::Parked(self.park(policy, next, Outcome::Retry, reason, detail, now))
    }

    /// Without an attempt: the connector cannot be delivered to at present, or its lane has no
    /// room and expects some after `wait`.
    pub fn after_deferral(
        &mut self,
        policy: &RetryPolicy,
        reason: Reason,
        detail: String,
        wait: Duration,
        now: Timestamp,
    ) -> Park {
        let since = *self.deferred_since.get_or_insert(now);
        let next = policy.after_deferral(reason, self.steps, wait, now.since(since));
        self.park(policy, next, Outcome::Deferred, reason, detail, now)
    }

    fn park(
        &mut self,
        policy: &RetryPolicy,
        next: Next,
        step: Outcome,
        reason: Reason,
        detail: String,
        now: Timestamp,
    ) -> Park {
        self.last_error =
            Some(LastError { reason: reason.as_str().into(), detail: detail.clone() });
        match next {
            Next::Wait { tier, steps } => {
                self.steps = steps;
                if step == Outcome::Retry {
                    self.deferred_since = None;
                }
                let delay = policy.tiers().get(tier).map_or(Duration::ZERO, super::Tier::delay);
                Park { next, due_at: now.plus(delay), outcome: step, reason, detail }
            }
            Next::Dead => {
                let detail = match step {
                    Outcome::Retry if self.attempts > 1 => {
                        format!("after {} attempts: {detail}", self.attempts)
                    }
                    _ => detail,
                };
                Park { next, due_at: now, outcome: Outcome::Dead, reason, detail }
            }
        }
    }
}

/// How long a record that waits in a tier has still to wait, when this program has read it `waited`
/// ago. The wall clock decides, but clocks get set: no record waits longer than its tier takes,
/// counted from then. So a clock that goes back by an hour does not make the 5 s tier wait for an
/// hour, nor each of its records for 5 s after the one before it.
#[must_use]
pub fn left_to_wait(
    due_at: Timestamp,
    now: Timestamp,
    waited: Duration,
    longest: Duration,
) -> Duration {
    due_at.since(now).min(longest.saturating_sub(waited))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Works a tier off as its worker does: each record waits when it is the head, for naps of at
    /// most a second, and all are read ahead of their time. Returns when each was let go, by a
    /// clock that nobody sets.
    fn work_off(records: u64, set: impl Fn(Duration) -> i64) -> Vec<Duration> {
        let start = 1_700_000_000_000;
        let delay = secs(5);
        let mut monotonic = Duration::ZERO;
        let wall = |monotonic: Duration| {
            let passed = i64::try_from(monotonic.as_millis()).unwrap();
            Timestamp::from_millis(start + passed + set(monotonic))
        };
        let mut let_go = Vec::new();
        for number in 0..records {
            // Written ten milliseconds apart, before anything was set.
            let due_at =
                Timestamp::from_millis(start).plus(delay + Duration::from_millis(10 * number));
            loop {
                let left = left_to_wait(due_at, wall(monotonic), monotonic, delay);
                if left.is_zero() {
                    break;
                }
                monotonic += left.min(secs(1));
            }
            let_go.push(monotonic);
        }
        let_go
    }

    #[test]
    fn a_clock_that_nobody_sets_lets_each_record_go_when_it_is_due() {
        let let_go = work_off(500, |_| 0);
        assert!(let_go.iter().all(|at| *at == secs(5)), "read at once, none waits longer than 5 s");
    }

    #[test]
    fn a_clock_that_goes_back_holds_nothing_up_for_longer_than_the_tier() {
        for back in [10_000, 3_600_000, 365 * 86_400_000] {
            let at_the_start = work_off(1000, |_| -back);
            assert!(at_the_start.iter().all(|at| *at == secs(5)), "{back} ms");
            let meanwhile = work_off(1000, |now| if now > secs(2) { -back } else { 0 });
            assert!(meanwhile.iter().all(|at| *at == secs(5)), "{back} ms");
        }
    }

    #[test]
    fn a_clock_that_goes_forward_lets_go_early_and_no_earlier_than_it_says() {
        let let_go = work_off(1000, |now| if now >= secs(2) { 3_600_000 } else { 0 });
        assert!(let_go.iter().all(|at| *at == secs(2)));
        // By a second and a half: those that are due later still wait.
        let let_go = work_off(200, |now| if now >= secs(2) { 1_500 } else { 0 });
        assert_eq!(let_go[0], Duration::from_millis(3_500));
        assert_eq!(let_go[149], Duration::from_millis(4_990));
    }
}
