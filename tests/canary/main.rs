//! Known secrets go in through the API, deliveries succeed, fail and die; then everything that the
//! program wrote anywhere is searched for them. They may be in requests to the services, nowhere else.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

#[path = "../support/broker.rs"]
mod broker;
mod panics;
#[expect(dead_code, reason = "other tests look at more of it")]
#[path = "../support/sandbox/mod.rs"]
mod sandbox;
#[expect(dead_code, reason = "other tests ask for more")]
#[path = "../api/stage.rs"]
mod stage;

use std::{
    collections::BTreeMap,
    io::Write,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use dunmore_connectors::{
    cli::ControlClient,
    codec::Codec,
    config::Config,
    connector::Command,
    destination::{ConnectorType, Field, Shape},
    kafka::{Connection, Outgoing, Producer, Reader, ReaderEvent, TopicKind, Topics},
    metrics::{KafkaClient, Metrics},
    redact::LEFT_OUT,
    service::Role,
};
use rdkafka::Offset;
use sandbox::{Behaviour, Sandbox};
use serde_json::{Map, Value, json};
use stage::connectors;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The value of a field: its example, where no other field has the same.
fn value_of(kind: ConnectorType, field: &Field) -> &'static str {
    match (kind.as_str(), field.name) {
        ("opsgenie", "apiKey") => "5c9e1f7a-3b2d-4e68-9a04-c1d7f0e8b365",
        ("zapier", "webhookUrl") => "https://hooks.zapier.com/hooks/catch/1234567/canary9q/",
        _ => field.example,
    }
}

/// What must not be found: every secret, its telling parts, and all of them in each form in which
/// services quote what they were sent.
fn needles() -> BTreeMap<String, Vec<u8>> {
    let mut needles = BTreeMap::new();
    for kind in ConnectorType::ALL {
        for field in kind.spec().example_fields().filter(|field| field.secret) {
            let text = value_of(*kind, field);
            let tail = text.rsplit('/').find(|part| part.len() >= 8).unwrap_or(text);
            let mut parts = vec![text, tail];
            let query = text.split_once('?').map_or("", |(_, query)| query);
            let values = query.split('&').filter_map(|pair| Some(pair.split_once('=')?.1));
            parts.extend(values.filter(|value| value.len() >= 16));
            // Half of it is one too: what was cut. A URL's beginning is no secret.
            if text.len() >= 30 && !text.starts_with("http") {
                parts.push(&text[..20]);
            }
            for part in parts {
                for (form, needle) in forms(part) {
                    // The last characters of base64 depend on what comes next.
                    let length = if form == "base64" { needle.len() - 4 } else { needle.len() };
                    let name = format!("{kind}.{} {form} {part:.3}…", field.name);
                    needles.insert(name, needle.as_bytes()[..length].to_vec());
                }
            }
        }
    }
    needles
}

/// A text in the forms in which services were seen to quote what they were sent.
fn forms(text: &str) -> [(&'static str, String); 4] {
    let percent = text.bytes().map(|byte| match byte {
        b if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) => char::from(b).to_string(),
        b => format!("%{b:02X}"),
    });
    let json = json!(text).to_string().replace('/', "\\/");
    [
        ("raw", text.to_owned()),
        ("percent", percent.collect()),
        ("json", json.trim_matches('"').to_owned()),
        ("base64", STANDARD.encode(format!("{text}:"))),
    ]
}

/// Where a service quotes something: at the beginning, where it is cut, in JSON, in a header, and far
/// behind what anybody shows.
const PLACES: usize = 6;

fn said(place: usize, status: u16, quoted: &str) -> Behaviour {
    let message = format!("no such hook: {quoted}");
    let (header, body) = match place {
        0 => ("", message),
        1 => ("", format!("{} {quoted}", "x".repeat(285))),
        2 => ("", format!("{{\"message\":\"{message}\",\"description\":\"{message}\"}}")),
        3 => {
            let error = format!("{{\"message\":\"{message}\",\"reason\":\"{message}\"}}");
            ("", format!("{{\"errors\":[{error}],\"error\":{error}}}"))
        }
        4 => (quoted, "sorry".to_owned()),
        _ => ("", format!("{}{quoted}", " ".repeat(40_000))),
    };
    Behaviour::Say(status, header.to_owned(), body)
}

/// The secret of a type that its service quotes.
fn quoted(kind: ConnectorType, form: usize) -> String {
    let field = kind.spec().example_fields().find(|field| field.secret);
    let [raw, percent, json, base64] = forms(value_of(kind, field.unwrap()));
    [raw, percent, json, base64][form % 4].1.clone()
}

fn search(place: &str, hay: &[u8], needles: &BTreeMap<String, Vec<u8>>, found: &mut Vec<String>) {
    for (name, needle) in needles {
        // The slice search of the standard library's text type is fast; bytes are few enough.
        if let Some(at) = find(hay, needle) {
            let around = &hay[at.saturating_sub(80)..(at + needle.len() + 20).min(hay.len())];
            found.push(format!("{place}: {name}: {}", String::from_utf8_lossy(around)));
        }
    }
}

fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    let mut from = 0;
    while let Some(at) = hay[from..].iter().position(|byte| *byte == first) {
        if hay[from + at..].starts_with(needle) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

fn config_of(kind: ConnectorType) -> Map<String, Value> {
    let fields = kind.spec().example_fields();
    let value = |field: &Field| match field.shape {
        Shape::Text => json!(value_of(kind, field)),
        Shape::List => json!([field.example]),
    };
    fields.map(|field| (field.name.to_owned(), value(field))).collect()
}

fn read_all(connection: &Connection, topic: &str) -> Vec<u8> {
    let reader = Reader::all(connection, topic, Offset::Beginning).unwrap();
    let (mut bytes, mut ended) = (Vec::new(), std::collections::BTreeSet::new());
    while ended.len() < 2 {
        match reader.poll(Duration::from_secs(1)) {
            ReaderEvent::Record(record) => {
                bytes.extend_from_slice(record.key.as_deref().unwrap_or_default());
                bytes.extend_from_slice(record.value.as_deref().unwrap_or_default());
                for (name, value) in &record.headers {
                    bytes.extend_from_slice(name.as_bytes());
                    bytes.extend_from_slice(value);
                }
            }
            ReaderEvent::End { partition, .. } => {
                ended.insert(partition);
            }
            _ => {}
        }
    }
    bytes
}

fn read_folder(path: &Path, files: &mut Vec<(String, Vec<u8>)>) {
    for entry in std::fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_folder(&path, files);
        } else {
            files.push((path.display().to_string(), std::fs::read(&path).unwrap()));
        }
    }
}

fn event(number: u32) -> Value {
    json!({ "id": format!("evt_{number}"), "type": "payment.settled", "projectId": "proj_1",
        "occurredAt": "2026-11-23T08:00:00.000Z", "data": { "paymentId": format!("pay_{number}"),
        "endpointId": "ep_1", "customerId": "0x52908400098527886E0F7030069857D2E4169EE7",
        "amount": "1.250000", "currency": "USDC", "network": "base", "txHash": "0xabc" } })
}

async fn send_event(producer: &Producer, topics: &Topics, number: usize) {
    let value = event(u32::try_from(number).unwrap()).to_string();
    let topic = topics.name(TopicKind::Events);
    let record = Outgoing {
        topic: &topic,
        partition: None,
        key: b"proj_1",
        value: Some(value.as_bytes()),
        headers: Vec::new(),
    };
    producer.send(&record).await.unwrap();
}

#[expect(clippy::too_many_lines, reason = "one story, told once")]
#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_nowhere_but_in_the_requests() {
    let Some(broker) = broker::broker() else { return };
    let log = Log::default();
    let writer = log.clone();
    let lines = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE);
    lines.with_ansi(false).with_writer(move || writer.clone()).try_init().unwrap();
    panics::hide();

    let prefix = broker.unique_prefix();
    let sandbox = Sandbox::start().await;
    let mut more = "delivery.retry_tiers = \"1s,2s\"\n".to_owned();
    for kind in ConnectorType::ALL {
        more.push_str(&format!(
            "destinations.{kind}.base_url = \"{}\"\n",
            sandbox.base_url(kind.as_str())
        ));
    }
    let policy = Config::from_toml(&more).unwrap().delivery.retry_tiers;
    let topics = Topics::new(&prefix, &policy);
    stage::topics_with(&broker.bootstrap, &prefix, &more).await;
    let instance = stage::start(&broker.bootstrap, &prefix, &more, &Role::ALL).await;
    let client = &instance.client;
    let connection = Connection::new(broker.bootstrap.clone(), BTreeMap::new());
    let tier = json!({ "id": "tier", "type": "project.set_tier", "projectId": "proj_1", "tier": "enterprise" });
    let control = ControlClient::new(&connection, &topics, Codec::json()).unwrap();
    control.send(&Command::from_value(tier).unwrap()).await.unwrap();

    let mut answers = Vec::new();
    let list = connectors("proj_1");
    let mut made = Vec::new();
    for kind in ConnectorType::ALL {
        let body =
            json!({ "type": kind, "config": config_of(*kind), "eventTypes": ["payment.settled"] });
        let answer = client.create("proj_1", &body).await.is(201);
        made.push((*kind, answer.body["id"].as_str().unwrap().to_owned()));
        answers.push(answer.body);
        // Errors around the same secrets.
        let mut wrong = body.clone();
        wrong["config"]["unknown"] = json!(1);
        answers.push(client.create("proj_1", &wrong).await.is(400).body);
        let malformed = body.to_string().replace("\"eventTypes\"", "eventTypes");
        let json = [("content-type", "application/json")];
        answers.push(client.send("POST", &list, &json, Some(malformed)).await.is(400).body);
    }

    let slack = made.iter().find(|(kind, _)| *kind == ConnectorType::Slack).unwrap();
    let url = sandbox.base_url("slack");
    panics::deliver(&instance.service, &connection, &topics, &slack.1, url).await;

    let metrics = Metrics::new().unwrap();
    let producer = Producer::new(&connection, metrics.kafka_client(KafkaClient::Tool)).unwrap();
    let behaviours =
        [Behaviour::Ok, Behaviour::ServerError, Behaviour::Status(400), Behaviour::Garbage];
    // Each type quotes in one form at each place; with 0 to 3 here, in every form.
    let shift = std::env::var("DUNMORE_CANARY_SHIFT").map_or(0, |text| text.parse().unwrap());
    let rounds = behaviours.len() + PLACES;
    for number in 0..rounds {
        // What was suspended by a round before would say nothing more.
        for (_, id) in made.iter().filter(|_| number >= behaviours.len()) {
            client.send("POST", &format!("{list}/{id}/resume"), &[], None).await.is(200);
        }
        for (index, kind) in ConnectorType::ALL.iter().enumerate() {
            let behaviour = behaviours.get(number).cloned().unwrap_or_else(|| {
                let place = number - behaviours.len();
                // The last ones suspend.
                let status = [500, 503, 502, 500, 400, 401][place];
                said(place, status, &quoted(*kind, place + index + shift))
            });
            if behaviour != Behaviour::Ok {
                sandbox.behave(kind.as_str(), behaviour, 1);
            }
        }
        send_event(&producer, &topics, number).await;
        let asked = Instant::now();
        let is_done = || {
            made.iter().all(|(kind, _)| {
                sandbox.requests(kind.as_str()).iter().filter(|r| !r.is_setup).count() > number
            })
        };
        while !is_done() && asked.elapsed() < Duration::from_secs(6) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let silent = || -> Vec<_> {
        made.iter().filter(|(kind, _)| sandbox.is_planned(kind.as_str())).collect()
    };
    let asked = Instant::now();
    while !silent().is_empty() {
        assert!(asked.elapsed() < Duration::from_secs(90), "not all was said by {:?}", silent());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for (index, (kind, id)) in made.iter().enumerate() {
        let path = format!("{list}/{id}");
        sandbox.behave(kind.as_str(), said(index % PLACES, 404, &quoted(*kind, index)), 1);
        answers.push(client.send("POST", &format!("{path}/test"), &[], None).await.is(200).body);
        answers.push(client.get(&path).await.is(200).body);
        answers.push(client.get(&format!("{path}/deliveries")).await.is(200).body);
    }
    // The last, because some ask for minutes.
    for (kind, id) in &made {
        client.send("POST", &format!("{list}/{id}/resume"), &[], None).await.is(200);
        sandbox.behave(kind.as_str(), Behaviour::RateLimited, 1);
    }
    send_event(&producer, &topics, rounds).await;
    answers.push(client.get(&list).await.is(200).body);
    tokio::time::sleep(Duration::from_secs(4)).await;

    let figures = instance.service.metrics().render();
    let folder = instance.folder().to_owned();
    for outcome in ["delivered", "retry", "dead"] {
        let counted = format!("outcome=\"{outcome}\"");
        assert!(
            figures.lines().any(|line| line.contains(&counted) && !line.ends_with(" 0")),
            "no {outcome}"
        );
    }
    let needles = needles();
    assert!(needles.len() > 40);
    // The search itself works: the requests have the secrets.
    let mut sent = Vec::new();
    for request in sandbox.requests("slack") {
        search("sent", request.path.as_bytes(), &needles, &mut sent);
    }
    assert!(!sent.is_empty());

    let mut found = Vec::new();
    for answer in &answers {
        search("an answer of the API", answer.to_string().as_bytes(), &needles, &mut found);
    }
    search("the metrics", figures.as_bytes(), &needles, &mut found);
    for kind in topics.all() {
        let name = topics.name(kind);
        let bytes = read_all(&connection, &name);
        let must_have = [
            TopicKind::Commands,
            TopicKind::State,
            TopicKind::Results,
            TopicKind::Attempts,
            TopicKind::Dead,
        ];
        assert!(!bytes.is_empty() || !must_have.contains(&kind), "{name} is empty");
        if kind == TopicKind::Attempts {
            let left_out = String::from_utf8_lossy(&bytes).matches(LEFT_OUT).count();
            assert!(left_out >= 4 * ConnectorType::ALL.len(), "{left_out} answers left out");
        }
        search(&name, &bytes, &needles, &mut found);
    }
    let folder = (folder, instance.stop().await);
    let mut files = Vec::new();
    read_folder(&folder.0, &mut files);
    assert!(!files.is_empty());
    for (name, bytes) in &files {
        search(name, bytes, &needles, &mut found);
    }
    let lines = log.0.lock().unwrap().clone();
    assert!(lines.len() > 100_000, "the log has {} bytes", lines.len());
    let places = String::from_utf8_lossy(&lines).matches("place=\"tests/canary/panics.rs:").count();
    assert_eq!(places, panics::PANICS, "each panic tells its place");
    search("the log", &lines, &needles, &mut found);
    assert!(found.is_empty(), "{} places:\n{}", found.len(), found.join("\n"));
}
