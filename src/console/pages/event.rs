//! An event's story as a line of time: taken on, matched, each attempt, and where each delivery is
//! now.

use axum::extract::{Path, RawQuery, State};
use maud::{Markup, html};

use super::{
    Shared, Shown,
    connector::answer,
    filled,
    frame::{
        Page, Section, ago, count, field, folded, key_link, letter_link, outcome, part,
        project_link, state, words,
    },
};
use crate::{
    cli::span,
    clock::Timestamp,
    console::ask::Wrong,
    delivery::{AttemptRecord, Outcome},
    id::EventId,
    replay::{Place, Story, Told},
};

/// How far back is looked unless it is said.
const FROM: &str = "7 days ago";
/// Deliveries that are shown.
const MAX_DELIVERIES: usize = 40;
/// Steps of a delivery that are shown, the latest ones.
const MAX_STEPS: usize = 30;

/// `GET /console/events/{event}`
pub async fn event(
    State(pages): Shared,
    Path(event): Path<String>,
    RawQuery(query): RawQuery,
) -> Shown {
    let mut wrong = Wrong::default();
    let query = filled(query.as_deref().unwrap_or_default(), &["project", "from"], &mut wrong);
    let event = wrong.take("event", EventId::parse(&event));
    let project = query.project(&mut wrong);
    let since = query.one("from").unwrap_or(FROM).to_owned();
    let from = wrong.when("from", Some(&since));
    let Some(event) = event else {
        wrong.check()?;
        return Err(super::nothing().await);
    };
    wrong.check()?;
    let (name, only) = (event.clone(), project.clone());
    let story =
        pages.console.read(move |own| own.trace(name.as_str(), only.as_ref(), from)).await?;
    let only = project.map(|project| project.to_string()).unwrap_or_default();
    let look = html! {
        form.filter action=(format!("/console/events/{}", part(&event))) {
            (field("project", "Project", &only, "empty: every project"))
            (field("from", "Look back to", &since, "RFC 3339, a date, or 30 days ago"))
            button { "Look again" }
        }
    };
    if story.is_empty() {
        let waiting: u64 = story.behind.iter().map(|behind| behind.records).sum();
        let body = html! {
            p { "Looked in the events, attempts, replays and dead letters since " (words(&since)) "." }
            @if waiting > 0 { p.notice { (count(waiting)) " records wait behind a producer's open transaction, and none of them is it." } }
            p { "Look further back, or check the id: it is the one in the event's own " code { "id" } "." }
            (look)
        };
        let title = format!("Nothing is known of event {event}");
        return Ok(Page::new(Section::Elsewhere, title, body));
    }
    let body = html! {
        (look)
        (taken(&story))
        @for told in story.deliveries().take(MAX_DELIVERIES) { (delivery(&told, &story)) }
        @let more = story.deliveries().count().saturating_sub(MAX_DELIVERIES);
        @if more > 0 { p.muted { "And " (count(more)) " more deliveries: " code { "dunmore event trace " (words(event.as_str())) } } }
        @if let Some(why) = story.why_unwanted() { p.notice { (words(&why)) } }
        @if let Some(text) = &story.event_text { (folded("Event, as it was produced", text)) }
        (folded("The whole story as JSON", &serde_json::to_string_pretty(&story.to_json(event.as_str())).unwrap_or_default()))
    };
    Ok(Page::new(Section::Elsewhere, sentence(event.as_str(), &story), body))
}

/// Where the deliveries are, in a sentence.
fn sentence(event: &str, story: &Story) -> String {
    let all = story.deliveries().count();
    let arrived = |told: &Told<'_>| matches!(told.place, Place::Delivered { .. } | Place::Skipped);
    let arrived = story.deliveries().filter(arrived).count();
    let is_dead = |told: &Told<'_>| matches!(told.place, Place::Dead { redriven: false, .. });
    let dead = story.deliveries().filter(is_dead).count();
    let words = match (all, arrived, dead) {
        (0, ..) if !story.refused.is_empty() => "was refused".to_owned(),
        (0, ..) => "went to no connector".to_owned(),
        (all, arrived, 0) if all == arrived => format!("is done at all {all} connectors"),
        (all, arrived, 0) => format!("is done at {arrived} of {all} connectors, the rest waits"),
        (all, arrived, 1) => {
            format!("is done at {arrived} of {all} connectors, one is a dead letter")
        }
        (all, arrived, dead) => {
            format!("is done at {arrived} of {all} connectors, {dead} are dead letters")
        }
    };
    format!("Event {event} {words}")
}

fn taken(story: &Story) -> Markup {
    html! {
        ol.story {
            @for consumed in &story.consumed {
                li {
                    (ago(consumed.at)) " taken on: " (words(&consumed.event_type)) " of " (project_link(&consumed.project))
                    br; small { (words(&consumed.origin.topic)) " partition " (consumed.origin.partition) " offset " (consumed.origin.offset) }
                }
            }
            @for behind in story.behind.iter().filter(|behind| behind.event_at.is_some()) {
                li { "In partition " (behind.partition) ", behind a producer's open transaction: it is read when that ends." }
            }
            @for found in &story.unreadable {
                li {
                    (ago(found.at)) " named in a record that is no event which can be read"
                    br; small { (words(&found.origin.topic)) " partition " (found.origin.partition) " offset " (found.origin.offset) }
                }
            }
            @for refused in &story.refused {
                li {
                    (ago(refused.at)) " " (state("failing", "refused")) " dead letter " (letter_link(refused.position))
                    @if refused.reinjected { ", written back from there" }
                    ": " (words(&refused.reason)) " " q { (words(&refused.detail)) }
                }
            }
            @if story.consumed.is_empty() && story.deliveries().next().is_some() {
                li { "The event itself is not in the log any more, or was taken on earlier." }
            }
        }
    }
}

fn delivery(told: &Told<'_>, story: &Story) -> Markup {
    let steps = steps(told.attempts);
    let skipped = steps.len().saturating_sub(MAX_STEPS);
    let began = story.consumed.iter().map(|consumed| consumed.at).min();
    html! {
        h2 {
            @match told.connector {
                Some((key, kind)) => { (kind) " " (key_link(key)) }
                None => "A connector that is not known",
            }
        }
        p {
            (place(&told.place))
            @if !told.matches_now { "; the connector does not want it any more" }
        }
        @if let Some(reason) = told.suspended { p.notice { "The connector is suspended: " (words(reason)) } }
        @if let Some(answer) = told.answer { p { "Its last real answer: " (words(&answer.words())) } }
        ol.story {
            @if skipped > 0 { li { (count(skipped)) " earlier steps are left out" } }
            @for step in steps.iter().skip(skipped) {
                @let attempt = step.last;
                li {
                    time datetime=(attempt.at) title=(attempt.at) { (elapsed(began, attempt.at)) }
                    " " (outcome(attempt.outcome.as_str()))
                    @if step.times > 1 { " " (count(step.times)) " times, first " (elapsed(began, step.first.at)) "," }
                    " " (attempt.source.as_str()) ", request #" (attempt.attempt)
                    @if let Some(tier) = &attempt.tier { ", waits in " (words(tier)) }
                    @if let Some(job) = &attempt.job { ", asked for by " a.id href=(format!("/console/jobs/{}", part(job))) { (words(job)) } }
                    div.words { (answer(attempt)) }
                }
            }
            li { b { "Now: " (words(&told.place.words())) } }
        }
        small { "delivery " code { (told.id) } }
    }
}

/// Attempts in a row that say the same.
struct Step<'a> {
    first: &'a AttemptRecord<'static>,
    last: &'a AttemptRecord<'static>,
    times: u64,
}

/// The attempts, where those in a row that were deferred for one reason are one step: a delivery that
/// waits for its destination may have hundreds of them.
fn steps<'a>(attempts: &'a [AttemptRecord<'static>]) -> Vec<Step<'a>> {
    let mut steps: Vec<Step<'a>> = Vec::new();
    for attempt in attempts {
        let is_same = |last: &AttemptRecord<'_>| {
            let both_deferred = [last.outcome, attempt.outcome] == [Outcome::Deferred; 2];
            both_deferred && last.reason == attempt.reason && last.job == attempt.job
        };
        match steps.last_mut() {
            Some(step) if is_same(step.last) => {
                step.last = attempt;
                step.times += 1;
            }
            _ => steps.push(Step { first: attempt, last: attempt, times: 1 }),
        }
    }
    steps
}

/// How long after the event was taken on, or when.
fn elapsed(began: Option<Timestamp>, at: Timestamp) -> String {
    match began {
        Some(began) if at >= began => {
            let after = at.since(began);
            if after.as_secs() < 2 {
                format!("after {} ms", after.as_millis())
            } else {
                format!("after {}", span(after.as_secs_f64()))
            }
        }
        _ => at.to_string(),
    }
}

fn place(place: &Place) -> Markup {
    match place {
        Place::Delivered { at } => html! { (state("good", "delivered")) " " (ago(*at)) },
        Place::Skipped => state("good", "skipped"),
        Place::Cancelled { .. } => state("off", "cancelled"),
        Place::Waiting { tier, since } => {
            let is_held = tier == crate::delivery::HELD;
            let (class, word) = if is_held { ("held", "held") } else { ("waiting", "waiting") };
            html! { (state(class, word)) " in " (words(tier)) " since " (ago(*since)) }
        }
        Place::Dead { position, redriven } => html! {
            @if *redriven { (state("waiting", "redriven")) } @else { (state("failing", "dead letter")) }
            @if let Some(position) = position { " at " (letter_link(position)) }
        },
        Place::Replaying { job } => html! {
            (state("waiting", "in the replay topic")) ", asked for by "
            a.id href=(format!("/console/jobs/{}", part(job))) { (words(job)) }
        },
        Place::Unknown => html! { (state("off", "not known")) ": in flight, or too long ago" },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_put_off_in_a_row_for_one_reason_is_one_step() {
        let attempt = |second: i64, outcome: &str, reason: &str| -> AttemptRecord<'static> {
            let at = Timestamp::from_millis(second * 1_000);
            serde_json::from_value(json!({
                "deliveryId": "29add280-1bd3-5738-8b64-5cb6457b81ad", "projectId": "proj_1",
                "connectorId": "conn_1", "connectorType": "slack", "eventId": "evt_1",
                "eventType": "payment.settled", "source": "retry", "attempt": 1,
                "outcome": outcome, "reason": reason, "at": at,
            }))
            .unwrap()
        };
        let attempts = [
            attempt(1, "retry", "server_error"),
            attempt(2, "retry", "server_error"),
            attempt(3, "deferred", "circuit_open"),
            attempt(4, "deferred", "circuit_open"),
            attempt(5, "deferred", "circuit_open"),
            attempt(6, "deferred", "lane_full"),
            attempt(7, "dead", "server_error"),
        ];
        let told: Vec<(i64, i64, u64)> = steps(&attempts)
            .iter()
            .map(|step| (step.first.at.millis(), step.last.at.millis(), step.times))
            .collect();
        let wanted = [(1, 1, 1), (2, 2, 1), (3, 5, 3), (6, 6, 1), (7, 7, 1)];
        assert_eq!(told, wanted.map(|(first, last, times)| (first * 1_000, last * 1_000, times)));
    }
}
