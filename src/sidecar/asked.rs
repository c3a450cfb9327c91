//! What the proxy reads in a request's body, and the one thing that it changes there: the model's name. Every other byte goes
//! on as it came.

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Fields of a body; all absent where it is no JSON object. Of fields that are given twice the last counts, as in Python.
#[derive(Debug, Default)]
struct Wire<'a> {
    model: Option<&'a RawValue>,
    models: usize,
    user: Option<&'a RawValue>,
    safety_identifier: Option<&'a RawValue>,
    prompt_cache_key: Option<&'a RawValue>,
    metadata: Option<&'a RawValue>,
}

impl<'de> Deserialize<'de> for Wire<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> serde::de::Visitor<'de> for Fields {
            type Value = Wire<'de>;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut wire = Wire::default();
                while let Some(Key(key)) = map.next_key()? {
                    let field = match &*key {
                        "model" => {
                            wire.models += 1;
                            &mut wire.model
                        }
                        "user" => &mut wire.user,
                        "safety_identifier" => &mut wire.safety_identifier,
                        "prompt_cache_key" => &mut wire.prompt_cache_key,
                        "metadata" => &mut wire.metadata,
                        _ => {
                            map.next_value::<serde::de::IgnoredAny>()?;
                            continue;
                        }
                    };
                    *field = Some(map.next_value()?);
                }
                Ok(wire)
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// A key, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// What may not be said of a model in a body, whatever reads it in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Odd {
    /// A name that is a path or a URL: some servers resolve unknown models by path or from a hub.
    Name,
    /// Two names: which one counts differs from server to server.
    Twice,
    /// Not UTF-8, and yet JSON for a server that guesses encodings.
    Encoding,
}

/// What a body says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// The model.
    pub model: Option<String>,
    /// The user.
    pub user: Option<String>,
    /// The conversation.
    pub conversation: Option<String>,
    /// Where the model's name stands, its quotes included.
    place: Option<std::ops::Range<usize>>,
    odd: Option<Odd>,
}

impl Asked {
    /// Why the body must not go on.
    #[must_use]
    pub fn odd(&self) -> Option<Odd> {
        self.odd
    }

    /// Reads a body. One that is odd says nothing and goes on as it is.
    #[must_use]
    pub fn read(body: &[u8]) -> Self {
        let Ok(wire) = serde_json::from_slice::<Wire<'_>>(body) else {
            return Self { odd: odd_in_text(body), ..Self::default() };
        };
        let conversation = wire.metadata.and_then(|metadata| {
            #[derive(Deserialize)]
            struct Metadata<'a> {
                #[serde(borrow)]
                conversation_id: Cow<'a, str>,
            }
            serde_json::from_str::<Metadata<'_>>(metadata.get()).ok().map(|m| m.conversation_id.into_owned())
        });
        let model = text(wire.model);
        Self {
            place: wire.model.filter(|_| model.is_some()).map(|raw| {
                // Both lie in one allocation: the difference of their addresses is the place.
                let start = raw.get().as_ptr() as usize - body.as_ptr() as usize;
                start..start + raw.get().len()
            }),
            odd: if wire.models > 1 {
                Some(Odd::Twice)
            } else {
                model.as_deref().is_some_and(is_suspicious).then_some(Odd::Name)
            },
            model,
            user: text(wire.user).or_else(|| text(wire.safety_identifier)),
            conversation: conversation.or_else(|| text(wire.prompt_cache_key)),
        }
    }

    /// The body with another model.
    #[must_use]
    pub fn with_model(&self, body: &Bytes, model: &str) -> Bytes {
        let Some(place) = self.place.clone().filter(|_| self.model.as_deref() != Some(model)) else {
            return body.clone();
        };
        let name = serde_json::Value::from(model).to_string();
        let mut changed = BytesMut::with_capacity(body.len() + name.len());
        changed.extend_from_slice(&body[..place.start]);
        changed.extend_from_slice(name.as_bytes());
        changed.extend_from_slice(&body[place.end..]);
        changed.freeze()
    }
}

fn text(raw: Option<&RawValue>) -> Option<String> {
    serde_json::from_str::<Cow<'_, str>>(raw?.get()).ok().map(Cow::into_owned)
}

fn is_suspicious(model: &str) -> bool {
    model.contains("://")
        || model.contains("..")
        || model.starts_with(['/', '~', '\\'])
        || model.chars().any(char::is_control)
}

/// What a lenient reader would find in a body that is no JSON to us: it goes on as it came, but not with such a name.
fn odd_in_text(body: &[u8]) -> Option<Odd> {
    // UTF-16 and UTF-32 of ASCII have a zero beside each letter, or begin with a byte order mark.
    let head = &body[..body.len().min(4)];
    if head.contains(&0) || head.starts_with(&[0xff, 0xfe]) || head.starts_with(&[0xfe, 0xff]) {
        return Some(Odd::Encoding);
    }
    let mut rest = body;
    while let Some(at) = memchr::memmem::find(rest, b"\"model\"") {
        rest = &rest[at + 7..];
        let after = rest.trim_ascii_start();
        let Some(value) = after.strip_prefix(b":").map(<[u8]>::trim_ascii_start) else { continue };
        let Some(Ok(name)) = serde_json::Deserializer::from_slice(value).into_iter::<String>().next() else { continue };
        if is_suspicious(&name) {
            return Some(Odd::Name);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_models_name_changes() {
        let body = Bytes::from_static(
            br#" {"messages":[{"model":"x"}], "model" : "a\"lias" ,"user":"u1","metadata":{"conversation_id":"c"}} "#,
        );
        let asked = Asked::read(&body);
        assert_eq!((asked.model.as_deref(), asked.user.as_deref()), (Some("a\"lias"), Some("u1")));
        assert_eq!(asked.conversation.as_deref(), Some("c"));
        let changed = asked.with_model(&body, "m@v1");
        let expected =
            br#" {"messages":[{"model":"x"}], "model" : "m@v1" ,"user":"u1","metadata":{"conversation_id":"c"}} "#;
        assert_eq!(&changed[..], &expected[..]);
        assert_eq!(asked.with_model(&body, "a\"lias"), body);
        for odd in [&b"{\"model\":7}"[..], b"[1]", b"{\"model\":\"a\"", b"\xff", b""] {
            let body = Bytes::copy_from_slice(odd);
            let asked = Asked::read(&body);
            assert_eq!(asked.with_model(&body, "z"), body);
            assert_eq!((asked.model.as_deref(), asked.odd()), (None, None));
        }
    }

    #[test]
    fn names_that_servers_look_up_are_found_however_they_are_said() {
        let cases: &[(&[u8], Option<Odd>)] = &[
            (b"{\"model\": \"support\"}", None),
            (b"{\"model\": \"org/support\"}", None),
            (b"{\"model\": \"/etc/passwd\"}", Some(Odd::Name)),
            (b"{\"mod\\u0065l\": \"/etc\"}", Some(Odd::Name)),
            (b"{\"model\": \"a\", \"model\": \"b\"}", Some(Odd::Twice)),
            (b"{\"temperature\": NaN, \"model\": \"http://10.0.0.1/m\"}", Some(Odd::Name)),
            (b"{\"temperature\": NaN, \"model\": \"support\"}", None),
            (b"{\0\"\0m\0", Some(Odd::Encoding)),
            (b"\xff\xfe{\0", Some(Odd::Encoding)),
        ];
        for (body, odd) in cases {
            assert_eq!(Asked::read(body).odd(), *odd, "{}", String::from_utf8_lossy(body));
        }
    }
}
