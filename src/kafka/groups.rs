//! The consumer groups of the service and what each reads: one list for what runs them, what looks
//! after their offsets, and what tells how far behind they are.

use super::{TopicKind, Topics};

/// A consumer group of the service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ServiceGroup {
    /// Delivers events.
    Live,
    /// Delivers notices to the connectors that name them.
    Notices,
    /// Posts notices to the operator's webhook.
    Webhook,
    /// Delivers what waits in retry tiers.
    Retry,
    /// Delivers what replays and redrives ask for.
    Replay,
    /// Keeps the deliveries of suspended connectors; it reads the whole topic, wherever it stands.
    Held,
    /// Decides commands.
    Registrar,
}

/// A group and the topics that it reads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupTopics {
    /// The group's id.
    pub group: String,
    /// The topics, with prefix.
    pub topics: Vec<String>,
}

impl ServiceGroup {
    /// Those that deliver what is behind their position.
    pub const DELIVERING: [Self; 4] = [Self::Live, Self::Notices, Self::Retry, Self::Replay];
    /// Those whose position says what waits, in the order in which that is told.
    pub const BEHIND: [Self; 5] =
        [Self::Live, Self::Notices, Self::Retry, Self::Replay, Self::Registrar];

    /// Its id, which is made of `group.id`.
    #[must_use]
    pub fn id(self, group: &str) -> String {
        let suffix = match self {
            Self::Live => "",
            Self::Notices => ".notices",
            Self::Webhook => ".webhook",
            Self::Retry => ".retry",
            Self::Replay => ".replay",
            Self::Held => ".held",
            Self::Registrar => ".registrar",
        };
        format!("{group}{suffix}")
    }

    /// The topics that it reads: of retry topics those of the tiers in the settings.
    #[must_use]
    pub fn topics(self, topics: &Topics) -> Vec<String> {
        let is_read = |kind: &TopicKind| match self {
            Self::Live => *kind == TopicKind::Events,
            Self::Notices | Self::Webhook => *kind == TopicKind::Notices,
            Self::Retry => matches!(kind, TopicKind::Retry(_)),
            Self::Replay => *kind == TopicKind::Replay,
            Self::Held => *kind == TopicKind::Held,
            Self::Registrar => *kind == TopicKind::Commands,
        };
        topics.all().into_iter().filter(is_read).map(|kind| topics.name(kind)).collect()
    }

    /// What it subscribes to: retry topics by a pattern, because what waits in a tier that is not in
    /// the settings any more is delivered too.
    #[must_use]
    pub fn subscription(self, topics: &Topics) -> Vec<String> {
        match self {
            Self::Retry => vec![topics.all_retries()],
            _ => self.topics(topics),
        }
    }

    /// Itself with its topics.
    #[must_use]
    pub fn reads(self, group: &str, topics: &Topics) -> GroupTopics {
        GroupTopics { group: self.id(group), topics: self.topics(topics) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn each_group_reads_its_topics_and_no_two_read_the_same() {
        let topics = Topics::new("x.", &Config::default().delivery.policy());
        let read = |group: ServiceGroup| group.reads("g", &topics);
        assert_eq!(read(ServiceGroup::Live).group, "g");
        assert_eq!(read(ServiceGroup::Live).topics, ["x.payments.events"]);
        assert_eq!(read(ServiceGroup::Registrar).group, "g.registrar");
        assert_eq!(read(ServiceGroup::Retry).topics.len(), 6);
        let all: Vec<String> =
            ServiceGroup::BEHIND.iter().flat_map(|group| group.topics(&topics)).collect();
        let mut once = all.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!((all.len(), once.len()), (10, 10));
        assert_eq!(ServiceGroup::Retry.subscription(&topics), [topics.all_retries()]);
        assert_eq!(ServiceGroup::Held.subscription(&topics), ["x.deliveries.held"]);
    }

    #[test]
    fn a_former_tier_is_a_retry_topic_that_the_settings_do_not_name() {
        let topics = Topics::new("x.", &Config::default().delivery.policy());
        let is_former = |tier: &str| topics.is_former_tier(&format!("x.deliveries.retry.{tier}"));
        assert!(is_former("7s") && is_former("3h"));
        assert!(!is_former("5s"), "a tier of the settings");
        assert!(!is_former("dead") && !is_former(""));
        assert!(!topics.is_former_tier("deliveries.retry.7s"), "another prefix");
    }
}
