//! Wakes a thread that waits for something to do.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

/// Rung by any thread, waited for by one.
#[derive(Debug, Default)]
pub struct Wakeup {
    is_rung: AtomicBool,
    waiting: Mutex<()>,
    rings: Condvar,
}

impl Wakeup {
    /// Ends a wait, this one or the next. Ringing again before that costs one atomic operation.
    pub fn ring(&self) {
        if !self.is_rung.swap(true, Ordering::AcqRel) {
            // Under the lock, so that it cannot fall between the look and the wait of the other.
            let _waiting = self.waiting.lock();
            self.rings.notify_one();
        }
    }

    /// Waits until it was rung since the wait before, at most so long; whether it was.
    pub fn wait(&self, timeout: Duration) -> bool {
        let mut waiting = self.waiting.lock();
        if !self.is_rung.load(Ordering::Acquire) {
            self.rings.wait_for(&mut waiting, timeout);
        }
        self.is_rung.swap(false, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn a_ring_before_the_wait_is_not_lost_and_counts_once() {
        let wakeup = Wakeup::default();
        wakeup.ring();
        wakeup.ring();
        assert!(wakeup.wait(LONG));
        assert!(!wakeup.wait(Duration::ZERO));
    }

    #[test]
    fn a_ring_ends_the_wait_of_another_thread() {
        let wakeup = Arc::new(Wakeup::default());
        let waiter = Arc::clone(&wakeup);
        let waiting = thread::spawn(move || waiter.wait(LONG));
        wakeup.ring();
        assert!(waiting.join().unwrap());
    }
}
