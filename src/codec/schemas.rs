//! The Avro schemas of this program's records: the files in `schemas/`.
//!
//! Beside what Avro knows, a few attributes say how a record looks in JSON: `jsonName` (a field's
//! name there, where Avro's names do not permit it), `json` (the text is JSON and stands in the
//! JSON as it is; or it holds the rest of another field), and `eventType` (which events have this
//! record as their `data`). Other programs ignore them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{LazyLock, Once},
};

use apache_avro::{
    AvroResult,
    schema::{Name, RecordField, RecordSchema, Schema},
    validator::{
        EnumSymbolNameValidator, RecordFieldNameValidator, SchemaNameValidator,
        SchemaNamespaceValidator, set_enum_symbol_name_validator, set_record_field_name_validator,
        set_schema_name_validator, set_schema_namespace_validator,
    },
};
use serde_json::Value;

use crate::event::EventType;

/// What a record is, by its topic.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RecordKind {
    /// A payment event.
    Event,
    /// A connector command.
    Command,
    /// A connector's or project's state.
    State,
    /// A command's result.
    Result,
    /// What an accepted command did.
    History,
    /// A delivery that waits.
    Delivery,
    /// A delivery that ended undelivered.
    DeadLetter,
    /// The outcome of an attempt.
    Attempt,
}

impl RecordKind {
    /// Every kind.
    pub const ALL: &[Self] = &[
        Self::Event,
        Self::Command,
        Self::State,
        Self::Result,
        Self::History,
        Self::Delivery,
        Self::DeadLetter,
        Self::Attempt,
    ];

    /// The name of its file in `schemas/`, without the ending.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Command => "command",
            Self::State => "state",
            Self::Result => "result",
            Self::History => "history",
            Self::Delivery => "delivery-record",
            Self::DeadLetter => "dead-letter",
            Self::Attempt => "attempt",
        }
    }

    /// The schema's text.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Event => include_str!("../../schemas/event.avsc"),
            Self::Command => include_str!("../../schemas/command.avsc"),
            Self::State => include_str!("../../schemas/state.avsc"),
            Self::Result => include_str!("../../schemas/result.avsc"),
            Self::History => include_str!("../../schemas/history.avsc"),
            Self::Delivery => include_str!("../../schemas/delivery-record.avsc"),
            Self::DeadLetter => include_str!("../../schemas/dead-letter.avsc"),
            Self::Attempt => include_str!("../../schemas/attempt.avsc"),
        }
    }

    /// The schema.
    #[must_use]
    pub fn schema(self) -> &'static Schemas {
        &OURS[self as usize]
    }
}

/// As what a value is read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ReadAs {
    /// A whole record.
    Record(RecordKind),
    /// The `data` of an event, by itself: of this type, or of one that this version does not know.
    Data(Option<EventType>),
}

impl ReadAs {
    /// Our schema for it, if there is one.
    #[must_use]
    pub fn schema(self) -> Option<&'static Schemas> {
        match self {
            Self::Record(kind) => Some(kind.schema()),
            Self::Data(kind) => DATA.get(kind?.index()),
        }
    }
}

/// Our schemas of events' `data`, in the order of [`EventType::PAYMENTS`].
static DATA: LazyLock<Vec<Schemas>> = LazyLock::new(|| {
    let event = RecordKind::Event.schema();
    let found = EventType::PAYMENTS.iter().map(|kind| {
        let root = data_record(*kind).map_or(Schema::Null, |record| Schema::Record(record.clone()));
        Schemas { root, named: event.named.clone() }
    });
    found.collect()
});

fn data_record(kind: EventType) -> Option<&'static RecordSchema> {
    let Schema::Record(event) = &RecordKind::Event.schema().root else { return None };
    let data = event.fields.iter().find(|field| field.name == "data")?;
    let Schema::Union(union) = &data.schema else { return None };
    union.variants().iter().find_map(|variant| match variant {
        Schema::Record(record)
            if attribute(&record.attributes, "eventType") == Some(kind.as_str()) =>
        {
            Some(record)
        }
        _ => None,
    })
}

/// What the schema says of a field of an event of this type: `occurredAt`, `data.amount`.
#[must_use]
pub fn doc(kind: Option<EventType>, field: &str) -> Option<&'static str> {
    let Schema::Record(event) = &RecordKind::Event.schema().root else { return None };
    let (record, name) = match field.strip_prefix("data.") {
        Some(name) => (data_record(kind?)?, name),
        None => (event, field),
    };
    record.fields.iter().find(|field| field.name == name)?.doc.as_deref()
}

static OURS: LazyLock<Vec<Schemas>> = LazyLock::new(|| {
    // The texts are constants; a test reads each of them.
    RecordKind::ALL
        .iter()
        .map(|kind| Schemas::parse(kind.text(), &[]).unwrap_or_else(|_| Schemas::null()))
        .collect()
});

/// A schema, and the named schemas in it and in what it refers to.
#[derive(Clone, Debug)]
pub struct Schemas {
    /// The schema.
    pub root: Schema,
    named: HashMap<Name, Schema>,
}

impl Schemas {
    /// Reads a schema that values are written with, as registries take it: with names that other
    /// libraries permit, and without what reading does not need, such as defaults that do not fit
    /// their fields.
    pub fn of_writer(text: &str, references: &[String]) -> Result<Self, String> {
        fn stripped(text: &str) -> Result<String, String> {
            let mut schema = serde_json::from_str(text)
                .map_err(|error| crate::json::words(text.as_bytes(), &error))?;
            strip(&mut schema);
            Ok(schema.to_string())
        }
        let references: Vec<String> =
            references.iter().map(|text| stripped(text)).collect::<Result<_, _>>()?;
        Self::parse(&stripped(text)?, &references)
    }

    /// Reads a schema's text; `references` are the texts of the schemas that it refers to.
    pub fn parse(text: &str, references: &[String]) -> Result<Self, String> {
        permit_names();
        let (root, others) = if references.is_empty() {
            (Schema::parse_str(text).map_err(|error| error.to_string())?, Vec::new())
        } else {
            Schema::parse_str_with_list(text, references).map_err(|error| error.to_string())?
        };
        let mut named = HashMap::new();
        for schema in others.iter().chain([&root]) {
            collect(schema, &mut named);
        }
        Ok(Self { root, named })
    }

    fn null() -> Self {
        Self { root: Schema::Null, named: HashMap::new() }
    }

    /// The schema that a reference means.
    #[must_use]
    pub fn find<'a>(&'a self, schema: &'a Schema) -> Option<&'a Schema> {
        match schema {
            Schema::Ref { name } => self.named.get(name),
            schema => Some(schema),
        }
    }
}

/// Takes out of a schema what values are read without.
fn strip(schema: &mut Value) {
    match schema {
        Value::Array(variants) => variants.iter_mut().for_each(strip),
        Value::Object(object) => {
            for name in ["default", "doc", "aliases", "order"] {
                object.remove(name);
            }
            for name in ["type", "items", "values"] {
                object.get_mut(name).into_iter().for_each(strip);
            }
            if let Some(Value::Array(fields)) = object.get_mut("fields") {
                fields.iter_mut().for_each(strip);
            }
        }
        _ => {}
    }
}

/// Takes any name. Java's and Python's libraries, and with them the registries, take letters of
/// every script, hyphens and more; a name is no more than a key in JSON here.
struct AnyName;

impl SchemaNameValidator for AnyName {
    fn validate(&self, name: &str) -> AvroResult<usize> {
        Ok(name.rfind('.').map_or(0, |dot| dot + 1))
    }
}

impl SchemaNamespaceValidator for AnyName {
    fn validate(&self, _: &str) -> AvroResult<()> {
        Ok(())
    }
}

impl EnumSymbolNameValidator for AnyName {
    fn validate(&self, _: &str) -> AvroResult<()> {
        Ok(())
    }
}

impl RecordFieldNameValidator for AnyName {
    fn validate(&self, _: &str) -> AvroResult<()> {
        Ok(())
    }
}

/// The library asks for its validators once, at the first schema that it reads.
pub(super) fn permit_names() {
    static PERMITTED: Once = Once::new();
    PERMITTED.call_once(|| {
        // It refuses only when a schema was read before, and then keeps to the specification.
        let _ = set_schema_name_validator(Box::new(AnyName));
        let _ = set_schema_namespace_validator(Box::new(AnyName));
        let _ = set_enum_symbol_name_validator(Box::new(AnyName));
        let _ = set_record_field_name_validator(Box::new(AnyName));
    });
}

fn collect(schema: &Schema, named: &mut HashMap<Name, Schema>) {
    match schema {
        Schema::Record(record) => {
            named.insert(record.name.clone(), schema.clone());
            record.fields.iter().for_each(|field| collect(&field.schema, named));
        }
        Schema::Enum(found) => {
            named.insert(found.name.clone(), schema.clone());
        }
        Schema::Fixed(found) | Schema::Duration(found) => {
            named.insert(found.name.clone(), schema.clone());
        }
        Schema::Decimal(decimal) => {
            if let apache_avro::schema::InnerDecimalSchema::Fixed(found) = &decimal.inner {
                named.insert(found.name.clone(), schema.clone());
            }
        }
        Schema::Uuid(apache_avro::schema::UuidSchema::Fixed(found)) => {
            named.insert(found.name.clone(), schema.clone());
        }
        Schema::Array(array) => collect(&array.items, named),
        Schema::Map(map) => collect(&map.types, named),
        Schema::Union(union) => union.variants().iter().for_each(|each| collect(each, named)),
        _ => {}
    }
}

/// How a field of ours looks in JSON.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Look<'a> {
    /// A field of this name.
    Plain(&'a str),
    /// A field of this name whose text is JSON.
    Text(&'a str),
    /// Further fields of the field of this name, each a JSON text.
    RestOf(&'a str),
}

/// How a field of ours looks in JSON.
#[must_use]
pub fn look(field: &RecordField) -> Look<'_> {
    let attribute = |name| attribute(&field.custom_attributes, name);
    let name = attribute("jsonName").unwrap_or(&field.name);
    match attribute("json") {
        Some("text") => Look::Text(name),
        Some(other) => other.strip_prefix("rest-of:").map_or(Look::Plain(name), Look::RestOf),
        None => Look::Plain(name),
    }
}

/// A text attribute that Avro does not know.
#[must_use]
pub fn attribute<'a>(attributes: &'a BTreeMap<String, Value>, name: &str) -> Option<&'a str> {
    attributes.get(name).and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventType;

    #[test]
    fn every_schema_is_read_and_every_field_documented() {
        fn check(schema: &Schema, path: &str) {
            match schema {
                Schema::Record(record) => {
                    for field in &record.fields {
                        let path = format!("{path}.{}", field.name);
                        assert!(
                            field.doc.is_some() || look(field) != Look::Plain(&field.name),
                            "{path}"
                        );
                        check(&field.schema, &path);
                    }
                }
                Schema::Array(array) => check(&array.items, path),
                Schema::Map(map) => check(&map.types, path),
                Schema::Union(union) => union.variants().iter().for_each(|s| check(s, path)),
                _ => {}
            }
        }
        for kind in RecordKind::ALL {
            Schemas::parse(kind.text(), &[]).unwrap();
            assert_ne!(kind.schema().root, Schema::Null);
            check(&kind.schema().root, kind.name());
        }
    }

    #[test]
    fn every_event_type_has_its_record() {
        let Schema::Record(event) = &RecordKind::Event.schema().root else { panic!() };
        let data = event.fields.iter().find(|field| field.name == "data").unwrap();
        let Schema::Union(union) = &data.schema else { panic!() };
        let types: Vec<&str> = union
            .variants()
            .iter()
            .map(|variant| {
                let Schema::Record(record) = variant else { panic!() };
                attribute(&record.attributes, "eventType").unwrap()
            })
            .collect();
        let all: Vec<&str> = EventType::PAYMENTS.iter().map(|kind| kind.as_str()).collect();
        assert_eq!(types, all);
    }
}
