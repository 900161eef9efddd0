//! What is told of each step of a delivery: one wide log line, and one record.

use std::{borrow::Cow, sync::Arc, time::Duration};

use super::{dispatch::Dispatcher, work::Delivery};
use crate::{
    clock::Timestamp,
    config::AttemptLogging,
    delivery::{AttemptRecord, Outcome, Reason},
    kafka::TopicKind,
};

/// How a step ended, for its record.
pub struct Entry<'a> {
    pub outcome: Outcome,
    pub reason: Option<Reason>,
    pub detail: Option<&'a str>,
    pub status: Option<u16>,
    pub duration: Option<Duration>,
    pub tier: Option<&'a str>,
}

impl Entry<'_> {
    pub const fn plain(outcome: Outcome) -> Self {
        Self { outcome, reason: None, detail: None, status: None, duration: None, tier: None }
    }
}

/// Tells and records how a step of a delivery ended.
pub fn log_attempt(
    dispatcher: &Arc<Dispatcher>,
    delivery: &Delivery,
    entry: &Entry<'_>,
    at: Timestamp,
) {
    let duration_ms = entry.duration.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
    let record = AttemptRecord {
        delivery_id: delivery.id,
        project_id: delivery.target.key.project.as_str().into(),
        connector_id: delivery.target.key.connector.as_str().into(),
        connector_type: delivery.target.kind,
        event_id: delivery.event.id.as_str().into(),
        event_type: delivery.event.kind.as_str().into(),
        source: delivery.source,
        attempt: delivery.history.attempts,
        outcome: entry.outcome,
        reason: entry.reason,
        detail: entry.detail.map(Cow::Borrowed),
        status: entry.status,
        duration_ms,
        tier: entry.tier.map(Cow::Borrowed),
        job: delivery.job.as_deref().map(Cow::Borrowed),
        at,
    };
    write_attempt(dispatcher, &record, delivery.traceparent.as_deref());
}

/// One wide log line and one record per step. What went well is told at the level debug: at
/// thousands a second the attempts topic is the better place to look it up.
pub fn write_attempt(
    dispatcher: &Arc<Dispatcher>,
    record: &AttemptRecord<'_>,
    traceparent: Option<&str>,
) {
    // version-trace-span-flags
    let trace = traceparent.and_then(|text| text.split('-').nth(1));
    macro_rules! line {
        ($level:expr) => {
            tracing::event!(
                target: "dunmore_connectors::attempt",
                $level,
                delivery = %record.delivery_id,
                project = %record.project_id,
                connector = %record.connector_id,
                kind = %record.connector_type,
                event = %record.event_id,
                event_type = %record.event_type,
                source = record.source.as_str(),
                attempt = record.attempt,
                outcome = record.outcome.as_str(),
                reason = record.reason.map(Reason::as_str),
                detail = record.detail.as_deref(),
                status = record.status,
                duration_ms = record.duration_ms,
                tier = record.tier.as_deref(),
                trace,
            )
        };
    }
    let went_well = matches!(record.outcome, Outcome::Delivered | Outcome::Skipped);
    if went_well || record.outcome == Outcome::Deferred {
        line!(tracing::Level::DEBUG);
    } else {
        line!(tracing::Level::INFO);
    }
    let wanted = match dispatcher.options.attempt_logging {
        AttemptLogging::All => true,
        AttemptLogging::Failures => !went_well,
        AttemptLogging::Off => false,
    };
    if wanted && let Some(log) = &dispatcher.options.attempt_log {
        let value = dispatcher.options.codec.encode(TopicKind::Attempts, record.to_json());
        log.write(&record.project_id, &value);
    }
}
