//! `dunmore secrets`: which keys encrypt what, and a new key for all of it.

use std::collections::BTreeMap;

use anyhow::bail;
use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::{
    Common, Said, Usage,
    connector::{describe, new_command_id},
    control::ControlClient,
    load,
    output::{self, Output},
    start_logs, state,
};
use crate::{
    config::Config,
    connector::{
        Command, CommandBody, CommandOutcome, CommandResult, ConfigValue, Connector, ProblemCode,
    },
    id::ConnectorKey,
    secrets::Keyring,
};

/// How often the connectors are gone through. What is changed meanwhile by an instance that still
/// encrypts with another key is found by the next round.
const MAX_ROUNDS: usize = 3;
/// Stands for the key of a secret that is not encrypted: its field became secret later.
const NO_KEY: &str = "(none)";

#[derive(Subcommand, Debug)]
pub enum SecretsCommand {
    /// Encrypt all stored secrets with the first key of `secrets.keys`, while the service runs.
    ///
    /// Owners see no change: versions, times and suspensions stay. Exit code 1 when a secret
    /// remains that another key encrypts.
    #[command(
        after_help = "Examples:\n  dunmore secrets rotate --dry-run\n  dunmore secrets rotate --output json\n\nA change of keys, step by step:\n  1. add the new key behind the old one on every instance: k1:…,k2:…\n  2. put it first on every instance: k2:…,k1:…\n  3. dunmore secrets rotate\n  4. when it says that no other key is in use, take the old one out"
    )]
    Rotate {
        /// Only say what would be done.
        #[arg(long)]
        dry_run: bool,
    },
}

/// How the stored secrets are encrypted, and what was done about it.
#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
struct Report {
    /// The key that encrypts.
    first_key: String,
    dry_run: bool,
    /// Connectors with a secret that another key encrypts: before, and how it went.
    found: usize,
    reencrypted: usize,
    failed: Vec<Failed>,
    /// Of each key, so many secrets are encrypted with it now.
    keys: Vec<KeyUse>,
    /// Connectors with a secret that another key encrypts, now.
    left: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Failed {
    connector: String,
    problem: String,
}

#[derive(Serialize, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
struct KeyUse {
    key: String,
    secrets: usize,
    connectors: usize,
}

/// `dunmore secrets …`
pub async fn run(common: &Common, command: SecretsCommand) -> anyhow::Result<()> {
    let SecretsCommand::Rotate { dry_run } = command;
    start_logs(common, "error")?;
    let config = load(common)?;
    let keyring = Keyring::parse(&config.secret_keys()?)
        .map_err(|error| Usage(format!("secrets.keys: {error}")))?;
    let mut report =
        Report { first_key: keyring.first_key().to_owned(), dry_run, ..Report::default() };
    let mut connectors = state::read(&config, None).await?;
    let mut todo = outdated(&connectors, &keyring);
    report.found = todo.len();
    if !dry_run {
        for _ in 0..MAX_ROUNDS {
            if todo.is_empty() {
                break;
            }
            round(&config, &todo, &mut report).await?;
            connectors = state::read(&config, None).await?;
            todo = outdated(&connectors, &keyring);
            if !report.failed.is_empty() {
                break;
            }
        }
    }
    report.left = todo.len();
    report.keys = uses(&connectors);
    show(common, &report)?;
    if dry_run || report.left == 0 { Ok(()) } else { Err(Said.into()) }
}

/// Asks for each of these connectors to be encrypted anew.
async fn round(config: &Config, todo: &[ConnectorKey], report: &mut Report) -> anyhow::Result<()> {
    let topics = config.topics();
    let codec = super::codec(config, &topics).await?;
    let client = ControlClient::new(&config.connection()?, &topics, codec)?;
    let command = |key: &ConnectorKey| Command {
        id: new_command_id(),
        project: key.project.clone(),
        actor: Some(super::control::actor()),
        body: CommandBody::Reencrypt {
            connector: key.connector.clone(),
            key: report.first_key.clone(),
        },
    };
    // The first one alone: what is wrong with the keys is wrong for all of them.
    let commands: Vec<Command> = todo.iter().map(command).collect();
    let (first, rest) = commands.split_at(1.min(commands.len()));
    let bar = progress(commands.len());
    let keys: BTreeMap<_, _> =
        commands.iter().zip(todo).map(|(command, key)| (command.id.clone(), key)).collect();
    let mut refused = None;
    let mut each = |result: CommandResult| {
        bar.inc(1);
        match (result.outcome, result.problem) {
            (CommandOutcome::Accepted, _) => report.reencrypted += 1,
            // It was deleted meanwhile: nothing is left to encrypt.
            (_, Some(problem)) if problem.code == ProblemCode::ConnectorNotFound => {}
            (_, Some(problem)) if problem.code != ProblemCode::SecretUnreadable => {
                refused.get_or_insert_with(|| describe(&problem));
            }
            (_, problem) => {
                let connector = keys.get(&result.command_id).map(ToString::to_string);
                report.failed.push(Failed {
                    connector: connector.unwrap_or_default(),
                    problem: problem.as_ref().map(describe).unwrap_or_default(),
                });
            }
        }
    };
    client.send_all(first, &mut each).await?;
    client.send_all(rest, &mut each).await?;
    bar.finish_and_clear();
    match refused {
        None => Ok(()),
        Some(problem) => bail!("the registrar refused: {problem}"),
    }
}

/// Shows how far it is, on a terminal.
fn progress(count: usize) -> ProgressBar {
    let bar = ProgressBar::new(count as u64);
    if let Ok(style) =
        ProgressStyle::with_template("{bar:40} {pos}/{len} connectors, {per_sec}, {eta} left")
    {
        bar.set_style(style);
    }
    bar
}

/// The secrets of a connector, by the key that encrypts each.
fn keys_of(connector: &Connector) -> impl Iterator<Item = &str> {
    connector.config.iter().filter_map(|(name, value)| match value {
        ConfigValue::Sealed(sealed) => Some(sealed.key_id.as_str()),
        ConfigValue::Plain(_) => {
            connector.kind.field(name).is_some_and(|field| field.secret).then_some(NO_KEY)
        }
    })
}

/// The connectors with a secret that another key than the first encrypts, or that is bound to no
/// type.
fn outdated(connectors: &[Connector], keyring: &Keyring) -> Vec<ConnectorKey> {
    let is_unbound = |connector: &Connector| {
        connector.config.iter().any(|(name, value)| match value {
            ConfigValue::Sealed(sealed) => keyring.is_unbound(&connector.key, name, sealed),
            ConfigValue::Plain(_) => false,
        })
    };
    let is_outdated =
        |one: &&Connector| keys_of(one).any(|key| key != keyring.first_key()) || is_unbound(one);
    connectors.iter().filter(is_outdated).map(|connector| connector.key.clone()).collect()
}

fn uses(connectors: &[Connector]) -> Vec<KeyUse> {
    let mut uses: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for connector in connectors {
        let mut of_connector: BTreeMap<&str, usize> = BTreeMap::new();
        for key in keys_of(connector) {
            *of_connector.entry(key).or_default() += 1;
        }
        for (key, secrets) in of_connector {
            let found = uses.entry(key).or_default();
            *found = (found.0 + secrets, found.1 + 1);
        }
    }
    let uses = uses.into_iter();
    uses.map(|(key, (secrets, connectors))| KeyUse { key: key.to_owned(), secrets, connectors })
        .collect()
}

fn show(common: &Common, report: &Report) -> anyhow::Result<()> {
    if common.output == Output::Json {
        return output::json(report);
    }
    output::table(
        ["key", "secrets", "connectors", ""],
        report.keys.iter().map(|used| {
            let note = if used.key == report.first_key { "the first key" } else { "" };
            let (secrets, connectors) = (used.secrets.to_string(), used.connectors.to_string());
            [used.key.clone(), secrets, connectors, note.to_owned()]
        }),
    );
    for failed in &report.failed {
        output::line(&format!("{}: {}", failed.connector, failed.problem));
    }
    let first = &report.first_key;
    output::line(&match (report.dry_run, report.left) {
        (true, 0) => format!("nothing to do: {first} encrypts everything"),
        (true, left) => format!("{left} connectors would be encrypted anew with {first}"),
        (false, 0) => format!(
            "{} of {} connectors encrypted anew; no other key than {first} is in use",
            report.reencrypted, report.found
        ),
        (false, left) => format!(
            "{} of {} connectors encrypted anew; {left} still need another key than {first}: keep \
             those keys, and see that every instance has {first} first",
            report.reencrypted, report.found
        ),
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connector::Change;

    #[test]
    fn every_secret_is_counted_under_its_key() {
        let json = include_str!("../../tests/fixtures/records/state-connector-1.json");
        let old = Connector::from_json(json.as_bytes()).unwrap();
        let mut new = old.clone();
        new.key.connector = "conn_2".parse().unwrap();
        for (_, value) in new.config.iter_mut() {
            if let ConfigValue::Sealed(sealed) = value {
                "k2".clone_into(&mut sealed.key_id);
            }
        }
        let mut plain = old.clone();
        plain.config.insert("webhookUrl", ConfigValue::Plain("https://example.com".into()));
        let all = [old.clone(), new, plain];
        let counted = uses(&all);
        let expected = |key: &str| KeyUse { key: key.to_owned(), secrets: 1, connectors: 1 };
        assert_eq!(counted, [expected(NO_KEY), expected("k1"), expected("k2")]);
        let keyring = |id: &str| {
            let key = format!("{id}:BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=");
            Keyring::parse(&[key]).unwrap()
        };
        // The recorded one is bound to no type, so its own key does not make it up to date.
        assert_eq!(outdated(&all, &keyring("k1")).len(), 3);
        assert_eq!(outdated(&all[..1], &keyring("k2")), std::slice::from_ref(&old.key));
        let mut change = Change::ConnectorSet(old);
        let command =
            CommandBody::Reencrypt { connector: "conn_1".parse().unwrap(), key: "k1".to_owned() };
        let command = Command {
            id: new_command_id(),
            project: "proj_1".parse().unwrap(),
            actor: None,
            body: command,
        };
        keyring("k1").seal_decided(&command, &mut change).unwrap();
        let Change::ConnectorSet(bound) = change else { panic!() };
        assert_eq!(outdated(&[bound], &keyring("k1")), []);
    }
}
