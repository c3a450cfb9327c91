//! Any text redacted: JSON stays JSON, nothing is found a second time, and a seeded secret never survives.
#![no_main]
#![allow(missing_docs, reason = "a fuzz target is its one function")]

use libfuzzer_sys::fuzz_target;
use pelton_fuzz::support::REDACTOR;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(redacted) = REDACTOR.json(text) {
        let before = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
        let kept = redacted.as_deref().unwrap_or(text);
        assert!(!before || serde_json::from_str::<serde::de::IgnoredAny>(kept).is_ok(), "JSON stays JSON: {kept}");
    }
    let loose = REDACTOR.unreadable(data);
    let _ = REDACTOR.bytes(&loose);
    // A secret among whatever was found, as a string of JSON that may hold JSON.
    let message = serde_json::json!({"a": text, "b": format!("{text} zz7q@fuzz.example {text}"), "c": serde_json::json!([format!("\n{text}\"zz7q@fuzz.example")]).to_string()});
    let redacted = REDACTOR.json(&message.to_string()).expect("it is JSON").expect("it holds an address");
    assert!(!redacted.contains("zz7q@"), "{redacted}");
    serde_json::from_str::<serde::de::IgnoredAny>(&redacted).expect("JSON stays JSON");
});
