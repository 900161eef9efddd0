//! What a customer's own page is made of: a project in figures, and what a form needs of the
//! connector types and of the event types.

use axum::{
    Json,
    extract::{Path, State},
};
use serde_json::{Value, json};

use super::{
    connectors::{Shares, project_id},
    error::Failure,
    unavailable,
};
use crate::{
    destination::{ConnectorType, Field, Shape, Way},
    event::{self, EventType},
};

/// `GET /api/projects/:projectId`
pub async fn project(
    State(shared): Shares,
    Path(project): Path<String>,
) -> Result<Json<Value>, Failure> {
    let project = project_id(&project)?;
    let state = shared.view.project(&project).map_err(unavailable)?;
    let of_later = state.project.as_ref().and_then(|project| project.later.text("tier"));
    let connectors = state.connectors.values();
    Ok(Json(json!({
        "id": project,
        "tier": of_later.unwrap_or(state.tier().as_str()),
        "limit": state.tier().limit(),
        "connectors": {
            "total": connectors.len(),
            "active": connectors.clone().filter(|connector| connector.is_active).count(),
            "suspended": connectors.filter(|c| c.suspended_reason.is_some()).count(),
        },
    })))
}

/// `GET /api/connector-types`
pub async fn connector_types() -> Json<Value> {
    let types = ConnectorType::ALL.iter().map(|kind| {
        let spec = kind.spec();
        json!({
            "type": kind,
            "title": spec.title,
            "category": spec.category,
            "docs": spec.docs,
            "fields": spec.fields.iter().map(field).collect::<Vec<_>>(),
            "ways": spec.ways.iter().map(way).collect::<Vec<_>>(),
        })
    });
    Json(json!({ "connectorTypes": types.collect::<Vec<_>>() }))
}

/// One of the ways to authenticate, of which exactly one is given.
fn way(way: &Way) -> Value {
    json!({ "fields": way.fields, "description": way.what })
}

fn field(field: &Field) -> Value {
    let mut told = json!({
        "name": field.name,
        "description": field.help,
        "shape": match field.shape { Shape::Text => "text", Shape::List => "list" },
        "required": field.required,
        "secret": field.secret,
        "example": field.example_value(),
    });
    if !field.words.is_empty() {
        told["enum"] = json!(field.words);
    }
    told
}

/// `GET /api/event-types`
pub async fn event_types() -> Json<Value> {
    let types = EventType::ALL.iter().map(|kind| {
        json!({
            "type": kind,
            "title": kind.title(),
            "description": kind.description(),
            // A constant that the tests read; nothing else can come of it.
            "sample": serde_json::from_str::<Value>(event::sample(*kind)).unwrap_or_default(),
        })
    });
    Json(json!({ "eventTypes": types.collect::<Vec<_>>() }))
}
