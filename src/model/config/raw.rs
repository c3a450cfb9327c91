//! The fields of `config.json` as files have them: those of old versions of transformers (`rope_theta`, `rope_scaling`,
//! `sliding_window_pattern`) and of version 5 (`rope_parameters`, `layer_types`), with each family's own defaults.

use std::path::Path;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::{Activation, LayerConfig, ModelConfig, Options, Rope, RopeScaling, Rotary, SUPPORTED_MODEL_TYPES};
use crate::model::error::{Error, Result};

pub(super) fn parse(text: &str, path: &Path) -> Result<ModelConfig> {
    let json = |source| Error::Json { path: path.to_owned(), source };
    let kind: Kind = serde_json::from_str(text).map_err(json)?;
    let Some(family) = Family::of(&kind.model_type) else {
        let found = kind.model_type;
        return Err(Error::UnsupportedModelType { path: path.to_owned(), found, supported: SUPPORTED_MODEL_TYPES });
    };
    let raw: Raw = serde_json::from_str(text).map_err(json)?;
    Reader { raw, family, path }.config(kind.model_type)
}

#[derive(Deserialize)]
struct Kind {
    model_type: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
    SmolLm3,
    Gemma3,
}

/// What transformers assumes where a file is silent.
struct Defaults {
    head_dim: Option<usize>,
    positions: usize,
    theta: f64,
    tied: bool,
    kv_heads: Option<usize>,
    window: Option<usize>,
}

impl Family {
    fn of(model_type: &str) -> Option<Self> {
        Some(match model_type {
            "llama" => Self::Llama,
            "mistral" => Self::Mistral,
            "qwen2" => Self::Qwen2,
            "qwen3" => Self::Qwen3,
            "smollm3" => Self::SmolLm3,
            "gemma3_text" => Self::Gemma3,
            _ => return None,
        })
    }

    fn defaults(self) -> Defaults {
        let llama =
            Defaults { head_dim: None, positions: 2_048, theta: 10_000.0, tied: false, kv_heads: None, window: None };
        match self {
            Self::Llama => llama,
            Self::Mistral => Defaults { positions: 131_072, kv_heads: Some(8), window: Some(4_096), ..llama },
            Self::Qwen2 => Defaults { positions: 32_768, window: Some(4_096), ..llama },
            Self::Qwen3 => Defaults { positions: 32_768, head_dim: Some(128), window: Some(4_096), ..llama },
            Self::SmolLm3 => Defaults { positions: 32_768, theta: 2_000_000.0, tied: true, kv_heads: Some(4), ..llama },
            Self::Gemma3 => Defaults {
                head_dim: Some(256),
                positions: 131_072,
                theta: 1_000_000.0,
                tied: true,
                kv_heads: Some(4),
                window: Some(4_096),
            },
        }
    }
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
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    rope_local_base_freq: Option<f64>,
    rope_scaling: Option<Value>,
    rope_parameters: Option<Value>,
    tie_word_embeddings: Option<bool>,
    vocab_size: usize,
    max_position_embeddings: Option<usize>,
    bos_token_id: Option<u32>,
    eos_token_id: Option<OneOrMany>,
    hidden_act: Option<String>,
    hidden_activation: Option<String>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    /// Whether the field is there matters: null is no window, absence is the family's.
    #[serde(default, deserialize_with = "present")]
    sliding_window: Option<Option<usize>>,
    use_sliding_window: Option<bool>,
    max_window_layers: Option<usize>,
    layer_types: Option<Vec<String>>,
    sliding_window_pattern: Option<usize>,
    #[serde(rename = "_sliding_window_pattern")]
    private_sliding_window_pattern: Option<usize>,
    no_rope_layers: Option<Vec<u8>>,
    no_rope_layer_interval: Option<usize>,
    query_pre_attn_scalar: Option<f64>,
    attn_logit_softcapping: Option<f64>,
    final_logit_softcapping: Option<f64>,
    use_bidirectional_attention: Option<bool>,
}

fn present<'de, D: Deserializer<'de>>(field: D) -> std::result::Result<Option<Option<usize>>, D::Error> {
    Option::deserialize(field).map(Some)
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

struct Reader<'a> {
    raw: Raw,
    family: Family,
    path: &'a Path,
}

impl Reader<'_> {
    fn config(&self, model_type: String) -> Result<ModelConfig> {
        let (raw, defaults) = (&self.raw, self.family.defaults());
        let kv_heads = raw.num_key_value_heads.or(defaults.kv_heads).unwrap_or(raw.num_attention_heads);
        self.check_shape(kv_heads)?;
        self.check_switches()?;
        let head_dim = raw.head_dim.or(defaults.head_dim).unwrap_or(raw.hidden_size / raw.num_attention_heads);
        let layers = self.layers()?;
        let (rope, local_rope) = self.ropes(&layers)?;
        Ok(ModelConfig {
            model_type,
            hidden_size: raw.hidden_size,
            intermediate_size: raw.intermediate_size,
            heads: raw.num_attention_heads,
            kv_heads,
            head_dim,
            rms_norm_eps: raw.rms_norm_eps.unwrap_or(1e-6),
            rope,
            local_rope,
            layers,
            tie_word_embeddings: raw.tie_word_embeddings.unwrap_or(defaults.tied),
            vocab_size: raw.vocab_size,
            max_position_embeddings: raw.max_position_embeddings.unwrap_or(defaults.positions),
            bos_token_id: raw.bos_token_id,
            eos_token_ids: match &raw.eos_token_id {
                None => Vec::new(),
                Some(OneOrMany::One(id)) => vec![*id],
                Some(OneOrMany::Many(ids)) => ids.clone(),
            },
            options: self.options(head_dim)?,
        })
    }

    fn options(&self, head_dim: usize) -> Result<Options> {
        let (raw, gemma) = (&self.raw, self.family == Family::Gemma3);
        let attention_bias = raw.attention_bias.unwrap_or(false);
        let plain = Options::llama(head_dim);
        Ok(Options {
            activation: self.activation()?,
            qkv_bias: attention_bias || self.family == Family::Qwen2,
            output_bias: attention_bias && self.family != Family::Qwen2,
            mlp_bias: raw.mlp_bias.unwrap_or(false),
            qk_norm: gemma || self.family == Family::Qwen3,
            norm_offset: gemma,
            sandwich_norms: gemma,
            embedding_scale: if gemma { (raw.hidden_size as f32).sqrt() } else { 1.0 },
            attention_scale: match gemma {
                true => raw.query_pre_attn_scalar.unwrap_or(256.0).powf(-0.5) as f32,
                false => plain.attention_scale,
            },
        })
    }

    fn activation(&self) -> Result<Activation> {
        let gemma = self.family == Family::Gemma3;
        let (field, value) = match gemma {
            true => ("hidden_activation", self.raw.hidden_activation.as_deref().unwrap_or("gelu_pytorch_tanh")),
            false => ("hidden_act", self.raw.hidden_act.as_deref().unwrap_or("silu")),
        };
        match value {
            "silu" | "swish" => Ok(Activation::Silu),
            "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
            other => Err(self.wrong(field, other, "silu or gelu_pytorch_tanh")),
        }
    }

    /// What each layer attends to.
    fn layers(&self) -> Result<Vec<LayerConfig>> {
        let raw = &self.raw;
        if let Some(types) = &raw.layer_types {
            let fits = types.len() == raw.num_hidden_layers;
            self.require("layer_types", fits, types.len(), "one entry a layer")?;
        }
        if let Some(flags) = &raw.no_rope_layers {
            let fits = flags.len() == raw.num_hidden_layers;
            self.require("no_rope_layers", fits, flags.len(), "one entry a layer")?;
        }
        (0..raw.num_hidden_layers)
            .map(|layer| {
                let sliding = self.slides(layer)?;
                let rotary = match (self.has_rope(layer), sliding && self.family == Family::Gemma3) {
                    (false, _) => Rotary::Off,
                    (true, true) => Rotary::Local,
                    (true, false) => Rotary::Global,
                };
                Ok(LayerConfig { rotary, window: if sliding { Some(self.window()?) } else { None } })
            })
            .collect()
    }

    fn window(&self) -> Result<usize> {
        let window = self.raw.sliding_window.unwrap_or(self.family.defaults().window).unwrap_or(0);
        self.require("sliding_window", window > 0, window, "a positive number where layers have a window")?;
        Ok(window)
    }

    /// Whether a layer sees a window only.
    fn slides(&self, layer: usize) -> Result<bool> {
        let raw = &self.raw;
        if let Some(types) = &raw.layer_types {
            return match types[layer].as_str() {
                "sliding_attention" => Ok(true),
                "full_attention" => Ok(false),
                other => Err(self.wrong("layer_types", other, "full_attention or sliding_attention")),
            };
        }
        let used = raw.use_sliding_window.unwrap_or(false);
        Ok(match self.family {
            Family::Llama => false,
            Family::Mistral => raw.sliding_window.unwrap_or(Some(4_096)).is_some(),
            Family::Qwen2 | Family::Qwen3 => used && layer >= raw.max_window_layers.unwrap_or(28),
            Family::SmolLm3 => used && !self.has_rope(layer),
            Family::Gemma3 => {
                let pattern = raw.sliding_window_pattern.or(raw.private_sliding_window_pattern).unwrap_or(6);
                !(layer + 1).is_multiple_of(pattern.max(1))
            }
        })
    }

    /// Whether a layer turns queries and keys: all but SmolLM3's every fourth do.
    fn has_rope(&self, layer: usize) -> bool {
        let raw = &self.raw;
        match (&raw.no_rope_layers, self.family) {
            (_, family) if family != Family::SmolLm3 => true,
            (Some(flags), _) => flags[layer] != 0,
            (None, _) => !(layer + 1).is_multiple_of(raw.no_rope_layer_interval.unwrap_or(4).max(1)),
        }
    }

    /// The rotary embedding of layers that see everything, and the one of those with a window where it differs.
    fn ropes(&self, layers: &[LayerConfig]) -> Result<(Rope, Option<Rope>)> {
        let raw = &self.raw;
        let scaling = raw.rope_parameters.as_ref().or(raw.rope_scaling.as_ref()).filter(|value| !value.is_null());
        let theta = raw.rope_theta.unwrap_or(self.family.defaults().theta);
        let of_kind = |kind: &str| scaling.and_then(|value| value.get(kind));
        let global = self.rope(of_kind("full_attention").or(scaling), theta)?;
        if !layers.iter().any(|layer| layer.rotary == Rotary::Local) {
            return Ok((global, None));
        }
        let local = raw.rope_local_base_freq.unwrap_or(10_000.0);
        Ok((global, Some(self.rope(of_kind("sliding_attention"), local)?)))
    }

    fn rope(&self, parameters: Option<&Value>, theta: f64) -> Result<Rope> {
        let theta = parameters.and_then(|p| p.get("rope_theta")).and_then(Value::as_f64).unwrap_or(theta);
        let kind = parameters.and_then(|p| p.get("rope_type").or(p.get("type"))).and_then(Value::as_str);
        let scaling = match (kind.unwrap_or("default"), parameters) {
            ("default", _) => RopeScaling::None,
            ("linear", Some(value)) => {
                let factor = value.get("factor").and_then(Value::as_f64).unwrap_or(0.0);
                self.require("factor", factor > 0.0, factor, "a positive number for rope_type linear")?;
                RopeScaling::Linear { factor }
            }
            ("llama3", Some(value)) => {
                let json = |source| Error::Json { path: self.path.to_owned(), source };
                RopeScaling::Llama3(serde_json::from_value(value.clone()).map_err(json)?)
            }
            (other, _) => return Err(self.wrong("rope_type", other, "default, linear or llama3")),
        };
        Ok(Rope { theta, scaling })
    }

    fn check_shape(&self, kv_heads: usize) -> Result<()> {
        let raw = &self.raw;
        let positive = [
            ("hidden_size", raw.hidden_size),
            ("intermediate_size", raw.intermediate_size),
            ("num_hidden_layers", raw.num_hidden_layers),
            ("num_attention_heads", raw.num_attention_heads),
            ("num_key_value_heads", kv_heads),
            ("vocab_size", raw.vocab_size),
        ];
        for (field, value) in positive {
            self.require(field, value > 0, value, "a positive number")?;
        }
        let divides = raw.num_attention_heads.is_multiple_of(kv_heads);
        self.require("num_key_value_heads", divides, kv_heads, "a divisor of num_attention_heads")?;
        match raw.head_dim.or(self.family.defaults().head_dim) {
            Some(dim) => self.require("head_dim", dim > 0 && dim.is_multiple_of(2), dim, "an even number"),
            None => {
                let fits = raw.hidden_size.is_multiple_of(2 * raw.num_attention_heads);
                let expected = "an even multiple of num_attention_heads where head_dim is absent";
                self.require("hidden_size", fits, raw.hidden_size, expected)
            }
        }
    }

    /// Refuses what the decoder does not do.
    fn check_switches(&self) -> Result<()> {
        let raw = &self.raw;
        for (field, cap) in [
            ("attn_logit_softcapping", raw.attn_logit_softcapping),
            ("final_logit_softcapping", raw.final_logit_softcapping),
        ] {
            self.require(field, cap.is_none(), cap.unwrap_or_default(), "null")?;
        }
        let both_ways = raw.use_bidirectional_attention.unwrap_or(false);
        self.require("use_bidirectional_attention", !both_ways, both_ways, "false")
    }

    fn require(&self, field: &'static str, holds: bool, found: impl ToString, expected: &str) -> Result<()> {
        if holds { Ok(()) } else { Err(self.wrong(field, found, expected)) }
    }

    fn wrong(&self, field: &'static str, found: impl ToString, expected: &str) -> Error {
        let (path, found, expected) = (self.path.to_owned(), found.to_string(), expected.to_owned());
        Error::Field { path, field, found, expected }
    }
}
