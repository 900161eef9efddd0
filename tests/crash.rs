//! What happens when the process that delivers ends, in order or not: on a real broker nothing is lost,
//! and what repeats is what was in flight.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use dunmore_connectors::delivery::DeliveryRecord;
use serde_json::Value;
use support::{
    Chance,
    broker::broker,
    events::{TYPES, create, event, set_tier},
    serve::{Serve, Stage},
    sink::{Hit, Sink},
    wait_until,
};

const PATIENCE: Duration = Duration::from_secs(120);
const TIERS: [&str; 2] = ["1s", "5s"];
const PROJECTS: usize = 200;
/// Deliveries that are produced ahead of what has arrived: a stream, not a pile. Lanes put off what they
/// cannot hold, and a pile in front of a process that has just started is mostly that.
const AHEAD: usize = 1000;
/// Events that are written at once.
const CHUNK: usize = 250;
/// The most connectors that want one event.
const FAN_OUT: usize = 2;
/// The seed of the moments of the kills.
const SEED: u64 = 20_261_123;

/// A project's event and where it is delivered.
type Pair = (String, String);

/// Topics, a sink, projects of two connectors each, and events for them.
struct Run {
    stage: Stage,
    sink: Sink,
    /// Each event with how many deliveries there are up to it.
    events: Vec<(Value, usize)>,
    produced: Cell<usize>,
    expected: BTreeSet<Pair>,
}

impl Run {
    fn new(count: usize) -> Option<Self> {
        let broker = broker()?;
        let sink = Sink::start();
        let stage = Stage::new(&broker.bootstrap, &broker.unique_prefix(), &TIERS.join(","), "");
        let mut commands = Vec::new();
        for p in 0..PROJECTS {
            let project = format!("proj_{p}");
            commands.push(set_tier(&format!("cmd_{p}"), &project, "pro"));
            for (name, types) in [("all", &["*"][..]), ("some", &TYPES[..2])] {
                let id = format!("cmd_{p}_{name}");
                let url = sink.url(&format!("/webhook/{project}/{name}"));
                commands.push(create(&id, &project, name, "n8n", &url, types));
            }
        }
        let mut expected = BTreeSet::new();
        let events = (0..count).map(|number| {
            let (p, kind) = (number % PROJECTS, TYPES[number / PROJECTS % TYPES.len()]);
            let (id, project) = (format!("evt_{number}"), format!("proj_{p}"));
            expected.insert((id.clone(), format!("/webhook/{project}/all")));
            if TYPES[..2].contains(&kind) {
                expected.insert((id.clone(), format!("/webhook/{project}/some")));
            }
            (event(&id, kind, &project), expected.len())
        });
        let events = events.collect();
        stage.command_all(&commands);
        Some(Self { stage, sink, events, produced: Cell::new(0), expected })
    }

    /// Starts an instance that knows all connectors.
    fn serve(&self, name: &str) -> Serve {
        let serve = self.stage.serve(name);
        wait_until("the view has all connectors", PATIENCE, || {
            serve.count("dunmore_view_connectors", &[]) == 2 * PROJECTS
        });
        serve
    }

    /// Waits while events are produced.
    fn wait_until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        wait_until(what, PATIENCE, || {
            let produced = self.produced.get();
            let ahead = produced.checked_sub(1).map_or(0, |last| self.events[last].1);
            if produced < self.events.len() && self.sink.delivered_count() + AHEAD > ahead {
                let next = (produced + CHUNK).min(self.events.len());
                let events = self.events[produced..next].iter().map(|(event, _)| event.clone());
                self.stage.events(&events.collect::<Vec<_>>());
                self.produced.set(next);
            }
            holds()
        });
    }

    /// Waits until all is delivered and committed, in the retry tiers too.
    fn wait_for_the_end(&self) {
        self.wait_until("every event is delivered", || {
            self.sink.delivered_count() >= self.expected.len()
        });
        self.stage.wait_committed(PATIENCE);
        for tier in TIERS {
            wait_until("the retry tiers are committed to the end", PATIENCE, || {
                self.stage.is_committed(&format!("deliveries.retry.{tier}"))
            });
        }
        let (delivered, expected) = (self.sink.delivered(), &self.expected);
        assert_eq!(expected.difference(&delivered).count(), 0, "missing");
        assert_eq!(delivered.difference(expected).count(), 0, "unexpected");
        assert_eq!(self.stage.kafka.read(&self.stage.topic("deliveries.dead")).len(), 0);
    }

    /// Every delivery that arrived more than once, with its arrivals.
    fn repeated(&self) -> BTreeMap<Pair, Vec<Hit>> {
        let mut arrivals: BTreeMap<Pair, Vec<Hit>> = BTreeMap::new();
        for hit in self.sink.hits() {
            arrivals.entry(hit.pair()).or_default().push(hit);
        }
        for (pair, hits) in &arrivals {
            let same = hits.iter().all(|hit| hit.delivery == hits[0].delivery);
            assert!(same, "{pair:?} has more than one delivery id");
        }
        arrivals.retain(|_, hits| hits.len() > 1);
        arrivals
    }

    /// When each delivery was put into a retry tier, in milliseconds since 1970.
    fn put_off(&self) -> Vec<(Pair, i64)> {
        let topics = TIERS.map(|tier| self.stage.topic(&format!("deliveries.retry.{tier}")));
        let records = topics.iter().flat_map(|topic| self.stage.kafka.read(topic));
        let read = |record: support::kafka::Read| {
            let delivery = DeliveryRecord::from_json(record.value.as_deref().unwrap()).unwrap();
            let (project, connector) = (delivery.connector.project, delivery.connector.connector);
            let path = format!("/webhook/{project}/{connector}");
            ((delivery.event.id.to_string(), path), record.timestamp)
        };
        records.map(read).collect()
    }
}

fn delivered(serve: &Serve) -> usize {
    serve.count("dunmore_deliveries_total", &[("outcome", "delivered")])
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
    let Some(run) = Run::new(20_000) else { return };
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
        let bound = serve.count("dunmore_repeat_bound_records", &[]);
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
    let Some(run) = Run::new(12_000) else { return };
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
    let Some(run) = Run::new(12_000) else { return };
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
