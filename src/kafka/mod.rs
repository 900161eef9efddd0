//! The only room that knows Kafka's client library.

mod admin;
mod bookmarks;
mod bootstrap;
mod consumer;
mod embedded;
mod group;
mod identity;
mod partition;
mod polled;
mod producer;
mod reader;
mod refusal;
mod scan;
mod statistics;
mod topics;
mod watch;

use std::{collections::BTreeMap, time::Duration};

use rdkafka::{ClientConfig, error::RDKafkaErrorCode};

pub use rdkafka::Offset;

pub use admin::{Admin, Difference};
pub use bookmarks::{Bookmark, BookmarkMap, Bookmarks, MAX_NOTE_BYTES};
pub use consumer::{Record, headers_of};
pub use embedded::EmbeddedBroker;
pub use group::{Assigned, GroupConsumer, GroupEvents, GroupHandle, GroupOptions};
pub use identity::{Identities, TopicFacts};
pub use partition::{NotNow, Partition};
pub use producer::{AttemptLog, Outgoing, ProduceError, Producer};
pub use reader::{Reader, ReaderEvent};
pub use scan::{Bounds, SCAN_PATIENCE, Seen, Span, Spans, scan};
pub use topics::{Cleanup, TopicKind, TopicPlan, Topics};
pub use watch::{Trouble, TroubleKind, Watch};

/// How long a request to the broker that somebody waits for may take.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How soon a consumer looks again whether its full prefetch queue has room, in milliseconds. The
/// client library's default is a second: with queues as short as ours a partition would then give
/// a megabyte a second and no more (`confluentinc/librdkafka#2879`).
const FETCH_QUEUE_BACKOFF: (&str, &str) = ("fetch.queue.backoff.ms", "10");

/// The largest record that this program writes or reads, in bytes: an event of the largest size,
/// its envelope, and room for escapes.
pub const MAX_RECORD_BYTES: usize = 4 << 20;

/// Where the brokers are and how to talk to them.
#[derive(Clone)]
pub struct Connection {
    bootstrap_servers: String,
    properties: BTreeMap<String, String>,
}

impl Connection {
    /// A connection to these brokers; the properties go to librdkafka as they are.
    pub fn new(bootstrap_servers: String, properties: BTreeMap<String, String>) -> Self {
        Self { bootstrap_servers, properties }
    }

    /// The addresses.
    pub fn bootstrap_servers(&self) -> &str {
        &self.bootstrap_servers
    }

    /// What the operator set of the client library's properties.
    fn property(&self, name: &str) -> Option<&str> {
        self.properties.get(name).map(String::as_str)
    }

    /// The common settings of every client; `own` are this client's, which the operator's
    /// properties may override.
    fn client(&self, own: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.bootstrap_servers)
            .set("client.id", "dunmore")
            .set("client.software.name", "dunmore-connectors")
            .set("client.software.version", env!("CARGO_PKG_VERSION"))
            .set("topic.metadata.refresh.interval.ms", "30000")
            // Who asks for metadata in vain bootstraps anew after this; the library's default is five
            // minutes (KIP-1102).
            .set("metadata.recovery.rebootstrap.trigger.ms", "10000")
            .set("reconnect.backoff.max.ms", "3000")
            .set("socket.keepalive.enable", "true")
            // Small requests are what this program waits for; Nagle's delay only hurts them.
            .set("socket.nagle.disable", "true");
        for (key, value) in own {
            config.set(*key, *value);
        }
        for (key, value) in &self.properties {
            config.set(key, value);
        }
        config
    }
}

/// What went wrong with Kafka, in a sentence for the operator.
#[derive(Debug, thiserror::Error)]
pub enum KafkaError {
    /// A setting was refused by the client library.
    #[error("kafka.properties: {0}")]
    Settings(String),
    /// The brokers did not answer.
    #[error(
        "no answer from Kafka at {servers} ({detail}); check kafka.bootstrap_servers and that the broker runs"
    )]
    Unreachable {
        /// The addresses tried.
        servers: String,
        /// The client library's words.
        detail: String,
    },
    /// The brokers are there, and they or this program will not have the other.
    #[error("no connection to Kafka at {servers}: {detail}")]
    Refused {
        /// The addresses tried.
        servers: String,
        /// What is wrong and what to do.
        detail: String,
    },
    /// A topic that this program needs is not there.
    #[error("topic {0} does not exist; create the topics with `dunmore topics ensure`")]
    TopicMissing(String),
    /// Something else.
    #[error("Kafka: {0}")]
    Other(String),
}

impl KafkaError {
    fn settings(error: &rdkafka::error::KafkaError) -> Self {
        Self::Settings(error.to_string())
    }

    fn request(connection: &Connection, error: &rdkafka::error::KafkaError) -> Self {
        use RDKafkaErrorCode as Code;
        let code = match error {
            rdkafka::error::KafkaError::AdminOp(code) => Some(*code),
            other => other.rdkafka_error_code(),
        };
        match code {
            Some(
                Code::BrokerTransportFailure
                | Code::AllBrokersDown
                | Code::OperationTimedOut
                | Code::Resolve
                | Code::RequestTimedOut,
            ) => Self::Unreachable {
                servers: connection.bootstrap_servers.clone(),
                detail: error.to_string(),
            },
            _ => Self::Other(error.to_string()),
        }
    }
}
