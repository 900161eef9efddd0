//! An example of each event type, for documentation, previews and tests of a connector.

use super::EventType;

macro_rules! sample {
    ($id:literal, $kind:literal, $data:literal) => {
        concat!(
            r#"{"id":""#,
            $id,
            r#"","type":""#,
            $kind,
            r#"","projectId":"proj_1","occurredAt":"2026-11-23T08:00:00.000Z","data":"#,
            $data,
            "}"
        )
    };
}

/// An example event of a type, as its producer would write it.
#[must_use]
pub const fn sample(kind: EventType) -> &'static str {
    match kind {
        EventType::PaymentVerified => sample!(
            "evt_sample_1",
            "payment.verified",
            r#"{"paymentId":"pay_1","endpointId":"ep_summarize","customerId":"0x52908400098527886E0F7030069857D2E4169EE7","amount":"1.250000","currency":"USDC","network":"base"}"#
        ),
        EventType::PaymentSettled => sample!(
            "evt_sample_2",
            "payment.settled",
            r#"{"paymentId":"pay_1","endpointId":"ep_summarize","customerId":"0x52908400098527886E0F7030069857D2E4169EE7","amount":"1.250000","currency":"USDC","network":"base","txHash":"0x9fe1"}"#
        ),
        EventType::PaymentFailed => sample!(
            "evt_sample_3",
            "payment.failed",
            r#"{"paymentId":"pay_2","endpointId":"ep_summarize","customerId":"0x52908400098527886E0F7030069857D2E4169EE7","amount":"1.250000","currency":"USDC","network":"base","stage":"settle","reason":"insufficient_funds"}"#
        ),
        EventType::CustomerFirstPayment => sample!(
            "evt_sample_4",
            "customer.first_payment",
            r#"{"customerId":"0x52908400098527886E0F7030069857D2E4169EE7","paymentId":"pay_1","endpointId":"ep_summarize","amount":"1.250000","currency":"USDC"}"#
        ),
        EventType::CustomerMilestone => sample!(
            "evt_sample_5",
            "customer.milestone",
            r#"{"customerId":"0x52908400098527886E0F7030069857D2E4169EE7","milestone":"100 calls","totalSpent":"125.500000","currency":"USDC"}"#
        ),
        EventType::EndpointCreated => sample!(
            "evt_sample_6",
            "endpoint.created",
            r#"{"endpointId":"ep_summarize","path":"POST /v1/summarize","price":"0.05","currency":"USDC","network":"base"}"#
        ),
        EventType::EndpointPricingChanged => sample!(
            "evt_sample_7",
            "endpoint.pricing_changed",
            r#"{"endpointId":"ep_summarize","path":"POST /v1/summarize","oldPrice":"0.05","newPrice":"0.07","currency":"USDC"}"#
        ),
        EventType::RevenueDailySummary => sample!(
            "evt_sample_8",
            "revenue.daily_summary",
            r#"{"date":"2026-11-22","revenue":"1234.567800","currency":"USDC","paymentCount":24690,"customerCount":321,"failedCount":12}"#
        ),
        EventType::ConnectorSuspended => sample!(
            "evt_sample_9",
            "connector.suspended",
            r#"{"projectId":"proj_1","connectorId":"conn_xero","connectorType":"xero","name":"Books","reason":"http_401","detail":"unauthorized: HTTP 401: TokenExpired","since":"2026-11-23T08:00:00.000Z"}"#
        ),
        EventType::ConnectorResumed => sample!(
            "evt_sample_10",
            "connector.resumed",
            r#"{"projectId":"proj_1","connectorId":"conn_xero","connectorType":"xero","name":"Books","reason":"http_401","detail":"unauthorized: HTTP 401: TokenExpired","since":"2026-11-23T06:30:00.000Z"}"#
        ),
        EventType::ConnectorFailing => sample!(
            "evt_sample_11",
            "connector.failing",
            r#"{"projectId":"proj_1","connectorId":"conn_xero","connectorType":"xero","name":"Books","reason":"http_503","detail":"server_error: HTTP 503: Service Unavailable","since":"2026-11-23T07:58:00.000Z","more":2,"moreConnectorIds":["conn_hubspot","conn_slack"]}"#
        ),
        EventType::ConnectorRecovered => sample!(
            "evt_sample_12",
            "connector.recovered",
            r#"{"projectId":"proj_1","connectorId":"conn_xero","connectorType":"xero","name":"Books","reason":"http_503","detail":"server_error: HTTP 503: Service Unavailable","since":"2026-11-23T07:30:00.000Z"}"#
        ),
        EventType::ConnectorCredentialExpiring => sample!(
            "evt_sample_13",
            "connector.credential_expiring",
            r#"{"projectId":"proj_1","connectorId":"conn_xero","connectorType":"xero","name":"Books","reason":"credential_expiring","detail":"the access token ends on 2026-11-30T08:00:00Z","since":"2026-11-23T08:00:00.000Z"}"#
        ),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::event::Event;

    #[test]
    fn every_sample_is_an_event_of_its_type() {
        for &kind in EventType::ALL {
            let event = Event::from_json(Bytes::from_static(sample(kind).as_bytes())).unwrap();
            assert_eq!(event.kind, kind);
        }
    }
}
