//! What a token endpoint's answer means (RFC 6749, section 5).
//!
//! The words never quote the body of an answer that may hold a token: only `error` and
//! `error_description` are repeated.

use std::time::Duration;

use secrecy::SecretString;
use serde_json::Value;

use super::{Response, cut, json_seconds, seconds};
use crate::delivery::{Reason, Verdict};

/// The longest token that is taken, in bytes.
pub const MAX_TOKEN_BYTES: usize = 8192;
/// How long a token is taken to live when nothing is said.
const USUAL_LIFE: Duration = Duration::from_secs(3600);
/// How long when what is said makes no sense; so often it is asked for anew.
const SHORT_LIFE: Duration = Duration::from_secs(60);
/// The longest life that is believed.
const MAX_LIFE: Duration = Duration::from_secs(24 * 3600);
/// The longest description of an error that is repeated, in characters.
const MAX_WORDS: usize = 200;

/// A token, and for how long it serves.
#[derive(Debug)]
pub struct Minted {
    /// The token, fit to stand in a header.
    pub token: SecretString,
    /// From when it was asked for.
    pub life: Duration,
    /// The refresh token that takes the place of the one that was used, if one came.
    pub refresh: Option<SecretString>,
}

/// Whose a credential is, for the words when it is refused.
#[derive(Clone, Copy, Debug)]
pub struct Owners {
    /// What the connector's owner must do.
    pub reconnect: &'static str,
    /// Whether the app is the operator's, lent to the connector: its owner can do nothing when the
    /// app is refused, and it is refused for every connector that has it.
    pub is_app_lent: bool,
}

/// Reads an answer.
pub fn read(response: &Response, owners: Owners) -> Result<Minted, Verdict> {
    if response.is_incomplete {
        return Err(Verdict::retry(Reason::ConnectionLost, Reason::ConnectionLost.help()));
    }
    let json = response.json();
    // HubSpot's own form of an error has the code in `status`.
    let code = [&json["error"], &json["status"]].into_iter().find_map(Value::as_str);
    match response.status {
        200..=299 if !json["error"].is_null() => Err(refused(response, &json, code, owners)),
        200..=299 => token(&json).map_err(|words| {
            let detail = format!("the token endpoint answered {words} (HTTP {})", response.status);
            Verdict::retry(Reason::UnexpectedResponse, detail)
        }),
        300..=399 => {
            let detail = format!("the token endpoint redirects (HTTP {})", response.status);
            Err(Verdict::doubtful(Reason::Redirected, detail, response.retry_after()))
        }
        429 => Err(later(Reason::RateLimited, response)),
        408 | 425 | 500.. => Err(later(Reason::ServerError, response)),
        _ => Err(refused(response, &json, code, owners)),
    }
}

fn later(reason: Reason, response: &Response) -> Verdict {
    let detail = format!("the token endpoint cannot answer now (HTTP {})", response.status);
    Verdict::retry_after(reason, detail, response.retry_after())
}

fn refused(response: &Response, json: &Value, code: Option<&str>, owners: Owners) -> Verdict {
    let Owners { reconnect, is_app_lent } = owners;
    let description = [&json["error_description"], &json["message"]];
    let description = description.into_iter().find_map(Value::as_str).unwrap_or_default();
    let code = code.map(|code| cut(code, MAX_WORDS)).unwrap_or_default();
    let mut said = format!("HTTP {}", response.status);
    for words in [&*code, description] {
        if !words.is_empty() {
            said.push_str(&format!(": {}", cut(words, MAX_WORDS)));
        }
    }
    let wrong = |advice: &str| {
        let detail = format!("the token endpoint refused the credential ({said}): {advice}");
        Verdict::broken(Reason::Unauthorized, detail)
    };
    let wrong_app = || {
        if is_app_lent {
            let detail = format!(
                "the token endpoint refused the operator's own app ({said}): it is tried again \
                 until the operator has mended that, and the account need not be connected again"
            );
            return Verdict::retry_after(Reason::Unauthorized, detail, response.retry_after());
        }
        wrong("reconnect: the app's clientId and clientSecret are wrong, or it may not do this")
    };
    match code.as_str() {
        "invalid_grant" | "BAD_REFRESH_TOKEN" | "BAD_AUTH_CODE" => wrong(reconnect),
        "invalid_client"
        | "invalid_client_id"
        | "unauthorized_client"
        | "BAD_CLIENT_ID"
        | "BAD_CLIENT_SECRET" => wrong_app(),
        "invalid_scope"
        | "unsupported_grant_type"
        | "inactive_user"
        | "inactive_org"
        | "invalid_app_access"
        | "access_denied" => wrong(reconnect),
        "temporarily_unavailable" | "server_error" => later(Reason::ServerError, response),
        "slow_down" => later(Reason::RateLimited, response),
        _ if response.is_success() => {
            let detail = format!("the token endpoint answered an error ({said})");
            Verdict::retry(Reason::UnexpectedResponse, detail)
        }
        // By RFC 6749 a 401 is the app's.
        _ if is_app_lent && response.status == 401 => wrong_app(),
        // Something in front of the service may have said it.
        _ => {
            let detail = format!(
                "the token endpoint refused the request ({said}); if it stays so, {reconnect}"
            );
            Verdict::doubtful(Reason::Unauthorized, detail, response.retry_after())
        }
    }
}

fn token(json: &Value) -> Result<Minted, &'static str> {
    if !json.is_object() {
        return Err("without a JSON object");
    }
    let token = json["access_token"].as_str().unwrap_or_default();
    if token.is_empty() {
        return Err("without a token");
    }
    if token.len() > MAX_TOKEN_BYTES {
        return Err("with a token that is too long");
    }
    if !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("with a token that cannot stand in a header");
    }
    let kind = json["token_type"].as_str().unwrap_or("Bearer");
    if !kind.eq_ignore_ascii_case("bearer") {
        return Err("with a token that is no bearer token");
    }
    let refresh = json["refresh_token"].as_str().filter(|refresh| !refresh.is_empty());
    if refresh.is_some_and(|refresh| refresh.len() > MAX_TOKEN_BYTES) {
        return Err("with a refresh token that is too long");
    }
    let refresh = refresh.map(SecretString::from);
    Ok(Minted { token: token.into(), life: life(&json["expires_in"]), refresh })
}

/// Some say the seconds as a text.
fn life(value: &Value) -> Duration {
    if value.is_null() {
        return USUAL_LIFE;
    }
    let said = json_seconds(value).or_else(|| value.as_str().and_then(seconds));
    // A number that no duration can hold is a long life; a negative one is none.
    let is_huge = value.as_f64().is_some_and(|seconds| seconds > MAX_LIFE.as_secs_f64());
    match said {
        Some(life) if !life.is_zero() => life.min(MAX_LIFE),
        None if is_huge => MAX_LIFE,
        _ => SHORT_LIFE,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderMap;
    use proptest::prelude::*;
    use secrecy::ExposeSecret;
    use serde_json::json;

    use super::*;
    use crate::{clock::Timestamp, delivery::Certainty};

    fn answer(status: u16, body: impl Into<Bytes>) -> Response {
        let received_at = Timestamp::from_millis(0);
        let headers = HeaderMap::new();
        Response { status, headers, body: body.into(), received_at, is_incomplete: false }
    }

    fn verdict(status: u16, body: impl Into<Bytes>) -> Verdict {
        read(&answer(status, body), OWN).unwrap_err()
    }

    const OWN: Owners =
        Owners { reconnect: "reconnect: give a new refreshToken", is_app_lent: false };

    #[test]
    fn a_life_is_what_is_said_within_reason() {
        for (said, seconds) in [
            (json!(1800), 1800),
            (json!("1800"), 1800),
            (json!(20), 20),
            (json!(315_360_000), 86_400),
            (json!(1e300), 86_400),
            (Value::Null, 3600),
            (json!(0), 60),
            (json!(-5), 60),
            (json!("soon"), 60),
            (json!("NaN"), 60),
            (json!({}), 60),
        ] {
            let body =
                json!({"access_token": "canary", "token_type": "bearer", "expires_in": said});
            let minted = read(&answer(200, body.to_string()), OWN).unwrap();
            assert_eq!(minted.life, Duration::from_secs(seconds), "{said}");
            assert_eq!(minted.token.expose_secret(), "canary");
            assert!(!format!("{minted:?}").contains("canary"));
        }
    }

    #[test]
    fn an_answer_without_a_usable_token_is_tried_again_and_not_quoted() {
        for body in [
            String::new(),
            "<html>canary</html>".to_owned(),
            "[\"canary\"]".to_owned(),
            json!({"access_token": ""}).to_string(),
            json!({"access_token": 7, "canary": "canary"}).to_string(),
            json!({"access_token": "canary\r\nx: y"}).to_string(),
            json!({"access_token": "canary".repeat(20_000)}).to_string(),
            json!({"access_token": "canary", "token_type": "mac"}).to_string(),
            // Cut where answers are cut.
            format!("{{\"access_token\":\"{}", "canary".repeat(10_000)),
        ] {
            match verdict(200, body.clone()) {
                Verdict::Retry { reason: Reason::UnexpectedResponse, detail, .. } => {
                    assert!(!detail.contains("canary"), "{detail}");
                }
                other => panic!("{body:.60}: {other:?}"),
            }
        }
        let mut cut = answer(200, json!({"access_token": "canary"}).to_string());
        cut.is_incomplete = true;
        let lost = read(&cut, OWN).unwrap_err();
        assert!(matches!(lost, Verdict::Retry { reason: Reason::ConnectionLost, .. }));
    }

    #[test]
    fn a_refused_credential_suspends_and_a_busy_endpoint_does_not() {
        let grant = json!({"error": "invalid_grant", "error_description": "token revoked"});
        for status in [200, 400, 401] {
            match verdict(status, grant.to_string()) {
                Verdict::Broken { reason, detail, certainty: Certainty::Certain } => {
                    assert_eq!(reason, Reason::Unauthorized);
                    assert!(detail.contains("token revoked"), "{detail}");
                    assert!(detail.ends_with("reconnect: give a new refreshToken"), "{detail}");
                }
                other => panic!("{status}: {other:?}"),
            }
        }
        for (status, body) in [
            (401, json!({"error": "invalid_client"})),
            (400, json!({"error": "invalid_client_id"})),
            (400, json!({"status": "BAD_REFRESH_TOKEN", "message": "missing or invalid"})),
            (403, json!({"error": "unauthorized_client"})),
        ] {
            match verdict(status, body.to_string()) {
                Verdict::Broken { detail, certainty: Certainty::Certain, .. } => {
                    assert!(detail.contains("reconnect"), "{detail}");
                }
                other => panic!("{body}: {other:?}"),
            }
        }
        for status in [400, 401, 403, 404] {
            let certainty = Certainty::Doubtful(None);
            match verdict(status, "<html>") {
                Verdict::Broken { certainty: told, .. } if told == certainty => {}
                other => panic!("{status}: {other:?}"),
            }
        }
        for (status, reason) in
            [(429, Reason::RateLimited), (500, Reason::ServerError), (503, Reason::ServerError)]
        {
            // Whatever else it says.
            let Verdict::Retry { reason: told, .. } = verdict(status, grant.to_string()) else {
                panic!("{status}")
            };
            assert_eq!(told, reason);
        }
    }

    #[test]
    fn a_refusal_of_the_operators_app_suspends_nobody() {
        let lent = Owners { is_app_lent: true, ..OWN };
        let verdict = |status, body: &Value| read(&answer(status, body.to_string()), lent);
        for (status, body) in [
            (401, json!({"error": "invalid_client"})),
            (400, json!({"error": "invalid_client_id"})),
            (200, json!({"error": "invalid_client"})),
            (403, json!({"error": "unauthorized_client"})),
            (400, json!({"status": "BAD_CLIENT_ID", "message": "missing or unknown client id"})),
            (400, json!({"status": "BAD_CLIENT_SECRET"})),
            (401, json!({})),
        ] {
            match verdict(status, &body).unwrap_err() {
                Verdict::Retry { reason: Reason::Unauthorized, detail, .. } => {
                    assert!(detail.contains("the operator") && !detail.contains("reconnect"));
                }
                other => panic!("{body}: {other:?}"),
            }
        }
        // What is the connector's own suspends it as ever.
        for body in [json!({"error": "invalid_grant"}), json!({"status": "BAD_REFRESH_TOKEN"})] {
            match verdict(400, &body).unwrap_err() {
                Verdict::Broken { certainty: Certainty::Certain, detail, .. } => {
                    assert!(detail.contains("reconnect"), "{detail}");
                }
                other => panic!("{body}: {other:?}"),
            }
        }
        let doubtful = verdict(403, &json!({})).unwrap_err();
        assert!(matches!(doubtful, Verdict::Broken { certainty: Certainty::Doubtful(_), .. }));
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(status in 100..600_u16, body in any::<Vec<u8>>()) {
            for is_app_lent in [false, true] {
                let _ = read(&answer(status, body.clone()), Owners { is_app_lent, ..OWN });
            }
        }
    }
}
