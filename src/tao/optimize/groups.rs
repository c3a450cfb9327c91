//! Candidates to what the trainer works on: one group a prompt, equal responses merged, with their advantages.
//!
//! Promises that merging changes no loss: n equal responses have equal rewards and log-probabilities, so one of them
//! with weight n is the same sum, at a fraction of the tokens. Pure functions.

use super::{Error, Loss, grpo, oapl};
use crate::domain::{Candidate, Finish, PromptHash};
use std::collections::BTreeMap;

/// One distinct response.
#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// Each token's log-probability under the behaviour policy.
    pub behaviour: Vec<f64>,
    /// What it earned over its prompt's other responses.
    pub advantage: f64,
    /// How many samples it stands for.
    pub weight: f64,
}

/// One prompt's distinct responses.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// The prompt.
    pub prompt: PromptHash,
    /// Its responses, in the order of their first sample; truncated ones are left out.
    pub responses: Vec<Response>,
}

/// How many candidates were used for what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Prompts whose samples all earned the same: nothing to learn from.
    pub flat_groups: usize,
    /// Samples that reached the token limit: they count in the group's figures, but get no gradient.
    pub truncated: usize,
    /// Samples trained on.
    pub samples: usize,
    /// Distinct responses among them.
    pub distinct: usize,
}

/// Groups candidates by prompt, in the prompts' order of hash.
///
/// # Errors
/// [`Error::Unscored`] for a candidate without a reward, [`Error::NotFinite`] for a reward that is no number.
pub fn groups(candidates: &[Candidate], loss: &Loss) -> Result<(Vec<Group>, Counts), Error> {
    let mut by_prompt: BTreeMap<PromptHash, Vec<(&Candidate, f64)>> = BTreeMap::new();
    for candidate in candidates {
        let (prompt, sample) = (candidate.prompt, candidate.sample);
        let reward = candidate.reward.ok_or(Error::Unscored { prompt, sample })?;
        if !reward.is_finite() {
            return Err(Error::NotFinite { prompt, sample });
        }
        by_prompt.entry(prompt).or_default().push((candidate, reward));
    }
    let mut counts = Counts::default();
    let mut all = Vec::new();
    for (prompt, samples) in by_prompt {
        let rewards: Vec<f64> = samples.iter().map(|(_, reward)| *reward).collect();
        counts.truncated += samples.iter().filter(|(c, _)| c.finish == Finish::Length).count();
        if rewards.iter().all(|r| (r - rewards[0]).abs() < 1e-9) {
            counts.flat_groups += 1;
            continue;
        }
        let advantages = match loss {
            Loss::Oapl(oapl) => oapl::advantages(&rewards, oapl.beta_value),
            Loss::Grpo(_) => grpo::advantages(&rewards),
        };
        let responses = merge(samples.iter().map(|(c, _)| *c).zip(advantages));
        if !responses.is_empty() {
            counts.distinct += responses.len();
            counts.samples += samples.iter().filter(|(c, _)| c.finish == Finish::Stop).count();
            all.push(Group { prompt, responses });
        }
    }
    Ok((all, counts))
}

fn merge<'a>(samples: impl Iterator<Item = (&'a Candidate, f64)>) -> Vec<Response> {
    let mut responses: Vec<Response> = Vec::new();
    for (candidate, advantage) in samples.filter(|(c, _)| c.finish == Finish::Stop && !c.tokens.is_empty()) {
        match responses.iter_mut().find(|r| r.tokens == candidate.tokens) {
            Some(response) => response.weight += 1.0,
            None => responses.push(Response {
                tokens: candidate.tokens.clone(),
                behaviour: candidate.logprobs.iter().map(|&l| f64::from(l)).collect(),
                advantage,
                weight: 1.0,
            }),
        }
    }
    responses
}
