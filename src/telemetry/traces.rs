//! Traces: the way of an event from its producer's record through match and attempt to the
//! destination, exported over OTLP.
//!
//! Spans are made here and not by the logging library: with tracing off nothing of it is on the way
//! of an event, and with it on only what the producer sampled costs anything.

use std::{borrow::Cow, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use opentelemetry::{
    Context, KeyValue,
    propagation::{Extractor, TextMapPropagator as _},
    trace::{Span as _, SpanKind, Status, Tracer as _, TracerProvider as _},
};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracer, SdkTracerProvider, Span},
};
use url::Url;

use crate::{
    delivery::Source,
    destination::{ConnectorType, Item, MAX_RESPONSE_BYTES, Request},
    event::Event,
    id::ConnectorKey,
    metrics::Metrics,
    outbound::OperatorClient,
};

const SERVICE: &str = "dunmore-connectors";
/// How long the collector may take to answer.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes spans and sends them to a collector.
pub struct Traces {
    tracer: SdkTracer,
    provider: SdkTracerProvider,
    propagator: TraceContextPropagator,
}

/// A span under way. Dropping it ends it.
pub struct Step(Span);

/// What an attempt belongs to.
#[derive(Clone, Copy)]
pub struct Attempt<'a> {
    /// The delivery.
    pub item: &'a Item<'a>,
    /// The connector.
    pub connector: &'a ConnectorKey,
    /// Its type.
    pub kind: ConnectorType,
    /// What made this program deliver.
    pub source: Source,
    /// How many deliveries share the request.
    pub batch: usize,
}

impl Traces {
    /// Sends to the collector at this base URL. `ratio` is the share of traces to begin for events
    /// that bring none; for all others the producer's decision holds.
    pub fn start(endpoint: &Url, ratio: f64, metrics: Arc<Metrics>) -> Result<Arc<Self>, String> {
        let wrong = |error: &dyn std::fmt::Display| format!("telemetry.otlp_endpoint: {error}");
        let runtime = tokio::runtime::Handle::current();
        let client = Watched { client: OperatorClient::new(None)?, runtime, metrics };
        let path = format!("{}/v1/traces", endpoint.as_str().trim_end_matches('/'));
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_endpoint(path)
            .with_timeout(EXPORT_TIMEOUT)
            .build()
            .map_err(|error| wrong(&error))?;
        let resource = Resource::builder()
            .with_service_name(SERVICE)
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio)));
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_sampler(sampler)
            .with_resource(resource)
            .build();
        let tracer = provider.tracer(SERVICE);
        Ok(Arc::new(Self { tracer, provider, propagator: TraceContextPropagator::new() }))
    }

    /// An event is taken up; `None` when its trace is not sampled.
    pub fn event(
        &self,
        parent: Option<&str>,
        topic: &str,
        (partition, offset): (i32, i64),
        event: &Event,
    ) -> Option<Step> {
        let mut step = self.step(parent, "process payment event".into(), SpanKind::Consumer)?;
        step.0.set_attributes([
            KeyValue::new("messaging.system", "kafka"),
            KeyValue::new("messaging.operation.type", "process"),
            KeyValue::new("messaging.destination.name", topic.to_owned()),
            KeyValue::new("messaging.destination.partition.id", partition.to_string()),
            KeyValue::new("messaging.kafka.offset", offset),
            KeyValue::new("dunmore.event.id", event.id.as_str().to_owned()),
            KeyValue::new("dunmore.event.type", event.kind.as_str()),
            KeyValue::new("dunmore.project.id", event.project.as_str().to_owned()),
        ]);
        Some(step)
    }

    /// A request is made for a delivery; `None` when its trace is not sampled.
    pub fn attempt(&self, parent: Option<&str>, attempt: Attempt<'_>) -> Option<Step> {
        let name = format!("deliver {}", attempt.kind);
        let mut step = self.step(parent, name.into(), SpanKind::Client)?;
        let item = attempt.item;
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        step.0.set_attributes([
            KeyValue::new("dunmore.connector.type", attempt.kind.as_str()),
            KeyValue::new("dunmore.connector.id", attempt.connector.connector.as_str().to_owned()),
            KeyValue::new("dunmore.project.id", attempt.connector.project.as_str().to_owned()),
            KeyValue::new("dunmore.event.id", item.event.id.as_str().to_owned()),
            KeyValue::new("dunmore.event.type", item.event.kind.as_str()),
            KeyValue::new("dunmore.delivery.id", item.delivery_id.to_string()),
            KeyValue::new("dunmore.attempt", i64::from(item.attempt)),
            KeyValue::new("dunmore.source", attempt.source.as_str()),
            KeyValue::new("messaging.batch.message_count", number(attempt.batch)),
        ]);
        Some(step)
    }

    fn step(&self, parent: Option<&str>, name: Cow<'static, str>, kind: SpanKind) -> Option<Step> {
        let context = match parent {
            Some(text) => self.propagator.extract_with_context(&Context::new(), &Carried(text)),
            None => Context::new(),
        };
        let builder = self.tracer.span_builder(name).with_kind(kind);
        let span = builder.start_with_context(&self.tracer, &context);
        span.span_context().is_sampled().then_some(Step(span))
    }

    /// Sends what is left, and stops.
    pub async fn stopped(self: Arc<Self>) {
        let stopped = tokio::task::spawn_blocking(move || {
            self.provider.shutdown_with_timeout(EXPORT_TIMEOUT).map_err(|e| e.to_string())
        });
        if let Ok(Err(error)) = stopped.await {
            tracing::warn!(error, "the last spans did not reach the collector");
        }
    }
}

impl Step {
    /// The `traceparent` of whatever follows from this step.
    pub fn traceparent(&self) -> String {
        let context = self.0.span_context();
        let (trace, span) = (context.trace_id(), context.span_id());
        format!("00-{trace}-{span}-{:02x}", context.trace_flags().to_u8())
    }

    /// How many connectors an event goes to.
    pub fn matched(&mut self, connectors: usize) {
        let connectors = i64::try_from(connectors).unwrap_or(i64::MAX);
        self.0.set_attribute(KeyValue::new("dunmore.connectors", connectors));
    }

    /// An attempt was judged: the status of the answer if there was one, and why it failed if so.
    pub fn judged(mut self, status: Option<u16>, failure: Option<&'static str>) {
        if let Some(status) = status {
            self.0.set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
        }
        if let Some(reason) = failure {
            self.0.set_attribute(KeyValue::new("error.type", reason));
            self.0.set_status(Status::error(reason));
        }
    }
}

/// A `traceparent` as a record carries it.
struct Carried<'a>(&'a str);

impl Extractor for Carried<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        (key == "traceparent").then_some(self.0)
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent"]
    }
}

/// The exporter's way to the collector, which shows in the metrics.
struct Watched {
    client: OperatorClient,
    runtime: tokio::runtime::Handle,
    metrics: Arc<Metrics>,
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watched")
    }
}

impl Watched {
    async fn post(
        &self,
        request: http::Request<Bytes>,
    ) -> Result<http::Response<Bytes>, HttpError> {
        let (head, body) = request.into_parts();
        let url = Url::parse(&head.uri.to_string())?;
        let headers = head.headers.into_iter().filter_map(|(name, value)| Some((name?, value)));
        let request = Request { method: head.method, url, headers: headers.collect(), body };
        let client = self.client.clone();
        // The exporter waits on a thread of its own, where the client finds no runtime.
        let sending = self
            .runtime
            .spawn(async move { client.send(request, EXPORT_TIMEOUT, MAX_RESPONSE_BYTES).await });
        let response = sending.await??;
        let mut answer = http::Response::new(response.body);
        *answer.status_mut() = http::StatusCode::from_u16(response.status)?;
        *answer.headers_mut() = response.headers;
        Ok(answer)
    }
}

#[async_trait]
impl HttpClient for Watched {
    async fn send_bytes(
        &self,
        request: http::Request<Bytes>,
    ) -> Result<http::Response<Bytes>, HttpError> {
        let answer = self.post(request).await;
        let ok = answer.as_ref().is_ok_and(|answer| answer.status().is_success());
        self.metrics.trace_export(ok);
        match &answer {
            Ok(answer) if !ok => {
                tracing::warn!(status = answer.status().as_u16(), "the collector refused spans");
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "spans did not reach the collector"),
        }
        answer
    }
}
