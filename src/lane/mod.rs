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
#[cfg(test)]
mod fairness_tests;
mod near;
mod one;
#[cfg(test)]
mod outage_tests;
mod patience;
mod report;
mod shared;
mod suspicion;
#[cfg(test)]
mod tests;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    hash::Hash,
    time::Duration,
};

pub use circuit::FIRST_REST;
use near::{Distance, Reach, Ready};
use one::Lane;
pub use patience::{MAX_HELD_UP, Patience};
pub use report::Report;
pub use shared::SharedAddress;
pub use suspicion::{Answer, Suspicions};

use crate::{
    delivery::{MAX_DEFERRED_AGE, Reason, Source},
    destination::Rate,
};

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
/// While room is short, a lane that has more to do than this holds no more than its share.
pub const MAX_CROWDED_WAIT: Duration = Duration::from_secs(1);
/// A share is this many times what lanes hold on average, so that lanes that are merely a little
/// behind are left alone …
const SHARE_OF_AVERAGE: usize = 2;
/// … and at least this.
const LEAST_SHARE: usize = 4;
/// Whose turn it is when deliveries of several sources wait in a lane: live ones get five requests
/// of eight, retries two, replays one. Who has nothing waiting leaves the turn to the others.
const TURNS: [Source; 8] = {
    use Source::{Live, Replay, Retry};
    [Live, Retry, Live, Live, Replay, Live, Retry, Live]
};
/// A sweep that comes later than this after the one before tells that this program stood still.
const STOOD_STILL: Duration = Duration::from_millis(300);
/// The longest that a delivery is put off because its destination does not answer.
pub const MAX_STALLED_WAIT: Duration = Duration::from_secs(120);
/// A lane that takes one in this time or less is worth waiting for when it is full, while there is
/// [`Patience`] …
pub const FAST_INTERVAL: Duration = Duration::from_millis(5);
/// … and one that takes one in this time always: putting off and reading on is hardly faster.
pub const FASTEST_INTERVAL: Duration = Duration::from_millis(1);
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
/// The longest that a destination is left alone because it asked for it.
const MAX_BLOCK: Duration = MAX_DEFERRED_AGE;

/// What a connector's destination bears.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct LaneLimits {
    /// What the lane is counted under; a small number.
    pub label: usize,
    /// Whether all lanes of this label have the same destination: how far away it is, they learn
    /// together.
    pub same_place: bool,
    /// Requests at once.
    pub concurrency: u32,
    /// Requests per second.
    pub rate: Option<Rate>,
    /// Deliveries per request.
    pub batch_items: usize,
}

/// How a delivery comes to its lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arrival {
    /// The connector's version: for a newer one the lane forgets what held it up, since it may have
    /// another destination.
    pub version: i64,
    /// What made this program deliver.
    pub source: Source,
    /// Whether others need the room: then a lane that is behind holds no more than its share.
    pub crowded: bool,
    /// Whether its partition has the patience to offer it again in a moment, when the lane is full
    /// but fast.
    pub patient: bool,
    /// Whether the next failure ends the delivery: then it is not what an open circuit asks with,
    /// as long as there are others.
    pub is_last: bool,
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

/// What a lane does at present.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LaneState {
    /// What the lane is counted under.
    pub label: usize,
    /// Whether its circuit is open: its destination is given a rest.
    pub is_open: bool,
    /// Whether it could start a request and waits for its turn.
    pub is_in_line: bool,
}

/// Something that may be sent now.
#[derive(Debug)]
pub struct Start<T> {
    /// For [`Lanes::finish`].
    pub ticket: Ticket,
    /// One delivery, or a batch.
    pub items: Vec<T>,
}

/// A request that is under way.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    lane: LaneId,
    started: Moment,
    reach: Reach,
}

/// A lane's place in the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
struct LaneId {
    slot: usize,
    generation: u64,
}

/// Where a lane with work stands in line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Listed {
    No,
    /// It could start, and waits for its turn since then.
    Ready(Moment),
    At(Moment),
}

/// All lanes of this instance.
#[derive(Debug)]
pub struct Lanes<K, T> {
    by_key: HashMap<K, usize>,
    lanes: Vec<Option<Lane<K, T>>>,
    free: Vec<usize>,
    ready: Ready,
    /// How far away the destinations are that all lanes of a label have, by label.
    places: Vec<Distance>,
    timers: BinaryHeap<Reverse<(Moment, LaneId)>>,
    max_running: usize,
    running: usize,
    queued: usize,
    generations: u64,
    last_sweep: Moment,
}

impl<K: Clone + Eq + Hash, T> Lanes<K, T> {
    /// No lanes; at most so many requests at once over all of them, and so many to destinations
    /// that answer at once.
    pub fn new(max_running: usize, max_near: usize) -> Self {
        Self {
            by_key: HashMap::new(),
            lanes: Vec::new(),
            free: Vec::new(),
            ready: Ready::new(max_near),
            places: Vec::new(),
            timers: BinaryHeap::new(),
            max_running: max_running.max(1),
            running: 0,
            queued: 0,
            generations: 0,
            last_sweep: Moment::ZERO,
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

    /// What each lane does at present, for gauges.
    pub fn states(&self) -> impl Iterator<Item = LaneState> {
        self.lanes.iter().flatten().map(|lane| LaneState {
            label: lane.limits.label,
            is_open: lane.circuit.is_open(),
            is_in_line: matches!(lane.listed, Listed::Ready(_)),
        })
    }

    /// Offers a delivery to its connector's lane.
    pub fn offer(
        &mut self,
        key: &K,
        limits: LaneLimits,
        arrival: Arrival,
        item: T,
        now: Moment,
    ) -> Offer<T> {
        let slot = self.slot(key, limits, now);
        let share = arrival.crowded.then(|| SHARE_OF_AVERAGE * self.queued / self.by_key.len());
        let Some(lane) = self.lanes[slot].as_mut() else { return Offer::Busy(item) };
        lane.limits = limits;
        lane.used_at = now;
        lane.see_version(arrival.version);
        if lane.held.is_some_and(|held| held >= arrival.version) {
            let wait = Duration::ZERO;
            return Offer::Deferred(Deferral { item, reason: Reason::Suspended, wait });
        }
        lane.held = None;
        if lane.is_at_rest(arrival.is_last, now) {
            let (reason, wait) = (Reason::CircuitOpen, lane.rest_left(now));
            return Offer::Deferred(Deferral { item, reason, wait });
        }
        if let Some(wait) = lane.long_pause(now) {
            return Offer::Deferred(Deferral { item, reason: Reason::RateLimited, wait });
        }
        if lane.is_full(arrival.source, share, now) {
            return if lane.is_worth_waiting(arrival.patient, now) {
                Offer::Busy(item)
            } else {
                Offer::Deferred(lane.defer(item, now))
            };
        }
        if lane.running == 0 && lane.waiting() == 0 {
            lane.busy_since = now;
        }
        lane.push(arrival.source, item);
        self.queued += 1;
        self.list(slot, now);
        Offer::Queued
    }

    /// What may start now, one lane after the other.
    pub fn next(&mut self, now: Moment) -> Option<Start<T>> {
        self.wake(now);
        while self.running < self.max_running {
            let (id, was) = self.ready.pop(now)?;
            let Some(lane) = find(&mut self.lanes, id) else { continue };
            let reach = self.ready.reach(distance(&mut self.places, lane), now);
            if reach != was {
                self.ready.push(id, reach);
                continue;
            }
            lane.list_as(Listed::No, now);
            if lane.waiting() == 0 || lane.start_at(now).is_none_or(|at| at > now) {
                self.list(id.slot, now);
                continue;
            }
            let items = lane.take(now);
            let ticket = Ticket { lane: id, started: now, reach };
            self.ready.start(reach, now);
            self.running += 1;
            self.queued -= items.len();
            // Round robin: the lane goes to the end of the line.
            self.list(id.slot, now);
            return Some(Start { ticket, items });
        }
        None
    }

    /// A request ended. What the lane cannot keep after that is handed back.
    pub fn finish(&mut self, ticket: Ticket, report: Report, now: Moment) -> Vec<Deferral<T>> {
        self.running = self.running.saturating_sub(1);
        self.ready.finish(ticket.reach, ticket.started, now);
        let Some(lane) = find(&mut self.lanes, ticket.lane) else { return Vec::new() };
        if matches!(report, Report::Working) {
            let latency = now.saturating_sub(ticket.started).as_secs_f64();
            self.ready.answered(distance(&mut self.places, lane), latency, now);
        }
        lane.finish(ticket.started, report, now);
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
        self.list(ticket.lane.slot, now);
        evicted
    }

    /// Since when the circuit of a lane is open, if it is.
    pub fn open_since(&self, key: &K) -> Option<Moment> {
        let lane = self.lanes.get(*self.by_key.get(key)?)?.as_ref()?;
        lane.circuit.opened_at()
    }

    /// Counts one more request of a start against the lane's rate. Tells how long it has to wait.
    pub fn spend(&mut self, ticket: Ticket, now: Moment) -> Duration {
        find(&mut self.lanes, ticket.lane).map_or(Duration::ZERO, |lane| lane.spend(now))
    }

    /// Looks after lanes whose destination does not answer, and forgets idle ones. Call it some
    /// ten times a second.
    pub fn sweep(&mut self, now: Moment) -> Vec<Deferral<T>> {
        let mut evicted = Vec::new();
        // Time in which this program did not run is not held against the destinations.
        let since = now.saturating_sub(self.last_sweep);
        let stood_still = if since > STOOD_STILL { since } else { Duration::ZERO };
        self.last_sweep = now;
        for slot in 0..self.lanes.len() {
            let Some(lane) = self.lanes[slot].as_mut() else { continue };
            lane.last_progress = (lane.last_progress + stood_still).min(now);
            if lane.is_stalled(now) && lane.waiting() > 0 {
                let spilled = lane.evict(Reason::LaneFull, now);
                self.queued -= spilled.len();
                evicted.extend(spilled);
            }
            // One that is held too: a suspended connector's deliveries come to no lane, and one that
            // was deleted has no newer version.
            let idle = lane.running == 0 && lane.waiting() == 0;
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
            lane.drain(&mut matches, &mut drained);
        }
        self.queued -= drained.len();
        drained
    }

    /// When to call [`Self::next`] again although nothing was offered or finished.
    pub fn wake_at(&self) -> Option<Moment> {
        let timer = self.timers.peek().map(|Reverse((at, _))| *at);
        // While too many run, nothing starts before one of them ends.
        let has_room = self.running < self.max_running;
        let ready = if has_room { self.ready.wake_at() } else { None };
        timer.into_iter().chain(ready).min()
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
        if matches!(lane.listed, Listed::Ready(_)) || lane.waiting() == 0 {
            return;
        }
        let id = LaneId { slot, generation: lane.generation };
        match lane.start_at(now) {
            Some(at) if at <= now => {
                lane.list_as(Listed::Ready(now), now);
                let reach = self.ready.reach(distance(&mut self.places, lane), now);
                self.ready.push(id, reach);
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
            if let Some(lane) = find(&mut self.lanes, id)
                && lane.listed == Listed::At(at)
            {
                lane.listed = Listed::No;
                self.list(id.slot, now);
            }
        }
    }
}

fn find<K, T>(lanes: &mut [Option<Lane<K, T>>], id: LaneId) -> Option<&mut Lane<K, T>> {
    lanes.get_mut(id.slot)?.as_mut().filter(|lane| lane.generation == id.generation)
}

/// How far away a lane's destination is.
fn distance<'a, K, T>(places: &'a mut Vec<Distance>, lane: &'a mut Lane<K, T>) -> &'a mut Distance {
    if !lane.limits.same_place {
        return &mut lane.distance;
    }
    let label = lane.limits.label;
    if label >= places.len() {
        places.resize(label + 1, Distance::UNKNOWN);
    }
    &mut places[label]
}

fn smooth(value: &mut f64, sample: f64) {
    *value = if *value == 0.0 { sample } else { *value * 0.8 + sample * 0.2 };
}
