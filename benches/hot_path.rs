//! What the program adds to a request, timed piece by piece; and what a scrape costs.
//!
//! `cargo bench --bench hot_path -- [--quick]`

#![expect(clippy::expect_used, reason = "a bench stops at what it does not expect")]

mod support;

use std::{hint::black_box, time::Duration};

use criterion::{Criterion, Throughput};
use dunmore_connectors::{
    delivery::{Outcome, Source},
    destination::ConnectorType,
    event::EventType,
    lane::{Arrival, LaneLimits, Lanes},
    metrics::{LaneCounts, Metrics},
};
use support::pieces::pieces;

/// What Prometheus asks of an instance, and what the gauges of the lanes cost ten times a second.
fn scrape(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scrape");
    let limits =
        LaneLimits { label: 0, same_place: false, concurrency: 16, rate: None, batch_items: 1 };
    let arrival =
        Arrival { version: 1, source: Source::Live, crowded: false, patient: true, is_last: false };
    let mut lanes: Lanes<u32, u64> = Lanes::new(4096, 4096);
    for key in 0..10_000 {
        lanes.offer(&key, limits, arrival, 1, Duration::ZERO);
    }
    let metrics = Metrics::new().expect("metrics");
    for kind in ConnectorType::ALL {
        for event in EventType::ALL {
            metrics.delivered(*kind, *event, Source::Live, Duration::from_millis(20));
            metrics.attempt(*kind, Source::Live, Duration::from_millis(20));
            for outcome in Outcome::ALL {
                metrics.step(*kind, *event, Source::Live, *outcome);
            }
        }
    }
    group.bench_function("of /metrics, with every series of 20 types", |b| {
        b.iter(|| black_box(metrics.render().len()));
    });
    group.bench_function("counting 10,000 lanes", |b| {
        b.iter(|| metrics.set_lanes(&LaneCounts::of(lanes.states())));
    });
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for mut piece in pieces() {
        let mut group = criterion.benchmark_group(piece.group);
        group.throughput(Throughput::Elements(piece.elements));
        group.bench_function(&piece.name, |b| b.iter(|| (piece.call)()));
        group.finish();
    }
    scrape(&mut criterion);
    criterion.final_summary();
}
