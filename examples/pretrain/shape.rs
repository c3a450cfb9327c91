//! The shape of the small models that are made from nothing.

use pelton::model::{LayerConfig, ModelConfig, Options, Rope};

/// A Llama of some 3 million parameters: 6 layers of width 224, 8 heads on 2 key-value heads.
pub fn shape(vocab_size: usize, max_position_embeddings: usize) -> ModelConfig {
    ModelConfig {
        model_type: "llama".to_owned(),
        hidden_size: 224,
        intermediate_size: 576,
        layers: vec![LayerConfig::PLAIN; 6],
        heads: 8,
        kv_heads: 2,
        head_dim: 28,
        rms_norm_eps: 1e-5,
        rope: Rope::plain(10_000.0),
        local_rope: None,
        options: Options::llama(28),
        tie_word_embeddings: true,
        vocab_size,
        max_position_embeddings,
        bos_token_id: Some(0),
        eos_token_ids: vec![1],
    }
}
