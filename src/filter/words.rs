//! What is said of an event on which a filter fails: never a value of the event, which may be its
//! owner's customer's.

use cel::{ExecutionError, Value};

/// An error of the evaluation, in words without values.
pub(super) fn of(error: &ExecutionError) -> String {
    use ExecutionError as E;
    let pair = |one: &Value, other: &Value| format!("{} and {}", one.type_of(), other.type_of());
    match error {
        E::NoSuchKey(name) => format!("there is no field {name:?}; ask has(…) before"),
        E::NoSuchOverload(call) => {
            let kinds = call.argument_types().join(" and ");
            format!("{:?} is not for {kinds}", sign(call.function()))
        }
        E::UnsupportedBinaryOperator(name, one, other) => {
            format!("{name:?} is not for {}", pair(one, other))
        }
        E::ValuesNotComparable(one, other) => format!("{} cannot be compared", pair(one, other)),
        E::UnsupportedIndex(index, of) => {
            format!("{} is no index of {}", index.type_of(), of.type_of())
        }
        E::UnsupportedKeyType(key) => format!("{} is no name of a field", key.type_of()),
        E::IndexOutOfBounds(_) => "the list has no such item".to_owned(),
        E::DivisionByZero(_) | E::RemainderByZero(_) => "division by zero".to_owned(),
        E::Overflow(name, ..) => format!("the result of {name:?} is out of range"),
        E::DuplicateKey(_) => "an object has a field twice".to_owned(),
        E::UnexpectedType { got, want } => format!("{got} is no {want}"),
        E::FunctionError { function, message } => format!("{function}: {message}"),
        E::NotSupportedAsMethod { method, target } => {
            format!("{method:?} is not for {}", target.type_of())
        }
        E::UnsupportedTargetType { target } => format!("not for {}", target.type_of()),
        E::InvalidArgumentCount { expected, actual } => {
            format!("a function takes {expected} values, is given {actual}")
        }
        // The rest quotes parts of the expression, or has values where this library may put them.
        _ => "it fails on this event".to_owned(),
    }
}

/// The library's name of an operator as it is written.
fn sign(name: &str) -> &str {
    name.trim_matches(['_', '@'])
}
