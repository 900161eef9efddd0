//! What every page is made of: the frame around it, and how times, ids, states and forms look.

use std::fmt::Display;

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use maud::{DOCTYPE, Markup, html};

use super::{MAX_SEARCHED, session::Session};
use crate::{
    api::Failure,
    cli::span,
    clock::{self, Timestamp},
    connector::Problem,
    destination::cut,
    id::ConnectorKey,
    text::harmless,
};

/// The longest text of an event's, a vendor's or a person's that a table shows, in characters.
const MAX_CELL_CHARS: usize = 300;
/// The longest text that a page shows folded, in characters.
const MAX_RAW_CHARS: usize = 24_000;

/// The parts of the console, in the order of the navigation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Section {
    Now,
    Letters,
    Replays,
    Connectors,
    Projects,
    /// None of them.
    Elsewhere,
}

impl Section {
    const NAVIGATION: [(Self, &str, &str); 5] = [
        (Self::Now, "/console", "Now"),
        (Self::Letters, "/console/letters", "Dead letters"),
        (Self::Replays, "/console/replays", "Replay"),
        (Self::Connectors, "/console/connectors", "Connectors"),
        (Self::Projects, "/console/projects", "Projects"),
    ];
}

/// A page without its frame, which is put around it where the session is known.
#[derive(Clone)]
pub struct Page {
    /// A sentence that says the state.
    pub title: String,
    pub section: Section,
    pub body: Markup,
}

impl Page {
    pub fn new(section: Section, title: impl Into<String>, body: Markup) -> Self {
        Self { title: title.into(), section, body }
    }
}

impl IntoResponse for Page {
    fn into_response(self) -> Response {
        let mut response = StatusCode::OK.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Why there is no such page, as a page.
pub struct Trouble(Box<Failure>);

impl<T: Into<Failure>> From<T> for Trouble {
    fn from(failure: T) -> Self {
        Self(Box::new(failure.into()))
    }
}

impl IntoResponse for Trouble {
    fn into_response(self) -> Response {
        let problem = self.0.problem();
        let page = problem_page(problem);
        let mut response = page.into_response();
        let status = StatusCode::from_u16(problem.status);
        *response.status_mut() = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response.extensions_mut().insert(problem.code);
        response
    }
}

fn problem_page(problem: &Problem) -> Page {
    let body = html! {
        p { (words(&problem.detail)) }
        @if problem.errors.len() > 1 {
            ul { @for error in &problem.errors { li { b { (words(&error.field)) } " " (words(&error.message)) } } }
        }
        p { "Go back to correct it, or to " a href="/console" { "Now" } "." }
    };
    Page::new(Section::Elsewhere, problem.title.clone(), body)
}

/// The answer to a change: look there. Browsers then ask for that page, so that a page that is loaded
/// anew changes nothing again.
pub fn see(path: &str) -> Response {
    match HeaderValue::from_str(path) {
        Ok(place) => (StatusCode::SEE_OTHER, [(header::LOCATION, place)]).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// What the frame says of the instance.
pub struct Instance {
    /// What it waits for, if anything.
    pub waits: Option<String>,
    pub address: String,
}

/// The whole document within a session.
pub fn framed(page: &Page, session: &Session, instance: &Instance) -> Markup {
    let nav = html! {
        nav aria-label="Console" {
            ul {
                @for (section, path, name) in Section::NAVIGATION {
                    li { a href=(path) aria-current=[(section == page.section).then_some("page")] { (name) } }
                }
            }
        }
    };
    let top = html! {
        form.find action="/console/find" role="search" {
            label.hidden for="find" { "Find an id" }
            input #find name="q" type="search" maxlength="300" autocomplete="off" spellcheck="false"
                placeholder="Paste an id: event, connector, project, dead letter, job";
            button { "Find" }
        }
        a.health href="/console" {
            @match &instance.waits {
                None => (state("good", "ready")),
                Some(why) => (state("failing", &format!("not ready: {why}"))),
            }
        }
        form.leave method="post" action="/console/logout" {
            (csrf(session))
            button { "Log out" }
        }
    };
    document(page, &top, &nav, &instance.address)
}

/// The document without a session.
pub fn bare(page: &Page) -> Markup {
    document(page, &html! {}, &html! {}, "")
}

fn document(page: &Page, top: &Markup, nav: &Markup, address: &str) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (words(&page.title)) " · Dunmore" }
                link rel="icon" href="data:,";
                link rel="stylesheet" href="/console/style.css";
                script src="/console/console.js" defer {}
            }
            body {
                a.skip href="#main" { "Skip to content" }
                header { a.name href="/console" { "Dunmore" } (top) }
                (nav)
                main #main tabindex="-1" {
                    h1 { (words(&page.title)) }
                    (page.body)
                }
                footer {
                    "dunmore " (env!("CARGO_PKG_VERSION"))
                    @if !address.is_empty() { " · this instance: " (address) }
                    " · times are UTC"
                }
            }
        }
    }
}

/// The field that every form which changes something has.
pub fn csrf(session: &Session) -> Markup {
    html! { input type="hidden" name="csrf" value=(session.csrf); }
}

/// A text of an event's, a vendor's or a person's: without what breaks a line or turns its direction,
/// and not longer than a cell takes. Markup in it is escaped where it is put into a page.
pub fn words(text: &str) -> String {
    let text: String = text.chars().map(harmless).collect();
    cut(&text, MAX_CELL_CHARS)
}

/// A moment: how long ago, and exactly.
pub fn ago(at: Timestamp) -> Markup {
    let now = clock::now();
    let seconds = now.since(at).as_secs_f64();
    let text = if at > now { at.to_string() } else { format!("{} ago", span(seconds)) };
    html! { time datetime=(at) title=(at) { (text) } }
}

/// A state as a word; its class adds a colour and a sign.
pub fn state(class: &str, word: &str) -> Markup {
    html! { span.state.(class) { (words(word)) } }
}

/// An outcome of an attempt as a state.
pub fn outcome(name: &str) -> Markup {
    let class = match name {
        "delivered" | "skipped" => "good",
        "retry" | "deferred" => "waiting",
        _ => "failing",
    };
    state(class, name)
}

/// A number with its thousands apart.
pub fn count(number: impl Display) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A text as a part of a path or a query.
pub fn part(text: impl Display) -> String {
    let text = text.to_string();
    let encoded: String = url::form_urlencoded::byte_serialize(text.as_bytes()).collect();
    encoded.replace('+', "%20")
}

pub fn event_link(id: impl Display, project: impl Display) -> Markup {
    let path = format!("/console/events/{}?project={}", part(&id), part(project));
    html! { a.id href=(path) { (words(&id.to_string())) } }
}

pub fn project_path(id: impl Display) -> String {
    format!("/console/projects/{}", part(id))
}

pub fn project_link(id: impl Display) -> Markup {
    html! { a.id href=(project_path(&id)) { (words(&id.to_string())) } }
}

pub fn connector_path(project: impl Display, connector: impl Display) -> String {
    format!("{}/connectors/{}", project_path(project), part(connector))
}

pub fn connector_link(project: impl Display, connector: impl Display) -> Markup {
    let name = format!("{project}/{connector}");
    html! { a.id href=(connector_path(&project, &connector)) { (words(&name)) } }
}

pub fn key_link(key: &ConnectorKey) -> Markup {
    connector_link(&key.project, &key.connector)
}

pub fn letter_link(position: impl Display) -> Markup {
    html! { a.id href=(format!("/console/letters/{}", part(&position))) { (position) } }
}

/// Said where not all connectors were looked through.
pub fn cut_short() -> Markup {
    html! {
        p.notice {
            "Only the first " (count(MAX_SEARCHED)) " connectors were looked through, in the order of \
             their projects' ids. What is behind them is not counted here: "
            code { "dunmore connector list --all" } " has all."
        }
    }
}

/// A text with its lines, folded; what else does not show as itself is a space.
pub fn folded(summary: &str, text: &str) -> Markup {
    let all = text.chars().count();
    let shown = |c: char| if matches!(c, '\n' | '\t') { c } else { harmless(c) };
    html! {
        details {
            summary { (summary) }
            pre tabindex="0" { (text.chars().take(MAX_RAW_CHARS).map(shown).collect::<String>()) }
            @if all > MAX_RAW_CHARS {
                p { "The first " (count(MAX_RAW_CHARS)) " of " (count(all)) " characters." }
            }
        }
    }
}

/// A table with a name for screen readers; what it says when it is empty is the caller's.
pub fn table(caption: &str, heads: &[&str], rows: &[Markup]) -> Markup {
    html! {
        div.wide tabindex="0" role="region" aria-label=(caption) {
            table {
                caption.hidden { (caption) }
                thead { tr { @for head in heads { th scope="col" { (head) } } } }
                tbody { @for row in rows { tr { (row) } } }
            }
        }
    }
}

/// A field of a form with its label and what belongs into it.
pub fn field(name: &str, label: &str, value: &str, hint: &str) -> Markup {
    let (id, hint_id) = (format!("f-{name}"), format!("h-{name}"));
    html! {
        p.field {
            label for=(id) { (label) }
            input id=(id) name=(name) value=(value) maxlength="300" autocomplete="off"
                spellcheck="false" aria-describedby=(hint_id);
            small id=(hint_id) { (hint) }
        }
    }
}

/// A choice of a form.
pub fn tick(name: &str, label: &str, is_set: bool) -> Markup {
    let id = format!("f-{name}");
    html! {
        p.tick {
            input id=(id) type="checkbox" name=(name) value="true" checked[is_set];
            label for=(id) { (label) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_is_escaped_and_cut() {
        let nasty = "<img src=x onerror=alert(1)>\u{202e}\n\"'";
        let shown = html! { td title=(words(nasty)) { (words(nasty)) } }.into_string();
        assert!(!shown.contains("<img") && !shown.contains('\u{202e}') && !shown.contains('\n'));
        assert!(shown.contains("&lt;img src=x onerror=alert(1)&gt;"), "{shown}");
        assert_eq!(words(&"x".repeat(9_000)).chars().count(), MAX_CELL_CHARS);
        let link = event_link("a/../b?c#<d>", "p").into_string();
        assert!(link.contains("/console/events/a%2F..%2Fb%3Fc%23%3Cd%3E?project=p"), "{link}");
    }

    #[test]
    fn numbers_have_their_thousands_apart() {
        let texts = [count(0), count(999), count(1_000), count(12_345_678)];
        assert_eq!(texts, ["0", "999", "1,000", "12,345,678"]);
        assert_eq!(part("a b+c"), "a%20b%2Bc");
    }

    #[test]
    fn a_long_text_is_folded_in_part() {
        let lines = folded("raw", "a\n\tb\u{202e}c\u{1b}[2J\r").into_string();
        assert!(lines.contains(">a\n\tb c [2J <"), "{lines:?}");
        let shown = folded("raw", &"é".repeat(MAX_RAW_CHARS + 1)).into_string();
        assert!(shown.contains("The first 24,000 of 24,001 characters."), "{}", shown.len());
    }
}
