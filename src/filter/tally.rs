//! What a filter says of many events: how many pass, and a few of each kind.

use std::collections::VecDeque;

use serde_json::{Value, json};

use super::{Facts, Filter, FilterError};
use crate::event::Event;

/// The most examples of each kind: of events that pass, of those that do not, and of those on which
/// the filter fails.
pub const MAX_EXAMPLES: usize = 3;

/// What a filter said of an event.
pub type Verdict = Result<bool, FilterError>;

/// A verdict as programs read it. An event is never lost to a filter that fails.
#[must_use]
pub fn to_json(verdict: &Verdict) -> Value {
    match verdict {
        Ok(passes) => json!({ "passes": passes }),
        Err(error) => json!({ "passes": true, "error": error.to_string() }),
    }
}

/// The verdict on an event, as programs read it.
#[must_use]
pub fn of_event(event: &Event, verdict: &Verdict) -> Value {
    let mut told = to_json(verdict);
    told["eventId"] = json!(event.id);
    told["eventType"] = json!(event.kind);
    told["occurredAt"] = json!(event.occurred_at);
    told
}

/// Counts verdicts.
#[derive(Default, Debug)]
pub struct Tally {
    /// Events that would be delivered, those on which the filter fails among them.
    pub passed: u64,
    /// Events that were looked at.
    pub looked: u64,
    /// Events on which the filter fails.
    pub errors: u64,
    passing: VecDeque<(Event, Verdict)>,
    failing: VecDeque<(Event, Verdict)>,
    filtered: VecDeque<(Event, Verdict)>,
}

impl Tally {
    /// Asks a filter about one more event.
    pub fn add(&mut self, filter: &Filter, event: Event) {
        let verdict = filter.passes(&Facts::of(&event.json));
        self.looked += 1;
        self.passed += u64::from(verdict != Ok(false));
        self.errors += u64::from(verdict.is_err());
        let examples = match verdict {
            Ok(true) => &mut self.passing,
            Ok(false) => &mut self.filtered,
            Err(_) => &mut self.failing,
        };
        examples.push_front((event, verdict));
        examples.truncate(MAX_EXAMPLES);
    }

    /// The last events of each kind, the last first.
    pub fn examples(&self) -> impl Iterator<Item = &(Event, Verdict)> {
        self.passing.iter().chain(&self.failing).chain(&self.filtered)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::event::{EventType, sample};

    #[test]
    fn verdicts_are_counted_with_the_last_of_each_kind() {
        let event = |number: usize| {
            let mut event: Value = serde_json::from_str(sample(EventType::PaymentSettled)).unwrap();
            event["id"] = json!(format!("evt_{number}"));
            if number % 3 != 2 {
                event["data"]["vip"] = json!(number.is_multiple_of(3));
            }
            Event::from_json(Bytes::from(event.to_string())).unwrap()
        };
        let filter = Filter::compile("event.data.vip").unwrap();
        let mut tally = Tally::default();
        assert_eq!(tally.examples().count(), 0);
        for number in 0..14 {
            tally.add(&filter, event(number));
        }
        assert_eq!((tally.looked, tally.passed, tally.errors), (14, 9, 4));
        let told: Vec<Value> =
            tally.examples().map(|(event, verdict)| of_event(event, verdict)).collect();
        let ids: Vec<&str> = told.iter().map(|one| one["eventId"].as_str().unwrap()).collect();
        let expected = [12, 9, 6, 11, 8, 5, 13, 10, 7].map(|number| format!("evt_{number}"));
        assert_eq!(ids, expected);
        assert_eq!(
            (&told[0]["passes"], &told[3]["passes"], &told[6]["passes"]),
            (&json!(true), &json!(true), &json!(false))
        );
        let fails: Vec<bool> = told.iter().map(|one| one.get("error").is_some()).collect();
        assert_eq!(fails, [false, false, false, true, true, true, false, false, false]);
        assert_eq!(told[0]["eventType"], "payment.settled");
        assert!(told[0]["occurredAt"].is_string());
    }
}
