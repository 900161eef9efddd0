//! Where consumer groups stand in their topics: what is committed, where the topics end, and since
//! when the oldest record waits.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    message::Message,
};

use super::{
    Bookmarks, Connection, Identities, KafkaError, REQUEST_TIMEOUT, ServiceGroup, Topics,
    reader::Quiet,
};
use crate::{clock::Timestamp, offsets::Start};

/// How long one wait for a record takes.
const POLL: Duration = Duration::from_millis(50);

/// Where a group stands in a partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Standing {
    /// The group.
    pub group: String,
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The oldest offset that is not done: the committed one, or the oldest of the topic.
    pub next: i64,
    /// The offset behind the last record that may be read.
    pub end: i64,
    /// So many offsets beyond `next` are done already.
    pub done: u64,
    /// So many offsets behind `end` belong to transactions that are still open.
    pub open: u64,
}

impl Standing {
    /// How many offsets are not done.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        u64::try_from(self.end - self.next).unwrap_or(0).saturating_sub(self.done)
    }
}

/// A topic and a partition.
type Place = (String, i32);

struct Group {
    which: ServiceGroup,
    bookmarks: Bookmarks,
}

/// A group, and the partitions that it reads now.
struct Reading<'a> {
    group: &'a Group,
    partitions: Vec<Place>,
}

/// Asks where the groups of the service stand, with clients that are kept for the next time.
pub struct Standings {
    connection: Connection,
    topics: Topics,
    /// What the groups are named after.
    name: String,
    identities: Identities,
    committed: BaseConsumer<Quiet>,
    uncommitted: BaseConsumer<Quiet>,
    groups: Vec<Group>,
}

impl Standings {
    /// Of the groups that are named after this one. The clients connect at the first request.
    pub fn new(connection: &Connection, topics: &Topics, name: &str) -> Result<Self, KafkaError> {
        let groups = ServiceGroup::BEHIND.into_iter().map(|which| {
            let bookmarks = Bookmarks::new(connection, &which.id(name))?;
            Ok(Group { which, bookmarks })
        });
        Ok(Self {
            connection: connection.clone(),
            topics: topics.clone(),
            name: name.to_owned(),
            identities: Identities::new(connection)?,
            committed: client(connection, "read_committed")?,
            uncommitted: client(connection, "read_uncommitted")?,
            groups: groups.collect::<Result<_, KafkaError>>()?,
        })
    }

    /// The topics that a group reads: also those of former tiers, in which deliveries may wait.
    fn topics_of(&self, group: ServiceGroup, former: &[String]) -> Vec<String> {
        let mut topics = group.topics(&self.topics);
        if group == ServiceGroup::Retry {
            topics.extend_from_slice(former);
        }
        topics
    }

    /// The retry topics that are there and not in the settings any more.
    fn former_tiers(&self) -> Result<Vec<String>, KafkaError> {
        let metadata = self.committed.fetch_metadata(None, REQUEST_TIMEOUT);
        let metadata = metadata.map_err(|e| KafkaError::request(&self.connection, &e))?;
        let names = metadata.topics().iter().map(rdkafka::metadata::MetadataTopic::name);
        Ok(names.filter(|name| self.topics.is_former_tier(name)).map(str::to_owned).collect())
    }

    /// Where each group stands in each partition now. Topics that do not exist are left out. Blocks.
    pub fn ask(&self) -> Result<Vec<Standing>, KafkaError> {
        let former = self.former_tiers()?;
        let read: Vec<(&Group, Vec<String>)> =
            self.groups.iter().map(|group| (group, self.topics_of(group.which, &former))).collect();
        let names: BTreeSet<&str> =
            read.iter().flat_map(|(_, topics)| topics.iter().map(String::as_str)).collect();
        let names: Vec<&str> = names.into_iter().collect();
        let facts = self.identities.of(&names, REQUEST_TIMEOUT)?;
        let reading = read.iter().map(|(group, topics)| {
            let partitions = topics.iter().flat_map(|topic| {
                let count = facts.get(topic).map_or(0, |facts| facts.partitions);
                (0..count).map(|partition| (topic.clone(), partition))
            });
            Reading { group, partitions: partitions.collect() }
        });
        let reading: Vec<Reading<'_>> = reading.collect();
        // First what is done: what ends meanwhile only counts as waiting for a moment longer.
        let kept = reading.iter().map(|one| one.group.bookmarks.read(&one.partitions));
        let kept = kept.collect::<Result<Vec<_>, KafkaError>>()?;
        let partitions: BTreeSet<Place> =
            reading.iter().flat_map(|one| one.partitions.iter().cloned()).collect();
        let oldest = self.offsets(&self.committed, &partitions, Offset::Beginning)?;
        let stable = self.offsets(&self.committed, &partitions, Offset::End)?;
        let last = self.offsets(&self.uncommitted, &partitions, Offset::End)?;
        let mut standings = Vec::new();
        for (kept, one) in kept.iter().zip(&reading) {
            for place in &one.partitions {
                let (Some(end), Some(first)) = (stable.get(place), oldest.get(place)) else {
                    continue;
                };
                let kept = kept.get(place).map(|kept| (kept.offset, kept.note.as_str()));
                let topic = facts.get(&place.0).and_then(|facts| facts.id);
                let (next, done) = match Start::of(kept, topic) {
                    Start::Resume { offset, map, .. } => {
                        let beyond = u64::try_from(map.end() - map.watermark()).unwrap_or(0);
                        (offset, beyond.saturating_sub(map.incomplete().count() as u64))
                    }
                    Start::First | Start::NewTopic => (*first, 0),
                };
                let open = last.get(place).map_or(0, |last| last - end);
                standings.push(Standing {
                    group: one.group.which.id(&self.name),
                    topic: place.0.clone(),
                    partition: place.1,
                    next: next.max(*first),
                    end: *end,
                    done: if next < *first { 0 } else { done },
                    open: u64::try_from(open).unwrap_or(0),
                });
            }
        }
        Ok(standings)
    }

    /// When the oldest record that waits in each partition was written; those that did not come
    /// within this time are left out. Blocks.
    pub fn oldest(
        &self,
        standings: &[Standing],
        within: Duration,
    ) -> Result<BTreeMap<Place, Timestamp>, KafkaError> {
        let mut found = BTreeMap::new();
        let mut list = TopicPartitionList::new();
        let mut left = BTreeSet::new();
        for standing in standings.iter().filter(|standing| standing.waiting() > 0) {
            list.add_partition_offset(
                &standing.topic,
                standing.partition,
                Offset::Offset(standing.next),
            )
            .map_err(|e| KafkaError::Other(e.to_string()))?;
            left.insert((standing.topic.clone(), standing.partition));
        }
        if left.is_empty() {
            return Ok(found);
        }
        let consumer = client(&self.connection, "read_committed")?;
        consumer.assign(&list).map_err(|e| KafkaError::request(&self.connection, &e))?;
        let deadline = Instant::now() + within;
        while !left.is_empty() && Instant::now() < deadline {
            let Some(Ok(message)) = consumer.poll(POLL) else { continue };
            let place = (message.topic().to_owned(), message.partition());
            if left.remove(&place) {
                let at = message.timestamp().to_millis().unwrap_or_default();
                found.insert(place, Timestamp::from_millis(at));
            }
        }
        Ok(found)
    }

    /// The first or the last offset of partitions, in one request to each leader. A partition
    /// without an answer is left out.
    fn offsets(
        &self,
        consumer: &BaseConsumer<Quiet>,
        partitions: &BTreeSet<Place>,
        which: Offset,
    ) -> Result<BTreeMap<Place, i64>, KafkaError> {
        let mut asked = TopicPartitionList::new();
        for (topic, partition) in partitions {
            asked
                .add_partition_offset(topic, *partition, which)
                .map_err(|e| KafkaError::Other(e.to_string()))?;
        }
        if asked.count() == 0 {
            return Ok(BTreeMap::new());
        }
        let answer = consumer
            .offsets_for_times(asked, REQUEST_TIMEOUT)
            .map_err(|e| KafkaError::request(&self.connection, &e))?;
        let offsets = answer.elements().into_iter().filter_map(|element| match element.offset() {
            Offset::Offset(offset) if element.error().is_ok() => {
                Some(((element.topic().to_owned(), element.partition()), offset))
            }
            _ => None,
        });
        Ok(offsets.collect())
    }
}

fn client(connection: &Connection, isolation: &str) -> Result<BaseConsumer<Quiet>, KafkaError> {
    connection
        .client(&[
            ("group.id", "dunmore-reader"),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("auto.offset.reset", "earliest"),
            ("fetch.wait.max.ms", "50"),
            // One record of each partition is all that is looked at.
            ("queued.min.messages", "1"),
            ("fetch.message.max.bytes", "65536"),
            ("isolation.level", isolation),
        ])
        .create_with_context(Quiet::new(connection))
        .map_err(|e| KafkaError::settings(&e))
}
