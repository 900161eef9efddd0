//! What every request passes: its id, its time limit, the figures, and who may come in.

use std::{
    net::IpAddr,
    num::NonZeroU32,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::{MatchedPath, RawPathParams, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    middleware::StateInformationMiddleware,
    state::keyed::HashMapStateStore,
};
use uuid::Uuid;

use super::{REQUEST_TIMEOUT, Shared, audit, error::Failure};
use crate::{
    connector::{Problem, ProblemCode},
    id::CommandId,
    listen,
    tokens::Caller,
};

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(super) const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
pub(super) const RATE_REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
pub(super) const RATE_RESET: HeaderName = HeaderName::from_static("ratelimit-reset");
/// Callers whose rates are remembered; beyond that, those that have been idle are forgotten.
const MAX_CALLERS: usize = 10_000;

/// One of so many refused tokens a second may come from an address …
const UNAUTHORIZED_SHARE: u32 = 10;

type Buckets<K> = RateLimiter<K, HashMapStateStore<K>, DefaultClock, StateInformationMiddleware>;

/// How often may be called: by each caller, for each project over all callers, and with a wrong token
/// from each address.
pub struct Limits(Option<Each>);

struct Each {
    quota: Quota,
    callers: Buckets<Arc<str>>,
    projects: Buckets<Arc<str>>,
    addresses: Buckets<IpAddr>,
}

/// What is left of a limit, for the headers `RateLimit-…`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Left {
    limit: u32,
    remaining: u32,
    reset: Duration,
}

impl Left {
    /// The one of which less is left.
    fn least(self, other: Self) -> Self {
        if other.remaining < self.remaining { other } else { self }
    }

    fn write(self, headers: &mut HeaderMap) {
        let seconds = self.reset.as_secs() + u64::from(self.reset.subsec_nanos() > 0);
        headers.insert(RATE_LIMIT, self.limit.into());
        headers.insert(RATE_REMAINING, self.remaining.into());
        headers.insert(RATE_RESET, seconds.into());
    }
}

impl Limits {
    /// So many requests per second of each caller and of each project, and twice as many at once
    /// after a pause. Of wrong tokens from one address a tenth of that.
    pub fn new(per_second: u32) -> Self {
        let Some(rate) = NonZeroU32::new(per_second) else { return Self(None) };
        let burst = rate.saturating_add(rate.get());
        let quota = Quota::per_second(rate).allow_burst(burst);
        let tenth = NonZeroU32::new(per_second / UNAUTHORIZED_SHARE).unwrap_or(NonZeroU32::MIN);
        Self(Some(Each {
            quota,
            callers: RateLimiter::hashmap(quota).with_middleware(),
            projects: RateLimiter::hashmap(quota).with_middleware(),
            addresses: RateLimiter::hashmap(Quota::per_second(tenth).allow_burst(burst))
                .with_middleware(),
        }))
    }

    /// Counts a request of a caller; an error is how long to wait.
    fn caller(&self, caller: &Caller) -> Result<Option<Left>, Left> {
        let Some(each) = &self.0 else { return Ok(None) };
        take(&each.callers, &caller.name, each.quota).map(Some)
    }

    /// Counts a request for a project that the caller may touch: else any token could use up what
    /// others have.
    fn project(&self, project: &str) -> Result<Option<Left>, Left> {
        let Some(each) = &self.0 else { return Ok(None) };
        take(&each.projects, &project.into(), each.quota).map(Some)
    }

    /// Counts a wrong token from an address; an error is how long to wait.
    fn wrong_token(&self, address: Option<IpAddr>) -> Result<(), Left> {
        let (Some(each), Some(address)) = (&self.0, address) else { return Ok(()) };
        take(&each.addresses, &network(address), each.quota).map(|_| ())
    }
}

/// A client with an IPv6 address has the other 2^64 of its network too.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => (u128::from(v6) >> 64 << 64).to_be_bytes().into(),
    }
}

fn take<K: std::hash::Hash + Eq + Clone>(
    buckets: &Buckets<K>,
    key: &K,
    quota: Quota,
) -> Result<Left, Left> {
    if buckets.len() > MAX_CALLERS {
        buckets.retain_recent();
    }
    let limit = quota.burst_size().get();
    match buckets.check_key(key) {
        Ok(state) => {
            let remaining = state.remaining_burst_capacity();
            let reset = quota.replenish_interval().saturating_mul(limit - remaining.min(limit));
            Ok(Left { limit, remaining, reset })
        }
        Err(until) => {
            let reset = until.wait_time_from(DefaultClock::default().now());
            Err(Left { limit, remaining: 0, reset })
        }
    }
}

/// Lets a request in whose token is for the project of its path, if the path names one, and writes
/// down what it changed.
pub async fn admit(
    State(shared): State<Arc<Shared>>,
    params: RawPathParams,
    mut request: Request,
    next: Next,
) -> Response {
    let param = |wanted: &str| {
        let found = params.iter().find(|(name, _)| *name == wanted);
        found.map(|(_, value)| value.to_owned())
    };
    let (project, connector) = (param("projectId"), param("connectorId").unwrap_or_default());
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let mut entry = audit::Entry::of(&request, route.as_deref().unwrap_or_default());
    let (mut left, mut caller) = (None, None);
    let mut response = match check(&shared, &request, project.as_deref(), &mut left, &mut caller) {
        Ok(()) => {
            if let Some(caller) = caller.clone() {
                request.extensions_mut().insert(caller);
            }
            next.run(request).await
        }
        Err(failure) => failure.into_response(),
    };
    if let Some(left) = left {
        left.write(response.headers_mut());
    }
    entry.actor = caller.as_ref().map(|caller| &*caller.name);
    entry.project = project.as_deref().unwrap_or_default();
    entry.connector = &connector;
    entry.write(&response);
    response
}

fn check(
    shared: &Shared,
    request: &Request,
    project: Option<&str>,
    left: &mut Option<Left>,
    who: &mut Option<Caller>,
) -> Result<(), Failure> {
    let token = bearer(request.headers()).map_err(Failure::unauthorized)?;
    let Some(caller) = shared.callers.caller(token) else {
        return Err(match shared.limits.wrong_token(listen::peer(request)) {
            Ok(()) => Failure::unauthorized("The token is not known, or no longer valid."),
            Err(wait) => too_often(wait, "Too many wrong tokens came from this address.", left),
        });
    };
    let name = &*who.insert(caller);
    *left = shared
        .limits
        .caller(name)
        .map_err(|wait| too_often(wait, "This token has called too often.", left))?;
    // What is the same for every project, every caller may read.
    let Some(project) = project else { return Ok(()) };
    if !name.grant.covers(project) {
        // The same words whether the project exists or not.
        let detail = "The token is not for this project.";
        return Err(Problem::new(ProblemCode::Forbidden, detail).into());
    }
    let of_project = shared.limits.project(project).map_err(|wait| {
        too_often(wait, "This project was called for too often, by all its tokens.", left)
    })?;
    *left = left.zip(of_project).map(|(one, other)| one.least(other));
    Ok(())
}

fn too_often(wait: Left, detail: &str, left: &mut Option<Left>) -> Failure {
    *left = Some(wait);
    let detail = format!("{detail} Wait as long as Retry-After says.");
    Failure::from(Problem::new(ProblemCode::RateLimited, detail))
        .with(header::RETRY_AFTER, wait.reset.as_secs().saturating_add(1))
}

/// The one bearer token of a request; an error says what is wrong.
pub(crate) fn bearer(headers: &HeaderMap) -> Result<&str, &'static str> {
    let missing = "Send the header Authorization: Bearer and a token.";
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().ok_or(missing)?;
    if values.next().is_some() {
        // A proxy in front may have looked at the other one.
        return Err("Send one header Authorization, not several.");
    }
    let token = value.to_str().ok().and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    token.filter(|token| !token.is_empty()).ok_or(missing)
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

    fn caller(name: &str) -> Caller {
        Caller { name: name.into(), grant: Arc::new(Grant::All) }
    }

    #[test]
    fn one_callers_haste_is_not_held_against_another() {
        let limits = Limits::new(5);
        let let_in = (0..50).filter(|_| limits.caller(&caller("a")).is_ok()).count();
        assert!((10..=11).contains(&let_in), "{let_in}");
        let wait = limits.caller(&caller("a")).unwrap_err();
        assert!(wait.reset > Duration::ZERO && wait.reset <= Duration::from_secs(1), "{wait:?}");
        let left = limits.caller(&caller("b")).unwrap().unwrap();
        assert_eq!((left.limit, left.remaining), (10, 9));
        assert_eq!(left.reset, Duration::from_millis(200));
        let unlimited = Limits::new(0);
        assert!((0..10_000).all(|_| unlimited.caller(&caller("a")) == Ok(None)));
    }

    #[test]
    fn many_callers_of_one_project_have_its_limit_together() {
        let limits = Limits::new(5);
        let let_in = (0..50).filter(|_| limits.project("proj_1").is_ok()).count();
        assert!((10..=11).contains(&let_in), "{let_in}");
        assert!(limits.project("proj_2").is_ok());
    }

    #[test]
    fn wrong_tokens_are_limited_by_address() {
        let limits = Limits::new(20);
        let address = |text: &str| Some(text.parse().unwrap());
        let let_in =
            |at: Option<IpAddr>| (0..100).filter(|_| limits.wrong_token(at).is_ok()).count();
        assert!((40..=41).contains(&let_in(address("192.0.2.1"))));
        assert!((40..=41).contains(&let_in(address("192.0.2.2"))));
        assert!((40..=41).contains(&let_in(address("2001:db8::1"))));
        assert_eq!(let_in(address("2001:db8::2")), 0, "the same network");
        assert_eq!(let_in(None), 100);
    }

    #[test]
    fn one_token_is_read_and_not_several() {
        let headers = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, HeaderValue::from_static(value));
            }
            headers
        };
        assert_eq!(bearer(&headers(&["bearer  a"])), Ok("a"));
        for wrong in
            [&[][..], &["Bearer a", "Bearer a"], &["Bearer a", "Basic b"], &["Bearer "], &["a"]]
        {
            assert!(bearer(&headers(wrong)).is_err(), "{wrong:?}");
        }
    }
}
