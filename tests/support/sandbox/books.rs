//! `QuickBooks` and Xero: what they book, with what a request leaves out taken for granted.

use serde_json::{Value, json};

use super::{
    Answer, Behaviour, Call, Memory, is_currency, is_text, list,
    records::{is_day, refused},
    tokens::has_bearer,
};

fn intuit_fault(status: u16, code: &str, message: &str) -> Answer {
    let error = json!({"Message": message, "Detail": message, "code": code});
    Answer::new(status, json!({"Fault": {"Error": [error], "type": "ValidationFault"}}))
}

/// The item of the sandbox's company.
const ITEM: &str = "17";

/// What a unit of a currency is worth in dollars, as the sandbox has it.
fn dollars(code: &str) -> f64 {
    match code {
        "USD" => 1.0,
        "EUR" => 1.1,
        "GBP" => 1.25,
        "JPY" => 0.0064,
        _ => 0.5,
    }
}

/// Facts about the company: `home EUR`, `country GB`, `only home`, `lacks EUR`, `no item`.
pub fn quickbooks(call: &Call, memory: &mut Memory, refuse: bool) -> Answer {
    let parts: Vec<&str> = call.path.trim_start_matches('/').split('/').collect();
    let ["v3", "company", realm, resource] = parts[..] else {
        return Answer::new(404, "");
    };
    let is_setup = ["query", "preferences", "exchangerate"].contains(&resource);
    if !has_bearer(call, memory) {
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
    if is_setup {
        return quickbooks_question(call, memory, resource).setup();
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
    let receipt = match quickbooks_receipt(&call.json(), memory) {
        Ok(_) if refuse => return intuit_fault(400, "6210", "Account Period Closed"),
        Ok(receipt) => receipt,
        Err(fault) => return fault,
    };
    let answer =
        Answer::new(200, json!({"SalesReceipt": receipt, "time": "2026-11-20T02:16:30.000-08:00"}));
    let answer = answer.took(request, &receipt);
    memory.seen.insert(request.to_owned(), (call.body.clone(), answer.clone()));
    answer
}

fn quickbooks_question(call: &Call, memory: &Memory, resource: &str) -> Answer {
    if call.method != "GET" {
        return intuit_fault(400, "2010", "Unsupported operation");
    }
    let home = memory.fact("home", "USD");
    let is_multi = !memory.made.contains("only home");
    match resource {
        "preferences" => {
            let currency =
                json!({"MultiCurrencyEnabled": is_multi, "HomeCurrency": {"value": home}});
            Answer::new(200, json!({"Preferences": {"CurrencyPrefs": currency, "Id": "1"}}))
        }
        "exchangerate" => {
            let source = json!(call.param("sourcecurrencycode"));
            let code = source.as_str().unwrap_or_default();
            let day = json!(call.param("asofdate"));
            if !is_multi || !is_currency(&source) || memory.made.contains(&format!("lacks {code}"))
            {
                return intuit_fault(400, "2500", "Invalid Reference Id : currency");
            }
            if !is_day(&day) {
                return intuit_fault(400, "2020", "asofdate");
            }
            let rate = json!({"SourceCurrencyCode": source, "TargetCurrencyCode": home,
                "Rate": dollars(code) / dollars(home), "AsOfDate": day});
            Answer::new(200, json!({"ExchangeRate": rate}))
        }
        _ => {
            let question = call.param("query").to_ascii_lowercase();
            let Some(condition) =
                question.strip_prefix("select id, name from item where active = true and ")
            else {
                return intuit_fault(400, "4000", "Error parsing query");
            };
            let has_ours = !memory.made.contains("no item");
            let mut items = vec![json!({"Name": "Hours", "Id": "3"})];
            if condition.starts_with("name = 'dunmore'") {
                items.clear();
            }
            if has_ours {
                items.push(json!({"Name": "Dunmore", "Id": ITEM}));
            }
            Answer::new(200, json!({"QueryResponse": {"Item": items}}))
        }
    }
}

/// The receipt as the company books it: what the request leaves out is taken for granted.
fn quickbooks_receipt(body: &Value, memory: &Memory) -> Result<Value, Answer> {
    let line = &body["Line"][0];
    let detail = &line["SalesItemLineDetail"];
    let amount = line["Amount"].as_f64().unwrap_or(-1.0);
    let is_cents = ((amount * 100.0).round() - amount * 100.0).abs() < 1e-3;
    let invalid = |element: &str| {
        let mut fault = intuit_fault(400, "2500", "Invalid Reference Id");
        fault.body = json!({"Fault": {"Error": [{"Message": "Invalid Reference Id",
            "Detail": format!("Invalid Reference Id : {element}"), "code": "2500",
            "element": element}], "type": "ValidationFault"}})
        .to_string();
        Err(fault)
    };
    let item = detail["ItemRef"]["value"].as_str().unwrap_or_default();
    let has_ours = !memory.made.contains("no item");
    if item != "3" && (item != ITEM || !has_ours) {
        return invalid("Line.SalesItemLineDetail.ItemRef");
    }
    let home = memory.fact("home", "USD");
    let currency = body["CurrencyRef"]["value"].as_str().unwrap_or(home);
    if !is_currency(&json!(currency)) || memory.made.contains(&format!("lacks {currency}")) {
        return invalid("CurrencyRef");
    }
    let is_abroad = memory.fact("country", "US") != "US";
    let tax_code = detail["TaxCodeRef"]["value"].as_str();
    if is_abroad && tax_code.is_none() {
        let message = "Business Validation Error: Make sure all your transactions have a VAT rate";
        return Err(intuit_fault(400, "6000", message));
    }
    if tax_code.is_some_and(|code| !["5", "TAX", "NON"].contains(&code)) {
        return invalid("TaxCodeRef");
    }
    let good = is_day(&body["TxnDate"])
        && is_text(&body["PrivateNote"], 0..=4_000)
        && is_text(&line["Description"], 0..=4_000)
        && line["DetailType"] == "SalesItemLineDetail"
        && amount > 0.0
        && amount <= 99_999_999_999.99
        && is_cents
        && (currency == home || !memory.made.contains("only home"))
        && detail["Qty"]
            .as_f64()
            .zip(detail["UnitPrice"].as_f64())
            .is_some_and(|(quantity, price)| (quantity * price - amount).abs() < 0.005);
    if !good {
        return Err(intuit_fault(400, "6000", "A business validation error has occurred"));
    }
    // A tax that is not said to be included comes on top.
    let is_included = body["GlobalTaxCalculation"] == "TaxInclusive";
    let total = if is_abroad && !is_included { amount * 1.2 } else { amount };
    let rate = body["ExchangeRate"].as_f64().unwrap_or(1.0);
    let mut receipt = body.clone();
    receipt["Id"] = (memory.seen.len() + 1).to_string().into();
    receipt["TotalAmt"] = total.into();
    receipt["CurrencyRef"] = json!({"value": currency});
    receipt["ExchangeRate"] = rate.into();
    receipt["HomeTotalAmt"] = ((total * rate * 100.0).round() / 100.0).into();
    Ok(receipt)
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
    if !has_bearer(call, memory) {
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
        // An invoice without a currency is taken to be in the organisation's own.
        let currency = invoice["CurrencyCode"].as_str().unwrap_or(memory.fact("home", "NZD"));
        let currency = currency.to_owned();
        let line = &invoice["LineItems"][0];
        let lacks = memory.made.contains(&format!("lacks {currency}"));
        let error = if !is_invoice(invoice) {
            Some("A validation exception occurred".to_owned())
        } else if lacks {
            Some(format!("Organisation is not subscribed to currency {currency}"))
        } else if line["AccountCode"].as_str().is_some_and(|code| code != "200") {
            Some("Account code '999' is not a valid code for this document.".to_owned())
        } else if line["TaxType"].as_str().is_some_and(|kind| kind != "OUTPUT2") {
            Some("The TaxType code 'X' does not exist or cannot be used".to_owned())
        } else if refused(refuse_odd, index, invoices.len()) {
            Some("The document date cannot be before the period lock date".to_owned())
        } else if !memory.made.insert(number.to_owned()) {
            Some("Invoice # must be unique.".to_owned())
        } else {
            None
        };
        let mut row = invoice.clone();
        let amount = line["UnitAmount"].as_f64().unwrap_or_default();
        let is_added = invoice["LineAmountTypes"] == "Exclusive" && line["TaxType"].is_string();
        row["CurrencyCode"] = currency.into();
        row["Total"] = if is_added { amount * 1.15 } else { amount }.into();
        if let Some(message) = error {
            row["StatusAttributeString"] = "ERROR".into();
            row["HasErrors"] = true.into();
            row["ValidationErrors"] = json!([{"Message": message}]);
        } else {
            row["InvoiceID"] = format!("ef5304e6-07fc-4381-8b06-{index:012}").into();
            row["StatusAttributeString"] = "OK".into();
            row["HasErrors"] = false.into();
            answer = answer.took(number.trim_start_matches("DUNMORE-"), &row);
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
        && (invoice["CurrencyCode"].is_null() || is_currency(&invoice["CurrencyCode"]))
        && invoice["CurrencyRate"].is_null()
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
