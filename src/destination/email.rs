//! Email through Resend: one mail per event.
//!
//! <https://resend.com/docs/api-reference/emails/send-email>, errors:
//! <https://resend.com/docs/api-reference/errors>, idempotency keys:
//! <https://resend.com/docs/dashboard/emails/idempotency-keys>.

use std::time::Duration;

use http::{HeaderName, HeaderValue, header::AUTHORIZATION};
use serde_json::json;
use url::Url;

use super::{
    Category, Checks, Destination, Field, Item, Message, Rate, Request, Response, SettingError,
    Settings, Spec, is_word, judge_status, one_line,
};
use crate::delivery::{Reason, Verdict};

pub const SPEC: Spec = Spec {
    title: "Email (Resend)",
    category: Category::Communication,
    docs: "https://resend.com/docs/api-reference/emails/send-email",
    fields: &[
        Field::secret("apiKey", "A Resend API key with sending access.", "re_ABCDEFGH_12345678")
            .checked(check_key),
        Field::text(
            "from",
            "The sender on a domain that Resend has verified: an address, or Name <address>.",
            "Payments <payments@example.com>",
        )
        .checked(check_from),
        Field::text("to", "The recipients, 1 to 50 addresses.", "ops@example.com")
            .checked(|value, _| check_address(value))
            .list(),
    ],
    // Five requests per second for one team.
    rate: Some(Rate { per_second: 4.0, burst: 1 }),
    concurrency: 2,
    dedup: "Idempotency-Key, 24 hours",
    forgets_repeats_after: Some(Duration::from_secs(24 * 3600)),
    becomes: |_| "a mail",
    make: |settings, _| Ok(Box::new(Email::new(settings)?)),
    ..Spec::BASE
};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// A used-up quota comes back at the end of a day or month, so asking more often is no use.
const QUOTA_WAIT: Duration = Duration::from_secs(3600);

#[derive(Debug)]
struct Email {
    url: Url,
    authorization: HeaderValue,
    from: String,
    to: Vec<String>,
}

impl Email {
    fn new(settings: &Settings) -> Result<Self, SettingError> {
        Ok(Self {
            url: settings.endpoint("https://api.resend.com/emails")?,
            authorization: settings.secret_header("apiKey", |key| format!("Bearer {key}"))?,
            from: settings.text("from")?.to_owned(),
            to: settings.list("to")?.to_vec(),
        })
    }
}

fn check_key(value: &str, _: &Checks<'_>) -> Result<(), String> {
    match value.strip_prefix("re_") {
        Some(rest) if is_word(rest, "_", 8..=256) => Ok(()),
        _ => Err("must be a Resend API key, which begins with re_".to_owned()),
    }
}

fn check_from(value: &str, _: &Checks<'_>) -> Result<(), String> {
    let error = "must be an address or Name <address>";
    if value.chars().any(char::is_control) {
        return Err(error.to_owned());
    }
    match value.split_once('<') {
        None => check_address(value),
        Some((name, rest)) => match rest.strip_suffix('>') {
            Some(address) if !name.contains('>') => check_address(address),
            _ => Err(error.to_owned()),
        },
    }
}

fn check_address(value: &str) -> Result<(), String> {
    let allowed = |c: char| !c.is_whitespace() && !c.is_control() && !"<>()[],;:\\\"".contains(c);
    let good = value.len() <= 254
        && value.chars().all(allowed)
        && value.rsplit_once('@').is_some_and(|(local, domain)| {
            (1..=64).contains(&local.len())
                && !local.contains('@')
                && domain.split('.').count() >= 2
                && domain.split('.').all(|label| !label.is_empty())
        });
    if good { Ok(()) } else { Err("is no email address".to_owned()) }
}

/// Whether a refusal names the sender or the recipients: Resend quotes a field's name.
fn is_about_addresses(message: &serde_json::Value) -> bool {
    let message = message.as_str().unwrap_or_default();
    ["`from`", "`to`", "\"from\"", "\"to\""].iter().any(|field| message.contains(field))
}

impl Destination for Email {
    // The key is kept with the body for a day: the body must come from the event alone.
    fn build(&self, item: &Item<'_>) -> Result<Request, Verdict> {
        let message = Message::of(item.event);
        let mut text = format!("{}: {}\n\n", message.title, one_line(&message.headline, 1_000));
        for fact in &message.facts {
            text.push_str(&format!("{}: {}\n", fact.label, one_line(&fact.value, 1_000)));
            if let Some(url) = &fact.link {
                text.push_str(&format!("{url}\n"));
            }
        }
        text.push_str(&format!(
            "\nProject: {}\nTime: {}\nEvent: {}\n",
            item.event.project, item.event.occurred_at, item.event.id
        ));
        let body = json!({
            "from": self.from,
            "to": self.to,
            "subject": one_line(&message.subject(), 200),
            "text": text,
            "tags": [{"name": "event_type", "value": item.event.kind.as_str().replace('.', "_")}],
        });
        Ok(Request::post_value(self.url.clone(), &body)
            .secret_header(AUTHORIZATION, self.authorization.clone())
            .header(IDEMPOTENCY_KEY, item.delivery_id.to_string()))
    }

    fn judge(&self, _: &Item<'_>, response: &Response) -> Verdict {
        let json = response.json();
        let detail = response.detail();
        match (response.status, json["name"].as_str().unwrap_or_default()) {
            (200..=299, _) if json["id"].is_string() => Verdict::Delivered,
            (200..=299, _) => Verdict::retry(Reason::UnexpectedResponse, detail),
            (_, "missing_api_key" | "restricted_api_key" | "invalid_api_key") => {
                Verdict::broken(Reason::Unauthorized, detail)
            }
            // Both addresses come from the configuration: each mail would be refused.
            (_, "invalid_from_address") => Verdict::broken(Reason::PrerequisiteMissing, detail),
            (400 | 422, "validation_error") if is_about_addresses(&json["message"]) => {
                Verdict::broken(Reason::PrerequisiteMissing, detail)
            }
            // The domain is not verified, or the account may only write to its owner.
            (403, name) if !name.is_empty() => Verdict::broken(Reason::Forbidden, detail),
            (_, "daily_quota_exceeded" | "monthly_quota_exceeded") => {
                let after = response.retry_after().unwrap_or(QUOTA_WAIT).max(QUOTA_WAIT);
                Verdict::retry_after(Reason::QuotaExceeded, detail, after)
            }
            // Another request with this key is under way, perhaps our own that timed out.
            (409, "concurrent_idempotent_requests") => Verdict::retry(Reason::NotReady, detail),
            _ => judge_status(response),
        }
    }
}
