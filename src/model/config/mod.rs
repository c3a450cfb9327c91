//! Hugging Face's `config.json` to [`ModelConfig`]: what the decoder needs to know, checked before a weight is read.
//!
//! Families differ in options of one decoder, never in code of their own; a field that asks for what the
//! decoder does not do is an error here, because a model that runs slightly wrong is worse than one that does not load.

mod raw;
mod rope;

pub use rope::{Llama3Rope, Rope, RopeScaling};

use std::path::Path;

use super::error::{Error, Result};

/// The values of `model_type` that [`ModelConfig::parse`] accepts.
pub const SUPPORTED_MODEL_TYPES: &[&str] = &["llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma3_text"];

/// The shape and the options of a decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The family, as in `model_type`.
    pub model_type: String,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head; not always `hidden_size / heads`.
    pub head_dim: usize,
    /// Added to the mean square in every RMS norm.
    pub rms_norm_eps: f64,
    /// Rotary position embedding of layers that see everything.
    pub rope: Rope,
    /// The one of layers with a window, where the family has another for them.
    pub local_rope: Option<Rope>,
    /// What each layer attends to.
    pub layers: Vec<LayerConfig>,
    /// The output layer is the embedding.
    pub tie_word_embeddings: bool,
    /// Number of tokens.
    pub vocab_size: usize,
    /// Longest sequence in tokens that the model was made for.
    pub max_position_embeddings: usize,
    /// Token that opens a text, where the family has one.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text.
    pub eos_token_ids: Vec<u32>,
    /// In what else the families differ.
    pub options: Options,
}

/// What one layer's attention does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerConfig {
    /// How queries and keys are turned to their positions.
    pub rotary: Rotary,
    /// How many of the last positions a query sees, itself included; all where there is no window.
    pub window: Option<usize>,
}

impl LayerConfig {
    /// Sees everything, turned by [`ModelConfig::rope`].
    pub const PLAIN: Self = Self { rotary: Rotary::Global, window: None };
}

/// Which rotary embedding a layer uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotary {
    /// [`ModelConfig::rope`].
    Global,
    /// [`ModelConfig::local_rope`].
    Local,
    /// None (SmolLM3's NoPE layers, arXiv 2501.18795).
    Off,
}

/// In what families differ beside their shapes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// The gate's function in the feed-forward layer.
    pub activation: Activation,
    /// Queries, keys and values are projected with a bias.
    pub qkv_bias: bool,
    /// The attention's output is projected with a bias.
    pub output_bias: bool,
    /// The feed-forward layer's three projections have biases.
    pub mlp_bias: bool,
    /// Each head's query and key is normed before it is turned.
    pub qk_norm: bool,
    /// Norms multiply by one more than their weight (Gemma's safetensors).
    pub norm_offset: bool,
    /// What attention and feed-forward give is normed before it is added to the residual stream.
    pub sandwich_norms: bool,
    /// Embeddings are multiplied by this.
    pub embedding_scale: f32,
    /// Attention scores are multiplied by this.
    pub attention_scale: f32,
}

impl Options {
    /// Those of a Llama with heads of `head_dim` channels.
    #[must_use]
    pub fn llama(head_dim: usize) -> Self {
        Self {
            activation: Activation::Silu,
            qkv_bias: false,
            output_bias: false,
            mlp_bias: false,
            qk_norm: false,
            norm_offset: false,
            sandwich_norms: false,
            embedding_scale: 1.0,
            attention_scale: 1.0 / (head_dim as f32).sqrt(),
        }
    }
}

/// The function of the feed-forward layer's gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(x)`.
    Silu,
    /// The tanh form of GELU (Hugging Face `gelu_pytorch_tanh`).
    GeluTanh,
}

impl ModelConfig {
    /// Reads a `config.json`; `path` is only named in errors.
    ///
    /// # Errors
    /// [`Error::Json`], [`Error::UnsupportedModelType`], [`Error::Field`].
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        raw::parse(text, path)
    }

    /// The `config.json` of a Llama, readable by transformers: for models that are made here.
    ///
    /// # Errors
    /// [`Error::Argument`] for another family: its folder has a `config.json` already.
    pub fn to_json(&self) -> Result<String> {
        if self.model_type != "llama" || self.options != Options::llama(self.head_dim) {
            let (what, found) = ("model_type of a model to write", self.model_type.clone());
            return Err(Error::Argument { what, found, expected: "llama without biases".to_owned() });
        }
        let rope = match &self.rope.scaling {
            RopeScaling::None => serde_json::json!({ "rope_type": "default", "rope_theta": self.rope.theta }),
            RopeScaling::Linear { factor } => {
                serde_json::json!({ "rope_type": "linear", "rope_theta": self.rope.theta, "factor": factor })
            }
            RopeScaling::Divisors(_) => {
                let (what, found) = ("rope scaling of a model to write", "a list of divisors".to_owned());
                return Err(Error::Argument {
                    what,
                    found,
                    expected: "one that config.json has a name for".to_owned(),
                });
            }
            RopeScaling::Llama3(l) => serde_json::json!({
                "rope_type": "llama3", "rope_theta": self.rope.theta, "factor": l.factor,
                "low_freq_factor": l.low_freq_factor, "high_freq_factor": l.high_freq_factor,
                "original_max_position_embeddings": l.original_max_position_embeddings as u64,
            }),
        };
        let value = serde_json::json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": self.model_type,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.layers.len(),
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope.theta,
            "rope_parameters": rope,
            "tie_word_embeddings": self.tie_word_embeddings,
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.max_position_embeddings,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": self.eos_token_ids,
            "attention_bias": false,
            "mlp_bias": false,
        });
        Ok(format!("{value:#}\n"))
    }

    /// Every weight of the model by its Hugging Face name, with its shape.
    #[must_use]
    pub fn weight_shapes(&self) -> Vec<(String, Vec<usize>)> {
        let (d, f, o) = (self.hidden_size, self.intermediate_size, self.options);
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let mut shapes = vec![("model.embed_tokens.weight".to_owned(), vec![self.vocab_size, d])];
        for layer in 0..self.layers.len() {
            let mut norm = |name: &str, width: usize| {
                shapes.push((format!("model.layers.{layer}.{name}.weight"), vec![width]));
            };
            norm("input_layernorm", d);
            norm("post_attention_layernorm", d);
            if o.sandwich_norms {
                norm("pre_feedforward_layernorm", d);
                norm("post_feedforward_layernorm", d);
            }
            if o.qk_norm {
                norm("self_attn.q_norm", self.head_dim);
                norm("self_attn.k_norm", self.head_dim);
            }
            let mut linear = |name: &str, out: usize, input: usize, bias: bool| {
                shapes.push((format!("model.layers.{layer}.{name}.weight"), vec![out, input]));
                if bias {
                    shapes.push((format!("model.layers.{layer}.{name}.bias"), vec![out]));
                }
            };
            linear("self_attn.q_proj", q, d, o.qkv_bias);
            linear("self_attn.k_proj", kv, d, o.qkv_bias);
            linear("self_attn.v_proj", kv, d, o.qkv_bias);
            linear("self_attn.o_proj", d, q, o.output_bias);
            linear("mlp.gate_proj", f, d, o.mlp_bias);
            linear("mlp.up_proj", f, d, o.mlp_bias);
            linear("mlp.down_proj", d, f, o.mlp_bias);
        }
        shapes.push(("model.norm.weight".to_owned(), vec![d]));
        if !self.tie_word_embeddings {
            shapes.push(("lm_head.weight".to_owned(), vec![self.vocab_size, d]));
        }
        shapes
    }

    /// Number of parameters.
    #[must_use]
    pub fn parameters(&self) -> usize {
        self.weight_shapes().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }
}
