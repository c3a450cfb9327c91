//! A sequence classifier: a decoder of any family with a linear head on its last token, as transformers'
//! `…ForSequenceClassification` has it. What reward models are.
//!
//! Never trains.

use super::base::{read_config, read_json, read_template, read_tokenizer};
use super::chat::{ChatMessage, ChatTemplate};
use super::config::ModelConfig;
use super::decoder::Decoder;
use super::error::{Error, Result};
use super::weights::{Weights, read_folder};
use candle_core::{Device, Tensor};
use serde_json::Value;
use std::path::{Path, PathBuf};
use tokenizers::Tokenizer;

const HEAD: &str = "score.weight";

/// A loaded classifier.
#[derive(Debug, Clone)]
pub struct Classifier {
    folder: PathBuf,
    decoder: Decoder,
    /// `[labels, hidden]`.
    head: Tensor,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
}

impl Classifier {
    /// Loads `config.json`, the safetensors weights with `score.weight`, `tokenizer.json` and, where there is one, the chat
    /// template.
    ///
    /// # Errors
    /// Each names the file, the field or the tensor, and what would be right.
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        // A classifier has no output matrix; tied ones are made from the embedding, and never used here.
        let config = ModelConfig { tie_word_embeddings: true, ..read_config(folder)? };
        let mut tensors = read_folder(folder, device)?;
        let expected = vec![1, config.hidden_size];
        let missing =
            Error::MissingTensor { path: folder.to_owned(), name: HEAD.to_owned(), expected: expected.clone() };
        let head = tensors.remove(HEAD).ok_or(missing)?;
        if head.dims().len() != 2 || head.dims()[1] != config.hidden_size {
            let (path, found) = (folder.to_owned(), head.dims().to_vec());
            return Err(Error::Shape { path, name: HEAD.to_owned(), found, expected });
        }
        let weights = Weights::new(tensors, &config, folder)?;
        let settings = read_json(&folder.join("tokenizer_config.json"))?.unwrap_or(Value::Null);
        Ok(Self {
            folder: folder.to_owned(),
            decoder: Decoder::frozen(&config, &weights)?,
            head,
            tokenizer: read_tokenizer(folder)?,
            template: read_template(folder, &settings)?,
        })
    }

    /// Numbers that it gives a text.
    #[must_use]
    pub fn labels(&self) -> usize {
        self.head.dims()[0]
    }

    /// The longest text in tokens.
    #[must_use]
    pub fn positions(&self) -> usize {
        self.decoder.config().max_position_embeddings
    }

    /// A whole conversation as tokens, the assistant's last turn included.
    ///
    /// # Errors
    /// [`Error::MissingChatTemplate`], [`Error::ChatTemplate`] and [`Error::Tokenizer`].
    pub fn encode_conversation(&self, messages: &[ChatMessage]) -> Result<Vec<u32>> {
        let missing = || Error::MissingChatTemplate { folder: self.folder.clone() };
        let text = self.template.as_ref().ok_or_else(missing)?.render_whole(messages)?;
        let tokenizer = |e: tokenizers::Error| Error::Tokenizer { path: self.folder.clone(), reason: e.to_string() };
        Ok(self.tokenizer.encode(text, false).map_err(tokenizer)?.get_ids().to_vec())
    }

    /// The head's numbers for each text, `[labels]` each.
    ///
    /// # Errors
    /// An empty text, an unknown token id, a text longer than the model's positions.
    pub fn logits(&self, rows: &[Vec<u32>]) -> Result<Vec<Vec<f32>>> {
        let head = self.head.t()?;
        let hidden = self.decoder.last_hidden(rows)?;
        Ok(hidden.matmul(&head)?.to_vec2::<f32>()?)
    }
}
