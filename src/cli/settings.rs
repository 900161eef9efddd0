//! `dunmore config`.

use clap::Subcommand;
use serde_json::{Map, Value};

use super::{
    Common, load,
    output::{self, Output},
};
use crate::secrets::Keyring;

#[derive(Subcommand, Debug)]
pub enum SettingsCommand {
    /// Check the settings.
    #[command(after_help = "Example:\n  dunmore config check --config dunmore.toml")]
    Check,
    /// Print the effective settings, secrets masked.
    #[command(after_help = "Example:\n  dunmore config show --output json")]
    Show,
}

/// `dunmore config …`
pub fn run(common: &Common, command: &SettingsCommand) -> anyhow::Result<()> {
    let config = load(common)?;
    match command {
        SettingsCommand::Check => {
            config.connection()?;
            Keyring::parse(&config.secret_keys()?)
                .map_err(|error| super::Usage(format!("secrets.keys: {error}")))?;
            output::line("the settings are valid");
        }
        SettingsCommand::Show if common.output == Output::Json => {
            let settings: Map<String, Value> =
                config.show().into_iter().map(|(name, value)| (name, value.into())).collect();
            output::json(&settings)?;
        }
        SettingsCommand::Show => {
            output::table(["setting", "value"], config.show().into_iter().map(|(n, v)| [n, v]));
        }
    }
    Ok(())
}
