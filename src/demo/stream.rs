//! The events: made from their number alone, so that the sink can tell what each must look like.

use serde_json::{Value, json};

use super::cast::{PARTS, PROJECTS, Part, SampleProject, Size};
use crate::{clock::Timestamp, event::EventType};

/// What stands before an event's number in its id.
pub const ID_PREFIX: &str = "evt_demo_";

/// 2026-11-23T08:00:00Z, when the first event happened.
const FIRST_AT: Timestamp = Timestamp::from_millis(1_795_420_800_000);
/// How far events lie apart.
const STEP_MILLIS: i64 = 1730;

/// How often each type occurs among a hundred.
const MIX: [(EventType, u64); 8] = [
    (EventType::PaymentVerified, 30),
    (EventType::PaymentSettled, 40),
    (EventType::PaymentFailed, 9),
    (EventType::CustomerFirstPayment, 8),
    (EventType::CustomerMilestone, 3),
    (EventType::EndpointCreated, 3),
    (EventType::EndpointPricingChanged, 4),
    (EventType::RevenueDailySummary, 3),
];

/// All events of one demo.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    events: u64,
    small: u64,
}

impl Stream {
    /// So many events.
    pub fn new(events: u64) -> Self {
        Self { events, small: (events * 45 / 100).min(900 + events / 50) }
    }

    /// How many events there are.
    pub fn len(&self) -> u64 {
        self.events
    }

    /// The id of an event.
    pub fn id(index: u64) -> String {
        format!("{ID_PREFIX}{index:07}")
    }

    /// The number of the event with this id.
    pub fn index(id: &str) -> Option<u64> {
        id.strip_prefix(ID_PREFIX)?.parse().ok()
    }

    /// The project of an event. Small projects' events are spread evenly among the others.
    pub fn project(&self, index: u64) -> &'static SampleProject {
        let before = index * self.small / self.events.max(1);
        let is_small = (index + 1) * self.small / self.events.max(1) > before;
        let (size, nth) =
            if is_small { (Size::Small, before) } else { (Size::Large, index - before) };
        let count = PROJECTS.iter().filter(|project| project.size == size).count();
        let nth = usize::try_from(nth).unwrap_or_default() % count.max(1);
        PROJECTS.iter().filter(|project| project.size == size).nth(nth).unwrap_or(&PROJECTS[0])
    }

    /// What happened.
    pub fn kind(index: u64) -> EventType {
        let mut left = chance(index, 0) % 100;
        for (kind, share) in MIX {
            match left.checked_sub(share) {
                None => return kind,
                Some(rest) => left = rest,
            }
        }
        EventType::PaymentSettled
    }

    /// The connectors that must get an event, by their place in [`PARTS`].
    pub fn takers(&self, index: u64) -> impl Iterator<Item = (usize, &'static Part)> {
        let (project, kind) = (self.project(index).id, Self::kind(index));
        PARTS
            .iter()
            .enumerate()
            .filter(move |(_, part)| part.project == project && part.wants(kind))
    }

    /// How many deliveries there will be.
    pub fn deliveries(&self) -> u64 {
        (0..self.events).map(|index| self.takers(index).count() as u64).sum()
    }

    /// An event as its producer writes it.
    pub fn json(&self, index: u64) -> String {
        let kind = Self::kind(index);
        let at = FIRST_AT.millis() + i64::try_from(index).unwrap_or_default() * STEP_MILLIS;
        let at = Timestamp::from_millis(at);
        json!({
            "id": Self::id(index),
            "type": kind,
            "projectId": self.project(index).id,
            "occurredAt": at,
            "data": data(index, kind, at),
        })
        .to_string()
    }
}

fn data(index: u64, kind: EventType, at: Timestamp) -> Value {
    let pick = |salt: u64, list: &[&str]| {
        let at = chance(index, salt) % list.len().max(1) as u64;
        list.get(usize::try_from(at).unwrap_or_default()).copied().unwrap_or_default().to_owned()
    };
    let below = |salt: u64, most: u64| chance(index, salt) % most;
    let payment = format!("pay_{:016x}", chance(index, 1));
    let endpoint = format!("ep_{}", 1 + below(2, 12));
    // Some hundred customers come again and again.
    let customer = format!("0x{}", hex(below(3, 400), 40));
    let amount = format!("{}.{:06}", below(4, 3), below(5, 1_000_000));
    let network = pick(6, &["base", "base", "base", "polygon", "solana"]);
    let path = pick(7, &["/v1/forecast", "/v1/tiles", "/v2/query", "/v1/render", "/v1/quote"]);
    let cents = |salt| format!("0.{:06}", 1000 * (1 + below(salt, 90)));
    match kind {
        EventType::PaymentVerified => json!({
            "paymentId": payment, "endpointId": endpoint, "customerId": customer,
            "amount": amount, "currency": "USDC", "network": network,
        }),
        EventType::PaymentSettled => json!({
            "paymentId": payment, "endpointId": endpoint, "customerId": customer,
            "amount": amount, "currency": "USDC", "network": network,
            "txHash": format!("0x{}", hex(index, 64)),
        }),
        EventType::PaymentFailed => json!({
            "paymentId": payment, "endpointId": endpoint, "customerId": customer,
            "amount": amount, "currency": "USDC", "network": network,
            "stage": pick(8, &["verify", "settle"]),
            "reason": pick(9, &["insufficient_funds", "signature expired", "nonce already used"]),
        }),
        EventType::CustomerFirstPayment => json!({
            "customerId": customer, "paymentId": payment, "endpointId": endpoint,
            "amount": amount, "currency": "USDC",
        }),
        EventType::CustomerMilestone => json!({
            "customerId": customer, "milestone": pick(10, &["100_calls", "1000_calls", "100_usdc"]),
            "totalSpent": format!("{}.250000", 10 + below(11, 990)), "currency": "USDC",
        }),
        EventType::EndpointCreated => json!({
            "endpointId": endpoint, "path": path, "price": cents(12), "currency": "USDC",
            "network": network,
        }),
        EventType::EndpointPricingChanged => json!({
            "endpointId": endpoint, "path": path, "oldPrice": cents(12), "newPrice": cents(13),
            "currency": "USDC",
        }),
        EventType::RevenueDailySummary => json!({
            "date": at.date(), "revenue": format!("{}.{:06}", below(14, 900), below(15, 1_000_000)),
            "currency": "USDC", "paymentCount": 100 + below(16, 5000),
            "customerCount": 10 + below(17, 300), "failedCount": below(18, 40),
        }),
        // The program's own, which no producer sends.
        EventType::ConnectorSuspended
        | EventType::ConnectorResumed
        | EventType::ConnectorFailing
        | EventType::ConnectorRecovered
        | EventType::ConnectorCredentialExpiring => Value::Null,
    }
}

/// So many hexadecimal digits that look like chance.
fn hex(seed: u64, digits: usize) -> String {
    let mut text = String::with_capacity(digits + 16);
    for salt in 100.. {
        if text.len() >= digits {
            break;
        }
        text.push_str(&format!("{:016x}", chance(seed, salt)));
    }
    text.truncate(digits);
    text
}

/// The same number each time for the same arguments, evenly spread (`SplitMix64`).
const fn chance(index: u64, salt: u64) -> u64 {
    let mut z = index
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(salt.wrapping_mul(0xd1b5_4a32_d192_ed03))
        .wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::event::Event;

    #[test]
    fn every_event_is_one_that_the_service_reads() {
        let stream = Stream::new(500);
        let mut kinds = BTreeMap::new();
        for index in 0..stream.len() {
            let event = Event::from_producer(stream.json(index).into()).unwrap();
            assert_eq!(Stream::index(event.id.as_str()), Some(index));
            assert_eq!(event.project.as_str(), stream.project(index).id);
            *kinds.entry(event.kind).or_insert(0) += 1;
        }
        assert_eq!(kinds.len(), EventType::PAYMENTS.len(), "{kinds:?}");
        assert_eq!(FIRST_AT.to_string(), "2026-11-23T08:00:00.000Z");
    }

    #[test]
    fn small_projects_stay_small_and_some_events_have_no_taker() {
        let of = |events: u64| {
            let stream = Stream::new(events);
            let small = (0..events).filter(|i| stream.project(*i).size == Size::Small).count();
            let unmatched = (0..events).filter(|i| stream.takers(*i).count() == 0).count();
            (small, unmatched)
        };
        assert_eq!(of(1).0, 0);
        assert_eq!(of(2000).0, 900);
        assert_eq!(of(50_000).0, 1900);
        assert!(of(2000).1 > 50);
    }

    #[test]
    fn every_connector_gets_something_of_a_short_stream() {
        let stream = Stream::new(120);
        for (place, part) in PARTS.iter().enumerate() {
            let count = (0..120).filter(|i| stream.takers(*i).any(|(at, _)| at == place)).count();
            assert!(count > 0, "{}", part.connector);
        }
    }
}
