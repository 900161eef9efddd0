//! What the registrar writes beside the state: results, dead letters, and commands that it passes
//! on.

use std::sync::Arc;

use futures_util::future::join_all;

use super::{BACKOFF, Registrar, Stopped, blocking, origin_of, topic_header};
use crate::{
    connector::{
        Command, CommandResult, CommandsLog, HistoryRecord, Notice, Problem, ProblemCode,
        partition_of,
    },
    delivery::Reason,
    id::ProjectId,
    kafka::{Admin, Outgoing, Partition, ProduceError, Record, TopicKind},
    pipeline::{FORWARDED_FROM, FORWARDED_HOPS, refuse},
};

/// What became of a write.
enum Written {
    /// It is durable.
    Whole,
    /// The topic does not take so large a record; nothing was written.
    TooLarge,
}

/// A record for the partition of its project.
fn keyed<'a>(topic: &'a str, project: &'a ProjectId, value: &'a [u8]) -> Outgoing<'a> {
    let key = project.as_str().as_bytes();
    Outgoing { topic, partition: None, key, value: Some(value), headers: Vec::new() }
}

impl Registrar {
    pub(super) async fn results(
        &self,
        partition: &Arc<Partition>,
        results: &[CommandResult],
    ) -> Result<(), Stopped> {
        join_all(results.iter().map(|result| self.result(partition, result)))
            .await
            .into_iter()
            .collect()
    }

    async fn result(
        &self,
        partition: &Arc<Partition>,
        result: &CommandResult,
    ) -> Result<(), Stopped> {
        let topic = self.topics.name(TopicKind::Results);
        // How the command ended must be told, however little else there is room for.
        for result in [result, &result.cut()] {
            let value = self.codec.encode(TopicKind::Results, result.to_json());
            let record = Outgoing {
                topic: &topic,
                partition: None,
                key: result.command_id.as_str().as_bytes(),
                value: Some(&value),
                headers: Vec::new(),
            };
            match self.write(partition, &record).await? {
                Written::Whole => return Ok(()),
                Written::TooLarge => tracing::error!(
                    topic,
                    command = %result.command_id,
                    "a result is larger than the topic takes; it is cut: raise max.message.bytes \
                     (dunmore topics check)"
                ),
            }
        }
        self.takes_too_little(&topic, "result")
    }

    /// Writes what the accepted commands of a batch did, and what the connectors' owners must know.
    /// A topic that is missing or does not answer holds the commands up: none of them is decided
    /// without its history.
    pub(super) async fn journal(
        &self,
        partition: &Arc<Partition>,
        history: &[HistoryRecord],
        notices: &[Notice],
    ) -> Result<(), Stopped> {
        let history = join_all(history.iter().map(|record| self.history(partition, record)));
        history.await.into_iter().collect::<Result<(), Stopped>>()?;
        // One after the other: a consumer takes the last one of a connector for its state.
        for notice in notices {
            self.notice(partition, notice).await?;
        }
        Ok(())
    }

    async fn history(
        &self,
        partition: &Arc<Partition>,
        record: &HistoryRecord,
    ) -> Result<(), Stopped> {
        let topic = self.topics.name(TopicKind::History);
        for record in [record, &record.cut()] {
            let value = self.codec.encode(TopicKind::History, record.to_json());
            let outgoing = keyed(&topic, &record.project_id, &value);
            match self.write(partition, &outgoing).await? {
                Written::Whole => return Ok(()),
                Written::TooLarge => tracing::error!(
                    topic,
                    command = %record.command_id,
                    "a record of the history is larger than the topic takes; it is cut: raise \
                     max.message.bytes (dunmore topics check)"
                ),
            }
        }
        self.takes_too_little(&topic, "record of the history")
    }

    async fn notice(&self, partition: &Arc<Partition>, notice: &Notice) -> Result<(), Stopped> {
        let topic = self.topics.name(TopicKind::Notices);
        let value = notice.to_json();
        let outgoing = keyed(&topic, &notice.connector.project, &value);
        match self.write(partition, &outgoing).await? {
            Written::Whole => {
                self.metrics.notice(notice.kind.as_str());
                Ok(())
            }
            Written::TooLarge => self.takes_too_little(&topic, "notice"),
        }
    }

    /// Ends the instance: a record that must be written fits into its topic in no form.
    fn takes_too_little(&self, topic: &str, what: &str) -> Result<(), Stopped> {
        self.fail(format!("{topic} does not take a {what} of few bytes: raise max.message.bytes"));
        Err(Stopped)
    }

    /// What is refused may hold secrets in plain, so its value is not repeated: the headers say where
    /// it stands.
    pub(super) async fn dead_letter(
        &self,
        partition: &Arc<Partition>,
        record: &Record,
        reason: Reason,
        detail: &str,
    ) -> Result<(), Stopped> {
        tracing::warn!(
            offset = record.offset,
            %reason,
            detail,
            "command refused; it is in the dead letters"
        );
        let headers = refuse::record_headers(reason, detail, partition.topic(), record);
        let mut dead = Outgoing {
            topic: &self.topics.name(TopicKind::Dead),
            partition: None,
            key: record.key.as_deref().unwrap_or_default(),
            value: Some(b""),
            headers: headers.iter().map(|(key, value)| (key.as_str(), value.clone())).collect(),
        };
        if let Written::TooLarge = self.write(partition, &dead).await? {
            // A foreign key or foreign headers; where the record stands is enough.
            dead.key = b"";
            dead.headers.retain(|(name, _)| name.starts_with("dunmore-"));
            if let Written::TooLarge = self.write(partition, &dead).await? {
                let topic = &dead.topic;
                self.fail(format!(
                    "{topic} takes no dead letter of few bytes: raise max.message.bytes"
                ));
                return Err(Stopped);
            }
        }
        Ok(())
    }

    pub(super) async fn forward(
        &self,
        partition: &Arc<Partition>,
        record: &Record,
        json: &[u8],
        project: &ProjectId,
        log: &CommandsLog,
    ) -> Result<(), Stopped> {
        let to = partition_of(project.as_str(), self.partitions);
        let hops = origin_of(record).map_or(0, |origin| origin.hops).saturating_add(1);
        let mut headers = vec![
            (FORWARDED_FROM, format!("{}/{}", partition.number(), record.offset).into_bytes()),
            (FORWARDED_HOPS, hops.to_string().into_bytes()),
        ];
        headers.extend(topic_header(log.topic_id.as_deref()));
        let topic = self.topics.name(TopicKind::Commands);
        let forwarded = Outgoing {
            topic: &topic,
            partition: Some(to),
            key: project.as_str().as_bytes(),
            value: record.value.as_deref(),
            headers,
        };
        let (code, detail) = match self.write_to_existing(partition, &forwarded, to).await? {
            Some(Written::Whole) => return Ok(()),
            Some(Written::TooLarge) => (
                ProblemCode::TooLarge,
                "The command is larger than its topic takes once it was forwarded to the partition \
                 of its project.",
            ),
            None => (
                ProblemCode::Unavailable,
                "The commands topic has fewer partitions than the state topic, so there is no \
                 partition for this project's commands (dunmore topics check).",
            ),
        };
        tracing::error!(offset = record.offset, to, detail, "a command cannot be forwarded");
        let Ok(command) = Command::read(json) else { return Ok(()) };
        let problem = Problem::new(code, detail);
        let result = CommandResult::rejected(command.id, Some(command.project), problem);
        self.result(partition, &result).await
    }

    /// Writes to a partition that may not exist; nothing when it does not.
    async fn write_to_existing(
        &self,
        partition: &Arc<Partition>,
        record: &Outgoing<'_>,
        to: i32,
    ) -> Result<Option<Written>, Stopped> {
        loop {
            let error = match self.producer.send(record).await {
                Ok(_) => return Ok(Some(Written::Whole)),
                Err(ProduceError::TooLarge) => return Ok(Some(Written::TooLarge)),
                Err(error) => error,
            };
            let (connection, topic) = (self.connection.clone(), record.topic.to_owned());
            let count = blocking(move || Admin::new(&connection)?.partitions(&topic)).await;
            // A topic that does not exist may come back.
            if count.is_ok_and(|count| count > 0 && count <= to) {
                return Ok(None);
            }
            tracing::warn!(topic = record.topic, %error, "trying again");
            if partition.is_released() {
                return Err(Stopped);
            }
            tokio::time::sleep(BACKOFF).await;
        }
    }

    async fn write(
        &self,
        partition: &Arc<Partition>,
        record: &Outgoing<'_>,
    ) -> Result<Written, Stopped> {
        loop {
            match self.producer.send(record).await {
                Ok(_) => return Ok(Written::Whole),
                Err(ProduceError::TooLarge) => return Ok(Written::TooLarge),
                Err(error) => tracing::warn!(topic = record.topic, %error, "trying again"),
            }
            if partition.is_released() {
                return Err(Stopped);
            }
            tokio::time::sleep(BACKOFF).await;
        }
    }
}
