//! `dunmore dlq redrive`: dead letters sent again.

use std::{sync::Arc, time::Duration};

use clap::Args;

use super::{
    Common, Said, Usage,
    cards::card,
    dlq::FilterFlags,
    output::{self, Output},
    replay::{rate, takes},
    watch::{Watch, confirm, count, stop_on_signals},
};
use crate::{
    clock,
    operations::{DEFAULT_RATE, Operations, Progress, Redrive, Redriven, Run, share},
    replay::{DeadFilter, Position, RedrivePlan, RedriveRow, Which},
};

/// Connectors that the plan shows.
const MAX_ROWS: usize = 50;

#[derive(Args, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
pub struct RedriveFlags {
    #[command(flatten)]
    filter: FilterFlags,
    /// A letter, as `dlq list` prints its position; may be given several times.
    #[arg(long, value_name = "POSITION")]
    position: Vec<Position>,
    /// All dead letters.
    #[arg(long)]
    all: bool,
    /// Only what failed again after a redrive, and was not redriven since.
    #[arg(long)]
    failed_again: bool,
    /// Everything: also what was redriven before, what failed again after that, and what has
    /// arrived since. Asks first.
    #[arg(long, conflicts_with = "failed_again")]
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
    /// Only say what would be sent, for each connector, and what would not.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

impl RedriveFlags {
    fn which(&self) -> Which {
        match (self.again, self.failed_again) {
            (true, _) => Which::Again,
            (false, true) => Which::FailedAgain,
            (false, false) => Which::Waiting,
        }
    }
}

/// Sends what the flags choose.
pub async fn run(
    common: &Common,
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
    let (planned, which) = (filter.clone(), flags.which());
    let plan = operations.blocking(move |own| own.plan_redrive(&planned, which)).await?;
    let concerns = plan.concerns(which);
    if flags.dry_run {
        match common.output {
            Output::Json => output::json(&plan)?,
            Output::Table => {
                show(&plan);
                output::line(&format!(
                    "{} would be sent, in about {}{}",
                    count(plan.send),
                    takes(plan.send, flags.rate),
                    left_out(&plan)
                ));
            }
        }
        warn(&concerns);
        return Ok(());
    }
    if plan.asks(which) {
        if common.output == Output::Table {
            show(&plan);
        }
        warn(&concerns);
        let question = format!("Send {} dead letters again?", count(plan.send));
        if !confirm(flags.yes, &question)? {
            return Err(Said.into());
        }
    }
    let job = Operations::new_redrive(clock::now());
    if plan.send == 0 && plan.unmarked == 0 {
        return report(common, &Redriven::nothing(job, plan));
    }
    let progress = Arc::new(Progress::default());
    let run = Run { rate: flags.rate, stop: stop_on_signals()?, progress: Arc::clone(&progress) };
    let how = Redrive { which, canary: flags.canary, canary_wait: flags.canary_wait };
    let watch = Watch::start(progress, "letters");
    let done = operations.redrive(&job, filter, &how, &run).await;
    watch.end().await;
    report(common, &done?)
}

fn warn(concerns: &[String]) {
    for concern in concerns {
        eprintln!("warning: {concern}");
    }
}

fn show(plan: &RedrivePlan) {
    let mut rows: Vec<&RedriveRow> = plan.connectors.values().collect();
    rows.sort_by_key(|row| (row.kind.as_str(), std::cmp::Reverse(row.send)));
    for row in rows.iter().take(MAX_ROWS) {
        let state = if row.suspended { ", suspended" } else { "" };
        let first = format!("{}/{} ({}{state})", row.project, row.connector, row.kind);
        let numbers = [
            (row.arrived, "arrived already"),
            (row.unwanted, "left out (off or not subscribed)"),
            (row.deleted, "left out (deleted)"),
        ];
        let mut facts = vec![format!("{} to send", count(row.send))];
        let some = numbers.iter().filter(|(number, _)| *number > 0);
        facts.extend(some.map(|(number, what)| format!("{} {what}", count(*number))));
        card(&first, &facts, "");
    }
    if rows.len() > MAX_ROWS {
        let more = count((rows.len() - MAX_ROWS) as u64);
        output::line(&format!("… and {more} more connectors; --output json has them all"));
    }
}

/// What is not sent, and why; nothing where all is.
fn left_out(plan: &RedrivePlan) -> String {
    let numbers = [
        (
            plan.left_out,
            "were redriven before or failed again after that (--failed-again, --again)",
        ),
        (plan.superseded, "have a newer letter of the same delivery"),
        (plan.arrived, "arrived already"),
        (plan.unwanted, "are not wanted any more"),
        (plan.deleted, "are for a deleted connector"),
        (plan.undecodable, "are no deliveries (dlq export)"),
    ];
    let some = numbers.iter().filter(|(number, _)| *number > 0);
    let lines: Vec<String> =
        some.map(|(number, what)| format!("\n  {} {what}", count(*number))).collect();
    lines.concat()
}

fn report(common: &Common, done: &Redriven) -> anyhow::Result<()> {
    match common.output {
        Output::Json => output::json(&done.to_json())?,
        Output::Table => {
            output::line(&format!(
                "{} of {} dead letters sent again by {}{}",
                count(done.plan.send),
                count(done.plan.matched),
                done.job,
                left_out(&done.plan)
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
    if let Some(canary) = done.failed_canary() {
        let hint = if canary.unheard > 0 { " (--canary-wait waits longer)" } else { "" };
        eprintln!("dunmore: {}{hint}", canary.words());
        return Err(Said.into());
    }
    if done.stopped {
        eprintln!("stopped; the same command goes on with what is left");
        return Err(Said.into());
    }
    Ok(())
}
