//! A CloudEvent of either mode. Lines of `name: value` are the record's headers; behind an empty
//! line stands its value. What is accepted is a JSON object, and both modes agree on it.

#![no_main]

use std::collections::HashMap;

use bytes::Bytes;
use dunmore_connectors::{
    clock::Timestamp,
    codec::cloudevents::{Mode, binary, mode, structured, traceparent},
    event::Event,
};
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;

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
    let at = Timestamp::from_millis(1_795_420_800_123);
    let _ = traceparent(&headers);
    let read = match mode(&headers) {
        Some(Mode::Binary) => binary(&headers, value, at),
        Some(Mode::Structured) | None => structured(value, at),
    };
    let Ok(payment) = read else { return };
    let fields: HashMap<String, Box<RawValue>> = serde_json::from_slice(&payment).expect("JSON");
    let field = |name: &str| fields[name].get();
    for text in ["id", "type", "projectId", "occurredAt"] {
        assert!(field(text).starts_with('"'), "{text}");
    }
    // The same, told in the other way; data keeps its bytes.
    let again = format!(
        r#"{{"specversion":"1.0","id":{},"source":"/fuzz","type":{},"time":{},"projectid":{},"data":{}}}"#,
        field("id"),
        field("type"),
        field("occurredAt"),
        field("projectId"),
        field("data"),
    );
    let again = structured(again.as_bytes(), at).expect("what was read");
    assert_eq!(again, payment);
    let _ = Event::from_json(payment.into());
});
