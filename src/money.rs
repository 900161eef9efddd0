//! Amounts of money: decimal strings, exact, never floats.

use std::{fmt, str::FromStr};

use bigdecimal::{BigDecimal, ToPrimitive, Zero};
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

    /// Whether it is nothing, in whatever form: `0`, `-0.00`.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.0.bytes().all(|b| matches!(b, b'0' | b'.' | b'-'))
    }

    /// The amount as people read it: without trailing zeros after the point, the thousands apart.
    /// `1234567.890000` is `1,234,567.89`, and `-0.00` is `0`.
    #[must_use]
    pub fn grouped(&self) -> String {
        if self.is_zero() {
            return "0".to_owned();
        }
        let (sign, digits) = match self.0.strip_prefix('-') {
            Some(digits) => ("-", digits),
            None => ("", &*self.0),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
        let mut text = format!("{sign}{}", thousands(if whole.is_empty() { "0" } else { whole }));
        if !fraction.is_empty() {
            text.push('.');
            text.push_str(fraction);
        }
        text
    }

    /// The exact decimal value.
    #[must_use]
    pub fn decimal(&self) -> BigDecimal {
        // `parse` admits only what `BigDecimal` reads too.
        BigDecimal::from_str(&self.0).unwrap_or_else(|_| BigDecimal::zero())
    }

    /// The nearest double, for analytics services whose numbers are doubles anyway.
    #[must_use]
    pub fn to_f64(&self) -> f64 {
        self.decimal().to_f64().unwrap_or(0.0)
    }
}

/// Digits with a comma between the thousands.
#[must_use]
pub fn thousands(digits: &str) -> String {
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
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
    fn people_see_no_trailing_zeros_and_thousands_apart() {
        for (text, expected) in [
            ("1.250000", "1.25"),
            ("2.000", "2"),
            ("100", "100"),
            ("1000", "1,000"),
            ("1234567.89", "1,234,567.89"),
            ("-1234567.8900", "-1,234,567.89"),
            ("0.1234567", "0.1234567"),
            ("0", "0"),
            ("-0", "0"),
            ("-0.000", "0"),
            ("000123.4", "123.4"),
            ("-0.5", "-0.5"),
            ("123456", "123,456"),
        ] {
            assert_eq!(Amount::parse(text).unwrap().grouped(), expected, "{text}");
        }
    }
}
