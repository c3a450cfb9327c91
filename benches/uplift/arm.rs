//! The recipes, each from the same base to an adapter.

use crate::base::Base;
use crate::data::{Data, Question};
use crate::measure::Bench;
use clap::ValueEnum;
use pelton::config::{Algorithm, Explore, Lora as LoraSection, Optimize};
use pelton::domain::{ChatMessage, Prompt, PromptHash};
use pelton::model::{Lora, Model};
use pelton::tao::explore::explore;
use pelton::tao::optimize::{Task, fine_tune, labelled as given, optimize};
use pelton::tao::{Watch, rng_seed};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::AtomicBool;

/// A recipe's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Arm {
    Oapl,
    Grpo,
    DrGrpo,
    Rloo,
    Dpo,
    BestOfN,
    ZeroLabel,
    Labelled,
}

impl Arm {
    pub fn algorithm(self) -> Option<Algorithm> {
        Some(match self {
            Self::Oapl => Algorithm::Oapl,
            Self::Grpo => Algorithm::Grpo,
            Self::DrGrpo => Algorithm::DrGrpo,
            Self::Rloo => Algorithm::Rloo,
            Self::Dpo => Algorithm::Dpo,
            Self::BestOfN => Algorithm::BestOfN,
            Self::ZeroLabel => Algorithm::ZeroLabel,
            Self::Labelled => return None,
        })
    }
}

/// One run.
pub struct Recipe {
    pub arm: Arm,
    pub seed: u64,
    pub explore: Explore,
    pub optimize: Optimize,
}

impl Recipe {
    /// The adapter, and the mean reward of each round's samples.
    pub fn run(&self, bench: &Bench<'_>, base: &Base, data: &Data, rank: usize) -> anyhow::Result<(Lora, Vec<f64>)> {
        let lora = LoraSection { rank, ..LoraSection::default() };
        if self.arm == Arm::Labelled {
            let all: Vec<Question> = data.labelled.iter().chain(&data.unlabelled).cloned().collect();
            let adapter = labelled(&base.model, base.adapter.as_ref(), &all, &lora, &self.optimize, self.seed)?;
            return Ok((adapter, Vec::new()));
        }
        let cancelled = AtomicBool::new(false);
        let watch = Watch::new(&|_| {}, &cancelled);
        // A question that stands there twice is one prompt, as a window would have it.
        let mut seen = HashSet::new();
        let all = data.unlabelled.iter().map(Question::prompt);
        let prompts: Vec<Prompt> = all.filter(|p| seen.insert(p.hash)).collect();
        let messages: HashMap<PromptHash, Vec<ChatMessage>> =
            prompts.iter().map(|p| (p.hash, p.messages.clone())).collect();
        let (mut adapter, mut rewards) = (base.adapter.clone(), Vec::new());
        for round in 0..self.optimize.rounds {
            let seed = rng_seed(&[self.seed, u64::from(round)]);
            let mut explored = explore(&base.model, adapter.as_ref(), &prompts, &self.explore, seed, &watch)?;
            rewards.push(bench.scorer.score(&messages, &mut explored.candidates)?.reward_mean);
            let task = Task {
                model: &base.model,
                start: adapter.as_ref(),
                prompts: &explored.prompt_tokens,
                candidates: &explored.candidates,
            };
            adapter = Some(optimize(&task, &lora, &self.optimize, seed, &watch)?.adapter);
        }
        Ok((adapter.ok_or_else(|| anyhow::anyhow!("no round was run"))?, rewards))
    }
}

/// Fine-tuning on given answers.
pub fn labelled(
    model: &Model,
    start: Option<&Lora>,
    questions: &[Question],
    lora: &LoraSection,
    options: &Optimize,
    seed: u64,
) -> anyhow::Result<Lora> {
    let cancelled = AtomicBool::new(false);
    let answers: Vec<(Prompt, String)> = questions.iter().map(|q| (q.prompt(), q.sql.clone())).collect();
    let given = given(model, &answers)?;
    let task = Task { model, start, prompts: &given.prompts, candidates: &given.candidates };
    Ok(fine_tune(&task, lora, options, seed, &Watch::new(&|_| {}, &cancelled))?.adapter)
}
