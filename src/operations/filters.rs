//! What a filter would have let through of the last days.

use std::{
    ops::ControlFlow,
    slice,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{NotThere, Operations, names::check_names};
use crate::{
    clock::{self, Timestamp},
    connector::{Connector, partition_of},
    event::EventTypes,
    filter::{Filter, Tally, of_event},
    id::ProjectId,
    kafka::{Bounds, Span, Spans, TopicKind},
    replay::ConnectorName,
};

/// The most days that a filter is tried over: what the events topic keeps.
pub const MAX_FILTER_DAYS: u32 = 30;
/// The most records that are read for it, the newest …
pub const MAX_FILTER_RECORDS: u64 = 1_000_000;
/// … and how long.
const MAX_TIME: Duration = Duration::from_secs(10);
const DAY_MILLIS: i64 = 24 * 3_600_000;

/// A filter to be tried, and the events that it is tried on.
pub struct FilterTrial {
    /// The filter.
    pub filter: Filter,
    /// The events' project.
    pub project: ProjectId,
    /// Their types.
    pub event_types: EventTypes,
    /// How many days ago Kafka took on the first of them.
    pub days: u32,
}

/// What it said.
pub struct Tried {
    /// Of the events that were looked at.
    pub tally: Tally,
    /// Whether these are all.
    pub is_complete: bool,
}

impl Tried {
    /// As programs read it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let examples = self.tally.examples().map(|(event, verdict)| of_event(event, verdict));
        json!({
            "passed": self.tally.passed,
            "looked": self.tally.looked,
            "errors": self.tally.errors,
            "examples": examples.collect::<Vec<_>>(),
            "complete": self.is_complete,
        })
    }
}

impl Operations {
    /// Asks a filter about the events of a project. Blocks.
    pub fn try_filter(&self, trial: &FilterTrial) -> anyhow::Result<Tried> {
        let began = Instant::now();
        let topic = self.topic(TopicKind::Events);
        let ago = i64::from(trial.days) * DAY_MILLIS;
        let since = Timestamp::from_millis(clock::now().millis().saturating_sub(ago));
        let spans = Bounds::of(&self.connection, &topic)?.between(Some(since), None)?;
        // Its key names the partition; producers with another partitioner have used another one.
        let count = i32::try_from(spans.len()).unwrap_or(i32::MAX);
        let own = partition_of(trial.project.as_str(), count);
        let newest = newest(&spans, own, MAX_FILTER_RECORDS);
        let mut tried = Tried { tally: Tally::default(), is_complete: newest == spans };
        self.scan(&topic, &newest, |seen| {
            if began.elapsed() >= MAX_TIME {
                tried.is_complete = false;
                return ControlFlow::Break(());
            }
            if let Some(met) = self.met(seen)
                && let head = met.head()
                && head.project == trial.project.as_str()
                && trial.event_types.contains(head.kind)
                && let Some(event) = met.whole()
            {
                tried.tally.add(&trial.filter, event);
            }
            ControlFlow::Continue(())
        })?;
        Ok(tried)
    }

    /// The one connector that is named. Blocks.
    pub fn connector(
        &self,
        project: Option<&ProjectId>,
        name: &ConnectorName,
    ) -> anyhow::Result<Connector> {
        let connectors = self.connectors()?;
        let is_in = |own: &ProjectId| project.is_none_or(|project| project == own);
        let mut found = connectors
            .all()
            .filter(|connector| name.means(&connector.key) && is_in(&connector.key.project));
        match (found.next(), found.next()) {
            (Some(connector), None) => Ok(connector.clone()),
            (Some(one), Some(other)) => {
                let (one, other) = (&one.key, &other.key);
                let why =
                    format!("several projects have a connector {name}: write {one} or {other}");
                Err(NotThere(why).into())
            }
            (None, _) => {
                let projects: Vec<ProjectId> = project.cloned().into_iter().collect();
                check_names(&projects, slice::from_ref(name), &connectors)?;
                let why = format!("there is no connector {name} in this project");
                Err(NotThere(why).into())
            }
        }
    }
}

/// The newest offsets of these ranges, so many at most: first those of one partition, then as many of
/// each of the others as there is room for.
fn newest(spans: &Spans, first: i32, most: u64) -> Spans {
    let mut order: Vec<(i32, Span)> = spans.iter().map(|(number, span)| (*number, *span)).collect();
    // What a short one leaves is there for the longer ones.
    order.sort_by_key(|(number, span)| (*number != first, span.len()));
    let (mut left, mut others) = (most, order.len() as u64);
    let mut newest = Spans::new();
    for (number, span) in order {
        let share = if number == first { left } else { left / others.max(1) };
        let taken = span.len().min(share);
        left -= taken;
        others -= 1;
        let from = span.to.saturating_sub(i64::try_from(taken).unwrap_or(i64::MAX));
        newest.insert(number, Span { from, to: span.to });
    }
    newest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_taken_of_the_own_partition_first() {
        let span = |from: i64, to: i64| Span { from, to };
        let spans: Spans =
            [(0, span(10, 110)), (1, span(0, 50)), (2, span(7, 7)), (3, span(0, 60))].into();
        assert_eq!(newest(&spans, 1, 1000), spans);
        assert_eq!(newest(&spans, 1, 210), spans);
        let expected: Spans =
            [(0, span(60, 110)), (1, span(0, 50)), (2, span(7, 7)), (3, span(10, 60))].into();
        assert_eq!(newest(&spans, 1, 150), expected);
        let expected: Spans =
            [(0, span(80, 110)), (1, span(50, 50)), (2, span(7, 7)), (3, span(60, 60))].into();
        assert_eq!(newest(&spans, 0, 30), expected);
        assert_eq!(newest(&Spans::new(), 0, 30), Spans::new());
    }
}
