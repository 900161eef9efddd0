//! Avro in and out, by our own schemas: the first byte says which one, and whether the rest is Avro
//! or JSON. What is read as Avro is JSON; what is written as Avro reads as the same JSON again.

#![no_main]

use std::sync::LazyLock;

use dunmore_connectors::codec::{
    RecordKind, decode::MAX_JSON_BYTES, encode::from_json, plan::Plan,
};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, value::RawValue};

static PLANS: LazyLock<Vec<Plan>> = LazyLock::new(|| {
    let plan = |kind: &RecordKind| Plan::new(kind.schema(), kind.schema()).expect("our own schema");
    RecordKind::ALL.iter().map(plan).collect()
});

/// By what both mean: the order of fields is the schema's, and a field that is null is left out.
fn meaning(json: &[u8]) -> Value {
    fn without_nulls(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                fields.retain(|_, value| !value.is_null());
                fields.values_mut().for_each(without_nulls);
            }
            Value::Array(items) => items.iter_mut().for_each(without_nulls),
            _ => {}
        }
    }
    let mut value = serde_json::from_slice(json).expect("JSON");
    without_nulls(&mut value);
    value
}

fuzz_target!(|data: &[u8]| {
    let Some((choice, rest)) = data.split_first() else { return };
    let number = usize::from(choice / 2) % RecordKind::ALL.len();
    let (kind, plan) = (RecordKind::ALL[number], &PLANS[number]);
    if choice % 2 == 0 {
        if let Ok(json) = plan.to_json(rest) {
            assert!(serde_json::from_slice::<&RawValue>(&json).is_ok());
            assert!(json.len() <= 2 * MAX_JSON_BYTES);
        }
    } else if let Ok(avro) = from_json(kind, rest, Vec::new()) {
        let json = plan.to_json(&avro).expect("what was written");
        // Numbers beyond a double's precision have no meaning to compare.
        let again = from_json(kind, &json, Vec::new()).expect("what was read");
        assert_eq!(plan.to_json(&again).as_deref(), Ok(&json[..]));
        if serde_json::from_slice::<Value>(rest).is_ok() {
            let (read, given) = (meaning(&json), meaning(rest));
            assert_eq!(read.get("id"), given.get("id"));
            assert_eq!(read.get("type"), given.get("type"));
        }
    }
});
