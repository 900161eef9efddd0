//! Slack, Discord, Resend, Telegram and Teams.

use serde_json::{Value, json};

use super::{
    Answer, Behaviour, Call, Memory, all_clean, has_only, is_clean, is_moment, is_text, list,
};

fn chars(value: &Value) -> usize {
    value.as_str().map_or(0, |text| text.chars().count())
}

/// Whether angle brackets would be read as a mention or a foreign link. Moments, and links to
/// block explorers, are meant.
fn has_control(text: &str) -> bool {
    let mut rest = text;
    while let Some(at) = rest.find(['<', '>']) {
        let (Some(inside), Some(end)) = (rest[at..].strip_prefix('<'), rest[at..].find('>')) else {
            return true;
        };
        let is_date = inside.starts_with("!date^") && inside[..end - 1].contains('|');
        let is_page = inside.starts_with("https://") && inside[..end - 1].contains("/tx/");
        if !is_date && !is_page {
            return true;
        }
        rest = &rest[at + end + 1..];
    }
    false
}

pub fn slack(call: &Call, _: &mut Memory, refuse: bool) -> Answer {
    let parts: Vec<&str> = call.path.trim_start_matches('/').split('/').collect();
    if call.method != "POST" || parts.len() != 4 || parts[0] != "services" {
        return Answer::new(404, "no_service");
    }
    if !call.is_json() || refuse {
        return Answer::new(400, "invalid_payload");
    }
    let body = call.json();
    let text = body["text"].as_str().unwrap_or_default();
    if text.is_empty() {
        return Answer::new(400, "no_text");
    }
    if !all_clean(&body) {
        return Answer::new(400, "invalid_blocks");
    }
    let blocks = list(&body["blocks"]);
    let mrkdwn: Vec<&Value> = blocks
        .iter()
        .flat_map(|block| list(&block["elements"]).iter().chain([&block["text"]]))
        .filter(|text| !text.is_null())
        .collect();
    let is_good = |text: &&Value| {
        text["type"] == "mrkdwn"
            && is_text(&text["text"], 1..=3_000)
            && !has_control(text["text"].as_str().unwrap_or_default())
    };
    if blocks.len() > 50 || !mrkdwn.iter().all(is_good) || has_control(text) || text.len() > 40_000
    {
        return Answer::new(400, "invalid_blocks");
    }
    if mrkdwn.iter().map(|text| chars(&text["text"])).sum::<usize>() > 13_200 {
        return Answer::new(400, "msg_blocks_too_long");
    }
    Answer::new(200, "ok").took("", &body)
}

pub fn slack_script(behaviour: &Behaviour) -> Option<Answer> {
    Some(match behaviour {
        Behaviour::RateLimited => Answer::new(429, "rate_limited").header("retry-after", 1),
        Behaviour::ServerError => Answer::new(500, "rollup_error"),
        Behaviour::Unauthorized => Answer::new(403, "invalid_token"),
        Behaviour::Gone => Answer::new(404, "no_service"),
        Behaviour::TooLarge => Answer::new(400, "msg_blocks_too_long"),
        _ => return None,
    })
}

fn discord_error(status: u16, code: u64, message: &str) -> Answer {
    Answer::new(status, json!({"message": message, "code": code}))
}

pub fn discord(call: &Call, _: &mut Memory, refuse_odd: bool) -> Answer {
    if !call.header("user-agent").starts_with("DiscordBot (https://") {
        return discord_error(403, 40_333, "internal network error");
    }
    let path = call.path.trim_start_matches("/api/").trim_start_matches("v10/");
    let parts: Vec<&str> = path.split('/').collect();
    if call.method != "POST" || parts.len() != 3 || parts[0] != "webhooks" {
        return discord_error(404, 10_015, "Unknown Webhook");
    }
    if parts[2].len() < 60 {
        return discord_error(401, 50_027, "Invalid Webhook Token");
    }
    if !call.is_json() {
        return discord_error(400, 50_109, "The request body contains invalid JSON.");
    }
    let body = call.json();
    let embeds = list(&body["embeds"]);
    if embeds.is_empty() && !is_text(&body["content"], 1..=2_000) {
        return discord_error(400, 50_006, "Cannot send an empty message");
    }
    let total: usize = embeds.iter().map(embed_chars).sum();
    let mut errors = serde_json::Map::new();
    for (index, embed) in embeds.iter().enumerate() {
        if !is_embed(embed) || index > 9 || total > 6_000 || (refuse_odd && index % 2 == 1) {
            let error = json!({"_errors": [{"code": "BASE_TYPE_BAD", "message": "Not good."}]});
            errors.insert(index.to_string(), error);
        }
    }
    if refuse_odd && embeds.len() == 1 {
        errors.insert("0".to_owned(), json!({"_errors": []}));
    }
    if !errors.is_empty() {
        let body =
            json!({"message": "Invalid Form Body", "code": 50_035, "errors": {"embeds": errors}});
        return Answer::new(400, body);
    }
    // Somebody would be pinged: not an error at Discord, but one here.
    if body["allowed_mentions"]["parse"] != json!([]) {
        return discord_error(400, 0, "the sandbox wants allowed_mentions.parse to be empty");
    }
    let mut answer = match call.param("wait") {
        "true" => Answer::new(200, json!({"id": "1", "type": 0, "content": "", "embeds": embeds})),
        _ => Answer::new(204, ""),
    };
    for embed in embeds {
        answer = answer.took("", embed);
    }
    answer
}

fn is_embed(embed: &Value) -> bool {
    let fields = list(&embed["fields"]);
    all_clean(embed)
        && is_text(&embed["title"], 1..=256)
        && is_text(&embed["description"], 1..=4_096)
        && is_moment(&embed["timestamp"])
        && embed["color"].as_u64().is_some_and(|color| color <= 0x00ff_ffff)
        && is_text(&embed["footer"]["text"], 1..=2_048)
        && fields.len() <= 25
        && fields
            .iter()
            .all(|field| is_text(&field["name"], 1..=256) && is_text(&field["value"], 1..=1_024))
}

fn embed_chars(embed: &Value) -> usize {
    let fields = list(&embed["fields"]);
    chars(&embed["title"])
        + chars(&embed["description"])
        + chars(&embed["footer"]["text"])
        + fields.iter().map(|field| chars(&field["name"]) + chars(&field["value"])).sum::<usize>()
}

pub fn discord_script(behaviour: &Behaviour) -> Option<Answer> {
    Some(match behaviour {
        Behaviour::RateLimited => {
            let body = json!({"message": "You are being rate limited.", "retry_after": 0.75, "global": false});
            Answer::new(429, body)
                .header("retry-after", 1)
                .header("x-ratelimit-scope", "user")
                .header("x-ratelimit-reset-after", "0.75")
        }
        Behaviour::Unauthorized => discord_error(401, 50_027, "Invalid Webhook Token"),
        Behaviour::Gone => discord_error(404, 10_015, "Unknown Webhook"),
        Behaviour::TooLarge => discord_error(400, 40_005, "Request entity too large"),
        _ => return None,
    })
}

fn resend_error(status: u16, name: &str, message: &str) -> Answer {
    Answer::new(status, json!({"statusCode": status, "name": name, "message": message}))
}

pub fn email(call: &Call, memory: &mut Memory, refuse: bool) -> Answer {
    if call.method != "POST" || call.path != "/emails" {
        return resend_error(404, "not_found", "The requested endpoint does not exist");
    }
    let Some(key) = call.header("authorization").strip_prefix("Bearer ") else {
        return resend_error(401, "missing_api_key", "Missing API Key");
    };
    if !key.starts_with("re_") {
        return resend_error(403, "invalid_api_key", "API key is invalid");
    }
    let idempotency = call.header("idempotency-key");
    if idempotency.is_empty() || idempotency.len() > 256 {
        return resend_error(400, "invalid_idempotency_key", "1 to 256 characters");
    }
    let body = call.json();
    let to = list(&body["to"]);
    let is_tag = |tag: &Value| {
        let is_word = |value: &Value| {
            is_text(value, 1..=256)
                && value.as_str().is_some_and(|text| {
                    text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
                })
        };
        is_word(&tag["name"]) && is_word(&tag["value"])
    };
    let subject = body["subject"].as_str().unwrap_or_default();
    let good = call.is_json()
        && body["from"].as_str().is_some_and(|from| from.contains('@'))
        && (1..=50).contains(&to.len())
        && to.iter().all(|to| to.as_str().is_some_and(|to| to.contains('@')))
        && !subject.is_empty()
        && !subject.contains(['\r', '\n'])
        && (is_text(&body["text"], 1..=1_000_000) || is_text(&body["html"], 1..=1_000_000))
        && list(&body["tags"]).iter().all(is_tag)
        && has_only(
            &body,
            &["from", "to", "subject", "text", "html", "tags", "headers", "reply_to"],
        );
    if !good || refuse {
        return resend_error(422, "validation_error", "Invalid field.");
    }
    match memory.seen.get(idempotency) {
        Some((first, answer)) if *first == call.body => {
            return Answer { accepted: Vec::new(), ..answer.clone() };
        }
        Some(_) => return resend_error(409, "invalid_idempotent_request", "another payload"),
        None => {}
    }
    let answer = Answer::new(200, json!({"id": "49a3999c-0ce1-4ea6-ab68-afcd6dc2e794"}));
    let answer = answer.took(idempotency, &body);
    memory.seen.insert(idempotency.to_owned(), (call.body.clone(), answer.clone()));
    answer
}

pub fn email_script(behaviour: &Behaviour) -> Option<Answer> {
    Some(match behaviour {
        Behaviour::RateLimited => {
            resend_error(429, "rate_limit_exceeded", "Too many requests.").header("retry-after", 1)
        }
        Behaviour::ServerError => {
            resend_error(500, "application_error", "An unexpected error occurred.")
        }
        Behaviour::Unauthorized => resend_error(403, "invalid_api_key", "API key is invalid"),
        Behaviour::Gone => resend_error(403, "validation_error", "The domain is not verified."),
        Behaviour::TooLarge => resend_error(413, "validation_error", "Payload too large"),
        _ => return None,
    })
}

fn telegram_error(code: u16, description: &str) -> Answer {
    Answer::new(code, json!({"ok": false, "error_code": code, "description": description}))
}

pub fn telegram(call: &Call, memory: &mut Memory, refuse: bool) -> Answer {
    let token = call.path.strip_prefix("/bot").and_then(|rest| rest.strip_suffix("/sendMessage"));
    let token = token.filter(|_| call.method == "POST");
    let Some((id, secret)) = token.and_then(|token| token.split_once(':')) else {
        return telegram_error(404, "Not Found");
    };
    if id.parse::<u64>().is_err() || secret.len() < 30 {
        return telegram_error(401, "Unauthorized");
    }
    let body = call.json();
    if !call.is_json() || !is_text(&body["chat_id"], 1..=64) {
        return telegram_error(400, "Bad Request: chat_id is empty");
    }
    match (&body["message_thread_id"], memory.made.contains("topic closed")) {
        (Value::Null, _) => {}
        (thread, false) if thread.as_i64() == Some(42) => {}
        (_, true) => return telegram_error(400, "Bad Request: TOPIC_CLOSED"),
        _ => return telegram_error(400, "Bad Request: message thread not found"),
    }
    let Some(text) = body["text"].as_str().filter(|text| !text.is_empty()) else {
        return telegram_error(400, "Bad Request: message text is empty");
    };
    let plain = match body["parse_mode"].as_str() {
        None => Ok(text.to_owned()),
        Some("HTML") => parsed_html(text),
        Some(_) => Err("unsupported parse_mode"),
    };
    match plain {
        Err(error) => telegram_error(400, &format!("Bad Request: can't parse entities: {error}")),
        Ok(plain) if plain.chars().count() > 4_096 => {
            telegram_error(400, "Bad Request: message is too long")
        }
        Ok(plain) if !is_clean(&plain) => {
            telegram_error(400, "Bad Request: the sandbox wants clean text")
        }
        Ok(_) if refuse => telegram_error(400, "Bad Request: can't parse entities: refused"),
        Ok(_) => Answer::new(200, json!({"ok": true, "result": {"message_id": 7}})).took("", &body),
    }
}

/// The text without tags and escapes; only Telegram's tags, well nested.
fn parsed_html(text: &str) -> Result<String, &'static str> {
    let mut plain = String::new();
    let mut open = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['<', '&', '>']) {
        plain.push_str(&rest[..at]);
        let from = &rest[at..];
        if from.starts_with('>') {
            return Err("unescaped >");
        }
        let end = if from.starts_with('<') { '>' } else { ';' };
        let length = from.find(end).ok_or("unclosed tag or entity")?;
        match &from[1..length] {
            "amp" | "lt" | "gt" | "quot" if end == ';' => plain.push('&'),
            tag @ ("b" | "i" | "u" | "s" | "code" | "pre") if end == '>' => open.push(tag),
            tag if end == '>' && tag.starts_with("a href=\"https://") => open.push("a"),
            tag if end == '>' && tag.starts_with('/') => {
                if open.pop() != Some(&tag[1..]) {
                    return Err("unmatched end tag");
                }
            }
            _ => return Err("unsupported tag or entity"),
        }
        rest = &from[length + 1..];
    }
    plain.push_str(rest);
    if open.is_empty() { Ok(plain) } else { Err("unclosed start tag") }
}

pub fn telegram_script(behaviour: &Behaviour) -> Option<Answer> {
    Some(match behaviour {
        Behaviour::RateLimited => {
            let body = json!({"ok": false, "error_code": 429,
                "description": "Too Many Requests: retry after 3", "parameters": {"retry_after": 3}});
            Answer::new(429, body).header("retry-after", 3)
        }
        Behaviour::ServerError => telegram_error(502, "Bad Gateway"),
        Behaviour::Unauthorized => telegram_error(401, "Unauthorized"),
        Behaviour::Gone => telegram_error(400, "Bad Request: chat not found"),
        Behaviour::Moved => {
            let description = "Bad Request: group chat was upgraded to a supergroup chat";
            let parameters = json!({"migrate_to_chat_id": -1_009_876_543_210_i64});
            Answer::new(
                400,
                json!({"ok": false, "error_code": 400, "description": description,
                "parameters": parameters}),
            )
        }
        Behaviour::TooLarge => telegram_error(400, "Bad Request: message is too long"),
        _ => return None,
    })
}

fn teams_error(status: u16, code: &str) -> Answer {
    Answer::new(status, json!({"error": {"code": code, "message": "…"}}))
}

pub fn teams(call: &Call, _: &mut Memory, refuse: bool) -> Answer {
    if call.param("sig").is_empty() {
        return teams_error(401, "DirectApiAuthorizationRequired");
    }
    if call.method != "POST" || !call.path.contains("/workflows/") {
        return teams_error(404, "WorkflowNotFound");
    }
    if call.body.len() > 28 * 1024 {
        return teams_error(413, "RequestEntityTooLarge");
    }
    let body = call.json();
    let attachment = &body["attachments"][0];
    let card = &attachment["content"];
    let blocks = list(&card["body"]);
    let is_fact = |fact: &Value| fact["title"].is_string() && fact["value"].is_string();
    let is_block = |block: &Value| match block["type"].as_str() {
        Some("TextBlock") => is_text(&block["text"], 1..=28_000),
        Some("FactSet") => list(&block["facts"]).iter().all(is_fact),
        _ => false,
    };
    let good = call.is_json()
        && all_clean(&body)
        && body["type"] == "message"
        && attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
        && card["type"] == "AdaptiveCard"
        && card["version"].as_str().is_some_and(|version| version <= "1.4")
        && !blocks.is_empty()
        && blocks.iter().all(is_block);
    if !good || refuse {
        return teams_error(400, "TriggerInputSchemaMismatch");
    }
    Answer::new(202, "").took("", &body)
}

pub fn teams_script(behaviour: &Behaviour) -> Option<Answer> {
    Some(match behaviour {
        Behaviour::RateLimited => {
            teams_error(429, "WorkflowRunActionLimit").header("retry-after", 4)
        }
        Behaviour::ServerError => teams_error(504, "GatewayTimeout"),
        Behaviour::Unauthorized => teams_error(401, "DirectApiAuthorizationRequired"),
        Behaviour::Gone => teams_error(400, "WorkflowTriggerIsNotEnabled"),
        Behaviour::TooLarge => teams_error(413, "RequestEntityTooLarge"),
        _ => return None,
    })
}
