//! Why a command or request was refused, in the form of RFC 9457.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The most field errors that one problem lists; a hostile command could cause thousands.
pub const MAX_FIELD_ERRORS: usize = 50;

macro_rules! problem_codes {
    ($($(#[$doc:meta])* $name:ident => $text:literal, $status:literal, $title:literal;)*) => {
        /// What kind of problem it is.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
        pub enum ProblemCode { $($(#[$doc])* #[serde(rename = $text)] $name,)* }

        impl ProblemCode {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The name in problems and metric labels.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The HTTP status that goes with it.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// The title, the same for every occurrence.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

problem_codes! {
    /// Fields are missing, unknown or wrong.
    ValidationFailed => "validation_failed", 400, "The request has wrong fields";
    /// It is no command that this program knows.
    InvalidCommand => "invalid_command", 400, "The command is not known";
    /// An encrypted value cannot be decrypted.
    SecretUnreadable => "secret_unreadable", 400, "An encrypted value cannot be read";
    /// The caller did not say who it is.
    Unauthorized => "unauthorized", 401, "A valid bearer token is needed";
    /// The caller may not touch this project.
    Forbidden => "forbidden", 403, "This project is not yours";
    /// There is no admin API, because it has no token.
    AdminDisabled => "admin_disabled", 403, "The admin API is switched off";
    /// The project's tier allows no more connectors.
    ConnectorLimitReached => "connector_limit_reached", 403, "The tier allows no more connectors";
    /// There is no such connector.
    ConnectorNotFound => "connector_not_found", 404, "There is no such connector";
    /// There is no such resource.
    NotFound => "not_found", 404, "There is nothing at this path";
    /// The path does not know this method.
    MethodNotAllowed => "method_not_allowed", 405, "This path does not know the method";
    /// A connector of this id is there already.
    ConnectorExists => "connector_exists", 409, "The connector exists already";
    /// The connector changed since the sender looked at it.
    ConnectorChanged => "connector_changed", 409, "The connector has changed since";
    /// It cannot be done as things are.
    Conflict => "conflict", 409, "This cannot be done as things are";
    /// An idempotency key came again with another body.
    IdempotencyKeyReused => "idempotency_key_reused", 409, "The idempotency key was used before";
    /// The request's body is too long.
    TooLarge => "too_large", 413, "The request is too large";
    /// The body is not JSON by its content type.
    UnsupportedMediaType => "unsupported_media_type", 415, "The body must be JSON";
    /// Too many requests.
    RateLimited => "rate_limited", 429, "Too many requests";
    /// A bug of ours.
    Internal => "internal", 500, "Something went wrong here";
    /// Kafka cannot be reached, or this instance is not ready.
    Unavailable => "unavailable", 503, "The service cannot do this now";
    /// No result came in time; the command may still be carried out.
    Timeout => "timeout", 503, "No result came in time";
}

impl fmt::Display for ProblemCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is wrong with one field.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FieldError {
    /// The field, such as `config.webhookUrl`.
    pub field: String,
    /// What is wrong with it and what to do; it never quotes a secret.
    pub message: String,
}

impl FieldError {
    /// Something is wrong with a field.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

/// Why something was refused: an RFC 9457 problem with a code, and the fields that are wrong.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Problem {
    /// A URN of the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// The code's title.
    pub title: String,
    /// The code's HTTP status.
    pub status: u16,
    /// What happened this time, and what to do.
    pub detail: String,
    /// The code.
    pub code: ProblemCode,
    /// The fields that are wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

impl Problem {
    /// A problem without fields.
    pub fn new(code: ProblemCode, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:dunmore:problem:{code}"),
            title: code.title().to_owned(),
            status: code.status(),
            detail: detail.into(),
            code,
            errors: Vec::new(),
        }
    }

    /// Wrong fields; those beyond [`MAX_FIELD_ERRORS`] are only counted.
    #[must_use]
    pub fn with_fields(code: ProblemCode, mut errors: Vec<FieldError>) -> Self {
        let count = errors.len();
        errors.truncate(MAX_FIELD_ERRORS);
        let first = errors.first().map(|e| format!("{} {}", e.field, e.message));
        let detail = match (count, first) {
            (1, Some(first)) => format!("{first}. Correct it and send the request again."),
            (_, first) => format!(
                "{count} fields are wrong, first: {}. Correct them and send the request again.",
                first.unwrap_or_default()
            ),
        };
        Self { errors, ..Self::new(code, detail) }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.title, self.detail)
    }
}

impl std::error::Error for Problem {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_has_the_fields_of_rfc_9457_and_is_read_back() {
        let errors = vec![FieldError::new("config.webhookUrl", "is missing")];
        let problem = Problem::with_fields(ProblemCode::ValidationFailed, errors);
        insta::assert_json_snapshot!(problem, @r#"
        {
          "type": "urn:dunmore:problem:validation_failed",
          "title": "The request has wrong fields",
          "status": 400,
          "detail": "config.webhookUrl is missing. Correct it and send the request again.",
          "code": "validation_failed",
          "errors": [
            {
              "field": "config.webhookUrl",
              "message": "is missing"
            }
          ]
        }
        "#);
        let text = serde_json::to_string(&problem).unwrap();
        assert_eq!(serde_json::from_str::<Problem>(&text).unwrap(), problem);
    }

    #[test]
    fn codes_have_one_name() {
        for code in ProblemCode::ALL {
            assert_eq!(serde_json::json!(code), code.as_str());
            assert!((400..600).contains(&code.status()));
        }
    }
}
