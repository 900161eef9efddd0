//! What some destinations ask before their first delivery, and what they make of the answers.

use dunmore_connectors::{
    delivery::Verdict,
    destination::{ConnectorType as T, MAX_SETUP_STEPS, Response, Setup},
    event::EventTypes,
};

use crate::{
    events::{item, plain},
    kit::{make, make_with, response},
    verdicts::words,
};

/// Asks a destination until it is ready, with prepared answers; tells the questions and the end.
fn conversation(kind: T, answers: &[(u16, &str)]) -> (Vec<String>, String) {
    let destination = make(kind.spec(), &EventTypes::All);
    let answers: Vec<Response> =
        answers.iter().map(|(status, body)| response(*status, &[], (*body).to_owned())).collect();
    let mut questions = Vec::new();
    for count in 0..=answers.len() {
        match destination.setup(&answers[..count]) {
            Setup::Ready(text) => return (questions, format!("ready {text:?}")),
            Setup::Failed(verdict) => return (questions, words(&verdict)),
            Setup::Ask(request) => {
                let authorized = request.headers.iter().any(|(name, _)| name == "authorization");
                assert!(authorized, "{kind} asks without its token");
                let path = request.url.path();
                questions.push(format!("{} {path}", request.method));
            }
        }
    }
    (questions, "asks on".to_owned())
}

fn end(kind: T, answers: &[(u16, &str)]) -> String {
    conversation(kind, answers).1
}

#[test]
fn most_destinations_need_no_setup() {
    let asking = [T::Opsgenie, T::Bigquery, T::Hubspot, T::Salesforce, T::Quickbooks];
    for &kind in T::ALL {
        let expected = if asking.contains(&kind) { "asks on" } else { "ready \"\"" };
        assert_eq!(end(kind, &[]), expected, "{kind}");
    }
}

#[test]
fn hubspot_makes_the_properties_that_are_missing_once() {
    let all = [
        "dunmore_wallet",
        "dunmore_last_event",
        "dunmore_last_event_at",
        "dunmore_last_amount",
        "dunmore_last_currency",
        "dunmore_last_endpoint",
        "dunmore_last_failure",
        "dunmore_first_payment_at",
        "dunmore_milestone",
        "dunmore_total_spent",
        "dunmore_total_currency",
    ];
    let found = |names: &[&str]| {
        let results: Vec<_> = names.iter().map(|name| serde_json::json!({"name": name})).collect();
        serde_json::json!({"status": "COMPLETE", "results": results}).to_string()
    };
    assert_eq!(end(T::Hubspot, &[(200, &found(&all))]), "ready \"\"");
    let (questions, end_of_it) =
        conversation(T::Hubspot, &[(207, &found(&all[..9])), (201, "{}"), (409, "{}")]);
    assert_eq!(end_of_it, "ready \"\"");
    assert_eq!(
        questions,
        [
            "POST /crm/properties/2026-09/contacts/batch/read",
            "POST /crm/properties/2026-09/contacts",
            "POST /crm/properties/2026-09/contacts",
        ]
    );
    let mut from_nothing = vec![(200, r#"{"results":[]}"#)];
    from_nothing.resize(1 + all.len(), (201, "{}"));
    assert_eq!(end(T::Hubspot, &from_nothing), "ready \"\"");
    assert!(from_nothing.len() < MAX_SETUP_STEPS);
    assert_eq!(end(T::Hubspot, &[(401, "{}")]), "broken unauthorized");
    assert_eq!(end(T::Hubspot, &[(403, "{}"), (403, "{}")]), "broken forbidden");
    assert_eq!(end(T::Hubspot, &[(200, "{}"), (400, "{}")]), "broken prerequisite_missing");
    assert_eq!(end(T::Hubspot, &[(503, "")]), "retry server_error");
}

/// A company's preferences: its home currency, and whether it books in others too.
fn preferences(home: &str, multi: bool) -> String {
    serde_json::json!({"Preferences": {"CurrencyPrefs":
        {"MultiCurrencyEnabled": multi, "HomeCurrency": {"value": home}}}})
    .to_string()
}

#[test]
fn quickbooks_finds_an_item_to_book_on_and_the_home_currency() {
    let ours =
        r#"{"QueryResponse":{"Item":[{"Id":"3","Name":"Hours"},{"Id":"7","Name":"DUNMORE"}]}}"#;
    let none = r#"{"QueryResponse":{}}"#;
    let services = r#"{"QueryResponse":{"Item":[{"Id":"3","Name":"Hours"}],"maxResults":1}}"#;
    let (dollars, euros) = (preferences("USD", true), preferences("EUR", false));
    let (questions, end_of_it) = conversation(T::Quickbooks, &[(200, ours), (200, &dollars)]);
    assert_eq!(end_of_it, r#"ready "{\"item\":\"7\",\"home\":\"USD\"}""#);
    let company = "GET /v3/company/9130347798120106";
    assert_eq!(questions, [format!("{company}/query"), format!("{company}/preferences")]);
    // By its name first, then any service.
    let answers = [(200, none), (200, services), (200, &*euros)];
    let (questions, end_of_it) = conversation(T::Quickbooks, &answers);
    let known = r#"ready "{\"item\":\"3\",\"home\":\"EUR\",\"only_home\":true}""#;
    assert_eq!((questions.len(), &*end_of_it), (3, known));
    assert_eq!(end(T::Quickbooks, &[(200, none), (200, none)]), "broken prerequisite_missing");
    assert_eq!(end(T::Quickbooks, &[(200, ours), (200, "{}")]), "broken prerequisite_missing");
    let fault = r#"{"Fault":{"Error":[{"code":"3200"}]}}"#;
    assert_eq!(end(T::Quickbooks, &[(401, fault)]), "broken unauthorized");
    assert_eq!(end(T::Quickbooks, &[(200, fault)]), "broken unauthorized");
    assert_eq!(end(T::Quickbooks, &[(200, "garbage")]), "retry unexpected_response");
    assert_eq!(end(T::Quickbooks, &[(200, ours), (200, "garbage")]), "retry unexpected_response");
    assert_eq!(end(T::Quickbooks, &[(429, "")]), "retry rate_limited 60s");
    // A configured item is not looked for.
    let configured = make_with(T::Quickbooks, &[("itemId", "21")], &EventTypes::All);
    let Setup::Ask(request) = configured.setup(&[]) else { panic!("no question") };
    assert!(request.url.path().ends_with("/preferences"));
    let Setup::Ready(text) = configured.setup(&[response(200, &[], dollars)]) else { panic!() };
    assert_eq!(&*text, r#"{"item":"21","home":"USD"}"#);
    let sandbox = make_with(T::Quickbooks, &[("environment", "sandbox")], &EventTypes::All);
    let Setup::Ask(request) = sandbox.setup(&[]) else { panic!("no question") };
    assert_eq!(request.url.host_str(), Some("sandbox-quickbooks.api.intuit.com"));
}

#[test]
fn quickbooks_asks_for_the_rate_of_the_day_only_where_it_needs_one() {
    let destination = make(T::Quickbooks.spec(), &EventTypes::All);
    let event = &plain()[7].1;
    let lookup = |home: &str, more: &str, answers: &[(u16, &str)]| {
        let setup = format!(r#"{{"item":"7","home":"{home}"{more}}}"#);
        let answers: Vec<Response> = answers
            .iter()
            .map(|(status, body)| response(*status, &[], (*body).to_owned()))
            .collect();
        match destination.lookup(&[item(event, &setup)], &answers) {
            None => "nothing".to_owned(),
            Some(Setup::Ask(request)) => request.url[url::Position::BeforePath..].to_owned(),
            Some(Setup::Ready(text)) => text.to_string(),
            Some(Setup::Failed(verdict)) => words(&verdict),
        }
    };
    assert_eq!(lookup("USD", "", &[]), "nothing");
    assert_eq!(
        lookup("EUR", "", &[]),
        "/v3/company/9130347798120106/exchangerate?minorversion=75&sourcecurrencycode=USD&asofdate=2026-11-19"
    );
    let rate =
        r#"{"ExchangeRate":{"SourceCurrencyCode":"USD","TargetCurrencyCode":"EUR","Rate":0.91}}"#;
    assert_eq!(lookup("EUR", "", &[(200, rate)]), r#"{"item":"7","home":"EUR","rate":0.91}"#);
    assert_eq!(lookup("EUR", r#","only_home":true"#, &[]), "broken prerequisite_missing");
    for (status, body, expected) in [
        (200, rate.replace("0.91", "0"), "broken prerequisite_missing"),
        (200, rate.replace("0.91", "-1"), "broken prerequisite_missing"),
        (200, rate.replace("\"EUR\"", "\"GBP\""), "broken prerequisite_missing"),
        (200, "{}".to_owned(), "broken prerequisite_missing"),
        (400, r#"{"Fault":{"Error":[{"code":"610"}]}}"#.to_owned(), "broken prerequisite_missing"),
        (200, "garbage".to_owned(), "retry unexpected_response"),
        (401, String::new(), "broken unauthorized"),
        (503, String::new(), "retry server_error"),
    ] {
        assert_eq!(lookup("EUR", "", &[(status, &body)]), expected, "{status} {body}");
    }
    // Without the rate there is no receipt.
    let refused = destination.build(&item(event, r#"{"item":"7","home":"EUR"}"#)).unwrap_err();
    assert_eq!(words(&refused), "retry prerequisite_missing");
}

/// `QuickBooks` takes a missing rate for 1; what it says it booked is looked at.
#[test]
fn a_receipt_at_another_rate_is_noticed() {
    let destination = make(T::Quickbooks.spec(), &EventTypes::All);
    let event = &plain()[7].1;
    let judged = |setup: &str, more: &str| {
        let receipt = format!(r#"{{"SalesReceipt":{{"Id":"11","TotalAmt":1234.57{more}}}}}"#);
        words(&destination.judge(&item(event, setup), &response(200, &[], receipt)))
    };
    let euros = r#"{"item":"7","home":"EUR","rate":0.91}"#;
    for (setup, more, expected) in [
        (euros, "", "delivered"),
        (euros, r#","HomeTotalAmt":1123.46"#, "delivered"),
        (euros, r#","HomeTotalAmt":1123.45"#, "delivered"),
        (euros, r#","HomeTotalAmt":1234.57"#, "dead unexpected_response"),
        (euros, r#","HomeTotalAmt":1123.49"#, "dead unexpected_response"),
        (euros, r#","CurrencyRef":{"value":"EUR"}"#, "dead unexpected_response"),
        (r#"{"item":"7","home":"USD"}"#, r#","HomeTotalAmt":1234.57"#, "delivered"),
        (r#"{"item":"7","home":"JPY","rate":155.2}"#, r#","HomeTotalAmt":191605"#, "delivered"),
        (
            r#"{"item":"7","home":"JPY","rate":155.2}"#,
            r#","HomeTotalAmt":1235"#,
            "dead unexpected_response",
        ),
    ] {
        assert_eq!(judged(setup, more), expected, "{setup} {more}");
    }
}

#[test]
fn hubspot_asks_which_wallets_have_a_contact() {
    let destination = make(T::Hubspot.spec(), &EventTypes::All);
    let events = plain();
    let (settled, first) = (&events[1].1, &events[3].1);
    let wallet = "0xa1b200000000000000000000000000000000c3d4";
    let items = [item(settled, ""), item(first, "")];
    let Some(Setup::Ask(question)) = destination.lookup(&items, &[]) else { panic!() };
    assert_eq!(question.url.path(), "/crm/objects/2026-09/contacts/batch/read");
    let answer = |status, body: &str| match destination
        .lookup(&items, &[response(status, &[], body.to_owned())])
    {
        Some(Setup::Ready(text)) => text.to_string(),
        Some(Setup::Failed(verdict)) => words(&verdict),
        _ => "something else".to_owned(),
    };
    let known = format!(r#"{{"results":[{{"properties":{{"dunmore_wallet":"{wallet}"}}}}]}}"#);
    assert_eq!(answer(200, &known), format!("[\"{wallet}\"]"));
    assert_eq!(answer(207, r#"{"results":[],"numErrors":1}"#), "[]");
    assert_eq!(answer(403, "{}"), "unreadable");
    assert_eq!(answer(400, r#"{"category":"VALIDATION_ERROR"}"#), "unreadable");
    let unmade = r#"{"category":"VALIDATION_ERROR","message":"PROPERTY_DOESNT_EXIST"}"#;
    assert_eq!(answer(400, unmade), "retry prerequisite_missing");
    assert_eq!(answer(401, "{}"), "broken unauthorized");
    assert_eq!(answer(503, ""), "retry server_error");
    assert_eq!(answer(200, "garbage"), "retry unexpected_response");
    assert_eq!(answer(200, &" ".repeat(64 * 1024)), "retry payload_too_large");
}

#[test]
fn bigquery_looks_at_the_table_once() {
    let schema = |names: &[&str]| {
        let fields: Vec<_> =
            names.iter().map(|n| serde_json::json!({"name": n, "type": "STRING"})).collect();
        serde_json::json!({"schema": {"fields": fields}}).to_string()
    };
    let keys = ["id", "type", "projectId", "occurredAt"];
    let (questions, end_of_it) = conversation(T::Bigquery, &[(200, &schema(&keys))]);
    assert_eq!(end_of_it, "ready \"id type projectId occurredAt\"");
    let table = "GET /bigquery/v2/projects/my-project-123456/datasets/payments/tables/events";
    assert_eq!(questions, [table]);
    // A column's name has no case.
    let some = schema(&["ID", "Type", "projectid", "occurredAt", "payload", "theirs"]);
    assert_eq!(end(T::Bigquery, &[(200, &some)]), "ready \"id type projectId occurredAt payload\"");
    let snake = schema(&["event_id", "event_type", "project_id", "occurred_at"]);
    assert_eq!(end(T::Bigquery, &[(200, &snake)]), "broken prerequisite_missing");
    assert_eq!(end(T::Bigquery, &[(200, "{}")]), "broken prerequisite_missing");
    let required = schema(&[&keys[..], &["tenant"]].concat())
        .replace(r#""name":"tenant""#, r#""name":"tenant","mode":"REQUIRED""#);
    assert_eq!(end(T::Bigquery, &[(200, &required)]), "broken prerequisite_missing");
    let denied = r#"{"error":{"errors":[{"reason":"accessDenied"}]}}"#;
    assert_eq!(end(T::Bigquery, &[(403, denied)]), "ready \"?\"");
    let quota = r#"{"error":{"errors":[{"reason":"quotaExceeded"}]}}"#;
    assert_eq!(end(T::Bigquery, &[(403, quota)]), "retry quota_exceeded");
    assert_eq!(end(T::Bigquery, &[(401, "")]), "broken unauthorized");
    assert_eq!(end(T::Bigquery, &[(404, "")]), "broken gone");
    assert_eq!(end(T::Bigquery, &[(200, "garbage")]), "retry unexpected_response");
}

#[test]
fn bigquery_never_loses_an_amount() {
    let destination = make(T::Bigquery.spec(), &EventTypes::All);
    let events = plain();
    let settled = &events[1].1;
    let row = |setup: &str| {
        let request = destination.build(&item(settled, setup))?;
        let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
        assert_eq!(body["ignoreUnknownValues"], false);
        Ok::<_, dunmore_connectors::delivery::Verdict>(body["rows"][0]["json"].clone())
    };
    let all = row("").unwrap();
    assert_eq!((&all["amount"], &all["txHash"]), (&"1.250000".into(), &"0x9fe1".into()));
    let some = row("id type projectId occurredAt amount currency").unwrap();
    let names: Vec<&String> = some.as_object().unwrap().keys().collect();
    assert_eq!(names, ["id", "type", "projectId", "occurredAt", "amount", "currency"]);
    let with_payload = row("id type projectId occurredAt payload").unwrap();
    assert!(with_payload["payload"].as_str().unwrap().contains("1.250000"));
    for lossy in ["id type projectId occurredAt", "id type projectId occurredAt amount"] {
        let refused = row(lossy).unwrap_err();
        assert_eq!(words(&refused), "broken prerequisite_missing", "{lossy}");
    }
}

#[test]
fn salesforce_upserts_where_tasks_have_the_field_as_an_external_id() {
    let missing =
        r#"[{"message":"No such column 'Dunmore_Delivery_Id__c'","errorCode":"INVALID_FIELD"}]"#;
    assert_eq!(end(T::Salesforce, &[(400, missing)]), "ready \"\"");
    let there = (200, r#"{"records":[]}"#);
    let no_record =
        r#"[{"errorCode":"NOT_FOUND","message":"The requested resource does not exist"}]"#;
    let (questions, end_of_it) = conversation(T::Salesforce, &[there, (404, no_record)]);
    assert_eq!(end_of_it, "ready \"external-id\"");
    assert!(questions[1].contains("/sobjects/Task/Dunmore_Delivery_Id__c/"), "{questions:?}");
    let plain_field = r#"[{"errorCode":"NOT_FOUND","message":"Provided external ID field does not exist or is not accessible: Dunmore_Delivery_Id__c"}]"#;
    assert_eq!(end(T::Salesforce, &[there, (404, plain_field)]), "broken prerequisite_missing");
    assert_eq!(end(T::Salesforce, &[there, (503, "")]), "retry server_error");
    let expired = r#"[{"errorCode":"INVALID_SESSION_ID"}]"#;
    assert_eq!(end(T::Salesforce, &[(401, expired)]), "broken unauthorized");
    let event = &plain()[2].1;
    let destination = make(T::Salesforce.spec(), &EventTypes::All);
    let upsert = destination.build(&item(event, "external-id")).unwrap();
    assert_eq!(upsert.method, "PATCH");
    assert!(upsert.url.path().ends_with("/composite/sobjects/Task/Dunmore_Delivery_Id__c"));
}

#[test]
fn opsgenie_tries_its_successor_once() {
    let no_message = r#"{"message":"Request body is not processable","errors":{"message":"…"}}"#;
    let bad_key = r#"{"message":"Key format is not valid!"}"#;
    assert_eq!(end(T::Opsgenie, &[(422, no_message)]), "ready \"\"");
    let (questions, end_of_it) = conversation(T::Opsgenie, &[(422, bad_key), (422, no_message)]);
    assert_eq!(end_of_it, "ready \"jsm\"");
    assert_eq!(questions, ["POST /v2/alerts", "POST /jsm/ops/integration/v2/alerts"]);
    assert_eq!(end(T::Opsgenie, &[(401, ""), (400, no_message)]), "ready \"jsm\"");
    assert_eq!(end(T::Opsgenie, &[(403, ""), (401, "")]), "broken unauthorized");
    assert_eq!(end(T::Opsgenie, &[(404, ""), (503, "")]), "retry server_error");
    assert_eq!(end(T::Opsgenie, &[(429, "")]), "retry rate_limited");
    // The first answer says what is wrong, the second only that it is.
    let advice = r#"{"message":"Please use an API key from an API integration"}"#;
    let unknown = r#"{"message":"Could not authenticate"}"#;
    let destination = make(T::Opsgenie.spec(), &EventTypes::All);
    let answers = [(403, advice), (401, unknown)].map(|(s, body)| response(s, &[], body));
    let Setup::Failed(Verdict::Broken { detail, .. }) = destination.setup(&answers) else {
        panic!("not broken")
    };
    assert!(detail.contains("from an API integration"), "{detail}");
    // What is not documented is no reason not to try.
    assert_eq!(end(T::Opsgenie, &[(400, "")]), "ready \"\"");
    let event = &plain()[2].1;
    let destination = make(T::Opsgenie.spec(), &EventTypes::All);
    let url = |setup| destination.build(&item(event, setup)).unwrap().url.to_string();
    assert_eq!(url(""), "https://api.opsgenie.com/v2/alerts");
    assert_eq!(url("jsm"), "https://api.atlassian.com/jsm/ops/integration/v2/alerts");
    let refused = response(401, &[], "");
    assert_eq!(words(&destination.judge(&item(event, "jsm"), &refused)), "broken unauthorized");
}
