//! Amounts of money: decimal strings, exact, never floats.

use std::{fmt, str::FromStr};

use bigdecimal::{BigDecimal, RoundingMode, ToPrimitive, Zero};
use compact_str::CompactString;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The longest amount that is accepted, in characters: a 256-bit integer has 78 digits.
pub const MAX_AMOUNT_CHARS: usize = 96;

/// A decimal amount, kept exactly as its sender wrote it: `[-]digits[.digits]`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Amount(CompactString);

impl Amount {
    /// Checks that the text is a plain decimal number.
    pub fn parse(text: &str) -> Result<Self, String> {
        let digits = text.strip_prefix('-').unwrap_or(text);
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
        let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if text.len() <= MAX_AMOUNT_CHARS && all_digits(whole) && all_digits(fraction) {
            Ok(Self(text.into()))
        } else if text.len() > MAX_AMOUNT_CHARS {
            Err(format!("an amount has at most {MAX_AMOUNT_CHARS} characters"))
        } else {
            Err(format!("{text:?} is no decimal amount such as \"1.25\""))
        }
    }

    /// The amount as its sender wrote it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The amount without trailing zeros after the point, for people: `1.250000` is `1.25`.
    #[must_use]
    pub fn short(&self) -> &str {
        if self.0.contains('.') {
            self.0.trim_end_matches('0').trim_end_matches('.')
        } else {
            &self.0
        }
    }

    /// The exact decimal value.
    #[must_use]
    pub fn decimal(&self) -> BigDecimal {
        // `parse` admits only what `BigDecimal` reads too.
        BigDecimal::from_str(&self.0).unwrap_or_else(|_| BigDecimal::zero())
    }

    /// Rounded half to even at this many places, as accounting systems expect.
    #[must_use]
    pub fn rounded(&self, places: i64) -> BigDecimal {
        self.decimal().with_scale_round(places, RoundingMode::HalfEven)
    }

    /// The nearest double, for analytics services whose numbers are doubles anyway.
    #[must_use]
    pub fn to_f64(&self) -> f64 {
        self.decimal().to_f64().unwrap_or(0.0)
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Amount;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an amount as a decimal string such as \"1.25\" (numbers lose digits)")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Amount, E> {
                Amount::parse(text).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_a_plain_decimal() {
        for good in ["0", "1.250000", "-3.5", "123456789012345678901234567890.000000000000000001"] {
            assert_eq!(Amount::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", ".", "1.", ".5", "1e3", "+1", "1,5", "NaN", "--1", &"9".repeat(97)] {
            assert!(Amount::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn people_see_no_trailing_zeros() {
        let short = |text| Amount::parse(text).unwrap().short().to_owned();
        assert_eq!(short("1.250000"), "1.25");
        assert_eq!(short("2.000"), "2");
        assert_eq!(short("100"), "100");
    }

    #[test]
    fn rounding_is_half_to_even() {
        let rounded = |text| Amount::parse(text).unwrap().rounded(2).to_string();
        assert_eq!(rounded("0.005"), "0");
        assert_eq!(rounded("0.015"), "0.02");
        assert_eq!(rounded("1.250000"), "1.25");
    }
}
