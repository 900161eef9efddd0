//! What every request passes: its id, its time limit, the figures, and who may come in.

use std::{
    num::NonZeroU32,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::{MatchedPath, RawPathParams, Request, State},
    http::{HeaderName, HeaderValue, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use governor::{
    Quota, RateLimiter, clock::Clock, clock::DefaultClock, state::keyed::HashMapStateStore,
};
use uuid::Uuid;

use super::{REQUEST_TIMEOUT, Shared, error::Failure};
use crate::{
    connector::{Problem, ProblemCode},
    id::CommandId,
    tokens::Caller,
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Callers whose rates are remembered; beyond that, those that have been idle are forgotten.
const MAX_CALLERS: usize = 10_000;

/// How often each caller may call.
pub struct Limits {
    limiter: Option<RateLimiter<Arc<str>, HashMapStateStore<Arc<str>>, DefaultClock>>,
}

impl Limits {
    /// So many requests per second, and twice as many at once after a pause.
    pub fn new(per_second: u32) -> Self {
        let limiter = NonZeroU32::new(per_second).map(|rate| {
            let burst = rate.saturating_add(rate.get());
            RateLimiter::hashmap(Quota::per_second(rate).allow_burst(burst))
        });
        Self { limiter }
    }

    /// Counts a request; an error is how long to wait.
    fn check(&self, caller: &Caller) -> Result<(), Duration> {
        let Some(limiter) = &self.limiter else { return Ok(()) };
        if limiter.len() > MAX_CALLERS {
            limiter.retain_recent();
        }
        limiter
            .check_key(&caller.name)
            .map_err(|until| until.wait_time_from(DefaultClock::default().now()))
    }
}

/// Lets a request in whose token is for the project of its path.
pub async fn admit(
    State(shared): State<Arc<Shared>>,
    params: RawPathParams,
    mut request: Request,
    next: Next,
) -> Response {
    let project = params.iter().find(|(name, _)| *name == "projectId").map(|(_, value)| value);
    match check(&shared, &request, project.unwrap_or_default()) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(failure) => failure.into_response(),
    }
}

fn check(shared: &Shared, request: &Request, project: &str) -> Result<Caller, Failure> {
    let missing = "Send the header Authorization: Bearer and a token.";
    let value = request.headers().get(header::AUTHORIZATION);
    let value = value.ok_or_else(|| Failure::unauthorized(missing))?;
    let token = value.to_str().ok().and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    let token = token.ok_or_else(|| Failure::unauthorized(missing))?;
    let caller = shared
        .tokens
        .caller(token)
        .ok_or_else(|| Failure::unauthorized("The token is not known, or no longer valid."))?;
    shared.limits.check(&caller).map_err(|wait| {
        let detail = "This token has called too often. Wait as long as Retry-After says.";
        Failure::from(Problem::new(ProblemCode::RateLimited, detail))
            .with(header::RETRY_AFTER, wait.as_secs().saturating_add(1))
    })?;
    if caller.grant.covers(project) {
        Ok(caller)
    } else {
        // The same words whether the project exists or not.
        let detail = "The token is not for this project.";
        Err(Problem::new(ProblemCode::Forbidden, detail).into())
    }
}

/// The outermost: gives a request its id, ends it in time, counts it, and survives its panics.
pub async fn watch(
    State(shared): State<Arc<Shared>>,
    mut request: Request,
    next: Next,
) -> Response {
    let began = Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let route = route.unwrap_or_else(|| "none".to_owned());
    let id = request_id(&request);
    request.headers_mut().insert(REQUEST_ID, id.clone());
    let answered = AssertUnwindSafe(tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)));
    let mut response = match answered.catch_unwind().await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => {
            let detail = "The request took too long. What it asked for may still happen.";
            Failure::from(Problem::new(ProblemCode::Timeout, detail)).into_response()
        }
        Err(_) => {
            let detail = "This is a bug. Please report it with the request's X-Request-Id.";
            Failure::from(Problem::new(ProblemCode::Internal, detail)).into_response()
        }
    };
    let (status, duration) = (response.status().as_u16(), began.elapsed());
    shared.metrics.http(method.as_str(), &route, status, duration);
    let shown = id.to_str().unwrap_or_default();
    if status >= 500 {
        tracing::warn!(request = shown, %method, route, status, ?duration, "request failed");
    } else {
        tracing::debug!(request = shown, %method, route, status, ?duration, "request");
    }
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// The caller's own id when it is one, else a new one.
fn request_id(request: &Request) -> HeaderValue {
    let given = request.headers().get(REQUEST_ID);
    let is_id = |value: &&HeaderValue| value.to_str().is_ok_and(|t| CommandId::parse(t).is_ok());
    given.filter(is_id).cloned().unwrap_or_else(|| {
        HeaderValue::from_str(&Uuid::now_v7().to_string())
            .unwrap_or_else(|_| HeaderValue::from_static("none"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::Grant;

    #[test]
    fn one_callers_haste_is_not_held_against_another() {
        let caller = |name: &str| Caller { name: name.into(), grant: Arc::new(Grant::All) };
        let limits = Limits::new(5);
        let let_in = (0..50).filter(|_| limits.check(&caller("a")).is_ok()).count();
        assert!((10..=11).contains(&let_in), "{let_in}");
        let wait = limits.check(&caller("a")).unwrap_err();
        assert!(wait > Duration::ZERO && wait <= Duration::from_secs(1), "{wait:?}");
        assert_eq!(limits.check(&caller("b")), Ok(()));
        let unlimited = Limits::new(0);
        assert!((0..10_000).all(|_| unlimited.check(&caller("a")).is_ok()));
    }
}
