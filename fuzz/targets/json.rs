//! Any bytes to rows of logs and of feedback: an answer each time, and `extra` in one form.
#![no_main]
#![allow(missing_docs, reason = "a fuzz target is its one function")]

use libfuzzer_sys::fuzz_target;
use pelton_fuzz::codec::extra::Extra;
use pelton_fuzz::codec::{Decoder, Format};
use pelton_fuzz::domain::RowKind;
use pelton_fuzz::support;

fuzz_target!(|data: &[u8]| {
    let decoder = Decoder::new(1 << 20);
    for kind in [RowKind::Inference, RowKind::Feedback] {
        for format in [Format::Auto, Format::Json] {
            let out = support::decode(&decoder, kind, format, data);
            assert_eq!(out.len(), 1, "one message that is no export gives one row or dead letter");
            if let Some(extra) = &out[0].extra {
                assert_eq!(Extra::parse(extra).finish().as_ref(), Some(extra), "extra is canonical");
            }
        }
    }
});
