//! Lanes: one bounded queue per connector, and the decision what may start when.
//!
//! A lane protects everybody else from its connector's destination. It has a concurrency window
//! that opens with each success, a token bucket, a circuit breaker, and a bound on its queue that
//! follows how fast the destination drains it. What a lane cannot take is handed back at once, so
//! that it can wait in a retry tier instead of in memory: a dead destination holds a handful of
//! offsets, not a partition.
//!
//! Nothing here does I/O; a [`Moment`] is an argument.

mod circuit;
mod report;
mod shared;
#[cfg(test)]
mod tests;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    hash::Hash,
    time::Duration,
};

use circuit::{Circuit, Gate};
pub use report::Report;
pub use shared::SharedAddress;

use crate::{delivery::Reason, destination::Rate};

/// A moment on a monotonic clock: the time since the program started.
pub type Moment = Duration;

/// What a lane may hold before its destination has answered once.
pub const UNPROVEN_QUEUE: usize = 32;
/// The window of a lane whose destination has not answered yet.
pub const UNPROVEN_WINDOW: u32 = 2;
/// The least and the most that a proven lane may hold, beside what a batch takes.
pub const PROVEN_QUEUE: std::ops::RangeInclusive<usize> = 16..=256;
/// The most that a proven lane of batches may hold, so that one lane leaves memory to the others.
pub const MAX_BATCH_QUEUE: usize = 1024;
/// While a request is under way, a batch that is not full waits for company, but no longer than
/// this after the request before it.
pub const BATCH_LINGER: Duration = Duration::from_millis(200);
/// A lane holds about what it can start within this time: a retry tier takes no shorter.
pub const MAX_LANE_WAIT: Duration = Duration::from_secs(5);
/// A lane that takes one in this time or less is worth waiting for when it is full.
pub const FAST_INTERVAL: Duration = Duration::from_millis(5);
/// A full lane whose first request is younger than this may be a fast one: it is waited for.
pub const PATIENCE: Duration = Duration::from_millis(250);
/// A destination that has not answered for so long holds nothing back in its queue.
const STALL_UNPROVEN: Duration = Duration::from_secs(1);
const STALL_PROVEN: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(250)..=Duration::from_secs(5);
/// The window stays while answers take longer than this many times the quickest one …
const SLOWER: f64 = 2.0;
/// … and closes while they take longer than this many times: more at once would only wait longer,
/// at the destination or here (the idea of TCP Vegas).
const MUCH_SLOWER: f64 = 4.0;
/// Answers that are quicker than this, in seconds, are not told apart.
const LEAST_LATENCY: f64 = 0.001;
/// The quickest answer is forgotten by this much with each answer, because destinations change.
const FORGET: f64 = 1.001;
/// An unused lane is forgotten after this time.
pub const MAX_IDLE: Duration = Duration::from_secs(300);
/// The longest that a destination's own "slow down" is obeyed in the lane itself.
const MAX_BLOCK: Duration = Duration::from_secs(3600);

/// What a connector's destination bears.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct LaneLimits {
    /// What the lane is counted under.
    pub label: usize,
    /// Requests at once.
    pub concurrency: u32,
    /// Requests per second.
    pub rate: Option<Rate>,
    /// Deliveries per request.
    pub batch_items: usize,
}

/// The answer to an offer.
#[derive(PartialEq, Debug)]
pub enum Offer<T> {
    /// The lane has it.
    Queued,
    /// The lane is full but drains fast: offer it again in a moment.
    Busy(T),
    /// The lane cannot take it: let it wait in a retry tier.
    Deferred(Deferral<T>),
}

/// A delivery that its lane does not keep.
#[derive(PartialEq, Debug)]
pub struct Deferral<T> {
    /// The delivery.
    pub item: T,
    /// Why.
    pub reason: Reason,
    /// When the lane expects to have room for it.
    pub wait: Duration,
}

/// Something that may be sent now.
#[derive(Debug)]
pub struct Start<T> {
    /// The lane, for [`Lanes::finish`].
    pub lane: LaneId,
    /// One delivery, or a batch.
    pub items: Vec<T>,
    /// When it was handed out.
    pub at: Moment,
}

/// A lane's place in the table.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct LaneId {
    slot: usize,
    generation: u64,
}

/// Where a lane with work stands in line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Listed {
    No,
    Ready,
    At(Moment),
}

#[derive(Debug)]
struct Lane<K, T> {
    key: K,
    generation: u64,
    limits: LaneLimits,
    queue: VecDeque<T>,
    background: VecDeque<T>,
    running: u32,
    window: u32,
    proven: bool,
    tokens: f64,
    tokens_at: Moment,
    circuit: Circuit,
    held: Option<i64>,
    blocked_until: Moment,
    first_start: Option<Moment>,
    last_start: Moment,
    last_progress: Moment,
    last_finish: Option<Moment>,
    /// When the lane last got something to do after it had nothing.
    busy_since: Moment,
    /// Smoothed seconds per request.
    latency: f64,
    /// Seconds of the quickest request.
    quickest: f64,
    /// Smoothed seconds between finished requests while there is work.
    interval: f64,
    /// When the lane expects to have worked off what it handed back.
    spilled_until: Moment,
    listed: Listed,
    used_at: Moment,
}

/// All lanes of this instance.
#[derive(Debug)]
pub struct Lanes<K, T> {
    by_key: HashMap<K, usize>,
    lanes: Vec<Option<Lane<K, T>>>,
    free: Vec<usize>,
    ready: VecDeque<LaneId>,
    timers: BinaryHeap<Reverse<(Moment, LaneId)>>,
    max_running: usize,
    running: usize,
    queued: usize,
    generations: u64,
}

impl<K: Clone + Eq + Hash, T> Lanes<K, T> {
    /// No lanes; at most so many requests at once over all of them.
    pub fn new(max_running: usize) -> Self {
        Self {
            by_key: HashMap::new(),
            lanes: Vec::new(),
            free: Vec::new(),
            ready: VecDeque::new(),
            timers: BinaryHeap::new(),
            max_running: max_running.max(1),
            running: 0,
            queued: 0,
            generations: 0,
        }
    }

    /// How many lanes there are.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether there is no lane.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// How many requests are under way.
    pub fn running(&self) -> usize {
        self.running
    }

    /// How many deliveries wait in lanes.
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Each lane's label and whether its circuit is open, for gauges.
    pub fn circuits(&self) -> impl Iterator<Item = (usize, bool)> {
        self.lanes.iter().flatten().map(|lane| (lane.limits.label, lane.circuit.is_open()))
    }

    /// Offers a delivery to its connector's lane. `version` is the connector's: a newer one lifts
    /// the hold that a broken one caused. Background deliveries start when no other waits.
    pub fn offer(
        &mut self,
        key: &K,
        limits: LaneLimits,
        version: i64,
        background: bool,
        item: T,
        now: Moment,
    ) -> Offer<T> {
        let slot = self.slot(key, limits, now);
        let Some(lane) = self.lanes[slot].as_mut() else { return Offer::Busy(item) };
        lane.limits = limits;
        lane.used_at = now;
        if lane.held.is_some_and(|held| held >= version) {
            let wait = Duration::ZERO;
            return Offer::Deferred(Deferral { item, reason: Reason::Suspended, wait });
        }
        lane.held = None;
        if lane.circuit.gate(now) == Gate::Shut {
            let wait = Duration::ZERO;
            return Offer::Deferred(Deferral { item, reason: Reason::CircuitOpen, wait });
        }
        if let Some(wait) = lane.long_pause(now) {
            return Offer::Deferred(Deferral { item, reason: Reason::RateLimited, wait });
        }
        if lane.waiting() >= lane.capacity(now) {
            return if lane.is_worth_waiting(now) {
                Offer::Busy(item)
            } else {
                Offer::Deferred(lane.defer(item, now))
            };
        }
        if lane.running == 0 && lane.waiting() == 0 {
            lane.busy_since = now;
        }
        if background {
            lane.background.push_back(item);
        } else {
            lane.queue.push_back(item);
        }
        self.queued += 1;
        self.list(slot, now);
        Offer::Queued
    }

    /// What may start now, one lane after the other.
    pub fn next(&mut self, now: Moment) -> Option<Start<T>> {
        self.wake(now);
        while self.running < self.max_running {
            let id = self.ready.pop_front()?;
            let Some(lane) = self.lane(id) else { continue };
            lane.listed = Listed::No;
            if lane.waiting() == 0 || lane.start_at(now).is_none_or(|at| at > now) {
                self.list(id.slot, now);
                continue;
            }
            let items = lane.take(now);
            self.running += 1;
            self.queued -= items.len();
            // Round robin: the lane goes to the end of the line.
            self.list(id.slot, now);
            return Some(Start { lane: id, items, at: now });
        }
        None
    }

    /// A request ended. What the lane cannot keep after that is handed back.
    pub fn finish(
        &mut self,
        id: LaneId,
        started: Moment,
        report: Report,
        now: Moment,
    ) -> Vec<Deferral<T>> {
        self.running = self.running.saturating_sub(1);
        let Some(lane) = self.lane(id) else { return Vec::new() };
        lane.finish(started, report, now);
        let evicted = if lane.held.is_some() {
            lane.evict(Reason::Suspended, now)
        } else if lane.circuit.is_open() {
            lane.evict(Reason::CircuitOpen, now)
        } else if lane.long_pause(now).is_some() {
            lane.evict(Reason::RateLimited, now)
        } else {
            Vec::new()
        };
        self.queued -= evicted.len();
        self.list(id.slot, now);
        evicted
    }

    /// Looks after lanes whose destination does not answer, and forgets idle ones. Call it some
    /// ten times a second.
    pub fn sweep(&mut self, now: Moment) -> Vec<Deferral<T>> {
        let mut evicted = Vec::new();
        for slot in 0..self.lanes.len() {
            let Some(lane) = self.lanes[slot].as_mut() else { continue };
            if lane.is_stalled(now) && lane.waiting() > 0 {
                let spilled = lane.evict(Reason::LaneFull, now);
                self.queued -= spilled.len();
                evicted.extend(spilled);
            }
            let idle = lane.running == 0 && lane.waiting() == 0 && lane.held.is_none();
            // What the destination asked for is remembered for as long as it asked for it.
            let asked_for_rest = lane.circuit.is_open() || lane.blocked_until > now;
            if idle && !asked_for_rest && now.saturating_sub(lane.used_at) > MAX_IDLE {
                self.by_key.remove(&lane.key);
                self.lanes[slot] = None;
                self.free.push(slot);
            }
        }
        evicted
    }

    /// Takes every waiting delivery out that matches, for a partition that is given up.
    pub fn drain(&mut self, mut matches: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut drained = Vec::new();
        for lane in self.lanes.iter_mut().flatten() {
            for queue in [&mut lane.queue, &mut lane.background] {
                if queue.iter().any(&mut matches) {
                    for item in std::mem::take(queue) {
                        if matches(&item) { drained.push(item) } else { queue.push_back(item) }
                    }
                }
            }
        }
        self.queued -= drained.len();
        drained
    }

    /// When to call [`Self::next`] again although nothing was offered or finished.
    pub fn wake_at(&self) -> Option<Moment> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    fn lane(&mut self, id: LaneId) -> Option<&mut Lane<K, T>> {
        self.lanes.get_mut(id.slot)?.as_mut().filter(|lane| lane.generation == id.generation)
    }

    fn slot(&mut self, key: &K, limits: LaneLimits, now: Moment) -> usize {
        if let Some(slot) = self.by_key.get(key) {
            return *slot;
        }
        self.generations += 1;
        let lane = Lane::new(key.clone(), self.generations, limits, now);
        let slot = self.free.pop().unwrap_or_else(|| {
            self.lanes.push(None);
            self.lanes.len() - 1
        });
        self.lanes[slot] = Some(lane);
        self.by_key.insert(key.clone(), slot);
        slot
    }

    /// Puts a lane with work in line, or sets a timer for when it may start.
    fn list(&mut self, slot: usize, now: Moment) {
        let Some(lane) = self.lanes[slot].as_mut() else { return };
        if lane.listed == Listed::Ready || lane.waiting() == 0 {
            return;
        }
        let id = LaneId { slot, generation: lane.generation };
        match lane.start_at(now) {
            Some(at) if at <= now => {
                lane.listed = Listed::Ready;
                self.ready.push_back(id);
            }
            Some(at) if !matches!(lane.listed, Listed::At(known) if known <= at) => {
                lane.listed = Listed::At(at);
                self.timers.push(Reverse((at, id)));
            }
            // That timer, a finished request or a sweep will list it again.
            _ => {}
        }
    }

    fn wake(&mut self, now: Moment) {
        while let Some(Reverse((at, id))) = self.timers.peek().copied() {
            if at > now {
                return;
            }
            self.timers.pop();
            // A timer of a lane that got ready earlier means nothing any more.
            if let Some(lane) = self.lane(id)
                && lane.listed == Listed::At(at)
            {
                lane.listed = Listed::No;
                self.list(id.slot, now);
            }
        }
    }
}

impl<K, T> Lane<K, T> {
    fn new(key: K, generation: u64, limits: LaneLimits, now: Moment) -> Self {
        Self {
            key,
            generation,
            limits,
            queue: VecDeque::new(),
            background: VecDeque::new(),
            running: 0,
            window: UNPROVEN_WINDOW.min(limits.concurrency).max(1),
            proven: false,
            tokens: limits.rate.map_or(0.0, |rate| f64::from(rate.burst)),
            tokens_at: now,
            circuit: Circuit::default(),
            held: None,
            blocked_until: Moment::ZERO,
            first_start: None,
            last_start: Moment::ZERO,
            last_progress: now,
            last_finish: None,
            busy_since: now,
            latency: 0.0,
            quickest: f64::INFINITY,
            interval: 0.0,
            spilled_until: Moment::ZERO,
            listed: Listed::No,
            used_at: now,
        }
    }

    fn waiting(&self) -> usize {
        self.queue.len() + self.background.len()
    }

    /// Seconds from one request to the next at present.
    fn pace(&self) -> f64 {
        let rate = self.limits.rate.map_or(0.0, |rate| 1.0 / rate.per_second.max(1e-6));
        self.interval.max(rate)
    }

    /// Seconds that one delivery takes at present, if batches are full.
    fn step(&self) -> f64 {
        let batch = f64::from(u32::try_from(self.limits.batch_items.max(1)).unwrap_or(u32::MAX));
        self.pace() / batch
    }

    fn capacity(&self, now: Moment) -> usize {
        if self.circuit.gate(now) == Gate::Probe {
            return 1;
        }
        if self.is_stalled(now) {
            return 0;
        }
        let batch = self.limits.batch_items.max(1);
        let in_time = MAX_LANE_WAIT.as_secs_f64() / self.step().max(1e-6) + self.tokens;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
        let in_time = in_time as usize;
        if self.proven {
            let most = match batch {
                1 => *PROVEN_QUEUE.end(),
                _ => (2 * batch).min(MAX_BATCH_QUEUE),
            };
            in_time.clamp(*PROVEN_QUEUE.start(), most.max(*PROVEN_QUEUE.start()))
        } else {
            in_time.clamp(1, UNPROVEN_QUEUE)
        }
    }

    /// How long the destination asked to be left alone, when that is too long to wait here.
    fn long_pause(&self, now: Moment) -> Option<Duration> {
        Some(self.blocked_until.saturating_sub(now)).filter(|pause| *pause > MAX_LANE_WAIT)
    }

    fn is_worth_waiting(&self, now: Moment) -> bool {
        if self.proven {
            !self.is_stalled(now) && self.pace() <= FAST_INTERVAL.as_secs_f64()
        } else {
            let unlimited = self.limits.rate.is_none_or(|rate| rate.per_second >= 100.0);
            unlimited && self.first_start.is_none_or(|at| now.saturating_sub(at) < PATIENCE)
        }
    }

    fn is_stalled(&self, now: Moment) -> bool {
        let patience = if self.proven {
            Duration::from_secs_f64((self.latency * 4.0).min(3600.0))
                .clamp(*STALL_PROVEN.start(), *STALL_PROVEN.end())
        } else {
            STALL_UNPROVEN
        };
        self.running > 0 && now.saturating_sub(self.last_progress) > patience
    }

    fn refill(&mut self, now: Moment) {
        if let Some(rate) = self.limits.rate {
            let passed = now.saturating_sub(self.tokens_at).as_secs_f64();
            self.tokens =
                (self.tokens + passed * rate.per_second).min(f64::from(rate.burst.max(1)));
        }
        self.tokens_at = now;
    }

    /// When the lane may start its next request; `None` when that depends on one that runs.
    fn start_at(&mut self, now: Moment) -> Option<Moment> {
        if self.running >= self.window || self.held.is_some() {
            return None;
        }
        let circuit = match self.circuit.gate(now) {
            Gate::Open => now,
            Gate::Probe if self.running == 0 => now,
            Gate::Probe => return None,
            Gate::Shut => self.circuit.opens_at(),
        };
        self.refill(now);
        let tokens = match self.limits.rate {
            Some(rate) if self.tokens < 1.0 => {
                let missing = (1.0 - self.tokens) / rate.per_second.max(1e-6);
                now + Duration::from_secs_f64(missing.min(3600.0)) + Duration::from_micros(1)
            }
            _ => now,
        };
        let is_full = self.waiting() >= self.limits.batch_items;
        let company =
            if is_full || self.running == 0 { now } else { self.last_start + BATCH_LINGER };
        Some(circuit.max(tokens).max(self.blocked_until).max(company))
    }

    fn take(&mut self, now: Moment) -> Vec<T> {
        let most = self.limits.batch_items.max(1);
        let queue = if self.queue.is_empty() { &mut self.background } else { &mut self.queue };
        let items: Vec<T> = queue.drain(..most.min(queue.len())).collect();
        if self.limits.rate.is_some() {
            self.tokens -= 1.0;
        }
        if self.running == 0 {
            self.last_progress = now;
        }
        self.first_start.get_or_insert(now);
        self.last_start = now;
        self.running += 1;
        self.used_at = now;
        items
    }

    fn finish(&mut self, started: Moment, report: Report, now: Moment) {
        self.running = self.running.saturating_sub(1);
        self.last_progress = now;
        self.used_at = now;
        let was_busy = self.last_finish.is_some_and(|at| at >= started) || self.waiting() > 0;
        match report {
            Report::Working => {
                self.circuit.worked();
                self.proven = true;
                let latency = now.saturating_sub(started).as_secs_f64();
                smooth(&mut self.latency, latency);
                self.adapt_window(latency);
                // A pause in which there was nothing to do says nothing of the destination.
                let since = self.last_finish.unwrap_or(started).max(self.busy_since);
                let gap = now.saturating_sub(since).as_secs_f64();
                smooth(&mut self.interval, if was_busy { gap } else { latency });
            }
            Report::SlowDown(after) => {
                let after = after.unwrap_or(Duration::from_secs(1)).min(MAX_BLOCK);
                self.blocked_until = self.blocked_until.max(now + after);
                self.window = (self.window / 2).max(1);
            }
            Report::Failing => {
                self.window = (self.window / 2).max(1);
                self.circuit.failed(now);
            }
            Report::Broken { version } => self.held = Some(version),
            Report::Unused => {}
        }
        self.last_finish = Some(now);
    }

    /// Opens the window while answers stay quick, and closes it when they get slow.
    fn adapt_window(&mut self, latency: f64) {
        self.quickest = (self.quickest * FORGET).min(latency.max(LEAST_LATENCY));
        // A full batch takes longer than a small one; that says nothing of how many are too many.
        if self.limits.batch_items > 1 || latency <= self.quickest * SLOWER {
            self.window += 1;
        } else if latency > self.quickest * MUCH_SLOWER {
            self.window = self.window.saturating_sub(1);
        }
        self.window = self.window.clamp(1, self.limits.concurrency.max(1));
    }

    fn defer(&mut self, item: T, now: Moment) -> Deferral<T> {
        let step = Duration::from_secs_f64(self.step().clamp(0.001, 60.0));
        let ahead = step * u32::try_from(self.waiting()).unwrap_or(u32::MAX).min(100_000);
        let soonest = (now + ahead).max(self.blocked_until);
        self.spilled_until = self.spilled_until.max(soonest) + step;
        Deferral { item, reason: Reason::LaneFull, wait: self.spilled_until.saturating_sub(now) }
    }

    fn evict(&mut self, reason: Reason, now: Moment) -> Vec<Deferral<T>> {
        let items: Vec<T> = self.queue.drain(..).chain(self.background.drain(..)).collect();
        let deferral = |item| match reason {
            Reason::LaneFull => self.defer(item, now),
            Reason::RateLimited => {
                Deferral { item, reason, wait: self.blocked_until.saturating_sub(now) }
            }
            _ => Deferral { item, reason, wait: Duration::ZERO },
        };
        items.into_iter().map(deferral).collect()
    }
}

fn smooth(value: &mut f64, sample: f64) {
    *value = if *value == 0.0 { sample } else { *value * 0.8 + sample * 0.2 };
}
