//! Looks after the cluster while the service runs: whether it answers, and whether the topics are
//! what they were at the start.

use std::{collections::BTreeMap, time::Duration};

use parking_lot::Mutex;

use super::{
    Admin, Connection, Identities, KafkaError, MAX_RECORD_BYTES, TopicFacts, TopicKind, Topics,
};

/// A broker that does not answer within this time counts as one that does not answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// What kind of trouble it is: a closed list, for metrics.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum TroubleKind {
    /// No broker answers.
    Unreachable,
    /// A topic is gone.
    TopicMissing,
    /// A topic has other partitions than at the start of this instance.
    PartitionsChanged,
    /// A topic was created anew since the start of this instance.
    TopicReplaced,
    /// The state topic was: this instance's view is that of another one.
    StateReplaced,
    /// A topic takes smaller records than this program may write.
    RecordLimit,
    /// A retry topic that is not in the settings still holds records.
    FormerTier,
}

impl TroubleKind {
    /// Every kind.
    pub const ALL: &[Self] = &[
        Self::Unreachable,
        Self::TopicMissing,
        Self::PartitionsChanged,
        Self::TopicReplaced,
        Self::StateReplaced,
        Self::RecordLimit,
        Self::FormerTier,
    ];

    /// The name in metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::TopicMissing => "topic_missing",
            Self::PartitionsChanged => "partitions_changed",
            Self::TopicReplaced => "topic_replaced",
            Self::StateReplaced => "state_replaced",
            Self::RecordLimit => "record_limit",
            Self::FormerTier => "former_tier",
        }
    }

    /// Whether the service cannot do its work meanwhile.
    #[must_use]
    pub const fn stops_work(self) -> bool {
        matches!(self, Self::Unreachable | Self::TopicMissing | Self::StateReplaced)
    }

    /// Whether this instance has to start again.
    #[must_use]
    pub const fn ends_instance(self) -> bool {
        matches!(self, Self::StateReplaced)
    }
}

/// Something that an operator should know of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trouble {
    /// Its kind.
    pub kind: TroubleKind,
    /// In a sentence that says what to do.
    pub words: String,
}

/// How often settings and former tiers are looked at, in looks at the topics.
const SETTINGS_EVERY: u32 = 12;

/// Looks at the cluster and compares it with what it was.
pub struct Watch {
    connection: Connection,
    inner: Mutex<Inner>,
    topics: Topics,
    at_start: BTreeMap<String, TopicFacts>,
}

struct Inner {
    admin: Admin,
    identities: Identities,
    looks: u32,
    /// What the last look at settings and former tiers found.
    slow: Vec<Trouble>,
}

impl Watch {
    /// Remembers the topics as they are now.
    pub fn new(connection: &Connection, topics: Topics) -> Result<Self, KafkaError> {
        let identities = Identities::new(connection)?;
        let at_start = facts(&identities, &topics)?;
        let admin = Admin::new(connection)?;
        let inner = Inner { admin, identities, looks: 0, slow: Vec::new() };
        Ok(Self { connection: connection.clone(), inner: Mutex::new(inner), topics, at_start })
    }

    /// Asks the cluster; waits for its answer.
    pub fn look(&self) -> Vec<Trouble> {
        let mut inner = self.inner.lock();
        match self.try_look(&mut inner) {
            Ok(troubles) => troubles,
            Err(error) => {
                // A client that was told that there are no brokers asks none again, and these have
                // no statistics to show it, as those of `bootstrap` have.
                if let (Ok(admin), Ok(identities)) =
                    (Admin::new(&self.connection), Identities::new(&self.connection))
                {
                    (inner.admin, inner.identities) = (admin, identities);
                }
                vec![Trouble { kind: TroubleKind::Unreachable, words: error.to_string() }]
            }
        }
    }

    fn try_look(&self, inner: &mut Inner) -> Result<Vec<Trouble>, KafkaError> {
        let now = facts(&inner.identities, &self.topics)?;
        let mut troubles = Vec::new();
        for kind in self.topics.all() {
            let name = self.topics.name(kind);
            let found = now.get(&name).copied();
            let before = self.at_start.get(&name).copied().or(found);
            let partitions = |facts: Option<TopicFacts>| facts.map_or(0, |facts| facts.partitions);
            troubles.extend(compare(kind, &name, partitions(before), partitions(found)));
            if let (Some(TopicFacts { id: Some(then), .. }), Some(TopicFacts { id: Some(now), .. })) =
                (before, found)
                && then != now
            {
                let words = replaced(kind, &name);
                let kind = match kind {
                    TopicKind::State => TroubleKind::StateReplaced,
                    _ => TroubleKind::TopicReplaced,
                };
                troubles.push(Trouble { kind, words });
            }
        }
        if inner.looks.is_multiple_of(SETTINGS_EVERY) {
            inner.slow = slow_troubles(&inner.admin, &self.topics)?;
        }
        inner.looks = inner.looks.wrapping_add(1);
        troubles.extend(inner.slow.iter().cloned());
        Ok(troubles)
    }
}

fn facts(
    identities: &Identities,
    topics: &Topics,
) -> Result<BTreeMap<String, TopicFacts>, KafkaError> {
    let names: Vec<String> = topics.all().into_iter().map(|kind| topics.name(kind)).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    identities.of(&names, ANSWER_TIMEOUT)
}

/// Topics that take smaller records than this program may write, and former tiers.
fn slow_troubles(admin: &Admin, topics: &Topics) -> Result<Vec<Trouble>, KafkaError> {
    let mut troubles = Vec::new();
    for (name, limit) in admin.record_limits(topics)? {
        let words = format!(
            "topic {name} takes records of up to {limit} bytes (max.message.bytes), this program may \
             write {MAX_RECORD_BYTES}: a larger retry becomes a dead letter without its value; \
             `dunmore topics check` shows what to set"
        );
        troubles.push(Trouble { kind: TroubleKind::RecordLimit, words });
    }
    for name in admin.former_tiers(topics)? {
        let words = format!(
            "retry topic {name} is not one of delivery.retry_tiers and still holds records: they are \
             delivered when they fall due; delete the topic when this message is gone"
        );
        troubles.push(Trouble { kind: TroubleKind::FormerTier, words });
    }
    Ok(troubles)
}

/// What it means that a topic was created anew.
fn replaced(kind: TopicKind, name: &str) -> String {
    let meaning = match kind {
        TopicKind::State => {
            "the connectors in it are gone; restore the topic, then restart every instance"
        }
        TopicKind::Commands => "its commands are decided from its beginning",
        TopicKind::Results => "commands under way may get no answer; send them again",
        TopicKind::Events
        | TopicKind::Notices
        | TopicKind::Retry(_)
        | TopicKind::Replay
        | TopicKind::Held => "it is read from its beginning",
        TopicKind::History | TopicKind::Dead | TopicKind::Attempts => "what it held is gone",
    };
    format!("topic {name} was deleted and created anew while this instance ran: {meaning}")
}

fn compare(kind: TopicKind, name: &str, before: i32, now: i32) -> Option<Trouble> {
    if now == 0 {
        let words = KafkaError::TopicMissing(name.to_owned()).to_string();
        return Some(Trouble { kind: TroubleKind::TopicMissing, words });
    }
    if now == before {
        return None;
    }
    let meaning = match kind {
        TopicKind::State => {
            "the state topic must never get more partitions: set topics.state_partitions to the \
             number before, then restart every instance"
        }
        TopicKind::Commands => {
            "commands in the added partitions are passed on to where they belong; nothing has to \
             be done"
        }
        _ => {
            "the added partitions are read as well; records of one key are no longer in one \
             partition, so their order across the change is not kept"
        }
    };
    let words =
        format!("topic {name} had {before} partitions at the start and has {now}: {meaning}");
    Some(Trouble { kind: TroubleKind::PartitionsChanged, words })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_that_changed_is_told_with_what_to_do() {
        assert_eq!(compare(TopicKind::Events, "events", 6, 6), None);
        let told = |kind, now| compare(kind, "t", 6, now).unwrap();
        assert_eq!(told(TopicKind::Dead, 0).kind, TroubleKind::TopicMissing);
        assert!(told(TopicKind::Dead, 0).words.contains("dunmore topics ensure"));
        assert!(told(TopicKind::State, 8).words.contains("topics.state_partitions"));
        assert!(told(TopicKind::Commands, 8).words.contains("nothing has to be done"));
        for kind in [TopicKind::State, TopicKind::Events] {
            assert!(!told(kind, 8).kind.stops_work());
        }
        assert!(TroubleKind::ALL.iter().filter(|kind| kind.stops_work()).count() == 3);
    }
}
