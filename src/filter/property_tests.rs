//! Random expressions of the language over random events: none panics, each is bounded, and each
//! says the same every time.

use cel::{
    IdedExpr,
    common::ast::{EntryExpr, Expr},
};
use proptest::{prelude::*, sample::select, strategy::ValueTree, test_runner::TestRunner};
use serde_json::{Value, json};

use super::*;

const CASES: usize = 400;
/// What an expression may take of steps over the longest list: operators, their operands and what
/// macros add to each, once for each item.
const MAX_STEPS: usize = 8 * MAX_OPERATORS * MAX_EVENT_ITEMS;

type Text = BoxedStrategy<String>;

fn one_of(texts: &'static [&'static str]) -> Text {
    select(texts).prop_map(str::to_owned).boxed()
}

/// `{0}` and the like in a form, filled.
fn form(forms: &'static [&'static str], parts: &[&Text]) -> Text {
    let parts: Vec<Text> = parts.iter().map(|part| (*part).clone()).collect();
    (select(forms), parts)
        .prop_map(|(form, parts)| {
            let fill = |text: String, (number, part): (usize, &String)| {
                text.replace(&format!("{{{number}}}"), part)
            };
            parts.iter().enumerate().fold(form.to_owned(), fill)
        })
        .boxed()
}

/// Expressions that are true or false, so many levels deep; mostly of fitting kinds.
fn boolean(depth: u32) -> Text {
    let plain = one_of(&[
        "true",
        "event.data.flag",
        "has(event.data.note)",
        "has(event.data.more.a)",
        "event.data.none == null",
        "event.data.unknown",
        "'vip' in event.data.tags",
        "event.type in ['payment.settled', event.id]",
    ]);
    if depth == 0 {
        return plain;
    }
    let (inner, number, text) = (boolean(depth - 1), number(depth - 1), text(depth - 1));
    let (decimal, list) = (decimal(depth - 1), list(depth - 1));
    prop_oneof![
        1 => plain,
        3 => form(&["{0} && {1}", "({0} || {1})", "!({0})", "{0} ? {1} : {0}"], &[&inner, &inner]),
        2 => form(&["{0} < {1}", "{0} == {1}", "{0} in [{1}, 7]"], &[&number, &number]),
        2 => form(&[
            "{0} == {1}", "({0}).contains({1})", "({0}).startsWith({1})", "({0}).endsWith({1})",
            "({0}).matches('^[a-z]+$')", "matches({0}, r'\\w+@(a|b)*')", "{0} != {1}", "{0} <= {1}",
        ], &[&text, &text]),
        2 => form(&["{0} >= {1}", "{0} == {1}", "{0} in [{1}]"], &[&decimal, &decimal]),
        2 => form(&[
            "({0}).exists(x, x == {1})", "{0}.all(x, x != {1})", "{0}.exists_one(x, x == {1})",
            "size({0}) > size({1})", "{0}.filter(x, x + {1} != {1}).all(y, y == {1})",
        ], &[&list, &text]),
        // What does not fit, or only for some events.
        1 => form(&["{0} == {1}", "{0} && {1}", "({0})[{1}] == 1", "{0}.{1}"], &[&list, &text]),
    ]
    .boxed()
}

fn number(depth: u32) -> Text {
    let plain = one_of(&[
        "0",
        "1",
        "-1",
        "9223372036854775807",
        "2u",
        "0.5",
        "event.data.count",
        "event.data.ratio",
        "event.data.big",
        "event.data.more.a",
        "event.data['count']",
        "event.data.none",
    ]);
    if depth == 0 {
        return plain;
    }
    let (inner, text, list) = (number(depth - 1), text(depth - 1), list(depth - 1));
    prop_oneof![
        2 => plain,
        3 => form(&["{0} + {1}", "{0} - {1}", "({0}) * ({1})", "{0} / {1}", "{0} % {1}", "-({0})"],
            &[&inner, &inner]),
        1 => form(&["size({0})", "int({0})", "double({0})", "({1})[0]", "size({1})"], &[&text, &list]),
    ]
    .boxed()
}

fn text(depth: u32) -> Text {
    let plain = one_of(&[
        "''",
        "'é\u{1F600}'",
        "event.id",
        "event.type",
        "event.data.note",
        "event.data.currency",
        "event.data.amount",
        "event.data.tags[0]",
        "r'\\d'",
        "event.data.none",
    ]);
    if depth == 0 {
        return plain;
    }
    let (inner, number) = (text(depth - 1), number(depth - 1));
    prop_oneof![
        2 => plain,
        2 => form(&["({0} + {1})", "(event.data.flag ? {0} : {1})"], &[&inner, &inner]),
        1 => form(&["string({0})", "string(type({0}))"], &[&number]),
    ]
    .boxed()
}

fn decimal(depth: u32) -> Text {
    let plain = one_of(&[
        "decimal('0.1')",
        "decimal('-99999999999999999999.5')",
        "decimal(event.data.amount)",
        "decimal(event.data.count)",
        "decimal(event.data.note)",
    ]);
    if depth == 0 {
        return plain;
    }
    let inner = decimal(depth - 1);
    prop_oneof![
        2 => plain,
        2 => form(&["({0} + {1})", "({0} - {1})", "({0} * {1})", "({0} / {1})"], &[&inner, &inner]),
    ]
    .boxed()
}

fn list(depth: u32) -> Text {
    let plain =
        one_of(&["event.data.tags", "[]", "event.data.more", "event.data.note", "event.data.list"]);
    if depth == 0 {
        return plain;
    }
    let (inner, text) = (list(depth - 1), text(depth - 1));
    prop_oneof![
        3 => plain,
        1 => form(&["[{0}, {1}]", "{'a': {0}}"], &[&text, &text]),
        1 => form(&["({0} + {1})", "{0}.map(x, x)", "{0}.filter(x, x == x)"], &[&inner, &inner]),
    ]
    .boxed()
}

fn value() -> impl Strategy<Value = Value> {
    let plain = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        select(&["", "vip", "1.25", "-0", "1e9", "\u{1F600}é"][..]).prop_map(Value::from),
        "[ -~]{0,40}".prop_map(Value::from),
    ];
    plain.prop_recursive(3, 60, 8, |inner| {
        let fields = proptest::collection::vec(("[a-c]", inner.clone()), 0..8);
        prop_oneof![
            proptest::collection::vec(inner, 0..8).prop_map(Value::from),
            fields.prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// An event whose fields are as they should be, or anything, or missing.
fn event() -> impl Strategy<Value = String> {
    let usual = json!({
        "amount": "1250.000000", "currency": "USDC", "note": "ab@a", "tags": ["vip", "eu"], "count": 3,
        "ratio": 0.5, "big": u64::MAX, "none": null, "flag": true, "more": { "a": 1 },
        "list": vec![1; MAX_EVENT_ITEMS],
    });
    let names: Vec<String> = usual.as_object().unwrap().keys().cloned().collect();
    let changes = proptest::collection::vec((select(names), proptest::option::of(value())), 0..6);
    changes.prop_map(move |changes| {
        let mut data = usual.clone();
        for (name, value) in changes {
            match value {
                Some(value) => data[name] = value,
                None => drop(data.as_object_mut().unwrap().remove(&name)),
            }
        }
        let event = json!({ "id": "evt_1", "type": "payment.settled", "projectId": "proj_1",
            "occurredAt": "2026-11-23T08:00:00.000Z", "data": data });
        event.to_string()
    })
}

/// How many steps an expression takes at most.
fn steps(node: &IdedExpr) -> usize {
    1 + match &node.expr {
        Expr::Unspecified | Expr::Literal(_) | Expr::Ident(_) => 0,
        Expr::Select(select) => steps(&select.operand),
        Expr::Call(call) => {
            call.target.iter().map(|target| steps(target)).sum::<usize>()
                + call.args.iter().map(steps).sum::<usize>()
        }
        Expr::List(list) => list.elements.iter().map(steps).sum(),
        Expr::Map(map) => map
            .entries
            .iter()
            .map(|entry| match &entry.expr {
                EntryExpr::MapEntry(entry) => steps(&entry.key) + steps(&entry.value),
                EntryExpr::StructField(field) => steps(&field.value),
            })
            .sum(),
        Expr::Struct(_) => panic!("no expression makes one"),
        Expr::Comprehension(around) => {
            let of_item = steps(&around.loop_cond) + steps(&around.loop_step);
            let once = steps(&around.iter_range) + steps(&around.accu_init) + steps(&around.result);
            once + MAX_EVENT_ITEMS * of_item
        }
    }
}

#[test]
fn random_expressions_are_bounded_and_say_the_same_each_time() {
    let (expressions, events) = (boolean(4), event());
    let mut runner = TestRunner::deterministic();
    let (mut compiled, mut answered, mut failed) = (0, 0, 0);
    for _ in 0..CASES {
        let text = expressions.new_tree(&mut runner).unwrap().current();
        let filter = match Filter::compile(&text) {
            Ok(filter) => filter,
            Err(error) => {
                assert!(!error.words.contains(PANICKED_COMPILING), "{text}");
                continue;
            }
        };
        compiled += 1;
        assert!(steps(&filter.expression) <= MAX_STEPS, "{text}");
        assert!(filter.depth <= MAX_DEPTH, "{text}");
        for _ in 0..3 {
            let event = events.new_tree(&mut runner).unwrap().current();
            let ask = || filter.passes(&Facts::of(event.as_bytes()));
            let verdict = ask();
            // Each reading has the fields of objects in another order.
            assert_eq!(verdict, ask(), "{text} over {event}");
            match verdict {
                Ok(_) => answered += 1,
                Err(error) => {
                    assert_ne!(error.words, PANICKED_EVALUATING, "{text} over {event}");
                    failed += 1;
                }
            }
        }
    }
    // It would say nothing if it looked at few.
    let told = format!("{compiled} of {CASES} compiled; {answered} answers, {failed} errors");
    assert!(compiled > CASES / 4 && answered > CASES / 4 && failed > CASES / 4, "{told}");
}
