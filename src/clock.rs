//! Time as this program carries it: milliseconds since the Unix epoch, as Kafka does.
//!
//! Pure rooms get a [`Timestamp`] as an argument; only the shell asks [`now`].

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A moment, in milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From milliseconds since the Unix epoch.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// From an RFC 3339 text such as `2026-11-23T08:00:00.000Z`: all that RFC 3339 permits, and
    /// nothing else. What is finer than a millisecond is cut off. The error does not quote the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        rfc3339(text.as_bytes())
            .map(Self)
            .ok_or_else(|| "is no RFC 3339 time such as 2026-11-23T08:00:00.000Z".to_owned())
    }

    /// This moment plus a duration, never beyond the representable range.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    /// How long from `earlier` to this moment; zero when the clock went back.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// The UTC day as `YYYY-MM-DD`.
    #[must_use]
    pub fn date(self) -> String {
        self.to_string().chars().take_while(|c| *c != 'T').collect()
    }
}

/// The wall clock. The one place where this program asks for the time of day.
#[must_use]
pub fn now() -> Timestamp {
    Timestamp(jiff::Timestamp::now().as_millisecond())
}

impl FromStr for Timestamp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match text(self.0) {
            Some(text) => f.write_str(std::str::from_utf8(&text).unwrap_or_default()),
            None => write!(f, "{} ms", self.0),
        }
    }
}

const DAY: i64 = 86_400_000;
/// Milliseconds from 1970 to the beginning of the year 0 …
const FIRST: i64 = -62_167_219_200_000;
/// … and to the end of the year 9999: RFC 3339 has no others.
const END: i64 = 253_402_300_800_000;
/// Days from 0000-03-01 to 1970-01-01. Years begin in March here, so that the leap day is the last
/// one; an era has 400 of them, and so many days:
const TO_1970: i64 = 719_468;
const ERA: i64 = 146_097;

/// The moment as RFC 3339 text, for the years 0 to 9999: every record has one, and a formatter that
/// knows no other form takes a tenth of the time.
fn text(millis: i64) -> Option<[u8; 24]> {
    if !(FIRST..END).contains(&millis) {
        return None;
    }
    let (days, of_day) = (millis.div_euclid(DAY) + TO_1970, millis.rem_euclid(DAY));
    let (era, day_of_era) = (days.div_euclid(ERA), days.rem_euclid(ERA));
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let mut text = *b"0000-00-00T00:00:00.000Z";
    let mut put = |at: usize, width: usize, mut number: i64| {
        for place in text[at..at + width].iter_mut().rev() {
            *place += u8::try_from(number % 10).unwrap_or(0);
            number /= 10;
        }
    };
    put(0, 4, year);
    put(5, 2, month);
    put(8, 2, day);
    put(11, 2, of_day / 3_600_000);
    put(14, 2, of_day / 60_000 % 60);
    put(17, 2, of_day / 1000 % 60);
    put(20, 3, of_day % 1000);
    Some(text)
}

/// Days from 1970-01-01 to this day, if there is such a day.
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let longest = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 => 28 + i64::from(is_leap),
        _ => return None,
    };
    if !(1..=longest).contains(&day) {
        return None;
    }
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * ERA + day_of_era - TO_1970)
}

/// The number in so many digits at a place.
fn digits(text: &[u8], at: usize, width: usize) -> Option<i64> {
    text.get(at..at + width)?.iter().try_fold(0, |number, digit| {
        digit.is_ascii_digit().then(|| number * 10 + i64::from(digit - b'0'))
    })
}

/// The day in a text `YYYY-MM-DD` or at the beginning of a longer one.
fn day(text: &[u8]) -> Option<i64> {
    let day = days(digits(text, 0, 4)?, digits(text, 5, 2)?, digits(text, 8, 2)?)?;
    (text[4] == b'-' && text[7] == b'-').then_some(day)
}

/// Whether a text is a day such as `2026-11-23`.
#[must_use]
pub fn is_date(text: &str) -> bool {
    text.len() == 10 && day(text.as_bytes()).is_some()
}

/// `date-time` of RFC 3339, section 5.6.
fn rfc3339(text: &[u8]) -> Option<i64> {
    let day = day(text)?;
    let (hour, minute) = (digits(text, 11, 2)?, digits(text, 14, 2)?);
    let second = digits(text, 17, 2)?;
    let is = |at: usize, byte: u8| text.get(at).is_some_and(|b| b.eq_ignore_ascii_case(&byte));
    if !is(10, b't') || !is(13, b':') || !is(16, b':') || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let rest = &text[19..];
    let (fraction, zone) = match rest.strip_prefix(b".") {
        Some(rest) => rest.split_at(rest.iter().position(|byte| !byte.is_ascii_digit())?),
        None => (&b"0"[..], rest),
    };
    if fraction.is_empty() {
        return None;
    }
    let digit = |at: usize| fraction.get(at).map_or(0, |digit| i64::from(digit - b'0'));
    let millis = digit(0) * 100 + digit(1) * 10 + digit(2);
    let offset = match zone {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let (hours, minutes) = (digits(zone, 1, 2)?, digits(zone, 4, 2)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let minutes = hours * 60 + minutes;
            if *sign == b'-' { -minutes } else { minutes }
        }
        _ => return None,
    };
    let minutes = day * 1440 + hour * 60 + minute - offset;
    // A leap second is the last one of a day in UTC. Kafka's clock, as POSIX', does not have it.
    if second == 60 && minutes.rem_euclid(1440) != 1439 {
        return None;
    }
    let moment = minutes * 60_000 + second.min(59) * 1000 + millis;
    (FIRST..END).contains(&moment).then_some(moment)
}

/// The moment that is so many units of 10^-`places` seconds after 1970, as text with so many digits
/// of the second (3 at least); nothing beyond the years 0 to 9999.
#[must_use]
pub fn fine(number: i64, places: u32) -> Option<String> {
    let unit = 10_i64.pow(places.saturating_sub(3));
    let text = text(number.div_euclid(unit))?;
    let mut text = String::from_utf8_lossy(&text[..23]).into_owned();
    let width = usize::try_from(places.saturating_sub(3)).unwrap_or_default();
    if width > 0 {
        text.push_str(&format!("{:0width$}", number.rem_euclid(unit)));
    }
    Some(text)
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Timestamp;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an RFC 3339 time such as \"2026-11-23T08:00:00.000Z\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Timestamp, E> {
                Timestamp::parse(text).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_reads_and_writes_rfc_3339_in_milliseconds() {
        let t = Timestamp::parse("2026-11-20T10:15:30+01:00").unwrap();
        assert_eq!(t.to_string(), "2026-11-20T09:15:30.000Z");
        assert_eq!(t.date(), "2026-11-20");
        assert!(Timestamp::parse("yesterday").is_err());
    }

    #[test]
    fn all_of_rfc_3339_is_read_and_nothing_else() {
        for (text, same) in [
            ("2026-11-23T08:00:00Z", "2026-11-23T08:00:00.000Z"),
            ("2026-11-23t08:00:00z", "2026-11-23T08:00:00.000Z"),
            ("2026-11-23T08:00:00.1234567890Z", "2026-11-23T08:00:00.123Z"),
            ("2026-11-23T08:00:00.9999999999999999999999Z", "2026-11-23T08:00:00.999Z"),
            ("2026-11-23T08:00:00.5-00:00", "2026-11-23T08:00:00.500Z"),
            ("2024-02-29T23:59:59+23:59", "2024-02-29T00:00:59.000Z"),
            ("9999-12-31T23:59:59.999Z", "9999-12-31T23:59:59.999Z"),
            ("0000-01-01T00:00:00Z", "0000-01-01T00:00:00.000Z"),
            ("1969-12-31T23:59:59.999Z", "1969-12-31T23:59:59.999Z"),
            ("1990-12-31T23:59:60Z", "1990-12-31T23:59:59.000Z"),
            ("1990-12-31T15:59:60-08:00", "1990-12-31T23:59:59.000Z"),
        ] {
            assert_eq!(
                Timestamp::parse(text).map(|t| t.to_string()).as_deref(),
                Ok(same),
                "{text}"
            );
        }
        for text in [
            "",
            "2026-11-23",
            "2026-11-23T08:00:00",
            "2026-11-23 08:00:00Z",
            "20261123T080000Z",
            "2026-11-23T08:00Z",
            "2026-11-23T08Z",
            "2026-11-23T08:00:00+01",
            "2026-11-23T08:00:00+0100",
            "2026-11-23T08:00:00,5Z",
            "2026-11-23T08:00:00.Z",
            "2026-11-23T08:00:00Z[UTC]",
            "2026-11-23T08:00:00+01:00[Europe/Berlin]",
            "2026-11-23T08:00:00+01:00:30",
            "2026-W48-1T08:00:00Z",
            "2026-327T08:00:00Z",
            "+002026-11-23T08:00:00Z",
            "-000001-11-23T08:00:00Z",
            "2026-11-23T24:00:00Z",
            "2026-11-23T08:00:60Z",
            "2026-02-29T08:00:00Z",
            "2026-11-31T08:00:00Z",
            "2026-13-01T08:00:00Z",
            "2026-00-01T08:00:00Z",
            "2026-11-00T08:00:00Z",
            "2026-11-23T08:60:00Z",
            " 2026-11-23T08:00:00Z",
            "2026-11-23T08:00:00Z ",
            "2026-11-23T08:00:00+24:00",
            "2026-11-23T08:00:00 Z",
            "2026/11/23T08:00:00Z",
            "9999-12-31T23:59:59-00:01",
            "0000-01-01T00:00:00+00:01",
            "2026-11-23T08:00:00\u{2212}01:00",
        ] {
            assert!(Timestamp::parse(text).is_err(), "{text:?}");
        }
        assert!(
            is_date("2024-02-29")
                && !is_date("2023-02-29")
                && !is_date("20240229")
                && !is_date("2024-2-29")
        );
        assert_eq!(fine(-1, 6).unwrap(), "1969-12-31T23:59:59.999999");
        assert_eq!(fine(1_000_000_001, 9).unwrap(), "1970-01-01T00:00:01.000000001");
        assert_eq!(fine(i64::MAX, 3), None);
    }

    proptest::proptest! {
        #[test]
        fn the_text_is_the_one_of_the_calendar(millis in FIRST..END) {
            let text = Timestamp::from_millis(millis).to_string();
            if let Ok(moment) = jiff::Timestamp::from_millisecond(millis) {
                assert_eq!(text, format!("{moment:.3}"));
            }
            assert_eq!(Timestamp::parse(&text), Ok(Timestamp::from_millis(millis)));
        }
    }

    #[test]
    fn a_clock_that_goes_back_gives_zero_not_a_panic() {
        let early = Timestamp::from_millis(i64::MIN);
        let late = Timestamp::from_millis(i64::MAX);
        assert_eq!(early.since(late), Duration::ZERO);
        assert_eq!(late.plus(Duration::MAX), late);
    }
}
