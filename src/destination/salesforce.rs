//! Salesforce: a task record per event, completed, or open for a failed payment.
//!
//! <https://developer.salesforce.com/docs/atlas.en-us.api_rest.meta/api_rest/resources_composite_sobjects_collections_create.htm>.
//! A task has no field of its own against repeats. An organisation that adds a unique external id
//! `Dunmore_Delivery_Id__c` to its tasks gets upserts by it; whether it has one is asked once.

use std::{slice, time::Duration};

use http::{HeaderValue, Method};
use serde_json::{Value, json};
use url::Url;

use super::{
    Tone,
    ACCESS_TOKEN, BatchLimits, Batching, Category, Checks, Credential, Destination, Field, Item, Message, Rate, Request,
    Response, SettingError, Settings, Setup, Spec, is_word, judge_alone, judge_status,
    judge_together, one_line, url_on, Way, credential::{self, ClientIn, Endpoint},
};
use crate::{
    delivery::{Reason, Skip, Verdict},
    event::{Event, EventType, EventTypes},
};

pub const SPEC: Spec = Spec {
    title: "Salesforce",
    category: Category::Crm,
    docs: "https://developer.salesforce.com/docs/atlas.en-us.api_rest.meta/api_rest/resources_composite_sobjects_collections_create.htm",
    fields: &[
        Field::text(
            "instanceUrl",
            "The organisation's My Domain address.",
            "https://example.my.salesforce.com",
        )
        .checked(check_instance),
        credential::CLIENT_ID_FIELD,
        credential::CLIENT_SECRET_FIELD,
        credential::USERNAME_FIELD,
        credential::PRIVATE_KEY_FIELD,
        Field::secret(
            "accessToken",
            "An access token of a user who may create tasks; it lives as long as the session, so it \
             is for tests.",
            "00D000000000001!EXAMPLE.EXAMPLE_EXAMPLE",
        )
        .optional(),
    ],
    ways: &[
        Way {
            fields: &["clientId", "clientSecret"],
            what: "for production: an app with the client credentials flow and its user",
        },
        Way {
            fields: &["clientId", "username", "privateKey"],
            what: "for production: an app with the JWT bearer flow",
        },
        Way { fields: &[ACCESS_TOKEN], what: "for tests: it ends with the session" },
    ],
    credential: credential_of,
    // The limit is of 15,000 or more requests a day; bursts may not hold 25 long calls.
    rate: Some(Rate { per_second: 5.0, burst: 10 }),
    concurrency: 4,
    timeout: Duration::from_secs(60),
    dedup: "upsert by Dunmore_Delivery_Id__c where tasks have it, else none",
    becomes: |kind| match kind {
        EventType::PaymentFailed
        | EventType::ConnectorSuspended
        | EventType::ConnectorFailing
        | EventType::ConnectorCredentialExpiring => "an open task of high priority",
        EventType::PaymentVerified => "nothing unless named in eventTypes, then a completed task",
        _ => "a completed task",
    },
    make: |settings, event_types| Ok(Box::new(Salesforce::new(settings, event_types)?)),
    ..Spec::BASE
};

/// The tokens are the organisation's own.
fn credential_of(settings: &Settings) -> Result<Option<Credential>, SettingError> {
    let instance = settings.text("instanceUrl")?.trim_end_matches('/');
    let url = format!("{instance}/services/oauth2/token");
    if settings.has("privateKey") {
        Credential::assertion(settings, Endpoint::OfApi(&url), instance)
    } else {
        Credential::client_credentials(settings, Endpoint::OfApi(&url), ClientIn::Form)
    }
}

const VERSION: &str = "v66.0";
const EXTERNAL_ID: &str = "Dunmore_Delivery_Id__c";
/// A value of the field that no task has.
const NO_DELIVERY: &str = "00000000-0000-0000-0000-000000000000";
/// What [`Destination::setup`] remembers when tasks have the field.
const HAS_EXTERNAL_ID: &str = "external-id";
/// The request limit is counted over 24 hours and announces no end.
const QUOTA_WAIT: Duration = Duration::from_secs(3600);

#[derive(Debug)]
struct Salesforce {
    create: Url,
    upsert: Url,
    query: Url,
    lookup: Url,
    authorization: Option<HeaderValue>,
    takes_verified: bool,
}

impl Salesforce {
    fn new(settings: &Settings, event_types: &EventTypes) -> Result<Self, SettingError> {
        let instance = settings.text("instanceUrl")?.trim_end_matches('/');
        let data = format!("{instance}/services/data/{VERSION}");
        let mut query = settings.endpoint(&format!("{data}/query"))?;
        let question = format!("SELECT {EXTERNAL_ID} FROM Task LIMIT 1");
        query.query_pairs_mut().append_pair("q", &question);
        Ok(Self {
            create: settings.endpoint(&format!("{data}/composite/sobjects"))?,
            upsert: settings.endpoint(&format!("{data}/composite/sobjects/Task/{EXTERNAL_ID}"))?,
            query,
            lookup: settings
                .endpoint(&format!("{data}/sobjects/Task/{EXTERNAL_ID}/{NO_DELIVERY}?fields=Id"))?,
            authorization: settings.bearer()?,
            takes_verified: event_types.names(EventType::PaymentVerified),
        })
    }
}

fn check_instance(value: &str, checks: &Checks<'_>) -> Result<(), String> {
    if value.contains(".lightning.force.com") {
        return Err("is the address of the user interface: use the one that ends in \
                    .my.salesforce.com"
            .to_owned());
    }
    // The last one is of Salesforce on Alibaba Cloud, in China.
    let hosts = [".my.salesforce.com", ".my.salesforce.mil", ".my.sfcrmproducts.cn"];
    let url = url_on(value, checks, &hosts)?;
    let host = url.host_str().unwrap_or_default();
    let labels: Vec<&str> = host.split('.').collect();
    let kinds = ["sandbox", "develop", "scratch", "trailblaze", "demo", "patch", "stage"];
    let good = match labels[..] {
        [name, "my", _, _] => is_word(name, "-", 1..=80),
        [name, kind, "my", _, _] => is_word(name, "-", 1..=80) && kinds.contains(&kind),
        _ => false,
    };
    if good && url.path() == "/" && url.query().is_none() {
        Ok(())
    } else {
        Err("must look like https://example.my.salesforce.com".to_owned())
    }
}

const NOT_EXTERNAL: &str = "the field Dunmore_Delivery_Id__c of tasks is no External ID: tick \
                            \"External ID\" and \"Unique\" in its definition, or remove it";

/// Whether a refusal says that the field cannot be used to find a record by.
fn is_no_external_id(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    text.contains("external id") || text.contains("external_id")
}

fn task(item: &Item<'_>) -> Value {
    let event = item.event;
    let message = Message::of(event);
    let mut description = one_line(&message.subject(), 1_000);
    for fact in &message.facts {
        description.push_str(&format!("\n{}: {}", fact.label, one_line(&fact.value, 1_000)));
        if let Some(url) = &fact.link {
            description.push_str(&format!("\n{url}"));
        }
    }
    description.push_str(&format!(
        "\nProject: {}\nTime: {}\nEvent: {}\nDelivery: {}",
        event.project, event.occurred_at, event.id, item.delivery_id
    ));
    let is_failure = message.tone == Tone::Bad;
    let mut task = json!({
        "attributes": {"type": "Task"},
        "Subject": one_line(&message.subject(), 255),
        "Status": if is_failure { "Not Started" } else { "Completed" },
        "Priority": if is_failure { "High" } else { "Normal" },
        "ActivityDate": event.occurred_at.date(),
        "Description": description,
    });
    if item.setup == HAS_EXTERNAL_ID {
        task[EXTERNAL_ID] = item.delivery_id.to_string().into();
    }
    task
}

impl Destination for Salesforce {
    fn skips(&self, event: &Event) -> Option<Skip> {
        (event.kind == EventType::PaymentVerified && !self.takes_verified)
            .then_some("payment.settled follows")
    }

    fn setup(&self, answers: &[Response]) -> Setup {
        let ask = |url: &Url| {
            let request = Request::get(url.clone());
            Setup::Ask(request.bearer(self.authorization.as_ref()))
        };
        match answers {
            [] => ask(&self.query),
            [field] => match field.status {
                200..=299 => ask(&self.lookup),
                400 => Setup::Ready("".into()),
                _ => Setup::failed(judge_request(field)),
            },
            // A record of this value is not there, so the refusals differ in their words only.
            [_, record, ..] => match record.status {
                400 | 404 if is_no_external_id(&record.text()) => Setup::Failed(Verdict::broken(
                    Reason::PrerequisiteMissing,
                    format!("{NOT_EXTERNAL} ({})", record.detail()),
                )),
                200..=300 | 400 | 404 => Setup::Ready(HAS_EXTERNAL_ID.into()),
                _ => Setup::failed(judge_request(record)),
            },
        }
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

impl Batching for Salesforce {
    fn limits(&self) -> BatchLimits {
        BatchLimits { items: 200, bytes: 6_000_000 }
    }

    /// One request is either of upserts or of plain records.
    fn takes(&self, batch: &[Item<'_>], next: &Item<'_>) -> bool {
        batch.first().is_none_or(|first| first.setup == next.setup)
    }

    fn build(&self, items: &[Item<'_>]) -> Result<Request, Verdict> {
        let is_upsert = items.first().is_some_and(|item| item.setup == HAS_EXTERNAL_ID);
        let records: Vec<Value> = items.iter().map(task).collect();
        let url = if is_upsert { &self.upsert } else { &self.create };
        let body = json!({"allOrNone": false, "records": records});
        let mut request = Request::post_value(url.clone(), &body)
            .bearer(self.authorization.as_ref());
        if is_upsert {
            request.method = Method::PATCH;
        }
        Ok(request)
    }

    fn judge(&self, items: &[Item<'_>], response: &Response) -> Vec<Verdict> {
        let verdict = match (response.status, response.json()) {
            // A 200 alone means nothing: each record has its own result, in the order sent.
            (200..=299, Value::Array(rows)) if rows.len() == items.len() => {
                return rows.iter().map(judge_row).collect();
            }
            (200..=299, _) => Verdict::retry(Reason::UnexpectedResponse, response.detail()),
            _ => judge_request(response),
        };
        judge_together(items, verdict)
    }
}

fn judge_row(row: &Value) -> Verdict {
    if row["success"] == true {
        return Verdict::Delivered;
    }
    let error = &row["errors"][0];
    let code = error["statusCode"].as_str().or(error["errorCode"].as_str()).unwrap_or_default();
    let message = error["message"].as_str().unwrap_or_default();
    let detail = super::cut(&format!("{code}: {message}"), super::MAX_DETAIL_CHARS);
    match code {
        // The external id is taken: it was delivered before.
        "DUPLICATE_VALUE" => Verdict::Delivered,
        "UNABLE_TO_LOCK_ROW" => Verdict::retry(Reason::NotReady, detail),
        "STORAGE_LIMIT_EXCEEDED" => Verdict::broken(Reason::QuotaExceeded, detail),
        _ if is_no_external_id(message) => {
            Verdict::broken(Reason::PrerequisiteMissing, format!("{NOT_EXTERNAL} ({detail})"))
        }
        // What the organisation demands of each task, it will demand of the next one too.
        "REQUIRED_FIELD_MISSING"
        | "INVALID_FIELD"
        | "INVALID_FIELD_FOR_INSERT_UPDATE"
        | "INVALID_TYPE" => Verdict::broken(Reason::PrerequisiteMissing, detail),
        "INSUFFICIENT_ACCESS_OR_READONLY" | "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY" => {
            Verdict::broken(Reason::Forbidden, detail)
        }
        "" => Verdict::retry(Reason::UnexpectedResponse, row.to_string()),
        _ => Verdict::dead(Reason::Rejected, detail),
    }
}

/// An answer that is about the whole request.
fn judge_request(response: &Response) -> Verdict {
    let detail = response.detail();
    let json = response.json();
    match (response.status, json[0]["errorCode"].as_str().unwrap_or_default()) {
        (_, "REQUEST_LIMIT_EXCEEDED") => {
            let after = response.retry_after().unwrap_or(QUOTA_WAIT);
            Verdict::retry_after(Reason::QuotaExceeded, detail, after)
        }
        (400..=499, _) if is_no_external_id(&response.text()) => {
            Verdict::broken(Reason::PrerequisiteMissing, format!("{NOT_EXTERNAL} ({detail})"))
        }
        (_, "INVALID_SESSION_ID") => Verdict::broken(Reason::Unauthorized, detail),
        (_, "SERVER_UNAVAILABLE" | "UNKNOWN_EXCEPTION" | "UNABLE_TO_LOCK_ROW") => {
            Verdict::retry_after(Reason::ServerError, detail, response.retry_after())
        }
        _ => judge_status(response),
    }
}
