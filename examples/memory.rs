//! What one training pass takes: `cargo run --release --example memory [-- --recompute] [-- --vocabulary 262144]`.
//!
//! A random Llama with an adapter, one packed batch, forward and backward; prints the peak of resident memory before and
//! after, the estimate that a cycle would be told, and the time. One process a line: the peak never falls.

use candle_core::Device;
use clap::Parser;
use pelton::model::{
    Decoder, Footprint, Keep, LayerConfig, Load, Lora, LoraConfig, ModelConfig, Options, PromptGroup, Rope, Weights,
};
use pelton::runtime::peak_rss_bytes;
use std::time::Instant;

/// The shape.
#[derive(Debug, Parser)]
struct Flags {
    #[arg(long, default_value_t = 256)]
    hidden: usize,
    #[arg(long, default_value_t = 12)]
    layers: usize,
    #[arg(long, default_value_t = 4096)]
    vocabulary: usize,
    /// Completions of one prompt.
    #[arg(long, default_value_t = 32)]
    completions: usize,
    /// Tokens of the prompt and of each completion.
    #[arg(long, default_value_t = 128)]
    tokens: usize,
    /// Keeps what enters each layer only.
    #[arg(long)]
    recompute: bool,
}

fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    let config = shape(&flags);
    let base = Decoder::frozen(&config, &Weights::random(&config, 1, &Device::Cpu)?)?;
    let settings = LoraConfig::default();
    let lora = Lora::new(&config, settings.clone(), 2, &Device::Cpu)?;
    let ids =
        |seed: usize| (0..flags.tokens).map(|i| ((seed * 7919 + i * 104_729) % flags.vocabulary) as u32).collect();
    let completions = (1..=flags.completions).map(ids).collect();
    let group = PromptGroup { prompt: ids(0), completions };
    let keep = if flags.recompute { Keep::LayerInputs } else { Keep::Everything };
    let (before, begun) = (peak_rss_bytes(), Instant::now());
    let decoder = base.with_adapter(&lora)?;
    let pass = decoder.forward_keeping(&[group], 1.0, keep)?;
    let slopes = vec![-1.0; pass.tokens().elem_count()];
    let gradients = pass.backward_from(&slopes)?;
    let seconds = begun.elapsed().as_secs_f64();
    let load = Load {
        rows: 0,
        prompt_tokens: flags.tokens,
        new_tokens: flags.tokens,
        batch_tokens: flags.tokens * (flags.completions + 1),
    };
    let estimate = Footprint::of_training(&config, &settings, load, keep);
    let mib = |bytes: u64| bytes >> 20;
    println!(
        "{flags:?}: {} tokens, peak {} MiB above the base's {} MiB, estimated {} MiB, {seconds:.2} s, {} gradients",
        load.batch_tokens,
        mib(peak_rss_bytes() - before),
        mib(before),
        mib(estimate.total()),
        gradients.len()
    );
    Ok(())
}

fn shape(flags: &Flags) -> ModelConfig {
    ModelConfig {
        model_type: "llama".to_owned(),
        hidden_size: flags.hidden,
        intermediate_size: flags.hidden * 8 / 3,
        layers: vec![LayerConfig::PLAIN; flags.layers],
        heads: 8,
        kv_heads: 2,
        head_dim: flags.hidden / 8,
        rms_norm_eps: 1e-5,
        rope: Rope::plain(10_000.0),
        local_rope: None,
        options: Options::llama(flags.hidden / 8),
        tie_word_embeddings: true,
        vocab_size: flags.vocabulary,
        max_position_embeddings: 2 * flags.tokens,
        bos_token_id: None,
        eos_token_ids: vec![1],
    }
}
