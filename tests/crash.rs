//! What happens when the process that delivers ends, in order or not: on a real broker nothing is lost,
//! and what repeats is what was in flight.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use support::{
    Chance,
    broker::broker,
    load::{FAN_OUT, Load, Pair, Size, delivered, repeat_bound},
    wait_until,
};

const PATIENCE: Duration = Duration::from_secs(120);
/// The seed of the moments of the kills.
const SEED: u64 = 20_261_123;

fn load(events: usize) -> Option<Load> {
    let broker = broker()?;
    let size = Size { events, projects: 200, patience: PATIENCE };
    Some(Load::new(&broker.bootstrap, &broker.unique_prefix(), size, ""))
}

/// What is known of one kill.
struct Kill {
    /// `dunmore_repeat_bound_records`, right before.
    bound: usize,
    /// When that was asked for.
    sampled: Instant,
    sampled_ms: i64,
    /// When nothing that the killed process had sent was under way any more.
    over: Instant,
    over_ms: i64,
}

fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    since.as_millis().try_into().unwrap()
}

/// The bound that is asserted, and why it holds.
///
/// A delivery repeats only if the record that it came from was, at the kill, *at risk*: begun, and not
/// covered by an acknowledged commit. `dunmore_repeat_bound_records` is the number of such records when
/// the metric is read. So of what was at risk at the kill, a record was either counted in the sample, and
/// stands for at most `FAN_OUT` deliveries; or it began after the sample, and what repeats of it arrived
/// at the sink (or was put into a retry tier) after the sample too. Hence, for each kill:
///
///   repeats that had arrived before the sample  ≤  sample × `FAN_OUT`
///   repeats that arrived first after the sample ≤  requests that arrived between sample and kill
///
/// A repeat belongs to the first kill after the arrival that it repeats. That is certain unless the
/// delivery went round by a retry tier: then its copy in the tier and the one from the event may be under
/// way side by side, and a later kill may stand between them. Those are counted in the sum over all kills,
/// which bounds every repeat: each kill makes at most one more copy of a delivery that was at risk.
#[test]
fn ten_kills_lose_nothing_and_repeat_only_what_was_in_flight() {
    const KILLS: usize = 10;
    let Some(run) = load(20_000) else { return };
    let (stage, sink) = (&run.stage, &run.sink);
    let mut chance = Chance(SEED);
    let total = run.expected.len() as u64;
    let mut moments: Vec<usize> =
        (0..KILLS).map(|_| usize::try_from(chance.below(total)).unwrap()).collect();
    moments.sort_unstable();
    let mut serve = run.serve("one");

    let began = Instant::now();
    let mut kills: Vec<Kill> = Vec::new();
    for moment in moments {
        // A moment that the last kill's repeats have passed already falls into the start of the process.
        run.wait_until("the moment of the kill has come", || sink.delivered_count() >= moment);
        let (sampled, sampled_ms) = (Instant::now(), now_ms());
        let bound = repeat_bound(&serve);
        serve.kill();
        wait_until("the sink has read what was sent", PATIENCE, || sink.connections() == 0);
        kills.push(Kill { bound, sampled, sampled_ms, over: Instant::now(), over_ms: now_ms() });
        serve = stage.start("one");
    }
    run.wait_for_the_end();
    let took = began.elapsed();

    let hits = sink.hits();
    let put_off = run.put_off();
    let went_round: BTreeSet<&Pair> = put_off.iter().map(|(pair, _)| pair).collect();
    let (mut early, mut late) = (vec![0; KILLS], vec![0; KILLS]);
    let mut repeats = 0;
    let mut by_tier = 0;
    for (pair, arrivals) in run.repeated() {
        for two in arrivals.windows(2) {
            repeats += 1;
            if went_round.contains(&pair) {
                by_tier += 1;
                continue;
            }
            let cause = kills.iter().position(|kill| kill.over >= two[0].at);
            let cause = cause.filter(|k| kills[*k].over <= two[1].at);
            let cause = cause.unwrap_or_else(|| panic!("{pair:?} repeated without a kill"));
            let after_sample = two[0].at > kills[cause].sampled;
            *if after_sample { &mut late[cause] } else { &mut early[cause] } += 1;
        }
    }
    let mut sum = 0;
    for (k, kill) in kills.iter().enumerate() {
        let since = hits.iter().filter(|hit| hit.at > kill.sampled && hit.at <= kill.over).count();
        let between = kill.sampled_ms..=kill.over_ms;
        let parked = put_off.iter().filter(|(_, at)| between.contains(at)).count();
        println!(
            "kill {:2}: at risk {:5} records = at most {:5} deliveries + {since:4} since; repeated {:4} + {:3}",
            k + 1,
            kill.bound,
            kill.bound * FAN_OUT,
            early[k],
            late[k],
        );
        assert!(early[k] <= kill.bound * FAN_OUT, "kill {}", k + 1);
        assert!(late[k] <= since, "kill {}", k + 1);
        sum += kill.bound * FAN_OUT + since + parked;
    }
    println!(
        "{} events, {KILLS} kills (seed {SEED}): {} deliveries expected, 0 missing, {repeats} repeated of \
         at most {sum} ({by_tier} of what a full lane had put off), {:.1} s",
        run.events.len(),
        run.expected.len(),
        took.as_secs_f64(),
    );
    assert!(repeats <= sum);
    serve.stop();
}

/// The second instance joins in the middle and the first leaves in the middle: partitions change hands
/// twice with requests under way.
#[test]
fn an_instance_that_joins_and_one_that_stops_in_order_repeat_nothing() {
    let Some(run) = load(12_000) else { return };
    let one = run.serve("one");
    run.wait_until("the first is at work", || run.sink.count() > 2000);
    let two = run.stage.start("two");
    run.wait_until("the second is at work too", || delivered(&two) > 500);
    let (by_one, before) = (delivered(&one), run.sink.count());
    assert!(before < run.expected.len(), "it was to happen in the middle");
    one.stop();
    run.wait_for_the_end();
    let repeated = run.repeated();
    println!(
        "{} deliveries: the first instance stopped after {by_one} of {before}; 0 missing, {} repeated",
        run.expected.len(),
        repeated.len(),
    );
    assert!(repeated.is_empty(), "{:?}", repeated.keys().take(10).collect::<Vec<_>>());
    two.stop();
}

#[test]
fn a_killed_instance_of_two_loses_nothing() {
    let Some(run) = load(12_000) else { return };
    let (one, two) = (run.serve("one"), run.serve("two"));
    run.wait_until("both are at work", || delivered(&one) > 500 && delivered(&two) > 500);
    let before = run.sink.count();
    assert!(before < run.expected.len(), "it was to happen in the middle");
    one.kill();
    run.wait_for_the_end();
    println!(
        "{} deliveries: one of two killed after {before}; 0 missing, {} repeated",
        run.expected.len(),
        run.sink.count() - run.expected.len(),
    );
    two.stop();
}
