//! What the records of a partition of the delivery groups are.

use std::time::Duration;

use crate::delivery::Source;

/// What a partition's records are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Records {
    /// Payment events.
    Events,
    /// Notices of connectors.
    Notices,
    /// Deliveries that wait in a retry tier, each at most so long.
    Retries(Duration),
    /// Deliveries to be replayed.
    Replays,
}

impl Records {
    pub const fn source(self) -> Source {
        match self {
            Self::Events | Self::Notices => Source::Live,
            Self::Retries(_) => Source::Retry,
            Self::Replays => Source::Replay,
        }
    }

    /// How long one of them may have to wait until it is due.
    pub const fn longest_wait(self) -> Duration {
        match self {
            Self::Retries(longest) => longest,
            Self::Events | Self::Notices | Self::Replays => Duration::ZERO,
        }
    }
}
