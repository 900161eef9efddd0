//! Which topic a name stands for: the ids of topics, as the brokers tell them.
//!
//! librdkafka has a function for it and rdkafka 0.39 has none, so this is unsafe code in one
//! function.

use std::{
    collections::BTreeMap,
    ffi::{CStr, CString},
    ptr,
    time::Duration,
};

use rdkafka::{
    bindings as sys,
    consumer::{BaseConsumer, Consumer},
    error::RDKafkaErrorCode,
    types::RDKafka,
};

use super::{Connection, KafkaError, reader::Quiet};
use crate::id::TopicId;

/// What the brokers say of a topic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TopicFacts {
    /// Its id; `None` from a broker without topic ids.
    pub id: Option<TopicId>,
    /// How many partitions it has.
    pub partitions: i32,
}

/// Asks for topic ids with a client of its own.
pub struct Identities {
    connection: Connection,
    client: BaseConsumer<Quiet>,
}

impl Identities {
    /// Connects at the first request.
    pub fn new(connection: &Connection) -> Result<Self, KafkaError> {
        let client = connection
            .client(&[])
            .create_with_context(Quiet::new(connection))
            .map_err(|e| KafkaError::settings(&e))?;
        Ok(Self { connection: connection.clone(), client })
    }

    /// The topics of these names that exist and may be described; waits for the answer.
    pub fn of(
        &self,
        topics: &[&str],
        timeout: Duration,
    ) -> Result<BTreeMap<String, TopicFacts>, KafkaError> {
        describe(self.client.client().native_ptr(), topics, timeout).map_err(|code| {
            let error = rdkafka::error::KafkaError::AdminOp(code);
            KafkaError::request(&self.connection, &error)
        })
    }
}

/// The same with a client that is there already. It may be called on the thread that polls the client,
/// from its callbacks too: the answer comes by a queue of its own.
pub(super) fn describe(
    client: *mut RDKafka,
    topics: &[&str],
    timeout: Duration,
) -> Result<BTreeMap<String, TopicFacts>, RDKafkaErrorCode> {
    // No topic has a null byte in its name.
    let names: Vec<CString> = topics.iter().filter_map(|name| CString::new(*name).ok()).collect();
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut pointers: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
    let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    let mut found = BTreeMap::new();
    #[expect(unsafe_code, reason = "rdkafka 0.39 has no safe way to it")]
    // SAFETY: `client` is a live handle of the caller, and every call is allowed on any thread. Names and
    // pointers outlive the call that copies them. What is made here (queue, collection, options, event)
    // is destroyed here, once, after the last use of what points into it.
    unsafe {
        let queue = sys::rd_kafka_queue_new(client);
        let collection =
            sys::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
        let operation = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
        let options = sys::rd_kafka_AdminOptions_new(client, operation);
        sys::rd_kafka_AdminOptions_set_request_timeout(options, timeout_ms, ptr::null_mut(), 0);
        sys::rd_kafka_DescribeTopics(client, collection, options, queue);
        sys::rd_kafka_AdminOptions_destroy(options);
        sys::rd_kafka_TopicCollection_destroy(collection);
        // The request ends by itself in time; the rest is for the way through the queue.
        let event = sys::rd_kafka_queue_poll(queue, timeout_ms.saturating_add(1000));
        sys::rd_kafka_queue_destroy(queue);
        if event.is_null() {
            return Err(RDKafkaErrorCode::OperationTimedOut);
        }
        let code = RDKafkaErrorCode::from(sys::rd_kafka_event_error(event));
        let result = sys::rd_kafka_event_DescribeTopics_result(event);
        if code != RDKafkaErrorCode::NoError || result.is_null() {
            sys::rd_kafka_event_destroy(event);
            return Err(code);
        }
        let mut count = 0;
        let descriptions = sys::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        for index in 0..count {
            let description = *descriptions.add(index);
            let error = sys::rd_kafka_TopicDescription_error(description);
            if sys::rd_kafka_error_code(error) != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
            {
                continue;
            }
            let name = CStr::from_ptr(sys::rd_kafka_TopicDescription_name(description));
            let mut partitions = 0;
            sys::rd_kafka_TopicDescription_partitions(description, &raw mut partitions);
            let id = sys::rd_kafka_TopicDescription_topic_id(description);
            let id = if id.is_null() {
                None
            } else {
                TopicId::from_halves(
                    sys::rd_kafka_Uuid_most_significant_bits(id).cast_unsigned(),
                    sys::rd_kafka_Uuid_least_significant_bits(id).cast_unsigned(),
                )
            };
            let partitions = i32::try_from(partitions).unwrap_or(i32::MAX);
            found.insert(name.to_string_lossy().into_owned(), TopicFacts { id, partitions });
        }
        sys::rd_kafka_event_destroy(event);
    }
    Ok(found)
}
