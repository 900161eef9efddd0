//! Which dead letters a redrive sends: one letter of each delivery, and only those that can arrive
//! and have not.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::{Connectors, DeadLetter, MAX_MARKS, Marks, Position, TooManyMarks};
use crate::{
    clock::Timestamp,
    delivery::DeliveryRecord,
    destination::ConnectorType,
    filter::Facts,
    id::{ConnectorKey, DeliveryId, ProjectId},
};

/// Which letters of a filter are meant by what became of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Which {
    /// Those that were never redriven.
    #[default]
    Waiting,
    /// Those whose delivery failed again after a redrive, and were not redriven since.
    FailedAgain,
    /// All: what was redriven before, and what has arrived since, too.
    Again,
}

/// The newest dead letter of each delivery.
#[derive(Debug, Default)]
pub struct Newest {
    newest: HashMap<DeliveryId, (Timestamp, Position)>,
    /// The others, of deliveries that have several.
    older: HashMap<DeliveryId, Vec<Position>>,
}

impl Newest {
    /// Takes a letter in.
    pub fn see(&mut self, letter: &DeadLetter) -> Result<(), TooManyMarks> {
        let Some(delivery) = letter.delivery() else { return Ok(()) };
        let (id, own) = (delivery.delivery_id, (letter.at, letter.position));
        let known = self.newest.entry(id).or_insert(own);
        if *known != own {
            let older = if *known < own { std::mem::replace(known, own) } else { own };
            self.older.entry(id).or_default().push(older.1);
        }
        if self.newest.len() > MAX_MARKS { Err(TooManyMarks) } else { Ok(()) }
    }

    /// Whether a letter is its delivery's newest.
    #[must_use]
    pub fn is(&self, letter: &DeadLetter, delivery: DeliveryId) -> bool {
        self.newest.get(&delivery).is_none_or(|(_, position)| *position == letter.position)
    }

    /// A delivery's older letters.
    pub fn older(&self, delivery: DeliveryId) -> impl Iterator<Item = Position> + '_ {
        self.older.get(&delivery).into_iter().flatten().copied()
    }
}

/// What a redrive does for one connector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RedriveRow {
    /// The project.
    pub project: ProjectId,
    /// The connector.
    pub connector: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: ConnectorType,
    /// Letters that are sent.
    pub send: u64,
    /// Letters whose delivery has arrived since; sent only where that is asked for.
    pub arrived: u64,
    /// Not sent: the connector is off, or does not subscribe to the event's type any more.
    pub unwanted: u64,
    /// Not sent: the connector is deleted.
    pub deleted: u64,
    /// Whether the connector is suspended: what is sent to it waits.
    pub suspended: bool,
}

/// What is to become of a letter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It is sent.
    Sent,
    /// It is no delivery.
    NoDelivery,
    /// It was redriven before, or failed again after that, and is not asked for.
    LeftOut,
    /// There is a newer letter of the same delivery.
    Superseded,
    /// Its delivery has arrived since.
    Arrived,
    /// The connector is off, or does not want the event any more.
    Unwanted,
    /// The connector is deleted.
    Deleted,
}

/// What decides which letters are sent.
#[derive(Debug, Default)]
pub struct Sifter {
    /// Which letters are meant.
    pub which: Which,
    /// What was redriven.
    pub marks: Marks,
    /// The newest letter of each delivery.
    pub newest: Newest,
    /// Deliveries that have arrived since.
    pub arrived: HashSet<DeliveryId>,
    /// The connectors as they are now.
    pub connectors: Connectors,
}

impl Sifter {
    /// What becomes of a letter.
    #[must_use]
    pub fn fate(&self, letter: &DeadLetter) -> Fate {
        let Some(delivery) = letter.delivery() else { return Fate::NoDelivery };
        if !self.marks.permits(letter, self.which) {
            return Fate::LeftOut;
        }
        if !self.newest.is(letter, delivery.delivery_id) {
            return Fate::Superseded;
        }
        let Some(connector) = self.connectors.get(&delivery.connector) else {
            return Fate::Deleted;
        };
        if !connector.is_active
            || !connector.event_types.contains(delivery.event.kind)
            || !self.connectors.lets_through(&connector.key, &Facts::of(&delivery.event.json))
        {
            return Fate::Unwanted;
        }
        if self.which != Which::Again && self.arrived.contains(&delivery.delivery_id) {
            return Fate::Arrived;
        }
        Fate::Sent
    }

    /// The row of a letter's connector.
    fn row(&self, delivery: &DeliveryRecord) -> RedriveRow {
        let connector = self.connectors.get(&delivery.connector);
        RedriveRow {
            project: delivery.connector.project.clone(),
            connector: delivery.connector.connector.to_string(),
            kind: connector.map_or(delivery.connector_type, |connector| connector.kind),
            send: 0,
            arrived: 0,
            unwanted: 0,
            deleted: 0,
            suspended: connector.is_some_and(|connector| connector.suspended_reason.is_some()),
        }
    }
}

/// A redrive, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RedrivePlan {
    /// Letters that the filter took.
    pub matched: u64,
    /// Letters that are sent.
    #[serde(rename = "sent")]
    pub send: u64,
    /// Left out: they were redriven before, or failed again after that.
    pub left_out: u64,
    /// Left out: there is a newer letter of the same delivery.
    pub superseded: u64,
    /// Letters whose delivery has arrived since; left out unless they are asked for.
    pub arrived: u64,
    /// Left out: the connector is off or does not want the event any more.
    pub unwanted: u64,
    /// Left out: the connector is deleted.
    pub deleted: u64,
    /// Of those that are sent, letters to suspended connectors.
    pub suspended: u64,
    /// Left out: records that could not be read, which are no deliveries.
    pub undecodable: u64,
    /// Letters that a redrive which was killed had sent, and not marked: they are marked first.
    pub unmarked: u64,
    /// By connector.
    #[serde(serialize_with = "rows")]
    pub connectors: BTreeMap<ConnectorKey, RedriveRow>,
}

fn rows<S: serde::Serializer>(
    rows: &BTreeMap<ConnectorKey, RedriveRow>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(rows.values())
}

impl RedrivePlan {
    /// Counts a letter that the filter took.
    pub fn count(&mut self, letter: &DeadLetter, sifter: &Sifter) {
        self.matched += 1;
        let fate = sifter.fate(letter);
        match fate {
            Fate::NoDelivery => self.undecodable += 1,
            Fate::LeftOut => self.left_out += 1,
            Fate::Superseded => self.superseded += 1,
            Fate::Sent | Fate::Arrived | Fate::Unwanted | Fate::Deleted => {
                self.count_of_connector(letter, fate, sifter);
            }
        }
    }

    fn count_of_connector(&mut self, letter: &DeadLetter, fate: Fate, sifter: &Sifter) {
        let Some(delivery) = letter.delivery() else { return };
        let row = self.connectors.entry(delivery.connector.clone());
        let row = row.or_insert_with(|| sifter.row(delivery));
        match fate {
            Fate::Sent => {
                self.send += 1;
                row.send += 1;
                self.suspended += u64::from(row.suspended);
            }
            Fate::Unwanted => {
                self.unwanted += 1;
                row.unwanted += 1;
            }
            Fate::Deleted => {
                self.deleted += 1;
                row.deleted += 1;
            }
            _ => {}
        }
        let arrives = matches!(fate, Fate::Sent | Fate::Arrived);
        if arrives && sifter.arrived.contains(&delivery.delivery_id) {
            self.arrived += 1;
            row.arrived += 1;
        }
    }

    /// Whether it must be said that this is meant: what is sent a second time, and what cannot arrive
    /// now.
    #[must_use]
    pub fn asks(&self, which: Which) -> bool {
        self.send > 0 && (which == Which::Again || !self.concerns(which).is_empty())
    }

    /// What a careful operator wants to know before, in sentences.
    #[must_use]
    pub fn concerns(&self, which: Which) -> Vec<String> {
        let mut concerns = Vec::new();
        for row in self.connectors.values().filter(|row| row.send > 0) {
            let name = format!("{} connector {}/{}", row.kind, row.project, row.connector);
            if row.suspended {
                concerns.push(format!(
                    "the {name} is suspended: {} deliveries wait until that is lifted, and end as dead letters again if it is not",
                    row.send
                ));
            }
            if which == Which::Again && row.arrived > 0 {
                concerns.push(format!(
                    "{} deliveries to the {name} have arrived since and would arrive twice",
                    row.arrived
                ));
            }
        }
        concerns
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        connector::{Change, Connector},
        event::EventTypes,
        replay::Letter,
    };

    const RECORD: &str = include_str!("../../tests/fixtures/records/delivery-1.json");
    const STATE: &str = include_str!("../../tests/fixtures/records/state-connector-1.json");

    fn letter(offset: i64, event: &str, job: Option<&str>) -> DeadLetter {
        let mut delivery = DeliveryRecord::from_json(RECORD.trim().as_bytes()).unwrap();
        delivery.event.id = event.parse().unwrap();
        delivery.delivery_id = DeliveryId::new(&delivery.connector, &delivery.event.id);
        delivery.job = job.map(str::to_owned);
        DeadLetter {
            position: Position { partition: 0, offset },
            at: Timestamp::from_millis(offset),
            reason: "gone".to_owned(),
            detail: String::new(),
            source_topic: String::new(),
            source_partition: -1,
            source_offset: -1,
            letter: Letter::Delivery(Box::new(delivery)),
        }
    }

    fn connectors(change: impl FnOnce(&mut Connector)) -> Connectors {
        let mut connector = Connector::from_json(STATE.as_bytes()).unwrap();
        connector.key = letter(0, "evt_1", None).delivery().unwrap().connector.clone();
        connector.event_types = EventTypes::parse(&["*"]).unwrap();
        (connector.is_active, connector.suspended_reason) = (true, None);
        change(&mut connector);
        let mut connectors = Connectors::default();
        connectors.apply(Change::ConnectorSet(connector), 0);
        connectors
    }

    fn sifter(which: Which, letters: &[DeadLetter]) -> Sifter {
        let mut newest = Newest::default();
        for letter in letters {
            newest.see(letter).unwrap();
        }
        Sifter { which, newest, connectors: connectors(|_| {}), ..Sifter::default() }
    }

    #[test]
    fn each_delivery_is_sent_once_and_only_what_is_meant() {
        use Fate::{LeftOut, Sent, Superseded};
        // Redriven and arrived; redriven and failed again; two letters of one delivery; never sent.
        let letters = [
            letter(1, "arrived", None),
            letter(2, "failed", None),
            letter(3, "failed", Some("redrive-1")),
            letter(4, "twice", None),
            letter(5, "twice", None),
            letter(6, "waiting", None),
        ];
        let fates = |which: Which| {
            let mut sifter = sifter(which, &letters);
            for offset in [1, 2] {
                sifter.marks.mark(Position { partition: 0, offset });
            }
            sifter.arrived.insert(letters[0].delivery().unwrap().delivery_id);
            letters.iter().map(|letter| sifter.fate(letter)).collect::<Vec<_>>()
        };
        assert_eq!(
            fates(Which::Waiting),
            [LeftOut, LeftOut, LeftOut, Superseded, Sent, Sent],
            "what was never redriven"
        );
        assert_eq!(
            fates(Which::FailedAgain),
            [LeftOut, LeftOut, Sent, LeftOut, LeftOut, LeftOut],
            "what failed again, and nothing that arrived"
        );
        assert_eq!(
            fates(Which::Again),
            [Sent, Superseded, Sent, Superseded, Sent, Sent],
            "each delivery once"
        );
        let newest = sifter(Which::Again, &letters).newest;
        let twice = letters[4].delivery().unwrap().delivery_id;
        assert_eq!(newest.older(twice).map(|p| p.offset).collect::<Vec<_>>(), [4]);
    }

    #[test]
    fn a_plan_says_what_is_sent_and_what_is_not_for_each_connector() {
        let letters = [letter(1, "evt_1", None), letter(2, "evt_2", None)];
        let plan = |change: fn(&mut Sifter)| {
            let mut sifter = sifter(Which::Waiting, &letters);
            change(&mut sifter);
            let mut plan = RedrivePlan::default();
            for letter in &letters {
                plan.count(letter, &sifter);
            }
            plan
        };
        let all = plan(|_| {});
        assert_eq!((all.matched, all.send, all.connectors.len()), (2, 2, 1));
        assert_eq!(all.concerns(Which::Waiting), Vec::<String>::new());
        let held = plan(|sifter| {
            sifter.connectors = connectors(|c| c.suspended_reason = Some("gone".to_owned()));
        });
        assert_eq!((held.send, held.suspended, held.concerns(Which::Waiting).len()), (2, 2, 1));
        let off = plan(|sifter| sifter.connectors = connectors(|c| c.is_active = false));
        assert_eq!((off.send, off.unwanted), (0, 2));
        let deleted = plan(|sifter| sifter.connectors = Connectors::default());
        assert_eq!((deleted.send, deleted.deleted), (0, 2));
        let arrived = plan(|sifter| {
            let id = letter(1, "evt_1", None).delivery().unwrap().delivery_id;
            sifter.arrived.insert(id);
        });
        assert_eq!((arrived.send, arrived.arrived), (1, 1));
    }
}
