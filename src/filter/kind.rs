//! The kinds of values, and what is known of each name: of the event's fields, of functions and of
//! operators.

use cel::common::ast::LiteralValue;

use super::{decimal::DECIMAL, pattern::MATCHES};

/// What kind of value an expression gives, as far as that is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Bool,
    Int,
    Uint,
    Double,
    Text,
    /// An amount: a text that holds a decimal number.
    Amount,
    Decimal,
    Bytes,
    List,
    Map,
    Null,
    Type,
    /// Known with the event only.
    Any,
}

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Bool => "a boolean",
            Self::Int | Self::Uint | Self::Double => "a number",
            Self::Text => "a text",
            Self::Amount => "an amount (a text)",
            Self::Decimal => "a decimal",
            Self::Bytes => "bytes",
            Self::List => "a list",
            Self::Map => "an object",
            Self::Null => "null",
            Self::Type => "a type",
            Self::Any => "anything",
        }
    }

    /// What can be compared with each other is in one group.
    pub(super) const fn group(self) -> Option<u8> {
        match self {
            Self::Any => None,
            Self::Int | Self::Uint | Self::Double => Some(1),
            Self::Text | Self::Amount => Some(2),
            other => Some(16 + other as u8),
        }
    }

    pub(super) fn differs_from(self, other: Self) -> bool {
        matches!((self.group(), other.group()), (Some(one), Some(other)) if one != other)
    }
}

pub(super) const TYPES: &[&str] =
    &["bool", "int", "uint", "double", "string", "bytes", "list", "map", "null_type", "type"];

/// The functions that are called by name: their arguments (a target is one), and what they give.
pub(super) const FUNCTIONS: &[(&str, usize, Kind)] = &[
    ("size", 1, Kind::Int),
    ("contains", 2, Kind::Bool),
    ("startsWith", 2, Kind::Bool),
    ("endsWith", 2, Kind::Bool),
    (MATCHES, 2, Kind::Bool),
    ("int", 1, Kind::Int),
    ("uint", 1, Kind::Uint),
    ("double", 1, Kind::Double),
    ("string", 1, Kind::Text),
    ("bytes", 1, Kind::Bytes),
    ("bool", 1, Kind::Bool),
    ("type", 1, Kind::Type),
    ("dyn", 1, Kind::Any),
    (DECIMAL, 1, Kind::Decimal),
];
/// How deep an expression may be: each step takes stack when it is evaluated. Chains of `&&` and
/// of `||` are balanced, so they are not deep.
pub const MAX_DEPTH: usize = 32;
pub(super) const MACROS: &[&str] = &["has", "all", "exists", "exists_one", "map", "filter"];

/// The event's own fields.
pub(super) const FIELDS: &[(&str, Kind)] = &[
    ("id", Kind::Text),
    ("type", Kind::Text),
    ("projectId", Kind::Text),
    ("occurredAt", Kind::Text),
    ("data", Kind::Map),
];

/// The fields of its data that every event has in this form, when it has them.
pub(super) const DATA: &[(&str, Kind)] = &[
    ("amount", Kind::Amount),
    ("price", Kind::Amount),
    ("oldPrice", Kind::Amount),
    ("newPrice", Kind::Amount),
    ("totalSpent", Kind::Amount),
    ("revenue", Kind::Amount),
    ("paymentId", Kind::Text),
    ("endpointId", Kind::Text),
    ("currency", Kind::Text),
    ("txHash", Kind::Text),
    ("reason", Kind::Text),
    ("stage", Kind::Text),
    ("path", Kind::Text),
    ("paymentCount", Kind::Int),
    ("customerCount", Kind::Int),
    ("failedCount", Kind::Int),
];

pub(super) const ABOUT_AMOUNTS: &str =
    "amounts are texts: write decimal(event.data.amount) >= decimal(\"100\")";

pub(super) fn of_literal(literal: &LiteralValue) -> Kind {
    match literal {
        LiteralValue::Boolean(_) => Kind::Bool,
        LiteralValue::Bytes(_) => Kind::Bytes,
        LiteralValue::Double(_) => Kind::Double,
        LiteralValue::Int(_) => Kind::Int,
        LiteralValue::Null => Kind::Null,
        LiteralValue::String(_) => Kind::Text,
        LiteralValue::UInt(_) => Kind::Uint,
    }
}

pub(super) fn is_operator(name: &str) -> bool {
    name.starts_with(['_', '!', '-', '@'])
}
