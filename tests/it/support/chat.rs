//! An endpoint of chat completions that behaves as a test tells it, call by call.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::post;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

/// What one call meets.
#[derive(Clone)]
pub enum Act {
    /// An answer with this text.
    Say(String),
    /// An answer from the request.
    Answer(fn(&Value) -> String),
    /// A whole body with status 200.
    Body(String),
    /// A status with a `Retry-After` where one is given.
    Status(u16, Option<&'static str>),
    /// A status with a body.
    StatusBody(u16, &'static str),
    /// Nothing, ever.
    Silence,
    /// A connection that breaks in the middle of the answer.
    Break,
}

/// What was asked and how it behaves: the acts in turn, then the last one for ever.
pub struct Stage {
    acts: VecDeque<Act>,
    pub asked: Vec<Value>,
    pub keys: Vec<Option<String>>,
    pub under_way: usize,
    pub under_way_max: usize,
}

/// A running endpoint.
pub struct ChatServer {
    pub url: String,
    pub stage: Arc<Mutex<Stage>>,
}

impl ChatServer {
    pub async fn start(acts: impl IntoIterator<Item = Act>) -> Self {
        let acts = acts.into_iter().collect();
        let stage = Stage { acts, asked: Vec::new(), keys: Vec::new(), under_way: 0, under_way_max: 0 };
        let stage = Arc::new(Mutex::new(stage));
        let app = Router::new().route("/v1/chat/completions", post(chat)).with_state(Arc::clone(&stage));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, stage }
    }

    pub fn asked(&self) -> Vec<Value> {
        self.stage.lock().unwrap().asked.clone()
    }
}

async fn chat(State(stage): State<Arc<Mutex<Stage>>>, headers: HeaderMap, Json(request): Json<Value>) -> Response {
    let act = {
        let mut stage = stage.lock().unwrap();
        stage.asked.push(request.clone());
        stage.keys.push(headers.get("authorization").map(|h| h.to_str().unwrap().to_owned()));
        stage.under_way += 1;
        stage.under_way_max = stage.under_way_max.max(stage.under_way);
        if stage.acts.len() > 1 { stage.acts.pop_front().unwrap() } else { stage.acts[0].clone() }
    };
    // Long enough for calls that are allowed to overlap to do so.
    tokio::time::sleep(std::time::Duration::from_millis(15)).await;
    stage.lock().unwrap().under_way -= 1;
    match act {
        Act::Say(text) => completion(&text),
        Act::Answer(answer) => completion(&answer(&request)),
        Act::Body(body) => body.into_response(),
        Act::Status(status, after) => {
            let status = StatusCode::from_u16(status).unwrap();
            let body = Json(json!({"error": {"message": "not now"}}));
            match after {
                Some(after) => (status, [("retry-after", after)], body).into_response(),
                None => (status, body).into_response(),
            }
        }
        Act::StatusBody(status, body) => (StatusCode::from_u16(status).unwrap(), body).into_response(),
        Act::Silence => std::future::pending().await,
        Act::Break => {
            let parts = [Ok(Bytes::from_static(b"{\"choices\":")), Err(std::io::Error::other("gone"))];
            Body::from_stream(futures::stream::iter(parts)).into_response()
        }
    }
}

fn completion(text: &str) -> Response {
    let message = json!({"role": "assistant", "content": text});
    Json(json!({
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    }))
    .into_response()
}
