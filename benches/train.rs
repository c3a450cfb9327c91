//! GRPO against TRL's `GRPOTrainer` with PEFT's LoRA: the same weights, prompts, responses, threads and loss.
//!
//! ```text
//! cargo bench --bench train -- [--shape NAME] [--prompts N] [--samples N] [--new-tokens N] [--rows N] [--steps N] [--threads N] [--peer none]
//! ```
//!
//! A step samples every prompt from the current adapter, scores by a rule that costs nothing, and makes one update on all of
//! them. Figures go to `target/bench/train.json`. `scripts/python.sh train` makes the peer's environment;
//! `PELTON_BENCH_PYTHON` names another.

#[path = "engine/mod.rs"]
mod engine;

use anyhow::Result;
use candle_core::Device;
use engine::{Took, Work};
use pelton::config::{Algorithm, Lora as LoraSettings, Optimize};
use pelton::domain::{Candidate, ChatMessage, Finish, PromptHash};
use pelton::model::{GenerationOptions, GenerationRequest, Lora, LoraConfig, Model};
use pelton::tao::Watch;
use pelton::tao::optimize::{Task, optimize};
use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<()> {
    engine::main("train", ours)
}

fn ours(work: &Work) -> Result<Took> {
    let model = Model::load(&work.folder, &Device::Cpu)?;
    let settings = LoraSettings { rank: work.rank, alpha: 32.0, ..LoraSettings::default() };
    let shape = LoraConfig { rank: work.rank, alpha: 32.0, targets: settings.targets.clone() };
    let mut adapter = Lora::new(model.config(), shape, 1, &Device::Cpu)?;
    let options =
        Optimize { algorithm: Algorithm::Grpo, epochs: 1, prompts_per_step: work.prompts.len(), ..Optimize::default() };
    let names: Vec<PromptHash> = (0..work.prompts.len())
        .map(|at| PromptHash::of(&[ChatMessage { role: "user".to_owned(), content: at.to_string() }]))
        .collect();
    let prompts: HashMap<PromptHash, Vec<u32>> = names.iter().copied().zip(work.prompts.iter().cloned()).collect();
    let (quiet, going) = (|_| (), AtomicBool::new(false));
    let (mut explored, mut updated) = (Duration::ZERO, Duration::ZERO);
    for step in 0..work.steps {
        let began = Instant::now();
        let candidates = explore(work, &model, &adapter, &names, step as u64)?;
        explored += began.elapsed();
        let began = Instant::now();
        let task = Task { model: &model, start: Some(&adapter), prompts: &prompts, candidates: &candidates };
        adapter = optimize(&task, &settings, &options, 1, &Watch::new(&quiet, &going))?.adapter;
        updated += began.elapsed();
    }
    engine::took(explored, updated)
}

/// Samples every prompt, and rewards by the parity of the first token.
fn explore(work: &Work, model: &Model, adapter: &Lora, names: &[PromptHash], step: u64) -> Result<Vec<Candidate>> {
    let seed = |prompt: usize, sample: usize| step << 32 | (prompt * work.samples + sample) as u64;
    let requests: Vec<GenerationRequest> = work
        .prompts
        .iter()
        .enumerate()
        .map(|(at, prompt)| GenerationRequest {
            prompt: prompt.clone(),
            seeds: (0..work.samples).map(|sample| seed(at, sample)).collect(),
        })
        .collect();
    let options =
        GenerationOptions { new_tokens_max: work.new_tokens, rows_max: work.rows, ..GenerationOptions::default() };
    let given = model.decoder().with_adapter(adapter)?.generate(&requests, &options)?;
    let mut candidates = Vec::new();
    for (at, samples) in given.into_iter().enumerate() {
        for (sample, generated) in samples.into_iter().enumerate() {
            candidates.push(Candidate {
                prompt: names[at],
                sample: sample as u32,
                strategy: "temperature=1".to_owned(),
                seed: seed(at, sample),
                reward: Some(f64::from(generated.tokens[0] % 2)),
                tokens: generated.tokens,
                text: String::new(),
                logprobs: generated.logprobs,
                finish: Finish::Stop,
                components: Vec::new(),
            });
        }
    }
    Ok(candidates)
}
