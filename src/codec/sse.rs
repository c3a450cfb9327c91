//! A streamed answer that was logged as it went over the wire (server-sent events) becomes the one body that the server
//! would have answered without streaming.
//!
//! Understood are chat completions (several choices, tool calls, log-probabilities, reasoning, usage), text completions, and
//! the Responses API, whose last event carries the whole response. Texts are joined in the order of the events; of
//! everything else the last value counts. Blank lines between events may be missing, as many loggers drop them.
//!
//! It never guesses: a text in which no event is JSON is left as it is.

use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The body that a stream amounts to.
#[derive(Debug, PartialEq, Eq)]
pub struct Assembled {
    /// The body, JSON.
    pub body: String,
    /// What the row's `logging_error_codes` should say.
    pub codes: Vec<&'static str>,
}

/// The stream broke off: neither `[DONE]` nor a finish reason came.
const INCOMPLETE: &str = "RESPONSE_STREAM_INCOMPLETE";
/// Some events were not JSON; the others were taken.
const UNREADABLE: &str = "RESPONSE_STREAM_EVENT_UNREADABLE";
/// Choices and tool calls beyond this index are taken for damage.
const INDEX_MAX: u64 = 1 << 16;
/// Texts of a delta that arrive in pieces. Every other text is whole each time.
const PIECES: &[&str] = &["content", "reasoning_content", "reasoning", "thinking", "refusal", "arguments", "text"];

/// Whether a text looks like server-sent events, by its first field.
pub(super) fn is_stream(text: &str) -> bool {
    let text = text.trim_start_matches(['\u{feff}', ' ', '\t', '\r', '\n']);
    ["data:", "event:", "id:", "retry:", ":"].iter().any(|field| text.starts_with(field))
}

/// Assembles a list of a stream's chunks; nothing where it is another list.
pub(super) fn assemble_list(json: &str) -> Option<Assembled> {
    let chunks: Vec<Map<String, Value>> = serde_json::from_str(json).ok()?;
    let chunk = |c: &Map<String, Value>| c.get("object").is_some_and(|object| object == "chat.completion.chunk");
    if chunks.is_empty() || !chunks.iter().all(chunk) {
        return None;
    }
    let mut stream = Stream::default();
    chunks.into_iter().for_each(|chunk| stream.chunk(chunk));
    stream.finish()
}

/// Assembles a stream; nothing where no event of it is a JSON object.
#[must_use]
pub fn assemble(text: &str) -> Option<Assembled> {
    let mut stream = Stream::default();
    for event in events(text) {
        stream.take(&event);
    }
    stream.finish()
}

/// The data of each event. Lines of one event are joined by a line break, as the standard says.
fn events(text: &str) -> Vec<String> {
    let mut events = Vec::new();
    let mut data = String::new();
    for line in text.trim_start_matches('\u{feff}').split(['\n', '\r']) {
        match line.trim_start().strip_prefix("data:") {
            Some(more) => {
                if !data.is_empty() {
                    data.push('\n');
                }
                data.push_str(more.strip_prefix(' ').unwrap_or(more));
            }
            None if line.is_empty() && !data.is_empty() => events.push(std::mem::take(&mut data)),
            None => {}
        }
    }
    if !data.is_empty() {
        events.push(data);
    }
    events
}

#[derive(Default)]
struct Stream {
    /// Fields of the body beside its choices.
    body: Map<String, Value>,
    choices: BTreeMap<u64, Choice>,
    /// The whole response that an event of the Responses API carries.
    whole: Option<Value>,
    /// Its output as far as it came piece by piece: what there is of it where the stream breaks off.
    output: BTreeMap<u64, Map<String, Value>>,
    chat: bool,
    any: bool,
    done: bool,
    unreadable: bool,
}

#[derive(Default)]
struct Choice {
    message: Map<String, Value>,
    tool_calls: BTreeMap<u64, Map<String, Value>>,
    /// Fields of the choice beside its message: log-probabilities, the finish reason, a text.
    rest: Map<String, Value>,
}

impl Stream {
    fn take(&mut self, data: &str) {
        // Where blank lines were dropped, one event holds several values, and perhaps `[DONE]` after them.
        for line in joined(data) {
            match serde_json::from_str::<Value>(line) {
                Ok(Value::Object(chunk)) => self.chunk(chunk),
                _ if line.trim() == "[DONE]" => self.done = true,
                _ if line.trim().is_empty() => {}
                _ => self.unreadable = true,
            }
        }
    }

    fn chunk(&mut self, mut chunk: Map<String, Value>) {
        self.any = true;
        if let Some(kind) = chunk.get("type").and_then(Value::as_str)
            && kind.starts_with("response.")
        {
            let ends = ["response.completed", "response.incomplete", "response.failed"].contains(&kind);
            self.done |= ends;
            let kind = kind.to_owned();
            if let Some(response) = chunk.remove("response").filter(Value::is_object) {
                self.whole = Some(response);
            }
            self.output_piece(&kind, &chunk);
            return;
        }
        let choices = chunk.remove("choices");
        for (name, value) in chunk {
            if name == "object" && value == "chat.completion.chunk" {
                self.chat = true;
            } else if !value.is_null() {
                self.body.insert(name, value);
            }
        }
        for choice in choices.as_ref().and_then(Value::as_array).into_iter().flatten() {
            self.choice(choice);
        }
    }

    /// A piece of an output item of the Responses API.
    fn output_piece(&mut self, kind: &str, piece: &Map<String, Value>) {
        let index = |name: &str| piece.get(name).and_then(Value::as_u64).unwrap_or(0);
        let at = index("output_index");
        if at > INDEX_MAX {
            self.unreadable = true;
            return;
        }
        let delta = piece.get("delta").and_then(Value::as_str).unwrap_or_default();
        let added = |into: &mut Value| match into {
            Value::String(so_far) => so_far.push_str(delta),
            _ => *into = delta.into(),
        };
        match kind {
            "response.output_item.added" | "response.output_item.done" => {
                if let Some(Value::Object(item)) = piece.get("item") {
                    self.output.insert(at, item.clone());
                }
            }
            "response.function_call_arguments.delta" => {
                added(self.output.entry(at).or_default().entry("arguments").or_insert(Value::Null));
            }
            "response.output_text.delta" => {
                let item = self.output.entry(at).or_insert_with(|| {
                    Map::from_iter([("type".to_owned(), "message".into()), ("role".to_owned(), "assistant".into())])
                });
                let content = item.entry("content").or_insert_with(|| Value::Array(Vec::new()));
                let (Value::Array(parts), part) = (content, index("content_index").min(255) as usize) else {
                    return;
                };
                while parts.len() <= part {
                    parts.push(serde_json::json!({"type": "output_text", "text": ""}));
                }
                if let Some(part) = parts[part].as_object_mut() {
                    added(part.entry("text").or_insert(Value::Null));
                }
            }
            _ => {}
        }
    }

    fn choice(&mut self, piece: &Value) {
        let Some(piece) = piece.as_object() else { return };
        let index = piece.get("index").and_then(Value::as_u64).unwrap_or(0);
        if index > INDEX_MAX {
            self.unreadable = true;
            return;
        }
        let choice = self.choices.entry(index).or_default();
        for (name, value) in piece {
            match (name.as_str(), value) {
                ("index", _) | (_, Value::Null) => {}
                ("delta" | "message", Value::Object(delta)) => {
                    self.chat = true;
                    choice.delta(delta);
                }
                ("text", Value::String(_)) => add(&mut choice.rest, name, value),
                ("logprobs", Value::Object(more)) => extend(&mut choice.rest, more),
                _ => {
                    self.done |= name == "finish_reason";
                    choice.rest.insert(name.clone(), value.clone());
                }
            }
        }
    }

    fn finish(mut self) -> Option<Assembled> {
        if !self.any {
            return None;
        }
        let mut codes = Vec::new();
        // A stream that ended in an error said so in its last event.
        if !self.done && !self.body.contains_key("error") {
            codes.push(INCOMPLETE);
        }
        if self.unreadable {
            codes.push(UNREADABLE);
        }
        if let Some(mut whole) = self.whole {
            if let Some(response) = whole.as_object_mut().filter(|_| !self.done && !self.output.is_empty()) {
                response.insert("output".to_owned(), self.output.into_values().map(Value::Object).collect());
            }
            return Some(Assembled { body: whole.to_string(), codes });
        }
        if self.chat {
            self.body.insert("object".to_owned(), "chat.completion".into());
        }
        let chat = self.chat;
        let choices = self.choices.into_iter().map(|(index, choice)| choice.finish(index, chat));
        let choices: Vec<Value> = choices.collect();
        if !choices.is_empty() || !self.body.contains_key("error") {
            self.body.insert("choices".to_owned(), choices.into());
        }
        Some(Assembled { body: Value::Object(self.body).to_string(), codes })
    }
}

impl Choice {
    fn delta(&mut self, delta: &Map<String, Value>) {
        for (name, value) in delta {
            match (name.as_str(), value) {
                (_, Value::Null) => {}
                ("tool_calls", Value::Array(calls)) => calls.iter().for_each(|call| self.tool_call(call)),
                (_, Value::Object(piece)) => merge(&mut self.message, name, piece),
                _ => add(&mut self.message, name, value),
            }
        }
    }

    fn tool_call(&mut self, piece: &Value) {
        let Some(piece) = piece.as_object() else { return };
        let last = self.tool_calls.len().saturating_sub(1) as u64;
        let index = piece.get("index").and_then(Value::as_u64).unwrap_or(last);
        if index > INDEX_MAX {
            return;
        }
        let call = self.tool_calls.entry(index).or_default();
        for (name, value) in piece {
            match (name.as_str(), value) {
                ("index", _) | (_, Value::Null) => {}
                (_, Value::Object(piece)) => merge(call, name, piece),
                _ => add(call, name, value),
            }
        }
    }

    fn finish(mut self, index: u64, chat: bool) -> Value {
        let mut choice = self.rest;
        choice.insert("index".to_owned(), index.into());
        choice.entry("finish_reason").or_insert(Value::Null);
        if chat {
            self.message.entry("role").or_insert_with(|| "assistant".into());
            self.message.entry("content").or_insert(Value::Null);
            if !self.tool_calls.is_empty() {
                let calls = self.tool_calls.into_values().map(Value::Object).collect();
                self.message.insert("tool_calls".to_owned(), Value::Array(calls));
            }
            choice.insert("message".to_owned(), Value::Object(self.message));
        }
        Value::Object(choice)
    }
}

/// Adds one piece to a field: texts that arrive in pieces are joined, arrays extended, all else replaced.
fn add(into: &mut Map<String, Value>, name: &str, piece: &Value) {
    match (into.get_mut(name), piece) {
        (Some(Value::String(so_far)), Value::String(more)) if PIECES.contains(&name) => so_far.push_str(more),
        (Some(Value::Array(so_far)), Value::Array(more)) => so_far.extend(more.iter().cloned()),
        // Some servers repeat an empty name or id in every piece.
        (Some(Value::String(_)), Value::String(more)) if more.is_empty() => {}
        _ => drop(into.insert(name.to_owned(), piece.clone())),
    }
}

/// Adds the pieces of a nested object, such as a tool call's function.
fn merge(into: &mut Map<String, Value>, name: &str, piece: &Map<String, Value>) {
    let nested = into.entry(name).or_insert_with(|| Value::Object(Map::new()));
    if !nested.is_object() {
        *nested = Value::Object(Map::new());
    }
    for (name, value) in piece.iter().filter(|(_, value)| !value.is_null()) {
        add(nested.as_object_mut().expect("it was made an object just now"), name, value);
    }
}

/// Log-probabilities come as lists by kind (`content`, `refusal`): each is extended.
fn extend(into: &mut Map<String, Value>, more: &Map<String, Value>) {
    merge(into, "logprobs", more);
}

/// An event's data as one value, or its lines where blank lines between events were dropped.
fn joined(data: &str) -> Vec<&str> {
    if !data.contains('\n') || serde_json::from_str::<serde::de::IgnoredAny>(data).is_ok() {
        return vec![data];
    }
    data.split('\n').collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn body(text: &str) -> (Value, Vec<&'static str>) {
        let assembled = assemble(text).expect("a stream");
        (serde_json::from_str(&assembled.body).unwrap(), assembled.codes)
    }

    fn stream(chunks: &[Value]) -> String {
        chunks.iter().map(|c| format!("data: {c}\n\n")).collect::<String>() + "data: [DONE]\n\n"
    }

    #[test]
    fn choices_tools_logprobs_reasoning_and_usage_are_joined() {
        let chunk = |choices: Value| json!({"id": "c1", "object": "chat.completion.chunk", "created": 7, "model": "m", "choices": choices, "usage": null});
        let text = stream(&[
            chunk(json!([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": null}])),
            chunk(
                json!([{"index": 0, "delta": {"reasoning_content": "Let "}}, {"index": 1, "delta": {"content": "B"}}]),
            ),
            chunk(json!([{"index": 0, "delta": {"reasoning_content": "me", "content": "Hel"},
                "logprobs": {"content": [{"token": "Hel", "logprob": -0.25}]}}])),
            chunk(
                json!([{"index": 0, "delta": {"content": "lo"}, "logprobs": {"content": [{"token": "lo", "logprob": -1.5}]}}]),
            ),
            chunk(json!([{"index": 0, "delta": {"tool_calls": [{"index": 0, "id": "t0", "type": "function",
                "function": {"name": "sql", "arguments": ""}}]}}])),
            chunk(json!([{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"arguments": "{\"q\":"}}]}}])),
            chunk(json!([{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"arguments": "1}"}},
                {"index": 1, "id": "t1", "type": "function", "function": {"name": "x", "arguments": "{}"}}]}}])),
            chunk(json!([{"index": 1, "delta": {}, "finish_reason": "length"}])),
            chunk(json!([{"index": 0, "delta": {}, "finish_reason": "tool_calls"}])),
            json!({"id": "c1", "object": "chat.completion.chunk", "created": 7, "model": "m", "choices": [],
                "usage": {"prompt_tokens": 3, "completion_tokens": 5}}),
        ]);
        let whole = json!({
            "id": "c1", "object": "chat.completion", "created": 7, "model": "m",
            "usage": {"prompt_tokens": 3, "completion_tokens": 5},
            "choices": [
                {"index": 0, "finish_reason": "tool_calls",
                 "logprobs": {"content": [{"token": "Hel", "logprob": -0.25}, {"token": "lo", "logprob": -1.5}]},
                 "message": {"role": "assistant", "content": "Hello", "reasoning_content": "Let me", "tool_calls": [
                    {"id": "t0", "type": "function", "function": {"name": "sql", "arguments": "{\"q\":1}"}},
                    {"id": "t1", "type": "function", "function": {"name": "x", "arguments": "{}"}}]}},
                {"index": 1, "finish_reason": "length", "message": {"role": "assistant", "content": "B"}},
            ],
        });
        assert_eq!(body(&text), (whole.clone(), vec![]));
        // Other line ends, no blank lines, comments and event names give the same.
        assert_eq!(body(&text.replace('\n', "\r\n")), (whole.clone(), vec![]));
        assert_eq!(body(&text.replace("\n\n", "\n")), (whole.clone(), vec![]));
        assert_eq!(body(&format!(": ping\n\nevent: message\n{text}")), (whole, vec![]));
    }

    #[test]
    fn other_streams_and_broken_ones() {
        let text = stream(&[
            json!({"object": "text_completion", "choices": [{"index": 0, "text": " 4", "finish_reason": null}]}),
            json!({"object": "text_completion", "choices": [{"index": 0, "text": "2", "finish_reason": "stop"}]}),
        ]);
        let (whole, _) = body(&text);
        assert_eq!(whole["choices"][0], json!({"index": 0, "text": " 42", "finish_reason": "stop"}));

        let responses = "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"a\"}}\n\n\
            event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"x\"}\n\n\
            event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"id\":\"a\",\"status\":\"completed\"}}\n\n";
        assert_eq!(body(responses), (json!({"id": "a", "status": "completed"}), vec![]));

        let pieces = [
            json!({"type": "response.created", "response": {"id": "r", "status": "in_progress", "output": []}}),
            json!({"type": "response.output_item.added", "output_index": 0, "item": {"type": "message", "role": "assistant", "content": []}}),
            json!({"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "Hel"}),
            json!({"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "lo"}),
            json!({"type": "response.output_item.added", "output_index": 1, "item": {"type": "function_call", "name": "f", "arguments": ""}}),
            json!({"type": "response.function_call_arguments.delta", "output_index": 1, "delta": "{\"a\""}),
        ];
        let text: String = pieces.iter().map(|piece| format!("data: {piece}\n\n")).collect();
        let (whole, codes) = body(&text);
        assert_eq!(codes, [INCOMPLETE]);
        assert_eq!(
            (&whole["output"][0]["content"][0]["text"], &whole["output"][1]["arguments"]),
            (&json!("Hello"), &json!("{\"a\""))
        );

        let broken = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\ndata: {\"choi";
        let (whole, codes) = body(broken);
        assert_eq!(whole["choices"][0]["message"]["content"], "a");
        assert_eq!(codes, [INCOMPLETE, UNREADABLE]);

        let failed = "data: {\"error\":{\"message\":\"overloaded\"}}\n\n";
        assert_eq!(body(failed), (json!({"error": {"message": "overloaded"}}), vec![]));
        assert_eq!(assemble("data: hello\n\n"), None);
        assert!(is_stream("\n: keep-alive\ndata: {}") && !is_stream("{\"data\":1}") && !is_stream("date: x"));
        let list =
            r#"[{"object":"chat.completion.chunk","choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}]"#;
        assert!(assemble_list(list).unwrap().body.contains(r#""content":"a""#));
        assert_eq!(assemble_list("[]").or(assemble_list("[1]")).or(assemble_list("[{}]")), None);
    }
}
