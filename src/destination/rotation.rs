//! What is kept of a refresh token that changes with each use: hidden settings of the connector.
//!
//! Xero: a refresh token is good for one use, and the old one is taken again for 30 minutes when the
//! answer was lost (<https://developer.xero.com/documentation/guides/oauth2/token-types/>).
//! `QuickBooks`: it changes about daily, and the old one is taken for another day
//! (<https://developer.intuit.com/app/developer/qbo/docs/develop/authentication-and-authorization/oauth-2.0>).

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::SecretString;
use sha2::{Digest, Sha256};

use super::{Field, SettingError, Settings};
use crate::{
    clock::Timestamp,
    delivery::{Reason, Verdict},
};

/// The access token that was made last …
pub const ROTATED_ACCESS: &str = "rotatedAccessToken";
/// … and the refresh token that came with it.
pub const ROTATED_REFRESH: &str = "rotatedRefreshToken";
/// When they were stored …
pub const ROTATED_AT: &str = "rotatedAt";
/// … and until when the access token is good.
pub const ROTATED_UNTIL: &str = "rotatedUntil";
/// The digest of the owner's refresh token that the chain of them began with.
pub const ROTATED_FROM: &str = "rotatedFrom";
/// The renewal that is under way …
pub const RENEWAL_INTENT: &str = "renewalIntent";
/// … and when it began.
pub const RENEWAL_INTENT_AT: &str = "renewalIntentAt";
/// The vendor refused the refresh token: it is not asked again until the owner acts.
pub const RENEWAL_REFUSED: &str = "renewalRefused";

/// Since when its renewal fails for another reason, once that was told.
pub const RENEWAL_FAILING: &str = "renewalFailingSince";

/// A token that is refused though it is younger than this was not refused for its age.
const YOUNG: Duration = Duration::from_secs(5 * 60);

/// The hidden settings.
pub const HIDDEN: &[Field] = &[
    Field::secret(ROTATED_ACCESS, "The access token that was made last.", "EXAMPLE"),
    Field::secret(ROTATED_REFRESH, "The refresh token that came with it.", "EXAMPLE"),
    Field::text(ROTATED_AT, "When they were stored.", "2026-11-23T08:00:00.000Z"),
    Field::text(ROTATED_UNTIL, "Until when it is good.", "2026-11-23T08:30:00.000Z"),
    Field::text(ROTATED_FROM, "What the chain began with, as a digest.", "9f86d081884c7d65"),
    Field::text(RENEWAL_INTENT, "The renewal that is under way.", "rnw_1"),
    Field::text(RENEWAL_INTENT_AT, "When it began.", "2026-11-23T08:00:00.000Z"),
    Field::text(RENEWAL_FAILING, "Since when it fails.", "2026-11-23T08:00:00.000Z"),
    Field::text(RENEWAL_REFUSED, "Whether the refresh token was refused.", "yes"),
];

/// The access token that is stored for every instance.
pub struct Kept {
    token: Option<KeptToken>,
    from: String,
}

struct KeptToken {
    secret: SecretString,
    at: Timestamp,
    until: Timestamp,
}

impl Kept {
    /// What settings with this refresh token of the owner have.
    pub(super) fn of(settings: &Settings, given: &str) -> Result<Self, SettingError> {
        let time = |field: &'static str| {
            let time = settings.optional(field).map(Timestamp::parse).transpose();
            time.map_err(|message| SettingError { field, message })
        };
        let secret = settings.optional(ROTATED_ACCESS).map(SecretString::from);
        let token = secret.zip(time(ROTATED_AT)?).zip(time(ROTATED_UNTIL)?);
        let token = token.map(|((secret, at), until)| KeptToken { secret, at, until });
        Ok(Self { token, from: digest(given) })
    }

    /// The access token, as long as it is good.
    pub fn token(&self, now: Timestamp) -> Result<&SecretString, Verdict> {
        let words = match &self.token {
            Some(token) if now < token.until => return Ok(&token.secret),
            Some(_) => "the access token has ended and is being renewed",
            None => "the first access token is being asked for",
        };
        Err(Verdict::retry(Reason::Unauthorized, words))
    }

    /// The end of the access token, when one that the service refuses may have been revoked and a
    /// new one may help; nothing when it is so young that the refusal means something else.
    #[must_use]
    pub fn refused(&self, now: Timestamp) -> Option<Timestamp> {
        let token = self.token.as_ref()?;
        (now.since(token.at) >= YOUNG).then_some(token.until)
    }

    /// The digest of the refresh token that its owner gave.
    #[must_use]
    pub fn from(&self) -> &str {
        &self.from
    }
}

/// Tells refresh tokens apart without showing them: half of a SHA-256, of what has far more entropy.
#[must_use]
pub fn digest(token: &str) -> String {
    URL_SAFE_NO_PAD.encode(&Sha256::digest(token.as_bytes())[..16])
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;
    use crate::destination::Setting;

    fn at(minutes: i64) -> Timestamp {
        Timestamp::from_millis(1_700_000_000_000 + minutes * 60_000)
    }

    #[test]
    fn a_token_serves_until_its_end_and_a_young_one_is_not_blamed() {
        let mut settings = Settings::new(None);
        let none = Kept::of(&settings, "given").unwrap();
        assert!(none.token(at(0)).is_err() && none.refused(at(0)).is_none());
        for (name, value) in [
            (ROTATED_ACCESS, "canary".to_owned()),
            (ROTATED_AT, at(0).to_string()),
            (ROTATED_UNTIL, at(30).to_string()),
        ] {
            settings.insert(name, Setting::Text(value.into()));
        }
        let kept = Kept::of(&settings, "given").unwrap();
        assert_eq!(kept.token(at(29)).unwrap().expose_secret(), "canary");
        let ended = kept.token(at(30)).unwrap_err();
        assert!(matches!(ended, Verdict::Retry { reason: Reason::Unauthorized, .. }));
        assert_eq!((kept.refused(at(4)), kept.refused(at(5))), (None, Some(at(30))));
        assert_eq!(kept.from(), digest("given"));
        assert_ne!(digest("given"), digest("given "));
        settings.insert(ROTATED_UNTIL, Setting::Text("soon".into()));
        assert!(Kept::of(&settings, "given").is_err());
    }
}
