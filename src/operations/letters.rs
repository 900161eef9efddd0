//! Dead letters: reading them, and purging them.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::ControlFlow,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Serialize;
use serde_json::{Value, json, value::RawValue};

use super::{NotThere, Operations};
use crate::{
    clock::Timestamp,
    config::Config,
    delivery::{DeliveryRecord, Origin},
    id::{ConnectorId, ConnectorKey, DeliveryId},
    kafka::{Admin, Bounds, Record, Seen, Span, Spans, TopicKind},
    replay::{
        DeadFilter, DeadLetter, Letter, Marks, NOTE, NOTE_REDRIVEN, Position, Purgeable, Tally,
        TooManyMarks,
    },
};

/// Dead letters that a filter takes.
pub struct Listed {
    /// All of them, counted by reason.
    pub tally: Tally,
    /// The latest of them, the latest first.
    pub letters: Vec<DeadLetter>,
    /// What was redriven.
    pub marks: Marks,
}

/// One dead letter as programs read it.
#[derive(Serialize)]
pub struct Told {
    /// All but the event.
    #[serde(flatten)]
    pub facts: Value,
    /// The event as it was produced, number by number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<Box<RawValue>>,
}

/// What a purge would delete.
#[derive(Debug)]
pub struct Purge {
    /// By partition: everything before this offset.
    pub before: BTreeMap<i32, i64>,
    /// What that is.
    pub tally: Tally,
    /// Of it, letters that nobody has redriven.
    pub not_redriven: u64,
}

impl Listed {
    /// The list as programs read it.
    pub fn to_json(&self) -> Value {
        let letters = self.letters.iter().map(|letter| letter.to_json(&self.marks));
        json!({
            "total": self.tally.total(),
            "reasons": self.tally.to_json(),
            "letters": letters.collect::<Vec<_>>(),
        })
    }
}

impl Purge {
    /// What is meant, as programs read it.
    pub fn to_json(&self) -> Value {
        json!({
            "letters": self.tally.total(),
            "notRedriven": self.not_redriven,
            "before": self.before,
            "reasons": self.tally.to_json(),
        })
    }
}

impl Operations {
    /// Reads a record of the dead-letter topic; nothing when it is a note.
    pub(super) fn letter(&self, seen: &Seen<'_>) -> Option<DeadLetter> {
        if seen.header(NOTE).is_some() {
            return None;
        }
        let position = Position { partition: seen.partition(), offset: seen.offset() };
        let value = seen.value().unwrap_or_default();
        let header = |name: &str| seen.header(name);
        let delivery = |value: &[u8]| {
            if value.is_empty() { self.restored(seen) } else { self.delivery(value) }
        };
        Some(DeadLetter::read(position, seen.timestamp(), value, header, delivery))
    }

    /// The delivery of a letter that was written without its value, because that is larger than the
    /// topic takes: its headers say which event and connector it is about. `None` when the event is
    /// not there any more. Blocks.
    fn restored(&self, seen: &Seen<'_>) -> Option<DeliveryRecord> {
        let text = |name: &str| std::str::from_utf8(seen.header(name)?).ok();
        text("dunmore-value-omitted")?;
        let topic = text("dunmore-source-topic")?;
        let (partition, offset) = (
            text("dunmore-source-partition")?.parse().ok()?,
            text("dunmore-source-offset")?.parse().ok()?,
        );
        if topic != self.topic(TopicKind::Events) {
            return None;
        }
        let whole = *Bounds::of(&self.connection, topic).ok()?.whole().get(&partition)?;
        if offset < whole.from || offset >= whole.to {
            return None;
        }
        let span = Span { from: offset, to: offset + 1 };
        let mut found = None;
        let read = self.scan(topic, &Spans::from([(partition, span)]), |origin| {
            found = self.event(&origin.copy()).map(|event| (event, origin.timestamp()));
            ControlFlow::Break(())
        });
        let (event, accepted_at) = read.ok().and(found)?;
        let id: uuid::Uuid = text("dunmore-delivery-id")?.parse().ok()?;
        let key = ConnectorKey {
            project: event.project.clone(),
            connector: ConnectorId::parse(text("dunmore-connector-id")?).ok()?,
        };
        let delivery_id = DeliveryId::new(&key, &event.id);
        // A topic that was created anew has another event there.
        if delivery_id.uuid() != id {
            return None;
        }
        Some(DeliveryRecord {
            delivery_id,
            connector: key,
            connector_type: text("dunmore-connector-type")?.parse().ok()?,
            connector_created_at: None,
            event,
            attempts: text("dunmore-attempts")?.parse().ok()?,
            steps: 0,
            accepted_at,
            first_attempt_at: None,
            deferred_since: None,
            not_before: None,
            due_at: seen.timestamp(),
            last_error: None,
            origin: Origin { topic: topic.into(), partition, offset },
            job: None,
        })
    }

    /// What was redriven of letters that were written at this moment or later. Blocks.
    pub(super) fn marks(&self, from: Option<Timestamp>) -> anyhow::Result<Marks> {
        let topic = self.topic(TopicKind::Dead);
        let spans = Bounds::of(&self.connection, &topic)?.between(from, None)?;
        let mut marks = Marks::default();
        let mut enough: Result<(), TooManyMarks> = Ok(());
        self.scan(&topic, &spans, |seen| {
            if seen.header(NOTE) == Some(NOTE_REDRIVEN.as_bytes()) {
                enough = marks.add(seen.partition(), seen.value().unwrap_or_default());
            }
            if enough.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        enough?;
        Ok(marks)
    }

    /// The offsets that a filter can find something in. Blocks.
    pub(super) fn dead_spans(&self, filter: &DeadFilter) -> anyhow::Result<Spans> {
        let topic = self.topic(TopicKind::Dead);
        let mut spans = Bounds::of(&self.connection, &topic)?.between(filter.from, filter.to)?;
        if filter.positions.is_empty() {
            return Ok(spans);
        }
        for (partition, span) in &mut spans {
            let own = filter.positions.iter().filter(|position| position.partition == *partition);
            let offsets: Vec<i64> = own.map(|position| position.offset).collect();
            let first = offsets.iter().min().copied().unwrap_or(span.to);
            let last = offsets.iter().max().copied().unwrap_or(span.from);
            let from = first.clamp(span.from, span.to);
            *span = Span { from, to: span.to.min(last.saturating_add(1)).max(from) };
        }
        Ok(spans)
    }

    /// Hands every dead letter that a filter takes over, each partition's in order. Blocks.
    pub(super) fn each_letter(
        &self,
        filter: &DeadFilter,
        mut each: impl FnMut(DeadLetter) -> ControlFlow<()>,
    ) -> anyhow::Result<()> {
        let spans = self.dead_spans(filter)?;
        self.scan(&self.topic(TopicKind::Dead), &spans, |seen| match self.letter(seen) {
            Some(letter) if filter.takes(&letter) => each(letter),
            _ => ControlFlow::Continue(()),
        })?;
        Ok(())
    }

    /// The dead letters that a filter takes, counted, and the latest of them. Blocks.
    pub fn dead_letters(&self, filter: &DeadFilter, limit: usize) -> anyhow::Result<Listed> {
        let marks = self.marks(filter.from)?;
        let mut tally = Tally::default();
        let mut letters: VecDeque<DeadLetter> = VecDeque::new();
        self.each_letter(filter, |letter| {
            tally.add(&letter, &marks);
            // Partitions come in turns: kept in the order of time as they come.
            let at = letters.partition_point(|kept| kept.at <= letter.at);
            letters.insert(at, letter);
            if letters.len() > limit {
                letters.pop_front();
            }
            ControlFlow::Continue(())
        })?;
        if tally.total() == 0 {
            self.check_found(&filter.projects, &filter.connectors)?;
        }
        Ok(Listed { tally, letters: letters.into_iter().rev().collect(), marks })
    }

    /// One dead letter and its record. Blocks.
    pub fn dead_letter(&self, at: Position) -> anyhow::Result<(DeadLetter, Record, Marks)> {
        let topic = self.topic(TopicKind::Dead);
        let bounds = Bounds::of(&self.connection, &topic)?;
        let Some(whole) = bounds.whole().get(&at.partition) else {
            let why = format!("there is no partition {} in {topic}", at.partition);
            return Err(NotThere(why).into());
        };
        if at.offset < whole.from || at.offset >= whole.to {
            let why = format!(
                "there is nothing at {at} (any more): partition {} of {topic} has the offsets {} to {}",
                at.partition,
                whole.from,
                whole.to - 1
            );
            return Err(NotThere(why).into());
        }
        let span = Span { from: at.offset, to: at.offset + 1 };
        let mut found = None;
        self.scan(&topic, &Spans::from([(at.partition, span)]), |seen| {
            found = Some((self.letter(seen), seen.copy()));
            ControlFlow::Break(())
        })?;
        match found {
            Some((Some(letter), record)) => {
                let marks = self.marks(Some(letter.at))?;
                Ok((letter, record, marks))
            }
            Some((None, _)) => {
                let why =
                    format!("what is at {at} is no dead letter but a note about redriven ones");
                Err(NotThere(why).into())
            }
            None => Err(NotThere(format!("what was at {at} is not there any more")).into()),
        }
    }

    /// One dead letter as programs read it: also its headers, its value, and the request that it
    /// would become now. Blocks.
    pub fn told(
        &self,
        config: &Config,
        letter: &DeadLetter,
        record: &Record,
        marks: &Marks,
    ) -> anyhow::Result<Told> {
        let mut told = letter.to_json(marks);
        let headers = record.headers.iter().map(|(name, value)| {
            (name.clone(), Value::from(String::from_utf8_lossy(value).into_owned()))
        });
        told["headers"] = Value::Object(headers.collect());
        let mut event = None;
        match &letter.letter {
            Letter::Delivery(delivery) => {
                let text = delivery.event.json_text();
                // Other programs' parsers refuse what this one refuses: numbers out of range, halves
                // of letters. They get the text.
                if serde_json::from_str::<Value>(text).is_ok() {
                    event = RawValue::from_string(text.to_owned()).ok();
                } else {
                    told["eventText"] = text.into();
                }
                match self.preview(config, delivery)? {
                    Ok(request) => told["request"] = json!(request),
                    Err(why) => told["requestProblem"] = why.into(),
                }
            }
            Letter::Raw(bytes) => told["valueBase64"] = STANDARD.encode(bytes).into(),
        }
        Ok(Told { facts: told, event })
    }

    /// What purging everything before a moment, or everything redriven at the beginning of each
    /// partition, would delete. Blocks.
    pub fn plan_purge(&self, before: Option<Timestamp>) -> anyhow::Result<Purge> {
        let topic = self.topic(TopicKind::Dead);
        let bounds = Bounds::of(&self.connection, &topic)?;
        let marks = self.marks(None)?;
        let whole = bounds.whole().clone();
        let ends: BTreeMap<i32, i64> = if let Some(before) = before {
            bounds.at(before)?
        } else {
            let mut found: BTreeMap<i32, Purgeable> = BTreeMap::new();
            self.each_letter(&DeadFilter::default(), |letter| {
                found.entry(letter.position.partition).or_default().see(&letter, &marks);
                ControlFlow::Continue(())
            })?;
            let keep = |(partition, span): (&i32, &Span)| {
                let found = found.get(partition).copied().unwrap_or_default();
                (*partition, found.keep_from.unwrap_or(span.to))
            };
            whole.iter().map(keep).collect()
        };
        let spans: Spans = whole
            .iter()
            .map(|(partition, span)| {
                let to = ends.get(partition).copied().unwrap_or(span.from).max(span.from);
                (*partition, Span { from: span.from, to })
            })
            .collect();
        let (mut tally, mut not_redriven) = (Tally::default(), 0);
        self.scan(&topic, &spans, |seen| {
            if let Some(letter) = self.letter(seen) {
                tally.add(&letter, &marks);
                not_redriven += u64::from(!marks.has(letter.position));
            }
            ControlFlow::Continue(())
        })?;
        let before = spans.into_iter().filter(|(_, span)| !span.is_empty());
        let before = before.map(|(partition, span)| (partition, span.to)).collect();
        Ok(Purge { before, tally, not_redriven })
    }

    /// Deletes what a purge means.
    pub async fn purge(&self, purge: &Purge) -> anyhow::Result<()> {
        if purge.before.is_empty() {
            return Ok(());
        }
        let admin = Admin::new(&self.connection)?;
        Ok(admin.delete_before(&self.topic(TopicKind::Dead), &purge.before).await?)
    }
}
