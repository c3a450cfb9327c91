//! GGUF's names of tensors and Hugging Face's.

use crate::model::config::ModelConfig;

/// The name that Hugging Face has for a tensor; none where nothing of ours answers to it.
pub(super) fn hugging_face(name: &str, config: &ModelConfig) -> Option<String> {
    match name {
        "token_embd.weight" => return Some("model.embed_tokens.weight".to_owned()),
        "output_norm.weight" => return Some("model.norm.weight".to_owned()),
        "output.weight" => return Some("lm_head.weight".to_owned()),
        _ => {}
    }
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let (part, kind) = rest.rsplit_once('.')?;
    let before_mlp =
        if config.options.sandwich_norms { "pre_feedforward_layernorm" } else { "post_attention_layernorm" };
    let module = match part {
        "attn_norm" => "input_layernorm",
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_output" => "self_attn.o_proj",
        "attn_q_norm" => "self_attn.q_norm",
        "attn_k_norm" => "self_attn.k_norm",
        "post_attention_norm" => "post_attention_layernorm",
        "ffn_norm" => before_mlp,
        "post_ffw_norm" => "post_feedforward_layernorm",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        _ => return None,
    };
    matches!(kind, "weight" | "bias").then(|| format!("model.layers.{layer}.{module}.{kind}"))
}

/// Whether the converter has permuted a tensor's rows: queries and keys of the architecture `llama`, Mistral included.
pub(super) fn is_interleaved(name: &str, config: &ModelConfig) -> bool {
    config.model_type == "llama" && (name.ends_with("attn_q.weight") || name.ends_with("attn_k.weight"))
}
