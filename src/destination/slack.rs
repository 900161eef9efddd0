//! Slack incoming webhooks: one message per event.
//!
//! <https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks>,
//! limits: <https://docs.slack.dev/apis/web-api/rate-limits>.

use serde_json::json;

use super::{
    Category, Checks, Destination, Field, Item, Message, Rate, Request, Response, SecretUrl,
    SettingError, Settings, Spec, TRAILING_SLASH, blanked, escaped, is_word, judge_status, url_on,
};
use crate::{
    clock::Timestamp,
    delivery::{Reason, Verdict},
};

pub const SPEC: Spec = Spec {
    title: "Slack",
    category: Category::Communication,
    docs: "https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks",
    fields: &[Field::secret(
        "webhookUrl",
        "The URL of an incoming webhook.",
        "https://hooks.slack.com/services/T00000000/B00000000/XXXXXXXXXXXXXXXXXXXXXXXX",
    )
    .checked(check_url)],
    // One message per second and webhook, short bursts tolerated.
    rate: Some(Rate { per_second: 1.0, burst: 5 }),
    concurrency: 2,
    dedup: "none; the event's id is printed",
    becomes: |_| "a message",
    make: |settings, _| Ok(Box::new(Slack::new(settings)?)),
    ..Spec::BASE
};

/// A section's text may have 3,000 characters, escapes included: title, headline and six facts.
const MAX_VALUE_CHARS: usize = 300;

#[derive(Debug)]
struct Slack {
    url: SecretUrl,
}

impl Slack {
    fn new(settings: &Settings) -> Result<Self, SettingError> {
        Ok(Self { url: settings.webhook_url("webhookUrl")? })
    }
}

fn check_url(value: &str, checks: &Checks<'_>) -> Result<(), String> {
    let url = url_on(value, checks, &["hooks.slack.com", "hooks.slack-gov.com"])?;
    let parts: Vec<&str> = url.path().trim_start_matches('/').split('/').collect();
    match parts[..] {
        ["services", team, hook, secret]
            if team.starts_with('T')
                && hook.starts_with('B')
                && is_word(team, "", 2..=64)
                && is_word(hook, "", 2..=64)
                && is_word(secret, "", 1..=128) =>
        {
            Ok(())
        }
        ["workflows" | "triggers", ..] => {
            Err("is a Workflow Builder hook, which takes no messages: make an incoming webhook"
                .to_owned())
        }
        [.., ""] => Err(TRAILING_SLASH.to_owned()),
        _ => Err("must look like https://hooks.slack.com/services/T…/B…/…".to_owned()),
    }
}

/// Escapes what Slack treats as control characters; a `<!channel>` in a name pings nobody.
fn plain(text: &str) -> String {
    escaped(text, MAX_VALUE_CHARS, |c| match c {
        '&' => Some("&amp;"),
        '<' => Some("&lt;"),
        '>' => Some("&gt;"),
        _ => blanked(c),
    })
}

/// The same inside a code span, which a backtick would end.
fn code(text: &str) -> String {
    format!("`{}`", plain(text).replace('`', "'"))
}

/// A headline, in a code span if it would be read as markup: Slack knows no escape for that.
fn headline(text: &str) -> String {
    if text.contains(['*', '_', '~', '`']) { code(text) } else { plain(text) }
}

/// A moment that Slack shows in each reader's own time zone, and in UTC where it cannot.
fn local_time(at: Timestamp) -> String {
    let seconds = at.millis().div_euclid(1_000);
    format!("<!date^{seconds}^{{date_short_pretty}} {{time_secs}}|{at}>")
}

impl Destination for Slack {
    fn build(&self, item: &Item<'_>) -> Result<Request, Verdict> {
        let message = Message::of(item.event);
        let mut text = format!("*{}* {}", message.heading(), headline(&message.headline));
        for fact in &message.facts {
            let value = match &fact.link {
                Some(url) => format!("<{url}|{}>", plain(&fact.value)),
                None => code(&fact.value),
            };
            text.push_str(&format!("\n{} {value}", fact.label));
        }
        let context = format!(
            "{} · {} · {}",
            code(item.event.project.as_str()),
            local_time(item.event.occurred_at),
            code(item.event.id.as_str()),
        );
        // Verbatim: names that look like a mention, a channel or a link stay text.
        let body = json!({
            "text": plain(&format!("{} {}", message.tone.sign(), message.subject())),
            "blocks": [
                {"type": "section", "text": {"type": "mrkdwn", "text": text, "verbatim": true}},
                {"type": "context",
                 "elements": [{"type": "mrkdwn", "text": context, "verbatim": true}]},
            ],
        });
        Ok(Request::post_value(self.url.0.clone(), &body))
    }

    fn judge(&self, _: &Item<'_>, response: &Response) -> Verdict {
        let detail = response.detail();
        // Slack answers with one word; the status alone misleads.
        match response.text().as_str() {
            "ok" if response.status == 200 => Verdict::Delivered,
            "no_service" | "no_active_hooks" | "channel_not_found" | "channel_is_archived"
            | "no_team" | "team_disabled" => Verdict::broken(Reason::Gone, detail),
            "invalid_token" | "token_revoked" | "account_inactive" => {
                Verdict::broken(Reason::Unauthorized, detail)
            }
            "action_prohibited" | "posting_to_general_channel_denied" => {
                Verdict::broken(Reason::Forbidden, detail)
            }
            "invalid_payload" | "invalid_blocks" | "no_text" | "too_many_attachments"
            | "msg_blocks_too_long" | "user_not_found" => Verdict::dead(Reason::Rejected, detail),
            "rollup_error" => Verdict::retry(Reason::ServerError, detail),
            _ if response.is_success() => Verdict::retry(Reason::UnexpectedResponse, detail),
            _ => judge_status(response),
        }
    }
}
