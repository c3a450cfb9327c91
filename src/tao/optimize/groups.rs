//! Candidates to what the trainer works on: one group a prompt, equal responses merged, with their advantages.
//!
//! Promises that merging changes no loss: n equal responses have equal rewards and log-probabilities, so one of them
//! with weight n is the same sum, at a fraction of the tokens. Pure functions.

use super::dpo::Pair;
use super::sft::{Choice, choose};
use super::{Error, Loss, count, dpo, grpo, oapl, rloo, sft};
use crate::domain::{Candidate, Finish, PromptHash};
use std::collections::{BTreeMap, HashMap};

/// One distinct response.
#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// Each token's log-probability under the behaviour policy.
    pub behaviour: Vec<f64>,
    /// What it earned over its prompt's other responses; for preferences and chosen answers the reward as it is.
    pub advantage: f64,
    /// How many samples it stands for.
    pub weight: f64,
    /// `ln π_beh − ln π_ref` of the sequence, where the base is the reference; 0 where the behaviour policy is.
    pub from_base: f64,
}

/// One prompt's distinct responses.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// The prompt.
    pub prompt: PromptHash,
    /// Its responses, in the order of their first sample; truncated ones are left out.
    pub responses: Vec<Response>,
    /// Preferences among them; empty where the loss looks at each alone.
    pub pairs: Vec<Pair>,
}

/// How many candidates were used for what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Prompts that teach nothing: their samples all earned the same, or no answer and no pair is good enough.
    pub flat_groups: usize,
    /// Samples that reached the token limit: they count in the group's figures, but get no gradient.
    pub truncated: usize,
    /// Samples trained on.
    pub samples: usize,
    /// Distinct responses among them.
    pub distinct: usize,
}

/// The base's log-probability of each candidate, in nats a sequence, by prompt and sample.
pub type BaseLogprobs = HashMap<(PromptHash, u32), f64>;

/// A sample with its reward and its distance from the reference.
#[derive(Debug, Clone, Copy)]
struct Sample<'a> {
    candidate: &'a Candidate,
    reward: f64,
    from_base: f64,
}

/// Groups candidates by prompt, in the prompts' order of hash. `base` is needed where the loss has the base as its
/// reference ([`Loss::needs_base`]); a candidate that it lacks counts as drawn from the base.
///
/// # Errors
/// [`Error::Unscored`] for a candidate without a reward where the loss needs one, [`Error::NotFinite`] for a reward
/// that is no number, [`Error::Logprobs`] where not every token has a log-probability.
pub fn groups(candidates: &[Candidate], loss: &Loss, base: &BaseLogprobs) -> Result<(Vec<Group>, Counts), Error> {
    let mut by_prompt: BTreeMap<PromptHash, Vec<Sample<'_>>> = BTreeMap::new();
    for candidate in candidates {
        by_prompt.entry(candidate.prompt).or_default().push(sample(candidate, loss, base)?);
    }
    let mut counts = Counts::default();
    let mut all = Vec::new();
    for (prompt, samples) in by_prompt {
        counts.truncated += samples.iter().filter(|s| s.candidate.finish == Finish::Length).count();
        let Some((responses, pairs)) = learn(&samples, loss) else {
            counts.flat_groups += 1;
            continue;
        };
        if !responses.is_empty() {
            counts.distinct += responses.len();
            counts.samples += used(&samples, &responses);
            all.push(Group { prompt, responses, pairs });
        }
    }
    Ok((all, counts))
}

fn sample<'a>(candidate: &'a Candidate, loss: &Loss, base: &BaseLogprobs) -> Result<Sample<'a>, Error> {
    let (prompt, number) = (candidate.prompt, candidate.sample);
    let reward = match candidate.reward {
        None if loss.needs_rewards() => return Err(Error::Unscored { prompt, sample: number }),
        reward => reward.unwrap_or(0.0),
    };
    if !reward.is_finite() {
        return Err(Error::NotFinite { prompt, sample: number });
    }
    let (tokens, logprobs) = (candidate.tokens.len(), candidate.logprobs.len());
    if tokens != logprobs {
        return Err(Error::Logprobs { prompt, sample: number, tokens, logprobs });
    }
    let from_base = base.get(&(prompt, number)).map_or(0.0, |base| candidate.logprob() - base);
    Ok(Sample { candidate, reward, from_base })
}

/// What a prompt's samples teach; nothing where they are all alike.
fn learn(samples: &[Sample<'_>], loss: &Loss) -> Option<(Vec<Response>, Vec<Pair>)> {
    let rewards: Vec<f64> = samples.iter().map(|s| s.reward).collect();
    let flat = || rewards.iter().all(|r| (r - rewards[0]).abs() < 1e-9);
    let advantages = match loss {
        Loss::Sft(choice) => return chosen(samples, *choice).map(|responses| (responses, Vec::new())),
        _ if flat() => return None,
        Loss::Dpo(dpo) => return preferred(samples, *dpo),
        Loss::Oapl(oapl) => oapl::advantages(&rewards, oapl.beta_value),
        Loss::Grpo(grpo) => grpo::advantages(&rewards, grpo.variant),
        Loss::Rloo(rloo) => {
            let shaped = samples.iter().map(|s| rloo::shaped(s.reward, s.from_base, rloo.beta));
            rloo::advantages(&shaped.collect::<Vec<_>>())
        }
    };
    Some((merge(samples, &advantages), Vec::new()))
}

/// The answers that a choice takes, each once.
fn chosen(samples: &[Sample<'_>], choice: Choice) -> Option<Vec<Response>> {
    let responses = merge(samples, &samples.iter().map(|s| s.reward).collect::<Vec<_>>());
    let rewards: Vec<f64> = responses.iter().map(|r| r.advantage).collect();
    let counts: Vec<f64> = responses.iter().map(|r| r.weight).collect();
    let options = sft::Options { rewards: &rewards, counts: &counts, samples: count(samples.len()) };
    let picked = choose(choice, options);
    let taken = picked.into_iter().map(|i| Response { weight: 1.0, ..responses[i].clone() });
    Some(taken.collect()).filter(|taken: &Vec<_>| !taken.is_empty())
}

/// The responses that stand in a pair, and the pairs.
fn preferred(samples: &[Sample<'_>], dpo: dpo::Dpo) -> Option<(Vec<Response>, Vec<Pair>)> {
    let responses = merge(samples, &samples.iter().map(|s| s.reward).collect::<Vec<_>>());
    let pairs = dpo::pairs(&responses.iter().map(|r| r.advantage).collect::<Vec<_>>(), dpo);
    if pairs.is_empty() {
        return None;
    }
    let mut kept: Vec<usize> = pairs.iter().flat_map(|p| [p.chosen, p.rejected]).collect();
    kept.sort_unstable();
    kept.dedup();
    let place = |index: usize| kept.binary_search(&index).unwrap_or_default();
    let pairs = pairs.iter().map(|p| Pair { chosen: place(p.chosen), rejected: place(p.rejected), ..*p }).collect();
    Some((kept.iter().map(|i| responses[*i].clone()).collect(), pairs))
}

/// Samples that the kept responses stand for.
fn used(samples: &[Sample<'_>], responses: &[Response]) -> usize {
    let complete = samples.iter().filter(|s| s.candidate.finish == Finish::Stop);
    complete.filter(|s| responses.iter().any(|r| r.tokens == s.candidate.tokens)).count()
}

fn merge(samples: &[Sample<'_>], advantages: &[f64]) -> Vec<Response> {
    let mut responses: Vec<Response> = Vec::new();
    for (sample, &advantage) in samples.iter().zip(advantages) {
        let candidate = sample.candidate;
        if candidate.finish != Finish::Stop || candidate.tokens.is_empty() {
            continue;
        }
        match responses.iter_mut().find(|r| r.tokens == candidate.tokens) {
            Some(response) => response.weight += 1.0,
            None => responses.push(Response {
                tokens: candidate.tokens.clone(),
                behaviour: candidate.logprobs.iter().map(|&l| f64::from(l)).collect(),
                advantage,
                weight: 1.0,
                from_base: sample.from_base,
            }),
        }
    }
    responses
}
