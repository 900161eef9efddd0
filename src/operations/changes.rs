//! What was done to a project's connectors, read from the history topic.

use std::{collections::VecDeque, ops::ControlFlow};

use super::Operations;
use crate::{
    clock::Timestamp,
    codec::RecordKind,
    connector::{HistoryRecord, partition_of},
    id::{ConnectorId, ProjectId},
    kafka::{Bounds, TopicKind},
    replay::ConnectorName,
};

impl Operations {
    /// The latest of the commands that changed a project, or one of its connectors, since a moment,
    /// the latest last; and how many there are. Only the project's partition is read. Blocks.
    pub fn changes(
        &self,
        project: &ProjectId,
        connector: Option<&ConnectorId>,
        from: Option<Timestamp>,
        limit: usize,
    ) -> anyhow::Result<(u64, Vec<HistoryRecord>)> {
        let topic = self.topic(TopicKind::History);
        let bounds = Bounds::of(&self.connection, &topic)?;
        let mut spans = bounds.between(from, None)?;
        let count = i32::try_from(bounds.whole().len()).unwrap_or(i32::MAX);
        let own = partition_of(project.as_str(), count);
        spans.retain(|partition, _| *partition == own);
        let mut latest: VecDeque<HistoryRecord> = VecDeque::new();
        let mut found = 0;
        self.scan(&topic, &spans, |seen| {
            if seen.key() != Some(project.as_str().as_bytes()) {
                return ControlFlow::Continue(());
            }
            let json = self.json(RecordKind::History, seen.value().unwrap_or_default());
            if let Some(record) = json.and_then(|json| HistoryRecord::from_json(&json).ok())
                && connector.is_none_or(|wanted| record.connector_id.as_ref() == Some(wanted))
            {
                let is_repeat = |kept: &HistoryRecord| {
                    kept.command_id == record.command_id && kept.connector_id == record.connector_id
                };
                if !latest.iter().rev().any(is_repeat) {
                    found += 1;
                    // Records of one batch are written at once and may have changed places.
                    let at = latest.partition_point(|kept| kept.version <= record.version);
                    latest.insert(at, record);
                    if latest.len() > limit {
                        latest.pop_front();
                    }
                }
            }
            ControlFlow::Continue(())
        })?;
        if found == 0 {
            let name = connector.map(|connector| ConnectorName::of(project, connector));
            self.check_found(std::slice::from_ref(project), name.as_slice())?;
        }
        Ok((found, latest.into()))
    }
}
