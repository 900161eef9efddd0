//! `dunmore connector filter`: what an expression says of events, without a connector and without
//! Kafka, or of a project's events of the last days.

use clap::Subcommand;
use serde_json::{Value, json};

use super::{
    Common, Usage,
    destination::events,
    load,
    output::{self, Output},
    reading, start_logs,
};
use crate::{
    event::{Event, EventTypes},
    filter::{Facts, Filter, Verdict, of_event},
    id::ProjectId,
    money::thousands,
    operations::{FilterTrial, MAX_FILTER_DAYS, MAX_FILTER_RECORDS, Operations, Tried},
    replay::ConnectorName,
};

#[derive(Subcommand, Debug)]
pub enum FilterCommand {
    /// Tell which events pass a filter. Nothing is sent and nothing is changed.
    #[command(
        after_help = "Examples:\n  dunmore connector filter test 'event.data.currency == \"USDC\"' --event 'sample:*'\n  dunmore connector filter test 'decimal(event.data.amount) >= decimal(\"100\")' --event - < events.jsonl\n  dunmore connector filter test 'decimal(event.data.amount) >= decimal(\"100\")' --days 7 --connector proj_1/conn_1"
    )]
    Test {
        /// The expression (CEL) over `event`; the connector's own where there is none.
        #[arg(value_name = "FILTER", required_unless_present = "connector")]
        filter: Option<String>,
        /// A file of JSON events, - for standard input, or a sample: see the examples.
        #[arg(
            long,
            value_name = "EVENT",
            required_unless_present = "days",
            conflicts_with = "days"
        )]
        event: Option<String>,
        /// A project's events of so many days, 1 to 30; the newest million records are looked at.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_FILTER_DAYS)))]
        days: Option<u32>,
        /// The project.
        #[arg(long, value_name = "PROJECT", conflicts_with = "event")]
        project: Option<ProjectId>,
        /// Only the event types of this connector: its id, or PROJECT/ID.
        #[arg(long, value_name = "CONNECTOR", conflicts_with = "event")]
        connector: Option<ConnectorName>,
    },
}

/// `dunmore connector filter …`
pub async fn run(common: &Common, command: FilterCommand) -> anyhow::Result<()> {
    let FilterCommand::Test { filter, event, days, project, connector } = command;
    let filter = filter.as_deref().map(compile).transpose()?;
    match (filter, event, days) {
        (filter, _, Some(days)) => {
            let tried = over_days(common, filter, days, project, connector).await?;
            tell_days(common.output, &tried)
        }
        (Some(filter), Some(event), None) => {
            let events = events(&event)?;
            let ask = move || events.into_iter().map(|event| asked(&filter, event)).collect();
            let told: Vec<(Event, Verdict)> = tokio::task::spawn_blocking(ask).await?;
            tell_events(common.output, &told)
        }
        _ => Err(Usage("give a filter, and --event or --days".to_owned()).into()),
    }
}

fn compile(text: &str) -> Result<Filter, Usage> {
    Filter::compile(text).map_err(|error| Usage(format!("the filter: {error}")))
}

fn asked(filter: &Filter, event: Event) -> (Event, Verdict) {
    let verdict = filter.passes(&Facts::of(&event.json));
    (event, verdict)
}

async fn over_days(
    common: &Common,
    filter: Option<Filter>,
    days: u32,
    project: Option<ProjectId>,
    connector: Option<ConnectorName>,
) -> anyhow::Result<Tried> {
    start_logs(common, "error")?;
    let operations = reading(&load(common)?)?;
    let read = move |own: &Operations| {
        let trial = match (connector, project, filter) {
            (Some(name), project, filter) => {
                let connector = own.connector(project.as_ref(), &name)?;
                let filter = match (filter, &connector.filter) {
                    (Some(filter), _) => filter,
                    (None, Some(text)) => compile(text)?,
                    (None, None) => {
                        let why = format!("{} has no filter: give one", connector.key);
                        return Err(Usage(why).into());
                    }
                };
                let (project, event_types) = (connector.key.project, connector.event_types);
                FilterTrial { filter, project, event_types, days }
            }
            (None, Some(project), Some(filter)) => {
                FilterTrial { filter, project, event_types: EventTypes::All, days }
            }
            _ => return Err(Usage("--days needs --project or --connector".to_owned()).into()),
        };
        let tried = own.try_filter(&trial)?;
        if tried.tally.looked == 0 {
            own.check_found(&[trial.project], &[])?;
        }
        Ok(tried)
    };
    operations.blocking(read).await
}

fn words(verdict: &Verdict) -> String {
    match verdict {
        Ok(true) => "passes".to_owned(),
        Ok(false) => "is filtered out".to_owned(),
        Err(error) => format!("passes, because the filter fails: {error}"),
    }
}

fn tell_events(output: Output, told: &[(Event, Verdict)]) -> anyhow::Result<()> {
    if output == Output::Json {
        let results: Vec<Value> =
            told.iter().map(|(event, verdict)| of_event(event, verdict)).collect();
        return output::json(&json!({ "results": results }));
    }
    let rows = told
        .iter()
        .map(|(event, verdict)| [event.id.to_string(), event.kind.to_string(), words(verdict)]);
    output::table(["event", "type", "verdict"], rows);
    let passed = told.iter().filter(|(_, verdict)| *verdict != Ok(false)).count();
    output::line(&format!("{passed} of {} would pass", told.len()));
    Ok(())
}

fn tell_days(output: Output, tried: &Tried) -> anyhow::Result<()> {
    if output == Output::Json {
        return output::json(&tried.to_json());
    }
    let rows = tried.tally.examples().map(|(event, verdict)| {
        let (id, kind, at) = (event.id.to_string(), event.kind.to_string(), event.occurred_at);
        [id, kind, at.to_string(), words(verdict)]
    });
    if tried.tally.looked > 0 {
        output::table(["event", "type", "occurred", "verdict"], rows);
    }
    let count = |number: u64| thousands(&number.to_string());
    let (passed, looked) = (count(tried.tally.passed), count(tried.tally.looked));
    output::line(&format!("{passed} of {looked} would pass"));
    if tried.tally.errors > 0 {
        let errors = count(tried.tally.errors);
        output::line(&format!("the filter fails on {errors} of them: they pass"));
    }
    if !tried.is_complete {
        output::line(&format!(
            "there are more events than were looked at: {} records at most are read, the newest of \
             each partition, for ten seconds",
            count(MAX_FILTER_RECORDS)
        ));
    }
    Ok(())
}
