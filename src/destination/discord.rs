//! Discord webhooks: an embed per event, up to ten embeds in a message.
//!
//! <https://docs.discord.com/developers/resources/webhook>, codes:
//! <https://docs.discord.com/developers/topics/opcodes-and-status-codes>, limits:
//! <https://docs.discord.com/developers/topics/rate-limits>.

use std::{slice, time::Duration};

use http::header::USER_AGENT;
use serde_json::{Value, json};

use super::{
    BatchLimits, Batching, Category, Checks, Destination, Field, Item, Message, Rate, Request,
    Response, SecretUrl, SettingError, Settings, SharedLimit, Spec, TRAILING_SLASH, Tone, blanked, escaped, is_word,
    json_seconds, judge_alone, judge_culprits, judge_status, judge_together, url_on,
};
use crate::delivery::{Reason, Verdict};

pub const SPEC: Spec = Spec {
    title: "Discord",
    category: Category::Communication,
    docs: "https://docs.discord.com/developers/resources/webhook#execute-webhook",
    fields: &[Field::secret(
        "webhookUrl",
        "The URL of a channel's webhook; for a forum channel with ?thread_id=….",
        "https://discord.com/api/webhooks/100000000000000001/\
         XXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX",
    )
    .checked(check_url)],
    // Limits are announced in headers only; seen are 5 in 2 seconds and about 30 a minute.
    rate: Some(Rate { per_second: 0.4, burst: 4 }),
    concurrency: 1,
    // 10,000 answers of 401, 403 or 429 in ten minutes ban the calling address, which all
    // connectors share: we stop at half of that.
    shared_address_limit: Some(SharedLimit {
        refused: 5_000,
        within: Duration::from_secs(600),
        counts: is_held_against_us,
    }),
    dedup: "none; the event's id is printed",
    becomes: |_| "an embed in a message",
    make: |settings, _| Ok(Box::new(Discord::new(settings)?)),
    ..Spec::BASE
};

const AGENT: &str = concat!(
    "DiscordBot (https://dunmore.example, ",
    env!("CARGO_PKG_VERSION"),
    ") dunmore-connectors/",
    env!("CARGO_PKG_VERSION"),
);
/// A field's value may have 1,024 characters, a description 4,096; all embeds together 6,000.
const MAX_VALUE_CHARS: usize = 200;
const MAX_EMBEDS: usize = 10;
const MAX_TOTAL_CHARS: usize = 6_000;

/// What others did on the same resource is not held against us.
fn is_held_against_us(response: &Response) -> bool {
    let is_shared = || response.header("x-ratelimit-scope") == Some("shared");
    match response.status {
        401 | 403 => true,
        429 => !is_shared(),
        _ => false,
    }
}

#[derive(Debug)]
struct Discord {
    url: SecretUrl,
}

impl Discord {
    fn new(settings: &Settings) -> Result<Self, SettingError> {
        let mut url = settings.webhook_url("webhookUrl")?;
        let thread = url.0.query_pairs().find(|(name, _)| name == "thread_id");
        let thread = thread.map(|(_, id)| id.into_owned());
        // Without `wait`, a message that was not saved gives no error.
        url.0.query_pairs_mut().clear().append_pair("wait", "true");
        if let Some(thread) = thread {
            url.0.query_pairs_mut().append_pair("thread_id", &thread);
        }
        Ok(Self { url })
    }
}

fn check_url(value: &str, checks: &Checks<'_>) -> Result<(), String> {
    let hosts = [
        "discord.com",
        "discordapp.com",
        "ptb.discord.com",
        "canary.discord.com",
        "ptb.discordapp.com",
        "canary.discordapp.com",
    ];
    let url = url_on(value, checks, &hosts)?;
    let path = url.path().strip_prefix("/api/").unwrap_or_default();
    let path = match path.split_once('/') {
        Some((version, rest)) if version.strip_prefix('v').is_some_and(is_number) => rest,
        _ => path,
    };
    let parts: Vec<&str> = path.split('/').collect();
    match parts[..] {
        ["webhooks", id, token]
            if is_number(id) && (17..=20).contains(&id.len()) && is_word(token, "_-", 60..=128) => {}
        ["webhooks", _, _, "slack" | "github"] => {
            return Err("must not end in /slack or /github".to_owned());
        }
        [.., ""] => return Err(TRAILING_SLASH.to_owned()),
        _ => return Err("must look like https://discord.com/api/webhooks/1234…/…".to_owned()),
    }
    if url.query_pairs().all(|(name, id)| name == "wait" || (name == "thread_id" && is_number(&id)))
    {
        Ok(())
    } else {
        Err("may have no parameter but thread_id".to_owned())
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// Text in which Discord's Markdown means nothing.
fn markdown(text: &str) -> String {
    escaped(text, MAX_VALUE_CHARS, |c| match c {
        '*' => Some("\\*"),
        '_' => Some("\\_"),
        '~' => Some("\\~"),
        '|' => Some("\\|"),
        '>' => Some("\\>"),
        '<' => Some("\\<"),
        '#' => Some("\\#"),
        '[' => Some("\\["),
        ']' => Some("\\]"),
        '(' => Some("\\("),
        ')' => Some("\\)"),
        '`' => Some("\\`"),
        '\\' => Some("\\\\"),
        '@' => Some("@\u{200b}"),
        _ => blanked(c),
    })
}

/// A code span, which only a backtick would end.
fn code(text: &str) -> String {
    let value = escaped(text, MAX_VALUE_CHARS, |c| match c {
        '`' => Some("'"),
        _ => blanked(c),
    });
    format!("`{value}`")
}

fn embed(item: &Item<'_>) -> Value {
    let message = Message::of(item.event);
    let color = match message.tone {
        Tone::Good => 0x002e_cc71,
        Tone::Bad => 0x00e7_4c3c,
        Tone::Info => 0x0034_98db,
    };
    let mut fields: Vec<Value> = message
        .facts
        .iter()
        .map(|fact| {
            let value = match &fact.link {
                Some(url) => format!("[{}]({url})", markdown(&fact.value)),
                None => code(&fact.value),
            };
            json!({"name": fact.label, "value": value, "inline": true})
        })
        .collect();
    // Shown in each reader's own time zone.
    let seconds = item.event.occurred_at.millis().div_euclid(1_000);
    fields.push(json!({"name": "Time", "value": format!("<t:{seconds}:f>"), "inline": true}));
    json!({
        "title": message.heading(),
        "description": markdown(&message.headline),
        "color": color,
        "timestamp": item.event.occurred_at,
        "fields": fields,
        "footer": {"text": format!("{} · {}", item.event.project, item.event.id)},
    })
}

/// What counts against the sum of all embeds' texts, in UTF-16 units to be on the safe side.
fn weight(embed: &Value) -> usize {
    let units = |value: &Value| value.as_str().map_or(0, |text| text.encode_utf16().count());
    let fields = embed["fields"].as_array().map_or(&[][..], Vec::as_slice);
    units(&embed["title"])
        + units(&embed["description"])
        + units(&embed["footer"]["text"])
        + fields.iter().map(|field| units(&field["name"]) + units(&field["value"])).sum::<usize>()
}

impl Destination for Discord {
    fn build(&self, item: &Item<'_>) -> Result<Request, Verdict> {
        Batching::build(self, slice::from_ref(item))
    }

    fn judge(&self, item: &Item<'_>, response: &Response) -> Verdict {
        judge_alone(self, item, response)
    }

    fn batching(&self) -> Option<&dyn Batching> {
        Some(self)
    }
}

impl Batching for Discord {
    fn limits(&self) -> BatchLimits {
        BatchLimits { items: MAX_EMBEDS, bytes: 256 * 1024 }
    }

    fn takes(&self, batch: &[Item<'_>], next: &Item<'_>) -> bool {
        let total: usize = batch.iter().chain([next]).map(|item| weight(&embed(item))).sum();
        total <= MAX_TOTAL_CHARS
    }

    fn build(&self, items: &[Item<'_>]) -> Result<Request, Verdict> {
        let embeds: Vec<Value> = items.iter().map(embed).collect();
        let body = json!({"allowed_mentions": {"parse": []}, "embeds": embeds});
        // Without an agent of this form, Cloudflare answers in Discord's place (code 40333).
        Ok(Request::post_value(self.url.0.clone(), &body).header(USER_AGENT, AGENT))
    }

    fn judge(&self, items: &[Item<'_>], response: &Response) -> Vec<Verdict> {
        let json = response.json();
        let detail = response.detail();
        let verdict = match (response.status, json["code"].as_u64().unwrap_or_default()) {
            (204, _) => Verdict::Delivered,
            (200..=299, _) if json["id"].is_string() => Verdict::Delivered,
            (200..=299, _) => Verdict::retry(Reason::UnexpectedResponse, detail),
            (429, _) | (_, 20_028 | 20_029) => {
                let after = json_seconds(&json["retry_after"]).or(response.retry_after());
                Verdict::retry_after(Reason::RateLimited, detail, after)
            }
            (_, 40_333) => Verdict::retry(Reason::NotReady, detail),
            // The webhook, its channel or its thread is gone, archived or locked.
            (_, 10_015 | 10_003 | 50_083 | 160_005) => Verdict::broken(Reason::Gone, detail),
            (_, 50_027) => Verdict::broken(Reason::Unauthorized, detail),
            (_, 220_001) => Verdict::broken(
                Reason::PrerequisiteMissing,
                format!("the webhook is on a forum channel: add ?thread_id=… to its URL ({detail})"),
            ),
            (400, 50_035) => return judge_form(items, &json["errors"]["embeds"], &detail),
            (_, 40_005) => Verdict::dead(Reason::PayloadTooLarge, detail),
            _ => judge_status(response),
        };
        judge_together(items, verdict)
    }
}

/// A form error names the embeds that are wrong; the message was not sent for any of them.
fn judge_form(items: &[Item<'_>], wrong: &Value, detail: &str) -> Vec<Verdict> {
    let is_wrong = |index: usize| wrong.get(index.to_string()).is_some();
    let culprits: Vec<bool> = (0..items.len()).map(is_wrong).collect();
    if culprits.contains(&true) {
        judge_culprits(&culprits, detail)
    } else {
        judge_together(items, Verdict::dead(Reason::Rejected, detail))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderMap;

    use super::*;
    use crate::clock::Timestamp;

    #[test]
    fn refusals_count_against_the_address_unless_others_caused_them() {
        let counts = |status: u16, scope: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            if let Some(scope) = scope {
                headers.insert("x-ratelimit-scope", http::HeaderValue::from_static(scope));
            }
            let received_at = Timestamp::from_millis(0);
            let body = Bytes::new();
            let is_incomplete = false;
            is_held_against_us(&Response { status, headers, body, received_at, is_incomplete })
        };
        for status in [401, 403, 429] {
            assert!(counts(status, None), "{status}");
        }
        assert!(counts(429, Some("user")) && counts(429, Some("global")));
        assert!(!counts(429, Some("shared")));
        for status in [200, 204, 400, 404, 500] {
            assert!(!counts(status, None), "{status}");
        }
    }
}
