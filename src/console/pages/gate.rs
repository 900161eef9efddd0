//! Who gets in: login and logout, the session of each request, the token of each form, and the
//! headers that keep a browser from running anything but our own script.

use std::{sync::Arc, time::Instant};

use axum::{
    body::Body,
    extract::{MatchedPath, RawPathParams, RawQuery, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use maud::html;

use super::{
    Pages, Shared,
    frame::{self, Page, Section, Trouble, see},
    session::{SESSION_LIFE, Session, is_random, is_same, random},
};
use crate::{
    api::audit::Entry,
    connector::{Problem, ProblemCode},
    console::ask::whole,
    listen, tokens,
};

/// The cookie of a session, for the console's pages only …
const COOKIE: &str = "dunmore_console";
/// … and the one that ties a login to the form that it came from.
const LOGIN_COOKIE: &str = "dunmore_login";
/// The name of the token in every form that changes something.
const CSRF: &str = "csrf";
/// The actor in the audit trail and in commands.
pub const ACTOR: &str = "console";

/// Nothing inline, nothing from elsewhere, in no frame.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
     img-src 'self' data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// Puts the headers on every answer of the console.
pub async fn guard(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Lets a request in that has a session, and a change that comes from a form of that session.
pub async fn admit(
    State(pages): Shared,
    params: RawPathParams,
    request: Request,
    next: Next,
) -> Response {
    if pages.token().is_none() {
        return off().into_response();
    }
    let cookie = cookie(request.headers(), COOKIE);
    let now = Instant::now();
    let Some(session) = cookie.and_then(|cookie| pages.sessions.lock().get(&cookie, now)) else {
        let here = request.uri().path_and_query().map_or("", |here| here.as_str());
        let here = if request.method().is_safe() { here } else { "/console" };
        return see(&format!("/console/login?next={}", frame::part(here)));
    };
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let mut entry = Entry::of(&request, route.as_deref().unwrap_or_default());
    let param = |wanted: &str| params.iter().find(|(name, _)| *name == wanted).map(|(_, v)| v);
    entry.actor = Some(ACTOR);
    entry.project = param("project").unwrap_or_default();
    entry.connector = param("connector").unwrap_or_default();
    let is_read = *request.method() == Method::GET || *request.method() == Method::HEAD;
    let request = if is_read { Ok(request) } else { with_token(request, &session).await };
    let mut response = match request {
        Ok(mut request) => {
            request.extensions_mut().insert(session.clone());
            next.run(request).await
        }
        Err(problem) => Trouble::from(problem).into_response(),
    };
    entry.write(&response);
    if let Some(page) = response.extensions_mut().remove::<Page>() {
        let document = frame::framed(&page, &session, &pages.instance());
        return html_of(response.status(), document.into_string());
    }
    response
}

/// A request whose form has the session's token.
async fn with_token(request: Request, session: &Session) -> Result<Request, Problem> {
    let (parts, body) = request.into_parts();
    let body = whole(body).await?;
    if !is_same(&value_of(&body, CSRF), &session.csrf) {
        let detail = "The form is not from this session. Open the page again and repeat it there.";
        return Err(Problem::new(ProblemCode::Forbidden, detail));
    }
    Ok(Request::from_parts(parts, Body::from(body)))
}

/// A field of a form or query; none is empty.
fn value_of(form: &[u8], name: &str) -> String {
    let mut pairs = url::form_urlencoded::parse(form);
    pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned()).unwrap_or_default()
}

/// A cookie of a request.
fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|text| text.split(';')).filter_map(|pair| {
        let (key, value) = pair.trim().split_once('=')?;
        (key == name).then_some(value)
    });
    pairs.next().filter(|value| is_random(value)).map(str::to_owned)
}

/// `GET /console/login`
pub async fn login_form(
    State(pages): Shared,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, Failed> {
    if pages.token().is_none() {
        return Ok(off().into_response());
    }
    let next = value_of(query.unwrap_or_default().as_bytes(), "next");
    login_page(StatusCode::OK, &headers, "", &next)
}

/// `POST /console/login`
pub async fn login(State(pages): Shared, request: Request) -> Result<Response, Failed> {
    let Some(expected) = pages.token() else { return Ok(off().into_response()) };
    let mut entry = Entry::of(&request, "/console/login");
    entry.actor = Some(ACTOR);
    let from = listen::peer(&request);
    let (parts, body) = request.into_parts();
    let refuse = |status: StatusCode, words: &str, next: &str| {
        let refused = login_page(status, &parts.headers, words, next)?;
        entry.write(&refused);
        Ok(refused)
    };
    let too_old = "The form was too old. Try once more.";
    // Before the body, which may be slow to come: an address has only so many of them under way.
    let Some(known) = cookie(&parts.headers, LOGIN_COOKIE) else {
        return refuse(StatusCode::FORBIDDEN, too_old, "");
    };
    if !pages.attempts.may(from) {
        let words = "Too many logins from this address. Wait a minute.";
        return refuse(StatusCode::TOO_MANY_REQUESTS, words, "");
    }
    let body = whole(body).await?;
    let next = value_of(&body, "next");
    if !is_same(&value_of(&body, CSRF), &known) {
        return refuse(StatusCode::FORBIDDEN, too_old, &next);
    }
    // Both are digests of one length, so the time that this takes tells nothing.
    let digest = tokens::digest_of(value_of(&body, "token").trim());
    if !is_same(&digest, expected) {
        return refuse(StatusCode::UNAUTHORIZED, "This is not the admin token.", &next);
    }
    let (cookie, csrf) = (random()?, random()?);
    pages.sessions.lock().open(&cookie, csrf, Instant::now());
    let mut response = see(within(&next));
    let life = SESSION_LIFE.as_secs();
    set_cookie(&mut response, &parts.headers, COOKIE, &cookie, "/console", life);
    set_cookie(&mut response, &parts.headers, LOGIN_COOKIE, "", "/console/login", 0);
    entry.write(&response);
    Ok(response)
}

/// `POST /console/logout`
pub async fn logout(State(pages): Shared, headers: HeaderMap) -> Response {
    if let Some(cookie) = cookie(&headers, COOKIE) {
        pages.sessions.lock().close(&cookie);
    }
    let mut response = see("/console/login");
    set_cookie(&mut response, &headers, COOKIE, "", "/console", 0);
    response
}

/// Why a login could not even be refused.
pub struct Failed(Problem);

impl From<Problem> for Failed {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let mut response = Trouble::from(self.0).into_response();
        match response.extensions_mut().remove::<Page>() {
            Some(page) => html_of(response.status(), frame::bare(&page).into_string()),
            None => response,
        }
    }
}

/// A path of the console, and nothing else that a link could have put there.
fn within(next: &str) -> &str {
    let rest = next.strip_prefix("/console");
    let is_ours = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']));
    let is_plain = next.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    if is_ours && is_plain { next } else { "/console" }
}

fn set_cookie(
    response: &mut Response,
    asked: &HeaderMap,
    name: &str,
    value: &str,
    path: &str,
    max_age: u64,
) {
    // Behind a proxy that speaks TLS to the browser.
    let is_tls = asked.get("x-forwarded-proto").is_some_and(|scheme| scheme == "https");
    let secure = if is_tls { "; Secure" } else { "" };
    let text = format!(
        "{name}={value}; Path={path}; Max-Age={max_age}; HttpOnly; SameSite=Strict{secure}"
    );
    if let Ok(text) = HeaderValue::from_str(&text) {
        response.headers_mut().append(header::SET_COOKIE, text);
    }
}

fn login_page(
    status: StatusCode,
    headers: &HeaderMap,
    words: &str,
    next: &str,
) -> Result<Response, Failed> {
    // Another tab's form keeps working.
    let csrf = match cookie(headers, LOGIN_COOKIE) {
        Some(known) => known,
        None => random()?,
    };
    let body = html! {
        @if !words.is_empty() { p.notice role="alert" { (words) } }
        form.login method="post" action="/console/login" {
            input type="hidden" name="csrf" value=(csrf);
            input type="hidden" name="next" value=(within(next));
            p.field {
                label for="token" { "Admin token" }
                input #token name="token" type="password" required autofocus
                    autocomplete="current-password" aria-describedby="where";
                small #where {
                    "The one of which " code { "admin.token_sha256" } " is the hash. "
                    code { "dunmore token create --admin" } " makes a new one."
                }
            }
            button { "Log in" }
        }
    };
    let page = Page::new(Section::Elsewhere, "Log in to Dunmore", body);
    let mut response = html_of(status, frame::bare(&page).into_string());
    set_cookie(&mut response, headers, LOGIN_COOKIE, &csrf, "/console/login", 3600);
    Ok(response)
}

/// Without a token there is no login.
fn off() -> Response {
    let body = html! {
        p { "No admin token is set, so there is nothing to log in with. To switch the console on:" }
        ol {
            li { code { "dunmore token create --admin" } " prints a token and its hash." }
            li { "Put the hash into the settings as " code { "admin.token_sha256" }
                 " (or " code { "DUNMORE_ADMIN__TOKEN_SHA256" } ") and restart this instance." }
            li { "Log in here with the token." }
        }
    };
    let page = Page::new(Section::Elsewhere, "The console is off", body);
    let status = StatusCode::from_u16(ProblemCode::AdminDisabled.status());
    html_of(status.unwrap_or(StatusCode::FORBIDDEN), frame::bare(&page).into_string())
}

fn html_of(status: StatusCode, text: String) -> Response {
    (status, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], text).into_response()
}

impl Pages {
    /// The hash of the token, if there is one.
    fn token(self: &Arc<Self>) -> Option<&str> {
        self.console.token.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_leads_into_the_console_and_nowhere_else() {
        for ours in ["/console", "/console/letters?type=slack", "/console?a=b"] {
            assert_eq!(within(ours), ours);
        }
        for other in [
            "",
            "//evil.example",
            "https://evil.example",
            "/consoles",
            "/console\\x",
            "/metrics",
            "/console/\r\nSet-Cookie: a=b",
            "/console@evil.example",
        ] {
            assert_eq!(within(other), "/console", "{other}");
        }
    }

    #[test]
    fn a_cookie_is_read_by_its_name_and_only_in_its_form() {
        let value = random().unwrap();
        let read = |text: String| {
            let mut headers = HeaderMap::new();
            headers.insert(header::COOKIE, HeaderValue::from_str(&text).unwrap());
            cookie(&headers, COOKIE)
        };
        assert_eq!(read(format!("a=b; {COOKIE}={value}; c=d")), Some(value.clone()));
        assert_eq!(read(format!("x{COOKIE}={value}")), None);
        assert_eq!(read(format!("{COOKIE}=short")), None);
    }
}
