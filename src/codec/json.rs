//! JSON text to JSON text: strings written with the escapes that JSON demands, objects in canonical order.
//!
//! Nothing here builds a document tree. Numbers are copied digit by digit, so that no precision is lost.

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// A value that is nested deeper is copied as it stands: the order of keys is not worth a stack.
const SORTED_DEPTH_MAX: usize = 64;

/// Writes a string with its quotes.
pub(super) fn push_string(out: &mut String, text: &str) {
    out.push('"');
    push_escaped(out, text);
    out.push('"');
}

/// Writes the inside of a string.
pub(super) fn push_escaped(out: &mut String, text: &str) {
    let mut copied = 0;
    for (at, &byte) in text.as_bytes().iter().enumerate() {
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0..=0x1f => {
                out.push_str(&text[copied..at]);
                out.push_str(&format!("\\u{byte:04x}"));
                copied = at + 1;
                continue;
            }
            _ => continue,
        };
        out.push_str(&text[copied..at]);
        out.push_str(escape);
        copied = at + 1;
    }
    out.push_str(&text[copied..]);
}

/// The members of an object, in the order in which they stand.
pub(super) struct Members<'a>(pub(super) Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((Key(key), value)) = map.next_entry::<Key<'de>, &'de RawValue>()? {
                    members.push((key, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// A key, borrowed where it has no escape: serde's own `Cow` is always owned.
struct Key<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Key<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// One object of the members: keys sorted at every depth, no white space; of a key that stands twice the last one counts.
/// The values must be JSON.
pub(super) fn canonical_object(mut members: Vec<(Cow<'_, str>, &str)>) -> String {
    let mut out = String::with_capacity(members.iter().map(|(k, v)| k.len() + v.len() + 4).sum::<usize>() + 2);
    push_object(&mut out, &mut members, 0);
    out
}

fn push_object(out: &mut String, members: &mut [(Cow<'_, str>, &str)], depth: usize) {
    // The sort is stable: of equal keys the last one in the text comes last.
    members.sort_by(|a, b| a.0.cmp(&b.0));
    out.push('{');
    let mut first = true;
    for (i, (key, value)) in members.iter().enumerate() {
        if members.get(i + 1).is_some_and(|(next, _)| next == key) {
            continue;
        }
        if !std::mem::take(&mut first) {
            out.push(',');
        }
        push_string(out, key);
        out.push(':');
        push_canonical(out, value, depth + 1);
    }
    out.push('}');
}

fn push_canonical(out: &mut String, json: &str, depth: usize) {
    let json = json.trim_ascii();
    let sorted = match json.as_bytes().first() {
        Some(b'{') if depth < SORTED_DEPTH_MAX => {
            serde_json::from_str::<Members<'_>>(json).ok().map(|Members(members)| {
                let mut members: Vec<_> = members.into_iter().map(|(k, v)| (k, v.get())).collect();
                push_object(out, &mut members, depth);
            })
        }
        Some(b'[') if depth < SORTED_DEPTH_MAX => {
            serde_json::from_str::<Vec<&RawValue>>(json).ok().map(|items| push_array(out, &items, depth))
        }
        Some(b'"') => super::field::string(json).map(|text| push_string(out, &text)),
        _ => None,
    };
    if sorted.is_none() {
        out.push_str(json);
    }
}

fn push_array(out: &mut String, items: &[&RawValue], depth: usize) {
    out.push('[');
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        push_canonical(out, item.get(), depth + 1);
    }
    out.push(']');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(json: &str) -> String {
        let Members(members) = serde_json::from_str(json).unwrap();
        canonical_object(members.into_iter().map(|(k, v)| (k, v.get())).collect())
    }

    #[test]
    fn the_same_object_has_one_text() {
        let a = canonical(r#"{ "b" : [1.50, {"z":null,"y":"\u0041\n"}], "a":12345678901234567890123 }"#);
        assert_eq!(a, r#"{"a":12345678901234567890123,"b":[1.50,{"y":"A\n","z":null}]}"#);
        assert_eq!(canonical(&a), a);
        assert_eq!(canonical(r#"{"k":1,"a":2,"k":3}"#), r#"{"a":2,"k":3}"#);
    }

    #[test]
    fn depth_costs_no_stack() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        let members = serde_json::from_str::<Members<'_>>(&deep);
        if let Ok(Members(members)) = members {
            assert_eq!(canonical_object(members.into_iter().map(|(k, v)| (k, v.get())).collect()), deep);
        }
    }
}
