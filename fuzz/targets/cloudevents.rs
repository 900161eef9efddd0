//! A CloudEvent of either mode. Lines of `name: value` are the record's headers; behind an empty
//! line stands its value. What is accepted is a JSON object, and both modes agree on it.

#![no_main]

use bytes::Bytes;
use dunmore_connectors::{
    clock::Timestamp,
    codec::cloudevents::{Mode, binary, mode, structured, traceparent},
    event::Event,
};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

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
    let fields: Value = serde_json::from_slice(&payment).expect("JSON");
    assert!(fields["id"].is_string() && fields["type"].is_string());
    assert!(fields["projectId"].is_string() && fields["occurredAt"].is_string());
    let _ = Event::from_json(payment.into());
    // The same, told in the other way.
    let again = json!({
        "specversion": "1.0",
        "id": fields["id"],
        "source": "/fuzz",
        "type": fields["type"],
        "time": fields["occurredAt"],
        "projectid": fields["projectId"],
        "data": fields["data"],
    });
    let again = structured(again.to_string().as_bytes(), at).expect("what was read");
    assert_eq!(serde_json::from_slice::<Value>(&again).expect("JSON"), fields);
});
