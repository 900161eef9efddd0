//! Each type is called no faster than its vendor's published limits: within each of their windows,
//! a full bucket and what flows into it meanwhile stay below.

use dunmore_connectors::destination::{ConnectorType, ConnectorType as T};

/// The type, the most requests or events, the window in seconds, and how many of them one request
/// may cost.
const LIMITS: &[(ConnectorType, f64, f64, f64)] = &[
    (T::Discord, 5.0, 2.0, 1.0),
    (T::Discord, 30.0, 60.0, 1.0),
    (T::Email, 5.0, 1.0, 1.0),
    (T::Telegram, 20.0, 60.0, 1.0),
    (T::Teams, 100.0, 60.0, 1.0),
    (T::Segment, 1_000.0, 1.0, 1.0),
    // A batch of a hundred events.
    (T::Amplitude, 1_000.0, 1.0, 100.0),
    (T::Amplitude, 100.0, 1.0, 1.0),
    (T::Zapier, 30.0, 1.0, 1.0),
    (T::Zapier, 10_000.0, 300.0, 1.0),
    (T::Make, 300.0, 10.0, 1.0),
    (T::Pagerduty, 120.0, 60.0, 1.0),
    // Which contacts there are is asked first.
    (T::Hubspot, 100.0, 10.0, 2.0),
    // The day's rate may be asked for first.
    (T::Quickbooks, 10.0, 1.0, 2.0),
    (T::Quickbooks, 500.0, 60.0, 2.0),
    (T::Xero, 60.0, 60.0, 1.0),
];

#[test]
fn published_limits_are_kept() {
    for &(kind, most, seconds, cost) in LIMITS {
        let rate = kind.spec().rate.unwrap();
        let sent = (rate.per_second * seconds + f64::from(rate.burst)) * cost;
        assert!(sent <= most, "{kind}: {sent} in {seconds} s, {most} are allowed");
    }
    let at_once = [(T::Xero, 5), (T::Salesforce, 25)];
    for (kind, most) in at_once {
        assert!(kind.spec().concurrency <= most, "{kind}");
    }
}
