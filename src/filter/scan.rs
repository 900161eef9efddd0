//! Bounds of an expression that hold before anything parses it: the parser and the evaluation
//! call themselves as deep as an expression is.

use super::FilterError;

/// How deep brackets may stand within each other.
pub const MAX_NESTING: usize = 12;
/// The most operators, dots, commas and opening brackets.
pub const MAX_OPERATORS: usize = 160;

/// Refuses what is nested too deep or chained too long. Texts and comments do not count.
pub(super) fn check(text: &str) -> Result<(), FilterError> {
    let characters: Vec<char> = text.chars().collect();
    let (mut depth, mut operators, mut at, mut in_operator) = (0_usize, 0_usize, 0, false);
    while let Some(&c) = characters.get(at) {
        let rest = &characters[at..];
        if c == '"' || c == '\'' {
            let is_raw = at > 0 && matches!(characters[at - 1], 'r' | 'R');
            at += text_length(rest, c, is_raw);
            in_operator = false;
            continue;
        }
        if rest.starts_with(&['/', '/']) {
            at += rest.iter().take_while(|c| **c != '\n').count();
            continue;
        }
        match c {
            '(' | '[' | '{' => {
                depth += 1;
                operators += 1;
                if depth > MAX_NESTING {
                    let words =
                        format!("brackets stand within each other more than {MAX_NESTING} deep");
                    return Err(FilterError::at(text, at, words));
                }
            }
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            // What stands together may be one operator; signs in a row are several.
            '!' | '-' => operators += 1,
            _ if is_operator(c) => operators += usize::from(!in_operator),
            _ => {}
        }
        in_operator = is_operator(c);
        if operators > MAX_OPERATORS {
            let words = format!("the expression has more than {MAX_OPERATORS} operators");
            return Err(FilterError::at(text, at, words));
        }
        at += 1;
    }
    Ok(())
}

fn is_operator(c: char) -> bool {
    !(c.is_alphanumeric()
        || c.is_whitespace()
        || matches!(c, '_' | '(' | ')' | '[' | ']' | '{' | '}'))
}

/// The length of a text with its quotes; one that does not end reaches as far as there is any.
fn text_length(rest: &[char], quote: char, is_raw: bool) -> usize {
    let is_triple = rest.starts_with(&[quote; 3]);
    let width = if is_triple { 3 } else { 1 };
    let mut at = width;
    while at < rest.len() {
        if rest[at] == '\\' && !is_raw {
            at += 2;
        } else if rest[at..].starts_with(&[quote; 3][..width]) {
            return at + width;
        } else {
            at += 1;
        }
    }
    rest.len()
}
