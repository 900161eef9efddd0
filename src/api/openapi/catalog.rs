//! The shapes of a project and of the lists of types.

use serde_json::{Value, json};

use super::{names, reference};
use crate::{connector::Tier, destination::Category};

/// What a project and the lists of types look like.
pub(super) fn schemas() -> Value {
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
                "type": "object", "required": ["type", "title", "category", "docs", "fields"],
                "properties": {
                    "type": reference("schemas", "ConnectorType"),
                    "title": text,
                    "category": categories,
                    "docs": { "type": "string", "format": "uri", "description": "The vendor's documentation." },
                    "fields": { "type": "array", "items": reference("schemas", "ConfigField") },
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
