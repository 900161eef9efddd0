//! Gives a connector a new secret to sign its requests with.

use std::{str::FromStr as _, time::Duration};

use axum::{
    Extension, Json,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    connectors::{Body, Shares, actor, find, judge, no_such, object, read_command},
    error::Failure,
    unavailable,
};
use crate::{
    connector::{ConfigValue, FieldError, Problem, ProblemCode},
    destination::{MAX_OVERLAP, PREVIOUS_UNTIL, SIGNING_SECRET},
    id::CommandId,
    json,
    secrets::new_signing_secret,
    tokens::Caller,
};

/// How long the secret before goes on to sign unless the caller says.
pub const DEFAULT_OVERLAP: Duration = Duration::from_secs(24 * 3600);

/// `POST …/connectors/:id/signing-secret`
pub async fn replace(
    State(shared): Shares,
    Extension(caller): Extension<Caller>,
    Path((project, connector)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    let found = find(&shared, &project, &connector)?;
    let overlap = asked_overlap(&headers, body)?;
    let secret = new_signing_secret();
    let mut config = serde_json::Map::new();
    config.insert(SIGNING_SECRET.to_owned(), secret.as_str().into());
    let state = shared.view.project(&found.key.project).map_err(unavailable)?;
    let asked = json!({
        "id": CommandId::from_uuid(Uuid::now_v7()),
        "type": "connector.update",
        "projectId": found.key.project,
        "connectorId": found.key.connector,
        "patch": { "config": config },
        "overlapSeconds": overlap.as_secs(),
        "actor": actor(&caller),
    });
    let mut command = read_command(&shared, &state, asked)?;
    judge(&shared, &state, &command)?;
    shared.view.keyring().seal_command(&mut command, found.kind);
    shared.commands.run(&command, &shared.view).await?;
    let made = shared.view.connector(&found.key).map_err(unavailable)?;
    let made = made.ok_or_else(|| no_such(&found.key.connector))?;
    let until = match made.config.get(PREVIOUS_UNTIL) {
        Some(ConfigValue::Plain(until)) => until.clone(),
        _ => Value::Null,
    };
    let answer = json!({ "signingSecret": secret.as_str(), "previousValidUntil": until });
    let no_store = HeaderValue::from_static("no-store");
    Ok(([(header::CACHE_CONTROL, no_store)], Json(answer)).into_response())
}

/// The overlap that a body asks for; there may be none.
fn asked_overlap(headers: &HeaderMap, body: Body) -> Result<Duration, Failure> {
    if body.as_ref().is_ok_and(Bytes::is_empty) {
        return Ok(DEFAULT_OVERLAP);
    }
    let body = object(headers, body)?;
    let (mut overlap, mut errors) = (DEFAULT_OVERLAP, Vec::new());
    for (name, value) in body.as_object().into_iter().flatten() {
        let read = match value.as_str() {
            _ if name != "overlap" => Err("unknown field; this request takes `overlap`".to_owned()),
            Some(text) => read_overlap(text),
            None => Err(overlap_form()),
        };
        match read {
            Ok(asked) => overlap = asked,
            Err(wrong) => errors.push(FieldError::new(json::name(name), wrong)),
        }
    }
    if errors.is_empty() {
        return Ok(overlap);
    }
    Err(Problem::with_fields(ProblemCode::ValidationFailed, errors).into())
}

fn overlap_form() -> String {
    "must be a duration from \"0s\" to \"7d\", such as \"24h\"".to_owned()
}

/// Reads an overlap: whole seconds, at most [`MAX_OVERLAP`].
pub fn read_overlap(text: &str) -> Result<Duration, String> {
    let asked = humantime::Duration::from_str(text).map_err(|_| overlap_form())?;
    let is_good = *asked <= MAX_OVERLAP && asked.subsec_nanos() == 0;
    if is_good { Ok(*asked) } else { Err(overlap_form()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlap_has_bounds() {
        for (text, seconds) in [("0s", 0), ("24h", 86_400), ("7d", 604_800), ("1h 30m", 5400)] {
            assert_eq!(read_overlap(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "24", "-1s", "7d 1s", "8d", "1500ms", "forever", "1e9s"] {
            assert!(read_overlap(bad).unwrap_err().contains("\"24h\""), "{bad}");
        }
    }
}
