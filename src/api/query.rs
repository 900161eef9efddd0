//! Query parameters, read strictly: what is misspelt would be ignored else, and answer another
//! question than the one that was asked.

use std::{collections::BTreeMap, fmt::Display, ops::RangeInclusive, str::FromStr};

use axum::{extract::Request, middleware::Next, response::Response};

use super::error::Failure;
use crate::{
    connector::{FieldError, Problem, ProblemCode, did_you_mean},
    destination::cut,
};

/// The longest query, in bytes.
const MAX_QUERY_BYTES: usize = 4096;
/// The longest name that a message repeats, in characters.
const MAX_QUOTED_CHARS: usize = 64;

/// The parameters that were given, and what is wrong with them.
#[derive(Debug)]
pub struct Query {
    given: BTreeMap<String, String>,
    errors: Vec<FieldError>,
}

impl Query {
    /// Reads a query that may have these parameters, each once.
    pub fn read(query: Option<&str>, known: &[&str]) -> Result<Self, Problem> {
        let query = query.unwrap_or_default();
        if query.len() > MAX_QUERY_BYTES {
            let detail = format!("A query may have {MAX_QUERY_BYTES} bytes.");
            return Err(Problem::new(ProblemCode::ValidationFailed, detail));
        }
        let mut read = Self { given: BTreeMap::new(), errors: Vec::new() };
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let shown = cut(&name, MAX_QUOTED_CHARS);
            if !known.contains(&&*name) {
                let hint = did_you_mean(&shown, known.iter().copied());
                read.wrong(&shown, format!("is no known query parameter{hint}"));
            } else if read.given.insert(name.into_owned(), value.into_owned()).is_some() {
                read.wrong(&shown, "is given more than once");
            }
        }
        Ok(read)
    }

    fn wrong(&mut self, name: &str, message: impl Into<String>) {
        self.errors.push(FieldError::new(name, message.into()));
    }

    /// The text of a parameter.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.given.get(name).map(String::as_str)
    }

    /// A parameter that is read by its type's own rules.
    pub fn parsed<T: FromStr>(&mut self, name: &str) -> Option<T>
    where
        T::Err: Display,
    {
        match self.given.get(name)?.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                let message = cut(&error.to_string(), 4 * MAX_QUOTED_CHARS);
                self.wrong(name, message);
                None
            }
        }
    }

    /// A parameter that is `true` or `false`.
    pub fn boolean(&mut self, name: &str) -> Option<bool> {
        let value = self.given.get(name)?.parse().ok();
        if value.is_none() {
            self.wrong(name, "must be true or false");
        }
        value
    }

    /// A number within a range, or what stands for it.
    pub fn number(&mut self, name: &str, range: RangeInclusive<usize>, default: usize) -> usize {
        let Some(text) = self.given.get(name) else { return default };
        let number = text.parse().ok().filter(|number| range.contains(number));
        if number.is_none() {
            let message = format!("must be a number from {} to {}", range.start(), range.end());
            self.wrong(name, message);
        }
        number.unwrap_or(default)
    }

    /// Notes that a parameter has the wrong form.
    pub fn refuse(&mut self, name: &str, message: &str) {
        self.wrong(name, message);
    }

    /// Everything that is wrong, at once.
    pub fn check(self) -> Result<(), Problem> {
        if self.errors.is_empty() {
            return Ok(());
        }
        Err(Problem::with_fields(ProblemCode::ValidationFailed, self.errors))
    }
}

/// Lets requests without query parameters through.
pub async fn none(request: Request, next: Next) -> Result<Response, Failure> {
    Query::read(request.uri().query(), &[])?.check()?;
    Ok(next.run(request).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_wrong_is_named_at_once() {
        let query = Some("limit=0&tpye=slack&isActive=yes&cursor=a&cursor=b&%F0%9F=1");
        let known = ["limit", "type", "isActive", "cursor"];
        let mut query = Query::read(query, &known).unwrap();
        assert_eq!(query.number("limit", 1..=1000, 100), 100);
        assert_eq!(query.boolean("isActive"), None);
        let problem = query.check().unwrap_err();
        let fields: Vec<&str> = problem.errors.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(fields, ["tpye", "cursor", "\u{fffd}", "limit", "isActive"]);
        assert!(problem.errors[0].message.contains("\"type\""), "{problem:?}");
        let mut query = Query::read(Some("limit=7&isActive=false"), &known).unwrap();
        assert_eq!((query.number("limit", 1..=9, 5), query.boolean("isActive")), (7, Some(false)));
        assert_eq!(query.number("other", 1..=9, 5), 5);
        query.check().unwrap();
        assert!(Query::read(Some(&"a".repeat(5000)), &known).is_err());
    }
}
