//! What a delivery costs: the same bodies to the same sink, first posted plainly by reqwest (the
//! floor), then delivered by `dunmore serve` from a real Kafka broker, in one run.
//!
//! `cargo bench --bench end_to_end -- [MODE] [FLAGS]`, with the modes
//!
//! - `cost` (the default): a backlog of `--deliveries N` (50,000) to `--connectors N` (200), each
//!   event to `--fan-out N` (1) of them, `--bytes N` per event (about 400), `--kind zapier` or
//!   `bigquery`, by `--instances N` (1).
//! - `latency`: the same, then a steady stream at 25, 50 and 90 % of the rate that was reached,
//!   `--seconds N` (10) each; `--rate N` takes another rate as the whole, to compare two builds.
//!   Latency is from the append in Kafka to the request's arrival at the sink. With `--bare-reader` a
//!   consumer that does nothing with the events runs beside it, and it is told how old they are for it.
//! - `unmatched`: the same with events that nobody subscribes to.
//! - `scaling`: `cost` for more instances, wider fan-out, more connectors and larger events.
//!
//! `--json FILE` writes the figures and the machine there. The broker is
//! `KAFKA_BOOTSTRAP_SERVERS`, or one that `scripts/kafka` starts. CPU is user + system of the
//! delivering processes alone; the sink runs in a process of its own.

#![allow(clippy::expect_used, reason = "a bench stops at what it does not expect")]
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

mod support;

use std::{
    collections::HashMap,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use support::{
    floor::{self, Floor},
    has, machine, number,
    process::{cpu_of, resident_mb},
    sink::{self, Arrival, Sink},
    stage::{BareReader, Broker, Instance, Plan, Stage},
    text,
};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    // `cargo test --benches` runs this too: then there is nothing to measure.
    if has(&args, "--test") {
        return;
    }
    let results = match args.get(1).map(String::as_str) {
        Some("sink") => return sink::run(),
        Some("floor") => return floor::run(&args),
        Some("scaling") => scaling(&args),
        Some("unmatched") => vec![unmatched(&args)],
        mode => vec![cost(&args, mode == Some("latency"))],
    };
    if let Some(file) = text(&args, "--json") {
        let all = json!({ "machine": machine(), "results": results });
        std::fs::write(file, format!("{all:#}\n")).expect("the JSON file");
    }
}

/// What a backlog cost.
struct Cost {
    deliveries: u64,
    /// Microseconds of CPU per delivery, without starting up.
    cpu_micros: f64,
    /// Deliveries per second.
    rate: f64,
    /// Megabytes, all instances together: at the end, and the most.
    resident: (f64, f64),
    connections: u64,
    requests: u64,
}

fn plan(args: &[String]) -> Plan {
    let fan_out = number(args, "--fan-out", 1).max(1);
    Plan {
        kind: if text(args, "--kind") == Some("bigquery") { "bigquery" } else { "zapier" },
        projects: number(args, "--connectors", 200).div_ceil(fan_out).max(1),
        fan_out,
        bytes: number(args, "--bytes", 0),
    }
}

/// Delivers a backlog; the instances are left running.
fn backlog(
    stage: &Stage,
    sink: &Sink,
    plan: Plan,
    events: u64,
    instances: u64,
) -> (Cost, Vec<Instance>) {
    let deliveries = events * plan.fan_out;
    stage.create_connectors(plan);
    stage.produce_events(plan, events);
    // The sink's count of the floor's requests is taken off.
    let already = sink.report();
    let running: Vec<Instance> = (0..instances).map(|n| stage.serve(n, "delivery")).collect();
    let cpu = || running.iter().map(|instance| cpu_of(instance.pid())).sum::<f64>();
    let mut first: Option<(Instant, f64, u64)> = None;
    let ended = loop {
        thread::sleep(Duration::from_millis(10));
        let count = sink.report().deliveries - already.deliveries;
        if count > 0 && first.is_none() {
            first = Some((Instant::now(), cpu(), count));
        }
        if count >= deliveries {
            break Instant::now();
        }
    };
    // The last commit and attempt records belong to the work.
    thread::sleep(Duration::from_millis(1500));
    let settled = cpu();
    let resident = running.iter().map(|instance| resident_mb(instance.pid()));
    let resident = resident.fold((0.0, 0.0), |sum, (now, most)| (sum.0 + now, sum.1 + most));
    let (began, before, early) = first.expect("deliveries");
    let counted = (deliveries - early).max(1) as f64;
    let seen = sink.report();
    let cost = Cost {
        deliveries,
        cpu_micros: (settled - before) * 1e6 / counted,
        rate: counted / ended.duration_since(began).as_secs_f64(),
        resident,
        connections: seen.connections - already.connections,
        requests: seen.requests - already.requests,
    };
    (cost, running)
}

fn cost(args: &[String], with_latency: bool) -> Value {
    let (plan, instances) = (plan(args), number(args, "--instances", 1).max(1));
    let events = number(args, "--deliveries", 50_000).div_ceil(plan.fan_out);
    let posts = (events * plan.fan_out).min(100_000);
    let sink = Sink::start();
    let before = floor::measure(&sink.address, posts, plan.bytes, args);
    let broker = Broker::start();
    let stage = Stage::new(&broker, &sink.address);
    let (cost, running) = backlog(&stage, &sink, plan, events, instances);
    let steady: Vec<Value> =
        if with_latency { latency(args, &stage, &sink, plan, &cost) } else { Vec::new() };
    drop(running);
    let after = floor::measure(&sink.address, posts, plan.bytes, args);
    print(plan, instances, &cost, before, after);
    let floor = f64::midpoint(before.cpu_micros, after.cpu_micros);
    json!({
        "plan": format!("{plan:?}"), "instances": instances, "deliveries": cost.deliveries,
        "floorMicros": [before.cpu_micros, after.cpu_micros], "cpuMicros": cost.cpu_micros,
        "timesFloor": cost.cpu_micros / floor, "perSecond": cost.rate,
        "residentMb": cost.resident.0, "mostResidentMb": cost.resident.1,
        "connections": cost.connections, "requests": cost.requests, "latency": steady,
    })
}

fn print(plan: Plan, instances: u64, cost: &Cost, before: Floor, after: Floor) {
    let floor = f64::midpoint(before.cpu_micros, after.cpu_micros);
    println!("| {plan:?}, instances {instances} |");
    println!(
        "| floor before, after (µs) | serve (µs) | × floor | deliveries/s | MB (most) | connections |"
    );
    println!(
        "| {:.1}, {:.1} | {:.1} | {:.2} | {:.0} | {:.0} ({:.0}) | {} |",
        before.cpu_micros,
        after.cpu_micros,
        cost.cpu_micros,
        cost.cpu_micros / floor,
        cost.rate,
        cost.resident.0,
        cost.resident.1,
        cost.connections,
    );
    println!("floor {:.0}/s, {:.0}/s; {} requests\n", before.rate, after.rate, cost.requests);
}

/// A steady stream at parts of the rate that was reached, and how long after their append its events
/// were at the sink. The broker's clock counts in milliseconds, so that is up to one too much.
fn latency(args: &[String], stage: &Stage, sink: &Sink, plan: Plan, cost: &Cost) -> Vec<Value> {
    let seconds = number(args, "--seconds", 10);
    // To compare two builds, the same rate for both.
    let whole = number(args, "--rate", 0) as f64;
    let whole = if whole > 0.0 { whole } else { cost.rate / plan.fan_out as f64 };
    let mut found = Vec::new();
    for percent in [25_u32, 50, 90] {
        let per_second = whole * f64::from(percent) / 100.0;
        let before = sink.report().deliveries;
        let live = has(args, "--bare-reader");
        let bare = BareReader::start(stage, live);
        // What starts cold, the producer too, is not counted.
        let counts_from = sink::now_micros() + 2_000_000;
        let sent = stage.produce_steadily(plan, per_second, Duration::from_secs(2 + seconds));
        let deadline = Instant::now() + Duration::from_secs(60);
        let all = before + sent * plan.fan_out;
        while sink.report().deliveries < all && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(200));
        }
        let mut seen = bare.finish(sent);
        seen.retain(|at| at.sent >= counts_from);
        let events = seen.len();
        let appended: HashMap<u64, u64> = seen.iter().map(|at| (at.sent, at.appended)).collect();
        let of_delivery = |at: &Arrival| {
            let appended = appended.get(&at.sent)?;
            Some((at.arrived.saturating_sub(*appended), at.arrived.saturating_sub(at.sent)))
        };
        let arrivals = sink.arrivals();
        let (delivered, since_sent): (Vec<u64>, Vec<u64>) =
            arrivals.iter().filter_map(of_delivery).unzip();
        let read = seen.iter().map(|at| at.read.saturating_sub(at.appended)).collect();
        let count = delivered.len();
        let (delivered, since_sent) = (Ages::of(delivered), Ages::of(since_sent));
        let read = live.then(|| Ages::of(read));
        print!(
            "{percent} % of the rate ({per_second:.0} events/s), {count} of {} deliveries, ms: from the append {delivered}; from the send {since_sent}",
            events as u64 * plan.fan_out,
        );
        match &read {
            Some(read) => println!("; a bare reader from the append {read}"),
            None => println!(),
        }
        found.push(json!({
            "percent": percent, "eventsPerSecond": per_second, "events": events, "deliveries": count,
            "fromAppend": delivered.json(), "fromSend": since_sent.json(),
            "bareReaderFromAppend": read.map(|read| read.json()),
        }));
    }
    found
}

/// How old events were, in milliseconds.
struct Ages {
    p50: f64,
    p99: f64,
    most: f64,
}

impl Ages {
    fn of(mut micros: Vec<u64>) -> Self {
        micros.sort_unstable();
        let millis = |at: usize| micros.get(at).map_or(f64::NAN, |age| *age as f64 / 1e3);
        let count = micros.len();
        Self {
            p50: millis(count / 2),
            p99: millis(count * 99 / 100),
            most: millis(count.saturating_sub(1)),
        }
    }

    fn json(&self) -> Value {
        json!({ "p50Millis": self.p50, "p99Millis": self.p99, "mostMillis": self.most })
    }
}

impl std::fmt::Display for Ages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "p50 {:.1}, p99 {:.1}, most {:.1}", self.p50, self.p99, self.most)
    }
}

/// Consume, decode and match, with nothing to deliver.
fn unmatched(args: &[String]) -> Value {
    let plan = Plan { fan_out: 0, ..plan(args) };
    let events = number(args, "--deliveries", 500_000);
    let sink = Sink::start();
    let broker = Broker::start();
    let stage = Stage::new(&broker, &sink.address);
    stage.create_connectors(plan);
    stage.produce_events(plan, events);
    let instance = stage.serve(0, "delivery");
    let unmatched = || instance.metric("dunmore_events_unmatched_total").unwrap_or(0.0);
    let mut first: Option<(Instant, f64, f64)> = None;
    let ended = loop {
        // Telling the metrics costs the instance something too.
        thread::sleep(Duration::from_millis(200));
        let count = unmatched();
        if count > 0.0 && first.is_none() {
            first = Some((Instant::now(), cpu_of(instance.pid()), count));
        }
        if count >= events as f64 {
            break Instant::now();
        }
    };
    thread::sleep(Duration::from_millis(500));
    let (began, before, early) = first.expect("events");
    let counted = events as f64 - early;
    let cpu = (cpu_of(instance.pid()) - before) / counted;
    let per_second = counted / ended.duration_since(began).as_secs_f64();
    println!(
        "nothing subscribed: {:.2} µs CPU per event, {:.0} events/s per core; {per_second:.0}/s in fact",
        cpu * 1e6,
        1.0 / cpu
    );
    json!({ "unmatched": events, "cpuMicros": cpu * 1e6, "perCoreSecond": 1.0 / cpu, "perSecond": per_second })
}

fn scaling(args: &[String]) -> Vec<Value> {
    let runs: &[&[&str]] = &[
        &["--instances", "1"],
        &["--instances", "2"],
        &["--instances", "4"],
        &["--connectors", "10"],
        &["--connectors", "1000"],
        &["--connectors", "10000"],
        &["--connectors", "100000"],
        &["--connectors", "1000", "--fan-out", "10"],
        &["--connectors", "1000", "--fan-out", "100"],
        &["--bytes", "4096"],
        &["--bytes", "65536", "--deliveries", "10000"],
        &["--kind", "bigquery", "--connectors", "20"],
    ];
    let with = |run: &&[&str]| {
        let mut all: Vec<String> = run.iter().map(|arg| (*arg).to_owned()).collect();
        all.extend(args.iter().skip(2).cloned());
        cost(&all, false)
    };
    runs.iter().map(with).collect()
}
