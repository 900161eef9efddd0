//! What happens when Kafka, the disk or the machine fails: brokers of the test's own that are killed,
//! frozen and restarted, topics that vanish and grow, views that are deleted, damaged or without room,
//! instances that are frozen and killed. Nothing is lost, and the operator is told.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::{
    broker::{broker, own_broker},
    events::{create, event, set_tier, update},
    kafka::Write,
    load::{FAN_OUT, Load, Size, delivered, repeat_bound},
    serve::{Serve, Stage},
    sink::{Reply, Sink},
    wait_until,
};

const PATIENCE: Duration = Duration::from_secs(120);
/// As in production: a broker's restart is over before the group gives up on anybody.
const LONG_SESSION: &str = "kafka.properties.\"session.timeout.ms\" = \"45000\"";
/// So that new partitions are found while a test waits.
const QUICK_METADATA: &str =
    "kafka.properties.\"topic.metadata.refresh.interval.ms\" = \"1000\"\ntopics.partitions = 2";

fn size(events: usize) -> Size {
    Size { events, projects: 60, patience: PATIENCE }
}

/// The troubles that an instance shows in its metrics, by kind.
fn troubles(serve: &Serve, kind: &str) -> usize {
    serve.count("dunmore_kafka_troubles", &[("kind", kind)])
}

fn wait_not_ready(serve: &Serve, why: &str) {
    wait_until(&format!("/readyz says {why:?}"), PATIENCE, || {
        let (status, body) = serve.readiness();
        status == 503 && body.contains(why)
    });
    assert_eq!(serve.health().0, 200, "a restart of this instance would mend nothing");
}

fn wait_ready(serve: &Serve) {
    wait_until("it is ready again", PATIENCE, || serve.readiness().0 == 200);
}

fn rebalances_of(serve: &Serve) -> usize {
    serve.count("dunmore_rebalances_total", &[])
}

fn n8n(sink: &Sink, project: &str, connector: &str) -> Value {
    let url = sink.url(&format!("/webhook/{project}/{connector}"));
    create(&format!("cmd_{project}_{connector}"), project, connector, "n8n", &url, &["*"])
}

#[test]
fn a_broker_that_is_down_for_30_s_loses_and_repeats_nothing() {
    let Some(broker) = own_broker("down") else { return };
    let load = Load::new(&broker.bootstrap, &broker.unique_prefix(), size(8000), LONG_SESSION);
    let mut serve = load.serve("one");
    load.wait_until("it is at work", || load.sink.count() > 2000);
    broker.kill();
    let down = Instant::now();
    wait_not_ready(&serve, "no answer from Kafka");
    let noticed = down.elapsed();
    assert_eq!(troubles(&serve, "unreachable"), 1);
    thread::sleep(Duration::from_secs(30).saturating_sub(down.elapsed()));
    assert!(serve.is_running());
    let before = load.sink.count();
    assert!(before < load.expected.len(), "it was to happen in the middle");
    broker.restart();
    wait_ready(&serve);
    assert_eq!(troubles(&serve, "unreachable"), 0);
    load.wait_for_the_end();
    println!(
        "broker killed and down for 30 s after {before} of {} deliveries: said so after {:.1} s; 0 missing, {} repeated",
        load.expected.len(),
        noticed.as_secs_f64(),
        load.sink.count() - load.expected.len(),
    );
    assert_eq!(load.sink.count(), load.expected.len(), "nothing was repeated");
    serve.stop();
}

#[test]
fn a_broker_that_restarts_or_stands_still_loses_nothing() {
    let Some(broker) = own_broker("restarts") else { return };
    let load = Load::new(&broker.bootstrap, &broker.unique_prefix(), size(9000), LONG_SESSION);
    let serve = load.serve("one");
    load.wait_until("it is at work", || load.sink.count() > 2000);
    broker.restart();
    load.wait_until("it goes on after the restart", || load.sink.count() > 5000);
    // Connections stay open, and nothing answers.
    broker.pause();
    wait_not_ready(&serve, "no answer from Kafka");
    thread::sleep(Duration::from_secs(5));
    broker.resume();
    wait_ready(&serve);
    load.wait_for_the_end();
    println!(
        "broker restarted in order, then frozen: {} deliveries, 0 missing, {} repeated",
        load.expected.len(),
        load.sink.count() - load.expected.len(),
    );
    serve.stop();
}

#[test]
fn a_topic_that_is_missing_or_goes_away_is_told_and_waited_for() {
    let Some(broker) = broker() else { return };
    let sink = Sink::start();
    let prefix = broker.unique_prefix();
    let stage = Stage::new(&broker.bootstrap, &prefix, "1s", QUICK_METADATA);
    let retry = stage.topic("deliveries.retry.1s");

    stage.kafka.delete_topic(&retry);
    let refused = stage.run(&["serve"]);
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{words}");
    assert!(words.contains(&retry) && words.contains("dunmore topics ensure"), "{words}");

    assert!(stage.run(&["topics", "ensure"]).status.success());
    let serve = stage.serve("one");
    stage.set_up(&[
        set_tier("cmd_tier", "proj_1", "pro"),
        n8n(&sink, "proj_1", "healthy"),
        n8n(&sink, "proj_1", "failing"),
    ]);
    let [healthy, failing] = ["/webhook/proj_1/healthy", "/webhook/proj_1/failing"];
    sink.script(failing, &[Reply::Status(500)], Reply::Status(200));
    stage.kafka.delete_topic(&retry);
    wait_not_ready(&serve, "deliveries.retry.1s does not exist");
    assert_eq!(troubles(&serve, "topic_missing"), 1);
    stage.events(&[event("evt_1", "payment.settled", "proj_1")]);
    wait_until("the failing connector was asked", PATIENCE, || sink.hits_on(failing).len() == 1);
    stage.events(&[event("evt_2", "payment.settled", "proj_1")]);
    wait_until("others are not held up", PATIENCE, || sink.hits_on(healthy).len() == 2);
    assert!(
        !stage.is_committed("payments.events"),
        "the delivery that has nowhere to wait is kept"
    );
    assert!(stage.run(&["topics", "ensure"]).status.success());
    wait_ready(&serve);
    wait_until("the failed delivery arrives", PATIENCE, || sink.hits_on(failing).len() == 3);

    // The events' topic too: the one made anew is read from its beginning.
    stage.wait_committed(PATIENCE);
    let events = stage.topic("payments.events");
    stage.kafka.delete_topic(&events);
    wait_not_ready(&serve, "payments.events does not exist");
    assert!(stage.run(&["topics", "ensure"]).status.success());
    wait_ready(&serve);
    stage.events(
        &(3..103)
            .map(|n| event(&format!("evt_{n}"), "payment.settled", "proj_1"))
            .collect::<Vec<_>>(),
    );
    wait_until("what is in the new topic arrives", PATIENCE, || sink.hits_on(healthy).len() >= 102);
    stage.wait_committed(PATIENCE);
    assert_eq!((sink.hits_on(healthy).len(), sink.hits_on(failing).len()), (102, 103));
    serve.stop();
}

/// The events' topic is deleted and made anew between two looks of the client library, which then stands
/// at an offset that the new topic does not have.
#[test]
fn a_topic_that_was_replaced_or_cut_short_is_read_from_its_oldest_record() {
    let Some(broker) = broker() else { return };
    let sink = Sink::start();
    let stage =
        Stage::new(&broker.bootstrap, &broker.unique_prefix(), "1s", "topics.partitions = 1");
    let serve = stage.serve("one");
    stage.set_up(&[set_tier("cmd_tier", "proj_1", "pro"), n8n(&sink, "proj_1", "conn_1")]);
    let send = |numbers: std::ops::Range<usize>| {
        let events = numbers.map(|n| event(&format!("evt_{n}"), "payment.settled", "proj_1"));
        stage.events(&events.collect::<Vec<_>>());
    };
    send(0..50);
    wait_until("the first events arrive", PATIENCE, || sink.count() == 50);
    stage.wait_committed(PATIENCE);
    stage.kafka.delete_topic(&stage.topic("payments.events"));
    assert!(stage.run(&["topics", "ensure"]).status.success());
    send(50..70);
    wait_until("the new topic's events arrive", PATIENCE, || sink.delivered_count() == 70);
    stage.wait_committed(PATIENCE);
    serve.stop();

    // Retention takes away what was never read: it is said loudly, and the rest is read.
    send(70..100);
    stage.kafka.delete_records_before(&stage.topic("payments.events"), 0, 40);
    let serve = stage.serve("one");
    wait_until("what is left arrives", PATIENCE, || sink.delivered_count() == 80);
    stage.wait_committed(PATIENCE);
    assert_eq!(serve.count("dunmore_kafka_errors_total", &[("code", "OffsetOutOfRange")]), 1);
    assert!(serve.log_text().contains("records were deleted before they were read"));
    serve.stop();
}

#[test]
fn partitions_that_are_added_lose_nothing_and_decide_nothing_twice() {
    const PROJECTS: usize = 20;
    let Some(broker) = broker() else { return };
    let sink = Sink::start();
    let stage = Stage::new(&broker.bootstrap, &broker.unique_prefix(), "1s", QUICK_METADATA);
    let serve = stage.serve("one");
    let projects: Vec<String> = (0..PROJECTS).map(|p| format!("proj_{p}")).collect();
    let mut commands = Vec::new();
    for project in &projects {
        commands.push(set_tier(&format!("cmd_tier_{project}"), project, "pro"));
        commands.extend((0..3).map(|c| n8n(&sink, project, &format!("conn_{c}"))));
    }
    stage.set_up(&commands);

    for topic in ["payments.events", "connectors.commands"] {
        stage.kafka.grow_topic(&stage.topic(topic), 5);
    }
    let (topic, commands) = (stage.topic("payments.events"), stage.topic("connectors.commands"));
    wait_until("it says so", PATIENCE, || troubles(&serve, "partitions_changed") == 2);
    let (status, body) = serve.readiness();
    assert_eq!(status, 200, "it does its work: {body}");
    assert!(body.contains(&topic) && body.contains("nothing has to be done"), "{body}");
    let events = projects.iter().flat_map(|project| {
        (0..5).map(move |n| event(&format!("{project}_{n}"), "payment.settled", project))
    });
    stage.events(&events.collect::<Vec<_>>());
    wait_until("events in all partitions arrive", PATIENCE, || {
        sink.delivered_count() == PROJECTS * 5 * 3
    });
    let used = stage.kafka.read(&topic);
    assert!(used.iter().any(|record| record.partition >= 2), "the new partitions were used");

    // Of Pro's five connectors there are three: of four more, wherever their commands land, two are made.
    let more = |c: usize, project: &String| n8n(&sink, project, &format!("conn_{c}"));
    let wanted: Vec<Value> =
        projects.iter().flat_map(|project| (3..7).map(move |c| more(c, project))).collect();
    stage.command_all(&wanted);
    let results = |stage: &Stage| -> BTreeMap<String, String> {
        let read = stage.kafka.read(&stage.topic("connectors.results"));
        let outcome = |r: &support::kafka::Read| r.json()["outcome"].as_str().unwrap().to_owned();
        read.iter().map(|result| (result.key_text(), outcome(result))).collect()
    };
    let expected = commands_written(&stage, &commands);
    wait_until("every command has its result", PATIENCE, || results(&stage).len() == expected);
    let accepted = results(&stage).values().filter(|outcome| *outcome == "accepted").count();
    assert_eq!(accepted, PROJECTS * (1 + 5), "the limit is kept across the change");
    let landed = stage.kafka.read(&commands);
    assert!(landed.iter().any(|record| record.partition >= 2), "the new partitions were used");
    serve.stop();

    // The state topic must never grow: an instance that finds it grown says so and decides nothing.
    stage.kafka.grow_topic(&stage.topic("connectors.state"), 5);
    let refused = stage.start("one");
    let log = stage.folder.path().join("one.log");
    assert!(!refused.ended());
    let words = fs::read_to_string(&log).unwrap();
    assert!(words.contains("topics.state_partitions"), "{words}");
    let told = [("DUNMORE_TOPICS__STATE_PARTITIONS", "2")];
    let mut serve = stage.start_with("one", &told);
    serve.wait_ready();
    let patch = json!({"isActive": false});
    stage.set_up(
        &projects
            .iter()
            .map(|p| update(&format!("off_{p}"), p, "conn_0", &patch))
            .collect::<Vec<_>>(),
    );
    let states = stage.kafka.read(&stage.topic("connectors.state"));
    assert!(states.iter().all(|state| state.partition < 2), "nothing is decided elsewhere");
    serve.stop();
}

/// How many different commands there are.
fn commands_written(stage: &Stage, topic: &str) -> usize {
    let read = stage.kafka.read(topic);
    let ids: std::collections::BTreeSet<String> =
        read.iter().map(|command| command.json()["id"].as_str().unwrap().to_owned()).collect();
    ids.len()
}

#[test]
fn a_view_that_is_deleted_or_damaged_is_rebuilt() {
    let Some(broker) = broker() else { return };
    let size = Size { events: 1200, projects: 60, patience: PATIENCE };
    let load = Load::new(&broker.bootstrap, &broker.unique_prefix(), size, "");
    let serve = load.serve("one");
    load.wait_until("it is at work", || load.sink.count() > 200);
    serve.stop();

    fs::remove_dir_all(load.stage.data_dir("one")).unwrap();
    let serve = load.serve("one");
    load.wait_until("it goes on with an empty folder", || load.sink.count() > 500);
    serve.stop();

    // Every file is overwritten in its middle, then cut.
    let files = files_below(&load.stage.data_dir("one"));
    assert!(files.len() >= 2, "{files:?}");
    for file in &files {
        let mut bytes = fs::read(file).unwrap();
        let third = bytes.len() / 3;
        bytes[third..2 * third].fill(0xa5);
        fs::write(file, bytes).unwrap();
    }
    let serve = load.serve("one");
    load.wait_for_the_end();
    let rebuilt = serve.count("dunmore_view_rebuilds_total", &[]);
    println!(
        "view deleted, then {} files damaged: rebuilt {rebuilt} times, 0 missing",
        files.len()
    );
    assert_eq!(rebuilt, 1, "the damage was noticed");
    serve.stop();
}

fn files_below(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files
}

/// A file system of a few MB, taken away when this is dropped.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    /// `None`, said loudly, where nobody may mount.
    fn mount(at: &'a Path) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=6m", "tmpfs"]).arg(at).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(at));
        }
        let _ =
            writeln!(std::io::stderr(), "SKIPPED: the full disk needs the right to mount tmpfs");
        None
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}

#[test]
fn a_full_disk_under_the_view_is_told_and_loses_nothing() {
    let Some(broker) = broker() else { return };
    let size = Size { events: 1200, projects: 60, patience: PATIENCE };
    let load = Load::new(&broker.bootstrap, &broker.unique_prefix(), size, "");
    let folder = load.stage.data_dir("one");
    let Some(_disk) = SmallDisk::mount(&folder) else { return };
    let serve = load.serve("one");
    load.wait_until("it is at work", || load.sink.count() > 200);

    // Everything else on the disk takes its last byte; then the view has to grow.
    let filler = folder.join("filler");
    let full = Command::new("dd")
        .args(["if=/dev/zero", "bs=64k"])
        .arg(format!("of={}", filler.display()))
        .output();
    assert!(!full.unwrap().status.success(), "the disk was to be full");
    let mut number = 0;
    let words = support::wait_for("it gives up, or takes all", PATIENCE, || {
        let commands: Vec<Value> = (0..200)
            .map(|_| {
                number += 1;
                let patch = json!({"config": {"webhookUrl": load.sink.url(&format!("/webhook/proj_{}/all", number % 60))}});
                update(&format!("cmd_more_{number}"), &format!("proj_{}", number % 60), "all", &patch)
            })
            .collect();
        load.stage.command_all(&commands);
        thread::sleep(Duration::from_millis(300));
        let log = serve.log_text();
        log.contains("the view cannot be written").then_some(log)
    });
    assert!(words.contains("disk that holds data_dir"), "{words}");
    assert!(!serve.ended(), "it ends with an error, and whatever runs it starts it again");

    let refused = load.stage.start("one");
    assert!(!refused.ended(), "a start on a full disk is refused");
    fs::remove_file(&filler).unwrap();
    let serve = load.stage.serve("one");
    load.wait_for_the_end();
    println!(
        "disk full after {number} commands, then room again: {} deliveries, 0 missing",
        load.expected.len()
    );
    serve.stop();
}

/// An instance stands still for longer than the session timeout, is replaced, and comes back.
#[test]
fn an_instance_that_was_frozen_loses_nothing_and_repeats_only_what_it_had_in_hand() {
    let Some(broker) = broker() else { return };
    let size = Size { events: 9000, projects: 60, patience: PATIENCE };
    let load = Load::new(&broker.bootstrap, &broker.unique_prefix(), size, "");
    let (frozen, other) = (load.serve("frozen"), load.serve("other"));
    load.wait_until("both are at work", || delivered(&frozen) > 500 && delivered(&other) > 500);
    let before = delivered(&frozen);
    let bound = repeat_bound(&frozen);
    let known = rebalances_of(&frozen);
    frozen.signal(Signal::SIGSTOP);
    let at_freeze = load.sink.count();
    assert!(at_freeze < load.expected.len(), "it was to happen in the middle");
    let rebalances = rebalances_of(&other);
    load.wait_until("the other takes over", || {
        rebalances_of(&other) > rebalances && load.sink.count() > at_freeze + 1000
    });
    frozen.signal(Signal::SIGCONT);
    load.wait_until("it learns that it was replaced", || rebalances_of(&frozen) > known);
    // What it delivered between the sample and now was at risk as well: whoever took over did the same.
    let late = delivered(&frozen) - before;
    load.wait_for_the_end();
    let repeats = load.sink.count() - load.expected.len();
    println!(
        "frozen after {at_freeze} of {} deliveries: 0 missing, {repeats} repeated; at risk {bound} records, {late} delivered later",
        load.expected.len()
    );
    assert!(repeats <= bound * FAN_OUT + late);
    frozen.stop();
    other.stop();
}

#[test]
fn three_instances_of_which_one_is_killed_every_few_seconds_lose_nothing() {
    const KILLS: usize = 6;
    let Some(broker) = broker() else { return };
    let size = Size { events: 24_000, projects: 60, patience: PATIENCE };
    let load = Load::new(&broker.bootstrap, &broker.unique_prefix(), size, "");
    let names = ["one", "two", "three"];
    let mut instances: Vec<Serve> = names.iter().map(|name| load.serve(name)).collect();
    let mut at_risk = 0;
    for kill in 0..KILLS {
        let target = load.expected.len() / (KILLS + 1) * (kill + 1);
        load.wait_until("the next kill is due", || load.sink.delivered_count() >= target);
        let victim = instances.remove(0);
        let (bound, before) = (repeat_bound(&victim), load.sink.count());
        victim.kill();
        // What arrived between the sample and the end of the process may be its own.
        at_risk += bound * FAN_OUT + load.sink.count() - before;
        instances.push(load.stage.start(names[kill % 3]));
    }
    load.wait_for_the_end();
    let repeats = load.sink.count() - load.expected.len();
    println!(
        "three instances, {KILLS} kills: {} deliveries, 0 missing, {repeats} repeated of at most about {at_risk}",
        load.expected.len()
    );
    for instance in instances {
        instance.stop();
    }
}

#[test]
fn an_instance_without_a_partition_is_ready_and_takes_over() {
    let Some(broker) = broker() else { return };
    let sink = Sink::start();
    let stage =
        Stage::new(&broker.bootstrap, &broker.unique_prefix(), "1s", "topics.partitions = 1");
    let one = stage.serve("one");
    let two = stage.serve("two");
    stage.set_up(&[set_tier("cmd_tier", "proj_1", "pro"), n8n(&sink, "proj_1", "conn_1")]);
    stage.events(&[event("evt_1", "payment.settled", "proj_1")]);
    wait_until("it arrives", PATIENCE, || sink.count() == 1);
    stage.wait_committed(PATIENCE);
    one.stop();
    stage.events(&[event("evt_2", "payment.settled", "proj_1")]);
    wait_until("the other one delivers", PATIENCE, || sink.count() == 2);
    two.stop();
}

/// Records that are not due for hours wait in Kafka, not in memory; and waiting is no silence: the group
/// would throw out a member that does not poll.
#[test]
fn thousands_that_are_not_due_cost_no_memory_and_hold_nobody_up() {
    const WAITING: usize = 20_000;
    let Some(broker) = broker() else { return };
    let sink = Sink::start();
    let more = "topics.partitions = 2\nkafka.properties.\"max.poll.interval.ms\" = \"6000\"";
    let stage = Stage::new(&broker.bootstrap, &broker.unique_prefix(), "200ms,6h", more);
    let serve = stage.serve("one");
    stage.set_up(&[set_tier("cmd_tier", "proj_1", "pro"), n8n(&sink, "proj_1", "conn_1")]);
    let path = "/webhook/proj_1/conn_1";
    sink.script(path, &[Reply::Status(500)], Reply::Status(200));
    stage.events(&[event("evt_1", "payment.settled", "proj_1")]);
    wait_until("the retry arrives", PATIENCE, || sink.hits_on(path).len() == 2);
    let retry = stage.kafka.read(&stage.topic("deliveries.retry.200ms")).remove(0);
    let mut record = retry.json();
    let before = serve.resident_mb();
    let far = "2099-01-01T00:00:00.000Z";
    record["dueAt"] = json!(far);
    let waiting = (0..WAITING).map(|n| Write {
        partition: Some(i32::try_from(n % 2).unwrap()),
        ..Write::new("proj_1", record.to_string())
    });
    stage.kafka.write(&stage.topic("deliveries.retry.6h"), waiting);
    let rebalances = serve.count("dunmore_rebalances_total", &[]);
    let began = Instant::now();
    let mut sent = 0;
    // Twice the poll interval, with traffic in the other tier and in the events' topic.
    while began.elapsed() < Duration::from_secs(13) {
        sent += 1;
        sink.script(path, &[Reply::Status(500)], Reply::Status(200));
        let count = sink.hits_on(path).len();
        stage.events(&[event(&format!("evt_more_{sent}"), "payment.settled", "proj_1")]);
        wait_until("first attempt and retry arrive", PATIENCE, || {
            sink.hits_on(path).len() == count + 2
        });
    }
    let grown = serve.resident_mb() - before;
    let large = WAITING * record.to_string().len() / 1_000_000;
    println!(
        "{WAITING} records of {large} MB wait for hours: {grown:.1} MB more resident, {sent} retries of another tier meanwhile"
    );
    assert_eq!(serve.count("dunmore_rebalances_total", &[]), rebalances, "it was never thrown out");
    assert_eq!(serve.count("dunmore_kafka_errors_total", &[("code", "PollExceeded")]), 0);
    // The gauge is set some ten times a second.
    wait_until("what waits is not in flight", PATIENCE, || {
        serve.count("dunmore_in_flight_deliveries", &[]) == 0
    });
    serve.stop();
}
