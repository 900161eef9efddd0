//! Mixpanel's import API: an event per event, stored for any age.
//!
//! <https://developer.mixpanel.com/reference/import-events>

use std::slice;

use http::{HeaderValue, header::AUTHORIZATION};
use serde_json::{Value, json};
use url::Url;

use super::{
    BatchLimits, Batching, Category, Destination, Field, Item, Record, Request, Response,
    SettingError, Settings, Spec, identity, judge_alone, judge_status, judge_together,
    wire::basic_user,
};
use crate::delivery::{Reason, Verdict};

pub const SPEC: Spec = Spec {
    title: "Mixpanel",
    category: Category::Analytics,
    docs: "https://developer.mixpanel.com/reference/import-events",
    fields: &[
        Field::secret(
            "projectToken",
            "The project's token.",
            "0123456789abcdef0123456789abcdef",
        ),
        Field::text(
            "region",
            "Where the project's data is: \"us\" (default), \"eu\" or \"in\".",
            "us",
        )
        .one_of(&["us", "eu", "in"])
        .optional(),
    ],
    // 2 GB or about 1.8 million events a minute: no limit that a connector of ours reaches.
    concurrency: 8,
    dedup: "$insert_id with event, time and distinct_id",
    forgets_repeats_after: None,
    becomes: |_| "an event",
    make: |settings, _| Ok(Box::new(Mixpanel::new(settings)?)),
    ..Spec::BASE
};

/// Mixpanel cuts texts at 255 bytes itself.
const MAX_TEXT_CHARS: usize = 255;
/// Words that client libraries send for "nobody", which are refused as a `distinct_id`.
const NOBODY: &[&str] = &[
    "00000000-0000-0000-0000-000000000000", "anon", "anonymous", "nil", "none", "null", "n/a",
    "na", "undefined", "unknown", "0", "-1", "true", "false", "[]", "{}", "lmy47d",
];

#[derive(Debug)]
struct Mixpanel {
    url: Url,
    authorization: HeaderValue,
}

impl Mixpanel {
    fn new(settings: &Settings) -> Result<Self, SettingError> {
        let host = match settings.optional("region") {
            Some("eu") => "api-eu",
            Some("in") => "api-in",
            _ => "api",
        };
        Ok(Self {
            url: settings.endpoint(&format!("https://{host}.mixpanel.com/import?strict=1"))?,
            authorization: settings.secret_header("projectToken", basic_user)?,
        })
    }
}

fn entry(item: &Item<'_>) -> Value {
    let event = item.event;
    let record = Record::of(event);
    // An event of no customer has an empty id: one id for all of them would be throttled.
    let customer = record.customer.as_deref().unwrap_or_default();
    let is_nobody = NOBODY.contains(&customer.to_ascii_lowercase().as_str());
    let customer = if is_nobody { "" } else { customer };
    let mut properties = serde_json::Map::new();
    properties.insert("time".to_owned(), event.occurred_at.millis().into());
    properties.insert("distinct_id".to_owned(), identity(customer, 255).into());
    properties.insert("$insert_id".to_owned(), item.delivery_id.to_string().into());
    // Without it, our own address would become the customer's place.
    properties.insert("ip".to_owned(), "0".into());
    properties.insert("projectId".to_owned(), event.project.as_str().into());
    properties.insert("eventId".to_owned(), event.id.as_str().into());
    properties.extend(record.properties(MAX_TEXT_CHARS));
    json!({"event": event.kind, "properties": properties})
}

impl Destination for Mixpanel {
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

impl Batching for Mixpanel {
    fn limits(&self) -> BatchLimits {
        BatchLimits { items: 2_000, bytes: 10_000_000 }
    }

    fn build(&self, items: &[Item<'_>]) -> Result<Request, Verdict> {
        let entries: Vec<Value> = items.iter().map(entry).collect();
        Ok(Request::post_value(self.url.clone(), &entries.into())
            .secret_header(AUTHORIZATION, self.authorization.clone()))
    }

    fn judge(&self, items: &[Item<'_>], response: &Response) -> Vec<Verdict> {
        let json = response.json();
        let detail = response.detail();
        let verdict = match response.status {
            200..=299 if json["code"] == 200 || json["status"] == "OK" => Verdict::Delivered,
            200..=299 => Verdict::retry(Reason::UnexpectedResponse, detail),
            // 400 is partial success: what is not listed was stored.
            400 if json["failed_records"].as_array().is_some_and(|list| !list.is_empty()) => {
                return judge_records(items, &json["failed_records"]);
            }
            _ => judge_status(response),
        };
        judge_together(items, verdict)
    }
}

fn judge_records(items: &[Item<'_>], failed: &Value) -> Vec<Verdict> {
    let mut verdicts = vec![Verdict::Delivered; items.len()];
    for record in failed.as_array().into_iter().flatten() {
        let index = record["index"].as_u64().and_then(|index| usize::try_from(index).ok());
        if let Some(verdict) = index.and_then(|index| verdicts.get_mut(index)) {
            let field = record["field"].as_str().unwrap_or_default();
            let message = record["message"].as_str().unwrap_or("refused");
            let detail = super::cut(&format!("{field}: {message}"), super::MAX_DETAIL_CHARS);
            *verdict = Verdict::dead(Reason::Rejected, detail);
        }
    }
    verdicts
}
