//! What the program adds to a request, piece by piece: decoding, matching, delivery ids, tracking
//! offsets, lanes, and the records that are written. One list, timed by one bench and counted by
//! another.

use std::{hint::black_box, sync::Arc, time::Duration};

use bytes::Bytes;
use dunmore_connectors::{
    clock::Timestamp,
    connector::{
        Change, Config, ConfigValue, Connector, Later, ProjectState, StateKey, StateRecord,
    },
    delivery::{AttemptRecord, DeliveryRecord, Origin, Outcome, Source},
    destination::ConnectorType,
    event::{Event, EventType, EventTypes},
    filter::{Facts, Filter},
    id::{CommandId, ConnectorId, ConnectorKey, DeliveryNamespace, ProjectId},
    lane::{Arrival, LaneLimits, Lanes, Offer, Report},
    offsets::{CompletionMap, Tracker},
    secrets::Keyring,
    view::{BaseUrls, Subscriptions, View},
};

const LIVE: Arrival =
    Arrival { version: 1, source: Source::Live, crowded: false, patient: true, is_last: false };

const EVENT: &str = r#"{"id":"evt_000000000042","type":"payment.settled","projectId":"proj_1","occurredAt":"2026-11-23T08:00:00.000Z","data":{"paymentId":"pay_000000000042","endpointId":"ep_0123456789","customerId":"0x52908400098527886E0F7030069857D2E4169EE7","amount":"1.250000","currency":"USDC","network":"base","txHash":"0x88df016429689c079f3b2f6ad39fa052532c56795b733da78a91ebe6a713944b"}}"#;

/// Something that is done once for an event or a delivery.
pub struct Piece {
    /// What belongs together.
    pub group: &'static str,
    /// Its name.
    pub name: String,
    /// How many events or deliveries one call is.
    pub elements: u64,
    /// Does it.
    pub call: Box<dyn FnMut()>,
}

impl Piece {
    fn new(
        group: &'static str,
        name: impl Into<String>,
        elements: u64,
        call: impl FnMut() + 'static,
    ) -> Self {
        Self { group, name: name.into(), elements, call: Box::new(call) }
    }
}

/// All of them.
pub fn pieces() -> Vec<Piece> {
    [codec(), matching(), filters(), offsets(), lanes()].into_iter().flatten().collect()
}

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
            name: None,
            filter: None,
            suspended_reason: None,
            suspended_at: None,
            health: Box::default(),
            later: Later::default(),
            created_at: at,
            updated_at: at,
            version: 1,
            command_id: CommandId::parse("cmd_1").expect("an id"),
        }));
    }
    state
}

fn event() -> Event {
    Event::from_json(Bytes::from_static(EVENT.as_bytes())).expect("an event")
}

fn codec() -> Vec<Piece> {
    let event = event();
    let record = DeliveryRecord {
        delivery_id: DeliveryNamespace::of(&key(1)).delivery(&event.id),
        connector: key(1),
        connector_type: ConnectorType::Zapier,
        connector_created_at: None,
        event: event.clone(),
        attempts: 1,
        steps: 1,
        accepted_at: Timestamp::from_millis(0),
        first_attempt_at: None,
        deferred_since: None,
        not_before: None,
        due_at: Timestamp::from_millis(5_000),
        last_error: None,
        origin: Origin { topic: "dunmore.payments.events".into(), partition: 1, offset: 42 },
        job: None,
    };
    let text = record.to_json();
    let attempt = move || AttemptRecord {
        delivery_id: DeliveryNamespace::of(&key(1)).delivery(&event.id),
        project_id: "proj_1".into(),
        connector_id: "conn_1".into(),
        connector_type: ConnectorType::Zapier,
        event_id: "evt_000000000042".into(),
        event_type: EventType::PaymentSettled.as_str().into(),
        source: Source::Live,
        attempt: 1,
        outcome: Outcome::Delivered,
        reason: None,
        detail: None,
        status: Some(200),
        duration_ms: Some(12),
        tier: None,
        job: None,
        at: Timestamp::from_millis(1_795_000_000_000),
    };
    let attempt = attempt();
    let json = Bytes::from_static(EVENT.as_bytes());
    vec![
        Piece::new("codec", "event from JSON", 1, move || {
            drop(black_box(Event::from_json(black_box(json.clone())).expect("an event")));
        }),
        Piece::new("codec", "delivery record to JSON", 1, move || {
            drop(black_box(black_box(&record).to_json()));
        }),
        Piece::new("codec", "delivery record from JSON", 1, move || {
            drop(black_box(DeliveryRecord::from_json(black_box(&text)).expect("a record")));
        }),
        Piece::new("codec", "attempt record to JSON", 1, move || {
            drop(black_box(black_box(&attempt).to_json()));
        }),
    ]
}

/// A view on disk that holds this project, and the folder that it is in.
fn view(state: &ProjectState, keyring: &Arc<Keyring>) -> (tempfile::TempDir, View) {
    let folder = tempfile::tempdir().expect("a folder");
    let (view, _) = View::open(folder.path(), "bench", Arc::clone(keyring), BaseUrls::default())
        .expect("a view");
    let records: Vec<StateRecord> = (1..)
        .zip(state.connectors.values())
        .map(|(offset, connector)| StateRecord {
            command_offset: offset,
            commands_topic: None,
            command_id: connector.command_id.clone(),
            key: StateKey::Connector(connector.key.clone()),
            value: Some(connector.to_json()),
        })
        .collect();
    view.apply(0, &records, 1_000_000).expect("a write");
    (folder, view)
}

fn matching() -> Vec<Piece> {
    let keyring = Arc::new(Keyring::parse(&[Keyring::generate()]).expect("a key"));
    let mut pieces = Vec::new();
    for connectors in [1_u64, 1000] {
        let state = project(usize::try_from(connectors).expect("64 bits"));
        let (event, project) = (event(), key(0).project);
        let (folder, hot) = view(&state, &keyring);
        let name = format!("hot, {connectors} connectors, with delivery ids");
        pieces.push(Piece::new("match", name, connectors, move || {
            let _folder = &folder;
            let subscriptions = hot.subscriptions(black_box(&project)).expect("the view");
            for target in subscriptions.matching(event.kind) {
                black_box(target.namespace.delivery(&event.id));
            }
        }));
        let (folder, cold) = view(&state, &keyring);
        let (project, keyring) = (key(0).project, Arc::clone(&keyring));
        let name = format!("cold (read and compile), {connectors} connectors");
        pieces.push(Piece::new("match", name, connectors, move || {
            let _folder = &folder;
            let state = cold.project(black_box(&project)).expect("the view");
            drop(black_box(Subscriptions::compile(&state, &keyring, &BaseUrls::default())));
        }));
    }
    pieces
}

/// Filters on an event of the usual size, and the slowest that there may be on the largest event.
fn filters() -> Vec<Piece> {
    const AMOUNT: &str = "decimal(event.data.amount) >= decimal(\"100\")";
    let ask = |name: &str, text: &str, event: &str| {
        let (filter, event) = (Filter::compile(text).expect("a filter"), event.to_owned());
        Piece::new("filter", name, 1, move || {
            black_box(filter.passes(&Facts::of(black_box(event.as_bytes()))).expect("a verdict"));
        })
    };
    let largest = |fill: usize| {
        let items = vec!["1"; 100].join(",");
        let data = format!("\"data\":{{\"note\":\"{}\",\"list\":[{items}],", "ab".repeat(fill / 2));
        EVENT.replace("\"data\":{", &data)
    };
    let patterns: Vec<String> = ["c", "d", "e", "f"]
        .map(|end| format!("event.data.note.matches('[ab]*a[ab]{{215}}{end}')"))
        .into();
    let sum = format!("{} > 0", vec!["x"; 20].join(" + "));
    let sums = format!("event.data.list.all(x, {})", vec![sum; 6].join(" && "));
    let filters = || {
        vec![AMOUNT; 10].into_iter().map(|text| Filter::compile(text).expect("a filter")).collect()
    };
    let ten: Vec<Filter> = filters();
    vec![
        Piece::new("filter", "compile an amount", 1, || {
            drop(black_box(Filter::compile(black_box(AMOUNT)).expect("a filter")));
        }),
        ask("a type", "event.type == 'payment.settled'", EVENT),
        ask("an amount", AMOUNT, EVENT),
        ask("a pattern", "event.data.customerId.matches('^0x529[0-9a-fA-F]+$')", EVENT),
        Piece::new("filter", "an amount, ten filters of one event", 10, move || {
            let facts = Facts::of(black_box(EVENT.as_bytes()));
            for filter in &ten {
                black_box(filter.passes(&facts).expect("a verdict"));
            }
        }),
        ask("slowest: four patterns on 15 KiB", &patterns.join(" || "), &largest(15_000)),
        ask("slowest: 114 sums for each of 100 items", &sums, &largest(2)),
    ]
}

fn offsets() -> Vec<Piece> {
    let mut tracker = Tracker::new(CompletionMap::default());
    for offset in 0..500 {
        tracker.begin(offset);
    }
    let mut next = 500_i64;
    let map = CompletionMap::new(0, 2_000_000, (0..1000).map(|n| n * 2_000));
    vec![
        Piece::new("offsets", "begin and complete, 500 in flight", 1, move || {
            tracker.begin(next);
            tracker.complete(next - 500);
            next += 1;
        }),
        Piece::new("offsets", "commit with 1,000 incomplete of 2,000,000", 1, move || {
            drop(black_box(black_box(&map).encode()));
        }),
    ]
}

fn lanes() -> Vec<Piece> {
    let limits =
        LaneLimits { label: 0, same_place: false, concurrency: 16, rate: None, batch_items: 1 };
    let piece = |count: usize| {
        let keys: Vec<ConnectorKey> = (0..count).map(key).collect();
        let mut lanes: Lanes<ConnectorKey, u64> = Lanes::new(4096, 4096);
        let mut turn = 0_usize;
        let mut now = Duration::ZERO;
        Piece::new("lanes", format!("offer, start, finish over {count} lanes"), 1, move || {
            turn += 1;
            now += Duration::from_micros(10);
            let key = &keys[turn % keys.len()];
            let offer = lanes.offer(key, limits, LIVE, 1, now);
            assert!(matches!(offer, Offer::Queued));
            let start = lanes.next(now).expect("a start");
            lanes.finish(start.ticket, Report::Working, now);
        })
    };
    vec![piece(1), piece(10_000)]
}
