//! What a record's value is, by its headers and first bytes: the one place that knows the frames
//! that stock clients write. What is not read is named, with the setting that changes it.

use std::borrow::Cow;

use super::{
    cloudevents::{self, Headers},
    wire::{HEADER_BYTES, MAGIC, SchemaRef},
};

/// A value by its form.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Form {
    /// JSON from this byte on, or what a reader of JSON has to refuse.
    Bare {
        /// Where it begins: behind a byte order mark.
        start: usize,
    },
    /// Written with a schema of the registry.
    Framed {
        /// The writer's schema.
        schema: SchemaRef,
        /// Where the payload begins.
        start: usize,
    },
    /// Something else, in words.
    Other(Cow<'static, str>),
}

/// The header in which Confluent's serializers put the id of a value's schema, when they are set to.
const SCHEMA_HEADER: &str = "__value_schema_id";
/// What Apicurio's serializers begin the names of their headers with.
const APICURIO: &str = "apicurio.value.";
/// Ids are Java's `int` at the registries, and begin with 1.
const MAX_ID: u32 = i32::MAX as u32;
/// The first byte of the other header that Confluent's serializers write: a GUID follows.
const MAGIC_GUID: u8 = 1;
const GUID_BYTES: usize = 16;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// The longest text at the beginning of a value that is taken for an Avro string, in bytes.
const MAX_FIRST_TEXT: usize = 64;

const CUT_SHORT: &str = "the value begins like Avro in Confluent's wire format and ends within its \
     header";
const BARE_AVRO: &str = "the value is Avro without a frame: nothing says which schema it was \
     written with; use the serializer of a schema registry client";
const APICURIO_FRAME: &str = "the value begins like Apicurio's own frame (a zero byte and an id of \
     8 bytes): set apicurio.registry.id-handler to Legacy4ByteIdHandler (or as-confluent=true), \
     apicurio.registry.use-id=contentId and apicurio.registry.headers.enabled=false";
const APICURIO_HEADERS: &str = "the schema's id stands in Apicurio's own headers: set \
     apicurio.registry.headers.enabled=false, apicurio.registry.id-handler to \
     Legacy4ByteIdHandler (or as-confluent=true) and apicurio.registry.use-id=contentId";
const BATCH: &str = "the value is a batch of CloudEvents: send each one as a record of its own";
const PROTOBUF: &str = "the value is Protobuf: JSON and Avro are read";
const LIST: &str = "the value is no JSON object: it is a list; send each of its items as a record \
     of its own";

/// Tells what a value is.
#[must_use]
pub fn form(headers: &Headers, value: &[u8]) -> Form {
    if let Some((_, id)) = headers.iter().find(|(name, _)| name == SCHEMA_HEADER) {
        return by_header(id);
    }
    let start = if value.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
    let text = value[start..].trim_ascii_start();
    if text.first() == Some(&b'{') && !is_utf16(value) {
        return match content_type(headers) {
            Some(content) if content.starts_with("application/cloudevents-batch") => other(BATCH),
            _ => Form::Bare { start },
        };
    }
    if let Some(words) = by_content_type(headers, value) {
        return Form::Other(words);
    }
    if headers.iter().any(|(name, _)| name.starts_with(APICURIO)) {
        return other(APICURIO_HEADERS);
    }
    if is_utf16(value) {
        return other("the value is no JSON object in UTF-8: it is UTF-16; write UTF-8");
    }
    if let [MAGIC, rest @ ..] = value {
        return framed(rest);
    }
    if let Some(words) = by_first_bytes(value) {
        return Form::Other(words);
    }
    if text.first() == Some(&b'[') {
        return other(if is_batch(text) { BATCH } else { LIST });
    }
    if is_json_in_json(text) {
        return other(
            "the value is no JSON object: it is a JSON string that holds JSON; it was serialized \
             twice",
        );
    }
    if looks_like_avro(value) {
        return other(BARE_AVRO);
    }
    Form::Bare { start }
}

/// Why a file has no lines of JSON, by its first bytes.
#[must_use]
pub fn not_text(head: &[u8]) -> Option<&'static str> {
    if is_utf16(head) {
        Some("it is UTF-16: convert it to UTF-8 (iconv -f UTF-16 -t UTF-8)")
    } else if compressed(head).is_some() {
        Some("it is compressed: unpack it (gzip -dc, zstd -dc)")
    } else if head.starts_with(b"Obj\x01") {
        Some("it is an Avro object container file: convert it to lines of JSON")
    } else {
        None
    }
}

const fn other(words: &'static str) -> Form {
    Form::Other(Cow::Borrowed(words))
}

fn framed(rest: &[u8]) -> Form {
    match rest {
        // An id of 0 is none; Apicurio's ids of 8 bytes are small.
        [0, 0, 0, 0, _, _, _, _, _, ..] => other(APICURIO_FRAME),
        [a, b, c, d, ..] => match u32::from_be_bytes([*a, *b, *c, *d]) {
            schema @ 1..=MAX_ID => {
                Form::Framed { schema: SchemaRef::Id(schema), start: HEADER_BYTES }
            }
            _ => other(
                "the value begins with a zero byte, and what follows is no schema id (1 to \
                 2147483647): it is neither JSON nor Avro in Confluent's wire format. Avro without \
                 a frame looks like this, too",
            ),
        },
        _ => other(CUT_SHORT),
    }
}

fn by_header(id: &[u8]) -> Form {
    let schema = match id {
        [MAGIC, a, b, c, d] => match u32::from_be_bytes([*a, *b, *c, *d]) {
            id @ 1..=MAX_ID => Some(SchemaRef::Id(id)),
            _ => None,
        },
        [MAGIC_GUID, guid @ ..] if guid.len() == GUID_BYTES => {
            let guid: Option<[u8; GUID_BYTES]> = guid.try_into().ok();
            guid.map(|guid| SchemaRef::Guid(uuid::Uuid::from_bytes(guid)))
        }
        _ => None,
    };
    match schema {
        Some(schema) => Form::Framed { schema, start: 0 },
        None => other(
            "the header __value_schema_id is neither a zero byte and a schema id of 4 bytes (1 to \
             2147483647) nor a byte 1 and a GUID of 16 bytes",
        ),
    }
}

fn content_type(headers: &Headers) -> Option<String> {
    let content = cloudevents::content_type(headers)?;
    Some(content.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

/// What the content type says of a value that does not begin like JSON.
fn by_content_type(headers: &Headers, value: &[u8]) -> Option<Cow<'static, str>> {
    let content = content_type(headers)?;
    let is_framed = value.first() == Some(&MAGIC);
    let words = if content.starts_with("application/cloudevents-batch") {
        BATCH
    } else if let Some(format) = content.strip_prefix("application/cloudevents+")
        && format != "json"
    {
        return Some(match format {
            "avro" | "protobuf" | "xml" => Cow::Owned(format!(
                "the value is a structured CloudEvent in {format}: structured ones are read in \
                 JSON (application/cloudevents+json), binary ones with data in JSON or framed Avro"
            )),
            _ => Cow::Borrowed(
                "the value is a structured CloudEvent in a format that is not read: use \
                 application/cloudevents+json",
            ),
        });
    } else if content.contains("protobuf") && !is_framed {
        PROTOBUF
    } else if content.contains("avro") && !is_framed {
        by_avro_magic(value).unwrap_or(BARE_AVRO)
    } else if content.ends_with("xml") {
        "the value is XML: JSON and Avro are read"
    } else {
        return None;
    };
    Some(Cow::Borrowed(words))
}

fn by_avro_magic(value: &[u8]) -> Option<&'static str> {
    if value.starts_with(b"\xc3\x01") && value.len() >= 10 {
        Some(
            "the value is Avro in single-object encoding, which names its schema by a fingerprint: \
             use the serializer of a schema registry client",
        )
    } else if value.starts_with(b"Obj\x01") {
        Some(
            "the value is an Avro object container file: send each record by itself, with the \
             serializer of a schema registry client",
        )
    } else {
        None
    }
}

fn compressed(value: &[u8]) -> Option<&'static str> {
    const COMPRESSED: &[(&[u8], &str)] = &[
        (b"\x1f\x8b", "gzip"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"\x04\x22\x4d\x18", "lz4"),
        (b"\xff\x06\x00\x00sNaPpY", "snappy"),
        (b"\x82SNAPPY\x00", "snappy"),
        (b"BZh", "bzip2"),
        (b"PK\x03\x04", "zip"),
    ];
    COMPRESSED.iter().find(|(magic, _)| value.starts_with(magic)).map(|(_, name)| *name)
}

fn by_first_bytes(value: &[u8]) -> Option<Cow<'static, str>> {
    if let Some(name) = compressed(value) {
        return Some(Cow::Owned(format!(
            "the value is compressed by its producer ({name}): send it as it is, and let the Kafka \
             client compress (compression.type)"
        )));
    }
    if let Some(words) = by_avro_magic(value) {
        return Some(Cow::Borrowed(words));
    }
    Some(Cow::Borrowed(match value {
        [3, 0 | 5, rest @ ..] if rest.len() >= GUID_BYTES => {
            "the value has the frame of AWS Glue's schema registry, which is not read: use the \
             serializer of a registry with Confluent's protocol, or JSON"
        }
        [MAGIC_GUID, rest @ ..] if rest.len() > GUID_BYTES && is_guid(&rest[..GUID_BYTES]) => {
            "the value begins with a byte 1 and a GUID: such a schema id is read from the header \
             __value_schema_id"
        }
        [0xac, 0xed, 0, 5, ..] => "the value is a serialized Java object: use a serializer of JSON",
        [b'<', ..] => "the value is no JSON object: it is XML or HTML",
        [b'b', b'\'' | b'"', ..] => {
            "the value is no JSON object: it is the text that Python shows of bytes; send the bytes"
        }
        [0x80..=0x8f | 0xde | 0xdf, ..] => "the value is no JSON object: it looks like MessagePack",
        [0xa1..=0xbf | 0xd9, ..] => "the value is no JSON object: it looks like CBOR",
        _ if value.starts_with(b"eyJ") || value.starts_with(b"ewo") => {
            "the value is no JSON object: it is base64 of JSON; send the JSON"
        }
        _ => return None,
    }))
}

/// Whether 16 bytes look like a UUID of a known version.
fn is_guid(bytes: &[u8]) -> bool {
    matches!(bytes[6] >> 4, 1..=8) && bytes[8] >> 6 == 2
}

/// Whether the value is UTF-16 of either order, with a byte order mark or without.
fn is_utf16(value: &[u8]) -> bool {
    match value {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => true,
        // `{"`, `{ ` and the like: ASCII in two bytes each, further than any id of a schema goes.
        [b'{' | b'[', 0, second, 0, ..] => second.is_ascii() && *second != 0,
        [0, b'{' | b'[', 0, second, 0, third, ..] => {
            second.is_ascii() && *second != 0 && third.is_ascii() && *third != 0
        }
        _ => false,
    }
}

/// Whether a list begins like a batch of `CloudEvents`.
fn is_batch(text: &[u8]) -> bool {
    let head = &text[..text.len().min(4096)];
    memchr::memmem::find(head, b"\"specversion\"").is_some()
}

fn is_json_in_json(text: &[u8]) -> bool {
    text.first() == Some(&b'"')
        && serde_json::from_slice::<String>(text)
            .is_ok_and(|inner| inner.trim_start().starts_with(['{', '[']))
}

/// Whether a value begins like an Avro record whose first field is a text: its length, then
/// characters of ids.
fn looks_like_avro(value: &[u8]) -> bool {
    let Some((&first, rest)) = value.split_first() else { return false };
    let length = usize::from(first / 2);
    first % 2 == 0
        && (2..=MAX_FIRST_TEXT).contains(&length)
        && rest.len() > length
        && rest[..length].iter().all(|b| b.is_ascii_alphanumeric() || b"_.:-".contains(b))
        && !value.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    /// Headers, a value, and a word of what is said of it.
    type Case<'a> = (Vec<(&'a str, &'a [u8])>, Vec<u8>, &'a str);

    fn words(headers: &[(&str, &[u8])], value: &[u8]) -> String {
        let headers: Vec<(String, Bytes)> = headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), Bytes::copy_from_slice(value)))
            .collect();
        match form(&headers, value) {
            Form::Other(words) => words.into_owned(),
            form => format!("{form:?}"),
        }
    }

    #[test]
    fn what_is_read_is_told_apart() {
        let guid = uuid::Uuid::from_u128(7);
        let with_guid = [&[1][..], guid.as_bytes()].concat();
        for (headers, value, expected) in [
            (vec![], &b"{}"[..], Form::Bare { start: 0 }),
            (vec![], b" \n{}", Form::Bare { start: 0 }),
            (vec![], b"\xef\xbb\xbf{}", Form::Bare { start: 3 }),
            (vec![], b"nonsense", Form::Bare { start: 0 }),
            (vec![], b"", Form::Bare { start: 0 }),
            (
                vec![],
                b"\0\0\0\x01\x02payload",
                Form::Framed { schema: SchemaRef::Id(258), start: 5 },
            ),
            (
                vec![],
                b"\0\x7f\xff\xff\xff",
                Form::Framed { schema: SchemaRef::Id(MAX_ID), start: 5 },
            ),
            (
                vec![(SCHEMA_HEADER, &b"\0\0\0\0\x09"[..])],
                b"\0\xff\xff\xff\xff\xff",
                Form::Framed { schema: SchemaRef::Id(9), start: 0 },
            ),
            (
                vec![(SCHEMA_HEADER, &with_guid)],
                b"",
                Form::Framed { schema: SchemaRef::Guid(guid), start: 0 },
            ),
            (vec![("content-type", &b"application/json"[..])], b"{}", Form::Bare { start: 0 }),
            (
                vec![("content-type", &b"application/avro"[..])],
                b"\0\0\0\0\x01",
                Form::Framed { schema: SchemaRef::Id(1), start: 5 },
            ),
        ] {
            let headers: Vec<(String, Bytes)> = headers
                .into_iter()
                .map(|(name, value)| (name.to_owned(), Bytes::copy_from_slice(value)))
                .collect();
            assert_eq!(form(&headers, value), expected, "{value:?}");
        }
    }

    #[test]
    fn each_other_form_is_named() {
        let content = |kind: &'static str| vec![("content-type", kind.as_bytes())];
        let utf16 = |text: &str, order: fn(u16) -> [u8; 2]| -> Vec<u8> {
            text.encode_utf16().flat_map(order).collect()
        };
        let json = r#"{"id":"evt_1"}"#;
        let glue = [&[3, 0][..], &[7; 16], b"payload"].concat();
        let cases: Vec<Case<'_>> = vec![
            (vec![], b"\0\0\0".to_vec(), "ends within"),
            (vec![], b"\0\0\0\0\0\0\0\0\x05\x0aevt_1".to_vec(), "Apicurio's own frame"),
            (vec![], b"\0\0\0\0\0".to_vec(), "no schema id"),
            (vec![], b"\0\x80\0\0\0x".to_vec(), "no schema id"),
            (vec![], b"\0\xff\xff\xff\xffxxxxx".to_vec(), "no schema id"),
            (
                vec![("apicurio.value.globalId", b"\0\0\0\0\0\0\0\x01")],
                b"\x0aevt_1".to_vec(),
                "Apicurio's own headers",
            ),
            (vec![(SCHEMA_HEADER, b"\x01\x02")], b"\x0aevt_1".to_vec(), "__value_schema_id"),
            (vec![(SCHEMA_HEADER, b"\0\x80\0\0\0")], b"\x0aevt_1".to_vec(), "__value_schema_id"),
            (vec![], glue, "AWS Glue"),
            (vec![], b"\xc3\x01\x01\x02\x03\x04\x05\x06\x07\x08payload".to_vec(), "single-object"),
            (vec![], b"Obj\x01rest".to_vec(), "object container"),
            (vec![], b"\x0aevt_1\x1epayment.settled".to_vec(), "without a frame"),
            (content("avro/binary"), b"\x02\x02\x04".to_vec(), "without a frame"),
            (vec![], utf16(json, u16::to_le_bytes), "UTF-16"),
            (vec![], utf16(json, u16::to_be_bytes), "UTF-16"),
            (vec![], utf16(&format!("\u{feff}{json}"), u16::to_le_bytes), "UTF-16"),
            (vec![], utf16(&format!("\u{feff}{json}"), u16::to_be_bytes), "UTF-16"),
            (vec![], b"\x1f\x8b\x08\0".to_vec(), "gzip"),
            (vec![], b"\x28\xb5\x2f\xfd\0".to_vec(), "zstd"),
            (content("application/x-protobuf"), b"\x0a\x05evt_1".to_vec(), "Protobuf"),
            (content("application/cloudevents+avro"), b"\x02".to_vec(), "in avro"),
            (
                content("application/cloudevents+protobuf; charset=x"),
                b"\x02".to_vec(),
                "in protobuf",
            ),
            (content("application/cloudevents-batch+json"), b"[{}]".to_vec(), "a batch"),
            (vec![], br#"[{"specversion":"1.0"}]"#.to_vec(), "a batch"),
            (vec![], b"[1,2]".to_vec(), "a list"),
            (vec![], serde_json::to_vec(json).unwrap(), "twice"),
            (vec![], b"eyJpZCI6".to_vec(), "base64"),
            (vec![], b"<event/>".to_vec(), "XML"),
            (vec![], b"b'{}'".to_vec(), "Python"),
            (vec![], b"\xac\xed\0\x05t".to_vec(), "Java"),
        ];
        for (headers, value, said) in cases {
            let words = words(&headers, &value);
            assert!(words.contains(said) && words.len() < 400, "{value:?}: {words}");
        }
    }
}
