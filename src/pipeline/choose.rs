//! Which connectors an event goes to: those that want its type, and of them those whose filter it
//! passes. A filter that fails on an event lets it through. A notice never goes to the connector
//! that it is about.

use std::{borrow::Cow, sync::Arc};

use super::dispatch::Dispatcher;
use crate::{
    event::Event,
    filter::Facts,
    view::{Subscriptions, Target},
};

/// The connectors that want an event's type.
pub struct Chosen<'a> {
    /// Those that the event goes to.
    pub passed: Cow<'a, [Arc<Target>]>,
    /// Those whose filter it does not pass.
    pub filtered: Vec<Arc<Target>>,
}

impl Chosen<'_> {
    /// Whether they are others than all who want the type.
    pub fn is_own(&self) -> bool {
        matches!(self.passed, Cow::Owned(_))
    }
}

/// Those that an event is not about.
fn others(targets: &[Arc<Target>], event: &Event) -> impl Iterator<Item = Arc<Target>> {
    targets.iter().filter(|target| !event.is_about(&target.key.connector)).cloned()
}

impl Dispatcher {
    /// Who of a project gets an event.
    pub(super) fn choose<'a>(&self, among: &'a Subscriptions, event: &Event) -> Chosen<'a> {
        let targets = among.matching(event.kind);
        if !among.has_filters() && !event.kind.is_notice() {
            return Chosen { passed: Cow::Borrowed(targets), filtered: Vec::new() };
        }
        let facts = Facts::of(&event.json);
        let (passed, filtered): (Vec<_>, Vec<_>) =
            others(targets, event).partition(|target| self.passes(target, &facts));
        Chosen { passed: Cow::Owned(passed), filtered }
    }

    /// Who gets an event that did not get it by an older view: by which of them it was filtered
    /// then is only asked again where the connector has changed.
    pub(super) fn choose_missed(
        &self,
        among: &Subscriptions,
        event: &Event,
        before: &Chosen<'_>,
    ) -> Chosen<'static> {
        let facts = Facts::of(&event.json);
        let is_known =
            |target: &&Arc<Target>| before.passed.iter().any(|one| one.key == target.key);
        let was_filtered = |target: &Arc<Target>| {
            let same = |one: &Arc<Target>| one.key == target.key && one.version == target.version;
            before.filtered.iter().any(same)
        };
        let new = others(among.matching(event.kind), event).filter(|target| !is_known(&target));
        let (passed, filtered): (Vec<_>, Vec<_>) =
            new.partition(|target| !was_filtered(target) && self.passes(target, &facts));
        Chosen { passed: Cow::Owned(passed), filtered }
    }

    /// Whether an event passes a connector's filter, if it has one.
    pub(super) fn passes(&self, target: &Target, facts: &Facts<'_>) -> bool {
        target.passes(facts).unwrap_or_else(|_| {
            self.metrics().filters().failed(target.kind);
            true
        })
    }

    /// Whether what has waited passes the filter of its connector as it is now.
    pub(super) fn still_passes(&self, target: &Target, event: &Event) -> bool {
        target.filter.is_none() || self.passes(target, &Facts::of(&event.json))
    }

    /// Counts those that an event was kept from.
    pub(super) fn count_filtered(&self, filtered: &[Arc<Target>]) {
        for target in filtered {
            self.metrics().filters().filtered(target.kind);
        }
    }
}
