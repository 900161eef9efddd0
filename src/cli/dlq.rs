//! `dunmore dlq`: dead letters.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    Common, Said, Usage,
    cards::{BETWEEN, card, one_line},
    choose::{Choose, reason, when},
    load, operations,
    output::{self, Output},
    start_logs,
    watch::{confirm, count},
};
use crate::{
    config::Config,
    delivery::Reason,
    operations::{Listed, Operations},
    replay::{DeadFilter, DeadLetter, Letter, Position, Tally},
};

#[derive(Subcommand, Debug)]
pub enum DlqCommand {
    /// Count dead letters by reason, and list the latest.
    #[command(
        after_help = "Examples:\n  dunmore dlq list\n  dunmore dlq list --reason gone --type slack --from '2 days ago'\n  dunmore dlq list --project proj_1 --limit 100 --output json"
    )]
    List {
        #[command(flatten)]
        filter: FilterFlags,
        /// The most letters that are listed.
        #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=10_000))]
        limit: u32,
    },
    /// Show a dead letter: the event, the error, and the request that it would become now, secrets
    /// masked.
    #[command(after_help = "Example:\n  dunmore dlq show 3:1207")]
    Show {
        /// Where it is: partition:offset, as `dlq list` prints it.
        position: Position,
    },
    /// Send dead letters again, one of each delivery: those that were never redriven, and have not
    /// arrived since.
    #[command(
        after_help = "Examples:\n  dunmore dlq redrive --reason gone --connector proj_1/conn_1 --dry-run\n  dunmore dlq redrive --reason server_error --canary 1%\n  dunmore dlq redrive --all --failed-again\n  dunmore dlq redrive --position 3:1207 --again"
    )]
    Redrive(super::redrive::RedriveFlags),
    /// Delete dead letters for good. Kafka can only delete the beginning of a partition: what
    /// was written before a moment, or all that was redriven up to the first letter that was not.
    #[command(
        after_help = "Examples:\n  dunmore dlq purge --redriven\n  dunmore dlq purge --before '20 days ago'"
    )]
    Purge {
        /// Everything that was written before this moment, redriven or not.
        #[arg(long, value_name = "WHEN")]
        before: Option<String>,
        /// In each partition everything before the first letter that was not redriven.
        #[arg(long, conflicts_with = "before")]
        redriven: bool,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Write records that could not be read into files, byte for byte, to repair them.
    #[command(
        after_help = "Example:\n  dunmore dlq export --reason undecodable --folder broken\n\nEach becomes broken/PARTITION-OFFSET.bin, and beside it .json with where it came from, its key and its headers."
    )]
    Export {
        #[command(flatten)]
        filter: FilterFlags,
        /// The folder; made when it is not there. Nothing in it is overwritten.
        #[arg(long, value_name = "FOLDER")]
        folder: PathBuf,
    },
    /// Write repaired records back to the topics that they came from, and mark their dead letters
    /// as redriven. What still cannot be read is refused.
    #[command(after_help = "Example:\n  dunmore dlq reinject broken/3-1207.bin")]
    Reinject {
        /// Files as `dlq export` wrote them, repaired; each with its .json beside it.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Do not ask about those that were written back before: write them a second time.
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Args, Debug)]
pub struct FilterFlags {
    /// A reason, such as gone; may be given several times.
    #[arg(long, value_name = "REASON", value_parser = reason)]
    reason: Vec<Reason>,
    #[command(flatten)]
    choose: Choose,
    /// Written at this moment or later: RFC 3339, a date, or '2 days ago'.
    #[arg(long, value_name = "WHEN")]
    from: Option<String>,
    /// Written before this moment.
    #[arg(long, value_name = "WHEN")]
    to: Option<String>,
}

impl FilterFlags {
    /// The filter.
    pub fn read(&self) -> anyhow::Result<DeadFilter> {
        Ok(DeadFilter {
            from: when("--from", self.from.as_deref())?,
            to: when("--to", self.to.as_deref())?,
            reasons: self.reason.clone(),
            projects: self.choose.project.clone(),
            connectors: self.choose.connector.clone(),
            types: self.choose.kind.clone(),
            event_types: self.choose.event_types()?,
            positions: Vec::new(),
        })
    }
}

/// `dunmore dlq …`
pub async fn run(common: &Common, command: DlqCommand) -> anyhow::Result<()> {
    start_logs(common, "error")?;
    let config = load(common)?;
    let operations = operations(&config).await?;
    match command {
        DlqCommand::List { filter, limit } => {
            let filter = filter.read()?;
            let listed =
                operations.blocking(move |own| own.dead_letters(&filter, limit as usize)).await?;
            list(common, &listed)
        }
        DlqCommand::Show { position } => show(common, &config, &operations, position).await,
        DlqCommand::Redrive(flags) => super::redrive::run(common, &operations, &flags).await,
        DlqCommand::Purge { before: None, redriven: false, .. } => {
            Err(Usage("say which: --redriven, or --before '20 days ago'".to_owned()).into())
        }
        DlqCommand::Purge { before, redriven: _, yes } => {
            purge(common, &operations, before.as_deref(), yes).await
        }
        DlqCommand::Export { filter, folder } => {
            let filter = filter.read()?;
            let exported = operations.blocking(move |own| own.export(&filter, &folder)).await?;
            match common.output {
                Output::Json => output::json(&exported)?,
                Output::Table => {
                    for file in &exported.files {
                        output::line(&file.display().to_string());
                    }
                    output::line(&format!("{} exported", count(exported.files.len() as u64)));
                }
            }
            Ok(())
        }
        DlqCommand::Reinject { files, yes } => reinject(common, &operations, files, yes).await,
    }
}

fn list(common: &Common, listed: &Listed) -> anyhow::Result<()> {
    if common.output == Output::Json {
        return output::json(&listed.to_json());
    }
    if listed.tally.total() == 0 {
        output::line("no dead letters");
        return Ok(());
    }
    tally(&listed.tally);
    if listed.letters.is_empty() {
        return Ok(());
    }
    output::line(&format!("\nthe latest {}:", listed.letters.len()));
    for letter in &listed.letters {
        let first = [
            letter.position.to_string(),
            letter.at.to_string(),
            letter.reason.clone(),
            letter.state(&listed.marks).to_owned(),
        ];
        let facts = match letter.delivery() {
            Some(delivery) => vec![
                format!("{} ({})", delivery.connector, delivery.connector_type),
                delivery.event.id.to_string(),
            ],
            None => vec!["no delivery".to_owned(), format!("from {}", letter.source_topic)],
        };
        card(&one_line(&first.join(BETWEEN)), &facts, &letter.detail);
    }
    Ok(())
}

fn tally(tally: &Tally) {
    let mut rows: Vec<(&String, &[u64; 3])> = tally.reasons.iter().collect();
    rows.sort_by_key(|(_, counts)| std::cmp::Reverse(counts[0]));
    let lines = rows.iter().map(|(reason, [all, redriven, again])| {
        [one_line(reason), count(*all), count(*redriven), count(*again)]
    });
    output::table(["reason", "letters", "redriven", "failed again"], lines);
    for (name, _) in &rows {
        if let Some(reason) = Reason::ALL.iter().find(|reason| reason.as_str() == *name) {
            output::line(&format!("{name}: {}", reason.help()));
        }
    }
    output::line(&format!("{} in all", count(tally.total())));
}

async fn show(
    common: &Common,
    config: &Config,
    operations: &Operations,
    position: Position,
) -> anyhow::Result<()> {
    let config = config.clone();
    let (told, letter) = operations
        .blocking(move |own| {
            let (letter, record, marks) = own.dead_letter(position)?;
            let told = own.told(&config, &letter, &record, &marks)?;
            Ok((told, letter))
        })
        .await?;
    if common.output == Output::Json {
        return output::json(&told);
    }
    let facts = facts(&told.facts, &letter);
    for (name, fact) in facts {
        output::line(&format!("{name:<11} {}", one_line(&fact)));
    }
    match &letter.letter {
        Letter::Delivery(delivery) => {
            output::line(&format!("\n# the event\n{}", delivery.event.json_text()));
            output::line("\n# the request that it would become now");
            match (&told.facts["request"], told.facts["requestProblem"].as_str()) {
                (Value::Null, why) => output::line(why.unwrap_or("none")),
                (request, _) => output::line(&shown_request(request)),
            }
        }
        Letter::Raw(bytes) => {
            output::line(&format!("\n# the record's value, {} bytes", bytes.len()));
            output::line(&printable(bytes));
        }
    }
    Ok(())
}

fn facts(told: &Value, letter: &DeadLetter) -> Vec<(&'static str, String)> {
    let text = |field: &str| told[field].as_str().unwrap_or_default().to_owned();
    let mut facts = vec![
        ("position", letter.position.to_string()),
        ("written", letter.at.to_string()),
        ("state", text("state")),
        ("reason", letter.reason.clone()),
        ("detail", letter.detail.clone()),
        (
            "source",
            format!(
                "{} partition {} offset {}",
                letter.source_topic, letter.source_partition, letter.source_offset
            ),
        ),
    ];
    if let Some(delivery) = letter.delivery() {
        facts.extend([
            ("connector", format!("{} ({})", delivery.connector, delivery.connector_type)),
            ("event", format!("{} ({})", delivery.event.id, delivery.event.kind)),
            ("delivery", delivery.delivery_id.to_string()),
            ("attempts", delivery.attempts.to_string()),
        ]);
        if let Some(job) = &delivery.job {
            facts.push(("job", job.clone()));
        }
    }
    facts
}

fn shown_request(request: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut lines = vec![format!("{} {}", text(&request["method"]), text(&request["url"]))];
    for header in request["headers"].as_array().into_iter().flatten() {
        lines.push(format!("{}: {}", text(&header[0]), text(&header[1])));
    }
    lines.push(format!("\n{}", text(&request["body"])));
    lines.join("\n")
}

/// Bytes as text where they are, else as Rust would write them.
fn printable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') => {
            text.to_owned()
        }
        _ => bytes.escape_ascii().to_string(),
    }
}

async fn purge(
    common: &Common,
    operations: &Operations,
    before: Option<&str>,
    yes: bool,
) -> anyhow::Result<()> {
    let before = when("--before", before)?;
    let plan = operations.blocking(move |own| own.plan_purge(before)).await?;
    if common.output == Output::Table {
        if plan.before.is_empty() {
            output::line("nothing to delete");
            return Ok(());
        }
        tally(&plan.tally);
        for (partition, offset) in &plan.before {
            output::line(&format!("partition {partition}: everything before offset {offset}"));
        }
    }
    if !plan.before.is_empty() {
        let question = format!(
            "Delete {} dead letters for good, {} of which were never redriven?",
            count(plan.tally.total()),
            count(plan.not_redriven)
        );
        if !confirm(yes, &question)? {
            return Err(Said.into());
        }
        operations.purge(&plan).await?;
    }
    match common.output {
        Output::Json => output::json(&plan.to_json())?,
        Output::Table => output::line(&format!("{} deleted", count(plan.tally.total()))),
    }
    Ok(())
}

async fn reinject(
    common: &Common,
    operations: &Operations,
    files: Vec<PathBuf>,
    yes: bool,
) -> anyhow::Result<()> {
    let asked = files.clone();
    let again = operations.blocking(move |own| own.reinjected(&asked)).await?;
    if !again.is_empty() {
        let names: Vec<String> = again.iter().map(|file| file.display().to_string()).collect();
        let question =
            format!("{} were written back before. Write them a second time?", names.join(", "));
        if !confirm(yes, &question)? {
            return Err(Said.into());
        }
    }
    let (mut written, mut refused) = (Vec::new(), 0);
    for file in &files {
        match operations.reinject(file).await {
            Ok(record) => {
                if common.output == Output::Table {
                    output::line(&format!(
                        "{} is in {} again, at {}:{}",
                        file.display(),
                        record.topic,
                        record.partition,
                        record.offset
                    ));
                }
                let (partition, offset) = (record.partition, record.offset);
                let record = json!({"file": file, "topic": record.topic, "partition": partition, "offset": offset});
                written.push(record);
            }
            Err(error) => {
                refused += 1;
                eprintln!("dunmore: {error:#}");
            }
        }
    }
    if common.output == Output::Json {
        output::json(&json!({"written": written, "refused": refused}))?;
    }
    if refused > 0 { Err(Said.into()) } else { Ok(()) }
}
