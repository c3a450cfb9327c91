//! The inference servers: which is well, which is least busy, which has a version; and the one client that all are asked by.

use super::body::Outgoing;
use crate::config::{Upstream, UpstreamKind};
use crate::telemetry::Event;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Either, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, RwLock};
use std::time::Duration;
use tokio::sync::Notify;

/// Unused connections are closed sooner than vLLM's server closes them (5 s): a request on a connection that the server is
/// just closing could not be told from one that it was at work on.
const IDLE_CONNECTION: Duration = Duration::from_secs(4);
/// The largest answer of a server about itself.
const OWN_ANSWER_BYTES_MAX: usize = 8 << 20;
/// How long a server may take to answer about itself.
const OWN_ANSWER: Duration = Duration::from_secs(5);
/// Health checks that have to fail before a server counts as away.
const FAILURES: u32 = 2;

/// The client; one pool of connections for all servers.
pub type HttpClient = Client<HttpsConnector<HttpConnector>, Outgoing>;

/// Why a server did not answer about itself, or not as it should.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The URL is none.
    #[error("`{0}` is no URL of a server")]
    Url(String),
    /// The key is no header.
    #[error("the api_key of {0} has characters that no header takes")]
    Key(String),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    /// No answer.
    #[error("{0}")]
    Away(String),
    /// An answer that refuses.
    #[error("status {status}: {text}")]
    Status {
        /// The status.
        status: u16,
        /// What it said.
        text: String,
    },
}

/// A client for all upstreams.
///
/// # Errors
/// Where TLS has no algorithms.
pub fn client(connect_timeout: Duration) -> Result<HttpClient, UpstreamError> {
    let mut http = HttpConnector::new();
    http.set_nodelay(true);
    http.enforce_http(false);
    http.set_connect_timeout(Some(connect_timeout));
    let https = HttpsConnectorBuilder::new()
        .with_provider_and_webpki_roots(Arc::new(rustls::crypto::ring::default_provider()))
        .map_err(|error| UpstreamError::Tls(error.to_string()))?
        .https_or_http()
        .enable_http1()
        .wrap_connector(http);
    let mut builder = Client::builder(TokioExecutor::new());
    builder.pool_idle_timeout(IDLE_CONNECTION).pool_timer(TokioTimer::new());
    Ok(builder.build(https))
}

/// One server.
pub struct Replica {
    /// Its address as it is configured.
    pub name: Arc<str>,
    base: String,
    kind: UpstreamKind,
    key: Option<HeaderValue>,
    health: Uri,
    up: AtomicBool,
    failures: AtomicU32,
    under_way: AtomicUsize,
    /// Whether it was asked for its models.
    asked: AtomicBool,
    models: RwLock<Arc<BTreeSet<String>>>,
    /// Told when it is well again.
    back: Arc<Notify>,
}

impl Replica {
    /// A server of the configuration, and who is told when it is well again; it counts as well until it shows otherwise.
    ///
    /// # Errors
    /// A URL or key that is none.
    pub fn new(settings: &Upstream, back: Arc<Notify>) -> Result<Self, UpstreamError> {
        let base = settings.url.trim_end_matches('/').to_owned();
        let uri =
            |path: &str| format!("{base}{path}").parse::<Uri>().map_err(|_| UpstreamError::Url(settings.url.clone()));
        let key = settings.api_key.as_ref().map(|key| {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", key.reveal()))
                .map_err(|_| UpstreamError::Key(settings.url.clone()))?;
            value.set_sensitive(true);
            Ok(value)
        });
        Ok(Self {
            name: base.as_str().into(),
            kind: settings.kind,
            key: key.transpose()?,
            health: uri(&settings.health_path)?,
            base,
            up: AtomicBool::new(true),
            failures: AtomicU32::new(0),
            under_way: AtomicUsize::new(0),
            asked: AtomicBool::new(false),
            models: RwLock::default(),
            back,
        })
    }

    /// Where a path of it is.
    #[must_use]
    pub fn uri(&self, path_and_query: &str) -> Option<Uri> {
        format!("{}{path_and_query}", self.base).parse().ok()
    }

    /// The key that goes to it instead of a client's.
    #[must_use]
    pub fn key(&self) -> Option<&HeaderValue> {
        self.key.as_ref()
    }

    /// Whether it loads adapters.
    #[must_use]
    pub fn loads_adapters(&self) -> bool {
        self.kind != UpstreamKind::Openai
    }

    /// Whether it is well.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.up.load(Relaxed)
    }

    /// Requests under way.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.under_way.load(Relaxed)
    }

    /// What it listed last.
    #[must_use]
    pub fn models(&self) -> Arc<BTreeSet<String>> {
        Arc::clone(&self.models.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Whether it has a model, as far as it said.
    #[must_use]
    pub fn has(&self, model: &str) -> bool {
        self.models.read().unwrap_or_else(std::sync::PoisonError::into_inner).contains(model)
    }

    pub(super) fn set_models(&self, models: BTreeSet<String>) {
        self.asked.store(true, Relaxed);
        *self.models.write().unwrap_or_else(std::sync::PoisonError::into_inner) = Arc::new(models);
    }

    /// Counts a request as under way.
    #[must_use]
    pub fn enter(self: &Arc<Self>) -> UnderWay {
        self.under_way.fetch_add(1, Relaxed);
        UnderWay(Arc::clone(self))
    }

    /// It could not be reached: others are asked until its next health check says otherwise.
    pub fn failed(&self, detail: &str) {
        self.failures.store(FAILURES, Relaxed);
        // What it had loaded is gone where it was restarted.
        self.set_models(BTreeSet::new());
        if self.up.swap(false, Relaxed) {
            Event::Upstream { upstream: &self.name, up: false, detail }.emit();
        }
    }

    /// Asks for its health.
    pub async fn check(&self, client: &HttpClient) {
        match self.ask(client, Method::GET, self.health.clone(), None, OWN_ANSWER).await {
            // Not every server has the path of a health check; one that answers so is alive.
            Err(UpstreamError::Status { status, .. }) if self.kind == UpstreamKind::Openai && status < 500 => {
                self.is_well()
            }
            Ok(_) => self.is_well(),
            Err(error) => {
                if self.failures.fetch_add(1, Relaxed) + 1 >= FAILURES {
                    self.failed(&error.to_string());
                }
            }
        }
    }

    fn is_well(&self) {
        self.failures.store(0, Relaxed);
        if !self.up.swap(true, Relaxed) {
            Event::Upstream { upstream: &self.name, up: true, detail: "" }.emit();
            // What it has is asked at once: until then none of its versions' requests go there.
            self.back.notify_one();
        }
    }

    /// Asks for its models.
    ///
    /// # Errors
    /// Where it does not answer with a list.
    pub async fn list(&self, client: &HttpClient) -> Result<BTreeSet<String>, UpstreamError> {
        #[derive(serde::Deserialize)]
        struct Models {
            data: Vec<Model>,
        }
        #[derive(serde::Deserialize)]
        struct Model {
            id: String,
        }
        let uri = self.uri("/v1/models").ok_or_else(|| UpstreamError::Url(self.base.clone()))?;
        let body = self.ask(client, Method::GET, uri, None, OWN_ANSWER).await?;
        let models: Models = serde_json::from_slice(&body)
            .map_err(|error| UpstreamError::Away(format!("GET /v1/models is no list of models: {error}")))?;
        Ok(models.data.into_iter().map(|model| model.id).collect())
    }

    /// Has it load an adapter from a path that it sees.
    ///
    /// # Errors
    /// What it said.
    pub async fn load(
        &self,
        client: &HttpClient,
        name: &str,
        path: &str,
        patience: Duration,
    ) -> Result<(), UpstreamError> {
        let body = serde_json::json!({"lora_name": name, "lora_path": path});
        self.manage(client, "load_lora_adapter", &body, patience).await
    }

    /// Has it forget an adapter.
    ///
    /// # Errors
    /// What it said.
    pub async fn unload(&self, client: &HttpClient, name: &str) -> Result<(), UpstreamError> {
        self.manage(client, "unload_lora_adapter", &serde_json::json!({"lora_name": name}), OWN_ANSWER).await
    }

    async fn manage(
        &self,
        client: &HttpClient,
        what: &str,
        body: &serde_json::Value,
        patience: Duration,
    ) -> Result<(), UpstreamError> {
        let path = if self.kind == UpstreamKind::Sglang { format!("/{what}") } else { format!("/v1/{what}") };
        let uri = self.uri(&path).ok_or_else(|| UpstreamError::Url(self.base.clone()))?;
        self.ask(client, Method::POST, uri, Some(body.to_string()), patience).await.map(drop)
    }

    async fn ask(
        &self,
        client: &HttpClient,
        method: Method,
        uri: Uri,
        body: Option<String>,
        patience: Duration,
    ) -> Result<Bytes, UpstreamError> {
        let mut request = Request::builder().method(method).uri(uri);
        if let Some(key) = &self.key {
            request = request.header(AUTHORIZATION, key);
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request
            .body(Either::Left(Full::new(Bytes::from(body.unwrap_or_default()))))
            .map_err(|error| UpstreamError::Away(error.to_string()))?;
        let answered = tokio::time::timeout(patience, whole(client, request)).await;
        answered.map_err(|_| UpstreamError::Away(format!("no answer within {} s", patience.as_secs())))?
    }
}

async fn whole(client: &HttpClient, request: Request<Outgoing>) -> Result<Bytes, UpstreamError> {
    let away = |error: &dyn std::error::Error| {
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        UpstreamError::Away(format!("{error}{cause}"))
    };
    let response: Response<Incoming> = client.request(request).await.map_err(|error| away(&error))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), OWN_ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| UpstreamError::Away(error.to_string()))?.to_bytes();
    if status.is_success() {
        return Ok(body);
    }
    let text: String = String::from_utf8_lossy(&body).chars().take(300).collect();
    Err(UpstreamError::Status { status: status.as_u16(), text })
}

/// A request under way; it no longer counts when this is dropped.
pub struct UnderWay(Arc<Replica>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Relaxed);
    }
}

/// All servers.
pub struct Upstreams {
    /// Each of them.
    pub all: Vec<Arc<Replica>>,
    turn: AtomicUsize,
}

impl Upstreams {
    /// The servers of the configuration; `back` is told whenever one is well again.
    ///
    /// # Errors
    /// As [`Replica::new`].
    pub fn new(settings: &[Upstream], back: &Arc<Notify>) -> Result<Self, UpstreamError> {
        let all =
            settings.iter().map(|one| Replica::new(one, Arc::clone(back)).map(Arc::new)).collect::<Result<_, _>>()?;
        Ok(Self { all, turn: AtomicUsize::new(0) })
    }

    /// The least busy of those that are well and have the version, where one is asked for; of equals each in turn. Where none
    /// is well, all are tried: a health check may be wrong, and an error is the worst that comes of it.
    #[must_use]
    pub fn choose(&self, version: Option<&str>, tried: &[Arc<str>]) -> Option<Arc<Replica>> {
        let turn = self.turn.fetch_add(1, Relaxed);
        let count = self.all.len();
        let fits = |replica: &&Arc<Replica>| {
            version.is_none_or(|version| replica.has(version)) && !tried.contains(&replica.name)
        };
        let least = |well: bool| {
            let in_turn = (0..count).map(|i| &self.all[(turn + i) % count]);
            in_turn.filter(|r| !well || r.is_up()).filter(fits).min_by_key(|r| r.under_way())
        };
        least(true).or_else(|| least(false)).cloned()
    }
}

/// Asks all servers for their health until the shutdown.
pub async fn watch(upstreams: Arc<Upstreams>, client: HttpClient, every: Duration, end: crate::runtime::Shutdown) {
    loop {
        let checks = upstreams.all.iter().map(|replica| replica.check(&client));
        tokio::select! {
            _ = futures::future::join_all(checks) => {}
            () = end.cancelled() => return,
        }
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = end.cancelled() => return,
        }
    }
}
