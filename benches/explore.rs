//! Sampling against `generate` of Hugging Face transformers: the same weights, prompts, responses and threads.
//!
//! ```text
//! cargo bench --bench explore -- [--shape NAME] [--prompts N] [--samples N] [--new-tokens N] [--rows N] [--threads N] [--peer none]
//! ```
//!
//! Figures go to `target/bench/explore.json`. `scripts/python.sh train` makes the peer's environment;
//! `PELTON_BENCH_PYTHON` names another.

#[path = "engine/mod.rs"]
mod engine;

use anyhow::{Result, ensure};
use candle_core::Device;
use engine::{Took, Work};
use pelton::model::{GenerationOptions, GenerationRequest, Model};
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<()> {
    engine::main("explore", ours)
}

fn ours(work: &Work) -> Result<Took> {
    let model = Model::load(&work.folder, &Device::Cpu)?;
    let requests: Vec<GenerationRequest> = work
        .prompts
        .iter()
        .enumerate()
        .map(|(at, prompt)| {
            let seeds = (0..work.samples).map(|sample| (at * work.samples + sample) as u64).collect();
            GenerationRequest { prompt: prompt.clone(), seeds }
        })
        .collect();
    let options =
        GenerationOptions { new_tokens_max: work.new_tokens, rows_max: work.rows, ..GenerationOptions::default() };
    model.decoder().generate(&requests[..1], &GenerationOptions { new_tokens_max: 2, ..options.clone() })?;
    let began = Instant::now();
    let given = model.decoder().generate(&requests, &options)?;
    let explored = began.elapsed();
    ensure!(given.iter().flatten().all(|g| g.tokens.len() == work.new_tokens), "a response has another length");
    engine::took(explored, Duration::ZERO)
}
