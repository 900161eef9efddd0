//! Attempts: searched in the log, or followed as they are made.

use std::{collections::VecDeque, ops::ControlFlow, time::Duration};

use tokio_util::sync::CancellationToken;

use super::Operations;
use crate::{
    clock::Timestamp,
    delivery::AttemptRecord,
    kafka::{Offset, Reader, ReaderEvent, TopicKind},
    replay::{AttemptFilter, REDRIVE},
};

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
            // Of a redrive nothing is kept but its letters and attempts.
            Some(job) if !job.starts_with(REDRIVE) => self.job(job).map(|_| ()),
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
