//! A bound on requests at once to destinations that answer at once.
//!
//! What answers within a millisecond or two is near. Requests to it hardly wait for it, they wait
//! for this program and its machine, and more of them at once than the machine can work on mean more
//! connections and colder caches, not more answers: a plain post over a thousand busy connections
//! costs half as much again as over sixty-four. A lane cannot know how many others there are, so
//! all near lanes have one bound together, beside each lane's own window.
//!
//! A destination that has not answered yet counts as near, because a thousand requests at once would
//! make each of them look far. A request that waits for its answer much longer than others do stops
//! counting, so that who hangs takes nothing from the others. Far destinations have no such bound:
//! theirs would be a bound on deliveries per second.

use std::{collections::VecDeque, time::Duration};

use super::{LaneId, Moment, smooth};

/// A destination whose quickest answer took less than this, in seconds, is near.
const NEAR: f64 = 0.002;
/// One that answers in less than this may turn out to be near …
const MAYBE_NEAR: f64 = 0.010;
/// … until it has answered so often.
const LEARNING: u32 = 16;
/// The quickest answer is one of the last so long, at least, and twice as long at most.
const MEMORY: Duration = Duration::from_secs(5);
/// A request stops counting after so many times what an answer of a near destination takes …
const MUCH_LONGER: f64 = 8.0;
/// … in seconds, but not sooner and not later than this.
const MAX_AGE: std::ops::RangeInclusive<f64> = 0.020..=0.200;
/// Requests that started within so long of one another are counted together.
const GRAIN: Duration = Duration::from_millis(2);

/// How far away a lane's destination is.
#[derive(Debug)]
pub(super) struct Distance {
    answers: u32,
    /// The quickest answer since then, and the quickest in the time before, in seconds.
    since: Moment,
    quickest: f64,
    before: f64,
}

impl Distance {
    pub(super) const UNKNOWN: Self =
        Self { answers: 0, since: Moment::ZERO, quickest: f64::INFINITY, before: f64::INFINITY };

    /// An answer took so many seconds.
    pub(super) fn note(&mut self, latency: f64, now: Moment) {
        let age = now.saturating_sub(self.since);
        if age >= MEMORY {
            self.before = if age < 2 * MEMORY { self.quickest } else { f64::INFINITY };
            self.quickest = f64::INFINITY;
            self.since = now;
        }
        self.quickest = self.quickest.min(latency);
        self.answers = self.answers.saturating_add(1);
    }

    /// Whether the destination answers at once, as far as is known.
    pub(super) fn is_near(&self) -> bool {
        let quickest = self.quickest.min(self.before);
        self.answers == 0 || quickest < NEAR || (self.answers < LEARNING && quickest < MAYBE_NEAR)
    }
}

/// The near lanes that may start, and how many requests of near lanes count.
#[derive(Debug)]
pub(super) struct Near {
    most: usize,
    counted: usize,
    /// How many of those that started at this moment or soon after count.
    started: VecDeque<(Moment, usize)>,
    /// Smoothed seconds that an answer takes.
    latency: f64,
    ready: VecDeque<LaneId>,
    /// Near and far lanes take turns.
    is_next: bool,
}

impl Near {
    /// At most so many at once.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most: most.max(1),
            counted: 0,
            started: VecDeque::new(),
            latency: 0.0,
            ready: VecDeque::new(),
            is_next: false,
        }
    }

    /// A near lane may start.
    pub(super) fn push(&mut self, id: LaneId) {
        self.ready.push_back(id);
    }

    /// The lane whose turn it is, of these and the far ones.
    pub(super) fn pop(&mut self, far: &mut VecDeque<LaneId>, now: Moment) -> Option<LaneId> {
        if self.counted >= self.most {
            self.forget(now);
        }
        if self.counted >= self.most {
            return far.pop_front();
        }
        self.is_next = !self.is_next;
        if self.is_next || far.is_empty() {
            self.ready.pop_front().or_else(|| far.pop_front())
        } else {
            far.pop_front()
        }
    }

    /// A near lane's request started.
    pub(super) fn start(&mut self, now: Moment) {
        self.counted += 1;
        match self.started.back_mut() {
            Some((at, count)) if now < *at + GRAIN => *count += 1,
            _ => self.started.push_back((now, 1)),
        }
    }

    /// The request of a near lane that started then has ended.
    pub(super) fn finish(&mut self, started: Moment, now: Moment) {
        let grain = self.started.iter_mut().rev().find(|(at, _)| *at <= started);
        if let Some((_, count)) = grain
            && *count > 0
        {
            *count -= 1;
            self.counted -= 1;
            smooth(&mut self.latency, now.saturating_sub(started).as_secs_f64());
        }
    }

    /// When a lane that waits for others' answers need not wait any longer.
    pub(super) fn wake_at(&self) -> Option<Moment> {
        let is_waiting = self.counted >= self.most && !self.ready.is_empty();
        let oldest = self.started.iter().find(|(_, count)| *count > 0);
        oldest.filter(|_| is_waiting).map(|(at, _)| *at + self.max_age())
    }

    fn max_age(&self) -> Duration {
        let age = self.latency * MUCH_LONGER;
        Duration::from_secs_f64(age.clamp(*MAX_AGE.start(), *MAX_AGE.end()))
    }

    fn forget(&mut self, now: Moment) {
        let max_age = self.max_age();
        while let Some((at, count)) = self.started.front()
            && *at + max_age <= now
        {
            self.counted -= count;
            self.started.pop_front();
        }
    }
}
