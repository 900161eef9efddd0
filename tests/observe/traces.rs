//! Traces: a stand-in of a collector receives one trace from the producer to the destination.

use std::{collections::BTreeMap, time::Duration};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    trace::v1::{Span, span::SpanKind},
};
use prost::Message as _;
use serde_json::Value;

use crate::support::{
    broker::broker,
    events::{create, event, set_tier},
    kafka::Write,
    serve::Stage,
    sink::{Reply, Sink},
    wait_for, wait_until,
};

const PATIENCE: Duration = Duration::from_secs(30);
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PRODUCER: &str = "00f067aa0ba902b7";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Every span that the collector has got.
fn spans(collector: &Sink) -> Vec<Span> {
    collector
        .hits_on("/v1/traces")
        .iter()
        .map(|hit| ExportTraceServiceRequest::decode(hit.body.clone()).unwrap())
        .flat_map(|request| request.resource_spans)
        .flat_map(|resource| resource.scope_spans)
        .flat_map(|scope| scope.spans)
        .collect()
}

fn attributes(span: &Span) -> BTreeMap<String, String> {
    span.attributes.iter().map(|pair| (pair.key.clone(), format!("{:?}", pair.value))).collect()
}

#[test]
fn one_trace_leads_from_the_producer_to_the_destination() {
    let Some(broker) = broker() else { return };
    let (sink, collector) = (Sink::start(), Sink::start());
    let more = format!("telemetry.otlp_endpoint = \"{}\"", collector.url("/"));
    let stage = Stage::new(&broker.bootstrap, &broker.unique_prefix(), "1s", &more);
    let serve = stage.serve("one");
    sink.script("/webhook/flaky", &[Reply::Status(503)], Reply::Status(200));
    let url = sink.url("/webhook/flaky");
    stage.set_up(&[
        set_tier("cmd_1", "proj_1", "pro"),
        create("cmd_2", "proj_1", "conn_1", "n8n", &url, &["payment.settled"]),
    ]);
    let send = |id: &str, traceparent: &str| {
        let value = event(id, "payment.settled", "proj_1").to_string();
        let mut record = Write::new("proj_1", value);
        record.headers.push(("traceparent".to_owned(), traceparent.to_owned()));
        stage.kafka.write(&stage.topic("payments.events"), [record]);
    };
    send("evt_sampled", &format!("00-{TRACE}-{PRODUCER}-01"));
    wait_until("it is delivered at the second attempt", PATIENCE, || sink.count() == 2);
    // The producer decided against this one: it is passed on as it came.
    let unsampled = format!("00-a{}-{PRODUCER}-00", &TRACE[1..]);
    send("evt_unsampled", &unsampled);
    wait_until("the other is delivered too", PATIENCE, || sink.count() == 3);
    assert_eq!(sink.hits()[2].traceparent, unsampled);

    let found = wait_for("the collector has three spans", PATIENCE, || {
        let found = spans(&collector);
        (found.len() >= 3).then_some(found)
    });
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found.iter().all(|span| hex(&span.trace_id) == TRACE), "{found:?}");
    let of_kind = |kind: SpanKind| found.iter().filter(move |span| span.kind() == kind);
    let process = of_kind(SpanKind::Consumer).next().unwrap();
    assert_eq!(hex(&process.parent_span_id), PRODUCER);
    assert!(attributes(process)["dunmore.event.id"].contains("evt_sampled"));
    let mut attempts: Vec<&Span> = of_kind(SpanKind::Client).collect();
    attempts.sort_by_key(|span| span.start_time_unix_nano);
    assert_eq!(attempts.len(), 2);
    for (attempt, hit) in attempts.iter().zip(sink.hits()) {
        assert_eq!(attempt.name, "deliver n8n");
        assert_eq!(attempt.parent_span_id, process.span_id);
        assert!(attempt.end_time_unix_nano > attempt.start_time_unix_nano);
        // What the destination got continues from the attempt.
        assert_eq!(hit.traceparent, format!("00-{TRACE}-{}-01", hex(&attempt.span_id)));
    }
    let first = attributes(attempts[0]);
    assert!(first["http.response.status_code"].contains("503"), "{first:?}");
    assert!(
        first.contains_key("error.type") && !attributes(attempts[1]).contains_key("error.type")
    );

    // The wide log line of the failed attempt names the trace.
    let log = serve.log_text();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let line = lines
        .filter(|line| line["target"] == "dunmore_connectors::attempt")
        .find(|line| line["outcome"] == "retry")
        .unwrap();
    for (field, expected) in [
        ("trace", TRACE),
        ("event", "evt_sampled"),
        ("project", "proj_1"),
        ("connector", "conn_1"),
        ("kind", "n8n"),
        ("level", "INFO"),
    ] {
        assert_eq!(line[field], expected, "{line}");
    }
    assert_eq!(line["status"], 503);
    for field in ["delivery", "attempt", "reason", "duration_ms", "tier", "source", "timestamp"] {
        assert!(!line[field].is_null(), "{field}: {line}");
    }
    serve.stop();
}
