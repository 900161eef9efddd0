//! `dunmore destination`: which services there are, what they need, and what they would be sent.

use std::io::Read as _;

use anyhow::Context as _;
use bytes::Bytes;
use clap::{Args, Subcommand};
use secrecy::SecretString;
use serde_json::{Map, Value, json, value::RawValue};

use super::{
    Common, Usage,
    connector::ConfigFlags,
    load,
    output::{self, Output},
};
use crate::{
    clock,
    delivery::Verdict,
    destination::{
        Checks, ConnectorType, Destination, Field, Item, Request, Settings, Setup, Shape, Spec,
        check_ways,
        docs::{self, Preview},
        is_in_a_way,
    },
    event::{self, Event, EventType, EventTypes},
    id::{ConnectorId, ConnectorKey, DeliveryId},
    operations::shown,
};

#[derive(Subcommand, Debug)]
pub enum DestinationCommand {
    /// List the services that connectors can deliver to.
    #[command(after_help = "Example:\n  dunmore destination list")]
    List,
    /// Show what a connector of a type needs, its limits, and what each event type becomes.
    #[command(
        after_help = "Examples:\n  dunmore destination show slack\n  dunmore destination show bigquery --output json"
    )]
    Show {
        /// The type: slack, zapier, n8n, …
        #[arg(value_name = "TYPE")]
        kind: ConnectorType,
    },
    /// Print the exact request that an event would become, secrets masked. Nothing is sent.
    #[command(
        after_help = "Examples:\n  dunmore destination preview slack --event sample:payment.settled\n  dunmore destination preview segment --event 'sample:*'\n  dunmore destination preview xero --event 'sample:*' --events payment.settled\n  dunmore destination preview telegram --set chatId=-100123 --event - < event.json"
    )]
    Preview(PreviewFlags),
}

#[derive(Args, Debug)]
pub struct PreviewFlags {
    /// The type: slack, zapier, n8n, …
    #[arg(value_name = "TYPE")]
    kind: ConnectorType,
    /// A file of JSON events, - for standard input, or a sample: see the examples.
    #[arg(long, value_name = "EVENT")]
    event: String,
    /// The event types that the connector subscribes to, or * for all.
    #[arg(long, value_delimiter = ',', default_value = "*", value_name = "TYPES")]
    events: Vec<String>,
    /// The connector's id; it and the event's id make up the delivery's.
    #[arg(long, value_name = "ID", default_value = "conn_1")]
    connector: ConnectorId,
    #[command(flatten)]
    config: ConfigFlags,
}

/// `dunmore destination …`
pub fn run(common: &Common, command: &DestinationCommand) -> anyhow::Result<()> {
    match command {
        DestinationCommand::List => list(common.output),
        DestinationCommand::Show { kind } => show(common.output, *kind),
        DestinationCommand::Preview(flags) => preview(common, flags),
    }
}

fn list(output: Output) -> anyhow::Result<()> {
    if output == Output::Json {
        let all: Vec<Value> = ConnectorType::ALL.iter().map(|kind| described(*kind)).collect();
        return output::json(&json!({ "destinations": all }));
    }
    let rows = ConnectorType::ALL.iter().map(|kind| {
        let spec = kind.spec();
        [
            kind.to_string(),
            spec.title.to_owned(),
            spec.category.as_str().to_owned(),
            docs::batch(spec),
            spec.dedup.to_owned(),
            docs::limits(spec),
        ]
    });
    output::table(["type", "title", "category", "batch", "against repeats", "rate"], rows);
    Ok(())
}

/// A type as programs read it.
fn described(kind: ConnectorType) -> Value {
    let spec = kind.spec();
    let fields: Vec<Value> = spec.fields.iter().map(described_field).collect();
    let becomes: Map<String, Value> = EventType::ALL
        .iter()
        .map(|event| (event.as_str().to_owned(), (spec.becomes)(*event).into()))
        .collect();
    let batch = docs::batch_limits(spec)
        .map(|limits| json!({"items": limits.items, "bytes": limits.bytes}));
    let rate = spec.rate.map(|rate| json!({"perSecond": rate.per_second, "burst": rate.burst}));
    let shared = spec
        .shared_address_limit
        .map(|limit| json!({"refused": limit.refused, "withinSeconds": limit.within.as_secs()}));
    json!({
        "type": kind,
        "title": spec.title,
        "category": spec.category,
        "docs": spec.docs,
        "fields": fields,
        "ways": spec.ways.iter().map(|way| json!({"fields": way.fields, "what": way.what}))
            .collect::<Vec<_>>(),
        "batch": batch,
        "dedup": spec.dedup,
        "forgetsRepeatsAfterSeconds": spec.forgets_repeats_after.map(|time| time.as_secs()),
        "maxEventAgeSeconds": spec.max_event_age.map(|age| age.as_secs()),
        "rate": rate,
        "sharedAddressLimit": shared,
        "concurrency": spec.concurrency,
        "timeoutSeconds": spec.timeout.as_secs_f64(),
        "becomes": becomes,
    })
}

fn described_field(field: &Field) -> Value {
    json!({
        "name": field.name,
        "required": field.required,
        "secret": field.secret,
        "list": field.shape == Shape::List,
        "help": field.help,
        "example": field.example,
    })
}

fn show(output: Output, kind: ConnectorType) -> anyhow::Result<()> {
    if output == Output::Json {
        return output::json(&described(kind));
    }
    let spec = kind.spec();
    output::line(&format!("{} ({kind}), {}\n{}\n", spec.title, spec.category.as_str(), spec.docs));
    let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
    let fields = spec.fields.iter().map(|field| {
        let list = if field.shape == Shape::List { "A list. " } else { "" };
        [
            field.name.to_owned(),
            if is_in_a_way(spec.ways, field.name) {
                "one way".to_owned()
            } else {
                yes(field.required)
            },
            yes(field.secret),
            format!("{list}{}\nExample: {}", field.help, field.example),
        ]
    });
    output::table(["config field", "required", "secret", "what it is"], fields);
    if !spec.ways.is_empty() {
        let ways = spec.ways.iter().map(|way| [way.to_string(), way.what.to_owned()]);
        output::line("");
        output::table(["give exactly one of", "what it is good for"], ways);
    }
    let becomes = EventType::ALL.iter().map(|event| {
        let becomes = (spec.becomes)(*event);
        [event.as_str().to_owned(), becomes.to_owned()]
    });
    output::line("");
    output::table(["event type", "becomes"], becomes);
    output::line("");
    output::table(["limit", "value"], limits(spec));
    Ok(())
}

fn limits(spec: &Spec) -> Vec<[String; 2]> {
    let events_per_request =
        docs::batch_limits(spec).map_or_else(|| "1".to_owned(), |_| docs::batch(spec));
    let mut rows = vec![
        ["events per request".to_owned(), events_per_request],
        ["requests per connector".to_owned(), docs::limits(spec)],
        ["an answer may take".to_owned(), format!("{} s", spec.timeout.as_secs_f64())],
        ["against repeats".to_owned(), spec.dedup.to_owned()],
    ];
    if let Some(age) = spec.max_event_age {
        let text = format!("{} hours; older ones count as of now", age.as_secs() / 3600);
        rows.push(["events keep their time for".to_owned(), text]);
    }
    if let Some(limit) = spec.shared_address_limit {
        let text = format!("{} refused calls in {} s", limit.refused, limit.within.as_secs());
        rows.push(["all connectors pause after".to_owned(), text]);
    }
    rows
}

/// What an event would become.
enum Outcome {
    Unsubscribed,
    Skipped(&'static str),
    Refused(Verdict),
    Sent {
        /// What is asked before this very request, if anything is.
        question: Option<Preview>,
        request: Preview,
    },
}

/// A connector that exists for a preview only.
struct Connector {
    spec: &'static Spec,
    event_types: EventTypes,
    destination: Box<dyn Destination>,
    secrets: Vec<SecretString>,
    /// Whether access tokens are made by a credential.
    renews: bool,
    id: ConnectorId,
}

fn preview(common: &Common, flags: &PreviewFlags) -> anyhow::Result<()> {
    let connector = connector(common, flags)?;
    let is_sample = flags.event.starts_with("sample:");
    let events = events(&flags.event)?;
    let question = match connector.destination.setup(&[]) {
        Setup::Ask(request) => Some(connector.shown(request)),
        _ => None,
    };
    let outcomes: Vec<(Event, Outcome)> = events
        .into_iter()
        .map(|event| {
            let outcome = connector.outcome(&event, is_sample);
            (event, outcome)
        })
        .collect();
    if common.output == Output::Json {
        let previews: Vec<Value> = outcomes.iter().map(|(e, outcome)| told(e, outcome)).collect();
        return output::json(&json!({
            "type": flags.kind,
            "asksFirst": question,
            "previews": previews,
        }));
    }
    if let Some(question) = question {
        let answer = match connector.spec.setup_example {
            "" => String::new(),
            example => format!("; below, its answer is taken to be {example}"),
        };
        output::line(&format!("# before the first delivery it is asked{answer}\n{question}"));
    }
    for (event, outcome) in &outcomes {
        let heading = format!("# {} {}", event.kind, event.id);
        output::line(&match outcome {
            Outcome::Unsubscribed => format!("{heading}\nnot subscribed to by the connector\n"),
            Outcome::Skipped(why) => format!("{heading}\nskipped: {why}\n"),
            Outcome::Refused(verdict) => format!("{heading}\nno request: {}\n", words(verdict)),
            Outcome::Sent { question: None, request } => format!("{heading}\n{request}"),
            Outcome::Sent { question: Some(question), request } => {
                format!("{heading}\n{question}\n# and then\n{request}")
            }
        });
    }
    Ok(())
}

fn told(event: &Event, outcome: &Outcome) -> Value {
    let mut told = json!({"eventId": event.id.as_str(), "eventType": event.kind});
    match outcome {
        Outcome::Unsubscribed => told["skipped"] = "the connector does not subscribe to it".into(),
        Outcome::Skipped(why) => told["skipped"] = (*why).into(),
        Outcome::Refused(verdict) => told["refused"] = words(verdict).into(),
        Outcome::Sent { question, request } => {
            if let Some(question) = question {
                told["asksFirst"] = json!(question);
            }
            told["request"] = json!(request);
        }
    }
    told
}

fn words(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Retry { reason, detail, .. }
        | Verdict::Dead { reason, detail }
        | Verdict::Broken { reason, detail, .. } => format!("{detail} ({reason})"),
        Verdict::Delivered | Verdict::Moved { .. } => "nothing to send".to_owned(),
    }
}

impl Connector {
    fn outcome(&self, event: &Event, is_sample: bool) -> Outcome {
        if !self.event_types.contains(event.kind) {
            return Outcome::Unsubscribed;
        }
        if let Some(why) = self.destination.skips(event) {
            return Outcome::Skipped(why);
        }
        let key = ConnectorKey { project: event.project.clone(), connector: self.id.clone() };
        let item = Item {
            event,
            delivery_id: DeliveryId::new(&key, &event.id),
            attempt: 1,
            // A sample is always fresh.
            sent_at: if is_sample { event.occurred_at } else { clock::now() },
            setup: self.spec.setup_example,
        };
        let question = match self.destination.lookup(&[item], &[]) {
            Some(Setup::Ask(request)) => Some(self.shown(request)),
            Some(Setup::Failed(verdict)) => return Outcome::Refused(verdict),
            _ => None,
        };
        let built = match self.destination.batching() {
            Some(batching) => batching.build(&[item]),
            None => self.destination.build(&item),
        };
        match built {
            Ok(request) => Outcome::Sent { question, request: self.shown(request) },
            Err(verdict) => Outcome::Refused(verdict),
        }
    }

    fn shown(&self, request: Request) -> Preview {
        shown(request.with_token_to_come(self.renews), &self.secrets)
    }
}

/// A connector of the example settings and those that are given, checked as on its creation.
fn connector(common: &Common, flags: &PreviewFlags) -> anyhow::Result<Connector> {
    let config = load(common)?;
    let spec = flags.kind.spec();
    let event_types = EventTypes::parse(&flags.events)
        .map_err(|errors| Usage(format!("--events: {}", errors.join("; "))))?;
    let base_url = config.destinations.get(&flags.kind).and_then(|set| set.base_url.clone());
    let mut settings = docs::example_settings(spec, base_url);
    let given = flags.config.read()?.unwrap_or_default();
    if given.keys().any(|name| is_in_a_way(spec.ways, name)) {
        // The example's way would be a second one.
        for field in spec.ways.iter().flat_map(|way| way.fields) {
            settings.remove(field);
        }
    }
    let operator = config.destinations.get(&flags.kind);
    settings =
        settings.with_tokens(None, operator.and_then(crate::config::DestinationSettings::app));
    let egress = config.egress_policy();
    let mut errors = Vec::new();
    for (name, value) in given {
        let Some(field) = flags.kind.field(&name) else {
            errors.push(format!("config.{name} is no setting of {}", flags.kind));
            continue;
        };
        match Settings::read(field, &value, &Checks { egress: &egress }) {
            Ok(setting) => settings.insert(field.name, setting),
            Err(message) => errors.push(format!("config.{name} {message}")),
        }
    }
    if errors.is_empty() {
        let mut together = check_ways(spec.ways, &settings);
        together.extend((spec.check)(&settings, &event_types));
        errors.extend(together.iter().map(|(field, message)| format!("{field}: {message}")));
    }
    if !errors.is_empty() {
        return Err(Usage(errors.join("\n")).into());
    }
    let renews = (spec.credential)(&settings)?.is_some();
    let destination = (spec.make)(&settings, &event_types)?;
    let secrets = settings.secrets(spec.fields);
    Ok(Connector { spec, event_types, destination, secrets, renews, id: flags.connector.clone() })
}

/// The events that `--event` means: samples, or those in a file.
pub(super) fn events(source: &str) -> anyhow::Result<Vec<Event>> {
    if let Some(name) = source.strip_prefix("sample:") {
        let kinds = EventTypes::parse(&[name])
            .map_err(|errors| Usage(format!("--event: {}", errors.join("; "))))?;
        let kinds = EventType::ALL.iter().filter(|kind| kinds.contains(**kind));
        let read = |kind: &EventType| {
            Event::from_json(Bytes::from_static(event::sample(*kind).as_bytes()))
        };
        return Ok(kinds.map(read).collect::<Result<_, _>>()?);
    }
    let mut text = String::new();
    if source == "-" {
        std::io::stdin().read_to_string(&mut text).context("reading standard input")?;
    } else {
        text = std::fs::read_to_string(source).with_context(|| format!("cannot read {source}"))?;
    }
    let mut events = Vec::new();
    for json in serde_json::Deserializer::from_str(&text).into_iter::<&RawValue>() {
        let place = events.len() + 1;
        let json = json.with_context(|| format!("event {place} of {source} is no JSON"))?;
        let event = Event::from_json(Bytes::copy_from_slice(json.get().as_bytes()))
            .with_context(|| format!("event {place} of {source}"))?;
        events.push(event);
    }
    anyhow::ensure!(!events.is_empty(), "there is no event in {source}");
    Ok(events)
}
