//! What of a foreign text may be shown: in logs, messages, terminals and pages.

/// Whether a character shows as itself. Others move a cursor, break a line, turn the direction of
/// what follows, or cannot be seen, so that two texts look the same.
#[must_use]
pub fn is_shown(c: char) -> bool {
    !c.is_control()
        && !matches!(c,
            '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// The character, or a space for one that does not show as itself.
#[must_use]
pub fn harmless(c: char) -> char {
    if is_shown(c) { c } else { ' ' }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_shown_and_what_only_acts_is_not() {
        for c in "aÄ漢ع🦀\u{200d}\u{301} \u{a0}".chars() {
            assert!(is_shown(c), "{c:?}");
            assert_eq!(harmless(c), c);
        }
        for c in "\0\n\t\u{1b}\u{7f}\u{85}\u{200b}\u{200f}\u{202e}\u{2066}\u{2028}\u{feff}".chars()
        {
            assert!(!is_shown(c), "{c:?}");
            assert_eq!(harmless(c), ' ');
        }
    }
}
