//! What a lane starts: looked at anew, sent, and its ends handed on. First attempts, retries and
//! replays all come through here.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Instant};

use futures_util::FutureExt as _;

use super::{
    dispatch::Dispatcher,
    park, reports,
    sender::{Judged, Sender, unsent},
    work::Delivery,
};
use crate::{
    clock,
    delivery::{Reason, Verdict},
    destination::Item,
    lane::{Deferral, Report, Start, Ticket},
    view::MAX_AGE,
};

/// Sends what a lane started, then whatever may start next.
pub async fn run(dispatcher: Arc<Dispatcher>, mut start: Start<Delivery>) {
    loop {
        let ticket = start.ticket;
        let (report, ended) = AssertUnwindSafe(attempt(&dispatcher, ticket, start.items))
            .catch_unwind()
            .await
            .unwrap_or_else(|_| {
                // What it had in hand is incomplete and would stay so: only a restart reads it again.
                dispatcher.supervisor().fail("sending a delivery panicked".to_owned());
                (Report::Unused, Ended::default())
            });
        // The lane first: what may start next need not wait for records to be written.
        let mut starts = dispatcher.finish(ticket, report);
        reports::look(&dispatcher, report, &ended.judged, ended.is_failing);
        for (delivery, judged) in ended.judged {
            park::settle(&dispatcher, delivery, judged);
        }
        for deferral in ended.deferred {
            park::spawn_deferral(&dispatcher, deferral);
        }
        for (delivery, reason, words) in ended.held {
            park::spawn_held(&dispatcher, delivery, reason, words);
        }
        match starts.pop() {
            Some(next) => start = next,
            None => return,
        }
        dispatcher.launch(starts);
    }
}

/// What became of the deliveries of a start.
#[derive(Default)]
struct Ended {
    judged: Vec<(Delivery, Judged)>,
    deferred: Vec<Deferral<Delivery>>,
    held: Vec<(Delivery, Reason, String)>,
    /// Whether the connector's service is known to fail.
    is_failing: bool,
}

/// Sends deliveries of one connector, as it is now.
async fn attempt(
    dispatcher: &Arc<Dispatcher>,
    ticket: Ticket,
    mut items: Vec<Delivery>,
) -> (Report, Ended) {
    let mut ended = Ended::default();
    let Some(first) = items.first() else { return (Report::Unused, ended) };
    let (kind, key) = (first.target.kind, first.target.key.clone());
    if let Some(wait) = dispatcher.shared_pause(kind) {
        let defer = |item| Deferral { item, reason: Reason::RateLimited, wait };
        ended.deferred.extend(items.into_iter().map(defer));
        return (Report::Unused, ended);
    }
    // What stood still while others went on must not send as things were then.
    let partition = dispatcher.state_partition(&key.project);
    let given_up = || items.iter().all(|delivery| delivery.work.is_given_up());
    // A clock that began less than that ago: what is known now is as good.
    let oldest = Instant::now().checked_sub(MAX_AGE).unwrap_or_else(Instant::now);
    if !dispatcher.view().as_of().complete(partition, oldest, given_up).await {
        return (Report::Unused, ended);
    }
    // The connector as it is now, not as it was when each of these was matched: a new secret is used
    // at once, what was deleted gets nothing more, and the answer is about what was sent.
    let now = dispatcher.subscriptions(&key.project).await;
    let mut deliveries = Vec::with_capacity(items.len());
    for mut delivery in items.drain(..) {
        let created_at = Some(delivery.target.created_at);
        match now.still_wanted(&key.connector, delivery.event.kind, created_at) {
            // What belongs to a partition that was given up is its next owner's.
            _ if !delivery.work.start() => {}
            Err(reason) => park::cancel_started(dispatcher, delivery, reason),
            Ok(target) => {
                if let Some((reason, words)) = target.held() {
                    ended.held.push((delivery, reason, words.to_owned()));
                    continue;
                }
                if target.version > delivery.target.version {
                    // It passed the filter that there was when it was matched.
                    if !dispatcher.still_passes(target, &delivery.event) {
                        park::cancel_started(dispatcher, delivery, Reason::Filtered);
                        continue;
                    }
                    delivery.target = Arc::clone(target);
                } else if target.version == delivery.target.version && target.has_kept_token() {
                    // A renewed token makes no new version.
                    delivery.target = Arc::clone(target);
                }
                ended.is_failing = target.is_failing;
                deliveries.push(delivery);
            }
        }
    }
    if deliveries.is_empty() {
        return (Report::Unused, ended);
    }
    let judged = AssertUnwindSafe(send_all(dispatcher, ticket, &deliveries)).catch_unwind().await;
    let judged = judged.unwrap_or_else(|_| {
        deliveries.iter().map(|_| unsent(Verdict::dead(Reason::Bug, Reason::Bug.help()))).collect()
    });
    let judged = dispatcher.weigh(&deliveries, judged);
    let mut answers = Vec::with_capacity(deliveries.len());
    for (delivery, judged) in deliveries.into_iter().zip(judged) {
        match judged.verdict {
            // Nothing was sent, and it was not the destination's fault: no attempt is used up.
            Verdict::Retry { reason: Reason::LaneFull, detail, .. } => {
                ended.held.push((delivery, Reason::LaneFull, detail));
            }
            _ => answers.push((delivery, judged)),
        }
    }
    let verdicts = answers.iter().map(|(d, j)| (d.target.version, &j.verdict));
    let report = if answers.is_empty() { Report::Unused } else { Report::of(verdicts) };
    ended.judged = answers;
    (report, ended)
}

/// Sends deliveries of one connector, in as many requests as needed; one judgement for each.
async fn send_all(
    dispatcher: &Arc<Dispatcher>,
    ticket: Ticket,
    deliveries: &[Delivery],
) -> Vec<Judged> {
    let Some(first) = deliveries.first() else { return Vec::new() };
    let target = Arc::clone(&first.target);
    let Ok(destination) = &target.destination else {
        let verdict = || Verdict::retry(Reason::Unusable, "the connector cannot be used");
        return deliveries.iter().map(|_| unsent(verdict())).collect();
    };
    let timeout = dispatcher.timeout(target.kind);
    let sender = Sender::new(dispatcher, &target, timeout, first.source, Some(ticket));
    let setup = match sender.set_up(destination.as_ref()).await {
        Ok(setup) => setup,
        Err(verdict) => return deliveries.iter().map(|_| unsent(verdict.clone())).collect(),
    };
    let sent_at = clock::now();
    let judged = if let [delivery] = deliveries {
        let (item, trace) = (delivery.item(sent_at, &setup), delivery.traceparent.as_deref());
        sender.exchange(destination.as_ref(), &[item], &[trace]).await
    } else {
        let items: Vec<Item<'_>> = deliveries.iter().map(|d| d.item(sent_at, &setup)).collect();
        let traces: Vec<Option<&str>> =
            deliveries.iter().map(|d| d.traceparent.as_deref()).collect();
        // Boxed, so that it adds nothing to the task of a single delivery.
        Box::pin(sender.exchange_groups(destination.as_ref(), &items, &traces)).await
    };
    let stale = judged.iter().any(|judged| {
        matches!(judged.verdict, Verdict::Retry { reason: Reason::PrerequisiteMissing, .. })
    });
    if stale {
        *target.setup.lock() = None;
    }
    judged
}
