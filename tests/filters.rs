//! Filters on a real broker: what does not pass is no delivery, what fails is delivered, and what
//! waits is judged by the filter of the day.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};
use support::{
    events::{event, update},
    kafka::Read,
    scene::{n8n, stage},
    serve::{Stage, bare_command},
    sink::{Hit, Reply, Sink},
    wait_for, wait_until,
};

const PATIENCE: Duration = Duration::from_secs(60);

fn filtered(sink: &Sink, connector: &str, filter: &str) -> Value {
    let mut command = n8n(sink, connector, &["payment.settled"]);
    command["connector"]["filter"] = json!(filter);
    command
}

fn paid(id: &str, amount: &str) -> Value {
    let mut event = event(id, "payment.settled", "proj_1");
    event["data"]["amount"] = json!(amount);
    event
}

/// The attempts, once there are as many: instances write them without waiting for them.
fn attempts(stage: &Stage, count: usize) -> Vec<Value> {
    wait_for("the attempts are written", PATIENCE, || {
        let records = stage.kafka.read(&stage.topic("deliveries.attempts"));
        let attempts: Vec<Value> = records.iter().map(Read::json).collect();
        (attempts.len() >= count).then_some(attempts)
    })
}

fn arrived(sink: &Sink) -> BTreeSet<(String, String)> {
    sink.hits().iter().map(Hit::pair).collect()
}

#[test]
fn what_does_not_pass_is_no_delivery_and_what_fails_is_delivered() {
    let Some((stage, sink)) = stage("300ms,1s", "") else { return };
    let serve = stage.serve("one");
    stage.set_up(&[
        filtered(&sink, "large", "decimal(event.data.amount) >= decimal('100')"),
        filtered(&sink, "fails", "event.data.missing == 'x'"),
        filtered(&sink, "none", "false"),
        n8n(&sink, "all", &["*"]),
    ]);
    stage.events(&[paid("evt_1", "99.999999"), paid("evt_2", "100"), paid("evt_3", "1250.000000")]);
    let expected: BTreeSet<(String, String)> = [
        ("evt_2", "large"),
        ("evt_3", "large"),
        ("evt_1", "fails"),
        ("evt_2", "fails"),
        ("evt_3", "fails"),
        ("evt_1", "all"),
        ("evt_2", "all"),
        ("evt_3", "all"),
    ]
    .map(|(event, path)| (event.to_owned(), format!("/webhook/{path}")))
    .into();
    wait_until("what passes is delivered", PATIENCE, || arrived(&sink).len() >= expected.len());
    stage.wait_committed(PATIENCE);
    assert_eq!(arrived(&sink), expected);
    assert_eq!(sink.count(), expected.len(), "nothing twice");
    assert_eq!(serve.count("dunmore_deliveries_filtered_total", &[("type", "n8n")]), 4);
    assert_eq!(serve.count("dunmore_filter_errors_total", &[("type", "n8n")]), 3);
    // It is neither an attempt nor a record of one.
    let pairs: BTreeSet<(String, String)> = attempts(&stage, expected.len())
        .iter()
        .map(|attempt| {
            let text = |name: &str| attempt[name].as_str().unwrap().to_owned();
            (text("eventId"), format!("/webhook/{}", text("connectorId")))
        })
        .collect();
    assert_eq!(pairs, expected);

    // Whoever asks why is told, and a replay leaves out the same.
    let story = stage.run_json(&["event", "trace", "evt_1"]);
    let why = |connector: &str| {
        let not_wanted = story["notWantedBy"].as_array().unwrap();
        not_wanted.iter().find(|one| one["connectorId"] == connector).map(|one| &one["why"])
    };
    assert_eq!(why("large"), Some(&json!("filter")), "{story}");
    assert_eq!((why("none"), why("fails")), (Some(&json!("filter")), None));
    let plan = ["replay", "--from", "beginning", "--dry-run"];
    let plan = &stage.run_json(&plan)["plan"];
    let row = |connector: &str| {
        let rows = plan["connectors"].as_array().unwrap();
        let row = rows.iter().find(|row| row["connector"] == connector).unwrap();
        (row["send"].clone(), row["filtered"].clone())
    };
    assert_eq!(row("large"), (json!(2), json!(1)), "{plan}");
    assert_eq!(row("none"), (json!(0), json!(3)));
    assert_eq!((row("fails"), row("all")), ((json!(3), json!(0)), (json!(3), json!(0))));
}

#[test]
fn what_waits_is_judged_by_the_filter_of_the_day() {
    let Some((stage, sink)) = stage("3s,5s", "") else { return };
    sink.script("/webhook/large", &[Reply::Status(503), Reply::Status(503)], Reply::Status(200));
    let serve = stage.serve("one");
    stage.set_up(&[filtered(&sink, "large", "decimal(event.data.amount) >= decimal('100')")]);
    stage.events(&[paid("evt_1", "150"), paid("evt_2", "1500")]);
    let retried = [("type", "n8n"), ("outcome", "retry")];
    wait_until("both wait", PATIENCE, || serve.count("dunmore_deliveries_total", &retried) == 2);
    let higher = json!({ "filter": "decimal(event.data.amount) >= decimal('1000')" });
    stage.set_up(&[update("cmd_higher", "proj_1", "large", &higher)]);
    let cancelled = [("type", "n8n"), ("outcome", "cancelled")];
    wait_until("one passes and one does not", PATIENCE, || {
        sink.count() == 3 && serve.count("dunmore_deliveries_total", &cancelled) == 1
    });
    let attempts = attempts(&stage, 4);
    let of = |outcome: &str| attempts.iter().find(|one| one["outcome"] == outcome).unwrap();
    assert_eq!(
        (&of("cancelled")["eventId"], &of("cancelled")["reason"]),
        (&json!("evt_1"), &json!("filtered"))
    );
    assert_eq!(of("delivered")["eventId"], "evt_2");
}

#[test]
fn the_command_line_tries_a_filter() {
    let run = |filter: &str, more: &[&str]| {
        let mut command = bare_command(&["connector", "filter", "test", filter]);
        command.args(["--event", "sample:*"]).args(more).output().unwrap()
    };
    let told = run("decimal(event.data.amount) > decimal('1')", &["--output", "json"]);
    assert!(told.status.success(), "{told:?}");
    let told: Value = serde_json::from_slice(&told.stdout).unwrap();
    let results = told["results"].as_array().unwrap();
    let of = |kind: &str| results.iter().find(|one| one["eventType"] == kind).unwrap();
    assert_eq!(results.len(), 8);
    assert_eq!(
        (&of("payment.settled")["passes"], of("payment.settled").get("error")),
        (&json!(true), None)
    );
    // It has no amount: the filter fails, and the event passes.
    assert_eq!(of("endpoint.created")["passes"], true);
    assert!(of("endpoint.created")["error"].as_str().unwrap().contains("amount"));
    let table = run("event.type == 'payment.failed'", &[]);
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("1 of 8 would pass"), "{table}");
    let wrong = run("event.data.amount > 1", &[]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("at character 19"), "{wrong:?}");
}
