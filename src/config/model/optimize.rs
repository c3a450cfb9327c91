//! How the adapter is trained: the section `[models.NAME.optimize]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// Off-policy regression to the optimal advantage (arXiv 2602.19362).
    Oapl,
    /// Group-relative policy optimization with DAPO's normalisation and clip.
    Grpo,
    /// The same without the deviation, and divided by a constant length (arXiv 2503.20783).
    DrGrpo,
    /// REINFORCE with a leave-one-out baseline (arXiv 2402.14740).
    Rloo,
    /// Direct preference optimization on better and worse responses of a prompt (arXiv 2305.18290).
    Dpo,
    /// Fine-tuning on a prompt's best responses: rejection sampling.
    BestOfN,
    /// Fine-tuning on the response that a prompt's samples agree on; no reward counts: a recipe to compare with.
    ZeroLabel,
}

/// Which pairs DPO makes of a prompt's responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DpoPairs {
    /// The best against the worst.
    Extremes,
    /// Every better one against every worse one; together they count as one pair.
    All,
}

/// What DPO measures its preferences from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DpoReference {
    /// The policy that drew the responses.
    Behaviour,
    /// The base model, without an adapter.
    Base,
}

/// How the adapter is trained on scored responses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Optimize {
    /// `oapl`, `grpo`, `dr_grpo`, `rloo`, `dpo`, `best_of_n` or `zero_label`. Default: `oapl`, because logged prompts are off-policy by nature.
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
    /// Keep only what enters each layer and compute the rest again on the way back: a third more time for the memory of one
    /// layer in place of all. Default: false.
    pub recompute_layers: bool,
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
    /// OAPL's β₂: the weight of the log-ratio to the behaviour policy; a response moves by its advantage over β₂ in nats at
    /// most. Default: 0.1, measured with LoRA and rewards in [0, 1]; the paper's 1e-3 is for full fine-tuning.
    #[schemars(range(min = 0.000_001))]
    pub oapl_beta_policy: f64,
    /// The lower clip ε of GRPO and RLOO. Default: 0.2.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub grpo_clip_low: f64,
    /// The upper clip ε of GRPO and RLOO. Default: 0.28, as DAPO has it.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub grpo_clip_high: f64,
    /// Dr. GRPO divides a sample's summed loss by this constant. Default: 256, as the longest response is by default.
    #[schemars(range(min = 1))]
    pub dr_grpo_tokens: u32,
    /// RLOO's β: what a nat of distance from the base costs in reward. Default: 0.05.
    #[schemars(range(min = 0.0))]
    pub rloo_beta: f64,
    /// DPO's β: how far from the reference a preference may move. Default: 0.1.
    #[schemars(range(min = 0.000_001))]
    pub dpo_beta: f64,
    /// Responses whose rewards are less apart make no pair. Default: 0.1.
    #[schemars(range(min = 0.0))]
    pub dpo_margin_min: f64,
    /// `extremes` (the best against the worst) or `all`. Default: `extremes`.
    pub dpo_pairs: DpoPairs,
    /// `behaviour` (the policy that drew the responses) or `base`. Default: `behaviour`.
    pub dpo_reference: DpoReference,
    /// Best-of-N learns at most so many distinct responses of a prompt. Default: 1.
    #[schemars(range(min = 1))]
    pub best_of_n_top_k: usize,
    /// And only those with this reward at least. Default: 0.5.
    pub best_of_n_reward_min: f64,
    /// Zero-label learns a prompt's most frequent response where this share of its samples gave it. Default: 0.5.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub zero_label_share_min: f64,
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
            recompute_layers: false,
            learning_rate: 1e-4,
            warmup_share: 0.1,
            weight_decay: 0.0,
            gradient_norm_max: 1.0,
            oapl_beta_value: 1.0,
            oapl_beta_policy: 0.1,
            grpo_clip_low: 0.2,
            grpo_clip_high: 0.28,
            dr_grpo_tokens: 256,
            rloo_beta: 0.05,
            dpo_beta: 0.1,
            dpo_margin_min: 0.1,
            dpo_pairs: DpoPairs::Extremes,
            dpo_reference: DpoReference::Behaviour,
            best_of_n_top_k: 1,
            best_of_n_reward_min: 0.5,
            zero_label_share_min: 0.5,
            skipped_steps_max: 5,
        }
    }
}
