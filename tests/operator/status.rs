//! How the service is: `dunmore lag`, `dunmore status`, and the same from the admin API.

use std::time::Duration;

use dunmore_connectors::clock::Timestamp;
use serde_json::{Value, json};

use super::{
    printed, stage,
    support::{
        events::{create, event, set_tier, suspend},
        kafka::Write,
        serve::{bare_command, call},
        sink::{Reply, Sink},
        wait_until,
    },
};

const PATIENCE: Duration = Duration::from_secs(60);
const TOKEN: &str = "dmt_test";

fn find<'a>(told: &'a Value, name: &str) -> Option<&'a Value> {
    let topics = told["topics"].as_array().unwrap();
    topics.iter().find(|one| one["topic"].as_str().unwrap().ends_with(name))
}

#[track_caller]
fn topic<'a>(told: &'a Value, name: &str) -> &'a Value {
    find(told, name).unwrap_or_else(|| panic!("no {name} in {told}"))
}

fn millis(value: &Value) -> i64 {
    value.as_str().unwrap().parse::<Timestamp>().unwrap().millis()
}

#[test]
fn what_waits_is_told_with_its_age() {
    let Some(stage) = stage("") else { return };
    // No instance runs: everything waits from the beginning.
    let events: Vec<Value> =
        (0..50).map(|n| event(&format!("evt_{n}"), "payment.settled", "proj_1")).collect();
    stage.events(&events);
    let told = stage.run_json(&["lag"]);
    let waits = topic(&told, "payments.events");
    assert_eq!((&waits["waiting"], &waits["behind"]), (&json!(50), &json!(50)));
    assert_eq!(waits["group"], stage.group);
    let waited = millis(&told["at"]) - millis(&waits["oldestAt"]);
    let lag = Duration::from_secs_f64(waits["lagSeconds"].as_f64().unwrap());
    assert_eq!(i64::try_from(lag.as_millis()).unwrap(), waited, "{waits}");
    assert_eq!((&waits["perSecond"], &waits["secondsLeft"]), (&json!(0.0), &Value::Null));
    assert_eq!(waits["partitions"].as_array().unwrap().len(), 1, "one project, one partition");
    assert_eq!(waits["partitions"][0]["waiting"], 50);
    assert_eq!(topic(&told, "deliveries.retry.1s")["waiting"], 0);
    assert_eq!(topic(&told, "connectors.commands")["oldestAt"], Value::Null);
    let (text, code) = printed(&stage, &["lag"]);
    assert_eq!(code, Some(0));
    let line = text.lines().find(|line| line.contains("payments.events")).unwrap();
    assert!(line.contains("50") && line.ends_with("it stands still"), "{text}");

    let serve = stage.serve("one");
    stage.wait_committed(PATIENCE);
    wait_until("nothing waits", PATIENCE, || {
        topic(&stage.run_json(&["lag"]), "payments.events")["waiting"] == 0
    });
    serve.stop();
}

#[test]
fn what_waits_in_a_tier_that_was_taken_out_is_told_until_it_is_delivered() {
    const FORMER: &str = "deliveries.retry.2s";
    let Some(stage) = stage("") else { return };
    let mut ensure = stage.command(&["topics", "ensure"]);
    let ensured = ensure.env("DUNMORE_DELIVERY__RETRY_TIERS", "300ms,1s,2s").output().unwrap();
    assert!(ensured.status.success(), "{ensured:?}");
    let lag = || stage.run_json(&["lag"]);
    assert_eq!(find(&lag(), FORMER), None, "nothing waits there");
    stage.kafka.write(&stage.topic(FORMER), [Write::new("proj_1", "no delivery")]);
    let told = lag();
    let former = topic(&told, FORMER);
    assert_eq!((&former["waiting"], &former["formerTier"]), (&json!(1), &json!(true)), "{told}");
    assert_eq!(former["group"], format!("{}.retry", stage.group));
    let tier = topic(&told, "deliveries.retry.1s");
    assert_eq!((&tier["waiting"], &tier["formerTier"]), (&json!(0), &Value::Null), "{told}");
    let (text, _) = printed(&stage, &["lag"]);
    assert!(text.lines().any(|line| line.ends_with("no tier any more")), "{text}");

    let serve = stage.serve("one");
    wait_until("it is done with", PATIENCE, || find(&lag(), FORMER).is_none());
    serve.stop();
}

#[test]
fn one_screen_answers_who_runs_what_waits_and_what_fails() {
    let digest = dunmore_connectors::tokens::digest_of(TOKEN);
    let Some(stage) = stage(&format!("admin.token_sha256 = \"{digest}\"")) else { return };
    let sink = Sink::start();
    sink.script("/bad", &[], Reply::Status(503));
    sink.script("/wrong", &[], Reply::Status(422));
    let n8n = |id: &str, connector: &str, path: &str| {
        create(id, "proj_1", connector, "n8n", &sink.url(path), &["payment.settled"])
    };
    let serve = stage.serve("one");
    stage.set_up(&[
        set_tier("tier", "proj_1", "pro"),
        n8n("c1", "conn_good", "/good"),
        n8n("c2", "conn_bad", "/bad"),
        n8n("c3", "conn_wrong", "/wrong"),
        n8n("c4", "conn_held", "/held"),
        suspend("s4", "proj_1", "conn_held", "unauthorized: HTTP 401: revoked"),
    ]);
    let events: Vec<Value> =
        (0..5).map(|n| event(&format!("evt_{n}"), "payment.settled", "proj_1")).collect();
    stage.events(&events);
    wait_until("the good ones arrived", PATIENCE, || sink.hits_on("/good").len() == 5);
    let admin = serve.admin.to_string();
    let status = || stage.run_json(&["status", "--admin", &admin]);
    wait_until("what cannot be sent is dead", PATIENCE, || {
        status()["deadLetters"]["waiting"].as_u64().unwrap() >= 5
    });
    let told = status();
    assert_eq!(told["instances"]["delivery"], 1);
    assert_eq!(told["instances"]["registrar"], 1);
    assert_eq!((&told["instance"]["ready"], &told["leftOut"]), (&json!(true), &json!([])));
    let suspended = json!([{"type": "n8n", "reason": "http_401", "count": 1}]);
    assert_eq!(told["suspended"], suspended);
    assert!(told["deadLetters"]["reasons"]["rejected"].as_u64().unwrap() >= 5, "{told}");
    let failing = told["failing"].as_array().unwrap();
    let names: Vec<&str> = failing.iter().map(|one| one["connectorId"].as_str().unwrap()).collect();
    assert!(names.contains(&"conn_bad") && names.contains(&"conn_wrong"), "{told}");
    assert!(!names.contains(&"conn_good") && !names.contains(&"conn_held"), "{told}");
    let bad = failing.iter().find(|one| one["connectorId"] == "conn_bad").unwrap();
    assert_eq!(bad["last"]["status"], 503, "the real error, not circuit_open");

    let (screen, code) = printed(&stage, &["status", "--admin", &admin]);
    assert_eq!(code, Some(0));
    assert!(screen.lines().count() <= 24, "{screen}");
    assert!(screen.lines().all(|line| line.chars().count() <= 80), "{screen}");
    for words in [
        "1 deliver, 1 decide commands",
        "is ready",
        "suspended  1: n8n http_401 1",
        "  proj_1/conn_wrong (n8n)\n    5 of 5 failed, ",
        " ago: HTTP 422: no such thing as /wrong\n",
    ] {
        assert!(screen.contains(words), "{words}\n{screen}");
    }

    // The same from the admin API, for whoever has the token.
    for path in ["/admin/status", "/admin/lag"] {
        let (status, _) = call(serve.admin, None, "GET", path, &Value::Null);
        assert_eq!(status, 401, "{path}");
    }
    let get = |path: &str| call(serve.admin, Some(TOKEN), "GET", path, &Value::Null);
    let (code, own) = get("/admin/status?within=1h&limit=10");
    assert_eq!((code, &own["suspended"]), (200, &suspended), "{own}");
    assert_eq!(own["instance"]["ready"], true);
    assert_eq!(own["failingWithinSeconds"], 3600);
    let (code, lag) = get("/admin/lag");
    assert_eq!((code, &topic(&lag, "payments.events")["waiting"]), (200, &json!(0)), "{lag}");
    assert_eq!(get("/admin/status?within=soon").0, 400);

    // Nobody answers: said, with how to give another address; the state topic tells of suspensions.
    serve.stop();
    let told = stage.run_json(&["status", "--admin", &admin]);
    assert_eq!((&told["instance"], &told["suspended"]), (&Value::Null, &suspended), "{told}");
    assert_eq!(told["instances"]["delivery"], 0);
    let left_out = told["leftOut"].as_array().unwrap();
    assert_eq!(left_out.len(), 1, "{told}");
    assert!(left_out[0].as_str().unwrap().contains("--admin HOST:PORT"), "{told}");
}

#[test]
fn without_brokers_it_says_so_and_fails() {
    let mut command = bare_command(&["status", "--bootstrap-servers", "127.0.0.1:1"]);
    let output = command.env("DUNMORE_ADMIN__LISTEN", "127.0.0.1:1").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("left out: "), "{text}");
    assert!(text.contains("no instance at 127.0.0.1:1"), "{text}");
}

/// Of a history that is too large to be looked at, the newest part is told, and how much is left out:
/// `cargo test --test operator large -- --ignored`
#[test]
#[ignore = "writes a million records"]
fn of_a_large_history_the_newest_part_is_told() {
    const ATTEMPTS: usize = 1_000_000;
    const LETTERS: usize = 50_000;
    let Some(stage) = stage("") else { return };
    let now = dunmore_connectors::clock::now();
    let attempts = (0..ATTEMPTS).map(|n| {
        let project = format!("proj_{}", n % 97);
        let value = json!({
            "deliveryId": "29add280-1bd3-5738-8b64-5cb6457b81ad", "projectId": project,
            "connectorId": format!("conn_{}", n % 31), "connectorType": "slack",
            "eventId": format!("evt_{n}"), "eventType": "payment.settled", "source": "live",
            "attempt": 1, "outcome": "retry", "reason": "server_error", "status": 503,
            "durationMs": 12, "detail": "HTTP 503: upstream is down", "at": now,
        });
        Write::new(&project, value.to_string())
    });
    stage.kafka.write(&stage.topic("deliveries.attempts"), attempts);
    let letters = (0..LETTERS).map(|n| {
        let reason = if n % 7 == 0 { "gone" } else { "server_error" };
        let headers = vec![("dunmore-error-reason".to_owned(), reason.to_owned())];
        let value = "x".repeat(800);
        Write { headers, ..Write::new(&format!("proj_{}", n % 97), value) }
    });
    stage.kafka.write(&stage.topic("deliveries.dead"), letters);
    let told = stage.run_json(&["status"]);
    let waiting = told["deadLetters"]["waiting"].as_u64().unwrap();
    let not_read = told["deadLetters"]["notRead"].as_u64().unwrap();
    assert_eq!(waiting + not_read, LETTERS as u64, "{told}");
    assert_eq!(told["failing"].as_array().unwrap().len(), 4);
    let left_out = told["leftOut"].to_string();
    assert!(left_out.contains("older attempts of this time"), "{left_out}");
}
