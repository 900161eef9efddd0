//! Amplitude's HTTP V2 API: an event per event. <https://amplitude.com/docs/apis/analytics/http-v2>

use std::{slice, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use url::Url;

use super::{
    BatchLimits, Batching, Category, Currency, Destination, Field, Item, Rate, Record, Request, Response,
    SettingError, Settings, Spec, identity, judge_alone, judge_culprits, judge_status, judge_together,
};
use crate::{
    delivery::{Reason, Verdict},
    event::{EventData, EventType},
};

pub const SPEC: Spec = Spec {
    title: "Amplitude",
    category: Category::Analytics,
    docs: "https://amplitude.com/docs/apis/analytics/http-v2",
    fields: &[
        Field::secret("apiKey", "The project's API key.", "0123456789abcdef0123456789abcdef"),
        Field::REGION,
    ],
    // Starter projects may send 100 batches and 1,000 events per second: ten batches of a hundred.
    rate: Some(Rate { per_second: 5.0, burst: 5 }),
    concurrency: 8,
    dedup: "insert_id, 7 days",
    forgets_repeats_after: Some(Duration::from_secs(7 * 24 * 3600)),
    becomes: |kind| match kind {
        EventType::PaymentSettled => "an event with revenue",
        _ => "an event",
    },
    make: |settings, _| Ok(Box::new(Amplitude::new(settings)?)),
    ..Spec::BASE
};

/// A text may have 1,024 characters; an event of 500 each stays far below the request's 1 MB.
const MAX_TEXT_CHARS: usize = 500;
/// How long a throttled user or device is to be left alone.
const THROTTLE: Duration = Duration::from_secs(30);
/// Ids that are refused because broken client libraries send them for everybody.
const NOBODY: &[&str] = &[
    "anonymous", "nil", "none", "null", "n/a", "na", "undefined", "unknown", "0", "-1", "true",
    "false", "[]", "{}", "lmy47d", "00000000-0000-0000-0000-000000000000",
];

#[derive(Debug)]
struct Amplitude {
    url: Url,
    key: SecretString,
}

impl Amplitude {
    fn new(settings: &Settings) -> Result<Self, SettingError> {
        let url = if settings.is_eu() { "https://api.eu.amplitude.com/2/httpapi" } else { "https://api2.amplitude.com/2/httpapi" };
        Ok(Self { url: settings.endpoint(url)?, key: settings.secret("apiKey")? })
    }
}

fn entry(item: &Item<'_>) -> Value {
    let event = item.event;
    let record = Record::of(event);
    let project = event.project.as_str();
    let customer = record.customer.as_deref().unwrap_or(project);
    let is_nobody =
        customer.is_empty() || NOBODY.contains(&customer.to_ascii_lowercase().as_str());
    let user = if is_nobody { format!("project:{project}") } else { customer.to_owned() };
    let mut properties = record.properties(MAX_TEXT_CHARS);
    properties.insert("projectId".to_owned(), project.into());
    properties.insert("eventId".to_owned(), event.id.as_str().into());
    let mut entry = json!({
        "event_type": event.kind,
        "user_id": identity(&user, 255),
        "time": event.occurred_at.millis(),
        "insert_id": item.delivery_id,
        "event_properties": properties,
    });
    // Revenue stands on settled payments only, or it would count twice; and not without its
    // currency, or it would count as another.
    if let EventData::PaymentSettled(settled) = &event.data
        && let Some(currency) = Currency::of(record.currency)
    {
        entry["currency"] = currency.code().into();
        entry["revenue"] = settled.payment.amount.to_f64().into();
        entry["revenueType"] = "api_payment".into();
    }
    entry
}

impl Destination for Amplitude {
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

impl Batching for Amplitude {
    fn limits(&self) -> BatchLimits {
        // 2,000 are allowed and 10 advised, because one user may have but 30 a second.
        BatchLimits { items: 100, bytes: 1_000_000 }
    }

    fn build(&self, items: &[Item<'_>]) -> Result<Request, Verdict> {
        let events: Vec<Value> = items.iter().map(entry).collect();
        let body = json!({
            "api_key": self.key.expose_secret(),
            "options": {"min_id_length": 1},
            "events": events,
        });
        Ok(Request::post_value(self.url.clone(), &body))
    }

    fn judge(&self, items: &[Item<'_>], response: &Response) -> Vec<Verdict> {
        let json = response.json();
        let detail = response.detail();
        let verdict = match response.status {
            200..=299 if json["code"] == 200 => Verdict::Delivered,
            200..=299 => Verdict::retry(Reason::UnexpectedResponse, detail),
            400 => {
                let error = json["error"].as_str().unwrap_or_default().to_ascii_lowercase();
                if error.contains("invalid api key") || error.contains("missing api_key") {
                    Verdict::broken(Reason::Unauthorized, detail)
                } else {
                    return judge_invalid(items, &json, &detail);
                }
            }
            // The firewall, not the key.
            403 => Verdict::retry(Reason::Forbidden, detail),
            429 => return judge_throttled(items, &json, response),
            _ => judge_status(response),
        };
        judge_together(items, verdict)
    }
}

/// The answer names the events that are wrong, by field or plainly; none of them all was stored.
fn judge_invalid(items: &[Item<'_>], json: &Value, detail: &str) -> Vec<Verdict> {
    let by_field =
        ["events_with_invalid_fields", "events_with_missing_fields", "events_with_invalid_id_lengths"];
    let lists = by_field
        .iter()
        .filter_map(|name| json[name].as_object())
        .flat_map(|fields| fields.values())
        .chain([&json["silenced_events"]]);
    let culprits = named(items, lists);
    if culprits.contains(&true) {
        judge_culprits(&culprits, detail)
    } else {
        judge_together(items, Verdict::dead(Reason::Rejected, detail))
    }
}

fn judge_throttled(items: &[Item<'_>], json: &Value, response: &Response) -> Vec<Verdict> {
    let detail = response.detail();
    let throttled = named(items, [&json["throttled_events"]].into_iter());
    let after = response.retry_after().unwrap_or(THROTTLE);
    let all = !throttled.contains(&true);
    let judge = |is_throttled| {
        let after = (is_throttled || all).then_some(after);
        Verdict::retry_after(Reason::RateLimited, detail.as_str(), after)
    };
    throttled.into_iter().map(judge).collect()
}

/// Which items some lists of indexes name.
fn named<'a>(items: &[Item<'_>], lists: impl Iterator<Item = &'a Value>) -> Vec<bool> {
    let mut named = vec![false; items.len()];
    for index in lists.filter_map(Value::as_array).flatten().filter_map(Value::as_u64) {
        if let Some(name) = usize::try_from(index).ok().and_then(|index| named.get_mut(index)) {
            *name = true;
        }
    }
    named
}
