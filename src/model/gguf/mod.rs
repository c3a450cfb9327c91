//! GGUF files (the format of llama.cpp and Ollama) to the same configuration, weights and tokenizer as a Hugging Face folder.
//!
//! Quantised tensors become f32 when they are read: training needs them so. Nothing is guessed: an architecture, a key or a
//! tensor that is not understood is an error, because a model that runs slightly wrong is worse than one that does not load.
//! Source: the GGUF specification of ggml, and `convert_hf_to_gguf.py` of llama.cpp for what a converter changes.

mod metadata;
mod names;
mod tokenizer;

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Tensor};
use tokenizers::Tokenizer;

use super::config::{ModelConfig, RopeScaling};
use super::error::{Error, Result};
use super::weights::{Tensors, Weights};
use metadata::Metadata;

/// What one file holds.
pub(super) struct Gguf {
    pub(super) config: ModelConfig,
    pub(super) weights: Weights,
    pub(super) tokenizer: Tokenizer,
    pub(super) chat_template: Option<String>,
    pub(super) bos_token: Option<String>,
    pub(super) eos_token: Option<String>,
}

/// Reads a whole file.
///
/// # Errors
/// [`Error::Gguf`] and those of a folder: each names the file, the key or the tensor.
pub(super) fn read(path: &Path, device: &Device) -> Result<Gguf> {
    let source = |source| Error::Read { path: path.to_owned(), source };
    let mut file = BufReader::new(File::open(path).map_err(source)?);
    let damaged = |e: candle_core::Error| Error::Gguf { path: path.to_owned(), reason: e.to_string() };
    let content = Content::read(&mut file).map_err(damaged)?;
    let metadata = Metadata { values: &content.metadata, path };
    let vocabulary = content.tensor_infos.get("token_embd.weight").map_or(0, |info| info.shape.dims()[0]);
    let mut config = metadata.config(vocabulary, content.tensor_infos.contains_key("output.weight"))?;
    // The converter has added the one to Gemma's norms already.
    config.options.norm_offset = false;
    let mut tensors = Tensors::new();
    for name in content.tensor_infos.keys() {
        let tensor = content.tensor(&mut file, name, device).and_then(|t| t.dequantize(device)).map_err(damaged)?;
        if name == "rope_freqs.weight" {
            let divisors = tensor.to_vec1::<f32>()?;
            config.rope.scaling = RopeScaling::Divisors(divisors.into_iter().map(f64::from).collect());
            continue;
        }
        let unknown =
            || metadata.wrong(&format!("tensor {name} is not understood; is the file of another architecture?"));
        let hugging_face = names::hugging_face(name, &config).ok_or_else(unknown)?;
        let tensor = if names::is_interleaved(name, &config) { halves(&tensor, name, &config)? } else { tensor };
        tensors.insert(hugging_face, tensor);
    }
    Ok(Gguf {
        weights: Weights::new(tensors, &config, path)?,
        tokenizer: tokenizer::read(&metadata, &content)?,
        chat_template: metadata.text("tokenizer.chat_template")?,
        bos_token: metadata.token("tokenizer.ggml.bos_token_id")?,
        eos_token: metadata.token("tokenizer.ggml.eos_token_id")?,
        config,
    })
}

/// Reads the tokenizer of a file, and none of its weights.
///
/// # Errors
/// [`Error::Gguf`] with the key that is wrong.
pub(super) fn read_tokenizer(path: &Path) -> Result<Tokenizer> {
    let source = |source| Error::Read { path: path.to_owned(), source };
    let damaged = |e: candle_core::Error| Error::Gguf { path: path.to_owned(), reason: e.to_string() };
    let content = Content::read(&mut BufReader::new(File::open(path).map_err(source)?)).map_err(damaged)?;
    tokenizer::read(&Metadata { values: &content.metadata, path }, &content)
}

/// Undoes the converter's permutation of Llama's queries and keys: pairs of channels that turn together stand side by side in
/// GGUF, half a head apart in Hugging Face's layout.
fn halves(tensor: &Tensor, name: &str, config: &ModelConfig) -> Result<Tensor> {
    let heads = if name.contains("attn_q") { config.heads } else { config.kv_heads };
    let (rows, columns) = tensor.dims2()?;
    let apart = tensor.reshape((heads, rows / heads / 2, 2, columns))?.transpose(1, 2)?;
    Ok(apart.contiguous()?.reshape((rows, columns))?)
}
