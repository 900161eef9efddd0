//! Each destination type with an event that it surely sends, and the answer of a good day.

use std::hint::black_box;

use bytes::Bytes;
use dunmore_connectors::{
    clock::Timestamp,
    destination::{ConnectorType, Destination, Item, Response, docs::example_settings},
    event::{Event, EventType, EventTypes, sample},
    id::{ConnectorId, ConnectorKey, DeliveryId, ProjectId},
};
use http::HeaderMap;

/// A type with the event that it surely sends and the answer of a good day.
pub struct Case {
    /// The type.
    pub kind: ConnectorType,
    destination: Box<dyn Destination>,
    events: Vec<Event>,
    answer: Response,
}

impl Case {
    /// The case of a type.
    pub fn new(kind: ConnectorType) -> Self {
        let wanted = match kind {
            ConnectorType::Quickbooks | ConnectorType::Xero => EventType::RevenueDailySummary,
            _ => EventType::PaymentFailed,
        };
        let spec = kind.spec();
        let settings = example_settings(spec, None);
        let destination = (spec.make)(&settings, &EventTypes::Some(vec![wanted])).expect("made");
        let most = destination.batching().map_or(1, |batching| batching.limits().items);
        let events = (0..most).map(|number| event(kind, wanted, number)).collect();
        let answer = Response {
            status: status(kind),
            headers: HeaderMap::new(),
            body: Bytes::from_static(answer(kind).as_bytes()),
            received_at: Timestamp::from_millis(0),
            is_incomplete: false,
        };
        Self { kind, destination, events, answer }
    }

    /// As many deliveries as a batch takes.
    pub fn items(&self) -> Vec<Item<'_>> {
        let key = ConnectorKey {
            project: ProjectId::parse("proj_1").expect("an id"),
            connector: ConnectorId::parse("conn_1").expect("an id"),
        };
        let item = |event| Item {
            event,
            delivery_id: DeliveryId::new(&key, &event.id),
            attempt: 1,
            sent_at: event.occurred_at,
            setup: self.kind.spec().setup_example,
        };
        self.events.iter().map(item).collect()
    }

    /// Builds the request of one delivery and judges the answer.
    pub fn one(&self, item: &Item<'_>) {
        let request = self.destination.build(black_box(item)).expect("a request");
        black_box(request);
        black_box(self.destination.judge(item, black_box(&self.answer)));
    }

    /// A full batch as a lane makes it up; tells its size.
    pub fn batch(&self, items: &[Item<'_>]) -> usize {
        let Some(batching) = self.destination.batching() else { return 0 };
        let joins = |next: &usize| batching.takes(&items[..*next], &items[*next]);
        let size = (1..items.len()).take_while(joins).last().map_or(1, |last| last + 1);
        let batch = &items[..size];
        black_box(batching.build(black_box(batch)).expect("a request"));
        black_box(batching.judge(batch, black_box(&self.answer)));
        size
    }
}

fn event(kind: ConnectorType, wanted: EventType, number: usize) -> Event {
    // Google Analytics takes one client's events together; to the others each is another's.
    let customer = if kind == ConnectorType::Ga4 { 0 } else { number };
    let json = sample(wanted)
        .replace("evt_sample_", &format!("evt_{number}_"))
        .replace("0x52908400098527886E0F7030069857D2E4169EE7", &format!("0x{customer:040x}"));
    Event::from_json(Bytes::from(json)).expect("an event")
}

fn status(kind: ConnectorType) -> u16 {
    match kind {
        ConnectorType::Ga4 => 204,
        ConnectorType::Teams
        | ConnectorType::Pagerduty
        | ConnectorType::Datadog
        | ConnectorType::Opsgenie => 202,
        _ => 200,
    }
}

fn answer(kind: ConnectorType) -> &'static str {
    match kind {
        ConnectorType::Slack => "ok",
        ConnectorType::Discord => r#"{"id":"1234567890"}"#,
        ConnectorType::Email => r#"{"id":"49a3999c-0ce1-4ea6-ab68-afcd6dc2e794"}"#,
        ConnectorType::Telegram => r#"{"ok":true,"result":{"message_id":7}}"#,
        ConnectorType::Segment => r#"{"success":true}"#,
        ConnectorType::Mixpanel => r#"{"code":200,"num_records_imported":1,"status":"OK"}"#,
        ConnectorType::Amplitude => r#"{"code":200,"events_ingested":1,"payload_size_bytes":50}"#,
        ConnectorType::Zapier | ConnectorType::N8n => r#"{"status":"success","id":"1"}"#,
        ConnectorType::Make => "Accepted",
        ConnectorType::Pagerduty => r#"{"status":"success","message":"Event processed"}"#,
        ConnectorType::Datadog => r#"{"status":"ok","event":{"id":1}}"#,
        ConnectorType::Opsgenie => r#"{"result":"Request will be processed","requestId":"1"}"#,
        ConnectorType::Bigquery => r#"{"kind":"bigquery#tableDataInsertAllResponse"}"#,
        ConnectorType::Hubspot => r#"{"status":"COMPLETE","results":[]}"#,
        ConnectorType::Salesforce => r#"[{"id":"00T1","success":true,"errors":[]}]"#,
        ConnectorType::Quickbooks => r#"{"SalesReceipt":{"Id":"1"},"time":"2026-11-23"}"#,
        ConnectorType::Xero => {
            r#"{"Status":"OK","Invoices":[{"InvoiceID":"1","StatusAttributeString":"OK"}]}"#
        }
        _ => "",
    }
}
