//! What answers look like, for the API's description.

use serde_json::{Value, json};

use super::openapi::{names, reference};
use crate::{
    connector::Tier,
    destination::Category,
    filter::MAX_EXAMPLES,
    operations::{MAX_FILTER_DAYS, MAX_FILTER_RECORDS},
};

/// What trials look like.
pub(super) fn trials() -> Value {
    json!({
        "TrialRequest": {
            "type": "object", "additionalProperties": false,
            "properties": { "eventType": reference("schemas", "EventType") },
        },
        "FilterTrial": {
            "type": "object", "additionalProperties": false,
            "description": "An `event`, the `eventType` of a sample, or the `days` whose events are looked at.",
            "properties": {
                "filter": { "anyOf": [reference("schemas", "Filter")], "description": "The connector's own one where it is left out." },
                "event": { "type": "object", "description": "A payment event as producers write it." },
                "eventType": reference("schemas", "EventType"),
                "days": { "type": "integer", "minimum": 1, "maximum": MAX_FILTER_DAYS,
                    "description": "The project's events of the connector's event types that Kafka took on in the last so many days." },
            },
            "oneOf": [{ "required": ["event"] }, { "required": ["eventType"] }, { "required": ["days"] }],
        },
        "FilterAnswer": { "oneOf": [reference("schemas", "FilterVerdict"), reference("schemas", "FilterCount")] },
        "FilterCount": {
            "type": "object", "required": ["passed", "looked", "errors", "examples", "complete"],
            "description": "For `days`.",
            "properties": {
                "passed": { "type": "integer", "minimum": 0, "description": "Events that would be delivered, those on which the filter fails among them." },
                "looked": { "type": "integer", "minimum": 0, "description": "Events that were looked at." },
                "errors": { "type": "integer", "minimum": 0, "description": "Events on which the filter fails." },
                "examples": { "type": "array", "maxItems": MAX_EXAMPLES * 3, "items": reference("schemas", "FilterExample"),
                    "description": format!("The last events that pass, on which the filter fails, and that are filtered out: {MAX_EXAMPLES} of each at most.") },
                "complete": { "type": "boolean", "description": format!("False where there are more events than were looked at: one request reads the newest {MAX_FILTER_RECORDS} records, for ten seconds.") },
            },
        },
        "FilterExample": {
            "type": "object", "required": ["eventId", "eventType", "occurredAt", "passes"],
            "properties": {
                "eventId": reference("schemas", "Id"),
                "eventType": reference("schemas", "EventType"),
                "occurredAt": { "type": "string", "format": "date-time" },
                "passes": { "type": "boolean" },
                "error": { "type": "string", "description": "Why the filter fails on this event, which is delivered then." },
            },
        },
        "FilterVerdict": {
            "type": "object", "required": ["passes"],
            "description": "For `event` and `eventType`.",
            "properties": {
                "passes": { "type": "boolean" },
                "error": { "type": "string", "description": "Why the filter fails on this event, which is delivered then." },
            },
        },
        "SigningSecretRequest": {
            "type": "object", "additionalProperties": false,
            "properties": { "overlap": {
                "type": "string", "default": "24h", "examples": ["24h", "0s", "7d"],
                "description": "How long the secret before goes on to sign, from 0s to 7d.",
            } },
        },
        "SigningSecret": {
            "type": "object", "required": ["signingSecret", "previousValidUntil"],
            "properties": {
                "signingSecret": { "type": "string", "description": "The new secret; it is never shown again." },
                "previousValidUntil": { "type": ["string", "null"], "format": "date-time", "description": "Until when the secret before signs too; null where there is none." },
            },
        },
        "Trial": {
            "type": "object", "required": ["eventId", "eventType", "verdict"],
            "properties": {
                "eventId": reference("schemas", "Id"),
                "eventType": reference("schemas", "EventType"),
                "verdict": names(vec!["delivered", "skipped", "retry", "dead", "broken", "moved"]),
                "reason": reference("schemas", "Reason"),
                "detail": { "type": "string", "description": "The service's words." },
                "status": { "type": "integer", "description": "The service's HTTP status." },
                "durationMs": { "type": "integer", "minimum": 0 },
                "resumed": { "type": "boolean", "description": "True where the trial lifted a suspension." },
            },
        },
    })
}

/// What a project and the lists of types look like.
pub(super) fn catalog() -> Value {
    let count = json!({ "type": "integer", "minimum": 0 });
    let text = json!({ "type": "string" });
    let flag = json!({ "type": "boolean" });
    let categories = names(Category::ALL.iter().map(|category| category.as_str()).collect());
    json!({
        "Project": {
            "type": "object", "required": ["id", "tier", "limit", "connectors"],
            "properties": {
                "id": reference("schemas", "Id"),
                "tier": names(Tier::ALL.iter().map(|tier| tier.as_str()).collect()),
                "limit": { "type": ["integer", "null"], "minimum": 0, "description": "How many connectors it may have; null is no limit." },
                "connectors": {
                    "type": "object", "required": ["total", "active", "suspended"],
                    "properties": {
                        "total": count,
                        "active": { "type": "integer", "minimum": 0, "description": "Those that are switched on, suspended ones too." },
                        "suspended": count,
                    },
                },
            },
        },
        "ConnectorTypeList": {
            "type": "object", "required": ["connectorTypes"],
            "properties": { "connectorTypes": { "type": "array", "items": {
                "type": "object", "required": ["type", "title", "category", "docs", "fields", "ways"],
                "properties": {
                    "type": reference("schemas", "ConnectorType"),
                    "title": text,
                    "category": categories,
                    "docs": { "type": "string", "format": "uri", "description": "The vendor's documentation." },
                    "fields": { "type": "array", "items": reference("schemas", "ConfigField") },
                    "ways": { "type": "array", "description": "Where there are some, exactly one of them is given, whole.", "items": {
                        "type": "object", "required": ["fields", "description"],
                        "properties": { "fields": { "type": "array", "items": text }, "description": text },
                    } },
                },
            } } },
        },
        "ConfigField": {
            "type": "object", "required": ["name", "description", "shape", "required", "secret", "example"],
            "properties": {
                "name": text,
                "description": text,
                "shape": names(vec!["text", "list"]),
                "required": flag,
                "secret": { "type": "boolean", "description": "Comes back masked." },
                "example": { "type": ["string", "array"], "items": text },
                "enum": { "type": "array", "items": text, "description": "The only values, where there are few." },
            },
        },
        "EventTypeList": {
            "type": "object", "required": ["eventTypes"],
            "properties": { "eventTypes": { "type": "array", "items": {
                "type": "object", "required": ["type", "title", "description", "sample"],
                "properties": {
                    "type": reference("schemas", "EventType"),
                    "title": text,
                    "description": text,
                    "sample": { "type": "object", "description": "An event as its producer writes it." },
                },
            } } },
        },
    })
}
