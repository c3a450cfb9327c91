//! A proxy between OpenAI clients and inference servers: it forwards, logs, and brings promoted versions to the servers.
//!
//! ```text
//!   client ─► keys ─► body ─► alias to version ─► least busy server ─► answer, piece by piece ─► client
//!                                 ▲                                        │ a copy
//!        model-versions topic ────┤                                        ▼
//!        servers' own lists ──────┘                      queue in memory ─► log topic, or disk
//! ```
//!
//! | promise | how |
//! |---|---|
//! | bodies are not changed | only the model's name in a request is, where it is an alias; answers go on byte for byte |
//! | a log never delays a request | a bounded queue that drops its oldest; `before_response` waits because it was asked to |
//! | a request is sent twice only where nothing of it was taken | no connection, or a 503 that refuses |
//! | a version answers only where it is | a server's own list of models decides, at each look |
//! | keys are never logged | headers are not in the log, and clients' keys are known by their hash |
//!
//! It never reads a body that is not JSON, never follows a redirect, and never takes a server's address from a request.

mod adapters;
mod admin;
mod asked;
mod body;
mod call;
mod feedback;
mod follow;
mod keys;
mod outbox;
mod proxy;
mod record;
mod server;
mod shadow;
mod spill;
mod tap;
mod trace;
mod upstream;
mod versions;

pub use adapters::Puller;
pub use proxy::{MODEL_VERSION, REQUEST_ID};
pub use spill::{Spill, SpillError};

use crate::codec::redact::Redactor;
use crate::config;
use crate::domain::Timestamp;
use crate::runtime::{Shutdown, now};
use body::Answer;
use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Notify, oneshot};

/// Told when a call's log is acknowledged or on the disk; dropped where it is lost.
type Durable = oneshot::Sender<()>;

/// A message for a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The topic.
    pub topic: Arc<str>,
    /// Its key.
    pub key: String,
    /// Its value.
    pub payload: Vec<u8>,
}

/// What a sidecar is made of.
pub struct Parts {
    /// The section of the configuration.
    pub settings: config::Sidecar,
    /// The broker.
    pub kafka: config::Kafka,
    /// The topic of calls.
    pub log_topic: Option<String>,
    /// The topic of feedback.
    pub feedback_topic: Option<String>,
    /// The topic of versions.
    pub versions_topic: String,
    /// What must not be logged.
    pub redactor: Option<Arc<Redactor>>,
    /// The folder of the queue on the disk.
    pub spill_dir: PathBuf,
    /// The folder of pulled adapters.
    pub adapters_dir: PathBuf,
    /// Where versions are pulled from.
    pub puller: Option<Arc<dyn Puller>>,
    /// The certificate chain and key, where clients speak TLS.
    pub tls: Option<(PathBuf, PathBuf)>,
}

/// Why there is no sidecar.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody to forward to.
    #[error("sidecar.upstreams names no server")]
    NoUpstream,
    /// An upstream.
    #[error("sidecar.upstreams")]
    Upstream(#[from] upstream::UpstreamError),
    /// The queue on the disk.
    #[error("sidecar.log.spill_dir")]
    Spill(#[from] SpillError),
    /// The producer.
    #[error("kafka.properties: cannot make a producer")]
    Producer(#[from] rdkafka::error::KafkaError),
    /// The reader of versions.
    #[error("the topic of versions cannot be followed")]
    Follow(#[from] follow::FollowError),
    /// TLS.
    #[error("sidecar.tls: {0}")]
    Tls(String),
    /// The system.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The cause.
        source: std::io::Error,
    },
}

/// What all requests share.
struct State {
    settings: config::Sidecar,
    upstreams: Arc<upstream::Upstreams>,
    client: upstream::HttpClient,
    keys: keys::Keys,
    versions: versions::SharedVersions,
    logging: Arc<call::Logging>,
    feedback_topic: Option<Arc<str>>,
    redactor: Option<Arc<Redactor>>,
    shadows: AtomicUsize,
    /// Whether the servers were asked for what they have.
    looked: Arc<AtomicBool>,
    /// Whether the topic of versions was read to its end.
    caught_up: Arc<AtomicBool>,
    changed: Arc<Notify>,
    draining: Shutdown,
    began: Timestamp,
}

impl State {
    fn redact(&self, payload: Vec<u8>) -> Vec<u8> {
        let Some(redactor) = &self.redactor else { return payload };
        match redactor.json(&String::from_utf8_lossy(&payload)) {
            Ok(None) => payload,
            Ok(Some(redacted)) => redacted.into_bytes(),
            Err(_) => redactor.unreadable(&payload).into_owned(),
        }
    }
}

/// A sidecar that is ready to listen.
pub struct Sidecar {
    state: Arc<State>,
    log: Option<tap::TapThread>,
    tls: Option<tokio_rustls::TlsAcceptor>,
    keeper: Option<adapters::Keeper>,
    kafka: config::Kafka,
    versions_topic: String,
}

impl Sidecar {
    /// Makes a sidecar; asks nobody yet.
    ///
    /// # Errors
    /// [`Error`].
    pub fn new(parts: Parts) -> Result<Self, Error> {
        let settings = parts.settings;
        if settings.upstreams.is_empty() {
            return Err(Error::NoUpstream);
        }
        let changed = Arc::new(Notify::new());
        let upstreams = Arc::new(upstream::Upstreams::new(&settings.upstreams, &changed)?);
        let client = upstream::client(Duration::from_millis(settings.connect_timeout_ms))?;
        let tls = parts.tls.map(|(certificate, key)| server::tls(&certificate, &key)).transpose()?;
        let (tap, log) = match parts.log_topic.filter(|_| settings.log.enabled) {
            Some(topic) => {
                let spill = Spill::open(&parts.spill_dir, settings.log.spill_bytes_max)?;
                let sync = settings.log.durability == config::Durability::BeforeResponse;
                let bytes = settings.log.queue_bytes_max;
                let calls = outbox::Outbox::new(&parts.kafka, bytes, settings.log.delivery_timeout_ms, spill, sync)?;
                let outbox =
                    with_feedback(calls, &settings, &parts.kafka, &parts.spill_dir, parts.feedback_topic.as_deref());
                let encoding = tap::Encoding { topic: topic.into(), redactor: parts.redactor.clone() };
                let started = tap::Tap::start(outbox, encoding, bytes);
                let (tap, thread) = started.map_err(|source| Error::Io { what: "start the log's thread", source })?;
                (Some(tap), Some(thread))
            }
            None => (None, None),
        };
        let versions = Arc::new(versions::Versions::new(settings.models.clone()));
        let looked = Arc::new(AtomicBool::new(settings.models.is_empty()));
        let caught_up = Arc::new(AtomicBool::new(false));
        let keeper = (!settings.models.is_empty()).then(|| adapters::Keeper {
            upstreams: Arc::clone(&upstreams),
            client: client.clone(),
            versions: Arc::clone(&versions),
            settings: settings.adapters.clone(),
            dir: parts.adapters_dir,
            puller: parts.puller,
            changed: Arc::clone(&changed),
            looked: Arc::clone(&looked),
            caught_up: Arc::clone(&caught_up),
        });
        let logging = Arc::new(call::Logging {
            tap,
            answer_bytes_max: settings.log.answer_bytes_max,
            durability: settings.log.durability,
            sample: settings.log.sample.clone(),
        });
        let state = Arc::new(State {
            keys: keys::Keys::new(&settings.keys, settings.requests_max),
            settings,
            upstreams,
            client,
            versions,
            logging,
            feedback_topic: parts.feedback_topic.map(Into::into),
            redactor: parts.redactor,
            shadows: AtomicUsize::new(0),
            looked,
            caught_up,
            changed,
            draining: Shutdown::new(),
            began: now(),
        });
        Ok(Self { state, log, tls, keeper, kafka: parts.kafka, versions_topic: parts.versions_topic })
    }

    /// Looks at it from outside.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.state))
    }

    /// Serves until the shutdown, then drains: requests under way are answered, logs are sent or on the disk.
    ///
    /// # Errors
    /// Where the topic of versions cannot be followed.
    pub async fn run(
        self,
        clients: TcpListener,
        operators: Option<TcpListener>,
        shutdown: Shutdown,
    ) -> Result<(), Error> {
        let over = Shutdown::new();
        let settings = &self.state.settings;
        let every = Duration::from_millis(settings.health_interval_ms);
        let mut tasks = vec![tokio::spawn(upstream::watch(
            Arc::clone(&self.state.upstreams),
            self.state.client.clone(),
            every,
            over.clone(),
        ))];
        let mut follower = None;
        if let Some(keeper) = self.keeper {
            let (versions, changed) = (Arc::clone(&self.state.versions), Arc::clone(&self.state.changed));
            let told = follow::Told { versions, changed, caught_up: Arc::clone(&self.state.caught_up) };
            follower = Some(follow::follow(&self.kafka, self.versions_topic, told, over.clone())?);
            tasks.push(tokio::spawn(keeper.run(over.clone())));
        }
        if let Some(listener) = operators {
            tasks.push(tokio::spawn(admin::serve(listener, Arc::clone(&self.state), over.clone())));
        }
        server::serve(clients, self.tls, Arc::clone(&self.state), shutdown).await;
        over.cancel();
        for task in tasks {
            drop(task.await);
        }
        let log = self.log;
        // Threads are waited for where waiting is allowed.
        let closed = tokio::task::spawn_blocking(move || {
            if let Some(follower) = follower {
                drop(follower.join());
            }
            if let Some(log) = log {
                log.close(Duration::from_secs(10));
            }
        });
        drop(closed.await);
        Ok(())
    }
}

/// The outboxes: that of the calls, and that of the feedback, which has a sixteenth of the disk.
fn with_feedback(
    calls: outbox::Outbox,
    settings: &config::Sidecar,
    kafka: &config::Kafka,
    spill_dir: &std::path::Path,
    topic: Option<&str>,
) -> outbox::Outboxes {
    const MEMORY_BYTES: usize = 1 << 20;
    let (dir, kafka) = (spill_dir.join("feedback"), kafka.clone());
    let (bytes_max, delivery_ms) = (settings.log.spill_bytes_max / 16, settings.log.delivery_timeout_ms);
    let waits = dir.is_dir();
    let open = move || {
        let spill = Spill::open(&dir, bytes_max).map_err(|error| error.to_string())?;
        outbox::Outbox::new(&kafka, MEMORY_BYTES, delivery_ms, spill, true).map_err(|error| error.to_string())
    };
    outbox::Outboxes::new(calls, topic.map(Into::into), waits, Box::new(open))
}

/// A look at a running sidecar.
#[derive(Clone)]
pub struct Handle(Arc<State>);

impl Handle {
    /// The promoted version that answers for an alias; nothing while the base does.
    #[must_use]
    pub fn serving(&self, alias: &str) -> Option<String> {
        self.0.versions.serving(alias)
    }
}

/// An answer of our own.
fn json(status: StatusCode, value: &serde_json::Value) -> Response<Answer> {
    let mut response = Response::new(Either::Left(Full::new(Bytes::from(value.to_string()))));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
