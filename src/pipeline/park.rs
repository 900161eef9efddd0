//! What happens to a delivery after an attempt, or instead of one: the one place that writes
//! retries, dead letters, attempt records and outcomes.

use std::{borrow::Cow, sync::Arc, time::Duration};

use super::{
    TRACEPARENT,
    account::{Entry, log_attempt, write_attempt},
    dispatch::Dispatcher,
    sender::Judged,
    work::Delivery,
};
use crate::{
    clock::{self, Timestamp},
    connector::{Command, CommandBody, OWN_ACTOR, Patch, RenewalStep},
    delivery::{
        Ask, AttemptRecord, DeliveryRecord, Ending, HELD, Next, Outcome, Park, Reason, Source,
        Tier, Verdict,
    },
    destination::cut,
    id::CommandId,
    kafka::{Outgoing, Partition, ProduceError, TopicKind},
    lane::Deferral,
    view::Target,
};

/// A record that Kafka does not take is tried again after this, doubled each time …
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
/// … up to this.
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);

/// Connectors of which a change was asked for, to ask once for each version. Forgetting them asks
/// again, which the registrar answers with a rejection.
pub const MAX_ASKED: usize = 10_000;
/// The longest detail in a dead letter's header, in characters.
pub const MAX_DETAIL_CHARS: usize = 1000;

/// The header names of dead letters.
pub mod header {
    pub const REASON: &str = "dunmore-error-reason";
    pub const DETAIL: &str = "dunmore-error-detail";
    pub const SOURCE_TOPIC: &str = "dunmore-source-topic";
    pub const SOURCE_PARTITION: &str = "dunmore-source-partition";
    pub const SOURCE_OFFSET: &str = "dunmore-source-offset";
    pub const ATTEMPTS: &str = "dunmore-attempts";
    pub const CONNECTOR_ID: &str = "dunmore-connector-id";
    pub const CONNECTOR_TYPE: &str = "dunmore-connector-type";
    pub const EVENT_ID: &str = "dunmore-event-id";
    pub const DELIVERY_ID: &str = "dunmore-delivery-id";
    /// How many bytes the value has that is left out; it stands where the source says.
    pub const VALUE_OMITTED: &str = "dunmore-value-omitted";
    /// How many of the record's own headers are left out.
    pub const HEADERS_OMITTED: &str = "dunmore-headers-omitted";
    /// Up to which offset the connector's held deliveries were released, and how many.
    pub const RELEASED_TO: &str = "dunmore-released-to";
    pub const RELEASED: &str = "dunmore-released";
    /// When a record was put back into its tier for the first time, in milliseconds since 1970.
    pub const DEFERRED_SINCE: &str = "dunmore-deferred-since";
}

/// What became of a record that was to be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Written {
    /// It is durable.
    Durable,
    /// The topic takes no record of this size.
    TooLarge,
    /// The partition was given up before: its next owner does the work again.
    GivenUp,
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
            dispatcher.metrics().delivered(kind, event, cause, latency);
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
    let metrics = dispatcher.metrics();
    let cause = cause(delivery.source, delivery.job.as_deref());
    metrics.step(delivery.target.kind, delivery.event.kind, cause, Outcome::Skipped);
    log_attempt(dispatcher, &delivery, &entry, clock::now());
    delivery.work.done();
    None
}

/// Ends a delivery that is not wanted any more when its request could start.
pub fn cancel_started(dispatcher: &Arc<Dispatcher>, delivery: Delivery, reason: Reason) {
    let cause = cause(delivery.source, delivery.job.as_deref());
    let (kind, event) = (delivery.target.kind, delivery.event.kind);
    dispatcher.metrics().step(kind, event, cause, Outcome::Cancelled);
    let (reason, detail) = (Some(reason), Some(reason.help()));
    let entry = Entry { reason, detail, ..Entry::plain(Outcome::Cancelled) };
    log_attempt(dispatcher, &delivery, &entry, clock::now());
    delivery.work.done();
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
    dispatcher.metrics().step(kind, waited.event.kind, cause, Outcome::Cancelled);
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
    dispatcher.spawn("writing an outcome", task);
}

/// Writes the record in which the delivery goes on, and completes it when that is durable.
async fn write_and_complete(
    dispatcher: Arc<Dispatcher>,
    delivery: Delivery,
    mut park: Park,
    status: Option<u16>,
    duration: Option<Duration>,
) {
    let now = clock::now();
    fault_point!("write");
    let due_at = park.due_at;
    let mut written = match park.next {
        Next::Wait { tier, .. } => {
            let tier = tier.min(dispatcher.retry_topics.len() - 1);
            let value = delivery.record(due_at).to_json();
            let value = dispatcher.codec().encode(TopicKind::Retry(tier), value);
            let topic = &dispatcher.retry_topics[tier];
            write(&dispatcher, &delivery, topic, &value, trace_header(&delivery)).await
        }
        Next::Hold => {
            let value = delivery.record(due_at).to_json();
            let value = dispatcher.codec().encode(TopicKind::Held, value);
            let mut headers = connector_headers(&delivery);
            headers.extend(trace_header(&delivery));
            write(&dispatcher, &delivery, &dispatcher.held_topic, &value, headers).await
        }
        Next::Dead => Written::TooLarge,
    };
    if written == Written::TooLarge {
        if park.next != Next::Dead {
            park = park.into_dead(Reason::RecordTooLarge, now);
        }
        let value = delivery.record(due_at).to_json();
        written = write_dead(&dispatcher, &delivery, &park, value).await;
    }
    if written == Written::GivenUp {
        return;
    }
    let tier = match park.next {
        Next::Wait { tier, .. } => dispatcher.options.policy.tiers().get(tier).map(Tier::name),
        Next::Hold => Some(HELD),
        Next::Dead => None,
    };
    let metrics = dispatcher.metrics();
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

/// Writes a dead letter; one that is too large without its value, which stands where the event came
/// from.
async fn write_dead(
    dispatcher: &Arc<Dispatcher>,
    delivery: &Delivery,
    park: &Park,
    value: Vec<u8>,
) -> Written {
    let value = dispatcher.codec().encode(TopicKind::Dead, value);
    let mut headers = dead_headers(delivery, park);
    let topic = &dispatcher.dead_topic;
    match write(dispatcher, delivery, topic, &value, headers.clone()).await {
        Written::TooLarge => {
            headers.push((header::VALUE_OMITTED, value.len().to_string().into_bytes()));
            headers.push((header::EVENT_ID, delivery.event.id.as_str().into()));
            headers.push((header::DELIVERY_ID, delivery.id.to_string().into_bytes()));
            write(dispatcher, delivery, topic, b"", headers).await
        }
        written => written,
    }
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
    headers.extend(connector_headers(delivery));
    headers.extend(trace_header(delivery));
    headers
}

fn connector_headers(delivery: &Delivery) -> Vec<(&'static str, Vec<u8>)> {
    vec![
        (header::CONNECTOR_ID, delivery.target.key.connector.as_str().into()),
        (header::CONNECTOR_TYPE, delivery.target.kind.as_str().into()),
    ]
}

pub fn error_headers(
    reason: Reason,
    detail: &str,
    topic: &str,
    partition: i32,
    offset: i64,
    attempts: u32,
) -> Vec<(&'static str, Vec<u8>)> {
    vec![
        (header::REASON, reason.as_str().into()),
        (header::DETAIL, cut(detail, MAX_DETAIL_CHARS).into_bytes()),
        (header::SOURCE_TOPIC, topic.as_bytes().to_vec()),
        (header::SOURCE_PARTITION, partition.to_string().into_bytes()),
        (header::SOURCE_OFFSET, offset.to_string().into_bytes()),
        (header::ATTEMPTS, attempts.to_string().into_bytes()),
    ]
}

async fn write(
    dispatcher: &Arc<Dispatcher>,
    delivery: &Delivery,
    topic: &str,
    value: &[u8],
    headers: Vec<(&str, Vec<u8>)>,
) -> Written {
    let key = delivery.target.key.project.as_str().as_bytes();
    write_until_durable(dispatcher, delivery.work.partition(), topic, key, value, headers).await
}

/// Writes until it is durable, or will never be. What was begun is finished while there is time,
/// else all of it repeats.
pub async fn write_until_durable(
    dispatcher: &Arc<Dispatcher>,
    partition: &Partition,
    topic: &str,
    key: &[u8],
    value: &[u8],
    headers: Vec<(&str, Vec<u8>)>,
) -> Written {
    let record = Outgoing { topic, partition: None, key, value: Some(value), headers };
    let mut backoff = FIRST_BACKOFF;
    loop {
        match dispatcher.options.producer.send(&record).await {
            Ok(_) => return Written::Durable,
            Err(ProduceError::TooLarge) => {
                tracing::error!(
                    topic,
                    bytes = value.len(),
                    "a record is larger than the topic takes: raise max.message.bytes (dunmore \
                     topics check)"
                );
                return Written::TooLarge;
            }
            Err(_) if partition.is_closed() => return Written::GivenUp,
            Err(error) => {
                tracing::warn!(topic, %error, "a record could not be written; trying again");
            }
        }
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(LONGEST_BACKOFF);
    }
}

/// Asks the registrar to suspend the connector.
fn suspend(dispatcher: &Arc<Dispatcher>, delivery: &Delivery, verdict: &Verdict) {
    let Verdict::Broken { reason, detail, .. } = verdict else { return };
    let target = &delivery.target;
    if !dispatcher.asks_once(target) {
        return;
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
    send_command(dispatcher, target, body);
}

/// Asks the registrar to store a setting's new value, unless the connector changes before.
fn change_setting(dispatcher: &Arc<Dispatcher>, delivery: &Delivery, field: &str, value: &str) {
    let target = &delivery.target;
    if !dispatcher.asks_once(target) {
        return;
    }
    let config = [(field.to_owned(), value.into())].into_iter().collect();
    let patch = Patch { config: Some(config), ..Patch::default() };
    let connector = target.key.connector.clone();
    let if_version = Some(target.version);
    send_command(
        dispatcher,
        target,
        CommandBody::Update { connector, patch, if_version, overlap: None },
    );
}

/// Tells the keeper that the service refused the stored access token that ends at this moment.
pub fn token_refused(dispatcher: &Arc<Dispatcher>, target: &Target, until: Timestamp) {
    if dispatcher.credentials.reports_once(&target.key, until) {
        let step = RenewalStep::TokenRefused { until };
        let connector = target.key.connector.clone();
        send_command(dispatcher, target, CommandBody::Renewal { connector, step });
    }
}

/// Sends a command about a connector, until Kafka has it.
pub fn send_command(dispatcher: &Arc<Dispatcher>, target: &Target, body: CommandBody) {
    let project = target.key.project.clone();
    let id = CommandId::from_uuid(uuid::Uuid::now_v7());
    let command = Command { id, project, actor: Some(OWN_ACTOR.to_owned()), body };
    let value = dispatcher.options.codec.encode(TopicKind::Commands, command.to_json());
    let sender = Arc::clone(dispatcher);
    dispatcher.spawn("sending a command", async move {
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
