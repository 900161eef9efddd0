//! Signed webhooks, from the secret's birth to what the official verifier says of a delivery.

use std::sync::{Arc, Mutex};

use axum::{Router, body::Bytes, extract::State, http::HeaderMap};
use dunmore_connectors::{clock::Timestamp, service::Role};
use serde_json::{Value, json};
use standardwebhooks::Webhook;

use crate::{
    broker::broker,
    rest::set_tier,
    stage::{OF_A, connectors, start, topics},
};

type Seen = Arc<Mutex<Vec<(HeaderMap, Bytes)>>>;

/// A webhook that takes everything and remembers it.
async fn sink() -> (String, Seen) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/webhook/x", listener.local_addr().unwrap());
    let seen = Seen::default();
    let note = |State(seen): State<Seen>, headers: HeaderMap, body: Bytes| async move {
        seen.lock().unwrap().push((headers, body));
    };
    let app = Router::new().fallback(note).with_state(Arc::clone(&seen));
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (url, seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_made_shown_once_replaced_and_verified() {
    let Some(broker) = broker() else { return };
    let prefix = broker.unique_prefix();
    topics(&broker.bootstrap, &prefix).await;
    let (url, seen) = sink().await;
    let egress = "egress.allow_cidrs = [\"127.0.0.0/8\"]\negress.allow_http = true";
    let instance = start(&broker.bootstrap, &prefix, egress, &Role::ALL).await;
    let client = &instance.client;
    set_tier(&broker.bootstrap, &prefix, "proj_a", "pro").await;
    let config = json!({ "webhookUrl": url, "authHeaderName": "X-Hook-Key",
        "authHeaderValue": "Bearer canary-5e1f" });
    let body = json!({ "type": "n8n", "config": config, "eventTypes": ["*"] });
    let made = client.create("proj_a", &body).await.is(201);
    assert!(!made.body.to_string().contains("canary"), "{}", made.body);
    let path = format!("{}/{}", connectors("proj_a"), made.body["id"].as_str().unwrap());
    let (replace, test) = (format!("{path}/signing-secret"), format!("{path}/test"));
    let deliver = || async {
        let answer = client.send("POST", &test, &[], None).await.is(200);
        assert_eq!(answer.body["verdict"], "delivered", "{}", answer.body);
        let (headers, body) = seen.lock().unwrap().pop().unwrap();
        assert_eq!(headers["x-hook-key"], "Bearer canary-5e1f");
        (headers, body)
    };
    let verifies = |secret: &str, (headers, body): &(HeaderMap, Bytes)| {
        Webhook::new(secret).unwrap().verify(body, headers).is_ok()
    };
    assert!(!deliver().await.0.contains_key("webhook-signature"));

    let first = client.send("POST", &replace, &[], None).await.is(200);
    assert_eq!(first.header("cache-control"), "no-store");
    assert_eq!(first.body["previousValidUntil"], Value::Null);
    let first = first.body["signingSecret"].as_str().unwrap().to_owned();
    let sent = deliver().await;
    assert!(verifies(&first, &sent));
    assert_eq!(sent.0["webhook-id"], sent.0["dunmore-delivery-id"]);

    let hour = json!({ "overlap": "1h" });
    let second = client.json("POST", &replace, &[], &hour).await.is(200).body;
    let until = Timestamp::parse(second["previousValidUntil"].as_str().unwrap()).unwrap();
    let read = client.get(&path).await.is(200);
    let at = Timestamp::parse(read.body["updatedAt"].as_str().unwrap()).unwrap();
    assert_eq!(until.since(at).as_secs(), 3600);
    let second = second["signingSecret"].as_str().unwrap().to_owned();
    assert_ne!(second, first);
    let sent = deliver().await;
    assert!(verifies(&second, &sent) && verifies(&first, &sent));

    let none = json!({ "overlap": "0s" });
    let third = client.json("POST", &replace, &[], &none).await.is(200).body;
    assert_eq!(third["previousValidUntil"], Value::Null);
    let third = third["signingSecret"].as_str().unwrap().to_owned();
    let sent = deliver().await;
    assert!(verifies(&third, &sent) && !verifies(&second, &sent) && !verifies(&first, &sent));

    // It is never shown again.
    for shown in [client.get(&path).await, client.get(&connectors("proj_a")).await] {
        let text = shown.is(200).body.to_string();
        assert!(!text.contains(&third[6..40]) && !text.contains("previous"), "{text}");
    }
    for (wrong, field) in [
        (json!({ "overlap": "8d" }), "overlap"),
        (json!({ "overlap": 60 }), "overlap"),
        (json!({ "overlp": "1h" }), "overlp"),
    ] {
        let refused = client.json("POST", &replace, &[], &wrong).await.is(400);
        assert_eq!(refused.body["errors"][0]["field"], field);
    }
    let halves = json!({ "config": { "authHeaderName": null } });
    let refused = client.json("PATCH", &path, &[], &halves).await.is(400);
    assert_eq!(refused.body["errors"][0]["field"], "config.authHeaderName");
    let hook = "https://discord.com/api/webhooks/1234567890123456789/\
                AbCdEfGhIjKlMnOpQrStUvWxYz0123456789AbCdEfGhIjKlMnOpQrStUvWxYz012345";
    let discord =
        json!({ "type": "discord", "config": { "webhookUrl": hook }, "eventTypes": ["*"] });
    let discord = client.create("proj_a", &discord).await.is(201).body;
    let other =
        format!("{}/{}/signing-secret", connectors("proj_a"), discord["id"].as_str().unwrap());
    let refused = client.send("POST", &other, &[], None).await.is(400);
    assert_eq!(refused.code(), "validation_failed");
    let missing = format!("{}/conn_none/signing-secret", connectors("proj_a"));
    assert_eq!(
        client.send("POST", &missing, &[], None).await.is(404).code(),
        "connector_not_found"
    );
    let foreign = client.with_token(OF_A);
    let path = format!("{}/conn_1/signing-secret", connectors("proj_b"));
    foreign.send("POST", &path, &[], None).await.is(403);
    instance.stop().await;
}
