//! What calls used, and whether the budget allows another.
//!
//! A call reserves what it may use at most before it begins, so that calls under way together cannot overrun the budget; what
//! it did use replaces that when its reply is there.

use super::wire::{Chat, Usage};
use crate::config;
use std::fmt;
use std::sync::Mutex;

/// Bytes of text a token, at least: what a prompt is estimated by where the server does not count, and before it does.
const BYTES_PER_TOKEN: usize = 3;

/// What calls used.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Spent {
    /// Calls that were answered.
    pub calls: u64,
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// Tokens of answers.
    pub answer_tokens: u64,
    /// By the configured prices.
    pub price: f64,
}

impl fmt::Display for Spent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { calls, prompt_tokens, answer_tokens, price } = self;
        write!(f, "{calls} calls, {prompt_tokens} prompt and {answer_tokens} answer tokens, price {price:.4}")
    }
}

#[derive(Debug)]
pub(super) struct Ledger {
    /// What was used, and what calls under way reserved.
    books: Mutex<(Spent, Usage)>,
    tokens_max: Option<u64>,
    price_max: Option<f64>,
    price_prompt: f64,
    price_answer: f64,
}

/// A reservation: given back when it is dropped, unless it was settled.
#[must_use]
pub(super) struct Reserved<'a> {
    ledger: &'a Ledger,
    usage: Usage,
}

impl Ledger {
    pub(super) fn new(settings: &config::Endpoint) -> Self {
        Self {
            books: Mutex::default(),
            tokens_max: settings.tokens_max,
            price_max: settings.price_max,
            price_prompt: settings.price_per_million_prompt / 1e6,
            price_answer: settings.price_per_million_answer / 1e6,
        }
    }

    pub(super) fn spent(&self) -> Spent {
        self.books.lock().expect("no holder of the lock panics").0
    }

    /// Reserves what a call may use, or says what was spent where that is too much.
    pub(super) fn reserve(&self, chat: &Chat) -> Result<Reserved<'_>, Spent> {
        let usage = estimate(chat);
        let mut books = self.books.lock().expect("no holder of the lock panics");
        let (spent, reserved) = *books;
        let tokens = spent.prompt_tokens + spent.answer_tokens + reserved.total() + usage.total();
        let price = spent.price + self.price(reserved) + self.price(usage);
        if self.tokens_max.is_some_and(|max| tokens > max) || self.price_max.is_some_and(|max| price > max) {
            return Err(spent);
        }
        books.1 += usage;
        Ok(Reserved { ledger: self, usage })
    }

    #[expect(clippy::cast_precision_loss, reason = "tokens are counted in millions")]
    fn price(&self, usage: Usage) -> f64 {
        usage.prompt_tokens as f64 * self.price_prompt + usage.answer_tokens as f64 * self.price_answer
    }
}

impl Reserved<'_> {
    /// The call was answered and used this; a server that does not count used what was estimated for the prompt.
    pub(super) fn settle(self, usage: Usage) {
        let prompt_tokens = if usage.prompt_tokens == 0 { self.usage.prompt_tokens } else { usage.prompt_tokens };
        let usage = Usage { prompt_tokens, ..usage };
        let price = self.ledger.price(usage);
        let mut books = self.ledger.books.lock().expect("no holder of the lock panics");
        books.0.calls += 1;
        books.0.prompt_tokens += usage.prompt_tokens;
        books.0.answer_tokens += usage.answer_tokens;
        books.0.price += price;
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        let mut books = self.ledger.books.lock().expect("no holder of the lock panics");
        books.1.prompt_tokens -= self.usage.prompt_tokens;
        books.1.answer_tokens -= self.usage.answer_tokens;
    }
}

fn estimate(chat: &Chat) -> Usage {
    let bytes: usize = chat.messages.iter().map(|m| m.content.len() + m.role.len() + 8).sum();
    let answer = chat.tokens_max.saturating_mul(chat.n as usize);
    Usage { prompt_tokens: (bytes / BYTES_PER_TOKEN) as u64, answer_tokens: answer as u64 }
}
