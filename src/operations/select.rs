//! What a selection means in the logs: offsets, connectors, what was delivered before, and the
//! plan that follows.

use std::{
    ops::ControlFlow,
    str::FromStr,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::Operations;
use crate::{
    clock::{self, Timestamp},
    delivery::AttemptRecord,
    event::Event,
    kafka::{Bounds, Seen, Span, Spans, TopicKind},
    pipeline::COMMAND_OFFSET,
    replay::{Choice, Connectors, History, Known, Plan, Selection, Warning, warnings},
};

/// Offsets of one partition, as an operator writes them: `3:1000-2000`, both ends included, or
/// `3:1000-` to the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OffsetRange {
    /// The partition.
    pub partition: i32,
    /// The first offset.
    pub first: i64,
    /// The last offset, if there is an end.
    pub last: Option<i64>,
}

impl FromStr for OffsetRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = || {
            let (partition, range) = text.split_once(':')?;
            let (first, last) = range.split_once('-')?;
            let last = match last {
                "" => None,
                last => Some(last.parse().ok()?),
            };
            let range =
                Self { partition: partition.parse().ok()?, first: first.parse().ok()?, last };
            (range.first >= 0 && range.last.is_none_or(|last| last >= range.first)).then_some(range)
        };
        read().ok_or_else(|| {
            format!("{text:?} is no range such as 3:1000-2000 (partition:first-last) or 3:1000-")
        })
    }
}

/// Offsets that do not fit the topic.
#[derive(Debug, thiserror::Error)]
#[error("offsets: {0}")]
pub struct WrongOffsets(String);

/// A plan and what it was made of.
pub struct Survey {
    /// What would be sent.
    pub plan: Plan,
    /// The offsets that were read.
    pub spans: Spans,
    /// Records in the topic, read or not.
    pub in_topic: u64,
    /// How long reading took.
    pub took: Duration,
    /// Whether it is known what arrived before.
    pub has_history: bool,
    /// What speaks against sending.
    pub warnings: Vec<Warning>,
}

impl Survey {
    /// The survey as programs read it.
    pub fn to_json(&self) -> Value {
        json!({
            "plan": self.plan.to_json(),
            "scan": {
                "records": self.plan.scanned,
                "inTopic": self.in_topic,
                "seconds": self.took.as_secs_f64(),
                "attemptsRead": self.has_history,
            },
            "warnings": self.warnings,
        })
    }
}

impl Operations {
    /// The deliveries that a choice makes of a record, counted into the plan.
    pub(super) fn weigh<'a>(
        &self,
        seen: &Seen<'_>,
        choice: &'a Choice,
        history: Option<&History>,
        plan: &mut Plan,
    ) -> Option<(Event, Vec<&'a Known>)> {
        plan.scanned += 1;
        let Some(met) = self.met(seen) else {
            plan.unreadable += 1;
            return None;
        };
        if !choice.concerns(&met.head()) {
            return None;
        }
        // Read whole already for the plan, so that it counts what the run will send.
        let Some(event) = met.whole() else {
            plan.unreadable += 1;
            return None;
        };
        let targets = choice.take(&event, seen.timestamp(), history, plan);
        (!targets.is_empty()).then_some((event, targets))
    }

    /// The connectors of all projects as they are now. Blocks.
    pub fn connectors(&self) -> anyhow::Result<Connectors> {
        let topic = self.topic(TopicKind::State);
        let bounds = Bounds::of(&self.connection, &topic)?;
        let mut connectors = Connectors::default();
        self.scan(&topic, bounds.whole(), |seen| {
            let record = seen.copy();
            let offset = record.header_text(COMMAND_OFFSET).and_then(|text| text.parse().ok());
            // A record without an offset is none that the registrar wrote.
            if let (Some(change), Some(offset)) = (self.change(&record), offset) {
                connectors.apply(change, offset);
            }
            ControlFlow::Continue(())
        })?;
        Ok(connectors)
    }

    /// What was delivered of a selection, as the attempts tell. Blocks.
    pub fn history(&self, selection: &Selection) -> anyhow::Result<History> {
        let mut history = History::default();
        let mut full = Ok(());
        self.each_attempt(selection.from, None, |attempt| {
            let kind = attempt.event_type.parse();
            let wanted = selection.has_project(&attempt.project_id)
                && kind.is_ok_and(|kind| selection.has_event_type(kind))
                && (selection.types.is_empty()
                    || selection.types.contains(&attempt.connector_type));
            if wanted {
                full = history.add(&attempt);
            }
            if full.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        full?;
        Ok(history)
    }

    /// Hands every attempt of a time over. Blocks.
    pub(super) fn each_attempt(
        &self,
        from: Option<Timestamp>,
        to: Option<Timestamp>,
        mut each: impl FnMut(AttemptRecord<'static>) -> ControlFlow<()>,
    ) -> anyhow::Result<()> {
        let topic = self.topic(TopicKind::Attempts);
        let spans = Bounds::of(&self.connection, &topic)?.between(from, to)?;
        self.scan(&topic, &spans, |seen| {
            match seen.value().and_then(|value| self.attempt(value)) {
                Some(attempt) => each(attempt),
                // What cannot be read is of a later version, and of no use here.
                _ => ControlFlow::Continue(()),
            }
        })
    }

    /// The offsets of the events topic that are meant, and how many records it has. Blocks.
    pub fn spans(
        &self,
        selection: &Selection,
        ranges: &[OffsetRange],
    ) -> anyhow::Result<(Spans, u64)> {
        let topic = self.topic(TopicKind::Events);
        let bounds = Bounds::of(&self.connection, &topic)?;
        let in_topic = bounds.whole().values().map(|span| span.len()).sum();
        let mut spans = bounds.between(selection.from, selection.to)?;
        if ranges.is_empty() {
            return Ok((spans, in_topic));
        }
        for (number, range) in ranges.iter().enumerate() {
            let partition = range.partition;
            if !spans.contains_key(&partition) {
                let last = spans.len().saturating_sub(1);
                let why = format!("{topic} has no partition {partition}, but 0 to {last}");
                return Err(WrongOffsets(why).into());
            }
            if ranges[..number].iter().any(|other| other.partition == partition) {
                let why = format!("partition {partition} is named twice; name one range of each");
                return Err(WrongOffsets(why).into());
            }
        }
        for (partition, span) in &mut spans {
            let own = ranges.iter().find(|range| range.partition == *partition);
            *span = own.map_or(Span { from: span.from, to: span.from }, |range| {
                let to = range.last.map_or(span.to, |last| span.to.min(last.saturating_add(1)));
                let from = range.first.clamp(span.from, span.to);
                Span { from, to: to.max(from) }
            });
        }
        Ok((spans, in_topic))
    }

    /// Counts what a choice would send of these offsets. Blocks.
    pub fn survey(
        &self,
        spans: &Spans,
        in_topic: u64,
        choice: &Choice,
        history: Option<&History>,
    ) -> anyhow::Result<Survey> {
        let mut plan = choice.plan();
        let began = Instant::now();
        self.scan(&self.topic(TopicKind::Events), spans, |seen| {
            self.weigh(seen, choice, history, &mut plan);
            ControlFlow::Continue(())
        })?;
        let took = began.elapsed();
        let warnings = warnings(&plan, history.is_some(), clock::now());
        let has_history = history.is_some();
        Ok(Survey { plan, spans: spans.clone(), in_topic, took, has_history, warnings })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_read_as_they_are_written() {
        let range = |text: &str| text.parse::<OffsetRange>();
        let expected = OffsetRange { partition: 3, first: 10, last: Some(20) };
        assert_eq!(range("3:10-20"), Ok(expected));
        assert_eq!(range("3:10-"), Ok(OffsetRange { last: None, ..expected }));
        for wrong in ["", "3", "3:10", "3:20-10", "a:1-2", "3:-5-2", "3:-"] {
            assert!(range(wrong).is_err(), "{wrong}");
        }
    }
}
