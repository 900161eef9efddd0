//! What an event means to a machine: who, where, and its fields under the event's own names.

use std::borrow::Cow;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::cut;
use crate::{
    event::{Event, EventData},
    money::Amount,
};

/// The value of a field.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum RecordValue<'a> {
    /// A text.
    Text(&'a str),
    /// An amount of money.
    Amount(&'a Amount),
    /// A whole number.
    Count(u64),
}

/// An event as analytics, monitoring and data services record it.
#[derive(Clone, PartialEq, Debug)]
pub struct Record<'a> {
    /// The customer's wallet, if a customer takes part.
    pub customer: Option<&'a str>,
    /// The endpoint, if one takes part.
    pub endpoint: Option<&'a str>,
    /// The currency of the amounts.
    pub currency: &'a str,
    /// All fields, those above included, in the order of the documentation.
    pub fields: Vec<(&'static str, RecordValue<'a>)>,
}

impl<'a> Record<'a> {
    /// The record of an event.
    #[must_use]
    pub fn of(event: &'a Event) -> Self {
        use RecordValue::{Amount as Money, Count, Text};
        let (customer, endpoint, currency, fields) = match &event.data {
            EventData::PaymentVerified(p) => payment(p, None),
            EventData::PaymentSettled(s) => payment(&s.payment, Some(&s.tx_hash)),
            EventData::PaymentFailed(p) => {
                let mut fields =
                    vec![("paymentId", Text(&p.payment_id)), ("endpointId", Text(&p.endpoint_id))];
                fields.extend(p.customer_id.as_deref().map(|id| ("customerId", Text(id))));
                fields.extend([("amount", Money(&p.amount)), ("currency", Text(&p.currency))]);
                fields.extend(p.network.as_deref().map(|name| ("network", Text(name))));
                fields.extend([("stage", Text(&p.stage)), ("reason", Text(&p.reason))]);
                (p.customer_id.as_deref(), Some(&*p.endpoint_id), &*p.currency, fields)
            }
            EventData::CustomerFirstPayment(p) => {
                let fields = vec![
                    ("customerId", Text(&p.customer_id)),
                    ("paymentId", Text(&p.payment_id)),
                    ("endpointId", Text(&p.endpoint_id)),
                    ("amount", Money(&p.amount)),
                    ("currency", Text(&p.currency)),
                ];
                (Some(&*p.customer_id), Some(&*p.endpoint_id), &*p.currency, fields)
            }
            EventData::CustomerMilestone(m) => {
                let fields = vec![
                    ("customerId", Text(&m.customer_id)),
                    ("milestone", Text(&m.milestone)),
                    ("totalSpent", Money(&m.total_spent)),
                    ("currency", Text(&m.currency)),
                ];
                (Some(&*m.customer_id), None, &*m.currency, fields)
            }
            EventData::EndpointCreated(e) => {
                let fields = vec![
                    ("endpointId", Text(&e.endpoint_id)),
                    ("path", Text(&e.path)),
                    ("price", Money(&e.price)),
                    ("currency", Text(&e.currency)),
                    ("network", Text(&e.network)),
                ];
                (None, Some(&*e.endpoint_id), &*e.currency, fields)
            }
            EventData::EndpointPricingChanged(e) => {
                let fields = vec![
                    ("endpointId", Text(&e.endpoint_id)),
                    ("path", Text(&e.path)),
                    ("oldPrice", Money(&e.old_price)),
                    ("newPrice", Money(&e.new_price)),
                    ("currency", Text(&e.currency)),
                ];
                (None, Some(&*e.endpoint_id), &*e.currency, fields)
            }
            EventData::RevenueDailySummary(s) => {
                let fields = vec![
                    ("date", Text(&s.date)),
                    ("revenue", Money(&s.revenue)),
                    ("currency", Text(&s.currency)),
                    ("paymentCount", Count(s.payment_count)),
                    ("customerCount", Count(s.customer_count)),
                    ("failedCount", Count(s.failed_count)),
                ];
                (None, None, &*s.currency, fields)
            }
        };
        Self { customer, endpoint, currency, fields }
    }

    /// The fields as JSON for services whose numbers are doubles; texts cut to `max` characters.
    #[must_use]
    pub fn properties(&self, max: usize) -> Map<String, Value> {
        let value = |value| match value {
            RecordValue::Text(text) => Value::from(cut(text, max)),
            RecordValue::Amount(amount) => Value::from(amount.to_f64()),
            RecordValue::Count(count) => Value::from(count),
        };
        self.fields.iter().map(|&(name, field)| (name.to_owned(), value(field))).collect()
    }

    /// The fields as JSON texts, amounts exact; texts cut to `max` characters.
    #[must_use]
    pub fn texts(&self, max: usize) -> Map<String, Value> {
        let value = |value| match value {
            RecordValue::Text(text) => cut(text, max),
            RecordValue::Amount(amount) => amount.as_str().to_owned(),
            RecordValue::Count(count) => count.to_string(),
        };
        self.fields.iter().map(|&(name, field)| (name.to_owned(), value(field).into())).collect()
    }
}

type Parts<'a> = (Option<&'a str>, Option<&'a str>, &'a str, Vec<(&'static str, RecordValue<'a>)>);

fn payment<'a>(p: &'a crate::event::Payment, tx_hash: Option<&'a str>) -> Parts<'a> {
    use RecordValue::{Amount as Money, Text};
    let mut fields = vec![
        ("paymentId", Text(&p.payment_id)),
        ("endpointId", Text(&p.endpoint_id)),
        ("customerId", Text(&p.customer_id)),
        ("amount", Money(&p.amount)),
        ("currency", Text(&p.currency)),
        ("network", Text(&p.network)),
    ];
    fields.extend(tx_hash.map(|hash| ("txHash", Text(hash))));
    (Some(&p.customer_id), Some(&p.endpoint_id), &p.currency, fields)
}

/// A text that stands for somebody, fit for a field of `max` characters (64 or more): one that is
/// longer becomes its SHA-256 in hex, because a cut one could stand for somebody else.
#[must_use]
pub fn identity(text: &str, max: usize) -> Cow<'_, str> {
    if text.len() <= max { text.into() } else { hashed(text).into() }
}

/// The SHA-256 of a text, in hex.
#[must_use]
pub fn hashed(text: &str) -> String {
    format!("{:x}", Sha256::digest(text))
}

/// The ISO 4217 code that a service which checks currencies takes for this one: stablecoins count
/// as the currency that they stand for. `None` when there is no such code.
#[must_use]
pub fn iso_currency(currency: &str) -> Option<&str> {
    match currency {
        "USDC" | "USDT" | "USDS" | "USDP" | "USDbC" | "PYUSD" | "FDUSD" | "DAI" => Some("USD"),
        "EURC" | "EURS" | "EURT" => Some("EUR"),
        "BTC" | "ETH" | "SOL" | "BNB" => None,
        _ if currency.len() == 3 && currency.bytes().all(|b| b.is_ascii_uppercase()) => {
            Some(currency)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_long_names_never_become_the_same_person() {
        let (a, b) = ("x".repeat(300) + "a", "x".repeat(300) + "b");
        assert_eq!(identity("0x52", 255), "0x52");
        assert_ne!(identity(&a, 255), identity(&b, 255));
        assert_eq!(identity(&a, 255).len(), 64);
    }

    #[test]
    fn stablecoins_count_as_their_currency() {
        assert_eq!(iso_currency("USDC"), Some("USD"));
        assert_eq!(iso_currency("EUR"), Some("EUR"));
        assert_eq!(iso_currency("usd"), None);
        assert_eq!(iso_currency("WETH"), None);
    }
}
