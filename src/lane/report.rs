//! What a lane learns from the answers to a request.

use std::time::Duration;

use crate::delivery::{Reason, Verdict};

/// How a request went, as far as its lane cares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Report {
    /// The destination answered sensibly, whatever it said of the event.
    Working,
    /// It asked to slow down.
    SlowDown(Option<Duration>),
    /// It failed, or did not answer.
    Failing,
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
        let mut report = Self::Working;
        for (version, verdict) in answers {
            match verdict {
                Verdict::Broken { .. } => return Self::Broken { version },
                Verdict::Retry {
                    reason: Reason::RateLimited | Reason::QuotaExceeded,
                    after,
                    ..
                } => {
                    report = Self::SlowDown(*after);
                }
                Verdict::Retry { reason: Reason::PrerequisiteMissing, .. } => {}
                Verdict::Retry { .. }
                | Verdict::Dead { reason: Reason::Timeout | Reason::ConnectionLost, .. }
                    if report == Self::Working =>
                {
                    report = Self::Failing;
                }
                _ => {}
            }
        }
        report
    }
}
