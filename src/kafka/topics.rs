//! The topics: their names and how they must be configured.

use std::time::Duration;

use crate::{
    delivery::RetryPolicy,
    view::{COMPACTION_LAG, TOMBSTONE_RETENTION},
};

const DAY: u64 = 24 * 3600;

/// What a topic is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TopicKind {
    /// Connector commands.
    Commands,
    /// The connectors' state.
    State,
    /// The commands' results.
    Results,
    /// What each accepted command did.
    History,
    /// What connectors' owners must know.
    Notices,
    /// Payment events.
    Events,
    /// Deliveries that wait in a retry tier (its index).
    Retry(usize),
    /// Deliveries to be replayed.
    Replay,
    /// Deliveries of suspended connectors.
    Held,
    /// Dead letters.
    Dead,
    /// The record of every attempt.
    Attempts,
}

/// What happens to old records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cleanup {
    /// They are deleted after so many days.
    DeleteAfterDays(u64),
    /// The last record of each key stays.
    Compact,
}

/// How a topic must be configured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicPlan {
    /// Its full name.
    pub name: String,
    /// What happens to old records.
    pub cleanup: Cleanup,
    /// The topic's other settings.
    pub settings: Vec<(&'static str, String)>,
}

/// The names of all topics.
#[derive(Clone, Debug)]
pub struct Topics {
    prefix: String,
    tiers: Vec<String>,
    hold: Duration,
}

impl Topics {
    /// The topics under a prefix, with one retry topic per tier.
    pub fn new(prefix: &str, policy: &RetryPolicy) -> Self {
        let tiers = policy.tiers().iter().map(|tier| tier.name().to_owned()).collect();
        Self { prefix: prefix.to_owned(), tiers, hold: policy.hold() }
    }

    /// A topic's full name.
    pub fn name(&self, kind: TopicKind) -> String {
        let prefix = &self.prefix;
        match kind {
            TopicKind::Commands => format!("{prefix}connectors.commands"),
            TopicKind::State => format!("{prefix}connectors.state"),
            TopicKind::Results => format!("{prefix}connectors.results"),
            TopicKind::History => format!("{prefix}connectors.history"),
            TopicKind::Notices => format!("{prefix}connectors.notices"),
            TopicKind::Events => format!("{prefix}payments.events"),
            TopicKind::Retry(tier) => {
                format!("{prefix}deliveries.retry.{}", self.tiers.get(tier).map_or("", |t| t))
            }
            TopicKind::Replay => format!("{prefix}deliveries.replay"),
            TopicKind::Held => format!("{prefix}deliveries.held"),
            TopicKind::Dead => format!("{prefix}deliveries.dead"),
            TopicKind::Attempts => format!("{prefix}deliveries.attempts"),
        }
    }

    /// What the names of all retry topics begin with, those of former tiers too.
    pub fn retry_prefix(&self) -> String {
        format!("{}deliveries.retry.", self.prefix)
    }

    /// Whether a topic is one of a retry tier that is not in the settings any more.
    pub fn is_former_tier(&self, topic: &str) -> bool {
        let tier = topic.strip_prefix(&self.retry_prefix());
        tier.is_some_and(|tier| {
            humantime::parse_duration(tier).is_ok() && !self.tiers.iter().any(|known| known == tier)
        })
    }

    /// A subscription to every retry topic: those of the tiers, and those of former tiers, in which
    /// deliveries may still wait. A tier's name begins with a digit.
    pub fn all_retries(&self) -> String {
        format!("^{}[0-9][0-9A-Za-z]*$", regex_text(&self.retry_prefix()))
    }

    /// Every topic.
    pub fn all(&self) -> Vec<TopicKind> {
        let mut kinds = vec![
            TopicKind::Commands,
            TopicKind::State,
            TopicKind::Results,
            TopicKind::History,
            TopicKind::Notices,
            TopicKind::Events,
        ];
        kinds.extend((0..self.tiers.len()).map(TopicKind::Retry));
        kinds.extend([TopicKind::Replay, TopicKind::Held, TopicKind::Dead, TopicKind::Attempts]);
        kinds
    }

    /// How a topic must be configured.
    pub fn plan(&self, kind: TopicKind) -> TopicPlan {
        let large = ("max.message.bytes", super::MAX_RECORD_BYTES.to_string());
        let (cleanup, settings) = match kind {
            TopicKind::Commands => (Cleanup::DeleteAfterDays(7), Vec::new()),
            TopicKind::State => (
                Cleanup::Compact,
                // A registrar that takes over looks up the latest decisions in the records, and
                // repairs need them: as long as results are kept. Of a view that was stopped the
                // tombstones must be there when it comes back.
                vec![
                    ("min.compaction.lag.ms", COMPACTION_LAG.as_millis().to_string()),
                    ("delete.retention.ms", TOMBSTONE_RETENTION.as_millis().to_string()),
                ],
            ),
            TopicKind::Results => (Cleanup::DeleteAfterDays(1), Vec::new()),
            // Longer than a year, so that the same day of last year is there.
            TopicKind::History => (Cleanup::DeleteAfterDays(400), Vec::new()),
            TopicKind::Notices => (Cleanup::DeleteAfterDays(30), Vec::new()),
            TopicKind::Events => {
                // Times choose what is replayed; those of producers' clocks are theirs.
                let append = ("message.timestamp.type", "LogAppendTime".to_owned());
                (Cleanup::DeleteAfterDays(30), vec![large, append])
            }
            TopicKind::Retry(_) | TopicKind::Replay => (Cleanup::DeleteAfterDays(7), vec![large]),
            // What was held for too long is still there when that is noticed after a standstill.
            TopicKind::Held => {
                (Cleanup::DeleteAfterDays(self.hold.as_secs().div_ceil(DAY) + 2), vec![large])
            }
            TopicKind::Dead => (Cleanup::DeleteAfterDays(30), vec![large]),
            TopicKind::Attempts => (Cleanup::DeleteAfterDays(7), Vec::new()),
        };
        TopicPlan { name: self.name(kind), cleanup, settings }
    }
}

impl TopicPlan {
    /// All settings as the broker names them.
    pub fn broker_settings(&self) -> Vec<(&'static str, String)> {
        let mut settings = match self.cleanup {
            Cleanup::DeleteAfterDays(days) => vec![
                ("cleanup.policy", "delete".to_owned()),
                ("retention.ms", (days * 24 * 3600 * 1000).to_string()),
            ],
            Cleanup::Compact => vec![("cleanup.policy", "compact".to_owned())],
        };
        settings.extend(self.settings.iter().cloned());
        settings
    }
}

/// A text as a part of a regular expression that means itself: topic names have letters, digits and
/// `. _ -` only.
fn regex_text(text: &str) -> String {
    text.replace('.', "\\.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topic_has_its_contracted_name_and_cleanup() {
        let topics = Topics::new("dunmore.", &"5s,6h".parse().unwrap());
        let lines: Vec<String> = topics
            .all()
            .into_iter()
            .map(|kind| {
                let plan = topics.plan(kind);
                let settings: Vec<String> =
                    plan.broker_settings().iter().map(|(k, v)| format!("{k}={v}")).collect();
                format!("{} {}", plan.name, settings.join(" "))
            })
            .collect();
        insta::assert_snapshot!(lines.join("\n"));
    }
}
