//! The completed offsets beyond the watermark, as text for the commit's metadata.
//!
//! The broker takes at most `offset.metadata.max.bytes` = 4,096 bytes, and the client library
//! takes no NUL bytes, so it is base64 of: version, CRC-32 of the rest, span, then the gaps
//! between incomplete offsets as LEB128 varints. Incomplete offsets are few (they are capped);
//! completed ones are many: so the incomplete ones are written.

use std::collections::BTreeSet;

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};

use crate::id::TopicId;

/// The most bytes of metadata that a Kafka broker takes by default.
pub const MAX_METADATA_BYTES: usize = 4096;

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 5;
/// Stands between the map and the topic's id. It is no character of base64, so a release without
/// topic ids takes such a text for damaged: it repeats more, and loses nothing.
const TOPIC_MARK: char = '@';
/// The mark and the 22 characters of a topic id.
const TOPIC_BYTES: usize = 23;
/// What remains for varints: base64 makes four characters of three bytes.
const MAX_PAYLOAD_BYTES: usize = (MAX_METADATA_BYTES - TOPIC_BYTES) / 4 * 3 - HEADER_BYTES;

/// The metadata of a commit: a map's text, and the id of the topic that the offsets belong to.
pub(super) fn with_topic(mut map: String, topic: Option<TopicId>) -> String {
    if let Some(topic) = topic {
        map.push(TOPIC_MARK);
        map.push_str(&topic.to_string());
    }
    map
}

/// Takes the metadata of a commit apart.
pub(super) fn split_topic(metadata: &str) -> (&str, Option<TopicId>) {
    match metadata.split_once(TOPIC_MARK) {
        Some((map, topic)) => (map, TopicId::parse(topic)),
        None => (metadata, None),
    }
}

/// Why a text is no map. The safe reading of such a text is "nothing is known": more repeats,
/// never a loss.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MapError {
    /// Written by another tool or a later version.
    #[error("unknown version")]
    Version,
    /// Cut, changed, or no base64.
    #[error("damaged")]
    Damaged,
}

/// Which offsets from a watermark on are complete.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CompletionMap {
    watermark: i64,
    end: i64,
    incomplete: BTreeSet<i64>,
}

impl CompletionMap {
    /// Everything in `watermark..end` is complete but the offsets listed.
    pub fn new(watermark: i64, end: i64, incomplete: impl IntoIterator<Item = i64>) -> Self {
        Self { watermark, end, incomplete: incomplete.into_iter().collect() }
    }

    /// Whether this offset is known to be complete.
    pub fn is_done(&self, offset: i64) -> bool {
        (self.watermark..self.end).contains(&offset) && !self.incomplete.contains(&offset)
    }

    /// The lowest offset that the map knows of.
    pub fn watermark(&self) -> i64 {
        self.watermark
    }

    /// One beyond the highest offset that the map knows of.
    pub fn end(&self) -> i64 {
        self.end
    }

    /// The incomplete offsets, ascending.
    pub fn incomplete(&self) -> impl Iterator<Item = i64> + '_ {
        self.incomplete.iter().copied()
    }

    /// The map as metadata text, never longer than [`MAX_METADATA_BYTES`]: what does not fit is
    /// left out, which makes the map end earlier.
    pub fn encode(&self) -> String {
        let mut gaps = Vec::with_capacity(self.incomplete.len() * 2);
        let mut end = self.end;
        let mut previous = self.watermark;
        for offset in &self.incomplete {
            let before = gaps.len();
            put_varint(&mut gaps, offset.abs_diff(previous));
            // Ten bytes are kept free for the span.
            if gaps.len() + 10 > MAX_PAYLOAD_BYTES {
                gaps.truncate(before);
                end = *offset;
                break;
            }
            previous = *offset;
        }
        let mut payload = Vec::with_capacity(gaps.len() + 10);
        put_varint(&mut payload, end.abs_diff(self.watermark));
        payload.extend_from_slice(&gaps);
        let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
        bytes.push(VERSION);
        bytes.extend_from_slice(&crc32fast::hash(&payload).to_be_bytes());
        bytes.extend_from_slice(&payload);
        STANDARD_NO_PAD.encode(bytes)
    }

    /// Reads metadata text that was committed together with this watermark.
    pub fn decode(watermark: i64, metadata: &str) -> Result<Self, MapError> {
        if metadata.is_empty() {
            return Ok(Self { watermark, end: watermark, incomplete: BTreeSet::new() });
        }
        let bytes = STANDARD_NO_PAD.decode(metadata).map_err(|_| MapError::Damaged)?;
        let (version, rest) = bytes.split_first().ok_or(MapError::Damaged)?;
        if *version != VERSION {
            return Err(MapError::Version);
        }
        let (checksum, mut payload) = rest.split_first_chunk::<4>().ok_or(MapError::Damaged)?;
        if crc32fast::hash(payload).to_be_bytes() != *checksum {
            return Err(MapError::Damaged);
        }
        let mut add = |to: i64| -> Result<i64, MapError> {
            let gap = take_varint(&mut payload).ok_or(MapError::Damaged)?;
            to.checked_add_unsigned(gap).ok_or(MapError::Damaged)
        };
        let end = add(watermark)?;
        let mut incomplete = BTreeSet::new();
        let mut previous = watermark;
        loop {
            match add(previous) {
                Ok(offset) if offset < end => {
                    incomplete.insert(offset);
                    previous = offset;
                }
                Ok(_) => return Err(MapError::Damaged),
                Err(_) if payload.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        Ok(Self { watermark, end, incomplete })
    }
}

fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            bytes.push(low & 0x7f);
            return;
        }
        bytes.push(low | 0x80);
    }
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::offsets::MAX_INCOMPLETE;

    #[test]
    fn a_full_map_of_millions_fits_the_broker_limit() {
        let incomplete = (0..MAX_INCOMPLETE).map(|i| i64::try_from(i).unwrap() * 2_000);
        let map = CompletionMap::new(0, 2_000_000, incomplete);
        let text = map.encode();
        assert!(text.len() < 3000, "{}", text.len());
        assert_eq!(CompletionMap::decode(0, &text).unwrap(), map);
    }

    #[test]
    fn what_does_not_fit_is_left_out_safely() {
        let far = 1_i64 << 50;
        let incomplete: Vec<i64> = (0..1000).map(|i| i * far).collect();
        let map = CompletionMap::new(0, 1000 * far, incomplete.clone());
        let text = map.encode();
        assert!(text.len() <= MAX_METADATA_BYTES);
        let read = CompletionMap::decode(0, &text).unwrap();
        assert!(read.end() < map.end() && read.end() > 0);
        assert!(incomplete.iter().all(|offset| !read.is_done(*offset)));
        assert!(read.is_done(far + 1));
    }

    #[test]
    fn another_version_or_damage_is_told_apart() {
        let text = CompletionMap::new(5, 9, [6]).encode();
        assert_eq!(CompletionMap::decode(5, "AA"), Err(MapError::Version));
        assert_eq!(CompletionMap::decode(5, "{json}"), Err(MapError::Damaged));
        assert_eq!(CompletionMap::decode(5, &text[..text.len() - 2]), Err(MapError::Damaged));
        assert_eq!(CompletionMap::decode(5, "").unwrap().end(), 5);
    }

    proptest! {
        #[test]
        fn a_map_reads_back(start in 0_i64..1 << 40, gaps in prop::collection::vec(1_i64..5000, 0..1000), tail in 1_i64..5000) {
            let mut offset = start;
            let incomplete: Vec<i64> = gaps.iter().map(|gap| { offset += gap; offset }).collect();
            let map = CompletionMap::new(start, offset + tail, incomplete);
            let text = map.encode();
            prop_assert!(text.len() <= MAX_METADATA_BYTES);
            prop_assert_eq!(CompletionMap::decode(start, &text).unwrap(), map);
        }

        #[test]
        fn foreign_text_never_panics(text in "\\PC{0,200}", watermark in any::<i64>()) {
            let _ = CompletionMap::decode(watermark, &text);
        }

        #[test]
        fn foreign_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100), watermark in any::<i64>()) {
            let mut framed = vec![VERSION];
            framed.extend_from_slice(&crc32fast::hash(&bytes).to_be_bytes());
            framed.extend_from_slice(&bytes);
            let _ = CompletionMap::decode(watermark, &STANDARD_NO_PAD.encode(framed));
        }
    }
}
