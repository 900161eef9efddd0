//! A delivery in memory, and the record that it came from.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    clock::Timestamp,
    delivery::{DeliveryRecord, History, Origin, Source},
    destination::Item,
    event::Event,
    id::DeliveryId,
    kafka::Partition,
    view::Target,
};

/// A record whose offset is complete when all its deliveries are done.
///
/// A record whose first delivery has started is *begun*. It is finished as a whole even when its
/// partition is given up meanwhile: the next owner would repeat what is delivered already.
#[derive(Debug)]
pub struct RecordWork {
    partition: Arc<Partition>,
    offset: i64,
    progress: Mutex<Progress>,
    /// The event's bytes, counted against the memory budget until the record is done.
    _bytes: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
struct Progress {
    /// Deliveries that have not ended.
    left: usize,
    begun: bool,
    /// A delivery was dropped before it was done: the offset stays incomplete.
    dropped: bool,
}

impl RecordWork {
    /// The work of a record with so many deliveries: one share for each.
    pub fn shares(
        partition: Arc<Partition>,
        offset: i64,
        deliveries: usize,
        bytes: Option<OwnedSemaphorePermit>,
    ) -> Vec<Share> {
        let progress = Mutex::new(Progress { left: deliveries, begun: false, dropped: false });
        let work = Arc::new(Self { partition, offset, progress, _bytes: bytes });
        (0..deliveries).map(|_| Share { work: Arc::clone(&work), done: false }).collect()
    }
}

/// One delivery's share of its record's work. Dropping it without [`Share::done`] leaves the offset
/// incomplete, so that the record is read again.
#[derive(Debug)]
pub struct Share {
    work: Arc<RecordWork>,
    done: bool,
}

impl Share {
    /// The partition that the record is from.
    pub fn partition(&self) -> &Arc<Partition> {
        &self.work.partition
    }

    /// Whether the delivery may start; false when the partition was given up before anything of
    /// the record had started. The partition counts as busy until the whole record has ended.
    #[must_use]
    pub fn start(&self) -> bool {
        let mut progress = self.work.progress.lock();
        if progress.begun {
            return !self.work.partition.is_closed();
        }
        progress.begun = self.work.partition.enter_many(progress.left);
        progress.begun
    }

    /// So many more shares of the same record.
    pub fn split(&self, count: usize) -> Vec<Self> {
        let mut progress = self.work.progress.lock();
        progress.left += count;
        if progress.begun {
            self.work.partition.enter_begun(count);
        }
        (0..count).map(|_| Self { work: Arc::clone(&self.work), done: false }).collect()
    }

    /// Whether the delivery belongs to the partition's next owner.
    pub fn is_given_up(&self) -> bool {
        let partition = &self.work.partition;
        partition.is_closed() || (partition.is_released() && !self.work.progress.lock().begun)
    }

    /// It is delivered, or durably somewhere else.
    pub fn done(mut self) {
        self.done = true;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let (complete, begun) = {
            let mut progress = self.work.progress.lock();
            progress.left = progress.left.saturating_sub(1);
            progress.dropped |= !self.done;
            (progress.left == 0 && !progress.dropped, progress.begun)
        };
        // Completed before it counts as ended: whoever waits for quiet commits next.
        if complete {
            self.work.partition.complete(self.work.offset);
        }
        if begun {
            self.work.partition.leave();
        }
    }
}

/// One event on its way to one connector.
#[derive(Debug)]
pub struct Delivery {
    /// The connector, as it was when this delivery was matched.
    pub target: Arc<Target>,
    /// The event.
    pub event: Arc<Event>,
    /// The stable id.
    pub id: DeliveryId,
    /// What made this program deliver.
    pub source: Source,
    /// What it has been through so far.
    pub history: History,
    /// The event's Kafka timestamp.
    pub accepted_at: Timestamp,
    /// Where the event came from.
    pub origin: Origin,
    /// The replay that asked for it.
    pub job: Option<String>,
    /// The trace that the event belongs to.
    pub traceparent: Option<Arc<str>>,
    /// Its share of the record to complete.
    pub work: Share,
    /// Its share of the in-flight budget.
    pub permit: Option<OwnedSemaphorePermit>,
}

impl Delivery {
    /// What the destination sees of it.
    pub fn item<'a>(&'a self, sent_at: Timestamp, setup: &'a str) -> Item<'a> {
        Item {
            event: &self.event,
            delivery_id: self.id,
            attempt: self.history.attempts + 1,
            sent_at,
            setup,
        }
    }

    /// The record in which it waits in Kafka until `due_at`.
    pub fn record(&self, due_at: Timestamp) -> DeliveryRecord {
        DeliveryRecord {
            delivery_id: self.id,
            connector: self.target.key.clone(),
            connector_type: self.target.kind,
            connector_created_at: Some(self.target.created_at),
            event: (*self.event).clone(),
            attempts: self.history.attempts,
            steps: self.history.steps,
            accepted_at: self.accepted_at,
            first_attempt_at: self.history.first_attempt_at,
            deferred_since: self.history.deferred_since,
            not_before: self.history.not_before,
            due_at,
            last_error: self.history.last_error.clone(),
            origin: self.origin.clone(),
            job: self.job.clone(),
        }
    }
}
