//! What later versions of this program wrote into state records, kept as it is.

use std::fmt;

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::StateError;
use crate::destination::cut;

/// What a later version of this program wrote and this one does not understand. It is kept as it
/// is and written back whenever the record is written. Its `Debug` shows only names: what is not
/// understood may be a secret.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Later {
    /// Fields that are unknown here, and known ones whose value is.
    pub(super) fields: Map<String, Value>,
    /// Event types that are unknown here.
    pub(super) event_types: Vec<String>,
    /// Why the record cannot be acted on, when a known field has a value that is unknown here.
    unusable: Option<String>,
}

impl Later {
    /// Why the record cannot be acted on by this version, if so.
    #[must_use]
    pub fn unusable(&self) -> Option<&str> {
        self.unusable.as_deref()
    }

    /// The event types that are unknown here.
    #[must_use]
    pub fn event_types(&self) -> &[String] {
        &self.event_types
    }

    /// The event types were replaced by ones that are known here.
    pub fn forget_event_types(&mut self) {
        self.event_types.clear();
        self.fields.shift_remove("eventTypes");
    }

    /// The field was replaced by a value that is known here.
    pub fn forget(&mut self, field: &str) {
        self.fields.shift_remove(field);
        if self.fields.is_empty() {
            self.unusable = None;
        }
    }

    /// The text of a known field whose value is unknown here.
    #[must_use]
    pub fn text(&self, field: &str) -> Option<&str> {
        self.fields.get(field)?.as_str()
    }

    /// The value of a known field, or `instead` when the value is unknown here.
    pub(super) fn known<T: DeserializeOwned>(
        &mut self,
        map: &mut Map<String, Value>,
        field: &'static str,
        instead: T,
    ) -> Result<T, StateError> {
        let value = map.shift_remove(field).ok_or_else(|| missing(field))?;
        if let Ok(known) = T::deserialize(&value) {
            return Ok(known);
        }
        let shown = value.as_str().map(|text| format!(" {:?}", cut(text, MAX_SHOWN_CHARS)));
        self.unusable.get_or_insert_with(|| {
            format!(
                "a later version of this program wrote it: its {field}{} is unknown to this \
                 version; upgrade this instance",
                // A configuration may have secrets; the names of types, tiers and so on do not.
                shown.filter(|_| field == "type" || field == "tier").unwrap_or_default()
            )
        });
        self.fields.insert(field.to_owned(), value);
        Ok(instead)
    }

    /// The record's JSON with what is kept here.
    pub(super) fn written_into(&self, known: &impl Serialize) -> Vec<u8> {
        if self.fields.is_empty() {
            return to_bytes(known);
        }
        let Ok(Value::Object(mut map)) = serde_json::to_value(known) else { return Vec::new() };
        for (field, value) in &self.fields {
            map.insert(field.clone(), value.clone());
        }
        to_bytes(&map)
    }
}

impl fmt::Debug for Later {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.fields.keys()).entries(&self.event_types).finish()
    }
}

/// The longest text of a later version that a message repeats, in characters.
const MAX_SHOWN_CHARS: usize = 64;

fn missing(field: &'static str) -> StateError {
    StateError::Json(serde::de::Error::missing_field(field))
}

pub(super) fn required<T: DeserializeOwned>(
    map: &mut Map<String, Value>,
    field: &'static str,
) -> Result<T, StateError> {
    let value = map.shift_remove(field).ok_or_else(|| missing(field))?;
    Ok(T::deserialize(value)?)
}

/// Texts, numbers and maps with text keys always have a JSON form.
fn to_bytes(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}
