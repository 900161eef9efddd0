//! Connectors over HTTP.

use std::time::{Duration, Instant};

use dunmore_connectors::{
    cli::ControlClient,
    codec::Codec,
    config::Config,
    connector::{Command, CommandOutcome},
    kafka::{Connection, Topics},
    service::Role,
};
use serde_json::{Value, json};

use crate::{
    broker::{broker, own_broker},
    stage::{ADMIN, HOOK, Instance, OF_A, connectors, slack, start, topics},
};

const ALL: &[Role] = &Role::ALL;

pub async fn set_tier(bootstrap: &str, prefix: &str, project: &str, tier: &str) {
    let tier = json!({ "id": format!("tier_{project}_{tier}"), "type": "project.set_tier",
        "projectId": project, "tier": tier });
    command(bootstrap, prefix, tier).await;
}

pub async fn suspend(bootstrap: &str, prefix: &str, project: &str, connector: &str) {
    let suspend = json!({ "id": format!("suspend_{connector}"), "type": "connector.suspend",
        "projectId": project, "connectorId": connector, "reason": "HTTP 404" });
    command(bootstrap, prefix, suspend).await;
}

pub fn ids(list: &Value) -> Vec<String> {
    let connectors = list["connectors"].as_array().unwrap();
    connectors.iter().map(|c| c["id"].as_str().unwrap().to_owned()).collect()
}

async fn command(bootstrap: &str, prefix: &str, command: Value) {
    let policy = Config::from_toml("").unwrap().delivery.retry_tiers;
    let topics = Topics::new(prefix, &policy);
    let connection = Connection::new(bootstrap.to_owned(), std::collections::BTreeMap::new());
    let command = Command::from_value(command).unwrap();
    let client = ControlClient::new(&connection, &topics, Codec::json()).unwrap();
    let result = client.send(&command).await.unwrap();
    assert_eq!(result.outcome, CommandOutcome::Accepted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_connector_is_resumed() {
    let Some(broker) = broker() else { return };
    let prefix = broker.unique_prefix();
    topics(&broker.bootstrap, &prefix).await;
    let instance = start(&broker.bootstrap, &prefix, "", ALL).await;
    let client = &instance.client;
    set_tier(&broker.bootstrap, &prefix, "proj_a", "pro").await;
    let made = client.create("proj_a", &slack()).await.is(201);
    let id = made.body["id"].as_str().unwrap().to_owned();
    let path = format!("{}/{id}", connectors("proj_a"));
    let suspend = json!({ "id": "suspend_1", "type": "connector.suspend", "projectId": "proj_a",
        "connectorId": id, "reason": "HTTP 404" });
    command(&broker.bootstrap, &prefix, suspend).await;
    // A change that does not lift the suspension shows it.
    let patch = json!({ "isActive": true });
    let suspended = client.json("PATCH", &path, &[], &patch).await.is(200);
    assert_eq!(suspended.body["suspendedReason"], "HTTP 404");
    assert!(suspended.body["suspendedAt"].is_string(), "{}", suspended.body);

    let resume = format!("{path}/resume");
    let resumed = client.send("POST", &resume, &[], None).await.is(200);
    assert_eq!(resumed.body.get("suspendedReason"), None);
    assert_eq!(resumed.body.get("suspendedAt"), None);
    assert_ne!(resumed.header("etag"), suspended.header("etag"));
    let again = client.send("POST", &resume, &[], None).await.is(200);
    assert_eq!((again.header("etag"), &again.body), (resumed.header("etag"), &resumed.body));
    let read = client.get(&path).await.is(200);
    assert_eq!((read.header("etag"), &read.body), (resumed.header("etag"), &resumed.body));
    let missing = format!("{}/conn_none/resume", connectors("proj_a"));
    let missing = client.send("POST", &missing, &[], None).await.is(404);
    assert_eq!(missing.code(), "connector_not_found");
    let other = client.with_token(OF_A);
    let foreign = format!("{}/{id}/resume", connectors("proj_b"));
    other.send("POST", &foreign, &[], None).await.is(403);
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_that_is_delivered_lifts_a_suspension() {
    let Some(broker) = broker() else { return };
    let prefix = broker.unique_prefix();
    topics(&broker.bootstrap, &prefix).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sink = listener.local_addr().unwrap();
    let good = |body: String| async move {
        let is_it = body.contains("customer.first_payment");
        if is_it { http::StatusCode::OK } else { http::StatusCode::INTERNAL_SERVER_ERROR }
    };
    let sink_task = tokio::spawn(async move {
        axum::serve(listener, axum::Router::new().fallback(good)).await.unwrap();
    });
    let egress = "egress.allow_cidrs = [\"127.0.0.0/8\"]\negress.allow_http = true";
    let instance = start(&broker.bootstrap, &prefix, egress, ALL).await;
    let client = &instance.client;
    set_tier(&broker.bootstrap, &prefix, "proj_a", "pro").await;
    let config = json!({ "webhookUrl": format!("http://{sink}/webhook/x") });
    let body = json!({ "type": "n8n", "config": config, "eventTypes": ["*"] });
    let made = client.create("proj_a", &body).await.is(201);
    let id = made.body["id"].as_str().unwrap().to_owned();
    let path = format!("{}/{id}", connectors("proj_a"));
    let test = format!("{path}/test");
    let suspend = json!({ "id": "suspend_1", "type": "connector.suspend", "projectId": "proj_a",
        "connectorId": id, "reason": "HTTP 404" });
    command(&broker.bootstrap, &prefix, suspend).await;
    client.json("PATCH", &path, &[], &json!({ "isActive": true })).await.is(200);

    // One that fails lifts nothing.
    let failed = client.send("POST", &test, &[], None).await.is(200).body;
    assert_eq!((&failed["verdict"], failed.get("resumed")), (&json!("retry"), None));
    assert_eq!(client.get(&path).await.is(200).body["suspendedReason"], "HTTP 404");
    for wrong in [json!({ "eventType": "payment.setled" }), json!({ "eventTyp": "*" }), json!([])] {
        let refused = client.json("POST", &test, &[], &wrong).await.is(400);
        assert_eq!(refused.code(), "validation_failed");
    }
    let asked = json!({ "eventType": "customer.first_payment" });
    let delivered = client.json("POST", &test, &[], &asked).await.is(200).body;
    assert_eq!(
        (&delivered["verdict"], &delivered["resumed"], &delivered["eventType"]),
        (&json!("delivered"), &json!(true), &json!("customer.first_payment"))
    );
    assert_eq!(client.get(&path).await.is(200).body.get("suspendedReason"), None);
    let again = client.json("POST", &test, &[], &asked).await.is(200).body;
    assert_eq!(again.get("resumed"), None);
    instance.stop().await;
    sink_task.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connectors_life() {
    let Some(broker) = broker() else { return };
    let prefix = broker.unique_prefix();
    topics(&broker.bootstrap, &prefix).await;
    let instance = start(&broker.bootstrap, &prefix, "", ALL).await;
    let client = &instance.client;
    let list = connectors("proj_a");

    let refused = client.create("proj_a", &slack()).await.is(403);
    assert_eq!(refused.code(), "connector_limit_reached");
    set_tier(&broker.bootstrap, &prefix, "proj_a", "pro").await;
    set_tier(&broker.bootstrap, &prefix, "proj_b", "pro").await;

    let made = client.create("proj_a", &slack()).await.is(201);
    let id = made.body["id"].as_str().unwrap().to_owned();
    let path = format!("{list}/{id}");
    assert_eq!(made.header("location"), path);
    let masked = made.body["config"]["webhookUrl"].as_str().unwrap().to_owned();
    assert_eq!(masked, "https://hooks.slack.com/…/…uvwx");
    assert_eq!(made.body["isActive"], true);
    // Read your writes.
    let listed = client.get(&list).await.is(200);
    assert_eq!(listed.body["connectors"], json!([made.body]));
    let read = client.get(&path).await.is(200);
    assert_eq!((read.header("etag"), &read.body), (made.header("etag"), &made.body));

    // A mask that comes back changes nothing; a null removes what may be absent.
    let patch =
        json!({ "config": { "webhookUrl": masked }, "eventTypes": ["*"], "isActive": false });
    let changed = client.json("PATCH", &path, &[], &patch).await.is(200);
    assert_eq!(changed.body["config"]["webhookUrl"], masked);
    assert_eq!(
        (&changed.body["eventTypes"], &changed.body["isActive"]),
        (&json!(["*"]), &json!(false))
    );
    assert_ne!(changed.header("etag"), made.header("etag"));
    let wrong = json!({ "config": { "webhookUrl": "https://hooks.slack.com/…/…zzzz" } });
    assert_eq!(client.json("PATCH", &path, &[], &wrong).await.is(400).code(), "validation_failed");

    // Conditions.
    let (old, new) = (made.header("etag").to_owned(), changed.header("etag").to_owned());
    let on = json!({ "isActive": true });
    let stale = client.json("PATCH", &path, &[("if-match", &old)], &on).await.is(412);
    assert_eq!(stale.code(), "connector_changed");
    let stale = client.send("DELETE", &path, &[("if-match", &old)], None).await.is(412);
    assert_eq!(stale.code(), "connector_changed");
    client.json("PATCH", &path, &[("if-match", &new)], &on).await.is(200);

    // Nobody else's.
    let of_a = client.with_token(OF_A);
    of_a.get(&list).await.is(200);
    let theirs = client.create("proj_b", &slack()).await.is(201);
    let their_path = theirs.header("location").to_owned();
    let existing = of_a.get(&their_path).await.is(403);
    let missing = of_a.get(&their_path.replace("proj_b", "proj_no")).await.is(403);
    assert_eq!(existing.body, missing.body);
    for (method, path) in [
        ("DELETE", their_path.clone()),
        ("GET", connectors("proj_b")),
        ("POST", format!("{their_path}/test")),
        ("GET", format!("{their_path}/deliveries")),
    ] {
        assert_eq!(of_a.send(method, &path, &[], None).await.is(403).code(), "forbidden");
    }
    // A connector's id alone opens nothing in another project.
    let their_id = theirs.body["id"].as_str().unwrap();
    assert_eq!(of_a.get(&format!("{list}/{their_id}")).await.is(404).code(), "connector_not_found");

    client.send("DELETE", &path, &[], None).await.is(204);
    assert_eq!(ids(&client.get(&list).await.is(200).body), Vec::<String>::new());
    assert_eq!(client.send("DELETE", &path, &[], None).await.is(404).code(), "connector_not_found");
    assert_eq!(ids(&client.get(&connectors("proj_b")).await.body), [their_id]);

    repeats(&instance).await;
    errors(&instance).await;
    trials(&instance).await;
    instance.stop().await;
}

async fn repeats(instance: &Instance) {
    let client = &instance.client;
    let list = connectors("proj_a");
    let key = [("idempotency-key", "order-1")];
    let first = client.json("POST", &list, &key, &slack()).await.is(201);
    let again = client.json("POST", &list, &key, &slack()).await.is(201);
    assert_eq!(first.body, again.body);
    assert_eq!(first.header("etag"), again.header("etag"));
    let mut other = slack();
    other["config"]["webhookUrl"] = json!(format!("{HOOK}2"));
    let reused = client.json("POST", &list, &key, &other).await.is(409);
    assert_eq!(reused.code(), "idempotency_key_reused");
    // Another project's key is another key.
    let elsewhere = client.json("POST", &connectors("proj_b"), &key, &slack()).await.is(201);
    assert_ne!(elsewhere.body["id"], first.body["id"]);
    // Many at once make one.
    let key = [("idempotency-key", "order-2")];
    let body = slack();
    let sent = (0..8).map(|_| client.json("POST", &list, &key, &body));
    let made = futures_util::future::join_all(sent).await;
    let made: Vec<Value> =
        made.into_iter().map(|answer| answer.is(201).body["id"].clone()).collect();
    assert!(made.iter().all(|id| *id == made[0]), "{made:?}");
    assert_eq!(ids(&client.get(&list).await.body).len(), 2);
}

async fn errors(instance: &Instance) {
    let client = &instance.client;
    let list = connectors("proj_a");
    let json = ("content-type", "application/json");
    for (method, path, headers, body, status, code) in [
        ("GET", "/", vec![], "", 404, "not_found"),
        ("GET", "/api/projects", vec![], "", 404, "not_found"),
        ("PUT", list.as_str(), vec![json], "{}", 405, "method_not_allowed"),
        ("POST", &list, vec![], "{}", 415, "unsupported_media_type"),
        ("POST", &list, vec![("content-type", "text/plain")], "{}", 415, "unsupported_media_type"),
        (
            "POST",
            &list,
            vec![json, ("content-encoding", "gzip")],
            "{}",
            415,
            "unsupported_media_type",
        ),
        ("POST", &list, vec![json], "{", 400, "validation_failed"),
        ("POST", &list, vec![json], "[]", 400, "validation_failed"),
        ("POST", &list, vec![json], "", 400, "validation_failed"),
        ("POST", &list, vec![json], r#"{"typ":"slack"}"#, 400, "validation_failed"),
        ("POST", &list, vec![json, ("idempotency-key", "")], "{}", 400, "validation_failed"),
        ("GET", "/api/projects/a%20b/connectors", vec![], "", 400, "validation_failed"),
        ("GET", &format!("{list}/no"), vec![], "", 404, "connector_not_found"),
        ("GET", &format!("{list}/a%20b"), vec![], "", 404, "connector_not_found"),
        ("PATCH", &format!("{list}/no"), vec![json], "{}", 404, "connector_not_found"),
        ("GET", &format!("{list}/no/deliveries?limit=0"), vec![], "", 404, "connector_not_found"),
    ] {
        let answer = client.send(method, path, &headers, Some(body.to_owned())).await;
        assert_eq!((answer.status, answer.code()), (status, code), "{method} {path} {body}");
    }
    let allowed = client.send("PUT", &list, &[], None).await.is(405);
    assert!(allowed.header("allow").contains("POST"), "{:?}", allowed.headers);
    let huge = format!("{{\"type\":\"{}\"}}", "x".repeat(300_000));
    let answer = client.send("POST", &list, &[json], Some(huge)).await.is(413);
    assert_eq!(answer.code(), "too_large");
    let wrong = json!({ "type": "slack", "config": { "webhookUrl": "https://example.com/x", "chanel": 1 },
        "eventTypes": ["payment.setled"], "isActive": true });
    let answer = client.create("proj_a", &wrong).await.is(400);
    let errors = answer.body["errors"].as_array().unwrap();
    assert!(errors.iter().any(|e| e["field"] == "eventTypes"), "{}", answer.body);

    for token in ["", "wrong", "admin-token2"] {
        let answer = client.with_token(token).get(&list).await.is(401);
        assert_eq!(answer.code(), "unauthorized");
        assert!(answer.header("www-authenticate").starts_with("Bearer"));
    }
    let basic = client.with_token("");
    let answer =
        basic.send("GET", &list, &[("authorization", &format!("Basic {ADMIN}"))], None).await;
    assert_eq!(answer.is(401).code(), "unauthorized");
    let given = client.send("GET", &list, &[("x-request-id", "mine-1")], None).await;
    assert_eq!(given.header("x-request-id"), "mine-1");

    let metrics = instance.service.metrics().render();
    let route = "route=\"/api/projects/{projectId}/connectors/{connectorId}\"";
    assert!(
        metrics.lines().any(|line| line.starts_with("dunmore_http_requests_total")
            && line.contains(route)
            && line.contains("status=\"404\"")),
        "{metrics}"
    );
    assert!(!metrics.contains("proj_a"), "a label holds a project's id");

    let document = client.with_token("").get("/openapi.json").await.is(200);
    assert_eq!(document.body["openapi"], "3.1.0");
}

async fn trials(instance: &Instance) {
    let client = &instance.client;
    let list = connectors("proj_b");
    let body = json!({ "type": "n8n", "config": { "webhookUrl": "https://127.0.0.1/webhook/x" },
        "eventTypes": ["*"] });
    assert_eq!(client.create("proj_b", &body).await.is(400).code(), "validation_failed");
    // A public name that nobody has: the trial tells what happened.
    let body = json!({ "type": "n8n", "config": { "webhookUrl": "https://n8n.nobody.invalid/webhook/x" },
        "eventTypes": ["*"] });
    let made = client.create("proj_b", &body).await.is(201);
    let path = format!("{list}/{}", made.body["id"].as_str().unwrap());
    let trial = client.send("POST", &format!("{path}/test"), &[], None).await.is(200);
    assert_eq!(
        (&trial.body["verdict"], &trial.body["reason"]),
        (&json!("retry"), &json!("dns_failed"))
    );
    let none = client.get(&format!("{path}/deliveries")).await.is(200);
    assert_eq!(none.body, json!({ "deliveries": [], "nextCursor": null }));
    client.get(&format!("{path}/deliveries?limit=1001")).await.is(400);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_racing_for_the_last_places_keep_the_limit() {
    let Some(broker) = broker() else { return };
    let prefix = broker.unique_prefix();
    topics(&broker.bootstrap, &prefix).await;
    let one = start(&broker.bootstrap, &prefix, "", &[Role::Api, Role::Registrar]).await;
    let two = start(&broker.bootstrap, &prefix, "", &[Role::Api]).await;
    set_tier(&broker.bootstrap, &prefix, "proj_a", "pro").await;
    let body = slack();
    let sent = (0..50).map(|n| {
        let client = if n % 2 == 0 { &one.client } else { &two.client };
        client.create("proj_a", &body)
    });
    let answers = futures_util::future::join_all(sent).await;
    let made = answers.iter().filter(|answer| answer.status == 201).count();
    let refused =
        answers.iter().filter(|a| a.status == 403 && a.code() == "connector_limit_reached");
    assert_eq!((made, refused.count()), (5, 45));
    // Who got a 201 reads what it wrote at once; the others a moment later.
    for instance in [&one, &two] {
        let until = Instant::now() + Duration::from_secs(5);
        loop {
            let count = ids(&instance.client.get(&connectors("proj_a")).await.body).len();
            if count == 5 {
                break;
            }
            assert!(Instant::now() < until, "{count} connectors");
        }
    }
    // An instance that does not deliver says so.
    let id = ids(&one.client.get(&connectors("proj_a")).await.body).remove(0);
    let path = format!("{}/{id}/test", connectors("proj_a"));
    let answer = two.client.send("POST", &path, &[], None).await.is(503);
    assert_eq!(answer.code(), "unavailable");
    assert!(answer.body["detail"].as_str().unwrap().contains("role delivery"));
    two.stop().await;
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_kafka_reads_go_on_and_writes_say_when_to_come_back() {
    let Some(broker) = own_broker("api-away") else { return };
    let prefix = broker.unique_prefix();
    topics(&broker.bootstrap, &prefix).await;
    let instance = start(&broker.bootstrap, &prefix, "", &[Role::Api, Role::Registrar]).await;
    let client = &instance.client;
    set_tier(&broker.bootstrap, &prefix, "proj_a", "pro").await;
    let made = client.create("proj_a", &slack()).await.is(201);
    broker.pause();
    let began = Instant::now();
    let away = client.create("proj_a", &slack()).await.is(503);
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert!(matches!(away.code(), "unavailable" | "timeout"));
    assert!(away.header("retry-after").parse::<u64>().unwrap() > 0);
    let read = Instant::now();
    assert_eq!(client.get(&connectors("proj_a")).await.is(200).body["connectors"][0], made.body);
    assert!(read.elapsed() < Duration::from_secs(1));
    broker.resume();
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let answer = client.create("proj_a", &slack()).await;
        if answer.status == 201 {
            break;
        }
        assert_eq!(answer.status, 503, "{}", answer.body);
        assert!(Instant::now() < until, "it does not recover");
    }
    instance.stop().await;
}
