//! Instances of the service in this process, and a client of their API.

use std::{collections::BTreeSet, time::Duration};

use dunmore_connectors::{
    config::Config,
    kafka::{Admin, Topics},
    service::{Role, Service},
    tokens,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The token that may touch everything.
pub const ADMIN: &str = "admin-token";
/// The token of `proj_a` alone.
pub const OF_A: &str = "token-of-a";
pub const KEY: &str = "k1:BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";

pub struct Instance {
    pub service: Service,
    pub client: Client,
    folder: TempDir,
}

impl Instance {
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Stops it, and gives the folder, which is there until it is dropped.
    pub async fn stop(self) -> TempDir {
        self.service.stop().await;
        self.folder
    }
}

#[derive(Clone)]
pub struct Client {
    base: String,
    token: String,
    http: reqwest::Client,
}

pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The problem's code; every error has one.
    pub fn code(&self) -> &str {
        assert_eq!(self.header("content-type"), "application/problem+json", "{}", self.body);
        assert_eq!(self.body["status"], self.status);
        self.body["code"].as_str().unwrap()
    }

    pub fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.body);
        assert!(!self.header("x-request-id").is_empty());
        self
    }
}

pub async fn topics(bootstrap: &str, prefix: &str) {
    topics_with(bootstrap, prefix, "").await;
}

pub async fn topics_with(bootstrap: &str, prefix: &str, more: &str) {
    let config = config(bootstrap, prefix, more, "/nowhere");
    let topics = Topics::new(prefix, &config.delivery.policy());
    let admin = Admin::new(&config.connection().unwrap()).unwrap();
    admin.ensure(&topics, 2, 1).await.unwrap();
    // The broker's answer comes before everybody knows the topics.
    while admin.require(&topics).is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn config(bootstrap: &str, prefix: &str, more: &str, folder: &str) -> Config {
    let (admin, of_a) = (tokens::digest_of(ADMIN), tokens::digest_of(OF_A));
    let rate =
        if more.contains("requests_per_second") { "" } else { "api.requests_per_second = 0" };
    let text = format!(
        r#"
        kafka.bootstrap_servers = "{bootstrap}"
        topics.prefix = "{prefix}"
        group.id = "{prefix}group"
        data_dir = "{folder}"
        api.listen = "127.0.0.1:0"
        {rate}
        admin.listen = "127.0.0.1:0"
        secrets.keys = ["{KEY}"]
        {more}
        [[api.tokens]]
        name = "admin"
        sha256 = "{admin}"
        projects = ["*"]
        [[api.tokens]]
        name = "of-a"
        sha256 = "{of_a}"
        projects = ["proj_a"]
        "#
    );
    Config::from_toml(&text).unwrap()
}

pub async fn start(bootstrap: &str, prefix: &str, more: &str, roles: &[Role]) -> Instance {
    let folder = TempDir::new().unwrap();
    let config = config(bootstrap, prefix, more, folder.path().to_str().unwrap());
    let roles: BTreeSet<Role> = roles.iter().copied().collect();
    let service = Service::start(config, &roles).await.unwrap();
    service.ready().await;
    let base = format!("http://{}", service.api_address().unwrap());
    // A second call finds the provider already installed, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::Client::builder().timeout(Duration::from_secs(90)).build().unwrap();
    let client = Client { base, token: ADMIN.to_owned(), http };
    Instance { service, client, folder }
}

impl Client {
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: token.to_owned(), ..self.clone() }
    }

    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<String>,
    ) -> Answer {
        let method = method.parse().unwrap();
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if !self.token.is_empty() {
            request = request.header("authorization", format!("Bearer {}", self.token));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let body = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or_default();
        Answer { status, headers, body }
    }

    pub async fn json(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> Answer {
        let mut all = vec![("content-type", "application/json")];
        all.extend_from_slice(headers);
        self.send(method, path, &all, Some(body.to_string())).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], None).await
    }

    pub async fn create(&self, project: &str, body: &Value) -> Answer {
        self.json("POST", &connectors(project), &[], body).await
    }
}

pub fn connectors(project: &str) -> String {
    format!("/api/projects/{project}/connectors")
}

pub const HOOK: &str =
    "https://hooks.slack.com/services/T00000001/B00000001/abcdefghijklmnopqrstuvwx";

pub fn slack() -> Value {
    json!({ "type": "slack", "config": { "webhookUrl": HOOK }, "eventTypes": ["payment.settled"] })
}
