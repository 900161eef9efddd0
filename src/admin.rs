//! The admin server: `/metrics`, `/healthz`, `/readyz`, and beside them the admin API.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use axum::{
    Json, Router,
    extract::{MatchedPath, Request, State},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{listen, metrics::Metrics};

/// Whether this instance is alive and ready, asked at each request.
pub trait Health: Send + Sync + 'static {
    /// What is not ready yet; nothing when it is ready.
    fn not_ready(&self) -> Vec<String>;
    /// What an operator should know of although this instance does its work.
    fn warnings(&self) -> Vec<String>;
    /// Why it cannot go on without a restart, if so.
    fn failure(&self) -> Option<String>;
}

#[derive(Clone)]
struct Shared {
    metrics: Arc<Metrics>,
    health: Arc<dyn Health>,
}

impl Shared {
    fn is_ready(&self) -> bool {
        self.health.not_ready().is_empty() && self.health.failure().is_none()
    }
}

#[derive(Serialize, Default)]
struct Status<'a> {
    status: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    waiting_for: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
}

/// Serves until the future is dropped, which closes all connections. The address was bound before, so that a taken port is told
/// at the start.
pub async fn serve(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    health: Arc<dyn Health>,
    console: Router,
) {
    let shared = Shared { metrics, health };
    let app = Router::new()
        .route("/metrics", get(metrics_text))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(shared.clone())
        .merge(console)
        .layer(middleware::from_fn_with_state(shared, count));
    let stop = CancellationToken::new();
    let _closing = stop.clone().drop_guard();
    listen::serve(listener, app, stop).await;
}

/// Binds an address, with an error that names the setting.
pub async fn bind(setting: &str, address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address)
        .await
        .map_err(|error| format!("cannot listen on {address} ({setting}): {error}"))
}

async fn metrics_text(State(shared): State<Shared>) -> Response {
    let content = [("content-type", "text/plain; version=0.0.4; charset=utf-8")];
    shared.metrics.set_ready(shared.is_ready());
    (content, shared.metrics.render()).into_response()
}

async fn healthz(State(shared): State<Shared>) -> Response {
    match shared.health.failure() {
        None => Json(Status { status: "ok", ..Status::default() }).into_response(),
        failure => {
            let body = Json(Status { status: "failed", failure, ..Status::default() });
            (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
        }
    }
}

async fn readyz(State(shared): State<Shared>) -> Response {
    let health = &shared.health;
    let (waiting_for, failure) = (health.not_ready(), health.failure());
    let is_ready = waiting_for.is_empty() && failure.is_none();
    let status = if is_ready { "ready" } else { "not ready" };
    let code = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let warnings = health.warnings();
    (code, Json(Status { status, waiting_for, warnings, failure })).into_response()
}

async fn count(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let method = request.method().to_string();
    let path = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let response = next.run(request).await;
    let route = path.unwrap_or_else(|| "none".to_owned());
    shared.metrics.http(&method, &route, response.status().as_u16(), began.elapsed());
    response
}
