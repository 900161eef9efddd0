//! Golden requests: what each service gets for each event, to the letter.

use dunmore_connectors::{
    destination::{ConnectorType, Item, Request, docs::example_settings},
    event::{Event, EventType, EventTypes},
};

use crate::{
    events::{item, nasty, notices, plain},
    kit::setup_of,
};

/// A request as people compare it: the body's JSON is indented.
fn shown(request: &Request) -> String {
    let mut text = format!("{} {}\n", request.method, request.url);
    for (name, value) in &request.headers {
        text.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
    }
    if !request.body.is_empty() {
        let json: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
        text.push_str(&format!("\n{}\n", serde_json::to_string_pretty(&json).unwrap()));
    }
    text
}

/// What becomes of an event at a connector with these event types.
fn delivery(kind: ConnectorType, event_types: &EventTypes, event: &Event) -> String {
    let spec = kind.spec();
    let destination = (spec.make)(&example_settings(spec, None), event_types).unwrap();
    if let Some(why) = destination.skips(event) {
        return format!("skipped: {why}\n");
    }
    match destination.build(&item(event, setup_of(kind.as_str()))) {
        Ok(request) => shown(&request),
        Err(verdict) => format!("no request: {verdict:?}\n"),
    }
}

fn snapshot(kind: ConnectorType, events: &[(&str, Event)]) -> String {
    let mut text = String::new();
    for (name, event) in events {
        let by_star = delivery(kind, &EventTypes::All, event);
        text.push_str(&format!("=== {name}\n{by_star}\n"));
        let by_name = delivery(kind, &EventTypes::Some(vec![event.kind]), event);
        if by_name != by_star {
            text.push_str(&format!("=== {name}, named in eventTypes\n{by_name}\n"));
        }
    }
    text
}

#[test]
fn every_type_has_a_golden_request_for_every_event_type() {
    assert_eq!(plain().len(), EventType::PAYMENTS.len());
    for &kind in ConnectorType::ALL {
        insta::assert_snapshot!(format!("{kind}"), snapshot(kind, &plain()));
    }
}

#[test]
fn notices_are_golden_where_they_are_taken_and_refused_elsewhere() {
    let mut refusing = Vec::new();
    for &kind in ConnectorType::ALL {
        let settings = example_settings(kind.spec(), None);
        let named = EventTypes::Some(EventType::NOTICES.to_vec());
        let errors = (kind.spec().check)(&settings, &named);
        if errors.is_empty() {
            insta::assert_snapshot!(format!("{kind}_notices"), snapshot(kind, &notices()));
            continue;
        }
        refusing.push(kind.as_str());
        let [(field, words)] = &errors[..] else { panic!("{errors:?}") };
        assert_eq!(*field, "eventTypes");
        for notice in EventType::NOTICES {
            assert!(words.contains(notice.as_str()), "{words}");
            assert_eq!((kind.spec().becomes)(*notice), "not taken");
        }
    }
    assert_eq!(refusing, ["hubspot", "quickbooks", "xero"]);
}

#[test]
fn every_type_has_a_golden_request_for_what_breaks_things() {
    for &kind in ConnectorType::ALL {
        insta::assert_snapshot!(format!("{kind}_nasty"), snapshot(kind, &nasty()));
    }
}

#[test]
fn batches_are_golden_too() {
    let events = plain();
    for &kind in ConnectorType::ALL {
        let spec = kind.spec();
        let destination = (spec.make)(&example_settings(spec, None), &EventTypes::All).unwrap();
        let Some(batching) = destination.batching() else { continue };
        let mut batch: Vec<Item<'_>> = Vec::new();
        for (_, event) in &events {
            let next = item(event, setup_of(kind.as_str()));
            if destination.skips(event).is_none() && batching.takes(&batch, &next) {
                batch.push(next);
            }
        }
        let request = batching.build(&batch).unwrap();
        insta::assert_snapshot!(format!("{kind}_batch_of_{}", batch.len()), shown(&request));
    }
}
