//! Functions that stand where the library would do without a bound. No expression can name them.

use std::mem;

use cel::{
    Env, ExecutionError, IdedExpr,
    common::{
        ast::{CallExpr, Expr},
        types::{self, CelBytes, CelList, CelString},
        value::{CowVal, Val},
    },
};

use super::facts::{MAX_EVENT_BYTES, MAX_EVENT_ITEMS};

/// Gives a list back and refuses everything else: macros would go over the keys of an object, in an
/// order that is another one each time.
const LIST: &str = "@list";
/// Adds. A text, or bytes, may become as long as an event, and a list as long as one in it: a macro
/// keeps one for each item.
const SUM: &str = "@sum";

/// Has the value of this part of an expression refused when it is no list.
pub(super) fn expect_list(part: &mut IdedExpr) {
    let id = part.id;
    let argument = mem::take(part);
    let call = CallExpr { func_name: LIST.to_owned(), target: None, args: vec![argument] };
    *part = IdedExpr { id, expr: Expr::Call(call) };
}

/// Bounds a sum. What a macro collects is bounded by its list, and the library knows it by its form.
pub(super) fn bound_sum(sum: &mut CallExpr) {
    let collects =
        |part: &IdedExpr| matches!(&part.expr, Expr::Ident(name) if name.starts_with('@'));
    if !sum.args.first().is_some_and(collects) {
        SUM.clone_into(&mut sum.func_name);
    }
}

fn list<'b, 'v>(mut arguments: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let value = arguments.pop();
    let list = value.filter(|value| value.downcast_ref::<CelList>().is_some());
    list.ok_or_else(|| {
        let words = "all, exists, exists_one, map and filter are for lists";
        ExecutionError::function_error("macro", words)
    })
}

#[expect(clippy::needless_pass_by_value, reason = "the library asks for it")]
fn sum<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let [one, other] = arguments.as_slice() else {
        return Err(ExecutionError::function_error("\"+\"", "is for two values"));
    };
    let refused = |words: String| ExecutionError::function_error("\"+\"", words);
    let (bytes, items) =
        (bytes_of(&**one) + bytes_of(&**other), items_of(&**one) + items_of(&**other));
    if bytes > MAX_EVENT_BYTES {
        return Err(refused(format!("the text has more than {MAX_EVENT_BYTES} bytes")));
    }
    if items > MAX_EVENT_ITEMS {
        return Err(refused(format!("the list has more than {MAX_EVENT_ITEMS} items")));
    }
    let adder = one.as_adder().ok_or_else(|| {
        let (one, other) = (one.get_type().name(), other.get_type().name());
        refused(format!("is not for {one} and {other}"))
    })?;
    Ok(CowVal::Owned(adder.add(&**other)?.into_owned()))
}

fn bytes_of(value: &dyn Val) -> usize {
    let text = value.downcast_ref::<CelString>().map(|text| text.inner().len());
    let bytes = || value.downcast_ref::<CelBytes>().map(|bytes| bytes.inner().len());
    text.or_else(bytes).unwrap_or(0)
}

fn items_of(value: &dyn Val) -> usize {
    value.downcast_ref::<CelList>().map_or(0, |list| list.inner().len())
}

/// Makes them known.
pub(super) fn declare(env: &mut Env) {
    // Their names are declared once, which the tests see.
    let _ = env.add_overload(LIST, "dyn_to_list", vec![types::DYN_TYPE], list);
    let _ = env.add_overload(SUM, "dyn_and_dyn", vec![types::DYN_TYPE, types::DYN_TYPE], sum);
}
