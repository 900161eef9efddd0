//! Panics on purpose, in tests.

use parking_lot::Mutex;

static NEXT: Mutex<Option<&'static str>> = Mutex::new(None);

/// The next pass of this place panics, once.
pub fn panic_at(place: &'static str) {
    *NEXT.lock() = Some(place);
}

/// A place is passed.
pub fn pass(place: &'static str) {
    let is_it = {
        let mut next = NEXT.lock();
        let is_it = *next == Some(place);
        if is_it {
            *next = None;
        }
        is_it
    };
    assert!(!is_it, "on purpose: {place}");
}
