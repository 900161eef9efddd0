//! `BigQuery`, `HubSpot` and Salesforce.

use serde_json::{Value, json};

use super::{
    Answer, Behaviour, Call, Memory, has_only, is_moment, is_text, list,
    tokens::{has_bearer, has_google_bearer},
};

pub fn is_day(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok())
}

pub fn refused(refuse_odd: bool, index: usize, count: usize) -> bool {
    refuse_odd && (index % 2 == 1 || count == 1)
}

fn google_error(status: u16, reason: &str) -> Answer {
    let error = json!({"code": status, "message": reason,
        "errors": [{"message": reason, "domain": "global", "reason": reason}]});
    Answer::new(status, json!({"error": error}))
}

/// The columns of the sandbox's table and their types; `without NAME` is a fact about one.
const COLUMNS: &[(&str, &str)] = &[
    ("id", "STRING"),
    ("type", "STRING"),
    ("projectId", "STRING"),
    ("occurredAt", "TIMESTAMP"),
    ("payload", "JSON"),
    ("paymentId", "STRING"),
    ("endpointId", "STRING"),
    ("customerId", "STRING"),
    ("amount", "BIGNUMERIC"),
    ("currency", "STRING"),
    ("network", "STRING"),
    ("txHash", "STRING"),
    ("stage", "STRING"),
    ("reason", "STRING"),
    ("milestone", "STRING"),
    ("totalSpent", "BIGNUMERIC"),
    ("path", "STRING"),
    ("price", "BIGNUMERIC"),
    ("oldPrice", "BIGNUMERIC"),
    ("newPrice", "BIGNUMERIC"),
    ("date", "DATE"),
    ("revenue", "BIGNUMERIC"),
    ("paymentCount", "INTEGER"),
    ("customerCount", "INTEGER"),
    ("failedCount", "INTEGER"),
];

fn has_column(memory: &Memory, name: &str) -> bool {
    COLUMNS.iter().any(|(known, _)| *known == name)
        && !memory.made.contains(&format!("without {name}"))
}

fn bigquery_table(memory: &Memory) -> Answer {
    let fields = COLUMNS.iter().filter(|(name, _)| has_column(memory, name));
    let fields: Vec<Value> = fields
        .map(|(name, kind)| json!({"name": name, "type": kind, "mode": "NULLABLE"}))
        .collect();
    Answer::new(200, json!({"schema": {"fields": fields}}))
}

/// Whether a value can be kept in a column.
fn fits_column(name: &str, value: &Value) -> bool {
    let is_decimal = |value: &Value| value.as_str().is_some_and(|text| text.parse::<f64>().is_ok());
    match name {
        "occurredAt" => is_moment(value),
        "amount" | "price" | "oldPrice" | "newPrice" | "totalSpent" | "revenue" => {
            is_decimal(value)
        }
        "paymentCount" | "customerCount" | "failedCount" => value.is_u64(),
        "date" => is_day(value),
        "payload" => value.as_str().is_some_and(|text| serde_json::from_str::<Value>(text).is_ok()),
        _ => value.is_string(),
    }
}

pub fn bigquery(call: &Call, memory: &mut Memory, refuse_odd: bool) -> Answer {
    let parts: Vec<&str> = call.path.trim_start_matches('/').split('/').collect();
    let is_ours = matches!(
        parts[..],
        ["bigquery", "v2", "projects", _, "datasets", _, "tables", _, "insertAll"]
    );
    let is_table = call.method == "GET"
        && matches!(parts[..], ["bigquery", "v2", "projects", _, "datasets", _, "tables", _]);
    if !is_table && (call.method != "POST" || !is_ours) {
        return google_error(404, "notFound");
    }
    if !has_google_bearer(call, memory) {
        return Answer { is_setup: is_table, ..google_error(401, "authError") };
    }
    if is_table && memory.made.contains("no tables.get") {
        return google_error(403, "accessDenied").setup();
    }
    if is_table {
        return bigquery_table(memory).setup();
    }
    if call.body.len() > 10 * 1024 * 1024 {
        return google_error(413, "uploadTooLarge");
    }
    let body = call.json();
    let rows = list(&body["rows"]);
    let skips = body["skipInvalidRows"] == true;
    let ignores = body["ignoreUnknownValues"] == true;
    let good = call.is_json()
        && (1..=50_000).contains(&rows.len())
        && rows.iter().all(|row| row["json"].is_object() && is_text(&row["insertId"], 1..=128))
        && has_only(&body, &["rows", "skipInvalidRows", "ignoreUnknownValues", "kind"]);
    if !good {
        return google_error(400, "invalid");
    }
    let mut errors = Vec::new();
    let mut answer = Answer::new(200, "");
    for (index, row) in rows.iter().enumerate() {
        let fields = row["json"].as_object().unwrap();
        let unknown = fields.keys().find(|name| !has_column(memory, name));
        let wrong = fields.iter().find(|(name, value)| !fits_column(name, value));
        let lacks = !fields.contains_key("id") || !fields.contains_key("occurredAt");
        let refusal = if let Some(name) = unknown.filter(|_| !ignores) {
            Some((name.as_str(), format!("no such field: {name}.")))
        } else if let Some((name, _)) = wrong {
            Some((name.as_str(), "Cannot convert value".to_owned()))
        } else if lacks || refused(refuse_odd, index, rows.len()) {
            Some(("", "Cannot convert value".to_owned()))
        } else {
            None
        };
        if let Some((location, message)) = refusal {
            errors.push(
                json!({"index": index, "errors": [{"reason": "invalid", "location": location,
                "debugInfo": "", "message": message}]}),
            );
            continue;
        }
        // What is kept of the row: unknown values are dropped without a word, as was asked.
        let mut kept = row.clone();
        kept["json"] = fields
            .iter()
            .filter(|(name, _)| has_column(memory, name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let key = row["insertId"].as_str().unwrap_or_default().to_owned();
        if memory.made.insert(key.clone()) {
            answer = answer.took(&key, &kept);
        }
    }
    let mut reply = json!({"kind": "bigquery#tableDataInsertAllResponse"});
    if !errors.is_empty() {
        if !skips {
            answer.accepted.clear();
        }
        reply["insertErrors"] = errors.into();
    }
    answer.body = reply.to_string();
    answer
}

pub fn bigquery_script(behaviour: &Behaviour) -> Option<Answer> {
    Some(match behaviour {
        Behaviour::RateLimited => google_error(403, "rateLimitExceeded"),
        Behaviour::ServerError => google_error(503, "backendError"),
        Behaviour::Unauthorized => google_error(401, "authError"),
        Behaviour::Gone => google_error(404, "notFound"),
        Behaviour::TooLarge => google_error(413, "uploadTooLarge"),
        _ => return None,
    })
}

fn hubspot_error(status: u16, category: &str, message: &str) -> Answer {
    let body = json!({"status": "error", "category": category, "message": message,
        "correlationId": "aeb5f871-7f07-4993-9211-075dc63e7cbf"});
    Answer::new(status, body)
}

pub fn hubspot(call: &Call, memory: &mut Memory, refuse_odd: bool) -> Answer {
    let properties = "/crm/properties/2026-09/contacts";
    let read = "/crm/objects/2026-09/contacts/batch/read";
    let is_setup = call.path.starts_with(properties) || call.path == read;
    if !has_bearer(call, memory) {
        let answer =
            hubspot_error(401, "INVALID_AUTHENTICATION", "Authentication credentials not found.");
        return Answer { is_setup, ..answer };
    }
    if call.method != "POST" || !call.is_json() {
        return hubspot_error(400, "VALIDATION_ERROR", "Invalid input JSON");
    }
    let body = call.json();
    if call.path == format!("{properties}/batch/read") {
        let names = list(&body["inputs"]).iter().filter_map(|input| input["name"].as_str());
        let (found, missing): (Vec<&str>, Vec<&str>) =
            names.partition(|name| memory.made.contains(&format!("property {name}")));
        let results: Vec<Value> = found.iter().map(|name| json!({"name": name})).collect();
        let mut reply = json!({"status": "COMPLETE", "results": results});
        let status = if missing.is_empty() { 200 } else { 207 };
        if !missing.is_empty() {
            reply["numErrors"] = missing.len().into();
            reply["errors"] = json!([{"status": "error", "category": "OBJECT_NOT_FOUND",
                "message": "Property not found", "context": {"name": missing}}]);
        }
        return Answer::new(status, reply).setup();
    }
    if call.path == properties {
        return hubspot_property(&body, memory).setup();
    }
    if call.path == read {
        return hubspot_read(&body, memory).setup();
    }
    if call.path != "/crm/objects/2026-09/contacts/batch/upsert" {
        return hubspot_error(404, "OBJECT_NOT_FOUND", "resource not found");
    }
    hubspot_upsert(&body, memory, refuse_odd)
}

fn hubspot_read(body: &Value, memory: &Memory) -> Answer {
    if memory.made.contains("no contacts.read") {
        return hubspot_error(403, "MISSING_SCOPES", "crm.objects.contacts.read is required");
    }
    let key = body["idProperty"].as_str().unwrap_or_default();
    let inputs = list(&body["inputs"]);
    if !memory.made.contains(&format!("unique {key}")) || !(1..=100).contains(&inputs.len()) {
        return hubspot_error(400, "VALIDATION_ERROR", "1 to 100 inputs by a unique property");
    }
    let wanted = list(&body["properties"]);
    let ids = inputs.iter().filter_map(|input| input["id"].as_str());
    let (found, missing): (Vec<&str>, Vec<&str>) =
        ids.partition(|id| memory.contacts.contains_key(*id));
    let results: Vec<Value> = found
        .iter()
        .map(|id| {
            let shown = |name: &Value| {
                let name = name.as_str()?;
                Some((name.to_owned(), memory.contacts[*id].get(name)?.clone()))
            };
            let properties: serde_json::Map<_, _> = wanted.iter().filter_map(shown).collect();
            json!({"id": "1", "properties": properties, "archived": false})
        })
        .collect();
    let mut reply = json!({"status": "COMPLETE", "results": results});
    if missing.is_empty() {
        return Answer::new(200, reply);
    }
    reply["numErrors"] = 1.into();
    reply["errors"] = json!([{"status": "error", "category": "OBJECT_NOT_FOUND",
        "message": "Could not get some CONTACT objects", "context": {"ids": missing}}]);
    Answer::new(207, reply)
}

fn hubspot_property(body: &Value, memory: &mut Memory) -> Answer {
    let is_name =
        |text: &str| text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    let types = [("string", "text"), ("number", "number"), ("datetime", "date")];
    let kind = (body["type"].as_str().unwrap_or(""), body["fieldType"].as_str().unwrap_or(""));
    let good = body["name"].as_str().is_some_and(is_name)
        && is_text(&body["label"], 1..=100)
        && body["groupName"] == "contactinformation"
        && types.contains(&kind);
    if !good {
        return hubspot_error(400, "VALIDATION_ERROR", "Property definition is not valid");
    }
    let name = body["name"].as_str().unwrap_or_default();
    if !memory.made.insert(format!("property {name}")) {
        return hubspot_error(409, "OBJECT_ALREADY_EXISTS", "A property named so already exists.");
    }
    if body["hasUniqueValue"] == true {
        memory.made.insert(format!("unique {name}"));
    }
    Answer::new(201, body)
}

fn hubspot_upsert(body: &Value, memory: &mut Memory, refuse_odd: bool) -> Answer {
    let inputs = list(&body["inputs"]);
    let ids: std::collections::HashSet<String> =
        inputs.iter().map(|input| input["id"].to_string()).collect();
    if !(1..=100).contains(&inputs.len()) || ids.len() != inputs.len() {
        return hubspot_error(400, "VALIDATION_ERROR", "1 to 100 inputs with different ids");
    }
    let known = ["email", "firstname", "lastname"];
    if let required @ ("phone" | "company") = memory.fact("required", "") {
        let message = format!("Required property '{required}' is missing for CONTACT");
        return hubspot_error(400, "VALIDATION_ERROR", &message);
    }
    for input in inputs {
        let key = input["idProperty"].as_str().unwrap_or_default();
        let unknown = input["properties"].as_object().and_then(|fields| {
            fields.keys().find(|name| {
                !known.contains(&&***name) && !memory.made.contains(&format!("property {name}"))
            })
        });
        if unknown.is_some() || !memory.made.contains(&format!("unique {key}")) {
            let name = unknown.map_or(key, |name| name);
            let error = format!(
                "Property values were not valid: [{{\"error\":\"PROPERTY_DOESNT_EXIST\",\"name\":\"{name}\"}}]"
            );
            return hubspot_error(400, "VALIDATION_ERROR", &error);
        }
    }
    let (mut results, mut errors) = (Vec::new(), Vec::new());
    let mut answer = Answer::new(200, "");
    for (index, input) in inputs.iter().enumerate() {
        let fields = &input["properties"];
        let is_number = |name: &str| {
            fields[name].is_null()
                || fields[name].as_str().is_some_and(|n| n.parse::<f64>().is_ok())
        };
        let is_date = |name: &str| fields[name].is_null() || is_moment(&fields[name]);
        let good = is_text(&input["id"], 1..=255)
            && (memory.contacts.contains_key(input["id"].as_str().unwrap_or_default())
                || known.iter().any(|name| fields[name].is_string()))
            && fields.as_object().is_some_and(|f| f.values().all(|v| is_text(v, 0..=65_536)))
            && is_number("dunmore_last_amount")
            && is_number("dunmore_total_spent")
            && is_date("dunmore_last_event_at")
            && is_date("dunmore_first_payment_at");
        let trace = input["objectWriteTraceId"].as_str().unwrap_or_default();
        if good && !refused(refuse_odd, index, inputs.len()) {
            let id = input["id"].as_str().unwrap_or_default().to_owned();
            let is_new = !memory.contacts.contains_key(&id);
            let contact = memory.contacts.entry(id).or_insert_with(|| json!({}));
            for (name, value) in fields.as_object().into_iter().flatten() {
                contact[name] = value.clone();
            }
            results.push(json!({"id": index.to_string(), "new": is_new, "properties": fields,
                "objectWriteTraceId": trace}));
            answer = answer.took(trace, input);
        } else {
            errors.push(json!({"status": "error", "category": "VALIDATION_ERROR",
                "message": "Property values were not valid",
                "context": {"objectWriteTraceId": [trace]}}));
        }
    }
    let mut reply = json!({"status": "COMPLETE", "results": results});
    if !errors.is_empty() {
        answer.status = 207;
        reply["numErrors"] = errors.len().into();
        reply["errors"] = errors.into();
    }
    answer.body = reply.to_string();
    answer
}

pub fn hubspot_script(behaviour: &Behaviour) -> Option<Answer> {
    Some(match behaviour {
        Behaviour::RateLimited => Answer::new(
            429,
            json!({"status": "error", "message": "You have reached your ten_secondly_rolling limit.",
                "errorType": "RATE_LIMIT", "policyName": "TEN_SECONDLY_ROLLING"}),
        ),
        Behaviour::ServerError => Answer::new(502, ""),
        Behaviour::Unauthorized => {
            hubspot_error(401, "EXPIRED_AUTHENTICATION", "The token used to make this call expired")
        }
        Behaviour::Gone => hubspot_error(403, "MISSING_SCOPES", "required scopes are missing"),
        Behaviour::TooLarge => Answer::new(413, ""),
        _ => return None,
    })
}

fn salesforce_error(status: u16, code: &str, message: &str) -> Answer {
    Answer::new(status, json!([{"message": message, "errorCode": code}]))
}

pub fn salesforce(call: &Call, memory: &mut Memory, refuse_odd: bool) -> Answer {
    let parts: Vec<&str> = call.path.trim_start_matches('/').split('/').collect();
    let ["services", "data", version, rest @ ..] = &parts[..] else {
        return salesforce_error(404, "NOT_FOUND", "The requested resource does not exist");
    };
    let number = version.strip_prefix('v').and_then(|number| number.parse::<f64>().ok());
    let is_setup = call.method == "GET";
    if number.is_none_or(|number| !(31.0..=67.0).contains(&number)) {
        return salesforce_error(404, "NOT_FOUND", "The requested resource does not exist");
    }
    if !has_bearer(call, memory) {
        let answer = salesforce_error(401, "INVALID_SESSION_ID", "Session expired or invalid");
        return Answer { is_setup, ..answer };
    }
    let field = "Dunmore_Delivery_Id__c";
    let has_field = memory.made.contains(field);
    let is_external = has_field && !memory.made.contains("not external");
    match (call.method.as_str(), rest) {
        ("GET", ["query"]) if has_field || !call.param("q").contains(field) => {
            Answer::new(200, json!({"totalSize": 0, "done": true, "records": []})).setup()
        }
        ("GET", ["query"]) => {
            salesforce_error(400, "INVALID_FIELD", "No such column on entity 'Task'.").setup()
        }
        ("GET", ["sobjects", "Task", name, _]) if *name == field && is_external => {
            salesforce_error(404, "NOT_FOUND", "The requested resource does not exist").setup()
        }
        ("GET", ["sobjects", "Task", name, _]) => {
            let message =
                format!("Provided external ID field does not exist or is not accessible: {name}");
            salesforce_error(404, "NOT_FOUND", &message).setup()
        }
        ("PATCH", ["composite", "sobjects", "Task", name]) if *name == field && !is_external => {
            let message = format!("{field} is not an External ID field of Task");
            salesforce_error(400, "INVALID_FIELD", &message)
        }
        ("POST", ["composite", "sobjects"]) => salesforce_rows(call, memory, refuse_odd, None),
        ("PATCH", ["composite", "sobjects", "Task", name]) if *name == field && has_field => {
            salesforce_rows(call, memory, refuse_odd, Some(field))
        }
        _ => salesforce_error(404, "NOT_FOUND", "The requested resource does not exist"),
    }
}

fn salesforce_rows(
    call: &Call,
    memory: &mut Memory,
    refuse_odd: bool,
    key: Option<&str>,
) -> Answer {
    let body = call.json();
    let records = list(&body["records"]);
    if !call.is_json() || !(1..=200).contains(&records.len()) || body["allOrNone"] != false {
        return salesforce_error(400, "INVALID_INPUT", "1 to 200 records");
    }
    let standard = [
        "attributes",
        "Subject",
        "Status",
        "Priority",
        "ActivityDate",
        "Description",
        "Type",
        "WhoId",
    ];
    let mut rows = Vec::new();
    let mut answer = Answer::new(200, "").header("sforce-limit-info", "api-usage=18/15000");
    for (index, record) in records.iter().enumerate() {
        let fields = record.as_object();
        let unknown = fields.and_then(|fields| {
            fields.keys().find(|name| !standard.contains(&&***name) && key != Some(name.as_str()))
        });
        let code = if unknown.is_some() || record["attributes"]["type"] != "Task" {
            Some("INVALID_FIELD")
        } else if !is_text(&record["Subject"], 1..=255)
            || !is_text(&record["Description"], 0..=32_000)
        {
            Some("STRING_TOO_LONG")
        } else if !["Not Started", "In Progress", "Completed"]
            .contains(&record["Status"].as_str().unwrap_or_default())
            || !["High", "Normal", "Low"].contains(&record["Priority"].as_str().unwrap_or_default())
        {
            Some("REQUIRED_FIELD_MISSING")
        } else if !is_day(&record["ActivityDate"]) {
            Some("INVALID_TYPE")
        } else if refused(refuse_odd, index, records.len()) {
            Some("FIELD_CUSTOM_VALIDATION_EXCEPTION")
        } else {
            None
        };
        if let Some(code) = code {
            rows.push(json!({"success": false,
                "errors": [{"statusCode": code, "message": "not valid", "fields": []}]}));
            continue;
        }
        let external = key.and_then(|key| record[key].as_str()).unwrap_or_default();
        let is_new = external.is_empty() || memory.made.insert(external.to_owned());
        rows.push(json!({"id": format!("00T{index:015}"), "success": true, "errors": [], "created": is_new}));
        if is_new {
            answer = answer.took(external, record);
        }
    }
    answer.body = Value::from(rows).to_string();
    answer
}

pub fn salesforce_script(behaviour: &Behaviour) -> Option<Answer> {
    Some(match behaviour {
        Behaviour::RateLimited => {
            salesforce_error(403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.")
        }
        Behaviour::ServerError => {
            salesforce_error(500, "UNKNOWN_EXCEPTION", "An unexpected error occurred")
        }
        Behaviour::Unauthorized => {
            salesforce_error(401, "INVALID_SESSION_ID", "Session expired or invalid")
        }
        Behaviour::Gone => {
            salesforce_error(403, "API_DISABLED_FOR_ORG", "The REST API is not enabled")
        }
        Behaviour::TooLarge => Answer::new(413, ""),
        _ => return None,
    })
}
