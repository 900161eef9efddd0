//! JSON that others wrote: objects that are objects, and what is wrong in words that quote no
//! values.
//!
//! serde reads a list where a struct is expected, field by field; and its errors quote values of
//! any length. Neither is wanted of records from outside.

use std::{borrow::Cow, collections::HashSet, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::{error::Category, value::RawValue};

use crate::text::is_shown;

/// The longest explanation that goes into a header, a log line or an answer, in characters.
pub const MAX_DETAIL_CHARS: usize = 1000;
/// The longest name of a field that is shown whole, in characters.
pub const MAX_NAME_CHARS: usize = 64;

/// What has to be a JSON object.
#[derive(Debug)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        object(deserializer).map(Self)
    }
}

/// Reads a JSON object and nothing else: for `#[serde(deserialize_with)]`.
pub fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    struct Fields<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
        type Value = T;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map))
        }
    }
    deserializer.deserialize_map(Fields(PhantomData))
}

/// The same where the object may be absent or null.
pub fn optional_object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    Ok(Option::<Object<T>>::deserialize(deserializer)?.map(|Object(value)| value))
}

/// A text that is copied only where it has escapes. Inside of an `Option`, serde copies a `Cow`
/// always.
#[derive(Deserialize)]
pub struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

/// An object's fields in their order, repeated ones too, their values as they are written.
pub struct Pairs<'a>(pub Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Pairs<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<'de>, A::Error> {
                let mut pairs = Vec::with_capacity(16);
                while let Some((Text(name), value)) = map.next_entry()? {
                    pairs.push((name, value));
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// The names that stand more than once in an object of a JSON text, as paths: [`MAX_REPEATED`] at
/// most. A reader that makes a map of an object takes the last of them and does not say so.
#[must_use]
pub fn repeated(json: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let whole = Repeated { path: String::new(), found: &mut found };
    // What is no JSON has no names; who reads it says so.
    let _ = whole.deserialize(&mut deserializer);
    found
}

/// The most names that are told to stand there more than once.
pub const MAX_REPEATED: usize = 20;

struct Repeated<'a> {
    path: String,
    found: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Repeated<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Repeated<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        loop {
            let item = Repeated { path: self.path.clone(), found: &mut *self.found };
            if items.next_element_seed(item)?.is_none() {
                return Ok(());
            }
        }
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut names = HashSet::new();
        while let Some(Text(given)) = map.next_key()? {
            let dot = if self.path.is_empty() { "" } else { "." };
            let path = format!("{}{dot}{}", self.path, name(&given));
            if !names.insert(given) && self.found.len() < MAX_REPEATED {
                self.found.push(path.clone());
            }
            map.next_value_seed(Repeated { path, found: &mut *self.found })?;
        }
        Ok(())
    }
}

/// What a value is, for its author; the value itself is not shown.
#[must_use]
pub fn kind(value: &RawValue) -> &'static str {
    match value.get().as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "a list",
        Some(b'"') => "a text",
        Some(b't' | b'f') => "true or false",
        Some(b'n') => "null",
        _ => "a number",
    }
}

/// An explanation of bounded length in one line, without characters that a terminal obeys.
#[must_use]
pub fn bounded(text: &str) -> String {
    short(text, MAX_DETAIL_CHARS)
}

/// A foreign name, for an explanation.
#[must_use]
pub fn name(text: &str) -> String {
    short(text, MAX_NAME_CHARS)
}

fn short(text: &str, max: usize) -> String {
    let mut chars = text.chars();
    let shown = |c: char| if is_shown(c) { c } else { '\u{fffd}' };
    let mut short: String = chars.by_ref().take(max).map(shown).collect();
    if chars.next().is_some() {
        short.pop();
        short.push('…');
    }
    short
}

/// Why `text` is not what was to be read from it. It quotes no value and names no type of this
/// program; the place counts in `text`, in bytes from 1.
#[must_use]
pub fn words(text: &[u8], error: &serde_json::Error) -> String {
    let (line, column) = (error.line(), error.column());
    let place = format!("at line {line}, column {column}");
    match error.classify() {
        Category::Eof if text.trim_ascii().is_empty() => "it is empty".to_owned(),
        Category::Eof => format!("it ends too early, {place}"),
        Category::Syntax | Category::Io => {
            let said = error.to_string();
            // The parser's own words for syntax are constants.
            let said = said.rsplit_once(" at line ").map_or(&*said, |(said, _)| said);
            match constant_at(text, line, column) {
                Some(constant) => format!("{constant} is no JSON, {place}"),
                None => format!("{said} {place}"),
            }
        }
        Category::Data => format!("{} {place}", wrong_data(&error.to_string())),
    }
}

/// A number that some JSON writers write and JSON does not have.
fn constant_at(text: &[u8], line: usize, column: usize) -> Option<&'static str> {
    let line = text.split(|byte| *byte == b'\n').nth(line.checked_sub(1)?)?;
    let rest = line.get(column.saturating_sub(2)..)?;
    ["-Infinity", "Infinity", "NaN"].into_iter().find(|constant| {
        let constant = constant.as_bytes();
        rest.starts_with(constant) || rest.get(1..).is_some_and(|rest| rest.starts_with(constant))
    })
}

/// serde's words for data of the wrong form, without the values that they quote.
fn wrong_data(said: &str) -> String {
    for known in ["missing field `", "duplicate field `"] {
        // Such names are this program's own.
        if let Some(field) = said.strip_prefix(known).and_then(|rest| rest.split('`').next()) {
            return format!("{known}{}`", name(field));
        }
    }
    // Other errors may quote the value, and the value may hold any words.
    let is_serdes = ["invalid type: ", "invalid value: ", "invalid length "];
    let expected = said.rsplit_once(", expected ").map(|(_, expected)| expected);
    let is_known = is_serdes.iter().any(|known| said.starts_with(known));
    let Some(expected) = expected.filter(|_| is_known) else {
        return "a field has the wrong form".to_owned();
    };
    let expected = expected.rsplit_once(" at line ").map_or(expected, |(expected, _)| expected);
    let expected = match expected {
        "u8" | "u16" | "u32" | "u64" | "i8" | "i16" | "i32" | "i64" => "a whole number",
        "a string" | "a borrowed string" | "str" => "a text",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "an object",
        other if other.starts_with("struct ") || other.starts_with("enum ") => "another form",
        other => other,
    };
    format!("a field must be {}", name(expected))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize, Debug)]
    struct Inner {
        number: u32,
    }

    #[derive(Deserialize, Debug)]
    struct Outer<'a> {
        #[serde(borrow)]
        text: Cow<'a, str>,
        #[serde(deserialize_with = "object")]
        inner: Inner,
        #[serde(default, deserialize_with = "optional_object")]
        more: Option<Inner>,
        #[serde(borrow)]
        raw: &'a RawValue,
    }

    fn read(text: &str) -> Result<Outer<'_>, String> {
        let read: Result<Object<Outer<'_>>, _> = serde_json::from_str(text);
        read.map(|Object(outer)| outer).map_err(|error| words(text.as_bytes(), &error))
    }

    #[test]
    fn a_list_is_no_object_at_any_depth() {
        let whole = r#"{"text":"t","inner":{"number":1},"more":null,"raw":[1]}"#;
        let outer = read(whole).unwrap();
        assert_eq!((&*outer.text, outer.inner.number, outer.raw.get()), ("t", 1, "[1]"));
        assert!(outer.more.is_none());
        for list in [
            r#"["t",{"number":1},null,[1]]"#.to_owned(),
            whole.replace(r#"{"number":1}"#, "[1]"),
            whole.replace("null", "[1]"),
        ] {
            assert!(read(&list).unwrap_err().contains("an object"), "{list}");
        }
    }

    #[test]
    fn a_name_that_stands_twice_is_found_at_any_depth() {
        let json = br#"{"a":1,"b":{"c":[{"d":1,"d":null}],"\u0063":2},"a":"x","e":1.5,"f":true}"#;
        assert_eq!(repeated(json), ["b.c.d", "b.c", "a"]);
        assert_eq!(repeated(br#"{"a":{"b":1},"b":[{"b":1},{"b":2}]}"#), [""; 0]);
        assert_eq!(repeated(b"no JSON"), [""; 0]);
        assert_eq!(
            repeated(format!("{{{}\"a\":1}}", "\"a\":1,".repeat(100)).as_bytes()).len(),
            MAX_REPEATED
        );
    }

    #[test]
    fn what_is_wrong_quotes_no_value_and_names_no_type() {
        let secret = "s3cret".repeat(1000);
        for text in [
            format!(r#"{{"text":"t","inner":{{"number":"{secret}"}},"raw":1}}"#),
            format!(r#"{{"text":["{secret}"],"raw":1}}"#),
            format!(r#""{secret}""#),
            format!(r#"{{"{secret}":NaN}}"#),
            format!("{{\"{secret}\":'x'}}"),
            r#"{"text":"t","text":"t"}"#.to_owned(),
            r#"{"text":"t"}"#.to_owned(),
            String::new(),
        ] {
            let said = read(&text).unwrap_err();
            assert!(!said.contains("s3cret") && said.len() < 200, "{said}");
            assert!(!said.contains("u32") && !said.contains("Outer"), "{said}");
        }
        assert!(read(r#"{"text":NaN}"#).unwrap_err().contains("NaN is no JSON"));
        assert!(read(r#"{"text":-Infinity}"#).unwrap_err().contains("-Infinity is no JSON"));
        assert_eq!(bounded(&"\u{202e}a\n".repeat(1000)).chars().count(), MAX_DETAIL_CHARS);
        assert_eq!(name("\u{1b}[31m"), "\u{fffd}[31m");
    }
}
