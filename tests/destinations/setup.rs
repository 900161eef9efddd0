//! What some destinations ask before their first delivery, and what they make of the answers.

use dunmore_connectors::{
    destination::{ConnectorType as T, MAX_SETUP_STEPS, Response, Setup},
    event::EventTypes,
};

use crate::{
    events::{item, plain},
    kit::{make, response},
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
    let asking = [T::Opsgenie, T::Hubspot, T::Salesforce, T::Quickbooks];
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
    ];
    let found = |names: &[&str]| {
        let results: Vec<_> = names.iter().map(|name| serde_json::json!({"name": name})).collect();
        serde_json::json!({"status": "COMPLETE", "results": results}).to_string()
    };
    assert_eq!(end(T::Hubspot, &[(200, &found(&all))]), "ready \"\"");
    let (questions, end_of_it) =
        conversation(T::Hubspot, &[(207, &found(&all[..8])), (201, "{}"), (409, "{}")]);
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

#[test]
fn quickbooks_finds_an_item_to_book_on() {
    let answer =
        r#"{"QueryResponse":{"Item":[{"Id":"3","Name":"Hours"},{"Id":"7","Name":"DUNMORE"}]}}"#;
    assert_eq!(end(T::Quickbooks, &[(200, answer)]), "ready \"7\"");
    let answer = r#"{"QueryResponse":{"Item":[{"Id":"3","Name":"Hours"}],"maxResults":1}}"#;
    assert_eq!(end(T::Quickbooks, &[(200, answer)]), "ready \"3\"");
    assert_eq!(
        end(T::Quickbooks, &[(200, r#"{"QueryResponse":{}}"#)]),
        "broken prerequisite_missing"
    );
    let fault = r#"{"Fault":{"Error":[{"code":"3200"}]}}"#;
    assert_eq!(end(T::Quickbooks, &[(401, fault)]), "broken unauthorized");
    assert_eq!(end(T::Quickbooks, &[(200, fault)]), "broken unauthorized");
    assert_eq!(end(T::Quickbooks, &[(200, "garbage")]), "retry unexpected_response");
    assert_eq!(end(T::Quickbooks, &[(429, "")]), "retry rate_limited 60s");
}

#[test]
fn salesforce_upserts_where_tasks_have_the_field() {
    let missing =
        r#"[{"message":"No such column 'Dunmore_Delivery_Id__c'","errorCode":"INVALID_FIELD"}]"#;
    assert_eq!(end(T::Salesforce, &[(400, missing)]), "ready \"\"");
    assert_eq!(end(T::Salesforce, &[(200, r#"{"records":[]}"#)]), "ready \"external-id\"");
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
    // What nobody documents is no reason not to try.
    assert_eq!(end(T::Opsgenie, &[(400, "")]), "ready \"\"");
    let event = &plain()[2].1;
    let destination = make(T::Opsgenie.spec(), &EventTypes::All);
    let url = |setup| destination.build(&item(event, setup)).unwrap().url.to_string();
    assert_eq!(url(""), "https://api.opsgenie.com/v2/alerts");
    assert_eq!(url("jsm"), "https://api.atlassian.com/jsm/ops/integration/v2/alerts");
    let refused = response(401, &[], "");
    assert_eq!(words(&destination.judge(&item(event, "jsm"), &refused)), "broken unauthorized");
}
