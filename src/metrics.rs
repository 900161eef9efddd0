//! What operators see: every metric, as a method named after the fact that it counts.
//!
//! Label values come only from closed lists; no label holds a project, connector, event or
//! customer id.

use std::time::Duration;

use parking_lot::Mutex;
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::{
    delivery::{Outcome, Reason, Source},
    destination::ConnectorType,
    event::EventType,
    kafka::{Trouble, TroubleKind},
};

/// Attempts: 5 ms to 60 s.
const ATTEMPT_BUCKETS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// From the event's Kafka timestamp to delivered: 5 ms to 12 h.
const LATENCY_BUCKETS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0,
    3600.0, 10_800.0, 43_200.0,
];
const HTTP_BUCKETS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

type RepeatBoundSource = Box<dyn Fn() -> u64 + Send + Sync>;

/// All metrics of one instance.
pub struct Metrics {
    registry: Registry,
    events_consumed: Vec<IntCounter>,
    events_unmatched: Vec<IntCounter>,
    events_rejected: IntCounterVec,
    deliveries: IntCounterVec,
    delivered: Vec<Vec<IntCounter>>,
    attempt_seconds: Vec<Histogram>,
    latency_seconds: Vec<Histogram>,
    retries: IntCounterVec,
    dead_letters: IntCounterVec,
    attempts_by_source: IntCounterVec,
    in_flight: IntGauge,
    lanes: IntGaugeVec,
    circuits_open: IntGaugeVec,
    consumer_lag: IntGaugeVec,
    commits: IntCounterVec,
    rebalances: IntCounter,
    repeat_bound: IntGauge,
    repeat_bound_source: Mutex<Option<RepeatBoundSource>>,
    commands: IntCounterVec,
    view_connectors: IntGauge,
    view_projects: IntGauge,
    view_lag: IntGauge,
    view_rebuilds: IntCounterVec,
    view_unreadable: IntCounter,
    kafka_errors: IntCounterVec,
    attempts_dropped: IntCounter,
    registry_requests: IntCounterVec,
    registry_waiting: IntGauge,
    kafka_troubles: IntGaugeVec,
    http_requests: IntCounterVec,
    http_seconds: HistogramVec,
}

/// Makes the metrics and registers them. The names and labels are constants, so the library's
/// refusals would be mistakes in this file, which every start of the program would show.
struct Maker {
    registry: Registry,
}

impl Maker {
    fn add<C: prometheus::core::Collector + Clone + 'static>(
        &self,
        made: prometheus::Result<C>,
    ) -> prometheus::Result<C> {
        let collector = made?;
        self.registry.register(Box::new(collector.clone()))?;
        Ok(collector)
    }

    fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<IntCounterVec> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.add(IntCounter::new(name, help))
    }

    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.add(IntGauge::new(name, help))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn histograms(
        &self,
        name: &str,
        help: &str,
        buckets: &[f64],
        labels: &[&str],
    ) -> prometheus::Result<HistogramVec> {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.add(HistogramVec::new(options, labels))
    }
}

impl Metrics {
    /// Fresh metrics.
    #[expect(clippy::too_many_lines, reason = "one list of all metrics")]
    pub fn new() -> prometheus::Result<Self> {
        let make = Maker { registry: Registry::new() };
        make.registry
            .register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        let build = make.gauges(
            "dunmore_build_info",
            "Always 1; the labels tell what runs.",
            &["version", "revision"],
        )?;
        let revision = option_env!("DUNMORE_BUILD_REVISION").unwrap_or("unknown");
        build.with_label_values(&[env!("CARGO_PKG_VERSION"), revision]).set(1);

        let consumed = make.counters(
            "dunmore_events_consumed_total",
            "Payment events read and understood.",
            &["event_type"],
        )?;
        let unmatched = make.counters(
            "dunmore_events_unmatched_total",
            "Payment events that no connector subscribes to.",
            &["event_type"],
        )?;
        let deliveries = make.counters(
            "dunmore_deliveries_total",
            "Steps of deliveries by how they ended.",
            &["type", "event_type", "outcome"],
        )?;
        let attempt = make.histograms(
            "dunmore_delivery_attempt_seconds",
            "How long a request to a destination took.",
            ATTEMPT_BUCKETS,
            &["type"],
        )?;
        let latency = make.histograms(
            "dunmore_delivery_latency_seconds",
            "From the event's Kafka timestamp to delivered.",
            LATENCY_BUCKETS,
            &["type"],
        )?;
        let each_event = |counters: &IntCounterVec| -> Vec<IntCounter> {
            EventType::ALL.iter().map(|e| counters.with_label_values(&[e.as_str()])).collect()
        };
        let each_type = |histograms: &HistogramVec| -> Vec<Histogram> {
            ConnectorType::ALL.iter().map(|t| histograms.with_label_values(&[t.as_str()])).collect()
        };
        let delivered = ConnectorType::ALL
            .iter()
            .map(|t| {
                let outcome = Outcome::Delivered.as_str();
                let counter = |e: &EventType| {
                    deliveries.with_label_values(&[t.as_str(), e.as_str(), outcome])
                };
                EventType::ALL.iter().map(counter).collect()
            })
            .collect();
        Ok(Self {
            events_consumed: each_event(&consumed),
            events_unmatched: each_event(&unmatched),
            events_rejected: make.counters(
                "dunmore_events_rejected_total",
                "Records that went to the dead letters because they are no valid event.",
                &["reason"],
            )?,
            delivered,
            deliveries,
            attempt_seconds: each_type(&attempt),
            latency_seconds: each_type(&latency),
            retries: make.counters(
                "dunmore_retries_total",
                "Deliveries put into a retry tier.",
                &["tier", "reason"],
            )?,
            dead_letters: make.counters(
                "dunmore_dead_letters_total",
                "Deliveries that became dead letters.",
                &["type", "reason"],
            )?,
            attempts_by_source: make.counters(
                "dunmore_attempts_total",
                "Requests to destinations by what made them.",
                &["source"],
            )?,
            in_flight: make.gauge(
                "dunmore_in_flight_deliveries",
                "Deliveries in memory: waiting in lanes, being sent, or being written to Kafka.",
            )?,
            lanes: make.gauges("dunmore_lanes", "Lanes, one per connector in use.", &["type"])?,
            circuits_open: make.gauges(
                "dunmore_circuits_open",
                "Lanes whose destination is given a rest.",
                &["type"],
            )?,
            consumer_lag: make.gauges(
                "dunmore_consumer_lag_records",
                "Records not read yet, of the partitions that this instance owns.",
                &["topic", "partition"],
            )?,
            commits: make.counters(
                "dunmore_commits_total",
                "Offset commits by result.",
                &["result"],
            )?,
            rebalances: make.counter(
                "dunmore_rebalances_total",
                "Assignments and revocations of partitions.",
            )?,
            repeat_bound: make.gauge(
                "dunmore_repeat_bound_records",
                "Records that a crash now would repeat at most: in flight plus completed since the \
                 last acknowledged commit.",
            )?,
            commands: make.counters(
                "dunmore_commands_total",
                "Connector commands by outcome.",
                &["command", "outcome"],
            )?,
            view_connectors: make.gauge("dunmore_view_connectors", "Connectors in the view.")?,
            view_projects: make
                .gauge("dunmore_view_projects", "Projects that the view knows a tier of.")?,
            view_lag: make.gauge(
                "dunmore_view_lag_records",
                "Records of the state topic that the view has not applied yet.",
            )?,
            view_rebuilds: make.counters(
                "dunmore_view_rebuilds_total",
                "Times the view was rebuilt from Kafka.",
                &["reason"],
            )?,
            view_unreadable: make.counter(
                "dunmore_view_unreadable_records_total",
                "Records of the state topic that the view could not read and left out.",
            )?,
            kafka_errors: make.counters(
                "dunmore_kafka_errors_total",
                "Errors that the Kafka client reported.",
                &["code"],
            )?,
            registry_requests: make.counters(
                "dunmore_schema_registry_requests_total",
                "Requests to the schema registry by what came of them.",
                &["outcome"],
            )?,
            registry_waiting: make.gauge(
                "dunmore_schema_registry_waiting",
                "Readers that wait for a schema while the registry does not answer.",
            )?,
            attempts_dropped: make.counter(
                "dunmore_attempt_records_dropped_total",
                "Attempt records that were not written because Kafka could not keep up.",
            )?,
            kafka_troubles: make.gauges(
                "dunmore_kafka_troubles",
                "What is wrong with the cluster at present, by kind; /readyz tells it in words.",
                &["kind"],
            )?,
            http_requests: make.counters(
                "dunmore_http_requests_total",
                "Requests to this program.",
                &["method", "route", "status"],
            )?,
            http_seconds: make.histograms(
                "dunmore_http_request_seconds",
                "How long requests to this program took.",
                HTTP_BUCKETS,
                &["method", "route", "status"],
            )?,
            repeat_bound_source: Mutex::default(),
            registry: make.registry,
        })
    }

    /// Where the repeat bound is asked for. It changes with every record, so it is worked out when
    /// it is read.
    pub fn repeat_bound_from(&self, source: impl Fn() -> u64 + Send + Sync + 'static) {
        *self.repeat_bound_source.lock() = Some(Box::new(source));
    }

    /// The text that Prometheus reads.
    pub fn render(&self) -> String {
        if let Some(source) = &*self.repeat_bound_source.lock() {
            self.repeat_bound.set(i64::try_from(source()).unwrap_or(i64::MAX));
        }
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics cannot be written");
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// An event was read and understood.
    pub fn event_consumed(&self, kind: EventType) {
        self.events_consumed[kind.index()].inc();
    }

    /// No connector subscribes to an event.
    pub fn event_unmatched(&self, kind: EventType) {
        self.events_unmatched[kind.index()].inc();
    }

    /// A record is no valid event.
    pub fn event_rejected(&self, reason: Reason) {
        self.events_rejected.with_label_values(&[reason.as_str()]).inc();
    }

    /// A delivery was delivered, so long after the platform took the event on.
    pub fn delivered(&self, kind: ConnectorType, event: EventType, latency: Duration) {
        self.delivered[kind.index()][event.index()].inc();
        self.latency_seconds[kind.index()].observe(latency.as_secs_f64());
    }

    /// A step of a delivery ended otherwise.
    pub fn step(&self, kind: ConnectorType, event: EventType, outcome: Outcome) {
        let labels = [kind.as_str(), event.as_str(), outcome.as_str()];
        self.deliveries.with_label_values(&labels).inc();
    }

    /// A request to a destination took so long.
    pub fn attempt(&self, kind: ConnectorType, source: Source, duration: Duration) {
        self.attempt_seconds[kind.index()].observe(duration.as_secs_f64());
        self.attempts_by_source.with_label_values(&[source.as_str()]).inc();
    }

    /// A delivery went into a retry tier.
    pub fn retried(&self, tier: &str, reason: Reason) {
        self.retries.with_label_values(&[tier, reason.as_str()]).inc();
    }

    /// A delivery became a dead letter.
    pub fn dead(&self, kind: ConnectorType, reason: Reason) {
        self.dead_letters.with_label_values(&[kind.as_str(), reason.as_str()]).inc();
    }

    /// How many deliveries are in memory.
    pub fn set_in_flight(&self, count: usize) {
        self.in_flight.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// How many lanes there are of each type, and how many of them have an open circuit.
    pub fn set_lanes(&self, counts: &[(usize, usize)]) {
        for (kind, (lanes, open)) in ConnectorType::ALL.iter().zip(counts) {
            let label = &[kind.as_str()];
            self.lanes.with_label_values(label).set(i64::try_from(*lanes).unwrap_or(i64::MAX));
            let open = i64::try_from(*open).unwrap_or(i64::MAX);
            self.circuits_open.with_label_values(label).set(open);
        }
    }

    /// A partition's lag; `None` when the partition is not ours any more.
    pub fn set_lag(&self, topic: &str, partition: i32, records: Option<i64>) {
        let partition = partition.to_string();
        match records {
            Some(records) => self.consumer_lag.with_label_values(&[topic, &partition]).set(records),
            // A series of a partition that somebody else owns would stand still for ever.
            None => {
                let _ = self.consumer_lag.remove_label_values(&[topic, &partition]);
            }
        }
    }

    /// A commit was acknowledged, or failed.
    pub fn committed(&self, ok: bool) {
        self.commits.with_label_values(&[if ok { "ok" } else { "failed" }]).inc();
    }

    /// Partitions were assigned or revoked.
    pub fn rebalanced(&self) {
        self.rebalances.inc();
    }

    /// A command was decided.
    pub fn command(&self, name: &str, accepted: bool) {
        let outcome = if accepted { "accepted" } else { "rejected" };
        self.commands.with_label_values(&[name, outcome]).inc();
    }

    /// How much the view holds.
    pub fn set_view(&self, connectors: usize, projects: usize) {
        self.view_connectors.set(i64::try_from(connectors).unwrap_or(i64::MAX));
        self.view_projects.set(i64::try_from(projects).unwrap_or(i64::MAX));
    }

    /// How far the view is behind its topic.
    pub fn set_view_lag(&self, records: i64) {
        self.view_lag.set(records);
    }

    /// What is wrong with the cluster at present.
    pub fn set_kafka_troubles(&self, troubles: &[Trouble]) {
        for kind in TroubleKind::ALL {
            let count = troubles.iter().filter(|trouble| trouble.kind == *kind).count();
            let gauge = self.kafka_troubles.with_label_values(&[kind.as_str()]);
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// The view is rebuilt from Kafka.
    pub fn view_rebuilt(&self, reason: &str) {
        self.view_rebuilds.with_label_values(&[reason]).inc();
    }

    /// The view left out records that it could not read.
    pub fn view_unreadable(&self, count: usize) {
        self.view_unreadable.inc_by(count as u64);
    }

    /// The Kafka client reported an error.
    pub fn kafka_error(&self, code: &str) {
        self.kafka_errors.with_label_values(&[code]).inc();
    }

    /// The counter of the Kafka client's errors, for the producers.
    pub fn kafka_errors(&self) -> IntCounterVec {
        self.kafka_errors.clone()
    }

    /// The counter of attempt records that were not written.
    pub fn attempts_dropped(&self) -> IntCounter {
        self.attempts_dropped.clone()
    }

    /// The schema registry was asked.
    pub fn registry_request(&self, outcome: &str) {
        self.registry_requests.with_label_values(&[outcome]).inc();
    }

    /// So many readers wait for the schema registry.
    pub fn set_registry_waiting(&self, count: usize) {
        self.registry_waiting.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A request to this program was answered.
    pub fn http(&self, method: &str, route: &str, status: u16, duration: Duration) {
        let status = status.to_string();
        // Anybody may make up a method.
        let known = ["GET", "POST", "PATCH", "DELETE", "PUT", "HEAD", "OPTIONS"];
        let method = known.into_iter().find(|known| *known == method).unwrap_or("other");
        let labels = [method, route, status.as_str()];
        self.http_requests.with_label_values(&labels).inc();
        self.http_seconds.with_label_values(&labels).observe(duration.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_shows_what_was_counted() {
        let metrics = Metrics::new().unwrap();
        metrics.event_consumed(EventType::PaymentSettled);
        let (slack, settled) = (ConnectorType::Slack, EventType::PaymentSettled);
        metrics.delivered(slack, settled, Duration::from_millis(7));
        metrics.step(slack, settled, Outcome::Retry);
        metrics.set_lag("t", 1, Some(5));
        let text = metrics.render();
        for line in [
            "dunmore_events_consumed_total{event_type=\"payment.settled\"} 1",
            "dunmore_deliveries_total{event_type=\"payment.settled\",outcome=\"delivered\",type=\"slack\"} 1",
            "dunmore_consumer_lag_records{partition=\"1\",topic=\"t\"} 5",
            "dunmore_delivery_latency_seconds_bucket{type=\"slack\",le=\"0.01\"} 1",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        metrics.set_lag("t", 1, None);
        assert!(!metrics.render().contains("dunmore_consumer_lag_records{"));
    }
}
