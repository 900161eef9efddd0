//! The control plane on a real broker: every command ends with one outcome, whoever sent it, wherever it
//! was written, and whatever happens to the process that decides.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use dunmore_connectors::connector::partition_of;
use serde_json::{Value, json};
use support::{
    Chance,
    broker::broker,
    events::{create, delete, event, set_tier, suspend, update},
    kafka::{Read, Write},
    serve::{Serve, Stage, bytes_below},
    sink::{Reply, Sink},
    wait_until,
};

const PATIENCE: Duration = Duration::from_secs(90);
const HOOK: &str = "https://hooks.slack.com/services/T00000000/B00000000/";

fn stage(more: &str) -> Option<Stage> {
    let broker = broker()?;
    Some(Stage::new(&broker.bootstrap, &broker.unique_prefix(), "300ms,1s", more))
}

fn slack(id: &str, project: &str, connector: &str) -> Value {
    let url = format!("{HOOK}{}", connector.replace('_', "x"));
    create(id, project, connector, "slack", &url, &["payment.settled"])
}

/// Everything that was said about each command, in its order.
fn results(stage: &Stage) -> BTreeMap<String, Vec<Value>> {
    let mut results: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for result in stage.kafka.read(&stage.topic("connectors.results")) {
        let json = result.json();
        assert_eq!(json["commandId"], result.key_text(), "the key is the command's id");
        results.entry(result.key_text()).or_default().push(json);
    }
    results
}

fn wait_for_results(stage: &Stage, count: usize) -> BTreeMap<String, Vec<Value>> {
    support::wait_for("every command has a result", PATIENCE, || {
        Some(results(stage)).filter(|results| results.len() >= count)
    })
}

/// The newest state record of each key.
fn state(stage: &Stage) -> BTreeMap<String, Read> {
    let records = stage.kafka.read(&stage.topic("connectors.state"));
    records.into_iter().map(|record| (record.key_text(), record)).collect()
}

fn connectors_in_view(serve: &Serve) -> usize {
    serve.count("dunmore_view_connectors", &[])
}

#[test]
fn all_five_commands_through_kafka() {
    let Some(stage) = stage("") else { return };
    let serve = stage.serve("one");
    let commands = [
        set_tier("cmd_1", "proj_1", "pro"),
        slack("cmd_2", "proj_1", "conn_1"),
        suspend("cmd_3", "proj_1", "conn_1", "gone: HTTP 404"),
        update("cmd_4", "proj_1", "conn_1", &json!({"eventTypes": ["*"], "isActive": false})),
        slack("cmd_5", "proj_1", "conn_2"),
        delete("cmd_6", "proj_1", "conn_2"),
    ];
    stage.set_up(&commands);
    let results = results(&stage);
    let shown = &results["cmd_4"][0]["connector"];
    assert_eq!(shown["id"], "conn_1");
    assert_eq!(shown["eventTypes"], json!(["*"]));
    assert_eq!(shown["isActive"], false);
    assert_eq!(shown["suspendedReason"], "gone: HTTP 404", "only new settings lift it");
    assert_eq!(shown["config"]["webhookUrl"], "https://hooks.slack.com/…/…nnx1");

    let sent = stage.kafka.read(&stage.topic("connectors.commands"));
    let by_id: BTreeMap<String, &Read> =
        sent.iter().map(|read| (read.json()["id"].as_str().unwrap().to_owned(), read)).collect();
    let state = state(&stage);
    assert_eq!(state.keys().collect::<Vec<_>>(), ["proj_1", "proj_1/conn_1", "proj_1/conn_2"]);
    for (key, command) in
        [("proj_1", "cmd_1"), ("proj_1/conn_1", "cmd_4"), ("proj_1/conn_2", "cmd_6")]
    {
        let (record, cause) = (&state[key], by_id[command]);
        assert_eq!(record.partition, cause.partition, "the state is where its command is");
        assert_eq!(record.header("dunmore-command-offset"), cause.offset.to_string());
        assert_eq!(record.header("dunmore-command-id"), command);
    }
    assert_eq!(state["proj_1"].json()["tier"], "pro");
    assert_eq!(state["proj_1/conn_2"].value, None, "a tombstone");
    let stored = state["proj_1/conn_1"].json();
    assert_eq!(stored["version"], by_id["cmd_4"].offset);
    assert_eq!(stored["commandId"], "cmd_4");
    let sealed = &stored["config"]["webhookUrl"]["$sealed"];
    assert_eq!(sealed["key"], "k1");
    assert!(sealed["data"].is_string(), "{stored}");
    wait_until("the view shows it", PATIENCE, || connectors_in_view(&serve) == 1);
    for command in [
        "connector.create",
        "connector.update",
        "connector.delete",
        "connector.suspend",
        "project.set_tier",
    ] {
        let labels = [("command", command), ("outcome", "accepted")];
        assert!(serve.count("dunmore_commands_total", &labels) >= 1, "{command}");
    }
    serve.stop();
}

#[test]
fn the_command_line_does_the_same() {
    let Some(stage) = stage("") else { return };
    let serve = stage.serve("one");
    let url = format!("webhookUrl={HOOK}0123456789");
    let refused =
        stage.run(&["connector", "create", "proj_1", "slack", "--set", &url, "--events", "*"]);
    assert_eq!(refused.status.code(), Some(1), "a project that nobody named is on starter");
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(told.contains("connector_limit_reached"), "{told}");

    let tier = stage.run(&["project", "set-tier", "proj_1", "pro"]);
    assert!(tier.status.success(), "{tier:?}");
    assert_eq!(String::from_utf8_lossy(&tier.stdout), "proj_1 is on tier pro\n");
    let created = stage.run_json(&[
        "connector",
        "create",
        "proj_1",
        "slack",
        "--id",
        "conn_1",
        "--set",
        &url,
        "--events",
        "payment.settled,payment.failed",
        "--name",
        "Sales",
    ]);
    assert_eq!(created["outcome"], "accepted");
    assert_eq!(created["connector"]["name"], "Sales");
    let listed = stage.run_json(&["connector", "list", "proj_1"]);
    assert_eq!(listed["connectors"][0], created["connector"]);
    let changed = ["connector", "update", "proj_1", "conn_1", "--active", "false", "--name", ""];
    let changed = &stage.run_json(&changed)["connector"];
    assert_eq!((&changed["isActive"], changed.get("name")), (&json!(false), None));
    let shown = stage.run_json(&["connector", "get", "proj_1", "conn_1"]);
    assert_eq!(shown["isActive"], false);
    assert_eq!(shown["eventTypes"], json!(["payment.settled", "payment.failed"]));
    // Its own keys at hand, it sends secrets encrypted.
    let new = format!("webhookUrl={HOOK}9876543210");
    let changed = ["connector", "update", "proj_1", "conn_1", "--set", &new];
    let masked = &stage.run_json(&changed)["connector"]["config"]["webhookUrl"];
    assert_eq!(*masked, "https://hooks.slack.com/…/…3210");
    for command in stage.kafka.read(&stage.topic("connectors.commands")) {
        let text = command.json().to_string();
        assert!(!text.contains("0123456789") && !text.contains("9876543210"), "{text}");
    }
    assert_eq!(stage.run_json(&["connector", "delete", "proj_1", "conn_1"])["outcome"], "accepted");
    let gone = stage.run(&["connector", "get", "proj_1", "conn_1"]);
    assert_eq!(gone.status.code(), Some(1));
    let again = stage.run(&["connector", "delete", "proj_1", "conn_1"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("connector_not_found"), "{again:?}");
    let wrong = stage.run(&["project", "set-tier", "proj_1", "gold"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("tier"), "{wrong:?}");
    serve.stop();
}

#[test]
fn what_cannot_be_accepted_is_rejected_with_a_problem() {
    let Some(stage) = stage("") else { return };
    let serve = stage.serve("one");
    let mut commands =
        vec![slack("cmd_starter", "proj_0", "conn_1"), set_tier("cmd_tier", "proj_1", "pro")];
    commands.extend((1..=6).map(|n| slack(&format!("cmd_c{n}"), "proj_1", &format!("conn_{n}"))));
    // A smaller tier takes nothing away, but adds nothing either.
    commands.push(set_tier("cmd_down", "proj_1", "starter"));
    commands.push(delete("cmd_less", "proj_1", "conn_5"));
    commands.push(slack("cmd_more", "proj_1", "conn_7"));
    commands.push(set_tier("cmd_up", "proj_1", "business"));
    commands.push(slack("cmd_fits", "proj_1", "conn_8"));
    commands.push(slack("cmd_exists", "proj_1", "conn_1"));
    // The same command again.
    commands.push(slack("cmd_fits", "proj_1", "conn_8"));
    let hook = format!("{HOOK}x");
    commands.push(create("cmd_type", "proj_1", "conn_9", "slak", &hook, &["*"]));
    let mut field = slack("cmd_field", "proj_1", "conn_9");
    field["connector"]["colour"] = json!("red");
    field["priority"] = json!(1);
    commands.push(field);
    let mut setting = slack("cmd_setting", "proj_1", "conn_9");
    setting["connector"]["config"]["webhookURL"] = json!("https://example.com");
    commands.push(setting);
    commands.push(create(
        "cmd_host",
        "proj_1",
        "conn_9",
        "slack",
        "https://evil.example/services/T0/B0/x",
        &["*"],
    ));
    commands.push(create("cmd_event", "proj_1", "conn_9", "slack", &hook, &["payment.setled"]));
    commands.push(update("cmd_missing", "proj_1", "conn_99", &json!({"isActive": true})));
    commands.push(json!({"id": "cmd_unknown", "type": "connector.paint", "projectId": "proj_1"}));
    commands
        .push(json!({"id": "cmd_noproject", "type": "connector.delete", "connectorId": "conn_1"}));
    stage.command_all(&commands);
    let results = wait_for_results(&stage, commands.len() - 1);

    let code =
        |id: &str| results[id][0]["problem"]["code"].as_str().unwrap_or("accepted").to_owned();
    let fields = |id: &str| -> Vec<String> {
        let errors = results[id][0]["problem"]["errors"].as_array().cloned().unwrap_or_default();
        errors.iter().map(|e| e["field"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(code("cmd_starter"), "connector_limit_reached");
    for n in 1..=5 {
        assert_eq!(code(&format!("cmd_c{n}")), "accepted");
    }
    assert_eq!(code("cmd_c6"), "connector_limit_reached");
    assert_eq!(code("cmd_down"), "accepted");
    assert_eq!(code("cmd_more"), "connector_limit_reached");
    assert_eq!(code("cmd_fits"), "accepted");
    assert_eq!(code("cmd_exists"), "connector_exists");
    assert_eq!(code("cmd_type"), "validation_failed");
    assert!(
        results["cmd_type"][0].to_string().contains("did you mean"),
        "{:?}",
        results["cmd_type"]
    );
    assert_eq!(code("cmd_field"), "validation_failed");
    assert_eq!(fields("cmd_field").len(), 2, "{:?}", fields("cmd_field"));
    assert!(fields("cmd_field").iter().any(|field| field.contains("colour")));
    assert_eq!(fields("cmd_setting"), ["config.webhookURL"]);
    assert_eq!(fields("cmd_host"), ["config.webhookUrl"]);
    assert!(results["cmd_event"][0].to_string().contains("payment.settled"));
    assert_eq!(code("cmd_missing"), "connector_not_found");
    assert_eq!(code("cmd_unknown"), "invalid_command");
    assert_eq!(code("cmd_noproject"), "validation_failed");
    // The command that was sent twice was carried out once, and both say so.
    wait_until("the repeated command is answered too", PATIENCE, || {
        self::results(&stage)["cmd_fits"].len() == 2
    });
    let twice = &self::results(&stage)["cmd_fits"];
    assert_eq!(twice[0], twice[1]);
    let listed = stage.run_json(&["connector", "list", "proj_1"]);
    let ids: Vec<&str> = listed["connectors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["conn_1", "conn_2", "conn_3", "conn_4", "conn_8"]);
    serve.stop();
}

#[test]
fn commands_in_the_wrong_place_and_records_that_are_none() {
    let Some(stage) = stage("") else { return };
    let serve = stage.serve("one");
    stage.set_up(&[set_tier("cmd_tier", "proj_1", "pro")]);
    let own = partition_of("proj_1", 6);
    let wrong = |command: Value| Write {
        partition: Some((own + 1) % 6),
        ..Write::new("a key of another scheme", command.to_string())
    };
    let topic = stage.topic("connectors.commands");
    stage.kafka.write(&topic, [wrong(slack("cmd_1", "proj_1", "conn_1"))]);
    assert_eq!(stage.result("cmd_1")["outcome"], "accepted");
    let state = state(&stage);
    assert_eq!(state["proj_1/conn_1"].partition, own, "decided where the project is");

    let garbage: [&[u8]; 4] = [b"\x00\x01garbage", b"{}", b"[]", br#"{"id":"a b","type":"x"}"#];
    let records = garbage.iter().enumerate().map(|(number, value)| Write {
        partition: Some(own),
        ..Write::new(&format!("key_{number}"), *value)
    });
    let nothing = Write { key: b"key_none".to_vec(), partition: Some(own), ..Write::default() };
    stage.kafka.write(&topic, records.chain([nothing]));
    stage.set_up(&[slack("cmd_next", "proj_1", "conn_2")]);
    let dead = stage.kafka.read(&stage.topic("deliveries.dead"));
    let dead: BTreeMap<String, Read> = dead.into_iter().map(|r| (r.key_text(), r)).collect();
    assert_eq!(dead.len(), garbage.len() + 1);
    let sent = stage.kafka.read(&topic);
    for (number, value) in garbage.iter().enumerate() {
        let letter = &dead[&format!("key_{number}")];
        assert_eq!(letter.header("dunmore-error-reason"), "invalid_command");
        assert!(!letter.header("dunmore-error-detail").is_empty());
        assert_eq!(letter.header("dunmore-source-topic"), topic);
        assert_eq!(letter.header("dunmore-source-partition"), own.to_string());
        // What is refused may hold secrets, so where it stands is said and no more.
        assert_eq!(letter.value.as_deref(), Some(&b""[..]), "{value:?}");
        let offset: i64 = letter.header("dunmore-source-offset").parse().unwrap();
        let place = sent.iter().find(|read| (read.partition, read.offset) == (own, offset));
        assert_eq!(place.unwrap().value.as_deref(), Some(*value));
    }
    serve.stop();
    assert!(stage.is_committed("connectors.commands"));
}

#[test]
fn a_command_that_comes_again_is_not_carried_out_again() {
    let Some(stage) = stage("") else { return };
    let serve = stage.serve("one");
    let active = |id: &str, on: bool| update(id, "proj_1", "conn_1", &json!({"isActive": on}));
    let (off, on) = (active("cmd_off", false), active("cmd_on", true));
    let rejected = slack("cmd_early", "proj_1", "conn_1");
    stage.command_all(std::slice::from_ref(&rejected));
    assert_eq!(stage.result("cmd_early")["outcome"], "rejected");
    stage.set_up(&[
        set_tier("cmd_tier", "proj_1", "pro"),
        slack("cmd_make", "proj_1", "conn_1"),
        off.clone(),
        on,
    ]);
    let before = state(&stage)["proj_1/conn_1"].json();
    // The same again: to the same process, to the next one, and forwarded twice.
    let again = [off.clone(), rejected.clone(), slack("cmd_make", "proj_1", "conn_1")];
    stage.command_all(&again);
    wait_until("the repeats are answered", PATIENCE, || results(&stage)["cmd_off"].len() >= 2);
    serve.kill();
    let serve = stage.serve("one");
    stage.command_all(&again);
    wait_until("the next owner answers too", PATIENCE, || results(&stage)["cmd_off"].len() >= 3);
    let own = partition_of("proj_1", 6);
    let topic = stage.topic("connectors.commands");
    let wrong = |command: &Value| Write {
        partition: Some((own + 1) % 6),
        ..Write::new("proj_1", command.to_string())
    };
    stage
        .kafka
        .write(&topic, [wrong(&off), wrong(&off), wrong(&delete("cmd_gone", "proj_1", "conn_9"))]);
    assert_eq!(stage.result("cmd_gone")["outcome"], "rejected");
    assert_eq!(state(&stage)["proj_1/conn_1"].json(), before, "nothing was undone");
    for (id, outcome) in
        [("cmd_off", "accepted"), ("cmd_make", "accepted"), ("cmd_early", "rejected")]
    {
        for answer in &results(&stage)[id] {
            assert_eq!(answer["outcome"], outcome, "{id}: {answer}");
        }
    }
    // A forward says where it comes from, and one that is written a second time is known by that.
    let forwarded: Vec<Read> = stage.kafka.read(&topic);
    let forwarded: Vec<&Read> =
        forwarded.iter().filter(|read| !read.header("dunmore-forwarded-from").is_empty()).collect();
    assert_eq!(forwarded.len(), 3);
    let copy = |read: &Read| Write {
        partition: Some(own),
        headers: read.headers.clone().into_iter().collect(),
        ..Write::new("proj_1", read.value.clone().unwrap())
    };
    let late = forwarded.iter().find(|read| read.json()["id"] == "cmd_gone").unwrap();
    assert_eq!(late.header("dunmore-forwarded-hops"), "1");
    stage.set_up(&[slack("cmd_nine", "proj_1", "conn_9")]);
    stage.kafka.write(&topic, [copy(late)]);
    stage.set_up(&[active("cmd_last", false)]);
    assert!(state(&stage)["proj_1/conn_9"].value.is_some(), "it was not deleted late");
    serve.stop();
}

#[test]
fn a_commands_topic_that_was_made_anew_swallows_nothing() {
    let Some(stage) = stage("topics.partitions = 2") else { return };
    let topic = stage.topic("connectors.commands");
    let serve = stage.serve("one");
    let mut commands = vec![set_tier("cmd_tier", "proj_1", "enterprise")];
    commands.extend((0..20).map(|n| slack(&format!("cmd_{n}"), "proj_1", &format!("conn_{n}"))));
    stage.set_up(&commands);
    wait_until("all is decided", PATIENCE, || stage.is_committed("connectors.commands"));
    serve.stop();
    let mut version = state(&stage)["proj_1/conn_0"].json()["version"].as_i64().unwrap();
    // Once with fewer commands than were decided, once with more, before anybody reads it.
    for (life, count) in [("a", 3), ("b", 40)] {
        stage.kafka.delete_topic(&topic);
        assert!(stage.run(&["topics", "ensure"]).status.success());
        let mut commands: Vec<Value> = (0..count)
            .map(|n| slack(&format!("cmd_{life}{n}"), "proj_1", &format!("conn_{life}{n}")))
            .collect();
        commands.push(update(
            &format!("cmd_{life}"),
            "proj_1",
            "conn_0",
            &json!({"isActive": life == "b"}),
        ));
        stage.command_all(&commands);
        let serve = stage.serve("one");
        wait_until("every command is carried out", PATIENCE, || {
            let state = state(&stage);
            (0..count).all(|n| state.contains_key(&format!("proj_1/conn_{life}{n}")))
        });
        assert_eq!(stage.result(&format!("cmd_{life}"))["outcome"], "accepted");
        let record = &state(&stage)["proj_1/conn_0"];
        assert_eq!(record.json()["isActive"], life == "b");
        let next = record.json()["version"].as_i64().unwrap();
        assert!(next > version, "{next} after {version}");
        version = next;
        assert!(!record.header("dunmore-commands-topic-id").is_empty());
        // Who looked before it is told so, by version as by ETag.
        let mut old = update(&format!("cmd_{life}_old"), "proj_1", "conn_0", &json!({}));
        old["patch"] = json!({"isActive": false});
        old["ifVersion"] = json!(20);
        stage.command_all(&[old]);
        let answer = stage.result(&format!("cmd_{life}_old"));
        assert_eq!(answer["problem"]["code"], "connector_changed");
        serve.stop();
    }
    // Another instance, which has seen nothing of it, has the same.
    let serve = stage.serve("two");
    wait_until("the view has all", PATIENCE, || connectors_in_view(&serve) == 63);
    stage.set_up(&[delete("cmd_end", "proj_1", "conn_b1")]);
    wait_until("the view has it", PATIENCE, || connectors_in_view(&serve) == 62);
    // And under a running instance.
    stage.kafka.delete_topic(&topic);
    assert!(stage.run(&["topics", "ensure"]).status.success());
    stage.command_all(&[delete("cmd_run", "proj_1", "conn_b2")]);
    wait_until("the view has it too", PATIENCE, || connectors_in_view(&serve) == 61);
    assert_eq!(stage.result("cmd_run")["outcome"], "accepted");
    serve.stop();
}

#[test]
fn a_commands_topic_with_too_few_partitions_is_refused() {
    let Some(stage) = stage("topics.partitions = 2") else { return };
    stage.kafka.grow_topic(&stage.topic("connectors.state"), 3);
    let mut serve = stage.start("one");
    assert!(!serve.wait().success());
    let log = serve.log_text();
    assert!(log.contains("connectors.commands has 2 partitions"), "{log}");
    let checked = stage.run(&["topics", "check"]);
    assert!(!checked.status.success(), "{checked:?}");
    assert!(String::from_utf8_lossy(&checked.stdout).contains("partitions"), "{checked:?}");
}

#[test]
fn a_suspension_is_lifted_by_the_command_line() {
    let Some(stage) = stage("") else { return };
    let serve = stage.serve("one");
    stage.set_up(&[
        set_tier("cmd_tier", "proj_1", "pro"),
        slack("cmd_1", "proj_1", "conn_1"),
        suspend("cmd_2", "proj_1", "conn_1", "gone: HTTP 404"),
    ]);
    let shown = stage.run_json(&["connector", "get", "proj_1", "conn_1"]);
    assert_eq!(shown["suspendedReason"], "gone: HTTP 404");
    assert!(shown["suspendedAt"].is_string(), "{shown}");
    let updated = stage.run(&["connector", "update", "proj_1", "conn_1", "--active", "true"]);
    let told = String::from_utf8_lossy(&updated.stdout);
    assert!(told.contains("still suspended") && told.contains("resume"), "{told}");
    let resume = ["connector", "resume", "proj_1", "conn_1"];
    let resumed = stage.run_json(&resume);
    assert_eq!(resumed["outcome"], "accepted");
    assert_eq!(resumed["connector"]["suspendedReason"], Value::Null);
    assert_eq!(resumed["connector"]["suspendedAt"], Value::Null);
    assert_eq!(stage.run_json(&resume)["connector"], resumed["connector"], "nothing to lift");
    let sent = stage.kafka.read(&stage.topic("connectors.commands"));
    let resume: Vec<_> = sent.iter().filter(|c| c.json()["type"] == "connector.resume").collect();
    assert_eq!(resume.len(), 2);
    for command in resume {
        assert!(command.json()["actor"].as_str().unwrap().starts_with("cli:"));
    }
    serve.stop();
}

/// A text that no compression makes much shorter.
fn noise(chance: &mut Chance, length: usize) -> String {
    let letters = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    (0..length).map(|_| char::from(letters[usize::try_from(chance.below(62)).unwrap()])).collect()
}

#[test]
fn what_a_topic_does_not_take_still_ends_with_a_result() {
    let Some(stage) = stage("topics.partitions = 2") else { return };
    let mut chance = Chance(7);
    let own = partition_of("proj_1", 2);
    let topic = stage.topic("connectors.commands");
    let tier = set_tier("cmd_tier", "proj_1", "pro");
    let mut large = slack("cmd_large", "proj_1", "conn_1");
    large["connector"]["config"]["webhookUrl"] =
        json!(format!("{HOOK}{}", noise(&mut chance, 3_000)));
    let large = Write { partition: Some(1 - own), ..Write::new("proj_1", large.to_string()) };
    let mut wrong = slack("cmd_wrong", "proj_1", "conn_2");
    for _ in 0..60 {
        wrong["connector"][noise(&mut chance, 60)] = json!(1);
    }
    stage.command_all(&[tier, wrong]);
    stage.kafka.write(&topic, [large]);
    stage.kafka.set_topic(&topic, "max.message.bytes", "1000");
    stage.kafka.set_topic(&stage.topic("connectors.results"), "max.message.bytes", "1000");
    let serve = stage.serve("one");
    let refused = stage.result("cmd_large");
    assert_eq!(refused["outcome"], "rejected");
    assert_eq!(refused["problem"]["code"], "too_large");
    let cut = stage.result("cmd_wrong");
    assert_eq!(cut["outcome"], "rejected");
    assert_eq!(cut["problem"]["code"], "validation_failed");
    // Nothing is stuck behind them.
    stage.set_up(&[slack("cmd_next", "proj_1", "conn_3")]);
    wait_until("all is committed", PATIENCE, || stage.is_committed("connectors.commands"));
    serve.stop();
}

#[test]
fn what_a_later_release_wrote_is_held_and_kept() {
    let Some(stage) = stage("topics.partitions = 2") else { return };
    let serve = stage.serve("one");
    stage.set_up(&[set_tier("cmd_tier", "proj_1", "pro"), slack("cmd_1", "proj_1", "conn_1")]);
    let before = state(&stage)["proj_1/conn_1"].clone();
    // As a registrar of a later release writes it.
    let mut later = before.json();
    later["type"] = json!("carrier-pigeon");
    later["loft"] = json!({"height": 12});
    later["eventTypes"] = json!(["payment.settled", "payment.refunded"]);
    let mut headers = before.headers.clone();
    let offset: i64 = before.header("dunmore-command-offset").parse().unwrap();
    headers.insert("dunmore-command-offset".to_owned(), (offset + 1).to_string());
    headers.insert("dunmore-command-id".to_owned(), "cmd_later".to_owned());
    later["version"] = json!(offset + 1);
    later["commandId"] = json!("cmd_later");
    let record = Write {
        partition: Some(before.partition),
        headers: headers.into_iter().collect(),
        ..Write::new("proj_1/conn_1", later.to_string())
    };
    // The command that it is the consequence of.
    stage.kafka.write(&stage.topic("connectors.state"), [record]);
    stage.command_all(&[suspend("cmd_later", "proj_1", "conn_1", "x")]);
    wait_until("it is shown", PATIENCE, || {
        let shown = stage.run_json(&["connector", "get", "proj_1", "conn_1"]);
        shown["type"] == "carrier-pigeon"
    });
    assert_eq!(connectors_in_view(&serve), 1);
    stage.events(&[event("evt_1", "payment.settled", "proj_1")]);
    wait_until("the event waits in a tier", PATIENCE, || {
        !stage.kafka.read(&stage.topic("deliveries.retry.1s")).is_empty()
    });
    let held = stage.kafka.read(&stage.topic("deliveries.retry.1s"))[0].json();
    assert_eq!(held["lastError"]["reason"], "unusable", "{held}");
    stage.set_up(&[update("cmd_off", "proj_1", "conn_1", &json!({"isActive": false}))]);
    let stored = state(&stage)["proj_1/conn_1"].json();
    assert_eq!(stored["type"], "carrier-pigeon");
    assert_eq!(stored["loft"], later["loft"]);
    assert_eq!(stored["eventTypes"], later["eventTypes"]);
    assert_eq!(stored["isActive"], false);
    stage.set_up(&[delete("cmd_gone", "proj_1", "conn_1")]);
    serve.stop();
}

/// A model of one project on tier pro: which outcome each of its commands must have.
fn story(project: &str) -> Vec<(Value, &'static str)> {
    let id = |n: usize| format!("{project}_{n:02}");
    let mut told = vec![(set_tier(&id(0), project, "pro"), "accepted")];
    for n in 1..=7 {
        let outcome = if n <= 5 { "accepted" } else { "rejected" };
        told.push((slack(&id(n), project, &format!("conn_{n}")), outcome));
    }
    for n in 8..=12 {
        let (connector, patch) = (format!("conn_{}", n - 7), json!({"isActive": n % 2 == 0}));
        told.push((update(&id(n), project, &connector, &patch), "accepted"));
    }
    told.push((delete(&id(13), project, "conn_2"), "accepted"));
    told.push((delete(&id(14), project, "conn_2"), "rejected"));
    told.push((slack(&id(15), project, "conn_6"), "accepted"));
    told.push((slack(&id(16), project, "conn_7"), "rejected"));
    told.push((suspend(&id(17), project, "conn_1", "gone"), "accepted"));
    told.push((create(&id(18), project, "conn_8", "slak", HOOK, &["*"]), "rejected"));
    told.push((set_tier(&id(19), project, "business"), "accepted"));
    told
}

#[test]
fn two_thousand_commands_under_kills_have_one_outcome_each() {
    const PROJECTS: usize = 100;
    const KILLS: usize = 5;
    let Some(stage) = stage("") else { return };
    let mut chance = Chance(20_261_124);
    let stories: Vec<_> = (0..PROJECTS).map(|p| story(&format!("proj_{p}"))).collect();
    let length = stories[0].len();
    // The projects' commands interleave.
    let commands: Vec<Value> =
        (0..length).flat_map(|n| stories.iter().map(move |story| story[n].0.clone())).collect();
    let expected: BTreeMap<String, &str> = stories
        .iter()
        .flatten()
        .map(|(command, outcome)| (command["id"].as_str().unwrap().to_owned(), *outcome))
        .collect();
    let mut serve = stage.serve("one");
    let mut written = 0;
    for kill in 1..=KILLS {
        // A part of the commands is written, and some of it is decided when the process dies.
        let next = commands.len() * kill / KILLS;
        stage.command_all(&commands[written..next]);
        let some = written + usize::try_from(chance.below((next - written) as u64)).unwrap();
        wait_until("some of them are answered", PATIENCE, || {
            stage.kafka.read(&stage.topic("connectors.results")).len() >= some
        });
        written = next;
        serve.kill();
        serve = stage.start("one");
    }
    wait_until("every command is committed", PATIENCE, || {
        stage.is_committed("connectors.commands")
    });
    let results = results(&stage);
    let answers: usize = results.values().map(Vec::len).sum();
    let later = results.values().flat_map(|answers| answers[1..].iter().map(|a| a != &answers[0]));
    println!(
        "{} commands, {KILLS} kills: {} have an outcome, {} answers were repeated, {} of them show the \
         connector as a later command left it",
        commands.len(),
        results.len(),
        answers - results.len(),
        later.filter(|later| *later).count(),
    );
    assert_eq!(results.keys().collect::<BTreeSet<_>>(), expected.keys().collect::<BTreeSet<_>>());
    for (id, answers) in &results {
        for answer in answers {
            assert_eq!(answer["outcome"], expected[id], "{id}: {answer}");
            assert_eq!(answer["problem"], answers[0]["problem"], "{id}");
        }
    }
    serve.wait_ready();
    wait_until("the view has what is left", PATIENCE, || {
        connectors_in_view(&serve) == 5 * PROJECTS
    });
    let shown = stage.run_json(&["connector", "list", "proj_7"]);
    let of: BTreeMap<&str, bool> = shown["connectors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| (c["id"].as_str().unwrap(), c["isActive"] == true))
        .collect();
    let left =
        [("conn_1", true), ("conn_3", true), ("conn_4", false), ("conn_5", true), ("conn_6", true)];
    assert_eq!(of, left.into());
    serve.stop();
}

#[test]
fn a_secret_that_was_sent_in_plain_stays_nowhere_else() {
    const SECRET: &str = "s3cr3t-t0ken-0123456789";
    let Some(stage) = stage("topics.partitions = 2") else { return };
    let sink = Sink::start();
    let serve = stage.serve("one");
    let url = sink.url(&format!("/webhook/{SECRET}"));
    // The sink quotes the path in its answers, as some do.
    sink.script(&format!("/webhook/{SECRET}"), &[Reply::Status(200)], Reply::Status(500));
    stage.set_up(&[
        set_tier("cmd_tier", "proj_1", "pro"),
        create("cmd_1", "proj_1", "conn_1", "n8n", &url, &["*"]),
        update("cmd_2", "proj_1", "conn_1", &json!({"config": {"webhookUrl": url}})),
    ]);
    // Refused ones are answered without it, too.
    let refused = create("cmd_3", "proj_1", "conn_3", "slack", &url, &["*"]);
    stage.command_all(&[refused]);
    assert_eq!(stage.result("cmd_3")["outcome"], "rejected");
    stage.events(&[event("evt_1", "payment.settled", "proj_1")]);
    wait_until("the first is delivered", PATIENCE, || sink.count() == 1);
    stage.events(&[event("evt_2", "payment.settled", "proj_1")]);
    wait_until("the second is a dead letter", PATIENCE, || {
        stage.kafka.read(&stage.topic("deliveries.dead")).len() == 1
    });
    let metrics = support::serve::get(serve.admin, "/metrics").unwrap().1;
    let log = stage.folder.path().join("one.log");
    serve.stop();

    let has = |bytes: &[u8]| bytes.windows(SECRET.len()).any(|part| part == SECRET.as_bytes());
    let mut looked_at = 0;
    for topic in stage.kafka.topics().iter().filter(|name| name.starts_with(&stage.prefix)) {
        for record in stage.kafka.read(topic) {
            looked_at += 1;
            if topic.ends_with("connectors.commands") {
                continue;
            }
            let headers = record.headers.values().any(|value| has(value.as_bytes()));
            let value = record.value.as_deref().unwrap_or_default();
            let shown = String::from_utf8_lossy(value);
            assert!(!has(value) && !headers, "{topic}: {shown} {:?}", record.headers);
        }
    }
    assert!(looked_at >= 10, "{looked_at}");
    let disk = bytes_below(&stage.data_dir("one"));
    assert!(disk.len() > 1000 && !has(&disk), "the secret is in the data folder");
    assert!(!has(metrics.as_bytes()));
    assert!(!has(&std::fs::read(log).unwrap()), "the secret is in the log");
}

#[test]
fn a_view_that_is_lost_or_damaged_is_rebuilt() {
    let Some(stage) = stage("topics.partitions = 2") else { return };
    let serve = stage.serve("one");
    let mut commands = vec![set_tier("cmd_tier", "proj_1", "enterprise")];
    commands.extend((0..50).map(|n| slack(&format!("cmd_{n}"), "proj_1", &format!("conn_{n}"))));
    stage.set_up(&commands);
    wait_until("the view has all", PATIENCE, || connectors_in_view(&serve) == 50);
    serve.stop();

    std::fs::remove_dir_all(stage.data_dir("one")).unwrap();
    let serve = stage.serve("one");
    wait_until("the view has all again", PATIENCE, || connectors_in_view(&serve) == 50);
    serve.stop();

    let mut damaged = 0;
    damage(&stage.data_dir("one"), &mut damaged);
    assert!(damaged > 0);
    let serve = stage.serve("one");
    wait_until("the view has all after the damage", PATIENCE, || connectors_in_view(&serve) == 50);
    let rebuilds = serve.count("dunmore_view_rebuilds_total", &[]);
    println!("{damaged} files damaged, {rebuilds} rebuilds counted");
    assert_eq!(rebuilds, 1);
    // It goes on from there.
    stage.set_up(&[slack("cmd_more", "proj_1", "conn_more")]);
    wait_until("the view has one more", PATIENCE, || connectors_in_view(&serve) == 51);
    serve.stop();
}

/// Writes over every file below a folder.
fn damage(folder: &std::path::Path, count: &mut usize) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            damage(&path, count);
        } else {
            let length = std::fs::metadata(&path).unwrap().len();
            std::fs::write(&path, "damage".repeat(usize::try_from(length).unwrap() / 6 + 1))
                .unwrap();
            *count += 1;
        }
    }
}
