//! The token endpoints of Salesforce, Xero, `QuickBooks` and `HubSpot`, and the tokens that Google's service
//! accounts sign themselves: strict about form, client, signature, audience and expiry.

use std::time::{Duration, Instant};

use base64::{Engine as _, engine::general_purpose};
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use serde_json::{Value, json};

use super::{Answer, Call, Memory};

/// The key that the tests sign with.
const PUBLIC_KEY: &[u8] = include_bytes!("../../fixtures/keys/rsa-2048-public.der");
/// The app that the services know.
pub const CLIENT_ID: &str = "client-4f1c2a";
pub const CLIENT_SECRET: &str = "client-secret-9b7e3d5a";
/// The user who approved it, the connection's refresh token, the service account.
pub const USERNAME: &str = "integration@example.com";
pub const REFRESH_TOKEN: &str = "refresh-token-c41e8a90";
pub const SERVICE_ACCOUNT: &str = "dunmore@my-project-123456.iam.gserviceaccount.com";
pub const KEY_ID: &str = "kid-77aa";

/// What tokens begin with that were made here; others are the fixed ones of other tests.
const MINTED: &str = "minted-";

/// Whether a request has an access token that is good now.
pub fn has_bearer(call: &Call, memory: &Memory) -> bool {
    let Some(token) = call.header("authorization").strip_prefix("Bearer ") else { return false };
    if token.starts_with(MINTED) {
        return memory.tokens.get(token).is_some_and(|until| Instant::now() < *until);
    }
    token.len() >= 10
}

/// The same at Google, which also takes what a service account signed for this API.
pub fn has_google_bearer(call: &Call, memory: &Memory) -> bool {
    let token = call.header("authorization").strip_prefix("Bearer ").unwrap_or_default();
    if token.starts_with("eyJ") && !memory.revoked.contains(token) {
        return signed_by_account(token);
    }
    !token.starts_with("eyJ") && has_bearer(call, memory)
}

fn signed_by_account(token: &str) -> bool {
    let Some((header, claims)) = verified(token) else { return false };
    let now = jiff::Timestamp::now().as_second();
    let (issued, expires) = (claims["iat"].as_i64(), claims["exp"].as_i64());
    let (Some(issued), Some(expires)) = (issued, expires) else { return false };
    header == json!({"alg": "RS256", "typ": "JWT", "kid": KEY_ID})
        && claims["iss"] == SERVICE_ACCOUNT
        && claims["sub"] == SERVICE_ACCOUNT
        && claims["aud"] == "https://bigquery.googleapis.com/"
        && issued <= now
        && now < expires
        && expires - issued <= 3600
}

/// The header and claims of a JWT whose signature is right.
fn verified(token: &str) -> Option<(Value, Value)> {
    let decode = |part: &str| general_purpose::URL_SAFE_NO_PAD.decode(part).ok();
    let (message, signature) = token.rsplit_once('.')?;
    let (header, claims) = message.split_once('.')?;
    UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, PUBLIC_KEY)
        .verify(message.as_bytes(), &decode(signature)?)
        .ok()?;
    let read = |part| serde_json::from_slice(&decode(part)?).ok();
    Some((read(header)?, read(claims)?))
}

/// A token endpoint's answer, when the request is for one.
pub fn endpoint(kind: &str, call: &Call, memory: &mut Memory) -> Option<Answer> {
    let path = match kind {
        "salesforce" => "/services/oauth2/token",
        "xero" => "/connect/token",
        "quickbooks" => "/oauth2/v1/tokens/bearer",
        "hubspot" => "/oauth/v1/token",
        _ => return None,
    };
    if call.path != path {
        return None;
    }
    if let Some(answer) = memory.token_answers.pop_front() {
        return Some(answer.setup());
    }
    Some(grant(kind, call, memory).setup())
}

fn error(status: u16, code: &str) -> Answer {
    let words = format!("{code} it is");
    Answer::new(status, json!({"error": code, "error_description": words}))
        .header("content-type", "application/json")
}

fn grant(kind: &str, call: &Call, memory: &mut Memory) -> Answer {
    let is_form = call.header("content-type") == "application/x-www-form-urlencoded";
    if call.method != "POST" || !is_form || !call.query.is_empty() {
        return error(400, "invalid_request");
    }
    let mut form: Vec<(String, String)> =
        url::form_urlencoded::parse(&call.body).into_owned().collect();
    form.sort();
    let form: Vec<(&str, &str)> = form.iter().map(|(a, b)| (&**a, &**b)).collect();
    let basic = format!("{CLIENT_ID}:{CLIENT_SECRET}");
    let basic = format!("Basic {}", general_purpose::STANDARD.encode(basic));
    let (client, secret) = (("client_id", CLIENT_ID), ("client_secret", CLIENT_SECRET));
    let credentials = ("grant_type", "client_credentials");
    let mut refresh = None;
    let good = match (kind, form.as_slice()) {
        ("xero" | "quickbooks", _) if call.header("authorization") != basic => {
            return error(401, "invalid_client");
        }
        ("xero", form) if form == [credentials] => true,
        ("xero" | "quickbooks", [("grant_type", "refresh_token"), ("refresh_token", token)]) => {
            let Some(next) = rotated(kind, token, memory) else {
                return error(400, "invalid_grant");
            };
            refresh = Some(next);
            true
        }
        ("xero" | "quickbooks", _) => return error(400, "unsupported_grant_type"),
        ("salesforce", form) if form == [client, secret, credentials] => true,
        ("salesforce", [("assertion", assertion), ("grant_type", grant)]) => {
            *grant == "urn:ietf:params:oauth:grant-type:jwt-bearer" && approved(assertion)
        }
        ("hubspot", form) => {
            let refresh = [("grant_type", "refresh_token"), ("refresh_token", REFRESH_TOKEN)];
            if !form.starts_with(&[client, secret]) {
                return error(400, "invalid_client");
            }
            form.get(2..) == Some(&refresh[..])
        }
        _ => return error(400, "invalid_client"),
    };
    if !good {
        return error(400, "invalid_grant");
    }
    let token = format!("{MINTED}{kind}-{:08x}", memory.requests.len() + 0x5eed_0000);
    memory.tokens.insert(token.clone(), Instant::now() + memory.token_life + memory.token_grace);
    let mut answer = json!({"access_token": token, "token_type": "Bearer"});
    if kind != "salesforce" {
        answer["expires_in"] = memory.token_life.as_secs().into();
    }
    if let Some(refresh) = refresh {
        answer["refresh_token"] = refresh.into();
    }
    Answer::new(200, answer)
}

/// A refresh token that is good for one use.
pub struct Refresh {
    token: String,
    /// When it was used first.
    used: Option<Instant>,
}

impl Refresh {
    pub fn new(token: &str) -> Self {
        Self { token: token.to_owned(), used: None }
    }
}

/// Uses a refresh token; returns the next one. The newest is good, and for a while the one before it,
/// when the next one was not used; all others are good no more.
fn rotated(kind: &str, token: &str, memory: &mut Memory) -> Option<String> {
    if memory.refresh.is_empty() {
        memory.refresh.push(Refresh::new(REFRESH_TOKEN));
    }
    let grace = memory.refresh_grace;
    let place = memory.refresh.iter().position(|known| known.token == token)?;
    let last = memory.refresh.len() - 1;
    match memory.refresh[place].used {
        None if place == last => {}
        Some(used) if place + 1 == last && used.elapsed() < grace => {
            // The answer was lost, and what it said is good no more.
            memory.refresh.pop();
        }
        _ => return None,
    }
    memory.refresh[place].used.get_or_insert_with(Instant::now);
    memory.refreshed += 1;
    let next = format!("refresh-{kind}-{:06x}", memory.refreshed + 0x0a_b000);
    memory.refresh.push(Refresh::new(&next));
    Some(next)
}

/// Whether Salesforce takes an assertion: of the app, for a user who approved it, for this place.
fn approved(assertion: &str) -> bool {
    let Some((_, claims)) = verified(assertion) else { return false };
    let left = claims["exp"].as_i64().unwrap_or_default() - jiff::Timestamp::now().as_second();
    claims["iss"] == CLIENT_ID
        && claims["sub"] == USERNAME
        && claims["aud"] == "https://example.my.salesforce.com"
        && (1..=180).contains(&left)
}

/// How long Xero takes a used refresh token again.
pub const USUAL_GRACE: Duration = Duration::from_secs(1800);
/// How long tokens live unless a test says.
pub const USUAL_LIFE: Duration = Duration::from_secs(1800);
