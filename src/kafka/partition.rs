//! One partition during one assignment.
//!
//! A new assignment of the same partition is a new [`Partition`]: completions that arrive for an
//! old one find its own tracker and change nothing for the new one. That is the epoch rule, made
//! by construction.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering},
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::wakeup::Wakeup;
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
    /// Records and bytes handed over and not yet taken up by the worker.
    queued_records: AtomicUsize,
    queued_bytes: AtomicUsize,
    /// One beyond the last record that was handed over.
    read_to: AtomicI64,
    /// How often something was begun or completed.
    steps: AtomicU64,
    /// Whether the worker waits for the moment at which its next record falls due.
    waits_until_due: AtomicBool,
    /// The fetch position of the client library's last statistics, when nothing was under way then.
    idle_at: AtomicI64,
    /// Whether its worker ended although the partition was not given up.
    failed: AtomicBool,
    /// Wakes the commit loop.
    completed: OnceLock<Arc<Wakeup>>,
}

/// Stands for an offset that is not known.
const UNKNOWN: i64 = -1;

impl Partition {
    /// A partition that was just assigned, with what its last owner had done.
    pub fn new(topic: Arc<str>, number: i32, tracker: Tracker) -> Self {
        let read_to = AtomicI64::new(tracker.watermark().unwrap_or(UNKNOWN));
        Self {
            topic,
            number,
            read_to,
            steps: AtomicU64::new(0),
            waits_until_due: AtomicBool::new(false),
            idle_at: AtomicI64::new(UNKNOWN),
            failed: AtomicBool::new(false),
            completed: OnceLock::new(),
            tracker: Mutex::new(tracker),
            room: Notify::new(),
            released: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            active: Mutex::new(0),
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
        if tracker.is_full() {
            return Err(NotNow::Full);
        }
        let begin = tracker.begin(offset);
        drop(tracker);
        self.steps.fetch_add(1, Ordering::Relaxed);
        Ok(begin)
    }

    /// The offset is complete.
    pub fn complete(&self, offset: i64) {
        let mut tracker = self.tracker.lock();
        let was_full = tracker.is_full();
        tracker.complete(offset);
        drop(tracker);
        self.steps.fetch_add(1, Ordering::Relaxed);
        if was_full {
            self.room.notify_waiters();
        }
        if let Some(completed) = self.completed.get() {
            completed.ring();
        }
    }

    /// What is to be woken when something is complete; the first one stays.
    pub(super) fn wakes(&self, completed: Arc<Wakeup>) {
        let _ = self.completed.set(completed);
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

    /// The same for more of what has entered: it is finished even when the partition was given up.
    pub fn enter_begun(&self, count: usize) {
        *self.active.lock() += count;
    }

    /// It ended.
    pub fn leave(&self) {
        let mut active = self.active.lock();
        *active = active.saturating_sub(1);
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

    /// Looks at the client library's statistics: the offset that it fetches next, and whether it
    /// holds records that were not taken. When that was the same twice and nothing was under way,
    /// what lies before it is no record (transaction markers, aborted or compacted records), and
    /// counts as done. Once is not enough: the library moves its position a moment before what it
    /// has fetched can be seen.
    pub(super) fn note_fetch_position(&self, next: Option<i64>, is_holding: bool) {
        let is_idle = !is_holding && self.is_done_with_what_was_read();
        let next = next.filter(|_| is_idle).unwrap_or(UNKNOWN);
        if self.idle_at.swap(next, Ordering::Relaxed) == next && next != UNKNOWN {
            let mut tracker = self.tracker.lock();
            let before = tracker.watermark();
            tracker.skip_to(next);
            let moved = tracker.watermark() != before;
            drop(tracker);
            if moved && let Some(completed) = self.completed.get() {
                completed.ring();
            }
        }
    }

    /// Whether everything that was handed over is complete. What the worker has taken up and not
    /// begun, such as a retry that is not due, is in no queue and in no tracker.
    fn is_done_with_what_was_read(&self) -> bool {
        let read_to = self.read_to.load(Ordering::Relaxed);
        let tracker = self.tracker.lock();
        self.queued().0 == 0
            && tracker.incomplete() == 0
            && (read_to == UNKNOWN || tracker.watermark().is_some_and(|done| done >= read_to))
    }

    /// How often something was begun or completed.
    pub(super) fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    /// Whether records wait here or are under way, and time alone will not move them.
    pub(super) fn has_work(&self) -> bool {
        !self.waits_until_due.load(Ordering::Relaxed)
            && (self.queued().0 > 0 || self.tracker.lock().incomplete() > 0)
    }

    /// The worker has ended although the partition was not given up: nothing reads it any more.
    pub fn fail(&self) {
        self.failed.store(true, Ordering::Release);
    }

    /// Whether the worker has ended although the partition was not given up.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Whether the worker waits until its next record falls due.
    pub fn set_waits_until_due(&self, waits: bool) {
        self.waits_until_due.store(waits, Ordering::Relaxed);
    }

    /// One beyond the last record that was handed over, or where reading begins, if that is known.
    pub(super) fn read_to(&self) -> Option<i64> {
        Some(self.read_to.load(Ordering::Relaxed)).filter(|offset| *offset != UNKNOWN)
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

    /// Whether nothing is under way.
    pub fn is_quiet(&self) -> bool {
        *self.active.lock() == 0
    }

    /// So many records, the last one before `next`, are handed over.
    pub(super) fn queue(&self, records: usize, bytes: usize, next: i64) {
        self.read_to.store(next, Ordering::Relaxed);
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
