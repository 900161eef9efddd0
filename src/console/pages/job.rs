//! One replay or redrive: how far it is, stop, and go on.

use std::sync::atomic::Ordering;

use axum::{
    Extension,
    body::Bytes,
    extract::{Path, State},
    response::Response,
};
use maud::{Markup, html};
use serde_json::Value;

use super::{
    Shared, Shown, Trouble, filled,
    frame::{Page, Section, ago, count, csrf, field, folded, part, see, state, words},
    replays::job_state,
    session::Session,
};
use crate::{
    connector::ProblemCode,
    console::{
        ask::Wrong,
        handlers::{check, resume_as_asked, stop_job},
        jobs::Running,
    },
    operations::{CANARY_FAILED, DEFAULT_RATE, Operations, RESEND},
    replay::{Job, REDRIVE},
};

/// `GET /console/jobs/{job}`
pub async fn job(
    State(pages): Shared,
    Extension(session): Extension<Session>,
    Path(id): Path<String>,
) -> Shown {
    check(&id)?;
    let console = &pages.console;
    let (running, ended) = (console.jobs.running(&id), console.jobs.ended(&id));
    let kept = if Operations::keeps_progress(&id) {
        let name = id.clone();
        match console.read(move |own| own.job(&name)).await {
            Ok(job) => Some(job),
            Err(failure) if failure.problem().code == ProblemCode::NotFound => None,
            Err(failure) => return Err(failure.into()),
        }
    } else {
        None
    };
    if running.is_none() && ended.is_none() && kept.is_none() {
        return Ok(not_kept(&id));
    }
    let path = format!("/console/jobs/{}", part(&id));
    let is_done = kept.as_ref().is_some_and(Job::is_done);
    let body = html! {
        div data-live {
            dl {
                dt { "State" }
                dd {
                    @match (&kept, &running, &ended) {
                        (Some(job), running, _) => (job_state(job, running.is_some())),
                        (None, Some(_), _) => (state("waiting", "runs on this instance")),
                        (None, None, ended) => (how_ended(ended.as_ref())),
                    }
                }
                @if let Some(job) = &kept { (progress_of(job)) }
                @if let Some(running) = &running { (progress_here(running)) }
            }
            @if running.is_some() {
                form.actions method="post" action=(format!("{path}/stop")) { (csrf(&session)) button { "Stop the job" } }
            } @else if kept.is_some() && !is_done {
                form method="post" action=(format!("{path}/resume")) {
                    (csrf(&session))
                    (field("rate", "Deliveries per second", &DEFAULT_RATE.to_string(), "1 to 1,000,000"))
                    button.go { "Go on with the job" }
                }
            }
            @if let Some(ended) = &ended {
                @for text in [&ended["error"], &ended["detail"]] {
                    @if let Some(text) = text.as_str() { p.notice { (words(text)) } }
                }
                (folded("How it ended here", &serde_json::to_string_pretty(ended).unwrap_or_default()))
            }
            @if let Some(job) = &kept {
                (folded("What it chooses", &serde_json::to_string_pretty(&job.selection()).unwrap_or_default()))
            }
        }
    };
    let how = ended.as_ref().and_then(|ended| ended["state"].as_str());
    let word = match (&running, is_done) {
        (Some(_), _) => "runs",
        (None, true) => "is done",
        (None, false) if kept.is_some() => "is not finished",
        (None, false) if how == Some(CANARY_FAILED) => "has ended: its canary failed",
        (None, false) => "has ended",
    };
    Ok(Page::new(Section::Replays, format!("Job {id} {word}"), body))
}

/// A job whose letters and attempts name it, and of which nothing else is known here.
fn not_kept(id: &str) -> Page {
    let why = if id.starts_with(RESEND) {
        "It sent one delivery again, by a request to the API. Nothing is kept of how far it is."
    } else if id.starts_with(REDRIVE) {
        "A redrive is known by the instance that ran it, until that instance is restarted."
    } else {
        "Kafka forgets a replay some days after its last progress."
    };
    let body = html! {
        p { (why) }
        p { "What it sent is on record as long as there are attempts: "
            code { "dunmore deliveries list --job " (words(id)) } }
    };
    Page::new(Section::Replays, format!("Nothing is kept of job {id} here"), body)
}

fn how_ended(ended: Option<&Value>) -> Markup {
    match ended.and_then(|ended| ended["state"].as_str()) {
        Some("done") => state("good", "done"),
        Some("failed") => state("failing", "failed"),
        Some(CANARY_FAILED) => state("failing", "canary failed"),
        Some(other) => state("held", other),
        None => state("off", "not known"),
    }
}

fn progress_of(job: &Job) -> Markup {
    let (all, done) = job.progress();
    html! {
        dt { "Started" } dd { (ago(job.started_at())) }
        dt { "Last progress" } dd { (ago(job.at())) }
        dt { "Read" } dd { (count(done)) " of " (count(all)) " records " progress max=(all.max(1)) value=(done) {} }
        dt { "Sent" } dd { (count(job.sent())) @if let Some(planned) = job.planned().filter(|planned| *planned > 0) { " of " (count(planned)) } }
    }
}

fn progress_here(running: &Running) -> Markup {
    let of = |number: &std::sync::atomic::AtomicU64| number.load(Ordering::Relaxed);
    let progress = &running.progress;
    let (sent, planned) = (of(&progress.sent), of(&progress.planned));
    html! {
        dt { "Sent by this run" }
        dd {
            (count(sent))
            @if planned > 0 { " of " (count(planned)) " " progress max=(planned) value=(sent.min(planned)) {} }
        }
    }
}

/// `POST /console/jobs/{job}/stop`
pub async fn stop(State(pages): Shared, Path(id): Path<String>) -> Result<Response, Trouble> {
    let path = format!("/console/jobs/{}", part(&id));
    let _accepted = stop_job(State(pages.console.clone()), Path(id)).await?;
    Ok(see(&path))
}

/// `POST /console/jobs/{job}/resume`
pub async fn resume(
    State(pages): Shared,
    Path(id): Path<String>,
    form: Bytes,
) -> Result<Response, Trouble> {
    let mut wrong = Wrong::default();
    let form = filled(&String::from_utf8_lossy(&form), &["csrf", "rate"], &mut wrong);
    let rate = form.rate(&mut wrong);
    wrong.check()?;
    let path = format!("/console/jobs/{}", part(&id));
    let _accepted = resume_as_asked(&pages.console, id, rate).await?;
    Ok(see(&path))
}
