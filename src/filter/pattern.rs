//! Patterns of `matches`: compiled with the expression, and a value of their own when it is
//! evaluated.
//!
//! A match may take a step for each character of the text and each state of the pattern. So a large
//! pattern matches short texts only.

use std::{any::Any, sync::Arc};

use cel::{
    Env, ExecutionError,
    common::{
        types::{self, CelBool, CelString, Type},
        value::{CowVal, StaticVal, Val},
    },
};
use regex::{Error, Regex, RegexBuilder};

/// The longest text that a pattern matches, in bytes.
const MAX_MATCHED_BYTES: usize = 16 * 1024;
/// The largest pattern that matches a text of this length, in bytes of its compiled form.
const MAX_SMALL_PATTERN_BYTES: usize = 16 * 1024;
/// The longest text that a larger pattern matches, in bytes.
const MAX_MATCHED_BY_LARGE_BYTES: usize = 1024;
/// The largest pattern, in bytes of its compiled form.
const MAX_PATTERN_BYTES: usize = 256 * 1024;

/// The function that takes one.
pub(super) const MATCHES: &str = "matches";

static PATTERN: Type = Type::new_unspecified_type("pattern");

/// A compiled pattern as a value. Its clones share what the matching keeps: a clone of a [`Regex`]
/// begins with none of it.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    compiled: Arc<Regex>,
    longest: usize,
}

impl Pattern {
    pub(super) fn compile(pattern: &str) -> Result<Self, String> {
        let within = |size| {
            let mut builder = RegexBuilder::new(pattern);
            builder.size_limit(size).dfa_size_limit(MAX_PATTERN_BYTES).build()
        };
        let (compiled, longest) = match within(MAX_SMALL_PATTERN_BYTES) {
            Err(Error::CompiledTooBig(_)) => {
                (within(MAX_PATTERN_BYTES), MAX_MATCHED_BY_LARGE_BYTES)
            }
            compiled => (compiled, MAX_MATCHED_BYTES),
        };
        let compiled = compiled.map_err(|error| match error {
            Error::CompiledTooBig(_) => format!(
                "the pattern is larger than {MAX_PATTERN_BYTES} bytes when it is compiled: repeat \
                 less, or write [a-z] in place of \\w and \\p"
            ),
            other => {
                let words = other.to_string();
                format!("the pattern is wrong: {}", words.lines().last().unwrap_or_default())
            }
        })?;
        Ok(Self { compiled: Arc::new(compiled), longest })
    }

    fn is_match(&self, text: &str) -> Result<bool, ExecutionError> {
        if text.len() > self.longest {
            let words = format!("the text has more than {} bytes", self.longest);
            return Err(ExecutionError::function_error(MATCHES, words));
        }
        Ok(self.compiled.is_match(text))
    }

    /// The variable that stands for a pattern; no expression can name it.
    pub(super) fn name_of(index: usize) -> String {
        format!("@pattern{index}")
    }
}

impl Val for Pattern {
    fn get_type(&self) -> &Type {
        &PATTERN
    }

    fn cel_type() -> &'static Type {
        &PATTERN
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        Box::new(self.clone())
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl StaticVal for Pattern {}

#[expect(clippy::needless_pass_by_value, reason = "the library asks for it")]
fn matches<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let text = arguments.first().and_then(|text| text.downcast_ref::<CelString>());
    let pattern = arguments.get(1).and_then(|pattern| pattern.downcast_ref::<Pattern>());
    let (Some(text), Some(pattern)) = (text, pattern) else {
        return Err(ExecutionError::function_error(MATCHES, "is for texts"));
    };
    Ok(CowVal::owned(CelBool::from(pattern.is_match(text.inner())?)))
}

/// Makes `matches` known for compiled patterns.
pub(super) fn declare(env: &mut Env) {
    let text = types::STRING_TYPE;
    // Each of these names is declared once, which the tests see.
    let _ = env.add_overload(
        MATCHES,
        "matches_pattern",
        vec![text.to_owned(), PATTERN.to_owned()],
        matches,
    );
    let _ = env.add_member_overload(
        MATCHES,
        "text_matches_pattern",
        text,
        vec![PATTERN.to_owned()],
        matches,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evaluations_share_one_compiled_pattern() {
        let pattern = Pattern::compile("a").unwrap();
        let value = pattern.clone_as_boxed();
        let again = value.downcast_ref::<Pattern>().unwrap();
        assert!(Arc::ptr_eq(&again.compiled, &pattern.compiled));
    }

    #[test]
    fn the_larger_a_pattern_the_shorter_the_texts() {
        for (pattern, longest) in [
            ("^POST /v1/", MAX_MATCHED_BYTES),
            ("^[0-9a-f]{64}$", MAX_MATCHED_BYTES),
            (r"^\d{1}$", MAX_MATCHED_BYTES),
            (r"^[\w.]+@\w+\.\w+$", MAX_MATCHED_BY_LARGE_BYTES),
            ("[ab]*a[ab]{2000}c", MAX_MATCHED_BY_LARGE_BYTES),
        ] {
            let pattern = Pattern::compile(pattern).unwrap();
            assert_eq!(pattern.longest, longest, "{pattern:?}");
            assert!(pattern.is_match(&"a".repeat(longest)).is_ok());
            let error = pattern.is_match(&"a".repeat(longest + 1)).unwrap_err().to_string();
            assert!(error.contains(&format!("more than {longest} bytes")), "{error}");
        }
        let error = Pattern::compile(r"\w{100}").unwrap_err();
        assert!(error.contains("larger than 262144 bytes"), "{error}");
    }
}
