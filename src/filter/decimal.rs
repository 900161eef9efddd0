//! Exact decimals for amounts: `decimal("1.25")`, compared, added, subtracted and multiplied
//! without rounding.

use std::{any::Any, cmp::Ordering};

use bigdecimal::BigDecimal;
use cel::{
    Env, ExecutionError,
    common::{
        traits::{Adder, Comparer, Multiplier, Subtractor},
        types::{self, CelInt, CelString, Type},
        value::{CowVal, StaticVal, Val},
    },
};

/// The most digits of a decimal.
pub const MAX_DECIMAL_DIGITS: usize = 100;

/// The name of the function and of its type.
pub(super) const DECIMAL: &str = "decimal";

static TYPE: Type = Type::new_unspecified_type(DECIMAL);

#[derive(Clone, Debug)]
struct Decimal(BigDecimal);

impl Decimal {
    /// A result that has not become longer than what goes in may be.
    fn bounded<'b, 'v>(value: BigDecimal) -> Result<CowVal<'b, 'v>, ExecutionError> {
        let (_, scale) = value.as_bigint_and_exponent();
        let limit = MAX_DECIMAL_DIGITS as u64;
        if value.digits() > limit || scale.unsigned_abs() > limit {
            let words = format!("has more than {MAX_DECIMAL_DIGITS} digits");
            return Err(ExecutionError::function_error(DECIMAL, words));
        }
        Ok(CowVal::owned(Self(value)))
    }

    fn other<'a>(rhs: &'a (dyn Val + '_)) -> Result<&'a BigDecimal, ExecutionError> {
        let other = rhs.downcast_ref::<Self>().map(|other| &other.0);
        other.ok_or_else(|| ExecutionError::UnexpectedType {
            got: rhs.get_type().name().to_owned(),
            want: DECIMAL.to_owned(),
        })
    }
}

impl Val for Decimal {
    fn get_type(&self) -> &Type {
        &TYPE
    }

    fn cel_type() -> &'static Type {
        &TYPE
    }

    fn as_comparer(&self) -> Option<&dyn Comparer> {
        Some(self)
    }

    fn as_adder<'b, 'v>(&'b self) -> Option<&'b (dyn Adder + 'v)>
    where
        Self: 'v,
    {
        Some(self)
    }

    fn as_subtractor<'b, 'v>(&'b self) -> Option<&'b (dyn Subtractor + 'v)>
    where
        Self: 'v,
    {
        Some(self)
    }

    fn as_multiplier<'b, 'v>(&'b self) -> Option<&'b (dyn Multiplier + 'v)>
    where
        Self: 'v,
    {
        Some(self)
    }

    fn equals(&self, other: &dyn Val) -> bool {
        other.downcast_ref::<Self>().is_some_and(|other| self.0 == other.0)
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        Box::new(self.clone())
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl StaticVal for Decimal {}

impl Comparer for Decimal {
    fn compare(&self, rhs: &dyn Val) -> Result<Ordering, ExecutionError> {
        Self::other(rhs).map(|other| self.0.cmp(other))
    }
}

impl Adder for Decimal {
    fn add<'b, 'v>(&'b self, rhs: &(dyn Val + 'v)) -> Result<CowVal<'b, 'v>, ExecutionError>
    where
        Self: 'v,
    {
        Self::bounded(&self.0 + Self::other(rhs)?)
    }
}

impl Subtractor for Decimal {
    fn sub<'b, 'v>(&'b self, rhs: &(dyn Val + 'v)) -> Result<CowVal<'b, 'v>, ExecutionError>
    where
        Self: 'v,
    {
        Self::bounded(&self.0 - Self::other(rhs)?)
    }
}

impl Multiplier for Decimal {
    fn mul<'b, 'v>(&'b self, rhs: &(dyn Val + 'v)) -> Result<CowVal<'b, 'v>, ExecutionError>
    where
        Self: 'v,
    {
        Self::bounded(&self.0 * Self::other(rhs)?)
    }
}

/// Reads digits with an optional sign and point. Exponents are refused: one of a few characters
/// could mean any number of digits.
pub(super) fn parse(text: &str) -> Result<BigDecimal, String> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) {
        return Err("is no decimal number such as \"1.25\"".to_owned());
    }
    if digits.len() > MAX_DECIMAL_DIGITS {
        return Err(format!("has more than {MAX_DECIMAL_DIGITS} digits"));
    }
    text.parse().map_err(|_| "is no decimal number".to_owned())
}

#[expect(clippy::needless_pass_by_value, reason = "the library asks for it")]
fn of_text<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let text = arguments.first().and_then(|text| text.downcast_ref::<CelString>());
    let parsed = parse(text.map_or("", |text| text.inner()));
    let parsed = parsed.map_err(|words| ExecutionError::function_error(DECIMAL, words))?;
    Ok(CowVal::owned(Decimal(parsed)))
}

#[expect(
    clippy::needless_pass_by_value,
    clippy::unnecessary_wraps,
    reason = "the library asks for it"
)]
fn of_int<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let number = arguments.first().and_then(|number| number.downcast_ref::<CelInt>());
    let number = number.map(|number| *number.inner()).unwrap_or_default();
    Ok(CowVal::owned(Decimal(BigDecimal::from(number))))
}

/// Makes the function and its type known.
pub(super) fn declare(env: &mut Env) {
    // Each of these names is declared once, which the tests see.
    let _ = env.add_type(TYPE.to_owned());
    let _ = env.add_overload(DECIMAL, "string_to_decimal", vec![types::STRING_TYPE], of_text);
    let _ = env.add_overload(DECIMAL, "int_to_decimal", vec![types::INT_TYPE], of_int);
}
