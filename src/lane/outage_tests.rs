//! Lanes and retry policy together, while a destination is down or asks to be left alone, by a clock
//! that the test moves.

use std::collections::BTreeMap;

use super::{
    tests::{LIMITS, LIVE, RETRY, ms},
    *,
};
use crate::{
    clock::Timestamp,
    delivery::{Ending, History, Next, Park, RetryPolicy, Verdict},
};

const START: i64 = 1_700_000_000_000;
/// What an answer takes.
const LATENCY: Duration = Duration::from_millis(5);
const TICK: Duration = Duration::from_millis(5);

/// One connector, its deliveries and the tiers.
struct World {
    lanes: Lanes<&'static str, usize>,
    policy: RetryPolicy,
    histories: Vec<History>,
    waiting: BTreeMap<Moment, Vec<usize>>,
    requests: Vec<Moment>,
    delivered: usize,
    dead: Vec<usize>,
}

impl World {
    /// So many deliveries at once, to a destination that answers as `answer` says at each moment.
    fn burst(tiers: &str, count: usize, answer: impl Fn(Moment) -> Verdict) -> Self {
        let mut world = Self {
            lanes: Lanes::new(4096, 64),
            policy: tiers.parse().unwrap(),
            histories: vec![History::default(); count],
            waiting: BTreeMap::from([(ms(0), (0..count).collect())]),
            requests: Vec::new(),
            delivered: 0,
            dead: Vec::new(),
        };
        let mut under_way: Vec<(Moment, Start<usize>)> = Vec::new();
        let mut now = ms(0);
        while world.delivered + world.dead.len() < count {
            assert!(now < MAX_DEFERRED_AGE, "{} are left", count - world.delivered);
            let (ended, going) = under_way.into_iter().partition(|(at, _)| *at <= now);
            under_way = going;
            for (_, start) in ended {
                world.answer(start, &answer(now), now);
            }
            let later = world.waiting.split_off(&(now + Duration::from_nanos(1)));
            for item in std::mem::replace(&mut world.waiting, later).into_values().flatten() {
                world.offer(item, now);
            }
            if now.as_millis().is_multiple_of(100) {
                for deferral in world.lanes.sweep(now) {
                    world.put_off(&deferral, now);
                }
            }
            while let Some(start) = world.lanes.next(now) {
                world.requests.push(now);
                under_way.push((now + LATENCY, start));
            }
            now += TICK;
        }
        world
    }

    fn offer(&mut self, item: usize, now: Moment) {
        let history = &self.histories[item];
        if let Some(wait) = history.left_to_ask(stamp(now)) {
            self.put_off(&Deferral { item, reason: Reason::RateLimited, wait }, now);
            return;
        }
        let arrival = if history.deferred_since.or(history.first_attempt_at).is_some() {
            RETRY
        } else {
            LIVE
        };
        let arrival = Arrival { is_last: self.policy.is_last(history.steps), ..arrival };
        match self.lanes.offer(&"a", LIMITS, arrival, item, now) {
            Offer::Queued => {}
            Offer::Busy(item) => self.waiting.entry(now + TICK).or_default().push(item),
            Offer::Deferred(deferral) => self.put_off(&deferral, now),
        }
    }

    fn put_off(&mut self, deferral: &Deferral<usize>, now: Moment) {
        let Deferral { item, reason, wait } = *deferral;
        let history = &mut self.histories[item];
        let park = history.after_deferral(&self.policy, reason, String::new(), wait, stamp(now));
        self.park(item, &park, now);
    }

    fn answer(&mut self, start: Start<usize>, verdict: &Verdict, now: Moment) {
        let report = Report::of(start.items.iter().map(|_| (1, verdict)));
        for deferral in self.lanes.finish(start.ticket, report, now) {
            self.put_off(&deferral, now);
        }
        for item in start.items {
            let history = &mut self.histories[item];
            let took = Some(LATENCY);
            match history.after_attempt(&self.policy, verdict.clone(), took, stamp(now)) {
                Ending::Delivered => self.delivered += 1,
                Ending::Parked(park) => self.park(item, &park, now),
            }
        }
    }

    fn park(&mut self, item: usize, park: &Park, now: Moment) {
        if park.next == Next::Dead {
            self.dead.push(item);
        } else {
            let due = now + park.due_at.since(stamp(now));
            self.waiting.entry(due).or_default().push(item);
        }
    }
}

fn stamp(now: Moment) -> Timestamp {
    Timestamp::from_millis(START).plus(now)
}

fn down_for(seconds: u64) -> impl Fn(Moment) -> Verdict {
    move |now| {
        if now < Duration::from_secs(seconds) {
            Verdict::retry(Reason::ConnectFailed, "refused")
        } else {
            Verdict::Delivered
        }
    }
}

const DEFAULT: &str = "5s,30s,2m,10m,1h,6h";

#[test]
fn an_outage_of_half_a_minute_ends_no_delivery_of_a_burst() {
    for tiers in ["1s,2s", "1s", DEFAULT] {
        for count in [8, 20, 100, 1_000] {
            let world = World::burst(tiers, count, down_for(30));
            assert!(world.dead.is_empty(), "{tiers}, {count}: {:?}", world.dead);
            let meanwhile = world.requests.iter().filter(|at| **at < ms(30_000)).count();
            assert!(meanwhile < 12, "{tiers}, {count}: {meanwhile} requests");
        }
    }
}

#[test]
fn five_failures_end_nobody() {
    // Eight deliveries and a destination that fails its first five requests.
    let failures = std::cell::Cell::new(5_u32);
    let world = World::burst("1s,2s", 8, |_| {
        let left = failures.replace(failures.get().saturating_sub(1));
        if left > 0 { Verdict::retry(Reason::ServerError, "HTTP 500") } else { Verdict::Delivered }
    });
    assert_eq!((world.delivered, world.dead.len()), (8, 0));
    assert!(world.histories.iter().all(|history| history.attempts > 0));
}

#[test]
fn nothing_ends_without_a_request_after_its_last_wait() {
    // It never works again: what ends, ends by its own requests while it is young.
    let policy: RetryPolicy = "1s,2s".parse().unwrap();
    let world = World::burst("1s,2s", 3, |_| Verdict::retry(Reason::ServerError, "HTTP 500"));
    assert_eq!(world.dead.len(), 3);
    let tiers = u32::try_from(policy.tiers().len()).unwrap();
    assert!(world.histories.iter().all(|history| history.attempts == tiers + 1));
    let told = |history: &History| history.last_error.as_ref().unwrap().reason.clone();
    assert!(world.histories.iter().all(|history| told(history) == "server_error"));
}

#[test]
fn a_wait_that_is_asked_for_holds_everything_whatever_the_status() {
    for reason in [Reason::ServerError, Reason::NotReady, Reason::RateLimited] {
        for (tiers, count) in [("1s,2s", 50), (DEFAULT, 50), ("1s,2s", 1)] {
            let world = World::burst(tiers, count, |now| {
                let left = Duration::from_secs(15).saturating_sub(now);
                if left.is_zero() {
                    Verdict::Delivered
                } else {
                    Verdict::retry_after(reason, "later", left)
                }
            });
            assert!(world.dead.is_empty(), "{reason} {tiers}");
            let early = world.requests.iter().filter(|at| **at < ms(15_000));
            // The window of a lane whose destination has not answered yet.
            assert!(early.count() <= 2, "{reason} {tiers}: {:?}", world.requests);
            assert!(world.histories.iter().all(|history| history.steps <= 1), "{reason} {tiers}");
        }
    }
}
