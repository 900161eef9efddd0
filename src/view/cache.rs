//! The cache of compiled subscriptions: bounded, and never older than the store.
//!
//! Two generations stand for "recently used": what is asked for is in the young one, a full young
//! one becomes the old one, and what nobody asked for since then is dropped with it.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::RwLock;

use super::Subscriptions;
use crate::id::ProjectId;

/// The most projects of which the compiled subscriptions are kept.
pub const MAX_CACHED_PROJECTS: usize = 10_000;

const MAX_YOUNG: usize = MAX_CACHED_PROJECTS / 2;

/// Projects share this many counters of changes. Sharing one costs a fill that is not kept.
const COUNTERS: usize = 256;

type Generation = HashMap<ProjectId, Arc<Subscriptions>>;

#[derive(Debug)]
pub(super) struct Cache {
    generations: RwLock<Generations>,
    /// How often a project of this slot changed: a fill that began before a change is not kept.
    changes: Box<[AtomicU64]>,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Generations {
    young: Generation,
    old: Generation,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            generations: RwLock::default(),
            changes: (0..COUNTERS).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::new(),
        }
    }
}

impl Cache {
    /// What is kept for the project, else what `fill` reads from the store.
    pub(super) fn get_or_fill<E>(
        &self,
        project: &ProjectId,
        fill: impl FnOnce() -> Result<Subscriptions, E>,
    ) -> Result<Arc<Subscriptions>, E> {
        let is_old = {
            let generations = self.generations.read();
            if let Some(found) = generations.young.get(project) {
                return Ok(Arc::clone(found));
            }
            generations.old.contains_key(project)
        };
        if is_old && let Some(found) = self.generations.write().renew(project) {
            return Ok(found);
        }
        let changes = self.changes_of(project);
        let before = changes.load(Ordering::Acquire);
        let filled = Arc::new(fill()?);
        let mut generations = self.generations.write();
        // `forget` counts under the same lock, after the store was changed: an equal count means
        // that a change to come will find and remove what is put here.
        if changes.load(Ordering::Acquire) == before {
            generations.insert(project.clone(), Arc::clone(&filled));
        }
        Ok(filled)
    }

    /// The project changed. To be called after the store was.
    pub(super) fn forget(&self, project: &ProjectId) {
        let mut generations = self.generations.write();
        self.changes_of(project).fetch_add(1, Ordering::Release);
        generations.young.remove(project);
        generations.old.remove(project);
    }

    fn changes_of(&self, project: &ProjectId) -> &AtomicU64 {
        &self.changes[slot(&self.hasher, project)]
    }
}

fn slot(hasher: &RandomState, key: impl Hash) -> usize {
    // The remainder is below COUNTERS, so it fits.
    usize::try_from(hasher.hash_one(key) % COUNTERS as u64).unwrap_or(0)
}

impl Generations {
    fn renew(&mut self, project: &ProjectId) -> Option<Arc<Subscriptions>> {
        if let Some(found) = self.young.get(project) {
            return Some(Arc::clone(found));
        }
        let found = self.old.remove(project)?;
        self.insert(project.clone(), Arc::clone(&found));
        Some(found)
    }

    fn insert(&mut self, project: ProjectId, subscriptions: Arc<Subscriptions>) {
        if self.young.len() >= MAX_YOUNG {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(project, subscriptions);
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn project(number: usize) -> ProjectId {
        ProjectId::parse(&format!("proj_{number}")).unwrap()
    }

    fn fill(cache: &Cache, number: usize) -> bool {
        let mut was_filled = false;
        let _: Result<_, Infallible> = cache.get_or_fill(&project(number), || {
            was_filled = true;
            Ok(Subscriptions::default())
        });
        was_filled
    }

    #[test]
    fn what_is_asked_for_stays_and_the_rest_goes() {
        let cache = Cache::default();
        for number in 0..3 * MAX_CACHED_PROJECTS {
            fill(&cache, number);
            assert!(number == 0 || !fill(&cache, 0), "asked for all the time");
        }
        let generations = cache.generations.read();
        assert!(generations.young.len() + generations.old.len() <= MAX_CACHED_PROJECTS);
        drop(generations);
        assert!(fill(&cache, 1));
    }

    #[test]
    fn a_change_forgets_the_project_in_both_generations() {
        let cache = Cache::default();
        for number in 0..=MAX_YOUNG {
            fill(&cache, number);
        }
        for number in [0, MAX_YOUNG] {
            assert!(!fill(&cache, number));
            cache.forget(&project(number));
            assert!(fill(&cache, number));
        }
    }

    #[test]
    fn a_fill_that_a_change_overtook_is_not_kept() {
        let cache = Cache::default();
        let _: Result<_, Infallible> = cache.get_or_fill(&project(1), || {
            // The store was read; now it changes, before the result is put into the cache.
            cache.forget(&project(1));
            Ok(Subscriptions::default())
        });
        assert!(fill(&cache, 1), "the overtaken fill must be gone");
        assert!(!fill(&cache, 1));
    }

    #[test]
    fn a_failed_fill_leaves_nothing() {
        let cache = Cache::default();
        assert_eq!(cache.get_or_fill(&project(1), || Err("disk")).unwrap_err(), "disk");
        assert!(fill(&cache, 1));
    }
}
