//! A CloudEvent of either mode. Lines of `name: value` are the record's headers; behind an empty
//! line stands its value. What is accepted is a JSON object, and both modes agree on it.

#![no_main]

use std::collections::HashMap;

use bytes::Bytes;
use dunmore_connectors::{
    clock::Timestamp,
    codec::{
        cloudevents::{CloudEvent, Mode, is_traceparent, mode, traceparent},
        form::{Form, form},
    },
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
    if let Some(trace) = traceparent(&headers, value) {
        assert!(is_traceparent(&trace));
    }
    match form(&headers, value) {
        Form::Bare { start } | Form::Framed { start, .. } => assert!(start <= value.len()),
        Form::Other(words) => assert!(words.len() < 512),
    }
    let read = match mode(&headers) {
        Some(Mode::Binary) => CloudEvent::binary(&headers, value),
        Some(Mode::Structured) | None => CloudEvent::structured(value),
    };
    let Ok(cloud) = read else { return };
    let bytes = cloud.bytes().map(|(_, bytes)| bytes.clone()).unwrap_or_default();
    let Ok(payment) = cloud.payment(&bytes, at) else { return };
    let fields: HashMap<String, Box<RawValue>> = serde_json::from_slice(&payment).expect("JSON");
    let Ok(event) = Event::from_json(payment.clone().into()) else { return };
    let field = |name: &str| fields[name].get();
    // The same, told in the other way; data keeps its bytes.
    let again = format!(
        r#"{{"specversion":"1.0","id":{},"source":"/fuzz","type":{},"time":{},"projectid":{},"data":{}}}"#,
        field("id"),
        field("type"),
        field("occurredAt"),
        field("projectId"),
        field("data"),
    );
    let again = CloudEvent::structured(again.as_bytes()).expect("what was read");
    let again = again.payment(b"", at).expect("what was read");
    assert_eq!(Event::from_json(again.into()), Ok(event));
});
