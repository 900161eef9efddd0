//! Opsgenie alerts, and those of its successor, Jira Service Management.
//!
//! <https://docs.opsgenie.com/docs/alert-api>. Opsgenie ends on 5 April 2027; accounts that have
//! moved are refused there and served by the successor, which takes the same key and body. Which
//! of them serves a key is asked once, with an alert that has no message: whoever knows the key
//! complains about the message, the other about the key. Nothing is created by that.

use http::{HeaderValue, header::AUTHORIZATION};
use serde_json::json;
use url::Url;

use super::{
    Category, Checks, Destination, Field, Item, Message, Rate, Record, Request, Response,
    SettingError, Settings, Setup, Spec, cut,
    incident::{self, Incidents},
    judge_status, one_line, token,
};
use crate::{
    delivery::{Reason, Skip, Verdict},
    event::{Event, EventType, EventTypes},
};

pub const SPEC: Spec = Spec {
    title: "Opsgenie",
    category: Category::Monitoring,
    docs: "https://docs.opsgenie.com/docs/alert-api#create-alert",
    fields: &[
        Field::secret(
            "apiKey",
            "The key of an API integration (not one of API key management).",
            "00000000-1111-2222-3333-444444444444",
        )
        .checked(check_key),
        Field::REGION,
        incident::DEDUP,
        incident::RESOLVE,
    ],
    // A bucket whose size depends on the account's plan.
    rate: Some(Rate { per_second: 5.0, burst: 10 }),
    concurrency: 4,
    dedup: "alias while the alert is open",
    becomes: |kind| match kind {
        EventType::PaymentFailed
        | EventType::ConnectorSuspended
        | EventType::ConnectorFailing => "an alert of priority P3",
        EventType::ConnectorResumed | EventType::ConnectorRecovered => {
            "the end of the connector's alert"
        }
        EventType::PaymentSettled => {
            "nothing unless named in eventTypes, then an alert of priority P5, or the end of the \
             endpoint's alert (resolve)"
        }
        _ => "nothing unless named in eventTypes, then an alert of priority P5",
    },
    check: incident::check,
    make: |settings, event_types| Ok(Box::new(Opsgenie::new(settings, event_types)?)),
    ..Spec::BASE
};

/// What [`Destination::setup`] remembers when the successor serves the key.
const MOVED: &str = "jsm";

/// How much of the successor's answer stands behind the first one.
const MAX_SUCCESSOR_CHARS: usize = 60;

#[derive(Debug)]
struct Opsgenie {
    alerts: Url,
    successor: Url,
    authorization: HeaderValue,
    event_types: EventTypes,
    incidents: Incidents,
}

impl Opsgenie {
    fn new(settings: &Settings, event_types: &EventTypes) -> Result<Self, SettingError> {
        let host = if settings.is_eu() { "api.eu.opsgenie.com" } else { "api.opsgenie.com" };
        let successor = "https://api.atlassian.com/jsm/ops/integration/v2/alerts";
        Ok(Self {
            alerts: settings.endpoint(&format!("https://{host}/v2/alerts"))?,
            successor: settings.endpoint(successor)?,
            authorization: settings.secret_header("apiKey", |key| format!("GenieKey {key}"))?,
            event_types: event_types.clone(),
            incidents: Incidents::of(settings),
        })
    }

    fn post(&self, url: &Url, body: &serde_json::Value) -> Request {
        Request::post_value(url.clone(), body)
            .secret_header(AUTHORIZATION, self.authorization.clone())
    }
}

fn check_key(value: &str, checks: &Checks<'_>) -> Result<(), String> {
    token(value, checks)?;
    if value.len() > 128 { Err("must have at most 128 characters".to_owned()) } else { Ok(()) }
}

/// Whether an answer means that this host does not serve the key.
fn is_unknown_key(response: &Response) -> bool {
    match response.status {
        401 | 403 | 404 | 410 => true,
        422 => response.text().to_ascii_lowercase().contains("key format"),
        _ => false,
    }
}

impl Destination for Opsgenie {
    fn skips(&self, event: &Event) -> Option<Skip> {
        let wanted = Incidents::opens(event)
            || self.event_types.names(event.kind)
            || self.incidents.resolves(event).is_some();
        (!wanted).then_some("no alert unless the event type is named")
    }

    fn setup(&self, answers: &[Response]) -> Setup {
        let url = match answers {
            [] => &self.alerts,
            [first] if is_unknown_key(first) => &self.successor,
            // The first answer may say more than that the key is wrong.
            [first, second] if is_unknown_key(second) => {
                let (first, second) = (first.detail(), second.detail());
                let second = cut(&second, MAX_SUCCESSOR_CHARS);
                let detail = format!("{first} (and from Jira Service Management: {second})");
                return Setup::Failed(Verdict::broken(Reason::Unauthorized, detail));
            }
            [.., last] if matches!(last.status, 408 | 425 | 429 | 500..) => {
                return Setup::failed(judge_status(last));
            }
            [_] => return Setup::Ready("".into()),
            [..] => return Setup::Ready(MOVED.into()),
        };
        Setup::Ask(self.post(url, &json!({})))
    }

    fn build(&self, item: &Item<'_>) -> Result<Request, Verdict> {
        let event = item.event;
        let alerts = if item.setup == MOVED { &self.successor } else { &self.alerts };
        if let Some(alias) = self.incidents.resolves(event) {
            let mut url = alerts.clone();
            if let Ok(mut path) = url.path_segments_mut() {
                path.push(&alias).push("close");
            }
            url.query_pairs_mut().append_pair("identifierType", "alias");
            let source = one_line(event.project.as_str(), 100);
            let note = one_line(&Message::of(event).subject(), 1_000);
            return Ok(self.post(&url, &json!({"source": source, "note": note})));
        }
        let record = Record::of(event);
        let message = Message::of(event);
        let priority = if Incidents::opens(event) { "P3" } else { "P5" };
        // Details may have 8,000 characters in all.
        let mut details = record.texts(500);
        details.insert("eventId".to_owned(), event.id.as_str().into());
        let mut description = one_line(&message.subject(), 1_000);
        for fact in &message.facts {
            description.push_str(&format!("\n{}: {}", fact.label, one_line(&fact.value, 1_000)));
            if let Some(url) = &fact.link {
                description.push_str(&format!("\n{url}"));
            }
        }
        let body = json!({
            "message": one_line(&message.incident(), 130),
            "alias": self.incidents.key(item),
            "description": description,
            "priority": priority,
            "source": one_line(event.project.as_str(), 100),
            "entity": one_line(record.endpoint.unwrap_or(event.project.as_str()), 512),
            "tags": [event.kind],
            "details": details,
        });
        Ok(self.post(alerts, &body))
    }

    fn judge(&self, item: &Item<'_>, response: &Response) -> Verdict {
        let detail = response.detail();
        match response.status {
            200..=299 if response.json()["requestId"].is_string() => Verdict::Delivered,
            200..=299 => Verdict::retry(Reason::UnexpectedResponse, detail),
            // Perhaps the account has moved since it was asked for.
            _ if is_unknown_key(response) && item.setup != MOVED => {
                Verdict::retry(Reason::PrerequisiteMissing, detail)
            }
            402 => Verdict::broken(Reason::Forbidden, detail),
            422 if is_unknown_key(response) => Verdict::broken(Reason::Unauthorized, detail),
            429 => {
                let period = response.header_seconds("x-ratelimit-period-in-sec");
                let after = response.retry_after().or(period);
                Verdict::retry_after(Reason::RateLimited, detail, after)
            }
            _ => judge_status(response),
        }
    }
}
