//! What the program adds to a request, timed piece by piece.
//!
//! `cargo bench --bench hot_path -- [--quick]`

mod support;

use criterion::{Criterion, Throughput};
use support::pieces::pieces;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for mut piece in pieces() {
        let mut group = criterion.benchmark_group(piece.group);
        group.throughput(Throughput::Elements(piece.elements));
        group.bench_function(&piece.name, |b| b.iter(|| (piece.call)()));
        group.finish();
    }
    criterion.final_summary();
}
