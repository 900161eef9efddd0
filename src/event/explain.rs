//! What is wrong with a payment event, for its producer: every field at once. Fields are named,
//! values are not shown.

use std::{borrow::Cow, fmt};

use serde_json::value::RawValue;

use super::EventType;
use crate::{
    clock::{self, Timestamp},
    id::{EventId, IdError, ProjectId},
    json::{self, Pairs, Text},
    money::{Amount, MAX_AMOUNT_CHARS},
};

/// Names that differ by at most so many letters are taken for misspellings …
const MAX_TYPOS: usize = 2;
/// … of event types, which are longer.
const MAX_TYPE_TYPOS: usize = 4;
/// Of so many unknown fields the first ones are looked at for misspellings.
const MAX_UNKNOWN: usize = 100;
/// The most problems that are told of one event.
const MAX_PROBLEMS: usize = 20;

/// One thing that is wrong with an event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// The field, from the top: `data.amount`. Empty when it is the whole.
    pub field: String,
    /// What is wrong with it.
    pub words: Cow<'static, str>,
}

/// All that is wrong with an event.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Problems(pub Vec<Problem>);

const MISSING: &str = "is missing";

impl Problem {
    fn new(field: impl Into<String>, words: impl Into<Cow<'static, str>>) -> Self {
        Self { field: field.into(), words: words.into() }
    }

    /// Whether the field is not there.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        self.words.starts_with(MISSING)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.words.strip_prefix(MISSING) {
            Some(rest) if !self.field.contains('.') => {
                write!(f, "the event has no {}{rest}", self.field)
            }
            _ if self.field.is_empty() => f.write_str(&self.words),
            _ => write!(f, "{} {}", self.field, self.words),
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.0.iter().enumerate() {
            write!(f, "{}{problem}", if number == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

/// What a field of an event's `data` has to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Form {
    Text,
    Amount,
    Count,
    TextOrNumber,
    Date,
    /// Whatever it is: it is read where it has the right form, and else left out.
    Any,
}

/// A field of an event's `data`: its name, its form, and whether it has to be there.
pub(super) type Field = (&'static str, Form, bool);

pub(super) const fn fields(kind: EventType) -> &'static [Field] {
    use Form::{Amount, Any, Count, Date, Text, TextOrNumber};
    match kind {
        EventType::PaymentVerified => &[
            ("paymentId", Text, true),
            ("endpointId", Text, true),
            ("customerId", Text, true),
            ("amount", Amount, true),
            ("currency", Text, true),
            ("network", Text, true),
        ],
        EventType::PaymentSettled => &[
            ("paymentId", Text, true),
            ("endpointId", Text, true),
            ("customerId", Text, true),
            ("amount", Amount, true),
            ("currency", Text, true),
            ("network", Text, true),
            ("txHash", Text, true),
        ],
        EventType::PaymentFailed => &[
            ("paymentId", Text, true),
            ("endpointId", Text, true),
            ("customerId", Text, false),
            ("amount", Amount, true),
            ("currency", Text, true),
            ("network", Text, false),
            ("stage", Text, true),
            ("reason", Text, true),
        ],
        EventType::CustomerFirstPayment => &[
            ("customerId", Text, true),
            ("paymentId", Text, true),
            ("endpointId", Text, true),
            ("amount", Amount, true),
            ("currency", Text, true),
        ],
        EventType::CustomerMilestone => &[
            ("customerId", Text, true),
            ("milestone", TextOrNumber, true),
            ("totalSpent", Amount, true),
            ("currency", Text, true),
        ],
        EventType::EndpointCreated => &[
            ("endpointId", Text, true),
            ("path", Text, true),
            ("price", Amount, true),
            ("currency", Text, true),
            ("network", Text, true),
        ],
        EventType::EndpointPricingChanged => &[
            ("endpointId", Text, true),
            ("path", Text, true),
            ("oldPrice", Amount, true),
            ("newPrice", Amount, true),
            ("currency", Text, true),
        ],
        EventType::RevenueDailySummary => &[
            ("date", Date, true),
            ("revenue", Amount, true),
            ("currency", Text, true),
            ("paymentCount", Count, true),
            ("customerCount", Count, true),
            ("failedCount", Count, true),
        ],
        EventType::ConnectorSuspended
        | EventType::ConnectorResumed
        | EventType::ConnectorFailing
        | EventType::ConnectorRecovered
        | EventType::ConnectorCredentialExpiring => &[
            ("connectorId", Text, true),
            ("connectorType", Text, true),
            ("name", Text, false),
            ("reason", Text, true),
            ("detail", Text, false),
            ("since", Text, true),
            ("held", Count, false),
            ("more", Count, false),
            ("moreConnectorIds", Any, false),
        ],
    }
}

/// What the reader of events could not use, told in full.
pub(super) struct Found {
    pub problems: Problems,
    pub has_no_project: bool,
    pub has_unknown_type: bool,
}

/// Looks through an event's fields.
pub(super) fn look_through(pairs: &Pairs<'_>) -> Found {
    let mut found = Vec::new();
    let text = |name: &str, found: &mut Vec<Problem>| {
        let value = only(&pairs.0, name, "", found)?;
        // Null is as good as absent.
        if value.get() == "null" {
            return None;
        }
        match text_of(value) {
            Ok(text) => Some(Some(text)),
            Err(words) => {
                found.push(Problem::new(name, words));
                Some(None)
            }
        }
    };
    let id = |name: &str, found: &mut Vec<Problem>, parse: fn(&str) -> Option<IdError>| match text(
        name, found,
    ) {
        None => found.push(Problem::new(name, MISSING)),
        Some(None) => {}
        Some(Some(text)) => {
            found.extend(parse(&text).map(|error| Problem::new(name, error.to_string())));
        }
    };
    let project = text("projectId", &mut found);
    let has_no_project = match &project {
        None => true,
        Some(Some(project)) => project.is_empty(),
        Some(None) => false,
    };
    if has_no_project {
        let hint = hint_of_envelope(pairs).unwrap_or_default();
        found.push(Problem::new("projectId", format!("{MISSING}{hint}")));
    } else if let Some(Some(project)) = project {
        let error = ProjectId::parse(&project).err();
        found.extend(error.map(|error| Problem::new("projectId", error.to_string())));
    }
    id("id", &mut found, |text| EventId::parse(text).err());
    let mut kind = None;
    let mut has_unknown_type = false;
    match text("type", &mut found) {
        None => found.push(Problem::new("type", MISSING)),
        Some(None) => {}
        Some(Some(text)) => {
            kind = text.parse::<EventType>().ok();
            if kind.is_none() {
                has_unknown_type = true;
                found.push(Problem::new("", unknown_type(&text)));
            }
        }
    }
    match text("occurredAt", &mut found) {
        None => found.push(Problem::new("occurredAt", MISSING)),
        Some(None) => {}
        Some(Some(text)) => {
            found.extend(
                Timestamp::parse(&text).err().map(|words| Problem::new("occurredAt", words)),
            );
        }
    }
    match only(&pairs.0, "data", "", &mut found).filter(|value| value.get() != "null") {
        None => found.push(Problem::new("data", MISSING)),
        Some(data) => match serde_json::from_str::<Pairs<'_>>(data.get()) {
            Ok(Pairs(data)) => look_through_data(&data, kind, &mut found),
            Err(error) if data.get().starts_with('{') => {
                // Only the names in it were read.
                let words = json::words(data.get().as_bytes(), &error);
                let words = words.split(" at line ").next().unwrap_or_default();
                found
                    .push(Problem::new("data", format!("has a name that cannot be read: {words}")));
            }
            Err(_) => {
                let hint = match text_of(data) {
                    Ok(text) if text.trim_start().starts_with('{') => {
                        " (it holds JSON: the data was serialized twice)"
                    }
                    _ => "",
                };
                let words = format!("must be an object, not {}{hint}", json::kind(data));
                found.push(Problem::new("data", words));
            }
        },
    }
    let more = found.len().saturating_sub(MAX_PROBLEMS);
    if more > 0 {
        found.truncate(MAX_PROBLEMS);
        found.push(Problem::new("", format!("and {more} more")));
    }
    Found { problems: Problems(found), has_no_project, has_unknown_type }
}

fn look_through_data(
    data: &[(Cow<'_, str>, &RawValue)],
    kind: Option<EventType>,
    found: &mut Vec<Problem>,
) {
    let Some(kind) = kind else { return };
    for &(name, form, is_required) in fields(kind) {
        let full = format!("data.{name}");
        match only(data, name, "data.", found) {
            None if !is_required => {}
            None => {
                let words = match misspelt(data, kind, name) {
                    Some(given) => format!("{MISSING}; is data.{} meant?", json::name(given)),
                    None => MISSING.to_owned(),
                };
                found.push(Problem::new(full, words));
            }
            Some(value) if !is_required && value.get() == "null" => {}
            Some(value) => {
                found.extend(wrong(form, value).map(|words| Problem::new(full, words)));
            }
        }
    }
}

/// The value of a field that may stand once.
fn only<'a>(
    pairs: &[(Cow<'_, str>, &'a RawValue)],
    name: &str,
    path: &str,
    found: &mut Vec<Problem>,
) -> Option<&'a RawValue> {
    let mut all = pairs.iter().filter(|(given, _)| given == name).map(|(_, value)| *value);
    let first = all.next()?;
    if all.next().is_some() {
        found.push(Problem::new(format!("{path}{name}"), "stands there more than once"));
    }
    Some(first)
}

fn text_of(value: &RawValue) -> Result<Cow<'_, str>, String> {
    match serde_json::from_str(value.get()) {
        Ok(Text(text)) => Ok(text),
        Err(_) if value.get().starts_with('"') => {
            Err("has an escape that is no character (half of a surrogate pair)".to_owned())
        }
        Err(_) => Err(format!("must be a text, not {}", json::kind(value))),
    }
}

/// What is wrong with a value of this form.
fn wrong(form: Form, value: &RawValue) -> Option<String> {
    let number = |value: &RawValue| serde_json::from_str::<u64>(value.get()).is_ok();
    match form {
        Form::Any => None,
        Form::Text => text_of(value).err(),
        Form::Amount => match text_of(value) {
            Ok(text) if Amount::parse(&text).is_ok() => None,
            Ok(text) if text.len() > MAX_AMOUNT_CHARS => {
                Some(format!("has more than {MAX_AMOUNT_CHARS} characters"))
            }
            Ok(_) => Some("is no decimal amount such as \"1.25\"".to_owned()),
            Err(_) if value.get().starts_with('"') => text_of(value).err(),
            Err(_) => Some(format!(
                "must be an amount as a decimal string such as \"1.25\", not {}{}",
                json::kind(value),
                if json::kind(value) == "a number" { " (numbers lose digits)" } else { "" }
            )),
        },
        Form::Count if number(value) => None,
        Form::Count => Some(match json::kind(value) {
            "a number" => "must be a whole number from 0".to_owned(),
            other => format!("must be a whole number from 0, not {other}"),
        }),
        Form::TextOrNumber => {
            let is_number = number(value) || serde_json::from_str::<i64>(value.get()).is_ok();
            let said = match json::kind(value) {
                "a text" => return text_of(value).err(),
                "a number" => "must be a text or a whole number".to_owned(),
                other => format!("must be a text or a whole number, not {other}"),
            };
            (!is_number).then_some(said)
        }
        Form::Date => match text_of(value) {
            Ok(text) if clock::is_date(&text) => None,
            Ok(_) => Some("is no date such as 2026-11-23".to_owned()),
            Err(words) => Some(words),
        },
    }
}

/// An event that stands within something else: what is around it, and the setting that leaves it
/// out.
fn hint_of_envelope(pairs: &Pairs<'_>) -> Option<&'static str> {
    let has = |name: &str| pairs.0.iter().any(|(given, _)| given == name);
    (has("schema") && has("payload")).then_some(
        " (it looks like Kafka Connect's JSON with its schema around it: set \
         value.converter.schemas.enable=false)",
    )
}

fn knows(kind: EventType, name: &str) -> bool {
    fields(kind).iter().any(|(known, ..)| *known == name)
}

/// Whether two names differ by a slip of the hand.
fn are_near(given: &str, known: &str, typos: usize) -> bool {
    given.len().abs_diff(known.len()) <= typos && strsim::damerau_levenshtein(given, known) <= typos
}

fn misspelt<'a>(
    data: &'a [(Cow<'_, str>, &RawValue)],
    kind: EventType,
    name: &str,
) -> Option<&'a str> {
    let unknown = data.iter().map(|(given, _)| &**given).filter(|given| !knows(kind, given));
    unknown.take(MAX_UNKNOWN).find(|given| are_near(given, name, MAX_TYPOS))
}

fn unknown_type(given: &str) -> String {
    // A name is shown, and nothing else that may stand there by mistake.
    let is_name = given.len() <= json::MAX_NAME_CHARS
        && given.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._:-/".contains(&byte));
    let shown = if is_name { format!(" {given:?}") } else { String::new() };
    if let Some(near) = nearest_type(given) {
        return format!("unknown event type{shown}; did you mean {:?}?", near.as_str());
    }
    let all: Vec<&str> = EventType::ALL.iter().map(|known| known.as_str()).collect();
    format!("unknown event type{shown}; the types are {}", all.join(", "))
}

/// The event type that a misspelt one may mean.
pub(super) fn nearest_type(given: &str) -> Option<EventType> {
    let near = |kind: &&EventType| are_near(given, kind.as_str(), MAX_TYPE_TYPOS);
    let distance = |kind: &&EventType| strsim::damerau_levenshtein(given, kind.as_str());
    EventType::ALL.iter().filter(near).min_by_key(distance).copied()
}

/// Fields of an event's `data` that no schema knows and that look like misspellings of one that is
/// absent. They are passed on, so this is no error.
#[must_use]
pub fn suspicions(event: &super::Event) -> Vec<Problem> {
    let read = || {
        let Pairs(pairs) = serde_json::from_slice(&event.json).ok()?;
        let (_, data) = pairs.into_iter().find(|(name, _)| name == "data")?;
        serde_json::from_str::<Pairs<'_>>(data.get()).ok()
    };
    let Some(Pairs(data)) = read() else { return Vec::new() };
    let unknown = data.iter().filter(|(name, _)| !knows(event.kind, name)).take(MAX_UNKNOWN);
    let near = |(unknown, _): &(Cow<'_, str>, &RawValue)| {
        let absent = fields(event.kind)
            .iter()
            .filter(|(name, ..)| data.iter().all(|(given, _)| given != name));
        let (meant, ..) =
            absent.into_iter().find(|(name, ..)| are_near(unknown, name, MAX_TYPOS))?;
        let field = format!("data.{}", json::name(unknown));
        Some(Problem::new(field, format!("is unknown; did you mean {meant}?")))
    };
    unknown.filter_map(near).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::event::{Event, EventError, sample};

    fn read(json: &str) -> Result<Event, EventError> {
        Event::from_json(json.to_owned().into())
    }

    fn problems(json: &str) -> Vec<String> {
        let error = read(json).unwrap_err();
        error.problems().0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_wrong_field_is_told_at_once() {
        let mut event: Value = serde_json::from_str(sample(EventType::PaymentSettled)).unwrap();
        event["occurredAt"] = json!(1_795_420_800_000_u64);
        event["id"] = json!("evt 2");
        event["data"]["amount"] = json!(1.25);
        let data = event["data"].as_object_mut().unwrap();
        data.remove("txHash");
        let given = data.remove("currency").unwrap();
        data.insert("curency".to_owned(), given);
        insta::assert_snapshot!(problems(&event.to_string()).join("\n"), @r#"
        id must consist of letters, digits and _ . : - only, has ' '
        occurredAt must be a text, not a number
        data.amount must be an amount as a decimal string such as "1.25", not a number (numbers lose digits)
        data.currency is missing; is data.curency meant?
        data.txHash is missing
        "#);
        let setled = sample(EventType::PaymentSettled).replace("payment.settled", "payment.setled");
        assert!(problems(&setled)[0].contains("did you mean \"payment.settled\"?"));
        let twice = sample(EventType::PaymentSettled)
            .replace("{\"paymentId", "{\"amount\":\"1\",\"paymentId");
        assert_eq!(problems(&twice), ["data.amount stands there more than once"]);
        let wrapped =
            format!(r#"{{"schema":{{}},"payload":{}}}"#, sample(EventType::PaymentSettled));
        assert!(problems(&wrapped)[0].contains("schemas.enable"));
    }

    #[test]
    fn no_value_is_shown_and_nothing_is_long() {
        let secret = "\u{7f}s3cret".repeat(100_000);
        for kind in EventType::ALL {
            let whole: Value = serde_json::from_str(sample(*kind)).unwrap();
            let mut paths: Vec<String> = vec![String::new()];
            paths.extend(whole.as_object().unwrap().keys().map(|name| format!("/{name}")));
            paths.extend(
                whole["data"].as_object().unwrap().keys().map(|name| format!("/data/{name}")),
            );
            for path in paths {
                for wrong in [
                    json!(secret),
                    json!([secret]),
                    json!({ secret.clone(): secret }),
                    json!(null),
                    json!(-1),
                ] {
                    let mut event = whole.clone();
                    *event.pointer_mut(&path).unwrap() = wrong;
                    if let Err(error) = read(&event.to_string()) {
                        let said = error.to_string();
                        assert!(!said.contains("s3cret") && said.len() < 2000, "{path}: {said}");
                    }
                }
            }
        }
    }

    /// Each event with one field changed in each of these ways.
    fn variants() -> Vec<String> {
        let values = [
            json!(null),
            json!(true),
            json!(0),
            json!(-1),
            json!(1.5),
            json!(1e30),
            json!(""),
            json!("x"),
            json!("1.25"),
            json!("1e3"),
            json!("9".repeat(97)),
            json!("2026-11-23"),
            json!("20261123"),
            json!("2026-11-23T08:00:00Z"),
            json!("a b"),
            json!([]),
            json!(["x"]),
            json!({}),
            json!("payment.settled"),
        ];
        let mut found = Vec::new();
        for kind in EventType::ALL {
            let whole: Value = serde_json::from_str(sample(*kind)).unwrap();
            let names =
                |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
            let top = names(&whole).into_iter().map(|name| (None, name));
            let data = names(&whole["data"]).into_iter().map(|name| (Some("data"), name));
            for (within, name) in top.chain(data) {
                let change = |value: Option<Value>| {
                    let mut event = whole.clone();
                    let object = match within {
                        Some(within) => event[within].as_object_mut().unwrap(),
                        None => event.as_object_mut().unwrap(),
                    };
                    match value {
                        Some(value) => drop(object.insert(name.clone(), value)),
                        None => drop(object.remove(&name)),
                    }
                    event.to_string()
                };
                found.push(change(None));
                found.extend(values.iter().map(|value| change(Some(value.clone()))));
                let lone = change(Some(json!("SURROGATE"))).replace("SURROGATE", "\\ud800");
                let twice = change(None).replacen('{', &format!("{{\"{name}\":1,\"{name}\":2,"), 1);
                found.extend([lone, twice]);
            }
        }
        found
    }

    #[test]
    fn what_the_reader_refuses_is_explained_and_nothing_else() {
        let (mut right, mut wrong) = (0, 0);
        for json in variants() {
            let pairs: Pairs<'_> = serde_json::from_str(&json).unwrap();
            let found = look_through(&pairs);
            match Event::read(json.as_bytes()) {
                Ok(_) => {
                    right += 1;
                    assert_eq!(found.problems.0, [], "{json}");
                }
                Err(error) => {
                    wrong += 1;
                    assert!(!found.problems.0.is_empty(), "{json}: {error}");
                }
            }
        }
        assert!(right > 100 && wrong > 1000, "{right} {wrong}");
    }

    #[test]
    fn the_fields_are_those_of_the_schema() {
        for &kind in EventType::PAYMENTS {
            let schema = crate::codec::ReadAs::Data(Some(kind)).schema().unwrap();
            let apache_avro::Schema::Record(record) = &schema.root else { panic!() };
            let ours: Vec<_> =
                fields(kind).iter().map(|(name, _, required)| (*name, *required)).collect();
            let theirs: Vec<_> =
                record.fields.iter().map(|field| (&*field.name, field.default.is_none())).collect();
            assert_eq!(ours, theirs);
        }
    }

    #[test]
    fn a_misspelt_optional_field_is_suspicious() {
        let event =
            read(&sample(EventType::PaymentFailed).replace("customerId", "custmerId")).unwrap();
        let found: Vec<String> = suspicions(&event).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["data.custmerId is unknown; did you mean customerId?"]);
        for kind in EventType::ALL {
            assert_eq!(suspicions(&read(sample(*kind)).unwrap()), []);
        }
    }
}
