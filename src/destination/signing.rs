//! Signatures of generic webhooks, by Standard Webhooks.
//!
//! <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>. What
//! is signed is `id.timestamp.body`: the delivery's id, the seconds of this attempt, and the body to
//! the byte. While a secret is replaced, a request carries a signature by the new one and a
//! signature by the one before.

use std::{fmt, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use http::HeaderName;
use ring::hmac;
use zeroize::Zeroizing;

use super::{Checks, Field, Item, Request, SettingError, Settings};
use crate::{clock::Timestamp, id::DeliveryId};

/// The setting with the secret that signs.
pub const SIGNING_SECRET: &str = "signingSecret";
/// The hidden setting with the secret before …
pub const PREVIOUS_SECRET: &str = "previousSigningSecret";
/// … and the one with the time until which that one signs too.
pub const PREVIOUS_UNTIL: &str = "previousSigningSecretUntil";
/// The longest time for which a secret that was replaced goes on to sign.
pub const MAX_OVERLAP: Duration = Duration::from_secs(7 * 24 * 3600);

/// What a secret begins with.
const PREFIX: &str = "whsec_";
/// How many bytes a secret may have.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

const ID: HeaderName = HeaderName::from_static("webhook-id");
const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// The setting.
pub const FIELD: Field = Field::secret(
    SIGNING_SECRET,
    "Signs each request by Standard Webhooks: whsec_ and 24 to 64 bytes in base64. Better than to \
     choose one: have one made by POST …/signing-secret.",
    "whsec_RXhhbXBsZSBzZWNyZXQgb2YgMzIgYnl0ZXMgISE=",
)
.checked(check)
.optional();

/// What is kept while a secret is replaced.
pub const HIDDEN: &[Field] = &[
    Field::secret(PREVIOUS_SECRET, "The signing secret before.", FIELD.example).checked(check),
    Field::text(PREVIOUS_UNTIL, "Until when it signs too.", "2026-11-23T08:00:00.000Z")
        .checked(|value, _| Timestamp::parse(value).map(|_| ())),
];

/// The text of a secret with these bytes.
#[must_use]
pub fn signing_secret(bytes: &[u8]) -> Zeroizing<String> {
    Zeroizing::new(format!("{PREFIX}{}", BASE64.encode(bytes)))
}

fn check(value: &str, _: &Checks<'_>) -> Result<(), String> {
    key_bytes(value).map(|_| ())
}

fn key_bytes(secret: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    let form = format!(
        "must be {PREFIX} and {} to {} bytes in base64",
        SECRET_BYTES.start(),
        SECRET_BYTES.end()
    );
    let text = secret.strip_prefix(PREFIX).ok_or_else(|| form.clone())?;
    let bytes = Zeroizing::new(BASE64.decode(text).map_err(|_| form.clone())?);
    if SECRET_BYTES.contains(&bytes.len()) {
        Ok(bytes)
    } else {
        Err(format!("{form}; this one has {}", bytes.len()))
    }
}

/// What signs a connector's requests. Its `Debug` shows no key.
pub struct Signing {
    key: hmac::Key,
    /// The key before, and until when it signs too.
    previous: Option<(hmac::Key, Timestamp)>,
}

impl Signing {
    /// What signs, when the settings have a secret for it.
    pub fn of(settings: &Settings) -> Result<Option<Self>, SettingError> {
        let key = |field: &'static str| -> Result<Option<hmac::Key>, SettingError> {
            let Some(secret) = settings.optional(field) else { return Ok(None) };
            let bytes = key_bytes(secret).map_err(|message| SettingError { field, message })?;
            Ok(Some(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
        };
        let Some(current) = key(SIGNING_SECRET)? else { return Ok(None) };
        let until = settings.optional(PREVIOUS_UNTIL).map(Timestamp::parse).transpose();
        let until = until.map_err(|message| SettingError { field: PREVIOUS_UNTIL, message })?;
        Ok(Some(Self { key: current, previous: key(PREVIOUS_SECRET)?.zip(until) }))
    }

    /// What signs with this secret alone.
    pub fn with(secret: &str) -> Result<Self, String> {
        let bytes = key_bytes(secret)?;
        Ok(Self { key: hmac::Key::new(hmac::HMAC_SHA256, &bytes), previous: None })
    }

    /// The request with its signature, as of the time at which the item is sent.
    pub fn sign(&self, request: Request, item: &Item<'_>) -> Request {
        self.sign_as(request, item.delivery_id, item.sent_at)
    }

    /// The same of a request that delivers something else than an item.
    pub fn sign_as(&self, request: Request, id: DeliveryId, sent_at: Timestamp) -> Request {
        let mut text = uuid::Uuid::encode_buffer();
        let id = id.uuid().hyphenated().encode_lower(&mut text).as_bytes();
        let timestamp = sent_at.millis().div_euclid(1000).to_string();
        let mut signatures = String::with_capacity(96);
        let previous = self.previous.as_ref().filter(|(_, until)| sent_at < *until);
        for key in std::iter::once(&self.key).chain(previous.map(|(key, _)| key)) {
            let mut context = hmac::Context::with_key(key);
            for part in [id, b".", timestamp.as_bytes(), b".", &request.body] {
                context.update(part);
            }
            let separator = if signatures.is_empty() { "v1," } else { " v1," };
            signatures.push_str(separator);
            BASE64.encode_string(context.sign(), &mut signatures);
        }
        request.header(ID, id).header(TIMESTAMP, timestamp).header(SIGNATURE, signatures)
    }
}

impl fmt::Debug for Signing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signing")
            .field("replaces", &self.previous.is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderMap;
    use proptest::prelude::*;
    use standardwebhooks::{Webhook, WebhookError};

    use super::*;
    use crate::{
        clock,
        destination::{ConnectorType, Setting},
        event::{Event, EventTypes},
        id::ConnectorKey,
    };

    const EVENT: &str = r#"{"id":"evt_1","type":"payment.settled","projectId":"proj_1","occurredAt":"2026-11-23T08:00:00.000Z","data":{"paymentId":"pay_1","endpointId":"ep_1","customerId":"0x52","amount":"1.25","currency":"USDC","network":"base","txHash":"0x8f"}}"#;

    fn secret(byte: u8, length: usize) -> String {
        signing_secret(&vec![byte; length]).to_string()
    }

    /// The request of a type with these settings, sent at some time.
    fn sent(kind: ConnectorType, more: &[(&'static str, &str)], at: Timestamp) -> Request {
        let event = Event::from_json(Bytes::from_static(EVENT.as_bytes())).unwrap();
        let mut settings = crate::destination::docs::example_settings(kind.spec(), None);
        for (name, value) in more {
            settings.insert(name, Setting::Text((*value).into()));
        }
        let destination = (kind.spec().make)(&settings, &EventTypes::All).unwrap();
        let key =
            ConnectorKey { project: event.project.clone(), connector: "conn_1".parse().unwrap() };
        let item = Item {
            event: &event,
            delivery_id: DeliveryId::new(&key, &event.id),
            attempt: 2,
            sent_at: at,
            setup: "",
        };
        destination.build(&item).unwrap()
    }

    fn headers(request: &Request) -> HeaderMap {
        request.headers.iter().cloned().collect()
    }

    fn verify(secret: &str, request: &Request) -> Result<(), WebhookError> {
        Webhook::new(secret).unwrap().verify(&request.body, &headers(request))
    }

    #[test]
    fn the_specifications_example_is_signed_as_it_says() {
        // From the specification's reference libraries.
        let settings = {
            let mut settings = Settings::new(None);
            let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
            settings.insert(SIGNING_SECRET, Setting::Text(secret.into()));
            settings
        };
        let signing = Signing::of(&settings).unwrap().unwrap();
        let mut context = hmac::Context::with_key(&signing.key);
        context.update(b"msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{\"test\": 2432232314}");
        assert_eq!(BASE64.encode(context.sign()), "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn the_official_verifier_takes_every_type_that_signs_and_refuses_what_is_not_right() {
        let (new, old, foreign) = (secret(1, 24), secret(2, 64), secret(3, 32));
        let now = clock::now();
        let minute = Duration::from_secs(60);
        let until = now.plus(minute).to_string();
        let past = now.to_string();
        for kind in [ConnectorType::Zapier, ConnectorType::N8n, ConnectorType::Make] {
            assert!(kind.signs());
            let plain = sent(kind, &[], now);
            assert!(headers(&plain).keys().all(|name| !name.as_str().starts_with("webhook-")));

            let request = sent(kind, &[(SIGNING_SECRET, &new)], now);
            verify(&new, &request).unwrap();
            assert!(matches!(verify(&foreign, &request), Err(WebhookError::InvalidSignature)));
            let id = headers(&request)["dunmore-delivery-id"].clone();
            assert_eq!(headers(&request)["webhook-id"], id);
            let seconds = (now.millis() / 1000).to_string();
            assert_eq!(headers(&request)["webhook-timestamp"], seconds.as_str());
            let mut tampered = request.clone();
            tampered.body = Bytes::from([&request.body[..], b" "].concat());
            assert!(matches!(verify(&new, &tampered), Err(WebhookError::InvalidSignature)));
            let long_ago = Timestamp::from_millis(now.millis() - 400_000);
            let stale = sent(kind, &[(SIGNING_SECRET, &new)], long_ago);
            assert!(matches!(verify(&new, &stale), Err(WebhookError::TimestampTooOldError)));

            let rotating =
                [(SIGNING_SECRET, &*new), (PREVIOUS_SECRET, &old), (PREVIOUS_UNTIL, &until)];
            let both = sent(kind, &rotating, now);
            verify(&new, &both).unwrap();
            verify(&old, &both).unwrap();
            assert!(verify(&foreign, &both).is_err());
            let rotated =
                [(SIGNING_SECRET, &*new), (PREVIOUS_SECRET, &old), (PREVIOUS_UNTIL, &past)];
            let one = sent(kind, &rotated, now);
            verify(&new, &one).unwrap();
            assert!(verify(&old, &one).is_err());
        }
        assert!(!ConnectorType::Slack.signs());
    }

    #[test]
    fn a_secret_has_a_form() {
        let egress = crate::egress::EgressPolicy::default();
        let checks = Checks { egress: &egress };
        for good in [secret(0, 24), secret(255, 64), FIELD.example.to_owned()] {
            assert_eq!(check(&good, &checks), Ok(()));
        }
        for (bad, words) in [
            (String::new(), "whsec_"),
            (secret(1, 32).replace("whsec_", ""), "whsec_"),
            (secret(1, 32).replace("whsec_", "WHSEC_"), "whsec_"),
            (secret(1, 23), "this one has 23"),
            (secret(1, 65), "this one has 65"),
            ("whsec_".to_owned(), "this one has 0"),
            ("whsec_not base64 at all, but long enough".to_owned(), "base64"),
            (format!("{} ", secret(1, 32)), "base64"),
        ] {
            let error = check(&bad, &checks).unwrap_err();
            assert!(error.contains(words) && error.len() < 100, "{bad}: {error}");
        }
    }

    proptest! {
        #[test]
        fn whatever_the_secret_and_the_time_the_official_signature_is_the_same(
            bytes in proptest::collection::vec(any::<u8>(), 24..=64), seconds in 0..4_000_000_000_i64,
        ) {
            let secret = signing_secret(&bytes);
            let at = Timestamp::from_millis(seconds * 1000 + 999);
            let request = sent(ConnectorType::Make, &[(SIGNING_SECRET, &secret)], at);
            let headers = headers(&request);
            let id = headers["webhook-id"].to_str().unwrap();
            let expected = Webhook::new(&secret).unwrap().sign(id, seconds, &request.body).unwrap();
            prop_assert_eq!(headers["webhook-signature"].to_str().unwrap(), expected);
        }
    }
}
