//! The ledger: what was asked, what was done, and what may have been done twice. It knows nothing
//! of the product's books and checks them against what really happened.

use std::collections::{BTreeMap, BTreeSet};

use dunmore_connectors::{
    connector::{
        CommandOutcome, CommandResult, Connector, Notice, StateKey, StateRecord, Told, offset_of,
    },
    id::{CommandId, ConnectorKey},
};

use crate::broker::{Broker, Slot, Topic, Written, index};

/// The invariant of decisions.
pub const AS_ONE: &str = "commands are decided as if by one registrar";

/// The invariant of results.
pub const ONE_OUTCOME: &str = "a command has one outcome";

/// The invariant of the history.
pub const IN_HISTORY: &str = "what is accepted is in the history";

/// The invariant of notices.
pub const IN_NOTICES: &str = "each transition is told, and told alike each time";

/// An event and a connector.
pub type Pair = (String, ConnectorKey);

/// A broken invariant: its name and what was seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    pub invariant: &'static str,
    pub what: String,
}

/// One processing of one record by one assignment.
#[derive(Debug)]
pub struct Task {
    pub topic: Topic,
    pub offset: i64,
    /// The assignment's epoch.
    pub epoch: u64,
    pub pairs: Vec<Pair>,
    /// Which of the pairs have got somewhere durable.
    pub durable: Vec<bool>,
    /// Whether anything of it may have had an effect.
    pub launched: bool,
    excused: bool,
}

impl Task {
    fn is_finished(&self) -> bool {
        self.durable.iter().all(|durable| *durable)
    }
}

#[derive(Debug, Default)]
struct PairBook {
    delivered: u32,
    /// How often something happened after which it may have to be delivered once more.
    excuses: u32,
    /// Delivered, dead or cancelled.
    ended: bool,
}

#[derive(Debug)]
struct CommandBook {
    results: Vec<bool>,
    /// What a single registrar decides, and about which record, when the command first reaches the
    /// partition of its project.
    decided: Option<(Place, bool)>,
}

/// Where a command stands: topic, partition, offset.
pub type Place = (Option<String>, i32, i64);

#[derive(Debug, Default)]
pub struct Ledger {
    pub tasks: Vec<Task>,
    expected: BTreeMap<Place, bool>,
    by_record: BTreeMap<(Topic, i64), Vec<usize>>,
    by_epoch: BTreeMap<u64, Vec<usize>>,
    pairs: BTreeMap<Pair, PairBook>,
    commands: BTreeMap<String, CommandBook>,
    /// The commands that are in the history.
    history: BTreeSet<CommandId>,
    notices: BTreeMap<CommandId, Vec<u8>>,
    pub violation: Option<Violation>,
    pub deliveries: u64,
}

impl Ledger {
    pub fn fail(&mut self, invariant: &'static str, what: impl FnOnce() -> String) {
        if self.violation.is_none() {
            self.violation = Some(Violation { invariant, what: what() });
        }
    }

    /// A record was taken up. A zombie's work may be repeated by whoever really owns the partition.
    pub fn take(
        &mut self,
        topic: Topic,
        offset: i64,
        epoch: u64,
        pairs: Vec<Pair>,
        is_zombie: bool,
    ) -> usize {
        let id = self.tasks.len();
        let durable = vec![false; pairs.len()];
        let task = Task { topic, offset, epoch, pairs, durable, launched: false, excused: false };
        self.tasks.push(task);
        self.by_record.entry((topic, offset)).or_default().push(id);
        self.by_epoch.entry(epoch).or_default().push(id);
        for pair in self.tasks[id].pairs.clone() {
            self.pairs.entry(pair).or_default();
        }
        if is_zombie {
            self.excuse_task(id);
        }
        id
    }

    /// The pair's delivery got somewhere durable; `ended` when it needs nothing more.
    pub fn durable(&mut self, task: usize, share: usize, ended: bool) {
        let task = &mut self.tasks[task];
        task.durable[share] = true;
        if ended {
            self.pairs.entry(task.pairs[share].clone()).or_default().ended = true;
        }
    }

    /// The destination took it.
    pub fn delivered(&mut self, pair: &Pair) {
        self.deliveries += 1;
        let book = self.pairs.entry(pair.clone()).or_default();
        book.delivered += 1;
        let (delivered, excuses) = (book.delivered, book.excuses);
        if delivered > 1 + excuses {
            self.fail("every repeat is explained", || {
                format!(
                    "{pair:?} was delivered {delivered} times, explained were {excuses} repeats"
                )
            });
        }
    }

    /// Something happened after which the pair may be delivered once more.
    pub fn excuse(&mut self, pair: &Pair) {
        self.pairs.entry(pair.clone()).or_default().excuses += 1;
    }

    fn excuse_task(&mut self, id: usize) {
        if std::mem::replace(&mut self.tasks[id].excused, true) {
            return;
        }
        for pair in self.tasks[id].pairs.clone() {
            self.excuse(&pair);
        }
    }

    /// An assignment ended by a crash, by being fenced, or before its work was done: what no commit
    /// covers may repeat, and the bound that it stated must have held.
    pub fn cut_off(&mut self, topic: Topic, epoch: u64, slot: &Slot, bound: u64) {
        let map = slot.map();
        let ids = self.by_epoch.get(&epoch).cloned().unwrap_or_default();
        let mut repeating = BTreeSet::new();
        for id in ids {
            let task = &self.tasks[id];
            if slot.covers(&map, task.offset) {
                continue;
            }
            if task.launched || task.is_finished() {
                repeating.insert(task.offset);
            }
            self.excuse_task(id);
        }
        if repeating.len() as u64 > bound {
            self.fail("repeats stay within the stated bound", || {
                format!("{topic:?}: records {repeating:?} repeat, the stated bound was {bound}")
            });
        }
    }

    /// A commit was taken by the broker: nothing that it newly covers may be unfinished.
    pub fn committed(&mut self, topic: Topic, epoch: u64, offsets: &[i64]) {
        for offset in offsets {
            let ids = self.by_record.get(&(topic, *offset)).cloned().unwrap_or_default();
            let finished = |id: &usize| self.tasks[*id].is_finished();
            let own: Vec<usize> =
                ids.iter().copied().filter(|id| self.tasks[*id].epoch == epoch).collect();
            let fine =
                if own.is_empty() { ids.iter().any(finished) } else { own.iter().all(finished) };
            if !fine {
                self.fail("no commit passes unfinished work", || {
                    format!("{topic:?} offset {offset} was committed, but its work is not done")
                });
            }
        }
    }

    pub fn asked(&mut self, id: &str) {
        let book = CommandBook { results: Vec::new(), decided: None };
        self.commands.entry(id.to_owned()).or_insert(book);
    }

    /// Whether a single registrar has decided a command of this id.
    pub fn is_decided(&self, id: &str) -> bool {
        self.commands.get(id).is_some_and(|book| book.decided.is_some())
    }

    /// What a single registrar decides about the command at this place. Of what comes again it
    /// decides nothing.
    pub fn expect(&mut self, id: &str, place: Place, accepted: bool) {
        let book = self.commands.get_mut(id).filter(|book| book.decided.is_none());
        let decided = (place.clone(), accepted);
        let is_first = book.map(|book| book.decided = Some(decided)).is_some();
        self.expected.insert(place, is_first && accepted);
    }

    /// State was written for a command.
    pub fn changed(&mut self, partition: i32, record: &StateRecord) {
        if self.expected.get(&place_of(partition, record)) != Some(&true) {
            self.fail(AS_ONE, || format!("{} was accepted", record.command_id));
        }
        if !self.history.contains(&record.command_id) {
            self.fail(IN_HISTORY, || format!("{} is not", record.command_id));
        }
        let json = record.value.as_deref().filter(|_| matches!(record.key, StateKey::Connector(_)));
        let health = json.and_then(|json| Connector::from_json(json).ok()).map(|one| one.health);
        let told = health.map(|health| [health.told_failing, health.told_recovered]);
        let is_now = |told: Told| told.number == record.command_offset;
        if told.into_iter().flatten().flatten().any(is_now)
            && !self.notices.contains_key(&record.command_id)
        {
            self.fail(IN_NOTICES, || format!("{} is not told", record.command_id));
        }
    }

    /// A notice was written.
    pub fn told(&mut self, notice: &Notice) {
        let json = notice.to_json();
        let known = self.notices.entry(notice.command_id.clone()).or_insert_with(|| json.clone());
        if *known != json {
            self.fail(IN_NOTICES, || format!("{} is told in two ways", notice.command_id));
        }
    }

    /// A record of the history was written.
    pub fn recorded(&mut self, command: CommandId) {
        self.history.insert(command);
    }

    /// A command that cannot be answered, for it names no id.
    pub fn refused(&mut self, partition: i32, offset: i64) {
        let id = format!("refused {partition}/{offset}");
        let place = (None, partition, -1);
        let book = CommandBook { results: vec![false], decided: Some((place, false)) };
        self.commands.insert(id, book);
    }

    /// A result was written.
    pub fn answered(&mut self, result: &CommandResult, broker: &Broker) {
        let accepted = result.outcome == CommandOutcome::Accepted;
        let id = result.command_id.as_str();
        let Some(book) = self.commands.get_mut(id) else {
            return self.fail("every command ends with a result", || format!("{id}: never asked"));
        };
        let contradicts = book.results.iter().any(|before| *before != accepted);
        book.results.push(accepted);
        let decided = book.decided.clone();
        if contradicts {
            self.fail(ONE_OUTCOME, || format!("{id} has two outcomes"));
        }
        if decided.as_ref().is_none_or(|(_, expected)| *expected != accepted) {
            self.fail(AS_ONE, || format!("{id} is {:?}", result.outcome));
        }
        if let Some((place, _)) = decided
            && accepted
            && !has_state(broker, &place)
        {
            self.fail("an accepted result means durable state", || format!("{id} has no state"));
        }
    }

    /// At the end: every command has a result, and the result is what the state says.
    pub fn check_commands(&mut self, broker: &Broker) {
        let mut wrong = None;
        for (id, book) in &self.commands {
            let Some((place, accepted)) = &book.decided else { continue };
            let has_state = has_state(broker, place);
            if has_state != *accepted || book.results.contains(&!accepted) {
                wrong = Some((
                    ONE_OUTCOME,
                    format!("{id}: results {:?}, in the state {has_state}", book.results),
                ));
            }
        }
        let unanswered = self.commands.iter().find(|(_, book)| book.results.is_empty());
        if let Some((id, _)) = unanswered {
            wrong = Some(("every command ends with a result", format!("{id} has none")));
        }
        if let Some((invariant, what)) = wrong {
            self.fail(invariant, || what);
        }
    }

    /// At the end: every pair that was ever matched has been delivered, is a dead letter, or was
    /// cancelled.
    pub fn check_pairs(&mut self) {
        // A pair that only a cut off assignment matched, from a view of its own, is no promise.
        let mut promised =
            self.tasks.iter().filter(|task| task.is_finished()).flat_map(|t| &t.pairs);
        let is_open = |pair: &&Pair| self.pairs.get(*pair).is_none_or(|book| !book.ended);
        if let Some(pair) = promised.find(is_open).cloned() {
            self.fail("no pair is lost", || format!("{pair:?} came to no end"));
        }
    }

    pub fn open_commands(&self) -> bool {
        self.commands.values().any(|book| book.results.is_empty())
    }
}

/// Where the command of a state record stands.
pub fn place_of(partition: i32, record: &StateRecord) -> Place {
    (record.commands_topic.clone(), partition, offset_of(record.command_offset))
}

fn has_state(broker: &Broker, place: &Place) -> bool {
    let mut history = broker.history[index(place.1)].iter();
    history.any(|written| place_of(place.1, &written.record) == *place)
}

/// The newest record of each key by the number of its command: what every view must come to.
pub fn fold(history: &[Written]) -> BTreeMap<&StateKey, &Written> {
    let mut newest: BTreeMap<&StateKey, &Written> = BTreeMap::new();
    for written in history {
        let known = newest.entry(&written.record.key).or_insert(written);
        if written.record.command_offset > known.record.command_offset {
            *known = written;
        }
    }
    newest
}
