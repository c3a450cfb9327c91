//! Any bytes as log records of OpenTelemetry: an answer each time.
#![no_main]
#![allow(missing_docs, reason = "a fuzz target is its one function")]

use libfuzzer_sys::fuzz_target;
use pelton_fuzz::codec::{Decoder, Format};
use pelton_fuzz::domain::RowKind;
use pelton_fuzz::support;

fuzz_target!(|data: &[u8]| {
    let out = support::decode(&Decoder::new(1 << 20), RowKind::Inference, Format::Otlp, data);
    assert!(!out.is_empty(), "a message gives at least one row or dead letter");
});
