//! As of when the view has everything, for each partition of the state topic.
//!
//! A record may be unmatched or cancelled only by a view that has every change which was accepted
//! before the record was written. Clocks of several machines cannot tell that; the order of things
//! can: what was in the state topic before this program read the record is in its view once the view
//! has reached an end of the topic that was asked for after the record was read. So this keeps, by a
//! clock that is never set, the moment of the last question whose answer the view has reached.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{Notify, watch};

/// How old a view may be from which a request is started: so long may a connector that was deleted
/// still be sent to, and the request that is under way by then.
pub const MAX_AGE: Duration = Duration::from_secs(5);
/// What waits for a newer view is looked at again after this, whether it is still wanted.
const LOOK: Duration = Duration::from_millis(250);

/// As of when each partition is complete.
#[derive(Debug)]
pub struct AsOf {
    /// Set when something asks for the ends of the topic, by the number of partitions; without it
    /// every view counts as complete.
    partitions: OnceLock<Box<[AtomicU64]>>,
    began: Instant,
    moved: watch::Sender<()>,
    wanted: Notify,
}

impl Default for AsOf {
    fn default() -> Self {
        let (moved, _) = watch::channel(());
        Self { partitions: OnceLock::new(), began: Instant::now(), moved, wanted: Notify::new() }
    }
}

impl AsOf {
    /// From now on the ends of so many partitions are asked for.
    pub fn watch(&self, partitions: usize) {
        let _ = self.partitions.set((0..partitions).map(|_| AtomicU64::new(0)).collect());
    }

    /// The view has everything of a partition that was in the topic at this moment.
    pub fn reached(&self, partition: usize, at: Instant) {
        if let Some(reached) = self.partitions.get().and_then(|all| all.get(partition)) {
            reached.fetch_max(self.ticks(at), Ordering::AcqRel);
        }
    }

    /// Several calls of [`Self::reached`] are over: wakes what waits for them.
    pub fn publish(&self) {
        self.moved.send_replace(());
    }

    /// Waits until something needs a newer view.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Whether the view has everything of a partition that was in the topic at this moment.
    #[must_use]
    pub fn is_complete(&self, partition: usize, at: Instant) -> bool {
        let Some(partitions) = self.partitions.get() else { return true };
        partitions.get(partition).is_none_or(|one| one.load(Ordering::Acquire) >= self.ticks(at))
    }

    /// Waits until the view is complete as of this moment; false when it is given up before.
    pub async fn complete(
        &self,
        partition: usize,
        at: Instant,
        is_given_up: impl Fn() -> bool,
    ) -> bool {
        // Nearly always; what follows is shared by all requests.
        if self.is_complete(partition, at) {
            return true;
        }
        let mut moved = self.moved.subscribe();
        loop {
            if self.is_complete(partition, at) {
                return true;
            }
            if is_given_up() {
                return false;
            }
            self.wanted.notify_one();
            // The sender is a part of this, so it cannot have gone.
            let _ = tokio::time::timeout(LOOK, moved.changed()).await;
        }
    }

    /// How long ago the oldest partition was complete; `None` while nothing is asked for.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        let oldest = self.partitions.get()?.iter().map(|one| one.load(Ordering::Acquire)).min()?;
        Some(self.began.elapsed().saturating_sub(Duration::from_micros(oldest)))
    }

    /// Microseconds since this was made; a moment before counts as the beginning.
    fn ticks(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.began);
        // One more, so that zero means "never".
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX).saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_view_is_complete_as_of_the_question_and_not_of_its_answer() {
        let as_of = AsOf::default();
        let before = Instant::now();
        assert!(as_of.is_complete(0, before), "nothing is asked for");
        as_of.watch(2);
        assert!(!as_of.is_complete(0, before));
        let asked = Instant::now();
        let later = asked + Duration::from_millis(1);
        as_of.reached(0, asked);
        assert!(as_of.is_complete(0, before) && as_of.is_complete(0, asked));
        assert!(!as_of.is_complete(0, later) && !as_of.is_complete(1, before));
        // An older answer that comes late takes nothing back.
        as_of.reached(0, before);
        assert!(as_of.is_complete(0, asked));
        assert!(as_of.age().unwrap() < Duration::from_secs(60));
    }

    #[tokio::test]
    async fn what_needs_a_newer_view_asks_for_it_and_waits() {
        let as_of = Arc::new(AsOf::default());
        as_of.watch(1);
        let at = Instant::now();
        let waiting = tokio::spawn({
            let as_of = Arc::clone(&as_of);
            async move { as_of.complete(0, at, || false).await }
        });
        as_of.wanted().await;
        assert!(!waiting.is_finished());
        as_of.reached(0, Instant::now());
        as_of.publish();
        assert!(waiting.await.unwrap());
        let given_up = as_of.complete(0, Instant::now() + Duration::from_secs(60), || true);
        assert!(!given_up.await);
    }
}
