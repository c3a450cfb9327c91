//! The routes: parse, ask the engine, answer whole or piece by piece, log.

use super::adapters::{AdapterError, Adapters};
use super::answer::{Answering, Logged};
use super::engine::{Engine, Job, Refused};
use super::grammar::{Grammar, Grammars};
use super::openai::{Head, Prompt, Request, error_body, message_for_template};
use super::{CallLog, Options};
use crate::model::{Ask, Model};
use crate::runtime::{derive_seed, now};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// The largest request body, in bytes.
const BODY_BYTES_MAX: usize = 64 << 20;
/// The most choices (`n`) of one request.
const CHOICES_MAX: usize = 128;
/// The most alternatives of one token (`top_logprobs`), as with OpenAI.
const ALTERNATIVES_MAX: usize = 20;
/// The most stop texts.
const STOPS_MAX: usize = 16;

/// What the routes share.
pub struct Server {
    adapters: Adapters,
    engine: Engine,
    grammars: Grammars,
    options: Options,
    log: Option<Arc<dyn CallLog>>,
}

impl Server {
    /// A server over a loaded base.
    ///
    /// # Errors
    /// Where the generating thread cannot be started.
    pub fn new(base: Arc<Model>, options: Options, log: Option<Arc<dyn CallLog>>) -> std::io::Result<Arc<Self>> {
        let engine = Engine::start(Arc::clone(&base), options.queue_max, options.batch_rows)?;
        let grammars = Grammars::new(Arc::clone(&base));
        let adapters = Adapters::new(base, options.model_name.clone());
        Ok(Arc::new(Self { adapters, engine, grammars, options, log }))
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
        .route("/v1/completions", post(completions))
        .route("/v1/models", get(models))
        .route("/v1/load_lora_adapter", post(load_adapter))
        .route("/v1/unload_lora_adapter", post(unload_adapter))
        .route("/health", get(|| async { StatusCode::OK }))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(server)
}

/// A refusal in OpenAI's form.
struct Refusal(StatusCode, Value);

impl Refusal {
    fn bad(message: impl AsRef<str>, param: Option<&str>) -> Self {
        Self(StatusCode::BAD_REQUEST, error_body(message.as_ref(), "invalid_request_error", param, None))
    }
}

async fn chat(State(server): State<Arc<Server>>, headers: HeaderMap, body: Bytes) -> Response {
    answer(&server, &headers, &body, true).await
}

async fn completions(State(server): State<Arc<Server>>, headers: HeaderMap, body: Bytes) -> Response {
    answer(&server, &headers, &body, false).await
}

async fn answer(server: &Arc<Server>, headers: &HeaderMap, body: &[u8], chat: bool) -> Response {
    let prefix = if chat { "chatcmpl" } else { "cmpl" };
    let request_id = format!("{prefix}-{}", uuid::Uuid::now_v7().simple());
    let mut logged = Logged {
        log: server.log.clone(),
        started: Instant::now(),
        request_id: request_id.clone(),
        client_request_id: headers.get("x-request-id").and_then(|v| v.to_str().ok()).map(str::to_owned),
        request_time: now(),
        requester: None,
        model: None,
        model_version: None,
        request: String::from_utf8_lossy(body).into_owned(),
        chat,
        streamed: false,
    };
    let answering = match begin(server, &request_id, body, chat, &mut logged) {
        Ok(answering) => answering,
        Err(refusal) => return respond(&request_id, None, refused(&mut logged, refusal)),
    };
    let version = logged.model_version.clone();
    if logged.streamed {
        let head = [(header::CONTENT_TYPE, "text/event-stream; charset=utf-8")];
        let response = (head, Body::from_stream(answering.stream(logged))).into_response();
        return respond(&request_id, version.as_deref(), response);
    }
    let response = match answering.whole().await {
        Ok(whole) => {
            let text = whole.to_string();
            logged.end(StatusCode::OK, text.clone());
            ([(header::CONTENT_TYPE, "application/json")], text).into_response()
        }
        Err(message) => {
            let error = error_body(&message, "server_error", None, None);
            refused(&mut logged, Refusal(StatusCode::INTERNAL_SERVER_ERROR, error))
        }
    };
    respond(&request_id, version.as_deref(), response)
}

fn refused(logged: &mut Logged, Refusal(status, error): Refusal) -> Response {
    let text = error.to_string();
    logged.end(status, text.clone());
    let mut response = (status, [(header::CONTENT_TYPE, "application/json")], text).into_response();
    if status == StatusCode::TOO_MANY_REQUESTS {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

fn respond(request_id: &str, version: Option<&str>, mut response: Response) -> Response {
    let mut set = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(name, value);
        }
    };
    set("x-request-id", request_id);
    if let Some(version) = version {
        set("x-model-version", version);
    }
    response
}

/// Reads a request and hands it to the engine.
fn begin(
    server: &Server,
    request_id: &str,
    body: &[u8],
    chat: bool,
    logged: &mut Logged,
) -> Result<Answering, Refusal> {
    let mut parser = serde_json::Deserializer::from_slice(body);
    let request: Request = serde_path_to_error::deserialize(&mut parser)
        .map_err(|e| Refusal::bad(format!("{}: {}", e.path(), e.inner()), Some(&e.path().to_string())))?;
    logged.model = Some(request.model.clone());
    logged.requester.clone_from(&request.user);
    if let Some(field) = request.unsupported() {
        return Err(Refusal::bad(format!("`{field}` is not supported by this server"), Some(field)));
    }
    let Some((version, decoder)) = server.adapters.resolve(&request.model) else {
        let known = server.adapters.names().join(", ");
        let message = format!("the model `{}` does not exist; there is {known}", request.model);
        let body = error_body(&message, "invalid_request_error", Some("model"), Some("model_not_found"));
        return Err(Refusal(StatusCode::NOT_FOUND, body));
    };
    logged.model_version = version;
    let prompt = if chat { encode_chat(server, &request)? } else { encode_text(server, &request)? };
    let positions = server.adapters.base().config().max_position_embeddings;
    if prompt.len() >= positions {
        let message = format!("the prompt has {} tokens; this model takes fewer than {positions}", prompt.len());
        return Err(Refusal::bad(message, Some(if chat { "messages" } else { "prompt" })));
    }
    let prompt_tokens = prompt.len();
    let ask = ask(server, &request, request_id, prompt)?;
    let choices = ask.seeds.len();
    let (stop, grammar) = (stops(&request)?, grammar(server, &request)?);
    let pieces = server.engine.submit(Job { decoder, ask, stop, grammar }).map_err(|refused| {
        let status = match refused {
            Refused::Busy => StatusCode::TOO_MANY_REQUESTS,
            Refused::Closed => StatusCode::SERVICE_UNAVAILABLE,
        };
        Refusal(status, error_body(&refused.to_string(), "overloaded_error", None, None))
    })?;
    logged.streamed = request.is_streamed();
    let created = now().micros() / 1_000_000;
    let head = Head { id: request_id.to_owned(), created, model: request.model.clone(), chat };
    let tools = chat && request.tools().is_some();
    Ok(Answering::new(head, pieces, choices, prompt_tokens, request.alternatives(), tools, request.includes_usage()))
}

fn encode_chat(server: &Server, request: &Request) -> Result<Vec<u32>, Refusal> {
    let messages = request.messages.as_ref().ok_or_else(|| Refusal::bad("`messages` is missing", Some("messages")))?;
    if messages.is_empty() {
        return Err(Refusal::bad("`messages` is empty", Some("messages")));
    }
    if let Some(wrong) = messages.iter().position(|m| m.get("role").and_then(Value::as_str).is_none()) {
        return Err(Refusal::bad(format!("messages[{wrong}] has no `role`"), Some("messages")));
    }
    let messages: Vec<Value> = messages.iter().map(message_for_template).collect();
    let encoded = server.adapters.base().encode_chat_json(&messages, request.tools());
    encoded.map_err(|e| Refusal::bad(e.to_string(), Some("messages")))
}

fn encode_text(server: &Server, request: &Request) -> Result<Vec<u32>, Refusal> {
    let encode =
        |text: &str| server.adapters.base().encode(text).map_err(|e| Refusal::bad(e.to_string(), Some("prompt")));
    match &request.prompt {
        Some(Prompt::Text(text)) => encode(text),
        Some(Prompt::Tokens(ids)) => Ok(ids.clone()),
        Some(Prompt::Texts(texts)) if texts.len() == 1 => encode(&texts[0]),
        Some(Prompt::Texts(_)) => {
            Err(Refusal::bad("`prompt` has several texts; this server takes one a request", Some("prompt")))
        }
        None => Err(Refusal::bad("`prompt` is missing", Some("prompt"))),
    }
}

fn grammar(server: &Server, request: &Request) -> Result<Option<Grammar>, Refusal> {
    let bad = |why: String| Refusal::bad(format!("`response_format`: {why}"), Some("response_format"));
    request.schema().and_then(|schema| schema.map(|schema| server.grammars.compile(schema)).transpose()).map_err(bad)
}

fn stops(request: &Request) -> Result<Vec<String>, Refusal> {
    let stops = request.stops();
    if stops.len() > STOPS_MAX || stops.iter().any(String::is_empty) {
        return Err(Refusal::bad(format!("`stop` has 1 to {STOPS_MAX} texts, none of them empty"), Some("stop")));
    }
    Ok(stops)
}

fn ask(server: &Server, request: &Request, request_id: &str, prompt: Vec<u32>) -> Result<Ask, Refusal> {
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
    let top_logprobs = request.alternatives().unwrap_or(0);
    if top_logprobs > ALTERNATIVES_MAX {
        return Err(Refusal::bad(format!("`top_logprobs` must be at most {ALTERNATIVES_MAX}"), Some("top_logprobs")));
    }
    let base = server.adapters.base();
    let asked = request.max_completion_tokens.or(request.max_tokens).unwrap_or(server.options.tokens_default);
    let room = base.config().max_position_embeddings.saturating_sub(prompt.len());
    let new_tokens_max = asked.min(server.options.tokens_max).min(room).max(1);
    // Without a seed the request's own id draws, so that equal questions get independent answers.
    let purpose = if request.seed.is_some() { "choice" } else { request_id };
    #[expect(clippy::cast_sign_loss, reason = "any 64 bits are a seed")]
    let seed = request.seed.unwrap_or_default() as u64;
    let seeds = (0..choices as u64).map(|i| derive_seed(seed, purpose, &[i])).collect();
    Ok(Ask { prompt, seeds, temperature, top_p, new_tokens_max, stop: base.stop_tokens().to_vec(), top_logprobs })
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
