//! Payment events and connector commands as their producers write them.

#![allow(dead_code, reason = "every test binary uses another part of this")]

use serde_json::{Value, json};

/// The event types of the contract.
pub(crate) const TYPES: [&str; 8] = [
    "payment.verified",
    "payment.settled",
    "payment.failed",
    "customer.first_payment",
    "customer.milestone",
    "endpoint.created",
    "endpoint.pricing_changed",
    "revenue.daily_summary",
];

/// A valid event.
pub(crate) fn event(id: &str, kind: &str, project: &str) -> Value {
    let data = match kind {
        "payment.failed" => json!({"paymentId": "pay_1", "endpointId": "ep_1", "amount": "0.5",
            "currency": "USDC", "stage": "settle", "reason": "insufficient_funds"}),
        "customer.first_payment" => json!({"customerId": "0x52", "paymentId": "pay_1",
            "endpointId": "ep_1", "amount": "1.25", "currency": "USDC"}),
        "customer.milestone" => json!({"customerId": "0x52", "milestone": "100_calls",
            "totalSpent": "125.000000", "currency": "USDC"}),
        "endpoint.created" => json!({"endpointId": "ep_1", "path": "/v1/quote", "price": "0.01",
            "currency": "USDC", "network": "base"}),
        "endpoint.pricing_changed" => json!({"endpointId": "ep_1", "path": "/v1/quote",
            "oldPrice": "0.01", "newPrice": "0.02", "currency": "USDC"}),
        "revenue.daily_summary" => json!({"date": "2026-11-22", "revenue": "512.25",
            "currency": "USDC", "paymentCount": 410, "customerCount": 37, "failedCount": 3}),
        _ => json!({"paymentId": "pay_1", "endpointId": "ep_1", "customerId": "0x52",
            "amount": "1.250000", "currency": "USDC", "network": "base", "txHash": "0xab"}),
    };
    json!({"id": id, "type": kind, "projectId": project,
        "occurredAt": "2026-11-23T08:00:00.000Z", "data": data})
}

/// `project.set_tier`
pub(crate) fn set_tier(id: &str, project: &str, tier: &str) -> Value {
    json!({"id": id, "type": "project.set_tier", "projectId": project, "tier": tier})
}

/// `connector.create`
pub(crate) fn create(
    id: &str,
    project: &str,
    connector: &str,
    kind: &str,
    url: &str,
    events: &[&str],
) -> Value {
    json!({"id": id, "type": "connector.create", "projectId": project, "connectorId": connector,
        "connector": {"type": kind, "config": {"webhookUrl": url}, "eventTypes": events}})
}

/// `connector.update`
pub(crate) fn update(id: &str, project: &str, connector: &str, patch: &Value) -> Value {
    json!({"id": id, "type": "connector.update", "projectId": project, "connectorId": connector,
        "patch": patch})
}

/// `connector.delete`
pub(crate) fn delete(id: &str, project: &str, connector: &str) -> Value {
    json!({"id": id, "type": "connector.delete", "projectId": project, "connectorId": connector})
}

/// `connector.suspend`
pub(crate) fn suspend(id: &str, project: &str, connector: &str, reason: &str) -> Value {
    json!({"id": id, "type": "connector.suspend", "projectId": project, "connectorId": connector,
        "reason": reason})
}
