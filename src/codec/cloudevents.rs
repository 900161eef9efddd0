//! `CloudEvents` 1.0 as the envelope of a payment event, by its Kafka protocol binding.
//!
//! Structured mode: the header `content-type` begins with `application/cloudevents`, and the value
//! is the whole event as JSON. Binary mode: the headers `ce_…` hold the attributes, and the value
//! is the `data`. Which attribute becomes which field of a payment event stands in
//! `docs/EVENTS.md`.

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use serde_json::value::RawValue;

use crate::{
    clock::Timestamp,
    event::{Event, EventError, EventType, Problem, Problems},
    json::{self, Pairs, Text},
};

/// The version of the specification that is read.
const VERSION: &str = "1.0";
/// The attribute that every `CloudEvent` has and no payment event.
const SPECVERSION: &str = "specversion";
/// The longest trace context that is passed on, in bytes. Version 00 has 55 of them.
const MAX_TRACE_BYTES: usize = 128;

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

/// Whether a record's headers say that it carries a `CloudEvent`, and how. Some producers' structured
/// ones have no such header: see [`is_structured`].
#[must_use]
pub fn mode(headers: &Headers) -> Option<Mode> {
    if headers.is_empty() {
        return None;
    }
    let content = content_type(headers).unwrap_or_default();
    if content.to_ascii_lowercase().starts_with("application/cloudevents") {
        Some(Mode::Structured)
    } else if attribute(headers, SPECVERSION).is_some() {
        Some(Mode::Binary)
    } else {
        None
    }
}

/// Whether a JSON text is a structured `CloudEvent`.
#[must_use]
pub fn is_structured(json: &[u8]) -> bool {
    memchr::memmem::find(json, b"\"specversion\"").is_some()
        && serde_json::from_slice(json)
            .is_ok_and(|Pairs(pairs)| pairs.iter().any(|(name, _)| name == SPECVERSION))
}

/// The event type that a binary `CloudEvent` names, if this version knows it.
#[must_use]
pub fn event_type(headers: &Headers) -> Option<EventType> {
    plain_type(attribute(headers, "type")?).parse().ok()
}

/// The trace that a record belongs to: its header `traceparent`, else the extension of that name of
/// the `CloudEvent` in it. What is no `traceparent` by W3C's Trace Context is none.
#[must_use]
pub fn traceparent<'a>(headers: &'a Headers, value: &'a [u8]) -> Option<Cow<'a, str>> {
    let named = header(headers, "traceparent").filter(|text| is_traceparent(text));
    let named = named.or_else(|| attribute(headers, "traceparent"));
    if let Some(text) = named.filter(|text| is_traceparent(text)) {
        return Some(Cow::Borrowed(text));
    }
    let has = |name: &[u8]| memchr::memmem::find(value, name).is_some();
    if !has(b"\"traceparent\"") || !has(b"\"specversion\"") {
        return None;
    }
    let Pairs(pairs) = serde_json::from_slice(value).ok()?;
    let (_, text) = pairs.into_iter().find(|(name, _)| name == "traceparent")?;
    let Text(text) = serde_json::from_str(text.get()).ok()?;
    is_traceparent(&text).then_some(text)
}

/// Whether a text is a `traceparent` by W3C's Trace Context, of version 00 or a later one.
#[must_use]
pub fn is_traceparent(text: &str) -> bool {
    fn hex(part: Option<&str>, length: usize) -> Option<&str> {
        let is_hex = |part: &&str| part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        part.filter(|part| part.len() == length).filter(is_hex)
    }
    let is_some = |part: &str| part.bytes().any(|byte| byte != b'0');
    if text.len() > MAX_TRACE_BYTES {
        return false;
    }
    let mut parts = text.splitn(5, '-');
    let version = hex(parts.next(), 2);
    let trace = hex(parts.next(), 32).filter(|part| is_some(part));
    let parent = hex(parts.next(), 16).filter(|part| is_some(part));
    let flags = hex(parts.next(), 2);
    let rest = parts.next();
    let plain = |rest: &str| rest.bytes().all(|byte| byte.is_ascii_graphic());
    match version {
        Some("ff") | None => false,
        Some("00") if rest.is_some() => false,
        Some(_) => trace.is_some() && parent.is_some() && flags.is_some() && rest.is_none_or(plain),
    }
}

fn header<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    let (_, value) = headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
    std::str::from_utf8(value).ok()
}

/// An attribute of a binary `CloudEvent`: `ce_id`; some clients use HTTP's `ce-id`.
fn attribute<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    let is_it = |key: &str| {
        key.len() == name.len() + 3
            && key.get(..2).is_some_and(|prefix| prefix.eq_ignore_ascii_case("ce"))
            && matches!(key.as_bytes()[2], b'_' | b'-')
            && key.get(3..).is_some_and(|rest| rest.eq_ignore_ascii_case(name))
    };
    let (_, value) = headers.iter().find(|(key, _)| is_it(key))?;
    std::str::from_utf8(value).ok()
}

/// The header `content-type`.
#[must_use]
pub fn content_type(headers: &Headers) -> Option<&str> {
    header(headers, "content-type")
}

/// A `CloudEvent` that was taken apart: the attributes that a payment event needs, as JSON.
#[derive(Debug)]
pub struct CloudEvent<'a> {
    id: Option<Cow<'a, str>>,
    kind: Option<Cow<'a, str>>,
    project: Option<Cow<'a, str>>,
    time: Option<Cow<'a, str>>,
    data: Data<'a>,
}

/// The data of a structured `CloudEvent`.
#[derive(Debug)]
pub enum Data<'a> {
    /// It is JSON in the JSON.
    Json(&'a RawValue),
    /// Bytes, which stand in the JSON as base64: JSON or Avro.
    Bytes(Bytes),
    /// There is none.
    Missing,
}

impl<'a> CloudEvent<'a> {
    /// Takes a structured one apart.
    pub fn structured(value: &'a [u8]) -> Result<Self, String> {
        let Pairs(pairs) = serde_json::from_slice(value).map_err(|error| {
            format!("the value is no CloudEvent in JSON: {}", json::words(value, &error))
        })?;
        let mut twice = None;
        let mut find = |name: &'static str| {
            let mut all = pairs.iter().filter(|(given, _)| given == name);
            let (_, found) = all.next()?;
            if all.next().is_some() {
                twice = Some(name);
            }
            (found.get() != "null").then_some(*found)
        };
        let version = find(SPECVERSION);
        let (id, kind, time) = (find("id"), find("type"), find("time"));
        let (project, subject) = (find("projectid"), find("subject"));
        let (data, encoded) = (find("data"), find("data_base64"));
        if let Some(name) = twice {
            return Err(format!("the CloudEvent has {name} more than once"));
        }
        let version = match version {
            None => None,
            Some(version) => match serde_json::from_str(version.get()) {
                Ok(Text(version)) => Some(version),
                Err(_) => {
                    return Err("the CloudEvent's specversion must be a text".to_owned());
                }
            },
        };
        is_read(version.as_deref())?;
        let data = match (data, encoded.map(|encoded| serde_json::from_str(encoded.get()))) {
            (Some(data), _) => Data::Json(data),
            (None, Some(Ok(Text(encoded)))) => match BASE64.decode(encoded.as_bytes()) {
                Ok(bytes) => Data::Bytes(bytes.into()),
                Err(_) => return Err("the CloudEvent's data_base64 is no base64".to_owned()),
            },
            (None, Some(Err(_))) => {
                return Err("the CloudEvent's data_base64 must be a text".to_owned());
            }
            (None, None) => Data::Missing,
        };
        let plain = |value: Option<&'a RawValue>| value.map(|value| Cow::Borrowed(value.get()));
        let kind = kind.map(|value| match serde_json::from_str(value.get()) {
            Ok(Text(kind)) => quoted(plain_type(&kind)),
            Err(_) => Cow::Borrowed(value.get()),
        });
        Ok(Self {
            id: plain(id),
            kind,
            project: plain(project.or(subject)),
            time: plain(time),
            data,
        })
    }

    /// A binary one, whose value is JSON by now.
    pub fn binary(headers: &'a Headers, value: &'a [u8]) -> Result<Self, String> {
        is_read(attribute(headers, SPECVERSION))?;
        let get = |name: &str| attribute(headers, name);
        Ok(Self {
            id: get("id").map(quoted),
            kind: get("type").map(|kind| quoted(plain_type(kind))),
            project: get("projectid").or(get("subject")).map(quoted),
            time: get("time").map(quoted),
            data: Data::Json(json_data(value)?),
        })
    }

    /// The data that is no JSON in the JSON, and the event type that it belongs to.
    #[must_use]
    pub fn bytes(&self) -> Option<(Option<EventType>, &Bytes)> {
        let Data::Bytes(bytes) = &self.data else { return None };
        let kind = self.kind.as_deref().and_then(|kind| serde_json::from_str(kind).ok());
        Some((kind.and_then(|Text(kind)| kind.parse().ok()), bytes))
    }

    /// The payment event, whose data is this JSON if it is none already. `at` stands in for a `time`
    /// that the `CloudEvent` lacks. What is missing is left out: who reads the event tells it.
    pub fn payment(&self, data: &[u8], at: Timestamp) -> Result<Vec<u8>, String> {
        let data = match self.data {
            Data::Json(data) => Some(data.get()),
            Data::Bytes(_) => Some(json_data(data)?.get()),
            Data::Missing => None,
        };
        let mut payment = Vec::with_capacity(data.map_or(0, str::len) + 256);
        let mut put = |name: &str, value: Option<&str>| {
            let Some(value) = value else { return };
            payment.push(if payment.is_empty() { b'{' } else { b',' });
            for part in ["\"", name, "\":", value] {
                payment.extend_from_slice(part.as_bytes());
            }
        };
        put("id", self.id.as_deref());
        put("type", self.kind.as_deref());
        put("projectId", self.project.as_deref());
        let at = self.time.is_none().then(|| format!("\"{at}\""));
        put("occurredAt", self.time.as_deref().or(at.as_deref()));
        put("data", data);
        payment.push(b'}');
        Ok(payment)
    }
}

fn is_read(version: Option<&str>) -> Result<(), String> {
    match version {
        Some(VERSION) => Ok(()),
        Some(other) => {
            let other = json::name(other);
            Err(format!("the CloudEvent's specversion is {other:?}; {VERSION} is read"))
        }
        None => Err("the CloudEvent has no specversion".to_owned()),
    }
}

fn quoted(text: &str) -> Cow<'static, str> {
    Cow::Owned(serde_json::Value::from(text).to_string())
}

fn json_data(bytes: &[u8]) -> Result<&RawValue, String> {
    serde_json::from_slice(bytes).map_err(|error| {
        format!("the CloudEvent's data is no JSON: {}", json::words(bytes, &error))
    })
}

/// The payment event in a line of text: it stands there itself, or as a structured `CloudEvent` with
/// its data in JSON.
pub fn in_text(json: &Bytes, at: Timestamp) -> Result<Event, Problems> {
    let error = match Event::from_producer(json.clone()) {
        Ok(event) => return Ok(event),
        Err(error) if !is_structured(json) => return Err(error.problems().into_owned()),
        Err(_) => {
            let read = CloudEvent::structured(json).and_then(|cloud| {
                let data = cloud.bytes().map(|(_, bytes)| bytes.clone()).unwrap_or_default();
                cloud.payment(&data, at)
            });
            match read {
                Ok(payment) => Event::from_producer(payment.into()).map_err(in_its_words),
                Err(words) => {
                    let whole = Problem { field: String::new(), words: words.into() };
                    return Err(Problems(vec![whole]));
                }
            }
        }
    };
    error.map_err(|error| error.problems().into_owned())
}

/// What is wrong with the payment event of a `CloudEvent`, by the names that its producer knows.
#[must_use]
pub fn in_its_words(mut error: EventError) -> EventError {
    if let EventError::MissingProject(Problems(problems))
    | EventError::UnknownType(Problems(problems))
    | EventError::Invalid(Problems(problems)) = &mut error
    {
        for problem in problems {
            let name = match problem.field.as_str() {
                "occurredAt" => "time",
                "projectId" if problem.is_missing() => {
                    "projectId (in a CloudEvent the extension projectid, or the subject)"
                }
                "projectId" => "projectid (or the subject, which stands in for it)",
                _ => continue,
            };
            name.clone_into(&mut problem.field);
        }
    }
    error
}

/// The event type without a producer's prefix: `com.example.payment.settled` is
/// `payment.settled`.
fn plain_type(kind: &str) -> &str {
    let known = EventType::PAYMENTS.iter().map(|known| known.as_str());
    let prefixed = |known: &&str| kind.strip_suffix(known).is_some_and(|rest| rest.ends_with('.'));
    known.into_iter().find(prefixed).unwrap_or(kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::sample;

    const AT: Timestamp = Timestamp::from_millis(1_795_420_800_123);
    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn structured(json: &str) -> Result<Event, String> {
        let cloud = CloudEvent::structured(json.as_bytes())?;
        let data = cloud.bytes().map(|(_, bytes)| bytes.clone()).unwrap_or_default();
        let payment = cloud.payment(&data, AT)?;
        Event::from_producer(payment.into()).map_err(|error| in_its_words(error).to_string())
    }

    fn headers(pairs: &[(&str, &str)]) -> Vec<(String, Bytes)> {
        let owned = |(key, value): &(&str, &str)| {
            ((*key).to_owned(), Bytes::copy_from_slice(value.as_bytes()))
        };
        pairs.iter().map(owned).collect()
    }

    #[test]
    fn both_modes_give_the_event_as_its_producer_would_write_it() {
        for &kind in EventType::PAYMENTS {
            let event: serde_json::Value = serde_json::from_str(sample(kind)).unwrap();
            let (id, time) = (event["id"].as_str().unwrap(), event["occurredAt"].as_str().unwrap());
            let data = event["data"].to_string();
            let json = format!(
                r#"{{"specversion":"1.0","id":"{id}","source":"/payments","type":"com.example.{kind}",
                    "time":"{time}","projectid":"proj_1","datacontenttype":"application/json","data":{data}}}"#,
            );
            assert!(is_structured(json.as_bytes()) && !is_structured(sample(kind).as_bytes()));
            assert_eq!(structured(&json).unwrap().json_text(), sample(kind));
            for prefix in ["ce_", "ce-", "CE_"] {
                let name = |name: &str| format!("{prefix}{name}");
                let headers = headers(&[
                    ("content-type", "application/json"),
                    (&name("specversion"), "1.0"),
                    (&name("id"), id),
                    (&name("source"), "/payments"),
                    (&name("type"), kind.as_str()),
                    (&name("time"), time),
                    (&name("subject"), "proj_1"),
                ]);
                assert_eq!(mode(&headers), Some(Mode::Binary));
                assert_eq!(event_type(&headers), Some(kind));
                let cloud = CloudEvent::binary(&headers, data.as_bytes()).unwrap();
                let payment = cloud.payment(b"", AT).unwrap();
                assert_eq!(String::from_utf8(payment).unwrap(), sample(kind));
            }
        }
    }

    #[test]
    fn a_record_is_told_by_its_headers() {
        let content = |value| mode(&headers(&[("Content-Type", value)]));
        assert_eq!(content("application/cloudevents+json; charset=utf-8"), Some(Mode::Structured));
        assert_eq!(content("application/json"), None);
        assert_eq!(mode(&[]), None);
        assert_eq!(mode(&headers(&[("traceparent", TRACE)])), None);
    }

    #[test]
    fn data_may_be_base64_and_time_may_be_absent() {
        let event: serde_json::Value =
            serde_json::from_str(sample(EventType::PaymentSettled)).unwrap();
        let encoded = BASE64.encode(event["data"].to_string());
        let json = format!(
            r#"{{"specversion":"1.0","id":"evt_1","source":"s","type":"payment.settled","subject":"proj_1","data":null,"data_base64":"{encoded}"}}"#
        );
        let read = structured(&json).unwrap();
        assert_eq!(read.occurred_at, AT);
        let read: serde_json::Value = serde_json::from_slice(&read.json).unwrap();
        assert_eq!(read["data"], event["data"]);
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let data =
            r#"{"endpointId":"e","path":"/","price":"1","currency":"USDC","network":"base"}"#;
        let whole = format!(
            r#"{{"specversion":"1.0","id":"e","source":"s","type":"endpoint.created","time":"2026-11-23T08:00:00Z","subject":"p","data":{data}}}"#
        );
        assert!(structured(&whole).is_ok());
        for (left_out, put_in, said) in [
            (r#""specversion":"1.0","#, "", "no specversion"),
            (r#""id":"e","#, "", "no id"),
            (r#""id":"e","#, r#""id":7,"#, "id must be a text, not a number"),
            (r#""id":"e","#, r#""id":"e","id":"f","#, "id more than once"),
            (r#""type":"endpoint.created","#, "", "no type"),
            (r#""subject":"p","#, "", "projectid, or the subject"),
            (r#""subject":"p","#, r#""projectid":"p q","#, "projectid (or"),
            ("2026-11-23T08", "20261123T08", "time is no RFC 3339 time"),
            (&format!(r#","data":{data}"#), "", "no data"),
            (data, r#""{\"price\":1}""#, "data must be an object"),
            (data, "[1]", "data must be an object"),
            ("1.0", "0.3", "\"0.3\""),
            (r#""1.0""#, "1.0", "must be a text"),
        ] {
            assert!(whole.contains(left_out), "{left_out}");
            let error = structured(&whole.replace(left_out, put_in)).unwrap_err();
            assert!(error.contains(said), "{said}: {error}");
        }
        // All at once.
        let error = structured(r#"{"specversion":"1.0","id":"a b"}"#).unwrap_err();
        for said in ["id must", "no type", "projectid", "no data"] {
            assert!(error.contains(said), "{said}: {error}");
        }
        let error =
            structured(&whole.replace(r#""id":"e","#, "").replace("\"1\"", "1")).unwrap_err();
        assert!(error.contains("no id") && error.contains("data.price"), "{error}");
        assert!(structured("[]").is_err());
        let given = headers(&[("ce_specversion", "1.0")]);
        assert!(CloudEvent::binary(&given, b"no json").unwrap_err().contains("no JSON"));
    }

    #[test]
    fn a_trace_is_one_by_the_standard_or_none() {
        let later = format!("01{}-more", &TRACE[2..]);
        for good in [TRACE, &later, &format!("cc{}", &TRACE[2..])] {
            assert!(is_traceparent(good), "{good}");
        }
        for bad in [
            "",
            "trace-1",
            &TRACE[..54],
            &format!("{TRACE}-more"),
            &format!("ff{}", &TRACE[2..]),
            &TRACE.to_uppercase(),
            &TRACE.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &TRACE.replace("b7ad6b7169203331", &"0".repeat(16)),
            &format!("{TRACE}\r\nx: y"),
            &format!("{later}{}", "x".repeat(100)),
            &format!("01{}-a b", &TRACE[2..]),
        ] {
            assert!(!is_traceparent(bad), "{bad}");
        }
        let structured = format!(r#"{{"specversion":"1.0","traceparent":"{TRACE}"}}"#);
        let found = |headers: &[(&str, &str)], value: &str| {
            traceparent(&self::headers(headers), value.as_bytes()).map(Cow::into_owned)
        };
        let other = TRACE.replace("-01", "-00");
        assert_eq!(found(&[("traceparent", TRACE)], "").as_deref(), Some(TRACE));
        assert_eq!(found(&[("ce_traceparent", TRACE)], "{}").as_deref(), Some(TRACE));
        assert_eq!(found(&[], &structured).as_deref(), Some(TRACE));
        assert_eq!(found(&[("traceparent", &other)], &structured), Some(other));
        assert_eq!(found(&[("traceparent", "forged")], &structured).as_deref(), Some(TRACE));
        assert_eq!(found(&[("traceparent", "forged")], "{}"), None);
        assert_eq!(found(&[], &structured.replace("specversion", "other")), None);
    }
}
