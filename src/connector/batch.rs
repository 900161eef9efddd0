//! What follows from a batch of commands, and in which order it must become durable.
//!
//! The order is what makes a take-over safe: first what is refused, forwarded or rejected, then
//! the history and the notices of what is accepted, then the state records, then (when this instance's own view has applied them) the results of the
//! accepted ones. So whoever takes over knows of every command up to the last state record: if a
//! state record names it, it was accepted and its result may be missing; if none does, it was
//! rejected and its result is durable. Everything later is decided again, with the same outcome.
//! History and notices stand before the state, so none is missing; what is decided again is in them
//! a second time, with the same command id.
//!
//! An owner that was replaced and does not know it yet may still be writing. So the last state
//! record is looked up together with each project's state, not once: a command that somebody has
//! decided meanwhile is never decided from a state that has its own consequences in it.
//!
//! A command that stands in the log twice is decided once: see [`recent`](super::recent).

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
};

use super::{
    Change, Command, CommandOutcome, CommandResult, CommandsLog, Context, Decision, HistoryRecord,
    Notice, Origin, Problem, ProblemCode, Progress, ProjectState, Recent, Refused, StateKey,
    StateRecord, decide, number, partition_of,
    recent::{Before, MAX_HOPS, subject},
};
use crate::{
    clock::Timestamp,
    destination::ConnectorType,
    egress::EgressPolicy,
    id::{CommandId, ProjectId},
};

/// A record of the commands topic.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Its offset.
    pub offset: i64,
    /// Its timestamp.
    pub at: Timestamp,
    /// Its value.
    pub value: &'a [u8],
    /// The record that it was forwarded from, if it was.
    pub origin: Option<&'a Origin>,
}

/// What a registrar knows of the partition whose commands it decides.
pub trait Registry {
    /// Why it cannot be asked.
    type Error;

    /// How far the partition's commands were decided.
    fn progress(&self) -> Progress;

    /// The number of the command of this id that changed this, if it was accepted not long ago.
    fn accepted(&self, id: &CommandId, key: &StateKey) -> Option<i64>;

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
    /// Over how many partitions projects are spread.
    pub partitions: i32,
    /// The partition's log.
    pub log: &'a CommandsLog,
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
        /// What is wrong with it; `None` when reading it met a bug of this program.
        detail: Option<String>,
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
    /// What the accepted commands did, and what the connectors' owners must know of it.
    Journal(Vec<HistoryRecord>, Vec<Notice>),
    /// State records, in this order and without a gap.
    State(Vec<StateRecord>),
    /// Not a write: this instance's own view has applied the command of this number.
    Applied(i64),
}

/// What follows from a batch of commands.
#[derive(Debug, Default)]
pub struct Batch {
    /// The commands that were decided, by name, and whether they were accepted.
    pub decided: Vec<(&'static str, bool)>,
    /// How many commands had been decided before and were not decided again.
    pub repeated: usize,
    refused: Vec<Step>,
    /// Results that are durable before the state: of rejected commands, and of repeated ones.
    early: Vec<CommandResult>,
    history: Vec<HistoryRecord>,
    notices: Vec<Notice>,
    state: Vec<StateRecord>,
    accepted: Vec<CommandResult>,
    /// The commands of this partition, to recognise when they come again.
    seen: Vec<(Command, i64, Timestamp)>,
    outcomes: HashMap<CommandId, (StateKey, &'static str, CommandResult)>,
    /// Commands of this batch that another owner rejected.
    rejected_before: HashMap<CommandId, (StateKey, &'static str)>,
}

impl Batch {
    /// Decides commands of one partition, in the order of their offsets.
    pub fn decide<R: Registry>(
        commands: &[Asked<'_>],
        office: Office<'_>,
        registry: &R,
        recent: &mut Recent,
    ) -> Result<Self, R::Error> {
        let mut batch = Self::default();
        let progress = registry.progress();
        let epoch = office.log.epoch(&progress);
        let mut projects = HashMap::new();
        // What is asked is taken in at the end: when the registry fails, all is decided again.
        let mut forwards = recent.forwards().clone();
        for (index, asked) in commands.iter().enumerate() {
            let is_settled = number(epoch, asked.offset) <= progress.last_command;
            let is_known_forward = asked.origin.is_some_and(|origin| {
                let known = forwards.has(origin);
                forwards.saw(origin);
                known
            });
            match read(asked.value) {
                // Somebody wrote what had to be written before any later state record.
                Err(_) if is_settled => {}
                Err(_) if is_known_forward => batch.repeated += 1,
                Err(Unread::Refused(Refused::Unanswerable(detail))) => {
                    batch.decided.push(("unknown", false));
                    batch.refused.push(Step::DeadLetter { index, detail: Some(detail) });
                }
                Err(Unread::Bug) => {
                    batch.decided.push(("unknown", false));
                    batch.refused.push(Step::DeadLetter { index, detail: None });
                }
                Err(Unread::Refused(Refused::Rejected { id, project, name, problem })) => {
                    batch.decided.push((name, false));
                    batch.early.push(CommandResult::rejected(id, project, problem));
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
                        let doubt = Doubt { recent, is_known_forward };
                        batch.take(asked, command, known, office, registry, doubt);
                    } else if is_known_forward {
                        batch.repeated += 1;
                    } else if !is_settled {
                        batch.pass_on(index, asked, command);
                    }
                }
            }
        }
        *recent.forwards_mut() = forwards;
        for (command, offset, at) in std::mem::take(&mut batch.seen) {
            let outcome = batch.outcomes.get(&command.id);
            let rejected = outcome.and_then(|(.., result)| result.problem.as_ref());
            recent.saw(&command, offset, at, rejected);
        }
        Ok(batch)
    }

    /// A command of another partition goes there, unless it has been sent about already: then
    /// instances disagree on where it belongs.
    fn pass_on(&mut self, index: usize, asked: &Asked<'_>, command: Command) {
        if asked.origin.is_none_or(|origin| origin.hops < MAX_HOPS) {
            self.refused.push(Step::Forward { index, project: command.project });
            return;
        }
        let problem = Problem::new(
            ProblemCode::Internal,
            format!(
                "The command was forwarded {MAX_HOPS} times and is still in another partition than \
                 its project's: instances have different settings topics.state_partitions."
            ),
        );
        self.decided.push((command.name(), false));
        self.early.push(CommandResult::rejected(command.id, Some(command.project), problem));
    }

    fn take<R: Registry>(
        &mut self,
        asked: &Asked<'_>,
        command: Command,
        (progress, state): &mut (Progress, ProjectState),
        office: Office<'_>,
        registry: &R,
        doubt: Doubt<'_>,
    ) {
        self.seen.push((command.clone(), asked.offset, asked.at));
        let number = number(office.log.epoch(progress), asked.offset);
        let key = subject(&command);
        if number <= progress.last_command {
            // When it was not accepted, its result is durable.
            if let Some(by) = registry.accepted(&command.id, &key) {
                self.accepted.extend(as_it_is(&command, by, &key, state));
            } else {
                self.rejected_before.insert(command.id.clone(), (key, command.name()));
            }
            return;
        }
        if self.answer_again(&command, asked, &key, state, registry, doubt) {
            self.repeated += 1;
            return;
        }
        let name = command.name();
        let mut opened = command.clone();
        let context = Context { at: asked.at, offset: number, egress: office.egress };
        // A panic in here is a bug that the command met; it must not be met again and again.
        let decision = catch_unwind(AssertUnwindSafe(|| {
            let existing = command.body.connector().and_then(|id| state.connectors.get(id));
            if let Err(problem) = registry.open(&mut opened, existing.map(|found| found.kind)) {
                return Decision::Rejected(problem);
            }
            let mut decision = decide(state, &opened, &context);
            if let Decision::Accepted(change) = &mut decision
                && let Err(problem) = registry.seal(&command, change)
            {
                decision = Decision::Rejected(problem);
            }
            decision
        }));
        let decision = decision.unwrap_or_else(|_| {
            let detail = "Deciding the command met a bug of this program; nothing was changed.";
            Decision::Rejected(Problem::new(ProblemCode::Internal, detail))
        });
        let result = match decision {
            Decision::Accepted(change) => {
                // A token that is renewed every half hour is no change that anyone looks for.
                if !command.body.is_internal() {
                    let history = HistoryRecord::of(&command, asked.at, number, state, &change);
                    self.history.push(history);
                }
                self.notices.extend(Notice::of(&command, asked.at, state, &change));
                state.apply(&change);
                let result = CommandResult::accepted(&command, &change, number);
                self.accepted.push(result.clone());
                self.state.push(StateRecord {
                    command_offset: number,
                    commands_topic: office.log.topic_id.clone(),
                    command_id: command.id.clone(),
                    key: change.state_key(),
                    value: change.to_value(),
                });
                self.decided.push((name, true));
                result
            }
            Decision::Rejected(problem) => {
                let (id, project) = (command.id.clone(), Some(command.project.clone()));
                let result = CommandResult::rejected(id, project, problem);
                self.early.push(result.clone());
                self.decided.push((name, false));
                result
            }
        };
        self.outcomes.insert(command.id, (key, name, result));
    }

    /// Answers a command that was decided before, as far as an answer is known; false when it was
    /// not decided before.
    fn answer_again<R: Registry>(
        &mut self,
        command: &Command,
        asked: &Asked<'_>,
        key: &StateKey,
        state: &ProjectState,
        registry: &R,
        doubt: Doubt<'_>,
    ) -> bool {
        if let Some((of, name, result)) = self.outcomes.get(&command.id) {
            let is_same = of == key && *name == command.name();
            if is_same {
                let result = result.clone();
                match result.outcome {
                    CommandOutcome::Accepted => self.accepted.push(result),
                    CommandOutcome::Rejected => self.early.push(result),
                }
            }
            return is_same;
        }
        let before = match self.rejected_before.get(&command.id) {
            Some((of, name)) if of == key && *name == command.name() => Some(Before::Decided),
            _ => doubt.recent.before(command, asked.offset, asked.at),
        };
        let accepted = registry.accepted(&command.id, key);
        let (id, project) = (command.id.clone(), Some(command.project.clone()));
        match (accepted, before) {
            (Some(number), _) if !doubt.recent.has_another(command) => {
                self.early.extend(as_it_is(command, number, key, state));
            }
            (_, Some(Before::Rejected(problem))) => {
                self.early.push(CommandResult::rejected(id, project, problem));
            }
            // Its sender has had its answer.
            _ if doubt.is_known_forward => {}
            (_, Some(Before::Decided)) => {
                let problem = Problem::new(
                    ProblemCode::Conflict,
                    "A command of this id was rejected before. It is not decided again: give a new \
                     command a new id.",
                );
                self.early.push(CommandResult::rejected(id, project, problem));
            }
            _ => return false,
        }
        true
    }

    /// What is to be written, step by step.
    #[must_use]
    pub fn into_steps(self) -> Vec<Step> {
        let mut steps = self.refused;
        if !self.early.is_empty() {
            steps.push(Step::Results(self.early));
        }
        if let Some(last) = self.state.last().map(|record| record.command_offset) {
            steps.push(Step::Journal(self.history, self.notices));
            steps.push(Step::State(self.state));
            steps.push(Step::Applied(last));
        }
        if !self.accepted.is_empty() {
            steps.push(Step::Results(self.accepted));
        }
        steps
    }
}

/// Why there is no command to decide.
enum Unread {
    Refused(Refused),
    Bug,
}

/// Reads a command; a bug that it meets costs this command only.
#[expect(clippy::result_large_err, reason = "a refusal is rare and soon taken apart")]
fn read(value: &[u8]) -> Result<Command, Unread> {
    match catch_unwind(|| Command::read(value)) {
        Ok(read) => read.map_err(Unread::Refused),
        Err(_) => Err(Unread::Bug),
    }
}

/// What speaks for a command having been decided before.
#[derive(Clone, Copy)]
struct Doubt<'a> {
    recent: &'a Recent,
    /// The record that it was forwarded from was forwarded here before.
    is_known_forward: bool,
}

/// A project's state, and how far the commands whose consequences are in it were decided.
fn read_together<R: Registry>(
    registry: &R,
    project: &ProjectId,
) -> Result<(Progress, ProjectState), R::Error> {
    loop {
        let before = registry.progress();
        let state = registry.project(project)?;
        if registry.progress().last_command == before.last_command {
            return Ok((before, state));
        }
    }
}

/// The result of an accepted command, with what it changed as that is by now.
fn as_it_is(
    command: &Command,
    number: i64,
    key: &StateKey,
    state: &ProjectState,
) -> Option<CommandResult> {
    let change = match key {
        StateKey::Connector(key) => {
            let found = state.connectors.get(&key.connector).cloned();
            found.map_or_else(|| Change::ConnectorGone(key.clone()), Change::ConnectorSet)
        }
        StateKey::Project(_) => Change::ProjectSet(state.project.clone()?),
    };
    Some(CommandResult::accepted(command, &change, number))
}
