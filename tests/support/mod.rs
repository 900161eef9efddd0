//! What the tests against a real broker share: the broker, a Kafka client of their own, a sink that plays
//! the third parties, and `dunmore` as a child process.

#![allow(dead_code, reason = "every test binary uses another part of this")]

pub(crate) mod broker;
pub(crate) mod certificates;
pub(crate) mod events;
pub(crate) mod fake_registry;
pub(crate) mod fault_server;
pub(crate) mod foreign;
pub(crate) mod kafka;
pub(crate) mod load;
pub(crate) mod registry;
pub(crate) mod scene;
pub(crate) mod serve;
pub(crate) mod sink;

use std::time::{Duration, Instant};

/// Polls until the condition holds; fails after `patience`, naming what was waited for.
#[track_caller]
pub(crate) fn wait_until(what: &str, patience: Duration, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !holds() {
        assert!(Instant::now() < deadline, "waited {patience:?} in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Polls until there is something; fails after `patience`, naming what was waited for.
#[track_caller]
pub(crate) fn wait_for<T>(
    what: &str,
    patience: Duration,
    mut look: impl FnMut() -> Option<T>,
) -> T {
    let mut found = None;
    wait_until(what, patience, || {
        found = look();
        found.is_some()
    });
    found.unwrap()
}

/// Random numbers that are the same on every run (`SplitMix64`).
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    /// A number below the bound.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}
