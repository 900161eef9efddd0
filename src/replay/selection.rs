//! What a replay chooses: which events, and which connectors for them.

use std::{borrow::Cow, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    clock::Timestamp,
    destination::ConnectorType,
    event::EventType,
    id::{ConnectorId, ConnectorKey, ProjectId},
    json::Object,
};

/// What a replay chooses. An empty list chooses everything.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Selection {
    /// Events that Kafka took on at this moment or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Timestamp>,
    /// Events that Kafka took on before this moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Timestamp>,
    /// The projects.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub projects: Vec<ProjectId>,
    /// The connectors.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub connectors: Vec<ConnectorName>,
    /// The event types.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub event_types: Vec<EventType>,
    /// The connectors' types.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<ConnectorType>,
    /// Leave out what the attempts show as delivered.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub only_missing: bool,
    /// Of what is missing, also what waits in a retry tier or was not read yet: it will be
    /// delivered without this.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub include_waiting: bool,
    /// Of what is missing, also what the attempts cannot show, because they do not reach back so
    /// far or what arrives was not recorded.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub include_unknown: bool,
}

impl Selection {
    /// Whether events of this project are chosen.
    #[must_use]
    pub fn has_project(&self, project: &str) -> bool {
        let named = self.projects.is_empty() || self.projects.iter().any(|p| p.as_str() == project);
        named
            && (self.connectors.is_empty() || self.connectors.iter().any(|c| c.may_be_in(project)))
    }

    /// Whether events of this type are chosen.
    #[must_use]
    pub fn has_event_type(&self, kind: EventType) -> bool {
        self.event_types.is_empty() || self.event_types.contains(&kind)
    }

    /// Whether this connector is chosen.
    #[must_use]
    pub fn has_connector(&self, key: &ConnectorKey, kind: ConnectorType) -> bool {
        (self.types.is_empty() || self.types.contains(&kind))
            && (self.connectors.is_empty() || self.connectors.iter().any(|name| name.means(key)))
            && (self.projects.is_empty() || self.projects.contains(&key.project))
    }
}

/// A connector as an operator names it: `conn_1`, or `proj_1/conn_1` where several projects have
/// one of that id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConnectorName {
    project: Option<ProjectId>,
    connector: ConnectorId,
}

impl ConnectorName {
    /// The full name of a connector.
    #[must_use]
    pub fn of(project: &ProjectId, connector: &ConnectorId) -> Self {
        Self { project: Some(project.clone()), connector: connector.clone() }
    }

    fn may_be_in(&self, project: &str) -> bool {
        self.project.as_ref().is_none_or(|own| own.as_str() == project)
    }

    /// Whether it means this one.
    #[must_use]
    pub fn means(&self, key: &ConnectorKey) -> bool {
        self.is(key.project.as_str(), key.connector.as_str())
    }

    /// Whether it means the connector of these ids.
    #[must_use]
    pub fn is(&self, project: &str, connector: &str) -> bool {
        self.connector.as_str() == connector && self.may_be_in(project)
    }
}

impl fmt::Display for ConnectorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(project) = &self.project {
            write!(f, "{project}/")?;
        }
        self.connector.fmt(f)
    }
}

impl FromStr for ConnectorName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (project, connector) = match text.split_once('/') {
            Some((project, connector)) => (Some(project), connector),
            None => (None, text),
        };
        let project = project.map(ProjectId::parse).transpose();
        let project = project.map_err(|error| format!("the project's id {error}"))?;
        let connector = ConnectorId::parse(connector);
        let connector = connector.map_err(|error| format!("the connector's id {error}"))?;
        Ok(Self { project, connector })
    }
}

impl Serialize for ConnectorName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ConnectorName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The event types that a pattern such as `payment.*` means; the error names the known ones.
pub fn event_types(pattern: &str) -> Result<Vec<EventType>, String> {
    let all = EventType::ALL.iter().copied();
    let found: Vec<EventType> = all.filter(|kind| matches(pattern, kind.as_str())).collect();
    if found.is_empty() {
        let known: Vec<&str> = EventType::ALL.iter().map(|kind| kind.as_str()).collect();
        return Err(format!("no event type is {pattern:?}; there are {}", known.join(", ")));
    }
    Ok(found)
}

/// Whether a text has the form of a pattern in which `*` stands for anything.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, rest)) => text.strip_prefix(before).is_some_and(|text| {
            (0..=text.len()).any(|at| text.is_char_boundary(at) && matches(rest, &text[at..]))
        }),
    }
}

/// What a scan looks at first of an event, borrowed from its text.
#[derive(Debug, PartialEq, Eq)]
pub struct Head<'a> {
    /// Its project.
    pub project: Cow<'a, str>,
    /// Its type.
    pub kind: EventType,
    /// Its id.
    pub id: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, rename = "projectId")]
    project: Cow<'a, str>,
}

impl<'a> Head<'a> {
    /// Reads the head of an event's JSON text; nothing when it is no event that this version
    /// knows. Whoever takes the event further reads it whole.
    #[must_use]
    pub fn from_json(json: &'a [u8]) -> Option<Self> {
        let Object(Wire { id, kind, project }) = serde_json::from_slice(json).ok()?;
        Some(Self { project, kind: kind.parse().ok()?, id })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything() {
        assert_eq!(event_types("payment.*").unwrap().len(), 3);
        assert_eq!(event_types("*").unwrap(), EventType::ALL);
        assert_eq!(event_types("*.created").unwrap(), [EventType::EndpointCreated]);
        assert_eq!(event_types("*pay*fail*").unwrap(), [EventType::PaymentFailed]);
        assert_eq!(event_types("payment.settled").unwrap(), [EventType::PaymentSettled]);
        assert!(event_types("payment").unwrap_err().contains("payment.settled"));
        assert!(event_types("").is_err());
    }

    #[test]
    fn a_connector_is_named_with_or_without_its_project() {
        let key = |project: &str| ConnectorKey {
            project: project.parse().unwrap(),
            connector: "conn_1".parse().unwrap(),
        };
        let bare: ConnectorName = "conn_1".parse().unwrap();
        let full: ConnectorName = "proj_1/conn_1".parse().unwrap();
        assert!(bare.means(&key("proj_1")) && bare.means(&key("proj_2")));
        assert!(full.means(&key("proj_1")) && !full.means(&key("proj_2")));
        assert_eq!(full.to_string(), "proj_1/conn_1");
        assert!("proj 1/conn_1".parse::<ConnectorName>().unwrap_err().contains("project's id"));
        let selection = Selection { connectors: vec![full], ..Selection::default() };
        assert!(selection.has_project("proj_1") && !selection.has_project("proj_2"));
    }

    #[test]
    fn a_selection_is_kept_as_it_was() {
        let selection = Selection {
            from: Some(Timestamp::from_millis(1000)),
            projects: vec!["proj_1".parse().unwrap()],
            connectors: vec!["proj_1/conn_1".parse().unwrap()],
            event_types: event_types("payment.*").unwrap(),
            types: vec![ConnectorType::Slack],
            only_missing: true,
            ..Selection::default()
        };
        let json = serde_json::to_string(&selection).unwrap();
        assert_eq!(serde_json::from_str::<Selection>(&json).unwrap(), selection);
        assert_eq!(serde_json::to_string(&Selection::default()).unwrap(), "{}");
    }

    #[test]
    fn a_head_is_read_of_every_sample_and_of_nothing_else() {
        for kind in EventType::ALL {
            let text = crate::event::sample(*kind);
            let head = Head::from_json(text.as_bytes()).unwrap();
            assert_eq!(head.kind, *kind);
            assert!(matches!(head.project, Cow::Borrowed(_)));
        }
        for bytes in
            [&b""[..], b"{}", b"\x00\x01", b"{\"id\":\"e\",\"type\":\"x\",\"projectId\":\"p\"}"]
        {
            assert_eq!(Head::from_json(bytes), None);
        }
    }
}
