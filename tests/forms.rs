//! Records of every form that clients write, and broken ones, drawn from a grammar: each is an event or is
//! refused in bounded words that name a field or a frame and show no value. `DUNMORE_FORMS` says how many,
//! `DUNMORE_FORMS_SEED` which.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/fake_registry.rs"]
mod fake_registry;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use dunmore_connectors::{
    codec::{Codec, ReadError, RecordKind, encode::from_json, wire},
    config::SchemaRegistrySettings,
    event::{Event, EventType, sample},
    json::{MAX_DETAIL_CHARS, Pairs},
    kafka::Record,
    metrics::Metrics,
};
use fake_registry::{FakeRegistry, guid};
use serde_json::{Value, json};

/// Records when nobody says how many.
const USUAL_COUNT: usize = 20_000;
/// What stands in values and must not stand in an explanation.
const SECRET: &str = "s3cret";
/// No record takes longer, waiting for an unknown schema included.
const LONGEST: Duration = Duration::from_secs(10);
/// What the process may grow by, in bytes, once it has seen a tenth of the records.
const MAX_GROWTH: u64 = 64 << 20;

/// The schema of the data of a settled payment alone.
const DATA: &str = r#"{"type":"record","name":"Settled","fields":[
    {"name":"paymentId","type":"string"},{"name":"endpointId","type":"string"},{"name":"customerId","type":"string"},
    {"name":"amount","type":"string"},{"name":"currency","type":"string"},{"name":"network","type":"string"},
    {"name":"txHash","type":"string"}]}"#;

/// Random numbers that are the same for a seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// What has to become of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Event,
    Refused,
    Either,
}

type Headers = Vec<(String, Bytes)>;

struct Made {
    form: &'static str,
    headers: Headers,
    value: Option<Vec<u8>>,
    fate: Fate,
}

/// The ids of the schemas that the registry has.
struct Ids {
    event: u32,
    data: u32,
}

fn header(name: &str, value: impl AsRef<[u8]>) -> (String, Bytes) {
    (name.to_owned(), Bytes::copy_from_slice(value.as_ref()))
}

/// An event, right or wrong, as JSON text.
fn event(dice: &mut Dice) -> (String, Fate) {
    let kind = *dice.pick(EventType::PAYMENTS);
    let mut event: Value = serde_json::from_str(sample(kind)).unwrap();
    event["id"] = json!(format!("evt_{}", dice.next()));
    event["data"]["note"] = json!(SECRET);
    let mut fate = Fate::Event;
    if dice.one_in(2) {
        let within_data = dice.one_in(2);
        let object = if within_data { &mut event["data"] } else { &mut event };
        let object = object.as_object_mut().unwrap();
        let names: Vec<String> = object.keys().cloned().collect();
        let name = dice.pick(&names).clone();
        let wrong = [
            json!(null),
            json!(true),
            json!(-1.5),
            json!(SECRET.repeat(dice.below(2000) + 30)),
            json!([SECRET]),
            json!({ "a": SECRET }),
            json!(format!("\u{7f}{SECRET}\u{202e}")),
        ];
        match dice.below(3) {
            0 => drop(object.remove(&name)),
            1 => drop(object.insert(name, dice.pick(&wrong).clone())),
            _ => drop(object.insert(format!("{name}x"), json!(SECRET))),
        }
        fate = Fate::Either;
    }
    if dice.one_in(20) {
        let list =
            |value: &Value| -> Value { value.as_object().unwrap().values().cloned().collect() };
        if event["data"].is_object() && dice.one_in(2) {
            event["data"] = list(&event["data"]);
        } else {
            event = list(&event);
        }
        fate = Fate::Refused;
    }
    let mut text = if dice.one_in(8) {
        serde_json::to_string_pretty(&event).unwrap()
    } else {
        event.to_string()
    };
    match dice.below(30) {
        0 => {
            text = text.replacen('{', r#"{"id":"evt_1","id":"evt_1","#, 1);
            fate = Fate::Refused;
        }
        1 => {
            text = text.replacen('{', r#"{"more":NaN,"#, 1);
            fate = Fate::Refused;
        }
        2 => text = text.replacen('{', r#"{"more":"\ud800","#, 1),
        3 => text = format!("\r\n {text}\n"),
        _ => {}
    }
    (text, fate)
}

fn frame(id: u32, payload: &[u8]) -> Vec<u8> {
    [&wire::header(id)[..], payload].concat()
}

fn data_payload(event: &Value) -> Vec<u8> {
    let mut payload = Vec::new();
    for name in ["paymentId", "endpointId", "customerId", "amount", "currency", "network", "txHash"]
    {
        let text = event["data"][name].as_str().unwrap();
        payload.push(
            u8::try_from(text.len() * 2 % 128).unwrap() | if text.len() >= 64 { 0x80 } else { 0 },
        );
        if text.len() >= 64 {
            payload.push(1);
        }
        payload.extend_from_slice(text.as_bytes());
    }
    payload
}

/// A record of one of the forms.
#[expect(clippy::too_many_lines, reason = "one arm for each form")]
fn record(dice: &mut Dice, ids: &Ids) -> Made {
    let made = |form, headers: Headers, value: Vec<u8>, fate| Made {
        form,
        headers,
        value: Some(value),
        fate,
    };
    let settled: Value = serde_json::from_str(sample(EventType::PaymentSettled)).unwrap();
    let avro = || {
        from_json(RecordKind::Event, sample(EventType::PaymentSettled).as_bytes(), Vec::new())
            .unwrap()
    };
    let cloud = |data: &str| {
        format!(
            r#"{{"specversion":"1.0","id":"evt_c","source":"/s","type":"com.example.payment.settled","time":"2026-11-23T08:00:00Z","subject":"proj_1",{data}}}"#
        )
    };
    let ce = || {
        vec![
            header("ce_specversion", "1.0"),
            header("ce_id", "evt_c"),
            header("ce_source", "/s"),
            header("ce_type", "payment.settled"),
            header("ce_subject", "proj_1"),
        ]
    };
    let data = settled["data"].to_string();
    match dice.below(32) {
        0..=5 => {
            let (text, fate) = event(dice);
            let content = ["application/json", "application/json; charset=utf-8", "text/plain"];
            let headers = if dice.one_in(2) {
                vec![header("content-type", dice.pick(&content))]
            } else {
                vec![]
            };
            made("json", headers, text.into_bytes(), fate)
        }
        6 => {
            let (text, fate) = event(dice);
            made("byte order mark", vec![], format!("\u{feff}{text}").into_bytes(), fate)
        }
        7 => {
            let order: fn(u16) -> [u8; 2] =
                if dice.one_in(2) { u16::to_le_bytes } else { u16::to_be_bytes };
            let mark = if dice.one_in(2) { "\u{feff}" } else { "" };
            let text = format!("{mark}{}", sample(EventType::PaymentSettled));
            made("utf-16", vec![], text.encode_utf16().flat_map(order).collect(), Fate::Refused)
        }
        8 => {
            let magic: [&[u8]; 3] = [b"\x1f\x8b\x08\0", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18"];
            made(
                "compressed",
                vec![],
                [dice.pick(&magic), SECRET.as_bytes()].concat(),
                Fate::Refused,
            )
        }
        9..=12 => made("avro", vec![], frame(ids.event, &avro()), Fate::Event),
        13 => {
            let id = *dice.pick(&[0, 1 << 31, u32::MAX, 7_000_001, 7_000_002, 7_000_003]);
            made("avro with an id that is none", vec![], frame(id, &avro()), Fate::Refused)
        }
        14 => {
            let id = [&[0][..], &ids.event.to_be_bytes()].concat();
            made("id in a header", vec![header("__value_schema_id", id)], avro(), Fate::Event)
        }
        15 => {
            let id = [&[1][..], &guid(ids.event)].concat();
            made("guid in a header", vec![header("__value_schema_id", id)], avro(), Fate::Event)
        }
        16 => {
            let length = dice.below(20);
            let id: Vec<u8> = (0..length).map(|_| u8::try_from(dice.below(256)).unwrap()).collect();
            made(
                "a header that is no id",
                vec![header("__value_schema_id", id)],
                avro(),
                Fate::Either,
            )
        }
        17 => {
            let value = [&[0, 0, 0, 0, 0, 0, 0, 0, 9][..], &avro()].concat();
            made("apicurio", vec![], value, Fate::Refused)
        }
        18 => {
            let headers = vec![
                header("apicurio.value.globalId", [0; 8]),
                header("apicurio.value.encoding", "BINARY"),
            ];
            made("apicurio headers", headers, avro(), Fate::Refused)
        }
        19 => {
            let value = [&[3, 0][..], &guid(1), &avro()].concat();
            made("glue", vec![], value, Fate::Refused)
        }
        20 => {
            let begin: [&[u8]; 2] = [b"\xc3\x01\x01\x02\x03\x04\x05\x06\x07\x08", b"Obj\x01"];
            made(
                "another frame of avro",
                vec![],
                [dice.pick(&begin), &avro()[..]].concat(),
                Fate::Refused,
            )
        }
        21 => made("bare avro", vec![], avro(), Fate::Refused),
        22 | 23 => {
            let content = [
                "application/cloudevents+json",
                "application/json",
                "application/cloudevents+json; charset=UTF-8",
            ];
            let headers = if dice.one_in(4) {
                vec![]
            } else {
                vec![header("content-type", dice.pick(&content))]
            };
            made(
                "structured cloudevent",
                headers,
                cloud(&format!("\"data\":{data}")).into_bytes(),
                Fate::Event,
            )
        }
        24 => {
            let bytes = if dice.one_in(2) {
                data.clone().into_bytes()
            } else {
                frame(ids.data, &data_payload(&settled))
            };
            let json = cloud(&format!("\"data_base64\":\"{}\"", BASE64.encode(bytes)));
            made("structured cloudevent of bytes", vec![], json.into_bytes(), Fate::Event)
        }
        25 => made("binary cloudevent", ce(), data.into_bytes(), Fate::Event),
        26 => made(
            "binary cloudevent in avro",
            ce(),
            frame(ids.data, &data_payload(&settled)),
            Fate::Event,
        ),
        27 => {
            let mut headers = ce();
            headers.remove(dice.below(headers.len()));
            made("binary cloudevent without something", headers, data.into_bytes(), Fate::Either)
        }
        28 => {
            let content = *dice.pick(&[
                "application/cloudevents-batch+json",
                "application/cloudevents+avro",
                "application/cloudevents+protobuf",
            ]);
            made(
                "other cloudevents",
                vec![header("content-type", content)],
                format!("[{}]", cloud("\"data\":{}")).into_bytes(),
                Fate::Refused,
            )
        }
        29 => {
            let (text, _) = event(dice);
            let text = match dice.below(4) {
                0 => serde_json::to_string(&text).unwrap(),
                1 => format!("[{text}]"),
                2 => BASE64.encode(&text),
                _ => format!(r#"{{"schema":{{}},"payload":{text}}}"#),
            };
            made("wrapped json", vec![], text.into_bytes(), Fate::Refused)
        }
        30 => made(
            "protobuf",
            vec![header("content-type", "application/x-protobuf")],
            b"\x0a\x05evt_1".to_vec(),
            Fate::Refused,
        ),
        _ => {
            let length = dice.below(64);
            let noise = (0..length).map(|_| u8::try_from(dice.below(256)).unwrap()).collect();
            let value = if dice.one_in(8) { None } else { Some(noise) };
            Made { form: "noise", headers: vec![], value, fate: Fate::Either }
        }
    }
}

/// Breaks some bytes of a record.
fn broken(dice: &mut Dice, mut made: Made) -> Made {
    made.fate = Fate::Either;
    let Some(value) = &mut made.value else { return made };
    for _ in 0..=dice.below(4) {
        let at = dice.below(value.len() + 1);
        let byte = *dice.pick(&[0, 1, 0x22, 0x5b, 0x7b, 0x7d, 0x7f, 0x80, 0xc3, 0xff]);
        match dice.below(4) {
            0 => value.truncate(at),
            1 => value.insert(at, byte),
            2 if at < value.len() => value[at] = byte,
            _ => {
                let end = (at + dice.below(16)).min(value.len());
                let again = value[at..end].to_vec();
                value.splice(at..at, again);
            }
        }
    }
    if dice.one_in(8) && !made.headers.is_empty() {
        let at = dice.below(made.headers.len());
        made.headers[at].1 = Bytes::from_static(b"\xff\0");
    }
    made
}

fn check(made: &Made, read: Result<Event, ReadError>) -> &'static str {
    let shown = || {
        let value = String::from_utf8_lossy(made.value.as_deref().unwrap_or_default()).into_owned();
        format!("{}: {:?} {value:?}", made.form, made.headers)
    };
    match read {
        Ok(event) => {
            assert_ne!(made.fate, Fate::Refused, "{}", shown());
            let Pairs(fields) = serde_json::from_slice(&event.json).unwrap();
            let (_, data) = fields.iter().find(|(name, _)| name == "data").unwrap();
            assert!(data.get().starts_with('{'), "{}", shown());
            assert_eq!(Event::from_json(event.json.clone()).as_ref(), Ok(&event));
            "event"
        }
        Err(ReadError::Refused(reason, detail)) => {
            assert_ne!(made.fate, Fate::Event, "{}: {detail}", shown());
            assert!(detail.chars().count() <= MAX_DETAIL_CHARS, "{}: {detail}", shown());
            assert!(!detail.chars().any(char::is_control), "{}: {detail}", shown());
            assert!(!detail.contains(SECRET), "{}: {detail}", shown());
            let names = [
                "value",
                "record",
                "event",
                "CloudEvent",
                "header",
                "schema",
                "data",
                "id",
                "type",
                "projectId",
                "occurredAt",
                "time",
                "subject",
            ];
            assert!(names.iter().any(|name| detail.contains(name)), "{}: {detail}", shown());
            reason.as_str()
        }
        Err(ReadError::GivenUp) => panic!("given up: {}", shown()),
    }
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

fn number(name: &str, usual: usize) -> usize {
    std::env::var(name).ok().map_or(usual, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_record_is_an_event_or_is_refused_in_bounded_words() {
    let registry = FakeRegistry::start();
    let ids =
        Ids { event: registry.register(RecordKind::Event.text()), data: registry.register(DATA) };
    let url = Some(registry.url().parse().unwrap());
    let settings = SchemaRegistrySettings { url, ..SchemaRegistrySettings::default() };
    let codec = Codec::new(&settings, Arc::new(Metrics::new().unwrap())).unwrap();
    let count = number("DUNMORE_FORMS", USUAL_COUNT);
    let seed = number("DUNMORE_FORMS_SEED", 1);
    let mut dice = Dice(seed as u64);
    let mut seen = BTreeMap::new();
    let (began, mut grown_from) = (Instant::now(), 0);
    for round in 0..count {
        if round == count / 10 {
            grown_from = resident_bytes();
        }
        let mut made = record(&mut dice, &ids);
        if dice.one_in(3) {
            made = broken(&mut dice, made);
        }
        let record =
            Record::unwritten(made.value.clone().unwrap_or_default().into(), made.headers.clone());
        let started = Instant::now();
        let read = codec.event(&record, || false).await;
        assert!(started.elapsed() < LONGEST, "{} took {:?}", made.form, started.elapsed());
        assert!(!codec.is_waiting());
        *seen.entry((made.form, check(&made, read))).or_insert(0_u64) += 1;
    }
    let grown = resident_bytes().saturating_sub(grown_from);
    for ((form, became), times) in &seen {
        println!("{times:>8} {form}: {became}");
    }
    println!("{count} records of seed {seed} in {:?}, {grown} bytes more", began.elapsed());
    assert!(grown < MAX_GROWTH, "{grown} bytes");
}
