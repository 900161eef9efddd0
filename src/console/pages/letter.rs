//! One dead letter: why, what it would be as a request now, and the event as it was produced.

use axum::extract::{Path, State};
use maud::{Markup, html};
use serde_json::{Value, json};

use super::{
    Shared, Shown,
    frame::{Page, Section, ago, count, event_link, folded, key_link, part, words},
    letters::letter_state,
};
use crate::{
    connector::{Problem, ProblemCode},
    delivery::Reason,
    replay::Position,
};

/// `GET /console/letters/{position}`
pub async fn letter(State(pages): Shared, Path(position): Path<String>) -> Shown {
    let position: Position =
        position.parse().map_err(|error: String| Problem::new(ProblemCode::NotFound, error))?;
    let config = pages.console.config.clone();
    let (letter, told, marks) = pages
        .console
        .read(move |own| {
            let (letter, record, marks) = own.dead_letter(position)?;
            let told = own.told(&config, &letter, &record, &marks)?;
            Ok((letter, told, marks))
        })
        .await?;
    let is_waiting = letter.state(&marks) == "waiting";
    let which = match letter.state(&marks) {
        "waiting" => "",
        "failed again" => "&which=failed",
        _ => "&which=again",
    };
    let plan = format!("/console/letters/redrive?position={}{which}", part(position));
    let facts = &told.facts;
    let event = told.event.as_ref().map(|event| event.get().to_owned());
    let event = event.or_else(|| facts["eventText"].as_str().map(str::to_owned));
    let body = html! {
        div.actions {
            @if letter.delivery().is_some() {
                a.button href=(plan) { @if is_waiting { "Plan to send it again" } @else { "Plan to send it once more" } }
            }
        }
        dl {
            dt { "State" } dd { (letter_state(&letter, &marks)) }
            dt { "Written" } dd { (ago(letter.at)) }
            dt { "Reason" } dd { (words(&letter.reason)) @if let Some(reason) = Reason::named(&letter.reason) { ": " (reason.help()) } }
            @if !letter.detail.is_empty() { dt { "Last words" } dd { q { (words(&letter.detail)) } } }
            @if let Some(delivery) = letter.delivery() {
                dt { "Connector" } dd { (key_link(&delivery.connector)) " (" (delivery.connector_type) ")" }
                dt { "Event" } dd { (event_link(&delivery.event.id, &delivery.connector.project)) " (" (delivery.event.kind) ")" }
                dt { "Delivery" } dd { code { (delivery.delivery_id) } }
                dt { "Requests made" } dd { (count(delivery.attempts)) }
                dt { "Taken on" } dd { (ago(delivery.accepted_at)) }
                @if let Some(job) = &delivery.job { dt { "Sent by" } dd { a.id href=(format!("/console/jobs/{}", part(job))) { (words(job)) } } }
            } @else {
                dt { "What it is" } dd { "A record that could not be read. " code { "dunmore dlq export" } " writes it to a file; mended, " code { "dunmore dlq reinject" } " writes it back." }
            }
            dt { "Came from" }
            dd { (words(&letter.source_topic)) " partition " (letter.source_partition) " offset " (letter.source_offset) }
        }
        h2 { "The request that it would become now" }
        (request(facts))
        h2 { "The record" }
        @if let Some(event) = &event { (folded("Event, as it was produced", event)) }
        @if let Some(value) = facts["valueBase64"].as_str() { (folded("Value, in base64", value)) }
        (folded("Headers", &pretty(&facts["headers"])))
    };
    let title = format!("Dead letter {position} ({})", letter.reason);
    Ok(Page::new(Section::Letters, title, body))
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

/// The request in the form for programs.
fn request(facts: &Value) -> Markup {
    let request = &facts["request"];
    let text = |name: &str| request[name].as_str().unwrap_or_default().to_owned();
    html! {
        @if request.is_object() {
            p { code { (words(&format!("{} {}", text("method"), text("url")))) } }
            (folded("Headers, secrets masked", &pretty(request.get("headers").unwrap_or(&json!([])))))
            (folded("Body", &text("body")))
        } @else if let Some(why) = facts["requestProblem"].as_str() {
            p.notice { "None: " (words(why)) }
        } @else {
            p { "None: it is no delivery." }
        }
    }
}
