//! `BigQuery`, `HubSpot`, Salesforce, `QuickBooks` and Xero.

use serde_json::{Value, json};

use super::{Answer, Behaviour, Call, Memory, has_only, is_moment, is_text, list};

fn has_bearer(call: &Call) -> bool {
    call.header("authorization").strip_prefix("Bearer ").is_some_and(|token| token.len() >= 10)
}

fn is_day(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok())
}

fn refused(refuse_odd: bool, index: usize, count: usize) -> bool {
    refuse_odd && (index % 2 == 1 || count == 1)
}

fn google_error(status: u16, reason: &str) -> Answer {
    let error = json!({"code": status, "message": reason,
        "errors": [{"message": reason, "domain": "global", "reason": reason}]});
    Answer::new(status, json!({"error": error}))
}

/// The columns of the sandbox's table, by their types; others are ignored, as the request asks.
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
    if call.method != "POST" || !is_ours {
        return google_error(404, "notFound");
    }
    if !has_bearer(call) {
        return google_error(401, "authError");
    }
    if call.body.len() > 10 * 1024 * 1024 {
        return google_error(413, "uploadTooLarge");
    }
    let body = call.json();
    let rows = list(&body["rows"]);
    let skips = body["skipInvalidRows"] == true;
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
        let wrong = fields.iter().find(|(name, value)| !fits_column(name, value));
        let lacks = ["id", "type", "projectId", "occurredAt"]
            .iter()
            .any(|name| fields.get(*name).is_none());
        if wrong.is_some() || lacks || refused(refuse_odd, index, rows.len()) {
            let location = wrong.map_or("", |(name, _)| name);
            errors.push(
                json!({"index": index, "errors": [{"reason": "invalid", "location": location,
                "debugInfo": "", "message": "Cannot convert value"}]}),
            );
            continue;
        }
        let key = row["insertId"].as_str().unwrap_or_default();
        if memory.made.insert(key.to_owned()) {
            answer = answer.took(key, row);
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
    let is_setup = call.path.starts_with(properties);
    if !has_bearer(call) {
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
    if call.path != "/crm/objects/2026-09/contacts/batch/upsert" {
        return hubspot_error(404, "OBJECT_NOT_FOUND", "resource not found");
    }
    hubspot_upsert(&body, memory, refuse_odd)
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
            && fields["lastname"].is_string()
            && fields.as_object().is_some_and(|f| f.values().all(|v| is_text(v, 0..=65_536)))
            && is_number("dunmore_last_amount")
            && is_number("dunmore_total_spent")
            && is_date("dunmore_last_event_at")
            && is_date("dunmore_first_payment_at");
        let trace = input["objectWriteTraceId"].as_str().unwrap_or_default();
        if good && !refused(refuse_odd, index, inputs.len()) {
            let is_new = memory.made.insert(format!("contact {}", input["id"]));
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
    let is_setup = *rest == ["query"];
    if number.is_none_or(|number| !(31.0..=67.0).contains(&number)) {
        return salesforce_error(404, "NOT_FOUND", "The requested resource does not exist");
    }
    if !has_bearer(call) {
        let answer = salesforce_error(401, "INVALID_SESSION_ID", "Session expired or invalid");
        return Answer { is_setup, ..answer };
    }
    let field = "Dunmore_Delivery_Id__c";
    let has_field = memory.made.contains(field);
    match (call.method.as_str(), rest) {
        ("GET", ["query"]) if has_field || !call.param("q").contains(field) => {
            Answer::new(200, json!({"totalSize": 0, "done": true, "records": []})).setup()
        }
        ("GET", ["query"]) => {
            salesforce_error(400, "INVALID_FIELD", "No such column on entity 'Task'.").setup()
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

fn intuit_fault(status: u16, code: &str, message: &str) -> Answer {
    let error = json!({"Message": message, "Detail": message, "code": code});
    Answer::new(status, json!({"Fault": {"Error": [error], "type": "ValidationFault"}}))
}

/// The item of the sandbox's company.
const ITEM: &str = "17";

pub fn quickbooks(call: &Call, memory: &mut Memory, refuse: bool) -> Answer {
    let parts: Vec<&str> = call.path.trim_start_matches('/').split('/').collect();
    let ["v3", "company", realm, resource] = parts[..] else {
        return Answer::new(404, "");
    };
    let is_setup = resource == "query";
    if !has_bearer(call) {
        let answer = intuit_fault(
            401,
            "3200",
            "message=AuthenticationFailed; errorCode=003200; statusCode=401",
        );
        return Answer { is_setup, ..answer };
    }
    if realm.parse::<u64>().is_err() || call.param("minorversion") != "75" {
        return intuit_fault(400, "2020", "minor version");
    }
    if call.header("accept") != "application/json" {
        return Answer::new(200, "<IntuitResponse/>");
    }
    if resource == "query" {
        let question = call.param("query").to_ascii_lowercase();
        let good = question.starts_with("select id, name from item where active = true");
        return if call.method == "GET" && good {
            let items =
                json!({"Item": [{"Name": "Hours", "Id": "3"}, {"Name": "Dunmore", "Id": ITEM}]});
            Answer::new(200, json!({"QueryResponse": items})).setup()
        } else {
            intuit_fault(400, "4000", "Error parsing query").setup()
        };
    }
    if call.method != "POST" || resource != "salesreceipt" || !call.is_json() {
        return intuit_fault(400, "2010", "Request has invalid or unsupported property");
    }
    let request = call.param("requestid");
    if request.is_empty() || request.len() > 50 {
        return intuit_fault(400, "2020", "requestid");
    }
    if let Some((_, first)) = memory.seen.get(request) {
        return Answer { accepted: Vec::new(), ..first.clone() };
    }
    let body = call.json();
    let line = &body["Line"][0];
    let detail = &line["SalesItemLineDetail"];
    let amount = line["Amount"].as_f64().unwrap_or(-1.0);
    let is_cents = ((amount * 100.0).round() - amount * 100.0).abs() < 1e-3;
    if detail["ItemRef"]["value"] != ITEM {
        return intuit_fault(400, "2500", "Invalid Reference Id : Item elements id not found");
    }
    let good = is_day(&body["TxnDate"])
        && is_text(&body["PrivateNote"], 0..=4_000)
        && is_text(&line["Description"], 0..=4_000)
        && line["DetailType"] == "SalesItemLineDetail"
        && amount > 0.0
        && amount <= 99_999_999_999.99
        && is_cents
        && detail["Qty"]
            .as_f64()
            .zip(detail["UnitPrice"].as_f64())
            .is_some_and(|(quantity, price)| (quantity * price - amount).abs() < 0.005)
        && (body["CurrencyRef"].is_null() || is_text(&body["CurrencyRef"]["value"], 3..=3));
    if !good || refuse {
        return intuit_fault(400, "6000", "A business validation error has occurred");
    }
    let mut receipt = body.clone();
    receipt["Id"] = (memory.seen.len() + 1).to_string().into();
    receipt["TotalAmt"] = amount.into();
    let answer =
        Answer::new(200, json!({"SalesReceipt": receipt, "time": "2026-11-20T02:16:30.000-08:00"}));
    let answer = answer.took(request, &body);
    memory.seen.insert(request.to_owned(), (call.body.clone(), answer.clone()));
    answer
}

pub fn quickbooks_script(behaviour: &Behaviour) -> Option<Answer> {
    Some(match behaviour {
        Behaviour::RateLimited => {
            intuit_fault(429, "3001", "message=ThrottleExceeded; errorCode=003001; statusCode=429")
        }
        Behaviour::ServerError => intuit_fault(500, "10000", "An application error has occurred"),
        Behaviour::Unauthorized => intuit_fault(
            401,
            "3200",
            "message=AuthenticationFailed; errorCode=003200; statusCode=401",
        ),
        Behaviour::Gone => intuit_fault(400, "6190", "Subscription period has ended"),
        Behaviour::TooLarge => Answer::new(413, ""),
        _ => return None,
    })
}

pub fn xero(call: &Call, memory: &mut Memory, refuse_odd: bool) -> Answer {
    if call.path != "/api.xro/2.0/Invoices" || call.method != "PUT" {
        return Answer::new(404, "The resource you're looking for cannot be found");
    }
    if !has_bearer(call) {
        return xero_problem(401, "TokenInvalid");
    }
    if call.header("xero-tenant-id").len() != 36 {
        return xero_problem(403, "AuthenticationUnsuccessful");
    }
    let body = call.json();
    let invoices = list(&body["Invoices"]);
    let key = call.header("idempotency-key");
    let good = call.is_json()
        && call.header("accept") == "application/json"
        && call.param("summarizeErrors") == "false"
        && (1..=50).contains(&invoices.len())
        && call.body.len() <= 3_500_000
        && (1..=128).contains(&key.len());
    if !good {
        let body = json!({"ErrorNumber": 14, "Type": "PostDataInvalidException",
            "Message": "JSON for post data was invalid"});
        return Answer::new(400, body);
    }
    if let Some((first, answer)) = memory.seen.get(key) {
        return if *first == call.body {
            Answer { accepted: Vec::new(), ..answer.clone() }
        } else {
            let body = json!({"ErrorNumber": 10, "Type": "ValidationException",
                "Message": "Idempotency-Key was used with another body", "Elements": []});
            Answer::new(400, body)
        };
    }
    let mut rows = Vec::new();
    let mut answer = Answer::new(200, "");
    for (index, invoice) in invoices.iter().enumerate() {
        let number = invoice["InvoiceNumber"].as_str().unwrap_or_default();
        let error = if !is_invoice(invoice) {
            Some("A validation exception occurred")
        } else if refused(refuse_odd, index, invoices.len()) {
            Some("The document date cannot be before the period lock date")
        } else if !memory.made.insert(number.to_owned()) {
            Some("Invoice # must be unique.")
        } else {
            None
        };
        let mut row = invoice.clone();
        if let Some(message) = error {
            row["StatusAttributeString"] = "ERROR".into();
            row["HasErrors"] = true.into();
            row["ValidationErrors"] = json!([{"Message": message}]);
        } else {
            row["InvoiceID"] = format!("ef5304e6-07fc-4381-8b06-{index:012}").into();
            row["StatusAttributeString"] = "OK".into();
            row["HasErrors"] = false.into();
            answer = answer.took(number.trim_start_matches("DUNMORE-"), invoice);
        }
        rows.push(row);
    }
    answer.body = json!({"Status": "OK", "Invoices": rows}).to_string();
    // A repeat gets the same answer, but for a refusal, which is looked at anew.
    if answer.accepted.len() == invoices.len() {
        memory.seen.insert(key.to_owned(), (call.body.clone(), answer.clone()));
    }
    answer
}

fn is_invoice(invoice: &Value) -> bool {
    let lines = list(&invoice["LineItems"]);
    invoice["Type"] == "ACCREC"
        && invoice["Status"] == "DRAFT"
        && is_text(&invoice["InvoiceNumber"], 1..=255)
        && is_text(&invoice["Reference"], 0..=255)
        && is_text(&invoice["Contact"]["Name"], 1..=255)
        && is_day(&invoice["Date"])
        && ["NoTax", "Inclusive", "Exclusive"]
            .contains(&invoice["LineAmountTypes"].as_str().unwrap_or_default())
        && !lines.is_empty()
        && lines.iter().all(|line| {
            is_text(&line["Description"], 1..=4_000)
                && line["Quantity"].as_f64().is_some_and(|quantity| quantity > 0.0)
                && line["UnitAmount"].as_f64().is_some_and(|amount| amount > 0.0)
        })
}

fn xero_problem(status: u16, detail: &str) -> Answer {
    Answer::new(status, json!({"Type": null, "Title": "…", "Status": status, "Detail": detail}))
}

pub fn xero_script(behaviour: &Behaviour) -> Option<Answer> {
    Some(match behaviour {
        Behaviour::RateLimited => {
            Answer::new(429, "").header("retry-after", 17).header("x-rate-limit-problem", "minute")
        }
        Behaviour::ServerError => xero_problem(503, "The Organisation is offline"),
        Behaviour::Unauthorized => xero_problem(401, "TokenExpired: token expired"),
        Behaviour::Gone => xero_problem(403, "AuthenticationUnsuccessful"),
        Behaviour::TooLarge => Answer::new(413, ""),
        _ => return None,
    })
}
