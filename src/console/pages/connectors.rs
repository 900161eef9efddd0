//! Connectors and projects as lists, and what was done to a project's connectors.

use std::collections::BTreeMap;

use axum::extract::{Path, RawQuery, State};
use maud::{Markup, html};
use serde_json::Value;

use super::{
    MAX_SEARCHED, Pages, Shared, Shown, each_connector, filled,
    frame::{
        Page, Section, ago, connector_link, count, cut_short, field, folded, key_link, part,
        project_link, project_path, state, table, words,
    },
};
use crate::{
    api::Failure,
    connector::{Connector, HistoryRecord, Problem, ProblemCode},
    console::ask::Wrong,
    destination::ConnectorType,
    id::{ConnectorId, ProjectId},
};

/// Connectors or projects on a page.
const ON_PAGE: usize = 100;
/// Changes on a page: each has up to two texts.
const CHANGES_ON_PAGE: usize = 50;

/// What a connector's state is called, and its class.
pub fn state_of(connector: &Connector) -> (&'static str, &'static str) {
    match (connector.is_active, connector.suspended_reason.is_some()) {
        (false, _) => ("off", "off"),
        (true, true) => ("held", "suspended"),
        (true, false) => ("good", "active"),
    }
}

/// What a list was asked for.
struct Asked {
    search: String,
    kind: Option<ConnectorType>,
    state: String,
    page: usize,
}

const STATES: [&str; 3] = ["active", "suspended", "off"];

impl Asked {
    fn read(query: Option<&str>) -> Result<Self, Failure> {
        let mut wrong = Wrong::default();
        let query = filled(query.unwrap_or_default(), &["q", "type", "state", "page"], &mut wrong);
        let kind = query.one("type").map(|text| {
            let known = text.parse::<ConnectorType>();
            known.map_err(|_| "is no type of connectors")
        });
        let kind = kind.and_then(|kind| wrong.take("type", kind));
        let state = query.one("state").unwrap_or_default().to_owned();
        if !state.is_empty() && !STATES.contains(&state.as_str()) {
            wrong.tell("state", "must be active, suspended or off");
        }
        let page = query.one("page").map(str::parse::<usize>);
        let page = page.and_then(|page| wrong.take("page", page)).unwrap_or(1).max(1);
        wrong.check()?;
        let search = query.one("q").unwrap_or_default().to_lowercase();
        Ok(Self { search, kind, state, page })
    }

    fn takes(&self, connector: &Connector) -> bool {
        let has = |text: &str| text.to_lowercase().contains(&self.search);
        let is_found = self.search.is_empty()
            || has(&connector.key.to_string())
            || connector.name.as_deref().is_some_and(has)
            || connector.suspended_reason.as_deref().is_some_and(has);
        is_found
            && self.kind.is_none_or(|kind| kind == connector.kind)
            && (self.state.is_empty() || state_of(connector).1 == self.state)
    }

    fn form(&self, path: &str) -> Markup {
        html! {
            form.filter action=(path) {
                (field("q", "Search", &self.search, "in ids, names and reasons"))
                p.field {
                    label for="f-type" { "Type" }
                    select #f-type name="type" {
                        option value="" { "every type" }
                        @for kind in ConnectorType::ALL {
                            option selected[self.kind == Some(*kind)] { (kind) }
                        }
                    }
                }
                p.field {
                    label for="f-state" { "State" }
                    select #f-state name="state" {
                        option value="" { "every state" }
                        @for state in STATES { option selected[self.state == state] { (state) } }
                    }
                }
                button { "Search" }
            }
        }
    }

    /// Links to the pages beside this one.
    fn pager(&self, path: &str, found: usize) -> Markup {
        let first = (self.page - 1) * ON_PAGE;
        let link = |page: usize| {
            let kind = self.kind.map(ConnectorType::as_str).unwrap_or_default();
            let (search, state) = (part(&self.search), part(&self.state));
            format!("{path}?q={search}&type={}&state={state}&page={page}", part(kind))
        };
        html! {
            @if found > ON_PAGE {
                p {
                    (count((first + 1).min(found))) "–" (count((first + ON_PAGE).min(found))) " of " (count(found))
                    @if self.page > 1 { " · " a href=(link(self.page - 1)) { "before" } }
                    @if first + ON_PAGE < found { " · " a href=(link(self.page + 1)) { "after" } }
                }
            }
        }
    }
}

fn row(connector: &Connector, with_project: bool) -> Markup {
    let (class, word) = state_of(connector);
    let key = &connector.key;
    html! {
        td {
            @if with_project { (key_link(key)) }
            @else { a.id href=(super::frame::connector_path(&key.project, &key.connector)) { (key.connector) } }
            @if let Some(name) = &connector.name { br; (words(name)) }
        }
        td { (words(connector.type_name())) }
        td { (words(&connector.event_type_names().join(", "))) }
        td {
            (state(class, word))
            @if let Some(reason) = &connector.suspended_reason {
                " " @if let Some(at) = connector.suspended_at { (ago(at)) ": " }
                span.words { (words(reason)) }
            }
        }
        td { (ago(connector.updated_at)) }
    }
}

const HEADS: [&str; 5] = ["Connector", "Type", "Events", "State", "Changed"];

/// What of a list is on the page that was asked for, and how many there are.
#[derive(Default)]
struct Found {
    on_page: Vec<Connector>,
    all: usize,
    /// Whether there are connectors that were not looked at.
    are_more: bool,
}

impl Found {
    fn see(&mut self, asked: &Asked, connector: Connector) {
        if asked.takes(&connector) {
            let first = (asked.page - 1).saturating_mul(ON_PAGE);
            if self.all >= first && self.on_page.len() < ON_PAGE {
                self.on_page.push(connector);
            }
            self.all += 1;
        }
    }
}

fn list(asked: &Asked, path: &str, found: &Found, with_project: bool) -> Markup {
    let rows: Vec<Markup> = found.on_page.iter().map(|one| row(one, with_project)).collect();
    html! {
        (asked.form(path))
        @if found.are_more { (cut_short()) }
        @if rows.is_empty() {
            p {
                "No connector is meant. Leave out a condition, or create one: "
                code { "dunmore connector create PROJECT TYPE" } "."
            }
        } @else {
            (table("Connectors", &HEADS, &rows))
            (asked.pager(path, found.all))
        }
    }
}

/// `GET /console/connectors`
pub async fn all(State(pages): Shared, RawQuery(query): RawQuery) -> Shown {
    let asked = Asked::read(query.as_deref())?;
    let (asked, found) = pages
        .read_view(move |view| {
            let mut found = Found::default();
            let all = view.store().connectors();
            found.are_more = each_connector(all, MAX_SEARCHED, |one| found.see(&asked, one))?;
            Ok((asked, found))
        })
        .await?;
    let title = match (found.all, found.are_more) {
        (1, false) => "One connector".to_owned(),
        (number, false) => format!("{} connectors", count(number)),
        (number, true) => format!("{} connectors or more", count(number)),
    };
    let body = list(&asked, "/console/connectors", &found, true);
    Ok(Page::new(Section::Connectors, title, body))
}

/// A project in a list.
#[derive(Default)]
struct Counted {
    connectors: u64,
    suspended: u64,
    off: u64,
}

/// `GET /console/projects`
pub async fn projects(State(pages): Shared, RawQuery(query): RawQuery) -> Shown {
    let asked = Asked::read(query.as_deref())?;
    let search = asked.search.clone();
    let (found, are_more) = pages
        .read_view(move |view| {
            let mut found: BTreeMap<ProjectId, Counted> = BTreeMap::new();
            let all = view.store().connectors();
            let are_more = each_connector(all, MAX_SEARCHED, |connector| {
                if connector.key.project.as_str().to_lowercase().contains(&search) {
                    let counted = found.entry(connector.key.project.clone()).or_default();
                    counted.connectors += 1;
                    counted.suspended += u64::from(connector.suspended_reason.is_some());
                    counted.off += u64::from(!connector.is_active);
                }
            })?;
            Ok((found, are_more))
        })
        .await?;
    let first = (asked.page - 1).saturating_mul(ON_PAGE);
    let rows: Vec<Markup> = found
        .iter()
        .skip(first)
        .take(ON_PAGE)
        .map(|(id, counted)| {
            html! {
                td { (project_link(id)) }
                td.number { (count(counted.connectors)) }
                td { @if counted.suspended > 0 { (state("held", &format!("{} suspended", count(counted.suspended)))) } }
                td { @if counted.off > 0 { (state("off", &format!("{} off", count(counted.off)))) } }
            }
        })
        .collect();
    let body = html! {
        form.filter action="/console/projects" {
            (field("q", "Search", &asked.search, "in ids of projects"))
            button { "Search" }
        }
        @if are_more { (cut_short()) }
        @if rows.is_empty() {
            p { "No project with connectors is meant. A project begins with its tier: "
                code { "dunmore project set-tier PROJECT pro" } "." }
        } @else {
            (table("Projects", &["Project", "Connectors", "Suspended", "Off"], &rows))
            (asked.pager("/console/projects", found.len()))
        }
    };
    let or_more = if are_more { " or more" } else { "" };
    let title = format!("{} projects with connectors{or_more}", count(found.len()));
    Ok(Page::new(Section::Projects, title, body))
}

pub fn project_id(text: &str) -> Result<ProjectId, Problem> {
    ProjectId::parse(text)
        .map_err(|error| Problem::new(ProblemCode::NotFound, format!("The project's id {error}.")))
}

/// `GET /console/projects/{project}`
pub async fn project(
    State(pages): Shared,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Shown {
    let id = project_id(&id)?;
    let asked = Asked::read(query.as_deref())?;
    let wanted = id.clone();
    let project = pages.read_view(move |view| view.project(&wanted)).await?;
    if project.project.is_none() && project.connectors.is_empty() {
        let detail =
            format!("Nothing is known of a project {id}: it has no tier and no connectors.");
        return Err(Problem::new(ProblemCode::NotFound, detail).into());
    }
    let path = project_path(&id);
    let all = project.connectors.len() as u64;
    let suspended =
        project.connectors.values().filter(|one| one.suspended_reason.is_some()).count();
    let of_later = project.project.as_ref().and_then(|project| project.later.text("tier"));
    let (tier, limit) = (of_later.unwrap_or(project.tier().as_str()), project.tier().limit());
    let mut found = Found::default();
    for connector in project.connectors.into_values() {
        found.see(&asked, connector);
    }
    let body = html! {
        dl {
            dt { "Tier" } dd { (words(tier)) }
            dt { "Use" }
            dd {
                (count(all))
                @match limit {
                    Some(limit) => { " of " (count(limit)) " connectors " meter min="0" max=(limit) value=(all) {} }
                    None => " connectors, without a limit",
                }
            }
        }
        p.actions {
            a.button href=(format!("{path}/history")) { "History" }
            a.button href=(format!("/console/letters/heap?project={}", part(&id))) { "Dead letters" }
        }
        h2 { "Connectors" }
        (list(&asked, &path, &found, false))
    };
    let title = match suspended {
        0 => format!("Project {id} has {} connectors, none suspended", count(all)),
        number => format!("Project {id}: {number} of {} connectors are suspended", count(all)),
    };
    Ok(Page::new(Section::Projects, title, body))
}

/// `GET /console/projects/{project}/history`
pub async fn history(
    State(pages): Shared,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Shown {
    let id = project_id(&id)?;
    let mut wrong = Wrong::default();
    let query = filled(query.as_deref().unwrap_or_default(), &["connector", "from"], &mut wrong);
    let connector = query.one("connector").map(ConnectorId::parse);
    let connector = connector.and_then(|connector| wrong.take("connector", connector));
    let from = wrong.when("from", query.one("from"));
    wrong.check()?;
    let (project, only) = (id.clone(), connector.clone());
    let (total, changes) = pages
        .console
        .read(move |own| own.changes(&project, only.as_ref(), from, CHANGES_ON_PAGE))
        .await?;
    let rows: Vec<Markup> = changes.iter().rev().map(change_row).collect();
    let name = connector.as_ref().map(ToString::to_string).unwrap_or_default();
    let body = html! {
        form.filter action=(format!("{}/history", project_path(&id))) {
            (field("connector", "Connector", &name, "only what was done to this one"))
            (field("from", "From", query.one("from").unwrap_or_default(), "RFC 3339, a date, or 2 days ago"))
            button { "Show" }
        }
        @if rows.is_empty() {
            p { "Nothing was done in that time. Look further back, or leave the conditions out." }
        } @else {
            p { "The latest " (rows.len()) " of " (count(total)) " changes, the latest first." }
            (table("Changes", &["When", "What", "Connector", "By", "Before and after"], &rows))
        }
    };
    let title = format!("What was done in project {id}");
    Ok(Page::new(Section::Projects, title, body))
}

fn change_row(change: &HistoryRecord) -> Markup {
    let pretty = |value: &Value| serde_json::to_string_pretty(value).unwrap_or_default();
    html! {
        td { (ago(change.at)) }
        td { (words(&change.command)) }
        td { @if let Some(id) = &change.connector_id { (connector_link(&change.project_id, id)) } }
        td { (words(&change.actor)) }
        td {
            @match (&change.before, &change.after) {
                (None, None) => span.muted { "nothing that its owner sees" },
                (before, after) => {
                    @if let Some(before) = before { (short("before", &pretty(before))) }
                    @if let Some(after) = after { (short("after", &pretty(after))) }
                }
            }
        }
    }
}

/// Folded, and no longer than a hundred of them may be on a page.
fn short(summary: &str, text: &str) -> Markup {
    /// Of one of a hundred on a page of 100 kB.
    const MAX_CHARS: usize = 400;
    let is_cut = text.chars().count() > MAX_CHARS;
    let shown: String = text.chars().take(MAX_CHARS).collect();
    folded(summary, &if is_cut { format!("{shown}…") } else { shown })
}

impl Pages {
    /// A connector that a path names.
    pub(super) async fn find_connector(
        &self,
        project: &str,
        connector: &str,
    ) -> Result<Connector, Problem> {
        let project = project_id(project)?;
        let missing = |why: String| Problem::new(ProblemCode::ConnectorNotFound, why);
        let connector = ConnectorId::parse(connector)
            .map_err(|error| missing(format!("The connector's id {error}.")))?;
        let key = crate::id::ConnectorKey { project, connector };
        let wanted = key.clone();
        let found = self.read_view(move |view| view.connector(&wanted)).await?;
        found.ok_or_else(|| {
            missing(format!(
                "There is no connector {key} (any more). The project's history tells whether there was one."
            ))
        })
    }
}
