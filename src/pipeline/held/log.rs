//! The records of the topic of held deliveries, and how they are read.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
};

use tokio::sync::mpsc;

use super::{CHUNK, CHUNK_BYTES};
use crate::{
    clock::Timestamp,
    delivery::{Due, Held},
    destination::ConnectorType,
    id::ConnectorKey,
    kafka::{Bounds, Connection, KafkaError, Record, Seen, Span, scan},
    pipeline::park::header,
};

/// What is found while released deliveries are read.
pub(super) enum Found {
    Record(ConnectorKey, Record),
    /// The connector's first delivery that stays.
    Rest(ConnectorKey, i64, Timestamp),
}

/// What a record of the topic says.
pub(super) enum Note {
    Held(ConnectorKey, ConnectorType),
    Released { key: ConnectorKey, to: i64, count: u64 },
}

impl Note {
    pub(super) fn of<'a>(
        key: Option<&[u8]>,
        has_value: bool,
        header: impl Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<Self> {
        let text = |name: &str| std::str::from_utf8(header(name)?).ok();
        let key = ConnectorKey {
            project: std::str::from_utf8(key?).ok()?.parse().ok()?,
            connector: text(header::CONNECTOR_ID)?.parse().ok()?,
        };
        if has_value {
            let kind = text(header::CONNECTOR_TYPE)?.parse().unwrap_or(ConnectorType::Unknown);
            return Some(Self::Held(key, kind));
        }
        let to = text(header::RELEASED_TO)?.parse().ok()?;
        let count = text(header::RELEASED)?.parse().ok()?;
        Some(Self::Released { key, to, count })
    }

    pub(super) fn apply(self, held: &mut Held, offset: i64, at: Timestamp) {
        match self {
            Self::Held(key, kind) => held.hold(key, kind, offset, at),
            Self::Released { key, to, count } => held.release(&key, to, count),
        }
    }
}

fn note_of(seen: &Seen<'_>) -> Option<Note> {
    Note::of(seen.key(), seen.value().is_some(), |name| seen.header(name))
}

/// Counts what is held in a partition; returns also where it ends.
///
/// It is read twice: what a note says was released may have been deleted by now, so it cannot be
/// subtracted.
pub(super) fn count(
    connection: &Connection,
    topic: &str,
    number: i32,
) -> Result<(Held, i64), KafkaError> {
    let whole = Bounds::of(connection, topic)?.whole().clone();
    let span = whole.get(&number).copied().unwrap_or(Span { from: 0, to: 0 });
    let spans = [(number, span)].into();
    let mut released: BTreeMap<ConnectorKey, i64> = BTreeMap::new();
    scan(connection, topic, &spans, |seen| {
        if let Some(Note::Released { key, to, .. }) = note_of(seen) {
            let known = released.entry(key).or_insert(to);
            *known = to.max(*known);
        }
        ControlFlow::Continue(())
    })?;
    let mut held = Held::default();
    scan(connection, topic, &spans, |seen| {
        if let Some(Note::Held(key, kind)) = note_of(seen)
            && released.get(&key).is_none_or(|to| seen.offset() > *to)
        {
            held.hold(key, kind, seen.offset(), seen.timestamp());
        }
        ControlFlow::Continue(())
    })?;
    Ok((held, span.to))
}

/// Reads what is due, in chunks. Of connectors whose deliveries expire it is what was held for so
/// long that it does not stay.
pub(super) fn read(
    connection: &Connection,
    topic: &str,
    span: (i32, Span),
    due: &BTreeMap<ConnectorKey, Due>,
    stays: impl Fn(Timestamp) -> bool,
    found: &mpsc::Sender<Vec<Found>>,
) -> Result<(), KafkaError> {
    let (mut chunk, mut bytes) = (Vec::new(), 0);
    let mut rests = BTreeSet::new();
    scan(connection, topic, &[span].into(), |seen| {
        let Some(Note::Held(key, _)) = note_of(seen) else { return ControlFlow::Continue(()) };
        match due.get(&key) {
            None => return ControlFlow::Continue(()),
            Some(_) if rests.contains(&key) => return ControlFlow::Continue(()),
            Some(Due::Expired) if stays(seen.timestamp()) => {
                rests.insert(key.clone());
                chunk.push(Found::Rest(key, seen.offset(), seen.timestamp()));
            }
            Some(_) => {
                let record = seen.copy();
                bytes += record.size();
                chunk.push(Found::Record(key, record));
            }
        }
        if chunk.len() < CHUNK && bytes < CHUNK_BYTES {
            return ControlFlow::Continue(());
        }
        bytes = 0;
        // The other end is gone when the partition was given up.
        match found.blocking_send(std::mem::take(&mut chunk)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    })?;
    let _ = found.blocking_send(chunk);
    Ok(())
}
