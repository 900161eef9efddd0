//! What is promised of reliability, measured on a real broker with the program as it is released:
//!
//! ```text
//! cargo bench --bench reliability -- kills     100 SIGKILLs over 100,000 deliveries, two instances
//! cargo bench --bench reliability -- hanging   half of 400 connectors hang until the timeout
//! cargo bench --bench reliability -- rolling   three instances restarted one after the other
//! cargo bench --bench reliability -- backlog   memory in front of 1,000,000 events
//! ```
//!
//! Each prints its figures and ends with an error when a promise is not kept. `--scale 10` does a tenth.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on has failed")]
#![expect(clippy::cast_precision_loss, reason = "figures are for people")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    collections::HashMap,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use support::{
    Chance,
    broker::broker,
    events::{create, event, set_tier},
    load::{FAN_OUT, Load, Size, delivered, repeat_bound},
    serve::Stage,
    sink::{Hit, Reply, Sink},
    wait_until,
};

const PATIENCE: Duration = Duration::from_secs(900);
/// So that the partitions of a killed instance change hands soon.
const SHORT_SESSION: &str = "kafka.properties.\"session.timeout.ms\" = \"1500\"\n\
     kafka.properties.\"heartbeat.interval.ms\" = \"300\"";
const TIERS: &str = "5s,30s,2m,10m,1h,6h";

fn main() {
    let args: Vec<String> = std::env::args().collect();
    // `cargo test --benches` runs this too: then there is nothing to measure.
    if args.iter().any(|arg| arg == "--test") {
        return;
    }
    let scale = args.iter().position(|arg| arg == "--scale");
    let scale = scale.and_then(|at| args.get(at + 1)?.parse().ok()).unwrap_or(1);
    match args.get(1).map(String::as_str) {
        Some("kills") => kills(100 / scale, 80_000 / scale),
        Some("hanging") => hanging(Duration::from_secs(60) / u32::try_from(scale).unwrap()),
        Some("rolling") => rolling(80_000 / scale),
        Some("backlog") => backlog(1_000_000 / scale),
        _ => eprintln!("say what: kills, hanging, rolling or backlog"),
    }
}

fn load(events: usize, more: &str) -> Load {
    let broker = broker().unwrap();
    let size = Size { events, projects: 200, patience: PATIENCE };
    Load::new(&broker.bootstrap, &broker.unique_prefix(), size, more)
}

/// Two instances; one of them is killed again and again, at random moments. What repeats was at risk: begun
/// and not yet covered by an acknowledged commit, as the metric said right before the kill, or begun since.
fn kills(kills: usize, events: usize) {
    let load = load(events, SHORT_SESSION);
    let mut instances = [load.serve("one"), load.serve("two")];
    let mut chance = Chance(20_261_125);
    let (mut at_risk, mut worst) = (0, 0);
    let began = Instant::now();
    let part = load.expected.len() / (kills + 1);
    for kill in 0..kills {
        let moment = part * kill + usize::try_from(chance.below(part as u64)).unwrap();
        let victim = usize::try_from(chance.below(2)).unwrap();
        load.wait_until("the next kill is due", || {
            load.sink.delivered_count() >= moment && delivered(&instances[victim]) > 0
        });
        let before = load.sink.count();
        let bound = repeat_bound(&instances[victim]);
        instances[victim].kill_now();
        let since = load.sink.count() - before;
        at_risk += bound * FAN_OUT + since;
        worst = worst.max(bound);
        instances[victim] = load.stage.start(["one", "two"][victim]);
    }
    load.wait_for_the_end();
    let repeats = load.sink.count() - load.expected.len();
    println!(
        "{kills} kills over {} deliveries by two instances, {:.0} s: 0 lost, {repeats} repeated of at most \
         {at_risk} at risk, {:.1} per kill on average; the most records at risk at a kill: {worst}",
        load.expected.len(),
        began.elapsed().as_secs_f64(),
        repeats as f64 / kills as f64,
    );
    assert!(repeats <= at_risk, "more was repeated than was at risk");
}

/// Three instances, each stopped in order and started again, twice, while events come in.
fn rolling(events: usize) {
    let load = load(events, "");
    let names = ["one", "two", "three"];
    let mut instances = names.map(|name| load.serve(name));
    let began = Instant::now();
    let mut restarts = 0;
    for round in 0..2 {
        for (place, name) in names.iter().enumerate() {
            let due = load.expected.len() * (1 + round * 3 + place) / 8;
            load.wait_until("the next restart is due", || load.sink.delivered_count() >= due);
            instances[place].terminate();
            load.wait_until("it has stopped", || !instances[place].is_running());
            assert!(instances[place].wait().success());
            instances[place] = load.stage.start(name);
            load.wait_until("it is ready", || instances[place].readiness().0 == 200);
            restarts += 1;
        }
    }
    let in_time = load.sink.delivered_count() < load.expected.len();
    load.wait_for_the_end();
    let repeats = load.sink.count() - load.expected.len();
    println!(
        "{restarts} graceful restarts of three instances under load: {} deliveries in {:.0} s, 0 lost, \
         {repeats} repeated",
        load.expected.len(),
        began.elapsed().as_secs_f64(),
    );
    assert!(in_time, "there was no load at the end");
    assert_eq!(repeats, 0);
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_millis().try_into().unwrap()
}

/// How the healthy half fared.
struct Half {
    arrived_per_second: f64,
    p50: i64,
    p99: i64,
}

const CONNECTORS: usize = 400;
/// Events per second for each half.
const RATE: usize = 1000;

/// Four hundred projects with one connector each. Events come at a fixed rate, for the healthy half alone
/// or for both halves.
fn half(time: Duration, with_hanging: bool) -> Half {
    let broker = broker().unwrap();
    let sink = Sink::start();
    let more = "destinations.n8n.timeout = \"10s\"";
    let stage = Stage::new(&broker.bootstrap, &broker.unique_prefix(), TIERS, more);
    let mut commands = Vec::new();
    for p in 0..CONNECTORS {
        let project = format!("proj_{p}");
        let path = format!("/webhook/{p}");
        if p % 2 == 1 {
            sink.script(&path, &[], Reply::Hang);
        }
        commands.push(set_tier(&format!("cmd_t{p}"), &project, "pro"));
        commands.push(create(
            &format!("cmd_c{p}"),
            &project,
            "conn",
            "n8n",
            &sink.url(&path),
            &["*"],
        ));
    }
    let serve = stage.serve("one");
    stage.set_up(&commands);
    wait_until("the view has all connectors", PATIENCE, || {
        serve.count("dunmore_view_connectors", &[]) == CONNECTORS
    });
    let mut produced: HashMap<String, i64> = HashMap::new();
    let stream = stage.kafka.stream(&stage.topic("payments.events"));
    let began = Instant::now();
    let mut number = 0;
    while began.elapsed() < time {
        let due = usize::try_from(began.elapsed().as_millis()).unwrap() * RATE / 1000;
        while number < due {
            let healthy = number % (CONNECTORS / 2) * 2;
            let id = format!("healthy_{number}");
            produced.insert(id.clone(), now_ms());
            stream.send(&event(&id, "payment.settled", &format!("proj_{healthy}")));
            if with_hanging {
                let project = format!("proj_{}", healthy + 1);
                stream.send(&event(&format!("hanging_{number}"), "payment.settled", &project));
            }
            number += 1;
        }
        thread::sleep(Duration::from_millis(1));
    }
    let wanted = produced.len();
    stream.finish(if with_hanging { 2 * wanted } else { wanted });
    // Whatever was put off counts against the latency.
    wait_until("all of the healthy half arrived", PATIENCE, || sink.delivered_count() >= wanted);
    // The first second is the producer's: its events wait together until it is connected.
    let counts_from = produced.values().min().unwrap() + 1000;
    let latency = |hit: &Hit| {
        let at = produced.get(&hit.event).filter(|at| **at >= counts_from)?;
        Some(hit.at_ms - at)
    };
    let mut latencies: Vec<i64> = sink.hits().iter().filter_map(latency).collect();
    let last =
        sink.hits().iter().filter(|hit| produced.contains_key(&hit.event)).map(|hit| hit.at).max();
    latencies.sort_unstable();
    let deferred = serve.count("dunmore_deliveries_total", &[("outcome", "deferred")]);
    let hanging = sink.hits().iter().filter(|hit| hit.status == 0).count();
    println!(
        "  {} the hanging half: {wanted} events at {RATE}/s for the healthy half, {hanging} requests hung, {deferred} put off, {} circuits open",
        if with_hanging { "with" } else { "without" },
        serve.count("dunmore_circuits_open", &[]),
    );
    Half {
        arrived_per_second: wanted as f64 / last.unwrap().duration_since(began).as_secs_f64(),
        p50: latencies[latencies.len() / 2],
        p99: latencies[latencies.len() * 99 / 100],
    }
}

fn hanging(time: Duration) {
    let without = half(time, false);
    let with = half(time, true);
    let ratio = with.arrived_per_second / without.arrived_per_second;
    println!(
        "half of {CONNECTORS} connectors hang: the other half gets {:.0}/s instead of {:.0}/s ({:.1} %), \
         median {} ms instead of {} ms, p99 {} ms instead of {} ms",
        with.arrived_per_second,
        without.arrived_per_second,
        ratio * 100.0,
        with.p50,
        without.p50,
        with.p99,
        without.p99,
    );
    assert!(ratio >= 0.95, "the throughput of the healthy half suffers");
    assert!(with.p99 <= 2 * without.p99, "the latency of the healthy half suffers");
}

/// A million events are there when the instance starts.
fn backlog(events: usize) {
    const PROJECTS: usize = 200;
    const FIRST_MINUTE: Duration = Duration::from_secs(60);
    let broker = broker().unwrap();
    let sink = Sink::counting(events);
    let stage = Stage::new(&broker.bootstrap, &broker.unique_prefix(), TIERS, "");
    let mut commands = Vec::new();
    for p in 0..PROJECTS {
        let project = format!("proj_{p}");
        commands.push(set_tier(&format!("cmd_t{p}"), &project, "pro"));
        let url = sink.url(&format!("/webhook/{p}"));
        commands.push(create(&format!("cmd_c{p}"), &project, "conn", "n8n", &url, &["*"]));
    }
    let registrar = stage.serve("one");
    stage.set_up(&commands);
    registrar.stop();
    for start in (0..events).step_by(50_000) {
        let part = (start..(start + 50_000).min(events)).map(|n| {
            event(&format!("evt_{n}"), "payment.settled", &format!("proj_{}", n % PROJECTS))
        });
        stage.events(&part.collect::<Vec<_>>());
    }
    let serve = stage.serve("one");
    let began = Instant::now();
    let (mut early, mut most) = (0.0_f64, 0.0_f64);
    loop {
        thread::sleep(Duration::from_secs(2));
        let (arrived, _) = sink.counted();
        let resident = serve.resident_mb();
        if began.elapsed() <= FIRST_MINUTE {
            early = early.max(resident);
        }
        most = most.max(resident);
        println!(
            "  {:4.0} s: {arrived:8} arrived, {resident:6.1} MB resident, {:6} put off",
            began.elapsed().as_secs_f64(),
            serve.count("dunmore_deliveries_total", &[("outcome", "deferred")]),
        );
        if arrived == events {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "it takes too long");
    }
    let took = began.elapsed().as_secs_f64();
    wait_until("all is committed", PATIENCE, || stage.is_committed("payments.events"));
    let (arrived, repeated) = sink.counted();
    println!(
        "backlog of {events} events: {arrived} arrived, {repeated} repeated, {took:.0} s, {:.0}/s; resident at \
         most {early:.0} MB in the first minute, {most:.0} MB in all ({:+.1} %)",
        events as f64 / took,
        (most / early - 1.0) * 100.0,
    );
    assert!(most <= 300.0, "more than 300 MB");
    assert!(most <= early * 1.1, "it grew by more than a tenth after the first minute");
    serve.stop();
}
