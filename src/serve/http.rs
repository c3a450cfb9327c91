//! The routes: parse, ask the engine, answer, log.

use super::adapters::{AdapterError, Adapters};
use super::engine::{Engine, Job};
use super::openai::{ChatRequest, ChatResponse, error_body};
use super::{Call, CallLog, Options};
use crate::model::{self, ChatMessage, Generated, Model};
use crate::runtime::{derive_seed, now};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::oneshot;

/// The largest request body, in bytes.
const BODY_BYTES_MAX: usize = 10 << 20;
/// The most choices (`n`) of one request.
const CHOICES_MAX: usize = 128;

/// What the routes share.
pub struct Server {
    adapters: Adapters,
    engine: Engine,
    options: Options,
    log: Option<Arc<dyn CallLog>>,
}

impl Server {
    /// A server over a loaded base.
    ///
    /// # Errors
    /// Where the generating thread cannot be started.
    pub fn new(base: Arc<Model>, options: Options, log: Option<Arc<dyn CallLog>>) -> std::io::Result<Arc<Self>> {
        let engine = Engine::start(options.queue_max, options.batch_rows, base.stop_tokens().to_vec())?;
        let adapters = Adapters::new(base, options.model_name.clone());
        Ok(Arc::new(Self { adapters, engine, options, log }))
    }

    /// Loads an adapter folder under a name, as the route does.
    ///
    /// # Errors
    /// [`AdapterError`].
    pub fn load_adapter(&self, name: &str, folder: &Path) -> Result<(), AdapterError> {
        self.adapters.load(name, folder)
    }
}

/// The routes of a server.
pub fn router(server: Arc<Server>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat))
        .route("/v1/models", get(models))
        .route("/v1/load_lora_adapter", post(load_adapter))
        .route("/v1/unload_lora_adapter", post(unload_adapter))
        .route("/health", get(|| async { StatusCode::OK }))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(server)
}

/// An answer with what the log needs beside it.
struct Outcome {
    status: StatusCode,
    body: String,
    model: Option<String>,
    version: Option<String>,
    requester: Option<String>,
}

/// A refusal in OpenAI's form.
struct Refusal(StatusCode, Value);

impl Refusal {
    fn bad(message: impl AsRef<str>, param: Option<&str>) -> Self {
        Self(StatusCode::BAD_REQUEST, error_body(message.as_ref(), "invalid_request_error", param, None))
    }
}

async fn chat(State(server): State<Arc<Server>>, headers: HeaderMap, body: Bytes) -> Response {
    let (started, request_time) = (Instant::now(), now());
    let request_id = format!("chatcmpl-{}", uuid::Uuid::now_v7().simple());
    let outcome = answer(&server, &request_id, &body).await;
    let client_request_id = headers.get("x-request-id").and_then(|v| v.to_str().ok()).map(str::to_owned);
    let response = respond(&request_id, &outcome);
    if let Some(log) = &server.log {
        log.record(Call {
            request_id,
            client_request_id,
            request_time,
            status_code: outcome.status.as_u16(),
            duration_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            requester: outcome.requester,
            model: outcome.model,
            model_version: outcome.version,
            request: String::from_utf8_lossy(&body).into_owned(),
            response: outcome.body,
        });
    }
    response
}

fn respond(request_id: &str, outcome: &Outcome) -> Response {
    let json = [(header::CONTENT_TYPE, "application/json")];
    let mut response = (outcome.status, json, outcome.body.clone()).into_response();
    let mut set = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(name, value);
        }
    };
    set("x-request-id", request_id);
    if let Some(version) = &outcome.version {
        set("x-model-version", version);
    }
    if outcome.status == StatusCode::TOO_MANY_REQUESTS {
        set("retry-after", "1");
    }
    response
}

async fn answer(server: &Server, request_id: &str, body: &[u8]) -> Outcome {
    let mut outcome =
        Outcome { status: StatusCode::OK, body: String::new(), model: None, version: None, requester: None };
    match complete(server, request_id, body, &mut outcome).await {
        Ok(response) => outcome.body = json!(response).to_string(),
        Err(Refusal(status, error)) => {
            outcome.status = status;
            outcome.body = error.to_string();
        }
    }
    outcome
}

async fn complete(
    server: &Server,
    request_id: &str,
    body: &[u8],
    outcome: &mut Outcome,
) -> Result<ChatResponse, Refusal> {
    let mut parser = serde_json::Deserializer::from_slice(body);
    let request: ChatRequest = serde_path_to_error::deserialize(&mut parser)
        .map_err(|e| Refusal::bad(format!("{}: {}", e.path(), e.inner()), Some(&e.path().to_string())))?;
    outcome.model = Some(request.model.clone());
    outcome.requester.clone_from(&request.user);
    if let Some(field) = request.unsupported() {
        return Err(Refusal::bad(format!("`{field}` is not supported by this server"), Some(field)));
    }
    let Some((version, decoder)) = server.adapters.resolve(&request.model) else {
        let known = server.adapters.names().join(", ");
        let message = format!("the model `{}` does not exist; there is {known}", request.model);
        let body = error_body(&message, "invalid_request_error", Some("model"), Some("model_not_found"));
        return Err(Refusal(StatusCode::NOT_FOUND, body));
    };
    outcome.version = version;
    let prompt = encode(server, &request)?;
    let prompt_tokens = prompt.len();
    let (answer, answered) = oneshot::channel();
    server.engine.submit(job(server, &request, request_id, decoder, prompt, answer)?).map_err(|e| {
        Refusal(StatusCode::TOO_MANY_REQUESTS, error_body(&e.to_string(), "overloaded_error", None, None))
    })?;
    let failed =
        |message: String| Refusal(StatusCode::INTERNAL_SERVER_ERROR, error_body(&message, "server_error", None, None));
    let generated = answered.await.map_err(|_| failed("the generating thread ended".to_owned()))?;
    let generated = generated.map_err(|e| failed(e.to_string()))?;
    let base = server.adapters.base();
    let texts = generated.into_iter().map(|g: Generated| base.decode(&g.tokens).map(|text| (g, text)));
    let texts = texts.collect::<Result<Vec<_>, model::Error>>().map_err(|e| failed(e.to_string()))?;
    let created = now().micros() / 1_000_000;
    Ok(ChatResponse::new(request_id.to_owned(), created, &request.model, prompt_tokens, &texts))
}

fn encode(server: &Server, request: &ChatRequest) -> Result<Vec<u32>, Refusal> {
    if request.messages.is_empty() {
        return Err(Refusal::bad("`messages` is empty", Some("messages")));
    }
    let turns: Vec<ChatMessage> =
        request.messages.iter().map(|m| ChatMessage::new(m.role.clone(), m.content.text())).collect();
    let base = server.adapters.base();
    let prompt = base.encode_chat(&turns).map_err(|e| Refusal::bad(e.to_string(), Some("messages")))?;
    let positions = base.config().max_position_embeddings;
    if prompt.len() >= positions {
        let message = format!("the prompt has {} tokens; this model takes fewer than {positions}", prompt.len());
        return Err(Refusal::bad(message, Some("messages")));
    }
    Ok(prompt)
}

fn job(
    server: &Server,
    request: &ChatRequest,
    request_id: &str,
    decoder: Arc<model::Decoder>,
    prompt: Vec<u32>,
    answer: oneshot::Sender<Result<Vec<Generated>, model::Error>>,
) -> Result<Job, Refusal> {
    let choices = request.n.unwrap_or(1);
    if !(1..=CHOICES_MAX).contains(&choices) {
        return Err(Refusal::bad(format!("`n` must be from 1 to {CHOICES_MAX}"), Some("n")));
    }
    let temperature = request.temperature.unwrap_or(1.0);
    if !(0.0..=2.0).contains(&temperature) {
        return Err(Refusal::bad("`temperature` must be from 0 to 2", Some("temperature")));
    }
    let top_p = request.top_p.filter(|p| *p < 1.0);
    if top_p.is_some_and(|p| p <= 0.0) {
        return Err(Refusal::bad("`top_p` must be above 0 and at most 1", Some("top_p")));
    }
    let asked = request.max_completion_tokens.or(request.max_tokens).unwrap_or(server.options.tokens_default);
    let room = server.adapters.base().config().max_position_embeddings.saturating_sub(prompt.len());
    let new_tokens_max = asked.min(server.options.tokens_max).min(room).max(1);
    // Without a seed the request's own id draws, so that equal questions get independent answers.
    let purpose = if request.seed.is_some() { "choice" } else { request_id };
    #[expect(clippy::cast_sign_loss, reason = "any 64 bits are a seed")]
    let seed = request.seed.unwrap_or_default() as u64;
    let seeds = (0..choices as u64).map(|i| derive_seed(seed, purpose, &[i])).collect();
    Ok(Job { decoder, prompt, seeds, temperature, top_p, new_tokens_max, answer })
}

async fn models(State(server): State<Arc<Server>>) -> axum::Json<Value> {
    let base = server.options.model_name.clone();
    let entry = |name: String| {
        let parent = (name != base).then(|| base.clone());
        json!({"id": name, "object": "model", "created": 0, "owned_by": "pelton", "root": name, "parent": parent})
    };
    let data: Vec<Value> = server.adapters.names().into_iter().map(entry).collect();
    axum::Json(json!({"object": "list", "data": data}))
}

#[derive(Debug, Deserialize)]
struct LoadAdapter {
    lora_name: String,
    lora_path: std::path::PathBuf,
}

#[derive(Debug, Deserialize)]
struct UnloadAdapter {
    lora_name: String,
}

async fn load_adapter(State(server): State<Arc<Server>>, axum::Json(body): axum::Json<LoadAdapter>) -> Response {
    let name = body.lora_name.clone();
    let loaded = tokio::task::spawn_blocking(move || server.adapters.load(&body.lora_name, &body.lora_path)).await;
    match loaded {
        Ok(Ok(())) => format!("Success: LoRA adapter '{name}' added successfully.").into_response(),
        Ok(Err(error)) => adapter_refusal(&error),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn unload_adapter(State(server): State<Arc<Server>>, axum::Json(body): axum::Json<UnloadAdapter>) -> Response {
    match server.adapters.unload(&body.lora_name) {
        Ok(()) => format!("Success: LoRA adapter '{}' removed successfully.", body.lora_name).into_response(),
        Err(error) => adapter_refusal(&error),
    }
}

fn adapter_refusal(error: &AdapterError) -> Response {
    let (status, kind) = match error {
        AdapterError::AlreadyLoaded(_) => (StatusCode::BAD_REQUEST, "InvalidUserInput"),
        AdapterError::NotFound(_) | AdapterError::Load { .. } => (StatusCode::NOT_FOUND, "NotFoundError"),
    };
    let cause = std::error::Error::source(error).map(|s| format!(": {s}")).unwrap_or_default();
    (status, axum::Json(error_body(&format!("{error}{cause}"), kind, None, None))).into_response()
}
