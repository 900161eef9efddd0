//! A schema that somebody else registered, a zero byte, and a value of it: whatever both are, the
//! value is refused, or it is JSON.

#![no_main]

use dunmore_connectors::codec::{RecordKind, decode::MAX_JSON_BYTES, plan::Plan, schemas::Schemas};
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;

fuzz_target!(|data: &[u8]| {
    let Some(end) = data.iter().position(|byte| *byte == 0) else { return };
    let (schema, value) = (&data[..end], &data[end + 1..]);
    let Ok(schema) = std::str::from_utf8(schema) else { return };
    let Ok(schema) = Schemas::of_writer(schema, &[]) else { return };
    for kind in [RecordKind::Event, RecordKind::Command] {
        if let Ok(plan) = Plan::new(&schema, kind.schema())
            && let Ok(json) = plan.to_json(value)
        {
            assert!(serde_json::from_slice::<&RawValue>(&json).is_ok());
            assert!(json.len() <= 2 * MAX_JSON_BYTES);
        }
    }
});
