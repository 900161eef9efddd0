//! Positions that are kept in Kafka under the name of a consumer group: the progress of jobs. They
//! can be read from any machine and expire by themselves. The group's only member writes them
//! ([`super::SoleMember`]).

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    slice, thread,
    time::{Duration, Instant},
};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError as ClientError, RDKafkaErrorCode},
};

use super::{Connection, KafkaError, REQUEST_TIMEOUT, reader::Quiet};

/// The longest text that may be kept with a position: Kafka's default limit
/// (`offset.metadata.max.bytes`).
pub const MAX_NOTE_BYTES: usize = 4096;

/// How long a group's coordinator may be away.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(200);

/// Whether asking again may help.
pub(super) fn is_passing(error: &ClientError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::NotCoordinator
                | Code::CoordinatorNotAvailable
                | Code::CoordinatorLoadInProgress
                | Code::RebalanceInProgress
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
        for (element, note) in found.elements().iter().zip(notes(&found)) {
            if let Offset::Offset(offset) = element.offset() {
                let bookmark = Bookmark { offset, note };
                bookmarks.insert((element.topic().to_owned(), element.partition()), bookmark);
            }
        }
        Ok(bookmarks)
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
        // Other programs' groups are among them, and the client library's accessor panics on names
        // that are not UTF-8.
        let names = groups
            .groups()
            .iter()
            .filter_map(|group| catch_unwind(AssertUnwindSafe(|| group.name().to_owned())).ok());
        let mut names: Vec<String> = names.filter(|name| name.starts_with(prefix)).collect();
        names.sort_unstable();
        Ok(names)
    }
}

/// What is kept beside each element of a list, in its order. The client library's accessor panics
/// on bytes that are not UTF-8, and any client may have committed such.
#[expect(unsafe_code, reason = "the client library's accessor panics on foreign bytes")]
fn notes(list: &TopicPartitionList) -> Vec<String> {
    // SAFETY: the list is alive and owns `cnt` elements at `elems`; an element's metadata is null
    // or has `metadata_size` bytes, which the list owns too. All of it is copied here.
    unsafe {
        let raw = &*list.ptr();
        let count = usize::try_from(raw.cnt).unwrap_or(0);
        let elements = if count == 0 { &[][..] } else { slice::from_raw_parts(raw.elems, count) };
        let note = |element: &rdkafka::bindings::rd_kafka_topic_partition_t| {
            if element.metadata.is_null() || element.metadata_size == 0 {
                return String::new();
            }
            let bytes = slice::from_raw_parts(element.metadata.cast(), element.metadata_size);
            String::from_utf8_lossy(bytes).into_owned()
        };
        elements.iter().map(note).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_that_is_not_text_is_read_without_a_panic() {
        let mut list = TopicPartitionList::new();
        list.add_partition("t", 0).set_metadata("plain");
        list.add_partition("t", 1);
        // Cut in the middle of a letter, as another client may write it.
        list.add_partition("t", 2).set_metadata("é");
        #[expect(unsafe_code, reason = "the binding writes text only")]
        // SAFETY: the list has three elements, and the third one's metadata has two bytes.
        unsafe {
            (*(*list.ptr()).elems.add(2)).metadata_size = 1;
        }
        assert_eq!(notes(&list), ["plain", "", "\u{fffd}"]);
        assert!(notes(&TopicPartitionList::new()).is_empty());
    }
}
