//! Patterns of `matches`: compiled with the expression, and a value of their own when it is
//! evaluated.

use std::{any::Any, sync::Arc};

use cel::{
    Env, ExecutionError,
    common::{
        types::{self, CelBool, CelString, Type},
        value::{CowVal, StaticVal, Val},
    },
};
use regex::Regex;

/// The function that takes one.
pub(super) const MATCHES: &str = "matches";

static PATTERN: Type = Type::new_unspecified_type("pattern");

/// A compiled pattern as a value. Its clones share what the matching keeps: a clone of a [`Regex`]
/// begins with none of it.
#[derive(Clone, Debug)]
pub(super) struct Pattern(Arc<Regex>);

impl Pattern {
    pub(super) fn new(compiled: Regex) -> Self {
        Self(Arc::new(compiled))
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
    Ok(CowVal::owned(CelBool::from(pattern.0.is_match(text.inner()))))
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
        let pattern = Pattern::new(Regex::new("a").unwrap());
        let value = pattern.clone_as_boxed();
        let again = value.downcast_ref::<Pattern>().unwrap();
        assert!(Arc::ptr_eq(&again.0, &pattern.0));
    }
}
