//! Replays: the jobs, a form, its dry run, and the start.

use axum::{
    Extension,
    body::Bytes,
    extract::{RawQuery, State},
    http::StatusCode,
    response::Response,
};
use maud::{Markup, html};

use super::{
    Shared, Shown, Trouble, filled,
    frame::{
        Page, Section, ago, connector_link, count, csrf, event_link, field, part, see, state,
        table, tick, words,
    },
    session::Session,
};
use crate::{
    console::{
        ask::{Query, ReplayBody, Wrong},
        handlers::replay_as_asked,
    },
    event::EventType,
    operations::{DEFAULT_RATE, Operations, Survey},
    replay::{Job, Row, Warning},
};

/// Jobs that are shown, the latest ones.
const MAX_JOBS: usize = 50;
/// Connectors of a plan that are shown.
const MAX_ROWS: usize = 100;
/// What a form for a replay has.
const FIELDS: [&str; 11] = [
    "from",
    "to",
    "offsets",
    "project",
    "connector",
    "type",
    "eventType",
    "onlyMissing",
    "includeWaiting",
    "includeUnknown",
    "rate",
];

/// `GET /console/replays`
pub async fn replays(State(pages): Shared) -> Shown {
    // The form works without the list.
    let jobs = pages.console.read(Operations::jobs).await;
    let listed = match &jobs {
        Ok(jobs) => list(jobs, &|id| pages.console.jobs.running(id).is_some()),
        Err(failure) => html! {
            p.notice { "The jobs cannot be listed now: " (words(&failure.problem().detail)) }
        },
    };
    let body = html! {
        h2 { "Send again" }
        (form(None))
        h2 { "Jobs" }
        (listed)
    };
    let jobs = jobs.ok();
    let unfinished =
        |jobs: Vec<(String, Job)>| jobs.iter().filter(|(_, job)| !job.is_done()).count();
    let title = match jobs.map(unfinished) {
        None => "Replay: send events again".to_owned(),
        Some(0) => "Replay: no job is unfinished".to_owned(),
        Some(1) => "Replay: one job is unfinished".to_owned(),
        Some(number) => format!("Replay: {} jobs are unfinished", count(number)),
    };
    Ok(Page::new(Section::Replays, title, body))
}

fn list(jobs: &[(String, Job)], runs_here: &dyn Fn(&str) -> bool) -> Markup {
    let rows = jobs.iter().take(MAX_JOBS).map(|(id, job)| row(id, job, runs_here(id)));
    let rows: Vec<Markup> = rows.collect();
    html! {
        @if rows.is_empty() {
            p { "None is known. A job is remembered for some days after its last progress." }
        } @else {
            (table("Jobs, the latest first", &["Job", "Started", "State", "Read", "Sent"], &rows))
            @if jobs.len() > MAX_JOBS { p.muted { "The latest " (MAX_JOBS) " of " (count(jobs.len())) " jobs: " code { "dunmore replay --list" } } }
        }
    }
}

/// A job's state in a word.
pub fn job_state(job: &Job, runs_here: bool) -> Markup {
    match (job.is_done(), runs_here) {
        (true, _) => state("good", "done"),
        (false, true) => state("waiting", "runs on this instance"),
        (false, false) => state("held", "unfinished, and not run by this instance"),
    }
}

fn row(id: &str, job: &Job, runs_here: bool) -> Markup {
    let (all, done) = job.progress();
    html! {
        td { a.id href=(format!("/console/jobs/{}", part(id))) { (words(id)) } }
        td { (ago(job.started_at())) }
        td { (job_state(job, runs_here)) }
        td { (count(done)) " of " (count(all)) " records " progress max=(all.max(1)) value=(done) {} }
        td.number { (count(job.sent())) @if let Some(planned) = job.planned().filter(|planned| *planned > 0) { " of " (count(planned)) } }
    }
}

/// The form, filled in as it was before.
fn form(query: Option<&Query>) -> Markup {
    let value = |name: &str| query.and_then(|query| query.one(name)).unwrap_or_default().to_owned();
    let chosen = value("eventType");
    let rate = value("rate");
    let rate = if rate.is_empty() { DEFAULT_RATE.to_string() } else { rate };
    let is_set = |name: &str| query.is_some_and(|query| query.is_set(name));
    html! {
        form action="/console/replays/plan" {
            (field("from", "From", &value("from"), "RFC 3339, a date, or 2 hours ago; or give offsets"))
            (field("to", "To", &value("to"), "the same; empty: now"))
            (field("offsets", "Offsets", &value("offsets"), "partition:first-last, such as 3:1000-2000"))
            (field("project", "Project", &value("project"), "empty: every project"))
            (field("connector", "Connector", &value("connector"), "conn_1 or proj_1/conn_1; empty: every connector"))
            (field("type", "Connectors' type", &value("type"), "such as slack; empty: every type"))
            p.field {
                label for="f-eventType" { "Event type" }
                select #f-eventType name="eventType" {
                    option value="" { "every type" }
                    @for kind in EventType::ALL { option selected[chosen == kind.as_str()] { (kind) } }
                }
            }
            (tick("onlyMissing", "Only what did not arrive", query.is_none() || is_set("onlyMissing")))
            (tick("includeWaiting", "Of that, also what waits and will arrive without this", is_set("includeWaiting")))
            (tick("includeUnknown", "Of that, also what the attempts cannot tell of", is_set("includeUnknown")))
            (field("rate", "Deliveries per second", &rate, "1 to 1,000,000; connectors' own limits stand"))
            button.go { "Plan the replay" }
        }
    }
}

fn asked(query: &Query, wrong: &mut Wrong) -> ReplayBody {
    ReplayBody {
        from: query.one("from").map(str::to_owned),
        to: query.one("to").map(str::to_owned),
        offsets: query.all("offsets"),
        projects: query.all("project"),
        connectors: query.all("connector"),
        event_types: query.all("eventType"),
        types: query.all("type"),
        only_missing: query.is_set("onlyMissing"),
        include_waiting: query.is_set("includeWaiting"),
        include_unknown: query.is_set("includeUnknown"),
        dry_run: false,
        confirm: query.is_set("confirm"),
        rate: query.rate(wrong),
    }
}

/// `GET /console/replays/plan`: the dry run.
pub async fn plan(
    State(pages): Shared,
    Extension(session): Extension<Session>,
    RawQuery(query): RawQuery,
) -> Shown {
    let mut wrong = Wrong::default();
    let query = filled(query.as_deref().unwrap_or_default(), &FIELDS, &mut wrong);
    let asked = asked(&query, &mut wrong);
    let selection = asked.selection(&mut wrong);
    let ranges = asked.ranges(&mut wrong);
    wrong.check()?;
    let survey = pages.console.read(move |own| own.prepare(&selection, &ranges, true)).await?.0;
    let send = survey.plan.send();
    let must_confirm = survey.warnings.iter().any(Warning::asks);
    let body = html! {
        @for warning in &survey.warnings { p.notice { (words(&warning.message)) } }
        (numbers(&survey, asked.rate))
        (connectors(&survey))
        @if send == 0 {
            p { "Nothing would be sent. The numbers above say why; another window or fewer conditions may help." }
        } @else {
            form method="post" action="/console/replays" {
                (csrf(&session))
                @for (name, value) in query.pairs() { input type="hidden" name=(name) value=(value); }
                @if must_confirm { (tick("confirm", "Send in spite of what is said above", false)) }
                button.go { "Send " (count(send)) " deliveries" }
            }
        }
        details open[send == 0] { summary { "Change the plan" } (form(Some(&query))) }
    };
    let title = format!("A replay would send {} deliveries", count(send));
    Ok(Page::new(Section::Replays, title, body))
}

fn numbers(survey: &Survey, rate: f64) -> Markup {
    let plan = &survey.plan;
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let seconds = plan.send() as f64 / rate;
    let rows = [
        ("events of this choice", plan.events),
        ("deliveries have arrived before", plan.delivered()),
        ("deliveries wait, or their event was not read yet", plan.waiting()),
        ("deliveries of which the attempts cannot tell", plan.unknown()),
        ("deliveries that no connector wants any more", plan.unwanted()),
        ("records that are no event which can be read", plan.unreadable),
    ];
    html! {
        dl {
            dt { (count(plan.send())) } dd { "deliveries would be sent, in " (crate::cli::span(seconds)) " at least" }
            @for (what, number) in rows.iter().filter(|(_, number)| *number > 0) { dt { (count(number)) } dd { (what) } }
            dt { (count(plan.scanned)) } dd { "records read, of " (count(survey.in_topic)) " in the topic" }
        }
    }
}

fn connectors(survey: &Survey) -> Markup {
    let all = survey.plan.rows().count();
    let rows: Vec<Markup> = survey.plan.rows().take(MAX_ROWS).map(connector_row).collect();
    html! {
        @if !rows.is_empty() {
            (table("By connector", &["Connector", "Type", "Sent", "Arrived before", "Not wanted", "For example"], &rows))
            @if all > MAX_ROWS { p.muted { "The first " (MAX_ROWS) " of " (count(all)) " connectors." } }
        }
    }
}

fn connector_row(row: &Row) -> Markup {
    html! {
        td { (connector_link(&row.project, &row.connector)) @if row.suspended { br; (state("held", "suspended")) } }
        td { (row.kind) }
        td.number { (count(row.send)) }
        td.number { (count(row.delivered)) }
        td.number { (count(row.unwanted())) }
        td { @for sample in row.samples.iter().take(3) { (event_link(sample, &row.project)) " " } }
    }
}

/// `POST /console/replays`
pub async fn start(State(pages): Shared, form: Bytes) -> Result<Response, Trouble> {
    let mut wrong = Wrong::default();
    let known: Vec<&str> = FIELDS.into_iter().chain(["csrf", "confirm"]).collect();
    let form = filled(&String::from_utf8_lossy(&form), &known, &mut wrong);
    let asked = asked(&form, &mut wrong);
    wrong.check()?;
    let (status, told) = replay_as_asked(&pages.console, &asked).await?;
    let job = told.0["job"].as_str().filter(|_| status == StatusCode::ACCEPTED);
    Ok(match job {
        Some(job) => see(&format!("/console/jobs/{}", part(job))),
        // Nothing is left to be sent.
        None => see("/console/replays"),
    })
}
