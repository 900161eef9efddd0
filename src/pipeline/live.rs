//! The worker of one partition of the events topic: decode, match, hand on.

use std::sync::Arc;

use super::{
    dispatch::Dispatcher,
    park,
    work::{Delivery, RecordWork},
};
use crate::{
    codec::{ReadError, cloudevents},
    delivery::{History, Origin, Source},
    kafka::{Assigned, Partition, Record},
    lane::Patience,
    offsets::Begin,
};

/// Works until the partition is given up.
pub async fn run(dispatcher: Arc<Dispatcher>, mut assigned: Assigned) {
    let partition = assigned.partition;
    let mut patience = Patience::new(dispatcher.moment());
    while let Some(batch) = assigned.records.recv().await {
        for record in batch {
            partition.taken(record.size());
            match partition.begin(record.offset).await {
                None => return,
                Some(Begin::AlreadyDone) => {}
                Some(Begin::Work) => take(&dispatcher, &partition, record, &mut patience).await,
            }
        }
    }
}

async fn take(
    dispatcher: &Arc<Dispatcher>,
    partition: &Arc<Partition>,
    record: Record,
    patience: &mut Patience,
) {
    let metrics = &dispatcher.options.metrics;
    let event = match dispatcher.options.codec.event(&record, || partition.is_released()).await {
        Ok(event) => event,
        Err(ReadError::Refused(reason, detail)) => {
            metrics.event_rejected(reason);
            park::spawn_poison(dispatcher, partition, record, reason, detail);
            return;
        }
        // The next owner reads it.
        Err(ReadError::GivenUp) => return,
    };
    metrics.event_consumed(event.kind);
    let value = record.value.as_deref().unwrap_or_default();
    let carried = cloudevents::traceparent(&record.headers, value);
    let mut step = dispatcher.options.traces.as_ref().and_then(|traces| {
        let from = (record.partition, record.offset);
        traces.event(carried.as_deref(), partition.topic(), from, &event)
    });
    let subscriptions = dispatcher.subscriptions(&event.project).await;
    let targets = subscriptions.matching(event.kind);
    if targets.is_empty() {
        metrics.event_unmatched(event.kind);
        partition.complete(record.offset);
        return;
    }
    let bytes = dispatcher.budgets.event(Source::Live, event.json.len()).await;
    let shares = RecordWork::shares(Arc::clone(partition), record.offset, targets.len(), bytes);
    let event = Arc::new(event);
    // What follows belongs to this step; where nothing is traced, to the producer's.
    let traceparent: Option<Arc<str>> = match &mut step {
        Some(step) => {
            step.matched(targets.len());
            Some(step.traceparent().into())
        }
        None => carried.as_deref().map(Arc::from),
    };
    for (target, work) in targets.iter().zip(shares) {
        let delivery = Delivery {
            id: target.namespace.delivery(&event.id),
            target: Arc::clone(target),
            event: Arc::clone(&event),
            source: Source::Live,
            history: History::default(),
            accepted_at: record.timestamp,
            origin: Origin {
                topic: Arc::clone(partition.topic()),
                partition: record.partition,
                offset: record.offset,
            },
            job: None,
            traceparent: traceparent.clone(),
            work,
            permit: None,
        };
        if let Some(delivery) = park::skip(dispatcher, delivery) {
            let permit = dispatcher.budgets.delivery(Source::Live).await;
            dispatcher.offer(Delivery { permit, ..delivery }, patience).await;
        }
    }
}
