//! One connector: its state and why, what waits for it, what its destination answered lately, the
//! request that an event becomes, and what can be done.

use std::sync::Arc;

use axum::{
    Extension,
    body::Bytes,
    extract::{Path, RawQuery, State},
    response::Response,
};
use maud::{Markup, html};
use serde_json::json;

use super::{
    Pages, Shared, Shown, Trouble,
    connectors::state_of,
    filled,
    frame::{
        Page, Section, ago, connector_path, count, csrf, event_link, folded, outcome, part,
        project_link, project_path, see, state, table, words,
    },
    gate::ACTOR,
    session::Session,
};
use crate::{
    api,
    clock::Timestamp,
    connector::Connector,
    console::ask::Wrong,
    delivery::{AttemptRecord, Outcome},
    destination::docs::Preview,
    event::{EventType, EventTypes},
    id::DeliveryId,
    operations::request_of,
    replay::{AttemptFilter, ConnectorName},
};

/// The latest attempts that are shown.
const MAX_ATTEMPTS: usize = 20;

/// `GET /console/projects/{project}/connectors/{connector}`
pub async fn connector(
    State(pages): Shared,
    Extension(session): Extension<Session>,
    Path((project, id)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Shown {
    let mut wrong = Wrong::default();
    let query = filled(query.as_deref().unwrap_or_default(), &["event"], &mut wrong);
    let asked = query.one("event").map(|name| {
        let known = EventType::ALL.iter().copied().find(|kind| kind.as_str() == name);
        known.ok_or("is no event type")
    });
    let asked = asked.and_then(|kind| wrong.take("event", kind));
    wrong.check()?;
    let found = pages.find_connector(&project, &id).await?;
    let first = match &found.event_types {
        EventTypes::All | EventTypes::AllAnd(_) => None,
        EventTypes::Some(kinds) => kinds.first().copied(),
    };
    let kind = asked.or(first).unwrap_or(EventType::PaymentSettled);
    let (attempts, request) =
        tokio::join!(pages.attempts_of(&found), pages.request_of(&found, kind));
    let body = html! {
        (actions(&found, &session))
        (facts(&pages, &found))
        h2 { "Last attempts" }
        @match &attempts {
            Ok(attempts) => (attempts_table(attempts)),
            Err(why) => p.notice { "They cannot be read now: " (words(why)) },
        }
        h2 { "The request that an event becomes" }
        (sample_form(&found, kind))
        @match &request {
            Ok(request) => (request_markup(request)),
            Err(why) => p.notice { (words(why)) },
        }
    };
    Ok(Page::new(Section::Connectors, sentence(&found), body))
}

/// The state in a sentence.
fn sentence(found: &Connector) -> String {
    let key = &found.key;
    let name = found.name.as_ref().map_or_else(String::new, |name| format!(" “{name}”"));
    let whose =
        format!("{} connector {}{name} of {}", found.type_name(), key.connector, key.project);
    match (found.is_active, &found.suspended_reason) {
        (true, None) => format!("{whose} is active"),
        (true, Some(reason)) => format!("{whose} is suspended: {reason}"),
        (false, None) => format!("{whose} is switched off"),
        (false, Some(reason)) => format!("{whose} is switched off, and suspended: {reason}"),
    }
}

fn actions(found: &Connector, session: &Session) -> Markup {
    let path = connector_path(&found.key.project, &found.key.connector);
    let key = found.key.to_string();
    html! {
        div.actions {
            @if found.suspended_reason.is_some() {
                form method="post" action=(format!("{path}/resume")) {
                    (csrf(session))
                    button.go { "Resume the connector" }
                }
            }
            form method="post" action=(format!("{path}/active")) {
                (csrf(session))
                input type="hidden" name="active" value=(!found.is_active);
                button { @if found.is_active { "Switch the connector off" } @else { "Switch the connector on" } }
            }
            a.button href=(format!("/console/letters/heap?connector={}", part(&key))) { "Its dead letters" }
            a.button href=(format!("{}/history?connector={}", project_path(&found.key.project), part(&found.key.connector))) { "Its history" }
        }
    }
}

fn facts(pages: &Arc<Pages>, found: &Connector) -> Markup {
    let (class, word) = state_of(found);
    let masked = found.to_public_json();
    let held = pages.console.held_count(&found.key);
    html! {
        dl {
            dt { "State" }
            dd {
                (state(class, word))
                @if let Some(reason) = &found.suspended_reason {
                    @if let Some(at) = found.suspended_at { " since " (ago(at)) }
                    ": " span.words { (words(reason)) }
                }
            }
            @if let Some(held) = held.filter(|held| *held > 0 || found.suspended_reason.is_some()) {
                dt { "Held" } dd { (count(held)) " deliveries wait until the suspension is lifted" }
            }
            dt { "Project" } dd { (project_link(&found.key.project)) }
            @if let Some(name) = &found.name { dt { "Name" } dd { (words(name)) } }
            dt { "Events" } dd { (words(&found.event_type_names().join(", "))) }
            @if let Some(filter) = &found.filter { dt { "Filter" } dd { code { (words(filter)) } } }
            @for (name, value) in masked["config"].as_object().into_iter().flatten() {
                dt { (words(name)) }
                dd { code { (words(&value.as_str().map_or_else(|| value.to_string(), str::to_owned))) } }
            }
            dt { "Created" } dd { (ago(found.created_at)) }
            dt { "Changed" } dd { (ago(found.updated_at)) }
        }
    }
}

pub fn attempts_table(attempts: &[AttemptRecord<'_>]) -> Markup {
    let rows: Vec<Markup> = attempts.iter().map(row).collect();
    html! {
        @if rows.is_empty() {
            p { "None is on record: nothing was sent lately, or " code { "delivery.attempt_log" } " leaves it out." }
        } @else {
            (table("Attempts", &["When", "Outcome", "Event", "Request", "Answer"], &rows))
        }
    }
}

fn row(attempt: &AttemptRecord<'_>) -> Markup {
    html! {
        td { (ago(attempt.at)) }
        td {
            (outcome(attempt.outcome.as_str()))
            @if let Some(tier) = &attempt.tier { br; "waits in " (words(tier)) }
        }
        td { (event_link(&attempt.event_id, &attempt.project_id)) br; (words(&attempt.event_type)) }
        td { (attempt.source.as_str()) ", #" (attempt.attempt) }
        td.words { (answer(attempt)) }
    }
}

/// What the destination answered to an attempt.
pub fn answer(attempt: &AttemptRecord<'_>) -> Markup {
    html! {
        @if let Some(status) = attempt.status { "HTTP " (status) " " }
        @if let Some(ms) = attempt.duration_ms { "in " (count(ms)) " ms " }
        @if let Some(reason) = attempt.reason { span title=(reason.help()) { (reason) } }
        @if let Some(detail) = &attempt.detail { br; q { (words(detail)) } }
    }
}

fn sample_form(found: &Connector, kind: EventType) -> Markup {
    html! {
        form.filter action=(connector_path(&found.key.project, &found.key.connector)) {
            p.field {
                label for="f-event" { "A sample event of the type" }
                select #f-event name="event" {
                    @for one in EventType::ALL { option selected[*one == kind] { (one) } }
                }
            }
            button { "Show" }
        }
    }
}

/// A request as it would be sent.
pub fn request_markup(request: &Preview) -> Markup {
    html! {
        p { code { (words(&format!("{} {}", request.method, request.url))) } }
        (folded("Headers and body, secrets masked", &request.to_string()))
    }
}

/// `POST /console/projects/{project}/connectors/{connector}/resume`
pub async fn resume(
    State(pages): Shared,
    Path((project, id)): Path<(String, String)>,
) -> Result<Response, Trouble> {
    let key = pages.find_connector(&project, &id).await?.key;
    let command = json!({
        "type": "connector.resume", "projectId": key.project, "connectorId": key.connector,
    });
    pages.console.command(command, ACTOR).await?;
    Ok(see(&connector_path(&key.project, &key.connector)))
}

/// `POST /console/projects/{project}/connectors/{connector}/active`
pub async fn switch(
    State(pages): Shared,
    Path((project, id)): Path<(String, String)>,
    form: Bytes,
) -> Result<Response, Trouble> {
    let mut wrong = Wrong::default();
    let form = String::from_utf8_lossy(&form);
    let form = filled(&form, &["csrf", "active"], &mut wrong);
    let active = form.one("active").unwrap_or_default().parse::<bool>();
    let active = wrong.take("active", active);
    wrong.check()?;
    let key = pages.find_connector(&project, &id).await?.key;
    let command = json!({
        "type": "connector.update", "projectId": key.project, "connectorId": key.connector,
        "patch": { "isActive": active },
    });
    pages.console.command(command, ACTOR).await?;
    Ok(see(&connector_path(&key.project, &key.connector)))
}

impl Pages {
    /// The connector's latest attempts.
    async fn attempts_of(&self, found: &Connector) -> Result<Vec<AttemptRecord<'static>>, String> {
        let filter = AttemptFilter {
            connectors: vec![ConnectorName::of(&found.key.project, &found.key.connector)],
            // A destination that is given a rest has many of those, and they say nothing of it.
            outcomes: Outcome::ALL.iter().copied().filter(|o| *o != Outcome::Deferred).collect(),
            ..AttemptFilter::default()
        };
        let (log, project) = (Arc::clone(&self.attempts_log), found.key.project.clone());
        let ever: (Option<Timestamp>, Option<Timestamp>) = (None, None);
        let read = self.console.read(move |own| {
            Ok(log.page(own, &project, &filter, ever, None, MAX_ATTEMPTS)?.attempts)
        });
        read.await.map_err(|failure| failure.problem().detail.clone())
    }

    /// The request that a sample event becomes.
    async fn request_of(&self, found: &Connector, kind: EventType) -> Result<Preview, String> {
        let key = found.key.clone();
        let event = api::sample(kind, &key.project)?;
        let project = key.project.clone();
        let subscriptions = self.read_view(move |view| view.subscriptions(&project)).await;
        let subscriptions = subscriptions.map_err(|problem| problem.detail)?;
        let target = subscriptions.target(&key.connector).ok_or("It was deleted meanwhile.")?;
        request_of(target, &event, DeliveryId::new(&key, &event.id), 1)
    }
}
