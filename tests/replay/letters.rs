//! Dead letters: listed, shown, redriven once, tried with a canary, exported and purged.

use std::{collections::BTreeSet, fs};

use dunmore_connectors::id::{ConnectorKey, DeliveryId};
use serde_json::{Value, json};

use super::{
    PATIENCE, n8n, stage,
    support::{
        events::event,
        kafka::Write,
        serve::Stage,
        sink::{Reply, Sink},
        wait_until,
    },
    text,
};

const REASONS: [&str; 5] = ["server_error", "timeout", "gone", "rejected", "undecodable"];

fn delivery_id(connector: &str, event: &str) -> String {
    let key =
        ConnectorKey { project: "proj_1".parse().unwrap(), connector: connector.parse().unwrap() };
    DeliveryId::new(&key, &event.parse().unwrap()).to_string()
}

/// Dead letters as the program writes them, a share of each reason.
pub(super) fn write_letters(stage: &Stage, count: usize) {
    let source = stage.topic("payments.events");
    let letters = (0..count).map(|number| {
        let reason = REASONS[number % REASONS.len()];
        let id = format!("evt_{number}");
        let mut headers = vec![
            ("dunmore-error-reason".to_owned(), reason.to_owned()),
            ("dunmore-error-detail".to_owned(), format!("HTTP 500: no {number}")),
            ("dunmore-source-topic".to_owned(), source.clone()),
            ("dunmore-source-partition".to_owned(), "0".to_owned()),
            ("dunmore-source-offset".to_owned(), number.to_string()),
            ("dunmore-attempts".to_owned(), "7".to_owned()),
        ];
        if reason == "undecodable" {
            return Write { headers, ..Write::new("proj_1", b"\x01broken".to_vec()) };
        }
        headers.push(("dunmore-connector-id".to_owned(), "one".to_owned()));
        headers.push(("dunmore-connector-type".to_owned(), "n8n".to_owned()));
        let value = json!({
            "deliveryId": delivery_id("one", &id),
            "projectId": "proj_1",
            "connectorId": "one",
            "connectorType": "n8n",
            "eventId": id,
            "eventType": "payment.settled",
            "attempts": 7,
            "steps": 6,
            "acceptedAt": "2026-11-23T08:00:00.000Z",
            "dueAt": "2026-11-23T08:00:00.000Z",
            "origin": {"topic": source, "partition": 0, "offset": number},
            "event": event(&id, "payment.settled", "proj_1"),
        });
        Write { headers, ..Write::new("proj_1", value.to_string()) }
    });
    stage.kafka.write(&stage.topic("deliveries.dead"), letters);
}

pub(super) fn set_up(sink: &Sink, stage: &Stage) -> super::support::serve::Serve {
    let serve = stage.serve("one");
    stage.set_up(&[n8n(sink, "one", &["payment.settled"])]);
    serve
}

#[test]
fn ten_thousand_letters_of_five_reasons_are_redriven_once() {
    const LETTERS: usize = 10_000;
    let Some((stage, sink)) = stage("1s,5s,30s", "") else { return };
    let serve = set_up(&sink, &stage);
    write_letters(&stage, LETTERS);

    let listed = stage.run_json(&["dlq", "list", "--limit", "3"]);
    assert_eq!(listed["total"], LETTERS);
    assert_eq!(listed["letters"].as_array().unwrap().len(), 3);
    let counted = listed["reasons"].as_array().unwrap();
    assert_eq!(counted.len(), REASONS.len());
    assert!(counted.iter().all(|reason| reason["letters"] == LETTERS / REASONS.len()));
    let filtered = stage.run_json(&["dlq", "list", "--reason", "gone", "--type", "n8n"]);
    let position = filtered["letters"][0]["position"].as_str().unwrap();
    let shown = stage.run_json(&["dlq", "show", position]);
    assert_eq!(shown["reason"], "gone");
    assert_eq!(shown["event"]["id"], shown["eventId"]);
    assert_eq!(shown["request"]["method"], "POST", "{shown}");
    assert!(!shown.to_string().contains("/webhook/one"), "the webhook's path is a secret");

    let two = ["dlq", "redrive", "--reason", "server_error", "--reason", "timeout"];
    let planned = stage.run_json(&[&two[..], &["--dry-run"]].concat());
    let expected = 2 * LETTERS / REASONS.len();
    assert_eq!((&planned["sent"], &planned["matched"]), (&expected.into(), &expected.into()));
    let first = stage.run_json(&two);
    assert_eq!(first["sent"], expected);
    let second = stage.run_json(&two);
    assert_eq!((&second["sent"], &second["leftOut"]), (&0.into(), &expected.into()));
    let explicit = stage.run_json(&[&two[..], &["--again", "--dry-run"]].concat());
    assert_eq!(explicit["sent"], expected);
    wait_until("what was redriven arrives", PATIENCE * 3, || sink.count() >= expected);
    wait_until("replay is committed", PATIENCE, || stage.is_committed("deliveries.replay"));
    let hits = sink.hits();
    assert_eq!(hits.len(), expected, "each once");
    assert!(hits.iter().all(|hit| hit.delivery == delivery_id("one", &hit.event)));
    assert!(hits.iter().all(|hit| hit.attempt == "8"), "attempts go on where they were");
    println!(
        "{LETTERS} dead letters of {} reasons: {expected} of two reasons redriven, the second time {}",
        REASONS.len(),
        second["sent"]
    );
    // Letters and notes: a list counts letters only, and knows which were redriven.
    let listed = stage.run_json(&["dlq", "list", "--reason", "timeout", "--limit", "1"]);
    assert_eq!(listed["reasons"][0]["redriven"], LETTERS / REASONS.len());
    assert_eq!(listed["letters"][0]["state"], "redriven");
    serve.stop();
}

#[test]
fn a_redrive_that_was_killed_is_not_repeated_by_the_next() {
    let Some((stage, sink)) = stage("1s,5s,30s", "") else { return };
    let serve = set_up(&sink, &stage);
    serve.stop();
    write_letters(&stage, 1000);
    let flags = ["dlq", "redrive", "--reason", "gone"];
    // Its notes are written after five hundred letters: killed long before, there is none.
    let mut child = stage.command(&[&flags[..], &["--rate", "10"]].concat()).spawn().unwrap();
    let replay = stage.topic("deliveries.replay");
    wait_until("some letters were sent", PATIENCE, || stage.kafka.read(&replay).len() >= 20);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(stage.kafka.read(&replay).len() < 200);
    let rest = stage.run_json(&flags);
    assert!(rest["sent"].as_u64().unwrap() < 200, "{rest}");
    let events: Vec<String> = stage
        .kafka
        .read(&replay)
        .iter()
        .map(|record| record.json()["eventId"].as_str().unwrap().to_owned())
        .collect();
    let once: BTreeSet<&String> = events.iter().collect();
    assert_eq!((events.len(), once.len()), (200, 200), "each letter once");
    assert_eq!(stage.run_json(&flags)["sent"], 0);
}

#[test]
fn a_canary_that_fails_again_stops_the_redrive() {
    let Some((stage, sink)) = stage("1s,5s", "") else { return };
    let serve = set_up(&sink, &stage);
    write_letters(&stage, 500);
    sink.script("/webhook/one", &[], Reply::Status(400));
    let flags = ["dlq", "redrive", "--reason", "gone", "--canary", "5%", "--output", "json"];
    let failed = stage.run(&flags);
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    assert!(text(&failed.stderr).contains("the canary failed again (5 rejected)"), "{failed:?}");
    let failed: Value = serde_json::from_slice(&failed.stdout).unwrap();
    assert_eq!((&failed["sent"], &failed["canary"]["failed"]["rejected"]), (&5.into(), &5.into()));
    assert_eq!(failed["state"], "canary_failed", "{failed}");
    let detail = failed["detail"].as_str().unwrap();
    assert_eq!(detail, "the canary failed again (5 rejected); the rest was not sent");
    assert_eq!(sink.count(), 5, "nothing but the canary was sent");
    // What failed again is a letter of its own, which goes only when asked for.
    let again = stage.run_json(&["dlq", "redrive", "--reason", "rejected", "--dry-run"]);
    assert_eq!((&again["sent"], &again["leftOut"]), (&100.into(), &5.into()));
    sink.script("/webhook/one", &[], Reply::Status(200));
    let done = stage.run_json(&flags[..6]);
    assert_eq!((&done["sent"], &done["canary"]["arrived"]), (&95.into(), &5.into()));
    assert_eq!(done["state"], "done", "{done}");
    wait_until("the rest arrives", PATIENCE, || sink.count() >= 100);
    serve.stop();
}

#[test]
fn an_undecodable_record_is_exported_repaired_and_written_back() {
    let Some((stage, sink)) = stage("1s,5s", "") else { return };
    let serve = set_up(&sink, &stage);
    let good = event("evt_1", "payment.settled", "proj_1").to_string();
    // Something cut the beginning off.
    let broken = good.as_bytes()[1..].to_vec();
    let headers = vec![(
        "traceparent".to_owned(),
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned(),
    )];
    let record = Write { headers, ..Write::new("proj_1", broken.clone()) };
    stage.kafka.write(&stage.topic("payments.events"), [record]);
    let dead = stage.topic("deliveries.dead");
    wait_until("it is a dead letter", PATIENCE, || stage.kafka.read(&dead).len() == 1);

    let folder = stage.folder.path().join("broken");
    let export = ["dlq", "export", "--reason", "undecodable", "--folder"];
    let folder_name = folder.display().to_string();
    let exported = stage.run_json(&[&export[..], &[&folder_name]].concat());
    let file = exported["files"][0].as_str().unwrap().to_owned();
    assert_eq!(fs::read(&file).unwrap(), broken, "byte for byte");
    let again = stage.run(&[&export[..], &[&folder_name]].concat());
    assert_eq!(again.status.code(), Some(1), "nothing is overwritten: {again:?}");
    let refused = stage.run(&["dlq", "reinject", &file]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(text(&refused.stderr).contains("is not repaired"), "{refused:?}");
    fs::write(&file, &good).unwrap();
    let written = stage.run_json(&["dlq", "reinject", &file]);
    assert_eq!(written["written"][0]["topic"], stage.topic("payments.events"));
    wait_until("it is delivered", PATIENCE, || sink.count() == 1);
    let hit = &sink.hits()[0];
    assert!(hit.traceparent.contains("0af7651916cd43dd8448eb211c80319c"), "headers came back");
    let listed = stage.run_json(&["dlq", "list"]);
    assert_eq!(listed["reasons"][0]["redriven"], 1);

    // All that was redriven at the beginning of the partitions may go.
    let asked = stage.run(&["dlq", "purge", "--redriven"]);
    assert_eq!(asked.status.code(), Some(2), "nobody can answer: {asked:?}");
    let purged = stage.run_json(&["dlq", "purge", "--redriven", "--yes"]);
    assert_eq!((&purged["letters"], &purged["notRedriven"]), (&1.into(), &0.into()));
    assert_eq!(stage.run_json(&["dlq", "list"])["total"], 0);
    serve.stop();
}
