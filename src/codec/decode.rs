//! Avro bytes into JSON text, by a plan. Foreign bytes never panic, and what they can make this
//! program do is bounded.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bigdecimal::{BigDecimal, num_bigint::BigInt};

use super::plan::{Node, Place, Plan, Steps};
use crate::{clock, json};

/// How deep values may stand in each other; schemas may contain themselves.
const MAX_DEPTH: usize = 64;
/// The longest JSON text that is made, in bytes.
pub const MAX_JSON_BYTES: usize = 4 << 20;
/// The most values and fields that are read. A few bytes may stand for any number of values that
/// leave no byte; the largest event has half as many that leave some.
const MAX_STEPS: usize = 1 << 20;
/// A plain number below this is no time in milliseconds: it would be one before March 1973, and as
/// seconds it is one before the year 5138.
const MIN_MILLIS: i64 = 100_000_000_000;
/// The longest decimal, in bytes: more than 256 bits are no amount.
const MAX_DECIMAL_BYTES: usize = 64;
/// An alphabet's worth of room: JSON repeats the names that Avro leaves out.
const GROWTH: usize = 4;

/// Why bytes cannot be read with the schema that they name, and at which field.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unreadable {
    /// The field, from the top; empty when it is the whole.
    pub field: String,
    /// Why.
    pub error: DecodeError,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            self.error.fmt(f)
        } else {
            write!(f, "{}: {}", self.field, self.error)
        }
    }
}

/// Why bytes cannot be read with the schema that they name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecodeError {
    /// They end too early.
    #[error("the value ends before its schema does")]
    CutShort,
    /// They go on.
    #[error("the value goes on for {0} bytes after its schema's end")]
    LeftOver(usize),
    /// A number has too many bytes.
    #[error("a number has more than 64 bits")]
    Number,
    /// A length is negative.
    #[error("a length is negative")]
    Length,
    /// A text is no UTF-8.
    #[error("a text is no UTF-8")]
    Text,
    /// A text that should be JSON is none.
    #[error("a text that should be JSON is none")]
    Json,
    /// There is no such branch or symbol.
    #[error("the value takes a branch or symbol that its schema lacks")]
    Branch,
    /// A time is beyond the calendar.
    #[error("a time is beyond the years 0 to 9999")]
    Time,
    /// A plain number is no time in milliseconds.
    #[error("a time as a plain number is in milliseconds since 1970; this one looks like seconds")]
    Seconds,
    /// JSON does not have such a number.
    #[error("a number is NaN or infinite, which JSON cannot say")]
    NotFinite,
    /// A UUID has another length.
    #[error("a UUID has 16 bytes, not {0}")]
    Uuid(usize),
    /// A decimal is too long.
    #[error("a decimal has more than {MAX_DECIMAL_BYTES} bytes")]
    Decimal,
    /// The plan is nested too deeply.
    #[error("the value is nested more than {MAX_DEPTH} deep")]
    Depth,
    /// There is too much in it.
    #[error("the value has more than {MAX_STEPS} values and fields")]
    TooMany,
    /// The JSON gets too long.
    #[error("the value is longer than {MAX_JSON_BYTES} bytes as JSON")]
    TooLarge,
}

impl Plan {
    /// The value as JSON text.
    pub fn to_json(&self, payload: &[u8]) -> Result<Vec<u8>, Unreadable> {
        let out = Vec::with_capacity(payload.len().saturating_mul(GROWTH).min(MAX_JSON_BYTES));
        let mut reader =
            Reader { plan: self, left: payload, out, depth: 0, steps: 0, trail: Vec::new() };
        let read = reader.value(self.root);
        let left = reader.left.len();
        let Reader { out, mut trail, .. } = reader;
        trail.reverse();
        match read {
            Ok(()) if left == 0 => Ok(out),
            Ok(()) => Err(Unreadable { field: String::new(), error: DecodeError::LeftOver(left) }),
            Err(error) => Err(Unreadable { field: trail.join("."), error }),
        }
    }
}

struct Reader<'a> {
    plan: &'a Plan,
    left: &'a [u8],
    out: Vec<u8>,
    depth: usize,
    steps: usize,
    /// The names of the fields that an error came through, the innermost first.
    trail: Vec<String>,
}

impl<'a> Reader<'a> {
    /// Counts what is done for a value, whether it leaves anything or not.
    fn step(&mut self) -> Result<(), DecodeError> {
        self.steps += 1;
        if self.steps > MAX_STEPS { Err(DecodeError::TooMany) } else { Ok(()) }
    }

    /// The value of a field, whose name an error takes along.
    fn named(&mut self, name: &[u8], node: usize) -> Result<(), DecodeError> {
        self.value(node).inspect_err(|_| self.failed_in(name))
    }

    /// `name` as it stands in the JSON: in quotes and with a colon.
    fn failed_in(&mut self, name: &[u8]) {
        let name = name.strip_suffix(b":").unwrap_or(name);
        let name: String = serde_json::from_slice(name).unwrap_or_default();
        self.trail.push(json::name(&name));
    }

    fn value(&mut self, node: usize) -> Result<(), DecodeError> {
        self.step()?;
        if self.out.len() > MAX_JSON_BYTES {
            return Err(DecodeError::TooLarge);
        }
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(DecodeError::Depth);
        }
        // Node numbers are made together with the nodes.
        match &self.plan.nodes[node] {
            Node::Null => self.put(b"null"),
            Node::Boolean => match self.take(1)? {
                [0] => self.put(b"false"),
                [1] => self.put(b"true"),
                _ => return Err(DecodeError::Branch),
            },
            Node::Whole => {
                let number = self.long()?;
                self.json(&number);
            }
            Node::Float => {
                let bytes = self.take(4)?.try_into().unwrap_or_default();
                let number = f32::from_le_bytes(bytes);
                if !number.is_finite() {
                    return Err(DecodeError::NotFinite);
                }
                self.json(&number);
            }
            Node::Double => {
                let bytes = self.take(8)?.try_into().unwrap_or_default();
                let number = f64::from_le_bytes(bytes);
                if !number.is_finite() {
                    return Err(DecodeError::NotFinite);
                }
                self.json(&number);
            }
            Node::Bytes => {
                let bytes = self.bytes()?;
                self.json(&BASE64.encode(bytes));
            }
            Node::Fixed(size) => {
                let bytes = self.take(*size)?;
                self.json(&BASE64.encode(bytes));
            }
            Node::Text => {
                let text = self.text()?;
                self.json(text);
            }
            Node::Json => {
                let text = self.text()?;
                let is_json = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
                self.put(if is_json { text.as_bytes() } else { return Err(DecodeError::Json) });
            }
            Node::Decimal { scale, size } => self.decimal(*scale, *size)?,
            Node::Uuid { tells_length } => {
                let bytes = if *tells_length { self.bytes()? } else { self.take(16)? };
                let uuid = uuid::Uuid::from_slice(bytes);
                self.json(&uuid.map_err(|_| DecodeError::Uuid(bytes.len()))?);
            }
            Node::Date => self.date()?,
            Node::Moment { digits } => self.moment(*digits, "Z")?,
            Node::Local { digits } => self.moment(*digits, "")?,
            Node::PlainMoment => {
                let number = self.long()?;
                if number.unsigned_abs() < MIN_MILLIS.unsigned_abs() {
                    return Err(DecodeError::Seconds);
                }
                self.text_of_moment(number, 3, "Z")?;
            }
            Node::Symbol(symbols) => {
                let chosen = usize::try_from(self.long()?).map_err(|_| DecodeError::Branch)?;
                self.put(symbols.get(chosen).ok_or(DecodeError::Branch)?);
            }
            Node::Array(item) => {
                self.put(b"[");
                self.blocks(|reader| reader.value(*item))?;
                self.put(b"]");
            }
            Node::Map(value) => {
                self.put(b"{");
                self.entries(*value)?;
                self.put(b"}");
            }
            Node::Union(variants) => {
                let chosen = self.branch(variants)?;
                self.value(chosen)?;
            }
            Node::Record(steps) => self.record(steps)?,
        }
        self.depth -= 1;
        Ok(())
    }

    fn record(&mut self, steps: &'a Steps) -> Result<(), DecodeError> {
        self.put(b"{");
        // Where further fields go, and where they stand until that is known.
        let mut extensible_ends = None;
        let mut extras = Vec::new();
        let start = self.out.len();
        for step in &steps.steps {
            self.step()?;
            let mut node = step.node;
            if let Node::Union(variants) = &self.plan.nodes[node] {
                node = self.branch(variants).inspect_err(|_| self.failed_in(step.place.name()))?;
            }
            // A field that is null is as good as absent.
            if matches!(self.plan.nodes[node], Node::Null) {
                continue;
            }
            match &step.place {
                Place::Field(key) => {
                    self.separate(start);
                    self.put(key);
                    self.named(key, node)?;
                }
                Place::Extensible(key) => {
                    self.separate(start);
                    self.put(key);
                    self.named(key, node)?;
                    extensible_ends = Some(self.out.len());
                }
                Place::Extras => {
                    let before = std::mem::take(&mut self.out);
                    if let Node::Map(value) = &self.plan.nodes[node] {
                        self.entries(*value)?;
                    }
                    extras = std::mem::replace(&mut self.out, before);
                }
            }
        }
        for default in &steps.defaults {
            self.separate(start);
            self.put(default);
        }
        if let Some(end) = extensible_ends
            && !extras.is_empty()
            && self.out.get(end - 1) == Some(&b'}')
        {
            if self.out.get(end - 2) != Some(&b'{') {
                extras.insert(0, b',');
            }
            self.out.splice(end - 1..end - 1, extras);
        }
        self.put(b"}");
        Ok(())
    }

    fn entries(&mut self, value: usize) -> Result<(), DecodeError> {
        self.blocks(|reader| {
            let name = reader.text()?;
            reader.json(name);
            reader.put(b":");
            reader.value(value).inspect_err(|_| reader.trail.push(json::name(name)))
        })
    }

    /// Items with commas between them. They come in blocks; a negative count is followed by the
    /// block's length in bytes.
    fn blocks(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        let start = self.out.len();
        loop {
            let mut count = self.long()?;
            if count < 0 {
                count = count.checked_neg().ok_or(DecodeError::Length)?;
                self.long()?;
            }
            if count == 0 {
                return Ok(());
            }
            for _ in 0..count {
                self.step()?;
                self.separate(start);
                item(self)?;
            }
        }
    }

    /// A comma, unless nothing stands since `start`.
    fn separate(&mut self, start: usize) {
        if self.out.len() > start {
            self.out.push(b',');
        }
    }

    fn branch(&mut self, variants: &[usize]) -> Result<usize, DecodeError> {
        let chosen = usize::try_from(self.long()?).map_err(|_| DecodeError::Branch)?;
        variants.get(chosen).copied().ok_or(DecodeError::Branch)
    }

    fn decimal(&mut self, scale: usize, size: Option<usize>) -> Result<(), DecodeError> {
        let bytes = match size {
            Some(size) => self.take(size)?,
            None => self.bytes()?,
        };
        if bytes.len() > MAX_DECIMAL_BYTES || scale > MAX_DECIMAL_BYTES {
            return Err(DecodeError::Decimal);
        }
        let scale = i64::try_from(scale).map_err(|_| DecodeError::Decimal)?;
        let decimal = BigDecimal::new(BigInt::from_signed_bytes_be(bytes), scale);
        self.json(&decimal.to_plain_string());
        Ok(())
    }

    fn date(&mut self) -> Result<(), DecodeError> {
        let millis = self.long()?.checked_mul(24 * 60 * 60 * 1000).ok_or(DecodeError::Time)?;
        let text = clock::fine(millis, 3).ok_or(DecodeError::Time)?;
        self.json(&text[..10]);
        Ok(())
    }

    fn moment(&mut self, digits: u32, zone: &str) -> Result<(), DecodeError> {
        let number = self.long()?;
        self.text_of_moment(number, digits, zone)
    }

    fn text_of_moment(&mut self, number: i64, digits: u32, zone: &str) -> Result<(), DecodeError> {
        let text = clock::fine(number, digits).ok_or(DecodeError::Time)?;
        self.json(&format_args!("{text}{zone}"));
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    fn json<T: serde::Serialize + ?Sized>(&mut self, value: &T) {
        // Texts and numbers have a JSON form, and writing into memory does not fail.
        let _ = serde_json::to_writer(&mut self.out, value);
    }

    fn text(&mut self) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| DecodeError::Text)
    }

    fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = usize::try_from(self.long()?).map_err(|_| DecodeError::Length)?;
        self.take(length)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, left) = self.left.split_at_checked(count).ok_or(DecodeError::CutShort)?;
        self.left = left;
        Ok(taken)
    }

    /// A number in Avro's zig-zag form of variable length.
    fn long(&mut self) -> Result<i64, DecodeError> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let (&byte, left) = self.left.split_first().ok_or(DecodeError::CutShort)?;
            self.left = left;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(DecodeError::Number);
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok((number >> 1).cast_signed() ^ -((number & 1).cast_signed()));
            }
        }
        Err(DecodeError::Number)
    }
}
