//! A bound on requests at once to destinations that answer at once.
//!
//! What answers within a millisecond or two is near. Requests to it hardly wait for it, they wait
//! for this program and its machine, and more of them at once than the machine can work on mean more
//! connections and colder caches, not more answers: a plain post over a thousand busy connections
//! costs half as much again as over sixty-four. A lane cannot know how many others there are, so
//! all near lanes have one bound together, beside each lane's own window.
//!
//! A destination that has not answered yet may be near, and a thousand requests at once would make
//! each of them look far: those have a bound of their own. A request that waits for its answer much
//! longer than others do stops counting, so that who hangs takes nothing from the others. Far
//! destinations have no such bound: theirs would be a bound on deliveries per second.

#[cfg(test)]
mod tests;

use std::{collections::VecDeque, time::Duration};

use super::{LaneId, Moment, smooth};

/// A destination whose quickest answer took less than this, in seconds, is near.
const NEAR: f64 = 0.002;
/// The first answers of a program that has just started, over connections that are just being made,
/// say little: for so long after the first of all, what answers in less than `MAYBE_NEAR` seconds
/// counts as near. Else the requests that all lanes then make at once would keep it looking far.
const WARM_UP: Duration = Duration::from_secs(1);
const MAYBE_NEAR: f64 = 0.100;
/// The quickest answer is one of the last so long, at least, and twice as long at most.
const MEMORY: Duration = Duration::from_secs(5);
/// A request stops counting after so many times what an answer of a near destination takes …
const MUCH_LONGER: f64 = 8.0;
/// … in seconds, but not sooner and not later than this.
const MAX_AGE: std::ops::RangeInclusive<f64> = 0.020..=0.200;
/// A request to a destination that has not answered yet stops counting after this.
const UNKNOWN_AGE: Duration = Duration::from_millis(10);
/// Requests that started within so long of one another are counted together.
const GRAIN: Duration = Duration::from_millis(2);

/// How far away a destination is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Distance {
    is_known: bool,
    /// The quickest answer since then, and the quickest in the time before, in seconds.
    since: Moment,
    quickest: f64,
    before: f64,
}

impl Distance {
    pub(super) const UNKNOWN: Self = Self {
        is_known: false,
        since: Moment::ZERO,
        quickest: f64::INFINITY,
        before: f64::INFINITY,
    };

    /// An answer took so many seconds.
    pub(super) fn note(&mut self, latency: f64, now: Moment) {
        let age = now.saturating_sub(self.since);
        if age >= MEMORY {
            self.before = if age < 2 * MEMORY { self.quickest } else { f64::INFINITY };
            self.quickest = f64::INFINITY;
            self.since = now;
        }
        self.quickest = self.quickest.min(latency);
        self.is_known = true;
    }

    /// Where it is, if what answers in less than so many seconds is near.
    fn reach(&self, near: f64) -> Reach {
        if !self.is_known {
            Reach::Unknown
        } else if self.quickest.min(self.before) < near {
            Reach::Near
        } else {
            Reach::Far
        }
    }
}

/// Where a destination is, as far as is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reach {
    /// It has not answered yet.
    Unknown,
    /// It answers at once.
    Near,
    /// It takes its time.
    Far,
}

impl Reach {
    const ALL: [Self; 3] = [Self::Unknown, Self::Near, Self::Far];
}

/// The lanes that may start, in the order in which they got ready.
#[derive(Debug)]
pub(super) struct Ready {
    lanes: [VecDeque<LaneId>; Reach::ALL.len()],
    under_way: [UnderWay; Reach::ALL.len()],
    /// Who is asked first next time: all get their turn.
    turn: usize,
    /// How many requests at once may be under way to near destinations, and to unknown ones.
    most: usize,
    /// Smoothed seconds that an answer of a near destination takes.
    latency: f64,
    /// When the first answer of all came.
    first_answer: Option<Moment>,
}

impl Ready {
    /// At most so many at once to near destinations.
    pub(super) fn new(most: usize) -> Self {
        Self {
            lanes: Default::default(),
            under_way: Default::default(),
            turn: 0,
            most: most.max(1),
            latency: 0.0,
            first_answer: None,
        }
    }

    /// Where a destination is.
    pub(super) fn reach(&self, distance: &Distance, now: Moment) -> Reach {
        let is_warm = self.first_answer.is_some_and(|at| now.saturating_sub(at) >= WARM_UP);
        distance.reach(if is_warm { NEAR } else { MAYBE_NEAR })
    }

    /// A destination answered.
    pub(super) fn answered(&mut self, distance: &mut Distance, latency: f64, now: Moment) {
        self.first_answer.get_or_insert(now);
        distance.note(latency, now);
    }

    /// A lane may start.
    pub(super) fn push(&mut self, id: LaneId, reach: Reach) {
        self.lanes[reach as usize].push_back(id);
    }

    /// The lane whose turn it is, and where its destination was when it got ready.
    pub(super) fn pop(&mut self, now: Moment) -> Option<(LaneId, Reach)> {
        self.turn = self.turn.wrapping_add(1);
        (0..Reach::ALL.len()).find_map(|next| {
            let reach = Reach::ALL[(self.turn + next) % Reach::ALL.len()];
            if self.is_at_bound(reach) {
                let max_age = self.max_age(reach);
                self.under_way[reach as usize].forget(now, max_age);
            }
            if self.is_at_bound(reach) {
                return None;
            }
            self.lanes[reach as usize].pop_front().map(|id| (id, reach))
        })
    }

    /// A request started.
    pub(super) fn start(&mut self, reach: Reach, now: Moment) {
        if reach != Reach::Far {
            let max_age = self.max_age(reach);
            self.under_way[reach as usize].start(now, max_age);
        }
    }

    /// A request that started then has ended.
    pub(super) fn finish(&mut self, reach: Reach, started: Moment, now: Moment) {
        if self.under_way[reach as usize].finish(started) && reach == Reach::Near {
            smooth(&mut self.latency, now.saturating_sub(started).as_secs_f64());
        }
    }

    /// When a lane that waits for others' answers need not wait any longer.
    pub(super) fn wake_at(&self) -> Option<Moment> {
        let waits =
            |reach: &Reach| self.is_at_bound(*reach) && !self.lanes[*reach as usize].is_empty();
        let ages = |reach: Reach| {
            let oldest = self.under_way[reach as usize].oldest()?;
            Some(oldest + self.max_age(reach))
        };
        Reach::ALL.into_iter().filter(waits).filter_map(ages).min()
    }

    fn is_at_bound(&self, reach: Reach) -> bool {
        self.under_way[reach as usize].counted >= self.most
    }

    fn max_age(&self, reach: Reach) -> Duration {
        if reach == Reach::Unknown {
            return UNKNOWN_AGE;
        }
        let age = self.latency * MUCH_LONGER;
        Duration::from_secs_f64(age.clamp(*MAX_AGE.start(), *MAX_AGE.end()))
    }
}

/// The requests under way that count.
#[derive(Debug, Default)]
struct UnderWay {
    counted: usize,
    /// How many of those that started at this moment or soon after count; none that is too old.
    started: VecDeque<(Moment, usize)>,
}

impl UnderWay {
    fn start(&mut self, now: Moment, max_age: Duration) {
        self.forget(now, max_age);
        self.counted += 1;
        match self.started.back_mut() {
            Some((at, count)) if now < *at + GRAIN => *count += 1,
            _ => self.started.push_back((now, 1)),
        }
    }

    /// Whether the request still counted.
    fn finish(&mut self, started: Moment) -> bool {
        let grain = self.started.iter_mut().rev().find(|(at, _)| *at <= started);
        let Some((_, count)) = grain.filter(|(_, count)| *count > 0) else { return false };
        *count -= 1;
        self.counted -= 1;
        true
    }

    fn forget(&mut self, now: Moment, max_age: Duration) {
        while let Some((at, count)) = self.started.front()
            && *at + max_age <= now
        {
            self.counted -= count;
            self.started.pop_front();
        }
    }

    fn oldest(&self) -> Option<Moment> {
        self.started.iter().find(|(_, count)| *count > 0).map(|(at, _)| *at)
    }
}
