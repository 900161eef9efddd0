//! How the service is, in one look: everything is read in bounds, and what was left out is named.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use serde::Serialize;

use super::{InstanceFacts, Lag, Operations, Suspended, TopicLag};
use crate::{
    clock::{self, Timestamp},
    connector::{Change, StateKey, SuspensionCode},
    delivery::{AttemptRecord, Outcome},
    kafka::{Bounds, ServiceGroup, TopicKind, members},
    pipeline::COMMAND_OFFSET,
    replay::Answer,
};

/// How long one part may take; what is not there by then is left out.
const PATIENCE: Duration = Duration::from_secs(3);
/// The most attempts that are looked at, the newest ones.
const MAX_ATTEMPTS: u64 = 20_000;
/// The most records of the state topic that are looked at where no instance tells.
const MAX_STATE: u64 = 50_000;

/// How the service is. What is `None` was left out; `left_out` says why.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// When that was looked at.
    pub at: Timestamp,
    /// The consumer group that the others are named after.
    pub group: String,
    /// The members of the groups.
    pub instances: Option<Instances>,
    /// The instance that was asked.
    pub instance: Option<InstanceFacts>,
    /// How far behind the service is.
    pub topics: Option<Vec<TopicLag>>,
    /// Suspended connectors.
    pub suspended: Option<Vec<Suspended>>,
    /// Dead letters that wait.
    pub dead_letters: Option<DeadWaiting>,
    /// The connectors that fail most, lately.
    pub failing: Option<Vec<Failing>>,
    /// How far back `failing` looks, in seconds.
    pub failing_within_seconds: u64,
    /// What was not looked at, or not completely, in sentences.
    pub left_out: Vec<String>,
}

/// How many members the groups have.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Instances {
    /// Instances that deliver events.
    pub delivery: usize,
    /// Instances that decide commands.
    pub registrar: usize,
    /// Their hosts.
    pub hosts: Vec<String>,
}

/// Dead letters that wait for an operator.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadWaiting {
    /// All that were looked at.
    pub waiting: u64,
    /// By reason.
    pub reasons: BTreeMap<String, u64>,
    /// So many older records of the topic were not looked at.
    pub not_read: u64,
}

/// A connector that fails.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Failing {
    /// Its project.
    pub project_id: String,
    /// The connector.
    pub connector_id: String,
    /// Its type.
    pub connector_type: String,
    /// Requests that failed.
    pub failed: u64,
    /// Requests.
    pub requests: u64,
    /// The last real error.
    pub last: Answer,
}

/// A connector's requests.
#[derive(Default)]
struct Requests {
    kind: String,
    failed: u64,
    all: u64,
    last: Option<Answer>,
}

/// Counts requests by connector: project and id.
#[derive(Default)]
struct Counted(HashMap<(String, String), Requests>);

impl Counted {
    fn add(&mut self, attempt: &AttemptRecord<'_>) {
        let answer = Answer::of(attempt, false);
        let is_request = answer.is_some() || attempt.outcome == Outcome::Delivered;
        if !is_request {
            return;
        }
        let key = (attempt.project_id.to_string(), attempt.connector_id.to_string());
        let requests = self.0.entry(key).or_default();
        if requests.kind.is_empty() {
            attempt.connector_type.as_str().clone_into(&mut requests.kind);
        }
        requests.failed += u64::from(answer.is_some());
        requests.all += 1;
        // Partitions come in turns.
        let last = requests.last.as_ref().map(|last| last.at);
        if answer.as_ref().is_some_and(|answer| last.is_none_or(|last| last <= answer.at)) {
            requests.last = answer;
        }
    }

    fn worst(self, most: usize) -> Vec<Failing> {
        let failing = self.0.into_iter().filter_map(|((project_id, connector_id), found)| {
            Some(Failing {
                project_id,
                connector_id,
                connector_type: found.kind,
                failed: found.failed,
                requests: found.all,
                last: found.last?,
            })
        });
        let mut failing: Vec<Failing> = failing.collect();
        failing.sort_by(|a, b| {
            let name = |one: &Failing| (one.project_id.clone(), one.connector_id.clone());
            b.failed.cmp(&a.failed).then_with(|| name(a).cmp(&name(b)))
        });
        failing.truncate(most);
        failing
    }
}

impl Operations {
    /// How the service is. `within` is how far back failing connectors are looked for, `most` how many
    /// of them are listed. `instance` asks one instance.
    pub async fn status(
        &self,
        within: Duration,
        most: usize,
        instance: impl Future<Output = Result<InstanceFacts, String>>,
    ) -> Status {
        let mut left_out = Vec::new();
        let (instances, topics, dead, failing, instance) = tokio::join!(
            self.part(Self::instances),
            self.part(Self::lag),
            self.part(Self::dead_waiting),
            self.part(move |own| own.failing(within, most)),
            instance,
        );
        let instance = instance.map_err(|why| left_out.push(why)).ok();
        // An instance has them counted; else the state topic tells.
        let suspended = match &instance {
            Some(facts) => Some(facts.suspended.clone()),
            None => take(&mut left_out, "suspended connectors", self.part(Self::suspended).await)
                .and_then(|found| {
                    found.ok_or(()).map_err(|()| left_out.push(TOO_MANY.to_owned())).ok()
                }),
        };
        let dead = take(&mut left_out, "dead letters", dead);
        if let Some(dead) = dead.as_ref().filter(|dead| dead.not_read > 0) {
            left_out.push(format!("{} older records of the dead letters", dead.not_read));
        }
        let failing = take(&mut left_out, "failing connectors", failing);
        let failing = failing.map(|(failing, not_read)| {
            if not_read > 0 {
                left_out.push(format!("{not_read} older attempts of this time"));
            }
            failing
        });
        Status {
            at: clock::now(),
            group: self.group.clone(),
            instances: take(&mut left_out, "instances", instances),
            instance,
            topics: take(&mut left_out, "lag", topics).map(|lag: Lag| lag.topics),
            suspended,
            dead_letters: dead,
            failing,
            failing_within_seconds: within.as_secs(),
            left_out,
        }
    }

    /// A part of the status, within its time.
    async fn part<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Self) -> anyhow::Result<T> + Send + 'static,
    ) -> Result<T, String> {
        match tokio::time::timeout(PATIENCE, self.blocking(call)).await {
            Ok(Ok(part)) => Ok(part),
            Ok(Err(error)) => Err(format!("{error:#}")),
            Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
        }
    }

    fn instances(&self) -> anyhow::Result<Instances> {
        let of = |one: ServiceGroup| members(&self.connection, &one.id(&self.group));
        let (delivery, registrar) = (of(ServiceGroup::Live)?, of(ServiceGroup::Registrar)?);
        let hosts = delivery.iter().chain(&registrar);
        let hosts = hosts.map(|member| member.host.trim_start_matches('/').to_owned());
        let hosts: std::collections::BTreeSet<String> = hosts.collect();
        let hosts = hosts.into_iter().collect();
        Ok(Instances { delivery: delivery.len(), registrar: registrar.len(), hosts })
    }

    /// The dead letters that wait, by reason, of the newest ones.
    fn dead_waiting(&self) -> anyhow::Result<DeadWaiting> {
        Ok(self.heaps()?.by_reason())
    }

    /// The connectors that failed most within this time; and how many attempts were not read.
    fn failing(&self, within: Duration, most: usize) -> anyhow::Result<(Vec<Failing>, u64)> {
        let topic = self.topic(TopicKind::Attempts);
        let span = i64::try_from(within.as_millis()).unwrap_or(i64::MAX);
        let from = Timestamp::from_millis(clock::now().millis().saturating_sub(span));
        let spans = Bounds::of(&self.connection, &topic)?.between(Some(from), None)?;
        let mut counted = Counted::default();
        let not_read = self.read_newest(&topic, &spans, MAX_ATTEMPTS, |seen| {
            if let Some(attempt) = seen.value().and_then(|value| self.attempt(value)) {
                counted.add(&attempt);
            }
        })?;
        Ok((counted.worst(most), not_read))
    }

    /// Suspended connectors, read from the state topic; nothing when it has too much to read.
    fn suspended(&self) -> anyhow::Result<Option<Vec<Suspended>>> {
        let topic = self.topic(TopicKind::State);
        let bounds = Bounds::of(&self.connection, &topic)?;
        if bounds.whole().values().map(|span| span.len()).sum::<u64>() > MAX_STATE {
            return Ok(None);
        }
        let mut newest: HashMap<StateKey, (i64, Option<(String, String)>)> = HashMap::new();
        let not_read = self.read_newest(&topic, bounds.whole(), MAX_STATE, |seen| {
            let record = seen.copy();
            let number = record.header_text(COMMAND_OFFSET).and_then(|text| text.parse().ok());
            let (Some(change), Some(number)) = (self.change(&record), number) else { return };
            let class = match &change {
                Change::ConnectorSet(connector) => {
                    connector.suspended_reason.as_deref().map(|reason| {
                        let code = SuspensionCode::of(reason).to_string();
                        (connector.kind.as_str().to_owned(), code)
                    })
                }
                _ => None,
            };
            let key = change.state_key();
            if newest.get(&key).is_none_or(|(known, _)| *known < number) {
                newest.insert(key, (number, class));
            }
        })?;
        if not_read > 0 {
            return Ok(None);
        }
        let mut counts: BTreeMap<(String, String), u64> = BTreeMap::new();
        for class in newest.into_values().filter_map(|(_, class)| class) {
            *counts.entry(class).or_default() += 1;
        }
        let found = counts.into_iter();
        let mut found: Vec<Suspended> =
            found.map(|((kind, reason), count)| Suspended { kind, reason, count }).collect();
        found.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.cmp(b)));
        Ok(Some(found))
    }
}

const TOO_MANY: &str = "suspended connectors: more connectors than are read here; \
                        dunmore connector list --all --suspended reads them all";

/// A part, or why it is left out.
fn take<T>(left_out: &mut Vec<String>, what: &str, part: Result<T, String>) -> Option<T> {
    part.map_err(|why| left_out.push(format!("{what}: {why}"))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(
        connector: &str,
        second: i64,
        outcome: &str,
        status: Option<u16>,
    ) -> AttemptRecord<'static> {
        let at = Timestamp::from_millis(1_800_000_000_000 + second * 1_000);
        let mut json = serde_json::json!({
            "deliveryId": "29add280-1bd3-5738-8b64-5cb6457b81ad", "projectId": "proj_1",
            "connectorId": connector, "connectorType": "slack", "eventId": "evt_1",
            "eventType": "payment.settled", "source": "live", "attempt": 1,
            "outcome": outcome, "at": at,
        });
        if outcome != "delivered" {
            json["reason"] = if status.is_some() { "server_error" } else { "circuit_open" }.into();
        }
        if let Some(status) = status {
            json["status"] = status.into();
            json["durationMs"] = 5.into();
        }
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn the_connectors_that_fail_most_come_first_with_their_last_real_error() {
        let mut counted = Counted::default();
        for (connector, second, outcome, status) in [
            ("a", 1, "retry", Some(503)),
            // Another partition's records come later and are older.
            ("a", 9, "retry", Some(500)),
            ("a", 3, "dead", Some(502)),
            // Put off without a request: no error of the destination's.
            ("a", 10, "deferred", None),
            ("a", 11, "delivered", Some(200)),
            ("b", 1, "delivered", Some(200)),
            ("c", 1, "retry", Some(503)),
        ] {
            counted.add(&attempt(connector, second, outcome, status));
        }
        let worst = counted.worst(5);
        let told: Vec<(&str, u64, u64, Option<u16>)> = worst
            .iter()
            .map(|one| (one.connector_id.as_str(), one.failed, one.requests, one.last.status))
            .collect();
        assert_eq!(told, [("a", 3, 4, Some(500)), ("c", 1, 1, Some(503))]);
    }
}
