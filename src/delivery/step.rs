//! The decision what becomes of a delivery after an attempt, or instead of one. The shell writes
//! what is decided here, and completes the delivery when that is durable.

use std::time::Duration;

use super::{Certainty, LastError, Next, Outcome, Reason, RetryPolicy, Verdict};
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
    /// The destination asked not to be called before, and its tier ends earlier.
    pub not_before: Option<Timestamp>,
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
            Self::Broken { certainty: Certainty::Certain, .. } => Some(Ask::Suspend),
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
        self.not_before = None;
        let put_off_since = self.deferred_since.take();
        let (next, reason, detail) = match verdict {
            Verdict::Delivered => return Ending::Delivered,
            Verdict::Retry { reason, detail, after }
            | Verdict::Broken { reason, detail, certainty: Certainty::Doubtful(after) } => {
                (self.wait_for(policy, after, now), reason, detail)
            }
            Verdict::Dead { reason, detail } => (Next::Dead, reason, detail),
            // It waits for its connector's owner, like those that find the connector suspended.
            Verdict::Broken { reason, detail, certainty: Certainty::Certain } => {
                let since = *self.deferred_since.insert(put_off_since.unwrap_or(now));
                let age = now.since(since);
                let next =
                    policy.after_deferral(Reason::Suspended, self.steps, Duration::ZERO, age);
                (next, reason, detail)
            }
            Verdict::Moved { field, .. } => {
                let detail = format!("the destination has a new {field}; it is being stored");
                (policy.after_failure(self.steps, None), Reason::NotReady, detail)
            }
        };
        Ending::Parked(self.park(policy, next, Outcome::Retry, reason, detail, now))
    }

    /// After a failure: where it waits, and until when if that takes more than one round.
    fn wait_for(&mut self, policy: &RetryPolicy, asked: Option<Duration>, now: Timestamp) -> Next {
        let asked = asked.map(|asked| asked.min(policy.max_deferred_age()));
        let next = policy.after_failure(self.steps, asked);
        if let (Next::Wait { tier, .. }, Some(asked)) = (next, asked) {
            let delay = policy.tiers().get(tier).map_or(Duration::ZERO, super::Tier::delay);
            self.not_before = (asked > delay).then(|| now.plus(asked));
        }
        next
    }

    /// How long the destination is still to be left alone, if it asked for more than a tier.
    #[must_use]
    pub fn left_to_ask(&self, now: Timestamp) -> Option<Duration> {
        self.not_before.map(|until| until.since(now)).filter(|left| !left.is_zero())
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
        // The destination's own wait is no time in which it could have been tried.
        let next = if reason != Reason::Suspended
            && let Some(left) = self.left_to_ask(now)
        {
            policy.next_round(self.steps, left)
        } else {
            let since = *self.deferred_since.get_or_insert(now);
            policy.after_deferral(reason, self.steps, wait, now.since(since))
        };
        let detail = match (next, reason) {
            (Next::Dead, Reason::Suspended) => {
                let hold = humantime::format_duration(policy.hold());
                format!("held for {hold}, and the connector is still suspended: {detail}")
            }
            _ => detail,
        };
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
                let delay = policy.tiers().get(tier).map_or(Duration::ZERO, super::Tier::delay);
                Park { next, due_at: now.plus(delay), outcome: step, reason, detail }
            }
            Next::Hold => {
                let since = self.deferred_since.unwrap_or(now);
                let due_at = since.plus(policy.hold());
                Park { next, due_at, outcome: step, reason, detail }
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
    use crate::delivery::HOLD;

    const START: i64 = 1_700_000_000_000;

    /// What becomes of a delivery that is asked for `wait` at its first request, as its worker sees
    /// it: the moments in seconds at which it could be sent, and its steps.
    fn wait_out(tiers: &str, wait: u64) -> (u64, u32, u32) {
        let policy: RetryPolicy = tiers.parse().unwrap();
        let mut history = History::default();
        let mut now = Timestamp::from_millis(START);
        let answer = Verdict::retry_after(Reason::ServerError, "HTTP 503", secs(wait));
        let ending = history.after_attempt(&policy, answer, Some(Duration::ZERO), now);
        let Ending::Parked(mut park) = ending else { panic!() };
        let mut rounds = 1;
        loop {
            assert_ne!(park.next, Next::Dead);
            now = park.due_at;
            let Some(left) = history.left_to_ask(now) else { break };
            park = history.after_deferral(&policy, Reason::RateLimited, String::new(), left, now);
            rounds += 1;
        }
        assert_eq!(history.deferred_since, None, "the whole patience is still there");
        let waited = now.since(Timestamp::from_millis(START));
        (waited.as_secs(), history.steps, rounds)
    }

    #[test]
    fn a_wait_longer_than_the_longest_tier_takes_several_rounds_and_one_step() {
        assert_eq!(wait_out("1s,2s", 15), (15, 1, 8));
        assert_eq!(wait_out("5s,30s,2m,10m,1h,6h", 15), (30, 1, 1));
        let hours = 3600;
        assert_eq!(wait_out("5s,30s,2m,10m,1h,6h", 25 * hours), (25 * hours, 1, 5));
        // No wait is longer than three days.
        assert_eq!(wait_out("5s,30s,2m,10m,1h,6h", 1_000 * hours), (72 * hours, 1, 12));
    }

    #[test]
    fn a_connector_that_cannot_work_costs_its_deliveries_no_step() {
        let policy: RetryPolicy = "1s,2s".parse().unwrap();
        let mut history = History { steps: 2, ..History::default() };
        let start = Timestamp::from_millis(START);
        let gone = || Verdict::broken(Reason::Gone, "HTTP 410");
        let took = Some(Duration::ZERO);
        let is_dead = |ending| matches!(ending, Ending::Parked(Park { next: Next::Dead, .. }));
        assert!(!is_dead(history.after_attempt(&policy, gone(), took, start)));
        // The owner says that it works, and it does not: it counts from the first time.
        let late = start.plus(HOLD / 2);
        assert!(!is_dead(history.after_attempt(&policy, gone(), took, late)));
        assert_eq!(history.steps, 2);
        let too_late = start.plus(HOLD);
        assert!(is_dead(history.after_attempt(&policy, gone(), took, too_late)));
    }

    #[test]
    fn a_doubtful_answer_is_tried_again_and_asks_for_no_suspension() {
        let policy: RetryPolicy = "1s,2s".parse().unwrap();
        let verdict = Verdict::doubtful(Reason::Forbidden, "HTTP 403", None);
        assert_eq!(verdict.asks(), None);
        let mut history = History::default();
        let now = Timestamp::from_millis(START);
        let ending = history.after_attempt(&policy, verdict, Some(Duration::ZERO), now);
        let Ending::Parked(park) = ending else { panic!() };
        assert_eq!(park.next, Next::Wait { tier: 0, steps: 1 });
    }

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
