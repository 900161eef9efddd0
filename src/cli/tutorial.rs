//! What `serve --embedded` has for a first look: a project, a place that shows what arrives, and
//! three lines to paste.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, anyhow};
use axum::{
    Router,
    body::Bytes,
    http::{Method, StatusCode, Uri},
};
use serde_json::json;
use tokio::{net::TcpListener, task::JoinHandle};
use uuid::Uuid;

use super::{
    control::{ControlClient, actor},
    output,
};
use crate::{
    codec::Codec,
    config::Config,
    connector::{Command, CommandOutcome},
    destination::cut,
    id::CommandId,
    text::harmless,
};

/// The project that may have connectors.
const PROJECT: &str = "proj_1";
/// Of a body that arrives, so many characters are shown.
const MAX_SHOWN: usize = 2000;

/// A server on a loopback port that prints what it gets. It ends when this is dropped.
pub struct Tutorial {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Tutorial {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Tutorial {
    /// Listens, and lets connectors call it.
    pub async fn start(config: &mut Config) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.context("cannot listen on a loopback port")?;
        let address = listener.local_addr()?;
        let loopback = "127.0.0.0/8".parse().map_err(|error| anyhow!("{error:?}"))?;
        config.egress.allow_cidrs.push(loopback);
        config.egress.allow_http = true;
        let app = Router::new().fallback(show);
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, app).await {
                tracing::error!(%error, "what shows the deliveries has stopped");
            }
        });
        Ok(Self { address, task })
    }

    /// Puts the project on a tier that has connectors, and prints what to paste.
    pub async fn begin(&self, config: &Config, token: &str) -> anyhow::Result<()> {
        let connection = config.connection()?;
        let topics = config.topics();
        let command = json!({
            "id": CommandId::from_uuid(Uuid::now_v7()), "type": "project.set_tier",
            "projectId": PROJECT, "tier": "enterprise", "actor": actor(),
        });
        let command = Command::from_value(command).map_err(|refused| anyhow!("{refused:?}"))?;
        let client = ControlClient::new(&connection, &topics, Codec::json())?;
        let result = client.send(&command).await?;
        if result.outcome != CommandOutcome::Accepted {
            return Err(anyhow!("the project for the first look was refused"));
        }
        let (api, sink) = (config.api.listen, self.address);
        let servers = connection.bootstrap_servers();
        output::line(&format!(
            "\n{PROJECT} is on tier enterprise, and what its connectors send to http://{sink} is \
             printed here. Paste into another terminal:\n\n\
             curl -H 'Authorization: Bearer {token}' -H 'Content-Type: application/json' \
             http://{api}/api/projects/{PROJECT}/connectors -d '{{\"type\":\"n8n\",\"config\":\
             {{\"webhookUrl\":\"http://{sink}/webhook/try\"}},\"eventTypes\":[\"*\"]}}'\n\n\
             dunmore event send --sample payment.settled | \
             dunmore event send --bootstrap-servers {servers}\n\n\
             curl -H 'Authorization: Bearer {token}' http://{api}/api/projects/{PROJECT}/deliveries\n"
        ));
        Ok(())
    }
}

async fn show(method: Method, uri: Uri, body: Bytes) -> StatusCode {
    let text: String = String::from_utf8_lossy(&body).chars().map(harmless).collect();
    output::line(&format!("arrived: {method} {uri} {}", cut(&text, MAX_SHOWN)));
    StatusCode::OK
}
