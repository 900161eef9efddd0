//! A panic at each step of a record's way: it costs that record, or ends the instance with a reason.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{Router, http::StatusCode, routing::post};
use serde_json::{Value, json};

use crate::{
    config::Config,
    faults::panic_at,
    kafka::{EmbeddedBroker, Outgoing, Producer, TopicKind, Topics},
    metrics::KafkaClient,
    service::{Role, Service},
};

const PATIENCE: Duration = Duration::from_secs(60);

struct Scene {
    service: Service,
    producer: Producer,
    topics: Topics,
    arrived: Arc<AtomicUsize>,
    _broker: EmbeddedBroker,
    _folder: tempfile::TempDir,
}

impl Scene {
    async fn start() -> Self {
        let (arrived, folder) = (Arc::new(AtomicUsize::new(0)), tempfile::tempdir().unwrap());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/webhook/a", listener.local_addr().unwrap());
        let counted = Arc::clone(&arrived);
        let answer = move |body: String| async move {
            counted.fetch_add(1, Ordering::SeqCst);
            if body.contains("evt_fails") { StatusCode::BAD_GATEWAY } else { StatusCode::OK }
        };
        let app = Router::new().route("/webhook/a", post(answer));
        tokio::spawn(async move { axum::serve(listener, app).await });
        let text = format!(
            r#"
            topics.partitions = 1
            admin.listen = "127.0.0.1:0"
            data_dir = "{}"
            secrets.keys = ["k1:BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="]
            egress.allow_cidrs = ["127.0.0.0/8"]
            egress.allow_http = true
            delivery.shutdown_grace = "1s"
            "#,
            folder.path().display()
        );
        let mut config = Config::from_toml(&text).unwrap();
        let topics = config.topics();
        let broker = EmbeddedBroker::start(&topics, 1).unwrap();
        config.kafka.bootstrap_servers = Some(broker.bootstrap_servers());
        let connection = config.connection().unwrap();
        let roles = BTreeSet::from([Role::Registrar, Role::Delivery]);
        let service = Service::start(config, &roles).await.unwrap();
        service.ready().await;
        let metrics = service.metrics().kafka_client(KafkaClient::Tool);
        let producer = Producer::new(&connection, metrics).unwrap();
        let scene = Self { service, producer, topics, arrived, _broker: broker, _folder: folder };
        for command in [
            json!({"id": "cmd_1", "type": "project.set_tier", "projectId": "proj_1", "tier": "pro"}),
            json!({"id": "cmd_2", "type": "connector.create", "projectId": "proj_1",
                "connectorId": "conn_1", "connector": {"type": "n8n",
                "config": {"webhookUrl": url}, "eventTypes": ["*"]}}),
        ] {
            scene.write(TopicKind::Commands, &command).await;
        }
        scene.wait(|text| text.contains("dunmore_view_connectors 1")).await;
        scene
    }

    async fn write(&self, kind: TopicKind, value: &Value) {
        let value = value.to_string();
        let record = Outgoing {
            topic: &self.topics.name(kind),
            partition: None,
            key: b"proj_1",
            value: Some(value.as_bytes()),
            headers: Vec::new(),
        };
        self.producer.send(&record).await.unwrap();
    }

    async fn event(&self, id: &str) {
        let event = json!({"id": id, "type": "payment.settled", "projectId": "proj_1",
            "occurredAt": "2026-11-23T08:00:00.000Z", "data": {"paymentId": "pay_1",
            "endpointId": "ep_1", "customerId": "0x52", "amount": "1.25", "currency": "USDC",
            "network": "base", "txHash": "0xab"}});
        self.write(TopicKind::Events, &event).await;
    }

    async fn wait(&self, holds: impl Fn(&str) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !holds(&self.service.metrics().render()) {
            assert!(Instant::now() < until, "{}", self.service.metrics().render());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// The sum of a metric over the series with this text in their labels.
fn sum(text: &str, name: &str, label: &str) -> usize {
    let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).sum()
}

/// Dead letters of a panic: of records, and of deliveries.
fn bugs(text: &str) -> usize {
    let label = "reason=\"bug\"";
    sum(text, "dunmore_events_rejected_total", label)
        + sum(text, "dunmore_dead_letters_total", label)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_costs_one_record_or_ends_the_instance_with_a_reason() {
    let scene = Scene::start().await;
    for (number, place) in
        ["decode", "match", "confirm", "skip", "build", "judge"].into_iter().enumerate()
    {
        panic_at(place);
        scene.event(&format!("evt_{place}")).await;
        scene.wait(|text| bugs(text) == number + 1).await;
        let before = scene.arrived.load(Ordering::SeqCst);
        scene.event(&format!("evt_after_{place}")).await;
        let until = Instant::now() + PATIENCE;
        while scene.arrived.load(Ordering::SeqCst) == before {
            assert!(Instant::now() < until, "nothing is delivered after a panic in {place}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    assert_eq!(
        tokio::time::timeout(Duration::ZERO, scene.service.failed()).await.ok(),
        None,
        "it goes on"
    );
    // What cannot be written cannot be completed: only a restart reads it again.
    panic_at("write");
    scene.event("evt_fails").await;
    let why = tokio::time::timeout(PATIENCE, scene.service.failed()).await.unwrap();
    assert!(why.contains("writing an outcome"), "{why}");
    scene.service.stop().await;
}
