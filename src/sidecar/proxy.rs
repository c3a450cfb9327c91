//! One request: admitted, read, routed, sent on, and its answer handed back as it comes.
//!
//! Requests with a JSON body are read whole, because the model's name in them decides where they go and the log wants them.
//! Every other body is passed through unseen. Sent again to another server is only what the first took nothing of: no
//! connection, or a 503 that refuses. Headers of the connection itself are not passed on; nothing in a request names the server
//! that it goes to.

use super::State;
use super::asked::{Asked, Odd};
use super::body::{Answer, Outgoing, Tapped};
use super::call::Call;
use super::keys::Denied;
use super::record::{Ending, Record};
use super::trace::Trace;
use super::upstream::Replica;
use super::versions::Route;
use crate::runtime::now;
use crate::telemetry::metric;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Either, Full, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// The header with the call's id: ours in answers, the client's in requests.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The header with the version that answered.
pub const MODEL_VERSION: HeaderName = HeaderName::from_static("x-model-version");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const CONVERSATION: HeaderName = HeaderName::from_static("x-conversation-id");
/// Headers of one connection (RFC 9110, 7.6.1), and those that we set.
const NOT_PASSED_ON: &[&str] = &[
    "connection",
    "host",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "expect",
    "keep-alive",
    "proxy-connection",
];
/// Routes of vLLM that change the server: they are the operator's, and a path in them would be read on its machine.
const OPERATORS: &[&str] = &["/v1/load_lora_adapter", "/v1/unload_lora_adapter"];
/// The longest id that is taken from a client.
const CLIENT_ID_BYTES_MAX: usize = 200;

/// Why a request is answered by us.
struct Refusal {
    status: StatusCode,
    message: String,
    kind: &'static str,
    code: Option<&'static str>,
    after: Option<Duration>,
}

impl Refusal {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), kind, code: None, after: None }
    }

    fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }
}

/// Answers a request for `/v1/…`.
pub(super) async fn answer(state: Arc<State>, request: Request<Incoming>) -> Response<Answer> {
    let request_id = format!("req-{}", uuid::Uuid::now_v7().simple());
    let mut response = match Box::pin(forward(&state, request, &request_id)).await {
        Ok(response) => response,
        Err(refusal) => refused(&refusal),
    };
    if let Ok(id) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    if state.draining.is_cancelled() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn refused(refusal: &Refusal) -> Response<Answer> {
    let error = serde_json::json!({"error": {
        "message": refusal.message, "type": refusal.kind, "param": null, "code": refusal.code,
    }});
    let mut response = super::json(refusal.status, &error);
    if let Some(after) = refusal.after {
        response.headers_mut().insert(header::RETRY_AFTER, after.as_secs_f64().ceil().max(1.0).into_header());
    }
    response
}

trait IntoHeader {
    fn into_header(self) -> HeaderValue;
}

impl IntoHeader for f64 {
    fn into_header(self) -> HeaderValue {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "seconds until a retry are few and positive"
        )]
        HeaderValue::from(self as u64)
    }
}

async fn forward(
    state: &Arc<State>,
    request: Request<Incoming>,
    request_id: &str,
) -> Result<Response<Answer>, Refusal> {
    let (mut parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    check_path(&path)?;
    let authorization = parts.headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
    let (client, admitted) = state.keys.admit(authorization).map_err(denied)?;
    let trace = Trace::of(parts.headers.get(TRACEPARENT));
    let header = |name: &HeaderName| {
        let value = parts.headers.get(name)?.to_str().ok().filter(|text| text.len() <= CLIENT_ID_BYTES_MAX);
        value.map(str::to_owned)
    };
    let (client_request_id, conversation) = (header(&REQUEST_ID), header(&CONVERSATION));
    let name = client.as_ref().map(|client| client.name.clone());
    let record = Record {
        request_id: request_id.to_owned(),
        client_request_id,
        request_time: now(),
        path,
        status: 0,
        duration: Duration::ZERO,
        first_byte: None,
        upstream: None,
        requester: name.clone(),
        model: None,
        version: None,
        conversation,
        sampling_fraction: 1.0,
        request: Bytes::new(),
        response: Vec::new(),
        cut: false,
        streamed: false,
        ending: Ending::Complete,
        traceparent: trace.to_string(),
        shadow_of: None,
    };
    let mut call = Box::new(Call::new(record, name, Arc::clone(&state.logging), admitted));
    clean(&mut parts.headers, state.keys.are_needed());
    set(&mut parts.headers, REQUEST_ID, request_id);
    set(&mut parts.headers, TRACEPARENT, &trace.to_string());
    let outcome = exchange(state, parts, body, &mut call, request_id).await;
    match outcome {
        Ok(mut response) => {
            clean(response.headers_mut(), false);
            set(response.headers_mut(), TRACEPARENT, &trace.to_string());
            let streamed = is_stream(response.headers());
            call.answered(response.status().as_u16(), streamed);
            call.note(|record| {
                if let Some(version) = &record.version {
                    set(response.headers_mut(), MODEL_VERSION, version);
                }
            });
            let idle = Duration::from_millis(state.settings.idle_timeout_ms);
            Ok(response.map(|body| Either::Right(Tapped::new(body, call, idle))))
        }
        Err(refusal) => {
            call.answered(refusal.status.as_u16(), false);
            let text = serde_json::json!({"error": {"message": refusal.message, "type": refusal.kind}}).to_string();
            call.piece(&text.into());
            drop(call.finish(Ending::Complete));
            Err(refusal)
        }
    }
}

async fn exchange(
    state: &Arc<State>,
    parts: Parts,
    body: Incoming,
    call: &mut Call,
    request_id: &str,
) -> Result<Response<Incoming>, Refusal> {
    if !is_json(&parts) {
        call.leave_out();
        return send(state, &parts, Either::Right(body), None, call).await;
    }
    let body = read(state, body).await?;
    let asked = Asked::read(&body);
    match asked.odd() {
        None => {}
        Some(Odd::Name) => return Err(Refusal::bad("`model` is a name, not a path or URL")),
        Some(Odd::Twice) => return Err(Refusal::bad("`model` is given twice")),
        Some(Odd::Encoding) => return Err(Refusal::bad("JSON is UTF-8 (RFC 8259, 8.1)")),
    }
    let mut conversation = None;
    call.note(|record| {
        record.request = body.clone();
        record.model.clone_from(&asked.model);
        record.requester = asked.user.clone().or(record.requester.take());
        record.conversation = record.conversation.take().or_else(|| asked.conversation.clone());
        conversation.clone_from(&record.conversation);
    });
    // The name of a key is nobody's conversation: who says nothing of himself is drawn for at each request.
    let user = asked.user.clone();
    let model = asked.model.as_deref();
    let route = model.and_then(|m| state.versions.route(m, conversation.as_deref(), user.as_deref(), request_id));
    if let Some(model) = model {
        super::shadow::copy(state, &parts, &asked, &body, model, request_id, call);
    }
    let body = route.as_ref().map_or_else(|| body.clone(), |route| asked.with_model(&body, &route.model));
    call.note(|record| record.version = version_of(route.as_ref(), model));
    // A client that names a version itself goes to a server that has it.
    let named = model.filter(|model| route.is_none() && state.versions.owns(model));
    let version = route.as_ref().map_or(named, |route| route.version.as_deref());
    let version = version.filter(|version| route.is_some() || state.upstreams.all.iter().any(|r| r.has(version)));
    send(state, &parts, Either::Left(Full::new(body)), version, call).await
}

/// The version of a route; a client may also name one itself.
fn version_of(route: Option<&Route>, model: Option<&str>) -> Option<String> {
    let named = || model.filter(|m| m.parse::<crate::domain::VersionRef>().is_ok()).map(str::to_owned);
    route.map_or_else(named, |route| route.version.clone())
}

/// Sends a request to the least busy server that can answer it, and to another where the first took nothing of it.
async fn send(
    state: &Arc<State>,
    parts: &Parts,
    mut body: Outgoing,
    version: Option<&str>,
    call: &mut Call,
) -> Result<Response<Incoming>, Refusal> {
    let mut tried = Vec::new();
    let mut last = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", "no upstream is there");
    loop {
        let Some(replica) = state.upstreams.choose(version, &tried) else {
            last.after = (last.status == StatusCode::SERVICE_UNAVAILABLE).then_some(Duration::from_secs(1));
            return Err(last);
        };
        if !tried.is_empty() {
            metric::SIDECAR_RETRIES.add(1);
        }
        tried.push(Arc::clone(&replica.name));
        let again = match &body {
            Either::Left(bytes) => Some(Either::Left(bytes.clone())),
            Either::Right(_) => None,
        };
        call.goes_to(Arc::clone(&replica.name), replica.enter());
        let asked = state.client.request(outgoing(&replica, parts, body)?);
        let answered = timeout(Duration::from_millis(state.settings.response_timeout_ms), asked).await;
        last = match answered {
            Ok(Ok(response)) if response.status() != StatusCode::SERVICE_UNAVAILABLE => return Ok(response),
            // The last one's own words are better than ours.
            Ok(Ok(response)) if again.is_none() || state.upstreams.choose(version, &tried).is_none() => {
                return Ok(response);
            }
            Ok(Ok(_)) => {
                Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", "the upstream refuses requests now")
            }
            Ok(Err(error)) => {
                let cause = std::error::Error::source(&error).map(|e| format!(": {e}")).unwrap_or_default();
                metric::UPSTREAM_FAILURES.add(&[&replica.name], 1);
                let text = format!("the upstream did not answer: {error}{cause}");
                let refusal = Refusal::new(StatusCode::BAD_GATEWAY, "server_error", text);
                if !error.is_connect() {
                    return Err(refusal);
                }
                replica.failed(&cause);
                refusal
            }
            Err(_) => {
                metric::UPSTREAM_FAILURES.add(&[&replica.name], 1);
                return Err(Refusal::new(
                    StatusCode::GATEWAY_TIMEOUT,
                    "timeout_error",
                    "the upstream did not answer in time",
                ));
            }
        };
        let Some(again) = again else { return Err(last) };
        body = again;
    }
}

/// The request as a server gets it.
pub(super) fn request_for(replica: &Replica, parts: &Parts, body: Outgoing) -> Option<Request<Outgoing>> {
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let mut request = Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = replica.uri(target)?;
    *request.headers_mut() = parts.headers.clone();
    // The body's own length counts: the model's name may have changed it.
    if let Some(length) =
        request.body().size_hint().exact().filter(|_| parts.headers.contains_key(header::CONTENT_LENGTH))
    {
        request.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
    if let Some(key) = replica.key() {
        request.headers_mut().insert(header::AUTHORIZATION, key.clone());
    }
    Some(request)
}

fn outgoing(replica: &Replica, parts: &Parts, body: Outgoing) -> Result<Request<Outgoing>, Refusal> {
    request_for(replica, parts, body).ok_or_else(|| Refusal::bad("the path is none that a server has"))
}

/// Reads a body whole, within its limits of size and time.
pub(super) async fn read(state: &State, body: Incoming) -> Result<Bytes, Refused> {
    let limited = Limited::new(body, state.settings.body_bytes_max);
    let patience = Duration::from_millis(state.settings.request_timeout_ms);
    match timeout(patience, limited.collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let most = state.settings.body_bytes_max;
            Err(Refused(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {most} bytes")))
        }
        Ok(Err(error)) => Err(Refused(StatusCode::BAD_REQUEST, format!("the body broke off: {error}"))),
        Err(_) => Err(Refused(StatusCode::REQUEST_TIMEOUT, "the body did not come in time".to_owned())),
    }
}

/// A body that was not taken.
pub(super) struct Refused(pub(super) StatusCode, pub(super) String);

impl From<Refused> for Refusal {
    fn from(Refused(status, message): Refused) -> Self {
        Self::new(status, "invalid_request_error", message)
    }
}

/// Servers route by the decoded path. What needs no encoding (RFC 3986, section 2.3) is not taken encoded, so that no route has a
/// second spelling, nor what would be another path once it is decoded.
fn check_path(path: &str) -> Result<(), Refusal> {
    let hidden = |encoded: &[u8]| {
        let digits = encoded.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let byte = digits.and_then(|two| u8::from_str_radix(two, 16).ok());
        byte.is_none_or(|b| b.is_ascii_alphanumeric() || b.is_ascii_control() || b"-._~/\\%".contains(&b))
    };
    let bytes = path.as_bytes();
    let encodes = (0..bytes.len()).any(|at| bytes[at] == b'%' && hidden(&bytes[at + 1..]));
    let climbs = path.split('/').any(|segment| matches!(segment, "." | ".."));
    if climbs || encodes || path.contains("//") {
        return Err(Refusal::bad("the path is none that a server has"));
    }
    if OPERATORS.contains(&path.trim_end_matches('/')) {
        return Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "invalid_request_error",
            "adapters are loaded by the operator",
        ));
    }
    Ok(())
}

fn denied(denied: Denied) -> Refusal {
    match denied {
        Denied::Unknown => Refusal {
            code: Some("invalid_api_key"),
            ..Refusal::new(StatusCode::UNAUTHORIZED, "invalid_request_error", "the API key is missing or not known")
        },
        Denied::Limit { what, after } => Refusal {
            code: Some("rate_limit_exceeded"),
            after: Some(after),
            ..Refusal::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", what)
        },
    }
}

/// Takes out what belongs to one connection, and the client's key where it was meant for us.
fn clean(headers: &mut HeaderMap, keys_are_ours: bool) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').filter_map(|name| name.trim().parse().ok()))
        .collect();
    for name in NOT_PASSED_ON {
        headers.remove(*name);
    }
    for name in &named {
        headers.remove(name);
    }
    if keys_are_ours {
        headers.remove(header::AUTHORIZATION);
    }
    // The log must be able to read the answer.
    if headers.contains_key(header::ACCEPT_ENCODING) {
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// Whether a body is read as JSON: it says so, says nothing, or is of a kind that some servers read as JSON all the same.
fn is_json(parts: &Parts) -> bool {
    let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let says = kind.is_none_or(|kind| {
        let kind = kind.trim_start().to_ascii_lowercase();
        let begins = |prefix: &&str| kind.starts_with(*prefix);
        ["application/json", "text/", "application/x-www-form-urlencoded"].iter().any(begins) || kind.contains("+json")
    });
    says && matches!(parts.method, Method::POST | Method::PUT | Method::PATCH)
}

fn is_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    kind.is_some_and(|kind| kind.trim_start().starts_with("text/event-stream"))
}
