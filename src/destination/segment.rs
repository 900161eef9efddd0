//! Segment's tracking API: a track call per event.
//!
//! <https://www.twilio.com/docs/segment/connections/sources/catalog/libraries/server/http-api>.
//! Segment answers 200 to nearly everything, a wrong write key included, so "delivered" means
//! "accepted".

use std::{slice, time::Duration};

use http::{HeaderValue, header::AUTHORIZATION};
use serde_json::{Value, json};
use url::Url;

use super::{
    BatchLimits, Batching, Category, Checks, Currency, Destination, Field, Item, Rate, Record, Request,
    Response, SettingError, Settings, Spec, identity, is_word, judge_alone,
    judge_status, judge_together, wire::basic_user,
};
use crate::{
    delivery::{Reason, Verdict},
    event::{EventData, EventType},
};

pub const SPEC: Spec = Spec {
    title: "Segment",
    category: Category::Analytics,
    docs: "https://www.twilio.com/docs/segment/connections/sources/catalog/libraries/server/http-api",
    fields: &[
        Field::secret(
            "writeKey",
            "The write key of an HTTP API source.",
            "abcdefghijklmnopqrstuvwxyz012345",
        )
        .checked(check_key),
        Field::REGION,
    ],
    // About 1,000 requests per second for a whole workspace are suggested; we take a share.
    rate: Some(Rate { per_second: 200.0, burst: 200 }),
    dedup: "messageId, about 24 hours",
    forgets_repeats_after: Some(Duration::from_secs(24 * 3600)),
    becomes: |kind| match kind {
        EventType::PaymentSettled => "a track call with revenue",
        _ => "a track call",
    },
    make: |settings, _| Ok(Box::new(Segment::new(settings)?)),
    ..Spec::BASE
};

/// One call may have 32 KB: at most seven texts of six bytes per character in JSON.
const MAX_TEXT_CHARS: usize = 500;

#[derive(Debug)]
struct Segment {
    url: Url,
    authorization: HeaderValue,
}

impl Segment {
    fn new(settings: &Settings) -> Result<Self, SettingError> {
        let url = if settings.is_eu() { "https://events.eu1.segmentapis.com/v1/batch" } else { "https://api.segment.io/v1/batch" };
        Ok(Self {
            url: settings.endpoint(url)?,
            authorization: settings.secret_header("writeKey", basic_user)?,
        })
    }
}

fn check_key(value: &str, _: &Checks<'_>) -> Result<(), String> {
    if is_word(value, "", 10..=64) { Ok(()) } else { Err("must be a write key of 10 to 64 letters and digits".to_owned()) }
}

/// `payment.settled` as Segment's events are named: `Payment Settled`.
fn name(kind: EventType) -> String {
    let capitalized = |word: &str| {
        let mut chars = word.chars();
        let first = chars.next().map(|c| c.to_ascii_uppercase());
        first.into_iter().chain(chars).collect::<String>()
    };
    kind.as_str().split(['.', '_']).map(capitalized).collect::<Vec<_>>().join(" ")
}

fn track(item: &Item<'_>) -> Value {
    let event = item.event;
    let record = Record::of(event);
    let mut properties = record.properties(MAX_TEXT_CHARS);
    properties.insert("projectId".to_owned(), event.project.as_str().into());
    properties.insert("eventId".to_owned(), event.id.as_str().into());
    // Segment's `currency` is an ISO 4217 code; what was paid with is the asset.
    if let Some(asset) = properties.shift_remove("currency") {
        properties.insert("asset".to_owned(), asset);
    }
    let currency = Currency::of(record.currency);
    if let Some(currency) = currency {
        properties.insert("currency".to_owned(), currency.code().into());
    }
    // Segment sums up `revenue`: it stands on settled payments only, or it would count twice, and
    // not without its currency, or it would count as dollars.
    if let EventData::RevenueDailySummary(_) = &event.data
        && let Some(revenue) = properties.shift_remove("revenue")
    {
        properties.insert("dailyRevenue".to_owned(), revenue);
    }
    if let EventData::PaymentSettled(settled) = &event.data
        && currency.is_some()
    {
        properties.insert("revenue".to_owned(), settled.payment.amount.to_f64().into());
    }
    json!({
        "type": "track",
        "event": name(event.kind),
        "userId": identity(record.customer.as_deref().unwrap_or(event.project.as_str()), 255),
        "messageId": item.delivery_id,
        "timestamp": event.occurred_at,
        "properties": properties,
        "context": {"ip": "0.0.0.0"},
    })
}

impl Destination for Segment {
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

impl Batching for Segment {
    fn limits(&self) -> BatchLimits {
        BatchLimits { items: 500, bytes: 500_000 }
    }

    fn build(&self, items: &[Item<'_>]) -> Result<Request, Verdict> {
        let batch: Vec<Value> = items.iter().map(track).collect();
        Ok(Request::post_value(self.url.clone(), &json!({"batch": batch}))
            .secret_header(AUTHORIZATION, self.authorization.clone()))
    }

    fn judge(&self, items: &[Item<'_>], response: &Response) -> Vec<Verdict> {
        let detail = response.detail();
        let verdict = match response.status {
            // A repeat is dropped by its messageId, so an odd answer may be asked again.
            200..=299 if response.json()["success"] != true => {
                Verdict::retry(Reason::UnexpectedResponse, detail)
            }
            429 => {
                let after =
                    response.retry_after().or(response.header_seconds("x-ratelimit-reset"));
                Verdict::retry_after(Reason::RateLimited, detail, after)
            }
            _ => judge_status(response),
        };
        judge_together(items, verdict)
    }
}
