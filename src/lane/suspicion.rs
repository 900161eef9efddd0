//! Which answers in a row say that a connector cannot work, although none of them alone does.
//!
//! A 403 may come from a proxy that has a bad minute, and a 400 may be about one event. When every
//! answer for a while is the same and nothing was delivered in between, it is the configuration:
//! then the connector is suspended, so that its events wait instead of ending one by one.

use std::{collections::HashMap, hash::Hash, time::Duration};

use super::Moment;
use crate::delivery::{Certainty, Reason, Verdict};

/// So many doubtful answers in a row suspend a connector …
pub const MAX_DOUBTS: u32 = 5;
/// … if there is at least so much time between the first and the last of them.
pub const MIN_DOUBT_TIME: Duration = Duration::from_secs(60);
/// So many events in a row that are refused in the same words suspend a connector …
pub const MAX_SAME_REFUSALS: u32 = 10;
/// … if that took no longer than this.
pub const REFUSAL_WINDOW: Duration = Duration::from_secs(24 * 3600);
/// Connectors of which something is remembered; beyond that all is forgotten, and counted anew.
pub const MAX_SUSPECTS: usize = 10_000;
/// A word of an answer that is as long as this and has a digit in it names a request or a moment,
/// and says nothing of what is wrong.
const LEAST_OPAQUE: usize = 20;

/// One answer for one delivery.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// The version of the connector that it was sent with.
    pub version: i64,
    /// The status, if there was an answer.
    pub status: Option<u16>,
    /// The event's text. What a refusal quotes of it is about the event.
    pub event: &'a str,
}

/// What is remembered of connectors whose last answers were suspicious.
#[derive(Debug)]
pub struct Suspicions<K> {
    by_key: HashMap<K, Suspect>,
}

#[derive(Clone, Default, Debug)]
struct Suspect {
    version: i64,
    doubts: u32,
    doubted_since: Moment,
    refusals: u32,
    refused_since: Moment,
    /// What the last refusal said.
    refusal: Option<(u16, Reason, String)>,
}

impl<K> Default for Suspicions<K> {
    fn default() -> Self {
        Self { by_key: HashMap::new() }
    }
}

impl<K: Clone + Eq + Hash> Suspicions<K> {
    /// Of how many connectors something is remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether nothing is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// Whether a verdict is of a kind that is remembered.
    #[must_use]
    pub fn concerns(verdict: &Verdict) -> bool {
        matches!(verdict, Verdict::Dead { .. } | Verdict::Broken { .. })
    }

    /// The verdict in the light of those before it: a certain [`Verdict::Broken`] if it is one too
    /// many.
    pub fn weigh(&mut self, key: &K, answer: Answer<'_>, verdict: Verdict, now: Moment) -> Verdict {
        let weighed = match verdict {
            Verdict::Delivered => {
                self.by_key.remove(key);
                return verdict;
            }
            Verdict::Broken { reason, detail, certainty: Certainty::Doubtful(after) } => {
                let suspect = self.suspect(key, answer.version);
                if suspect.doubts == 0 {
                    suspect.doubted_since = now;
                }
                suspect.doubts = suspect.doubts.saturating_add(1);
                let time = now.saturating_sub(suspect.doubted_since);
                if suspect.doubts >= MAX_DOUBTS && time >= MIN_DOUBT_TIME {
                    let count = suspect.doubts;
                    Verdict::broken(reason, format!("{detail} ({count} answers in a row)"))
                } else {
                    Verdict::doubtful(reason, detail, after)
                }
            }
            Verdict::Dead { reason, detail } => {
                let count = self.refused(key, answer, reason, &detail, now);
                if count >= MAX_SAME_REFUSALS {
                    Verdict::broken(reason, format!("{detail} ({count} events in a row)"))
                } else {
                    Verdict::dead(reason, detail)
                }
            }
            other => other,
        };
        if weighed.asks().is_some() {
            self.by_key.remove(key);
        }
        weighed
    }

    /// How many refusals in a row have said the same.
    fn refused(
        &mut self,
        key: &K,
        answer: Answer<'_>,
        reason: Reason,
        detail: &str,
        now: Moment,
    ) -> u32 {
        let status = answer.status.filter(|status| (400..500).contains(status));
        // How large an event is, is its own fault.
        let Some(status) = status.filter(|_| reason != Reason::PayloadTooLarge) else { return 0 };
        let suspect = self.suspect(key, answer.version);
        let refusal = Some((status, reason, gist(detail, answer.event)));
        let is_recent = now.saturating_sub(suspect.refused_since) <= REFUSAL_WINDOW;
        if suspect.refusals == 0 || !is_recent || suspect.refusal != refusal {
            (suspect.refusals, suspect.refused_since, suspect.refusal) = (0, now, refusal);
        }
        suspect.refusals += 1;
        suspect.refusals
    }

    /// What is remembered of a connector as it is now.
    fn suspect(&mut self, key: &K, version: i64) -> &mut Suspect {
        if self.by_key.len() >= MAX_SUSPECTS && !self.by_key.contains_key(key) {
            self.by_key.clear();
        }
        let suspect = self.by_key.entry(key.clone()).or_default();
        if suspect.version != version {
            *suspect = Suspect { version, ..Suspect::default() };
        }
        suspect
    }
}

/// A text without the words that differ from answer to answer although the same is wrong: ids of
/// requests, moments. What stands in the event stays: it is what makes this refusal another one.
fn gist(detail: &str, event: &str) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | ':' | '.' | '+');
    let mut gist = String::with_capacity(detail.len());
    let mut rest = detail;
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|c| is_part(c) != is_part(first)).unwrap_or(rest.len());
        let (word, behind) = rest.split_at(end);
        let is_opaque = is_part(first)
            && word.len() >= LEAST_OPAQUE
            && word.bytes().any(|byte| byte.is_ascii_digit())
            && !event.contains(word);
        gist.push_str(if is_opaque { "#" } else { word });
        rest = behind;
    }
    gist
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ANSWER: Answer<'_> = Answer { version: 1, status: Some(422), event: "{}" };

    fn secs(seconds: u64) -> Moment {
        Duration::from_secs(seconds)
    }

    fn doubtful() -> Verdict {
        Verdict::doubtful(Reason::Forbidden, "HTTP 403", None)
    }

    fn refused(detail: &str) -> Verdict {
        Verdict::dead(Reason::Rejected, detail)
    }

    fn suspends(
        suspicions: &mut Suspicions<&'static str>,
        answer: Answer<'_>,
        verdict: Verdict,
        at: u64,
    ) -> bool {
        suspicions.weigh(&"a", answer, verdict, secs(at)).asks().is_some()
    }

    #[test]
    fn doubtful_answers_suspend_when_they_are_many_for_a_while() {
        let mut many = Suspicions::default();
        // A proxy that has a bad minute.
        assert!((0..1_000).all(|n| !suspends(&mut many, ANSWER, doubtful(), n * 59 / 1_000)));
        assert!(suspends(&mut many, ANSWER, doubtful(), 60));
        // A few, far from one another.
        let mut few = Suspicions::default();
        assert!((0..4).all(|n| !suspends(&mut few, ANSWER, doubtful(), n * 3_600)));
        assert!(suspends(&mut few, ANSWER, doubtful(), 4 * 3_600));
        assert!(few.is_empty(), "what was suspended is counted anew");
    }

    #[test]
    fn what_is_delivered_or_changed_in_between_begins_anew() {
        let mut suspicions = Suspicions::default();
        for n in 0..100 {
            assert!(!suspends(&mut suspicions, ANSWER, doubtful(), n * 30));
            if n % 4 == 3 {
                assert!(!suspends(&mut suspicions, ANSWER, Verdict::Delivered, n * 30));
            }
        }
        assert!(suspicions.is_empty());
        for version in 0..100 {
            let answer = Answer { version, ..ANSWER };
            assert!(!suspends(&mut suspicions, answer, doubtful(), 60 * version.unsigned_abs()));
        }
    }

    #[test]
    fn refusals_in_the_same_words_suspend_and_hold_the_rest() {
        let mut suspicions = Suspicions::default();
        let say =
            |n: u64| format!("no such field; request 7f9c0f3e-56ab-4cde-8123-0000000000{n:02}");
        let first = (0..100).find(|n| suspends(&mut suspicions, ANSWER, refused(&say(*n)), *n));
        assert_eq!(first, Some(9));
        let told = (0..10).map(|n| suspicions.weigh(&"a", ANSWER, refused("x"), secs(n))).last();
        let Some(Verdict::Broken { reason, detail, .. }) = told else { panic!("{told:?}") };
        assert_eq!((reason, detail.as_str()), (Reason::Rejected, "x (10 events in a row)"));
    }

    #[test]
    fn events_at_fault_one_by_one_are_harmless() {
        let mut suspicions = Suspicions::default();
        for n in 0..1_000 {
            let own = refused(&format!("the amount {n} is too small"));
            assert!(!suspends(&mut suspicions, ANSWER, own, 0));
            let wallet = format!("0x52908400098527886e0f7030069857d2e41{n:05}");
            let answer = Answer { event: &wallet, ..ANSWER };
            let quoted = refused(&format!("no customer {wallet}"));
            assert!(!suspends(&mut suspicions, answer, quoted, 0));
            let large = Verdict::dead(Reason::PayloadTooLarge, "too large");
            assert!(!suspends(&mut suspicions, ANSWER, large, 0));
            // A bug, a silence, and an item in a batch that was taken as a whole.
            for status in [None, Some(200), Some(500)] {
                let answer = Answer { status, ..ANSWER };
                assert!(!suspends(&mut suspicions, answer, refused("no"), 0));
            }
        }
    }

    #[test]
    fn a_refusal_a_day_is_no_row() {
        let mut suspicions = Suspicions::default();
        for day in 0..100 {
            assert!(!suspends(&mut suspicions, ANSWER, refused("no"), day * 90_000));
        }
    }

    #[test]
    fn memory_is_bounded() {
        let mut suspicions = Suspicions::default();
        for key in 0..3 * MAX_SUSPECTS {
            suspicions.weigh(&key, ANSWER, doubtful(), secs(0));
            assert!(suspicions.len() <= MAX_SUSPECTS);
        }
    }

    proptest! {
        /// A connector that delivers at least every ninth time is never suspended, and one whose
        /// answers are all the same always is, having lost nine events at most.
        #[test]
        fn only_what_never_delivers_is_suspended(
            answers in proptest::collection::vec((0_u8..4, 0_u64..20), 1..200),
        ) {
            let mut suspicions = Suspicions::default();
            let (mut now, mut row, mut same) = (0, 0_u32, 0_u32);
            let mut last = None;
            for (kind, pause) in answers {
                now += pause;
                let verdict = match kind {
                    0 if row < 8 => refused("no"),
                    1 if row < 8 => refused("never"),
                    2 => Verdict::retry(Reason::ServerError, "HTTP 500"),
                    _ => Verdict::Delivered,
                };
                row = if verdict == Verdict::Delivered { 0 } else { row + 1 };
                prop_assert!(!suspends(&mut suspicions, ANSWER, verdict, now));
            }
            for n in 0..MAX_SAME_REFUSALS {
                let is_suspended = suspends(&mut suspicions, ANSWER, refused("wrong column"), now);
                same += u32::from(!is_suspended);
                last = Some((n, is_suspended));
            }
            prop_assert_eq!(last, Some((MAX_SAME_REFUSALS - 1, true)));
            prop_assert_eq!(same, MAX_SAME_REFUSALS - 1);
        }
    }
}
