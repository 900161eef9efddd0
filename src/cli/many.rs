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
    connector::{
        Command, CommandBody, CommandOutcome, CommandResult, Connector, ProblemCode, SuspensionCode,
    },
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

/// What became of each command.
#[derive(Default)]
struct Resumed {
    outcomes: Vec<(ConnectorKey, Became)>,
    /// Why some were not decided.
    error: Option<String>,
}

/// What became of the command for a connector.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Became {
    Resumed,
    /// Deleted meanwhile.
    Gone,
    Failed(String),
    /// Not sent, or not decided while it was waited for: then it may be yet.
    Undecided,
}

impl Became {
    fn of(result: &CommandResult) -> Self {
        match (result.outcome, &result.problem) {
            (CommandOutcome::Accepted, _) => Self::Resumed,
            (_, Some(problem)) if problem.code == ProblemCode::ConnectorNotFound => Self::Gone,
            (_, problem) => Self::Failed(problem.as_ref().map(describe).unwrap_or_default()),
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Resumed => "resumed",
            Self::Gone => "gone",
            Self::Failed(_) => "failed",
            Self::Undecided => "undecided",
        }
    }
}

impl Resumed {
    fn of<'a>(
        chosen: impl Iterator<Item = &'a ConnectorKey>,
        decided: &BTreeMap<ConnectorKey, Became>,
        error: Option<String>,
    ) -> Self {
        let outcome = |key: &ConnectorKey| {
            (key.clone(), decided.get(key).cloned().unwrap_or(Became::Undecided))
        };
        Self { outcomes: chosen.map(outcome).collect(), error }
    }

    fn count(&self, word: &str) -> usize {
        self.outcomes.iter().filter(|(_, became)| became.word() == word).count()
    }

    /// Whether everything was done that could be.
    fn is_whole(&self) -> bool {
        self.count("failed") + self.count("undecided") == 0
    }

    /// What was done, in a line.
    fn words(&self) -> String {
        let more = ["gone", "failed", "undecided"].map(|word| (self.count(word), word));
        let more = more.iter().filter(|(number, _)| *number > 0);
        let more: Vec<String> = more.map(|(number, word)| format!(", {number} {word}")).collect();
        let (resumed, all) = (self.count("resumed"), self.outcomes.len());
        format!("{resumed} of {all} resumed{}", more.concat())
    }
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
    let mut decided = BTreeMap::new();
    let sent = client.send_all(&commands, |result| {
        if let Some(key) = keys.get(&result.command_id) {
            decided.insert((*key).clone(), Became::of(&result));
        }
    });
    let error = match sent.await {
        Ok(()) => None,
        Err(error) if decided.is_empty() => return Err(error.into()),
        // What was decided before it is told all the same.
        Err(error) => Some(error.to_string()),
    };
    Ok(Resumed::of(chosen.iter().map(|connector| &connector.key), &decided, error))
}

fn report(
    common: &Common,
    flags: &ResumeFlags,
    chosen: &[Connector],
    resumed: &Resumed,
) -> anyhow::Result<()> {
    match common.output {
        Output::Json => output::json(&to_json(flags, chosen, resumed))?,
        Output::Table => {
            // All are on the screen already where all was done.
            for (key, became) in resumed.outcomes.iter().filter(|_| !resumed.is_whole()) {
                match became {
                    Became::Failed(why) => eprintln!("dunmore: {key}: {why}"),
                    became => output::line(&format!("{key}: {}", became.word())),
                }
            }
            if let Some(error) = &resumed.error {
                eprintln!("dunmore: {error}");
            }
            output::line(&match (chosen.is_empty(), flags.dry_run) {
                (true, _) => "no suspended connector is meant".to_owned(),
                (false, true) => format!("{} would be resumed", chosen.len()),
                (false, false) => resumed.words(),
            });
        }
    }
    if resumed.is_whole() { Ok(()) } else { Err(Said.into()) }
}

fn to_json(flags: &ResumeFlags, chosen: &[Connector], resumed: &Resumed) -> Value {
    let failed = resumed.outcomes.iter().filter_map(|(key, became)| match became {
        Became::Failed(why) => Some(json!({ "connector": key.to_string(), "problem": why })),
        _ => None,
    });
    let results = resumed
        .outcomes
        .iter()
        .map(|(key, became)| json!({ "connector": key.to_string(), "outcome": became.word() }));
    json!({
        "dryRun": flags.dry_run,
        "found": chosen.len(),
        "resumed": resumed.count("resumed"),
        "gone": resumed.count("gone"),
        "undecided": resumed.count("undecided"),
        "failed": failed.collect::<Vec<_>>(),
        "results": results.collect::<Vec<_>>(),
        "error": resumed.error,
        "connectors": chosen.iter().map(Connector::to_public_json).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connector::Problem;

    fn result(problem: Option<ProblemCode>) -> CommandResult {
        CommandResult {
            command_id: CommandId::parse("cmd_1").unwrap(),
            project_id: None,
            outcome: problem.map_or(CommandOutcome::Accepted, |_| CommandOutcome::Rejected),
            problem: problem.map(|code| Problem::new(code, "why")),
            connector: None,
            version: None,
        }
    }

    #[test]
    fn what_became_of_each_is_told_though_others_were_not_decided() {
        let key = |id: &str| ConnectorKey {
            project: ProjectId::parse("proj_1").unwrap(),
            connector: ConnectorId::parse(id).unwrap(),
        };
        let chosen = ["a", "b", "c", "d"].map(key);
        let became = |problem| Became::of(&result(problem));
        let mut decided = BTreeMap::from([
            (key("a"), became(None)),
            (key("b"), became(Some(ProblemCode::ConnectorNotFound))),
        ]);
        let done = Resumed::of(chosen[..2].iter(), &decided, None);
        assert_eq!((done.words().as_str(), done.is_whole()), ("1 of 2 resumed, 1 gone", true));

        decided.insert(key("c"), became(Some(ProblemCode::Conflict)));
        let told = Resumed::of(chosen.iter(), &decided, Some("no result".to_owned()));
        assert_eq!(told.words(), "1 of 4 resumed, 1 gone, 1 failed, 1 undecided");
        assert!(!told.is_whole());
        let words: Vec<&str> = told.outcomes.iter().map(|(_, became)| became.word()).collect();
        assert_eq!(words, ["resumed", "gone", "failed", "undecided"]);
        assert!(matches!(&told.outcomes[2].1, Became::Failed(why) if why.contains("why")));
    }
}
