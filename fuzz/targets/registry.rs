//! Any bytes as a framed message, with Avro, JSON and unusable schemas known.
#![no_main]
#![allow(missing_docs, reason = "a fuzz target is its one function")]

use libfuzzer_sys::fuzz_target;
use pelton_fuzz::codec::Format;
use pelton_fuzz::domain::RowKind;
use pelton_fuzz::support::{self, DECODER};

fuzz_target!(|data: &[u8]| {
    for format in [Format::Auto, Format::Registry] {
        let out = support::decode(&DECODER, RowKind::Inference, format, data);
        assert!(!out.is_empty(), "every schema is known");
    }
});
