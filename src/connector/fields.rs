//! The fields of a command, read one by one: whatever is wrong or left over is named at once.

use std::time::Duration;

use serde_json::{Map, Value};

use super::{FieldError, MAX_ACTOR_CHARS, did_you_mean, problem::MAX_FIELD_ERRORS};
use crate::{
    clock::Timestamp,
    destination::{ConnectorType, MAX_OVERLAP, cut},
    event::EventTypes,
    filter::Filter,
    id::IdError,
    text::harmless,
};

/// The fields of a JSON object that were not read yet, and what is wrong with those that were.
pub(super) struct Fields {
    pub(super) map: Map<String, Value>,
    pub(super) errors: Vec<FieldError>,
}

impl Fields {
    pub(super) fn new(map: Map<String, Value>) -> Self {
        Self { map, errors: Vec::new() }
    }

    pub(super) fn error(&mut self, field: &str, message: impl Into<String>) {
        self.errors.push(FieldError::new(field, message));
    }

    pub(super) fn text(&mut self, field: &str) -> Option<String> {
        match self.map.shift_remove(field) {
            Some(Value::String(text)) => return Some(text),
            Some(_) => self.error(field, "must be a string"),
            None => self.error(field, "is missing"),
        }
        None
    }

    pub(super) fn id<T>(
        &mut self,
        field: &str,
        parse: fn(&str) -> Result<T, IdError>,
    ) -> Option<T> {
        let text = self.text(field)?;
        parse(&text).map_err(|error| self.error(field, error.to_string())).ok()
    }

    pub(super) fn boolean(&mut self, field: &str) -> Option<bool> {
        match self.map.shift_remove(field)? {
            Value::Bool(value) => return Some(value),
            _ => self.error(field, "must be true or false"),
        }
        None
    }

    /// Every command may have one.
    pub(super) fn actor(&mut self) -> Option<String> {
        match self.map.shift_remove("actor")? {
            Value::String(actor) if actor.chars().count() <= MAX_ACTOR_CHARS => return Some(actor),
            Value::String(_) => {
                self.error("actor", format!("must have at most {MAX_ACTOR_CHARS} characters"));
            }
            _ => self.error("actor", "must be a string"),
        }
        None
    }

    /// How long a signing secret that is replaced goes on to sign.
    pub(super) fn overlap(&mut self) -> Option<Duration> {
        const FIELD: &str = "overlapSeconds";
        let seconds = self.map.shift_remove(FIELD)?.as_u64().map(Duration::from_secs);
        let overlap = seconds.filter(|overlap| *overlap <= MAX_OVERLAP);
        if overlap.is_none() {
            self.error(
                FIELD,
                format!("must be a whole number from 0 to {}", MAX_OVERLAP.as_secs()),
            );
        }
        overlap
    }

    /// What its owner calls it: outside, whether it is given at all; inside, nothing where the
    /// name is removed. Serializers of Avro cannot tell a null from what is left out, so an empty
    /// text removes as well.
    #[expect(clippy::option_option, reason = "left out, removed and given are three")]
    pub(super) fn name(&mut self) -> Option<Option<String>> {
        const FIELD: &str = "name";
        let name = match self.map.shift_remove(FIELD)? {
            Value::Null => return Some(None),
            Value::String(name) if name.is_empty() => return Some(None),
            Value::String(name) => name,
            _ => {
                self.error(FIELD, "must be a string");
                return None;
            }
        };
        if name.chars().count() > MAX_NAME_CHARS {
            self.error(FIELD, format!("must have at most {MAX_NAME_CHARS} characters"));
        } else if name.chars().any(|c| harmless(c) != c) {
            self.error(FIELD, "must not contain line breaks or other control characters");
        } else if name.trim().is_empty() {
            self.error(FIELD, "must not consist of spaces");
        } else {
            return Some(Some(name));
        }
        None
    }

    /// Which events it wants beside their type; read like a name.
    #[expect(clippy::option_option, reason = "left out, removed and given are three")]
    pub(super) fn filter(&mut self) -> Option<Option<String>> {
        const FIELD: &str = "filter";
        match self.map.shift_remove(FIELD)? {
            Value::Null => return Some(None),
            Value::String(text) if text.is_empty() => return Some(None),
            Value::String(text) => match Filter::compile(&text) {
                Ok(_) => return Some(Some(text)),
                Err(error) => self.error(FIELD, error.to_string()),
            },
            _ => self.error(FIELD, "must be a string"),
        }
        None
    }

    pub(super) fn time(&mut self, field: &str) -> Option<Timestamp> {
        let text = self.text(field)?;
        let time = Timestamp::parse(&text);
        time.map_err(|words| self.error(field, words)).ok()
    }

    pub(super) fn version(&mut self) -> Option<i64> {
        let value = self.map.shift_remove("ifVersion")?;
        let version = value.as_i64();
        if version.is_none() {
            self.error("ifVersion", "must be a whole number");
        }
        version
    }

    pub(super) fn required_object(&mut self, field: &str) -> Option<Map<String, Value>> {
        if !self.map.contains_key(field) {
            self.error(field, "is missing");
        }
        self.optional_object(field)
    }

    pub(super) fn optional_object(&mut self, field: &str) -> Option<Map<String, Value>> {
        match self.map.shift_remove(field)? {
            Value::Object(map) => return Some(map),
            _ => self.error(field, "must be an object"),
        }
        None
    }

    pub(super) fn connector_type(&mut self) -> Option<ConnectorType> {
        let text = self.text("type")?;
        if let Ok(kind) = text.parse() {
            return Some(kind);
        }
        let hint = did_you_mean(&text, ConnectorType::ALL.iter().map(|kind| kind.as_str()));
        self.error("type", format!("is unknown: {}{hint}", quoted(&text)));
        None
    }

    pub(super) fn event_types(&mut self, required: bool) -> Option<EventTypes> {
        const FIELD: &str = "eventTypes";
        let items = match self.map.shift_remove(FIELD) {
            Some(Value::Array(items)) => items,
            Some(_) => {
                self.error(FIELD, "must be a list of event types");
                return None;
            }
            None => {
                if required {
                    self.error(FIELD, "is missing");
                }
                return None;
            }
        };
        // Before any of them is looked at: each unknown one is compared with all that are known.
        if items.len() > MAX_EVENT_TYPES {
            self.error(FIELD, format!("must have at most {MAX_EVENT_TYPES} entries"));
            return None;
        }
        let names: Option<Vec<&str>> = items.iter().map(Value::as_str).collect();
        let Some(names) = names else {
            self.error(FIELD, "must be a list of strings");
            return None;
        };
        // A huge name would come back in the message.
        if let Some(long) = names.iter().find(|name| name.len() > MAX_QUOTED_CHARS) {
            self.error(FIELD, format!("has an unknown event type {}", quoted(long)));
            return None;
        }
        match EventTypes::parse(&names) {
            Ok(event_types) => Some(event_types),
            Err(messages) => {
                for message in messages {
                    self.error(FIELD, message);
                }
                None
            }
        }
    }

    /// Whatever was not read is unknown.
    pub(super) fn finish(&mut self, known: &[&str]) {
        // No more are named in the problem, so no more are compared with what is known.
        let room = MAX_FIELD_ERRORS.saturating_sub(self.errors.len());
        for (name, _) in std::mem::take(&mut self.map).into_iter().take(room + 1) {
            let hint = did_you_mean(&name, known.iter().copied());
            self.error(&cut(&name, MAX_QUOTED_CHARS), format!("is no known field{hint}"));
        }
    }
}

/// The longest name of a connector, in characters.
pub const MAX_NAME_CHARS: usize = 80;
/// The most entries of `eventTypes`: room for every type twice, and for those to come.
pub const MAX_EVENT_TYPES: usize = 64;
/// The longest name of a sender that a message repeats, in characters.
const MAX_QUOTED_CHARS: usize = 64;

pub(super) fn quoted(text: &str) -> String {
    format!("{:?}", cut(text, MAX_QUOTED_CHARS))
}
