//! Producers: an idempotent one whose acknowledgements are waited for, and one for the attempt
//! log that nobody waits for.

use std::{sync::Arc, time::Duration};

use rdkafka::{
    ClientConfig, ClientContext,
    config::RDKafkaLogLevel,
    error::{KafkaError as ClientError, RDKafkaErrorCode},
    message::{Header, Message, OwnedHeaders},
    producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext},
};
use tokio::sync::oneshot;

use super::{
    Connection, KafkaError,
    bootstrap::Bootstrap,
    polled::Polled,
    statistics::{self, Statistics},
};
use crate::{metrics::ClientMetrics, telemetry};

/// How long the client library tries to get a record acknowledged. Idempotence keeps it from
/// being written twice meanwhile.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(120);
const DELIVERY_TIMEOUT_MS: &str = "120000";
/// What may wait in the client library before `send` waits.
const QUEUE_KBYTES: &str = "65536";
/// How long a record that finds the client library's queue full waits before it tries again.
const FULL_QUEUE_WAIT: Duration = Duration::from_millis(20);

/// Where a record's partition and offset go when it is acknowledged.
type Tell = oneshot::Sender<Result<(i32, i64), ClientError>>;

/// A record to be written.
#[derive(Debug)]
pub struct Outgoing<'a> {
    /// The topic's full name.
    pub topic: &'a str,
    /// The partition, when it is not the key's.
    pub partition: Option<i32>,
    /// The key.
    pub key: &'a [u8],
    /// The value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// The headers.
    pub headers: Vec<(&'a str, Vec<u8>)>,
}

/// A record to be written as it once was: keys and values of headers may be null, headers may
/// repeat, and the partition is given.
#[derive(Debug)]
pub struct Verbatim<'a> {
    /// The topic's full name.
    pub topic: &'a str,
    /// The partition.
    pub partition: i32,
    /// The key.
    pub key: Option<&'a [u8]>,
    /// The value.
    pub value: Option<&'a [u8]>,
    /// The headers.
    pub headers: &'a [(String, Option<Vec<u8>>)],
}

/// Why a record was not written.
#[derive(Debug, thiserror::Error)]
pub enum ProduceError {
    /// The broker refuses records of this size for the topic.
    #[error("the record is larger than the topic takes (max.message.bytes)")]
    TooLarge,
    /// The topic does not exist.
    #[error("the topic does not exist")]
    TopicMissing,
    /// It was not acknowledged; trying again may help.
    #[error("{0}")]
    NotAcknowledged(String),
}

/// A producer whose records are acknowledged by all in-sync replicas.
#[derive(Clone)]
pub struct Producer {
    inner: Arc<Polled<Acknowledged>>,
}

impl Producer {
    /// A producer. Its errors and its state show in the metrics.
    pub fn new(connection: &Connection, metrics: ClientMetrics) -> Result<Self, KafkaError> {
        Self::with_timeout(connection, metrics, DELIVERY_TIMEOUT)
    }

    /// A producer that gives a record up when it is not acknowledged in this time.
    pub fn with_timeout(
        connection: &Connection,
        metrics: ClientMetrics,
        timeout: Duration,
    ) -> Result<Self, KafkaError> {
        let config = connection.client(&[
            ("enable.idempotence", "true"),
            ("acks", "all"),
            // The partitioner of the Java clients, so that every language's records of a
            // project meet in one partition.
            ("partitioner", "murmur2_random"),
            ("linger.ms", "5"),
            ("statistics.interval.ms", statistics::INTERVAL_MS),
            ("compression.type", "lz4"),
            ("message.timeout.ms", &timeout.as_millis().to_string()),
            ("message.max.bytes", &super::MAX_RECORD_BYTES.to_string()),
            ("queue.buffering.max.kbytes", QUEUE_KBYTES),
        ]);
        Self::of(connection, &config, metrics)
    }

    /// A producer whose records of a partition become durable in order and without a gap, or not
    /// at all: a failure is final.
    pub fn gapless(connection: &Connection, metrics: ClientMetrics) -> Result<Self, KafkaError> {
        let config = connection.client(&[
            ("enable.idempotence", "true"),
            ("enable.gapless.guarantee", "true"),
            // A record that timed out would be a gap that the guarantee does not cover.
            ("message.timeout.ms", "0"),
            ("acks", "all"),
            ("partitioner", "murmur2_random"),
            // Somebody waits for each of these.
            ("linger.ms", "1"),
            ("statistics.interval.ms", statistics::INTERVAL_MS),
            ("compression.type", "lz4"),
            ("message.max.bytes", &super::MAX_RECORD_BYTES.to_string()),
        ]);
        Self::of(connection, &config, metrics)
    }

    fn of(
        connection: &Connection,
        config: &ClientConfig,
        metrics: ClientMetrics,
    ) -> Result<Self, KafkaError> {
        let context = Context::new(connection, metrics);
        let inner = Polled::start(config, Acknowledged(context.clone()))?;
        context.bootstrap.attach(inner.client().native_ptr());
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Writes a record and waits until it is durable; returns its partition and offset.
    pub async fn send(&self, record: &Outgoing<'_>) -> Result<(i32, i64), ProduceError> {
        self.write(|tell| {
            let mut next = BaseRecord::with_opaque_to(record.topic, tell).key(record.key);
            next.payload = record.value;
            next.partition = record.partition;
            next.headers(headers(&record.headers))
        })
        .await
    }

    /// Writes a record as it is given and waits until it is durable; returns its partition and
    /// offset.
    pub async fn send_verbatim(&self, record: &Verbatim<'_>) -> Result<(i32, i64), ProduceError> {
        self.write(|tell| {
            let mut next =
                BaseRecord::with_opaque_to(record.topic, tell).partition(record.partition);
            (next.key, next.payload) = (record.key, record.value);
            let headers = OwnedHeaders::new_with_capacity(record.headers.len());
            next.headers(record.headers.iter().fold(headers, |headers, (key, value)| {
                headers.insert(Header { key, value: value.as_deref() })
            }))
        })
        .await
    }

    /// Writes a record when the client library has room for it, and waits for its acknowledgement.
    async fn write<'a>(
        &self,
        record: impl Fn(Box<Tell>) -> BaseRecord<'a, [u8], [u8], Box<Tell>>,
    ) -> Result<(i32, i64), ProduceError> {
        loop {
            let (tell, answer) = oneshot::channel();
            match self.inner.send(record(Box::new(tell))) {
                Ok(()) => {
                    return match answer.await {
                        Ok(Ok(written)) => Ok(written),
                        Ok(Err(error)) => Err(refused(&error)),
                        Err(_) => Err(ProduceError::NotAcknowledged("producer closed".to_owned())),
                    };
                }
                Err((error, _)) if is_full(&error) => {
                    tokio::time::sleep(FULL_QUEUE_WAIT).await;
                }
                Err((error, _)) => return Err(refused(&error)),
            }
        }
    }

    /// Waits until everything is written, at most so long.
    pub async fn flush(&self, timeout: Duration) {
        let inner = Arc::clone(&self.inner);
        let _ = tokio::task::spawn_blocking(move || inner.flush(timeout)).await;
    }

    /// How many partitions a topic has.
    pub async fn partitions(&self, topic: &str) -> Result<i32, String> {
        let (inner, topic) = (Arc::clone(&self.inner), topic.to_owned());
        let counted = tokio::task::spawn_blocking(move || {
            let metadata = inner.client().fetch_metadata(Some(&topic), super::REQUEST_TIMEOUT)?;
            Ok::<_, ClientError>(metadata.topics().first().map_or(0, |t| t.partitions().len()))
        });
        match counted.await {
            Ok(Ok(count)) => Ok(i32::try_from(count).unwrap_or(i32::MAX)),
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(telemetry::early_end(&error)),
        }
    }
}

fn refused(error: &ClientError) -> ProduceError {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessageSize) => {
            ProduceError::TooLarge
        }
        Some(RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicOrPartition) => {
            ProduceError::TopicMissing
        }
        _ => ProduceError::NotAcknowledged(error.to_string()),
    }
}

fn is_full(error: &ClientError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull)
}

fn headers(pairs: &[(&str, Vec<u8>)]) -> OwnedHeaders {
    pairs.iter().fold(OwnedHeaders::new_with_capacity(pairs.len()), |headers, (key, value)| {
        headers.insert(Header { key, value: Some(value) })
    })
}

/// Writes attempt records without waiting; what does not fit is dropped and counted.
pub struct AttemptLog {
    inner: Polled<Context>,
    topic: String,
    dropped: prometheus::IntCounter,
}

impl AttemptLog {
    /// A log into this topic.
    pub fn new(
        connection: &Connection,
        topic: String,
        metrics: ClientMetrics,
        dropped: prometheus::IntCounter,
    ) -> Result<Self, KafkaError> {
        let config = connection.client(&[
            ("enable.idempotence", "true"),
            ("acks", "all"),
            ("partitioner", "murmur2_random"),
            // Nobody waits for these: large batches are cheap batches, and only failures matter.
            ("linger.ms", "100"),
            ("statistics.interval.ms", statistics::INTERVAL_MS),
            ("delivery.report.only.error", "true"),
            ("compression.type", "lz4"),
            ("message.timeout.ms", DELIVERY_TIMEOUT_MS),
            ("queue.buffering.max.kbytes", QUEUE_KBYTES),
            ("queue.buffering.max.messages", "200000"),
        ]);
        let context = Context::new(connection, metrics);
        let inner = Polled::start(&config, context.clone())?;
        context.bootstrap.attach(inner.client().native_ptr());
        Ok(Self { inner, topic, dropped })
    }

    /// Hands a record over.
    pub fn write(&self, key: &str, value: &[u8]) {
        let record = BaseRecord::to(&self.topic).key(key).payload(value);
        if self.inner.send(record).is_err() {
            self.dropped.inc();
        }
    }

    /// Waits until everything is written, at most so long.
    pub async fn flush(self: Arc<Self>, timeout: Duration) {
        let _ = tokio::task::spawn_blocking(move || self.inner.flush(timeout)).await;
    }
}

#[derive(Clone)]
struct Context {
    metrics: ClientMetrics,
    bootstrap: Arc<Bootstrap>,
}

impl Context {
    fn new(connection: &Connection, metrics: ClientMetrics) -> Self {
        Self { metrics, bootstrap: Arc::new(Bootstrap::new(connection)) }
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        if let Some(statistics) = Statistics::parse(statistics) {
            statistics.show(&self.metrics);
            self.bootstrap.mend(&statistics);
        }
    }

    fn error(&self, error: ClientError, reason: &str) {
        let name = error
            .rdkafka_error_code()
            .map_or_else(|| "unknown".to_owned(), |code| format!("{code:?}"));
        self.metrics.error(&name);
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            tracing::error!(%error, reason, "the Kafka producer cannot go on; restart it");
        } else {
            tracing::warn!(%error, reason, "Kafka producer");
        }
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, message)) = result {
            let name = error
                .rdkafka_error_code()
                .map_or_else(|| "unknown".to_owned(), |code| format!("{code:?}"));
            self.metrics.error(&name);
            tracing::warn!(%error, topic = message.topic(), "record not written");
        }
    }
}

/// The same for a producer that tells each sender what became of the record: its partition and
/// offset.
struct Acknowledged(Context);

impl ClientContext for Acknowledged {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.0.log(level, facility, message);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        self.0.stats_raw(statistics);
    }

    fn error(&self, error: ClientError, reason: &str) {
        self.0.error(error, reason);
    }
}

impl ProducerContext for Acknowledged {
    type DeliveryOpaque = Box<Tell>;

    fn delivery(&self, result: &DeliveryResult<'_>, tell: Self::DeliveryOpaque) {
        let written = match result {
            Ok(message) => Ok((message.partition(), message.offset())),
            Err((error, _)) => Err(error.clone()),
        };
        // A sender that has gone does not want to know.
        let _ = tell.send(written);
    }
}

/// The client library's own log lines.
pub(super) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(target: "librdkafka", facility, "{message}");
        }
        // The library calls a property experimental that the registrar needs.
        _ if facility == "CONFWARN" => tracing::debug!(target: "librdkafka", "{message}"),
        // Lost connections are logged as errors by the library, which mends them by itself.
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => {
            tracing::warn!(target: "librdkafka", facility, "{message}");
        }
        _ => tracing::debug!(target: "librdkafka", facility, "{message}"),
    }
}
