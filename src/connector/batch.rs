//! What follows from a batch of commands, and in which order it must become durable.
//!
//! The order is what makes a take-over safe: first what is refused, forwarded or rejected, then
//! the state records, then (when this instance's own view has applied them) the results of the
//! accepted ones. So whoever takes over knows of every command up to the last state record: if a
//! state record names it, it was accepted and its result may be missing; if none does, it was
//! rejected and its result is durable. Everything later is decided again, with the same outcome.
//!
//! An owner that was replaced and does not know it yet may still be writing. So the last state
//! record is looked up together with each project's state, not once: a command that somebody has
//! decided meanwhile is never decided from a state that has its own consequences in it.

use std::collections::HashMap;

use super::{
    Change, Command, CommandResult, Context, Decision, Problem, ProjectState, Refused, StateKey,
    StateRecord, decide, partition_of,
};
use crate::{clock::Timestamp, destination::ConnectorType, egress::EgressPolicy, id::ProjectId};

/// A record of the commands topic.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Its offset.
    pub offset: i64,
    /// Its timestamp.
    pub at: Timestamp,
    /// Its value.
    pub value: &'a [u8],
}

/// What a registrar knows of the partition whose commands it decides.
pub trait Registry {
    /// Why it cannot be asked.
    type Error;

    /// The last command of the partition whose consequences are known.
    fn last_command(&self) -> i64;

    /// What the command at this offset changed, if it was accepted not long ago.
    fn was_accepted(&self, command_offset: i64) -> Option<StateKey>;

    /// All that is known about a project.
    fn project(&self, project: &ProjectId) -> Result<ProjectState, Self::Error>;

    /// Makes encrypted values of a command readable, for a connector of this type if it is there.
    fn open(&self, command: &mut Command, existing: Option<ConnectorType>) -> Result<(), Problem>;

    /// Encrypts the secrets of what a command changes. Deciding again encrypts with other nonces,
    /// to the same meaning: of two records of one command the fold takes the first.
    fn seal(&self, command: &Command, change: &mut Change) -> Result<(), Problem>;
}

/// Which partition of how many a registrar decides for, and by which rules.
#[derive(Clone, Copy, Debug)]
pub struct Office<'a> {
    /// The partition.
    pub partition: i32,
    /// How many partitions the commands topic has.
    pub partitions: i32,
    /// Where users' URLs may point.
    pub egress: &'a EgressPolicy,
}

/// Something to write. Each step is durable before the next one begins.
#[derive(Clone, PartialEq, Debug)]
pub enum Step {
    /// The command of this index names no id to answer to: it becomes a dead letter.
    DeadLetter {
        /// The command's index in the batch.
        index: usize,
        /// What is wrong with it.
        detail: String,
    },
    /// The command of this index is in another partition than its project's, because its producer
    /// uses another partitioner: it goes where the project's other commands are.
    Forward {
        /// The command's index in the batch.
        index: usize,
        /// Its project.
        project: ProjectId,
    },
    /// Results, in any order.
    Results(Vec<CommandResult>),
    /// State records, in this order and without a gap.
    State(Vec<StateRecord>),
    /// Not a write: this instance's own view has applied the command at this offset.
    Applied(i64),
}

/// What follows from a batch of commands.
#[derive(Debug, Default)]
pub struct Batch {
    /// The commands that were decided, by name, and whether they were accepted.
    pub decided: Vec<(&'static str, bool)>,
    refused: Vec<Step>,
    rejected: Vec<CommandResult>,
    state: Vec<StateRecord>,
    accepted: Vec<CommandResult>,
}

impl Batch {
    /// Decides commands of one partition, in the order of their offsets.
    pub fn decide<R: Registry>(
        commands: &[Asked<'_>],
        office: Office<'_>,
        registry: &R,
    ) -> Result<Self, R::Error> {
        let mut batch = Self::default();
        let known_up_to = registry.last_command();
        let mut projects = HashMap::new();
        for (index, asked) in commands.iter().enumerate() {
            let is_settled = asked.offset <= known_up_to;
            match Command::read(asked.value) {
                // Somebody wrote what had to be written before any later state record.
                Err(_) if is_settled => {}
                Err(Refused::Unanswerable(detail)) => {
                    batch.decided.push(("unknown", false));
                    batch.refused.push(Step::DeadLetter { index, detail });
                }
                Err(Refused::Rejected { id, project, name, problem }) => {
                    batch.decided.push((name, false));
                    batch.rejected.push(CommandResult::rejected(id, project, problem));
                }
                Ok(command) => {
                    let place = partition_of(command.project.as_str(), office.partitions);
                    if place == office.partition {
                        let known = match projects.entry(command.project.clone()) {
                            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
                            std::collections::hash_map::Entry::Vacant(entry) => {
                                entry.insert(read_together(registry, &command.project)?)
                            }
                        };
                        batch.take(asked, command, known, office, registry);
                    } else if !is_settled {
                        batch.refused.push(Step::Forward { index, project: command.project });
                    }
                }
            }
        }
        Ok(batch)
    }

    fn take<R: Registry>(
        &mut self,
        asked: &Asked<'_>,
        command: Command,
        (known_up_to, state): &mut (i64, ProjectState),
        office: Office<'_>,
        registry: &R,
    ) {
        if asked.offset <= *known_up_to {
            // When it was not accepted, its result is durable.
            let changed = registry.was_accepted(asked.offset);
            let now = changed.and_then(|key| as_it_is(&key, state));
            self.accepted.extend(now.map(|change| CommandResult::accepted(&command, &change)));
            return;
        }
        let name = command.name();
        let mut opened = command.clone();
        let context = Context { at: asked.at, offset: asked.offset, egress: office.egress };
        let existing = command.body.connector().and_then(|id| state.connectors.get(id));
        let mut decision = match registry.open(&mut opened, existing.map(|found| found.kind)) {
            Ok(()) => decide(state, &opened, &context),
            Err(problem) => Decision::Rejected(problem),
        };
        if let Decision::Accepted(change) = &mut decision
            && let Err(problem) = registry.seal(&command, change)
        {
            decision = Decision::Rejected(problem);
        }
        match decision {
            Decision::Accepted(change) => {
                state.apply(&change);
                self.accepted.push(CommandResult::accepted(&command, &change));
                self.state.push(StateRecord {
                    command_offset: asked.offset,
                    command_id: command.id,
                    key: change.state_key(),
                    value: change.to_value(),
                });
                self.decided.push((name, true));
            }
            Decision::Rejected(problem) => {
                let (id, project) = (command.id, Some(command.project));
                self.rejected.push(CommandResult::rejected(id, project, problem));
                self.decided.push((name, false));
            }
        }
    }

    /// What is to be written, step by step.
    #[must_use]
    pub fn into_steps(self) -> Vec<Step> {
        let mut steps = self.refused;
        if !self.rejected.is_empty() {
            steps.push(Step::Results(self.rejected));
        }
        if let Some(last) = self.state.last().map(|record| record.command_offset) {
            steps.push(Step::State(self.state));
            steps.push(Step::Applied(last));
        }
        if !self.accepted.is_empty() {
            steps.push(Step::Results(self.accepted));
        }
        steps
    }
}

/// A project's state, and the last command whose consequences are in it.
fn read_together<R: Registry>(
    registry: &R,
    project: &ProjectId,
) -> Result<(i64, ProjectState), R::Error> {
    loop {
        let before = registry.last_command();
        let state = registry.project(project)?;
        if registry.last_command() == before {
            return Ok((before, state));
        }
    }
}

/// What a command changed, as it is by now.
fn as_it_is(key: &StateKey, state: &ProjectState) -> Option<Change> {
    match key {
        StateKey::Connector(key) => {
            let found = state.connectors.get(&key.connector).cloned();
            Some(found.map_or_else(|| Change::ConnectorGone(key.clone()), Change::ConnectorSet))
        }
        StateKey::Project(_) => state.project.clone().map(Change::ProjectSet),
    }
}
