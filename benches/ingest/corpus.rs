//! Messages whose sizes follow a trace of a language model's traffic and whose text is text.
//!
//! Four bytes stand for a token, as they do on average in English. A call is a conversation: a short system turn, then turns
//! of user and assistant until the context's size is reached, the last one a user's; the response has the generated size.
//! The text is walked through from its beginning to its end and over again, so that nothing repeats within its size.
//!
//! Without `--trace` sizes are log-normal: median 1,020 and 129 tokens with sigma 1.0 and 1.1, bounded to 14,050 and 1,000,
//! about what the Azure conversation trace has. Without `--text` the text is questions and SQL of the demo's generator.

use anyhow::{Context as _, Result};
use pelton::codec::InferenceLog;
use pelton::demo::questions::{Dial, statements};
use pelton::demo::shop::Shop;
use pelton::domain::Timestamp;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

const BYTES_A_TOKEN: usize = 4;
/// One turn of a conversation has this many tokens.
const TURN_TOKENS: usize = 120;

/// Where messages come from.
pub struct Corpus {
    sizes: Vec<(usize, usize)>,
    text: String,
    about: String,
}

impl Corpus {
    pub fn open(trace: Option<&Path>, text: Option<&Path>) -> Result<Self> {
        let sizes = trace.map_or_else(|| Ok(log_normal(20_000)), sizes)?;
        let (source, text) = match text {
            Some(path) => (path.display().to_string(), strings(path)?),
            None => {
                let shop = Shop::generate(1);
                ("the demo's statements".to_owned(), statements(&shop, 1, 20_000, Dial::default()).join("\n"))
            }
        };
        let about = format!(
            "sizes: {} calls of {}; text: {:.1} MB of {source}",
            sizes.len(),
            trace.map_or_else(|| "a log-normal distribution".to_owned(), |p| p.display().to_string()),
            text.len() as f64 / 1e6
        );
        anyhow::ensure!(!sizes.is_empty() && text.len() > 100_000, "the trace or the text is too small");
        Ok(Self { sizes, text, about })
    }

    pub fn about(&self) -> String {
        self.about.clone()
    }

    /// Endless messages, the same ones for each seed.
    pub fn messages(&self, seed: u64) -> Messages<'_> {
        Messages { corpus: self, next: 0, at: 0, seed }
    }
}

fn sizes(path: &Path) -> Result<Vec<(usize, usize)>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let size = |line: &str| {
        let mut fields = line.split(',').skip(1);
        Some((fields.next()?.trim().parse().ok()?, fields.next()?.trim().parse().ok()?))
    };
    Ok(text.lines().skip(1).filter_map(size).collect())
}

fn log_normal(count: usize) -> Vec<(usize, usize)> {
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    let mut normal = move || {
        let (u, v): (f64, f64) = (random.random_range(1e-12..1.0), random.random());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    };
    let mut size = |median: f64, sigma: f64, most: f64| (median * (sigma * normal()).exp()).clamp(3.0, most) as usize;
    (0..count).map(|_| (size(1020.0, 1.0, 14_050.0), size(129.0, 1.1, 1000.0))).collect()
}

/// All strings of JSON lines, a line each.
fn strings(path: &Path) -> Result<String> {
    let lines = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut text = String::new();
    for line in lines.lines() {
        let Value::Object(fields) = serde_json::from_str(line)? else { continue };
        for value in fields.values().filter_map(Value::as_str) {
            text.push_str(value);
            text.push('\n');
        }
    }
    Ok(text)
}

/// An endless sequence of messages.
pub struct Messages<'a> {
    corpus: &'a Corpus,
    next: usize,
    at: usize,
    seed: u64,
}

impl Messages<'_> {
    /// The next message's value, in our envelope.
    pub fn message(&mut self) -> Result<Vec<u8>> {
        let (context, generated) = self.corpus.sizes[self.next % self.corpus.sizes.len()];
        let id = format!("chatcmpl-{:08x}-{:010}", self.seed, self.next);
        self.next += 1;
        let mut turns = vec![json!({"role": "system", "content": "You are a helpful assistant. Think step by step."})];
        let mut left = context.saturating_sub(12);
        while left > 0 || turns.len() % 2 == 1 {
            let tokens = left.clamp(3, TURN_TOKENS);
            left = left.saturating_sub(tokens);
            let role = if turns.len() % 2 == 1 { "user" } else { "assistant" };
            turns.push(json!({"role": role, "content": self.text(tokens)}));
        }
        let request = json!({
            "model": "support-7b", "temperature": 0.7, "top_p": 0.95, "max_tokens": 1000, "stream": false, "messages": turns
        })
        .to_string();
        let response = json!({
            "id": id, "object": "chat.completion", "created": 1_795_341_600 + self.next as u64, "model": "support-7b@v17",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": self.text(generated)},
                "logprobs": null, "finish_reason": if generated >= 1000 { "length" } else { "stop" }}],
            "usage": {"prompt_tokens": context, "completion_tokens": generated, "total_tokens": context + generated}
        })
        .to_string();
        let (user, conversation) = (format!("user-{}", self.next % 977), format!("conv-{:06}", self.next / 3));
        let time = Timestamp::from_millis(1_795_341_600_000 + self.next as i64 * 50);
        let log = InferenceLog {
            status_code: Some(200),
            sampling_fraction: Some(1.0),
            execution_duration_ms: Some(40 + generated as i64 * 21),
            time_to_first_token_ms: Some(30 + context as i64 / 9),
            served_entity_id: Some("support-7b-h100-0"),
            requester: Some(&user),
            conversation_id: Some(&conversation),
            ..InferenceLog::new(&id, time, &request, Some(&response))
        };
        Ok(log.to_bytes()?)
    }

    /// The next stretch of text, of so many tokens.
    fn text(&mut self, tokens: usize) -> &str {
        let text = &self.corpus.text;
        let wanted = (tokens * BYTES_A_TOKEN).min(text.len() - 8);
        if self.at + wanted + 8 > text.len() {
            self.at = 0;
        }
        let (begin, end) = (text.ceil_char_boundary(self.at), text.ceil_char_boundary(self.at + wanted));
        self.at = end;
        &text[begin..end]
    }
}
