//! One event's story, put together from every log that may tell of it.

use std::{
    collections::{HashMap, HashSet},
    ops::ControlFlow,
};

use memchr::memmem::Finder;

use super::Operations;
use crate::{
    clock::Timestamp,
    delivery::{AttemptRecord, Origin},
    event::Event,
    filter::Facts,
    id::{ConnectorKey, ProjectId},
    kafka::{Bounds, Seen, Span, TopicKind, scan_uncommitted},
    replay::{
        Answer, AttemptFilter, Behind, Choice, Connectors, Consumed, DeadFilter, DeadLetter,
        Letter, NotWanted, Selection, Story, Unreadable,
    },
};

/// Connectors of which the last answer is remembered.
const MAX_ANSWERS: usize = 10_000;
/// Records of a partition behind an open transaction that are looked through.
const MAX_BEHIND: i64 = 100_000;

/// What is looked for.
struct Wanted<'a> {
    event: &'a str,
    project: Option<&'a ProjectId>,
    finder: Finder<'a>,
}

impl Wanted<'_> {
    fn is_project(&self, id: &ProjectId) -> bool {
        self.project.is_none_or(|project| project == id)
    }

    fn is_it(&self, event: &Event) -> bool {
        event.id.as_str() == self.event && self.is_project(&event.project)
    }

    /// Whether a value holds the event's id, as a word of its own where it is text.
    fn is_named_in(&self, value: &[u8]) -> bool {
        let is_text = value.first() != Some(&0);
        let is_of_word =
            |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b':' | b'-');
        self.finder.find_iter(value).any(|at| {
            let before = at.checked_sub(1).and_then(|at| value.get(at));
            let after = value.get(at + self.event.len());
            !is_text || !(before.is_some_and(is_of_word) || after.is_some_and(is_of_word))
        })
    }

    /// A record of the events topic that may be it: a `CloudEvent` may have its id in a header.
    fn may_be(&self, seen: &Seen<'_>) -> bool {
        seen.value().is_some_and(|value| self.is_named_in(value)) || seen.has_headers()
    }
}

impl Operations {
    /// What became of an event that Kafka took on at this moment or later. Blocks.
    pub fn trace(
        &self,
        event: &str,
        project: Option<&ProjectId>,
        from: Option<Timestamp>,
    ) -> anyhow::Result<Story> {
        let wanted = Wanted { event, project, finder: Finder::new(event) };
        let mut story = Story::default();
        let connectors = self.connectors()?;
        let projects = project.cloned().into_iter().collect();
        let selection = Selection { projects, ..Selection::default() };
        let choice = connectors.choose(&selection, None);
        for kind in [TopicKind::Events, TopicKind::Notices] {
            self.trace_events(kind, &wanted, from, &choice, &connectors, &mut story)?;
        }
        self.trace_behind(&wanted, &mut story)?;
        self.trace_attempts(&wanted, from, &mut story)?;
        self.trace_replays(&wanted, from, &mut story)?;
        self.trace_letters(&wanted, from, &mut story)?;
        Ok(story)
    }

    fn trace_events(
        &self,
        kind: TopicKind,
        wanted: &Wanted<'_>,
        from: Option<Timestamp>,
        choice: &Choice,
        connectors: &Connectors,
        story: &mut Story,
    ) -> anyhow::Result<()> {
        let topic = self.topic(kind);
        let spans = Bounds::of(&self.connection, &topic)?.between(from, None)?;
        self.scan(&topic, &spans, |seen| {
            if !wanted.may_be(seen) {
                return ControlFlow::Continue(());
            }
            let origin = Origin {
                topic: topic.as_str().into(),
                partition: seen.partition(),
                offset: seen.offset(),
            };
            let Some(found) = self.event_in(&topic, &seen.copy()) else {
                if seen.value().is_some_and(|value| wanted.is_named_in(value)) {
                    story.unreadable.push(Unreadable { origin, at: seen.timestamp() });
                }
                return ControlFlow::Continue(());
            };
            if wanted.is_it(&found) {
                story.event_text.get_or_insert_with(|| found.json_text().to_owned());
                story.consumed.push(Consumed {
                    origin,
                    at: seen.timestamp(),
                    project: found.project.to_string(),
                    event_type: found.kind.to_string(),
                });
                match_connectors(&found, choice, connectors, story);
            }
            ControlFlow::Continue(())
        })
    }

    /// What cannot be read yet: it may be the event.
    fn trace_behind(&self, wanted: &Wanted<'_>, story: &mut Story) -> anyhow::Result<()> {
        let topic = self.topic(TopicKind::Events);
        let mut waiting = Bounds::of(&self.connection, &topic)?.behind_open_transactions()?;
        for (partition, span) in &mut waiting {
            let (partition, from, records) = (*partition, span.from, span.len());
            story.behind.push(Behind { partition, from, records, event_at: None });
            *span = Span { to: span.to.min(from.saturating_add(MAX_BEHIND)), ..*span };
        }
        scan_uncommitted(&self.connection, &topic, &waiting, |seen| {
            if wanted.may_be(seen)
                && self.event(&seen.copy()).is_some_and(|event| wanted.is_it(&event))
                && let Some(behind) =
                    story.behind.iter_mut().find(|behind| behind.partition == seen.partition())
            {
                behind.event_at.get_or_insert(seen.offset());
            }
            ControlFlow::Continue(())
        })?;
        Ok(())
    }

    fn trace_attempts(
        &self,
        wanted: &Wanted<'_>,
        from: Option<Timestamp>,
        story: &mut Story,
    ) -> anyhow::Result<()> {
        let filter = AttemptFilter {
            event: Some(wanted.event.to_owned()),
            projects: wanted.project.cloned().into_iter().collect(),
            ..AttemptFilter::default()
        };
        let projects: HashSet<String> =
            story.consumed.iter().map(|consumed| consumed.project.clone()).collect();
        let mut answers: HashMap<(String, String), Answer> = HashMap::new();
        self.each_attempt(from, None, |attempt| {
            if projects.is_empty() || projects.contains(&*attempt.project_id) {
                remember(&mut answers, &attempt);
            }
            if filter.takes(&attempt) {
                story.attempt(attempt);
            }
            ControlFlow::Continue(())
        })?;
        story.answered(|key: &ConnectorKey| {
            let key = (key.project.to_string(), key.connector.to_string());
            answers.get(&key).cloned()
        });
        Ok(())
    }

    fn trace_replays(
        &self,
        wanted: &Wanted<'_>,
        from: Option<Timestamp>,
        story: &mut Story,
    ) -> anyhow::Result<()> {
        let topic = self.topic(TopicKind::Replay);
        let spans = Bounds::of(&self.connection, &topic)?.between(from, None)?;
        self.scan(&topic, &spans, |seen| {
            let value = seen.value().filter(|value| wanted.finder.find(value).is_some());
            if let Some(record) = value.and_then(|value| self.delivery(value))
                && wanted.is_it(&record.event)
            {
                let job = record.job.as_deref().unwrap_or_default();
                story.replayed(record.delivery_id, seen.timestamp(), job);
            }
            ControlFlow::Continue(())
        })
    }

    fn trace_letters(
        &self,
        wanted: &Wanted<'_>,
        from: Option<Timestamp>,
        story: &mut Story,
    ) -> anyhow::Result<()> {
        let marks = self.marks(from)?;
        let filter = DeadFilter { from, ..DeadFilter::default() };
        self.each_letter(&filter, |letter| {
            match &letter.letter {
                Letter::Delivery(delivery) if wanted.is_it(&delivery.event) => {
                    story.dead(&letter, &marks);
                }
                Letter::Raw(value) if is_about(wanted, value, &letter, story) => {
                    story.was_refused(&letter, &marks);
                }
                _ => {}
            }
            ControlFlow::Continue(())
        })
    }
}

/// Whether a record that was refused is about the event: by its value, or by where it came from.
fn is_about(wanted: &Wanted<'_>, value: &[u8], letter: &DeadLetter, story: &Story) -> bool {
    wanted.is_named_in(value) || story.has_source(letter)
}

fn match_connectors(event: &Event, choice: &Choice, connectors: &Connectors, story: &mut Story) {
    let facts = Facts::of(&event.json);
    for known in choice.connectors() {
        let is_its = known.key.project == event.project && !event.is_about(&known.key.connector);
        if is_its && known.wants(event.kind) && known.passes(&facts) {
            let id = known.delivery(&event.id);
            story.matches(id, &known.key, known.kind);
            if let Some(reason) = &known.suspended {
                story.suspended(id, reason);
            }
        }
    }
    let mut others: Vec<NotWanted> = connectors
        .all()
        .filter(|connector| connector.key.project == event.project)
        .filter_map(|connector| {
            let why = match (connector.is_active, connector.event_types.contains(event.kind)) {
                (false, _) => "off",
                (true, false) => "other_event_types",
                (true, true) if event.is_about(&connector.key.connector) => "about_itself",
                (true, true) if !connectors.lets_through(&connector.key, &facts) => "filter",
                (true, true) => return None,
            };
            Some(NotWanted {
                project_id: connector.key.project.to_string(),
                connector_id: connector.key.connector.to_string(),
                connector_type: connector.kind,
                why,
            })
        })
        .collect();
    others.sort_by(|a, b| a.connector_id.cmp(&b.connector_id));
    // The event may be in the log several times.
    story.not_wanted = others;
}

/// Keeps the last error that each connector answered.
fn remember(answers: &mut HashMap<(String, String), Answer>, attempt: &AttemptRecord<'_>) {
    let Some(answer) = Answer::of(attempt, false) else { return };
    let key = (attempt.project_id.to_string(), attempt.connector_id.to_string());
    if answers.len() < MAX_ANSWERS || answers.contains_key(&key) {
        let known = answers.entry(key).or_insert_with(|| answer.clone());
        if known.at <= answer.at {
            *known = answer;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_found_as_a_word_and_not_in_a_longer_one() {
        let wanted = Wanted { event: "evt_1", project: None, finder: Finder::new("evt_1") };
        for value in [
            &b"evt_1"[..],
            b"{\"id\":\"evt_1\"",
            b"\xff evt_1,",
            b"evt_10 evt_1",
            b"\0\0\0\0\x010evt_1x",
        ] {
            assert!(wanted.is_named_in(value), "{}", value.escape_ascii());
        }
        for value in [&b""[..], b"evt_10", b"{\"id\":\"my_evt_1\"}", b"evt_1-a", b"evt_"] {
            assert!(!wanted.is_named_in(value), "{}", value.escape_ascii());
        }
    }
}
