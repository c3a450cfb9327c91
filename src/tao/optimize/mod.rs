//! Scored candidates to a LoRA adapter, as a story: groups, steps, micro-batches, loss, gradient, update, record.
//!
//! Promises that the same base, candidates, options and seed give the same adapter, byte for byte on the CPU; that a
//! step whose loss or gradient is not finite changes nothing and is counted; that a run with too many of them fails and
//! says what to try; and that a set cancellation flag ends the run between two steps. Never looks at a label, and never
//! changes the base.

pub mod groups;
pub mod grpo;
pub mod oapl;

use super::{Progress, Watch, rng_seed};
use crate::config::{self, Algorithm, Optimize};
use crate::domain::{Candidate, PromptHash};
use crate::model::{AdamW, AdamWConfig, Decoder, Lora, LoraConfig, Model, PromptGroup, Tensors};
use groups::{Counts, Group, groups};
pub use grpo::Grpo;
pub use oapl::Oapl;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use std::collections::HashMap;

/// The loss with its constants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Loss {
    /// [`oapl`].
    Oapl(Oapl),
    /// [`grpo`].
    Grpo(Grpo),
}

impl Loss {
    /// The loss that the configuration asks for.
    #[must_use]
    pub fn of(options: &Optimize) -> Self {
        match options.algorithm {
            Algorithm::Oapl => {
                Self::Oapl(Oapl { beta_value: options.oapl_beta_value, beta_policy: options.oapl_beta_policy })
            }
            Algorithm::Grpo => Self::Grpo(Grpo { clip_low: options.grpo_clip_low, clip_high: options.grpo_clip_high }),
        }
    }
}

/// What a run starts from and trains on.
#[derive(Debug, Clone, Copy)]
pub struct Task<'a> {
    /// The base.
    pub model: &'a Model,
    /// The adapter to go on from; a fresh one where absent.
    pub start: Option<&'a Lora>,
    /// Each prompt's plain tokens, up to where the answer begins.
    pub prompts: &'a HashMap<PromptHash, Vec<u32>>,
    /// Scored candidates.
    pub candidates: &'a [Candidate],
}

/// Why there is no adapter.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A candidate has no reward.
    #[error("sample {sample} of prompt {prompt} has no reward; score the candidates first")]
    Unscored {
        /// The prompt.
        prompt: PromptHash,
        /// The sample.
        sample: u32,
    },
    /// A reward is not a number.
    #[error("the reward of sample {sample} of prompt {prompt} is not a finite number")]
    NotFinite {
        /// The prompt.
        prompt: PromptHash,
        /// The sample.
        sample: u32,
    },
    /// A candidate's prompt was not given.
    #[error("prompt {0} has candidates, but its tokens were not given")]
    UnknownPrompt(PromptHash),
    /// No prompt has samples that earned differently.
    #[error(
        "nothing to learn from: all samples of each of {prompts} prompts earned the same; \
         explore with more samples or a higher temperature, or check the scorer's components"
    )]
    NothingToLearn {
        /// Prompts with candidates.
        prompts: usize,
    },
    /// Too many steps without a finite gradient.
    #[error(
        "{skipped} steps had a loss or gradient that is not finite; lower the learning rate or raise oapl_beta_policy"
    )]
    Diverged {
        /// How many.
        skipped: u32,
    },
    /// The cancellation flag was set.
    #[error("cancelled after {steps} steps")]
    Cancelled {
        /// Steps taken.
        steps: usize,
    },
    /// The model failed.
    #[error("the model failed while training")]
    Model(#[from] crate::model::Error),
}

/// One step, for the training curve.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepRecord {
    /// From 1.
    pub step: usize,
    /// The step's loss.
    pub loss: f64,
    /// The mean reward of the step's prompts' samples, as the behaviour policy drew them.
    pub reward_mean: f64,
    /// `ρ − ln ρ − 1` of the policy against the behaviour policy, mean over tokens, in nats (Schulman's k3).
    pub kl: f64,
    /// The gradients' global norm before clipping.
    pub gradient_norm: f64,
    /// Tokens that went through the model, prompts counted once.
    pub tokens: usize,
    /// The learning rate.
    pub learning_rate: f64,
    /// Whether the update was left out.
    pub skipped: bool,
}

/// What a run gave.
#[derive(Debug, Clone)]
pub struct Trained {
    /// The adapter.
    pub adapter: Lora,
    /// The curve.
    pub steps: Vec<StepRecord>,
    /// What became of the candidates.
    pub counts: Counts,
}

/// Trains an adapter on scored candidates.
///
/// # Errors
/// [`Error`], with what to try.
pub fn optimize(
    task: &Task<'_>,
    lora: &config::Lora,
    options: &Optimize,
    seed: u64,
    watch: &Watch<'_>,
) -> Result<Trained, Error> {
    let loss = Loss::of(options);
    let (groups, counts) = groups(task.candidates, &loss)?;
    if groups.is_empty() {
        return Err(Error::NothingToLearn { prompts: counts.flat_groups });
    }
    let mut run = Run {
        adapter: task.start.cloned().map_or_else(|| fresh(task.model, lora, seed), Ok)?,
        optimizer: AdamW::new(adamw(options)),
        rewards: mean_rewards(task.candidates),
        skipped: 0,
        task,
        loss,
        options,
    };
    let plan = plan(groups.len(), options, seed);
    let mut steps = Vec::with_capacity(plan.len());
    for (at, members) in plan.iter().enumerate() {
        if watch.is_cancelled() {
            return Err(Error::Cancelled { steps: at });
        }
        let members: Vec<&Group> = members.iter().map(|&i| &groups[i]).collect();
        let learning_rate = options.learning_rate * schedule(at, plan.len(), options.warmup_share);
        steps.push(StepRecord { step: at + 1, ..run.step(&members, learning_rate)? });
        watch.report(Progress { what: "optimize", done: at + 1, total: plan.len() });
    }
    Ok(Trained { adapter: run.adapter, steps, counts })
}

fn fresh(model: &Model, lora: &config::Lora, seed: u64) -> Result<Lora, Error> {
    let config = LoraConfig { rank: lora.rank, alpha: lora.alpha, targets: lora.targets.clone() };
    Ok(Lora::new(model.config(), config, rng_seed(&[seed, 0]), model.decoder().device())?)
}

#[expect(clippy::cast_possible_truncation, reason = "the optimiser computes in f32")]
fn adamw(options: &Optimize) -> AdamWConfig {
    AdamWConfig {
        norm_max: Some(options.gradient_norm_max as f32),
        weight_decay: options.weight_decay as f32,
        ..AdamWConfig::default()
    }
}

/// A run between two steps.
struct Run<'a> {
    task: &'a Task<'a>,
    options: &'a Optimize,
    loss: Loss,
    adapter: Lora,
    optimizer: AdamW,
    rewards: HashMap<PromptHash, f64>,
    skipped: u32,
}

impl Run<'_> {
    /// One update of the adapter, or none where it would not be finite.
    fn step(&mut self, members: &[&Group], learning_rate: f64) -> Result<StepRecord, Error> {
        let decoder = self.task.model.decoder().with_adapter(&self.adapter)?;
        let passed = pass(&decoder, members, self.task.prompts, self.options.batch_tokens_max, &self.loss)?;
        #[expect(clippy::cast_possible_truncation, reason = "a learning rate needs no more digits")]
        let report = if passed.loss.is_finite() {
            Some(self.optimizer.step(&mut self.adapter.tensors, &passed.gradients, learning_rate as f32)?)
        } else {
            None
        };
        let skipped = report.is_none_or(|r| r.skipped);
        self.skipped += u32::from(skipped);
        if self.skipped > self.options.skipped_steps_max {
            return Err(Error::Diverged { skipped: self.skipped });
        }
        Ok(StepRecord {
            step: 0,
            loss: passed.loss,
            reward_mean: mean(members.iter().map(|g| self.rewards[&g.prompt])),
            kl: passed.kl,
            gradient_norm: report.map_or(f64::NAN, |r| f64::from(r.gradient_norm)),
            tokens: passed.tokens,
            learning_rate,
            skipped,
        })
    }
}

/// Which groups each step takes: every epoch visits all in an order of its own.
fn plan(groups: usize, options: &Optimize, seed: u64) -> Vec<Vec<usize>> {
    let mut steps = Vec::new();
    for epoch in 0..options.epochs {
        let mut order: Vec<usize> = (0..groups).collect();
        order.shuffle(&mut ChaCha8Rng::seed_from_u64(rng_seed(&[seed, 1, u64::from(epoch)])));
        steps.extend(order.chunks(options.prompts_per_step.max(1)).map(<[usize]>::to_vec));
    }
    steps
}

/// The factor on the learning rate at a step: up linearly, then down linearly to a tenth.
#[expect(clippy::cast_precision_loss, reason = "steps are counted in thousands")]
fn schedule(step: usize, steps: usize, warmup_share: f64) -> f64 {
    let at = (step + 1) as f64 / steps as f64;
    if at < warmup_share { at / warmup_share } else { 1.0 - 0.9 * (at - warmup_share) / (1.0 - warmup_share).max(1e-9) }
}

/// What one step's forward and backward passes gave.
struct Passed {
    loss: f64,
    kl: f64,
    tokens: usize,
    gradients: Tensors,
}

/// All micro-batches of one step; losses and gradients are those of the step as one batch.
fn pass(
    decoder: &Decoder,
    members: &[&Group],
    prompts: &HashMap<PromptHash, Vec<u32>>,
    tokens_max: usize,
    loss: &Loss,
) -> Result<Passed, Error> {
    let scale = scale(members, loss);
    let mut passed = Passed { loss: 0.0, kl: 0.0, tokens: 0, gradients: Tensors::new() };
    let mut kl_tokens = 0.0;
    for batch in micro_batches(members, prompts, tokens_max)? {
        let packed: Vec<PromptGroup> = batch.iter().map(|(group, prompt)| pack(group, prompt)).collect();
        passed.tokens += packed.iter().map(size).sum::<usize>();
        let forward = decoder.forward(&packed, 1.0)?;
        let now: Vec<f32> = forward.tokens().to_vec1().map_err(crate::model::Error::from)?;
        let mut derivative = vec![0f32; now.len()];
        for (response, range) in batch.iter().flat_map(|(g, _)| &g.responses).zip(forward.completions()) {
            let drift = now[range.clone()].iter().zip(&response.behaviour).map(|(now, then)| f64::from(*now) - then);
            let drift: Vec<f64> = drift.collect();
            let (own, by_token) = response_loss(loss, response.advantage, &drift);
            passed.loss += own * response.weight / scale;
            for (slot, d) in derivative[range.clone()].iter_mut().zip(by_token) {
                *slot = single(d * response.weight / scale);
            }
            passed.kl += response.weight * drift.iter().map(|d| d.exp() - d - 1.0).sum::<f64>();
            kl_tokens += response.weight * count(drift.len());
        }
        accumulate(&mut passed.gradients, forward.backward_from(&derivative)?)?;
    }
    passed.kl /= kl_tokens.max(1.0);
    Ok(passed)
}

/// What the step's loss is divided by: samples for OAPL, active tokens for GRPO.
fn scale(members: &[&Group], loss: &Loss) -> f64 {
    let responses = members.iter().flat_map(|g| &g.responses);
    match loss {
        Loss::Oapl(_) => responses.map(|r| r.weight).sum(),
        Loss::Grpo(_) => responses.map(|r| r.weight * count(r.tokens.len())).sum(),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the network computes in f32")]
fn single(value: f64) -> f32 {
    value as f32
}

#[expect(clippy::cast_precision_loss, reason = "a response has few tokens")]
fn count(items: usize) -> f64 {
    items as f64
}

fn size(group: &PromptGroup) -> usize {
    group.prompt.len() + group.completions.iter().map(Vec::len).sum::<usize>()
}

/// One response's loss, undivided, and its derivative by each token's log-probability.
fn response_loss(loss: &Loss, advantage: f64, drift: &[f64]) -> (f64, Vec<f64>) {
    match loss {
        Loss::Oapl(oapl) => {
            // The sequence's log-probability is the sum of its tokens', so every token has the sequence's derivative.
            let (loss, derivative) = oapl::loss(drift.iter().sum(), advantage, oapl.beta_policy);
            (loss, vec![derivative; drift.len()])
        }
        Loss::Grpo(grpo) => {
            let each: Vec<_> = drift.iter().map(|&d| grpo::token_loss(d, advantage, *grpo)).collect();
            (each.iter().map(|(loss, _)| loss).sum(), each.into_iter().map(|(_, d)| d).collect())
        }
    }
}

/// Groups with their prompts' tokens.
type MicroBatch<'a> = Vec<(&'a Group, &'a Vec<u32>)>;

/// All groups in order, cut so that no batch has more than `tokens_max`, unless one group alone does.
fn micro_batches<'a>(
    members: &[&'a Group],
    prompts: &'a HashMap<PromptHash, Vec<u32>>,
    tokens_max: usize,
) -> Result<Vec<MicroBatch<'a>>, Error> {
    let (mut batches, mut filled) = (Vec::<MicroBatch<'_>>::new(), usize::MAX);
    for group in members {
        let prompt = prompts.get(&group.prompt).ok_or(Error::UnknownPrompt(group.prompt))?;
        let size = prompt.len() + group.responses.iter().map(|r| r.tokens.len()).sum::<usize>();
        match batches.last_mut().filter(|_| filled.saturating_add(size) <= tokens_max) {
            Some(batch) => batch.push((*group, prompt)),
            None => {
                batches.push(vec![(*group, prompt)]);
                filled = 0;
            }
        }
        filled += size;
    }
    Ok(batches)
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

fn mean_rewards(candidates: &[Candidate]) -> HashMap<PromptHash, f64> {
    let mut all: HashMap<PromptHash, Vec<f64>> = HashMap::new();
    for candidate in candidates {
        all.entry(candidate.prompt).or_default().extend(candidate.reward);
    }
    all.into_iter().map(|(prompt, rewards)| (prompt, mean(rewards.into_iter()))).collect()
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let all: Vec<f64> = values.collect();
    all.iter().sum::<f64>() / count(all.len().max(1))
}
