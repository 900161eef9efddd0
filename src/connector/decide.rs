//! The decision about a command: one change, or a problem.
//!
//! The registrar decides each command once; everybody else folds what it wrote. An owner that was
//! replaced may decide a command again, so the same state, command and context must always give
//! the same decision.

use serde_json::{Map, Value};

use super::{
    Change, Command, CommandBody, Config, ConfigValue, Connector, FieldError, Patch, Problem,
    ProblemCode, Project, ProjectState, Tier,
    config::{ELLIPSIS, to_value},
    did_you_mean,
};
use crate::{
    clock::Timestamp,
    destination::{Checks, ConnectorType, Field, Settings, cut},
    egress::EgressPolicy,
    event::EventTypes,
    id::{CommandId, ConnectorId, ConnectorKey},
};

/// The longest reason of a suspension that is kept, in characters.
pub const MAX_SUSPENDED_REASON_CHARS: usize = 500;

/// What a decision depends on beside state and command.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The timestamp of the command's record.
    pub at: Timestamp,
    /// The offset of the command's record.
    pub offset: i64,
    /// Where users' URLs may point.
    pub egress: &'a EgressPolicy,
}

/// What becomes of a command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decision {
    /// It changes this.
    Accepted(Change),
    /// It changes nothing.
    Rejected(Problem),
}

/// Decides a command. Its encrypted values must have been opened.
#[must_use]
pub fn decide(state: &ProjectState, command: &Command, context: &Context<'_>) -> Decision {
    let case = Case { state, command, context };
    let decided = match &command.body {
        CommandBody::Create { connector, kind, config, event_types } => {
            case.create(connector, *kind, config, event_types)
        }
        CommandBody::Update { connector, patch } => case.update(connector, patch),
        CommandBody::Delete { connector } => case.delete(connector),
        CommandBody::Suspend { connector, reason, if_version } => {
            case.suspend(connector, reason, *if_version)
        }
        CommandBody::SetTier { tier } => Ok(case.set_tier(*tier)),
    };
    match decided {
        Ok(change) => Decision::Accepted(change),
        Err(problem) => Decision::Rejected(problem),
    }
}

struct Case<'a> {
    state: &'a ProjectState,
    command: &'a Command,
    context: &'a Context<'a>,
}

impl Case<'_> {
    fn create(
        &self,
        id: &ConnectorId,
        kind: ConnectorType,
        given: &Map<String, Value>,
        event_types: &EventTypes,
    ) -> Result<Change, Problem> {
        let existing = self.state.connectors.get(id);
        if let Some(same) = existing.and_then(|connector| self.repeated(connector)) {
            return Ok(same);
        }
        self.check_limit()?;
        if existing.is_some() {
            return Err(Problem::new(
                ProblemCode::ConnectorExists,
                format!("The project has a connector {id}. Update it, or choose another id."),
            ));
        }
        let (config, _) = self.merge(kind, &Config::default(), Some(given), event_types)?;
        Ok(Change::ConnectorSet(Connector {
            key: self.key(id),
            kind,
            config,
            event_types: event_types.clone(),
            is_active: true,
            suspended_reason: None,
            created_at: self.context.at,
            updated_at: self.context.at,
            version: self.context.offset,
            command_id: self.command.id.clone(),
        }))
    }

    fn update(&self, id: &ConnectorId, patch: &Patch) -> Result<Change, Problem> {
        let connector = self.find(id)?;
        if let Some(same) = self.repeated(connector) {
            return Ok(same);
        }
        let mut next = self.next_version(connector);
        if let Some(event_types) = &patch.event_types {
            next.event_types = event_types.clone();
        }
        // Switching a connector off must work even when today's checks would refuse its config.
        if patch.config.is_some() || patch.event_types.is_some() {
            let given = patch.config.as_ref();
            let (config, changed) =
                self.merge(connector.kind, &connector.config, given, &next.event_types)?;
            next.config = config;
            if changed {
                next.suspended_reason = None;
            }
        }
        if let Some(is_active) = patch.is_active {
            next.is_active = is_active;
        }
        Ok(Change::ConnectorSet(next))
    }

    fn delete(&self, id: &ConnectorId) -> Result<Change, Problem> {
        self.find(id).map(|connector| Change::ConnectorGone(connector.key.clone()))
    }

    fn suspend(
        &self,
        id: &ConnectorId,
        reason: &str,
        if_version: Option<i64>,
    ) -> Result<Change, Problem> {
        let connector = self.find(id)?;
        if let Some(same) = self.repeated(connector) {
            return Ok(same);
        }
        if if_version.is_some_and(|version| version < connector.version) {
            return Err(Problem::new(
                ProblemCode::ConnectorChanged,
                format!(
                    "Connector {id} has version {}, which is newer than the one that failed. \
                     Nothing needs to be done: its next delivery shows whether it works now.",
                    connector.version
                ),
            ));
        }
        let mut next = self.next_version(connector);
        next.suspended_reason = Some(cut(reason, MAX_SUSPENDED_REASON_CHARS));
        Ok(Change::ConnectorSet(next))
    }

    fn set_tier(&self, tier: Tier) -> Change {
        // A repeated command says the same as before, so only its version is new.
        let before = self.state.project.as_ref();
        let repeated = before.filter(|project| project.command_id == self.command.id);
        Change::ProjectSet(Project {
            id: self.command.project.clone(),
            tier: repeated.map_or(tier, |project| project.tier),
            updated_at: repeated.map_or(self.context.at, |project| project.updated_at),
            version: self.context.offset,
            command_id: self.command.id.clone(),
        })
    }

    fn key(&self, id: &ConnectorId) -> ConnectorKey {
        ConnectorKey { project: self.command.project.clone(), connector: id.clone() }
    }

    fn find(&self, id: &ConnectorId) -> Result<&Connector, Problem> {
        self.state.connectors.get(id).ok_or_else(|| {
            let detail = format!(
                "Project {} has no connector {id}. List its connectors to see their ids.",
                self.command.project
            );
            Problem::new(ProblemCode::ConnectorNotFound, detail)
        })
    }

    /// The producer sent the command twice: the connector is already what it asked for.
    fn repeated(&self, connector: &Connector) -> Option<Change> {
        let is_same: &CommandId = &self.command.id;
        (connector.command_id == *is_same).then(|| {
            let same = Connector { version: self.context.offset, ..connector.clone() };
            Change::ConnectorSet(same)
        })
    }

    fn next_version(&self, connector: &Connector) -> Connector {
        Connector {
            updated_at: self.context.at,
            version: self.context.offset,
            command_id: self.command.id.clone(),
            ..connector.clone()
        }
    }

    fn check_limit(&self) -> Result<(), Problem> {
        let tier = self.state.tier();
        let count = self.state.connectors.len();
        if tier.has_room_beside(count) {
            return Ok(());
        }
        let allowed = match tier.limit() {
            Some(0) => "no connectors".to_owned(),
            Some(limit) => format!("{limit} connectors, and the project has {count}"),
            None => "no limit".to_owned(),
        };
        Err(Problem::new(
            ProblemCode::ConnectorLimitReached,
            format!(
                "The {tier} tier allows {allowed}. Delete a connector or change to a larger tier."
            ),
        ))
    }

    /// The stored configuration with the given fields taken in, and whether that changed it.
    fn merge(
        &self,
        kind: ConnectorType,
        stored: &Config,
        given: Option<&Map<String, Value>>,
        event_types: &EventTypes,
    ) -> Result<(Config, bool), Problem> {
        let mut merge = Merge {
            kind,
            checks: Checks { egress: self.context.egress },
            stored,
            config: stored.clone(),
            changed: false,
            errors: Vec::new(),
        };
        if let Some(given) = given {
            for (name, value) in given {
                merge.take(name, value);
            }
            merge.check_required();
        }
        merge.check_together(event_types);
        if merge.errors.is_empty() {
            Ok((merge.config, merge.changed))
        } else {
            Err(Problem::with_fields(ProblemCode::ValidationFailed, merge.errors))
        }
    }
}

/// A configuration in the making.
struct Merge<'a> {
    kind: ConnectorType,
    checks: Checks<'a>,
    stored: &'a Config,
    config: Config,
    changed: bool,
    errors: Vec<FieldError>,
}

impl Merge<'_> {
    fn error(&mut self, name: &str, message: impl Into<String>) {
        self.errors.push(FieldError::new(format!("config.{name}"), message));
    }

    fn take(&mut self, name: &str, value: &Value) {
        let Some(field) = self.kind.field(name) else {
            let known = self.kind.spec().fields.iter().map(|field| field.name);
            let hint = did_you_mean(name, known);
            let message = format!("is no setting of {}{hint}", self.kind);
            return self.error(&cut(name, 64), message);
        };
        if value.is_null() {
            return self.remove(field);
        }
        if field.secret && value.as_str().is_some_and(|text| text.contains(ELLIPSIS)) {
            return self.keep_masked(field, value);
        }
        match Settings::read(field, value, &self.checks) {
            Ok(setting) => {
                let value = ConfigValue::Plain(to_value(&setting));
                // An encrypted value cannot be compared; its owner gave it again for a reason.
                self.changed |= self.stored.get(name) != Some(&value);
                self.config.insert(name, value);
            }
            Err(message) => self.error(name, message),
        }
    }

    fn remove(&mut self, field: &Field) {
        if !field.required {
            self.changed |= self.config.remove(field.name);
        } else if self.stored.get(field.name).is_some() {
            self.error(field.name, "is required and cannot be removed");
        }
    }

    /// A mask that comes back leaves the secret as it is, and must never become one.
    fn keep_masked(&mut self, field: &Field, value: &Value) {
        let stored = self.stored.get(field.name).map(ConfigValue::mask);
        if stored.as_deref() != value.as_str() {
            self.error(
                field.name,
                "is a mask, not the value: give the whole value, or leave the field out to keep it",
            );
        }
    }

    fn check_required(&mut self) {
        for field in self.kind.spec().fields.iter().filter(|field| field.required) {
            let path = format!("config.{}", field.name);
            let is_told = self.errors.iter().any(|error| error.field == path);
            if self.config.get(field.name).is_none() && !is_told {
                self.errors.push(FieldError::new(path, format!("is missing: {}", field.help)));
            }
        }
    }

    /// The checks that need more than one field, once each field is right by itself.
    fn check_together(&mut self, event_types: &EventTypes) {
        if !self.errors.is_empty() {
            return;
        }
        let settings = self.config.plain_settings(self.kind);
        for (name, message) in (self.kind.spec().check)(&settings, event_types) {
            if self.kind.field(name).is_some() {
                self.error(name, message);
            } else {
                self.errors.push(FieldError::new(name, message));
            }
        }
    }
}
