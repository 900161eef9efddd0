//! What operators see of the view, of the cluster, and of what waits for them.

use std::time::Duration;

use super::Metrics;
use crate::{
    kafka::{Trouble, TroubleKind},
    view::SuspendedCounts,
};

impl Metrics {
    /// How much the view holds.
    pub fn set_view(&self, connectors: usize, projects: usize) {
        self.view_connectors.set(i64::try_from(connectors).unwrap_or(i64::MAX));
        self.view_projects.set(i64::try_from(projects).unwrap_or(i64::MAX));
    }

    /// How many connectors are suspended, by type and code of the reason. A series that was there
    /// stays, so that a count that went to 0 shows.
    pub fn set_suspended(&self, counts: &SuspendedCounts) {
        for ((kind, code), count) in counts {
            let gauge =
                self.connectors_suspended.with_label_values(&[kind.as_str(), code.as_str()]);
            gauge.set(i64::try_from(*count).unwrap_or(i64::MAX));
        }
    }

    /// How far the view is behind its topic.
    pub fn set_view_lag(&self, records: i64) {
        self.view_lag.set(records);
    }

    /// What is wrong with the cluster at present.
    pub fn set_kafka_troubles(&self, troubles: &[Trouble]) {
        for kind in TroubleKind::ALL {
            let count = troubles.iter().filter(|trouble| trouble.kind == *kind).count();
            let gauge = self.kafka_troubles.with_label_values(&[kind.as_str()]);
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// What the view takes on disk.
    pub fn set_view_disk(&self, bytes: u64) {
        self.view_disk.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// How long ago the view had everything.
    pub fn set_view_age(&self, age: Duration) {
        self.view_age.set(age.as_secs_f64());
    }

    /// A delivery of a newer release was put back into its tier.
    pub fn newer_record_deferred(&self) {
        self.newer_records.inc();
    }

    /// So many partitions have something to do and do not move.
    pub fn set_partitions_stalled(&self, count: usize) {
        self.partitions_stalled.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// The view is rebuilt from Kafka.
    pub fn view_rebuilt(&self, reason: &str) {
        self.view_rebuilds.with_label_values(&[reason]).inc();
    }

    /// The view left out records that it could not read.
    pub fn view_unreadable(&self, count: usize) {
        self.view_unreadable.inc_by(count as u64);
    }
}
