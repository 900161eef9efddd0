//! What follows from batches of commands: those that come twice, those of a topic that was made
//! anew, and those that meet a bug.

use std::{cell::RefCell, collections::BTreeMap, convert::Infallible};

use serde_json::{Value, json};

use super::*;
use crate::{
    clock::Timestamp,
    destination::ConnectorType,
    egress::EgressPolicy,
    id::{CommandId, ProjectId},
};

const HOOK: &str = "https://hooks.slack.com/services/T00000000/B00000000/0123456789ab";

/// A registrar with a view that applies what is written at once.
#[derive(Default)]
struct Desk {
    state: RefCell<ProjectState>,
    progress: RefCell<Progress>,
    accepted: RefCell<BTreeMap<(CommandId, StateKey), i64>>,
}

impl Registry for Desk {
    type Error = Infallible;

    fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    fn accepted(&self, id: &CommandId, key: &StateKey) -> Option<i64> {
        self.accepted.borrow().get(&(id.clone(), key.clone())).copied()
    }

    fn project(&self, _: &ProjectId) -> Result<ProjectState, Infallible> {
        Ok(self.state.borrow().clone())
    }

    fn open(&self, command: &mut Command, _: Option<ConnectorType>) -> Result<(), Problem> {
        assert!(command.id.as_str() != "bug", "as a bug does");
        Ok(())
    }

    fn seal(&self, _: &Command, _: &mut Change) -> Result<(), Problem> {
        Ok(())
    }
}

/// A partition of the commands topic, and its registrar.
struct Stage {
    desk: Desk,
    log: CommandsLog,
    recent: Recent,
    next: i64,
}

impl Stage {
    fn new(topic: Option<&str>) -> Self {
        let log = CommandsLog::found(topic.map(str::to_owned), 0, &Progress::default(), at(0));
        Self { desk: Desk::default(), log, recent: Recent::default(), next: 0 }
    }

    /// Decides these as one batch; the outcome of each result that is written, with its code.
    fn decide(&mut self, commands: &[Value]) -> Vec<(String, String)> {
        let commands: Vec<(Value, Option<Origin>)> =
            commands.iter().map(|command| (command.clone(), None)).collect();
        let told = self.steps(&commands).into_iter().filter_map(|step| match step {
            Step::Results(results) => Some(results),
            _ => None,
        });
        told.flatten().map(|result| outcome(&result)).collect()
    }

    fn steps(&mut self, commands: &[(Value, Option<Origin>)]) -> Vec<Step> {
        let values: Vec<Vec<u8>> =
            commands.iter().map(|(command, _)| command.to_string().into_bytes()).collect();
        let first = self.next;
        self.next += i64::try_from(commands.len()).unwrap();
        let asked: Vec<Asked<'_>> = (first..)
            .zip(values.iter().zip(commands))
            .map(|(offset, (value, (_, origin)))| Asked {
                offset,
                at: at(offset),
                value,
                origin: origin.as_ref(),
            })
            .collect();
        let egress = EgressPolicy::default();
        let office = Office {
            partition: partition_of("proj_1", 6),
            partitions: 6,
            log: &self.log,
            egress: &egress,
        };
        let Ok(batch) = Batch::decide(&asked, office, &self.desk, &mut self.recent);
        let steps = batch.into_steps();
        for step in &steps {
            let Step::State(records) = step else { continue };
            for record in records {
                let change = record.key.read(record.value.as_deref()).unwrap();
                self.desk.state.borrow_mut().apply(&change);
                let mut progress = self.desk.progress.borrow_mut();
                progress.last_command = progress.last_command.max(record.command_offset);
                if let Some(topic) = &record.commands_topic {
                    let epoch = epoch_of(record.command_offset);
                    progress.topics.insert(epoch, topic.clone());
                }
                let by = (record.command_id.clone(), record.key.clone());
                self.desk.accepted.borrow_mut().insert(by, record.command_offset);
            }
        }
        steps
    }

    /// Another instance takes over: what is only in memory is gone, the log is read back.
    fn hand_over(&mut self, log: &[Value]) {
        self.recent = Recent::default();
        for (offset, value) in (0..).zip(log) {
            let command = Command::from_value(value.clone()).unwrap();
            self.recent.saw(&command, offset, at(offset), None);
        }
    }

    fn connector(&self) -> Option<Connector> {
        self.desk.state.borrow().connectors.values().next().cloned()
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_millis(1_800_000_000_000 + second * 1_000)
}

fn outcome(result: &CommandResult) -> (String, String) {
    let code = result.problem.as_ref().map_or("accepted", |problem| problem.code.as_str());
    (result.command_id.to_string(), code.to_owned())
}

fn tier(id: &str, tier: &str) -> Value {
    json!({"id": id, "type": "project.set_tier", "projectId": "proj_1", "tier": tier})
}

fn create(id: &str, connector: &str) -> Value {
    json!({"id": id, "type": "connector.create", "projectId": "proj_1", "connectorId": connector,
        "connector": {"type": "slack", "config": {"webhookUrl": HOOK}, "eventTypes": ["*"]}})
}

fn active(id: &str, is_active: bool) -> Value {
    json!({"id": id, "type": "connector.update", "projectId": "proj_1", "connectorId": "conn_1",
        "patch": {"isActive": is_active}})
}

fn delete(id: &str, connector: &str) -> Value {
    json!({"id": id, "type": "connector.delete", "projectId": "proj_1", "connectorId": connector})
}

fn expect(told: &[(String, String)], expected: &[(&str, &str)]) {
    let told: Vec<(&str, &str)> = told.iter().map(|(id, code)| (&**id, &**code)).collect();
    assert_eq!(told, expected);
}

#[test]
fn a_command_that_comes_again_after_another_one_undoes_nothing() {
    let mut stage = Stage::new(Some("t"));
    stage.decide(&[tier("t", "pro"), create("c", "conn_1")]);
    let (off, on) = (active("a", false), active("b", true));
    stage.decide(std::slice::from_ref(&off));
    stage.decide(&[on]);
    let before = stage.connector().unwrap();
    expect(&stage.decide(std::slice::from_ref(&off)), &[("a", "accepted")]);
    assert_eq!(stage.connector().unwrap(), before);
    // All three in one batch.
    let told = stage.decide(&[active("d", false), active("e", true), active("d", false)]);
    expect(&told, &[("d", "accepted"), ("e", "accepted"), ("d", "accepted")]);
    assert!(stage.connector().unwrap().is_active);

    let (made, gone) = (create("c", "conn_1"), delete("g", "conn_1"));
    stage.decide(std::slice::from_ref(&gone));
    expect(&stage.decide(&[made]), &[("c", "accepted")]);
    assert_eq!(stage.connector(), None, "the first one was carried out, and then deleted");
    stage.decide(&[create("h", "conn_1")]);
    expect(&stage.decide(&[gone]), &[("g", "accepted")]);
    assert!(stage.connector().is_some(), "the new one is another one");
}

#[test]
fn a_rejected_command_stays_rejected_whoever_is_asked() {
    let mut stage = Stage::new(Some("t"));
    let early = create("c", "conn_1");
    let log = [early.clone(), tier("t", "pro")];
    expect(&stage.decide(&log), &[("c", "connector_limit_reached"), ("t", "accepted")]);
    expect(&stage.decide(std::slice::from_ref(&early)), &[("c", "connector_limit_reached")]);
    stage.hand_over(&log);
    expect(&stage.decide(std::slice::from_ref(&early)), &[("c", "conflict")]);
    assert_eq!(stage.connector(), None);
    // The id alone makes it no repeat.
    expect(&stage.decide(&[create("c", "conn_2")]), &[("c", "accepted")]);
}

#[test]
fn repeats_are_known_after_a_take_over_by_the_log_or_the_state() {
    let mut stage = Stage::new(Some("t"));
    let log = [tier("t", "pro"), create("c", "conn_1"), active("a", false), active("b", true)];
    stage.decide(&log);
    for _ in 0..2 {
        stage.hand_over(&log);
        expect(&stage.decide(&log[2..3]), &[("a", "accepted")]);
        assert!(stage.connector().unwrap().is_active);
        stage.recent = Recent::default();
    }
    // Decided already, as the next owner finds it; the results may be missing.
    stage.next = 0;
    let told = stage.decide(&log);
    expect(&told, &[("t", "accepted"), ("c", "accepted"), ("a", "accepted"), ("b", "accepted")]);
}

#[test]
fn what_another_owner_rejected_stays_rejected_within_a_batch() {
    let mut stage = Stage::new(Some("t"));
    let (early, tier) = (create("c", "conn_1"), tier("t", "pro"));
    stage.decide(&[early.clone(), tier.clone()]);
    // The next owner finds both, and a repeat behind them.
    stage.recent = Recent::default();
    stage.next = 0;
    let told = stage.decide(&[early.clone(), tier, early]);
    expect(&told, &[("c", "conflict"), ("t", "accepted")]);
    assert_eq!(stage.connector(), None);
}

fn from(offset: i64) -> Origin {
    Origin { topic_id: Some("t".to_owned()), partition: 1, offset, hops: 1 }
}

#[test]
fn what_is_forwarded_again_is_passed_over() {
    let mut stage = Stage::new(Some("t"));
    let first = [(tier("t", "pro"), Some(from(3))), (create("c", "conn_1"), Some(from(5)))];
    assert_eq!(stage.steps(&first).len(), 4);
    stage.steps(&[(delete("d", "conn_1"), Some(from(7)))]);
    // As if far more commands had come since than are remembered.
    stage.desk.accepted.borrow_mut().clear();
    let forwards = stage.recent.forwards().clone();
    stage.recent = Recent::default();
    *stage.recent.forwards_mut() = forwards;
    assert_eq!(stage.steps(&first), [], "no outcome is known, so none is told");
    assert_eq!(stage.connector(), None);
    // One that was not here before is decided.
    assert_eq!(stage.steps(&[(create("e", "conn_1"), Some(from(9)))]).len(), 4);
}

#[test]
fn a_command_is_not_sent_about_for_ever() {
    let other = (0..).map(|n| format!("proj_{n}"));
    let elsewhere = |id: &String| partition_of(id, 6) != partition_of("proj_1", 6);
    let project = other.into_iter().find(elsewhere).unwrap();
    let command =
        json!({"id": "x", "type": "project.set_tier", "projectId": project, "tier": "pro"});
    let mut stage = Stage::new(Some("t"));
    let steps = stage.steps(&[(command.clone(), Some(from(1)))]);
    assert!(matches!(&steps[..], [Step::Forward { index: 0, .. }]), "{steps:?}");
    let often = Origin { hops: recent::MAX_HOPS, ..from(2) };
    let steps = stage.steps(&[(command, Some(often))]);
    let [Step::Results(results)] = &steps[..] else { panic!("{steps:?}") };
    assert_eq!(outcome(&results[0]), ("x".to_owned(), "internal".to_owned()));
}

#[test]
fn commands_of_a_topic_that_was_made_anew_are_decided() {
    for (id, anew_id) in [(Some("t"), Some("u")), (None, None), (None, Some("u"))] {
        let mut stage = Stage::new(id);
        stage.decide(&[tier("t", "pro"), create("c", "conn_1"), active("a", false)]);
        let before = stage.connector().unwrap();
        let progress = stage.desk.progress();
        // Three commands were decided; the new log has one.
        stage.log = CommandsLog::found(anew_id.map(str::to_owned), 1, &progress, at(9));
        stage.recent = Recent::default();
        stage.next = 0;
        expect(&stage.decide(&[active("d", true)]), &[("d", "accepted")]);
        let after = stage.connector().unwrap();
        assert!(after.is_active && after.version > before.version);
        // A version read before it is refused; one read now may change it.
        let if_version = |id: &str, version: i64| {
            let mut command = active(id, false);
            command["ifVersion"] = json!(version);
            command
        };
        let told = stage.decide(&[if_version("e", before.version)]);
        expect(&told, &[("e", "connector_changed")]);
        expect(&stage.decide(&[if_version("f", after.version)]), &[("f", "accepted")]);
        expect(&stage.decide(&[delete("g", "conn_1")]), &[("g", "accepted")]);
    }
}

#[test]
fn a_command_that_meets_a_bug_costs_itself_only() {
    let mut stage = Stage::new(Some("t"));
    let told = stage.decide(&[tier("t", "pro"), create("bug", "conn_1"), create("c", "conn_2")]);
    expect(&told, &[("bug", "internal"), ("t", "accepted"), ("c", "accepted")]);
    expect(&stage.decide(&[create("bug", "conn_1")]), &[("bug", "internal")]);
}
