//! What deliveries may use: how many may be in memory, and how many bytes. Live deliveries, retries and
//! replays have budgets of their own, so that none keeps the others out.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::delivery::Source;

/// Bytes of events that may be in memory for delivery, in KiB: live ones may take half of it,
/// retries and replays a quarter each.
pub const MAX_EVENT_KIB: u32 = 64 * 1024;
/// Bytes of request bodies that may be in memory, in KiB. Small bodies are not counted: how many
/// there can be is bounded already.
pub const MAX_BODY_KIB: u32 = 64 * 1024;
/// What a small body is.
pub const SMALL_BODY: usize = 16 * 1024;

/// The budgets of one instance.
#[derive(Debug)]
pub struct Budgets {
    each: [Budget; Source::ALL.len()],
    bodies: Semaphore,
}

/// What deliveries of one source may use.
#[derive(Debug)]
struct Budget {
    deliveries: Arc<Semaphore>,
    total: usize,
    kib: Arc<Semaphore>,
    total_kib: u32,
}

impl Budgets {
    /// So many live deliveries at once, half as many retries, a quarter as many replays.
    pub fn new(deliveries: usize) -> Self {
        Self {
            each: [
                Budget::new(deliveries, MAX_EVENT_KIB / 2),
                Budget::new(deliveries / 2, MAX_EVENT_KIB / 4),
                Budget::new(deliveries / 4, MAX_EVENT_KIB / 4),
            ],
            bodies: Semaphore::new(MAX_BODY_KIB as usize),
        }
    }

    /// Waits for a share for one delivery.
    pub async fn delivery(&self, source: Source) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.each[source.index()].deliveries).acquire_owned().await.ok()
    }

    /// Waits for memory for an event of this size. It is held until the event's record is done.
    pub async fn event(&self, source: Source, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let budget = &self.each[source.index()];
        Arc::clone(&budget.kib).acquire_many_owned(kib(bytes, budget.total_kib)).await.ok()
    }

    /// Waits for memory for a request's body of this size, if it is not small.
    pub async fn body(&self, bytes: usize) -> Option<SemaphorePermit<'_>> {
        if bytes <= SMALL_BODY {
            return None;
        }
        self.bodies.acquire_many(kib(bytes, MAX_BODY_KIB)).await.ok()
    }

    /// How many deliveries may be in memory.
    pub fn limit(&self) -> usize {
        self.each.iter().map(|budget| budget.total).sum()
    }

    /// How many deliveries are in memory.
    pub fn in_flight(&self) -> usize {
        self.each.iter().map(|budget| budget.total - budget.deliveries.available_permits()).sum()
    }

    /// Whether less than half of a source's budget is left.
    pub fn is_short(&self, source: Source) -> bool {
        let budget = &self.each[source.index()];
        budget.deliveries.available_permits() * 2 < budget.total
            || budget.kib.available_permits() * 2 < budget.total_kib as usize
    }
}

impl Budget {
    fn new(deliveries: usize, total_kib: u32) -> Self {
        let total = deliveries.max(1);
        let kib = Arc::new(Semaphore::new(total_kib as usize));
        Self { deliveries: Arc::new(Semaphore::new(total)), total, kib, total_kib }
    }
}

/// A size in KiB: at least one, and never more than there can be, so that nothing waits for ever.
fn kib(bytes: usize, most: u32) -> u32 {
    u32::try_from(bytes / 1024 + 1).unwrap_or(most).min(most)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    const MB: usize = 1 << 20;

    #[test]
    fn retries_and_replays_that_take_all_of_theirs_leave_live_its_own() {
        let budgets = Budgets::new(100);
        let mut held = Vec::new();
        for source in [Source::Retry, Source::Replay] {
            while let Some(permit) = budgets.delivery(source).now_or_never() {
                held.push(permit);
            }
            while let Some(permit) = budgets.event(source, MB).now_or_never() {
                held.push(permit);
            }
            assert!(budgets.is_short(source));
        }
        assert_eq!(budgets.in_flight(), 50 + 25);
        assert!(!budgets.is_short(Source::Live));
        let live = (0..100).map_while(|_| budgets.delivery(Source::Live).now_or_never());
        assert_eq!(live.collect::<Vec<_>>().len(), 100);
        let events = (0..100).map_while(|_| budgets.event(Source::Live, MB).now_or_never());
        assert_eq!(events.collect::<Vec<_>>().len(), 31, "of 32 MiB, each a little over one");
    }

    #[test]
    fn what_is_in_memory_is_bounded_in_bytes_and_comes_back() {
        let budgets = Budgets::new(10_000);
        let take = |source| (0..10_000).map_while(move |_| Some((source, 300 * 1024)));
        let mut held = Vec::new();
        for (source, bytes) in Source::ALL.iter().flat_map(|source| take(*source)) {
            if let Some(permit) = budgets.event(source, bytes).now_or_never() {
                held.push(permit);
            }
        }
        let bytes = held.len() * 300 * 1024;
        assert!(bytes <= MAX_EVENT_KIB as usize * 1024 && bytes > 60 * MB, "{bytes}");
        drop(held);
        assert!(Source::ALL.iter().all(|source| !budgets.is_short(*source)));
    }

    #[test]
    fn what_is_larger_than_its_budget_waits_for_all_of_it_and_not_for_ever() {
        let budgets = Budgets::new(1);
        assert!(budgets.event(Source::Replay, usize::MAX).now_or_never().is_some());
        assert!(budgets.body(usize::MAX).now_or_never().is_some());
        // Even one delivery at once leaves one to each source.
        assert!(
            Source::ALL.iter().all(|source| budgets.delivery(*source).now_or_never().is_some())
        );
    }

    #[test]
    fn large_bodies_are_counted_and_small_ones_are_not() {
        let budgets = Budgets::new(1);
        let bodies: Vec<_> = (0..100).map_while(|_| budgets.body(MB).now_or_never()).collect();
        assert_eq!(bodies.iter().flatten().count(), 63);
        assert!(budgets.body(MB).now_or_never().is_none(), "it waits");
        assert_eq!(
            budgets.body(SMALL_BODY).now_or_never().map(|permit| permit.is_none()),
            Some(true)
        );
    }
}
