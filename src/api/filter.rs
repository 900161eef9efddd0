//! Tries a filter on an event, for an owner that writes one.

use axum::{
    Json,
    extract::{Path, State},
    http::HeaderMap,
};
use bytes::Bytes;
use serde_json::{Value, json};

use super::{
    connectors::{Body, Shares, find, object},
    error::Failure,
};
use crate::{
    connector::{FieldError, Problem, ProblemCode, did_you_mean},
    event::{self, Event, EventType, EventTypes},
    filter::{Facts, Filter},
    id::ProjectId,
    json,
};

const FIELDS: &[&str] = &["filter", "event", "eventType"];

/// `POST …/connectors/:id/filter/test`
pub async fn test(
    State(shared): Shares,
    Path((project, connector)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, Failure> {
    let found = find(&shared, &project, &connector)?;
    let body = object(&headers, body)?;
    let mut errors = Vec::new();
    for name in body.as_object().into_iter().flat_map(|body| body.keys()) {
        if !FIELDS.contains(&name.as_str()) {
            let hint = did_you_mean(name, FIELDS.iter().copied());
            errors.push(FieldError::new(json::name(name), format!("is no known field{hint}")));
        }
    }
    let filter = filter(&body, found.filter.as_deref(), &mut errors);
    let event = event(&body, &found.key.project, &mut errors);
    let (Some(filter), Some(event), true) = (filter, event, errors.is_empty()) else {
        return Err(Problem::with_fields(ProblemCode::ValidationFailed, errors).into());
    };
    Ok(Json(match filter.passes(&Facts::of(&event.json)) {
        Ok(passes) => json!({ "passes": passes }),
        // An event is never lost to a filter.
        Err(error) => json!({ "passes": true, "error": error.to_string() }),
    }))
}

/// The given filter, or the connector's own.
fn filter(body: &Value, own: Option<&str>, errors: &mut Vec<FieldError>) -> Option<Filter> {
    let text = match (body.get("filter"), own) {
        (Some(Value::String(text)), _) => Ok(text.as_str()),
        (Some(_), _) => Err("must be a string"),
        (None, Some(own)) => Ok(own),
        (None, None) => Err("is missing, and the connector has none"),
    };
    let compiled = text.map_err(str::to_owned);
    let compiled = compiled.and_then(|text| Filter::compile(text).map_err(|e| e.to_string()));
    compiled.map_err(|words| errors.push(FieldError::new("filter", words))).ok()
}

/// The given event, or a sample.
fn event(body: &Value, project: &ProjectId, errors: &mut Vec<FieldError>) -> Option<Event> {
    match (body.get("event"), body.get("eventType")) {
        (Some(event), None) => match Event::from_json(Bytes::from(event.to_string())) {
            Ok(event) => return Some(event),
            Err(error) => errors.extend(error.problems().0.iter().map(|problem| {
                let field = match problem.field.as_str() {
                    "" => "event".to_owned(),
                    field => format!("event.{field}"),
                };
                FieldError::new(field, problem.words.to_string())
            })),
        },
        (None, Some(kind)) => match EventTypes::parse(&[kind.as_str().unwrap_or_default()]) {
            Ok(kinds) if !kinds.named().is_empty() => {
                let sample = kinds.named().first().and_then(|kind| sample(*kind, project));
                return sample.or_else(|| {
                    tracing::error!("a sample event is refused; please report this bug");
                    errors.push(FieldError::new("eventType", "has no sample"));
                    None
                });
            }
            Ok(_) => errors.push(FieldError::new("eventType", "must name one type")),
            Err(words) => errors.push(FieldError::new("eventType", words.join("; "))),
        },
        (Some(_), Some(_)) => {
            errors.push(FieldError::new("eventType", "give this or event, not both"));
        }
        (None, None) => errors.push(FieldError::new("event", "is missing; give this or eventType")),
    }
    None
}

/// The documentation's example of a type, as if it had happened to this project.
fn sample(kind: EventType, project: &ProjectId) -> Option<Event> {
    let mut event: Value = serde_json::from_str(event::sample(kind)).ok()?;
    event["projectId"] = json!(project);
    Event::from_json(Bytes::from(event.to_string())).ok()
}
