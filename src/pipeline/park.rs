//! What happens to a delivery after an attempt, or instead of one: the one place that writes
//! retries, dead letters, attempt records and outcomes.

use std::{borrow::Cow, sync::Arc, time::Duration};

use super::{
    TRACEPARENT,
    account::{Entry, log_attempt, write_attempt},
    attempt::Judged,
    dispatch::Dispatcher,
    work::Delivery,
};
use crate::{
    clock,
    connector::{Command, CommandBody, OWN_ACTOR, Patch},
    delivery::{
        Ask, AttemptRecord, DeliveryRecord, Ending, Next, Outcome, Park, Reason, Source, Tier,
        Verdict,
    },
    id::CommandId,
    kafka::{Outgoing, Partition, ProduceError, Record, TopicKind},
    lane::Deferral,
};

/// A record that Kafka does not take is tried again after this, doubled each time …
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
/// … up to this.
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);

/// Connectors whose suspension was asked for, to ask once. Forgetting them asks again, which the
/// registrar answers with a rejection.
const MAX_SUSPENDING: usize = 10_000;

/// The header names of dead letters.
mod header {
    pub const REASON: &str = "dunmore-error-reason";
    pub const DETAIL: &str = "dunmore-error-detail";
    pub const SOURCE_TOPIC: &str = "dunmore-source-topic";
    pub const SOURCE_PARTITION: &str = "dunmore-source-partition";
    pub const SOURCE_OFFSET: &str = "dunmore-source-offset";
    pub const ATTEMPTS: &str = "dunmore-attempts";
    pub const CONNECTOR_ID: &str = "dunmore-connector-id";
    pub const CONNECTOR_TYPE: &str = "dunmore-connector-type";
}

/// Ends an attempt. The delivery was started before it.
pub fn settle(dispatcher: &Arc<Dispatcher>, mut delivery: Delivery, judged: Judged) {
    let now = clock::now();
    let Judged { verdict, status, duration } = judged;
    match verdict.asks() {
        Some(Ask::Suspend) => suspend(dispatcher, &delivery, &verdict),
        Some(Ask::Change { field, value }) => change_setting(dispatcher, &delivery, field, &value),
        None => {}
    }
    let policy = &dispatcher.options.policy;
    match delivery.history.after_attempt(policy, verdict, duration, now) {
        Ending::Delivered => {
            let latency = now.since(delivery.accepted_at);
            let (kind, event) = (delivery.target.kind, delivery.event.kind);
            let cause = cause(delivery.source, delivery.job.as_deref());
            dispatcher.options.metrics.delivered(kind, event, cause, latency);
            let entry = Entry { status, duration, ..Entry::plain(Outcome::Delivered) };
            log_attempt(dispatcher, &delivery, &entry, now);
            delivery.work.done();
        }
        Ending::Parked(park) => spawn(dispatcher, delivery, park, status, duration),
    }
}

/// What a delivery counts as: the retry of a replayed one is of an old event, too.
const fn cause(source: Source, job: Option<&str>) -> Source {
    if job.is_some() { Source::Replay } else { source }
}

/// A delivery that its lane handed back.
pub fn spawn_deferral(dispatcher: &Arc<Dispatcher>, deferral: Deferral<Delivery>) {
    let Deferral { item, reason, wait } = deferral;
    defer(dispatcher, item, reason, reason.help().to_owned(), wait);
}

/// A delivery of a connector that nothing can be delivered to at present.
pub fn spawn_held(dispatcher: &Arc<Dispatcher>, delivery: Delivery, reason: Reason, words: String) {
    defer(dispatcher, delivery, reason, words, Duration::ZERO);
}

fn defer(
    dispatcher: &Arc<Dispatcher>,
    mut delivery: Delivery,
    reason: Reason,
    detail: String,
    wait: Duration,
) {
    if !delivery.work.start() {
        return;
    }
    let policy = &dispatcher.options.policy;
    let park = delivery.history.after_deferral(policy, reason, detail, wait, clock::now());
    spawn(dispatcher, delivery, park, None, None);
}

/// Ends a delivery that the destination has nothing to do for; gives any other back.
pub fn skip(dispatcher: &Arc<Dispatcher>, delivery: Delivery) -> Option<Delivery> {
    let Ok(destination) = &delivery.target.destination else { return Some(delivery) };
    let Some(why) = destination.skips(&delivery.event) else { return Some(delivery) };
    let entry = Entry { detail: Some(why), ..Entry::plain(Outcome::Skipped) };
    let metrics = &dispatcher.options.metrics;
    let cause = cause(delivery.source, delivery.job.as_deref());
    metrics.step(delivery.target.kind, delivery.event.kind, cause, Outcome::Skipped);
    log_attempt(dispatcher, &delivery, &entry, clock::now());
    delivery.work.done();
    None
}

/// Records that a waiting delivery is not wanted any more.
pub fn cancel(
    dispatcher: &Arc<Dispatcher>,
    waited: &DeliveryRecord,
    source: Source,
    reason: Reason,
    traceparent: Option<&str>,
) {
    let kind = waited.connector_type;
    let cause = cause(source, waited.job.as_deref());
    dispatcher.options.metrics.step(kind, waited.event.kind, cause, Outcome::Cancelled);
    let record = AttemptRecord {
        delivery_id: waited.delivery_id,
        project_id: waited.connector.project.as_str().into(),
        connector_id: waited.connector.connector.as_str().into(),
        connector_type: kind,
        event_id: waited.event.id.as_str().into(),
        event_type: waited.event.kind.as_str().into(),
        source,
        attempt: waited.attempts,
        outcome: Outcome::Cancelled,
        reason: Some(reason),
        detail: Some(reason.help().into()),
        status: None,
        duration_ms: None,
        tier: None,
        job: waited.job.as_deref().map(Cow::Borrowed),
        at: clock::now(),
    };
    write_attempt(dispatcher, &record, traceparent);
}

fn spawn(
    dispatcher: &Arc<Dispatcher>,
    delivery: Delivery,
    park: Park,
    status: Option<u16>,
    duration: Option<Duration>,
) {
    let task = write_and_complete(Arc::clone(dispatcher), delivery, park, status, duration);
    dispatcher.spawn(task);
}

/// Writes the record in which the delivery goes on, and completes it when that is durable.
async fn write_and_complete(
    dispatcher: Arc<Dispatcher>,
    delivery: Delivery,
    park: Park,
    status: Option<u16>,
    duration: Option<Duration>,
) {
    let now = clock::now();
    let value = delivery.record(park.due_at).to_json();
    let (kind, topic, headers, tier) = match park.next {
        Next::Wait { tier, .. } => {
            let name = dispatcher.options.policy.tiers().get(tier).map(Tier::name);
            let tier = tier.min(dispatcher.retry_topics.len() - 1);
            let topic = &dispatcher.retry_topics[tier];
            (TopicKind::Retry(tier), topic, trace_header(&delivery), name)
        }
        Next::Dead => {
            (TopicKind::Dead, &dispatcher.dead_topic, dead_headers(&delivery, &park), None)
        }
    };
    let value = dispatcher.options.codec.encode(kind, value);
    if !write(&dispatcher, &delivery, topic, &value, headers).await {
        return;
    }
    let metrics = &dispatcher.options.metrics;
    let cause = cause(delivery.source, delivery.job.as_deref());
    metrics.step(delivery.target.kind, delivery.event.kind, cause, park.outcome);
    match tier {
        Some(tier) => metrics.retried(tier, park.reason),
        None => metrics.dead(delivery.target.kind, park.reason),
    }
    let entry = Entry {
        outcome: park.outcome,
        reason: Some(park.reason),
        detail: Some(&park.detail),
        status,
        duration,
        tier,
    };
    log_attempt(&dispatcher, &delivery, &entry, now);
    delivery.work.done();
}

fn trace_header(delivery: &Delivery) -> Vec<(&'static str, Vec<u8>)> {
    let trace = delivery.traceparent.as_ref();
    trace.map(|trace| (TRACEPARENT, trace.as_bytes().to_vec())).into_iter().collect()
}

fn dead_headers(delivery: &Delivery, park: &Park) -> Vec<(&'static str, Vec<u8>)> {
    let mut headers = error_headers(
        park.reason,
        &park.detail,
        &delivery.origin.topic,
        delivery.origin.partition,
        delivery.origin.offset,
        delivery.history.attempts,
    );
    headers.push((header::CONNECTOR_ID, delivery.target.key.connector.as_str().into()));
    headers.push((header::CONNECTOR_TYPE, delivery.target.kind.as_str().into()));
    headers.extend(trace_header(delivery));
    headers
}

fn error_headers(
    reason: Reason,
    detail: &str,
    topic: &str,
    partition: i32,
    offset: i64,
    attempts: u32,
) -> Vec<(&'static str, Vec<u8>)> {
    vec![
        (header::REASON, reason.as_str().into()),
        (header::DETAIL, detail.as_bytes().to_vec()),
        (header::SOURCE_TOPIC, topic.as_bytes().to_vec()),
        (header::SOURCE_PARTITION, partition.to_string().into_bytes()),
        (header::SOURCE_OFFSET, offset.to_string().into_bytes()),
        (header::ATTEMPTS, attempts.to_string().into_bytes()),
    ]
}

/// Writes until it is durable. False when the partition was given up before: then its next owner
/// does the work again.
async fn write(
    dispatcher: &Arc<Dispatcher>,
    delivery: &Delivery,
    topic: &str,
    value: &[u8],
    headers: Vec<(&str, Vec<u8>)>,
) -> bool {
    let key = delivery.target.key.project.as_str().as_bytes();
    write_until_durable(dispatcher, delivery.work.partition(), topic, key, value, headers).await
}

async fn write_until_durable(
    dispatcher: &Arc<Dispatcher>,
    partition: &Partition,
    topic: &str,
    key: &[u8],
    value: &[u8],
    headers: Vec<(&str, Vec<u8>)>,
) -> bool {
    let producer = &dispatcher.options.producer;
    let mut record = Outgoing { topic, partition: None, key, value: Some(value), headers };
    let mut backoff = FIRST_BACKOFF;
    loop {
        match producer.send(&record).await {
            Ok(_) => return true,
            Err(ProduceError::TooLarge) if record.value.is_some_and(|value| !value.is_empty()) => {
                // The payload stays where it came from; the headers say where that is.
                tracing::error!(
                    topic,
                    "a record is larger than the topic takes; only its headers are kept: raise max.message.bytes (dunmore topics check)"
                );
                record.topic = &dispatcher.dead_topic;
                record.value = Some(b"");
            }
            Err(error) => {
                // What was begun is finished while there is time, else all of it repeats.
                if partition.is_closed() {
                    return false;
                }
                tracing::warn!(topic, %error, "a record could not be written; trying again");
            }
        }
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(LONGEST_BACKOFF);
    }
}

/// The headers of the dead letter of a record: where it came from and why, then its own.
pub fn record_headers(
    reason: Reason,
    detail: &str,
    topic: &str,
    record: &Record,
) -> Vec<(String, Vec<u8>)> {
    let found = error_headers(reason, detail, topic, record.partition, record.offset, 0);
    let found = found.into_iter().map(|(key, value)| (key.to_owned(), value));
    let own = record.headers.iter().filter(|(key, _)| !key.starts_with("dunmore-"));
    found.chain(own.map(|(key, value)| (key.clone(), value.to_vec()))).collect()
}

/// A record that cannot be understood goes to the dead letters as it is.
pub fn spawn_poison(
    dispatcher: &Arc<Dispatcher>,
    partition: &Arc<Partition>,
    record: Record,
    reason: Reason,
    detail: String,
) {
    if !partition.enter() {
        return;
    }
    tracing::warn!(
        topic = %partition.topic(), partition = record.partition, offset = record.offset,
        %reason, detail, "record refused; it is in the dead letters"
    );
    let (dispatcher, partition) = (Arc::clone(dispatcher), Arc::clone(partition));
    let task_owner = Arc::clone(&dispatcher);
    task_owner.spawn(async move {
        let topic = dispatcher.dead_topic.clone();
        let headers = record_headers(reason, &detail, partition.topic(), &record);
        let headers = headers.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
        let value = record.value.as_deref().unwrap_or_default();
        let key = record.key.as_deref().unwrap_or_default();
        if write_until_durable(&dispatcher, &partition, &topic, key, value, headers).await {
            partition.complete(record.offset);
        }
        partition.leave();
    });
}

/// Asks the registrar to suspend the connector, once per version of it.
fn suspend(dispatcher: &Arc<Dispatcher>, delivery: &Delivery, verdict: &Verdict) {
    let Verdict::Broken { reason, detail } = verdict else { return };
    let target = &delivery.target;
    {
        let mut suspending = dispatcher.suspending.lock();
        if suspending.len() >= MAX_SUSPENDING {
            suspending.clear();
        }
        if suspending.insert(target.key.clone(), target.version) == Some(target.version) {
            return;
        }
    }
    tracing::warn!(
        connector = %target.key, kind = %target.kind, %reason, detail,
        "the connector cannot work until its owner acts; suspending it"
    );
    let body = CommandBody::Suspend {
        connector: target.key.connector.clone(),
        reason: format!("{reason}: {detail}"),
        if_version: Some(target.version),
    };
    send_command(dispatcher, delivery, body);
}

fn change_setting(dispatcher: &Arc<Dispatcher>, delivery: &Delivery, field: &str, value: &str) {
    let config = [(field.to_owned(), value.into())].into_iter().collect();
    let patch = Patch { config: Some(config), ..Patch::default() };
    let connector = delivery.target.key.connector.clone();
    send_command(dispatcher, delivery, CommandBody::Update { connector, patch, if_version: None });
}

fn send_command(dispatcher: &Arc<Dispatcher>, delivery: &Delivery, body: CommandBody) {
    let project = delivery.target.key.project.clone();
    let id = CommandId::from_uuid(uuid::Uuid::now_v7());
    let command = Command { id, project, actor: Some(OWN_ACTOR.to_owned()), body };
    let value = dispatcher.options.codec.encode(TopicKind::Commands, command.to_json());
    let sender = Arc::clone(dispatcher);
    dispatcher.spawn(async move {
        let record = Outgoing {
            topic: &sender.commands_topic,
            partition: None,
            key: command.project.as_str().as_bytes(),
            value: Some(&value),
            headers: Vec::new(),
        };
        // The connector's lane is held by now, so no later delivery would ask again.
        let mut backoff = FIRST_BACKOFF;
        while let Err(error) = sender.options.producer.send(&record).await {
            tracing::warn!(%error, command = command.name(), "command not sent; trying again");
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(LONGEST_BACKOFF);
        }
    });
}
