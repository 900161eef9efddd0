//! Records as no client of a high level would write them: any bytes as header names, nulls, producers
//! of transactions, and groups as the broker sees them.

#![allow(dead_code, reason = "every test binary uses another part of this")]

use std::{
    ffi::CString,
    ptr,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, ClientContext, bindings as sys,
    consumer::{BaseConsumer, Consumer},
    producer::{BaseProducer, BaseRecord, Producer},
    types::RDKafka,
};

use super::kafka::Kafka;

const PATIENCE: Duration = Duration::from_secs(30);

/// A record of any bytes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Foreign {
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    /// Names and values; a value may be null.
    pub(crate) headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    pub(crate) partition: i32,
}

/// Writes records through librdkafka's own interface.
pub(crate) fn write_foreign(kafka: &Kafka, topic: &str, records: &[Foreign]) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &kafka.bootstrap)
        .set("message.max.bytes", "8000000")
        .set("compression.type", "zstd")
        .create()
        .unwrap();
    let client = producer.client().native_ptr();
    for record in records {
        while !produce(client, topic, record) {
            producer.poll(Duration::from_millis(50));
        }
        producer.poll(Duration::ZERO);
    }
    producer.flush(PATIENCE).unwrap();
}

/// False when the client's queue is full.
#[expect(unsafe_code, reason = "rdkafka takes header names as text only")]
fn produce(client: *mut RDKafka, topic: &str, record: &Foreign) -> bool {
    use sys::rd_kafka_vtype_t as Vtype;
    let name = CString::new(topic).unwrap();
    let part = |bytes: &Option<Vec<u8>>| {
        bytes.as_ref().map_or((ptr::null(), 0), |bytes| (bytes.as_ptr(), bytes.len()))
    };
    let ((key, key_length), (value, value_length)) = (part(&record.key), part(&record.value));
    // SAFETY: the client lives; librdkafka copies key and value, and takes the headers over unless it
    // refuses the record.
    unsafe {
        let headers = sys::rd_kafka_headers_new(record.headers.len());
        for (name, value) in &record.headers {
            let (value, length) = part(value);
            sys::rd_kafka_header_add(
                headers,
                name.as_ptr().cast(),
                isize::try_from(name.len()).unwrap(),
                value.cast(),
                isize::try_from(length).unwrap(),
            );
        }
        let error = sys::rd_kafka_producev(
            client,
            Vtype::RD_KAFKA_VTYPE_TOPIC,
            name.as_ptr(),
            Vtype::RD_KAFKA_VTYPE_PARTITION,
            record.partition,
            Vtype::RD_KAFKA_VTYPE_MSGFLAGS,
            sys::RD_KAFKA_MSG_F_COPY,
            Vtype::RD_KAFKA_VTYPE_VALUE,
            value,
            value_length,
            Vtype::RD_KAFKA_VTYPE_KEY,
            key,
            key_length,
            Vtype::RD_KAFKA_VTYPE_HEADERS,
            headers,
            Vtype::RD_KAFKA_VTYPE_END,
        );
        if error == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return true;
        }
        sys::rd_kafka_headers_destroy(headers);
        let full = sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__QUEUE_FULL;
        assert_eq!(error, full, "{topic}: {record:?}");
        false
    }
}

/// A producer of transactions.
pub(crate) struct Transactional {
    producer: BaseProducer,
    topic: String,
}

impl Transactional {
    pub(crate) fn new(kafka: &Kafka, id: &str, topic: &str) -> Self {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", &kafka.bootstrap)
            .set("transactional.id", id)
            .set("partitioner", "murmur2_random")
            .create()
            .unwrap();
        producer.init_transactions(PATIENCE).unwrap();
        Self { producer, topic: topic.to_owned() }
    }

    /// Begins a transaction with these JSON values, keyed by `projectId`.
    pub(crate) fn begin(&self, values: &[serde_json::Value]) {
        self.producer.begin_transaction().unwrap();
        for value in values {
            let key = value["projectId"].as_str().unwrap();
            let text = value.to_string();
            self.producer
                .send(BaseRecord::to(&self.topic).key(key).payload(&text))
                .map_err(|(error, _)| error)
                .unwrap();
        }
        self.producer.flush(PATIENCE).unwrap();
    }

    pub(crate) fn commit(&self) {
        self.producer.commit_transaction(PATIENCE).unwrap();
    }

    pub(crate) fn abort(&self) {
        self.producer.abort_transaction(PATIENCE).unwrap();
    }
}

struct Silent;

impl ClientContext for Silent {}

impl rdkafka::consumer::ConsumerContext for Silent {}

/// A group as the broker describes it: its state and its members' client ids.
pub(crate) fn members(kafka: &Kafka, group: &str) -> usize {
    let client: BaseConsumer<Silent> = ClientConfig::new()
        .set("bootstrap.servers", &kafka.bootstrap)
        .create_with_context(Silent)
        .unwrap();
    let until = Instant::now() + PATIENCE;
    loop {
        match client.fetch_group_list(Some(group), PATIENCE) {
            Ok(list) => {
                return list
                    .groups()
                    .iter()
                    .find(|found| found.name() == group)
                    .map_or(0, |found| found.members().len());
            }
            Err(error) => assert!(Instant::now() < until, "{group}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
