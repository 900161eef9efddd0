//! Tests of the metrics.

use super::*;

#[test]
fn every_metric_shows_what_was_counted() {
    let metrics = Metrics::new().unwrap();
    metrics.event_consumed(EventType::PaymentSettled);
    let (slack, settled) = (ConnectorType::Slack, EventType::PaymentSettled);
    metrics.delivered(slack, settled, Source::Live, Duration::from_millis(7));
    metrics.delivered(slack, settled, Source::Replay, Duration::from_secs(86_400));
    metrics.step(slack, settled, Source::Replay, Outcome::Retry);
    metrics.renewal(ConnectorType::Xero, Renewal::Renewed);
    metrics.registrar_batch(3, Duration::from_millis(20));
    let text = metrics.render();
    for line in [
        "dunmore_events_consumed_total{event_type=\"payment.settled\"} 1",
        "dunmore_deliveries_total{event_type=\"payment.settled\",outcome=\"delivered\",type=\"slack\"} 2",
        "dunmore_deliveries_total{event_type=\"payment.settled\",outcome=\"dead\",type=\"xero\"} 0",
        "dunmore_deliveries_by_source_total{outcome=\"delivered\",source=\"live\"} 1",
        "dunmore_deliveries_by_source_total{outcome=\"retry\",source=\"replay\"} 1",
        "dunmore_deliveries_by_source_total{outcome=\"dead\",source=\"replay\"} 0",
        "dunmore_delivery_latency_seconds_bucket{type=\"slack\",le=\"0.01\"} 1",
        "dunmore_delivery_latency_seconds_count{type=\"slack\"} 1",
        "dunmore_registrar_batch_commands_sum 3",
        "dunmore_credential_renewals_total{outcome=\"renewed\",type=\"xero\"} 1",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

#[test]
fn partitions_that_went_leave_no_series_and_counters_stay() {
    let metrics = Metrics::new().unwrap();
    let client = metrics.kafka_client(KafkaClient::Events);
    client.set_lag("t", 1, 5, 12);
    client.committed(true);
    let text = metrics.render();
    assert!(text.contains("dunmore_consumer_lag_records{partition=\"1\",topic=\"t\"} 7"), "{text}");
    client.rebalanced();
    client.forget_lag("t", 1);
    // The same client after a new assignment.
    metrics.kafka_client(KafkaClient::Events).committed(true);
    let text = metrics.render();
    assert!(!text.contains("partition=\"1\""), "{text}");
    assert!(text.contains("dunmore_commits_total{client=\"events\",result=\"ok\"} 2"), "{text}");
    assert!(text.contains("dunmore_rebalances_total{client=\"events\"} 1"), "{text}");
}
