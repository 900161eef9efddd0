//! Notices of connectors that other connectors name in `eventTypes`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    broker::broker,
    events::{event, set_tier, suspend},
    kafka::{Read, Write},
    scene::{self, n8n},
    serve::Stage,
    sink::{Hit, Reply, Sink},
    wait_until,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// What arrived at a connector: each notice's type, and the connector that it is about.
fn arrived(sink: &Sink, connector: &str) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let told = |body: &[u8]| {
        let event: Value = serde_json::from_slice(body).unwrap();
        assert_eq!(event["projectId"], "proj_1", "{event}");
        (text(&event["type"]), text(&event["data"]["connectorId"]))
    };
    sink.hits_on(&path(connector)).iter().map(|hit| told(&hit.body)).collect()
}

fn path(connector: &str) -> String {
    format!("/webhook/{connector}")
}

fn pair(kind: &str, connector: &str) -> (String, String) {
    (kind.to_owned(), connector.to_owned())
}

fn all_read(stage: &Stage) {
    for topic in ["connectors.notices", "payments.events"] {
        wait_until("all of it is read", PATIENCE, || stage.is_committed(topic));
    }
}

#[test]
fn a_notice_goes_to_those_who_name_it_but_never_to_whom_it_is_about() {
    let Some((stage, sink)) = scene::stage("300ms,1s", "") else { return };
    let serve = stage.serve("one");
    stage.set_up(&[
        n8n(&sink, "conn_watch", &["connector.suspended", "connector.resumed"]),
        n8n(&sink, "conn_star", &["*"]),
        n8n(&sink, "conn_both", &["*", "connector.suspended"]),
        n8n(&sink, "conn_broken", &["payment.settled"]),
    ]);
    // The first attempt fails, so it comes back from a retry tier.
    sink.script(&path("conn_watch"), &[Reply::Status(503)], Reply::Status(200));
    stage.set_up(&[
        suspend("hold_1", "proj_1", "conn_broken", "gone: HTTP 404: no_service"),
        suspend("hold_2", "proj_1", "conn_both", "unauthorized: HTTP 401"),
    ]);
    let suspended = |connector: &str| pair("connector.suspended", connector);
    wait_until("the watch has both", PATIENCE, || {
        let told = arrived(&sink, "conn_watch");
        told.len() == 3 && ["conn_broken", "conn_both"].iter().all(|c| told.contains(&suspended(c)))
    });
    wait_until("the other one has its own", PATIENCE, || {
        arrived(&sink, "conn_both") == [suspended("conn_broken")]
    });
    all_read(&stage);
    assert_eq!(arrived(&sink, "conn_star"), []);
    assert_eq!(arrived(&sink, "conn_both").len(), 1, "it got the notice of itself");
    let hits = sink.hits_on(&path("conn_watch"));
    let of_broken: Vec<_> = hits.iter().filter(|hit| hit.event == "hold_1").collect();
    let delivery = &of_broken[0].delivery;
    assert!(of_broken.iter().all(|hit| hit.delivery == *delivery), "{of_broken:?}");
    let told: Value = serde_json::from_slice(&of_broken[0].body).unwrap();
    assert_eq!(told["id"], "hold_1");
    assert_eq!(told["data"]["connectorType"], "n8n");
    assert_eq!(told["data"]["reason"], "http_404");
    assert_eq!(told["data"]["detail"], "gone: HTTP 404: no_service");
    assert_eq!(told["occurredAt"], told["data"]["since"]);

    let resumed = stage.run(&["connector", "resume", "proj_1", "conn_broken"]);
    assert!(resumed.status.success(), "{resumed:?}");
    wait_until("the watch knows", PATIENCE, || {
        arrived(&sink, "conn_watch").contains(&pair("connector.resumed", "conn_broken"))
    });
    // A delivery of a notice is found, and sent again under its id.
    let traced = stage.run_json(&["event", "trace", "hold_1"]);
    assert_eq!(traced["consumed"][0]["eventType"], "connector.suspended", "{traced}");
    serve.stop();
}

#[test]
fn what_is_no_notice_is_a_dead_letter_and_a_notice_among_the_payments_too() {
    let Some((stage, sink)) = scene::stage("300ms,1s", "") else { return };
    let serve = stage.serve("one");
    stage.set_up(&[n8n(&sink, "conn_watch", &["*", "connector.suspended", "connector.resumed"])]);
    let notice = |id: &str, kind: &str| {
        json!({"specversion": "1.0", "id": id, "source": "/x", "type": kind,
            "time": "2026-11-30T03:00:00.000Z", "data": {"projectId": "proj_1",
            "connectorId": "conn_1", "connectorType": "slack", "reason": "other",
            "since": "2026-11-30T03:00:00.000Z"}})
    };
    let mut lacking = notice("lacking", "connector.suspended");
    lacking["data"].as_object_mut().unwrap().remove("reason");
    let foreign = [
        b"\xff\xfe no text".to_vec(),
        b"{}".to_vec(),
        notice("later", "connector.tired").to_string().into_bytes(),
        lacking.to_string().into_bytes(),
        notice("whole", "connector.suspended").to_string().into_bytes(),
    ];
    let records = foreign.into_iter().map(|value| Write::new("proj_1", value));
    stage.kafka.write(&stage.topic("connectors.notices"), records);
    let forged = json!({"id": "forged", "type": "connector.resumed", "projectId": "proj_1",
        "occurredAt": "2026-11-30T03:00:00.000Z", "data": notice("", "")["data"]});
    stage.events(&[forged]);
    wait_until("the whole one arrives", PATIENCE, || sink.count() > 0);
    all_read(&stage);
    assert_eq!(arrived(&sink, "conn_watch"), [pair("connector.suspended", "conn_1")]);
    let dead = stage.kafka.read(&stage.topic("deliveries.dead"));
    let mut reasons: Vec<(&str, &str)> = dead
        .iter()
        .map(|letter| {
            (letter.header("dunmore-source-topic"), letter.header("dunmore-error-reason"))
        })
        .collect();
    reasons.sort_unstable();
    let (notices, events) = (stage.topic("connectors.notices"), stage.topic("payments.events"));
    let expected = [
        (notices.as_str(), "invalid_event"),
        (notices.as_str(), "undecodable"),
        (notices.as_str(), "undecodable"),
        (notices.as_str(), "unknown_event_type"),
        (events.as_str(), "unknown_event_type"),
    ];
    assert_eq!(reasons, expected);
    serve.stop();
}

/// An outage, from the first refused payment to the first delivered one.
#[test]
fn an_outage_is_told_when_it_begins_and_when_it_ends() {
    let Some((stage, sink)) = scene::stage("300ms,1s", "") else { return };
    let serve = stage.serve("one");
    sink.script(&path("conn_dead"), &[], Reply::Status(503));
    stage.set_up(&[
        n8n(&sink, "conn_watch", &["connector.failing", "connector.recovered"]),
        // It names them as well, and fails at taking them.
        n8n(&sink, "conn_dead", &["payment.settled", "connector.failing", "connector.recovered"]),
        n8n(&sink, "conn_well", &["payment.settled"]),
    ]);
    let mut number = 0;
    let mut payment = || {
        number += 1;
        stage.events(&[event(&format!("evt_{number}"), "payment.settled", "proj_1")]);
    };
    wait_until("the watch knows", Duration::from_secs(60), || {
        payment();
        arrived(&sink, "conn_watch") == [pair("connector.failing", "conn_dead")]
    });
    let told: Value = serde_json::from_slice(&sink.hits_on(&path("conn_watch"))[0].body).unwrap();
    assert_eq!(told["data"]["reason"], "http_503", "{told}");
    assert_eq!(told["data"]["connectorType"], "n8n", "{told}");
    let shown = stage.run_json(&["connector", "get", "proj_1", "conn_dead"]);
    assert_eq!(shown.get("health"), None, "{shown}");

    // Whoever is asked, the next owner of the partition too: it has been told.
    serve.kill();
    let serve = stage.serve("two");
    sink.script(&path("conn_dead"), &[], Reply::Status(200));
    wait_until("the watch knows that it is over", Duration::from_secs(90), || {
        payment();
        arrived(&sink, "conn_watch").contains(&pair("connector.recovered", "conn_dead"))
    });
    all_read(&stage);
    let notices: Vec<Value> =
        stage.kafka.read(&stage.topic("connectors.notices")).iter().map(Read::json).collect();
    let kinds: Vec<&str> = notices.iter().filter_map(|one| one["type"].as_str()).collect();
    assert_eq!(kinds, ["connector.failing", "connector.recovered"]);
    assert_eq!(notices[0]["data"]["since"], notices[1]["data"]["since"]);
    assert_eq!(serve.count("dunmore_notices_total", &[("type", "connector.recovered")]), 1);
    serve.stop();
}

#[test]
fn an_operators_webhook_gets_every_notice_and_holds_nothing_else_up() {
    let Some(broker) = broker() else { return };
    let sink = Sink::start();
    let more = format!("topics.partitions = 2\nnotices.webhook_url = \"{}\"", sink.url("/ops"));
    let stage = Stage::new(&broker.bootstrap, &broker.unique_prefix(), "300ms,1s", &more);
    let serve = stage.serve("one");
    sink.script("/ops", &[], Reply::Status(503));
    stage.set_up(&[
        set_tier("tier", "proj_1", "enterprise"),
        n8n(&sink, "conn_watch", &["connector.suspended"]),
        n8n(&sink, "conn_1", &["payment.settled"]),
        n8n(&sink, "conn_2", &["payment.settled"]),
    ]);
    stage.set_up(&[
        suspend("hold_1", "proj_1", "conn_1", "gone: HTTP 404"),
        suspend("hold_2", "proj_1", "conn_2", "gone: HTTP 404"),
    ]);
    // The webhook takes none; connectors have both of them.
    wait_until("the watch has both", PATIENCE, || arrived(&sink, "conn_watch").len() == 2);
    wait_until("it was tried", PATIENCE, || sink.hits_on("/ops").len() >= 2);
    let posted = || -> Vec<String> {
        let hits = sink.hits_on("/ops");
        let taken = hits.iter().filter(|hit| hit.status == 200);
        let of = |hit: &Hit| {
            let notice: Value = serde_json::from_slice(&hit.body).unwrap();
            assert_eq!(notice["specversion"], "1.0", "{notice}");
            notice["id"].as_str().unwrap().to_owned()
        };
        taken.map(of).collect()
    };
    let topic = stage.topic("connectors.notices");
    let waiting = format!("{topic} (webhook)");
    wait_until("the lag shows it", PATIENCE, || {
        serve.count("dunmore_consumer_lag_records", &[("topic", &waiting)]) == 2
    });
    assert_eq!((posted(), sink.hits_on("/ops").len() < 20), (vec![], true));
    serve.stop();
    sink.script("/ops", &[], Reply::Status(200));
    let serve = stage.serve("two");
    wait_until("the webhook has both", PATIENCE, || posted() == ["hold_1", "hold_2"]);
    wait_until("that is committed", PATIENCE, || {
        stage.kafka.is_committed_to_the_end(&format!("{}.webhook", stage.group), &topic)
    });
    serve.stop();
}
