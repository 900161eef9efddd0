//! What the forms do.

use serde_json::Value;

use super::{
    PATIENCE, TOKEN,
    browser::{Answer, Browser},
    stage,
    support::{
        events::{event, suspend},
        scene::n8n,
        serve::call,
        sink::Reply,
        wait_until,
    },
};

const SETTLED: &[&str] = &["payment.settled"];

/// Waits until a page says something.
fn wait_for_words(browser: &mut Browser, path: &str, words: &str) -> Answer {
    let mut page = None;
    wait_until(&format!("{path} says {words}"), PATIENCE, || {
        page.insert(browser.page(path)).body.contains(words)
    });
    page.unwrap()
}

fn events(first: u32, last: u32) -> Vec<Value> {
    (first..=last).map(|n| event(&format!("evt_{n}"), "payment.settled", "proj_1")).collect()
}

#[test]
fn a_connector_is_resumed_and_switched_off_and_on() {
    let Some((stage, sink)) = stage() else { return };
    let serve = stage.serve("one");
    let reason = "unauthorized: HTTP 401: revoked";
    stage.set_up(&[
        n8n(&sink, "conn_held", SETTLED),
        suspend("s_held", "proj_1", "conn_held", reason),
    ]);
    stage.events(&events(0, 4));
    let mut browser = Browser::logged_in(serve.admin);
    let path = "/console/projects/proj_1/connectors/conn_held";
    let held = wait_for_words(&mut browser, path, "5 deliveries wait");
    assert!(held.body.contains(reason), "{}", held.body);

    let answer = browser.submit(&held, &format!("{path}/resume"), &[]);
    assert_eq!((answer.status, answer.header("location")), (303, path), "{}", answer.body);
    let resumed = browser.page(path);
    assert!(resumed.body.contains("is active"), "what was done is seen at once:\n{}", resumed.body);
    wait_until("what was held goes out", PATIENCE, || sink.count() == 5);
    wait_for_words(&mut browser, path, "delivered");

    let off = browser.submit(&resumed, &format!("{path}/active"), &[]);
    assert_eq!(off.status, 303, "{}", off.body);
    let off = browser.page(path);
    assert!(off.body.contains("is switched off"), "{}", off.body);
    let on = browser.submit(&off, &format!("{path}/active"), &[]);
    assert_eq!(on.status, 303, "{}", on.body);
    assert!(browser.page(path).body.contains("is active"));
    assert_eq!(browser.submit(&off, &format!("{path}/active"), &[("active", "maybe")]).status, 400);

    // It is on record, with who did it.
    let told = stage.run_json(&["connector", "history", "proj_1", "conn_held"]);
    let changes = told["history"].as_array().unwrap();
    let by_console: Vec<&str> = changes
        .iter()
        .filter(|change| change["actor"] == "console")
        .map(|change| change["type"].as_str().unwrap())
        .collect();
    assert_eq!(by_console, ["connector.resume", "connector.update", "connector.update"], "{told}");
    let history = browser.page("/console/projects/proj_1/history?connector=conn_held");
    assert!(history.body.contains("<td>console</td>"), "{}", history.body);
    let log = serve.log_text();
    let audit = log.lines().find(|line| line.contains("audit") && line.contains("/resume"));
    let audit = audit.unwrap();
    for words in ["console", "proj_1", "conn_held", "done"] {
        assert!(audit.contains(words), "{words} in {audit}");
    }
    serve.stop();
}

#[test]
fn a_heap_of_dead_letters_is_sent_again_after_its_plan() {
    let Some((stage, sink)) = stage() else { return };
    let serve = stage.serve("one");
    let hook = "/webhook/conn_1";
    sink.script(hook, &[], Reply::Status(422));
    stage.set_up(&[n8n(&sink, "conn_1", SETTLED)]);
    stage.events(&events(0, 5));
    let mut browser = Browser::logged_in(serve.admin);
    wait_for_words(&mut browser, "/console/letters", "6 dead letters wait");
    sink.script(hook, &[], Reply::Status(200));

    let path = "/console/letters/redrive?type=n8n&reason=rejected";
    let plan = browser.page(path);
    assert!(plan.body.contains("A redrive would send 6 of 6 letters"), "{}", plan.body);
    assert!(plan.body.contains("Send 6 again"), "{}", plan.body);
    assert_eq!(sink.delivered_count(), 0, "a plan sends nothing");
    let wrong = browser.submit(&plan, "/console/letters/redrive", &[("rate", "0")]);
    assert_eq!(wrong.status, 400, "{}", wrong.body);

    let answer = browser.submit(&plan, "/console/letters/redrive", &[("canary", "20%")]);
    assert_eq!(answer.status, 303, "{}", answer.body);
    let job = answer.header("location").to_owned();
    assert!(job.starts_with("/console/jobs/redrive-"), "{job}");
    wait_until("they arrive", PATIENCE, || sink.delivered_count() == 6);
    let done = wait_for_words(&mut browser, &job, "has ended");
    assert!(done.body.contains("How it ended here"), "{}", done.body);
    wait_for_words(&mut browser, "/console/letters", "No dead letters wait");
    let heap = browser.page("/console/letters/heap?type=n8n&reason=rejected");
    assert!(heap.body.contains("The latest 6 of 6: 0 wait, "), "{}", heap.body);
    assert!(heap.body.contains("; 6 were redriven."), "{}", heap.body);

    // Once more only when that is meant.
    let again = browser.page(&format!("{path}&which=again"));
    assert!(again.body.contains("would arrive twice"), "{}", again.body);
    let refused = browser.submit(&again, "/console/letters/redrive", &[]);
    assert_eq!(refused.status, 409, "{}", refused.body);
    let sent = browser.submit(&again, "/console/letters/redrive", &[("confirm", "true")]);
    assert_eq!(sent.status, 303, "{}", sent.body);
    wait_until("they arrive twice", PATIENCE, || sink.hits_on(hook).len() == 18);
    serve.stop();
}

#[test]
fn a_canary_that_fails_again_is_told_and_its_letters_count_as_waiting() {
    let Some((stage, sink)) = stage() else { return };
    let serve = stage.serve("one");
    sink.script("/webhook/conn_1", &[], Reply::Status(422));
    stage.set_up(&[n8n(&sink, "conn_1", SETTLED)]);
    stage.events(&events(0, 3));
    let mut browser = Browser::logged_in(serve.admin);
    wait_for_words(&mut browser, "/console/letters", "4 dead letters wait");
    let plan = browser.page("/console/letters/redrive?type=n8n&reason=rejected");
    let answer = browser.submit(&plan, "/console/letters/redrive", &[("canary", "50%")]);
    assert_eq!(answer.status, 303, "{}", answer.body);
    let job = answer.header("location").to_owned();
    let failed = wait_for_words(&mut browser, &job, "has ended: its canary failed");
    for words in [
        "<span class=\"state failing\">canary failed</span>",
        "the canary failed again (2 rejected); the rest was not sent",
    ] {
        assert!(failed.body.contains(words), "{words} in\n{}", failed.body);
    }
    let get = |path: &str| call(serve.admin, Some(TOKEN), "GET", path, &Value::Null).1;
    let id = job.rsplit('/').next().unwrap();
    let told = get(&format!("/admin/v1/redrives/{id}"));
    assert_eq!((&told["state"], &told["sent"]), (&"canary_failed".into(), &2.into()), "{told}");
    assert_eq!(told["canary"]["failed"]["rejected"], 2, "{told}");

    // Two were redriven, and came back: they wait with the two that were not sent.
    let heap = browser.page("/console/letters/heap?type=n8n&reason=rejected").body;
    for words in [
        "4 dead letters wait here",
        "The latest 6 of 6: 4 wait, of them 2 that failed again after a redrive; 2 were redriven.",
        "Plan to send 2 again",
        "Plan to send the 2 that failed again",
    ] {
        assert!(heap.contains(words), "{words} in\n{heap}");
    }
    wait_for_words(&mut browser, "/console/letters", "4 dead letters wait");
    let letters = get("/admin/v1/dead-letters?reason=rejected");
    let counts = &letters["reasons"][0];
    assert_eq!((&letters["total"], &counts["redriven"]), (&6.into(), &2.into()), "{letters}");
    assert_eq!(counts["failedAgain"], 2, "{letters}");
    serve.stop();
}

#[test]
fn a_window_is_replayed_stopped_and_resumed() {
    let Some((stage, sink)) = stage() else { return };
    let serve = stage.serve("one");
    stage.events(&events(0, 199));
    stage.wait_committed(PATIENCE);
    // Nothing went out: there was no connector yet.
    stage.set_up(&[n8n(&sink, "conn_1", SETTLED)]);
    let mut browser = Browser::logged_in(serve.admin);
    let wrong = browser.get("/console/replays/plan?from=&to=");
    assert_eq!(wrong.status, 400);
    assert!(wrong.body.contains("say from when"), "{}", wrong.body);
    let fields = "from=beginning&to=&offsets=&project=proj_1&connector=conn_1&type=&eventType=\
                  &includeUnknown=true&onlyMissing=true&rate=5";
    let plan = browser.page(&format!("/console/replays/plan?{fields}"));
    assert!(plan.body.contains("A replay would send 200 deliveries"), "{}", plan.body);
    assert!(plan.body.contains("Send 200 deliveries"), "{}", plan.body);
    assert_eq!(sink.count(), 0, "a plan sends nothing");

    let answer = browser.submit(&plan, "/console/replays", &[("confirm", "true")]);
    assert_eq!(answer.status, 303, "{}", answer.body);
    let job = answer.header("location").to_owned();
    wait_until("some arrived", PATIENCE, || sink.count() >= 3);
    let running = wait_for_words(&mut browser, &job, "runs on this instance");
    let stopped = browser.submit(&running, &format!("{job}/stop"), &[]);
    assert_eq!(stopped.status, 303, "{}", stopped.body);
    let stopped = wait_for_words(&mut browser, &job, "Go on with the job");
    assert!(sink.count() < 200, "it was stopped before its end");
    let list = browser.page("/console/replays");
    assert!(list.body.contains("one job is unfinished"), "{}", list.body);
    assert_eq!(browser.submit(&running, &format!("{job}/stop"), &[]).status, 409);

    let resumed = browser.submit(&stopped, &format!("{job}/resume"), &[("rate", "1000")]);
    assert_eq!(resumed.status, 303, "{}", resumed.body);
    wait_until("all arrived", PATIENCE, || sink.delivered_count() == 200);
    let done = wait_for_words(&mut browser, &job, "is done");
    assert!(!done.body.contains("Go on with the job"), "{}", done.body);
    assert_eq!(sink.count(), 200, "each once");
    serve.stop();
}
