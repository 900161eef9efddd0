//! One event's story, put together from every log that may tell of it.

use std::ops::ControlFlow;

use super::Operations;
use crate::{
    clock::Timestamp,
    delivery::Origin,
    id::ProjectId,
    kafka::{Bounds, Seen, TopicKind},
    replay::{AttemptFilter, Consumed, DeadFilter, Selection, Story},
};

impl Operations {
    /// What became of an event that Kafka took on at this moment or later. Blocks.
    pub fn trace(
        &self,
        event: &str,
        project: Option<&ProjectId>,
        from: Option<Timestamp>,
    ) -> anyhow::Result<Story> {
        let finder = memchr::memmem::Finder::new(event);
        // A CloudEvent may have its id in a header.
        let may_be = |seen: &Seen<'_>| {
            seen.value().is_some_and(|value| finder.find(value).is_some()) || seen.has_headers()
        };
        let mut story = Story::default();
        let connectors = self.connectors()?;
        let projects = project.cloned().into_iter().collect();
        let selection = Selection { projects, ..Selection::default() };
        let choice = connectors.choose(&selection, None);
        let is_project = |id: &ProjectId| project.is_none_or(|project| project == id);

        let topic = self.topic(TopicKind::Events);
        let spans = Bounds::of(&self.connection, &topic)?.between(from, None)?;
        self.scan(&topic, &spans, |seen| {
            if let Some(found) = may_be(seen).then(|| self.event(&seen.copy())).flatten()
                && found.id.as_str() == event
                && is_project(&found.project)
            {
                story.consumed.push(Consumed {
                    origin: Origin {
                        topic: topic.as_str().into(),
                        partition: seen.partition(),
                        offset: seen.offset(),
                    },
                    at: seen.timestamp(),
                    project: found.project.to_string(),
                    event_type: found.kind.to_string(),
                });
                for known in choice.connectors() {
                    if known.key.project == found.project && known.wants(found.kind) {
                        story.matches(known.delivery(&found.id), &known.key, known.kind);
                    }
                }
            }
            ControlFlow::Continue(())
        })?;

        let filter = AttemptFilter {
            event: Some(event.to_owned()),
            projects: project.cloned().into_iter().collect(),
            ..AttemptFilter::default()
        };
        self.each_attempt(from, None, |attempt| {
            if filter.takes(&attempt) {
                story.attempt(attempt);
            }
            ControlFlow::Continue(())
        })?;

        let topic = self.topic(TopicKind::Replay);
        let spans = Bounds::of(&self.connection, &topic)?.between(from, None)?;
        self.scan(&topic, &spans, |seen| {
            let value = seen.value().filter(|value| finder.find(value).is_some());
            if let Some(record) = value.and_then(|value| self.delivery(value))
                && record.event.id.as_str() == event
                && is_project(&record.connector.project)
            {
                let job = record.job.as_deref().unwrap_or_default();
                story.replayed(record.delivery_id, seen.timestamp(), job);
            }
            ControlFlow::Continue(())
        })?;

        let marks = self.marks(from)?;
        let filter = DeadFilter { from, ..DeadFilter::default() };
        self.each_letter(&filter, |letter| {
            let is_it = letter.delivery().is_some_and(|delivery| {
                delivery.event.id.as_str() == event && is_project(&delivery.connector.project)
            });
            if is_it {
                story.dead(&letter, &marks);
            }
            ControlFlow::Continue(())
        })?;
        Ok(story)
    }
}
