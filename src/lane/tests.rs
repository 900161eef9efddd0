//! The lanes' behaviour, told with a clock that the test moves.

use std::collections::VecDeque;

use super::*;

pub(super) const LIMITS: LaneLimits =
    LaneLimits { label: 0, same_place: false, concurrency: 16, rate: None, batch_items: 1 };

pub(super) const LIVE: Arrival =
    Arrival { version: 1, source: Source::Live, crowded: false, patient: true, is_last: false };
pub(super) const RETRY: Arrival = Arrival { source: Source::Retry, ..LIVE };
pub(super) const REPLAY: Arrival = Arrival { source: Source::Replay, ..LIVE };

pub(super) fn ms(millis: u64) -> Moment {
    Duration::from_millis(millis)
}

pub(super) fn lanes(max_running: usize) -> Lanes<&'static str, u32> {
    Lanes::new(max_running, max_running)
}

/// Offers one delivery; true when the lane kept it.
pub(super) fn offer(
    lanes: &mut Lanes<&'static str, u32>,
    key: &'static str,
    item: u32,
    now: Moment,
) -> bool {
    lanes.offer(&key, LIMITS, LIVE, item, now) == Offer::Queued
}

/// Starts everything that may start, answers it at once, and returns what was started.
pub(super) fn run(lanes: &mut Lanes<&'static str, u32>, now: Moment, report: Report) -> Vec<u32> {
    let mut started = Vec::new();
    while let Some(start) = lanes.next(now) {
        started.extend(&start.items);
        lanes.finish(start.ticket, report, now + ms(1));
    }
    started
}

#[test]
fn a_lane_starts_deliveries_in_their_order() {
    let mut lanes = lanes(100);
    for item in 0..5 {
        assert!(offer(&mut lanes, "a", item, ms(0)));
    }
    assert_eq!(run(&mut lanes, ms(0), Report::Working), [0, 1, 2, 3, 4]);
    assert_eq!((lanes.queued(), lanes.running()), (0, 0));
}

#[test]
fn an_unproven_lane_holds_little_and_a_proven_one_more() {
    let mut lanes = lanes(100);
    let kept = (0..100).filter(|item| offer(&mut lanes, "a", *item, ms(200))).count();
    assert_eq!(kept, UNPROVEN_QUEUE);
    run(&mut lanes, ms(200), Report::Working);
    let kept = (0..1000).filter(|item| offer(&mut lanes, "a", *item, ms(202))).count();
    assert_eq!(kept, *PROVEN_QUEUE.end());
}

#[test]
fn a_full_lane_is_waited_for_only_when_it_is_fast() {
    let mut lanes = lanes(100);
    for item in 0..32 {
        assert!(offer(&mut lanes, "slow", item, ms(0)));
    }
    let first = lanes.next(ms(0)).unwrap();
    let second = lanes.next(ms(0)).unwrap();
    assert!(lanes.next(ms(0)).is_none(), "the window of an unproven lane is 2");
    assert!(offer(&mut lanes, "slow", 8, ms(1)) && offer(&mut lanes, "slow", 9, ms(1)));
    assert!(matches!(lanes.offer(&"slow", LIMITS, LIVE, 10, ms(1)), Offer::Busy(10)));
    assert!(matches!(lanes.offer(&"slow", LIMITS, LIVE, 10, ms(300)), Offer::Deferred(_)));
    lanes.finish(first.ticket, Report::Working, ms(500));
    lanes.finish(second.ticket, Report::Working, ms(500));
    // Half a second each: the lane has enough for more than it should keep anyone waiting.
    let kept = (0..100).filter(|item| offer(&mut lanes, "slow", *item, ms(501))).count();
    assert!(kept < 32, "{kept}");
}

#[test]
fn a_lane_that_waits_for_its_turn_is_not_a_slow_one() {
    // One request at once over all lanes, five milliseconds each: ten lanes get one in fifty.
    let keys = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
    let mut lanes = lanes(1);
    let mut now = ms(0);
    for _ in 0..100 {
        for key in keys {
            while offer(&mut lanes, key, 0, now) {}
        }
        let start = lanes.next(now).unwrap();
        now += ms(5);
        lanes.finish(start.ticket, Report::Working, now);
    }
    // All that is behind is this program: waiting slows it down to what it can do.
    for key in keys {
        while offer(&mut lanes, key, 0, now) {}
        assert_eq!(lanes.offer(&key, LIMITS, LIVE, 0, now), Offer::Busy(0), "{key}");
    }
    assert!(lanes.states().all(|state| state.is_in_line));
    // A destination that takes one in fifty milliseconds itself is slow.
    let one_at_once = LaneLimits { concurrency: 1, ..LIMITS };
    let mut lanes = self::lanes(100);
    for _ in 0..100 {
        while lanes.offer(&"slow", one_at_once, LIVE, 0, now) == Offer::Queued {}
        let start = lanes.next(now).unwrap();
        now += ms(50);
        lanes.finish(start.ticket, Report::Working, now);
    }
    while lanes.offer(&"slow", one_at_once, LIVE, 0, now) == Offer::Queued {}
    assert!(matches!(lanes.offer(&"slow", one_at_once, LIVE, 0, now), Offer::Deferred(_)));
    let _ = lanes.next(now).unwrap();
    assert!(lanes.states().all(|state| !state.is_in_line), "it waits for its destination");
}

#[test]
fn pauses_between_bursts_do_not_make_a_fast_lane_slow() {
    let mut lanes = lanes(100);
    offer(&mut lanes, "a", 0, ms(0));
    run(&mut lanes, ms(0), Report::Working);
    for burst in 1..20 {
        let now = ms(burst * 1000);
        for item in 0..2 {
            assert!(offer(&mut lanes, "a", item, now));
        }
        run(&mut lanes, now, Report::Working);
    }
    let kept = (0..1000).filter(|item| offer(&mut lanes, "a", *item, ms(20_000))).count();
    assert_eq!(kept, *PROVEN_QUEUE.end());
}

#[test]
fn a_destination_that_hangs_holds_back_two_and_gives_the_rest_away() {
    let mut lanes = lanes(100);
    for item in 0..8 {
        offer(&mut lanes, "hung", item, ms(0));
    }
    let started: Vec<_> = std::iter::from_fn(|| lanes.next(ms(0))).collect();
    assert_eq!(started.len(), 2);
    assert!((1..=9).all(|tick| lanes.sweep(ms(tick * 100)).is_empty()));
    let evicted = lanes.sweep(ms(1100));
    assert_eq!(evicted.iter().map(|e| e.item).collect::<Vec<_>>(), [2, 3, 4, 5, 6, 7]);
    assert!(evicted.iter().all(|e| e.reason == Reason::LaneFull));
    assert!(matches!(lanes.offer(&"hung", LIMITS, LIVE, 9, ms(1200)), Offer::Deferred(_)));
    assert!(offer(&mut lanes, "other", 1, ms(1200)), "nobody else is concerned");
}

#[test]
fn a_circuit_opens_after_failures_rests_and_probes() {
    let mut lanes = lanes(100);
    for item in 0..5 {
        offer(&mut lanes, "a", item, ms(0));
        run(&mut lanes, ms(0), Report::Failing(None));
    }
    let Offer::Deferred(deferral) = lanes.offer(&"a", LIMITS, LIVE, 6, ms(10)) else { panic!() };
    assert_eq!(deferral.reason, Reason::CircuitOpen);
    assert_eq!(lanes.states().filter(|state| state.is_open).count(), 1);
    // After the rest one probe passes, and only one.
    assert!(offer(&mut lanes, "a", 7, ms(5_010)));
    assert!(!offer(&mut lanes, "a", 8, ms(5_010)));
    assert_eq!(run(&mut lanes, ms(5_010), Report::Failing(None)), [7]);
    // The next rest is twice as long.
    assert!(!offer(&mut lanes, "a", 9, ms(10_100)));
    assert!(offer(&mut lanes, "a", 10, ms(15_100)));
    assert_eq!(run(&mut lanes, ms(15_100), Report::Working), [10]);
    assert!(offer(&mut lanes, "a", 11, ms(15_200)) && offer(&mut lanes, "a", 12, ms(15_200)));
}

#[test]
fn a_broken_connector_is_held_until_it_changes() {
    let mut lanes = lanes(100);
    for item in 0..4 {
        offer(&mut lanes, "a", item, ms(0));
    }
    let start = lanes.next(ms(0)).unwrap();
    let evicted = lanes.finish(start.ticket, Report::Broken { version: 1 }, ms(5));
    assert!(evicted.iter().all(|e| e.reason == Reason::Suspended) && evicted.len() == 3);
    assert!(!offer(&mut lanes, "a", 5, ms(10)));
    assert_eq!(lanes.offer(&"a", LIMITS, Arrival { version: 2, ..LIVE }, 6, ms(10)), Offer::Queued);
    assert_eq!(run(&mut lanes, ms(10), Report::Working), [6]);
}

#[test]
fn a_token_bucket_paces_and_what_is_too_much_is_spread_over_time() {
    let limits = LaneLimits { rate: Some(Rate { per_second: 1.0, burst: 5 }), ..LIMITS };
    let mut lanes = lanes(100);
    let mut waits = Vec::new();
    for item in 0..100 {
        if let Offer::Deferred(deferral) = lanes.offer(&"a", limits, LIVE, item, ms(0)) {
            waits.push(deferral.wait);
        }
    }
    assert_eq!(waits.len(), 90, "five at once, five within five seconds");
    assert!(waits.is_sorted() && *waits.last().unwrap() >= Duration::from_secs(95));
    assert_eq!(run(&mut lanes, ms(0), Report::Working).len(), 5);
    assert!(lanes.wake_at().unwrap() <= ms(1001));
    assert_eq!(run(&mut lanes, ms(1_001), Report::Working).len(), 1);
    assert_eq!(run(&mut lanes, ms(1_500), Report::Working).len(), 0);
    assert_eq!(run(&mut lanes, ms(2_002), Report::Working).len(), 1);
}

#[test]
fn slow_down_is_obeyed() {
    let mut lanes = lanes(100);
    offer(&mut lanes, "a", 0, ms(0));
    let after = Some(Duration::from_secs(3));
    assert_eq!(run(&mut lanes, ms(0), Report::SlowDown(after)), [0]);
    assert!(offer(&mut lanes, "a", 1, ms(1_100)));
    assert!(run(&mut lanes, ms(2_900), Report::Working).is_empty());
    assert_eq!(run(&mut lanes, ms(3_002), Report::Working), [1]);
}

#[test]
fn a_newer_version_is_not_held_up_by_what_an_older_one_met() {
    let newer = Arrival { version: 2, ..LIVE };
    let slow = Some(Duration::from_secs(86_400));
    for report in [Report::SlowDown(slow), Report::Failing(slow), Report::Broken { version: 1 }] {
        let mut lanes = lanes(100);
        offer(&mut lanes, "a", 0, ms(0));
        run(&mut lanes, ms(0), report);
        assert!(!offer(&mut lanes, "a", 1, ms(80_000_000)), "{report:?}");
        assert_eq!(lanes.offer(&"a", LIMITS, newer, 2, ms(20)), Offer::Queued, "{report:?}");
        // An older one that comes late takes nothing back.
        assert_eq!(lanes.offer(&"a", LIMITS, LIVE, 3, ms(20)), Offer::Queued, "{report:?}");
        assert_eq!(run(&mut lanes, ms(20), Report::Working), [2, 3]);
    }
}

#[test]
fn an_open_circuit_does_not_ask_with_one_that_its_failure_would_end() {
    let last = Arrival { is_last: true, ..RETRY };
    let mut lanes = lanes(100);
    for item in 0..5 {
        offer(&mut lanes, "a", item, ms(0));
        run(&mut lanes, ms(0), Report::Failing(None));
    }
    // Another one is known, so this one waits for what the probe says …
    assert!(!offer(&mut lanes, "a", 6, ms(10)));
    let deferred = lanes.offer(&"a", LIMITS, last, 7, ms(5_010));
    assert!(matches!(deferred, Offer::Deferred(Deferral { reason: Reason::CircuitOpen, .. })));
    assert!(offer(&mut lanes, "a", 6, ms(5_020)));
    assert_eq!(run(&mut lanes, ms(5_020), Report::Failing(None)), [6]);
    // … but when no other comes, it is the only probe.
    assert_eq!(lanes.offer(&"a", LIMITS, last, 7, ms(15_100)), Offer::Queued);
    assert_eq!(run(&mut lanes, ms(15_100), Report::Working), [7]);
}

#[test]
fn further_requests_of_a_start_wait_for_the_rate_too() {
    let limits = LaneLimits { rate: Some(Rate { per_second: 2.0, burst: 3 }), ..LIMITS };
    let mut lanes = lanes(100);
    lanes.offer(&"a", limits, LIVE, 0, ms(0));
    let start = lanes.next(ms(0)).unwrap();
    // Two are left of the burst, then one every half second; the next start waits behind them.
    let waits: Vec<_> = (0..5).map(|_| lanes.spend(start.ticket, ms(0))).collect();
    assert_eq!(waits, [0, 0, 500, 1_000, 1_500].map(ms));
    lanes.offer(&"a", limits, LIVE, 1, ms(0));
    assert!(lanes.next(ms(1_990)).is_none());
    assert_eq!(lanes.next(ms(2_001)).unwrap().items, [1]);
    let unlimited = lanes.offer(&"b", LIMITS, LIVE, 2, ms(0));
    assert_eq!(unlimited, Offer::Queued);
    let start = lanes.next(ms(2_001)).unwrap();
    assert!((0..9).all(|_| lanes.spend(start.ticket, ms(2_001)).is_zero()));
}

#[test]
fn a_long_pause_is_not_waited_for_in_the_lane() {
    let mut lanes = lanes(100);
    for item in 0..4 {
        offer(&mut lanes, "a", item, ms(0));
    }
    let start = lanes.next(ms(0)).unwrap();
    let report = Report::SlowDown(Some(Duration::from_secs(3_600)));
    let evicted = lanes.finish(start.ticket, report, ms(0));
    assert_eq!(evicted.iter().map(|e| e.item).collect::<Vec<_>>(), [1, 2, 3]);
    let is_told =
        |e: &Deferral<u32>| e.reason == Reason::RateLimited && e.wait == Duration::from_secs(3_600);
    assert!(evicted.iter().all(is_told));
    let put_off = lanes.offer(&"a", LIMITS, LIVE, 9, ms(600_000));
    let wait = Duration::from_secs(3_000);
    let reason = Reason::RateLimited;
    assert_eq!(put_off, Offer::Deferred(Deferral { item: 9, reason, wait }));
    // What comes shortly before the end waits here.
    assert!(offer(&mut lanes, "a", 10, ms(3_599_000)));
    assert_eq!(run(&mut lanes, ms(3_600_001), Report::Working), [10]);
}

#[test]
fn many_waiting_for_one_lane_do_not_starve_another() {
    let mut lanes = lanes(1);
    for item in 0..8 {
        offer(&mut lanes, "busy", item, ms(0));
    }
    offer(&mut lanes, "rare", 100, ms(0));
    let order = run(&mut lanes, ms(0), Report::Working);
    assert!(order.iter().position(|item| *item == 100).unwrap() <= 1, "{order:?}");
}

#[test]
fn background_work_waits_for_the_rest() {
    let mut lanes = lanes(1);
    lanes.offer(&"a", LIMITS, REPLAY, 1, ms(0));
    lanes.offer(&"a", LIMITS, LIVE, 2, ms(0));
    assert_eq!(run(&mut lanes, ms(0), Report::Working), [2, 1]);
}

#[test]
fn a_batch_takes_what_waits_and_no_more() {
    let limits = LaneLimits { batch_items: 5, ..LIMITS };
    let mut lanes = lanes(100);
    for item in 0..7 {
        lanes.offer(&"a", limits, LIVE, item, ms(0));
    }
    let first = lanes.next(ms(0)).unwrap();
    assert_eq!(first.items.len(), 5);
    // What is no full batch waits for company while a request is under way …
    assert!(lanes.next(ms(199)).is_none());
    assert_eq!(lanes.wake_at(), Some(ms(200)));
    // … but not for long …
    let second = lanes.next(ms(200)).unwrap();
    assert_eq!(second.items.len(), 2);
    // … nor once nothing is under way.
    lanes.offer(&"a", limits, LIVE, 7, ms(201));
    lanes.finish(first.ticket, Report::Working, ms(202));
    assert!(lanes.next(ms(202)).is_none());
    lanes.finish(second.ticket, Report::Working, ms(203));
    assert_eq!(lanes.next(ms(203)).unwrap().items, [7]);
}

#[test]
fn a_batch_that_got_full_waits_no_longer() {
    let limits = LaneLimits { batch_items: 5, ..LIMITS };
    let mut lanes = lanes(100);
    lanes.offer(&"a", limits, LIVE, 0, ms(0));
    assert_eq!(lanes.next(ms(0)).unwrap().items, [0]);
    for item in 1..5 {
        lanes.offer(&"a", limits, LIVE, item, ms(10));
        assert!(lanes.next(ms(10)).is_none());
    }
    lanes.offer(&"a", limits, LIVE, 5, ms(20));
    assert_eq!(lanes.next(ms(20)).unwrap().items, [1, 2, 3, 4, 5]);
    // The timer that was set meanwhile starts nothing.
    assert!(lanes.next(ms(300)).is_none());
}

/// A table that takes 300 ms for a request, however many rows it has.
#[test]
fn a_slow_lane_of_batches_learns_to_hold_full_ones() {
    let limits = LaneLimits { batch_items: 500, ..LIMITS };
    let mut lanes = lanes(100);
    let (mut requests, mut rows) = (0, 0);
    let mut under_way: VecDeque<Ticket> = VecDeque::new();
    for now in (0..10_000).map(ms) {
        while let Some(ticket) = under_way.pop_front() {
            if ticket.started + ms(300) > now {
                under_way.push_front(ticket);
                break;
            }
            lanes.finish(ticket, Report::Working, now);
        }
        // Five rows a millisecond; what is not kept comes again by way of a retry tier.
        for item in 0..5 {
            lanes.offer(&"table", limits, LIVE, item, now);
        }
        while let Some(start) = lanes.next(now) {
            requests += 1;
            rows += start.items.len();
            under_way.push_back(start.ticket);
        }
    }
    assert!(rows / requests > 300, "{rows} rows in {requests} requests");
    assert!(rows > 40_000, "{rows}");
}

#[test]
fn a_partition_that_is_given_up_takes_its_deliveries_along() {
    let mut lanes = lanes(100);
    for item in 0..6 {
        offer(&mut lanes, "a", item, ms(0));
    }
    assert_eq!(lanes.drain(|item| item % 2 == 0), [0, 2, 4]);
    assert_eq!(lanes.queued(), 3);
    assert_eq!(run(&mut lanes, ms(0), Report::Working), [1, 3, 5]);
}

#[test]
fn an_idle_lane_is_forgotten() {
    let mut lanes = lanes(100);
    offer(&mut lanes, "a", 0, ms(0));
    run(&mut lanes, ms(0), Report::Working);
    lanes.sweep(ms(1_000));
    assert_eq!(lanes.len(), 1);
    lanes.sweep(ms(301_000));
    assert_eq!(lanes.len(), 0);
    assert!(offer(&mut lanes, "b", 1, ms(301_001)));
    assert_eq!(run(&mut lanes, ms(301_001), Report::Working), [1]);
}

#[test]
fn the_window_opens_while_answers_are_quick_and_closes_when_they_get_slow() {
    let mut lanes = lanes(1000);
    let answer = |lanes: &mut Lanes<&'static str, u32>, at: u64, took: u64| {
        for item in 0..40 {
            offer(lanes, "a", item, ms(at));
        }
        let started: Vec<_> = std::iter::from_fn(|| lanes.next(ms(at))).collect();
        let count = started.len();
        for start in started {
            lanes.finish(start.ticket, Report::Working, ms(at + took));
        }
        let mut later = at + took;
        while let Some(start) = lanes.next(ms(later)) {
            later += took;
            lanes.finish(start.ticket, Report::Working, ms(later));
        }
        count
    };
    assert_eq!(answer(&mut lanes, 1_000, 20), 2);
    answer(&mut lanes, 1_500, 20);
    assert_eq!(answer(&mut lanes, 2_000, 20), 16, "it opens up to the limit");
    for round in 0..20 {
        answer(&mut lanes, 3_000 + round * 100_000, 500);
    }
    assert!(answer(&mut lanes, 3_000_000, 20) < 8, "more at once would only wait longer");
}

#[test]
fn what_a_destination_asked_for_outlives_a_lane_with_nothing_to_do() {
    let mut lanes = lanes(100);
    assert!(offer(&mut lanes, "a", 0, ms(0)));
    let hour = Duration::from_secs(3600);
    assert_eq!(run(&mut lanes, ms(0), Report::SlowDown(Some(hour))), [0]);
    lanes.sweep(MAX_IDLE * 2);
    assert!(!offer(&mut lanes, "a", 1, MAX_IDLE * 2), "forgotten, and called too early");
    lanes.sweep(hour * 2);
    assert!(lanes.is_empty());
}
