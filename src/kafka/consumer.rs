//! A record as the rest of the program sees it: copied out of the client library's buffers,
//! because a borrowed message pins its whole fetch response.

use std::{
    ffi::CStr,
    ptr, slice,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rdkafka::{
    bindings as sys,
    message::{BorrowedMessage, Message},
};

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

    /// When this program read it.
    pub fn read_at(&self) -> Instant {
        self.read_at
    }

    /// Bytes in memory, about.
    pub fn size(&self) -> usize {
        let value = self.value.as_ref().map_or(0, Bytes::len);
        let headers: usize = self.headers.iter().map(|(k, v)| k.len() + v.len() + 48).sum();
        value + headers + self.key.as_ref().map_or(0, Bytes::len) + 128
    }
}

/// A message's headers, copied. A name that is not UTF-8 is kept with the replacement character in
/// its place; a value that is null is empty.
pub fn headers_of(message: &BorrowedMessage<'_>) -> Vec<(String, Bytes)> {
    let mut headers = Vec::new();
    each_header(message, |name, value| {
        let value = value.map(Bytes::copy_from_slice).unwrap_or_default();
        headers.push((String::from_utf8_lossy(name).into_owned(), value));
    });
    headers
}

/// The value of a message's first header of this name.
pub(super) fn header_of<'a>(message: &'a BorrowedMessage<'_>, wanted: &str) -> Option<&'a [u8]> {
    let mut found = None;
    each_header(message, |name, value| {
        if found.is_none() && name == wanted.as_bytes() {
            found = Some(value);
        }
    });
    found?
}

/// Whether a message has any headers.
pub(super) fn has_headers(message: &BorrowedMessage<'_>) -> bool {
    let mut any = false;
    each_header(message, |_, _| any = true);
    any
}

/// Hands each header's name and value over as they are in the record. rdkafka 0.39 panics on a name
/// that is not UTF-8, and any producer may write one; so no header is read by its functions.
fn each_header<'a>(
    message: &'a BorrowedMessage<'_>,
    mut each: impl FnMut(&'a [u8], Option<&'a [u8]>),
) {
    let mut headers = ptr::null_mut();
    #[expect(unsafe_code, reason = "rdkafka 0.39 has no way to headers that cannot panic")]
    // SAFETY: the message is live for 'a, and librdkafka parses its headers into memory that belongs
    // to the message. Names end with a null byte; values have the length that is given with them.
    unsafe {
        let error = sys::rd_kafka_message_headers(message.ptr(), &raw mut headers);
        if error != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return;
        }
        for index in 0..sys::rd_kafka_header_cnt(headers) {
            let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
            let error = sys::rd_kafka_header_get_all(
                headers,
                index,
                &raw mut name,
                &raw mut value,
                &raw mut size,
            );
            if error != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                return;
            }
            let value = (!value.is_null()).then(|| slice::from_raw_parts(value.cast::<u8>(), size));
            each(CStr::from_ptr(name).to_bytes(), value);
        }
    }
}
