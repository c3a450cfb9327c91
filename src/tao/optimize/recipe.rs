//! Answers that are given, as candidates: what labelled fine-tuning trains on, the recipe that TAO is to beat.

use super::Error;
use crate::domain::{Candidate, Finish, Prompt, PromptHash};
use crate::model::{Model, PromptGroup};
use crate::tao::explore;
use std::collections::HashMap;

/// Prompts computed at once for their answers' log-probabilities.
const PROMPTS_PER_CALL: usize = 32;

/// Given answers as the trainer takes them.
#[derive(Debug, Clone, Default)]
pub struct Labelled {
    /// Each prompt's tokens, up to where the answer begins.
    pub prompts: HashMap<PromptHash, Vec<u32>>,
    /// One answer a prompt.
    pub candidates: Vec<Candidate>,
}

/// Prompts with their right answers, as tokens and candidates for [`super::fine_tune`]; those that do not fit the
/// model's positions are left out. Log-probabilities are the base's, so that the curve's KL is the way from it.
///
/// # Errors
/// What the model or its chat template refuses.
pub fn labelled(model: &Model, answers: &[(Prompt, String)]) -> Result<Labelled, Error> {
    let end = explore::end_token(model)?;
    let (mut prompts, mut candidates) = (HashMap::new(), Vec::new());
    for (prompt, text) in answers {
        let mut tokens = model.encode(text)?;
        tokens.extend(end);
        let asked = explore::chat_tokens(model, &prompt.messages)?;
        if asked.len() + tokens.len() > model.config().max_position_embeddings {
            continue;
        }
        prompts.insert(prompt.hash, asked);
        candidates.push(Candidate {
            prompt: prompt.hash,
            sample: 0,
            strategy: "label".to_owned(),
            seed: 0,
            tokens,
            text: text.clone(),
            logprobs: Vec::new(),
            finish: Finish::Stop,
            reward: None,
            components: Vec::new(),
        });
    }
    for some in candidates.chunks_mut(PROMPTS_PER_CALL) {
        let group =
            |c: &Candidate| PromptGroup { prompt: prompts[&c.prompt].clone(), completions: vec![c.tokens.clone()] };
        let packed: Vec<PromptGroup> = some.iter().map(group).collect();
        for (candidate, logprobs) in some.iter_mut().zip(model.decoder().logprobs(&packed, 1.0)?) {
            candidate.logprobs = logprobs;
        }
    }
    Ok(Labelled { prompts, candidates })
}
