//! The search: an id of any kind leads to its page.

use axum::{
    extract::{RawQuery, State},
    response::{IntoResponse, Response},
};
use maud::html;

use super::{
    Shared, Trouble, filled,
    frame::{Page, Section, connector_path, key_link, part, project_path, see, words},
};
use crate::{
    console::ask::Wrong,
    id::{ConnectorId, ConnectorKey, ProjectId},
    operations::Operations,
    replay::{Position, REDRIVE},
};

/// Connectors of one id that are shown; ids are unique within a project only.
const MAX_NAMESAKES: usize = 50;
/// Connectors that are looked through for an id.
const MAX_SEARCHED: usize = 200_000;
/// What the names of replays begin with.
const REPLAY: &str = "replay-";

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
    let is_job = text.starts_with(REPLAY) || text.starts_with(REDRIVE);
    if is_job && Operations::check_job_name(&text).is_ok() {
        return Ok(see(&format!("/console/jobs/{}", part(&text))));
    }
    if let Some((project, connector)) = text.split_once('/')
        && ProjectId::parse(project).is_ok()
        && ConnectorId::parse(connector).is_ok()
    {
        return Ok(see(&connector_path(project, connector)));
    }
    let (project, connector) = (ProjectId::parse(&text).ok(), ConnectorId::parse(&text).ok());
    let (is_project, namesakes) = pages
        .read_view(move |view| {
            let is_project = match &project {
                Some(project) => {
                    let state = view.project(project)?;
                    state.project.is_some() || !state.connectors.is_empty()
                }
                None => false,
            };
            let mut namesakes: Vec<ConnectorKey> = Vec::new();
            if let Some(connector) = connector.filter(|_| !is_project) {
                for found in view.store().connectors().take(MAX_SEARCHED) {
                    let found = found?;
                    if found.key.connector == connector && namesakes.len() < MAX_NAMESAKES {
                        namesakes.push(found.key);
                    }
                }
            }
            Ok((is_project, namesakes))
        })
        .await?;
    if is_project {
        return Ok(see(&project_path(&text)));
    }
    Ok(match namesakes.as_slice() {
        // An event's id is its producer's and may look like anything.
        [] if text.parse::<uuid::Uuid>().is_err() => {
            see(&format!("/console/events/{}", part(&text)))
        }
        [] => of_delivery(&text).into_response(),
        [only] => see(&connector_path(&only.project, &only.connector)),
        several => {
            let body = html! {
                p { "Connectors' ids are unique within a project." }
                ul { @for key in several { li { (key_link(key)) } } }
            };
            let title = format!("{} connectors have the id {text}", several.len());
            Page::new(Section::Connectors, title, body).into_response()
        }
    })
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
