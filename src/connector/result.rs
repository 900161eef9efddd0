//! How a command ended: the value of a `connectors.results` record.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Change, Command, Problem};
use crate::id::{CommandId, ProjectId};

/// Whether a command was carried out.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CommandOutcome {
    /// It was.
    Accepted,
    /// It was not.
    Rejected,
}

impl CommandOutcome {
    /// The name in results and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Rejected => "rejected",
        }
    }
}

/// How a command ended. It shows no secret.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommandResult {
    /// The command.
    pub command_id: CommandId,
    /// Its project, unless it named none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_id: Option<ProjectId>,
    /// Whether it was carried out.
    pub outcome: CommandOutcome,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
    /// The connector after it, as the API shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connector: Option<Value>,
}

impl CommandResult {
    /// The command made this change.
    #[must_use]
    pub fn accepted(command: &Command, change: &Change) -> Self {
        let connector = match change {
            Change::ConnectorSet(connector) => Some(connector.to_public_json()),
            _ => None,
        };
        Self {
            command_id: command.id.clone(),
            project_id: Some(command.project.clone()),
            outcome: CommandOutcome::Accepted,
            problem: None,
            connector,
        }
    }

    /// The command was refused.
    #[must_use]
    pub fn rejected(command: CommandId, project: Option<ProjectId>, problem: Problem) -> Self {
        Self {
            command_id: command,
            project_id: project,
            outcome: CommandOutcome::Rejected,
            problem: Some(problem),
            connector: None,
        }
    }

    /// The record's value.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads a record's value.
    pub fn from_json(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json).map(|crate::json::Object(result)| result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_results_are_read_and_written_for_ever() {
        let record = include_str!("../../tests/fixtures/records/result-1.json");
        let result = CommandResult::from_json(record.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(result.to_json()).unwrap(), record.trim());
    }
}
