//! Sends one sample event to a connector, for an owner who wants to see whether it works.

use axum::{
    Json,
    extract::{Path, State},
};
use bytes::Bytes;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    connectors::{Shares, find},
    error::Failure,
    unavailable,
};
use crate::{
    clock,
    connector::{Problem, ProblemCode},
    delivery::Verdict,
    event::{Event, EventType, EventTypes},
    id::{DeliveryId, ProjectId},
    pipeline::test_send,
};

/// Trials that may be under way at once.
pub const MAX_TRIALS: usize = 16;

/// `POST …/connectors/:id/test`
pub async fn test(
    State(shared): Shares,
    Path((project, connector)): Path<(String, String)>,
) -> Result<Json<Value>, Failure> {
    let found = find(&shared, &project, &connector)?;
    let Some(dispatcher) = &shared.dispatcher else {
        let detail = "This instance does not have the role delivery, so it sends nothing.";
        return Err(Problem::new(ProblemCode::Unavailable, detail).into());
    };
    let Ok(_permit) = shared.trials.try_acquire() else {
        let detail = "Too many trials are under way. Try again soon.";
        return Err(Problem::new(ProblemCode::Unavailable, detail).into());
    };
    let subscriptions = shared.view.subscriptions(&found.key.project).map_err(unavailable)?;
    let Some(target) = subscriptions.target(&found.key.connector) else {
        let detail = "The connector was deleted meanwhile.";
        return Err(Problem::new(ProblemCode::ConnectorNotFound, detail).into());
    };
    let kind = match &found.event_types {
        EventTypes::All => EventType::PaymentSettled,
        EventTypes::Some(kinds) => kinds.first().copied().unwrap_or(EventType::PaymentSettled),
    };
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

/// An event that nobody takes for a real one.
fn sample(kind: EventType, project: &ProjectId) -> Result<Event, String> {
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
