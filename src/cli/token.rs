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
        after_help = "Examples:\n  dunmore token create --name billing --project proj_1 --project proj_2\n  dunmore token create --name support --all-projects\n  dunmore token create --admin"
    )]
    Create {
        /// Whose it is, for logs; without one it is named after its hash.
        #[arg(long)]
        name: Option<String>,
        /// A project that it may touch; may be given several times.
        #[arg(long, value_name = "PROJECT", required_unless_present_any = ["all_projects", "admin"])]
        project: Vec<String>,
        /// It may touch every project.
        #[arg(long, conflicts_with = "project")]
        all_projects: bool,
        /// Make the token of the admin API instead.
        #[arg(long, conflicts_with_all = ["name", "project", "all_projects"])]
        admin: bool,
    },
}

/// `dunmore token …`
pub fn run(common: &Common, command: TokenCommand) -> anyhow::Result<()> {
    let TokenCommand::Create { name, project, all_projects, admin } = command;
    if admin {
        return create_admin(common);
    }
    let projects = if all_projects { vec![ALL_PROJECTS.to_owned()] } else { project };
    let (token, entry) = tokens::generate(name.as_deref(), projects).map_err(Usage)?;
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

fn create_admin(common: &Common) -> anyhow::Result<()> {
    let (token, entry) =
        tokens::generate(Some("admin"), vec![ALL_PROJECTS.to_owned()]).map_err(Usage)?;
    if common.output == Output::Json {
        let settings = json!({ "token_sha256": entry.sha256 });
        return output::json(&json!({ "token": token.expose_secret(), "settings": settings }));
    }
    output::line(&format!("token: {}", token.expose_secret()));
    output::line("It is not shown again. Add this to the settings of every instance:\n");
    output::line(&format!("[admin]\ntoken_sha256 = {}", json!(entry.sha256)));
    Ok(())
}
