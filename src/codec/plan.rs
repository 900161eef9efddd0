//! How values of one writer's schema become JSON, worked out once per schema.
//!
//! The writer's schema says where the bytes are; ours says what they are called. A field is ours
//! when it has our name or one of our aliases for it; a field of ours that the writer does not
//! have gets its default; a field that only the writer knows keeps its own name and is passed on.
//! So this is Avro's schema resolution, without its habit of dropping what the reader does not
//! know.

use std::collections::HashMap;

use apache_avro::schema::{
    InnerDecimalSchema, Name, RecordField, RecordSchema, Schema, UnionSchema, UuidSchema,
};

use super::schemas::{Look, Schemas, look};

/// Steps from a schema to JSON.
#[derive(Debug)]
pub struct Plan {
    pub(super) nodes: Vec<Node>,
    pub(super) root: usize,
}

/// What stands next in the bytes, and how it looks in JSON. Numbers are other nodes.
#[derive(Debug)]
pub(super) enum Node {
    Null,
    Boolean,
    /// An int or a long: they are written alike.
    Whole,
    Float,
    Double,
    /// Bytes of any length, in base64.
    Bytes,
    /// So many bytes, in base64.
    Fixed(usize),
    Text,
    /// A text that is JSON.
    Json,
    /// A decimal of this scale, as a text; in so many bytes, or in bytes that tell their length.
    Decimal {
        scale: usize,
        size: Option<usize>,
    },
    /// A UUID in 16 bytes; in bytes that tell their length, or without it.
    Uuid {
        tells_length: bool,
    },
    /// A day, as `YYYY-MM-DD`.
    Date,
    /// A moment in UTC, as RFC 3339 with so many digits of the second.
    Moment {
        digits: u32,
    },
    /// A plain number where we expect a moment: milliseconds, unless it cannot be.
    PlainMoment,
    /// The time of some clock, of which nothing says where it stands; with so many digits.
    Local {
        digits: u32,
    },
    /// One of these texts, each in quotes.
    Symbol(Vec<Vec<u8>>),
    Array(usize),
    Map(usize),
    Union(Vec<usize>),
    Record(Steps),
}

/// A record's fields in the order of the bytes.
#[derive(Debug, Default)]
pub(super) struct Steps {
    pub(super) steps: Vec<Step>,
    /// Fields that the writer does not have, ready to be written.
    pub(super) defaults: Vec<Vec<u8>>,
}

#[derive(Debug)]
pub(super) struct Step {
    pub(super) node: usize,
    pub(super) place: Place,
}

/// Where a field's value goes.
#[derive(Debug)]
pub(super) enum Place {
    /// Under this name, written with quotes and colon.
    Field(Vec<u8>),
    /// The same; further fields may be put into it.
    Extensible(Vec<u8>),
    /// Into the extensible field.
    Extras,
}

impl Place {
    /// The field's name in the JSON, with quotes and colon.
    pub(super) fn name(&self) -> &[u8] {
        match self {
            Self::Field(key) | Self::Extensible(key) => key,
            Self::Extras => b"\"extra\":",
        }
    }
}

impl Plan {
    /// The plan for values of the writer's schema that we read as `reader`.
    pub fn new(writer: &Schemas, reader: &Schemas) -> Result<Self, String> {
        Self::of(writer, Some(reader))
    }

    /// The same; without a schema of ours everything keeps its name.
    pub fn of(writer: &Schemas, reader: Option<&Schemas>) -> Result<Self, String> {
        let mut compiler = Compiler { writer, reader, nodes: Vec::new(), known: HashMap::new() };
        let root = compiler.node(&writer.root, reader.map(|reader| &reader.root))?;
        Ok(Self { nodes: compiler.nodes, root })
    }
}

struct Compiler<'a> {
    writer: &'a Schemas,
    reader: Option<&'a Schemas>,
    nodes: Vec<Node>,
    /// Records that have a node, by the writer's name and ours: they may contain themselves.
    known: HashMap<(Name, Option<Name>), usize>,
}

impl<'a> Compiler<'a> {
    fn node(&mut self, writer: &'a Schema, reader: Option<&'a Schema>) -> Result<usize, String> {
        let found = self.writer.find(writer).ok_or("the schema names a type that it lacks")?;
        let reader = self.counterpart(found, reader);
        let node = match found {
            Schema::Union(union) => Node::Union(self.union(union, reader)?),
            Schema::Record(record) => return self.record(record, reader),
            Schema::Array(array) => {
                let reader = match reader {
                    Some(Schema::Array(ours)) => Some(&*ours.items),
                    _ => None,
                };
                Node::Array(self.node(&array.items, reader)?)
            }
            Schema::Map(map) => {
                let reader = match reader {
                    Some(Schema::Map(ours)) => Some(&*ours.types),
                    _ => None,
                };
                Node::Map(self.node(&map.types, reader)?)
            }
            plain => leaf(plain, reader)?,
        };
        Ok(self.add(node))
    }

    fn add(&mut self, node: Node) -> usize {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// Which of our schemas the writer's is read as.
    fn counterpart(&self, writer: &Schema, reader: Option<&'a Schema>) -> Option<&'a Schema> {
        let ours = self.reader?;
        let reader = ours.find(reader?)?;
        let Schema::Union(union) = reader else { return Some(reader) };
        if matches!(writer, Schema::Union(_)) {
            return Some(reader);
        }
        let variants = union.variants().iter().filter_map(|variant| ours.find(variant));
        match writer {
            Schema::Record(theirs) => variants.into_iter().find(
                |variant| matches!(variant, Schema::Record(ours) if is_named(ours, &theirs.name)),
            ),
            plain => variants.into_iter().find(|variant| are_alike(plain, variant)),
        }
    }

    fn union(
        &mut self,
        union: &'a UnionSchema,
        reader: Option<&'a Schema>,
    ) -> Result<Vec<usize>, String> {
        union.variants().iter().map(|variant| self.node(variant, reader)).collect()
    }

    fn record(
        &mut self,
        record: &'a RecordSchema,
        reader: Option<&'a Schema>,
    ) -> Result<usize, String> {
        let ours = match reader {
            Some(Schema::Record(ours)) => Some(ours),
            _ => None,
        };
        let names = (record.name.clone(), ours.map(|ours| ours.name.clone()));
        if let Some(known) = self.known.get(&names) {
            return Ok(*known);
        }
        let place = self.add(Node::Record(Steps::default()));
        self.known.insert(names, place);
        let fields = ours.map_or(&[][..], |ours| &ours.fields);
        let extensible = fields.iter().find_map(|field| match look(field) {
            Look::RestOf(name) => Some(name),
            _ => None,
        });
        let mut steps = Steps::default();
        for field in &record.fields {
            let our_field = fields.iter().find(|ours| goes_by(ours, &field.name));
            let mut node = self.node(&field.schema, our_field.map(|ours| &ours.schema))?;
            let place = match our_field.map_or(Look::Plain(&field.name), look) {
                Look::Plain(name) if extensible == Some(name) => Place::Extensible(key(name)),
                Look::Plain(name) => Place::Field(key(name)),
                Look::Text(name) => {
                    node = self.json(node);
                    Place::Field(key(name))
                }
                Look::RestOf(_) => match self.extras(node) {
                    Some(extras) => {
                        node = extras;
                        Place::Extras
                    }
                    None => Place::Field(key(&field.name)),
                },
            };
            steps.steps.push(Step { node, place });
        }
        for ours in fields {
            let is_there = record.fields.iter().any(|field| goes_by(ours, &field.name));
            if let (Some(default), Look::Plain(name)) = (&ours.default, look(ours))
                && !is_there
                && !default.is_null()
            {
                steps.defaults.push([key(name), default.to_string().into_bytes()].concat());
            }
        }
        self.nodes[place] = Node::Record(steps);
        Ok(place)
    }

    /// The node for further fields, each a text that is JSON: for a map, or a map that may be null.
    fn extras(&mut self, node: usize) -> Option<usize> {
        match self.nodes.get(node)? {
            Node::Map(value) => {
                let value = self.json(*value);
                Some(self.add(Node::Map(value)))
            }
            Node::Union(variants) => {
                let variants = variants.clone();
                let of = |compiler: &mut Self, variant: usize| match compiler.nodes.get(variant)? {
                    Node::Null => Some(variant),
                    Node::Map(_) => compiler.extras(variant),
                    _ => None,
                };
                let variants = variants.into_iter().map(|variant| of(self, variant));
                let variants = variants.collect::<Option<_>>()?;
                Some(self.add(Node::Union(variants)))
            }
            _ => None,
        }
    }

    /// The node for a text that is JSON, or one that may be null; anything else stays what it is.
    fn json(&mut self, node: usize) -> usize {
        match self.nodes.get(node) {
            Some(Node::Text) => self.add(Node::Json),
            Some(Node::Union(variants)) => {
                let variants = variants.clone().into_iter().map(|variant| self.json(variant));
                let variants = variants.collect();
                self.add(Node::Union(variants))
            }
            _ => node,
        }
    }
}

fn key(name: &str) -> Vec<u8> {
    let mut key = quoted(name);
    key.push(b':');
    key
}

fn quoted(text: &str) -> Vec<u8> {
    serde_json::Value::from(text).to_string().into_bytes()
}

fn goes_by(ours: &RecordField, name: &str) -> bool {
    ours.name == name || ours.aliases.iter().any(|alias| alias == name)
}

fn is_named(ours: &RecordSchema, theirs: &Name) -> bool {
    let aliases = ours.aliases.as_deref().unwrap_or_default();
    ours.name.name() == theirs.name() || aliases.iter().any(|alias| alias.name() == theirs.name())
}

/// Whether a value of one is a value of the other, by Avro's promotions.
fn are_alike(theirs: &Schema, ours: &Schema) -> bool {
    fn base(schema: &Schema) -> u8 {
        match schema {
            Schema::Null => 0,
            Schema::Boolean => 1,
            Schema::Int | Schema::Long | Schema::Date | Schema::TimeMillis => 2,
            Schema::TimeMicros | Schema::TimestampMillis | Schema::TimestampMicros => 2,
            Schema::TimestampNanos | Schema::LocalTimestampMillis => 2,
            Schema::LocalTimestampMicros | Schema::LocalTimestampNanos => 2,
            Schema::Float | Schema::Double => 3,
            Schema::String | Schema::Bytes | Schema::Enum(_) | Schema::Uuid(_) => 4,
            Schema::Array(_) => 5,
            Schema::Map(_) => 6,
            _ => 7,
        }
    }
    base(theirs) == base(ours)
}

fn leaf(schema: &Schema, reader: Option<&Schema>) -> Result<Node, String> {
    Ok(match schema {
        Schema::Null => Node::Null,
        Schema::Boolean => Node::Boolean,
        Schema::Int | Schema::Long => match reader {
            // A plain number where we expect a time: the logical type may be left out.
            Some(Schema::TimestampMillis) => Node::PlainMoment,
            Some(Schema::Date) => Node::Date,
            _ => Node::Whole,
        },
        Schema::TimeMillis | Schema::TimeMicros => Node::Whole,
        Schema::Float => Node::Float,
        Schema::Double => Node::Double,
        Schema::Bytes if matches!(reader, Some(Schema::String)) => Node::Text,
        Schema::Bytes | Schema::BigDecimal => Node::Bytes,
        Schema::Fixed(fixed) | Schema::Duration(fixed) => Node::Fixed(fixed.size),
        Schema::String | Schema::Uuid(UuidSchema::String) => Node::Text,
        Schema::Uuid(UuidSchema::Bytes) => Node::Uuid { tells_length: true },
        Schema::Uuid(UuidSchema::Fixed(_)) => Node::Uuid { tells_length: false },
        Schema::Decimal(decimal) => Node::Decimal {
            scale: decimal.scale,
            size: match &decimal.inner {
                InnerDecimalSchema::Bytes => None,
                InnerDecimalSchema::Fixed(fixed) => Some(fixed.size),
            },
        },
        Schema::Date => Node::Date,
        Schema::TimestampMillis => Node::Moment { digits: 3 },
        Schema::TimestampMicros => Node::Moment { digits: 6 },
        Schema::TimestampNanos => Node::Moment { digits: 9 },
        Schema::LocalTimestampMillis => Node::Local { digits: 3 },
        Schema::LocalTimestampMicros => Node::Local { digits: 6 },
        Schema::LocalTimestampNanos => Node::Local { digits: 9 },
        Schema::Enum(symbols) => {
            Node::Symbol(symbols.symbols.iter().map(|symbol| quoted(symbol)).collect())
        }
        other => return Err(format!("the schema has a type that cannot be read: {other:?}")),
    })
}
