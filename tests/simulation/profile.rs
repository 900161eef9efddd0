//! What a seed's run is made of: which faults may happen and how often, so that some runs go deep
//! into one kind of trouble.

use dunmore_connectors::{destination::Rate, lane::LaneLimits};

use crate::chance::Chance;

/// Seeds that end so are floods.
pub const FLOOD: u64 = 777;

/// Few tiers make a short run; the default ones are simulated too.
const TIERS: &[&str] = &["5s", "5s", "5s,30s", "5s,30s", "5s,30s", "5s,30s,2m,10m,1h,6h"];

/// One thing that can happen in a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Event,
    Command,
    Feed,
    Poll,
    Start,
    Answer,
    Write,
    Send,
    Commit,
    Registrar,
    Coordinate,
    FinishRevoke,
    Notice,
    Wait,
    Flush,
    // Trouble.
    Rebalance,
    Expel,
    Crash,
    PowerCut,
    LoseDisk,
    Mood,
    Compact,
    LongTime,
    Anew,
}

impl Kind {
    /// With their weights. The first ones are the day's work, the others happen only where the
    /// profile has them.
    const WORK: &[(Self, u32)] = &[
        (Self::Event, 9),
        (Self::Command, 5),
        (Self::Feed, 14),
        (Self::Poll, 18),
        (Self::Start, 4),
        (Self::Answer, 18),
        (Self::Write, 14),
        (Self::Send, 2),
        (Self::Commit, 6),
        (Self::Registrar, 26),
        (Self::Coordinate, 8),
        (Self::FinishRevoke, 6),
        (Self::Notice, 2),
        (Self::Wait, 6),
        (Self::Flush, 2),
    ];
    const TROUBLE: &[(Self, u32)] = &[
        (Self::Rebalance, 3),
        (Self::Expel, 3),
        (Self::Crash, 1),
        (Self::PowerCut, 1),
        (Self::LoseDisk, 1),
        (Self::Mood, 2),
        (Self::Compact, 1),
        (Self::LongTime, 1),
        (Self::Anew, 1),
    ];
}

#[derive(Clone, Debug)]
pub struct Profile {
    pub machines: usize,
    pub steps: usize,
    pub max_running: usize,
    pub limits: LaneLimits,
    pub projects: Vec<&'static str>,
    pub tiers: &'static str,
    /// Whether it is mostly the registrars that lose their partitions.
    pub relay: bool,
    /// The machine whose view is always late.
    pub slow_view: Option<usize>,
    /// So many connectors are there, and every machine runs, before the trouble begins.
    pub connectors: u64,
    /// All trouble with the broker at once, and more events than may be incomplete.
    pub flood: usize,
    kinds: Vec<(Kind, u32)>,
    total: u32,
}

impl Profile {
    pub fn of(chance: &mut Chance) -> Self {
        let mut kinds = Kind::WORK.to_vec();
        // Some runs are about deliveries, some about commands, some about both.
        let quiet: &[Kind] = match chance.below(3) {
            0 => &[Kind::Command, Kind::Registrar],
            1 => &[Kind::Event, Kind::Answer, Kind::Write],
            _ => &[],
        };
        for (kind, weight) in &mut kinds {
            if quiet.contains(kind) {
                *weight = (*weight / 6).max(1);
            } else if *kind == Kind::Command && quiet.contains(&Kind::Event) {
                *weight *= 5;
            }
        }
        // Some of those about commands are about who decides them.
        let relay = quiet.contains(&Kind::Event) && chance.percent(50);
        for (kind, weight) in Kind::TROUBLE {
            let hands_over =
                matches!(kind, Kind::Rebalance | Kind::Expel | Kind::Crash | Kind::PowerCut);
            if relay && hands_over {
                kinds.push((*kind, weight * 3));
            } else if chance.percent(55) {
                kinds.push((*kind, *weight));
            }
        }
        let rates = [None, None, Some(Rate { per_second: 2.0, burst: 2 })];
        let concurrency = u32::try_from(1 + chance.below(8)).unwrap();
        let limits = LaneLimits {
            label: 0,
            // Both happen, with no other draw of chance than before.
            same_place: concurrency.is_multiple_of(2),
            concurrency,
            rate: rates[chance.below(rates.len())],
            batch_items: [1, 1, 1, 3][chance.below(4)],
        };
        // The two projects' records are in different partitions.
        let projects = [vec!["proj_1"], vec!["proj_1", "proj_2"]];
        let total = kinds.iter().map(|(_, weight)| weight).sum();
        Self {
            machines: [1, 2, 2, 3][chance.below(4)],
            steps: 200 + chance.below(300),
            max_running: 1 + chance.below(30),
            limits,
            projects: projects[chance.below(2)].clone(),
            tiers: TIERS[chance.below(TIERS.len())],
            relay,
            slow_view: [None, Some(0), Some(1)][chance.below(3)],
            connectors: [0, 2, 4, 5][chance.below(4)],
            flood: 0,
            kinds,
            total,
        }
    }

    /// A broker that takes nothing, while more comes than may be incomplete.
    pub fn flood(chance: &mut Chance) -> Self {
        let kinds = [
            (Kind::Feed, 4),
            (Kind::Poll, 20),
            (Kind::Start, 6),
            (Kind::Answer, 20),
            (Kind::Commit, 3),
            (Kind::Registrar, 8),
            (Kind::Coordinate, 4),
            (Kind::Wait, 2),
            (Kind::Crash, 1),
        ];
        let total = kinds.iter().map(|(_, weight)| weight).sum();
        let (machines, steps) = (1 + chance.below(2), 400);
        let limits =
            LaneLimits { label: 0, same_place: false, concurrency: 8, rate: None, batch_items: 1 };
        let (projects, tiers) = (vec!["proj_1"], TIERS[0]);
        let (max_running, connectors) = (64, 1);
        let (kinds, flood) = (kinds.to_vec(), 1_100);
        Self {
            machines,
            steps,
            max_running,
            limits,
            projects,
            tiers,
            relay: false,
            slow_view: None,
            connectors,
            flood,
            kinds,
            total,
        }
    }

    /// Every seed has a profile; one in a thousand is a flood.
    pub fn of_seed(seed: u64) -> Self {
        let mut chance = Chance::new(seed ^ 0x5eed);
        if seed % 1000 == FLOOD { Self::flood(&mut chance) } else { Self::of(&mut chance) }
    }

    pub fn pick(&self, chance: &mut Chance) -> Kind {
        let mut left = chance.draw() % u64::from(self.total);
        for (kind, weight) in &self.kinds {
            if left < u64::from(*weight) {
                return *kind;
            }
            left -= u64::from(*weight);
        }
        Kind::Wait
    }
}
