//! Which failed payments are one incident, and what ends it.

use dunmore_connectors::{
    destination::{ConnectorType as T, docs::example_settings},
    event::{Event, EventType, EventTypes},
};
use serde_json::{Value, json};

use crate::{
    events::{event, item},
    kit::make_with,
};

fn failed(id: &str, endpoint: &str, reason: &str) -> Event {
    let data = json!({"paymentId":"pay_1","endpointId":endpoint,"amount":"0.05","currency":"USDC",
        "stage":"settle","reason":reason});
    event(id, "payment.failed", &data)
}

fn settled(endpoint: &str) -> Event {
    let data = json!({"paymentId":"pay_1","endpointId":endpoint,"customerId":"0x52","amount":"0.05",
        "currency":"USDC","network":"base","txHash":"0xab"});
    event("evt_9", "payment.settled", &data)
}

/// The key of the incident that a failed payment belongs to.
fn key(kind: T, dedup: &[(&str, &str)], event: &Event) -> String {
    let destination = make_with(kind, dedup, &EventTypes::All);
    let request = destination.build(&item(event, "")).unwrap();
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    let key = if kind == T::Pagerduty { &body["dedup_key"] } else { &body["alias"] };
    key.as_str().unwrap().to_owned()
}

#[test]
fn failures_of_one_endpoint_are_one_incident() {
    let [a, again, other_reason, elsewhere] = [
        failed("evt_1", "ep_1", "timeout"),
        failed("evt_2", "ep_1", "timeout"),
        failed("evt_3", "ep_1", "insufficient_funds"),
        failed("evt_4", "ep_2", "timeout"),
    ];
    for kind in [T::Pagerduty, T::Opsgenie] {
        for dedup in [&[][..], &[("dedup", "endpoint_reason")]] {
            let key = |event| key(kind, dedup, event);
            assert_eq!(key(&a), key(&again), "{kind}");
            assert_ne!(key(&a), key(&other_reason), "{kind}");
            assert_ne!(key(&a), key(&elsewhere), "{kind}");
        }
        let by_endpoint = |event| key(kind, &[("dedup", "endpoint")], event);
        assert_eq!(by_endpoint(&a), by_endpoint(&other_reason), "{kind}");
        assert_ne!(by_endpoint(&a), by_endpoint(&elsewhere), "{kind}");
        let by_event = |event| key(kind, &[("dedup", "event")], event);
        assert_eq!(by_event(&a), item(&a, "").delivery_id.to_string(), "{kind}");
        assert_ne!(by_event(&a), by_event(&again), "{kind}");
        // However long the names are.
        let long = failed("evt_5", &"x".repeat(1_000), &"y".repeat(1_000));
        assert!(key(kind, &[], &long).len() <= 255, "{kind}");
    }
}

#[test]
fn a_settled_payment_ends_the_incident_of_its_endpoint_where_that_is_wanted() {
    let settings = [("dedup", "endpoint"), ("resolve", "settled")];
    let (down, up) = (failed("evt_1", "ep/1 ü", "timeout"), settled("ep/1 ü"));
    let destination = make_with(T::Pagerduty, &settings, &EventTypes::All);
    let request = destination.build(&item(&up, "")).unwrap();
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    assert_eq!(request.url.path(), "/v2/enqueue");
    assert_eq!(body["event_action"], "resolve");
    assert_eq!(body["dedup_key"], key(T::Pagerduty, &settings, &down));

    let destination = make_with(T::Opsgenie, &settings, &EventTypes::All);
    assert_eq!(destination.skips(&up), None);
    for (setup, place) in [("", "/v2/alerts/"), ("jsm", "/jsm/ops/integration/v2/alerts/")] {
        let request = destination.build(&item(&up, setup)).unwrap();
        let path = request.url.path();
        let alias = path.strip_prefix(place).and_then(|rest| rest.strip_suffix("/close")).unwrap();
        let alias = alias.replace("%2F", "/").replace("%20", " ").replace("%C3%BC", "ü");
        assert_eq!(alias, key(T::Opsgenie, &settings, &down));
        assert_eq!(request.url.query(), Some("identifierType=alias"));
    }

    // Without it, a settled payment is what it was.
    let plain = make_with(T::Pagerduty, &[], &EventTypes::All);
    assert_eq!(plain.build(&item(&up, "")).unwrap().url.path(), "/v2/change/enqueue");
    assert!(make_with(T::Opsgenie, &[], &EventTypes::All).skips(&up).is_some());
}

#[test]
fn what_could_never_be_resolved_is_refused() {
    let failures = EventTypes::Some(vec![EventType::PaymentFailed]);
    for kind in [T::Pagerduty, T::Opsgenie] {
        let check = |dedup: &'static str, event_types: &EventTypes| {
            let mut settings = example_settings(kind.spec(), None);
            for (name, value) in [("dedup", dedup), ("resolve", "settled")] {
                let field = kind.field(name).unwrap();
                let setting = dunmore_connectors::destination::Setting::Text(value.into());
                settings.insert(field.name, setting);
            }
            (kind.spec().check)(&settings, event_types)
        };
        assert!(check("endpoint", &EventTypes::All).is_empty());
        for (dedup, event_types) in [
            ("endpoint_reason", &EventTypes::All),
            ("event", &EventTypes::All),
            ("endpoint", &failures),
        ] {
            let errors = check(dedup, event_types);
            assert_eq!(errors.len(), 1, "{kind} {dedup}");
            assert_eq!(errors[0].0, "resolve", "{kind} {dedup}");
        }
    }
}
