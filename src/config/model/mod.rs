//! The section of one model: what it is tuned from, on which prompts, when, and how; a file a part.

mod endpoint;
mod explore;
mod gate;
mod optimize;
mod rollback;
mod schedule;
mod score;

pub use endpoint::Endpoint;
pub use explore::{Explore, Strategy, StrategyKind};
pub use gate::{Gate, Suite, WinRate};
pub use optimize::{Algorithm, DpoPairs, DpoReference, Optimize};
pub use rollback::{Rollback, RollbackCheck};
pub use schedule::{Budget, Schedule, quiet_minutes};
pub use score::{
    AnswerKind, AnswerScore, FeedbackScore, GroundedScore, JsonSchemaScore, JudgeScore, LengthScore, RefusalScore,
    RegexScore, RepetitionScore, RewardModelScore, Score, Share, Spent, SqlScore,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One model to tune.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// The base model: a folder with `config.json`, safetensors and `tokenizer.json`, or a `.gguf` file.
    #[schemars(length(min = 1))]
    pub base: String,
    /// The window that its prompts come from.
    pub window: String,
    /// What every random choice of a cycle derives from. Default: 1.
    #[serde(default = "Model::default_seed")]
    pub seed: u64,
    /// What a cycle has explored and optimized so far is kept every so many seconds, so that a killed cycle goes on from
    /// there and ends in the same adapter; 0 keeps every step. Default: 30.
    #[serde(default = "Model::default_keep_seconds")]
    pub keep_seconds: u32,
    /// The most memory in bytes that exploring and training may take beyond the loaded base; a cycle that would need more
    /// says so before it starts. Default: none, what the machine and its control group have available.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub memory_bytes_max: Option<u64>,
    /// When cycles start by themselves.
    #[serde(default)]
    pub schedule: Schedule,
    /// The adapter.
    #[serde(default)]
    pub lora: Lora,
    /// How responses are sampled.
    #[serde(default)]
    pub explore: Explore,
    /// How they are scored.
    pub score: Score,
    /// How the adapter is trained on them.
    #[serde(default)]
    pub optimize: Optimize,
    /// When a version is promoted.
    #[serde(default)]
    pub gate: Gate,
    /// Whether a promoted version is watched in the logs and rolled back by itself where it does worse. Default: none, only by
    /// hand.
    #[serde(default)]
    pub rollback: Option<Rollback>,
    /// How many versions keep their adapters, the newest by number; the champion and the one before it always do. Older ones
    /// are archived: their rows, manifests and reports stay. Default: none, all.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub keep_versions: Option<usize>,
}

impl Model {
    fn default_seed() -> u64 {
        1
    }

    fn default_keep_seconds() -> u32 {
        30
    }
}

/// The adapter's shape.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Lora {
    /// The rank r. Default: 16; 1 to 32 is enough for reinforcement learning.
    #[schemars(range(min = 1, max = 512))]
    pub rank: usize,
    /// The scale's numerator: the adapter adds (alpha / rank) · B·A·x. Default: 32.
    #[schemars(range(min = 0.001))]
    pub alpha: f64,
    /// The linear layers that get one. Default: all seven of a decoder layer.
    pub targets: Vec<String>,
}

impl Default for Lora {
    fn default() -> Self {
        let all = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
        Self { rank: 16, alpha: 32.0, targets: all.map(str::to_owned).to_vec() }
    }
}
