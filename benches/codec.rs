//! What it costs to read an event from JSON and from Avro, and to write records as Avro.
//!
//! `cargo bench --bench codec`. The ways that were not taken are measured beside the one that was.

#![expect(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]
#![expect(missing_docs, reason = "criterion's macro makes a public function")]

use std::hint::black_box;

use apache_avro::{Schema, reader::datum::GenericDatumReader};
use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use dunmore_connectors::{
    codec::{
        RecordKind, cloudevents::CloudEvent, encode::from_json, plan::Plan, schemas::Schemas, wire,
    },
    event::{Event, EventType, sample},
};
use serde_json::Value;

const ATTEMPT: &str = r#"{"deliveryId":"29add280-1bd3-5738-8b64-5cb6457b81ad","projectId":"proj_1","connectorId":"conn_1","connectorType":"zapier","eventId":"evt_1","eventType":"payment.settled","source":"live","attempt":1,"outcome":"delivered","status":200,"durationMs":7,"at":"2026-11-23T08:00:00.000Z"}"#;
const DELIVERY: &str = include_str!("../tests/fixtures/records/delivery-1.json");

fn settled() -> Bytes {
    Bytes::from_static(sample(EventType::PaymentSettled).as_bytes())
}

fn avro() -> Bytes {
    from_json(RecordKind::Event, &settled(), Vec::new()).unwrap().into()
}

fn read(c: &mut Criterion) {
    let mut group = c.benchmark_group("event");
    let json = settled();
    group.bench_function("json", |b| b.iter(|| Event::from_json(black_box(json.clone())).unwrap()));

    let payload = avro();
    let ours = RecordKind::Event.schema();
    let plan = Plan::new(ours, ours).unwrap();
    group.bench_function("avro, schema cached", |b| {
        b.iter(|| Event::from_json(plan.to_json(black_box(&payload)).unwrap().into()).unwrap());
    });
    group.bench_function("avro, schema cached: the JSON text alone", |b| {
        b.iter(|| plan.to_json(black_box(&payload)).unwrap());
    });
    group.bench_function("avro, schema not cached (without the request)", |b| {
        b.iter(|| {
            let writer = Schemas::parse(RecordKind::Event.text(), &[]).unwrap();
            let plan = Plan::new(&writer, ours).unwrap();
            Event::from_json(plan.to_json(black_box(&payload)).unwrap().into()).unwrap()
        });
    });

    // The way not taken: resolved to our schema, it drops fields that only the writer knows. (The
    // library's serde path cannot resolve, and does not read into a dynamic value.)
    let schema = Schema::parse_str(RecordKind::Event.text()).unwrap();
    let generic = GenericDatumReader::builder(&schema).build().unwrap();
    group.bench_function("not taken: apache-avro's generic value", |b| {
        b.iter(|| {
            let value = generic.read_value(&mut &black_box(&payload)[..]).unwrap();
            let json = Value::try_from(value).unwrap();
            black_box(serde_json::to_vec(&json).unwrap())
        });
    });
    let resolving = GenericDatumReader::builder(&schema).reader_schema(&schema).build().unwrap();
    group.bench_function("not taken: apache-avro's generic value, resolved", |b| {
        b.iter(|| {
            let value = resolving.read_value(&mut &black_box(&payload)[..]).unwrap();
            let json = Value::try_from(value).unwrap();
            black_box(serde_json::to_vec(&json).unwrap())
        });
    });
    let event: Value = serde_json::from_slice(&json).unwrap();
    let cloud = serde_json::json!({"specversion": "1.0", "id": event["id"], "source": "/p",
        "type": event["type"], "time": event["occurredAt"], "projectid": event["projectId"],
        "data": event["data"]})
    .to_string();
    group.bench_function("CloudEvent, structured", |b| {
        b.iter(|| {
            let at = dunmore_connectors::clock::Timestamp::default();
            let event = CloudEvent::structured(black_box(cloud.as_bytes())).unwrap();
            let json = event.payment(b"", at).unwrap();
            Event::from_json(json.into()).unwrap()
        });
    });
    group.finish();
}

fn write(c: &mut Criterion) {
    let mut group = c.benchmark_group("to avro");
    let header = wire::header(7);
    for (name, kind, json) in [
        ("attempt", RecordKind::Attempt, ATTEMPT),
        ("delivery record", RecordKind::Delivery, DELIVERY),
    ] {
        group.bench_function(name, |b| {
            b.iter(|| from_json(kind, black_box(json.as_bytes()), header.to_vec()).unwrap());
        });
    }
    group.finish();
}

criterion_group!(benches, read, write);
criterion_main!(benches);
