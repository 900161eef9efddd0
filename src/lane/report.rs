//! What a lane learns from the answers to a request.

use std::time::Duration;

use crate::delivery::{Certainty, Reason, Verdict};

/// How a request went, as far as its lane cares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Report {
    /// The destination answered sensibly, whatever it said of the event.
    Working,
    /// It asked to slow down.
    SlowDown(Option<Duration>),
    /// It failed, or did not answer; and it may have said for how long.
    Failing(Option<Duration>),
    /// The connector of this version cannot work until it is changed.
    Broken {
        /// The connector's version that was used.
        version: i64,
    },
    /// Nothing was sent after all.
    Unused,
}

impl Report {
    /// What the verdicts of one start say of the destination, each with the version of the
    /// connector that it was sent with.
    pub fn of<'a>(answers: impl IntoIterator<Item = (i64, &'a Verdict)>) -> Self {
        let (mut asks, mut fails, mut wait) = (false, false, None);
        for (version, verdict) in answers {
            match verdict {
                Verdict::Broken { certainty: Certainty::Certain, .. } => {
                    return Self::Broken { version };
                }
                Verdict::Retry { reason, after, .. } => {
                    wait = wait.max(*after);
                    match reason {
                        Reason::RateLimited | Reason::QuotaExceeded => asks = true,
                        Reason::PrerequisiteMissing => asks |= after.is_some(),
                        _ => fails = true,
                    }
                }
                Verdict::Broken { certainty: Certainty::Doubtful(after), .. } => {
                    wait = wait.max(*after);
                    fails = true;
                }
                Verdict::Dead { reason: Reason::Timeout | Reason::ConnectionLost, .. } => {
                    fails = true;
                }
                _ => {}
            }
        }
        match (asks, fails) {
            (true, _) => Self::SlowDown(wait),
            (false, true) => Self::Failing(wait),
            (false, false) => Self::Working,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(verdicts: &[Verdict]) -> Report {
        Report::of(verdicts.iter().map(|verdict| (1, verdict)))
    }

    /// Whatever the status was: a wait that is asked for concerns all that goes there.
    #[test]
    fn a_wait_is_heard_in_every_answer_that_can_be_repeated() {
        let wait = Some(Duration::from_secs(15));
        for reason in Reason::ALL {
            let retry = Verdict::retry_after(*reason, "later", wait);
            let told = report(&[Verdict::Delivered, retry, Verdict::retry(*reason, "later")]);
            let (Report::SlowDown(after) | Report::Failing(after)) = told else {
                panic!("{reason}: {told:?}")
            };
            assert_eq!(after, wait, "{reason}");
        }
        let doubtful = Verdict::doubtful(Reason::Forbidden, "HTTP 403", wait);
        assert_eq!(report(&[doubtful]), Report::Failing(wait));
    }

    #[test]
    fn only_a_certain_answer_holds_the_lane() {
        let doubtful = Verdict::doubtful(Reason::Gone, "HTTP 404", None);
        assert_eq!(report(&[Verdict::Delivered, doubtful]), Report::Failing(None));
        let certain = Verdict::broken(Reason::Gone, "HTTP 410");
        assert_eq!(report(&[certain]), Report::Broken { version: 1 });
    }
}
