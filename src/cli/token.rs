//! `dunmore token`.

use clap::Subcommand;
use secrecy::ExposeSecret;
use serde_json::json;

use super::{
    Common, Usage,
    output::{self, Output},
};
use crate::tokens::{self, ALL_PROJECTS};

#[derive(Subcommand, Debug)]
pub enum TokenCommand {
    /// Make a token. It is shown this once; the settings hold only its hash.
    #[command(
        after_help = "Examples:\n  dunmore token create --name billing --project proj_1 --project proj_2\n  dunmore token create --name admin --all-projects"
    )]
    Create {
        /// Whose it is, for logs.
        #[arg(long)]
        name: String,
        /// A project that it may touch; may be given several times.
        #[arg(long, value_name = "PROJECT", required_unless_present = "all_projects")]
        project: Vec<String>,
        /// It may touch every project.
        #[arg(long, conflicts_with = "project")]
        all_projects: bool,
    },
}

/// `dunmore token …`
pub fn run(common: &Common, command: TokenCommand) -> anyhow::Result<()> {
    let TokenCommand::Create { name, project, all_projects } = command;
    let projects = if all_projects { vec![ALL_PROJECTS.to_owned()] } else { project };
    let (token, entry) = tokens::generate(&name, projects).map_err(Usage)?;
    if common.output == Output::Json {
        return output::json(&json!({ "token": token.expose_secret(), "settings": entry }));
    }
    output::line(&format!("token: {}", token.expose_secret()));
    output::line("It is not shown again. Add this to the settings of every instance:\n");
    output::line("[[api.tokens]]");
    for (key, value) in [
        ("name", json!(entry.name)),
        ("sha256", json!(entry.sha256)),
        ("projects", json!(entry.projects)),
    ] {
        output::line(&format!("{key} = {value}"));
    }
    Ok(())
}
