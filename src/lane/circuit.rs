//! A lane's circuit breaker: a destination that fails again and again is given a rest, then asked
//! by one request whether it works again.

use std::time::Duration;

use super::Moment;

/// So many failures in a row open the circuit.
pub const MAX_FAILURES: u32 = 5;
/// The first rest; each further one is twice as long …
pub const FIRST_REST: Duration = Duration::from_secs(5);
/// … up to this.
const LONGEST_REST: Duration = Duration::from_secs(300);

/// What the circuit lets through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gate {
    /// Everything.
    Open,
    /// One request, to see whether the destination works again.
    Probe,
    /// Nothing.
    Shut,
}

/// The breaker's state.
#[derive(Clone, Copy, Debug)]
pub struct Circuit {
    failures: u32,
    rest: Duration,
    resting_until: Option<Moment>,
    opened_at: Option<Moment>,
}

impl Default for Circuit {
    fn default() -> Self {
        Self { failures: 0, rest: FIRST_REST, resting_until: None, opened_at: None }
    }
}

impl Circuit {
    /// Whether the destination is at rest or on probation.
    pub fn is_open(&self) -> bool {
        self.resting_until.is_some()
    }

    /// Since when it is.
    pub fn opened_at(&self) -> Option<Moment> {
        self.opened_at
    }

    /// What may pass now.
    pub fn gate(&self, now: Moment) -> Gate {
        match self.resting_until {
            None => Gate::Open,
            Some(until) if now >= until => Gate::Probe,
            Some(_) => Gate::Shut,
        }
    }

    /// When a probe may start.
    pub fn opens_at(&self) -> Moment {
        self.resting_until.unwrap_or_default()
    }

    /// How long the rest takes.
    pub fn rest(&self) -> Duration {
        self.rest
    }

    /// A request worked.
    pub fn worked(&mut self) {
        *self = Self::default();
    }

    /// A request failed.
    pub fn failed(&mut self, now: Moment) {
        self.failures = self.failures.saturating_add(1);
        match self.resting_until {
            // Requests that were under way when the circuit opened say nothing new.
            Some(until) if now < until => {}
            Some(_) => {
                self.rest = (self.rest * 2).min(LONGEST_REST);
                self.resting_until = Some(now + self.rest);
            }
            None if self.failures >= MAX_FAILURES => {
                self.resting_until = Some(now + self.rest);
                self.opened_at = Some(now);
            }
            None => {}
        }
    }
}
