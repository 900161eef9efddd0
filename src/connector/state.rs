//! The facts: a connector and a project as they are after a change, and the fold of changes.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Config, Tier};
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
    /// Why its deliveries are held, if they are.
    pub suspended_reason: Option<String>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was changed last.
    pub updated_at: Timestamp,
    /// The offset of the command that made this version. Encrypting anew makes none.
    pub version: i64,
    /// That command.
    pub command_id: CommandId,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConnectorWire {
    id: ConnectorId,
    project_id: ProjectId,
    #[serde(rename = "type")]
    kind: ConnectorType,
    config: Config,
    event_types: Vec<String>,
    is_active: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    suspended_reason: Option<String>,
    created_at: Timestamp,
    updated_at: Timestamp,
    version: i64,
    command_id: CommandId,
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
            event_types: self.event_types.to_names().into_iter().map(str::to_owned).collect(),
            is_active: self.is_active,
            suspended_reason: self.suspended_reason.clone(),
            created_at: self.created_at,
            updated_at: self.updated_at,
            version: self.version,
            command_id: self.command_id.clone(),
        };
        to_bytes(&wire)
    }

    /// Reads the value of a `connectors.state` record.
    pub fn from_json(json: &[u8]) -> Result<Self, StateError> {
        let wire: ConnectorWire = serde_json::from_slice(json)?;
        Ok(Self {
            key: ConnectorKey { project: wire.project_id, connector: wire.id },
            kind: wire.kind,
            config: wire.config,
            event_types: read_event_types(&wire.event_types),
            is_active: wire.is_active,
            suspended_reason: wire.suspended_reason,
            created_at: wire.created_at,
            updated_at: wire.updated_at,
            version: wire.version,
            command_id: wire.command_id,
        })
    }

    /// The connector as the API shows it: secrets masked.
    #[must_use]
    pub fn to_public_json(&self) -> Value {
        let mut json = json!({
            "id": self.key.connector,
            "projectId": self.key.project,
            "type": self.kind,
            "config": self.config.masked(self.kind),
            "eventTypes": self.event_types,
            "isActive": self.is_active,
        });
        if let Some(reason) = &self.suspended_reason {
            json["suspendedReason"] = json!(reason);
        }
        json["createdAt"] = json!(self.created_at);
        json["updatedAt"] = json!(self.updated_at);
        json
    }
}

/// Event types of a later version are passed over: the connector works for those that are known
/// here, where refusing the record would stop all its deliveries.
fn read_event_types(names: &[String]) -> EventTypes {
    if names.iter().any(|name| name == "*") {
        return EventTypes::All;
    }
    let mut known: Vec<EventType> = names.iter().filter_map(|name| name.parse().ok()).collect();
    known.sort_unstable();
    known.dedup();
    EventTypes::Some(known)
}

/// What billing said about a project.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Project {
    /// The project.
    pub id: ProjectId,
    /// Its tier.
    pub tier: Tier,
    /// When that was said.
    pub updated_at: Timestamp,
    /// The offset of the command that made this version.
    pub version: i64,
    /// That command.
    pub command_id: CommandId,
}

impl Project {
    /// The value of its `connectors.state` record.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        to_bytes(self)
    }

    /// Reads the value of a `connectors.state` record.
    pub fn from_json(json: &[u8]) -> Result<Self, StateError> {
        Ok(serde_json::from_slice(json)?)
    }

    /// The project as people and results see it.
    #[must_use]
    pub fn to_public_json(&self) -> Value {
        json!({ "id": self.id, "tier": self.tier, "updatedAt": self.updated_at })
    }
}

/// Texts, numbers and maps with text keys always have a JSON form.
fn to_bytes(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
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
    /// The offset of the command that caused it.
    pub command_offset: i64,
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
    fn a_later_version_may_add_fields_and_event_types() {
        let later = CONNECTOR
            .replace("\"isActive\"", "\"filter\":{\"a\":1},\"isActive\"")
            .replace("payment.failed", "payment.refunded");
        let connector = Connector::from_json(later.as_bytes()).unwrap();
        assert_eq!(connector.event_types, EventTypes::Some(vec![EventType::PaymentSettled]));
        let unknown = CONNECTOR.replace("\"slack\"", "\"carrier-pigeon\"");
        assert!(Connector::from_json(unknown.as_bytes()).is_err());
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
