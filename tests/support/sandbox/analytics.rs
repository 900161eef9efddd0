//! Segment, Mixpanel, Amplitude and Google Analytics.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{Answer, Behaviour, Call, Memory, is_currency, is_moment, is_text, list};

/// The user of HTTP's basic scheme, if the password is empty.
fn basic_user(call: &Call) -> Option<String> {
    let encoded = call.header("authorization").strip_prefix("Basic ")?;
    let text = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    text.strip_suffix(':').filter(|user| !user.is_empty()).map(ToOwned::to_owned)
}

/// Takes an item once; a repeat is dropped without a word, as these services do.
fn took_once(answer: Answer, memory: &mut Memory, key: &Value, item: &Value) -> Answer {
    let key = key.as_str().unwrap_or_default();
    if memory.made.insert(key.to_owned()) { answer.took(key, item) } else { answer }
}

/// The real one says 200 to a bad key and bad events; this one refuses what would be lost.
pub fn segment(call: &Call, memory: &mut Memory, refuse: bool) -> Answer {
    let error =
        |status, message: &str| Answer::new(status, json!({"success": false, "message": message}));
    if call.method != "POST" || call.path != "/v1/batch" {
        return error(404, "not found");
    }
    if basic_user(call).is_none() {
        return error(401, "the sandbox wants a write key");
    }
    if call.body.len() > 500 * 1024 {
        return error(400, "request too large");
    }
    let body = call.json();
    let batch = list(&body["batch"]);
    let is_good = |event: &Value| {
        event["type"] == "track"
            && is_text(&event["event"], 1..=200)
            && is_text(&event["userId"], 1..=255)
            && is_text(&event["messageId"], 1..=100)
            && is_moment(&event["timestamp"])
            && event["properties"].is_object()
            && (event["properties"]["currency"].is_null()
                || is_currency(&event["properties"]["currency"]))
            && (event["properties"]["revenue"].is_null()
                || (event["event"] == "Payment Settled"
                    && is_currency(&event["properties"]["currency"])))
            && event.to_string().len() <= 32 * 1024
    };
    if !call.is_json()
        || batch.is_empty()
        || batch.len() > 2_500
        || !batch.iter().all(is_good)
        || refuse
    {
        return error(400, "malformed JSON");
    }
    let mut answer = Answer::new(200, json!({"success": true}));
    for event in batch {
        answer = took_once(answer, memory, &event["messageId"], event);
    }
    answer
}

pub fn segment_script(behaviour: &Behaviour) -> Option<Answer> {
    Some(match behaviour {
        Behaviour::RateLimited => Answer::new(429, "").header("x-ratelimit-reset", 3),
        Behaviour::Unauthorized => Answer::new(401, ""),
        Behaviour::Gone => Answer::new(404, ""),
        Behaviour::TooLarge => Answer::new(413, ""),
        _ => return None,
    })
}

pub fn mixpanel(call: &Call, memory: &mut Memory, refuse_odd: bool) -> Answer {
    let error = |code: u16, error: &str, status: &str| {
        Answer::new(code, json!({"code": code, "error": error, "status": status}))
    };
    if call.method != "POST" || call.path != "/import" || call.param("strict") != "1" {
        return error(404, "not found", "Not Found");
    }
    if basic_user(call).is_none() {
        return error(401, "Invalid credentials", "Unauthorized");
    }
    if call.body.len() > 10 * 1024 * 1024 {
        return error(413, "request exceeds max limit", "Request Entity Too Large");
    }
    let body = call.json();
    let events = list(&body);
    if !call.is_json() || events.is_empty() || events.len() > 2_000 {
        return error(400, "request body is not a JSON array of 1 to 2000 events", "Bad Request");
    }
    let refuse = |index: usize| refuse_odd && (index % 2 == 1 || events.len() == 1);
    let mut failed = Vec::new();
    let mut answer = Answer::new(200, "");
    for (index, event) in events.iter().enumerate() {
        let properties = &event["properties"];
        let insert_id = properties["$insert_id"].as_str().unwrap_or_default();
        let field = if event["event"].as_str().is_none_or(str::is_empty) {
            "event"
        } else if properties["time"].as_i64().is_none_or(|time| time <= 0) || refuse(index) {
            "properties.time"
        } else if insert_id.is_empty()
            || insert_id.len() > 36
            || !insert_id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        {
            "properties.$insert_id"
        } else if !is_text(&properties["distinct_id"], 0..=255)
            || properties["distinct_id"] == "null"
        {
            "properties.distinct_id"
        } else if properties.as_object().is_some_and(|fields| fields.len() > 254) {
            "properties"
        } else {
            answer = took_once(answer, memory, &properties["$insert_id"], event);
            continue;
        };
        failed.push(json!({"index": index, "$insert_id": insert_id, "field": field,
            "message": format!("'{field}' is invalid")}));
    }
    let imported = events.len() - failed.len();
    if failed.is_empty() {
        answer.body =
            json!({"code": 200, "num_records_imported": imported, "status": "OK"}).to_string();
    } else {
        answer.status = 400;
        answer.body =
            json!({"code": 400, "error": "some data points in the request failed validation",
            "failed_records": failed, "num_records_imported": imported, "status": "Bad Request"})
            .to_string();
    }
    answer
}

pub fn mixpanel_script(behaviour: &Behaviour) -> Option<Answer> {
    let answer = |code: u16, error: &str| {
        Some(Answer::new(code, json!({"code": code, "error": error, "status": "…"})))
    };
    match behaviour {
        Behaviour::RateLimited => answer(429, "Project exceeded rate limits."),
        Behaviour::ServerError => answer(502, "Bad Gateway"),
        Behaviour::Unauthorized => answer(401, "Invalid credentials"),
        Behaviour::Gone => answer(404, "not found"),
        Behaviour::TooLarge => answer(413, "request exceeds max limit of 10485760 bytes"),
        _ => None,
    }
}

pub fn amplitude(call: &Call, memory: &mut Memory, refuse_odd: bool) -> Answer {
    let body = call.json();
    let error = |error: &str| Answer::new(400, json!({"code": 400, "error": error}));
    if call.method != "POST" || call.path != "/2/httpapi" {
        return Answer::new(404, "");
    }
    if call.body.len() >= 1024 * 1024 {
        return Answer::new(413, json!({"code": 413, "error": "Payload too large"}));
    }
    if !call.is_json() {
        return error("Invalid JSON request body");
    }
    if !is_text(&body["api_key"], 32..=32) {
        return error("Invalid API key: …");
    }
    let events = list(&body["events"]);
    if events.is_empty() || events.len() > 2_000 {
        return error("Request missing required field");
    }
    let shortest = usize::try_from(body["options"]["min_id_length"].as_u64().unwrap_or(5)).unwrap();
    let (mut missing, mut invalid, mut ids) = (Vec::new(), Vec::new(), Vec::new());
    for (index, event) in events.iter().enumerate() {
        let user = event["user_id"].as_str().unwrap_or_default();
        if !is_text(&event["event_type"], 1..=1_024) {
            missing.push(index);
        } else if user.chars().count() < shortest || ["null", "0", "anonymous"].contains(&user) {
            ids.push(index);
        } else if event["time"].as_i64().is_none()
            || !is_text(&event["insert_id"], 1..=1_024)
            || !event["event_properties"].is_object()
            || (!event["revenue"].is_null() && !is_currency(&event["currency"]))
            || (refuse_odd && (index % 2 == 1 || events.len() == 1))
        {
            invalid.push(index);
        }
    }
    if missing.is_empty() && invalid.is_empty() && ids.is_empty() {
        let mut answer = Answer::new(
            200,
            json!({"code": 200, "events_ingested": events.len(),
                "payload_size_bytes": call.body.len(), "server_upload_time": 1_795_169_730_000_u64}),
        );
        for event in events {
            answer = took_once(answer, memory, &event["insert_id"], event);
        }
        return answer;
    }
    let mut body = json!({"code": 400, "error": "Invalid field values on some events"});
    for (name, field, indexes) in [
        ("events_with_missing_fields", "event_type", missing),
        ("events_with_invalid_fields", "time", invalid),
        ("events_with_invalid_id_lengths", "user_id", ids),
    ] {
        if !indexes.is_empty() {
            body[name] = json!({field: indexes});
        }
    }
    Answer::new(400, body)
}

pub fn amplitude_script(behaviour: &Behaviour) -> Option<Answer> {
    Some(match behaviour {
        Behaviour::RateLimited => Answer::new(
            429,
            json!({"code": 429, "error": "Too many requests for some devices and users",
                "eps_threshold": 30, "throttled_users": {"0x52": 31}, "throttled_events": [0]}),
        ),
        Behaviour::ServerError => {
            Answer::new(503, json!({"code": 503, "error": "Service Unavailable"}))
        }
        Behaviour::Unauthorized => {
            Answer::new(400, json!({"code": 400, "error": "Invalid API key: …"}))
        }
        Behaviour::Gone => Answer::new(404, ""),
        Behaviour::TooLarge => Answer::new(413, json!({"code": 413, "error": "Payload too large"})),
        _ => return None,
    })
}

/// The real one says 204 to everything; this one refuses what its debug endpoint would complain
/// about.
pub fn ga4(call: &Call, memory: &mut Memory, refuse: bool) -> Answer {
    if call.method != "POST" || call.path != "/mp/collect" {
        return Answer::new(404, "");
    }
    if !call.param("measurement_id").starts_with("G-") || call.param("api_secret").is_empty() {
        return Answer::new(403, "the sandbox wants measurement_id and api_secret");
    }
    if call.body.len() > 130_000 {
        return Answer::new(413, "");
    }
    let body = call.json();
    let events = list(&body["events"]);
    let good = call.is_json()
        && is_text(&body["client_id"], 1..=256)
        && (1..=25).contains(&events.len())
        && events.iter().all(is_ga4_event);
    if !good || refuse {
        return Answer::new(400, "the sandbox found validationMessages");
    }
    let mut answer = Answer::new(204, "");
    for event in events {
        let transaction = &event["params"]["transaction_id"];
        answer = match transaction.as_str() {
            Some(_) => took_once(answer, memory, transaction, event),
            None => answer.took("", event),
        };
    }
    answer
}

fn is_ga4_event(event: &Value) -> bool {
    let is_name = |name: &str| {
        let reserved = ["ga_", "google_", "firebase_", "gtag."];
        (1..=40).contains(&name.len())
            && name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && !reserved.iter().any(|prefix| name.starts_with(prefix))
    };
    let is_param = |(name, value): (&String, &Value)| {
        let is_value = match value {
            Value::String(text) => text.chars().count() <= 100,
            Value::Number(_) | Value::Bool(_) => true,
            Value::Array(items) => name == "items" && !items.is_empty(),
            _ => false,
        };
        is_name(name) && is_value
    };
    let Some(params) = event["params"].as_object() else { return false };
    let currency = params.get("currency");
    let has_price = list(&event["params"]["items"]).iter().any(|item| !item["price"].is_null());
    let is_session = |id: &str| !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit());
    let has_value = params.contains_key("value");
    event["name"].as_str().is_some_and(is_name)
        && params.len() <= 25
        && params.iter().all(is_param)
        && currency.is_none_or(is_currency)
        && (!has_price || currency.is_some())
        && params.get("session_id").and_then(Value::as_str).is_some_and(is_session)
        && (!has_value || (event["name"] == "purchase" && currency.is_some()))
        && (event["name"] != "purchase" || is_text(&params["transaction_id"], 1..=100))
        && event["timestamp_micros"].as_i64().is_none_or(|micros| micros > 1_000_000_000_000_000)
}

pub fn ga4_script(behaviour: &Behaviour) -> Option<Answer> {
    Some(match behaviour {
        Behaviour::RateLimited => Answer::new(429, "").header("retry-after", 3),
        Behaviour::Unauthorized => Answer::new(403, ""),
        Behaviour::Gone => Answer::new(404, ""),
        Behaviour::TooLarge => Answer::new(413, ""),
        _ => return None,
    })
}
