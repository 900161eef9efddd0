//! The paths and shapes of deliveries.

use serde_json::{Map, Value, json};

use super::{body, names, ok, operation, reference};
use crate::{
    api::deliveries::{DEFAULT_PAGE, MAX_PAGE},
    delivery::{Outcome, Source},
};

/// Adds what there is about deliveries; `one` is a connector's path.
pub(super) fn paths(paths: &mut Map<String, Value>, one: &str) {
    let [project, connector] =
        ["projectId", "connectorId"].map(|name| reference("parameters", name));
    let list = |id: &str, of: &str| {
        let summary = format!(
            "List the attempts of deliveries of {of}, the newest first, from Kafka: the same on every \
             instance. A page may end early where much has to be read; go on with its nextCursor."
        );
        let answer = ok(200, "A page of attempts.", "DeliveryList");
        operation(id, &summary, answer, &["404", "503"], json!({ "parameters": filters() }))
    };
    paths.insert(
        format!("{one}/deliveries"),
        json!({
            "parameters": [project, connector],
            "get": list("listDeliveries", "a connector"),
        }),
    );
    paths.insert(
        "/api/projects/{projectId}/deliveries".to_owned(),
        json!({
            "parameters": [project],
            "get": list("listProjectDeliveries", "a project's connectors"),
        }),
    );
    let delivery = json!({
        "name": "deliveryId", "in": "path", "required": true,
        "schema": { "type": "string", "format": "uuid" },
    });
    paths.insert(format!("{one}/deliveries/{{deliveryId}}/resend"), json!({
        "parameters": [project, connector, delivery],
        "post": operation("resendDelivery", "Send one delivery again, under its id and the connector's limits. Its latest attempt and its event must still be in the log.",
            ok(202, "It is on its way.", "Resent"), &["404", "409", "503"], json!({})),
    }));
    paths.insert(format!("{one}/recover"), json!({
        "parameters": [project, connector],
        "post": operation("recoverDeliveries", "Send again what failed, or was never attempted, since a moment. What arrived, what waits and what is on its way already is left out. 200 where nothing is sent, 202 where it is on its way.",
            recovered(), &["404", "409", "413", "415", "503"],
            json!({ "requestBody": body("Recovery") })),
    }));
}

fn recovered() -> Value {
    let mut answers = ok(200, "What would be sent.", "Recovered");
    let accepted = ok(202, "It is on its way.", "Recovered");
    answers["202"] = accepted["202"].clone();
    answers
}

fn filters() -> Vec<Value> {
    let one = |name: &str, schema: Value| json!({ "name": name, "in": "query", "required": false, "schema": schema });
    let time = json!({ "type": "string", "format": "date-time" });
    let limit =
        json!({ "type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": DEFAULT_PAGE });
    vec![
        one("limit", limit),
        reference("parameters", "cursor"),
        one("outcome", reference("schemas", "Outcome")),
        one("eventType", reference("schemas", "EventType")),
        one("reason", reference("schemas", "Reason")),
        one("eventId", reference("schemas", "Id")),
        one("from", time.clone()),
        one("to", time),
    ]
}

pub(super) fn schemas() -> Value {
    let time = json!({ "type": "string", "format": "date-time" });
    let count = json!({ "type": "integer", "minimum": 0 });
    let cursor = json!({ "type": ["string", "null"], "description": "The `cursor` of the next page; null where the log begins." });
    let id = reference("schemas", "Id");
    json!({
        "Outcome": names(Outcome::ALL.iter().map(|outcome| outcome.as_str()).collect()),
        "Delivery": {
            "type": "object",
            "required": ["deliveryId", "projectId", "connectorId", "connectorType", "eventId", "eventType", "source", "attempt", "outcome", "at"],
            "properties": {
                "deliveryId": { "type": "string", "format": "uuid" },
                "projectId": id,
                "connectorId": id,
                "connectorType": reference("schemas", "ConnectorType"),
                "eventId": id,
                "eventType": reference("schemas", "EventType"),
                "source": names(Source::ALL.iter().map(|source| source.as_str()).collect()),
                "attempt": count,
                "outcome": reference("schemas", "Outcome"),
                "reason": reference("schemas", "Reason"),
                "detail": { "type": "string" },
                "status": { "type": "integer" },
                "durationMs": count,
                "tier": { "type": "string", "description": "The retry tier that it waits in; `held` while the connector is suspended." },
                "job": { "type": "string", "description": "The replay, recovery or resend that asked for it." },
                "at": time,
            },
        },
        "DeliveryList": {
            "type": "object", "required": ["deliveries", "nextCursor"],
            "properties": {
                "deliveries": { "type": "array", "maxItems": MAX_PAGE, "items": reference("schemas", "Delivery") },
                "nextCursor": cursor,
            },
        },
        "Resent": {
            "type": "object", "required": ["deliveryId", "job"],
            "properties": {
                "deliveryId": { "type": "string", "format": "uuid" },
                "job": { "type": "string", "description": "What the attempts name." },
            },
        },
        "Recovery": {
            "type": "object", "additionalProperties": false, "required": ["since"],
            "properties": {
                "since": { "type": "string", "format": "date-time", "description": "Events that Kafka took since this moment; not in the future." },
                "dryRun": { "type": "boolean", "default": false, "description": "Count, and send nothing." },
            },
        },
        "Recovered": {
            "type": "object",
            "required": ["since", "dryRun", "deliveries", "delivered", "waiting", "unknown"],
            "properties": {
                "since": time,
                "dryRun": { "type": "boolean" },
                "deliveries": { "type": "integer", "minimum": 0, "description": "What is, or would be, sent." },
                "delivered": { "type": "integer", "minimum": 0, "description": "Left out: it arrived." },
                "waiting": { "type": "integer", "minimum": 0, "description": "Left out: it waits in a retry tier, or is on its way." },
                "unknown": { "type": "integer", "minimum": 0, "description": "Left out: attempts do not reach back so far." },
                "job": { "type": "string", "description": "What the attempts name." },
            },
        },
    })
}
