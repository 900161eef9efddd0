//! Moments as an operator writes them: RFC 3339, a date, or how long ago.

use crate::clock::Timestamp;

/// Reads `2026-11-23T08:00:00Z`, `2026-11-23`, `2 days ago`, `1h 30m ago` or `now`.
pub fn moment(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let text = text.trim();
    if text.eq_ignore_ascii_case("now") {
        return Ok(now);
    }
    if let Some(ago) = text.strip_suffix("ago") {
        // "2 days": the units may stand apart from their numbers.
        let span = humantime::parse_duration(ago.trim())
            .map_err(|error| format!("{text:?}: {error}; write for example \"2 days ago\""))?;
        let millis = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        return Ok(Timestamp::from_millis(now.millis().saturating_sub(millis).max(0)));
    }
    let is_date = text.len() == 10 && text.bytes().filter(|byte| *byte == b'-').count() == 2;
    let full = if is_date { format!("{text}T00:00:00Z") } else { text.to_owned() };
    Timestamp::parse(&full).map_err(|_| {
        format!("{text:?} is no moment: write 2026-11-23T08:00:00Z, 2026-11-23 or \"2 days ago\"")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_as_people_write_them() {
        let now = Timestamp::parse("2026-11-25T12:00:00Z").unwrap();
        for (text, expected) in [
            ("2026-11-23T08:00:00+01:00", "2026-11-23T07:00:00.000Z"),
            ("2026-11-23", "2026-11-23T00:00:00.000Z"),
            ("2 days ago", "2026-11-23T12:00:00.000Z"),
            ("1h 30m ago", "2026-11-25T10:30:00.000Z"),
            (" now ", "2026-11-25T12:00:00.000Z"),
        ] {
            assert_eq!(moment(text, now).unwrap().to_string(), expected);
        }
        for wrong in ["yesterday", "2 moons ago", "", "2026-13-01"] {
            assert!(moment(wrong, now).is_err(), "{wrong}");
        }
    }
}
