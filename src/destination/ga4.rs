//! Google Analytics 4, Measurement Protocol: an event per event.
//!
//! <https://developers.google.com/analytics/devguides/collection/protocol/ga4/reference>. Google
//! answers 204 to everything, a wrong secret included, so "delivered" means "accepted".
//!
//! Only a purchase is recognised when it comes again. Any other event that got no answer may have
//! been counted, and a repeat would be counted for ever: nobody sees it, and nothing takes it out
//! of a property's figures. As a dead letter it can be seen, and sent again by who wants to.

use std::{slice, time::Duration};

use serde_json::{Value, json};

use super::{
    BatchLimits, Batching, Category, Checks, Currency, Destination, Field, Item, Record, Request, Response,
    SecretUrl, SettingError, Settings, Spec, cut, is_word, judge_alone, judge_status,
    judge_together, record::hashed,
};
use crate::{
    clock::Timestamp,
    delivery::Verdict,
    event::{EventData, EventType},
};

pub const SPEC: Spec = Spec {
    title: "Google Analytics 4",
    category: Category::Analytics,
    docs: "https://developers.google.com/analytics/devguides/collection/protocol/ga4/reference",
    fields: &[
        Field::text("measurementId", "The measurement id of a web data stream.", "G-ABCDE12345")
            .checked(check_id),
        Field::secret(
            "apiSecret",
            "A Measurement Protocol API secret of the stream.",
            "abcdefghijklmnopqrstuv",
        ),
        Field::REGION,
    ],
    concurrency: 8,
    dedup: "transaction_id, for purchases; others are not repeated after a timeout",
    max_event_age: Some(MAX_AGE),
    becomes: |kind| match kind {
        EventType::PaymentSettled => "a purchase",
        _ => "an event",
    },
    make: |settings, _| Ok(Box::new(Ga4::new(settings)?)),
    ..Spec::BASE
};

const MAX_TEXT_CHARS: usize = 100;
/// An older event is taken only without its time.
const MAX_AGE: Duration = Duration::from_secs(72 * 3600);

/// How long a session lasts without a sign of life.
const SESSION_SECONDS: i64 = 1_800;

#[derive(Debug)]
struct Ga4 {
    url: SecretUrl,
}

impl Ga4 {
    fn new(settings: &Settings) -> Result<Self, SettingError> {
        let host = if settings.is_eu() { "region1" } else { "www" };
        let mut url =
            settings.endpoint(&format!("https://{host}.google-analytics.com/mp/collect"))?;
        url.query_pairs_mut()
            .append_pair("measurement_id", settings.text("measurementId")?)
            .append_pair("api_secret", settings.text("apiSecret")?);
        Ok(Self { url: SecretUrl(url) })
    }
}

fn check_id(value: &str, _: &Checks<'_>) -> Result<(), String> {
    match value.strip_prefix("G-") {
        Some(rest) if is_word(rest, "", 4..=20) && rest == rest.to_ascii_uppercase() => Ok(()),
        _ => Err("must look like G-ABCDE12345".to_owned()),
    }
}

/// Who did it: a pseudonym of the customer within the project, because wallets are personal data
/// that Google Analytics must not get.
fn client_id(item: &Item<'_>) -> String {
    let project = item.event.project.as_str();
    match Record::of(item.event).customer {
        None => project.to_owned(),
        Some(customer) => format!("{project}.{}", &hashed(&customer)[..32]),
    }
}

/// The session that an event belongs to; without one it is missing from the reports of the last
/// half hour. A session ends after half an hour, so the half hours of the clock are as good as any.
fn session_id(at: Timestamp) -> String {
    let seconds = at.millis().div_euclid(1_000);
    (seconds - seconds.rem_euclid(SESSION_SECONDS)).to_string()
}

fn entry(item: &Item<'_>) -> Value {
    let event = item.event;
    let record = Record::of(event);
    let mut params = record.properties(MAX_TEXT_CHARS);
    params.shift_remove("customerId");
    params.insert("projectId".to_owned(), cut(event.project.as_str(), MAX_TEXT_CHARS).into());
    params.insert("eventId".to_owned(), cut(event.id.as_str(), MAX_TEXT_CHARS).into());
    params.insert("engagement_time_msec".to_owned(), 1.into());
    params.insert("session_id".to_owned(), session_id(event.occurred_at).into());
    // `currency` is an ISO 4217 code; what was paid with is the asset.
    if let Some(asset) = params.shift_remove("currency") {
        params.insert("asset".to_owned(), asset);
    }
    if let Some(currency) = Currency::of(record.currency) {
        params.insert("currency".to_owned(), currency.code().into());
    }
    let mut name = event.kind.as_str().replace('.', "_");
    // Only a purchase has a `value`, or revenue would count twice.
    if let EventData::PaymentSettled(settled) = &event.data {
        "purchase".clone_into(&mut name);
        let endpoint = cut(&settled.payment.endpoint_id, MAX_TEXT_CHARS);
        let value = settled.payment.amount.to_f64();
        params.insert("transaction_id".to_owned(), item.delivery_id.to_string().into());
        let mut bought = json!({"item_id": endpoint, "item_name": endpoint, "quantity": 1});
        // A value without a currency is not counted at all, a price as one in the property's own.
        if params.contains_key("currency") {
            params.insert("value".to_owned(), value.into());
            bought["price"] = value.into();
        }
        params.insert("items".to_owned(), json!([bought]));
    }
    let mut entry = json!({"name": name, "params": params});
    if item.sent_at.since(event.occurred_at) < MAX_AGE {
        entry["timestamp_micros"] = event.occurred_at.millis().saturating_mul(1_000).into();
    }
    entry
}

impl Destination for Ga4 {
    fn build(&self, item: &Item<'_>) -> Result<Request, Verdict> {
        Batching::build(self, slice::from_ref(item))
    }

    fn judge(&self, item: &Item<'_>, response: &Response) -> Verdict {
        judge_alone(self, item, response)
    }

    fn repeats_unanswered(&self, item: &Item<'_>) -> bool {
        item.event.kind == EventType::PaymentSettled
    }

    fn batching(&self) -> Option<&dyn Batching> {
        Some(self)
    }
}

impl Batching for Ga4 {
    fn limits(&self) -> BatchLimits {
        BatchLimits { items: 25, bytes: 130_000 }
    }

    /// A request is of one client.
    fn takes(&self, batch: &[Item<'_>], next: &Item<'_>) -> bool {
        batch.first().is_none_or(|first| client_id(first) == client_id(next))
    }

    fn build(&self, items: &[Item<'_>]) -> Result<Request, Verdict> {
        let events: Vec<Value> = items.iter().map(entry).collect();
        let body = json!({
            "client_id": items.first().map(client_id),
            "non_personalized_ads": true,
            "events": events,
        });
        Ok(Request::post_value(self.url.0.clone(), &body))
    }

    fn judge(&self, items: &[Item<'_>], response: &Response) -> Vec<Verdict> {
        judge_together(items, judge_status(response))
    }
}
