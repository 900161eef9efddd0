//! Creating and checking topics.

use std::time::{Duration, Instant};

use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication},
    error::RDKafkaErrorCode,
};

use super::{Connection, KafkaError, REQUEST_TIMEOUT, TopicKind, Topics, refusal::Listening};
use crate::telemetry;

/// Creates and checks topics.
pub struct Admin {
    connection: Connection,
    client: AdminClient<Listening>,
}

/// How a topic differs from what it should be.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Difference {
    /// The topic.
    pub topic: String,
    /// What differs.
    pub what: String,
    /// What it should be.
    pub expected: String,
    /// What it is.
    pub actual: String,
}

impl Admin {
    /// Connects lazily; the first request tells whether the broker answers.
    pub fn new(connection: &Connection) -> Result<Self, KafkaError> {
        let client = connection
            .client(&[])
            .create_with_context(Listening::default())
            .map_err(|e| KafkaError::settings(&e))?;
        Ok(Self { connection: connection.clone(), client })
    }

    /// The cluster's id.
    pub async fn cluster_id(&self) -> Result<String, KafkaError> {
        let connection = self.connection.clone();
        let consumer: rdkafka::consumer::BaseConsumer<Listening> = connection
            .client(&[])
            .create_with_context(Listening::default())
            .map_err(|e| KafkaError::settings(&e))?;
        tokio::task::spawn_blocking(move || {
            use rdkafka::consumer::Consumer;
            // The metadata request first, because it says why the broker cannot be reached.
            consumer
                .client()
                .fetch_metadata(None, REQUEST_TIMEOUT)
                .map_err(|e| KafkaError::request(&connection, &e).with_reason(&connection))?;
            Ok(consumer.client().fetch_cluster_id(REQUEST_TIMEOUT).unwrap_or_default())
        })
        .await
        .map_err(|e| KafkaError::Other(telemetry::early_end(&e)))?
    }

    /// How many partitions a topic has; 0 when it does not exist.
    pub fn partitions(&self, topic: &str) -> Result<i32, KafkaError> {
        self.partitions_within(topic, REQUEST_TIMEOUT)
    }

    /// The same, with an answer within this time.
    pub fn partitions_within(&self, topic: &str, timeout: Duration) -> Result<i32, KafkaError> {
        let metadata = self
            .client
            .inner()
            .fetch_metadata(Some(topic), timeout)
            .map_err(|e| KafkaError::request(&self.connection, &e))?;
        let found = metadata.topics().iter().find(|t| t.name() == topic && t.error().is_none());
        Ok(found.map_or(0, |t| i32::try_from(t.partitions().len()).unwrap_or(i32::MAX)))
    }

    /// Creates the topics that are missing; returns their names.
    pub async fn ensure(
        &self,
        topics: &Topics,
        partitions: i32,
        replication: i32,
    ) -> Result<Vec<String>, KafkaError> {
        // Asked first, because it says sooner and clearer when the broker cannot be reached.
        self.client
            .inner()
            .fetch_metadata(None, REQUEST_TIMEOUT)
            .map_err(|e| KafkaError::request(&self.connection, &e).with_reason(&self.connection))?;
        let plans: Vec<_> = topics.all().into_iter().map(|kind| topics.plan(kind)).collect();
        let settings: Vec<_> = plans.iter().map(super::TopicPlan::broker_settings).collect();
        let new: Vec<NewTopic<'_>> = plans
            .iter()
            .zip(&settings)
            .map(|(plan, settings)| {
                let topic =
                    NewTopic::new(&plan.name, partitions, TopicReplication::Fixed(replication));
                settings.iter().fold(topic, |topic, (key, value)| topic.set(key, value))
            })
            .collect();
        let options = AdminOptions::new()
            .operation_timeout(Some(REQUEST_TIMEOUT))
            .request_timeout(Some(2 * REQUEST_TIMEOUT));
        let results = self
            .client
            .create_topics(&new, &options)
            .await
            .map_err(|e| KafkaError::request(&self.connection, &e))?;
        let mut created = Vec::new();
        for result in results {
            match result {
                Ok(name) => created.push(name),
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((name, code)) => {
                    return Err(KafkaError::Other(format!("cannot create topic {name}: {code}")));
                }
            }
        }
        self.wait_for_leaders(&created).await?;
        Ok(created)
    }

    /// Waits until the broker serves every partition of these topics: it answers the request that
    /// creates them a little earlier, and whoever uses them at once would be refused.
    async fn wait_for_leaders(&self, topics: &[String]) -> Result<(), KafkaError> {
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        loop {
            let metadata = self
                .client
                .inner()
                .fetch_metadata(None, REQUEST_TIMEOUT)
                .map_err(|e| KafkaError::request(&self.connection, &e))?;
            let is_served = |name: &String| {
                let found = metadata.topics().iter().find(|topic| topic.name() == name);
                found.is_some_and(|topic| {
                    let partitions = topic.partitions();
                    !partitions.is_empty() && partitions.iter().all(|p| p.leader() >= 0)
                })
            };
            match topics.iter().find(|name| !is_served(name)) {
                None => return Ok(()),
                Some(name) if Instant::now() > deadline => {
                    return Err(KafkaError::Other(format!(
                        "topic {name} was created, but not all of its partitions have a leader yet"
                    )));
                }
                Some(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// Says what differs from how the topics should be.
    pub async fn check(
        &self,
        topics: &Topics,
        partitions: i32,
        replication: i32,
    ) -> Result<Vec<Difference>, KafkaError> {
        let mut differences = Vec::new();
        let metadata =
            self.client.inner().fetch_metadata(None, REQUEST_TIMEOUT).map_err(|e| {
                KafkaError::request(&self.connection, &e).with_reason(&self.connection)
            })?;
        let mut counts = Vec::new();
        for plan in topics.all().into_iter().map(|kind| topics.plan(kind)) {
            let mut differs = |what: &str, expected: String, actual: String| {
                let (topic, what) = (plan.name.clone(), what.to_owned());
                differences.push(Difference { topic, what, expected, actual });
            };
            let found = metadata.topics().iter().find(|topic| topic.name() == plan.name);
            let Some(found) = found else {
                differs("topic", "exists".to_owned(), "missing".to_owned());
                continue;
            };
            let count = i32::try_from(found.partitions().len()).unwrap_or(i32::MAX);
            counts.push((plan.name.clone(), count));
            if count != partitions {
                differs("partitions", partitions.to_string(), count.to_string());
            }
            let replicas = found.partitions().iter().map(|p| p.replicas().len()).min();
            let replicas = replicas.and_then(|n| i32::try_from(n).ok()).unwrap_or_default();
            if replicas != replication {
                differs("replication factor", replication.to_string(), replicas.to_string());
            }
            let resource = ResourceSpecifier::Topic(&plan.name);
            let options = AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT));
            let described = self
                .client
                .describe_configs(&[resource], &options)
                .await
                .map_err(|e| KafkaError::request(&self.connection, &e))?;
            let Some(Ok(config)) = described.into_iter().next() else { continue };
            for (key, expected) in plan.broker_settings() {
                let actual = config.get(key).and_then(|entry| entry.value.clone());
                if actual.as_deref() != Some(expected.as_str()) {
                    differs(key, expected, actual.unwrap_or_default());
                }
            }
        }
        for name in self.former_tiers(topics)? {
            differences.push(Difference {
                topic: name,
                what: "retry topic".to_owned(),
                expected: "listed in delivery.retry_tiers, or empty".to_owned(),
                actual: "not listed, and holds records".to_owned(),
            });
        }
        let count = |kind| {
            let name = topics.name(kind);
            counts.iter().find(|(n, _)| *n == name).map(|(_, count)| *count)
        };
        let (commands, state) = (count(TopicKind::Commands), count(TopicKind::State));
        if let (Some(commands), Some(state)) = (commands, state)
            && commands != state
        {
            differences.push(Difference {
                topic: topics.name(TopicKind::State),
                what: "partitions, which must be as many as the commands topic has".to_owned(),
                expected: commands.to_string(),
                actual: state.to_string(),
            });
        }
        Ok(differences)
    }

    /// The topics that take smaller records than this program may write, with their limit.
    pub fn record_limits(&self, topics: &Topics) -> Result<Vec<(String, usize)>, KafkaError> {
        const LIMIT: &str = "max.message.bytes";
        if self.connection.is_embedded() {
            return Ok(Vec::new());
        }
        let kinds = topics.all().into_iter().map(|kind| topics.plan(kind));
        let names: Vec<String> = kinds
            .filter(|plan| plan.settings.iter().any(|(key, _)| *key == LIMIT))
            .map(|plan| plan.name)
            .collect();
        let resources: Vec<_> = names.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
        let options = AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT));
        let described = block_on(self.client.describe_configs(&resources, &options))
            .map_err(|e| KafkaError::request(&self.connection, &e))?;
        // What may not be described, or is missing, shows elsewhere.
        let limits = names.into_iter().zip(described).filter_map(|(name, config)| {
            let config = config.ok()?;
            let limit: usize = config.get(LIMIT)?.value.as_deref()?.parse().ok()?;
            (limit < super::MAX_RECORD_BYTES).then_some((name, limit))
        });
        Ok(limits.collect())
    }

    /// Retry topics that are not tiers any more and still hold records.
    pub fn former_tiers(&self, topics: &Topics) -> Result<Vec<String>, KafkaError> {
        let metadata = self
            .client
            .inner()
            .fetch_metadata(None, REQUEST_TIMEOUT)
            .map_err(|e| KafkaError::request(&self.connection, &e))?;
        let mut former = Vec::new();
        for topic in metadata.topics().iter().filter(|topic| topics.is_former_tier(topic.name())) {
            for partition in topic.partitions() {
                let (oldest, end) = self
                    .client
                    .inner()
                    .fetch_watermarks(topic.name(), partition.id(), REQUEST_TIMEOUT)
                    .map_err(|e| KafkaError::request(&self.connection, &e))?;
                if oldest < end {
                    former.push(topic.name().to_owned());
                    break;
                }
            }
        }
        Ok(former)
    }

    /// Fails when a topic that `serve` needs is missing.
    pub fn require(&self, topics: &Topics) -> Result<(), KafkaError> {
        let metadata =
            self.client.inner().fetch_metadata(None, REQUEST_TIMEOUT).map_err(|e| {
                KafkaError::request(&self.connection, &e).with_reason(&self.connection)
            })?;
        for kind in topics.all() {
            let name = topics.name(kind);
            if !metadata.topics().iter().any(|topic| topic.name() == name) {
                return Err(self.why_missing(name));
            }
        }
        Ok(())
    }

    /// A topic that may not be described is not listed, as if it did not exist; asked for by its name
    /// the broker says which of the two it is.
    fn why_missing(&self, name: String) -> KafkaError {
        let asked = self.client.inner().fetch_metadata(Some(&name), REQUEST_TIMEOUT);
        let denied = RDKafkaErrorCode::TopicAuthorizationFailed;
        let is_denied = asked.is_ok_and(|metadata| {
            let found = metadata.topics().iter().find(|topic| topic.name() == name);
            found
                .and_then(rdkafka::metadata::MetadataTopic::error)
                .is_some_and(|e| RDKafkaErrorCode::from(e) == denied)
        });
        if is_denied { KafkaError::Forbidden(name) } else { KafkaError::TopicMissing(name) }
    }

    /// Fails when some projects have no partition of the commands topic that their commands could be
    /// in: they are spread over so many.
    pub fn require_commands(&self, topics: &Topics, partitions: i32) -> Result<(), KafkaError> {
        let name = topics.name(TopicKind::Commands);
        let found = self.partitions(&name)?;
        if found >= partitions {
            return Ok(());
        }
        Err(KafkaError::Other(format!(
            "topic {name} has {found} partitions, but the connectors' state is spread over \
             {partitions}: the projects of the others could never be changed. Give it {partitions} \
             partitions (kafka-topics --alter --topic {name} --partitions {partitions})"
        )))
    }

    /// Deletes every record of a topic's partitions before these offsets. Kafka can delete the
    /// beginning of a partition only.
    pub async fn delete_before(
        &self,
        topic: &str,
        offsets: &std::collections::BTreeMap<i32, i64>,
    ) -> Result<(), KafkaError> {
        let mut list = rdkafka::TopicPartitionList::new();
        for (partition, offset) in offsets {
            list.add_partition_offset(topic, *partition, rdkafka::Offset::Offset(*offset))
                .map_err(|e| KafkaError::Other(e.to_string()))?;
        }
        let options = AdminOptions::new()
            .operation_timeout(Some(REQUEST_TIMEOUT))
            .request_timeout(Some(2 * REQUEST_TIMEOUT));
        let deleted = self
            .client
            .delete_records(&list, &options)
            .await
            .map_err(|e| KafkaError::request(&self.connection, &e))?;
        for element in deleted.elements() {
            element.error().map_err(|error| {
                KafkaError::Other(format!(
                    "{topic}-{} could not be purged: {error}",
                    element.partition()
                ))
            })?;
        }
        Ok(())
    }
}

/// Waits for a request on a thread that may block.
fn block_on<T>(request: impl Future<Output = T>) -> T {
    tokio::runtime::Handle::current().block_on(request)
}
