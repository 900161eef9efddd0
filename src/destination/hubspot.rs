//! `HubSpot` contacts: one per customer's wallet, kept up to date.
//!
//! <https://developers.hubspot.com/docs/api-reference/latest/crm/objects/contacts/batch/upsert-contacts>.
//! A contact is found by the unique property `dunmore_wallet`; this and the others are made once
//! per connector. Events that arrive late overwrite newer values of the same property. A contact
//! gets a name when it is made and never again, because people type better ones: which wallets
//! have a contact is asked before each request.

use std::{slice, time::Duration};

use http::HeaderValue;
use serde_json::{Map, Value, json};
use url::Url;

use super::{
    NO_NOTICES, check_no_notices,
    ACCESS_TOKEN, BatchLimits, Batching, Category, Credential, Destination, Field, Item, Rate, Record, Request, Response,
    SettingError, Settings, Setup, Spec, Way, credential::{self, ClientIn, Endpoint}, cut, identity, judge_alone, judge_status, judge_together,
};
use crate::{
    delivery::{Reason, Skip, Verdict},
    event::{Event, EventData, EventType},
};

pub const SPEC: Spec = Spec {
    title: "HubSpot",
    category: Category::Crm,
    docs: "https://developers.hubspot.com/docs/api-reference/latest/crm/objects/contacts/batch/upsert-contacts",
    fields: &[
        credential::CLIENT_ID_FIELD,
        credential::CLIENT_SECRET_FIELD,
        credential::REFRESH_TOKEN_FIELD,
        Field::secret(
            "accessToken",
            "A private app's token or service key with the scopes crm.objects.contacts.read, \
             crm.objects.contacts.write, crm.schemas.contacts.read and crm.schemas.contacts.write.",
            "pat-eu1-00000000-1111-2222-3333-444444444444",
        )
        .optional(),
    ],
    ways: &[
        credential::OF_OWN_APP,
        credential::OF_OPERATORS_APP,
        Way {
            fields: &[ACCESS_TOKEN],
            what: "for production with a private app's token or service key; for tests with an \
                   OAuth token, which ends after 30 minutes",
        },
    ],
    // The refresh token stays the same, so every instance may use it.
    credential: |settings| {
        let endpoint = Endpoint::OfApi("https://api.hubapi.com/oauth/v1/token");
        Credential::refresh_token(settings, endpoint, ClientIn::Form)
    },
    // 100 requests in ten seconds for free and starter accounts; each upsert has a question first.
    rate: Some(Rate { per_second: 4.0, burst: 10 }),
    concurrency: 4,
    dedup: "upsert by the wallet: a repeat changes nothing",
    forgets_repeats_after: None,
    becomes: |kind| match kind {
        EventType::PaymentSettled
        | EventType::PaymentFailed
        | EventType::CustomerFirstPayment
        | EventType::CustomerMilestone => "the customer's contact, created or updated",
        kind if kind.is_notice() => NO_NOTICES,
        _ => "nothing",
    },
    check: |_, event_types| check_no_notices(event_types, "contacts"),
    make: |settings, _| Ok(Box::new(HubSpot::new(settings)?)),
    ..Spec::BASE
};

/// The version of the API: each is supported for 18 months.
const VERSION: &str = "2026-09";
const WALLET: &str = "dunmore_wallet";
/// The properties that contacts get: name, label, type, form field.
const PROPERTIES: &[(&str, &str, &str, &str)] = &[
    (WALLET, "Dunmore wallet", "string", "text"),
    ("dunmore_last_event", "Dunmore last event", "string", "text"),
    ("dunmore_last_event_at", "Dunmore last event at", "datetime", "date"),
    ("dunmore_last_amount", "Dunmore last amount", "number", "number"),
    ("dunmore_last_currency", "Dunmore last currency", "string", "text"),
    ("dunmore_last_endpoint", "Dunmore last endpoint", "string", "text"),
    ("dunmore_last_failure", "Dunmore last failure", "string", "text"),
    ("dunmore_first_payment_at", "Dunmore first payment at", "datetime", "date"),
    ("dunmore_milestone", "Dunmore milestone", "string", "text"),
    ("dunmore_total_spent", "Dunmore total spent", "number", "number"),
    ("dunmore_total_currency", "Dunmore total currency", "string", "text"),
];
/// What [`Destination::lookup`] finds out when the token may not read contacts.
const UNREADABLE: &str = "unreadable";
const MAX_TEXT_CHARS: usize = 500;
/// The daily limit ends at midnight of the account's time zone, which nobody tells.
const DAILY_WAIT: Duration = Duration::from_secs(3600);
const TEN_SECONDS: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct HubSpot {
    upsert: Url,
    read: Url,
    properties: Url,
    authorization: Option<HeaderValue>,
}

impl HubSpot {
    fn new(settings: &Settings) -> Result<Self, SettingError> {
        let api = "https://api.hubapi.com/crm";
        Ok(Self {
            upsert: settings
                .endpoint(&format!("{api}/objects/{VERSION}/contacts/batch/upsert"))?,
            read: settings.endpoint(&format!("{api}/objects/{VERSION}/contacts/batch/read"))?,
            properties: settings.endpoint(&format!("{api}/properties/{VERSION}/contacts"))?,
            authorization: settings.bearer()?,
        })
    }

    fn post(&self, url: Url, body: &Value) -> Request {
        Request::post_value(url, body).bearer(self.authorization.as_ref())
    }

    /// Asks which of the properties exist.
    fn read_properties(&self) -> Request {
        let mut url = self.properties.clone();
        url.set_path(&format!("{}/batch/read", self.properties.path()));
        let inputs: Vec<Value> =
            PROPERTIES.iter().map(|(name, ..)| json!({"name": name})).collect();
        self.post(url, &json!({"archived": false, "inputs": inputs}))
    }

    fn create_property(&self, name: &str) -> Option<Request> {
        let (name, label, kind, field) = PROPERTIES.iter().find(|(known, ..)| *known == name)?;
        let mut body = json!({
            "name": name,
            "label": label,
            "type": kind,
            "fieldType": field,
            "groupName": "contactinformation",
        });
        if *name == WALLET {
            body["hasUniqueValue"] = true.into();
        }
        Some(self.post(self.properties.clone(), &body))
    }
}

/// The wallet that names a contact.
fn wallet(item: &Item<'_>) -> String {
    let customer = Record::of(item.event).customer.unwrap_or_default();
    identity(&customer, 255).into_owned()
}

/// Whether a contact of this wallet is to be made, by what was found out; not when that is unknown.
fn is_new(item: &Item<'_>, wallet: &str) -> bool {
    match item.setup {
        "" => true,
        UNREADABLE => false,
        known => serde_json::from_str::<Vec<String>>(known)
            .is_ok_and(|known| !known.iter().any(|known| known == wallet)),
    }
}

/// What an event says about its customer.
fn contact(item: &Item<'_>) -> Map<String, Value> {
    let event = item.event;
    let record = Record::of(event);
    let at = event.occurred_at.to_string();
    let mut properties = Map::new();
    let mut set = |name: &str, value: &str| {
        properties.insert(name.to_owned(), cut(value, MAX_TEXT_CHARS).into());
    };
    let wallet = wallet(item);
    set(WALLET, &wallet);
    // A new contact must have a name or an address.
    if is_new(item, &wallet) {
        set("lastname", &wallet);
    }
    set("dunmore_last_event", event.kind.as_str());
    set("dunmore_last_event_at", &at);
    if let Some(endpoint) = record.endpoint {
        set("dunmore_last_endpoint", endpoint);
    }
    match &event.data {
        EventData::PaymentSettled(settled) => {
            set("dunmore_last_amount", settled.payment.amount.as_str());
            set("dunmore_last_currency", &settled.payment.currency);
        }
        EventData::PaymentFailed(failed) => set("dunmore_last_failure", &failed.reason),
        EventData::CustomerFirstPayment(_) => set("dunmore_first_payment_at", &at),
        EventData::CustomerMilestone(milestone) => {
            set("dunmore_milestone", &milestone.milestone);
            set("dunmore_total_spent", milestone.total_spent.as_str());
            set("dunmore_total_currency", &milestone.currency);
        }
        _ => {}
    }
    properties
}

/// A contact in a request: all that the batch says about one wallet, in the order of the events'
/// times, under the delivery id of the first of them.
struct Input {
    wallet: String,
    trace: String,
    properties: Map<String, Value>,
}

fn inputs(items: &[Item<'_>]) -> Vec<Input> {
    let mut inputs: Vec<Input> = Vec::new();
    let mut in_order: Vec<&Item<'_>> = items.iter().collect();
    in_order.sort_by_key(|item| item.event.occurred_at);
    for item in in_order {
        let wallet = wallet(item);
        match inputs.iter_mut().find(|input| input.wallet == wallet) {
            Some(input) => input.properties.extend(contact(item)),
            None => inputs.push(Input {
                wallet,
                trace: item.delivery_id.to_string(),
                properties: contact(item),
            }),
        }
    }
    inputs
}

impl Destination for HubSpot {
    fn skips(&self, event: &Event) -> Option<Skip> {
        match &event.data {
            EventData::PaymentVerified(_) => Some("payment.settled follows"),
            EventData::EndpointCreated(_)
            | EventData::EndpointPricingChanged(_)
            | EventData::RevenueDailySummary(_)
            | EventData::ConnectorNotice(_) => Some("no customer takes part"),
            _ if Record::of(event).customer.is_none_or(|customer| customer.is_empty()) => {
                Some("the customer is not known")
            }
            _ => None,
        }
    }

    fn setup(&self, answers: &[Response]) -> Setup {
        let Some((first, created)) = answers.split_first() else {
            return Setup::Ask(self.read_properties());
        };
        // A token that may not look may still be allowed to make them.
        if !first.is_success() && first.status != 403 && first.status != 404 {
            return Setup::failed(judge_request(first));
        }
        if let Some(last) = created.last()
            && !last.is_success()
            // It exists already.
            && last.status != 409
        {
            return Setup::failed(judge_request(last));
        }
        let found = first.json();
        let found: Vec<&str> = found["results"]
            .as_array()
            .map_or(&[][..], Vec::as_slice)
            .iter()
            .filter_map(|property| property["name"].as_str())
            .collect();
        let mut missing = PROPERTIES.iter().filter(|(name, ..)| !found.contains(name));
        match missing.nth(created.len()).and_then(|(name, ..)| self.create_property(name)) {
            Some(request) => Setup::Ask(request),
            None => Setup::Ready("".into()),
        }
    }

    /// Asks which of the wallets have a contact.
    fn lookup(&self, items: &[Item<'_>], answers: &[Response]) -> Option<Setup> {
        let Some(answer) = answers.first() else {
            let inputs: Vec<Value> =
                inputs(items).iter().map(|input| json!({"id": input.wallet})).collect();
            let body =
                json!({"idProperty": WALLET, "properties": [WALLET], "inputs": inputs});
            return Some(Setup::Ask(self.post(self.read.clone(), &body)));
        };
        Some(match answer.status {
            200 | 207 if answer.was_cut() && items.len() > 1 => {
                Setup::Failed(Verdict::retry(Reason::PayloadTooLarge, "the answer is too long"))
            }
            200 | 207 => {
                let json = answer.json();
                let Some(results) = json["results"].as_array() else {
                    let detail = answer.detail();
                    return Some(Setup::failed(Verdict::retry(Reason::UnexpectedResponse, detail)));
                };
                let found: Vec<&str> = results
                    .iter()
                    .filter_map(|contact| contact["properties"][WALLET].as_str())
                    .collect();
                Setup::Ready(Value::from(found).to_string().into())
            }
            // The token has no right to read: nothing is named, rather than something twice.
            403 | 404 => Setup::Ready(UNREADABLE.into()),
            _ => match judge_request(answer) {
                // One odd wallet must not hold up the others: the answer to the upsert names the wrong one.
                Verdict::Dead { .. } => Setup::Ready(UNREADABLE.into()),
                verdict => Setup::Failed(verdict),
            },
        })
    }

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

impl Batching for HubSpot {
    fn limits(&self) -> BatchLimits {
        BatchLimits { items: 100, bytes: 3_000_000 }
    }

    fn build(&self, items: &[Item<'_>]) -> Result<Request, Verdict> {
        let inputs: Vec<Value> = inputs(items)
            .into_iter()
            .map(|input| {
                json!({
                    "idProperty": WALLET,
                    "id": input.wallet,
                    "objectWriteTraceId": input.trace,
                    "properties": input.properties,
                })
            })
            .collect();
        Ok(self.post(self.upsert.clone(), &json!({"inputs": inputs})))
    }

    fn judge(&self, items: &[Item<'_>], response: &Response) -> Vec<Verdict> {
        let verdict = match response.status {
            207 if response.was_cut() => Verdict::dead(Reason::Rejected, response.detail()),
            207 => return judge_inputs(items, &response.json()),
            _ => judge_request(response),
        };
        judge_together(items, verdict)
    }
}

/// An answer that is about the whole request.
fn judge_request(response: &Response) -> Verdict {
    let json = response.json();
    let detail = response.detail();
    match response.status {
        // 200 means that every input was taken; the long list of them is not needed.
        200 | 201 if !json.is_object() && !response.was_cut() => {
            Verdict::retry(Reason::UnexpectedResponse, detail)
        }
        400 if response.text().contains("PROPERTY_DOESNT_EXIST") => {
            Verdict::retry(Reason::PrerequisiteMissing, detail)
        }
        400 if is_rule(&response.text()) => Verdict::broken(Reason::PrerequisiteMissing, detail),
        409 => Verdict::retry(Reason::NotReady, detail),
        423 | 477 => Verdict::retry_after(Reason::NotReady, detail, response.retry_after()),
        429 if json["policyName"] == "DAILY" => {
            let after = response.retry_after().unwrap_or(DAILY_WAIT);
            Verdict::retry_after(Reason::QuotaExceeded, detail, after)
        }
        429 => {
            let after = response.retry_after().unwrap_or(TEN_SECONDS);
            Verdict::retry_after(Reason::RateLimited, detail, after)
        }
        _ => judge_status(response),
    }
}

/// Whether a refusal is by the account's own rules about what a contact must have: they meet every
/// contact that is written, until their owner changes them.
/// <https://developers.hubspot.com/changelog/crm-api-write-validation-enforcement>
fn is_rule(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    text.contains("required propert") || text.contains("required_propert")
        || text.contains("required field") || text.contains("required_field")
}

/// A mixed answer: results and errors each name the inputs that they are about.
fn judge_inputs(items: &[Item<'_>], json: &Value) -> Vec<Verdict> {
    let list = |name: &str| json[name].as_array().map_or(&[][..], Vec::as_slice);
    let inputs = inputs(items);
    let judge = |item: &Item<'_>| {
        let wallet = wallet(item);
        let trace = inputs.iter().find(|input| input.wallet == wallet);
        let trace = trace.map_or("", |input| input.trace.as_str());
        let names = |value: &Value| {
            let texts = value.as_array().map_or(slice::from_ref(value), Vec::as_slice);
            texts.iter().any(|text| text == trace || text == wallet.as_str())
        };
        let has_result = |result: &Value| {
            names(&result["objectWriteTraceId"]) || names(&result["properties"][WALLET])
        };
        if list("results").iter().any(has_result) {
            return Verdict::Delivered;
        }
        let is_about = |error: &&Value| {
            names(&error["context"]["objectWriteTraceId"])
                || names(&error["context"]["ids"])
                || names(&error["context"]["id"])
        };
        match list("errors").iter().find(is_about) {
            Some(error) => judge_error(error),
            // An upsert can be repeated, so what is not named is sent again.
            None => Verdict::retry(Reason::UnexpectedResponse, "HTTP 207 does not name the input"),
        }
    };
    items.iter().map(judge).collect()
}

fn judge_error(error: &Value) -> Verdict {
    let category = error["category"].as_str().unwrap_or_default();
    let message = error["message"].as_str().unwrap_or_default();
    let detail = cut(&format!("{category}: {message}"), super::MAX_DETAIL_CHARS);
    match category {
        _ if detail.contains("PROPERTY_DOESNT_EXIST") => {
            Verdict::retry(Reason::PrerequisiteMissing, detail)
        }
        "RATE_LIMITS" | "RATE_LIMIT" => Verdict::retry(Reason::RateLimited, detail),
        "CONFLICT" => Verdict::retry(Reason::NotReady, detail),
        "MISSING_SCOPES" => Verdict::broken(Reason::Forbidden, detail),
        _ if is_rule(&error.to_string()) => Verdict::broken(Reason::PrerequisiteMissing, detail),
        _ => Verdict::dead(Reason::Rejected, detail),
    }
}
