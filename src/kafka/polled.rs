//! A producer and the thread that polls it.
//!
//! rdkafka's own threaded producers (`ThreadedProducer`, and `FutureProducer` on top of it) poll for
//! 100 ms at a time. Timeouts of the client library are whole milliseconds, so rdkafka 0.39 spends
//! the last one of them on polls that do not wait: close to a hundredth of a core per producer, idle
//! or not. A poll of a second makes that a thousandth.

use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, ProducerContext},
};

use super::KafkaError;

/// How long the thread waits for news at a time. Who drops a producer does not wait for it.
const POLL: Duration = Duration::from_secs(1);

/// A producer that somebody polls.
pub(super) struct Polled<C: ProducerContext + 'static> {
    producer: Arc<BaseProducer<C>>,
    is_over: Arc<AtomicBool>,
}

impl<C: ProducerContext + 'static> Polled<C> {
    /// Makes the producer and starts its thread.
    pub(super) fn start(config: &ClientConfig, context: C) -> Result<Self, KafkaError> {
        let producer: BaseProducer<C> =
            config.create_with_context(context).map_err(|e| KafkaError::settings(&e))?;
        let (producer, is_over) = (Arc::new(producer), Arc::new(AtomicBool::new(false)));
        let (polled, ends) = (Arc::clone(&producer), Arc::clone(&is_over));
        thread::Builder::new()
            .name("kafka producer".to_owned())
            .spawn(move || {
                while !ends.load(Ordering::Relaxed) {
                    polled.poll(POLL);
                }
            })
            .map_err(|e| KafkaError::Other(format!("cannot start a thread: {e}")))?;
        Ok(Self { producer, is_over })
    }
}

impl<C: ProducerContext + 'static> Deref for Polled<C> {
    type Target = BaseProducer<C>;

    fn deref(&self) -> &BaseProducer<C> {
        &self.producer
    }
}

impl<C: ProducerContext + 'static> Drop for Polled<C> {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}
