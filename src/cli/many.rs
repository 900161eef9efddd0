//! Connectors of many projects at once: listed, and resumed.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::{Value, json};

use super::{
    Common, Said, Usage,
    cards::{card, one_line},
    connector::{describe, new_command_id},
    control::{ControlClient, actor},
    load,
    output::{self, Output},
    start_logs, state,
    watch::{confirm, count},
};
use crate::{
    config::Config,
    connector::{Command, CommandBody, CommandOutcome, Connector, ProblemCode, SuspensionCode},
    destination::ConnectorType,
    id::{CommandId, ConnectorId, ConnectorKey, ProjectId},
};

/// Connectors that are listed before they are resumed.
const MAX_SHOWN: usize = 50;

#[derive(Args, Debug)]
pub struct ListFlags {
    /// The project's id.
    #[arg(required_unless_present = "all")]
    project: Option<ProjectId>,
    /// The connectors of all projects.
    #[arg(long, conflicts_with = "project")]
    all: bool,
    /// Only those that are suspended.
    #[arg(long)]
    suspended: bool,
    /// Only those of a type, such as slack.
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<ConnectorType>,
}

#[derive(Args, Debug)]
pub struct ResumeFlags {
    /// The project's id.
    #[arg(required_unless_present = "all")]
    pub(super) project: Option<ProjectId>,
    /// The connector's id.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub(super) connector: Option<ConnectorId>,
    /// Every suspended connector that the other flags choose, of a project or of all.
    #[arg(long)]
    pub(super) all: bool,
    /// Only those of a type, such as slack.
    #[arg(long = "type", value_name = "TYPE", requires = "all")]
    kind: Option<ConnectorType>,
    /// Only those that were suspended for this reason: its code, such as `http_401`, or some of its
    /// words.
    #[arg(long, value_name = "REASON", requires = "all")]
    reason: Option<String>,
    /// Only list them.
    #[arg(long, requires = "all")]
    dry_run: bool,
    /// Do not ask.
    #[arg(long, requires = "all")]
    yes: bool,
}

/// `dunmore connector list …`
pub async fn list(common: &Common, flags: &ListFlags) -> anyhow::Result<()> {
    start_logs(common, "error")?;
    let mut connectors = state::read(&load(common)?, flags.project.as_ref()).await?;
    connectors.retain(|connector| {
        (!flags.suspended || connector.suspended_reason.is_some())
            && flags.kind.is_none_or(|kind| connector.kind == kind)
    });
    if common.output == Output::Json {
        let connectors: Vec<Value> = connectors.iter().map(Connector::to_public_json).collect();
        return output::json(&json!({ "connectors": connectors }));
    }
    if connectors.is_empty() {
        let which = if flags.suspended { "suspended " } else { "" };
        output::line(&format!("no {which}connectors"));
        return Ok(());
    }
    for connector in &connectors {
        show(connector, flags.all);
    }
    Ok(())
}

/// An entry of a list: the ids whole, what is long on a line of its own.
fn show(connector: &Connector, with_project: bool) {
    let key = &connector.key;
    let id = if with_project { key.to_string() } else { key.connector.to_string() };
    let (state, reason) = match &connector.suspended_reason {
        Some(reason) => {
            let since = connector.suspended_at.map(|at| format!(" since {at}")).unwrap_or_default();
            (format!("suspended{since}, {}", SuspensionCode::of(reason)), reason.as_str())
        }
        None => (String::new(), ""),
    };
    let switch = if connector.is_active { "" } else { "off" };
    let state = match (state.is_empty(), switch.is_empty()) {
        (true, true) => format!("active since {}", connector.updated_at),
        (true, false) => format!("off since {}", connector.updated_at),
        (false, true) => state,
        (false, false) => format!("off, {state}"),
    };
    let events = connector.event_type_names().join(", ");
    let words = if reason.is_empty() { events } else { reason.to_owned() };
    let name = connector.name.as_deref().map(one_line).unwrap_or_default();
    card(&format!("{id} ({})", one_line(connector.type_name())), &[name, state], &words);
}

impl ResumeFlags {
    fn chooses(&self, connector: &Connector) -> bool {
        let Some(suspended) = &connector.suspended_reason else { return false };
        let has_reason = |reason: &String| {
            SuspensionCode::of(suspended).to_string() == *reason || suspended.contains(reason)
        };
        self.kind.is_none_or(|kind| connector.kind == kind)
            && self.reason.as_ref().is_none_or(has_reason)
    }
}

/// `dunmore connector resume --all …`
pub async fn resume(common: &Common, flags: &ResumeFlags) -> anyhow::Result<()> {
    if flags.reason.as_ref().is_some_and(String::is_empty) {
        return Err(Usage("--reason must not be empty".to_owned()).into());
    }
    start_logs(common, "error")?;
    let config = load(common)?;
    let mut chosen = state::read(&config, flags.project.as_ref()).await?;
    chosen.retain(|connector| flags.chooses(connector));
    if common.output == Output::Table {
        for connector in chosen.iter().take(MAX_SHOWN) {
            show(connector, true);
        }
        if chosen.len() > MAX_SHOWN {
            let more = count((chosen.len() - MAX_SHOWN) as u64);
            output::line(&format!("and {more} more: dunmore connector list --all --suspended"));
        }
    }
    let question = match chosen.len() {
        1 => "Resume this connector?".to_owned(),
        number => format!("Resume {} connectors?", count(number as u64)),
    };
    let resumed = if chosen.is_empty() || flags.dry_run {
        Resumed::default()
    } else if confirm(flags.yes, &question)? {
        send(&config, &chosen).await?
    } else {
        return Err(Said.into());
    };
    report(common, flags, &chosen, &resumed)
}

/// What became of the commands.
#[derive(Default)]
struct Resumed {
    accepted: usize,
    /// Deleted meanwhile.
    gone: usize,
    failed: Vec<(ConnectorKey, String)>,
}

async fn send(config: &Config, chosen: &[Connector]) -> anyhow::Result<Resumed> {
    let topics = config.topics();
    let codec = super::codec(config, &topics).await?;
    let client = ControlClient::new(&config.connection()?, &topics, codec)?;
    let command = |connector: &Connector| Command {
        id: new_command_id(),
        project: connector.key.project.clone(),
        actor: Some(actor()),
        body: CommandBody::Resume { connector: connector.key.connector.clone() },
    };
    let commands: Vec<Command> = chosen.iter().map(command).collect();
    let keys: BTreeMap<CommandId, &ConnectorKey> =
        commands.iter().zip(chosen).map(|(c, connector)| (c.id.clone(), &connector.key)).collect();
    let mut resumed = Resumed::default();
    client
        .send_all(&commands, |result| match (result.outcome, &result.problem) {
            (CommandOutcome::Accepted, _) => resumed.accepted += 1,
            (_, Some(problem)) if problem.code == ProblemCode::ConnectorNotFound => {
                resumed.gone += 1;
            }
            (_, problem) => {
                if let Some(key) = keys.get(&result.command_id) {
                    let why = problem.as_ref().map(describe).unwrap_or_default();
                    resumed.failed.push(((*key).clone(), why));
                }
            }
        })
        .await?;
    Ok(resumed)
}

fn report(
    common: &Common,
    flags: &ResumeFlags,
    chosen: &[Connector],
    resumed: &Resumed,
) -> anyhow::Result<()> {
    let failed = resumed.failed.iter();
    match common.output {
        Output::Json => output::json(&json!({
            "dryRun": flags.dry_run,
            "found": chosen.len(),
            "resumed": resumed.accepted,
            "gone": resumed.gone,
            "failed": failed
                .map(|(key, problem)| json!({ "connector": key.to_string(), "problem": problem }))
                .collect::<Vec<_>>(),
            "connectors": chosen.iter().map(Connector::to_public_json).collect::<Vec<_>>(),
        }))?,
        Output::Table => {
            for (key, problem) in failed {
                eprintln!("dunmore: {key}: {problem}");
            }
            output::line(&match (chosen.is_empty(), flags.dry_run) {
                (true, _) => "no suspended connector is meant".to_owned(),
                (false, true) => format!("{} would be resumed", chosen.len()),
                (false, false) => format!("{} of {} resumed", resumed.accepted, chosen.len()),
            });
        }
    }
    if resumed.failed.is_empty() { Ok(()) } else { Err(Said.into()) }
}
