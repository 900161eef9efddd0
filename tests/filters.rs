//! Filters on a real broker: what does not pass is no delivery, what fails is delivered, and what
//! waits is judged by the filter of the day.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::{collections::BTreeSet, time::Duration};

use dunmore_connectors::tokens::digest_of;
use serde_json::{Value, json};
use support::{
    events::{event, update},
    kafka::{Read, Write},
    scene::{n8n, stage},
    serve::{Stage, bare_command, call, free_address},
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
    // So many tiers that both events wait until the filter is another one.
    let tiers = "300ms,400ms,500ms,600ms,700ms,800ms,900ms,1s,2s,3s";
    let Some((stage, sink)) = stage(tiers, "") else { return };
    let path = "/webhook/large";
    sink.script(path, &[], Reply::Status(503));
    let serve = stage.serve("one");
    stage.set_up(&[filtered(&sink, "large", "decimal(event.data.amount) >= decimal('100')")]);
    stage.events(&[paid("evt_1", "150"), paid("evt_2", "1500")]);
    let retried = [("type", "n8n"), ("outcome", "retry")];
    wait_until("both wait", PATIENCE, || serve.count("dunmore_deliveries_total", &retried) >= 2);
    let higher = json!({ "filter": "decimal(event.data.amount) >= decimal('1000')" });
    stage.set_up(&[update("cmd_higher", "proj_1", "large", &higher)]);
    let cancelled = [("type", "n8n"), ("outcome", "cancelled")];
    wait_until("one does not pass any more", PATIENCE, || {
        serve.count("dunmore_deliveries_total", &cancelled) == 1
    });
    sink.script(path, &[], Reply::Status(200));
    let ended = |attempt: &Value| !["retry", "deferred"].contains(&text(attempt, "outcome"));
    let ends = wait_for("both have ended", PATIENCE, || {
        let attempts = attempts(&stage, 4);
        let ends: BTreeSet<(String, String, String)> = attempts
            .iter()
            .filter(|attempt| ended(attempt))
            .map(|end| ["eventId", "outcome", "reason"].map(|name| text(end, name).to_owned()))
            .map(<[String; 3]>::into)
            .collect();
        (ends.len() >= 2).then_some(ends)
    });
    let end = |event: &str, outcome: &str, reason: &str| {
        (event.to_owned(), outcome.to_owned(), reason.to_owned())
    };
    let expected = [end("evt_1", "cancelled", "filtered"), end("evt_2", "delivered", "")];
    assert_eq!(ends, expected.into());
}

fn text<'a>(attempt: &'a Value, name: &str) -> &'a str {
    attempt[name].as_str().unwrap_or_default()
}

#[test]
fn a_filter_is_tried_over_the_events_of_some_days() {
    const TOKEN: &str = "token";
    const PATH: &str = "/api/projects/proj_1/connectors/conn_1/filter/test";
    let digest = digest_of(TOKEN);
    let settings = format!(
        "api.requests_per_second = 0\n[[api.tokens]]\nname = \"one\"\nsha256 = \"{digest}\"\n\
         projects = [\"proj_1\"]\n"
    );
    let Some((stage, sink)) = stage("300ms,1s", &settings) else { return };
    let api = free_address();
    let mut serve = stage.start_with("one", &[("DUNMORE_API__LISTEN", &api.to_string())]);
    serve.wait_ready();
    let large = "decimal(event.data.amount) >= decimal('100')";
    let mut filtered = filtered(&sink, "conn_1", large);
    filtered["connector"]["eventTypes"] = json!(["payment.settled", "endpoint.created"]);
    stage.set_up(&[filtered, n8n(&sink, "conn_2", &["payment.failed"])]);
    let ask = |body: &Value| call(api, Some(TOKEN), "POST", PATH, body);
    let (status, told) = ask(&json!({ "days": 1 }));
    let nothing =
        json!({ "passed": 0, "looked": 0, "errors": 0, "examples": [], "complete": true });
    assert_eq!((status, &told), (200, &nothing));

    // 40 of which 15 pass, two without an amount, and some that do not count.
    let mut events: Vec<Value> = (0..40)
        .map(|number| paid(&format!("evt_{number}"), if number < 25 { "99.99" } else { "100" }))
        .collect();
    events.push(event("evt_endpoint_1", "endpoint.created", "proj_1"));
    events.push(event("evt_endpoint_2", "endpoint.created", "proj_1"));
    events.push(event("evt_failed", "payment.failed", "proj_1"));
    let mut foreign = paid("evt_foreign", "1000");
    foreign["projectId"] = json!("proj_2");
    events.push(foreign);
    stage.events(&events);
    // By a producer with another partitioner, and what is no event.
    let topic = stage.topic("payments.events");
    let elsewhere = paid("evt_elsewhere", "7").to_string();
    let own =
        stage.kafka.read(&topic).iter().find(|read| read.key_text() == "proj_1").unwrap().partition;
    stage.kafka.write(
        &topic,
        [
            Write { partition: Some(1 - own), ..Write::new("proj_1", elsewhere) },
            Write { partition: Some(own), ..Write::new("proj_1", "{}") },
        ],
    );

    let (status, told) = ask(&json!({ "days": 30 }));
    assert_eq!(status, 200, "{told}");
    assert_eq!(counts(&told), "17 43 2 true", "{told}");
    let example = |event: &str| {
        let examples = told["examples"].as_array().unwrap();
        examples.iter().find(|one| one["eventId"] == event).cloned().unwrap_or_default()
    };
    let ids: BTreeSet<&str> =
        told["examples"].as_array().unwrap().iter().map(|one| text(one, "eventId")).collect();
    let passing = ["evt_39", "evt_38", "evt_37", "evt_endpoint_1", "evt_endpoint_2"];
    assert!(passing.iter().all(|id| ids.contains(id)) && ids.len() == 8, "{ids:?}");
    assert_eq!(example("evt_39")["passes"], true);
    assert_eq!(
        (&example("evt_39")["eventType"], example("evt_39").get("error")),
        (&json!("payment.settled"), None)
    );
    assert_eq!(example("evt_39")["occurredAt"], events[39]["occurredAt"]);
    assert!(text(&example("evt_endpoint_2"), "error").contains("amount"), "{told}");
    let filtered: Vec<&Value> =
        told["examples"].as_array().unwrap().iter().filter(|one| one["passes"] == false).collect();
    assert_eq!(filtered.len(), 3);

    let (_, told) = ask(&json!({ "days": 1, "filter": "event.type == 'endpoint.created'" }));
    assert_eq!(counts(&told), "2 43 0 true", "{told}");
    for (body, fields) in [
        (json!({ "days": 0 }), vec!["days"]),
        (json!({ "days": 31 }), vec!["days"]),
        (json!({ "days": 1.5 }), vec!["days"]),
        (json!({ "days": "7", "filter": "tru" }), vec!["filter", "days"]),
        (json!({ "days": 7, "eventType": "payment.settled" }), vec!["eventType"]),
        (json!({ "day": 7 }), vec!["day", "event"]),
    ] {
        let (status, told) = ask(&body);
        let errors = told["errors"].as_array().unwrap();
        let named: Vec<&str> = errors.iter().map(|error| text(error, "field")).collect();
        assert_eq!((status, named), (400, fields), "{body}");
    }

    // The command line reads the same logs itself.
    serve.stop();
    the_command_line_reads_the_same(&stage, large);
}

fn counts(told: &Value) -> String {
    ["passed", "looked", "errors", "complete"].map(|name| told[name].to_string()).join(" ")
}

fn the_command_line_reads_the_same(stage: &Stage, large: &str) {
    let days = |more: &[&str]| {
        stage.run_json(&[&["connector", "filter", "test", "--days", "1"], more].concat())
    };
    assert_eq!(counts(&days(&["--connector", "proj_1/conn_1"])), "17 43 2 true");
    assert_eq!(counts(&days(&["true", "--connector", "conn_2"])), "1 1 0 true");
    assert_eq!(counts(&days(&[large, "--project", "proj_1"])), "17 44 2 true");
    let fails = |arguments: &[&str]| {
        let run = stage.run(&[&["connector", "filter", "test"], arguments].concat());
        (run.status.code().unwrap(), String::from_utf8(run.stderr).unwrap())
    };
    for (arguments, code, words) in [
        (&["--days", "1", "--connector", "conn_2"][..], 2, "has no filter"),
        (&["true", "--days", "1"], 2, "--project or --connector"),
        (&["true", "--days", "31", "--project", "proj_1"], 2, "31"),
        (&["true", "--days", "1", "--event", "sample:*"], 2, "cannot be used with"),
        (&["true", "--project", "proj_1", "--event", "sample:*"], 2, "cannot be used with"),
        (&["--days", "1", "--project", "proj_1"], 2, "FILTER"),
        (&["true", "--days", "1", "--project", "proj_3"], 1, "there is no project proj_3"),
        (&["true", "--days", "1", "--connector", "conn_3"], 1, "there is no connector conn_3"),
    ] {
        let (status, told) = fails(arguments);
        assert!(status == code && told.contains(words), "{arguments:?}: {status} {told}");
    }
    let table = stage.run(&["connector", "filter", "test", "--days", "1", "--connector", "conn_1"]);
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("17 of 43 would pass") && table.contains("evt_39"), "{table}");
    assert!(table.contains("fails on 2 of them"), "{table}");
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
