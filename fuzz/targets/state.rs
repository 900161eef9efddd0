//! A state record: its key on the first line, its value behind it. What is read is written and read the
//! same, and shows no secret.

#![no_main]

use dunmore_connectors::connector::{Change, StateKey};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (key, value) = data.split_at(end);
    let Ok(Ok(key)) = std::str::from_utf8(key).map(StateKey::parse) else { return };
    let value = value.strip_prefix(b"\n");
    let Ok(change) = key.read(value) else { return };
    assert_eq!(change.state_key(), key);
    assert_eq!(key.read(change.to_value().as_deref()).expect("what was written"), change);
    if let Change::ConnectorSet(connector) = &change {
        assert!(!connector.to_public_json().to_string().contains("$sealed\":{"));
    }
});
