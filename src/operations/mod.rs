//! What operators do with the logs: replay, dead letters, attempts, one event's story. The command
//! line and the admin API both come through here; the decisions are in `replay`.

mod attempts;
mod jobs;
mod letters;
mod preview;
mod read;
mod redrive;
mod run;
mod select;
mod trace;
mod undecodable;
mod writer;

pub use jobs::StillRunning;
pub use letters::{Listed, Purge};
pub use preview::shown;
pub use redrive::{CanaryOutcome, Redrive, Redriven, check_canary, share};
pub use run::{Finished, Progress, Run};
pub use select::{OffsetRange, Survey};
pub use undecodable::{Exported, Sidecar};

use crate::{
    codec::Codec,
    config::{Config, ConfigError},
    kafka::{Connection, KafkaError, TopicKind, Topics},
};

/// Deliveries per second that a replay or redrive asks for unless it is told otherwise.
pub const DEFAULT_RATE: f64 = 500.0;

/// Where the logs are.
#[derive(Clone)]
pub struct Operations {
    connection: Connection,
    topics: Topics,
    codec: Codec,
    /// The consumer group that jobs are named after.
    group: String,
}

impl Operations {
    /// The logs that the settings mean; the codec reads and writes their records.
    pub fn new(config: &Config, codec: Codec) -> Result<Self, ConfigError> {
        let topics = Topics::new(&config.topics.prefix, &config.delivery.retry_tiers);
        let group = config.group.id.clone();
        Ok(Self { connection: config.connection()?, topics, codec, group })
    }

    fn topic(&self, kind: TopicKind) -> String {
        self.topics.name(kind)
    }

    /// Runs a call that blocks, beside the runtime.
    pub async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Self) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let own = self.clone();
        tokio::task::spawn_blocking(move || call(&own))
            .await
            .map_err(|error| KafkaError::Other(error.to_string()))?
    }
}
