//! Memory is estimated before it is taken: the estimate grows as it must, and a round that does not fit names what helps.

use pelton::config::{Explore, Lora, Optimize};
use pelton::model::{Footprint, Keep, LayerConfig, Load, LoraConfig, ModelConfig, Options, Rope};
use pelton::tao::memory::check;

/// The shape of a 0.5 B Qwen2.5.
fn qwen() -> ModelConfig {
    ModelConfig {
        model_type: "qwen2".to_owned(),
        hidden_size: 896,
        intermediate_size: 4864,
        layers: vec![LayerConfig::PLAIN; 24],
        heads: 14,
        kv_heads: 2,
        head_dim: 64,
        rms_norm_eps: 1e-6,
        rope: Rope::plain(1e6),
        local_rope: None,
        options: Options::llama(64),
        tie_word_embeddings: true,
        vocab_size: 151_936,
        max_position_embeddings: 32_768,
        bos_token_id: None,
        eos_token_ids: vec![1],
    }
}

#[test]
fn the_estimate_is_what_the_shapes_say() {
    let load = Load { rows: 64, prompt_tokens: 500, new_tokens: 256, batch_tokens: 8192 };
    let (config, lora) = (qwen(), LoraConfig::default());
    let whole = Footprint::of_training(&config, &lora, load, Keep::Everything);
    let again = Footprint::of_training(&config, &lora, load, Keep::LayerInputs);
    // A layer keeps 2·896 + (14 + 2·2)·64 + 14·64 + 14 + 2·4864 = 13,582 floats a token; 24 layers of 8,192 tokens.
    let layers = 13_582 * 24 * 8192 * 4;
    assert!(whole.activations > layers && whole.activations < layers / 10 * 12, "{whole:?}");
    assert!(again.activations < whole.activations / 4, "{again:?}");
    assert_eq!(whole.logits, 3 * (64 << 20));
    // Keys and values of 756 tokens in 64 rows, 24 layers, 2 heads of 64, twice for what is not compacted yet.
    let cache = Footprint::of_exploring(&config, load).activations;
    assert_eq!(cache, 2 * 64 * 756 * 24 * 2 * 128 * 4);
}

#[test]
fn a_round_that_does_not_fit_says_what_would() {
    let (explore, lora) = (Explore { samples: 16, ..Explore::default() }, Lora::default());
    let try_with = |optimize: &Optimize, gib: f64| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bytes of a few GiB")]
        let available = (gib * f64::from(1 << 30)) as u64;
        check(&qwen(), 500, &lora, (&explore, optimize), available).map_err(|e| e.to_string())
    };
    let default = Optimize::default();
    assert_eq!(try_with(&default, 20.0), Ok(()));
    let short = try_with(&default, 10.0).unwrap_err();
    assert!(
        short.contains("training needs about") && short.contains("set optimize.batch_tokens_max = 4096"),
        "{short}"
    );
    // What it says to do does it.
    assert_eq!(try_with(&Optimize { batch_tokens_max: 4096, ..default.clone() }, 10.0), Ok(()));
    let short = try_with(&default, 4.0).unwrap_err();
    assert!(short.contains("10.0 GiB") || short.contains("4.0 GiB can be had"), "{short}");
    let scarce = try_with(&default, 0.5).unwrap_err();
    assert!(scarce.contains("exploring needs about") && scarce.contains("smaller base"), "{scarce}");
    let rows = try_with(&default, 3.3).unwrap_err();
    assert!(rows.contains("set "), "{rows}");
}
