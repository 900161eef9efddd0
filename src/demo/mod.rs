//! `dunmore demo`: the whole service in one process, with sample projects, a stream of events and
//! a sink that plays the third parties, and with accounts that show what became of each delivery.
//!
//! Everything goes the way that it goes in production, only the broker is the embedded one:
//! commands make the connectors, events are produced, requests are made over HTTP. The accounts are
//! kept apart from the service: [`ledger`] learns what is expected from the producer, and what
//! became of it from the sink and from the topics of dead letters and attempts.

mod cast;
mod display;
mod ledger;
mod sink;
mod stream;
mod summary;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, bail};
use indicatif::HumanCount;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet},
};

use cast::{PARTS, PROJECTS};
use display::Screen;
use ledger::Ledger;
use sink::Sink;
use stream::Stream;
pub use summary::{Ended, Summary};
use watch::Watch;

use crate::{
    config::Config,
    connector::{Command, CommandBody, CommandOutcome, CommandResult, OWN_ACTOR},
    delivery::{AttemptRecord, DeliveryRecord, Outcome},
    id::{CommandId, ProjectId},
    kafka::{Connection, EmbeddedBroker, Outgoing, Producer, Record, TopicKind, Topics},
    metrics::KafkaClient,
    secrets::Keyring,
    service::{Role, Service},
    tokens,
};

/// The most events that a demo can have: the accounts of all of them are kept in memory.
pub const MAX_EVENTS: u64 = 1_000_000;
/// The number of events when none is named.
pub const DEFAULT_EVENTS: u64 = 2_000;

/// Short delays, so that what fails for good is a dead letter within seconds. Together they are
/// longer than the first rest of a circuit, so that what fails for a while is delivered.
const RETRY_TIERS: &str = "200ms,500ms,1s,2s,4s";
/// Shorter than anybody would set it, so that what can never be delivered ends within the demo, and
/// longer than the rest after which those are asked again that recover.
const MAX_DEFERRED_AGE: &str = "8s";
const PARTITIONS: i32 = 6;
/// The stream takes about so long …
const STREAM_SECONDS: u64 = 10;
/// … within these bounds in events per second. The embedded broker keeps only 5 MB of a partition,
/// so that readers must never be far behind.
const PACE: std::ops::RangeInclusive<u64> = 50..=2000;
/// The stream pauses while so many deliveries have not come to their end …
const MAX_OPEN: u64 = 4000;
/// … or so many of one healthy connector: on a busy machine, the stream is what waits, and not the
/// deliveries to those who have done nothing wrong.
const MAX_OPEN_HEALTHY: u64 = 250;
/// Events that are written at once.
const MAX_UNWRITTEN: usize = 256;
/// When nothing came to its end for so long, the demo ends, and what is missing is lost. It is far
/// longer than the longest way through the retry tiers.
const MAX_QUIET: Duration = Duration::from_secs(30);
/// Starting, and making the connectors, may each take so long.
const MAX_SETUP: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_millis(100);

/// What `dunmore demo` was asked for.
#[derive(Clone, Copy, Debug)]
pub struct DemoOptions {
    /// How many events are produced: 1 to [`MAX_EVENTS`].
    pub events: u64,
    /// Whether standard output gets one JSON object and nothing else.
    pub json: bool,
}

impl Default for DemoOptions {
    fn default() -> Self {
        Self { events: DEFAULT_EVENTS, json: false }
    }
}

/// Runs the demo and prints its summary. True when every event is accounted for.
pub async fn run(options: DemoOptions) -> anyhow::Result<bool> {
    let screen = Screen::new(options.json);
    let summary = perform(options, &screen).await?;
    screen.say(&summary.to_text());
    if options.json {
        let _ = writeln!(std::io::stdout(), "{}", summary.to_json());
    }
    Ok(summary.is_complete())
}

/// Runs the demo without printing its summary; progress goes to standard error.
pub async fn summary(options: DemoOptions) -> anyhow::Result<Summary> {
    perform(options, &Screen::new(true)).await
}

async fn perform(options: DemoOptions, screen: &Screen) -> anyhow::Result<Summary> {
    if !(1..=MAX_EVENTS).contains(&options.events) {
        bail!("the demo takes 1 to {} events", HumanCount(MAX_EVENTS));
    }
    let stream = Stream::new(options.events);
    introduce(screen, options.events);
    let ledger = Arc::new(Ledger::new());
    let stage = tokio::time::timeout(MAX_SETUP, Stage::set(&ledger, stream)).await;
    let mut stage =
        stage.map_err(|_| anyhow!("the service did not start within {MAX_SETUP:?}"))??;
    let made_in = Instant::now();
    let made = tokio::time::timeout(MAX_SETUP, stage.make_connectors()).await;
    made.map_err(|_| anyhow!("the connectors were not made within {MAX_SETUP:?}"))??;
    screen.say(&format!(
        "{} projects and {} connectors, made by commands and answered by results in {:.1} s.\n\
         While it runs, its console is at http://{address}/console (token {}),\n\
         and its metrics are at http://{address}/metrics\n",
        PROJECTS.len(),
        PARTS.len(),
        made_in.elapsed().as_secs_f64(),
        stage.token.expose_secret(),
        address = stage.service.admin_address(),
    ));
    let began = Instant::now();
    let ended = stage.play(&ledger, stream, screen).await;
    let took = began.elapsed();
    let ended = match (stage.strike().await, ended) {
        (Err(error), Ended::Complete) => Ended::Failed(error.to_string()),
        (_, ended) => ended,
    };
    Ok(Summary::new(&ledger, ended, took))
}

fn introduce(screen: &Screen, events: u64) {
    screen.say(&format!(
        "{} payment events, with everything in this process. The broker is the\n\
         embedded one: in memory, and for trying things out only.",
        HumanCount(events)
    ));
    let bearable = PACE.end() * STREAM_SECONDS;
    if events > bearable {
        screen.say(&format!(
            "It forgets what is beyond 5 MB of a partition, so the stream is held to\n\
             {} events a second, and to less when deliveries do not keep up: this takes\n\
             {} s or more.",
            HumanCount(*PACE.end()),
            events / PACE.end() + STREAM_SECONDS,
        ));
    }
}

/// Everything that runs. What is first to be dropped is named first.
struct Stage {
    service: Service,
    /// For the console.
    token: SecretString,
    producer: Producer,
    results: mpsc::UnboundedReceiver<CommandResult>,
    watches: Vec<Watch>,
    sink: Sink,
    topics: Topics,
    _broker: EmbeddedBroker,
    _folder: tempfile::TempDir,
}

impl Stage {
    /// Starts everything.
    async fn set(ledger: &Arc<Ledger>, stream: Stream) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("dunmore-demo-").tempdir();
        let folder = folder.context("cannot make a folder for the view")?;
        let sink = Sink::start(Arc::clone(ledger), stream).await?;
        let mut config = settings(&sink.base_url())?;
        let (token, entry) = tokens::generate(Some("demo"), vec![tokens::ALL_PROJECTS.to_owned()])
            .map_err(|error| anyhow!(error))?;
        config.admin.token_sha256 = Some(entry.sha256);
        config.data_dir = folder.path().to_owned();
        config.secrets.keys = vec![Keyring::generate().into()];
        let topics = config.topics();
        let broker = EmbeddedBroker::start(&topics, PARTITIONS)?;
        config.kafka.bootstrap_servers = Some(broker.bootstrap_servers());
        let connection = config.connection()?;

        let roles = BTreeSet::from([Role::Registrar, Role::Delivery]);
        let service = Service::start(config, &roles).await?;
        service.ready().await;
        let producer =
            Producer::new(&connection, service.metrics().kafka_client(KafkaClient::Tool))?;
        let (tell, results) = mpsc::unbounded_channel();
        let watches = vec![
            watch_results(&connection, &topics, tell).await?,
            watch_dead(&connection, &topics, Arc::clone(ledger)).await?,
            watch_attempts(&connection, &topics, Arc::clone(ledger)).await?,
        ];
        Ok(Self {
            service,
            token,
            producer,
            results,
            watches,
            sink,
            topics,
            _broker: broker,
            _folder: folder,
        })
    }

    /// Sends the commands that make projects and connectors, and waits for each one's result.
    async fn make_connectors(&mut self) -> anyhow::Result<()> {
        let commands = commands(&self.sink.base_url())?;
        let topic = self.topics.name(TopicKind::Commands);
        for command in &commands {
            let record = Outgoing {
                topic: &topic,
                partition: None,
                key: command.project.as_str().as_bytes(),
                value: Some(&command.to_json()),
                headers: Vec::new(),
            };
            self.producer.send(&record).await.context("a command")?;
        }
        let mut waiting: BTreeSet<CommandId> = commands.into_iter().map(|c| c.id).collect();
        while !waiting.is_empty() {
            let result = self.results.recv().await;
            let result = result.ok_or_else(|| anyhow!("the results cannot be read any more"))?;
            if result.outcome == CommandOutcome::Rejected {
                bail!("command {} was rejected: {:?}", result.command_id, result.problem);
            }
            waiting.remove(&result.command_id);
        }
        // A result comes when the decision is durable; this instance's view may be a moment behind.
        let expected = (PARTS.len() as u64, PROJECTS.len() as u64);
        while self.service.view().counts() != expected {
            tokio::time::sleep(TICK / 10).await;
        }
        Ok(())
    }

    /// Produces the stream and waits until each delivery has come to its end.
    async fn play(&self, ledger: &Arc<Ledger>, stream: Stream, screen: &Screen) -> Ended {
        let topic = self.topics.name(TopicKind::Events);
        let mut production = Production(tokio::spawn(produce(
            self.producer.clone(),
            topic,
            Arc::clone(ledger),
            stream,
        )));
        let deliveries = stream.deliveries();
        let live = screen.live(deliveries);
        let mut tick = tokio::time::interval(TICK);
        let mut produced = false;
        let ended = loop {
            tokio::select! {
                _ = tick.tick() => {}
                done = &mut production.0, if !produced => {
                    match done {
                        Ok(Ok(())) => produced = true,
                        Ok(Err(error)) => break Ended::Failed(format!("{error:#}")),
                        Err(error) => break Ended::Failed(error.to_string()),
                    }
                }
                _ = tokio::signal::ctrl_c() => break Ended::Interrupted,
                failure = self.service.failed() => break Ended::Failed(failure),
            }
            let snapshot = ledger.snapshot();
            live.show(&snapshot, stream.len(), deliveries);
            if let Some(failure) = self.watches.iter().find_map(Watch::failure) {
                break Ended::Failed(failure);
            }
            if produced && snapshot.total(ledger::Account::open) == 0 {
                break Ended::Complete;
            }
            if snapshot.quiet > MAX_QUIET {
                break Ended::Stuck(MAX_QUIET);
            }
        };
        live.end();
        ended
    }

    /// Stops the service and reads what the topics still have to tell.
    async fn strike(self) -> anyhow::Result<()> {
        let _ = self.service.stop().await;
        for watch in self.watches {
            watch.finished().await?;
        }
        Ok(())
    }
}

/// The task that produces; it ends with the demo.
struct Production(JoinHandle<anyhow::Result<()>>);

impl Drop for Production {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The service's settings but for what is known only when broker and folder are there.
fn settings(sink: &str) -> anyhow::Result<Config> {
    let text = format!(
        r#"
        admin.listen = "127.0.0.1:0"
        egress.allow_cidrs = ["127.0.0.0/8"]
        egress.allow_http = true
        delivery.retry_tiers = "{RETRY_TIERS}"
        delivery.max_deferred_age = "{MAX_DEFERRED_AGE}"
        delivery.hold = "{MAX_DEFERRED_AGE}"
        delivery.shutdown_grace = "2s"
        destinations.slack.base_url = "{sink}"
        destinations.zapier.base_url = "{sink}"
        destinations.make.base_url = "{sink}"
        "#
    );
    Config::from_toml(&text).context("the demo's settings")
}

/// Projects first: a project that nobody pays for may have no connectors.
fn commands(sink: &str) -> anyhow::Result<Vec<Command>> {
    let tiers = PROJECTS.iter().map(|project| {
        Ok((ProjectId::parse(project.id)?, CommandBody::SetTier { tier: project.tier }))
    });
    let connectors = PARTS.iter().map(|part| {
        let key = part.key()?;
        let body = CommandBody::Create {
            connector: key.connector,
            kind: part.kind,
            config: part.config(sink),
            event_types: part.subscription(),
            name: None,
            filter: None,
            is_active: true,
        };
        Ok((key.project, body))
    });
    let number = |(number, asked): (usize, anyhow::Result<(ProjectId, CommandBody)>)| {
        let (project, body) = asked?;
        let id = CommandId::parse(&format!("cmd_demo_{number:02}"))?;
        Ok(Command { id, project, actor: Some(OWN_ACTOR.to_owned()), body })
    };
    tiers.chain(connectors).enumerate().map(number).collect()
}

/// Produces all events at a steady pace, and slower when the deliveries do not keep up.
async fn produce(
    producer: Producer,
    topic: String,
    ledger: Arc<Ledger>,
    stream: Stream,
) -> anyhow::Result<()> {
    let pace = (stream.len() / STREAM_SECONDS).clamp(*PACE.start(), *PACE.end());
    let topic: Arc<str> = topic.into();
    let mut step = tokio::time::interval(TICK / 10);
    step.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut unwritten: JoinSet<anyhow::Result<()>> = JoinSet::new();
    let mut last = Instant::now();
    // Thousandths of events that may go out now.
    let mut due = 0;
    let mut next = 0;
    while next < stream.len() {
        step.tick().await;
        let passed = u64::try_from(last.elapsed().as_millis()).unwrap_or_default();
        last += Duration::from_millis(passed);
        // What a pause held back is not made up for at once.
        due = (due + passed * pace).min(pace * 100);
        while due >= 1000 && next < stream.len() && ledger.has_room(MAX_OPEN, MAX_OPEN_HEALTHY) {
            due -= 1000;
            ledger.expect(next, stream.takers(next).map(|(part, _)| part));
            let (producer, topic) = (producer.clone(), Arc::clone(&topic));
            unwritten.spawn(async move { write(&producer, &topic, stream, next).await });
            next += 1;
            if unwritten.len() >= MAX_UNWRITTEN
                && let Some(written) = unwritten.join_next().await
            {
                written??;
            }
        }
    }
    while let Some(written) = unwritten.join_next().await {
        written??;
    }
    Ok(())
}

async fn write(producer: &Producer, topic: &str, stream: Stream, index: u64) -> anyhow::Result<()> {
    let value = stream.json(index);
    let record = Outgoing {
        topic,
        partition: None,
        key: stream.project(index).id.as_bytes(),
        value: Some(value.as_bytes()),
        headers: Vec::new(),
    };
    producer.send(&record).await.with_context(|| format!("event {}", Stream::id(index)))?;
    Ok(())
}

async fn watch_results(
    connection: &Connection,
    topics: &Topics,
    tell: mpsc::UnboundedSender<CommandResult>,
) -> anyhow::Result<Watch> {
    let found = move |record: Record| {
        let value = record.value.unwrap_or_default();
        if let Ok(result) = serde_json::from_slice(&value) {
            // Results of the service's own commands come when nobody waits any more.
            let _ = tell.send(result);
        }
    };
    Watch::start(connection, topics.name(TopicKind::Results), found).await
}

async fn watch_dead(
    connection: &Connection,
    topics: &Topics,
    ledger: Arc<Ledger>,
) -> anyhow::Result<Watch> {
    let places = places();
    let found = move |record: Record| {
        let read = DeliveryRecord::from_json(record.value.as_deref().unwrap_or_default());
        let reason = record.header_text("dunmore-error-reason").unwrap_or("no reason").to_owned();
        let known = read.ok().and_then(|read| {
            let part = *places.get(read.connector.connector.as_str())?;
            Some((part, Stream::index(read.event.id.as_str())?))
        });
        match known {
            Some((part, event)) => ledger.dead(part, event, &reason),
            None => ledger.stray(),
        }
    };
    Watch::start(connection, topics.name(TopicKind::Dead), found).await
}

async fn watch_attempts(
    connection: &Connection,
    topics: &Topics,
    ledger: Arc<Ledger>,
) -> anyhow::Result<Watch> {
    let places = places();
    let found = move |record: Record| {
        let value = record.value.unwrap_or_default();
        let read: Option<AttemptRecord<'_>> = serde_json::from_slice(&value).ok();
        let known = read.and_then(|read| {
            let part = *places.get(&*read.connector_id)?;
            Some((part, Stream::index(&read.event_id)?, read.outcome))
        });
        match known {
            Some((part, event, Outcome::Retry | Outcome::Deferred)) => ledger.retried(part, event),
            Some((part, event, Outcome::Cancelled)) => ledger.cancelled(part, event),
            Some(_) => {}
            None => ledger.stray(),
        }
    };
    Watch::start(connection, topics.name(TopicKind::Attempts), found).await
}

/// Connector ids, unique in the demo, and their places in [`PARTS`].
fn places() -> BTreeMap<&'static str, usize> {
    PARTS.iter().enumerate().map(|(at, part)| (part.connector, at)).collect()
}
