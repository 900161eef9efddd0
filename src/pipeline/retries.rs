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
    delivery::{DeliveryRecord, Reason, Source},
    kafka::{Assigned, Partition, Record},
    offsets::Begin,
    view::Target,
};

/// The clock is asked again after at most this, so that a change of it is noticed.
const LONGEST_NAP: Duration = Duration::from_secs(1);

/// Works until the partition is given up. Records wait in Kafka: the queue in front of this worker
/// is bounded, and a full one pauses the partition and nothing else.
pub async fn run(
    dispatcher: Arc<Dispatcher>,
    mut assigned: Assigned,
    source: Source,
    tier: Option<usize>,
) {
    let partition = assigned.partition;
    let longest_wait = tier
        .and_then(|tier| dispatcher.options.policy.tiers().get(tier))
        .map_or(Duration::ZERO, crate::delivery::Tier::delay);
    while let Some(batch) = assigned.records.recv().await {
        for record in batch {
            partition.taken(record.size());
            let value = record.value.as_deref().unwrap_or_default();
            let delivery = DeliveryRecord::from_json(value);
            if let Ok(delivery) = &delivery
                && !wait_until_due(&partition, delivery, longest_wait).await
            {
                return;
            }
            match partition.begin(record.offset).await {
                None => return,
                Some(Begin::AlreadyDone) => {}
                Some(Begin::Work) => match delivery {
                    Ok(delivery) => take(&dispatcher, &partition, &record, delivery, source).await,
                    Err(error) => {
                        let (reason, detail) = (Reason::InvalidRecord, error.to_string());
                        dispatcher.options.metrics.event_rejected(reason);
                        park::spawn_poison(&dispatcher, &partition, record, reason, detail);
                    }
                },
            }
        }
    }
}

/// False when the partition was given up meanwhile.
async fn wait_until_due(partition: &Partition, record: &DeliveryRecord, longest: Duration) -> bool {
    let mut waited = Duration::ZERO;
    loop {
        if partition.is_released() {
            return false;
        }
        // A clock that went back must not make a record of the 5 s tier wait for hours.
        let left = record.due_at.since(clock::now()).min(longest.saturating_sub(waited));
        if left.is_zero() {
            return true;
        }
        let nap = left.min(LONGEST_NAP);
        tokio::time::sleep(nap).await;
        waited += nap;
    }
}

async fn take(
    dispatcher: &Arc<Dispatcher>,
    partition: &Arc<Partition>,
    record: &Record,
    waited: DeliveryRecord,
    source: Source,
) {
    let subscriptions = dispatcher.subscriptions(&waited.connector.project).await;
    let target = subscriptions.target(&waited.connector.connector);
    let Some(work) = RecordWork::shares(Arc::clone(partition), record.offset, 1, None).pop() else {
        return;
    };
    let reason = match target {
        None => Some(Reason::ConnectorDeleted),
        Some(target) => not_wanted(target, &waited),
    };
    let (Some(target), None) = (target, reason) else {
        park::cancel(dispatcher, &waited, source, reason.unwrap_or(Reason::ConnectorDeleted));
        work.done();
        return;
    };
    let delivery = Delivery {
        target: Arc::clone(target),
        event: Arc::new(waited.event),
        id: waited.delivery_id,
        source,
        attempts: waited.attempts,
        steps: waited.steps,
        accepted_at: waited.accepted_at,
        first_attempt_at: waited.first_attempt_at,
        deferred_since: waited.deferred_since,
        last_error: waited.last_error,
        origin: waited.origin,
        job: waited.job,
        traceparent: record.header_text(TRACEPARENT).map(Arc::from),
        work,
        permit: None,
    };
    if let Some(delivery) = park::skip(dispatcher, delivery) {
        let permit = dispatcher.permit(source).await;
        dispatcher.offer(Delivery { permit, ..delivery }).await;
    }
}

fn not_wanted(target: &Target, waited: &DeliveryRecord) -> Option<Reason> {
    if !target.is_active {
        Some(Reason::ConnectorDisabled)
    } else if !target.event_types.contains(waited.event.kind) {
        Some(Reason::Unsubscribed)
    } else {
        None
    }
}
