//! A service's answer: no destination fails on it, and none calls an error of the service's delivered
//! unless the service says so.

#![no_main]

use std::sync::LazyLock;

use bytes::Bytes;
use dunmore_connectors::{
    clock::Timestamp,
    delivery::Verdict,
    destination::{ConnectorType, Destination, Item, Response, docs::example_settings},
    event::{Event, EventTypes},
    id::{ConnectorKey, DeliveryId},
    redact::Redactor,
};
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use secrecy::SecretString;

const EVENT: &str = r#"{"id":"evt_1","type":"payment.settled","projectId":"proj_1",
    "occurredAt":"2026-11-23T08:00:00.000Z","data":{"paymentId":"pay_1","endpointId":"ep_1",
    "customerId":"0x52908400098527886E0F7030069857D2E4169EE7","amount":"1.25","currency":"USDC",
    "network":"base","txHash":"0xab"}}"#;

struct Made {
    kind: ConnectorType,
    destination: Box<dyn Destination>,
    secrets: Vec<SecretString>,
}

static DESTINATIONS: LazyLock<Vec<Made>> = LazyLock::new(|| {
    let make = |kind: &ConnectorType| {
        let settings = example_settings(kind.spec(), None);
        let destination = (kind.spec().make)(&settings, &EventTypes::All).expect("the example");
        Made { kind: *kind, destination, secrets: settings.secrets(kind.spec().fields) }
    };
    ConnectorType::ALL.iter().map(make).collect()
});

fuzz_target!(|data: (u16, Vec<u8>, Vec<u8>)| {
    let (status, header, body) = data;
    let event = Event::from_json(Bytes::from_static(EVENT.as_bytes())).expect("an event");
    let key = ConnectorKey {
        project: event.project.clone(),
        connector: "conn_1".parse().expect("an id"),
    };
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_bytes(&header) {
        for name in ["retry-after", "x-ratelimit-reset", "x-rate-limit-problem"] {
            headers.insert(name, value.clone());
        }
    }
    let response = Response {
        is_incomplete: false,
        status: 100 + status % 500,
        headers,
        body: body.into(),
        received_at: Timestamp::from_millis(1_795_000_000_000),
    };
    for Made { kind, destination, secrets } in DESTINATIONS.iter() {
        let item = Item {
            event: &event,
            delivery_id: DeliveryId::new(&key, &event.id),
            attempt: 1,
            sent_at: Timestamp::from_millis(1_795_000_000_000),
            setup: kind.spec().setup_example,
        };
        let answers = std::slice::from_ref(&response);
        let verdict = destination.judge(&item, &response);
        let may = matches!(kind, ConnectorType::Mixpanel | ConnectorType::Xero);
        assert!(may || response.status < 400 || verdict != Verdict::Delivered, "{kind}");
        let redactor = Redactor::new(secrets);
        for verdict in redactor.verdicts(answers, vec![verdict]) {
            if let Verdict::Retry { detail, .. }
            | Verdict::Dead { detail, .. }
            | Verdict::Broken { detail, .. } = verdict
            {
                assert!(!redactor.quotes(detail.as_bytes()), "{kind}: {detail}");
            }
        }
        if let Some(batching) = destination.batching() {
            assert_eq!(batching.judge(&[item, item], &response).len(), 2, "{kind}");
        }
        let _ = destination.setup(answers);
        let _ = destination.lookup(&[item], answers);
    }
});
