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
