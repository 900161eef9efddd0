//! `PagerDuty` Events API v2: a failed payment is an alert, and so is a connector in trouble;
//! everything else is a change event, which shows on the service's timeline and notifies no one. A
//! settled payment may end the alert instead.
//!
//! <https://developer.pagerduty.com/docs/events-api-v2-overview>

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use url::Url;

use super::{
    Category, Checks, Destination, Field, Item, Message, Rate, Record, Request, Response,
    SettingError, Settings, Spec,
    incident::{self, Incidents},
    is_word, judge_status, one_line,
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
        incident::DEDUP,
        incident::RESOLVE,
    ],
    // About 120 events a minute for one key.
    rate: Some(Rate { per_second: 1.6, burst: 20 }),
    concurrency: 4,
    dedup: "dedup_key while the alert is open; none for change events",
    becomes: |kind| match kind {
        EventType::PaymentFailed
        | EventType::ConnectorSuspended
        | EventType::ConnectorFailing => "an alert of severity error",
        EventType::ConnectorResumed | EventType::ConnectorRecovered => {
            "the end of the connector's alert"
        }
        EventType::PaymentSettled => "a change event, or the end of the endpoint's alert (resolve)",
        _ => "a change event",
    },
    check: incident::check,
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
    incidents: Incidents,
}

impl PagerDuty {
    fn new(settings: &Settings) -> Result<Self, SettingError> {
        let host = if settings.is_eu() { "events.eu.pagerduty.com" } else { "events.pagerduty.com" };
        Ok(Self {
            alerts: settings.endpoint(&format!("https://{host}/v2/enqueue"))?,
            changes: settings.endpoint(&format!("https://{host}/v2/change/enqueue"))?,
            key: settings.secret("routingKey")?,
            incidents: Incidents::of(settings),
        })
    }
}

fn check_key(value: &str, _: &Checks<'_>) -> Result<(), String> {
    if is_word(value, "", 32..=32) { Ok(()) } else { Err("must be an integration key of 32 letters and digits".to_owned()) }
}

impl Destination for PagerDuty {
    fn skips(&self, event: &Event) -> Option<Skip> {
        let is_ruleset = self.key.expose_secret().starts_with('R');
        let is_alert = Incidents::opens(event) || self.incidents.resolves(event).is_some();
        (is_ruleset && !is_alert)
            .then_some("the key of a ruleset takes no change events")
    }

    fn build(&self, item: &Item<'_>) -> Result<Request, Verdict> {
        let event = item.event;
        let key = self.key.expose_secret();
        if let Some(dedup_key) = self.incidents.resolves(event) {
            let body = json!({
                "routing_key": key,
                "event_action": "resolve",
                "dedup_key": dedup_key,
            });
            return Ok(Request::post_value(self.alerts.clone(), &body));
        }
        let record = Record::of(event);
        let message = Message::of(event);
        let project = event.project.as_str();
        let mut details = record.texts(1_000);
        details.insert("eventId".to_owned(), event.id.as_str().into());
        details.insert("deliveryId".to_owned(), item.delivery_id.to_string().into());
        let mut payload = json!({
            "summary": one_line(&message.incident(), 1_024),
            "source": project,
            "timestamp": event.occurred_at,
            "custom_details": details,
        });
        if !Incidents::opens(event) {
            let mut body = json!({"routing_key": key, "payload": payload});
            let links: Vec<Value> = message
                .facts
                .iter()
                .filter_map(|fact| Some(json!({"href": fact.link.as_deref()?, "text": fact.label})))
                .collect();
            if !links.is_empty() {
                body["links"] = links.into();
            }
            return Ok(Request::post_value(self.changes.clone(), &body));
        }
        payload["severity"] = "error".into();
        payload["component"] = one_line(record.endpoint.unwrap_or(project), 255).into();
        payload["group"] = project.into();
        payload["class"] = event.kind.as_str().into();
        let body = json!({
            "routing_key": key,
            "event_action": "trigger",
            "dedup_key": self.incidents.key(item),
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
