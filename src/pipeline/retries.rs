//! The worker of one partition of a retry tier or of the replay topic: wait until the head is due,
//! look the connector up as it is now, hand on.

use std::{sync::Arc, time::Duration};

use super::{
    TRACEPARENT,
    dispatch::Dispatcher,
    park,
    work::{Delivery, RecordWork},
};
use crate::{
    clock,
    codec::{ReadError, RecordKind, cloudevents},
    delivery::{DeliveryRecord, Reason, Source, left_to_wait},
    kafka::{Assigned, Partition, Record},
    lane::Patience,
    offsets::Begin,
};

/// The clock is asked again after at most this, so that a change of it is noticed.
const LONGEST_NAP: Duration = Duration::from_secs(1);

/// Works until the partition is given up. Records wait in Kafka: the queue in front of this worker
/// is bounded, and a full one is not filled further; no other partition waits.
pub async fn run(
    dispatcher: Arc<Dispatcher>,
    mut assigned: Assigned,
    source: Source,
    tier: Option<usize>,
) {
    let partition = assigned.partition;
    let mut patience = Patience::new(dispatcher.moment());
    let longest_wait = tier
        .and_then(|tier| dispatcher.options.policy.tiers().get(tier))
        .map_or(Duration::ZERO, crate::delivery::Tier::delay);
    while let Some(batch) = assigned.records.recv().await {
        for record in batch {
            partition.taken(record.size());
            let delivery = match read(&dispatcher, &partition, &record).await {
                Err(ReadError::GivenUp) => return,
                Ok(delivery) => Ok(delivery),
                Err(ReadError::Refused(reason, detail)) => Err((reason, detail)),
            };
            if let Ok(delivery) = &delivery
                && !wait_until_due(&partition, &record, delivery, longest_wait).await
            {
                return;
            }
            match partition.begin(record.offset).await {
                None => return,
                Some(Begin::AlreadyDone) => {}
                Some(Begin::Work) => match delivery {
                    Ok(delivery) => {
                        let next = Due { record: &record, waited: delivery, source };
                        take(&dispatcher, &partition, next, &mut patience).await;
                    }
                    Err((reason, detail)) => {
                        dispatcher.options.metrics.event_rejected(reason);
                        park::spawn_poison(&dispatcher, &partition, record, reason, detail);
                    }
                },
            }
        }
    }
}

async fn read(
    dispatcher: &Dispatcher,
    partition: &Partition,
    record: &Record,
) -> Result<DeliveryRecord, ReadError> {
    let value = record.value.clone().unwrap_or_default();
    let codec = &dispatcher.options.codec;
    let json = codec.decode(RecordKind::Delivery, &value, || partition.is_released()).await?;
    DeliveryRecord::from_json(&json)
        .map_err(|error| ReadError::refused(Reason::InvalidRecord, &error.to_string()))
}

/// False when the partition was given up meanwhile.
async fn wait_until_due(
    partition: &Partition,
    record: &Record,
    delivery: &DeliveryRecord,
    longest: Duration,
) -> bool {
    loop {
        if partition.is_released() {
            return false;
        }
        let left = left_to_wait(delivery.due_at, clock::now(), record.age(), longest);
        if left.is_zero() {
            return true;
        }
        tokio::time::sleep(left.min(LONGEST_NAP)).await;
    }
}

/// A record that is due.
struct Due<'a> {
    record: &'a Record,
    waited: DeliveryRecord,
    source: Source,
}

async fn take(
    dispatcher: &Arc<Dispatcher>,
    partition: &Arc<Partition>,
    due: Due<'_>,
    patience: &mut Patience,
) {
    let Due { record, waited, source } = due;
    let traceparent =
        record.header_text(TRACEPARENT).filter(|text| cloudevents::is_traceparent(text));
    let subscriptions = dispatcher.subscriptions(&waited.connector.project).await;
    let bytes = dispatcher.budgets.event(source, waited.event.json.len()).await;
    let shares = RecordWork::shares(Arc::clone(partition), record.offset, 1, bytes);
    let Some(work) = shares.into_iter().next() else { return };
    let target = match subscriptions.still_wanted(&waited.connector.connector, waited.event.kind) {
        Ok(target) => target,
        Err(reason) => {
            park::cancel(dispatcher, &waited, source, reason, traceparent);
            work.done();
            return;
        }
    };
    let delivery = Delivery {
        target: Arc::clone(target),
        history: waited.history(),
        event: Arc::new(waited.event),
        id: waited.delivery_id,
        source,
        accepted_at: waited.accepted_at,
        origin: waited.origin,
        job: waited.job,
        traceparent: traceparent.map(Arc::from),
        work,
        permit: None,
    };
    if let Some(delivery) = park::skip(dispatcher, delivery) {
        let permit = dispatcher.budgets.delivery(source).await;
        dispatcher.offer(Delivery { permit, ..delivery }, patience).await;
    }
}
