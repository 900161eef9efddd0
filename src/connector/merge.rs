//! A configuration in the making: the given fields are taken into the stored ones, and everything that
//! is wrong with them is named at once.

use serde_json::Value;

use super::{
    Config, ConfigValue, FieldError,
    config::{ELLIPSIS, to_value},
    did_you_mean,
    problem::MAX_FIELD_ERRORS,
    rotation, signing,
};
use crate::{
    destination::{
        Checks, ConnectorType, Field, REFRESH_TOKEN, SIGNING_SECRET, Settings, check_ways, cut,
        is_in_a_way,
    },
    event::EventTypes,
};

pub(super) struct Merge<'a> {
    pub(super) kind: ConnectorType,
    pub(super) checks: Checks<'a>,
    pub(super) stored: &'a Config,
    pub(super) config: Config,
    pub(super) changed: bool,
    pub(super) errors: Vec<FieldError>,
}

impl Merge<'_> {
    fn error(&mut self, name: &str, message: impl Into<String>) {
        self.errors.push(FieldError::new(format!("config.{name}"), message));
    }

    pub(super) fn take(&mut self, name: &str, value: &Value) {
        let Some(field) = self.kind.field(name) else {
            let refused = self.kind.spec().refused.iter().find(|(known, _)| *known == name);
            if let Some((_, words)) = refused {
                return self.error(name, *words);
            }
            let known = self.kind.spec().fields.iter().map(|field| field.name);
            // More errors are not told, so their names need no comparison.
            let is_told = self.errors.len() < MAX_FIELD_ERRORS;
            let hint = if is_told { did_you_mean(name, known) } else { String::new() };
            let message = format!("is no setting of {}{hint}", self.kind);
            return self.error(&cut(name, 64), message);
        };
        if value.is_null() {
            return self.remove(field);
        }
        if field.secret && value.as_str().is_some_and(|text| text.contains(ELLIPSIS)) {
            return self.keep_masked(field, value);
        }
        match Settings::read(field, value, &self.checks) {
            Ok(setting) => {
                let value = ConfigValue::Plain(to_value(&setting));
                // An encrypted value cannot be compared; its owner gave it again for a reason.
                let changed = self.stored.get(name) != Some(&value);
                if field.name == REFRESH_TOKEN {
                    rotation::take_refresh_token(&mut self.config, value.text());
                }
                self.config.insert(name, value);
                self.note_change(field, changed);
            }
            Err(message) => self.error(name, message),
        }
    }

    fn remove(&mut self, field: &Field) {
        if !field.required {
            let changed = self.config.remove(field.name);
            if field.name == REFRESH_TOKEN {
                rotation::take_refresh_token(&mut self.config, None);
            }
            self.note_change(field, changed);
        } else if self.stored.get(field.name).is_some() {
            self.error(field.name, "is required and cannot be removed");
        }
    }

    fn note_change(&mut self, field: &Field, changed: bool) {
        self.changed |= changed;
        if changed && field.name == SIGNING_SECRET {
            signing::forget_previous(&mut self.config);
        }
    }

    /// A mask that comes back leaves the secret as it is, and must never become one.
    fn keep_masked(&mut self, field: &Field, value: &Value) {
        let stored = self.stored.get(field.name).map(ConfigValue::mask);
        if stored.as_deref() != value.as_str() {
            self.error(
                field.name,
                "is a mask, not the value: give the whole value, or leave the field out to keep it",
            );
        }
    }

    pub(super) fn check_required(&mut self) {
        for field in self.kind.spec().fields.iter().filter(|field| field.required) {
            let path = format!("config.{}", field.name);
            let is_told = self.errors.iter().any(|error| error.field == path);
            if self.config.get(field.name).is_none() && !is_told {
                self.errors.push(FieldError::new(path, format!("is missing: {}", field.help)));
            }
        }
    }

    /// Exactly one way to authenticate, once what is given for it is right by itself.
    pub(super) fn check_ways(&mut self) {
        let ways = self.kind.spec().ways;
        let is_of_a_way = |error: &FieldError| {
            error.field.strip_prefix("config.").is_some_and(|name| is_in_a_way(ways, name))
        };
        if self.errors.iter().any(is_of_a_way) {
            return;
        }
        for (name, message) in check_ways(ways, &self.config.plain_settings(self.kind)) {
            self.error(name, message);
        }
    }

    /// The checks that need more than one field, once each field is right by itself.
    pub(super) fn check_together(&mut self, event_types: &EventTypes) {
        if !self.errors.is_empty() {
            return;
        }
        let settings = self.config.plain_settings(self.kind);
        for (name, message) in (self.kind.spec().check)(&settings, event_types) {
            if self.kind.field(name).is_some() {
                self.error(name, message);
            } else {
                self.errors.push(FieldError::new(name, message));
            }
        }
    }
}
