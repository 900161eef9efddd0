//! Zapier, n8n and Make: they take any JSON.

use serde_json::{Value, json};

use super::{Answer, Behaviour, Call, Memory, is_moment, is_text};

/// The contract of generic webhooks: the event as it is, and headers that name it.
fn is_event(call: &Call) -> bool {
    let event = call.json();
    call.is_json()
        && is_text(&event["id"], 1..=128)
        && is_text(&event["type"], 1..=64)
        && is_text(&event["projectId"], 1..=128)
        && is_moment(&event["occurredAt"])
        && event["data"].is_object()
        && call.header("dunmore-event-id") == event["id"].as_str().unwrap_or_default()
        && call.header("dunmore-event-type") == event["type"].as_str().unwrap_or_default()
        && call.header("dunmore-delivery-id").len() == 36
        && call.header("dunmore-attempt").parse::<u32>().is_ok_and(|attempt| attempt > 0)
}

fn took(call: &Call, answer: Answer) -> Answer {
    let body: Value = call.json();
    answer.took(call.header("dunmore-delivery-id"), &body)
}

pub fn zapier(call: &Call, _: &mut Memory, refuse: bool) -> Answer {
    let is_hook =
        call.path.starts_with("/hooks/catch/") || call.path.starts_with("/hooks/standard/");
    if call.method != "POST" || !is_hook {
        return Answer::new(404, "");
    }
    if !is_event(call) || refuse {
        return Answer::new(400, "malformed");
    }
    let body = json!({"attempt": "1", "id": "1", "request_id": "1", "status": "success"});
    took(call, Answer::new(200, body))
}

pub fn zapier_script(behaviour: &Behaviour) -> Option<Answer> {
    Some(match behaviour {
        Behaviour::RateLimited => Answer::new(429, "").header("retry-after", 2),
        Behaviour::Unauthorized => Answer::new(401, ""),
        Behaviour::Gone => Answer::new(410, ""),
        Behaviour::TooLarge => Answer::new(413, ""),
        _ => return None,
    })
}

pub fn n8n(call: &Call, _: &mut Memory, refuse: bool) -> Answer {
    if call.method != "POST" || !call.path.starts_with("/webhook/") {
        let message =
            format!("The requested webhook \"{} {}\" is not registered.", call.method, call.path);
        let hint = "The workflow must be active for a production URL to run successfully.";
        return Answer::new(404, json!({"code": 404, "message": message, "hint": hint}));
    }
    if !is_event(call)
        || call.header("idempotency-key") != call.header("dunmore-delivery-id")
        || refuse
    {
        return Answer::new(400, json!({"code": 400, "message": "Failed to parse request body"}));
    }
    if call.body.len() > 16 * 1024 * 1024 {
        return Answer::new(413, "");
    }
    took(call, Answer::new(200, json!({"message": "Workflow was started"})))
}

pub fn n8n_script(behaviour: &Behaviour) -> Option<Answer> {
    Some(match behaviour {
        Behaviour::RateLimited => Answer::new(429, ""),
        Behaviour::ServerError => {
            Answer::new(500, json!({"message": "Workflow could not be started!"}))
        }
        Behaviour::Unauthorized => Answer::new(403, "Authorization data is wrong!"),
        Behaviour::Gone => Answer::new(
            404,
            json!({"code": 404, "message": "The requested webhook is not registered."}),
        ),
        Behaviour::TooLarge => Answer::new(413, ""),
        _ => return None,
    })
}

pub fn make(call: &Call, _: &mut Memory, refuse: bool) -> Answer {
    if call.method != "POST" || call.path.trim_matches('/').len() < 20 {
        return Answer::new(404, "");
    }
    if call.body.len() > 5 * 1024 * 1024 {
        return Answer::new(413, "");
    }
    if !is_event(call) || refuse {
        return Answer::new(400, "Invalid JSON");
    }
    took(call, Answer::new(200, "Accepted"))
}

pub fn make_script(behaviour: &Behaviour) -> Option<Answer> {
    Some(match behaviour {
        Behaviour::RateLimited => Answer::new(429, "Too many requests").header("retry-after", 2),
        Behaviour::ServerError => Answer::new(500, "Scenario failed to complete."),
        Behaviour::Unauthorized => Answer::new(401, ""),
        Behaviour::Gone => Answer::new(410, "There is no scenario listening for this webhook."),
        Behaviour::TooLarge => Answer::new(413, ""),
        _ => return None,
    })
}
