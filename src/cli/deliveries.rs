//! `dunmore deliveries` and `dunmore event trace`: what became of events.

use std::{io::IsTerminal as _, ops::ControlFlow};

use clap::{Args, Subcommand};
use serde_json::json;

use super::{
    Common, Said,
    cards::{BETWEEN, card, one_line},
    choose::{Choose, outcome, reason, source, when},
    load, operations,
    output::{self, Output},
    start_logs,
    watch::{count, stop_on_signals},
};
use crate::{
    delivery::{AttemptRecord, Origin, Outcome, Reason, Source},
    id::{EventId, ProjectId},
    replay::{AttemptFilter, Story, Told},
};

#[derive(Subcommand, Debug)]
pub enum DeliveriesCommand {
    /// Search the record of attempts; the latest come first.
    #[command(
        after_help = "Examples:\n  dunmore deliveries list --event evt_1\n  dunmore deliveries list --connector proj_1/conn_1 --outcome dead --from '3 days ago'\n  dunmore deliveries list --job replay-20261125t081500-1a2b3c --limit 100 --output json"
    )]
    List {
        #[command(flatten)]
        filter: FilterFlags,
        /// Made at this moment or later: RFC 3339, a date, '2 days ago', or beginning.
        #[arg(long, value_name = "WHEN", default_value = "1 day ago")]
        from: String,
        /// Made before this moment.
        #[arg(long, value_name = "WHEN")]
        to: Option<String>,
        /// The most attempts that are listed.
        #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
    },
    /// Follow attempts as they are made, until Ctrl-C. With --output json each is one line.
    #[command(
        after_help = "Examples:\n  dunmore deliveries tail --project proj_1\n  dunmore deliveries tail --outcome dead --outcome retry --output json"
    )]
    Tail {
        #[command(flatten)]
        filter: FilterFlags,
        /// No colours, also on a terminal.
        #[arg(long, env = "NO_COLOR", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
        no_color: bool,
    },
}

#[derive(Args, Debug)]
pub struct FilterFlags {
    /// An event's id.
    #[arg(long, value_name = "EVENT")]
    event: Option<EventId>,
    #[command(flatten)]
    choose: Choose,
    /// delivered, skipped, retry, dead, cancelled or deferred; may be given several times.
    #[arg(long, value_name = "OUTCOME", value_parser = outcome)]
    outcome: Vec<Outcome>,
    /// A reason, such as timeout; may be given several times.
    #[arg(long, value_name = "REASON", value_parser = reason)]
    reason: Vec<Reason>,
    /// live, retry or replay; may be given several times.
    #[arg(long, value_name = "SOURCE", value_parser = source)]
    source: Vec<Source>,
    /// The replay or redrive that asked for them.
    #[arg(long, value_name = "JOB")]
    job: Option<String>,
}

#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  dunmore event trace evt_1\n  dunmore event trace evt_1 --project proj_1 --from '30 days ago' --output json"
)]
pub struct TraceFlags {
    /// The event's id.
    event: EventId,
    /// Its project, where several may have an event of this id.
    #[arg(long, value_name = "PROJECT")]
    project: Option<ProjectId>,
    /// Kafka took the event on at this moment or later: RFC 3339, a date, '2 days ago', or
    /// beginning. The longer ago, the more is read.
    #[arg(long, value_name = "WHEN", default_value = "7 days ago")]
    from: String,
}

impl FilterFlags {
    fn read(&self) -> anyhow::Result<AttemptFilter> {
        Ok(AttemptFilter {
            event: self.event.as_ref().map(ToString::to_string),
            projects: self.choose.project.clone(),
            connectors: self.choose.connector.clone(),
            types: self.choose.kind.clone(),
            event_types: self.choose.event_types()?,
            outcomes: self.outcome.clone(),
            reasons: self.reason.clone(),
            sources: self.source.clone(),
            job: self.job.clone(),
        })
    }
}

/// `dunmore deliveries …`
pub async fn run(common: &Common, command: DeliveriesCommand) -> anyhow::Result<()> {
    start_logs(common, "error")?;
    let operations = operations(&load(common)?).await?;
    match command {
        DeliveriesCommand::List { filter, from, to, limit } => {
            let filter = filter.read()?;
            let (from, to) = (when("--from", Some(&from))?, when("--to", to.as_deref())?);
            let (found, latest) = operations
                .blocking(move |own| own.attempts(&filter, from, to, limit as usize))
                .await?;
            list(common, found, &latest)
        }
        DeliveriesCommand::Tail { filter, no_color } => {
            let filter = filter.read()?;
            let (stop, as_json) = (stop_on_signals()?, common.output == Output::Json);
            let has_colours = std::io::stdout().is_terminal() && !no_color;
            operations
                .blocking(move |own| {
                    own.follow(&filter, &stop, |attempt| {
                        let text = if as_json {
                            serde_json::to_string(attempt).unwrap_or_default()
                        } else {
                            line(attempt, has_colours)
                        };
                        // Whoever reads may have gone: then there is nobody to follow for.
                        match output::try_line(&text) {
                            Ok(()) => ControlFlow::Continue(()),
                            Err(_) => ControlFlow::Break(()),
                        }
                    })
                })
                .await
        }
    }
}

/// One line of `tail`.
fn line(attempt: &AttemptRecord<'_>, has_colours: bool) -> String {
    let outcome = format!("{:<9}", attempt.outcome.as_str());
    let colour = match attempt.outcome {
        Outcome::Delivered | Outcome::Skipped => 32,
        Outcome::Retry | Outcome::Deferred => 33,
        Outcome::Dead | Outcome::Cancelled => 31,
    };
    let outcome = if has_colours { format!("\u{1b}[{colour}m{outcome}\u{1b}[0m") } else { outcome };
    let mut words = vec![
        attempt.at.to_string(),
        outcome,
        one_line(&format!("{}/{}", attempt.project_id, attempt.connector_id)),
        one_line(&attempt.event_id),
        format!("#{}", attempt.attempt),
    ];
    words.extend(attempt.status.map(|status| status.to_string()));
    words.extend(attempt.reason.map(|reason| reason.to_string()));
    words.extend(attempt.tier.as_ref().map(|tier| format!("→ {tier}")));
    words.join(" ")
}

fn list(common: &Common, found: u64, latest: &[AttemptRecord<'static>]) -> anyhow::Result<()> {
    if common.output == Output::Json {
        return output::json(&json!({"total": found, "attempts": latest}));
    }
    if latest.is_empty() {
        output::line("no attempts");
        return Ok(());
    }
    for attempt in latest {
        let connector =
            format!("{}/{} ({})", attempt.project_id, attempt.connector_id, attempt.connector_type);
        let event = format!("{} {}", attempt.event_id, attempt.event_type);
        let facts = [one_line(&connector), one_line(&event)];
        card(&step(attempt), &facts, attempt.detail.as_deref().unwrap_or_default());
    }
    output::line(&format!("{} of {}", latest.len(), count(found)));
    Ok(())
}

/// When an attempt was made and how it ended.
fn step(attempt: &AttemptRecord<'_>) -> String {
    let tier = attempt.tier.as_ref().map_or_else(String::new, |tier| format!(" → {tier}"));
    let mut words = vec![
        attempt.at.to_string(),
        format!("{} #{}", attempt.source.as_str(), attempt.attempt),
        format!("{}{tier}", attempt.outcome.as_str()),
    ];
    words.extend(attempt.reason.map(|reason| reason.to_string()));
    words.extend(attempt.status.map(|status| format!("HTTP {status}")));
    words.extend(attempt.duration_ms.map(|ms| format!("{ms} ms")));
    words.join(BETWEEN)
}

/// `dunmore event trace …`
pub async fn trace(common: &Common, flags: TraceFlags) -> anyhow::Result<()> {
    start_logs(common, "error")?;
    let operations = operations(&load(common)?).await?;
    let from = when("--from", Some(&flags.from))?;
    let TraceFlags { event, project, .. } = flags;
    let name = event.clone();
    let story =
        operations.blocking(move |own| own.trace(name.as_str(), project.as_ref(), from)).await?;
    if common.output == Output::Json {
        output::json(&story.to_json(event.as_str()))?;
    } else if !story.is_empty() {
        tell(event.as_str(), &story);
    }
    if story.is_empty() {
        let waiting: u64 = story.behind.iter().map(|behind| behind.records).sum();
        let behind = match waiting {
            0 => String::new(),
            _ => format!(
                "; {waiting} records wait behind a producer's open transaction, and none of them is it"
            ),
        };
        eprintln!(
            "dunmore: nothing is known of {event} since {}{behind}; look further back with --from, or check the id",
            flags.from
        );
        return Err(Said.into());
    }
    Ok(())
}

fn tell(event: &str, story: &Story) {
    output::line(&format!("event {event}"));
    for consumed in &story.consumed {
        output::line(&format!(
            "read from {}: {} of {}, taken on at {}",
            place(&consumed.origin),
            consumed.event_type,
            consumed.project,
            consumed.at
        ));
    }
    for behind in story.behind.iter().filter(|behind| behind.event_at.is_some()) {
        output::line(&format!(
            "in partition {} at offset {}, behind a producer's open transaction that began at {}: it is read when that ends",
            behind.partition,
            behind.event_at.unwrap_or_default(),
            behind.from
        ));
    }
    for found in &story.unreadable {
        output::line(&format!(
            "named in {}, which is not an event that can be read; taken on at {}",
            place(&found.origin),
            found.at
        ));
    }
    for refused in &story.refused {
        let state = if refused.reinjected { ", written back from there" } else { "" };
        output::line(&format!(
            "refused: dead letter at {}{state} ({}): {}",
            refused.position,
            one_line(&refused.reason),
            one_line(&refused.detail)
        ));
    }
    if story.consumed.is_empty() && story.deliveries().next().is_some() {
        output::line("the event itself is not in the log any more, or was taken on earlier");
    }
    for told in story.deliveries() {
        tell_delivery(&told);
    }
    if let Some(why) = story.why_unwanted() {
        output::line(&why);
    }
}

fn place(origin: &Origin) -> String {
    format!("{} partition {} offset {}", origin.topic, origin.partition, origin.offset)
}

fn tell_delivery(told: &Told<'_>) {
    let connector = told
        .connector
        .map_or_else(|| "(unknown)".to_owned(), |(key, kind)| format!("{key} ({kind})"));
    let matches = if told.matches_now { "" } else { "; does not want it any more" };
    output::line(&format!("\n# {connector}{matches}\ndelivery {}", told.id));
    output::line(&format!("now: {}", told.place.words()));
    if let Some(reason) = told.suspended {
        output::line(&format!("the connector is suspended: {}", one_line(reason)));
    }
    if let Some(answer) = told.answer {
        output::line(&format!("its last real answer: {}", one_line(&answer.words())));
    }
    for attempt in told.attempts {
        card(&step(attempt), &[], attempt.detail.as_deref().unwrap_or_default());
    }
}
