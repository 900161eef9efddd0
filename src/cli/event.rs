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
    codec::explain,
    event::{Event, EventType},
    kafka::{Outgoing, Producer, TopicKind, Topics},
    metrics::{KafkaClient, Metrics},
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
        after_help = "Examples:\n  dunmore event send --file events.jsonl\n  generate | dunmore event send\n  dunmore event send --sample payment.settled | dunmore event send"
    )]
    Send {
        /// The file, or - for standard input.
        #[arg(long, default_value = "-", value_name = "FILE")]
        file: String,
        /// Print a valid event of this type, or of every type (all), and send nothing.
        #[arg(long, value_name = "TYPE", value_parser = sampled)]
        sample: Option<Sampled>,
    },
    /// Check payment events (one JSON object a line) and tell everything that is wrong with them;
    /// exit code 1 when something is. It needs no broker.
    #[command(
        after_help = "Examples:\n  dunmore event validate --file events.jsonl\n  dunmore event send --sample all | dunmore event validate"
    )]
    Validate {
        /// The file, or - for standard input.
        #[arg(long, default_value = "-", value_name = "FILE")]
        file: String,
    },
    /// Tell an event's full story: where it was read, whom it was matched with, each attempt, and
    /// where each of its deliveries is now.
    Trace(super::deliveries::TraceFlags),
}

/// Which samples are wanted.
#[derive(Clone, Debug)]
pub struct Sampled(Vec<EventType>);

fn sampled(text: &str) -> Result<Sampled, String> {
    if text == "all" {
        return Ok(Sampled(EventType::ALL.to_vec()));
    }
    text.parse().map(|kind| Sampled(vec![kind])).map_err(|()| {
        let all: Vec<&str> = EventType::ALL.iter().map(|kind| kind.as_str()).collect();
        format!("the types are {}, and all", all.join(", "))
    })
}

/// One line of the input, which is no event.
struct Wrong {
    line: usize,
    problems: Vec<String>,
}

/// `dunmore event …`
pub async fn run(common: &Common, command: EventCommand) -> anyhow::Result<()> {
    match command {
        EventCommand::Send { sample: Some(Sampled(kinds)), .. } => {
            for kind in kinds {
                output::line(crate::event::sample(kind));
            }
            Ok(())
        }
        EventCommand::Send { file, sample: None } => send(common, &file).await,
        EventCommand::Validate { file } => validate(common, &file),
        EventCommand::Trace(flags) => super::deliveries::trace(common, flags).await,
    }
}

fn open(file: &str) -> anyhow::Result<Box<dyn BufRead>> {
    if file == "-" {
        return Ok(Box::new(io::stdin().lock()));
    }
    let opened = std::fs::File::open(file).with_context(|| format!("cannot open {file}"))?;
    Ok(Box::new(BufReader::new(opened)))
}

fn validate(common: &Common, file: &str) -> anyhow::Result<()> {
    let (mut valid, mut wrong) = (0_u64, Vec::new());
    for (number, line) in open(file)?.lines().enumerate() {
        let line = line.with_context(|| format!("reading {file}"))?;
        let json = line.trim().as_bytes();
        if json.is_empty() {
            continue;
        }
        let problems = explain::problems(json);
        for suspicion in explain::suspicions(json) {
            eprintln!("line {}: note: {suspicion}", number + 1);
        }
        if problems.is_empty() {
            valid += 1;
        } else {
            let found = Wrong { line: number + 1, problems };
            tell(&found, wrong.len());
            wrong.push(found);
        }
    }
    tell_rest(wrong.len());
    match common.output {
        Output::Json => {
            let told = wrong.iter().take(MAX_TOLD);
            let errors: Vec<_> =
                told.map(|w| json!({ "line": w.line, "problems": w.problems })).collect();
            output::json(&json!({ "valid": valid, "invalid": wrong.len(), "errors": errors }))?;
        }
        Output::Table => output::line(&format!("{valid} valid, {} invalid", wrong.len())),
    }
    if wrong.is_empty() { Ok(()) } else { Err(Said.into()) }
}

fn tell(wrong: &Wrong, told: usize) {
    if told < MAX_TOLD {
        for problem in &wrong.problems {
            eprintln!("line {}: {problem}", wrong.line);
        }
    }
}

fn tell_rest(count: usize) {
    if count > MAX_TOLD {
        eprintln!("… and {} more wrong lines", count - MAX_TOLD);
    }
}

async fn send(common: &Common, file: &str) -> anyhow::Result<()> {
    start_logs(common, "error")?;
    let config = load(common)?;
    let connection = config.connection()?;
    let topics = Topics::new(&config.topics.prefix, &config.delivery.retry_tiers);
    crate::kafka::Admin::new(&connection)?.require(&topics)?;
    let topic = topics.name(TopicKind::Events);
    let codec = super::codec(&config, &topics).await?;
    let metrics = Metrics::new()?;
    let producer = Producer::new(&connection, metrics.kafka_client(KafkaClient::Tool))?;
    let (mut sent, mut wrong, mut failed, mut as_json) = (0_u64, 0_usize, 0_u64, 0_u64);
    let mut waiting = FuturesUnordered::new();
    for (number, line) in open(file)?.lines().enumerate() {
        let line = line.with_context(|| format!("reading {file}"))?;
        if line.trim().is_empty() {
            continue;
        }
        let json = Bytes::from(line.trim().to_owned());
        let Ok(event) = Event::from_json(json.clone()) else {
            tell(&Wrong { line: number + 1, problems: explain::problems(&json) }, wrong);
            wrong += 1;
            continue;
        };
        while waiting.len() >= MAX_UNACKNOWLEDGED {
            count(waiting.next().await, &mut sent, &mut failed);
        }
        let avro = codec.encode_event(&event).map(Bytes::from);
        as_json += u64::from(codec.has_registry() && avro.is_none());
        let value = avro.unwrap_or_else(|| event.json.clone());
        waiting.push(produce(&producer, &topic, event, value));
    }
    while let Some(result) = waiting.next().await {
        count(Some(result), &mut sent, &mut failed);
    }
    tell_rest(wrong);
    match common.output {
        Output::Json => output::json(
            &json!({"sent": sent, "asJson": as_json, "invalid": wrong, "failed": failed}),
        )?,
        Output::Table => output::line(&format!("{sent} sent, {wrong} invalid, {failed} failed")),
    }
    if as_json > 0 {
        eprintln!(
            "{as_json} were sent as JSON: the Avro schema has no place for all that is in them"
        );
    }
    if wrong > 0 || failed > 0 { Err(Said.into()) } else { Ok(()) }
}

async fn produce(
    producer: &Producer,
    topic: &str,
    event: Event,
    value: Bytes,
) -> Result<(), String> {
    let record = Outgoing {
        topic,
        partition: None,
        key: event.project.as_str().as_bytes(),
        value: Some(&value),
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
