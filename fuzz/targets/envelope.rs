//! A delivery record: what is read is written and read the same.

#![no_main]

use dunmore_connectors::delivery::DeliveryRecord;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(record) = DeliveryRecord::from_json(data) {
        let again = DeliveryRecord::from_json(&record.to_json()).expect("what was written");
        assert_eq!(again, record);
    }
});
