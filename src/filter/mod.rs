//! Filters: which events a connector wants beside their type, as an expression of the Common
//! Expression Language (CEL) over the event.
//!
//! An expression is checked and compiled once ([`Filter::compile`]). What it costs is bounded by
//! its form: its length, its nesting, no macro within a macro, few patterns; and by what it looks
//! at: the size of the event and of its lists. An event is never lost to a filter that fails:
//! the caller delivers then.

mod bounded;
mod check;
mod decimal;
mod facts;
mod kind;
mod pattern;
mod scan;
mod tally;
mod words;

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, LazyLock, OnceLock},
};

use cel::{Env, IdedExpr, ParseErrors, Value, common::types::CelBool};

use self::pattern::Pattern;
use crate::destination::cut;

pub use decimal::MAX_DECIMAL_DIGITS;
pub use facts::{Facts, MAX_EVENT_BYTES, MAX_EVENT_DEPTH, MAX_EVENT_ITEMS};
pub use kind::MAX_DEPTH;
pub use scan::{MAX_NESTING, MAX_OPERATORS};
pub use tally::{MAX_EXAMPLES, Tally, Verdict, of_event, to_json};

/// The longest expression, in characters.
pub const MAX_FILTER_CHARS: usize = 1024;
/// The most calls of `matches` in an expression.
pub const MAX_PATTERNS: usize = 4;
/// How deep the parser follows an expression.
const MAX_PARSER_DEPTH: u16 = 64;
/// The parser's stack, in bytes: each bracket takes up to 200 KiB of it without optimization.
const PARSER_STACK_BYTES: usize = 8 * 1024 * 1024;
/// What a step of the evaluation takes of the stack at most, in bytes. Without optimization the
/// library's steps are large.
const STEP_STACK_BYTES: usize = if cfg!(debug_assertions) { 64 * 1024 } else { 16 * 1024 };
/// The longest words of an error, in characters.
const MAX_WORDS_CHARS: usize = 300;

/// What is said where the library has a bug.
const PANICKED_COMPILING: &str = "cannot be compiled; write it differently";
const PANICKED_EVALUATING: &str = "the expression cannot be evaluated";

/// An expression that was checked and compiled.
pub struct Filter {
    expression: IdedExpr,
    /// Each with the variable that stands for it.
    patterns: Vec<(String, Pattern)>,
    depth: usize,
}

/// What is wrong with an expression, and where.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{words}")]
pub struct FilterError {
    words: String,
}

impl FilterError {
    fn new(words: impl fmt::Display) -> Self {
        Self { words: cut(&words.to_string(), MAX_WORDS_CHARS) }
    }

    /// At a character, counted from 0.
    fn at(text: &str, character: usize, words: impl fmt::Display) -> Self {
        let before: Vec<char> = text.chars().take(character).collect();
        let line = before.iter().filter(|c| **c == '\n').count() + 1;
        let column = before.iter().rev().take_while(|c| **c != '\n').count() + 1;
        if text.contains('\n') {
            Self::new(format_args!("at line {line}, character {column}: {words}"))
        } else {
            Self::new(format_args!("at character {column}: {words}"))
        }
    }
}

/// What expressions may use: the standard library without optional values, and decimals.
static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut env = Env::stdlib();
    decimal::declare(&mut env);
    bounded::declare(&mut env);
    pattern::declare(&mut env);
    Arc::new(env)
});

impl Filter {
    /// Checks and compiles an expression.
    pub fn compile(text: &str) -> Result<Self, FilterError> {
        let count = text.chars().count();
        if count > MAX_FILTER_CHARS {
            let words = format!("must have at most {MAX_FILTER_CHARS} characters, has {count}");
            return Err(FilterError::new(words));
        }
        if text.trim().is_empty() {
            return Err(FilterError::new("must not be empty"));
        }
        scan::check(text)?;
        // A bug of the library must not cost more than this expression.
        let parse = || catch_unwind(AssertUnwindSafe(|| Self::parse(text)));
        stacker::grow(PARSER_STACK_BYTES, parse)
            .unwrap_or_else(|_| Err(FilterError::new(PANICKED_COMPILING)))
    }

    fn parse(text: &str) -> Result<Self, FilterError> {
        let parser = ENVIRONMENT.parser().enable_optional_syntax(false);
        let parsed = parser.max_recursion_depth(MAX_PARSER_DEPTH).parse_with_source_info(text);
        let (mut expression, source) = parsed.map_err(|errors| syntax(text, &errors))?;
        let (patterns, depth) = check::check(text, &mut expression, &source)?;
        Ok(Self { expression, patterns, depth })
    }

    /// Whether an event passes; an error where that cannot be said of this one.
    pub fn passes(&self, facts: &Facts<'_>) -> Result<bool, FilterError> {
        let evaluate = || catch_unwind(AssertUnwindSafe(|| self.evaluate(facts)));
        let needed = (self.depth + 1) * STEP_STACK_BYTES;
        stacker::maybe_grow(needed, PARSER_STACK_BYTES, evaluate)
            .unwrap_or_else(|_| Err(FilterError::new(PANICKED_EVALUATING)))
    }

    fn evaluate(&self, facts: &Facts<'_>) -> Result<bool, FilterError> {
        let context = facts.context()?;
        let mut scope = context.new_inner_scope();
        for (name, pattern) in &self.patterns {
            scope.add_variable_as_val(name.as_str(), Box::new(pattern.clone()));
        }
        let result = Value::resolve_val(&self.expression, &scope);
        let result = result.map_err(|error| FilterError::new(words::of(&error)))?;
        if let Some(passes) = result.downcast_ref::<CelBool>() {
            return Ok(*passes.inner());
        }
        let kind = result.get_type().name();
        Err(FilterError::new(format_args!("the result must be true or false, is {kind}")))
    }
}

/// A filter that is compiled when it is asked first: of many, few may be.
#[derive(Debug)]
pub struct Lazy {
    text: String,
    compiled: OnceLock<Option<Filter>>,
}

impl Lazy {
    /// One that was accepted as this text.
    #[must_use]
    pub fn of(text: &str) -> Self {
        Self { text: text.to_owned(), compiled: OnceLock::new() }
    }

    /// Whether an event passes; it does where that cannot be said of it.
    #[must_use]
    pub fn lets_through(&self, facts: &Facts<'_>) -> bool {
        // What a later release accepted may be unknown here.
        let compiled = self.compiled.get_or_init(|| Filter::compile(&self.text).ok());
        compiled.as_ref().is_none_or(|filter| filter.passes(facts).unwrap_or(true))
    }
}

/// The expression is its owner's, and may name customers of theirs.
impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filter").finish_non_exhaustive()
    }
}

/// The first thing that the parser stumbled over.
fn syntax(text: &str, errors: &ParseErrors) -> FilterError {
    let Some(first) = errors.errors.first() else { return FilterError::new("is no expression") };
    // The parser lists everything that could have stood there instead.
    let words = first.msg.split(" expecting ").next().unwrap_or_default();
    let words = words.strip_prefix("Syntax error: ").unwrap_or(words);
    let (line, column) = first.pos;
    let line = usize::try_from(line - 1).unwrap_or_default();
    let before: usize = text.split_inclusive('\n').take(line).map(|l| l.chars().count()).sum();
    let character = before + usize::try_from(column - 1).unwrap_or_default();
    FilterError::at(text, character, words)
}

#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod tests;
