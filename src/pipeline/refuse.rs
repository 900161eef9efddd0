//! Records that cannot be worked on: they become dead letters as they are, or go back to their tier.

use std::sync::Arc;

use super::{
    dispatch::Dispatcher,
    park::{MAX_DETAIL_CHARS, Written, error_headers, header, write_until_durable},
};
use crate::{
    clock::Timestamp,
    delivery::{Reason, Source},
    destination::cut,
    kafka::{Partition, Record},
};

/// What a refused record's own headers may take in its dead letter, in bytes; the rest is left out.
/// The limit of a topic counts headers too, and the value is worth more.
const MAX_CARRIED_HEADER_BYTES: usize = 64 << 10;

/// Why a record is refused.
#[derive(Clone, Debug)]
pub struct Refused {
    pub reason: Reason,
    pub detail: String,
}

/// The headers of the dead letter of a record: where it came from and why, then its own as far as
/// there is room.
pub fn record_headers(
    reason: Reason,
    detail: &str,
    topic: &str,
    record: &Record,
) -> Vec<(String, Vec<u8>)> {
    let found = error_headers(reason, detail, topic, record.partition, record.offset, 0);
    let mut headers: Vec<(String, Vec<u8>)> =
        found.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let (mut bytes, mut omitted) = (0, 0_usize);
    for (key, value) in record.headers.iter().filter(|(key, _)| !key.starts_with("dunmore-")) {
        bytes += key.len() + value.len();
        if bytes <= MAX_CARRIED_HEADER_BYTES {
            headers.push((key.clone(), value.to_vec()));
        } else {
            omitted += 1;
        }
    }
    if omitted > 0 {
        headers.push((header::HEADERS_OMITTED.to_owned(), omitted.to_string().into_bytes()));
    }
    headers
}

/// A record that cannot be understood goes to the dead letters as it is. It waits for its share of
/// the memory, then goes on by itself.
pub async fn refuse(
    dispatcher: &Arc<Dispatcher>,
    partition: &Arc<Partition>,
    source: Source,
    record: Record,
    refused: Refused,
) {
    let memory = dispatcher.budgets.event(source, record.size()).await;
    if !partition.enter() {
        return;
    }
    let (writer, partition) = (Arc::clone(dispatcher), Arc::clone(partition));
    dispatcher.spawn("writing the dead letter of a record", async move {
        let _memory = memory;
        let written = write_refused(&writer, &partition, &record, &refused).await;
        if written == Written::Durable {
            partition.complete(record.offset);
        }
        partition.leave();
    });
}

/// Writes a record to the dead letters as it is, without what does not fit.
pub async fn write_refused(
    dispatcher: &Arc<Dispatcher>,
    partition: &Partition,
    record: &Record,
    refused: &Refused,
) -> Written {
    let Refused { reason, detail } = refused;
    tracing::warn!(
        topic = %partition.topic(), partition = record.partition, offset = record.offset,
        %reason, detail = cut(detail, MAX_DETAIL_CHARS),
        "record refused; it is in the dead letters"
    );
    let topic = &dispatcher.dead_topic;
    let mut owned = record_headers(*reason, detail, partition.topic(), record);
    let value = record.value.as_deref().unwrap_or_default();
    let key = record.key.as_deref().unwrap_or_default();
    let mut written = write_owned(dispatcher, partition, topic, (key, value), &owned).await;
    if written == Written::TooLarge {
        let omitted = (header::VALUE_OMITTED.to_owned(), value.len().to_string().into_bytes());
        owned.push(omitted);
        written = write_owned(dispatcher, partition, topic, (key, b""), &owned).await;
    }
    if written == Written::TooLarge {
        // Nothing but where it stands: an own header or the key may be large as well.
        owned.retain(|(key, _)| key.starts_with("dunmore-"));
        written = write_owned(dispatcher, partition, topic, (b"", b""), &owned).await;
    }
    written
}

async fn write_owned(
    dispatcher: &Arc<Dispatcher>,
    partition: &Partition,
    topic: &str,
    (key, value): (&[u8], &[u8]),
    headers: &[(String, Vec<u8>)],
) -> Written {
    let headers = headers.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
    write_until_durable(dispatcher, partition, topic, key, value, headers).await
}

/// When a record was put back into its tier for the first time: now, if it never was.
pub fn deferred_since(record: &Record) -> Timestamp {
    let since = record.header_text(header::DEFERRED_SINCE).and_then(|text| text.parse().ok());
    since.map_or(record.timestamp, Timestamp::from_millis)
}

/// Writes a record to the end of the longest tier as it is, and completes it when that is durable.
pub fn put_back(dispatcher: &Arc<Dispatcher>, partition: &Arc<Partition>, record: &Record) {
    if !partition.enter() {
        return;
    }
    dispatcher.metrics().newer_record_deferred();
    let (writer, partition, record) =
        (Arc::clone(dispatcher), Arc::clone(partition), record.clone());
    dispatcher.spawn("putting a record of a newer release back", async move {
        let tier = writer.retry_topics.len() - 1;
        let since = deferred_since(&record).millis().to_string().into_bytes();
        let mut headers = vec![(header::DEFERRED_SINCE.to_owned(), since)];
        let own = record.headers.iter().filter(|(key, _)| key != header::DEFERRED_SINCE);
        headers.extend(own.map(|(key, value)| (key.clone(), value.to_vec())));
        let value = record.value.as_deref().unwrap_or_default();
        let key = record.key.as_deref().unwrap_or_default();
        let topic = &writer.retry_topics[tier];
        let written = write_owned(&writer, &partition, topic, (key, value), &headers).await;
        if written == Written::Durable {
            partition.complete(record.offset);
        }
        partition.leave();
        match written {
            Written::Durable | Written::GivenUp => {}
            Written::TooLarge => {
                let detail = "a newer release wrote it, and its tier takes no record of this size";
                let refused = Refused { reason: Reason::RecordTooLarge, detail: detail.to_owned() };
                refuse(&writer, &partition, Source::Retry, record, refused).await;
            }
        }
    });
}
