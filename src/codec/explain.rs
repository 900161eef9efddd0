//! What is wrong with a payment event, for its producer: every field at once, in the schema's
//! words.

use apache_avro::schema::{RecordField, RecordSchema, Schema};
use serde_json::{Map, Value};

use super::schemas::{Look, RecordKind, attribute, look};
use crate::event::{Event, EventType};

/// Names that differ by at most so many letters are taken for misspellings.
const MAX_TYPOS: usize = 2;

/// What is wrong with an event's JSON text; nothing when it is an event.
#[must_use]
pub fn problems(json: &[u8]) -> Vec<String> {
    let Err(error) = Event::from_json(json.to_vec().into()) else { return Vec::new() };
    let mut found = Vec::new();
    if let Ok(Value::Object(event)) = serde_json::from_slice(json)
        && let Schema::Record(record) = &RecordKind::Event.schema().root
    {
        let kind = event.get("type").and_then(Value::as_str).unwrap_or_default();
        check(record, &event, "", &mut found);
        match (kind.parse::<EventType>(), event.get("data")) {
            (Ok(kind), Some(Value::Object(data))) => {
                if let Some(record) = data_record(record, kind) {
                    check(record, data, "data.", &mut found);
                }
            }
            (Err(()), _) if !kind.is_empty() => found.push(unknown_type(kind)),
            (_, Some(Value::Object(_)) | None) => {}
            (_, Some(other)) => found.push(format!("data must be an object, not {}", name(other))),
        }
    }
    // What only the reader sees: the form of an id, an amount, a time.
    if found.is_empty() {
        found.push(error.to_string());
    }
    found
}

/// Fields that no schema knows and that look like misspellings of one that is absent. They are
/// passed on, so this is no error.
#[must_use]
pub fn suspicions(json: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    if let Ok(Value::Object(event)) = serde_json::from_slice(json)
        && let Schema::Record(record) = &RecordKind::Event.schema().root
        && let Some(Ok(kind)) = event.get("type").and_then(Value::as_str).map(str::parse)
        && let Some(Value::Object(data)) = event.get("data")
        && let Some(record) = data_record(record, kind)
    {
        for unknown in data.keys().filter(|name| !knows(record, name)) {
            let absent = record.fields.iter().filter(|field| !data.contains_key(&field.name));
            let near = |field: &&RecordField| {
                strsim::damerau_levenshtein(unknown, &field.name) <= MAX_TYPOS
            };
            if let Some(field) = absent.into_iter().find(near) {
                found.push(format!("data.{unknown} is unknown; did you mean {}?", field.name));
            }
        }
    }
    found
}

fn data_record(event: &'static RecordSchema, kind: EventType) -> Option<&'static RecordSchema> {
    let data = event.fields.iter().find(|field| field.name == "data")?;
    let Schema::Union(union) = &data.schema else { return None };
    union.variants().iter().find_map(|variant| match variant {
        Schema::Record(record)
            if attribute(&record.attributes, "eventType") == Some(kind.as_str()) =>
        {
            Some(record)
        }
        _ => None,
    })
}

fn knows(record: &RecordSchema, name: &str) -> bool {
    record.fields.iter().any(|field| field.name == name)
}

fn check(record: &RecordSchema, object: &Map<String, Value>, path: &str, found: &mut Vec<String>) {
    for field in &record.fields {
        if matches!(look(field), Look::RestOf(_)) || (path.is_empty() && field.name == "data") {
            if field.name == "data" && !object.contains_key("data") {
                found.push("data is missing: the fields that go with the type".to_owned());
            }
            continue;
        }
        let doc = field.doc.as_deref().unwrap_or_default();
        let doc = doc.split(". ").next().unwrap_or_default().trim_end_matches('.');
        let full = format!("{path}{}", field.name);
        match object.get(&field.name) {
            None if is_optional(&field.schema) => {}
            None => match misspelt(record, object, &field.name) {
                Some(given) => found.push(format!("{full} is missing; is {path}{given} meant?")),
                None => found.push(format!("{full} is missing: {doc}")),
            },
            Some(value) if fits(&field.schema, value) => {}
            Some(value) => {
                let (wanted, given) = (wanted(&field.schema), name(value));
                found.push(format!("{full} must be {wanted}, not {given}: {doc}"));
            }
        }
    }
}

fn misspelt<'a>(
    record: &RecordSchema,
    object: &'a Map<String, Value>,
    name: &str,
) -> Option<&'a str> {
    let unknown = object.keys().filter(|given| !knows(record, given));
    let near = |given: &&String| strsim::damerau_levenshtein(given, name) <= MAX_TYPOS;
    unknown.into_iter().find(near).map(String::as_str)
}

fn unknown_type(kind: &str) -> String {
    let all = EventType::ALL.iter().map(|known| known.as_str());
    let known = all.clone().collect::<Vec<_>>().join(", ");
    let near = all.min_by_key(|known| strsim::damerau_levenshtein(known, kind)).unwrap_or_default();
    format!("type {kind:?} is unknown, did you mean {near:?}? The types are {known}")
}

fn is_optional(schema: &Schema) -> bool {
    matches!(schema, Schema::Union(union) if union.variants().contains(&Schema::Null))
}

fn fits(schema: &Schema, value: &Value) -> bool {
    match schema {
        Schema::Union(union) => union.variants().iter().any(|variant| fits(variant, value)),
        Schema::Null => value.is_null(),
        Schema::String | Schema::TimestampMillis => value.is_string(),
        Schema::Int | Schema::Long => value.is_i64() || value.is_u64(),
        _ => true,
    }
}

fn wanted(schema: &Schema) -> String {
    match schema {
        Schema::Union(union) => {
            let all = union.variants().iter().filter(|variant| **variant != Schema::Null);
            all.map(wanted).collect::<Vec<_>>().join(" or ")
        }
        Schema::TimestampMillis => "a time such as \"2026-11-23T08:00:00.000Z\"".to_owned(),
        Schema::Int | Schema::Long => "a whole number".to_owned(),
        _ => "a text".to_owned(),
    }
}

fn name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::event::sample;

    #[test]
    fn every_wrong_field_is_told_at_once() {
        for &kind in EventType::ALL {
            assert_eq!(problems(sample(kind).as_bytes()), Vec::<String>::new());
        }
        let mut event: Value = serde_json::from_str(sample(EventType::PaymentSettled)).unwrap();
        event["occurredAt"] = json!(1_795_420_800_000_u64);
        event["data"]["amount"] = json!(1.25);
        let data = event["data"].as_object_mut().unwrap();
        data.remove("txHash");
        let given = data.remove("currency").unwrap();
        data.insert("curency".to_owned(), given);
        insta::assert_snapshot!(problems(event.to_string().as_bytes()).join("\n"), @r#"
        occurredAt must be a time such as "2026-11-23T08:00:00.000Z", not a number: When it happened, by the producer's clock
        data.amount must be a text, not a number: How much: a decimal text such as 1.250000: exact, with the digits that its sender wrote
        data.currency is missing; is data.curency meant?
        data.txHash is missing: The settling transaction on the network
        "#);
        let problem = |json: &str| problems(json.as_bytes()).join("; ");
        assert!(
            problem(r#"{"type":"payment.setled"}"#).contains("did you mean \"payment.settled\"")
        );
        assert!(problem("{").contains("no JSON object"));
        let spaced = sample(EventType::PaymentSettled).replace("evt_sample_2", "evt 2");
        assert!(problem(&spaced).contains("id: must consist of"));
    }

    #[test]
    fn a_misspelt_optional_field_is_suspicious() {
        let event = sample(EventType::PaymentFailed).replace("customerId", "custmerId");
        assert_eq!(problems(event.as_bytes()), Vec::<String>::new());
        assert_eq!(
            suspicions(event.as_bytes()),
            ["data.custmerId is unknown; did you mean customerId?"]
        );
    }
}
