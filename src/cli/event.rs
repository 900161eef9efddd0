//! `dunmore event`.

use std::io::{self, BufRead, BufReader};

use anyhow::Context as _;
use bytes::Bytes;
use clap::Subcommand;
use futures_util::{StreamExt, stream::FuturesUnordered};
use serde_json::json;

use super::{
    Common, Said, load,
    output::{self, Output},
    start_logs,
};
use crate::{
    event::Event,
    kafka::{Outgoing, Producer, TopicKind, Topics},
    metrics::Metrics,
};

/// Events under way to the broker at once.
const MAX_UNACKNOWLEDGED: usize = 2000;
/// The most wrong lines that are told one by one.
const MAX_TOLD: usize = 20;

#[derive(Subcommand, Debug)]
pub enum EventCommand {
    /// Check payment events (one JSON object a line) and produce them. Wrong ones are told and
    /// left out; then the exit code is 1.
    #[command(
        after_help = "Examples:\n  dunmore event send --file events.jsonl\n  generate | dunmore event send"
    )]
    Send {
        /// The file, or - for standard input.
        #[arg(long, default_value = "-", value_name = "FILE")]
        file: String,
    },
}

/// `dunmore event …`
pub async fn run(common: &Common, command: EventCommand) -> anyhow::Result<()> {
    let EventCommand::Send { file } = command;
    start_logs(common, "error")?;
    let config = load(common)?;
    let connection = config.connection()?;
    let topics = Topics::new(&config.topics.prefix, &config.delivery.retry_tiers);
    crate::kafka::Admin::new(&connection)?.require(&topics)?;
    let topic = topics.name(TopicKind::Events);
    let metrics = Metrics::new()?;
    let producer = Producer::new(&connection, metrics.kafka_errors())?;

    let input: Box<dyn BufRead> = if file == "-" {
        Box::new(io::stdin().lock())
    } else {
        let opened = std::fs::File::open(&file).with_context(|| format!("cannot open {file}"))?;
        Box::new(BufReader::new(opened))
    };
    let (mut sent, mut wrong, mut failed) = (0_u64, 0_usize, 0_u64);
    let mut waiting = FuturesUnordered::new();
    for (number, line) in input.lines().enumerate() {
        let line = line.with_context(|| format!("reading {file}"))?;
        if line.trim().is_empty() {
            continue;
        }
        let event = match Event::from_json(Bytes::from(line.trim().to_owned())) {
            Ok(event) => event,
            Err(error) => {
                wrong += 1;
                if wrong <= MAX_TOLD {
                    eprintln!("line {}: {error}", number + 1);
                }
                continue;
            }
        };
        while waiting.len() >= MAX_UNACKNOWLEDGED {
            count(waiting.next().await, &mut sent, &mut failed);
        }
        waiting.push(produce(&producer, &topic, event));
    }
    while let Some(result) = waiting.next().await {
        count(Some(result), &mut sent, &mut failed);
    }
    if wrong > MAX_TOLD {
        eprintln!("… and {} more wrong lines", wrong - MAX_TOLD);
    }
    match common.output {
        Output::Json => output::json(&json!({"sent": sent, "invalid": wrong, "failed": failed}))?,
        Output::Table => output::line(&format!("{sent} sent, {wrong} invalid, {failed} failed")),
    }
    if wrong > 0 || failed > 0 { Err(Said.into()) } else { Ok(()) }
}

async fn produce(producer: &Producer, topic: &str, event: Event) -> Result<(), String> {
    let record = Outgoing {
        topic,
        partition: None,
        key: event.project.as_str().as_bytes(),
        value: Some(&event.json),
        headers: Vec::new(),
    };
    producer.send(&record).await.map(|_| ()).map_err(|error| format!("{}: {error}", event.id))
}

fn count(result: Option<Result<(), String>>, sent: &mut u64, failed: &mut u64) {
    match result {
        Some(Ok(())) => *sent += 1,
        Some(Err(error)) => {
            *failed += 1;
            eprintln!("not sent: {error}");
        }
        None => {}
    }
}
