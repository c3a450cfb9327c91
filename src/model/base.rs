//! A base model from a Hugging Face folder or a GGUF file, with its tokenizer and chat template: what other stages hold.

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::Device;
use serde_json::Value;
use tokenizers::Tokenizer;

use super::chat::{ChatMessage, ChatTemplate};
use super::config::ModelConfig;
use super::decoder::Decoder;
use super::error::{Error, Result};
use super::gguf;
use super::weights::{Weights, content_hash, file_hash};

/// A loaded base model. Its weights never change: adapters are applied by [`Decoder::with_adapter`].
#[derive(Debug, Clone)]
pub struct Model {
    folder: PathBuf,
    content_hash: String,
    decoder: Decoder,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    stop: Vec<u32>,
}

impl Model {
    /// Loads `config.json`, the safetensors weights, `tokenizer.json` and, where there is one, the chat template. A path that
    /// is a `.gguf` file, or a folder with one and without `config.json`, is read as GGUF; a `chat_template.jinja` and a
    /// `tokenizer.json` beside it take the place of its own.
    ///
    /// # Errors
    /// Each names the file, the field or the tensor, and what would be right.
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        if let Some(file) = gguf_file(folder) {
            return Self::load_gguf(&file, device);
        }
        let config = read_config(folder)?;
        let tokenizer = read_tokenizer(folder)?;
        let settings = read_json(&folder.join("tokenizer_config.json"))?.unwrap_or(Value::Null);
        let template = read_template(folder, &settings)?;
        let weights = Weights::read(folder, &config, device)?;
        Ok(Self {
            folder: folder.to_owned(),
            content_hash: content_hash(folder)?,
            decoder: Decoder::frozen(&config, &weights)?,
            stop: stop_tokens(folder, &config)?,
            tokenizer,
            template,
        })
    }

    fn load_gguf(file: &Path, device: &Device) -> Result<Self> {
        let folder = file.parent().unwrap_or(Path::new("."));
        let gguf = gguf::read(file, device)?;
        let source = match read_text(&folder.join(CHAT_TEMPLATE))? {
            Some(source) => Some(source),
            None => gguf.chat_template,
        };
        let parse = |source| ChatTemplate::parse(source, folder, gguf.bos_token, gguf.eos_token);
        Ok(Self {
            folder: folder.to_owned(),
            content_hash: file_hash(file)?,
            decoder: Decoder::frozen(&gguf.config, &gguf.weights)?,
            stop: gguf.config.eos_token_ids.clone(),
            tokenizer: if folder.join(TOKENIZER).is_file() { read_tokenizer(folder)? } else { gguf.tokenizer },
            template: source.map(parse).transpose()?,
        })
    }

    /// The configuration.
    pub fn config(&self) -> &ModelConfig {
        self.decoder.config()
    }

    /// The frozen base: generates, scores, and takes adapters.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// Where it was loaded from.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// SHA-256 over configuration and weights, in hexadecimal: an adapter belongs to the base with this hash.
    pub fn content_hash(&self) -> &str {
        &self.content_hash
    }

    /// The tokens that end an answer.
    pub fn stop_tokens(&self) -> &[u32] {
        &self.stop
    }

    /// The prompt of a conversation as tokens, up to where the assistant begins to answer.
    ///
    /// # Errors
    /// [`Error::MissingChatTemplate`], [`Error::ChatTemplate`] and [`Error::Tokenizer`].
    pub fn encode_chat(&self, messages: &[ChatMessage]) -> Result<Vec<u32>> {
        let missing = || Error::MissingChatTemplate { folder: self.folder.clone() };
        let text = self.template.as_ref().ok_or_else(missing)?.render(messages)?;
        self.encode(&text)
    }

    /// As [`Model::encode_chat`], for messages and tools as OpenAI's API has them.
    ///
    /// # Errors
    /// As [`Model::encode_chat`].
    pub fn encode_chat_json(
        &self,
        messages: &[serde_json::Value],
        tools: Option<&serde_json::Value>,
    ) -> Result<Vec<u32>> {
        let missing = || Error::MissingChatTemplate { folder: self.folder.clone() };
        let text = self.template.as_ref().ok_or_else(missing)?.render_json(messages, tools)?;
        self.encode(&text)
    }

    /// A text as tokens, without adding special ones; those written in the text are recognised.
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.tokenizer.encode(text, false).map_err(|e| self.tokenizer_error(&*e))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of tokens, special tokens left out.
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.tokenizer.decode(ids, true).map_err(|e| self.tokenizer_error(&*e))
    }

    /// The tokenizer as the text of a `tokenizer.json`, whatever file it came from.
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn tokenizer_json(&self) -> Result<String> {
        self.tokenizer.to_string(false).map_err(|e| self.tokenizer_error(&*e))
    }

    fn tokenizer_error(&self, reason: &dyn std::error::Error) -> Error {
        Error::Tokenizer { path: self.folder.join(TOKENIZER), reason: reason.to_string() }
    }
}

/// A model's tokenizer without its weights, to count by.
#[derive(Debug)]
pub struct TokenCounter(Tokenizer);

impl TokenCounter {
    /// Reads the tokenizer of what [`Model::load`] reads.
    ///
    /// # Errors
    /// As [`Model::load`]'s for a tokenizer, and for a GGUF file's metadata.
    pub fn load(base: &Path) -> Result<Self> {
        match gguf_file(base) {
            Some(file) if !base.join(TOKENIZER).is_file() => gguf::read_tokenizer(&file).map(Self),
            _ => read_tokenizer(base).map(Self),
        }
    }

    /// How many tokens [`Model::encode`] gives for a text.
    ///
    /// # Errors
    /// Why the tokenizer could not read it.
    pub fn count(&self, text: &str) -> std::result::Result<usize, String> {
        self.0.encode_fast(text, false).map(|encoding| encoding.len()).map_err(|e| e.to_string())
    }
}

const TOKENIZER: &str = "tokenizer.json";
const CHAT_TEMPLATE: &str = "chat_template.jinja";

/// The GGUF file that a path means: itself, or the only one in a folder that is no Hugging Face folder.
fn gguf_file(path: &Path) -> Option<PathBuf> {
    let is_gguf = |path: &Path| path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) && path.is_file();
    if is_gguf(path) {
        return Some(path.to_owned());
    }
    if path.join("config.json").exists() {
        return None;
    }
    let mut files = fs::read_dir(path).ok()?.flatten().map(|entry| entry.path()).filter(|path| is_gguf(path));
    files.next().filter(|_| files.next().is_none())
}

pub(super) fn read_config(folder: &Path) -> Result<ModelConfig> {
    let path = folder.join("config.json");
    let text = fs::read_to_string(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
    ModelConfig::parse(&text, &path)
}

pub(super) fn read_tokenizer(folder: &Path) -> Result<Tokenizer> {
    let path = folder.join(TOKENIZER);
    if !path.is_file() {
        return Err(Error::MissingTokenizer { folder: folder.to_owned() });
    }
    Tokenizer::from_file(&path).map_err(|e| Error::Tokenizer { path, reason: e.to_string() })
}

pub(super) fn read_template(folder: &Path, settings: &Value) -> Result<Option<ChatTemplate>> {
    let written = read_text(&folder.join(CHAT_TEMPLATE))?;
    let source = written.or_else(|| settings.get("chat_template").and_then(template_source));
    let token = |name| settings.get(name).and_then(token_text);
    source.map(|source| ChatTemplate::parse(source, folder, token("bos_token"), token("eos_token"))).transpose()
}

/// A template as it is, or the one called `default` of a list.
fn template_source(value: &Value) -> Option<String> {
    let named = |template: &&Value| template.get("name").and_then(Value::as_str) == Some("default");
    match value {
        Value::String(source) => Some(source.clone()),
        Value::Array(list) => list.iter().find(named)?.get("template")?.as_str().map(str::to_owned),
        _ => None,
    }
}

/// A token as its text, or as an object that holds it.
fn token_text(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
}

/// The end tokens of `config.json` and `generation_config.json` together: chat models list theirs in the latter only.
fn stop_tokens(folder: &Path, config: &ModelConfig) -> Result<Vec<u32>> {
    let mut stop = config.eos_token_ids.clone();
    let generation = read_json(&folder.join("generation_config.json"))?.unwrap_or(Value::Null);
    let ids = match generation.get("eos_token_id") {
        Some(Value::Array(ids)) => ids.clone(),
        Some(id) => vec![id.clone()],
        None => Vec::new(),
    };
    stop.extend(ids.iter().filter_map(Value::as_u64).filter_map(|id| u32::try_from(id).ok()));
    stop.sort_unstable();
    stop.dedup();
    Ok(stop)
}

/// A JSON file, where it exists.
pub(super) fn read_json(path: &Path) -> Result<Option<Value>> {
    let json = |source| Error::Json { path: path.to_owned(), source };
    read_text(path)?.map(|text| serde_json::from_str(&text).map_err(json)).transpose()
}

/// A text file, where it exists.
fn read_text(path: &Path) -> Result<Option<String>> {
    if !path.is_file() {
        return Ok(None);
    }
    fs::read_to_string(path).map(Some).map_err(|source| Error::Read { path: path.to_owned(), source })
}
