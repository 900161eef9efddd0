//! What a selection means in the logs: offsets, connectors, what was delivered before, and the
//! plan that follows.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    str::FromStr,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{CLOCK_SLACK, Operations};
use crate::{
    clock::{self, Timestamp},
    delivery::AttemptRecord,
    event::Event,
    kafka::{Bookmarks, Bounds, Seen, ServiceGroup, Span, Spans, TopicKind},
    pipeline::COMMAND_OFFSET,
    replay::{Choice, Connectors, History, Known, Plan, Selection, Warning, warnings},
};

/// An attempt is on record so long after its event was finished with: instances write attempts
/// without waiting for them.
const ATTEMPT_LAG: Duration = Duration::from_millis(500);
/// Records of each partition after a window that are looked at for some that belong into it.
const MAX_LOOK_AHEAD: i64 = 100_000;

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
    /// Records that wait behind an open transaction: they are not read.
    pub behind_transactions: u64,
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
                "behindOpenTransactions": self.behind_transactions,
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
        let place = (seen.partition(), seen.offset());
        let targets = choice.take(&event, seen.timestamp(), place, history, plan);
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

    /// What was delivered of a selection, as the attempts tell, and what is on its way. Blocks.
    pub fn history(&self, selection: &Selection) -> anyhow::Result<History> {
        let mut history = History::default();
        // First of all: what is finished now has its attempts already, or will have no more.
        let events = self.topic(TopicKind::Events);
        for (partition, offset) in self.committed(&self.group, &events)? {
            history.finished_to(partition, offset);
        }
        thread::sleep(ATTEMPT_LAG);
        let topic = self.topic(TopicKind::Attempts);
        let bounds = Bounds::of(&self.connection, &topic)?;
        let is_cut = |partition: i32| {
            bounds.whole().get(&partition).is_some_and(|span| span.from > 0 && !span.is_empty())
        };
        for partition in bounds.whole().keys().filter(|partition| is_cut(**partition)) {
            if let Some(at) = self.first_in(&topic, *partition, bounds.whole())? {
                history.begins_at(at);
            }
        }
        let mut full = Ok(());
        // Attempts are stamped by the instances' clocks, events by others.
        let from = selection.from.map(|from| {
            let slack = i64::try_from(CLOCK_SLACK.as_millis()).unwrap_or_default();
            Timestamp::from_millis(from.millis().saturating_sub(slack).max(0))
        });
        self.each_attempt(from, None, |attempt| {
            history.see(attempt.outcome, attempt.at);
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
        self.asked_for(&mut history)?;
        Ok(history)
    }

    /// Takes the deliveries into a history that wait in the replay topic.
    fn asked_for(&self, history: &mut History) -> anyhow::Result<()> {
        let topic = self.topic(TopicKind::Replay);
        let finished = self.committed(&ServiceGroup::Replay.id(&self.group), &topic)?;
        let mut spans = Bounds::of(&self.connection, &topic)?.whole().clone();
        for (partition, span) in &mut spans {
            let next = finished.get(partition).copied().unwrap_or(span.from);
            span.from = next.clamp(span.from, span.to);
        }
        let mut full = Ok(());
        self.scan(&topic, &spans, |seen| {
            if let Some(record) = seen.value().and_then(|value| self.delivery(value)) {
                full = history.is_asked_for(record.delivery_id);
            }
            if full.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok(full?)
    }

    /// What a group has committed of a topic's partitions.
    fn committed(&self, group: &str, topic: &str) -> anyhow::Result<BTreeMap<i32, i64>> {
        let bounds = Bounds::of(&self.connection, topic)?;
        let partitions: Vec<(String, i32)> =
            bounds.whole().keys().map(|partition| (topic.to_owned(), *partition)).collect();
        let kept = Bookmarks::new(&self.connection, group)?.read(&partitions)?;
        Ok(kept.into_iter().map(|((_, partition), kept)| (partition, kept.offset)).collect())
    }

    /// When the first record of a partition was written.
    fn first_in(
        &self,
        topic: &str,
        partition: i32,
        spans: &Spans,
    ) -> anyhow::Result<Option<Timestamp>> {
        let own = spans.iter().filter(|(number, _)| **number == partition);
        let mut first = None;
        self.scan(topic, &own.map(|(number, span)| (*number, *span)).collect(), |seen| {
            first = Some(seen.timestamp());
            ControlFlow::Break(())
        })?;
        Ok(first)
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
    fn spans(&self, selection: &Selection, ranges: &[OffsetRange]) -> anyhow::Result<(Spans, u64)> {
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

    /// What a selection means, with the end of the logs fixed now: the plan, the connectors, and
    /// what arrived before where that is wanted. Blocks.
    pub fn prepare(
        &self,
        selection: &Selection,
        ranges: &[OffsetRange],
        wants_history: bool,
    ) -> anyhow::Result<(Survey, Choice, Option<History>)> {
        let (spans, in_topic) = self.spans(selection, ranges)?;
        let connectors = self.connectors()?;
        let history = wants_history.then(|| self.history(selection)).transpose()?;
        Self::check_selection(selection, &connectors, history.as_ref())?;
        let choice = connectors.choose(selection, history.as_ref());
        let survey = self.survey(&spans, in_topic, &choice, history.as_ref())?;
        Ok((survey, choice, history))
    }

    /// Counts what a choice would send of these offsets. Blocks.
    fn survey(
        &self,
        spans: &Spans,
        in_topic: u64,
        choice: &Choice,
        history: Option<&History>,
    ) -> anyhow::Result<Survey> {
        let mut plan = choice.plan();
        let began = Instant::now();
        let selection = choice.selection();
        let mut stamps = Stamps::new(selection.from, selection.to);
        let topic = self.topic(TopicKind::Events);
        self.scan(&topic, spans, |seen| {
            stamps.see(seen, true);
            self.weigh(seen, choice, history, &mut plan);
            ControlFlow::Continue(())
        })?;
        let took = began.elapsed();
        let bounds = Bounds::of(&self.connection, &topic)?;
        if selection.to.is_some() {
            // Behind a record that is stamped too late there may be some of the window's.
            let beyond = spans.iter().map(|(partition, span)| {
                let end = bounds.whole().get(partition).map_or(span.to, |whole| whole.to);
                let to = end.min(span.to.saturating_add(MAX_LOOK_AHEAD)).max(span.to);
                (*partition, Span { from: span.to, to })
            });
            self.scan(&topic, &beyond.collect(), |seen| {
                stamps.see(seen, false);
                ControlFlow::Continue(())
            })?;
        }
        let mut warnings = warnings(&plan, history, clock::now());
        warnings.extend(stamps.warning());
        let waiting = bounds.behind_open_transactions()?;
        let behind_transactions = waiting.values().map(|span| span.len()).sum();
        if behind_transactions > 0 {
            warnings.push(Warning::of_log(
                "open_transactions",
                behind_transactions,
                format!(
                    "{behind_transactions} records of {topic} wait behind a producer's open transaction and cannot be read: replay them when it has ended"
                ),
            ));
        }
        let has_history = history.is_some();
        Ok(Survey {
            plan,
            spans: spans.clone(),
            in_topic,
            took,
            has_history,
            warnings,
            behind_transactions,
        })
    }
}

/// Compares records' timestamps, where their producers set them, with a window that was looked up by
/// them.
struct Stamps {
    from: Option<Timestamp>,
    to: Option<Timestamp>,
    outside: u64,
    missed: u64,
}

impl Stamps {
    fn new(from: Option<Timestamp>, to: Option<Timestamp>) -> Self {
        Self { from, to, outside: 0, missed: 0 }
    }

    /// A record that was chosen, or one after the chosen ones.
    fn see(&mut self, seen: &Seen<'_>, is_chosen: bool) {
        if !seen.is_stamped_by_producer() {
            return;
        }
        let at = seen.timestamp();
        let is_in = self.from.is_none_or(|from| at >= from) && self.to.is_none_or(|to| at < to);
        match (is_chosen, is_in) {
            (true, false) => self.outside += 1,
            (false, true) => self.missed += 1,
            _ => {}
        }
    }

    fn warning(&self) -> Option<Warning> {
        if self.outside + self.missed == 0 {
            return None;
        }
        let message = format!(
            "the timestamps of the events are their producers' (message.timestamp.type=CreateTime), and not in order: {} of the chosen records are from outside of the window, {} after them are from inside and not chosen. Choose by --offsets, and let the topic take the broker's time (LogAppendTime, `dunmore topics check`)",
            self.outside, self.missed
        );
        Some(Warning::of_log("timestamps", self.outside + self.missed, message))
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
