//! The wire types of OpenAI's chat completions, as far as this server speaks them.

use crate::model::{Finish, Generated};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The request. Fields that change the answer and are not supported are refused by name; others are accepted and ignored.
#[derive(Debug, Deserialize)]
pub(super) struct ChatRequest {
    pub(super) model: String,
    pub(super) messages: Vec<Message>,
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
    pub(super) tools: Option<Value>,
    #[serde(default)]
    pub(super) response_format: Option<Value>,
    #[serde(default)]
    pub(super) stop: Option<Value>,
    #[serde(default)]
    pub(super) user: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Message {
    pub(super) role: String,
    #[serde(default)]
    pub(super) content: Content,
}

/// A text, or parts of which the text ones count.
#[derive(Debug, Default, Deserialize)]
#[serde(untagged)]
pub(super) enum Content {
    Text(String),
    Parts(Vec<Part>),
    #[default]
    Nothing,
}

#[derive(Debug, Deserialize)]
pub(super) struct Part {
    #[serde(default)]
    text: String,
}

impl Content {
    pub(super) fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Parts(parts) => parts.iter().map(|p| p.text.as_str()).collect::<Vec<_>>().join("\n"),
            Self::Nothing => String::new(),
        }
    }
}

impl ChatRequest {
    /// What the client asks for and this server cannot do.
    pub(super) fn unsupported(&self) -> Option<&'static str> {
        let asks = |v: &Option<Value>| v.as_ref().is_some_and(|v| !v.is_null());
        if self.stream == Some(true) {
            return Some("stream");
        }
        if self.tools.as_ref().and_then(Value::as_array).is_some_and(|t| !t.is_empty()) {
            return Some("tools");
        }
        if asks(&self.stop) {
            return Some("stop");
        }
        let plain = |f: &Value| f.get("type").and_then(Value::as_str) == Some("text");
        self.response_format.as_ref().filter(|f| !f.is_null() && !plain(f)).map(|_| "response_format")
    }
}

/// One answer.
#[derive(Debug, Serialize)]
pub(super) struct ChatResponse {
    pub(super) id: String,
    object: &'static str,
    created: i64,
    model: String,
    choices: Vec<Value>,
    usage: Value,
}

impl ChatResponse {
    pub(super) fn new(
        id: String,
        created: i64,
        model: &str,
        prompt_tokens: usize,
        answers: &[(Generated, String)],
    ) -> Self {
        let finish = |g: &Generated| match g.finish {
            Finish::Stop => "stop",
            Finish::Length => "length",
        };
        let choice = |(index, (generated, text)): (usize, &(Generated, String))| {
            let message = json!({"role": "assistant", "content": text});
            json!({"index": index, "message": message, "finish_reason": finish(generated), "logprobs": null})
        };
        let completion_tokens: usize = answers.iter().map(|(g, _)| g.tokens.len()).sum();
        Self {
            id,
            object: "chat.completion",
            created,
            model: model.to_owned(),
            choices: answers.iter().enumerate().map(choice).collect(),
            usage: json!({
                "prompt_tokens": prompt_tokens,
                "completion_tokens": completion_tokens,
                "total_tokens": prompt_tokens + completion_tokens,
            }),
        }
    }
}

/// An error body in OpenAI's form.
pub(super) fn error_body(message: &str, kind: &str, param: Option<&str>, code: Option<&str>) -> Value {
    json!({"error": {"message": message, "type": kind, "param": param, "code": code}})
}
