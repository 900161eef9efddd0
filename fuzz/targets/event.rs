//! A payment event: whatever is accepted keeps its text, and reads the same again.

#![no_main]

use bytes::Bytes;
use dunmore_connectors::event::Event;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let given = Bytes::copy_from_slice(data);
    match Event::from_json(given.clone()) {
        Ok(event) => {
            assert_eq!(event.json, given);
            assert_eq!(Event::from_json(event.json.clone()).as_ref(), Ok(&event));
            assert!(event.id.as_str().len() <= 128 && event.project.as_str().len() <= 128);
        }
        // What is wrong is told in a header.
        Err(error) => assert!(error.to_string().len() < 4096),
    }
});
