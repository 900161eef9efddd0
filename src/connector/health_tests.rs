//! What is told of outages: on stories, and on random ones with repeats and in any order.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    Change, Command, CommandBody, Context, Decision, Notice, NoticeKind, ProjectState, TOLD_EVERY,
    Turn, Untold, decide,
};
use crate::{clock::Timestamp, egress::EgressPolicy, id::ConnectorId};

const HOOK: &str = "https://hooks.slack.com/services/T00000000/B00000000/0123456789ab";
const MINUTE: Duration = Duration::from_secs(60);

/// A project whose commands are decided one after the other, and what is told of it.
struct Story {
    state: ProjectState,
    number: i64,
    now: Timestamp,
    told: Vec<Notice>,
}

impl Story {
    /// So many connectors, `c0` and on.
    fn of(connectors: usize) -> Self {
        let now = Timestamp::from_millis(1_000_000_000);
        let mut story = Self { state: ProjectState::default(), number: 0, now, told: Vec::new() };
        story.when(&json!({"type": "project.set_tier", "tier": "enterprise"}));
        for connector in 0..connectors {
            story.when(&json!({"type": "connector.create", "connectorId": format!("c{connector}"),
                "connector": {"type": "slack", "config": {"webhookUrl": HOOK},
                    "eventTypes": ["*"]}}));
        }
        story
    }

    /// Decides a command; what it tells, if anything.
    fn when(&mut self, command: &Value) -> Option<Notice> {
        let mut command = command.clone();
        command["id"] = json!(format!("cmd_{}", self.number));
        command["projectId"] = json!("proj_1");
        let command = Command::from_value(command).unwrap();
        // What a command says is what is read of it.
        assert_eq!(Command::read(&command.to_json()).unwrap(), command);
        let egress = EgressPolicy::default();
        let context = Context { at: self.now, offset: self.number, egress: &egress };
        self.number += 1;
        let decision = decide(&self.state, &command, &context);
        assert_eq!(decision, decide(&self.state, &command, &context), "decided again");
        let Decision::Accepted(change) = decision else { return None };
        let read = change.state_key().read(change.to_value().as_deref()).unwrap();
        assert_eq!(read, change, "what others read");
        let notice = Notice::of(&command, self.now, &self.state, &change);
        if command.body.name().ends_with("failing") || command.body.name().ends_with("recovered") {
            self.is_hidden(&command.body, &change);
        }
        self.state.apply(&change);
        self.told.extend(notice.clone());
        notice
    }

    /// A report changes nothing that the connector's owner sees.
    fn is_hidden(&self, body: &CommandBody, change: &Change) {
        let before = &self.state.connectors[body.connector().unwrap()];
        let Change::ConnectorSet(after) = change else { panic!("{change:?}") };
        assert_eq!(after.to_public_json(), before.to_public_json());
        assert_eq!((after.version, &after.command_id), (before.version, &before.command_id));
    }

    fn fails(&mut self, connector: &str) -> Option<Notice> {
        let since = self.now;
        self.when(&json!({"type": "connector.failing", "connectorId": connector, "since": since,
            "reason": "server_error: HTTP 503: busy"}))
    }

    fn works(&mut self, connector: &str) -> Option<Notice> {
        self.when(&json!({"type": "connector.recovered", "connectorId": connector}))
    }

    fn after(&mut self, time: Duration) -> &mut Self {
        self.now = self.now.plus(time);
        self
    }

    /// What the registrar sends itself.
    fn remind(&mut self) -> Vec<Notice> {
        let due = Untold::of(&self.state, self.now).due;
        due.into_iter()
            .filter_map(|(turn, id)| match turn {
                Turn::Failing => self.fails(id.as_str()),
                Turn::Recovered => self.works(id.as_str()),
            })
            .collect()
    }

    fn has(&self, connector: &str) -> &super::Health {
        &self.state.connectors[&ConnectorId::parse(connector).unwrap()].health
    }
}

fn names(notice: &Notice) -> Vec<&str> {
    let others = notice.others.iter().map(ConnectorId::as_str);
    std::iter::once(notice.connector.connector.as_str()).chain(others).collect()
}

#[test]
fn an_outage_is_told_once_when_it_begins_and_once_when_it_ends() {
    let mut story = Story::of(2);
    let began = story.now;
    let told = story.fails("c0").unwrap();
    assert_eq!((told.kind, told.since), (NoticeKind::Failing, began));
    assert_eq!(told.reason.to_string(), "http_503");
    let json: Value = serde_json::from_slice(&told.to_json()).unwrap();
    assert_eq!(json["type"], "connector.failing");
    assert_eq!(json["data"]["detail"], "server_error: HTTP 503: busy");
    assert_eq!(json["data"].get("more"), None);
    assert!(story.has("c0").is_failing());
    assert_eq!(story.after(MINUTE).fails("c0"), None);
    assert_eq!(story.after(TOLD_EVERY).fails("c0"), None);
    assert_eq!(story.works("c1"), None, "it never failed");
    let over = story.works("c0").unwrap();
    assert_eq!((over.kind, over.since), (NoticeKind::Recovered, began));
    assert_eq!(over.reason.to_string(), "http_503");
    assert_eq!((story.works("c0"), story.has("c0").is_failing()), (None, false));
    assert_eq!(story.after(TOLD_EVERY).remind(), []);
    let again = story.fails("c0").unwrap();
    assert_eq!((again.kind, again.since), (NoticeKind::Failing, story.now));
}

#[test]
fn what_comes_soon_after_is_told_with_the_next_or_by_a_reminder() {
    let mut story = Story::of(14);
    assert_eq!(names(&story.fails("c0").unwrap()), ["c0"]);
    for connector in 1..13 {
        assert_eq!(story.after(Duration::from_secs(1)).fails(&format!("c{connector}")), None);
    }
    assert_eq!(story.remind(), []);
    assert!(Untold::of(&story.state, story.now).is_waiting);
    let next = story.after(TOLD_EVERY).fails("c13").unwrap();
    assert_eq!(names(&next)[..3], ["c13", "c12", "c11"]);
    let json: Value = serde_json::from_slice(&next.to_json()).unwrap();
    assert_eq!(json["data"]["more"], 12);
    assert_eq!(json["data"]["moreConnectorIds"].as_array().unwrap().len(), super::MAX_NAMED);
    assert_eq!(Untold::of(&story.state, story.now), Untold::default());

    // All of them work again at once, and nobody asks for a notice any more.
    assert_eq!(names(&story.works("c3").unwrap()), ["c3"]);
    for connector in (0..14).filter(|connector| *connector != 3) {
        assert_eq!(story.works(&format!("c{connector}")), None);
    }
    let told = story.after(TOLD_EVERY).remind();
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].kind, told[0].others.len()), (NoticeKind::Recovered, 12));
    assert_eq!(Untold::of(&story.state, story.now), Untold::default());
    // They are as if nothing had been.
    assert_eq!(story.after(TOLD_EVERY).fails("c7").unwrap().since, story.now);
}

#[test]
fn an_outage_that_is_interrupted_for_short_goes_on() {
    let mut story = Story::of(2);
    let began = story.now;
    story.fails("c0").unwrap();
    story.works("c0").unwrap();
    // The next one may not be told yet, nor that it ended, nor that it goes on.
    let second = story.after(MINUTE).now;
    assert_eq!((story.fails("c0"), story.works("c0"), story.fails("c0")), (None, None, None));
    let told = story.after(TOLD_EVERY).remind();
    assert_eq!((told.len(), told[0].kind, told[0].since), (1, NoticeKind::Failing, second));
    assert!(second > began && story.has("c0").is_failing());
}

#[test]
fn one_that_fails_and_works_again_before_that_was_told_is_told_when_it_works() {
    let mut story = Story::of(2);
    story.fails("c0").unwrap();
    let began = story.after(MINUTE).now;
    assert_eq!(story.fails("c1"), None);
    let told = story.works("c1").unwrap();
    assert_eq!((told.kind, told.since), (NoticeKind::Recovered, began));
    assert_eq!(story.after(TOLD_EVERY).remind(), []);
}

#[test]
fn what_is_suspended_switched_off_or_gone_does_not_fail() {
    let mut story = Story::of(3);
    let off = |active: bool| json!({"type": "connector.update", "connectorId": "c0", "patch": {"isActive": active}});
    story.when(&off(false));
    assert_eq!((story.fails("c0"), story.has("c0").is_failing()), (None, false));
    story.when(&off(true));
    assert!(story.fails("c0").is_some());
    // Of one that is switched off while it fails, nothing is told until it is on again.
    story.when(&off(false));
    assert_eq!(story.after(TOLD_EVERY).remind(), []);
    story.when(&off(true));
    assert_eq!(story.works("c0").unwrap().kind, NoticeKind::Recovered);

    // A suspension says more, and takes its place.
    story.after(TOLD_EVERY).fails("c1").unwrap();
    let hold =
        json!({"type": "connector.suspend", "connectorId": "c1", "reason": "gone: HTTP 404"});
    assert_eq!(story.when(&hold).unwrap().kind, NoticeKind::Suspended);
    assert_eq!((story.fails("c1"), story.works("c1")), (None, None));
    assert!(!story.has("c1").is_failing());
    let resume = json!({"type": "connector.resume", "connectorId": "c1"});
    assert_eq!(story.when(&resume).unwrap().kind, NoticeKind::Resumed);

    story.after(TOLD_EVERY).fails("c2").unwrap();
    story.when(&json!({"type": "connector.delete", "connectorId": "c2"}));
    assert_eq!((story.fails("c2"), story.works("c2")), (None, None));
    assert_eq!(story.after(TOLD_EVERY).remind(), []);
    // A report of a version before tells nothing of this one.
    let mut late = json!({"type": "connector.failing", "connectorId": "c0", "reason": "timeout",
        "since": story.now, "ifVersion": 1});
    assert_eq!(story.when(&late), None);
    late["ifVersion"] = json!(story.number);
    assert_eq!(story.when(&late).unwrap().reason.to_string(), "timeout");
}

#[derive(Clone, Copy, Debug)]
enum Happens {
    Fails(usize),
    Works(usize),
    Suspended(usize),
    Resumed(usize),
    Off(usize),
    On(usize),
    Time(u64),
    Reminder,
}

fn happens() -> impl Strategy<Value = Happens> {
    let which = 0..4_usize;
    prop_oneof![
        6 => which.clone().prop_map(Happens::Fails),
        5 => which.clone().prop_map(Happens::Works),
        1 => which.clone().prop_map(Happens::Suspended),
        1 => which.clone().prop_map(Happens::Resumed),
        1 => which.clone().prop_map(Happens::Off),
        1 => which.prop_map(Happens::On),
        3 => (1..400_u64).prop_map(Happens::Time),
        1 => Just(Happens::Reminder),
    ]
}

/// What a reader of all notices thinks of each connector: whether it fails.
fn believed(told: &[Notice]) -> BTreeMap<&str, bool> {
    let mut believed = BTreeMap::new();
    for notice in told {
        let fails = notice.kind == NoticeKind::Failing;
        for name in names(notice) {
            believed.insert(name, fails);
        }
    }
    believed
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 100,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]
    #[test]
    fn nothing_is_forgotten_and_nothing_is_told_too_often(
        story in proptest::collection::vec(happens(), 0..80)
    ) {
        let mut scene = Story::of(4);
        for step in story {
            let by_id = |kind: &str, which: usize| json!({"type": kind, "connectorId": format!("c{which}"),
                "reason": "gone"});
            let switch = |which: usize, on: bool| json!({"type": "connector.update",
                "connectorId": format!("c{which}"), "patch": {"isActive": on}});
            match step {
                Happens::Fails(which) => drop(scene.fails(&format!("c{which}"))),
                Happens::Works(which) => drop(scene.works(&format!("c{which}"))),
                Happens::Suspended(which) => drop(scene.when(&by_id("connector.suspend", which))),
                Happens::Resumed(which) => {
                    let mut resume = by_id("connector.resume", which);
                    resume.as_object_mut().unwrap().remove("reason");
                    drop(scene.when(&resume));
                }
                Happens::Off(which) => drop(scene.when(&switch(which, false))),
                Happens::On(which) => drop(scene.when(&switch(which, true))),
                Happens::Time(seconds) => drop(scene.after(Duration::from_secs(seconds))),
                Happens::Reminder => drop(scene.remind()),
            }
        }
        for which in 0..4 {
            scene.when(&json!({"type": "connector.update", "connectorId": format!("c{which}"),
                "patch": {"isActive": true}}));
        }
        // In the end all is told, by reminders alone.
        for _ in 0..3 {
            scene.after(TOLD_EVERY).remind();
        }
        prop_assert_eq!(Untold::of(&scene.state, scene.now), Untold::default());
        let believed = believed(&scene.told);
        for (id, connector) in &scene.state.connectors {
            let believed = believed.get(id.as_str()).copied().unwrap_or_default();
            prop_assert_eq!(believed, connector.health.is_failing(), "{}", id);
        }
        for kind in [NoticeKind::Failing, NoticeKind::Recovered] {
            let times: Vec<Timestamp> =
                scene.told.iter().filter(|told| told.kind == kind).map(|told| told.at).collect();
            for pair in times.windows(2) {
                prop_assert!(pair[1].since(pair[0]) >= TOLD_EVERY, "{kind:?} {times:?}");
            }
        }
    }
}
