//! The audit trail: one log line for each change, and for each token that was refused.
//!
//! It has a target of its own, [`TARGET`], so that it can be kept apart from the other lines.

use std::net::IpAddr;

use axum::{
    extract::Request,
    http::{Method, StatusCode},
    response::Response,
};

use crate::{connector::ProblemCode, listen};

/// The target of these lines.
pub const TARGET: &str = "dunmore_connectors::audit";

/// The actor, the action and the address.
pub(crate) struct Entry<'a> {
    method: Method,
    route: String,
    request: String,
    from: Option<IpAddr>,
    /// The token's name.
    pub actor: Option<&'a str>,
    pub project: &'a str,
    pub connector: &'a str,
}

impl Entry<'_> {
    /// What is known before the request is carried out.
    pub(crate) fn of(request: &Request, route: &str) -> Self {
        let id = request.headers().get("x-request-id").and_then(|value| value.to_str().ok());
        Self {
            method: request.method().clone(),
            route: route.to_owned(),
            request: id.unwrap_or_default().to_owned(),
            from: listen::peer(request),
            actor: None,
            project: "",
            connector: "",
        }
    }

    /// Writes the line, when this was a change or a refusal of a token.
    pub(crate) fn write(&self, response: &Response) {
        let status = response.status();
        let is_change = !self.method.is_safe();
        let is_refused = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        if !is_change && !is_refused {
            return;
        }
        let code = response.extensions().get::<ProblemCode>();
        let result = match code {
            Some(code) => code.as_str(),
            // The console leads on to the page that shows what was done.
            None if status.is_success() || status.is_redirection() => "done",
            None => "failed",
        };
        // Longer names and other characters are in no id: what they hold is the caller's choice.
        let id = |text: &str| -> String {
            text.chars().map(crate::text::harmless).take(crate::id::MAX_ID_CHARS).collect()
        };
        let from = self.from.map(|address| address.to_string());
        tracing::info!(
            target: TARGET,
            actor = self.actor.unwrap_or("unknown"),
            action = format!("{} {}", self.method, self.route),
            project = id(self.project),
            connector = id(self.connector),
            from = from.as_deref().unwrap_or("unknown"),
            status = status.as_u16(),
            result,
            request = self.request,
            "audit"
        );
    }
}
