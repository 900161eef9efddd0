//! Schemas from a registry that answers in every way that registries do.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use apache_avro::{Schema, types::Value as Avro, writer::datum::GenericDatumWriter};
use base64::Engine as _;
use bytes::Bytes;

use super::{
    Codec, ReadError, RecordKind,
    encode::from_json,
    fake_registry::{FakeRegistry, guid},
    wire,
};
use crate::{
    config::SchemaRegistrySettings,
    delivery::Reason,
    event::{Event, EventType, sample},
    kafka::Record,
    metrics::Metrics,
};

fn codec(registry: &FakeRegistry) -> Codec {
    let url = Some(registry.url().parse().unwrap());
    let settings = SchemaRegistrySettings { url, ..SchemaRegistrySettings::default() };
    Codec::new(&settings, Arc::new(Metrics::new().unwrap())).unwrap()
}

fn payload() -> Vec<u8> {
    from_json(RecordKind::Event, sample(EventType::PaymentSettled).as_bytes(), Vec::new()).unwrap()
}

fn framed(id: u32) -> Bytes {
    [&wire::header(id)[..], &payload()].concat().into()
}

async fn read(codec: &Codec, value: &Bytes, headers: &[(&str, &[u8])]) -> Result<Event, ReadError> {
    let headers = headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), Bytes::copy_from_slice(value)))
        .collect();
    codec.event(&Record::unwritten(value.clone(), headers), || false).await
}

fn reason<T: std::fmt::Debug>(read: Result<T, ReadError>) -> (Reason, String) {
    match read {
        Err(ReadError::Refused(reason, detail)) => (reason, detail),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_odd_answer_costs_its_own_record() {
    let registry = FakeRegistry::with(|path| {
        Some(match path {
            "/schemas/ids/101" => (400, "bad request".to_owned()),
            "/schemas/ids/102" => (403, r#"{"error_code":40301,"message":"denied"}"#.to_owned()),
            "/schemas/ids/103" => (404, "<html>not here</html>".to_owned()),
            "/schemas/ids/104" => (422, r#"{"error_code":42201,"message":"no"}"#.to_owned()),
            "/schemas/ids/105" => (500, r#"{"error_code":500,"message":"oops"}"#.to_owned()),
            "/schemas/ids/106" => (200, "<html>sign in</html>".to_owned()),
            "/schemas/ids/107" => (200, "x".repeat(5 << 20)),
            "/schemas/ids/108" => (200, "[]".to_owned()),
            "/schemas/ids/109" => (404, r#"{"error_code":40403,"message":"no"}"#.to_owned()),
            _ => return None,
        })
    });
    let known = registry.register(RecordKind::Event.text());
    let codec = codec(&registry);
    assert_eq!(
        read(&codec, &framed(known), &[]).await.unwrap().json_text(),
        sample(EventType::PaymentSettled)
    );
    let is_over = Arc::new(AtomicBool::new(false));
    let watch = {
        let (codec, is_over) = (codec.clone(), Arc::clone(&is_over));
        tokio::spawn(async move {
            while !is_over.load(Ordering::SeqCst) {
                assert!(!codec.is_waiting(), "an odd id makes the instance unready");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
    };
    let tasks = (101..=109).map(|id| {
        let codec = codec.clone();
        async move {
            // Each in a partition of its own.
            let shared = codec.registry.as_ref().unwrap();
            let read_as = super::ReadAs::Record(RecordKind::Event);
            let partition = i32::try_from(id).unwrap();
            let got = shared.get(wire::SchemaRef::Id(id), read_as, partition, &|| false).await;
            reason(got.map(|_| ()))
        }
    });
    for (reason, detail) in futures_util::future::join_all(tasks).await {
        assert_eq!(reason, Reason::UnknownSchema, "{detail}");
        assert!(detail.len() < 1000, "{detail}");
    }
    // And these without a question.
    let asked = registry.asked();
    for id in [0, 1 << 31, u32::MAX] {
        assert_eq!(reason(read(&codec, &framed(id), &[]).await).0, Reason::Undecodable);
    }
    assert_eq!(registry.asked(), asked);
    is_over.store(true, Ordering::SeqCst);
    watch.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_unknown_ids_do_not_take_a_second_each() {
    let registry = FakeRegistry::start();
    let known = registry.register(RecordKind::Event.text());
    let codec = codec(&registry);
    let began = Instant::now();
    for id in 1000..2000 {
        assert_eq!(reason(read(&codec, &framed(id), &[]).await).0, Reason::UnknownSchema);
    }
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert!(registry.asked() < 1100, "{}", registry.asked());
    let asked = registry.asked();
    assert_eq!(reason(read(&codec, &framed(1999), &[]).await).0, Reason::UnknownSchema);
    assert_eq!(registry.asked(), asked, "it is remembered");
    assert!(read(&codec, &framed(known), &[]).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_view_waits_for_a_schema_that_is_unknown_for_now() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&asked);
    let registry = FakeRegistry::with(move |path| {
        let is_early = || counting.fetch_add(1, Ordering::SeqCst) < 6;
        (path == "/schemas/ids/1" && is_early())
            .then(|| (404, r#"{"error_code":40403,"message":"Schema not found"}"#.to_owned()))
    });
    registry.register(RecordKind::State.text());
    let codec = codec(&registry);
    let state = include_str!("../../tests/fixtures/records/state-project-1.json").trim();
    let value = from_json(RecordKind::State, state.as_bytes(), wire::header(1).to_vec()).unwrap();
    let value = Bytes::from(value);
    // Others do not wait for ever, and what they found out does not count for the view.
    let other = codec.decode(RecordKind::Event, &value, || false).await;
    assert_eq!(reason(other).0, Reason::UnknownSchema);
    let reader = codec.clone();
    let read = tokio::task::spawn_blocking(move || {
        reader.decode_blocking(RecordKind::State, &value, || false)
    });
    assert_eq!(read.await.unwrap().unwrap(), state.as_bytes());
    assert!(asked.load(Ordering::SeqCst) > 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_away_is_waited_for() {
    let is_away = Arc::new(AtomicBool::new(false));
    let away = Arc::clone(&is_away);
    let registry = FakeRegistry::with(move |_| {
        away.load(Ordering::SeqCst).then(|| (503, "upstream is gone".to_owned()))
    });
    let known = registry.register(RecordKind::Event.text());
    let new = registry.register(&RecordKind::Event.text().replace("A payment event,", "One,"));
    let codec = codec(&registry);
    assert!(read(&codec, &framed(known), &[]).await.is_ok());
    is_away.store(true, Ordering::SeqCst);
    let waiting = {
        let codec = codec.clone();
        tokio::spawn(async move { read(&codec, &framed(new), &[]).await })
    };
    while !codec.is_waiting() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(read(&codec, &framed(known), &[]).await.is_ok());
    is_away.store(false, Ordering::SeqCst);
    assert!(waiting.await.unwrap().is_ok());
    assert!(!codec.is_waiting());
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_in_headers_are_read() {
    let registry = FakeRegistry::start();
    let id = registry.register(RecordKind::Event.text());
    let codec = codec(&registry);
    let by_id = [&[0][..], &id.to_be_bytes()].concat();
    let by_guid = [&[1][..], &guid(id)].concat();
    for header in [&by_id, &by_guid] {
        let event =
            read(&codec, &payload().into(), &[("__value_schema_id", header)]).await.unwrap();
        assert_eq!(event.json_text(), sample(EventType::PaymentSettled));
    }
    let json = registry.register(r#"{"type":"object"}"#);
    let wrong = read(&codec, &framed(json), &[]).await;
    assert_eq!(reason(wrong).0, Reason::Undecodable);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_data_of_a_cloudevent_has_a_schema_of_its_own() {
    let registry = FakeRegistry::start();
    let schema = r#"{"type":"record","name":"Settled","fields":[
        {"name":"paymentId","type":"string"},{"name":"endpointId","type":"string"},
        {"name":"customerId","type":"string"},
        {"name":"amount","type":{"type":"bytes","logicalType":"decimal","precision":18,"scale":6}},
        {"name":"currency","type":"string"},{"name":"network","type":"string"},
        {"name":"txHash","type":"string"},{"name":"occurredAt","type":"long"},
        {"name":"extra","type":{"type":"map","values":"string"}}]}"#;
    let id = registry.register(schema);
    let text = |name: &str, value: &str| (name.to_owned(), Avro::String(value.to_owned()));
    let decimal = apache_avro::Decimal::from(1_250_000_i64.to_be_bytes().to_vec());
    let extra = [("note".to_owned(), Avro::String("no JSON".to_owned()))].into_iter().collect();
    let value = Avro::Record(vec![
        text("paymentId", "pay_1"),
        text("endpointId", "ep_1"),
        text("customerId", "0x52"),
        ("amount".to_owned(), Avro::Decimal(decimal)),
        text("currency", "USDC"),
        text("network", "base"),
        text("txHash", "0xab"),
        ("occurredAt".to_owned(), Avro::Long(1_795_420_800)),
        ("extra".to_owned(), Avro::Map(extra)),
    ]);
    super::schemas::permit_names();
    let parsed = Schema::parse_str(schema).unwrap();
    let writer = GenericDatumWriter::builder(&parsed).build().unwrap();
    let data = [&wire::header(id)[..], &writer.write_value_to_vec(value).unwrap()].concat();
    let expected = r#"{"id":"evt_1","type":"payment.settled","projectId":"proj_1","occurredAt":"2026-11-23T08:00:00Z","data":{"paymentId":"pay_1","endpointId":"ep_1","customerId":"0x52","amount":"1.250000","currency":"USDC","network":"base","txHash":"0xab","occurredAt":1795420800,"extra":{"note":"no JSON"}}}"#;
    let codec = codec(&registry);
    let headers: &[(&str, &[u8])] = &[
        ("ce_specversion", b"1.0"),
        ("ce_id", b"evt_1"),
        ("ce_type", b"com.example.payment.settled"),
        ("ce_subject", b"proj_1"),
        ("ce_time", b"2026-11-23T08:00:00Z"),
        ("content-type", b"application/avro"),
    ];
    let event = read(&codec, &data.clone().into(), headers).await.unwrap();
    assert_eq!(event.json_text(), expected);
    // The same in a structured one, as bytes.
    let data = base64::engine::general_purpose::STANDARD.encode(data);
    let cloud = format!(
        r#"{{"specversion":"1.0","id":"evt_1","type":"payment.settled","source":"s","subject":"proj_1","time":"2026-11-23T08:00:00Z","data_base64":"{data}"}}"#
    );
    let event =
        read(&codec, &cloud.into(), &[("content-type", b"application/avro")]).await.unwrap();
    assert_eq!(event.json_text(), expected);
}

#[tokio::test]
async fn structured_cloudevents_need_no_content_type() {
    let event: serde_json::Value = serde_json::from_str(sample(EventType::PaymentSettled)).unwrap();
    let cloud = format!(
        r#"{{"specversion":"1.0","id":"evt_sample_2","type":"payment.settled","source":"s","projectid":"proj_1","time":"2026-11-23T08:00:00.000Z","data":{}}}"#,
        event["data"]
    );
    for headers in [&[("content-type", &b"application/json"[..])][..], &[]] {
        let event = read(&Codec::json(), &cloud.clone().into(), headers).await.unwrap();
        assert_eq!(event.json_text(), sample(EventType::PaymentSettled));
    }
    let marked = format!("\u{feff}{}\n", sample(EventType::PaymentSettled));
    let event = read(&Codec::json(), &marked.into(), &[]).await.unwrap();
    assert_eq!(event.json_text(), sample(EventType::PaymentSettled));
}

#[tokio::test]
async fn another_key_than_the_project_is_told_a_few_times() {
    let codec = Codec::json();
    for _ in 0..100 {
        // These records have no key.
        let value = Bytes::from_static(sample(EventType::PaymentSettled).as_bytes());
        assert!(read(&codec, &value, &[]).await.is_ok());
    }
    assert_eq!(codec.odd_keys.load(Ordering::SeqCst), super::MAX_ODD_KEYS);
}
