//! What filters say and refuse.

use super::*;
use crate::event::{EventType, sample};

const EVENT: &str = r#"{"id":"evt_1","type":"payment.settled","projectId":"proj_1",
    "occurredAt":"2026-11-23T08:00:00.000Z","data":{"paymentId":"pay_1","endpointId":"ep_1",
    "customerId":"0x52","amount":"1250.000000","currency":"USDC","network":"base","txHash":"0xab",
    "tags":["vip","eu"],"count":3,"ratio":0.5,"big":18446744073709551615,"none":null,"flag":true,
    "more":{"a":1}}}"#;

fn ask(text: &str) -> Result<bool, String> {
    let filter = Filter::compile(text).map_err(|error| format!("compile: {error}"))?;
    filter.passes(&Facts::of(EVENT.as_bytes())).map_err(|error| error.to_string())
}

fn wrong(text: &str) -> String {
    Filter::compile(text).unwrap_err().to_string()
}

#[test]
fn an_expression_says_whether_an_event_passes() {
    for (text, passes) in [
        ("true", true),
        ("event.type == 'payment.settled'", true),
        ("event.data.currency in ['EUR', \"USDC\"] && event.data.network == 'base'", true),
        ("decimal(event.data.amount) >= decimal(\"1250\")", true),
        ("decimal(event.data.amount) > decimal('1250')", false),
        ("decimal(event.data.amount) == decimal(1250)", true),
        ("decimal(event.data.amount) != decimal('1250.00')", false),
        (
            "decimal(event.data.amount) * decimal('2') - decimal('1') + decimal(1) == decimal(2500)",
            true,
        ),
        // Doubles would be equal.
        ("decimal('0.1') + decimal('0.2') == decimal('0.3')", true),
        ("decimal('9007199254740993') == decimal('9007199254740992')", false),
        ("has(event.data.refund) && event.data.refund == 'x'", false),
        ("!has(event.data.refund) || event.data.refund == 'x'", true),
        ("has(event.data.none) && event.data.none == null", true),
        ("event.data.paymentId.startsWith('pay_') && event.data.paymentId.endsWith('1')", true),
        ("event.data.customerId.contains('5')", true),
        ("event.data.paymentId.matches('^pay_[0-9]+$')", true),
        ("matches(event.data.paymentId, 'x{2}')", false),
        ("event.data.tags.exists(t, t == 'vip')", true),
        ("event.data.tags.all(t, size(t) > 2)", false),
        ("event.data.tags.exists_one(t, t.startsWith('v'))", true),
        ("size(event.data.tags.filter(t, t != 'eu')) == 1", true),
        ("event.data.tags.map(t, t + '!').exists(t, t == 'eu!')", true),
        ("event.data.count * 2 == 6 && event.data.ratio < 1.0", true),
        ("event.data.big > 9223372036854775807", true),
        ("event.data['count'] == 3 && event.data.more.a == 1", true),
        ("event.data.flag", true),
        ("event.data.flag ? event.data.count == 4 : true", false),
        ("type(event.data.count) == int", true),
        ("decimal(event.data.amount) in [decimal('99'), decimal('1250')]", true),
        ("event.data.amount in [null]", false),
        ("event.data.amount != null && event['data']['amount'] != null", true),
        ("event.data.amount + ' ' + event.data.currency == '1250.000000 USDC'", true),
        ("event.data.amount == event.data.other || true", true),
        ("'vip' in event.data.tags && 'a' in event.data.more", true),
        // A comment and brackets in a text count for nothing.
        ("event.data.currency != '((((((((((((((((((' // [[[[[[[[[[[[[[[[[", true),
    ] {
        assert_eq!(ask(text), Ok(passes), "{text}");
    }
}

#[test]
fn what_fails_on_an_event_is_an_error_and_no_answer() {
    for text in [
        "event.data.refund == 'x'",
        "event.data.count / 0 == 1",
        "event.data.count % 0 == 1",
        "event.data.count + 9223372036854775807 > 0",
        "event.data.count == 3 && event.data.flag > 1",
        "event.data.more",
        "event.data.tags[7] == 'x'",
        "decimal(event.data.customerId) > decimal('1')",
        "decimal(event.data.ratio) > decimal('1')",
        "event.data.count.startsWith('3')",
        "event.data.count.exists(x, x == 1)",
        "event.data.more.exists(x, x == 'a')",
        "event.data.more.all(x, x == 'a')",
        "size(event.data.more.map(x, x)) == 1",
        "event.data.none.a == 1",
        "int(event.data.currency) == 1",
        "event.data.count.matches('1')",
    ] {
        let filter = Filter::compile(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert!(filter.passes(&Facts::of(EVENT.as_bytes())).is_err(), "{text}");
    }
    let filter = Filter::compile("event.type == 'x'").unwrap();
    let large = EVENT.replace("pay_1", &"x".repeat(MAX_EVENT_BYTES));
    let list = format!("\"tags\":[{}0]", "0,".repeat(MAX_EVENT_ITEMS));
    let many = EVENT.replace("\"tags\":[\"vip\",\"eu\"]", &list);
    let deep = EVENT.replace("null", &format!("{}{}", "[".repeat(20), "]".repeat(20)));
    let beyond = EVENT.replace("0.5", "1e999");
    for (event, words) in [
        (large, "16384 bytes"),
        (many, "100 items"),
        (deep, "16 deep"),
        (beyond, "number out of range"),
        ("{".to_owned(), "cannot be read"),
    ] {
        let error = filter.passes(&Facts::of(event.as_bytes())).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn texts_and_lists_stay_as_short_as_an_event() {
    // An event's own texts are shorter.
    let event = EVENT.replace("0x52", &"x".repeat(MAX_EVENT_BYTES / 2));
    let items = vec!["1"; MAX_EVENT_ITEMS / 2].join(",");
    let event = event.replace("\"vip\",\"eu\"", &items);
    let ask = |text: &str| {
        let filter = Filter::compile(text).unwrap();
        filter.passes(&Facts::of(event.as_bytes())).map_err(|error| error.to_string())
    };
    let twice = "(event.data.customerId + event.data.customerId)";
    assert_eq!(ask(&format!("{twice}.matches('^x+$')")), Ok(true));
    let error = ask(&format!(r"{twice}.matches(r'^\w+$')")).unwrap_err();
    assert!(error.contains("more than 1024 bytes"), "{error}");
    let tags = "event.data.tags";
    assert_eq!(ask(&format!("size({tags} + {tags}) == 100")), Ok(true));
    assert_eq!(ask(&format!("size({tags}.map(t, {tags} + {tags})[0]) == 100")), Ok(true));
    for (longer, words) in [
        (format!("size({twice} + '!') > 0"), "more than 16384 bytes"),
        (format!("size(bytes({twice}) + b'!') > 0"), "more than 16384 bytes"),
        (format!("size({tags}.map(t, {twice} + '!')) > 0"), "more than 16384 bytes"),
        (format!("size({tags} + {tags} + [1]) > 0"), "more than 100 items"),
        (format!("{tags}.all(t, size({tags} + {tags} + [t]) > 0)"), "more than 100 items"),
        ("event.data.count + event.data.flag > 1".to_owned(), "\"add\" is not for int and bool"),
        ("event.data.none + event.data.flag > 1".to_owned(), "is not for"),
    ] {
        let error = ask(&longer).unwrap_err();
        assert!(error.contains(words), "{longer}: {error}");
    }
}

#[test]
fn what_fails_is_told_without_a_value_of_the_event() {
    let event = EVENT.replace("\"a\":1", "\"a\":\"SECRET\"").replace("vip", "SECRET");
    let event = event.replace("USDC", "SECRET").replace("3,", "4711,").replace("0x52", "SECRET");
    let fails = [
        "event.data.more % event.data.count == 1",
        "event.data.more < event.data.more",
        "event.data.tags[event.data.more] == 1",
        "event.data.tags[event.data.count] == 1",
        "event.data.count / 0 == 1",
        "event.data.count + 9223372036854775807 > 1",
        "event.data.refund == 1",
        "event.data.count.contains('x')",
        "int(event.data.currency) == 1",
        "bool(event.data.currency)",
        "event.data.customerId.a == 1",
        "event.data.customerId && event.data.more",
        "event.data.customerId ? true : false",
        "double(event.data.currency) == 1.0",
        "decimal(event.data.customerId) == decimal(1)",
        "-event.data.tags == 1",
        "!event.data.customerId",
        "event.data.more",
        "{event.data.tags: 1}.a == 1",
        "{event.data.currency: 1, 'SECRET': 2}.a == 1",
        "event.data.customerId in event.data.count",
    ];
    let told = fails.map(|text| {
        let filter = Filter::compile(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let error = filter.passes(&Facts::of(event.as_bytes())).unwrap_err().to_string();
        assert!(!error.contains("SECRET") && !error.contains("4711"), "{text}: {error}");
        format!("{text} → {error}")
    });
    insta::assert_snapshot!(told.join("\n"));
}

#[test]
fn a_wrong_expression_is_told_with_its_place_and_a_hint() {
    let wrongs = [
        "",
        "event.data.amount >",
        "evnt.type == 'x'",
        "amount > 1",
        "event.amount == '1'",
        "event.typ == 'x'",
        "event.data.amount >= 100",
        "event.data.amount >= '100'",
        "event.data.amount == 100",
        "event.data.amount == '100'",
        "'100' != event.data.amount",
        "event.data['amount'] == '100'",
        "event.data.oldPrice != event.data.newPrice",
        "event.data.amount in ['100', '200']",
        "'100' in [event.data.amount]",
        "event.data.amount in {'100': true}",
        "event.data.amount in [100]",
        "event.type in ['a', 1]",
        "decimal(event.data.amount) == '100'",
        "event['amount'] == '1'",
        "event.data.amount >= event.data.price",
        "decimal(event.data.amount) >= 100",
        "decimal('1e9') > decimal('1')",
        "decimal(1.5) > decimal('1')",
        "event.data.amount",
        "size(event.data.tags)",
        "'x' && true",
        "event.type.startWith('x')",
        "startsWith(event.type, 'x')",
        "event.type.startsWith()",
        "event.type + 1 == 2",
        "event.type.matches(event.id)",
        "event.type.matches('(')",
        "event.data.tags.exists(a, event.data.tags.exists(b, a == b))",
        "(event.data.tags + event.data.tags).exists(a, a == 'x')",
        "event.data.tags.exists(t, t.matches('x'))",
        "event.data.exists(k, k == 'amount')",
        "event.exists(k, k == 'id')",
        "{'a': 1}.all(k, k == 'a')",
        "event.data.?x.orValue(true)",
        "Message{a: 1}.a",
        "true\n&& evnt",
    ];
    let told: Vec<String> = wrongs.iter().map(|text| format!("{text} → {}", wrong(text))).collect();
    insta::assert_snapshot!(told.join("\n"));
}

/// Expressions that are as nested, or as long in one way, as characters allow.
fn monsters() -> Vec<String> {
    let nested = |open: &str, close: &str| {
        let count = MAX_FILTER_CHARS / (open.len() + close.len() + 1);
        format!("{}1{}", open.repeat(count), close.repeat(count))
    };
    let chained = |first: &str, next: &str| {
        format!("{first}{}", next.repeat((MAX_FILTER_CHARS - first.len()) / next.len()))
    };
    let mut monsters = vec![
        nested("(", ")"),
        nested("[", "]"),
        nested("{1:", "}"),
        nested("decimal(", ")"),
        nested("a[", "]"),
        nested("!(", ")"),
        chained("event", ".data"),
        chained("event", "[0]"),
        chained("event", ".size()"),
        chained("1", "+1"),
        chained("1", "<1"),
        chained("true", "||true"),
        chained("true", "?true:true"),
        chained("1 == 1", "&&1 in[1]"),
        "!".repeat(MAX_FILTER_CHARS),
        "-".repeat(MAX_FILTER_CHARS),
        "(".repeat(MAX_FILTER_CHARS),
        "[{".repeat(MAX_FILTER_CHARS / 2),
        "\"".repeat(MAX_FILTER_CHARS),
        "'\\".repeat(MAX_FILTER_CHARS / 2),
        "$&*`".repeat(MAX_FILTER_CHARS / 4),
        "é".repeat(MAX_FILTER_CHARS),
        "1".repeat(MAX_FILTER_CHARS),
        format!("decimal('{}') > decimal('1')", "9".repeat(900)),
        "event.id.matches('(a{1000}){1000}')".to_owned(),
        format!("event.id.matches('{}')", "(".repeat(900)),
    ];
    // As long as is allowed, so that it goes all the way.
    let allowed = |first: &str, next: &str, count: usize| format!("{first}{}", next.repeat(count));
    monsters.push(allowed("event.data.count", "+1", MAX_DEPTH - 4) + " == 1");
    monsters.push(allowed("event", ".data", MAX_DEPTH - 2) + " == 1");
    monsters.push(allowed("event.data.flag", "||false", MAX_OPERATORS - 3));
    let depth = MAX_NESTING - 1;
    monsters.push(format!("{}true{} == true", "(".repeat(depth), ")".repeat(depth)));
    monsters.push(format!("{}1{} == 1", "[".repeat(depth), "]".repeat(depth)));
    monsters
}

#[test]
fn no_expression_overflows_a_small_stack() {
    let small = std::thread::Builder::new().stack_size(1024 * 1024);
    let run = small.spawn(|| {
        let mut compiled = 0;
        for text in monsters() {
            if let Ok(filter) = Filter::compile(&text) {
                compiled += 1;
                let _ = filter.passes(&Facts::of(EVENT.as_bytes()));
            }
        }
        compiled
    });
    assert!(run.unwrap().join().unwrap() >= 3);
}

#[test]
fn a_filter_is_as_long_as_it_may_be() {
    let longest = format!("event.id == '{}'", "é".repeat(MAX_FILTER_CHARS - 14));
    assert_eq!(longest.chars().count(), MAX_FILTER_CHARS);
    assert_eq!(ask(&longest), Ok(false));
    assert!(wrong(&format!("{longest} ")).contains("at most 1024 characters, has 1025"));
}

#[test]
fn decimals_stay_short() {
    let nines = "9".repeat(MAX_DECIMAL_DIGITS);
    assert_eq!(ask(&format!("decimal('{nines}') == decimal('{nines}')")), Ok(true));
    assert!(wrong(&format!("decimal('{nines}9') == decimal('1')")).contains("100 digits"));
    let product = format!("decimal('{nines}') * decimal('{nines}') > decimal('1')");
    assert!(ask(&product).unwrap_err().contains("100 digits"));
}

#[test]
fn every_sample_can_be_asked() {
    let filter = Filter::compile("event.projectId == 'proj_1' && size(event.data) > 1").unwrap();
    for kind in EventType::ALL {
        assert_eq!(filter.passes(&Facts::of(sample(*kind).as_bytes())), Ok(true), "{kind}");
    }
    assert!(!format!("{filter:?}").contains("proj_1"));
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in "[a-z0-9 .,()\\[\\]{}<>=!&|?:+*/%'\"\\\\-]{0,60}") {
        if let Ok(filter) = Filter::compile(&text) {
            let _ = filter.passes(&Facts::of(EVENT.as_bytes()));
        }
    }
}
