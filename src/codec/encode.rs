//! JSON text into Avro bytes, by one of our schemas.
//!
//! It reads the text piece by piece and copies what the schema keeps as text, so that what comes
//! back is what went in. What the schema has no place for is an error, and the caller then writes
//! the JSON as it is: readers take both.

use std::borrow::Cow;

use apache_avro::schema::{RecordSchema, Schema, UnionSchema};
use serde_json::{Value, value::RawValue};

use super::schemas::{Look, RecordKind, Schemas, attribute, look};
use crate::{
    clock::Timestamp,
    json::{Pairs, Text},
};

/// The JSON has something that the schema has no place for.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}{why}", if path.is_empty() { String::new() } else { format!("{path}: ") })]
pub struct NotExpressible {
    path: String,
    why: &'static str,
}

impl NotExpressible {
    fn new(why: &'static str) -> Self {
        Self { path: String::new(), why }
    }

    fn within(mut self, name: &str) -> Self {
        self.path = match self.path.as_str() {
            "" => name.to_owned(),
            path => format!("{name}.{path}"),
        };
        self
    }
}

/// Writes a record's JSON as Avro, behind what `out` holds already.
pub fn from_json(kind: RecordKind, json: &[u8], out: Vec<u8>) -> Result<Vec<u8>, NotExpressible> {
    let json: &RawValue =
        serde_json::from_slice(json).map_err(|_| NotExpressible::new("is no JSON"))?;
    let schemas = kind.schema();
    let mut writer = Writer { schemas, out, rest: Vec::new(), keep_rest: false, event_type: None };
    writer.value(&schemas.root, json)?;
    Ok(writer.out)
}

struct Writer<'j> {
    schemas: &'static Schemas,
    out: Vec<u8>,
    /// Fields of the extensible field that the schema does not know.
    rest: Vec<(Cow<'j, str>, &'j RawValue)>,
    /// Whether such fields are kept at this place.
    keep_rest: bool,
    /// The event's type: it says which record its `data` is.
    event_type: Option<Cow<'j, str>>,
}

impl<'j> Writer<'j> {
    fn value(&mut self, schema: &Schema, json: &'j RawValue) -> Result<(), NotExpressible> {
        let schemas = self.schemas;
        let schema = schemas.find(schema).ok_or(NotExpressible::new("has an unknown type"))?;
        let wrong = |_| NotExpressible::new("has another type than the schema says");
        match schema {
            Schema::Null if json.get() == "null" => {}
            Schema::Boolean => {
                let value: bool = serde_json::from_str(json.get()).map_err(wrong)?;
                self.out.push(u8::from(value));
            }
            Schema::Int => {
                let value: i32 = serde_json::from_str(json.get()).map_err(wrong)?;
                self.long(i64::from(value));
            }
            Schema::Long => {
                let value: i64 = serde_json::from_str(json.get()).map_err(wrong)?;
                self.long(value);
            }
            Schema::Double => {
                let value: f64 = serde_json::from_str(json.get()).map_err(wrong)?;
                self.out.extend_from_slice(&value.to_le_bytes());
            }
            Schema::String => {
                let Text(text) = serde_json::from_str(json.get()).map_err(wrong)?;
                self.text(&text);
            }
            Schema::TimestampMillis => {
                let Text(text) = serde_json::from_str(json.get()).map_err(wrong)?;
                let time = Timestamp::parse(&text)
                    .ok()
                    .filter(|time| time.to_string() == text)
                    .ok_or(NotExpressible::new("is no UTC time in milliseconds"))?;
                self.long(time.millis());
            }
            Schema::Array(array) => {
                let items: Vec<&RawValue> = serde_json::from_str(json.get()).map_err(wrong)?;
                self.block(items.len());
                for item in &items {
                    self.value(&array.items, item)?;
                }
                self.end();
            }
            Schema::Map(map) => {
                let Pairs(pairs) = serde_json::from_str(json.get()).map_err(wrong)?;
                self.block(pairs.len());
                for (name, value) in &pairs {
                    self.text(name);
                    self.value(&map.types, value).map_err(|error| error.within(name))?;
                }
                self.end();
            }
            Schema::Union(union) => self.union(union, json)?,
            Schema::Record(record) => self.record(record, json)?,
            _ => return Err(NotExpressible::new("has another type than the schema says")),
        }
        Ok(())
    }

    fn union(&mut self, union: &UnionSchema, json: &'j RawValue) -> Result<(), NotExpressible> {
        let schemas = self.schemas;
        let variants = || union.variants().iter().enumerate();
        // An event's type names its record; other records are told apart by what fits.
        let named = variants().find(|(_, variant)| match variant {
            Schema::Record(record) => {
                self.event_type.is_some()
                    && attribute(&record.attributes, "eventType") == self.event_type.as_deref()
            }
            _ => false,
        });
        if let Some((number, variant)) = named {
            self.long(i64::try_from(number).unwrap_or_default());
            return self.value(variant, json);
        }
        let mut why = NotExpressible::new("has another type than the schema says");
        let (start, rest) = (self.out.len(), self.rest.len());
        for (number, variant) in variants() {
            if !schemas.find(variant).is_some_and(|schema| may_be(schema, json.get())) {
                continue;
            }
            self.long(i64::try_from(number).unwrap_or_default());
            match self.value(variant, json) {
                Ok(()) => return Ok(()),
                Err(error) => why = error,
            }
            self.out.truncate(start);
            self.rest.truncate(rest);
        }
        Err(why)
    }

    fn record(&mut self, record: &RecordSchema, json: &'j RawValue) -> Result<(), NotExpressible> {
        let Pairs(mut pairs) = serde_json::from_str(json.get())
            .map_err(|_| NotExpressible::new("is no JSON object"))?;
        let keep_rest = std::mem::take(&mut self.keep_rest);
        let extensible = record.fields.iter().find_map(|field| match look(field) {
            Look::RestOf(name) => Some(name),
            _ => None,
        });
        if extensible.is_some() {
            let found = pairs.iter().find(|(name, _)| name == "type");
            let text = found.and_then(|(_, kind)| serde_json::from_str(kind.get()).ok());
            self.event_type = text.map(|Text(text)| text);
        }
        for field in &record.fields {
            let (name, is_text) = match look(field) {
                Look::Plain(name) => (name, false),
                Look::Text(name) => (name, true),
                Look::RestOf(_) => {
                    self.rest();
                    continue;
                }
            };
            let found = pairs.iter().position(|(key, _)| key == name);
            let written = match found.map(|at| pairs.remove(at)) {
                Some((_, value)) if is_text => self.json_text(&field.schema, value),
                Some((_, value)) => {
                    self.keep_rest = extensible == Some(name);
                    self.value(&field.schema, value)
                }
                None => self.default(&field.schema, field.default.as_ref()),
            };
            self.keep_rest = false;
            written.map_err(|error| error.within(name))?;
        }
        match pairs.first() {
            Some((name, _)) if !keep_rest => {
                Err(NotExpressible::new("is not in the schema").within(name))
            }
            _ => {
                self.rest.append(&mut pairs);
                Ok(())
            }
        }
    }

    /// A JSON value as a text, or as the text of a union.
    fn json_text(&mut self, schema: &Schema, json: &RawValue) -> Result<(), NotExpressible> {
        if let Schema::Union(union) = schema {
            let text = union.variants().iter().position(|one| matches!(one, Schema::String));
            let text = text.ok_or(NotExpressible::new("has another type than the schema says"))?;
            self.long(i64::try_from(text).unwrap_or_default());
        }
        self.text(json.get());
        Ok(())
    }

    fn rest(&mut self) {
        let rest = std::mem::take(&mut self.rest);
        self.block(rest.len());
        for (name, value) in &rest {
            self.text(name);
            self.text(value.get());
        }
        self.end();
    }

    /// The value of a field that the JSON does not have.
    fn default(&mut self, schema: &Schema, default: Option<&Value>) -> Result<(), NotExpressible> {
        match (schema, default) {
            (Schema::Union(_), Some(Value::Null)) => self.long(0),
            (Schema::Int | Schema::Long, Some(Value::Number(number))) => {
                let default = number.as_i64().ok_or(NotExpressible::new("has no whole default"))?;
                self.long(default);
            }
            _ => return Err(NotExpressible::new("is missing")),
        }
        Ok(())
    }

    fn text(&mut self, text: &str) {
        self.long(i64::try_from(text.len()).unwrap_or_default());
        self.out.extend_from_slice(text.as_bytes());
    }

    /// The count before the items of an array or map; an empty one has only its end.
    fn block(&mut self, count: usize) {
        if count > 0 {
            self.long(i64::try_from(count).unwrap_or_default());
        }
    }

    fn end(&mut self) {
        self.long(0);
    }

    /// A number in Avro's zig-zag form of variable length.
    fn long(&mut self, number: i64) {
        let mut left = ((number << 1) ^ (number >> 63)).cast_unsigned();
        while left >= 0x80 {
            self.out.push(u8::try_from(left & 0x7f).unwrap_or_default() | 0x80);
            left >>= 7;
        }
        self.out.push(u8::try_from(left).unwrap_or_default());
    }
}

/// Whether a JSON text may be a value of the schema, by how it begins.
fn may_be(schema: &Schema, json: &str) -> bool {
    match json.as_bytes().first() {
        Some(b'n') => matches!(schema, Schema::Null),
        Some(b't' | b'f') => matches!(schema, Schema::Boolean),
        Some(b'"') => matches!(schema, Schema::String | Schema::TimestampMillis),
        Some(b'[') => matches!(schema, Schema::Array(_)),
        Some(b'{') => matches!(schema, Schema::Record(_) | Schema::Map(_)),
        _ => matches!(schema, Schema::Int | Schema::Long | Schema::Double),
    }
}
