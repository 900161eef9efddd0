//! The only room that knows Kafka's client library.

mod admin;
mod backwards;
mod bookmarks;
mod bootstrap;
mod consumer;
mod embedded;
mod ends;
mod group;
mod groups;
mod identity;
mod lost;
mod member;
mod partition;
mod polled;
mod producer;
mod reader;
mod refusal;
mod scan;
mod standing;
mod statistics;
mod topics;
mod wakeup;
mod watch;

use std::{collections::BTreeMap, time::Duration};

use rdkafka::{ClientConfig, error::RDKafkaErrorCode};

pub use rdkafka::Offset;

pub use admin::{Admin, Difference};
pub use backwards::{Backwards, Budget};
pub use bookmarks::{Bookmark, BookmarkMap, Bookmarks, MAX_NOTE_BYTES};
pub use consumer::{Record, headers_of};
pub use embedded::EmbeddedBroker;
pub use ends::Ends;
pub use group::{Assigned, GroupConsumer, GroupEvents, GroupHandle, GroupOptions, STALLED_AFTER};
pub use groups::{GroupTopics, ServiceGroup};
pub use identity::{Identities, TopicFacts};
pub use lost::{StartFrom, recover_lost_offsets};
pub use member::{Holder, LEASE, MemberError, SESSION, SoleMember, WRITE_TIMEOUT, members};
pub use partition::{NotNow, Partition};
pub use producer::{AttemptLog, Outgoing, ProduceError, Producer, Verbatim};
pub use reader::{Reader, ReaderEvent};
pub use scan::{Bounds, SCAN_PATIENCE, Seen, Span, Spans, scan, scan_uncommitted};
pub use standing::{Standing, Standings};
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
    is_embedded: bool,
}

impl Connection {
    /// A connection to these brokers; the properties go to librdkafka as they are.
    pub fn new(bootstrap_servers: String, properties: BTreeMap<String, String>) -> Self {
        let is_embedded = embedded::is_embedded(&bootstrap_servers);
        Self { bootstrap_servers, properties, is_embedded }
    }

    /// Whether this is the broker in this process, which knows no topic ids and answers no request
    /// of an administrator.
    const fn is_embedded(&self) -> bool {
        self.is_embedded
    }

    /// The addresses.
    pub fn bootstrap_servers(&self) -> &str {
        &self.bootstrap_servers
    }

    /// Whether the client library takes the properties, as far as that shows without a broker.
    pub fn check_properties(&self) -> Result<(), KafkaError> {
        use rdkafka::{consumer::BaseConsumer, producer::BaseProducer};
        let consumer: Result<BaseConsumer, _> =
            self.client(&[("group.id", "dunmore-reader")]).create();
        consumer.map_err(|e| KafkaError::settings(&e))?;
        let producer: Result<BaseProducer, _> = self.client(&[]).create();
        producer.map(|_| ()).map_err(|e| KafkaError::settings(&e))
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
    /// The brokers do not let this program see the topic.
    #[error("topic {0} may not be described: the ACLs of this program's user need DESCRIBE on it")]
    Forbidden(String),
    /// A group without committed offsets that is not a new one.
    #[error(
        "the consumer group {group} has no committed offsets, but this installation has delivered before: \
         the group's name was changed, or no instance ran for longer than the broker keeps offsets (seven \
         days by default). Choose where {topics} are read from: `dunmore serve --from beginning` repeats \
         what the topics still hold, `--from end` leaves out what was not delivered, `--from \
         2026-11-30T08:00:00Z` begins at a time (setting group.start)"
    )]
    LostOffsets {
        /// The group.
        group: String,
        /// The topics that hold records.
        topics: String,
    },
    /// Something else.
    #[error("Kafka: {0}")]
    Other(String),
}

impl KafkaError {
    /// Names the property that is wrong, and never its value: a misspelt `sasl.password` has one too.
    fn settings(error: &rdkafka::error::KafkaError) -> Self {
        use rdkafka::{error::KafkaError as Error, types::RDKafkaConfRes as Wrong};
        Self::Settings(match error {
            Error::ClientConfig(Wrong::RD_KAFKA_CONF_UNKNOWN, _, name, _) => {
                format!("librdkafka knows no property {name:?}; see its CONFIGURATION.md")
            }
            Error::ClientConfig(_, _, name, _) => {
                format!("librdkafka does not take the value of {name:?}; see its CONFIGURATION.md")
            }
            other => other.to_string(),
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_property_is_named_without_its_value() {
        for (name, value) in
            [("sasl.pasword", "hunter2"), ("security.protocol", "hunter2"), ("retries", "hunter2")]
        {
            let properties = [(name.to_owned(), value.to_owned())].into();
            let connection = Connection::new("localhost:1".to_owned(), properties);
            let made = connection.client(&[]).create::<rdkafka::producer::BaseProducer>();
            let error = KafkaError::settings(&made.err().unwrap()).to_string();
            assert!(error.contains(name) && !error.contains(value), "{error}");
        }
    }
}
