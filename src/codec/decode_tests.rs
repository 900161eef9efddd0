//! What other programs' schemas and values may be, and what is refused of them.

use super::{
    schemas::RecordKind,
    tests::{avro, read, try_read},
};

#[test]
fn a_few_bytes_do_not_stand_for_endless_work() {
    // Arrays of records whose fields leave nothing: two bytes each way.
    let fields: Vec<String> =
        (0..500).map(|n| format!(r#"{{"name":"f{n}","type":"null"}}"#)).collect();
    let writer = format!(
        r#"{{"type":"array","items":{{"type":"record","name":"R","fields":[{}]}}}}"#,
        fields.join(",")
    );
    let mut payload = avro(r#""long""#, 1_i64 << 60);
    payload.push(0);
    let began = std::time::Instant::now();
    assert!(
        try_read(&writer, RecordKind::Event, &payload).unwrap_err().contains("values and fields")
    );
    assert!(began.elapsed() < std::time::Duration::from_secs(5));
}

#[test]
fn schemas_that_registries_take_are_read() {
    let writer = r#"{"type":"record","name":"größe-1","namespace":"com.ex-ample","aliases":["1"],"fields":[
        {"name":"größe","type":"string","default":7},
        {"name":"a-b","type":["null","string"],"default":"x"},
        {"name":"kind","type":{"type":"enum","name":"K","symbols":["a-b","ü"],"default":"gone"}},
        {"name":"again","type":["null","com.ex-ample.größe-1"],"default":{}},
        {"name":"amount","type":{"type":"bytes","logicalType":"decimal","precision":2,"scale":6}}]}"#;
    let payload = [&[2, b'1', 2, 2, b'2', 2, 0, 2, 9][..]].concat();
    assert_eq!(
        read(writer, RecordKind::Event, &payload),
        r#"{"größe":"1","a-b":"2","kind":"ü","amount":"CQ=="}"#
    );
}

#[test]
fn what_cannot_be_said_is_refused_by_its_field() {
    let field = |kind: &str| {
        format!(
            r#"{{"type":"record","name":"E","fields":[{{"name":"outer","type":{{"type":"record","name":"D","fields":[{{"name":"wrong","type":{kind}}}]}}}}]}}"#
        )
    };
    for (kind, payload, said) in [
        (r#""double""#, &f64::NAN.to_le_bytes()[..], "outer.wrong: a number is NaN"),
        (r#""float""#, &f32::INFINITY.to_le_bytes(), "outer.wrong: a number is NaN or infinite"),
        (
            r#"{"type":"bytes","logicalType":"uuid"}"#,
            &[30, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
            "outer.wrong: a UUID has 16 bytes, not 15",
        ),
        (r#"{"type":"map","values":"boolean"}"#, &[2, 2, b'k', 7, 0], "outer.wrong.k: "),
        (r#"["null","string"]"#, &[9], "outer.wrong: "),
        (
            r#"{"type":"long","logicalType":"timestamp-millis"}"#,
            &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
            "outer.wrong: a time",
        ),
    ] {
        let error = try_read(&field(kind), RecordKind::Event, payload).unwrap_err();
        assert!(error.starts_with(said), "{kind}: {error}");
    }
    let uuid = [&[32][..], &[7; 16]].concat();
    assert_eq!(
        read(&field(r#"{"type":"bytes","logicalType":"uuid"}"#), RecordKind::Event, &uuid),
        r#"{"outer":{"wrong":"07070707-0707-0707-0707-070707070707"}}"#
    );
}

#[test]
fn a_time_is_never_invented() {
    let writer = |kind: &str| {
        format!(
            r#"{{"type":"record","name":"PaymentEvent","fields":[{{"name":"occurredAt","type":{kind}}}]}}"#
        )
    };
    let read = |kind: &str, number: i64| {
        try_read(&writer(kind), RecordKind::Event, &avro(r#""long""#, number))
    };
    let logical = |name: &str| format!(r#"{{"type":"long","logicalType":"{name}"}}"#);
    let time = |text: &str| Ok(format!(r#"{{"occurredAt":"{text}"}}"#));
    assert_eq!(read(r#""long""#, 1_795_420_800_000), time("2026-11-23T08:00:00.000Z"));
    assert!(read(r#""long""#, 1_795_420_800).unwrap_err().contains("seconds"));
    assert!(read(r#""long""#, 1_795_420_800_000_000).unwrap_err().contains("beyond"));
    // No zone is said, so none is written; and an event without one is refused.
    assert_eq!(
        read(&logical("local-timestamp-millis"), 1_795_420_800_001),
        time("2026-11-23T08:00:00.001")
    );
    assert_eq!(
        read(&logical("local-timestamp-micros"), 1_795_420_800_000_001),
        time("2026-11-23T08:00:00.000001")
    );
    assert_eq!(read(&logical("timestamp-nanos"), -1), time("1969-12-31T23:59:59.999999999Z"));
    assert_eq!(
        read(&logical("timestamp-millis"), 253_402_300_799_999),
        time("9999-12-31T23:59:59.999Z")
    );
}

#[test]
fn further_fields_may_be_null() {
    let writer = r#"{"type":"record","name":"PaymentEvent","fields":[
        {"name":"data","type":{"type":"record","name":"D","fields":[{"name":"a","type":"string"}]}},
        {"name":"extra","type":["null",{"type":"map","values":"string"}],"default":null}]}"#;
    assert_eq!(read(writer, RecordKind::Event, &[2, b'1', 0]), r#"{"data":{"a":"1"}}"#);
    let extra = [&[2, b'1', 2, 2, 2, b'x', 6][..], b"[1]", &[0]].concat();
    assert_eq!(read(writer, RecordKind::Event, &extra), r#"{"data":{"a":"1","x":[1]}}"#);
}
