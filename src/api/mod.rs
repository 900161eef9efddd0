//! The REST API: customers manage their connectors over HTTP.
//!
//! Reads come from the view. A write becomes a command: it is checked against the view, its
//! secrets are encrypted, it is written to Kafka, and its result is waited for, then the view, so
//! that whoever reads next at this instance sees what was written.

mod answers;
pub mod audit;
mod callers;
mod catalog;
mod commands;
mod connectors;
mod cors;
mod deliveries;
mod edge;
mod error;
mod filter;
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

pub use callers::{Callers, MAX_FILE_BYTES};
pub use connectors::{DEFAULT_PAGE, MAX_PAGE};
pub use deliveries::RESENDS;
pub use signing::{DEFAULT_OVERLAP, read_overlap};

use crate::{
    codec::Codec,
    connector::{Problem, ProblemCode},
    egress::EgressPolicy,
    kafka::{Connection, Topics},
    listen,
    metrics::Metrics,
    operations::Operations,
    pipeline::Dispatcher,
    telemetry,
    view::View,
};
pub(crate) use commands::Commands;
pub(crate) use connectors::refused;
use deliveries::Logs;
use edge::Limits;
pub(crate) use edge::bearer;
pub(crate) use error::Failure;
use filter::Evaluations;
use trial::Trials;
pub(crate) use trial::sample;

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
    pub callers: Arc<Callers>,
    /// The pages that browsers may call from.
    pub cors_origins: Vec<String>,
    /// Requests per second of one caller; 0 is no limit.
    pub requests_per_second: u32,
    /// The logs.
    pub operations: Operations,
    /// The metrics.
    pub metrics: Arc<Metrics>,
}

/// What every request shares.
struct Shared {
    view: Arc<View>,
    dispatcher: Option<Arc<Dispatcher>>,
    egress: EgressPolicy,
    callers: Arc<Callers>,
    limits: Limits,
    commands: Commands,
    logs: Logs,
    filters: Evaluations,
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
        if options.callers.is_empty() {
            tracing::warn!(
                "neither api.tokens nor api.tokens_file nor api.jwt is set: every call of the API gets 401; \
                 `dunmore token create` makes a token"
            );
        }
        let address = listener.local_addr()?;
        let topics = &options.topics;
        let (codec, partitions) = (&options.codec, options.partitions);
        let commands =
            Commands::start(&options.connection, topics, codec, partitions, &options.metrics)
                .await?;
        let shared = Arc::new(Shared {
            view: options.view,
            dispatcher: options.dispatcher,
            egress: options.egress,
            callers: options.callers,
            limits: Limits::new(options.requests_per_second),
            commands,
            logs: Logs::new(options.operations)?,
            filters: Evaluations::new(),
            trials: Trials::new(),
            metrics: options.metrics,
        });
        let stop = CancellationToken::new();
        let app = router(Arc::clone(&shared), &options.cors_origins);
        let stopped = stop.clone();
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
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, self.shared.logs.stopped()).await.is_err() {
            tracing::warn!("recoveries were cut off");
        }
    }
}

fn router(shared: Arc<Shared>, origins: &[String]) -> Router {
    const CONNECTORS: &str = "/api/projects/{projectId}/connectors";
    let path = |rest: &str| format!("{CONNECTORS}{rest}");
    let connector = get(connectors::read).patch(connectors::update).delete(connectors::delete);
    let no_query = || middleware::from_fn(query::none);
    let create = post(connectors::create).layer(no_query());
    let routes = Router::new()
        .route(CONNECTORS, get(connectors::list).merge(create))
        .route(&path("/{connectorId}"), connector.layer(no_query()))
        .route(&path("/{connectorId}/resume"), post(connectors::resume).layer(no_query()))
        .route(&path("/{connectorId}/signing-secret"), post(signing::replace).layer(no_query()))
        .route(&path("/{connectorId}/test"), post(trial::test).layer(no_query()))
        .route(&path("/{connectorId}/deliveries"), get(deliveries::of_connector))
        .route(
            &path("/{connectorId}/deliveries/{deliveryId}/resend"),
            post(deliveries::resend).layer(no_query()),
        )
        .route(&path("/{connectorId}/recover"), post(deliveries::recover).layer(no_query()))
        .route("/api/projects/{projectId}/deliveries", get(deliveries::of_project))
        .route(&path("/{connectorId}/filter/test"), post(filter::test).layer(no_query()))
        .route("/api/projects/{projectId}", get(catalog::project).layer(no_query()))
        .route("/api/connector-types", get(catalog::connector_types).layer(no_query()))
        .route("/api/event-types", get(catalog::event_types).layer(no_query()))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&shared), edge::admit))
        .route("/openapi.json", get(document))
        .fallback(nothing_here)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(Arc::clone(&shared));
    let routes = match cors::layer(origins) {
        Some(cors) => routes.layer(cors),
        None => routes,
    };
    routes.layer(middleware::from_fn_with_state(shared, edge::watch))
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
