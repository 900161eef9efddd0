//! A project's deliveries: looked up in the attempts topic, and sent again.

use std::{collections::HashSet, num::NonZeroU32, str::FromStr, sync::Arc};

use axum::{
    Json,
    extract::{Path, RawQuery, State},
    http::{HeaderMap, StatusCode},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    connectors::{Body, CURSOR_CHECK_CHARS, Shares, find, object, project_id},
    error::Failure,
    query::Query,
    unavailable,
};
use crate::{
    clock::{self, Timestamp},
    connector::{Connector, FieldError, Problem, ProblemCode, Tier, did_you_mean},
    delivery::{Outcome, Reason},
    event::EventType,
    filter::Facts,
    id::{DeliveryId, EventId, ProjectId},
    operations::{AttemptPages, NotThere, Operations, Progress, Run, StillRunning},
    replay::{AttemptFilter, ConnectorName, Selection},
    tokens::digest_of,
};

/// Attempts on a page unless the caller says how many.
pub const DEFAULT_PAGE: usize = 100;
/// The most attempts on a page.
pub const MAX_PAGE: usize = 1000;
/// Requests that may read the logs at once; the rest wait.
const MAX_READS: usize = 4;
/// Deliveries of one project that may be sent again at once after a pause; one more each second.
pub const RESENDS: u32 = 60;
/// Deliveries per second that a recovery asks for.
const RECOVERY_RATE: f64 = 200.0;
/// Projects whose resends are remembered; beyond that, idle ones are forgotten.
const MAX_REMEMBERED: usize = 10_000;

/// What sends again.
pub struct Logs {
    operations: Operations,
    pages: Arc<AttemptPages>,
    reads: Arc<Semaphore>,
    resends: DefaultKeyedRateLimiter<ProjectId>,
    /// Projects with a recovery under way on this instance.
    recovering: Arc<Mutex<HashSet<ProjectId>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Logs {
    /// Of these logs.
    pub fn new(operations: Operations) -> anyhow::Result<Self> {
        let pages = Arc::new(AttemptPages::new(&operations)?);
        let burst = NonZeroU32::new(RESENDS).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(NonZeroU32::MIN).allow_burst(burst);
        Ok(Self {
            operations,
            pages,
            reads: Arc::new(Semaphore::new(MAX_READS)),
            resends: RateLimiter::keyed(quota),
            recovering: Arc::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        })
    }

    /// Ends recoveries; each can be asked for again, and leaves out what was sent.
    pub async fn stopped(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Reads the logs beside the runtime; a few at once.
    pub async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Operations, &AttemptPages) -> anyhow::Result<T> + Send + 'static,
    ) -> Result<T, Failure> {
        let permit = Arc::clone(&self.reads).acquire_owned().await.map_err(unavailable)?;
        let pages = Arc::clone(&self.pages);
        // The read goes on when its request is gone, so the permit goes with it.
        let read = move |own: &Operations| {
            let _permit = permit;
            read(own, &pages)
        };
        let read = self.operations.blocking(read).await;
        read.map_err(|error| failure(&error))
    }
}

const RECOVERING: &str = "A recovery of this project is under way: wait for it to end.";

fn failure(error: &anyhow::Error) -> Failure {
    if let Some(missing) = error.downcast_ref::<NotThere>() {
        return Problem::new(ProblemCode::NotFound, missing.to_string()).into();
    }
    if error.is::<StillRunning>() {
        return Problem::new(ProblemCode::Conflict, RECOVERING).into();
    }
    tracing::warn!(error = format!("{error:#}"), "the logs cannot be read for the API");
    Problem::new(ProblemCode::Unavailable, "Kafka cannot be read now. Try again soon.").into()
}

/// `GET …/connectors/:id/deliveries`
pub async fn of_connector(
    State(shared): Shares,
    Path((project, connector)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, Failure> {
    let found = find(&shared, &project, &connector)?;
    let scope = found.key.to_string();
    list(&shared.logs, found.key.project, Some(name_of(&scope)?), &scope, query.as_deref()).await
}

/// `GET /api/projects/:id/deliveries`
pub async fn of_project(
    State(shared): Shares,
    Path(project): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, Failure> {
    let project = project_id(&project)?;
    let scope = project.to_string();
    list(&shared.logs, project, None, &scope, query.as_deref()).await
}

fn name_of(key: &str) -> Result<ConnectorName, Failure> {
    ConnectorName::from_str(key).map_err(|error| {
        tracing::error!(error, "a connector's key is no name; please report this bug");
        Problem::new(ProblemCode::Internal, "The connector's id cannot be used.").into()
    })
}

async fn list(
    logs: &Logs,
    project: ProjectId,
    connector: Option<ConnectorName>,
    scope: &str,
    query: Option<&str>,
) -> Result<Json<Value>, Failure> {
    let known = ["limit", "cursor", "outcome", "eventType", "reason", "eventId", "from", "to"];
    let mut query = Query::read(query, &known)?;
    let limit = query.number("limit", 1..=MAX_PAGE, DEFAULT_PAGE);
    let outcomes = named(&mut query, "outcome", Outcome::ALL, Outcome::as_str);
    let reasons = named(&mut query, "reason", Reason::ALL, Reason::as_str);
    let event_types = named(&mut query, "eventType", EventType::ALL, EventType::as_str);
    let event = query.parsed::<EventId>("eventId").map(|id| id.to_string());
    let (from, to) = (query.parsed::<Timestamp>("from"), query.parsed::<Timestamp>("to"));
    let cursor = query.text("cursor").map(str::to_owned);
    let place = cursor.as_deref().map(place_in);
    if place == Some(None) {
        query.refuse("cursor", NO_CURSOR);
    }
    query.check()?;
    let filter = AttemptFilter {
        event,
        projects: vec![project.clone()],
        connectors: connector.into_iter().collect(),
        event_types,
        outcomes,
        reasons,
        ..AttemptFilter::default()
    };
    let scope = scope.to_owned();
    let read = logs.read(move |operations, pages| {
        let topic = pages.topic()?;
        let before = match place.flatten() {
            Some((check, offset)) if check == check_of(&scope, &topic, offset) => Some(offset),
            Some(_) => return Ok(None),
            None => None,
        };
        let page = pages.page(operations, &project, &filter, (from, to), before, limit)?;
        let next = page.next.map(|offset| cursor_at(&scope, &topic, offset));
        Ok(Some(json!({ "deliveries": page.attempts, "nextCursor": next })))
    });
    let Some(page) = read.await? else {
        let errors = vec![FieldError::new("cursor", NO_CURSOR)];
        return Err(Problem::with_fields(ProblemCode::ValidationFailed, errors).into());
    };
    Ok(Json(page))
}

const NO_CURSOR: &str =
    "is no cursor of this list (any more): use nextCursor as it is, or begin without one";

fn named<T: Copy>(
    query: &mut Query,
    name: &str,
    all: &[T],
    as_str: impl Fn(T) -> &'static str,
) -> Vec<T> {
    let Some(text) = query.text(name).map(str::to_owned) else { return Vec::new() };
    let found = all.iter().copied().find(|one| as_str(*one) == text);
    if found.is_none() {
        let hint = did_you_mean(&text, all.iter().map(|one| as_str(*one)));
        query.refuse(name, &format!("is no known {name}{hint}"));
    }
    found.into_iter().collect()
}

/// Says where the next page begins. It is a position in the log, so it is the same on every
/// instance; a topic that was created anew has other positions.
fn cursor_at(scope: &str, topic: &str, offset: i64) -> String {
    URL_SAFE_NO_PAD.encode(format!("{}:{offset}", check_of(scope, topic, offset)))
}

fn place_in(cursor: &str) -> Option<(String, i64)> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
    let (check, offset) = text.split_once(':')?;
    Some((check.to_owned(), offset.parse().ok()?))
}

/// Tells a cursor of another list. It protects nothing: a page has what its caller may read.
fn check_of(scope: &str, topic: &str, offset: i64) -> String {
    digest_of(&format!("{scope}:{topic}:{offset}"))[..CURSOR_CHECK_CHARS].to_owned()
}

/// `POST …/connectors/:id/deliveries/:deliveryId/resend`
pub async fn resend(
    State(shared): Shares,
    Path((project, connector, delivery)): Path<(String, String, String)>,
) -> Result<(StatusCode, Json<Value>), Failure> {
    let found = find(&shared, &project, &connector)?;
    let Ok(id) = delivery.parse::<DeliveryId>() else {
        let detail = "The path names no delivery's id, such as the list of deliveries has.";
        return Err(Problem::new(ProblemCode::NotFound, detail).into());
    };
    let logs = &shared.logs;
    if logs.resends.len() > MAX_REMEMBERED {
        logs.resends.retain_recent();
    }
    if logs.resends.check_key(&found.key.project).is_err() {
        let detail = "Too many single deliveries of this project were sent again: use recover.";
        return Err(Problem::new(ProblemCode::RateLimited, detail).into());
    }
    let asked = found.clone();
    let again = logs.read(move |operations, pages| operations.again(pages, &asked, id)).await?;
    let subscriptions = shared.view.subscriptions(&found.key.project).map_err(unavailable)?;
    let event = again.event();
    let wanted = subscriptions.still_wanted(&found.key.connector, event.kind, None);
    let refused = match wanted.cloned() {
        Ok(target) => {
            let json = event.json.clone();
            let passes = move || target.passes(&Facts::of(&json)) != Ok(false);
            (!shared.filters.run(passes).await?).then_some(Reason::Filtered)
        }
        Err(reason) => Some(reason),
    };
    if let Some(reason) = refused {
        let detail = format!("The delivery would be cancelled ({reason}). {}", reason.help());
        return Err(Problem::new(ProblemCode::Conflict, detail).into());
    }
    let job = logs.operations.send_again(again).await.map_err(|error| failure(&error))?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "deliveryId": id, "job": job }))))
}

/// The most deliveries that one recovery may send.
const fn most_recovered(tier: Tier) -> u64 {
    match tier {
        Tier::Starter => 100,
        Tier::Pro => 10_000,
        Tier::Business => 100_000,
        Tier::Enterprise => 1_000_000,
    }
}

/// `POST …/connectors/:id/recover`
pub async fn recover(
    State(shared): Shares,
    Path((project, connector)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<Value>), Failure> {
    let found = find(&shared, &project, &connector)?;
    let (since, dry_run) = recovery(&object(&headers, body)?)?;
    let logs = &shared.logs;
    let under_way = UnderWay::begin(logs, &found)?;
    let selection = Selection {
        from: Some(since),
        projects: vec![found.key.project.clone()],
        connectors: vec![name_of(&found.key.to_string())?],
        only_missing: true,
        ..Selection::default()
    };
    let chosen = selection.clone();
    let project = found.key.project.clone();
    let prepare = move |operations: &Operations, _: &AttemptPages| {
        // Before it is looked what is missing: what another instance is sending is not.
        let alone = (!dry_run).then(|| operations.recovering(&project)).transpose()?;
        Ok((operations.prepare(&chosen, &[], true)?, (under_way, alone)))
    };
    let ((survey, choice, history), guards) = logs.read(prepare).await?;
    let plan = &survey.plan;
    let mut told = json!({
        "since": since, "dryRun": dry_run, "deliveries": plan.send(),
        "delivered": plan.delivered(), "waiting": plan.waiting(), "unknown": plan.unknown(),
    });
    if dry_run || plan.send() == 0 {
        return Ok((StatusCode::OK, Json(told)));
    }
    let state = shared.view.project(&found.key.project).map_err(unavailable)?;
    let tier = state.project.map(|project| project.tier).unwrap_or_default();
    if plan.send() > most_recovered(tier) {
        let detail = format!(
            "{} deliveries would be sent, and the tier {tier} allows {} at once: choose a later \
             moment, or ask support.",
            plan.send(),
            most_recovered(tier)
        );
        return Err(Problem::new(ProblemCode::Conflict, detail).into());
    }
    let job = Operations::new_replay(clock::now());
    told["job"] = json!(job);
    let (operations, stop) = (logs.operations.clone(), logs.stop.clone());
    logs.tasks.spawn(async move {
        let _guards = guards;
        let progress = Arc::new(Progress::default());
        let run = Run { rate: RECOVERY_RATE, stop, progress };
        let spans = survey.spans.clone();
        let ended = operations.replay(&job, selection, spans, choice, history, &run, || {}).await;
        match ended {
            Ok(finished) => tracing::info!(job, sent = finished.sent, "a recovery has ended"),
            Err(error) => {
                tracing::warn!(job, error = format!("{error:#}"), "a recovery has failed");
            }
        }
    });
    Ok((StatusCode::ACCEPTED, Json(told)))
}

/// Reads `{"since":…,"dryRun":…}`.
fn recovery(body: &Value) -> Result<(Timestamp, bool), Failure> {
    let mut errors = Vec::new();
    let (mut since, mut dry_run) = (None, false);
    for (name, value) in body.as_object().into_iter().flatten() {
        match (name.as_str(), value) {
            ("since", Value::String(text)) => match text.parse::<Timestamp>() {
                Ok(at) if at > clock::now() => {
                    errors.push(FieldError::new("since", "lies in the future"));
                }
                Ok(at) => since = Some(at),
                Err(error) => errors.push(FieldError::new("since", error)),
            },
            ("dryRun", Value::Bool(is_so)) => dry_run = *is_so,
            ("since", _) => errors.push(FieldError::new("since", "must be a time as a text")),
            ("dryRun", _) => errors.push(FieldError::new("dryRun", "must be true or false")),
            (other, _) => {
                let hint = did_you_mean(other, ["since", "dryRun"]);
                errors.push(FieldError::new(other, format!("is no known field{hint}")));
            }
        }
    }
    match since {
        Some(since) if errors.is_empty() => Ok((since, dry_run)),
        _ => {
            if errors.is_empty() {
                errors.push(FieldError::new("since", "is missing: from when on?"));
            }
            Err(Problem::with_fields(ProblemCode::ValidationFailed, errors).into())
        }
    }
}

/// One recovery of a project at a time: two at once would send the same.
struct UnderWay {
    recovering: Arc<Mutex<HashSet<ProjectId>>>,
    project: ProjectId,
}

impl UnderWay {
    fn begin(logs: &Logs, connector: &Connector) -> Result<Self, Failure> {
        let project = connector.key.project.clone();
        if !logs.recovering.lock().insert(project.clone()) {
            return Err(Problem::new(ProblemCode::Conflict, RECOVERING).into());
        }
        Ok(Self { recovering: Arc::clone(&logs.recovering), project })
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.recovering.lock().remove(&self.project);
    }
}
