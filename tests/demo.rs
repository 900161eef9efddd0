//! `dunmore demo`, from beginning to end.

use dunmore_connectors::demo::{self, DemoOptions};

#[tokio::test(flavor = "multi_thread")]
async fn every_event_of_a_short_demo_is_accounted_for() {
    let summary = demo::summary(DemoOptions { events: 150, json: true }).await.unwrap();
    assert!(summary.is_complete(), "{}", summary.to_text());
    let json = summary.to_json();
    let figure = |name: &str| json[name].as_u64().unwrap();
    assert_eq!(figure("events"), 150);
    assert_eq!(figure("lost"), 0);
    assert_eq!(figure("duplicates"), 0);
    assert_eq!(figure("cancelled"), 0);
    assert_eq!(figure("deliveries"), figure("delivered") + figure("dead"));
    assert!(figure("unmatched") > 0);
    for connector in json["connectors"].as_array().unwrap() {
        let figure = |name: &str| connector[name].as_u64().unwrap();
        let deliveries = figure("deliveries");
        assert!(deliveries > 0, "{connector}");
        let (delivered, dead, retried) = match connector["thirdParty"].as_str().unwrap() {
            "gone" | "500 always" => (0, deliveries, deliveries),
            _ => (deliveries, 0, figure("retried")),
        };
        assert_eq!(figure("delivered"), delivered, "{connector}");
        assert_eq!(figure("dead"), dead, "{connector}");
        assert_eq!(figure("retried"), retried, "{connector}");
    }
}

#[tokio::test]
async fn a_demo_needs_events() {
    assert!(demo::summary(DemoOptions { events: 0, json: true }).await.is_err());
}
