//! Produces one payment event of each type. See ../README.md.

use std::{env, error::Error, time::Duration};

use rdkafka::{
    ClientConfig,
    producer::{FutureProducer, FutureRecord},
};
use serde::Serialize;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Event<'a> {
    id: String,
    #[serde(rename = "type")]
    kind: &'a str,
    project_id: &'a str,
    occurred_at: &'a str,
    data: Data<'a>,
}

/// Amounts are texts: a float would lose digits.
#[derive(Serialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
enum Data<'a> {
    Payment {
        payment_id: &'a str,
        endpoint_id: &'a str,
        customer_id: &'a str,
        amount: &'a str,
        currency: &'a str,
        network: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        tx_hash: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        stage: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'a str>,
    },
    FirstPayment {
        customer_id: &'a str,
        payment_id: &'a str,
        endpoint_id: &'a str,
        amount: &'a str,
        currency: &'a str,
    },
    Milestone { customer_id: &'a str, milestone: &'a str, total_spent: &'a str, currency: &'a str },
    EndpointCreated {
        endpoint_id: &'a str,
        path: &'a str,
        price: &'a str,
        currency: &'a str,
        network: &'a str,
    },
    PricingChanged {
        endpoint_id: &'a str,
        path: &'a str,
        old_price: &'a str,
        new_price: &'a str,
        currency: &'a str,
    },
    DailySummary {
        date: &'a str,
        revenue: &'a str,
        currency: &'a str,
        payment_count: u64,
        customer_count: u64,
        failed_count: u64,
    },
}

const WALLET: &str = "0x52908400098527886E0F7030069857D2E4169EE7";

fn payment<'a>(
    payment_id: &'a str,
    tx_hash: Option<&'a str>,
    failure: Option<(&'a str, &'a str)>,
) -> Data<'a> {
    Data::Payment {
        payment_id,
        endpoint_id: "ep_summarize",
        customer_id: WALLET,
        amount: "1.250000",
        currency: "USDC",
        network: "base",
        tx_hash,
        stage: failure.map(|(stage, _)| stage),
        reason: failure.map(|(_, reason)| reason),
    }
}

fn data() -> [(&'static str, Data<'static>); 8] {
    let (endpoint_id, path, currency) = ("ep_summarize", "POST /v1/summarize", "USDC");
    [
        ("payment.verified", payment("pay_1", None, None)),
        ("payment.settled", payment("pay_1", Some("0x9fe1"), None)),
        ("payment.failed", payment("pay_2", None, Some(("settle", "insufficient_funds")))),
        (
            "customer.first_payment",
            Data::FirstPayment {
                customer_id: WALLET,
                payment_id: "pay_1",
                endpoint_id,
                amount: "1.250000",
                currency,
            },
        ),
        (
            "customer.milestone",
            Data::Milestone {
                customer_id: WALLET,
                milestone: "100 calls",
                total_spent: "125.500000",
                currency,
            },
        ),
        (
            "endpoint.created",
            Data::EndpointCreated { endpoint_id, path, price: "0.05", currency, network: "base" },
        ),
        (
            "endpoint.pricing_changed",
            Data::PricingChanged { endpoint_id, path, old_price: "0.05", new_price: "0.07", currency },
        ),
        (
            "revenue.daily_summary",
            Data::DailySummary {
                date: "2026-11-22",
                revenue: "1234.567800",
                currency,
                payment_count: 24690,
                customer_count: 321,
                failed_count: 12,
            },
        ),
    ]
}

fn setting(name: &str, default: impl FnOnce() -> String) -> String {
    env::var(name).unwrap_or_else(|_| default())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let project = setting("PROJECT", || "proj_1".to_owned());
    let topic = setting("TOPIC", || "dunmore.payments.events".to_owned());
    // The event's own id and time. A repeat of the same event must have the same id.
    let prefix = setting("EVENT_ID_PREFIX", || format!("evt_{}_", uuid::Uuid::now_v7().simple()));
    let now = setting("OCCURRED_AT", || format!("{:.3}", jiff::Timestamp::now()));

    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", setting("BOOTSTRAP_SERVERS", || "localhost:9092".to_owned()))
        // No loss and no duplicates on the way into Kafka.
        .set("enable.idempotence", "true")
        .set("acks", "all")
        // The partitioner of Kafka's Java clients, so that all programs agree on partitions.
        .set("partitioner", "murmur2_random")
        .create()?;

    for (number, (kind, data)) in data().into_iter().enumerate() {
        let id = format!("{prefix}{}", number + 1);
        let event = Event { id, kind, project_id: &project, occurred_at: &now, data };
        let json = serde_json::to_vec(&event)?;
        // The key is the project: the events of a project stay in order.
        let record = FutureRecord::to(&topic).key(&project).payload(&json);
        producer.send(record, Duration::from_secs(30)).await.map_err(|(error, _)| error)?;
        println!("{} {kind}", event.id);
    }
    Ok(())
}
