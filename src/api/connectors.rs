//! List, create, read, change and delete connectors.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Extension, Json,
    body::Bytes,
    extract::{Path, RawQuery, State, rejection::BytesRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Shared, error::Failure, query::Query, unavailable};
use crate::{
    clock,
    connector::{
        Change, Command, CommandBody, ConfigValue, Connector, Context, Decision, FieldError, Later,
        MAX_ACTOR_CHARS, Problem, ProblemCode, Project, ProjectState, Refused, Tier, decide,
    },
    destination::{ConnectorType, cut},
    id::{CommandId, ConnectorId, ConnectorKey, ProjectId},
    secrets::Keyring,
    tokens::{Caller, digest_of},
};

/// Connectors on a page of the list unless the caller says how many.
pub const DEFAULT_PAGE: usize = 100;
/// The most connectors on a page.
pub const MAX_PAGE: usize = 1000;
/// Of the hash by which a cursor's project is recognised, in characters.
pub(super) const CURSOR_CHECK_CHARS: usize = 16;
/// The longest `Idempotency-Key`, in bytes.
const MAX_KEY_BYTES: usize = 255;
/// The namespace of the ids that come from idempotency keys (a `UUIDv4` chosen once).
const KEYS: Uuid = Uuid::from_u128(0x2f7a_41c0_8d0e_4e5b_a6f3_7b1d_5c90_e84a);

pub(super) type Shares = State<Arc<Shared>>;
pub(super) type Body = Result<Bytes, BytesRejection>;

/// `GET …/connectors`
pub async fn list(
    State(shared): Shares,
    Path(project): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, Failure> {
    let project = project_id(&project)?;
    let mut query =
        Query::read(query.as_deref(), &["limit", "cursor", "type", "isActive", "suspended"])?;
    let limit = query.number("limit", 1..=MAX_PAGE, DEFAULT_PAGE);
    let kind = query.parsed::<ConnectorType>("type");
    let (is_active, suspended) = (query.boolean("isActive"), query.boolean("suspended"));
    let after = query.text("cursor").map(|text| read_cursor(&project, text));
    if after == Some(None) {
        query.refuse("cursor", "is no cursor of this project's list: use nextCursor as it is");
    }
    query.check()?;
    let after = after.flatten();
    let state = shared.view.project(&project).map_err(unavailable)?;
    let wanted = |connector: &&Connector| {
        kind.is_none_or(|kind| connector.kind == kind)
            && is_active.is_none_or(|is_active| connector.is_active == is_active)
            && suspended.is_none_or(|is_so| connector.suspended_reason.is_some() == is_so)
            && after.as_ref().is_none_or(|after| place_of(connector) > (after.0, &after.1))
    };
    let mut connectors: Vec<&Connector> = state.connectors.values().filter(wanted).collect();
    connectors.sort_by_key(|connector| place_of(connector));
    let next = connectors.len() > limit;
    connectors.truncate(limit);
    let next = connectors.last().filter(|_| next).map(|last| cursor(last));
    let connectors: Vec<Value> = connectors.into_iter().map(|one| public(&shared, one)).collect();
    Ok(Json(json!({ "connectors": connectors, "nextCursor": next })))
}

/// Where a connector stands in its project's list: the oldest first.
fn place_of(connector: &Connector) -> (i64, &str) {
    (connector.created_at.millis(), connector.key.connector.as_str())
}

/// Says where the next page begins, whatever is created or deleted meanwhile.
fn cursor(last: &Connector) -> String {
    let (created_at, id) = place_of(last);
    let place = format!("{created_at}:{id}");
    URL_SAFE_NO_PAD.encode(format!("{}:{place}", check_of(&last.key.project, &place)))
}

fn read_cursor(project: &ProjectId, text: &str) -> Option<(i64, String)> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
    let (check, place) = text.split_once(':')?;
    let (created_at, id) = place.split_once(':')?;
    let is_its = check == check_of(project, place);
    is_its.then_some((created_at.parse().ok()?, ConnectorId::parse(id).ok()?.as_str().to_owned()))
}

/// Tells a cursor of another project, and one that was not made here. It protects nothing: what a
/// cursor can reach is what its caller may read anyway.
fn check_of(project: &ProjectId, place: &str) -> String {
    digest_of(&format!("{project}:{place}"))[..CURSOR_CHECK_CHARS].to_owned()
}

/// `GET …/connectors/:id`
pub async fn read(
    State(shared): Shares,
    Path((project, connector)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let found = find(&shared, &project, &connector)?;
    Ok(shown(StatusCode::OK, found.version, public(&shared, &found)))
}

/// A connector as its owner sees it; with what is held, where this instance keeps that.
fn public(shared: &Shared, connector: &Connector) -> Value {
    let mut json = connector.to_public_json();
    let dispatcher = shared.dispatcher.as_ref();
    if let Some(count) = dispatcher.and_then(|dispatcher| dispatcher.held_count(&connector.key)) {
        json["heldCount"] = json!(count);
    }
    json
}

/// `POST …/connectors`
pub async fn create(
    State(shared): Shares,
    Extension(caller): Extension<Caller>,
    Path(project): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    let project = project_id(&project)?;
    let body = object(&headers, body)?;
    let repeat_key = idempotency_key(&headers)?;
    let (connector, command) = match repeat_key {
        None => {
            let id = Uuid::now_v7();
            (ConnectorId::from_uuid(id), CommandId::from_uuid(id))
        }
        Some(key) => {
            let namespace = Uuid::new_v5(&KEYS, project.as_str().as_bytes());
            let id = Uuid::new_v5(&namespace, key.as_bytes());
            (ConnectorId::from_uuid(id), CommandId::from_uuid(id))
        }
    };
    let key = ConnectorKey { project: project.clone(), connector: connector.clone() };
    let nothing_yet = unlimited(&project);
    let command = json!({
        "id": command,
        "type": "connector.create",
        "projectId": project,
        "connectorId": connector,
        "connector": body,
        "actor": actor(&caller),
    });
    let mut command = read_command(&shared, &nothing_yet, command)?;
    // What is wrong with the request itself is told at once. Whether there is room is the
    // registrar's decision.
    let Change::ConnectorSet(wanted) = judge(&shared, &nothing_yet, &command)? else {
        return Err(Problem::new(ProblemCode::Internal, "A create creates nothing.").into());
    };
    if let Some(existing) = shared.view.connector(&key).map_err(unavailable)? {
        return repeated(&shared, &wanted, &existing);
    }
    shared.view.keyring().seal_command(&mut command, wanted.kind);
    shared.commands.run(&command, &shared.view).await?;
    // Two requests with one key may have raced: the connector is what the first one asked for.
    match shared.view.connector(&key).map_err(unavailable)? {
        Some(made) if repeat_key.is_some() => repeated(&shared, &wanted, &made),
        Some(made) => Ok(created(&made)),
        None => Err(no_such(&connector).into()),
    }
}

/// `PATCH …/connectors/:id`
pub async fn update(
    State(shared): Shares,
    Extension(caller): Extension<Caller>,
    Path((project, connector)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    let found = find(&shared, &project, &connector)?;
    let body = object(&headers, body)?;
    let mut command = json!({
        "id": CommandId::from_uuid(Uuid::now_v7()),
        "type": "connector.update",
        "projectId": found.key.project,
        "connectorId": found.key.connector,
        "patch": body,
        "actor": actor(&caller),
    });
    let is_conditional = if_version(&headers, &found, &mut command)?;
    let state = shared.view.project(&found.key.project).map_err(unavailable)?;
    let mut command = read_command(&shared, &state, command)?;
    judge(&shared, &state, &command).map_err(|problem| precondition(problem, is_conditional))?;
    shared.view.keyring().seal_command(&mut command, found.kind);
    let done = shared.commands.run(&command, &shared.view).await;
    done.map_err(|problem| precondition(problem, is_conditional))?;
    as_it_is(&shared, &found.key)
}

/// `DELETE …/connectors/:id`
pub async fn delete(
    State(shared): Shares,
    Extension(caller): Extension<Caller>,
    Path((project, connector)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<StatusCode, Failure> {
    let found = find(&shared, &project, &connector)?;
    let mut command = json!({
        "id": CommandId::from_uuid(Uuid::now_v7()),
        "type": "connector.delete",
        "projectId": found.key.project,
        "connectorId": found.key.connector,
        "actor": actor(&caller),
    });
    let is_conditional = if_version(&headers, &found, &mut command)?;
    let command = Command::from_value(command).map_err(refused)?;
    let done = shared.commands.run(&command, &shared.view).await;
    done.map_err(|problem| precondition(problem, is_conditional))?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST …/connectors/:id/resume`
pub async fn resume(
    State(shared): Shares,
    Extension(caller): Extension<Caller>,
    Path((project, connector)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let found = find(&shared, &project, &connector)?;
    lift(&shared, &found.key, &caller).await?;
    as_it_is(&shared, &found.key)
}

/// The connector after a command, with its own version: what changed nothing made none.
fn as_it_is(shared: &Shared, key: &ConnectorKey) -> Result<Response, Failure> {
    let now = shared.view.connector(key).map_err(unavailable)?;
    let now = now.ok_or_else(|| no_such(&key.connector))?;
    Ok(shown(StatusCode::OK, now.version, now.to_public_json()))
}

/// Lifts a connector's suspension, if there is one.
pub(super) async fn lift(
    shared: &Shared,
    key: &ConnectorKey,
    caller: &Caller,
) -> Result<(), Failure> {
    let ConnectorKey { project, connector } = key.clone();
    let command = Command {
        id: CommandId::from_uuid(Uuid::now_v7()),
        project,
        actor: Some(actor(caller)),
        body: CommandBody::Resume { connector },
    };
    shared.commands.run(&command, &shared.view).await?;
    Ok(())
}

/// The actor, as commands name it: the token's name, or the subject of a signed one.
pub(super) fn actor(caller: &Caller) -> String {
    cut(caller.name.strip_prefix("token:").unwrap_or(&caller.name), MAX_ACTOR_CHARS)
}

/// The connector that a path names.
pub(super) fn find(shared: &Shared, project: &str, connector: &str) -> Result<Connector, Failure> {
    let project = project_id(project)?;
    let id = ConnectorId::parse(connector).map_err(|_| {
        Problem::new(ProblemCode::ConnectorNotFound, "The path names no connector's id.")
    })?;
    let key = ConnectorKey { project, connector: id };
    let found = shared.view.connector(&key).map_err(unavailable)?;
    Ok(found.ok_or_else(|| no_such(&key.connector))?)
}

pub(super) fn no_such(id: &ConnectorId) -> Problem {
    let detail = format!("There is no connector {id}. List the connectors to see their ids.");
    Problem::new(ProblemCode::ConnectorNotFound, detail)
}

pub(super) fn project_id(text: &str) -> Result<ProjectId, Failure> {
    ProjectId::parse(text).map_err(|error| {
        let errors = vec![FieldError::new("projectId", error.to_string())];
        Problem::with_fields(ProblemCode::ValidationFailed, errors).into()
    })
}

/// A JSON object, as the content type promises.
pub(super) fn object(headers: &HeaderMap, body: Body) -> Result<Value, Failure> {
    let content = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let content = content.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    let content = content.to_ascii_lowercase();
    if content != "application/json" && !(content.ends_with("+json") && content.contains('/')) {
        let detail = "Send Content-Type: application/json.";
        return Err(Problem::new(ProblemCode::UnsupportedMediaType, detail).into());
    }
    // Nothing is unpacked, so that a small request cannot become a large one.
    let encoding = headers.get(header::CONTENT_ENCODING);
    if encoding.is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity")) {
        let detail = "Send the body as it is, without Content-Encoding.";
        let refused = Failure::from(Problem::new(ProblemCode::UnsupportedMediaType, detail));
        let accepted = HeaderValue::from_static("identity");
        return Err(refused.with(header::ACCEPT_ENCODING, accepted));
    }
    let wrong = |detail: String| Failure::from(Problem::new(ProblemCode::ValidationFailed, detail));
    let value: Value = serde_json::from_slice(&body?)
        .map_err(|error| wrong(format!("The body is no JSON: {error}.")))?;
    if value.is_object() { Ok(value) } else { Err(wrong("The body is no JSON object.".to_owned())) }
}

/// Reads a command that creates or changes a connector. Where it has errors, those that only the
/// decision would find are reported with them: what is asked for is corrected in one round.
pub(super) fn read_command(
    shared: &Shared,
    state: &ProjectState,
    command: Value,
) -> Result<Command, Failure> {
    let mut problem = match Command::from_value(command.clone()) {
        Ok(command) => return Ok(command),
        Err(refusal) => refused(refusal),
    };
    let rest = without(command, &problem.errors);
    if let Some(Ok(rest)) = rest.map(Command::from_value)
        && let Err(found) = judge(shared, state, &rest)
        && found.code == ProblemCode::ValidationFailed
    {
        problem.errors.extend(found.errors);
        problem = Problem::with_fields(ProblemCode::ValidationFailed, problem.errors);
    }
    Err(problem.into())
}

/// What is asked for without the fields that are wrong; nothing where the others cannot be judged
/// without them.
fn without(mut command: Value, errors: &[FieldError]) -> Option<Value> {
    let asked = ["connector", "patch"].into_iter().find(|name| command.get(name).is_some())?;
    let body = command[asked].as_object_mut()?;
    for error in errors {
        match error.field.as_str() {
            "type" | "config" => return None,
            "eventTypes" => body.insert(error.field.clone(), json!(["*"])),
            name => body.shift_remove(name),
        };
    }
    Some(command)
}

/// Why a command is none.
pub fn refused(refused: Refused) -> Problem {
    match refused {
        Refused::Rejected { problem, .. } => problem,
        Refused::Unanswerable(detail) => Problem::new(ProblemCode::ValidationFailed, detail),
    }
}

/// A project without connectors that may have any number: what is wrong for it is wrong for all.
fn unlimited(project: &ProjectId) -> ProjectState {
    let command_id = CommandId::from_uuid(Uuid::nil());
    let tier = Tier::Enterprise;
    let (id, updated_at) = (project.clone(), clock::now());
    let later = Later::default();
    let project = Project { id, tier, updated_at, version: 0, command_id, later };
    ProjectState { project: Some(project), connectors: BTreeMap::new() }
}

/// What the registrar would say, were this its state.
pub(super) fn judge(
    shared: &Shared,
    state: &ProjectState,
    command: &Command,
) -> Result<Change, Problem> {
    let context = Context { at: clock::now(), offset: i64::MAX, egress: &shared.egress };
    match decide(state, command, &context) {
        Decision::Accepted(change) => has_app(shared, &change).map(|()| change),
        Decision::Rejected(problem) => Err(problem),
    }
}

/// A refresh token without an app needs the operator's. Whether there is one is a matter of the
/// settings, which decide nothing about commands; here they are reported early.
fn has_app(shared: &Shared, change: &Change) -> Result<(), Problem> {
    let Change::ConnectorSet(connector) = change else { return Ok(()) };
    let has = |field: &str| connector.config.get(field).is_some();
    if !has("refreshToken") || has("clientId") || shared.view.has_app(connector.kind) {
        return Ok(());
    }
    let message = "is missing: the operator of this service has no app of its own at the vendor";
    let errors = vec![FieldError::new("config.clientId", message)];
    Err(Problem::with_fields(ProblemCode::ValidationFailed, errors))
}

/// The answer to a create whose connector is there: it may be its own, or a repeat's.
fn repeated(
    shared: &Shared,
    wanted: &Connector,
    existing: &Connector,
) -> Result<Response, Failure> {
    if is_same(shared.view.keyring(), wanted, existing) {
        return Ok(created(existing));
    }
    if existing.command_id == wanted.command_id {
        let detail = "The Idempotency-Key was used for another connector. Use a new key.";
        return Err(Problem::new(ProblemCode::IdempotencyKeyReused, detail).into());
    }
    let detail = format!(
        "The Idempotency-Key made connector {}, which was changed since. Use a new key.",
        existing.key.connector
    );
    Err(Problem::new(ProblemCode::ConnectorExists, detail).into())
}

fn is_same(keyring: &Keyring, wanted: &Connector, existing: &Connector) -> bool {
    let plain = |connector: &Connector| -> Option<BTreeMap<String, Value>> {
        let values = connector.config.iter().map(|(name, value)| {
            use secrecy::ExposeSecret;
            let value = match value {
                ConfigValue::Plain(value) => value.clone(),
                ConfigValue::Sealed(sealed) => {
                    let text = keyring.open(&connector.key, connector.kind, name, sealed).ok()?;
                    Value::String(text.expose_secret().to_owned())
                }
            };
            Some((name.to_owned(), value))
        });
        values.collect()
    };
    wanted.kind == existing.kind
        && wanted.event_types == existing.event_types
        && (&wanted.name, &wanted.filter) == (&existing.name, &existing.filter)
        && wanted.is_active == existing.is_active
        && plain(wanted).is_some_and(|config| plain(existing) == Some(config))
}

fn created(connector: &Connector) -> Response {
    let key = &connector.key;
    let location = format!("/api/projects/{}/connectors/{}", key.project, key.connector);
    let body = connector.to_public_json();
    let mut response = shown(StatusCode::CREATED, connector.version, body);
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

fn shown(status: StatusCode, version: i64, connector: Value) -> Response {
    (status, [(header::ETAG, format!("\"{version}\""))], Json(connector)).into_response()
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Failure> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let key = value.to_str().ok().filter(|key| !key.is_empty() && key.len() <= MAX_KEY_BYTES);
    key.map(Some).ok_or_else(|| {
        let message = format!("must have 1 to {MAX_KEY_BYTES} printable ASCII characters");
        let errors = vec![FieldError::new("Idempotency-Key", message)];
        Problem::with_fields(ProblemCode::ValidationFailed, errors).into()
    })
}

/// Puts the version of `If-Match` into a command; tells whether there is one.
fn if_version(
    headers: &HeaderMap,
    found: &Connector,
    command: &mut Value,
) -> Result<bool, Failure> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(false) };
    let text = value.to_str().unwrap_or_default().trim();
    // A list of tags, or any. Weak tags never match here (RFC 9110, section 13.1.1).
    let current = format!("\"{}\"", found.version);
    if text == "*" {
        return Ok(false);
    }
    if !text.split(',').any(|tag| tag.trim() == current) {
        return Err(precondition(changed(&found.key.connector), true));
    }
    command["ifVersion"] = json!(found.version);
    Ok(true)
}

fn changed(id: &ConnectorId) -> Problem {
    let detail = format!("Connector {id} is not what If-Match names. Read it again.");
    Problem::new(ProblemCode::ConnectorChanged, detail)
}

/// A condition of the request's own that fails has a status of its own (RFC 9110).
fn precondition(mut problem: Problem, is_conditional: bool) -> Failure {
    if is_conditional && problem.code == ProblemCode::ConnectorChanged {
        problem.status = StatusCode::PRECONDITION_FAILED.as_u16();
    }
    problem.into()
}
