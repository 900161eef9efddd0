//! What people see: amounts, names, times and links, and nothing that reads as something else.

use dunmore_connectors::{
    destination::{ConnectorType as T, Message, Request},
    event::{Event, EventTypes},
};
use serde_json::{Value, json};

use crate::{
    events::{event, item, plain},
    kit::{make, make_with, setup_of},
};

const CHATS: &[T] = &[T::Slack, T::Discord, T::Telegram, T::Teams];
const ALL_THAT_PEOPLE_READ: &[T] = &[
    T::Slack,
    T::Discord,
    T::Email,
    T::Telegram,
    T::Teams,
    T::Pagerduty,
    T::Datadog,
    T::Opsgenie,
    T::Salesforce,
];

fn request(kind: T, event: &Event) -> Request {
    let destination = make(kind.spec(), &EventTypes::Some(vec![event.kind]));
    destination.build(&item(event, setup_of(kind.as_str()))).unwrap()
}

fn body(kind: T, event: &Event) -> Value {
    serde_json::from_slice(&request(kind, event).body).unwrap()
}

fn settled(amount: &str, network: &str, hash: &str) -> Event {
    let data = json!({"paymentId":"pay_1","endpointId":"ep_1","customerId":"0x52","amount":amount,
        "currency":"USDC","network":network,"txHash":hash});
    event("evt_1", "payment.settled", &data)
}

#[test]
fn thousands_stand_apart_and_nothing_is_never_negative() {
    for &kind in ALL_THAT_PEOPLE_READ {
        let text = body(kind, &settled("1234567.890000", "base", "0x1")).to_string();
        assert!(text.contains("1,234,567.89 USDC"), "{kind}: {text}");
        let text = body(kind, &settled("-0.00", "base", "0x1")).to_string();
        assert!(text.contains("0 USDC") && !text.contains("-0 USDC"), "{kind}: {text}");
    }
}

#[test]
fn a_failure_does_not_look_like_a_success() {
    let events = plain();
    for &kind in CHATS {
        let (good, bad) =
            (body(kind, &events[1].1).to_string(), body(kind, &events[2].1).to_string());
        assert!(good.contains('\u{2705}') && !good.contains('\u{274c}'), "{kind}: {good}");
        assert!(bad.contains('\u{274c}') && !bad.contains('\u{2705}'), "{kind}: {bad}");
    }
}

#[test]
fn times_are_the_readers_own_where_the_service_can() {
    let event = &plain()[1].1;
    let text = |kind| body(kind, event).to_string();
    assert!(text(T::Slack).contains("<!date^1795169730^"), "{}", text(T::Slack));
    assert!(text(T::Discord).contains("<t:1795169730:f>"), "{}", text(T::Discord));
    assert!(text(T::Teams).contains("{{TIME(2026-11-20T10:15:30Z)}}"), "{}", text(T::Teams));
}

#[test]
fn a_transaction_has_a_link_to_its_networks_explorer() {
    let hash = format!("0x{}", "9f".repeat(32));
    let url = format!("https://basescan.org/tx/{hash}");
    for &kind in ALL_THAT_PEOPLE_READ {
        let text = body(kind, &settled("1", "base", &hash)).to_string();
        assert!(text.contains(&url), "{kind}: {text}");
        for (network, hash) in [("base", "0x9fe1"), ("elsewhere", &*hash), ("base", "|x>")] {
            let text = body(kind, &settled("1", network, hash)).to_string();
            assert!(!text.contains("/tx/"), "{kind} {network} {hash}: {text}");
        }
    }
}

/// Every text of some JSON.
fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(items) => items.iter().flat_map(texts).collect(),
        Value::Object(fields) => fields.values().flat_map(texts).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn what_turns_text_around_never_reaches_people() {
    let hostile: String = ('\u{0}'..='\u{1f}')
        .chain('\u{7f}'..='\u{9f}')
        .chain('\u{202a}'..='\u{202e}')
        .chain('\u{2066}'..='\u{2069}')
        .chain(['\u{2028}', '\u{2029}'])
        .flat_map(|c| ['a', c])
        .collect();
    let is_hostile = |c: char| {
        (c.is_control() && c != '\n')
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
    };
    for (name, plain) in plain() {
        let mut data: Value = serde_json::from_slice::<Value>(&plain.json).unwrap()["data"].clone();
        for (field, value) in data.as_object_mut().unwrap() {
            let is_free =
                !["amount", "totalSpent", "price", "oldPrice", "newPrice", "revenue", "date"]
                    .contains(&field.as_str());
            if value.is_string() && is_free {
                *value = hostile.clone().into();
            }
        }
        let event = event("evt_1", name, &data);
        for &kind in ALL_THAT_PEOPLE_READ {
            let body = body(kind, &event);
            for text in texts(&body) {
                assert!(!text.contains(is_hostile), "{kind} {name}: {text:?}");
            }
        }
    }
}

#[test]
fn telegram_writes_into_a_topic() {
    let destination = make_with(T::Telegram, &[("threadId", "42")], &EventTypes::All);
    let request = destination.build(&item(&plain()[1].1, "")).unwrap();
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    assert_eq!(body["message_thread_id"], 42);
    assert!(self::body(T::Telegram, &plain()[1].1)["message_thread_id"].is_null());
}

#[test]
fn an_incident_says_where_and_why() {
    let failed = &plain()[2].1;
    let title = Message::of(failed).incident();
    assert_eq!(title, "Payment failed on ep_summarize: insufficient_funds (1.25 USDC)");
    let long = json!({"paymentId":"p","endpointId":"e".repeat(300),"amount":"1".repeat(90),
        "currency":"c".repeat(300),"stage":"s","reason":"r".repeat(300)});
    let title = Message::of(&event("evt_1", "payment.failed", &long)).incident();
    assert!(title.chars().count() <= 130, "{title}");
}
