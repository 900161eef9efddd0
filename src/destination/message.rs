//! What an event means to a person: a title and a few facts, for every service people read.

use super::{explorer::transaction_url, record::wallet};
use crate::{
    event::{ConnectorNotice, Event, EventData, EventType},
    money::{Amount, thousands},
    text::is_shown,
};

const TRANSACTION: &str = "Transaction";
const REASON: &str = "Reason";
const ENDPOINT: &str = "Endpoint";
/// How much of each part stands in the title of an incident, so that all of them fit into 130
/// characters, the least that a service takes.
const MAX_INCIDENT_PART_CHARS: usize = 34;

/// How a message should look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tone {
    /// Money came in, or something to be glad of.
    Good,
    /// Something to look into.
    Bad,
    /// Something to know.
    Info,
}

impl Tone {
    /// The sign of the tone, for messages without colours.
    #[must_use]
    pub const fn sign(self) -> &'static str {
        match self {
            Self::Good => "\u{2705}",
            Self::Bad => "\u{274c}",
            Self::Info => "\u{2139}\u{fe0f}",
        }
    }
}

/// One labelled value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fact {
    /// The label.
    pub label: &'static str,
    /// The value, as its producer wrote it: escape it for the place where it is shown.
    pub value: String,
    /// The page about it, if there is one: a URL of this program's own making.
    pub link: Option<String>,
}

/// An event as people read it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// What happened: `Payment settled`.
    pub title: &'static str,
    /// The essence: `1.25 USDC`.
    pub headline: String,
    /// The rest.
    pub facts: Vec<Fact>,
    /// How it should look.
    pub tone: Tone,
}

impl Message {
    /// The message for an event.
    #[must_use]
    pub fn of(event: &Event) -> Self {
        let mut facts = Vec::new();
        let mut fact = |label, value: &str| {
            if !value.is_empty() {
                facts.push(Fact { label, value: value.to_owned(), link: None });
            }
        };
        let (headline, tone) = match &event.data {
            EventData::PaymentVerified(p) => {
                fact("Endpoint", &p.endpoint_id);
                fact("Customer", &wallet(&p.customer_id));
                fact("Network", &p.network);
                fact("Payment", &p.payment_id);
                (money(&p.amount, &p.currency), Tone::Info)
            }
            EventData::PaymentSettled(settled) => {
                let p = &settled.payment;
                fact("Endpoint", &p.endpoint_id);
                fact("Customer", &wallet(&p.customer_id));
                fact("Network", &p.network);
                fact(TRANSACTION, &settled.tx_hash);
                fact("Payment", &p.payment_id);
                (money(&p.amount, &p.currency), Tone::Good)
            }
            EventData::PaymentFailed(p) => {
                fact(REASON, &p.reason);
                fact("Stage", &p.stage);
                fact(ENDPOINT, &p.endpoint_id);
                fact("Customer", &wallet(p.customer_id.as_deref().unwrap_or_default()));
                fact("Network", p.network.as_deref().unwrap_or_default());
                fact("Payment", &p.payment_id);
                (money(&p.amount, &p.currency), Tone::Bad)
            }
            EventData::CustomerFirstPayment(p) => {
                fact("Customer", &wallet(&p.customer_id));
                fact("Endpoint", &p.endpoint_id);
                fact("Payment", &p.payment_id);
                (money(&p.amount, &p.currency), Tone::Good)
            }
            EventData::CustomerMilestone(m) => {
                fact("Customer", &wallet(&m.customer_id));
                fact("Total spent", &money(&m.total_spent, &m.currency));
                (m.milestone.to_string(), Tone::Good)
            }
            EventData::EndpointCreated(e) => {
                fact("Price", &money(&e.price, &e.currency));
                fact("Network", &e.network);
                fact("Endpoint", &e.endpoint_id);
                (e.path.to_string(), Tone::Info)
            }
            EventData::EndpointPricingChanged(e) => {
                fact("Old price", &money(&e.old_price, &e.currency));
                fact("New price", &money(&e.new_price, &e.currency));
                fact("Endpoint", &e.endpoint_id);
                (e.path.to_string(), Tone::Info)
            }
            EventData::RevenueDailySummary(s) => {
                fact("Day", &s.date);
                fact("Payments", &count(s.payment_count));
                fact("Customers", &count(s.customer_count));
                fact("Failed payments", &count(s.failed_count));
                (money(&s.revenue, &s.currency), Tone::Info)
            }
            EventData::ConnectorNotice(n) => {
                fact(REASON, &n.reason);
                fact("Detail", n.detail.as_deref().unwrap_or_default());
                fact("Since", &n.since);
                fact("Connector", &n.connector_id);
                fact("Held deliveries", &n.held.map(count).unwrap_or_default());
                fact("More connectors", &more(n));
                (named(n), tone(event.kind))
            }
        };
        if let EventData::PaymentSettled(settled) = &event.data
            && let Some(fact) = facts.iter_mut().find(|fact| fact.label == TRANSACTION)
        {
            fact.link = transaction_url(&settled.payment.network, &settled.tx_hash);
        }
        Self { title: event.kind.title(), headline, facts, tone }
    }

    /// The title behind the sign of its tone.
    #[must_use]
    pub fn heading(&self) -> String {
        format!("{} {}", self.tone.sign(), self.title)
    }

    /// Title and headline on one line.
    #[must_use]
    pub fn subject(&self) -> String {
        let headline = self.headline.split_whitespace().collect::<Vec<_>>().join(" ");
        format!("{}: {headline}", self.title)
    }

    /// The title of an incident: of a failed payment where and why it failed, then how much; of a
    /// connector why, then which one.
    #[must_use]
    pub fn incident(&self) -> String {
        if self.tone != Tone::Bad {
            return self.subject();
        }
        let fact = |label| {
            let found = self.facts.iter().find(|fact| fact.label == label);
            found.map(|fact| one_line(&fact.value, MAX_INCIDENT_PART_CHARS))
        };
        let mut title = self.title.to_owned();
        if let Some(endpoint) = fact(ENDPOINT) {
            title.push_str(&format!(" on {endpoint}"));
        }
        if let Some(reason) = fact(REASON) {
            title.push_str(&format!(": {reason}"));
        }
        format!("{title} ({})", one_line(&self.headline, MAX_INCIDENT_PART_CHARS))
    }
}

/// A connector as its owner knows it: `Books (xero)`.
fn named(notice: &ConnectorNotice) -> String {
    let name = notice.name.as_deref().filter(|name| !name.is_empty());
    format!("{} ({})", name.unwrap_or(&notice.connector_id), notice.connector_type)
}

/// Of which others the same is to be said: `2: conn_2, conn_3`.
fn more(notice: &ConnectorNotice) -> String {
    let ids = notice.more_connector_ids.join(", ");
    match notice.more {
        None | Some(0) => String::new(),
        Some(more) if ids.is_empty() => count(more),
        Some(more) => format!("{}: {ids}", count(more)),
    }
}

const fn tone(kind: EventType) -> Tone {
    match kind {
        EventType::ConnectorResumed | EventType::ConnectorRecovered => Tone::Good,
        _ => Tone::Bad,
    }
}

fn count(count: u64) -> String {
    thousands(&count.to_string())
}

fn money(amount: &Amount, currency: &str) -> String {
    format!("{} {currency}", amount.grouped())
}

/// The text cut to at most `max` characters, with an ellipsis as the last one when it was cut.
#[must_use]
pub fn cut(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(max.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// The text with some characters replaced, cut so that the result has at most `max` characters,
/// with an ellipsis as the last one when it was cut; never inside a replacement.
#[must_use]
pub fn escaped(text: &str, max: usize, replace: impl Fn(char) -> Option<&'static str>) -> String {
    let mut out = String::new();
    let mut used = 0;
    // Where the text ends when it has to be cut: the ellipsis still fits behind it.
    let mut end = 0;
    for c in text.chars() {
        if let Some(replacement) = replace(c) {
            out.push_str(replacement);
            used += replacement.chars().count();
        } else {
            out.push(c);
            used += 1;
        }
        if used > max {
            out.truncate(end);
            out.push('…');
            return out;
        }
        if used < max {
            end = out.len();
        }
    }
    out
}

/// What stands in a message for a character that would not be shown as itself: a space for a
/// control character, nothing for one that turns the direction of the text around, because behind
/// it the text reads as another.
#[must_use]
pub fn blanked(c: char) -> Option<&'static str> {
    let breaks = c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    (!is_shown(c)).then_some(if breaks { " " } else { "" })
}

/// The text on one line, cut to at most `max` characters, without [`blanked`] characters.
#[must_use]
pub fn one_line(text: &str, max: usize) -> String {
    escaped(text, max, blanked)
}

#[cfg(test)]
mod tests {
    use super::{cut, escaped};

    #[test]
    fn an_escaped_text_is_never_cut_inside_an_escape() {
        let html = |c| match c {
            '&' => Some("&amp;"),
            _ => None,
        };
        assert_eq!(escaped("a&b", 7, html), "a&amp;b");
        assert_eq!(escaped("a&b", 6, html), "a…");
        assert_eq!(escaped("a&bc", 7, html), "a&amp;…");
        assert_eq!(escaped("&&", 5, html), "…");
        assert_eq!(escaped("&", 5, html), "&amp;");
        assert_eq!(escaped("", 5, html), "");
    }

    #[test]
    fn a_cut_is_between_characters() {
        assert_eq!(cut("🤝🤝🤝", 3), "🤝🤝🤝");
        assert_eq!(cut("🤝🤝🤝🤝", 3), "🤝🤝…");
        assert_eq!(cut("", 3), "");
    }
}
