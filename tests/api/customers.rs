//! What a customer needs to find and name connectors.

use dunmore_connectors::service::Role;
use serde_json::{Value, json};

use crate::{
    broker::broker,
    rest::{ids, set_tier, suspend},
    stage::{OF_A, connectors, slack, start, topics},
};

fn fields(problem: &Value) -> Vec<&str> {
    let errors = problem["errors"].as_array().unwrap();
    errors.iter().map(|error| error["field"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connector_is_named_and_an_empty_patch_changes_nothing() {
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

    // All errors come in one round, those of the decision too.
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

#[tokio::test(flavor = "multi_thread")]
async fn a_page_finds_its_project_and_what_there_is_to_choose() {
    let Some(broker) = broker() else { return };
    let prefix = broker.unique_prefix();
    topics(&broker.bootstrap, &prefix).await;
    let limited = "api.requests_per_second = 100";
    let roles = [Role::Api, Role::Registrar];
    let instance = start(&broker.bootstrap, &prefix, limited, &roles).await;
    let client = &instance.client;
    let project = "/api/projects/proj_a";
    let unnamed = client.get(project).await.is(200).body;
    let none = json!({ "total": 0, "active": 0, "suspended": 0 });
    assert_eq!(
        unnamed,
        json!({ "id": "proj_a", "tier": "starter", "limit": 0, "connectors": none })
    );
    set_tier(&broker.bootstrap, &prefix, "proj_a", "pro").await;
    let made = client.create("proj_a", &slack()).await.is(201);
    let mut off = slack();
    off["isActive"] = json!(false);
    client.create("proj_a", &off).await.is(201);
    let id = made.body["id"].as_str().unwrap();
    suspend(&broker.bootstrap, &prefix, "proj_a", id).await;
    // The view of this instance has the suspension once it has what came after it.
    client.json("PATCH", &format!("{}/{id}", connectors("proj_a")), &[], &json!({})).await.is(200);
    let told = client.get(project).await.is(200);
    let counts = json!({ "total": 2, "active": 1, "suspended": 1 });
    assert_eq!(
        told.body,
        json!({ "id": "proj_a", "tier": "pro", "limit": 5, "connectors": counts })
    );
    set_tier(&broker.bootstrap, &prefix, "proj_e", "enterprise").await;
    client.create("proj_e", &slack()).await.is(201);
    let unlimited = client.get("/api/projects/proj_e").await.is(200).body;
    assert_eq!((&unlimited["tier"], &unlimited["limit"]), (&json!("enterprise"), &Value::Null));

    // Lists that are the same for all are for every token, and for no one without.
    let of_a = client.with_token(OF_A);
    for path in ["/api/connector-types", "/api/event-types", project] {
        for name in ["ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"] {
            let answer = of_a.get(path).await.is(200);
            assert!(answer.header(name).parse::<u32>().is_ok(), "{path} {name}");
        }
        let refused = client.with_token("wrong").get(path).await.is(401);
        assert_eq!(refused.code(), "unauthorized");
        let refused = of_a.get(&format!("{path}?limit=1")).await.is(400);
        assert_eq!(fields(&refused.body), ["limit"]);
    }
    of_a.get("/api/projects/proj_b").await.is(403);

    let types = of_a.get("/api/connector-types").await.body;
    let types = types["connectorTypes"].as_array().unwrap();
    assert_eq!(types.len(), 20);
    let field = |kind: &str, name: &str| {
        let of_type = types.iter().find(|one| one["type"] == kind).unwrap();
        let fields = of_type["fields"].as_array().unwrap();
        fields.iter().find(|field| field["name"] == name).unwrap()
    };
    assert_eq!(field("slack", "webhookUrl")["secret"], true);
    assert_eq!(field("mixpanel", "region")["enum"], json!(["us", "eu", "in"]));
    assert_eq!(field("mixpanel", "region")["required"], false);
    assert_eq!(field("email", "to")["shape"], "list");
    assert!(field("email", "to")["example"].is_array());
    let events = of_a.get("/api/event-types").await.body;
    let events = events["eventTypes"].as_array().unwrap();
    assert_eq!(events.len(), 13);
    for event in events {
        assert_eq!(event["sample"]["type"], event["type"]);
        assert!(event["description"].as_str().unwrap().ends_with('.'), "{event}");
    }
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_of_named_origins_may_call() {
    let Some(broker) = broker() else { return };
    let prefix = broker.unique_prefix();
    topics(&broker.bootstrap, &prefix).await;
    let mine = "https://dashboard.example.com";
    let settings = format!("api.cors_origins = [\"{mine}\", \"http://localhost:3000\"]");
    let roles = [Role::Api];
    let instance = start(&broker.bootstrap, &prefix, &settings, &roles).await;
    let list = connectors("proj_a");
    let client = instance.client.with_token("");
    let question = |origin: &'static str| {
        let (client, list) = (client.clone(), list.clone());
        async move {
            let asked = [
                ("origin", origin),
                ("access-control-request-method", "PATCH"),
                ("access-control-request-headers", "authorization,content-type,if-match"),
            ];
            client.send("OPTIONS", &list, &asked, None).await
        }
    };
    for origin in ["https://dashboard.example.com", "http://localhost:3000"] {
        let allowed = question(origin).await.is(200);
        assert_eq!(allowed.header("access-control-allow-origin"), origin);
        assert!(allowed.header("access-control-allow-methods").contains("PATCH"));
        for name in ["authorization", "content-type", "if-match", "idempotency-key"] {
            assert!(allowed.header("access-control-allow-headers").contains(name), "{name}");
        }
        assert_eq!(allowed.header("access-control-allow-credentials"), "");
        assert!(allowed.header("vary").contains("origin"));
    }
    for origin in ["https://evil.example", "https://dashboard.example.com.evil.example", "null"] {
        let refused = question(origin).await;
        assert_eq!(refused.header("access-control-allow-origin"), "", "{origin}");
    }
    // An answer says what a page may read of it; so does an error.
    let from_page = [("origin", mine)];
    let listed = instance.client.send("GET", &list, &from_page, None).await.is(200);
    assert_eq!(listed.header("access-control-allow-origin"), mine);
    let exposed = listed.header("access-control-expose-headers");
    let names = ["etag", "location", "retry-after", "ratelimit-limit", "ratelimit-remaining"];
    assert!(names.iter().all(|name| exposed.contains(name)), "{exposed}");
    let refused = client.send("GET", &list, &from_page, None).await.is(401);
    assert_eq!(refused.header("access-control-allow-origin"), mine);
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_a_file_are_taken_without_a_restart() {
    let Some(broker) = broker() else { return };
    let prefix = broker.unique_prefix();
    topics(&broker.bootstrap, &prefix).await;
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("tokens.toml");
    let entry = |token: &str| {
        let sha256 = dunmore_connectors::tokens::digest_of(token);
        format!(
            "[[api.tokens]]\nname = \"{token}\"\nsha256 = \"{sha256}\"\nprojects = [\"proj_b\"]\n"
        )
    };
    std::fs::write(&path, entry("first")).unwrap();
    let settings = format!("api.tokens_file = \"{}\"", path.display());
    let instance = start(&broker.bootstrap, &prefix, &settings, &[Role::Api]).await;
    let client = &instance.client;
    client.get("/api/projects/proj_b").await.is(200);
    let (first, second) = (client.with_token("first"), client.with_token("second"));
    first.get("/api/projects/proj_b").await.is(200);
    first.get("/api/projects/proj_a").await.is(403);
    second.get("/api/projects/proj_b").await.is(401);

    std::fs::write(&path, entry("second")).unwrap();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while second.get("/api/projects/proj_b").await.status != 200 {
        assert!(std::time::Instant::now() < until, "the file is not read again");
    }
    first.get("/api/projects/proj_b").await.is(401);

    std::fs::write(&path, "[[api.tokens]]\nname = 1").unwrap();
    let ready = format!("http://{}/readyz", instance.service.admin_address());
    loop {
        let told = reqwest::get(&ready).await.unwrap().text().await.unwrap();
        if told.contains("tokens.toml") {
            break;
        }
        assert!(std::time::Instant::now() < until, "{told}");
    }
    second.get("/api/projects/proj_b").await.is(200);
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_is_checked_tried_and_removed() {
    let Some(broker) = broker() else { return };
    let prefix = broker.unique_prefix();
    topics(&broker.bootstrap, &prefix).await;
    let roles = [Role::Api, Role::Registrar];
    let instance = start(&broker.bootstrap, &prefix, "", &roles).await;
    let client = &instance.client;
    set_tier(&broker.bootstrap, &prefix, "proj_a", "pro").await;
    let mut body = slack();
    body["filter"] = json!("decimal(event.data.amount) >= 100");
    body["config"]["webhookUrl"] = json!("https://example.com/x");
    let refused = client.create("proj_a", &body).await.is(400);
    assert_eq!(fields(&refused.body), ["filter", "config.webhookUrl"]);
    let told = refused.body["errors"][0]["message"].as_str().unwrap();
    assert!(told.starts_with("at character 28: ") && told.contains("decimal(\"100\")"), "{told}");

    let mut body = slack();
    body["filter"] = json!("decimal(event.data.amount) >= decimal(\"100\")");
    let made = client.create("proj_a", &body).await.is(201);
    assert_eq!(made.body["filter"], body["filter"]);
    let path = made.header("location").to_owned();
    let test = format!("{path}/filter/test");
    let sample = |kind: &str| json!({ "eventType": kind });
    let mut event: Value =
        serde_json::from_str(dunmore_connectors::event::sample("payment.settled".parse().unwrap()))
            .unwrap();
    event["data"]["amount"] = json!("100.000001");
    for (asked, passes, fails) in [
        (sample("payment.settled"), false, false),
        (json!({ "event": event }), true, false),
        (json!({ "event": event, "filter": "event.data.currency == 'EUR'" }), false, false),
        // A type without an amount.
        (sample("endpoint.created"), true, true),
        (json!({ "event": event, "filter": "1 / 0 == 1" }), true, true),
    ] {
        let told = client.json("POST", &test, &[], &asked).await.is(200).body;
        assert_eq!((&told["passes"], told.get("error").is_some()), (&json!(passes), fails));
    }
    for (asked, expected) in [
        (json!({}), vec!["event"]),
        (json!({ "event": event, "eventType": "payment.settled" }), vec!["eventType"]),
        (json!({ "eventType": "payment.setled", "filtr": "true" }), vec!["filtr", "eventType"]),
        (json!({ "eventType": "*", "filter": 7 }), vec!["filter", "eventType"]),
        (
            json!({ "event": { "id": "evt_1" }, "filter": "tru" }),
            vec!["filter", "event.projectId", "event.type", "event.occurredAt", "event.data"],
        ),
    ] {
        let refused = client.json("POST", &test, &[], &asked).await.is(400);
        assert_eq!(fields(&refused.body), expected, "{asked}");
    }
    let removed = client.json("PATCH", &path, &[], &json!({ "filter": null })).await.is(200);
    assert_eq!(removed.body.get("filter"), None);
    let refused = client.json("POST", &test, &[], &sample("payment.settled")).await.is(400);
    assert_eq!(fields(&refused.body), ["filter"]);
    let long = json!({ "filter": format!("event.id == '{}'", "x".repeat(1024)) });
    let refused = client.json("PATCH", &path, &[], &long).await.is(400);
    assert!(refused.body["detail"].as_str().unwrap().contains("1024"), "{}", refused.body);
    instance.stop().await;
}
