//! The search: an id of any kind leads to its page.

use axum::{
    extract::{RawQuery, State},
    response::{IntoResponse, Response},
};
use maud::html;

use super::{
    MAX_SEARCHED, Shared, Trouble, each_connector, filled,
    frame::{
        Page, Section, connector_path, count, cut_short, key_link, part, project_path, see, words,
    },
};
use crate::{
    console::ask::Wrong,
    id::{ConnectorId, ConnectorKey, ProjectId},
    operations::Operations,
    replay::Position,
};

/// Connectors of one id that are shown; ids are unique within a project only.
const MAX_NAMESAKES: usize = 50;

/// `GET /console/find`
pub async fn find(State(pages): Shared, RawQuery(query): RawQuery) -> Result<Response, Trouble> {
    let mut wrong = Wrong::default();
    let query = filled(query.as_deref().unwrap_or_default(), &["q"], &mut wrong);
    wrong.check()?;
    let Some(text) = query.one("q").map(|text| text.trim().to_owned()) else {
        return Ok(see("/console"));
    };
    if text.parse::<Position>().is_ok() {
        return Ok(see(&format!("/console/letters/{}", part(&text))));
    }
    if Operations::is_job(&text) {
        return Ok(see(&format!("/console/jobs/{}", part(&text))));
    }
    if let Some((project, connector)) = text.split_once('/')
        && ProjectId::parse(project).is_ok()
        && ConnectorId::parse(connector).is_ok()
    {
        return Ok(see(&connector_path(project, connector)));
    }
    let (project, connector) = (ProjectId::parse(&text).ok(), ConnectorId::parse(&text).ok());
    let (is_project, namesakes, are_more) = pages
        .read_view(move |view| {
            let is_project = match &project {
                Some(project) => {
                    let state = view.project(project)?;
                    state.project.is_some() || !state.connectors.is_empty()
                }
                None => false,
            };
            let mut namesakes: Vec<ConnectorKey> = Vec::new();
            let Some(connector) = connector.filter(|_| !is_project) else {
                return Ok((is_project, namesakes, false));
            };
            let are_more = each_connector(view.store().connectors(), MAX_SEARCHED, |found| {
                if found.key.connector == connector {
                    namesakes.push(found.key);
                }
            })?;
            Ok((is_project, namesakes, are_more))
        })
        .await?;
    if is_project {
        return Ok(see(&project_path(&text)));
    }
    Ok(match namesakes.as_slice() {
        [] if are_more => not_all(&text).into_response(),
        // An event's id is its producer's and may look like anything.
        [] if text.parse::<uuid::Uuid>().is_err() => {
            see(&format!("/console/events/{}", part(&text)))
        }
        [] => of_delivery(&text).into_response(),
        [only] if !are_more => see(&connector_path(&only.project, &only.connector)),
        several => {
            let body = html! {
                p { "Connectors' ids are unique within a project." }
                ul { @for key in several.iter().take(MAX_NAMESAKES) { li { (key_link(key)) } } }
                @if several.len() > MAX_NAMESAKES {
                    p.muted { "The first " (MAX_NAMESAKES) " of " (count(several.len())) ". " code { "PROJECT/" (words(&text)) } " finds one of a project." }
                }
                @if are_more { (cut_short()) }
            };
            let title = match several.len() {
                1 => format!("One connector has the id {text}"),
                number => format!("{} connectors have the id {text}", count(number)),
            };
            Page::new(Section::Connectors, title, body).into_response()
        }
    })
}

/// What is not among so many connectors may be one of the others, or an event.
fn not_all(text: &str) -> Page {
    let body = html! {
        (cut_short())
        p { "With its project, " code { "PROJECT/" (words(text)) } " finds a connector wherever it is." }
        p { a href=(format!("/console/events/{}", part(text))) { "Look for an event of this id" } }
    };
    Page::new(Section::Elsewhere, format!("No connector {text} was found"), body)
}

/// A delivery is found by its event, of which its id says nothing.
fn of_delivery(text: &str) -> Page {
    let body = html! {
        p { "No project and no connector has this id." }
        p { "A delivery's id is made of its connector and its event and names neither. Find it in its connector's attempts, or by the event." }
        p { a href=(format!("/console/events/{}", part(text))) { "Look for an event of this id" } }
    };
    Page::new(Section::Elsewhere, format!("Nothing is known of {}", words(text)), body)
}
