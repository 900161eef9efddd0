//! The decision about a command: one change, or a problem.
//!
//! The registrar decides each command once; everybody else folds what it wrote. An owner that was
//! replaced may decide a command again, so the same state, command and context must always give
//! the same decision.

use std::time::Duration;

use serde_json::{Map, Value};

use super::{
    Change, Command, CommandBody, Config, Connector, Health, Later, Patch, Problem, ProblemCode,
    Project, ProjectState, Tier,
    checks::{check_known, check_version, unless_same},
    merge::Merge,
    rotation::{self, RenewalStep, Renewed},
    signing,
};
use crate::{
    clock::Timestamp,
    destination::{Checks, ConnectorType, cut},
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
    /// The command's number: its offset, as long as the commands topic was never made anew.
    pub offset: i64,
    /// Where users' URLs may point.
    pub egress: &'a EgressPolicy,
}

/// What becomes of a command.
#[expect(clippy::large_enum_variant, reason = "one is made at a time, and soon taken apart")]
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
        CommandBody::Create { connector, .. } => case.create(connector, &command.body),
        CommandBody::Update { connector, patch, if_version, overlap } => {
            case.update(connector, patch, *if_version, *overlap)
        }
        CommandBody::Delete { connector, if_version } => case.delete(connector, *if_version),
        CommandBody::Suspend { connector, reason, if_version } => {
            case.suspend(connector, reason, *if_version)
        }
        CommandBody::Resume { connector } => case.resume(connector),
        CommandBody::Failing { connector, .. } | CommandBody::Recovered { connector } => {
            case.report(connector)
        }
        CommandBody::Reencrypt { connector, .. } => case.reencrypt(connector),
        CommandBody::Renewal { connector, step } => case.renew(connector, step),
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
    fn create(&self, id: &ConnectorId, asked: &CommandBody) -> Result<Change, Problem> {
        let CommandBody::Create {
            kind, config: given, event_types, name, filter, is_active, ..
        } = asked
        else {
            return Err(Problem::new(ProblemCode::Internal, "This creates nothing."));
        };
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
        let (config, _) = self.merge(*kind, &Config::default(), Some(given), event_types)?;
        Ok(Change::ConnectorSet(Connector {
            key: self.key(id),
            kind: *kind,
            config,
            event_types: event_types.clone(),
            is_active: *is_active,
            name: name.clone(),
            filter: filter.clone(),
            suspended_reason: None,
            suspended_at: None,
            health: Box::default(),
            created_at: self.context.at,
            updated_at: self.context.at,
            version: self.context.offset,
            command_id: self.command.id.clone(),
            later: Later::default(),
        }))
    }

    fn update(
        &self,
        id: &ConnectorId,
        patch: &Patch,
        if_version: Option<i64>,
        overlap: Option<Duration>,
    ) -> Result<Change, Problem> {
        let connector = self.find(id)?;
        if let Some(same) = self.repeated(connector) {
            return Ok(same);
        }
        check_version(connector, if_version)?;
        if overlap.is_some() {
            signing::check_overlap(connector, patch)?;
        }
        let mut next = self.next_version(connector);
        if let Some(event_types) = &patch.event_types {
            next.event_types = event_types.clone();
            next.later.forget_event_types();
        }
        // Switching a connector off must work even when today's checks would refuse its config.
        if patch.config.is_some() || patch.event_types.is_some() {
            check_known(connector)?;
            let given = patch.config.as_ref();
            let (config, changed) =
                self.merge(connector.kind, &connector.config, given, &next.event_types)?;
            next.config = config;
            if let Some(overlap) = overlap {
                signing::keep_previous(
                    &mut next.config,
                    &connector.config,
                    self.context.at,
                    overlap,
                );
            }
            if changed {
                next.resume();
            }
        }
        if let Some(is_active) = patch.is_active {
            next.is_active = is_active;
            next.later.forget("isActive");
            if !is_active {
                *next.health = connector.health.switched_off(self.state);
            }
        }
        if let Some(name) = &patch.name {
            next.name.clone_from(name);
            next.later.forget("name");
        }
        if let Some(filter) = &patch.filter {
            next.filter.clone_from(filter);
            next.later.forget("filter");
        }
        Ok(Change::ConnectorSet(unless_same(connector, next)))
    }

    fn delete(&self, id: &ConnectorId, if_version: Option<i64>) -> Result<Change, Problem> {
        let connector = self.find(id)?;
        check_version(connector, if_version)?;
        Ok(Change::ConnectorGone(connector.key.clone()))
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
        Ok(Change::ConnectorSet(self.suspended(connector, reason)))
    }

    fn suspended(&self, connector: &Connector, reason: &str) -> Connector {
        let mut next = self.next_version(connector);
        next.suspended_reason = Some(cut(reason, MAX_SUSPENDED_REASON_CHARS));
        // A suspension that is asked for again has lasted since it began.
        let since = connector.suspended_reason.as_ref().and(connector.suspended_at);
        next.suspended_at = Some(since.unwrap_or(self.context.at));
        // Its owner is told that it is suspended, which says more.
        next.health.outage = None;
        next
    }

    /// A connector that is not suspended stays as it is: its owner sees no change.
    fn resume(&self, id: &ConnectorId) -> Result<Change, Problem> {
        let connector = self.find(id)?;
        if let Some(same) = self.repeated(connector) {
            return Ok(same);
        }
        if connector.suspended_reason.is_none() && connector.suspended_at.is_none() {
            return Ok(Change::ConnectorSet(connector.clone()));
        }
        let mut next = self.next_version(connector);
        next.resume();
        rotation::try_again(&mut next.config);
        Ok(Change::ConnectorSet(next))
    }

    /// A report of the connector's health: its owner sees no change of the connector, so it keeps
    /// its version and its time.
    fn report(&self, id: &ConnectorId) -> Result<Change, Problem> {
        let connector = self.find(id)?;
        check_version(connector, self.command.body.if_version())?;
        let now = (self.context.at, self.context.offset);
        let mut next = connector.clone();
        *next.health = Health::reported(self.state, connector, &self.command.body, now);
        Ok(Change::ConnectorSet(next))
    }

    /// The connector as it is: its owner sees no change, so it keeps its version, its time and a
    /// suspension. Whoever writes the change encrypts the secrets in it.
    fn reencrypt(&self, id: &ConnectorId) -> Result<Change, Problem> {
        Ok(Change::ConnectorSet(self.find(id)?.clone()))
    }

    /// A step of a renewal: its owner sees no change, unless the refresh token was refused.
    fn renew(&self, id: &ConnectorId, step: &RenewalStep) -> Result<Change, Problem> {
        let connector = self.find(id)?;
        if let Some(same) = self.repeated(connector) {
            return Ok(same);
        }
        match rotation::decide(connector, step, self.context.at)? {
            Renewed::Quietly(next) => Ok(Change::ConnectorSet(next)),
            Renewed::Refused(next, reason) => {
                Ok(Change::ConnectorSet(self.suspended(&next, &reason)))
            }
        }
    }

    fn set_tier(&self, tier: Tier) -> Change {
        // A repeated command says the same as before, so only its version is new.
        let before = self.state.project.as_ref();
        let repeated = before.filter(|project| project.command_id == self.command.id);
        let mut later = before.map(|project| project.later.clone()).unwrap_or_default();
        if repeated.is_none() {
            later.forget("tier");
            later.forget("updatedAt");
        }
        Change::ProjectSet(Project {
            id: self.command.project.clone(),
            tier: repeated.map_or(tier, |project| project.tier),
            updated_at: repeated.map_or(self.context.at, |project| project.updated_at),
            version: self.context.offset,
            command_id: self.command.id.clone(),
            later,
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
        let later = self.state.project.as_ref().and_then(|project| project.later.text("tier"));
        if let Some(tier) = later {
            return Err(Problem::new(
                ProblemCode::ConnectorLimitReached,
                format!(
                    "The project's tier {:?} is unknown to this version of the program, so it \
                     makes no connectors for it. Upgrade, or set a tier that it knows.",
                    cut(tier, 64)
                ),
            ));
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
            merge.check_ways();
        }
        merge.check_together(event_types);
        if merge.errors.is_empty() {
            Ok((merge.config, merge.changed))
        } else {
            Err(Problem::with_fields(ProblemCode::ValidationFailed, merge.errors))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::{
        connector::ConfigValue,
        destination::{PREVIOUS_SECRET, PREVIOUS_UNTIL, SIGNING_SECRET},
        id::ProjectId,
    };

    const HOOK: &str = "https://hooks.slack.com/services/T00000000/B00000000/0123456789ab";
    const OTHER_HOOK: &str = "https://hooks.slack.com/services/T00000000/B00000000/ba9876543210";

    /// A project's story: commands that were accepted, then one that is looked at.
    #[derive(Default)]
    struct Story {
        state: ProjectState,
        offset: i64,
    }

    fn given(commands: &[Value]) -> Story {
        let mut story = Story::default();
        for command in commands {
            match story.when(command.clone()) {
                Decision::Accepted(_) => {}
                Decision::Rejected(problem) => panic!("{command}: {problem:?}"),
            }
        }
        story
    }

    fn read(mut command: Value) -> Command {
        command["projectId"] = json!("proj_1");
        Command::from_value(command).unwrap()
    }

    impl Story {
        fn when(&mut self, command: Value) -> Decision {
            self.decide(&read(command))
        }

        fn decide(&mut self, command: &Command) -> Decision {
            let egress = EgressPolicy::default();
            let at = Timestamp::from_millis(1_000_000 + self.offset * 1000);
            let context = Context { at, offset: self.offset, egress: &egress };
            self.offset += 1;
            let decision = decide(&self.state, command, &context);
            assert_eq!(decision, decide(&self.state, command, &context));
            if let Decision::Accepted(change) = &decision {
                self.state.apply(change);
            }
            decision
        }

        fn connector(&self, id: &str) -> &Connector {
            &self.state.connectors[&ConnectorId::parse(id).unwrap()]
        }
    }

    fn tier(id: &str, tier: &str) -> Value {
        json!({"id": id, "type": "project.set_tier", "tier": tier})
    }

    fn create(id: &str, connector: &str) -> Value {
        create_with(id, connector, &json!({"webhookUrl": HOOK}))
    }

    fn create_with(id: &str, connector: &str, config: &Value) -> Value {
        json!({"id": id, "type": "connector.create", "connectorId": connector, "connector":
            {"type": "slack", "config": config, "eventTypes": ["payment.settled"]}})
    }

    fn update(id: &str, connector: &str, patch: &Value) -> Value {
        json!({"id": id, "type": "connector.update", "connectorId": connector, "patch": patch})
    }

    fn suspend(id: &str, if_version: Option<i64>) -> Value {
        let mut command = json!({"id": id, "type": "connector.suspend", "connectorId": "conn_1",
            "reason": "HTTP 404: no_service"});
        if let Some(version) = if_version {
            command["ifVersion"] = json!(version);
        }
        command
    }

    fn delete(id: &str) -> Value {
        json!({"id": id, "type": "connector.delete", "connectorId": "conn_1"})
    }

    fn code(decision: Decision) -> ProblemCode {
        problem(decision).code
    }

    fn problem(decision: Decision) -> Problem {
        match decision {
            Decision::Rejected(problem) => problem,
            Decision::Accepted(change) => panic!("accepted: {change:?}"),
        }
    }

    fn accepted(decision: Decision) -> Change {
        match decision {
            Decision::Accepted(change) => change,
            Decision::Rejected(problem) => panic!("rejected: {problem:?}"),
        }
    }

    #[test]
    fn an_unknown_project_may_have_no_connector() {
        let problem = problem(given(&[]).when(create("c1", "conn_1")));
        assert_eq!(problem.code, ProblemCode::ConnectorLimitReached);
        assert_eq!(problem.status, 403);
        assert!(problem.detail.contains("starter"), "{}", problem.detail);
    }

    #[test]
    fn a_downgrade_deletes_nothing_and_refuses_new_ones_until_there_is_room() {
        let mut commands = vec![tier("t1", "business")];
        commands.extend((0..6).map(|i| create(&format!("c{i}"), &format!("conn_{i}"))));
        let mut story = given(&commands);
        accepted(story.when(tier("t2", "pro")));
        assert_eq!(story.state.connectors.len(), 6);
        assert_eq!(code(story.when(create("x1", "new"))), ProblemCode::ConnectorLimitReached);
        accepted(story.when(delete("d1")));
        assert_eq!(code(story.when(create("x2", "new"))), ProblemCode::ConnectorLimitReached);
        accepted(story.when(json!({"id":"d2","type":"connector.delete","connectorId":"conn_2"})));
        accepted(story.when(create("x3", "new")));
    }

    #[test]
    fn an_id_is_taken_once() {
        let mut story = given(&[tier("t1", "pro"), create("c1", "conn_1")]);
        assert_eq!(code(story.when(create("c2", "conn_1"))), ProblemCode::ConnectorExists);
    }

    #[test]
    fn a_command_that_comes_twice_changes_only_the_version() {
        let commands = [
            tier("t1", "pro"),
            create("c1", "conn_1"),
            update("c2", "conn_1", &json!({"isActive": false})),
            suspend("c3", None),
        ];
        let mut story = Story::default();
        for command in commands {
            let once = accepted(story.when(command.clone()));
            let twice = accepted(story.when(command));
            match (once, twice) {
                (Change::ConnectorSet(once), Change::ConnectorSet(twice)) => {
                    assert_eq!(twice.version, once.version + 1);
                    assert_eq!(Connector { version: once.version, ..twice }, once);
                }
                (Change::ProjectSet(once), Change::ProjectSet(twice)) => {
                    assert_eq!(Project { version: once.version, ..twice }, once);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_repeated_create_is_no_new_connector_for_the_limit() {
        let mut commands = vec![tier("t1", "pro")];
        commands.extend((0..5).map(|i| create(&format!("c{i}"), &format!("conn_{i}"))));
        let mut story = given(&commands);
        accepted(story.when(create("c4", "conn_4")));
        assert_eq!(story.state.connectors.len(), 5);
    }

    #[test]
    fn every_wrong_field_of_a_configuration_is_named() {
        let mut story = given(&[tier("t1", "pro")]);
        let config = json!({"webhokUrl": HOOK, "zzz": 1});
        let problem = problem(story.when(create_with("c1", "conn_1", &config)));
        assert_eq!(problem.code, ProblemCode::ValidationFailed);
        let errors = problem.errors.iter().map(|e| format!("{}: {}", e.field, e.message));
        insta::assert_debug_snapshot!(errors.collect::<Vec<_>>(), @r#"
        [
            "config.webhokUrl: is no setting of slack, did you mean \"webhookUrl\"?",
            "config.zzz: is no setting of slack",
            "config.webhookUrl: is missing: The URL of an incoming webhook.",
        ]
        "#);
    }

    #[test]
    fn a_wrong_value_is_told_once() {
        let mut story = given(&[tier("t1", "pro")]);
        for (config, message) in [
            (json!({"webhookUrl": "http://hooks.slack.com/"}), "must begin with https://"),
            (json!({"webhookUrl": ["x"]}), "must be a string"),
            (json!({"webhookUrl": null}), "is missing"),
            (json!({"webhookUrl": {"$sealed": {}}}), "must be a string"),
            (json!({"webhookUrl": "https://hooks.slack.com/…/…89ab"}), "is a mask"),
        ] {
            let problem = problem(story.when(create_with("c1", "conn_1", &config)));
            assert_eq!(problem.errors.len(), 1, "{problem:?}");
            assert_eq!(problem.errors[0].field, "config.webhookUrl");
            assert!(problem.errors[0].message.contains(message), "{problem:?}");
        }
    }

    #[test]
    fn a_patch_replaces_what_it_names() {
        let mut story = given(&[tier("t1", "pro"), create("c1", "conn_1")]);
        let before = story.connector("conn_1").clone();
        let patch = json!({"isActive": false, "eventTypes": ["*"]});
        accepted(story.when(update("c2", "conn_1", &patch)));
        let after = story.connector("conn_1");
        assert_eq!((after.is_active, &after.event_types), (false, &EventTypes::All));
        assert_eq!(after.config, before.config);
        assert_eq!((after.created_at, after.version), (before.created_at, 2));
        assert!(after.updated_at > before.updated_at);
        let missing = update("c3", "conn_9", &patch);
        assert_eq!(code(story.when(missing)), ProblemCode::ConnectorNotFound);
    }

    #[test]
    fn a_patch_that_changes_nothing_makes_no_new_version() {
        let mut named = create("c1", "conn_1");
        named["connector"]["name"] = json!("Sales");
        named["connector"]["filter"] = json!("event.data.currency == 'USDC'");
        named["connector"]["isActive"] = json!(false);
        let mut story = given(&[tier("t1", "pro"), named, suspend("s1", None)]);
        let before = story.connector("conn_1").clone();
        assert_eq!((before.name.as_deref(), before.is_active), (Some("Sales"), false));
        let mask = before.config.get("webhookUrl").unwrap().mask();
        for (n, patch) in [
            json!({}),
            json!({"config": {}}),
            json!({"config": {"webhookUrl": mask}}),
            json!({"name": "Sales", "isActive": false, "eventTypes": ["payment.settled"],
                "filter": "event.data.currency == 'USDC'"}),
        ]
        .iter()
        .enumerate()
        {
            let change = accepted(story.when(update(&format!("u{n}"), "conn_1", patch)));
            assert_eq!(change, Change::ConnectorSet(before.clone()), "{patch}");
        }
        accepted(story.when(update("u9", "conn_1", &json!({"name": null, "filter": null}))));
        let after = story.connector("conn_1");
        assert!(after.name.is_none() && after.filter.is_none() && after.version > before.version);
        assert!(after.suspended_reason.is_some());
    }

    #[test]
    fn a_mask_that_comes_back_keeps_the_secret_and_another_one_is_refused() {
        let mut story = given(&[tier("t1", "pro"), create("c1", "conn_1"), suspend("s1", None)]);
        let config = story.connector("conn_1").config.clone();
        let mask = config.get("webhookUrl").unwrap().mask();
        accepted(story.when(update("c2", "conn_1", &json!({"config": {"webhookUrl": mask}}))));
        assert_eq!(story.connector("conn_1").config, config);
        assert!(story.connector("conn_1").suspended_reason.is_some());
        for (value, message) in [
            (json!(mask.replace("89ab", "0000")), "is a mask"),
            (Value::Null, "is required and cannot be removed"),
        ] {
            let command = update("c3", "conn_1", &json!({"config": {"webhookUrl": value}}));
            let problem = problem(story.when(command));
            assert!(problem.errors[0].message.contains(message), "{problem:?}");
        }
    }

    #[test]
    fn a_new_configuration_lifts_a_suspension_and_nothing_else_does() {
        let mut story = given(&[tier("t1", "pro"), create("c1", "conn_1"), suspend("s1", None)]);
        for (id, patch) in [
            ("u1", json!({"isActive": true, "eventTypes": ["*"]})),
            ("u2", json!({"config": {}})),
            ("u3", json!({"config": {"webhookUrl": HOOK}})),
        ] {
            accepted(story.when(update(id, "conn_1", &patch)));
            assert!(story.connector("conn_1").suspended_reason.is_some(), "{patch}");
        }
        let patch = json!({"config": {"webhookUrl": OTHER_HOOK}});
        accepted(story.when(update("u4", "conn_1", &patch)));
        assert_eq!(story.connector("conn_1").suspended_reason, None);
    }

    fn resume(id: &str) -> Value {
        json!({"id": id, "type": "connector.resume", "connectorId": "conn_1"})
    }

    #[test]
    fn a_suspension_says_since_when_and_is_lifted_without_a_new_configuration() {
        let mut story = given(&[tier("t1", "pro"), create("c1", "conn_1"), suspend("s1", None)]);
        let since = story.connector("conn_1").updated_at;
        accepted(story.when(suspend("s2", None)));
        let suspended = story.connector("conn_1").clone();
        assert_eq!(suspended.suspended_at, Some(since));
        assert_eq!(suspended.to_public_json()["suspendedAt"], json!(since));
        accepted(story.when(resume("r1")));
        let resumed = story.connector("conn_1").clone();
        assert_eq!((&resumed.suspended_reason, resumed.suspended_at), (&None, None));
        assert!(resumed.version > suspended.version);
        // Once more, there is nothing to lift, and nothing that its owner sees changes.
        accepted(story.when(resume("r2")));
        assert_eq!(*story.connector("conn_1"), resumed);
        let missing = json!({"id": "r3", "type": "connector.resume", "connectorId": "conn_9"});
        assert_eq!(code(story.when(missing)), ProblemCode::ConnectorNotFound);
    }

    #[test]
    fn what_a_later_version_wrote_survives_every_command() {
        let mut story = given(&[tier("t1", "pro"), create("c1", "conn_1")]);
        let id = ConnectorId::parse("conn_1").unwrap();
        let change = |story: &mut Story, from: &str, to: &str| {
            let json = String::from_utf8(story.connector("conn_1").to_json()).unwrap();
            let json = json.replace(from, to);
            let connector = Connector::from_json(json.as_bytes()).unwrap();
            story.state.connectors.insert(id.clone(), connector);
        };
        change(&mut story, "{\"id\"", "{\"colour\":{\"a\":1},\"id\"");
        change(&mut story, "[\"payment.settled\"]", "[\"payment.settled\",\"payment.refunded\"]");
        let kept = |story: &Story| {
            let json: Value = serde_json::from_slice(&story.connector("conn_1").to_json()).unwrap();
            (json["colour"].clone(), json["eventTypes"].clone())
        };
        for command in [
            update("u1", "conn_1", &json!({"isActive": false})),
            update("u2", "conn_1", &json!({"config": {"webhookUrl": OTHER_HOOK}})),
            suspend("s1", None),
            resume("r1"),
            json!({"id": "e1", "type": "connector.reencrypt", "connectorId": "conn_1", "key": "k2"}),
        ] {
            accepted(story.when(command));
            let all = json!(["payment.settled", "payment.refunded"]);
            assert_eq!(kept(&story), (json!({"a": 1}), all));
        }
        accepted(story.when(update("u3", "conn_1", &json!({"eventTypes": ["*"]}))));
        assert_eq!(kept(&story), (json!({"a": 1}), json!(["*"])));

        // Of a type that is unknown here, whatever needs no knowledge of it is possible.
        change(&mut story, "\"slack\"", "\"carrier-pigeon\"");
        assert_eq!(code(story.when(create("c2", "conn_1"))), ProblemCode::ConnectorExists);
        let patch = json!({"config": {"webhookUrl": HOOK}});
        assert_eq!(code(story.when(update("u4", "conn_1", &patch))), ProblemCode::Conflict);
        for command in
            [suspend("s2", None), resume("r2"), update("u5", "conn_1", &json!({"isActive": true}))]
        {
            accepted(story.when(command));
            assert_eq!(story.connector("conn_1").to_public_json()["type"], "carrier-pigeon");
            assert_eq!(kept(&story).0, json!({"a": 1}));
        }
        accepted(story.when(delete("d1")));

        let mut project: Value =
            serde_json::from_slice(&story.state.project.as_ref().unwrap().to_json()).unwrap();
        project["seats"] = json!(3);
        project["tier"] = json!("platinum");
        let project = Project::from_json(project.to_string().as_bytes()).unwrap();
        story.state.project = Some(project);
        let refused = problem(story.when(create("c3", "conn_2")));
        assert_eq!(refused.code, ProblemCode::ConnectorLimitReached);
        assert!(refused.detail.contains("platinum"), "{}", refused.detail);
        accepted(story.when(tier("t2", "pro")));
        let project = story.state.project.as_ref().unwrap().to_json();
        let project: Value = serde_json::from_slice(&project).unwrap();
        assert_eq!((&project["tier"], &project["seats"]), (&json!("pro"), &json!(3)));
    }

    #[test]
    fn a_suspension_of_an_older_version_is_refused() {
        let mut story = given(&[tier("t1", "pro"), create("c1", "conn_1")]);
        let failed = story.connector("conn_1").version;
        accepted(story.when(update("u1", "conn_1", &json!({"isActive": false}))));
        assert_eq!(code(story.when(suspend("s1", Some(failed)))), ProblemCode::ConnectorChanged);
        let current = story.connector("conn_1").version;
        accepted(story.when(suspend("s2", Some(current))));
        let mut long = suspend("s3", None);
        long["reason"] = json!("é".repeat(2000));
        accepted(story.when(long));
        let reason = story.connector("conn_1").suspended_reason.clone().unwrap();
        assert_eq!(reason.chars().count(), MAX_SUSPENDED_REASON_CHARS);
    }

    #[test]
    fn a_change_of_an_older_version_is_refused() {
        let mut story = given(&[tier("t1", "pro"), create("c1", "conn_1")]);
        let seen = story.connector("conn_1").version;
        let if_version = |mut command: Value| {
            command["ifVersion"] = json!(seen);
            command
        };
        let off = json!({"isActive": false});
        accepted(story.when(if_version(update("u1", "conn_1", &off))));
        let again = story.when(if_version(update("u2", "conn_1", &off)));
        assert_eq!(code(again), ProblemCode::ConnectorChanged);
        assert_eq!(code(story.when(if_version(delete("d1")))), ProblemCode::ConnectorChanged);
        accepted(story.when(delete("d2")));
    }

    #[test]
    fn encrypting_anew_changes_nothing_that_the_owner_sees() {
        let mut story = given(&[tier("t1", "pro"), create("c1", "conn_1"), suspend("s1", None)]);
        let before = story.connector("conn_1").clone();
        let reencrypt = |connector: &str| json!({"id": "r1", "type": "connector.reencrypt", "connectorId": connector, "key": "k2"});
        accepted(story.when(reencrypt("conn_1")));
        assert_eq!(*story.connector("conn_1"), before);
        assert_eq!(code(story.when(reencrypt("conn_9"))), ProblemCode::ConnectorNotFound);
        // Who looked before it may still change the connector, and a late suspension still holds.
        let mut change = update("u1", "conn_1", &json!({"isActive": false}));
        change["ifVersion"] = json!(before.version);
        accepted(story.when(change));
    }

    #[test]
    fn what_is_deleted_is_gone() {
        let mut story = given(&[tier("t1", "pro"), create("c1", "conn_1")]);
        let change = accepted(story.when(delete("d1")));
        assert_eq!(change.state_key().to_string(), "proj_1/conn_1");
        assert_eq!(change.to_value(), None);
        assert_eq!(code(story.when(delete("d2"))), ProblemCode::ConnectorNotFound);
        assert_eq!(code(story.when(suspend("s1", None))), ProblemCode::ConnectorNotFound);
    }

    fn any_command() -> impl Strategy<Value = CommandBody> {
        let connector = (0..20_u8).prop_map(|n| ConnectorId::parse(&format!("conn_{n}")).unwrap());
        let (connector2, connector3) = (connector.clone(), connector.clone());
        let config = prop_oneof![Just(HOOK), Just(OTHER_HOOK), Just("wrong"), Just("…")]
            .prop_map(|url| json!({"webhookUrl": url}).as_object().unwrap().clone());
        let patch = (proptest::option::of(config.clone()), proptest::option::of(any::<bool>()))
            .prop_map(|(config, is_active)| Patch { config, is_active, ..Patch::default() });
        prop_oneof![
            6 => (connector.clone(), config).prop_map(|(connector, config)| CommandBody::Create {
                connector,
                kind: ConnectorType::Slack,
                config,
                event_types: EventTypes::All,
                name: None,
                filter: None,
                is_active: true,
            }),
            2 => (connector.clone(), patch)
                .prop_map(|(connector, patch)| CommandBody::Update { connector, patch, if_version: None, overlap: None }),
            1 => connector.clone().prop_map(|connector| CommandBody::Delete { connector, if_version: None }),
            1 => (connector, proptest::option::of(0..50_i64)).prop_map(|(connector, if_version)| {
                CommandBody::Suspend { connector, reason: "r".to_owned(), if_version }
            }),
            1 => connector3.clone().prop_map(|connector| CommandBody::Failing {
                connector,
                reason: "timeout: it did not answer".to_owned(),
                since: Timestamp::from_millis(1_000_000),
                if_version: None,
            }),
            1 => connector3.prop_map(|connector| CommandBody::Recovered { connector }),
            1 => connector2.prop_map(|connector| CommandBody::Reencrypt {
                connector,
                key: "k2".to_owned(),
            }),
            1 => proptest::sample::select(Tier::ALL).prop_map(|tier| CommandBody::SetTier { tier }),
        ]
    }

    fn zapier(config: &Value) -> Story {
        given(&[
            tier("t", "pro"),
            json!({"id": "c", "type": "connector.create", "connectorId": "conn_1", "connector":
                {"type": "zapier", "config": config, "eventTypes": ["*"]}}),
        ])
    }

    fn signing(byte: u8) -> String {
        crate::destination::signing_secret(&[byte; 32]).to_string()
    }

    fn rotate(id: &str, secret: &str, overlap: &Value) -> Value {
        let mut command = update(id, "conn_1", &json!({"config": {"signingSecret": secret}}));
        command["overlapSeconds"] = overlap.clone();
        command
    }

    #[test]
    fn a_signing_secret_that_is_replaced_is_kept_for_the_overlap_and_not_shown() {
        let hook = "https://hooks.zapier.com/hooks/catch/123456/abcdef/";
        let mut story = zapier(&json!({"webhookUrl": hook}));
        let text = |story: &Story, field: &str| match story.connector("conn_1").config.get(field) {
            Some(ConfigValue::Plain(value)) => value.as_str().map(str::to_owned),
            _ => None,
        };
        // There was none before.
        story.when(rotate("r1", &signing(1), &json!(3600)));
        assert_eq!(text(&story, SIGNING_SECRET), Some(signing(1)));
        assert_eq!(text(&story, PREVIOUS_SECRET), None);

        story.when(rotate("r2", &signing(2), &json!(3600)));
        assert_eq!(text(&story, SIGNING_SECRET), Some(signing(2)));
        assert_eq!(text(&story, PREVIOUS_SECRET), Some(signing(1)));
        let at = story.connector("conn_1").updated_at;
        let until = at.plus(Duration::from_secs(3600)).to_string();
        assert_eq!(text(&story, PREVIOUS_UNTIL), Some(until));
        let shown = story.connector("conn_1").to_public_json();
        let shown: Vec<&String> = shown["config"].as_object().unwrap().keys().collect();
        assert_eq!(shown, ["webhookUrl", "signingSecret"]);
        // The same command again changes nothing.
        let before = story.connector("conn_1").config.clone();
        story.when(rotate("r2", &signing(2), &json!(3600)));
        assert_eq!(story.connector("conn_1").config, before);

        // An owner's own change, or no overlap, leaves one secret.
        story.when(rotate("r3", &signing(3), &json!(0)));
        assert_eq!((text(&story, PREVIOUS_SECRET), text(&story, PREVIOUS_UNTIL)), (None, None));
        story.when(rotate("r4", &signing(4), &json!(604_800)));
        assert_eq!(text(&story, PREVIOUS_SECRET), Some(signing(3)));
        let other = json!({"config": {"webhookUrl": format!("{hook}x/")}});
        story.when(update("u1", "conn_1", &other));
        assert_eq!(text(&story, PREVIOUS_SECRET), Some(signing(3)));
        story.when(update("u2", "conn_1", &json!({"config": {"signingSecret": null}})));
        assert_eq!((text(&story, SIGNING_SECRET), text(&story, PREVIOUS_SECRET)), (None, None));
    }

    #[test]
    fn an_overlap_goes_with_a_new_signing_secret_of_a_type_that_signs() {
        let mut story = zapier(&json!({"webhookUrl": "https://hooks.zapier.com/hooks/catch/1/a/"}));
        let mut command = update("u1", "conn_1", &json!({"isActive": false}));
        command["overlapSeconds"] = json!(1);
        assert_eq!(problem(story.when(command)).errors[0].field, "overlapSeconds");
        // A mask is no new secret: it would take the place of the one that still signs.
        let masked = problem(story.when(rotate("u4", "…abcd", &json!(1))));
        assert_eq!(masked.errors[0].field, "overlapSeconds");
        for name in [PREVIOUS_SECRET, PREVIOUS_UNTIL] {
            let patch = json!({"config": {name: signing(1)}});
            let refused = problem(story.when(update("u2", "conn_1", &patch)));
            assert!(refused.errors[0].message.contains("is no setting"), "{refused:?}");
        }
        for wrong in [json!(-1), json!(604_801), json!("24h"), json!(1.5)] {
            let mut command = rotate("u3", &signing(1), &wrong);
            command["projectId"] = json!("proj_1");
            assert!(Command::from_value(command).is_err(), "{wrong}");
        }
        let mut slack = given(&[tier("t", "pro"), create("c", "conn_1")]);
        let refused = problem(slack.when(rotate("r", &signing(1), &json!(1))));
        assert!(refused.detail.contains("zapier, n8n, make"), "{}", refused.detail);
        assert_eq!(refused.code, ProblemCode::ValidationFailed);
    }

    proptest! {
        #[test]
        fn no_sequence_of_commands_passes_the_limit(
            // Few ids, so that some commands come twice or share one.
            commands in proptest::collection::vec((0..60_u8, any_command()), 0..120)
        ) {
            let mut story = Story::default();
            let mut folded = ProjectState::default();
            for (id, body) in commands {
                let before = story.state.connectors.len();
                let command = Command {
                    id: CommandId::parse(&format!("cmd_{id}")).unwrap(),
                    project: ProjectId::parse("proj_1").unwrap(),
                    actor: None,
                    body,
                };
                let offset = story.offset;
                let known = command.body.connector();
                let known = known.and_then(|id| story.state.connectors.get(id)).cloned();
                let decision = story.decide(&command);
                let after = story.state.connectors.len();
                if after > before {
                    let limit = story.state.tier().limit();
                    prop_assert!(limit.is_none_or(|limit| after <= limit as usize));
                }
                if let Decision::Accepted(change) = decision {
                    // What others fold is what the record says, and it says which command it was.
                    let read = change.state_key().read(change.to_value().as_deref()).unwrap();
                    prop_assert_eq!(&read, &change);
                    folded.apply(&read);
                    match (change, &command.body) {
                        (
                            Change::ConnectorSet(connector),
                            CommandBody::Failing { .. } | CommandBody::Recovered { .. },
                        ) => {
                            let health = connector.health.clone();
                            let known = known.map(|known| Connector { health, ..known });
                            prop_assert_eq!(Some(&connector), known.as_ref());
                        }
                        (Change::ConnectorSet(connector), CommandBody::Reencrypt { .. }) => {
                            prop_assert_eq!(Some(&connector), known.as_ref());
                        }
                        // A patch that changes nothing makes no new version.
                        (Change::ConnectorSet(connector), CommandBody::Update { .. })
                            if known.as_ref() == Some(&connector) => {}
                        (Change::ConnectorSet(connector), _) => {
                            prop_assert_eq!(connector.version, offset);
                            prop_assert_eq!(connector.command_id, command.id);
                        }
                        _ => {}
                    }
                }
                prop_assert_eq!(&folded, &story.state);
            }
        }
    }
}
