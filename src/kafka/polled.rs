//! A producer and the thread that polls it.
//!
//! rdkafka's own threaded producers (`ThreadedProducer`, and `FutureProducer` on top of it) poll for
//! 100 ms at a time. Timeouts of the client library are whole milliseconds, so rdkafka 0.39 spends
//! the last one of them on polls that do not wait: close to a hundredth of a core per producer, idle
//! or not. Longer polls make that less.

use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, ProducerContext},
};

use super::KafkaError;

/// How long the thread waits for news at a time, and who drops a producer for the thread.
const POLL: Duration = Duration::from_millis(250);

/// A producer that somebody polls.
pub(super) struct Polled<C: ProducerContext + 'static> {
    producer: Arc<BaseProducer<C>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl<C: ProducerContext + 'static> Polled<C> {
    /// Makes the producer and starts its thread.
    pub(super) fn start(config: &ClientConfig, context: C) -> Result<Self, KafkaError> {
        let producer: BaseProducer<C> =
            config.create_with_context(context).map_err(|e| KafkaError::settings(&e))?;
        let (producer, is_over) = (Arc::new(producer), Arc::new(AtomicBool::new(false)));
        let (polled, ends) = (Arc::clone(&producer), Arc::clone(&is_over));
        let thread = thread::Builder::new()
            .name("kafka producer".to_owned())
            .spawn(move || {
                while !ends.load(Ordering::Relaxed) {
                    polled.poll(POLL);
                }
            })
            .map_err(|e| KafkaError::Other(format!("cannot start a thread: {e}")))?;
        Ok(Self { producer, is_over, thread: Some(thread) })
    }
}

impl<C: ProducerContext + 'static> Deref for Polled<C> {
    type Target = BaseProducer<C>;

    fn deref(&self) -> &BaseProducer<C> {
        &self.producer
    }
}

impl<C: ProducerContext + 'static> Drop for Polled<C> {
    /// The client must end before the program does: its threads use libraries that the end of the
    /// program takes from under them.
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("a thread that polled a Kafka producer panicked");
        }
    }
}
