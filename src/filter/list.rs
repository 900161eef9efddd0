//! Macros go over lists only. The library would go over the keys of an object too, in an order that
//! is another one each time.

use std::mem;

use cel::{
    Env, ExecutionError, IdedExpr,
    common::{
        ast::{CallExpr, Expr},
        types::{self, CelList},
        value::CowVal,
    },
};

/// The function that gives a list back and refuses everything else; no expression can name it.
const LIST: &str = "@list";

/// Has the value of this part of an expression refused when it is no list.
pub(super) fn expect(part: &mut IdedExpr) {
    let id = part.id;
    let argument = mem::take(part);
    let call = CallExpr { func_name: LIST.to_owned(), target: None, args: vec![argument] };
    *part = IdedExpr { id, expr: Expr::Call(call) };
}

fn list<'b, 'v>(mut arguments: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let value = arguments.pop();
    let list = value.filter(|value| value.downcast_ref::<CelList>().is_some());
    list.ok_or_else(|| {
        let words = "all, exists, exists_one, map and filter are for lists";
        ExecutionError::function_error("macro", words)
    })
}

/// Makes it known.
pub(super) fn declare(env: &mut Env) {
    // Its name is declared once, which the tests see.
    let _ = env.add_overload(LIST, "dyn_to_list", vec![types::DYN_TYPE], list);
}
