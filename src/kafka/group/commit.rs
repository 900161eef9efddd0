//! The thread that commits.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use super::super::wakeup::Wakeup;

/// Between two commits: what a kill repeats is what completes in this time, and little more. A
/// commit costs some tenths of a millisecond of CPU here and at the broker.
const INTERVAL: Duration = Duration::from_millis(40);
/// How often it looks whether it is to end while nothing completes.
const LOOK: Duration = Duration::from_millis(250);

/// Commits soon after something completed, on a thread of its own: the polling thread waits for no
/// answer.
pub struct CommitLoop {
    wakeup: Arc<Wakeup>,
    is_over: Arc<AtomicBool>,
    thread: thread::JoinHandle<()>,
}

impl CommitLoop {
    /// Starts a thread that calls this after each ring, several times a second at most.
    pub fn start(
        wakeup: Arc<Wakeup>,
        mut commit: impl FnMut() + Send + 'static,
    ) -> Result<Self, io::Error> {
        let is_over = Arc::new(AtomicBool::new(false));
        let (rung, ends) = (Arc::clone(&wakeup), Arc::clone(&is_over));
        let thread = thread::Builder::new().name("kafka commit".to_owned()).spawn(move || {
            while !ends.load(Ordering::Acquire) {
                if rung.wait(LOOK) && !ends.load(Ordering::Acquire) {
                    commit();
                    thread::sleep(INTERVAL);
                }
            }
        })?;
        Ok(Self { wakeup, is_over, thread })
    }

    /// Whether the thread has ended although it was not asked to, which only a panic can cause.
    pub fn has_failed(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for the commit under way; none follows.
    pub fn stop(self) {
        self.is_over.store(true, Ordering::Release);
        self.wakeup.ring();
        if self.thread.join().is_err() {
            tracing::error!("the committing thread panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn it_commits_after_a_ring_and_ends_with_the_commit_under_way() {
        let (began, begins) = channel();
        let (let_go, goes) = channel::<()>();
        let wakeup = Arc::new(Wakeup::default());
        let commits = CommitLoop::start(Arc::clone(&wakeup), move || {
            began.send(()).unwrap();
            goes.recv().unwrap();
        })
        .unwrap();
        assert!(begins.try_recv().is_err(), "nothing has completed");
        wakeup.ring();
        begins.recv().unwrap();
        // What completes during a commit makes another one.
        wakeup.ring();
        let_go.send(()).unwrap();
        begins.recv().unwrap();
        let_go.send(()).unwrap();
        commits.stop();
        assert!(begins.recv().is_err(), "none after the end");
    }

    #[test]
    fn a_panic_shows() {
        let wakeup = Arc::new(Wakeup::default());
        let commits = CommitLoop::start(Arc::clone(&wakeup), || panic!("on purpose")).unwrap();
        assert!(!commits.has_failed());
        wakeup.ring();
        while !commits.has_failed() {
            thread::yield_now();
        }
        commits.stop();
    }
}
