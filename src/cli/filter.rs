//! `dunmore connector filter`: what an expression says of events, without a connector and without
//! Kafka.

use clap::Subcommand;
use serde_json::{Value, json};

use super::{
    Common, Usage,
    destination::events,
    output::{self, Output},
};
use crate::{
    event::Event,
    filter::{Facts, Filter},
};

#[derive(Subcommand, Debug)]
pub enum FilterCommand {
    /// Tell which events pass a filter. Nothing is sent and nothing is changed.
    #[command(
        after_help = "Examples:\n  dunmore connector filter test 'event.data.currency == \"USDC\"' --event 'sample:*'\n  dunmore connector filter test 'decimal(event.data.amount) >= decimal(\"100\")' --event - < events.jsonl"
    )]
    Test {
        /// The expression (CEL) over `event`.
        #[arg(value_name = "FILTER")]
        filter: String,
        /// A file of JSON events, - for standard input, or a sample: see the examples.
        #[arg(long, value_name = "EVENT")]
        event: String,
    },
}

/// `dunmore connector filter …`
pub fn run(common: &Common, command: &FilterCommand) -> anyhow::Result<()> {
    let FilterCommand::Test { filter, event } = command;
    let filter = Filter::compile(filter).map_err(|error| Usage(format!("the filter: {error}")))?;
    let told: Vec<(Event, Result<bool, String>)> = events(event)?
        .into_iter()
        .map(|event| {
            let passes = filter.passes(&Facts::of(&event.json)).map_err(|error| error.to_string());
            (event, passes)
        })
        .collect();
    if common.output == Output::Json {
        let results = told.iter().map(|(event, passes)| {
            let mut told = verdict(passes);
            told["eventId"] = json!(event.id);
            told["eventType"] = json!(event.kind);
            told
        });
        return output::json(&json!({ "results": results.collect::<Vec<_>>() }));
    }
    let rows = told.iter().map(|(event, passes)| {
        let words = match passes {
            Ok(true) => "passes".to_owned(),
            Ok(false) => "is filtered out".to_owned(),
            Err(error) => format!("passes, because the filter fails: {error}"),
        };
        [event.id.to_string(), event.kind.to_string(), words]
    });
    output::table(["event", "type", "verdict"], rows);
    let passed = told.iter().filter(|(_, passes)| *passes != Ok(false)).count();
    output::line(&format!("{passed} of {} would pass", told.len()));
    Ok(())
}

/// What a filter says of an event: one that fails lets it through.
pub fn verdict(passes: &Result<bool, String>) -> Value {
    match passes {
        Ok(passes) => json!({ "passes": passes }),
        Err(error) => json!({ "passes": true, "error": error }),
    }
}
