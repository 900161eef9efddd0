//! A backfill for a new connector: it sends what its dry run told, once, whatever is killed, and
//! live traffic does not notice.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    PATIENCE, n8n, stage,
    support::{
        events::{TYPES, event},
        kafka::Read,
        serve::Stage,
        sink::Sink,
        wait_for, wait_until,
    },
    text,
};

/// How live traffic is measured.
struct Live {
    /// Deliveries a second; half of what this machine can do when it is not set.
    per_second: Option<u64>,
    /// For how long it is measured without the backfill.
    seconds: u64,
}

/// Live deliveries a second that arrive when more than that are waiting.
fn capacity(stage: &Stage, sink: &Sink) -> u64 {
    const FLOOD: usize = 20_000;
    let events: Vec<Value> =
        (0..FLOOD).map(|number| event(&format!("flood_{number}"), TYPES[2], "proj_1")).collect();
    let began = Instant::now();
    stage.events(&events);
    wait_until("the flood arrives", PATIENCE, || sink.count() >= FLOOD);
    u64::try_from(FLOOD).unwrap() * 1000 / u64::try_from(began.elapsed().as_millis()).unwrap()
}

/// What an event's delivery took, from Kafka's timestamp to the sink, in milliseconds.
fn latencies(stage: &Stage, sink: &Sink, prefix: &str) -> Vec<i64> {
    let events = stage.kafka.read(&stage.topic("payments.events"));
    let taken: BTreeMap<String, i64> = events
        .iter()
        .filter_map(|record| Some((record.json()["id"].as_str()?.to_owned(), record.timestamp)))
        .filter(|(id, _)| id.starts_with(prefix))
        .collect();
    let hits = sink.hits_on("/webhook/live");
    let mut took: Vec<i64> =
        hits.iter().filter_map(|hit| Some(hit.at_ms - taken.get(&hit.event)?)).collect();
    assert_eq!(took.len(), taken.len(), "each live event arrives once");
    took.sort_unstable();
    took
}

fn percentile(sorted: &[i64], percent: usize) -> i64 {
    sorted.get(sorted.len() * percent / 100).copied().unwrap_or_default()
}

/// Writes live events at a rate until told to end; returns how many.
fn live_traffic(
    stage: &Stage,
    prefix: &str,
    per_second: u64,
    mut goes_on: impl FnMut(Duration) -> bool,
) -> u64 {
    let began = Instant::now();
    let mut written = 0;
    while goes_on(began.elapsed()) {
        let due = u64::try_from(began.elapsed().as_millis()).unwrap() * per_second / 1000;
        let events: Vec<Value> = (written..due)
            .map(|number| event(&format!("{prefix}{number}"), TYPES[2], "proj_1"))
            .collect();
        if !events.is_empty() {
            stage.events(&events);
        }
        written = due.max(written);
        thread::sleep(Duration::from_millis(50));
    }
    written
}

/// Looks once a second: looking costs what is measured.
#[track_caller]
fn seldom(what: &str, mut holds: impl FnMut() -> bool) {
    wait_until(what, PATIENCE * 8, || {
        thread::sleep(Duration::from_secs(1));
        holds()
    });
}

fn start(stage: &Stage, arguments: &[&str]) -> Child {
    let mut command = stage.command(arguments);
    command.args(["--output", "json"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Every job that Kafka knows.
fn jobs(stage: &Stage) -> Vec<Value> {
    stage.run_json(&["replay", "--list"])["jobs"].as_array().unwrap().clone()
}

#[expect(clippy::too_many_lines, reason = "a run is read from top to bottom")]
fn run(events: usize, rate: u64, live: Option<&Live>) {
    let Some((stage, sink)) = stage("1s,5s,30s", "") else { return };
    let serve = stage.serve("one");
    stage.set_up(&[n8n(&sink, "live", &[TYPES[2]])]);
    let backlog: Vec<Value> = (0..events)
        .map(|number| event(&format!("old_{number}"), TYPES[number % 2], "proj_1"))
        .collect();
    for chunk in backlog.chunks(50_000) {
        stage.events(chunk);
    }
    // Nobody wanted them when they were read; now somebody does.
    stage.wait_committed(PATIENCE * 4);
    stage.set_up(&[n8n(&sink, "new", &["payment.verified", "payment.settled"])]);

    let choice =
        ["replay", "--from", "beginning", "--connector", "proj_1/new", "--event-type", "payment.*"];
    let told = stage.run_json(&[&choice[..], &["--dry-run"]].concat());
    assert_eq!(told["plan"]["send"], events, "{told}");
    assert_eq!(told["plan"]["connectors"][0]["new"], events, "older than the connector");
    assert_eq!(sink.count(), 0, "a dry run sends nothing");

    let per_second = live.map_or(0, |live| {
        live.per_second.unwrap_or_else(|| {
            let capacity = capacity(&stage, &sink);
            println!("live capacity: {capacity} deliveries/s");
            capacity / 2
        })
    });
    let already = sink.count();
    let before = live.map(|live| {
        let goes_on = |since: Duration| since.as_secs() < live.seconds;
        let written = live_traffic(&stage, "before_", per_second, goes_on);
        wait_until("live events arrive", PATIENCE, || {
            sink.count() >= already + usize::try_from(written).unwrap()
        });
        latencies(&stage, &sink, "before_")
    });

    // Killed twice in the middle, resumed twice.
    let rate = rate.to_string();
    let mut child = start(&stage, &[&choice[..], &["--rate", &rate]].concat());
    let began = Instant::now();
    let job = wait_for("the job is known", PATIENCE, || {
        Some(jobs(&stage).first()?["job"].as_str()?.to_owned())
    });
    let finish = || {
        for kill_at in [events / 4, events / 2] {
            seldom("a part was sent", || {
                jobs(&stage)[0]["sent"].as_u64().unwrap() >= kill_at as u64
            });
            child.kill().unwrap();
            child.wait().unwrap();
            assert_eq!(jobs(&stage)[0]["state"], "unfinished");
            child = start(&stage, &["replay", "--resume", &job, "--rate", &rate]);
        }
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let done: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(done["sent"], events, "{done}");
        seldom("replay is committed", || stage.is_committed("deliveries.replay"));
        // What its lane could not take went round by a retry tier.
        seldom("all of it has arrived", || sink.hits_on("/webhook/new").len() >= events);
        (done, began.elapsed())
    };
    let ((done, took), during) = match live {
        None => (finish(), None),
        Some(_) => thread::scope(|scope| {
            let running = scope.spawn(finish);
            live_traffic(&stage, "during_", per_second, |_| !running.is_finished());
            let finished = running.join().unwrap();
            wait_until("live events are committed", PATIENCE, || {
                stage.is_committed("payments.events")
            });
            (finished, Some(latencies(&stage, &sink, "during_")))
        }),
    };

    let asked: Vec<Value> =
        stage.kafka.read(&stage.topic("deliveries.replay")).iter().map(Read::json).collect();
    let hits = sink.hits_on("/webhook/new");
    let arrived: BTreeSet<&str> = hits.iter().map(|hit| hit.event.as_str()).collect();
    println!(
        "{events} events for one new connector in {:.1} s at {rate}/s, killed and resumed twice: {} written, \
         {} found again by the last resume, {} arrived, {} missing, {} repeated",
        took.as_secs_f64(),
        asked.len(),
        done["foundFromBefore"],
        arrived.len(),
        events - arrived.len(),
        hits.len() - arrived.len(),
    );
    if let (Some(before), Some(during)) = (before, during) {
        for (when, took) in [("without", &before), ("with", &during)] {
            println!(
                "live {when} the backfill: {} deliveries, p50 {} ms, p99 {} ms, longest {} ms",
                took.len(),
                percentile(took, 50),
                percentile(took, 99),
                took.last().unwrap()
            );
        }
    }
    assert_eq!(asked.len(), events, "each pair is written once");
    assert_eq!(arrived.len(), events, "none is missing");
    assert_eq!(hits.len(), events, "none arrives twice: no instance was killed");
    assert_eq!(jobs(&stage)[0]["state"], "done");
    assert!(serve.count("dunmore_attempts_total", &[("source", "replay")]) > 0);
    // What has arrived is left out, and the plan says so. Attempts are written without waiting.
    wait_until("the attempts are on record", PATIENCE, || {
        stage.run_json(&["deliveries", "list", "--job", &job, "--outcome", "delivered"])["total"]
            == events
    });
    let again = stage.run_json(&[&choice[..], &["--only-missing", "--yes"]].concat());
    assert_eq!((&again["plan"]["send"], &again["plan"]["delivered"]), (&0.into(), &events.into()));
    serve.stop();
}

#[test]
fn a_backfill_is_what_its_dry_run_told_though_it_is_killed_twice() {
    run(3000, 150, None);
}

/// `cargo build --release && DUNMORE_TEST_PROGRAM=target/release/dunmore cargo test --test replay -- --ignored --nocapture two_hundred_thousand`
#[test]
#[ignore = "takes ten minutes: for figures"]
fn two_hundred_thousand_events_beside_live_traffic() {
    let number = |name: &str, default: u64| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let live =
        Live { per_second: Some(number("LIVE_RATE", 0)).filter(|rate| *rate > 0), seconds: 30 };
    let events = usize::try_from(number("EVENTS", 200_000)).unwrap();
    run(events, number("REPLAY_RATE", 600), Some(&live));
}

/// `cargo build --release && DUNMORE_TEST_PROGRAM=target/release/dunmore cargo test --test replay -- --ignored --nocapture one_million`
#[test]
#[ignore = "writes a million events: for figures"]
fn one_million_events_are_selected_by_time() {
    let Some((stage, sink)) = stage("1s,5s", "") else { return };
    let serve = stage.serve("one");
    stage.set_up(&[n8n(&sink, "one", &["payment.settled"])]);
    serve.stop();
    let write = |from: usize, count: usize| {
        for start in (from..from + count).step_by(50_000) {
            let end = (start + 50_000).min(from + count);
            // A hundred projects, of which one has a connector.
            let events: Vec<Value> = (start..end)
                .map(|n| event(&format!("evt_{n}"), TYPES[1], &format!("proj_{}", n % 100 + 1)))
                .collect();
            stage.events(&events);
        }
    };
    let now = || dunmore_connectors::clock::now();
    write(0, 900_000);
    thread::sleep(Duration::from_millis(1500));
    let from = now();
    thread::sleep(Duration::from_millis(500));
    write(900_000, 100_000);
    for (what, from, records) in
        [("all", "beginning".to_owned(), 1_000_000), ("a tenth", from.to_string(), 100_000)]
    {
        for choice in [vec!["--project", "proj_1"], vec![]] {
            let arguments = [&["replay", "--dry-run", "--from", &from], &choice[..]].concat();
            let told = stage.run_json(&arguments);
            let seconds = told["scan"]["seconds"].as_f64().unwrap();
            let read = told["scan"]["records"].as_u64().unwrap();
            #[expect(clippy::cast_precision_loss, reason = "figures for people")]
            let rate = read as f64 / seconds;
            println!(
                "{what} by time {choice:?}: {read} of {} records read in {seconds:.2} s ({rate:.0}/s), {} to send",
                told["scan"]["inTopic"], told["plan"]["send"]
            );
            assert_eq!((read, &told["plan"]["send"]), (records, &(records / 100).into()));
            assert_eq!(told["scan"]["inTopic"], 1_000_000);
        }
    }
}

#[test]
fn a_replay_that_is_stopped_says_how_to_go_on() {
    let Some((stage, sink)) = stage("1s,5s", "") else { return };
    let serve = stage.serve("one");
    stage.set_up(&[n8n(&sink, "one", &["payment.settled"])]);
    serve.stop();
    let events: Vec<Value> =
        (0..200).map(|n| event(&format!("evt_{n}"), TYPES[1], "proj_1")).collect();
    stage.events(&events);
    let flags = ["--from", "beginning", "--rate", "20"];
    // Any of it may have arrived before, and nobody is there to be asked.
    let refused = stage.run(&[&["replay"], &flags[..]].concat());
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(text(&refused.stderr).contains("--yes"), "{refused:?}");
    let child = start(&stage, &[&["replay", "--yes"], &flags[..]].concat());
    wait_until("some of it was sent", PATIENCE, || {
        jobs(&stage).first().is_some_and(|job| job["sent"].as_u64().unwrap() >= 20)
    });
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let job = jobs(&stage)[0]["job"].as_str().unwrap().to_owned();
    let hint = format!("go on with: dunmore replay --resume {job}");
    assert!(text(&output.stderr).contains(&hint), "{output:?}");
    let stopped: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(stopped["job"]["state"], "stopped");
    let done = stage.run_json(&["replay", "--resume", &job, "--rate", "10000"]);
    assert_eq!((&done["sent"], &done["foundFromBefore"]), (&200.into(), &0.into()));
    assert_eq!(stage.kafka.read(&stage.topic("deliveries.replay")).len(), 200);
}
