//! A commit's metadata: any text, and text with the right version and checksum over any payload. What is
//! read never tells that an offset outside of it is done, and is written and read the same.

#![no_main]

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use dunmore_connectors::offsets::{CompletionMap, MAX_METADATA_BYTES};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((watermark, payload)) = data.split_first_chunk::<8>() else { return };
    let watermark = i64::from_be_bytes(*watermark);
    if let Ok(text) = std::str::from_utf8(payload) {
        check(watermark, text);
    }
    let mut bytes = vec![1];
    bytes.extend_from_slice(&crc32fast::hash(payload).to_be_bytes());
    bytes.extend_from_slice(payload);
    check(watermark, &STANDARD_NO_PAD.encode(bytes));
});

fn check(watermark: i64, text: &str) {
    let Ok(map) = CompletionMap::decode(watermark, text) else { return };
    assert!(map.end() >= watermark);
    assert!(!map.is_done(map.end()));
    assert!(watermark == i64::MIN || !map.is_done(watermark - 1));
    assert!(map.incomplete().all(|offset| !map.is_done(offset)));
    let written = map.encode();
    assert!(written.len() <= MAX_METADATA_BYTES);
    let again = CompletionMap::decode(watermark, &written).expect("what was written");
    // What does not fit is left out; nothing is done that was not.
    assert!(again.end() <= map.end());
    assert!(again == map || text.len() > MAX_METADATA_BYTES - 64);
}
