//! How much memory exploring and training take beyond the loaded base, before they take it.
//!
//! An estimate from shapes, an upper one: what lives at the same time, in f32. Allocators and threads add a tenth or two.

use super::config::ModelConfig;
use super::logprob::Keep;
use super::lora::{Lora, LoraConfig};
use super::ops::head::CHUNK_BYTES_MAX;

/// What is computed at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Rows that are generated together.
    pub rows: usize,
    /// The longest prompt in tokens.
    pub prompt_tokens: usize,
    /// The longest response in tokens.
    pub new_tokens: usize,
    /// Tokens that go through the model at once in training.
    pub batch_tokens: usize,
}

/// Bytes beyond the loaded base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// The base's projections with the adapter added, and their copy for products of few rows where there is one.
    pub weights: u64,
    /// The adapter, its moments and its gradients.
    pub adapter: u64,
    /// What layers compute: keys and values of exploration, activations of training.
    pub activations: u64,
    /// Logits, in chunks.
    pub logits: u64,
}

const FLOAT: u64 = 4;

impl Footprint {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.weights + self.adapter + self.activations + self.logits
    }

    /// Of exploration with an adapter.
    #[must_use]
    pub fn of_exploring(config: &ModelConfig, load: Load) -> Self {
        let width = (config.kv_heads * config.head_dim) as u64;
        let tokens = (load.rows * (load.prompt_tokens + load.new_tokens)) as u64;
        // The cache is compacted once half of it is seen by no row, and grows by doubling.
        let cache = 2 * tokens * config.layers.len() as u64 * 2 * width * FLOAT;
        let projections = projections(config);
        let few_rows = if config.parameters() > super::decoder::FEW_ROWS_PARAMETERS_MAX { 1 } else { 2 };
        Self {
            weights: few_rows * projections,
            adapter: 0,
            activations: cache,
            logits: 3 * (load.rows * config.vocab_size) as u64 * FLOAT,
        }
    }

    /// Of training an adapter.
    #[must_use]
    pub fn of_training(config: &ModelConfig, lora: &LoraConfig, load: Load, keep: Keep) -> Self {
        let layers = config.layers.len() as u64;
        let (layer, input) = (layer_floats(config), config.hidden_size as u64);
        let kept = match keep {
            Keep::Everything => layers * layer,
            Keep::LayerInputs => layers * input + layer,
        };
        // On the way back a layer's gradients stand beside what it kept.
        let per_token = (kept + layer + 4 * input) * FLOAT;
        let longest = (load.prompt_tokens + load.new_tokens) as u64;
        // Probabilities and their gradients of a span's queries and keys, for each thread.
        let scores = 2 * longest * longest * FLOAT * rayon::current_num_threads() as u64;
        let adapter: usize = Lora::shapes(config, lora).iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
        let chunk = (CHUNK_BYTES_MAX as u64).min((load.batch_tokens * config.vocab_size) as u64 * FLOAT);
        Self {
            weights: projections(config),
            adapter: 6 * adapter as u64 * FLOAT,
            activations: load.batch_tokens as u64 * per_token + scores,
            logits: 3 * chunk,
        }
    }
}

/// Bytes of all projections of all layers: what adding an adapter makes a copy of.
fn projections(config: &ModelConfig) -> u64 {
    let weights = config.weight_shapes();
    let own = weights.iter().filter(|(name, _)| name.ends_with("_proj.weight"));
    own.map(|(_, shape)| shape.iter().product::<usize>() as u64 * FLOAT).sum()
}

/// Floats a token that a layer keeps for its backward pass.
fn layer_floats(config: &ModelConfig) -> u64 {
    let (queries, keys) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    let qkv = queries + 2 * keys;
    let unnormed = if config.options.qk_norm { qkv } else { 0 };
    let sandwich = if config.options.sandwich_norms { 2 * config.hidden_size } else { 0 };
    let all =
        2 * config.hidden_size + unnormed + qkv + queries + config.heads + sandwich + 2 * config.intermediate_size;
    all as u64
}
