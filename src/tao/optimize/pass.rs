//! One step's forward and backward passes, in micro-batches by tokens.
//!
//! A prompt is computed once for all of its responses, and rows are packed without padding, so that nothing is to be
//! gained from sorting by length. Promises that losses and gradients are those of the step as one batch, up to rounding.

use super::groups::{BaseLogprobs, Group};
use super::{Error, Loss, Task, count};
use crate::config::Optimize;
use crate::domain::PromptHash;
use crate::model::{Decoder, Keep, PromptGroup, Tensors};
use std::borrow::Cow;
use std::collections::HashMap;

/// What one step's forward and backward passes gave.
pub(super) struct Passed {
    pub(super) loss: f64,
    /// Schulman's k3 against the behaviour policy, mean over tokens, in nats.
    pub(super) kl: f64,
    /// Tokens that went through the model, prompts counted once a batch.
    pub(super) tokens: usize,
    pub(super) gradients: Tensors,
}

/// All micro-batches of one step; losses and gradients are those of the step as one batch.
pub(super) fn pass(
    decoder: &Decoder,
    members: &[&Group],
    prompts: &HashMap<PromptHash, Vec<u32>>,
    options: &Optimize,
    loss: &Loss,
) -> Result<Passed, Error> {
    let keep = if options.recompute_layers { Keep::LayerInputs } else { Keep::Everything };
    let scale = loss.scale(members);
    let mut passed = Passed { loss: 0.0, kl: 0.0, tokens: 0, gradients: Tensors::new() };
    let mut kl_tokens = 0.0;
    for batch in micro_batches(members, prompts, options.batch_tokens_max)? {
        let packed: Vec<PromptGroup> = batch.iter().map(|(group, prompt)| pack(group, prompt)).collect();
        passed.tokens += packed.iter().map(size).sum::<usize>();
        let forward = decoder.forward_keeping(&packed, 1.0, keep)?;
        let now: Vec<f32> = forward.tokens().to_vec1().map_err(crate::model::Error::from)?;
        let mut derivative = vec![0f32; now.len()];
        let mut ranges = forward.completions().iter();
        for (group, _) in &batch {
            let ranges: Vec<_> = ranges.by_ref().take(group.responses.len()).cloned().collect();
            let own: Vec<&[f32]> = ranges.iter().map(|range| &now[range.clone()]).collect();
            for ((share, response), range) in loss.shares(group, &own).iter().zip(&group.responses).zip(ranges) {
                passed.loss += share.loss / scale;
                for (slot, slope) in derivative[range.clone()].iter_mut().zip(&share.slopes) {
                    *slot = single(slope / scale);
                }
                let drift = now[range].iter().zip(&response.behaviour).map(|(now, then)| f64::from(*now) - then);
                passed.kl += response.weight * drift.map(|d| d.exp() - d - 1.0).sum::<f64>();
                kl_tokens += response.weight * count(response.tokens.len());
            }
        }
        accumulate(&mut passed.gradients, forward.backward_from(&derivative)?)?;
    }
    passed.kl /= kl_tokens.max(1.0);
    Ok(passed)
}

/// The log-probability of every candidate under the base, the adapter switched off; equal ones are computed once.
pub(super) fn base_logprobs(task: &Task<'_>, tokens_max: usize) -> Result<BaseLogprobs, Error> {
    let mut found = BaseLogprobs::new();
    let mut by_prompt: HashMap<PromptHash, Vec<&[u32]>> = HashMap::new();
    let mut order = Vec::new();
    for candidate in task.candidates {
        let distinct = by_prompt.entry(candidate.prompt).or_insert_with(|| {
            order.push(candidate.prompt);
            Vec::new()
        });
        if !distinct.contains(&candidate.tokens.as_slice()) {
            distinct.push(&candidate.tokens);
        }
    }
    let mut sums: HashMap<(PromptHash, &[u32]), f64> = HashMap::new();
    let mut filled: Vec<(PromptHash, &[u32])> = Vec::new();
    let mut packed: Vec<PromptGroup> = Vec::new();
    for (at, hash) in order.iter().enumerate() {
        let prompt = task.prompts.get(hash).ok_or(Error::UnknownPrompt(*hash))?;
        let completions = &by_prompt[hash];
        filled.extend(completions.iter().map(|tokens| (*hash, *tokens)));
        packed.push(PromptGroup {
            prompt: prompt.clone(),
            completions: completions.iter().map(|tokens| tokens.to_vec()).collect(),
        });
        if packed.iter().map(size).sum::<usize>() >= tokens_max || at + 1 == order.len() {
            let logprobs = task.model.decoder().logprobs(&packed, 1.0)?;
            let sum = |tokens: Vec<f32>| tokens.iter().map(|l| f64::from(*l)).sum::<f64>();
            sums.extend(filled.drain(..).zip(logprobs.into_iter().map(sum)));
            packed.clear();
        }
    }
    for candidate in task.candidates {
        let sum = sums.get(&(candidate.prompt, candidate.tokens.as_slice())).copied();
        found.extend(sum.map(|sum| ((candidate.prompt, candidate.sample), sum)));
    }
    Ok(found)
}

#[expect(clippy::cast_possible_truncation, reason = "the network computes in f32")]
fn single(value: f64) -> f32 {
    value as f32
}

fn size(group: &PromptGroup) -> usize {
    group.prompt.len() + group.completions.iter().map(Vec::len).sum::<usize>()
}

/// Groups with their prompts' tokens.
type MicroBatch<'a> = Vec<(Cow<'a, Group>, &'a Vec<u32>)>;

/// All groups in order, cut so that no batch has more than `tokens_max`, unless one response alone does, or one group
/// whose pairs must stay together.
fn micro_batches<'a>(
    members: &[&'a Group],
    prompts: &'a HashMap<PromptHash, Vec<u32>>,
    tokens_max: usize,
) -> Result<Vec<MicroBatch<'a>>, Error> {
    let (mut batches, mut filled) = (Vec::<MicroBatch<'_>>::new(), usize::MAX);
    for group in members {
        let prompt = prompts.get(&group.prompt).ok_or(Error::UnknownPrompt(group.prompt))?;
        for piece in pieces(group, prompt.len(), tokens_max) {
            let size = prompt.len() + piece.responses.iter().map(|r| r.tokens.len()).sum::<usize>();
            match batches.last_mut().filter(|_| filled.saturating_add(size) <= tokens_max) {
                Some(batch) => batch.push((piece, prompt)),
                None => {
                    batches.push(vec![(piece, prompt)]);
                    filled = 0;
                }
            }
            filled += size;
        }
    }
    Ok(batches)
}

/// A group as it is, or its responses in runs that fit, each with the prompt anew.
fn pieces<'a>(group: &'a Group, prompt: usize, tokens_max: usize) -> Vec<Cow<'a, Group>> {
    let whole = prompt + group.responses.iter().map(|r| r.tokens.len()).sum::<usize>();
    if whole <= tokens_max || !group.pairs.is_empty() {
        return vec![Cow::Borrowed(group)];
    }
    let (mut pieces, mut filled) = (Vec::<Group>::new(), usize::MAX);
    for response in &group.responses {
        match pieces.last_mut().filter(|_| filled.saturating_add(response.tokens.len()) <= tokens_max) {
            Some(piece) => piece.responses.push(response.clone()),
            None => {
                let responses = vec![response.clone()];
                pieces.push(Group { prompt: group.prompt, responses, pairs: Vec::new() });
                filled = prompt;
            }
        }
        filled += response.tokens.len();
    }
    pieces.into_iter().map(Cow::Owned).collect()
}

fn pack(group: &Group, prompt: &[u32]) -> PromptGroup {
    PromptGroup { prompt: prompt.to_vec(), completions: group.responses.iter().map(|r| r.tokens.clone()).collect() }
}

fn accumulate(sum: &mut Tensors, more: Tensors) -> Result<(), Error> {
    for (name, tensor) in more {
        let total = match sum.remove(&name) {
            Some(before) => (before + tensor).map_err(crate::model::Error::from)?,
            None => tensor,
        };
        sum.insert(name, total);
    }
    Ok(())
}
