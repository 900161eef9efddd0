//! `PagerDuty`, Datadog and Opsgenie.

use serde_json::{Value, json};

use super::{Answer, Behaviour, Call, Memory, has_only, is_moment, is_text, list};

fn invalid_event(error: &str) -> Answer {
    let body =
        json!({"status": "invalid event", "message": "Event object is invalid", "errors": [error]});
    Answer::new(400, body)
}

pub fn pagerduty(call: &Call, memory: &mut Memory, refuse: bool) -> Answer {
    let is_change = call.path == "/v2/change/enqueue";
    if call.method != "POST" || (!is_change && call.path != "/v2/enqueue") {
        return Answer::new(404, "");
    }
    if call.body.len() > 512 * 1024 {
        return Answer::new(413, "");
    }
    let body = call.json();
    let payload = &body["payload"];
    if !call.is_json() {
        return invalid_event("the body is no JSON");
    }
    if !is_text(&body["routing_key"], 32..=32) {
        return invalid_event("Length of 'routing_key' is incorrect (should be 32 characters)");
    }
    if is_change && body["routing_key"].as_str().is_some_and(|key| key.starts_with('R')) {
        return invalid_event("Invalid routing key");
    }
    if !is_change && body["event_action"] == "resolve" && is_text(&body["dedup_key"], 1..=255) {
        memory.incidents.remove(body["dedup_key"].as_str().unwrap_or_default());
        return Answer::new(202, json!({"status": "success", "message": "Event processed"}))
            .took("", &body);
    }
    if !is_text(&payload["summary"], 1..=1_024) || refuse {
        return invalid_event("'payload.summary' is missing or blank or too long");
    }
    if !is_text(&payload["source"], 1..=1_024) || !is_moment(&payload["timestamp"]) {
        return invalid_event("'payload.source' or 'payload.timestamp' is invalid");
    }
    if !payload["custom_details"].is_object() {
        return invalid_event("'payload.custom_details' is no object");
    }
    if is_change {
        let body_ok = has_only(&body, &["routing_key", "payload", "links"]);
        let payload_ok = has_only(payload, &["summary", "source", "timestamp", "custom_details"]);
        if !body_ok || !payload_ok {
            return invalid_event("a change event has other fields");
        }
        return Answer::new(202, json!({"status": "success", "message": "Change event processed"}))
            .took("", &body);
    }
    let severities = ["critical", "error", "warning", "info"];
    if !severities.contains(&payload["severity"].as_str().unwrap_or_default()) {
        return invalid_event(
            "'payload.severity' is invalid (must be one of the following: 'critical', 'warning', 'error' or 'info')",
        );
    }
    if !["trigger", "acknowledge", "resolve"]
        .contains(&body["event_action"].as_str().unwrap_or_default())
    {
        return invalid_event("'event_action' is missing or blank");
    }
    if !is_text(&body["dedup_key"], 1..=255) {
        return invalid_event("Length of 'dedup_key' is incorrect");
    }
    let key = body["dedup_key"].as_str().unwrap_or_default().to_owned();
    let answer = Answer::new(
        202,
        json!({"status": "success", "message": "Event processed", "dedup_key": key}),
    );
    reported(answer, memory, &key, &body)
}

/// Another report of an open incident is added to it; the same once more adds nothing.
fn reported(answer: Answer, memory: &mut Memory, key: &str, body: &Value) -> Answer {
    let is_new = memory.made.insert(body.to_string());
    if !is_new && memory.incidents.contains_key(key) {
        return answer;
    }
    *memory.incidents.entry(key.to_owned()).or_default() += 1;
    answer.took("", body)
}

pub fn pagerduty_script(behaviour: &Behaviour) -> Option<Answer> {
    Some(match behaviour {
        Behaviour::RateLimited => Answer::new(
            429,
            json!({"status": "throttle exceeded",
                "message": "Requests for this service are arriving too quickly. Please retry later."}),
        ),
        Behaviour::ServerError => Answer::new(500, ""),
        Behaviour::Unauthorized | Behaviour::Gone => invalid_event("Invalid routing key"),
        Behaviour::TooLarge => Answer::new(413, ""),
        _ => return None,
    })
}

pub fn datadog(call: &Call, _: &mut Memory, refuse: bool) -> Answer {
    let error = |status, error: &str| Answer::new(status, json!({"errors": [error]}));
    if call.method != "POST" || call.path != "/api/v1/events" {
        return error(404, "Not found");
    }
    if call.header("dd-api-key").len() != 32 {
        return error(403, "Forbidden");
    }
    let body = call.json();
    let text = body["text"].as_str().unwrap_or_default();
    let is_markdown = text.starts_with("%%% \n") && text.ends_with("\n %%%");
    // An @name notifies somebody; the zero-width space behind the sign stops it.
    let notifies =
        |text: &str| text.match_indices('@').any(|(at, _)| !text[at + 1..].starts_with('\u{200b}'));
    let is_tag = |tag: &Value| {
        is_text(tag, 1..=200) && tag.as_str().is_some_and(|tag| tag.to_lowercase() == tag)
    };
    let types =
        ["error", "warning", "info", "success", "user_update", "recommendation", "snapshot"];
    let good = call.is_json()
        && is_text(&body["title"], 1..=100)
        && is_text(&body["text"], 1..=4_000)
        && is_markdown
        && text.matches("%%%").count() == 2
        && !notifies(text)
        && !notifies(body["title"].as_str().unwrap_or_default())
        && types.contains(&body["alert_type"].as_str().unwrap_or_default())
        && is_text(&body["aggregation_key"], 1..=100)
        && body["date_happened"].as_i64().is_none_or(|seconds| seconds < 10_000_000_000)
        && list(&body["tags"]).iter().all(is_tag);
    if !good || refuse {
        return error(400, "Invalid event");
    }
    Answer::new(202, json!({"status": "ok", "event": {"id": 1, "title": body["title"]}}))
        .took("", &body)
}

pub fn datadog_script(behaviour: &Behaviour) -> Option<Answer> {
    let error = |status, error: &str| Answer::new(status, json!({"errors": [error]}));
    Some(match behaviour {
        Behaviour::RateLimited => error(429, "Too many requests")
            .header("x-ratelimit-limit", 250_000)
            .header("x-ratelimit-period", 60)
            .header("x-ratelimit-remaining", 0)
            .header("x-ratelimit-reset", 7)
            .header("x-ratelimit-name", "events"),
        Behaviour::ServerError => error(500, "Internal error"),
        Behaviour::Unauthorized => error(403, "Forbidden"),
        Behaviour::Gone => error(404, "Not found"),
        Behaviour::TooLarge => error(413, "Payload too large"),
        _ => return None,
    })
}

fn opsgenie_message(status: u16, message: &str) -> Answer {
    Answer::new(status, json!({"message": message, "took": 0.0, "requestId": "43a29c5c"}))
}

pub fn opsgenie(call: &Call, memory: &mut Memory, refuse: bool) -> Answer {
    let places = ["/v2/alerts", "/jsm/ops/integration/v2/alerts"];
    let closed = places
        .iter()
        .find_map(|place| call.path.strip_prefix(place)?.strip_prefix('/')?.strip_suffix("/close"));
    if let (Some(alias), "POST", "alias") = (closed, &*call.method, call.param("identifierType")) {
        // An alias in a path comes encoded.
        let alias = alias.replace("%3A", ":");
        memory.incidents.remove(&alias);
        let body = json!({"result": "Request will be processed", "took": 0.1, "requestId": "43a2"});
        return Answer::new(202, body).took("", &json!({"close": alias}));
    }
    let is_ours = places.contains(&&*call.path);
    if call.method != "POST" || !is_ours {
        return opsgenie_message(404, "Not found");
    }
    let Some(key) = call.header("authorization").strip_prefix("GenieKey ") else {
        return opsgenie_message(401, "Could not authenticate");
    };
    if key.is_empty() || key.contains(' ') {
        return opsgenie_message(422, "Key format is not valid!");
    }
    // An account that has moved is known to the successor only.
    if call.path == "/v2/alerts" && memory.made.contains("moved") {
        return opsgenie_message(401, "Could not authenticate").setup();
    }
    let body = call.json();
    if call.is_json() && body == json!({}) {
        let mut answer =
            opsgenie_message(422, "Request body is not processable. Please check the errors.");
        answer.body =
            json!({"message": "Request body is not processable. Please check the errors.",
            "errors": {"message": "Message can not be empty."}, "took": 0.0, "requestId": "x"})
            .to_string();
        return answer.setup();
    }
    let details = body["details"].as_object();
    let detail_chars: usize = details.map_or(0, |details| {
        details.values().map(|value| value.as_str().map_or(0, |text| text.chars().count())).sum()
    });
    let tags = list(&body["tags"]);
    let good = call.is_json()
        && is_text(&body["message"], 1..=130)
        && is_text(&body["alias"], 1..=512)
        && is_text(&body["description"], 0..=15_000)
        && is_text(&body["entity"], 0..=512)
        && is_text(&body["source"], 0..=100)
        && ["P1", "P2", "P3", "P4", "P5"].contains(&body["priority"].as_str().unwrap_or_default())
        && tags.len() <= 20
        && tags.iter().all(|tag| is_text(tag, 1..=50))
        && details.is_none_or(|details| details.values().all(Value::is_string))
        && detail_chars <= 8_000;
    if !good || refuse {
        return opsgenie_message(422, "Request body is not processable. Please check the errors.");
    }
    let key = body["alias"].as_str().unwrap_or_default().to_owned();
    let answer = Answer::new(
        202,
        json!({"result": "Request will be processed", "took": 0.302, "requestId": "43a29c5c"}),
    );
    reported(answer, memory, &key, &body)
}

pub fn opsgenie_script(behaviour: &Behaviour) -> Option<Answer> {
    Some(match behaviour {
        Behaviour::RateLimited => opsgenie_message(429, "You are making too many requests!")
            .header("x-ratelimit-state", "THROTTLED")
            .header("x-ratelimit-reason", "ACCOUNT")
            .header("x-ratelimit-period-in-sec", 60),
        Behaviour::ServerError => opsgenie_message(500, "Internal Server Error"),
        Behaviour::Unauthorized => opsgenie_message(401, "Could not authenticate"),
        Behaviour::Gone => opsgenie_message(402, "Your plan does not allow this"),
        Behaviour::TooLarge => opsgenie_message(413, "Payload too large"),
        _ => return None,
    })
}
