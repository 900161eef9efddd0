//! `dunmore secrets rotate`: a new key for everything that is stored, while events are delivered.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Output,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use crate::support::{
    broker::broker,
    events::{create, delete, event, set_tier, suspend, update},
    kafka::Read,
    serve::Stage,
    sink::Sink,
    wait_until,
};

const PATIENCE: Duration = Duration::from_secs(90);
/// Of the stage's settings.
const K1: &str = "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const K2: &str = "k2:ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=";
const K3: &str = "k3:QEFCQ0RFRkdISUpLTE1OT1BRUlNUVVZXWFlaW1xdXl8=";
const PROJECTS: usize = 12;
const OF_EACH: usize = 10;
/// Changes that an owner makes meanwhile.
const CHANGES: usize = 20;

fn rotate(stage: &Stage, keys: &str, more: &[&str]) -> Output {
    let mut command = stage.command(&["secrets", "rotate", "--output", "json"]);
    command.env("DUNMORE_SECRETS__KEYS", keys).args(more).output().unwrap()
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

/// The newest state of each connector; what is deleted is not in it.
fn connectors(stage: &Stage) -> BTreeMap<String, Value> {
    let records = stage.kafka.read(&stage.topic("connectors.state"));
    let newest: BTreeMap<String, Read> =
        records.into_iter().map(|record| (record.key_text(), record)).collect();
    let connectors =
        newest.into_iter().filter(|(key, read)| key.contains('/') && read.value.is_some());
    connectors.map(|(key, read)| (key, read.json())).collect()
}

fn key_of(connector: &Value) -> &str {
    connector["config"]["webhookUrl"]["$sealed"]["key"].as_str().unwrap()
}

fn url(project: usize, connector: &str) -> String {
    format!("https://hooks.zapier.com/hooks/catch/{project}/{connector}/")
}

#[expect(clippy::too_many_lines, reason = "one story, told once")]
#[test]
fn a_new_key_takes_over_while_events_are_delivered() {
    let Some(broker) = broker() else { return };
    let sink = Sink::start();
    let more = sink.base_urls(&["zapier"]);
    let stage = Stage::new(&broker.bootstrap, &broker.unique_prefix(), "300ms,10m", &more);

    // Everything is encrypted with the old key.
    let serve = stage.serve("one");
    let mut commands = Vec::new();
    for project in 0..PROJECTS {
        let name = format!("proj_{project}");
        commands.push(set_tier(&format!("tier_{project}"), &name, "enterprise"));
        for number in 0..OF_EACH {
            let connector = format!("conn{number}");
            let id = format!("create_{project}_{number}");
            let url = url(project, &connector);
            commands.push(create(&id, &name, &connector, "zapier", &url, &["payment.settled"]));
        }
    }
    commands.push(suspend("suspend", "proj_0", "conn0", "HTTP 410: gone"));
    commands.push(delete("delete", "proj_0", "conn1"));
    stage.set_up(&commands);
    serve.stop();
    let before = connectors(&stage);
    assert_eq!(before.len(), PROJECTS * OF_EACH - 1);
    assert!(before.values().all(|connector| key_of(connector) == "k1"));

    // The new key is known everywhere, and then the first.
    let both = format!("{K2},{K1}");
    let serve = stage.start_with("one", &[("DUNMORE_SECRETS__KEYS", &both)]);
    let mut serve = serve;
    serve.wait_ready();
    let planned = rotate(&stage, &both, &["--dry-run"]);
    assert!(planned.status.success(), "{planned:?}");
    assert_eq!(report(&planned)["left"], json!(before.len()));
    assert_eq!(connectors(&stage), before, "a dry run does nothing");

    let (done, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    let rotated = thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) || sent.load(Ordering::Relaxed) < CHANGES {
                let number = sent.fetch_add(1, Ordering::Relaxed);
                let project = format!("proj_{}", number % PROJECTS);
                stage.events(&[event(&format!("evt_{number}"), "payment.settled", &project)]);
                // An owner's change, in the midst of it.
                if number < CHANGES {
                    let patch = json!({ "config": { "webhookUrl": url(1, "changed") } });
                    let id = format!("change_{number}");
                    stage.command_all(&[update(&id, "proj_1", "conn1", &patch)]);
                }
            }
        });
        wait_until("events are delivered", PATIENCE, || sink.delivered_count() > 0);
        let rotated = rotate(&stage, &both, &[]);
        done.store(true, Ordering::Relaxed);
        rotated
    });
    let told = report(&rotated);
    assert!(rotated.status.success(), "{rotated:?}");
    assert_eq!((&told["left"], &told["failed"]), (&json!(0), &json!([])), "{told}");
    let used = json!([{ "key": "k2", "secrets": before.len(), "connectors": before.len() }]);
    assert_eq!(told["keys"], used);
    let last_change = format!("change_{}", CHANGES - 1);
    stage.result(&last_change);

    // The owners see what they saw: version, times and the suspension.
    let after = connectors(&stage);
    assert_eq!(after.keys().collect::<BTreeSet<_>>(), before.keys().collect::<BTreeSet<_>>());
    for (name, connector) in &after {
        assert_eq!(key_of(connector), "k2", "{name}");
        if name != "proj_1/conn1" {
            let seen = |connector: &Value| {
                let mut seen = connector.clone();
                let mask = connector["config"]["webhookUrl"]["$sealed"]["mask"].clone();
                seen["config"]["webhookUrl"] = mask;
                seen
            };
            assert_eq!(seen(connector), seen(&before[name]));
        }
    }
    assert_eq!(after["proj_0/conn0"]["suspendedReason"], "HTTP 410: gone");
    assert_eq!(after["proj_1/conn1"]["commandId"], json!(last_change), "the owner's change stands");

    // Keys that the registrar does not have first are refused, with a sentence.
    let other = rotate(&stage, &format!("{K3},{K2}"), &[]);
    assert_eq!(other.status.code(), Some(1), "{other:?}");
    let words = String::from_utf8(other.stderr).unwrap();
    assert!(words.contains("key is not the first of secrets.keys"), "{words}");
    let again = rotate(&stage, &both, &[]);
    assert!(again.status.success() && report(&again)["found"] == 0, "{again:?}");
    stage.wait_committed(PATIENCE);
    serve.stop();

    // The old key is thrown away. A view of its own, so that all of it comes from the topic.
    let mut serve = stage.start_with("two", &[("DUNMORE_SECRETS__KEYS", K2)]);
    serve.wait_ready();
    let last: Vec<Value> = (0..PROJECTS)
        .map(|project| {
            event(&format!("last_{project}"), "payment.settled", &format!("proj_{project}"))
        })
        .collect();
    stage.events(&last);
    let mut expected = BTreeSet::new();
    for project in 0..PROJECTS {
        for number in 0..OF_EACH {
            let path = match (project, number) {
                // One is suspended, one was deleted.
                (0, 0 | 1) => continue,
                (1, 1) => "/hooks/catch/1/changed/".to_owned(),
                _ => format!("/hooks/catch/{project}/conn{number}/"),
            };
            expected.insert((format!("last_{project}"), path));
        }
    }
    wait_until("the new key alone delivers", PATIENCE, || expected.is_subset(&sink.delivered()));
    let delivered = sink.delivered();
    let to_suspended = delivered.iter().filter(|(_, path)| path.ends_with("/0/conn0/"));
    assert_eq!(to_suspended.count(), 0, "a suspension stays");
    // Nothing was lost meanwhile.
    for number in 0..sent.load(Ordering::Relaxed) {
        let project = number % PROJECTS;
        for connector in 2..OF_EACH {
            let pair =
                (format!("evt_{number}"), format!("/hooks/catch/{project}/conn{connector}/"));
            assert!(delivered.contains(&pair), "{pair:?}");
        }
    }
    assert_eq!(serve.count("dunmore_dead_letters_total", &[]), 0);
    serve.stop();
}
