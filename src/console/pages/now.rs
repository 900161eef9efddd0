//! Now: is it flowing, which topics are behind, what is suspended, held or dead, and what fails.

use axum::extract::State;
use maud::{Markup, html};

use super::{
    Shared, Shown,
    frame::{Page, Section, ago, connector_link, count, part, state, table, words},
};
use crate::{
    cli::span,
    delivery::Reason,
    operations::{DeadWaiting, Failing, InstanceFacts, Status, Suspended, TopicLag},
};

/// From here on a topic counts as behind, in seconds.
const BEHIND_SECONDS: f64 = 60.0;

/// `GET /console`
pub async fn now(State(pages): Shared) -> Shown {
    let status = pages.status().await?;
    let prefix = &pages.console.config.topics.prefix;
    let body = html! {
        div data-live {
            (figures(&status))
            @if let Some(facts) = &status.instance { (warnings(facts)) }
            (behind(status.topics.as_deref(), prefix))
            (failing(status.failing.as_deref(), status.failing_within_seconds))
            (dead(status.dead_letters.as_ref()))
            (suspended(status.suspended.as_deref()))
            @if let Some(facts) = &status.instance { (circuits(facts)) }
            p.muted { "Looked " (ago(status.at)) "." }
            @if !status.left_out.is_empty() {
                h2 { "Left out" }
                ul { @for sentence in &status.left_out { li { (words(sentence)) } } }
            }
        }
    };
    Ok(Page::new(Section::Now, sentence(&status, prefix), body))
}

/// The state in a sentence.
fn sentence(status: &Status, prefix: &str) -> String {
    if let Some(facts) = status.instance.as_ref().filter(|facts| !facts.ready) {
        let why = facts.failure.as_ref().or_else(|| facts.waiting_for.first());
        return format!("This instance is not ready: {}", why.map_or("it starts", |why| why));
    }
    if status.instances.as_ref().is_some_and(|instances| instances.delivery == 0) {
        return "Nothing flows: no instance delivers".to_owned();
    }
    let topics = status.topics.iter().flatten().filter(|topic| seconds(topic) >= BEHIND_SECONDS);
    let latest = topics.max_by(|a, b| seconds(a).total_cmp(&seconds(b)));
    match (latest, &status.topics) {
        (Some(topic), _) => format!(
            "Behind: what waits in {} has waited for {}",
            name(topic, prefix),
            span(seconds(topic))
        ),
        (None, Some(_)) => "Events are flowing".to_owned(),
        (None, None) => "How far behind the service is cannot be said now".to_owned(),
    }
}

fn seconds(topic: &TopicLag) -> f64 {
    topic.lag_seconds.unwrap_or_default()
}

fn name<'a>(topic: &'a TopicLag, prefix: &str) -> &'a str {
    topic.topic.strip_prefix(prefix).unwrap_or(&topic.topic)
}

fn figure(number: Option<u64>, what: &str, class: &str, word: &str) -> Markup {
    html! {
        li {
            b { (number.map_or_else(|| "?".to_owned(), count)) } (what) br;
            @match number {
                None => (state("off", "not known")),
                Some(0) => (state("good", "none")),
                Some(_) => (state(class, word)),
            }
        }
    }
}

fn figures(status: &Status) -> Markup {
    let waiting = status.topics.as_ref().map(|topics| topics.iter().map(|one| one.waiting).sum());
    let suspended = status.suspended.as_ref();
    let suspended = suspended.map(|all| all.iter().map(|one| one.count).sum());
    let facts = status.instance.as_ref();
    let held = facts.map(|facts| facts.held.values().sum());
    let circuits = facts.map(|facts| facts.open_circuits.values().sum());
    html! {
        ul.figures {
            li {
                @match &status.instances {
                    Some(found) => {
                        b { (found.delivery) } "instances deliver" br;
                        span.muted { (found.registrar) " decide commands" }
                    }
                    None => { b { "?" } "instances" br; (state("off", "not known")) }
                }
            }
            (figure(waiting, "records wait", "waiting", "waiting"))
            (figure(status.dead_letters.as_ref().map(|dead| dead.waiting), "dead letters", "failing", "waiting for you"))
            (figure(suspended, "connectors suspended", "held", "suspended"))
            (figure(held, "deliveries held here", "held", "held"))
            (figure(circuits, "circuits open here", "failing", "open"))
        }
    }
}

fn warnings(facts: &InstanceFacts) -> Markup {
    html! {
        @for sentence in facts.failure.iter().chain(&facts.waiting_for).chain(&facts.warnings) {
            p.notice { (words(sentence)) }
        }
    }
}

fn behind(topics: Option<&[TopicLag]>, prefix: &str) -> Markup {
    let Some(topics) = topics else { return html! {} };
    let waits = topics.iter().filter(|topic| topic.waiting + topic.behind_open_transaction > 0);
    let rows: Vec<Markup> = waits
        .map(|topic| {
            let late = seconds(topic) >= BEHIND_SECONDS;
            html! {
                td { code { (name(topic, prefix)) } }
                td.number { (count(topic.waiting)) }
                td { @match topic.oldest_at { Some(at) => (ago(at)), None => "not known" } }
                td {
                    @if topic.behind_open_transaction > 0 {
                        (count(topic.behind_open_transaction)) " behind an open transaction; "
                    }
                    @match (topic.per_second, topic.seconds_left) {
                        (Some(_), Some(left)) => { "done in about " (span(left)) }
                        (Some(pace), None) if pace < 0.0 => "it grows",
                        (Some(_), None) => "it stands still",
                        (None, _) if topic.former_tier => "a tier that is not in the settings any more; it empties",
                        (None, _) => "waits on purpose",
                    }
                }
                td { @if late { (state("failing", "behind")) } @else { (state("waiting", "waiting")) } }
            }
        })
        .collect();
    html! {
        h2 { "What waits" }
        @if rows.is_empty() { p { "Nothing: every record is done with." } }
        @else { (table("Topics with records that wait", &["Topic", "Records", "Oldest", "Pace", "State"], &rows)) }
    }
}

fn failing(failing: Option<&[Failing]>, within: u64) -> Markup {
    let Some(failing) = failing else { return html! {} };
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let within = span(within as f64);
    let rows: Vec<Markup> = failing
        .iter()
        .map(|one| {
            html! {
                td { (connector_link(&one.project_id, &one.connector_id)) }
                td { (words(&one.connector_type)) }
                td {
                    (count(one.failed)) " of " (count(one.requests)) " failed "
                    meter min="0" max=(one.requests) value=(one.failed) {}
                }
                td.words {
                    @if let Some(status) = one.last.status { "HTTP " (status) " " }
                    (one.last.reason) ", " (ago(one.last.at))
                    @if let Some(detail) = &one.last.detail { br; q { (words(detail)) } }
                }
            }
        })
        .collect();
    html! {
        h2 { "Connectors that fail most, last " (within) }
        @if rows.is_empty() { p { "None: no request failed." } }
        @else { (table("Connectors that fail most", &["Connector", "Type", "Requests", "Last answer"], &rows)) }
    }
}

fn dead(dead: Option<&DeadWaiting>) -> Markup {
    let Some(dead) = dead else { return html! {} };
    let mut reasons: Vec<(&String, &u64)> = dead.reasons.iter().collect();
    reasons.sort_by(|a, b| b.1.cmp(a.1).then_with(|| a.0.cmp(b.0)));
    let rows: Vec<Markup> = reasons
        .iter()
        .map(|(reason, number)| {
            html! {
                @match Reason::named(reason) {
                    Some(known) => {
                        td { a href=(format!("/console/letters/heap?reason={}", part(reason))) { (words(reason)) } }
                        td.number { (count(number)) }
                        td { (known.help()) }
                    }
                    None => {
                        td { (words(reason)) }
                        td.number { (count(number)) }
                        td { "Without a reason that this release knows." }
                    }
                }
            }
        })
        .collect();
    html! {
        h2 { a href="/console/letters" { "Dead letters" } }
        @if rows.is_empty() { p { "None wait." } }
        @else { (table("Dead letters that wait, by reason", &["Reason", "Letters", "Meaning"], &rows)) }
    }
}

fn suspended(suspended: Option<&[Suspended]>) -> Markup {
    let Some(suspended) = suspended else { return html! {} };
    let rows: Vec<Markup> = suspended
        .iter()
        .map(|one| {
            let path = format!("/console/connectors?state=suspended&type={}", part(&one.kind));
            html! {
                td { a href=(path) { (words(&one.kind)) } }
                td { (words(&one.reason)) }
                td.number { (count(one.count)) }
            }
        })
        .collect();
    html! {
        h2 { "Suspended connectors" }
        @if rows.is_empty() { p { "None." } }
        @else { (table("Suspended connectors by type and reason", &["Type", "Reason", "Connectors"], &rows)) }
    }
}

fn circuits(facts: &InstanceFacts) -> Markup {
    html! {
        @if !facts.open_circuits.is_empty() {
            h2 { "Open circuits of this instance" }
            p {
                "Destinations that are left alone for a while, because they failed in a row: "
                @for (at, (kind, number)) in facts.open_circuits.iter().enumerate() {
                    @if at > 0 { ", " }
                    (words(kind)) " " (count(number))
                }
                "."
            }
        }
    }
}
