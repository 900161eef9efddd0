//! What goes to a destination and what comes back, as plain values.

use std::{fmt, time::Duration};

use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use url::Url;

use crate::{clock::Timestamp, redact::harmless};

/// How much of a response body is kept, in bytes. Longer bodies are cut there.
pub const MAX_RESPONSE_BYTES: usize = 64 * 1024;

/// The longest piece of a destination's answer that is quoted, in characters.
pub const MAX_DETAIL_CHARS: usize = 300;

/// Room for as many headers as most requests have.
const USUAL_HEADERS: usize = 6;

/// An HTTP request that is ready to be sent. Its `Debug` shows neither URL nor headers nor body.
#[derive(Clone)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The URL, which may hold secrets.
    pub url: Url,
    /// The headers, which may hold secrets.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body.
    pub body: Bytes,
}

impl Request {
    /// A POST of a JSON text.
    #[must_use]
    pub fn post_json(url: Url, body: impl Into<Bytes>) -> Self {
        let mut headers = Vec::with_capacity(USUAL_HEADERS);
        headers.push(json_content());
        Self { method: Method::POST, url, headers, body: body.into() }
    }

    /// A POST of a value as JSON.
    #[must_use]
    pub fn post_value(url: Url, value: &serde_json::Value) -> Self {
        Self::post_json(url, value.to_string())
    }

    /// A GET that wants JSON.
    #[must_use]
    pub fn get(url: Url) -> Self {
        let accept = (http::header::ACCEPT, HeaderValue::from_static("application/json"));
        Self { method: Method::GET, url, headers: vec![accept], body: Bytes::new() }
    }

    /// Adds a header whose value is no secret. A value that cannot stand in a header is left out.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: impl AsRef<[u8]>) -> Self {
        if let Ok(value) = HeaderValue::from_bytes(value.as_ref()) {
            self.headers.push((name, value));
        }
        self
    }

    /// Adds a header whose value is part of this program.
    #[must_use]
    pub fn fixed_header(mut self, name: HeaderName, value: &'static str) -> Self {
        self.headers.push((name, HeaderValue::from_static(value)));
        self
    }

    /// Adds a header whose value is a secret, see [`Settings::secret_header`].
    ///
    /// [`Settings::secret_header`]: super::Settings::secret_header
    #[must_use]
    pub fn secret_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Adds a bearer token; where there is none, the sender adds the one that a credential makes.
    #[must_use]
    pub fn bearer(self, authorization: Option<&HeaderValue>) -> Self {
        match authorization {
            Some(value) => self.secret_header(http::header::AUTHORIZATION, value.clone()),
            None => self,
        }
    }

    /// The same as people may see it where the sender adds an access token: without the token.
    #[must_use]
    pub fn with_token_to_come(self, comes: bool) -> Self {
        let mut value = HeaderValue::from_static("Bearer");
        value.set_sensitive(true);
        self.bearer(comes.then_some(&value))
    }

    /// Asks for the answer as JSON.
    #[must_use]
    pub fn accept_json(mut self) -> Self {
        let json = HeaderValue::from_static("application/json");
        self.headers.push((http::header::ACCEPT, json));
        self
    }
}

/// A URL that holds a secret. Its `Debug` shows only the host.
#[derive(Clone)]
pub struct SecretUrl(pub Url);

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}/…", self.0.scheme(), self.0.host_str().unwrap_or_default())
    }
}

fn json_content() -> (HeaderName, HeaderValue) {
    (http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"))
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// A destination's answer, its body cut at [`MAX_RESPONSE_BYTES`].
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// When the answer came, to read dates in it.
    pub received_at: Timestamp,
    /// Whether the connection ended, or the time was up, before all of the body was there.
    pub is_incomplete: bool,
}

impl Response {
    /// Whether the status is 2xx.
    #[must_use]
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body as text, foreign bytes replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim().to_owned()
    }

    /// The body as JSON; `null` when it is none.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// A header's text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// A header's text as a number of seconds.
    #[must_use]
    pub fn header_seconds(&self, name: &str) -> Option<Duration> {
        self.header(name).and_then(seconds)
    }

    /// Whether the body was longer than what is kept of it, so that its end is missing.
    #[must_use]
    pub fn was_cut(&self) -> bool {
        self.body.len() >= MAX_RESPONSE_BYTES
    }

    /// Status and beginning of the body, for people.
    #[must_use]
    pub fn detail(&self) -> String {
        // A character has at most four bytes; the rest of the body is not worth a look.
        let start = &self.body[..self.body.len().min(4 * MAX_DETAIL_CHARS)];
        let words: String = String::from_utf8_lossy(start)
            .trim()
            .chars()
            .map(harmless)
            .take(MAX_DETAIL_CHARS)
            .collect();
        if words.is_empty() {
            format!("HTTP {}", self.status)
        } else {
            format!("HTTP {}: {words}", self.status)
        }
    }

    /// The host that a redirect leads to. The rest of the address may hold secrets.
    #[must_use]
    pub fn location_host(&self) -> Option<String> {
        let location = Url::parse(self.header("location")?.trim()).ok()?;
        location.host_str().map(str::to_owned)
    }

    /// `Retry-After`, in seconds or as a date (RFC 9110, section 10.2.3).
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        let text = self.header("retry-after")?.trim();
        if let Some(after) = seconds(text) {
            return Some(after);
        }
        let date = jiff::fmt::rfc2822::parse(text).ok()?;
        Some(Timestamp::from_millis(date.timestamp().as_millisecond()).since(self.received_at))
    }
}

/// A duration from a text of seconds, whole or not; `None` when it is no such text.
#[must_use]
pub fn seconds(text: &str) -> Option<Duration> {
    let seconds: f64 = text.trim().parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// The value of `Authorization` for HTTP's basic scheme with a user and an empty password.
#[must_use]
pub fn basic_user(user: &str) -> String {
    basic(user, "")
}

/// The same with a password.
#[must_use]
pub fn basic(user: &str, password: &str) -> String {
    let both = zeroize::Zeroizing::new(format!("{user}:{password}"));
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(both.as_bytes()))
}

/// A duration from a JSON number of seconds, whole or not; `None` when it is no such number.
#[must_use]
pub fn json_seconds(value: &serde_json::Value) -> Option<Duration> {
    value.as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(retry_after: &str) -> Response {
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", HeaderValue::from_str(retry_after).unwrap());
        let received_at = Timestamp::parse("2026-11-23T08:00:00Z").unwrap();
        Response { status: 429, headers, body: Bytes::new(), received_at, is_incomplete: false }
    }

    #[test]
    fn retry_after_has_two_forms() {
        assert_eq!(response("120").retry_after(), Some(Duration::from_secs(120)));
        let date = "Mon, 23 Nov 2026 08:01:30 GMT";
        assert_eq!(response(date).retry_after(), Some(Duration::from_secs(90)));
        let past = "Mon, 23 Nov 2026 07:00:00 GMT";
        assert_eq!(response(past).retry_after(), Some(Duration::ZERO));
        for nonsense in ["soon", "-1", "NaN", "inf", "1e300"] {
            assert_eq!(response(nonsense).retry_after(), None, "{nonsense}");
        }
    }

    #[test]
    fn a_request_shows_no_secret() {
        let url = Url::parse("https://hooks.slack.com/services/T1/B1/secret").unwrap();
        let request = Request::post_json(url, "{\"secret\":1}")
            .secret_header(http::header::AUTHORIZATION, HeaderValue::from_static("Bearer secret"));
        assert!(!format!("{request:?}").contains("secret"));
    }
}
