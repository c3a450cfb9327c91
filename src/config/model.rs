//! The section of one model: what it is tuned from, on which prompts, when, and how.

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
}

impl Model {
    fn default_seed() -> u64 {
        1
    }
}

/// When cycles start by themselves; neither given means only by hand.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Schedule {
    /// A cron expression of five fields, in UTC, such as `0 3 * * *`. Default: none.
    pub cron: Option<String>,
    /// Whether a cycle starts as soon as the window has its minimum of fresh prompts. Default: false.
    pub on_fresh_prompts: bool,
    /// Minutes between the end of a cycle and the start of the next by fresh prompts. Default: 0.
    pub pause_minutes: u32,
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

/// How responses are sampled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Explore {
    /// Responses a prompt. Default: 8.
    #[schemars(range(min = 2, max = 1024))]
    pub samples: u32,
    /// Temperatures, used in turn over a prompt's samples. Default: 1.0.
    #[schemars(inner(range(min = 0.01, max = 5.0)))]
    pub temperatures: Vec<f64>,
    /// The longest response in tokens. Default: 256.
    #[schemars(range(min = 1))]
    pub tokens_max: usize,
    /// Sequences that are generated together. Default: 64.
    #[schemars(range(min = 1))]
    pub batch_rows: usize,
}

impl Default for Explore {
    fn default() -> Self {
        Self { samples: 8, temperatures: vec![1.0], tokens_max: 256, batch_rows: 64 }
    }
}

/// How responses are scored. At least one scorer must be given.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Score {
    /// The response is SQL: run it and look at what it returns.
    pub sql: Option<SqlScore>,
}

/// SQL responses, scored without labels by running them in isolation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SqlScore {
    /// A folder of Parquet files, one a table, that the SQL runs on.
    #[schemars(length(min = 1))]
    pub database: String,
    /// The longest a query may run, in milliseconds. Default: 2,000.
    #[serde(default = "SqlScore::default_query_ms_max")]
    #[schemars(range(min = 10))]
    pub query_ms_max: u64,
    /// The most memory a query may take, in bytes. Default: 64 MiB.
    #[serde(default = "SqlScore::default_memory_bytes_max")]
    #[schemars(range(min = 1_048_576))]
    pub memory_bytes_max: usize,
    /// The most rows of a result; a larger one scores zero. Default: 10,000.
    #[serde(default = "SqlScore::default_rows_max")]
    #[schemars(range(min = 1))]
    pub rows_max: usize,
    /// The weight of agreement among a prompt's samples in [0, 1]; it never counts alone. Default: 0.4.
    #[serde(default = "SqlScore::default_agreement_weight")]
    #[schemars(range(min = 0.0, max = 0.9))]
    pub agreement_weight: f64,
}

impl SqlScore {
    fn default_query_ms_max() -> u64 {
        2_000
    }
    fn default_memory_bytes_max() -> usize {
        64 << 20
    }
    fn default_rows_max() -> usize {
        10_000
    }
    fn default_agreement_weight() -> f64 {
        0.4
    }
}

/// The loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// Off-policy regression to the optimal advantage (arXiv 2602.19362).
    Oapl,
    /// Group-relative policy optimization with DAPO's normalisation and clip.
    Grpo,
}

/// How the adapter is trained on scored responses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Optimize {
    /// `oapl` or `grpo`. Default: `oapl`, because logged prompts are off-policy by nature.
    pub algorithm: Algorithm,
    /// Explore, score and optimize so many times, each from the last round's adapter. Default: 1.
    #[schemars(range(min = 1, max = 100))]
    pub rounds: u32,
    /// Passes over the scored responses in a round. Default: 2.
    #[schemars(range(min = 1, max = 100))]
    pub epochs: u32,
    /// Prompts in one optimizer step, each with all of its responses. Default: 16.
    #[schemars(range(min = 1))]
    pub prompts_per_step: usize,
    /// Tokens, padding included, that go through the model at once. Default: 8,192; lower it where memory is short.
    #[schemars(range(min = 16))]
    pub batch_tokens_max: usize,
    /// AdamW's peak rate. Default: 1e-4.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub learning_rate: f64,
    /// The share of steps over which the rate rises from zero. Default: 0.1.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub warmup_share: f64,
    /// AdamW's decoupled weight decay. Default: 0.
    #[schemars(range(min = 0.0))]
    pub weight_decay: f64,
    /// The largest global gradient norm. Default: 1.
    #[schemars(range(min = 0.000_001))]
    pub gradient_norm_max: f64,
    /// OAPL's β₁: the temperature of the value estimate. Default: 1.
    #[schemars(range(min = 0.000_001))]
    pub oapl_beta_value: f64,
    /// OAPL's β₂: the weight of the log-ratio to the behaviour policy. Default: 1e-3.
    #[schemars(range(min = 0.000_001))]
    pub oapl_beta_policy: f64,
    /// GRPO's lower clip ε. Default: 0.2.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub grpo_clip_low: f64,
    /// GRPO's upper clip ε. Default: 0.28, as DAPO has it.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub grpo_clip_high: f64,
    /// Steps with a loss or gradient that is not finite are skipped; after this many the cycle fails. Default: 5.
    pub skipped_steps_max: u32,
}

impl Default for Optimize {
    fn default() -> Self {
        Self {
            algorithm: Algorithm::Oapl,
            rounds: 1,
            epochs: 2,
            prompts_per_step: 16,
            batch_tokens_max: 8_192,
            learning_rate: 1e-4,
            warmup_share: 0.1,
            weight_decay: 0.0,
            gradient_norm_max: 1.0,
            oapl_beta_value: 1.0,
            oapl_beta_policy: 1e-3,
            grpo_clip_low: 0.2,
            grpo_clip_high: 0.28,
            skipped_steps_max: 5,
        }
    }
}

/// When a version is promoted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Gate {
    /// The confidence of the paired bootstrap interval. Default: 0.95.
    #[schemars(range(min = 0.5, max = 0.999))]
    pub confidence: f64,
    /// Bootstrap resamples. Default: 10,000.
    #[schemars(range(min = 100, max = 1_000_000))]
    pub resamples: u32,
    /// The interval's lower end must be above this gain in reward. Default: 0.
    #[schemars(range(min = -1.0, max = 1.0))]
    pub gain_min: f64,
    /// Fewer holdout prompts than this prove nothing. Default: 30.
    #[schemars(range(min = 2))]
    pub prompts_min: usize,
}

impl Default for Gate {
    fn default() -> Self {
        Self { confidence: 0.95, resamples: 10_000, gain_min: 0.0, prompts_min: 30 }
    }
}
