//! How a command ended: the value of a `connectors.results` record.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Change, Command, Problem};
use crate::{
    destination::cut,
    id::{CommandId, ProjectId},
};

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
    /// The number of the accepted command; readers of the state topic know by it when they have what
    /// it changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<i64>,
}

/// Of a problem whose result is larger than its topic takes, so much is kept, in characters.
const MAX_CUT_DETAIL_CHARS: usize = 500;

impl CommandResult {
    /// The command of this number made this change.
    #[must_use]
    pub fn accepted(command: &Command, change: &Change, number: i64) -> Self {
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
            version: Some(number),
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
            version: None,
        }
    }

    /// As little as says how the command ended, for a topic that does not take all of it.
    #[must_use]
    pub fn cut(&self) -> Self {
        let problem = self.problem.as_ref().map(|problem| Problem {
            detail: cut(&problem.detail, MAX_CUT_DETAIL_CHARS),
            errors: Vec::new(),
            ..problem.clone()
        });
        Self { problem, connector: None, ..self.clone() }
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
        for record in [
            include_str!("../../tests/fixtures/records/result-1.json"),
            include_str!("../../tests/fixtures/records/result-2.json"),
        ] {
            let result = CommandResult::from_json(record.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(result.to_json()).unwrap(), record.trim());
        }
    }

    #[test]
    fn what_is_cut_still_says_how_the_command_ended() {
        let errors =
            (0..50).map(|i| crate::connector::FieldError::new(i.to_string(), "x".repeat(500)));
        let code = crate::connector::ProblemCode::ValidationFailed;
        let problem = Problem::with_fields(code, errors.collect());
        let id = CommandId::parse("cmd_1").unwrap();
        let whole = CommandResult::rejected(id, None, problem);
        let cut = CommandResult::from_json(&whole.cut().to_json()).unwrap();
        assert!(cut.to_json().len() < 2_000 && whole.to_json().len() > 20_000);
        assert_eq!((cut.command_id, cut.outcome), (whole.command_id, whole.outcome));
        assert_eq!(cut.problem.unwrap().code, code);
    }
}
