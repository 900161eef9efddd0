//! A Kafka client for tests that knows nothing of the program under test.

#![allow(dead_code, reason = "every test binary uses another part of this")]

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, ClientContext, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, AlterConfig, NewPartitions, ResourceSpecifier},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    message::{Header, Headers, Message, OwnedHeaders},
    producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer},
};
use serde_json::Value;

use super::wait_until;

const PATIENCE: Duration = Duration::from_secs(30);

/// A record that was read.
#[derive(Clone, Debug)]
pub(crate) struct Read {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    /// Milliseconds since 1970.
    pub(crate) timestamp: i64,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: BTreeMap<String, String>,
}

impl Read {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(self.value.as_deref().unwrap_or_default()).unwrap_or_default()
    }

    pub(crate) fn key_text(&self) -> String {
        String::from_utf8_lossy(&self.key).into_owned()
    }

    /// A header's text; empty when there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// A record to be written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Write {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, String)>,
    /// The key's own when it is not set.
    pub(crate) partition: Option<i32>,
}

impl Write {
    pub(crate) fn new(key: &str, value: impl Into<Vec<u8>>) -> Self {
        Self { key: key.into(), value: Some(value.into()), ..Self::default() }
    }
}

/// What a group has committed for a partition.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Committed {
    pub(crate) partition: i32,
    /// `None` when nothing was committed.
    pub(crate) offset: Option<i64>,
    pub(crate) metadata: String,
    pub(crate) end: i64,
}

/// A client of one broker.
#[derive(Clone, Debug)]
pub(crate) struct Kafka {
    pub(crate) bootstrap: String,
}

#[derive(Default)]
struct Counting {
    written: AtomicUsize,
}

impl ClientContext for Counting {}

impl ProducerContext for Counting {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if result.is_ok() {
            self.written.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Writes without waiting.
pub(crate) struct Stream {
    producer: ThreadedProducer<Counting>,
    topic: String,
}

impl Stream {
    pub(crate) fn send(&self, value: &Value) {
        let (key, value) = (value["projectId"].as_str().unwrap(), value.to_string());
        let record = BaseRecord::to(&self.topic).key(key).payload(&value);
        self.producer.send(record).map_err(|(error, _)| error).unwrap();
    }

    /// Waits until so many are durable.
    pub(crate) fn finish(&self, count: usize) {
        self.producer.flush(PATIENCE).unwrap();
        assert_eq!(self.producer.context().written.load(Ordering::Relaxed), count);
    }
}

impl Kafka {
    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap);
        config
    }

    fn consumer(&self, group: &str) -> BaseConsumer {
        self.client()
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("fetch.wait.max.ms", "50")
            .set("fetch.message.max.bytes", "8000000")
            .create()
            .unwrap()
    }

    /// Writes the records in their order, and returns when all are durable.
    pub(crate) fn write(&self, topic: &str, records: impl IntoIterator<Item = Write>) {
        let producer = self.producer();
        let mut count = 0;
        for record in records {
            let mut next = BaseRecord::to(topic).key(&record.key);
            next.payload = record.value.as_deref();
            next.partition = record.partition;
            if !record.headers.is_empty() {
                let headers = record.headers.iter().fold(OwnedHeaders::new(), |all, (k, v)| {
                    all.insert(Header { key: k, value: Some(v) })
                });
                next = next.headers(headers);
            }
            producer.send(next).map_err(|(error, _)| error).unwrap();
            count += 1;
        }
        producer.flush(PATIENCE).unwrap();
        assert_eq!(producer.context().written.load(Ordering::Relaxed), count, "to {topic}");
    }

    /// Something that writes JSON values, keyed by `projectId`, as they come.
    pub(crate) fn stream(&self, topic: &str) -> Stream {
        Stream { producer: self.producer(), topic: topic.to_owned() }
    }

    fn producer(&self) -> ThreadedProducer<Counting> {
        self.client()
            .set("partitioner", "murmur2_random")
            .set("enable.idempotence", "true")
            .set("message.max.bytes", "8000000")
            .set("queue.buffering.max.messages", "1000000")
            .set("linger.ms", "2")
            // A topic's limit is one of compressed batches; an event of the largest size needs it.
            .set("compression.type", "lz4")
            .create_with_context(Counting::default())
            .unwrap()
    }

    /// Writes JSON values, each keyed by its `projectId`.
    pub(crate) fn write_json<'a>(&self, topic: &str, values: impl IntoIterator<Item = &'a Value>) {
        let records = values.into_iter().map(|value| {
            Write::new(value["projectId"].as_str().unwrap_or_default(), value.to_string())
        });
        self.write(topic, records);
    }

    /// Removes a topic with all its records.
    pub(crate) fn delete_topic(&self, topic: &str) {
        let (admin, options) = self.admin();
        let deleted = block_on(admin.delete_topics(&[topic], &options)).unwrap();
        assert_eq!(deleted, [Ok(topic.to_owned())]);
        wait_until("the topic is gone", PATIENCE, || {
            !self.topics().iter().any(|name| name == topic)
        });
    }

    /// Gives a topic more partitions.
    pub(crate) fn grow_topic(&self, topic: &str, partitions: usize) {
        let (admin, options) = self.admin();
        let grown = NewPartitions::new(topic, partitions);
        let grown = block_on(admin.create_partitions(&[grown], &options)).unwrap();
        assert_eq!(grown, [Ok(topic.to_owned())]);
        wait_until("the topic has its partitions", PATIENCE, || {
            usize::try_from(self.partitions(topic)).unwrap() == partitions
        });
    }

    /// Lets a topic take only records of so many bytes. Its other settings become the broker's.
    pub(crate) fn limit_topic(&self, topic: &str, bytes: usize) {
        let (admin, options) = self.admin();
        let (topic, bytes) = (ResourceSpecifier::Topic(topic), bytes.to_string());
        let limit = AlterConfig::new(topic).set("max.message.bytes", &bytes);
        let altered = block_on(admin.alter_configs(&[limit], &options)).unwrap();
        assert!(altered[0].is_ok(), "{altered:?}");
    }

    /// Removes a partition's records before an offset, as retention does.
    pub(crate) fn delete_records_before(&self, topic: &str, partition: i32, offset: i64) {
        let (admin, options) = self.admin();
        let mut before = TopicPartitionList::new();
        before.add_partition_offset(topic, partition, Offset::Offset(offset)).unwrap();
        block_on(admin.delete_records(&before, &options)).unwrap();
    }

    fn admin(&self) -> (AdminClient<DefaultClientContext>, AdminOptions) {
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
        (self.client().create().unwrap(), options.request_timeout(Some(PATIENCE)))
    }

    pub(crate) fn partitions(&self, topic: &str) -> i32 {
        let metadata = self.consumer("none").fetch_metadata(Some(topic), PATIENCE).unwrap();
        i32::try_from(metadata.topics()[0].partitions().len()).unwrap()
    }

    /// Names of all topics.
    pub(crate) fn topics(&self) -> Vec<String> {
        let metadata = self.consumer("none").fetch_metadata(None, PATIENCE).unwrap();
        metadata.topics().iter().map(|topic| topic.name().to_owned()).collect()
    }

    /// Everything that is in a topic now, partition by partition.
    pub(crate) fn read(&self, topic: &str) -> Vec<Read> {
        let consumer = self.consumer("none");
        let mut list = TopicPartitionList::new();
        let mut ends = BTreeMap::new();
        for partition in 0..self.partitions(topic) {
            let (low, high) = consumer.fetch_watermarks(topic, partition, PATIENCE).unwrap();
            if low < high {
                list.add_partition_offset(topic, partition, Offset::Offset(low)).unwrap();
                ends.insert(partition, high);
            }
        }
        consumer.assign(&list).unwrap();
        let mut found = Vec::new();
        let mut deadline = Instant::now() + PATIENCE;
        while !ends.is_empty() {
            assert!(Instant::now() < deadline, "{topic} cannot be read to its end");
            if let Some(message) = consumer.poll(Duration::from_millis(50)) {
                let message = message.unwrap();
                deadline = Instant::now() + PATIENCE;
                let end = ends.get(&message.partition()).copied().unwrap_or_default();
                // A record written after the ends were asked for tells that they were reached.
                if message.offset() < end {
                    found.push(copy(&message));
                }
                if message.offset() + 1 < end {
                    continue;
                }
            }
            // Markers and compacted records are skipped, so the last offset may never be seen.
            let position = consumer.position().unwrap();
            ends.retain(|partition, end| {
                let at = position.find_partition(topic, *partition).map(|at| at.offset());
                !matches!(at, Some(Offset::Offset(at)) if at >= *end)
            });
        }
        found.sort_by_key(|record| (record.partition, record.offset));
        found
    }

    /// What a group has committed for each partition of a topic.
    pub(crate) fn committed(&self, group: &str, topic: &str) -> Vec<Committed> {
        let consumer = self.consumer(group);
        let mut list = TopicPartitionList::new();
        for partition in 0..self.partitions(topic) {
            list.add_partition(topic, partition);
        }
        let found = consumer.committed_offsets(list, PATIENCE).unwrap();
        let elements = found.elements();
        elements
            .iter()
            .map(|element| Committed {
                partition: element.partition(),
                offset: element.offset().to_raw().filter(|offset| *offset >= 0),
                metadata: element.metadata().to_owned(),
                end: consumer.fetch_watermarks(topic, element.partition(), PATIENCE).unwrap().1,
            })
            .collect()
    }

    /// Whether a group has committed everything that is in a topic, with nothing left over.
    pub(crate) fn is_committed_to_the_end(&self, group: &str, topic: &str) -> bool {
        self.committed(group, topic).iter().all(|partition| {
            partition.end == 0
                || (partition.offset == Some(partition.end) && partition.metadata.is_empty())
        })
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn copy(message: &impl Message) -> Read {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let headers = message.headers().into_iter().flat_map(Headers::iter);
    Read {
        partition: message.partition(),
        offset: message.offset(),
        timestamp: message.timestamp().to_millis().unwrap_or_default(),
        key: message.key().unwrap_or_default().to_vec(),
        value: message.payload().map(<[u8]>::to_vec),
        headers: headers
            .map(|header| (header.key.to_owned(), header.value.map(text).unwrap_or_default()))
            .collect(),
    }
}
