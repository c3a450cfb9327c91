//! GGUF's keys, and the `config.json` that they amount to.

use std::collections::HashMap;
use std::path::Path;

use candle_core::quantized::gguf_file::Value;
use serde_json::json;

use crate::model::config::ModelConfig;
use crate::model::error::{Error, Result};

/// Values of `general.architecture` and the family of each.
const ARCHITECTURES: &[(&str, &str)] =
    &[("llama", "llama"), ("qwen2", "qwen2"), ("qwen3", "qwen3"), ("gemma3", "gemma3_text")];

/// The keys of one file.
#[derive(Clone, Copy)]
pub(super) struct Metadata<'a> {
    pub(super) values: &'a HashMap<String, Value>,
    pub(super) path: &'a Path,
}

impl Metadata<'_> {
    /// The configuration; `vocabulary` is the embedding's height, `has_head` whether the output layer has weights of its own.
    pub(super) fn config(&self, vocabulary: usize, has_head: bool) -> Result<ModelConfig> {
        let found = self.text("general.architecture")?.ok_or_else(|| self.wrong("general.architecture is missing"))?;
        let Some((architecture, family)) = ARCHITECTURES.iter().find(|(name, _)| *name == found) else {
            let known: Vec<&str> = ARCHITECTURES.iter().map(|(name, _)| *name).collect();
            let reason = format!("general.architecture is {found:?}; supported are {}", known.join(", "));
            return Err(self.wrong(&reason));
        };
        let key = |name: &str| format!("{architecture}.{name}");
        let need =
            |name: &str| self.number(&key(name))?.ok_or_else(|| self.wrong(&format!("{} is missing", key(name))));
        let heads = need("attention.head_count")?;
        let rope = self.rope(architecture)?;
        let config = json!({
            "model_type": family,
            "hidden_size": need("embedding_length")? as u64,
            "intermediate_size": need("feed_forward_length")? as u64,
            "num_hidden_layers": need("block_count")? as u64,
            "num_attention_heads": heads as u64,
            "num_key_value_heads": self.number(&key("attention.head_count_kv"))?.unwrap_or(heads) as u64,
            "head_dim": self.number(&key("attention.key_length"))?.map_or_else(
                || need("embedding_length").map(|width| (width / heads) as u64),
                |width| Ok(width as u64),
            )?,
            "rms_norm_eps": need("attention.layer_norm_rms_epsilon")?,
            "rope_parameters": rope,
            "tie_word_embeddings": !has_head,
            "vocab_size": vocabulary,
            "max_position_embeddings": need("context_length")? as u64,
            // In the files of Gemma 3 every sixth layer sees everything, and its queries are scaled by their width.
            "sliding_window": self.number(&key("attention.sliding_window"))?.map(|window| window as u64),
            "query_pre_attn_scalar": self.number(&key("attention.key_length"))?,
            "bos_token_id": self.number("tokenizer.ggml.bos_token_id")?.map(|id| id as u64),
            "eos_token_id": self.ends()?,
        });
        ModelConfig::parse(&config.to_string(), self.path)
    }

    fn rope(&self, architecture: &str) -> Result<serde_json::Value> {
        let theta = self.number(&format!("{architecture}.rope.freq_base"))?;
        let scaling = self.text(&format!("{architecture}.rope.scaling.type"))?;
        let factor = self.number(&format!("{architecture}.rope.scaling.factor"))?;
        let mut global = json!({ "rope_type": scaling.filter(|kind| kind != "none").unwrap_or("default".to_owned()) });
        if let Some(theta) = theta {
            global["rope_theta"] = theta.into();
        }
        if let Some(factor) = factor {
            global["factor"] = factor.into();
        }
        // The converter drops the base of Gemma's layers with a window; it is 10,000 in all of the family.
        Ok(match architecture {
            "gemma3" => json!({ "full_attention": global, "sliding_attention": { "rope_theta": 10_000.0 } }),
            _ => global,
        })
    }

    /// The tokens that end a text or a turn.
    fn ends(&self) -> Result<Vec<u64>> {
        let mut ends = Vec::new();
        for key in ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"] {
            ends.extend(self.number(key)?.map(|id| id as u64));
        }
        Ok(ends)
    }

    /// A number of any type.
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.values.get(key) else { return Ok(None) };
        let number = match value {
            Value::U8(v) => f64::from(*v),
            Value::I8(v) => f64::from(*v),
            Value::U16(v) => f64::from(*v),
            Value::I16(v) => f64::from(*v),
            Value::U32(v) => f64::from(*v),
            Value::I32(v) => f64::from(*v),
            Value::U64(v) => *v as f64,
            Value::I64(v) => *v as f64,
            // Through its shortest text: 1e-6 and not 9.999999974752427e-7, as config.json has it.
            Value::F32(v) => v.to_string().parse().unwrap_or_else(|_| f64::from(*v)),
            Value::F64(v) => *v,
            _ => return Err(self.wrong(&format!("{key} is no number"))),
        };
        Ok(Some(number))
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<String>> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(self.wrong(&format!("{key} is no text"))),
        }
    }

    /// A switch; what is silent is `otherwise`.
    pub(super) fn switch(&self, key: &str, otherwise: bool) -> Result<bool> {
        match self.values.get(key) {
            None => Ok(otherwise),
            Some(Value::Bool(value)) => Ok(*value),
            Some(_) => Err(self.wrong(&format!("{key} is neither true nor false"))),
        }
    }

    /// A list of anything; empty where it is missing.
    pub(super) fn list(&self, key: &str) -> Result<&[Value]> {
        match self.values.get(key) {
            None => Ok(&[]),
            Some(Value::Array(values)) => Ok(values),
            Some(_) => Err(self.wrong(&format!("{key} is no list"))),
        }
    }

    /// The text of the token whose id a key holds.
    pub(super) fn token(&self, key: &str) -> Result<Option<String>> {
        let Some(id) = self.number(key)? else { return Ok(None) };
        match self.list("tokenizer.ggml.tokens")?.get(id as usize) {
            Some(Value::String(text)) => Ok(Some(text.clone())),
            _ => Err(self.wrong(&format!("{key} is {id}, and there is no such token"))),
        }
    }

    pub(super) fn wrong(&self, reason: &str) -> Error {
        Error::Gguf { path: self.path.to_owned(), reason: reason.to_owned() }
    }
}
