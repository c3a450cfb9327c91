//! Hugging Face's `config.json` to [`ModelConfig`]: what the decoder needs to know, checked before a weight is read.
//!
//! Old configurations (`rope_theta`, `rope_scaling`) and those of transformers 5 (`rope_parameters`) are both read.
//! Families differ in options of one decoder, never in code of their own; a field that asks for what the
//! decoder does not do is an error here, because a model that runs slightly wrong is worse than one that does not load.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::error::{Error, Result};

/// The values of `model_type` that [`ModelConfig::parse`] accepts.
pub const SUPPORTED_MODEL_TYPES: &[&str] = &["llama"];

/// The shape and the options of a decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The family, as in `model_type`.
    pub model_type: String,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Number of decoder layers.
    pub layers: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head; not always `hidden_size / heads`.
    pub head_dim: usize,
    /// Added to the mean square in every RMS norm.
    pub rms_norm_eps: f64,
    /// Rotary position embedding.
    pub rope: Rope,
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
}

/// Rotary position embedding: base frequency and, for Llama 3, the stretching of its low frequencies.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// The base of the frequencies.
    pub theta: f64,
    /// Llama 3's stretching, where the configuration asks for it.
    pub llama3: Option<Llama3Rope>,
}

/// Llama 3's frequency-dependent stretching of RoPE (Hugging Face `rope_type: llama3`).
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Llama3Rope {
    /// By how much low frequencies are divided.
    pub factor: f64,
    /// Wavelengths above `original / low_freq_factor` are stretched in full.
    pub low_freq_factor: f64,
    /// Wavelengths below `original / high_freq_factor` stay as they are.
    pub high_freq_factor: f64,
    /// Context in tokens of the model before it was stretched.
    pub original_max_position_embeddings: f64,
}

impl ModelConfig {
    /// Reads a `config.json`; `path` is only named in errors.
    ///
    /// # Errors
    /// [`Error::Json`], [`Error::UnsupportedModelType`], [`Error::Field`].
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let json = |source| Error::Json { path: path.to_owned(), source };
        let kind: Kind = serde_json::from_str(text).map_err(json)?;
        if !SUPPORTED_MODEL_TYPES.contains(&kind.model_type.as_str()) {
            let found = kind.model_type;
            return Err(Error::UnsupportedModelType { path: path.to_owned(), found, supported: SUPPORTED_MODEL_TYPES });
        }
        let raw: Raw = serde_json::from_str(text).map_err(json)?;
        raw.into_config(kind.model_type, path)
    }

    /// The configuration as `config.json`, readable by transformers.
    pub fn to_json(&self) -> String {
        let mut rope = serde_json::json!({ "rope_type": "default", "rope_theta": self.rope.theta });
        if let Some(l) = &self.rope.llama3 {
            rope = serde_json::json!({
                "rope_type": "llama3", "rope_theta": self.rope.theta, "factor": l.factor,
                "low_freq_factor": l.low_freq_factor, "high_freq_factor": l.high_freq_factor,
                "original_max_position_embeddings": l.original_max_position_embeddings as u64,
            });
        }
        let value = serde_json::json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": self.model_type,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.layers,
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
        format!("{value:#}\n")
    }

    /// Every weight of the model by its Hugging Face name, with its shape.
    pub fn weight_shapes(&self) -> Vec<(String, Vec<usize>)> {
        let (d, f) = (self.hidden_size, self.intermediate_size);
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let mut shapes = vec![("model.embed_tokens.weight".to_owned(), vec![self.vocab_size, d])];
        for layer in 0..self.layers {
            let mut push = |name: &str, shape: &[usize]| {
                shapes.push((format!("model.layers.{layer}.{name}.weight"), shape.to_vec()));
            };
            push("input_layernorm", &[d]);
            push("self_attn.q_proj", &[q, d]);
            push("self_attn.k_proj", &[kv, d]);
            push("self_attn.v_proj", &[kv, d]);
            push("self_attn.o_proj", &[d, q]);
            push("post_attention_layernorm", &[d]);
            push("mlp.gate_proj", &[f, d]);
            push("mlp.up_proj", &[f, d]);
            push("mlp.down_proj", &[d, f]);
        }
        shapes.push(("model.norm.weight".to_owned(), vec![d]));
        if !self.tie_word_embeddings {
            shapes.push(("lm_head.weight".to_owned(), vec![self.vocab_size, d]));
        }
        shapes
    }

    /// Number of parameters.
    pub fn parameters(&self) -> usize {
        self.weight_shapes().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }
}

impl Rope {
    /// The angle per position of each pair of channels: `head_dim / 2` values.
    pub fn inverse_frequencies(&self, head_dim: usize) -> Vec<f32> {
        (0..head_dim / 2)
            .map(|i| 1.0 / self.theta.powf((2 * i) as f64 / head_dim as f64))
            .map(|frequency| self.llama3.as_ref().map_or(frequency, |l| l.stretch(frequency)) as f32)
            .collect()
    }
}

impl Llama3Rope {
    fn stretch(&self, frequency: f64) -> f64 {
        let wavelength = 2.0 * std::f64::consts::PI / frequency;
        let turns = self.original_max_position_embeddings / wavelength;
        if turns < self.low_freq_factor {
            frequency / self.factor
        } else if turns > self.high_freq_factor {
            frequency
        } else {
            let smooth = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor);
            (1.0 - smooth) * frequency / self.factor + smooth * frequency
        }
    }
}

#[derive(Deserialize)]
struct Kind {
    model_type: String,
}

/// The fields of the file; everything that it does not list is ignored, as transformers does.
#[derive(Deserialize)]
struct Raw {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    #[serde(default = "default_rms_norm_eps")]
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    rope_scaling: Option<Value>,
    rope_parameters: Option<Value>,
    #[serde(default)]
    tie_word_embeddings: bool,
    vocab_size: usize,
    #[serde(default = "default_max_position_embeddings")]
    max_position_embeddings: usize,
    bos_token_id: Option<u32>,
    eos_token_id: Option<OneOrMany>,
    #[serde(default = "default_hidden_act")]
    hidden_act: String,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

fn default_rms_norm_eps() -> f64 {
    1e-6
}

fn default_max_position_embeddings() -> usize {
    2048
}

fn default_hidden_act() -> String {
    "silu".to_owned()
}

impl Raw {
    fn into_config(self, model_type: String, path: &Path) -> Result<ModelConfig> {
        let kv_heads = self.num_key_value_heads.unwrap_or(self.num_attention_heads);
        self.check(kv_heads, path)?;
        let rope = self.rope(path)?;
        let eos_token_ids = match self.eos_token_id {
            None => Vec::new(),
            Some(OneOrMany::One(id)) => vec![id],
            Some(OneOrMany::Many(ids)) => ids,
        };
        Ok(ModelConfig {
            model_type,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            layers: self.num_hidden_layers,
            heads: self.num_attention_heads,
            kv_heads,
            head_dim: self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads),
            rms_norm_eps: self.rms_norm_eps,
            rope,
            tie_word_embeddings: self.tie_word_embeddings,
            vocab_size: self.vocab_size,
            max_position_embeddings: self.max_position_embeddings,
            bos_token_id: self.bos_token_id,
            eos_token_ids,
        })
    }

    fn check(&self, kv_heads: usize, path: &Path) -> Result<()> {
        let positive = [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", kv_heads),
            ("vocab_size", self.vocab_size),
        ];
        for (field, value) in positive {
            require(path, field, value > 0, value, "a positive number")?;
        }
        let divides = self.num_attention_heads.is_multiple_of(kv_heads);
        require(path, "num_key_value_heads", divides, kv_heads, "a divisor of num_attention_heads")?;
        match self.head_dim {
            Some(dim) => require(path, "head_dim", dim > 0 && dim.is_multiple_of(2), dim, "an even number")?,
            None => {
                let fits = self.hidden_size.is_multiple_of(2 * self.num_attention_heads);
                let expected = "an even multiple of num_attention_heads where head_dim is absent";
                require(path, "hidden_size", fits, self.hidden_size, expected)?;
            }
        }
        require(path, "hidden_act", self.hidden_act == "silu", &self.hidden_act, "silu")?;
        require(path, "attention_bias", !self.attention_bias, self.attention_bias, "false")?;
        require(path, "mlp_bias", !self.mlp_bias, self.mlp_bias, "false")
    }

    fn rope(&self, path: &Path) -> Result<Rope> {
        let from = self.rope_parameters.as_ref().or(self.rope_scaling.as_ref()).filter(|value| !value.is_null());
        let inner = from.and_then(|value| value.get("rope_theta")).and_then(Value::as_f64);
        let theta = inner.or(self.rope_theta).unwrap_or(10_000.0);
        let kind = from.and_then(|value| value.get("rope_type").or(value.get("type"))).and_then(Value::as_str);
        match (kind.unwrap_or("default"), from) {
            ("llama3", Some(value)) => {
                let json = |source| Error::Json { path: path.to_owned(), source };
                let llama3 = serde_json::from_value(value.clone()).map_err(json)?;
                Ok(Rope { theta, llama3: Some(llama3) })
            }
            ("default", _) => Ok(Rope { theta, llama3: None }),
            (other, _) => Err(Error::Field {
                path: path.to_owned(),
                field: "rope_type",
                found: other.to_owned(),
                expected: "default or llama3".to_owned(),
            }),
        }
    }
}

fn require(path: &Path, field: &'static str, holds: bool, found: impl ToString, expected: &str) -> Result<()> {
    if holds {
        return Ok(());
    }
    Err(Error::Field { path: path.to_owned(), field, found: found.to_string(), expected: expected.to_owned() })
}
