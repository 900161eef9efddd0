//! Bad input on a real broker: each wrong record has a stated end, and the next one is processed; each
//! wrong start ends with one sentence that says what to do.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::{
    collections::BTreeMap,
    net::TcpListener,
    process::{Command, Output},
    time::Duration,
};

use serde_json::{Value, json};
use support::{
    broker::broker,
    events::{create, event, set_tier},
    kafka::{Read, Write},
    serve::{Stage, bare_command, free_address},
    sink::{Reply, Sink},
    wait_until,
};

const PATIENCE: Duration = Duration::from_secs(60);
/// The largest event that is accepted.
const MAX_EVENT_BYTES: usize = 1 << 20;

fn settled(id: &str) -> Value {
    event(id, "payment.settled", "proj_1")
}

/// A valid event of exactly so many bytes.
fn event_of(id: &str, bytes: usize) -> String {
    let mut event = settled(id);
    event["data"]["note"] = json!("");
    let missing = bytes - event.to_string().len();
    event["data"]["note"] = json!("x".repeat(missing));
    event.to_string()
}

/// The values of an object, in its order.
fn in_a_list(value: &Value) -> Value {
    value.as_object().unwrap().values().cloned().collect()
}

/// Reason, a word of the detail, and the value of each wrong record.
fn wrong_records() -> Vec<(&'static str, &'static str, Option<Vec<u8>>)> {
    let with = |change: &dyn Fn(&mut Value)| {
        let mut event = settled("evt_wrong");
        change(&mut event);
        event.to_string().into_bytes()
    };
    let amount = |wrong: Value| with(&|event| event["data"]["amount"] = wrong.clone());
    vec![
        ("undecodable", "no JSON", Some(b"not json at all".to_vec())),
        ("undecodable", "no JSON", Some(vec![0xff, 0xfe, 0x80, 0x01])),
        ("undecodable", "no JSON", Some(b"[1,2,3]".to_vec())),
        ("undecodable", "no JSON", Some(br#"{"id":"evt_cut","type":"paym"#.to_vec())),
        ("undecodable", "no JSON", Some(Vec::new())),
        ("undecodable", "has no value", None),
        ("undecodable", "schema_registry.url", Some(vec![0, 0, 0, 0, 7, 2, 4, 6])),
        ("undecodable", "no schema id", Some(vec![0, 0x80, 0, 0, 7, 2, 4, 6])),
        ("undecodable", "gzip", Some(vec![0x1f, 0x8b, 8, 0])),
        ("undecodable", "UTF-16", Some(b"{\0\"\0i\0".to_vec())),
        ("undecodable", "a batch", Some(br#"[{"specversion":"1.0"}]"#.to_vec())),
        (
            "unknown_event_type",
            "payment.teleported",
            Some(with(&|e| e["type"] = json!("payment.teleported"))),
        ),
        (
            "missing_project",
            "projectId",
            Some(with(&|e| {
                e.as_object_mut().unwrap().remove("projectId");
            })),
        ),
        ("missing_project", "projectId", Some(with(&|e| e["projectId"] = json!("")))),
        ("invalid_event", "projectId", Some(with(&|e| e["projectId"] = json!("a/b")))),
        (
            "invalid_event",
            "the event has no id",
            Some(with(&|e| {
                e.as_object_mut().unwrap().remove("id");
            })),
        ),
        ("invalid_event", "occurredAt", Some(with(&|e| e["occurredAt"] = json!("yesterday")))),
        ("invalid_event", "data", Some(with(&|e| e["data"] = json!(null)))),
        ("invalid_event", "decimal string", Some(amount(json!(1.25)))),
        ("invalid_event", "amount", Some(amount(json!("1,25")))),
        ("invalid_event", "amount", Some(amount(json!("NaN")))),
        ("invalid_event", "amount", Some(amount(json!("")))),
        // What a header may hold is not up to the record.
        ("invalid_event", "data.amount", Some(amount(json!("\u{7f}".repeat(700_000))))),
        // serde would take the fields one after the other.
        ("invalid_event", "data", Some(with(&|event| event["data"] = in_a_list(&event["data"])))),
        ("undecodable", "a list", Some(in_a_list(&settled("evt_list")).to_string().into_bytes())),
    ]
}

#[test]
fn every_wrong_record_is_a_dead_letter_and_the_next_one_is_processed() {
    let Some(broker) = broker() else { return };
    let sink = Sink::start();
    // One partition, so that "the next one" is certain.
    let more = "topics.partitions = 1";
    let stage = Stage::new(&broker.bootstrap, &broker.unique_prefix(), "300ms,1s", more);
    let serve = stage.serve("one");
    let url = sink.url("/webhook/all");
    stage.set_up(&[
        set_tier("cmd_tier", "proj_1", "pro"),
        create("cmd_all", "proj_1", "all", "n8n", &url, &["*"]),
    ]);

    let cases = wrong_records();
    let mut records = Vec::new();
    for (number, (.., value)) in cases.iter().enumerate() {
        let headers = vec![
            ("traceparent".to_owned(), format!("trace-{number}")),
            // A producer cannot make a dead letter say something else.
            ("dunmore-error-reason".to_owned(), "forged".to_owned()),
        ];
        records.push(Write {
            key: format!("key_{number}").into_bytes(),
            value: value.clone(),
            headers,
            partition: None,
        });
        records.push(Write::new("proj_1", settled(&format!("evt_{number}")).to_string()));
    }
    stage.kafka.write(&stage.topic("payments.events"), records);
    wait_until("each right record is delivered", PATIENCE, || {
        sink.delivered_count() == cases.len()
    });
    stage.wait_committed(PATIENCE);

    let sent = stage.kafka.read(&stage.topic("payments.events"));
    let dead: BTreeMap<String, Read> = stage
        .kafka
        .read(&stage.topic("deliveries.dead"))
        .into_iter()
        .map(|record| (record.key_text(), record))
        .collect();
    assert_eq!(dead.len(), cases.len());
    for (number, (reason, detail, value)) in cases.iter().enumerate() {
        let key = format!("key_{number}");
        let (letter, source) = (&dead[&key], sent.iter().find(|r| r.key_text() == key).unwrap());
        assert_eq!(letter.header("dunmore-error-reason"), *reason, "{number}: {letter:?}");
        let said = letter.header("dunmore-error-detail");
        assert!(said.contains(detail) && said.len() < 4000, "{number}: {said}");
        assert_eq!(letter.header("dunmore-source-topic"), stage.topic("payments.events"));
        assert_eq!(letter.header("dunmore-source-partition"), source.partition.to_string());
        assert_eq!(letter.header("dunmore-source-offset"), source.offset.to_string());
        assert_eq!(letter.header("dunmore-attempts"), "0");
        assert_eq!(letter.header("traceparent"), format!("trace-{number}"));
        assert_eq!(
            letter.value.as_deref().unwrap_or_default(),
            value.as_deref().unwrap_or_default(),
            "{number}: byte for byte"
        );
    }
    let refused = |reason| serve.count("dunmore_events_rejected_total", &[("reason", reason)]);
    assert_eq!(refused("undecodable"), 12);
    assert_eq!(refused("unknown_event_type"), 1);
    assert_eq!(refused("missing_project"), 2);
    assert_eq!(refused("invalid_event"), 10);
    serve.stop();
}

/// An event of up to 1 MiB is delivered, and fits into a retry tier with its envelope; a larger one is a
/// dead letter.
#[test]
fn events_of_a_megabyte() {
    let Some(broker) = broker() else { return };
    let sink = Sink::start();
    let more = "topics.partitions = 1";
    let stage = Stage::new(&broker.bootstrap, &broker.unique_prefix(), "300ms,1s", more);
    let serve = stage.serve("one");
    let url = sink.url("/webhook/all");
    stage.set_up(&[
        set_tier("cmd_tier", "proj_1", "pro"),
        create("cmd_all", "proj_1", "all", "n8n", &url, &["*"]),
    ]);
    sink.script("/webhook/all", &[Reply::Status(500)], Reply::Status(200));
    let largest = event_of("evt_largest", MAX_EVENT_BYTES);
    let larger = event_of("evt_larger", MAX_EVENT_BYTES + 1);
    let records = [largest.clone(), larger.clone(), settled("evt_next").to_string()];
    let records = records.map(|value| Write::new("proj_1", value));
    stage.kafka.write(&stage.topic("payments.events"), records);
    wait_until("the largest and the next are delivered", PATIENCE, || sink.delivered_count() == 2);
    stage.wait_committed(PATIENCE);
    let attempts: Vec<_> =
        sink.hits().into_iter().filter(|hit| hit.event == "evt_largest").collect();
    assert!(attempts.iter().all(|hit| hit.body == largest.as_bytes()));
    let retries = stage.kafka.read(&stage.topic("deliveries.retry.300ms"));
    println!(
        "an event of {MAX_EVENT_BYTES} bytes is a retry record of {} bytes",
        retries.iter().filter_map(|record| record.value.as_ref()).map(Vec::len).max().unwrap()
    );
    let dead = stage.kafka.read(&stage.topic("deliveries.dead"));
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].header("dunmore-error-reason"), "event_too_large");
    assert!(dead[0].value.as_deref() == Some(larger.as_bytes()), "byte for byte");
    serve.stop();
}

/// A trace is passed on to third parties when it is one, wherever it stands.
#[test]
fn a_trace_is_checked_before_it_goes_out() {
    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let Some(broker) = broker() else { return };
    let sink = Sink::start();
    let more = "topics.partitions = 1";
    let stage = Stage::new(&broker.bootstrap, &broker.unique_prefix(), "300ms", more);
    let serve = stage.serve("one");
    let url = sink.url("/webhook/all");
    stage.set_up(&[
        set_tier("cmd_tier", "proj_1", "pro"),
        create("cmd_all", "proj_1", "all", "n8n", &url, &["*"]),
    ]);
    // Each is retried once: the trace comes back from the retry tier.
    sink.script("/webhook/all", &[Reply::Status(500)], Reply::Status(200));
    let cloud = |id: &str| {
        json!({"specversion": "1.0", "id": id, "type": "payment.settled", "source": "/s", "subject": "proj_1",
            "traceparent": TRACE, "data": settled(id)["data"]})
    };
    let record = |value: Value, headers: &[(&str, &str)]| {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let headers = headers.iter().map(owned).collect();
        Write { headers, ..Write::new("proj_1", value.to_string()) }
    };
    let records = [
        record(settled("evt_forged"), &[("traceparent", "forged\tor worse")]),
        record(settled("evt_plain"), &[("traceparent", TRACE)]),
        record(cloud("evt_structured"), &[("content-type", "application/cloudevents+json")]),
        record(cloud("evt_stock"), &[("content-type", "application/json")]),
        record(cloud("evt_both"), &[("traceparent", "forged")]),
    ];
    stage.kafka.write(&stage.topic("payments.events"), records);
    wait_until("all are delivered", PATIENCE, || sink.delivered_count() == 5);
    for hit in sink.hits() {
        let expected = if hit.event == "evt_forged" { "" } else { TRACE };
        assert_eq!(hit.traceparent, expected, "{}", hit.event);
    }
    serve.stop();
}

/// A record in a retry tier that is no delivery record, from whoever wrote it.
#[test]
fn a_foreign_record_in_a_retry_tier_is_a_dead_letter() {
    let Some(broker) = broker() else { return };
    let more = "topics.partitions = 1";
    let stage = Stage::new(&broker.bootstrap, &broker.unique_prefix(), "300ms", more);
    let serve = stage.serve("one");
    let tier = stage.topic("deliveries.retry.300ms");
    stage.kafka.write(&tier, [Write::new("proj_1", "{\"deliveryId\":1}")]);
    wait_until("the tier is committed to the end", PATIENCE, || {
        stage.is_committed("deliveries.retry.300ms")
    });
    let dead = stage.kafka.read(&stage.topic("deliveries.dead"));
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].header("dunmore-error-reason"), "invalid_record");
    assert_eq!(dead[0].header("dunmore-source-topic"), tier);
    assert_eq!(dead[0].value.as_deref(), Some(&b"{\"deliveryId\":1}"[..]));
    serve.stop();
}

#[test]
fn wrong_events_are_told_before_they_are_sent() {
    let Some(broker) = broker() else { return };
    let more = "topics.partitions = 1";
    let stage = Stage::new(&broker.bootstrap, &broker.unique_prefix(), "300ms", more);
    let file = stage.folder.path().join("events.jsonl");
    let wrong = event("evt_2", "payment.settlet", "proj_1");
    std::fs::write(&file, format!("{}\n\n{wrong}\nnonsense\n", settled("evt_1"))).unwrap();
    let sent = stage.run(&["event", "send", "--file", file.to_str().unwrap()]);
    assert_eq!(sent.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&sent.stdout), "1 sent, 2 invalid, 0 failed\n");
    let told = String::from_utf8_lossy(&sent.stderr);
    assert!(
        told.contains("line 3: ")
            && told.contains("\"payment.settled\"?")
            && told.contains("line 4: "),
        "{told}"
    );
    assert_eq!(stage.kafka.read(&stage.topic("payments.events")).len(), 1);

    // A line that is no text is a line like any other, wherever it stands.
    let pretty = serde_json::to_string_pretty(&settled("evt_3")).unwrap();
    let lines = [
        format!("\u{feff}{}", settled("evt_4")).into_bytes(),
        b"\xff\xfe\x80".to_vec(),
        pretty.into_bytes(),
        settled("evt_5").to_string().into_bytes(),
    ];
    std::fs::write(&file, lines.join(&b'\n')).unwrap();
    for command in ["send", "validate"] {
        let ran =
            stage.run(&["event", command, "--output", "json", "--file", file.to_str().unwrap()]);
        assert_eq!(ran.status.code(), Some(1), "{ran:?}");
        let counts: Value = serde_json::from_slice(&ran.stdout).unwrap();
        let right = counts.get("sent").or(counts.get("valid")).unwrap();
        assert_eq!((right, &counts["invalid"]), (&json!(2), &json!(2)), "{counts}");
        let told = String::from_utf8_lossy(&ran.stderr);
        assert!(told.contains("line 2: ") && told.contains("lines 3 to "), "{told}");
    }
    assert_eq!(stage.kafka.read(&stage.topic("payments.events")).len(), 3);
    let utf16: Vec<u8> =
        settled("evt_6").to_string().encode_utf16().flat_map(u16::to_le_bytes).collect();
    std::fs::write(&file, utf16).unwrap();
    let ran = stage.run(&["event", "validate", "--file", file.to_str().unwrap()]);
    assert_eq!(ran.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&ran.stderr).contains("UTF-16"), "{ran:?}");
    // Nothing at all is a pipe that broke somewhere.
    for command in ["send", "validate"] {
        let ran = stage.command(&["event", command]).stdin(std::process::Stdio::null()).output();
        let ran = ran.unwrap();
        assert_eq!(ran.status.code(), Some(1), "{ran:?}");
        assert!(String::from_utf8_lossy(&ran.stderr).contains("no event in standard input"));
    }
}

/// One sentence of ours on standard error; log lines are JSON there.
fn sentence(output: &Output) -> String {
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines: Vec<&str> = told.lines().filter(|line| !line.starts_with('{')).collect();
    assert_eq!(lines.len(), 1, "one sentence: {told}");
    assert!(!told.contains("panicked") && !told.contains("stack backtrace"), "{told}");
    lines[0].strip_prefix("dunmore: ").unwrap_or_else(|| panic!("{told}")).to_owned()
}

#[track_caller]
fn refuses(command: &mut Command, code: i32, words: &[&str]) {
    let output = command.output().unwrap();
    let sentence = sentence(&output);
    assert_eq!(output.status.code(), Some(code), "{sentence}");
    for word in words {
        assert!(sentence.contains(word), "{word:?} is not in {sentence:?}");
    }
    println!("{code}: {sentence}");
}

#[test]
fn wrong_settings_are_one_sentence_and_exit_code_2() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dunmore.toml");
    let path = file.to_str().unwrap();
    let with = |text: &str| {
        std::fs::write(&file, text).unwrap();
        bare_command(&["serve", "--config", path])
    };
    refuses(&mut bare_command(&["serve"]), 2, &["kafka.bootstrap_servers is not set"]);
    let broker = "kafka.bootstrap_servers = 'localhost:1'\n";
    refuses(&mut with(broker), 2, &["secrets.keys is not set"]);
    let keyed = |text: &str| format!("{broker}secrets.keys = ['{text}']\n");
    refuses(&mut with(&keyed("k1:c2hvcnQ=")), 2, &["secrets.keys"]);
    refuses(&mut with(&keyed("no key")), 2, &["secrets.keys"]);
    refuses(&mut with("kafka = [[["), 2, &[path, "line 1, column 12"]);
    // The wrong line may hold a secret.
    let mut broken = with("# a password\nkafka.properties.sasl.password = \"hunter22\n");
    refuses(&mut broken, 2, &["line 2"]);
    let told = String::from_utf8(broken.output().unwrap().stderr).unwrap();
    assert!(!told.contains("hunter22"), "{told}");
    refuses(
        &mut with("delivery.retry_tier = '5s'"),
        2,
        &["delivery.retry_tier\"", "delivery.retry_tiers"],
    );
    refuses(&mut with("delivery.retry_tiers = 'soon'"), 2, &["delivery.retry_tiers", "soon"]);
    refuses(&mut with("topics.partitions = 0"), 2, &["topics.partitions must be at least 1"]);
    let missing = folder.path().join("no-such-file.toml");
    let mut command = bare_command(&["serve", "--config", missing.to_str().unwrap()]);
    refuses(&mut command, 2, &["no-such-file.toml"]);
    refuses(
        bare_command(&["serve"]).env("DUNMORE_KAFKA__BOOTSTRAP_SERVER", "x:1"),
        2,
        &["DUNMORE_KAFKA__BOOTSTRAP_SERVER,", "did you mean DUNMORE_KAFKA__BOOTSTRAP_SERVERS?"],
    );
    // What the command line's own parser refuses.
    for wrong in [&["serv"][..], &["serve", "--roles", "cook"], &["project", "set-tier", "proj_1"]]
    {
        let output = bare_command(wrong).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        assert!(String::from_utf8_lossy(&output.stderr).starts_with("error: "), "{output:?}");
    }
}

#[test]
fn what_serve_cannot_use_is_one_sentence_and_exit_code_1() {
    let Some(broker) = broker() else { return };
    let more = "topics.partitions = 1";
    let stage = Stage::new(&broker.bootstrap, &broker.unique_prefix(), "300ms", more);
    let serve = |data_dir: &std::path::Path| {
        let mut command = stage.command(&["serve"]);
        command
            .env("DUNMORE_ADMIN__LISTEN", free_address().to_string())
            .env("DUNMORE_API__LISTEN", free_address().to_string())
            .env("DUNMORE_DATA_DIR", data_dir);
        command
    };
    let data_dir = stage.data_dir("one");

    let servers = ["--bootstrap-servers", "127.0.0.1:1"];
    refuses(serve(&data_dir).args(servers), 1, &["no answer from Kafka at 127.0.0.1:1"]);
    refuses(
        stage.command(&["topics", "ensure"]).args(servers),
        1,
        &["no answer from Kafka at 127.0.0.1:1", "kafka.bootstrap_servers"],
    );
    refuses(
        serve(&data_dir).env("DUNMORE_TOPICS__PREFIX", format!("{}other.", stage.prefix)),
        1,
        &["does not exist", "dunmore topics ensure"],
    );
    // Root may write everywhere, but nobody makes a folder in a file.
    let no_folder = stage.config.join("data");
    let words = [no_folder.to_str().unwrap(), "data_dir"];
    refuses(&mut serve(&no_folder), 1, &words);

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let words = [address.as_str(), "admin.listen"];
    refuses(serve(&data_dir).env("DUNMORE_ADMIN__LISTEN", &address), 1, &words);

    let running = stage.serve("one");
    refuses(&mut serve(&data_dir), 1, &["in use by another process", "data_dir"]);
    running.stop();
}
