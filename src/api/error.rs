//! Problems as responses (RFC 9457).

use axum::{
    extract::rejection::BytesRejection,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::connector::{Problem, ProblemCode};

/// When a caller may try again, in seconds.
const RETRY_AFTER_SECS: u64 = 2;

/// Why a request was not carried out.
#[derive(Debug)]
pub struct Failure(Box<Inner>);

#[derive(Debug)]
struct Inner {
    problem: Problem,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Failure {
    /// The problem.
    pub fn problem(&self) -> &Problem {
        &self.0.problem
    }

    /// Adds a header to the response.
    pub fn with(mut self, name: HeaderName, value: impl Into<HeaderValue>) -> Self {
        self.0.headers.push((name, value.into()));
        self
    }

    /// Somebody who did not say who it is, or wrongly.
    pub fn unauthorized(detail: &str) -> Self {
        let challenge = HeaderValue::from_static("Bearer realm=\"dunmore\"");
        Self::from(Problem::new(ProblemCode::Unauthorized, detail))
            .with(header::WWW_AUTHENTICATE, challenge)
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let status = problem.status;
        let failure = Self(Box::new(Inner { headers: Vec::new(), problem }));
        match status {
            503 => failure.with(header::RETRY_AFTER, RETRY_AFTER_SECS),
            _ => failure,
        }
    }
}

impl From<BytesRejection> for Failure {
    fn from(rejection: BytesRejection) -> Self {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            let detail = format!("A body may have {} bytes.", super::MAX_BODY_BYTES);
            return Problem::new(ProblemCode::TooLarge, detail).into();
        }
        Problem::new(ProblemCode::ValidationFailed, "The body was not received whole.").into()
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Inner { problem, headers } = *self.0;
        let status = StatusCode::from_u16(problem.status);
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let content = [(header::CONTENT_TYPE, "application/problem+json")];
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, content, body).into_response();
        response.extensions_mut().insert(problem.code);
        for (name, value) in headers {
            response.headers_mut().insert(name, value);
        }
        response
    }
}
