//! Microsoft Teams through a Workflows webhook: an Adaptive Card per event.
//!
//! <https://learn.microsoft.com/microsoftteams/platform/webhooks-and-connectors/how-to/connectors-using>.
//! 202 means that the flow was started; whether it posts, nobody tells.

use serde_json::{Value, json};

use super::{
    Category, Checks, Destination, Field, Item, Message, Rate, Request, Response, SecretUrl,
    SettingError, Settings, Spec, Tone, blanked, escaped, judge_status, url_on,
};
use crate::{
    clock::Timestamp,
    delivery::{Reason, Verdict},
};

pub const SPEC: Spec = Spec {
    title: "Microsoft Teams",
    category: Category::Communication,
    docs: "https://support.microsoft.com/office/create-incoming-webhooks-with-workflows-for-microsoft-teams-8ae491c7-0394-4861-ba59-055e33f75498",
    fields: &[Field::secret(
        "webhookUrl",
        "The URL of a flow \"when a Teams webhook request is received\", with its sig parameter.",
        "https://default0.00.environment.api.powerplatform.com:443/powerautomate/automations/\
         direct/workflows/0123456789abcdef0123456789abcdef/triggers/manual/paths/invoke\
         ?api-version=1&sp=%2Ftriggers%2Fmanual%2Frun&sv=1.0&sig=XXXXXXXXXXXXXXXXXXXXXXXX",
    )
    .checked(check_url)],
    // Unpublished; a flow's Teams connection bears about 100 calls a minute.
    rate: Some(Rate { per_second: 1.0, burst: 5 }),
    concurrency: 2,
    dedup: "none; the event's id is printed",
    becomes: |_| "a card",
    make: |settings, _| Ok(Box::new(Teams::new(settings)?)),
    ..Spec::BASE
};

/// A message may have about 28 KB; a value has at most six bytes per character and two escapes.
const MAX_VALUE_CHARS: usize = 300;

#[derive(Debug)]
struct Teams {
    url: SecretUrl,
}

impl Teams {
    fn new(settings: &Settings) -> Result<Self, SettingError> {
        Ok(Self { url: settings.webhook_url("webhookUrl")? })
    }
}

fn check_url(value: &str, checks: &Checks<'_>) -> Result<(), String> {
    let is_retired = |host: &str| {
        host.ends_with(".webhook.office.com") || host == "outlook.office.com"
    };
    if url::Url::parse(value).is_ok_and(|url| url.host_str().is_some_and(is_retired)) {
        return Err("is an Office 365 connector, which Microsoft switched off in 2026: make a \
                    Workflows webhook"
            .to_owned());
    }
    let hosts = [
        ".environment.api.powerplatform.com",
        // The clouds of the United States' government (GCC, GCC High, DoD) and of China.
        ".environment.api.gov.powerplatform.microsoft.us",
        ".environment.api.high.powerplatform.microsoft.us",
        ".environment.api.appsplatform.us",
        ".environment.api.powerplatform.partner.microsoftonline.cn",
        ".logic.azure.com",
        ".logic.azure.us",
        ".logic.azure.cn",
    ];
    let url = url_on(value, checks, &hosts)?;
    if !url.path().contains("/workflows/") {
        return Err("must be the URL of a workflow (…/workflows/…)".to_owned());
    }
    if !url.query_pairs().any(|(name, sig)| name == "sig" && !sig.is_empty()) {
        return Err("must have the sig parameter: copy the whole URL".to_owned());
    }
    Ok(())
}

/// Text in which the card's Markdown means nothing.
fn plain(text: &str) -> String {
    escaped(text, MAX_VALUE_CHARS, |c| match c {
        '*' => Some("\\*"),
        '_' => Some("\\_"),
        '~' => Some("\\~"),
        '[' => Some("\\["),
        ']' => Some("\\]"),
        '(' => Some("\\("),
        ')' => Some("\\)"),
        '#' => Some("\\#"),
        '`' => Some("\\`"),
        '\\' => Some("\\\\"),
        '<' => Some("&lt;"),
        _ => blanked(c),
    })
}

/// A moment that Teams shows in each reader's own time zone; it knows no fractions of a second.
fn local_time(at: Timestamp) -> String {
    let whole = Timestamp::from_millis(at.millis().div_euclid(1_000) * 1_000).to_string();
    let whole = whole.replace(".000Z", "Z");
    format!("{{{{DATE({whole}, SHORT)}}}} {{{{TIME({whole})}}}}")
}

impl Destination for Teams {
    fn build(&self, item: &Item<'_>) -> Result<Request, Verdict> {
        let message = Message::of(item.event);
        let color = match message.tone {
            Tone::Good => "good",
            Tone::Bad => "attention",
            Tone::Info => "default",
        };
        let facts: Vec<Value> = message
            .facts
            .iter()
            .map(|fact| {
                let value = match &fact.link {
                    Some(url) => format!("[{}]({url})", plain(&fact.value)),
                    None => plain(&fact.value),
                };
                json!({"title": fact.label, "value": value})
            })
            .collect();
        let footer = format!(
            "{} · {} · {}",
            plain(item.event.project.as_str()),
            local_time(item.event.occurred_at),
            plain(item.event.id.as_str())
        );
        let card = json!({
            "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
            "type": "AdaptiveCard",
            "version": "1.4",
            "msteams": {"width": "full"},
            "fallbackText": plain(&message.subject()),
            "body": [
                {"type": "TextBlock", "text": message.heading(), "weight": "Bolder",
                 "size": "Medium", "color": color, "wrap": true},
                {"type": "TextBlock", "text": plain(&message.headline), "wrap": true},
                {"type": "FactSet", "facts": facts},
                {"type": "TextBlock", "text": footer, "isSubtle": true, "size": "Small",
                 "wrap": true},
            ],
        });
        let body = json!({
            "type": "message",
            "attachments": [{
                "contentType": "application/vnd.microsoft.card.adaptive",
                "contentUrl": null,
                "content": card,
            }],
        });
        Ok(Request::post_value(self.url.0.clone(), &body))
    }

    fn judge(&self, _: &Item<'_>, response: &Response) -> Verdict {
        let detail = response.detail();
        let text = response.text();
        let json = response.json();
        match (response.status, json["error"]["code"].as_str().unwrap_or_default()) {
            // The older hooks told of Teams' own refusal in a 200.
            (200..=299, _) if text.contains("HTTP error 429") => {
                Verdict::retry_after(Reason::RateLimited, detail, response.retry_after())
            }
            (200..=299, _) if text.contains("HTTP error") => {
                Verdict::retry(Reason::ServerError, detail)
            }
            (_, "WorkflowTriggerIsNotEnabled" | "WorkflowNotFound") => {
                Verdict::broken(Reason::Gone, detail)
            }
            _ => judge_status(response),
        }
    }
}
