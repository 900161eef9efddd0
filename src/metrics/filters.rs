//! What connectors' filters did, by the connector's type.

use prometheus::{IntCounter, IntCounterVec};

use super::maker::Maker;
use crate::destination::ConnectorType;

/// What connectors' filters did.
pub struct Filters {
    filtered: Vec<IntCounter>,
    errors: Vec<IntCounter>,
}

impl Filters {
    pub(super) fn new(make: &Maker) -> prometheus::Result<Self> {
        let each = |counters: &IntCounterVec| -> Vec<IntCounter> {
            let kinds = ConnectorType::ALL.iter().chain([&ConnectorType::Unknown]);
            kinds.map(|kind| counters.with_label_values(&[kind.as_str()])).collect()
        };
        let filtered = make.counters(
            "dunmore_deliveries_filtered_total",
            "Events that a connector subscribes to and that do not pass its filter.",
            &["type"],
        )?;
        let errors = make.counters(
            "dunmore_filter_errors_total",
            "Filters that failed on an event, which was delivered.",
            &["type"],
        )?;
        Ok(Self { filtered: each(&filtered), errors: each(&errors) })
    }

    /// An event does not pass the filter of a connector of this type.
    pub fn filtered(&self, kind: ConnectorType) {
        self.filtered[kind.index()].inc();
    }

    /// A filter of a connector of this type failed on an event.
    pub fn failed(&self, kind: ConnectorType) {
        self.errors[kind.index()].inc();
    }
}
