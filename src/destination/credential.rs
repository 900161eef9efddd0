//! Credentials that renew themselves: what a connector is given once, and how access tokens are
//! made of it.
//!
//! A credential either signs its tokens itself or has a request for its service's token endpoint.
//! That endpoint is the vendor's, or the operator's instead of it; no customer names one.

use std::{fmt, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{
    HeaderValue, Method,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use ring::rand::SecureRandom;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use url::{Url, form_urlencoded};
use zeroize::Zeroizing;

use super::{
    Checks, Field, Kept, ROTATED_REFRESH, Request, Response, SettingError, Settings, Way, basic,
    token_answer,
};
use crate::{
    clock::Timestamp,
    delivery::{Reason, Verdict},
    rs256::RsaKey,
};

pub use token_answer::Minted;
use token_answer::Owners;

/// The setting with a bare access token.
pub const ACCESS_TOKEN: &str = "accessToken";
const CLIENT_ID: &str = "clientId";
const CLIENT_SECRET: &str = "clientSecret";
/// The setting with a refresh token.
pub const REFRESH_TOKEN: &str = "refreshToken";
const PRIVATE_KEY: &str = "privateKey";
const SERVICE_ACCOUNT_KEY: &str = "serviceAccountKey";

/// The settings that only a credential has which makes its tokens itself.
pub const RENEWING: &[&str] = &[SERVICE_ACCOUNT_KEY, CLIENT_SECRET, PRIVATE_KEY, REFRESH_TOKEN];

/// How far the vendor's clock may be behind this one.
const CLOCK_SLACK: Duration = Duration::from_secs(60);
/// How long a self-signed token is good for: the most that Google takes.
const SIGNED_LIFE: Duration = Duration::from_secs(3600);
/// How long an assertion is good for: the most that Salesforce takes.
const ASSERTION_LIFE: Duration = Duration::from_secs(180);

/// The app's id, where the customer has an app of its own.
pub const CLIENT_ID_FIELD: Field =
    Field::text(CLIENT_ID, "The id of the app (its consumer key).", "0123456789abcdef").optional();
/// The app's secret.
pub const CLIENT_SECRET_FIELD: Field =
    Field::secret(CLIENT_SECRET, "The app's secret.", "EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE").optional();
/// A refresh token.
pub const REFRESH_TOKEN_FIELD: Field = Field::secret(
    REFRESH_TOKEN,
    "The refresh token that the app got when the account was connected; without clientId and \
     clientSecret it is one of the operator's own app.",
    "EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE",
)
.optional();
/// A refresh token of the customer's own app.
pub const OF_OWN_APP: Way = Way {
    fields: &[CLIENT_ID, CLIENT_SECRET, REFRESH_TOKEN],
    what: "for production: an OAuth app of yours",
};
/// A refresh token of the operator's app.
pub const OF_OPERATORS_APP: Way =
    Way { fields: &[REFRESH_TOKEN], what: "for production: the operator's own OAuth app" };
/// The key file of a Google service account.
pub const SERVICE_ACCOUNT_FIELD: Field = Field::secret(
    SERVICE_ACCOUNT_KEY,
    "The key file of a service account that may insert rows and read the table's schema: its JSON \
     as a text.",
    r#"{"type":"service_account","private_key_id":"…","private_key":"…","client_email":"…"}"#,
)
.checked(|value, _| ServiceAccount::read(value).map(|_| ()))
.optional();
/// A user's name for the JWT bearer flow.
pub const USERNAME_FIELD: Field = Field::text(
    "username",
    "The user in whose name the app acts; the app must be approved for the user.",
    "integration@example.com",
)
.checked(check_username)
.optional();
/// The private key of the app's certificate.
pub const PRIVATE_KEY_FIELD: Field = Field::secret(
    PRIVATE_KEY,
    "The private RSA key (PEM) of the certificate that the app has for digital signatures.",
    "-----BEGIN PRIVATE KEY-----\n…\n-----END PRIVATE KEY-----\n",
)
.checked(|value, _| RsaKey::from_pem(value).map(|_| ()))
.optional();

fn check_username(value: &str, _: &Checks<'_>) -> Result<(), String> {
    let good = (3..=255).contains(&value.len())
        && value.contains('@')
        && !value.contains(|c: char| c.is_whitespace() || c.is_control());
    if good {
        Ok(())
    } else {
        Err("must be a user's name such as integration@example.com".to_owned())
    }
}

/// The operator's own app at a vendor.
#[derive(Clone, Debug)]
pub struct App {
    /// Its id.
    pub client_id: String,
    /// Its secret.
    pub client_secret: SecretString,
}

/// What a connector makes its access tokens of. Its `Debug` shows no secret.
pub struct Credential {
    flow: Flow,
    /// Tells it from another one; no secret can be found out from it.
    identity: [u8; 32],
    /// Whether the operator chose where its requests go.
    trusted: bool,
    /// For the words when it is refused.
    owners: Owners,
    /// The token that is stored, where only the project's keeper asks for another.
    kept: Option<Kept>,
}

enum Flow {
    /// Its tokens are signed here; nothing is called.
    SelfSigned(ServiceAccount, &'static str),
    /// The same form each time, with the secret of an app.
    Form {
        url: Url,
        authorization: Option<HeaderValue>,
        form: Zeroizing<String>,
        secret: SecretString,
    },
    /// An assertion that is signed each time.
    Assertion { url: Url, key: RsaKey, issuer: String, subject: String, audience: String },
}

/// What is to be done for a token.
#[derive(Debug)]
pub enum Mint {
    /// It is there.
    Ready(Minted),
    /// It is asked for; [`Credential::read`] reads the answer.
    Ask {
        /// The request.
        request: Request,
        /// What the endpoint must not be quoted with, beside the connector's own secrets.
        secret: SecretString,
    },
}

impl Credential {
    /// A service account whose tokens are for this audience.
    pub fn service_account(
        settings: &Settings,
        audience: &'static str,
    ) -> Result<Option<Self>, SettingError> {
        let Some(text) = settings.optional(SERVICE_ACCOUNT_KEY) else { return given(settings) };
        let account = ServiceAccount::read(text)
            .map_err(|message| SettingError { field: SERVICE_ACCOUNT_KEY, message })?;
        let identity = identity(&["self-signed", audience, text]);
        let flow = Flow::SelfSigned(account, audience);
        let owners = own("reconnect: give another serviceAccountKey");
        Ok(Some(Self { flow, identity, trusted: false, owners, kept: None }))
    }

    /// Client credentials at a token endpoint, the client's secret in the header or in the form.
    pub fn client_credentials(
        settings: &Settings,
        endpoint: Endpoint<'_>,
        client: ClientIn,
    ) -> Result<Option<Self>, SettingError> {
        if !settings.has(CLIENT_SECRET) {
            return given(settings);
        }
        let app = settings.own_app()?;
        let form = [("grant_type", "client_credentials")];
        let owners = own("reconnect: check the app's rights, clientId and clientSecret");
        Self::form(settings, endpoint, client, app, &form, owners).map(Some)
    }

    /// A refresh token that stays the same, of the customer's app or the operator's.
    pub fn refresh_token(
        settings: &Settings,
        endpoint: Endpoint<'_>,
        client: ClientIn,
    ) -> Result<Option<Self>, SettingError> {
        let Some(token) = settings.optional(REFRESH_TOKEN) else { return given(settings) };
        let (app, is_app_lent) = settings.app()?;
        let form = [("grant_type", "refresh_token"), ("refresh_token", token)];
        let reconnect = "reconnect: connect the account again and give the new refreshToken";
        let owners = Owners { reconnect, is_app_lent };
        Self::form(settings, endpoint, client, app, &form, owners).map(Some)
    }

    /// A refresh token that changes with each use, of the customer's app or the operator's. The access
    /// token is the one that is stored; see [`rotation`](super::rotation).
    pub fn rotating(
        settings: &Settings,
        endpoint: Endpoint<'_>,
    ) -> Result<Option<Self>, SettingError> {
        let Some(first) = settings.optional(REFRESH_TOKEN) else { return given(settings) };
        let (app, is_app_lent) = settings.app()?;
        let token = settings.optional(ROTATED_REFRESH).unwrap_or(first);
        let form = [("grant_type", "refresh_token"), ("refresh_token", token)];
        let reconnect = "reconnect: connect the account again and give the new refreshToken";
        let owners = Owners { reconnect, is_app_lent };
        let credential = Self::form(settings, endpoint, ClientIn::Header, app, &form, owners)?;
        Ok(Some(Self { kept: Some(Kept::of(settings, first)?), ..credential }))
    }

    fn form(
        settings: &Settings,
        endpoint: Endpoint<'_>,
        client: ClientIn,
        app: App,
        pairs: &[(&str, &str)],
        owners: Owners,
    ) -> Result<Self, SettingError> {
        let (url, trusted) = settings.token_endpoint(endpoint)?;
        let secret = app.client_secret.expose_secret();
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(pairs);
        let mut authorization = None;
        match client {
            ClientIn::Form => {
                form.append_pair(CLIENT_ID_PARAMETER, &app.client_id);
                form.append_pair(CLIENT_SECRET_PARAMETER, secret);
            }
            ClientIn::Header => {
                let mut value =
                    HeaderValue::from_str(&basic(&app.client_id, secret)).map_err(|_| {
                        SettingError {
                            field: CLIENT_ID,
                            message: "cannot stand in a header".to_owned(),
                        }
                    })?;
                value.set_sensitive(true);
                authorization = Some(value);
            }
        }
        let form = Zeroizing::new(form.finish());
        let identity = identity(&["form", url.as_str(), &app.client_id, secret, &form]);
        let flow = Flow::Form { url, authorization, form, secret: app.client_secret };
        Ok(Self { flow, identity, trusted, owners, kept: None })
    }

    /// An assertion for a user, signed with the app's key (RFC 7523).
    pub fn assertion(
        settings: &Settings,
        endpoint: Endpoint<'_>,
        audience: &str,
    ) -> Result<Option<Self>, SettingError> {
        let Some(pem) = settings.optional(PRIVATE_KEY) else { return given(settings) };
        let key = RsaKey::from_pem(pem)
            .map_err(|message| SettingError { field: PRIVATE_KEY, message })?;
        let (url, trusted) = settings.token_endpoint(endpoint)?;
        let issuer = settings.text(CLIENT_ID)?.to_owned();
        let subject = settings.text("username")?.to_owned();
        let identity = identity(&["assertion", url.as_str(), &issuer, &subject, audience, pem]);
        let audience = audience.to_owned();
        let flow = Flow::Assertion { url, key, issuer, subject, audience };
        let owners = own(
            "reconnect: approve the app for the user, and check clientId, username and privateKey",
        );
        Ok(Some(Self { flow, identity, trusted, owners, kept: None }))
    }

    /// What is to be done for a token at this moment; `chance` blinds signatures, see [`RsaKey`].
    pub fn mint(&self, now: Timestamp, chance: &dyn SecureRandom) -> Result<Mint, Verdict> {
        let failed = |words: String| Verdict::broken(Reason::Unusable, words);
        match &self.flow {
            Flow::SelfSigned(account, audience) => {
                let issued = seconds_before(now, CLOCK_SLACK);
                let expires = issued + whole(SIGNED_LIFE);
                let header = json!({"alg": "RS256", "typ": "JWT", "kid": account.key_id});
                let claims = json!({"iss": account.email, "sub": account.email, "aud": audience,
                    "iat": issued, "exp": expires});
                let token = signed(&account.key, &header, &claims, chance).map_err(failed)?;
                Ok(Mint::Ready(Minted {
                    token,
                    life: SIGNED_LIFE.saturating_sub(CLOCK_SLACK),
                    refresh: None,
                }))
            }
            Flow::Form { url, authorization, form, secret } => {
                let mut request = form_request(url, form.as_bytes());
                if let Some(authorization) = authorization {
                    request = request.secret_header(AUTHORIZATION, authorization.clone());
                }
                Ok(Mint::Ask { request, secret: secret.clone() })
            }
            Flow::Assertion { url, key, issuer, subject, audience } => {
                let expires = now.millis().div_euclid(1000) + whole(ASSERTION_LIFE);
                let header = json!({"alg": "RS256", "typ": "JWT"});
                let claims =
                    json!({"iss": issuer, "sub": subject, "aud": audience, "exp": expires});
                let assertion = signed(key, &header, &claims, chance).map_err(failed)?;
                let grant = "urn:ietf:params:oauth:grant-type:jwt-bearer";
                let form = form_urlencoded::Serializer::new(String::new())
                    .append_pair("grant_type", grant)
                    .append_pair("assertion", assertion.expose_secret())
                    .finish();
                let request = form_request(url, form.as_bytes());
                Ok(Mint::Ask { request, secret: assertion })
            }
        }
    }

    /// Reads the endpoint's answer.
    pub fn read(&self, answer: &Response) -> Result<Minted, Verdict> {
        token_answer::read(answer, self.owners)
    }

    /// Whether a verdict on its token says that the operator's own app is refused.
    #[must_use]
    pub fn concerns_operator(&self, verdict: &Verdict) -> bool {
        let is_refused = matches!(verdict, Verdict::Retry { reason: Reason::Unauthorized, .. });
        self.owners.is_app_lent && is_refused
    }

    /// The stored token, where only the project's keeper asks for another.
    #[must_use]
    pub const fn kept(&self) -> Option<&Kept> {
        self.kept.as_ref()
    }

    /// Tells it from another one.
    #[must_use]
    pub fn identity(&self) -> [u8; 32] {
        self.identity
    }

    /// Whether the operator chose where its requests go, so that the rules for users' URLs do not
    /// apply.
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        self.trusted
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.flow {
            Flow::SelfSigned(..) => "Credential(self-signed)",
            Flow::Form { .. } => "Credential(form)",
            Flow::Assertion { .. } => "Credential(assertion)",
        })
    }
}

/// All of it is the connector's own.
const fn own(reconnect: &'static str) -> Owners {
    Owners { reconnect, is_app_lent: false }
}

const CLIENT_ID_PARAMETER: &str = "client_id";
const CLIENT_SECRET_PARAMETER: &str = "client_secret";

/// How a client authenticates.
#[derive(Clone, Copy, Debug)]
pub enum ClientIn {
    /// In the header `Authorization`.
    Header,
    /// In the form.
    Form,
}

/// A vendor's token endpoint.
#[derive(Clone, Copy, Debug)]
pub enum Endpoint<'a> {
    /// It is on the host of the API, so the operator's `base_url` replaces that of both.
    OfApi(&'a str),
    /// It has a host of its own.
    Apart(&'a str),
}

/// No credential: there must be a token then.
fn given(settings: &Settings) -> Result<Option<Credential>, SettingError> {
    settings.text(ACCESS_TOKEN).map(|_| None)
}

fn form_request(url: &Url, form: &[u8]) -> Request {
    let mut request = Request::get(url.clone());
    request.method = Method::POST;
    request.body = form.to_vec().into();
    request.fixed_header(CONTENT_TYPE, "application/x-www-form-urlencoded")
}

fn identity(parts: &[&str]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

fn whole(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

fn seconds_before(now: Timestamp, slack: Duration) -> i64 {
    now.millis().div_euclid(1000) - whole(slack)
}

/// A JSON web token (RFC 7519).
fn signed(
    key: &RsaKey,
    header: &Value,
    claims: &Value,
    chance: &dyn SecureRandom,
) -> Result<SecretString, String> {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(header), part(claims));
    let signature = key.sign(message.as_bytes(), chance)?;
    Ok(SecretString::from(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))))
}

/// What is used of the key file of a Google service account. Its `token_uri` is not: a customer
/// could have written it.
#[derive(Debug)]
struct ServiceAccount {
    email: String,
    key_id: String,
    key: RsaKey,
}

impl ServiceAccount {
    /// Reads a key file. The error never quotes it.
    fn read(text: &str) -> Result<Self, String> {
        let form = "must be the JSON of a service account's key file";
        let json: Value = serde_json::from_str(text).map_err(|_| form.to_owned())?;
        if json["type"] != "service_account" {
            return Err(format!("{form}: its type is not \"service_account\""));
        }
        let field = |name: &str| match json[name].as_str() {
            Some(text) if !text.is_empty() => Ok(text),
            _ => Err(format!("{form}: it has no {name}")),
        };
        let email = field("client_email")?;
        if !email.contains('@') {
            return Err(format!("{form}: its client_email is no address"));
        }
        let key = RsaKey::from_pem(field("private_key")?)
            .map_err(|error| format!("{form}: its private_key {error}"))?;
        Ok(Self { email: email.to_owned(), key_id: field("private_key_id")?.to_owned(), key })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use ring::{
        rand::SystemRandom,
        signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey},
    };

    use super::*;
    use crate::{
        destination::{ConnectorType, Setting},
        egress::EgressPolicy,
    };

    const KEY: &str = include_str!("../../tests/fixtures/keys/rsa-2048.pem");
    const PUBLIC: &[u8] = include_bytes!("../../tests/fixtures/keys/rsa-2048-public.der");
    const NOW: i64 = 1_795_000_000;

    fn key_file() -> Value {
        json!({"type": "service_account", "project_id": "p", "private_key_id": "kid-1",
            "private_key": KEY, "client_email": "me@p.iam.gserviceaccount.com",
            "token_uri": "https://evil.example/token"})
    }

    fn settings(values: &[(&'static str, &str)]) -> Settings {
        let mut settings = Settings::new(None);
        for (name, value) in values {
            settings.insert(name, Setting::Text((*value).into()));
        }
        settings
    }

    fn credential(kind: ConnectorType, settings: &Settings) -> Result<Credential, SettingError> {
        (kind.spec().credential)(settings).map(Option::unwrap)
    }

    fn mint(credential: &Credential) -> Mint {
        let now = Timestamp::from_millis(NOW * 1000 + 999);
        credential.mint(now, &SystemRandom::new()).unwrap()
    }

    /// The header and the claims of a token whose signature is right.
    fn verified(token: &str) -> (Value, Value) {
        let parts: Vec<&str> = token.split('.').collect();
        let [header, claims, signature] = parts[..] else { panic!("{token}") };
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
        let message = format!("{header}.{claims}");
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, PUBLIC)
            .verify(message.as_bytes(), &decode(signature))
            .unwrap();
        let read = |text: &str| serde_json::from_slice(&decode(text)).unwrap();
        (read(header), read(claims))
    }

    fn asked(credential: &Credential) -> (Request, HashMap<String, String>) {
        let Mint::Ask { request, .. } = mint(credential) else { panic!() };
        assert_eq!(request.method, Method::POST);
        let form = form_urlencoded::parse(&request.body).into_owned().collect();
        (request, form)
    }

    fn header(request: &Request, name: &str) -> Option<String> {
        let found = request.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_service_account_signs_its_own_tokens_and_calls_nothing() {
        let settings = settings(&[("serviceAccountKey", &key_file().to_string())]);
        let credential = credential(ConnectorType::Bigquery, &settings).unwrap();
        let Mint::Ready(minted) = mint(&credential) else { panic!() };
        let (header, claims) = verified(minted.token.expose_secret());
        assert_eq!(header, json!({"alg": "RS256", "typ": "JWT", "kid": "kid-1"}));
        let email = "me@p.iam.gserviceaccount.com";
        assert_eq!(
            claims,
            json!({"iss": email, "sub": email, "aud": "https://bigquery.googleapis.com/",
                "iat": NOW - 60, "exp": NOW - 60 + 3600})
        );
        assert_eq!(minted.life, Duration::from_secs(3540));
        let shown = format!("{credential:?} {minted:?} {settings:?}");
        assert!(!shown.contains("kid-1") && !shown.contains("eyJ"), "{shown}");
    }

    #[test]
    fn a_file_that_is_no_key_file_is_refused_in_words_that_do_not_quote_it() {
        let with = |name: &str, value: Value| {
            let mut file = key_file();
            file[name] = value;
            file.to_string()
        };
        let small = include_str!("../../tests/fixtures/keys/rsa-512.pem");
        let curve = include_str!("../../tests/fixtures/keys/ec-p256.pem");
        let egress = EgressPolicy::default();
        for (text, words) in [
            (String::new(), "key file"),
            ("canary".to_owned(), "key file"),
            ("[]".to_owned(), "its type"),
            (with("type", json!("authorized_user")), "its type"),
            (with("private_key", json!(null)), "no private_key"),
            (with("private_key", json!("canary")), "no private key in PEM"),
            (with("private_key", json!(small)), "too few bits"),
            (with("private_key", json!(curve)), "no RSA key"),
            (with("private_key_id", json!("")), "no private_key_id"),
            (with("client_email", json!(7)), "no client_email"),
            (with("client_email", json!("canary")), "no address"),
        ] {
            let checks = Checks { egress: &egress };
            let error = Settings::read(&SERVICE_ACCOUNT_FIELD, &json!(text), &checks);
            let error = error.map(|_| ()).unwrap_err();
            assert!(error.contains(words) && !error.contains("canary"), "{error}");
        }
        let checks = Checks { egress: &egress };
        let good = json!(key_file().to_string());
        assert!(Settings::read(&SERVICE_ACCOUNT_FIELD, &good, &checks).is_ok());
        for (pem, good) in [(KEY, true), (small, false), (curve, false), ("x", false)] {
            let read = Settings::read(&PRIVATE_KEY_FIELD, &json!(pem), &checks);
            assert_eq!(read.is_ok(), good);
        }
    }

    #[test]
    fn salesforce_has_two_flows_at_the_organisations_own_address() {
        let instance = ("instanceUrl", "https://example.my.salesforce.com/");
        let client = [instance, ("clientId", "id&1"), ("clientSecret", "se cret")];
        let (request, form) =
            asked(&credential(ConnectorType::Salesforce, &settings(&client)).unwrap());
        let url = "https://example.my.salesforce.com/services/oauth2/token";
        assert_eq!(request.url.as_str(), url);
        assert_eq!(header(&request, "content-type").unwrap(), "application/x-www-form-urlencoded");
        assert_eq!(header(&request, "authorization"), None);
        let expected = [
            ("grant_type", "client_credentials"),
            ("client_id", "id&1"),
            ("client_secret", "se cret"),
        ];
        assert_eq!(form, expected.map(|(a, b)| (a.to_owned(), b.to_owned())).into());

        let user =
            [instance, ("clientId", "id"), ("username", "u@example.com"), ("privateKey", KEY)];
        let credential = credential(ConnectorType::Salesforce, &settings(&user)).unwrap();
        let (request, form) = asked(&credential);
        assert_eq!(request.url.as_str(), url);
        assert_eq!(form["grant_type"], "urn:ietf:params:oauth:grant-type:jwt-bearer");
        let (_, claims) = verified(&form["assertion"]);
        assert_eq!(
            claims,
            json!({"iss": "id", "sub": "u@example.com",
                "aud": "https://example.my.salesforce.com", "exp": NOW + 180})
        );
        let Mint::Ask { secret, .. } = mint(&credential) else { panic!() };
        assert_eq!(secret.expose_secret(), form["assertion"]);
    }

    #[test]
    fn xero_and_hubspot_ask_as_their_documentation_says() {
        let client = [("clientId", "id"), ("clientSecret", "secret")];
        let (request, form) = asked(&credential(ConnectorType::Xero, &settings(&client)).unwrap());
        assert_eq!(request.url.as_str(), "https://identity.xero.com/connect/token");
        // "id:secret"
        assert_eq!(header(&request, "authorization").unwrap(), "Basic aWQ6c2VjcmV0");
        assert_eq!(form, [("grant_type".to_owned(), "client_credentials".to_owned())].into());

        let whole = [("clientId", "id"), ("clientSecret", "secret"), ("refreshToken", "r")];
        let (request, form) =
            asked(&credential(ConnectorType::Hubspot, &settings(&whole)).unwrap());
        assert_eq!(request.url.as_str(), "https://api.hubapi.com/oauth/v1/token");
        let expected = [
            ("grant_type", "refresh_token"),
            ("refresh_token", "r"),
            ("client_id", "id"),
            ("client_secret", "secret"),
        ];
        let expected = expected.map(|(a, b)| (a.to_owned(), b.to_owned())).into();
        assert_eq!(form, expected);

        // The operator's app, where the customer gives a refresh token alone.
        let alone = settings(&[("refreshToken", "r")]);
        let error = credential(ConnectorType::Hubspot, &alone).unwrap_err();
        assert!(error.message.contains("client_id and client_secret"), "{error}");
        let app = App { client_id: "id".to_owned(), client_secret: "secret".into() };
        let alone = alone.with_tokens(None, Some(app));
        assert_eq!(asked(&credential(ConnectorType::Hubspot, &alone).unwrap()).1, form);
        // Nothing is lent to half an app.
        let mut half = alone;
        half.insert("clientId", Setting::Text("mine".into()));
        assert!(credential(ConnectorType::Hubspot, &half).is_err());
    }

    #[test]
    fn an_operator_replaces_the_token_endpoint() {
        let url = |kind: ConnectorType, base: Option<&str>, token_url: Option<&str>| {
            let mut settings = Settings::new(base.map(|url| url.parse().unwrap()))
                .with_tokens(token_url.map(|url| url.parse().unwrap()), None);
            for (name, value) in [
                ("instanceUrl", "https://example.my.salesforce.com"),
                ("clientId", "id"),
                ("clientSecret", "secret"),
                ("refreshToken", "r"),
            ] {
                settings.insert(name, Setting::Text(value.into()));
            }
            let credential = credential(kind, &settings).unwrap();
            (asked(&credential).0.url.to_string(), credential.is_trusted())
        };
        let (host, whole) = ("http://127.0.0.1:9", "http://127.0.0.1:9/a?b=c");
        let xero = "https://identity.xero.com/connect/token".to_owned();
        assert_eq!(url(ConnectorType::Xero, None, None), (xero.clone(), false));
        // The API's host is another one.
        assert_eq!(url(ConnectorType::Xero, Some(host), None), (xero, false));
        assert_eq!(
            url(ConnectorType::Xero, None, Some(host)),
            (format!("{host}/connect/token"), true)
        );
        assert_eq!(url(ConnectorType::Xero, None, Some(whole)), (whole.to_owned(), true));
        let hubspot = format!("{host}/oauth/v1/token");
        assert_eq!(url(ConnectorType::Hubspot, Some(host), None), (hubspot, true));
        assert_eq!(
            url(ConnectorType::Salesforce, Some("http://a"), Some(whole)),
            (whole.to_owned(), true)
        );
    }

    #[test]
    fn another_secret_is_another_credential() {
        let of = |secret| {
            let settings = settings(&[("clientId", "id"), ("clientSecret", secret)]);
            credential(ConnectorType::Xero, &settings).unwrap().identity()
        };
        assert_eq!(of("a"), of("a"));
        assert_ne!(of("a"), of("b"));
        let token = settings(&[(ACCESS_TOKEN, "x")]);
        assert!((ConnectorType::Xero.spec().credential)(&token).unwrap().is_none());
        let nothing = settings(&[]);
        assert!((ConnectorType::Xero.spec().credential)(&nothing).is_err());
    }
}
