//! Tries a filter on an event, or on those of the last days, for an owner that writes one.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    http::HeaderMap,
};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::{
    connectors::{Body, Shares, find, object},
    error::Failure,
    unavailable,
};
use crate::{
    connector::{Connector, FieldError, Problem, ProblemCode, did_you_mean},
    event::{self, Event, EventType, EventTypes},
    filter::{Facts, Filter, to_json},
    id::ProjectId,
    json,
    operations::{FilterTrial, MAX_FILTER_DAYS},
    telemetry,
};

const FIELDS: &[&str] = &["filter", "event", "eventType", "days"];
/// Requests that may compile and ask filters at once; the rest wait. It costs nothing but CPU.
const MAX_AT_ONCE: usize = 2;
/// Requests that may ask about the events of days at once: each reads for seconds, and those who look
/// for deliveries read the logs too.
const MAX_OVER_DAYS: usize = 2;

/// Filters that are compiled and asked beside the threads that answer requests: a slow one must not
/// keep others waiting.
pub struct Evaluations {
    permits: Arc<Semaphore>,
    over_days: Arc<Semaphore>,
}

impl Evaluations {
    /// None is under way.
    pub fn new() -> Self {
        let of = |permits| Arc::new(Semaphore::new(permits));
        Self { permits: of(MAX_AT_ONCE), over_days: of(MAX_OVER_DAYS) }
    }

    /// Runs what compiles or asks a filter.
    pub async fn run<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(unavailable)?;
        // It goes on when its request is gone, so the permit goes with it.
        let run = move || {
            let _permit = permit;
            call()
        };
        tokio::task::spawn_blocking(run).await.map_err(|error| {
            tracing::error!(error = telemetry::early_end(&error), "a filter was not asked");
            Problem::new(ProblemCode::Internal, "The filter cannot be asked.").into()
        })
    }
}

/// `POST …/connectors/:id/filter/test`
pub async fn test(
    State(shared): Shares,
    Path((project, connector)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, Failure> {
    let found = find(&shared, &project, &connector)?;
    let body = object(&headers, body)?;
    match shared.filters.run(move || ask(&body, &found)).await? {
        Ok(Asked::Verdict(verdict)) => Ok(Json(verdict)),
        Ok(Asked::Days(trial)) => {
            let days = Arc::clone(&shared.filters.over_days);
            let permit = days.acquire_owned().await.map_err(unavailable)?;
            let tried = shared.logs.read(move |operations, _| {
                let _permit = permit;
                operations.try_filter(&trial)
            });
            Ok(Json(tried.await?.to_json()))
        }
        Err(errors) => Err(Problem::with_fields(ProblemCode::ValidationFailed, errors).into()),
    }
}

/// What a request is about.
enum Asked {
    /// One event, and this is the answer.
    Verdict(Value),
    /// Those of some days.
    Days(FilterTrial),
}

fn ask(body: &Value, found: &Connector) -> Result<Asked, Vec<FieldError>> {
    let mut errors = Vec::new();
    for name in body.as_object().into_iter().flat_map(|body| body.keys()) {
        if !FIELDS.contains(&name.as_str()) {
            let hint = did_you_mean(name, FIELDS.iter().copied());
            errors.push(FieldError::new(json::name(name), format!("is no known field{hint}")));
        }
    }
    let filter = filter(body, found.filter.as_deref(), &mut errors);
    if body.get("days").is_some() {
        let days = days(body, &mut errors);
        return match (filter, days) {
            (Some(filter), Some(days)) if errors.is_empty() => Ok(Asked::Days(FilterTrial {
                filter,
                project: found.key.project.clone(),
                event_types: found.event_types.clone(),
                days,
            })),
            _ => Err(errors),
        };
    }
    let event = event(body, &found.key.project, &mut errors);
    match (filter, event) {
        (Some(filter), Some(event)) if errors.is_empty() => {
            Ok(Asked::Verdict(to_json(&filter.passes(&Facts::of(&event.json)))))
        }
        _ => Err(errors),
    }
}

/// How many days are given.
fn days(body: &Value, errors: &mut Vec<FieldError>) -> Option<u32> {
    for other in ["event", "eventType"] {
        if body.get(other).is_some() {
            errors.push(FieldError::new(other, "give this or days, not both"));
        }
    }
    let days = body.get("days").and_then(Value::as_u64).and_then(|days| u32::try_from(days).ok());
    let days = days.filter(|days| (1..=MAX_FILTER_DAYS).contains(days));
    if days.is_none() {
        let words = format!("must be a whole number from 1 to {MAX_FILTER_DAYS}");
        errors.push(FieldError::new("days", words));
    }
    days
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
        (None, None) => {
            errors.push(FieldError::new("event", "is missing; give this, eventType or days"));
        }
    }
    None
}

/// The documentation's example of a type, as if it had happened to this project.
fn sample(kind: EventType, project: &ProjectId) -> Option<Event> {
    let mut event: Value = serde_json::from_str(event::sample(kind)).ok()?;
    event["projectId"] = json!(project);
    Event::from_json(Bytes::from(event.to_string())).ok()
}
