//! What all instances share in the simulated world: the clock, chance, the broker, the
//! destinations and the ledger.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use dunmore_connectors::{
    clock::Timestamp,
    connector::{
        Change, Command, Context, Decision, Origin, ProjectState, Refused, StateRecord, decide,
        partition_of,
    },
    delivery::RetryPolicy,
    egress::EgressPolicy,
    id::{ConnectorKey, ProjectId},
    kafka::Partition,
    secrets::Keyring,
};

use crate::{
    breaks::Break,
    broker::{Broker, PARTITIONS, Sent, Topic, Written, index},
    chance::Chance,
    ledger::{Ledger, Place, fold, place_of},
    profile::Profile,
};

/// The moment at which every simulation begins.
const EPOCH_MS: i64 = 1_800_000_000_000;

/// From here on the reference numbers commands.
const NOT_WRITTEN_YET: i64 = 1 << 60;

/// How a destination behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Nature {
    Healthy,
    Slow,
    Flaky,
    Failing,
    /// Asks to be left alone again and again.
    Limited,
    /// Answers too late, and acts or not.
    Hanging,
    /// The webhook is gone until the connector's configuration is changed.
    Gone,
}

pub struct Shared {
    pub now: u64,
    pub chance: Chance,
    pub broker: Broker,
    pub ledger: Ledger,
    pub profile: Profile,
    pub breaks: Option<Break>,
    pub policy: RetryPolicy,
    pub egress: EgressPolicy,
    pub keyring: Arc<Keyring>,
    pub natures: BTreeMap<ConnectorKey, Nature>,
    /// From which version on a broken connector works.
    pub fixed_at: BTreeMap<ConnectorKey, i64>,
    /// The partition objects that are assigned at present.
    pub current: BTreeMap<Topic, Arc<Partition>>,
    pub counter: u64,
    reference: BTreeMap<ProjectId, ProjectState>,
    /// The numbers that the reference gave to commands.
    reference_numbers: BTreeMap<Place, i64>,
    tracing: bool,
    pub trace: Vec<String>,
}

/// A moment of the simulation as records carry it.
pub fn stamp(at: u64) -> Timestamp {
    Timestamp::from_millis(EPOCH_MS + i64::try_from(at).unwrap())
}

impl Shared {
    pub fn new(seed: u64, profile: Profile, breaks: Option<Break>, tracing: bool) -> Self {
        let policy: RetryPolicy = profile.tiers.parse().unwrap();
        // Days of going round in short tiers would be all that a run shows.
        let max_deferred_age = 2 * policy.total() + Duration::from_secs(30);
        let policy = policy.with_max_deferred_age(max_deferred_age).with_hold(max_deferred_age);
        let key = "k1:BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=".to_owned();
        Self {
            now: 0,
            chance: Chance::new(seed),
            // Some brokers have no ids of topics.
            broker: Broker::new(policy.tiers().len(), !seed.is_multiple_of(4)),
            ledger: Ledger::default(),
            profile,
            breaks,
            policy,
            egress: EgressPolicy::default(),
            keyring: Arc::new(Keyring::parse(&[key]).unwrap()),
            natures: BTreeMap::new(),
            fixed_at: BTreeMap::new(),
            current: BTreeMap::new(),
            counter: 0,
            reference: BTreeMap::new(),
            reference_numbers: BTreeMap::new(),
            tracing,
            trace: Vec::new(),
        }
    }

    pub fn is(&self, broken: Break) -> bool {
        self.breaks == Some(broken)
    }

    pub fn time(&self) -> Timestamp {
        stamp(self.now)
    }

    /// A command reaches its topic; without a partition, that of its project.
    pub fn send_command(&mut self, value: Vec<u8>, partition: Option<i32>) {
        self.append_command(value, partition, None);
    }

    /// The same, of a command that may have been forwarded.
    pub fn append_command(
        &mut self,
        value: Vec<u8>,
        partition: Option<i32>,
        origin: Option<Origin>,
    ) {
        let read = Command::read(&value);
        let own =
            read.as_ref().ok().map(|command| partition_of(command.project.as_str(), PARTITIONS));
        let partition = partition.or(own).unwrap_or(0);
        let log = &mut self.broker.commands[index(partition)];
        let offset = log.append(self.now, Sent { value, origin }, &mut self.chance);
        self.note(|| match &read {
            Ok(command) => format!("command {} at {partition}/{offset}", command.id),
            Err(_) => format!("a bad command at {partition}/{offset}"),
        });
        match read {
            Ok(command) => {
                self.ledger.asked(command.id.as_str());
                if own == Some(partition) {
                    self.decide_as_one(&command, partition, offset);
                }
            }
            Err(Refused::Rejected { id, .. }) => {
                self.ledger.asked(id.as_str());
                self.expect(id.as_str(), partition, offset, false);
            }
            Err(Refused::Unanswerable(_)) => {}
        }
    }

    pub fn note(&mut self, what: impl FnOnce() -> String) {
        if self.tracing {
            let line = format!("{:>9} ms  {}", self.now, what());
            self.trace.push(line);
        }
    }

    pub fn number(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    /// What a single registrar that never fails decides. What is written later must be the same.
    fn decide_as_one(&mut self, command: &Command, partition: i32, offset: i64) {
        if self.ledger.is_decided(command.id.as_str()) {
            return self.expect(command.id.as_str(), partition, offset, false);
        }
        // Which number it gets is known when the state is written. It is greater than all of those
        // that are known by now.
        self.counter += 1;
        let number = NOT_WRITTEN_YET + i64::try_from(self.counter).unwrap();
        let place = (self.broker.commands_id(), partition, offset);
        self.reference_numbers.insert(place, number);
        let context = Context { at: self.time(), offset: number, egress: &self.egress };
        let state = self.reference.entry(command.project.clone()).or_default();
        let mut opened = command.clone();
        let existing = command.body.connector().and_then(|id| state.connectors.get(id));
        self.keyring.open_command(&mut opened, existing.map(|found| found.kind)).unwrap();
        let accepted = match decide(state, &opened, &context) {
            Decision::Accepted(mut change) => {
                self.keyring.seal_decided(command, &mut change).unwrap();
                state.apply(&change);
                true
            }
            Decision::Rejected(_) => false,
        };
        self.expect(command.id.as_str(), partition, offset, accepted);
    }

    fn expect(&mut self, id: &str, partition: i32, offset: i64, accepted: bool) {
        self.ledger.expect(id, (self.broker.commands_id(), partition, offset), accepted);
    }

    /// Now it is known which number the command got.
    fn correct_reference(&mut self, place: &Place, record: &StateRecord) {
        let Some(number) = self.reference_numbers.remove(place) else { return };
        let Some(state) = self.reference.get_mut(record.key.project()) else { return };
        for connector in state.connectors.values_mut().filter(|c| c.version == number) {
            connector.version = record.command_offset;
        }
    }

    /// Writes a state record, and looks whether it breaks a tier's limit.
    pub fn write_state(&mut self, partition: i32, record: &StateRecord) -> i64 {
        let log = &mut self.broker.state[index(partition)];
        let offset = log.append(self.now, record.clone(), &mut self.chance);
        self.ledger.changed(partition, record);
        self.correct_reference(&place_of(partition, record), record);
        let change = record.key.read(record.value.as_deref()).unwrap();
        let (connector, tier) = match change {
            Change::ConnectorSet(connector) => (Some(connector), None),
            Change::ProjectSet(project) => (None, Some(project.tier)),
            _ => (None, None),
        };
        if let Some(connector) = &connector {
            if connector.command_id.as_str().starts_with("cmd_fix") {
                self.fixed_at.entry(connector.key.clone()).or_insert(connector.version);
            }
            let project = record.key.project();
            let newest = fold(&self.broker.history[index(partition)]);
            let known = newest.get(&record.key);
            let is_newer = known.is_none_or(|k| k.record.command_offset < record.command_offset);
            if is_newer && known.is_none_or(|known| known.connector.is_none()) {
                let of_project = newest.values().filter(|w| w.record.key.project() == project);
                let tier = of_project.clone().find_map(|written| written.tier).unwrap_or_default();
                let count = of_project.filter(|written| written.connector.is_some()).count();
                if !tier.has_room_beside(count) {
                    self.ledger.fail("the tier's limit holds", || {
                        format!("{} is one too many beside {count} on {tier}", record.key)
                    });
                }
            }
        }
        let written = Written { offset, record: record.clone(), connector, tier };
        self.broker.history[index(partition)].push(written);
        offset
    }
}
