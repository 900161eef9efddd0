//! What the client library says of itself every few seconds, as a JSON text of its own.

use std::collections::HashMap;

use serde::Deserialize;

use super::Partition;
use crate::metrics::{ClientMetrics, ClientState};

/// How often the client library tells.
pub(super) const INTERVAL_MS: &str = "5000";

/// The client library writes negative numbers for what it does not know.
fn known(value: i64) -> Option<i64> {
    (value >= 0).then_some(value)
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Statistics {
    /// Records that a producer holds.
    msg_cnt: i64,
    /// Their bytes.
    msg_size: i64,
    brokers: HashMap<String, Broker>,
    topics: HashMap<String, Topic>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Broker {
    nodeid: i64,
    /// Where the client knows it from.
    source: String,
    state: String,
    /// In microseconds.
    rtt: Window,
    /// In milliseconds.
    throttle: Window,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Window {
    avg: f64,
    p99: f64,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Topic {
    partitions: HashMap<String, PartitionStatistics>,
}

#[derive(Deserialize)]
#[serde(default)]
struct PartitionStatistics {
    fetchq_cnt: i64,
    fetchq_size: i64,
    /// The offset that is fetched next: beyond markers and aborted records too.
    next_offset: i64,
    hi_offset: i64,
    ls_offset: i64,
}

impl Default for PartitionStatistics {
    fn default() -> Self {
        Self { fetchq_cnt: 0, fetchq_size: 0, next_offset: -1, hi_offset: -1, ls_offset: -1 }
    }
}

impl Statistics {
    /// `None` when the text is not what this version of the library writes.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text)
            .inspect_err(|error| tracing::debug!(%error, "statistics of the Kafka client"))
            .ok()
    }

    /// Shows how the client is.
    pub(super) fn show(&self, metrics: &ClientMetrics) {
        let fetched = || self.topics.values().flat_map(|topic| topic.partitions.values());
        // Bootstrap addresses have no number, and the coordinator is one of the brokers again.
        let brokers = || self.brokers.values().filter(|broker| broker.nodeid >= 0);
        let slowest = |of: fn(&Broker) -> f64| brokers().map(of).fold(0.0, f64::max);
        let up = brokers().filter(|broker| broker.state == "UP").map(|broker| broker.nodeid);
        let up: std::collections::BTreeSet<i64> = up.collect();
        metrics.set_state(&ClientState {
            brokers_connected: i64::try_from(up.len()).unwrap_or(i64::MAX),
            round_trip: slowest(|broker| broker.rtt.avg) / 1e6,
            round_trip_p99: slowest(|broker| broker.rtt.p99) / 1e6,
            throttle: slowest(|broker| broker.throttle.avg) / 1e3,
            queue_records: self.msg_cnt + fetched().map(|p| p.fetchq_cnt).sum::<i64>(),
            queue_bytes: self.msg_size + fetched().map(|p| p.fetchq_size).sum::<i64>(),
        });
    }

    /// Whether the client knows a broker that it can ask: the coordinator's entry stands for one of
    /// the others, and its own internal one for none.
    pub(super) fn knows_brokers(&self) -> bool {
        let is_real = |broker: &Broker| matches!(broker.source.as_str(), "learned" | "configured");
        self.brokers.values().any(is_real)
    }

    /// Looks at a partition: how far it is behind its end, and how much waits behind a transaction
    /// that is still open.
    pub(super) fn look_at(&self, partition: &Partition, metrics: &ClientMetrics) {
        let (topic, number) = (partition.topic(), partition.number());
        let Some(found) = self
            .topics
            .get(topic.as_ref())
            .and_then(|topic| topic.partitions.get(&number.to_string()))
        else {
            return;
        };
        partition.note_fetch_position(known(found.next_offset), found.fetchq_cnt > 0);
        // Only what consumers may read counts: the end of the last transaction that is over.
        let end = known(found.ls_offset).or_else(|| known(found.hi_offset));
        if let (Some(watermark), Some(end)) = (partition.watermark(), end) {
            metrics.set_lag(topic, number, watermark, end);
        }
        if let (Some(stable), Some(end)) = (known(found.ls_offset), known(found.hi_offset)) {
            metrics.set_open_transaction(topic, number, (end - stable).max(0));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        metrics::{KafkaClient, Metrics},
        offsets::Tracker,
    };

    /// Shortened from what librdkafka 2.12 wrote.
    const TEXT: &str = r#"{"name":"dunmore#consumer-1","msg_cnt":0,"msg_size":0,"brokers":{
        "localhost:9092/bootstrap":{"nodeid":-1,"state":"UP","rtt":{"avg":9000000}},
        "localhost:9092/1":{"nodeid":1,"state":"UP","rtt":{"min":900,"avg":1500,"p99":102000},"throttle":{"avg":250}},
        "GroupCoordinator":{"nodeid":1,"state":"UP","rtt":{"avg":700}},
        "localhost:9093/2":{"nodeid":2,"state":"CONNECT"}},
        "topics":{"t":{"partitions":{
            "0":{"fetchq_cnt":3,"fetchq_size":300,"next_offset":7,"hi_offset":12,"ls_offset":10},
            "1":{"next_offset":5,"hi_offset":9,"ls_offset":-1001},
            "-1":{}}}}}"#;

    fn partition(number: i32) -> Partition {
        Partition::new(
            Arc::from("t"),
            number,
            Tracker::begin_at([7, 5, 0][usize::try_from(number).unwrap()]),
        )
    }

    #[tokio::test]
    async fn the_librarys_words_become_metrics() {
        let metrics = Metrics::new().unwrap();
        let client = metrics.kafka_client(KafkaClient::Events);
        let statistics = Statistics::parse(TEXT.as_bytes()).unwrap();
        statistics.show(&client);
        let first = partition(0);
        statistics.look_at(&first, &client);
        statistics.look_at(&partition(1), &client);
        statistics.look_at(&partition(2), &client);
        let text = metrics.render();
        for line in [
            r#"dunmore_kafka_brokers_connected{client="events"} 1"#,
            r#"dunmore_kafka_round_trip_seconds{client="events"} 0.0015"#,
            r#"dunmore_kafka_round_trip_p99_seconds{client="events"} 0.102"#,
            r#"dunmore_kafka_throttle_seconds{client="events"} 0.25"#,
            r#"dunmore_kafka_queue_records{client="events"} 3"#,
            r#"dunmore_consumer_lag_records{partition="0",topic="t"} 3"#,
            r#"dunmore_consumer_lag_records{partition="1",topic="t"} 4"#,
            r#"dunmore_open_transaction_records{partition="0",topic="t"} 2"#,
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(!text.contains(r#"partition="2""#), "{text}");

        // What was read and is not done counts as lag, whatever was committed.
        first.begin(8).await;
        first.begin(9).await;
        first.complete(9);
        statistics.look_at(&first, &client);
        let lag = r#"dunmore_consumer_lag_records{partition="0",topic="t"} 2"#;
        assert!(metrics.render().contains(lag));
        client.forget_lag("t", 0);
        assert!(!metrics.render().contains(r#"partition="0""#));
    }

    /// A retry that waits in its worker's hand until it is due is not begun yet, and the library has
    /// nothing more: to take it for a gap would commit past it.
    #[tokio::test]
    async fn what_was_handed_over_and_is_not_begun_is_no_gap() {
        let partition = Partition::new(Arc::from("t"), 0, Tracker::begin_at(5));
        partition.queue(1, 100, 6);
        partition.taken(100);
        partition.note_fetch_position(Some(6), false);
        partition.note_fetch_position(Some(6), false);
        assert_eq!(partition.watermark(), Some(5));
        partition.begin(5).await;
        partition.complete(5);
        for _ in 0..2 {
            partition.note_fetch_position(Some(8), false);
        }
        assert_eq!(partition.watermark(), Some(8), "what follows is a gap");
    }

    #[test]
    fn a_client_that_knows_only_a_coordinator_and_itself_knows_no_broker() {
        let knows = |brokers: &str| {
            let text = format!("{{\"brokers\":{{{brokers}}}}}");
            Statistics::parse(text.as_bytes()).unwrap().knows_brokers()
        };
        let logical = r#""GroupCoordinator":{"nodeid":1,"source":"logical"}"#;
        let internal = r#"":0/internal":{"nodeid":-1,"source":"internal"}"#;
        assert!(!knows(&format!("{logical},{internal}")) && !knows(""));
        assert!(knows(r#""b:9092/bootstrap":{"nodeid":-1,"source":"configured","state":"DOWN"}"#));
        assert!(knows(&format!(r#"{logical},"b:9092/1":{{"nodeid":1,"source":"learned"}}"#)));
    }
}
