//! Any bytes as an event about a version: an answer each time, and what is read is written the same.
#![no_main]
#![allow(missing_docs, reason = "a fuzz target is its one function")]

use libfuzzer_sys::fuzz_target;
use pelton_fuzz::codec::event;

fuzz_target!(|data: &[u8]| {
    if let Ok(version) = event::decode(data) {
        let again = event::messages(&version, "fuzz");
        assert!(!again.is_empty(), "a version has an event");
    }
});
