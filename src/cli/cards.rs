//! Lists whose entries do not fit into the columns of a terminal: each is a few lines, ids whole.

use super::output;
use crate::text::harmless;

/// The columns that a list is written for.
pub const WIDTH: usize = 80;
/// What all but the first line of an entry begins with.
pub const INDENT: &str = "  ";
/// Between two facts of a line.
pub const BETWEEN: &str = " · ";

/// Prints an entry: its first line, one of facts, and one of words, which is cut. Empty ones are left
/// out.
pub fn card(first: &str, facts: &[String], words: &str) {
    output::line(first);
    for line in lines(facts, words) {
        output::line(&format!("{INDENT}{line}"));
    }
}

fn lines(facts: &[String], words: &str) -> Vec<String> {
    let facts: Vec<&str> =
        facts.iter().map(String::as_str).filter(|fact| !fact.is_empty()).collect();
    let facts = facts.join(BETWEEN);
    let words = crate::destination::cut(&one_line(words), WIDTH - INDENT.len());
    [facts, words].into_iter().filter(|line| !line.is_empty()).collect()
}

/// A text without line breaks and other control characters: foreign words must not move the cursor.
pub fn one_line(text: &str) -> String {
    text.chars().map(harmless).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_at_most_two_further_lines_and_foreign_words_are_cut() {
        let facts = ["a".to_owned(), String::new(), "b".to_owned()];
        let words = "x".repeat(200) + "\n\u{1b}[2J";
        let lines = lines(&facts, &words);
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0], "a · b");
        assert!(lines[1].chars().count() <= WIDTH - INDENT.len());
        assert_eq!(one_line("a\n\u{1b}b"), "a  b");
        assert!(super::lines(&[], "").is_empty());
    }
}
