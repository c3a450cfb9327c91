//! One call as the proxy saw it, and the message that it becomes: assembled, enveloped, redacted. All of it off the request's
//! path.

use super::Message;
use crate::codec::redact::Redactor;
use crate::codec::{EncodeError, InferenceLog, assemble_stream};
use crate::domain::{LOGGED_BYTES_MAX, Timestamp};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The client has all of it.
    Complete,
    /// The client hung up.
    Cancelled,
    /// The upstream broke off or went silent.
    Broken,
}

/// One call.
#[derive(Debug)]
pub struct Record {
    /// The sidecar's id of it, which the answer carries in `x-request-id`.
    pub request_id: String,
    /// The client's `x-request-id`.
    pub client_request_id: Option<String>,
    /// When it came.
    pub request_time: Timestamp,
    /// The path.
    pub path: String,
    /// The status of the answer; 499 where the client hung up before there was one.
    pub status: u16,
    /// From the request's first byte to the answer's last.
    pub duration: Duration,
    /// To the answer's first byte.
    pub first_byte: Option<Duration>,
    /// Who answered.
    pub upstream: Option<Arc<str>>,
    /// Who asked.
    pub requester: Option<String>,
    /// The model that was asked for.
    pub model: Option<String>,
    /// The version that answered.
    pub version: Option<String>,
    /// The conversation.
    pub conversation: Option<String>,
    /// The share of such calls that is logged.
    pub sampling_fraction: f64,
    /// The request's body.
    pub request: Bytes,
    /// The answer's body, or its begin.
    pub response: Vec<u8>,
    /// Whether there was more of it than is kept.
    pub cut: bool,
    /// Whether it is a stream of events.
    pub streamed: bool,
    /// How it ended.
    pub ending: Ending,
    /// W3C's trace context, as it went to the upstream.
    pub traceparent: String,
    /// The call that this is a copy of.
    pub shadow_of: Option<String>,
}

impl Record {
    /// Bytes that it takes while it waits.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.request.len() + self.response.len() + 512
    }

    /// The message of the log topic.
    ///
    /// # Errors
    /// Where a value has no JSON form.
    pub fn to_message(&self, topic: &Arc<str>, redactor: Option<&Redactor>) -> Result<Message, EncodeError> {
        let mut codes = Vec::new();
        match self.ending {
            Ending::Complete => {}
            Ending::Cancelled => codes.push("CLIENT_CANCELLED"),
            Ending::Broken => codes.push("UPSTREAM_BROKE_OFF"),
        }
        if self.cut {
            codes.push("MAX_RESPONSE_SIZE_EXCEEDED");
        }
        let (request, response) = (self.request_json(&mut codes), self.response_json(&mut codes));
        let extra = self.extra();
        let mut log = InferenceLog::new(&self.request_id, self.request_time, &request, response.as_deref());
        log.client_request_id = self.client_request_id.as_deref();
        log.status_code = Some(i32::from(self.status));
        log.sampling_fraction = Some(self.sampling_fraction);
        log.execution_duration_ms = milliseconds(self.duration);
        log.time_to_first_token_ms = self.first_byte.and_then(milliseconds);
        log.served_entity_id = self.upstream.as_deref();
        log.requester = self.requester.as_deref();
        log.operation = operation(&self.path);
        log.model = self.model.as_deref();
        log.model_version = self.version.as_deref();
        log.conversation_id = self.conversation.as_deref();
        log.stream = Some(self.streamed);
        log.logging_error_codes = &codes;
        log.extra = Some(&extra);
        let mut payload = log.to_bytes()?;
        if let Some(redactor) = redactor {
            let text = String::from_utf8_lossy(&payload);
            let redacted = match redactor.json(&text) {
                Ok(None) => None,
                Ok(Some(redacted)) => Some(redacted.into_bytes()),
                // Nested too deep to be looked through: withheld rather than sent.
                Err(_) => Some(redactor.unreadable(&payload).into_owned()),
            };
            payload = redacted.unwrap_or(payload);
        }
        // One conversation's calls stay in order; where anything is redacted, the key must not tell who it was.
        let named = self.conversation.as_deref().or(self.requester.as_deref()).filter(|_| redactor.is_none());
        let key = named.unwrap_or(&self.request_id).to_owned();
        Ok(Message { topic: Arc::clone(topic), key, payload })
    }

    /// The request as an object: its own, or what it was in one.
    fn request_json<'a>(&'a self, codes: &mut Vec<&'static str>) -> std::borrow::Cow<'a, str> {
        if self.request.len() > LOGGED_BYTES_MAX {
            // A row would leave it out too, and a broker refuse the message.
            codes.push("MAX_REQUEST_SIZE_EXCEEDED");
            return json!({"model": self.model, "omitted_bytes": self.request.len()}).to_string().into();
        }
        let text = String::from_utf8_lossy(&self.request);
        let object = text.trim_start().starts_with('{') && serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
        if object {
            return text;
        }
        codes.push("REQUEST_NOT_JSON");
        json!({ "body": text }).to_string().into()
    }

    /// The answer as JSON: its own, what its stream amounts to, or its text.
    fn response_json(&self, codes: &mut Vec<&'static str>) -> Option<String> {
        if self.response.is_empty() || (self.cut && !self.streamed) {
            return None;
        }
        let text = String::from_utf8_lossy(&self.response);
        if self.streamed {
            let assembled = assemble_stream(&text)?;
            codes.extend(assembled.codes);
            return Some(assembled.body);
        }
        if serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok() {
            return Some(text.into_owned());
        }
        Some(Value::String(text.into_owned()).to_string())
    }

    fn extra(&self) -> Map<String, Value> {
        let mut extra = Map::new();
        extra.insert("path".to_owned(), self.path.as_str().into());
        extra.insert("traceparent".to_owned(), self.traceparent.as_str().into());
        if let Some(id) = &self.shadow_of {
            extra.insert("shadow_of".to_owned(), id.as_str().into());
        }
        extra
    }
}

/// A body of a message that is too large for its topic is left out where it has more bytes than this.
const KEPT_BYTES_MAX: usize = 1 << 16;

/// A message of the log without its large bodies, saying so; nothing where there is nothing to leave out.
#[must_use]
pub fn without_bodies(payload: &[u8]) -> Option<Vec<u8>> {
    let mut log: Map<String, Value> = serde_json::from_slice(payload).ok()?;
    let mut left_out = false;
    for (field, what) in [("request", true), ("response", false)] {
        let Some(body) = log.get_mut(field).filter(|body| !body.is_null()) else { continue };
        let bytes = body.to_string().len();
        if bytes > KEPT_BYTES_MAX {
            let model = body.get("model").cloned().filter(|model| model.to_string().len() < KEPT_BYTES_MAX);
            *body = if what { json!({"model": model, "omitted_bytes": bytes}) } else { Value::Null };
            left_out = true;
        }
    }
    let codes = log.entry("logging_error_codes").or_insert_with(|| json!([]));
    codes.as_array_mut()?.push("MAX_MESSAGE_SIZE_EXCEEDED".into());
    left_out.then(|| Value::Object(log).to_string().into_bytes())
}

/// The operation as OpenTelemetry names it; of other paths it is derived from the bodies.
fn operation(path: &str) -> Option<&'static str> {
    match path {
        "/v1/chat/completions" | "/v1/responses" => Some("chat"),
        "/v1/completions" => Some("text_completion"),
        "/v1/embeddings" => Some("embeddings"),
        _ => None,
    }
}

fn milliseconds(duration: Duration) -> Option<i64> {
    i64::try_from(duration.as_millis()).ok()
}
