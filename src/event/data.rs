//! The fields of each event type. Unknown fields are not an error: they stay in the event's text.

use std::fmt;

use serde::{Deserialize, Deserializer, de};
use serde_json::value::RawValue;

use super::EventType;
use crate::{
    clock,
    json::{self, Object},
    money::Amount,
};

/// A text field of an event.
pub type Text = compact_str::CompactString;

/// The fields that go with an event's type.
#[derive(Clone, Debug, PartialEq)]
pub enum EventData {
    /// `payment.verified`
    PaymentVerified(Payment),
    /// `payment.settled`
    PaymentSettled(PaymentSettled),
    /// `payment.failed`
    PaymentFailed(PaymentFailed),
    /// `customer.first_payment`
    CustomerFirstPayment(FirstPayment),
    /// `customer.milestone`
    CustomerMilestone(CustomerMilestone),
    /// `endpoint.created`
    EndpointCreated(EndpointCreated),
    /// `endpoint.pricing_changed`
    EndpointPricingChanged(EndpointPricingChanged),
    /// `revenue.daily_summary`
    RevenueDailySummary(RevenueDailySummary),
    /// `connector.…`: a notice.
    ConnectorNotice(ConnectorNotice),
}

/// A payment of a customer for one call of an endpoint.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Payment {
    /// The payment's id.
    pub payment_id: Text,
    /// The endpoint that was called.
    pub endpoint_id: Text,
    /// The customer's wallet.
    pub customer_id: Text,
    /// How much.
    pub amount: Amount,
    /// In which currency, such as `USDC`.
    pub currency: Text,
    /// On which network, such as `base`.
    pub network: Text,
}

/// `payment.settled`: a payment and the transaction that settled it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(from = "Settlement")]
pub struct PaymentSettled {
    /// The payment.
    pub payment: Payment,
    /// The settling transaction on the network.
    pub tx_hash: Text,
}

/// `payment.failed`: what was tried, and where and why it failed.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PaymentFailed {
    /// The payment's id.
    pub payment_id: Text,
    /// The endpoint that was called.
    pub endpoint_id: Text,
    /// The customer's wallet, when it was known.
    #[serde(default)]
    pub customer_id: Option<Text>,
    /// How much.
    pub amount: Amount,
    /// In which currency.
    pub currency: Text,
    /// On which network, when it was known.
    #[serde(default)]
    pub network: Option<Text>,
    /// Where it failed: `verify`, `settle` or a later word.
    pub stage: Text,
    /// Why, in the payment service's words.
    pub reason: Text,
}

/// `customer.first_payment`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FirstPayment {
    /// The customer's wallet.
    pub customer_id: Text,
    /// The payment's id.
    pub payment_id: Text,
    /// The endpoint that was called.
    pub endpoint_id: Text,
    /// How much.
    pub amount: Amount,
    /// In which currency.
    pub currency: Text,
}

/// `customer.milestone`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CustomerMilestone {
    /// The customer's wallet.
    pub customer_id: Text,
    /// The milestone: a name or a number.
    #[serde(deserialize_with = "text_or_number")]
    pub milestone: Text,
    /// What the customer has spent in all.
    pub total_spent: Amount,
    /// In which currency.
    pub currency: Text,
}

/// `endpoint.created`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointCreated {
    /// The new endpoint.
    pub endpoint_id: Text,
    /// Its path.
    pub path: Text,
    /// What a call costs.
    pub price: Amount,
    /// In which currency.
    pub currency: Text,
    /// On which network it is paid.
    pub network: Text,
}

/// `endpoint.pricing_changed`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointPricingChanged {
    /// The endpoint.
    pub endpoint_id: Text,
    /// Its path.
    pub path: Text,
    /// What a call cost.
    pub old_price: Amount,
    /// What a call costs now.
    pub new_price: Amount,
    /// In which currency.
    pub currency: Text,
}

/// `revenue.daily_summary`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RevenueDailySummary {
    /// The day, `YYYY-MM-DD`.
    #[serde(deserialize_with = "date")]
    pub date: Text,
    /// What was earned.
    pub revenue: Amount,
    /// In which currency.
    pub currency: Text,
    /// How many payments were settled.
    pub payment_count: u64,
    /// How many customers paid.
    pub customer_count: u64,
    /// How many payments failed.
    pub failed_count: u64,
}

/// A notice of a connector: what this program says about it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectorNotice {
    /// The connector.
    pub connector_id: Text,
    /// Of which type it is.
    pub connector_type: Text,
    /// What its owner calls it.
    #[serde(default)]
    pub name: Option<Text>,
    /// Why, as a word.
    pub reason: Text,
    /// The same in words.
    #[serde(default)]
    pub detail: Option<Text>,
    /// Since when it is so, or was.
    pub since: Text,
    /// How many of its deliveries are held.
    #[serde(default)]
    pub held: Option<u64>,
    /// Of how many more connectors of the project the same is to be said.
    #[serde(default)]
    pub more: Option<u64>,
    /// The first ones of them.
    #[serde(default, deserialize_with = "texts")]
    pub more_connector_ids: Vec<Text>,
}

impl EventData {
    /// Reads the `data` of an event of this type.
    pub fn read(kind: EventType, data: &RawValue) -> Result<Self, String> {
        fn from<'a, T: Deserialize<'a>>(data: &'a RawValue) -> Result<T, String> {
            let read = serde_json::from_str::<Object<T>>(data.get());
            read.map(|Object(data)| data)
                .map_err(|error| json::words(data.get().as_bytes(), &error))
        }
        Ok(match kind {
            EventType::PaymentVerified => Self::PaymentVerified(from(data)?),
            EventType::PaymentSettled => Self::PaymentSettled(from(data)?),
            EventType::PaymentFailed => Self::PaymentFailed(from(data)?),
            EventType::CustomerFirstPayment => Self::CustomerFirstPayment(from(data)?),
            EventType::CustomerMilestone => Self::CustomerMilestone(from(data)?),
            EventType::EndpointCreated => Self::EndpointCreated(from(data)?),
            EventType::EndpointPricingChanged => Self::EndpointPricingChanged(from(data)?),
            EventType::RevenueDailySummary => Self::RevenueDailySummary(from(data)?),
            EventType::ConnectorSuspended
            | EventType::ConnectorResumed
            | EventType::ConnectorFailing
            | EventType::ConnectorRecovered
            | EventType::ConnectorCredentialExpiring => Self::ConnectorNotice(from(data)?),
        })
    }
}

/// A settled payment as it stands in the event, in one object. serde's `flatten` would buffer it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Settlement {
    payment_id: Text,
    endpoint_id: Text,
    customer_id: Text,
    amount: Amount,
    currency: Text,
    network: Text,
    tx_hash: Text,
}

impl From<Settlement> for PaymentSettled {
    fn from(settlement: Settlement) -> Self {
        let Settlement { payment_id, endpoint_id, customer_id, amount, currency, network, tx_hash } =
            settlement;
        let payment = Payment { payment_id, endpoint_id, customer_id, amount, currency, network };
        Self { payment, tx_hash }
    }
}

fn text_or_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Text, D::Error> {
    struct Visitor;
    impl de::Visitor<'_> for Visitor {
        type Value = Text;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a text or a whole number")
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<Text, E> {
            Ok(text.into())
        }
        fn visit_u64<E: de::Error>(self, number: u64) -> Result<Text, E> {
            Ok(number.to_string().into())
        }
        fn visit_i64<E: de::Error>(self, number: i64) -> Result<Text, E> {
            Ok(number.to_string().into())
        }
    }
    deserializer.deserialize_any(Visitor)
}

/// A list of texts; what is none counts as none, because nothing depends on it.
fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Text>, D::Error> {
    let raw = <&RawValue>::deserialize(deserializer)?;
    Ok(serde_json::from_str(raw.get()).unwrap_or_default())
}

fn date<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Text, D::Error> {
    let text = Text::deserialize(deserializer)?;
    if clock::is_date(&text) {
        Ok(text)
    } else {
        Err(de::Error::custom("is no date such as 2026-11-23"))
    }
}
