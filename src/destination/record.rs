//! What an event means to a machine: who, where, and its fields under the event's own names.

use std::borrow::Cow;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::{cut, one_line};
use crate::{
    event::{Event, EventData},
    money::Amount,
};

/// The value of a field.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum RecordValue<'a> {
    /// A text.
    Text(&'a str),
    /// A customer's wallet, to be written as [`wallet`] has it.
    Wallet(&'a str),
    /// An amount of money.
    Amount(&'a Amount),
    /// A whole number.
    Count(u64),
}

/// An event as analytics, monitoring and data services record it.
#[derive(Clone, PartialEq, Debug)]
pub struct Record<'a> {
    /// The customer's wallet as [`wallet`] has it, if a customer takes part.
    pub customer: Option<Cow<'a, str>>,
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
        use RecordValue::{Amount as Money, Count, Text, Wallet};
        let (customer, endpoint, currency, fields) = match &event.data {
            EventData::PaymentVerified(p) => payment(p, None),
            EventData::PaymentSettled(s) => payment(&s.payment, Some(&s.tx_hash)),
            EventData::PaymentFailed(p) => {
                let mut fields =
                    vec![("paymentId", Text(&p.payment_id)), ("endpointId", Text(&p.endpoint_id))];
                fields.extend(p.customer_id.as_deref().map(|id| ("customerId", Wallet(id))));
                fields.extend([("amount", Money(&p.amount)), ("currency", Text(&p.currency))]);
                fields.extend(p.network.as_deref().map(|name| ("network", Text(name))));
                fields.extend([("stage", Text(&p.stage)), ("reason", Text(&p.reason))]);
                (p.customer_id.as_deref(), Some(&*p.endpoint_id), &*p.currency, fields)
            }
            EventData::CustomerFirstPayment(p) => {
                let fields = vec![
                    ("customerId", Wallet(&p.customer_id)),
                    ("paymentId", Text(&p.payment_id)),
                    ("endpointId", Text(&p.endpoint_id)),
                    ("amount", Money(&p.amount)),
                    ("currency", Text(&p.currency)),
                ];
                (Some(&*p.customer_id), Some(&*p.endpoint_id), &*p.currency, fields)
            }
            EventData::CustomerMilestone(m) => {
                let fields = vec![
                    ("customerId", Wallet(&m.customer_id)),
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
            EventData::ConnectorNotice(n) => {
                let mut fields = vec![
                    ("connectorId", Text(&n.connector_id)),
                    ("connectorType", Text(&n.connector_type)),
                ];
                // `name` alone says something else to most services.
                fields.extend(n.name.as_deref().map(|name| ("connectorName", Text(name))));
                fields.push(("reason", Text(&n.reason)));
                fields.extend(n.detail.as_deref().map(|detail| ("detail", Text(detail))));
                fields.push(("since", Text(&n.since)));
                fields.extend(n.held.map(|held| ("held", Count(held))));
                fields.extend(n.more.map(|more| ("more", Count(more))));
                (None, None, "", fields)
            }
        };
        Self { customer: customer.map(wallet), endpoint, currency, fields }
    }

    /// The fields as JSON for services whose numbers are doubles; texts cut to `max` characters.
    #[must_use]
    pub fn properties(&self, max: usize) -> Map<String, Value> {
        let value = |value| match value {
            RecordValue::Text(text) => Value::from(cut(text, max)),
            RecordValue::Wallet(text) => Value::from(cut(&wallet(text), max)),
            RecordValue::Amount(amount) => Value::from(amount.to_f64()),
            RecordValue::Count(count) => Value::from(count),
        };
        self.fields.iter().map(|&(name, field)| (name.to_owned(), value(field))).collect()
    }

    /// The fields as JSON texts for people, amounts exact; texts on one line of `max` characters.
    #[must_use]
    pub fn texts(&self, max: usize) -> Map<String, Value> {
        let value = |value| match value {
            RecordValue::Text(text) => one_line(text, max),
            RecordValue::Wallet(text) => one_line(&wallet(text), max),
            RecordValue::Amount(amount) => amount.as_str().to_owned(),
            RecordValue::Count(count) => count.to_string(),
        };
        self.fields.iter().map(|&(name, field)| (name.to_owned(), value(field).into())).collect()
    }
}

type Parts<'a> = (Option<&'a str>, Option<&'a str>, &'a str, Vec<(&'static str, RecordValue<'a>)>);

fn payment<'a>(p: &'a crate::event::Payment, tx_hash: Option<&'a str>) -> Parts<'a> {
    use RecordValue::{Amount as Money, Text, Wallet};
    let mut fields = vec![
        ("paymentId", Text(&p.payment_id)),
        ("endpointId", Text(&p.endpoint_id)),
        ("customerId", Wallet(&p.customer_id)),
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

/// A customer's wallet as one text, however its sender wrote it: an EVM address (`0x` and 40 hex
/// digits), whose case is but a checksum, in lower case. Anything else is left as it is, because
/// in other networks' addresses the case is part of the name.
#[must_use]
pub fn wallet(text: &str) -> Cow<'_, str> {
    let is_evm = text
        .strip_prefix("0x")
        .is_some_and(|hex| hex.len() == 40 && hex.bytes().all(|b| b.is_ascii_hexdigit()));
    if is_evm && text.bytes().any(|b| b.is_ascii_uppercase()) {
        text.to_ascii_lowercase().into()
    } else {
        text.into()
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
    fn a_wallet_is_one_text_and_two_wallets_are_two() {
        let checksum = "0x52908400098527886E0F7030069857D2E4169EE7";
        assert_eq!(wallet(checksum), checksum.to_ascii_lowercase());
        assert_eq!(wallet(&checksum.to_ascii_lowercase()), wallet(checksum));
        for other in [
            "7EcDhSYGxXyscszYEp35KHN8vvw3svAuLKTzXwCFLtV",
            "0xA1b2",
            "0X52908400098527886E0F7030069857D2E4169EE7",
            "0x52908400098527886E0F7030069857D2E4169EEG",
            "eip155:1:0xAB",
            "",
        ] {
            assert_eq!(wallet(other), other);
        }
    }
}
