//! Any bytes as a datum of several schemas, and any text as a schema: JSON or an error, never a panic.
#![no_main]
#![allow(missing_docs, reason = "a fuzz target is its one function")]

use libfuzzer_sys::fuzz_target;
use pelton_fuzz::codec::avro;
use pelton_fuzz::support::SCHEMAS;

fuzz_target!(|data: &[u8]| {
    for schema in SCHEMAS.iter() {
        if let Ok(json) = avro::to_json(schema, data) {
            serde_json::from_str::<serde::de::IgnoredAny>(&json).expect("what comes out is JSON");
        }
    }
    // The text before the first zero byte as a schema, what is behind it as a datum.
    let (text, datum) = data.split_at(data.iter().position(|b| *b == 0).unwrap_or(data.len()));
    if let Ok(schema) = std::str::from_utf8(text).map_err(drop).and_then(|t| avro::Schema::parse(t, &[]).map_err(drop)) {
        if let Ok(json) = avro::to_json(&schema, datum) {
            serde_json::from_str::<serde::de::IgnoredAny>(&json).expect("what comes out is JSON");
        }
    }
});
