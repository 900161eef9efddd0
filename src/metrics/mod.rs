//! What operators see: every metric, as a method named after the fact that it counts.
//!
//! Label values come only from closed lists; no label holds a project, connector, event or
//! customer id.

mod control;
mod filters;
mod kafka;
mod lanes;
mod maker;
mod renewal;
mod view;

use std::time::Duration;

use parking_lot::Mutex;
use prometheus::{
    Encoder, Gauge, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Registry, TextEncoder,
};

pub use kafka::{ClientMetrics, ClientState, KafkaClient};
pub use lanes::LaneCounts;
pub use renewal::Renewal;

pub use filters::Filters;
use kafka::KafkaMetrics;
use lanes::LaneGauges;
use maker::Maker;

use crate::{
    connector::NoticeKind,
    delivery::{Outcome, Reason, Source},
    destination::ConnectorType,
    event::EventType,
    view::RebuildReason,
};

/// Attempts: 5 ms to 60 s.
const ATTEMPT_BUCKETS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// From the event's Kafka timestamp to delivered: 5 ms to 12 h.
const LATENCY_BUCKETS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0,
    3600.0, 10_800.0, 43_200.0,
];
/// Commands decided together: 1 to the registrar's bound.
const BATCH_BUCKETS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 256.0];
/// From a batch of commands read to the results written: 5 ms to 60 s.
const BATCH_SECONDS_BUCKETS: &[f64] = ATTEMPT_BUCKETS;
const HTTP_BUCKETS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// Why a record is no event.
const REJECTIONS: &[Reason] = &[
    Reason::Undecodable,
    Reason::InvalidEvent,
    Reason::UnknownEventType,
    Reason::MissingProject,
    Reason::EventTooLarge,
    Reason::UnknownSchema,
    Reason::InvalidRecord,
    Reason::RecordTooLarge,
    Reason::Bug,
];

type RepeatBoundSource = Box<dyn Fn() -> u64 + Send + Sync>;

/// All metrics of one instance.
pub struct Metrics {
    registry: Registry,
    events_consumed: Vec<IntCounter>,
    events_unmatched: Vec<IntCounter>,
    events_rejected: IntCounterVec,
    filters: Filters,
    deliveries: IntCounterVec,
    delivered: Vec<Vec<IntCounter>>,
    attempt_seconds: Vec<Histogram>,
    latency_seconds: Vec<Histogram>,
    retries: IntCounterVec,
    renewals: IntCounterVec,
    dead_letters: IntCounterVec,
    attempts_by_source: Vec<IntCounter>,
    steps_by_source: Vec<Vec<IntCounter>>,
    in_flight: IntGauge,
    in_flight_limit: IntGauge,
    lanes: LaneGauges,
    kafka: KafkaMetrics,
    ready: IntGauge,
    repeat_bound: IntGauge,
    repeat_bound_source: Mutex<Option<RepeatBoundSource>>,
    commands: IntCounterVec,
    notices: IntCounterVec,
    registrar_batch: Histogram,
    registrar_seconds: Histogram,
    view_connectors: IntGauge,
    connectors_suspended: IntGaugeVec,
    view_projects: IntGauge,
    view_lag: IntGauge,
    view_disk: IntGauge,
    view_rebuilds: IntCounterVec,
    view_unreadable: IntCounter,
    view_age: Gauge,
    newer_records: IntCounter,
    partitions_stalled: IntGauge,
    attempts_dropped: IntCounter,
    registry_requests: IntCounterVec,
    registry_waiting: IntGauge,
    kafka_troubles: IntGaugeVec,
    trace_exports: IntCounterVec,
    http_requests: IntCounterVec,
    http_seconds: HistogramVec,
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
            "From the event's Kafka timestamp to delivered, of all but replays.",
            LATENCY_BUCKETS,
            &["type"],
        )?;
        let attempts = make.counters(
            "dunmore_attempts_total",
            "Requests to destinations by what made them.",
            &["source"],
        )?;
        let by_source = make.counters(
            "dunmore_deliveries_by_source_total",
            "Steps of deliveries by what made them, and how they ended; replays until their end.",
            &["source", "outcome"],
        )?;
        let each_outcome = |source: &Source| -> Vec<IntCounter> {
            let counter = |outcome: &Outcome| {
                by_source.with_label_values(&[source.as_str(), outcome.as_str()])
            };
            Outcome::ALL.iter().map(counter).collect()
        };
        let each_event = |counters: &IntCounterVec| -> Vec<IntCounter> {
            EventType::ALL.iter().map(|e| counters.with_label_values(&[e.as_str()])).collect()
        };
        let each_type = |histograms: &HistogramVec| -> Vec<Histogram> {
            ConnectorType::ALL.iter().map(|t| histograms.with_label_values(&[t.as_str()])).collect()
        };
        let dead_letters = make.counters(
            "dunmore_dead_letters_total",
            "Deliveries that became dead letters.",
            &["type", "reason"],
        )?;
        let events_rejected = make.counters(
            "dunmore_events_rejected_total",
            "Records that went to the dead letters because they are no valid event.",
            &["reason"],
        )?;
        let view_rebuilds = make.counters(
            "dunmore_view_rebuilds_total",
            "Times the view was rebuilt from Kafka.",
            &["reason"],
        )?;
        let notices = make.counters(
            "dunmore_notices_total",
            "Notices of connectors' transitions that were written; one that is written again after \
             a crash counts again.",
            &["type"],
        )?;
        // A counter that appears with its first increment hides that one from rates.
        for kind in NoticeKind::ALL {
            notices.with_label_values(&[kind.as_str()]);
        }
        // The first dead letter is worth an alert.
        for (kind, reason) in ConnectorType::ALL
            .iter()
            .flat_map(|kind| Reason::ALL.iter().map(move |reason| (kind, reason)))
        {
            dead_letters.with_label_values(&[kind.as_str(), reason.as_str()]);
        }
        for reason in REJECTIONS {
            events_rejected.with_label_values(&[reason.as_str()]);
        }
        for reason in RebuildReason::ALL {
            view_rebuilds.with_label_values(&[reason.as_str()]);
        }
        for (kind, event) in ConnectorType::ALL
            .iter()
            .flat_map(|kind| EventType::ALL.iter().map(move |event| (kind, event)))
        {
            let outcome = Outcome::Dead.as_str();
            deliveries.with_label_values(&[kind.as_str(), event.as_str(), outcome]);
        }
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
            events_rejected,
            filters: Filters::new(&make)?,
            delivered,
            deliveries,
            attempt_seconds: each_type(&attempt),
            latency_seconds: each_type(&latency),
            renewals: Renewal::counters(&make)?,
            retries: make.counters(
                "dunmore_retries_total",
                "Deliveries put into a retry tier.",
                &["tier", "reason"],
            )?,
            dead_letters,
            attempts_by_source: Source::ALL
                .iter()
                .map(|source| attempts.with_label_values(&[source.as_str()]))
                .collect(),
            steps_by_source: Source::ALL.iter().map(each_outcome).collect(),
            in_flight: make.gauge(
                "dunmore_in_flight_deliveries",
                "Deliveries in memory: waiting in lanes, being sent, or being written to Kafka.",
            )?,
            in_flight_limit: make.gauge(
                "dunmore_in_flight_limit",
                "The most deliveries that may be in memory: live, retried and replayed.",
            )?,
            lanes: LaneGauges::new(&make)?,
            kafka: KafkaMetrics::new(&make)?,
            ready: make.gauge("dunmore_ready", "1 when /readyz says ready, else 0.")?,
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
            notices,
            registrar_batch: make.histogram(
                "dunmore_registrar_batch_commands",
                "How many commands were decided together.",
                BATCH_BUCKETS,
            )?,
            registrar_seconds: make.histogram(
                "dunmore_registrar_batch_seconds",
                "From a batch of commands read to its state applied and its results written.",
                BATCH_SECONDS_BUCKETS,
            )?,
            connectors_suspended: make.gauges(
                "dunmore_connectors_suspended",
                "Suspended connectors in the view, by type and reason: the HTTP status of the \
                 answer, this program's reason, or other.",
                &["type", "reason"],
            )?,
            view_connectors: make.gauge("dunmore_view_connectors", "Connectors in the view.")?,
            view_projects: make
                .gauge("dunmore_view_projects", "Projects that the view knows a tier of.")?,
            view_lag: make.gauge(
                "dunmore_view_lag_records",
                "Records of the state topic that the view has not applied yet.",
            )?,
            view_disk: make.gauge("dunmore_view_disk_bytes", "What the view takes on disk.")?,
            view_rebuilds,
            view_unreadable: make.counter(
                "dunmore_view_unreadable_records_total",
                "Records of the state topic that the view could not read and left out.",
            )?,
            view_age: make.float_gauge(
                "dunmore_view_age_seconds",
                "How long ago the view had everything that was in the state topic, of the \
                 partition that is furthest behind.",
            )?,
            newer_records: make.counter(
                "dunmore_newer_records_deferred_total",
                "Deliveries of a newer release that this one does not understand, put back into \
                 their tier.",
            )?,
            partitions_stalled: make.gauge(
                "dunmore_partitions_stalled",
                "Partitions of this instance that have something to do and do not move.",
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
            trace_exports: make.counters(
                "dunmore_trace_exports_total",
                "Batches of spans sent to the collector by result.",
                &["result"],
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
            tracing::error!(%error, "metrics cannot be written; please report this bug");
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

    /// What connectors' filters did.
    pub fn filters(&self) -> &Filters {
        &self.filters
    }

    /// A record is no valid event.
    pub fn event_rejected(&self, reason: Reason) {
        self.events_rejected.with_label_values(&[reason.as_str()]).inc();
    }

    /// A delivery was delivered, so long after the platform took the event on. How old a replayed
    /// event is says nothing about this program.
    pub fn delivered(
        &self,
        kind: ConnectorType,
        event: EventType,
        source: Source,
        latency: Duration,
    ) {
        self.delivered[kind.index()][event.index()].inc();
        self.steps_by_source[source.index()][Outcome::Delivered as usize].inc();
        if source != Source::Replay {
            self.latency_seconds[kind.index()].observe(latency.as_secs_f64());
        }
    }

    /// A step of a delivery ended otherwise.
    pub fn step(&self, kind: ConnectorType, event: EventType, source: Source, outcome: Outcome) {
        self.steps_by_source[source.index()][outcome as usize].inc();
        let labels = [kind.as_str(), event.as_str(), outcome.as_str()];
        self.deliveries.with_label_values(&labels).inc();
    }

    /// A request to a destination took so long.
    pub fn attempt(&self, kind: ConnectorType, source: Source, duration: Duration) {
        self.attempt_seconds[kind.index()].observe(duration.as_secs_f64());
        self.attempts_by_source[source.index()].inc();
    }

    /// A delivery went into a retry tier.
    pub fn retried(&self, tier: &str, reason: Reason) {
        self.retries.with_label_values(&[tier, reason.as_str()]).inc();
    }

    /// A credential was to make a new access token.
    pub fn renewal(&self, kind: ConnectorType, outcome: Renewal) {
        self.renewals.with_label_values(&[kind.as_str(), outcome.as_str()]).inc();
    }

    /// A delivery became a dead letter.
    pub fn dead(&self, kind: ConnectorType, reason: Reason) {
        self.dead_letters.with_label_values(&[kind.as_str(), reason.as_str()]).inc();
    }

    /// How many deliveries are in memory.
    pub fn set_in_flight(&self, count: usize) {
        self.in_flight.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// How many deliveries may be in memory.
    pub fn set_in_flight_limit(&self, count: usize) {
        self.in_flight_limit.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// The metrics of a Kafka client.
    pub fn kafka_client(&self, client: KafkaClient) -> ClientMetrics {
        self.kafka.client(client)
    }

    /// Whether this instance is ready.
    pub fn set_ready(&self, ready: bool) {
        self.ready.set(i64::from(ready));
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

    /// A batch of spans was sent to the collector, or refused.
    pub fn trace_export(&self, ok: bool) {
        self.trace_exports.with_label_values(&[if ok { "ok" } else { "failed" }]).inc();
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
mod tests;
