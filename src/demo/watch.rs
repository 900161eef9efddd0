//! Reads a topic from its beginning on a thread of its own, and tells what it finds.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use parking_lot::Mutex;
use rdkafka::Offset;

use crate::kafka::{Connection, Reader, ReaderEvent, Record};

/// Nothing new for so long is the end of a topic. A fetch waits 100 ms at the broker.
const IDLE: Duration = Duration::from_millis(300);

/// A topic that is being read.
pub struct Watch {
    finish: Arc<AtomicBool>,
    failure: Arc<Mutex<Option<String>>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Watch {
    /// Starts reading.
    pub async fn start(
        connection: &Connection,
        topic: String,
        found: impl FnMut(Record) + Send + 'static,
    ) -> anyhow::Result<Self> {
        let (connection, name) = (connection.clone(), topic.clone());
        let reader =
            tokio::task::spawn_blocking(move || Reader::all(&connection, &name, Offset::Beginning));
        let reader = reader.await.context("a reader's task")??;
        let (finish, failure) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(None)));
        let looking =
            Looking { reader, topic, finish: Arc::clone(&finish), failure: Arc::clone(&failure) };
        let thread = thread::Builder::new()
            .name("demo reader".to_owned())
            .spawn(move || looking.run(found))
            .context("cannot start a thread")?;
        Ok(Self { finish, failure, thread: Some(thread) })
    }

    /// Why reading stopped too early, if it did.
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().clone()
    }

    /// Reads what is there by now, then stops.
    pub async fn finished(mut self) -> anyhow::Result<()> {
        self.finish.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let joined = tokio::task::spawn_blocking(move || thread.join());
            joined.await.context("a reader's task")?.map_err(|_| anyhow!("a reader failed"))?;
        }
        self.failure().map_or(Ok(()), |failure| Err(anyhow!(failure)))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.finish.store(true, Ordering::Release);
    }
}

struct Looking {
    reader: Reader,
    topic: String,
    finish: Arc<AtomicBool>,
    failure: Arc<Mutex<Option<String>>>,
}

impl Looking {
    fn run(self, mut found: impl FnMut(Record)) {
        loop {
            match self.reader.poll(IDLE) {
                ReaderEvent::Record(record) => found(record),
                ReaderEvent::Idle if self.finish.load(Ordering::Acquire) => return,
                ReaderEvent::End { .. } | ReaderEvent::Idle => {}
                ReaderEvent::OutOfRange => {
                    let topic = &self.topic;
                    *self.failure.lock() = Some(format!(
                        "the embedded broker forgot records of {topic} before they were read: it \
                         keeps about 5 MB per partition; run the demo with fewer events"
                    ));
                    return;
                }
                ReaderEvent::Trouble(error) => {
                    tracing::warn!(error, topic = self.topic, "reading a topic");
                    thread::sleep(IDLE);
                }
            }
        }
    }
}
