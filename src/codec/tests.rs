//! Avro and JSON say the same; earlier schemas and records are read for ever; foreign bytes do no
//! harm.

use std::fmt::Write as _;

use apache_avro::{
    reader::datum::GenericDatumReader, types::Value as Avro, writer::datum::GenericDatumWriter,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    encode::{NotExpressible, from_json},
    plan::Plan,
    schemas::{RecordKind, Schemas, permit_names},
};
use crate::event::{Event, EventType, sample};

const RECORDS: &[(RecordKind, &str)] = &[
    (RecordKind::Command, include_str!("../../tests/fixtures/records/command-create-1.json")),
    (RecordKind::Command, include_str!("../../tests/fixtures/records/command-create-2.json")),
    (RecordKind::Command, include_str!("../../tests/fixtures/records/command-update-1.json")),
    (RecordKind::Command, include_str!("../../tests/fixtures/records/command-update-2.json")),
    (RecordKind::Command, include_str!("../../tests/fixtures/records/command-delete-1.json")),
    (RecordKind::Command, include_str!("../../tests/fixtures/records/command-suspend-1.json")),
    (RecordKind::Command, include_str!("../../tests/fixtures/records/command-resume-1.json")),
    (RecordKind::Command, include_str!("../../tests/fixtures/records/command-failing-1.json")),
    (RecordKind::Command, include_str!("../../tests/fixtures/records/command-recovered-1.json")),
    (RecordKind::Command, include_str!("../../tests/fixtures/records/command-reencrypt-1.json")),
    (RecordKind::Command, include_str!("../../tests/fixtures/records/command-update-3.json")),
    (RecordKind::Command, include_str!("../../tests/fixtures/records/command-renew-1.json")),
    (RecordKind::Command, include_str!("../../tests/fixtures/records/command-renewed-1.json")),
    (RecordKind::Command, include_str!("../../tests/fixtures/records/command-renewed-2.json")),
    (RecordKind::Command, include_str!("../../tests/fixtures/records/command-renewed-3.json")),
    (
        RecordKind::Command,
        include_str!("../../tests/fixtures/records/command-token-refused-1.json"),
    ),
    (RecordKind::Command, include_str!("../../tests/fixtures/records/command-set-tier-1.json")),
    (RecordKind::State, include_str!("../../tests/fixtures/records/state-connector-1.json")),
    (RecordKind::State, include_str!("../../tests/fixtures/records/state-connector-2.json")),
    (RecordKind::State, include_str!("../../tests/fixtures/records/state-connector-3.json")),
    (RecordKind::State, include_str!("../../tests/fixtures/records/state-connector-4.json")),
    (RecordKind::State, include_str!("../../tests/fixtures/records/state-project-1.json")),
    (RecordKind::Result, include_str!("../../tests/fixtures/records/result-1.json")),
    (RecordKind::Result, include_str!("../../tests/fixtures/records/result-2.json")),
    (RecordKind::History, include_str!("../../tests/fixtures/records/history-1.json")),
    (RecordKind::History, include_str!("../../tests/fixtures/records/history-2.json")),
    (RecordKind::Delivery, include_str!("../../tests/fixtures/records/delivery-1.json")),
    (RecordKind::DeadLetter, include_str!("../../tests/fixtures/records/delivery-1.json")),
];

/// Records that the other fixtures lack.
const MORE: &[(RecordKind, &str)] = &[
    (
        RecordKind::Attempt,
        r#"{"deliveryId":"29add280-1bd3-5738-8b64-5cb6457b81ad","projectId":"proj_1","connectorId":"conn_1","connectorType":"slack","eventId":"evt_1","eventType":"payment.settled","source":"live","attempt":1,"outcome":"retry","reason":"server_error","detail":"HTTP 500: rollup_error","status":500,"durationMs":12,"tier":"5s","at":"2026-11-23T08:00:00.000Z"}"#,
    ),
    (
        RecordKind::Attempt,
        r#"{"deliveryId":"29add280-1bd3-5738-8b64-5cb6457b81ad","projectId":"proj_1","connectorId":"conn_1","connectorType":"zapier","eventId":"evt_1","eventType":"payment.settled","source":"replay","attempt":3,"outcome":"delivered","status":200,"durationMs":7,"at":"2026-11-23T08:00:00.000Z"}"#,
    ),
    (
        RecordKind::Result,
        r#"{"commandId":"cmd_7","projectId":"proj_1","outcome":"accepted","connector":{"id":"conn_1","projectId":"proj_1","type":"email","config":{"apiKey":"…cdef","from":"a@b.example","to":["c@d.example","e@f.example"]},"eventTypes":["*"],"isActive":true,"createdAt":"2026-11-23T08:00:00.000Z","updatedAt":"2026-11-23T08:00:00.000Z"}}"#,
    ),
    (
        RecordKind::Result,
        r#"{"commandId":"cmd_8","outcome":"rejected","problem":{"type":"urn:dunmore:problem:validation_failed","title":"The request has wrong fields","status":400,"detail":"d","code":"validation_failed","errors":[{"field":"projectId","message":"is missing"}]}}"#,
    ),
    (
        RecordKind::Command,
        r#"{"id":"cmd_9","type":"connector.update","projectId":"proj_1","connectorId":"conn_1","patch":{"config":{"region":null,"to":["a@b.example"],"apiKey":{"$sealed":{"key":"k1","nonce":"AAECAwQFBgcICQoL","data":"AAAA","mask":"…cdef"}}}},"ifVersion":3}"#,
    ),
];

fn records() -> impl Iterator<Item = (RecordKind, &'static str)> {
    let events = EventType::PAYMENTS.iter().map(|kind| (RecordKind::Event, sample(*kind)));
    let failed = r#"{"id":"evt_9","type":"payment.failed","projectId":"proj_1","occurredAt":"2026-11-23T08:00:00.001Z","data":{"paymentId":"pay_2","endpointId":"ep_1","amount":"0.10","currency":"USDC","stage":"verify","reason":"bad \"signature\"\n😀","tries":[1,2.50,{"a":null}],"note":"kept"}}"#;
    let more = [(RecordKind::Event, failed)];
    RECORDS.iter().chain(MORE).copied().chain(more).chain(events)
}

fn ours(kind: RecordKind) -> Plan {
    Plan::new(kind.schema(), kind.schema()).unwrap()
}

pub(super) fn read(writer: &str, kind: RecordKind, payload: &[u8]) -> String {
    try_read(writer, kind, payload).unwrap()
}

pub(super) fn try_read(writer: &str, kind: RecordKind, payload: &[u8]) -> Result<String, String> {
    let plan = Plan::new(&Schemas::of_writer(writer, &[])?, kind.schema())?;
    let json = plan.to_json(payload).map_err(|error| error.to_string())?;
    Ok(String::from_utf8(json).unwrap())
}

/// A value in Avro, written by Avro's own library.
pub(super) fn avro(schema: &str, value: impl Into<Avro>) -> Vec<u8> {
    permit_names();
    let schema = apache_avro::Schema::parse_str(schema).unwrap();
    let value: Avro = value.into();
    let writer = GenericDatumWriter::builder(&schema).build().unwrap();
    writer.write_value_to_vec(value.resolve(&schema).unwrap()).unwrap()
}

fn record(fields: &[(&str, Avro)]) -> Avro {
    Avro::Record(fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
}

#[test]
fn every_record_comes_back_byte_for_byte() {
    for (kind, json) in records() {
        let json = json.trim();
        let payload = from_json(kind, json.as_bytes(), Vec::new()).unwrap();
        let back = String::from_utf8(ours(kind).to_json(&payload).unwrap()).unwrap();
        assert_eq!(back, json, "{kind:?}");
    }
}

#[test]
fn avros_own_library_reads_what_is_written() {
    for (kind, json) in records() {
        let payload = from_json(kind, json.as_bytes(), Vec::new()).unwrap();
        let reader = GenericDatumReader::builder(&kind.schema().root).build().unwrap();
        let mut left = &payload[..];
        let value = reader.read_value(&mut left).unwrap();
        assert!(left.is_empty());
        assert!(value.validate(&kind.schema().root), "{kind:?}: {value:?}");
        // What it writes is read here. Its maps have no order, so it is read as a value.
        let again = GenericDatumWriter::builder(&kind.schema().root).build().unwrap();
        let back = ours(kind).to_json(&again.write_value_to_vec(value).unwrap()).unwrap();
        let back: Value = serde_json::from_slice(&back).unwrap();
        assert_eq!(back, serde_json::from_str::<Value>(json).unwrap());
    }
}

#[test]
fn an_event_goes_into_the_record_of_its_type() {
    for (number, kind) in EventType::PAYMENTS.iter().enumerate() {
        let payload = from_json(RecordKind::Event, sample(*kind).as_bytes(), Vec::new()).unwrap();
        let reader = GenericDatumReader::builder(&RecordKind::Event.schema().root).build().unwrap();
        let Avro::Record(fields) = reader.read_value(&mut &payload[..]).unwrap() else { panic!() };
        let (_, data) = fields.into_iter().find(|(name, _)| name == "data").unwrap();
        assert!(matches!(data, Avro::Union(at, _) if at as usize == number), "{kind}");
    }
}

#[test]
fn what_the_schema_has_no_place_for_is_not_written() {
    let why = |kind, json: Value| {
        let error: NotExpressible =
            from_json(kind, json.to_string().as_bytes(), Vec::new()).unwrap_err();
        error.to_string()
    };
    let event = |change: &dyn Fn(&mut Value)| {
        let mut event = serde_json::from_str(sample(EventType::PaymentSettled)).unwrap();
        change(&mut event);
        why(RecordKind::Event, event)
    };
    assert_eq!(event(&|e| e["later"] = json!(1)), "later: is not in the schema");
    assert_eq!(
        event(&|e| e["occurredAt"] = json!("2026-11-23T08:00:00Z")),
        "occurredAt: is no UTC time in milliseconds"
    );
    assert_eq!(
        event(&|e| e["data"]["amount"] = json!(1.25)),
        "data.amount: has another type than the schema says"
    );
    assert_eq!(
        event(&|e| drop(e["data"].as_object_mut().unwrap().remove("txHash"))),
        "data.txHash: is missing"
    );
    assert_eq!(why(RecordKind::Command, json!([])), "is no JSON object");
}

#[test]
fn an_old_producer_a_new_field_and_another_name_are_read() {
    // An older writer without `tier`-like fields that have defaults; a renamed field; a new one.
    let reader = Schemas::parse(
        r#"{"type":"record","name":"R","fields":[
            {"name":"id","type":"string"},
            {"name":"customerId","aliases":["wallet"],"type":"string"},
            {"name":"steps","type":"int","default":0},
            {"name":"labels","type":{"type":"array","items":"string"},"default":["a"]},
            {"name":"note","type":["null","string"],"default":null}]}"#,
        &[],
    )
    .unwrap();
    let writer = r#"{"type":"record","name":"Other","fields":[
        {"name":"wallet","type":"string"},
        {"name":"id","type":"string"},
        {"name":"later","type":{"type":"map","values":["null","double"]}}]}"#;
    let value = record(&[
        ("wallet", "0x52".into()),
        ("id", "evt_1".into()),
        ("later", Avro::Map([("a".to_owned(), Avro::Double(1.5))].into_iter().collect())),
    ]);
    let plan = Plan::new(&Schemas::parse(writer, &[]).unwrap(), &reader).unwrap();
    let json = plan.to_json(&avro(writer, value)).unwrap();
    assert_eq!(
        String::from_utf8(json).unwrap(),
        r#"{"customerId":"0x52","id":"evt_1","later":{"a":1.5},"steps":0,"labels":["a"]}"#
    );
}

#[test]
fn logical_types_become_the_texts_of_json() {
    let writer = r#"{"type":"record","name":"PaymentEvent","fields":[
        {"name":"id","type":"string"},
        {"name":"type","type":{"type":"enum","name":"Kind","symbols":["A","B"]}},
        {"name":"occurredAt","type":"long"},
        {"name":"micros","type":{"type":"long","logicalType":"timestamp-micros"}},
        {"name":"day","type":{"type":"int","logicalType":"date"}},
        {"name":"amount","type":{"type":"bytes","logicalType":"decimal","precision":18,"scale":6}},
        {"name":"less","type":{"type":"bytes","logicalType":"decimal","precision":18,"scale":2}},
        {"name":"raw","type":"bytes"},
        {"name":"flag","type":"boolean"},
        {"name":"nothing","type":"null"}]}"#;
    let decimal =
        |unscaled: i64| Avro::Decimal(apache_avro::Decimal::from(unscaled.to_be_bytes().to_vec()));
    let value = record(&[
        ("id", "e".into()),
        ("type", Avro::Enum(1, "B".to_owned())),
        ("occurredAt", Avro::Long(1_795_420_800_000)),
        ("micros", Avro::TimestampMicros(1_795_420_800_000_001)),
        ("day", Avro::Date(20_780)),
        ("amount", decimal(1_250_000)),
        ("less", decimal(-5)),
        ("raw", Avro::Bytes(vec![0, 255])),
        ("flag", Avro::Boolean(true)),
        ("nothing", Avro::Null),
    ]);
    assert_eq!(
        read(writer, RecordKind::Event, &avro(writer, value)),
        r#"{"id":"e","type":"B","occurredAt":"2026-11-23T08:00:00.000Z","micros":"2026-11-23T08:00:00.000001Z","day":"2026-11-23","amount":"1.250000","less":"-0.05","raw":"AP8=","flag":true}"#
    );
}

#[test]
fn a_schema_may_contain_itself_but_values_have_an_end() {
    let writer = r#"{"type":"record","name":"N","fields":[{"name":"next","type":["null","N"]}]}"#;
    let plan =
        Plan::new(&Schemas::parse(writer, &[]).unwrap(), RecordKind::Event.schema()).unwrap();
    assert_eq!(plan.to_json(&[2, 2, 0]).unwrap(), br#"{"next":{"next":{}}}"#);
    assert!(plan.to_json(&[2; 1000]).is_err());
}

#[test]
fn an_array_of_nothing_has_an_end() {
    let writer = r#"{"type":"array","items":"null"}"#;
    let plan =
        Plan::new(&Schemas::parse(writer, &[]).unwrap(), RecordKind::Event.schema()).unwrap();
    // 2^60 nulls in ten bytes.
    let mut payload = avro(r#""long""#, 1_i64 << 60);
    payload.push(0);
    assert!(plan.to_json(&payload).is_err());
}

#[test]
fn schemas_that_refer_to_others_are_read() {
    let shared =
        r#"{"type":"record","name":"x.Money","fields":[{"name":"amount","type":"string"}]}"#;
    let main = r#"{"type":"record","name":"x.E","fields":[{"name":"m","type":"x.Money"},{"name":"n","type":["null","x.Money"]}]}"#;
    let schemas = Schemas::parse(main, &[shared.to_owned()]).unwrap();
    let plan = Plan::new(&schemas, RecordKind::Event.schema()).unwrap();
    let json = plan.to_json(&[2, b'1', 2, 2, b'2']).unwrap();
    assert_eq!(String::from_utf8(json).unwrap(), r#"{"m":{"amount":"1"},"n":{"amount":"2"}}"#);
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((".{0,6}", inner), 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// Any event of any type, with texts and further fields of any kind.
fn any_event() -> impl Strategy<Value = String> {
    let extras = prop::collection::vec(("x[a-z\u{e9}\"]{0,6}", json_value()), 0..4);
    (0..EventType::PAYMENTS.len(), ".{0,20}", any::<u32>(), extras).prop_map(
        |(kind, text, number, extras)| {
            let mut event: Value = serde_json::from_str(sample(EventType::PAYMENTS[kind])).unwrap();
            event["id"] = json!(format!("evt_{number}"));
            event["occurredAt"] =
                json!(crate::clock::Timestamp::from_millis(i64::from(number) * 977).to_string());
            let data = event["data"].as_object_mut().unwrap();
            for (name, value) in data.iter_mut() {
                match name.as_str() {
                    "currency" | "network" | "path" | "reason" => *value = json!(text),
                    "amount" | "price" => *value = json!(format!("{number}.0{number}00")),
                    "milestone" if number % 2 == 0 => *value = json!(number),
                    "paymentCount" => *value = json!(number),
                    _ => {}
                }
            }
            data.extend(extras);
            event.to_string()
        },
    )
}

proptest! {
    #[test]
    fn any_event_in_any_encoding_is_the_same_event(json in any_event()) {
        let event = Event::from_json(json.clone().into()).unwrap();
        let payload = from_json(RecordKind::Event, json.as_bytes(), Vec::new()).unwrap();
        let back = ours(RecordKind::Event).to_json(&payload).unwrap();
        prop_assert_eq!(Event::from_json(back.into()).unwrap(), event.clone());

        let value: Value = serde_json::from_str(&json).unwrap();
        let cloud = json!({"specversion": "1.0", "id": value["id"], "source": "/p",
            "type": value["type"], "time": value["occurredAt"], "projectid": value["projectId"],
            "data": value["data"]});
        let at = crate::clock::Timestamp::default();
        let cloud = bytes::Bytes::from(cloud.to_string());
        prop_assert_eq!(super::cloudevents::in_text(&cloud, at).unwrap(), event);
    }

    #[test]
    fn foreign_bytes_do_no_harm(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        kind in 0..RecordKind::ALL.len(),
    ) {
        let _ = ours(RecordKind::ALL[kind]).to_json(&bytes);
        let _ = from_json(RecordKind::ALL[kind], &bytes, Vec::new());
    }

    #[test]
    fn damaged_records_do_no_harm(at in 0_usize..400, byte in any::<u8>(), number in 0_usize..20) {
        let (kind, json) = records().nth(number).unwrap();
        let mut payload = from_json(kind, json.as_bytes(), Vec::new()).unwrap();
        let at = at % payload.len();
        payload[at] = byte;
        if let Ok(json) = ours(kind).to_json(&payload) {
            prop_assert!(serde_json::from_slice::<Value>(&json).is_ok());
        }
    }
}

/// The earlier versions of the schemas with records of each: `NAME/NUMBER.avsc`, and beside it
/// `NUMBER.records`, a line for each record: its payload in hexadecimal digits, its JSON.
const VERSIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/schemas");

fn versions(kind: RecordKind) -> Vec<(std::path::PathBuf, std::path::PathBuf)> {
    let folder = std::path::Path::new(VERSIONS).join(kind.name());
    let files = |number: u32| {
        (folder.join(format!("{number}.avsc")), folder.join(format!("{number}.records")))
    };
    (1..1000).map(files).take_while(|(schema, _)| schema.exists()).collect()
}

#[test]
fn records_of_every_earlier_schema_are_read_for_ever() {
    for &kind in RecordKind::ALL {
        let versions = versions(kind);
        let (latest, _) = versions.last().unwrap();
        assert_eq!(
            std::fs::read_to_string(latest).unwrap(),
            kind.text(),
            "schemas/{0}.avsc is not the latest of tests/fixtures/schemas/{0}: keep the old version \
             and add this one with `cargo test --lib add_schema_versions -- --ignored`",
            kind.name()
        );
        for (schema, records) in &versions {
            let schema = std::fs::read_to_string(schema).unwrap();
            let records = std::fs::read_to_string(records).unwrap();
            assert!(records.lines().count() > 0);
            for line in records.lines() {
                let (payload, json) = line.split_once(' ').unwrap();
                let digits: Vec<char> = payload.chars().collect();
                let payload: Vec<u8> = digits
                    .chunks(2)
                    .map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap())
                    .collect();
                assert_eq!(read(&schema, kind, &payload), json);
            }
        }
    }
}

#[test]
#[ignore = "writes the fixtures of a new version of a schema"]
fn add_schema_versions() {
    for &kind in RecordKind::ALL {
        let versions = versions(kind);
        let latest = versions.last().map(|(schema, _)| std::fs::read_to_string(schema).unwrap());
        if latest.as_deref() == Some(kind.text()) {
            continue;
        }
        let folder = std::path::Path::new(VERSIONS).join(kind.name());
        std::fs::create_dir_all(&folder).unwrap();
        let number = versions.len() + 1;
        std::fs::write(folder.join(format!("{number}.avsc")), kind.text()).unwrap();
        let lines = records().filter(|(of, _)| *of == kind).map(|(_, json)| {
            let payload = from_json(kind, json.trim().as_bytes(), Vec::new()).unwrap();
            let digits = payload.iter().fold(String::new(), |mut digits, byte| {
                write!(digits, "{byte:02x}").unwrap();
                digits
            });
            format!("{digits} {}\n", json.trim())
        });
        std::fs::write(folder.join(format!("{number}.records")), lines.collect::<String>())
            .unwrap();
    }
}
