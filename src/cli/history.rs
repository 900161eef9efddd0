//! `dunmore connector history`: what was done to a project's connectors, and the actor of each
//! change.

use serde_json::json;

use super::{
    Common,
    cards::{BETWEEN, INDENT, WIDTH, card, one_line},
    choose::when,
    connector::HistoryFlags,
    load,
    output::{self, Output},
    reading, start_logs,
    watch::count,
};
use crate::{connector::HistoryRecord, destination::cut};

/// `dunmore connector history …`
pub async fn run(common: &Common, flags: HistoryFlags) -> anyhow::Result<()> {
    start_logs(common, "error")?;
    let operations = reading(&load(common)?)?;
    let from = when("--from", Some(&flags.from))?;
    let HistoryFlags { project, connector, limit, .. } = flags;
    let (found, latest) = operations
        .blocking(move |own| own.changes(&project, connector.as_ref(), from, limit as usize))
        .await?;
    if common.output == Output::Json {
        return output::json(&json!({ "total": found, "history": latest }));
    }
    if latest.is_empty() {
        output::line("no changes");
        return Ok(());
    }
    for record in &latest {
        show(record);
    }
    output::line(&format!("{} of {}", latest.len(), count(found)));
    Ok(())
}

fn show(record: &HistoryRecord) {
    let mut facts = vec![one_line(&record.command), one_line(&record.actor)];
    facts.extend(record.connector_id.as_ref().map(ToString::to_string));
    card(&format!("{}{BETWEEN}{}", record.at, facts.join(BETWEEN)), &[], "");
    let differences = record.differences();
    for difference in &differences {
        let words = cut(&one_line(difference), WIDTH - INDENT.len());
        output::line(&format!("{INDENT}{words}"));
    }
    if differences.is_empty() {
        output::line(&format!("{INDENT}nothing that its owner sees"));
    }
}
