//! `dunmore doctor`: everything that must be right before and while the service runs, looked at at
//! once.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use nix::sys::statvfs::statvfs;
use serde::Serialize;
use tokio::{
    net::{TcpListener, TcpStream, lookup_host},
    time::timeout,
};

use super::{
    Common, Said,
    control::blocking,
    output::{self, Output},
    refusals, start_logs, state,
};
use crate::{
    clock::{self, Timestamp},
    codec::{RegistryClient, kind_of, subject},
    config::Config,
    connector::ConfigValue,
    kafka::{
        Admin, Bounds, Connection, GroupTopics, KafkaError, Span, Spans, TopicKind, Topics,
        recover_lost_offsets, scan,
    },
};

/// A vendor's host, to see whether names are resolved and the way out is open.
const VENDOR: &str = "hooks.slack.com";
/// How long a name or a connection may take.
const NET_PATIENCE: Duration = Duration::from_secs(3);
/// A clock may be so far behind the brokers'.
const CLOCK_SLACK: Duration = Duration::from_secs(5);
/// Less room than this on the disk of `data_dir` is a warning, in bytes.
const LOW_SPACE: u64 = 1 << 30;

/// How a look ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Warn,
    Fail,
}

/// What was looked at, and what was found.
#[derive(Clone, Debug, Serialize)]
struct Finding {
    check: &'static str,
    state: State,
    words: String,
}

impl Finding {
    fn new(check: &'static str, state: State, words: impl Into<String>) -> Self {
        Self { check, state, words: words.into() }
    }

    fn of(check: &'static str, look: Result<String, String>) -> Self {
        match look {
            Ok(words) => Self::new(check, State::Ok, words),
            Err(words) => Self::new(check, State::Fail, words),
        }
    }
}

/// `dunmore doctor`
pub async fn run(common: &Common) -> anyhow::Result<()> {
    start_logs(common, "off")?;
    let (mut config, wrong) = Config::examine(common.config.as_deref());
    if let Some(servers) = &common.bootstrap_servers {
        config.kafka.bootstrap_servers = Some(servers.clone());
    }
    let mut found: Vec<Finding> =
        wrong.into_iter().map(|words| Finding::new("settings", State::Fail, words)).collect();
    if found.is_empty() {
        found.push(Finding::new("settings", State::Ok, "every name and value is known"));
    }
    found.extend(refusals::looks(&config).into_iter().map(|(name, look)| Finding::of(name, look)));
    let (kafka, network, registry, ports) =
        tokio::join!(kafka(&config), network(&config), registry(&config), ports(&config));
    found.extend(kafka.into_iter().chain(network).chain(registry).chain(ports));
    found.extend(space(&config));
    show(common, &found)?;
    if found.iter().any(|one| one.state == State::Fail) { Err(Said.into()) } else { Ok(()) }
}

fn show(common: &Common, found: &[Finding]) -> anyhow::Result<()> {
    let count = |state| found.iter().filter(|one| one.state == state).count();
    if common.output == Output::Json {
        return output::json(&serde_json::json!({
            "failed": count(State::Fail),
            "warnings": count(State::Warn),
            "checks": found,
        }));
    }
    for one in found {
        let state = match one.state {
            State::Ok => "ok",
            State::Warn => "warn",
            State::Fail => "FAIL",
        };
        output::line(&format!(
            "{state:<5} {:<9} {}",
            one.check,
            super::cards::one_line(&one.words)
        ));
    }
    let (failed, warnings) = (count(State::Fail), count(State::Warn));
    output::line(&format!("{} checks, {failed} failed, {warnings} warnings", found.len()));
    Ok(())
}

/// The brokers, the topics, the groups, the clock, and the keys of what is stored.
async fn kafka(config: &Config) -> Vec<Finding> {
    let Ok(connection) = config.connection() else { return Vec::new() };
    let topics = config.topics();
    let Ok(admin) = Admin::new(&connection) else { return Vec::new() };
    let mut found = match admin.cluster_id().await {
        Ok(id) => vec![Finding::new("brokers", State::Ok, format!("cluster {id} answers"))],
        Err(error) => return vec![Finding::new("brokers", State::Fail, error.to_string())],
    };
    let before = found.len();
    let (partitions, replication) = (config.topics.partitions, config.topics.replication_factor);
    match admin.check(&topics, partitions, replication).await {
        Err(error) => found.push(Finding::new("topics", State::Fail, error.to_string())),
        Ok(differences) => found.extend(differences.into_iter().map(|one| {
            let is_missing = one.what == "topic";
            let state = if is_missing { State::Fail } else { State::Warn };
            let words = if is_missing {
                KafkaError::TopicMissing(one.topic).to_string()
            } else {
                format!("{}: {} should be {}, is {}", one.topic, one.what, one.expected, one.actual)
            };
            Finding::new("topics", state, words)
        })),
    }
    let is_complete = !found.iter().any(|one| one.state == State::Fail);
    if found.len() == before {
        let all = topics.all().len();
        found.push(Finding::new(
            "topics",
            State::Ok,
            format!("{all} topics are as they should be"),
        ));
    }
    if is_complete {
        found.extend(commands(config, &connection, &topics).await);
        found.push(offsets(config, &connection, &topics).await);
        found.push(clock(&connection, &topics).await);
        found.push(stored_keys(config).await);
    }
    found
}

/// Whether each project's commands have a partition.
async fn commands(config: &Config, connection: &Connection, topics: &Topics) -> Option<Finding> {
    let (connection, topics) = (connection.clone(), topics.clone());
    let set = config.topics.state_partitions;
    let looked = blocking(move || {
        let admin = Admin::new(&connection)?;
        let state = admin.partitions(&topics.name(TopicKind::State))?;
        admin.require_commands(&topics, set.unwrap_or(state))
    });
    let error = looked.await.err()?;
    Some(Finding::new("topics", State::Fail, error.to_string()))
}

/// Whether the groups' committed offsets are there. Commits nothing.
async fn offsets(config: &Config, connection: &Connection, topics: &Topics) -> Finding {
    let (connection, topics, group) = (connection.clone(), topics.clone(), config.group.id.clone());
    let looked = blocking(move || {
        let tiers = topics.all().into_iter().filter(|kind| matches!(kind, TopicKind::Retry(_)));
        let tiers: Vec<String> = tiers.map(|kind| topics.name(kind)).collect();
        let live = vec![topics.name(TopicKind::Events)];
        let [notices, replay] =
            [TopicKind::Notices, TopicKind::Replay].map(|kind| vec![topics.name(kind)]);
        let [notice_group, retry_group, replay_group] =
            [".notices", ".retry", ".replay"].map(|suffix| format!("{group}{suffix}"));
        let groups = [
            GroupTopics { group: &group, topics: &live },
            GroupTopics { group: &notice_group, topics: &notices },
            GroupTopics { group: &retry_group, topics: &tiers },
            GroupTopics { group: &replay_group, topics: &replay },
        ];
        recover_lost_offsets(&connection, &groups, &topics.name(TopicKind::Attempts), None)
    });
    match looked.await {
        Ok(()) => Finding::new("offsets", State::Ok, "the groups know where they are"),
        Err(error @ KafkaError::LostOffsets { .. }) => match config.group.start {
            Some(start) => {
                let words = format!("{error}. group.start says {start}");
                Finding::new("offsets", State::Warn, words)
            }
            None => Finding::new("offsets", State::Fail, error.to_string()),
        },
        Err(error) => Finding::new("offsets", State::Fail, error.to_string()),
    }
}

/// Compares this machine's clock with the newest record that the brokers stamped: it cannot be of
/// later. A clock that is ahead does not show here.
async fn clock(connection: &Connection, topics: &Topics) -> Finding {
    let (connection, topic) = (connection.clone(), topics.name(TopicKind::Events));
    let newest = blocking(move || newest_stamp(&connection, &topic)).await;
    let now = clock::now();
    match newest {
        Err(error) => Finding::new("clock", State::Warn, error.to_string()),
        Ok(None) => Finding::new("clock", State::Ok, "no record to compare it with yet"),
        Ok(Some(stamp)) if stamp.since(now) > CLOCK_SLACK => {
            let behind = stamp.since(now).as_secs();
            let words = format!(
                "this clock is {behind} s behind the brokers' or theirs is ahead: times, retries and \
                 signatures will be wrong; look at the time service (chrony, NTP) of both"
            );
            Finding::new("clock", State::Fail, words)
        }
        Ok(Some(stamp)) => {
            Finding::new("clock", State::Ok, format!("not behind the brokers' ({stamp})"))
        }
    }
}

/// The newest timestamp that a broker gave to an event. Blocks.
fn newest_stamp(connection: &Connection, topic: &str) -> Result<Option<Timestamp>, KafkaError> {
    let bounds = Bounds::of(connection, topic)?;
    let last = |span: &Span| Span { from: span.from.max(span.to - 1), to: span.to };
    let spans: Spans = bounds.whole().iter().map(|(p, span)| (*p, last(span))).collect();
    let mut newest = None;
    scan(connection, topic, &spans, |seen| {
        if !seen.is_stamped_by_producer() {
            newest = newest.max(Some(seen.timestamp()));
        }
        std::ops::ControlFlow::Continue(())
    })?;
    Ok(newest)
}

/// Whether there is a key for every stored secret.
async fn stored_keys(config: &Config) -> Finding {
    let connectors = match state::read(config, None).await {
        Ok(connectors) => connectors,
        Err(error) => return Finding::new("secrets", State::Fail, format!("{error:#}")),
    };
    let ids: BTreeSet<String> = config
        .secret_keys()
        .unwrap_or_default()
        .iter()
        .filter_map(|key| key.split_once(':').map(|(id, _)| id.to_owned()))
        .collect();
    let mut without: BTreeMap<String, usize> = BTreeMap::new();
    for connector in &connectors {
        for (_, value) in connector.config.iter() {
            if let ConfigValue::Sealed(sealed) = value
                && !ids.contains(&sealed.key_id)
            {
                *without.entry(sealed.key_id.clone()).or_default() += 1;
            }
        }
    }
    if without.is_empty() {
        let words = format!("every secret of {} connectors has its key", connectors.len());
        return Finding::new("secrets", State::Ok, words);
    }
    let each: Vec<String> =
        without.iter().map(|(key, count)| format!("{key} ({count} secrets)")).collect();
    let words = format!(
        "secrets are encrypted with keys that secrets.keys lacks: {}; their connectors are held \
         until the key is back",
        each.join(", ")
    );
    Finding::new("secrets", State::Fail, words)
}

/// Names and the way out.
async fn network(config: &Config) -> Vec<Finding> {
    let mut hosts = vec![(VENDOR.to_owned(), 443)];
    let bases = config.destinations.values().filter_map(|set| set.base_url.as_ref());
    hosts.extend(bases.filter_map(|url| {
        let host = url.host_str()?.trim_matches(['[', ']']).to_owned();
        Some((host, url.port_or_known_default()?))
    }));
    hosts.dedup();
    let mut found = Vec::new();
    for (host, port) in hosts {
        match resolve(&host, port).await {
            Err(words) => found.push(Finding::new("dns", State::Warn, words)),
            Ok(address) => {
                found.push(Finding::new("dns", State::Ok, format!("{host} is {}", address.ip())));
                found.push(connect(&host, address).await);
            }
        }
    }
    if config.egress.allow_http && config.egress.allow_cidrs.is_empty() {
        let words = "egress.allow_http does nothing without egress.allow_cidrs";
        found.push(Finding::new("egress", State::Warn, words));
    }
    found
}

async fn resolve(host: &str, port: u16) -> Result<SocketAddr, String> {
    let wrong = |why: &str| {
        format!("{host} cannot be resolved ({why}): look at the resolver of this machine")
    };
    match timeout(NET_PATIENCE, lookup_host((host, port))).await {
        Err(_) => Err(wrong("no answer in time")),
        Ok(Err(error)) => Err(wrong(&error.to_string())),
        Ok(Ok(mut addresses)) => addresses.next().ok_or_else(|| wrong("it has no address")),
    }
}

async fn connect(host: &str, address: SocketAddr) -> Finding {
    let wrong = |why: &str| {
        let words = format!(
            "no connection to {host} port {} ({why}): look at the firewall; a proxy is not used",
            address.port()
        );
        Finding::new("egress", State::Warn, words)
    };
    match timeout(NET_PATIENCE, TcpStream::connect(address)).await {
        Ok(Ok(_)) => {
            Finding::new("egress", State::Ok, format!("{host} port {} answers", address.port()))
        }
        Ok(Err(error)) => wrong(&error.to_string()),
        Err(_) => wrong("no answer in time"),
    }
}

/// Whether the registry answers and has the schemas.
async fn registry(config: &Config) -> Vec<Finding> {
    let Ok(Some(client)) = RegistryClient::new(&config.schema_registry) else { return Vec::new() };
    let topics = config.topics();
    let mut missing = Vec::new();
    let mut known = 0;
    for topic in topics.all() {
        let Some(kind) = kind_of(topic) else { continue };
        let subject = subject(&topics, topic);
        match client.look_up(&subject, kind.text()).await {
            Ok(Some(_)) => known += 1,
            Ok(None) => missing.push(subject),
            Err(error) => {
                return vec![Finding::new("registry", State::Fail, error.to_string())];
            }
        }
    }
    if missing.is_empty() {
        return vec![Finding::new("registry", State::Ok, format!("has the {known} schemas"))];
    }
    let words = format!(
        "lacks the schemas of {}; the next start registers them, or dunmore schemas register",
        missing.join(", ")
    );
    vec![Finding::new("registry", State::Warn, words)]
}

/// Whether the ports are free. A running instance on this machine has them.
async fn ports(config: &Config) -> Vec<Finding> {
    let mut found = Vec::new();
    for (setting, address) in
        [("api.listen", config.api.listen), ("admin.listen", config.admin.listen)]
    {
        if let Err(error) = TcpListener::bind(address).await {
            let words =
                format!("{address} ({setting}) {error}: does the service run here already?");
            found.push(Finding::new("listen", State::Warn, words));
        }
    }
    found
}

/// The room on the disk of the data folder.
fn space(config: &Config) -> Option<Finding> {
    let absolute = std::path::absolute(&config.data_dir).ok()?;
    let existing = absolute.ancestors().find(|folder| folder.exists())?;
    let disk = statvfs(existing).ok()?;
    let free = disk.fragment_size().saturating_mul(disk.blocks_available());
    let words = format!("{} MiB are free for data_dir", free >> 20);
    let state = if free < LOW_SPACE { State::Warn } else { State::Ok };
    Some(Finding::new("disk", state, words))
}
