//! The console: pages for operators, made here and sent whole. What they show and do comes from the
//! same operations as the command line and the admin API have.

mod connector;
mod connectors;
mod event;
mod find;
mod frame;
mod gate;
mod job;
mod kept;
mod letter;
mod letters;
mod now;
mod replays;
mod session;

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::header,
    middleware,
    response::IntoResponse,
    routing::{get, post},
};
use parking_lot::Mutex;

use super::{
    Console,
    ask::{Query, Wrong},
    handlers::FAILING_WITHIN,
};
use crate::{
    api::Failure,
    connector::{Problem, ProblemCode},
    operations::{AttemptPages, Heaps, Status},
    view::StoreError,
};
use frame::{Instance, Page, Trouble};
use kept::Kept;
use session::{Attempts, Sessions};

/// Failing connectors that are shown.
const MAX_FAILING: usize = 20;

/// The most connectors that a page looks through.
const MAX_SEARCHED: usize = 200_000;

/// What every page shares.
pub struct Pages {
    console: Arc<Console>,
    attempts_log: Arc<AttemptPages>,
    sessions: Mutex<Sessions>,
    attempts: Attempts,
    status: Kept<Status>,
    heaps: Kept<Heaps>,
}

type Shared = State<Arc<Pages>>;
type Shown = Result<Page, Trouble>;

impl Pages {
    /// The pages of a console.
    pub fn new(console: &Arc<Console>) -> anyhow::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            attempts_log: Arc::new(AttemptPages::new(console.operations())?),
            console: Arc::clone(console),
            sessions: Mutex::default(),
            attempts: Attempts::new(),
            status: Kept::new(),
            heaps: Kept::new(),
        }))
    }

    /// Their routes.
    pub fn router(self: &Arc<Self>) -> Router {
        const CONNECTOR: &str = "/console/projects/{project}/connectors/{connector}";
        let path = |rest: &str| format!("{CONNECTOR}{rest}");
        let redrive = get(letters::plan).post(letters::redrive);
        Router::new()
            .route("/console", get(now::now))
            .route("/console/find", get(find::find))
            .route("/console/letters", get(letters::heaps))
            .route("/console/letters/heap", get(letters::heap))
            .route("/console/letters/redrive", redrive)
            .route("/console/letters/{position}", get(letter::letter))
            .route("/console/jobs/{job}", get(job::job))
            .route("/console/jobs/{job}/stop", post(job::stop))
            .route("/console/jobs/{job}/resume", post(job::resume))
            .route("/console/replays", get(replays::replays).post(replays::start))
            .route("/console/replays/plan", get(replays::plan))
            .route("/console/connectors", get(connectors::all))
            .route("/console/projects", get(connectors::projects))
            .route("/console/projects/{project}", get(connectors::project))
            .route("/console/projects/{project}/history", get(connectors::history))
            .route(CONNECTOR, get(connector::connector))
            .route(&path("/resume"), post(connector::resume))
            .route(&path("/active"), post(connector::switch))
            .route("/console/events/{event}", get(event::event))
            .route("/console/logout", post(gate::logout))
            .route("/console/", get(nothing))
            .route("/console/{*rest}", get(nothing))
            .route_layer(middleware::from_fn_with_state(Arc::clone(self), gate::admit))
            .route("/console/login", get(gate::login_form).post(gate::login))
            .route("/console/style.css", get(style))
            .route("/console/console.js", get(script))
            .layer(middleware::from_fn(gate::guard))
            .with_state(Arc::clone(self))
    }

    /// What the frame says of this instance.
    fn instance(&self) -> Instance {
        let health = &self.console.health;
        let waits = health.failure().or_else(|| health.not_ready().into_iter().next());
        Instance { waits, address: self.console.config.admin.listen.to_string() }
    }

    /// How the service is, looked at lately.
    async fn status(&self) -> Result<Arc<Status>, Failure> {
        let console = &self.console;
        let look = async {
            let instance = async { Ok(console.instance()) };
            let status = console.reading()?.status(FAILING_WITHIN, MAX_FAILING, instance).await;
            Ok::<_, Failure>(status)
        };
        Ok(self.status.get(look).await?.0)
    }

    /// Runs a call that reads the disk.
    async fn read_view<T: Send + 'static>(
        &self,
        call: impl FnOnce(&crate::view::View) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Problem> {
        let view = Arc::clone(&self.console.view);
        let read = tokio::task::spawn_blocking(move || call(&view)).await;
        let read = read.map_err(|error| crate::telemetry::early_end(&error));
        read.and_then(|read| read.map_err(|error| error.to_string())).map_err(|error| {
            tracing::error!(error, "the console cannot read the connectors");
            let detail = format!("The connectors cannot be read: {error}. Check data_dir.");
            Problem::new(ProblemCode::Unavailable, detail)
        })
    }
}

/// The fields of a form or a query that were filled in; those of forms come empty else.
fn filled(text: &str, known: &[&str], wrong: &mut Wrong) -> Query {
    let mut query = Query::read(Some(text), known, wrong);
    query.drop_empty();
    query
}

/// Hands over connectors, at most so many; returns whether there are more.
fn each_connector<T, E>(
    mut all: impl Iterator<Item = Result<T, E>>,
    most: usize,
    mut each: impl FnMut(T),
) -> Result<bool, E> {
    for connector in all.by_ref().take(most) {
        each(connector?);
    }
    Ok(all.next().is_some())
}

async fn nothing() -> Trouble {
    Problem::new(ProblemCode::NotFound, "The console has no such page.").into()
}

async fn style() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], include_str!("style.css"))
}

async fn script() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/javascript; charset=utf-8")], include_str!("console.js"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_is_cut_short_says_so() {
        let look = |most: usize| {
            let (all, mut seen) = ([Ok::<_, ()>("a"), Ok("b"), Ok("c")], Vec::new());
            let are_more = each_connector(all.into_iter(), most, |one| seen.push(one)).unwrap();
            (seen.len(), are_more)
        };
        assert_eq!([look(2), look(3), look(4)], [(2, true), (3, false), (3, false)]);
        let broken = [Ok("a"), Err("broken")];
        assert_eq!(each_connector(broken.into_iter(), 9, |_| {}), Err("broken"));
        assert!(frame::cut_short().into_string().contains("the first 200,000 connectors"));
    }
}
