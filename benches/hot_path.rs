//! What the program adds to a request, piece by piece: decoding, matching, delivery ids, tracking
//! offsets, lanes, and the records that are written.

#![expect(clippy::expect_used, reason = "a bench stops at what it does not expect")]

use std::{collections::BTreeMap, hint::black_box, time::Duration};

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput};
use dunmore_connectors::{
    clock::Timestamp,
    connector::{Change, Config, ConfigValue, Connector, ProjectState},
    delivery::{DeliveryRecord, Origin, Source},
    destination::ConnectorType,
    event::{Event, EventType, EventTypes},
    id::{CommandId, ConnectorId, ConnectorKey, DeliveryNamespace, ProjectId},
    lane::{Arrival, LaneLimits, Lanes, Offer, Report},
    offsets::{CompletionMap, Tracker},
    secrets::Keyring,
    view::{BaseUrls, Subscriptions},
};

const LIVE: Arrival = Arrival { version: 1, source: Source::Live, crowded: false, patient: true };

const EVENT: &str = r#"{"id":"evt_000000000042","type":"payment.settled","projectId":"proj_1","occurredAt":"2026-11-23T08:00:00.000Z","data":{"paymentId":"pay_000000000042","endpointId":"ep_0123456789","customerId":"0x52908400098527886E0F7030069857D2E4169EE7","amount":"1.250000","currency":"USDC","network":"base","txHash":"0x88df016429689c079f3b2f6ad39fa052532c56795b733da78a91ebe6a713944b"}}"#;

fn key(connector: usize) -> ConnectorKey {
    ConnectorKey {
        project: ProjectId::parse("proj_1").expect("an id"),
        connector: ConnectorId::parse(&format!("conn_{connector}")).expect("an id"),
    }
}

fn project(connectors: usize) -> ProjectState {
    let mut state = ProjectState::default();
    let at = Timestamp::from_millis(0);
    for number in 0..connectors {
        let mut config = Config::default();
        let url = format!("https://hooks.zapier.com/hooks/catch/1/{number}/");
        config.insert("webhookUrl", ConfigValue::Plain(url.into()));
        state.apply(&Change::ConnectorSet(Connector {
            key: key(number),
            kind: ConnectorType::Zapier,
            config,
            event_types: EventTypes::Some(vec![EventType::PaymentSettled]),
            is_active: true,
            suspended_reason: None,
            created_at: at,
            updated_at: at,
            version: 1,
            command_id: CommandId::parse("cmd_1").expect("an id"),
        }));
    }
    state
}

fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("codec");
    let json = Bytes::from_static(EVENT.as_bytes());
    group.throughput(Throughput::Elements(1));
    group.bench_function("event from JSON", |b| {
        b.iter(|| Event::from_json(black_box(json.clone())).expect("an event"));
    });
    let event = Event::from_json(json).expect("an event");
    let record = DeliveryRecord {
        delivery_id: DeliveryNamespace::of(&key(1)).delivery(&event.id),
        connector: key(1),
        connector_type: ConnectorType::Zapier,
        event,
        attempts: 1,
        steps: 1,
        accepted_at: Timestamp::from_millis(0),
        first_attempt_at: None,
        deferred_since: None,
        due_at: Timestamp::from_millis(5_000),
        last_error: None,
        origin: Origin { topic: "dunmore.payments.events".to_owned(), partition: 1, offset: 42 },
        job: None,
    };
    let text = record.to_json();
    group.bench_function("delivery record to JSON", |b| b.iter(|| black_box(&record).to_json()));
    group.bench_function("delivery record from JSON", |b| {
        b.iter(|| DeliveryRecord::from_json(black_box(&text)).expect("a record"));
    });
    group.finish();
}

fn matching(c: &mut Criterion) {
    let mut group = c.benchmark_group("match");
    let keyring = Keyring::parse(&[Keyring::generate()]).expect("a key");
    let event = Event::from_json(Bytes::from_static(EVENT.as_bytes())).expect("an event");
    for connectors in [1, 1000] {
        let state = project(connectors);
        group.throughput(Throughput::Elements(connectors as u64));
        group.bench_function(format!("hot, {connectors} connectors, with delivery ids"), |b| {
            let subscriptions = Subscriptions::compile(&state, &keyring, &BaseUrls::default());
            b.iter(|| {
                for target in black_box(&subscriptions).matching(event.kind) {
                    black_box(target.namespace.delivery(&event.id));
                }
            });
        });
        group.bench_function(format!("cold (compile), {connectors} connectors"), |b| {
            b.iter(|| Subscriptions::compile(black_box(&state), &keyring, &BaseUrls::default()));
        });
    }
    group.finish();
}

fn offsets(c: &mut Criterion) {
    let mut group = c.benchmark_group("offsets");
    group.throughput(Throughput::Elements(1));
    group.bench_function("begin and complete, 500 in flight", |b| {
        let mut tracker = Tracker::new(CompletionMap::default());
        let mut next = 0_i64;
        for _ in 0..500 {
            tracker.begin(next);
            next += 1;
        }
        b.iter(|| {
            tracker.begin(next);
            tracker.complete(next - 500);
            next += 1;
        });
    });
    group.bench_function("commit with 1,000 incomplete of 2,000,000", |b| {
        let map = CompletionMap::new(0, 2_000_000, (0..1000).map(|n| n * 2_000));
        b.iter(|| black_box(&map).encode());
    });
    group.finish();
}

fn lanes(c: &mut Criterion) {
    let mut group = c.benchmark_group("lanes");
    group.throughput(Throughput::Elements(1));
    let limits = LaneLimits { label: 0, concurrency: 16, rate: None, batch_items: 1 };
    for count in [1, 10_000] {
        group.bench_function(format!("offer, start, finish over {count} lanes"), |b| {
            let keys: Vec<ConnectorKey> = (0..count).map(key).collect();
            let mut lanes: Lanes<ConnectorKey, u64> = Lanes::new(4096);
            let mut turn = 0_usize;
            let mut now = Duration::ZERO;
            b.iter(|| {
                turn += 1;
                now += Duration::from_micros(10);
                let key = &keys[turn % keys.len()];
                let offer = lanes.offer(key, limits, LIVE, 1, now);
                assert!(matches!(offer, Offer::Queued));
                let start = lanes.next(now).expect("a start");
                lanes.finish(start.lane, start.at, Report::Working, now);
            });
        });
    }
    group.bench_function("first offer to a new lane", |b| {
        let keys: BTreeMap<usize, ConnectorKey> = (0..1000).map(|n| (n, key(n))).collect();
        b.iter_batched(
            || Lanes::<ConnectorKey, u64>::new(4096),
            |mut lanes| {
                for key in keys.values() {
                    black_box(lanes.offer(key, limits, LIVE, 1, Duration::ZERO));
                }
                lanes
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for bench in [decode, matching, offsets, lanes] {
        bench(&mut criterion);
    }
    criterion.final_summary();
}
