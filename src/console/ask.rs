//! What a request to the admin API asks for: read strictly, every wrong field told.

use std::{str::FromStr, time::Duration};

use axum::body::{Body, Bytes};
use futures_util::StreamExt as _;
use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    api::Failure,
    clock::{self, Timestamp},
    connector::{FieldError, Problem, ProblemCode},
    delivery::{Outcome, Reason, Source},
    event::EventType,
    id::ProjectId,
    operations::{DEFAULT_RATE, OffsetRange},
    replay::{AttemptFilter, DeadFilter, Position, Selection, Which, event_types, moment},
};

/// The largest request, in bytes.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// How long the body of a request may take. A connection with a request under way gives no way to
/// others, so half-sent bodies must not hold the places of the port.
const BODY_TIMEOUT: Duration = Duration::from_secs(15);
/// The most entries that one request lists.
const MAX_LIMIT: usize = 1000;
const DEFAULT_LIMIT: usize = 20;

/// The body of a request for a replay.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a field of the request")]
pub struct ReplayBody {
    #[serde(default)]
    pub from: Option<String>,
    #[serde(default)]
    pub to: Option<String>,
    #[serde(default)]
    pub offsets: Vec<String>,
    #[serde(default)]
    pub projects: Vec<String>,
    #[serde(default)]
    pub connectors: Vec<String>,
    #[serde(default)]
    pub event_types: Vec<String>,
    #[serde(default)]
    pub types: Vec<String>,
    #[serde(default)]
    pub only_missing: bool,
    #[serde(default)]
    pub include_waiting: bool,
    #[serde(default)]
    pub include_unknown: bool,
    #[serde(default)]
    pub dry_run: bool,
    /// Send in spite of warnings.
    #[serde(default)]
    pub confirm: bool,
    #[serde(default = "default_rate")]
    pub rate: f64,
}

/// The body of a request to go on with a replay.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ResumeBody {
    #[serde(default = "default_rate")]
    pub rate: f64,
}

/// The body of a request for a redrive.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a field of the request")]
pub struct RedriveBody {
    #[serde(default)]
    pub reasons: Vec<String>,
    #[serde(default)]
    pub projects: Vec<String>,
    #[serde(default)]
    pub connectors: Vec<String>,
    #[serde(default)]
    pub types: Vec<String>,
    #[serde(default)]
    pub event_types: Vec<String>,
    #[serde(default)]
    pub positions: Vec<String>,
    #[serde(default)]
    pub from: Option<String>,
    #[serde(default)]
    pub to: Option<String>,
    /// All dead letters: a redrive without a filter must say so.
    #[serde(default)]
    pub all: bool,
    #[serde(default)]
    pub again: bool,
    #[serde(default)]
    pub failed_again: bool,
    /// Send in spite of warnings, or a second time.
    #[serde(default)]
    pub confirm: bool,
    /// A share such as `1%`.
    #[serde(default)]
    pub canary: Option<String>,
    #[serde(default)]
    pub dry_run: bool,
    #[serde(default = "default_rate")]
    pub rate: f64,
}

/// The body of a request to purge.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PurgeBody {
    #[serde(default)]
    pub before: Option<String>,
    #[serde(default)]
    pub redriven: bool,
    /// Without it, the answer says what would be deleted.
    #[serde(default)]
    pub confirm: bool,
}

const fn default_rate() -> f64 {
    DEFAULT_RATE
}

/// Collects what is wrong with a request.
#[derive(Default)]
pub struct Wrong(Vec<FieldError>);

impl Wrong {
    /// A value, or the error is kept.
    pub fn take<T>(&mut self, field: &str, value: Result<T, impl ToString>) -> Option<T> {
        value.map_err(|error| self.0.push(FieldError::new(field, error.to_string()))).ok()
    }

    fn list<T: FromStr<Err: ToString>>(&mut self, field: &str, texts: &[String]) -> Vec<T> {
        texts.iter().filter_map(|text| self.take(field, text.parse())).collect()
    }

    fn named<T: Copy>(
        &mut self,
        field: &str,
        all: &[T],
        name: fn(T) -> &'static str,
        texts: &[String],
    ) -> Vec<T> {
        let find = |text: &String| {
            let found = all.iter().copied().find(|one| name(*one) == text.as_str());
            found.ok_or_else(|| format!("there is no {text:?}"))
        };
        texts.iter().filter_map(|text| self.take(field, find(text))).collect()
    }

    fn kinds(&mut self, field: &str, patterns: &[String]) -> Vec<EventType> {
        let found = patterns.iter().filter_map(|pattern| self.take(field, event_types(pattern)));
        let mut found: Vec<EventType> = found.flatten().collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// A moment.
    pub fn when(&mut self, field: &str, text: Option<&str>) -> Option<Timestamp> {
        match text {
            None | Some("beginning") => None,
            Some(text) => self.take(field, moment(text, clock::now())),
        }
    }

    /// A rate.
    pub fn rate(&mut self, rate: f64) {
        if !(1.0..=1_000_000.0).contains(&rate) {
            self.0.push(FieldError::new("rate", "must be a number from 1 to 1000000"));
        }
    }

    /// Another error.
    pub fn tell(&mut self, field: &str, message: &str) {
        self.0.push(FieldError::new(field, message));
    }

    /// Fails when something was wrong.
    pub fn check(self) -> Result<(), Failure> {
        if self.0.is_empty() {
            return Ok(());
        }
        Err(Problem::with_fields(ProblemCode::ValidationFailed, self.0).into())
    }
}

/// Receives a body, in bounded time and size.
pub async fn whole(body: Body) -> Result<Bytes, Problem> {
    whole_within(BODY_TIMEOUT, body).await
}

async fn whole_within(time: Duration, body: Body) -> Result<Bytes, Problem> {
    tokio::time::timeout(time, received(body)).await.unwrap_or_else(|_| {
        let detail = format!("The body was not received whole within {} s.", time.as_secs());
        Err(Problem::new(ProblemCode::Timeout, detail))
    })
}

async fn received(body: Body) -> Result<Bytes, Problem> {
    let (mut parts, mut all) = (body.into_data_stream(), Vec::new());
    while let Some(part) = parts.next().await {
        let part = part.map_err(|_| {
            Problem::new(ProblemCode::ValidationFailed, "The body was not received whole.")
        })?;
        if all.len() + part.len() > MAX_BODY_BYTES {
            let detail = format!("A body may have {MAX_BODY_BYTES} bytes.");
            return Err(Problem::new(ProblemCode::TooLarge, detail));
        }
        all.extend_from_slice(&part);
    }
    Ok(all.into())
}

/// Reads a body; none is an empty object.
pub fn body<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, Failure> {
    let bytes: &[u8] = if bytes.is_empty() { b"{}" } else { bytes };
    serde_json::from_slice(bytes).map_err(|error| {
        Problem::new(ProblemCode::ValidationFailed, format!("The body: {error}.")).into()
    })
}

impl ReplayBody {
    /// The selection.
    pub fn selection(&self, wrong: &mut Wrong) -> Selection {
        if self.from.is_none() && self.offsets.is_empty() {
            wrong.tell("from", "say from when, or name offsets");
        }
        Selection {
            from: wrong.when("from", self.from.as_deref()),
            to: wrong.when("to", self.to.as_deref()),
            projects: wrong.list("projects", &self.projects),
            connectors: wrong.list("connectors", &self.connectors),
            event_types: wrong.kinds("eventTypes", &self.event_types),
            types: wrong.list("types", &self.types),
            only_missing: self.only_missing,
            include_waiting: self.include_waiting,
            include_unknown: self.include_unknown,
        }
    }

    /// The offsets, where they are named.
    pub fn ranges(&self, wrong: &mut Wrong) -> Vec<OffsetRange> {
        wrong.list("offsets", &self.offsets)
    }
}

impl RedriveBody {
    /// The filter.
    pub fn filter(&self, wrong: &mut Wrong) -> DeadFilter {
        let filter = DeadFilter {
            from: wrong.when("from", self.from.as_deref()),
            to: wrong.when("to", self.to.as_deref()),
            reasons: wrong.named("reasons", Reason::ALL, Reason::as_str, &self.reasons),
            projects: wrong.list("projects", &self.projects),
            connectors: wrong.list("connectors", &self.connectors),
            types: wrong.list("types", &self.types),
            event_types: wrong.kinds("eventTypes", &self.event_types),
            positions: wrong.list::<Position>("positions", &self.positions),
        };
        if filter == DeadFilter::default() && !self.all {
            wrong.tell("all", "name reasons, connectors …, or say all for all dead letters");
        }
        if self.again && self.failed_again {
            wrong.tell("failedAgain", "say either again or failedAgain");
        }
        filter
    }

    /// Which letters are meant by what became of them.
    pub fn which(&self) -> Which {
        match (self.again, self.failed_again) {
            (true, _) => Which::Again,
            (false, true) => Which::FailedAgain,
            (false, false) => Which::Waiting,
        }
    }
}

/// The parameters of a query, each of which may come several times.
pub struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Reads a query that may have these parameters.
    pub fn read(text: Option<&str>, known: &[&str], wrong: &mut Wrong) -> Self {
        let pairs = url::form_urlencoded::parse(text.unwrap_or_default().as_bytes());
        let pairs: Vec<(String, String)> = pairs.into_owned().collect();
        for (name, _) in pairs.iter().filter(|(name, _)| !known.contains(&name.as_str())) {
            wrong.tell(name, &format!("is no parameter here; there are {}", known.join(", ")));
        }
        Self { pairs }
    }

    /// Forgets what was left empty.
    pub fn drop_empty(&mut self) {
        self.pairs.retain(|(_, value)| !value.trim().is_empty());
    }

    /// The pairs, as they were given.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.pairs
    }

    /// All of this name.
    pub fn all(&self, name: &str) -> Vec<String> {
        let own = self.pairs.iter().filter(|(key, _)| key == name);
        own.map(|(_, value)| value.clone()).collect()
    }

    /// The last of this name.
    pub fn one(&self, name: &str) -> Option<&str> {
        self.pairs.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether a tick of a form is set.
    pub fn is_set(&self, name: &str) -> bool {
        self.one(name) == Some("true")
    }

    /// How many deliveries per second.
    pub fn rate(&self, wrong: &mut Wrong) -> f64 {
        let rate = self.one("rate").map_or(Ok(DEFAULT_RATE), str::parse::<f64>);
        let rate = wrong.take("rate", rate);
        if let Some(rate) = rate {
            wrong.rate(rate);
        }
        rate.unwrap_or(DEFAULT_RATE)
    }

    /// A project that is named.
    pub fn project(&self, wrong: &mut Wrong) -> Option<ProjectId> {
        self.one("project").and_then(|text| wrong.take("project", ProjectId::parse(text)))
    }

    /// How many entries are wanted.
    pub fn limit(&self, wrong: &mut Wrong) -> usize {
        let Some(text) = self.one("limit") else { return DEFAULT_LIMIT };
        let limit = text.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
        limit.unwrap_or_else(|| {
            wrong.tell("limit", &format!("must be a number from 1 to {MAX_LIMIT}"));
            DEFAULT_LIMIT
        })
    }

    /// A filter of dead letters.
    pub fn dead_filter(&self, wrong: &mut Wrong) -> DeadFilter {
        DeadFilter {
            from: wrong.when("from", self.one("from")),
            to: wrong.when("to", self.one("to")),
            reasons: wrong.named("reason", Reason::ALL, Reason::as_str, &self.all("reason")),
            projects: wrong.list("project", &self.all("project")),
            connectors: wrong.list("connector", &self.all("connector")),
            types: wrong.list("type", &self.all("type")),
            event_types: wrong.kinds("eventType", &self.all("eventType")),
            positions: Vec::new(),
        }
    }

    /// A filter of attempts.
    pub fn attempt_filter(&self, wrong: &mut Wrong) -> AttemptFilter {
        AttemptFilter {
            event: self.one("event").map(str::to_owned),
            projects: wrong.list("project", &self.all("project")),
            connectors: wrong.list("connector", &self.all("connector")),
            types: wrong.list("type", &self.all("type")),
            event_types: wrong.kinds("eventType", &self.all("eventType")),
            outcomes: wrong.named("outcome", Outcome::ALL, Outcome::as_str, &self.all("outcome")),
            reasons: wrong.named("reason", Reason::ALL, Reason::as_str, &self.all("reason")),
            sources: wrong.named("source", Source::ALL, Source::as_str, &self.all("source")),
            job: self.one("job").map(str::to_owned),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, io};

    use futures_util::stream;

    use super::*;

    #[tokio::test]
    async fn a_body_is_received_in_bounded_time_and_size() {
        let code = |received: Result<Bytes, Problem>| received.map_err(|problem| problem.code);
        let first = stream::once(async { Ok::<_, Infallible>(Bytes::from_static(b"token=")) });
        let stalled = Body::from_stream(first.chain(stream::pending()));
        let given_up = whole_within(Duration::from_millis(20), stalled).await;
        assert_eq!(code(given_up), Err(ProblemCode::Timeout));

        let large = Body::from(vec![b'x'; MAX_BODY_BYTES + 1]);
        assert_eq!(code(whole(large).await), Err(ProblemCode::TooLarge));
        let cut = stream::once(async { Err::<Bytes, _>(io::Error::other("cut off")) });
        let cut = code(whole(Body::from_stream(cut)).await);
        assert_eq!(cut, Err(ProblemCode::ValidationFailed));
        let all = vec![b'x'; MAX_BODY_BYTES];
        assert_eq!(code(whole(Body::from(all.clone())).await), Ok(Bytes::from(all)));
    }
}
