//! What the view costs: an instance with an empty data folder takes in the state of
//! `--connectors N` (1,000,000) connectors, a hundred per project, from the real broker; then it is
//! started again with what it kept.
//!
//! `cargo bench --bench view -- [--connectors N] [--json FILE]`

#![allow(clippy::expect_used, reason = "a bench stops at what it does not expect")]
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

mod support;

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use dunmore_connectors::{
    connector::partition_of,
    kafka::{Admin, TopicKind},
    pipeline::{COMMAND_ID, COMMAND_OFFSET},
};
use rdkafka::{
    ClientConfig,
    message::{Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use serde_json::json;
use support::{
    has, machine, number,
    process::{cpu_of, resident_mb},
    stage::{Broker, Instance, Stage},
    text,
};

const CONNECTOR: &str = include_str!("../tests/fixtures/records/state-connector-1.json");
const PROJECT: &str = include_str!("../tests/fixtures/records/state-project-1.json");
const PER_PROJECT: u64 = 100;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    // `cargo test --benches` runs this too: then there is nothing to measure.
    if has(&args, "--test") {
        return;
    }
    let connectors = number(&args, "--connectors", 1_000_000);
    let broker = Broker::start();
    let stage = Stage::new(&broker, "127.0.0.1:9");
    let bytes = produce(&broker, &stage, connectors);
    println!("{connectors} connectors, {:.0} MB of records", bytes as f64 / 1e6);
    let mut results = Vec::new();
    for what in ["restore", "warm start"] {
        let began = Instant::now();
        let instance = stage.serve(0, "delivery");
        wait_for_view(&instance);
        let seconds = began.elapsed().as_secs_f64();
        let cpu = cpu_of(instance.pid());
        assert_eq!(instance.metric("dunmore_view_connectors"), Some(connectors as f64));
        let (resident, most) = resident_mb(instance.pid());
        instance.process.terminate();
        let disk = disk_bytes(&stage.data_dir(0)) as f64 / 1e6;
        println!(
            "{what}: {seconds:.1} s, {:.0} records/s, {cpu:.1} s of CPU, {resident:.0} MB resident ({most:.0} at most), {disk:.0} MB on disk",
            connectors as f64 / seconds
        );
        results.push(json!({
            "what": what, "connectors": connectors, "seconds": seconds, "cpuSeconds": cpu,
            "residentMb": resident, "mostResidentMb": most, "diskMb": disk,
        }));
    }
    if let Some(file) = text(&args, "--json") {
        let all = json!({ "machine": machine(), "results": results });
        fs::write(file, format!("{all:#}\n")).expect("the JSON file");
    }
}

/// Writes the state records as a registrar would; tells how many bytes.
fn produce(broker: &Broker, stage: &Stage, connectors: u64) -> usize {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &broker.address)
        .set("partitioner", "murmur2_random")
        .set("compression.type", "lz4")
        .set("linger.ms", "20")
        .create()
        .expect("a producer");
    let topic = stage.topics.name(TopicKind::State);
    let admin = Admin::new(&stage.connection).expect("a client");
    let partitions = admin.partitions(&topic).expect("partitions");
    let (mut offset, mut bytes) = (0_u64, 0);
    let mut send = |project: &str, key: &str, value: &str| {
        offset += 1;
        bytes += value.len();
        let (offset, id) = (offset.to_string(), format!("cmd_{offset}"));
        // What a registrar's partitioner does: all of a project in one partition.
        let partition = partition_of(project, partitions);
        loop {
            let headers = OwnedHeaders::new()
                .insert(Header { key: COMMAND_OFFSET, value: Some(&offset) })
                .insert(Header { key: COMMAND_ID, value: Some(&id) });
            let record = BaseRecord::to(&topic).key(key).payload(value);
            match producer.send(record.partition(partition).headers(headers)) {
                Ok(()) => break,
                // The client's queue is full.
                Err(_) => {
                    producer.poll(Duration::from_millis(20));
                }
            }
        }
        producer.poll(Duration::ZERO);
    };
    for number in 0..connectors {
        let project = format!("proj_{}", number / PER_PROJECT);
        if number % PER_PROJECT == 0 {
            send(&project, &project, &PROJECT.trim().replace("proj_1", &project));
        }
        let (own, url) = (format!("\"conn_{number}\""), format!("\"{project}\""));
        let value = CONNECTOR.trim().replace("\"conn_1\"", &own).replace("\"proj_1\"", &url);
        send(&project, &format!("{project}/conn_{number}"), &value);
    }
    producer.flush(Duration::from_secs(60)).expect("acknowledgements");
    bytes
}

fn wait_for_view(instance: &Instance) {
    let deadline = Instant::now() + Duration::from_secs(300);
    while !instance.has_view() {
        assert!(Instant::now() < deadline, "the view did not catch up");
        thread::sleep(Duration::from_millis(20));
    }
}

fn disk_bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => disk_bytes(&entry.path()),
            _ => entry.metadata().map_or(0, |data| data.len()),
        })
        .sum()
}
