//! Redrives that are told what they would do, and dead letters that go back as they came.

use std::collections::{BTreeMap, BTreeSet};

use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    error::RDKafkaErrorCode as Code,
    message::{Header, Headers, Message, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer},
};
use serde_json::{Value, json};

use super::{
    PATIENCE,
    letters::{set_up, write_letters},
    n8n, stage,
    support::{
        events::{delete, event, suspend},
        kafka::Write,
        serve::Stage,
        sink::Reply,
        wait_until,
    },
    text,
};

fn asked_for(stage: &Stage) -> Vec<String> {
    let records = stage.kafka.read(&stage.topic("deliveries.replay"));
    records.iter().map(|record| record.json()["eventId"].as_str().unwrap().to_owned()).collect()
}

/// Takes from Kafka what it keeps of a group, as it does by itself after a week.
fn forget(stage: &Stage, group: &str) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &stage.kafka.bootstrap);
    let admin: AdminClient<DefaultClientContext> = config.create().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // As long as the member that died is not given up, the broker refuses.
    wait_until("the group is forgotten", PATIENCE, || {
        let deleted = runtime.block_on(admin.delete_groups(&[group], &AdminOptions::new()));
        deleted.unwrap().iter().all(|one| {
            one.as_ref().map_or_else(|(_, code)| *code == Code::GroupIdNotFound, |_| true)
        })
    });
}

#[test]
fn a_killed_redrive_is_remembered_when_its_positions_are_forgotten() {
    let Some((stage, sink)) = stage("1s,5s", "") else { return };
    set_up(&sink, &stage).stop();
    write_letters(&stage, 1500);
    let flags = ["dlq", "redrive", "--reason", "gone", "--rate"];
    let mut child = stage.command(&[&flags[..], &["200"]].concat()).spawn().unwrap();
    // Killed while the last of them are unmarked.
    wait_until("some letters were sent", PATIENCE, || asked_for(&stage).len() >= 150);
    child.kill().unwrap();
    child.wait().unwrap();
    forget(&stage, &format!("{}.redrive", stage.group));
    stage.run_json(&[&flags[..], &["10000"]].concat());
    forget(&stage, &format!("{}.redrive", stage.group));
    assert_eq!(stage.run_json(&[&flags[..], &["10000"]].concat())["sent"], 0);
    let sent = asked_for(&stage);
    let once: BTreeSet<&String> = sent.iter().collect();
    assert_eq!((sent.len(), once.len()), (300, 300), "each letter once");
}

#[test]
fn what_was_sent_is_marked_also_where_nothing_is_left_to_send() {
    let Some((stage, sink)) = stage("1s,5s", "") else { return };
    set_up(&sink, &stage).stop();
    write_letters(&stage, 5);
    // As a redrive leaves it that was killed before it wrote its note.
    let letters = stage.kafka.read(&stage.topic("deliveries.dead"));
    let sent = letters.iter().filter(|letter| letter.header("dunmore-connector-id") == "one");
    let sent: Vec<Write> = sent
        .map(|letter| Write {
            headers: vec![(
                "dunmore-redriven-from".to_owned(),
                format!("{}:{}", letter.partition, letter.offset),
            )],
            ..Write::new("proj_1", letter.value.clone().unwrap())
        })
        .collect();
    let count = sent.len();
    stage.kafka.write(&stage.topic("deliveries.replay"), sent);
    let plan = stage.run_json(&["dlq", "redrive", "--all", "--dry-run"]);
    assert_eq!((&plan["sent"], &plan["unmarked"]), (&0.into(), &count.into()), "{plan}");
    let done = stage.run_json(&["dlq", "redrive", "--all"]);
    assert_eq!(done["sent"], 0);
    // Retention has taken the replay topic's records, and Kafka has forgotten the positions.
    for partition in 0..2 {
        let topic = stage.topic("deliveries.replay");
        let end = stage.kafka.read(&topic).iter().filter(|r| r.partition == partition).count();
        stage.kafka.delete_records_before(&topic, partition, i64::try_from(end).unwrap());
    }
    let again = stage.run_json(&["dlq", "redrive", "--all", "--dry-run"]);
    assert_eq!((&again["sent"], &again["unmarked"]), (&0.into(), &0.into()), "{again}");
}

#[test]
fn only_what_failed_again_is_sent_again_and_each_delivery_once() {
    let Some((stage, sink)) = stage("1s,5s", "") else { return };
    let serve = set_up(&sink, &stage);
    write_letters(&stage, 20);
    // Half of them fail again.
    let fails: Vec<Reply> = (0..8).map(|_| Reply::Status(400)).collect();
    sink.script("/webhook/one", &fails, Reply::Status(200));
    let deliveries = [
        "--reason",
        "server_error",
        "--reason",
        "timeout",
        "--reason",
        "gone",
        "--reason",
        "rejected",
    ];
    let redrive = |more: &[&str]| {
        let flags = [&["dlq", "redrive"], &deliveries[..], more].concat();
        stage.run_json(&flags)
    };
    assert_eq!(redrive(&[])["sent"], 16);
    wait_until("each has an outcome", PATIENCE, || {
        stage.run_json(&["deliveries", "list", "--source", "replay"])["total"] == 16
    });
    assert_eq!(redrive(&[])["sent"], 0);
    let plan = redrive(&["--failed-again", "--dry-run"]);
    assert_eq!((&plan["sent"], &plan["arrived"]), (&8.into(), &0.into()), "{plan}");
    let plan = redrive(&["--again", "--dry-run"]);
    assert_eq!(
        (&plan["sent"], &plan["arrived"], &plan["superseded"]),
        (&16.into(), &8.into(), &8.into()),
        "one letter of each delivery: {plan}"
    );
    let asked = stage.run(&["dlq", "redrive", "--all", "--again"]);
    assert_eq!(asked.status.code(), Some(2), "nobody can answer: {asked:?}");
    assert!(text(&asked.stderr).contains("would arrive twice"), "{asked:?}");
    assert_eq!(sink.count(), 16);
    assert_eq!(redrive(&["--failed-again"])["sent"], 8);
    wait_until("all have arrived", PATIENCE, || sink.delivered_count() == 16);
    wait_until("it is on record", PATIENCE, || {
        stage.run_json(&["deliveries", "list", "--outcome", "delivered"])["total"] == 16
    });
    assert_eq!(redrive(&["--failed-again"])["sent"], 0);
    let mut arrived: BTreeMap<String, usize> = BTreeMap::new();
    for hit in sink.hits().iter().filter(|hit| hit.status == 200) {
        *arrived.entry(hit.event.clone()).or_default() += 1;
    }
    assert!(arrived.values().all(|count| *count == 1), "{arrived:?}");
    serve.stop();
}

#[test]
fn a_dry_run_says_for_each_connector_what_would_be_sent_and_what_not() {
    let Some((stage, sink)) = stage("1s,5s", "") else { return };
    let serve = stage.serve("one");
    let names = ["plain", "held", "gone", "off"];
    let commands: Vec<Value> =
        names.iter().map(|name| n8n(&sink, name, &["payment.settled"])).collect();
    stage.set_up(&commands);
    for name in names {
        sink.script(&format!("/webhook/{name}"), &[], Reply::Status(400));
    }
    stage.events(&[event("evt_1", "payment.settled", "proj_1")]);
    wait_until("all are dead letters", PATIENCE, || {
        stage.run_json(&["dlq", "list"])["total"] == names.len()
    });
    let off = json!({"isActive": false});
    stage.set_up(&[
        suspend("cmd_s", "proj_1", "held", "gone: for a test"),
        delete("cmd_d", "proj_1", "gone"),
        super::support::events::update("cmd_u", "proj_1", "off", &off),
    ]);
    let plan = stage.run_json(&["dlq", "redrive", "--all", "--dry-run"]);
    assert_eq!(
        (&plan["sent"], &plan["suspended"], &plan["deleted"], &plan["unwanted"]),
        (&2.into(), &1.into(), &1.into(), &1.into()),
        "{plan}"
    );
    let rows = plan["connectors"].as_array().unwrap();
    let row = |name: &str| rows.iter().find(|row| row["connector"] == name).unwrap();
    assert_eq!((&row("held")["suspended"], &row("held")["send"]), (&true.into(), &1.into()));
    assert_eq!((&row("gone")["deleted"], &row("gone")["send"]), (&1.into(), &0.into()));
    assert_eq!((&row("off")["unwanted"], &row("plain")["send"]), (&1.into(), &1.into()));
    // To a suspended one nothing goes without a question.
    let asked = stage.run(&["dlq", "redrive", "--all"]);
    assert_eq!(asked.status.code(), Some(2), "{asked:?}");
    assert!(asked_for(&stage).is_empty());
    let plain = stage.run_json(&["dlq", "redrive", "--connector", "proj_1/plain"]);
    assert_eq!(plain["sent"], 1);
    assert_eq!(stage.run_json(&["dlq", "redrive", "--all", "--yes"])["sent"], 1);
    serve.stop();
}

/// A record as it is in a topic, with what the helpers of the other tests do not tell.
type Whole = (i32, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(String, Option<Vec<u8>>)>);

fn read_whole(stage: &Stage, topic: &str) -> Vec<Whole> {
    let count = stage.kafka.read(topic).len();
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &stage.kafka.bootstrap)
        .set("group.id", "none")
        .create()
        .unwrap();
    let mut list = rdkafka::TopicPartitionList::new();
    for partition in 0..stage.kafka.partitions(topic) {
        list.add_partition_offset(topic, partition, rdkafka::Offset::Beginning).unwrap();
    }
    consumer.assign(&list).unwrap();
    let mut found = Vec::new();
    wait_until("the topic is read", PATIENCE, || {
        if let Some(message) = consumer.poll(std::time::Duration::from_millis(50)) {
            let message = message.unwrap();
            let headers = message.headers().into_iter().flat_map(Headers::iter);
            let headers = headers
                .map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec)))
                .collect();
            let (key, value) = (message.key(), message.payload());
            found.push((
                message.partition(),
                key.map(<[u8]>::to_vec),
                value.map(<[u8]>::to_vec),
                headers,
            ));
        }
        found.len() >= count
    });
    found
}

#[test]
fn a_record_goes_back_as_it_was_and_once() {
    let Some((stage, sink)) = stage("1s,5s", "") else { return };
    let serve = set_up(&sink, &stage);
    let topic = stage.topic("payments.events");
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", &stage.kafka.bootstrap).create().unwrap();
    let headers = OwnedHeaders::new()
        .insert(Header { key: "twice", value: Some("a") })
        .insert(Header { key: "twice", value: Some("b") })
        .insert(Header::<&str> { key: "null", value: None })
        .insert(Header { key: "empty", value: Some("") });
    // A partition that its key, which is null, would not choose.
    let record: BaseRecord<'_, [u8], [u8]> =
        BaseRecord::to(&topic).payload(&b"\x01broken"[..]).partition(1).headers(headers);
    producer.send(record).map_err(|(error, _)| error).unwrap();
    producer.flush(PATIENCE).unwrap();
    wait_until("it is a dead letter", PATIENCE, || {
        stage.kafka.read(&stage.topic("deliveries.dead")).len() == 1
    });
    let folder = stage.folder.path().join("broken").display().to_string();
    let exported = stage.run_json(&["dlq", "export", "--folder", &folder]);
    let file = exported["files"][0].as_str().unwrap().to_owned();
    let repaired = event("evt_1", "payment.settled", "proj_1").to_string();
    std::fs::write(&file, &repaired).unwrap();
    let written = stage.run_json(&["dlq", "reinject", &file]);
    assert_eq!(written["written"][0]["partition"], 1);
    let records = read_whole(&stage, &topic);
    let ((_, key, value, headers), (partition, new_key, new_value, new_headers)) =
        (&records[0], &records[1]);
    assert_eq!((*partition, new_key, new_headers), (1, key, headers), "{records:?}");
    assert_eq!(key, &None);
    assert_eq!(value.as_deref(), Some(&b"\x01broken"[..]));
    assert_eq!(new_value.as_deref(), Some(repaired.as_bytes()));
    wait_until("it is delivered", PATIENCE, || sink.count() == 1);

    let again = stage.run(&["dlq", "reinject", &file]);
    assert_eq!(again.status.code(), Some(2), "nobody can answer: {again:?}");
    assert_eq!(stage.kafka.read(&topic).len(), 2, "nothing is written");
    stage.run_json(&["dlq", "reinject", &file, "--yes"]);
    assert_eq!(stage.kafka.read(&topic).len(), 3);
    serve.stop();
}

#[test]
fn a_letter_is_shown_whatever_its_event_holds() {
    let Some((stage, sink)) = stage("1s,5s", "") else { return };
    let serve = set_up(&sink, &stage);
    sink.script("/webhook/one", &[], Reply::Status(400));
    let plain = event("evt_1", "payment.settled", "proj_1").to_string();
    let with = |id: &str, field: &str| {
        plain.replace("evt_1", id).replacen("\"data\":{", &format!("\"data\":{{\"x\":{field},"), 1)
    };
    let exact = "[12345678901234567890123456789.10,1.0e-7,0.1000]";
    let events = [with("half", "\"\\ud800 half\""), with("huge", "1e999"), with("exact", exact)];
    let records = events.iter().map(|event| Write::new("proj_1", event.as_str()));
    stage.kafka.write(&stage.topic("payments.events"), records);
    wait_until("all are dead letters", PATIENCE, || {
        stage.run_json(&["dlq", "list"])["total"] == events.len()
    });
    let letters = stage.run_json(&["dlq", "list"]);
    for letter in letters["letters"].as_array().unwrap() {
        let position = letter["position"].as_str().unwrap();
        let id = letter["eventId"].as_str().unwrap();
        let sent = events.iter().find(|event| event.contains(id)).unwrap();
        let table = stage.run(&["dlq", "show", position]);
        assert!(table.status.success(), "{table:?}");
        assert!(text(&table.stdout).contains(sent.as_str()), "{table:?}");
        let json = stage.run(&["dlq", "show", position, "--output", "json"]);
        assert!(json.status.success(), "{json:?}");
        let read: Value = serde_json::from_slice(&json.stdout).unwrap();
        if id == "exact" {
            assert!(text(&json.stdout).contains(exact), "number by number: {json:?}");
            assert_eq!(read["event"]["id"], id);
        } else {
            assert_eq!(read["eventText"], **sent);
        }
    }
    serve.stop();
}
