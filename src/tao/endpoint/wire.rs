//! The call and its reply as OpenAI's API writes them.

use crate::domain::ChatMessage;
use serde::Deserialize;
use serde_json::{Value, json};
use std::ops::AddAssign;

/// One call.
#[derive(Debug, Clone, PartialEq)]
pub struct Chat {
    /// The conversation.
    pub messages: Vec<ChatMessage>,
    /// Choices wanted.
    pub n: u32,
    /// The longest answer in tokens.
    pub tokens_max: usize,
    /// The sampling temperature.
    pub temperature: f64,
    /// Nucleus sampling; absent for none.
    pub top_p: Option<f64>,
    /// The seed, for servers that keep one; its low 31 bits are sent, since some read no more.
    pub seed: Option<u64>,
    /// Texts that end an answer.
    pub stop: Vec<String>,
    /// Whether each token's log-probability is wanted.
    pub logprobs: bool,
    /// `response_format`, such as a JSON Schema.
    pub response_format: Option<Value>,
}

impl Chat {
    /// One greedy answer to a conversation.
    #[must_use]
    pub fn new(messages: Vec<ChatMessage>, tokens_max: usize) -> Self {
        Self {
            messages,
            n: 1,
            tokens_max,
            temperature: 0.0,
            top_p: None,
            seed: None,
            stop: Vec::new(),
            logprobs: false,
            response_format: None,
        }
    }

    /// The request's body. What is not asked for is not sent: servers refuse fields that they do not know.
    pub(super) fn body(&self, model: &str) -> Value {
        let turn = |m: &ChatMessage| json!({"role": m.role, "content": m.content});
        let mut body = json!({
            "model": model,
            "messages": self.messages.iter().map(turn).collect::<Vec<_>>(),
            "max_tokens": self.tokens_max,
            "temperature": self.temperature,
        });
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                body[name] = value;
            }
        };
        put("n", (self.n > 1).then(|| json!(self.n)));
        put("top_p", self.top_p.map(Value::from));
        put("seed", self.seed.map(|s| json!(s & 0x7fff_ffff)));
        put("stop", (!self.stop.is_empty()).then(|| json!(self.stop)));
        put("logprobs", self.logprobs.then_some(Value::Bool(true)));
        put("response_format", self.response_format.clone());
        body
    }
}

/// Why an answer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The model ended it, or a stop text did.
    Stop,
    /// It reached the token limit.
    Length,
    /// Whatever else the server says, such as `content_filter`.
    Other(String),
}

/// One token of an answer.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct TokenLogprob {
    /// Its text.
    pub token: String,
    /// Its natural-log probability.
    pub logprob: f64,
    /// Its bytes, where they are no text by themselves.
    #[serde(default)]
    pub bytes: Option<Vec<u8>>,
}

/// One answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// The text.
    pub text: String,
    /// Why it ended.
    pub ending: Ending,
    /// Its tokens with their log-probabilities; absent where they were not asked for or the server has none.
    pub logprobs: Option<Vec<TokenLogprob>>,
}

/// Tokens that a call used, as the server counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Of the prompt.
    pub prompt_tokens: u64,
    /// Of all answers.
    pub answer_tokens: u64,
}

impl Usage {
    pub(super) fn total(self) -> u64 {
        self.prompt_tokens + self.answer_tokens
    }
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.prompt_tokens += other.prompt_tokens;
        self.answer_tokens += other.answer_tokens;
    }
}

/// The answers to one call.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// As many as were asked for.
    pub choices: Vec<Choice>,
    /// What they used.
    pub usage: Usage,
}

#[derive(Deserialize)]
struct WireReply {
    choices: Vec<WireChoice>,
    #[serde(default)]
    usage: Option<WireUsage>,
}

#[derive(Deserialize)]
struct WireChoice {
    message: WireMessage,
    #[serde(default)]
    finish_reason: Option<String>,
    #[serde(default)]
    logprobs: Option<WireLogprobs>,
}

#[derive(Deserialize)]
struct WireMessage {
    #[serde(default)]
    content: Option<String>,
    #[serde(default)]
    refusal: Option<String>,
}

#[derive(Deserialize)]
struct WireLogprobs {
    #[serde(default)]
    content: Option<Vec<TokenLogprob>>,
}

#[derive(Deserialize, Default)]
struct WireUsage {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
}

/// Reads a reply, or says what it is instead.
pub(super) fn read(body: &[u8], chat: &Chat) -> Result<Reply, String> {
    let value: Value = serde_json::from_slice(body).map_err(|e| format!("the answer is no JSON ({e})"))?;
    let reply: WireReply =
        serde_json::from_value(value).map_err(|e| format!("the answer is no chat completion ({e})"))?;
    if reply.choices.is_empty() {
        return Err("the answer has no choice".to_owned());
    }
    let choices: Vec<Choice> = reply.choices.into_iter().map(choice).collect();
    let written: usize = choices.iter().map(|c| c.text.len()).sum();
    let counted = reply.usage.unwrap_or_default();
    // A server that does not count is counted for, roughly and not to its favour.
    let answer_tokens = if counted.completion_tokens == 0 {
        (written / 3).min(chat.tokens_max.saturating_mul(choices.len())) as u64
    } else {
        counted.completion_tokens
    };
    Ok(Reply { choices, usage: Usage { prompt_tokens: counted.prompt_tokens, answer_tokens } })
}

fn choice(wire: WireChoice) -> Choice {
    let ending = match wire.finish_reason.as_deref() {
        None | Some("stop") => Ending::Stop,
        Some("length") => Ending::Length,
        Some(other) => Ending::Other(other.to_owned()),
    };
    let text = wire.message.content.or(wire.message.refusal).unwrap_or_default();
    Choice { text, ending, logprobs: wire.logprobs.and_then(|l| l.content) }
}
