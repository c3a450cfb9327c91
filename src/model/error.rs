//! What can go wrong with a model: each variant names the file or the value at fault and what would be right.

use std::path::PathBuf;

/// A failure of loading, adapting, running or saving a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of the model or adapter folder cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A JSON file does not parse or lacks a field.
    #[error("{path} is not the JSON that is expected")]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// The configuration names a family that this decoder does not implement.
    #[error("{path}: model_type {found:?} is not supported; supported are {}", supported.join(", "))]
    UnsupportedModelType {
        /// The configuration file.
        path: PathBuf,
        /// The name found.
        found: String,
        /// All supported names.
        supported: &'static [&'static str],
    },
    /// A field has a value that this decoder does not implement or that contradicts another field.
    #[error("{path}: field {field} is {found}, expected {expected}")]
    Field {
        /// The file.
        path: PathBuf,
        /// The field's name.
        field: &'static str,
        /// The value found.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// The folder has no tokenizer.
    #[error("{folder} has no tokenizer: expected a tokenizer.json (Hugging Face tokenizers format)")]
    MissingTokenizer {
        /// The model folder.
        folder: PathBuf,
    },
    /// The folder has no weights.
    #[error("{folder} has no weights: expected model.safetensors, model.safetensors.index.json or one .gguf file")]
    MissingWeights {
        /// The model folder.
        folder: PathBuf,
    },
    /// A weight file lacks a tensor.
    #[error("{path} has no tensor {name} (expected shape {expected:?})")]
    MissingTensor {
        /// The file or folder.
        path: PathBuf,
        /// The tensor's name.
        name: String,
        /// The shape that it should have.
        expected: Vec<usize>,
    },
    /// A tensor has another shape than the configuration implies.
    #[error("{path}: tensor {name} has shape {found:?}, expected {expected:?}")]
    Shape {
        /// The file or folder.
        path: PathBuf,
        /// The tensor's name.
        name: String,
        /// The shape found.
        found: Vec<usize>,
        /// The shape that the configuration implies.
        expected: Vec<usize>,
    },
    /// A weight file holds a tensor of another kind than floats.
    #[error("{path}: tensor {name} has type {found}, expected F32, F16 or BF16")]
    Dtype {
        /// The file or folder.
        path: PathBuf,
        /// The tensor's name.
        name: String,
        /// The type found.
        found: String,
    },
    /// An adapter holds a tensor that nothing in the base model answers to.
    #[error("{path}: tensor {name} does not belong to this base model or to target_modules")]
    UnexpectedTensor {
        /// The adapter file.
        path: PathBuf,
        /// The tensor's name.
        name: String,
    },
    /// A safetensors file is damaged.
    #[error("{path} is not a safetensors file")]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// Why.
        source: safetensors::SafeTensorError,
    },
    /// A GGUF file is damaged, or holds what is not understood.
    #[error("{path}: {reason}")]
    Gguf {
        /// The file.
        path: PathBuf,
        /// The key or tensor, and what would be right.
        reason: String,
    },
    /// The tokenizer file is damaged, or a text cannot be encoded or decoded.
    #[error("tokenizer {path}: {reason}")]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// The tokenizer's own words.
        reason: String,
    },
    /// The folder has no chat template and a chat was to be encoded.
    #[error(
        "{folder} has no chat template: expected chat_template.jinja or the field chat_template in tokenizer_config.json"
    )]
    MissingChatTemplate {
        /// The model folder.
        folder: PathBuf,
    },
    /// The chat template does not parse, or refuses these messages.
    #[error("chat template of {folder} failed")]
    ChatTemplate {
        /// The model folder.
        folder: PathBuf,
        /// The template engine's words.
        source: minijinja::Error,
    },
    /// A value given by the caller is outside its range.
    #[error("{what} is {found}, expected {expected}")]
    Argument {
        /// Which value.
        what: &'static str,
        /// What was given.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// A tensor operation failed: a device fault, memory, or a broken invariant of ours.
    #[error("tensor operation failed")]
    Tensor(#[from] candle_core::Error),
}

/// The result of everything in this module.
pub type Result<T> = std::result::Result<T, Error>;
