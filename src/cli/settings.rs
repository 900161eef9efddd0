//! `dunmore config`.

use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::{
    Common, Usage, load,
    output::{self, Output},
    refusals,
};
use crate::config::{self, Config};

#[derive(Subcommand, Debug)]
pub enum SettingsCommand {
    /// Check the settings: tells everything that `serve` would refuse, all at once.
    #[command(after_help = "Example:\n  dunmore config check --config dunmore.toml")]
    Check,
    /// Print the effective settings, secrets masked.
    #[command(after_help = "Example:\n  dunmore config show --output json")]
    Show,
    /// Print an example settings file: every setting, what it means, and its default.
    #[command(after_help = "Example:\n  dunmore config example > dunmore.toml")]
    Example,
}

/// `dunmore config …`
pub fn run(common: &Common, command: &SettingsCommand) -> anyhow::Result<()> {
    match command {
        SettingsCommand::Check => check(common),
        SettingsCommand::Show => show(common, &load(common)?),
        SettingsCommand::Example => {
            output::line(config::example().trim_end());
            Ok(())
        }
    }
}

/// Tells everything that `serve` would refuse.
fn check(common: &Common) -> anyhow::Result<()> {
    let (mut config, mut wrong) = Config::examine(common.config.as_deref());
    if let Some(servers) = &common.bootstrap_servers {
        config.kafka.bootstrap_servers = Some(servers.clone());
    }
    wrong.extend(refusals::looks(&config).into_iter().filter_map(|(_, look)| look.err()));
    if common.output == Output::Json {
        output::json(&json!({ "valid": wrong.is_empty(), "problems": wrong }))?;
    } else if wrong.is_empty() {
        output::line("the settings are valid");
    }
    match wrong.len() {
        0 => Ok(()),
        1 => Err(Usage(wrong.concat()).into()),
        count => {
            Err(Usage(format!("{count} settings are wrong:\n  {}", wrong.join("\n  "))).into())
        }
    }
}

fn show(common: &Common, config: &Config) -> anyhow::Result<()> {
    if common.output == Output::Json {
        let settings: Map<String, Value> =
            config.show().into_iter().map(|(name, value)| (name, value.into())).collect();
        return output::json(&settings);
    }
    output::table(["setting", "value"], config.show().into_iter().map(|(n, v)| [n, v]));
    Ok(())
}
