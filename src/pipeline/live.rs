//! The worker of one partition of the events topic: decode, match, hand on.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    TRACEPARENT,
    dispatch::Dispatcher,
    park,
    work::{Delivery, RecordWork},
};
use crate::{
    delivery::{History, Origin, Reason, Source},
    event::{Event, EventError},
    kafka::{Assigned, Partition, Record},
    offsets::Begin,
};

/// Works until the partition is given up.
pub async fn run(dispatcher: Arc<Dispatcher>, mut assigned: Assigned) {
    let partition = assigned.partition;
    while let Some(batch) = assigned.records.recv().await {
        for record in batch {
            partition.taken(record.size());
            match partition.begin(record.offset).await {
                None => return,
                Some(Begin::AlreadyDone) => {}
                Some(Begin::Work) => take(&dispatcher, &partition, record).await,
            }
        }
    }
}

async fn take(dispatcher: &Arc<Dispatcher>, partition: &Arc<Partition>, record: Record) {
    let metrics = &dispatcher.options.metrics;
    let event = match decode(record.value.clone()) {
        Ok(event) => event,
        Err((reason, detail)) => {
            metrics.event_rejected(reason);
            park::spawn_poison(dispatcher, partition, record, reason, detail);
            return;
        }
    };
    metrics.event_consumed(event.kind);
    let subscriptions = dispatcher.subscriptions(&event.project).await;
    let targets = subscriptions.matching(event.kind);
    if targets.is_empty() {
        metrics.event_unmatched(event.kind);
        partition.complete(record.offset);
        return;
    }
    let bytes = dispatcher.memory(event.json.len()).await;
    let shares = RecordWork::shares(Arc::clone(partition), record.offset, targets.len(), bytes);
    let event = Arc::new(event);
    let traceparent: Option<Arc<str>> = record.header_text(TRACEPARENT).map(Arc::from);
    for (target, work) in targets.iter().zip(shares) {
        let delivery = Delivery {
            id: target.namespace.delivery(&event.id),
            target: Arc::clone(target),
            event: Arc::clone(&event),
            source: Source::Live,
            history: History::default(),
            accepted_at: record.timestamp,
            origin: Origin {
                topic: partition.topic().to_string(),
                partition: record.partition,
                offset: record.offset,
            },
            job: None,
            traceparent: traceparent.clone(),
            work,
            permit: None,
        };
        if let Some(delivery) = park::skip(dispatcher, delivery) {
            let permit = dispatcher.permit(Source::Live).await;
            dispatcher.offer(Delivery { permit, ..delivery }).await;
        }
    }
}

/// Reads an event from a record's value.
pub fn decode(value: Option<Bytes>) -> Result<Event, (Reason, String)> {
    let Some(value) = value else {
        return Err((Reason::Undecodable, "the record has no value".to_owned()));
    };
    if value.first() == Some(&0) {
        return Err((
            Reason::Undecodable,
            "the value is Avro in Confluent's wire format, but no schema registry is configured \
             (schema_registry.url)"
                .to_owned(),
        ));
    }
    Event::from_json(value).map_err(|error| {
        let reason = match error {
            EventError::TooLarge(_) => Reason::EventTooLarge,
            EventError::NotJson(_) => Reason::Undecodable,
            EventError::MissingProject => Reason::MissingProject,
            EventError::UnknownType(_) => Reason::UnknownEventType,
            EventError::Invalid(_) => Reason::InvalidEvent,
        };
        (reason, error.to_string())
    })
}
