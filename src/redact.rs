//! Keeps a connector's secrets out of what others say: the one place where a foreign answer is
//! searched before any of it is shown.
//!
//! A service may quote a secret as it is, or percent-encoded, escaped as in JSON, or in base64
//! alone or behind `user:`. The whole answer is searched before anything is cut, because half a
//! secret is found by no search. An answer that quotes one is left out as a whole.

use std::{borrow::Cow, sync::OnceLock};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use memchr::memmem;
use secrecy::{ExposeSecret, SecretString};
use url::Url;
use zeroize::Zeroizing;

use crate::{
    delivery::{Reason, Verdict},
    destination::{MAX_DETAIL_CHARS, Response},
    text::harmless,
};

/// Stands in place of an answer that quotes a secret.
pub const LEFT_OUT: &str = "the answer quotes a secret of the connector and is left out";
/// Stands in place of a body that broke off: it may end in the middle of a secret.
const BROKEN_OFF: &str = "the answer broke off and is left out";
/// Stands for a secret in a preview.
pub const MASK: &str = "***";
/// The shortest part of a URL's path that tells it, in bytes; one that mixes letters and digits
/// may be a little shorter.
const MIN_SEGMENT: usize = 8;
const MIN_MIXED_SEGMENT: usize = 6;
/// The shortest value of a URL's query that tells it, in bytes: `v=1` would be found everywhere.
const MIN_QUERY_VALUE: usize = 4;
/// The shortest line, or field of a JSON text, that tells a secret of several, in bytes.
const MIN_FIELD: usize = 16;
/// The shortest piece of base64 that is looked for, in characters.
const MIN_BASE64: usize = 8;
/// The longest character reference of HTML that is undone, in bytes without `&`.
const MAX_REFERENCE: usize = 10;
/// How often encodings inside encodings are undone.
const MAX_LAYERS: usize = 3;
/// Words of the services' own URLs, which their answers may well contain.
const PUBLIC_SEGMENTS: &[&str] = &[
    "services",
    "webhooks",
    "workflows",
    "triggers",
    "webhook-test",
    "webhookb2",
    "incomingwebhook",
    "powerautomate",
    "automations",
];

/// Secrets, and what finds them. It has no `Debug`.
pub struct Secrets {
    known: Vec<SecretString>,
    found_by: OnceLock<Redactor>,
}

impl Secrets {
    /// These secrets.
    #[must_use]
    pub const fn new(known: Vec<SecretString>) -> Self {
        Self { known, found_by: OnceLock::new() }
    }

    /// The secrets.
    #[must_use]
    pub fn known(&self) -> &[SecretString] {
        &self.known
    }

    /// What finds them; made at the first failure, so that what works does without.
    #[must_use]
    pub fn redactor(&self) -> &Redactor {
        self.found_by.get_or_init(|| Redactor::new(&self.known))
    }
}

/// Finds a connector's secrets in texts. It has no `Debug`.
pub struct Redactor {
    /// What tells a secret, as it is; the longest first.
    parts: Vec<Zeroizing<String>>,
    /// The same in base64, however it is aligned.
    encoded: Vec<Zeroizing<String>>,
}

impl Redactor {
    /// Looks for these secrets.
    #[must_use]
    pub fn new(secrets: &[SecretString]) -> Self {
        let mut parts = Vec::new();
        for secret in secrets {
            parts_of(secret.expose_secret(), &mut parts);
        }
        parts.sort_by(|a, b| (b.len(), b).cmp(&(a.len(), a)));
        parts.dedup();
        let mut encoded = Vec::new();
        for part in &parts {
            base64_of(part.as_bytes(), &mut encoded);
        }
        encoded.sort_by(|a, b| (b.len(), b).cmp(&(a.len(), a)));
        encoded.dedup();
        let wiped = |texts: Vec<String>| texts.into_iter().map(Zeroizing::new).collect();
        Self { parts: wiped(parts), encoded: wiped(encoded) }
    }

    /// Whether a text quotes a secret, in whatever form.
    #[must_use]
    pub fn quotes(&self, text: &[u8]) -> bool {
        let mut layer = Cow::Borrowed(text);
        for _ in 0..MAX_LAYERS {
            if self.has(&layer) {
                return true;
            }
            let plain = unescaped(&layer);
            let plain = html_decoded(plain.as_deref().unwrap_or(&layer)).or(plain);
            if let Some(plain) = &plain
                && self.has(plain)
            {
                return true;
            }
            let decoded = percent_decoded(plain.as_deref().unwrap_or(&layer));
            match decoded.or(plain) {
                Some(next) => layer = Cow::Owned(next),
                None => return false,
            }
        }
        self.has(&layer)
    }

    fn has(&self, text: &[u8]) -> bool {
        let mut needles = self.parts.iter().chain(&self.encoded);
        needles.any(|needle| memmem::find(text, needle.as_bytes()).is_some())
    }

    /// Whether an answer quotes a secret, in its body or a header.
    #[must_use]
    pub fn quoted_by(&self, answer: &Response) -> bool {
        self.quotes(&answer.body)
            || answer.headers.values().any(|value| self.quotes(value.as_bytes()))
    }

    /// Verdicts as they may be shown, on items of one request: what they say of answers that quote
    /// a secret is left out. The answers are those that the verdicts may come from.
    #[must_use]
    pub fn verdicts(&self, answers: &[Response], verdicts: Vec<Verdict>) -> Vec<Verdict> {
        let unshown = |answer: &Response| {
            let is_broken_off = answer.is_incomplete && !answer.body.is_empty();
            let words = if self.quoted_by(answer) {
                LEFT_OUT
            } else if is_broken_off && !self.parts.is_empty() {
                BROKEN_OFF
            } else {
                return None;
            };
            Some((answer.status, words))
        };
        let quoting = answers.iter().rev().find_map(unshown);
        verdicts.into_iter().map(|verdict| self.verdict(verdict, quoting)).collect()
    }

    /// A verdict as it may be shown; `quoting` is the status of the answer that may not be shown,
    /// and why.
    fn verdict(&self, verdict: Verdict, quoting: Option<(u16, &str)>) -> Verdict {
        let clean = |detail: String| match quoting {
            Some((status, words)) => format!("HTTP {status}: {words}"),
            None if self.quotes(detail.as_bytes()) => LEFT_OUT.to_owned(),
            None => shown(&detail),
        };
        match verdict {
            Verdict::Delivered => Verdict::Delivered,
            Verdict::Retry { reason, detail, after } => {
                Verdict::Retry { reason, detail: clean(detail), after }
            }
            Verdict::Dead { reason, detail } => Verdict::Dead { reason, detail: clean(detail) },
            Verdict::Broken { reason, detail, certainty } => {
                Verdict::Broken { reason, detail: clean(detail), certainty }
            }
            // A setting that is no secret would become one that is.
            Verdict::Moved { value, .. } if self.quotes(value.as_bytes()) => {
                Verdict::retry(Reason::UnexpectedResponse, LEFT_OUT)
            }
            moved @ Verdict::Moved { .. } => moved,
        }
    }

    /// A text of this program's own making without the secrets in it, for previews of requests.
    #[must_use]
    pub fn masked(&self, text: &str) -> String {
        let mut masked = text.to_owned();
        for part in &self.parts {
            let in_query: String = url::form_urlencoded::byte_serialize(part.as_bytes()).collect();
            let in_path = percent_encoded(part);
            let in_json = serde_json::Value::from(part.as_str()).to_string();
            for form in [part.as_str(), &in_query, &in_path, in_json.trim_matches('"')] {
                masked = masked.replace(form, MASK);
            }
        }
        for form in &self.encoded {
            masked = masked.replace(form.as_str(), MASK);
        }
        if self.quotes(masked.as_bytes()) { MASK.to_owned() } else { masked }
    }
}

/// Words for people: without control characters and those that change the direction of a text, and
/// not longer than what is quoted of an answer and said around it.
fn shown(detail: &str) -> String {
    detail.chars().map(harmless).take(MAX_DETAIL_CHARS + 100).collect()
}

/// What tells a secret when it is quoted.
fn parts_of(secret: &str, parts: &mut Vec<String>) {
    let secret = secret.trim();
    if secret.is_empty() {
        return;
    }
    parts.push(secret.to_owned());
    if let Some(key) = secret.strip_prefix("whsec_") {
        // The key of signatures, without the word that says so.
        parts.push(key.to_owned());
    }
    if let Some((scheme, given)) = secret.split_once(' ')
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric())
    {
        parts_of_authorization(scheme, given.trim(), parts);
    }
    if secret.contains('\n') {
        let lines = secret.lines().map(str::trim).filter(|line| line.len() >= MIN_FIELD);
        parts.extend(lines.filter(|line| !line.starts_with("-----")).map(str::to_owned));
    }
    if secret.starts_with('{')
        && let Ok(serde_json::Value::Object(fields)) = serde_json::from_str(secret)
    {
        // The key file of a service account: its private key and that key's id, not its addresses.
        let telling = fields.iter().filter(|(name, _)| {
            ["private", "secret", "token", "password"].iter().any(|word| name.contains(word))
        });
        for (_, value) in telling.filter(|(name, _)| !name.ends_with("_uri")) {
            if let Some(text) = value.as_str().filter(|text| text.len() >= MIN_FIELD) {
                parts_of(text, parts);
            }
        }
    }
    match Url::parse(secret) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => {
            parts_of_url(&url, parts);
        }
        _ => {}
    }
}

/// What a header's value gives behind its scheme: as a whole, as the user and password of `Basic`,
/// and by parameter, as in `Token token="…"`.
fn parts_of_authorization(scheme: &str, given: &str, parts: &mut Vec<String>) {
    let mut add = |text: &str, least: usize| {
        if text.len() >= least {
            parts.push(text.to_owned());
        }
    };
    add(given, MIN_QUERY_VALUE);
    for (_, value) in given.split(',').filter_map(|parameter| parameter.split_once('=')) {
        add(value.trim().trim_matches('"'), MIN_SEGMENT);
    }
    if scheme.eq_ignore_ascii_case("basic")
        && let Ok(pair) = STANDARD_NO_PAD.decode(given.trim_end_matches('='))
        && let Ok(pair) = String::from_utf8(pair)
        && let Some((user, password)) = pair.split_once(':')
    {
        add(&pair, MIN_QUERY_VALUE);
        // A key may stand alone, in the user's place.
        add(if password.is_empty() { user } else { password }, MIN_QUERY_VALUE);
    }
}

/// The path, the query and the user of a webhook are its secret, as a whole and in pieces.
fn parts_of_url(url: &Url, parts: &mut Vec<String>) {
    let mut add = |text: &str, least: usize| {
        for form in [text.to_owned(), decoded(text)] {
            if form.len() >= least.max(1) {
                parts.push(form);
            }
        }
    };
    add(url.path().trim_matches('/'), MIN_SEGMENT);
    let segments: Vec<&str> = url.path().split('/').filter(|part| !part.is_empty()).collect();
    for segment in &segments {
        let is_public = PUBLIC_SEGMENTS.contains(&segment.to_ascii_lowercase().as_str());
        let has = |test: fn(&char) -> bool| segment.chars().any(|c| test(&c));
        let is_mixed = has(char::is_ascii_digit) && has(char::is_ascii_alphabetic);
        let least = if is_mixed { MIN_MIXED_SEGMENT } else { MIN_SEGMENT };
        if !is_public {
            add(segment, least);
        }
    }
    if let [.., one, two] = segments[..] {
        add(&format!("{one}/{two}"), MIN_SEGMENT);
    }
    if let Some(query) = url.query() {
        add(query, MIN_SEGMENT);
        for pair in query.split('&') {
            add(pair.split_once('=').map_or(pair, |(_, value)| value), MIN_QUERY_VALUE);
        }
    }
    for user in [url.username(), url.password().unwrap_or_default()] {
        add(user, MIN_QUERY_VALUE);
    }
}

fn decoded(text: &str) -> String {
    let bytes = percent_decoded(text.as_bytes());
    bytes.map_or_else(|| text.to_owned(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// The pieces of base64 that a text becomes wherever it stands in what is encoded: behind a user's
/// name, say. The characters at either end that depend on its neighbours are left out.
fn base64_of(text: &[u8], encoded: &mut Vec<String>) {
    for before in 0..3_usize {
        let mut padded = vec![0; before];
        padded.extend_from_slice(text);
        let dependent_first = [0, 2, 3][before];
        let dependent_last = usize::from(padded.len() % 3 != 0);
        for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
            let whole = engine.encode(&padded);
            let end = whole.len() - dependent_last;
            if let Some(piece) = whole.get(dependent_first..end)
                && piece.len() >= MIN_BASE64
            {
                encoded.push(piece.to_owned());
            }
        }
    }
}

fn percent_encoded(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if plain(byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

fn hex(digits: &[u8]) -> Option<u32> {
    number(digits, 16)
}

fn number(digits: &[u8], base: u32) -> Option<u32> {
    let add = |value: u32, digit: &u8| {
        value.checked_mul(base)?.checked_add(char::from(*digit).to_digit(base)?)
    };
    digits.iter().try_fold(0, add)
}

/// The text with its percent-encoding undone; `None` when it has none.
fn percent_decoded(text: &[u8]) -> Option<Vec<u8>> {
    memchr::memchr(b'%', text)?;
    let mut plain = Vec::with_capacity(text.len());
    let (mut at, mut found) = (0, false);
    while let Some(&byte) = text.get(at) {
        let code = text.get(at + 1..at + 3).filter(|_| byte == b'%').and_then(hex);
        if let Some(code) = code.and_then(|code| u8::try_from(code).ok()) {
            plain.push(code);
            (at, found) = (at + 3, true);
        } else {
            plain.push(byte);
            at += 1;
        }
    }
    found.then_some(plain)
}

/// The text with the character references of HTML undone; `None` when it has none. Of those with
/// names, those that templates write.
fn html_decoded(text: &[u8]) -> Option<Vec<u8>> {
    memchr::memchr(b'&', text)?;
    let mut plain = Vec::with_capacity(text.len());
    let (mut at, mut found) = (0, false);
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        if let Some((c, length)) = reference(rest) {
            plain.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            (at, found) = (at + length, true);
        } else {
            plain.push(rest[0]);
            at += 1;
        }
    }
    found.then_some(plain)
}

/// The character that a reference at the beginning of a text stands for, and the reference's length.
fn reference(text: &[u8]) -> Option<(char, usize)> {
    let name = text.strip_prefix(b"&")?;
    let end = name.iter().take(MAX_REFERENCE).position(|byte| *byte == b';')?;
    let c = match &name[..end] {
        b"amp" => '&',
        b"lt" => '<',
        b"gt" => '>',
        b"quot" => '"',
        b"apos" => '\'',
        [b'#', b'x' | b'X', digits @ ..] => char::from_u32(number(digits, 16)?)?,
        [b'#', digits @ ..] => char::from_u32(number(digits, 10)?)?,
        _ => return None,
    };
    Some((c, end + 2))
}

/// The text with the escapes of JSON undone, wherever they stand; `None` when it has none.
fn unescaped(text: &[u8]) -> Option<Vec<u8>> {
    memchr::memchr(b'\\', text)?;
    let mut plain = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        let (written, length): (Cow<'_, [u8]>, usize) = match (byte, text.get(at + 1)) {
            (b'\\', Some(b'n')) => ((&b"\n"[..]).into(), 2),
            (b'\\', Some(b'r')) => ((&b"\r"[..]).into(), 2),
            (b'\\', Some(b't')) => ((&b"\t"[..]).into(), 2),
            (b'\\', Some(b'u' | b'U')) => {
                let code = text.get(at + 2..at + 6).and_then(hex).and_then(char::from_u32);
                match code {
                    Some(c) => (c.to_string().into_bytes().into(), 6),
                    None => ((&b"\\"[..]).into(), 1),
                }
            }
            (b'\\', Some(other)) => (std::slice::from_ref(other).into(), 2),
            _ => (std::slice::from_ref(&text[at]).into(), 1),
        };
        plain.extend_from_slice(&written);
        at += length;
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;
    use bytes::Bytes;
    use http::{HeaderMap, HeaderValue};

    use super::*;
    use crate::{
        clock::Timestamp,
        destination::{ConnectorType, docs::example_settings},
    };

    fn redactor(secrets: &[&str]) -> Redactor {
        let secrets: Vec<SecretString> =
            secrets.iter().map(|secret| SecretString::from((*secret).to_owned())).collect();
        Redactor::new(&secrets)
    }

    fn answer(body: impl Into<Bytes>) -> Response {
        let received_at = Timestamp::from_millis(0);
        Response {
            status: 404,
            headers: HeaderMap::new(),
            body: body.into(),
            received_at,
            is_incomplete: false,
        }
    }

    /// The forms in which services were seen to quote what they were sent.
    fn forms(secret: &str) -> Vec<(&'static str, String)> {
        let percent = percent_encoded(secret);
        let in_json = serde_json::Value::from(secret).to_string();
        let every_char = secret.encode_utf16().map(|unit| format!("\\u{unit:04x}"));
        let every_char = every_char.collect::<Vec<_>>().concat();
        let html = |c: char| match c {
            c if c.is_ascii_alphanumeric() => c.to_string(),
            c => format!("&#{};", u32::from(c)),
        };
        let html: Vec<String> = secret.chars().map(html).collect();
        let hexadecimal: Vec<String> =
            secret.chars().map(|c| format!("&#x{:X};", u32::from(c))).collect();
        vec![
            ("raw", secret.to_owned()),
            ("percent", percent.clone()),
            ("percent twice", percent_encoded(&percent)),
            ("html", html.concat()),
            ("html, hexadecimal", hexadecimal.concat()),
            ("json", in_json.replace('/', "\\/")),
            ("json, each character", every_char),
            ("json of percent", serde_json::Value::from(percent.as_str()).to_string()),
            ("base64", STANDARD.encode(secret)),
            ("base64 with a colon", STANDARD.encode(format!("{secret}:"))),
            ("base64 behind a user", STANDARD.encode(format!("user:{secret}"))),
            ("base64 behind another", STANDARD.encode(format!("us:{secret}\n"))),
            ("base64 for URLs", URL_SAFE_NO_PAD.encode(format!("{secret}:"))),
            ("base64, percent", percent_encoded(&STANDARD.encode(format!("{secret}:")))),
        ]
    }

    #[test]
    fn every_form_of_every_types_secrets_is_found_wherever_it_stands() {
        for kind in ConnectorType::ALL {
            let settings = example_settings(kind.spec(), None);
            let secrets = settings.secrets(kind.spec().fields);
            let redactor = Redactor::new(&secrets);
            for secret in secrets.iter().map(ExposeSecret::expose_secret) {
                for (name, form) in forms(secret) {
                    // Far behind what is ever shown, and across the place where it is cut.
                    for before in ["", &"x".repeat(MAX_DETAIL_CHARS - 5), &" ".repeat(60_000)] {
                        let text = format!("{{\"message\":\"{before} {form} \"}}");
                        assert!(redactor.quotes(text.as_bytes()), "{kind} {name} {form}");
                    }
                }
            }
            assert!(!redactor.quotes(b"{\"error\":\"invalid_payload\",\"code\":10015}"), "{kind}");
        }
    }

    #[test]
    fn a_signing_secret_is_found_without_its_prefix() {
        let redactor = redactor(&["whsec_RXhhbXBsZSBzZWNyZXQgb2YgMzIgYnl0ZXMgISE="]);
        assert!(redactor.quotes(b"key RXhhbXBsZSBzZWNyZXQgb2YgMzIgYnl0ZXMgISE= is wrong"));
        assert!(!redactor.quotes(b"whsec_ is missing"));
    }

    #[test]
    fn what_follows_the_scheme_of_a_header_is_found() {
        let pair = "svc-user:canary-p4ss";
        let basic = format!("Basic {}", STANDARD.encode(pair));
        let lower = format!("basic  {}", STANDARD.encode(pair).trim_end_matches('='));
        let alone = format!("Basic {}", STANDARD.encode("sk_canary9q:"));
        for (value, found) in [
            ("Bearer canary-5e1f", "canary-5e1f"),
            ("Token token=\"canary-5e1f\", other=1", "canary-5e1f"),
            (&basic, pair),
            (&basic, "canary-p4ss"),
            (&basic, &basic["Basic ".len()..]),
            (&lower, "canary-p4ss"),
            (&alone, "sk_canary9q"),
        ] {
            let redactor = redactor(&[value]);
            for (name, form) in forms(found) {
                assert!(redactor.quotes(format!("no {form} here").as_bytes()), "{value} {name}");
            }
            assert!(!redactor.masked(&format!("[{found}]")).contains(found), "{value}");
        }
        let redactor = redactor(&["Bearer canary-5e1f", &basic, &alone, "Basic !", "a b"]);
        for harmless in ["Bearer is missing", "no Basic authentication", "svc-user", "other=1", "b"]
        {
            assert!(!redactor.quotes(harmless.as_bytes()), "{harmless}");
        }
    }

    #[test]
    fn each_piece_of_a_webhook_is_found() {
        let teams = "https://user1:pass%2Fword@prod-01.westeurope.logic.azure.com/workflows/\
                     0123456789abcdef/triggers/manual/paths/invoke?api-version=2016-06-01&sig=Ab_%2Bcd-efgh";
        let redactor = redactor(&[teams, "https://hooks.zapier.com/hooks/catch/123456/abcdef/"]);
        for piece in [
            "sig=Ab_%2Bcd-efgh",
            "Ab_+cd-efgh",
            "Ab_%2Bcd-efgh",
            "Ab_%252Bcd-efgh",
            "/workflows/0123456789abcdef/triggers",
            "user1",
            "pass/word",
            "pass%2Fword",
            "/hooks/catch/123456/abcdef/",
            "123456/abcdef",
            "123456\\/abcdef",
        ] {
            assert!(redactor.quotes(format!("no {piece} here").as_bytes()), "{piece}");
        }
        for harmless in ["workflows", "no such workflow trigger", "prod-01", "manual/paths", "v=1"]
        {
            assert!(!redactor.quotes(harmless.as_bytes()), "{harmless}");
        }
    }

    #[test]
    fn the_fields_of_a_key_file_are_found() {
        let line = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSj";
        let key = format!("-----BEGIN PRIVATE KEY-----\n{line}\n-----END PRIVATE KEY-----\n");
        let file = serde_json::json!({ "type": "service_account", "private_key": key,
            "private_key_id": "0123456789abcdef0123", "client_email": "a@b.iam.gserviceaccount.com",
            "token_uri": "https://oauth2.googleapis.com/token" });
        let redactor = redactor(&[&file.to_string()]);
        assert!(redactor.quotes(line.as_bytes()) && redactor.quotes(b"id 0123456789abcdef0123"));
        assert!(
            !redactor.quotes(b"a@b.iam.gserviceaccount.com at https://oauth2.googleapis.com/token")
        );
    }

    #[test]
    fn a_verdict_says_nothing_of_an_answer_that_quotes_a_secret() {
        let secrets = ["canary-5e1f-token"];
        let body = format!("{}canary-5e1f-token", "x".repeat(MAX_DETAIL_CHARS - 6));
        let response = answer(body);
        // Cut: half of the secret is in the detail.
        let verdict = Verdict::broken(Reason::Gone, response.detail());
        let judged = |answer: &Response, verdict: &Verdict| {
            redactor(&secrets).verdicts(std::slice::from_ref(answer), vec![verdict.clone()])
        };
        let expected = Verdict::broken(Reason::Gone, format!("HTTP 404: {LEFT_OUT}"));
        assert_eq!(judged(&response, &verdict), std::slice::from_ref(&expected));
        let mut in_header = answer("no such hook");
        let value = HeaderValue::from_static("/login?from=canary-5e1f-token");
        in_header.headers.insert("location", value);
        assert_eq!(judged(&in_header, &verdict), std::slice::from_ref(&expected));
        let broken_off = Response { is_incomplete: true, ..answer("invalid token canary-5e") };
        let expected = Verdict::broken(Reason::Gone, format!("HTTP 404: {BROKEN_OFF}"));
        assert_eq!(judged(&broken_off, &verdict), [expected]);
        let harmless = answer("no such hook");
        let verdict = Verdict::broken(Reason::Gone, harmless.detail());
        assert_eq!(judged(&harmless, &verdict), [verdict]);
        let moved = Verdict::Moved { field: "chatId", value: "canary-5e1f-token".to_owned() };
        assert!(matches!(&judged(&harmless, &moved)[0], Verdict::Retry { .. }));
        let moved = Verdict::Moved { field: "chatId", value: "-100123".to_owned() };
        assert_eq!(judged(&harmless, &moved), [moved]);
    }

    #[test]
    fn what_is_shown_turns_no_text_around() {
        let verdict = Verdict::dead(Reason::Rejected, "a\u{202e}b\u{2066}c\u{1b}[31m\u{2028}d");
        let Verdict::Dead { detail, .. } = &redactor(&[]).verdicts(&[], vec![verdict])[0] else {
            panic!()
        };
        assert_eq!(detail, "a b c [31m d");
    }

    #[test]
    fn no_bytes_make_it_fail() {
        let redactor = redactor(&["canary-5e1f"]);
        for text in [
            &b"\\"[..],
            b"%",
            b"%4",
            b"\\u",
            b"\\u12",
            b"\\ud800",
            b"\xff\\\xff%\xff",
            b"&",
            b"&#",
            b"&#;",
            b"&#x110000;",
            b"&#99999999;",
            b"",
        ] {
            assert!(!redactor.quotes(text));
        }
        assert!(!self::redactor(&["", " "]).quotes(b"anything"));
    }
}
