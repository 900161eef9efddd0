//! What a customer needs to find and name connectors.

use dunmore_connectors::service::Role;
use serde_json::{Value, json};

use crate::{
    broker::broker,
    rest::{ids, set_tier},
    stage::{connectors, slack, start, topics},
};

fn fields(problem: &Value) -> Vec<&str> {
    let errors = problem["errors"].as_array().unwrap();
    errors.iter().map(|error| error["field"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn connectors_are_named_and_a_patch_that_changes_nothing_makes_no_version() {
    let Some(broker) = broker() else { return };
    let prefix = broker.unique_prefix();
    topics(&broker.bootstrap, &prefix).await;
    let instance = start(&broker.bootstrap, &prefix, "", &[Role::Api, Role::Registrar]).await;
    let client = &instance.client;
    set_tier(&broker.bootstrap, &prefix, "proj_a", "pro").await;
    set_tier(&broker.bootstrap, &prefix, "proj_b", "pro").await;
    let list = connectors("proj_a");

    let mut body = slack();
    body["name"] = json!("Sales – Größe");
    body["isActive"] = json!(false);
    let made = client.json("POST", &list, &[("idempotency-key", "k1")], &body).await.is(201);
    assert_eq!((&made.body["name"], &made.body["isActive"]), (&body["name"], &json!(false)));
    let again = client.json("POST", &list, &[("idempotency-key", "k1")], &body).await.is(201);
    assert_eq!(again.body, made.body);
    body["name"] = json!("Other");
    let reused = client.json("POST", &list, &[("idempotency-key", "k1")], &body).await.is(409);
    assert_eq!(reused.code(), "idempotency_key_reused");
    let path = made.header("location").to_owned();

    let tag = made.header("etag").to_owned();
    for patch in [json!({}), json!({ "isActive": false, "name": "Sales – Größe", "config": {} })]
    {
        let same = client.json("PATCH", &path, &[("if-match", &tag)], &patch).await.is(200);
        assert_eq!((same.header("etag"), &same.body), (&*tag, &made.body), "{patch}");
    }
    let renamed = client.json("PATCH", &path, &[], &json!({ "name": "Billing" })).await.is(200);
    assert_eq!(renamed.body["name"], "Billing");
    assert_ne!(renamed.header("etag"), tag);
    let unnamed = client.json("PATCH", &path, &[], &json!({ "name": null })).await.is(200);
    assert_eq!(unnamed.body.get("name"), None);
    assert_eq!(client.get(&path).await.is(200).body, unnamed.body);

    // Everything that is wrong is told in one round, whoever finds it.
    let wrong = json!({ "type": "slack", "config": { "webhookUrl": "https://example.com/x", "chanel": 1 },
        "eventTypes": ["payment.setled"], "name": "a\nb", "isActive": "yes", "naem": "x" });
    let refused = client.create("proj_a", &wrong).await.is(400);
    assert_eq!(refused.code(), "validation_failed");
    assert_eq!(
        fields(&refused.body),
        ["eventTypes", "name", "isActive", "naem", "config.webhookUrl", "config.chanel"]
    );
    let wrong = json!({ "config": { "webhookUrl": null }, "name": 7, "filtr": "true" });
    let refused = client.json("PATCH", &path, &[], &wrong).await.is(400);
    assert_eq!(fields(&refused.body), ["name", "filtr", "config.webhookUrl"]);

    // A cursor is its project's own, and as it was given.
    client.create("proj_a", &slack()).await.is(201);
    let first = client.get(&format!("{list}?limit=1")).await.is(200).body;
    let cursor = first["nextCursor"].as_str().unwrap();
    let second = client.get(&format!("{list}?limit=1&cursor={cursor}")).await.is(200).body;
    assert_ne!(ids(&second), ids(&first));
    assert_eq!(second["nextCursor"], Value::Null);
    let tampered = format!("{}AA", &cursor[..cursor.len() - 2]);
    for (list, cursor) in [(connectors("proj_b"), cursor), (list.clone(), &tampered)] {
        let refused = client.get(&format!("{list}?cursor={cursor}")).await.is(400);
        assert_eq!((refused.code(), fields(&refused.body)), ("validation_failed", vec!["cursor"]));
    }
    instance.stop().await;
}
