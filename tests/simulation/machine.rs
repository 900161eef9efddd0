//! An instance of the program, as the simulation plays it: the product's objects, and in which
//! state the shell around them is.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    sync::Arc,
};

use dunmore_connectors::{
    clock::Timestamp,
    connector::{
        Change, Command, CommandResult, CommandsLog, Notice, Origin, Problem, Progress,
        ProjectState, Recent, Registry, StateKey, StateRecord, Tier,
    },
    delivery::{Park, Verdict},
    destination::ConnectorType,
    id::{CommandId, ConnectorKey, ProjectId},
    kafka::Partition,
    lane::{Lanes, Moment, Ticket},
    pipeline::Delivery,
    secrets::Keyring,
    view::{BaseUrls, Content, Freshness, Known, Shelf, Stored, Subscriptions, is_forgotten},
};

use crate::{
    breaks::Break,
    broker::{PARTITIONS, Topic, index},
};

/// A view in memory: the product's fold over a map instead of sled.
#[derive(Clone, Debug)]
pub struct Sight {
    pub shelf: Rows,
    pub known: Vec<Known>,
    pub complete_at: Timestamp,
    /// The rows, read once.
    read: BTreeMap<StateKey, Change>,
    cache: BTreeMap<ProjectId, Arc<Subscriptions>>,
}

#[derive(Clone, Debug, Default)]
pub struct Rows(pub BTreeMap<StateKey, (Stored, Timestamp)>);

impl Shelf for Rows {
    type Error = Infallible;

    fn stored(&self, key: &StateKey) -> Result<Option<Stored>, Infallible> {
        Ok(self.0.get(key).map(|(stored, _)| stored.clone()))
    }
}

impl Rows {
    /// The number of the command that made the key what it is, unless it is gone.
    pub fn number(&self, key: &StateKey) -> Option<i64> {
        let (stored, _) = self.0.get(key)?;
        matches!(stored.content, Content::There(_)).then_some(stored.number)
    }
}

impl Sight {
    /// An empty one; nothing is missed by who begins at the beginning.
    pub fn new(now: Timestamp) -> Self {
        let known = (0..PARTITIONS).map(|_| Known::default()).collect();
        Self {
            shelf: Rows::default(),
            known,
            complete_at: now,
            read: BTreeMap::new(),
            cache: BTreeMap::new(),
        }
    }

    /// What the store does: fold, keep everything in one step, forget what is compiled.
    pub fn apply(
        &mut self,
        partition: i32,
        records: &[StateRecord],
        next_offset: i64,
        now: Timestamp,
        breaks: Option<Break>,
    ) {
        let known = &mut self.known[index(partition)];
        if breaks == Some(Break::RepairsForgotten) {
            known.overtaken.clear();
        }
        let Ok(folded) = if breaks == Some(Break::SecondDecisionFolded) {
            let blind = Known { position: known.position, ..Known::default() };
            blind.fold(&Rows::default(), records, next_offset)
        } else {
            known.fold(&self.shelf, records, next_offset)
        };
        for (key, newest) in &folded.changes {
            let content = if let Some(json) = &newest.json {
                self.read.insert(key.clone(), key.read(Some(json)).unwrap());
                Content::There(json.clone())
            } else {
                self.read.remove(key);
                Content::Deleted(newest.command_id.clone())
            };
            let stored = Stored { number: newest.command_offset, content };
            self.shelf.0.insert(key.clone(), (stored, now));
        }
        let forgets = breaks == Some(Break::DeletedForgotten);
        self.shelf.0.retain(|_, (stored, at)| match stored.content {
            Content::There(_) => true,
            Content::Deleted(_) => !forgets && !is_forgotten(*at, now),
        });
        for project in &known.accept(folded).projects {
            self.cache.remove(project);
        }
    }

    pub fn project(&self, project: &ProjectId) -> ProjectState {
        let mut state = ProjectState::default();
        for (_, change) in self.read.iter().filter(|(key, _)| key.project() == project) {
            state.apply(change);
        }
        state
    }

    pub fn subscriptions(&mut self, project: &ProjectId, keyring: &Keyring) -> Arc<Subscriptions> {
        if let Some(known) = self.cache.get(project) {
            return Arc::clone(known);
        }
        let state = self.project(project);
        let compiled = Arc::new(Subscriptions::compile(&state, keyring, &BaseUrls::default()));
        self.cache.insert(project.clone(), Arc::clone(&compiled));
        compiled
    }
}

/// What a registrar sees of its partition.
pub struct Desk<'a> {
    pub sight: &'a Sight,
    pub partition: i32,
    pub keyring: &'a Keyring,
    pub taken_over_at: &'a Progress,
    pub breaks: Option<Break>,
}

impl Registry for Desk<'_> {
    type Error = Infallible;

    fn progress(&self) -> Progress {
        if self.breaks == Some(Break::LooksUpOnce) {
            return self.taken_over_at.clone();
        }
        self.sight.known[index(self.partition)].progress()
    }

    fn accepted(&self, id: &CommandId, key: &StateKey) -> Option<i64> {
        let broken = [Some(Break::NothingAgain), Some(Break::RepeatsDecided)];
        if broken.contains(&self.breaks) {
            return None;
        }
        self.sight.known[index(self.partition)].accepted(id, key)
    }

    fn project(&self, project: &ProjectId) -> Result<ProjectState, Infallible> {
        let mut state = self.sight.project(project);
        if self.breaks == Some(Break::NoTierLimit)
            && let Some(project) = &mut state.project
        {
            project.tier = Tier::Enterprise;
        }
        Ok(state)
    }

    fn open(&self, command: &mut Command, existing: Option<ConnectorType>) -> Result<(), Problem> {
        self.keyring.open_command(command, existing)
    }

    fn seal(&self, command: &Command, change: &mut Change) -> Result<(), Problem> {
        self.keyring.seal_decided(command, change)
    }
}

/// One thing that a registrar does, durable before the next one.
#[derive(Debug)]
pub enum Act {
    Result(CommandResult),
    History(CommandId),
    Notice(Box<Notice>),
    State(StateRecord),
    Applied(i64),
    DeadLetter(i64),
    Forward(Vec<u8>, ProjectId, Origin),
}

/// What a registrar is about to do for a partition.
#[derive(Debug)]
pub enum Duty {
    Arrived,
    CatchingUp(i64),
    Ready,
    Writing { acts: VecDeque<Act>, offsets: Vec<i64> },
    Repairing { records: VecDeque<StateRecord>, last: i64 },
    SeeingRepairs(i64),
    Stopped,
}

/// A partition that this instance owns, or believes to.
#[derive(Debug)]
pub struct Held {
    pub topic: Topic,
    pub epoch: u64,
    pub partition: Arc<Partition>,
    pub position: i64,
    /// What is left of the record that its worker is handing to lanes.
    pub taking: VecDeque<Item>,
    /// Since when the worker waits for the head to fall due.
    pub head: Option<(i64, u64)>,
    /// Given up; until when what was begun may be finished.
    pub revoking: Option<u64>,
    pub duty: Duty,
    /// Of which life of the commands topic it is.
    pub commands_life: i64,
    /// What a registrar knows of its log, once it took over.
    pub log: CommandsLog,
    pub recent: Recent,
    pub taken_over_at: Progress,
}

/// A delivery, and where the ledger has it.
#[derive(Debug)]
pub struct Item {
    pub delivery: Delivery,
    pub task: usize,
    pub share: usize,
}

/// A request under way.
#[derive(Debug)]
pub struct Running {
    pub ticket: Ticket,
    pub began: u64,
    pub ready_at: u64,
    pub items: Vec<Item>,
    pub answers: Vec<Verdict>,
    /// For each item: the destination acts, or has acted already.
    pub acts: Vec<bool>,
    pub acted: bool,
}

/// A record on its way to a tier or the dead letters.
#[derive(Debug)]
pub struct Write {
    pub item: Item,
    pub park: Park,
}

/// A running instance: all that a crash forgets.
#[derive(Debug)]
pub struct Live {
    pub machine: usize,
    pub incarnation: u64,
    pub started: u64,
    /// The ends of the state partitions when it started.
    pub start_ends: Vec<i64>,
    /// Has the view everything? Asked first when the machine starts.
    pub freshness: Freshness,
    pub caught_up: bool,
    pub joined: bool,
    pub sight: Sight,
    pub lanes: Lanes<ConnectorKey, Item>,
    pub held: Vec<Held>,
    /// Partitions that were given up while a registrar was still writing for them.
    pub orphans: Vec<Held>,
    pub running: Vec<Running>,
    pub writes: Vec<Write>,
    pub commands: Vec<Vec<u8>>,
    pub suspending: BTreeMap<ConnectorKey, i64>,
    /// What the destinations of this instance's lanes asked for.
    /// Until when, and with which version of the connector.
    pub not_before: BTreeMap<ConnectorKey, (u64, i64)>,
    /// Connectors that cannot work: the version that was tried, and when.
    pub broken: BTreeMap<ConnectorKey, (i64, u64)>,
    pub hoard: Vec<Item>,
    /// State could not be written, or the view is too old: the service stops.
    pub failed: bool,
}

impl Live {
    pub fn moment(&self, now: u64) -> Moment {
        Moment::from_millis(now - self.started)
    }
}

/// A place where an instance can run, with what its disk keeps.
#[derive(Debug)]
pub struct Machine {
    pub live: Option<Live>,
    pub disk: Sight,
}
