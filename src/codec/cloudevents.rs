//! `CloudEvents` 1.0 as the envelope of a payment event, by its Kafka protocol binding.
//!
//! Structured mode: the header `content-type` begins with `application/cloudevents`, and the value
//! is the whole event as JSON. Binary mode: the headers `ce_…` hold the attributes, and the value
//! is the `data`. Which attribute becomes which field of a payment event stands in
//! `docs/EVENTS.md`.

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{clock::Timestamp, event::EventType};

/// The version of the specification that is read.
const VERSION: &str = "1.0";

/// How a record carries a `CloudEvent`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// The value is the whole event.
    Structured,
    /// The value is the event's data, the headers are the rest.
    Binary,
}

/// Headers of a record.
pub type Headers = [(String, Bytes)];

/// Whether a record carries a `CloudEvent`, and how.
#[must_use]
pub fn mode(headers: &Headers) -> Option<Mode> {
    if headers.is_empty() {
        return None;
    }
    let content = content_type(headers).unwrap_or_default();
    if content.to_ascii_lowercase().starts_with("application/cloudevents") {
        Some(Mode::Structured)
    } else if header(headers, "ce_specversion").is_some() {
        Some(Mode::Binary)
    } else {
        None
    }
}

/// The trace that a `CloudEvent` belongs to (its extension for distributed tracing).
#[must_use]
pub fn traceparent(headers: &Headers) -> Option<&str> {
    header(headers, "ce_traceparent")
}

fn header<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    let (_, value) = headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
    std::str::from_utf8(value).ok()
}

fn content_type(headers: &Headers) -> Option<&str> {
    header(headers, "content-type")
}

/// The attributes that a payment event needs.
#[derive(Deserialize, Default)]
struct Attributes<'a> {
    #[serde(borrow, default)]
    specversion: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    time: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    subject: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    projectid: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Data<'a> {
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    data_base64: Option<Cow<'a, str>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Payment<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    project_id: &'a str,
    occurred_at: Cow<'a, str>,
    data: &'a RawValue,
}

/// The payment event in the JSON of a structured `CloudEvent`. `at` stands in for a `time` that it
/// lacks.
pub fn structured(json: &[u8], at: Timestamp) -> Result<Vec<u8>, String> {
    let wrong = |error: serde_json::Error| format!("the value is no CloudEvent in JSON: {error}");
    let attributes: Attributes<'_> = serde_json::from_slice(json).map_err(wrong)?;
    let Data { data, data_base64 } = serde_json::from_slice(json).map_err(wrong)?;
    match (data, data_base64) {
        (Some(data), _) => attributes.payment(data, at),
        (None, Some(encoded)) => {
            let bytes = BASE64
                .decode(encoded.as_bytes())
                .map_err(|_| "the CloudEvent's data_base64 is no base64".to_owned())?;
            attributes.payment(json_data(&bytes)?, at)
        }
        (None, None) => Err("the CloudEvent has no data".to_owned()),
    }
}

/// The payment event in the headers and value of a binary `CloudEvent`; the value is JSON by now.
pub fn binary(headers: &Headers, json: &[u8], at: Timestamp) -> Result<Vec<u8>, String> {
    let get = |name: &str| header(headers, name).map(Cow::Borrowed);
    let attributes = Attributes {
        specversion: get("ce_specversion"),
        id: get("ce_id"),
        kind: get("ce_type"),
        time: get("ce_time"),
        subject: get("ce_subject"),
        projectid: get("ce_projectid"),
    };
    attributes.payment(json_data(json)?, at)
}

fn json_data(bytes: &[u8]) -> Result<&RawValue, String> {
    serde_json::from_slice(bytes)
        .map_err(|error| format!("the CloudEvent's data is no JSON: {error}"))
}

impl Attributes<'_> {
    fn payment(&self, data: &RawValue, at: Timestamp) -> Result<Vec<u8>, String> {
        match self.specversion.as_deref() {
            Some(VERSION) => {}
            Some(other) => {
                return Err(format!(
                    "the CloudEvent's specversion is {other:?}; {VERSION} is read"
                ));
            }
            None => return Err("the CloudEvent has no specversion".to_owned()),
        }
        let need = |attribute: &'_ Option<Cow<'_, str>>, name: &str| {
            attribute.as_deref().map(str::to_owned).ok_or(format!("the CloudEvent has no {name}"))
        };
        let kind = need(&self.kind, "type")?;
        let project = self.projectid.as_deref().or(self.subject.as_deref());
        let project = project.ok_or(
            "the CloudEvent names no project: set the extension projectid, or the subject",
        )?;
        let payment = Payment {
            id: &need(&self.id, "id")?,
            kind: plain_type(&kind),
            project_id: project,
            occurred_at: match self.time.as_deref() {
                Some(time) => Cow::Borrowed(time),
                None => Cow::Owned(at.to_string()),
            },
            data,
        };
        serde_json::to_vec(&payment).map_err(|error| error.to_string())
    }
}

/// The event type without a producer's prefix: `com.example.payment.settled` is
/// `payment.settled`.
fn plain_type(kind: &str) -> &str {
    let known = EventType::ALL.iter().map(|known| known.as_str());
    let prefixed = |known: &&str| kind.strip_suffix(known).is_some_and(|rest| rest.ends_with('.'));
    known.into_iter().find(prefixed).unwrap_or(kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, sample};

    fn parts(kind: EventType) -> (serde_json::Value, String) {
        let event: serde_json::Value = serde_json::from_str(sample(kind)).unwrap();
        let data = event["data"].to_string();
        (event, data)
    }

    fn text(value: &serde_json::Value) -> &str {
        value.as_str().unwrap()
    }

    const AT: Timestamp = Timestamp::from_millis(1_795_420_800_123);

    #[test]
    fn both_modes_give_the_event_as_its_producer_would_write_it() {
        for &kind in EventType::ALL {
            let (event, data) = parts(kind);
            let json = format!(
                r#"{{"specversion":"1.0","id":"{}","source":"/payments","type":"com.example.{kind}",
                    "time":"{}","projectid":"proj_1","datacontenttype":"application/json","data":{data}}}"#,
                text(&event["id"]),
                text(&event["occurredAt"]),
            );
            let read = structured(json.as_bytes(), AT).unwrap();
            assert_eq!(String::from_utf8(read).unwrap(), sample(kind));

            let headers: Vec<(String, Bytes)> = [
                ("content-type", "application/json"),
                ("ce_specversion", "1.0"),
                ("ce_id", text(&event["id"])),
                ("ce_source", "/payments"),
                ("ce_type", kind.as_str()),
                ("ce_time", text(&event["occurredAt"])),
                ("ce_subject", "proj_1"),
            ]
            .map(|(key, value)| (key.to_owned(), Bytes::copy_from_slice(value.as_bytes())))
            .into();
            assert_eq!(mode(&headers), Some(Mode::Binary));
            let read = binary(&headers, data.as_bytes(), AT).unwrap();
            assert_eq!(String::from_utf8(read).unwrap(), sample(kind));
        }
    }

    #[test]
    fn a_record_is_told_by_its_headers() {
        let headers = |key: &str, value: &'static str| vec![(key.to_owned(), Bytes::from(value))];
        let content = |value| mode(&headers("Content-Type", value));
        assert_eq!(content("application/cloudevents+json; charset=utf-8"), Some(Mode::Structured));
        assert_eq!(content("application/json"), None);
        assert_eq!(mode(&[]), None);
        assert_eq!(mode(&headers("traceparent", "00-…")), None);
    }

    #[test]
    fn data_may_be_base64_and_time_may_be_absent() {
        let (event, data) = parts(EventType::PaymentSettled);
        let encoded = BASE64.encode(data);
        let json = format!(
            r#"{{"specversion":"1.0","id":"evt_1","source":"s","type":"payment.settled","subject":"proj_1","data_base64":"{encoded}"}}"#
        );
        let read = structured(json.as_bytes(), AT).unwrap();
        let read = Event::from_json(read.into()).unwrap();
        assert_eq!(read.occurred_at, AT);
        let read: serde_json::Value = serde_json::from_slice(&read.json).unwrap();
        assert_eq!(read["data"], event["data"]);
    }

    #[test]
    fn what_is_missing_is_named() {
        let whole =
            r#"{"specversion":"1.0","id":"e","source":"s","type":"t","subject":"p","data":{}}"#;
        assert!(structured(whole.as_bytes(), AT).is_ok());
        for (left_out, said) in [
            (r#""specversion":"1.0","#, "no specversion"),
            (r#""id":"e","#, "no id"),
            (r#""type":"t","#, "no type"),
            (r#","subject":"p""#, "names no project"),
            (r#","data":{}"#, "no data"),
        ] {
            let error = structured(whole.replace(left_out, "").as_bytes(), AT).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
        let other = whole.replace("1.0", "0.3");
        assert!(structured(other.as_bytes(), AT).unwrap_err().contains("\"0.3\""));
        assert!(structured(b"[]", AT).is_err());
        assert!(binary(&[], b"no json", AT).unwrap_err().contains("no JSON"));
    }
}
