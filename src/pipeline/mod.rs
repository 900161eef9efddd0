//! The pipeline: the loops that move records between Kafka, the view and the lanes. They hold no
//! business rules; those are in the pure rooms.

mod account;
mod attempt;
mod budget;
mod dispatch;
mod live;
mod park;
mod registrar;
mod retries;
mod view_feed;
mod work;

pub use attempt::test_send;
pub use dispatch::{DispatchOptions, Dispatcher, TypeLimits};
pub use registrar::{Registrar, RegistrarEvents};
pub use view_feed::ViewFeed;
pub use work::{Delivery, RecordWork, Share};

use std::sync::Arc;

use crate::{
    delivery::Source,
    kafka::{Assigned, GroupEvents, Partition, TopicKind, Topics},
};

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

/// What the delivery group's consumer tells, turned into workers.
pub struct DeliveryEvents {
    dispatcher: Arc<Dispatcher>,
    /// Topic name and what its records are.
    topics: Vec<(String, TopicKind)>,
    runtime: tokio::runtime::Handle,
}

impl DeliveryEvents {
    /// Workers run on the current runtime.
    pub fn new(dispatcher: Arc<Dispatcher>, topics: &Topics) -> Self {
        let topics = delivery_topics(topics).into_iter().map(|kind| (topics.name(kind), kind));
        let topics = topics.collect();
        Self { dispatcher, topics, runtime: tokio::runtime::Handle::current() }
    }
}

/// The topics that the delivery group reads.
pub fn delivery_topics(topics: &Topics) -> Vec<TopicKind> {
    topics
        .all()
        .into_iter()
        .filter(|kind| matches!(kind, TopicKind::Events | TopicKind::Retry(_) | TopicKind::Replay))
        .collect()
}

impl GroupEvents for DeliveryEvents {
    fn assigned(&self, assigned: Assigned) {
        let dispatcher = Arc::clone(&self.dispatcher);
        let kind = self
            .topics
            .iter()
            .find(|(name, _)| **name == **assigned.partition.topic())
            .map(|(_, kind)| *kind);
        match kind {
            Some(TopicKind::Events) => {
                self.runtime.spawn(live::run(dispatcher, assigned));
            }
            Some(TopicKind::Retry(tier)) => {
                self.runtime.spawn(retries::run(dispatcher, assigned, Source::Retry, Some(tier)));
            }
            Some(TopicKind::Replay) => {
                self.runtime.spawn(retries::run(dispatcher, assigned, Source::Replay, None));
            }
            _ => {
                let topic = assigned.partition.topic();
                tracing::error!(%topic, "nothing reads this topic; please report this bug");
            }
        }
    }

    fn released(&self, partitions: &[Arc<Partition>]) {
        self.dispatcher.release(partitions);
    }
}
