//! Any text as the logged stream of a response: an answer each time, and JSON where it was assembled.
#![no_main]
#![allow(missing_docs, reason = "a fuzz target is its one function")]

use libfuzzer_sys::fuzz_target;
use pelton_fuzz::codec::{Decoder, Format};
use pelton_fuzz::domain::RowKind;
use pelton_fuzz::support;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let message = serde_json::json!({
        "request_id": "r", "request_time": "2026-11-22 10:00:00", "request": "{}", "response": text,
    });
    let out = support::decode(&Decoder::new(64 << 20), RowKind::Inference, Format::Auto, message.to_string().as_bytes());
    let row = &out[0];
    if let Some(response) = row.response.as_ref().filter(|response| *response != text) {
        serde_json::from_str::<serde::de::IgnoredAny>(response).expect("an assembled response is JSON");
    }
});
