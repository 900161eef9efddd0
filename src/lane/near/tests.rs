//! The bound on requests to destinations that answer at once.

use std::iter;

use super::{
    super::{
        LaneLimits, Lanes, Offer, Report, Start,
        tests::{LIMITS, LIVE, ms},
    },
    *,
};

const MAX_NEAR: usize = 8;

fn lanes(count: u32, deliveries: usize) -> Lanes<u32, u32> {
    let mut lanes = Lanes::new(4096, MAX_NEAR);
    for key in 0..count {
        for _ in 0..deliveries {
            assert_eq!(lanes.offer(&key, LIMITS, LIVE, key, ms(0)), Offer::Queued);
        }
    }
    lanes
}

fn start_all(lanes: &mut Lanes<u32, u32>, now: Moment) -> Vec<Start<u32>> {
    iter::from_fn(|| lanes.next(now)).collect()
}

#[test]
fn quick_answers_keep_few_requests_under_way_and_all_lanes_in_turn() {
    let mut lanes = lanes(20, 8);
    let mut under_way = VecDeque::from(start_all(&mut lanes, ms(0)));
    let mut served = [0; 20];
    let mut now = ms(0);
    while let Some(start) = under_way.pop_front() {
        // Those that have not answered yet have as many for themselves.
        let most = if served.iter().all(|count| *count > 2) { MAX_NEAR } else { 2 * MAX_NEAR };
        assert!(under_way.len() < most);
        now += Duration::from_micros(100);
        served[start.items[0] as usize] += 1;
        lanes.finish(start.ticket, Report::Working, now);
        under_way.extend(start_all(&mut lanes, now));
        let (least, most) = (served.iter().min(), served.iter().max());
        // While some are unknown, they and the near ones take turns.
        assert!(most.unwrap() - least.unwrap() <= 3, "{served:?}");
    }
    assert_eq!(served, [8; 20]);
}

#[test]
fn far_destinations_have_no_such_bound() {
    let mut lanes = lanes(20, 20);
    let (mut now, mut most) = (ms(0), 0);
    while lanes.queued() > 0 {
        let starts = start_all(&mut lanes, now);
        most = most.max(starts.len());
        now += ms(50);
        for start in starts {
            lanes.finish(start.ticket, Report::Working, now);
        }
    }
    assert!(most > 5 * MAX_NEAR, "{most} at once");
}

fn is_near_after(answers: &[f64]) -> bool {
    let mut distance = Distance::UNKNOWN;
    for answer in answers {
        distance.note(*answer, ms(0));
    }
    distance.reach(NEAR) == Reach::Near
}

#[test]
fn one_quick_answer_among_slow_ones_tells_that_a_destination_is_near() {
    assert_eq!(Distance::UNKNOWN.reach(NEAR), Reach::Unknown);
    assert!(is_near_after(&[0.050, 0.001, 0.050]));
    assert!(!is_near_after(&[0.050]));
}

#[test]
fn the_first_second_of_all_says_little_of_any_destination() {
    let mut ready = Ready::new(MAX_NEAR);
    let [mut slow, mut slower, mut later] = [Distance::UNKNOWN; 3];
    ready.answered(&mut slow, 0.050, ms(100));
    ready.answered(&mut slower, 0.150, ms(150));
    assert_eq!(ready.reach(&slow, ms(1099)), Reach::Near);
    assert_eq!(ready.reach(&slower, ms(150)), Reach::Far);
    assert_eq!(ready.reach(&slow, ms(1100)), Reach::Far);
    ready.answered(&mut later, 0.050, ms(1100));
    assert_eq!(ready.reach(&later, ms(1100)), Reach::Far);
}

#[test]
fn lanes_of_one_place_learn_its_distance_together() {
    let limits = LaneLimits { same_place: true, ..LIMITS };
    let mut lanes = Lanes::new(4096, MAX_NEAR);
    let offer = |lanes: &mut Lanes<u32, u32>, key, now| {
        assert_eq!(lanes.offer(&key, limits, LIVE, key, now), Offer::Queued);
    };
    // It is warm, and its destination is far.
    offer(&mut lanes, 0, ms(0));
    let start = lanes.next(ms(0)).unwrap();
    lanes.finish(start.ticket, Report::Working, ms(50));
    for key in 0..40 {
        offer(&mut lanes, key, ms(2000));
    }
    let started = start_all(&mut lanes, ms(2000));
    assert_eq!(started.len(), 40);
    // One answers at once: the others need not find out for themselves.
    let mut started = started.into_iter();
    lanes.finish(started.next().unwrap().ticket, Report::Working, ms(2001));
    for start in started {
        lanes.finish(start.ticket, Report::Working, ms(2050));
    }
    for key in 0..40 {
        offer(&mut lanes, key, ms(2100));
    }
    assert_eq!(start_all(&mut lanes, ms(2100)).len(), MAX_NEAR);
}

#[test]
fn a_quick_answer_is_forgotten() {
    let mut distance = Distance::UNKNOWN;
    distance.note(0.001, ms(0));
    for at in (100..9_900).step_by(100) {
        distance.note(0.050, ms(at));
        assert_eq!(distance.reach(NEAR), Reach::Near, "{at}");
    }
    distance.note(0.050, ms(10_000));
    assert_eq!(distance.reach(NEAR), Reach::Far);
    distance.note(0.001, ms(10_100));
    assert_eq!(distance.reach(NEAR), Reach::Near);
}

#[test]
fn who_hangs_takes_nothing_from_the_others() {
    let mut lanes = lanes(20, 1);
    let hanging = start_all(&mut lanes, ms(0));
    assert_eq!(hanging.len(), MAX_NEAR);
    assert!(lanes.next(ms(9)).is_none());
    assert_eq!(lanes.wake_at(), Some(ms(10)));
    assert_eq!(start_all(&mut lanes, ms(10)).len(), MAX_NEAR);
    // When they end after all, they are not counted a second time.
    for start in hanging {
        lanes.finish(start.ticket, Report::Failing(None), ms(15));
    }
    assert!(lanes.next(ms(15)).is_none());
    assert_eq!(start_all(&mut lanes, ms(20)).len(), 4);
    assert_eq!((lanes.queued(), lanes.wake_at()), (0, None));
}

#[test]
fn destinations_that_never_answered_do_not_hold_up_those_that_do() {
    let mut lanes = lanes(8, 1);
    for start in start_all(&mut lanes, ms(0)) {
        lanes.finish(start.ticket, Report::Working, ms(1));
    }
    for key in 100..120 {
        assert_eq!(lanes.offer(&key, LIMITS, LIVE, key, ms(1)), Offer::Queued);
    }
    assert_eq!(start_all(&mut lanes, ms(1)).len(), MAX_NEAR);
    for key in 0..8 {
        assert_eq!(lanes.offer(&key, LIMITS, LIVE, key, ms(2)), Offer::Queued);
    }
    let started: Vec<u32> =
        start_all(&mut lanes, ms(2)).into_iter().flat_map(|start| start.items).collect();
    assert_eq!(started, (0..8).collect::<Vec<_>>());
}

#[test]
fn what_is_known_of_requests_under_way_stays_small() {
    let mut ready = Ready::new(MAX_NEAR);
    for at in (0..60_000).step_by(3).map(ms) {
        // One in a hundred never ends.
        ready.start(Reach::Near, at);
        if at.as_millis() % 300 != 0 {
            ready.finish(Reach::Near, at, at + ms(1));
        }
        assert!(ready.under_way[Reach::Near as usize].started.len() <= 100, "{at:?}");
    }
    assert!(ready.under_way[Reach::Near as usize].counted <= 1);
}
