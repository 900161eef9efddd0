//! Writes a JSON object field by field, for the one record that every delivery writes.
//!
//! `serde_json` looks at each byte of each key and text for something to escape, one after the
//! other. Keys here are part of this program, and a text is looked at as a whole first.

use serde::Serialize;

/// An object that is being written.
pub(super) struct Fields(Vec<u8>);

impl Fields {
    /// An object without fields yet, with room for so many bytes.
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    /// A field that is a text. The key must need no escape.
    pub(super) fn text(&mut self, key: &'static str, text: &str) {
        self.key(key);
        if text.bytes().fold(true, |plain, byte| plain & is_plain(byte)) {
            self.0.push(b'"');
            self.0.extend_from_slice(text.as_bytes());
            self.0.push(b'"');
        } else {
            self.value(text);
        }
    }

    /// A field that is a number.
    pub(super) fn number(&mut self, key: &'static str, number: impl Into<u64>) {
        self.key(key);
        self.value(&number.into());
    }

    /// The object, of one field or more.
    pub(super) fn end(mut self) -> Vec<u8> {
        self.0.push(b'}');
        self.0
    }

    fn key(&mut self, key: &'static str) {
        self.0.push(if self.0.is_empty() { b'{' } else { b',' });
        self.0.push(b'"');
        self.0.extend_from_slice(key.as_bytes());
        self.0.extend_from_slice(b"\":");
    }

    fn value(&mut self, value: &(impl Serialize + ?Sized)) {
        let before = self.0.len();
        // Texts and numbers: there is nothing that `serde_json` could refuse.
        if serde_json::to_writer(&mut self.0, value).is_err() {
            self.0.truncate(before);
            self.0.extend_from_slice(b"null");
        }
    }
}

/// Whether a byte of a text stands for itself in JSON (RFC 8259, section 7).
const fn is_plain(byte: u8) -> bool {
    byte >= 0x20 && byte != b'"' && byte != b'\\'
}
