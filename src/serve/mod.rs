//! An OpenAI-compatible server on `model`, for one machine and for the demo.
//!
//! `POST /v1/chat/completions` and `/v1/completions`, whole or streamed, `GET /v1/models`, and vLLM's
//! `POST /v1/load_lora_adapter` and `/v1/unload_lora_adapter`. One thread owns the model: a request joins the samples under
//! way at their next token, on the base or on any adapter. Every call, failed ones and those whose client hung up too, is
//! handed to a [`CallLog`]; a log never delays an answer.

mod adapters;
mod answer;
mod engine;
mod grammar;
mod http;
mod openai;
mod text;

pub use adapters::AdapterError;
pub use engine::{Engine, Refused};
pub use http::{Server, router};

use crate::config;
use crate::domain::Timestamp;
use crate::model::Model;

/// Requests that may wait, unless the caller says otherwise: some seconds' work for a small model on two cores.
const QUEUE_MAX: usize = 1024;

/// How a server answers.
#[derive(Debug, Clone)]
pub struct Options {
    /// The name that the base answers to; adapters answer to theirs.
    pub model_name: String,
    /// Tokens of an answer where the request names no limit.
    pub tokens_default: usize,
    /// The most tokens that a request may ask for.
    pub tokens_max: usize,
    /// Requests that are generated together.
    pub batch_rows: usize,
    /// Requests that may wait; more are refused with status 429.
    pub queue_max: usize,
}

impl Options {
    /// Serves a base as its exploration samples from it.
    #[must_use]
    pub fn of(model_name: &str, explore: &config::Explore, base: &Model) -> Self {
        Self {
            model_name: model_name.to_owned(),
            tokens_default: explore.tokens_max,
            tokens_max: base.config().max_position_embeddings,
            batch_rows: explore.batch_rows,
            queue_max: QUEUE_MAX,
        }
    }
}

/// One answered call, as the log wants it.
#[derive(Debug, Clone)]
pub struct Call {
    /// The id that the answer carries.
    pub request_id: String,
    /// The id that the client gave in `x-request-id`.
    pub client_request_id: Option<String>,
    /// When it came in.
    pub request_time: Timestamp,
    /// The HTTP status of the answer.
    pub status_code: u16,
    /// From the request's last byte to the answer's first.
    pub duration_ms: u64,
    /// Who asked: the `user` field of the request.
    pub requester: Option<String>,
    /// The model that was asked for.
    pub model: Option<String>,
    /// The adapter that answered.
    pub model_version: Option<String>,
    /// `chat` or `text_completion`.
    pub operation: &'static str,
    /// Whether the answer was streamed; `response` is then what its pieces amount to.
    pub stream: bool,
    /// The raw request body.
    pub request: String,
    /// The raw response body.
    pub response: String,
}

/// Where calls are logged. Implementations hand over and return: a slow log must not slow an answer.
pub trait CallLog: Send + Sync {
    /// Takes one call.
    fn record(&self, call: Call);
}
