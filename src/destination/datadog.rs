//! Datadog events: one per event. <https://docs.datadoghq.com/api/latest/events/#post-an-event>

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use serde_json::json;
use url::Url;

use super::{
    Category, Checks, Destination, Field, Item, Message, Record, Request, Response, SettingError,
    Settings, Spec, Tone, blanked, cut, escaped, is_word, judge_status,
};
use crate::{
    delivery::{Reason, Verdict},
    event::EventType,
};

pub const SPEC: Spec = Spec {
    title: "Datadog",
    category: Category::Monitoring,
    docs: "https://docs.datadoghq.com/api/latest/events/#post-an-event",
    fields: &[
        Field::secret("apiKey", "An API key.", "0123456789abcdef0123456789abcdef")
            .checked(check_key),
        Field::text(
            "site",
            "The Datadog site, such as datadoghq.eu (default: datadoghq.com).",
            "datadoghq.com",
        )
        .checked(check_site)
        .optional(),
    ],
    // 250,000 events a minute for one organisation: no limit that a connector of ours reaches.
    dedup: "none; the event's id is in the text",
    max_event_age: Some(MAX_AGE),
    becomes: |kind| match kind {
        EventType::PaymentFailed
        | EventType::ConnectorSuspended
        | EventType::ConnectorFailing
        | EventType::ConnectorCredentialExpiring => "an event of type error",
        _ => "an event",
    },
    make: |settings, _| Ok(Box::new(Datadog::new(settings)?)),
    ..Spec::BASE
};

/// <https://docs.datadoghq.com/getting_started/site/>
const SITES: &[&str] = &[
    "datadoghq.com", "us3.datadoghq.com", "us5.datadoghq.com", "datadoghq.eu",
    "ap1.datadoghq.com", "ap2.datadoghq.com", "uk1.datadoghq.com", "ddog-gov.com",
    "us2.ddog-gov.com",
];
const API_KEY: HeaderName = HeaderName::from_static("dd-api-key");
/// The text may have 4,000 characters: eight values, and the labels.
const MAX_VALUE_CHARS: usize = 350;
/// An older event is taken only without its time.
const MAX_AGE: Duration = Duration::from_secs(18 * 3600);

#[derive(Debug)]
struct Datadog {
    url: Url,
    key: HeaderValue,
}

impl Datadog {
    fn new(settings: &Settings) -> Result<Self, SettingError> {
        let site = settings.optional("site").unwrap_or("datadoghq.com");
        let url = format!("https://api.{}/api/v1/events", bare(site));
        Ok(Self {
            url: settings.endpoint(&url)?,
            key: settings.secret_header("apiKey", ToOwned::to_owned)?,
        })
    }
}

/// The site of an address as it stands in the browser.
fn bare(site: &str) -> &str {
    site.strip_prefix("app.").unwrap_or(site)
}

fn check_site(value: &str, _: &Checks<'_>) -> Result<(), String> {
    if SITES.contains(&bare(value)) {
        return Ok(());
    }
    let meant = meant(value).map(|site| format!("; did you mean {site}?")).unwrap_or_default();
    Err(format!("must be one of {}{meant}", SITES.join(", ")))
}

/// The site that something else stands for: an address, or a short name such as `US5` or `EU`.
fn meant(value: &str) -> Option<&'static str> {
    let value = value.trim().to_ascii_lowercase();
    let host = value.strip_prefix("https://").unwrap_or(&value).trim_end_matches('/');
    let host = host.strip_prefix("app.").or(host.strip_prefix("api.")).unwrap_or(host);
    let short = match host {
        "us" | "us1" => "datadoghq.com",
        "eu" | "eu1" => "datadoghq.eu",
        "gov" | "us1-fed" => "ddog-gov.com",
        "us2-fed" => "us2.ddog-gov.com",
        other => other,
    };
    SITES.iter().find(|site| **site == short || site.strip_suffix(".datadoghq.com") == Some(short)).copied()
}

fn check_key(value: &str, _: &Checks<'_>) -> Result<(), String> {
    if is_word(value, "", 32..=32) { Ok(()) } else { Err("must be an API key of 32 letters and digits".to_owned()) }
}

/// Text that notifies nobody (`@name` does) and cannot end the Markdown block (`%%%` does).
fn plain(text: &str) -> String {
    escaped(text, MAX_VALUE_CHARS, |c| match c {
        '@' => Some("@\u{200b}"),
        '%' => Some("%\u{200b}"),
        '`' => Some("'"),
        _ => blanked(c),
    })
}

/// A tag: lower-case letters, digits and a few signs, at most 200 characters.
fn tag(name: &str, value: &str) -> String {
    let value = value.to_lowercase();
    let value = value.replace(|c: char| !c.is_alphanumeric() && !"_-:./".contains(c), "_");
    cut(&format!("{name}:{value}"), 200)
}

impl Destination for Datadog {
    fn build(&self, item: &Item<'_>) -> Result<Request, Verdict> {
        let event = item.event;
        let message = Message::of(event);
        let mut text = format!("%%% \n`{}`", plain(&message.headline));
        for fact in &message.facts {
            text.push_str(&format!("\n**{}** `{}`", fact.label, plain(&fact.value)));
            if let Some(url) = &fact.link {
                text.push_str(&format!(" [explorer]({url})"));
            }
        }
        text.push_str(&format!("\n**Event** `{}`\n %%%", event.id));
        let mut tags = vec![tag("event_type", event.kind.as_str()), tag("project", event.project.as_str())];
        let network = Record::of(event).texts(100).remove("network");
        tags.extend(network.as_ref().and_then(|name| name.as_str()).map(|name| tag("network", name)));
        let mut body = json!({
            "title": cut(&plain(&message.incident()), 100),
            "text": text,
            "alert_type": match message.tone {
                Tone::Good => "success",
                Tone::Bad => "error",
                Tone::Info => "info",
            },
            "aggregation_key": cut(&format!("{}:{}", event.kind, event.project), 100),
            "tags": tags,
        });
        if item.sent_at.since(event.occurred_at) < MAX_AGE {
            body["date_happened"] = event.occurred_at.millis().div_euclid(1_000).into();
        }
        Ok(Request::post_value(self.url.clone(), &body).secret_header(API_KEY, self.key.clone()))
    }

    fn judge(&self, _: &Item<'_>, response: &Response) -> Verdict {
        let detail = response.detail();
        match response.status {
            200..=299 if response.json()["status"] == "ok" => Verdict::Delivered,
            200..=299 => Verdict::retry(Reason::UnexpectedResponse, detail),
            // A wrong key, or the right key at another site.
            403 if response.json()["errors"].is_array() => {
                Verdict::broken(Reason::Unauthorized, detail)
            }
            429 => {
                let after =
                    response.header_seconds("x-ratelimit-reset").or(response.retry_after());
                Verdict::retry_after(Reason::RateLimited, detail, after)
            }
            _ => judge_status(response),
        }
    }
}
