//! What all connectors of a type share at the vendor: calls that it refuses are counted against
//! the calling address, whoever's connector it was, and too many of them get the address banned.

use std::{collections::VecDeque, time::Duration};

use super::Moment;
use crate::destination::SharedLimit;

/// Counts the refused calls of one type. Keeps one moment for each, at most as many as the limit.
#[derive(Debug)]
pub struct SharedAddress {
    limit: SharedLimit,
    refused: VecDeque<Moment>,
}

impl SharedAddress {
    /// Nothing was refused yet.
    #[must_use]
    pub fn new(limit: SharedLimit) -> Self {
        Self { limit, refused: VecDeque::new() }
    }

    /// A call was refused. Tells whether that was one too many: from now on there is a pause.
    pub fn refuse(&mut self, now: Moment) -> bool {
        let was_paused = self.pause(now).is_some();
        self.refused.push_back(now);
        while self.refused.len() > self.most() {
            self.refused.pop_front();
        }
        !was_paused && self.pause(now).is_some()
    }

    /// How long no connector of the type may call, if so: until the oldest of the refused calls
    /// counts no more.
    pub fn pause(&mut self, now: Moment) -> Option<Duration> {
        while self.refused.front().is_some_and(|at| *at + self.limit.within <= now) {
            self.refused.pop_front();
        }
        let is_full = self.refused.len() >= self.most();
        self.refused
            .front()
            .filter(|_| is_full)
            .map(|at| (*at + self.limit.within).saturating_sub(now))
    }

    fn most(&self) -> usize {
        usize::try_from(self.limit.refused.max(1)).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::ConnectorType;

    const LIMIT: SharedLimit =
        SharedLimit { refused: 3, within: Duration::from_secs(60), counts: |_| true };

    fn secs(seconds: u64) -> Moment {
        Duration::from_secs(seconds)
    }

    #[test]
    fn too_many_refused_calls_pause_the_type_until_the_oldest_is_forgotten() {
        let mut shared = SharedAddress::new(LIMIT);
        assert_eq!(shared.pause(secs(0)), None);
        assert!(!shared.refuse(secs(1)) && !shared.refuse(secs(10)));
        assert_eq!(shared.pause(secs(10)), None);
        assert!(shared.refuse(secs(20)), "the third begins the pause");
        assert_eq!(shared.pause(secs(20)), Some(secs(41)));
        assert_eq!(shared.pause(secs(60)), Some(secs(1)));
        // One place is free again, and the next refused call takes it.
        assert_eq!(shared.pause(secs(61)), None);
        assert!(shared.refuse(secs(61)));
        assert_eq!(shared.pause(secs(61)), Some(secs(9)));
        assert_eq!(shared.pause(secs(200)), None);
    }

    #[test]
    fn calls_that_were_under_way_make_the_pause_longer_and_nothing_grow() {
        let mut shared = SharedAddress::new(LIMIT);
        for second in 0..100 {
            shared.refuse(secs(second / 10));
        }
        assert_eq!(shared.refused.len(), 3);
        assert_eq!(shared.pause(secs(9)), Some(secs(60)));
    }

    #[test]
    fn seldom_refused_calls_pause_nothing() {
        let mut shared = SharedAddress::new(LIMIT);
        for minute in 0..100 {
            assert!(!shared.refuse(secs(minute * 30)));
        }
    }

    /// Half of what bans the address: 10,000 in ten minutes.
    #[test]
    fn discord_is_left_alone_long_before_it_bans() {
        let limit = ConnectorType::Discord.spec().shared_address_limit.unwrap();
        let mut shared = SharedAddress::new(limit);
        let mut called = 0_u32;
        // Ten refused calls a second for an hour, had nobody counted.
        for tenth in 0..36_000 {
            let now = Duration::from_millis(tenth * 100);
            if shared.pause(now).is_none() {
                called += 1;
                shared.refuse(now);
            }
        }
        assert!(called <= 5_000 * 6, "{called} in six times ten minutes");
    }
}
