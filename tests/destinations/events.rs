//! The events that people chose to look at: each type, and those that break things.

use bytes::Bytes;
use dunmore_connectors::{
    clock::Timestamp,
    destination::Item,
    event::{Event, EventType, sample},
    id::{ConnectorId, ConnectorKey, DeliveryId, ProjectId},
};
use serde_json::{Value, json};

/// Markup of every service, a mention of everybody, an emoji and both kinds of line end.
pub const NASTY: &str = "<!channel> & *bold* _x_ 🤝 \\` </code> %%% \n @everyone <@U1> [a](https://evil.example)\r\n\"q\"";

pub fn event(id: &str, kind: &str, data: &Value) -> Event {
    let text = json!({
        "id": id,
        "type": kind,
        "projectId": "proj_1",
        "occurredAt": "2026-11-20T10:15:30.123Z",
        "data": data,
    })
    .to_string();
    Event::from_json(Bytes::from(text)).unwrap()
}

/// One plain event of each type, in the order of the documentation.
pub fn plain() -> Vec<(&'static str, Event)> {
    let settled = json!({"paymentId":"pay_1","endpointId":"ep_summarize",
        "customerId":"0xA1b200000000000000000000000000000000c3D4","amount":"1.250000",
        "currency":"USDC","network":"base","txHash":"0x9fe1"});
    let mut verified = settled.clone();
    verified.as_object_mut().unwrap().remove("txHash");
    let mut failed = verified.clone();
    failed["stage"] = "settle".into();
    failed["reason"] = "insufficient_funds".into();
    [
        ("payment.verified", verified),
        ("payment.settled", settled),
        ("payment.failed", failed),
        (
            "customer.first_payment",
            json!({"customerId":"0xA1b200000000000000000000000000000000c3D4","paymentId":"pay_1",
                "endpointId":"ep_summarize","amount":"0.05","currency":"USDC"}),
        ),
        (
            "customer.milestone",
            json!({"customerId":"0xA1b200000000000000000000000000000000c3D4","milestone":"100 calls",
                "totalSpent":"125.500000","currency":"USDC"}),
        ),
        (
            "endpoint.created",
            json!({"endpointId":"ep_summarize","path":"POST /v1/summarize","price":"0.05",
                "currency":"USDC","network":"base"}),
        ),
        (
            "endpoint.pricing_changed",
            json!({"endpointId":"ep_summarize","path":"POST /v1/summarize","oldPrice":"0.05",
                "newPrice":"0.07","currency":"USDC"}),
        ),
        (
            "revenue.daily_summary",
            json!({"date":"2026-11-19","revenue":"1234.567800","currency":"USDC",
                "paymentCount":24_690,"customerCount":321,"failedCount":12}),
        ),
    ]
    .into_iter()
    .enumerate()
    .map(|(index, (kind, data))| (kind, event(&format!("evt_{}", index + 1), kind, &data)))
    .collect()
}

/// One notice of each type, in the order of the documentation, and one that breaks things.
pub fn notices() -> Vec<(&'static str, Event)> {
    let samples = EventType::NOTICES.iter().map(|kind| {
        let event = Event::from_json(Bytes::from_static(sample(*kind).as_bytes())).unwrap();
        (kind.as_str(), event)
    });
    let nasty = json!({"projectId":"proj_1","connectorId":"conn_2","connectorType":"slack",
        "name":NASTY,"reason":NASTY,"detail":NASTY,"since":NASTY,"held":12_345,"more":1,
        "moreConnectorIds":[NASTY]});
    let nasty = ("nasty texts", event("evt_nasty", "connector.suspended", &nasty));
    samples.chain([nasty]).collect()
}

/// Events with texts and amounts that break careless requests.
pub fn nasty() -> Vec<(&'static str, Event)> {
    let settled = |amount: &str| {
        json!({"paymentId":"pay_1","endpointId":"ep_1","customerId":"0x52","amount":amount,
            "currency":"USDC","network":"base","txHash":"0xab"})
    };
    let summary = |revenue: &str| {
        json!({"date":"2026-11-19","revenue":revenue,"currency":"USDC","paymentCount":3,
            "customerCount":2,"failedCount":0})
    };
    let huge = "123456789012345678901234567890.000000000000000001";
    let failed = json!({"paymentId":NASTY,"endpointId":NASTY,"customerId":NASTY,"amount":"0.1",
        "currency":NASTY,"network":NASTY,"stage":NASTY,"reason":NASTY});
    let anonymous = json!({"paymentId":"pay_1","endpointId":"ep_1","amount":"0.1",
        "currency":"USDC","stage":"verify","reason":"bad_signature"});
    let milestone =
        json!({"customerId":NASTY,"milestone":NASTY,"totalSpent":"1","currency":"USDC"});
    [
        ("nasty texts, failed payment", "payment.failed", failed),
        ("nasty texts, milestone", "customer.milestone", milestone),
        ("failed payment of nobody known", "payment.failed", anonymous),
        ("huge amount", "payment.settled", settled(huge)),
        ("tiny amount", "payment.settled", settled("0.000000000000000001")),
        ("huge day", "revenue.daily_summary", summary(huge)),
        ("day of half a cent", "revenue.daily_summary", summary("0.005")),
    ]
    .into_iter()
    .enumerate()
    .map(|(index, (name, kind, data))| (name, event(&format!("evt_nasty_{index}"), kind, &data)))
    .collect()
}

/// Events of one megabyte: each type, every text in turn filled with characters that grow.
pub fn large() -> Vec<(String, Event)> {
    let mut events = Vec::new();
    for (_, plain) in plain().into_iter().chain(notices()) {
        let kind = plain.kind.as_str();
        let json: Value = serde_json::from_slice(&plain.json).unwrap();
        let texts: Vec<String> = json["data"]
            .as_object()
            .unwrap()
            .iter()
            .filter(|(name, value)| value.is_string() && is_free_text(name))
            .map(|(name, _)| name.clone())
            .collect();
        for (name, character, count) in [
            ("letters", "x", 1_000_000),
            ("ampersands", "&", 1_000_000),
            ("stars", "*", 1_000_000),
            ("controls", "\u{1}", 170_000),
            ("emoji", "🤝", 250_000),
        ] {
            // One kind of character is enough to look at every text alone.
            for text in texts.iter().filter(|_| name == "letters") {
                let mut data = json["data"].clone();
                data[text] = character.repeat(count).into();
                events.push((
                    format!("{kind} {text} of {name}"),
                    large_event(events.len(), kind, &data),
                ));
            }
            // All of them at once, as large as an event may be.
            let mut data = json["data"].clone();
            for text in &texts {
                data[text] = character.repeat(count / texts.len().max(1)).into();
            }
            events.push((
                format!("{kind} all texts of {name}"),
                large_event(events.len(), kind, &data),
            ));
        }
    }
    events
}

fn large_event(index: usize, kind: &str, data: &Value) -> Event {
    event(&format!("evt_large_{index}"), kind, data)
}

fn is_free_text(name: &str) -> bool {
    let others = ["amount", "totalSpent", "price", "oldPrice", "newPrice", "revenue", "date"];
    !others.contains(&name)
}

/// The delivery of an event to the connector `conn_1`, sent a minute after it happened.
pub fn item<'a>(event: &'a Event, setup: &'a str) -> Item<'a> {
    let key = ConnectorKey {
        project: ProjectId::parse("proj_1").unwrap(),
        connector: ConnectorId::parse("conn_1").unwrap(),
    };
    Item {
        event,
        delivery_id: DeliveryId::new(&key, &event.id),
        attempt: 1,
        sent_at: Timestamp::parse("2026-11-20T10:16:30Z").unwrap(),
        setup,
    }
}
