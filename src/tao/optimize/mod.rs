//! Scored candidates to a LoRA adapter, as a story: groups, steps, micro-batches, loss, gradient, update, record.
//!
//! Promises that the same base, candidates, options and seed give the same adapter, byte for byte on the CPU; that a
//! step whose loss or gradient is not finite changes nothing and is counted; that a run with too many of them fails and
//! says what to try; and that a set cancellation flag ends the run between two steps. Never looks at a label, and never
//! changes the base.

pub mod dpo;
pub mod groups;
pub mod grpo;
pub mod loss;
pub mod oapl;
mod pass;
mod recipe;
pub mod rloo;
mod saved;
pub mod sft;

use super::{Progress, Watch, rng_seed};
use crate::config::{self, Optimize};
use crate::domain::{Candidate, PromptHash};
use crate::model::{AdamW, AdamWConfig, Lora, LoraConfig, Model};
use groups::{BaseLogprobs, Counts, Group, groups};
pub use loss::Loss;
use pass::{base_logprobs, pass};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
pub use recipe::{Labelled, labelled};
use std::collections::HashMap;

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
    /// A candidate has not one log-probability a token.
    #[error(
        "sample {sample} of prompt {prompt} has {tokens} tokens and {logprobs} log-probabilities; \
         take them under the plain prompt first"
    )]
    Logprobs {
        /// The prompt.
        prompt: PromptHash,
        /// The sample.
        sample: u32,
        /// Its tokens.
        tokens: usize,
        /// Its log-probabilities.
        logprobs: usize,
    },
    /// A candidate's prompt was not given.
    #[error("prompt {0} has candidates, but its tokens were not given")]
    UnknownPrompt(PromptHash),
    /// No prompt has samples that teach anything.
    #[error(
        "nothing to learn from: of {prompts} prompts each had samples that all earned the same, or none that is good \
         enough; explore with more samples or a higher temperature, or check the scorer's components and the \
         algorithm's thresholds"
    )]
    NothingToLearn {
        /// Prompts with candidates.
        prompts: usize,
    },
    /// Too many steps without a finite gradient.
    #[error(
        "{skipped} steps had a loss or gradient that is not finite; lower optimize.learning_rate or, with OAPL, raise \
         optimize.oapl_beta_policy"
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
    /// The run so far could not be kept.
    #[error("the steps taken so far could not be kept")]
    Save(#[source] super::SaveError),
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
    /// Steps that an earlier, killed run had taken.
    pub resumed: usize,
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
    train(task, Loss::of(options), lora, options, seed, watch)
}

/// Fine-tunes an adapter on every candidate as it is, each a given answer ([`labelled`]): no reward counts.
///
/// # Errors
/// As [`optimize`].
pub fn fine_tune(
    task: &Task<'_>,
    lora: &config::Lora,
    options: &Optimize,
    seed: u64,
    watch: &Watch<'_>,
) -> Result<Trained, Error> {
    train(task, Loss::Sft(sft::Choice::All), lora, options, seed, watch)
}

fn train(
    task: &Task<'_>,
    loss: Loss,
    lora: &config::Lora,
    options: &Optimize,
    seed: u64,
    watch: &Watch<'_>,
) -> Result<Trained, Error> {
    let base = if loss.needs_base() { base_logprobs(task, options.batch_tokens_max)? } else { BaseLogprobs::new() };
    let (groups, counts) = groups(task.candidates, &loss, &base)?;
    if groups.is_empty() {
        return Err(Error::NothingToLearn { prompts: counts.flat_groups });
    }
    let (mut run, mut steps) = Run::begin(task, loss, lora, options, seed, watch)?;
    let resumed = steps.len();
    let plan = plan(groups.len(), options, seed);
    for (at, members) in plan.iter().enumerate().skip(resumed) {
        if watch.is_cancelled() {
            return Err(Error::Cancelled { steps: at });
        }
        let members: Vec<&Group> = members.iter().map(|&i| &groups[i]).collect();
        let learning_rate = options.learning_rate * schedule(at, plan.len(), options.warmup_share);
        steps.push(StepRecord { step: at + 1, ..run.step(&members, learning_rate)? });
        if watch.is_due() {
            saved::keep(watch, &run.fingerprint, (&run.adapter, &run.optimizer), &steps, run.skipped)?;
        }
        watch.report(Progress { what: "optimize", done: at + 1, total: plan.len() });
    }
    Ok(Trained { adapter: run.adapter, steps, counts, resumed })
}

fn lora_config(lora: &config::Lora) -> LoraConfig {
    LoraConfig { rank: lora.rank, alpha: lora.alpha, targets: lora.targets.clone() }
}

fn fresh(model: &Model, lora: &config::Lora, seed: u64) -> Result<Lora, Error> {
    Ok(Lora::new(model.config(), lora_config(lora), rng_seed(&[seed, 0]), model.decoder().device())?)
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
    /// By which it knows its own kept work; empty where nothing is kept.
    fingerprint: String,
}

impl<'a> Run<'a> {
    /// A run at its beginning, or after the last step that a killed one kept, with the records of the steps taken.
    fn begin(
        task: &'a Task<'a>,
        loss: Loss,
        lora: &config::Lora,
        options: &'a Optimize,
        seed: u64,
        watch: &Watch<'_>,
    ) -> Result<(Self, Vec<StepRecord>), Error> {
        let (rewards, config) = (mean_rewards(task.candidates), adamw(options));
        let mut fingerprint = String::new();
        if watch.keeps() {
            fingerprint = saved::fingerprint(task, &loss, lora, options, seed)?;
            let own = task.start.map_or_else(|| lora_config(lora), |start| start.config.clone());
            if let Some(saved) = saved::find(watch, &fingerprint, own, config, task.model.decoder().device())? {
                let saved::Saved { adapter, optimizer, skipped, steps } = saved;
                return Ok((Self { adapter, optimizer, rewards, skipped, fingerprint, task, loss, options }, steps));
            }
        }
        let adapter = task.start.cloned().map_or_else(|| fresh(task.model, lora, seed), Ok)?;
        let optimizer = AdamW::new(config);
        Ok((Self { adapter, optimizer, rewards, skipped: 0, fingerprint, task, loss, options }, Vec::new()))
    }

    /// One update of the adapter, or none where it would not be finite.
    fn step(&mut self, members: &[&Group], learning_rate: f64) -> Result<StepRecord, Error> {
        let decoder = self.task.model.decoder().with_adapter(&self.adapter)?;
        let passed = pass(&decoder, members, self.task.prompts, self.options, &self.loss)?;
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

#[expect(clippy::cast_precision_loss, reason = "a response has few tokens")]
fn count(items: usize) -> f64 {
    items as f64
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
