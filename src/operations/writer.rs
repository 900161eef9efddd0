//! Writes deliveries to the replay topic: at a rate, many under way at once, and never ahead of
//! what the broker has acknowledged when progress is kept.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};

use super::Operations;
use crate::{
    codec::Codec,
    delivery::DeliveryRecord,
    kafka::{
        Connection, KafkaError, Outgoing, ProduceError, Producer, TopicKind, Verbatim,
        WRITE_TIMEOUT,
    },
    metrics::{KafkaClient, Metrics},
};

/// Records under way to the broker at once.
const MAX_UNACKNOWLEDGED: usize = 2000;
/// What a writer may catch up on after a pause.
const MAX_BURST: Duration = Duration::from_millis(100);

impl Operations {
    /// A writer of so many deliveries a second.
    pub(super) fn writer(&self, rate: f64) -> anyhow::Result<Writer> {
        let topic = self.topic(TopicKind::Replay);
        Writer::new(&self.connection, topic, self.codec.clone(), rate)
    }
}

type Written = Result<(i32, i64), ProduceError>;

/// Writes to the replay topic.
pub(super) struct Writer {
    producer: Producer,
    topic: String,
    codec: Codec,
    interval: Duration,
    next_at: Instant,
    waiting: FuturesUnordered<futures_util::future::BoxFuture<'static, Written>>,
    /// By partition of the replay topic: the offset after the last acknowledged record.
    pub written: BTreeMap<i32, i64>,
}

impl Writer {
    fn new(
        connection: &Connection,
        topic: String,
        codec: Codec,
        rate: f64,
    ) -> anyhow::Result<Self> {
        let metrics = Metrics::new().map_err(|e| KafkaError::Other(e.to_string()))?;
        Ok(Self {
            // What is not written in time is not written at all: a process that stood still must
            // not go on where another has taken over.
            producer: Producer::with_timeout(
                connection,
                metrics.kafka_client(KafkaClient::Tool),
                WRITE_TIMEOUT,
            )?,
            topic,
            codec,
            interval: Duration::from_secs_f64(1.0 / rate.max(1.0)),
            next_at: Instant::now(),
            waiting: FuturesUnordered::new(),
            written: BTreeMap::new(),
        })
    }

    /// Waits until the next delivery's time has come and there is room for it.
    pub async fn turn(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        let earliest = now.checked_sub(MAX_BURST).unwrap_or(now);
        self.next_at = self.next_at.max(earliest) + self.interval;
        if let Some(wait) = self.next_at.checked_duration_since(now)
            && wait >= Duration::from_millis(1)
        {
            tokio::time::sleep(wait).await;
        }
        while self.waiting.len() >= MAX_UNACKNOWLEDGED {
            self.settle_one().await?;
        }
        Ok(())
    }

    /// Hands a delivery over at once, after its [`Self::turn`].
    pub fn hand_over(
        &mut self,
        delivery: &DeliveryRecord,
        headers: Vec<(String, Vec<u8>)>,
    ) -> anyhow::Result<()> {
        let (producer, topic) = (self.producer.clone(), self.topic.clone());
        let key = delivery.connector.project.clone();
        let value = self.codec.encode(TopicKind::Replay, delivery.to_json());
        self.waiting.push(Box::pin(async move {
            let headers =
                headers.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
            let record = Outgoing {
                topic: &topic,
                partition: None,
                key: key.as_str().as_bytes(),
                value: Some(&value),
                headers,
            };
            producer.send(&record).await
        }));
        // Nothing is on its way before it is polled; what has arrived is taken note of by the way.
        while let Some(Some(written)) = self.waiting.next().now_or_never() {
            self.take_note(written)?;
        }
        Ok(())
    }

    fn take_note(&mut self, written: Written) -> anyhow::Result<()> {
        let (partition, offset) = written.context("a delivery was not written to replay")?;
        let next = self.written.entry(partition).or_default();
        *next = (*next).max(offset + 1);
        Ok(())
    }

    async fn settle_one(&mut self) -> anyhow::Result<()> {
        match self.waiting.next().await {
            Some(written) => self.take_note(written),
            None => Ok(()),
        }
    }

    /// Waits until everything that was handed over is durable.
    pub async fn settle(&mut self) -> anyhow::Result<()> {
        while !self.waiting.is_empty() {
            self.settle_one().await?;
        }
        Ok(())
    }

    /// Writes another record beside the replay topic, and waits until it is durable.
    pub async fn note(&mut self, record: &Outgoing<'_>) -> anyhow::Result<()> {
        self.producer.send(record).await.context("a note was not written")?;
        Ok(())
    }

    /// Writes a record as it is given, and waits until it is durable.
    pub async fn verbatim(&mut self, record: &Verbatim<'_>) -> anyhow::Result<(i32, i64)> {
        self.producer.send_verbatim(record).await.context("the record was not written")
    }
}
