//! What one instance says of itself on its admin port: whether it is ready, which circuits are
//! open, and how many connectors its view has suspended.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What an instance says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceFacts {
    /// Where it was asked.
    pub address: String,
    /// Whether it is ready.
    pub ready: bool,
    /// What it waits for.
    pub waiting_for: Vec<String>,
    /// What an operator should know of.
    pub warnings: Vec<String>,
    /// Why it cannot go on, if so.
    pub failure: Option<String>,
    /// Open circuits by type, those of this instance.
    pub open_circuits: BTreeMap<String, u64>,
    /// Held deliveries by type, those that this instance keeps.
    pub held: BTreeMap<String, u64>,
    /// Suspended connectors of all projects.
    pub suspended: Vec<Suspended>,
}

/// Suspended connectors of a type and reason.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Suspended {
    /// The type.
    #[serde(rename = "type")]
    pub kind: String,
    /// The code of the reason.
    pub reason: String,
    /// How many.
    pub count: u64,
}

/// The answer of `/readyz`.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Readiness {
    status: String,
    waiting_for: Vec<String>,
    warnings: Vec<String>,
    failure: Option<String>,
}

impl InstanceFacts {
    /// Reads the answers of `/readyz` and `/metrics`; nothing when they are not this program's.
    #[must_use]
    pub fn read(address: &str, readiness: &[u8], metrics: &str) -> Option<Self> {
        let readiness: Readiness = serde_json::from_slice(readiness).ok()?;
        metrics.contains("dunmore_ready").then_some(())?;
        let mut facts = Self {
            address: address.to_owned(),
            ready: readiness.status == "ready",
            waiting_for: readiness.waiting_for,
            warnings: readiness.warnings,
            failure: readiness.failure,
            open_circuits: BTreeMap::new(),
            held: BTreeMap::new(),
            suspended: Vec::new(),
        };
        facts.take_metrics(metrics);
        Some(facts)
    }

    /// Takes what the metrics say in.
    pub fn take_metrics(&mut self, metrics: &str) {
        for line in metrics.lines() {
            let Some((name, labels, value)) = series(line) else { continue };
            if value == 0 {
                continue;
            }
            let label = |wanted: &str| labels.get(wanted).map(|text| (*text).to_owned());
            match (name, label("type"), label("reason")) {
                ("dunmore_circuits_open", Some(kind), _) => {
                    self.open_circuits.insert(kind, value);
                }
                ("dunmore_deliveries_held", Some(kind), _) => {
                    self.held.insert(kind, value);
                }
                ("dunmore_connectors_suspended", Some(kind), Some(reason)) => {
                    self.suspended.push(Suspended { kind, reason, count: value });
                }
                _ => {}
            }
        }
        self.suspended.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.cmp(b)));
    }
}

/// A line of Prometheus's text form, of a series with labels and a whole value. Label values of this
/// program are names from closed lists, so nothing in them is escaped.
fn series(line: &str) -> Option<(&str, BTreeMap<&str, &str>, u64)> {
    let (name, rest) = line.split_once('{')?;
    let (labels, value) = rest.rsplit_once("} ")?;
    let labels = labels.split(',').filter_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        Some((name, value.trim_matches('"')))
    });
    Some((name, labels.collect(), value.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = "# HELP dunmore_ready 1\ndunmore_ready 1\n\
        dunmore_circuits_open{type=\"slack\"} 0\ndunmore_circuits_open{type=\"zapier\"} 2\n\
        dunmore_deliveries_held{type=\"slack\"} 0\ndunmore_deliveries_held{type=\"n8n\"} 7\n\
        dunmore_connectors_suspended{reason=\"http_404\",type=\"slack\"} 3\n\
        dunmore_connectors_suspended{reason=\"http_401\",type=\"xero\"} 5\n\
        dunmore_connectors_suspended{reason=\"other\",type=\"xero\"} 0\n\
        dunmore_http_requests_total{method=\"GET\",route=\"/metrics\",status=\"200\"} 7\n";

    #[test]
    fn an_instance_is_read_from_what_it_answers() {
        let readiness = br#"{"status":"not ready","waiting_for":["the view to catch up"]}"#;
        let facts = InstanceFacts::read("a:1", readiness, METRICS).unwrap();
        assert!(!facts.ready);
        assert_eq!(facts.waiting_for, ["the view to catch up"]);
        assert_eq!(facts.open_circuits, BTreeMap::from([("zapier".to_owned(), 2)]));
        assert_eq!(facts.held, BTreeMap::from([("n8n".to_owned(), 7)]));
        let suspended: Vec<(&str, &str, u64)> = facts
            .suspended
            .iter()
            .map(|one| (one.kind.as_str(), one.reason.as_str(), one.count))
            .collect();
        assert_eq!(suspended, [("xero", "http_401", 5), ("slack", "http_404", 3)]);
        assert!(InstanceFacts::read("a:1", b"{\"status\":\"ready\"}", METRICS).unwrap().ready);
        // Something else answers there.
        assert_eq!(InstanceFacts::read("a:1", b"<html>", METRICS), None);
        assert_eq!(InstanceFacts::read("a:1", b"{}", "go_info 1\n"), None);
    }
}
