//! What is missing, and what is not: on its way, not read yet, or not on record.

use serde_json::Value;

use super::{
    PATIENCE, n8n, stage,
    support::{
        events::event,
        serve::Stage,
        sink::{Reply, Sink},
        wait_until,
    },
    text,
};

const ONLY_MISSING: [&str; 5] = ["replay", "--from", "beginning", "--only-missing", "--yes"];

fn send(stage: &Stage, prefix: &str, count: usize) {
    let events: Vec<Value> = (0..count)
        .map(|number| event(&format!("{prefix}{number}"), "payment.settled", "proj_1"))
        .collect();
    stage.events(&events);
}

fn attempts(stage: &Stage, outcome: &str) -> Value {
    stage.run_json(&["deliveries", "list", "--outcome", outcome])["total"].clone()
}

fn ready(
    tiers: &str,
    environment: &[(&str, &str)],
) -> Option<(Stage, Sink, super::support::serve::Serve)> {
    let (stage, sink) = stage(tiers, "")?;
    let mut serve = stage.start_with("one", environment);
    serve.wait_ready();
    stage.set_up(&[n8n(&sink, "one", &["payment.settled"])]);
    Some((stage, sink, serve))
}

fn warned(plan: &Value, code: &str) -> bool {
    plan["warnings"].as_array().unwrap().iter().any(|warning| warning["code"] == code)
}

#[test]
fn what_waits_in_a_tier_in_the_replay_topic_or_to_be_read_is_not_missing() {
    let Some((stage, sink, serve)) = ready("300s", &[]) else { return };
    sink.script("/webhook/one", &[], Reply::Status(503));
    send(&stage, "evt_", 10);
    wait_until("they wait in a tier", PATIENCE, || {
        attempts(&stage, "retry").as_u64().unwrap() + attempts(&stage, "deferred").as_u64().unwrap()
            == 10
    });
    stage.wait_committed(PATIENCE);
    let told = stage.run_json(&ONLY_MISSING);
    assert_eq!((&told["plan"]["send"], &told["plan"]["waiting"]), (&0.into(), &10.into()));
    serve.stop();
    // What is written while no instance runs is not missing: it will be read.
    send(&stage, "late_", 5);
    let told = stage.run_json(&ONLY_MISSING);
    assert_eq!((&told["plan"]["send"], &told["plan"]["waiting"]), (&0.into(), &15.into()));
    assert_eq!(stage.kafka.read(&stage.topic("deliveries.replay")).len(), 0);
    // Asked for, it goes, once: then it waits in the replay topic.
    let all = [&ONLY_MISSING[..], &["--include-waiting"]].concat();
    let told = stage.run_json(&all);
    assert_eq!(told["plan"]["send"], 15);
    assert!(warned(&told, "waiting"), "{told}");
    assert_eq!(stage.run_json(&ONLY_MISSING)["plan"]["waiting"], 15);
    // Without --only-missing a dry run says so.
    let told = stage.run_json(&["replay", "--from", "beginning", "--dry-run"]);
    assert!(warned(&told, "waiting"), "{told}");
}

#[test]
fn what_ended_without_arriving_is_missing() {
    let Some((stage, sink, serve)) = ready("1s", &[]) else { return };
    sink.script("/webhook/one", &[Reply::Status(400), Reply::Status(400)], Reply::Status(200));
    send(&stage, "evt_", 6);
    wait_until("each has an outcome", PATIENCE, || {
        attempts(&stage, "dead") == 2 && attempts(&stage, "delivered") == 4
    });
    stage.wait_committed(PATIENCE);
    let told = stage.run_json(&ONLY_MISSING);
    assert_eq!((&told["plan"]["send"], &told["plan"]["delivered"]), (&2.into(), &4.into()));
    wait_until("they arrive", PATIENCE, || {
        sink.hits().iter().filter(|h| h.status == 200).count() == 6
    });
    serve.stop();
}

#[test]
fn what_instances_did_not_record_is_not_taken_for_missing() {
    let quiet = [("DUNMORE_DELIVERY__ATTEMPT_LOG", "failures")];
    let Some((stage, sink, serve)) = ready("1s", &quiet) else { return };
    // The program that replays has the default, which is to record all.
    send(&stage, "evt_", 20);
    wait_until("they arrive", PATIENCE, || sink.count() == 20);
    stage.wait_committed(PATIENCE);
    let told = stage.run_json(&ONLY_MISSING);
    assert_eq!((&told["plan"]["send"], &told["plan"]["unknown"]), (&0.into(), &20.into()));
    assert!(warned(&told, "unknown"), "{told}");
    serve.stop();
    let told = stage.run_json(&[&ONLY_MISSING[..], &["--include-unknown", "--dry-run"]].concat());
    assert_eq!(told["plan"]["send"], 20);
    assert!(warned(&told, "repeats"), "{told}");
}

#[test]
fn a_window_that_begins_before_the_attempts_is_cut_in_words() {
    let Some((stage, sink, serve)) = ready("1s", &[]) else { return };
    send(&stage, "old_", 10);
    wait_until("they are on record", PATIENCE, || attempts(&stage, "delivered") == 10);
    let topic = stage.topic("deliveries.attempts");
    let records = stage.kafka.read(&topic);
    let last = records.last().unwrap();
    // As retention does.
    stage.kafka.delete_records_before(&topic, last.partition, last.offset + 1);
    send(&stage, "new_", 1);
    wait_until("the new one is on record", PATIENCE, || attempts(&stage, "delivered") == 1);
    stage.wait_committed(PATIENCE);
    let told = stage.run_json(&ONLY_MISSING);
    let plan = &told["plan"];
    assert_eq!(
        (&plan["send"], &plan["delivered"], &plan["unknown"]),
        (&0.into(), &1.into(), &10.into())
    );
    assert!(warned(&told, "unknown"), "{told}");
    // A connector of today cannot have got what is older: that is missing.
    stage.set_up(&[n8n(&sink, "two", &["payment.settled"])]);
    let told = stage.run_json(&[&ONLY_MISSING[..], &["--connector", "two", "--dry-run"]].concat());
    assert_eq!(told["plan"]["send"], 11, "{told}");
    serve.stop();
}

#[test]
fn names_that_are_not_there_are_errors_that_name_the_nearest() {
    let Some((stage, _sink, serve)) = ready("1s", &[]) else { return };
    send(&stage, "evt_", 1);
    wait_until("it is on record", PATIENCE, || attempts(&stage, "delivered") == 1);
    for (arguments, nearest) in [
        (
            &["replay", "--from", "beginning", "--connector", "proj_1/onee", "--yes"][..],
            "proj_1/one",
        ),
        (&["replay", "--from", "beginning", "--connector", "oned", "--dry-run"], "one?"),
        (&["replay", "--from", "beginning", "--project", "proj_2", "--yes"], "proj_1"),
        (&["dlq", "redrive", "--connector", "proj_1/on"], "proj_1/one"),
        (&["dlq", "redrive", "--project", "proj"], "proj_1"),
        (&["dlq", "redrive", "--position", "0:7"], "0:7"),
        (&["dlq", "redrive", "--position", "77:0"], "no partition 77"),
        (&["dlq", "list", "--project", "proj_11"], "proj_1"),
        (&["deliveries", "list", "--connector", "proj_1/onne"], "proj_1/one"),
        (&["deliveries", "list", "--project", "prj_1"], "proj_1"),
        (&["deliveries", "list", "--job", "replay-20261125t081500-1a2b3c"], "replay --list"),
        (&["replay", "--resume", "replay-20261125t081500-1a2b3c"], "replay --list"),
    ] {
        let output = stage.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        assert!(text(&output.stderr).contains(nearest), "{arguments:?}: {output:?}");
    }
    serve.stop();
}
