//! The history and the notices of connectors; those of all projects listed and resumed.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    HOOK, printed, slack, stage,
    support::{
        events::{delete, set_tier, suspend, update},
        serve::Stage,
    },
};

fn history(stage: &Stage, arguments: &[&str]) -> Vec<(String, String)> {
    let arguments = [&["connector", "history"], arguments].concat();
    let text = |record: &Value, name: &str| record[name].as_str().unwrap().to_owned();
    let told = stage.run_json(&arguments)["history"].clone();
    let told = told.as_array().unwrap().iter();
    told.map(|record| (text(record, "commandId"), text(record, "type"))).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(id, kind)| ((*id).to_owned(), (*kind).to_owned())).collect()
}

#[test]
fn every_change_is_in_the_history_and_every_transition_makes_a_notice() {
    let Some(stage) = stage("") else { return };
    let serve = stage.serve("one");
    let mut renamed = update("cmd_4", "proj_1", "conn_1", &json!({"eventTypes": ["*"]}));
    renamed["actor"] = json!("token:billing");
    stage.set_up(&[
        set_tier("cmd_1", "proj_1", "pro"),
        set_tier("cmd_x", "proj_2", "pro"),
        slack("cmd_2", "proj_1", "conn_1"),
        suspend("cmd_3", "proj_1", "conn_1", "gone: HTTP 404: no_service"),
        renamed,
        slack("cmd_5", "proj_1", "conn_2"),
        delete("cmd_6", "proj_1", "conn_2"),
    ]);
    // What was rejected is in neither.
    stage.command_all(&[slack("cmd_7", "proj_1", "conn_1")]);
    assert_eq!(stage.result("cmd_7")["outcome"], "rejected");
    let resumed = stage.run(&["connector", "resume", "proj_1", "conn_1"]);
    assert!(resumed.status.success(), "{resumed:?}");

    let all = history(&stage, &["proj_1"]);
    assert_eq!(
        all[..6],
        pairs(&[
            ("cmd_1", "project.set_tier"),
            ("cmd_2", "connector.create"),
            ("cmd_3", "connector.suspend"),
            ("cmd_4", "connector.update"),
            ("cmd_5", "connector.create"),
            ("cmd_6", "connector.delete"),
        ])
    );
    assert_eq!((all.len(), all[6].1.as_str()), (7, "connector.resume"));
    let own = history(&stage, &["proj_1", "conn_2"]);
    assert_eq!(own, pairs(&[("cmd_5", "connector.create"), ("cmd_6", "connector.delete")]));
    assert_eq!(history(&stage, &["proj_1", "--limit", "2"]).len(), 2);

    let records = stage.kafka.read(&stage.topic("connectors.history"));
    let updated = records.iter().find(|record| record.json()["commandId"] == "cmd_4").unwrap();
    assert_eq!(updated.key_text(), "proj_1");
    let json = updated.json();
    assert_eq!((&json["actor"], &json["connectorId"]), (&json!("token:billing"), &json!("conn_1")));
    assert_eq!(json["before"]["eventTypes"], json!(["payment.settled"]));
    assert_eq!(json["after"]["eventTypes"], json!(["*"]));
    assert_eq!(json["version"], stage.result("cmd_4")["version"]);
    for record in &records {
        let text = record.json().to_string();
        assert!(!text.contains("/T00000000/"), "{text}");
    }

    let notices = stage.kafka.read(&stage.topic("connectors.notices"));
    let told: Vec<(String, Value, Value)> = notices
        .iter()
        .map(|record| {
            let json = record.json();
            assert_eq!(record.key_text(), "proj_1");
            assert_eq!(json["data"]["connectorId"], "conn_1");
            let reason = json["data"]["reason"].clone();
            (json["type"].as_str().unwrap().to_owned(), reason, json["id"].clone())
        })
        .collect();
    assert_eq!(told[0], ("connector.suspended".into(), json!("http_404"), json!("cmd_3")));
    assert_eq!((told[1].0.as_str(), &told[1].1), ("connector.resumed", &json!("http_404")));
    assert_eq!(told.len(), 2);
    for kind in ["connector.suspended", "connector.resumed"] {
        assert_eq!(serve.count("dunmore_notices_total", &[("type", kind)]), 1, "{kind}");
    }

    // For people: no line over 80 columns, no id cut.
    let (text, code) = printed(&stage, &["connector", "history", "proj_1", "conn_1"]);
    assert_eq!(code, Some(0));
    assert!(text.contains("connector.update · token:billing · conn_1"), "{text}");
    assert!(text.contains("  eventTypes: payment.settled → *"), "{text}");
    assert!(text.contains("  suspendedReason: gone: HTTP 404: no_service → none"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    // A misspelt name is an error with the nearest one.
    let wrong = stage.run(&["connector", "history", "proj_3"]);
    assert_eq!(wrong.status.code(), Some(1));
    let told = String::from_utf8_lossy(&wrong.stderr);
    assert!(told.contains("there is no project proj_3; did you mean proj_"), "{told}");
    serve.stop();
}

#[test]
fn a_kill_in_between_leaves_no_accepted_command_without_its_history() {
    let Some(stage) = stage("") else { return };
    let mut commands = vec![set_tier("tier", "proj_1", "enterprise")];
    for number in 0..200 {
        let connector = format!("conn_{number}");
        commands.push(slack(&format!("create_{number}"), "proj_1", &connector));
        commands.push(suspend(&format!("hold_{number}"), "proj_1", &connector, "HTTP 401"));
    }
    let serve = stage.serve("one");
    stage.command_all(&commands);
    // As soon as some of them are decided.
    stage.result("tier");
    serve.kill();
    let serve = stage.serve("one");
    stage.result("hold_199");
    let ids = |topic: &str, field: &str| -> BTreeSet<String> {
        let records = stage.kafka.read(&stage.topic(topic));
        records.iter().map(|r| r.json()[field].as_str().unwrap().to_owned()).collect()
    };
    let sent: BTreeSet<String> =
        commands.iter().map(|command| command["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids("connectors.history", "commandId"), sent);
    let holds: BTreeSet<String> =
        sent.iter().filter(|id| id.starts_with("hold_")).cloned().collect();
    assert_eq!(ids("connectors.notices", "id"), holds);
    // A repeat is recognised by its command id, and listed once.
    let told = stage.run_json(&["connector", "history", "proj_1", "--limit", "1000"]);
    assert_eq!(told["total"], 401);
    serve.stop();
}

#[test]
fn connectors_of_all_projects_are_listed_and_resumed_at_once() {
    let Some(stage) = stage("") else { return };
    let serve = stage.serve("one");
    let mut commands = Vec::new();
    for project in ["proj_a", "proj_b"] {
        commands.push(set_tier(&format!("t_{project}"), project, "pro"));
        for connector in ["conn_1", "conn_2", "conn_3"] {
            commands.push(slack(&format!("c_{project}_{connector}"), project, connector));
        }
        commands.push(suspend(
            &format!("s1_{project}"),
            project,
            "conn_1",
            "unauthorized: HTTP 401: x",
        ));
        commands.push(suspend(&format!("s2_{project}"), project, "conn_2", "gone: HTTP 404: y"));
    }
    commands.push(update("off", "proj_b", "conn_3", &json!({"isActive": false})));
    stage.set_up(&commands);
    let listed = |arguments: &[&str]| -> Vec<String> {
        let told = stage.run_json(&[&["connector", "list"], arguments].concat());
        let name = |one: &Value| {
            format!("{}/{}", one["projectId"].as_str().unwrap(), one["id"].as_str().unwrap())
        };
        told["connectors"].as_array().unwrap().iter().map(name).collect()
    };
    assert_eq!(listed(&["--all"]).len(), 6);
    let suspended = ["proj_a/conn_1", "proj_a/conn_2", "proj_b/conn_1", "proj_b/conn_2"];
    assert_eq!(listed(&["--all", "--suspended"]), suspended);
    assert_eq!(listed(&["proj_a", "--suspended"]), suspended[..2]);
    assert_eq!(listed(&["--all", "--type", "n8n"]), Vec::<String>::new());
    assert_eq!(stage.run(&["connector", "list"]).status.code(), Some(2));
    let (text, _) = printed(&stage, &["connector", "list", "--all", "--suspended"]);
    assert!(text.starts_with("proj_a/conn_1 (slack)\n  suspended since 20"), "{text}");
    assert!(text.contains(", http_401\n  unauthorized: HTTP 401: x\n"), "{text}");
    let (text, _) = printed(&stage, &["connector", "list", "proj_b"]);
    assert!(text.contains("conn_3 (slack)\n  off since 20"), "{text}");

    let shown = stage.run_json(&["project", "show", "proj_b"]);
    assert_eq!(
        shown,
        json!({"id": "proj_b", "tier": "pro", "limit": 5,
            "connectors": {"total": 3, "active": 2, "suspended": 2}})
    );
    let (text, _) = printed(&stage, &["project", "show", "proj_a"]);
    let expected =
        "project proj_a\ntier pro, limit 5\nconnectors: 3 in all, 3 active, 2 suspended\n";
    assert_eq!(text, expected);
    assert_eq!(stage.run(&["project", "show", "proj_c"]).status.code(), Some(1));

    // Nobody can answer the question here, so nothing happens.
    let all = ["connector", "resume", "--all", "--type", "slack", "--reason", "http_401"];
    assert_eq!(stage.run(&all).status.code(), Some(2));
    let planned = stage.run_json(&[&all[..], &["--dry-run"]].concat());
    assert_eq!((&planned["found"], &planned["resumed"]), (&json!(2), &json!(0)));
    assert_eq!(listed(&["--all", "--suspended"]).len(), 4);
    let done = stage.run_json(&[&all[..], &["--yes"]].concat());
    assert_eq!((&done["found"], &done["resumed"]), (&json!(2), &json!(2)));
    assert_eq!(listed(&["--all", "--suspended"]), ["proj_a/conn_2", "proj_b/conn_2"]);
    // By its words, in one project.
    let words = ["connector", "resume", "proj_a", "--all", "--reason", "HTTP 404: y", "--yes"];
    let (text, code) = printed(&stage, &words);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.ends_with("1 of 1 resumed\n"), "{text}");
    assert_eq!(listed(&["--all", "--suspended"]), ["proj_b/conn_2"]);
    let none = printed(&stage, &[&all[..], &["--yes"]].concat());
    assert_eq!(none, ("no suspended connector is meant\n".to_owned(), Some(0)));
    assert_eq!(stage.run(&["connector", "resume", "proj_a"]).status.code(), Some(2));
    serve.stop();
}

/// What was typed wrongly ends with 2, what the service refuses with 1.
#[test]
fn wrong_values_end_with_two() {
    let Some(stage) = stage("") else { return };
    let serve = stage.serve("one");
    let code = |arguments: &[&str]| {
        let output = stage.run(arguments);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let url = format!("webhookUrl={HOOK}0123456789");
    let create = |kind: &str, url: &str, events: &str| {
        code(&["connector", "create", "proj_1", kind, "--set", url, "--events", events])
    };
    for (told, word) in [
        (code(&["project", "set-tier", "proj_1", "gold"]), "tier"),
        (create("slak", &url, "*"), "did you mean \"slack\"?"),
        (create("slack", &url, "payment.setled"), "payment.settled"),
    ] {
        assert_eq!(told.0, Some(2), "{told:?}");
        assert!(told.1.contains(word), "{told:?}");
    }
    assert_eq!(create("slack", &url, "*").0, Some(1), "the tier allows none");
    stage.set_up(&[set_tier("t", "proj_1", "pro")]);
    let wrong = create("slack", "webhookURL=https://example.com", "*");
    assert_eq!(wrong.0, Some(2), "{wrong:?}");
    assert!(wrong.1.contains("config.webhookUR"), "{wrong:?}");
    serve.stop();
}
