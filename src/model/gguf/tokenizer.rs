//! The tokenizer inside a GGUF file.
//!
//! Byte-level BPE (`gpt2`: Qwen, Llama 3) is candle's reader's. SentencePiece vocabularies (`llama`: Llama 2, Mistral, Gemma) come
//! without merges; they are built again from the pieces and their scores as transformers does: every split of a piece into two
//! others is a merge, those of higher score first.

use std::collections::HashMap;

use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::quantized::tokenizer::TokenizerFromGguf as _;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::Replace;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::{AddedToken, Tokenizer};

use super::metadata::Metadata;
use crate::model::error::Result;

/// GGUF's kinds of tokens (`tokenizer.ggml.token_type`).
const NORMAL: u32 = 1;
const UNKNOWN: u32 = 2;
const CONTROL: u32 = 3;
const USER_DEFINED: u32 = 4;

/// What SentencePiece writes for a space.
const SPACE: &str = "\u{2581}";

struct Piece {
    text: String,
    score: f32,
    kind: u32,
}

pub(super) fn read(metadata: &Metadata<'_>, content: &Content) -> Result<Tokenizer> {
    match metadata.text("tokenizer.ggml.model")?.as_deref() {
        Some("gpt2") => Tokenizer::from_gguf(content).map_err(|e| metadata.wrong(&e.to_string())),
        Some("llama") => sentence_piece(metadata),
        other => {
            let found = other.unwrap_or("missing");
            Err(metadata.wrong(&format!("tokenizer.ggml.model is {found}; supported are gpt2 and llama")))
        }
    }
}

fn sentence_piece(metadata: &Metadata<'_>) -> Result<Tokenizer> {
    let failed = |e: tokenizers::Error| metadata.wrong(&e.to_string());
    let pieces = pieces(metadata)?;
    let vocabulary: Vocab = vocabulary(&pieces).into_iter().map(|(text, id)| (text.to_owned(), id)).collect();
    let mut builder = BPE::builder().vocab_and_merges(vocabulary, merges(&pieces)).fuse_unk(true).byte_fallback(true);
    if let Some(unknown) = pieces.iter().find(|piece| piece.kind == UNKNOWN) {
        builder = builder.unk_token(unknown.text.clone());
    }
    let mut tokenizer = Tokenizer::new(builder.build().map_err(failed)?);
    let prefixed = metadata.switch("tokenizer.ggml.add_space_prefix", true)?;
    if prefixed {
        // As transformers does: the space goes before a text, not before each part of it that follows a special token.
        tokenizer.with_pre_tokenizer(Some(Metaspace::new('\u{2581}', PrependScheme::First, false)));
    } else {
        tokenizer.with_normalizer(Some(Replace::new(" ", SPACE).map_err(failed)?)).map_err(failed)?;
    }
    let back = Replace::new(SPACE, " ").map_err(failed)?;
    let mut decoders = vec![back.into(), ByteFallback::default().into(), Fuse::new().into()];
    if prefixed {
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    tokenizer.with_decoder(Some(Decoders::new(decoders)));
    let of_kind = |wanted: &'static [u32], special: bool| {
        let chosen = pieces.iter().filter(move |piece| wanted.contains(&piece.kind));
        chosen.map(move |piece| AddedToken::from(piece.text.clone(), special).normalized(false)).collect::<Vec<_>>()
    };
    tokenizer.add_special_tokens(of_kind(&[UNKNOWN, CONTROL], true)).map_err(failed)?;
    tokenizer.add_tokens(of_kind(&[USER_DEFINED], false)).map_err(failed)?;
    Ok(tokenizer)
}

fn pieces(metadata: &Metadata<'_>) -> Result<Vec<Piece>> {
    let (texts, scores) = (metadata.list("tokenizer.ggml.tokens")?, metadata.list("tokenizer.ggml.scores")?);
    let kinds = metadata.list("tokenizer.ggml.token_type")?;
    if texts.is_empty() || texts.len() != scores.len() || texts.len() != kinds.len() {
        let (t, s, k) = (texts.len(), scores.len(), kinds.len());
        return Err(
            metadata.wrong(&format!("{t} tokens, {s} scores and {k} token types; as many of each are expected"))
        );
    }
    let piece = |((text, score), kind): ((&Value, &Value), &Value)| match (text, score, kind) {
        (Value::String(text), Value::F32(score), Value::I32(kind)) => {
            Ok(Piece { text: text.clone(), score: *score, kind: kind.unsigned_abs() })
        }
        _ => Err(metadata.wrong("a token is no text, its score no f32 or its type no i32")),
    };
    texts.iter().zip(scores).zip(kinds).map(piece).collect()
}

fn vocabulary(pieces: &[Piece]) -> HashMap<&str, u32> {
    pieces.iter().enumerate().map(|(id, piece)| (piece.text.as_str(), id as u32)).collect()
}

/// Every way to make a normal piece of two others, in the order in which transformers ranks them.
fn merges(pieces: &[Piece]) -> Vec<(String, String)> {
    let ids = vocabulary(pieces);
    let mut merges: Vec<(&str, &str, f32)> = Vec::new();
    for piece in pieces.iter().filter(|piece| piece.kind == NORMAL) {
        let splits = piece.text.char_indices().skip(1).map(|(at, _)| piece.text.split_at(at));
        let mut found: Vec<_> = splits.filter_map(|(l, r)| Some((*ids.get(l)?, *ids.get(r)?, l, r))).collect();
        found.sort_by_key(|(left, right, ..)| (*left, *right));
        merges.extend(found.into_iter().map(|(_, _, left, right)| (left, right, piece.score)));
    }
    // Higher scores first; among equals longer left parts, then longer right ones.
    let length = |text: &str| text.chars().count();
    merges.sort_by(|a, b| b.2.total_cmp(&a.2).then(length(b.0).cmp(&length(a.0))).then(length(b.1).cmp(&length(a.1))));
    merges.into_iter().map(|(left, right, _)| (left.to_owned(), right.to_owned())).collect()
}
