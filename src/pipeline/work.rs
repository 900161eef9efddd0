//! A delivery in memory, and the record that it came from.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use tokio::sync::OwnedSemaphorePermit;

use crate::{
    clock::Timestamp,
    delivery::{DeliveryRecord, LastError, Origin, Source},
    destination::Item,
    event::Event,
    id::DeliveryId,
    kafka::Partition,
    view::Target,
};

/// A record whose offset is complete when all its deliveries are done.
#[derive(Debug)]
pub struct RecordWork {
    partition: Arc<Partition>,
    offset: i64,
    left: AtomicU32,
    /// The event's bytes, counted against the memory budget until the record is done.
    _bytes: Option<OwnedSemaphorePermit>,
}

impl RecordWork {
    /// The work of a record with so many deliveries.
    pub fn new(
        partition: Arc<Partition>,
        offset: i64,
        deliveries: u32,
        bytes: Option<OwnedSemaphorePermit>,
    ) -> Arc<Self> {
        Arc::new(Self { partition, offset, left: AtomicU32::new(deliveries), _bytes: bytes })
    }

    /// The partition that the record is from.
    pub fn partition(&self) -> &Arc<Partition> {
        &self.partition
    }

    /// One delivery is delivered, or durably somewhere else.
    pub fn done(&self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.partition.complete(self.offset);
        }
    }
}

/// One event on its way to one connector. Dropping it without [`RecordWork::done`] leaves its
/// offset incomplete, so that the record is read again.
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
    /// Requests made so far.
    pub attempts: u32,
    /// Steps through the retry tiers so far.
    pub steps: u32,
    /// The event's Kafka timestamp.
    pub accepted_at: Timestamp,
    /// When the first request was made.
    pub first_attempt_at: Option<Timestamp>,
    /// When it was put off for the first time.
    pub deferred_since: Option<Timestamp>,
    /// Why it was not delivered yet.
    pub last_error: Option<LastError>,
    /// Where the event came from.
    pub origin: Origin,
    /// The replay that asked for it.
    pub job: Option<String>,
    /// The trace that the event belongs to.
    pub traceparent: Option<Arc<str>>,
    /// The record to complete.
    pub work: Arc<RecordWork>,
    /// Its share of the in-flight budget.
    pub permit: Option<OwnedSemaphorePermit>,
}

impl Delivery {
    /// What the destination sees of it.
    pub fn item<'a>(&'a self, sent_at: Timestamp, setup: &'a str) -> Item<'a> {
        Item {
            event: &self.event,
            delivery_id: self.id,
            attempt: self.attempts + 1,
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
            event: (*self.event).clone(),
            attempts: self.attempts,
            steps: self.steps,
            accepted_at: self.accepted_at,
            first_attempt_at: self.first_attempt_at,
            deferred_since: self.deferred_since,
            due_at,
            last_error: self.last_error.clone(),
            origin: self.origin.clone(),
            job: self.job.clone(),
        }
    }
}
