//! Commands: what somebody asks for, read strictly and completely.
//!
//! A sender that misspells a field must learn it, so everything that is unknown or wrong is named
//! at once. What needs the project's state is the decision's business, not the reader's.

use std::{fmt, time::Duration};

use serde_json::{Map, Value, json};

use super::{
    FieldError, Problem, ProblemCode, RenewalStep, Tier, did_you_mean,
    fields::{Fields, quoted},
};
use crate::{
    clock::Timestamp,
    destination::ConnectorType,
    event::EventTypes,
    id::{CommandId, ConnectorId, ProjectId},
    json,
};

/// A connector command.
#[derive(Clone, PartialEq, Debug)]
pub struct Command {
    /// The sender's unique id.
    pub id: CommandId,
    /// The project that it is about.
    pub project: ProjectId,
    /// The actor, by the sender's own account: for the history, not for a decision.
    pub actor: Option<String>,
    /// What is asked.
    pub body: CommandBody,
}

/// The longest name of an actor, in characters.
pub const MAX_ACTOR_CHARS: usize = 128;

/// The actor of the commands that this program sends by itself.
pub const OWN_ACTOR: &str = "dunmore";

/// What a command asks for. Its `Debug` shows no values of a configuration.
#[derive(Clone, PartialEq)]
pub enum CommandBody {
    /// Make a connector.
    Create {
        /// Its id.
        connector: ConnectorId,
        /// The service.
        kind: ConnectorType,
        /// Its settings, of which some may be encrypted.
        config: Map<String, Value>,
        /// The event types that it wants.
        event_types: EventTypes,
        /// What its owner calls it.
        name: Option<String>,
        /// Which events it wants beside their type: an expression that compiles.
        filter: Option<String>,
        /// Whether it is switched on from the beginning.
        is_active: bool,
    },
    /// Change a connector.
    Update {
        /// Which one.
        connector: ConnectorId,
        /// What is different.
        patch: Patch,
        /// Only if the connector is not newer than this version.
        if_version: Option<i64>,
        /// How long the signing secret that is replaced goes on to sign.
        overlap: Option<Duration>,
    },
    /// Remove a connector.
    Delete {
        /// Which one.
        connector: ConnectorId,
        /// Only if the connector is not newer than this version.
        if_version: Option<i64>,
    },
    /// Hold a connector's deliveries until its configuration changes, or it is resumed.
    Suspend {
        /// Which one.
        connector: ConnectorId,
        /// Why, for its owner.
        reason: String,
        /// Only if the connector is not newer than this version.
        if_version: Option<i64>,
    },
    /// Hold a connector's deliveries no longer, without a new configuration.
    Resume {
        /// Which one.
        connector: ConnectorId,
    },
    /// Its service fails: what this program says of it itself, from its deliveries.
    Failing {
        /// Which one.
        connector: ConnectorId,
        /// What the service does.
        reason: String,
        /// Since when.
        since: Timestamp,
        /// Only if the connector is not newer than this version.
        if_version: Option<i64>,
    },
    /// Its service works again.
    Recovered {
        /// Which one.
        connector: ConnectorId,
    },
    /// Encrypt a connector's secrets anew; nothing else about it changes.
    Reencrypt {
        /// Which one.
        connector: ConnectorId,
        /// The id of the key to encrypt with: the first one where the command is decided.
        key: String,
    },
    /// A step of the renewal of a connector's access token.
    Renewal {
        /// Which one.
        connector: ConnectorId,
        /// The step.
        step: RenewalStep,
    },
    /// Say what a project pays for.
    SetTier {
        /// The tier.
        tier: Tier,
    },
}

/// What is different about a connector; what is absent stays.
#[derive(Clone, PartialEq, Default)]
pub struct Patch {
    /// Fields to replace; null removes an optional one.
    pub config: Option<Map<String, Value>>,
    /// The event types that replace the current ones.
    pub event_types: Option<EventTypes>,
    /// Switches the connector on or off.
    pub is_active: Option<bool>,
    /// The name that replaces the current one, or nothing in its place.
    pub name: Option<Option<String>>,
    /// The filter that replaces the current one, or nothing in its place.
    pub filter: Option<Option<String>>,
}

/// Why a record's value is no command that could be decided.
#[derive(Clone, PartialEq, Debug)]
pub enum Refused {
    /// Nobody can be told: it is no JSON object or has no valid id.
    Unanswerable(String),
    /// Its sender is told with a result.
    Rejected {
        /// The command.
        id: CommandId,
        /// Its project, when it names one.
        project: Option<ProjectId>,
        /// Its name for the metric.
        name: &'static str,
        /// What is wrong.
        problem: Problem,
    },
}

const CREATE: &str = "connector.create";
const UPDATE: &str = "connector.update";
const DELETE: &str = "connector.delete";
const SUSPEND: &str = "connector.suspend";
const RESUME: &str = "connector.resume";
const FAILING: &str = "connector.failing";
const RECOVERED: &str = "connector.recovered";
const REENCRYPT: &str = "connector.reencrypt";
const SET_TIER: &str = "project.set_tier";
const UNKNOWN: &str = "unknown";

/// Fields that some commands have and others do not.
const OPTIONAL: &[&str] = &[
    "actor",
    "connectorId",
    "connector",
    "patch",
    "ifVersion",
    "overlapSeconds",
    "reason",
    "since",
    "key",
    "tier",
    "renewal",
];

impl CommandBody {
    /// The name of each command, and `unknown` for all others: the values of a metric label.
    pub const NAMES: &[&'static str] = &[
        CREATE,
        UPDATE,
        DELETE,
        SUSPEND,
        RESUME,
        FAILING,
        RECOVERED,
        REENCRYPT,
        RenewalStep::BEGIN,
        RenewalStep::END,
        RenewalStep::EARLY,
        SET_TIER,
        UNKNOWN,
    ];

    /// The names of those that report a connector's health.
    pub const REPORTS: &[&'static str] = &[FAILING, RECOVERED];

    /// The command's name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Create { .. } => CREATE,
            Self::Update { .. } => UPDATE,
            Self::Delete { .. } => DELETE,
            Self::Suspend { .. } => SUSPEND,
            Self::Resume { .. } => RESUME,
            Self::Failing { .. } => FAILING,
            Self::Recovered { .. } => RECOVERED,
            Self::Reencrypt { .. } => REENCRYPT,
            Self::Renewal { step, .. } => step.command(),
            Self::SetTier { .. } => SET_TIER,
        }
    }

    /// The connector that it is about, if it is about one.
    #[must_use]
    pub const fn connector(&self) -> Option<&ConnectorId> {
        match self {
            Self::Create { connector, .. }
            | Self::Update { connector, .. }
            | Self::Delete { connector, .. }
            | Self::Suspend { connector, .. }
            | Self::Resume { connector }
            | Self::Failing { connector, .. }
            | Self::Recovered { connector }
            | Self::Reencrypt { connector, .. }
            | Self::Renewal { connector, .. } => Some(connector),
            Self::SetTier { .. } => None,
        }
    }

    /// The version that the connector must not be newer than, if it matters.
    #[must_use]
    pub const fn if_version(&self) -> Option<i64> {
        match self {
            Self::Update { if_version, .. }
            | Self::Delete { if_version, .. }
            | Self::Suspend { if_version, .. }
            | Self::Failing { if_version, .. } => *if_version,
            Self::Create { .. }
            | Self::Resume { .. }
            | Self::Recovered { .. }
            | Self::Reencrypt { .. }
            | Self::Renewal { .. }
            | Self::SetTier { .. } => None,
        }
    }

    /// Whether only this program sends it, about what no owner sees: it is not in the history.
    #[must_use]
    pub const fn is_internal(&self) -> bool {
        matches!(self, Self::Renewal { .. })
    }

    /// The configuration that it brings, if any.
    #[must_use]
    pub const fn config_mut(&mut self) -> Option<&mut Map<String, Value>> {
        match self {
            Self::Create { config, .. } => Some(config),
            Self::Update { patch, .. } => patch.config.as_mut(),
            Self::Renewal { step: RenewalStep::Done { tokens, .. }, .. } => Some(tokens),
            _ => None,
        }
    }
}

impl Command {
    /// The command's name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.body.name()
    }

    /// Reads a record's value.
    #[expect(clippy::result_large_err, reason = "a refusal is rare and soon taken apart")]
    pub fn read(json: &[u8]) -> Result<Self, Refused> {
        let value = serde_json::from_slice(json).map_err(|error| {
            Refused::Unanswerable(format!("the value is no JSON: {}", json::words(json, &error)))
        })?;
        Self::checked(value, &json::repeated(json))
    }

    /// Reads a JSON value.
    #[expect(clippy::result_large_err, reason = "a refusal is rare and soon taken apart")]
    pub fn from_value(value: Value) -> Result<Self, Refused> {
        Self::checked(value, &[])
    }

    #[expect(clippy::result_large_err, reason = "a refusal is rare and soon taken apart")]
    fn checked(value: Value, repeated: &[String]) -> Result<Self, Refused> {
        let Value::Object(mut map) = value else {
            return Err(Refused::Unanswerable("the value is no JSON object".to_owned()));
        };
        // Serializers of records write optional fields that are not set as null.
        map.retain(|name, value| !(value.is_null() && OPTIONAL.contains(&name.as_str())));
        let mut fields = Fields::new(map);
        for path in repeated {
            fields.error(path, "stands there more than once");
        }
        let id = match fields.map.shift_remove("id") {
            None => return Err(Refused::Unanswerable("the command has no id".to_owned())),
            Some(Value::String(id)) => CommandId::parse(&id)
                .map_err(|error| Refused::Unanswerable(format!("the command's id {error}")))?,
            Some(_) => {
                return Err(Refused::Unanswerable("the command's id is no string".to_owned()));
            }
        };
        let project = fields.id("projectId", ProjectId::parse);
        let actor = fields.actor();
        let (name, body) = match read_body(&mut fields) {
            Ok(read) => read,
            Err(problem) => {
                return Err(Refused::Rejected { id, project, name: UNKNOWN, problem });
            }
        };
        match (project, body, fields.errors) {
            (Some(project), Some(body), errors) if errors.is_empty() => {
                Ok(Self { id, project, actor, body })
            }
            (project, _, errors) => {
                let problem = Problem::with_fields(ProblemCode::ValidationFailed, errors);
                Err(Refused::Rejected { id, project, name, problem })
            }
        }
    }

    /// The record's value.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let mut json = json!({
            "id": self.id,
            "type": self.body.name(),
            "projectId": self.project,
        });
        if let Some(connector) = self.body.connector() {
            json["connectorId"] = json!(connector);
        }
        match &self.body {
            CommandBody::Create { kind, config, event_types, name, filter, is_active, .. } => {
                let mut connector =
                    json!({ "type": kind, "config": config, "eventTypes": event_types });
                if let Some(name) = name {
                    connector["name"] = json!(name);
                }
                if let Some(filter) = filter {
                    connector["filter"] = json!(filter);
                }
                // Left out where it says nothing, so that releases before it accept the command.
                if !is_active {
                    connector["isActive"] = json!(false);
                }
                json["connector"] = connector;
            }
            CommandBody::Update { patch, overlap, .. } => {
                json["patch"] = patch.to_value();
                if let Some(overlap) = overlap {
                    json["overlapSeconds"] = json!(overlap.as_secs());
                }
            }
            CommandBody::Delete { .. }
            | CommandBody::Resume { .. }
            | CommandBody::Recovered { .. } => {}
            CommandBody::Suspend { reason, .. } => json["reason"] = json!(reason),
            CommandBody::Failing { reason, since, .. } => {
                json["reason"] = json!(reason);
                json["since"] = json!(since);
            }
            CommandBody::Reencrypt { key, .. } => json["key"] = json!(key),
            CommandBody::Renewal { step, .. } => json["renewal"] = step.to_value(),
            CommandBody::SetTier { tier } => json["tier"] = json!(tier),
        }
        if let Some(version) = self.body.if_version() {
            json["ifVersion"] = json!(version);
        }
        if let Some(actor) = &self.actor {
            json["actor"] = json!(actor);
        }
        json.to_string().into_bytes()
    }
}

impl Patch {
    fn to_value(&self) -> Value {
        let mut patch = Map::new();
        if let Some(config) = &self.config {
            patch.insert("config".to_owned(), json!(config));
        }
        if let Some(event_types) = &self.event_types {
            patch.insert("eventTypes".to_owned(), json!(event_types));
        }
        if let Some(is_active) = self.is_active {
            patch.insert("isActive".to_owned(), json!(is_active));
        }
        for (field, value) in [("name", &self.name), ("filter", &self.filter)] {
            if let Some(value) = value {
                patch.insert(field.to_owned(), json!(value.as_deref().unwrap_or_default()));
            }
        }
        Value::Object(patch)
    }
}

/// The body of a command that has a known name; `None` when its fields have errors.
fn read_body(fields: &mut Fields) -> Result<(&'static str, Option<CommandBody>), Problem> {
    let given = match fields.map.shift_remove("type") {
        Some(Value::String(name)) => name,
        Some(_) => return Err(unknown_command("must be a string")),
        None => return Err(unknown_command("is missing")),
    };
    Ok(match given.as_str() {
        CREATE => (CREATE, read_create(fields)),
        UPDATE => (UPDATE, read_update(fields)),
        DELETE => (DELETE, read_delete(fields)),
        SUSPEND => (SUSPEND, read_suspend(fields)),
        RESUME => (RESUME, read_resume(fields)),
        FAILING => (FAILING, read_failing(fields)),
        RECOVERED => {
            let connector = read_connector(fields);
            (RECOVERED, connector.map(|connector| CommandBody::Recovered { connector }))
        }
        REENCRYPT => (REENCRYPT, read_reencrypt(fields)),
        RenewalStep::BEGIN => (RenewalStep::BEGIN, read_renewal(RenewalStep::BEGIN, fields)),
        RenewalStep::END => (RenewalStep::END, read_renewal(RenewalStep::END, fields)),
        RenewalStep::EARLY => (RenewalStep::EARLY, read_renewal(RenewalStep::EARLY, fields)),
        SET_TIER => (SET_TIER, read_set_tier(fields)),
        other => {
            let known = CommandBody::NAMES.iter().copied().filter(|name| *name != UNKNOWN);
            let hint = did_you_mean(other, known);
            return Err(unknown_command(&format!("is unknown: {}{hint}", quoted(other))));
        }
    })
}

fn unknown_command(message: &str) -> Problem {
    let errors = vec![FieldError::new("type", message)];
    Problem::with_fields(ProblemCode::InvalidCommand, errors)
}

fn read_create(fields: &mut Fields) -> Option<CommandBody> {
    let connector = fields.id("connectorId", ConnectorId::parse);
    let body = fields.required_object("connector");
    fields.finish(&["id", "type", "projectId", "connectorId", "connector"]);
    let mut body = Fields::new(body?);
    let kind = body.connector_type();
    let config = body.required_object("config");
    let event_types = body.event_types(true);
    let (name, filter, is_active) = (body.name(), body.filter(), body.boolean("isActive"));
    body.finish(&["type", "config", "eventTypes", "name", "filter", "isActive"]);
    fields.errors.append(&mut body.errors);
    Some(CommandBody::Create {
        connector: connector?,
        kind: kind?,
        config: config?,
        event_types: event_types?,
        name: name.flatten(),
        filter: filter.flatten(),
        is_active: is_active.unwrap_or(true),
    })
}

fn read_update(fields: &mut Fields) -> Option<CommandBody> {
    let connector = fields.id("connectorId", ConnectorId::parse);
    let body = fields.required_object("patch");
    let if_version = fields.version();
    let overlap = fields.overlap();
    fields.finish(&[
        "id",
        "type",
        "projectId",
        "connectorId",
        "patch",
        "ifVersion",
        "overlapSeconds",
    ]);
    let mut body = Fields::new(body?);
    let patch = Patch {
        config: body.optional_object("config"),
        event_types: body.event_types(false),
        is_active: body.boolean("isActive"),
        name: body.name(),
        filter: body.filter(),
    };
    body.finish(&["config", "eventTypes", "isActive", "name", "filter"]);
    fields.errors.append(&mut body.errors);
    Some(CommandBody::Update { connector: connector?, patch, if_version, overlap })
}

fn read_delete(fields: &mut Fields) -> Option<CommandBody> {
    let connector = fields.id("connectorId", ConnectorId::parse);
    let if_version = fields.version();
    fields.finish(&["id", "type", "projectId", "connectorId", "ifVersion"]);
    Some(CommandBody::Delete { connector: connector?, if_version })
}

fn read_suspend(fields: &mut Fields) -> Option<CommandBody> {
    let connector = fields.id("connectorId", ConnectorId::parse);
    let reason = fields.text("reason");
    let if_version = fields.version();
    fields.finish(&["id", "type", "projectId", "connectorId", "reason", "ifVersion"]);
    Some(CommandBody::Suspend { connector: connector?, reason: reason?, if_version })
}

fn read_resume(fields: &mut Fields) -> Option<CommandBody> {
    read_connector(fields).map(|connector| CommandBody::Resume { connector })
}

/// Of a command that says no more than which connector it is about.
fn read_connector(fields: &mut Fields) -> Option<ConnectorId> {
    let connector = fields.id("connectorId", ConnectorId::parse);
    fields.finish(&["id", "type", "projectId", "connectorId"]);
    connector
}

fn read_failing(fields: &mut Fields) -> Option<CommandBody> {
    let connector = fields.id("connectorId", ConnectorId::parse);
    let (reason, since) = (fields.text("reason"), fields.time("since"));
    let if_version = fields.version();
    fields.finish(&["id", "type", "projectId", "connectorId", "reason", "since", "ifVersion"]);
    Some(CommandBody::Failing { connector: connector?, reason: reason?, since: since?, if_version })
}

fn read_reencrypt(fields: &mut Fields) -> Option<CommandBody> {
    let connector = fields.id("connectorId", ConnectorId::parse);
    let key = fields.text("key");
    fields.finish(&["id", "type", "projectId", "connectorId", "key"]);
    Some(CommandBody::Reencrypt { connector: connector?, key: key? })
}

fn read_renewal(name: &str, fields: &mut Fields) -> Option<CommandBody> {
    let connector = fields.id("connectorId", ConnectorId::parse);
    let step = RenewalStep::read(name, fields);
    fields.finish(&["id", "type", "projectId", "connectorId", "renewal"]);
    Some(CommandBody::Renewal { connector: connector?, step: step? })
}

fn read_set_tier(fields: &mut Fields) -> Option<CommandBody> {
    let tier = fields.text("tier").and_then(|text| match text.parse() {
        Ok(tier) => Some(tier),
        Err(message) => {
            fields.error("tier", message);
            None
        }
    });
    fields.finish(&["id", "type", "projectId", "tier"]);
    Some(CommandBody::SetTier { tier: tier? })
}

/// The names of a configuration's fields, without their values.
struct Names<'a>(&'a Map<String, Value>);

impl fmt::Debug for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl fmt::Debug for Patch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Patch")
            .field("config", &self.config.as_ref().map(Names))
            .field("event_types", &self.event_types)
            .field("is_active", &self.is_active)
            .field("name", &self.name)
            .field("filter", &self.filter.is_some())
            .finish()
    }
}

impl fmt::Debug for CommandBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct(self.name());
        if let Some(connector) = self.connector() {
            out.field("connector", connector);
        }
        match self {
            Self::Create { kind, config, event_types, name, is_active, .. } => {
                out.field("kind", kind).field("config", &Names(config));
                out.field("event_types", event_types).field("name", name);
                out.field("is_active", is_active);
            }
            Self::Update { patch, .. } => {
                out.field("patch", patch);
            }
            Self::Failing { reason, since, if_version, .. } => {
                out.field("reason", reason).field("since", since).field("if_version", if_version);
            }
            Self::Suspend { reason, if_version, .. } => {
                out.field("reason", reason).field("if_version", if_version);
            }
            Self::Reencrypt { key, .. } => {
                out.field("key", key);
            }
            Self::Renewal { step, .. } => {
                out.field("step", step);
            }
            Self::SetTier { tier } => {
                out.field("tier", tier);
            }
            Self::Delete { .. } | Self::Resume { .. } | Self::Recovered { .. } => {}
        }
        out.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connector::{MAX_EVENT_TYPES, MAX_FIELD_ERRORS};

    fn errors(text: &str) -> Vec<String> {
        match Command::read(text.as_bytes()) {
            Err(Refused::Rejected { problem, .. }) => {
                problem.errors.iter().map(|e| format!("{}: {}", e.field, e.message)).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn recorded_commands_are_read_and_written_for_ever() {
        for (record, name) in [
            (include_str!("../../tests/fixtures/records/command-create-1.json"), CREATE),
            (include_str!("../../tests/fixtures/records/command-create-2.json"), CREATE),
            (include_str!("../../tests/fixtures/records/command-update-1.json"), UPDATE),
            (include_str!("../../tests/fixtures/records/command-update-2.json"), UPDATE),
            (include_str!("../../tests/fixtures/records/command-delete-1.json"), DELETE),
            (include_str!("../../tests/fixtures/records/command-suspend-1.json"), SUSPEND),
            (include_str!("../../tests/fixtures/records/command-failing-1.json"), FAILING),
            (include_str!("../../tests/fixtures/records/command-recovered-1.json"), RECOVERED),
            (include_str!("../../tests/fixtures/records/command-resume-1.json"), RESUME),
            (include_str!("../../tests/fixtures/records/command-reencrypt-1.json"), REENCRYPT),
            (include_str!("../../tests/fixtures/records/command-renew-1.json"), RenewalStep::BEGIN),
            (include_str!("../../tests/fixtures/records/command-renewed-1.json"), RenewalStep::END),
            (include_str!("../../tests/fixtures/records/command-renewed-2.json"), RenewalStep::END),
            (include_str!("../../tests/fixtures/records/command-renewed-3.json"), RenewalStep::END),
            (
                include_str!("../../tests/fixtures/records/command-token-refused-1.json"),
                RenewalStep::EARLY,
            ),
            (include_str!("../../tests/fixtures/records/command-set-tier-1.json"), SET_TIER),
        ] {
            let command = Command::read(record.as_bytes()).unwrap();
            assert_eq!(command.name(), name);
            assert_eq!(String::from_utf8(command.to_json()).unwrap(), record.trim());
        }
    }

    #[test]
    fn everything_wrong_is_named_at_once() {
        insta::assert_debug_snapshot!(
            errors(
                r#"{"id":"cmd_1","type":"connector.create","projectId":"proj 1","conectorId":"c",
                "connector":{"type":"slak","config":[],"eventTypes":["payment.setled"],"activ":1}}"#
            ),
            @r#"
        [
            "projectId: must consist of letters, digits and _ . : - only, has ' '",
            "connectorId: is missing",
            "conectorId: is no known field, did you mean \"connectorId\"?",
            "type: is unknown: \"slak\", did you mean \"slack\"?",
            "config: must be an object",
            "eventTypes: unknown event type \"payment.setled\", did you mean \"payment.settled\"?",
            "activ: is no known field",
        ]
        "#
        );
        insta::assert_debug_snapshot!(
            errors(
                r#"{"id":"cmd_1","type":"connector.update","projectId":"p","connectorId":"c",
                "patch":{"config":null,"eventTypes":[1],"isActiv":true,"isActive":"no"}}"#
            ),
            @r#"
        [
            "config: must be an object",
            "eventTypes: must be a list of strings",
            "isActive: must be true or false",
            "isActiv: is no known field, did you mean \"isActive\"?",
        ]
        "#
        );
        insta::assert_debug_snapshot!(
            errors(r#"{"id":"cmd_1","type":"project.set_teir","projectId":"p"}"#),
            @r#"
        [
            "type: is unknown: \"project.set_teir\", did you mean \"project.set_tier\"?",
        ]
        "#
        );
    }

    #[test]
    fn an_actor_is_optional_and_short() {
        let text = |actor: &str| {
            format!(r#"{{"id":"c","type":"project.set_tier","projectId":"p","tier":"pro"{actor}}}"#)
        };
        let actor = "é".repeat(MAX_ACTOR_CHARS);
        let read = |actor: &str| Command::read(text(actor).as_bytes()).unwrap().actor;
        assert_eq!(read(""), None);
        assert_eq!(read(&format!(",\"actor\":\"{actor}\"")), Some(actor.clone()));
        for wrong in [format!("\"{actor}x\""), "7".to_owned()] {
            let errors = errors(&text(&format!(",\"actor\":{wrong}")));
            assert!(errors.len() == 1 && errors[0].starts_with("actor: "), "{errors:?}");
        }
    }

    #[test]
    fn a_name_is_short_and_has_no_control_characters() {
        let text = |name: &str| {
            format!(
                r#"{{"id":"c","type":"connector.update","projectId":"p","connectorId":"c",
                "patch":{{"name":{name}}}}}"#
            )
        };
        let read = |name: &str| {
            let command = Command::read(text(name).as_bytes()).unwrap();
            // What is written says the same, also to a reader that drops nulls.
            assert_eq!(Command::read(&command.to_json()).as_ref(), Ok(&command));
            let CommandBody::Update { patch, .. } = command.body else { panic!() };
            patch.name
        };
        assert_eq!(read("\"Sales – Größe\""), Some(Some("Sales – Größe".to_owned())));
        let longest = "é".repeat(80);
        assert_eq!(read(&format!("{longest:?}")), Some(Some(longest.clone())));
        assert_eq!((read("null"), read("\"\"")), (Some(None), Some(None)));
        for (wrong, message) in [
            (format!("\"{longest}x\""), "at most 80 characters"),
            ("7".to_owned(), "must be a string"),
            ("\"a\\nb\"".to_owned(), "control characters"),
            ("\"a\\u202eb\"".to_owned(), "control characters"),
            ("\"  \"".to_owned(), "spaces"),
        ] {
            let errors = errors(&text(&wrong));
            assert_eq!(errors.len(), 1);
            assert!(errors[0].starts_with("name: ") && errors[0].contains(message), "{errors:?}");
        }
    }

    #[test]
    fn nulls_are_absent_and_repeated_names_are_named() {
        let command = r#"{"id":"cmd_1","type":"project.set_tier","projectId":"p","tier":"pro","connectorId":null,"patch":null,"reason":null}"#;
        assert!(Command::read(command.as_bytes()).is_ok());
        let twice = command.replace(r#""patch":null"#, r#""tier":"starter""#);
        assert_eq!(errors(&twice), ["tier: stands there more than once"]);
    }

    #[test]
    fn what_has_no_id_cannot_be_answered() {
        for text in ["", "[]", "nonsense", "{}", r#"{"id":7}"#, r#"{"id":"a b","type":"x"}"#] {
            let refused = Command::read(text.as_bytes()).unwrap_err();
            assert!(matches!(refused, Refused::Unanswerable(_)), "{text}: {refused:?}");
        }
    }

    #[test]
    fn a_refusal_is_small_and_carries_the_project_when_it_is_known() {
        let fields: Vec<String> =
            (0..500).map(|i| format!(",\"{}{i}\":0", "x".repeat(500))).collect();
        let fields = fields.concat();
        let text = format!(r#"{{"id":"cmd_1","projectId":"p","type":"project.set_tier"{fields}}}"#);
        let Err(Refused::Rejected { project, name, problem, .. }) = Command::read(text.as_bytes())
        else {
            panic!()
        };
        assert_eq!((project.unwrap().as_str(), name), ("p", SET_TIER));
        assert!(serde_json::to_string(&problem).unwrap().len() < 16_384);
    }

    #[test]
    fn a_long_list_is_refused_before_any_of_it_is_compared() {
        let names: Vec<String> = (0..12_800).map(|n| format!("payment.setled{n}")).collect();
        let json = json!({ "id": "cmd_1", "type": "connector.create", "projectId": "p",
            "connectorId": "c", "connector": { "type": "slack", "config": {}, "eventTypes": names } });
        let told = errors(&json.to_string());
        assert_eq!(told, [format!("eventTypes: must have at most {MAX_EVENT_TYPES} entries")]);
        // As many unknown fields.
        let fields: Map<String, Value> =
            (0..12_800).map(|n| (format!("activ{n}"), Value::Null)).collect();
        let json = json!({ "id": "cmd_1", "type": "connector.update", "projectId": "p",
            "connectorId": "c", "patch": fields });
        assert!(errors(&json.to_string()).len() <= MAX_FIELD_ERRORS + 1);
    }

    #[test]
    fn a_command_shows_no_configuration() {
        let record = include_str!("../../tests/fixtures/records/command-create-1.json");
        let command = Command::read(record.as_bytes()).unwrap();
        let shown = format!("{command:?}");
        assert!(shown.contains("webhookUrl") && !shown.contains("hooks.slack.com"), "{shown}");
    }
}
