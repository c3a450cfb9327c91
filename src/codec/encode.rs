//! Domain values to the bytes that cross Kafka: what a server, a test or an application writes.

use super::schema::{FEEDBACK_V1, INFERENCE_LOG_V1};
use crate::domain::Timestamp;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// A value that cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// A body is not JSON.
    #[error("the {body} body is not JSON")]
    NotJson {
        /// `request` or `response`.
        body: &'static str,
        /// What serde says.
        #[source]
        source: serde_json::Error,
    },
    /// A value has no JSON form, such as a number that is not finite.
    #[error("the message cannot be written as JSON")]
    Json(#[from] serde_json::Error),
}

/// One logged call in our envelope, version 1. The bodies are JSON as they were sent.
#[derive(Debug, Clone, PartialEq)]
pub struct InferenceLog<'a> {
    /// The server's id of the call.
    pub request_id: &'a str,
    /// When the call came in.
    pub request_time: Timestamp,
    /// The raw request body.
    pub request: &'a str,
    /// The raw response body.
    pub response: Option<&'a str>,
    /// The id that the client gave.
    pub client_request_id: Option<&'a str>,
    /// The HTTP status that was answered.
    pub status_code: Option<i32>,
    /// The share of calls that are logged.
    pub sampling_fraction: Option<f64>,
    /// The whole call's duration in milliseconds.
    pub execution_duration_ms: Option<i64>,
    /// Milliseconds to the first token.
    pub time_to_first_token_ms: Option<i64>,
    /// The served entity.
    pub served_entity_id: Option<&'a str>,
    /// Who asked.
    pub requester: Option<&'a str>,
    /// The operation; derived from the bodies where absent.
    pub operation: Option<&'a str>,
    /// The model that was asked for; derived from the bodies where absent.
    pub model: Option<&'a str>,
    /// The adapter version that answered.
    pub model_version: Option<&'a str>,
    /// The conversation.
    pub conversation_id: Option<&'a str>,
    /// Whether the answer was streamed; derived from the request where absent.
    pub stream: Option<bool>,
    /// What went wrong while logging.
    pub logging_error_codes: &'a [&'a str],
    /// Fields beside these; a row keeps them in `extra`.
    pub extra: Option<&'a Map<String, Value>>,
}

impl<'a> InferenceLog<'a> {
    /// A log with what every log has; the rest is absent and can be set.
    #[must_use]
    pub fn new(request_id: &'a str, request_time: Timestamp, request: &'a str, response: Option<&'a str>) -> Self {
        Self {
            request_id,
            request_time,
            request,
            response,
            client_request_id: None,
            status_code: None,
            sampling_fraction: None,
            execution_duration_ms: None,
            time_to_first_token_ms: None,
            served_entity_id: None,
            requester: None,
            operation: None,
            model: None,
            model_version: None,
            conversation_id: None,
            stream: None,
            logging_error_codes: &[],
            extra: None,
        }
    }

    /// The message's value.
    ///
    /// # Errors
    /// [`EncodeError::NotJson`] where a body is not JSON.
    pub fn to_bytes(&self) -> Result<Vec<u8>, EncodeError> {
        let wire = InferenceWire {
            schema: INFERENCE_LOG_V1.name,
            request_id: self.request_id,
            request_time: self.request_time,
            client_request_id: self.client_request_id,
            status_code: self.status_code,
            sampling_fraction: self.sampling_fraction,
            execution_duration_ms: self.execution_duration_ms,
            time_to_first_token_ms: self.time_to_first_token_ms,
            served_entity_id: self.served_entity_id,
            requester: self.requester,
            operation: self.operation,
            model: self.model,
            model_version: self.model_version,
            conversation_id: self.conversation_id,
            stream: self.stream,
            logging_error_codes: self.logging_error_codes,
            extra: self.extra,
            request: raw("request", self.request)?,
            response: self.response.map(|body| raw("response", body)).transpose()?,
        };
        Ok(serde_json::to_vec(&wire)?)
    }
}

/// One signal of a user on a logged call, version 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Feedback<'a> {
    /// The signal's own id.
    pub feedback_id: &'a str,
    /// The call that it is about.
    pub request_id: &'a str,
    /// When it was given.
    pub feedback_time: Timestamp,
    /// Thumb up or down.
    pub thumb: Option<bool>,
    /// A score from 0 to 1.
    pub score: Option<f64>,
    /// Free text.
    pub text: Option<&'a str>,
    /// Who gave it.
    pub requester: Option<&'a str>,
}

impl Feedback<'_> {
    /// The message's value.
    ///
    /// # Errors
    /// [`EncodeError::Json`] where a value has no JSON form.
    pub fn to_bytes(&self) -> Result<Vec<u8>, EncodeError> {
        let wire = FeedbackWire {
            schema: FEEDBACK_V1.name,
            feedback_id: self.feedback_id,
            request_id: self.request_id,
            feedback_time: self.feedback_time,
            thumb: self.thumb.map(|up| if up { "up" } else { "down" }),
            score: self.score,
            text: self.text,
            requester: self.requester,
        };
        Ok(serde_json::to_vec(&wire)?)
    }
}

fn raw<'a>(body: &'static str, text: &'a str) -> Result<&'a RawValue, EncodeError> {
    serde_json::from_str(text).map_err(|source| EncodeError::NotJson { body, source })
}

fn time<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

fn absent<T>(value: &Option<T>) -> bool {
    value.is_none()
}

#[derive(Serialize)]
struct InferenceWire<'a> {
    schema: &'a str,
    request_id: &'a str,
    #[serde(serialize_with = "time")]
    request_time: Timestamp,
    #[serde(skip_serializing_if = "absent")]
    client_request_id: Option<&'a str>,
    #[serde(skip_serializing_if = "absent")]
    status_code: Option<i32>,
    #[serde(skip_serializing_if = "absent")]
    sampling_fraction: Option<f64>,
    #[serde(skip_serializing_if = "absent")]
    execution_duration_ms: Option<i64>,
    #[serde(skip_serializing_if = "absent")]
    time_to_first_token_ms: Option<i64>,
    #[serde(skip_serializing_if = "absent")]
    served_entity_id: Option<&'a str>,
    #[serde(skip_serializing_if = "absent")]
    requester: Option<&'a str>,
    #[serde(skip_serializing_if = "absent")]
    operation: Option<&'a str>,
    #[serde(skip_serializing_if = "absent")]
    model: Option<&'a str>,
    #[serde(skip_serializing_if = "absent")]
    model_version: Option<&'a str>,
    #[serde(skip_serializing_if = "absent")]
    conversation_id: Option<&'a str>,
    #[serde(skip_serializing_if = "absent")]
    stream: Option<bool>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    logging_error_codes: &'a [&'a str],
    #[serde(flatten)]
    extra: Option<&'a Map<String, Value>>,
    request: &'a RawValue,
    response: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct FeedbackWire<'a> {
    schema: &'a str,
    feedback_id: &'a str,
    request_id: &'a str,
    #[serde(serialize_with = "time")]
    feedback_time: Timestamp,
    #[serde(skip_serializing_if = "absent")]
    thumb: Option<&'static str>,
    #[serde(skip_serializing_if = "absent")]
    score: Option<f64>,
    #[serde(skip_serializing_if = "absent")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "absent")]
    requester: Option<&'a str>,
}
