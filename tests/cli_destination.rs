//! `dunmore destination …` as people and programs see it.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::{
    io::Write as _,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

const TYPES: usize = 20;

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dunmore"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("DUNMORE_") {
            command.env_remove(name);
        }
    }
    // Help is as wide as the terminal says.
    command.arg("destination").args(arguments).env("COLUMNS", "100").stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    // The version is not what is looked at.
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n").replace(env!("CARGO_PKG_VERSION"), "VERSION")
}

fn printed(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    text(&output.stdout)
}

fn json(arguments: &[&str]) -> Value {
    let output = command(arguments).args(["--output", "json"]).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    serde_json::from_str(&text(&output.stdout)).unwrap()
}

/// What a wrong call is told; its exit code is 2.
fn refused(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
    text(&output.stderr)
}

#[test]
fn help_has_examples() {
    insta::assert_snapshot!("help", printed(&["--help"]));
    for name in ["list", "show", "preview"] {
        insta::assert_snapshot!(format!("help_{name}"), printed(&[name, "--help"]));
    }
}

#[test]
fn the_list_has_every_type() {
    insta::assert_snapshot!("list", printed(&["list"]));
    let list = json(&["list"]);
    assert_eq!(list["destinations"].as_array().unwrap().len(), TYPES);
}

#[test]
fn a_type_is_shown_with_all_that_it_needs() {
    insta::assert_snapshot!("show_discord", printed(&["show", "discord"]));
    insta::assert_snapshot!("show_email", printed(&["show", "email"]));
    insta::assert_snapshot!("show_quickbooks", printed(&["show", "quickbooks"]));
    insta::assert_json_snapshot!("show_bigquery_json", json(&["show", "bigquery"]));
    let list = json(&["list"]);
    for shown in list["destinations"].as_array().unwrap() {
        let kind = shown["type"].as_str().unwrap();
        assert_eq!(*shown, json(&["show", kind]));
        assert!(printed(&["show", kind]).contains(shown["docs"].as_str().unwrap()));
    }
}

#[test]
fn a_preview_is_the_request() {
    let arguments = ["preview", "slack", "--event", "sample:payment.settled"];
    insta::assert_snapshot!("preview_slack", printed(&arguments));
    insta::assert_json_snapshot!("preview_slack_json", json(&arguments));
    let arguments = ["preview", "quickbooks", "--event", "sample:*"];
    insta::assert_snapshot!("preview_quickbooks", printed(&arguments));
    insta::assert_json_snapshot!("preview_quickbooks_json", json(&arguments));
    let named = [&arguments[..], &["--events", "payment.settled"]].concat();
    insta::assert_snapshot!("preview_quickbooks_payments", printed(&named));
}

#[test]
fn every_type_has_a_preview_without_its_secrets() {
    let list = json(&["list"]);
    for kind in list["destinations"].as_array().unwrap() {
        let name = kind["type"].as_str().unwrap();
        let preview = printed(&["preview", name, "--event", "sample:*"]);
        assert!(preview.contains("https://"), "{name}: {preview}");
        for field in kind["fields"].as_array().unwrap() {
            let example = field["example"].as_str().unwrap();
            assert!(field["secret"] == false || !preview.contains(example), "{name}: {preview}");
        }
    }
}

/// The preview as JSON of events on standard input.
fn preview_of(arguments: &[&str], events: &str) -> Value {
    let mut child = command(&["preview"])
        .args(arguments)
        .args(["--event", "-", "--output", "json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(events.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_preview_of_the_books_has_currency_and_rate_or_says_why_there_is_none() {
    let day = |asset: &str| {
        format!(
            "{{\"id\":\"evt_1\",\"type\":\"revenue.daily_summary\",\"projectId\":\"proj_1\",\
             \"occurredAt\":\"2026-11-23T08:00:00Z\",\"data\":{{\"date\":\"2026-11-22\",\
             \"revenue\":\"12.5\",\"currency\":\"{asset}\",\"paymentCount\":1,\
             \"customerCount\":1,\"failedCount\":0}}}}"
        )
    };
    let preview = |kind: &str, asset: &str| {
        let preview = preview_of(&[kind], &day(asset))["previews"][0].clone();
        let body = preview["request"]["body"].as_str().unwrap_or("null");
        (serde_json::from_str::<Value>(body).unwrap(), preview)
    };
    let (receipt, shown) = preview("quickbooks", "usdc");
    assert_eq!(receipt["CurrencyRef"]["value"], "USD");
    assert!(receipt["ExchangeRate"].is_null() && shown["asksFirst"].is_null(), "{shown}");
    let (receipt, shown) = preview("quickbooks", "EURC");
    assert_eq!(receipt["CurrencyRef"]["value"], "EUR");
    assert_eq!(receipt["ExchangeRate"], 1.0837);
    let question = shown["asksFirst"]["url"].as_str().unwrap();
    assert!(question.contains("/exchangerate?") && question.contains("asofdate=2026-11-22"));
    let (invoice, _) = preview("xero", "JPY");
    assert_eq!(invoice["Invoices"][0]["CurrencyCode"], "JPY");
    for kind in ["quickbooks", "xero"] {
        let (body, shown) = preview(kind, "ETH");
        let why = shown["refused"].as_str().unwrap();
        assert!(body.is_null() && why.starts_with("12.5 ETH has no price"), "{kind}: {why}");
    }
}

#[test]
fn settings_and_events_are_the_callers() {
    let event = |id: u32| {
        format!(
            "{{\"id\":\"evt_{id}\",\"type\":\"endpoint.created\",\"projectId\":\"proj_1\",\
             \"occurredAt\":\"2026-11-23T08:00:00Z\",\"data\":{{\"endpointId\":\"ep_1\",\
             \"path\":\"/v1\",\"price\":\"0.05\",\"currency\":\"USDC\",\"network\":\"base\"}}}}\n"
        )
    };
    let printed = preview_of(&["telegram", "--set", "chatId=-1001234"], &(event(1) + &event(2)));
    for (index, id) in ["evt_1", "evt_2"].iter().enumerate() {
        let preview = &printed["previews"][index];
        assert_eq!(preview["eventId"], *id);
        let body: Value =
            serde_json::from_str(preview["request"]["body"].as_str().unwrap()).unwrap();
        assert_eq!(body["chat_id"], "-1001234");
    }
}

#[test]
fn a_credential_stands_in_for_the_token() {
    insta::assert_snapshot!("show_salesforce", printed(&["show", "salesforce"]));
    let preview = |more: &[&str]| {
        let daily = ["preview", "xero", "--events", "*", "--event", "sample:revenue.daily_summary"];
        printed(&[&daily[..], more].concat())
    };
    let printed = preview(&["--set", "clientId=id", "--set", "clientSecret=canary-5e1f-canary"]);
    assert!(printed.contains("authorization: ***") && !printed.contains("canary"), "{printed}");
    assert!(preview(&[]).contains("authorization: ***"));
    let sample = ["--event", "sample:payment.settled"];
    let told = refused(&[&["preview", "xero", "--set", "clientId=id"], &sample[..]].concat());
    assert!(told.contains("give exactly one way to authenticate"), "{told}");
}

#[test]
fn an_operators_base_url_is_what_is_called() {
    let output = command(&["preview", "segment", "--event", "sample:payment.failed"])
        .env("DUNMORE_DESTINATIONS__SEGMENT__BASE_URL", "http://gateway.internal:9000")
        .output()
        .unwrap();
    let printed = text(&output.stdout);
    assert!(printed.contains("POST http://gateway.internal:9000/v1/batch"), "{printed}");
}

#[test]
fn wrong_calls_are_told_what_is_wrong() {
    let sample = ["--event", "sample:payment.settled"];
    let with = |more: &[&str]| refused(&[&["preview"], more, &sample[..]].concat());
    assert!(with(&["slak"]).contains("did you mean \"slack\"?"));
    assert!(with(&["slack", "--set", "url=x"]).contains("config.url is no setting of slack"));
    let told = with(&["slack", "--set", "webhookUrl=https://example.com/hook"]);
    assert!(told.contains("config.webhookUrl must be on hooks.slack.com"), "{told}");
    assert!(with(&["slack", "--events", "payment.setled"]).contains("\"payment.settled\"?"));
    let told = with(&["xero", "--events", "payment.settled,revenue.daily_summary"]);
    assert!(told.contains("revenue would be booked twice"), "{told}");
    let told = refused(&["preview", "slack", "--event", "sample:payment"]);
    assert!(told.contains("unknown event type \"payment\""), "{told}");
    let missing = run(&["preview", "slack", "--event", "no-such-file.json"]);
    assert_eq!(missing.status.code(), Some(1));
}
