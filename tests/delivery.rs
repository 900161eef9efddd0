//! Delivery on a real broker: everything arrives, once, and what cannot arrive ends where it should.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use dunmore_connectors::{
    delivery::DeliveryRecord,
    id::{ConnectorId, ConnectorKey, DeliveryId, EventId, ProjectId},
    redact::LEFT_OUT,
};
use serde_json::{Value, json};
use support::{
    broker::broker,
    events::{TYPES, create, delete, event, set_tier, update},
    kafka::Write,
    scene::{n8n, stage},
    serve::Stage,
    sink::{Hit, Reply, Sink},
    wait_for, wait_until,
};

const PATIENCE: Duration = Duration::from_secs(60);

fn delivery_id(project: &str, connector: &str, event: &str) -> String {
    let key = ConnectorKey {
        project: ProjectId::parse(project).unwrap(),
        connector: ConnectorId::parse(connector).unwrap(),
    };
    DeliveryId::new(&key, &EventId::parse(event).unwrap()).to_string()
}

#[test]
fn twenty_thousand_events_reach_a_thousand_connectors_exactly() {
    const PROJECTS: usize = 200;
    const EVENTS: usize = 20_000;
    let Some(broker) = broker() else { return };
    let sink = Sink::start();
    let more = sink.base_urls(&["zapier", "make", "slack"]);
    let stage = Stage::new(&broker.bootstrap, &broker.unique_prefix(), "1s,5s,30s", &more);
    let serve = stage.serve("one");

    // Five connectors in each project: every type, and each event type is wanted by one or two.
    let mut commands = Vec::new();
    let mut wanted: Vec<Vec<(String, String, Vec<&str>)>> = Vec::new();
    for p in 0..PROJECTS {
        let project = format!("proj_{p}");
        commands.push(set_tier(&format!("cmd_{p}"), &project, "enterprise"));
        let connectors = [
            ("n8n", sink.url(&format!("/webhook/p{p}")), vec![TYPES[0], TYPES[1]]),
            ("zapier", format!("https://hooks.zapier.com/hooks/catch/{p}/abcdef/"), vec![TYPES[1]]),
            ("make", format!("https://hook.eu1.make.com/abcdefghijklm{p}"), vec![TYPES[2]]),
            (
                "slack",
                format!("https://hooks.slack.com/services/T{p}/B1/secret{p}"),
                vec![TYPES[7], TYPES[3]],
            ),
            ("n8n", sink.url(&format!("/webhook/all/p{p}")), vec!["*"]),
        ];
        let mut of_project = Vec::new();
        for (c, (kind, url, types)) in connectors.into_iter().enumerate() {
            let connector = format!("conn_{c}");
            let id = format!("cmd_{p}_{c}");
            commands.push(create(&id, &project, &connector, kind, &url, &types));
            let path = url::Url::parse(&url).unwrap().path().to_owned();
            of_project.push((connector, path, types));
        }
        wanted.push(of_project);
    }
    stage.set_up(&commands);
    let connectors = 5 * PROJECTS;
    wait_until("the view has all connectors", PATIENCE, || {
        serve.count("dunmore_view_connectors", &[]) == connectors
    });

    let mut expected = BTreeMap::new();
    let events: Vec<Value> = (0..EVENTS)
        .map(|number| {
            let (p, kind) = (number % PROJECTS, TYPES[(number / PROJECTS) % TYPES.len()]);
            let (id, project) = (format!("evt_{number}"), format!("proj_{p}"));
            for (connector, path, types) in &wanted[p] {
                if types.contains(&kind) || types.contains(&"*") {
                    let delivery = delivery_id(&project, connector, &id);
                    expected.insert((id.clone(), path.clone()), delivery);
                }
            }
            event(&id, kind, &project)
        })
        .collect();
    let began = Instant::now();
    stage.events(&events);
    wait_until("everything is delivered", Duration::from_secs(180), || {
        sink.count() >= expected.len()
    });
    let took = began.elapsed();
    stage.wait_committed(PATIENCE);
    // What went round by a retry tier is done as well.
    for tier in ["1s", "5s", "30s"] {
        wait_until("the retry tier is committed to the end", PATIENCE, || {
            stage.is_committed(&format!("deliveries.retry.{tier}"))
        });
    }

    let hits = sink.hits();
    let arrived: BTreeSet<(String, String)> = hits.iter().map(Hit::pair).collect();
    let missing = expected.keys().filter(|pair| !arrived.contains(pair)).count();
    let unexpected = arrived.iter().filter(|pair| !expected.contains_key(*pair)).count();
    println!(
        "{EVENTS} events, {PROJECTS} projects, {connectors} connectors: {} deliveries expected, {} \
         requests arrived, {missing} missing, {unexpected} unexpected, {} repeated, {:.1} s, \
         {:.0} deliveries/s, {} put off by full lanes",
        expected.len(),
        hits.len(),
        hits.len() - arrived.len(),
        took.as_secs_f64(),
        f64::from(u32::try_from(expected.len()).unwrap()) / took.as_secs_f64(),
        serve.count("dunmore_deliveries_total", &[("outcome", "deferred")]),
    );
    assert_eq!((missing, unexpected), (0, 0));
    assert_eq!(hits.len(), expected.len(), "nothing may arrive twice");
    for hit in hits.iter().filter(|hit| !hit.path.starts_with("/services/")) {
        assert_eq!(hit.delivery, expected[&hit.pair()], "{}", hit.path);
    }
    let labels = [("outcome", "delivered")];
    assert_eq!(serve.count("dunmore_deliveries_total", &labels), expected.len());
    assert_eq!(serve.count("dunmore_events_consumed_total", &[]), EVENTS);
    assert_eq!(stage.kafka.read(&stage.topic("deliveries.dead")).len(), 0);
    serve.stop();
    stage.wait_committed(PATIENCE);
}

#[test]
fn two_failures_are_mended_by_the_retry_tiers() {
    let Some((stage, sink)) = stage("200ms,400ms,800ms", "") else { return };
    let serve = stage.serve("one");
    stage.set_up(&[n8n(&sink, "conn_1", &["*"])]);
    sink.script("/webhook/conn_1", &[Reply::Status(500), Reply::Status(503)], Reply::Status(200));
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = vec![("traceparent".to_owned(), trace.to_owned())];
    let payment = event("evt_1", "payment.settled", "proj_1");
    let record = Write { headers, ..Write::new("proj_1", payment.to_string()) };
    stage.kafka.write(&stage.topic("payments.events"), [record]);

    wait_until("the third attempt arrives", PATIENCE, || sink.count() == 3);
    stage.wait_committed(PATIENCE);
    let hits = sink.hits();
    let attempts: Vec<&str> = hits.iter().map(|hit| hit.attempt.as_str()).collect();
    assert_eq!(attempts, ["1", "2", "3"]);
    for hit in &hits {
        assert_eq!(hit.delivery, delivery_id("proj_1", "conn_1", "evt_1"));
        assert_eq!(hit.traceparent, trace);
        assert_eq!(hit.body, payment.to_string().as_bytes());
    }
    assert!(hits[1].at - hits[0].at >= Duration::from_millis(200));
    assert!(hits[2].at - hits[1].at >= Duration::from_millis(400));
    for (tier, attempts) in [("200ms", 1), ("400ms", 2)] {
        let waiting = stage.kafka.read(&stage.topic(&format!("deliveries.retry.{tier}")));
        assert_eq!(waiting.len(), 1, "{tier}");
        assert_eq!(waiting[0].key_text(), "proj_1");
        let record = DeliveryRecord::from_json(waiting[0].value.as_deref().unwrap()).unwrap();
        assert_eq!(record.attempts, attempts);
    }
    wait_until("every step is counted", PATIENCE, || {
        let count = |outcome| serve.count("dunmore_deliveries_total", &[("outcome", outcome)]);
        (count("delivered"), count("retry"), count("dead")) == (1, 2, 0)
    });
    serve.stop();
    let attempts = stage.kafka.read(&stage.topic("deliveries.attempts"));
    let outcomes: Vec<Value> = attempts.iter().map(|a| a.json()["outcome"].clone()).collect();
    assert_eq!(outcomes, ["retry", "retry", "delivered"]);
}

#[test]
fn what_fails_to_the_end_is_a_dead_letter_with_all_headers() {
    let Some((stage, sink)) = stage("200ms,400ms", "") else { return };
    let serve = stage.serve("one");
    stage.set_up(&[n8n(&sink, "conn_1", &["*"])]);
    sink.script("/webhook/conn_1", &[], Reply::Status(500));
    let payment = event("evt_1", "payment.settled", "proj_1");
    stage.events(std::slice::from_ref(&payment));

    let dead = wait_for("there is a dead letter", PATIENCE, || {
        stage.kafka.read(&stage.topic("deliveries.dead")).pop()
    });
    assert_eq!(sink.count(), 3, "one attempt and one per tier");
    let events = stage.kafka.read(&stage.topic("payments.events"));
    let source = &events[0];
    let expected = [
        ("dunmore-error-reason", "server_error".to_owned()),
        ("dunmore-error-detail", format!("after 3 attempts: HTTP 500: {LEFT_OUT}")),
        ("dunmore-source-topic", stage.topic("payments.events")),
        ("dunmore-source-partition", source.partition.to_string()),
        ("dunmore-source-offset", source.offset.to_string()),
        ("dunmore-attempts", "3".to_owned()),
        ("dunmore-connector-id", "conn_1".to_owned()),
        ("dunmore-connector-type", "n8n".to_owned()),
    ];
    let expected: BTreeMap<String, String> =
        expected.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    assert_eq!(dead.headers, expected);
    assert_eq!(dead.key_text(), "proj_1");
    let record = DeliveryRecord::from_json(dead.value.as_deref().unwrap()).unwrap();
    assert_eq!(record.delivery_id.to_string(), delivery_id("proj_1", "conn_1", "evt_1"));
    assert_eq!(record.event.json, payment.to_string().as_bytes());
    assert_eq!((record.attempts, record.connector.connector.as_str()), (3, "conn_1"));
    wait_until("the dead letter is counted", PATIENCE, || {
        let labels = [("type", "n8n"), ("reason", "server_error")];
        serve.count("dunmore_dead_letters_total", &labels) == 1
    });
    serve.stop();
    assert!(stage.is_committed("payments.events"));
    assert!(stage.is_committed("deliveries.retry.400ms"));
}

#[test]
fn a_gone_connector_is_suspended_until_its_configuration_changes() {
    let Some((stage, sink)) = stage("300ms,1s,3s,10s", "") else { return };
    let serve = stage.serve("one");
    stage.set_up(&[n8n(&sink, "conn_1", &["*"])]);
    sink.script("/webhook/conn_1", &[], Reply::Status(410));
    stage.events(&[event("evt_1", "payment.settled", "proj_1")]);
    let suspended = wait_for("the connector is suspended", PATIENCE, || {
        let shown = stage.run_json(&["connector", "get", "proj_1", "conn_1"]);
        shown["suspendedReason"].as_str().map(str::to_owned)
    });
    assert!(suspended.starts_with("gone: HTTP 410"), "{suspended}");
    assert_eq!(sink.count(), 1);

    // Both the one that found it gone and a later one wait, without a request.
    stage.events(&[event("evt_2", "payment.settled", "proj_1")]);
    wait_until("both are held", PATIENCE, || held(&serve) == 2);
    assert_eq!(sink.count(), 1, "no request may go to a gone connector");

    let patch = json!({"config": {"webhookUrl": sink.url("/webhook/new")}});
    stage.set_up(&[update("cmd_new", "proj_1", "conn_1", &patch)]);
    wait_until("both arrive at the new address", PATIENCE, || {
        sink.hits_on("/webhook/new").len() == 2
    });
    let shown = stage.run_json(&["connector", "get", "proj_1", "conn_1"]);
    assert_eq!(shown.get("suspendedReason"), None, "{shown}");
    assert_eq!(shown["isActive"], true);
    let attempts: BTreeMap<String, String> =
        sink.hits_on("/webhook/new").into_iter().map(|hit| (hit.event, hit.attempt)).collect();
    assert_eq!(attempts["evt_1"], "2", "waiting uses up no attempt");
    assert_eq!(attempts["evt_2"], "1");
    assert_eq!(sink.hits_on("/webhook/conn_1").len(), 1);
    serve.stop();
    assert_eq!(stage.kafka.read(&stage.topic("deliveries.dead")).len(), 0);
}

fn held(serve: &support::serve::Serve) -> usize {
    serve.count("dunmore_deliveries_held", &[("type", "n8n")])
}

/// Whatever their number they wait without being written again, and nothing of them is lost when
/// the instance is killed while they are released.
#[test]
fn deliveries_of_a_suspended_connector_are_held_and_released_once_it_is_resumed() {
    const EVENTS: usize = 3_000;
    const MOST_REPEATED: usize = 200;
    let Some((stage, sink)) = stage("300ms,1s", "") else {
        return;
    };
    let serve = stage.serve("one");
    stage.set_up(&[n8n(&sink, "conn_1", &["*"]), n8n(&sink, "conn_2", &["*"])]);
    sink.script("/webhook/conn_1", &[], Reply::Status(410));
    stage.events(&[event("evt_first", "payment.settled", "proj_1")]);
    wait_until("the first one is held", PATIENCE, || held(&serve) == 1);
    let events = (0..EVENTS).map(|n| event(&format!("evt_{n}"), "payment.settled", "proj_1"));
    stage.events(&events.collect::<Vec<_>>());
    wait_until("all are held", PATIENCE, || held(&serve) == EVENTS + 1);
    assert_eq!(sink.hits_on("/webhook/conn_1").len(), 1, "no request without its owner");
    serve.stop();
    assert_eq!(stage.kafka.read(&stage.topic("deliveries.held")).len(), EVENTS + 1);

    // What is held is known again after a start.
    let serve = stage.serve("two");
    wait_until("all are counted", PATIENCE, || held(&serve) == EVENTS + 1);
    sink.script("/webhook/conn_1", &[], Reply::Status(200));
    stage.set_up(&[json!({"id": "cmd_resume", "type": "connector.resume",
        "projectId": "proj_1", "connectorId": "conn_1"})]);
    let arrived = || sink.hits_on("/webhook/conn_1").len() - 1;
    wait_until("some arrive", PATIENCE, || arrived() > 100);
    serve.kill();
    let serve = stage.serve("three");
    let each = |path: &str, refused: usize| {
        let hits = sink.hits_on(path);
        hits.into_iter().skip(refused).map(|hit| hit.event).collect::<BTreeSet<_>>().len()
    };
    wait_until("all have arrived", PATIENCE, || each("/webhook/conn_1", 1) == EVENTS + 1);
    wait_until("nothing is held", PATIENCE, || held(&serve) == 0);
    wait_until("nothing is under way", PATIENCE, || stage.is_committed("deliveries.replay"));
    serve.stop();
    // Beside what was being released there is what was under way when the instance was killed.
    let repeated = arrived() - (EVENTS + 1);
    println!("{repeated} repeated");
    assert!(repeated <= MOST_REPEATED + 1_000, "{repeated}");
    assert_eq!(each("/webhook/conn_2", 0), EVENTS + 1, "its neighbour got everything");
    assert_eq!(stage.kafka.read(&stage.topic("deliveries.dead")).len(), 0);
}

#[test]
fn what_is_held_for_too_long_is_a_dead_letter_that_says_so() {
    let Some((stage, sink)) = stage("300ms,1s", "delivery.hold = \"3s\"") else { return };
    let serve = stage.serve("one");
    stage.set_up(&[n8n(&sink, "conn_1", &["*"])]);
    sink.script("/webhook/conn_1", &[], Reply::Status(410));
    let events = (0..20).map(|n| event(&format!("evt_{n}"), "payment.settled", "proj_1"));
    stage.events(&events.collect::<Vec<_>>());
    let dead = || stage.kafka.read(&stage.topic("deliveries.dead"));
    wait_until("all are dead letters", PATIENCE, || dead().len() == 20);
    for letter in dead() {
        let reason = letter.header("dunmore-error-reason");
        let detail = letter.header("dunmore-error-detail");
        assert_eq!(reason, "suspended", "{detail}");
        assert!(detail.starts_with("held for 3s"), "{detail}");
    }
    wait_until("nothing is held", PATIENCE, || held(&serve) == 0);
    serve.stop();
}

#[test]
fn what_nobody_wants_any_more_when_it_falls_due_is_cancelled() {
    let Some((stage, sink)) = stage("3s", "") else { return };
    let serve = stage.serve("one");
    let names = ["deleted", "disabled", "unsubscribed"];
    stage.set_up(&names.map(|name| n8n(&sink, name, &["payment.settled"])));
    for name in names {
        sink.script(&format!("/webhook/{name}"), &[], Reply::Status(500));
    }
    stage.events(&[event("evt_1", "payment.settled", "proj_1")]);
    wait_until("all three wait in the tier", PATIENCE, || {
        serve.count("dunmore_retries_total", &[("tier", "3s")]) == 3
    });
    stage.set_up(&[
        delete("cmd_d", "proj_1", "deleted"),
        update("cmd_e", "proj_1", "disabled", &json!({"isActive": false})),
        update("cmd_f", "proj_1", "unsubscribed", &json!({"eventTypes": ["payment.failed"]})),
    ]);
    wait_until("all three are cancelled", PATIENCE, || {
        serve.count("dunmore_deliveries_total", &[("outcome", "cancelled")]) == 3
    });
    wait_until("the tier is committed to the end", PATIENCE, || {
        stage.is_committed("deliveries.retry.3s")
    });
    assert_eq!(sink.count(), 3, "only the first attempts arrived");
    serve.stop();
    let attempts = stage.kafka.read(&stage.topic("deliveries.attempts"));
    let reasons: BTreeMap<String, String> = attempts
        .iter()
        .map(support::kafka::Read::json)
        .filter(|attempt| attempt["outcome"] == "cancelled")
        .map(|a| (a["connectorId"].to_string(), a["reason"].to_string()))
        .collect();
    let expected = [
        ("\"deleted\"", "\"connector_deleted\""),
        ("\"disabled\"", "\"connector_disabled\""),
        ("\"unsubscribed\"", "\"unsubscribed\""),
    ];
    assert_eq!(reasons, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
}

#[test]
fn retry_after_chooses_the_first_tier_that_is_not_shorter() {
    let Some((stage, sink)) = stage("100ms,2500ms,60s", "") else { return };
    let serve = stage.serve("one");
    stage.set_up(&[n8n(&sink, "conn_1", &["*"])]);
    let slow_down = Reply::RetryAfter(429, "2".to_owned());
    sink.script("/webhook/conn_1", &[slow_down], Reply::Status(200));
    stage.events(&[event("evt_1", "payment.settled", "proj_1")]);
    wait_until("the second attempt arrives", PATIENCE, || sink.count() == 2);
    let hits = sink.hits();
    assert!(hits[1].at - hits[0].at >= Duration::from_secs(2), "before the destination allowed it");
    let labels = [("tier", "2500ms"), ("reason", "rate_limited")];
    assert_eq!(serve.count("dunmore_retries_total", &labels), 1);
    assert_eq!(serve.count("dunmore_retries_total", &[]), 1);
    serve.stop();
}

/// docs/RELIABILITY.md, row by row: what is answered, how often it is asked, and what it ends as.
#[test]
#[expect(clippy::too_many_lines, reason = "one table, read as a whole")]
fn answers_have_the_ends_that_the_documentation_says() {
    struct Row {
        name: &'static str,
        first: Vec<Reply>,
        then: Reply,
        requests: usize,
        /// The least milliseconds before each further request.
        waits: &'static [u64],
        end: End,
    }
    #[derive(Clone, Copy, PartialEq)]
    enum End {
        Delivered,
        Dead(&'static str),
        Suspended,
    }
    const TIERS: &[u64] = &[300, 600];
    let Some((stage, sink)) = stage("300ms,600ms", "") else { return };
    let serve = stage.serve("one");
    let after = |status, seconds: &str| Reply::RetryAfter(status, seconds.to_owned());
    let fails = |name, status, reason| {
        let then = Reply::Status(status);
        Row { name, first: vec![], then, requests: 3, waits: TIERS, end: End::Dead(reason) }
    };
    let once = |name, status, end| Row {
        name,
        first: vec![],
        then: Reply::Status(status),
        requests: 1,
        waits: &[],
        end,
    };
    let mended = |name, first: Vec<Reply>, waits| {
        let requests = first.len() + 1;
        Row { name, first, then: Reply::Status(200), requests, waits, end: End::Delivered }
    };
    let redirect = Reply::Redirect(307, "https://elsewhere.example/secret".to_owned());
    let rows = [
        once("ok", 200, End::Delivered),
        once("accepted", 202, End::Delivered),
        once("refused", 400, End::Dead("rejected")),
        once("unprocessable", 422, End::Dead("rejected")),
        once("too_large", 413, End::Dead("payload_too_large")),
        once("unauthorized", 401, End::Suspended),
        once("gone", 410, End::Suspended),
        // Doubtful ones: they suspend only when they are many.
        fails("forbidden", 403, "unauthorized"),
        fails("not_found", 404, "not_ready"),
        Row { then: redirect, ..fails("redirected", 307, "redirected") },
        fails("down", 500, "server_error"),
        fails("unavailable", 503, "server_error"),
        mended("mended", vec![Reply::Status(500), Reply::Status(503)], TIERS),
        // Whatever the status: what is asked for is waited for, in several rounds, for one step.
        mended("wait_503", vec![after(503, "2"), Reply::Status(500)], &[2_000, 600]),
        mended("wait_500", vec![after(500, "1"), after(500, "1")], &[1_000, 1_000]),
        mended("wait_408", vec![after(408, "2")], &[2_000]),
        mended("wait_429", vec![after(429, "2")], &[2_000]),
        mended("wait_403", vec![after(403, "2")], &[2_000]),
        // The tiers are used up, and the moment that it named is waited for once more.
        mended(
            "wait_last",
            vec![Reply::Status(500), Reply::Status(500), after(503, "2")],
            &[300, 600, 2_000],
        ),
        Row {
            name: "wait_always",
            first: vec![],
            then: after(503, "1"),
            requests: 4,
            waits: &[1_000, 1_000, 1_000],
            end: End::Dead("server_error"),
        },
    ];
    stage.set_up(&rows.each_ref().map(|row| n8n(&sink, row.name, &["*"])));
    for row in &rows {
        sink.script(&format!("/webhook/{}", row.name), &row.first, row.then.clone());
    }
    stage.events(&[event("evt_1", "payment.settled", "proj_1")]);

    let expected = |end: fn(End) -> bool| rows.iter().filter(move |row| end(row.end)).count();
    let dead = || stage.kafka.read(&stage.topic("deliveries.dead"));
    wait_until("all that end have ended", PATIENCE, || {
        let delivered = serve.count("dunmore_deliveries_total", &[("outcome", "delivered")]);
        delivered == expected(|end| end == End::Delivered)
            && dead().len() == expected(|end| matches!(end, End::Dead(_)))
    });
    let suspended = |name: &str| {
        let shown = stage.run_json(&["connector", "get", "proj_1", name]);
        shown["suspendedReason"].is_string()
    };
    for row in rows.iter().filter(|row| row.end == End::Suspended) {
        wait_until("it is suspended", PATIENCE, || suspended(row.name));
    }
    let letters: BTreeMap<String, (String, String)> = dead()
        .iter()
        .map(|letter| {
            let header = |name: &str| letter.header(name).to_owned();
            let why = (header("dunmore-error-reason"), header("dunmore-error-detail"));
            (header("dunmore-connector-id"), why)
        })
        .collect();
    for row in &rows {
        let hits = sink.hits_on(&format!("/webhook/{}", row.name));
        assert_eq!(hits.len(), row.requests, "{}", row.name);
        for (pair, wait) in hits.windows(2).zip(row.waits) {
            let waited = pair[1].at - pair[0].at;
            assert!(waited >= Duration::from_millis(*wait), "{}: {waited:?}", row.name);
        }
        let told = letters.get(row.name).map(|(reason, _)| reason.as_str());
        let reason = if let End::Dead(reason) = row.end { Some(reason) } else { None };
        assert_eq!(told, reason, "{}", row.name);
        assert_eq!(suspended(row.name), row.end == End::Suspended, "{}", row.name);
    }
    let (_, detail) = &letters["redirected"];
    assert!(detail.contains("elsewhere.example") && !detail.contains("secret"), "{detail}");
    serve.stop();
}

#[test]
fn a_wait_that_is_asked_for_holds_the_whole_connector() {
    const EVENTS: usize = 40;
    for status in [503, 408, 502] {
        let Some((stage, sink)) = stage("200ms,400ms", "") else { return };
        let serve = stage.serve("one");
        stage.set_up(&[n8n(&sink, "conn_1", &["*"])]);
        // Two requests may be under way to a destination that has not answered yet.
        let later = Reply::RetryAfter(status, "4".to_owned());
        sink.script("/webhook/conn_1", &[later.clone(), later], Reply::Status(200));
        let events = (0..EVENTS).map(|n| event(&format!("evt_{n}"), "payment.settled", "proj_1"));
        stage.events(&events.collect::<Vec<_>>());
        wait_until("all arrive", PATIENCE, || sink.delivered_count() == EVENTS);
        let hits = sink.hits();
        let early = hits.iter().filter(|hit| hit.at - hits[0].at < Duration::from_millis(3_900));
        assert!(early.count() <= 2, "{status}");
        assert_eq!(hits.len(), EVENTS + hits.iter().filter(|hit| hit.status == status).count());
        serve.stop();
        assert_eq!(stage.kafka.read(&stage.topic("deliveries.dead")).len(), 0, "{status}");
    }
}

#[test]
fn an_open_circuit_ends_nothing_that_was_not_asked_for() {
    const EVENTS: usize = 60;
    let Some((stage, sink)) = stage("200ms,400ms", "") else { return };
    let serve = stage.serve("one");
    stage.set_up(&[n8n(&sink, "conn_1", &["*"])]);
    sink.script("/webhook/conn_1", &[], Reply::Status(500));
    let events = (0..EVENTS).map(|n| event(&format!("evt_{n}"), "payment.settled", "proj_1"));
    stage.events(&events.collect::<Vec<_>>());
    // The circuit opens, and its first probe fails as well: far longer than both tiers.
    wait_until("a probe has failed", PATIENCE, || {
        let hits = sink.hits();
        hits.last().is_some_and(|last| last.at - hits[0].at > Duration::from_secs(4))
    });
    let failed = sink.count();
    assert!(failed < 10, "{failed} requests while it was down");
    sink.script("/webhook/conn_1", &[], Reply::Status(200));
    wait_until("all arrive", PATIENCE, || sink.delivered_count() == EVENTS);
    serve.stop();
    assert_eq!(stage.kafka.read(&stage.topic("deliveries.dead")).len(), 0);
}

#[test]
fn a_configuration_that_every_event_dies_of_is_suspended_and_the_rest_is_held() {
    const EVENTS: usize = 100;
    let Some((stage, sink)) = stage("300ms,1s", "") else { return };
    let serve = stage.serve("one");
    stage.set_up(&[n8n(&sink, "conn_1", &["*"])]);
    sink.script("/webhook/conn_1", &[], Reply::Status(422));
    let events = (0..EVENTS).map(|n| event(&format!("evt_{n}"), "payment.settled", "proj_1"));
    stage.events(&events.collect::<Vec<_>>());
    let suspended = wait_for("the connector is suspended", PATIENCE, || {
        let shown = stage.run_json(&["connector", "get", "proj_1", "conn_1"]);
        shown["suspendedReason"].as_str().map(str::to_owned)
    });
    assert!(suspended.starts_with("rejected: HTTP 422"), "{suspended}");
    let patch = json!({"config": {"webhookUrl": sink.url("/webhook/mended")}});
    stage.set_up(&[update("cmd_mend", "proj_1", "conn_1", &patch)]);
    // Nine and what was under way beside the tenth.
    let dead = || stage.kafka.read(&stage.topic("deliveries.dead")).len();
    wait_until("the rest arrives", PATIENCE, || {
        sink.hits_on("/webhook/mended").len() + dead() == EVENTS
    });
    assert!((9..9 + 16).contains(&dead()), "{}", dead());
    serve.stop();
}

/// A batch that is refused as a whole is sent in smaller ones, no faster than the service allows.
#[test]
fn the_parts_of_a_batch_keep_to_the_rate() {
    const RATE: f64 = 4.0;
    let more = "destinations.discord.rate_per_second = 4.0";
    let sink = Sink::start();
    let more = format!("{more}\n{}", sink.base_urls(&["discord"]));
    let Some((stage, _)) = stage("1s,2s", &more) else { return };
    let serve = stage.serve("one");
    let path = format!("/api/webhooks/123456789012345678/{}", "secret7890".repeat(6));
    let path = path.as_str();
    let url = format!("https://discord.com{path}");
    stage.set_up(&[create("cmd_1", "proj_1", "conn_1", "discord", &url, &["*"])]);
    sink.script(path, &vec![Reply::Status(413); 12], Reply::Status(204));
    let events = (0..30).map(|n| event(&format!("evt_{n}"), "payment.settled", "proj_1"));
    stage.events(&events.collect::<Vec<_>>());
    wait_until("all have ended", PATIENCE, || {
        let count = |outcome| serve.count("dunmore_deliveries_total", &[("outcome", outcome)]);
        count("delivered") + count("dead") == 30
    });
    serve.stop();
    let hits = sink.hits();
    assert!(hits.len() > 12);
    for (from, first) in hits.iter().enumerate() {
        for (to, last) in hits.iter().enumerate().skip(from) {
            let count = f64::from(u32::try_from(to - from + 1).unwrap());
            // What goes at once after a pause, then so many a second; one for what travels slower.
            let most = RATE + RATE * (last.at - first.at).as_secs_f64() + 1.0;
            assert!(count <= most, "{count} requests in {:?}", last.at - first.at);
        }
    }
}

#[test]
fn first_attempts_go_out_in_the_order_of_the_partition() {
    const CONNECTORS: usize = 10;
    const EVENTS: usize = 41;
    // One request at a time, so that the order of arrival is the order of sending.
    let Some((stage, sink)) = stage("1s,5s", "destinations.n8n.concurrency = 1") else { return };
    let serve = stage.serve("one");
    let projects: Vec<String> = (0..CONNECTORS).map(|p| format!("proj_{p}")).collect();
    let mut commands = Vec::new();
    for (p, project) in projects.iter().enumerate() {
        let url = sink.url(&format!("/webhook/{project}"));
        commands.push(set_tier(&format!("cmd_t{p}"), project, "pro"));
        commands.push(create(&format!("cmd_c{p}"), project, "conn_1", "n8n", &url, &["*"]));
    }
    stage.set_up(&commands);
    // One event each, because a lane whose destination has not answered yet holds only a few; then four
    // at a time, which a lane holds however slow the machine is at the moment.
    for start in (0..EVENTS).step_by(4) {
        let numbers = start.saturating_sub(3)..=start;
        let events = numbers.flat_map(|number| {
            projects.iter().map(move |p| event(&format!("{p}_{number}"), "payment.settled", p))
        });
        stage.events(&events.collect::<Vec<_>>());
        wait_until("this round arrives", PATIENCE, || sink.count() == CONNECTORS * (start + 1));
    }
    serve.stop();
    // What a lane put off, because the machine stood still, goes out later by design.
    let put_off = put_off(&stage);
    println!("{} of {} first attempts were put off", put_off.len(), CONNECTORS * EVENTS);
    for project in &projects {
        let hits = sink.hits_on(&format!("/webhook/{project}"));
        let arrived =
            hits.into_iter().map(|hit| hit.event).filter(|event| !put_off.contains(event));
        let expected = (0..EVENTS).map(|n| format!("{project}_{n}"));
        let expected = expected.filter(|event| !put_off.contains(event));
        assert_eq!(arrived.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    }
}

/// With several requests at once the order of arrival is not the order of starting, but nothing arrives
/// before more of its elders than can be under way beside it.
#[test]
fn requests_that_are_under_way_together_are_neighbours_in_the_partition() {
    /// Of the type, at once.
    const CONCURRENCY: usize = 16;
    const ROUNDS: usize = 40;
    const ROUND: usize = 12;
    let Some((stage, sink)) = stage("1s,5s", "") else { return };
    let serve = stage.serve("one");
    stage.set_up(&[n8n(&sink, "conn_1", &["*"])]);
    sink.delay("/webhook/conn_1", Duration::from_millis(3));
    let number = |n: usize| event(&format!("evt_{n}"), "payment.settled", "proj_1");
    // The first one alone: a lane whose destination has not answered yet holds only a few.
    stage.events(&[number(0)]);
    wait_until("the first arrives", PATIENCE, || sink.count() == 1);
    for round in 0..ROUNDS {
        let first = 1 + round * ROUND;
        stage.events(&(first..first + ROUND).map(number).collect::<Vec<_>>());
        wait_until("this round arrives", PATIENCE, || sink.count() == first + ROUND);
    }
    serve.stop();
    let put_off = put_off(&stage);
    let arrived = sink.hits().into_iter().filter(|hit| !put_off.contains(&hit.event));
    let arrived: Vec<usize> =
        arrived.map(|hit| hit.event.trim_start_matches("evt_").parse().unwrap()).collect();
    let overtaken = |place: usize| arrived[..place].iter().filter(|n| **n > arrived[place]).count();
    let most = (0..arrived.len()).map(overtaken).max().unwrap();
    println!(
        "{} put off; of {} others at most {most} arrived before an elder",
        put_off.len(),
        arrived.len()
    );
    assert!(most < CONCURRENCY);
}

/// The events of which a delivery was put off without a request.
fn put_off(stage: &Stage) -> BTreeSet<String> {
    let attempts = stage.kafka.read(&stage.topic("deliveries.attempts"));
    attempts
        .iter()
        .map(support::kafka::Read::json)
        .filter(|attempt| attempt["outcome"] == "deferred")
        .filter_map(|attempt| attempt["eventId"].as_str().map(str::to_owned))
        .collect()
}
