//! Does it learn? `cargo bench --bench uplift -- --questions FOLDER`: recipes from one base, on questions without labels.
//!
//! The folder holds `train.jsonl` and `dev.jsonl` (`{"question", "sql"}` a line) and `tables/*.parquet`. The base sees some
//! of `train.jsonl`'s labels only: a small Llama made here from nothing, or `--model` with an adapter fine-tuned on
//! those. Then, from that base, for each seed: TAO by each algorithm on the other questions without their SQL, zero-label
//! learning and best-of-N on the same, and fine-tuning on all labels, the bar. What is measured is whether the SQL's result
//! is right, greedily and in any of eight samples, on dev and on the unlabelled questions. The truth is used for these
//! figures and for the labelled recipes alone. Everything is printed, and written to `target/bench/uplift.json`.

mod arm;
mod base;
mod data;
mod measure;
#[path = "../../examples/pretrain/shape.rs"]
mod shape;
#[path = "../../examples/pretrain/tokenizer.rs"]
mod tokenizer;

use arm::{Arm, Recipe};
use clap::Parser;
use data::Data;
use measure::{Bench, Measured};
use pelton::config::{Explore, Optimize};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Instant;

/// What is varied.
#[derive(Debug, Clone, Parser)]
struct Flags {
    /// The folder of questions.
    #[arg(long)]
    questions: PathBuf,
    /// A base to start from: a Hugging Face folder or GGUF file; left out, a small one is made from nothing.
    #[arg(long)]
    model: Option<PathBuf>,
    /// Labels that the base sees.
    #[arg(long, default_value_t = 150)]
    labels: usize,
    /// What draws the questions with labels.
    #[arg(long, default_value_t = 0)]
    split_seed: u64,
    /// Updates that make the base from nothing.
    #[arg(long, default_value_t = 400)]
    base_steps: usize,
    /// Passes over the labels that make the base from `--model`.
    #[arg(long, default_value_t = 4)]
    base_epochs: u32,
    /// The recipes.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "oapl,grpo,best-of-n,zero-label,labelled")]
    arms: Vec<Arm>,
    /// One run of each recipe a seed.
    #[arg(long, value_delimiter = ',', default_value = "1,2,3")]
    seeds: Vec<u64>,
    /// Samples a prompt; several give the curve over tuning compute.
    #[arg(long, value_delimiter = ',', default_value = "8")]
    samples: Vec<u32>,
    /// The ladder of temperatures.
    #[arg(long, value_delimiter = ',', default_value = "0.8,1.2")]
    temperatures: Vec<f64>,
    /// Rounds of exploring, scoring and optimizing.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Passes over a round's responses.
    #[arg(long, default_value_t = 4)]
    epochs: u32,
    /// Passes over all labels in labelled fine-tuning.
    #[arg(long, default_value_t = 12)]
    labelled_epochs: u32,
    /// AdamW's peak rate.
    #[arg(long, default_value_t = 1e-3)]
    learning_rate: f64,
    /// Rank of the adapter.
    #[arg(long, default_value_t = 16)]
    rank: usize,
    /// OAPL's β₂.
    #[arg(long)]
    beta_policy: Option<f64>,
    /// The longest response in tokens.
    #[arg(long, default_value_t = 160)]
    tokens_max: usize,
    /// Unlabelled questions, where not all are wanted.
    #[arg(long)]
    prompts: Option<usize>,
    /// Where the figures go.
    #[arg(long, default_value = "target/bench/uplift.json")]
    out: PathBuf,
    /// What `cargo bench` passes.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    let begun = Instant::now();
    let mut data = Data::read(&flags.questions, flags.labels, flags.split_seed)?;
    data.unlabelled.truncate(flags.prompts.unwrap_or(usize::MAX));
    let base = base::make(&flags, &data)?;
    let bench = Bench::open(&flags, &base, &data)?;
    let before = bench.measure(base.adapter.as_ref())?;
    println!("base: {before} ({:.0} s)", begun.elapsed().as_secs_f64());
    let mut rows = vec![row("base", 0, 0, &before, 0.0, &[])];
    for &samples in &flags.samples {
        for &arm in &flags.arms {
            // Given labels do not depend on samples.
            if arm == Arm::Labelled && samples != flags.samples[0] {
                continue;
            }
            let mut measured = Vec::new();
            for &seed in &flags.seeds {
                let at = Instant::now();
                let recipe = Recipe { arm, seed, explore: explore(&flags, samples), optimize: optimize(&flags, arm) };
                let (adapter, curve) = recipe.run(&bench, &base, &data, flags.rank)?;
                let after = bench.measure(Some(&adapter))?;
                let seconds = at.elapsed().as_secs_f64();
                println!("{arm:?}, {samples} samples, seed {seed}: {after} ({seconds:.0} s)");
                rows.push(row(&format!("{arm:?}"), samples, seed, &after, seconds, &curve));
                write(&flags, &rows)?;
                measured.push(after);
            }
            println!("{arm:?}, {samples} samples: {}", measure::spread(&measured));
        }
    }
    write(&flags, &rows)?;
    println!("{:.0} s; figures in {}", begun.elapsed().as_secs_f64(), flags.out.display());
    Ok(())
}

fn explore(flags: &Flags, samples: u32) -> Explore {
    let temperatures = flags.temperatures.clone();
    Explore { samples, temperatures, tokens_max: flags.tokens_max, batch_rows: 128, ..Explore::default() }
}

fn optimize(flags: &Flags, arm: Arm) -> Optimize {
    let default = Optimize::default();
    Optimize {
        algorithm: arm.algorithm().unwrap_or(default.algorithm),
        rounds: flags.rounds,
        epochs: if arm == Arm::Labelled { flags.labelled_epochs } else { flags.epochs },
        learning_rate: flags.learning_rate,
        oapl_beta_policy: flags.beta_policy.unwrap_or(default.oapl_beta_policy),
        ..default
    }
}

fn row(arm: &str, samples: u32, seed: u64, measured: &Measured, seconds: f64, rewards: &[f64]) -> Value {
    json!({"arm": arm, "samples": samples, "seed": seed, "seconds": seconds, "rewards_by_round": rewards,
           "dev_greedy": measured.dev_greedy, "dev_pass_8": measured.dev_pass_8,
           "unlabelled_greedy": measured.unlabelled_greedy})
}

fn write(flags: &Flags, rows: &[Value]) -> anyhow::Result<()> {
    std::fs::create_dir_all(flags.out.parent().unwrap_or(&flags.out))?;
    let all = json!({"settings": format!("{flags:?}"), "rows": rows});
    Ok(std::fs::write(&flags.out, format!("{all:#}\n"))?)
}
