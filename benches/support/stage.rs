//! What `dunmore serve` needs to deliver: a broker, topics, settings, connectors and events.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
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
use serde_json::json;

use super::{
    event,
    process::{Kill, free_port},
    sink::{now_micros, sent_micros},
};

/// What an instance delivers, and to how many.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The connectors' type: `zapier` or `bigquery`.
    pub kind: &'static str,
    /// Projects.
    pub projects: u64,
    /// Connectors per project, each of which wants every event.
    pub fan_out: u64,
    /// Bytes of an event, at least.
    pub bytes: u64,
}

/// The broker of a run: the one that the environment names, or one of its own.
pub struct Broker {
    /// Where it listens.
    pub address: String,
    own: Option<String>,
}

impl Broker {
    /// Finds or starts it.
    pub fn start() -> Self {
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

/// Topics of one run, and settings of the instances that serve them.
pub struct Stage {
    /// The topics.
    pub topics: Topics,
    /// The brokers.
    pub connection: Connection,
    /// The runtime of the bench itself.
    pub runtime: tokio::runtime::Runtime,
    folder: tempfile::TempDir,
    broker: String,
    prefix: String,
    sink: String,
}

/// A running instance.
pub struct Instance {
    /// The process.
    pub process: Kill,
    /// Where its metrics are.
    pub admin: String,
}

impl Instance {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// Whether its view has caught up.
    pub fn has_view(&self) -> bool {
        get(&self.admin, "/readyz").is_some_and(|text| !text.contains("the view to catch up"))
    }

    /// A metric's value, all labels together.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let text = get(&self.admin, "/metrics")?;
        let values = text.lines().filter(|line| {
            let rest = line.strip_prefix(name).unwrap_or_default();
            rest.starts_with(['{', ' '])
        });
        let numbers: Vec<f64> =
            values.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
        (!numbers.is_empty()).then(|| numbers.iter().sum())
    }
}

/// A plain GET; nothing while nobody answers.
fn get(address: &str, path: &str) -> Option<String> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

impl Stage {
    /// Creates the topics under a name of their own.
    pub fn new(broker: &Broker, sink: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let prefix = format!("bench{}-{}.", std::process::id(), now_micros() % 1_000_000);
        let mut stage = Self {
            topics: Topics::new(&prefix, &Config::default().delivery.retry_tiers),
            connection: Connection::new(broker.address.clone(), BTreeMap::default()),
            runtime: tokio::runtime::Runtime::new().expect("a runtime"),
            folder,
            broker: broker.address.clone(),
            prefix,
            sink: sink.to_owned(),
        };
        let (file, _) = stage.settings(0);
        let config = Config::load(Some(&file)).expect("settings");
        stage.connection = config.connection().expect("a connection");
        stage.create_events_topic(config.topics.partitions);
        let status = Command::new(program())
            .args(["topics", "ensure", "--config", &file.display().to_string()])
            .stdout(Stdio::null())
            .status()
            .expect("dunmore");
        assert!(status.success(), "topics ensure");
        stage
    }

    /// Creates the events topic so that the broker stamps events when it appends them.
    fn create_events_topic(&self, partitions: i32) {
        use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
        let admin: AdminClient<rdkafka::client::DefaultClientContext> =
            rdkafka::ClientConfig::new()
                .set("bootstrap.servers", &self.broker)
                .create()
                .expect("an admin client");
        let name = self.topics.name(TopicKind::Events);
        let topic = NewTopic::new(&name, partitions, TopicReplication::Fixed(1))
            .set("message.timestamp.type", "LogAppendTime");
        let created = self.runtime.block_on(admin.create_topics(&[topic], &AdminOptions::new()));
        for result in created.expect("an answer") {
            result.expect("the events topic");
        }
    }

    /// The settings file of an instance, and where its metrics will be.
    pub fn settings(&self, instance: u64) -> (PathBuf, String) {
        let admin = format!("127.0.0.1:{}", free_port());
        let data = self.folder.path().join(format!("data{instance}"));
        let text = format!(
            "data_dir = \"{data}\"\n[kafka]\nbootstrap_servers = \"{broker}\"\n\
             [topics]\nprefix = \"{prefix}\"\n[group]\nid = \"{prefix}group\"\n\
             [secrets]\nkeys = [\"k1:MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\"]\n\
             [admin]\nlisten = \"{admin}\"\n\
             [destinations.zapier]\nbase_url = \"http://{sink}\"\n\
             [destinations.bigquery]\nbase_url = \"http://{sink}\"\n",
            data = data.display(),
            broker = self.broker,
            prefix = self.prefix,
            sink = self.sink,
        );
        let file = self.folder.path().join(format!("dunmore{instance}.toml"));
        std::fs::write(&file, text).expect("settings");
        (file, admin)
    }

    /// The folder of an instance's view.
    pub fn data_dir(&self, instance: u64) -> PathBuf {
        self.folder.path().join(format!("data{instance}"))
    }

    /// Starts `dunmore serve`.
    pub fn serve(&self, instance: u64, roles: &str) -> Instance {
        let (file, admin) = self.settings(instance);
        let process = Command::new(program())
            .args(["serve", "--roles", roles, "--config", &file.display().to_string()])
            .env("DUNMORE_LOG__FILTER", "warn")
            .spawn()
            .expect("serve");
        Instance { process: Kill(process), admin }
    }

    /// Lets a registrar make the connectors; it is stopped before anything is measured.
    pub fn create_connectors(&self, plan: Plan) {
        let registrar = self.serve(0, "registrar");
        self.runtime.block_on(self.send_commands(plan));
        registrar.process.terminate();
    }

    async fn send_commands(&self, plan: Plan) {
        let mut values = Vec::new();
        for project in 0..plan.projects {
            let project_id = ProjectId::parse(&format!("proj_{project}")).expect("an id");
            let id = || CommandId::from_uuid(uuid::Uuid::now_v7());
            let tier = json!({"id": id(), "type": "project.set_tier", "projectId": project_id, "tier": "enterprise"});
            values.push((project_id.clone(), tier.to_string()));
            for connector in 0..plan.fan_out {
                let connector_id = ConnectorId::parse(&format!("conn_{connector}")).expect("an id");
                let config = match plan.kind {
                    "bigquery" => json!({"projectId": "my-project-123456", "datasetId": "payments",
                        "tableId": format!("events_{project}_{connector}"), "accessToken": "ya29.token"}),
                    _ => json!({"webhookUrl":
                        format!("https://hooks.zapier.com/hooks/catch/{project}/{connector}/")}),
                };
                let command = json!({
                    "id": id(), "type": "connector.create", "projectId": project_id, "connectorId": connector_id,
                    "connector": {"type": plan.kind, "eventTypes": ["payment.settled"], "config": config},
                });
                values.push((project_id.clone(), command.to_string()));
            }
        }
        let results = self.topics.name(TopicKind::Results);
        let reader =
            Reader::all(&self.connection, &results, rdkafka::Offset::Beginning).expect("a reader");
        let records = values.iter().map(|(project, value)| (project.as_str(), value.as_str()));
        self.produce(TopicKind::Commands, records).await;
        let wanted = values.len();
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

    /// Writes so many events, in turn for each project.
    pub fn produce_events(&self, plan: Plan, count: u64) {
        let keys: Vec<String> = (0..plan.projects).map(|n| format!("proj_{n}")).collect();
        let events = (0..count).map(|number| {
            let project = number % plan.projects;
            let key = keys[usize::try_from(project).expect("64 bits")].as_str();
            (key, event(number, project, plan.bytes, None))
        });
        self.runtime.block_on(self.produce(TopicKind::Events, events));
    }

    /// Writes records and waits until they are durable.
    pub async fn produce<V: AsRef<str>>(
        &self,
        topic: TopicKind,
        records: impl Iterator<Item = (&str, V)>,
    ) {
        let metrics = Metrics::new().expect("metrics");
        let producer = Producer::new(&self.connection, metrics.kafka_client(KafkaClient::Tool))
            .expect("a producer");
        let topic = self.topics.name(topic);
        let mut waiting = FuturesUnordered::new();
        for (key, value) in records {
            let (producer, topic) = (&producer, &topic);
            waiting.push(async move {
                let record = Outgoing {
                    topic,
                    partition: None,
                    key: key.as_bytes(),
                    value: Some(value.as_ref().as_bytes()),
                    headers: Vec::new(),
                };
                producer.send(&record).await.expect("a record");
            });
            if waiting.len() >= 5000 {
                waiting.next().await;
            }
        }
        while waiting.next().await.is_some() {}
    }

    /// Writes events at a steady rate whatever becomes of them, each with the time of its sending;
    /// tells how many.
    pub fn produce_steadily(&self, plan: Plan, per_second: f64, duration: Duration) -> u64 {
        use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
        let producer: BaseProducer = rdkafka::ClientConfig::new()
            .set("bootstrap.servers", &self.broker)
            .set("acks", "1")
            // As clients wait by default: librdkafka, and Kafka's own since 4.0 (KIP-1030).
            .set("linger.ms", "5")
            .set("partitioner", "murmur2_random")
            .create()
            .expect("a producer");
        let topic = self.topics.name(TopicKind::Events);
        let (began, mut sent) = (Instant::now(), 0_u64);
        while began.elapsed() < duration {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small")]
            let due = (began.elapsed().as_secs_f64() * per_second) as u64;
            while sent < due {
                let project = sent % plan.projects;
                let key = format!("proj_{project}");
                let value = event(1 << 32 | sent, project, plan.bytes, Some(now_micros()));
                producer.send(BaseRecord::to(&topic).key(&key).payload(&value)).expect("room");
                sent += 1;
            }
            producer.poll(Duration::ZERO);
            std::thread::sleep(Duration::from_millis(1));
        }
        producer.flush(Duration::from_secs(10)).expect("acknowledgements");
        sent
    }
}

/// An event as a bare reader saw it, in microseconds since the Unix epoch.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// When its producer sent it.
    pub sent: u64,
    /// When the broker appended it, by its own clock, which counts in milliseconds.
    pub appended: u64,
    /// When it was read.
    pub read: u64,
}

/// Reads events and does nothing with them but to see when they were appended. If it reads them as
/// they come, how old they are then is Kafka's and this machine's part of a delivery's latency, whoever
/// reads; but it takes CPU from the program beside it.
pub struct BareReader {
    reads: Arc<AtomicBool>,
    wanted: Arc<AtomicUsize>,
    thread: thread::JoinHandle<Vec<Seen>>,
}

impl BareReader {
    /// From the end of the events topic on; it reads at once if it is `live`, else when all is over.
    pub fn start(stage: &Stage, live: bool) -> Self {
        use rdkafka::{
            Message as _, Offset, TopicPartitionList,
            consumer::{BaseConsumer, Consumer as _},
        };
        let consumer: BaseConsumer = rdkafka::ClientConfig::new()
            .set("bootstrap.servers", &stage.broker)
            .set("group.id", format!("{}bare", stage.prefix))
            .set("enable.auto.commit", "false")
            .set("fetch.wait.max.ms", "100")
            .create()
            .expect("a consumer");
        let topic = stage.topics.name(TopicKind::Events);
        let metadata = consumer.fetch_metadata(Some(&topic), Duration::from_secs(10));
        let metadata = metadata.expect("the topic's partitions");
        let mut list = TopicPartitionList::new();
        for partition in metadata.topics()[0].partitions() {
            // Where it ends now: this reader sees all that is produced from here on.
            let (_, end) = consumer
                .fetch_watermarks(&topic, partition.id(), Duration::from_secs(10))
                .expect("the partition's end");
            list.add_partition_offset(&topic, partition.id(), Offset::Offset(end))
                .expect("an offset");
        }
        consumer.assign(&list).expect("an assignment");
        let reads = Arc::new(AtomicBool::new(live));
        let wanted = Arc::new(AtomicUsize::new(usize::MAX));
        let (may_read, enough) = (Arc::clone(&reads), Arc::clone(&wanted));
        let thread = thread::spawn(move || {
            while !may_read.load(Ordering::Acquire) {
                thread::sleep(Duration::from_millis(20));
            }
            let mut all = Vec::new();
            while all.len() < enough.load(Ordering::Acquire) {
                let message = consumer.poll(Duration::from_millis(100)).transpose();
                let Some(message) = message.expect("a message") else { continue };
                let appended =
                    message.timestamp().to_millis().and_then(|at| u64::try_from(at).ok());
                let appended = appended.expect("the broker's stamp") * 1000;
                let sent = message.payload().and_then(sent_micros).expect("the producer's stamp");
                all.push(Seen { sent, appended, read: now_micros() });
            }
            all
        });
        Self { reads, wanted, thread }
    }

    /// Waits until it has so many events; what it saw of them.
    pub fn finish(self, events: u64) -> Vec<Seen> {
        let events = usize::try_from(events).expect("64 bits");
        self.wanted.store(events, Ordering::Release);
        self.reads.store(true, Ordering::Release);
        self.thread.join().expect("no panic")
    }
}

fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_dunmore"))
}
