//! All destinations on a real broker, against the sandbox of the vendors: every event type arrives or is
//! skipped as the declarations say, and whatever a service answers, each delivery ends in the right place.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[expect(dead_code, reason = "other tests look at more of it")]
#[path = "support/sandbox/mod.rs"]
mod sandbox;
mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use dunmore_connectors::{
    destination::{ConnectorType as T, Shape},
    event::EventType,
    id::{ConnectorId, ConnectorKey, DeliveryId, EventId, ProjectId},
};
use sandbox::{Behaviour, Sandbox};
use serde_json::{Map, Value, json};
use support::{
    broker::broker,
    events::{TYPES, event, set_tier},
    serve::{Serve, Stage},
    wait_until,
};

const PATIENCE: Duration = Duration::from_secs(90);

/// The vendors, the service and its topics.
struct World {
    stage: Stage,
    serve: Serve,
    sandbox: Sandbox,
    // The sandbox runs on it.
    _runtime: tokio::runtime::Runtime,
}

impl World {
    fn start(tiers: &str, more: &str) -> Option<Self> {
        let broker = broker()?;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.unwrap();
        let sandbox = runtime.block_on(Sandbox::start());
        let mut settings = format!("topics.partitions = 2\n{more}\n");
        for kind in sandbox::TYPES {
            let url = sandbox.base_url(kind);
            settings.push_str(&format!("destinations.{kind}.base_url = \"{url}\"\n"));
        }
        let stage = Stage::new(&broker.bootstrap, &broker.unique_prefix(), tiers, &settings);
        let serve = stage.serve("one");
        Some(Self { stage, serve, sandbox, _runtime: runtime })
    }

    /// Creates connectors, each named after its type, and waits until deliveries know them.
    fn connect(&self, connectors: &[(&str, T, Vec<&str>)]) {
        let projects: BTreeSet<&str> = connectors.iter().map(|(project, ..)| *project).collect();
        let tiers = projects
            .iter()
            .map(|project| set_tier(&format!("cmd_{project}"), project, "enterprise"));
        let creates = connectors.iter().map(|(project, kind, event_types)| {
            json!({
                "id": format!("cmd_{project}_{kind}"), "type": "connector.create",
                "projectId": project, "connectorId": format!("conn_{kind}"),
                "connector": {"type": kind, "config": config(*kind), "eventTypes": event_types},
            })
        });
        self.stage.set_up(&tiers.chain(creates).collect::<Vec<_>>());
        wait_until("the view has all connectors", PATIENCE, || {
            let known = self.serve.metric("dunmore_view_connectors", &[]);
            known >= f64::from(u32::try_from(connectors.len()).unwrap())
        });
    }

    /// Waits until so many deliveries have ended, and tells every step of each of them.
    fn endings(&self, project: &str, count: usize) -> BTreeMap<(T, String), Vec<Step>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let steps = self.steps(project);
            let ended = steps.values().filter(|steps| steps.iter().any(Step::is_last)).count();
            if ended >= count {
                assert_eq!(ended, count, "{project}: {steps:#?}");
                return steps;
            }
            let open: Vec<_> =
                steps.iter().filter(|(_, steps)| !steps.iter().any(Step::is_last)).collect();
            assert!(Instant::now() < deadline, "{project}: {ended} of {count} ended, {open:#?}");
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    /// What was done with each delivery of a project.
    fn steps(&self, project: &str) -> BTreeMap<(T, String), Vec<Step>> {
        let mut steps: BTreeMap<(T, String), Vec<Step>> = BTreeMap::new();
        for record in self.stage.kafka.read(&self.stage.topic("deliveries.attempts")) {
            let record = record.json();
            if record["projectId"] == project {
                let text = |name: &str| record[name].as_str().unwrap_or_default().to_owned();
                let key = (text("connectorType").parse().unwrap(), text("eventId"));
                let step = Step { outcome: text("outcome"), reason: text("reason") };
                steps.entry(key).or_default().push(step);
            }
        }
        steps
    }

    /// The reasons of a project's dead letters.
    fn dead(&self, project: &str) -> BTreeMap<(T, String), String> {
        let letters = self.stage.kafka.read(&self.stage.topic("deliveries.dead"));
        let of_project = letters.iter().filter(|letter| letter.key_text() == project);
        of_project
            .map(|letter| {
                let event = letter.json()["event"]["id"].as_str().unwrap_or_default().to_owned();
                let kind = letter.header("dunmore-connector-type").parse().unwrap();
                ((kind, event), letter.header("dunmore-error-reason").to_owned())
            })
            .collect()
    }

    /// How many deliveries were asked of a service.
    fn requests(&self, kind: T) -> usize {
        let requests = self.sandbox.requests(kind.as_str());
        requests.iter().filter(|request| !request.is_setup).count()
    }
}

#[derive(Debug, PartialEq)]
struct Step {
    outcome: String,
    reason: String,
}

impl Step {
    fn is_last(&self) -> bool {
        ["delivered", "skipped", "dead", "cancelled"].contains(&self.outcome.as_str())
    }
}

fn config(kind: T) -> Map<String, Value> {
    let required = kind.spec().example_fields();
    required
        .map(|field| {
            let value = match field.shape {
                Shape::Text => Value::from(field.example),
                Shape::List => json!([field.example]),
            };
            (field.name.to_owned(), value)
        })
        .collect()
}

fn delivery_id(project: &str, kind: T, event: &str) -> String {
    let key = ConnectorKey {
        project: ProjectId::parse(project).unwrap(),
        connector: ConnectorId::parse(&format!("conn_{kind}")).unwrap(),
    };
    DeliveryId::new(&key, &EventId::parse(event).unwrap()).to_string()
}

/// A connector of each type in a project, for what it surely sends.
fn one_of_each(project: &str) -> Vec<(&str, T, Vec<&'static str>)> {
    T::ALL.iter().map(|kind| (project, *kind, vec![sure(*kind)])).collect()
}

/// An event type that a destination surely sends.
fn sure(kind: T) -> &'static str {
    match kind {
        T::Quickbooks | T::Xero => "revenue.daily_summary",
        _ => "payment.failed",
    }
}

/// One event for each connector of [`one_of_each`].
fn sure_events(project: &str, number: usize) -> Vec<Value> {
    let event = |kind: &str, name: &str| {
        let mut event = event(&format!("evt_{name}_{number}"), kind, project);
        event["data"]["customerId"] = format!("0x5{number}").into();
        event
    };
    vec![event("payment.failed", "failed"), event("revenue.daily_summary", "day")]
}

fn sure_event_id(kind: T, number: usize) -> String {
    let name = if sure(kind) == "payment.failed" { "failed" } else { "day" };
    format!("evt_{name}_{number}")
}

#[test]
fn every_event_type_arrives_everywhere_or_is_skipped() {
    let Some(world) = World::start("200ms,400ms,1s,2s", "") else { return };
    let mut connectors: Vec<(&str, T, Vec<&str>)> =
        T::ALL.iter().map(|kind| ("proj_star", *kind, vec!["*"])).collect();
    // What is named explicitly becomes more.
    connectors.push(("proj_named", T::Quickbooks, vec!["payment.settled"]));
    connectors.push(("proj_named", T::Xero, vec!["payment.settled"]));
    connectors.push(("proj_named", T::Opsgenie, TYPES.to_vec()));
    connectors.push(("proj_named", T::Salesforce, TYPES.to_vec()));
    world.connect(&connectors);
    let mut events = Vec::new();
    for project in ["proj_star", "proj_named"] {
        for (number, kind) in TYPES.iter().enumerate() {
            let mut event = event(&format!("evt_{project}_{number}"), kind, project);
            // A failed payment of nobody known is no record of a customer, and two events of one
            // customer make up one record.
            event["data"]["customerId"] = format!("0x5{number}").into();
            events.push(event);
        }
    }
    world.stage.events(&events);

    let mut expected: BTreeMap<T, BTreeSet<(String, String)>> = BTreeMap::new();
    let (mut sent, mut skipped) = (0, 0);
    for (project, count) in [("proj_star", 20 * 8), ("proj_named", 2 + 2 * 8)] {
        for ((kind, event), steps) in world.endings(project, count) {
            let number: usize = event.rsplit('_').next().unwrap().parse().unwrap();
            let event_type: EventType = TYPES[number].parse().unwrap();
            let becomes = (kind.spec().becomes)(event_type);
            let is_nothing = match project {
                "proj_star" => becomes.starts_with("nothing"),
                _ => becomes == "nothing",
            };
            let last = &steps.last().unwrap().outcome;
            let wanted = if is_nothing { "skipped" } else { "delivered" };
            assert_eq!(last, wanted, "{project} {kind} {event_type}: {becomes}: {steps:?}");
            if is_nothing {
                skipped += 1;
                continue;
            }
            sent += 1;
            let id = delivery_id(project, kind, &event);
            expected.entry(kind).or_default().insert((id, event));
        }
    }
    for &kind in T::ALL {
        let mut missing = expected.remove(&kind).unwrap();
        for accepted in world.sandbox.accepted(kind.as_str()) {
            // A service that recognises repeats does so by the delivery's id; others print the event's.
            let found = missing.iter().find(|(id, event)| match accepted.key.as_str() {
                "" => *event == accepted.event,
                key => key == id,
            });
            let found = found.cloned().unwrap_or_else(|| panic!("{kind}: {accepted:?}"));
            missing.remove(&found);
        }
        assert!(missing.is_empty(), "{kind} did not get {missing:?}");
        let refused: Vec<_> = world.sandbox.requests(kind.as_str());
        assert!(refused.iter().all(|r| r.is_setup || r.status < 300), "{kind}: {refused:?}");
    }
    assert!(world.dead("proj_star").is_empty() && world.dead("proj_named").is_empty());
    let count = |outcome| world.serve.metric("dunmore_deliveries_total", &[("outcome", outcome)]);
    assert_eq!((count("delivered"), count("skipped")), (f64::from(sent), f64::from(skipped)));
    println!("20 types, 24 connectors: {sent} delivered, {skipped} skipped, none dead");
    world.stage.wait_committed(PATIENCE);
    world.serve.stop();
}

#[test]
fn a_service_that_stumbles_gets_it_later_and_one_that_falls_does_not() {
    let Some(world) = World::start("200ms,400ms", "") else { return };
    let all: Vec<_> =
        ["proj_twice", "proj_thrice", "proj_garbage"].into_iter().flat_map(one_of_each).collect();
    world.connect(&all);

    for &kind in T::ALL {
        world.sandbox.behave(kind.as_str(), Behaviour::ServerError, 2);
    }
    world.stage.events(&sure_events("proj_twice", 1));
    for ((kind, event), steps) in world.endings("proj_twice", T::ALL.len()) {
        let outcomes: Vec<(&str, &str)> =
            steps.iter().map(|step| (&*step.outcome, &*step.reason)).collect();
        let failed = ("retry", "server_error");
        assert_eq!(outcomes, [failed, failed, ("delivered", "")], "{kind}");
        assert_eq!((world.requests(kind), &event), (3, &sure_event_id(kind, 1)), "{kind}");
        assert_eq!(world.sandbox.accepted(kind.as_str()).len(), 1, "{kind}");
    }

    world.sandbox.reset();
    for &kind in T::ALL {
        world.sandbox.behave(kind.as_str(), Behaviour::Status(500), 3);
    }
    world.stage.events(&sure_events("proj_thrice", 1));
    world.endings("proj_thrice", T::ALL.len());
    let dead = world.dead("proj_thrice");
    for &kind in T::ALL {
        assert_eq!(dead[&(kind, sure_event_id(kind, 1))], "server_error", "{kind}");
        assert_eq!(world.requests(kind), 3, "{kind}");
        assert!(world.sandbox.accepted(kind.as_str()).is_empty(), "{kind}");
    }

    world.sandbox.reset();
    for &kind in T::ALL {
        world.sandbox.behave(kind.as_str(), Behaviour::Garbage, 1);
    }
    world.stage.events(&sure_events("proj_garbage", 1));
    for ((kind, _), steps) in world.endings("proj_garbage", T::ALL.len()) {
        // These have nothing in their answers that could be checked.
        let believes = matches!(kind, T::Teams | T::Ga4 | T::Zapier | T::N8n | T::Make);
        let reasons: Vec<&str> = steps.iter().map(|step| &*step.reason).collect();
        let expected: &[&str] = if believes { &[""] } else { &["unexpected_response", ""] };
        assert_eq!(reasons, expected, "{kind}");
        assert_eq!(steps.last().unwrap().outcome, "delivered", "{kind}");
    }
    world.serve.stop();
}

#[test]
fn a_service_that_asks_to_slow_down_is_left_alone_as_long_as_it_asked() {
    let Some(world) = World::start("200ms,400ms", "") else { return };
    world.connect(&one_of_each("proj_1"));
    for &kind in T::ALL {
        world.sandbox.behave(kind.as_str(), Behaviour::RateLimited, 1);
    }
    let asked_for_long =
        [T::Amplitude, T::Pagerduty, T::Opsgenie, T::Quickbooks, T::Salesforce, T::Xero];
    let began = Instant::now();
    world.stage.events(&sure_events("proj_1", 1));
    let endings = world.endings("proj_1", T::ALL.len() - asked_for_long.len());
    for ((kind, _), steps) in endings {
        let first = &steps[0];
        let reason = if kind == T::Salesforce { "quota_exceeded" } else { "rate_limited" };
        assert_eq!((&*first.outcome, &*first.reason), ("retry", reason), "{kind}");
        let waits = asked_for_long.contains(&kind);
        let middle = &steps[1..steps.len() - usize::from(!waits)];
        let deferred = |step: &Step| step.outcome == "deferred" && step.reason == "rate_limited";
        assert!(middle.iter().all(deferred), "{kind}: {steps:?}");
        assert_eq!(steps.last().unwrap().is_last(), !waits, "{kind}: {steps:?}");
        assert_eq!(world.requests(kind), if waits { 1 } else { 2 }, "{kind}");
    }
    let seconds = began.elapsed().as_secs_f64();
    println!("14 types delivered after their pauses within {seconds:.1} s, 6 still wait");
    // What waits is in Kafka and not in memory.
    world.stage.wait_committed(PATIENCE);
    world.serve.stop();
}

#[test]
fn refused_credentials_suspend_the_connector() {
    // A bare 403 says less than a 401: once is no reason to suspend.
    const DOUBTFUL: &[T] = &[T::Ga4, T::N8n];
    let more = "delivery.max_deferred_age = \"2s\"\ndelivery.hold = \"2s\"";
    let Some(world) = World::start("200ms,400ms", more) else { return };
    world.connect(&one_of_each("proj_1"));
    for &kind in T::ALL {
        world.sandbox.behave(kind.as_str(), Behaviour::Unauthorized, 1_000);
    }
    world.stage.events(&sure_events("proj_1", 1));
    let certain: Vec<T> = T::ALL.iter().copied().filter(|kind| !DOUBTFUL.contains(kind)).collect();
    let mut reasons: BTreeMap<String, String> = BTreeMap::new();
    wait_until("every connector is suspended", PATIENCE, || {
        for record in world.stage.kafka.read(&world.stage.topic("connectors.state")) {
            let state = record.json();
            if let Some(reason) = state["suspendedReason"].as_str() {
                reasons.insert(
                    state["type"].as_str().unwrap_or_default().to_owned(),
                    reason.to_owned(),
                );
            }
        }
        reasons.len() >= certain.len()
    });
    let suspended: BTreeSet<&str> = reasons.keys().map(String::as_str).collect();
    assert_eq!(suspended, certain.iter().map(|kind| kind.as_str()).collect());
    for (kind, reason) in &reasons {
        let expected = ["unauthorized: ", "forbidden: "];
        assert!(expected.iter().any(|words| reason.starts_with(words)), "{kind}: {reason}");
    }
    let ended = world.endings("proj_1", T::ALL.len());
    assert!(ended.values().all(|steps| steps.last().unwrap().outcome == "dead"), "{ended:#?}");
    for &kind in DOUBTFUL {
        let steps = &ended[&(kind, sure_event_id(kind, 1))];
        let outcomes: Vec<&str> = steps.iter().map(|step| &*step.outcome).collect();
        assert_eq!(outcomes, ["retry", "retry", "dead"], "{kind}");
    }
    let requests = || -> Vec<usize> { certain.iter().map(|kind| world.requests(*kind)).collect() };
    let before = requests();

    // Later deliveries are put off without a request until they are too old.
    world.stage.events(&sure_events("proj_1", 2));
    let ended = world.endings("proj_1", 2 * T::ALL.len());
    for &kind in &certain {
        let steps = &ended[&(kind, sure_event_id(kind, 2))];
        let (last, others) = steps.split_last().unwrap();
        assert!(last.outcome == "dead" && others.len() >= 2, "{kind}: {steps:?}");
        assert!(others.iter().all(|step| step.outcome == "deferred"), "{kind}: {steps:?}");
        assert!(steps.iter().all(|step| step.reason == "suspended"), "{kind}: {steps:?}");
    }
    for &kind in T::ALL {
        assert!(world.sandbox.accepted(kind.as_str()).is_empty(), "{kind}");
    }
    assert_eq!(before, requests());
    world.serve.stop();
}

/// Google Analytics counts whatever it gets; it recognises only a purchase that comes again.
#[test]
fn what_would_count_twice_is_not_repeated_after_silence() {
    let more = "destinations.ga4.timeout = \"400ms\"\ndestinations.segment.timeout = \"400ms\"";
    let Some(world) = World::start("200ms,400ms", more) else { return };
    let both = vec!["payment.settled", "payment.failed"];
    world.connect(&[("proj_1", T::Ga4, both.clone()), ("proj_1", T::Segment, both)]);
    for (number, kind) in ["payment.settled", "payment.failed"].into_iter().enumerate() {
        for destination in ["ga4", "segment"] {
            world.sandbox.behave(destination, Behaviour::Hang, 1);
        }
        world.stage.events(&[event(&format!("evt_{kind}"), kind, "proj_1")]);
        world.endings("proj_1", 2 * (number + 1));
    }
    let steps = world.steps("proj_1");
    let outcomes = |kind, event: &str| {
        let steps = steps[&(kind, format!("evt_{event}"))].iter();
        steps.map(|step| (step.outcome.as_str(), step.reason.as_str())).collect::<Vec<_>>()
    };
    let repeated = [("retry", "timeout"), ("delivered", "")];
    assert_eq!(outcomes(T::Ga4, "payment.settled"), repeated);
    assert_eq!(outcomes(T::Ga4, "payment.failed"), [("dead", "timeout")]);
    assert_eq!(outcomes(T::Segment, "payment.settled"), repeated);
    assert_eq!(outcomes(T::Segment, "payment.failed"), repeated);
    assert_eq!((world.requests(T::Ga4), world.requests(T::Segment)), (3, 4));
    world.serve.stop();
}

/// The rate of a receipt's day is asked for on the way to it; what has no price is no receipt.
#[test]
fn the_books_say_what_was_paid() {
    let Some(world) = World::start("200ms,400ms", "") else { return };
    world.sandbox.fact("quickbooks", "home EUR");
    let day = vec!["revenue.daily_summary"];
    world.connect(&[("proj_1", T::Quickbooks, day.clone()), ("proj_1", T::Xero, day)]);
    let paid = [("usdc", "12.5"), ("eurc", "12.5"), ("ETH", "12.5"), ("BTC", "0.0049")];
    let events: Vec<Value> = paid
        .iter()
        .map(|(asset, amount)| {
            let mut event = event(&format!("evt_{asset}"), "revenue.daily_summary", "proj_1");
            event["data"]["currency"] = (*asset).into();
            event["data"]["revenue"] = (*amount).into();
            event
        })
        .collect();
    world.stage.events(&events);
    world.endings("proj_1", 2 * paid.len());
    let mut booked: Vec<(String, f64, f64)> = world
        .sandbox
        .accepted("quickbooks")
        .iter()
        .map(|accepted| {
            let receipt = &accepted.body;
            let code = receipt["CurrencyRef"]["value"].as_str().unwrap_or_default().to_owned();
            let figure = |name: &str| receipt[name].as_f64().unwrap_or_default();
            (code, figure("TotalAmt"), figure("HomeTotalAmt"))
        })
        .collect();
    booked.sort_by(|a, b| a.0.cmp(&b.0));
    // A dollar is worth 1 / 1.1 euros there.
    assert_eq!(booked, [("EUR".to_owned(), 12.5, 12.5), ("USD".to_owned(), 12.5, 11.36)]);
    let mut codes: Vec<String> = world
        .sandbox
        .accepted("xero")
        .iter()
        .map(|accepted| accepted.body["CurrencyCode"].as_str().unwrap_or_default().to_owned())
        .collect();
    codes.sort();
    assert_eq!(codes, ["EUR", "USD"]);
    let dead = world.dead("proj_1");
    for kind in [T::Quickbooks, T::Xero] {
        for asset in ["ETH", "BTC"] {
            assert_eq!(dead[&(kind, format!("evt_{asset}"))], "rejected", "{kind} {asset}");
        }
    }
    assert_eq!(dead.len(), 4, "{dead:?}");
    world.serve.stop();
}

#[test]
fn half_refused_batches_lose_only_what_was_refused() {
    const EVENTS: usize = 12;
    let Some(world) = World::start("200ms,400ms,1s,2s", "") else { return };
    // Zapier's only documented refusal is one of the address.
    let kinds: Vec<T> = T::ALL.iter().copied().filter(|kind| *kind != T::Zapier).collect();
    let connectors: Vec<_> =
        one_of_each("proj_1").into_iter().filter(|(_, kind, _)| kinds.contains(kind)).collect();
    world.connect(&connectors);
    for &kind in &kinds {
        // What comes while the first request is under way makes up the batch.
        world.sandbox.behave(kind.as_str(), Behaviour::Slow(Duration::from_millis(400)), 1);
        world.sandbox.behave(kind.as_str(), Behaviour::PartialFailure, 1);
    }
    let events: Vec<Value> = (0..EVENTS).flat_map(|n| sure_events("proj_1", n)).collect();
    world.stage.events(&events);
    let ended = world.endings("proj_1", kinds.len() * EVENTS);
    let dead = world.dead("proj_1");
    for &kind in &kinds {
        let of_kind = ended.iter().filter(|((k, _), _)| *k == kind);
        let delivered = of_kind.filter(|(_, s)| s.last().unwrap().outcome == "delivered").count();
        let reasons: Vec<&String> =
            dead.iter().filter(|((k, _), _)| *k == kind).map(|(_, reason)| reason).collect();
        assert_eq!(delivered + reasons.len(), EVENTS, "{kind}");
        assert!(reasons.iter().all(|reason| *reason == "rejected"), "{kind}: {reasons:?}");
        assert_eq!(world.sandbox.accepted(kind.as_str()).len(), delivered, "{kind}");
        // These refuse a batch as a whole; sent again in halves, its events are taken.
        let tells_items = !matches!(kind, T::Segment | T::Ga4);
        assert!(!tells_items || !reasons.is_empty(), "{kind}");
        let requests = world.requests(kind);
        println!("{kind}: {requests} requests, {delivered} delivered, {} dead", reasons.len());
    }
    world.serve.stop();
}

#[test]
fn ten_thousand_rows_reach_a_slow_table_in_few_requests() {
    const ROWS: usize = 10_000;
    const MAX_REQUESTS: usize = 100;
    let Some(world) = World::start("500ms,1s,2s,5s", "") else { return };
    world.connect(&[("proj_1", T::Bigquery, vec!["payment.settled"])]);
    world.sandbox.behave("bigquery", Behaviour::Slow(Duration::from_millis(300)), ROWS);
    let events: Vec<Value> = (0..ROWS)
        .map(|number| event(&format!("evt_{number}"), "payment.settled", "proj_1"))
        .collect();
    let began = Instant::now();
    world.stage.events(&events);
    wait_until("every row is there", Duration::from_secs(180), || {
        world.sandbox.accepted("bigquery").len() >= ROWS
    });
    let took = began.elapsed();
    world.stage.wait_committed(PATIENCE);
    let requests = world.requests(T::Bigquery);
    println!(
        "{ROWS} rows in {requests} requests, {:.1} s; {} deliveries put off by the full lane",
        took.as_secs_f64(),
        world.serve.metric("dunmore_deliveries_total", &[("outcome", "deferred")]),
    );
    let keys: BTreeSet<String> =
        world.sandbox.accepted("bigquery").into_iter().map(|a| a.key).collect();
    let expected: BTreeSet<String> = (0..ROWS)
        .map(|number| delivery_id("proj_1", T::Bigquery, &format!("evt_{number}")))
        .collect();
    assert!(keys == expected, "{} keys", keys.len());
    let sent: usize = world
        .sandbox
        .requests("bigquery")
        .iter()
        .filter(|request| !request.is_setup)
        .map(|request| {
            let body: Value = serde_json::from_slice(&request.body).unwrap();
            body["rows"].as_array().map_or(0, Vec::len)
        })
        .sum();
    assert_eq!(sent, ROWS, "each row is sent once");
    assert!(requests <= MAX_REQUESTS, "{requests} requests");
    world.serve.stop();
}
