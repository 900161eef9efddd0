//! How often memory is allocated: by each piece of the hot path, by building and judging for each
//! destination type, and by a whole service per delivery. The C library inside the Kafka client
//! allocates for itself and is not counted.
//!
//! `cargo bench --bench allocations -- [--deliveries N] [--fan-out N] [--connectors N] [--kind K]`

#![allow(clippy::expect_used, reason = "a bench stops at what it does not expect")]
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

mod support;

use std::{alloc::System, thread, time::Duration};

use dunmore_connectors::{
    config::Config,
    destination::ConnectorType,
    service::{Role, Service},
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use support::{
    cases::Case,
    has, number,
    pieces::pieces,
    sink::{self, Sink},
    stage::{Broker, Plan, Stage},
    text,
};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    // `cargo test --benches` runs this too: then there is nothing to measure.
    if has(&args, "--test") {
        return;
    }
    if args.get(1).map(String::as_str) == Some("sink") {
        return sink::run();
    }
    println!("| what | allocations | bytes |\n| --- | --- | --- |");
    for mut piece in pieces() {
        line(&format!("{}: {}", piece.group, piece.name), || (piece.call)());
    }
    for &kind in ConnectorType::ALL {
        let case = Case::new(kind);
        let items = case.items();
        line(&format!("build and judge: {kind}"), || case.one(&items[0]));
    }
    whole(&args);
}

fn line(name: &str, mut call: impl FnMut()) {
    const CALLS: usize = 1000;
    // The first call may fill what is kept.
    call();
    let region = Region::new(ALLOCATOR);
    (0..CALLS).for_each(|_| call());
    print(name, &region, CALLS as f64);
}

fn print(name: &str, region: &Region<'_, System>, count: f64) {
    let change = region.change();
    let allocations = (change.allocations + change.reallocations) as f64 / count;
    println!("| {name} | {allocations:.1} | {:.0} |", change.bytes_allocated as f64 / count);
}

/// A service inside this process that delivers a backlog.
fn whole(args: &[String]) {
    let fan_out = number(args, "--fan-out", 1).max(1);
    let plan = Plan {
        kind: if text(args, "--kind") == Some("bigquery") { "bigquery" } else { "zapier" },
        projects: number(args, "--connectors", 200).div_ceil(fan_out).max(1),
        fan_out,
        bytes: number(args, "--bytes", 0),
    };
    let events = number(args, "--deliveries", 20_000).div_ceil(fan_out);
    let sink = Sink::start();
    let broker = Broker::start();
    let stage = Stage::new(&broker, &sink.address);
    stage.create_connectors(plan);
    stage.produce_events(plan, events);
    let (file, _) = stage.settings(0);
    let config = Config::load(Some(&file)).expect("settings");
    let roles = [Role::Delivery].into();
    let service = stage.runtime.block_on(Service::start(config, &roles)).expect("a service");
    let seen = || sink.report().deliveries;
    while seen() == 0 {
        thread::sleep(Duration::from_millis(5));
    }
    let region = Region::new(ALLOCATOR);
    let already = seen();
    while seen() < events * fan_out {
        thread::sleep(Duration::from_millis(20));
    }
    let name = format!("a whole delivery, {plan:?}");
    print(&name, &region, (events * fan_out - already) as f64);
    stage.runtime.block_on(service.stop());
}
