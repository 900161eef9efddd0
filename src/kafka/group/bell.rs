//! Wakes the polling thread when records were fetched for a partition that had none waiting.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Rung by the client library's threads, waited for by the polling thread.
#[derive(Default)]
pub struct Bell {
    is_rung: Mutex<bool>,
    rings: Condvar,
}

impl Bell {
    /// Ends a wait, this one or the next.
    pub fn ring(&self) {
        *self.is_rung.lock() = true;
        self.rings.notify_one();
    }

    /// Waits until it was rung since the wait before, at most so long.
    pub fn wait(&self, timeout: Duration) {
        let mut is_rung = self.is_rung.lock();
        if !*is_rung {
            self.rings.wait_for(&mut is_rung, timeout);
        }
        *is_rung = false;
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn a_ring_before_the_wait_is_not_lost_and_counts_once() {
        let bell = Bell::default();
        bell.ring();
        bell.wait(LONG);
        bell.wait(Duration::ZERO);
    }

    #[test]
    fn a_ring_ends_the_wait_of_another_thread() {
        let bell = Arc::new(Bell::default());
        let waiter = Arc::clone(&bell);
        let waiting = thread::spawn(move || waiter.wait(LONG));
        bell.ring();
        waiting.join().unwrap();
    }
}
