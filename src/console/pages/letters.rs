//! Dead letters on heaps, one heap with its letters, and the plan before they are sent again.

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
        Page, Section, ago, count, csrf, event_link, field, key_link, letter_link, part, see,
        state, table, tick, words,
    },
    session::Session,
};
use crate::{
    console::{
        ask::{Query, RedriveBody, Wrong},
        handlers::redrive_as_asked,
    },
    delivery::Reason,
    destination::ConnectorType,
    operations::{DEFAULT_RATE, Heap, Operations},
    replay::{DeadLetter, Marks, RedrivePlan},
};

/// The letters of a heap that are shown.
const MAX_LETTERS: usize = 50;
/// Connectors of a plan that are shown.
const MAX_ROWS: usize = 100;
/// What says which letters are meant.
const FILTER: [&str; 6] = ["reason", "type", "project", "connector", "eventType", "position"];
const TIMES: [&str; 2] = ["from", "to"];

/// `GET /console/letters`
pub async fn heaps(State(pages): Shared) -> Shown {
    let look = pages.console.read(Operations::heaps);
    let (found, at) = pages.heaps.get(look).await?;
    let most = found.heaps.first().map_or(0, |heap| heap.waiting);
    let others = found.waiting - found.heaps.iter().map(|heap| heap.waiting).sum::<u64>();
    let rows: Vec<Markup> = found.heaps.iter().map(|heap| heap_row(heap, most)).collect();
    let body = html! {
        div data-live {
            @if rows.is_empty() {
                p { "No delivery waits to be sent again. What fails for good, and what cannot be read, is listed here." }
            } @else {
                (table("Heaps of dead letters, the largest first", &["Heap", "Letters", "Share", "Written", "Last words"], &rows))
            }
            p.muted { "Looked " (ago(at)) "." }
            @if others > 0 {
                p.muted { (count(others)) " letters wait in other heaps: there are too many heaps to list." }
            }
            @if found.not_read > 0 {
                p.muted { (count(found.not_read)) " older records of the dead letters were not looked at." }
            }
        }
    };
    let title = match found.waiting {
        0 => "No dead letters wait".to_owned(),
        1 => "One dead letter waits".to_owned(),
        number => format!("{} dead letters wait", count(number)),
    };
    Ok(Page::new(Section::Letters, title, body))
}

fn heap_row(heap: &Heap, most: u64) -> Markup {
    // A later release may have written others, which no filter takes.
    let reason = Reason::named(&heap.reason);
    let is_known = heap.kind.is_empty() || heap.kind.parse::<ConnectorType>().is_ok();
    let name = match heap.kind.as_str() {
        "" => heap.reason.clone(),
        kind => format!("{kind}: {}", heap.reason),
    };
    let path =
        format!("/console/letters/heap?type={}&reason={}", part(&heap.kind), part(&heap.reason));
    html! {
        td {
            @if reason.is_some() && is_known { a href=(path) { (words(&name)) } } @else { (words(&name)) }
            @if let Some(reason) = reason { br; small { (reason.help()) } }
        }
        td.number { (count(heap.waiting)) }
        td { meter min="0" max=(most) value=(heap.waiting) {} }
        td { (ago(heap.first)) br; "to " (ago(heap.last)) }
        td.words { @if !heap.detail.is_empty() { q { (words(&heap.detail)) } } }
    }
}

/// `GET /console/letters/heap`
pub async fn heap(State(pages): Shared, RawQuery(query): RawQuery) -> Shown {
    let mut wrong = Wrong::default();
    let known: Vec<&str> = FILTER.into_iter().chain(TIMES).collect();
    let query = filled(query.as_deref().unwrap_or_default(), &known, &mut wrong);
    if let Some(unknown) = of_other_release(&query) {
        return Ok(unknown);
    }
    let filter = query.dead_filter(&mut wrong);
    wrong.check()?;
    let listed = pages.console.read(move |own| own.dead_letters(&filter, MAX_LETTERS)).await?;
    let rows: Vec<Markup> =
        listed.letters.iter().map(|letter| letter_row(letter, &listed.marks)).collect();
    let [all, redriven, returned] = listed.tally.sum();
    // As the heaps count them: what failed again waits, too.
    let waiting = all - redriven;
    let first = waiting - returned;
    let again = |which: &str| format!("/console/letters/redrive?{}{which}", same(&query));
    let body = html! {
        p { (described(&query)) }
        div.actions {
            @if first > 0 { a.button href=(again("")) { "Plan to send " (count(first)) " again" } }
            @if returned > 0 { a.button href=(again("&which=failed")) { "Plan to send the " (count(returned)) " that failed again" } }
            a.button href="/console/letters" { "All heaps" }
        }
        @if rows.is_empty() {
            p { "No dead letter is meant. Leave out a condition, or go to all heaps." }
        } @else {
            (table("Dead letters, the latest first", &["Letter", "Written", "Connector", "Event", "State", "Last words"], &rows))
            p.muted { "The latest " (rows.len()) " of " (count(all)) ": "
                (count(waiting)) " wait, of them " (count(returned)) " that failed again after a redrive; "
                (count(redriven)) " were redriven." }
        }
    };
    let title = match waiting {
        1 => "One dead letter waits here".to_owned(),
        number => format!("{} dead letters wait here", count(number)),
    };
    Ok(Page::new(Section::Letters, title, body))
}

/// Letters of a reason or a type that this release does not know are counted, and no filter takes them.
fn of_other_release(query: &Query) -> Option<Page> {
    let knows_reason = |text: &String| Reason::named(text).is_some();
    let knows_type = |text: &String| text.parse::<ConnectorType>().is_ok();
    let reason = query.all("reason").into_iter().find(|text| !knows_reason(text));
    let kind = query.all("type").into_iter().find(|text| !knows_type(text));
    let (what, name) = match (reason, kind) {
        (Some(reason), _) => ("reason", reason),
        (None, Some(kind)) => ("type", kind),
        (None, None) => return None,
    };
    let body = html! {
        p { "Letters of it, if there are any, were written by another release: they are counted, and "
            "listed among all letters, and cannot be chosen by it here." }
        p { a href="/console/letters/heap" { "All dead letters" } " · " a href="/console/letters" { "All heaps" } }
    };
    let title = format!("This release knows no {what} {name}");
    Some(Page::new(Section::Letters, title, body))
}

/// Which letters are meant, in words.
fn described(query: &Query) -> Markup {
    let pairs = query.pairs();
    html! {
        @if pairs.is_empty() { "All dead letters." }
        @for (name, value) in pairs.iter().filter(|(name, _)| FILTER.contains(&name.as_str()) || TIMES.contains(&name.as_str())) {
            span { (words(name)) ": " b { (words(value)) } "  " }
        }
    }
}

/// The conditions as a query, without which of them are meant.
fn same(query: &Query) -> String {
    let pairs = query.pairs().iter().filter(|(name, _)| name != "which");
    let pairs = pairs.map(|(name, value)| format!("{}={}", part(name), part(value)));
    pairs.collect::<Vec<_>>().join("&")
}

fn letter_row(letter: &DeadLetter, marks: &Marks) -> Markup {
    html! {
        td { (letter_link(letter.position)) }
        td { (ago(letter.at)) }
        @match letter.delivery() {
            Some(delivery) => {
                td { (key_link(&delivery.connector)) br; (delivery.connector_type) }
                td { (event_link(&delivery.event.id, &delivery.connector.project)) br; (delivery.event.kind) }
            }
            None => { td { "no delivery" } td { "cannot be read" } }
        }
        td { (letter_state(letter, marks)) }
        td.words { (words(&letter.reason)) @if !letter.detail.is_empty() { br; q { (words(&letter.detail)) } } }
    }
}

pub fn letter_state(letter: &DeadLetter, marks: &Marks) -> Markup {
    let word = letter.state(marks);
    let class = match word {
        "redriven" => "good",
        "waiting" => "waiting",
        _ => "failing",
    };
    state(class, word)
}

/// What a form or a query asks to send again.
fn asked(query: &Query, wrong: &mut Wrong) -> RedriveBody {
    let which = query.one("which").unwrap_or("waiting");
    if !["waiting", "failed", "again"].contains(&which) {
        wrong.tell("which", "must be waiting, failed or again");
    }
    RedriveBody {
        reasons: query.all("reason"),
        projects: query.all("project"),
        connectors: query.all("connector"),
        types: query.all("type"),
        event_types: query.all("eventType"),
        positions: query.all("position"),
        from: query.one("from").map(str::to_owned),
        to: query.one("to").map(str::to_owned),
        all: query.is_set("all"),
        again: which == "again",
        failed_again: which == "failed",
        confirm: query.is_set("confirm"),
        canary: query.one("canary").map(str::to_owned),
        dry_run: false,
        rate: query.rate(wrong),
    }
}

/// `GET /console/letters/redrive`: the dry run.
pub async fn plan(
    State(pages): Shared,
    Extension(session): Extension<Session>,
    RawQuery(query): RawQuery,
) -> Shown {
    let mut wrong = Wrong::default();
    let known: Vec<&str> = FILTER.into_iter().chain(TIMES).chain(["which", "all"]).collect();
    let query = filled(query.as_deref().unwrap_or_default(), &known, &mut wrong);
    let asked = asked(&query, &mut wrong);
    // To plan for all letters is to look; to send all must be said.
    let asked = RedriveBody { all: true, ..asked };
    let (filter, which) = (asked.filter(&mut wrong), asked.which());
    wrong.check()?;
    let plan = pages.console.read(move |own| own.plan_redrive(&filter, which)).await?;
    let concerns = plan.concerns(which);
    let body = html! {
        p { (described(&query)) }
        @for concern in &concerns { p.notice { (words(concern)) } }
        (numbers(&plan))
        (connectors(&plan))
        @if plan.send == 0 {
            p { "Nothing would be sent. The numbers above say why." }
            @if !asked.again {
                p { a href=(format!("/console/letters/redrive?{}&which=again", same(&query))) { "Plan to send also what was redriven before" } }
            }
        } @else {
            form method="post" action="/console/letters/redrive" {
                (csrf(&session))
                @for (name, value) in query.pairs() { input type="hidden" name=(name) value=(value); }
                @if query.pairs().iter().all(|(name, _)| name == "which" || name == "all") {
                    input type="hidden" name="all" value="true";
                }
                (field("rate", "Deliveries per second", &format!("{DEFAULT_RATE}"), "1 to 1,000,000; connectors' own limits stand"))
                (field("canary", "Canary", "", "a share such as 1% that is sent first; the rest follows when it arrives. Empty: all at once"))
                @if plan.asks(which) { (tick("confirm", "Send in spite of what is said above", false)) }
                button.go { "Send " (count(plan.send)) " again" }
            }
        }
    };
    let title =
        format!("A redrive would send {} of {} letters", count(plan.send), count(plan.matched));
    Ok(Page::new(Section::Letters, title, body))
}

fn numbers(plan: &RedrivePlan) -> Markup {
    let rows = [
        ("sent", plan.send),
        ("left out: redriven before, or failed again after that", plan.left_out),
        ("left out: there is a newer letter of the same delivery", plan.superseded),
        ("whose delivery has arrived since", plan.arrived),
        ("left out: the connector is off or does not want the event any more", plan.unwanted),
        ("left out: the connector is deleted", plan.deleted),
        (
            "left out: records that cannot be read; write them back with dunmore dlq export and reinject",
            plan.undecodable,
        ),
        ("sent by a redrive that was killed, and only marked now", plan.unmarked),
    ];
    html! {
        dl {
            @for (what, number) in rows.iter().filter(|(what, number)| *number > 0 || *what == "sent") {
                dt { (count(number)) } dd { (what) }
            }
        }
    }
}

fn connectors(plan: &RedrivePlan) -> Markup {
    let rows: Vec<Markup> = plan
        .connectors
        .iter()
        .take(MAX_ROWS)
        .map(|(key, row)| {
            html! {
                td { (key_link(key)) }
                td { (row.kind) }
                td.number { (count(row.send)) }
                td.number { (count(row.arrived)) }
                td.number { (count(row.unwanted + row.deleted)) }
                td { @if row.suspended { (state("held", "suspended")) } }
            }
        })
        .collect();
    html! {
        @if !rows.is_empty() {
            (table("By connector", &["Connector", "Type", "Sent", "Arrived since", "Not wanted", "State"], &rows))
            @if plan.connectors.len() > MAX_ROWS {
                p.muted { "The first " (MAX_ROWS) " of " (count(plan.connectors.len())) " connectors." }
            }
        }
    }
}

/// `POST /console/letters/redrive`
pub async fn redrive(State(pages): Shared, form: Bytes) -> Result<Response, Trouble> {
    let mut wrong = Wrong::default();
    let more = ["csrf", "which", "all", "rate", "canary", "confirm"];
    let known: Vec<&str> = FILTER.into_iter().chain(TIMES).chain(more).collect();
    let form = filled(&String::from_utf8_lossy(&form), &known, &mut wrong);
    let asked = asked(&form, &mut wrong);
    wrong.check()?;
    let (status, told) = redrive_as_asked(&pages.console, &asked).await?;
    let job = told.0["job"].as_str().filter(|_| status == StatusCode::ACCEPTED);
    Ok(match job {
        Some(job) => see(&format!("/console/jobs/{}", part(job))),
        // Nothing is left to be sent: the letters' page says so.
        None => see("/console/letters"),
    })
}
