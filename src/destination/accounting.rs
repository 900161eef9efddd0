//! What `QuickBooks` and Xero share: which events are income, and in which cents.
//!
//! Payments of a fraction of a cent vanish when each is booked alone, so by default one document
//! a day is booked from `revenue.daily_summary`. A connector that names `payment.settled` gets a
//! document per payment instead; both would book the same money twice.

use bigdecimal::{ToPrimitive, Zero};

use super::{Settings, cut};
use crate::{
    delivery::{Reason, Skip, Verdict},
    event::{Event, EventData, EventType, EventTypes},
    money::Amount,
};

/// The largest amount that is booked: eleven digits and the cents, as `QuickBooks` has it. It is
/// also far from where doubles, which JSON numbers are, lose cents.
const MAX_AMOUNT: f64 = 99_999_999_999.99;

/// Refuses event types that would book revenue twice.
pub fn check(_: &Settings, event_types: &EventTypes) -> Vec<(&'static str, String)> {
    let names = |kind| event_types.names(kind);
    if names(EventType::PaymentSettled) && names(EventType::RevenueDailySummary) {
        let message = "payment.settled books each payment and revenue.daily_summary the same \
                       payments once more at the end of the day: name only one of them, or \
                       revenue would be booked twice";
        return vec![("eventTypes", message.to_owned())];
    }
    Vec::new()
}

/// What a connector books.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Books {
    /// One document for each day.
    Days,
    /// One document for each payment.
    Payments,
}

impl Books {
    /// What a connector with these event types books.
    pub fn of(event_types: &EventTypes) -> Self {
        if event_types.names(EventType::PaymentSettled) { Self::Payments } else { Self::Days }
    }

    /// Why an event is not booked, if so.
    pub fn skips(self, event: &Event) -> Option<Skip> {
        let amount = match (&event.data, self) {
            (EventData::RevenueDailySummary(summary), Self::Days) => &summary.revenue,
            (EventData::PaymentSettled(settled), Self::Payments) => &settled.payment.amount,
            (EventData::RevenueDailySummary(_), Self::Payments) => {
                return Some("its payments are booked one by one");
            }
            (EventData::PaymentSettled(_), Self::Days) => {
                return Some("it is booked with the daily summary");
            }
            _ => return Some("no income to book"),
        };
        amount.rounded(2).is_zero().then_some("the amount rounds to zero")
    }
}

/// What a document says.
#[derive(Clone, PartialEq, Debug)]
pub struct Booking<'a> {
    /// The day, `YYYY-MM-DD`.
    pub date: String,
    /// The amount, in whole cents.
    pub amount: f64,
    /// The currency, as the event names it.
    pub currency: &'a str,
    /// The line's text.
    pub line: String,
    /// Where the money came from: a transaction, or the day.
    pub reference: String,
}

impl<'a> Booking<'a> {
    /// What to book for an event that is not skipped.
    pub fn of(event: &'a Event) -> Result<Self, Verdict> {
        match &event.data {
            EventData::RevenueDailySummary(s) => Ok(Self {
                date: s.date.to_string(),
                amount: cents(&s.revenue)?,
                currency: &s.currency,
                line: format!(
                    "API revenue of {}: {} payments of {} customers, {} {}",
                    s.date,
                    s.payment_count,
                    s.customer_count,
                    s.revenue.short(),
                    cut(&s.currency, 16),
                ),
                reference: format!("{} {}", event.kind, s.date),
            }),
            EventData::PaymentSettled(s) => Ok(Self {
                date: event.occurred_at.date(),
                amount: cents(&s.payment.amount)?,
                currency: &s.payment.currency,
                line: format!(
                    "API call {}: {} {} on {}",
                    cut(&s.payment.endpoint_id, 128),
                    s.payment.amount.short(),
                    cut(&s.payment.currency, 16),
                    cut(&s.payment.network, 64),
                ),
                reference: format!("{} {}", event.kind, cut(&s.tx_hash, 128)),
            }),
            _ => Err(Verdict::dead(Reason::Bug, "no income to book")),
        }
    }
}

fn cents(amount: &Amount) -> Result<f64, Verdict> {
    let cents = amount.rounded(2).to_f64().unwrap_or(f64::INFINITY);
    if cents > MAX_AMOUNT {
        let detail = format!("{amount} is more than one document can hold");
        Err(Verdict::dead(Reason::Rejected, detail))
    } else if cents < 0.0 {
        Err(Verdict::dead(Reason::Rejected, format!("{amount} is negative: book it by hand")))
    } else {
        Ok(cents)
    }
}
