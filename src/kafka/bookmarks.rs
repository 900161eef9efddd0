//! Positions that are kept in Kafka under the name of a consumer group which nobody joins: the
//! progress of jobs. They can be read from any machine and expire by themselves.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer},
    error::{KafkaError as ClientError, RDKafkaErrorCode},
};

use super::{Connection, KafkaError, REQUEST_TIMEOUT, reader::Quiet};

/// The longest text that may be kept with a position: Kafka's default limit
/// (`offset.metadata.max.bytes`).
pub const MAX_NOTE_BYTES: usize = 4096;

/// How long a group's coordinator may be away.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(200);

fn is_passing(error: &ClientError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::NotCoordinator
                | Code::CoordinatorNotAvailable
                | Code::CoordinatorLoadInProgress
                | Code::WaitingForCoordinator
                | Code::RequestTimedOut
                | Code::OperationTimedOut
                | Code::BrokerTransportFailure
        )
    )
}

/// A position in a partition, with a note.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bookmark {
    /// The offset.
    pub offset: i64,
    /// What is kept with it.
    pub note: String,
}

/// By topic and partition.
pub type BookmarkMap = BTreeMap<(String, i32), Bookmark>;

/// The bookmarks of one name.
pub struct Bookmarks {
    consumer: BaseConsumer<Quiet>,
    connection: Connection,
}

impl Bookmarks {
    /// The bookmarks of this name.
    pub fn new(connection: &Connection, name: &str) -> Result<Self, KafkaError> {
        let consumer = connection
            .client(&[("group.id", name), ("enable.auto.commit", "false")])
            .create_with_context(Quiet::new(connection))
            .map_err(|e| KafkaError::settings(&e))?;
        Ok(Self { consumer, connection: connection.clone() })
    }

    /// What is kept for these partitions.
    pub fn read(&self, partitions: &[(String, i32)]) -> Result<BookmarkMap, KafkaError> {
        let mut list = TopicPartitionList::new();
        for (topic, partition) in partitions {
            list.add_partition(topic, *partition);
        }
        if list.count() == 0 {
            return Ok(BookmarkMap::new());
        }
        let found =
            self.patiently(|| self.consumer.committed_offsets(list.clone(), REQUEST_TIMEOUT))?;
        let mut bookmarks = BookmarkMap::new();
        for element in found.elements() {
            if let Offset::Offset(offset) = element.offset() {
                let bookmark = Bookmark { offset, note: element.metadata().to_owned() };
                bookmarks.insert((element.topic().to_owned(), element.partition()), bookmark);
            }
        }
        Ok(bookmarks)
    }

    /// Keeps these, over what was kept for their partitions.
    pub fn write(&self, bookmarks: &BookmarkMap) -> Result<(), KafkaError> {
        let other = |error: rdkafka::error::KafkaError| KafkaError::Other(error.to_string());
        let mut list = TopicPartitionList::new();
        for ((topic, partition), bookmark) in bookmarks {
            let mut element = list.add_partition(topic, *partition);
            element.set_offset(Offset::Offset(bookmark.offset)).map_err(other)?;
            // Set once only: the client library's binding leaks what was set before.
            element.set_metadata(bookmark.note.as_str());
        }
        self.patiently(|| self.consumer.commit(&list, CommitMode::Sync))
    }

    /// Asks again while the group's coordinator moves or is not there yet.
    fn patiently<T>(&self, ask: impl Fn() -> Result<T, ClientError>) -> Result<T, KafkaError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match ask() {
                Ok(answer) => return Ok(answer),
                Err(error) if is_passing(&error) && Instant::now() < deadline => {
                    tracing::debug!(%error, "a bookmark is asked for again");
                    thread::sleep(PAUSE);
                }
                Err(error) => return Err(KafkaError::request(&self.connection, &error)),
            }
        }
    }

    /// The names that begin so.
    pub fn names(connection: &Connection, prefix: &str) -> Result<Vec<String>, KafkaError> {
        let consumer: BaseConsumer<Quiet> = connection
            .client(&[("group.id", "dunmore-reader")])
            .create_with_context(Quiet::new(connection))
            .map_err(|e| KafkaError::settings(&e))?;
        let groups = consumer
            .fetch_group_list(None, REQUEST_TIMEOUT)
            .map_err(|e| KafkaError::request(connection, &e))?;
        let names = groups.groups().iter().map(|group| group.name().to_owned());
        let mut names: Vec<String> = names.filter(|name| name.starts_with(prefix)).collect();
        names.sort_unstable();
        Ok(names)
    }
}
