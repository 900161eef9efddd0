//! What comes of making an access token.

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
