//! Sends one delivery again: found by its attempts, with the event as it stands in the log.

use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

use memchr::memmem::Finder;

use super::{AttemptPages, CLOCK_SLACK, DEFAULT_RATE, NotThere, Operations};
use crate::{
    clock::{self, Timestamp},
    connector::{Connector, partition_of},
    delivery::{AttemptRecord, DeliveryRecord, Origin},
    event::Event,
    id::DeliveryId,
    kafka::{Backwards, Bounds, Budget, Record, Seen},
    pipeline::TRACEPARENT,
};

/// What looking for one record may cost: some seconds of a large log.
const SEARCH: Budget = Budget { records: 1_000_000, time: Duration::from_secs(5) };

/// What the jobs of single deliveries are called.
pub const RESEND: &str = "resend-";

/// A delivery that can be sent again.
pub struct Again {
    delivery: DeliveryRecord,
    traceparent: Option<Vec<u8>>,
}

impl Again {
    /// The event.
    #[must_use]
    pub fn event(&self) -> &Event {
        &self.delivery.event
    }
}

impl AttemptPages {
    /// The latest attempt of a delivery of this connector. Blocks.
    fn latest(
        &self,
        operations: &Operations,
        connector: &Connector,
        id: DeliveryId,
    ) -> anyhow::Result<AttemptRecord<'static>> {
        let text = id.to_string();
        let finder = Finder::new(&text);
        let keep = |seen: &Seen<'_>| {
            let value = seen.value().filter(|value| finder.find(value).is_some())?;
            let attempt = operations.attempt(value)?;
            let key = &connector.key;
            let is_it = attempt.delivery_id == id
                && attempt.connector_id == key.connector.as_str()
                && attempt.project_id == key.project.as_str();
            is_it.then_some(attempt)
        };
        let partition = partition_of(connector.key.project.as_str(), self.log().facts()?.1);
        let mut found = None;
        let next = self.log().read(partition, None, SEARCH, keep, |_, attempt| {
            found = Some(attempt);
            ControlFlow::Break(())
        })?;
        found.ok_or_else(|| {
            let why = match next {
                Some(_) => "has no attempt among the last million of its partition",
                None => "has no attempt (any more): attempts are kept for seven days",
            };
            NotThere(format!("The delivery {id} {why}.")).into()
        })
    }
}

impl Operations {
    /// A delivery of this connector, to be sent again under its id. Blocks.
    pub fn again(
        &self,
        pages: &AttemptPages,
        connector: &Connector,
        id: DeliveryId,
    ) -> anyhow::Result<Again> {
        let attempt = pages.latest(self, connector, id)?;
        let topic = self.origin_of(&attempt.event_type);
        let (event, record) = self.find_event(&attempt, &topic)?;
        let delivery = DeliveryRecord {
            delivery_id: id,
            connector: connector.key.clone(),
            connector_type: connector.kind,
            connector_created_at: Some(connector.created_at),
            event,
            attempts: attempt.attempt,
            steps: 0,
            accepted_at: record.timestamp,
            first_attempt_at: None,
            deferred_since: None,
            not_before: None,
            due_at: clock::now(),
            last_error: None,
            origin: Origin {
                topic: topic.into(),
                partition: record.partition,
                offset: record.offset,
            },
            job: Some(Self::new_job(RESEND, clock::now())),
        };
        let traceparent = record.header(TRACEPARENT).map(|trace| trace.to_vec());
        Ok(Again { delivery, traceparent })
    }

    /// Writes it to the replay topic; returns the job that its attempts name.
    pub async fn send_again(&self, again: Again) -> anyhow::Result<String> {
        let mut writer = self.writer(DEFAULT_RATE)?;
        let headers = again.traceparent.map(|trace| (TRACEPARENT.to_owned(), trace));
        writer.hand_over(&again.delivery, headers.into_iter().collect())?;
        writer.settle().await?;
        Ok(again.delivery.job.unwrap_or_default())
    }

    /// The event of an attempt: the last one of its id and project before the attempt.
    fn find_event(
        &self,
        attempt: &AttemptRecord<'_>,
        topic: &str,
    ) -> anyhow::Result<(Event, Record)> {
        let bounds = Bounds::of(&self.connection, topic)?;
        let until: Timestamp = attempt.at.plus(CLOCK_SLACK);
        let ends = bounds.at(until)?;
        let log = Backwards::new(&self.connection, topic.to_owned())?;
        // Its key names the partition; producers with another partitioner have used another one.
        let own = partition_of(&attempt.project_id, i32::try_from(ends.len()).unwrap_or(1));
        let mut partitions: Vec<i32> = ends.keys().copied().collect();
        partitions.sort_by_key(|partition| *partition != own);
        let finder = Finder::new(&*attempt.event_id);
        let keep = |seen: &Seen<'_>| {
            seen.value().filter(|value| finder.find(value).is_some())?;
            let met = self.met_in(topic, seen)?;
            let head = met.head();
            let is_it = head.id == attempt.event_id && head.project == attempt.project_id;
            is_it.then(|| seen.copy())
        };
        let (began, mut was_cut) = (Instant::now(), false);
        for partition in partitions {
            // All partitions together.
            let time = SEARCH.time.saturating_sub(began.elapsed());
            let budget = Budget { time, ..SEARCH };
            let mut found = None;
            let next =
                log.read(partition, ends.get(&partition).copied(), budget, keep, |_, record| {
                    found = Some(record);
                    ControlFlow::Break(())
                })?;
            if let Some(record) = found
                && let Some(event) = self.event_in(topic, &record)
            {
                return Ok((event, record));
            }
            was_cut |= next.is_some();
        }
        let why = if was_cut {
            let id = &attempt.event_id;
            format!("The event {id} was not found among the records that one request may look at.")
        } else {
            format!("The event {} is not in the log (any more).", attempt.event_id)
        };
        Err(NotThere(why).into())
    }
}
