//! A record of any topic, as the readers of all topics get it. Lines of `name: value` are its headers;
//! behind an empty line stands its value. Whatever it is: no reader panics, and what a refusal says of
//! it is bounded.

#![no_main]

use std::{
    future::Future as _,
    pin::pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use dunmore_connectors::{
    codec::{Codec, ReadError, cloudevents},
    connector::{Command, StateKey},
    delivery::DeliveryRecord,
    kafka::Record,
};
use libfuzzer_sys::fuzz_target;

/// More than any bound on a refusal's words, with escapes.
const MAX_DETAIL_BYTES: usize = 16 * 1024;

fuzz_target!(|data: &[u8]| {
    let end = data.windows(2).position(|two| two == b"\n\n");
    let (head, value) = end.map_or((&data[..0], data), |end| (&data[..end], &data[end + 2..]));
    let line = |line: &[u8]| {
        let colon = line.windows(2).position(|two| two == b": ")?;
        let name = String::from_utf8_lossy(&line[..colon]).into_owned();
        Some((name, Bytes::copy_from_slice(&line[colon + 2..])))
    };
    let headers: Vec<(String, Bytes)> =
        head.split(|byte| *byte == b'\n').filter_map(line).collect();
    let record = Record::unwritten(Bytes::copy_from_slice(value), headers);
    let _ = (record.header_text("traceparent"), record.size(), record.age());
    let _ = cloudevents::traceparent(&record.headers, value);
    let codec = Codec::json();
    let reading = pin!(codec.event(&record, || true));
    // Without a registry nothing is waited for.
    let Poll::Ready(read) = reading.poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("it waits");
    };
    if let Err(ReadError::Refused(_, detail)) = read {
        assert!(detail.len() <= MAX_DETAIL_BYTES, "{}", detail.len());
    }
    let _ = Command::read(value);
    if let Err(error) = DeliveryRecord::from_json(value) {
        assert!(error.to_string().len() <= MAX_DETAIL_BYTES);
    }
    let text = String::from_utf8_lossy(head);
    if let Ok(key) = StateKey::parse(text.trim()) {
        let _ = key.read(Some(value));
    }
});
