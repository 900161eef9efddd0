//! The log side on a real broker: foreign records, topics that are created anew, groups that are left,
//! offsets that are lost, lag, transactions, tiers that are renamed, views that are behind. Nothing is
//! lost, nothing stands still, and what is shown is so.
//!
//! Some tests take their size from the environment: `DUNMORE_FOREIGN`, `DUNMORE_RESTARTS`,
//! `DUNMORE_FREEZE_SECONDS`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::{
    Chance,
    broker::{broker, own_broker},
    events::{create, delete, event, set_tier},
    foreign::{Foreign, Transactional, members, write_foreign},
    kafka::{Read, Write},
    scene::{n8n, stage},
    serve::{Serve, Stage},
    sink::{Reply, Sink},
    wait_until,
};

const PATIENCE: Duration = Duration::from_secs(120);

/// A number from the environment.
fn size(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn events(numbers: std::ops::Range<usize>) -> Vec<Value> {
    numbers.map(|n| event(&format!("evt_{n}"), "payment.settled", "proj_1")).collect()
}

/// The lag of a topic over all its partitions, as the instance shows it; `None` while it shows none.
fn lag(serve: &Serve, topic: &str) -> Option<f64> {
    let partitions = serve.count("dunmore_consumer_watermark_offset", &[("topic", topic)]);
    let shown = serve.metric("dunmore_consumer_lag_records", &[("topic", topic)]);
    (partitions > 0 || shown > 0.0).then_some(shown)
}

fn random_bytes(chance: &mut Chance, most: u64) -> Vec<u8> {
    let length = chance.below(most);
    (0..length).map(|_| u8::try_from(chance.below(256)).unwrap()).collect()
}

/// Random bytes in key, value, names and values of headers, some of them null, some of them large.
fn foreign(chance: &mut Chance, partitions: u64) -> Foreign {
    let some =
        |chance: &mut Chance, most: u64| (chance.below(5) > 0).then(|| random_bytes(chance, most));
    let value = match chance.below(20) {
        0 => Some(vec![b'x'; usize::try_from(chance.below(2 << 20)).unwrap()]),
        1 => Some(b"{\"id\":\"evt_x\"}".to_vec()),
        _ => some(chance, 300),
    };
    let headers = (0..chance.below(4)).map(|_| {
        let mut name = random_bytes(chance, 12);
        name.retain(|byte| *byte != 0);
        name.push(0xe4);
        (name, some(chance, 40))
    });
    let headers = headers.collect();
    let partition = i32::try_from(chance.below(partitions)).unwrap();
    Foreign { key: some(chance, 20), value, headers, partition }
}

#[test]
fn a_header_name_of_any_bytes_costs_nothing() {
    let Some((stage, sink)) = stage("1s", "") else { return };
    let serve = stage.serve("one");
    stage.set_up(&[n8n(&sink, "conn_1", &["*"])]);
    let good = event("evt_1", "payment.settled", "proj_1").to_string();
    let record = Foreign {
        key: Some(b"proj_1".to_vec()),
        value: Some(good.into_bytes()),
        headers: vec![(b"tr\xe4ce".to_vec(), Some(b"1".to_vec())), (vec![0xff], None)],
        partition: 0,
    };
    write_foreign(&stage.kafka, &stage.topic("payments.events"), &[record]);
    wait_until("the event arrives", PATIENCE, || sink.count() == 1);
    stage.wait_committed(PATIENCE);
    let trace = stage.run_json(&["event", "trace", "evt_1"]);
    assert!(trace.to_string().contains("delivered"), "{trace}");
    assert_eq!(stage.kafka.read(&stage.topic("deliveries.dead")).len(), 0);
    serve.stop();
}

#[test]
fn foreign_records_cost_themselves_and_nothing_else() {
    let count = size("DUNMORE_FOREIGN", 120);
    let good = count * 10;
    let Some((stage, sink)) = stage("1s", "") else { return };
    let mut serve = stage.serve("one");
    stage.set_up(&[n8n(&sink, "conn_1", &["*"])]);
    let topics =
        ["payments.events", "connectors.commands", "deliveries.retry.1s", "deliveries.replay"];
    let mut chance = Chance(17);
    for part in 0..10 {
        for topic in topics {
            let records: Vec<Foreign> =
                (0..count / 10 / topics.len()).map(|_| foreign(&mut chance, 2)).collect();
            write_foreign(&stage.kafka, &stage.topic(topic), &records);
        }
        stage.events(&events(part * good / 10..(part + 1) * good / 10));
    }
    let written = count / 10 / topics.len() * 10 * topics.len();
    wait_until("all good events arrive", PATIENCE, || sink.delivered_count() == good);
    for topic in topics {
        wait_until("every topic is committed", PATIENCE, || stage.is_committed(topic));
    }
    assert!(serve.is_running(), "it was never restarted");
    assert_eq!(sink.count(), good, "nothing was repeated");
    // A value that happens to be a command with an id is answered; all others are dead letters.
    let dead = stage.kafka.read(&stage.topic("deliveries.dead"));
    let results = stage.kafka.read(&stage.topic("connectors.results"));
    let refused = results.iter().filter(|result| result.json()["outcome"] == "rejected").count();
    assert_eq!(dead.len() + refused, written, "{refused} refused");
    assert!(dead.iter().all(|letter| !letter.header("dunmore-error-reason").is_empty()));
    let trace = stage.run_json(&["event", "trace", "evt_1"]);
    assert!(trace.to_string().contains("delivered"), "{trace}");
    for arguments in [
        &["dlq", "list"][..],
        &["replay", "--dry-run", "--from", "beginning", "--yes"],
        &["deliveries", "list"],
    ] {
        let output = stage.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }
    serve.stop();
}

/// Without its connectors every event would be "unmatched", and nothing would say so.
#[test]
fn a_state_topic_that_was_created_anew_ends_the_instance_and_is_refused() {
    let Some((stage, sink)) = stage("1s", "") else { return };
    let serve = stage.serve("one");
    stage.set_up(&[n8n(&sink, "conn_1", &["*"])]);
    wait_until("the view has it", PATIENCE, || serve.count("dunmore_view_connectors", &[]) == 1);
    stage.kafka.delete_topic(&stage.topic("connectors.state"));
    assert!(stage.run(&["topics", "ensure"]).status.success());
    assert!(!serve.ended(), "it ends with an error");
    stage.events(&events(0..5));
    assert!(!stage.start("one").ended(), "it does not begin without what it knows");
    let log = std::fs::read_to_string(stage.folder.path().join("one.log")).unwrap();
    assert!(log.contains("created anew"), "{log}");
    assert!(!stage.is_committed("payments.events"), "the events wait");
}

#[derive(Clone, Copy, Debug)]
enum When {
    Running,
    Stopped,
}

/// The events' topic is deleted and created again with so many records, of which none may be lost.
fn created_anew(before: usize, after: usize, when: When) {
    let Some((stage, sink)) = stage("1s", "topics.partitions = 1") else { return };
    stage.set_up_with("one", &[n8n(&sink, "conn_1", &["*"])]);
    let topic = stage.topic("payments.events");
    let serve = stage.serve("one");
    stage.events(&events(0..before));
    wait_until("the first events arrive", PATIENCE, || sink.delivered_count() == before);
    stage.wait_committed(PATIENCE);
    let anew = || {
        stage.kafka.delete_topic(&topic);
        assert!(stage.run(&["topics", "ensure"]).status.success());
        stage.events(&events(1000..1000 + after));
    };
    let serve = match when {
        When::Running => {
            anew();
            serve
        }
        When::Stopped => {
            serve.stop();
            anew();
            stage.serve("one")
        }
    };
    wait_until("every event of the new topic arrives", PATIENCE, || {
        sink.delivered_count() == before + after
    });
    stage.wait_committed(PATIENCE);
    let repeated = sink.count() - before - after;
    println!(
        "{before} records, then {after} in a new topic, {when:?}: 0 lost, {repeated} repeated"
    );
    match when {
        // What was read before it was noticed, within about a second.
        When::Running => assert!(repeated <= after),
        When::Stopped => assert_eq!(repeated, 0),
    }
    serve.stop();
}

#[test]
fn a_topic_created_anew_with_more_records_than_before_loses_none() {
    created_anew(10, 30, When::Running);
}

#[test]
fn a_topic_created_anew_with_as_many_records_as_before_loses_none() {
    created_anew(20, 20, When::Running);
}

#[test]
fn a_topic_created_anew_with_fewer_records_than_before_loses_none() {
    created_anew(30, 10, When::Running);
}

#[test]
fn a_topic_created_anew_while_nothing_runs_loses_none_and_repeats_none() {
    created_anew(10, 30, When::Stopped);
}

/// The topics that deliveries wait in: what a new one holds goes out, whatever was read before.
#[test]
fn topics_of_waiting_deliveries_created_anew_lose_none() {
    for when in [When::Running, When::Stopped] {
        for (before, after) in [(10, 30), (20, 20), (30, 10)] {
            waiting_created_anew(before, after, when);
        }
    }
}

fn waiting_created_anew(before: usize, after: usize, when: When) {
    let Some((stage, sink)) = stage("1s", "topics.partitions = 1") else { return };
    stage.set_up_with("one", &[n8n(&sink, "conn_1", &["*"])]);
    let connector = stage.kafka.read(&stage.topic("connectors.state"));
    let created = connector.iter().map(Read::json).find(|state| state["id"] == "conn_1").unwrap();
    let record = |number: usize| {
        let event = &event(&format!("evt_{number}"), "payment.settled", "proj_1");
        let mut record: Value =
            serde_json::from_str(include_str!("fixtures/records/delivery-1.json")).unwrap();
        for (name, value) in [
            ("projectId", json!("proj_1")),
            ("connectorId", json!("conn_1")),
            ("connectorType", json!("n8n")),
            ("connectorCreatedAt", created["createdAt"].clone()),
            ("eventId", event["id"].clone()),
            ("event", event.clone()),
        ] {
            record[name] = value;
        }
        Write::new("proj_1", record.to_string())
    };
    let topics = ["deliveries.retry.1s", "deliveries.replay"].map(|name| stage.topic(name));
    let write = |from: usize, count: usize| {
        for (at, topic) in topics.iter().enumerate() {
            let from = from + 10_000 * at;
            stage.kafka.write(topic, (from..from + count).map(record));
        }
    };
    let serve = stage.serve("one");
    write(0, before);
    wait_until("the first ones arrive", PATIENCE, || sink.delivered_count() == 2 * before);
    stage.wait_committed(PATIENCE);
    let anew = || {
        for topic in &topics {
            stage.kafka.delete_topic(topic);
        }
        assert!(stage.run(&["topics", "ensure"]).status.success());
        write(1000, after);
    };
    let serve = match when {
        When::Running => {
            anew();
            serve
        }
        When::Stopped => {
            serve.stop();
            anew();
            stage.serve("one")
        }
    };
    let all = 2 * (before + after);
    wait_until("those of the new topics arrive", PATIENCE, || sink.delivered_count() == all);
    stage.wait_committed(PATIENCE);
    let repeated = sink.count() - all;
    println!("{before} waiting, then {after} in new topics, {when:?}: 0 lost, {repeated} repeated");
    assert!(repeated <= if matches!(when, When::Running) { 2 * after } else { 0 });
    serve.stop();
}

/// What a new topic of held deliveries holds is counted by a keeper of its own, whatever the one
/// before it had counted, and released.
#[test]
fn a_topic_of_held_deliveries_created_anew_loses_none() {
    let Some((stage, sink)) = stage("1s", "topics.partitions = 1") else { return };
    let serve = stage.serve("one");
    stage.set_up(&[n8n(&sink, "conn_1", &["*"])]);
    sink.script("/webhook/conn_1", &[], Reply::Status(410));
    stage.events(&events(0..1));
    let held = || serve.count("dunmore_deliveries_held", &[("type", "n8n")]);
    wait_until("the first one is held", PATIENCE, || held() == 1);
    stage.events(&events(1..20));
    wait_until("twenty are held", PATIENCE, || held() == 20);
    stage.wait_committed(PATIENCE);
    let topic = stage.topic("deliveries.held");
    stage.kafka.delete_topic(&topic);
    assert!(stage.run(&["topics", "ensure"]).status.success());
    // Their offsets are below what the first keeper had counted.
    stage.events(&events(100..110));
    wait_until("the new topic's are counted", PATIENCE, || held() == 10);
    sink.script("/webhook/conn_1", &[], Reply::Status(200));
    stage.set_up(&[json!({"id": "cmd_resume", "type": "connector.resume",
        "projectId": "proj_1", "connectorId": "conn_1"})]);
    wait_until("the new topic's arrive", PATIENCE, || sink.delivered_count() == 10);
    wait_until("nothing is held", PATIENCE, || held() == 0);
    serve.stop();
}

/// A topic of the same name whose offsets were copied with it, as a mirror does.
#[test]
fn offsets_that_were_committed_for_another_topic_do_not_count() {
    let Some((stage, sink)) = stage("1s", "topics.partitions = 1") else { return };
    stage.set_up_with("one", &[n8n(&sink, "conn_1", &["*"])]);
    let topic = stage.topic("payments.events");
    let serve = stage.serve("one");
    stage.events(&events(0..10));
    wait_until("the first events arrive", PATIENCE, || sink.delivered_count() == 10);
    stage.wait_committed(PATIENCE);
    serve.stop();
    let committed = stage.kafka.committed(&stage.group, &topic);
    stage.kafka.delete_topic(&topic);
    assert!(stage.run(&["topics", "ensure"]).status.success());
    stage.kafka.commit(&stage.group, &topic, &committed);
    stage.events(&events(100..130));
    let serve = stage.serve("one");
    wait_until("every event of the new topic arrives", PATIENCE, || sink.delivered_count() == 40);
    assert_eq!(serve.count("dunmore_topics_replaced_total", &[("topic", topic.as_str())]), 1);
    assert!(serve.readiness().1.contains("created anew"));
    serve.stop();
}

/// One of two instances is restarted in order under load: its group is left each time, as the broker
/// sees it, and no event waits for a session timeout.
#[test]
fn a_graceful_restart_leaves_every_group_and_holds_nothing_up() {
    let restarts = size("DUNMORE_RESTARTS", 6);
    let session = "kafka.properties.\"session.timeout.ms\" = \"45000\"\ntopics.partitions = 6";
    let Some((stage, sink)) = stage("1s", session) else { return };
    let one = stage.serve("one");
    stage.set_up(&[n8n(&sink, "conn_1", &["*"])]);
    let mut two = stage.serve("two");
    let groups =
        ["", ".retry", ".replay", ".held", ".registrar"].map(|s| format!("{}{s}", stage.group));
    let stop = std::sync::atomic::AtomicBool::new(false);
    let sent = std::sync::Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        scope.spawn(|| {
            let stream = stage.kafka.stream(&stage.topic("payments.events"));
            let mut number = 0;
            while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                let mut event = event(&format!("evt_{number}"), "payment.settled", "proj_1");
                // Spread over the partitions by key.
                event["projectId"] = json!("proj_1");
                sent.lock().unwrap().insert(format!("evt_{number}"), Instant::now());
                stream.send(&event);
                number += 1;
                thread::sleep(Duration::from_millis(5));
            }
            stream.finish(number);
        });
        for restart in 0..restarts {
            two.terminate();
            let status = two.wait();
            assert!(status.success(), "{status}");
            for group in &groups {
                assert_eq!(members(&stage.kafka, group), 1, "{group} after restart {restart}");
            }
            two = stage.serve("two");
            thread::sleep(Duration::from_millis(300));
        }
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
    });
    let sent = sent.into_inner().unwrap();
    wait_until("every event arrives", PATIENCE, || sink.delivered_count() == sent.len());
    let waits =
        sink.hits().into_iter().map(|hit| hit.at.saturating_duration_since(sent[&hit.event]));
    let longest = waits.max().unwrap();
    println!(
        "{restarts} graceful restarts of one of two instances, {} events: every group left, longest \
         wait {:.2} s, 0 lost, {} repeated",
        sent.len(),
        longest.as_secs_f64(),
        sink.count() - sent.len()
    );
    assert_eq!(sink.count(), sent.len(), "nothing was repeated");
    assert!(longest < Duration::from_secs(20), "no session timeout was waited for");
    one.stop();
    two.stop();
}

#[test]
fn lost_offsets_are_a_question_and_not_a_replay_of_everything() {
    let Some((stage, sink)) = stage("1s", "") else { return };
    stage.set_up_with("one", &[n8n(&sink, "conn_1", &["*"])]);
    let serve = stage.serve("one");
    stage.events(&events(0..50));
    wait_until("all arrive", PATIENCE, || sink.count() == 50);
    stage.wait_committed(PATIENCE);
    serve.stop();
    let renamed = [("DUNMORE_GROUP__ID", "renamed")];
    let refused = stage.start_with("two", &renamed);
    assert!(!refused.ended(), "it does not choose by itself");
    let log = std::fs::read_to_string(stage.folder.path().join("two.log")).unwrap();
    assert!(log.contains("--from") && log.contains("renamed"), "{log}");
    let group = format!("{}renamed", stage.prefix);
    let chosen = [("DUNMORE_GROUP__ID", group.as_str()), ("DUNMORE_GROUP__START", "end")];
    let mut serve = stage.start_with("two", &chosen);
    serve.wait_ready();
    stage.events(&events(50..60));
    wait_until("what is new arrives", PATIENCE, || sink.delivered_count() == 60);
    assert_eq!(sink.count(), 60, "nothing was sent again");
    serve.stop();
    // From now on the group has offsets: nothing is asked.
    let mut serve = stage.start_with("two", &chosen[..1]);
    serve.wait_ready();
    serve.stop();
}

#[test]
fn lag_is_zero_after_a_restart_behind_markers_and_where_nothing_ever_came() {
    let Some((stage, sink)) = stage("1s", "topics.partitions = 4") else { return };
    stage.set_up_with("one", &[n8n(&sink, "conn_1", &["*"])]);
    let topic = stage.topic("payments.events");
    let serve = stage.serve("one");
    let producer = Transactional::new(&stage.kafka, &stage.prefix, &topic);
    producer.begin(&events(0..3));
    producer.commit();
    producer.begin(&events(10..13));
    producer.abort();
    wait_until("what was committed arrives", PATIENCE, || sink.count() == 3);
    wait_until("no lag behind markers", Duration::from_secs(20), || {
        lag(&serve, &topic) == Some(0.0)
    });
    serve.stop();
    let serve = stage.serve("one");
    wait_until("no lag after a restart", Duration::from_secs(20), || {
        lag(&serve, &topic) == Some(0.0)
    });
    serve.stop();
    // Retention deletes what was read, markers included: nothing was missed.
    for partition in 0..4 {
        stage.kafka.delete_records_before(&topic, partition, -1);
    }
    let serve = stage.serve("one");
    wait_until("no lag after retention", Duration::from_secs(20), || {
        lag(&serve, &topic) == Some(0.0)
    });
    stage.events(&events(20..25));
    wait_until("what comes next arrives", PATIENCE, || sink.count() == 8);
    assert_eq!(serve.count("dunmore_kafka_errors_total", &[("code", "OffsetOutOfRange")]), 0);
    serve.stop();
}

/// A quiet tier: its only record is in the worker's hand, the client library holds nothing, and its
/// statistics are looked at every five seconds.
#[test]
fn a_retry_that_waits_alone_survives_a_kill() {
    let Some((stage, sink)) = stage("20s", "topics.partitions = 1") else { return };
    sink.script("/webhook/conn_1", &[Reply::Status(503)], Reply::Status(200));
    stage.set_up_with("one", &[n8n(&sink, "conn_1", &["*"])]);
    let serve = stage.serve("one");
    stage.events(&events(0..1));
    wait_until("the first attempt fails", PATIENCE, || sink.count() == 1);
    // What is looked for is that nothing happens: there is nothing to wait for but the time.
    std::thread::sleep(Duration::from_secs(14));
    assert_eq!(stage.kafka.read(&stage.topic("deliveries.retry.20s")).len(), 1);
    serve.kill();
    let serve = stage.serve("one");
    wait_until("it arrives after the restart", PATIENCE, || sink.delivered_count() == 1);
    assert_eq!(sink.count(), 2);
    serve.stop();
}

#[test]
fn events_behind_an_open_transaction_show() {
    let Some((stage, sink)) = stage("1s", "topics.partitions = 1") else { return };
    stage.set_up_with("one", &[n8n(&sink, "conn_1", &["*"])]);
    let topic = stage.topic("payments.events");
    let serve = stage.serve("one");
    let producer = Transactional::new(&stage.kafka, &stage.prefix, &topic);
    producer.begin(&events(0..1));
    stage.events(&events(1..4));
    wait_until("what waits is shown", PATIENCE, || {
        serve.count("dunmore_open_transaction_records", &[("topic", topic.as_str())]) == 4
    });
    assert_eq!(sink.count(), 0);
    producer.commit();
    wait_until("all arrive", PATIENCE, || sink.count() == 4);
    wait_until("nothing waits any more", PATIENCE, || {
        serve.count("dunmore_open_transaction_records", &[("topic", topic.as_str())]) == 0
    });
    serve.stop();
}

#[test]
fn a_stopping_instance_is_not_ready_from_the_first_moment_and_ends_in_time() {
    let more = "delivery.shutdown_grace = \"6s\"";
    let Some((stage, sink)) = stage("1s", more) else { return };
    let mut serve = stage.serve("one");
    stage.set_up(&[n8n(&sink, "conn_1", &["*"])]);
    sink.delay("/webhook/conn_1", Duration::from_secs(3));
    stage.events(&events(0..2));
    wait_until("requests are under way", PATIENCE, || sink.count() > 0);
    serve.terminate();
    let asked = Instant::now();
    wait_until("it is not ready", Duration::from_secs(1), || serve.readiness().0 == 503);
    assert!(serve.wait().success());
    let took = asked.elapsed();
    println!(
        "a stop with requests of 3 s under way and a grace of 6 s: {:.1} s",
        took.as_secs_f64()
    );
    assert!(took < Duration::from_secs(11));
    assert!(took > Duration::from_secs(2), "what was under way was waited for");
}

#[test]
fn a_stop_while_the_broker_is_away_ends_in_time() {
    let Some(broker) = own_broker("stop") else { return };
    let sink = Sink::start();
    let more = "delivery.shutdown_grace = \"3s\"\ntopics.partitions = 2";
    let stage = Stage::new(&broker.bootstrap, &broker.unique_prefix(), "1s", more);
    let mut serve = stage.serve("one");
    stage.set_up(&[set_tier("cmd_tier", "proj_1", "pro"), n8n(&sink, "conn_1", &["*"])]);
    stage.events(&events(0..10));
    wait_until("events arrive", PATIENCE, || sink.count() == 10);
    broker.pause();
    serve.terminate();
    let asked = Instant::now();
    let _ = serve.wait();
    let took = asked.elapsed();
    println!("a stop while the broker stands still, grace 3 s: {:.1} s", took.as_secs_f64());
    assert!(took < Duration::from_secs(9), "{took:?}");
    broker.resume();
}

/// One of two instances stands still; meanwhile connectors are created and deleted, and their events
/// flow. What was accepted counts, whatever an instance knew before it stood still.
#[test]
fn an_instance_that_stood_still_loses_no_event_of_a_new_connector() {
    let seconds = size("DUNMORE_FREEZE_SECONDS", 40);
    // Longer than it stands still, so that it keeps its partitions.
    let more = "kafka.properties.\"session.timeout.ms\" = \"45000\"\ntopics.partitions = 6";
    let Some((stage, sink)) = stage("1s", more) else { return };
    let instances = [stage.serve("one"), stage.serve("two")];
    let mut chance = Chance(4);
    let began = Instant::now();
    let (mut round, mut expected) = (0, BTreeSet::new());
    let mut gone: Vec<(String, Instant)> = Vec::new();
    while began.elapsed() < Duration::from_secs(u64::try_from(seconds).unwrap()) {
        let project = format!("proj_{}", 10 + round % 40);
        let (connector, id) = (format!("conn_{round}"), format!("cmd_new_{round}"));
        let path = format!("/webhook/{connector}");
        let frozen = &instances[usize::try_from(chance.below(2)).unwrap()];
        let standstill = [1, 4][usize::try_from(chance.below(2)).unwrap()];
        frozen.signal(Signal::SIGSTOP);
        // Commands may wait for the one that stands still.
        stage.command_all(&[
            set_tier(&format!("cmd_tier_{round}"), &project, "enterprise"),
            create(&id, &project, &connector, "n8n", &sink.url(&path), &["*"]),
        ]);
        let until = Instant::now() + Duration::from_secs(standstill);
        let is_accepted = |stage: &Stage| {
            let results = stage.kafka.read(&stage.topic("connectors.results"));
            results.iter().any(|result| result.key_text() == id)
        };
        let mut accepted = false;
        while Instant::now() < until {
            accepted = accepted || is_accepted(&stage);
            if accepted {
                break;
            }
            thread::sleep(Duration::from_millis(50));
        }
        if !accepted {
            frozen.signal(Signal::SIGCONT);
            wait_until("the command has its result", PATIENCE, || is_accepted(&stage));
        }
        let numbers = round * 20..round * 20 + 20;
        let batch: Vec<Value> = numbers
            .map(|n| {
                expected.insert((format!("evt_{n}"), path.clone()));
                event(&format!("evt_{n}"), "payment.settled", &project)
            })
            .collect();
        stage.events(&batch);
        thread::sleep(until.saturating_duration_since(Instant::now()));
        frozen.signal(Signal::SIGCONT);
        if round % 3 == 2 {
            wait_until("all arrive before the deletion", PATIENCE, || {
                sink.delivered().is_superset(&expected)
            });
            let command = format!("cmd_gone_{round}");
            stage.set_up(&[delete(&command, &project, &connector)]);
            gone.push((path, Instant::now()));
            stage.events(&[event(&format!("evt_late_{round}"), "payment.settled", &project)]);
        }
        round += 1;
    }
    wait_until("every event of every connector arrives", PATIENCE, || {
        sink.delivered().is_superset(&expected)
    });
    stage.wait_committed(PATIENCE);
    let late = gone.iter().filter_map(|(path, at)| {
        let last = sink.hits_on(path).into_iter().map(|hit| hit.at).max()?;
        last.checked_duration_since(*at)
    });
    let latest = late.max().unwrap_or_default();
    println!(
        "{round} rounds with standstills of 1 and 4 s: {} deliveries, 0 lost; latest delivery after a \
         confirmed deletion {:.1} s",
        expected.len(),
        latest.as_secs_f64()
    );
    assert!(latest < Duration::from_secs(6), "{latest:?}");
    for instance in instances {
        instance.stop();
    }
}

#[test]
fn deliveries_of_a_tier_that_is_renamed_reach_their_end() {
    let Some((stage, sink)) = stage("2s", "") else { return };
    let serve = stage.serve("one");
    stage.set_up(&[n8n(&sink, "conn_1", &["*"])]);
    let path = "/webhook/conn_1";
    // Fewer than open the circuit.
    sink.script(path, &vec![Reply::Status(500); 4], Reply::Status(200));
    stage.events(&events(0..4));
    wait_until("all wait in the tier", PATIENCE, || {
        serve.count("dunmore_retries_total", &[("tier", "2s")]) == 4
    });
    serve.stop();
    let renamed = [("DUNMORE_DELIVERY__RETRY_TIERS", "3s")];
    assert!(stage.command(&["topics", "ensure"]).envs(renamed).output().unwrap().status.success());
    let check = stage.command(&["topics", "check"]).envs(renamed).output().unwrap();
    let shown = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(shown.contains("deliveries.retry.2s"), "{shown}");
    let mut serve = stage.start_with("one", &renamed);
    serve.wait_ready();
    wait_until("each arrives", PATIENCE, || sink.delivered_count() == 4);
    serve.stop();
}

#[test]
fn a_retry_that_its_topic_does_not_take_is_a_dead_letter_with_everything() {
    let Some((stage, sink)) = stage("1s,2s", "") else { return };
    let retry = stage.topic("deliveries.retry.1s");
    stage.kafka.set_topic(&retry, "max.message.bytes", "1048588");
    let serve = stage.serve("one");
    wait_until("the limit is shown", PATIENCE, || {
        serve.count("dunmore_kafka_troubles", &[("kind", "record_limit")]) == 1
    });
    assert_eq!(serve.readiness().0, 200);
    stage.set_up(&[n8n(&sink, "conn_1", &["*"])]);
    sink.script("/webhook/conn_1", &[Reply::Status(503)], Reply::Status(200));
    let mut large = event("evt_large", "payment.settled", "proj_1");
    // Incompressible, and as large as an event may be.
    let mut chance = Chance(1);
    large["data"]["extra"] = json!("");
    let room = (1 << 20) - large.to_string().len();
    let letter = |_| {
        char::from(
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
                [usize::try_from(chance.below(64)).unwrap()],
        )
    };
    large["data"]["extra"] = json!((0..room).map(letter).collect::<String>());
    stage.events(&[large]);
    let letter = support::wait_for("the dead letter", PATIENCE, || {
        stage.kafka.read(&stage.topic("deliveries.dead")).pop()
    });
    assert_eq!(letter.header("dunmore-error-reason"), "record_too_large");
    assert_eq!(letter.header("dunmore-connector-id"), "conn_1");
    assert_eq!(letter.header("dunmore-source-topic"), stage.topic("payments.events"));
    assert_eq!(letter.json()["event"]["id"], "evt_large", "the dead letters take its size");
    stage.wait_committed(PATIENCE);
    assert_eq!(serve.count("dunmore_retries_total", &[]), 0);
    assert_eq!(serve.count("dunmore_dead_letters_total", &[("reason", "record_too_large")]), 1);
    serve.stop();
}

/// The dead letters take no record of the event's size either: its value stays where it came from, and
/// a redrive reads it there.
#[test]
fn a_dead_letter_without_its_value_is_sent_again_from_its_origin() {
    let Some((stage, sink)) = stage("1s", "") else { return };
    for topic in ["deliveries.retry.1s", "deliveries.dead"] {
        stage.kafka.set_topic(&stage.topic(topic), "max.message.bytes", "100000");
    }
    let serve = stage.serve("one");
    stage.set_up(&[n8n(&sink, "conn_1", &["*"])]);
    sink.script("/webhook/conn_1", &[Reply::Status(503)], Reply::Status(200));
    let mut chance = Chance(3);
    let mut large = event("evt_large", "payment.settled", "proj_1");
    let text: String =
        (0..200_000).map(|_| char::from(b'0' + u8::try_from(chance.below(10)).unwrap())).collect();
    large["data"]["extra"] = json!(text);
    stage.events(std::slice::from_ref(&large));
    let letter = support::wait_for("the dead letter", PATIENCE, || {
        stage.kafka.read(&stage.topic("deliveries.dead")).pop()
    });
    assert_eq!(letter.value.as_deref(), Some(&b""[..]));
    assert_eq!(letter.header("dunmore-event-id"), "evt_large");
    assert_eq!(letter.header("dunmore-error-reason"), "record_too_large");
    assert!(letter.header("dunmore-value-omitted").parse::<usize>().unwrap() > 200_000);
    let listed = stage.run_json(&["dlq", "list"]);
    assert!(listed.to_string().contains("evt_large"), "{listed}");
    let redriven = stage.run(&["dlq", "redrive", "--connector", "proj_1/conn_1", "--yes"]);
    assert!(redriven.status.success(), "{redriven:?}");
    wait_until("it arrives", PATIENCE, || sink.delivered_count() == 1);
    let body: Value = serde_json::from_slice(&sink.hits().last().unwrap().body).unwrap();
    assert_eq!(body["data"]["extra"], large["data"]["extra"]);
    serve.stop();
}

/// A second instance joins while requests of three seconds are under way: they end where they began.
#[test]
fn an_instance_that_joins_repeats_nothing_at_slow_destinations() {
    let more = "topics.partitions = 6\nkafka.properties.\"session.timeout.ms\" = \"45000\"\n\
                destinations.n8n.concurrency = 64";
    let Some((stage, sink)) = stage("30s", more) else { return };
    let one = stage.serve("one");
    let mut commands = Vec::new();
    for project in 0..30 {
        let name = format!("proj_{project}");
        let url = sink.url(&format!("/webhook/{name}"));
        commands.push(set_tier(&format!("cmd_t{project}"), &name, "pro"));
        commands.push(create(&format!("cmd_c{project}"), &name, "conn", "n8n", &url, &["*"]));
    }
    stage.set_up(&commands);
    sink.delay_all(Duration::from_secs(3));
    let send = |numbers: std::ops::Range<usize>| {
        let events = numbers
            .map(|n| event(&format!("evt_{n}"), "payment.settled", &format!("proj_{}", n % 30)));
        stage.events(&events.collect::<Vec<_>>());
    };
    send(0..60);
    wait_until("requests are under way", PATIENCE, || sink.count() >= 30);
    let two = stage.serve("two");
    send(60..90);
    wait_until("all arrive", PATIENCE, || sink.delivered_count() == 90);
    stage.wait_committed(PATIENCE);
    assert_eq!(sink.count(), 90, "nothing was repeated");
    one.stop();
    two.stop();
}

/// What waits for a connector that was deleted is not for the next one with its id.
#[test]
fn an_id_that_is_used_again_inherits_nothing() {
    let Some((stage, sink)) = stage("3s", "") else { return };
    let serve = stage.serve("one");
    stage.set_up(&[n8n(&sink, "conn_1", &["*"])]);
    sink.script("/webhook/conn_1", &[], Reply::Status(500));
    stage.events(&events(0..4));
    wait_until("all have failed once", PATIENCE, || sink.count() == 4);
    let url = sink.url("/webhook/other");
    stage.set_up(&[
        delete("cmd_gone", "proj_1", "conn_1"),
        create("cmd_again", "proj_1", "conn_1", "n8n", &url, &["*"]),
    ]);
    wait_until("what waited is cancelled", PATIENCE, || {
        serve.count("dunmore_deliveries_total", &[("outcome", "cancelled")]) == 4
    });
    stage.events(&events(5..6));
    wait_until("the new one gets what is new", PATIENCE, || {
        sink.hits_on("/webhook/other").len() == 1
    });
    assert_eq!(sink.count(), 5);
    serve.stop();
}

/// A delivery that a newer release put into a tier waits there; it is not thrown away.
#[test]
fn a_delivery_of_a_newer_release_stays_in_its_tier() {
    let Some((stage, sink)) = stage("1s", "") else { return };
    let serve = stage.serve("one");
    stage.set_up(&[n8n(&sink, "conn_1", &["*"])]);
    sink.script("/webhook/conn_1", &[Reply::Status(500)], Reply::Status(200));
    stage.events(&events(0..1));
    wait_until("the retry arrives", PATIENCE, || sink.count() == 2);
    let tier = stage.topic("deliveries.retry.1s");
    let mut newer = stage.kafka.read(&tier).remove(0).json();
    newer["connectorType"] = json!("carrier-pigeon");
    let mut worded = newer.clone();
    worded["connectorType"] = json!("n8n");
    worded["lastError"]["reason"] = json!("a_reason_of_tomorrow");
    stage.kafka.write_json(&tier, [&newer, &worded]);
    wait_until("a reason that is not known is no obstacle", PATIENCE, || sink.count() == 3);
    wait_until("the other is put back", PATIENCE, || {
        serve.count("dunmore_newer_records_deferred_total", &[]) >= 2
    });
    assert_eq!(stage.kafka.read(&stage.topic("deliveries.dead")).len(), 0);
    serve.stop();
}

/// Every setting of the broker that a test needs is its own, so one broker serves them all.
#[test]
fn the_broker_is_there() {
    if let Some(broker) = broker() {
        assert!(!broker.bootstrap.is_empty());
    }
}
