//! Attempts: searched in the log, or followed as they are made.

use std::{collections::VecDeque, ops::ControlFlow, time::Duration};

use memchr::memmem::Finder;
use tokio_util::sync::CancellationToken;

use super::{CLOCK_SLACK, Operations};
use crate::{
    clock::Timestamp,
    connector::partition_of,
    delivery::AttemptRecord,
    id::ProjectId,
    kafka::{Backwards, Budget, KafkaError, Offset, Reader, ReaderEvent, Seen, TopicKind},
    replay::AttemptFilter,
};

/// What one page of a project's attempts may cost: about a second.
const PAGE: Budget = Budget { records: 200_000, time: Duration::from_millis(800) };

/// One project's attempts, the newest first.
pub struct AttemptPages {
    log: Backwards,
}

/// A page of attempts, and what the next one begins with.
pub struct AttemptPage {
    /// The attempts.
    pub attempts: Vec<AttemptRecord<'static>>,
    /// The offset before which it goes on; nothing at the end.
    pub next: Option<i64>,
}

impl AttemptPages {
    /// Of the attempts topic of these logs.
    pub fn new(operations: &Operations) -> Result<Self, KafkaError> {
        let topic = operations.topic(TopicKind::Attempts);
        Ok(Self { log: Backwards::new(&operations.connection, topic)? })
    }

    pub(super) fn log(&self) -> &Backwards {
        &self.log
    }

    /// The topic's id as text, for cursors: a topic that was created anew has another one. Blocks.
    pub fn topic(&self) -> Result<String, KafkaError> {
        Ok(self.log.facts()?.0.map_or_else(String::new, |id| id.to_string()))
    }

    /// Attempts of a project before an offset (the end, if there is none). A page that used up what
    /// it may cost ends early. Blocks.
    pub fn page(
        &self,
        operations: &Operations,
        project: &ProjectId,
        filter: &AttemptFilter,
        (from, to): (Option<Timestamp>, Option<Timestamp>),
        before: Option<i64>,
        limit: usize,
    ) -> Result<AttemptPage, KafkaError> {
        let partition = partition_of(project.as_str(), self.log.facts()?.1);
        // An id stands in a value as it is, in every form of records.
        let finder = Finder::new(filter.event.as_deref().unwrap_or(project.as_str()));
        let keep = |seen: &Seen<'_>| {
            let value = seen.value().filter(|value| finder.find(value).is_some())?;
            operations.attempt(value).filter(|attempt| filter.takes(attempt))
        };
        let mut attempts = Vec::new();
        let mut before_from = false;
        let next = self.log.read(partition, before, PAGE, keep, |_, attempt| {
            if to.is_some_and(|to| attempt.at >= to) {
                return ControlFlow::Continue(());
            }
            // Instances' clocks differ a little, so the log is only roughly in the order of time.
            if from.is_some_and(|from| attempt.at < from) {
                before_from = from.is_some_and(|from| from.since(attempt.at) > CLOCK_SLACK);
                return if before_from {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                };
            }
            attempts.push(attempt);
            if attempts.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok(AttemptPage { attempts, next: next.filter(|_| !before_from) })
    }
}

impl Operations {
    /// How many attempts a filter takes in a time, and the latest of them, the latest first.
    /// Blocks.
    pub fn attempts(
        &self,
        filter: &AttemptFilter,
        from: Option<Timestamp>,
        to: Option<Timestamp>,
        limit: usize,
    ) -> anyhow::Result<(u64, Vec<AttemptRecord<'static>>)> {
        let mut latest: VecDeque<AttemptRecord<'static>> = VecDeque::new();
        let mut count = 0;
        self.each_attempt(from, to, |attempt| {
            if filter.takes(&attempt) {
                count += 1;
                // Partitions come in turns: kept in the order of time as they come.
                let at = latest.partition_point(|kept| kept.at <= attempt.at);
                latest.insert(at, attempt);
                if latest.len() > limit {
                    latest.pop_front();
                }
            }
            ControlFlow::Continue(())
        })?;
        if count == 0 {
            self.check_found(&filter.projects, &filter.connectors)?;
            self.check_job(filter.job.as_deref())?;
        }
        Ok((count, latest.into_iter().rev().collect()))
    }

    /// Fails when a job of which no attempt tells is not known either. Blocks.
    fn check_job(&self, job: Option<&str>) -> anyhow::Result<()> {
        match job {
            Some(job) if Self::keeps_progress(job) => self.job(job).map(|_| ()),
            _ => Ok(()),
        }
    }

    /// Hands over each attempt that a filter takes, from now on, until it is stopped. Blocks.
    pub fn follow(
        &self,
        filter: &AttemptFilter,
        stop: &CancellationToken,
        mut each: impl FnMut(&AttemptRecord<'_>) -> ControlFlow<()>,
    ) -> anyhow::Result<()> {
        self.check_found(&filter.projects, &filter.connectors)?;
        let topic = self.topic(TopicKind::Attempts);
        let reader = Reader::all(&self.connection, &topic, Offset::End)?;
        while !stop.is_cancelled() {
            match reader.poll(Duration::from_millis(100)) {
                ReaderEvent::Record(record) => {
                    let value = record.value.as_deref().unwrap_or_default();
                    if let Some(attempt) = self.attempt(value)
                        && filter.takes(&attempt)
                        && each(&attempt).is_break()
                    {
                        return Ok(());
                    }
                }
                ReaderEvent::OutOfRange => {
                    tracing::warn!("attempts were deleted before they could be read");
                }
                ReaderEvent::Trouble(error) => tracing::warn!(%error, "reading attempts"),
                ReaderEvent::End { .. } | ReaderEvent::Idle => {}
            }
        }
        Ok(())
    }
}
