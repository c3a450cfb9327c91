//! An inference server as a test tells it to be. Its routes for adapters answer as vLLM's do: the same statuses, the same
//! texts, adapters lost by a restart, a path that must exist.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Json, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// A request that came.
#[derive(Clone, Debug)]
pub struct Came {
    pub target: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// What is shared with the test.
pub struct Stage {
    pub came: Mutex<Vec<Came>>,
    pub adapters: Mutex<BTreeMap<String, String>>,
    /// Loads are refused while it is set.
    pub refuses_loads: AtomicBool,
    /// Loads do not come to an end while it is set.
    pub loads_hang: AtomicBool,
    /// Its list of models is refused while it is set.
    pub lists_nothing: AtomicBool,
    /// Answered to calls instead of an answer.
    pub status: Mutex<Option<u16>>,
    /// How long an answer takes.
    pub delay: Mutex<std::time::Duration>,
    /// A piece of a stream goes for each permit.
    pub pieces: Semaphore,
    /// Whether a stream breaks off after its pieces.
    pub breaks: AtomicBool,
    /// Streams that were dropped before their end.
    pub hung_up: AtomicUsize,
}

/// A running server.
pub struct Double {
    pub url: String,
    pub stage: Arc<Stage>,
    address: SocketAddr,
    end: CancellationToken,
}

impl Double {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stage = Arc::new(Stage {
            came: Mutex::default(),
            adapters: Mutex::default(),
            refuses_loads: AtomicBool::new(false),
            loads_hang: AtomicBool::new(false),
            lists_nothing: AtomicBool::new(false),
            status: Mutex::new(None),
            delay: Mutex::default(),
            pieces: Semaphore::new(0),
            breaks: AtomicBool::new(false),
            hung_up: AtomicUsize::new(0),
        });
        let address = listener.local_addr().unwrap();
        let mut double = Self { url: format!("http://{address}"), stage, address, end: CancellationToken::new() };
        double.serve(listener);
        double
    }

    fn serve(&mut self, listener: tokio::net::TcpListener) {
        let app = Router::new()
            .route("/health", get(|| async { StatusCode::OK }))
            .route("/v1/models", get(models))
            .route("/v1/load_lora_adapter", post(load))
            .route("/v1/unload_lora_adapter", post(unload))
            .fallback(call)
            .layer(axum::extract::DefaultBodyLimit::disable())
            .with_state(Arc::clone(&self.stage));
        self.end = CancellationToken::new();
        let end = self.end.clone();
        tokio::spawn(async move {
            tokio::select! { _ = axum::serve(listener, app) => {}, () = end.cancelled() => {} }
        });
    }

    /// It ends, and what it had loaded is gone.
    pub fn stop(&self) {
        self.end.cancel();
        self.stage.adapters.lock().unwrap().clear();
    }

    pub async fn start_again(&mut self) {
        let listener = loop {
            if let Ok(listener) = tokio::net::TcpListener::bind(self.address).await {
                break listener;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        };
        self.serve(listener);
    }

    pub fn came(&self) -> Vec<Came> {
        self.stage.came.lock().unwrap().clone()
    }

    pub fn adapters(&self) -> Vec<String> {
        self.stage.adapters.lock().unwrap().keys().cloned().collect()
    }
}

impl Drop for Double {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

fn error(status: StatusCode, kind: &str, message: &str) -> Response {
    let body = json!({"error": {"message": message, "type": kind, "param": null, "code": status.as_u16()}});
    (status, Json(body)).into_response()
}

async fn models(State(stage): State<Arc<Stage>>) -> Response {
    if stage.lists_nothing.load(SeqCst) {
        return error(StatusCode::INTERNAL_SERVER_ERROR, "InternalServerError", "busy");
    }
    let one = |name: &str, parent: Option<&str>| json!({"id": name, "object": "model", "root": name, "parent": parent});
    let mut data = vec![one("base", None)];
    data.extend(stage.adapters.lock().unwrap().keys().map(|name| one(name, Some("base"))));
    Json(json!({"object": "list", "data": data})).into_response()
}

async fn load(State(stage): State<Arc<Stage>>, Json(body): Json<Value>) -> Response {
    let (name, path) = (body["lora_name"].as_str().unwrap_or_default(), body["lora_path"].as_str().unwrap_or_default());
    while stage.loads_hang.load(SeqCst) {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    if stage.refuses_loads.load(SeqCst) {
        return error(StatusCode::INTERNAL_SERVER_ERROR, "InternalServerError", "CUDA out of memory");
    }
    if stage.adapters.lock().unwrap().contains_key(name) {
        let message = format!("The lora adapter '{name}' has already been loaded.");
        return error(StatusCode::BAD_REQUEST, "InvalidUserInput", &message);
    }
    if !Path::new(path).join("adapter_config.json").exists() {
        return error(
            StatusCode::NOT_FOUND,
            "NotFoundError",
            &format!("Loading lora {name} failed: No adapter found for {path}"),
        );
    }
    stage.adapters.lock().unwrap().insert(name.to_owned(), path.to_owned());
    format!("Success: LoRA adapter '{name}' added successfully.").into_response()
}

async fn unload(State(stage): State<Arc<Stage>>, Json(body): Json<Value>) -> Response {
    let name = body["lora_name"].as_str().unwrap_or_default();
    match stage.adapters.lock().unwrap().remove(name) {
        Some(_) => format!("Success: LoRA adapter '{name}' removed successfully.").into_response(),
        None => error(StatusCode::NOT_FOUND, "NotFoundError", &format!("The lora adapter '{name}' cannot be found.")),
    }
}

async fn call(State(stage): State<Arc<Stage>>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let came = Came { target: uri.to_string(), headers, body: body.clone() };
    stage.came.lock().unwrap().push(came);
    let delay = *stage.delay.lock().unwrap();
    tokio::time::sleep(delay).await;
    if let Some(status) = *stage.status.lock().unwrap() {
        return error(StatusCode::from_u16(status).unwrap(), "overloaded", "not now");
    }
    let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
    if asked["stream"] == true {
        return stream(stage, &asked);
    }
    let mut said = format!("you said {} bytes", body.len());
    said.push_str(&"x".repeat(asked["answer_bytes"].as_u64().unwrap_or(0) as usize));
    let answer = json!({
        "id": "chatcmpl-7", "object": "chat.completion", "created": 7, "model": asked["model"],
        "choices": [{"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
    });
    // Odd spaces: an answer that is parsed and written again on its way would lose them.
    ([("content-type", "application/json"), ("x-served-by", "double")], format!(" {answer}\n")).into_response()
}

/// The pieces of a streamed answer.
pub fn pieces(model: &Value) -> Vec<String> {
    let chunk = |delta: Value, finish: Option<&str>| {
        let choice = json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}]);
        json!({"id": "chatcmpl-8", "object": "chat.completion.chunk", "created": 8, "model": model, "choices": choice})
    };
    let tool = |arguments: &str| json!({"tool_calls": [{"index": 0, "function": {"arguments": arguments}}]});
    let mut last = chunk(json!({}), None);
    last["choices"] = json!([]);
    last["usage"] = json!({"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11});
    let chunks = [
        chunk(json!({"role": "assistant", "content": ""}), None),
        chunk(json!({"reasoning_content": "hm"}), None),
        chunk(json!({"content": "Hel"}), None),
        chunk(json!({"content": "lo 🌍"}), None),
        chunk(
            json!({"tool_calls": [{"index": 0, "id": "t", "type": "function", "function": {"name": "f", "arguments": ""}}]}),
            None,
        ),
        chunk(tool("{\"a\":"), None),
        chunk(tool("1}"), None),
        chunk(json!({}), Some("tool_calls")),
        last,
    ];
    chunks.iter().map(|chunk| format!("data: {chunk}\n\n")).chain(["data: [DONE]\n\n".to_owned()]).collect()
}

struct HangsUp(Arc<Stage>, bool);

impl HangsUp {
    fn done(&mut self) {
        self.1 = true;
    }
}

impl Drop for HangsUp {
    fn drop(&mut self) {
        if !self.1 {
            self.0.hung_up.fetch_add(1, SeqCst);
        }
    }
}

fn stream(stage: Arc<Stage>, asked: &Value) -> Response {
    let left: std::collections::VecDeque<String> = pieces(&asked["model"]).into();
    let state = (HangsUp(Arc::clone(&stage), false), stage, left);
    let body = futures::stream::unfold(state, |(mut guard, stage, mut left)| async move {
        let Some(piece) = left.pop_front() else {
            guard.done();
            return None;
        };
        stage.pieces.acquire().await.unwrap().forget();
        if stage.breaks.load(SeqCst) && left.len() < 6 {
            guard.done();
            return Some((Err(std::io::Error::other("gone")), (guard, stage, left)));
        }
        if left.is_empty() {
            guard.done();
        }
        Some((Ok(piece), (guard, stage, left)))
    });
    ([("content-type", "text/event-stream; charset=utf-8")], Body::from_stream(body)).into_response()
}
