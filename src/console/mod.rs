//! The admin API: replays, dead letters, attempts and one event's story as JSON over the admin
//! port, behind a token of its own; and the console's pages, which show and do the same.

mod ask;
mod handlers;
mod jobs;
mod pages;

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{MatchedPath, Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};
use subtle::ConstantTimeEq;
use tokio::sync::{OnceCell, Semaphore};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::{
    admin::Health,
    api::{Commands, Failure, audit::Entry, bearer, refused},
    codec::Codec,
    config::Config,
    connector::{Command, Problem, ProblemCode},
    id::{CommandId, ConnectorKey},
    metrics::Metrics,
    operations::{InstanceFacts, NotThere, Operations, StillRunning, WrongOffsets},
    pipeline::Dispatcher,
    tokens,
    view::View,
};

use ask::whole;
use jobs::Jobs;
use pages::Pages;

/// Reading requests at once: each reads a log from Kafka.
pub const MAX_READS: usize = 4;
/// How long running jobs may take to keep their progress at shutdown.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// What every request shares.
pub struct Console {
    config: Config,
    operations: Operations,
    metrics: Arc<Metrics>,
    health: Arc<dyn Health>,
    /// The SHA-256 of the token, in hexadecimal digits; without one nobody gets in.
    token: Option<String>,
    view: Arc<View>,
    /// Over how many partitions of the commands the projects are spread.
    partitions: i32,
    codec: Codec,
    /// What sends commands; made for the first one.
    commands: OnceCell<Commands>,
    /// What delivers, when this instance does.
    dispatcher: OnceLock<Arc<Dispatcher>>,
    reads: Arc<Semaphore>,
    jobs: Jobs,
    tasks: TaskTracker,
}

type Shared = State<Arc<Console>>;

impl Console {
    /// The admin API with these settings.
    pub fn new(
        config: &Config,
        codec: &Codec,
        metrics: &Arc<Metrics>,
        health: Arc<dyn Health>,
        view: &Arc<View>,
        partitions: i32,
    ) -> anyhow::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            operations: Operations::new(config, codec.clone())?,
            metrics: Arc::clone(metrics),
            health,
            token: config.admin.token_sha256.clone().map(|digest| digest.to_ascii_lowercase()),
            config: config.clone(),
            view: Arc::clone(view),
            partitions,
            codec: codec.clone(),
            commands: OnceCell::new(),
            dispatcher: OnceLock::new(),
            reads: Arc::new(Semaphore::new(MAX_READS)),
            jobs: Jobs::default(),
            tasks: TaskTracker::new(),
        }))
    }

    /// The logs that it reads.
    pub fn operations(&self) -> &Operations {
        &self.operations
    }

    /// Lets the console tell what this instance holds.
    pub fn delivers(&self, dispatcher: &Arc<Dispatcher>) {
        // Set once, where the service is put together.
        let _ = self.dispatcher.set(Arc::clone(dispatcher));
    }

    /// Deliveries that are held for a connector, if this instance keeps them.
    fn held_count(&self, key: &ConnectorKey) -> Option<u64> {
        self.dispatcher.get()?.held_count(key)
    }

    /// Sends a command, and returns when the view shows what became of it.
    async fn command(&self, mut command: Value, actor: &str) -> Result<(), Failure> {
        command["id"] = json!(CommandId::from_uuid(Uuid::now_v7()));
        command["actor"] = json!(actor);
        let command = Command::from_value(command).map_err(refused)?;
        let start = || async {
            let topics = self.config.topics();
            let connection = self.config.connection()?;
            let (codec, metrics) = (&self.codec, &self.metrics);
            Commands::start(&connection, &topics, codec, self.partitions, metrics).await
        };
        let commands = self.commands.get_or_try_init(start).await;
        let commands = commands.map_err(|error| failed(&error))?;
        Ok(commands.run(&command, &self.view).await?)
    }

    /// Its routes, and those of the console's pages.
    pub fn router(self: &Arc<Self>) -> anyhow::Result<Router> {
        Ok(self.api().merge(Pages::new(self)?.router()))
    }

    fn api(self: &Arc<Self>) -> Router {
        Router::new()
            .route("/admin/v1/replays", get(handlers::replays).post(handlers::start_replay))
            .route("/admin/v1/replays/{job}", get(handlers::replay))
            .route("/admin/v1/replays/{job}/resume", post(handlers::resume_replay))
            .route("/admin/v1/jobs/{job}/stop", post(handlers::stop_job))
            .route("/admin/v1/dead-letters", get(handlers::dead_letters))
            .route("/admin/v1/dead-letters/redrive", post(handlers::start_redrive))
            .route("/admin/v1/dead-letters/purge", post(handlers::purge))
            .route("/admin/v1/dead-letters/{position}", get(handlers::dead_letter))
            .route("/admin/v1/redrives/{job}", get(handlers::redrive))
            .route("/admin/v1/deliveries", get(handlers::deliveries))
            .route("/admin/v1/events/{event}/trace", get(handlers::trace))
            .route("/admin/status", get(handlers::status))
            .route("/admin/lag", get(handlers::lag))
            .route_layer(middleware::from_fn(receive))
            .route_layer(middleware::from_fn_with_state(Arc::clone(self), admit))
            .with_state(Arc::clone(self))
    }

    /// Stops the jobs that run here; each can be resumed.
    pub async fn stopped(&self) {
        self.jobs.stop();
        if let Some(commands) = self.commands.get() {
            commands.stop();
        }
        self.tasks.close();
        if tokio::time::timeout(STOP_TIMEOUT, self.tasks.wait()).await.is_err() {
            tracing::warn!("jobs of the admin API were cut off; they can be resumed");
        }
    }

    /// What this instance says of itself.
    fn instance(&self) -> InstanceFacts {
        let (waiting_for, failure) = (self.health.not_ready(), self.health.failure());
        let mut facts = InstanceFacts {
            address: self.config.admin.listen.to_string(),
            ready: waiting_for.is_empty() && failure.is_none(),
            waiting_for,
            warnings: self.health.warnings(),
            failure,
            open_circuits: BTreeMap::new(),
            held: BTreeMap::new(),
            suspended: Vec::new(),
        };
        facts.take_metrics(&self.metrics.render());
        facts
    }

    /// The logs with the permission to read them, of which there are few.
    fn reading(&self) -> Result<Operations, Failure> {
        let permit = Arc::clone(&self.reads).try_acquire_owned().map_err(|_| {
            let detail = format!("{MAX_READS} requests read Kafka already: try again soon.");
            Problem::new(ProblemCode::RateLimited, detail)
        })?;
        Ok(self.operations.holding(permit))
    }

    /// Runs a call that reads a log.
    async fn read<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Operations) -> anyhow::Result<T> + Send + 'static,
    ) -> Result<T, Failure> {
        self.reading()?.blocking(call).await.map_err(|error| failed(&error))
    }
}

/// An operation that did not work: the caller is an operator and gets its words.
fn failed(error: &anyhow::Error) -> Failure {
    if error.is::<NotThere>() {
        return Problem::new(ProblemCode::NotFound, error.to_string()).into();
    }
    if let Some(running) = error.downcast_ref::<StillRunning>() {
        return conflict(&running.to_string());
    }
    if let Some(wrong) = error.downcast_ref::<WrongOffsets>() {
        return Problem::new(ProblemCode::ValidationFailed, wrong.to_string()).into();
    }
    tracing::warn!(error = format!("{error:#}"), "the admin API cannot answer");
    Problem::new(ProblemCode::Unavailable, format!("{error:#}")).into()
}

fn conflict(detail: &str) -> Failure {
    Problem::new(ProblemCode::Conflict, detail).into()
}

/// Receives the body of a request that was let in.
async fn receive(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    match whole(body).await {
        Ok(bytes) => next.run(Request::from_parts(parts, Body::from(bytes))).await,
        Err(problem) => Failure::from(problem).into_response(),
    }
}

/// Lets a request in that has the admin token.
async fn admit(State(console): Shared, request: Request, next: Next) -> Response {
    let Some(expected) = &console.token else {
        let detail = "No admin token is set: make one with `dunmore token create --admin`.";
        return Failure::from(Problem::new(ProblemCode::AdminDisabled, detail)).into_response();
    };
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let mut entry = Entry::of(&request, route.as_deref().unwrap_or_default());
    let digest = bearer(request.headers()).ok().map(tokens::digest_of);
    // Both are digests of one length, so the time that this takes tells nothing.
    let is_it = digest.is_some_and(|digest| digest.as_bytes().ct_eq(expected.as_bytes()).into());
    if !is_it {
        let refused = Failure::unauthorized("This needs the admin token.").into_response();
        entry.write(&refused);
        return refused;
    }
    entry.actor = Some("admin");
    let response = next.run(request).await;
    entry.write(&response);
    response
}
