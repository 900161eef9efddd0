//! How far the service is behind: what waits in each topic, since when, and how long it will take.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::Operations;
use crate::{
    clock::{self, Timestamp},
    kafka::{Standing, Standings, TopicKind},
};

/// How long the oldest records are waited for.
const OLDEST_WITHIN: Duration = Duration::from_millis(800);
/// Between the two looks that tell how fast a backlog goes down.
pub const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

/// How far the service is behind.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Lag {
    /// When that was looked at.
    pub at: Timestamp,
    /// Each topic that the service reads, those of live deliveries first.
    pub topics: Vec<TopicLag>,
}

/// How far a group is behind in a topic.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TopicLag {
    /// The topic.
    pub topic: String,
    /// The consumer group.
    pub group: String,
    /// Offsets from the oldest one that is not done to the end.
    pub behind: u64,
    /// Of those, so many are not done.
    pub waiting: u64,
    /// Offsets behind an open transaction, which cannot be read yet.
    pub behind_open_transaction: u64,
    /// When the oldest record that waits was written, if one waits and it could be read in time.
    pub oldest_at: Option<Timestamp>,
    /// How long it has waited, in seconds. Of a retry tier: how long it is overdue; it waits on
    /// purpose until then.
    pub lag_seconds: Option<f64>,
    /// How much less waits each second; less than zero when the backlog grows. None where nothing
    /// waits, or what waits waits on purpose.
    pub per_second: Option<f64>,
    /// How long the backlog takes at this pace, in seconds; none when it does not go down.
    pub seconds_left: Option<f64>,
    /// The partitions in which something waits.
    pub partitions: Vec<PartitionLag>,
}

/// How far a group is behind in a partition.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PartitionLag {
    /// The partition.
    pub partition: i32,
    /// The oldest offset that is not done.
    pub next: i64,
    /// The offset behind the last record.
    pub end: i64,
    /// So many offsets are not done.
    pub waiting: u64,
    /// When the oldest record that waits was written.
    pub oldest_at: Option<Timestamp>,
}

/// Where the groups stood in one topic at two moments so far apart.
struct Looks {
    first: Vec<Standing>,
    second: Vec<Standing>,
    apart: Duration,
}

impl TopicLag {
    /// Of the first look; the second one only tells the pace. `held` is how long the topic's records
    /// wait on purpose.
    fn of(
        looks: &Looks,
        oldest: &BTreeMap<(String, i32), Timestamp>,
        held: Option<Duration>,
        now: Timestamp,
    ) -> Option<Self> {
        let any = looks.first.first()?;
        let partition = |standing: &Standing| PartitionLag {
            partition: standing.partition,
            next: standing.next,
            end: standing.end,
            waiting: standing.waiting(),
            oldest_at: oldest.get(&(standing.topic.clone(), standing.partition)).copied(),
        };
        let partitions: Vec<PartitionLag> =
            looks.first.iter().filter(|one| one.waiting() > 0).map(partition).collect();
        let (before, after) = (waiting(&looks.first), waiting(&looks.second));
        let oldest_at = partitions.iter().filter_map(|partition| partition.oldest_at).min();
        let held_for = held.unwrap_or_default();
        let is_measured = before > 0 && held.is_none() && !looks.apart.is_zero();
        let per_second = is_measured.then(|| pace(before, after, looks.apart));
        Some(Self {
            topic: any.topic.clone(),
            group: any.group.clone(),
            behind: looks.first.iter().map(|s| u64::try_from(s.end - s.next).unwrap_or(0)).sum(),
            waiting: before,
            behind_open_transaction: looks.first.iter().map(|standing| standing.open).sum(),
            oldest_at,
            lag_seconds: oldest_at.map(|at| now.since(at).saturating_sub(held_for).as_secs_f64()),
            per_second,
            seconds_left: per_second.and_then(|pace| seconds_left(after, pace)),
            partitions,
        })
    }
}

fn waiting(standings: &[Standing]) -> u64 {
    standings.iter().map(Standing::waiting).sum()
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn pace(before: u64, waiting: u64, apart: Duration) -> f64 {
    (before as f64 - waiting as f64) / apart.as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn seconds_left(waiting: u64, per_second: f64) -> Option<f64> {
    (per_second > 0.0).then(|| waiting as f64 / per_second)
}

impl Operations {
    /// The groups of the service, each with the topics that it reads.
    fn read_by(&self) -> Vec<(String, Vec<String>)> {
        let is_tier = |kind: &TopicKind| matches!(kind, TopicKind::Retry(_));
        let retries = self.topics.all().into_iter().filter(is_tier);
        let retries: Vec<String> = retries.map(|kind| self.topic(kind)).collect();
        let named = |suffix: &str| format!("{}{suffix}", self.group);
        vec![
            (named(""), vec![self.topic(TopicKind::Events)]),
            (named(".notices"), vec![self.topic(TopicKind::Notices)]),
            (named(".retry"), retries),
            (named(".replay"), vec![self.topic(TopicKind::Replay)]),
            (named(".registrar"), vec![self.topic(TopicKind::Commands)]),
        ]
    }

    /// How far the service is behind. Looks twice when something waits. Blocks.
    pub fn lag(&self) -> anyhow::Result<Lag> {
        let groups = self.read_by();
        let standings = Standings::new(&self.connection, &groups)?;
        let (first, began) = (standings.ask()?, Instant::now());
        let oldest = standings.oldest(&first, OLDEST_WITHIN)?;
        let now = clock::now();
        let is_measured = |standing: &Standing| {
            standing.waiting() > 0 && self.held_for(&standing.topic).is_none()
        };
        let (second, apart) = if first.iter().any(is_measured) {
            std::thread::sleep(BETWEEN_LOOKS.saturating_sub(began.elapsed()));
            (standings.ask()?, began.elapsed())
        } else {
            (first.clone(), Duration::ZERO)
        };
        let of = |standings: &[Standing], topic: &str| -> Vec<Standing> {
            standings.iter().filter(|standing| standing.topic == topic).cloned().collect()
        };
        let topics = groups.iter().flat_map(|(_, topics)| topics).filter_map(|topic| {
            let looks = Looks { first: of(&first, topic), second: of(&second, topic), apart };
            TopicLag::of(&looks, &oldest, self.held_for(topic), now)
        });
        Ok(Lag { at: now, topics: topics.collect() })
    }

    /// How long the records of a topic wait on purpose.
    fn held_for(&self, topic: &str) -> Option<Duration> {
        let tier = topic.strip_prefix(&self.topics.retry_prefix())?;
        humantime::parse_duration(tier).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(partition: i32, next: i64, end: i64, done: u64) -> Standing {
        let (group, topic) = ("g".to_owned(), "t".to_owned());
        Standing { group, topic, partition, next, end, done, open: 0 }
    }

    #[test]
    fn what_is_done_beyond_the_oldest_offset_does_not_wait() {
        let at = |second: i64| Timestamp::from_millis(1_800_000_000_000 + second * 1_000);
        let looks = Looks {
            first: vec![standing(0, 10, 110, 20), standing(1, 5, 5, 0), standing(2, 0, 20, 0)],
            second: vec![standing(0, 60, 110, 0), standing(1, 5, 5, 0), standing(2, 20, 20, 0)],
            apart: Duration::from_secs(2),
        };
        let oldest = [((String::from("t"), 0), at(0)), ((String::from("t"), 2), at(6))];
        let oldest = BTreeMap::from(oldest);
        let lag = TopicLag::of(&looks, &oldest, None, at(10)).unwrap();
        assert_eq!((lag.behind, lag.waiting), (120, 100));
        assert_eq!((lag.oldest_at, lag.lag_seconds), (Some(at(0)), Some(10.0)));
        // 100, then 50 two seconds later.
        assert_eq!((lag.per_second, lag.seconds_left), (Some(25.0), Some(2.0)));
        let behind: Vec<i32> = lag.partitions.iter().map(|one| one.partition).collect();
        assert_eq!(behind, [0, 2]);

        // A tier's records wait on purpose: only what is overdue is late, and there is no pace.
        let tier = TopicLag::of(&looks, &oldest, Some(Duration::from_secs(8)), at(10)).unwrap();
        assert_eq!((tier.lag_seconds, tier.per_second), (Some(2.0), None));
        let early = TopicLag::of(&looks, &oldest, Some(Duration::from_secs(60)), at(10)).unwrap();
        assert_eq!(early.lag_seconds, Some(0.0));

        // A backlog that grows has no end.
        let grows = Looks { first: looks.second.clone(), second: looks.first.clone(), ..looks };
        let grows = TopicLag::of(&grows, &oldest, None, at(10)).unwrap();
        assert_eq!((grows.per_second, grows.seconds_left), (Some(-25.0), None));
        // No topic, no lag.
        let none = Looks { first: Vec::new(), second: Vec::new(), apart: Duration::ZERO };
        assert_eq!(TopicLag::of(&none, &oldest, None, at(10)), None);
    }
}
