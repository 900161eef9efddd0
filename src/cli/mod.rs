//! The command line.

mod cards;
mod choose;
mod connector;
mod control;
mod deliveries;
mod destination;
mod dlq;
mod doctor;
mod event;
mod filter;
mod history;
mod lag;
mod many;
mod openapi;
mod output;
mod project;
mod redrive;
mod refusals;
mod replay;
mod schemas;
mod secrets;
mod serve;
mod settings;
mod shell;
mod state;
mod status;
mod token;
mod topics;
mod tutorial;
mod watch;

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::{Args, Parser, Subcommand};

pub use control::{ControlClient, ControlError};
use output::Output;
pub(crate) use output::span;

use crate::{
    codec::Codec,
    config::{Config, ConfigError, LogSettings},
    kafka::{StartFrom, Topics},
    metrics::Metrics,
    operations::Operations,
    service::Role,
    telemetry,
};

/// How long a command waits for the schema registry.
const REGISTRY_TIMEOUT: Duration = Duration::from_secs(15);

/// Delivers payment events from Kafka to third-party services.
#[derive(Parser, Debug)]
#[command(name = "dunmore", version, propagate_version = true, subcommand_required = true)]
#[command(after_help = "Try it out without anything else:  dunmore demo")]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args, Debug, Clone)]
struct Common {
    /// A TOML settings file; DUNMORE_… environment variables override it.
    #[arg(long, global = true, value_name = "FILE", env = "DUNMORE_CONFIG")]
    config: Option<PathBuf>,
    /// The brokers, over what the settings say.
    #[arg(long, global = true, value_name = "HOST:PORT")]
    bootstrap_servers: Option<String>,
    /// How results are printed.
    #[arg(long, global = true, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// More log lines on standard error; twice for all.
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Show everything working in one process, with made-up events and services.
    #[command(after_help = "Example:\n  dunmore demo --events 5000")]
    Demo {
        /// How many payment events to send.
        #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
        events: u64,
        /// Print the summary as one JSON object on the last line.
        #[arg(long)]
        json: bool,
    },
    /// Run the service.
    #[command(
        after_help = "Examples:\n  dunmore serve --config dunmore.toml\n  dunmore serve --embedded\n  dunmore serve --roles api,registrar"
    )]
    Serve {
        /// Which parts to run: api, registrar, delivery.
        #[arg(long, value_delimiter = ',', value_name = "ROLES")]
        roles: Vec<Role>,
        /// Start the embedded broker, for trying out: everything is gone at exit.
        #[arg(long)]
        embedded: bool,
        /// Where to begin when the group's committed offsets are lost: beginning, end, or a time.
        #[arg(long, value_name = "WHERE")]
        from: Option<StartFrom>,
    },
    /// Show how the service is, on one screen: what runs, waits, is suspended and fails.
    #[command(
        after_help = "Examples:\n  dunmore status\n  dunmore status --admin 10.0.0.7:9464 --within 1h --output json"
    )]
    Status(status::StatusFlags),
    /// Show how far the service is behind in each topic, since when, and how long it will take.
    #[command(after_help = "Examples:\n  dunmore lag\n  dunmore lag --output json")]
    Lag,
    /// Look at everything that the service needs: settings, brokers, topics, clock, names, the way
    /// out, registry, disk, keys; exit code 1 when something fails.
    #[command(after_help = "Examples:\n  dunmore doctor\n  dunmore doctor --output json")]
    Doctor,
    /// Create or check the Kafka topics.
    Topics {
        #[command(subcommand)]
        command: topics::TopicsCommand,
    },
    /// Look at a project and act on it.
    Project {
        #[command(subcommand)]
        command: project::ProjectCommand,
    },
    /// Manage connectors through Kafka.
    Connector {
        #[command(subcommand)]
        command: connector::ConnectorCommand,
    },
    /// See which services there are, what they need, and what they would be sent.
    Destination {
        #[command(subcommand)]
        command: destination::DestinationCommand,
    },
    /// Produce payment events, and tell what became of them.
    Event {
        #[command(subcommand)]
        command: event::EventCommand,
    },
    /// Register and check the Avro schemas of the topics.
    Schemas {
        #[command(subcommand)]
        command: schemas::SchemasCommand,
    },
    /// Change the keys that encrypt connectors' secrets.
    Secrets {
        #[command(subcommand)]
        command: secrets::SecretsCommand,
    },
    /// Send events again, or for the first time to a new connector.
    Replay(replay::ReplayFlags),
    /// Look at dead letters and act on them.
    Dlq {
        #[command(subcommand)]
        command: dlq::DlqCommand,
    },
    /// Search and follow the record of attempts.
    Deliveries {
        #[command(subcommand)]
        command: deliveries::DeliveriesCommand,
    },
    /// Make tokens for the API.
    Token {
        #[command(subcommand)]
        command: token::TokenCommand,
    },
    /// Print the API's `OpenAPI` document.
    #[command(after_help = "Example:\n  dunmore openapi > openapi.json")]
    Openapi,
    /// Check and show the settings.
    Config {
        #[command(subcommand)]
        command: settings::SettingsCommand,
    },
    /// Print a script that completes this program's commands in a shell.
    #[command(
        after_help = "Examples:\n  dunmore completions bash > /etc/bash_completion.d/dunmore\n  dunmore completions zsh > ~/.zfunc/_dunmore"
    )]
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Write a man page for each command.
    #[command(after_help = "Example:\n  dunmore man /usr/local/share/man/man1")]
    Man {
        /// The folder; made when it is not there.
        folder: PathBuf,
    },
}

/// The command was called wrongly: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// The command did not succeed, and has said so: exit code 1.
#[derive(Debug, thiserror::Error)]
#[error("failed")]
pub struct Said;

/// Runs the program.
pub fn main() -> ExitCode {
    telemetry::keep_panics_quiet();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors.
            let code = if error.use_stderr() { 2 } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("dunmore: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(run(cli));
    // Blocking calls into the Kafka client may still wait for a broker that is away.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Said>() => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("dunmore: {error:#}");
            let usage = error.is::<Usage>() || error.is::<ConfigError>();
            ExitCode::from(if usage { 2 } else { 1 })
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    let common = cli.common;
    match cli.command {
        Command::Demo { events, json } => {
            start_logs(&common, "error")?;
            let json = json || common.output == Output::Json;
            if crate::demo::run(crate::demo::DemoOptions { events, json }).await? {
                Ok(())
            } else {
                Err(Said.into())
            }
        }
        Command::Serve { roles, embedded, from } => {
            serve::run(&common, roles, embedded, from).await
        }
        Command::Status(flags) => status::run(&common, flags).await,
        Command::Lag => lag::run(&common).await,
        Command::Doctor => doctor::run(&common).await,
        Command::Topics { command } => topics::run(&common, command).await,
        Command::Project { command } => project::run(&common, command).await,
        Command::Connector { command } => connector::run(&common, command).await,
        Command::Destination { command } => destination::run(&common, &command),
        Command::Event { command } => event::run(&common, command).await,
        Command::Schemas { command } => schemas::run(&common, command).await,
        Command::Secrets { command } => secrets::run(&common, command).await,
        Command::Replay(flags) => replay::run(&common, flags).await,
        Command::Dlq { command } => dlq::run(&common, command).await,
        Command::Deliveries { command } => deliveries::run(&common, command).await,
        Command::Token { command } => token::run(&common, command),
        Command::Openapi => openapi::run(),
        Command::Config { command } => settings::run(&common, &command),
        Command::Completions { shell } => {
            shell::completions(shell);
            Ok(())
        }
        Command::Man { folder } => shell::man(&folder),
    }
}

/// Logs of a command that is no service: quiet unless asked.
fn start_logs(common: &Common, quiet: &str) -> anyhow::Result<()> {
    let filter = match common.verbose {
        0 => quiet,
        1 => "info",
        _ => "debug",
    };
    let settings = LogSettings { filter: filter.to_owned(), ..LogSettings::default() };
    telemetry::start(&settings).map_err(|error| Usage(error).into())
}

/// The settings, with the flags over them.
fn load(common: &Common) -> Result<Config, ConfigError> {
    let mut config = Config::load(common.config.as_deref())?;
    if let Some(servers) = &common.bootstrap_servers {
        config.kafka.bootstrap_servers = Some(servers.clone());
    }
    Ok(config)
}

/// The form of the records, for a command that only reads.
fn reading_codec(config: &Config) -> anyhow::Result<Codec> {
    let metrics = Arc::new(Metrics::new()?);
    Codec::new(&config.schema_registry, metrics).map_err(|error| Usage(error).into())
}

/// The logs, and the form of their records.
async fn operations(config: &Config) -> anyhow::Result<Operations> {
    // Refused before anybody is asked.
    config.connection()?;
    let topics = config.topics();
    Ok(Operations::new(config, codec(config, &topics).await?)?)
}

/// The logs, for a command that only reads them: it waits for no schema registry before it must.
fn reading(config: &Config) -> anyhow::Result<Operations> {
    config.connection()?;
    Ok(Operations::new(config, reading_codec(config)?)?)
}

/// The form of the records, with the ids of our schemas when there is a registry.
async fn codec(config: &Config, topics: &Topics) -> anyhow::Result<Codec> {
    let codec = reading_codec(config)?;
    let deadline = Instant::now() + REGISTRY_TIMEOUT;
    let prepared = codec.prepare(topics, || Instant::now() >= deadline).await;
    prepared.map_err(|error| anyhow::anyhow!(error))?;
    Ok(codec)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_help_with_an_example() {
        fn check(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            let mut leaves = command.get_subcommands().filter(|c| c.get_name() != "help");
            if let Some(first) = leaves.next() {
                check(first, &path);
                leaves.for_each(|sub| check(sub, &path));
            } else {
                let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("Example"), "{path} has no example");
                assert!(command.get_about().is_some(), "{path} has no description");
            }
        }
        check(&Cli::command(), "");
    }
}
