//! The deterministic simulation: the product's decisions under a seeded stream of trouble, with
//! a clock that stands still until the simulation moves it.
//!
//! `docs/SIMULATION.md` says what is simulated and what is not. A failing seed prints a trace that
//! was made as short as it would get.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod breaks;
mod broker;
mod chance;
mod control;
mod delivery;
mod ledger;
mod machine;
mod metadata;
mod profile;
mod shared;
mod shrink;
mod world;

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Instant,
};

use breaks::Break;
use profile::Profile;
use world::{Run, run, steps_of};

/// Seeds of an ordinary test run.
const SEEDS: u64 = 2_000;
/// Within so many seeds each deliberate break must be caught.
const SEEDS_PER_BREAK: u64 = 2_000;

fn run_seed(seed: u64, breaks: Option<Break>) -> Run {
    let profile = Profile::of_seed(seed);
    run(seed, &profile, &steps_of(seed, &profile), breaks, false)
}

/// Runs every `stride`th seed on all processors until one fails; returns the lowest that did, of
/// those that ran, how many ran, and how many deliveries they made.
fn first_failure(
    seeds: std::ops::Range<u64>,
    stride: u64,
    breaks: Option<Break>,
) -> (Option<u64>, u64, u64) {
    let next = AtomicU64::new(seeds.start);
    let (found, stop) = (AtomicU64::new(u64::MAX), AtomicBool::new(false));
    let (ran, deliveries) = (AtomicU64::new(0), AtomicU64::new(0));
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(stride, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let outcome = run_seed(seed, breaks);
                    ran.fetch_add(1, Ordering::Relaxed);
                    deliveries.fetch_add(outcome.deliveries, Ordering::Relaxed);
                    if outcome.violation.is_some() {
                        found.fetch_min(seed, Ordering::Relaxed);
                        stop.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let found = Some(found.into_inner()).filter(|seed| *seed != u64::MAX);
    (found, ran.into_inner(), deliveries.into_inner())
}

fn simulate(seeds: std::ops::Range<u64>) {
    let began = Instant::now();
    let (failed, ran, deliveries) = first_failure(seeds, 1, None);
    println!("{ran} seeds, {deliveries} deliveries, {:.1} s", began.elapsed().as_secs_f64());
    if let Some(seed) = failed {
        panic!("{}", shrink::report(seed, None));
    }
}

#[test]
fn trouble_breaks_no_promise() {
    simulate(0..SEEDS);
}

/// `cargo test --release --test simulation a_million -- --ignored --nocapture`; with
/// `DUNMORE_SIMULATION_SEEDS=20000` it is as many.
#[test]
#[ignore = "takes minutes; run it in release"]
fn a_million_seeds() {
    let seeds = std::env::var("DUNMORE_SIMULATION_SEEDS").ok();
    simulate(0..seeds.map_or(1_000_000, |seeds| seeds.parse().unwrap()));
}

/// `DUNMORE_SIMULATION_SEED=42 cargo test --test simulation one_seed -- --ignored --nocapture`
#[test]
#[ignore = "for looking at one seed"]
fn one_seed() {
    let seed = std::env::var("DUNMORE_SIMULATION_SEED").unwrap().parse().unwrap();
    println!("{}", shrink::report(seed, None));
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 0..10 {
        let profile = Profile::of_seed(seed);
        let steps = steps_of(seed, &profile);
        let traces = [(); 2].map(|()| run(seed, &profile, &steps, None, true).trace);
        assert_eq!(traces[0], traces[1]);
        assert!(traces[0].len() > 50);
    }
}

#[test]
fn every_break_is_caught() {
    let mut missed = Vec::new();
    let mut caught = BTreeMap::new();
    for (broken, invariants) in Break::ALL {
        let began = Instant::now();
        // Only a flood has more work than the cap.
        let (failed, ..) = match broken {
            Break::NoCap => first_failure(profile::FLOOD..20_000, 1_000, Some(*broken)),
            _ => first_failure(0..SEEDS_PER_BREAK, 1, Some(*broken)),
        };
        let Some(seed) = failed else {
            missed.push(format!("{broken:?} was not caught in {SEEDS_PER_BREAK} seeds"));
            continue;
        };
        let violation = run_seed(seed, Some(*broken)).violation.unwrap();
        println!(
            "{broken:?}: seed {seed}, {} ms: {}: {}",
            began.elapsed().as_millis(),
            violation.invariant,
            violation.what
        );
        // Without the break the same seed is fine.
        if let Some(own) = run_seed(seed, None).violation {
            missed.push(format!("seed {seed} fails without {broken:?}: {own:?}"));
        }
        if !invariants.contains(&violation.invariant) {
            missed.push(format!("{broken:?} broke another promise: {violation:?}"));
        }
        caught.insert(format!("{broken:?}"), seed);
    }
    assert!(missed.is_empty(), "{missed:#?}");
    assert_eq!(caught.len(), Break::ALL.len());
}

#[test]
fn a_failure_is_told_in_few_steps() {
    let broken = Some(Break::JumpsOverFailure);
    let (failed, ..) = first_failure(0..SEEDS_PER_BREAK, 1, broken);
    let seed = failed.unwrap();
    let profile = Profile::of_seed(seed);
    let steps = steps_of(seed, &profile);
    let short = shrink::shrink(seed, &profile, &steps, broken);
    assert!(short.len() * 4 < steps.len(), "{} of {} steps", short.len(), steps.len());
    let report = shrink::report(seed, broken);
    assert!(report.contains(&format!("seed {seed}")), "{report}");
}
