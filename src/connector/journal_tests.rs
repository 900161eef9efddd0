//! What accepted commands leave in the history and among the notices, and that it stands before the
//! state.

use std::{collections::BTreeSet, convert::Infallible};

use serde_json::{Value, json};

use super::*;
use crate::{
    clock::Timestamp,
    destination::ConnectorType,
    egress::EgressPolicy,
    id::{CommandId, ProjectId},
};

const SECRET: &str = "0123456789abcdef";

/// A registrar whose view stays empty: each batch begins with nothing.
struct Desk;

impl Registry for Desk {
    type Error = Infallible;

    fn progress(&self) -> Progress {
        Progress::default()
    }

    fn accepted(&self, _: &CommandId, _: &StateKey) -> Option<i64> {
        None
    }

    fn project(&self, _: &ProjectId) -> Result<ProjectState, Infallible> {
        Ok(ProjectState::default())
    }

    fn open(&self, _: &mut Command, _: Option<ConnectorType>) -> Result<(), Problem> {
        Ok(())
    }

    fn seal(&self, _: &Command, _: &mut Change) -> Result<(), Problem> {
        Ok(())
    }
}

fn steps(commands: &[Value]) -> Vec<Step> {
    let values: Vec<Vec<u8>> =
        commands.iter().map(|command| command.to_string().into_bytes()).collect();
    let at = |offset| Timestamp::from_millis(1_800_000_000_000 + offset * 1_000);
    let asked: Vec<Asked<'_>> = (0..)
        .zip(&values)
        .map(|(offset, value)| Asked { offset, at: at(offset), value, origin: None })
        .collect();
    let log = CommandsLog::found(Some("t".to_owned()), 0, &Progress::default(), at(0));
    let egress = EgressPolicy::default();
    let partition = partition_of("proj_1", 6);
    let office = Office { partition, partitions: 6, log: &log, egress: &egress };
    let Ok(batch) = Batch::decide(&asked, office, &Desk, &mut Recent::default());
    batch.into_steps()
}

fn journal(commands: &[Value]) -> (Vec<HistoryRecord>, Vec<Value>) {
    let found = steps(commands).into_iter().find_map(|step| match step {
        Step::Journal(history, notices) => Some((history, notices)),
        _ => None,
    });
    let (history, notices) = found.unwrap_or_default();
    let notices = notices.iter().map(|notice| serde_json::from_slice(&notice.to_json()).unwrap());
    (history, notices.collect())
}

fn command(id: &str, name: &str, more: &Value) -> Value {
    let mut command = json!({"id": id, "type": name, "projectId": "proj_1"});
    for (field, value) in more.as_object().unwrap() {
        command[field] = value.clone();
    }
    command
}

fn story() -> Vec<Value> {
    let hook = format!("https://hooks.slack.com/services/T00000000/B00000000/{SECRET}");
    let connector =
        json!({"type": "slack", "config": {"webhookUrl": hook}, "eventTypes": ["payment.settled"]});
    let conn = |more: Value| {
        let mut fields = more;
        fields["connectorId"] = json!("conn_1");
        fields
    };
    let suspend = |id: &str, reason: &str| {
        command(id, "connector.suspend", &conn(json!({"reason": reason, "actor": "dunmore"})))
    };
    let config = json!({"webhookUrl": hook.replace("B00000000", "B11111111")});
    vec![
        command("c0", "project.set_tier", &json!({"tier": "pro", "actor": "cli:ada"})),
        command("c1", "connector.create", &conn(json!({"connector": connector}))),
        suspend("c2", "gone: HTTP 404: no_service"),
        suspend("c3", "unauthorized: HTTP 401: expired"),
        command("c4", "connector.reencrypt", &conn(json!({"key": "k2"}))),
        command("c5", "connector.resume", &conn(json!({"actor": "cli:ada"}))),
        command("c6", "connector.resume", &conn(json!({}))),
        suspend("c7", "by hand"),
        command("c8", "connector.update", &conn(json!({"patch": {"config": config}}))),
        command("c9", "connector.update", &conn(json!({"patch": {"eventTypes": ["nope"]}}))),
        suspend("c10", "gone"),
        command("c11", "connector.delete", &conn(json!({}))),
    ]
}

#[test]
fn every_accepted_command_is_in_the_history_with_what_it_changed() {
    let (history, _) = journal(&story());
    let told: Vec<(&str, &str, &str, i64, bool, bool)> = history
        .iter()
        .map(|record| {
            let (before, after) = (record.before.is_some(), record.after.is_some());
            let HistoryRecord { command_id, command, actor, version, .. } = record;
            (command_id.as_str(), command.as_str(), actor.as_str(), *version, before, after)
        })
        .collect();
    assert_eq!(
        told,
        [
            ("c0", "project.set_tier", "cli:ada", 0, false, true),
            ("c1", "connector.create", "unknown", 1, false, true),
            ("c2", "connector.suspend", "dunmore", 2, true, true),
            ("c3", "connector.suspend", "dunmore", 3, true, true),
            // Nothing that the API shows has changed.
            ("c4", "connector.reencrypt", "unknown", 4, false, false),
            ("c5", "connector.resume", "cli:ada", 5, true, true),
            ("c6", "connector.resume", "unknown", 6, false, false),
            ("c7", "connector.suspend", "dunmore", 7, true, true),
            ("c8", "connector.update", "unknown", 8, true, true),
            // c9 was rejected.
            ("c10", "connector.suspend", "dunmore", 10, true, true),
            ("c11", "connector.delete", "unknown", 11, true, false),
        ]
    );
    assert_eq!(history[0].after.as_ref().unwrap()["tier"], "pro");
    assert_eq!(history[0].connector_id, None);
    let suspended = history[2].after.as_ref().unwrap();
    assert_eq!(suspended["suspendedReason"], "gone: HTTP 404: no_service");
    assert!(history[2].before.as_ref().unwrap().get("suspendedReason").is_none());
    assert_eq!(history[2].at.to_string(), "2027-01-15T08:00:02.000Z");
    for record in &history {
        let text = String::from_utf8(record.to_json()).unwrap();
        assert!(!text.contains(SECRET), "{text}");
    }
}

#[test]
fn only_transitions_make_notices() {
    let (_, notices) = journal(&story());
    let told: Vec<(&str, &str, &str, &str)> = notices
        .iter()
        .map(|notice| {
            let text = |value: &'static str| notice[value].as_str().unwrap();
            let data = |name: &'static str| notice["data"][name].as_str().unwrap();
            (text("id"), text("type"), data("reason"), data("since"))
        })
        .collect();
    assert_eq!(
        told,
        [
            ("c2", "connector.suspended", "http_404", "2027-01-15T08:00:02.000Z"),
            // c3 suspends what is suspended already, with other words.
            ("c5", "connector.resumed", "http_401", "2027-01-15T08:00:02.000Z"),
            ("c7", "connector.suspended", "other", "2027-01-15T08:00:07.000Z"),
            ("c8", "connector.resumed", "other", "2027-01-15T08:00:07.000Z"),
            ("c10", "connector.suspended", "gone", "2027-01-15T08:00:10.000Z"),
        ]
    );
    assert_eq!(
        notices[0],
        json!({
            "specversion": "1.0",
            "id": "c2",
            "source": "/projects/proj_1/connectors/conn_1",
            "type": "connector.suspended",
            "subject": "conn_1",
            "time": "2027-01-15T08:00:02.000Z",
            "datacontenttype": "application/json",
            "data": {
                "projectId": "proj_1",
                "connectorId": "conn_1",
                "connectorType": "slack",
                "reason": "http_404",
                "detail": "gone: HTTP 404: no_service",
                "since": "2027-01-15T08:00:02.000Z",
            },
        })
    );
}

#[test]
fn history_and_notices_are_durable_before_the_state_and_the_same_when_decided_again() {
    let names: Vec<&str> = steps(&story())
        .iter()
        .map(|step| match step {
            Step::Results(_) => "results",
            Step::Journal(..) => "journal",
            Step::State(_) => "state",
            Step::Applied(_) => "applied",
            Step::DeadLetter { .. } | Step::Forward { .. } => "other",
        })
        .collect();
    assert_eq!(names, ["results", "journal", "state", "applied", "results"]);
    assert_eq!(journal(&story()), journal(&story()));
    let ids: BTreeSet<CommandId> =
        journal(&story()).0.into_iter().map(|record| record.command_id).collect();
    let state = steps(&story()).into_iter().find_map(|step| match step {
        Step::State(records) => Some(records),
        _ => None,
    });
    let changed: BTreeSet<CommandId> =
        state.unwrap().into_iter().map(|record| record.command_id).collect();
    assert_eq!(ids, changed);
    // Nothing accepted, nothing to tell.
    assert_eq!(journal(&[command("d", "connector.resume", &json!({"connectorId": "x"}))]).0, []);
}
