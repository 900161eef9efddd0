//! The newest records of a topic, in bounded number and time: what is left out is older than all
//! that was read, and the notes of a letter, which stand behind it, are read before it.

use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

use anyhow::bail;

use super::Operations;
use crate::kafka::{Seen, Span, Spans};

/// How long reading one topic goes on. A window that has begun is read to its end …
const READ_FOR: Duration = Duration::from_millis(700);
/// … but not for longer than this: large records, or a broker that is slow.
const GIVE_UP: Duration = Duration::from_secs(10);
/// Offsets of the first window, of all partitions together.
const FIRST_WINDOW: u64 = 4_000;
/// A window has at most so many times as many offsets as all before it: the pace of the first ones
/// says little.
const GROWTH: u64 = 2;

/// The newest offsets of ranges, about so many of them together; and how many are left out.
fn newest(spans: &Spans, most: u64) -> (Spans, u64) {
    let filled = spans.values().filter(|span| !span.is_empty()).count() as u64;
    let share = i64::try_from((most / filled.max(1)).max(1)).unwrap_or(i64::MAX);
    let mut left_out = 0;
    let cut = spans.iter().map(|(partition, span)| {
        let from = span.from.max(span.to.saturating_sub(share));
        left_out += u64::try_from(from - span.from).unwrap_or(0);
        (*partition, Span { from, to: span.to })
    });
    let cut = cut.collect();
    (cut, left_out)
}

/// How many offsets the next window has, after so many in this time; none when the time is over.
fn next_window(read: u64, took: Duration) -> Option<u64> {
    let left = READ_FOR.checked_sub(took)?;
    let affordable = u128::from(read) * left.as_micros() / took.as_micros().max(1);
    let size = u64::try_from(affordable).unwrap_or(u64::MAX).min(read.saturating_mul(GROWTH));
    (size >= FIRST_WINDOW).then_some(size)
}

impl Operations {
    /// Hands over the newest records of ranges, at most so many, until the time is over: in windows,
    /// the newest first, each in the order of its partitions. Returns how many offsets were not
    /// read, all of them older. Blocks.
    pub(super) fn read_newest(
        &self,
        topic: &str,
        spans: &Spans,
        most: u64,
        each: impl FnMut(&Seen<'_>),
    ) -> anyhow::Result<u64> {
        self.read_windows(topic, spans, most, next_window, each)
    }

    fn read_windows(
        &self,
        topic: &str,
        spans: &Spans,
        most: u64,
        next: impl Fn(u64, Duration) -> Option<u64>,
        mut each: impl FnMut(&Seen<'_>),
    ) -> anyhow::Result<u64> {
        let (mut rest, older) = newest(spans, most);
        let (began, mut read, mut size) = (Instant::now(), 0, FIRST_WINDOW);
        loop {
            let (window, left) = newest(&rest, size);
            let mut is_late = false;
            self.scan(topic, &window, |seen| {
                each(seen);
                is_late = began.elapsed() >= GIVE_UP;
                if is_late { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
            if is_late {
                bail!("{topic}: its newest records did not come within {} s", GIVE_UP.as_secs());
            }
            if left == 0 {
                return Ok(older);
            }
            read += window.values().map(|span| span.len()).sum::<u64>();
            let Some(following) = next(read, began.elapsed()) else { return Ok(older + left) };
            size = following;
            for (partition, span) in &mut rest {
                span.to = window.get(partition).map_or(span.to, |window| window.from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::future::join_all;

    use super::*;
    use crate::{
        codec::Codec,
        config::Config,
        kafka::{Bounds, EmbeddedBroker, Outgoing, Producer, TopicKind, Topics},
        metrics::{KafkaClient, Metrics},
    };

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_left_out_is_older_than_all_that_is_read() {
        const ALL: i64 = 5_000;
        let mut config = Config::default();
        let topics = Topics::new(&config.topics.prefix, &config.delivery.policy());
        let broker = EmbeddedBroker::start(&topics, 1).unwrap();
        config.kafka.bootstrap_servers = Some(broker.bootstrap_servers());
        let metrics = Arc::new(Metrics::new().unwrap());
        let client = metrics.kafka_client(KafkaClient::Tool);
        let producer = Producer::new(&config.connection().unwrap(), client).unwrap();
        let topic = topics.name(TopicKind::Dead);
        let record = Outgoing {
            topic: &topic,
            partition: Some(0),
            key: b"",
            value: Some(b"x"),
            headers: Vec::new(),
        };
        let written = join_all((0..ALL).map(|_| producer.send(&record))).await;
        assert!(written.iter().all(Result::is_ok));
        let codec = Codec::new(&config.schema_registry, Arc::clone(&metrics)).unwrap();
        let operations = Operations::new(&config, codec).unwrap();
        let read = |most: u64, next: fn(u64, Duration) -> Option<u64>| {
            let topic = topic.clone();
            operations.blocking(move |own| {
                let bounds = Bounds::of(&own.connection, &topic)?;
                let mut seen = Vec::new();
                let see = |one: &Seen<'_>| seen.push(one.offset());
                let left = own.read_windows(&topic, bounds.whole(), most, next, see)?;
                Ok((seen, left))
            })
        };
        // The time was over after the first window.
        let (seen, left) = read(10_000, |_, _| None).await.unwrap();
        assert_eq!((seen.len(), seen.first(), seen.last()), (4_000, Some(&1_000), Some(&4_999)));
        assert_eq!(left, 1_000);
        // There was time for all that may be read.
        let (seen, left) = read(4_700, |_, _| Some(500)).await.unwrap();
        let windows = (1_000..ALL).chain(500..1_000).chain(300..500);
        assert_eq!((seen, left), (windows.collect::<Vec<i64>>(), 300));
    }

    #[test]
    fn the_newest_of_a_topic_are_looked_at_and_the_rest_is_counted() {
        let spans = Spans::from([
            (0, Span { from: 0, to: 1000 }),
            (1, Span { from: 5, to: 5 }),
            (2, Span { from: 90, to: 100 }),
        ]);
        let (cut, left_out) = newest(&spans, 100);
        assert_eq!(cut[&0], Span { from: 950, to: 1000 });
        assert_eq!((cut[&1], cut[&2]), (spans[&1], spans[&2]));
        assert_eq!(left_out, 950);
        assert_eq!(newest(&spans, 10_000), (spans.clone(), 0));
        // Each window has something, however many partitions there are.
        assert_eq!(newest(&spans, 1).0[&2], Span { from: 99, to: 100 });
    }

    #[test]
    fn a_window_has_what_the_time_left_allows() {
        let after = |read, millis| next_window(read, Duration::from_millis(millis));
        assert_eq!(after(4_000, 10), Some(8_000), "no more than twice what was read");
        assert_eq!(after(60_000, 600), Some(10_000), "as many as in a sixth of the time");
        assert_eq!(after(60_000, 690), None, "too few to be worth it");
        assert_eq!(after(60_000, 701), None);
    }
}
