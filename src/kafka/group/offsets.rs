//! The commit: what the trackers say of partitions, and what the broker answers.

use std::sync::Arc;

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer},
    error::{KafkaError as ClientError, RDKafkaErrorCode},
};

use super::{super::Partition, context::GroupContext};

impl GroupContext {
    /// Commits what the trackers say of all partitions.
    pub(super) fn commit_all(&self, consumer: &BaseConsumer<Self>) {
        let _committing = self.committing.lock();
        let partitions = self.slots.lock().partitions();
        self.commit(consumer, &partitions);
    }

    /// Commits what the trackers of these partitions say, and waits for the broker's answer; the
    /// caller holds `committing`.
    ///
    /// The answer of an asynchronous commit is lost: librdkafka gives it only to a callback that
    /// rdkafka 0.39 does not set, and without the answer it is not known what a crash would repeat.
    pub(super) fn commit(&self, consumer: &BaseConsumer<Self>, partitions: &[Arc<Partition>]) {
        let mut list = TopicPartitionList::new();
        let mut commits = Vec::new();
        for partition in partitions {
            let Some(commit) = partition.tracker().lock().commit() else { continue };
            let mut element = list.add_partition(partition.topic(), partition.number());
            if element.set_offset(Offset::Offset(commit.offset)).is_ok() {
                element.set_metadata(&commit.metadata);
                commits.push((partition, commit));
            }
        }
        // A member that the group has removed has no id until it joins again. The broker takes a
        // commit without one whenever the group is empty, so it could go behind a later owner's.
        if commits.is_empty() || !is_member(consumer) {
            return;
        }
        let result = consumer.commit(&list, CommitMode::Sync);
        let code = result.as_ref().err().and_then(ClientError::rdkafka_error_code);
        if code == Some(RDKafkaErrorCode::NoOffset) {
            return;
        }
        // The list has an answer for each partition; the result alone is one of their errors.
        let is_answered = code.is_none_or(is_of_a_partition);
        let is_done = |partition: &Partition| {
            let element = list.find_partition(partition.topic(), partition.number());
            result.is_ok() || element.is_some_and(|element| element.error().is_ok())
        };
        let mut all = true;
        for (partition, commit) in commits {
            if is_answered && is_done(partition) {
                partition.tracker().lock().committed(&commit);
            } else {
                all = false;
            }
        }
        self.metrics.committed(all);
        if let Err(error) = &result {
            // The next commit covers the same and more; a rebalance under way is a normal cause.
            tracing::debug!(group = self.group, %error, "commit failed, will be repeated");
            self.completed.ring();
        }
    }
}

/// Whether an error of a commit is one of single partitions, so that the others are committed.
const fn is_of_a_partition(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::UnknownTopicOrPartition
            | Code::UnknownTopic
            | Code::UnknownPartition
            | Code::UnknownTopicId
            | Code::TopicAuthorizationFailed
            | Code::OffsetMetadataTooLarge
            | Code::InvalidCommitOffsetSize
    )
}

/// Whether the group knows this consumer as a member. Leaving the group, and being removed from it,
/// takes the id away.
pub(super) fn is_member(consumer: &BaseConsumer<GroupContext>) -> bool {
    let client = consumer.client().native_ptr();
    #[expect(unsafe_code, reason = "rdkafka 0.39 has no safe way to it")]
    // SAFETY: the handle is live for as long as the consumer; the text is the library's until it is
    // given back.
    unsafe {
        let id = rdkafka::bindings::rd_kafka_memberid(client);
        if id.is_null() {
            return false;
        }
        let is_member = *id != 0;
        rdkafka::bindings::rd_kafka_mem_free(client, id.cast());
        is_member
    }
}
