//! A job, and a redrive, have one runner: a second one is refused, and one that stood still writes
//! nothing when it wakes.

use std::{
    collections::BTreeSet,
    process::{Child, Output, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use super::{
    PATIENCE,
    letters::{set_up, write_letters},
    n8n, stage,
    support::{events::event, serve::Stage, wait_for, wait_until},
    text,
};

/// A child that ends with the test, however that ends.
struct Running(Option<Child>);

impl Running {
    fn start(stage: &Stage, arguments: &[&str]) -> Self {
        let mut command = stage.command(arguments);
        command.args(["--output", "json"]).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(Some(command.spawn().unwrap()))
    }

    fn signal(&self, signal: Signal) {
        let id = self.0.as_ref().unwrap().id();
        kill(Pid::from_raw(id.try_into().unwrap()), signal).unwrap();
    }

    fn end(&mut self) -> Output {
        self.0.take().unwrap().wait_with_output().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// So many events for a connector that was created after them, and no instance.
fn backlog(events: usize) -> Option<Stage> {
    let (stage, sink) = stage("1s,5s", "")?;
    let serve = stage.serve("one");
    let events: Vec<Value> = (0..events)
        .map(|number| event(&format!("evt_{number}"), "payment.settled", "proj_1"))
        .collect();
    stage.events(&events);
    stage.wait_committed(PATIENCE);
    stage.set_up(&[n8n(&sink, "one", &["payment.settled"])]);
    serve.stop();
    Some(stage)
}

fn start_job(stage: &Stage, rate: &str) -> (Running, String) {
    let running =
        Running::start(stage, &["replay", "--from", "beginning", "--yes", "--rate", rate]);
    let job = wait_for("some of it was sent", PATIENCE, || {
        let jobs = stage.run_json(&["replay", "--list"])["jobs"].as_array().unwrap().clone();
        let job = jobs.first()?;
        (job["sent"].as_u64().unwrap() >= 20).then(|| job["job"].as_str().unwrap().to_owned())
    });
    (running, job)
}

/// Each event's id in the replay topic, once for each record.
fn asked_for(stage: &Stage) -> Vec<String> {
    let records = stage.kafka.read(&stage.topic("deliveries.replay"));
    records.iter().map(|record| record.json()["eventId"].as_str().unwrap().to_owned()).collect()
}

#[track_caller]
fn assert_once(stage: &Stage, pairs: usize) {
    let written = asked_for(stage);
    let once: BTreeSet<&String> = written.iter().collect();
    assert_eq!((written.len(), once.len()), (pairs, pairs), "each pair is written once");
}

/// The records of one request at these rates, generously.
const ONE_REQUEST: usize = 10;

/// The same after a runner was frozen, which cannot rule out a request that was half sent then.
#[track_caller]
fn assert_once_but_for_a_request(stage: &Stage, pairs: usize) {
    let written = asked_for(stage);
    let once: BTreeSet<&String> = written.iter().collect();
    assert_eq!(once.len(), pairs);
    let again = written.len() - once.len();
    assert!(again <= ONE_REQUEST, "{again} pairs were written again");
}

#[test]
fn a_second_runner_is_refused_with_the_first_ones_name() {
    let Some(stage) = backlog(400) else { return };
    let (mut first, job) = start_job(&stage, "20");
    let refused = stage.run(&["replay", "--resume", &job]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let id = first.0.as_ref().unwrap().id();
    assert!(text(&refused.stderr).contains(&format!("-{id} at ")), "{refused:?}");
    first.signal(Signal::SIGINT);
    assert_eq!(first.end().status.code(), Some(1), "stopped in good order");
    let done = stage.run_json(&["replay", "--resume", &job, "--rate", "10000"]);
    assert_eq!(done["sent"], 400);
    assert_once(&stage, 400);
}

#[test]
fn of_two_resumes_at_once_one_goes_on() {
    let Some(stage) = backlog(600) else { return };
    let (mut first, job) = start_job(&stage, "100");
    first.signal(Signal::SIGKILL);
    first.end();
    let resume = || Running::start(&stage, &["replay", "--resume", &job, "--rate", "100"]);
    let mut both = [resume(), resume()];
    let ended = both.each_mut().map(Running::end);
    let good = ended.iter().filter(|output| output.status.success()).count();
    assert_eq!(good, 1, "{ended:?}");
    assert_once(&stage, 600);
    assert_eq!(stage.run_json(&["replay", "--list"])["jobs"][0]["sent"], 600);
}

#[test]
fn a_runner_that_was_frozen_writes_nothing_when_it_wakes() {
    let Some(stage) = backlog(1500) else { return };
    let (mut frozen, job) = start_job(&stage, "100");
    frozen.signal(Signal::SIGSTOP);
    let done = stage.run_json(&["replay", "--resume", &job, "--rate", "10000"]);
    assert_eq!(done["sent"], 1500);
    frozen.signal(Signal::SIGCONT);
    let woken = frozen.end();
    assert_eq!(woken.status.code(), Some(1), "{woken:?}");
    assert!(text(&woken.stderr).contains("gave this process up"), "{woken:?}");
    assert_once_but_for_a_request(&stage, 1500);
    assert_eq!(stage.run_json(&["replay", "--list"])["jobs"][0]["state"], "done");
}

#[test]
fn a_redrive_that_was_frozen_writes_nothing_when_it_wakes() {
    let Some((stage, sink)) = stage("1s,5s", "") else { return };
    set_up(&sink, &stage).stop();
    write_letters(&stage, 1500);
    let flags = ["dlq", "redrive", "--reason", "gone", "--rate"];
    let mut frozen = Running::start(&stage, &[&flags[..], &["20"]].concat());
    wait_until("some letters were sent", PATIENCE, || asked_for(&stage).len() >= 20);
    let refused = stage.run(&[&flags[..], &["20"]].concat());
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(text(&refused.stderr).contains("is running elsewhere"), "{refused:?}");
    frozen.signal(Signal::SIGSTOP);
    stage.run_json(&[&flags[..], &["10000"]].concat());
    assert_once(&stage, 300);
    frozen.signal(Signal::SIGCONT);
    let woken = frozen.end();
    assert_eq!(woken.status.code(), Some(1), "{woken:?}");
    assert_once_but_for_a_request(&stage, 300);
}
