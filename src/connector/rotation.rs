//! Refresh tokens that change with each use: the steps of a renewal, as commands of the program's
//! own, and what each of them decides.
//!
//! An intent is stored before the vendor is called, and the result after it names that intent. So at
//! most one caller's result counts, whatever else two instances believe of each other; see
//! `docs/decisions/02-rotating-refresh-tokens.md`. Version and times of the connector stay, because
//! its owner sees no change.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{
    Config, ConfigValue, Connector, Problem, ProblemCode,
    fields::{Fields, quoted},
};
use crate::{
    clock::Timestamp,
    destination::{
        REFRESH_TOKEN, RENEWAL_FAILING, RENEWAL_INTENT, RENEWAL_INTENT_AT, RENEWAL_REFUSED,
        ROTATED_ACCESS, ROTATED_AT, ROTATED_FROM, ROTATED_REFRESH, ROTATED_UNTIL, digest,
    },
};

/// How long no other renewal of a connector may begin after one that did not end. A caller begins
/// its call within [`INTENT_USE`](super::INTENT_USE) and gives it up after half a minute, so its call
/// has ended by then even when clocks differ by a minute.
pub const INTENT_LIFE: Duration = Duration::from_secs(120);
/// A token is renewed after so much of its life, in percent: for each connector at its own moment.
const RENEW_AFTER_PERCENT: std::ops::Range<u64> = 60..68;
/// The longest id of an intent, in bytes.
const MAX_INTENT_BYTES: usize = 64;
const RENEWAL: &str = "renewal";

/// A step of a renewal. Its `Debug` shows no token.
#[derive(Clone, PartialEq)]
pub enum RenewalStep {
    /// The keeper is about to call the vendor.
    Begin {
        /// A new id.
        intent: String,
    },
    /// The vendor gave new tokens.
    Done {
        /// The id with which it began.
        intent: String,
        /// The digest of the owner's refresh token that was used, or that the used one came from.
        from: String,
        /// The end of the access token.
        until: Timestamp,
        /// The tokens, encrypted or opened.
        tokens: Map<String, Value>,
    },
    /// The vendor refused the refresh token.
    Refused {
        /// The id with which it began.
        intent: String,
        /// Why, for its owner.
        reason: String,
    },
    /// The vendor gives no new token, for a reason that may pass.
    Failing {
        /// The id with which it began.
        intent: String,
        /// Why, for its owner.
        reason: String,
    },
    /// The service refused the access token that ends at this moment.
    TokenRefused {
        /// Its end.
        until: Timestamp,
    },
}

impl RenewalStep {
    /// The command that begins a renewal.
    pub const BEGIN: &str = "connector.renew";
    /// The command that ends one.
    pub const END: &str = "connector.renewed";
    /// The command that asks for one early.
    pub const EARLY: &str = "connector.token_refused";

    /// The name of its command.
    #[must_use]
    pub const fn command(&self) -> &'static str {
        match self {
            Self::Begin { .. } => Self::BEGIN,
            Self::Done { .. } | Self::Refused { .. } | Self::Failing { .. } => Self::END,
            Self::TokenRefused { .. } => Self::EARLY,
        }
    }

    pub(super) fn to_value(&self) -> Value {
        match self {
            Self::Begin { intent } => json!({ "intent": intent }),
            Self::Done { intent, from, until, tokens } => {
                json!({ "intent": intent, "from": from, "until": until, "tokens": tokens })
            }
            Self::Refused { intent, reason } => json!({ "intent": intent, "refused": reason }),
            Self::Failing { intent, reason } => json!({ "intent": intent, "failing": reason }),
            Self::TokenRefused { until } => json!({ "until": until }),
        }
    }

    /// Reads the step of a command with this name.
    pub(super) fn read(command: &str, fields: &mut Fields) -> Option<Self> {
        let mut map = fields.required_object(RENEWAL)?;
        // Serializers of records write what is not set as null.
        map.retain(|_, value| !value.is_null());
        let mut inner = Fields::new(map);
        let step = Self::read_inner(command, &mut inner);
        inner.finish(&["intent", "from", "until", "tokens", "refused", "failing"]);
        fields.errors.append(&mut inner.errors);
        step
    }

    fn read_inner(command: &str, fields: &mut Fields) -> Option<Self> {
        if command == Self::EARLY {
            return Some(Self::TokenRefused { until: fields.time("until")? });
        }
        let intent = fields.text("intent")?;
        if intent.is_empty() || intent.len() > MAX_INTENT_BYTES {
            fields.error("intent", format!("must have 1 to {MAX_INTENT_BYTES} bytes"));
            return None;
        }
        if command == Self::BEGIN {
            return Some(Self::Begin { intent });
        }
        if fields.map.contains_key("refused") {
            return Some(Self::Refused { intent, reason: fields.text("refused")? });
        }
        if fields.map.contains_key("failing") {
            return Some(Self::Failing { intent, reason: fields.text("failing")? });
        }
        let (from, until) = (fields.text("from"), fields.time("until"));
        let tokens = fields.required_object("tokens")?;
        for name in
            tokens.keys().filter(|name| ![ROTATED_ACCESS, ROTATED_REFRESH].contains(&name.as_str()))
        {
            fields.error("tokens", format!("has no {}", quoted(name)));
        }
        Some(Self::Done { intent, from: from?, until: until?, tokens })
    }
}

impl std::fmt::Debug for RenewalStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Begin { intent } => write!(f, "Begin({intent:?})"),
            Self::Done { intent, until, .. } => write!(f, "Done({intent:?}, until {until})"),
            Self::Refused { intent, reason } => write!(f, "Refused({intent:?}, {reason:?})"),
            Self::Failing { intent, reason } => write!(f, "Failing({intent:?}, {reason:?})"),
            Self::TokenRefused { until } => write!(f, "TokenRefused({until})"),
        }
    }
}

/// What becomes of a connector whose token is renewed.
pub(super) enum Renewed {
    /// This, without a new version.
    Quietly(Connector),
    /// It cannot go on: its refresh token was refused, for this reason.
    Refused(Connector, String),
}

/// Decides a step.
pub(super) fn decide(
    connector: &Connector,
    step: &RenewalStep,
    now: Timestamp,
) -> Result<Renewed, Problem> {
    let mut next = connector.clone();
    let config = &mut next.config;
    if !rotates(connector) {
        return Err(conflict("has no refresh token that changes with its use"));
    }
    match step {
        RenewalStep::Begin { intent } => {
            if text(config, RENEWAL_REFUSED).is_some() {
                return Err(conflict("waits for its owner: its refresh token was refused"));
            }
            if let Some(known) = Intent::of(connector)
                && known.id != *intent
                && known.is_young(now)
            {
                return Err(conflict("is being renewed"));
            }
            set(config, RENEWAL_INTENT, intent.clone());
            set(config, RENEWAL_INTENT_AT, now.to_string());
        }
        RenewalStep::Done { intent, from, until, tokens } => {
            end(config, intent)?;
            for (name, value) in tokens {
                config.insert(name.as_str(), ConfigValue::Plain(value.clone()));
            }
            set(config, ROTATED_AT, now.to_string());
            set(config, ROTATED_UNTIL, until.to_string());
            set(config, ROTATED_FROM, from.clone());
            config.remove(RENEWAL_FAILING);
        }
        RenewalStep::Refused { intent, reason } => {
            end(config, intent)?;
            set(config, RENEWAL_REFUSED, "yes".to_owned());
            return Ok(Renewed::Refused(next, reason.clone()));
        }
        RenewalStep::Failing { intent, .. } => {
            end(config, intent)?;
            if !is_renewal_failing(connector) {
                set(config, RENEWAL_FAILING, now.to_string());
            }
        }
        // One that was renewed meanwhile is another one.
        RenewalStep::TokenRefused { until } => {
            if time(config, ROTATED_UNTIL) == Some(*until) && now < *until {
                set(config, ROTATED_UNTIL, now.to_string());
            }
        }
    }
    Ok(Renewed::Quietly(next))
}

/// Ends the renewal of this intent, if it is the one that is under way.
fn end(config: &mut Config, intent: &str) -> Result<(), Problem> {
    if text(config, RENEWAL_INTENT) != Some(intent) {
        return Err(conflict("is not being renewed with this intent, so the result is not taken"));
    }
    config.remove(RENEWAL_INTENT);
    config.remove(RENEWAL_INTENT_AT);
    Ok(())
}

/// The owner gave a refresh token: the chain that came from another one ends. Tools that give all
/// settings at each change give the same one again, which was used up long ago.
pub(super) fn take_refresh_token(config: &mut Config, given: Option<&str>) {
    let is_same = given.is_some_and(|given| text(config, ROTATED_FROM) == Some(&*digest(given)));
    if !is_same {
        for name in [ROTATED_ACCESS, ROTATED_REFRESH, ROTATED_AT, ROTATED_UNTIL, ROTATED_FROM] {
            config.remove(name);
        }
    }
    for name in [RENEWAL_INTENT, RENEWAL_INTENT_AT, RENEWAL_REFUSED, RENEWAL_FAILING] {
        config.remove(name);
    }
}

/// Its owner wants it tried again.
pub(super) fn try_again(config: &mut Config) {
    config.remove(RENEWAL_REFUSED);
}

fn conflict(words: &str) -> Problem {
    Problem::new(ProblemCode::Conflict, format!("The connector {words}."))
}

/// A renewal that is under way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Intent {
    /// Its id.
    pub id: String,
    /// When it began, by the record that says so.
    pub at: Timestamp,
}

impl Intent {
    /// The one that is stored.
    #[must_use]
    pub fn of(connector: &Connector) -> Option<Self> {
        let config = &connector.config;
        Some(Self {
            id: text(config, RENEWAL_INTENT)?.to_owned(),
            at: time(config, RENEWAL_INTENT_AT).unwrap_or_default(),
        })
    }

    /// Whether no other may begin yet. One from a clock that is far ahead blocks none.
    #[must_use]
    pub fn is_young(&self, now: Timestamp) -> bool {
        now.since(self.at) < INTENT_LIFE && self.at.since(now) < INTENT_LIFE
    }
}

/// Whether its refresh token changes with each use.
fn rotates(connector: &Connector) -> bool {
    connector.kind.kept_field(ROTATED_REFRESH).is_some()
        && connector.config.get(REFRESH_TOKEN).is_some()
}

/// Whether its owner was told that the renewal fails.
#[must_use]
pub fn is_renewal_failing(connector: &Connector) -> bool {
    connector.config.get(RENEWAL_FAILING).is_some()
}

/// When its access token is to be renewed; nothing when there is none to renew.
#[must_use]
pub fn renewal_due(connector: &Connector) -> Option<Timestamp> {
    let config = &connector.config;
    if !rotates(connector) || text(config, RENEWAL_REFUSED).is_some() {
        return None;
    }
    let times = time(config, ROTATED_AT).zip(time(config, ROTATED_UNTIL));
    let Some((at, until)) = times.filter(|(at, until)| at < until) else {
        return Some(Timestamp::default());
    };
    let chance = u64::from(crc32fast::hash(connector.key.to_string().as_bytes()));
    let spread = RENEW_AFTER_PERCENT.end - RENEW_AFTER_PERCENT.start;
    let percent = RENEW_AFTER_PERCENT.start + chance % spread;
    let life = u64::try_from(until.since(at).as_millis()).unwrap_or(u64::MAX / 100);
    Some(at.plus(Duration::from_millis(life / 100 * percent)))
}

fn text<'a>(config: &'a Config, name: &str) -> Option<&'a str> {
    config.get(name)?.text()
}

fn time(config: &Config, name: &str) -> Option<Timestamp> {
    Timestamp::parse(text(config, name)?).ok()
}

fn set(config: &mut Config, name: &str, value: String) {
    config.insert(name, ConfigValue::Plain(Value::String(value)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        connector::{
            Change, Command, Context, Decision, Notice, NoticeKind, ProjectState,
            decide as decide_command,
        },
        egress::EgressPolicy,
    };

    const REFRESH: &str = "refresh-token-c41e8a90";

    /// A project with one connector, whose clock is set by hand.
    struct Story {
        state: ProjectState,
        offset: i64,
    }

    fn minutes(minutes: i64) -> Timestamp {
        Timestamp::from_millis(1_700_000_000_000 + minutes * 60_000)
    }

    impl Story {
        fn new() -> Self {
            let mut story = Self { state: ProjectState::default(), offset: 0 };
            story.accept(0, "project.set_tier", &json!({ "tier": "pro" }));
            let config = json!({ "tenantId": "00000000-1111-2222-3333-444444444444",
                "refreshToken": REFRESH });
            let connector = json!({ "type": "xero", "config": config,
                "eventTypes": ["revenue.daily_summary"] });
            story.accept(0, "connector.create", &json!({ "connector": connector }));
            story
        }

        fn decide(&mut self, at: i64, kind: &str, more: &Value) -> Decision {
            let mut command = json!({ "id": format!("cmd_{}", self.offset), "type": kind,
                "projectId": "proj_1" });
            if kind != "project.set_tier" {
                command["connectorId"] = json!("conn_1");
            }
            for (name, value) in more.as_object().unwrap() {
                command[name] = value.clone();
            }
            let command = Command::from_value(command).unwrap();
            let egress = EgressPolicy::default();
            let context = Context { at: minutes(at), offset: self.offset, egress: &egress };
            self.offset += 1;
            let decision = decide_command(&self.state, &command, &context);
            if let Decision::Accepted(change) = &decision {
                self.state.apply(change);
            }
            decision
        }

        fn accept(&mut self, at: i64, kind: &str, more: &Value) -> Change {
            match self.decide(at, kind, more) {
                Decision::Accepted(change) => change,
                Decision::Rejected(problem) => panic!("{kind} {more}: {problem:?}"),
            }
        }

        fn refuse(&mut self, at: i64, kind: &str, more: &Value) {
            match self.decide(at, kind, more) {
                Decision::Rejected(problem) => assert_eq!(problem.code, ProblemCode::Conflict),
                Decision::Accepted(change) => panic!("{kind} {more}: {change:?}"),
            }
        }

        fn begin(&mut self, at: i64, intent: &str) {
            self.accept(at, RenewalStep::BEGIN, &json!({ "renewal": { "intent": intent } }));
        }

        fn connector(&self) -> &Connector {
            &self.state.connectors[&"conn_1".parse().unwrap()]
        }

        fn text(&self, name: &str) -> Option<&str> {
            text(&self.connector().config, name)
        }
    }

    fn done(intent: &str, until: i64, number: i64) -> Value {
        json!({ "renewal": { "intent": intent, "from": digest(REFRESH), "until": minutes(until),
            "tokens": { "rotatedAccessToken": format!("access-{number}"),
                "rotatedRefreshToken": format!("refresh-{number}") } } })
    }

    #[test]
    fn the_result_of_the_stored_intent_counts_and_no_other() {
        let mut story = Story::new();
        let before = story.connector().clone();
        assert_eq!(renewal_due(&before), Some(Timestamp::default()), "it has no token yet");
        story.begin(10, "a");
        story.refuse(11, RenewalStep::BEGIN, &json!({ "renewal": { "intent": "b" } }));
        story.begin(12, "b");
        story.refuse(12, RenewalStep::END, &done("a", 40, 1));
        story.accept(13, RenewalStep::END, &done("b", 43, 2));
        story.refuse(13, RenewalStep::END, &done("b", 43, 3));
        assert_eq!(story.text(ROTATED_REFRESH), Some("refresh-2"));
        assert_eq!((story.text(RENEWAL_INTENT), story.text(RENEWAL_INTENT_AT)), (None, None));
        let after = story.connector();
        let seen = |c: &Connector| (c.version, c.updated_at, c.command_id.clone());
        assert_eq!(seen(after), seen(&before));
        assert_eq!(after.to_public_json(), before.to_public_json());
        let due = renewal_due(after).unwrap();
        let part = due.since(minutes(13)).as_secs() * 100 / (30 * 60);
        assert!(RENEW_AFTER_PERCENT.contains(&part), "{part}");
    }

    #[test]
    fn a_refusal_suspends_once_and_its_owner_mends_it() {
        let mut story = Story::new();
        story.begin(0, "a");
        let refused = json!({ "renewal": { "intent": "a", "refused": "unauthorized: reconnect" } });
        story.accept(1, RenewalStep::END, &refused);
        let connector = story.connector();
        assert_eq!(connector.suspended_reason.as_deref(), Some("unauthorized: reconnect"));
        assert_eq!((connector.version, renewal_due(connector)), (3, None));
        story.refuse(60, RenewalStep::BEGIN, &json!({ "renewal": { "intent": "b" } }));
        story.accept(61, "connector.resume", &json!({}));
        assert!(renewal_due(story.connector()).is_some());
        story.begin(62, "c");
        story.accept(63, RenewalStep::END, &done("c", 93, 1));
        let patch = json!({ "patch": { "config": { "refreshToken": "another-refresh-token" } } });
        story.accept(64, "connector.update", &patch);
        assert_eq!((story.text(ROTATED_REFRESH), story.text(ROTATED_ACCESS)), (None, None));
        assert_eq!(renewal_due(story.connector()), Some(Timestamp::default()));
    }

    #[test]
    fn the_same_refresh_token_given_again_breaks_no_chain() {
        let mut story = Story::new();
        story.begin(0, "a");
        story.accept(1, RenewalStep::END, &done("a", 31, 1));
        let patch = json!({ "patch": { "config": { "refreshToken": REFRESH } } });
        story.accept(2, "connector.update", &patch);
        assert_eq!(story.text(ROTATED_REFRESH), Some("refresh-1"));
        // Another way to authenticate takes its place.
        let config = json!({ "refreshToken": null, "accessToken": "eyJ-access-token" });
        story.accept(3, "connector.update", &json!({ "patch": { "config": config } }));
        assert_eq!((story.text(ROTATED_REFRESH), story.text(ROTATED_FROM)), (None, None));
        assert_eq!(renewal_due(story.connector()), None);
        story.refuse(4, RenewalStep::BEGIN, &json!({ "renewal": { "intent": "b" } }));
    }

    #[test]
    fn a_renewal_that_fails_is_told_once_until_it_works() {
        let mut story = Story::new();
        let failing = |intent: &str| json!({ "renewal": { "intent": intent, "failing": "server_error: HTTP 503" } });
        for (minute, intent, is_told) in [(0, "a", true), (3, "b", false)] {
            story.begin(minute, intent);
            let before = story.state.clone();
            let change = story.accept(minute + 1, RenewalStep::END, &failing(intent));
            let command = json!({ "id": "cmd_x", "type": RenewalStep::END, "projectId": "proj_1",
                "connectorId": "conn_1", "renewal": failing(intent)["renewal"] });
            let command = Command::from_value(command).unwrap();
            let notice = Notice::of(&command, minutes(minute + 1), &before, &change);
            let told = notice.as_ref().map(|notice| (notice.kind, notice.detail.as_str()));
            let expected = (NoticeKind::CredentialExpiring, "server_error: HTTP 503");
            assert_eq!(told, is_told.then_some(expected));
            assert!(is_renewal_failing(story.connector()));
            assert_eq!(story.connector().suspended_reason, None);
        }
        story.begin(6, "c");
        story.accept(7, RenewalStep::END, &done("c", 37, 1));
        assert!(!is_renewal_failing(story.connector()));
    }

    #[test]
    fn a_refused_access_token_is_due_at_once_and_only_that_one() {
        let mut story = Story::new();
        story.begin(0, "a");
        story.accept(1, RenewalStep::END, &done("a", 31, 1));
        let refused = |until: i64| json!({ "renewal": { "until": minutes(until) } });
        story.accept(5, RenewalStep::EARLY, &refused(30));
        assert!(renewal_due(story.connector()).unwrap() > minutes(10));
        story.accept(6, RenewalStep::EARLY, &refused(31));
        assert!(renewal_due(story.connector()).unwrap() <= minutes(6));
        story.accept(7, RenewalStep::EARLY, &refused(31));
        assert_eq!(story.text(ROTATED_UNTIL), Some(&*minutes(6).to_string()));
    }
}
