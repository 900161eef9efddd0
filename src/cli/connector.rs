//! `dunmore connector`.

use std::{io::Read, time::Duration};

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{
    Common, Said, Usage,
    control::{ControlClient, actor},
    filter::{self, FilterCommand},
    load,
    output::{self, Output},
    start_logs, state,
};
use crate::{
    api::read_overlap,
    connector::{
        Command, CommandBody, CommandOutcome, CommandResult, Connector, Problem, ProblemCode,
        Refused,
    },
    destination::SIGNING_SECRET,
    id::{CommandId, ConnectorId, ProjectId},
    secrets::new_signing_secret,
};

#[derive(Subcommand, Debug)]
pub enum ConnectorCommand {
    /// List the connectors of a project, or of all.
    #[command(
        after_help = "Examples:\n  dunmore connector list proj_1\n  dunmore connector list --all --suspended"
    )]
    List(super::many::ListFlags),
    /// Show one connector.
    #[command(after_help = "Example:\n  dunmore connector get proj_1 conn_1")]
    Get {
        /// The project's id.
        project: ProjectId,
        /// The connector's id.
        connector: ConnectorId,
    },
    /// Create a connector.
    #[command(
        after_help = "Example:\n  dunmore connector create proj_1 slack --set webhookUrl=https://hooks.slack.com/services/T0/B0/xyz --events payment.settled,payment.failed\n\nSecrets on a command line end up in its history: --config-json - reads them from standard input."
    )]
    Create {
        /// The project's id.
        project: ProjectId,
        /// The type: slack, zapier, n8n, …
        #[arg(value_name = "TYPE")]
        kind: String,
        /// The connector's id; made up when it is left out.
        #[arg(long)]
        id: Option<ConnectorId>,
        /// The event types, or * for all.
        #[arg(long, value_delimiter = ',', required = true, value_name = "TYPES")]
        events: Vec<String>,
        /// What you call it, at most 80 characters.
        #[arg(long)]
        name: Option<String>,
        /// Which events it wants beside their type: an expression (CEL) over `event`.
        #[arg(long)]
        filter: Option<String>,
        /// Whether it is switched on from the beginning.
        #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
        active: bool,
        #[command(flatten)]
        config: ConfigFlags,
    },
    /// Change a connector.
    #[command(
        after_help = "Examples:\n  dunmore connector update proj_1 conn_1 --active false\n  dunmore connector update proj_1 conn_1 --name \"Sales channel\"\n  dunmore connector update proj_1 conn_1 --set accessToken=new"
    )]
    Update {
        /// The project's id.
        project: ProjectId,
        /// The connector's id.
        connector: ConnectorId,
        /// The event types that replace the current ones.
        #[arg(long, value_delimiter = ',', value_name = "TYPES")]
        events: Option<Vec<String>>,
        /// Switch the connector on or off.
        #[arg(long, value_name = "BOOL")]
        active: Option<bool>,
        /// What you call it; an empty text removes the name.
        #[arg(long)]
        name: Option<String>,
        /// Which events it wants beside their type; an empty text removes the filter.
        #[arg(long)]
        filter: Option<String>,
        #[command(flatten)]
        config: ConfigFlags,
    },
    /// Try filters.
    Filter {
        #[command(subcommand)]
        command: FilterCommand,
    },
    /// Make a new secret to sign a webhook's requests with, and print it. The one before goes on to
    /// sign for the overlap.
    #[command(
        after_help = "Example:\n  dunmore connector signing-secret proj_1 conn_1 --overlap 24h"
    )]
    SigningSecret {
        /// The project's id.
        project: ProjectId,
        /// The connector's id.
        connector: ConnectorId,
        /// How long the secret before goes on to sign: 0s to 7d.
        #[arg(long, default_value = "24h", value_parser = read_overlap, value_name = "DURATION")]
        overlap: Duration,
    },
    /// Lift a connector's suspension without a new configuration.
    #[command(
        after_help = "Examples:\n  dunmore connector resume proj_1 conn_1\n  dunmore connector resume --all --type slack --reason http_404"
    )]
    Resume(super::many::ResumeFlags),
    /// Show what was done to a project's connectors, the latest last.
    #[command(
        after_help = "Examples:\n  dunmore connector history proj_1\n  dunmore connector history proj_1 conn_1 --from '2 days ago' --output json"
    )]
    History(HistoryFlags),
    /// Delete a connector.
    #[command(after_help = "Example:\n  dunmore connector delete proj_1 conn_1")]
    Delete {
        /// The project's id.
        project: ProjectId,
        /// The connector's id.
        connector: ConnectorId,
    },
}

#[derive(Args, Debug)]
pub struct HistoryFlags {
    /// The project's id.
    pub(super) project: ProjectId,
    /// Only what was done to this connector.
    pub(super) connector: Option<ConnectorId>,
    /// Done at this moment or later: RFC 3339, a date, '2 days ago', or beginning.
    #[arg(long, value_name = "WHEN", default_value = "beginning")]
    pub(super) from: String,
    /// The most changes that are listed.
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(super) limit: u32,
}

#[derive(Args, Debug)]
pub struct ConfigFlags {
    /// A configuration field; a value that begins with [ is a JSON list.
    #[arg(long = "set", value_name = "FIELD=VALUE")]
    set: Vec<String>,
    /// The configuration as a JSON object, or - to read it from standard input.
    #[arg(long, value_name = "JSON")]
    config_json: Option<String>,
}

impl ConfigFlags {
    /// The fields that are given, if any.
    pub(super) fn read(&self) -> anyhow::Result<Option<Map<String, Value>>> {
        let mut config = match self.config_json.as_deref() {
            None => Map::new(),
            Some(text) => {
                let text = if text == "-" {
                    let mut input = String::new();
                    std::io::stdin()
                        .read_to_string(&mut input)
                        .context("reading standard input")?;
                    input
                } else {
                    text.to_owned()
                };
                serde_json::from_str(&text)
                    .map_err(|error| Usage(format!("--config-json is no JSON object: {error}")))?
            }
        };
        for pair in &self.set {
            let (name, value) = pair
                .split_once('=')
                .ok_or_else(|| Usage(format!("--set {pair:?}: write FIELD=VALUE")))?;
            let value = match value {
                list if list.starts_with('[') => serde_json::from_str(list)
                    .map_err(|error| Usage(format!("--set {name}: no JSON list: {error}")))?,
                "null" => Value::Null,
                text => Value::String(text.to_owned()),
            };
            config.insert(name.to_owned(), value);
        }
        let given = self.config_json.is_some() || !self.set.is_empty();
        Ok(given.then_some(config))
    }
}

/// `dunmore connector …`
pub async fn run(common: &Common, command: ConnectorCommand) -> anyhow::Result<()> {
    match command {
        ConnectorCommand::List(flags) => super::many::list(common, &flags).await,
        ConnectorCommand::History(flags) => super::history::run(common, flags).await,
        ConnectorCommand::Get { project, connector } => {
            let connectors = read_connectors(common, &project).await?;
            let found = connectors.iter().find(|found| found.key.connector == connector);
            let found = found.ok_or_else(|| no_connector(&project, &connector))?;
            output::json(&found.to_public_json())
        }
        ConnectorCommand::Create { project, kind, id, events, name, filter, active, config } => {
            let id = id.unwrap_or_else(|| ConnectorId::from_uuid(Uuid::now_v7()));
            let command = json!({
                "id": new_command_id(),
                "type": "connector.create",
                "projectId": project,
                "connectorId": id,
                "connector": {
                    "type": kind,
                    "config": config.read()?.unwrap_or_default(),
                    "eventTypes": events,
                    "name": name,
                    "filter": filter,
                    "isActive": active,
                },
            });
            let result = send(common, command).await?;
            report(common, &result, &format!("connector {id} created"))
        }
        ConnectorCommand::Update { project, connector, events, active, name, filter, config } => {
            let mut patch = Map::new();
            if let Some(events) = events {
                patch.insert("eventTypes".to_owned(), events.into());
            }
            if let Some(active) = active {
                patch.insert("isActive".to_owned(), active.into());
            }
            if let Some(name) = name {
                patch.insert("name".to_owned(), name.into());
            }
            if let Some(filter) = filter {
                patch.insert("filter".to_owned(), filter.into());
            }
            if let Some(config) = config.read()? {
                patch.insert("config".to_owned(), config.into());
            }
            if patch.is_empty() {
                return Err(Usage(
                    "nothing to change: give --set, --events, --active, --name or --filter".into(),
                )
                .into());
            }
            let command = json!({
                "id": new_command_id(),
                "type": "connector.update",
                "projectId": project,
                "connectorId": connector,
                "patch": patch,
            });
            let result = send(common, command).await?;
            let shown = result.connector.as_ref();
            let suspended = shown.and_then(|connector| connector["suspendedReason"].as_str());
            let mut done = format!("connector {connector} updated");
            if let Some(reason) = suspended {
                done.push_str(&format!(
                    "; it is still suspended ({reason}): new settings, or dunmore connector \
                     resume {project} {connector}, lift that"
                ));
            }
            report(common, &result, &done)
        }
        ConnectorCommand::Filter { command } => filter::run(common, command).await,
        ConnectorCommand::Resume(flags) => {
            let (Some(project), Some(connector)) = (&flags.project, &flags.connector) else {
                return super::many::resume(common, &flags).await;
            };
            let command = json!({
                "id": new_command_id(),
                "type": "connector.resume",
                "projectId": project,
                "connectorId": connector,
            });
            let result = send(common, command).await?;
            report(common, &result, &format!("connector {connector} is not suspended"))
        }
        ConnectorCommand::SigningSecret { project, connector, overlap } => {
            signing_secret(common, &project, &connector, overlap).await
        }
        ConnectorCommand::Delete { project, connector } => {
            let command = json!({
                "id": new_command_id(),
                "type": "connector.delete",
                "projectId": project,
                "connectorId": connector,
            });
            let result = send(common, command).await?;
            report(common, &result, &format!("connector {connector} deleted"))
        }
    }
}

async fn signing_secret(
    common: &Common,
    project: &ProjectId,
    connector: &ConnectorId,
    overlap: Duration,
) -> anyhow::Result<()> {
    let secret = new_signing_secret();
    let mut config = Map::new();
    config.insert(SIGNING_SECRET.to_owned(), secret.as_str().into());
    let command = json!({
        "id": new_command_id(),
        "type": "connector.update",
        "projectId": project,
        "connectorId": connector,
        "patch": { "config": config },
        "overlapSeconds": overlap.as_secs(),
    });
    let result = send(common, command).await?;
    if common.output == Output::Json && result.outcome == CommandOutcome::Accepted {
        return output::json(&json!({ "signingSecret": secret.as_str() }));
    }
    report(common, &result, &secret)
}

pub(super) fn new_command_id() -> CommandId {
    CommandId::from_uuid(Uuid::now_v7())
}

/// Checks the command as the registrar would, so that plain mistakes are told at once, and sends
/// it. Its secrets are encrypted first when the keys are known here.
pub(super) async fn send(common: &Common, mut command: Value) -> anyhow::Result<CommandResult> {
    command["actor"] = json!(actor());
    start_logs(common, "error")?;
    let config = load(common)?;
    let connection = config.connection()?;
    let topics = config.topics();
    let command = match Command::from_value(command) {
        Ok(command) => command,
        Err(Refused::Rejected { id, project, problem, .. }) => {
            return Ok(CommandResult::rejected(id, project, problem));
        }
        Err(Refused::Unanswerable(error)) => return Err(anyhow!(error)),
    };
    let command = seal(common, &config, command).await?;
    let codec = super::codec(&config, &topics).await?;
    Ok(ControlClient::new(&connection, &topics, codec)?.send(&command).await?)
}

async fn seal(
    common: &Common,
    config: &crate::config::Config,
    mut command: Command,
) -> anyhow::Result<Command> {
    let Ok(keys) = config.secret_keys() else { return Ok(command) };
    let kind = match &command.body {
        CommandBody::Create { kind, .. } => *kind,
        // An update does not say of which type the connector is, and so which fields are secret.
        CommandBody::Update { connector, patch, .. } if patch.config.is_some() => {
            let connectors = read_connectors(common, &command.project).await?;
            let found = connectors.iter().find(|found| found.key.connector == *connector);
            found
                .map(|found| found.kind)
                .ok_or_else(|| no_connector(&command.project, connector))?
        }
        _ => return Ok(command),
    };
    let keyring = crate::secrets::Keyring::parse(&keys)
        .map_err(|error| Usage(format!("secrets.keys: {error}")))?;
    keyring.seal_command(&mut command, kind);
    Ok(command)
}

fn no_connector(project: &ProjectId, connector: &ConnectorId) -> anyhow::Error {
    anyhow!("project {project} has no connector {connector}")
}

/// Prints how a command ended. What was typed wrongly ends like every wrong call.
pub(super) fn report(common: &Common, result: &CommandResult, done: &str) -> anyhow::Result<()> {
    if common.output == Output::Json {
        output::json(result)?;
    }
    if result.outcome == CommandOutcome::Accepted {
        if common.output == Output::Table {
            output::line(done);
        }
        return Ok(());
    }
    let problem = result.problem.as_ref();
    let words = problem.map_or_else(|| "rejected".to_owned(), describe);
    let wrong = [ProblemCode::ValidationFailed, ProblemCode::InvalidCommand];
    if problem.is_some_and(|problem| wrong.contains(&problem.code)) {
        return Err(Usage(words).into());
    }
    if common.output == Output::Table {
        eprintln!("dunmore: {words}");
    }
    Err(Said.into())
}

/// A problem as text for people.
pub(super) fn describe(problem: &Problem) -> String {
    let mut text = format!("{} ({})", problem.detail, problem.code.as_str());
    for error in &problem.errors {
        text.push_str(&format!("\n  {}: {}", error.field, error.message));
    }
    text
}

/// The project's connectors, read from the state topic.
async fn read_connectors(common: &Common, project: &ProjectId) -> anyhow::Result<Vec<Connector>> {
    start_logs(common, "error")?;
    let config = load(common)?;
    state::read(&config, Some(project)).await
}
