//! Events: those of payments, as payment services produce them, and the notices of connectors, which
//! this program makes itself.
//!
//! An [`Event`] is checked once, when it is read; after that every room can rely on its fields.
//! Its JSON text is kept as the producer wrote it, unknown fields included, because generic
//! webhooks deliver it as it is.

mod data;
mod explain;
mod sample;

use std::{borrow::Cow, fmt, str::FromStr};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub use data::{
    ConnectorNotice, CustomerMilestone, EndpointCreated, EndpointPricingChanged, EventData,
    FirstPayment, Payment, PaymentFailed, PaymentSettled, RevenueDailySummary,
};
pub use explain::{Problem, Problems, suspicions};
pub use sample::sample;

use crate::{
    clock::Timestamp,
    id::{ConnectorId, EventId, ProjectId},
    json::{self, Object, Pairs, Text},
};

/// The largest event that is accepted, in bytes of its JSON text, whatever form it was sent in.
///
/// It is Kafka's own default for `max.message.bytes`, rounded down to a power of two.
pub const MAX_EVENT_BYTES: usize = 1 << 20;
/// The most names in a list of event types.
const MAX_NAMES: usize = 100;

macro_rules! event_types {
    ($($(#[doc = $doc:literal])* $name:ident => $text:literal, $title:literal;)*) => {
        /// What happened.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
        pub enum EventType { $($(#[doc = $doc])* #[serde(rename = $text)] $name,)* }

        impl EventType {
            /// Every event type, in the order of the documentation.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The name in events, settings and metric labels.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The title in messages for people.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }

            /// What happened, in a sentence.
            #[must_use]
            pub const fn description(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),*).trim_ascii(),)* }
            }
        }

        impl FromStr for EventType {
            type Err = ();
            fn from_str(text: &str) -> Result<Self, ()> {
                match text { $($text => Ok(Self::$name),)* _ => Err(()) }
            }
        }
    };
}

event_types! {
    /// A signed payment was checked; it is not settled yet.
    PaymentVerified => "payment.verified", "Payment verified";
    /// A payment was settled on chain.
    PaymentSettled => "payment.settled", "Payment settled";
    /// A payment could not be verified or settled.
    PaymentFailed => "payment.failed", "Payment failed";
    /// A customer paid for the first time.
    CustomerFirstPayment => "customer.first_payment", "First payment of a customer";
    /// A customer's spending passed a milestone.
    CustomerMilestone => "customer.milestone", "Customer milestone reached";
    /// A project got a new endpoint.
    EndpointCreated => "endpoint.created", "Endpoint created";
    /// An endpoint's price changed.
    EndpointPricingChanged => "endpoint.pricing_changed", "Endpoint price changed";
    /// A project's day in figures.
    RevenueDailySummary => "revenue.daily_summary", "Daily revenue summary";
    /// A connector's deliveries are held from now on, because it cannot work until its owner acts.
    ConnectorSuspended => "connector.suspended", "Connector suspended";
    /// A connector's deliveries are held no longer.
    ConnectorResumed => "connector.resumed", "Connector resumed";
    /// A connector's service has been failing for a while; its deliveries are tried again.
    ConnectorFailing => "connector.failing", "Connector failing";
    /// A connector that was failing delivers again.
    ConnectorRecovered => "connector.recovered", "Connector recovered";
    /// A connector's credential ends soon, and cannot renew itself.
    ConnectorCredentialExpiring => "connector.credential_expiring", "Connector credential expires soon";
}

/// How many types are of payments; they come first.
const PAYMENTS: usize = EventType::ConnectorSuspended as usize;

impl EventType {
    /// The types that payment services produce, which `*` stands for.
    pub const PAYMENTS: &[Self] = Self::ALL.split_at(PAYMENTS).0;
    /// The notices of connectors, which this program makes itself. A connector gets those that it
    /// names.
    pub const NOTICES: &[Self] = Self::ALL.split_at(PAYMENTS).1;

    /// Whether it is a notice of a connector.
    #[must_use]
    pub const fn is_notice(self) -> bool {
        self.index() >= PAYMENTS
    }

    /// The position in [`Self::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which event types a connector wants: some of them, or `*` for all of payments, later ones too.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EventTypes {
    /// `["*"]`
    All,
    /// `["*", "connector.suspended"]`: all of payments and the listed notices, as in `Some`.
    AllAnd(Vec<EventType>),
    /// The listed ones, without repetition, in the order of the documentation.
    Some(Vec<EventType>),
}

impl EventTypes {
    /// Reads a list such as `["payment.settled"]` or `["*"]`; the error tells every wrong entry.
    pub fn parse<T: AsRef<str>>(names: &[T]) -> Result<Self, Vec<String>> {
        if names.len() > MAX_NAMES {
            return Err(vec![format!("name at most {MAX_NAMES} event types")]);
        }
        let mut errors = Vec::new();
        let mut wanted = Vec::new();
        let mut all = false;
        for name in names.iter().map(AsRef::as_ref) {
            match name.parse::<EventType>() {
                Ok(kind) => wanted.push(kind),
                Err(()) if name == "*" => all = true,
                Err(()) => {
                    let (shown, near) = (json::name(name), nearest(name));
                    errors.push(format!("unknown event type {shown:?}{near}"));
                }
            }
        }
        if names.is_empty() {
            errors.push("name at least one event type, or \"*\" for all".to_owned());
        }
        if all && wanted.iter().any(|kind| !kind.is_notice()) {
            let words = "\"*\" stands for all event types of payments: name beside it no others \
                         than connector.…";
            errors.push(words.to_owned());
        }
        if errors.is_empty() { Ok(Self::of(all, wanted)) } else { Err(errors) }
    }

    /// All of payments, if so, and these.
    #[must_use]
    pub fn of(all: bool, mut wanted: Vec<EventType>) -> Self {
        wanted.sort_unstable();
        wanted.dedup();
        if all {
            wanted.retain(|kind| kind.is_notice());
        }
        match (all, wanted.is_empty()) {
            (true, true) => Self::All,
            (true, false) => Self::AllAnd(wanted),
            (false, _) => Self::Some(wanted),
        }
    }

    /// Whether events of this type are wanted.
    #[must_use]
    pub fn contains(&self, kind: EventType) -> bool {
        match self {
            Self::All | Self::AllAnd(_) if !kind.is_notice() => true,
            _ => self.names(kind),
        }
    }

    /// The types that are named, not merely covered by `*`.
    #[must_use]
    pub fn named(&self) -> &[EventType] {
        match self {
            Self::All => &[],
            Self::AllAnd(kinds) | Self::Some(kinds) => kinds,
        }
    }

    /// Whether this type is named, not merely covered by `*`.
    #[must_use]
    pub fn names(&self, kind: EventType) -> bool {
        self.named().contains(&kind)
    }

    /// The names, as the API shows them.
    #[must_use]
    pub fn to_names(&self) -> Vec<&'static str> {
        let star = match self {
            Self::All | Self::AllAnd(_) => Some("*"),
            Self::Some(_) => None,
        };
        star.into_iter().chain(self.named().iter().map(|kind| kind.as_str())).collect()
    }
}

fn nearest(name: &str) -> String {
    let near = explain::nearest_type(name);
    near.map(|kind| format!(", did you mean {:?}?", kind.as_str())).unwrap_or_default()
}

impl Serialize for EventTypes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_names().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for EventTypes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let names = Vec::<String>::deserialize(deserializer)?;
        Self::parse(&names).map_err(|errors| serde::de::Error::custom(errors.join("; ")))
    }
}

/// An event that was read and checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The producer's unique id.
    pub id: EventId,
    /// What happened.
    pub kind: EventType,
    /// The project it happened to.
    pub project: ProjectId,
    /// When it happened, by the producer's clock.
    pub occurred_at: Timestamp,
    /// The fields that go with the type.
    pub data: EventData,
    /// The whole event as JSON text, unknown fields included.
    pub json: Bytes,
}

/// Why a record's value is no payment event. No value is quoted, and the words are of bounded
/// length.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// Longer than [`MAX_EVENT_BYTES`].
    #[error("the event has {0} bytes as JSON; at most {MAX_EVENT_BYTES} are accepted")]
    TooLarge(usize),
    /// Not JSON, or not an object.
    #[error("the value is no JSON object: {0}")]
    NotJson(String),
    /// No `projectId`, and what else is wrong.
    #[error("{0}")]
    MissingProject(Problems),
    /// A `type` that this version does not know, and what else is wrong.
    #[error("{0}")]
    UnknownType(Problems),
    /// A field is missing or has the wrong form.
    #[error("{0}")]
    Invalid(Problems),
}

impl EventError {
    /// Each thing that is wrong.
    #[must_use]
    pub fn problems(&self) -> Cow<'_, Problems> {
        match self {
            Self::MissingProject(problems)
            | Self::UnknownType(problems)
            | Self::Invalid(problems) => Cow::Borrowed(problems),
            Self::TooLarge(_) | Self::NotJson(_) => {
                let words = self.to_string().into();
                Cow::Owned(Problems(vec![Problem { field: String::new(), words }]))
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire<'a> {
    #[serde(borrow)]
    id: Text<'a>,
    #[serde(borrow, rename = "type")]
    kind: Text<'a>,
    #[serde(borrow)]
    project_id: Text<'a>,
    #[serde(borrow)]
    occurred_at: Text<'a>,
    #[serde(borrow)]
    data: &'a RawValue,
}

impl Event {
    /// Reads an event that a payment service produced. Notices are this program's alone: it would
    /// be a lie about a connector.
    pub fn from_producer(json: Bytes) -> Result<Self, EventError> {
        let event = Self::from_json(json)?;
        if event.kind.is_notice() {
            let words = format!(
                "unknown event type \"{}\": it is a notice that this program makes itself, and no \
                 payment service produces it",
                event.kind
            );
            let problem = Problem { field: String::new(), words: words.into() };
            return Err(EventError::UnknownType(Problems(vec![problem])));
        }
        Ok(event)
    }

    /// Reads an event from its JSON text and keeps that text, without the space around it.
    pub fn from_json(mut json: Bytes) -> Result<Self, EventError> {
        json.truncate(json.trim_ascii_end().len());
        let json = json.split_off(json.len() - json.trim_ascii_start().len());
        if json.len() > MAX_EVENT_BYTES {
            return Err(EventError::TooLarge(json.len()));
        }
        // Fields that nothing is read from are not looked into, but passed on.
        if let Err(error) = std::str::from_utf8(&json) {
            let words = format!("it is no UTF-8 from byte {} on", error.valid_up_to());
            return Err(EventError::NotJson(words));
        }
        match Self::read(&json) {
            Ok((id, kind, project, occurred_at, data)) => {
                Ok(Self { id, kind, project, occurred_at, data, json })
            }
            Err(words) => Err(Self::explain(&json, words)),
        }
    }

    fn read(json: &[u8]) -> Result<(EventId, EventType, ProjectId, Timestamp, EventData), String> {
        let Object(wire) = serde_json::from_slice::<Object<Wire<'_>>>(json)
            .map_err(|error| json::words(json, &error))?;
        let Text(kind) = wire.kind;
        let kind = EventType::from_str(&kind).map_err(|()| "unknown type")?;
        Ok((
            EventId::parse(&wire.id.0).map_err(|error| error.to_string())?,
            kind,
            ProjectId::parse(&wire.project_id.0).map_err(|error| error.to_string())?,
            Timestamp::parse(&wire.occurred_at.0)?,
            EventData::read(kind, wire.data)?,
        ))
    }

    /// What is wrong with a text that could not be read, because of `words` to begin with.
    fn explain(json: &[u8], words: String) -> EventError {
        let pairs = match serde_json::from_slice::<Pairs<'_>>(json) {
            Ok(pairs) => pairs,
            Err(error) => {
                return EventError::NotJson(match serde_json::from_slice::<&RawValue>(json) {
                    Ok(other) => format!("it is {}", json::kind(other)),
                    Err(_) => json::words(json, &error),
                });
            }
        };
        let explain::Found { mut problems, has_no_project, has_unknown_type } =
            explain::look_through(&pairs);
        if problems.0.is_empty() {
            problems.0.push(Problem { field: String::new(), words: words.into() });
        }
        match (has_no_project, has_unknown_type) {
            (true, _) => EventError::MissingProject(problems),
            (false, true) => EventError::UnknownType(problems),
            (false, false) => EventError::Invalid(problems),
        }
    }

    /// Whether it is a notice of this very connector, of its own project.
    #[must_use]
    pub fn is_about(&self, connector: &ConnectorId) -> bool {
        matches!(&self.data, EventData::ConnectorNotice(notice)
            if notice.connector_id == connector.as_str())
    }

    /// The event's JSON text; it is UTF-8 because it was read as JSON.
    #[must_use]
    pub fn json_text(&self) -> &str {
        std::str::from_utf8(&self.json).unwrap_or("null")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled() -> String {
        r#"{"id":"evt_1","type":"payment.settled","projectId":"proj_1",
            "occurredAt":"2026-11-23T08:00:00.000Z",
            "data":{"paymentId":"pay_1","endpointId":"ep_1","customerId":"0x52","amount":"1.250000",
                    "currency":"USDC","network":"base","txHash":"0xab","later":{"kept":[1.0]}}}"#
            .to_owned()
    }

    fn read(text: &str) -> Result<Event, EventError> {
        Event::from_json(Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn an_event_is_read_and_its_text_is_kept() {
        let event = read(&settled()).unwrap();
        assert_eq!(event.kind, EventType::PaymentSettled);
        let EventData::PaymentSettled(data) = &event.data else { panic!("{event:?}") };
        assert_eq!(data.payment.amount.as_str(), "1.250000");
        assert_eq!(event.json, settled().as_bytes());
        // A retry record holds the event without the space around it: the first attempt has the
        // same body.
        assert_eq!(read(&format!("\r\n {}\n", settled())), Ok(event));
    }

    #[test]
    fn each_wrong_event_is_told_what_is_wrong() {
        let cases = [
            (settled().replace("\"proj_1\"", "null"), "the event has no projectId"),
            (settled().replace("proj_1", ""), "the event has no projectId"),
            (settled().replace("payment.settled", "payment.gone"), "unknown event type"),
            (settled().replace("\"1.250000\"", "1.25"), "an amount as a decimal string"),
            (settled().replace("\"txHash\":\"0xab\",", ""), "data.txHash is missing"),
            (settled().replace("2026-11-23T", "23.11.2026 "), "is no RFC 3339 time"),
            (settled().replace("evt_1", "evt 1"), "id must consist of letters"),
            ("[1]".to_owned(), "no JSON object"),
            (
                r#"["evt_1","payment.settled","proj_1","2026-11-23T08:00:00Z",{}]"#.to_owned(),
                "a list",
            ),
            (
                settled().replace(
                    &settled()[settled().find("{\"paymentId").unwrap()..],
                    r#"["pay_1","ep_1","c","1","USDC","base","0x"]}"#,
                ),
                "data must be an object",
            ),
            ("not json".to_owned(), "no JSON object"),
            (settled().replace('{', "{\"more\":NaN,"), "NaN is no JSON"),
            (String::new(), "no JSON object"),
        ];
        for (text, expected) in cases {
            let error = read(&text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let mut bytes = settled().replacen('{', "{\"more\":\"?\",", 1).into_bytes();
        bytes[9] = 0xff;
        assert!(Event::from_json(bytes.into()).unwrap_err().to_string().contains("UTF-8"));
        let large = "x".repeat(MAX_EVENT_BYTES + 1);
        assert_eq!(read(&large), Err(EventError::TooLarge(MAX_EVENT_BYTES + 1)));
    }

    #[test]
    fn event_types_are_a_list_or_a_star() {
        assert_eq!(EventTypes::parse(&["*"]), Ok(EventTypes::All));
        let two = EventTypes::parse(&["payment.settled", "payment.failed", "payment.settled"]);
        assert_eq!(two.unwrap().to_names(), ["payment.settled", "payment.failed"]);
        let error = EventTypes::parse(&["payment.setled"]).unwrap_err();
        assert_eq!(
            error,
            ["unknown event type \"payment.setled\", did you mean \"payment.settled\"?"]
        );
        assert!(EventTypes::parse::<&str>(&[]).is_err());
        assert!(EventTypes::parse(&["*", "payment.settled"]).is_err());
    }

    #[test]
    fn notices_are_wanted_by_who_names_them() {
        assert_eq!(EventType::PAYMENTS.len() + EventType::NOTICES.len(), EventType::ALL.len());
        for kind in EventType::ALL {
            assert_eq!(kind.is_notice(), kind.as_str().starts_with("connector."));
            assert_eq!(EventTypes::All.contains(*kind), !kind.is_notice(), "{kind}");
        }
        let names = ["connector.failing", "*", "connector.suspended", "connector.failing"];
        let both = EventTypes::parse(&names).unwrap();
        assert_eq!(both.to_names(), ["*", "connector.suspended", "connector.failing"]);
        assert_eq!(EventTypes::parse(&both.to_names()), Ok(both.clone()));
        let wanted = |kind: &&EventType| both.contains(**kind);
        assert_eq!(EventType::PAYMENTS.iter().filter(wanted).count(), EventType::PAYMENTS.len());
        assert!(both.names(EventType::ConnectorFailing) && !both.names(EventType::PaymentSettled));
        assert!(!both.contains(EventType::ConnectorResumed));
        let some = EventTypes::parse(&["connector.resumed", "payment.settled"]).unwrap();
        assert_eq!(some.to_names(), ["payment.settled", "connector.resumed"]);
        let error = EventTypes::parse(&["connector.suspend"]).unwrap_err();
        assert!(error[0].ends_with("did you mean \"connector.suspended\"?"), "{error:?}");
    }

    #[test]
    fn a_payment_service_produces_no_notices() {
        for kind in EventType::ALL {
            let json = Bytes::from_static(sample(*kind).as_bytes());
            let read = Event::from_producer(json.clone());
            if kind.is_notice() {
                let error = read.unwrap_err();
                assert!(matches!(error, EventError::UnknownType(_)), "{error:?}");
                assert!(error.to_string().contains("notice that this program makes"), "{error}");
                assert!(matches!(
                    Event::from_json(json).unwrap().data,
                    EventData::ConnectorNotice(_)
                ));
            } else {
                assert_eq!(read.unwrap().kind, *kind);
            }
        }
    }
}
