//! The thread that commits.

use std::{
    io,
    sync::mpsc::{SyncSender, TrySendError, sync_channel},
    thread,
};

/// Commits when it is asked to, so that the polling thread waits for no answer: records would wait
/// with it, for tens of milliseconds several times a second.
pub struct Committer {
    ask: SyncSender<()>,
    thread: thread::JoinHandle<()>,
}

impl Committer {
    /// Starts a thread that calls this each time it is asked to.
    pub fn start(mut commit: impl FnMut() + Send + 'static) -> Result<Self, io::Error> {
        // Without room for a request: who asks while it is busy asks again.
        let (ask, asked) = sync_channel(0);
        let thread = thread::Builder::new().name("kafka commit".to_owned()).spawn(move || {
            while asked.recv().is_ok() {
                commit();
            }
        })?;
        Ok(Self { ask, thread })
    }

    /// Whether it takes the request; an error when it has ended, which only a panic can cause.
    pub fn ask(&self) -> Result<bool, String> {
        match self.ask.try_send(()) {
            Ok(()) => Ok(true),
            Err(TrySendError::Full(())) => Ok(false),
            Err(TrySendError::Disconnected(())) => Err("the committing thread panicked".to_owned()),
        }
    }

    /// Waits for the commit under way.
    pub fn stop(self) {
        drop(self.ask);
        if self.thread.join().is_err() {
            tracing::error!("the committing thread panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::channel,
    };

    use super::*;

    fn ask(committer: &Committer) {
        while !committer.ask().unwrap() {
            thread::yield_now();
        }
    }

    #[test]
    fn it_commits_once_for_each_request_it_takes_and_ends_with_the_one_under_way() {
        let (began, begins) = channel();
        let (let_go, goes) = channel::<()>();
        let ended = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&ended);
        let committer = Committer::start(move || {
            began.send(()).unwrap();
            goes.recv().unwrap();
            count.fetch_add(1, Ordering::SeqCst);
        })
        .unwrap();
        ask(&committer);
        begins.recv().unwrap();
        assert_eq!(committer.ask(), Ok(false), "it is busy");
        let_go.send(()).unwrap();
        ask(&committer);
        begins.recv().unwrap();
        let_go.send(()).unwrap();
        committer.stop();
        assert_eq!(ended.load(Ordering::SeqCst), 2);
        assert!(begins.recv().is_err(), "none that nobody asked for");
    }

    #[test]
    fn a_panic_is_told_to_who_asks_next() {
        let committer = Committer::start(|| panic!("on purpose")).unwrap();
        ask(&committer);
        let error = loop {
            match committer.ask() {
                Ok(_) => thread::yield_now(),
                Err(error) => break error,
            }
        };
        assert!(error.contains("panicked"));
        committer.stop();
    }
}
