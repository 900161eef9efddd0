//! `dunmore lag`: how far the service is behind.

use super::{
    Common, load,
    output::{self, Output, columns, span},
    reading, start_logs,
    watch::count,
};
use crate::operations::{Lag, TopicLag};

/// `dunmore lag`
pub async fn run(common: &Common) -> anyhow::Result<()> {
    start_logs(common, "error")?;
    let operations = reading(&load(common)?)?;
    let lag = operations.blocking(crate::operations::Operations::lag).await?;
    if common.output == Output::Json {
        return output::json(&lag);
    }
    show(&lag);
    Ok(())
}

fn show(lag: &Lag) {
    let rows: Vec<[String; 4]> = lag
        .topics
        .iter()
        .map(|topic| [topic.topic.clone(), waiting(topic), since(topic), left(topic)])
        .collect();
    columns(["topic", "waiting", "oldest", "time left"], &rows);
    for topic in lag.topics.iter().filter(|topic| topic.behind_open_transaction > 0) {
        output::line(&open(topic));
    }
}

/// What waits behind a transaction, in a sentence.
pub(super) fn open(topic: &TopicLag) -> String {
    format!(
        "{} records of {} wait behind an open transaction",
        count(topic.behind_open_transaction),
        topic.topic
    )
}

pub(super) fn waiting(topic: &TopicLag) -> String {
    if topic.waiting == 0 { "0".to_owned() } else { count(topic.waiting) }
}

/// How long the oldest record waits.
pub(super) fn since(topic: &TopicLag) -> String {
    let is_tier = topic.per_second.is_none() && topic.waiting > 0;
    match (topic.waiting, topic.lag_seconds) {
        (0, _) => String::new(),
        (_, None) => "not read in time".to_owned(),
        // It waits on purpose until it is due.
        (_, Some(late)) if is_tier && late < 1.0 => "not due yet".to_owned(),
        (_, Some(late)) if is_tier => format!("{} late", span(late)),
        (_, Some(seconds)) => span(seconds),
    }
}

/// How long the backlog takes.
pub(super) fn left(topic: &TopicLag) -> String {
    match (topic.per_second, topic.seconds_left) {
        (Some(_), Some(seconds)) => format!("about {}", span(seconds)),
        (Some(pace), None) if pace < 0.0 => "it grows".to_owned(),
        (Some(_), None) => "it stands still".to_owned(),
        (None, _) if topic.former_tier => "no tier any more".to_owned(),
        (None, _) => String::new(),
    }
}
