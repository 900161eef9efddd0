//! The facts: a connector and a project as they are after a change, and the fold of changes.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Config, Health, Later, Tier, later::required};
use crate::{
    clock::Timestamp,
    destination::ConnectorType,
    event::{EventType, EventTypes},
    id::{CommandId, ConnectorId, ConnectorKey, IdError, ProjectId},
};

/// A state record cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The JSON does not have the shape.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// The key is no id, or no two ids.
    #[error("the key {0}")]
    Key(#[from] IdError),
    /// The key names another thing than the value.
    #[error("the key does not name what the value holds")]
    KeyMismatch,
}

/// A connector: where a project wants which events.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Connector {
    /// Its full name.
    pub key: ConnectorKey,
    /// The service that it delivers to.
    pub kind: ConnectorType,
    /// Its settings.
    pub config: Config,
    /// The event types that it wants.
    pub event_types: EventTypes,
    /// Whether its owner has it switched on.
    pub is_active: bool,
    /// What its owner calls it.
    pub name: Option<String>,
    /// Which events it wants beside their type.
    pub filter: Option<String>,
    /// Why its deliveries are held, if they are.
    pub suspended_reason: Option<String>,
    /// Since when, unless the release that suspended it did not say.
    pub suspended_at: Option<Timestamp>,
    /// Whether its service fails, and what was told of that. Its owner does not see it.
    pub health: Box<Health>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was changed last.
    pub updated_at: Timestamp,
    /// The number of the command that made this version: its offset, as long as the commands
    /// topic was never made anew. Encrypting anew makes none, and neither does a report of its
    /// health.
    pub version: i64,
    /// That command.
    pub command_id: CommandId,
    /// What a later version wrote beside that.
    pub later: Later,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ConnectorWire {
    id: ConnectorId,
    project_id: ProjectId,
    #[serde(rename = "type")]
    kind: ConnectorType,
    config: Config,
    event_types: Vec<String>,
    is_active: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    filter: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    suspended_reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    suspended_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Health::is_plain")]
    health: Box<Health>,
    created_at: Timestamp,
    updated_at: Timestamp,
    version: i64,
    command_id: CommandId,
}

impl ConnectorWire {
    /// Takes the known fields of what a later version wrote.
    fn from_later(mut map: Map<String, Value>) -> Result<(Self, Later), StateError> {
        let mut later = Later::default();
        for optional in ["name", "filter", "suspendedReason", "suspendedAt"] {
            map.entry(optional).or_insert(Value::Null);
        }
        let wire = Self {
            id: required(&mut map, "id")?,
            project_id: required(&mut map, "projectId")?,
            kind: later.known(&mut map, "type", ConnectorType::Unknown)?,
            config: later.known(&mut map, "config", Config::default())?,
            // Events that wait are better than events that are lost.
            event_types: later.known(&mut map, "eventTypes", vec!["*".to_owned()])?,
            is_active: later.known(&mut map, "isActive", true)?,
            name: later.known(&mut map, "name", None)?,
            filter: later.known(&mut map, "filter", None)?,
            suspended_reason: later.known(&mut map, "suspendedReason", None)?,
            suspended_at: later.known(&mut map, "suspendedAt", None)?,
            // What cannot be read of it makes no connector unusable: it is known anew.
            health: map
                .shift_remove("health")
                .and_then(|health| Deserialize::deserialize(health).ok())
                .unwrap_or_default(),
            created_at: later.known(&mut map, "createdAt", Timestamp::default())?,
            updated_at: later.known(&mut map, "updatedAt", Timestamp::default())?,
            version: required(&mut map, "version")?,
            command_id: required(&mut map, "commandId")?,
        };
        later.fields.append(&mut map);
        Ok((wire, later))
    }
}

impl Connector {
    /// The value of its `connectors.state` record.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let wire = ConnectorWire {
            id: self.key.connector.clone(),
            project_id: self.key.project.clone(),
            kind: self.kind,
            config: self.config.clone(),
            event_types: self.event_type_names().into_iter().map(str::to_owned).collect(),
            is_active: self.is_active,
            name: self.name.clone(),
            filter: self.filter.clone(),
            suspended_reason: self.suspended_reason.clone(),
            suspended_at: self.suspended_at,
            health: self.health.clone(),
            created_at: self.created_at,
            updated_at: self.updated_at,
            version: self.version,
            command_id: self.command_id.clone(),
        };
        self.later.written_into(&wire)
    }

    /// Reads the value of a `connectors.state` record. What a later version wrote and this one
    /// does not understand is kept; at least its id, version and command must be there.
    pub fn from_json(json: &[u8]) -> Result<Self, StateError> {
        // Nearly every record is known entirely, and reading those is quicker.
        let (wire, mut later) = match serde_json::from_slice::<ConnectorWire>(json) {
            Ok(wire) => (wire, Later::default()),
            Err(_) => ConnectorWire::from_later(serde_json::from_slice(json)?)?,
        };
        let event_types = read_event_types(wire.event_types, &mut later);
        Ok(Self {
            key: ConnectorKey { project: wire.project_id, connector: wire.id },
            kind: wire.kind,
            config: wire.config,
            event_types,
            is_active: wire.is_active,
            name: wire.name,
            filter: wire.filter,
            suspended_reason: wire.suspended_reason,
            suspended_at: wire.suspended_at,
            health: wire.health,
            created_at: wire.created_at,
            updated_at: wire.updated_at,
            version: wire.version,
            command_id: wire.command_id,
            later,
        })
    }

    /// The names of all its event types, those of a later version behind the known ones.
    #[must_use]
    pub fn event_type_names(&self) -> Vec<&str> {
        let known = self.event_types.to_names().into_iter();
        known.chain(self.later.event_types.iter().map(String::as_str)).collect()
    }

    /// The name of its type, also when that is unknown here.
    #[must_use]
    pub fn type_name(&self) -> &str {
        self.later.text("type").unwrap_or(self.kind.as_str())
    }

    /// It works until something is wrong with it.
    pub fn resume(&mut self) {
        self.suspended_reason = None;
        self.suspended_at = None;
    }

    /// The connector as the API shows it: secrets masked.
    #[must_use]
    pub fn to_public_json(&self) -> Value {
        let mut json = json!({
            "id": self.key.connector,
            "projectId": self.key.project,
            "type": self.type_name(),
            "config": self.config.masked(self.kind),
            "eventTypes": self.event_type_names(),
            "isActive": self.is_active,
        });
        if let Some(name) = &self.name {
            json["name"] = json!(name);
        }
        if let Some(filter) = &self.filter {
            json["filter"] = json!(filter);
        }
        if let Some(reason) = &self.suspended_reason {
            json["suspendedReason"] = json!(reason);
        }
        if let Some(at) = self.suspended_at {
            json["suspendedAt"] = json!(at);
        }
        json["createdAt"] = json!(self.created_at);
        json["updatedAt"] = json!(self.updated_at);
        json
    }
}

/// Event types of a later version are kept aside: the connector works for those that are known
/// here, where refusing the record would stop all its deliveries.
fn read_event_types(names: Vec<String>, later: &mut Later) -> EventTypes {
    let (mut known, mut all) = (Vec::new(), false);
    for name in names {
        match name.parse::<EventType>() {
            Ok(kind) => known.push(kind),
            Err(()) if name == "*" => all = true,
            Err(()) => later.event_types.push(name),
        }
    }
    EventTypes::of(all, known)
}

/// What billing said about a project.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Project {
    /// The project.
    pub id: ProjectId,
    /// Its tier; the smallest one when the tier is unknown here.
    pub tier: Tier,
    /// When that was said.
    pub updated_at: Timestamp,
    /// The number of the command that made this version.
    pub version: i64,
    /// That command.
    pub command_id: CommandId,
    /// What a later version wrote beside that.
    pub later: Later,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ProjectWire {
    id: ProjectId,
    tier: Tier,
    updated_at: Timestamp,
    version: i64,
    command_id: CommandId,
}

impl ProjectWire {
    fn from_later(mut map: Map<String, Value>) -> Result<(Self, Later), StateError> {
        let mut later = Later::default();
        let wire = Self {
            id: required(&mut map, "id")?,
            tier: later.known(&mut map, "tier", Tier::default())?,
            updated_at: later.known(&mut map, "updatedAt", Timestamp::default())?,
            version: required(&mut map, "version")?,
            command_id: required(&mut map, "commandId")?,
        };
        later.fields.append(&mut map);
        Ok((wire, later))
    }
}

impl Project {
    /// The value of its `connectors.state` record.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        self.later.written_into(&ProjectWire {
            id: self.id.clone(),
            tier: self.tier,
            updated_at: self.updated_at,
            version: self.version,
            command_id: self.command_id.clone(),
        })
    }

    /// Reads the value of a `connectors.state` record.
    pub fn from_json(json: &[u8]) -> Result<Self, StateError> {
        let (wire, later) = match serde_json::from_slice::<ProjectWire>(json) {
            Ok(wire) => (wire, Later::default()),
            Err(_) => ProjectWire::from_later(serde_json::from_slice(json)?)?,
        };
        let ProjectWire { id, tier, updated_at, version, command_id } = wire;
        Ok(Self { id, tier, updated_at, version, command_id, later })
    }

    /// The project as people and results see it.
    #[must_use]
    pub fn to_public_json(&self) -> Value {
        let tier = self.later.text("tier").unwrap_or(self.tier.as_str());
        json!({ "id": self.id, "tier": tier, "updatedAt": self.updated_at })
    }
}

/// What a `connectors.state` record is about; its text is the record's key.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum StateKey {
    /// A connector: `project/connector`.
    Connector(ConnectorKey),
    /// The project's own record: `project`.
    Project(ProjectId),
}

impl StateKey {
    /// Reads a record's key.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        match text.split_once('/') {
            None => ProjectId::parse(text).map(Self::Project),
            Some((project, connector)) => Ok(Self::Connector(ConnectorKey {
                project: ProjectId::parse(project)?,
                connector: ConnectorId::parse(connector)?,
            })),
        }
    }

    /// The project that it belongs to.
    #[must_use]
    pub fn project(&self) -> &ProjectId {
        match self {
            Self::Connector(key) => &key.project,
            Self::Project(project) => project,
        }
    }

    /// Reads the value of a record with this key as the change that it says; `None` is a
    /// tombstone.
    pub fn read(&self, value: Option<&[u8]>) -> Result<Change, StateError> {
        match (self, value) {
            (Self::Connector(key), None) => Ok(Change::ConnectorGone(key.clone())),
            (Self::Project(project), None) => Ok(Change::ProjectGone(project.clone())),
            (Self::Connector(key), Some(json)) => match Connector::from_json(json)? {
                connector if connector.key == *key => Ok(Change::ConnectorSet(connector)),
                _ => Err(StateError::KeyMismatch),
            },
            (Self::Project(id), Some(json)) => match Project::from_json(json)? {
                project if project.id == *id => Ok(Change::ProjectSet(project)),
                _ => Err(StateError::KeyMismatch),
            },
        }
    }
}

impl fmt::Display for StateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connector(key) => key.fmt(f),
            Self::Project(project) => project.fmt(f),
        }
    }
}

/// A record of the state topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StateRecord {
    /// The number of the command that caused it: see [`number`](super::number).
    pub command_offset: i64,
    /// The id of the commands topic that this command was in, where it is known.
    pub commands_topic: Option<String>,
    /// That command.
    pub command_id: CommandId,
    /// What it is about.
    pub key: StateKey,
    /// How that is now; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
}

/// One fact: what a command changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// The connector is so now.
    ConnectorSet(Connector),
    /// The connector is no more.
    ConnectorGone(ConnectorKey),
    /// The project is so now.
    ProjectSet(Project),
    /// The project's record is no more. No command says this; an operator's tombstone does.
    ProjectGone(ProjectId),
}

impl Change {
    /// What it is about.
    #[must_use]
    pub fn state_key(&self) -> StateKey {
        match self {
            Self::ConnectorSet(connector) => StateKey::Connector(connector.key.clone()),
            Self::ConnectorGone(key) => StateKey::Connector(key.clone()),
            Self::ProjectSet(project) => StateKey::Project(project.id.clone()),
            Self::ProjectGone(project) => StateKey::Project(project.clone()),
        }
    }

    /// The value of its `connectors.state` record; `None` is a tombstone.
    #[must_use]
    pub fn to_value(&self) -> Option<Vec<u8>> {
        match self {
            Self::ConnectorSet(connector) => Some(connector.to_json()),
            Self::ProjectSet(project) => Some(project.to_json()),
            Self::ConnectorGone(_) | Self::ProjectGone(_) => None,
        }
    }
}

/// All that is known about one project.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ProjectState {
    /// The project itself, when billing ever named it.
    pub project: Option<Project>,
    /// Its connectors.
    pub connectors: BTreeMap<ConnectorId, Connector>,
}

impl ProjectState {
    /// The project's tier.
    #[must_use]
    pub fn tier(&self) -> Tier {
        self.project.as_ref().map(|project| project.tier).unwrap_or_default()
    }

    /// Takes a change in. It must be about this project.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::ConnectorSet(connector) => {
                self.connectors.insert(connector.key.connector.clone(), connector.clone());
            }
            Change::ConnectorGone(key) => {
                self.connectors.remove(&key.connector);
            }
            Change::ProjectSet(project) => self.project = Some(project.clone()),
            Change::ProjectGone(_) => self.project = None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONNECTOR: &str = include_str!("../../tests/fixtures/records/state-connector-1.json");
    const PROJECT: &str = include_str!("../../tests/fixtures/records/state-project-1.json");

    #[test]
    fn recorded_state_is_read_and_written_for_ever() {
        let connector = Connector::from_json(CONNECTOR.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(connector.to_json()).unwrap(), CONNECTOR.trim());
        let suspended = include_str!("../../tests/fixtures/records/state-connector-2.json");
        let connector = Connector::from_json(suspended.as_bytes()).unwrap();
        assert!(connector.suspended_at.is_some() && connector.name.is_none());
        let named = include_str!("../../tests/fixtures/records/state-connector-3.json");
        let connector = Connector::from_json(named.as_bytes()).unwrap();
        assert_eq!(connector.name.as_deref(), Some("Sales – Größe"));
        assert_eq!(String::from_utf8(connector.to_json()).unwrap(), named.trim());
        let connector = Connector::from_json(suspended.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(connector.to_json()).unwrap(), suspended.trim());
        let troubled = include_str!("../../tests/fixtures/records/state-connector-4.json");
        let connector = Connector::from_json(troubled.as_bytes()).unwrap();
        assert_eq!(connector.health.outage.as_ref().unwrap().number, 17);
        assert_eq!(String::from_utf8(connector.to_json()).unwrap(), troubled.trim());
        // What a later release knows of it makes no connector unusable.
        let later = troubled.replace("\"toldFailing\"", "\"mood\":1,\"toldFailing\"");
        let connector = Connector::from_json(later.as_bytes()).unwrap();
        assert_eq!((connector.later.unusable(), &connector.health), (None, &Box::default()));
        let project = Project::from_json(PROJECT.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(project.to_json()).unwrap(), PROJECT.trim());
    }

    #[test]
    fn the_public_form_is_masked_and_has_no_inner_fields() {
        let connector = Connector::from_json(CONNECTOR.as_bytes()).unwrap();
        insta::assert_json_snapshot!(connector.to_public_json(), @r#"
        {
          "id": "conn_1",
          "projectId": "proj_1",
          "type": "slack",
          "config": {
            "webhookUrl": "https://hooks.slack.com/…/…XXXX"
          },
          "eventTypes": [
            "payment.settled",
            "payment.failed"
          ],
          "isActive": true,
          "suspendedReason": "HTTP 404: no_service",
          "createdAt": "2026-11-23T08:00:00.000Z",
          "updatedAt": "2026-11-23T09:00:00.000Z"
        }
        "#);
    }

    #[test]
    fn what_a_later_version_wrote_is_written_back() {
        let later = CONNECTOR
            .replace("\"isActive\"", "\"colour\":{\"a\":1},\"isActive\"")
            .replace("payment.failed", "payment.refunded");
        let connector = Connector::from_json(later.as_bytes()).unwrap();
        assert_eq!(connector.event_types, EventTypes::Some(vec![EventType::PaymentSettled]));
        assert_eq!(connector.later.unusable(), None);
        let written: Value = serde_json::from_slice(&connector.to_json()).unwrap();
        assert_eq!(written, serde_json::from_str::<Value>(&later).unwrap());
        let shown = connector.to_public_json();
        assert_eq!(shown["eventTypes"], json!(["payment.settled", "payment.refunded"]));

        let later = PROJECT.replace("\"tier\"", "\"seats\":[3],\"tier\"");
        let project = Project::from_json(later.as_bytes()).unwrap();
        let written: Value = serde_json::from_slice(&project.to_json()).unwrap();
        assert_eq!(written, serde_json::from_str::<Value>(&later).unwrap());
    }

    #[test]
    fn a_value_that_only_a_later_version_knows_makes_a_connector_unusable_and_is_kept() {
        for (field, value) in [
            ("type", json!("carrier-pigeon")),
            ("config", json!({"webhookUrl": {"$sealed": {"form": 2, "canary": "canary"}}})),
            ("config", json!("canary")),
            ("eventTypes", json!({"all": true})),
            ("isActive", json!("weekdays")),
            ("name", json!({"en": "canary"})),
            ("filter", json!({"sql": "canary"})),
            ("suspendedReason", json!({"code": 1})),
            ("suspendedAt", json!(1)),
            ("createdAt", json!(1)),
            ("updatedAt", json!([])),
        ] {
            let mut json: Value = serde_json::from_str(CONNECTOR).unwrap();
            json[field] = value;
            let connector = Connector::from_json(json.to_string().as_bytes()).unwrap();
            let words = connector.later.unusable().unwrap();
            assert!(words.contains(field) && !words.contains("canary"), "{words}");
            assert!(!format!("{connector:?}").contains("canary"));
            let written: Value = serde_json::from_slice(&connector.to_json()).unwrap();
            assert_eq!(written, json);
        }
        let tier = PROJECT.replace("\"pro\"", "\"platinum\"");
        assert_ne!(tier, PROJECT);
        let project = Project::from_json(tier.as_bytes()).unwrap();
        assert_eq!((project.tier, project.later.text("tier")), (Tier::Starter, Some("platinum")));
        assert_eq!(String::from_utf8(project.to_json()).unwrap(), tier.trim());
        for damaged in ["{}", "[]", "1", r#"{"id":"conn_1","projectId":"proj_1"}"#] {
            assert!(Connector::from_json(damaged.as_bytes()).is_err(), "{damaged}");
            assert!(Project::from_json(damaged.as_bytes()).is_err(), "{damaged}");
        }
    }

    #[test]
    fn a_key_is_read_as_it_is_written_and_fits_its_value() {
        for text in ["proj_1", "proj_1/conn_1"] {
            assert_eq!(StateKey::parse(text).unwrap().to_string(), text);
        }
        for text in ["", "/", "a/", "/b", "a/b/c"] {
            assert!(StateKey::parse(text).is_err(), "{text}");
        }
        let key = StateKey::parse("proj_1/conn_1").unwrap();
        assert_eq!(key.read(Some(CONNECTOR.as_bytes())).unwrap().state_key(), key);
        let other = StateKey::parse("proj_2/conn_1").unwrap();
        let error = other.read(Some(CONNECTOR.as_bytes())).unwrap_err();
        assert!(matches!(error, StateError::KeyMismatch));
    }
}
