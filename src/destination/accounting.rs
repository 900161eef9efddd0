//! What `QuickBooks` and Xero share: which events are income, and in which cents.
//!
//! Payments of a fraction of a cent vanish when each is booked alone, so by default one document
//! a day is booked from `revenue.daily_summary`. A connector that names `payment.settled` gets a
//! document per payment instead; both would book the same money twice.

use bigdecimal::{ToPrimitive, Zero};

use super::{Currency, Settings, check_no_notices, cut, one_line};
use crate::{
    delivery::{Reason, Skip, Verdict},
    event::{Event, EventData, EventType, EventTypes},
    money::Amount,
};

/// The largest amount that is booked: eleven digits and the cents, as `QuickBooks` has it. It is
/// also far from where doubles, which JSON numbers are, lose cents.
const MAX_AMOUNT: f64 = 99_999_999_999.99;
/// How much of an asset's name a document shows.
const MAX_ASSET_CHARS: usize = 16;

/// Refuses event types that would book revenue twice, or of which nothing can be booked.
pub fn check(_: &Settings, event_types: &EventTypes) -> Vec<(&'static str, String)> {
    let mut errors = check_no_notices(event_types, "books");
    let names = |kind| event_types.names(kind);
    if names(EventType::PaymentSettled) && names(EventType::RevenueDailySummary) {
        let message = "payment.settled books each payment and revenue.daily_summary the same \
                       payments once more at the end of the day: name only one of them, or \
                       revenue would be booked twice";
        errors.push(("eventTypes", message.to_owned()));
    }
    errors
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
        let (amount, currency) = match (&event.data, self) {
            (EventData::RevenueDailySummary(day), Self::Days) => (&day.revenue, &day.currency),
            (EventData::PaymentSettled(settled), Self::Payments) => {
                (&settled.payment.amount, &settled.payment.currency)
            }
            (EventData::RevenueDailySummary(_), Self::Payments) => {
                return Some("its payments are booked one by one");
            }
            (EventData::PaymentSettled(_), Self::Days) => {
                return Some("it is booked with the daily summary");
            }
            _ => return Some("no income to book"),
        };
        if amount.is_zero() {
            return Some("the amount is zero");
        }
        // What has no price is not nothing: `Booking::of` refuses it.
        let currency = Currency::of(currency)?;
        currency.booked(amount).is_zero().then_some(match self {
            Self::Days => "the day's revenue is below the smallest unit of the books",
            Self::Payments => {
                "the amount is below the smallest unit of the books; revenue.daily_summary, named \
                 instead of payment.settled, adds such payments up"
            }
        })
    }
}

/// What a document says.
#[derive(Clone, PartialEq, Debug)]
pub struct Booking {
    /// The day, `YYYY-MM-DD`.
    pub date: String,
    /// The amount, in whole minor units of the currency.
    pub amount: f64,
    /// The currency that the amount is in.
    pub currency: Currency,
    /// The line's text.
    pub line: String,
    /// Where the money came from: a transaction, or the day.
    pub reference: String,
}

impl Booking {
    /// What to book for an event that is not skipped.
    pub fn of(event: &Event) -> Result<Self, Verdict> {
        match &event.data {
            EventData::RevenueDailySummary(s) => {
                let (currency, amount) = money(&s.revenue, &s.currency)?;
                Ok(Self {
                    date: s.date.to_string(),
                    amount,
                    currency,
                    line: format!(
                        "API revenue of {}: {} payments of {} customers, {} {}",
                        s.date,
                        s.payment_count,
                        s.customer_count,
                        s.revenue.grouped(),
                        one_line(&s.currency, MAX_ASSET_CHARS),
                    ),
                    reference: format!("{} {}", event.kind, s.date),
                })
            }
            EventData::PaymentSettled(s) => {
                let (currency, amount) = money(&s.payment.amount, &s.payment.currency)?;
                Ok(Self {
                    date: event.occurred_at.date(),
                    amount,
                    currency,
                    line: format!(
                        "API call {}: {} {} on {}",
                        cut(&s.payment.endpoint_id, 128),
                        s.payment.amount.grouped(),
                        one_line(&s.payment.currency, MAX_ASSET_CHARS),
                        cut(&s.payment.network, 64),
                    ),
                    reference: format!("{} {}", event.kind, cut(&s.tx_hash, 128)),
                })
            }
            _ => Err(Verdict::dead(Reason::Bug, "no income to book")),
        }
    }
}

/// The money that is booked for so much of an asset.
fn money(amount: &Amount, asset: &str) -> Result<(Currency, f64), Verdict> {
    let shown = format!("{} {}", amount.grouped(), one_line(asset, MAX_ASSET_CHARS));
    let refused = |why: &str| Err(Verdict::dead(Reason::Rejected, format!("{shown} {why}")));
    let Some(currency) = Currency::of(asset) else {
        return refused("has no price in the books' currency: book it by hand");
    };
    let booked = currency.booked(amount).to_f64().unwrap_or(f64::INFINITY);
    if booked > MAX_AMOUNT {
        refused("is more than one document can hold: book it by hand")
    } else if booked < 0.0 {
        refused("is negative: book it by hand")
    } else {
        Ok((currency, booked))
    }
}
