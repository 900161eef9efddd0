//! How long the REST API takes, on a real Kafka broker: creates at a fixed rate, then lists at a
//! fixed rate with many connectors in the view.
//!
//! `cargo bench --bench api -- [--connectors N] [--creates-per-second N] [--lists-per-second N]
//! [--seconds N]`; the last line is JSON.
//!
//! The load is open-loop: each request has a moment at which it is due, whatever became of those
//! before it, and its latency counts from that moment. So a stall shows in all requests that fell
//! due during it. The broker is `KAFKA_BOOTSTRAP_SERVERS`, or one that `scripts/kafka` starts.

#![expect(clippy::expect_used, reason = "a bench stops at what it does not expect")]
#![expect(clippy::unnecessary_debug_formatting, reason = "TOML strings are quoted so")]

mod support;

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use dunmore_connectors::{
    config::Config,
    kafka::{Connection, Outgoing, Producer, TopicKind, Topics},
    metrics::{KafkaClient, Metrics},
    tokens,
};
use futures_util::{StreamExt, stream::FuturesUnordered};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use support::{
    number,
    process::{Kill, free_port},
    stage::Broker,
};
use tokio::task::JoinSet;

/// Connectors of each project.
const OF_EACH: u64 = 10;
/// Commands that wait for their acknowledgement while the view is filled.
const AHEAD: usize = 5000;
const KEY: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
const HOOK: &str = "https://hooks.zapier.com/hooks/catch/1234567/";

fn main() {
    let args: Vec<String> = std::env::args().collect();
    // `cargo test --benches` runs this too: then there is nothing to measure.
    if args.iter().all(|arg| arg != "--test") {
        tokio::runtime::Runtime::new().expect("a runtime").block_on(measure(&args));
    }
}

async fn measure(args: &[String]) {
    let connectors = number(args, "--connectors", 100_000).max(OF_EACH);
    let projects = connectors / OF_EACH;
    let creates = number(args, "--creates-per-second", 50).max(1);
    let lists = number(args, "--lists-per-second", 1000).max(1);
    let seconds = number(args, "--seconds", 20).max(1);
    let broker = Broker::start();
    let folder = tempfile::tempdir().expect("a folder");
    let prefix = format!("bench-api{}.", std::process::id());
    let (api, admin) = (free_port(), free_port());
    let (token, entry) = tokens::generate(Some("bench"), vec!["*".to_owned()]).expect("a token");
    let settings = format!(
        "data_dir = {data:?}\n[kafka]\nbootstrap_servers = {broker:?}\n[topics]\nprefix = {prefix:?}\n\
         [secrets]\nkeys = [\"k1:{KEY}\"]\n[admin]\nlisten = \"127.0.0.1:{admin}\"\n\
         [group]\nid = {prefix:?}\n[api]\nlisten = \"127.0.0.1:{api}\"\nrequests_per_second = 0\n\
         [[api.tokens]]\nname = \"bench\"\nsha256 = {sha256:?}\nprojects = [\"*\"]\n",
        data = folder.path().join("data"),
        broker = broker.address,
        sha256 = entry.sha256,
    );
    let file = folder.path().join("dunmore.toml");
    std::fs::write(&file, settings).expect("settings");
    let config = Config::load(Some(&file)).expect("settings");
    let topics = config.topics();
    let connection = config.connection().expect("a connection");
    let program = PathBuf::from(env!("CARGO_BIN_EXE_dunmore"));
    let dunmore = |args: &[&str]| {
        let mut command = Command::new(&program);
        command.args(args).arg("--config").arg(&file).env("DUNMORE_LOG__FILTER", "warn");
        command.stdout(Stdio::null());
        command
    };
    assert!(dunmore(&["topics", "ensure"]).status().expect("dunmore").success());
    let _serve = Kill(dunmore(&["serve"]).spawn().expect("serve"));
    // The client asks for TLS's provider even where it speaks plain HTTP.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().build().expect("a client");
    let client = Client {
        http: client,
        base: format!("http://127.0.0.1:{api}/api/projects"),
        admin: format!("http://127.0.0.1:{admin}"),
        token: token.expose_secret().to_owned(),
    };
    client.wait_ready().await;

    eprintln!("loading {connectors} connectors of {projects} projects");
    fill(&connection, &topics, projects).await;
    client.wait_for_connectors(projects * OF_EACH).await;
    // One of each first: connections are made, code is loaded.
    open_loop(10, Duration::from_secs(1), |number| client.creating(number % projects)).await;
    let create = open_loop(creates, Duration::from_secs(seconds), |number| {
        client.creating(number % projects)
    })
    .await;
    open_loop(100, Duration::from_secs(1), |number| client.listing(number % projects)).await;
    let list = open_loop(lists, Duration::from_secs(seconds), |number| {
        // A stride that meets every project: what is read is seldom what was read just before.
        client.listing(number.wrapping_mul(7919) % projects)
    })
    .await;

    println!("| request | per second | requests | median ms | p99 ms | max ms |");
    println!("| --- | --- | --- | --- | --- | --- |");
    create.show("create", creates);
    list.show("list", lists);
    let figures = json!({ "connectors": projects * OF_EACH, "seconds": seconds,
        "create": create.json(creates), "list": list.json(lists) });
    println!("{figures}");
}

#[derive(Clone)]
struct Client {
    http: reqwest::Client,
    base: String,
    admin: String,
    token: String,
}

impl Client {
    fn creating(&self, project: u64) -> impl Future<Output = ()> + Send + use<> {
        let client = self.clone();
        async move { client.create(project).await }
    }

    fn listing(&self, project: u64) -> impl Future<Output = ()> + Send + use<> {
        let client = self.clone();
        async move { client.list(project).await }
    }

    async fn create(&self, project: u64) {
        let body = json!({ "type": "zapier", "eventTypes": ["payment.settled"],
            "config": { "webhookUrl": format!("{HOOK}created{project}/") } });
        let request = self.http.post(format!("{}/proj_{project}/connectors", self.base));
        let request = request.header("content-type", "application/json").body(body.to_string());
        let answer = request.bearer_auth(&self.token).send().await.expect("an answer");
        let (status, text) = (answer.status(), answer.text().await.expect("a body"));
        assert_eq!(status.as_u16(), 201, "{text}");
    }

    async fn list(&self, project: u64) {
        let request = self.http.get(format!("{}/proj_{project}/connectors", self.base));
        let answer = request.bearer_auth(&self.token).send().await.expect("an answer");
        let (status, body) = (answer.status(), answer.bytes().await.expect("a body"));
        assert!(status.as_u16() == 200 && body.len() > 1000, "{status}, {} bytes", body.len());
    }

    async fn wait_ready(&self) {
        let until = Instant::now() + Duration::from_secs(60);
        while !self
            .http
            .get(format!("{}/readyz", self.admin))
            .send()
            .await
            .is_ok_and(|answer| answer.status().is_success())
        {
            assert!(Instant::now() < until, "serve does not get ready");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn wait_for_connectors(&self, count: u64) {
        let wanted = format!("\ndunmore_view_connectors {count}\n");
        let until = Instant::now() + Duration::from_secs(300);
        loop {
            let metrics = self.http.get(format!("{}/metrics", self.admin)).send().await;
            let metrics = metrics.expect("metrics").text().await.expect("metrics");
            if metrics.contains(&wanted) {
                return;
            }
            assert!(Instant::now() < until, "the connectors do not get into the view");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

/// Writes the commands that make the projects and their connectors.
async fn fill(connection: &Connection, topics: &Topics, projects: u64) {
    let metrics = Metrics::new().expect("metrics");
    let producer =
        Producer::new(connection, metrics.kafka_client(KafkaClient::Tool)).expect("a producer");
    let topic = topics.name(TopicKind::Commands);
    let mut waiting = FuturesUnordered::new();
    for project in 0..projects {
        let name = format!("proj_{project}");
        let tier = json!({ "id": format!("tier_{project}"), "type": "project.set_tier",
            "projectId": name, "tier": "enterprise" });
        let create = |number: u64| {
            json!({ "id": format!("create_{project}_{number}"), "type": "connector.create",
                "projectId": name, "connectorId": format!("conn_{number}"), "connector": {
                "type": "zapier", "eventTypes": ["payment.settled"],
                "config": { "webhookUrl": format!("{HOOK}loaded{number}/") } } })
        };
        for command in std::iter::once(tier).chain((0..OF_EACH).map(create)) {
            let (producer, topic, key) = (producer.clone(), topic.clone(), name.clone());
            waiting.push(async move {
                let value = command.to_string();
                let record = Outgoing {
                    topic: &topic,
                    partition: None,
                    key: key.as_bytes(),
                    value: Some(value.as_bytes()),
                    headers: Vec::new(),
                };
                producer.send(&record).await.expect("a command is written");
            });
            if waiting.len() >= AHEAD {
                waiting.next().await;
            }
        }
    }
    while waiting.next().await.is_some() {}
}

/// Latencies, ascending.
struct Latencies(Vec<Duration>);

impl Latencies {
    fn at(&self, share: f64) -> f64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a share of a few thousand"
        )]
        let rank = (self.0.len() as f64 * share).ceil() as usize;
        self.0[rank.clamp(1, self.0.len()) - 1].as_secs_f64() * 1000.0
    }

    fn show(&self, what: &str, rate: u64) {
        println!(
            "| {what} | {rate} | {} | {:.2} | {:.2} | {:.2} |",
            self.0.len(),
            self.at(0.5),
            self.at(0.99),
            self.at(1.0)
        );
    }

    fn json(&self, rate: u64) -> Value {
        json!({ "perSecond": rate, "requests": self.0.len(), "medianMs": self.at(0.5),
            "p99Ms": self.at(0.99), "maxMs": self.at(1.0) })
    }
}

/// Starts requests at their moments, whether those before have ended or not.
async fn open_loop<F: Future<Output = ()> + Send + 'static>(
    per_second: u64,
    length: Duration,
    request: impl Fn(u64) -> F,
) -> Latencies {
    let began = Instant::now();
    let mut running = JoinSet::new();
    let interval = Duration::from_secs(1)
        .div_f64(f64::from(u32::try_from(per_second).expect("a rate that fits")));
    for number in 0..per_second * length.as_secs() {
        let due = began + interval.mul_f64(f64::from(u32::try_from(number).expect("a count")));
        tokio::time::sleep_until(due.into()).await;
        let request = request(number);
        running.spawn(async move {
            request.await;
            due.elapsed()
        });
    }
    let mut latencies = Vec::new();
    while let Some(ended) = running.join_next().await {
        latencies.push(ended.expect("a request that ends well"));
    }
    latencies.sort_unstable();
    Latencies(latencies)
}
