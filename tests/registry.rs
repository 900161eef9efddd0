//! Avro with a schema registry that somebody else wrote, on a real broker: events of every client and
//! encoding, schemas that change, a registry that goes away and comes back.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::{
    collections::BTreeMap,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use apache_avro::{Schema, types::Value as Avro, writer::datum::GenericDatumWriter};
use dunmore_connectors::{
    codec::RecordKind,
    event::{EventType, sample},
};
use serde_json::{Value, json};
use support::{
    broker::broker,
    fake_registry::FakeRegistry,
    kafka::{Read, Write},
    registry::{Gate, Guarded, registry},
    serve::{Serve, Stage, call, get},
    sink::{Reply, Sink},
    wait_until,
};

const PATIENCE: Duration = Duration::from_secs(60);
const PROJECT: &str = "proj_1";
const TOKEN: &str = "dmt_test";
const OCCURRED_AT: &str = "2026-11-23T08:00:00.000Z";

/// A stage with this registry, and a connector that gets every event.
struct Scene {
    // Dropped before the folder that has its log.
    serve: Serve,
    stage: Stage,
    sink: Sink,
}

/// The settings of a registry that lets everybody in.
fn at(url: &str) -> String {
    format!("schema_registry.url = \"{url}\"")
}

fn scene(bootstrap: &str, prefix: &str, registry: &str) -> Scene {
    let sink = Sink::start();
    let digest = dunmore_connectors::tokens::digest_of(TOKEN);
    let more = format!(
        "admin.token_sha256 = \"{digest}\"\n{registry}\n{}",
        sink.base_urls(&["zapier", "make"])
    );
    let stage = Stage::new(bootstrap, prefix, "1s", &more);
    let serve = stage.serve("one");
    let result = stage.run_json(&["project", "set-tier", PROJECT, "pro"]);
    assert_eq!(result["outcome"], "accepted", "{result}");
    connect(&stage, "zapier", "*", "https://hooks.zapier.com/hooks/catch/1/abc/");
    Scene { serve, stage, sink }
}

fn connect(stage: &Stage, kind: &str, events: &str, url: &str) {
    let url = format!("webhookUrl={url}");
    let made =
        stage.run_json(&["connector", "create", PROJECT, kind, "--events", events, "--set", &url]);
    assert_eq!(made["outcome"], "accepted", "{made}");
}

impl Scene {
    fn bodies(&self) -> Vec<String> {
        let hits = self.sink.hits_on("/hooks/catch/1/abc/");
        hits.iter().map(|hit| String::from_utf8(hit.body.to_vec()).unwrap()).collect()
    }

    #[track_caller]
    fn wait_for_bodies(&self, count: usize) {
        wait_until("the events are delivered", PATIENCE, || self.bodies().len() >= count);
    }

    fn dead(&self) -> Vec<Read> {
        self.stage.kafka.read(&self.stage.topic("deliveries.dead"))
    }

    fn write_event(&self, value: Vec<u8>, partition: Option<i32>) {
        let record = Write { partition, ..Write::new(PROJECT, value) };
        self.stage.kafka.write(&self.stage.topic("payments.events"), [record]);
    }
}

/// The sample of each type, as the example programs send them with these settings.
fn expected(prefix: &str) -> Vec<String> {
    EventType::PAYMENTS.iter().map(|kind| sample(*kind).replace("evt_sample_", prefix)).collect()
}

/// Runs an example program; false when its toolchain is not installed here.
fn produce(scene: &Scene, language: &str, format: &str, prefix: &str) -> bool {
    let settings = [("EVENT_ID_PREFIX", prefix), ("FORMAT", format)];
    run_producer(scene, language, &registry().url(), &settings).is_some()
}

/// What a program of `scripts/producers` prints; nothing when its toolchain is not installed here.
fn run_producer(
    scene: &Scene,
    name: &str,
    registry: &str,
    settings: &[(&str, &str)],
) -> Option<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/producers");
    let output = Command::new(script)
        .arg(name)
        .env("BOOTSTRAP_SERVERS", &scene.stage.kafka.bootstrap)
        .env("TOPIC", scene.stage.topic("payments.events"))
        .env("SCHEMA_REGISTRY_URL", registry)
        .env("PROJECT", PROJECT)
        .env("OCCURRED_AT", OCCURRED_AT)
        .envs(settings.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    if output.status.code() == Some(3) {
        eprintln!("NOT RUN: {}", String::from_utf8_lossy(&output.stderr));
        return None;
    }
    assert!(output.status.success(), "{name} {settings:?}: {output:?}");
    Some(String::from_utf8(output.stdout).unwrap())
}

fn framed(id: u32, schema: &str, value: Avro) -> Vec<u8> {
    let schema = Schema::parse_str(schema).unwrap();
    let writer = GenericDatumWriter::builder(&schema).build().unwrap();
    let payload = writer.write_value_to_vec(value).unwrap();
    [&[0][..], &id.to_be_bytes(), &payload].concat()
}

fn record(fields: &[(&str, Avro)]) -> Avro {
    Avro::Record(fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
}

/// A settled payment with these further fields in its data, and in which branch of the union that is.
fn settled(id: &str, branch: u32, more: &[(&str, Avro)]) -> Avro {
    let mut data: Vec<(&str, Avro)> = vec![
        ("paymentId", "pay_1".into()),
        ("endpointId", "ep_1".into()),
        ("customerId", "0x52".into()),
        ("amount", "1.250000".into()),
        ("currency", "USDC".into()),
        ("network", "base".into()),
        ("txHash", "0xab".into()),
    ];
    data.extend(more.iter().cloned());
    record(&[
        ("id", id.into()),
        ("type", "payment.settled".into()),
        ("projectId", PROJECT.into()),
        ("occurredAt", Avro::TimestampMillis(1_795_420_800_000)),
        ("data", Avro::Union(branch, Box::new(record(&data)))),
        ("extra", Avro::Map(std::collections::HashMap::new())),
    ])
}

/// Our schema of events with a change to its JSON.
fn changed(change: impl FnOnce(&mut Value)) -> String {
    let mut schema: Value = serde_json::from_str(RecordKind::Event.text()).unwrap();
    change(&mut schema);
    schema.to_string()
}

/// The fields of the record of settled payments.
fn settled_fields(schema: &mut Value) -> &mut Vec<Value> {
    schema["fields"][4]["type"][1]["fields"].as_array_mut().unwrap()
}

#[test]
fn events_of_every_client_and_encoding_have_identical_bodies() {
    let Some(broker) = broker() else { return };
    let scene = scene(&broker.bootstrap, &broker.unique_prefix(), &at(&registry().url()));
    let expected = expected("evt_same_");
    let mut ways = Vec::new();
    for (language, format) in [
        ("rust", "json"),
        ("python", "json"),
        ("python", "avro"),
        ("java", "json"),
        ("java", "avro"),
        ("go", "json"),
        ("node", "json"),
        ("node", "cloudevents-structured"),
        ("node", "cloudevents-binary"),
    ] {
        if produce(&scene, language, format, "evt_same_") {
            ways.push(format!("{language} {format}"));
        }
    }
    // The program itself, as Avro.
    let file = scene.stage.folder.path().join("events.jsonl");
    std::fs::write(&file, expected.join("\n")).unwrap();
    let sent = scene.stage.run_json(&["event", "send", "--file", file.to_str().unwrap()]);
    assert_eq!(sent, json!({"sent": 8, "asJson": 0, "invalid": 0, "failed": 0}));
    ways.push("dunmore avro".to_owned());

    scene.wait_for_bodies(8 * ways.len());
    let mut counts = BTreeMap::new();
    for body in scene.bodies() {
        *counts.entry(body).or_insert(0) += 1;
    }
    let wanted: BTreeMap<String, usize> =
        expected.into_iter().map(|body| (body, ways.len())).collect();
    assert_eq!(counts, wanted, "{ways:?}");
    eprintln!("8 events each, identical bodies: {}", ways.join(", "));

    let values = scene.stage.kafka.read(&scene.stage.topic("payments.events"));
    let is_avro = |read: &&Read| read.value.as_ref().is_some_and(|value| value[0] == 0);
    let avro = ways.iter().filter(|way| way.ends_with("avro")).count();
    assert_eq!(values.iter().filter(is_avro).count(), 8 * avro);
    assert!(scene.dead().is_empty());
}

#[test]
fn events_of_stock_serializers_are_delivered() {
    let Some(broker) = broker() else { return };
    // Confluent's serializers need a schema's GUID to put it into a header; Apicurio has none.
    let registry = FakeRegistry::start();
    let scene = scene(&broker.bootstrap, &broker.unique_prefix(), &at(&registry.url()));
    let mut wanted = 0;
    for client in ["clients-1", "clients-2"] {
        let printed = run_producer(&scene, client, &registry.url(), &[]);
        wanted += printed.map_or(0, |count| count.trim().parse().unwrap());
    }
    scene.wait_for_bodies(wanted);
    scene.stage.wait_committed(PATIENCE);
    let dead: Vec<String> = scene
        .dead()
        .iter()
        .map(|letter| letter.header("dunmore-error-detail").to_owned())
        .collect();
    assert!(dead.is_empty(), "{dead:?}");
    let data = json!({"paymentId": "pay_1", "endpointId": "ep_1", "customerId": "0x52", "amount": "1.250000",
        "currency": "USDC", "network": "base", "txHash": "0xab"});
    let mut ids = BTreeMap::new();
    for hit in scene.sink.hits_on("/hooks/catch/1/abc/") {
        let body: Value = serde_json::from_slice(&hit.body).unwrap();
        assert_eq!(
            (&body["type"], &body["projectId"]),
            (&json!("payment.settled"), &json!(PROJECT))
        );
        assert_eq!(body["data"], data, "{body}");
        assert!(body["occurredAt"].as_str().unwrap().starts_with("2026-11-23T08:00:00"), "{body}");
        *ids.entry(body["id"].as_str().unwrap().to_owned()).or_insert(0) += 1;
    }
    assert_eq!(ids.len(), wanted, "each way once: {ids:?}");
    eprintln!("delivered: {:?}", ids.keys());
}

/// One record in front of a partition's events that no registry can help with.
#[test]
fn odd_schema_ids_hold_nothing_up() {
    let Some(broker) = broker() else { return };
    let registry = FakeRegistry::with(|path| {
        Some(match path {
            "/schemas/ids/400" => (400, "{}".to_owned()),
            "/schemas/ids/403" => (403, "<html>denied</html>".to_owned()),
            "/schemas/ids/404" => (404, "<html>not found</html>".to_owned()),
            "/schemas/ids/500" => (500, "{}".to_owned()),
            "/schemas/ids/200" => (200, "<html>sign in</html>".to_owned()),
            _ => return None,
        })
    });
    let scene = scene(&broker.bootstrap, &broker.unique_prefix(), &at(&registry.url()));
    let ours = RecordKind::Event.text();
    let known = registry.register(ours);
    let ids = [0, 400, 403, 404, 500, 200, 1 << 31, u32::MAX];
    let commands = scene.stage.topic("connectors.commands");
    for id in ids {
        scene.write_event(framed(id, ours, settled("evt_odd", 1, &[])), Some(0));
        let command =
            Write { partition: Some(0), ..Write::new(PROJECT, framed(id, "\"null\"", Avro::Null)) };
        scene.stage.kafka.write(&commands, [command]);
    }
    scene.write_event(framed(known, ours, settled("evt_behind", 1, &[])), Some(0));
    let mut was_unready = None;
    wait_until("the event behind them is delivered", PATIENCE, || {
        if let Some((503, said)) = get(scene.serve.admin, "/readyz") {
            was_unready.get_or_insert(said);
        }
        scene.bodies().len() == 1
    });
    assert_eq!(was_unready, None);
    wait_until("all are dead letters", PATIENCE, || scene.dead().len() == 2 * ids.len());
    // And commands of every partition are carried out.
    let result = scene.stage.run_json(&["project", "set-tier", PROJECT, "starter"]);
    assert_eq!(result["outcome"], "accepted", "{result}");
}

#[test]
fn schemas_change_compatibly_and_not_otherwise() {
    let Some(broker) = broker() else { return };
    let scene = scene(&broker.bootstrap, &broker.unique_prefix(), &at(&registry().url()));
    let stage = &scene.stage;
    let topic = stage.topic("payments.events");
    registry().demand(&topic, "BACKWARD");

    // The service registered its schemas at its start; doing it again changes nothing.
    let found = stage.run_json(&["schemas", "register"]);
    let verdicts = found["schemas"].as_array().unwrap();
    assert_eq!(verdicts.len(), 10, "{found}");
    assert!(verdicts.iter().all(|v| v["verdict"].as_str().unwrap().starts_with("was registered")));
    let checked = stage.run_json(&["schemas", "check"]);
    assert!(checked["schemas"].as_array().unwrap().iter().all(|v| v["ok"] == true), "{checked}");

    // A team adds a field with a default and a record of its own.
    let second = changed(|schema| {
        settled_fields(schema)
            .push(json!({"name": "memo", "type": ["null", "string"], "default": null}));
        settled_fields(schema).push(json!({"name": "tax", "default": "", "type": {
            "type": "record", "name": "Tax", "fields": [
                {"name": "rate", "type": "double"}, {"name": "code", "type": "string"}]}}));
        // A default of a record has to be one.
        settled_fields(schema)[8]["default"] = json!({"rate": 0.0, "code": ""});
    });
    let file = stage.folder.path().join("second.avsc");
    std::fs::write(&file, &second).unwrap();
    let file = file.to_str().unwrap();
    let checked = stage.run_json(&["schemas", "check", "--file", file]);
    assert_eq!(checked["schemas"].as_array().unwrap().len(), 2, "{checked}");
    let id = registry().register(&topic, &second);
    let checked = stage.run_json(&["schemas", "check", "--file", file]);
    assert_eq!(checked["schemas"][1]["verdict"], format!("registered, id {id}"), "{checked}");
    let tax = record(&[("rate", Avro::Double(0.19)), ("code", "DE".into())]);
    let memo = Avro::Union(1, Box::new("thanks".into()));
    let event = settled("evt_second", 1, &[("memo", memo), ("tax", tax)]);
    scene.write_event(framed(id, &second, event), None);
    scene.wait_for_bodies(1);
    let body: Value = serde_json::from_str(&scene.bodies()[0]).unwrap();
    assert_eq!(body["data"]["amount"], "1.250000");
    assert_eq!(body["data"]["memo"], "thanks");
    assert_eq!(body["data"]["tax"], json!({"rate": 0.19, "code": "DE"}));

    // Who demands a field that older events lack is told so.
    let third = changed(|schema| {
        settled_fields(schema).push(json!({"name": "memo", "type": "string"}));
    });
    let file = stage.folder.path().join("third.avsc");
    std::fs::write(&file, third).unwrap();
    let check = ["schemas", "check", "--output", "json", "--file", file.to_str().unwrap()];
    let refused = stage.run(&check);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let said: Value = serde_json::from_slice(&refused.stdout).unwrap();
    let verdict = said["schemas"][1]["verdict"].as_str().unwrap();
    assert!(verdict.starts_with("incompatible with the latest version: "), "{said}");

    // And who makes an amount a float.
    let fourth = changed(|schema| settled_fields(schema)[3]["type"] = json!("double"));
    let file = stage.folder.path().join("fourth.avsc");
    std::fs::write(&file, fourth).unwrap();
    let refused = stage.run(&["schemas", "check", "--file", file.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(scene.dead().is_empty());
}

#[test]
fn a_registry_that_is_away_parks_nothing() {
    let Some(broker) = broker() else { return };
    let mut gate = Gate::new(registry());
    let scene = scene(&broker.bootstrap, &broker.unique_prefix(), &at(&gate.url()));
    let topic = scene.stage.topic("payments.events");
    let ours = RecordKind::Event.text();
    let known = registry().register(&topic, ours);
    let new = changed(|schema| {
        settled_fields(schema).push(json!({"name": "memo", "type": "string", "default": ""}));
    });
    let unknown = registry().register(&topic, &new);
    gate.close();

    // What is known is read; what is not makes its own partition wait and no other.
    scene.write_event(framed(known, ours, settled("evt_known", 1, &[])), Some(0));
    scene.wait_for_bodies(1);
    let waiting = || scene.serve.count("dunmore_schema_registry_waiting", &[]);
    let memo = [("memo", "new".into())];
    scene.write_event(framed(unknown, &new, settled("evt_new", 1, &memo)), Some(1));
    wait_until("the partition waits", PATIENCE, || waiting() == 1);
    let (status, said) = get(scene.serve.admin, "/readyz").unwrap();
    assert_eq!(status, 503);
    assert!(said.contains("the schema registry to answer"), "{said}");
    scene.write_event(framed(known, ours, settled("evt_behind", 1, &[])), Some(1));
    scene.write_event(framed(known, ours, settled("evt_beside", 1, &[])), Some(2));
    scene.wait_for_bodies(2);
    assert!(scene.bodies().iter().any(|body| body.contains("evt_beside")));
    assert!(scene.dead().is_empty());
    // Nor does a replay pass over what it cannot read now.
    let asked = json!({"from": "beginning", "dryRun": true});
    let replay = || call(scene.serve.admin, Some(TOKEN), "POST", "/admin/v1/replays", &asked);
    let (status, problem) = replay();
    assert_eq!(status, 503, "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("schema registry does not answer"));

    gate.open();
    scene.wait_for_bodies(4);
    let (status, told) = replay();
    assert_eq!((status, &told["scan"]["records"]), (200, &4.into()), "{told}");
    assert_eq!(told["plan"]["unreadable"], 0, "{told}");
    wait_until("nothing waits", PATIENCE, || waiting() == 0);
    scene.stage.wait_committed(PATIENCE);
    assert!(scene.dead().is_empty());
    assert!(scene.bodies().iter().any(|body| body.contains(r#""memo":"new""#)));

    // An id that a registry which answers does not know is a dead letter, byte for byte.
    let poison = framed(3_999_999, ours, settled("evt_poison", 1, &[]));
    scene.write_event(poison.clone(), Some(0));
    wait_until("it is in the dead letters", PATIENCE, || scene.dead().len() == 1);
    let dead = &scene.dead()[0];
    assert_eq!(dead.value.as_ref(), Some(&poison));
    assert_eq!(dead.header("dunmore-error-reason"), "unknown_schema");
    assert!(dead.header("dunmore-error-detail").contains("3999999"));
    scene.stage.wait_committed(PATIENCE);
}

#[test]
fn with_a_registry_every_record_is_avro_and_read_back() {
    let Some(broker) = broker() else { return };
    let scene = scene(&broker.bootstrap, &broker.unique_prefix(), &at(&registry().url()));
    let stage = &scene.stage;
    connect(
        stage,
        "make",
        "payment.settled",
        "https://hook.eu1.make.com/abcdefghijklmnopqrstuvwxyz012345",
    );
    scene.sink.script("/abcdefghijklmnopqrstuvwxyz012345", &[], Reply::Status(500));
    scene.write_event(sample(EventType::PaymentSettled).as_bytes().to_vec(), None);
    wait_until("a delivery died", PATIENCE, || !scene.dead().is_empty());
    let avro = |name: &str| {
        let read = stage.kafka.read(&stage.topic(name));
        assert!(!read.is_empty(), "{name} has no records");
        for record in read.iter().filter_map(|read| read.value.as_ref()) {
            assert_eq!(record[0], 0, "{name}: {}", String::from_utf8_lossy(record));
        }
    };
    for name in [
        "connectors.commands",
        "connectors.results",
        "connectors.history",
        "connectors.state",
        "deliveries.retry.1s",
        "deliveries.dead",
    ] {
        avro(name);
    }
    wait_until("attempts are recorded", PATIENCE, || {
        !stage.kafka.read(&stage.topic("deliveries.attempts")).is_empty()
    });
    avro("deliveries.attempts");

    // A new instance builds its view from Avro, and the command line reads it too.
    let listed = stage.run_json(&["connector", "list", PROJECT]);
    assert_eq!(listed["connectors"].as_array().unwrap().len(), 2, "{listed}");
    let Scene { serve, stage, sink } = scene;
    serve.stop();
    let second = stage.serve("two");
    assert_eq!(second.count("dunmore_view_connectors", &[]), 2);
    let before = sink.hits_on("/hooks/catch/1/abc/").len();
    let event = sample(EventType::PaymentSettled).replace("evt_sample_2", "evt_after");
    let event: Value = serde_json::from_str(&event).unwrap();
    stage.events(&[event]);
    wait_until("it delivers", PATIENCE, || sink.hits_on("/hooks/catch/1/abc/").len() > before);
}

#[test]
fn a_registry_behind_tls_and_a_password_is_used_and_told_of() {
    let Some(broker) = broker() else { return };
    let folder = tempfile::tempdir().unwrap();
    // "team:correct-horse" in Base64.
    let guarded = Guarded::new(registry(), folder.path(), "Basic dGVhbTpjb3JyZWN0LWhvcnNl");
    let own = |name: &str| folder.path().join(name).display().to_string();
    let more = format!(
        "{}\nschema_registry.ca_file = \"{}\"\nschema_registry.username = \"team\"\n\
         schema_registry.password = \"correct-horse\"",
        at(&guarded.url()),
        own("ca.pem"),
    );
    let scene = scene(&broker.bootstrap, &broker.unique_prefix(), &more);
    let ours = RecordKind::Event.text();
    let id = registry().register(&scene.stage.topic("payments.events"), ours);
    scene.write_event(framed(id, ours, settled("evt_1", 1, &[])), None);
    scene.wait_for_bodies(1);

    for (setting, value, said) in [
        ("PASSWORD", "wrong-horse".to_owned(), "401"),
        ("CA_FILE", own("other.pem"), "certificate"),
        ("CA_FILE", own("none.pem"), "schema_registry.ca_file: cannot read"),
    ] {
        let mut check = scene.stage.command(&["schemas", "check"]);
        let output =
            check.env(format!("DUNMORE_SCHEMA_REGISTRY__{setting}"), &value).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_ne!(output.status.code(), Some(0), "{value}: {output:?}");
        assert!(error.contains(said), "{value}: {error}");
        assert!(!error.contains("-horse"), "{error}");
    }
}
