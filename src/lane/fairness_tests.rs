//! Who gets what when there is not enough for all: between sources, connectors and projects.

use std::collections::VecDeque;

use super::{
    tests::{LIMITS, LIVE, REPLAY, RETRY, lanes, ms, offer, run},
    *,
};

#[test]
fn live_retries_and_replays_share_a_lane() {
    let mut lanes = lanes(1);
    offer(&mut lanes, "a", 0, ms(0));
    run(&mut lanes, ms(0), Report::Working);
    for item in 0..24 {
        assert_eq!(lanes.offer(&"a", LIMITS, REPLAY, 300 + item, ms(10)), Offer::Queued);
        assert_eq!(lanes.offer(&"a", LIMITS, RETRY, 200 + item, ms(10)), Offer::Queued);
        assert_eq!(lanes.offer(&"a", LIMITS, LIVE, 100 + item, ms(10)), Offer::Queued);
    }
    let order = run(&mut lanes, ms(10), Report::Working);
    let first = |source: u32| order[..32].iter().filter(|item| **item / 100 == source).count();
    assert_eq!((first(1), first(2), first(3)), (20, 8, 4), "{order:?}");
    let live: Vec<u32> = order.iter().copied().filter(|item| item / 100 == 1).collect();
    assert!(live.is_sorted(), "each source keeps its order");
    assert_eq!(order.len(), 72, "who has nothing waiting leaves the turn to the others");
}

#[test]
fn a_replay_that_fills_its_share_keeps_nobody_out() {
    let mut lanes = lanes(100);
    offer(&mut lanes, "a", 0, ms(0));
    run(&mut lanes, ms(0), Report::Working);
    let kept = |lanes: &mut Lanes<&'static str, u32>, arrival| {
        let offers = (0..1000).map(|item| lanes.offer(&"a", LIMITS, arrival, item, ms(10)));
        offers.filter(|offer| *offer == Offer::Queued).count()
    };
    assert_eq!(kept(&mut lanes, REPLAY), PROVEN_QUEUE.end() / 4);
    assert_eq!(kept(&mut lanes, RETRY), PROVEN_QUEUE.end() / 2);
    assert_eq!(kept(&mut lanes, LIVE), *PROVEN_QUEUE.end());
}

/// A lane whose destination takes one every `pace`, one at a time, until `now`.
struct Slow {
    key: u32,
    pace: Duration,
    under_way: Option<Ticket>,
}

impl Slow {
    fn answer(&mut self, lanes: &mut Lanes<u32, u32>, now: Moment) -> Vec<Deferral<u32>> {
        match self.under_way {
            Some(ticket) if ticket.started + self.pace <= now => {
                self.under_way = None;
                lanes.finish(ticket, Report::Working, now)
            }
            _ => Vec::new(),
        }
    }
}

/// Sixty connectors of one partition whose destinations are far too slow for what comes, and two
/// hundred that are not: the slow ones may not fill the partition's window.
#[test]
fn connectors_that_are_behind_leave_room_to_the_others() {
    const WINDOW: usize = 1000;
    let limits = LaneLimits { concurrency: 1, ..LIMITS };
    let mut lanes: Lanes<u32, u32> = Lanes::new(4096, 4096);
    let mut slow: Vec<Slow> =
        (0..60).map(|key| Slow { key, pace: ms(100), under_way: None }).collect();
    let (mut put_off, mut refused) = (0, 0);
    for now in (0..20_000).map(ms) {
        for lane in &mut slow {
            put_off += lane.answer(&mut lanes, now).len();
        }
        let crowded = lanes.queued() * 2 > WINDOW;
        // A slow one and a healthy one each millisecond.
        let turn = u32::try_from(now.as_millis()).unwrap();
        for key in [turn % 60, 1000 + turn % 200] {
            match lanes.offer(&key, limits, Arrival { crowded, ..LIVE }, key, now) {
                Offer::Queued => {}
                Offer::Deferred(_) if key < 60 => put_off += 1,
                other => refused += usize::from(other != Offer::Queued),
            }
        }
        while let Some(start) = lanes.next(now) {
            match slow.iter_mut().find(|lane| start.items.contains(&lane.key)) {
                Some(lane) => lane.under_way = Some(start.ticket),
                None => drop(lanes.finish(start.ticket, Report::Working, now)),
            }
        }
        assert!(lanes.queued() < WINDOW * 4 / 5, "{} wait at {now:?}", lanes.queued());
    }
    assert_eq!(refused, 0, "no healthy connector was turned away");
    assert!(put_off > 5_000, "{put_off}");
}

/// One partition, read in its order: a project with a hundred thousand deliveries to a destination
/// that takes one every 4 ms, and behind them one delivery of another project.
#[test]
fn a_backlog_of_one_project_does_not_starve_another_of_its_partition() {
    const READING: Duration = Duration::from_micros(100);
    let limits = LaneLimits { concurrency: 1, ..LIMITS };
    let mut lanes: Lanes<u32, u32> = Lanes::new(4096, 4096);
    let mut busy = Slow { key: 0, pace: ms(4), under_way: None };
    let mut patience = Patience::new(ms(0));
    let mut now = ms(0);
    let (mut started, mut put_off) = (0_u32, 0_u32);
    for key in std::iter::repeat_n(0, 100_000).chain([1]) {
        now += READING;
        loop {
            put_off += u32::try_from(busy.answer(&mut lanes, now).len()).unwrap();
            while let Some(start) = lanes.next(now) {
                started += u32::from(start.items[0] == 0);
                if start.items[0] == 0 {
                    busy.under_way = Some(start.ticket);
                }
            }
            let patient = patience.is_left(now);
            match lanes.offer(&key, limits, Arrival { patient, ..LIVE }, key, now) {
                Offer::Queued => break,
                Offer::Deferred(_) => {
                    put_off += 1;
                    break;
                }
                Offer::Busy(_) => {
                    patience.held_up(now, now + ms(2));
                    now += ms(2);
                }
            }
        }
    }
    let start = std::iter::from_fn(|| lanes.next(now)).find(|start| start.items == [1]);
    assert!(start.is_some(), "the other project's delivery starts as soon as it is read");
    // Reading takes 10 s; waiting for the busy lane each time would take 400 s.
    assert!(now < Duration::from_secs(20), "{now:?}");
    assert!(started > 2_000, "the busy lane was kept busy: {started} started, {put_off} put off");
}

#[test]
fn time_in_which_the_program_stood_still_is_not_held_against_a_destination() {
    let mut lanes = lanes(100);
    offer(&mut lanes, "a", 0, ms(0));
    run(&mut lanes, ms(0), Report::Working);
    for tick in 1..10 {
        lanes.sweep(ms(tick * 100));
    }
    for item in 0..20 {
        offer(&mut lanes, "a", item, ms(910));
    }
    assert!(lanes.next(ms(910)).is_some());
    // Frozen for a minute; the answer lies in the socket's buffer.
    assert!(lanes.sweep(ms(60_910)).is_empty());
    assert!(lanes.sweep(ms(61_010)).is_empty());
    assert_eq!(lanes.sweep(ms(61_200)).len(), 19, "now it is the destination that is late");
}

/// Deliveries to a destination that hangs come back from the retry tiers again and again. However many
/// there are, they may not cost more and more.
#[test]
fn what_is_put_off_for_a_destination_that_hangs_comes_back_seldom() {
    const TIMEOUT: Duration = Duration::from_secs(10);
    let tiers = [5_u64, 30, 120, 600].map(Duration::from_secs);
    let mut lanes = lanes(100);
    let mut under_way: VecDeque<Ticket> = VecDeque::new();
    // When each delivery is offered: five a second, and again whenever its tier lets it go.
    let mut due: BinaryHeap<Reverse<Moment>> = (0..3000).map(|n| Reverse(ms(n * 200))).collect();
    let mut offers = 0;
    for now in (0..600_000).step_by(50).map(ms) {
        let mut put_off = Vec::new();
        if now.as_millis().is_multiple_of(100) {
            put_off.extend(lanes.sweep(now));
        }
        while under_way.front().is_some_and(|ticket| ticket.started + TIMEOUT <= now) {
            let ticket = under_way.pop_front().unwrap();
            put_off.extend(lanes.finish(ticket, Report::Unused, now));
        }
        while due.peek().is_some_and(|Reverse(at)| *at <= now) {
            due.pop();
            offers += 1;
            match lanes.offer(&"hung", LIMITS, LIVE, 0, now) {
                Offer::Deferred(deferral) => put_off.push(deferral),
                Offer::Busy(_) => due.push(Reverse(now + ms(50))),
                Offer::Queued => {}
            }
        }
        while let Some(start) = lanes.next(now) {
            under_way.push_back(start.ticket);
        }
        for deferral in put_off {
            let tier = tiers.iter().rev().find(|tier| **tier <= deferral.wait);
            due.push(Reverse(now + *tier.unwrap_or(&tiers[0])));
        }
    }
    assert!(offers < 40_000, "{offers} offers of 3000 deliveries in ten minutes");
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever happens: each delivery is started, handed back or still waiting, once; live
        /// deliveries of a lane start in their order; and what waits stays within its bound.
        #[test]
        fn nothing_is_lost_doubled_or_overtaken(
            steps in prop::collection::vec((0u8..6, 0u32..4, 0usize..3, any::<bool>(), 0u64..400), 1..400)
        ) {
            let mut lanes: Lanes<u32, (u32, Source, u32)> = Lanes::new(8, 4);
            let mut now = ms(0);
            let mut number = 0;
            let mut under_way = Vec::new();
            let mut gone = Vec::new();
            let mut started = Vec::new();
            for (action, key, source, crowded, pause) in steps {
                match action {
                    0..=2 => for _ in 0..8 {
                        let source = Source::ALL[source];
                        let arrival = Arrival { source, crowded, ..LIVE };
                        let item = (key, source, number);
                        number += 1;
                        match lanes.offer(&key, LIMITS, arrival, item, now) {
                            Offer::Queued => {}
                            Offer::Busy(item) => gone.push(item),
                            Offer::Deferred(deferral) => gone.push(deferral.item),
                        }
                    },
                    3 => while let Some(start) = lanes.next(now) {
                        started.extend(start.items.iter().copied());
                        under_way.push(start.ticket);
                    },
                    4 => if let Some(ticket) = under_way.pop() {
                        let report = if crowded { Report::Failing(None) } else { Report::Working };
                        gone.extend(lanes.finish(ticket, report, now).into_iter().map(|d| d.item));
                    },
                    _ => gone.extend(lanes.sweep(now).into_iter().map(|d| d.item)),
                }
                now += ms(pause);
                prop_assert!(lanes.running() <= 8);
                prop_assert!(lanes.queued() <= 4 * PROVEN_QUEUE.end() * 7 / 4);
            }
            let waiting = lanes.drain(|_| true);
            let mut all: Vec<u32> =
                started.iter().chain(&gone).chain(&waiting).map(|item| item.2).collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..number).collect::<Vec<_>>());
            for key in 0..4 {
                let live = started.iter().filter(|item| item.0 == key && item.1 == Source::Live);
                prop_assert!(live.map(|item| item.2).is_sorted());
            }
        }
    }
}
