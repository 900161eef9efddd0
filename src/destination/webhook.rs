//! Generic webhooks: the event as it is, with headers that name it, and if its owner wishes a
//! signature and a header of the owner's own.

use http::{HeaderName, HeaderValue};
use url::Url;

use super::{
    Checks, Field, Item, Request, Response, SecretUrl, SettingError, Settings, signing::Signing,
};

const DELIVERY_ID: HeaderName = HeaderName::from_static("dunmore-delivery-id");
const EVENT_ID: HeaderName = HeaderName::from_static("dunmore-event-id");
const EVENT_TYPE: HeaderName = HeaderName::from_static("dunmore-event-type");
const ATTEMPT: HeaderName = HeaderName::from_static("dunmore-attempt");

const AUTH_NAME: &str = "authHeaderName";
const AUTH_VALUE: &str = "authHeaderValue";
/// The longest name of a header, in characters.
const MAX_NAME_CHARS: usize = 128;
/// The longest value of a header, in characters: what common servers take of a single one.
const MAX_VALUE_CHARS: usize = 4096;
/// Headers that this program or the HTTP client sets, or that steer the connection …
const OWN_HEADERS: &[&str] = &[
    "accept",
    "accept-encoding",
    "connection",
    "cookie",
    "date",
    "expect",
    "forwarded",
    "host",
    "idempotency-key",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "via",
];
/// … and the beginnings of names of such.
const OWN_PREFIXES: &[&str] =
    &["content-", "dunmore-", "proxy-", "trace", "webhook-", "x-forwarded-", "baggage", ":"];

/// The header that a protected webhook asks for.
pub const AUTH_FIELDS: [Field; 2] = [
    Field::text(
        AUTH_NAME,
        "The name of the header by which the webhook is protected; give authHeaderValue with it.",
        "x-api-key",
    )
    .checked(check_name)
    .optional(),
    Field::secret(AUTH_VALUE, "The value of that header.", "EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE")
        .checked(check_value)
        .optional(),
];

fn check_name(value: &str, _: &Checks<'_>) -> Result<(), String> {
    let name = value.to_ascii_lowercase();
    if value.len() > MAX_NAME_CHARS || HeaderName::from_bytes(value.as_bytes()).is_err() {
        return Err(format!(
            "must be the name of an HTTP header, such as X-Api-Key, of at most {MAX_NAME_CHARS} characters"
        ));
    }
    let is_own = OWN_HEADERS.contains(&name.as_str())
        || OWN_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    if is_own {
        Err("is a header that requests have anyway: use another one".to_owned())
    } else {
        Ok(())
    }
}

fn check_value(value: &str, _: &Checks<'_>) -> Result<(), String> {
    let is_visible = |b: u8| b.is_ascii_graphic() || b == b' ';
    if value.is_empty() || value.len() > MAX_VALUE_CHARS {
        Err(format!("must have 1 to {MAX_VALUE_CHARS} characters"))
    } else if !value.bytes().all(is_visible) {
        Err("must consist of visible ASCII characters and spaces".to_owned())
    } else if value.trim() != value {
        Err("must not begin or end with a space".to_owned())
    } else {
        Ok(())
    }
}

/// Both halves of the header, or neither.
pub fn check_auth(settings: &Settings) -> Vec<(&'static str, String)> {
    match (settings.has(AUTH_NAME), settings.has(AUTH_VALUE)) {
        (true, false) => vec![(AUTH_VALUE, format!("is missing: {AUTH_NAME} is given"))],
        (false, true) => vec![(AUTH_NAME, format!("is missing: {AUTH_VALUE} is given"))],
        _ => Vec::new(),
    }
}

/// A user's webhook, and what its requests carry beside the event.
#[derive(Debug)]
pub struct Webhook {
    url: SecretUrl,
    signing: Option<Signing>,
    auth: Option<(HeaderName, HeaderValue)>,
}

impl Webhook {
    /// From the settings of a connector.
    pub fn of(settings: &Settings) -> Result<Self, SettingError> {
        let auth = match settings.optional(AUTH_NAME) {
            Some(name) => {
                let wrong = |_| SettingError {
                    field: AUTH_NAME,
                    message: "is no name of a header".to_owned(),
                };
                let name = HeaderName::from_bytes(name.as_bytes()).map_err(wrong)?;
                Some((name, settings.secret_header(AUTH_VALUE, str::to_owned)?))
            }
            None => None,
        };
        Ok(Self { url: settings.webhook_url("webhookUrl")?, signing: Signing::of(settings)?, auth })
    }

    /// A POST of the event's own JSON text.
    pub fn request(&self, item: &Item<'_>) -> Request {
        let mut request = event_request(&self.url.0, item);
        if let Some((name, value)) = &self.auth {
            request = request.secret_header(name.clone(), value.clone());
        }
        match &self.signing {
            Some(signing) => signing.sign(request, item),
            None => request,
        }
    }

    /// What to do about a refusal of the request's authentication.
    pub fn refused(&self, what: &str, response: &Response) -> String {
        let advice = match &self.auth {
            None => "set authHeaderName and authHeaderValue to the header that it asks for",
            Some(_) => "check authHeaderName and authHeaderValue",
        };
        format!("{what} refused the request's authentication: {advice} ({})", response.detail())
    }
}

fn event_request(url: &Url, item: &Item<'_>) -> Request {
    let mut id = uuid::Uuid::encode_buffer();
    let id = item.delivery_id.uuid().hyphenated().encode_lower(&mut id);
    let request = Request::post_json(url.clone(), item.event.json.clone())
        .header(DELIVERY_ID, id)
        .header(EVENT_ID, item.event.id.as_str())
        .fixed_header(EVENT_TYPE, item.event.kind.as_str());
    match item.attempt {
        1 => request.fixed_header(ATTEMPT, "1"),
        attempt => request.header(ATTEMPT, attempt.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::Setting;

    fn egress() -> crate::egress::EgressPolicy {
        crate::egress::EgressPolicy::default()
    }

    #[test]
    fn the_header_is_one_that_requests_do_not_have() {
        let egress = egress();
        let checks = Checks { egress: &egress };
        for good in ["X-Api-Key", "x-make-apikey", "Authorization", "X_1", "a", &"x".repeat(128)] {
            assert_eq!(check_name(good, &checks), Ok(()), "{good}");
        }
        for own in [
            "Host",
            "content-type",
            "Content-Length",
            "webhook-id",
            "WEBHOOK-signature",
            "Dunmore-Event-Id",
            "User-Agent",
            "Transfer-Encoding",
            "connection",
            "traceparent",
            "Idempotency-Key",
            "Proxy-Authorization",
            "X-Forwarded-For",
            "TE",
            "Expect",
        ] {
            let error = check_name(own, &checks).unwrap_err();
            assert!(error.contains("requests have anyway"), "{own}: {error}");
        }
        for bad in ["", " ", "X Key", "X:Key", "X\r\nY", "ключ", &"x".repeat(129)] {
            assert!(check_name(bad, &checks).unwrap_err().contains("HTTP header"), "{bad}");
        }
        for good in ["Bearer abc", "!~", &"x".repeat(4096)] {
            assert_eq!(check_value(good, &checks), Ok(()));
        }
        for bad in ["", " x", "x ", "a\tb", "a\r\nb: c", "é", &"x".repeat(4097)] {
            assert!(check_value(bad, &checks).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn both_halves_of_the_header_or_neither() {
        let with = |names: &[&'static str]| {
            let mut settings = Settings::new(None);
            for name in names {
                settings.insert(name, Setting::Kept);
            }
            check_auth(&settings).into_iter().map(|(field, _)| field).collect::<Vec<_>>()
        };
        assert!(with(&[]).is_empty() && with(&[AUTH_NAME, AUTH_VALUE]).is_empty());
        assert_eq!(with(&[AUTH_NAME]), [AUTH_VALUE]);
        assert_eq!(with(&[AUTH_VALUE]), [AUTH_NAME]);
    }

    #[test]
    fn a_refusal_says_what_to_set_and_no_value_is_shown() {
        let mut settings = Settings::new(None);
        settings.insert("webhookUrl", Setting::Text("https://n8n.example.com/webhook/1".into()));
        let response = Response {
            status: 401,
            headers: http::HeaderMap::new(),
            body: bytes::Bytes::from_static(b"Authorization is required!"),
            received_at: crate::clock::Timestamp::from_millis(0),
            is_incomplete: false,
        };
        let open = Webhook::of(&settings).unwrap().refused("the Webhook node", &response);
        assert_eq!(
            open,
            "the Webhook node refused the request's authentication: set authHeaderName and \
             authHeaderValue to the header that it asks for (HTTP 401: Authorization is required!)"
        );
        settings.insert(AUTH_NAME, Setting::Text("x-api-key".into()));
        settings.insert(AUTH_VALUE, Setting::Text("canary-5e1f".into()));
        let webhook = Webhook::of(&settings).unwrap();
        assert!(webhook.refused("the webhook", &response).contains("check authHeaderName"));
        assert!(!format!("{webhook:?}").contains("canary"));
        assert!(webhook.auth.is_some_and(|(_, value)| value.is_sensitive()));
    }
}
