//! `dunmore topics`.

use clap::Subcommand;
use serde_json::json;

use super::{
    Common, Said, load,
    output::{self, Output},
    start_logs,
};
use crate::kafka::Admin;

#[derive(Subcommand, Debug)]
pub enum TopicsCommand {
    /// Create the topics that are missing, with the right partitions, cleanup and retention.
    #[command(after_help = "Example:\n  dunmore topics ensure --bootstrap-servers localhost:9092")]
    Ensure,
    /// Say how the topics differ from what they should be; exit code 1 when they do.
    #[command(after_help = "Example:\n  dunmore topics check --output json")]
    Check,
}

/// `dunmore topics …`
pub async fn run(common: &Common, command: TopicsCommand) -> anyhow::Result<()> {
    start_logs(common, "error")?;
    let config = load(common)?;
    let admin = Admin::new(&config.connection()?)?;
    let topics = config.topics();
    let (partitions, replication) = (config.topics.partitions, config.topics.replication_factor);
    match command {
        TopicsCommand::Ensure => {
            let created = admin.ensure(&topics, partitions, replication).await?;
            let there = topics.all().len() - created.len();
            match common.output {
                Output::Json => output::json(&json!({"created": created, "existed": there}))?,
                Output::Table => {
                    for topic in &created {
                        output::line(&format!("created {topic}"));
                    }
                    output::line(&format!("{} created, {there} were there", created.len()));
                }
            }
            Ok(())
        }
        TopicsCommand::Check => {
            let differences = admin.check(&topics, partitions, replication).await?;
            match common.output {
                Output::Json => output::json(&json!({ "differences": differences }))?,
                Output::Table if differences.is_empty() => {
                    output::line("all topics are as they should be");
                }
                Output::Table => output::table(
                    ["topic", "what", "should be", "is"],
                    differences.iter().map(|d| {
                        [d.topic.clone(), d.what.clone(), d.expected.clone(), d.actual.clone()]
                    }),
                ),
            }
            if differences.is_empty() { Ok(()) } else { Err(Said.into()) }
        }
    }
}
