//! Why connectors are suspended, as one of a bounded set of codes: for metric labels and notices.

use crate::delivery::Reason;

/// Why a connector is suspended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum SuspensionCode {
    /// The destination answered with this HTTP status, 400 to 599.
    Http(u16),
    /// This program's own reason.
    Reason(Reason),
    /// Anything else, such as the words of an operator's own command.
    Other,
}

impl SuspensionCode {
    /// Reads the reason that a connector's suspension was given: `gone: HTTP 404: no_service`.
    #[must_use]
    pub fn of(reason: &str) -> Self {
        let (word, rest) = reason.split_once(':').unwrap_or((reason, ""));
        let known = Reason::ALL.iter().copied().find(|known| known.as_str() == word.trim());
        let answer = if known.is_some() { rest } else { reason };
        status(answer.trim_start())
            .map(Self::Http)
            .or(known.map(Self::Reason))
            .unwrap_or(Self::Other)
    }
}

impl std::fmt::Display for SuspensionCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Http(status) => write!(f, "http_{status}"),
            Self::Reason(reason) => f.write_str(reason.as_str()),
            Self::Other => f.write_str("other"),
        }
    }
}

/// The status of `HTTP 404: …`.
fn status(answer: &str) -> Option<u16> {
    let digits = answer.strip_prefix("HTTP ")?;
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok().filter(|status| (400..=599).contains(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suspension_has_one_of_a_bounded_set_of_codes() {
        for (reason, code) in [
            ("gone: HTTP 404: no_service", "http_404"),
            ("unauthorized: HTTP 401: token expired", "http_401"),
            ("HTTP 410", "http_410"),
            ("unusable: the stored configuration cannot be read", "unusable"),
            ("address_refused: 10.0.0.1 is private", "address_refused"),
            ("gone", "gone"),
            ("gone: HTTP 200: {\"ok\":false,\"error\":\"channel_not_found\"}", "gone"),
            ("the customer asked for it", "other"),
            ("HTTP 99999999999", "other"),
            ("HTTP x", "other"),
            ("", "other"),
            ("secret-token: HTTP 401", "other"),
        ] {
            assert_eq!(SuspensionCode::of(reason).to_string(), code, "{reason:?}");
        }
    }
}
