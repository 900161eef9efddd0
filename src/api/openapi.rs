//! The API's description, an `OpenAPI` 3.1 document. The shapes of the configurations come from the list of
//! destinations, so that a new one is described as soon as it exists.

mod deliveries;

use serde_json::{Map, Value, json};

use super::{MAX_BODY_BYTES, answers};
use crate::{
    connector::{MAX_NAME_CHARS, ProblemCode},
    delivery::Reason,
    destination::{
        ConnectorType, Field, MAX_FIELD_BYTES, MAX_LIST_ITEMS, Shape, Spec, Way, is_in_a_way,
    },
    event::EventType,
    filter::MAX_FILTER_CHARS,
    id::MAX_ID_CHARS,
};

/// What is left of the caller's limit, with every answer to a known caller.
const RATE_HEADERS: [&str; 3] = ["RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"];
const ID_PATTERN: &str = "^[A-Za-z0-9_.:-]+$";

/// The document.
#[must_use]
pub fn document() -> Value {
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Dunmore connectors",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Manage the connectors that deliver a project's payment events to third-party services. Secrets are shown masked; a mask that is sent back leaves the value as it is. Every error is an RFC 9457 problem with a stable `code`.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "security": [{ "token": [] }],
        "tags": [{ "name": "connectors", "description": "The connectors of a project." }],
        "paths": paths(),
        "components": {
            "securitySchemes": { "token": {
                "type": "http",
                "scheme": "bearer",
                "description": "A token made by `dunmore token create`, or a JWT of the operator's issuer.",
            }},
            "parameters": parameters(),
            "headers": headers(),
            "responses": problem_responses(),
            "schemas": schemas(),
        },
    })
}

pub(super) fn reference(kind: &str, name: &str) -> Value {
    json!({ "$ref": format!("#/components/{kind}/{name}") })
}

fn paths() -> Value {
    let project = reference("parameters", "projectId");
    let connector = reference("parameters", "connectorId");
    let if_match = reference("parameters", "If-Match");
    let page = ["pageLimit", "cursor", "type", "isActive", "suspended"];
    let page = page.map(|name| reference("parameters", name));
    let one = "/api/projects/{projectId}/connectors/{connectorId}";
    let mut paths = Map::new();
    paths.insert("/api/projects/{projectId}/connectors".to_owned(), json!({
        "parameters": [project],
        "get": operation("listConnectors", "List the connectors of a project.",
            ok(200, "A page of the connectors, the oldest first.", "ConnectorList"), &["503"],
            json!({ "parameters": page })),
        "post": operation("createConnector", "Create a connector. When the answer is there, this instance shows it in lists and delivers to it.",
            ok(201, "The connector.", "Connector"), &["409", "413", "415", "503"],
            json!({ "parameters": [reference("parameters", "Idempotency-Key")],
                "requestBody": body("NewConnector") })),
    }));
    paths.insert(one.to_owned(), json!({
        "parameters": [project, connector],
        "get": operation("readConnector", "Read one connector, with its ETag.",
            ok(200, "The connector.", "Connector"), &["404", "503"], json!({})),
        "patch": operation("updateConnector", "Change a connector. `config` is merged field by field; null removes an optional field. A change of `config` lifts a suspension.",
            ok(200, "The connector.", "Connector"), &["404", "409", "412", "413", "415", "503"],
            json!({ "parameters": [if_match], "requestBody": body("ConnectorPatch") })),
        "delete": operation("deleteConnector", "Delete a connector. What waits for it is cancelled.",
            json!({ "204": { "description": "It is gone." } }), &["404", "409", "412", "503"],
            json!({ "parameters": [if_match] })),
    }));
    paths.insert(format!("{one}/resume"), json!({
        "parameters": [project, connector],
        "post": operation("resumeConnector", "Lift a suspension without a new configuration; what is held is delivered. A connector that is not suspended stays as it is.",
            ok(200, "The connector.", "Connector"), &["404", "503"], json!({})),
    }));
    paths.insert(format!("{one}/signing-secret"), json!({
        "parameters": [project, connector],
        "post": operation("replaceSigningSecret", "Make a new secret to sign the requests of a zapier, n8n or make connector with (Standard Webhooks). It is shown this once. The one before goes on to sign for the overlap.",
            ok(200, "The secret.", "SigningSecret"), &["404", "409", "413", "415", "503"],
            json!({ "requestBody": optional(body("SigningSecretRequest")) })),
    }));
    paths.insert(format!("{one}/test"), json!({
        "parameters": [project, connector],
        "post": operation("testConnector", "Send one sample event through the connector and tell what the service said. One that is delivered lifts a suspension. Only an instance with the role delivery can.",
            ok(200, "The verdict.", "Trial"), &["404", "413", "415", "503"],
            json!({ "requestBody": optional(body("TrialRequest")) })),
    }));
    deliveries::paths(&mut paths, one);
    paths.insert(format!("{one}/filter/test"), json!({
        "parameters": [project, connector],
        "post": operation("testFilter", "Tell whether an event passes a filter, or how many of the last days' events do. Nothing is sent and nothing is changed.",
            ok(200, "The answer.", "FilterAnswer"), &["404", "413", "415", "503"],
            json!({ "requestBody": body("FilterTrial") })),
    }));
    paths.insert("/api/projects/{projectId}".to_owned(), json!({
        "parameters": [project],
        "get": operation("readProject", "Read a project's tier and how many connectors it has. A project that was never named is on the smallest tier.",
            ok(200, "The project.", "Project"), &["503"], json!({})),
    }));
    paths.insert("/api/connector-types".to_owned(), json!({
        "get": operation("listConnectorTypes", "List the connector types and the fields of their configurations: what a form needs.",
            ok(200, "The types.", "ConnectorTypeList"), &[], json!({})),
    }));
    paths.insert(
        "/api/event-types".to_owned(),
        json!({
            "get": operation("listEventTypes", "List the event types, each with a sample.",
                ok(200, "The types.", "EventTypeList"), &[], json!({})),
        }),
    );
    paths.insert(
        "/openapi.json".to_owned(),
        json!({
            "get": {
                "operationId": "openapi",
                "summary": "This document.",
                "security": [],
                "responses": { "200": {
                    "description": "The document.",
                    "content": { "application/json": { "schema": { "type": "object" } } },
                } },
            },
        }),
    );
    Value::Object(paths)
}

/// An operation with its own answers, those that every one has, and some of the others.
fn operation(id: &str, summary: &str, mut answers: Value, errors: &[&str], more: Value) -> Value {
    for status in ["400", "401", "403", "429", "500"].iter().chain(errors) {
        answers[*status] = reference("responses", status);
    }
    let mut operation = json!({
        "operationId": id,
        "summary": summary,
        "tags": ["connectors"],
        "responses": answers,
    });
    if let (Some(operation), Value::Object(more)) = (operation.as_object_mut(), more) {
        operation.extend(more);
    }
    operation
}

fn ok(status: u16, description: &str, schema: &str) -> Value {
    let mut answer = json!({
        "description": description,
        "content": { "application/json": { "schema": reference("schemas", schema) } },
    });
    if schema == "Connector" {
        answer["headers"] = json!({ "ETag": reference("headers", "ETag") });
        if status == 201 {
            answer["headers"]["Location"] = reference("headers", "Location");
        }
    }
    for name in RATE_HEADERS {
        answer["headers"][name] = reference("headers", name);
    }
    let mut answers = Map::new();
    answers.insert(status.to_string(), answer);
    Value::Object(answers)
}

fn body(schema: &str) -> Value {
    json!({
        "required": true,
        "description": format!("At most {MAX_BODY_BYTES} bytes."),
        "content": { "application/json": { "schema": reference("schemas", schema) } },
    })
}

fn optional(mut body: Value) -> Value {
    body["required"] = json!(false);
    body
}

fn parameters() -> Value {
    let id = reference("schemas", "Id");
    json!({
        "projectId": { "name": "projectId", "in": "path", "required": true, "schema": id },
        "connectorId": { "name": "connectorId", "in": "path", "required": true, "schema": id },
        "Idempotency-Key": {
            "name": "Idempotency-Key", "in": "header", "required": false,
            "description": "A repeat with the same key and body gives the same connector for as long as that exists.",
            "schema": { "type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$" },
        },
        "If-Match": {
            "name": "If-Match", "in": "header", "required": false,
            "description": "The ETag of the version that is meant; 412 `connector_changed` when it is another by now.",
            "schema": { "type": "string", "pattern": "^(\\*|\"[0-9]+\")$" },
        },
        "pageLimit": {
            "name": "limit", "in": "query", "required": false,
            "schema": { "type": "integer", "minimum": 1, "maximum": super::MAX_PAGE, "default": super::DEFAULT_PAGE },
        },
        "cursor": {
            "name": "cursor", "in": "query", "required": false,
            "description": "`nextCursor` of the page before.",
            "schema": { "type": "string" },
        },
        "type": { "name": "type", "in": "query", "required": false, "schema": reference("schemas", "ConnectorType") },
        "isActive": { "name": "isActive", "in": "query", "required": false, "schema": { "type": "boolean" } },
        "suspended": { "name": "suspended", "in": "query", "required": false, "schema": { "type": "boolean" } },
    })
}

fn headers() -> Value {
    json!({
        "RateLimit-Limit": { "description": "Requests that may come at once after a pause.", "schema": { "type": "integer" } },
        "RateLimit-Remaining": { "description": "How many of them are left, of the token's or of the project's, whichever are fewer.", "schema": { "type": "integer" } },
        "RateLimit-Reset": { "description": "In so many seconds all are there again; on a 429, one is.", "schema": { "type": "integer" } },
        "ETag": { "description": "The connector's version.", "schema": { "type": "string" } },
        "Location": { "description": "Where the connector is.", "schema": { "type": "string" } },
        "Retry-After": { "description": "Try again after so many seconds.", "schema": { "type": "integer", "minimum": 1 } },
        "WWW-Authenticate": { "description": "How to say who calls.", "schema": { "type": "string" } },
    })
}

/// The codes of this API: others are the admin API's.
fn public_codes() -> impl Iterator<Item = ProblemCode> {
    let of_admin = [ProblemCode::AdminDisabled];
    ProblemCode::ALL.iter().copied().filter(move |code| !of_admin.contains(code))
}

fn problem_responses() -> Value {
    let mut responses = Map::new();
    let statuses = [400, 401, 403, 404, 409, 412, 413, 415, 429, 500, 503];
    for status in statuses {
        let of_status = public_codes().filter(|code| match status {
            412 => *code == ProblemCode::ConnectorChanged,
            status => code.status() == status,
        });
        let codes: Vec<&str> = of_status.map(ProblemCode::as_str).collect();
        let mut response = json!({
            "description": format!("A problem: {}.", codes.join(", ")),
            "content": { "application/problem+json": { "schema": reference("schemas", "Problem") } },
        });
        let header = match status {
            401 => Some("WWW-Authenticate"),
            429 | 503 => Some("Retry-After"),
            _ => None,
        };
        if let Some(header) = header {
            response["headers"] =
                Map::from_iter([(header.to_owned(), reference("headers", header))]).into();
        }
        responses.insert(status.to_string(), response);
    }
    Value::Object(responses)
}

fn schemas() -> Value {
    let time = json!({ "type": "string", "format": "date-time" });
    let mut schemas = json!({
        "Id": { "type": "string", "minLength": 1, "maxLength": MAX_ID_CHARS, "pattern": ID_PATTERN },
        "ConnectorType": names(ConnectorType::ALL.iter().map(|kind| kind.as_str()).collect()),
        "EventType": names(EventType::ALL.iter().map(|kind| kind.as_str()).collect()),
        "EventTypes": {
            "description": "The event types that the connector wants; `*` stands for all of payments, later ones too. Notices (`connector.…`) are wanted by who names them; a connector gets none of itself.",
            "type": "array", "minItems": 1, "maxItems": EventType::ALL.len() + 1, "uniqueItems": true,
            "items": { "anyOf": [reference("schemas", "EventType"), { "const": "*" }] },
        },
        "Name": { "type": "string", "minLength": 1, "maxLength": MAX_NAME_CHARS,
            "description": "What its owner calls it; no line breaks or other control characters.",
            "examples": ["Sales channel"] },
        "Filter": { "type": "string", "minLength": 1, "maxLength": MAX_FILTER_CHARS,
            "description": "Which events it wants beside their type: an expression of the Common Expression Language (CEL) over `event`. One that fails on an event lets it through.",
            "examples": ["decimal(event.data.amount) >= decimal(\"100\")", "event.data.currency in [\"USDC\", \"EURC\"]"] },
        "Reason": names(Reason::ALL.iter().map(|reason| reason.as_str()).collect()),
        "Connector": {
            "type": "object",
            "required": ["id", "projectId", "type", "config", "eventTypes", "isActive", "createdAt", "updatedAt"],
            "properties": {
                "id": reference("schemas", "Id"),
                "projectId": reference("schemas", "Id"),
                "type": reference("schemas", "ConnectorType"),
                "config": { "type": "object", "description": "As it was given, secrets masked." },
                "eventTypes": reference("schemas", "EventTypes"),
                "isActive": { "type": "boolean" },
                "name": reference("schemas", "Name"),
                "filter": reference("schemas", "Filter"),
                "suspendedReason": { "type": "string", "description": "Why deliveries are held until `config` changes, or the connector is resumed." },
                "suspendedAt": { "type": "string", "format": "date-time", "description": "Since when deliveries are held." },
                "heldCount": { "type": "integer", "minimum": 0, "description": "How many deliveries are held; left out where the instance that answers does not keep them." },
                "createdAt": time,
                "updatedAt": time,
            },
        },
        "ConnectorList": {
            "type": "object", "required": ["connectors", "nextCursor"],
            "properties": {
                "connectors": { "type": "array", "maxItems": super::MAX_PAGE, "items": reference("schemas", "Connector") },
                "nextCursor": { "type": ["string", "null"], "description": "The `cursor` of the next page; null on the last one." },
            },
        },
        "ConnectorPatch": {
            "type": "object", "additionalProperties": false,
            "description": "What is different; what is left out stays.",
            "properties": {
                "config": { "type": "object", "description": "Fields of the connector's type; null removes an optional one." },
                "eventTypes": reference("schemas", "EventTypes"),
                "isActive": { "type": "boolean", "description": "Switches the connector on or off." },
                "name": { "description": "Null, or an empty text, removes it.",
                    "anyOf": [reference("schemas", "Name"), { "type": "null" }, { "const": "" }] },
                "filter": { "description": "Null, or an empty text, removes it.",
                    "anyOf": [reference("schemas", "Filter"), { "type": "null" }, { "const": "" }] },
            },
        },
        "Problem": {
            "type": "object", "required": ["type", "title", "status", "detail", "code"],
            "properties": {
                "type": { "type": "string", "format": "uri" },
                "title": { "type": "string" },
                "status": { "type": "integer" },
                "detail": { "type": "string" },
                "code": names(public_codes().map(ProblemCode::as_str).collect()),
                "errors": { "type": "array", "items": {
                    "type": "object", "required": ["field", "message"],
                    "properties": { "field": { "type": "string" }, "message": { "type": "string" } },
                } },
            },
        },
    });
    for more in [answers::trials(), answers::catalog(), deliveries::schemas()] {
        if let (Some(schemas), Value::Object(more)) = (schemas.as_object_mut(), more) {
            schemas.extend(more);
        }
    }
    let (mut kinds, mut mapping) = (Vec::new(), Map::new());
    for kind in ConnectorType::ALL {
        let name = kind.as_str();
        let (config, new) = (format!("{name}Config"), format!("{name}Connector"));
        schemas[&config] = config_schema(*kind);
        schemas[&new] = json!({
            "type": "object", "additionalProperties": false,
            "required": ["type", "config", "eventTypes"],
            "properties": {
                "type": { "const": name },
                "config": reference("schemas", &config),
                "eventTypes": reference("schemas", "EventTypes"),
                "name": reference("schemas", "Name"),
                "filter": reference("schemas", "Filter"),
                "isActive": { "type": "boolean", "default": true },
            },
        });
        mapping.insert(name.to_owned(), json!(format!("#/components/schemas/{new}")));
        kinds.push(reference("schemas", &new));
    }
    schemas["NewConnector"] =
        json!({ "oneOf": kinds, "discriminator": { "propertyName": "type", "mapping": mapping } });
    schemas
}

/// A closed list of names.
#[expect(clippy::needless_pass_by_value, reason = "it reads better where it is called")]
pub(super) fn names(items: Vec<&str>) -> Value {
    json!({ "type": "string", "enum": items })
}

fn config_schema(kind: ConnectorType) -> Value {
    let spec = kind.spec();
    let required: Vec<&str> =
        spec.fields.iter().filter(|field| field.required).map(|field| field.name).collect();
    let fields = spec.fields.iter().map(|field| (field.name.to_owned(), field_schema(field)));
    let mut schema = json!({
        "type": "object", "additionalProperties": false,
        "title": spec.title,
        "externalDocs": { "url": spec.docs },
        "required": required,
        "properties": fields.collect::<Map<String, Value>>(),
    });
    if !spec.ways.is_empty() {
        schema["oneOf"] = spec.ways.iter().map(|way| way_schema(spec, way)).collect();
    }
    schema
}

/// One way to authenticate, complete and without the fields of the others.
fn way_schema(spec: &Spec, way: &Way) -> Value {
    let others = spec
        .fields
        .iter()
        .map(|field| field.name)
        .filter(|name| is_in_a_way(spec.ways, name) && !way.fields.contains(name));
    let absent: Map<String, Value> =
        others.map(|name| (name.to_owned(), Value::Bool(false))).collect();
    json!({ "title": way.what, "required": way.fields, "properties": absent })
}

fn field_schema(field: &Field) -> Value {
    let text = match field.words {
        [] => json!({ "type": "string", "minLength": 1, "maxLength": MAX_FIELD_BYTES }),
        words => names(words.to_vec()),
    };
    let mut schema = match field.shape {
        Shape::Text => text,
        Shape::List => {
            json!({ "type": "array", "minItems": 1, "maxItems": MAX_LIST_ITEMS, "items": text })
        }
    };
    schema["description"] = json!(field.help);
    schema["examples"] = json!([field.example_value()]);
    if field.secret {
        schema["x-secret"] = json!(true);
    }
    schema
}
