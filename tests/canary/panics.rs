//! A destination whose code panics with a secret in the text of the panic.

use std::{
    cell::Cell,
    panic,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use dunmore_connectors::{
    clock::Timestamp,
    delivery::{History, Origin, Source, Verdict},
    destination::{ConnectorType, Destination, Item, Request, Response},
    event::{Event, EventTypes},
    id::{ConnectorKey, DeliveryNamespace},
    kafka::{
        Assigned, Connection, GroupConsumer, GroupEvents, GroupOptions, Partition, TopicKind,
        Topics,
    },
    lane::Patience,
    metrics::KafkaClient,
    offsets::Begin,
    pipeline::{Delivery, RecordWork, test_send},
    redact::Secrets,
    service::Service,
    telemetry,
    view::Target,
};

use crate::{event, value_of};

/// Panics that [`deliver`] causes.
pub const PANICS: usize = 4;

thread_local! {
    static PANICKING: Cell<bool> = const { Cell::new(false) };
}

#[derive(Debug)]
struct Panicking {
    url: String,
    in_build: bool,
}

impl Panicking {
    fn panic() -> ! {
        let field = ConnectorType::Slack.field("webhookUrl").unwrap();
        PANICKING.set(true);
        panic!("cannot post to {}", value_of(ConnectorType::Slack, field));
    }
}

impl Destination for Panicking {
    fn build(&self, item: &Item<'_>) -> Result<Request, Verdict> {
        if self.in_build {
            Self::panic();
        }
        Ok(Request::post_json(self.url.parse().unwrap(), item.event.json.clone()))
    }

    fn judge(&self, _: &Item<'_>, _: &Response) -> Verdict {
        Self::panic()
    }
}

/// Installs the program's hook for these panics; a failed assertion still tells what failed.
pub fn hide() {
    let own = panic::take_hook();
    telemetry::keep_panics_quiet();
    let quiet = panic::take_hook();
    panic::set_hook(Box::new(move |panicked| {
        let place = panicked.location().map_or("", |place| place.file());
        if place.ends_with("canary/panics.rs") && PANICKING.get() {
            quiet(panicked);
        } else {
            own(panicked);
        }
    }));
}

/// Keeps the partitions that it is given.
#[derive(Default)]
struct Keeping(Mutex<Vec<Assigned>>);

impl GroupEvents for Keeping {
    fn assigned(&self, assigned: Assigned) {
        self.0.lock().unwrap().push(assigned);
    }

    fn released(&self, _: &[Arc<Partition>]) {}
}

/// Hands deliveries of such a destination to the service's lanes, and sends trials of it; returns
/// when the deliveries are dead letters.
pub async fn deliver(
    service: &Service,
    connection: &Connection,
    topics: &Topics,
    connector: &str,
    url: &str,
) {
    let keeping = Arc::new(Keeping::default());
    let events = topics.name(TopicKind::Events);
    let options = GroupOptions {
        group: format!("{events}.panics"),
        topics: vec![events.clone()],
        revoke_timeout: Duration::from_secs(1),
        metrics: service.metrics().kafka_client(KafkaClient::Events),
    };
    let group = GroupConsumer::start(connection, &options, Arc::clone(&keeping) as _).unwrap();
    while keeping.0.lock().unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let partition = Arc::clone(&keeping.0.lock().unwrap()[0].partition);
    let key =
        ConnectorKey { project: "proj_1".parse().unwrap(), connector: connector.parse().unwrap() };
    for (offset, in_build) in [(0, true), (1, false)] {
        let target = Arc::new(Target {
            key: key.clone(),
            kind: ConnectorType::Slack,
            version: i64::MAX,
            event_types: EventTypes::All,
            filter: None,
            is_active: true,
            created_at: service.view().connector(&key).unwrap().unwrap().created_at,
            suspended: None,
            is_failing: false,
            namespace: DeliveryNamespace::of(&key),
            destination: Ok(Box::new(Panicking { url: url.to_owned(), in_build })),
            secrets: Secrets::new(Vec::new()),
            credential: None,
            trusted: true,
            setup: parking_lot::Mutex::new(None),
        });
        let number = 900 + u32::from(in_build);
        let event = Event::from_json(Bytes::from(event(number).to_string())).unwrap();
        let id = target.namespace.delivery(&event.id);
        let judged = test_send(service.dispatcher().unwrap(), &target, &event, id).await;
        assert!(format!("{:?}", judged.verdict).contains("Bug"), "{judged:?}");
        assert!(matches!(partition.begin(offset).await, Some(Begin::Work)));
        let work = RecordWork::shares(Arc::clone(&partition), offset, 1, None).remove(0);
        let delivery = Delivery {
            target,
            event: Arc::new(event),
            id,
            source: Source::Live,
            accepted_at: Timestamp::from_millis(1_795_000_000_000),
            history: History::default(),
            origin: Origin { topic: events.as_str().into(), partition: 0, offset },
            job: None,
            traceparent: None,
            work,
            permit: None,
        };
        let dispatcher = service.dispatcher().unwrap();
        dispatcher.offer(delivery, &mut Patience::new(dispatcher.moment())).await;
        let dead = format!("reason=\"bug\",type=\"slack\"}} {}", offset + 1);
        let until = Instant::now() + Duration::from_secs(20);
        while !service.metrics().render().contains(&dead) {
            assert!(Instant::now() < until, "no dead letter of a panic");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    assert!(group.stopped(Instant::now() + Duration::from_secs(20)).await);
}
