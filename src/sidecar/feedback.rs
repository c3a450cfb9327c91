//! `POST /v1/feedback`: a user's word on an answered call, to the feedback topic. The answer says that Kafka or the disk has it.

use super::body::Answer;
use super::{Message, State, json};
use crate::codec::{self, Feedback};
use crate::domain::RowKind;
use crate::runtime::now;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HeaderValue};
use hyper::{Request, Response, StatusCode};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// A thumb, a score or a text is little.
const BODY_BYTES_MAX: usize = 1 << 20;
/// How long the answer waits for Kafka or the disk.
const PATIENCE: Duration = Duration::from_secs(15);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    request_id: String,
    #[serde(default)]
    feedback_id: Option<String>,
    #[serde(default)]
    thumb: Option<Thumb>,
    #[serde(default)]
    score: Option<f64>,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    user: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Thumb {
    Up(bool),
    Word(Word),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Up,
    Down,
}

pub(super) async fn take(state: Arc<State>, request: Request<Incoming>) -> Response<Answer> {
    match given(&state, request).await {
        Ok(id) => json(StatusCode::ACCEPTED, &serde_json::json!({"feedback_id": id})),
        Err((status, message)) => {
            let error = serde_json::json!({"error": {
                "message": message, "type": if status.is_client_error() { "invalid_request_error" } else { "server_error" },
                "param": null, "code": null,
            }});
            json(status, &error)
        }
    }
}

async fn given(state: &Arc<State>, request: Request<Incoming>) -> Result<String, (StatusCode, String)> {
    let authorization = request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes);
    let (client, _admitted) = state.keys.admit(authorization).map_err(|denied| match denied {
        super::keys::Denied::Unknown => (StatusCode::UNAUTHORIZED, "the API key is missing or not known".to_owned()),
        super::keys::Denied::Limit { what, .. } => (StatusCode::TOO_MANY_REQUESTS, what.to_owned()),
    })?;
    let (Some(tap), Some(topic)) = (&state.logging.tap, &state.feedback_topic) else {
        let message = "no topic of feedback is configured (sidecar.log.feedback_topic)";
        return Err((StatusCode::NOT_FOUND, message.to_owned()));
    };
    let bad = |message: String| (StatusCode::BAD_REQUEST, message);
    let body = super::proxy::read(state, request.into_body()).await.map_err(|refused| (refused.0, refused.1))?;
    if body.len() > BODY_BYTES_MAX {
        return Err((StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {BODY_BYTES_MAX} bytes")));
    }
    let mut parser = serde_json::Deserializer::from_slice(&body);
    let given: Given =
        serde_path_to_error::deserialize(&mut parser).map_err(|e| bad(format!("{}: {}", e.path(), e.inner())))?;
    let id = given.feedback_id.unwrap_or_else(|| format!("fb-{}", uuid::Uuid::now_v7().simple()));
    let requester = given.user.or_else(|| client.map(|client| client.name.clone()));
    let feedback = Feedback {
        feedback_id: &id,
        request_id: &given.request_id,
        feedback_time: now(),
        thumb: given.thumb.map(|thumb| matches!(thumb, Thumb::Up(true) | Thumb::Word(Word::Up))),
        score: given.score,
        text: given.text.as_deref(),
        requester: requester.as_deref(),
    };
    let payload = feedback.to_bytes().map_err(|error| bad(error.to_string()))?;
    // The rules are those of ingestion: what it would refuse is refused here, where somebody sees it.
    codec::decode(RowKind::Feedback, Some(&payload), BODY_BYTES_MAX).map_err(|fault| bad(fault.reason.to_string()))?;
    let payload = state.redact(payload);
    let (durable, done) = oneshot::channel();
    let message = Message { topic: Arc::clone(topic), key: given.request_id.clone(), payload };
    tap.message(message, Some(durable));
    match tokio::time::timeout(PATIENCE, done).await {
        Ok(Ok(())) => Ok(id),
        _ => Err((StatusCode::SERVICE_UNAVAILABLE, "the feedback could not be stored; send it again".to_owned())),
    }
}
