//! A payment event: whatever is accepted keeps its text, and reads the same again.

#![no_main]

use bytes::Bytes;
use dunmore_connectors::{event::Event, json};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let given = Bytes::copy_from_slice(data);
    match Event::from_json(given.clone()) {
        Ok(event) => {
            // The space around it is no part of it.
            assert_eq!(event.json, given.trim_ascii());
            assert_eq!(Event::from_json(event.json.clone()).as_ref(), Ok(&event));
            assert!(event.id.as_str().len() <= 128 && event.project.as_str().len() <= 128);
        }
        // What is wrong is told in a header.
        Err(error) => {
            let detail = json::bounded(&error.to_string());
            assert!(!detail.is_empty() && detail.chars().count() <= json::MAX_DETAIL_CHARS);
            assert!(error.problems().0.len() <= 21);
        }
    }
});
