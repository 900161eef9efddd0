//! A record as the rest of the program sees it: copied out of the client library's buffers,
//! because a borrowed message pins its whole fetch response.

use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::message::{BorrowedMessage, Headers, Message};

use crate::clock::Timestamp;

/// A Kafka record.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its timestamp: when it was produced, or appended, as the topic is configured.
    pub timestamp: Timestamp,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Its headers.
    pub headers: Vec<(String, Bytes)>,
    read_at: Instant,
}

impl Record {
    pub(super) fn copy(message: &BorrowedMessage<'_>, read_at: Instant) -> Self {
        Self {
            partition: message.partition(),
            offset: message.offset(),
            timestamp: Timestamp::from_millis(message.timestamp().to_millis().unwrap_or_default()),
            key: message.key().map(Bytes::copy_from_slice),
            value: message.payload().map(Bytes::copy_from_slice),
            headers: headers_of(message),
            read_at,
        }
    }

    /// A record that was not read but is about to be written, to be looked at like one.
    pub fn unwritten(value: Bytes, headers: Vec<(String, Bytes)>) -> Self {
        Self {
            partition: -1,
            offset: -1,
            timestamp: crate::clock::now(),
            key: None,
            value: Some(value),
            headers,
            read_at: Instant::now(),
        }
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&Bytes> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// A header's value as text.
    pub fn header_text(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.header(name)?).ok()
    }

    /// How long ago this program read it.
    pub fn age(&self) -> Duration {
        self.read_at.elapsed()
    }

    /// Bytes in memory, about.
    pub fn size(&self) -> usize {
        let value = self.value.as_ref().map_or(0, Bytes::len);
        let headers: usize = self.headers.iter().map(|(k, v)| k.len() + v.len() + 48).sum();
        value + headers + self.key.as_ref().map_or(0, Bytes::len) + 128
    }
}

/// A message's headers, copied.
pub fn headers_of(message: &impl Message) -> Vec<(String, Bytes)> {
    let Some(headers) = message.headers() else { return Vec::new() };
    headers
        .iter()
        .map(|header| {
            let value = header.value.map(Bytes::copy_from_slice).unwrap_or_default();
            (header.key.to_owned(), value)
        })
        .collect()
}

/// A header's value.
pub fn header_of<'a>(message: &'a impl Message, name: &str) -> Option<&'a [u8]> {
    message.headers()?.iter().find(|header| header.key == name)?.value
}

/// Whether a message has any headers.
pub fn has_headers(message: &impl Message) -> bool {
    message.headers().is_some_and(|headers| headers.count() > 0)
}

/// A message's headers, copied, with those that have no value told from those with an empty one.
pub fn nullable_headers_of(message: &impl Message) -> Vec<(String, Option<Bytes>)> {
    let Some(headers) = message.headers() else { return Vec::new() };
    let copy = |value: &[u8]| Bytes::copy_from_slice(value);
    headers.iter().map(|header| (header.key.to_owned(), header.value.map(copy))).collect()
}
