//! What the lanes do, by type.

use prometheus::IntGaugeVec;

use super::{Metrics, maker::Maker};
use crate::{destination::ConnectorType, lane::LaneState};

/// How many lanes of a type there are, and what they do.
#[derive(Clone, Copy, Default, Debug)]
pub struct LaneCounts {
    /// All of them.
    pub all: usize,
    /// Those with an open circuit.
    pub open: usize,
    /// Those that could start a request and wait for their turn.
    pub in_line: usize,
}

impl LaneCounts {
    /// The counts of each type, by its index.
    pub fn of(states: impl Iterator<Item = LaneState>) -> Vec<Self> {
        let mut counts = vec![Self::default(); ConnectorType::ALL.len()];
        for state in states {
            let count = &mut counts[state.label];
            count.all += 1;
            count.open += usize::from(state.is_open);
            count.in_line += usize::from(state.is_in_line);
        }
        counts
    }
}

/// The gauges of the lanes.
pub(super) struct LaneGauges {
    all: IntGaugeVec,
    open: IntGaugeVec,
    in_line: IntGaugeVec,
    held: IntGaugeVec,
}

impl LaneGauges {
    pub(super) fn new(make: &Maker) -> prometheus::Result<Self> {
        Ok(Self {
            all: make.gauges("dunmore_lanes", "Lanes, one per connector in use.", &["type"])?,
            open: make.gauges(
                "dunmore_circuits_open",
                "Lanes whose destination is given a rest.",
                &["type"],
            )?,
            in_line: make.gauges(
                "dunmore_lanes_waiting",
                "Lanes that could send a request and wait for this program to let them.",
                &["type"],
            )?,
            held: make.gauges(
                "dunmore_deliveries_held",
                "Deliveries that wait until their connector's suspension is lifted, as far as this \
                 instance keeps them.",
                &["type"],
            )?,
        })
    }

    pub(super) fn set_held(&self, counts: &[u64]) {
        for (kind, count) in ConnectorType::ALL.iter().zip(counts) {
            let count = i64::try_from(*count).unwrap_or(i64::MAX);
            self.held.with_label_values(&[kind.as_str()]).set(count);
        }
    }

    pub(super) fn set(&self, counts: &[LaneCounts]) {
        let set = |gauge: &IntGaugeVec, kind: &ConnectorType, count: usize| {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            gauge.with_label_values(&[kind.as_str()]).set(count);
        };
        for (kind, counts) in ConnectorType::ALL.iter().zip(counts) {
            set(&self.all, kind, counts.all);
            set(&self.open, kind, counts.open);
            set(&self.in_line, kind, counts.in_line);
        }
    }
}

impl Metrics {
    /// What the lanes of each type do.
    pub fn set_lanes(&self, counts: &[LaneCounts]) {
        self.lanes.set(counts);
    }

    /// How many deliveries are held for suspended connectors, by type.
    pub fn set_held(&self, counts: &[u64]) {
        self.lanes.set_held(counts);
    }
}
