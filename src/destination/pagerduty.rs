//! `PagerDuty` Events API v2: a failed payment is an alert, everything else a change event, which
//! shows on the service's timeline and pages nobody.
//!
//! <https://developer.pagerduty.com/docs/events-api-v2-overview>

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use url::Url;

use super::{
    Category, Checks, Destination, Field, Item, Message, Rate, Record, Request, Response,
    SettingError, Settings, Spec, is_word, judge_status, one_line,
};
use crate::{
    delivery::{Reason, Skip, Verdict},
    event::{Event, EventType},
};

pub const SPEC: Spec = Spec {
    title: "PagerDuty",
    category: Category::Monitoring,
    docs: "https://developer.pagerduty.com/docs/send-alert-event",
    fields: &[
        Field::secret(
            "routingKey",
            "The integration key of an Events API v2 integration.",
            "0123456789abcdef0123456789abcdef",
        )
        .checked(check_key),
        Field::REGION,
    ],
    // About 120 events a minute for one key.
    rate: Some(Rate { per_second: 2.0, burst: 20 }),
    concurrency: 4,
    dedup: "dedup_key while the alert is open; none for change events",
    becomes: |kind| match kind {
        EventType::PaymentFailed => "an alert of severity error",
        _ => "a change event",
    },
    make: |settings, _| Ok(Box::new(PagerDuty::new(settings)?)),
    ..Spec::BASE
};

/// `PagerDuty` promises no Retry-After and advises to begin with this.
const RATE_LIMIT_WAIT: Duration = Duration::from_secs(30);

#[derive(Debug)]
struct PagerDuty {
    alerts: Url,
    changes: Url,
    key: SecretString,
}

impl PagerDuty {
    fn new(settings: &Settings) -> Result<Self, SettingError> {
        let host = if settings.is_eu() { "events.eu.pagerduty.com" } else { "events.pagerduty.com" };
        Ok(Self {
            alerts: settings.endpoint(&format!("https://{host}/v2/enqueue"))?,
            changes: settings.endpoint(&format!("https://{host}/v2/change/enqueue"))?,
            key: settings.secret("routingKey")?,
        })
    }
}

fn check_key(value: &str, _: &Checks<'_>) -> Result<(), String> {
    if is_word(value, "", 32..=32) { Ok(()) } else { Err("must be an integration key of 32 letters and digits".to_owned()) }
}

impl Destination for PagerDuty {
    fn skips(&self, event: &Event) -> Option<Skip> {
        let is_ruleset = self.key.expose_secret().starts_with('R');
        (is_ruleset && event.kind != EventType::PaymentFailed)
            .then_some("the key of a ruleset takes no change events")
    }

    fn build(&self, item: &Item<'_>) -> Result<Request, Verdict> {
        let event = item.event;
        let record = Record::of(event);
        let project = event.project.as_str();
        let mut details = record.texts(1_000);
        details.insert("eventId".to_owned(), event.id.as_str().into());
        details.insert("deliveryId".to_owned(), item.delivery_id.to_string().into());
        let mut payload = json!({
            "summary": one_line(&Message::of(event).subject(), 1_024),
            "source": project,
            "timestamp": event.occurred_at,
            "custom_details": details,
        });
        let key = self.key.expose_secret();
        if event.kind != EventType::PaymentFailed {
            let body = json!({"routing_key": key, "payload": payload});
            return Ok(Request::post_value(self.changes.clone(), &body));
        }
        payload["severity"] = "error".into();
        payload["component"] = one_line(record.endpoint.unwrap_or(project), 255).into();
        payload["group"] = project.into();
        payload["class"] = event.kind.as_str().into();
        let body = json!({
            "routing_key": key,
            "event_action": "trigger",
            "dedup_key": item.delivery_id,
            "payload": payload,
        });
        Ok(Request::post_value(self.alerts.clone(), &body))
    }

    fn judge(&self, _: &Item<'_>, response: &Response) -> Verdict {
        let json = response.json();
        let detail = response.detail();
        // A bad key is a 400; only the words tell it from a bad event.
        let words = format!("{} {}", json["message"], json["errors"]).to_ascii_lowercase();
        let is_key = words.contains("routing key") || words.contains("routing_key");
        match response.status {
            200..=299 if json["status"] == "success" => Verdict::Delivered,
            200..=299 => Verdict::retry(Reason::UnexpectedResponse, detail),
            400 if is_key => Verdict::broken(Reason::Unauthorized, detail),
            429 => {
                let after = response.retry_after().unwrap_or(RATE_LIMIT_WAIT);
                Verdict::retry_after(Reason::RateLimited, detail, after)
            }
            _ => judge_status(response),
        }
    }
}
