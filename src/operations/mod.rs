//! What operators do with the logs: replay, dead letters, attempts, one event's story. The command
//! line and the admin API both come through here; the decisions are in `replay`.

mod again;
mod attempts;
mod changes;
mod filters;
mod heaps;
mod instance;
mod jobs;
mod lag;
mod letters;
mod names;
mod newest;
mod preview;
mod read;
mod redrive;
mod redriven;
mod run;
mod select;
mod status;
mod trace;
mod undecodable;
mod writer;

pub use again::{Again, RESEND};
pub use attempts::{AttemptPage, AttemptPages};
pub use filters::{FilterTrial, MAX_FILTER_DAYS, MAX_FILTER_RECORDS, Tried};
pub use heaps::{Heap, Heaps};
pub use instance::{InstanceFacts, Suspended};
pub use jobs::StillRunning;
pub use lag::{Lag, PartitionLag, TopicLag};
pub use letters::{Listed, Purge, Told};
pub use preview::{request_of, shown};
pub use redrive::{Redrive, share};
pub use redriven::{CANARY_FAILED, CanaryOutcome, Redriven};
pub use run::{Finished, Progress, Run};
pub use select::{OffsetRange, Survey, WrongOffsets};
pub use status::{DeadWaiting, Failing, Instances, Status};
pub use undecodable::{Exported, Reinjected, Sidecar};

use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::bail;
use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    codec::Codec,
    config::{Config, ConfigError},
    kafka::{Connection, KafkaError, Seen, Spans, Standings, TopicKind, Topics, scan},
};

/// What was asked for is not there, or not any more.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotThere(String);

/// Deliveries per second that a replay or redrive asks for unless it is told otherwise.
pub const DEFAULT_RATE: f64 = 500.0;

/// How far the clocks of instances, brokers and producers may be apart.
const CLOCK_SLACK: Duration = Duration::from_secs(60);

/// Where the logs are.
#[derive(Clone)]
pub struct Operations {
    connection: Connection,
    topics: Topics,
    /// The dead-letter topic's name.
    dead_topic: String,
    codec: Codec,
    /// The consumer group that jobs are named after.
    group: String,
    /// How many records could not be read because the schema registry did not answer.
    unanswered: Arc<AtomicU64>,
    /// What asks how far behind the groups are, once it was asked.
    standings: Arc<Mutex<Option<Arc<Standings>>>>,
    /// Of how many may read at once; with the last clone it goes to others.
    _permit: Option<Arc<OwnedSemaphorePermit>>,
}

impl Operations {
    /// The logs that the settings mean; the codec reads and writes their records.
    pub fn new(config: &Config, codec: Codec) -> Result<Self, ConfigError> {
        let topics = config.topics();
        let group = config.group.id.clone();
        let connection = config.connection()?;
        let dead_topic = topics.name(TopicKind::Dead);
        Ok(Self {
            connection,
            topics,
            dead_topic,
            codec,
            group,
            unanswered: Arc::default(),
            standings: Arc::default(),
            _permit: None,
        })
    }

    /// The same logs with a permit, which is kept until the last call that reads has ended: those
    /// that block go on when whoever asked for them has gone away.
    #[must_use]
    pub fn holding(&self, permit: OwnedSemaphorePermit) -> Self {
        Self { _permit: Some(Arc::new(permit)), ..self.clone() }
    }

    fn topic(&self, kind: TopicKind) -> String {
        self.topics.name(kind)
    }

    /// Reads ranges of a topic. A record that cannot be read because the schema registry does not
    /// answer ends it with an error: it must not be passed over like one that nobody can read.
    /// Blocks.
    fn scan(
        &self,
        topic: &str,
        spans: &Spans,
        mut each: impl FnMut(&Seen<'_>) -> ControlFlow<()>,
    ) -> anyhow::Result<()> {
        let before = self.unanswered();
        scan(&self.connection, topic, spans, |seen| {
            let flow = each(seen);
            if self.unanswered() == before { flow } else { ControlFlow::Break(()) }
        })?;
        if self.unanswered() != before {
            bail!(
                "the schema registry does not answer (schema_registry.url), and records of {topic} \
                 cannot be read without it: try again when it is back"
            );
        }
        Ok(())
    }

    /// Changes when a record could not be read because the schema registry did not answer.
    fn unanswered(&self) -> u64 {
        self.unanswered.load(Ordering::Acquire)
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

#[cfg(test)]
mod tests {
    use tokio::sync::{Semaphore, oneshot};

    use super::*;
    use crate::metrics::Metrics;

    #[tokio::test]
    async fn a_permit_is_kept_until_the_reading_ends_although_the_request_went_away() {
        let mut config = Config::default();
        config.kafka.bootstrap_servers = Some("localhost:1".to_owned());
        let metrics = Arc::new(Metrics::new().unwrap());
        let codec = Codec::new(&config.schema_registry, metrics).unwrap();
        let permits = Arc::new(Semaphore::new(1));
        let permit = Arc::clone(&permits).try_acquire_owned().unwrap();
        let operations = Operations::new(&config, codec).unwrap().holding(permit);
        let (began, begins) = oneshot::channel();
        let (end, ends) = oneshot::channel();
        let request = tokio::spawn(async move {
            let read = move |_: &Operations| {
                began.send(()).unwrap();
                Ok(ends.blocking_recv()?)
            };
            operations.blocking(read).await
        });
        begins.await.unwrap();
        request.abort();
        assert!(request.await.unwrap_err().is_cancelled());
        assert_eq!(permits.available_permits(), 0, "it still reads");
        end.send(()).unwrap();
        assert!(permits.acquire().await.is_ok());
    }
}
