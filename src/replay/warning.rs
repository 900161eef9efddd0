//! What a careful operator wants to know before old events are sent.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::{History, Plan, Row};
use crate::{
    clock::Timestamp,
    delivery::policy::MAX_DEFERRED_AGE,
    destination::{ConnectorType, docs},
};

/// One thing to consider before sending.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Warning {
    /// What it is about: `repeats`, `age`, `suspended`, `slow`, `waiting`, `unknown`, `timestamps`
    /// or `open_transactions`.
    pub code: &'static str,
    /// The connectors' type, where it is about one.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<ConnectorType>,
    /// How many deliveries, or records, it is about.
    pub deliveries: u64,
    /// In a sentence.
    pub message: String,
}

impl Warning {
    /// A warning about the log, not about a type of connectors.
    #[must_use]
    pub fn of_log(code: &'static str, deliveries: u64, message: String) -> Self {
        Self { code, kind: None, deliveries, message }
    }

    /// Whether it is a reason to ask before sending; others say what is left out.
    #[must_use]
    pub fn asks(&self) -> bool {
        !matches!(self.code, "unknown" | "open_transactions")
    }
}

/// What speaks against sending what a plan counts. Without a history nobody knows what arrived
/// before, so any of it may have.
#[must_use]
pub fn warnings(plan: &Plan, history: Option<&History>, now: Timestamp) -> Vec<Warning> {
    let has_history = history.is_some();
    let mut by_type: BTreeMap<ConnectorType, Vec<&Row>> = BTreeMap::new();
    for row in plan.rows().filter(|row| row.send > 0) {
        by_type.entry(row.kind).or_default().push(row);
    }
    let age = plan.oldest.map_or(Duration::ZERO, |oldest| now.since(oldest));
    let found = by_type.into_iter().flat_map(|(kind, rows)| {
        [
            repeats(kind, &rows, has_history, age),
            too_old(kind, &rows, age),
            suspended(kind, &rows),
            slow(kind, &rows),
        ]
    });
    found.flatten().chain(on_the_way(plan)).chain(not_shown(plan, history)).collect()
}

/// Deliveries that are sent although they will arrive without that.
fn on_the_way(plan: &Plan) -> Option<Warning> {
    let waiting = plan.rows().filter(|row| row.send > 0 && !row.leaves.waiting);
    let deliveries: u64 = waiting.map(|row| row.waiting).sum();
    let message = format!(
        "{deliveries} deliveries wait in a retry tier, in the replay topic or to be read, and will be delivered without this: sent now, they arrive twice; --only-missing leaves them out"
    );
    (deliveries > 0).then(|| Warning::of_log("waiting", deliveries, message))
}

/// Deliveries of which it is not known whether they arrived, left out of what is missing.
fn not_shown(plan: &Plan, history: Option<&History>) -> Option<Warning> {
    let deliveries: u64 = plan.rows().filter(|row| row.leaves.unknown).map(|row| row.unknown).sum();
    if deliveries == 0 {
        return None;
    }
    let since = history.and_then(History::since).map_or_else(
        || {
            "the attempts show nothing that arrived: they are deleted, or the instances do not \
             record it (delivery.attempt_log)"
                .to_owned()
        },
        |since| format!("the attempts show what arrived since {since} only"),
    );
    let message = format!(
        "{since}. Of {deliveries} deliveries it is not known whether they arrived before; they are left out: --include-unknown sends them too"
    );
    Some(Warning::of_log("unknown", deliveries, message))
}

fn repeats(
    kind: ConnectorType,
    rows: &[&Row],
    has_history: bool,
    age: Duration,
) -> Option<Warning> {
    let spec = kind.spec();
    let window = spec.forgets_repeats_after?;
    let may_repeat = |row: &Row| match has_history {
        true if row.leaves.unknown => 0,
        true if row.leaves.arrived => row.unknown,
        true => row.delivered,
        // What is older than its connector cannot have arrived.
        false => row.send.saturating_sub(row.new),
    };
    let deliveries: u64 = rows.iter().map(|row| may_repeat(row)).sum();
    if deliveries == 0 || age <= window {
        return None;
    }
    let memory = if window.is_zero() {
        format!("does not tell repeats apart for good ({})", spec.dedup)
    } else {
        format!(
            "recognises repeats ({}), but these events are up to {} old",
            spec.dedup,
            rough(age)
        )
    };
    let what = if has_history {
        format!("{deliveries} deliveries have arrived before and would arrive twice")
    } else {
        format!("those of {deliveries} deliveries that have arrived before would arrive twice")
    };
    let message = format!("{kind} {memory}: {what}; --only-missing leaves them out");
    Some(Warning { code: "repeats", kind: Some(kind), deliveries, message })
}

fn too_old(kind: ConnectorType, rows: &[&Row], age: Duration) -> Option<Warning> {
    let most = kind.spec().max_event_age.filter(|most| age > *most)?;
    let deliveries = rows.iter().map(|row| row.send).sum();
    let message = format!(
        "{kind} takes no event as of a time more than {} ago: what is older (up to {}) is sent without its time and counts as of now",
        rough(most),
        rough(age)
    );
    Some(Warning { code: "age", kind: Some(kind), deliveries, message })
}

fn suspended(kind: ConnectorType, rows: &[&Row]) -> Option<Warning> {
    let held: Vec<&&Row> = rows.iter().filter(|row| row.suspended).collect();
    let first = held.first()?;
    let deliveries = held.iter().map(|row| row.send).sum();
    let others = match held.len() {
        1 => String::new(),
        count => format!(" and {} more", count - 1),
    };
    let message = format!(
        "the {kind} connector {}/{}{others} is suspended: {deliveries} deliveries go round the retry tiers until its configuration is changed, and end as dead letters if it is not",
        first.project, first.connector
    );
    Some(Warning { code: "suspended", kind: Some(kind), deliveries, message })
}

/// Deliveries that their lane cannot start within the time that they may be put off.
fn slow(kind: ConnectorType, rows: &[&Row]) -> Option<Warning> {
    let spec = kind.spec();
    let per_request = docs::batch_limits(spec).map_or(1, |limits| limits.items.max(1));
    let rate = spec.rate?.per_second * f64::from(u32::try_from(per_request).unwrap_or(1));
    let most = rows.iter().map(|row| row.send).max()?;
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let takes = Duration::try_from_secs_f64(most as f64 / rate).unwrap_or(Duration::MAX);
    if takes < MAX_DEFERRED_AGE {
        return None;
    }
    let message = format!(
        "{kind} takes {} requests a second: {most} deliveries of one connector take {}, and what waits longer than {} becomes a dead letter; send less at a time, with a lower --rate",
        spec.rate?.per_second,
        rough(takes),
        rough(MAX_DEFERRED_AGE)
    );
    Some(Warning { code: "slow", kind: Some(kind), deliveries: most, message })
}

/// A duration to its leading unit.
fn rough(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..259_200 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(
        kind: ConnectorType,
        age_hours: i64,
        change: impl FnOnce(&mut Row),
    ) -> (Plan, Timestamp) {
        let mut row = Row::for_tests(kind);
        row.send = 10;
        change(&mut row);
        let mut plan = Plan::of_rows(vec![row]);
        plan.oldest = Some(Timestamp::default());
        (plan, Timestamp::from_millis(age_hours * 3_600_000))
    }

    fn told(kind: ConnectorType, age_hours: i64, change: impl FnOnce(&mut Row)) -> Vec<String> {
        let (plan, now) = plan(kind, age_hours, change);
        let found = warnings(&plan, None, now);
        found.into_iter().map(|warning| format!("{}: {}", warning.code, warning.message)).collect()
    }

    #[test]
    fn what_speaks_against_sending_is_told() {
        let mut all = told(ConnectorType::Email, 25, |_| {});
        all.extend(told(ConnectorType::Amplitude, 200, |_| {}));
        all.extend(told(ConnectorType::Ga4, 73, |row| row.new = 10));
        all.extend(told(ConnectorType::Datadog, 19, |row| row.new = 10));
        all.extend(told(ConnectorType::Xero, 1, |row| row.suspended = true));
        all.extend(told(ConnectorType::Slack, 1, |row| {
            (row.send, row.new) = (400_000, 400_000);
        }));
        insta::assert_snapshot!(all.join("\n"));
    }

    #[test]
    fn what_is_harmless_is_not() {
        assert_eq!(told(ConnectorType::Email, 23, |_| {}), Vec::<String>::new());
        assert_eq!(told(ConnectorType::Segment, 25, |row| row.new = 10), Vec::<String>::new());
        assert_eq!(told(ConnectorType::Xero, 2000, |_| {}), Vec::<String>::new());
        let (plan, now) = plan(ConnectorType::Slack, 1, |row| {
            (row.delivered, row.leaves.arrived, row.leaves.unknown) = (5, true, true);
        });
        assert_eq!(warnings(&plan, Some(&History::default()), now), []);
    }
}
