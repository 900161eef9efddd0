//! What each destination costs: building a request and judging the answer, alone and in a full
//! batch. After criterion's own figures, a table sets each type against zapier, which sends the
//! event as it is.

#![expect(missing_docs, reason = "the macro's function has none")]

mod support;

use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group};
use dunmore_connectors::destination::ConnectorType;
use support::cases::Case;

fn each_type(c: &mut Criterion) {
    let mut group = c.benchmark_group("build and judge");
    group.sample_size(20).measurement_time(Duration::from_millis(500));
    group.warm_up_time(Duration::from_millis(200));
    for &kind in ConnectorType::ALL {
        let case = Case::new(kind);
        let items = case.items();
        group.bench_function(kind.as_str(), |b| b.iter(|| case.one(&items[0])));
    }
    group.finish();
}

/// The median time of one call, in microseconds.
fn micros(mut call: impl FnMut(), calls: u32) -> f64 {
    let mut rounds: Vec<Duration> = (0..15)
        .map(|_| {
            let began = Instant::now();
            (0..calls).for_each(|_| call());
            began.elapsed()
        })
        .collect();
    rounds.sort_unstable();
    rounds[rounds.len() / 2].as_secs_f64() * 1e6 / f64::from(calls)
}

fn table() {
    let zapier = Case::new(ConnectorType::Zapier);
    let item = zapier.items()[0];
    let zapier = micros(|| zapier.one(&item), 20_000);
    println!("\n{:<11} {:>8} {:>9} {:>7} {:>13}", "type", "µs", "× zapier", "batch", "µs per item");
    for &kind in ConnectorType::ALL {
        let case = Case::new(kind);
        let items = case.items();
        let alone = micros(|| case.one(&items[0]), 5_000);
        let size = case.batch(&items);
        let batch = match u32::try_from(size) {
            Ok(size @ 1..) => {
                let per_item = micros(|| assert!(case.batch(&items) > 0), 5) / f64::from(size);
                format!("{size:>7} {per_item:>13.2}")
            }
            _ => format!("{:>7}", "no"),
        };
        println!("{:<11} {alone:>8.2} {:>9.1} {batch}", kind.as_str(), alone / zapier);
    }
}

criterion_group!(benches, each_type);

fn main() {
    benches();
    Criterion::default().configure_from_args().final_summary();
    // `cargo test --benches` only looks whether everything runs.
    if std::env::args().any(|argument| argument == "--bench") {
        table();
    }
}
