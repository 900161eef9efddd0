//! Foreign records in every topic: the tools pass them over, and never fail on them.

use rdkafka::{
    ClientConfig,
    message::{Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer},
};

use super::{
    PATIENCE,
    letters::set_up,
    stage,
    support::{Chance, events::event, serve::Stage, wait_until},
    text,
};

/// Records of each topic.
const RECORDS: usize = 40;
/// The largest of them, in bytes.
const LARGEST: u64 = 2_000_000;

fn bytes(chance: &mut Chance, most: u64) -> Vec<u8> {
    let length = chance.below(most + 1);
    (0..length).map(|_| u8::try_from(chance.below(256)).unwrap()).collect()
}

/// Nothing, a few random bytes, what looks like the beginning of something, or a great many bytes.
fn value(chance: &mut Chance, number: usize) -> Option<Vec<u8>> {
    match number % 8 {
        0 => None,
        1 => Some(Vec::new()),
        2 => Some(b"{\"id\":\"evt_1\",\"type\":\"payment.settled\"".to_vec()),
        3 => Some([&b"\0\0\0\0\x07"[..], &bytes(chance, 64)].concat()),
        4 => Some(vec![b'['; usize::try_from(chance.below(100_000)).unwrap()]),
        5 if number < 16 => {
            // Random once: a megabyte of random numbers is slow to make.
            let seed = bytes(chance, 64);
            let length = usize::try_from(chance.below(LARGEST)).unwrap();
            Some(seed.iter().copied().cycle().take(length).collect())
        }
        _ => Some(bytes(chance, 300)),
    }
}

fn headers(chance: &mut Chance, number: usize) -> OwnedHeaders {
    let mut headers = OwnedHeaders::new();
    let ours = ["dunmore-connector-id", "dunmore-note", "dunmore-redriven-from", "ce_id"];
    for index in 0..chance.below(4) {
        let mut name: Vec<u8> = match (number + usize::try_from(index).unwrap()) % 3 {
            0 => ours[number % ours.len()].as_bytes().to_vec(),
            _ => bytes(chance, 20),
        };
        // Names end with a null byte in the client library.
        name.retain(|byte| *byte != 0);
        let value = bytes(chance, 40);
        #[expect(unsafe_code, reason = "the binding takes text only, and copies it byte for byte")]
        // SAFETY: nothing looks at the name as text before it is copied.
        let key = unsafe { std::str::from_utf8_unchecked(&name) };
        let value = (chance.below(3) > 0).then_some(&value[..]);
        headers = headers.insert(Header { key, value });
    }
    headers
}

fn write(stage: &Stage, topic: &str, chance: &mut Chance) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &stage.kafka.bootstrap)
        .set("message.max.bytes", "4000000")
        .set("compression.type", "lz4")
        .create()
        .unwrap();
    let topic = stage.topic(topic);
    for number in 0..RECORDS {
        let (key, value) = (bytes(chance, 30), value(chance, number));
        let mut record: BaseRecord<'_, [u8], [u8]> =
            BaseRecord::to(&topic).headers(headers(chance, number));
        record.key = (number % 5 > 0).then_some(&key[..]);
        record.payload = value.as_deref();
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(PATIENCE).unwrap();
    assert_eq!(producer.in_flight_count(), 0);
}

#[test]
fn the_tools_work_over_foreign_records_in_every_topic() {
    let Some((stage, sink)) = stage("1s,5s", "") else { return };
    let serve = set_up(&sink, &stage);
    stage.events(&[event("evt_1", "payment.settled", "proj_1")]);
    wait_until("it arrives", PATIENCE, || sink.count() == 1);
    stage.wait_committed(PATIENCE);
    serve.stop();
    let mut chance = Chance(20_261_130);
    for topic in [
        "payments.events",
        "deliveries.retry.1s",
        "deliveries.replay",
        "deliveries.dead",
        "deliveries.attempts",
    ] {
        write(&stage, topic, &mut chance);
    }
    let folder = stage.folder.path().join("foreign").display().to_string();
    let position = {
        let records = stage.kafka.read_positions(&stage.topic("deliveries.dead"));
        format!("{}:{}", records[0].0, records[0].1)
    };
    for arguments in [
        &["replay", "--from", "beginning", "--dry-run"][..],
        &["replay", "--from", "beginning", "--only-missing", "--yes"],
        &["replay", "--from", "1 hour ago", "--yes"],
        &["replay", "--list"],
        &["dlq", "list", "--limit", "1000"],
        &["dlq", "show", &position],
        &["dlq", "redrive", "--all", "--dry-run"],
        &["dlq", "redrive", "--all"],
        &["dlq", "redrive", "--all", "--again", "--yes"],
        &["dlq", "export", "--folder", &folder],
        &["dlq", "purge", "--redriven", "--yes"],
        &["deliveries", "list", "--from", "beginning"],
        &["event", "trace", "evt_1", "--from", "beginning"],
    ] {
        for output in ["table", "json"] {
            if output == "json" && arguments[1] == "export" {
                continue;
            }
            let ended = stage.run(&[arguments, &["--output", output]].concat());
            let told = text(&ended.stderr);
            // A note may be what is shown; everything else succeeds.
            let expected: &[i32] = if arguments[1] == "show" { &[0, 1] } else { &[0] };
            assert!(
                ended.status.code().is_some_and(|code| expected.contains(&code)),
                "{arguments:?}: {}: {told}",
                ended.status
            );
            assert!(!told.contains("bug of this program"), "{arguments:?}: {told}");
        }
    }
}
