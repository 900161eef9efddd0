//! `BigQuery` streaming: a row per event.
//!
//! <https://cloud.google.com/bigquery/docs/reference/rest/v2/tabledata/insertAll>. The columns have
//! the names of the event's fields; those that the table does not have are left out. Amounts are
//! decimal strings, so their columns should be BIGNUMERIC (NUMERIC has nine decimals) or STRING.

use std::{slice, time::Duration};

use http::{HeaderValue, header::AUTHORIZATION};
use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::Value;
use url::Url;

use super::{
    BatchLimits, Batching, Category, Checks, Destination, Field, Item, Record, RecordValue,
    Request, Response, SettingError, Settings, Spec, is_word, judge_alone, judge_status,
    judge_together,
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
            "The table, which must exist; its columns are named like the event's fields, and \
             payload takes the whole event.",
            "events",
        )
        .checked(check_table),
        Field::secret(
            "accessToken",
            "An OAuth access token that may insert rows; it lives about an hour.",
            "ya29.EXAMPLE-EXAMPLE_EXAMPLE",
        ),
    ],
    // Quotas are of bytes per project and come as errors.
    concurrency: 8,
    dedup: "insertId, about a minute; the column id tells repeats apart for ever",
    forgets_repeats_after: Some(Duration::from_secs(60)),
    becomes: |_| "a row",
    make: |settings, _| Ok(Box::new(BigQuery::new(settings)?)),
    ..Spec::BASE
};

#[derive(Debug)]
struct BigQuery {
    url: Url,
    authorization: HeaderValue,
}

impl BigQuery {
    fn new(settings: &Settings) -> Result<Self, SettingError> {
        let (project, dataset) = (settings.text("projectId")?, settings.text("datasetId")?);
        let table = settings.text("tableId")?;
        let url = format!(
            "https://bigquery.googleapis.com/bigquery/v2/projects/{project}/datasets/{dataset}\
             /tables/{table}/insertAll"
        );
        Ok(Self {
            url: settings.endpoint(&url)?,
            authorization: settings
                .secret_header("accessToken", |token| format!("Bearer {token}"))?,
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

struct Columns<'a>(&'a Event);

impl Serialize for Columns<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let event = self.0;
        let mut columns = serializer.serialize_map(None)?;
        columns.serialize_entry("id", event.id.as_str())?;
        columns.serialize_entry("type", event.kind.as_str())?;
        columns.serialize_entry("projectId", event.project.as_str())?;
        columns.serialize_entry("occurredAt", &event.occurred_at.to_string())?;
        for (name, value) in Record::of(event).fields {
            match value {
                RecordValue::Text(text) => columns.serialize_entry(name, text),
                RecordValue::Amount(amount) => columns.serialize_entry(name, amount.as_str()),
                RecordValue::Count(count) => columns.serialize_entry(name, &count),
            }?;
        }
        columns.serialize_entry("payload", event.json_text())?;
        columns.end()
    }
}

impl Destination for BigQuery {
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
        let rows = items.iter().map(|item| Row { insert_id: item.delivery_id, json: Columns(item.event) });
        let body =
            Rows { skip_invalid_rows: true, ignore_unknown_values: true, rows: rows.collect() };
        // Text and numbers only: there is nothing that serde_json could refuse.
        let body = serde_json::to_vec(&body)
            .map_err(|error| Verdict::dead(Reason::Bug, error.to_string()))?;
        Ok(Request::post_json(self.url.clone(), body)
            .secret_header(AUTHORIZATION, self.authorization.clone()))
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
    } else {
        Verdict::broken(Reason::Forbidden, response.detail())
    }
}

fn judge_rows(items: &[Item<'_>], errors: &[Value]) -> Vec<Verdict> {
    let mut verdicts = vec![Verdict::Delivered; items.len()];
    for error in errors {
        let index = error["index"].as_u64().and_then(|index| usize::try_from(index).ok());
        if let Some(verdict) = index.and_then(|index| verdicts.get_mut(index)) {
            *verdict = judge_row(error["errors"].as_array().map_or(&[][..], Vec::as_slice));
        }
    }
    verdicts
}

fn judge_row(errors: &[Value]) -> Verdict {
    let said = |error: &Value, name: &str| error[name].as_str().unwrap_or_default().to_owned();
    let texts: Vec<String> = errors
        .iter()
        .map(|e| format!("{} {}: {}", said(e, "reason"), said(e, "location"), said(e, "message")))
        .collect();
    let detail = super::cut(&texts.join("; "), super::MAX_DETAIL_CHARS);
    let says = |word: &str| errors.iter().any(|error| error["reason"] == word);
    if says("invalid") {
        Verdict::dead(Reason::Rejected, detail)
    } else if says("stopped") {
        // Nothing is wrong with this row: another one of the batch was.
        Verdict::retry(Reason::Rejected, detail)
    } else {
        Verdict::retry(Reason::ServerError, detail)
    }
}
