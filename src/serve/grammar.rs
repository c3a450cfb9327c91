//! Answers in the form that a JSON Schema prescribes, token by token, by `llguidance`.

use crate::model::{Constraint, Model};
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory, token_bytes_from_tokenizer_json};
use serde_json::{Value, json};
use std::sync::{Arc, OnceLock};

/// White space between JSON's tokens: one blank or none. A model that is at a loss would go on with blanks for ever, and an
/// answer for a program needs no indentation.
const WHITE_SPACE: &str = r"\x20";

/// Compiles schemas for a model's tokens; the tokens are put in order when the first one is asked for.
pub(super) struct Grammars {
    base: Arc<Model>,
    factory: OnceLock<Result<ParserFactory, String>>,
}

impl Grammars {
    pub(super) fn new(base: Arc<Model>) -> Self {
        Self { base, factory: OnceLock::new() }
    }

    /// What samples under a schema may say.
    ///
    /// # Errors
    /// It is no schema, uses what is not supported, or the model's tokens cannot be read as bytes.
    pub(super) fn compile(&self, mut schema: Value) -> Result<Grammar, String> {
        let factory = self.factory.get_or_init(|| factory(&self.base)).as_ref().map_err(Clone::clone)?;
        if let Some(fields) = schema.as_object_mut() {
            fields.insert("x-guidance".to_owned(), json!({"whitespace_pattern": WHITE_SPACE}));
        }
        let parser = factory.create_parser(TopLevelGrammar::from_json_schema(schema));
        let matcher = Matcher::new(parser);
        match matcher.get_error() {
            Some(error) => Err(error),
            None => Ok(Grammar { matcher, stop: self.base.stop_tokens().to_vec() }),
        }
    }
}

fn factory(base: &Model) -> Result<ParserFactory, String> {
    let tokenizer: Value = serde_json::from_str(&base.tokenizer_json().map_err(|e| e.to_string())?)
        .map_err(|e| format!("the tokenizer is not JSON: {e}"))?;
    let words = token_bytes_from_tokenizer_json(&tokenizer).map_err(|e| e.to_string())?;
    let end = *base.stop_tokens().first().ok_or("the model has no token that ends an answer")?;
    let size = u32::try_from(words.len()).map_err(|e| e.to_string())?;
    let tokens: TokEnv = Arc::new(ApproximateTokEnv::new(TokTrie::from(&TokRxInfo::new(size, end), &words)));
    let mut factory = ParserFactory::new_simple(&tokens).map_err(|e| e.to_string())?;
    factory.quiet();
    Ok(factory)
}

/// One sample under a schema; a clone is another at the same place.
pub(super) struct Grammar {
    matcher: Matcher,
    stop: Vec<u32>,
}

impl Clone for Grammar {
    fn clone(&self) -> Self {
        Self { matcher: self.matcher.deep_clone(), stop: self.stop.clone() }
    }
}

impl Constraint for Grammar {
    fn restrict(&mut self, logits: &mut [f32]) -> Result<(), String> {
        let allowed = self.matcher.compute_mask_or_eos().map_err(|e| e.to_string())?;
        // The model may end an answer with any of its stop tokens, where it may end it.
        let ends = self.stop.first().is_some_and(|end| allowed.is_allowed(*end));
        for (token, logit) in logits.iter_mut().enumerate() {
            let token = token as u32;
            let may = token < allowed.len() as u32 && allowed.is_allowed(token);
            if !(may || ends && self.stop.contains(&token)) {
                *logit = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }

    fn take(&mut self, token: u32) -> Result<(), String> {
        self.matcher.consume_token(token).map_err(|e| e.to_string())
    }
}
