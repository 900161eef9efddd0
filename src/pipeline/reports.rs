//! What deliveries tell of a connector's service: that it fails, and that it works again. The
//! registrar is told, and decides what becomes of it; what it has accepted comes back by the view.
//!
//! Deliveries of notices tell nothing here: a notice must not cause the next one.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{dispatch::Dispatcher, park, sender::Judged, work::Delivery};
use crate::{
    clock::{self, Timestamp},
    connector::CommandBody,
    delivery::{Reason, Verdict},
    id::ConnectorKey,
    lane::Report,
    view::Target,
};

/// A service fails when its lane's circuit has been open for so long and a request has failed once
/// more. By then it has failed at least eight times: five open the circuit, and the probes after its
/// rests of 5 and 10 seconds. A restart of the service takes less; and there is time left for the
/// notice to arrive within a minute of the first failure.
pub const FAILING_AFTER: Duration = Duration::from_secs(15);
/// The same is told of a connector again after so long, as long as the view does not know it.
const TELL_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// What was told of connectors, and when; at most [`park::MAX_ASKED`] of them.
pub type Reports = BTreeMap<(ConnectorKey, bool), Instant>;

/// Looks at what became of deliveries of one connector.
pub fn look(
    dispatcher: &Arc<Dispatcher>,
    report: Report,
    judged: &[(Delivery, Judged)],
    is_failing: bool,
) {
    let fails = matches!(report, Report::Failing(_));
    if !fails && !is_failing {
        return;
    }
    let payments = || judged.iter().filter(|(delivery, _)| !delivery.event.kind.is_notice());
    let delivered = payments().find(|(_, judged)| judged.verdict == Verdict::Delivered);
    let failed =
        payments().find_map(|(delivery, judged)| Some((delivery, words(&judged.verdict)?)));
    match (delivered, failed) {
        (Some((delivery, _)), _) if is_failing => {
            let target = &delivery.target;
            let connector = target.key.connector.clone();
            tell(dispatcher, target, || CommandBody::Recovered { connector });
        }
        (None, Some((delivery, (reason, detail)))) if fails && !is_failing => {
            let target = &delivery.target;
            let open_for = dispatcher.open_for(&target.key);
            let Some(open_for) = open_for.filter(|long| *long >= FAILING_AFTER) else { return };
            tell(dispatcher, target, || CommandBody::Failing {
                connector: target.key.connector.clone(),
                reason: format!("{reason}: {detail}"),
                since: ago(clock::now(), open_for),
                if_version: Some(target.version),
            });
        }
        _ => {}
    }
}

fn words(verdict: &Verdict) -> Option<(Reason, &str)> {
    match verdict {
        Verdict::Retry { reason, detail, .. }
        | Verdict::Dead { reason, detail }
        | Verdict::Broken { reason, detail, .. } => Some((*reason, detail)),
        Verdict::Delivered | Verdict::Moved { .. } => None,
    }
}

fn ago(now: Timestamp, long: Duration) -> Timestamp {
    let long = i64::try_from(long.as_millis()).unwrap_or(i64::MAX);
    Timestamp::from_millis(now.millis().saturating_sub(long))
}

fn tell(dispatcher: &Arc<Dispatcher>, target: &Target, body: impl FnOnce() -> CommandBody) {
    let now = Instant::now();
    let body = body();
    let report = (target.key.clone(), matches!(body, CommandBody::Failing { .. }));
    {
        let mut reports = dispatcher.reports.lock();
        let known = reports.get(&report);
        if known.is_some_and(|told| now.saturating_duration_since(*told) < TELL_AGAIN_AFTER) {
            return;
        }
        if reports.len() >= park::MAX_ASKED {
            reports.clear();
        }
        // The other thing may be told at once, when it happens.
        reports.remove(&(report.0.clone(), !report.1));
        reports.insert(report, now);
    }
    tracing::info!(connector = %target.key, kind = %target.kind, command = body.name(), "reported");
    park::send_command(dispatcher, target, body);
}
