//! Telegram bots: one message per event. <https://core.telegram.org/bots/api#sendmessage>
//!
//! Limits: <https://core.telegram.org/bots/faq#my-bot-is-hitting-limits-how-do-i-avoid-this>.

use serde_json::json;

use super::{
    Category, Checks, Destination, Field, Item, Message, Rate, Request, Response, SecretUrl,
    SettingError, Settings, Spec, blanked, escaped, is_word, json_seconds, judge_status,
};
use crate::delivery::{Reason, Verdict};

pub const SPEC: Spec = Spec {
    title: "Telegram",
    category: Category::Communication,
    docs: "https://core.telegram.org/bots/api#sendmessage",
    fields: &[
        Field::secret(
            "botToken",
            "The token that @BotFather gave for the bot.",
            "123456789:ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghi",
        )
        .checked(check_token),
        Field::text(
            "chatId",
            "The chat: its number, or @name of a public channel or group.",
            "-1001234567890",
        )
        .checked(check_chat),
        Field::text("threadId", "The number of a topic of a forum group.", "42")
            .checked(check_thread)
            .optional(),
    ],
    // Twenty messages a minute into one group; a single chat would bear one per second.
    rate: Some(Rate { per_second: 0.25, burst: 5 }),
    concurrency: 1,
    dedup: "none; the event's id is printed",
    becomes: |_| "a message",
    make: |settings, _| Ok(Box::new(Telegram::new(settings)?)),
    ..Spec::BASE
};

/// A message may have 4,096 characters, counted without the tags and escapes.
const MAX_VALUE_CHARS: usize = 400;

/// What Telegram says of a chat or topic that is no longer there for the bot.
const GONE: &[&str] = &[
    "chat not found",
    "upgraded to a supergroup",
    "group chat was deactivated",
    "peer_id_invalid",
    "chat_id_invalid",
    "channel_invalid",
    "channel_private",
    "chat_id is empty",
    "message thread not found",
    "topic_closed",
    "topic_deleted",
    "topic_id_invalid",
    "chat is not a forum",
];
/// What it says when the bot may not write there.
const FORBIDDEN: &[&str] = &[
    "rights",
    "chat_write_forbidden",
    "chat_admin_required",
    "chat_restricted",
    "chat_send_plain_forbidden",
    "user_banned_in_channel",
    "not a member",
];

#[derive(Debug)]
struct Telegram {
    url: SecretUrl,
    chat: String,
    thread: Option<i64>,
}

impl Telegram {
    fn new(settings: &Settings) -> Result<Self, SettingError> {
        let token = settings.text("botToken")?;
        let url = format!("https://api.telegram.org/bot{token}/sendMessage");
        Ok(Self {
            url: SecretUrl(settings.endpoint(&url)?),
            chat: settings.text("chatId")?.to_owned(),
            thread: settings.optional("threadId").and_then(|id| id.parse().ok()),
        })
    }
}

fn check_token(value: &str, _: &Checks<'_>) -> Result<(), String> {
    match value.split_once(':') {
        Some((id, secret))
            if (6..=16).contains(&id.len())
                && id.bytes().all(|b| b.is_ascii_digit())
                && !id.starts_with('0')
                && is_word(secret, "_-", 30..=80) =>
        {
            Ok(())
        }
        _ => Err("must look like 123456789:ABC…, as @BotFather gives it".to_owned()),
    }
}

fn check_chat(value: &str, _: &Checks<'_>) -> Result<(), String> {
    let good = if let Some(name) = value.strip_prefix('@') {
        is_word(name, "_", 4..=32) && name.starts_with(|c: char| c.is_ascii_alphabetic())
    } else {
        let digits = value.strip_prefix('-').unwrap_or(value);
        (1..=20).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit())
    };
    if good { Ok(()) } else { Err("must be a chat's number or @name".to_owned()) }
}

fn check_thread(value: &str, _: &Checks<'_>) -> Result<(), String> {
    let is_number = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    match value.parse::<i64>() {
        Ok(1..) if is_number => Ok(()),
        _ => Err("must be the number of a topic, such as 42".to_owned()),
    }
}

/// HTML mode needs these three escaped.
fn plain(text: &str) -> String {
    escaped(text, MAX_VALUE_CHARS, |c| match c {
        '&' => Some("&amp;"),
        '<' => Some("&lt;"),
        '>' => Some("&gt;"),
        _ => blanked(c),
    })
}

/// Inside `<code>` nothing is read as a mention or link.
fn code(text: &str) -> String {
    format!("<code>{}</code>", plain(text))
}

impl Destination for Telegram {
    fn build(&self, item: &Item<'_>) -> Result<Request, Verdict> {
        let message = Message::of(item.event);
        let mut text = format!("<b>{}</b> {}", message.heading(), code(&message.headline));
        for fact in &message.facts {
            let value = match &fact.link {
                Some(url) => format!("<a href=\"{url}\">{}</a>", plain(&fact.value)),
                None => code(&fact.value),
            };
            text.push_str(&format!("\n{} {value}", fact.label));
        }
        text.push_str(&format!(
            "\n{} · {} · {}",
            code(item.event.project.as_str()),
            item.event.occurred_at,
            code(item.event.id.as_str())
        ));
        let mut body = json!({
            "chat_id": self.chat,
            "parse_mode": "HTML",
            "link_preview_options": {"is_disabled": true},
            "text": text,
        });
        if let Some(thread) = self.thread {
            body["message_thread_id"] = thread.into();
        }
        Ok(Request::post_value(self.url.0.clone(), &body))
    }

    fn judge(&self, _: &Item<'_>, response: &Response) -> Verdict {
        let json = response.json();
        let detail = response.detail();
        // The group became a supergroup, which has another number.
        if let Some(chat) = json["parameters"]["migrate_to_chat_id"].as_i64() {
            return Verdict::Moved { field: "chatId", value: chat.to_string() };
        }
        let description = json["description"].as_str().unwrap_or_default().to_ascii_lowercase();
        let says = |words: &[&str]| words.iter().any(|word| description.contains(word));
        match response.status {
            200..=299 if json["ok"] == true => Verdict::Delivered,
            200..=299 => Verdict::retry(Reason::UnexpectedResponse, detail),
            429 => {
                let after =
                    json_seconds(&json["parameters"]["retry_after"]).or(response.retry_after());
                Verdict::retry_after(Reason::RateLimited, detail, after)
            }
            // 404 is what an impossible token gives: it is part of the path.
            401 => Verdict::broken(Reason::Unauthorized, detail),
            404 if json["ok"] == false => Verdict::broken(Reason::Unauthorized, detail),
            400 if says(GONE) => Verdict::broken(Reason::Gone, detail),
            400 if says(FORBIDDEN) => Verdict::broken(Reason::Forbidden, detail),
            _ => judge_status(response),
        }
    }
}
