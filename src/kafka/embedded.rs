//! The embedded broker: the mock cluster inside librdkafka, in this process, on a loopback port.
//!
//! It speaks the Kafka protocol well enough to try things out and for fast tests. It keeps only
//! about 5 MB or 100,000 records per partition, and everything is gone with the process: never
//! use it for data that matters.

use parking_lot::Mutex;
use rdkafka::{
    ClientConfig,
    bindings::{rd_kafka_handle_mock_cluster, rd_kafka_mock_group_initial_rebalance_delay_ms},
    producer::{BaseProducer, Producer as _},
};

use super::{KafkaError, Topics};

/// How long a new group waits for further members, in milliseconds. A real broker's default is
/// 3,000; here nobody else is coming.
const GROUP_DELAY_MS: i32 = 100;

/// The addresses of the brokers in this process.
static ADDRESSES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Whether this is the address of a broker in this process.
pub(super) fn is_embedded(bootstrap_servers: &str) -> bool {
    ADDRESSES.lock().iter().any(|address| address == bootstrap_servers)
}

/// A broker that lives as long as this value.
pub struct EmbeddedBroker {
    owner: BaseProducer,
}

impl EmbeddedBroker {
    /// Starts a broker with these topics.
    pub fn start(topics: &Topics, partitions: i32) -> Result<Self, KafkaError> {
        let other = |e: rdkafka::error::KafkaError| KafkaError::Other(format!("embedded: {e}"));
        let owner: BaseProducer =
            ClientConfig::new().set("test.mock.num.brokers", "1").create().map_err(other)?;
        let broker = Self { owner };
        broker.shorten_group_delay();
        let cluster = broker
            .owner
            .client()
            .mock_cluster()
            .ok_or_else(|| KafkaError::Other("embedded broker did not start".to_owned()))?;
        for kind in topics.all() {
            cluster.create_topic(&topics.name(kind), partitions, 1).map_err(other)?;
        }
        ADDRESSES.lock().push(cluster.bootstrap_servers());
        drop(cluster);
        Ok(broker)
    }

    /// Its address.
    pub fn bootstrap_servers(&self) -> String {
        self.owner.client().mock_cluster().map(|c| c.bootstrap_servers()).unwrap_or_default()
    }

    #[expect(unsafe_code, reason = "the client library has this call only in its C interface")]
    fn shorten_group_delay(&self) {
        // SAFETY: the handle is the live client's own; the call checks nothing but the pointer,
        // which is not null because the client was made with a mock cluster.
        unsafe {
            let cluster = rd_kafka_handle_mock_cluster(self.owner.client().native_ptr());
            if !cluster.is_null() {
                rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, GROUP_DELAY_MS);
            }
        }
    }
}
