//! Dead letters as heaps: by the connectors' type and the reason, the largest first.

use std::collections::HashMap;

use serde::Serialize;

use super::{DeadWaiting, Operations};
use crate::{
    clock::Timestamp,
    destination::cut,
    kafka::{Bounds, TopicKind},
    replay::{Marks, NOTE, NOTE_REDRIVEN, Position},
};

/// The most dead letters that are looked at, the newest ones.
const MAX_LETTERS: u64 = 100_000;
/// The reason of letters that name none, or are of no heap.
const OTHER: &str = "other";
/// The most heaps that are kept apart; what is in others is counted only.
const MAX_HEAPS: usize = 500;
/// The longest words of a heap, in characters.
const MAX_WORDS: usize = 300;

/// Dead letters of one type and reason that were not redriven.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Heap {
    /// The connectors' type; empty for records that are no deliveries.
    #[serde(rename = "type")]
    pub kind: String,
    /// The reason.
    pub reason: String,
    /// Letters that wait.
    pub waiting: u64,
    /// When the first of them was written.
    pub first: Timestamp,
    /// When the last of them was written.
    pub last: Timestamp,
    /// What was said of the last letter, redriven or not.
    pub detail: String,
}

/// All heaps.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Heaps {
    /// The largest first.
    pub heaps: Vec<Heap>,
    /// Letters that wait, those of heaps beyond the most included.
    pub waiting: u64,
    /// So many older records of the topic were not looked at.
    pub not_read: u64,
}

impl Heaps {
    /// The letters that wait, by reason only.
    pub(super) fn by_reason(&self) -> DeadWaiting {
        let (waiting, not_read) = (self.waiting, self.not_read);
        let mut told = DeadWaiting { waiting, not_read, ..DeadWaiting::default() };
        let mut of_none = waiting;
        for heap in &self.heaps {
            let reason = if heap.reason.is_empty() { OTHER } else { &heap.reason };
            *told.reasons.entry(reason.to_owned()).or_default() += heap.waiting;
            of_none = of_none.saturating_sub(heap.waiting);
        }
        if of_none > 0 {
            *told.reasons.entry(OTHER.to_owned()).or_default() += of_none;
        }
        told
    }
}

/// Puts letters on heaps.
#[derive(Default)]
struct Sorter {
    known: HashMap<(String, String), usize>,
    heaps: Vec<Heap>,
    said_at: Vec<Timestamp>,
    letters: Vec<(Position, Option<usize>, Timestamp)>,
}

impl Sorter {
    fn add(&mut self, position: Position, at: Timestamp, kind: &str, reason: &str, detail: &str) {
        let key = (cut(kind, MAX_WORDS), cut(reason, MAX_WORDS));
        let known = self.known.get(&key).copied();
        let heap = known.or_else(|| {
            (self.heaps.len() < MAX_HEAPS).then(|| {
                let (kind, reason) = key.clone();
                self.heaps.push(Heap { kind, reason, ..Heap::default() });
                self.said_at.push(Timestamp::default());
                self.known.insert(key, self.heaps.len() - 1);
                self.heaps.len() - 1
            })
        });
        // Partitions come in turns.
        if let Some(index) = heap
            && self.said_at[index] <= at
        {
            self.said_at[index] = at;
            self.heaps[index].detail = cut(detail, MAX_WORDS);
        }
        self.letters.push((position, heap, at));
    }

    fn sorted(mut self, marks: &Marks, not_read: u64) -> Heaps {
        let mut waiting = 0;
        for (_, heap, at) in self.letters.iter().filter(|(position, ..)| !marks.has(*position)) {
            waiting += 1;
            let Some(heap) = heap.and_then(|index| self.heaps.get_mut(index)) else { continue };
            heap.first = if heap.waiting == 0 { *at } else { heap.first.min(*at) };
            heap.last = heap.last.max(*at);
            heap.waiting += 1;
        }
        self.heaps.retain(|heap| heap.waiting > 0);
        self.heaps.sort_by(|a, b| {
            let name = |heap: &Heap| (heap.kind.clone(), heap.reason.clone());
            b.waiting.cmp(&a.waiting).then_with(|| name(a).cmp(&name(b)))
        });
        Heaps { heaps: self.heaps, waiting, not_read }
    }
}

impl Operations {
    /// The dead letters that were not redriven, of the newest ones, by type and reason. Blocks.
    pub fn heaps(&self) -> anyhow::Result<Heaps> {
        let topic = self.topic(TopicKind::Dead);
        let bounds = Bounds::of(&self.connection, &topic)?;
        let (mut sorter, mut marks, mut enough) = (Sorter::default(), Marks::default(), Ok(()));
        let not_read = self.read_newest(&topic, bounds.whole(), MAX_LETTERS, |seen| {
            if let Some(note) = seen.header(NOTE) {
                if note == NOTE_REDRIVEN.as_bytes() && enough.is_ok() {
                    enough = marks.add(seen.partition(), seen.value().unwrap_or_default());
                }
                return;
            }
            let text = |name: &str| String::from_utf8_lossy(seen.header(name).unwrap_or_default());
            let (kind, reason) = (text("dunmore-connector-type"), text("dunmore-error-reason"));
            let position = Position { partition: seen.partition(), offset: seen.offset() };
            let detail = text("dunmore-error-detail");
            sorter.add(position, seen.timestamp(), &kind, &reason, &detail);
        })?;
        enough?;
        Ok(sorter.sorted(&marks, not_read))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: i64) -> (Position, Timestamp) {
        (Position { partition: 0, offset }, Timestamp::from_millis(offset))
    }

    #[test]
    fn letters_are_put_on_heaps_and_the_largest_comes_first() {
        let mut sorter = Sorter::default();
        for (offset, kind, reason, detail) in [
            (7, "slack", "gone", "last"),
            (1, "slack", "gone", "first"),
            (2, "xero", "rejected", "x"),
            (3, "slack", "gone", "middle"),
            (4, "xero", "gone", "y"),
            (5, "", "undecodable", "z"),
        ] {
            let (position, time) = at(offset);
            sorter.add(position, time, kind, reason, detail);
        }
        let mut marks = Marks::default();
        // The newest of the first heap and the only one of another were redriven.
        marks.mark(at(7).0);
        marks.mark(at(4).0);
        let found = sorter.sorted(&marks, 9);
        let told: Vec<(&str, &str, u64)> = found
            .heaps
            .iter()
            .map(|heap| (heap.kind.as_str(), heap.reason.as_str(), heap.waiting))
            .collect();
        let wanted = [("slack", "gone", 2), ("", "undecodable", 1), ("xero", "rejected", 1)];
        assert_eq!(told, wanted);
        let first = &found.heaps[0];
        assert_eq!((first.first.millis(), first.last.millis()), (1, 3));
        assert_eq!(first.detail, "last");
        assert_eq!((found.waiting, found.not_read), (4, 9));

        // The status counts the same letters, by reason alone.
        let status = found.by_reason();
        let reasons = [("gone", 2), ("rejected", 1), ("undecodable", 1)];
        let reasons = reasons.map(|(reason, number)| (reason.to_owned(), number));
        assert_eq!(status.reasons, reasons.into());
        assert_eq!((status.waiting, status.not_read), (4, 9));
    }

    #[test]
    fn there_are_so_many_heaps_and_the_rest_is_counted() {
        let mut sorter = Sorter::default();
        for offset in 0..1_000 {
            let (position, time) = at(offset);
            sorter.add(position, time, "slack", &format!("reason_{offset}"), &"x".repeat(9_000));
        }
        let found = sorter.sorted(&Marks::default(), 0);
        assert_eq!((found.heaps.len(), found.waiting), (MAX_HEAPS, 1_000));
        let status = found.by_reason();
        assert_eq!((status.reasons[OTHER], status.reasons["reason_0"]), (500, 1));
        assert!(found.heaps.iter().all(|heap| heap.detail.chars().count() <= MAX_WORDS));
    }
}
