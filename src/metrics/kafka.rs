//! What operators see of the Kafka clients: errors, commits, rebalances, lag, and the client
//! library's own statistics.

use std::borrow::Cow;

use prometheus::{Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Result};

use super::Maker;

/// The codes that alerts name, which are shown from the beginning.
const FATAL: &str = "Fatal";
const OUT_OF_RANGE: &str = "OffsetOutOfRange";

macro_rules! clients {
    ($($name:ident => $text:literal, $help:literal;)*) => {
        /// A Kafka client of this program, as metric labels name it.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum KafkaClient { $(#[doc = $help] $name,)* }

        impl KafkaClient {
            /// Every client.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The name in metric labels.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

clients! {
    Events => "events", "Reads the payment events.";
    Notices => "notices", "Reads the notices of connectors.";
    Webhook => "webhook", "Reads the notices that are posted to the operator.";
    Retry => "retry", "Reads the retry tiers.";
    Replay => "replay", "Reads what is to be replayed.";
    Held => "held", "Reads the held deliveries.";
    Registrar => "registrar", "Reads the connector commands.";
    Producer => "producer", "Writes retries, dead letters, results and commands.";
    State => "state", "Writes the connectors' state.";
    AttemptLog => "attempt_log", "Writes the attempt records.";
    Api => "api", "Writes the API's commands.";
    Tool => "tool", "Writes what a command of the program was asked to write.";
}

/// The metrics of all Kafka clients.
pub(super) struct KafkaMetrics {
    errors: IntCounterVec,
    commits: IntCounterVec,
    rebalances: IntCounterVec,
    lag: IntGaugeVec,
    position: IntGaugeVec,
    open_transaction: IntGaugeVec,
    replaced: IntCounterVec,
    brokers_connected: IntGaugeVec,
    round_trip: GaugeVec,
    round_trip_p99: GaugeVec,
    throttle: GaugeVec,
    queue_records: IntGaugeVec,
    queue_bytes: IntGaugeVec,
}

impl KafkaMetrics {
    pub(super) fn new(make: &Maker) -> Result<Self> {
        let errors = make.counters(
            "dunmore_kafka_errors_total",
            "Errors that the Kafka client reported.",
            &["code"],
        )?;
        for code in [FATAL, OUT_OF_RANGE] {
            errors.with_label_values(&[code]);
        }
        Ok(Self {
            errors,
            commits: make.counters(
                "dunmore_commits_total",
                "Offset commits by result.",
                &["client", "result"],
            )?,
            rebalances: make.counters(
                "dunmore_rebalances_total",
                "Assignments and revocations of partitions.",
                &["client"],
            )?,
            lag: make.gauges(
                "dunmore_consumer_lag_records",
                "Records from the watermark (the oldest one that is not done) to the partition's \
                 end, of the partitions that this instance owns.",
                &["topic", "partition"],
            )?,
            position: make.gauges(
                "dunmore_consumer_watermark_offset",
                "The oldest offset that is not done: what a commit would say now.",
                &["topic", "partition"],
            )?,
            open_transaction: make.gauges(
                "dunmore_open_transaction_records",
                "Offsets from the last stable one to the partition's end: what waits behind a \
                 producer's open transaction and cannot be read yet.",
                &["topic", "partition"],
            )?,
            replaced: make.counters(
                "dunmore_topics_replaced_total",
                "Partitions whose topic was found to be another one than before, under the same \
                 name: they were read from their beginning.",
                &["topic"],
            )?,
            brokers_connected: make.gauges(
                "dunmore_kafka_brokers_connected",
                "Brokers that a client has a working connection to.",
                &["client"],
            )?,
            round_trip: make.float_gauges(
                "dunmore_kafka_round_trip_seconds",
                "Mean time from a request to its answer in the last five seconds, of the slowest \
                 broker. A fetch waits up to 0.1 s for records.",
                &["client"],
            )?,
            round_trip_p99: make.float_gauges(
                "dunmore_kafka_round_trip_p99_seconds",
                "The same, 99th percentile.",
                &["client"],
            )?,
            throttle: make.float_gauges(
                "dunmore_kafka_throttle_seconds",
                "How long brokers made a client wait because of a quota, on average in the last \
                 five seconds.",
                &["client"],
            )?,
            queue_records: make.gauges(
                "dunmore_kafka_queue_records",
                "Records in the client library: fetched and not yet taken, or not yet \
                 acknowledged.",
                &["client"],
            )?,
            queue_bytes: make.gauges(
                "dunmore_kafka_queue_bytes",
                "The same in bytes.",
                &["client"],
            )?,
        })
    }

    pub(super) fn client(&self, client: KafkaClient) -> ClientMetrics {
        let label = &[client.as_str()];
        let commits = |result: &str| self.commits.with_label_values(&[client.as_str(), result]);
        ClientMetrics {
            errors: self.errors.clone(),
            commits_ok: commits("ok"),
            commits_failed: commits("failed"),
            rebalances: self.rebalances.with_label_values(label),
            is_second: client == KafkaClient::Webhook,
            lag: self.lag.clone(),
            position: self.position.clone(),
            open_transaction: self.open_transaction.clone(),
            replaced: self.replaced.clone(),
            brokers_connected: self.brokers_connected.with_label_values(label),
            round_trip: self.round_trip.with_label_values(label),
            round_trip_p99: self.round_trip_p99.with_label_values(label),
            throttle: self.throttle.with_label_values(label),
            queue_records: self.queue_records.with_label_values(label),
            queue_bytes: self.queue_bytes.with_label_values(label),
        }
    }
}

/// What the client library said of itself in the last interval.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct ClientState {
    /// Brokers with a working connection.
    pub brokers_connected: i64,
    /// Mean round trip of the slowest broker, in seconds.
    pub round_trip: f64,
    /// Its 99th percentile.
    pub round_trip_p99: f64,
    /// Mean wait that a broker's quota imposed, in seconds.
    pub throttle: f64,
    /// Records in the library.
    pub queue_records: i64,
    /// Their bytes.
    pub queue_bytes: i64,
}

/// The metrics of one Kafka client.
#[derive(Clone)]
pub struct ClientMetrics {
    errors: IntCounterVec,
    commits_ok: IntCounter,
    commits_failed: IntCounter,
    rebalances: IntCounter,
    /// Whether another client reads the same topic, for something else.
    is_second: bool,
    lag: IntGaugeVec,
    position: IntGaugeVec,
    open_transaction: IntGaugeVec,
    replaced: IntCounterVec,
    brokers_connected: IntGauge,
    round_trip: Gauge,
    round_trip_p99: Gauge,
    throttle: Gauge,
    queue_records: IntGauge,
    queue_bytes: IntGauge,
}

impl ClientMetrics {
    /// The client library reported an error. The code is the name of one of its constants.
    pub fn error(&self, code: &str) {
        self.errors.with_label_values(&[code]).inc();
    }

    /// Records were gone before they were read.
    pub fn out_of_range(&self) {
        self.error(OUT_OF_RANGE);
    }

    /// A commit was acknowledged, or failed.
    pub fn committed(&self, ok: bool) {
        if ok { &self.commits_ok } else { &self.commits_failed }.inc();
    }

    /// Partitions were assigned or revoked.
    pub fn rebalanced(&self) {
        self.rebalances.inc();
    }

    /// A topic as its label: one that is read twice has a label for each.
    fn read_as<'a>(&self, topic: &'a str) -> Cow<'a, str> {
        if self.is_second { format!("{topic} (webhook)").into() } else { topic.into() }
    }

    /// A partition's watermark, and how far it is from the partition's end.
    pub fn set_lag(&self, topic: &str, partition: i32, watermark: i64, end: i64) {
        let topic = &*self.read_as(topic);
        let partition = partition.to_string();
        let labels = [topic, partition.as_str()];
        self.position.with_label_values(&labels).set(watermark);
        self.lag.with_label_values(&labels).set((end - watermark).max(0));
    }

    /// So many offsets of a partition wait behind an open transaction.
    pub fn set_open_transaction(&self, topic: &str, partition: i32, offsets: i64) {
        let topic = &*self.read_as(topic);
        let partition = partition.to_string();
        self.open_transaction.with_label_values(&[topic, partition.as_str()]).set(offsets);
    }

    /// A topic is read: its count of replacements shows from now on, so that the first one is an
    /// increase.
    pub fn reads_topic(&self, topic: &str) {
        self.replaced.with_label_values(&[topic]);
    }

    /// A partition's topic was created anew.
    pub fn topic_replaced(&self, topic: &str) {
        self.replaced.with_label_values(&[topic]).inc();
    }

    /// A partition is not ours any more: a series of it would stand still for ever.
    pub fn forget_lag(&self, topic: &str, partition: i32) {
        let topic = &*self.read_as(topic);
        let partition = partition.to_string();
        let labels = [topic, partition.as_str()];
        // Removing what was never set is an error that says nothing.
        let _ = self.position.remove_label_values(&labels);
        let _ = self.lag.remove_label_values(&labels);
        let _ = self.open_transaction.remove_label_values(&labels);
    }

    /// The client library's statistics.
    pub fn set_state(&self, state: &ClientState) {
        self.brokers_connected.set(state.brokers_connected);
        self.round_trip.set(state.round_trip);
        self.round_trip_p99.set(state.round_trip_p99);
        self.throttle.set(state.throttle);
        self.queue_records.set(state.queue_records);
        self.queue_bytes.set(state.queue_bytes);
    }
}
