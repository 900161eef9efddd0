//! Looks after the cluster while the service runs: whether it answers, and whether the topics are
//! what they were at the start.

use std::{collections::BTreeMap, time::Duration};

use parking_lot::Mutex;

use super::{Admin, Connection, KafkaError, TopicKind, Topics};

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
}

impl TroubleKind {
    /// Every kind.
    pub const ALL: &[Self] = &[Self::Unreachable, Self::TopicMissing, Self::PartitionsChanged];

    /// The name in metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::TopicMissing => "topic_missing",
            Self::PartitionsChanged => "partitions_changed",
        }
    }

    /// Whether the service cannot do its work meanwhile.
    #[must_use]
    pub const fn stops_work(self) -> bool {
        matches!(self, Self::Unreachable | Self::TopicMissing)
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

/// Looks at the cluster and compares it with what it was.
pub struct Watch {
    connection: Connection,
    admin: Mutex<Admin>,
    topics: Topics,
    at_start: BTreeMap<String, i32>,
}

impl Watch {
    /// Remembers the topics as they are now.
    pub fn new(connection: &Connection, topics: Topics) -> Result<Self, KafkaError> {
        let admin = Admin::new(connection)?;
        let mut at_start = BTreeMap::new();
        for kind in topics.all() {
            let name = topics.name(kind);
            let count = admin.partitions(&name)?;
            at_start.insert(name, count);
        }
        Ok(Self { connection: connection.clone(), admin: Mutex::new(admin), topics, at_start })
    }

    /// Asks the cluster; waits for its answer.
    pub fn look(&self) -> Vec<Trouble> {
        let mut troubles = Vec::new();
        let mut admin = self.admin.lock();
        for kind in self.topics.all() {
            let name = self.topics.name(kind);
            match admin.partitions_within(&name, ANSWER_TIMEOUT) {
                Ok(count) => {
                    let before = self.at_start.get(&name).copied().unwrap_or(count);
                    troubles.extend(compare(kind, &name, before, count));
                }
                Err(error) => {
                    // A client that was told that there are no brokers asks nobody again, and this
                    // one has no statistics to show it, as those of `bootstrap` have.
                    if let Ok(new) = Admin::new(&self.connection) {
                        *admin = new;
                    }
                    let kind = TroubleKind::Unreachable;
                    return vec![Trouble { kind, words: error.to_string() }];
                }
            }
        }
        troubles
    }
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
        assert!(TroubleKind::ALL.iter().filter(|kind| kind.stops_work()).count() == 2);
    }
}
