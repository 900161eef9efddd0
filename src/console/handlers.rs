//! The admin API's handlers: the same operations as on the command line.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::{
    Json,
    body::Bytes,
    extract::{Path, RawQuery, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use serde_json::{Value, json};

use super::{
    Console, Shared,
    ask::{PurgeBody, Query, RedriveBody, ReplayBody, ResumeBody, Wrong, body},
    conflict, failed,
};
use crate::{
    api::Failure,
    clock,
    connector::{Problem, ProblemCode},
    id::EventId,
    operations::{Operations, Redrive, share},
    replay::{Position, Warning},
};

/// How long the outcomes of a canary are waited for.
const CANARY_WAIT: Duration = Duration::from_secs(60);
/// How far back failing connectors are looked for unless the request says it.
pub const FAILING_WITHIN: Duration = Duration::from_secs(15 * 60);

type Answer = Result<Json<Value>, Failure>;
type Accepted = Result<(StatusCode, Json<Value>), Failure>;

/// `GET /admin/v1/replays`
pub async fn replays(State(console): Shared) -> Answer {
    let jobs = console.read(Operations::jobs).await?;
    let jobs = jobs.iter().map(|(id, job)| with_running(&console, id, job.to_json(id)));
    Ok(Json(json!({ "jobs": jobs.collect::<Vec<_>>() })))
}

/// `GET /admin/v1/replays/{job}`
pub async fn replay(State(console): Shared, Path(id): Path<String>) -> Answer {
    check(&id)?;
    let name = id.clone();
    let job = console.read(move |own| own.job(&name)).await?;
    let mut told = with_running(&console, &id, job.to_json(&id));
    if let Some(ended) = console.jobs.ended(&id) {
        told["lastRunHere"] = ended;
    }
    Ok(Json(told))
}

fn with_running(console: &Console, id: &str, mut job: Value) -> Value {
    job["runsHere"] = console.jobs.running(id).is_some().into();
    job
}

pub fn check(id: &str) -> Result<(), Failure> {
    Operations::check_job_name(id).map_err(|error| nothing(&error.to_string()))
}

fn nothing(detail: &str) -> Failure {
    Problem::new(ProblemCode::NotFound, detail).into()
}

/// `POST /admin/v1/replays`
pub async fn start_replay(State(console): Shared, bytes: Bytes) -> Accepted {
    replay_as_asked(&console, &body(&bytes)?).await
}

/// Plans or starts a replay.
pub async fn replay_as_asked(console: &Arc<Console>, asked: &ReplayBody) -> Accepted {
    let mut wrong = Wrong::default();
    let selection = asked.selection(&mut wrong);
    let ranges = asked.ranges(&mut wrong);
    wrong.rate(asked.rate);
    wrong.check()?;
    let wants_history = asked.dry_run || asked.only_missing;
    let chosen = selection.clone();
    let (survey, choice, history) =
        console.read(move |own| own.prepare(&chosen, &ranges, wants_history)).await?;
    let told = survey.to_json();
    if asked.dry_run || survey.plan.send() == 0 {
        return Ok((StatusCode::OK, Json(told)));
    }
    if survey.warnings.iter().any(Warning::asks) && !asked.confirm {
        let words: Vec<&str> = survey.warnings.iter().map(|w| w.message.as_str()).collect();
        let detail = format!("{}. Say confirm to send all the same.", words.join(". "));
        return Err(conflict(&detail));
    }
    let job = Operations::new_replay(clock::now());
    let place = console.jobs.begin(&job)?;
    let (owner, name) = (Arc::clone(console), job.clone());
    let (history, rate) = (if asked.only_missing { history } else { None }, asked.rate);
    console.tasks.spawn(async move {
        let run = place.run(rate);
        let spans = survey.spans.clone();
        let ended =
            owner.operations.replay(&name, selection, spans, choice, history, &run, || {}).await;
        place.end(ended.map(|finished| finished.to_json()));
    });
    let mut told = told;
    told["job"] = job.into();
    Ok((StatusCode::ACCEPTED, Json(told)))
}

/// `POST /admin/v1/replays/{job}/resume`
pub async fn resume_replay(
    State(console): Shared,
    Path(id): Path<String>,
    bytes: Bytes,
) -> Accepted {
    let asked: ResumeBody = body(&bytes)?;
    resume_as_asked(&console, id, asked.rate).await
}

/// Goes on with a replay.
pub async fn resume_as_asked(console: &Arc<Console>, id: String, rate: f64) -> Accepted {
    check(&id)?;
    let mut wrong = Wrong::default();
    wrong.rate(rate);
    wrong.check()?;
    let name = id.clone();
    console.read(move |own| own.job(&name)).await?;
    let place = console.jobs.begin(&id)?;
    let (owner, name) = (Arc::clone(console), id.clone());
    console.tasks.spawn(async move {
        let ended = owner.operations.resume(&name, &place.run(rate)).await;
        place.end(ended.map(|finished| finished.to_json()));
    });
    Ok((StatusCode::ACCEPTED, Json(json!({ "job": id }))))
}

/// `POST /admin/v1/jobs/{job}/stop`
pub async fn stop_job(State(console): Shared, Path(id): Path<String>) -> Accepted {
    let Some(running) = console.jobs.running(&id) else {
        return Err(conflict(&format!("{id} does not run on this instance.")));
    };
    running.stop.cancel();
    Ok((StatusCode::ACCEPTED, Json(json!({"job": id, "state": "stopping"}))))
}

/// `GET /admin/v1/dead-letters`
pub async fn dead_letters(State(console): Shared, RawQuery(query): RawQuery) -> Answer {
    let known = ["reason", "project", "connector", "type", "eventType", "from", "to", "limit"];
    let mut wrong = Wrong::default();
    let query = Query::read(query.as_deref(), &known, &mut wrong);
    let (filter, limit) = (query.dead_filter(&mut wrong), query.limit(&mut wrong));
    wrong.check()?;
    let listed = console.read(move |own| own.dead_letters(&filter, limit)).await?;
    Ok(Json(listed.to_json()))
}

/// `GET /admin/v1/dead-letters/{position}`
pub async fn dead_letter(
    State(console): Shared,
    Path(position): Path<String>,
) -> Result<Response, Failure> {
    let position: Position = position.parse().map_err(|error: String| nothing(&error))?;
    let config = console.config.clone();
    let told = console
        .read(move |own| {
            let (letter, record, marks) = own.dead_letter(position)?;
            own.told(&config, &letter, &record, &marks)
        })
        .await?;
    Ok(Json(told).into_response())
}

/// `POST /admin/v1/dead-letters/redrive`
pub async fn start_redrive(State(console): Shared, bytes: Bytes) -> Accepted {
    redrive_as_asked(&console, &body(&bytes)?).await
}

/// Plans or starts a redrive.
pub async fn redrive_as_asked(console: &Arc<Console>, asked: &RedriveBody) -> Accepted {
    let mut wrong = Wrong::default();
    let filter = asked.filter(&mut wrong);
    wrong.rate(asked.rate);
    let canary = asked.canary.as_deref().and_then(|text| wrong.take("canary", share(text)));
    wrong.check()?;
    let (planned, which) = (filter.clone(), asked.which());
    let plan = console.read(move |own| own.plan_redrive(&planned, which)).await?;
    let concerns = plan.concerns(which);
    if asked.dry_run || (plan.send == 0 && plan.unmarked == 0) {
        let mut told = json!(plan);
        told["warnings"] = json!(concerns);
        return Ok((StatusCode::OK, Json(told)));
    }
    if plan.asks(which) && !asked.confirm {
        let words = concerns.join(". ");
        let detail = format!(
            "{} dead letters would be sent again. {words} Say confirm to send them.",
            plan.send
        );
        return Err(conflict(&detail));
    }
    let job = Operations::new_redrive(clock::now());
    let place = console.jobs.begin(&job)?;
    let (owner, name, rate) = (Arc::clone(console), job.clone(), asked.rate);
    console.tasks.spawn(async move {
        let how = Redrive { which, canary, canary_wait: CANARY_WAIT };
        let ended = owner.operations.redrive(&name, filter, &how, &place.run(rate)).await;
        place.end(ended.map(|done| done.to_json()));
    });
    Ok((StatusCode::ACCEPTED, Json(json!({"job": job, "letters": plan.send}))))
}

/// `GET /admin/v1/redrives/{job}`: of this instance, as long as it remembers.
pub async fn redrive(State(console): Shared, Path(id): Path<String>) -> Answer {
    if let Some(running) = console.jobs.running(&id) {
        let sent = running.progress.sent.load(Ordering::Relaxed);
        return Ok(Json(json!({"job": id, "state": "running", "sent": sent})));
    }
    let ended = console.jobs.ended(&id);
    ended.map(Json).ok_or_else(|| nothing(&format!("This instance knows no redrive {id}.")))
}

/// `POST /admin/v1/dead-letters/purge`
pub async fn purge(State(console): Shared, bytes: Bytes) -> Answer {
    let asked: PurgeBody = body(&bytes)?;
    let mut wrong = Wrong::default();
    let before = wrong.when("before", asked.before.as_deref());
    if before.is_some() == asked.redriven {
        wrong.tell("before", "say either before, or redriven: true");
    }
    wrong.check()?;
    let plan = console.read(move |own| own.plan_purge(before)).await?;
    if asked.confirm {
        console.operations.purge(&plan).await.map_err(|error| failed(&error))?;
    }
    let mut told = plan.to_json();
    told["deleted"] = asked.confirm.into();
    Ok(Json(told))
}

/// `GET /admin/v1/deliveries`
pub async fn deliveries(State(console): Shared, RawQuery(query): RawQuery) -> Answer {
    let known = [
        "event",
        "project",
        "connector",
        "type",
        "eventType",
        "outcome",
        "reason",
        "source",
        "job",
        "from",
        "to",
        "limit",
    ];
    let mut wrong = Wrong::default();
    let query = Query::read(query.as_deref(), &known, &mut wrong);
    let (filter, limit) = (query.attempt_filter(&mut wrong), query.limit(&mut wrong));
    let from = wrong.when("from", Some(query.one("from").unwrap_or("1 day ago")));
    let to = wrong.when("to", query.one("to"));
    wrong.check()?;
    let (total, attempts) = console.read(move |own| own.attempts(&filter, from, to, limit)).await?;
    Ok(Json(json!({"total": total, "attempts": attempts})))
}

/// `GET /admin/v1/events/{event}/trace`
pub async fn trace(
    State(console): Shared,
    Path(event): Path<String>,
    RawQuery(query): RawQuery,
) -> Answer {
    let mut wrong = Wrong::default();
    let query = Query::read(query.as_deref(), &["project", "from"], &mut wrong);
    let event = wrong.take("event", EventId::parse(&event));
    let project = query.project(&mut wrong);
    let from = wrong.when("from", Some(query.one("from").unwrap_or("7 days ago")));
    wrong.check()?;
    let Some(event) = event else { return Err(nothing("There is no such event.")) };
    let name = event.clone();
    let story = console.read(move |own| own.trace(name.as_str(), project.as_ref(), from)).await?;
    if story.is_empty() {
        return Err(nothing("Nothing is known of this event in that time."));
    }
    Ok(Json(story.to_json(event.as_str())))
}

/// `GET /admin/lag`
pub async fn lag(State(console): Shared) -> Answer {
    let lag = console.read(Operations::lag).await?;
    Ok(Json(json!(lag)))
}

/// `GET /admin/status`
pub async fn status(State(console): Shared, RawQuery(query): RawQuery) -> Answer {
    let mut wrong = Wrong::default();
    let query = Query::read(query.as_deref(), &["within", "limit"], &mut wrong);
    let within = query.one("within").map_or(Ok(FAILING_WITHIN), humantime::parse_duration);
    let within = within.map_err(|error| error.to_string());
    let within = wrong.take("within", within).unwrap_or(FAILING_WITHIN);
    let limit = query.limit(&mut wrong);
    wrong.check()?;
    let instance = async { Ok(console.instance()) };
    let status = console.reading()?.status(within, limit, instance).await;
    Ok(Json(json!(status)))
}
