//! How the adapter is trained: the section `[models.NAME.optimize]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
