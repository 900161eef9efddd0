//! A project's tier: how many connectors it may have.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::did_you_mean;

/// What a project pays for. A project that billing never named is on [`Tier::Starter`].
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// No connectors.
    #[default]
    Starter,
    /// Some connectors.
    Pro,
    /// More connectors.
    Business,
    /// As many connectors as it likes.
    Enterprise,
}

impl Tier {
    /// Every tier, from the smallest.
    pub const ALL: &[Self] = &[Self::Starter, Self::Pro, Self::Business, Self::Enterprise];

    /// The name in commands and settings.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starter => "starter",
            Self::Pro => "pro",
            Self::Business => "business",
            Self::Enterprise => "enterprise",
        }
    }

    /// How many connectors a project of this tier may have; `None` is no limit.
    #[must_use]
    pub const fn limit(self) -> Option<u32> {
        match self {
            Self::Starter => Some(0),
            Self::Pro => Some(5),
            Self::Business => Some(15),
            Self::Enterprise => None,
        }
    }

    /// Whether a project that has so many connectors may have one more.
    #[must_use]
    pub fn has_room_beside(self, count: usize) -> bool {
        self.limit().is_none_or(|limit| usize::try_from(limit).is_ok_and(|limit| count < limit))
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Tier {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.iter().copied().find(|tier| tier.as_str() == text).ok_or_else(|| {
            let hint = did_you_mean(text, Self::ALL.iter().map(|tier| tier.as_str()));
            format!("must be starter, pro, business or enterprise{hint}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tier_has_room_up_to_its_limit() {
        let limits = Tier::ALL.iter().map(|tier| tier.limit());
        assert_eq!(limits.collect::<Vec<_>>(), [Some(0), Some(5), Some(15), None]);
        assert!(!Tier::default().has_room_beside(0));
        assert!(Tier::Pro.has_room_beside(4));
        assert!(!Tier::Pro.has_room_beside(5));
        assert!(Tier::Enterprise.has_room_beside(usize::MAX));
    }

    #[test]
    fn a_misspelt_tier_is_told_the_right_one() {
        let error = "buisness".parse::<Tier>().unwrap_err();
        assert!(error.ends_with("did you mean \"business\"?"), "{error}");
        for tier in Tier::ALL {
            assert_eq!(serde_json::json!(tier), tier.as_str());
            assert_eq!(tier.as_str().parse(), Ok(*tier));
        }
    }
}
