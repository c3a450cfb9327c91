//! The steps that compute: values in, values out; what is durable is for the caller to write.

use super::{Progress, Turn};
use crate::domain::{Answer, Candidate, ChatMessage, Comparison, Prompt, PromptHash, Timestamp, TrainingSet};
use crate::lake::TableName;
use crate::model::Lora;
use crate::runtime::{derive_seed, now};
use crate::tao::{self, Watch, explore::Explored};
use crate::{daemon::schedule::Past, window};
use anyhow::Result;
use serde_json::{Value, json};
use std::collections::HashMap;
use tokio::task::block_in_place;

/// The adapter of one round and how it came about.
pub(super) struct Tuned {
    pub(super) round: u32,
    pub(super) adapter: Lora,
    /// One object a step: loss, mean reward, KL, gradient norm, tokens, learning rate.
    pub(super) curve: Vec<Value>,
}

impl Tuned {
    /// Puts the curve of the rounds before in front, so that steps are numbered through the cycle.
    pub(super) fn follow(&mut self, before: Option<&Self>) {
        let Some(before) = before else { return };
        for step in &mut self.curve {
            step["step"] = json!(step["step"].as_u64().unwrap_or_default() + before.curve.len() as u64);
        }
        self.curve = before.curve.iter().cloned().chain(std::mem::take(&mut self.curve)).collect();
    }

    pub(super) fn figures(&self) -> Value {
        let last = self.curve.last().cloned().unwrap_or(Value::Null);
        json!({"round": self.round, "steps": self.curve.len(), "last_step": last})
    }
}

/// The prompts: those that the cycle collected before, or the window's now.
pub(super) async fn collect(turn: &Turn<'_>) -> Result<TrainingSet> {
    let lake = turn.job.lake;
    if let Some(set) = lake.training_set(turn.job.id).await? {
        return Ok(set);
    }
    let until = now();
    let past = Past::of(&lake.cycle_events(Some(turn.job.model)).await?, turn.window, until);
    let set = choose(turn, past.since, until).await?;
    lake.append_training_window(turn.job.id, &set, now()).await?;
    Ok(set)
}

async fn choose(turn: &Turn<'_>, since: Timestamp, until: Timestamp) -> Result<TrainingSet> {
    let request = window::Request {
        name: turn.window_name,
        window: turn.window,
        table_version: turn.job.lake.version(TableName::InferenceLog).await?,
        since,
        until,
    };
    let tables = crate::daemon::tables(turn.job.lake, Some(request.table_version)).await?;
    Ok(window::choose(&request, tables).await?)
}

pub(super) fn explore(turn: &Turn<'_>, set: &TrainingSet, round: u32, start: Option<&Lora>) -> Result<Explored> {
    let options = &turn.settings.explore;
    let seed = derive_seed(turn.seed, "explore", &[u64::from(round)]);
    let report = |p: tao::Progress| (turn.job.watch)(Progress { step: "explore", done: p.done, total: p.total });
    let watch = Watch::new(&report, &turn.cancelled);
    let mut explored = block_in_place(|| tao::explore::explore(&turn.base, start, &set.train, options, seed, &watch))?;
    // Sample numbers go on from round to round, so that a row of `candidate` is one response.
    for candidate in &mut explored.candidates {
        candidate.sample += (round - 1) * options.samples;
    }
    Ok(explored)
}

pub(super) fn score(turn: &Turn<'_>, set: &TrainingSet, explored: &mut Explored) -> Result<Value> {
    let messages: HashMap<PromptHash, Vec<ChatMessage>> =
        set.train.iter().map(|p| (p.hash, p.messages.clone())).collect();
    let summary = block_in_place(|| turn.scorer.score(&messages, &mut explored.candidates))?;
    Ok(json!({
        "candidates": summary.candidates,
        "reward_mean": summary.reward_mean,
        "executed_share": summary.executed_share,
        "constant_share": summary.constant_share,
        "truncated": explored.truncated,
        "prompts_too_long": explored.too_long.len(),
    }))
}

pub(super) fn optimize(turn: &Turn<'_>, explored: &Explored, round: u32, start: Option<&Lora>) -> Result<Tuned> {
    let candidates: &[Candidate] = &explored.candidates;
    let task = tao::optimize::Task { model: &turn.base, start, prompts: &explored.prompt_tokens, candidates };
    let seed = derive_seed(turn.seed, "optimize", &[u64::from(round)]);
    let report = |p: tao::Progress| (turn.job.watch)(Progress { step: "optimize", done: p.done, total: p.total });
    let watch = Watch::new(&report, &turn.cancelled);
    let (lora, options) = (&turn.settings.lora, &turn.settings.optimize);
    let trained = block_in_place(|| tao::optimize::optimize(&task, lora, options, seed, &watch))?;
    let record = |s: &tao::optimize::StepRecord| {
        json!({
            "step": s.step, "loss": s.loss, "reward_mean": s.reward_mean, "kl": s.kl,
            "gradient_norm": s.gradient_norm, "tokens": s.tokens, "learning_rate": s.learning_rate, "skipped": s.skipped,
        })
    };
    Ok(Tuned { round, adapter: trained.adapter, curve: trained.steps.iter().map(record).collect() })
}

/// Champion and challenger answer the holdout, greedily; the gate's scorer judges both.
pub(super) fn compare(turn: &Turn<'_>, set: &TrainingSet, challenger: &Lora) -> Result<Vec<Comparison>> {
    let champion = turn.champion.as_ref().map(|(_, adapter)| adapter);
    let prompts = &set.holdout;
    (turn.job.watch)(Progress { step: "evaluate", done: 0, total: 2 * prompts.len() });
    let before = answers(turn, prompts, champion)?;
    (turn.job.watch)(Progress { step: "evaluate", done: prompts.len(), total: 2 * prompts.len() });
    let after = answers(turn, prompts, Some(challenger))?;
    (turn.job.watch)(Progress { step: "evaluate", done: 2 * prompts.len(), total: 2 * prompts.len() });
    let pair = |(prompt, (champion, challenger)): (&Prompt, (Answer, Answer))| {
        let question = prompt.messages.iter().rev().find(|m| m.role == "user").map(|m| m.content.clone());
        Comparison { prompt: prompt.hash, question: question.unwrap_or_default(), champion, challenger }
    };
    Ok(prompts.iter().zip(before.into_iter().zip(after)).map(pair).collect())
}

fn answers(turn: &Turn<'_>, prompts: &[Prompt], adapter: Option<&Lora>) -> Result<Vec<Answer>> {
    let conversations: Vec<_> = prompts.iter().map(|p| p.messages.clone()).collect();
    let texts =
        block_in_place(|| tao::explore::answer_greedily(&turn.base, adapter, &conversations, &turn.settings.explore))?;
    let pairs: Vec<(&[ChatMessage], &str)> =
        prompts.iter().zip(&texts).map(|(p, (text, _))| (p.messages.as_slice(), text.as_str())).collect();
    let rewards = block_in_place(|| turn.scorer.judge(&pairs));
    let known: Vec<(&Prompt, &str)> = prompts.iter().zip(&texts).map(|(p, (text, _))| (p, text.as_str())).collect();
    let correct = match turn.job.truth {
        Some(truth) => block_in_place(|| truth.correct(&known)),
        None => vec![None; known.len()],
    };
    let answer = |((text, tokens), (reward, correct))| Answer { text, reward, correct, tokens };
    Ok(texts.into_iter().zip(rewards.into_iter().zip(correct)).map(answer).collect())
}
