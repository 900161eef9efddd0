//! The pipeline: the loops that move records between Kafka, the view and the lanes. They hold no
//! business rules; those are in the pure rooms.

mod account;
mod attempt;
mod budget;
mod choose;
mod credentials;
mod dispatch;
mod held;
mod notice_hook;
#[cfg(test)]
mod panic_tests;
mod park;
mod records;
mod refuse;
mod registrar;
mod reports;
mod sender;
mod supervisor;
mod view_ends;
mod view_feed;
mod work;
mod worker;

pub use dispatch::{DispatchOptions, Dispatcher, TypeLimits};
pub use held::HeldEvents;
pub use notice_hook::NoticeHook;
pub use registrar::{Registrar, RegistrarEvents};
pub use sender::test_send;
pub use supervisor::Supervisor;
pub use view_ends::watch as watch_view_ends;
pub use view_feed::ViewFeed;
pub use work::{Delivery, RecordWork, Share};

use std::{collections::HashMap, sync::Arc};

use crate::kafka::{Assigned, GroupEvents, Partition, TopicKind, Topics};
use records::Records;

/// Header of a state record: the number of the command that caused it. It is the command's offset,
/// as long as the commands topic was never made anew.
pub const COMMAND_OFFSET: &str = "dunmore-command-offset";
/// Header of a state record: the id of the command that caused it.
pub const COMMAND_ID: &str = "dunmore-command-id";
/// Header of a state record and of a forwarded command: the id of the commands topic that the
/// command was in.
pub const COMMANDS_TOPIC: &str = "dunmore-commands-topic-id";
/// Header of a forwarded command: partition and offset of the record that it was forwarded from,
/// with a slash between.
pub const FORWARDED_FROM: &str = "dunmore-forwarded-from";
/// Header of a forwarded command: how often it was forwarded.
pub const FORWARDED_HOPS: &str = "dunmore-forwarded-hops";
/// Header that is carried through from the event to the destination.
pub const TRACEPARENT: &str = "traceparent";

/// The delivery group's partitions, turned into workers.
pub struct DeliveryEvents {
    dispatcher: Arc<Dispatcher>,
    /// What a topic's records are; a topic that is not listed is a retry tier.
    topics: HashMap<String, Records>,
    prefix: String,
    runtime: tokio::runtime::Handle,
}

impl DeliveryEvents {
    /// Workers run on the current runtime.
    pub fn new(dispatcher: Arc<Dispatcher>, topics: &Topics) -> Self {
        let policy = &dispatcher.options.policy;
        let known = topics.all().into_iter().filter_map(|kind| {
            let records = match kind {
                TopicKind::Events => Records::Events,
                TopicKind::Notices => Records::Notices,
                TopicKind::Replay => Records::Replays,
                TopicKind::Retry(tier) => Records::Retries(policy.tiers().get(tier)?.delay()),
                _ => return None,
            };
            Some((topics.name(kind), records))
        });
        let (topics, prefix) = (known.collect(), topics.retry_prefix());
        Self { dispatcher, topics, prefix, runtime: tokio::runtime::Handle::current() }
    }

    /// A tier that is not in the settings any more: its name says how long its records wait.
    fn former_tier(&self, topic: &str) -> Option<Records> {
        let name = topic.strip_prefix(&self.prefix)?;
        let delay = humantime::parse_duration(name).ok()?;
        tracing::info!(topic, "records of a retry tier that is not in delivery.retry_tiers");
        Some(Records::Retries(delay))
    }
}

impl GroupEvents for DeliveryEvents {
    fn assigned(&self, assigned: Assigned) {
        let topic = Arc::clone(assigned.partition.topic());
        let known = self.topics.get(topic.as_ref()).copied();
        let supervisor = self.dispatcher.supervisor();
        let Some(records) = known.or_else(|| self.former_tier(&topic)) else {
            supervisor.fail(format!("nothing reads the topic {topic}; please report this bug"));
            return;
        };
        let worker = worker::run(Arc::clone(&self.dispatcher), assigned, records);
        supervisor.spawn_on(&self.runtime, "the worker of a partition", worker);
    }

    fn released(&self, partitions: &[Arc<Partition>]) {
        self.dispatcher.release(partitions);
    }
}
