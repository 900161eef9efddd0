//! What an accepted command did, to be looked up later: the value of a `connectors.history`
//! record.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Change, Command, CommandBody, ProjectState, StateKey};
use crate::{
    clock::Timestamp,
    id::{CommandId, ConnectorId, ProjectId},
    text::harmless,
};

/// The actor of a command that names none.
const UNKNOWN_ACTOR: &str = "unknown";

/// What an accepted command did. It shows no secret. A command that is decided again, because its
/// registrar ended before the decision was durable, has a second record with the same
/// `command_id`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HistoryRecord {
    /// The command.
    pub command_id: CommandId,
    /// Its name, such as `connector.update`.
    #[serde(rename = "type")]
    pub command: String,
    /// Its project.
    pub project_id: ProjectId,
    /// The connector that it was about, if it was about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connector_id: Option<ConnectorId>,
    /// The actor, by the sender's own account.
    pub actor: String,
    /// The timestamp of the command's record.
    pub at: Timestamp,
    /// The number of the command, as its result has it.
    pub version: i64,
    /// The connector or project before it, as the API shows it; none when there was none, and none
    /// when nothing that the API shows has changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// The same after it; none when it was deleted, and none when nothing that the API shows has
    /// changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
}

impl HistoryRecord {
    /// Of the command of this number, which made this change to this state.
    #[must_use]
    pub fn of(
        command: &Command,
        at: Timestamp,
        number: i64,
        state: &ProjectState,
        change: &Change,
    ) -> Self {
        let before = match change.state_key() {
            StateKey::Connector(key) => {
                state.connectors.get(&key.connector).map(super::Connector::to_public_json)
            }
            StateKey::Project(_) => state.project.as_ref().map(super::Project::to_public_json),
        };
        let after = match change {
            Change::ConnectorSet(connector) => Some(connector.to_public_json()),
            Change::ProjectSet(project) => Some(project.to_public_json()),
            Change::ConnectorGone(_) | Change::ProjectGone(_) => None,
        };
        let is_same = before == after;
        Self {
            command_id: command.id.clone(),
            command: command.name().to_owned(),
            project_id: command.project.clone(),
            connector_id: command.body.connector().cloned(),
            actor: command
                .actor
                .as_deref()
                .unwrap_or(UNKNOWN_ACTOR)
                .chars()
                .map(harmless)
                .collect(),
            at,
            version: number,
            before: before.filter(|_| !is_same),
            after: after.filter(|_| !is_same),
        }
    }

    /// Whether it is a report of a connector's health.
    #[must_use]
    pub fn is_report(&self) -> bool {
        CommandBody::REPORTS.contains(&&*self.command)
    }

    /// What is different, field by field, in words; nothing when nothing that the API shows is.
    #[must_use]
    pub fn differences(&self) -> Vec<String> {
        let (before, after) = (flat(self.before.as_ref()), flat(self.after.as_ref()));
        let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
        names.sort_unstable();
        names.dedup();
        // Ids and times stand beside it.
        let is_told = |name: &str| !matches!(name, "id" | "projectId" | "createdAt" | "updatedAt");
        let differs = |name: &&String| is_told(name) && before.get(*name) != after.get(*name);
        names
            .into_iter()
            .filter(differs)
            .map(|name| match (before.get(name), after.get(name)) {
                (Some(before), Some(after)) => format!("{name}: {before} → {after}"),
                (None, Some(after)) => format!("{name}: {after}"),
                (before, None) => format!("{name}: {} → none", before.map_or("", |text| text)),
            })
            .collect()
    }

    /// As little as says what was done, for a topic that does not take all of it.
    #[must_use]
    pub fn cut(&self) -> Self {
        Self { before: None, after: None, ..self.clone() }
    }

    /// The record's value.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads a record's value.
    pub fn from_json(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json).map(|crate::json::Object(record)| record)
    }
}

/// The fields as texts, those of the configuration by their own names.
fn flat(shown: Option<&Value>) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    for (name, value) in shown.and_then(Value::as_object).into_iter().flatten() {
        match value {
            Value::Object(inner) => {
                let inner = inner.iter().map(|(key, value)| (format!("{name}.{key}"), text(value)));
                fields.extend(inner);
            }
            value => {
                fields.insert(name.clone(), text(value));
            }
        }
    }
    fields
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(", "),
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_told_field_by_field() {
        let record = include_str!("../../tests/fixtures/records/history-1.json");
        let mut history = HistoryRecord::from_json(record.as_bytes()).unwrap();
        assert_eq!(
            history.differences(),
            [
                "suspendedAt: 2026-11-23T08:00:01.000Z",
                "suspendedReason: gone: HTTP 404: no_service",
            ]
        );
        let mut before = history.before.take().unwrap();
        before["isActive"] = serde_json::json!(false);
        before["config"]["webhookUrl"] = serde_json::json!("…1234");
        (history.before, history.after) = (history.after.take(), Some(before));
        assert_eq!(
            history.differences(),
            [
                "config.webhookUrl: https://hooks.slack.com/…/…cdef → …1234",
                "isActive: true → false",
                "suspendedAt: 2026-11-23T08:00:01.000Z → none",
                "suspendedReason: gone: HTTP 404: no_service → none",
            ]
        );
        history.before = None;
        assert!(history.differences().contains(&"type: slack".to_owned()));
        assert_eq!(history.cut().differences(), Vec::<String>::new());
    }

    #[test]
    fn recorded_history_is_read_and_written_for_ever() {
        for record in [
            include_str!("../../tests/fixtures/records/history-1.json"),
            include_str!("../../tests/fixtures/records/history-2.json"),
        ] {
            let history = HistoryRecord::from_json(record.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(history.to_json()).unwrap(), record.trim());
            let cut = HistoryRecord::from_json(&history.cut().to_json()).unwrap();
            assert_eq!((cut.before, cut.after), (None, None));
        }
    }
}
