//! A customer's deliveries over the REST API, on a real broker: found again page by page, from every
//! instance and after a restart, and sent again.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use dunmore_connectors::tokens::digest_of;
use serde_json::{Value, json};
use support::{
    events::{event, set_tier},
    scene::{n8n, stage},
    serve::{Serve, Stage, call, free_address},
    sink::{Reply, Sink},
    wait_until,
};

const PATIENCE: Duration = Duration::from_secs(60);
const TOKEN: &str = "token-of-proj-1";

fn settings(more: &str) -> String {
    let digest = digest_of(TOKEN);
    format!(
        "api.requests_per_second = 0\n{more}\n[[api.tokens]]\nname = \"one\"\nsha256 = \"{digest}\"\n\
         projects = [\"proj_1\", \"proj_2\"]\n"
    )
}

struct Instance {
    serve: Serve,
    api: SocketAddr,
}

impl Instance {
    fn start(stage: &Stage, name: &str) -> Self {
        let api = free_address();
        let mut serve = stage.start_with(name, &[("DUNMORE_API__LISTEN", &api.to_string())]);
        serve.wait_ready();
        Self { serve, api }
    }

    fn get(&self, path: &str) -> (u16, Value) {
        call(self.api, Some(TOKEN), "GET", path, &Value::Null)
    }

    fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        call(self.api, Some(TOKEN), "POST", path, body)
    }

    /// Every attempt of a list, page by page.
    fn all(&self, path: &str, query: &str, limit: usize) -> Vec<Value> {
        let (mut found, mut cursor) = (Vec::new(), String::new());
        loop {
            let (status, page) = self.get(&format!("{path}?limit={limit}{query}{cursor}"));
            assert_eq!(status, 200, "{page}");
            found.extend(page["deliveries"].as_array().unwrap().clone());
            match page["nextCursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return found,
            }
        }
    }
}

const OF_ONE: &str = "/api/projects/proj_1/connectors/conn_1/deliveries";
const OF_PROJECT: &str = "/api/projects/proj_1/deliveries";

fn scene() -> Option<(Stage, Sink)> {
    let (stage, sink) = stage("300ms,600ms", &settings(""))?;
    stage.set_up_with("setup", &[n8n(&sink, "conn_1", &["*"]), n8n(&sink, "conn_2", &["*"])]);
    stage.command_all(&[set_tier("cmd_tier", "proj_1", "enterprise")]);
    Some((stage, sink))
}

#[test]
fn deliveries_are_listed_from_kafka_the_same_everywhere() {
    const EVENTS: usize = 700;
    let Some((stage, sink)) = scene() else { return };
    sink.script("/webhook/conn_2", &[], Reply::Status(400));
    let one = Instance::start(&stage, "one");
    let events = (0..EVENTS).map(|n| {
        let kind = if n % 10 == 0 { "endpoint.created" } else { "payment.settled" };
        event(&format!("evt_{n}"), kind, "proj_1")
    });
    stage.events(&events.collect::<Vec<_>>());
    let topic = stage.topic("deliveries.attempts");
    let full = || -> Vec<Value> {
        let read = stage.kafka.read(&topic);
        let mut rows: Vec<Value> = read.iter().map(support::kafka::Read::json).collect();
        rows.reverse();
        rows
    };
    wait_until("all have ended", PATIENCE, || full().len() >= 2 * EVENTS);
    let two = Instance::start(&stage, "two");

    // Row by row what the log has, whatever the size of the pages.
    let wanted = full();
    for limit in [1000, 97] {
        assert_eq!(one.all(OF_PROJECT, "", limit), wanted, "pages of {limit}");
    }
    assert_eq!(two.all(OF_PROJECT, "", 300), wanted);
    let of = |filter: &dyn Fn(&Value) -> bool| -> Vec<Value> {
        wanted.iter().filter(|row| filter(row)).cloned().collect()
    };
    let own = of(&|row| row["connectorId"] == "conn_1");
    assert_eq!(one.all(OF_ONE, "", 50), own);
    let dead = of(&|row| row["outcome"] == "dead" && row["eventType"] == "endpoint.created");
    assert!(!dead.is_empty());
    assert_eq!(one.all(OF_PROJECT, "&outcome=dead&eventType=endpoint.created", 20), dead);
    let rejected = of(&|row| row["reason"] == "rejected" && row["eventId"] == "evt_7");
    assert_eq!(one.all(OF_PROJECT, "&reason=rejected&eventId=evt_7", 20), rejected);
    let middle = wanted[wanted.len() / 2]["at"].as_str().unwrap();
    let early = of(&|row| row["at"].as_str().unwrap() < middle);
    assert_eq!(one.all(OF_PROJECT, &format!("&to={middle}"), 200), early);
    let late = of(&|row| row["at"].as_str().unwrap() >= middle);
    assert_eq!(one.all(OF_PROJECT, &format!("&from={middle}"), 200), late);
    assert_eq!(one.all("/api/projects/proj_2/deliveries", "", 10), Vec::<Value>::new());

    // A cursor goes on at another instance and after a restart, in its own list only.
    let (_, page) = one.get(&format!("{OF_PROJECT}?limit=100"));
    let cursor = page["nextCursor"].as_str().unwrap().to_owned();
    one.serve.stop();
    let (status, next) = two.get(&format!("{OF_PROJECT}?limit=100&cursor={cursor}"));
    assert_eq!((status, &next["deliveries"][0]), (200, &wanted[100]));
    let tampered = format!("{}A", &cursor[..cursor.len() - 1]);
    for (path, cursor) in [
        (OF_ONE, cursor.as_str()),
        ("/api/projects/proj_2/deliveries", &cursor),
        (OF_PROJECT, &tampered),
        (OF_PROJECT, "nonsense"),
    ] {
        let (status, problem) = two.get(&format!("{path}?cursor={cursor}"));
        assert_eq!((status, &problem["errors"][0]["field"]), (400, &json!("cursor")), "{path}");
    }
    for query in
        ["outcome=daed", "reason=x", "eventType=payment", "from=today", "limit=1001", "a=1"]
    {
        assert_eq!(two.get(&format!("{OF_PROJECT}?{query}")).0, 400, "{query}");
    }
    // Positions of a topic that was created anew are others.
    stage.kafka.delete_topic(&topic);
    assert!(stage.run(&["topics", "ensure"]).status.success());
    wait_until("the cursor is refused", PATIENCE, || {
        two.get(&format!("{OF_PROJECT}?cursor={cursor}")).0 == 400
    });
    two.serve.stop();
}

#[test]
fn one_delivery_is_sent_again_under_its_id() {
    let Some((stage, sink)) = scene() else { return };
    let one = Instance::start(&stage, "one");
    stage.events(&[event("evt_1", "payment.settled", "proj_1")]);
    wait_until("it has arrived", PATIENCE, || one.all(OF_ONE, "", 10).len() == 1);
    let first = one.all(OF_ONE, "", 10).remove(0);
    let path = format!("{OF_ONE}/{}/resend", first["deliveryId"].as_str().unwrap());
    let (status, told) = one.post(&path, &Value::Null);
    assert_eq!((status, &told["deliveryId"]), (202, &first["deliveryId"]), "{told}");
    wait_until("it arrives again", PATIENCE, || one.all(OF_ONE, "", 10).len() == 2);
    let again = one.all(OF_ONE, "", 10).remove(0);
    assert_eq!(again["deliveryId"], first["deliveryId"]);
    assert_eq!((&again["job"], &again["attempt"]), (&told["job"], &json!(2)));
    assert_eq!(sink.hits_on("/webhook/conn_1").len(), 2);
    assert_eq!(sink.hits_on("/webhook/conn_2").len(), 1);

    // Kept back by a filter of today: it would be cancelled.
    let filter = |id: &str, filter: Value| {
        let patch = json!({"filter": filter});
        stage.command_all(&[support::events::update(id, "proj_1", "conn_1", &patch)]);
        assert_eq!(stage.result(id)["outcome"], "accepted");
    };
    filter("cmd_filter", json!("event.data.currency == \"EURC\""));
    wait_until("it is refused", PATIENCE, || one.post(&path, &Value::Null).0 == 409);
    filter("cmd_no_filter", Value::Null);

    // Of another connector, unknown, no id; switched off.
    let other = path.replace("conn_1", "conn_2");
    let unknown = format!("{OF_ONE}/00000000-0000-4000-8000-000000000000/resend");
    for path in [&other, &unknown, &format!("{OF_ONE}/evt_1/resend")] {
        let (status, problem) = one.post(path, &Value::Null);
        assert_eq!((status, &problem["code"]), (404, &json!("not_found")), "{path}");
    }
    stage.command_all(&[support::events::update(
        "cmd_off",
        "proj_1",
        "conn_1",
        &json!({"isActive": false}),
    )]);
    wait_until("it is off", PATIENCE, || one.post(&path, &Value::Null).0 == 409);
    one.serve.stop();
}

/// Exactly what failed and what was never attempted goes again, once.
#[test]
fn a_recovery_sends_what_is_missing_once() {
    const FAILED: usize = 8;
    const MISSED: usize = 40;
    let Some((stage, sink)) = scene() else { return };
    let one = Instance::start(&stage, "one");
    let send = |from: usize, count: usize| {
        let events =
            (from..from + count).map(|n| event(&format!("evt_{n}"), "payment.settled", "proj_1"));
        stage.events(&events.collect::<Vec<_>>());
    };
    send(0, 50);
    wait_until("all have arrived", PATIENCE, || sink.delivered_count() == 100);
    sink.script("/webhook/conn_1", &[], Reply::Status(400));
    send(50, FAILED);
    let dead = || one.all(OF_ONE, "&outcome=dead", 1000).len();
    wait_until("all have failed", PATIENCE, || dead() == FAILED);
    // Switched off for a while: these were never attempted.
    let active = |id: &str, is_active: bool| {
        stage.command_all(&[support::events::update(
            id,
            "proj_1",
            "conn_1",
            &json!({"isActive": is_active}),
        )]);
        let shown = stage.result(id);
        assert_eq!(shown["outcome"], "accepted");
    };
    active("cmd_off", false);
    send(50 + FAILED, MISSED);
    wait_until("the other one got them", PATIENCE, || {
        sink.hits_on("/webhook/conn_2").len() == 50 + FAILED + MISSED
    });
    active("cmd_on", true);
    sink.script("/webhook/conn_1", &[], Reply::Status(200));
    let path = "/api/projects/proj_1/connectors/conn_1/recover";
    let since = json!("2026-01-01T00:00:00Z");
    let (status, plan) = one.post(path, &json!({"since": since, "dryRun": true}));
    assert_eq!((status, &plan["deliveries"]), (200, &json!(FAILED + MISSED)), "{plan}");
    assert_eq!(plan["delivered"], 50, "{plan}");
    let before: BTreeSet<String> = arrived(&sink);
    // Asked for at two instances at once, it is one recovery.
    let two = Instance::start(&stage, "two");
    let asked = std::thread::scope(|scope| {
        [&one, &two]
            .map(|instance| scope.spawn(|| instance.post(path, &json!({"since": since}))))
            .map(|answer| answer.join().unwrap())
    });
    let began: Vec<_> = asked.iter().filter(|(status, _)| *status == 202).collect();
    assert_eq!(began.len(), 1, "{asked:?}");
    assert_eq!(began[0].1["deliveries"], FAILED + MISSED, "{asked:?}");
    // The other was refused, or came when there was nothing left to send.
    assert!(asked.iter().any(|(status, _)| [200, 409].contains(status)), "{asked:?}");
    two.serve.stop();
    wait_until("all have arrived", PATIENCE, || arrived(&sink).len() == 50 + FAILED + MISSED);
    wait_until("nothing is left", PATIENCE, || {
        let (status, plan) = one.post(path, &json!({"since": since, "dryRun": true}));
        status == 200 && plan["deliveries"] == 0
    });
    assert_eq!(one.post(path, &json!({"since": since})).0, 200, "nothing to send is no job");
    let mut delivered: BTreeMap<String, usize> = BTreeMap::new();
    for row in one.all(OF_ONE, "&outcome=delivered", 1000) {
        *delivered.entry(row["eventId"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    assert_eq!(delivered.len(), 50 + FAILED + MISSED);
    assert!(delivered.values().all(|count| *count == 1), "{delivered:?}");
    assert_eq!(before.len(), 50);
    assert_eq!(
        sink.hits_on("/webhook/conn_2").len(),
        50 + FAILED + MISSED,
        "its neighbour is left alone"
    );

    for (body, field) in [
        (json!({}), "since"),
        (json!({"since": "2099-01-01T00:00:00Z"}), "since"),
        (json!({"since": 5}), "since"),
        (json!({"since": since, "dryrun": true}), "dryrun"),
    ] {
        let (status, problem) = one.post(path, &body);
        assert_eq!((status, &problem["errors"][0]["field"]), (400, &json!(field)), "{problem}");
    }
    one.serve.stop();
}

fn arrived(sink: &Sink) -> BTreeSet<String> {
    let delivered = sink.delivered().into_iter();
    delivered.filter(|(_, path)| path == "/webhook/conn_1").map(|(event, _)| event).collect()
}
