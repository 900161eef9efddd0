//! The store: connectors, projects and positions on disk. The only place that knows sled.
//!
//! It holds derived data, so whatever is wrong with it is cured by moving it aside and reading
//! the state topic again; only a folder that cannot be used at all is an error. State and position
//! change in one atomic batch: a crash can move both back together, never one of them.
//!
//! One tree, keys by prefix (`·` is a zero byte, which no id contains):
//!
//! | key | value |
//! | --- | --- |
//! | `m` | format version and cluster id, JSON |
//! | `c` | the moment at which the view last had everything |
//! | `p` partition | next offset, last command's number, commands remembered so far of both kinds, connectors, projects |
//! | `r` partition, slot | place, command's number, command id · state key |
//! | `q` partition, slot | the same, of commands that made no new version |
//! | `i` partition, epoch | the id of the commands topic |
//! | `o` partition, state key | nothing; the key is one that waits for a repair |
//! | `s` project · connector | command's number, the record's JSON; no connector: the project |
//! | `d` project · connector | command's number, when it was deleted, command id |
//! | `h` project · connector | type and code of why it is suspended, JSON |
//! | `n` partition, state key | when its access token is to be renewed |
//! | `N` partition, when, state key | nothing; renewals by their time |
//! | `t` when it was deleted, project · connector | nothing; deleted keys by their age |

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{
    fold::{
        Applied, Content, Known, MAX_DELETED, MAX_REMEMBERED_COMMANDS, Newest, Position,
        Remembered, Remembrance, Shelf, Stored, is_forgotten,
    },
    freshness::is_stale,
    renewals, suspended,
};
use crate::{
    clock::{self, Timestamp},
    connector::{Change, Connector, Progress, ProjectState, StateKey, StateRecord},
    id::{CommandId, ConnectorId, ConnectorKey, ProjectId, TopicId},
};

/// The format of the keys and values; another one is rebuilt.
const FORMAT: u32 = 6;
/// What sled may keep in memory, in bytes. Its default is 1 GiB.
const CACHE_BYTES: u64 = 64 << 20;
/// How many folders that were moved aside are kept.
const MAX_BROKEN_FOLDERS: usize = 2;

/// How long a lock is waited for, and the pause between two looks.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);
const LOCK_PAUSE: Duration = Duration::from_millis(20);

const FOLDER: &str = "view";
const BROKEN: &str = "view.broken-";

const META: &[u8] = b"m";
const COMPLETE: &[u8] = b"c";
const STATE_TOPIC: &[u8] = b"y";
const POSITION: u8 = b'p';
const REMEMBERED: u8 = b'r';
const QUIET: u8 = b'q';
const TOPIC: u8 = b'i';
const OVERTAKEN: u8 = b'o';
const STATE: u8 = b's';
const DELETED: u8 = b'd';
const DELETED_AT: u8 = b't';
const SUSPENDED: u8 = b'h';
const RENEWAL_OF: u8 = b'n';
const RENEWAL_AT: u8 = b'N';

/// So many deleted keys are forgotten in one step at most.
const MAX_FORGOTTEN_AT_ONCE: usize = 1_000;

/// The view cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder cannot be created, read or written.
    #[error(
        "the data folder {folder} cannot be used ({error}): \
         make it a folder that this user may write, or set data_dir to another one"
    )]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Another process has it open.
    #[error(
        "the view in {0} is in use by another process: \
         stop that process, or set data_dir to another folder"
    )]
    Locked(PathBuf),
    /// The store failed while it was open.
    #[error("the view cannot be read or written ({0}): look at the disk that holds data_dir")]
    Failed(#[from] sled::Error),
}

/// Why the view starts empty although there was one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RebuildReason {
    /// It could not be opened.
    Unopenable,
    /// Another version of this program wrote it.
    Format,
    /// It is the view of another Kafka cluster or topic.
    OtherCluster,
    /// It continues from records that the state topic does not have: the topic was made anew.
    TopicReset,
    /// It stood still for so long that the state topic may have forgotten what was deleted.
    Stale,
}

impl RebuildReason {
    /// Every reason.
    pub const ALL: &[Self] =
        &[Self::Unopenable, Self::Format, Self::OtherCluster, Self::TopicReset, Self::Stale];

    /// The name in metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unopenable => "unopenable",
            Self::Format => "format",
            Self::OtherCluster => "other_cluster",
            Self::TopicReset => "topic_reset",
            Self::Stale => "stale",
        }
    }
}

/// Connectors, projects and positions on disk.
#[derive(Debug)]
pub struct Store {
    db: sled::Db,
    partitions: Mutex<HashMap<i32, Known>>,
    connectors: AtomicU64,
    projects: AtomicU64,
    /// How many deleted keys are remembered.
    deleted: AtomicU64,
    suspended: Mutex<suspended::Counts>,
}

#[derive(Serialize, Deserialize, PartialEq, Eq)]
struct Meta {
    format: u32,
    cluster: String,
}

impl Store {
    /// Opens the view in the folder `view` of this data folder, or makes one.
    ///
    /// A view that cannot be opened, is not the one of this program and cluster, or is too old to go
    /// on from is moved aside.
    pub fn open(
        data_dir: &Path,
        cluster_id: &str,
    ) -> Result<(Self, Option<RebuildReason>), StoreError> {
        let folder = data_dir.join(FOLDER);
        check_writable(data_dir)?;
        let (db, mut rebuild) = match open_with_cures(&folder)? {
            Some(db) => (db, None),
            None => (open_empty(data_dir)?, Some(RebuildReason::Unopenable)),
        };
        let meta = Meta { format: FORMAT, cluster: cluster_id.to_owned() };
        match check_meta(&db, &meta)? {
            None => Self::load(db).map(|store| (store, rebuild)),
            Some(reason) => {
                drop(db);
                let db = open_empty(data_dir)?;
                write_meta(&db, &meta)?;
                rebuild = rebuild.or(Some(reason));
                Self::load(db).map(|store| (store, rebuild))
            }
        }
    }

    /// Moves the view of this data folder aside and makes an empty one.
    pub fn open_anew(
        data_dir: &Path,
        cluster_id: &str,
    ) -> Result<(Self, RebuildReason), StoreError> {
        let db = open_empty(data_dir)?;
        write_meta(&db, &Meta { format: FORMAT, cluster: cluster_id.to_owned() })?;
        Self::load(db).map(|store| (store, RebuildReason::TopicReset))
    }

    fn load(db: sled::Db) -> Result<Self, StoreError> {
        let partitions = load_partitions(&db)?;
        let connectors = AtomicU64::new(partitions.values().map(|known| known.connectors).sum());
        let projects = AtomicU64::new(partitions.values().map(|known| known.projects).sum());
        let deleted = AtomicU64::new(db.scan_prefix([DELETED_AT]).count() as u64);
        let suspended = Mutex::new(load_suspended(&db)?);
        Ok(Self {
            db,
            partitions: Mutex::new(partitions),
            connectors,
            projects,
            deleted,
            suspended,
        })
    }

    /// Takes state records and the position behind them in, all or nothing.
    pub fn apply(
        &self,
        partition: i32,
        records: &[StateRecord],
        next_offset: i64,
    ) -> Result<Applied, StoreError> {
        let mut partitions = self.partitions.lock();
        let known = partitions.entry(partition).or_default();
        let folded = known.fold(self, records, next_offset)?;
        let mut batch = sled::Batch::default();
        let now = clock::now();
        let mut deleted = 0;
        let mut suspended = self.suspended.lock().clone();
        for (key, newest) in &folded.changes {
            deleted += self.put(&mut batch, key, newest, now)?;
            self.put_suspended(&mut batch, key, newest, &mut suspended)?;
            self.put_renewal(&mut batch, partition, key, newest)?;
        }
        let room = MAX_DELETED.try_into().unwrap_or(u64::MAX);
        let excess = self.deleted.load(Ordering::Relaxed).saturating_add_signed(deleted);
        deleted -=
            self.forget_deleted(&mut batch, &folded.changes, now, excess.saturating_sub(room))?;
        remember(&mut batch, (REMEMBERED, partition), &known.remembered, &folded.remembered);
        remember(&mut batch, (QUIET, partition), &known.quiet, &folded.quiet);
        for (epoch, topic) in &folded.topics {
            if !known.topics.contains_key(epoch) {
                batch.insert(topic_key(partition, *epoch), topic.as_bytes());
            }
        }
        for epoch in known.topics.keys().filter(|epoch| !folded.topics.contains_key(epoch)) {
            batch.remove(topic_key(partition, *epoch));
        }
        for key in folded.overtaken.difference(&known.overtaken) {
            batch.insert(overtaken_key(partition, key), Vec::new());
        }
        for key in known.overtaken.difference(&folded.overtaken) {
            batch.remove(overtaken_key(partition, key));
        }
        let numbers = [
            folded.position.next_offset,
            folded.position.last_command,
            (known.remembered.numbered + folded.remembered.len() as u64).cast_signed(),
            (known.quiet.numbered + folded.quiet.len() as u64).cast_signed(),
            known.connectors.saturating_add_signed(folded.connectors).cast_signed(),
            known.projects.saturating_add_signed(folded.projects).cast_signed(),
        ];
        batch.insert(position_key(partition), numbers_bytes(numbers));
        self.db.apply_batch(batch)?;

        *self.suspended.lock() = suspended;
        add(&self.connectors, folded.connectors);
        add(&self.projects, folded.projects);
        add(&self.deleted, deleted);
        Ok(known.accept(folded))
    }

    /// Puts the newest record of a key into a batch; returns how many more keys are deleted.
    fn put(
        &self,
        batch: &mut sled::Batch,
        key: &StateKey,
        newest: &Newest,
        now: Timestamp,
    ) -> Result<i64, StoreError> {
        let mut deleted = 0;
        if let Some((_, at, _)) = self.deleted(key)? {
            batch.remove(deleted_key(key));
            batch.remove(deleted_at_key(at, key));
            deleted -= 1;
        }
        let number = newest.command_offset.to_be_bytes();
        if let Some(json) = &newest.json {
            batch.insert(state_key(key), [&number, json.as_slice()].concat());
        } else {
            batch.remove(state_key(key));
            let at = now.millis().to_be_bytes();
            let value = [&number, at.as_slice(), newest.command_id.as_str().as_bytes()].concat();
            batch.insert(deleted_key(key), value);
            batch.insert(deleted_at_key(now, key), Vec::new());
            deleted += 1;
        }
        Ok(deleted)
    }

    /// Keeps count of what is suspended.
    fn put_suspended(
        &self,
        batch: &mut sled::Batch,
        key: &StateKey,
        newest: &Newest,
        counts: &mut suspended::Counts,
    ) -> Result<(), StoreError> {
        let StateKey::Connector(_) = key else { return Ok(()) };
        let place = suspended_key(key);
        let before = self.db.get(&place)?.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let after = newest.json.as_deref().and_then(suspended::class);
        match &after {
            Some(class) => batch.insert(place, serde_json::to_vec(class).unwrap_or_default()),
            None if before.is_some() => batch.remove(place),
            None => {}
        }
        suspended::change(counts, before, after);
        Ok(())
    }

    /// Keeps in order which access tokens are to be renewed when.
    fn put_renewal(
        &self,
        batch: &mut sled::Batch,
        partition: i32,
        key: &StateKey,
        newest: &Newest,
    ) -> Result<(), StoreError> {
        let StateKey::Connector(_) = key else { return Ok(()) };
        let place = renewal_key(RENEWAL_OF, partition, &[], key);
        let before = self.db.get(&place)?;
        let after = newest.json.as_deref().and_then(renewals::due);
        let after = after.map(|at| at.millis().to_be_bytes());
        if before.as_deref() == after.as_ref().map(<[u8; 8]>::as_slice) {
            return Ok(());
        }
        if let Some(before) = before {
            batch.remove(renewal_key(RENEWAL_AT, partition, &before, key));
            batch.remove(place.clone());
        }
        if let Some(after) = after {
            batch.insert(renewal_key(RENEWAL_AT, partition, &after, key), Vec::new());
            batch.insert(place, &after);
        }
        Ok(())
    }

    /// The connectors of a partition whose access tokens are to be renewed by now, the longest due
    /// first, at most so many.
    pub fn renewals(
        &self,
        partition: i32,
        now: Timestamp,
        most: usize,
    ) -> Result<Vec<ConnectorKey>, StoreError> {
        let prefix = [&[RENEWAL_AT], partition.to_be_bytes().as_slice()].concat();
        let mut due = Vec::new();
        for entry in self.db.scan_prefix(&prefix).keys().take(most) {
            let entry = entry?;
            let Some((at, key)) = entry.get(prefix.len()..).and_then(<[u8]>::split_first_chunk)
            else {
                continue;
            };
            if Timestamp::from_millis(i64::from_be_bytes(*at)) > now {
                break;
            }
            let key = [&[STATE], key].concat();
            if let Some(StateKey::Connector(key)) = parse_state_key(&key) {
                due.push(key);
            }
        }
        Ok(due)
    }

    /// Forgets deleted keys of which no older record can come any more, and so many beside them;
    /// returns how many.
    fn forget_deleted(
        &self,
        batch: &mut sled::Batch,
        changes: &BTreeMap<StateKey, Newest>,
        now: Timestamp,
        excess: u64,
    ) -> Result<i64, StoreError> {
        let mut forgotten = 0;
        for entry in self.db.scan_prefix([DELETED_AT]).keys().take(MAX_FORGOTTEN_AT_ONCE) {
            let entry = entry?;
            let Some((at, key)) = parse_deleted_at(&entry) else { continue };
            if !is_forgotten(at, now) && forgotten >= excess {
                break;
            }
            if changes.contains_key(&key) {
                continue;
            }
            if self.deleted(&key)?.is_some_and(|(_, deleted_at, _)| deleted_at == at) {
                batch.remove(deleted_key(&key));
            }
            batch.remove(entry);
            forgotten += 1;
        }
        Ok(forgotten.cast_signed())
    }

    /// The number of the command that deleted a key lately, when that was, and the command.
    fn deleted(&self, key: &StateKey) -> Result<Option<(i64, Timestamp, CommandId)>, StoreError> {
        if self.deleted.load(Ordering::Relaxed) == 0 {
            return Ok(None);
        }
        let Some(bytes) = self.db.get(deleted_key(key))? else { return Ok(None) };
        Ok(read_deleted(&bytes))
    }

    /// The newest records of a partition that an older one stands behind.
    pub fn repairs(&self, partition: i32) -> Result<Vec<StateRecord>, StoreError> {
        match self.partitions.lock().get(&partition) {
            Some(known) => known.repairs(self),
            None => Ok(Vec::new()),
        }
    }

    /// Moves a position past what is no state record.
    pub fn set_position(&self, partition: i32, next_offset: i64) -> Result<(), StoreError> {
        let mut partitions = self.partitions.lock();
        let known = partitions.entry(partition).or_default();
        let numbers = [
            next_offset,
            known.position.last_command,
            known.remembered.numbered.cast_signed(),
            known.quiet.numbered.cast_signed(),
            known.connectors.cast_signed(),
            known.projects.cast_signed(),
        ];
        self.db.insert(position_key(partition), numbers_bytes(numbers))?;
        known.position.next_offset = next_offset;
        Ok(())
    }

    /// When the view last had everything; the beginning of time when the disk lost that.
    pub fn complete_at(&self) -> Result<Timestamp, StoreError> {
        read_complete_at(&self.db)
    }

    /// The view had everything at this moment.
    pub fn set_complete_at(&self, at: Timestamp) -> Result<(), StoreError> {
        self.db.insert(COMPLETE, &at.millis().to_be_bytes())?;
        Ok(())
    }

    /// The id of the state topic that the positions belong to, if it is known.
    pub fn state_topic(&self) -> Result<Option<TopicId>, StoreError> {
        let stored = self.db.get(STATE_TOPIC)?;
        Ok(stored.and_then(|text| TopicId::parse(std::str::from_utf8(&text).ok()?)))
    }

    /// The positions belong to the state topic of this id.
    pub fn set_state_topic(&self, topic: TopicId) -> Result<(), StoreError> {
        self.db.insert(STATE_TOPIC, topic.to_string().as_bytes())?;
        Ok(())
    }

    /// How far a partition was taken in.
    #[must_use]
    pub fn position(&self, partition: i32) -> Position {
        self.partitions.lock().get(&partition).map(|known| known.position).unwrap_or_default()
    }

    /// How far the commands of a partition were decided.
    #[must_use]
    pub fn progress(&self, partition: i32) -> Progress {
        self.partitions.lock().get(&partition).map(Known::progress).unwrap_or_default()
    }

    /// The number of the command of this id that changed this key, if it is among the last
    /// [`MAX_REMEMBERED_COMMANDS`] of its partition that changed something.
    #[must_use]
    pub fn accepted(&self, partition: i32, id: &CommandId, key: &StateKey) -> Option<i64> {
        self.partitions.lock().get(&partition)?.accepted(id, key)
    }

    /// All that is known about a project.
    pub fn project(&self, project: &ProjectId) -> Result<ProjectState, StoreError> {
        let mut state = ProjectState::default();
        for entry in self.db.scan_prefix(project_prefix(project)) {
            let (key, value) = entry?;
            if let Some(change) = read_state(&key, &value) {
                state.apply(&change);
            }
        }
        Ok(state)
    }

    /// A connector.
    pub fn connector(&self, key: &ConnectorKey) -> Result<Option<Connector>, StoreError> {
        let key = state_key(&StateKey::Connector(key.clone()));
        Ok(self.db.get(&key)?.and_then(|value| match read_state(&key, &value) {
            Some(Change::ConnectorSet(connector)) => Some(connector),
            _ => None,
        }))
    }

    /// All connectors, ordered by project, for tools.
    pub fn connectors(&self) -> impl Iterator<Item = Result<Connector, StoreError>> + use<> {
        self.connectors_with("")
    }

    /// Those of them whose JSON has this text somewhere: the others are not parsed.
    pub fn connectors_with(
        &self,
        text: &'static str,
    ) -> impl Iterator<Item = Result<Connector, StoreError>> + use<> {
        let finder = memchr::memmem::Finder::new(text);
        self.db.scan_prefix([STATE]).filter_map(move |entry| match entry {
            Ok((key, value)) => {
                finder.find(&value)?;
                match read_state(&key, &value) {
                    Some(Change::ConnectorSet(connector)) => Some(Ok(connector)),
                    _ => None,
                }
            }
            Err(error) => Some(Err(error.into())),
        })
    }

    /// How many connectors and projects there are.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.connectors.load(Ordering::Relaxed), self.projects.load(Ordering::Relaxed))
    }

    /// How many connectors are suspended, by type and code of the reason.
    #[must_use]
    pub fn suspended(&self) -> suspended::Counts {
        self.suspended.lock().clone()
    }

    /// Makes everything durable now. It happens by itself twice a second, and at the end.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.db.flush()?;
        Ok(())
    }

    /// What it takes on disk.
    pub fn disk_bytes(&self) -> Result<u64, StoreError> {
        Ok(self.db.size_on_disk()?)
    }
}

impl Shelf for Store {
    type Error = StoreError;

    fn stored(&self, key: &StateKey) -> Result<Option<Stored>, StoreError> {
        let stored = self.db.get(state_key(key))?;
        if let Some((number, json)) = stored.as_deref().and_then(split_offset) {
            return Ok(Some(Stored { number, content: Content::There(json.to_vec()) }));
        }
        let deleted = self.deleted(key)?;
        Ok(deleted.map(|(number, _, id)| Stored { number, content: Content::Deleted(id) }))
    }
}

fn add(count: &AtomicU64, difference: i64) {
    // Wrapping addition of a negative number's two's complement subtracts.
    count.fetch_add(difference.cast_unsigned(), Ordering::Relaxed);
}

fn position_key(partition: i32) -> Vec<u8> {
    [&[POSITION], partition.to_be_bytes().as_slice()].concat()
}

/// Next offset, last command's number, commands remembered so far of both kinds, connectors,
/// projects.
fn numbers_bytes(numbers: [i64; 6]) -> Vec<u8> {
    numbers.map(i64::to_be_bytes).concat()
}

/// Of a long run only the last commands are still remembered after it.
fn remember(
    batch: &mut sled::Batch,
    (kind, partition): (u8, i32),
    known: &Remembrance,
    more: &[Remembered],
) {
    let passed = more.len().saturating_sub(MAX_REMEMBERED_COMMANDS);
    for (place, command) in (known.numbered..).zip(more).skip(passed) {
        batch.insert(remembered_key(kind, partition, place), command_bytes(command, place));
    }
}

fn remembered_key(kind: u8, partition: i32, place: u64) -> Vec<u8> {
    let slot = place % MAX_REMEMBERED_COMMANDS as u64;
    [&[kind], partition.to_be_bytes().as_slice(), &slot.to_be_bytes()].concat()
}

fn topic_key(partition: i32, epoch: i64) -> Vec<u8> {
    [&[TOPIC], partition.to_be_bytes().as_slice(), &epoch.to_be_bytes()].concat()
}

fn deleted_key(key: &StateKey) -> Vec<u8> {
    let mut bytes = state_key(key);
    bytes[0] = DELETED;
    bytes
}

fn suspended_key(key: &StateKey) -> Vec<u8> {
    let mut bytes = state_key(key);
    bytes[0] = SUSPENDED;
    bytes
}

fn renewal_key(prefix: u8, partition: i32, at: &[u8], key: &StateKey) -> Vec<u8> {
    [&[prefix], partition.to_be_bytes().as_slice(), at, &state_key(key)[1..]].concat()
}

fn load_suspended(db: &sled::Db) -> Result<suspended::Counts, StoreError> {
    let mut counts = suspended::Counts::default();
    for entry in db.scan_prefix([SUSPENDED]).values() {
        suspended::change(&mut counts, None, serde_json::from_slice(&entry?).ok());
    }
    Ok(counts)
}

fn deleted_at_key(at: Timestamp, key: &StateKey) -> Vec<u8> {
    [&[DELETED_AT], at.millis().to_be_bytes().as_slice(), &state_key(key)[1..]].concat()
}

fn parse_deleted_at(bytes: &[u8]) -> Option<(Timestamp, StateKey)> {
    let (at, _) = bytes.get(1..)?.split_first_chunk()?;
    let key = parse_state_key(bytes.get(8..)?)?;
    Some((Timestamp::from_millis(i64::from_be_bytes(*at)), key))
}

fn read_deleted(bytes: &[u8]) -> Option<(i64, Timestamp, CommandId)> {
    let (number, rest) = split_offset(bytes)?;
    let (at, id) = split_offset(rest)?;
    let id = CommandId::parse(std::str::from_utf8(id).ok()?).ok()?;
    Some((number, Timestamp::from_millis(at), id))
}

fn overtaken_key(partition: i32, key: &StateKey) -> Vec<u8> {
    [&[OVERTAKEN], partition.to_be_bytes().as_slice(), key.to_string().as_bytes()].concat()
}

fn command_bytes(command: &Remembered, number: u64) -> Vec<u8> {
    let texts = format!("{}\0{}", command.command_id, command.key);
    [&number.to_be_bytes(), &command.command_offset.to_be_bytes(), texts.as_bytes()].concat()
}

fn read_command(bytes: &[u8]) -> Option<(u64, Remembered)> {
    let (number, rest) = bytes.split_first_chunk()?;
    let (command_offset, texts) = split_offset(rest)?;
    let (command_id, key) = std::str::from_utf8(texts).ok()?.split_once('\0')?;
    let command_id = CommandId::parse(command_id).ok()?;
    let key = StateKey::parse(key).ok()?;
    Some((u64::from_be_bytes(*number), Remembered { command_offset, command_id, key }))
}

fn split_offset(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let (offset, rest) = bytes.split_first_chunk()?;
    Some((i64::from_be_bytes(*offset), rest))
}

fn project_prefix(project: &ProjectId) -> Vec<u8> {
    [&[STATE], project.as_str().as_bytes(), &[0]].concat()
}

fn state_key(key: &StateKey) -> Vec<u8> {
    let mut bytes = project_prefix(key.project());
    if let StateKey::Connector(key) = key {
        bytes.extend_from_slice(key.connector.as_str().as_bytes());
    }
    bytes
}

fn parse_state_key(bytes: &[u8]) -> Option<StateKey> {
    let (project, connector) = std::str::from_utf8(bytes.get(1..)?).ok()?.split_once('\0')?;
    let project = ProjectId::parse(project).ok()?;
    if connector.is_empty() {
        return Some(StateKey::Project(project));
    }
    let connector = ConnectorId::parse(connector).ok()?;
    Some(StateKey::Connector(ConnectorKey { project, connector }))
}

/// Only readable records are stored, so `None` needs a damaged disk.
fn read_state(key: &[u8], value: &[u8]) -> Option<Change> {
    let (_, json) = split_offset(value)?;
    parse_state_key(key)?.read(Some(json)).ok()
}

fn load_partitions(db: &sled::Db) -> Result<HashMap<i32, Known>, StoreError> {
    let mut partitions: HashMap<i32, Known> = HashMap::new();
    for entry in db.scan_prefix([POSITION]) {
        let (key, value) = entry?;
        let Some((partition, [])) = split_partition(&key) else { continue };
        let numbers: Vec<i64> = value
            .chunks_exact(8)
            .filter_map(|bytes| bytes.try_into().ok().map(i64::from_be_bytes))
            .collect();
        if let [next_offset, last_command, remembered, quiet, connectors, projects] = numbers[..] {
            let known = partitions.entry(partition).or_default();
            known.position = Position { next_offset, last_command };
            known.remembered.numbered = remembered.cast_unsigned();
            known.quiet.numbered = quiet.cast_unsigned();
            known.connectors = connectors.cast_unsigned();
            known.projects = projects.cast_unsigned();
        }
    }
    for kind in [REMEMBERED, QUIET] {
        let mut commands = Vec::new();
        for entry in db.scan_prefix([kind]) {
            let (key, value) = entry?;
            if let (Some((partition, _)), Some((place, command))) =
                (split_partition(&key), read_command(&value))
            {
                commands.push((partition, place, command));
            }
        }
        commands.sort_unstable_by_key(|(partition, place, _)| (*partition, *place));
        for (partition, _, command) in commands {
            let known = partitions.entry(partition).or_default();
            let of_kind = if kind == QUIET { &mut known.quiet } else { &mut known.remembered };
            of_kind.commands.push_back(command);
        }
    }
    for entry in db.scan_prefix([TOPIC]) {
        let (key, value) = entry?;
        if let Some((partition, epoch)) = split_partition(&key)
            && let Ok(epoch) = epoch.try_into().map(i64::from_be_bytes)
            && let Ok(topic) = std::str::from_utf8(&value)
        {
            partitions.entry(partition).or_default().topics.insert(epoch, topic.to_owned());
        }
    }
    for key in db.scan_prefix([OVERTAKEN]).keys() {
        let key = key?;
        let Some((partition, text)) = split_partition(&key) else { continue };
        if let Some(key) = std::str::from_utf8(text).ok().and_then(|k| StateKey::parse(k).ok()) {
            partitions.entry(partition).or_default().overtaken.insert(key);
        }
    }
    Ok(partitions)
}

fn split_partition(key: &[u8]) -> Option<(i32, &[u8])> {
    let (partition, rest) = key.get(1..)?.split_first_chunk()?;
    Some((i32::from_be_bytes(*partition), rest))
}

/// Why the view in the database is not the one that is wanted; an empty one becomes it.
fn check_meta(db: &sled::Db, wanted: &Meta) -> Result<Option<RebuildReason>, StoreError> {
    let Some(found) = db.get(META)? else {
        if db.is_empty() {
            write_meta(db, wanted)?;
            return Ok(None);
        }
        return Ok(Some(RebuildReason::Format));
    };
    Ok(match serde_json::from_slice::<Meta>(&found) {
        Ok(found) if found == *wanted => {
            is_stale(read_complete_at(db)?, clock::now()).then_some(RebuildReason::Stale)
        }
        Ok(found) if found.format == wanted.format => Some(RebuildReason::OtherCluster),
        _ => Some(RebuildReason::Format),
    })
}

fn write_meta(db: &sled::Db, meta: &Meta) -> Result<(), StoreError> {
    let mut batch = sled::Batch::default();
    batch.insert(META, serde_json::to_vec(meta).unwrap_or_default());
    // Nothing is missed by who begins at the beginning.
    batch.insert(COMPLETE, &clock::now().millis().to_be_bytes());
    db.apply_batch(batch)?;
    db.flush()?;
    Ok(())
}

fn read_complete_at(db: &sled::Db) -> Result<Timestamp, StoreError> {
    let stored = db.get(COMPLETE)?;
    let millis = stored.and_then(|bytes| bytes.as_ref().try_into().ok().map(i64::from_be_bytes));
    Ok(Timestamp::from_millis(millis.unwrap_or(i64::MIN)))
}

fn folder_error(folder: &Path) -> impl Fn(io::Error) -> StoreError + use<'_> {
    |error| StoreError::Folder { folder: folder.to_owned(), error }
}

/// Sled's own words for a folder that it cannot write say little.
fn check_writable(data_dir: &Path) -> Result<(), StoreError> {
    fs::create_dir_all(data_dir).map_err(folder_error(data_dir))?;
    let probe = data_dir.join(format!(".write-test-{}", std::process::id()));
    fs::write(&probe, b"").map_err(folder_error(data_dir))?;
    fs::remove_file(&probe).map_err(folder_error(data_dir))
}

/// Opens the database, removing snapshot files that it does not bear: a kill at the wrong moment
/// leaves some, and all they hold is in its log too. `None` when that does not help.
fn open_with_cures(folder: &Path) -> Result<Option<sled::Db>, StoreError> {
    type Cure = fn(&str) -> bool;
    let cures: [Cure; 2] = [
        |name| name.starts_with("snap.") && name.ends_with(".generating"),
        |name| name.starts_with("snap."),
    ];
    if let Some(db) = open_sled(folder)? {
        return Ok(Some(db));
    }
    for is_removed in cures {
        remove_files(folder, is_removed).map_err(folder_error(folder))?;
        if let Some(db) = open_sled(folder)? {
            return Ok(Some(db));
        }
    }
    Ok(None)
}

/// Opens the database; `None` when it is damaged. A lock is waited for a little: sled lets go of it
/// some time after its database was closed, or could not be opened.
fn open_sled(folder: &Path) -> Result<Option<sled::Db>, StoreError> {
    let began = Instant::now();
    loop {
        match try_open_sled(folder) {
            Err(StoreError::Locked(_)) if began.elapsed() < LOCK_PATIENCE => {
                thread::sleep(LOCK_PAUSE);
            }
            result => return result,
        }
    }
}

fn try_open_sled(folder: &Path) -> Result<Option<sled::Db>, StoreError> {
    let config = sled::Config::new().path(folder).cache_capacity(CACHE_BYTES);
    // Some damage makes sled panic where it should refuse.
    match catch_unwind(AssertUnwindSafe(|| config.open())) {
        Ok(Ok(db)) => Ok(Some(db)),
        Ok(Err(sled::Error::Io(error))) if is_locked(&error) => {
            Err(StoreError::Locked(folder.to_owned()))
        }
        Ok(Err(sled::Error::Io(error))) if is_of_the_system(&error) => {
            Err(folder_error(folder)(error))
        }
        Ok(Err(_)) | Err(_) => Ok(None),
    }
}

/// Sled has no kind of error for it, only these words.
fn is_locked(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
        || error.to_string().contains("could not acquire lock")
}

/// Moving the view aside would not help against these.
fn is_of_the_system(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(
        error.kind(),
        K::PermissionDenied
            | K::StorageFull
            | K::QuotaExceeded
            | K::ReadOnlyFilesystem
            | K::OutOfMemory
    )
}

fn remove_files(folder: &Path, is_removed: fn(&str) -> bool) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(is_removed) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Moves the view aside and makes an empty one.
fn open_empty(data_dir: &Path) -> Result<sled::Db, StoreError> {
    let folder = data_dir.join(FOLDER);
    move_aside(data_dir).map_err(folder_error(data_dir))?;
    open_sled(&folder)?.ok_or_else(|| {
        let error = io::Error::other("an empty view cannot be opened in it");
        folder_error(&folder)(error)
    })
}

fn move_aside(data_dir: &Path) -> io::Result<()> {
    let mut second = clock::now().millis() / 1000;
    let mut aside = data_dir.join(format!("{BROKEN}{second}"));
    while aside.exists() {
        second += 1;
        aside = data_dir.join(format!("{BROKEN}{second}"));
    }
    fs::rename(data_dir.join(FOLDER), aside)?;
    let mut broken = Vec::new();
    for entry in fs::read_dir(data_dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let second = name.to_str().and_then(|name| name.strip_prefix(BROKEN));
        if let Some(second) = second.and_then(|second| second.parse::<i64>().ok()) {
            broken.push((second, entry.path()));
        }
    }
    broken.sort_unstable();
    let excess = broken.len().saturating_sub(MAX_BROKEN_FOLDERS);
    for (_, path) in broken.drain(..excess) {
        fs::remove_dir_all(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::connector::{MAX_REMEMBERED_TOPICS, number};

    const CONNECTOR: &str = include_str!("../../tests/fixtures/records/state-connector-1.json");
    const PROJECT: &str = include_str!("../../tests/fixtures/records/state-project-1.json");

    fn open(dir: &TempDir) -> (Store, Option<RebuildReason>) {
        Store::open(dir.path(), "cluster-1").unwrap()
    }

    fn record(command_offset: i64, key: &str, value: Option<String>) -> StateRecord {
        StateRecord {
            command_offset,
            commands_topic: None,
            command_id: CommandId::parse(&format!("cmd_{command_offset}")).unwrap(),
            key: StateKey::parse(key).unwrap(),
            value: value.map(String::into_bytes),
        }
    }

    fn set(command_offset: i64, key: &str) -> StateRecord {
        let json = match key.split_once('/') {
            Some((project, connector)) => CONNECTOR
                .replace("proj_1", project)
                .replace("conn_1", connector)
                .replace("\"version\":42", &format!("\"version\":{command_offset}"))
                .replace("cmd_4", &format!("cmd_{command_offset}")),
            None => PROJECT.replace("proj_1", key),
        };
        record(command_offset, key, Some(json))
    }

    fn gone(command_offset: i64, key: &str) -> StateRecord {
        record(command_offset, key, None)
    }

    fn accepted(store: &Store, partition: i32, number: i64, key: &str) -> Option<i64> {
        let id = CommandId::parse(&format!("cmd_{number}")).unwrap();
        store.accepted(partition, &id, &StateKey::parse(key).unwrap())
    }

    fn ids(store: &Store, project: &str) -> Vec<String> {
        let state = store.project(&project.parse().unwrap()).unwrap();
        state.connectors.keys().map(ToString::to_string).collect()
    }

    /// What a view holds, to compare two.
    fn content(store: &Store) -> Vec<(Vec<u8>, Vec<u8>)> {
        let entries = store.db.scan_prefix([STATE]).map(Result::unwrap);
        entries.map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
    }

    fn broken_folders(dir: &TempDir) -> usize {
        let names = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_str().unwrap().starts_with(BROKEN)).count()
    }

    #[test]
    fn state_position_and_remembered_commands_survive() {
        let dir = TempDir::new().unwrap();
        let (store, rebuild) = open(&dir);
        assert_eq!((rebuild, store.position(3)), (None, Position::default()));
        let records = [set(40, "proj_1"), set(42, "proj_1/conn_1"), set(43, "proj_1/conn_2")];
        let applied = store.apply(3, &records, 9).unwrap();
        assert_eq!((applied.applied, applied.projects.len()), (3, 1));
        store.apply(3, &[gone(44, "proj_1/conn_2")], 10).unwrap();
        store.set_position(3, 12).unwrap();
        drop(store);

        let (store, rebuild) = open(&dir);
        assert_eq!(rebuild, None);
        assert_eq!(store.position(3), Position { next_offset: 12, last_command: 44 });
        assert_eq!(store.position(4), Position::default());
        assert_eq!(store.counts(), (1, 1));
        assert_eq!(ids(&store, "proj_1"), ["conn_1"]);
        assert_eq!(accepted(&store, 3, 44, "proj_1/conn_2"), Some(44));
        assert_eq!(accepted(&store, 3, 44, "proj_1/conn_1"), None);
        assert_eq!(accepted(&store, 3, 41, "proj_1/conn_2"), None);
        assert_eq!(accepted(&store, 4, 44, "proj_1/conn_2"), None);
        let connectors: Vec<_> = store.connectors().map(Result::unwrap).collect();
        let StateKey::Connector(key) = StateKey::parse("proj_1/conn_1").unwrap() else { panic!() };
        assert_eq!(store.connector(&key).unwrap().as_ref(), connectors.first());
    }

    #[test]
    fn what_is_suspended_is_counted_through_a_restart() {
        let dir = TempDir::new().unwrap();
        let count = |store: &Store| {
            store.suspended().get(&("slack".to_owned(), "http_404".to_owned())).copied()
        };
        {
            let (store, _) = open(&dir);
            store.apply(0, &[set(1, "p/a"), set(2, "p/b"), set(3, "p/b"), set(4, "p")], 4).unwrap();
            store.apply(1, &[set(1, "q/a")], 1).unwrap();
            assert_eq!(count(&store), Some(3));
            store.apply(0, &[gone(5, "p/a")], 5).unwrap();
            // What is known already changes nothing.
            store.apply(0, &[set(1, "p/a")], 6).unwrap();
            assert_eq!(count(&store), Some(2));
        }
        let (store, rebuild) = open(&dir);
        assert_eq!((rebuild, count(&store)), (None, Some(2)));
        let mut works: serde_json::Value =
            serde_json::from_slice(set(6, "p/b").value.as_ref().unwrap()).unwrap();
        works.as_object_mut().unwrap().shift_remove("suspendedReason");
        store.apply(0, &[record(6, "p/b", Some(works.to_string()))], 7).unwrap();
        assert_eq!(count(&store), Some(1));
    }

    #[test]
    fn one_more_time_changes_nothing() {
        let dir = TempDir::new().unwrap();
        let (store, _) = open(&dir);
        let records = [
            set(40, "proj_1"),
            set(42, "proj_1/conn_1"),
            gone(43, "proj_1/conn_1"),
            set(44, "proj_1/conn_2"),
        ];
        store.apply(0, &records, 4).unwrap();
        let before = content(&store);
        for record in &records {
            let applied = store.apply(0, std::slice::from_ref(record), 4).unwrap();
            assert_eq!((applied.applied, applied.ignored), (0, 1));
        }
        assert_eq!(store.apply(0, &records, 4).unwrap().ignored, 4);
        assert_eq!(content(&store), before);
        assert_eq!(store.counts(), (1, 1));
    }

    #[test]
    fn a_replaced_owners_second_decision_is_ignored_and_repaired() {
        let dir = TempDir::new().unwrap();
        let (store, _) = open(&dir);
        store.apply(0, &[set(5, "p/a"), set(6, "p/b"), set(7, "p/a")], 3).unwrap();
        let applied = store.apply(0, &[set(6, "p/b")], 4).unwrap();
        assert_eq!((applied.ignored, store.repairs(0).unwrap()), (1, Vec::new()));
        // The older decision is what compaction would keep, so the newest record is wanted again …
        let applied = store.apply(0, &[set(5, "p/a")], 5).unwrap();
        assert_eq!(applied.ignored, 1);
        drop(store);
        // … until it was seen, whoever crashes meanwhile.
        let (store, _) = open(&dir);
        let repairs = store.repairs(0).unwrap();
        let [again] = &repairs[..] else { panic!("{repairs:?}") };
        assert_eq!((again.command_offset, again.key.to_string()), (7, "p/a".to_owned()));
        store.apply(0, &repairs, 6).unwrap();
        assert_eq!(store.repairs(0).unwrap(), []);
        store.apply(0, &[gone(8, "p/a")], 7).unwrap();
        store.apply(0, &[set(7, "p/a")], 8).unwrap();
        assert_eq!(store.repairs(0).unwrap(), [gone(8, "p/a")]);
        drop(store);
        let (store, _) = open(&dir);
        store.apply(0, &[gone(8, "p/a")], 9).unwrap();
        assert_eq!(store.repairs(0).unwrap(), []);
        assert_eq!(ids(&store, "p"), ["b"]);
        assert_eq!(store.position(0), Position { next_offset: 9, last_command: 8 });
        drop(store);
        assert_eq!(open(&dir).0.repairs(0).unwrap(), []);
    }

    #[test]
    fn a_repair_is_what_is_true_when_it_is_written() {
        let dir = TempDir::new().unwrap();
        let (store, _) = open(&dir);
        store.apply(0, &[set(5, "p/a"), set(7, "p/a"), set(5, "p/a")], 3).unwrap();
        assert_eq!(store.repairs(0).unwrap()[0].command_offset, 7);
        store.apply(0, &[set(9, "p/a")], 4).unwrap();
        assert_eq!(store.repairs(0).unwrap(), [], "a newer record stands behind the older one");
    }

    fn commands() -> i64 {
        i64::try_from(MAX_REMEMBERED_COMMANDS).unwrap()
    }

    #[test]
    fn a_deleted_key_stays_deleted_whatever_comes_between() {
        let dir = TempDir::new().unwrap();
        let (store, _) = open(&dir);
        store.apply(0, &[set(1, "p/a"), gone(2, "p/a")], 2).unwrap();
        // Far more accepted commands than are remembered.
        let others: Vec<_> = (3..3 + 3 * commands()).map(|n| set(n, "p/b")).collect();
        store.apply(0, &others, 10_000).unwrap();
        drop(store);
        let (store, _) = open(&dir);
        let applied = store.apply(0, &[set(1, "p/a")], 10_001).unwrap();
        assert_eq!((applied.applied, applied.ignored), (0, 1));
        assert_eq!(ids(&store, "p"), ["b"]);
        // Compaction would keep the late one, so the tombstone is written again.
        assert_eq!(store.repairs(0).unwrap(), [gone(2, "p/a")]);
        store.apply(0, &[gone(2, "p/a")], 10_002).unwrap();
        assert_eq!(store.repairs(0).unwrap(), []);
        // Made anew, it is there; and nothing of it is kept beside.
        store.apply(0, &[set(9_000, "p/a")], 10_003).unwrap();
        assert_eq!(ids(&store, "p"), ["a", "b"]);
        assert_eq!(store.deleted.load(Ordering::Relaxed), 0);
        assert_eq!(store.db.scan_prefix([DELETED]).count(), 0);
        assert_eq!(store.db.scan_prefix([DELETED_AT]).count(), 0);
    }

    #[test]
    fn deleted_keys_are_forgotten_when_no_older_record_can_come() {
        let dir = TempDir::new().unwrap();
        let (store, _) = open(&dir);
        store.apply(0, &[set(1, "p/a"), gone(2, "p/a"), gone(3, "p/c")], 3).unwrap();
        assert_eq!(store.deleted.load(Ordering::Relaxed), 2);
        // As if one of them had been deleted long ago.
        let key = StateKey::parse("p/a").unwrap();
        let (number, at, id) = store.deleted(&key).unwrap().unwrap();
        let long_ago = Timestamp::from_millis(at.millis() - 49 * 3_600_000);
        store.db.remove(deleted_at_key(at, &key)).unwrap();
        store.db.insert(deleted_at_key(long_ago, &key), Vec::new()).unwrap();
        let long_ago = long_ago.millis().to_be_bytes();
        let value = [&number.to_be_bytes(), &long_ago[..], id.as_str().as_bytes()].concat();
        store.db.insert(deleted_key(&key), value).unwrap();
        store.apply(0, &[set(4, "p/b")], 4).unwrap();
        assert_eq!(store.deleted(&key).unwrap(), None);
        assert!(store.deleted(&StateKey::parse("p/c").unwrap()).unwrap().is_some());
        drop(store);
        let (store, _) = open(&dir);
        assert_eq!(store.deleted.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_rotation_of_keys_pushes_nothing_out() {
        let dir = TempDir::new().unwrap();
        let (store, _) = open(&dir);
        store.apply(0, &[set(4, "p/a"), set(5, "p/b")], 2).unwrap();
        let rotated: Vec<_> = (6..6 + 2 * commands())
            .map(|n| StateRecord {
                // What is encrypted anew still names the command of its version.
                value: set(5, "p/b").value,
                ..record(n, "p/b", None)
            })
            .collect();
        store.apply(0, &rotated, 9_000).unwrap();
        assert_eq!(accepted(&store, 0, 5, "p/b"), Some(5));
        assert_eq!(accepted(&store, 0, 5 + 2 * commands(), "p/b"), Some(5 + 2 * commands()));
        drop(store);
        let (store, _) = open(&dir);
        assert_eq!(accepted(&store, 0, 5, "p/b"), Some(5));
        assert_eq!(accepted(&store, 0, 6, "p/b"), None);
    }

    #[test]
    fn the_ids_of_commands_topics_are_kept() {
        let dir = TempDir::new().unwrap();
        let (store, _) = open(&dir);
        let of =
            |topic: &str, record| StateRecord { commands_topic: Some(topic.to_owned()), ..record };
        store.apply(0, &[set(1, "p/a"), of("t1", set(2, "p/a"))], 2).unwrap();
        let next = number(7, 0);
        store.apply(0, &[of("t2", set(next, "p/a"))], 3).unwrap();
        drop(store);
        let (store, _) = open(&dir);
        let progress = store.progress(0);
        assert_eq!(progress.last_command, next);
        assert_eq!(progress.topics, [(0, "t1".to_owned()), (7, "t2".to_owned())].into());
        // An owner that does not know that its topic is gone comes too late …
        store.apply(0, &[of("t1", set(2, "p/a"))], 4).unwrap();
        // … and the repair says which topic the newest command was in.
        assert_eq!(store.repairs(0).unwrap()[0].commands_topic.as_deref(), Some("t2"));
        let last = 8 + 2 * i64::try_from(MAX_REMEMBERED_TOPICS).unwrap();
        let records =
            (8..last).map(|epoch| of("t", set(number(epoch, 0), "p/a"))).collect::<Vec<_>>();
        store.apply(0, &records, 5).unwrap();
        assert_eq!(store.progress(0).topics.len(), MAX_REMEMBERED_TOPICS);
        drop(store);
        assert_eq!(open(&dir).0.progress(0).topics.len(), MAX_REMEMBERED_TOPICS);
    }

    #[test]
    fn what_compaction_leaves_gives_the_same_state() {
        let log = [
            set(5, "p/a"),
            set(6, "p/b"),
            gone(7, "p/c"),
            // Once more, by an owner that was replaced.
            set(5, "p/a"),
            set(9, "p/d"),
            set(6, "p/b"),
        ];
        let compacted = &log[2..];
        let (whole_dir, left_dir) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let (whole, left) = (open(&whole_dir).0, open(&left_dir).0);
        whole.apply(0, &log, 6).unwrap();
        for (at, record) in (3..).zip(compacted) {
            left.apply(0, std::slice::from_ref(record), at).unwrap();
        }
        assert_eq!(content(&whole), content(&left));
        assert_eq!(ids(&whole, "p"), ["a", "b", "d"]);
    }

    #[test]
    fn only_so_many_commands_are_remembered() {
        let dir = TempDir::new().unwrap();
        let (store, _) = open(&dir);
        let count = i64::try_from(MAX_REMEMBERED_COMMANDS).unwrap();
        let records: Vec<_> = (0..count + 100).map(|offset| set(offset, "p/a")).collect();
        store.apply(0, &records[..700], 700).unwrap();
        store.apply(0, &records[700..], count + 100).unwrap();
        drop(store);
        let (store, _) = open(&dir);
        assert_eq!(accepted(&store, 0, 99, "p/a"), None);
        assert!(accepted(&store, 0, 100, "p/a").is_some());
        assert!(accepted(&store, 0, count + 99, "p/a").is_some());
        assert_eq!(store.partitions.lock()[&0].remembered.commands.len(), MAX_REMEMBERED_COMMANDS);
    }

    #[test]
    fn what_cannot_be_read_is_passed_over_and_counted() {
        let dir = TempDir::new().unwrap();
        let (store, _) = open(&dir);
        store.apply(0, &[set(1, "p/a")], 1).unwrap();
        let records = [
            record(2, "p/a", Some("{}".to_owned())),
            record(3, "p/b", Some(CONNECTOR.to_owned())), // another key than the value's
            set(4, "p/c"),
        ];
        let applied = store.apply(0, &records, 4).unwrap();
        assert_eq!((applied.applied, applied.unreadable), (1, 2));
        assert_eq!(ids(&store, "p"), ["a", "c"]);
        assert_eq!(store.position(0).last_command, 4);
    }

    #[test]
    fn projects_whose_ids_begin_alike_are_apart() {
        let dir = TempDir::new().unwrap();
        let (store, _) = open(&dir);
        let keys = ["p", "p/a", "p1", "p1/a", "p1/b", "p.1/c", "p-/d", "p:/e"];
        let records: Vec<_> = (1..).zip(keys).map(|(offset, key)| set(offset, key)).collect();
        store.apply(0, &records, 8).unwrap();
        assert_eq!(ids(&store, "p"), ["a"]);
        assert_eq!(ids(&store, "p1"), ["a", "b"]);
        assert_eq!(ids(&store, "p.1"), ["c"]);
        assert!(store.project(&"p".parse().unwrap()).unwrap().project.is_some());
        assert!(store.project(&"p.1".parse().unwrap()).unwrap().project.is_none());
        assert_eq!(store.counts(), (6, 2));
    }

    fn filled(dir: &TempDir) {
        let (store, _) = open(dir);
        store.apply(0, &[set(1, "p"), set(2, "p/a")], 2).unwrap();
    }

    #[test]
    fn snapshot_files_of_a_badly_timed_kill_are_cured() {
        for (name, content) in [
            ("snap.0000000000000000.generating", &b""[..]),
            ("snap.x.generating", b""),
            ("snap.0000000000000001", b"garbage"),
            ("snap.FFFFFFFFFFFFFF00", b""),
        ] {
            let dir = TempDir::new().unwrap();
            filled(&dir);
            fs::write(dir.path().join(FOLDER).join(name), content).unwrap();
            let (store, rebuild) = open(&dir);
            assert_eq!((rebuild, ids(&store, "p").len()), (None, 1), "{name}");
            assert_eq!(store.position(0), Position { next_offset: 2, last_command: 2 });
            assert_eq!(broken_folders(&dir), 0);
        }
    }

    #[test]
    fn a_view_beyond_cure_is_moved_aside_and_two_of_them_are_kept() {
        let dir = TempDir::new().unwrap();
        for _ in 0..4 {
            filled(&dir);
            fs::write(dir.path().join(FOLDER).join("conf"), b"not what sled wrote").unwrap();
            let (store, rebuild) = open(&dir);
            assert_eq!(rebuild, Some(RebuildReason::Unopenable));
            assert_eq!((store.counts(), store.position(0)), ((0, 0), Position::default()));
        }
        assert_eq!(broken_folders(&dir), MAX_BROKEN_FOLDERS);
    }

    #[test]
    fn the_view_of_another_cluster_or_format_is_moved_aside() {
        let dir = TempDir::new().unwrap();
        filled(&dir);
        let (store, rebuild) = Store::open(dir.path(), "cluster-2").unwrap();
        assert_eq!(rebuild, Some(RebuildReason::OtherCluster));
        assert_eq!(store.counts(), (0, 0));
        store.apply(0, &[set(1, "p")], 1).unwrap();
        write_meta(&store.db, &Meta { format: FORMAT + 1, cluster: "cluster-2".to_owned() })
            .unwrap();
        drop(store);
        let (store, rebuild) = Store::open(dir.path(), "cluster-2").unwrap();
        assert_eq!((rebuild, store.counts()), (Some(RebuildReason::Format), (0, 0)));
        drop(store);
        assert_eq!(Store::open(dir.path(), "cluster-2").unwrap().1, None);
    }

    #[test]
    fn a_view_that_stood_still_for_too_long_is_moved_aside() {
        let dir = TempDir::new().unwrap();
        filled(&dir);
        let hours_ago =
            |hours: i64| Timestamp::from_millis(clock::now().millis() - hours * 3_600_000);
        let (store, rebuild) = open(&dir);
        assert_eq!((rebuild, store.counts()), (None, (1, 1)));
        assert!(!is_stale(store.complete_at().unwrap(), clock::now()));
        store.set_complete_at(hours_ago(23)).unwrap();
        drop(store);
        let (store, rebuild) = open(&dir);
        assert_eq!((rebuild, store.counts()), (None, (1, 1)));
        store.set_complete_at(hours_ago(25)).unwrap();
        drop(store);
        let (store, rebuild) = open(&dir);
        assert_eq!((rebuild, store.counts()), (Some(RebuildReason::Stale), (0, 0)));
        store.db.remove(COMPLETE).unwrap();
        drop(store);
        assert_eq!(open(&dir).1, Some(RebuildReason::Stale));
        assert_eq!(open(&dir).1, None);
    }

    #[test]
    fn a_view_in_use_is_never_moved_aside() {
        let dir = TempDir::new().unwrap();
        let (store, _) = open(&dir);
        store.apply(0, &[set(1, "p")], 1).unwrap();
        let error = Store::open(dir.path(), "cluster-1").unwrap_err();
        assert!(matches!(error, StoreError::Locked(_)), "{error}");
        assert_eq!(broken_folders(&dir), 0);
        assert_eq!(store.counts(), (0, 1));
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_a_clear_error() {
        let dir = TempDir::new().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, b"").unwrap();
        let error = Store::open(&file, "cluster-1").unwrap_err();
        assert!(error.to_string().contains("set data_dir to another one"), "{error}");
    }
}
