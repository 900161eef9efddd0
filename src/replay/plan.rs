//! Which deliveries a replay makes of an event, and the count of them: the plan that is shown
//! before, and the sum that is shown after.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use serde::Serialize;

use super::{Head, History, Selection, Shown};
use crate::{
    clock::Timestamp,
    connector::{Change, Connector},
    destination::ConnectorType,
    event::{Event, EventType, EventTypes},
    filter::{Facts, Lazy},
    id::{ConnectorKey, DeliveryId, DeliveryNamespace, EventId, ProjectId},
};

/// Events that a plan names for each connector.
pub const MAX_SAMPLES: usize = 3;

/// A connector, as far as a replay cares.
#[derive(Clone, Debug)]
pub struct Known {
    /// Its full name.
    pub key: ConnectorKey,
    /// Its type.
    pub kind: ConnectorType,
    /// Why its deliveries are held, if they are.
    pub suspended: Option<String>,
    /// When it was created.
    pub created_at: Timestamp,
    namespace: DeliveryNamespace,
    event_types: Option<EventTypes>,
    filter: Option<Arc<Lazy>>,
    is_active: bool,
    row: usize,
}

impl Known {
    /// The id of the delivery of an event to it.
    #[must_use]
    pub fn delivery(&self, event: &EventId) -> DeliveryId {
        self.namespace.delivery(event)
    }

    /// Whether it exists and wants events of this type.
    #[must_use]
    pub fn wants(&self, kind: EventType) -> bool {
        self.is_active && self.event_types.as_ref().is_some_and(|types| types.contains(kind))
    }

    /// Whether an event passes its filter, or the filter cannot say.
    #[must_use]
    pub fn passes(&self, facts: &Facts<'_>) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.lets_through(facts))
    }
}

/// The connectors of all projects, folded from the state topic.
#[derive(Debug, Default)]
pub struct Connectors {
    /// The offset of the command that caused the newest record, and the connector unless it is gone.
    states: HashMap<ConnectorKey, (i64, Option<Connector>)>,
    filters: HashMap<ConnectorKey, Arc<Lazy>>,
    projects: BTreeSet<ProjectId>,
}

impl Connectors {
    /// Takes a change in, unless a later command has changed the same connector already.
    pub fn apply(&mut self, change: Change, command_offset: i64) {
        let (key, connector) = match change {
            Change::ConnectorSet(connector) => (connector.key.clone(), Some(connector)),
            Change::ConnectorGone(key) => (key, None),
            Change::ProjectSet(project) => {
                self.projects.insert(project.id.clone());
                return;
            }
            Change::ProjectGone(_) => return,
        };
        self.projects.insert(key.project.clone());
        let known = self.states.get(&key);
        if known.is_none_or(|(offset, _)| *offset <= command_offset) {
            match connector.as_ref().and_then(|connector| connector.filter.as_deref()) {
                Some(text) => self.filters.insert(key.clone(), Arc::new(Lazy::of(text))),
                None => self.filters.remove(&key),
            };
            self.states.insert(key, (command_offset, connector));
        }
    }

    /// A connector.
    #[must_use]
    pub fn get(&self, key: &ConnectorKey) -> Option<&Connector> {
        self.states.get(key)?.1.as_ref()
    }

    /// Whether an event passes a connector's filter, if it has one.
    #[must_use]
    pub fn lets_through(&self, key: &ConnectorKey, facts: &Facts<'_>) -> bool {
        self.filters.get(key).is_none_or(|filter| filter.lets_through(facts))
    }

    /// Whether there is such a project.
    #[must_use]
    pub fn has_project(&self, project: &ProjectId) -> bool {
        self.projects.contains(project)
    }

    /// Every project that has, or had, a connector or a tier.
    pub fn projects(&self) -> impl Iterator<Item = &str> {
        self.projects.iter().map(ProjectId::as_str)
    }

    /// Every connector that was deleted, as far as the state topic tells.
    pub fn deleted(&self) -> impl Iterator<Item = &ConnectorKey> {
        self.states.iter().filter(|(_, (_, state))| state.is_none()).map(|(key, _)| key)
    }

    /// Every connector that is not deleted.
    pub fn all(&self) -> impl Iterator<Item = &Connector> {
        self.states.values().filter_map(|(_, connector)| connector.as_ref())
    }

    /// The choice that a selection makes among them, with what is known of earlier deliveries.
    #[must_use]
    pub fn choose(&self, selection: &Selection, history: Option<&History>) -> Choice {
        let mut chosen: Vec<Known> = self
            .states
            .values()
            .filter_map(|(_, connector)| connector.as_ref())
            .filter(|connector| selection.has_connector(&connector.key, connector.kind))
            .map(|connector| Known {
                namespace: DeliveryNamespace::of(&connector.key),
                key: connector.key.clone(),
                kind: connector.kind,
                suspended: connector.suspended_reason.clone(),
                created_at: connector.created_at,
                event_types: Some(connector.event_types.clone()),
                filter: self.filters.get(&connector.key).cloned(),
                is_active: connector.is_active,
                row: 0,
            })
            .collect();
        let gone = history
            .into_iter()
            .flat_map(History::connectors)
            .filter(|(key, kind)| self.get(key).is_none() && selection.has_connector(key, *kind));
        chosen.extend(gone.map(|(key, kind)| Known {
            namespace: DeliveryNamespace::of(&key),
            key,
            kind,
            suspended: None,
            created_at: Timestamp::default(),
            event_types: None,
            filter: None,
            is_active: false,
            row: 0,
        }));
        chosen.sort_by(|a, b| a.key.cmp(&b.key));
        let mut by_project: HashMap<Box<str>, Vec<Known>> = HashMap::new();
        let mut rows = Vec::new();
        for (row, known) in chosen.into_iter().enumerate() {
            rows.push(Row { leaves: Leaves::of(selection), ..Row::of(&known) });
            let project = known.key.project.as_str().into();
            by_project.entry(project).or_default().push(Known { row, ..known });
        }
        Choice { selection: selection.clone(), by_project, rows }
    }
}

/// What a selection means for the connectors of now.
#[derive(Debug)]
pub struct Choice {
    selection: Selection,
    by_project: HashMap<Box<str>, Vec<Known>>,
    rows: Vec<Row>,
}

impl Choice {
    /// The connectors that events can be sent to.
    pub fn connectors(&self) -> impl Iterator<Item = &Known> {
        self.by_project.values().flatten().filter(|known| known.is_active)
    }

    /// A plan that has counted nothing yet.
    #[must_use]
    pub fn plan(&self) -> Plan {
        Plan { rows: self.rows.clone(), ..Plan::default() }
    }

    /// What it was made of.
    #[must_use]
    pub fn selection(&self) -> &Selection {
        &self.selection
    }

    /// Whether what has arrived before is left out.
    #[must_use]
    pub fn leaves_out(&self) -> bool {
        self.selection.only_missing
    }

    /// Whether an event is chosen, by its project and type.
    #[must_use]
    pub fn concerns(&self, head: &Head<'_>) -> bool {
        self.selection.has_event_type(head.kind) && self.selection.has_project(&head.project)
    }

    /// The connectors that a chosen event is sent to, counted into the plan. `at` is when Kafka took
    /// it on; `place` is its record's partition and offset.
    pub fn take<'a>(
        &'a self,
        event: &Event,
        at: Timestamp,
        place: (i32, i64),
        history: Option<&History>,
        plan: &mut Plan,
    ) -> Vec<&'a Known> {
        plan.events += 1;
        let Some(connectors) = self.by_project.get(event.project.as_str()) else {
            return Vec::new();
        };
        let (mut sent, facts) = (Vec::new(), Facts::of(&event.json));
        for known in connectors {
            let row = &mut plan.rows[known.row];
            let shown = || history.and_then(|history| history.of(known.delivery(&event.id)));
            let Some(types) = &known.event_types else {
                row.deleted += u64::from(shown().is_some());
                continue;
            };
            if !types.contains(event.kind) {
                row.unsubscribed += u64::from(shown().is_some());
            } else if !known.is_active {
                row.disabled += 1;
            } else if !known.passes(&facts) {
                row.filtered += 1;
            } else {
                let state = history.map(|history| match shown() {
                    Some(Shown::Arrived) => State::Arrived,
                    Some(Shown::Waiting) => State::Waiting,
                    Some(Shown::Ended) => State::Missing,
                    None if history.is_unread(place.0, place.1) => State::Waiting,
                    None if history.reaches(at, known.created_at) => State::Missing,
                    None => State::Unknown,
                });
                if row.leaves_out(state) {
                    continue;
                }
                row.send += 1;
                row.new += u64::from(known.created_at > at);
                row.by_event_type[event.kind.index()] += 1;
                if row.samples.len() < MAX_SAMPLES {
                    row.samples.push(event.id.to_string());
                }
                plan.oldest = Some(plan.oldest.map_or(at, |oldest| oldest.min(at)));
                sent.push(known);
            }
        }
        sent
    }
}

/// What the attempts tell of a pair of an event and a connector that wants it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Arrived,
    Waiting,
    Missing,
    Unknown,
}

/// What a replay does, counted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// Records that were read.
    pub scanned: u64,
    /// Of them, records that are no event which this version can read.
    pub unreadable: u64,
    /// Of them, events of the chosen projects and types.
    pub events: u64,
    /// When Kafka took on the oldest event that is sent.
    pub oldest: Option<Timestamp>,
    rows: Vec<Row>,
}

/// What a replay leaves out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Leaves {
    /// What has arrived before.
    pub arrived: bool,
    /// What waits.
    pub waiting: bool,
    /// What the attempts cannot tell of.
    pub unknown: bool,
}

impl Leaves {
    fn of(selection: &Selection) -> Self {
        Self {
            arrived: selection.only_missing,
            waiting: selection.only_missing && !selection.include_waiting,
            unknown: selection.only_missing && !selection.include_unknown,
        }
    }
}

/// What a replay does for one connector.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// The project.
    pub project: ProjectId,
    /// The connector.
    pub connector: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: ConnectorType,
    /// Whether its deliveries are held at present.
    pub suspended: bool,
    /// Deliveries that are sent.
    pub send: u64,
    /// Of them, those of events that are older than the connector.
    pub new: u64,
    /// Deliveries that have arrived before; left out where only missing ones are wanted.
    pub delivered: u64,
    /// Deliveries that wait in a retry tier, or whose event was not read yet; left out where only
    /// missing ones are wanted, unless they are asked for.
    pub waiting: u64,
    /// Deliveries of which the attempts cannot show whether they arrived; left out where only
    /// missing ones are wanted, unless they are asked for.
    pub unknown: u64,
    /// What is left out.
    #[serde(skip)]
    pub leaves: Leaves,
    /// Not sent: the connector is switched off.
    pub disabled: u64,
    /// Not sent: the event does not pass the connector's filter.
    pub filtered: u64,
    /// Not sent: tried once, but the connector does not subscribe to the type any more.
    pub unsubscribed: u64,
    /// Not sent: tried once, but the connector is deleted.
    pub deleted: u64,
    /// Events that are sent, for example.
    pub samples: Vec<String>,
    #[serde(serialize_with = "named")]
    by_event_type: [u64; EventType::ALL.len()],
}

impl Row {
    /// Deliveries that are not wanted any more, for any reason.
    #[must_use]
    pub fn unwanted(&self) -> u64 {
        self.disabled + self.filtered + self.unsubscribed + self.deleted
    }
}

fn named<S: serde::Serializer>(
    counts: &[u64; EventType::ALL.len()],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let counts = EventType::ALL.iter().zip(counts).filter(|(_, count)| **count > 0);
    serializer.collect_map(counts)
}

impl Row {
    fn of(known: &Known) -> Self {
        Self {
            project: known.key.project.clone(),
            connector: known.key.connector.to_string(),
            kind: known.kind,
            suspended: known.suspended.is_some(),
            send: 0,
            new: 0,
            delivered: 0,
            waiting: 0,
            unknown: 0,
            leaves: Leaves::default(),
            disabled: 0,
            filtered: 0,
            unsubscribed: 0,
            deleted: 0,
            samples: Vec::new(),
            by_event_type: [0; EventType::ALL.len()],
        }
    }

    #[cfg(test)]
    pub(super) fn for_tests(kind: ConnectorType) -> Self {
        let mut connectors = Connectors::default();
        let json = include_bytes!("../../tests/fixtures/records/state-connector-1.json");
        if let Ok(connector) = Connector::from_json(json) {
            connectors.apply(Change::ConnectorSet(Connector { kind, ..connector }), 0);
        }
        let choice = connectors.choose(&Selection::default(), None);
        Self { suspended: false, ..choice.rows[0].clone() }
    }

    fn is_empty(&self) -> bool {
        let not_sent = self.unwanted();
        self.send + self.delivered + self.waiting + self.unknown + not_sent == 0
    }

    /// Counts a pair under what the attempts tell of it; whether it is left out.
    fn leaves_out(&mut self, state: Option<State>) -> bool {
        let (count, is_left_out) = match state {
            Some(State::Arrived) => (&mut self.delivered, self.leaves.arrived),
            Some(State::Waiting) => (&mut self.waiting, self.leaves.waiting),
            Some(State::Unknown) => (&mut self.unknown, self.leaves.unknown),
            Some(State::Missing) | None => return false,
        };
        *count += 1;
        is_left_out
    }
}

impl Plan {
    #[cfg(test)]
    pub(super) fn of_rows(rows: Vec<Row>) -> Self {
        Self { rows, ..Self::default() }
    }

    /// The connectors for which there is something to say, in the order of their names.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| !row.is_empty())
    }

    /// Deliveries that are sent.
    #[must_use]
    pub fn send(&self) -> u64 {
        self.rows.iter().map(|row| row.send).sum()
    }

    /// Deliveries that arrived before.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.rows.iter().map(|row| row.delivered).sum()
    }

    /// Deliveries that wait in a retry tier, or whose event was not read yet.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.rows.iter().map(|row| row.waiting).sum()
    }

    /// Deliveries of which the attempts cannot show whether they arrived.
    #[must_use]
    pub fn unknown(&self) -> u64 {
        self.rows.iter().map(|row| row.unknown).sum()
    }

    /// Deliveries that nobody wants any more.
    #[must_use]
    pub fn unwanted(&self) -> u64 {
        self.rows.iter().map(Row::unwanted).sum()
    }

    /// The plan as programs read it.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "scanned": self.scanned,
            "unreadable": self.unreadable,
            "events": self.events,
            "send": self.send(),
            "delivered": self.delivered(),
            "waiting": self.waiting(),
            "unknown": self.unknown(),
            "unwanted": self.unwanted(),
            "connectors": self.rows().collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{delivery::Outcome, replay::tests::attempt};

    const STATE: &str = include_str!("../../tests/fixtures/records/state-connector-1.json");

    fn connector(id: &str, types: &[&str], change: impl FnOnce(&mut Connector)) -> Change {
        let mut connector = Connector::from_json(STATE.as_bytes()).unwrap();
        connector.key.connector = id.parse().unwrap();
        connector.event_types = EventTypes::parse(types).unwrap();
        connector.created_at = Timestamp::from_millis(1000);
        change(&mut connector);
        Change::ConnectorSet(connector)
    }

    fn event(id: &str) -> Event {
        let text = crate::event::sample(EventType::PaymentSettled);
        let event = Event::from_json(bytes::Bytes::from_static(text.as_bytes())).unwrap();
        Event { id: id.parse().unwrap(), project: "proj_1".parse().unwrap(), ..event }
    }

    #[test]
    fn each_pair_is_counted_under_what_becomes_of_it() {
        let mut connectors = Connectors::default();
        connectors.apply(connector("old", &["*"], |_| {}), 0);
        connectors.apply(
            connector("young", &["*"], |c| {
                c.created_at = Timestamp::from_millis(9000);
            }),
            0,
        );
        connectors.apply(connector("off", &["*"], |c| c.is_active = false), 0);
        connectors.apply(connector("other", &["payment.failed"], |_| {}), 0);
        let mut history = History::default();
        history.see(Outcome::Delivered, Timestamp::from_millis(2000));
        for (connector, event, outcome) in [
            ("old", "evt_1", Outcome::Delivered),
            ("old", "evt_2", Outcome::Dead),
            ("other", "evt_1", Outcome::Delivered),
            ("gone", "evt_1", Outcome::Retry),
        ] {
            history.add(&attempt(connector, event, outcome)).unwrap();
        }
        for (only_missing, sent) in [(false, 4), (true, 3)] {
            let selection = Selection { only_missing, ..Selection::default() };
            let choice = connectors.choose(&selection, Some(&history));
            let mut plan = choice.plan();
            let mut pairs = 0;
            for id in ["evt_1", "evt_2"] {
                let at = Timestamp::from_millis(5000);
                let event = event(id);
                pairs += choice.take(&event, at, (0, 0), Some(&history), &mut plan).len();
            }
            assert_eq!((plan.events, plan.send(), pairs), (2, sent, 4 - usize::from(only_missing)));
            let row = |id: &str| plan.rows().find(|row| row.connector == id).unwrap().clone();
            assert_eq!((row("old").delivered, row("old").new), (1, 0));
            assert_eq!((row("young").send, row("young").new), (2, 2));
            assert_eq!(row("off").disabled, 2);
            assert_eq!(row("other").unsubscribed, 1);
            assert_eq!(row("gone").deleted, 1);
        }
    }

    #[test]
    fn a_change_of_an_older_version_changes_nothing_and_a_tombstone_removes() {
        let mut connectors = Connectors::default();
        connectors.apply(connector("one", &["*"], |_| {}), 5);
        connectors.apply(connector("one", &["payment.failed"], |_| {}), 4);
        let choice = connectors.choose(&Selection::default(), None);
        assert!(choice.connectors().all(|known| known.wants(EventType::EndpointCreated)));
        let key = choice.connectors().next().unwrap().key.clone();
        connectors.apply(Change::ConnectorGone(key.clone()), 4);
        assert_eq!(connectors.choose(&Selection::default(), None).connectors().count(), 1);
        connectors.apply(Change::ConnectorGone(key), 6);
        assert_eq!(connectors.choose(&Selection::default(), None).connectors().count(), 0);
    }
}
