//! A broker in memory: logs with gaps, a compacted one, and the offsets and owners of groups.

use std::{collections::BTreeMap, sync::Arc};

use dunmore_connectors::{
    connector::{Connector, Origin, StateRecord, Tier},
    delivery::DeliveryRecord,
    event::Event,
    offsets::CompletionMap,
    view::{COMPACTION_LAG, TOMBSTONE_RETENTION},
};

use crate::chance::Chance;

/// Partitions of the commands, state and events topics.
pub const PARTITIONS: i32 = 2;

#[derive(Clone, Debug)]
pub struct Entry<T> {
    pub offset: i64,
    pub at: u64,
    pub value: T,
}

#[derive(Debug)]
pub struct Log<T> {
    pub entries: Vec<Entry<T>>,
    /// The high watermark. The offset before it may be a transaction marker, which nobody reads.
    pub end: i64,
}

impl<T> Log<T> {
    pub const fn new() -> Self {
        Self { entries: Vec::new(), end: 0 }
    }

    pub fn append(&mut self, at: u64, value: T, chance: &mut Chance) -> i64 {
        if chance.percent(8) {
            self.end += 1;
        }
        let offset = self.end;
        self.entries.push(Entry { offset, at, value });
        self.end += 1;
        if chance.percent(8) {
            self.end += 1;
        }
        offset
    }

    pub fn from(&self, offset: i64) -> &[Entry<T>] {
        let first = self.entries.partition_point(|entry| entry.offset < offset);
        &self.entries[first..]
    }

    pub fn last(&self) -> Option<i64> {
        self.entries.last().map(|entry| entry.offset)
    }
}

/// A partition that a group shares out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Topic {
    Commands(i32),
    Events(i32),
    Tier(usize),
}

/// Who owns a partition, by the coordinator's books.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    pub machine: usize,
    pub incarnation: u64,
    pub epoch: u64,
}

#[derive(Debug, Default)]
pub struct Slot {
    pub owner: Option<Owner>,
    pub committed: Option<(i64, String)>,
}

impl Slot {
    pub fn map(&self) -> CompletionMap {
        let Some((offset, metadata)) = &self.committed else { return CompletionMap::default() };
        CompletionMap::decode(*offset, metadata).unwrap()
    }

    pub fn covers(&self, map: &CompletionMap, offset: i64) -> bool {
        self.committed.as_ref().is_some_and(|(committed, _)| offset < *committed)
            || map.is_done(offset)
    }
}

/// A record of the commands topic.
#[derive(Clone, Debug)]
pub struct Sent {
    pub value: Vec<u8>,
    /// The record that it was forwarded from.
    pub origin: Option<Origin>,
}

/// A state record as it was written, for the oracle: compaction takes nothing from here.
#[derive(Debug)]
pub struct Written {
    pub offset: i64,
    pub record: StateRecord,
    pub connector: Option<Connector>,
    pub tier: Option<Tier>,
}

/// How the broker treats who writes to it, in percent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mood {
    pub refuses: u32,
    pub loses_answer: u32,
}

#[derive(Debug)]
pub struct Broker {
    pub commands: Vec<Log<Sent>>,
    /// How often the commands topic was made anew.
    pub commands_life: i64,
    /// Whether topics have ids.
    pub has_ids: bool,
    pub state: Vec<Log<StateRecord>>,
    pub history: Vec<Vec<Written>>,
    pub events: Vec<Log<Arc<Event>>>,
    pub tiers: Vec<Log<DeliveryRecord>>,
    pub slots: BTreeMap<Topic, Slot>,
    pub mood: Mood,
    epochs: u64,
}

impl Broker {
    pub fn new(tiers: usize, has_ids: bool) -> Self {
        let mut slots = BTreeMap::new();
        for partition in 0..PARTITIONS {
            slots.insert(Topic::Commands(partition), Slot::default());
            slots.insert(Topic::Events(partition), Slot::default());
        }
        for tier in 0..tiers {
            slots.insert(Topic::Tier(tier), Slot::default());
        }
        Self {
            commands: (0..PARTITIONS).map(|_| Log::new()).collect(),
            commands_life: 0,
            has_ids,
            state: (0..PARTITIONS).map(|_| Log::new()).collect(),
            history: (0..PARTITIONS).map(|_| Vec::new()).collect(),
            events: (0..PARTITIONS).map(|_| Log::new()).collect(),
            tiers: (0..tiers).map(|_| Log::new()).collect(),
            slots,
            mood: Mood::default(),
            epochs: 0,
        }
    }

    /// The id of the commands topic.
    pub fn commands_id(&self) -> Option<String> {
        self.has_ids.then(|| format!("commands-{}", self.commands_life))
    }

    /// The commands topic is deleted and made again. Nobody owns its partitions, until the
    /// coordinator has noticed.
    pub fn make_commands_anew(&mut self) {
        self.commands_life += 1;
        for partition in 0..PARTITIONS {
            self.commands[index(partition)] = Log::new();
            self.slots.insert(Topic::Commands(partition), Slot::default());
        }
    }

    pub fn next_epoch(&mut self) -> u64 {
        self.epochs += 1;
        self.epochs
    }

    /// The offsets of a topic's records from one on.
    pub fn offsets_from(&self, topic: Topic, offset: i64) -> Vec<i64> {
        fn of<T>(log: &Log<T>, offset: i64) -> Vec<i64> {
            log.from(offset).iter().map(|entry| entry.offset).collect()
        }
        match topic {
            Topic::Commands(p) => of(&self.commands[index(p)], offset),
            Topic::Events(p) => of(&self.events[index(p)], offset),
            Topic::Tier(tier) => of(&self.tiers[tier], offset),
        }
    }

    /// What the cleaner does: of what is older than the lag, only the last record of a key stays,
    /// and no tombstone that is older still.
    pub fn compact(&mut self, partition: i32, now: u64) -> usize {
        let [lag, retention] = [COMPACTION_LAG, TOMBSTONE_RETENTION]
            .map(|duration| u64::try_from(duration.as_millis()).unwrap());
        let log = &mut self.state[index(partition)];
        let before = log.entries.len();
        let old = log.entries.partition_point(|entry| entry.at + lag <= now);
        let mut last = BTreeMap::new();
        for entry in &log.entries[..old] {
            last.insert(entry.value.key.clone(), entry.offset);
        }
        log.entries.retain(|entry| {
            let is_old = entry.at + lag <= now;
            let is_last = last.get(&entry.value.key) == Some(&entry.offset);
            let is_expired = entry.at + lag + retention <= now;
            !is_old || (is_last && !(entry.value.value.is_none() && is_expired))
        });
        before - log.entries.len()
    }
}

pub fn index(partition: i32) -> usize {
    usize::try_from(partition).unwrap()
}
