//! An OpenAI-compatible endpoint: where a judge or an explored model answers. Used by `explore` and `score`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An OpenAI-compatible endpoint, such as vLLM, llama.cpp, `pelton serve` or a hosted model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// The API's base, such as `http://127.0.0.1:8000/v1`; `/chat/completions` is put behind it.
    #[schemars(length(min = 1))]
    pub url: String,
    /// The model's name there.
    #[schemars(length(min = 1))]
    pub model: String,
    /// The environment variable that holds the API key. Its name, never the key: settings are stored with each version.
    /// Default: none, no key is sent.
    #[serde(default)]
    pub api_key_env: Option<String>,
    /// Milliseconds that one call may take. Default: 120,000, what a long answer takes.
    #[serde(default = "Endpoint::default_timeout_ms")]
    #[schemars(range(min = 10))]
    pub timeout_ms: u64,
    /// Tries of one call that meets 429, 5xx, a timeout or a broken answer. Default: 6.
    #[serde(default = "Endpoint::default_tries_max")]
    #[schemars(range(min = 1, max = 100))]
    pub tries_max: u32,
    /// The longest pause between two tries in milliseconds, what a `Retry-After` asks for included: where that is longer,
    /// the call is given up. Default: 60,000.
    #[serde(default = "Endpoint::default_pause_ms_max")]
    #[schemars(range(min = 1))]
    pub pause_ms_max: u64,
    /// Calls under way at once. Default: 8.
    #[serde(default = "Endpoint::default_concurrency")]
    #[schemars(range(min = 1, max = 1024))]
    pub concurrency: usize,
    /// Calls begun in a minute, evenly spaced. Default: none, no limit.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub requests_per_minute: Option<u32>,
    /// Tokens that may be used, of prompts and answers together; after that no call is made. Default: none, no limit.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub tokens_max: Option<u64>,
    /// What may be spent, in the currency of the prices below. Default: none, no limit.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub price_max: Option<f64>,
    /// The price of a million prompt tokens. Default: 0.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub price_per_million_prompt: f64,
    /// The price of a million answer tokens. Default: 0.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub price_per_million_answer: f64,
}

impl Endpoint {
    /// The endpoint with all defaults.
    #[must_use]
    pub fn new(url: impl Into<String>, model: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            model: model.into(),
            api_key_env: None,
            timeout_ms: Self::default_timeout_ms(),
            tries_max: Self::default_tries_max(),
            pause_ms_max: Self::default_pause_ms_max(),
            concurrency: Self::default_concurrency(),
            requests_per_minute: None,
            tokens_max: None,
            price_max: None,
            price_per_million_prompt: 0.0,
            price_per_million_answer: 0.0,
        }
    }

    /// The API key from the environment; nothing where no variable is named.
    ///
    /// # Errors
    /// The variable's name, where it is not set.
    pub fn api_key(&self) -> Result<Option<String>, String> {
        let Some(name) = &self.api_key_env else { return Ok(None) };
        std::env::var(name).ok().filter(|key| !key.is_empty()).map(Some).ok_or_else(|| name.clone())
    }

    fn default_timeout_ms() -> u64 {
        120_000
    }
    fn default_tries_max() -> u32 {
        6
    }
    fn default_pause_ms_max() -> u64 {
        60_000
    }
    fn default_concurrency() -> usize {
        8
    }
}
