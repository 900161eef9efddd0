//! `BigQuery` streaming: a row per event.
//!
//! <https://cloud.google.com/bigquery/docs/reference/rest/v2/tabledata/insertAll>. The columns have
//! the names of the event's fields. The table is looked at once: fields that it has no column for
//! are left out, but not the key columns, and not the amounts unless `payload` has them. Amounts
//! are decimal strings, so their columns should be BIGNUMERIC (NUMERIC has nine decimals) or STRING.

use std::{slice, time::Duration};

use http::HeaderValue;
use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::Value;
use url::Url;

use super::{
    ACCESS_TOKEN, BatchLimits, Batching, Category, Checks, Credential, Destination, Field, Item, Record, RecordValue,
    Request, Response, SettingError, Settings, Setup, Spec, is_word, judge_alone, judge_status,
    judge_together, wallet, Way, credential,
};
use crate::{
    delivery::{Reason, Verdict},
    event::Event,
    id::DeliveryId,
};

pub const SPEC: Spec = Spec {
    title: "BigQuery",
    category: Category::Data,
    docs: "https://cloud.google.com/bigquery/docs/reference/rest/v2/tabledata/insertAll",
    fields: &[
        Field::text("projectId", "The Google Cloud project.", "my-project-123456")
            .checked(check_project),
        Field::text("datasetId", "The dataset.", "payments").checked(|value, _| {
            if is_word(value, "_", 1..=1024) { Ok(()) } else { Err("must consist of letters, digits and _".to_owned()) }
        }),
        Field::text(
            "tableId",
            "The table, which must exist, with the columns id, type and projectId STRING, \
             occurredAt TIMESTAMP, payload STRING or JSON (the whole event), and any of the \
             event's fields: amounts BIGNUMERIC (NUMERIC has but nine decimals) or STRING, counts \
             INTEGER, date DATE, others STRING.",
            "events",
        )
        .checked(check_table),
        credential::SERVICE_ACCOUNT_FIELD,
        Field::secret(
            "accessToken",
            "An OAuth access token that may insert rows and read the table's schema; it lives \
             about an hour, so it is for tests.",
            "ya29.EXAMPLE-EXAMPLE_EXAMPLE",
        )
        .optional(),
    ],
    ways: &[
        Way { fields: &["serviceAccountKey"], what: "for production: tokens are renewed" },
        Way { fields: &[ACCESS_TOKEN], what: "for tests: it ends within the hour" },
    ],
    credential: |settings| Credential::service_account(settings, AUDIENCE),
    // Quotas are of bytes per project and come as errors.
    concurrency: 8,
    dedup: "insertId, about a minute; the column id tells repeats apart for ever",
    forgets_repeats_after: Some(Duration::from_secs(60)),
    becomes: |_| "a row",
    make: |settings, _| Ok(Box::new(BigQuery::new(settings)?)),
    ..Spec::BASE
};

/// What tokens of a service account are for.
const AUDIENCE: &str = "https://bigquery.googleapis.com/";
/// The columns that identify a row.
const KEY_COLUMNS: &[&str] = &["id", "type", "projectId", "occurredAt"];
/// The column that takes the whole event.
const PAYLOAD: &str = "payload";
/// The other columns that an event may fill.
const FIELD_COLUMNS: &[&str] = &[
    "paymentId", "endpointId", "customerId", "amount", "currency", "network", "txHash", "stage",
    "reason", "milestone", "totalSpent", "path", "price", "oldPrice", "newPrice", "date", "revenue",
    "paymentCount", "customerCount", "failedCount", "connectorId", "connectorType", "connectorName",
    "detail", "since", "held", "more",
];
/// What [`Destination::setup`] finds out when the token may not look at the table: every column is
/// sent, and the table refuses what it does not have.
const UNREAD: &str = "?";

#[derive(Debug)]
struct BigQuery {
    url: Url,
    table: Url,
    authorization: Option<HeaderValue>,
}

/// The columns that a table has of ours: all of them, or those that stand in the setup's text.
#[derive(Clone, Copy)]
struct Table<'a>(&'a str);

impl Table<'_> {
    fn has(self, column: &str) -> bool {
        matches!(self.0, "" | UNREAD) || self.0.split(' ').any(|known| known == column)
    }

    /// The first amount of an event, or its currency, that would be lost.
    fn lacks(self, event: &Event) -> Option<&'static str> {
        if self.has(PAYLOAD) {
            return None;
        }
        let is_money = |name: &str, value: &RecordValue<'_>| {
            matches!(value, RecordValue::Amount(_)) || name == "currency"
        };
        let fields = Record::of(event).fields;
        fields.iter().find(|(name, value)| is_money(name, value) && !self.has(name)).map(|(n, _)| *n)
    }
}

/// What a table's schema says: which of our columns it has, in our writing.
fn columns(schema: &Value) -> Result<String, String> {
    let fields = schema["fields"].as_array().map_or(&[][..], Vec::as_slice);
    let name = |field: &Value| field["name"].as_str().unwrap_or_default().to_owned();
    let has = |column: &str| fields.iter().any(|field| name(field).eq_ignore_ascii_case(column));
    let missing: Vec<&str> = KEY_COLUMNS.iter().copied().filter(|column| !has(column)).collect();
    if !missing.is_empty() {
        let found: Vec<String> = fields.iter().map(name).collect();
        return Err(format!(
            "the table has no column {}; it has {}",
            missing.join(", "),
            super::cut(&found.join(", "), super::MAX_DETAIL_CHARS / 2)
        ));
    }
    let ours = || KEY_COLUMNS.iter().chain([&PAYLOAD]).chain(FIELD_COLUMNS);
    let is_ours = |name: &str| ours().any(|column| column.eq_ignore_ascii_case(name));
    let foreign = fields.iter().find(|f| f["mode"] == "REQUIRED" && !is_ours(&name(f)));
    if let Some(field) = foreign {
        return Err(format!(
            "the table's column {} is REQUIRED, and no event fills it",
            super::cut(&name(field), 128)
        ));
    }
    let found: Vec<&str> = ours().copied().filter(|column| has(column)).collect();
    let all = found.len() == ours().count();
    Ok(if all { String::new() } else { found.join(" ") })
}

impl BigQuery {
    fn new(settings: &Settings) -> Result<Self, SettingError> {
        let (project, dataset) = (settings.text("projectId")?, settings.text("datasetId")?);
        let table = settings.text("tableId")?;
        let url = format!(
            "https://bigquery.googleapis.com/bigquery/v2/projects/{project}/datasets/{dataset}\
             /tables/{table}"
        );
        let mut table = settings.endpoint(&url)?;
        // No more than is needed: a table's description may be long.
        table.query_pairs_mut().append_pair("fields", "schema(fields(name,type,mode))");
        Ok(Self {
            url: settings.endpoint(&format!("{url}/insertAll"))?,
            table,
            authorization: settings.bearer()?,
        })
    }
}

fn check_project(value: &str, _: &Checks<'_>) -> Result<(), String> {
    let (domain, id) = value.split_once(':').unwrap_or(("", value));
    let lower = |text: &str, extra: &str| {
        text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || extra.contains(c))
    };
    let good = lower(domain, ".-")
        && lower(id, "-")
        && (6..=30).contains(&id.len())
        && id.starts_with(|c: char| c.is_ascii_lowercase())
        && !id.ends_with('-');
    if good { Ok(()) } else { Err("must be a project id such as my-project-123456".to_owned()) }
}

fn check_table(value: &str, _: &Checks<'_>) -> Result<(), String> {
    let allowed = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    if (1..=1024).contains(&value.len()) && value.chars().all(allowed) {
        Ok(())
    } else {
        Err("must consist of letters, digits, _ and -".to_owned())
    }
}

/// A request's body. A row is written as it goes, because hundreds of them share a request whose
/// own cost is next to nothing then.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Rows<'a> {
    skip_invalid_rows: bool,
    ignore_unknown_values: bool,
    rows: Vec<Row<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row<'a> {
    insert_id: DeliveryId,
    json: Columns<'a>,
}

struct Columns<'a>(&'a Event, Table<'a>);

impl Serialize for Columns<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(event, table) = *self;
        let mut columns = serializer.serialize_map(None)?;
        columns.serialize_entry("id", event.id.as_str())?;
        columns.serialize_entry("type", event.kind.as_str())?;
        columns.serialize_entry("projectId", event.project.as_str())?;
        columns.serialize_entry("occurredAt", &event.occurred_at.to_string())?;
        for (name, value) in Record::of(event).fields {
            if !table.has(name) {
                continue;
            }
            match value {
                RecordValue::Text(text) => columns.serialize_entry(name, text),
                RecordValue::Wallet(text) => columns.serialize_entry(name, &*wallet(text)),
                RecordValue::Amount(amount) => columns.serialize_entry(name, amount.as_str()),
                RecordValue::Count(count) => columns.serialize_entry(name, &count),
            }?;
        }
        if table.has(PAYLOAD) {
            columns.serialize_entry(PAYLOAD, event.json_text())?;
        }
        columns.end()
    }
}

impl Destination for BigQuery {
    /// Looks at the table's columns.
    fn setup(&self, answers: &[Response]) -> Setup {
        let Some(answer) = answers.first() else {
            let request = Request::get(self.table.clone());
            return Setup::Ask(request.bearer(self.authorization.as_ref()));
        };
        let broken = |detail| Setup::Failed(Verdict::broken(Reason::PrerequisiteMissing, detail));
        let json = answer.json();
        match answer.status {
            200..=299 if answer.was_cut() => {
                broken("the table has more columns than can be looked at".to_owned())
            }
            200..=299 if !json.is_object() => {
                Setup::failed(Verdict::retry(Reason::UnexpectedResponse, answer.detail()))
            }
            200..=299 => match columns(&json["schema"]) {
                Ok(columns) => Setup::Ready(columns.into()),
                Err(detail) => broken(detail),
            },
            403 => match judge_forbidden(&json["error"], answer) {
                // It may still insert.
                Verdict::Broken { .. } => Setup::Ready(UNREAD.into()),
                verdict => Setup::failed(verdict),
            },
            _ => Setup::failed(judge_status(answer)),
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

impl Batching for BigQuery {
    fn limits(&self) -> BatchLimits {
        // 50,000 rows are allowed, 500 advised.
        BatchLimits { items: 500, bytes: 10_000_000 }
    }

    fn build(&self, items: &[Item<'_>]) -> Result<Request, Verdict> {
        if let Some(column) =
            items.iter().find_map(|item| Table(item.setup).lacks(item.event))
        {
            let detail =
                format!("the table has neither a column {column} nor one for the payload");
            return Err(Verdict::broken(Reason::PrerequisiteMissing, detail));
        }
        let rows = items.iter().map(|item| Row {
            insert_id: item.delivery_id,
            json: Columns(item.event, Table(item.setup)),
        });
        // A value without a column would be lost, and the row count as delivered.
        let body =
            Rows { skip_invalid_rows: true, ignore_unknown_values: false, rows: rows.collect() };
        // Text and numbers only: there is nothing that serde_json could refuse.
        let body = serde_json::to_vec(&body)
            .map_err(|error| Verdict::dead(Reason::Bug, error.to_string()))?;
        Ok(Request::post_json(self.url.clone(), body).bearer(self.authorization.as_ref()))
    }

    fn judge(&self, items: &[Item<'_>], response: &Response) -> Vec<Verdict> {
        let json = response.json();
        let detail = response.detail();
        let verdict = match response.status {
            // So many rows were wrong that the list of them is too long to be read.
            200..=299 if response.was_cut() => Verdict::dead(Reason::Rejected, detail),
            200..=299 if !json.is_object() => Verdict::retry(Reason::UnexpectedResponse, detail),
            200..=299 => match json["insertErrors"].as_array() {
                Some(errors) => return judge_rows(items, errors),
                None => Verdict::Delivered,
            },
            403 => judge_forbidden(&json["error"], response),
            _ => judge_status(response),
        };
        judge_together(items, verdict)
    }
}

/// A 403 may be a used-up quota. <https://cloud.google.com/bigquery/docs/error-messages>
fn judge_forbidden(error: &Value, response: &Response) -> Verdict {
    let errors = error["errors"].as_array().map_or(&[][..], Vec::as_slice);
    let says = |word: &str| errors.iter().any(|error| error["reason"] == word);
    if says("rateLimitExceeded") {
        Verdict::retry_after(Reason::RateLimited, response.detail(), response.retry_after())
    } else if says("quotaExceeded") {
        Verdict::retry_after(Reason::QuotaExceeded, response.detail(), response.retry_after())
    } else if errors.is_empty() {
        judge_status(response)
    } else {
        Verdict::broken(Reason::Forbidden, response.detail())
    }
}

fn judge_rows(items: &[Item<'_>], errors: &[Value]) -> Vec<Verdict> {
    let mut verdicts = vec![Verdict::Delivered; items.len()];
    for error in errors {
        let index = error["index"].as_u64().and_then(|index| usize::try_from(index).ok());
        if let Some(verdict) = index.and_then(|index| verdicts.get_mut(index)) {
            let errors = error["errors"].as_array().map_or(&[][..], Vec::as_slice);
            let is_unread = items.iter().any(|item| item.setup == UNREAD);
            *verdict = judge_row(errors, is_unread);
        }
    }
    verdicts
}

fn judge_row(errors: &[Value], is_unread: bool) -> Verdict {
    let said = |error: &Value, name: &str| error[name].as_str().unwrap_or_default().to_owned();
    let texts: Vec<String> = errors
        .iter()
        .map(|e| format!("{} {}: {}", said(e, "reason"), said(e, "location"), said(e, "message")))
        .collect();
    let detail = super::cut(&texts.join("; "), super::MAX_DETAIL_CHARS);
    let says = |word: &str| errors.iter().any(|error| error["reason"] == word);
    let is_about_columns = errors.iter().any(|error| {
        let message = error["message"].as_str().unwrap_or_default().to_ascii_lowercase();
        ["no such field", "missing required field"].iter().any(|words| message.contains(words))
    });
    if is_about_columns && is_unread {
        Verdict::broken(Reason::PrerequisiteMissing, detail)
    } else if is_about_columns {
        // The table has changed since it was looked at.
        Verdict::retry(Reason::PrerequisiteMissing, detail)
    } else if says("invalid") {
        Verdict::dead(Reason::Rejected, detail)
    } else if says("stopped") {
        // Nothing is wrong with this row: another one of the batch was.
        Verdict::retry(Reason::Rejected, detail)
    } else {
        Verdict::retry(Reason::ServerError, detail)
    }
}
