//! The view: the connectors of all projects as this instance knows them.
//!
//! Every instance folds the whole state topic, so a rebalance moves no state and any instance
//! can answer. The store on disk is derived data; in front of it a bounded cache keeps what the
//! hot path asks for, compiled.

mod as_of;
mod cache;
mod fold;
mod freshness;
mod renewals;
mod store;
mod subscriptions;
mod suspended;

use std::{path::Path, sync::Arc};

use tokio::sync::watch;

pub use as_of::{AsOf, MAX_AGE};
pub use cache::MAX_CACHED_PROJECTS;
pub use fold::{
    Applied, Content, DELETED_FOR, Folded, Known, MAX_DELETED, MAX_REMEMBERED_COMMANDS, Newest,
    Position, Remembered, Remembrance, Shelf, Stored, is_forgotten,
};
pub use freshness::{COMPACTION_LAG, Freshness, MAX_STANDSTILL, TOMBSTONE_RETENTION, is_stale};
pub use store::{RebuildReason, Store, StoreError};
pub use subscriptions::{BaseUrls, Subscriptions, Target};
pub use suspended::Counts as SuspendedCounts;

use crate::{
    clock::Timestamp,
    connector::{Connector, Progress, ProjectState, StateKey, StateRecord},
    id::{CommandId, ConnectorKey, ProjectId},
    secrets::Keyring,
};
use cache::Cache;

/// The connectors of all projects, kept on disk and compiled on demand.
#[derive(Debug)]
pub struct View {
    store: Store,
    cache: Cache,
    keyring: Arc<Keyring>,
    base_urls: BaseUrls,
    /// Counts the changes of positions, to wake those who wait for one.
    moved: watch::Sender<u64>,
    as_of: AsOf,
}

impl View {
    /// A view of this store.
    #[must_use]
    pub fn new(store: Store, keyring: Arc<Keyring>, base_urls: BaseUrls) -> Self {
        let (moved, _) = watch::channel(0);
        Self { store, cache: Cache::default(), keyring, base_urls, moved, as_of: AsOf::default() }
    }

    /// Opens the view that a data folder holds, or an empty one.
    pub fn open(
        data_dir: &Path,
        cluster_id: &str,
        keyring: Arc<Keyring>,
        base_urls: BaseUrls,
    ) -> Result<(Self, Option<RebuildReason>), StoreError> {
        let (store, rebuild) = Store::open(data_dir, cluster_id)?;
        Ok((Self::new(store, keyring, base_urls), rebuild))
    }

    /// Moves the view of a data folder aside, because the topic that feeds it was made anew, and
    /// opens an empty one.
    pub fn open_anew(
        data_dir: &Path,
        cluster_id: &str,
        keyring: Arc<Keyring>,
        base_urls: BaseUrls,
    ) -> Result<(Self, RebuildReason), StoreError> {
        let (store, reason) = Store::open_anew(data_dir, cluster_id)?;
        Ok((Self::new(store, keyring, base_urls), reason))
    }

    /// The store behind the view, for tools.
    #[must_use]
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// As of when it has everything.
    #[must_use]
    pub const fn as_of(&self) -> &AsOf {
        &self.as_of
    }

    /// Whether the operator has an app of its own at the type's vendor.
    pub fn has_app(&self, kind: crate::destination::ConnectorType) -> bool {
        self.base_urls.has_app(kind)
    }

    /// The keys that open the secrets of connectors.
    #[must_use]
    pub fn keyring(&self) -> &Arc<Keyring> {
        &self.keyring
    }

    /// Takes state records in; when it returns, every reader sees them.
    pub fn apply(
        &self,
        partition: i32,
        records: &[StateRecord],
        next_offset: i64,
    ) -> Result<Applied, StoreError> {
        let applied = self.store.apply(partition, records, next_offset)?;
        for project in &applied.projects {
            self.cache.forget(project);
        }
        self.moved.send_modify(|count| *count = count.wrapping_add(1));
        Ok(applied)
    }

    /// Moves a position past what is no state record.
    pub fn set_position(&self, partition: i32, next_offset: i64) -> Result<(), StoreError> {
        self.store.set_position(partition, next_offset)?;
        self.moved.send_modify(|count| *count = count.wrapping_add(1));
        Ok(())
    }

    /// When the view last had everything.
    pub fn complete_at(&self) -> Result<Timestamp, StoreError> {
        self.store.complete_at()
    }

    /// The view had everything at this moment.
    pub fn set_complete_at(&self, at: Timestamp) -> Result<(), StoreError> {
        self.store.set_complete_at(at)
    }

    /// How far a partition was taken in.
    #[must_use]
    pub fn position(&self, partition: i32) -> Position {
        self.store.position(partition)
    }

    /// How far the commands of a partition were decided.
    #[must_use]
    pub fn progress(&self, partition: i32) -> Progress {
        self.store.progress(partition)
    }

    /// The number of the command of this id that changed this key, when it was accepted not long ago.
    #[must_use]
    pub fn accepted(&self, partition: i32, id: &CommandId, key: &StateKey) -> Option<i64> {
        self.store.accepted(partition, id, key)
    }

    /// The newest records of a state partition that an older one stands behind: until they are
    /// written again, compaction would keep the older ones.
    pub fn repairs(&self, partition: i32) -> Result<Vec<StateRecord>, StoreError> {
        self.store.repairs(partition)
    }

    /// How many connectors and projects there are.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        self.store.counts()
    }

    /// How many connectors are suspended, by type and code of the reason.
    #[must_use]
    pub fn suspended(&self) -> SuspendedCounts {
        self.store.suspended()
    }

    /// The connectors of a partition whose access tokens are to be renewed by now, at most so many.
    pub fn renewals(
        &self,
        partition: i32,
        now: Timestamp,
        most: usize,
    ) -> Result<Vec<ConnectorKey>, StoreError> {
        self.store.renewals(partition, now, most)
    }

    /// All that is known about a project.
    pub fn project(&self, project: &ProjectId) -> Result<ProjectState, StoreError> {
        self.store.project(project)
    }

    /// A connector.
    pub fn connector(&self, key: &ConnectorKey) -> Result<Option<Connector>, StoreError> {
        self.store.connector(key)
    }

    /// Who of a project wants what.
    pub fn subscriptions(&self, project: &ProjectId) -> Result<Arc<Subscriptions>, StoreError> {
        self.cache.get_or_fill(project, || {
            let state = self.store.project(project)?;
            Ok(Subscriptions::compile(&state, &self.keyring, &self.base_urls))
        })
    }

    /// Waits until the state record of the command of this number, or of a later one, was taken in.
    pub async fn wait_for_command(&self, partition: i32, number: i64) {
        self.wait_until(partition, |position| position.last_command >= number).await;
    }

    /// Waits until everything before this offset of a state partition was taken in.
    pub async fn wait_for_offset(&self, partition: i32, next_offset: i64) {
        self.wait_until(partition, |position| position.next_offset >= next_offset).await;
    }

    async fn wait_until(&self, partition: i32, is_there: impl Fn(Position) -> bool) {
        let mut moved = self.moved.subscribe();
        while !is_there(self.store.position(partition)) {
            // The sender is part of this view, so it cannot have gone.
            if moved.changed().await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicI64, Ordering},
        thread,
        time::Duration,
    };

    use tempfile::TempDir;

    use super::*;

    const CONNECTOR: &str = include_str!("../../tests/fixtures/records/state-connector-1.json");

    fn view(dir: &TempDir) -> Arc<View> {
        let key = "k1:BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=".to_owned();
        let keyring = Arc::new(Keyring::parse(&[key]).unwrap());
        let (view, _) = View::open(dir.path(), "cluster", keyring, BaseUrls::default()).unwrap();
        Arc::new(view)
    }

    fn version(offset: i64) -> StateRecord {
        let json = CONNECTOR.replace("\"version\":42", &format!("\"version\":{offset}"));
        StateRecord {
            command_offset: offset,
            commands_topic: None,
            command_id: CommandId::parse("cmd_1").unwrap(),
            key: StateKey::parse("proj_1/conn_1").unwrap(),
            value: Some(json.into_bytes()),
        }
    }

    #[test]
    fn after_a_change_nobody_sees_what_was_before() {
        const VERSIONS: i64 = 400;
        let dir = TempDir::new().unwrap();
        let view = view(&dir);
        let project: ProjectId = "proj_1".parse().unwrap();
        let connector = "conn_1".parse().unwrap();
        view.apply(0, &[version(0)], 1).unwrap();
        let applied = AtomicI64::new(0);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    loop {
                        let at_least = applied.load(Ordering::Acquire);
                        let subscriptions = view.subscriptions(&project).unwrap();
                        let seen = subscriptions.target(&connector).unwrap().version;
                        assert!(seen >= at_least, "saw {seen} after {at_least}");
                        if at_least == VERSIONS {
                            return;
                        }
                    }
                });
            }
            for offset in 1..=VERSIONS {
                view.apply(0, &[version(offset)], offset + 1).unwrap();
                applied.store(offset, Ordering::Release);
            }
        });
    }

    #[test]
    fn only_a_change_makes_the_cache_forget() {
        let dir = TempDir::new().unwrap();
        let view = view(&dir);
        view.apply(0, &[version(0)], 1).unwrap();
        let project: ProjectId = "proj_1".parse().unwrap();
        let before = view.subscriptions(&project).unwrap();
        assert!(Arc::ptr_eq(&before, &view.subscriptions(&project).unwrap()));
        assert_eq!(view.apply(0, &[version(0)], 2).unwrap().ignored, 1);
        assert!(Arc::ptr_eq(&before, &view.subscriptions(&project).unwrap()));
        view.apply(0, &[version(1)], 3).unwrap();
        assert!(!Arc::ptr_eq(&before, &view.subscriptions(&project).unwrap()));
    }

    #[tokio::test]
    async fn who_waits_for_a_change_is_woken_by_it() {
        let dir = TempDir::new().unwrap();
        let view = view(&dir);
        let other = Arc::clone(&view);
        let waiting = tokio::spawn(async move {
            other.wait_for_command(0, 5).await;
            other.wait_for_offset(0, 9).await;
        });
        view.apply(0, &[version(4)], 1).unwrap();
        view.apply(1, &[version(6)], 1).unwrap();
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        view.apply(0, &[version(7)], 2).unwrap();
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        view.set_position(0, 9).unwrap();
        tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap();
    }
}
