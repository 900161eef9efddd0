//! What comes of making an access token.

use prometheus::IntCounterVec;

use super::maker::Maker;
use crate::destination::{ConnectorType, RENEWING};

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Renewal {
    /// There is a token.
    Renewed,
    /// The credential was refused: its owner has to act.
    Refused,
    /// There was no usable answer; it is tried again.
    Failed,
}

impl Renewal {
    /// Every outcome.
    pub const ALL: [Self; 3] = [Self::Renewed, Self::Refused, Self::Failed];

    /// The counters of each type whose tokens can be made of something that lasts longer.
    pub(super) fn counters(make: &Maker) -> prometheus::Result<IntCounterVec> {
        let counters = make.counters(
            "dunmore_credential_renewals_total",
            "Access tokens that were asked for or signed, by what came of it.",
            &["type", "outcome"],
        )?;
        let renews = |kind: &&ConnectorType| RENEWING.iter().any(|name| kind.field(name).is_some());
        for kind in ConnectorType::ALL.iter().filter(renews) {
            for outcome in Self::ALL {
                counters.with_label_values(&[kind.as_str(), outcome.as_str()]);
            }
        }
        Ok(counters)
    }

    /// The metric label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Renewed => "renewed",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}
