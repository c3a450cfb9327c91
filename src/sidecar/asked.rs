//! What the proxy reads in a request's body, and the one thing that it changes there: the model's name. Every other byte goes
//! on as it came.

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Fields of a body; all absent where it is no JSON object.
#[derive(Debug, Default, Deserialize)]
struct Wire<'a> {
    #[serde(borrow, default)]
    model: Option<&'a RawValue>,
    #[serde(borrow, default)]
    user: Option<&'a RawValue>,
    #[serde(borrow, default)]
    safety_identifier: Option<&'a RawValue>,
    #[serde(borrow, default)]
    prompt_cache_key: Option<&'a RawValue>,
    #[serde(borrow, default)]
    metadata: Option<&'a RawValue>,
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
}

impl Asked {
    /// Reads a body. One that is odd says nothing and goes on as it is.
    #[must_use]
    pub fn read(body: &[u8]) -> Self {
        let Ok(wire) = serde_json::from_slice::<Wire<'_>>(body) else { return Self::default() };
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
        for odd in
            [&b"{\"model\":7}"[..], b"[1]", b"{\"model\":\"a\"", b"\xff", b"", b"{\"model\":\"a\",\"model\":\"b\"}"]
        {
            let body = Bytes::copy_from_slice(odd);
            assert_eq!(Asked::read(&body).with_model(&body, "z"), body);
            assert_eq!(Asked::read(&body).model, None);
        }
    }
}
