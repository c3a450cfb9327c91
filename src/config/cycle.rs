//! How cycles are run and by whom: the sections `[scheduler]` and `[cycle]`, and where events go beside their topic.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which of many daemons starts cycles.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Scheduler {
    /// The topic whose partition 0 belongs to the daemon that starts cycles, sends events and rolls back; it holds no
    /// messages. Daemons of one lake share it. Default: `pelton-control`.
    #[schemars(length(min = 1))]
    pub control_topic: String,
    /// The consumer group of that election. Default: `ingest.group` and `-scheduler`.
    pub group: Option<String>,
    /// Milliseconds after which a daemon that went silent is replaced. Default: 10,000.
    #[schemars(range(min = 6000, max = 300_000))]
    pub session_timeout_ms: u32,
}

impl Default for Scheduler {
    fn default() -> Self {
        Self { control_topic: "pelton-control".to_owned(), group: None, session_timeout_ms: 10_000 }
    }
}

/// The process that a cycle runs in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Cycle {
    /// How much a cycle's process gives way to others, as `nice` counts: 0 not at all, 19 the most. Default: 10, so that
    /// ingestion goes first.
    #[schemars(range(min = 0, max = 19))]
    pub nice: u8,
    /// The most memory in bytes that a cycle's process may have of its own (resident, files left out); one that takes more is
    /// ended and says so. Default: none.
    #[schemars(range(min = 1))]
    pub memory_bytes_max: Option<u64>,
    /// A command that runs a cycle elsewhere, such as `["srun", "--gpus=1", "pelton", "cycle", "resume", "{cycle}", "--config",
    /// "{config}"]`. It must end when the cycle does. `{cycle}`, `{config}`, `{model}`, `{token}` and `{pelton}` (this program)
    /// stand for what they say. Default: none, a child process of the daemon.
    pub launcher: Vec<String>,
    /// Seconds between two rows of `cycle` that say how far a step is. Default: 60.
    #[schemars(range(min = 1))]
    pub progress_seconds: u32,
}

impl Default for Cycle {
    fn default() -> Self {
        Self { nice: 10, memory_bytes_max: None, launcher: Vec::new(), progress_seconds: 60 }
    }
}

/// How an event is put into a Kafka message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EventMode {
    /// CloudEvents' binary mode: attributes are `ce_` headers, the value is the data.
    #[default]
    Binary,
    /// CloudEvents' structured mode: the value is one JSON object.
    Structured,
}

/// Events about versions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Publish {
    /// The compacted topic. Default: `model-versions`.
    #[schemars(length(min = 1))]
    pub topic: String,
    /// `binary` or `structured`, the content mode of CloudEvents. Default: `binary`.
    pub mode: EventMode,
    /// Seconds that a cycle waits for a broker that does not take its events, before it ends without having told of its version:
    /// the daemon that has the scheduler's seat tells later. Default: 60.
    #[schemars(range(min = 1, max = 3600))]
    pub wait_seconds: u32,
    /// Addresses that get every event by HTTP too. Default: none.
    pub webhooks: Vec<Webhook>,
}

impl Default for Publish {
    fn default() -> Self {
        Self { topic: "model-versions".to_owned(), mode: EventMode::Binary, wait_seconds: 60, webhooks: Vec::new() }
    }
}

/// An address that gets every event by HTTP, signed after Standard Webhooks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// Its name in the tables: how far it was followed is kept under it.
    #[schemars(regex(pattern = r"^[a-z0-9][a-z0-9._-]{0,63}$"))]
    pub name: String,
    /// The URL that gets a POST.
    #[schemars(length(min = 1))]
    pub url: String,
    /// The secret that signs, as Standard Webhooks writes it: `whsec_` and base64; best `${NAME}`, from the environment.
    #[schemars(length(min = 1))]
    pub secret: String,
    /// Milliseconds that an answer may take. Default: 15,000.
    #[serde(default = "Webhook::timeout_ms")]
    #[schemars(range(min = 1))]
    pub timeout_ms: u64,
}

impl Webhook {
    fn timeout_ms() -> u64 {
        15_000
    }
}
