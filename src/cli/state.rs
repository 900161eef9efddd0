//! Reads connectors from the state topic, folded as the view folds them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::{control::blocking, reading_codec};
use crate::{
    codec::{Codec, ReadError, RecordKind},
    config::Config,
    connector::{Change, Connector, ProjectState, StateKey, partition_of},
    id::ProjectId,
    kafka::{Admin, Connection, KafkaError, Offset, Reader, ReaderEvent, Record, TopicKind},
    pipeline::COMMAND_OFFSET,
};

/// How long reading the state topic may take without progress.
const READ_TIMEOUT: Duration = Duration::from_secs(20);

/// The connectors of a project, or of all, as they are now.
pub async fn read(config: &Config, project: Option<&ProjectId>) -> anyhow::Result<Vec<Connector>> {
    let changes = changes(config, project).await?.into_iter();
    let connectors = changes.filter_map(|change| match change {
        Change::ConnectorSet(connector) => Some(connector),
        _ => None,
    });
    Ok(connectors.collect())
}

/// All that is known of a project.
pub async fn read_project(config: &Config, project: &ProjectId) -> anyhow::Result<ProjectState> {
    let mut state = ProjectState::default();
    for change in changes(config, Some(project)).await? {
        state.apply(&change);
    }
    Ok(state)
}

async fn changes(config: &Config, project: Option<&ProjectId>) -> anyhow::Result<Vec<Change>> {
    let connection = config.connection()?;
    let topics = config.topics();
    let (topic, project) = (topics.name(TopicKind::State), project.cloned());
    let codec = reading_codec(config)?;
    Ok(blocking(move || fold(&connection, &topic, &codec, project.as_ref())).await?)
}

/// What is known of a connector or project: which command said it, and what.
type Known = BTreeMap<StateKey, (i64, Change)>;

fn fold(
    connection: &Connection,
    topic: &str,
    codec: &Codec,
    project: Option<&ProjectId>,
) -> Result<Vec<Change>, KafkaError> {
    let count = Admin::new(connection)?.partitions(topic)?;
    if count == 0 {
        return Err(KafkaError::TopicMissing(topic.to_owned()));
    }
    let mut unfinished: BTreeSet<i32> = match project {
        Some(project) => BTreeSet::from([partition_of(project.as_str(), count)]),
        None => (0..count).collect(),
    };
    let from = unfinished.iter().map(|partition| (*partition, Offset::Beginning)).collect();
    let reader = Reader::new(connection, topic, &from)?;
    let mut known = Known::new();
    let mut last_progress = Instant::now();
    while !unfinished.is_empty() {
        let mut trouble = None;
        match reader.poll(Duration::from_millis(200)) {
            ReaderEvent::End { partition, .. } => {
                unfinished.remove(&partition);
                last_progress = Instant::now();
            }
            ReaderEvent::Record(record) => {
                last_progress = Instant::now();
                let late = || last_progress.elapsed() > READ_TIMEOUT;
                let value = record.value.as_ref();
                let value =
                    value.map(|value| codec.decode_blocking(RecordKind::State, value, late));
                let value = value.transpose().map_err(|error| match error {
                    ReadError::Refused(_, detail) => KafkaError::Other(detail),
                    ReadError::GivenUp => KafkaError::Other(
                        "the schema registry does not answer (schema_registry.url)".to_owned(),
                    ),
                })?;
                take(&mut known, &record, value.as_deref(), project);
            }
            ReaderEvent::Trouble(error) => trouble = Some(error),
            ReaderEvent::Idle | ReaderEvent::OutOfRange => {}
        }
        if last_progress.elapsed() > READ_TIMEOUT {
            let late = || format!("{topic} could not be read in time");
            return Err(KafkaError::Other(trouble.unwrap_or_else(late)));
        }
    }
    Ok(known.into_values().map(|(_, change)| change).collect())
}

/// Takes a record in, unless a later command said something else: an owner that was replaced may
/// have written a decision behind newer ones.
fn take(known: &mut Known, record: &Record, value: Option<&[u8]>, project: Option<&ProjectId>) {
    let key = record.key.as_deref().and_then(|key| std::str::from_utf8(key).ok());
    let Some(Ok(key)) = key.map(StateKey::parse) else { return };
    if project.is_some_and(|project| key.project() != project) {
        return;
    }
    let offset = record.header_text(COMMAND_OFFSET).and_then(|text| text.parse().ok());
    let (Some(offset), Ok(change)) = (offset, key.read(value)) else { return };
    if known.get(&key).is_none_or(|(newest, _)| *newest < offset) {
        known.insert(key, (offset, change));
    }
}
