//! The deliveries of suspended connectors that wait in the topic of held deliveries: what is known
//! of one partition of it. One entry for each connector, so that the memory does not grow with the
//! number of deliveries.

use std::{collections::BTreeMap, time::Duration};

use crate::{clock::Timestamp, destination::ConnectorType, id::ConnectorKey};

/// How long the deliveries of a suspended connector wait for its owner, if the settings say nothing
/// else.
pub const HOLD: Duration = Duration::from_secs(7 * 24 * 3600);

/// What stands for the retry tier where a delivery is held.
pub const HELD: &str = "held";

/// The held deliveries of one connector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waiting {
    /// The connector's type.
    pub kind: ConnectorType,
    /// No held delivery lies before this offset.
    pub first: i64,
    /// The offset of the last one.
    pub last: i64,
    /// How many there are.
    pub count: u64,
    /// None is held for longer than since this moment.
    pub since: Timestamp,
}

/// What is held in one partition.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Held {
    waiting: BTreeMap<ConnectorKey, Waiting>,
}

impl Held {
    /// A delivery is held at this offset, since this moment.
    pub fn hold(&mut self, key: ConnectorKey, kind: ConnectorType, offset: i64, at: Timestamp) {
        let new = Waiting { kind, first: offset, last: offset, count: 0, since: at };
        let waiting = self.waiting.entry(key).or_insert(new);
        waiting.last = offset;
        waiting.count += 1;
    }

    /// So many deliveries of the connector, the last one at the offset `to`, are held no longer.
    /// What is said a second time changes nothing.
    pub fn release(&mut self, key: &ConnectorKey, to: i64, count: u64) {
        let Some(waiting) = self.waiting.get_mut(key).filter(|waiting| to >= waiting.first) else {
            return;
        };
        waiting.first = to + 1;
        waiting.count = waiting.count.saturating_sub(count);
        if to >= waiting.last {
            self.waiting.remove(key);
        }
    }

    /// Everything up to the offset `to` was looked for, and so many of the connector's deliveries
    /// are not in the topic any more.
    pub fn missing(&mut self, key: &ConnectorKey, to: i64, count: u64) {
        let Some(waiting) = self.waiting.get_mut(key) else { return };
        waiting.first = waiting.first.max(to + 1);
        waiting.count = waiting.count.saturating_sub(count);
        if to >= waiting.last {
            self.waiting.remove(key);
        }
    }

    /// The connector's oldest held delivery is this one.
    pub fn begins(&mut self, key: &ConnectorKey, offset: i64, at: Timestamp) {
        if let Some(waiting) = self.waiting.get_mut(key) {
            waiting.first = waiting.first.max(offset);
            waiting.since = waiting.since.max(at);
        }
    }

    /// The connectors whose deliveries are to be released: those that are suspended no longer, and
    /// those of which some were held for `hold`.
    pub fn due(
        &self,
        now: Timestamp,
        hold: Duration,
        is_suspended: impl Fn(&ConnectorKey) -> bool,
    ) -> BTreeMap<ConnectorKey, Due> {
        let due = |(key, waiting): (&ConnectorKey, &Waiting)| {
            let why = if is_suspended(key) {
                (now.since(waiting.since) >= hold).then_some(Due::Expired)?
            } else {
                Due::Lifted
            };
            Some((key.clone(), why))
        };
        self.waiting.iter().filter_map(due).collect()
    }

    /// What waits of a connector.
    #[must_use]
    pub fn get(&self, key: &ConnectorKey) -> Option<Waiting> {
        self.waiting.get(key).copied()
    }

    /// What waits of each connector.
    pub fn iter(&self) -> impl Iterator<Item = &Waiting> {
        self.waiting.values()
    }

    /// Nothing is held before this offset; nothing at all if there is none.
    #[must_use]
    pub fn lowest(&self) -> Option<i64> {
        self.waiting.values().map(|waiting| waiting.first).min()
    }
}

/// Why deliveries are held no longer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Due {
    /// Their connector is suspended no longer, or does not want them any more.
    Lifted,
    /// The oldest ones were held for as long as a delivery may be.
    Expired,
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    fn key(id: usize) -> ConnectorKey {
        ConnectorKey {
            project: "proj_1".parse().unwrap(),
            connector: format!("conn_{id}").parse().unwrap(),
        }
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn what_is_due_is_lifted_or_expired() {
        let mut held = Held::default();
        for (offset, id) in [(5, 1), (6, 2), (7, 1), (8, 3)] {
            held.hold(key(id), ConnectorType::Slack, offset, at(offset * 1000));
        }
        let hold = Duration::from_secs(3);
        let due = held.due(at(8_500), hold, |one| *one != key(3));
        assert_eq!(due, [(key(1), Due::Expired), (key(3), Due::Lifted)].into());
        assert!(held.due(at(7_999), hold, |_| true).is_empty());
        assert_eq!(held.lowest(), Some(5));
        held.release(&key(1), 5, 1);
        held.begins(&key(1), 7, at(7_000));
        assert_eq!(held.get(&key(1)).unwrap().count, 1);
        assert!(held.due(at(8_500), hold, |_| true).is_empty());
        assert_eq!(held.lowest(), Some(6));
    }

    #[test]
    fn a_release_that_was_noted_before_takes_nothing_from_what_came_later() {
        let mut held = Held::default();
        held.hold(key(1), ConnectorType::Slack, 1, at(1));
        held.release(&key(1), 1, 1);
        held.hold(key(1), ConnectorType::Slack, 9, at(9));
        held.release(&key(1), 1, 1);
        assert_eq!(held.get(&key(1)).map(|waiting| waiting.count), Some(1));
        assert_eq!(held.lowest(), Some(9));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Against a list of every held delivery.
        #[test]
        fn counts_are_those_of_a_list(steps in prop::collection::vec((0_usize..4, any::<bool>(), 1_usize..4), 1..80)) {
            let mut held = Held::default();
            let mut list: BTreeMap<ConnectorKey, VecDeque<i64>> = BTreeMap::new();
            for (offset, (id, releases, many)) in steps.into_iter().enumerate() {
                let offset = i64::try_from(offset).unwrap();
                let key = key(id);
                let own = list.entry(key.clone()).or_default();
                if releases {
                    let gone: Vec<i64> = own.drain(..many.min(own.len())).collect();
                    if let Some(last) = gone.last() {
                        held.release(&key, *last, gone.len() as u64);
                    }
                } else {
                    own.push_back(offset);
                    held.hold(key, ConnectorType::N8n, offset, at(offset));
                }
                for (key, own) in &list {
                    let waiting = held.get(key);
                    prop_assert_eq!(waiting.map_or(0, |one| one.count), own.len() as u64);
                    if let (Some(waiting), Some(first)) = (waiting, own.front()) {
                        prop_assert!(waiting.first <= *first);
                        prop_assert_eq!(Some(&waiting.last), own.back());
                    }
                }
            }
        }
    }
}
