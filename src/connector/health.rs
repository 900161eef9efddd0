//! Whether a connector's service fails, and what its owner was told of that: hidden fields of the
//! connector's state.
//!
//! An outage is told when it begins and when it is over. Of one project each of the two is told at
//! most every five minutes ([`TOLD_EVERY`]): what comes sooner is told together with the next one,
//! or by a reminder that the registrar sends itself. So a vendor's outage does not become a notice
//! for each connector, and none is forgotten.
//!
//! Nothing is stored of what a notice tells of the others: a notice tells all that had happened when
//! its command was decided, and commands are numbered. So one record of state is enough for it.

use serde::{Deserialize, Serialize};

use super::{CommandBody, Connector, ProjectState, SuspensionCode};
use crate::{clock::Timestamp, destination::cut, id::ConnectorId};
use std::time::Duration;

/// Of one project the beginning of outages is told at most once in this time, and so is their end.
pub const TOLD_EVERY: Duration = Duration::from_secs(300);
/// So many of the other connectors that a notice tells of are named; the others are counted.
pub const MAX_NAMED: usize = 10;

/// What is known of a connector's service, and what was told.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Health {
    /// The outage that lasts, or whose end is to be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outage: Option<Outage>,
    /// The last notice about this connector that told of a beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told_failing: Option<Told>,
    /// The last notice about this connector that told of an end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told_recovered: Option<Told>,
}

/// A time in which a connector's service failed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Outage {
    /// When it began.
    pub since: Timestamp,
    /// What the service did, in the words that a suspension would have: `server_error: HTTP 503`.
    pub reason: String,
    /// The number of the command by which it began.
    pub number: i64,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
}

/// The end of an outage.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ended {
    /// The number of the command by which it ended.
    pub number: i64,
    /// Whether its beginning had been told by then.
    pub was_told: bool,
}

/// A notice that was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Told {
    /// When.
    pub at: Timestamp,
    /// The number of its command: what began, or ended, by commands up to it is told.
    pub number: i64,
}

/// One of the two things that are told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// A service began to fail.
    Failing,
    /// It works again.
    Recovered,
}

impl Turn {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Failing, Self::Recovered];

    const fn told(self, health: &Health) -> Option<Told> {
        match self {
            Self::Failing => health.told_failing,
            Self::Recovered => health.told_recovered,
        }
    }

    /// The last notice of a project that told of this.
    fn last(self, state: &ProjectState) -> Option<Told> {
        let all = state.connectors.values().filter_map(|one| self.told(&one.health));
        all.max_by_key(|told| told.number)
    }

    /// The number of the command that made this of a connector, when it is so.
    fn of(self, connector: &Connector) -> Option<i64> {
        let outage = connector.health.outage.as_ref()?;
        match (self, outage.ended) {
            (Self::Failing, None) => Some(outage.number),
            (Self::Recovered, Some(ended)) => Some(ended.number),
            _ => None,
        }
    }

    /// Whether this is so of a connector, and was not told.
    fn is_untold(self, connector: &Connector, last: Option<Told>) -> bool {
        self.of(connector).is_some_and(|number| last.is_none_or(|told| told.number < number))
    }

    /// The other connectors of which it is so, and was not told: the newest ones first.
    fn others(self, state: &ProjectState, but: &ConnectorId) -> Vec<ConnectorId> {
        let last = self.last(state);
        let untold = state
            .connectors
            .iter()
            .filter(|(id, connector)| *id != but && self.is_untold(connector, last));
        let mut untold: Vec<_> = untold.map(|(id, connector)| (self.of(connector), id)).collect();
        untold.sort_by(|a, b| b.cmp(a));
        untold.into_iter().map(|(_, id)| id.clone()).collect()
    }
}

impl Health {
    /// Whether there is nothing to keep.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the service fails, as far as is known.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.outage.as_ref().is_some_and(|outage| outage.ended.is_none())
    }

    /// Since when it fails.
    #[must_use]
    pub fn failing_since(&self) -> Option<Timestamp> {
        self.outage.as_ref().filter(|outage| outage.ended.is_none()).map(|outage| outage.since)
    }

    /// What is known of it in its project: the end of an outage that was told, by whatever notice,
    /// is over and done.
    fn settled(mut self, state: &ProjectState) -> Self {
        let last = Turn::Recovered.last(state).map(|told| told.number);
        let is_told =
            |outage: &Outage| outage.ended.is_some_and(|ended| last >= Some(ended.number));
        self.outage = self.outage.filter(|outage| !is_told(outage));
        self
    }

    /// After a report. A connector that gets no requests does not begin to fail.
    #[must_use]
    pub fn reported(
        state: &ProjectState,
        connector: &Connector,
        report: &CommandBody,
        now: (Timestamp, i64),
    ) -> Self {
        let health = &connector.health;
        match report {
            CommandBody::Failing { reason, since, .. }
                if connector.is_active && connector.suspended_reason.is_none() =>
            {
                health.failing(state, (reason, *since), now)
            }
            CommandBody::Recovered { .. } => health.recovered(state, now),
            _ => health.as_ref().clone(),
        }
    }

    /// After a report that the service fails. An outage that is interrupted for so short that its
    /// end was not told goes on.
    fn failing(
        &self,
        state: &ProjectState,
        (reason, since): (&str, Timestamp),
        (at, number): (Timestamp, i64),
    ) -> Self {
        let mut next = self.clone().settled(state);
        match &mut next.outage {
            Some(outage) => {
                if outage.ended.take().is_some_and(|ended| !ended.was_told) {
                    // What was told meanwhile did not tell of it.
                    outage.number = number;
                }
            }
            None => {
                next.outage = Some(Outage {
                    since: since.min(at),
                    reason: cut(reason, super::MAX_SUSPENDED_REASON_CHARS),
                    number,
                    ended: None,
                });
            }
        }
        let is_told = next.outage.as_ref().is_some_and(|outage| outage.was_told(state));
        if !is_told && is_due(Turn::Failing.last(state), at) {
            next.told_failing = Some(Told { at, number });
        }
        next
    }

    /// After its owner has switched the connector off: then it does not fail. What was told before
    /// stays, until it is known to work again.
    #[must_use]
    pub fn switched_off(&self, state: &ProjectState) -> Self {
        let is_untold = |outage: &Outage| outage.ended.is_none() && !outage.was_told(state);
        let outage = self.outage.clone().filter(|outage| !is_untold(outage));
        Self { outage, ..*self }
    }

    /// After a report that the service works again.
    fn recovered(&self, state: &ProjectState, (at, number): (Timestamp, i64)) -> Self {
        let mut next = self.clone().settled(state);
        let Some(outage) = &mut next.outage else { return next };
        let was_told = outage.was_told(state);
        outage.ended.get_or_insert(Ended { number, was_told });
        if is_due(Turn::Recovered.last(state), at) {
            next.told_recovered = Some(Told { at, number });
            next.outage = None;
        }
        next
    }
}

impl Outage {
    /// Whether its beginning was told, by whatever notice of the project.
    fn was_told(&self, state: &ProjectState) -> bool {
        Turn::Failing.last(state).is_some_and(|told| told.number >= self.number)
    }
}

/// Whether a notice may be made again. One that is of later than now is of a clock that was wrong.
fn is_due(last: Option<Told>, at: Timestamp) -> bool {
    last.is_none_or(|last| at.since(last.at).max(last.at.since(at)) >= TOLD_EVERY)
}

/// A notice that a change of health makes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HealthNotice {
    /// What it tells.
    pub turn: Turn,
    /// Of which outage.
    pub outage: Outage,
    /// The other connectors of which it tells the same, the newest ones first.
    pub others: Vec<ConnectorId>,
}

impl HealthNotice {
    /// Of a connector that was so before and is so after, in the project as it was before.
    #[must_use]
    pub fn of(state: &ProjectState, before: &Connector, after: &Connector) -> Option<Self> {
        let turn = Turn::ALL
            .into_iter()
            .find(|turn| turn.told(&before.health) != turn.told(&after.health))?;
        let known = match turn {
            Turn::Failing => &after.health.outage,
            // Its end is told with it.
            Turn::Recovered => &before.health.outage,
        };
        let outage = known.clone()?;
        Some(Self { turn, outage, others: turn.others(state, &before.key.connector) })
    }

    /// What the service did, as a code.
    #[must_use]
    pub fn reason(&self) -> SuspensionCode {
        SuspensionCode::of(&self.outage.reason)
    }
}

/// What is still to be told of a project.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Untold {
    /// Of these connectors, each of which stands for all others too, it is time to tell.
    pub due: Vec<(Turn, ConnectorId)>,
    /// Whether there is something for which it is not yet time.
    pub is_waiting: bool,
}

impl Untold {
    /// What is to be told of a project at this time.
    #[must_use]
    pub fn of(state: &ProjectState, now: Timestamp) -> Self {
        let mut found = Self::default();
        for turn in Turn::ALL {
            let last = turn.last(state);
            let mut untold = state.connectors.iter().filter(|(_, one)| turn.is_untold(one, last));
            match untold.next() {
                Some((id, _)) if is_due(last, now) => found.due.push((turn, id.clone())),
                Some(_) => found.is_waiting = true,
                None => {}
            }
        }
        found
    }
}
