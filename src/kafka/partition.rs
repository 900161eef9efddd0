//! One partition during one assignment.
//!
//! A new assignment of the same partition is a new [`Partition`]: completions that arrive for an
//! old one find its own tracker and change nothing for the new one. That is the epoch rule, made
//! by construction.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

use crate::offsets::{Begin, MAX_INCOMPLETE, Tracker};

/// Why a record may not be worked on now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotNow {
    /// Too many offsets are incomplete: wait until one of them is complete.
    Full,
    /// The partition was given up.
    Released,
}

/// A partition that this instance owns, or owned.
#[derive(Debug)]
pub struct Partition {
    topic: Arc<str>,
    number: i32,
    tracker: Mutex<Tracker>,
    room: Notify,
    released: AtomicBool,
    closed: AtomicBool,
    /// Requests and produces under way for this partition.
    active: Mutex<usize>,
    quiet: Condvar,
    /// Records and bytes handed over and not yet taken up by the worker.
    queued_records: AtomicUsize,
    queued_bytes: AtomicUsize,
}

impl Partition {
    /// A partition that was just assigned, with what its last owner had done.
    pub fn new(topic: Arc<str>, number: i32, tracker: Tracker) -> Self {
        Self {
            topic,
            number,
            tracker: Mutex::new(tracker),
            room: Notify::new(),
            released: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            active: Mutex::new(0),
            quiet: Condvar::new(),
            queued_records: AtomicUsize::new(0),
            queued_bytes: AtomicUsize::new(0),
        }
    }

    /// The topic's full name.
    pub fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    /// The partition's number.
    pub fn number(&self) -> i32 {
        self.number
    }

    /// A record was read; waits while too many offsets are incomplete. `None` when the partition
    /// was given up meanwhile.
    pub async fn begin(&self, offset: i64) -> Option<Begin> {
        loop {
            let room = self.room.notified();
            match self.try_begin(offset) {
                Ok(begin) => return Some(begin),
                Err(NotNow::Released) => return None,
                Err(NotNow::Full) => room.await,
            }
        }
    }

    /// A record was read: whether it is to be worked on.
    pub fn try_begin(&self, offset: i64) -> Result<Begin, NotNow> {
        if self.is_released() {
            return Err(NotNow::Released);
        }
        let mut tracker = self.tracker.lock();
        if tracker.is_full() { Err(NotNow::Full) } else { Ok(tracker.begin(offset)) }
    }

    /// The offset is complete.
    pub fn complete(&self, offset: i64) {
        let mut tracker = self.tracker.lock();
        let was_full = tracker.is_full();
        tracker.complete(offset);
        drop(tracker);
        if was_full {
            self.room.notify_waiters();
        }
    }

    /// Whether half of the offsets that may be incomplete are.
    pub fn is_crowded(&self) -> bool {
        self.tracker.lock().incomplete() * 2 > MAX_INCOMPLETE
    }

    /// Whether the partition was given up: nothing more is started for it.
    pub fn is_released(&self) -> bool {
        self.released.load(Ordering::Acquire)
    }

    /// Whether the time is over in which what was begun could be finished.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Marks a request or a produce for this partition as under way; false when the partition was
    /// given up, so that nothing may start for it.
    #[must_use]
    pub fn enter(&self) -> bool {
        self.enter_many(1)
    }

    /// The same for so many, each of which must leave.
    #[must_use]
    pub fn enter_many(&self, count: usize) -> bool {
        let mut active = self.active.lock();
        if self.is_released() {
            return false;
        }
        *active += count;
        true
    }

    /// It ended.
    pub fn leave(&self) {
        let mut active = self.active.lock();
        *active = active.saturating_sub(1);
        if *active == 0 {
            self.quiet.notify_all();
        }
    }

    /// What is done, and what is to be committed.
    pub fn tracker(&self) -> &Mutex<Tracker> {
        &self.tracker
    }

    /// The lowest offset that is not complete; `None` until something was read.
    pub fn watermark(&self) -> Option<i64> {
        self.tracker.lock().watermark()
    }

    /// In flight plus completed since the last acknowledged commit: what a crash would repeat.
    pub fn repeat_bound(&self) -> u64 {
        let tracker = self.tracker.lock();
        tracker.incomplete() as u64 + tracker.uncommitted()
    }

    /// Gives the partition up: nothing more starts for it.
    pub fn release(&self) {
        {
            // Under the lock, so that whoever waits for quiet afterwards misses no start.
            let _active = self.active.lock();
            self.released.store(true, Ordering::Release);
        }
        self.room.notify_waiters();
    }

    /// Nothing more is to be finished: what is under way now repeats.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Waits until nothing is under way, on the polling thread.
    pub(super) fn wait_quiet(&self, deadline: Instant) -> bool {
        let mut active = self.active.lock();
        while *active > 0 {
            if self.quiet.wait_until(&mut active, deadline).timed_out() {
                return *active == 0;
            }
        }
        true
    }

    /// Whether nothing is under way.
    pub fn is_quiet(&self) -> bool {
        *self.active.lock() == 0
    }

    pub(super) fn queue(&self, records: usize, bytes: usize) {
        self.queued_records.fetch_add(records, Ordering::Relaxed);
        self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The worker took up a record of this size.
    pub fn taken(&self, bytes: usize) {
        self.queued_records.fetch_sub(1, Ordering::Relaxed);
        self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(super) fn queued(&self) -> (usize, usize) {
        let records = self.queued_records.load(Ordering::Relaxed);
        (records, self.queued_bytes.load(Ordering::Relaxed))
    }
}

/// How long a partition that is revoked may finish what is under way.
pub(super) fn revoke_grace(session_timeout: Duration) -> Duration {
    Duration::from_secs(2).min(session_timeout / 4)
}
