//! A stream of events whose deliveries are known: what arrived, what is missing, what repeated.

#![allow(dead_code, reason = "every test binary uses another part of this")]

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use dunmore_connectors::delivery::DeliveryRecord;
use serde_json::Value;

use super::{
    events::{TYPES, create, event, set_tier},
    kafka::Read,
    serve::{Serve, Stage},
    sink::{Hit, Sink},
    wait_until,
};

/// The retry tiers of the stage.
pub(crate) const TIERS: [&str; 2] = ["1s", "5s"];
/// The most connectors that want one event.
pub(crate) const FAN_OUT: usize = 2;
/// Deliveries that are produced ahead of what has arrived: a stream, not a pile. Lanes put off what they
/// cannot hold, and a pile in front of a process that has just started is mostly that.
const AHEAD: usize = 1000;
/// Events that are written at once.
const CHUNK: usize = 250;

/// A project's event and where it is delivered.
pub(crate) type Pair = (String, String);

/// How large the stream is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) events: usize,
    pub(crate) projects: usize,
    /// How long anything may take.
    pub(crate) patience: Duration,
}

/// Topics, a sink, projects of two connectors each, and events for them.
pub(crate) struct Load {
    pub(crate) stage: Stage,
    pub(crate) sink: Sink,
    /// Each event with how many deliveries there are up to it.
    pub(crate) events: Vec<(Value, usize)>,
    pub(crate) expected: BTreeSet<Pair>,
    size: Size,
    produced: Cell<usize>,
}

impl Load {
    /// Two connectors in each project, on topics of their own with more lines of settings.
    pub(crate) fn new(bootstrap: &str, prefix: &str, size: Size, more: &str) -> Self {
        let sink = Sink::start();
        let stage = Stage::new(bootstrap, prefix, &TIERS.join(","), more);
        let mut commands = Vec::new();
        for p in 0..size.projects {
            let project = format!("proj_{p}");
            commands.push(set_tier(&format!("cmd_{p}"), &project, "pro"));
            for (name, types) in [("all", &["*"][..]), ("some", &TYPES[..2])] {
                let id = format!("cmd_{p}_{name}");
                let url = sink.url(&format!("/webhook/{project}/{name}"));
                commands.push(create(&id, &project, name, "n8n", &url, types));
            }
        }
        let mut expected = BTreeSet::new();
        let events = (0..size.events).map(|number| {
            let (p, kind) = (number % size.projects, TYPES[number / size.projects % TYPES.len()]);
            let (id, project) = (format!("evt_{number}"), format!("proj_{p}"));
            expected.insert((id.clone(), format!("/webhook/{project}/all")));
            if TYPES[..2].contains(&kind) {
                expected.insert((id.clone(), format!("/webhook/{project}/some")));
            }
            (event(&id, kind, &project), expected.len())
        });
        let events = events.collect();
        stage.command_all(&commands);
        Self { stage, sink, events, expected, size, produced: Cell::new(0) }
    }

    /// Starts an instance that knows all connectors.
    pub(crate) fn serve(&self, name: &str) -> Serve {
        let serve = self.stage.serve(name);
        wait_until("the view has all connectors", self.size.patience, || {
            serve.count("dunmore_view_connectors", &[]) == 2 * self.size.projects
        });
        serve
    }

    /// Waits while events are produced.
    pub(crate) fn wait_until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        wait_until(what, self.size.patience, || {
            let produced = self.produced.get();
            let ahead = produced.checked_sub(1).map_or(0, |last| self.events[last].1);
            if produced < self.events.len() && self.sink.delivered_count() + AHEAD > ahead {
                let next = (produced + CHUNK).min(self.events.len());
                let events = self.events[produced..next].iter().map(|(event, _)| event.clone());
                self.stage.events(&events.collect::<Vec<_>>());
                self.produced.set(next);
            }
            holds()
        });
    }

    /// Waits until all is delivered and committed, in the retry tiers too.
    pub(crate) fn wait_for_the_end(&self) {
        self.wait_until("every event is delivered", || {
            self.sink.delivered_count() >= self.expected.len()
        });
        self.stage.wait_committed(self.size.patience);
        for tier in TIERS {
            wait_until("the retry tiers are committed to the end", self.size.patience, || {
                self.stage.is_committed(&format!("deliveries.retry.{tier}"))
            });
        }
        let (delivered, expected) = (self.sink.delivered(), &self.expected);
        assert_eq!(expected.difference(&delivered).count(), 0, "missing");
        assert_eq!(delivered.difference(expected).count(), 0, "unexpected");
        assert_eq!(self.stage.kafka.read(&self.stage.topic("deliveries.dead")).len(), 0);
    }

    /// Every delivery that arrived more than once, with its arrivals.
    pub(crate) fn repeated(&self) -> BTreeMap<Pair, Vec<Hit>> {
        let mut arrivals: BTreeMap<Pair, Vec<Hit>> = BTreeMap::new();
        for hit in self.sink.hits() {
            arrivals.entry(hit.pair()).or_default().push(hit);
        }
        for (pair, hits) in &arrivals {
            let same = hits.iter().all(|hit| hit.delivery == hits[0].delivery);
            assert!(same, "{pair:?} has more than one delivery id");
        }
        arrivals.retain(|_, hits| hits.len() > 1);
        arrivals
    }

    /// When each delivery was put into a retry tier, in milliseconds since 1970.
    pub(crate) fn put_off(&self) -> Vec<(Pair, i64)> {
        let topics = TIERS.map(|tier| self.stage.topic(&format!("deliveries.retry.{tier}")));
        let records = topics.iter().flat_map(|topic| self.stage.kafka.read(topic));
        let read = |record: Read| {
            let delivery = DeliveryRecord::from_json(record.value.as_deref().unwrap()).unwrap();
            let (project, connector) = (delivery.connector.project, delivery.connector.connector);
            let path = format!("/webhook/{project}/{connector}");
            ((delivery.event.id.to_string(), path), record.timestamp)
        };
        records.map(read).collect()
    }
}

/// How many deliveries an instance has delivered.
pub(crate) fn delivered(serve: &Serve) -> usize {
    serve.count("dunmore_deliveries_total", &[("outcome", "delivered")])
}

/// Records that a crash of the instance would repeat now, as it says itself.
pub(crate) fn repeat_bound(serve: &Serve) -> usize {
    serve.count("dunmore_repeat_bound_records", &[])
}
