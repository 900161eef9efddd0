//! What a caller may have of the API, page by page, and what is written down of it.

use std::{
    io::Write,
    sync::{Arc, Mutex},
};

use dunmore_connectors::{api::audit, service::Role};
use serde_json::{Value, json};

use crate::{
    broker::broker,
    rest::{ids, set_tier},
    stage::{OF_A, connectors, slack, start, topics},
};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// The lines of the audit trail about a project.
    fn audit(&self, project: &str) -> Vec<Value> {
        let bytes = self.0.lock().unwrap().clone();
        let text = String::from_utf8(bytes).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|l| l["target"] == audit::TARGET && l["project"] == project).collect()
    }
}

fn n8n(path: &str) -> Value {
    json!({ "type": "n8n", "config": { "webhookUrl": format!("https://n8n.nobody.invalid/{path}") },
        "eventTypes": ["*"] })
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_trials_and_the_audit_trail() {
    let Some(broker) = broker() else { return };
    let log = Log::default();
    let writer = log.clone();
    let lines = tracing_subscriber::fmt().json().flatten_event(true);
    lines.with_writer(move || writer.clone()).try_init().unwrap();
    let prefix = broker.unique_prefix();
    topics(&broker.bootstrap, &prefix).await;
    let instance = start(&broker.bootstrap, &prefix, "", &Role::ALL).await;
    let client = &instance.client;
    set_tier(&broker.bootstrap, &prefix, "proj_p", "enterprise").await;
    let list = connectors("proj_p");

    // Pages.
    let mut made = Vec::new();
    for number in 0..7 {
        let body = if number % 3 == 0 { n8n(&format!("webhook/{number}")) } else { slack() };
        let answer = client.create("proj_p", &body).await.is(201);
        made.push(answer.body["id"].as_str().unwrap().to_owned());
    }
    let off = format!("{list}/{}", made[1]);
    client.json("PATCH", &off, &[], &json!({ "isActive": false })).await.is(200);
    let all = client.get(&list).await.is(200).body;
    assert_eq!((ids(&all), &all["nextCursor"]), (made.clone(), &Value::Null));
    let (mut found, mut cursor, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let page = client.get(&format!("{list}?limit=3{cursor}")).await.is(200).body;
        found.extend(ids(&page));
        pages += 1;
        let Some(next) = page["nextCursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
        // What is deleted meanwhile moves nothing.
        if pages == 1 {
            client.send("DELETE", &format!("{list}/{}", made[2]), &[], None).await.is(204);
        }
    }
    assert_eq!((found, pages), (made.clone(), 3));
    for (query, expected) in [
        ("type=n8n", vec![0, 3, 6]),
        ("isActive=false", vec![1]),
        ("isActive=true&type=slack", vec![4, 5]),
        ("suspended=true", vec![]),
        ("suspended=false&limit=1000", vec![0, 1, 3, 4, 5, 6]),
        ("type=xero", vec![]),
    ] {
        let page = client.get(&format!("{list}?{query}")).await.is(200).body;
        let expected: Vec<String> = expected.into_iter().map(|index| made[index].clone()).collect();
        assert_eq!(ids(&page), expected, "{query}");
    }
    let one = format!("{list}/{}", made[0]);
    for (method, path) in [
        ("GET", format!("{list}?limit=0")),
        ("GET", format!("{list}?limit=1001")),
        ("GET", format!("{list}?type=slak")),
        ("GET", format!("{list}?isActive=yes")),
        ("GET", format!("{list}?suspended=1")),
        ("GET", format!("{list}?cursor=abc")),
        ("GET", format!("{list}?limit=1&limit=2")),
        ("GET", format!("{list}?limt=1")),
        ("POST", format!("{list}?dryRun=true")),
        ("GET", format!("{one}?a=1")),
        ("PATCH", format!("{one}?a=1")),
        ("DELETE", format!("{one}?force=true")),
        ("POST", format!("{one}/test?eventType=x")),
        ("GET", format!("{one}/deliveries?limt=1")),
    ] {
        let answer = client.send(method, &path, &[], None).await.is(400);
        assert_eq!(answer.code(), "validation_failed", "{method} {path}");
        assert!(answer.body["errors"][0]["field"].is_string(), "{}", answer.body);
    }

    // Trials of one connector, and still some of another.
    let mut statuses = Vec::new();
    for _ in 0..12 {
        let answer = client.send("POST", &format!("{one}/test"), &[], None).await;
        if answer.status == 429 {
            assert_eq!(answer.code(), "rate_limited");
            assert!(answer.header("retry-after").parse::<u64>().unwrap() > 0);
        }
        statuses.push(answer.status);
    }
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 10, "{statuses:?}");
    client.send("POST", &format!("{list}/{}/test", made[3]), &[], None).await.is(200);

    // One token is told from another by one header.
    let twice = [("authorization", "Bearer admin-token")];
    assert_eq!(client.send("GET", &list, &twice, None).await.is(401).code(), "unauthorized");
    client.with_token("wrong").get(&list).await.is(401);
    client.with_token(OF_A).send("DELETE", &one, &[], None).await.is(403);

    // Who changed what.
    let lines = log.audit("proj_p");
    let told = |action: &str, result: &str| -> Vec<&Value> {
        let is_it =
            |l: &&Value| l["action"].as_str().unwrap().starts_with(action) && l["result"] == result;
        lines.iter().filter(is_it).collect()
    };
    let created = told("POST /api/projects/{projectId}/connectors", "done");
    assert!(created.len() >= 7, "{lines:#?}");
    assert!(created.iter().all(|l| l["actor"] == "token:admin" && l["from"] == "127.0.0.1"));
    let patched = told("PATCH", "done");
    assert_eq!((patched.len(), &patched[0]["connector"]), (1, &json!(made[1])));
    assert_eq!(told("DELETE", "done")[0]["connector"], json!(made[2]));
    let refused = told("DELETE", "forbidden");
    assert_eq!((refused.len(), &refused[0]["actor"]), (1, &json!("token:of-a")));
    let unauthorized = told("GET", "unauthorized");
    assert_eq!(unauthorized.len(), 2);
    assert!(unauthorized.iter().all(|l| l["actor"] == "unknown" && l["status"] == 401));
    assert!(told("GET", "done").is_empty(), "reading is no change");
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_tells_what_is_left_and_projects_do_not_share_it() {
    let Some(broker) = broker() else { return };
    let prefix = broker.unique_prefix();
    topics(&broker.bootstrap, &prefix).await;
    let more = "api.requests_per_second = 20";
    let roles = [Role::Api, Role::Registrar];
    let instance = start(&broker.bootstrap, &prefix, more, &roles).await;
    let client = &instance.client;
    let of_a = client.with_token(OF_A);
    let first = of_a.get(&connectors("proj_a")).await.is(200);
    assert_eq!(
        (first.header("ratelimit-limit"), first.header("ratelimit-remaining")),
        ("40", "39")
    );
    assert!(first.header("ratelimit-reset").parse::<u64>().unwrap() >= 1);
    let list = connectors("proj_a");
    let asked = (0..100).map(|_| of_a.get(&list));
    let answers = futures_util::future::join_all(asked).await;
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status == 429).collect();
    assert!(refused.len() >= 30, "{}", refused.len());
    assert!(refused.iter().all(|answer| answer.header("ratelimit-remaining") == "0"));
    assert!(refused.iter().all(|answer| !answer.header("retry-after").is_empty()));
    // Another token of the same project waits too; other projects do not.
    let same = futures_util::future::join_all((0..30).map(|_| client.get(&list))).await;
    assert!(same.iter().any(|answer| answer.status == 429));
    client.get(&connectors("proj_b")).await.is(200);
    // Wrong tokens from one address come to an end.
    let wrong = client.with_token("wrong");
    let tried = futures_util::future::join_all((0..100).map(|_| wrong.get(&list))).await;
    let (known, ended): (Vec<_>, Vec<_>) = tried.iter().partition(|answer| answer.status == 401);
    assert!(known.len() >= 40 && ended.len() >= 40, "{} {}", known.len(), ended.len());
    assert!(ended.iter().all(|answer| answer.status == 429));
    instance.stop().await;
}
