//! Groups whose committed offsets are lost.
//!
//! A group that never committed begins at the oldest record. So does one whose offsets are gone,
//! because its name was changed or because no instance ran for longer than the broker keeps them
//! (`offsets.retention.minutes`, seven days by default); and that would send the whole retention to
//! every connector again. Kafka does not say which of the two it is. An installation that has made
//! attempts before did not just begin; and when none of its groups has a commit, they are lost. One
//! group alone loses its offsets when its topics are deleted: then there is nothing to repeat.

use std::{collections::BTreeMap, fmt, str::FromStr};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer},
};

use super::{Admin, Bounds, Connection, GroupTopics, KafkaError, REQUEST_TIMEOUT, reader::Quiet};
use crate::clock::Timestamp;

/// Where a group begins whose committed offsets are lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartFrom {
    /// At the oldest record: nothing is lost, much repeats.
    Beginning,
    /// At the end: nothing repeats, what was not delivered is lost.
    End,
    /// At the first record of this moment or later.
    Time(Timestamp),
}

impl FromStr for StartFrom {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "beginning" => Ok(Self::Beginning),
            "end" => Ok(Self::End),
            time => Timestamp::parse(time).map(Self::Time).map_err(|_| {
                format!(
                    "{time:?} is neither `beginning` nor `end` nor a time; write for example \
                     2026-11-30T08:00:00Z"
                )
            }),
        }
    }
}

impl fmt::Display for StartFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Beginning => f.write_str("beginning"),
            Self::End => f.write_str("end"),
            Self::Time(time) => time.fmt(f),
        }
    }
}

/// Commits where the groups begin whose offsets are lost, as was chosen; refuses when nothing was.
/// `ever` is a topic that has had records if this installation has delivered before. To be called
/// before the groups are joined; it waits for the broker.
pub fn recover_lost_offsets(
    connection: &Connection,
    groups: &[GroupTopics],
    ever: &str,
    choice: Option<StartFrom>,
) -> Result<(), KafkaError> {
    let has_delivered = Bounds::of(connection, ever)?.whole().values().any(|span| span.to > 0);
    if !has_delivered {
        return Ok(());
    }
    for group in groups {
        if has_commits(connection, group)? {
            return Ok(());
        }
    }
    for group in groups {
        let lost = topics_with_records(connection, group)?;
        if lost.is_empty() {
            continue;
        }
        let Some(choice) = choice else {
            return Err(KafkaError::LostOffsets {
                group: group.group.clone(),
                topics: lost.into_keys().collect::<Vec<_>>().join(", "),
            });
        };
        tracing::warn!(
            group = &group.group, from = %choice,
            "the group's committed offsets are lost; it begins where group.start says"
        );
        commit_start(connection, &group.group, &lost, choice)?;
    }
    Ok(())
}

fn has_commits(connection: &Connection, group: &GroupTopics) -> Result<bool, KafkaError> {
    let admin = Admin::new(connection)?;
    let mut all = TopicPartitionList::new();
    for topic in &group.topics {
        for partition in 0..admin.partitions(topic)? {
            all.add_partition(topic, partition);
        }
    }
    if all.count() == 0 {
        return Ok(false);
    }
    let committed = client(connection, &group.group)?
        .committed_offsets(all, 3 * REQUEST_TIMEOUT)
        .map_err(|e| KafkaError::request(connection, &e))?;
    Ok(committed.elements().iter().any(|one| matches!(one.offset(), Offset::Offset(_))))
}

fn topics_with_records(
    connection: &Connection,
    group: &GroupTopics,
) -> Result<BTreeMap<String, Bounds>, KafkaError> {
    let mut found = BTreeMap::new();
    for topic in &group.topics {
        let bounds = Bounds::of(connection, topic)?;
        if bounds.whole().values().any(|span| !span.is_empty()) {
            found.insert(topic.clone(), bounds);
        }
    }
    Ok(found)
}

fn commit_start(
    connection: &Connection,
    group: &str,
    lost: &BTreeMap<String, Bounds>,
    choice: StartFrom,
) -> Result<(), KafkaError> {
    let mut list = TopicPartitionList::new();
    for (topic, bounds) in lost {
        let starts: BTreeMap<i32, i64> = match choice {
            StartFrom::Beginning => {
                bounds.whole().iter().map(|(p, span)| (*p, span.from)).collect()
            }
            StartFrom::End => bounds.whole().iter().map(|(p, span)| (*p, span.to)).collect(),
            StartFrom::Time(time) => bounds.at(time)?,
        };
        for (partition, offset) in starts {
            list.add_partition_offset(topic, partition, Offset::Offset(offset))
                .map_err(|e| KafkaError::Other(e.to_string()))?;
        }
    }
    client(connection, group)?
        .commit(&list, CommitMode::Sync)
        .map_err(|e| KafkaError::request(connection, &e))
}

fn client(connection: &Connection, group: &str) -> Result<BaseConsumer<Quiet>, KafkaError> {
    connection
        .client(&[("group.id", group), ("enable.auto.commit", "false")])
        .create_with_context(Quiet::new(connection))
        .map_err(|e| KafkaError::settings(&e))
}
