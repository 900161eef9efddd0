//! What was asked lately in a partition of the commands topic, to recognise what comes twice.
//!
//! A command may stand in the log twice: its sender sent it again, or it was forwarded by an owner
//! that was replaced and does not know it. Deciding it again could undo what came between, and
//! its sender would hear two outcomes. So a command whose id was decided before is answered again.
//! What was accepted is in the state topic (the last 1,024 of each partition); what was rejected
//! is not, but it is in the log: whoever takes the partition over reads its last records, so every
//! owner knows the same.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Duration,
};

use super::{Command, Problem, StateKey};
use crate::{
    clock::Timestamp,
    id::{CommandId, ConnectorKey},
};

/// Over so many offsets a command is recognised by its id …
pub const REPEAT_WINDOW: i64 = 1_000;
/// … if its first record is not older than this: the state topic keeps what was accepted for a
/// day before compaction may take it.
pub const REPEAT_AGE: Duration = Duration::from_secs(20 * 3600);
/// So many offsets before its first one an owner reads to know what was asked lately. It is more than
/// the window, because forwards are recognised by where they come from.
pub const LOOK_BACK: i64 = 5_000;
/// So often a command may be forwarded. Once is enough, unless instances have different settings.
pub const MAX_HOPS: u32 = 3;
/// Of a rejection that is told again, so many wrong fields are kept in memory.
const MAX_REPEATED_ERRORS: usize = 5;

/// The record that a command was forwarded from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin {
    /// The id of its topic, where that is known.
    pub topic_id: Option<String>,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// How often the command was forwarded by then, this time included.
    pub hops: u32,
}

/// What makes two commands the same beside their ids.
type Subject = (&'static str, StateKey);

/// What a command is about.
#[must_use]
pub fn subject(command: &Command) -> StateKey {
    let project = command.project.clone();
    match command.body.connector().cloned() {
        Some(connector) => StateKey::Connector(ConnectorKey { project, connector }),
        None => StateKey::Project(project),
    }
}

#[derive(Clone, Debug)]
struct Entry {
    offset: i64,
    at: Timestamp,
    subject: Subject,
    /// Why it was rejected, where this owner did it.
    rejected: Option<Problem>,
}

/// A command that was decided before.
#[derive(Clone, PartialEq, Debug)]
pub enum Before {
    /// It was rejected, for this reason.
    Rejected(Problem),
    /// It was decided by another owner.
    Decided,
}

/// What was asked lately in a partition of the commands topic.
#[derive(Clone, Debug, Default)]
pub struct Recent {
    commands: HashMap<CommandId, Entry>,
    order: VecDeque<(i64, CommandId)>,
    forwards: Forwards,
}

/// The last record of each partition of a topic that was forwarded here. Owners forward in the
/// order of offsets, so what is not beyond it has been here.
#[derive(Clone, Debug, Default)]
pub struct Forwards(BTreeMap<(String, i32), i64>);

impl Forwards {
    /// Takes in that a record was forwarded here.
    pub fn saw(&mut self, origin: &Origin) {
        if let Some(topic) = &origin.topic_id {
            let last = self.0.entry((topic.clone(), origin.partition)).or_insert(-1);
            *last = origin.offset.max(*last);
        }
    }

    /// Whether this record was forwarded here before.
    #[must_use]
    pub fn has(&self, origin: &Origin) -> bool {
        let Some(topic) = &origin.topic_id else { return false };
        let last = self.0.get(&(topic.clone(), origin.partition));
        last.is_some_and(|last| origin.offset <= *last)
    }
}

impl Recent {
    /// Takes in a command that was decided, or that stands before what this owner decides.
    pub fn saw(
        &mut self,
        command: &Command,
        offset: i64,
        at: Timestamp,
        rejected: Option<&Problem>,
    ) {
        let subject = (command.name(), subject(command));
        let known = self.commands.remove(&command.id).filter(|known| known.subject == subject);
        let rejected = rejected.cloned().or(known.and_then(|known| known.rejected));
        let rejected = rejected.map(|mut problem| {
            problem.errors.truncate(MAX_REPEATED_ERRORS);
            problem
        });
        let entry = Entry { offset, at, subject, rejected };
        self.commands.insert(command.id.clone(), entry);
        self.order.push_back((offset, command.id.clone()));
        while let Some((first, id)) = self.order.front()
            && offset - first > REPEAT_WINDOW
        {
            // A repeat has taken the entry along.
            if self.commands.get(id).is_some_and(|entry| entry.offset == *first) {
                self.commands.remove(id);
            }
            self.order.pop_front();
        }
    }

    /// Which records were forwarded here.
    #[must_use]
    pub const fn forwards(&self) -> &Forwards {
        &self.forwards
    }

    /// Which records were forwarded here by now.
    pub const fn forwards_mut(&mut self) -> &mut Forwards {
        &mut self.forwards
    }

    /// Whether the command at this offset was decided before.
    #[must_use]
    pub fn before(&self, command: &Command, offset: i64, at: Timestamp) -> Option<Before> {
        let entry = self.commands.get(&command.id)?;
        let is_near = offset - entry.offset <= REPEAT_WINDOW && at.since(entry.at) <= REPEAT_AGE;
        let is_same = entry.subject == (command.name(), subject(command));
        (is_near && is_same).then(|| match &entry.rejected {
            Some(problem) => Before::Rejected(problem.clone()),
            None => Before::Decided,
        })
    }

    /// Whether another command of this id was asked lately, which this one is not.
    #[must_use]
    pub fn has_another(&self, command: &Command) -> bool {
        let entry = self.commands.get(&command.id);
        entry.is_some_and(|entry| entry.subject != (command.name(), subject(command)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::connector::ProblemCode;

    fn command(id: &str, kind: &str, connector: &str) -> Command {
        let json = json!({"id": id, "type": kind, "projectId": "p", "connectorId": connector});
        Command::from_value(json).unwrap()
    }

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_millis(hours * 3_600_000)
    }

    #[test]
    fn a_command_is_recognised_by_id_and_subject_within_the_window() {
        let mut recent = Recent::default();
        let one = command("c1", "connector.delete", "a");
        let problem = Problem::new(ProblemCode::ConnectorNotFound, "gone");
        recent.saw(&one, 10, at(0), Some(&problem));
        let last = 10 + REPEAT_WINDOW;
        assert_eq!(recent.before(&one, last, at(19)), Some(Before::Rejected(problem)));
        assert_eq!(recent.before(&one, last + 1, at(19)), None);
        assert_eq!(recent.before(&one, 11, at(21)), None);
        let other = command("c1", "connector.delete", "b");
        assert_eq!(recent.before(&other, 11, at(0)), None);
        assert!(recent.has_another(&other) && !recent.has_another(&one));
        recent.saw(&command("c2", "connector.delete", "a"), last + 1, at(0), None);
        assert_eq!(recent.commands.len(), 1, "what is beyond the window is forgotten");
        // A repeat is remembered from where it stands.
        recent.saw(&command("c2", "connector.delete", "a"), last + 500, at(0), None);
        recent.saw(&one, last + REPEAT_WINDOW + 100, at(0), None);
        assert!(
            recent.before(&command("c2", "connector.delete", "a"), last + 1_400, at(0)).is_some()
        );
    }

    #[test]
    fn a_forward_is_recognised_by_where_it_comes_from() {
        let mut recent = Forwards::default();
        let from = |topic: Option<&str>, partition, offset| Origin {
            topic_id: topic.map(str::to_owned),
            partition,
            offset,
            hops: 1,
        };
        recent.saw(&from(Some("t"), 1, 7));
        recent.saw(&from(Some("t"), 1, 5));
        assert!(recent.has(&from(Some("t"), 1, 7)));
        assert!(recent.has(&from(Some("t"), 1, 6)));
        assert!(!recent.has(&from(Some("t"), 1, 8)));
        assert!(!recent.has(&from(Some("t"), 2, 7)));
        assert!(!recent.has(&from(Some("u"), 1, 7)));
        assert!(!recent.has(&from(None, 1, 7)));
    }
}
