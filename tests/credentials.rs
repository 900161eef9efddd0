//! Credentials that renew themselves, against the sandbox's strict token endpoints: from a connector's
//! creation over HTTP to what the service was sent, and what its owner is told.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/broker.rs"]
mod broker;
#[path = "credentials/rotating.rs"]
mod rotating;
#[expect(dead_code, reason = "other tests look at more of it")]
#[path = "support/sandbox/mod.rs"]
mod sandbox;
#[expect(dead_code, reason = "other tests look at more of it")]
#[path = "api/stage.rs"]
mod stage;

use std::time::Duration;

use broker::broker;
use dunmore_connectors::{
    cli::ControlClient,
    codec::Codec,
    config::Config,
    connector::{Command, CommandOutcome},
    kafka::{Connection, Topics},
    service::Role,
};
use sandbox::{
    Behaviour, Sandbox,
    tokens::{CLIENT_ID, CLIENT_SECRET, KEY_ID, REFRESH_TOKEN, SERVICE_ACCOUNT, USERNAME},
};
use serde_json::{Value, json};
use stage::{Client, Instance, connectors, start, topics};

const KEY: &str = include_str!("fixtures/keys/rsa-2048.pem");
const TENANT: &str = "00000000-1111-2222-3333-444444444444";
const INSTANCE: &str = "https://example.my.salesforce.com";

struct World {
    sandbox: Sandbox,
    instance: Instance,
    /// What another instance beside it is started with.
    bootstrap: String,
    prefix: String,
    settings: String,
}

impl World {
    async fn start() -> Option<Self> {
        let broker = broker()?;
        let sandbox = Sandbox::start().await;
        let prefix = broker.unique_prefix();
        topics(&broker.bootstrap, &prefix).await;
        let mut more = String::new();
        for kind in ["bigquery", "salesforce", "xero", "quickbooks", "hubspot"] {
            let url = sandbox.base_url(kind);
            more.push_str(&format!("destinations.{kind}.base_url = \"{url}\"\n"));
        }
        let (xero, id, secret) = (sandbox.base_url("xero"), CLIENT_ID, CLIENT_SECRET);
        more.push_str(&format!("destinations.xero.token_url = \"{xero}\"\n"));
        let quickbooks = sandbox.base_url("quickbooks");
        more.push_str(&format!("destinations.quickbooks.token_url = \"{quickbooks}\"\n"));
        more.push_str(&format!("destinations.hubspot.client_id = \"{id}\"\n"));
        more.push_str(&format!("destinations.hubspot.client_secret = \"{secret}\"\n"));
        let instance = start(&broker.bootstrap, &prefix, &more, &Role::ALL).await;
        let command = json!({ "id": "tier", "type": "project.set_tier", "projectId": "proj_a",
            "tier": "enterprise" });
        let topics = Topics::new(&prefix, &Config::from_toml("").unwrap().delivery.retry_tiers);
        let to = Connection::new(broker.bootstrap.clone(), std::collections::BTreeMap::new());
        let control = ControlClient::new(&to, &topics, Codec::json()).unwrap();
        let result = control.send(&Command::from_value(command).unwrap()).await.unwrap();
        assert_eq!(result.outcome, CommandOutcome::Accepted);
        let bootstrap = broker.bootstrap.clone();
        Some(Self { sandbox, instance, bootstrap, prefix, settings: more })
    }

    /// Another instance beside the first.
    async fn another(&self) -> Instance {
        start(&self.bootstrap, &self.prefix, &self.settings, &Role::ALL).await
    }

    fn client(&self) -> &Client {
        &self.instance.client
    }

    async fn create(&self, kind: &str, config: &Value) -> String {
        let body = json!({ "type": kind, "config": config,
            "eventTypes": ["payment.settled", "revenue.daily_summary"] });
        // The accounting services book by one of them only.
        let body = if ["xero", "quickbooks"].contains(&kind) {
            json!({ "eventTypes": ["revenue.daily_summary"], "type": kind, "config": config })
        } else {
            body
        };
        let made = self.client().create("proj_a", &body).await.is(201);
        let text = made.body.to_string();
        for secret in [CLIENT_SECRET, REFRESH_TOKEN, "PRIVATE KEY-----\\n"] {
            assert!(!text.contains(secret), "{text}");
        }
        made.body["id"].as_str().unwrap().to_owned()
    }

    /// Sends a sample event through a connector.
    async fn trial(&self, id: &str) -> Value {
        let path = format!("{}/{id}/test", connectors("proj_a"));
        self.client().send("POST", &path, &[], None).await.is(200).body
    }

    async fn renewals(&self, kind: &str, outcome: &str) -> u64 {
        let url = format!("http://{}/metrics", self.instance.service.admin_address());
        let text = reqwest::get(url).await.unwrap().text().await.unwrap();
        let name = "dunmore_credential_renewals_total";
        let line = format!("{name}{{outcome=\"{outcome}\",type=\"{kind}\"}} ");
        text.lines().find_map(|l| l.strip_prefix(&line)?.parse().ok()).unwrap_or(0)
    }
}

fn key_file() -> String {
    json!({ "type": "service_account", "project_id": "my-project-123456", "private_key_id": KEY_ID,
        "private_key": KEY, "client_email": SERVICE_ACCOUNT,
        "token_uri": "http://127.0.0.1:9/never-called" })
    .to_string()
}

/// A configuration of each flow.
fn flows() -> Vec<(&'static str, Value)> {
    let table = json!({ "projectId": "my-project-123456", "datasetId": "payments",
        "tableId": "events", "serviceAccountKey": key_file() });
    let client = json!({ "instanceUrl": INSTANCE, "clientId": CLIENT_ID,
        "clientSecret": CLIENT_SECRET });
    let user = json!({ "instanceUrl": INSTANCE, "clientId": CLIENT_ID, "username": USERNAME,
        "privateKey": KEY });
    let xero = json!({ "tenantId": TENANT, "clientId": CLIENT_ID, "clientSecret": CLIENT_SECRET });
    let hubspot = json!({ "clientId": CLIENT_ID, "clientSecret": CLIENT_SECRET,
        "refreshToken": REFRESH_TOKEN });
    vec![
        ("bigquery", table),
        ("salesforce", client),
        ("salesforce", user),
        ("xero", xero),
        ("hubspot", hubspot),
        ("hubspot", json!({ "refreshToken": REFRESH_TOKEN })),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_flow_delivers_keeps_its_token_and_renews_a_refused_one() {
    let Some(world) = World::start().await else { return };
    for (kind, config) in flows() {
        let id = world.create(kind, &config).await;
        let calls = || world.sandbox.token_calls(kind);
        let (before, renewed) = (calls(), world.renewals(kind, "renewed").await);
        // Google is asked for nothing.
        let each = usize::from(kind != "bigquery");
        for _ in 0..3 {
            let trial = world.trial(&id).await;
            assert_eq!(trial["verdict"], "delivered", "{kind} {config}: {trial}");
        }
        assert_eq!(calls(), before + each, "{kind}");
        assert_eq!(world.renewals(kind, "renewed").await, renewed + 1, "{kind}");
        // One that is refused before its time is replaced, and the delivery goes through.
        world.sandbox.revoke_tokens(kind);
        if kind == "bigquery" {
            // What is signed in the same second is the same token.
            tokio::time::sleep(Duration::from_millis(1100)).await;
        }
        let trial = world.trial(&id).await;
        assert_eq!(trial["verdict"], "delivered", "{kind}: {trial}");
        assert_eq!(calls(), before + 2 * each, "{kind}");
        assert_eq!(world.renewals(kind, "renewed").await, renewed + 2, "{kind}");
    }
    world.instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_token_is_renewed_before_it_is_refused() {
    let Some(world) = World::start().await else { return };
    world.sandbox.token_life("xero", Duration::from_secs(2));
    world.sandbox.token_grace("xero", Duration::from_secs(600));
    let (_, config) = flows().swap_remove(3);
    let id = world.create("xero", &config).await;
    assert_eq!(world.trial(&id).await["verdict"], "delivered");
    // It is old after 1.6 s at the latest, though the service would go on taking it.
    tokio::time::sleep(Duration::from_millis(1700)).await;
    assert_eq!(world.trial(&id).await["verdict"], "delivered");
    assert_eq!(world.sandbox.token_calls("xero"), 2);
    world.instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_token_endpoint_says_instead_ends_in_the_right_words() {
    let Some(world) = World::start().await else { return };
    let (_, config) = flows().swap_remove(4);
    let id = world.create("hubspot", &config).await;
    let huge = format!("{{\"access_token\":\"{}\"}}", "x".repeat(100_000));
    for (status, body, verdict, reason) in [
        (200, r#"{"error":"invalid_grant"}"#, "broken", "unauthorized"),
        (400, r#"{"error":"invalid_grant","error_description":"gone"}"#, "broken", "unauthorized"),
        (401, r#"{"error":"invalid_client"}"#, "broken", "unauthorized"),
        (200, "<html>", "retry", "unexpected_response"),
        (200, "", "retry", "unexpected_response"),
        (200, huge.as_str(), "retry", "unexpected_response"),
        (429, "", "retry", "rate_limited"),
        (503, "", "retry", "server_error"),
    ] {
        world.sandbox.answer_token("hubspot", status, body);
        let trial = world.trial(&id).await;
        assert_eq!((&trial["verdict"], &trial["reason"]), (&json!(verdict), &json!(reason)));
        let detail = trial["detail"].as_str().unwrap();
        assert_eq!(detail.contains("reconnect"), verdict == "broken", "{detail}");
        assert!(detail.len() < 500 && !detail.contains("xxxx"), "{detail}");
    }
    assert_eq!(world.renewals("hubspot", "refused").await, 3);
    assert_eq!(world.renewals("hubspot", "failed").await, 5);
    // Each was asked once: nothing was repeated in silence, and nothing was sent without a token.
    assert_eq!(world.sandbox.token_calls("hubspot"), 8);
    assert_eq!(world.sandbox.requests("hubspot").len(), 8);
    world.instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_secret_is_quoted() {
    let Some(world) = World::start().await else { return };
    let (_, config) = flows().swap_remove(1);
    let id = world.create("salesforce", &config).await;
    let quoted = format!(r#"{{"error":"odd","error_description":"no {CLIENT_SECRET} here"}}"#);
    world.sandbox.answer_token("salesforce", 400, &quoted);
    let trial = world.trial(&id).await;
    assert!(trial["detail"].as_str().unwrap().contains("quotes a secret"), "{trial}");
    assert_eq!(world.trial(&id).await["verdict"], "delivered");
    let sent = world.sandbox.requests("salesforce").pop().unwrap();
    let token = sent.headers["authorization"].strip_prefix("Bearer ").unwrap().to_owned();
    assert!(token.starts_with("minted-"), "{token}");
    let says = format!("no room for {token}");
    world.sandbox.behave("salesforce", Behaviour::Say(500, String::new(), says), 1);
    let trial = world.trial(&id).await;
    assert_eq!(
        trial["detail"],
        "HTTP 500: the answer quotes a secret of the connector and is left out"
    );
    world.instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_has_exactly_one_way() {
    let Some(world) = World::start().await else { return };
    let client = world.client();
    let table = json!({ "projectId": "my-project-123456", "datasetId": "d", "tableId": "t" });
    for (more, field) in [
        (json!({}), "config.accessToken"),
        (json!({ "accessToken": "x", "serviceAccountKey": key_file() }), "config.accessToken"),
        (json!({ "serviceAccountKey": "{}" }), "config.serviceAccountKey"),
    ] {
        let mut config = table.clone();
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let body = json!({ "type": "bigquery", "config": config, "eventTypes": ["*"] });
        let refused = client.create("proj_a", &body).await.is(400);
        assert_eq!(refused.body["errors"][0]["field"], field, "{}", refused.body);
        assert_eq!(refused.body["errors"].as_array().unwrap().len(), 1);
    }
    for (kind, place) in [("xero", ("tenantId", TENANT)), ("quickbooks", ("realmId", "9130347798"))]
    {
        let config = json!({ place.0: place.1, "refreshToken": REFRESH_TOKEN, "accessToken": "x" });
        let body = json!({ "type": kind, "config": config,
            "eventTypes": ["revenue.daily_summary"] });
        let refused = client.create("proj_a", &body).await.is(400);
        assert_eq!(refused.body["errors"][0]["field"], "config.accessToken", "{}", refused.body);
    }
    // From a token to a credential, in one step.
    let mut config = table;
    config["accessToken"] = json!("ya29.EXAMPLE-EXAMPLE_EXAMPLE");
    let id = world.create("bigquery", &config).await;
    let path = format!("{}/{id}", connectors("proj_a"));
    let both = json!({ "config": { "serviceAccountKey": key_file() } });
    let refused = client.json("PATCH", &path, &[], &both).await.is(400);
    assert!(refused.body["errors"][0]["message"].as_str().unwrap().contains("exactly one way"));
    let none = json!({ "config": { "accessToken": null } });
    client.json("PATCH", &path, &[], &none).await.is(400);
    let change = json!({ "config": { "serviceAccountKey": key_file(), "accessToken": null } });
    let changed = client.json("PATCH", &path, &[], &change).await.is(200);
    assert_eq!(changed.body["config"].get("accessToken"), None);
    // A mask that comes back keeps the key.
    let mask =
        json!({ "config": { "serviceAccountKey": changed.body["config"]["serviceAccountKey"] } });
    client.json("PATCH", &path, &[], &mask).await.is(200);
    assert_eq!(world.trial(&id).await["verdict"], "delivered");
    world.instance.stop().await;
}
