//! Asks the brokers what a group's consumer must know beside the records: whether a topic is still
//! the same one, and where a partition begins and ends whose position is not in the log. Answers may
//! take seconds, so this is a thread of its own.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::super::{Partition, TopicFacts, wakeup::Wakeup};
use crate::id::TopicId;

/// How often topics are looked at: so long records of a topic that was created anew may be read
/// from the position in the old one.
const INTERVAL: Duration = Duration::from_secs(1);
/// A question that was not answered is asked again after this.
const BACKOFF: Duration = Duration::from_millis(500);

/// Where a partition begins and ends.
pub type Ends = (i64, i64);

/// The questions.
pub trait Broker: Send + 'static {
    /// The topics of these names; `None` when no answer came.
    fn topics(&self, names: &[&str]) -> Option<BTreeMap<String, TopicFacts>>;
    /// Where a partition begins and ends; `None` when no answer came.
    fn ends(&self, topic: &str, partition: i32) -> Option<Ends>;
}

/// An answer about a partition.
#[derive(Debug)]
pub enum Answer {
    /// The partition's name stands for another topic by now.
    NewTopic(Arc<Partition>, Option<TopicId>),
    /// Where a partition begins and ends whose position is not in the log, and whether its topic is
    /// still the same one, if that is known.
    Ends { partition: Arc<Partition>, ends: Ends, is_same: Option<bool> },
}

/// The thread and what it has found.
pub struct Watcher {
    lost: Sender<Arc<Partition>>,
    answers: Arc<Mutex<Vec<Answer>>>,
    thread: thread::JoinHandle<()>,
}

impl Watcher {
    /// Starts the thread. It looks after the partitions that `owned` lists, rings when it has found
    /// something, and ends when this is dropped.
    pub fn start(
        broker: impl Broker,
        owned: impl Fn() -> Vec<Arc<Partition>> + Send + 'static,
        wakeup: Arc<Wakeup>,
    ) -> Result<Self, io::Error> {
        let (lost, losses) = channel();
        let answers = Arc::new(Mutex::new(Vec::new()));
        let found = Arc::clone(&answers);
        let mut watch = Watch { broker, owned, losses, waiting: Vec::new(), found, wakeup };
        let thread =
            thread::Builder::new().name("kafka watch".to_owned()).spawn(move || watch.run())?;
        Ok(Self { lost, answers, thread })
    }

    /// Asks where a partition goes on whose position is not in the log, until an answer comes.
    pub fn ask(&self, partition: Arc<Partition>) {
        // It ends only by a panic, which `has_failed` shows.
        let _ = self.lost.send(partition);
    }

    /// What was found since the last call.
    pub fn answers(&self) -> Vec<Answer> {
        std::mem::take(&mut self.answers.lock())
    }

    /// Asks nothing more; the thread ends with the request under way.
    pub fn ends(self) -> thread::JoinHandle<()> {
        self.thread
    }

    /// Whether the thread has ended, which only a panic can cause.
    pub fn has_failed(&self) -> bool {
        self.thread.is_finished()
    }
}

struct Watch<B, O> {
    broker: B,
    owned: O,
    losses: Receiver<Arc<Partition>>,
    waiting: Vec<Arc<Partition>>,
    found: Arc<Mutex<Vec<Answer>>>,
    wakeup: Arc<Wakeup>,
}

impl<B: Broker, O: Fn() -> Vec<Arc<Partition>>> Watch<B, O> {
    fn run(&mut self) {
        let mut next_look = Instant::now() + INTERVAL;
        loop {
            let wait = if self.waiting.is_empty() { INTERVAL } else { BACKOFF };
            let wait = wait.min(next_look.saturating_duration_since(Instant::now()));
            match self.losses.recv_timeout(wait) {
                Ok(partition) => self.waiting.push(partition),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if Instant::now() >= next_look {
                self.look();
                next_look = Instant::now() + INTERVAL;
            }
            self.answer_losses();
        }
    }

    fn tell(&self, answer: Answer) {
        self.found.lock().push(answer);
        self.wakeup.ring();
    }

    /// Compares the topics of all partitions with what they were.
    fn look(&self) {
        let owned = (self.owned)();
        let mut names: Vec<&str> = owned.iter().map(|one| one.topic().as_ref()).collect();
        names.sort_unstable();
        names.dedup();
        if names.is_empty() {
            return;
        }
        let Some(topics) = self.broker.topics(&names) else { return };
        for partition in owned {
            let now = topics.get(partition.topic().as_ref()).and_then(|facts| facts.id);
            if is_same(&partition, now) == Some(false) {
                self.tell(Answer::NewTopic(partition, now));
            }
        }
    }

    fn answer_losses(&mut self) {
        let mut unanswered = Vec::new();
        for partition in std::mem::take(&mut self.waiting) {
            // The next owner of a partition that was given up finds out for itself.
            if partition.is_released() {
                continue;
            }
            let topic = partition.topic().as_ref();
            let ends = self.broker.ends(topic, partition.number());
            let facts = self.broker.topics(&[topic]);
            match (ends, facts) {
                (Some(ends), Some(facts)) => {
                    let is_same = is_same(&partition, facts.get(topic).and_then(|facts| facts.id));
                    self.tell(Answer::Ends { partition, ends, is_same });
                }
                _ => unanswered.push(partition),
            }
        }
        self.waiting = unanswered;
    }
}

/// Whether a partition's topic is still the same one. Its id is noted where it was not known yet.
fn is_same(partition: &Partition, now: Option<TopicId>) -> Option<bool> {
    let mut tracker = partition.tracker().lock();
    match (tracker.topic(), now) {
        (Some(then), Some(now)) => Some(then == now),
        (None, Some(_)) => {
            tracker.identify(now);
            None
        }
        (_, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

    use super::*;
    use crate::offsets::Tracker;

    /// A broker whose topic has this id; the first so many questions for ends get no answer.
    struct Played {
        topic: Arc<AtomicU64>,
        silent: AtomicUsize,
    }

    impl Broker for Played {
        fn topics(&self, names: &[&str]) -> Option<BTreeMap<String, TopicFacts>> {
            let id = TopicId::from_halves(1, self.topic.load(Ordering::SeqCst));
            let facts = |name: &&str| ((*name).to_owned(), TopicFacts { id, partitions: 1 });
            Some(names.iter().map(facts).collect())
        }

        fn ends(&self, _: &str, _: i32) -> Option<Ends> {
            let silent = &self.silent;
            silent
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
                .is_err()
                .then_some((3, 9))
        }
    }

    fn partition() -> Arc<Partition> {
        let mut tracker = Tracker::begin_at(5);
        tracker.identify(TopicId::from_halves(1, 1));
        Arc::new(Partition::new("events".into(), 0, tracker))
    }

    fn start(
        topic: &Arc<AtomicU64>,
        silent: usize,
        owned: Vec<Arc<Partition>>,
    ) -> (Watcher, Arc<Wakeup>) {
        let wakeup = Arc::new(Wakeup::default());
        let broker = Played { topic: Arc::clone(topic), silent: AtomicUsize::new(silent) };
        let watcher = Watcher::start(broker, move || owned.clone(), Arc::clone(&wakeup)).unwrap();
        (watcher, wakeup)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_topic_that_was_created_anew_is_noticed_although_offsets_look_right() {
        let topic = Arc::new(AtomicU64::new(1));
        let one = partition();
        let (watcher, wakeup) = start(&topic, 0, vec![Arc::clone(&one)]);
        topic.store(2, Ordering::SeqCst);
        assert!(wakeup.wait(LONG));
        let answers = watcher.answers();
        assert!(
            matches!(&answers[..], [Answer::NewTopic(found, Some(_))] if Arc::ptr_eq(found, &one))
        );
    }

    #[test]
    fn a_question_without_an_answer_is_asked_again() {
        let (watcher, wakeup) = start(&Arc::new(AtomicU64::new(1)), 2, Vec::new());
        watcher.ask(partition());
        assert!(wakeup.wait(LONG));
        let answers = watcher.answers();
        assert!(
            matches!(&answers[..], [Answer::Ends { ends: (3, 9), is_same: Some(true), .. }]),
            "{answers:?}"
        );
        // One that was given up is its next owner's.
        let released = partition();
        released.release();
        watcher.ask(released);
        watcher.ask(partition());
        assert!(wakeup.wait(LONG));
        assert_eq!(watcher.answers().len(), 1);
    }
}
