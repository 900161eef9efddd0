//! The fold of the state topic: which record counts, judged key by key, and which has to be
//! written again. Pure: where the state is kept is somebody else's business.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::{
    connector::{Change, StateKey, StateRecord},
    id::{CommandId, ProjectId},
};

/// How many of the last applied commands of a partition are remembered.
pub const MAX_REMEMBERED_COMMANDS: usize = 1024;

/// How far a partition of the state topic was taken in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    /// The offset of the next state record to read.
    pub next_offset: i64,
    /// The offset of the last command that was applied; -1 when there was none.
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

    /// The newest record of a key: its command's offset and its JSON; `None` when nothing is there.
    fn stored(&self, key: &StateKey) -> Result<Option<(i64, Vec<u8>)>, Self::Error>;
}

/// An accepted command that is remembered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Remembered {
    /// The command's offset.
    pub command_offset: i64,
    /// The command.
    pub command_id: CommandId,
    /// What it changed.
    pub key: StateKey,
}

/// What is known of a partition of the state topic, beside the state itself. It is kept with the
/// state and changes together with it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Known {
    /// How far the partition was taken in.
    pub position: Position,
    /// How many commands were remembered since the beginning; the next one's number.
    pub numbered: u64,
    /// How many connectors there are.
    pub connectors: u64,
    /// How many projects' own records there are.
    pub projects: u64,
    /// The last accepted commands, in the order of their records.
    pub remembered: VecDeque<Remembered>,
    /// Keys of which an older record stands behind the newest one. Compaction would keep the
    /// older one, because it is further behind in the topic; so the partition's registrar writes
    /// the newest one again, and a key stays here until that was seen.
    pub overtaken: BTreeSet<StateKey>,
}

/// The newest record of a key after a run of records.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Newest {
    /// The offset of its command.
    pub command_offset: i64,
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
            position: self.position,
            overtaken: self.overtaken.clone(),
            applied: Applied::default(),
            connectors: 0,
            projects: 0,
        };
        for record in records {
            self.take(shelf, record, &mut folded)?;
        }
        folded.position.next_offset = next_offset;
        Ok(folded)
    }

    /// What was folded has been kept.
    pub fn accept(&mut self, folded: Folded) -> Applied {
        self.position = folded.position;
        self.numbered += folded.remembered.len() as u64;
        self.connectors = self.connectors.saturating_add_signed(folded.connectors);
        self.projects = self.projects.saturating_add_signed(folded.projects);
        self.remembered.extend(folded.remembered);
        let excess = self.remembered.len().saturating_sub(MAX_REMEMBERED_COMMANDS);
        self.remembered.drain(..excess);
        self.overtaken = folded.overtaken;
        folded.applied
    }

    /// What the command at this offset changed, if it is among the last
    /// [`MAX_REMEMBERED_COMMANDS`] of the partition that changed something.
    #[must_use]
    pub fn was_accepted(&self, command_offset: i64) -> Option<&StateKey> {
        let mut commands = self.remembered.iter().rev();
        commands.find(|command| command.command_offset == command_offset).map(|c| &c.key)
    }

    /// The newest records of the keys of which an older one stands behind: to be written again.
    pub fn repairs<S: Shelf>(&self, shelf: &S) -> Result<Vec<StateRecord>, S::Error> {
        let mut records = Vec::new();
        for key in &self.overtaken {
            if let Some((command_offset, json)) = shelf.stored(key)? {
                let command_id = match key.read(Some(&json)) {
                    Ok(Change::ConnectorSet(connector)) => connector.command_id,
                    Ok(Change::ProjectSet(project)) => project.command_id,
                    _ => continue,
                };
                let key = key.clone();
                records.push(StateRecord { command_offset, command_id, key, value: Some(json) });
            } else if let Some(command) = self.newest_command(key) {
                records.push(StateRecord {
                    command_offset: command.command_offset,
                    command_id: command.command_id.clone(),
                    key: key.clone(),
                    value: None,
                });
            }
        }
        Ok(records)
    }

    fn take<S: Shelf>(
        &self,
        shelf: &S,
        record: &StateRecord,
        folded: &mut Folded,
    ) -> Result<(), S::Error> {
        let (newest, was_there) = self.newest(shelf, record, folded)?;
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
        folded.remembered.push(Remembered {
            command_offset: record.command_offset,
            command_id: record.command_id.clone(),
            key: record.key.clone(),
        });
        if record.key.read(record.value.as_deref()).is_err() {
            folded.applied.unreadable += 1;
            return Ok(());
        }
        let newest = Newest { command_offset: record.command_offset, json: record.value.clone() };
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
        &self,
        shelf: &S,
        record: &StateRecord,
        folded: &Folded,
    ) -> Result<(Option<i64>, bool), S::Error> {
        if let Some(newest) = folded.changes.get(&record.key) {
            return Ok((Some(newest.command_offset), newest.json.is_some()));
        }
        if let Some((offset, _)) = shelf.stored(&record.key)? {
            return Ok((Some(offset), true));
        }
        // Only what comes out of order can have been removed by a later command.
        let offset = if record.command_offset > folded.position.last_command {
            None
        } else {
            self.newest_command(&record.key).map(|command| command.command_offset)
        };
        Ok((offset, false))
    }

    fn newest_command(&self, key: &StateKey) -> Option<&Remembered> {
        let of_key = self.remembered.iter().filter(|command| command.key == *key);
        of_key.max_by_key(|command| command.command_offset)
    }
}
