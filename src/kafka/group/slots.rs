//! The partitions that a group's consumer holds, and how much each may take in.
//!
//! Each partition has a queue of its own in the client library. One whose worker is behind is left
//! alone until it has room; the library stops fetching for it meanwhile and keeps what it has.
//! Pausing it instead would throw that away, and the library's fetching thread notices only within
//! a second that it is resumed (<https://github.com/confluentinc/confluent-kafka-go/issues/630>).

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{super::Record, Assigned, Partition};

/// Records that may wait for a partition's worker. A partition that had so many takes more when
/// half of them are gone.
const MAX_RECORDS: usize = 1024;
/// Bytes that may wait for the workers of all partitions; each partition has its part of it …
const MAX_QUEUED_BYTES: usize = 32 << 20;
/// … but at least and at most this. A single record may be larger.
const PART_OF_BYTES: std::ops::RangeInclusive<usize> = 512 << 10..=8 << 20;
/// Batches that a worker's queue can hold.
const QUEUE_BATCHES: usize = 256;

/// A partition's full name.
pub type Key = (Arc<str>, i32);

/// A partition, where its records are fetched to, and the way to its worker.
pub struct Slot<Q> {
    partition: Arc<Partition>,
    fetched: Arc<Q>,
    worker: mpsc::Sender<Vec<Record>>,
    /// Whether it waits until half of what it may hold is gone.
    is_full: bool,
}

/// All partitions of a consumer.
pub struct Slots<Q> {
    all: Vec<Slot<Q>>,
}

/// What may be taken in for a partition now.
pub struct Room<Q> {
    /// The partition.
    pub partition: Arc<Partition>,
    /// Where its records are.
    pub fetched: Arc<Q>,
    /// The way to its worker.
    pub worker: mpsc::Sender<Vec<Record>>,
    /// How many records.
    pub records: usize,
    /// About how many bytes.
    pub bytes: usize,
}

impl<Q> Default for Slots<Q> {
    fn default() -> Self {
        Self { all: Vec::new() }
    }
}

impl<Q> Slots<Q> {
    /// Starts on a partition; one of the same name was removed before.
    pub fn insert(&mut self, partition: Arc<Partition>, fetched: Q) -> Assigned {
        let (worker, records) = mpsc::channel(QUEUE_BATCHES);
        let fetched = Arc::new(fetched);
        self.all.push(Slot { partition: Arc::clone(&partition), fetched, worker, is_full: false });
        Assigned { partition, records }
    }

    /// Lets a partition go.
    pub fn remove(&mut self, (topic, number): &Key) {
        let is_it =
            |slot: &Slot<Q>| slot.partition.number() == *number && slot.partition.topic() == topic;
        self.all.retain(|slot| !is_it(slot));
    }

    /// Lets all go.
    pub fn clear(&mut self) {
        self.all.clear();
    }

    /// All partitions.
    pub fn partitions(&self) -> Vec<Arc<Partition>> {
        self.all.iter().map(|slot| Arc::clone(&slot.partition)).collect()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// What may be taken in, and whether a partition has no room.
    pub fn rooms(&mut self) -> (Vec<Room<Q>>, bool) {
        let most = part_of_bytes(self.all.len());
        let rooms: Vec<Room<Q>> = self.all.iter_mut().filter_map(|slot| slot.room(most)).collect();
        let is_any_full = rooms.len() < self.all.len();
        (rooms, is_any_full)
    }
}

impl<Q> Slot<Q> {
    fn room(&mut self, most_bytes: usize) -> Option<Room<Q>> {
        let (records, bytes) = self.partition.queued();
        if records >= MAX_RECORDS || bytes >= most_bytes {
            self.is_full = true;
        } else if records < MAX_RECORDS / 2 && bytes < most_bytes / 2 {
            self.is_full = false;
        }
        let has_room = !self.is_full && self.worker.capacity() > 0;
        has_room.then(|| Room {
            partition: Arc::clone(&self.partition),
            fetched: Arc::clone(&self.fetched),
            worker: self.worker.clone(),
            records: MAX_RECORDS - records,
            bytes: most_bytes - bytes,
        })
    }
}

impl<Q> Room<Q> {
    /// Hands records over to the worker; they have so many bytes.
    pub fn fill(self, records: Vec<Record>, bytes: usize) {
        if records.is_empty() {
            return;
        }
        let next = records.last().map_or(0, |record| record.offset + 1);
        // Before the worker can take any of it.
        self.partition.queue(records.len(), bytes, next);
        // Nothing else fills the queue, so it has room still.
        if self.worker.try_send(records).is_err() && !self.partition.is_released() {
            self.partition.fail();
        }
    }
}

/// Bytes that may wait for one partition's worker, when this instance has so many partitions.
fn part_of_bytes(partitions: usize) -> usize {
    let part = MAX_QUEUED_BYTES / partitions.max(1);
    part.clamp(*PART_OF_BYTES.start(), *PART_OF_BYTES.end())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::offsets::{CompletionMap, Tracker};

    fn partition(number: i32) -> Arc<Partition> {
        let tracker = Tracker::new(CompletionMap::default());
        Arc::new(Partition::new("events".into(), number, tracker))
    }

    fn slots(numbers: &[i32]) -> (Slots<i32>, Vec<Assigned>) {
        let mut slots = Slots::default();
        let assigned = numbers.iter().map(|number| slots.insert(partition(*number), *number));
        let assigned = assigned.collect();
        (slots, assigned)
    }

    fn records(count: usize) -> Vec<Record> {
        (0..count).map(|_| Record::unwritten(Bytes::new(), Vec::new())).collect()
    }

    /// Fills what has room in these partitions; tells which had.
    fn fill(slots: &mut Slots<i32>, wanted: &[i32], count: usize, bytes: usize) -> Vec<i32> {
        let (rooms, _) = slots.rooms();
        let rooms = rooms.into_iter().filter(|room| wanted.contains(&room.fetched));
        let fill = |room: Room<i32>| {
            let number = *room.fetched;
            room.fill(records(count), bytes);
            number
        };
        rooms.map(fill).collect()
    }

    #[test]
    fn a_worker_gets_what_was_fetched_for_its_partition() {
        let (mut slots, mut assigned) = slots(&[0, 7]);
        assert_eq!(fill(&mut slots, &[7], 2, 20), [7]);
        assert_eq!(assigned[1].records.try_recv().unwrap().len(), 2);
        assert_eq!(assigned[1].partition.queued(), (2, 20));
        assert!(assigned[0].records.try_recv().is_err());
        fill(&mut slots, &[0], 0, 0);
        assert!(assigned[0].records.try_recv().is_err(), "nothing is no batch");
    }

    #[test]
    fn a_worker_that_is_behind_gets_no_more_until_half_is_gone_and_others_do() {
        let (mut slots, assigned) = slots(&[0, 1]);
        fill(&mut slots, &[0], MAX_RECORDS, MAX_RECORDS);
        assert_eq!(fill(&mut slots, &[0, 1], 1, 1), [1]);
        assert!(slots.rooms().1, "one is full");
        let take = |count: usize| (0..count).for_each(|_| assigned[0].partition.taken(1));
        take(MAX_RECORDS / 2);
        assert_eq!(fill(&mut slots, &[0], 1, 1), [0; 0]);
        take(1);
        let (rooms, is_any_full) = slots.rooms();
        assert!(!is_any_full && rooms[0].records == MAX_RECORDS / 2 + 1);
    }

    #[test]
    fn bytes_are_bounded_like_records() {
        let (mut slots, assigned) = slots(&[0]);
        let most = part_of_bytes(1);
        assert_eq!(slots.rooms().0[0].bytes, most);
        fill(&mut slots, &[0], 1, most);
        assert!(slots.rooms().0.is_empty());
        assigned[0].partition.taken(most);
        assert_eq!(slots.rooms().0.len(), 1);
    }

    #[test]
    fn a_queue_full_of_small_batches_is_no_room() {
        let (mut slots, mut assigned) = slots(&[0]);
        for _ in 0..QUEUE_BATCHES {
            assert_eq!(fill(&mut slots, &[0], 1, 1), [0]);
        }
        assert_eq!(fill(&mut slots, &[0], 1, 1), [0; 0]);
        assigned[0].records.try_recv().unwrap();
        assert_eq!(fill(&mut slots, &[0], 1, 1), [0]);
    }

    #[test]
    fn a_partition_that_is_assigned_anew_starts_with_nothing() {
        let (mut slots, mut old) = slots(&[0]);
        fill(&mut slots, &[0], 3, 3);
        slots.remove(&("events".into(), 0));
        let mut new = slots.insert(partition(0), 0);
        fill(&mut slots, &[0], 1, 1);
        assert_eq!(new.records.try_recv().unwrap().len(), 1);
        assert_eq!(old[0].records.try_recv().unwrap().len(), 3);
        assert_eq!(slots.partitions().len(), 1);
        slots.remove(&("events".into(), 0));
        assert!(slots.is_empty());
    }

    #[test]
    fn many_partitions_share_the_memory_and_each_has_some() {
        assert_eq!(part_of_bytes(1), *PART_OF_BYTES.end());
        assert_eq!(part_of_bytes(16), MAX_QUEUED_BYTES / 16);
        assert_eq!(part_of_bytes(10_000), *PART_OF_BYTES.start());
    }
}
