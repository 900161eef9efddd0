//! What is an incident, what belongs to the same one, and when it is over: for services that page
//! people. Failed payments are incidents, and connectors that are suspended or fail.

use super::{Field, Item, Settings, identity};
use crate::event::{Event, EventData, EventType, EventTypes};

/// The longest key of an incident: what the strictest service takes.
const MAX_KEY_CHARS: usize = 255;

/// Which failed payments are one incident.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Dedup {
    /// Those of one endpoint for one reason.
    EndpointReason,
    /// Those of one endpoint.
    Endpoint,
    /// Each is one.
    Event,
}

/// The setting that says which failed payments are one incident.
pub const DEDUP: Field = Field::text(
    "dedup",
    "Which failed payments are one incident while it is open: those of one endpoint for one reason \
     (\"endpoint_reason\", default), those of one \"endpoint\", or each \"event\".",
    "endpoint_reason",
)
.one_of(&["endpoint_reason", "endpoint", "event"])
.optional();

/// The setting that says what ends an incident.
pub const RESOLVE: Field = Field::text(
    "resolve",
    "What ends an incident: a person (\"manual\", default), or the next payment of the endpoint that \
     is \"settled\"; that needs dedup \"endpoint\" and payment.settled among the event types.",
    "settled",
)
.one_of(&["manual", "settled"])
.optional();

/// How a connector makes incidents of failed payments.
#[derive(Clone, Copy, Debug)]
pub struct Incidents {
    dedup: Dedup,
    is_resolved: bool,
}

/// Refuses settings under which nothing would ever be resolved.
pub fn check(settings: &Settings, event_types: &EventTypes) -> Vec<(&'static str, String)> {
    let incidents = Incidents::of(settings);
    let mut errors = Vec::new();
    if incidents.is_resolved && incidents.dedup != Dedup::Endpoint {
        let message = "\"settled\" needs dedup \"endpoint\": a settled payment names its endpoint \
                       and no reason";
        errors.push((RESOLVE.name, message.to_owned()));
    }
    if incidents.is_resolved && !event_types.contains(EventType::PaymentSettled) {
        let message = "\"settled\" needs payment.settled among the event types";
        errors.push((RESOLVE.name, message.to_owned()));
    }
    errors
}

impl Incidents {
    /// What the settings say.
    pub fn of(settings: &Settings) -> Self {
        let dedup = match settings.optional(DEDUP.name) {
            Some("endpoint") => Dedup::Endpoint,
            Some("event") => Dedup::Event,
            _ => Dedup::EndpointReason,
        };
        Self { dedup, is_resolved: settings.optional(RESOLVE.name) == Some("settled") }
    }

    /// Whether an event is an incident, or belongs to one.
    pub const fn opens(event: &Event) -> bool {
        matches!(
            event.kind,
            EventType::PaymentFailed | EventType::ConnectorSuspended | EventType::ConnectorFailing
        )
    }

    /// The key of the incident that a failed payment, or a connector's trouble, belongs to; another
    /// event's is its own.
    pub fn key(self, item: &Item<'_>) -> String {
        let project = item.event.project.as_str();
        let key = match (self.dedup, &item.event.data) {
            (Dedup::EndpointReason, EventData::PaymentFailed(p)) => {
                format!("{}:{}", endpoint_key(project, &p.endpoint_id), p.reason)
            }
            (Dedup::Endpoint, EventData::PaymentFailed(p)) => endpoint_key(project, &p.endpoint_id),
            (_, EventData::ConnectorNotice(n)) if Self::opens(item.event) => {
                connector_key(project, &n.connector_id)
            }
            _ => item.delivery_id.to_string(),
        };
        identity(&key, MAX_KEY_CHARS).into_owned()
    }

    /// The key of the incident that an event ends, if it ends one.
    pub fn resolves(self, event: &Event) -> Option<String> {
        match &event.data {
            EventData::PaymentSettled(settled) if self.is_resolved => {
                let key = endpoint_key(event.project.as_str(), &settled.payment.endpoint_id);
                Some(identity(&key, MAX_KEY_CHARS).into_owned())
            }
            // Whoever named both wants to know that it is over.
            EventData::ConnectorNotice(n)
                if matches!(
                    event.kind,
                    EventType::ConnectorResumed | EventType::ConnectorRecovered
                ) =>
            {
                let key = connector_key(event.project.as_str(), &n.connector_id);
                Some(identity(&key, MAX_KEY_CHARS).into_owned())
            }
            _ => None,
        }
    }
}

/// One incident for a connector, whatever its trouble is: one that fails may be suspended.
fn connector_key(project: &str, connector: &str) -> String {
    format!("dunmore-connector:{project}:{connector}")
}

fn endpoint_key(project: &str, endpoint: &str) -> String {
    format!("dunmore:{project}:{endpoint}")
}
