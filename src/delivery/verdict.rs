//! How an attempt, and a delivery, can end.

use std::time::Duration;

use super::Reason;

/// What a destination's answer means for one delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The destination has it.
    Delivered,
    /// Later it may work.
    Retry {
        /// Why not now.
        reason: Reason,
        /// The destination's words, for people.
        detail: String,
        /// How long the destination asked to wait.
        after: Option<Duration>,
    },
    /// This event will never be taken; others may.
    Dead {
        /// Why not.
        reason: Reason,
        /// The destination's words, for people.
        detail: String,
    },
    /// The connector cannot work until its owner acts.
    Broken {
        /// Why not.
        reason: Reason,
        /// What the owner should know, shown to them as the reason of the suspension.
        detail: String,
        /// Whether that is sure.
        certainty: Certainty,
    },
    /// The destination has a new name for the place that a setting names: store it and try again.
    Moved {
        /// The setting to change.
        field: &'static str,
        /// Its new value.
        value: String,
    },
}

/// Whether an answer really says that a connector cannot work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// It does, in the vendor's own words or by a status that means nothing else.
    Certain,
    /// Something in front of the service may have said it, and may soon say otherwise: it is tried
    /// again until several answers in a row say the same. How long the answer asked to wait.
    Doubtful(Option<Duration>),
}

impl Verdict {
    /// Try again in a while.
    pub fn retry(reason: Reason, detail: impl Into<String>) -> Self {
        Self::Retry { reason, detail: detail.into(), after: None }
    }

    /// Try again when the destination said.
    pub fn retry_after(
        reason: Reason,
        detail: impl Into<String>,
        after: impl Into<Option<Duration>>,
    ) -> Self {
        Self::Retry { reason, detail: detail.into(), after: after.into() }
    }

    /// Never try this event again.
    pub fn dead(reason: Reason, detail: impl Into<String>) -> Self {
        Self::Dead { reason, detail: detail.into() }
    }

    /// The connector's owner has to act.
    pub fn broken(reason: Reason, detail: impl Into<String>) -> Self {
        Self::Broken { reason, detail: detail.into(), certainty: Certainty::Certain }
    }

    /// Perhaps the connector's owner has to act: more answers will tell.
    pub fn doubtful(
        reason: Reason,
        detail: impl Into<String>,
        after: impl Into<Option<Duration>>,
    ) -> Self {
        let certainty = Certainty::Doubtful(after.into());
        Self::Broken { reason, detail: detail.into(), certainty }
    }

    /// Why it was not delivered, if so.
    #[must_use]
    pub const fn failure(&self) -> Option<Reason> {
        match self {
            Self::Delivered => None,
            Self::Retry { reason, .. }
            | Self::Dead { reason, .. }
            | Self::Broken { reason, .. } => Some(*reason),
            Self::Moved { .. } => Some(Reason::NotReady),
        }
    }

    /// Whether an item of a batch was refused for the company it was in: the batch was too large,
    /// or something in it was wrong. It is to be sent again at once in a smaller batch; in a batch
    /// of one the same answer is a [`Verdict::Dead`].
    #[must_use]
    pub fn asks_to_split(&self) -> bool {
        matches!(self, Self::Retry { reason: Reason::Rejected | Reason::PayloadTooLarge, .. })
    }
}

/// Why a destination has nothing to do for an event, in a sentence.
pub type Skip = &'static str;

macro_rules! outcomes {
    ($($name:ident => $text:literal, $help:literal;)*) => {
        /// The end of one step of a delivery, as metrics and the attempts topic count it.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Outcome { $(#[doc = $help] $name,)* }

        impl Outcome {
            /// Every outcome.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The name in metric labels and records.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

outcomes! {
    Delivered => "delivered", "The destination took it.";
    Skipped => "skipped", "The destination has nothing to do for this event.";
    Retry => "retry", "An attempt failed; the delivery waits in a retry tier.";
    Dead => "dead", "The delivery is in the dead-letter topic.";
    Cancelled => "cancelled", "The connector does not want it any more.";
    Deferred => "deferred", "No attempt was made; the delivery waits in a retry tier.";
}
