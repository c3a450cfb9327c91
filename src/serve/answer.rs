//! From the pieces of samples to an answer: whole, or as server-sent events.

use super::engine::{Piece, Token, Told};
use super::openai::{Choice, Head, error_body, usage};
use super::{Call, CallLog};
use crate::domain::Timestamp;
use axum::body::Bytes;
use axum::http::StatusCode;
use futures::stream::Stream;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc::UnboundedReceiver;

/// The status in the log where the client hung up (as nginx has it).
const CLIENT_CLOSED: u16 = 499;

/// What the log wants of a call beside its answer.
pub(super) struct Logged {
    pub(super) log: Option<Arc<dyn CallLog>>,
    pub(super) started: Instant,
    pub(super) request_id: String,
    pub(super) client_request_id: Option<String>,
    pub(super) request_time: Timestamp,
    pub(super) requester: Option<String>,
    pub(super) model: Option<String>,
    pub(super) model_version: Option<String>,
    pub(super) request: String,
    pub(super) chat: bool,
    pub(super) streamed: bool,
}

impl Logged {
    /// The call ended; it is logged once.
    pub(super) fn end(&mut self, status: StatusCode, response: String) {
        self.log_with(status.as_u16(), response);
    }

    fn log_with(&mut self, status_code: u16, response: String) {
        let Some(log) = self.log.take() else { return };
        log.record(Call {
            request_id: std::mem::take(&mut self.request_id),
            client_request_id: self.client_request_id.take(),
            request_time: self.request_time,
            status_code,
            duration_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            requester: self.requester.take(),
            model: self.model.take(),
            model_version: self.model_version.take(),
            operation: if self.chat { "chat" } else { "text_completion" },
            stream: self.streamed,
            request: std::mem::take(&mut self.request),
            response,
        });
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        // Not ended yet: the client hung up while it waited.
        let error = error_body("the client hung up", "cancelled", None, None).to_string();
        self.log_with(CLIENT_CLOSED, error);
    }
}

/// An answer under way.
pub(super) struct Answering {
    head: Head,
    pieces: UnboundedReceiver<Told>,
    choices: Vec<Choice>,
    prompt_tokens: usize,
    alternatives: Option<usize>,
    tools: bool,
    includes_usage: bool,
}

impl Answering {
    pub(super) fn new(
        head: Head,
        pieces: UnboundedReceiver<Told>,
        choices: usize,
        prompt_tokens: usize,
        alternatives: Option<usize>,
        tools: bool,
        includes_usage: bool,
    ) -> Self {
        let choices = vec![Choice::default(); choices];
        Self { head, pieces, choices, prompt_tokens, alternatives, tools, includes_usage }
    }

    /// Waits for all of it.
    pub(super) async fn whole(mut self) -> Result<Value, String> {
        while let Some(piece) = self.next().await {
            self.take(piece?);
        }
        if self.is_whole() { Ok(self.body()) } else { Err("the generating thread ended".to_owned()) }
    }

    /// The next piece; nothing once all choices are whole.
    async fn next(&mut self) -> Option<Told> {
        if self.is_whole() { None } else { self.pieces.recv().await }
    }

    fn is_whole(&self) -> bool {
        self.choices.iter().all(|choice| choice.finish.is_some())
    }

    fn take(&mut self, piece: Piece) {
        let Some(choice) = self.choices.get_mut(piece.sample) else { return };
        choice.text.push_str(&piece.text);
        choice.tokens.push(piece.token);
        choice.finish = piece.finish;
    }

    fn body(&self) -> Value {
        let usage = usage(self.prompt_tokens, &self.choices);
        self.head.answer(&self.choices, &usage, self.alternatives, self.tools)
    }

    /// The events of it, each as soon as it is known; the call is logged at the end, or when the client hangs up.
    pub(super) fn stream(self, logged: Logged) -> impl Stream<Item = Result<Bytes, Infallible>> {
        let unsaid = vec![Vec::new(); self.choices.len()];
        let mut events = VecDeque::new();
        if self.head.chat {
            for index in 0..self.choices.len() {
                let delta = json!({"role": "assistant", "content": ""});
                events.push_back(
                    self.head.chunk(index, delta, Value::Null, Value::Null, self.includes_usage).to_string(),
                );
            }
        }
        let streaming = Streaming { answering: self, logged, events, unsaid, ended: false };
        futures::stream::unfold(streaming, |mut streaming| async move {
            let event = streaming.next().await?;
            Some((Ok(Bytes::from(format!("data: {event}\n\n"))), streaming))
        })
    }
}

struct Streaming {
    answering: Answering,
    logged: Logged,
    events: VecDeque<String>,
    /// Tokens whose text is held back: they are told with the text that they belong to.
    unsaid: Vec<Vec<Token>>,
    ended: bool,
}

impl Streaming {
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            if self.ended {
                return None;
            }
            match self.answering.next().await {
                Some(Ok(piece)) => self.tell(piece),
                Some(Err(message)) => self.fail(&message),
                None if self.answering.is_whole() => self.end(),
                None => self.fail("the generating thread ended"),
            }
        }
    }

    fn tell(&mut self, piece: Piece) {
        let (index, text, finish) = (piece.sample, piece.text.clone(), piece.finish);
        let offset = self.answering.choices[index].text.chars().count();
        self.unsaid[index].push(piece.token.clone());
        self.answering.take(piece);
        let Answering { head, alternatives, tools, includes_usage, .. } = &self.answering;
        if *tools {
            if finish.is_some() {
                let chunks = head.tool_chunks(index, &self.answering.choices[index], *includes_usage);
                self.events.extend(chunks.iter().map(Value::to_string));
            }
            return;
        }
        if text.is_empty() && finish.is_none() {
            return;
        }
        let tokens = std::mem::take(&mut self.unsaid[index]);
        let tokens = alternatives.map(|_| (tokens.as_slice(), offset));
        self.events.push_back(head.text_chunk(index, &text, tokens, finish, *includes_usage).to_string());
    }

    fn end(&mut self) {
        let whole = self.answering.body();
        if self.answering.includes_usage {
            self.events.push_back(self.answering.head.usage_chunk(&whole["usage"]).to_string());
        }
        self.events.push_back("[DONE]".to_owned());
        self.logged.end(StatusCode::OK, whole.to_string());
        self.ended = true;
    }

    fn fail(&mut self, message: &str) {
        let error = error_body(message, "server_error", None, None).to_string();
        self.events.push_back(error.clone());
        self.logged.end(StatusCode::INTERNAL_SERVER_ERROR, error);
        self.ended = true;
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        if !self.ended {
            // What was said until the client hung up.
            let said = self.answering.body().to_string();
            self.logged.log_with(CLIENT_CLOSED, said);
        }
    }
}
