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
        self.last_error = Some(LastError { reason, detail: detail.clone() });
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

/// How long a record that waits in a tier has still to wait, when it has waited here for `waited`.
/// A clock that went back must not make a record of the 5 s tier wait for hours, so no record
/// waits longer than its tier takes.
#[must_use]
pub fn left_to_wait(
    due_at: Timestamp,
    now: Timestamp,
    waited: Duration,
    longest: Duration,
) -> Duration {
    due_at.since(now).min(longest.saturating_sub(waited))
}
