//! The wire types of OpenAI's chat and text completions, as far as this server speaks them.

use super::engine::Token;
use crate::model::Finish;
use serde::Deserialize;
use serde_json::{Value, json};

/// A request for either. Fields that change the answer and are not supported are refused by name; others are accepted and
/// ignored.
#[derive(Debug, Deserialize)]
pub(super) struct Request {
    pub(super) model: String,
    #[serde(default)]
    pub(super) messages: Option<Vec<Value>>,
    #[serde(default)]
    pub(super) prompt: Option<Prompt>,
    #[serde(default)]
    pub(super) max_tokens: Option<usize>,
    #[serde(default)]
    pub(super) max_completion_tokens: Option<usize>,
    #[serde(default)]
    pub(super) temperature: Option<f32>,
    #[serde(default)]
    pub(super) top_p: Option<f32>,
    #[serde(default)]
    pub(super) n: Option<usize>,
    #[serde(default)]
    pub(super) seed: Option<i64>,
    #[serde(default)]
    pub(super) stream: Option<bool>,
    #[serde(default)]
    pub(super) stream_options: Option<StreamOptions>,
    #[serde(default)]
    pub(super) tools: Option<Value>,
    #[serde(default)]
    pub(super) tool_choice: Option<Value>,
    #[serde(default)]
    pub(super) response_format: Option<Value>,
    #[serde(default)]
    pub(super) stop: Option<Stop>,
    #[serde(default)]
    pub(super) logprobs: Option<Logprobs>,
    #[serde(default)]
    pub(super) top_logprobs: Option<usize>,
    #[serde(default)]
    pub(super) user: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct StreamOptions {
    #[serde(default)]
    pub(super) include_usage: bool,
}

/// A text completion's prompt.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Prompt {
    Text(String),
    Tokens(Vec<u32>),
    Texts(Vec<String>),
}

/// One stop text or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Stop {
    One(String),
    Several(Vec<String>),
}

/// Chat asks yes or no, text completions how many.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged)]
pub(super) enum Logprobs {
    Wanted(bool),
    Count(usize),
}

impl Request {
    /// What the client asks for and this server cannot do.
    pub(super) fn unsupported(&self) -> Option<&'static str> {
        let free = |choice: &Value| choice.is_null() || choice == "auto" || choice == "none";
        self.tool_choice.as_ref().filter(|choice| !free(choice)).map(|_| "tool_choice")
    }

    /// The JSON Schema that the answer must fit, where there is one.
    ///
    /// # Errors
    /// A format of another kind, or one without its schema; says what would be right.
    pub(super) fn schema(&self) -> Result<Option<Value>, String> {
        let Some(format) = self.response_format.as_ref().filter(|format| !format.is_null()) else { return Ok(None) };
        match format.get("type").and_then(Value::as_str) {
            Some("text") => Ok(None),
            Some("json_object") => Ok(Some(json!({"type": "object"}))),
            Some("json_schema") => {
                let schema = format.pointer("/json_schema/schema").filter(|s| s.is_object() || s.is_boolean());
                schema.cloned().map(Some).ok_or_else(|| "`json_schema.schema` is missing or no schema".to_owned())
            }
            _ => Err("`type` must be `text`, `json_object` or `json_schema`".to_owned()),
        }
    }

    /// The tools that the template should know of.
    pub(super) fn tools(&self) -> Option<&Value> {
        let none = self.tool_choice.as_ref().is_some_and(|choice| choice == "none");
        self.tools.as_ref().filter(|tools| !none && tools.as_array().is_some_and(|tools| !tools.is_empty()))
    }

    /// The stop texts.
    pub(super) fn stops(&self) -> Vec<String> {
        match &self.stop {
            None => Vec::new(),
            Some(Stop::One(one)) => vec![one.clone()],
            Some(Stop::Several(all)) => all.clone(),
        }
    }

    /// How many alternatives are told of each token; nothing where no log-probabilities are wanted.
    pub(super) fn alternatives(&self) -> Option<usize> {
        match self.logprobs {
            None | Some(Logprobs::Wanted(false)) => None,
            Some(Logprobs::Wanted(true)) => Some(self.top_logprobs.unwrap_or(0)),
            Some(Logprobs::Count(count)) => Some(count),
        }
    }

    pub(super) fn is_streamed(&self) -> bool {
        self.stream == Some(true)
    }

    pub(super) fn includes_usage(&self) -> bool {
        self.stream_options.as_ref().is_some_and(|options| options.include_usage)
    }
}

/// A message as templates expect it: text parts joined, arguments of tool calls as objects.
pub(super) fn message_for_template(message: &Value) -> Value {
    let mut message = message.clone();
    let Some(fields) = message.as_object_mut() else { return message };
    match fields.get("content") {
        Some(Value::Array(parts)) => {
            let texts: Vec<&str> = parts.iter().filter_map(|part| part.get("text")?.as_str()).collect();
            let joined = texts.join("\n");
            fields.insert("content".to_owned(), joined.into());
        }
        None | Some(Value::Null) => drop(fields.insert("content".to_owned(), "".into())),
        Some(_) => {}
    }
    for call in fields.get_mut("tool_calls").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(arguments) = call.pointer_mut("/function/arguments")
            && let Some(object) = arguments.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok())
        {
            *arguments = object;
        }
    }
    message
}

/// What both kinds of answers and all their chunks have.
#[derive(Debug, Clone)]
pub(super) struct Head {
    pub(super) id: String,
    pub(super) created: i64,
    pub(super) model: String,
    pub(super) chat: bool,
}

/// One choice as far as it is known.
#[derive(Debug, Default, Clone)]
pub(super) struct Choice {
    pub(super) text: String,
    pub(super) tokens: Vec<Token>,
    pub(super) finish: Option<Finish>,
}

fn finish_reason(finish: Option<Finish>, calls_tools: bool) -> Value {
    match finish {
        None => Value::Null,
        Some(Finish::Stop) if calls_tools => "tool_calls".into(),
        Some(Finish::Stop) => "stop".into(),
        Some(Finish::Length) => "length".into(),
    }
}

impl Head {
    fn object(&self, chunk: bool) -> &'static str {
        match (self.chat, chunk) {
            (true, false) => "chat.completion",
            (true, true) => "chat.completion.chunk",
            (false, _) => "text_completion",
        }
    }

    /// The whole answer.
    pub(super) fn answer(&self, choices: &[Choice], usage: &Value, alternatives: Option<usize>, tools: bool) -> Value {
        let one = |(index, choice): (usize, &Choice)| {
            let logprobs = alternatives.map_or(Value::Null, |_| self.logprobs(&choice.tokens, 0));
            if !self.chat {
                let finish = finish_reason(choice.finish, false);
                return json!({"index": index, "text": choice.text, "logprobs": logprobs, "finish_reason": finish});
            }
            let (content, calls) = if tools { tool_calls(&choice.text, &self.id, index) } else { (None, Vec::new()) };
            let mut message = json!({"role": "assistant", "content": choice.text});
            if !calls.is_empty() {
                message["content"] = content.map_or(Value::Null, Value::String);
                message["tool_calls"] = calls.clone().into();
            }
            let finish = finish_reason(choice.finish, !calls.is_empty());
            json!({"index": index, "message": message, "finish_reason": finish, "logprobs": logprobs})
        };
        json!({
            "id": self.id, "object": self.object(false), "created": self.created, "model": self.model,
            "choices": choices.iter().enumerate().map(one).collect::<Vec<_>>(), "usage": usage,
        })
    }

    /// A chunk that adds to one choice.
    pub(super) fn chunk(&self, index: usize, delta: Value, logprobs: Value, finish: Value, usage: bool) -> Value {
        let choice = if self.chat {
            json!({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish})
        } else {
            json!({"index": index, "text": delta, "logprobs": logprobs, "finish_reason": finish})
        };
        let mut chunk = json!({
            "id": self.id, "object": self.object(true), "created": self.created, "model": self.model, "choices": [choice],
        });
        if usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }

    /// The chunk of a piece of text.
    pub(super) fn text_chunk(
        &self,
        index: usize,
        text: &str,
        tokens: Option<(&[Token], usize)>,
        finish: Option<Finish>,
        usage: bool,
    ) -> Value {
        let logprobs = tokens.map_or(Value::Null, |(tokens, offset)| self.logprobs(tokens, offset));
        let delta = match (self.chat, text) {
            (true, "") => json!({}),
            (true, text) => json!({"content": text}),
            (false, text) => text.into(),
        };
        self.chunk(index, delta, logprobs, finish_reason(finish, false), usage)
    }

    /// The chunks of a choice that may call tools: it is known only when it is whole.
    pub(super) fn tool_chunks(&self, index: usize, choice: &Choice, usage: bool) -> Vec<Value> {
        let (content, calls) = tool_calls(&choice.text, &self.id, index);
        let finish = finish_reason(choice.finish, !calls.is_empty());
        let mut chunks = Vec::new();
        let content = if calls.is_empty() { Some(choice.text.clone()) } else { content };
        if let Some(content) = content.filter(|content| !content.is_empty()) {
            chunks.push(self.chunk(index, json!({"content": content}), Value::Null, Value::Null, usage));
        }
        for (at, mut call) in calls.into_iter().enumerate() {
            call["index"] = at.into();
            chunks.push(self.chunk(index, json!({"tool_calls": [call]}), Value::Null, Value::Null, usage));
        }
        chunks.push(self.chunk(index, json!({}), Value::Null, finish, usage));
        chunks
    }

    /// The last chunk, where the client asked for it.
    pub(super) fn usage_chunk(&self, usage: &Value) -> Value {
        json!({
            "id": self.id, "object": self.object(true), "created": self.created, "model": self.model, "choices": [],
            "usage": usage,
        })
    }

    fn logprobs(&self, tokens: &[Token], offset: usize) -> Value {
        if self.chat {
            let named = |text: &str, logprob: f32| json!({"token": text, "logprob": logprob, "bytes": text.as_bytes()});
            let one = |token: &Token| {
                let mut entry = named(&token.text, token.logprob);
                entry["top_logprobs"] = token.top.iter().map(|(text, logprob)| named(text, *logprob)).collect();
                entry
            };
            return json!({"content": tokens.iter().map(one).collect::<Vec<_>>(), "refusal": null});
        }
        let mut at = offset;
        let offsets: Vec<usize> = tokens
            .iter()
            .map(|token| {
                let here = at;
                at += token.text.chars().count();
                here
            })
            .collect();
        let top = |token: &Token| {
            token.top.iter().cloned().map(|(text, l)| (text, l.into())).collect::<serde_json::Map<_, _>>()
        };
        json!({
            "tokens": tokens.iter().map(|t| t.text.as_str()).collect::<Vec<_>>(),
            "token_logprobs": tokens.iter().map(|t| t.logprob).collect::<Vec<_>>(),
            "top_logprobs": tokens.iter().map(top).collect::<Vec<_>>(),
            "text_offset": offsets,
        })
    }
}

/// Calls of tools in an answer, as models of the Hermes and Qwen families write them: JSON between `<tool_call>` tags; and
/// the text before them.
fn tool_calls(text: &str, id: &str, index: usize) -> (Option<String>, Vec<Value>) {
    let mut calls = Vec::new();
    let mut rest = text;
    let before = text.split("<tool_call>").next().unwrap_or_default().trim();
    while let Some((_, after)) = rest.split_once("<tool_call>") {
        let (inner, tail) = after.split_once("</tool_call>").unwrap_or((after, ""));
        rest = tail;
        let Ok(call) = serde_json::from_str::<Value>(inner.trim()) else { continue };
        let Some(name) = call.get("name").and_then(Value::as_str) else { continue };
        let arguments = call.get("arguments").cloned().unwrap_or_else(|| json!({}));
        let arguments = arguments.as_str().map_or_else(|| arguments.to_string(), str::to_owned);
        let call_id = format!("call_{}_{index}_{}", id.trim_start_matches("chatcmpl-"), calls.len());
        calls.push(json!({"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}));
    }
    ((!before.is_empty()).then(|| before.to_owned()), calls)
}

/// The count of tokens.
pub(super) fn usage(prompt: usize, choices: &[Choice]) -> Value {
    let completion: usize = choices.iter().map(|choice| choice.tokens.len()).sum();
    json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion})
}

/// An error body in OpenAI's form.
pub(super) fn error_body(message: &str, kind: &str, param: Option<&str>, code: Option<&str>) -> Value {
    json!({"error": {"message": message, "type": kind, "param": param, "code": code}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_tools_are_found_in_the_text() {
        let text = "Let me see.\n<tool_call>\n{\"name\": \"sql\", \"arguments\": {\"q\": 1}}\n</tool_call>\n<tool_call>{\"name\":\"x\",\"arguments\":\"{}\"}";
        let (content, calls) = tool_calls(text, "chatcmpl-7", 0);
        assert_eq!(content.as_deref(), Some("Let me see."));
        assert_eq!(calls[0]["function"], json!({"name": "sql", "arguments": "{\"q\":1}"}));
        assert_eq!((calls.len(), &calls[1]["function"]["arguments"]), (2, &json!("{}")));
        for plain in ["no call", "<tool_call>{broken</tool_call>", ""] {
            assert!(tool_calls(plain, "c", 0).1.is_empty());
        }
        let odd = json!({"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "image"}, {"text": "b"}],
            "tool_calls": [{"function": {"arguments": "{\"a\": 1}"}}]});
        let ready = message_for_template(&odd);
        assert_eq!(
            (&ready["content"], &ready["tool_calls"][0]["function"]["arguments"]),
            (&json!("a\nb"), &json!({"a": 1}))
        );
    }
}
