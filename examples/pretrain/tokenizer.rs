//! A small byte-level BPE, trained on the generated text alone.

use serde_json::json;
use std::path::Path;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};

/// Opens a text.
pub const BOS: &str = "<|bos|>";
/// Ends an answer.
pub const EOS: &str = "<|end|>";
/// Opens a user's turn.
pub const USER: &str = "<|user|>";
/// Opens an answer.
pub const ASSISTANT: &str = "<|assistant|>";

/// Words with their underscores in one piece, so that `customer_id` is one token; digits apart from letters.
const WORDS: &str = r" ?[\p{L}_]+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+";

/// Trains on `texts` and writes `tokenizer.json` and `tokenizer_config.json`.
pub fn train(texts: &[String], vocabulary: usize, folder: &Path) -> anyhow::Result<Tokenizer> {
    let fail = |e: tokenizers::Error| anyhow::anyhow!("tokenizer: {e}");
    let specials = [BOS, EOS, USER, ASSISTANT].map(|text| AddedToken::from(text, true));
    let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    let trainer = BpeTrainer::builder()
        .vocab_size(vocabulary)
        .min_frequency(2)
        .show_progress(false)
        .special_tokens(specials.to_vec())
        .initial_alphabet(alphabet.into_iter().collect())
        .build();
    let mut tokenizer = Tokenizer::new(BPE::default());
    let words =
        Split::new(SplitPattern::Regex(WORDS.to_owned()), SplitDelimiterBehavior::Isolated, false).map_err(fail)?;
    let bytes = ByteLevel::new(false, true, false);
    tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![words.into(), bytes.into()])));
    tokenizer.with_decoder(Some(ByteLevel::new(false, true, false)));
    let mut trainer = TrainerWrapper::from(trainer);
    tokenizer.train(&mut trainer, texts.iter().map(String::as_str)).map_err(fail)?;
    std::fs::create_dir_all(folder)?;
    tokenizer.save(folder.join("tokenizer.json"), false).map_err(fail)?;
    let settings = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": EOS,
        "clean_up_tokenization_spaces": false,
        "model_max_length": 256,
        "chat_template": format!(
            "{{{{ bos_token }}}}{{% for message in messages %}}{{% if message['role'] == 'assistant' %}}{ASSISTANT}{{{{ message['content'] }}}}{{{{ eos_token }}}}{{% else %}}{USER}{{{{ message['content'] }}}}{{% endif %}}{{% endfor %}}{{% if add_generation_prompt %}}{ASSISTANT}{{% endif %}}"
        ),
    });
    std::fs::write(folder.join("tokenizer_config.json"), format!("{settings:#}\n"))?;
    Ok(tokenizer)
}
