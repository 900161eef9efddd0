//! Attempts searched and followed, and one event's story.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Stdio},
};

use serde_json::Value;

use super::{
    PATIENCE, n8n, stage,
    support::{
        events::{event, update},
        sink::Reply,
        wait_until,
    },
};

/// A child that ends with the test, however that ends.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn attempts_are_listed_followed_and_told_as_a_story() {
    let Some((stage, sink)) = stage("1s,30s", "") else { return };
    let serve = stage.serve("one");
    stage.set_up(&[
        n8n(&sink, "good", &["payment.settled"]),
        n8n(&sink, "slow", &["payment.settled"]),
        n8n(&sink, "bad", &["payment.settled"]),
        n8n(&sink, "other", &["endpoint.created"]),
    ]);
    sink.script("/webhook/slow", &[Reply::Status(503)], Reply::Status(200));
    sink.script("/webhook/bad", &[], Reply::Status(400));
    let mut tail = Ended(
        stage
            .command(&["deliveries", "tail", "--event", "evt_1", "--output", "json"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    // It stands at the end of the topic when it has printed what is written after it: so events
    // are written until it does.
    let lines = BufReader::new(tail.0.stdout.take().unwrap()).lines();
    stage.events(&[
        event("evt_1", "payment.settled", "proj_1"),
        event("evt_2", "payment.failed", "proj_1"),
    ]);
    wait_until("all has come to an end", PATIENCE, || {
        let listed = stage.run_json(&["deliveries", "list", "--event", "evt_1"]);
        listed["total"] == 4
    });
    let dead =
        stage.run_json(&["deliveries", "list", "--outcome", "dead", "--connector", "proj_1/bad"]);
    assert_eq!((&dead["total"], &dead["attempts"][0]["reason"]), (&1.into(), &"rejected".into()));
    let live = stage.run_json(&["deliveries", "list", "--source", "retry"]);
    assert_eq!(live["attempts"][0]["connectorId"], "slow");

    let story = stage.run_json(&["event", "trace", "evt_1"]);
    assert_eq!(story["consumed"][0]["eventType"], "payment.settled");
    let told: Vec<&Value> = story["deliveries"].as_array().unwrap().iter().collect();
    let of = |name: &str| *told.iter().find(|part| part["connectorId"] == name).unwrap();
    assert_eq!(told.len(), 3, "{story}");
    assert_eq!(of("good")["now"]["where"], "delivered");
    assert_eq!(of("slow")["now"]["where"], "delivered");
    assert_eq!(of("slow")["attempts"].as_array().unwrap().len(), 2);
    assert_eq!(
        (&of("bad")["now"]["where"], &of("bad")["now"]["redriven"]),
        (&"dead".into(), &false.into())
    );
    assert!(of("bad")["now"]["position"].is_string());
    let unknown = stage.run(&["event", "trace", "evt_9"]);
    assert_eq!(unknown.status.code(), Some(1));

    // Whoever wants it no more is told so, and a replay that waits is seen.
    let active = serde_json::json!({"isActive": false});
    stage.set_up(&[update("cmd_off", "proj_1", "good", &active)]);
    serve.stop();
    let replay = ["replay", "--from", "beginning", "--connector", "bad", "--yes"];
    assert_eq!(stage.run_json(&replay)["job"]["sent"], 1);
    let story = stage.run_json(&["event", "trace", "evt_1", "--project", "proj_1"]);
    let told: Vec<&Value> = story["deliveries"].as_array().unwrap().iter().collect();
    let of = |name: &str| *told.iter().find(|part| part["connectorId"] == name).unwrap();
    assert_eq!(of("good")["matchesNow"], false);
    assert_eq!(of("bad")["now"]["where"], "replaying");
    drop(tail);
    let followed: Vec<Value> =
        lines.map_while(Result::ok).filter_map(|line| serde_json::from_str(&line).ok()).collect();
    assert!(followed.iter().all(|attempt| attempt["eventId"] == "evt_1"), "{followed:?}");
}

#[test]
fn what_was_refused_held_or_not_wanted_is_told() {
    let Some((stage, sink)) = stage("1s,300s", "") else { return };
    let serve = stage.serve("one");
    stage.set_up(&[
        n8n(&sink, "gone", &["payment.settled"]),
        n8n(&sink, "off", &["payment.failed"]),
        n8n(&sink, "other", &["endpoint.created"]),
    ]);
    let off = serde_json::json!({"isActive": false});
    stage.set_up(&[update("cmd_switch_off", "proj_1", "off", &off)]);
    // An instance that starts has read all of this.
    serve.stop();
    let serve = stage.serve("one");
    let trace = |event: &str| stage.run_json(&["event", "trace", event]);

    // Refused: its amount is a number.
    let mut wrong = event("evt_wrong", "payment.settled", "proj_1");
    wrong["data"]["amount"] = 1.5.into();
    stage.events(&[wrong, event("evt_wrong_2", "payment.failed", "proj_1")]);
    wait_until("it is a dead letter", PATIENCE, || stage.run_json(&["dlq", "list"])["total"] == 1);
    let story = trace("evt_wrong");
    assert_eq!(story["refused"].as_array().unwrap().len(), 1, "{story}");
    assert_eq!(story["refused"][0]["reason"], "invalid_event");
    assert_eq!(story["unreadable"][0]["offset"], story["refused"][0]["source"]["offset"]);
    assert!(story["consumed"].as_array().unwrap().is_empty(), "an id that begins so is another");

    // Nobody wants it, and why.
    let story = trace("evt_wrong_2");
    assert_eq!(story["deliveries"], serde_json::json!([]));
    let why: Vec<(&str, &str)> = story["notWantedBy"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["connectorId"].as_str().unwrap(), one["why"].as_str().unwrap()))
        .collect();
    assert_eq!(
        why,
        [("gone", "other_event_types"), ("off", "off"), ("other", "other_event_types")]
    );
    stage.events(&[event("evt_nobody", "payment.settled", "proj_none")]);
    wait_until("it is read", PATIENCE, || {
        let output = stage.run(&["event", "trace", "evt_nobody"]);
        String::from_utf8_lossy(&output.stdout).contains("proj_none has none")
    });

    // Suspended by the answer to another event: that answer is told.
    sink.script("/webhook/gone", &[], Reply::Status(410));
    stage.events(&[event("evt_first", "payment.settled", "proj_1")]);
    wait_until("the connector is suspended", PATIENCE, || {
        trace("evt_first")["deliveries"][0]["suspendedReason"].is_string()
    });
    stage.events(&[event("evt_held", "payment.settled", "proj_1")]);
    wait_until("it is held", PATIENCE, || {
        trace("evt_held")["deliveries"][0]["attempts"][0]["reason"] == "suspended"
    });
    let story = trace("evt_held");
    let answer = &story["deliveries"][0]["lastAnswer"];
    assert_eq!((&answer["status"], &answer["toThis"]), (&410.into(), &false.into()), "{story}");
    serve.stop();
}

#[test]
fn what_waits_behind_an_open_transaction_is_told() {
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
    let Some((stage, _sink)) = stage("1s,5s", "") else { return };
    let topic = stage.topic("payments.events");
    let producer: BaseProducer = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", &stage.kafka.bootstrap)
        .set("transactional.id", format!("{}foreign", stage.prefix))
        .create()
        .unwrap();
    producer.init_transactions(PATIENCE).unwrap();
    producer.begin_transaction().unwrap();
    let value = event("evt_open", "payment.settled", "proj_1").to_string();
    producer.send(BaseRecord::to(&topic).key("proj_1").payload(&value)).map_err(|e| e.0).unwrap();
    producer.flush(PATIENCE).unwrap();
    stage.events(&[event("evt_behind", "payment.settled", "proj_1")]);
    for id in ["evt_open", "evt_behind"] {
        let story = stage.run_json(&["event", "trace", id]);
        let behind = &story["behindOpenTransactions"][0];
        assert!(behind["eventAt"].is_u64(), "{story}");
        assert_eq!(behind["records"], 2);
    }
    let unknown = stage.run(&["event", "trace", "evt_9"]);
    let told = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert_eq!(unknown.status.code(), Some(1));
    assert!(told.contains("2 records wait behind"), "{told}");
    let plan = stage.run_json(&["replay", "--from", "beginning", "--dry-run"]);
    assert_eq!(plan["scan"]["behindOpenTransactions"], 2);
    assert_eq!(plan["warnings"][0]["code"], "open_transactions");
    producer.commit_transaction(PATIENCE).unwrap();
    let story = stage.run_json(&["event", "trace", "evt_open"]);
    assert_eq!(story["consumed"].as_array().unwrap().len(), 1, "{story}");
    assert_eq!(story["behindOpenTransactions"], serde_json::json!([]));
}

#[test]
fn a_window_by_producers_clocks_is_warned_about() {
    use rdkafka::{
        admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier},
        client::DefaultClientContext,
        producer::{BaseProducer, BaseRecord, Producer as _},
    };
    let Some((stage, _sink)) = stage("1s,5s", "") else { return };
    let topic = stage.topic("payments.events");
    let mut config = rdkafka::ClientConfig::new();
    config.set("bootstrap.servers", &stage.kafka.bootstrap);
    // Kafka's default, whatever `topics ensure` chooses.
    let admin: AdminClient<DefaultClientContext> = config.create().unwrap();
    let stamped = AlterConfig::new(ResourceSpecifier::Topic(&topic))
        .set("message.timestamp.type", "CreateTime");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(admin.alter_configs(&[stamped], &AdminOptions::new())).unwrap();
    let producer: BaseProducer = config.create().unwrap();
    let now = dunmore_connectors::clock::now().millis();
    let minute = 60_000;
    let write = |id: &str, at: i64| {
        let value = event(id, "payment.settled", "proj_1").to_string();
        let record = BaseRecord::to(&topic).key("proj_1").payload(&value).timestamp(at);
        producer.send(record).map_err(|e| e.0).unwrap();
        producer.flush(PATIENCE).unwrap();
    };
    // One clock is fifty minutes ahead; then five events of the last minutes.
    write("evt_ahead", now + 50 * minute);
    (0..5).for_each(|number| write(&format!("evt_{number}"), now - (10 - number) * minute));
    let moment = |at: i64| dunmore_connectors::clock::Timestamp::from_millis(at).to_string();
    let survey = |from: i64, to: Option<i64>| {
        let (from, to) = (moment(from), to.map(moment));
        let mut arguments = vec!["replay", "--dry-run", "--from", &from];
        arguments.extend(to.iter().flat_map(|to| ["--to", to.as_str()]));
        let plan = stage.run_json(&arguments);
        let warnings = plan["warnings"].as_array().unwrap().clone();
        warnings.iter().find(|one| one["code"] == "timestamps").map(|one| one["deliveries"].clone())
    };
    // The window's end is found at the event from the future, before all that belong into it.
    assert_eq!(survey(now - 11 * minute, Some(now)), Some(5.into()));
    // All but the one from the future are from before this window.
    assert_eq!(survey(now - minute, None), Some(5.into()));
    assert_eq!(survey(now - 60 * minute, Some(now + 60 * minute)), None);
}
