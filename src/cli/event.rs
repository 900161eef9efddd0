//! `dunmore event`.

use std::io::{self, BufReader, IsTerminal as _};

use anyhow::{Context as _, bail};
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
    clock,
    codec::{cloudevents, form, schemas},
    event::{self, Event, EventType, Problem, Problems},
    json,
    kafka::{Outgoing, Producer, TopicKind},
    metrics::{KafkaClient, Metrics},
};

mod lines;

use lines::{Found, Lines, Piece};

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
        return Ok(Sampled(EventType::PAYMENTS.to_vec()));
    }
    text.parse().map(|kind| Sampled(vec![kind])).map_err(|()| {
        let all: Vec<&str> = EventType::PAYMENTS.iter().map(|kind| kind.as_str()).collect();
        format!("the types are {}, and all", all.join(", "))
    })
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

fn open(file: &str) -> anyhow::Result<Lines> {
    if file == "-" {
        if io::stdin().is_terminal() {
            eprintln!(
                "reading events from standard input, one JSON object a line; end with Ctrl-D"
            );
        }
        return Ok(Lines::new(Box::new(io::stdin().lock())));
    }
    let opened = std::fs::File::open(file).with_context(|| format!("cannot open {file}"))?;
    Ok(Lines::new(Box::new(BufReader::new(opened))))
}

/// The event in a piece of the input, or what is wrong with it.
fn judge(piece: &Piece) -> Result<Event, Problems> {
    let whole =
        |words: String| Problems(vec![Problem { field: String::new(), words: words.into() }]);
    match &piece.found {
        Found::Wrong(words) => Err(whole((*words).to_owned())),
        Found::Text(text) => {
            let start = match form::form(&[], text) {
                form::Form::Bare { start } => start,
                form::Form::Other(words) => return Err(whole(words.into_owned())),
                form::Form::Framed { .. } => {
                    return Err(whole("a line of JSON is expected, not framed Avro".to_owned()));
                }
            };
            cloudevents::in_text(&text.slice(start..), clock::now())
        }
    }
}

/// What the lines of the input were so far.
#[derive(Default)]
struct Tally {
    lines: u64,
    wrong: u64,
    /// The first of the wrong ones.
    errors: Vec<serde_json::Value>,
    /// Why reading ended before the end.
    failure: Option<anyhow::Error>,
}

impl Tally {
    /// The next event of the input. What is none is told and counted; an error ends the input.
    fn next(&mut self, lines: &mut Lines, file: &str) -> Option<Event> {
        loop {
            let piece = match lines.next() {
                Ok(Some(piece)) => piece,
                Ok(None) => return None,
                Err(error) => {
                    let line = lines.number + 1;
                    let words = format!("reading {file}, line {line}");
                    self.failure = Some(anyhow::Error::new(error).context(words));
                    return None;
                }
            };
            self.lines += 1;
            match judge(&piece) {
                Ok(event) => {
                    for suspicion in event::suspicions(&event) {
                        eprintln!("line {}: note: {suspicion}", piece.first);
                    }
                    return Some(event);
                }
                Err(problems) => self.tell(&piece, &problems),
            }
        }
    }

    fn tell(&mut self, piece: &Piece, problems: &Problems) {
        self.wrong += 1;
        if self.errors.len() >= MAX_TOLD {
            return;
        }
        let kind = match &piece.found {
            Found::Text(text) => type_of(text),
            Found::Wrong(_) => None,
        };
        let told: Vec<String> = problems.0.iter().map(|problem| told(problem, kind)).collect();
        let line = if piece.first == piece.last {
            format!("line {}", piece.first)
        } else {
            format!("lines {} to {}", piece.first, piece.last)
        };
        for problem in &told {
            eprintln!("{line}: {problem}");
        }
        self.errors.push(json!({ "line": piece.first, "problems": told }));
    }

    /// Says how many more were wrong, and why this is no success, if it is none.
    fn end(self, file: &str, failed: u64) -> anyhow::Result<()> {
        let more = self.wrong.saturating_sub(MAX_TOLD as u64);
        if more > 0 {
            eprintln!("… and {more} more wrong lines");
        }
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        if self.lines == 0 {
            let input = if file == "-" { "standard input" } else { file };
            bail!("there is no event in {input}: one JSON object a line is expected");
        }
        if self.wrong > 0 || failed > 0 { Err(Said.into()) } else { Ok(()) }
    }
}

fn type_of(text: &[u8]) -> Option<EventType> {
    let json::Pairs(pairs) = serde_json::from_slice(text).ok()?;
    let (_, kind) = pairs.into_iter().find(|(name, _)| name == "type")?;
    let json::Text(kind) = serde_json::from_str(kind.get()).ok()?;
    kind.parse().ok()
}

/// A problem, and for a field that is missing what belongs there.
fn told(problem: &Problem, kind: Option<EventType>) -> String {
    match schemas::doc(kind, &problem.field) {
        Some(doc) if problem.is_missing() => format!("{problem}: {doc}"),
        _ => problem.to_string(),
    }
}

fn validate(common: &Common, file: &str) -> anyhow::Result<()> {
    let mut lines = open(file)?;
    let (mut valid, mut tally) = (0_u64, Tally::default());
    while tally.next(&mut lines, file).is_some() {
        valid += 1;
    }
    let wrong = tally.wrong;
    match common.output {
        Output::Json => {
            output::json(&json!({ "valid": valid, "invalid": wrong, "errors": tally.errors }))?;
        }
        Output::Table => output::line(&format!("{valid} valid, {wrong} invalid")),
    }
    tally.end(file, 0)
}

async fn send(common: &Common, file: &str) -> anyhow::Result<()> {
    start_logs(common, "error")?;
    let config = load(common)?;
    let connection = config.connection()?;
    let topics = config.topics();
    crate::kafka::Admin::new(&connection)?.require(&topics)?;
    let topic = topics.name(TopicKind::Events);
    let codec = super::codec(&config, &topics).await?;
    let metrics = Metrics::new()?;
    let producer = Producer::new(&connection, metrics.kafka_client(KafkaClient::Tool))?;
    let (mut sent, mut failed, mut as_json) = (0_u64, 0_u64, 0_u64);
    let mut waiting = FuturesUnordered::new();
    let (mut lines, mut tally) = (open(file)?, Tally::default());
    while let Some(event) = tally.next(&mut lines, file) {
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
    let wrong = tally.wrong;
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
    tally.end(file, failed)
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
