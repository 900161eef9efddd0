//! `dunmore doctor` and `config check`: everything that is wrong, all at once.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    slack, stage,
    support::{
        events::set_tier,
        serve::{Stage, bare_command},
    },
};

/// The worst state of each check, and everything that failed.
fn looked(
    stage: &Stage,
    environment: &[(&str, &str)],
) -> (BTreeMap<String, String>, String, Option<i32>) {
    let mut command = stage.command(&["doctor", "--output", "json"]);
    let output = command.envs(environment.iter().copied()).output().unwrap();
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let (mut states, mut failed) = (BTreeMap::new(), String::new());
    for check in told["checks"].as_array().unwrap() {
        let text = |name: &str| check[name].as_str().unwrap().to_owned();
        let (name, state) = (text("check"), text("state"));
        if state == "fail" {
            failed.push_str(&format!("{name}: {}\n", text("words")));
        }
        let worst = states.entry(name).or_insert_with(|| state.clone());
        let rank = |state: &str| ["ok", "warn", "fail"].iter().position(|one| *one == state);
        if rank(&state) > rank(worst) {
            *worst = state;
        }
    }
    (states, failed, output.status.code())
}

#[test]
fn the_doctor_looks_at_everything_and_fails_for_what_serve_refuses() {
    let Some(stage) = stage("") else { return };
    stage.set_up_with("one", &[set_tier("t", "proj_1", "pro"), slack("c", "proj_1", "conn_1")]);
    let (states, failed, code) = looked(&stage, &[]);
    assert_eq!((failed.as_str(), code), ("", Some(0)));
    for check in [
        "settings", "kafka", "secrets", "data_dir", "log", "tokens", "registry", "listen",
        "brokers", "topics", "offsets", "clock", "disk", "dns",
    ] {
        assert!(states.contains_key(check), "{check} is not looked at: {states:?}");
    }
    assert_eq!(states["topics"], "ok");

    // All at once: a misspelt variable, a wrong value, a key that is gone, topics that are missing.
    let prefix = format!("{}other.", stage.prefix);
    let (_, failed, code) = looked(
        &stage,
        &[
            ("DUNMORE_TOPICS__PREFIX", &prefix),
            ("DUNMORE_DATADIR", "/tmp"),
            ("DUNMORE_LOG__FORMAT", "xml"),
        ],
    );
    assert_eq!(code, Some(1));
    for words in [
        "settings: unknown environment variable DUNMORE_DATADIR, did you mean DUNMORE_DATA_DIR?",
        "settings: log.format must be one of auto, text, json, not \"xml\"",
        "connectors.history does not exist; create the topics with `dunmore topics ensure`",
        "payments.events does not exist",
    ] {
        assert!(failed.contains(words), "{words}\n{failed}");
    }
    let other_key = "k2:BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
    let (states, failed, code) = looked(&stage, &[("DUNMORE_SECRETS__KEYS", other_key)]);
    assert_eq!((states["secrets"].as_str(), code), ("fail", Some(1)));
    assert!(failed.contains("keys that secrets.keys lacks: k1 (1 secrets)"), "{failed}");

    let text = stage.run(&["doctor"]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("\nok    topics    "), "{text}");
    assert!(text.trim_end().ends_with(" warnings"), "{text}");
}

#[test]
fn a_broker_that_does_not_answer_is_one_line_among_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let output = bare_command(&["doctor", "--bootstrap-servers", "127.0.0.1:1"])
        .env("DUNMORE_DATA_DIR", &data)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    for words in [
        "FAIL  secrets   secrets.keys is not set",
        "FAIL  brokers   no answer from Kafka at 127.0.0.1:1",
        "ok    data_dir  ",
        " checks, 2 failed, ",
    ] {
        assert!(text.contains(words), "{words}\n{text}");
    }
    assert!(!data.exists(), "it only looks");
}

#[test]
fn a_check_of_the_settings_tells_all_that_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dunmore.toml");
    std::fs::write(
        &file,
        "topics.partitions = 'many'\ntopic.prefix = 'x'\ndestinations.slack.base_url = \
         'https://gateway.example.com/slack'\nlog.filter = 'info,a=b=c'\n",
    )
    .unwrap();
    let check = |more: &[&str]| {
        let mut command = bare_command(&["config", "check", "--config", file.to_str().unwrap()]);
        command.args(more).env("DUNMORE_KAFKA_BOOTSTRAP_SERVERS", "secret-host:1");
        command.output().unwrap()
    };
    let output = check(&[]);
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8(output.stderr).unwrap();
    for words in [
        "7 settings are wrong:",
        "DUNMORE_KAFKA_BOOTSTRAP_SERVERS, did you mean DUNMORE_KAFKA__BOOTSTRAP_SERVERS?",
        "unknown setting \"topic\", did you mean \"topics\"?",
        "topics.partitions must be a whole number, not a text",
        "destinations.slack.base_url must end with the host and port",
        "kafka.bootstrap_servers is not set",
        "secrets.keys is not set",
        "log.filter \"info,a=b=c\"",
    ] {
        assert!(told.contains(words), "{words}\n{told}");
    }
    assert!(!told.contains("secret-host"), "values of unknown variables are not told");
    let json = check(&["--output", "json"]);
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["valid"], false);
    assert_eq!(json["problems"].as_array().unwrap().len(), 7, "{json}");
}
