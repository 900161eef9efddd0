//! `dunmore dlq`: dead letters.

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    Common, Said, Usage,
    choose::{Choose, reason, when},
    load, operations,
    output::{self, Output},
    replay::{rate, takes},
    start_logs,
    watch::{Watch, confirm, count, stop_on_signals},
};
use crate::{
    clock,
    config::Config,
    delivery::Reason,
    operations::{
        DEFAULT_RATE, Listed, Operations, Progress, Redrive, Redriven, Run, check_canary, share,
    },
    replay::{DeadFilter, DeadLetter, Letter, Position, Tally},
};

/// Characters of a detail that a list shows.
const MAX_DETAIL: usize = 60;

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
    /// Send dead letters again. What was redriven is marked, and goes again only with --again.
    #[command(
        after_help = "Examples:\n  dunmore dlq redrive --reason gone --connector proj_1/conn_1 --dry-run\n  dunmore dlq redrive --reason server_error --canary 1%\n  dunmore dlq redrive --position 3:1207 --again"
    )]
    Redrive(RedriveFlags),
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

#[derive(Args, Debug)]
pub struct RedriveFlags {
    #[command(flatten)]
    filter: FilterFlags,
    /// A letter, as `dlq list` prints its position; may be given several times.
    #[arg(long, value_name = "POSITION")]
    position: Vec<Position>,
    /// All dead letters.
    #[arg(long)]
    all: bool,
    /// Also what was redriven before, and what failed again after that.
    #[arg(long)]
    again: bool,
    /// First send a sample of this size, and stop when it fails again: 1%.
    #[arg(long, value_name = "SHARE", value_parser = share)]
    canary: Option<f64>,
    /// How long the outcomes of the sample are waited for.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    canary_wait: Duration,
    /// Deliveries per second.
    #[arg(long, value_name = "PER_SECOND", default_value_t = DEFAULT_RATE, value_parser = rate)]
    rate: f64,
    /// Only say how many would be sent.
    #[arg(long)]
    dry_run: bool,
}

impl FilterFlags {
    fn read(&self) -> anyhow::Result<DeadFilter> {
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
        DlqCommand::Redrive(flags) => redrive(common, &config, &operations, &flags).await,
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
        DlqCommand::Reinject { files } => reinject(common, &operations, &files).await,
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
    let rows = listed.letters.iter().map(|letter| {
        let delivery = letter.delivery();
        [
            letter.position.to_string(),
            letter.at.to_string(),
            letter.reason.clone(),
            letter.state(&listed.marks).to_owned(),
            delivery.map_or_else(|| letter.source_topic.clone(), |d| d.connector.to_string()),
            delivery.map_or_else(|| "(no delivery)".to_owned(), |d| d.connector_type.to_string()),
            delivery.map(|d| d.event.id.to_string()).unwrap_or_default(),
            crate::destination::cut(&letter.detail, MAX_DETAIL),
        ]
    });
    output::table(
        ["position", "written", "reason", "state", "connector", "type", "event", "detail"],
        rows,
    );
    Ok(())
}

fn tally(tally: &Tally) {
    let help = |name: &str| {
        let found = Reason::ALL.iter().find(|reason| reason.as_str() == name);
        found.map_or("", |reason| reason.help()).to_owned()
    };
    let mut rows: Vec<(&String, &[u64; 3])> = tally.reasons.iter().collect();
    rows.sort_by_key(|(_, counts)| std::cmp::Reverse(counts[0]));
    let rows = rows.into_iter().map(|(reason, [all, redriven, again])| {
        [reason.clone(), count(*all), count(*redriven), count(*again), help(reason)]
    });
    output::table(["reason", "letters", "redriven", "failed again", "what it means"], rows);
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
    for row in facts(&told, &letter) {
        output::line(&format!("{:<11} {}", row.0, row.1));
    }
    match &letter.letter {
        Letter::Delivery(delivery) => {
            output::line(&format!("\n# the event\n{}", delivery.event.json_text()));
            output::line("\n# the request that it would become now");
            match (&told["request"], told["requestProblem"].as_str()) {
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

async fn redrive(
    common: &Common,
    config: &Config,
    operations: &Operations,
    flags: &RedriveFlags,
) -> anyhow::Result<()> {
    let mut filter = flags.filter.read()?;
    filter.positions.clone_from(&flags.position);
    if filter == DeadFilter::default() && !flags.all {
        return Err(Usage(
            "say which: --reason, --connector, --type, --position …, or --all for all dead letters"
                .to_owned(),
        )
        .into());
    }
    if flags.canary.is_some() {
        check_canary(config.delivery.attempt_log).map_err(|error| Usage(error.to_string()))?;
    }
    if flags.dry_run {
        let again = flags.again;
        let plan = operations.blocking(move |own| own.plan_redrive(&filter, again)).await?;
        match common.output {
            Output::Json => output::json(&plan)?,
            Output::Table => output::line(&format!(
                "{} would be sent, in about {}; {}",
                count(plan.sent),
                takes(plan.sent, flags.rate),
                left_out(&plan)
            )),
        }
        return Ok(());
    }
    let progress = Arc::new(Progress::default());
    let run = Run { rate: flags.rate, stop: stop_on_signals()?, progress: Arc::clone(&progress) };
    let how = Redrive { again: flags.again, canary: flags.canary, canary_wait: flags.canary_wait };
    let watch = Watch::start(progress, "letters");
    let job = Operations::new_redrive(clock::now());
    let done = operations.redrive(&job, filter, &how, &run).await;
    watch.end().await;
    report(common, &done?)
}

fn left_out(done: &Redriven) -> String {
    format!(
        "{} were redriven before or failed again after that (--again sends those), {} are no deliveries (dlq export)",
        count(done.left_out),
        count(done.undecodable)
    )
}

fn report(common: &Common, done: &Redriven) -> anyhow::Result<()> {
    let failed = done.canary.as_ref().filter(|canary| !canary.is_good());
    match common.output {
        Output::Json => output::json(done)?,
        Output::Table => {
            output::line(&format!(
                "{} of {} dead letters sent again by {}; {}",
                count(done.sent),
                count(done.matched),
                done.job,
                left_out(done)
            ));
            if let Some(canary) = &done.canary {
                output::line(&format!(
                    "canary: {} of {} arrived",
                    count(canary.arrived),
                    count(canary.sent)
                ));
            }
        }
    }
    if let Some(canary) = failed {
        let reasons: Vec<String> =
            canary.failed.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        let what = match (reasons.is_empty(), canary.unheard) {
            (false, 0) => format!("the canary failed again ({})", reasons.join(", ")),
            (false, unheard) => {
                format!("the canary failed again ({}), {unheard} unheard of", reasons.join(", "))
            }
            (true, unheard) => format!(
                "nothing was heard of {unheard} letters of the canary in time: does an instance deliver? --canary-wait waits longer"
            ),
        };
        eprintln!("dunmore: {what}; the rest was not sent");
        return Err(Said.into());
    }
    if done.stopped {
        eprintln!("stopped; the same command goes on with what is left");
        return Err(Said.into());
    }
    Ok(())
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
    files: &[PathBuf],
) -> anyhow::Result<()> {
    let (mut written, mut refused) = (Vec::new(), 0);
    for file in files {
        match operations.reinject(file).await {
            Ok(topic) => {
                if common.output == Output::Table {
                    output::line(&format!("{} is in {topic} again", file.display()));
                }
                written.push(json!({"file": file, "topic": topic}));
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
