//! What a delivery costs: the same bodies to the same sink, first posted plainly by reqwest (the
//! floor), then delivered by `dunmore serve` from a real Kafka broker, in one run.
//!
//! `cargo bench --bench end_to_end -- [--deliveries N] [--fan-out N] [--connectors N] [--json]`
//!
//! The broker is `KAFKA_BOOTSTRAP_SERVERS`, or one that `scripts/kafka` starts. CPU is user +
//! system of the delivering process alone; the sink runs in a process of its own.

#![expect(clippy::expect_used, reason = "a bench stops at what it does not expect")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]
#![expect(clippy::too_many_lines, reason = "a run is read from top to bottom")]
#![expect(clippy::unnecessary_debug_formatting, reason = "TOML strings are quoted so")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use dunmore_connectors::{
    config::Config,
    id::{CommandId, ConnectorId, ProjectId},
    kafka::{Connection, Outgoing, Producer, Reader, ReaderEvent, TopicKind, Topics},
    metrics::{KafkaClient, Metrics},
};
use futures_util::{StreamExt, stream::FuturesUnordered};

const CONCURRENCY: usize = 64;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("sink") => sink(),
        Some("floor") => floor(&args[2], number(&args, "--deliveries", 50_000)),
        // `cargo test --benches` runs this too: then there is nothing to measure.
        Some("--test") => {}
        _ if args.iter().any(|arg| arg == "--test") => {}
        _ => measure(&args),
    }
}

fn number(args: &[String], flag: &str, default: u64) -> u64 {
    let at = args.iter().position(|arg| arg == flag);
    at.and_then(|at| args.get(at + 1)).and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A sink that answers 200 to everything as cheaply as it can, one thread per connection.
fn sink() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    println!("{}", listener.local_addr().expect("an address"));
    let count = Arc::new(AtomicU64::new(0));
    for stream in listener.incoming() {
        let count = Arc::clone(&count);
        thread::spawn(move || {
            let _ = answer(stream.expect("a connection"), &count);
        });
    }
}

fn answer(stream: TcpStream, count: &AtomicU64) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::with_capacity(64 * 1024, stream.try_clone()?);
    let mut writer = stream;
    loop {
        let mut length = 0;
        let mut line = String::new();
        let mut first = true;
        let mut asks_count = false;
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if first {
                asks_count = line.starts_with("GET /count");
                first = false;
            }
            if line == "\r\n" {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let text = if asks_count {
            count.load(Ordering::Relaxed).to_string()
        } else {
            count.fetch_add(1, Ordering::Relaxed);
            "ok".to_owned()
        };
        let response = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len());
        writer.write_all(response.as_bytes())?;
    }
}

fn event(number: u64, project: u64) -> String {
    format!(
        "{{\"id\":\"evt_{number:012}\",\"type\":\"payment.settled\",\"projectId\":\"proj_{project}\",\"occurredAt\":\"2026-11-23T08:00:00.000Z\",\"data\":{{\"paymentId\":\"pay_{number:012}\",\"endpointId\":\"ep_0123456789\",\"customerId\":\"0x52908400098527886E0F7030069857D2E4169EE7\",\"amount\":\"1.250000\",\"currency\":\"USDC\",\"network\":\"base\",\"txHash\":\"0x88df016429689c079f3b2f6ad39fa052532c56795b733da78a91ebe6a713944b\"}}}}"
    )
}

/// The floor: the same bodies, posted plainly, so many at a time.
fn floor(address: &str, deliveries: u64) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let url: url::Url =
            format!("http://{address}/hooks/catch/1/floor/").parse().expect("a URL");
        let bodies: Vec<bytes::Bytes> =
            (0..deliveries).map(|n| bytes::Bytes::from(event(n, n % 200))).collect();
        let (cpu, began) = (cpu_of_self(), Instant::now());
        let next = Arc::new(AtomicU64::new(0));
        let bodies = Arc::new(bodies);
        let tasks: Vec<_> = (0..CONCURRENCY)
            .map(|_| {
                let (client, url) = (client.clone(), url.clone());
                let (next, bodies) = (Arc::clone(&next), Arc::clone(&bodies));
                tokio::spawn(async move {
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some(body) = bodies.get(usize::try_from(at).expect("64 bits")) else {
                            return;
                        };
                        let response = client
                            .post(url.clone())
                            .header("content-type", "application/json")
                            .body(body.clone())
                            .send()
                            .await
                            .expect("an answer");
                        response.bytes().await.expect("a body");
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("no panic");
        }
        let seconds = began.elapsed().as_secs_f64();
        println!(
            "{} {}",
            (cpu_of_self() - cpu) / deliveries as f64 * 1e6,
            deliveries as f64 / seconds
        );
    });
}

fn cpu_of_self() -> f64 {
    cpu_of(std::process::id())
}

/// User + system seconds of a process.
fn cpu_of(pid: u32) -> f64 {
    // schedstat counts nanoseconds; stat's ticks of 10 ms are too coarse for short runs. It is per
    // task, so the process's threads are summed up; threads that ended are in stat only.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> =
        stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: f64 =
        [11, 12].iter().filter_map(|index| fields.get(*index)?.parse::<f64>().ok()).sum();
    ticks / 100.0
}

fn resident_mb(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    let kb: f64 = line.split_whitespace().nth(1).and_then(|kb| kb.parse().ok()).unwrap_or(0.0);
    kb / 1024.0
}

struct Kill(Child);

impl Drop for Kill {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn measure(args: &[String]) {
    let deliveries = number(args, "--deliveries", 50_000);
    let fan_out = number(args, "--fan-out", 1).max(1);
    let projects = number(args, "--connectors", 200).div_ceil(fan_out).max(1);
    let events = deliveries.div_ceil(fan_out);
    let deliveries = events * fan_out;
    let own = std::env::current_exe().expect("this program");
    let mut sink =
        Kill(Command::new(&own).arg("sink").stdout(Stdio::piped()).spawn().expect("sink"));
    let mut line = String::new();
    let output = sink.0.stdout.take().expect("its output");
    BufReader::new(output).read_line(&mut line).expect("its address");
    let address = line.trim().to_owned();

    let floor = || {
        let run = Command::new(&own)
            .args(["floor", &address, "--deliveries", &deliveries.to_string()])
            .output()
            .expect("floor");
        let text = String::from_utf8_lossy(&run.stdout).into_owned();
        let mut fields = text.split_whitespace().map(|f| f.parse::<f64>().expect("a number"));
        (fields.next().expect("CPU"), fields.next().expect("rate"))
    };
    let before = floor();

    let broker = Broker::start();
    let folder = tempfile::tempdir().expect("a folder");
    let prefix = format!("bench{}.", std::process::id());
    let metrics_port = free_port();
    let settings = format!(
        "data_dir = {data:?}\n[kafka]\nbootstrap_servers = {broker:?}\n[topics]\nprefix = {prefix:?}\n\
         [secrets]\nkeys = [\"k1:{key}\"]\n[admin]\nlisten = \"127.0.0.1:{metrics_port}\"\n\
         [group]\nid = {prefix:?}\n[destinations.zapier]\nbase_url = \"http://{address}\"\n",
        data = folder.path().join("data"),
        broker = broker.address,
        key = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
    );
    let file = folder.path().join("dunmore.toml");
    std::fs::write(&file, settings).expect("settings");
    let config = Config::load(Some(&file)).expect("settings");
    let topics = Topics::new(&config.topics.prefix, &config.delivery.retry_tiers);
    let connection = config.connection().expect("a connection");
    let program = PathBuf::from(env!("CARGO_BIN_EXE_dunmore"));
    let run = |args: &[&str]| {
        let status = Command::new(&program)
            .args(args)
            .args(["--config", &file.display().to_string()])
            .stdout(Stdio::null())
            .status()
            .expect("dunmore");
        assert!(status.success(), "{args:?}");
    };
    run(&["topics", "ensure"]);

    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    // The connectors first, by a registrar that is stopped before anything is measured.
    let serve = |roles: &str| {
        Kill(
            Command::new(&program)
                .args(["serve", "--roles", roles, "--config", &file.display().to_string()])
                .env("DUNMORE_LOG__FILTER", "warn")
                .spawn()
                .expect("serve"),
        )
    };
    let registrar = serve("registrar");
    runtime.block_on(create_connectors(&connection, &topics, projects, fan_out));
    drop(registrar);
    runtime.block_on(produce_events(&connection, &topics, events, projects));

    // The sink's count of the floor's requests is taken off.
    let already = sink_count(&address);
    let mut child = serve("delivery");
    let pid = child.0.id();
    let mut first: Option<(Instant, f64, u64)> = None;
    let done = loop {
        thread::sleep(Duration::from_millis(10));
        let count = sink_count(&address) - already;
        if count > 0 && first.is_none() {
            first = Some((Instant::now(), cpu_of(pid), count));
        }
        if count >= deliveries {
            break (Instant::now(), cpu_of(pid));
        }
        assert!(child.0.try_wait().expect("serve").is_none(), "serve stopped");
    };
    // The last commit and attempt records belong to the work.
    thread::sleep(Duration::from_millis(1500));
    let settled = cpu_of(pid);
    let resident = resident_mb(pid);
    let (began, cpu_before, early) = first.expect("deliveries");
    let seconds = done.0.duration_since(began).as_secs_f64();
    let whole = settled * 1e6 / deliveries as f64;
    let cpu = (settled - cpu_before) * 1e6 / (deliveries - early) as f64;
    let rate = (deliveries - early) as f64 / seconds;
    let after = floor();
    drop(child);
    let floor_cpu = f64::midpoint(before.0, after.0);
    println!("| what | µs CPU per delivery | × floor | deliveries/s |");
    println!("| --- | --- | --- | --- |");
    println!("| plain reqwest posts, before | {:.1} | | {:.0} |", before.0, before.1);
    println!("| plain reqwest posts, after | {:.1} | | {:.0} |", after.0, after.1);
    println!(
        "| dunmore serve, fan-out {fan_out} | {cpu:.1} | {:.2} | {rate:.0} |",
        cpu / floor_cpu
    );
    println!(
        "\n{deliveries} deliveries of {events} events, {} connectors; with start-up {whole:.1} µs; {resident:.0} MB resident",
        projects * fan_out
    );
}

fn sink_count(address: &str) -> u64 {
    let mut stream = TcpStream::connect(address).expect("the sink");
    stream
        .write_all(b"GET /count HTTP/1.1\r\nhost: sink\r\nconnection: close\r\n\r\n")
        .expect("a request");
    let mut reader = BufReader::new(stream);
    let mut last = String::new();
    let mut line = String::new();
    while reader.read_line(&mut line).expect("a line") > 2 {
        last.clone_from(&line);
        line.clear();
    }
    let length: usize =
        last.rsplit(' ').next().and_then(|n| n.trim().parse().ok()).expect("a length");
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a body");
    String::from_utf8_lossy(&body).parse().expect("a count")
}

async fn create_connectors(connection: &Connection, topics: &Topics, projects: u64, fan_out: u64) {
    let metrics = Metrics::new().expect("metrics");
    let producer =
        Producer::new(connection, metrics.kafka_client(KafkaClient::Tool)).expect("a producer");
    let topic = topics.name(TopicKind::Commands);
    let mut wanted = 0_u64;
    let mut values = Vec::new();
    for project in 0..projects {
        let project_id = ProjectId::parse(&format!("proj_{project}")).expect("an id");
        let mut push = |body: serde_json::Value| {
            values.push((project_id.clone(), body.to_string()));
            wanted += 1;
        };
        let id = CommandId::from_uuid(uuid::Uuid::now_v7());
        push(
            serde_json::json!({"id": id, "type": "project.set_tier", "projectId": project_id, "tier": "enterprise"}),
        );
        for connector in 0..fan_out {
            let id = CommandId::from_uuid(uuid::Uuid::now_v7());
            let connector_id = ConnectorId::parse(&format!("conn_{connector}")).expect("an id");
            push(serde_json::json!({
                "id": id, "type": "connector.create", "projectId": project_id, "connectorId": connector_id,
                "connector": {"type": "zapier", "eventTypes": ["payment.settled"],
                    "config": {"webhookUrl": format!("https://hooks.zapier.com/hooks/catch/{project}/{connector}/")}},
            }));
        }
    }
    let results = topics.name(TopicKind::Results);
    let reader = Reader::all(connection, &results, rdkafka::Offset::Beginning).expect("a reader");
    let mut waiting = FuturesUnordered::new();
    for (project, value) in &values {
        let record = Outgoing {
            topic: &topic,
            partition: None,
            key: project.as_str().as_bytes(),
            value: Some(value.as_bytes()),
            headers: Vec::new(),
        };
        let producer = &producer;
        waiting.push(async move { producer.send(&record).await.expect("a command") });
    }
    while waiting.next().await.is_some() {}
    tokio::task::spawn_blocking(move || {
        let mut found = 0;
        while found < wanted {
            if let ReaderEvent::Record(record) = reader.poll(Duration::from_millis(100)) {
                let value = record.value.unwrap_or_default();
                assert!(String::from_utf8_lossy(&value).contains("accepted"), "{value:?}");
                found += 1;
            }
        }
    })
    .await
    .expect("results");
}

async fn produce_events(connection: &Connection, topics: &Topics, events: u64, projects: u64) {
    let metrics = Metrics::new().expect("metrics");
    let producer =
        Producer::new(connection, metrics.kafka_client(KafkaClient::Tool)).expect("a producer");
    let topic = topics.name(TopicKind::Events);
    let mut waiting = FuturesUnordered::new();
    for number in 0..events {
        let project = number % projects;
        let (producer, topic) = (&producer, &topic);
        waiting.push(async move {
            let value = event(number, project);
            let key = format!("proj_{project}");
            let record = Outgoing {
                topic,
                partition: None,
                key: key.as_bytes(),
                value: Some(value.as_bytes()),
                headers: Vec::new(),
            };
            producer.send(&record).await.expect("an event");
        });
        if waiting.len() >= 5000 {
            waiting.next().await;
        }
    }
    while waiting.next().await.is_some() {}
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port()
}

struct Broker {
    address: String,
    own: Option<String>,
}

impl Broker {
    fn start() -> Self {
        if let Ok(address) = std::env::var("KAFKA_BOOTSTRAP_SERVERS") {
            return Self { address, own: None };
        }
        let name = format!("bench-{}", std::process::id());
        let output = Command::new("scripts/kafka")
            .arg("start")
            .env("KAFKA_NAME", &name)
            .stderr(Stdio::inherit())
            .output()
            .expect("scripts/kafka");
        assert!(output.status.success(), "scripts/kafka start failed");
        let address = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Self { address, own: Some(name) }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(name) = &self.own {
            let _ = Command::new("scripts/kafka").arg("stop").env("KAFKA_NAME", name).status();
        }
    }
}
