//! `dunmore project`.

use anyhow::anyhow;
use clap::Subcommand;
use serde_json::json;

use super::{
    Common,
    connector::{new_command_id, report, send},
    load,
    output::{self, Output},
    start_logs, state,
};
use crate::{
    connector::{Connector, ProjectState},
    id::ProjectId,
};

#[derive(Subcommand, Debug)]
pub enum ProjectCommand {
    /// Set a project's tier: starter 0 connectors, pro 5, business 15, enterprise unlimited.
    #[command(after_help = "Example:\n  dunmore project set-tier proj_1 pro")]
    SetTier {
        /// The project's id.
        project: ProjectId,
        /// starter, pro, business or enterprise.
        tier: String,
    },
    /// Show a project's tier, its limit, and how many connectors it has.
    #[command(after_help = "Example:\n  dunmore project show proj_1")]
    Show {
        /// The project's id.
        project: ProjectId,
    },
}

/// How many connectors a project has, by what they do.
#[derive(serde::Serialize, PartialEq, Eq, Debug, Default)]
struct Use {
    total: usize,
    /// Switched on, suspended ones too.
    active: usize,
    /// Switched on or off.
    suspended: usize,
}

impl Use {
    fn of<'a>(connectors: impl Iterator<Item = &'a Connector>) -> Self {
        let mut counted = Self::default();
        for connector in connectors {
            let is_suspended = connector.suspended_reason.is_some();
            counted.total += 1;
            counted.active += usize::from(connector.is_active);
            counted.suspended += usize::from(is_suspended);
        }
        counted
    }
}

/// `dunmore project …`
pub async fn run(common: &Common, command: ProjectCommand) -> anyhow::Result<()> {
    match command {
        ProjectCommand::SetTier { project, tier } => {
            let command = json!({
                "id": new_command_id(),
                "type": "project.set_tier",
                "projectId": project,
                "tier": tier,
            });
            let result = send(common, command).await?;
            report(common, &result, &format!("{project} is on tier {tier}"))
        }
        ProjectCommand::Show { project } => {
            start_logs(common, "error")?;
            let state = state::read_project(&load(common)?, &project).await?;
            show(common, &project, &state)
        }
    }
}

fn show(common: &Common, project: &ProjectId, state: &ProjectState) -> anyhow::Result<()> {
    if *state == ProjectState::default() {
        return Err(anyhow!(
            "nothing is known of project {project}: it has no connectors and no tier was set for it"
        ));
    }
    let used = Use::of(state.connectors.values());
    let later = state.project.as_ref().and_then(|project| project.later.text("tier"));
    let tier = later.unwrap_or(state.tier().as_str());
    let limit = state.tier().limit();
    if common.output == Output::Json {
        return output::json(&json!({
            "id": project,
            "tier": tier,
            "limit": limit,
            "connectors": used,
        }));
    }
    let limit = limit.map_or_else(|| "no limit".to_owned(), |limit| format!("limit {limit}"));
    output::line(&format!("project {project}"));
    output::line(&format!("tier {tier}, {limit}"));
    output::line(&format!(
        "connectors: {} in all, {} active, {} suspended",
        used.total, used.active, used.suspended
    ));
    Ok(())
}
