//! The fold of the state topic: which record counts, judged key by key, and which has to be
//! written again. Pure: where the state is kept is somebody else's business.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use super::freshness::{COMPACTION_LAG, TOMBSTONE_RETENTION};
use crate::{
    clock::Timestamp,
    connector::{Change, MAX_REMEMBERED_TOPICS, Progress, StateKey, StateRecord, epoch_of},
    id::{CommandId, ProjectId},
};

/// How many of the last applied commands of a partition are remembered; and beside them, of those
/// that make no new version, such as encrypting anew.
pub const MAX_REMEMBERED_COMMANDS: usize = 1024;

/// How long it is remembered which command deleted a key: as long as the topic may hold, or a
/// replaced owner may still write, an older record of it.
pub const DELETED_FOR: Duration =
    Duration::from_secs(COMPACTION_LAG.as_secs() + TOMBSTONE_RETENTION.as_secs());

/// The most deleted keys that are remembered; beyond it, the oldest are forgotten first.
pub const MAX_DELETED: usize = 100_000;

/// Whether it need not be remembered any longer that a key was deleted at this moment.
#[must_use]
pub fn is_forgotten(deleted_at: Timestamp, now: Timestamp) -> bool {
    now.since(deleted_at) > DELETED_FOR
}

/// How far a partition of the state topic was taken in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    /// The offset of the next state record to read.
    pub next_offset: i64,
    /// The number of the last command that was applied; -1 when there was none.
    pub last_command: i64,
}

impl Default for Position {
    fn default() -> Self {
        Self { next_offset: 0, last_command: -1 }
    }
}

/// What became of the records that were taken in.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Applied {
    /// So many changed the state.
    pub applied: usize,
    /// So many said what was known already.
    pub ignored: usize,
    /// So many could not be read; what they are about stays as it was.
    pub unreadable: usize,
    /// The projects that changed.
    pub projects: BTreeSet<ProjectId>,
}

/// Where the folded state is kept.
pub trait Shelf {
    /// Why it cannot be read.
    type Error;

    /// The newest record of a key; `None` when nothing is there and nothing was lately.
    fn stored(&self, key: &StateKey) -> Result<Option<Stored>, Self::Error>;
}

/// The newest record of a key, as it is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stored {
    /// The number of its command.
    pub number: i64,
    /// What the key stands for.
    pub content: Content,
}

/// What a key stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// This JSON.
    There(Vec<u8>),
    /// Nothing any more; this command deleted it.
    Deleted(CommandId),
}

/// An accepted command that is remembered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Remembered {
    /// The command's number.
    pub command_offset: i64,
    /// The command.
    pub command_id: CommandId,
    /// What it changed.
    pub key: StateKey,
}

/// The last commands of a kind, in the order of their records.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Remembrance {
    /// How many were remembered since the beginning; the next one's number here.
    pub numbered: u64,
    /// The last [`MAX_REMEMBERED_COMMANDS`] of them.
    pub commands: VecDeque<Remembered>,
}

impl Remembrance {
    fn extend(&mut self, commands: Vec<Remembered>) {
        self.numbered += commands.len() as u64;
        self.commands.extend(commands);
        let excess = self.commands.len().saturating_sub(MAX_REMEMBERED_COMMANDS);
        self.commands.drain(..excess);
    }
}

/// What is known of a partition of the state topic, beside the state itself. It is kept with the
/// state and changes together with it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Known {
    /// How far the partition was taken in.
    pub position: Position,
    /// The ids of the commands topics that the records' commands were in, by epoch.
    pub topics: BTreeMap<i64, String>,
    /// How many connectors there are.
    pub connectors: u64,
    /// How many projects' own records there are.
    pub projects: u64,
    /// The last accepted commands.
    pub remembered: Remembrance,
    /// The last accepted commands that made no new version. They come by the thousand when a key is
    /// rotated, and must not push the others out.
    pub quiet: Remembrance,
    /// Keys of which an older record stands behind the newest one. Compaction would keep the
    /// older one, because it is further behind in the topic; so the partition's registrar writes
    /// the newest one again, and a key stays here until that was seen.
    pub overtaken: BTreeSet<StateKey>,
}

/// The newest record of a key after a run of records.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Newest {
    /// The number of its command.
    pub command_offset: i64,
    /// That command.
    pub command_id: CommandId,
    /// Its JSON; `None` when nothing is there.
    pub json: Option<Vec<u8>>,
}

/// What a run of records changes, before any of it is written. State, position and the rest
/// belong together: they are kept in one step or not at all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Folded {
    /// The state that changes.
    pub changes: BTreeMap<StateKey, Newest>,
    /// Commands to remember from now on.
    pub remembered: Vec<Remembered>,
    /// The same, of those that made no new version.
    pub quiet: Vec<Remembered>,
    /// The ids of the commands topics after the run, by epoch.
    pub topics: BTreeMap<i64, String>,
    /// The position behind the run.
    pub position: Position,
    /// The keys that wait for their newest record to be written again, after the run.
    pub overtaken: BTreeSet<StateKey>,
    /// What became of the records.
    pub applied: Applied,
    /// How many connectors came, or went.
    pub connectors: i64,
    /// How many projects came, or went.
    pub projects: i64,
}

impl Known {
    /// Folds a run of records; nothing is kept yet.
    ///
    /// A record is ignored when a command that is not older was applied to the same key. That is
    /// judged key by key, not by the partition's last command: an owner that was replaced may
    /// write a decision a second time, behind later ones, and compaction then removes the first
    /// of the two. Who reads the topic from its beginning must still take in what is left.
    pub fn fold<S: Shelf>(
        &self,
        shelf: &S,
        records: &[StateRecord],
        next_offset: i64,
    ) -> Result<Folded, S::Error> {
        let mut folded = Folded {
            changes: BTreeMap::new(),
            remembered: Vec::new(),
            quiet: Vec::new(),
            topics: self.topics.clone(),
            position: self.position,
            overtaken: self.overtaken.clone(),
            applied: Applied::default(),
            connectors: 0,
            projects: 0,
        };
        for record in records {
            Self::take(shelf, record, &mut folded)?;
        }
        folded.position.next_offset = next_offset;
        Ok(folded)
    }

    /// What was folded has been kept.
    pub fn accept(&mut self, folded: Folded) -> Applied {
        self.position = folded.position;
        self.topics = folded.topics;
        self.connectors = self.connectors.saturating_add_signed(folded.connectors);
        self.projects = self.projects.saturating_add_signed(folded.projects);
        self.remembered.extend(folded.remembered);
        self.quiet.extend(folded.quiet);
        self.overtaken = folded.overtaken;
        folded.applied
    }

    /// How far the partition's commands were decided.
    #[must_use]
    pub fn progress(&self) -> Progress {
        Progress { last_command: self.position.last_command, topics: self.topics.clone() }
    }

    /// The number of the command of this id that changed this key, if it is among the last
    /// [`MAX_REMEMBERED_COMMANDS`] of the partition that changed something.
    #[must_use]
    pub fn accepted(&self, id: &CommandId, key: &StateKey) -> Option<i64> {
        let mut commands =
            self.remembered.commands.iter().rev().chain(self.quiet.commands.iter().rev());
        let found = commands.find(|command| command.command_id == *id && command.key == *key);
        found.map(|command| command.command_offset)
    }

    /// The newest records of the keys of which an older one stands behind: to be written again.
    pub fn repairs<S: Shelf>(&self, shelf: &S) -> Result<Vec<StateRecord>, S::Error> {
        let mut records = Vec::new();
        for key in &self.overtaken {
            let Some(Stored { number, content }) = shelf.stored(key)? else { continue };
            let (command_id, value) = match content {
                Content::Deleted(command_id) => (command_id, None),
                Content::There(json) => match key.read(Some(&json)) {
                    Ok(Change::ConnectorSet(connector)) => (connector.command_id, Some(json)),
                    Ok(Change::ProjectSet(project)) => (project.command_id, Some(json)),
                    _ => continue,
                },
            };
            records.push(StateRecord {
                command_offset: number,
                commands_topic: self.topics.get(&epoch_of(number)).cloned(),
                command_id,
                key: key.clone(),
                value,
            });
        }
        Ok(records)
    }

    fn take<S: Shelf>(
        shelf: &S,
        record: &StateRecord,
        folded: &mut Folded,
    ) -> Result<(), S::Error> {
        let (newest, was_there) = Self::newest(shelf, record, folded)?;
        if newest.is_some_and(|newest| record.command_offset <= newest) {
            folded.applied.ignored += 1;
            if newest == Some(record.command_offset) {
                // The same decision once more: now compaction keeps the right one.
                folded.overtaken.remove(&record.key);
            } else {
                folded.overtaken.insert(record.key.clone());
            }
            return Ok(());
        }
        // What cannot be read was accepted all the same.
        let position = &mut folded.position;
        position.last_command = position.last_command.max(record.command_offset);
        if let Some(topic) = &record.commands_topic {
            folded.topics.entry(epoch_of(record.command_offset)).or_insert_with(|| topic.clone());
            while folded.topics.len() > MAX_REMEMBERED_TOPICS {
                folded.topics.pop_first();
            }
        }
        let change = record.key.read(record.value.as_deref());
        let is_quiet = matches!(
            &change,
            Ok(Change::ConnectorSet(connector)) if connector.command_id != record.command_id
        );
        let remembered = if is_quiet { &mut folded.quiet } else { &mut folded.remembered };
        remembered.push(Remembered {
            command_offset: record.command_offset,
            command_id: record.command_id.clone(),
            key: record.key.clone(),
        });
        if change.is_err() {
            folded.applied.unreadable += 1;
            return Ok(());
        }
        let newest = Newest {
            command_offset: record.command_offset,
            command_id: record.command_id.clone(),
            json: record.value.clone(),
        };
        let difference = i64::from(newest.json.is_some()) - i64::from(was_there);
        match &record.key {
            StateKey::Connector(_) => folded.connectors += difference,
            StateKey::Project(_) => folded.projects += difference,
        }
        folded.changes.insert(record.key.clone(), newest);
        folded.overtaken.remove(&record.key);
        folded.applied.applied += 1;
        folded.applied.projects.insert(record.key.project().clone());
        Ok(())
    }

    /// The newest command that is known for the record's key, and whether something is there.
    fn newest<S: Shelf>(
        shelf: &S,
        record: &StateRecord,
        folded: &Folded,
    ) -> Result<(Option<i64>, bool), S::Error> {
        if let Some(newest) = folded.changes.get(&record.key) {
            return Ok((Some(newest.command_offset), newest.json.is_some()));
        }
        Ok(match shelf.stored(&record.key)? {
            Some(Stored { number, content }) => {
                (Some(number), matches!(content, Content::There(_)))
            }
            None => (None, false),
        })
    }
}
