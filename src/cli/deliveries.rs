//! `dunmore deliveries` and `dunmore event trace`: what became of events.

use std::ops::ControlFlow;

use clap::{Args, Subcommand};
use serde_json::json;

use super::{
    Common, Said,
    choose::{Choose, outcome, reason, source, when},
    load, operations,
    output::{self, Output},
    start_logs,
    watch::{count, stop_on_signals},
};
use crate::{
    delivery::{AttemptRecord, Outcome, Reason, Source},
    id::{EventId, ProjectId},
    replay::{AttemptFilter, Story},
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
        DeliveriesCommand::Tail { filter } => {
            let filter = filter.read()?;
            let (stop, as_json) = (stop_on_signals()?, common.output == Output::Json);
            operations
                .blocking(move |own| {
                    own.follow(&filter, &stop, |attempt| {
                        let text = if as_json {
                            serde_json::to_string(attempt).unwrap_or_default()
                        } else {
                            line(attempt)
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

fn line(attempt: &AttemptRecord<'_>) -> String {
    let mut words = vec![
        attempt.at.to_string(),
        format!("{:<9}", attempt.outcome.as_str()),
        format!("{}/{}", attempt.project_id, attempt.connector_id),
        format!("({})", attempt.connector_type),
        attempt.event_id.to_string(),
        attempt.event_type.to_string(),
        format!("{} #{}", attempt.source.as_str(), attempt.attempt),
    ];
    words.extend(attempt.status.map(|status| format!("HTTP {status}")));
    words.extend(attempt.duration_ms.map(|ms| format!("{ms} ms")));
    words.extend(attempt.reason.map(|reason| reason.to_string()));
    words.extend(attempt.tier.as_ref().map(|tier| format!("→ {tier}")));
    words.extend(attempt.detail.as_ref().map(|detail| format!("\"{detail}\"")));
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
    let rows = latest.iter().map(|attempt| {
        let [at, source, number, outcome, reason, answer, detail] = row(attempt);
        let connector = format!("{}/{}", attempt.project_id, attempt.connector_id);
        let event = format!("{} {}", attempt.event_id, attempt.event_type);
        [
            at,
            connector,
            attempt.connector_type.to_string(),
            event,
            source,
            number,
            outcome,
            reason,
            answer,
            detail,
        ]
    });
    output::table(
        [
            "at",
            "connector",
            "type",
            "event",
            "source",
            "#",
            "outcome",
            "reason",
            "answer",
            "detail",
        ],
        rows,
    );
    output::line(&format!("{} of {}", latest.len(), count(found)));
    Ok(())
}

fn row(attempt: &AttemptRecord<'_>) -> [String; 7] {
    let status = attempt.status.map(|status| status.to_string());
    let took = attempt.duration_ms.map(|ms| format!("{ms} ms"));
    let answer: Vec<String> = status.into_iter().chain(took).collect();
    let tier = attempt.tier.as_ref().map_or_else(String::new, |tier| format!(" → {tier}"));
    [
        attempt.at.to_string(),
        attempt.source.as_str().to_owned(),
        attempt.attempt.to_string(),
        format!("{}{tier}", attempt.outcome.as_str()),
        attempt.reason.map(|reason| reason.to_string()).unwrap_or_default(),
        answer.join(", "),
        attempt.detail.as_deref().unwrap_or_default().to_owned(),
    ]
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
        eprintln!(
            "dunmore: nothing is known of {event} since {}; look further back with --from, or check the id",
            flags.from
        );
        return Err(Said.into());
    }
    Ok(())
}

fn tell(event: &str, story: &Story) {
    output::line(&format!("event {event}"));
    for consumed in &story.consumed {
        let origin = &consumed.origin;
        output::line(&format!(
            "read from {} partition {} offset {}: {} of {}, taken on at {}",
            origin.topic,
            origin.partition,
            origin.offset,
            consumed.event_type,
            consumed.project,
            consumed.at
        ));
    }
    if story.consumed.is_empty() {
        output::line("the event itself is not in the log any more, or was taken on earlier");
    }
    for told in story.deliveries() {
        let connector = told
            .connector
            .map_or_else(|| "(unknown)".to_owned(), |(key, kind)| format!("{key} ({kind})"));
        let matches = if told.matches_now { "" } else { "; does not want it any more" };
        output::line(&format!("\n# {connector}{matches}\ndelivery {}", told.id));
        output::line(&format!("now: {}", told.place.words()));
        if !told.attempts.is_empty() {
            let header = ["at", "source", "#", "outcome", "reason", "answer", "detail"];
            output::table(header, told.attempts.iter().map(row));
        }
    }
    if story.deliveries().next().is_none() {
        output::line("no connector wants it");
    }
}
