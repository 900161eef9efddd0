//! The control plane as the simulation plays it: feeding a view, and a registrar that carries out
//! what a batch of commands says, one write at a time.

use std::collections::VecDeque;

use dunmore_connectors::{
    connector::{
        Asked, Batch, Command, CommandsLog, LOOK_BACK, Office, Origin, Recent, Step, partition_of,
    },
    view::Known,
};

use crate::{
    breaks::Break,
    broker::{PARTITIONS, Topic, index},
    ledger::fold,
    machine::{Act, Desk, Duty, Held, Live},
    shared::{Shared, stamp},
};

/// Commands that a registrar decides together here.
const MAX_BATCH: usize = 6;

impl Live {
    /// Takes a few state records in; false when there is nothing new.
    pub fn feed(&mut self, partition: i32, most: usize, shared: &mut Shared) -> bool {
        if self.freshness.is_stale(shared.time()) && !shared.is(Break::StaleViewKept) {
            self.failed = true;
            return false;
        }
        let moved = self.take_in(partition, most, shared);
        let next = self.sight.known[index(partition)].position.next_offset;
        if let Some(complete_at) = self.freshness.reached(partition, next) {
            self.sight.complete_at = complete_at;
            self.caught_up = true;
        }
        if !moved && !self.freshness.is_waiting() {
            self.ask(shared);
        }
        moved
    }

    /// Asks where the state partitions end, and looks whether the view is there.
    pub fn ask(&mut self, shared: &Shared) {
        let ends = (0..).zip(shared.broker.state.iter().map(|log| log.end)).collect();
        self.freshness.ask(shared.time(), ends);
        for (partition, known) in (0..).zip(&self.sight.known) {
            if let Some(at) = self.freshness.reached(partition, known.position.next_offset) {
                self.sight.complete_at = at;
                self.caught_up = true;
            }
        }
    }

    fn take_in(&mut self, partition: i32, most: usize, shared: &mut Shared) -> bool {
        let log = &shared.broker.state[index(partition)];
        let next = self.sight.known[index(partition)].position.next_offset;
        let entries = log.from(next);
        let entries = &entries[..most.min(entries.len())];
        if let Some(last) = entries.last() {
            let records: Vec<_> = entries.iter().map(|entry| entry.value.clone()).collect();
            let next_offset = last.offset + 1;
            self.sight.apply(partition, &records, next_offset, shared.time(), shared.breaks);
            shared.note(|| {
                format!("machine {} sees state {partition} to {next_offset}", self.machine)
            });
        } else if next < log.end {
            // The end was reached: what lies between is no record.
            self.sight.known[index(partition)].position.next_offset = log.end;
        } else {
            return false;
        }
        true
    }

    pub fn join(&mut self, shared: &Shared) {
        self.joined |= shared.is(Break::WorksWithOldView) || self.caught_up;
    }

    /// One step of the registrar of a partition; false when it waits for something.
    pub fn registrar(&mut self, is_orphan: bool, at: usize, shared: &mut Shared) -> bool {
        let list = if is_orphan { &mut self.orphans } else { &mut self.held };
        let duty = std::mem::replace(&mut list[at].duty, Duty::Stopped);
        let Topic::Commands(partition) = list[at].topic else { return false };
        let released = list[at].partition.is_released();
        let known = &self.sight.known[index(partition)];
        let position = known.position;
        let log = &shared.broker.state[index(partition)];
        let (next, moved) = match duty {
            Duty::Stopped => (Duty::Stopped, false),
            _ if released && !matches!(duty, Duty::Writing { .. } | Duty::Repairing { .. }) => {
                (Duty::Stopped, true)
            }
            Duty::Arrived => (Duty::CatchingUp(log.end), true),
            Duty::CatchingUp(end) => {
                let is_there = match shared.breaks {
                    Some(Break::LastOffsetIsCaughtUp) => {
                        let last = log.last().map_or(0, |offset| offset + 1);
                        last >= end && position.next_offset >= end
                    }
                    Some(Break::TakesOverBlindly) => true,
                    _ => position.next_offset >= end,
                };
                if is_there {
                    take_over(&mut list[at], partition, known, shared);
                }
                if is_there { (Duty::Ready, true) } else { (Duty::CatchingUp(end), false) }
            }
            Duty::Ready => return self.decide(at, partition, shared),
            Duty::SeeingRepairs(next) if position.next_offset >= next => (Duty::Ready, true),
            Duty::SeeingRepairs(next) => (Duty::SeeingRepairs(next), false),
            Duty::Repairing { mut records, last } => match records.pop_front() {
                None => {
                    list[at].partition.leave();
                    (Duty::SeeingRepairs(last + 1), true)
                }
                Some(record) => {
                    if shared.chance.percent(shared.broker.mood.refuses) {
                        self.failed = true;
                        return true;
                    }
                    let last = shared.write_state(partition, &record);
                    let machine = self.machine;
                    shared.note(|| format!("machine {machine} writes {} again", record.key));
                    (Duty::Repairing { records, last }, true)
                }
            },
            Duty::Writing { acts, offsets } => {
                return self.perform(is_orphan, at, partition, acts, offsets, shared);
            }
        };
        let list = if is_orphan { &mut self.orphans } else { &mut self.held };
        list[at].duty = next;
        moved
    }

    /// Repairs what must be repaired, else decides the next commands.
    fn decide(&mut self, at: usize, partition: i32, shared: &mut Shared) -> bool {
        let known = &self.sight.known[index(partition)];
        let Ok(repairs) = known.repairs(&self.sight.shelf);
        let held = &mut self.held[at];
        held.duty = Duty::Ready;
        // They are looked for between batches, or after a while.
        if !repairs.is_empty() && !shared.is(Break::NoRepairs) && shared.chance.percent(15) {
            if !held.partition.enter() {
                held.duty = Duty::Stopped;
                return true;
            }
            held.duty = Duty::Repairing { records: repairs.into(), last: -1 };
            return true;
        }
        let most = 1 + shared.chance.below(MAX_BATCH);
        // Of a topic that is gone nothing more can be read.
        let is_gone = held.commands_life != shared.broker.commands_life;
        let entries = shared.broker.commands[index(partition)].from(held.position);
        let entries = &entries[..if is_gone { 0 } else { most.min(entries.len()) }];
        if entries.is_empty() {
            return false;
        }
        let mut asked = Vec::new();
        for entry in entries {
            let Ok(begin) = held.partition.try_begin(entry.offset) else {
                held.duty = Duty::Stopped;
                return true;
            };
            held.position = entry.offset + 1;
            if begin == dunmore_connectors::offsets::Begin::Work {
                asked.push(entry);
            }
        }
        if !held.partition.enter() {
            held.duty = Duty::Stopped;
            return true;
        }
        let commands: Vec<Asked<'_>> = asked
            .iter()
            .map(|entry| Asked {
                offset: entry.offset,
                at: stamp(entry.at),
                value: &entry.value.value,
                origin: entry.value.origin.as_ref(),
            })
            .collect();
        let office =
            Office { partition, partitions: PARTITIONS, log: &held.log, egress: &shared.egress };
        let desk = Desk {
            sight: &self.sight,
            partition,
            keyring: &shared.keyring,
            taken_over_at: &held.taken_over_at,
            breaks: shared.breaks,
        };
        if shared.is(Break::RepeatsDecided) {
            held.recent = Recent::default();
        }
        let Ok(batch) = Batch::decide(&commands, office, &desk, &mut held.recent);
        let mut steps = batch.into_steps();
        broken_order(&mut steps, shared);
        let (mut acts, mut late) = (VecDeque::new(), VecDeque::new());
        for step in steps {
            match step {
                Step::DeadLetter { index, .. } => {
                    acts.push_back(Act::DeadLetter(asked[index].offset));
                }
                Step::Forward { index, project } => {
                    let sent = &asked[index].value;
                    let hops = sent.origin.as_ref().map_or(0, |origin| origin.hops) + 1;
                    let topic_id = held.log.topic_id.clone();
                    let origin = Origin { topic_id, partition, offset: asked[index].offset, hops };
                    acts.push_back(Act::Forward(sent.value.clone(), project, origin));
                }
                Step::Results(mut results) => {
                    // They are written at once and may arrive in any order.
                    if shared.chance.percent(50) {
                        results.reverse();
                    }
                    acts.extend(results.into_iter().map(Act::Result));
                }
                Step::Journal(history, notices) => {
                    acts.extend(history.into_iter().map(|record| Act::History(record.command_id)));
                    let is_late = shared.is(Break::NoticesLast);
                    let to = if is_late { &mut late } else { &mut acts };
                    to.extend(notices.into_iter().map(|notice| Act::Notice(Box::new(notice))));
                }
                Step::State(records) => {
                    acts.extend(records.into_iter().map(Act::State));
                    acts.append(&mut late);
                }
                Step::Applied(offset) => acts.push_back(Act::Applied(offset)),
            }
        }
        let offsets: Vec<i64> = asked.iter().map(|entry| entry.offset).collect();
        let machine = self.machine;
        shared.note(|| format!("machine {machine} decides commands {partition}/{offsets:?}"));
        held.duty = Duty::Writing { acts, offsets };
        true
    }

    fn perform(
        &mut self,
        is_orphan: bool,
        at: usize,
        partition: i32,
        mut acts: VecDeque<Act>,
        offsets: Vec<i64>,
        shared: &mut Shared,
    ) -> bool {
        let list = if is_orphan { &mut self.orphans } else { &mut self.held };
        let held = &mut list[at];
        let mood = shared.broker.mood;
        let Some(act) = acts.pop_front() else {
            for offset in &offsets {
                held.partition.complete(*offset);
            }
            held.partition.leave();
            held.duty = Duty::Ready;
            return true;
        };
        let refused = shared.chance.percent(mood.refuses);
        let lost = shared.chance.percent(mood.loses_answer);
        let machine = self.machine;
        match act {
            Act::Applied(offset) => {
                let known = &self.sight.known[index(partition)];
                if known.position.last_command < offset {
                    acts.push_front(Act::Applied(offset));
                    held.duty = Duty::Writing { acts, offsets };
                    return false;
                }
            }
            Act::State(record) => {
                if !refused {
                    shared.write_state(partition, &record);
                    shared.note(|| {
                        format!("machine {machine} writes {} by {}", record.key, record.command_id)
                    });
                }
                if refused || lost {
                    // A failure is final: this instance stops.
                    self.failed = true;
                    return true;
                }
            }
            other if refused => {
                if held.partition.is_released() {
                    held.partition.leave();
                    held.duty = Duty::Stopped;
                    return true;
                }
                acts.push_front(other);
            }
            Act::Result(result) => {
                shared.ledger.answered(&result, &shared.broker);
                shared.note(|| {
                    format!("machine {machine}: {} is {:?}", result.command_id, result.outcome)
                });
                if lost {
                    acts.push_front(Act::Result(result));
                }
            }
            Act::History(command) => {
                shared.ledger.recorded(command.clone());
                if lost {
                    acts.push_front(Act::History(command));
                }
            }
            Act::Notice(notice) => {
                shared.ledger.told(&notice);
                if lost {
                    acts.push_front(Act::Notice(notice));
                }
            }
            Act::DeadLetter(offset) => shared.ledger.refused(partition, offset),
            Act::Forward(value, project, origin) => {
                // What an owner of a topic that is gone sends on is not taken by the new one.
                if held.commands_life == shared.broker.commands_life {
                    let partition = partition_of(project.as_str(), PARTITIONS);
                    shared.append_command(value, Some(partition), Some(origin));
                }
            }
        }
        held.duty = Duty::Writing { acts, offsets };
        true
    }

    /// Every key is as the newest command that is in the topic up to here made it. On the way to
    /// where the topic ended at the start, compaction may have left gaps that later records fill.
    pub fn check_view(&self, shared: &mut Shared) {
        if !self.caught_up {
            return;
        }
        for partition in 0..PARTITIONS {
            let next = self.sight.known[index(partition)].position.next_offset;
            let history = &shared.broker.history[index(partition)];
            let seen = history.partition_point(|written| written.offset < next);
            let mut wrong = None;
            for (key, written) in fold(&history[..seen]) {
                let wanted = written.record.value.as_ref().map(|_| written.record.command_offset);
                let has = self.sight.shelf.number(key);
                if has != wanted {
                    wrong = Some(format!(
                        "machine {} has {key} by command {has:?}, the topic by {wanted:?}",
                        self.machine
                    ));
                }
            }
            if let Some(wrong) = wrong {
                shared.ledger.fail("every view is the same", || wrong);
            }
        }
    }
}

/// What a registrar finds out when it takes a partition over: which log it is, and what was asked
/// lately.
/// Puts what follows from commands into the order of a break.
fn broken_order(steps: &mut [Step], shared: &Shared) {
    let is_journal = |step: &Step| matches!(step, Step::Journal(..));
    match (shared.breaks, steps.iter().position(is_journal)) {
        // The results of the rejected ones stand before the history and the state, those of the
        // accepted behind.
        (Some(Break::RejectedLast), Some(journal)) => steps.rotate_left(journal),
        (Some(Break::HistoryLast), Some(journal)) => steps.swap(journal, journal + 1),
        (Some(Break::AcceptedFirst), Some(_)) => {
            steps.rotate_right(1);
        }
        _ => {}
    }
}

fn take_over(held: &mut Held, partition: i32, known: &Known, shared: &Shared) {
    held.taken_over_at = known.progress();
    let log = &shared.broker.commands[index(partition)];
    let id = match shared.breaks {
        Some(Break::NumbersOfAnotherTopic) => None,
        _ if held.commands_life != shared.broker.commands_life => return,
        _ => shared.broker.commands_id(),
    };
    // By its end alone another log is recognised only while it is short.
    let end = if shared.is(Break::NumbersOfAnotherTopic) { i64::MAX } else { log.end };
    held.log = CommandsLog::found(id, end, &held.taken_over_at, shared.time());
    for entry in log.from(held.position - LOOK_BACK) {
        if entry.offset >= held.position {
            break;
        }
        if let Some(origin) = &entry.value.origin {
            held.recent.forwards_mut().saw(origin);
        }
        if let Ok(command) = Command::read(&entry.value.value)
            && partition_of(command.project.as_str(), PARTITIONS) == partition
        {
            held.recent.saw(&command, entry.offset, stamp(entry.at), None);
        }
    }
}
