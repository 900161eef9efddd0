//! The REST API: customers manage their connectors over HTTP.
//!
//! Reads come from the view. A write becomes a command: it is checked against the view, its
//! secrets are encrypted, it is written to Kafka, and its result is waited for, then the view, so
//! that whoever reads next at this instance sees what was written.

pub mod audit;
mod commands;
mod connectors;
mod deliveries;
mod edge;
mod error;
pub mod openapi;
pub mod query;
mod signing;
mod trial;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::anyhow;
use axum::{
    Json, Router,
    extract::DefaultBodyLimit,
    middleware,
    response::IntoResponse,
    routing::{get, post},
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

pub use connectors::{DEFAULT_PAGE, MAX_PAGE};
pub use deliveries::{MAX_RECENT, MAX_RECENT_PER_CONNECTOR};
pub use signing::{DEFAULT_OVERLAP, read_overlap};

use crate::{
    codec::Codec,
    connector::{Problem, ProblemCode},
    egress::EgressPolicy,
    kafka::{Connection, TopicKind, Topics},
    listen,
    metrics::Metrics,
    pipeline::Dispatcher,
    telemetry,
    tokens::Tokens,
    view::View,
};
use commands::Commands;
use deliveries::Recent;
use edge::Limits;
pub(crate) use edge::bearer;
pub(crate) use error::Failure;
use trial::Trials;

/// The largest request, in bytes: twenty fields of 8 KiB and their escapes.
pub const MAX_BODY_BYTES: usize = 256 * 1024;
/// How long a request may take in all. A trial waits for somebody else's service.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// How long requests may go on after the shutdown has begun.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(12);

/// What the API is made of.
pub struct ApiOptions {
    /// Kafka.
    pub connection: Connection,
    /// The topics' names.
    pub topics: Topics,
    /// The form of their records.
    pub codec: Codec,
    /// Over how many partitions of the commands the projects are spread.
    pub partitions: i32,
    /// The connectors.
    pub view: Arc<View>,
    /// What sends trial events, when this instance delivers.
    pub dispatcher: Option<Arc<Dispatcher>>,
    /// Where users' URLs may point.
    pub egress: EgressPolicy,
    /// Who may call.
    pub tokens: Tokens,
    /// Requests per second of one caller; 0 is no limit.
    pub requests_per_second: u32,
    /// The metrics.
    pub metrics: Arc<Metrics>,
}

/// What every request shares.
struct Shared {
    view: Arc<View>,
    dispatcher: Option<Arc<Dispatcher>>,
    egress: EgressPolicy,
    tokens: Tokens,
    limits: Limits,
    commands: Commands,
    recent: Recent,
    trials: Trials,
    metrics: Arc<Metrics>,
}

/// The running API.
pub struct Api {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Api {
    /// Starts to serve. It returns when results of commands can be waited for.
    pub async fn start(listener: TcpListener, options: ApiOptions) -> anyhow::Result<Self> {
        if options.tokens.is_empty() {
            tracing::warn!(
                "neither api.tokens nor api.jwt is set: every call of the API gets 401; \
                 `dunmore token create` makes a token"
            );
        }
        let address = listener.local_addr()?;
        let topics = &options.topics;
        let (codec, partitions) = (&options.codec, options.partitions);
        let commands =
            Commands::start(&options.connection, topics, codec, partitions, &options.metrics)
                .await?;
        let attempts = topics.name(TopicKind::Attempts);
        let recent = Recent::start(&options.connection, attempts, codec).await?;
        let shared = Arc::new(Shared {
            view: options.view,
            dispatcher: options.dispatcher,
            egress: options.egress,
            tokens: options.tokens,
            limits: Limits::new(options.requests_per_second),
            commands,
            recent,
            trials: Trials::new(),
            metrics: options.metrics,
        });
        let stop = CancellationToken::new();
        let (app, stopped) = (router(Arc::clone(&shared)), stop.clone());
        let task = tokio::spawn(async move {
            listen::serve(listener, app, stopped).await;
        });
        Ok(Self { address, shared, stop, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no new requests and finishes those that are under way.
    pub async fn stopped(mut self) {
        self.stop.cancel();
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, &mut self.task).await.is_err() {
            tracing::warn!("requests were cut off");
            self.task.abort();
        }
        self.shared.commands.stop();
        self.shared.recent.stop();
    }
}

fn router(shared: Arc<Shared>) -> Router {
    const CONNECTORS: &str = "/api/projects/{projectId}/connectors";
    let path = |rest: &str| format!("{CONNECTORS}{rest}");
    let connector = get(connectors::read).patch(connectors::update).delete(connectors::delete);
    let no_query = || middleware::from_fn(query::none);
    let create = post(connectors::create).layer(no_query());
    Router::new()
        .route(CONNECTORS, get(connectors::list).merge(create))
        .route(&path("/{connectorId}"), connector.layer(no_query()))
        .route(&path("/{connectorId}/resume"), post(connectors::resume).layer(no_query()))
        .route(&path("/{connectorId}/signing-secret"), post(signing::replace).layer(no_query()))
        .route(&path("/{connectorId}/test"), post(trial::test).layer(no_query()))
        .route(&path("/{connectorId}/deliveries"), get(deliveries::list))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&shared), edge::admit))
        .route("/openapi.json", get(document))
        .fallback(nothing_here)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), edge::watch))
        .with_state(shared)
}

async fn document() -> impl IntoResponse {
    Json(openapi::document())
}

async fn nothing_here() -> Failure {
    Problem::new(ProblemCode::NotFound, "See /openapi.json for what there is.").into()
}

async fn wrong_method() -> Failure {
    Problem::new(ProblemCode::MethodNotAllowed, "See /openapi.json for what there is.").into()
}

/// The name of an error, for callers who cannot act on more.
fn unavailable(error: impl std::fmt::Display) -> Problem {
    tracing::error!(%error, "the API cannot answer; check the disk of data_dir");
    Problem::new(ProblemCode::Unavailable, "The connectors cannot be read now. Try again soon.")
}

/// Runs a call that blocks.
async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, crate::kafka::KafkaError> + Send + 'static,
) -> anyhow::Result<T> {
    Ok(tokio::task::spawn_blocking(call)
        .await
        .map_err(|error| anyhow!(telemetry::early_end(&error)))??)
}
