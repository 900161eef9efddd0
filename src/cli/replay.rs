//! `dunmore replay`: events again, or for the first time to a new connector.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use indicatif::HumanDuration;
use serde_json::{Value, json};

use super::{
    Common, Said, Usage,
    cards::{BETWEEN, WIDTH, card},
    choose::{Choose, when},
    load, operations,
    output::{self, Output},
    start_logs,
    watch::{Watch, confirm, count, stop_on_signals},
};
use crate::{
    clock,
    operations::{DEFAULT_RATE, Finished, OffsetRange, Operations, Progress, Run, Survey},
    replay::{Choice, History, Plan, Row, Selection, Warning},
};

/// Connectors that the table shows.
const MAX_ROWS: usize = 50;

const EXAMPLES: &str = "Examples:
  A customer added a BigQuery connector and wants last month; first see what would be sent:
    dunmore replay --from '30 days ago' --connector proj_1/conn_bq --dry-run
    dunmore replay --from '30 days ago' --connector proj_1/conn_bq --rate 1000
  Send what did not arrive in a window, and nothing twice:
    dunmore replay --from 2026-11-23T08:00:00Z --to 2026-11-23T10:00:00Z --only-missing
  Go on with a job that was stopped, from any machine:
    dunmore replay --list
    dunmore replay --resume replay-20261125t081500-1a2b3c

Times are those of the events' records in Kafka: the broker's, where the topic has
message.timestamp.type=LogAppendTime, else their producers'. Running instances deliver what this
asks for, below live traffic. Progress is kept in Kafka; see docs/REPLAY.md.";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
pub struct ReplayFlags {
    /// From this moment on: RFC 3339, a date, '2 days ago', or beginning.
    #[arg(long, value_name = "WHEN")]
    from: Option<String>,
    /// Up to this moment, which is not part of it; now when it is left out.
    #[arg(long, value_name = "WHEN")]
    to: Option<String>,
    /// Offsets of a partition instead of times: 3:1000-2000, or 3:1000- to its end; may be given
    /// several times.
    #[arg(long, value_name = "RANGE")]
    offsets: Vec<OffsetRange>,
    #[command(flatten)]
    choose: Choose,
    /// Only what is missing: leave out what the attempts show as delivered, and what is on its way.
    #[arg(long)]
    only_missing: bool,
    /// With --only-missing, also what waits in a retry tier or in the replay topic, or was not read
    /// yet. It will be delivered without this, so it arrives twice.
    #[arg(long, requires = "only_missing")]
    include_waiting: bool,
    /// With --only-missing, also what the attempts cannot show, because they do not reach back so
    /// far or the instances do not record what arrives.
    #[arg(long, requires = "only_missing")]
    include_unknown: bool,
    /// Only show what would be sent, what arrived before, and what nobody wants any more.
    #[arg(long, conflicts_with = "resume")]
    dry_run: bool,
    /// Deliveries per second that are asked for.
    #[arg(long, value_name = "PER_SECOND", default_value_t = DEFAULT_RATE, value_parser = rate)]
    rate: f64,
    /// Go ahead whatever the warnings say.
    #[arg(long)]
    yes: bool,
    /// Go on with this job.
    #[arg(long, value_name = "JOB", conflicts_with_all = ["from", "to", "offsets", "project", "connector", "kind", "event_type", "only_missing", "include_waiting", "include_unknown"])]
    resume: Option<String>,
    /// List the jobs that Kafka still knows.
    #[arg(long, conflicts_with_all = ["from", "to", "offsets", "resume", "dry_run"])]
    list: bool,
}

/// Reads a rate.
pub fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| (1.0..=1_000_000.0).contains(rate));
    rate.ok_or_else(|| "must be a number from 1 to 1000000".to_owned())
}

/// `dunmore replay …`
pub async fn run(common: &Common, flags: ReplayFlags) -> anyhow::Result<()> {
    start_logs(common, "error")?;
    let config = load(common)?;
    let operations = operations(&config).await?;
    if flags.list {
        return list(common, &operations).await;
    }
    if let Some(job) = &flags.resume {
        return resume(common, &operations, job, flags.rate).await;
    }
    let selection = selection(&flags)?;
    // A diff tells what arrived before; so does a run that leaves it out.
    let wants_history = flags.dry_run || flags.only_missing;
    let (ranges, chosen) = (flags.offsets.clone(), selection.clone());
    let (survey, choice, history) =
        operations.blocking(move |own| own.prepare(&chosen, &ranges, wants_history)).await?;
    if flags.dry_run {
        return show(common, &survey);
    }
    if common.output == Output::Table {
        show(common, &survey)?;
    } else {
        survey.warnings.iter().for_each(|warning| eprintln!("warning: {}", warning.message));
    }
    if survey.plan.send() == 0 {
        return finish(common, &survey, None);
    }
    if survey.warnings.iter().any(Warning::asks) {
        let question = format!(
            "Send {} deliveries, in about {}, in spite of the warnings?",
            count(survey.plan.send()),
            takes(survey.plan.send(), flags.rate)
        );
        if !confirm(flags.yes, &question)? {
            return Err(Said.into());
        }
    }
    let history = if flags.only_missing { history } else { None };
    let finished = send(&operations, selection, &survey, choice, history, flags.rate).await?;
    finish(common, &survey, Some(&finished))
}

fn selection(flags: &ReplayFlags) -> anyhow::Result<Selection> {
    if flags.from.is_none() && flags.offsets.is_empty() {
        return Err(Usage(
            "say from when: --from '2 days ago', --from 2026-11-23T08:00:00Z, --from beginning, or --offsets"
                .to_owned(),
        )
        .into());
    }
    let selection = Selection {
        from: when("--from", flags.from.as_deref())?,
        to: when("--to", flags.to.as_deref())?,
        projects: flags.choose.project.clone(),
        connectors: flags.choose.connector.clone(),
        event_types: flags.choose.event_types()?,
        types: flags.choose.kind.clone(),
        only_missing: flags.only_missing,
        include_waiting: flags.include_waiting,
        include_unknown: flags.include_unknown,
    };
    if let (Some(from), Some(to)) = (selection.from, selection.to)
        && from >= to
    {
        return Err(Usage(format!("--from ({from}) must be before --to ({to})")).into());
    }
    Ok(selection)
}

async fn send(
    operations: &Operations,
    selection: Selection,
    survey: &Survey,
    choice: Choice,
    history: Option<History>,
    rate: f64,
) -> anyhow::Result<Finished> {
    let progress = Arc::new(Progress::default());
    progress.planned.store(survey.plan.send(), Ordering::Relaxed);
    let run = Run { rate, stop: stop_on_signals()?, progress: Arc::clone(&progress) };
    let watch = Watch::start(progress, "records");
    let spans = survey.spans.clone();
    let job = Operations::new_replay(clock::now());
    let mut has_begun = false;
    let begun = || {
        has_begun = true;
        eprintln!("job {job}");
    };
    let finished = operations.replay(&job, selection, spans, choice, history, &run, begun).await;
    watch.end().await;
    finished.with_context(|| {
        if has_begun { how_to_resume(&job) } else { "nothing was sent".to_owned() }
    })
}

async fn resume(
    common: &Common,
    operations: &Operations,
    job: &str,
    rate: f64,
) -> anyhow::Result<()> {
    Operations::check_job_name(job).map_err(|error| Usage(error.to_string()))?;
    let progress = Arc::new(Progress::default());
    let run = Run { rate, stop: stop_on_signals()?, progress: Arc::clone(&progress) };
    let watch = Watch::start(progress, "records");
    let finished = operations.resume(job, &run).await;
    watch.end().await;
    report(common, None, &finished?)
}

fn how_to_resume(job: &str) -> String {
    format!("stopped; go on with: dunmore replay --resume {job}")
}

fn finish(common: &Common, survey: &Survey, finished: Option<&Finished>) -> anyhow::Result<()> {
    if let Some(finished) = finished {
        return report(common, Some(survey), finished);
    }
    match common.output {
        Output::Json => output::json(&survey.to_json())?,
        Output::Table => output::line("nothing to send"),
    }
    Ok(())
}

fn report(common: &Common, survey: Option<&Survey>, finished: &Finished) -> anyhow::Result<()> {
    match common.output {
        Output::Json => {
            let run = finished.to_json();
            match survey {
                Some(survey) => {
                    let mut told = survey.to_json();
                    told["job"] = run;
                    output::json(&told)?;
                }
                None => output::json(&run)?,
            }
        }
        Output::Table => {
            let found = match finished.found {
                0 => String::new(),
                found => format!(" ({} of them were written before and found again)", count(found)),
            };
            output::line(&format!(
                "{} deliveries asked for by {}{found}; running instances deliver them",
                count(finished.sent),
                finished.job
            ));
        }
    }
    if finished.stopped {
        eprintln!("{}", how_to_resume(&finished.job));
        return Err(Said.into());
    }
    Ok(())
}

async fn list(common: &Common, operations: &Operations) -> anyhow::Result<()> {
    let jobs = operations.blocking(Operations::jobs).await?;
    if common.output == Output::Json {
        let jobs: Vec<Value> = jobs.iter().map(|(id, job)| job.to_json(id)).collect();
        return output::json(&json!({ "jobs": jobs }));
    }
    if jobs.is_empty() {
        output::line("no jobs");
        return Ok(());
    }
    for (id, job) in &jobs {
        let (all, done) = job.progress();
        let sent = match job.planned() {
            Some(planned) => format!("{} of {} sent", count(job.sent()), count(planned)),
            None => format!("{} sent", count(job.sent())),
        };
        let read = format!("{} of {} records read", count(done), count(all));
        let state = if job.is_done() { "done" } else { "unfinished" };
        let times = format!("started {}, last progress {}", job.started_at(), job.at());
        card(&format!("{id}{BETWEEN}{state}"), &[sent, read], &times);
    }
    Ok(())
}

fn show(common: &Common, survey: &Survey) -> anyhow::Result<()> {
    if common.output == Output::Json {
        return output::json(&survey.to_json());
    }
    let plan = &survey.plan;
    let rows: Vec<&Row> = plan.rows().collect();
    for row in rows.iter().take(MAX_ROWS) {
        let kind = if row.suspended { ", suspended" } else { "" };
        let first = format!("{}/{} ({}{kind})", row.project, row.connector, row.kind);
        card(&first, &facts(row, survey.has_history), "");
        let examples = examples(row);
        if !examples.is_empty() {
            output::line(&format!("  {examples}"));
        }
    }
    if rows.len() > MAX_ROWS {
        let more = count((rows.len() - MAX_ROWS) as u64);
        output::line(&format!("… and {more} more connectors; --output json has them all"));
    }
    output::line(&scanned(survey));
    output::line(&sum(plan, survey.has_history));
    survey.warnings.iter().for_each(|warning| eprintln!("warning: {}", warning.message));
    Ok(())
}

/// What is sent to a connector, and what is not: what is nothing is left out.
fn facts(row: &Row, has_history: bool) -> Vec<String> {
    let mut facts = vec![format!("{} to send", count(row.send))];
    let numbers = [
        (row.new, "older than it"),
        (row.delivered, "arrived before"),
        (row.waiting, "on the way"),
        (row.unknown, "unknown"),
        (row.disabled, "left out (off)"),
        (row.filtered, "left out (filter)"),
        (row.unsubscribed, "left out (not subscribed)"),
        (row.deleted, "left out (deleted)"),
    ];
    let some = numbers.iter().filter(|(number, _)| *number > 0);
    facts.extend(some.map(|(number, what)| format!("{} {what}", count(*number))));
    if !has_history && row.send > row.new {
        // Without the attempts it is not known.
        facts.push("? arrived before".to_owned());
    }
    facts
}

/// What examples begin with.
const INTRODUCTION: &str = "e.g.";

fn examples(row: &Row) -> String {
    let mut text = String::new();
    for sample in &row.samples {
        // Whole, because they are to be copied; the first one whatever its length.
        let fits = text.len() + sample.len() + INTRODUCTION.len() < WIDTH - 2;
        if text.is_empty() || fits {
            text.push(' ');
            text.push_str(sample);
        }
    }
    if text.is_empty() { text } else { format!("{INTRODUCTION}{text}") }
}

fn scanned(survey: &Survey) -> String {
    let seconds = survey.took.as_secs_f64().max(0.001);
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let rate = survey.plan.scanned as f64 / seconds;
    let unreadable = match survey.plan.unreadable {
        0 => String::new(),
        unreadable => format!(", {} of them no events", count(unreadable)),
    };
    format!(
        "read {} of {} records in {seconds:.1} s ({rate:.0}/s){unreadable}; {} events chosen",
        count(survey.plan.scanned),
        count(survey.in_topic),
        count(survey.plan.events),
    )
}

fn sum(plan: &Plan, has_history: bool) -> String {
    if !has_history {
        return format!("{} to send; --dry-run tells what arrived before", count(plan.send()));
    }
    let mut parts = vec![
        format!("{} to send", count(plan.send())),
        format!("{} arrived before", count(plan.delivered())),
    ];
    for (number, what) in [
        (plan.waiting(), "on the way"),
        (plan.unknown(), "unknown"),
        (plan.unwanted(), "not wanted any more"),
    ] {
        if number > 0 {
            parts.push(format!("{} {what}", count(number)));
        }
    }
    parts.join(", ")
}

/// How long sending takes, for people.
pub fn takes(deliveries: u64, rate: f64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let seconds = deliveries as f64 / rate;
    HumanDuration(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)).to_string()
}
