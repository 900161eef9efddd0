//! Sends one sample event to a connector, for an owner who wants to see whether it works.

use std::{collections::HashMap, hash::Hash, num::NonZeroU32, sync::Arc, time::Duration};

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::{HeaderMap, header},
};
use bytes::Bytes;
use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    state::keyed::HashMapStateStore,
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    connectors::{Body, Shares, find, lift, object},
    error::Failure,
    unavailable,
};
use crate::{
    clock,
    connector::{FieldError, Problem, ProblemCode},
    delivery::Verdict,
    event::{Event, EventType, EventTypes},
    id::{ConnectorKey, DeliveryId, ProjectId},
    json,
    pipeline::test_send,
    tokens::Caller,
};

/// Trials that may be under way at once, in all …
pub const MAX_TRIALS: usize = 64;
/// … and of one project: trials that hang keep out only those of their own project.
pub const MAX_TRIALS_OF_PROJECT: usize = 4;
/// Trials of one connector after a pause, and how long until there is another one.
pub const CONNECTOR_TRIALS: u32 = 10;
const CONNECTOR_PAUSE: Duration = Duration::from_secs(6);
/// The same of a project.
pub const PROJECT_TRIALS: u32 = 40;
const PROJECT_PAUSE: Duration = Duration::from_secs(2);
/// Connectors and projects whose trials are remembered; beyond that, idle ones are forgotten.
const MAX_REMEMBERED: usize = 10_000;

type Buckets<K> = RateLimiter<K, HashMapStateStore<K>, DefaultClock>;

/// How many trials there may be: what a trial does goes around the limits of deliveries.
pub struct Trials {
    under_way: Arc<Mutex<HashMap<ProjectId, usize>>>,
    connectors: Buckets<ConnectorKey>,
    projects: Buckets<ProjectId>,
}

/// One trial under way.
#[derive(Debug)]
struct Permit {
    under_way: Arc<Mutex<HashMap<ProjectId, usize>>>,
    project: ProjectId,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut under_way = self.under_way.lock();
        if let Some(count) = under_way.get_mut(&self.project) {
            *count -= 1;
            if *count == 0 {
                under_way.remove(&self.project);
            }
        }
    }
}

impl Trials {
    /// None yet.
    pub fn new() -> Self {
        let buckets = |pause: Duration, burst: u32| {
            let quota = Quota::with_period(pause).unwrap_or(Quota::per_second(NonZeroU32::MIN));
            quota.allow_burst(NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN))
        };
        Self {
            under_way: Arc::default(),
            connectors: RateLimiter::hashmap(buckets(CONNECTOR_PAUSE, CONNECTOR_TRIALS)),
            projects: RateLimiter::hashmap(buckets(PROJECT_PAUSE, PROJECT_TRIALS)),
        }
    }

    /// Begins a trial of a connector, if there may be one now.
    fn begin(&self, key: &ConnectorKey) -> Result<Permit, Failure> {
        take(&self.connectors, key, "This connector was tried too often.")?;
        take(&self.projects, &key.project, "This project's connectors were tried too often.")?;
        let mut under_way = self.under_way.lock();
        let of_project = under_way.get(&key.project).copied().unwrap_or_default();
        if of_project >= MAX_TRIALS_OF_PROJECT {
            let detail = "Too many trials of this project are under way. Wait for one to end.";
            return Err(too_many(detail, 1));
        }
        if under_way.values().sum::<usize>() >= MAX_TRIALS {
            let detail = "Too many trials are under way. Try again soon.";
            return Err(Problem::new(ProblemCode::Unavailable, detail).into());
        }
        under_way.insert(key.project.clone(), of_project + 1);
        Ok(Permit { under_way: Arc::clone(&self.under_way), project: key.project.clone() })
    }
}

fn take<K: Hash + Eq + Clone>(buckets: &Buckets<K>, key: &K, detail: &str) -> Result<(), Failure> {
    if buckets.len() > MAX_REMEMBERED {
        buckets.retain_recent();
    }
    buckets.check_key(key).map_err(|until| {
        let wait = until.wait_time_from(DefaultClock::default().now());
        too_many(&format!("{detail} Wait as long as Retry-After says."), wait.as_secs() + 1)
    })
}

fn too_many(detail: &str, wait_secs: u64) -> Failure {
    Failure::from(Problem::new(ProblemCode::RateLimited, detail))
        .with(header::RETRY_AFTER, wait_secs)
}

/// `POST …/connectors/:id/test`
pub async fn test(
    State(shared): Shares,
    Extension(caller): Extension<Caller>,
    Path((project, connector)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, Failure> {
    let found = find(&shared, &project, &connector)?;
    let asked = asked_type(&headers, body)?;
    let Some(dispatcher) = &shared.dispatcher else {
        let detail = "This instance does not have the role delivery, so it sends nothing.";
        return Err(Problem::new(ProblemCode::Unavailable, detail).into());
    };
    let _permit = shared.trials.begin(&found.key)?;
    let subscriptions = shared.view.subscriptions(&found.key.project).map_err(unavailable)?;
    let Some(target) = subscriptions.target(&found.key.connector) else {
        let detail = "The connector was deleted meanwhile.";
        return Err(Problem::new(ProblemCode::ConnectorNotFound, detail).into());
    };
    let wanted = match &found.event_types {
        EventTypes::All | EventTypes::AllAnd(_) => None,
        EventTypes::Some(kinds) => kinds.first().copied(),
    };
    let kind = asked.or(wanted).unwrap_or(EventType::PaymentSettled);
    let event = sample(kind, &found.key.project).map_err(|error| {
        tracing::error!(%error, "the sample event is refused; please report this bug");
        Problem::new(ProblemCode::Internal, "There is no sample event of this type.")
    })?;
    let mut answer = json!({ "eventId": event.id, "eventType": kind.as_str() });
    if let Ok(destination) = &target.destination
        && let Some(why) = destination.skips(&event)
    {
        answer["verdict"] = json!("skipped");
        answer["detail"] = json!(why);
        return Ok(Json(answer));
    }
    let id = DeliveryId::new(&found.key, &event.id);
    let judged = test_send(dispatcher, target, &event, id).await;
    let (verdict, reason, detail) = match judged.verdict {
        Verdict::Delivered => ("delivered", None, None),
        Verdict::Retry { reason, detail, .. } => ("retry", Some(reason), Some(detail)),
        Verdict::Dead { reason, detail } => ("dead", Some(reason), Some(detail)),
        Verdict::Broken { reason, detail, .. } => ("broken", Some(reason), Some(detail)),
        Verdict::Moved { field, .. } => {
            ("moved", None, Some(format!("The service has a new value for config.{field}.")))
        }
    };
    answer["verdict"] = json!(verdict);
    if verdict == "delivered" && found.suspended_reason.is_some() {
        lift(&shared, &found.key, &caller).await?;
        answer["resumed"] = json!(true);
    }
    if let Some(reason) = reason {
        answer["reason"] = json!(reason.as_str());
    }
    if let Some(detail) = detail {
        answer["detail"] = json!(detail);
    }
    if let Some(status) = judged.status {
        answer["status"] = json!(status);
    }
    if let Some(duration) = judged.duration {
        answer["durationMs"] = json!(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
    }
    Ok(Json(answer))
}

/// The event type that the body asks for; a request without a body asks for none.
fn asked_type(headers: &HeaderMap, body: Body) -> Result<Option<EventType>, Failure> {
    if body.as_ref().is_ok_and(Bytes::is_empty) {
        return Ok(None);
    }
    let body = object(headers, body)?;
    let (mut kind, mut errors) = (None, Vec::new());
    for (name, value) in body.as_object().into_iter().flatten() {
        let wrong = if name == "eventType" {
            match EventTypes::parse(&[value.as_str().unwrap_or_default()]) {
                Ok(kinds) => {
                    kind = kinds.named().first().copied();
                    continue;
                }
                Err(wrong) => wrong.join("; "),
            }
        } else {
            "unknown field; a trial takes `eventType`".to_owned()
        };
        errors.push(FieldError::new(json::name(name), wrong));
    }
    if errors.is_empty() {
        return Ok(kind);
    }
    Err(Problem::with_fields(ProblemCode::ValidationFailed, errors).into())
}

/// An event that cannot be taken for a real one.
pub fn sample(kind: EventType, project: &ProjectId) -> Result<Event, String> {
    use EventType as E;
    let mut data = json!({
        "paymentId": "pay_test",
        "endpointId": "ep_test",
        "customerId": "0x0000000000000000000000000000000000000000",
        "amount": "1.250000",
        "currency": "USDC",
        "network": "base",
    });
    match kind {
        E::PaymentVerified | E::CustomerFirstPayment => {}
        E::PaymentSettled => data["txHash"] = json!(format!("0x{}", "0".repeat(64))),
        E::PaymentFailed => {
            data["stage"] = json!("settle");
            data["reason"] = json!("this is a test");
        }
        E::CustomerMilestone => {
            data["milestone"] = json!("test");
            data["totalSpent"] = json!("100.000000");
        }
        E::EndpointCreated => {
            data["path"] = json!("/test");
            data["price"] = json!("0.010000");
        }
        E::EndpointPricingChanged => {
            data["path"] = json!("/test");
            data["oldPrice"] = json!("0.010000");
            data["newPrice"] = json!("0.020000");
        }
        E::RevenueDailySummary => {
            data = json!({
                "date": clock::now().date(),
                "revenue": "1.250000",
                "currency": "USDC",
                "paymentCount": 1,
                "customerCount": 1,
                "failedCount": 0,
            });
        }
        E::ConnectorSuspended
        | E::ConnectorResumed
        | E::ConnectorFailing
        | E::ConnectorRecovered
        | E::ConnectorCredentialExpiring => {
            data = json!({
                "projectId": project,
                "connectorId": "conn_test",
                "connectorType": "slack",
                "reason": "other",
                "detail": "this is a test",
                "since": clock::now(),
            });
        }
    }
    let event = json!({
        "id": format!("evt_test_{}", Uuid::now_v7().simple()),
        "type": kind.as_str(),
        "projectId": project,
        "occurredAt": clock::now(),
        "data": data,
    });
    Event::from_json(Bytes::from(event.to_string())).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(project: &str, connector: &str) -> ConnectorKey {
        ConnectorKey { project: project.parse().unwrap(), connector: connector.parse().unwrap() }
    }

    #[test]
    fn trials_are_bounded_for_each_connector_and_each_project() {
        let trials = Trials::new();
        let begun = |project: &str, connector: &str| trials.begin(&key(project, connector)).is_ok();
        assert_eq!((0..5_000).filter(|_| begun("proj_1", "conn_1")).count(), 10);
        assert_eq!((0..5_000).filter(|n| begun("proj_1", &format!("c{n}"))).count(), 30);
        assert!(begun("proj_2", "conn_1"));
    }

    #[test]
    fn trials_that_hang_keep_out_only_their_own_project() {
        let trials = Trials::new();
        let hanging: Vec<Permit> =
            (0..16).filter_map(|n| trials.begin(&key("proj_1", &format!("c{n}"))).ok()).collect();
        assert_eq!(hanging.len(), MAX_TRIALS_OF_PROJECT);
        let other = trials.begin(&key("proj_2", "c1")).unwrap();
        drop(hanging);
        assert!(trials.begin(&key("proj_1", "c1")).is_ok());
        drop(other);
        assert!(trials.under_way.lock().is_empty());
        let of_many = (0..MAX_TRIALS * 2)
            .filter_map(|n| trials.begin(&key(&format!("proj_{n}_"), "c1")).ok());
        assert_eq!(of_many.collect::<Vec<_>>().len(), MAX_TRIALS);
    }

    #[test]
    fn every_type_has_a_sample() {
        let project = ProjectId::parse("proj_1").unwrap();
        for kind in EventType::ALL {
            let event = sample(*kind, &project).unwrap();
            assert_eq!(event.kind, *kind);
            assert!(event.id.as_str().starts_with("evt_test_"));
        }
    }
}
