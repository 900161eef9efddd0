//! What became of deliveries, as the attempts topic tells: a bounded memory of delivery ids.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::{
    delivery::{AttemptRecord, Outcome},
    destination::ConnectorType,
    id::{ConnectorId, ConnectorKey, DeliveryId, ProjectId},
};

/// The most deliveries that are remembered: about 300 MB.
pub const MAX_HISTORY: usize = 8_000_000;

/// Deliveries that were tried, and which of them have arrived.
#[derive(Debug, Default)]
pub struct History {
    arrived: HashMap<DeliveryId, bool>,
    connectors: BTreeMap<ProjectId, BTreeSet<(ConnectorId, ConnectorType)>>,
}

/// More deliveries than are remembered.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "more than {MAX_HISTORY} deliveries were attempted in this time: choose fewer with --project, --connector, --event-type or a shorter time"
)]
pub struct HistoryFull;

impl History {
    /// Takes an attempt in.
    pub fn add(&mut self, attempt: &AttemptRecord<'_>) -> Result<(), HistoryFull> {
        if self.arrived.len() >= MAX_HISTORY && !self.arrived.contains_key(&attempt.delivery_id) {
            return Err(HistoryFull);
        }
        let has = matches!(attempt.outcome, Outcome::Delivered | Outcome::Skipped);
        *self.arrived.entry(attempt.delivery_id).or_default() |= has;
        let project = ProjectId::parse(&attempt.project_id);
        let connector = ConnectorId::parse(&attempt.connector_id);
        if let (Ok(project), Ok(connector)) = (project, connector) {
            let known = self.connectors.entry(project).or_default();
            known.insert((connector, attempt.connector_type));
        }
        Ok(())
    }

    /// Whether a delivery was tried.
    #[must_use]
    pub fn was_tried(&self, id: DeliveryId) -> bool {
        self.arrived.contains_key(&id)
    }

    /// Whether a delivery has arrived, or there was nothing to do for it.
    #[must_use]
    pub fn has_arrived(&self, id: DeliveryId) -> bool {
        self.arrived.get(&id).copied().unwrap_or(false)
    }

    /// How many deliveries are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.arrived.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.arrived.is_empty()
    }

    /// Every connector that was delivered to.
    pub fn connectors(&self) -> impl Iterator<Item = (ConnectorKey, ConnectorType)> {
        self.connectors.iter().flat_map(|(project, connectors)| {
            connectors.iter().map(|(connector, kind)| {
                let key = ConnectorKey { project: project.clone(), connector: connector.clone() };
                (key, *kind)
            })
        })
    }
}
