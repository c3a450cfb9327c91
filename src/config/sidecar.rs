//! Settings of `pelton sidecar`: what it listens on, whom it forwards to, what it logs and which version answers.

use super::formats::Secret;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The proxy between OpenAI clients and inference servers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Sidecar {
    /// `ADDRESS:PORT` for clients. Default: `127.0.0.1:8080`.
    pub listen: String,
    /// `ADDRESS:PORT` of `/healthz`, `/readyz`, `/metrics`, `/status` and `/rollout`, for operators only. Default: none.
    pub admin_listen: Option<String>,
    /// TLS for clients. Default: none.
    pub tls: Option<Tls>,
    /// The inference servers. Default: none; `pelton sidecar` needs at least one.
    pub upstreams: Vec<Upstream>,
    /// Clients that may ask. Default: none; then everybody may, and `authorization` is passed on.
    pub keys: Vec<ClientKey>,
    /// Aliases whose promoted versions answer, by name: the models of `model-versions` events. Default: none.
    pub models: BTreeMap<String, Alias>,
    /// How versions come to the servers.
    pub adapters: Adapters,
    /// The log of calls.
    pub log: CallLog,
    /// Largest request body in bytes. Default: 64 MiB.
    #[schemars(range(min = 1024))]
    pub body_bytes_max: usize,
    /// Requests under way at once; more are answered with 429. Default: 4,096.
    #[schemars(range(min = 1))]
    pub requests_max: usize,
    /// Milliseconds to connect to an upstream. Default: 2,000.
    #[schemars(range(min = 1))]
    pub connect_timeout_ms: u64,
    /// Milliseconds that a client may take to send its request. Default: 60,000.
    #[schemars(range(min = 1))]
    pub request_timeout_ms: u64,
    /// Milliseconds until an upstream begins to answer. Default: 600,000: without streaming the whole answer is computed first.
    #[schemars(range(min = 1))]
    pub response_timeout_ms: u64,
    /// Milliseconds between two pieces of an answer. Default: 120,000.
    #[schemars(range(min = 1))]
    pub idle_timeout_ms: u64,
    /// Milliseconds between two looks at an upstream's health. Default: 2,000.
    #[schemars(range(min = 10))]
    pub health_interval_ms: u64,
    /// Milliseconds after SIGTERM in which connections are still taken, each answer asking its client to close, so that load
    /// balancers and clients go elsewhere. Default: 3,000.
    pub drain_grace_ms: u64,
    /// Milliseconds after that for requests under way. Default: 60,000.
    pub drain_timeout_ms: u64,
}

impl Default for Sidecar {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".to_owned(),
            admin_listen: None,
            tls: None,
            upstreams: Vec::new(),
            keys: Vec::new(),
            models: BTreeMap::new(),
            adapters: Adapters::default(),
            log: CallLog::default(),
            body_bytes_max: 64 << 20,
            requests_max: 4096,
            connect_timeout_ms: 2_000,
            request_timeout_ms: 60_000,
            response_timeout_ms: 600_000,
            idle_timeout_ms: 120_000,
            health_interval_ms: 2_000,
            drain_grace_ms: 3_000,
            drain_timeout_ms: 60_000,
        }
    }
}

/// A certificate and its key, PEM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The file of the certificate chain.
    pub certificate: String,
    /// The file of the private key.
    pub key: String,
}

/// What an upstream is, for what OpenAI's API does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum UpstreamKind {
    /// vLLM or `pelton serve`: adapters by `/v1/load_lora_adapter`.
    #[default]
    Vllm,
    /// SGLang: adapters by `/load_lora_adapter`.
    Sglang,
    /// Any other; it loads no adapters.
    Openai,
}

/// One inference server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// Its URL without `/v1`, such as `http://127.0.0.1:8000`.
    #[schemars(length(min = 1))]
    pub url: String,
    /// `vllm` (also `pelton serve`), `sglang` or `openai`. Default: `vllm`.
    #[serde(default)]
    pub kind: UpstreamKind,
    /// The key that is sent instead of the client's, best as `${NAME}`. Default: none.
    pub api_key: Option<Secret>,
    /// What is asked for its health. Default: `/health`.
    #[serde(default = "Upstream::health_path")]
    pub health_path: String,
}

impl Upstream {
    fn health_path() -> String {
        "/health".to_owned()
    }
}

/// A client that may ask.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientKey {
    /// Its name in the log, where the request names no user.
    #[schemars(length(min = 1))]
    pub name: String,
    /// SHA-256 of the key, hexadecimal (`printf %s KEY | sha256sum`). The key itself stands nowhere.
    #[schemars(regex(pattern = r"^[0-9a-f]{64}$"))]
    pub sha256: String,
    /// Most requests in a minute; more are answered with 429. Default: no limit.
    #[schemars(range(min = 1))]
    pub requests_per_minute: Option<u32>,
    /// Most requests under way at once. Default: no limit.
    #[schemars(range(min = 1))]
    pub requests_max: Option<u32>,
}

/// Whose requests stay with one version while two share the traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Sticky {
    /// A conversation (`x-conversation-id`, `metadata.conversation_id`, `prompt_cache_key`); where none is named, the user.
    #[default]
    Conversation,
    /// A user (`user`, `safety_identifier`, else the client's key).
    User,
    /// Nobody's: each request is drawn for itself.
    None,
}

/// A model whose promoted version answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Alias {
    /// The name that the servers have for the base; it answers where no version does. Default: the alias itself.
    pub base: Option<String>,
    /// `conversation`, `user` or `none`. Default: `conversation`.
    #[serde(default)]
    pub sticky: Sticky,
    /// How a new version takes over: the share that it answers from so many minutes after its promotion on, in rising order.
    /// Default: none, all at once.
    #[serde(default)]
    pub rollout: Vec<RolloutStep>,
    /// A version that gets copies of requests and answers nobody. Default: none.
    pub shadow: Option<Shadow>,
}

/// One step of a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RolloutStep {
    /// Minutes since the promotion.
    #[schemars(range(min = 0.0))]
    pub after_minutes: f64,
    /// The share of traffic from then on.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub share: f64,
}

/// A challenger beside the traffic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Shadow {
    /// The version, such as `support-sql@v18`, or any model of the servers.
    #[schemars(length(min = 1))]
    pub model: String,
    /// The share of requests that are copied to it. Default: 1.
    #[serde(default = "Shadow::share")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub share: f64,
    /// Copies under way at once; more are left out. Default: 8.
    #[serde(default = "Shadow::requests_max")]
    #[schemars(range(min = 1))]
    pub requests_max: usize,
}

impl Shadow {
    fn share() -> f64 {
        1.0
    }
    fn requests_max() -> usize {
        8
    }
}

/// Where servers find an adapter's folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AdapterSource {
    /// At the version's own location: the lake is a folder that the servers see.
    #[default]
    Shared,
    /// In `dir`, where the sidecar puts it from the lake, checked against its manifest.
    Pull,
}

/// How versions come to the servers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Adapters {
    /// `shared` or `pull`. Default: `shared`.
    pub source: AdapterSource,
    /// The folder for `pull`. Default: `./pelton-adapters`, beside the configuration file.
    pub dir: String,
    /// The folder of `dir` as the servers see it, where that is another. Default: none.
    pub dir_on_servers: Option<String>,
    /// Milliseconds between two looks at what the servers have: a restarted one gets its versions back within it. Default:
    /// 2,000.
    #[schemars(range(min = 10))]
    pub interval_ms: u64,
    /// Milliseconds that loading one adapter may take. Default: 120,000.
    #[schemars(range(min = 10))]
    pub load_timeout_ms: u64,
    /// Milliseconds that a version without traffic stays loaded. Default: 60,000.
    pub keep_ms: u64,
}

impl Default for Adapters {
    fn default() -> Self {
        Self {
            source: AdapterSource::Shared,
            dir: "./pelton-adapters".to_owned(),
            dir_on_servers: None,
            interval_ms: 2_000,
            load_timeout_ms: 120_000,
            keep_ms: 60_000,
        }
    }
}

/// When an answer may end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// At once; the log follows.
    #[default]
    Async,
    /// When its log is acknowledged by Kafka, or synced in the queue on the disk.
    BeforeResponse,
}

/// The log of calls.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CallLog {
    /// Whether calls are logged. Default: true.
    pub enabled: bool,
    /// The topic. Default: the first of `ingest.topics`.
    pub topic: Option<String>,
    /// The topic of feedback. Default: the first of `ingest.feedback_topics`; without one `/v1/feedback` is refused.
    pub feedback_topic: Option<String>,
    /// Bytes of calls that may wait in memory; beyond it the oldest is dropped and counted. Default: 64 MiB.
    #[schemars(range(min = 65_536))]
    pub queue_bytes_max: usize,
    /// Bytes of an answer that are kept for the log; the rest is left out, and the row says so. Default: 10 MiB.
    #[schemars(range(min = 1024))]
    pub answer_bytes_max: usize,
    /// The folder of the queue for times without Kafka. Default: `./pelton-spill`, beside the configuration file.
    pub spill_dir: String,
    /// Its most bytes; beyond it the oldest logs are dropped and counted. Default: 1 GiB.
    #[schemars(range(min = 65_536))]
    pub spill_bytes_max: u64,
    /// Milliseconds that Kafka may take to acknowledge before a log goes to the disk. Default: 10,000.
    #[schemars(range(min = 100))]
    pub delivery_timeout_ms: u64,
    /// `async` or `before_response`. Default: `async`.
    pub durability: Durability,
    /// Shares by rule; the first that fits counts, and without one every call is logged. Default: none.
    pub sample: Vec<SampleRule>,
}

impl Default for CallLog {
    fn default() -> Self {
        Self {
            enabled: true,
            topic: None,
            feedback_topic: None,
            queue_bytes_max: 64 << 20,
            answer_bytes_max: 10 << 20,
            spill_dir: "./pelton-spill".to_owned(),
            spill_bytes_max: 1 << 30,
            delivery_timeout_ms: 10_000,
            durability: Durability::Async,
            sample: Vec::new(),
        }
    }
}

/// A share of calls to log.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SampleRule {
    /// The path, such as `/v1/embeddings`. Default: any.
    pub path: Option<String>,
    /// The model that was asked for. Default: any.
    pub model: Option<String>,
    /// The client's name. Default: any.
    pub client: Option<String>,
    /// Whether it failed (status 400 or above). Default: either.
    pub failed: Option<bool>,
    /// The share that is logged. Default: 0.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub share: f64,
}
