//! Measures what a TAO cycle gains on the demo's task, seed by seed: `cargo run --release --example uplift`.
//!
//! Trains on unlabelled questions with the label-free reward, and prints greedy execution accuracy and reward on
//! held-out questions before and after, with paired bootstrap intervals, and how well the reward knows right from
//! wrong. The truth is used for these figures alone. The table of `models/sql-tiny/README.md` comes from here.

use candle_core::Device;
use clap::Parser;
use pelton::config::{Algorithm, Explore, Lora as LoraSection, Optimize};
use pelton::demo::questions::{Dial, Question, Side, questions};
use pelton::demo::shop::{SHOP_SEED, Shop};
use pelton::domain::{Candidate, ChatMessage, Prompt, PromptHash, Timestamp};
use pelton::model::{Lora, Model};
use pelton::tao::explore::{answer_greedily, explore};
use pelton::tao::optimize::{Task, optimize};
use pelton::tao::score::{Limits, Scorer};
use pelton::tao::{Watch, rng_seed};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// What is varied; the defaults are the configuration's.
#[derive(Debug, Parser)]
struct Flags {
    /// The base model.
    #[arg(long, default_value = "models/sql-tiny")]
    model: PathBuf,
    /// Cycle seeds.
    #[arg(long, value_delimiter = ',', default_value = "1,2,3")]
    seeds: Vec<u64>,
    /// Unlabelled questions to train on.
    #[arg(long, default_value_t = 256)]
    prompts: usize,
    /// Held-out questions.
    #[arg(long, default_value_t = 200)]
    holdout: usize,
    #[arg(long)]
    samples: Option<u32>,
    #[arg(long, value_delimiter = ',')]
    temperatures: Option<Vec<f64>>,
    #[arg(long)]
    rounds: Option<u32>,
    #[arg(long)]
    epochs: Option<u32>,
    #[arg(long)]
    prompts_per_step: Option<usize>,
    #[arg(long)]
    learning_rate: Option<f64>,
    #[arg(long)]
    rank: Option<usize>,
    #[arg(long)]
    beta_value: Option<f64>,
    #[arg(long)]
    beta_policy: Option<f64>,
    /// GRPO in place of OAPL.
    #[arg(long)]
    grpo: bool,
    /// Prints so many wrong answers that earned the most.
    #[arg(long, default_value_t = 0)]
    show: usize,
    /// Ends after exploring and scoring.
    #[arg(long)]
    score_only: bool,
}

struct Bench {
    model: Model,
    scorer: Scorer,
    train: Vec<Question>,
    holdout: Vec<Question>,
    explore: Explore,
    optimize: Optimize,
    lora: LoraSection,
    show: usize,
    score_only: bool,
}

/// One version's figures on each held-out question.
struct Marks {
    right: Vec<f64>,
    reward: Vec<f64>,
}

fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    let shop = Shop::generate(SHOP_SEED);
    let folder = std::env::temp_dir().join(format!("pelton-uplift-{}", std::process::id()));
    shop.write_parquet(&folder)?;
    let mut pool = questions(&shop, 99, flags.prompts + flags.holdout, Side::Asked, Dial::default());
    let holdout = pool.split_off(flags.prompts);
    let bench = Bench {
        model: Model::load(&flags.model, &Device::Cpu)?,
        scorer: Scorer::open(&folder, Limits::default())?,
        train: pool,
        holdout,
        explore: explore_options(&flags),
        optimize: optimize_options(&flags),
        lora: LoraSection { rank: flags.rank.unwrap_or(LoraSection::default().rank), ..LoraSection::default() },
        show: flags.show,
        score_only: flags.score_only,
    };
    println!("{:?}\n{:?}\n{:?}", bench.explore, bench.optimize, bench.lora);
    let base = bench.mark(None)?;
    println!("base: accuracy {:.3}, reward {:.3}", mean(&base.right), mean(&base.reward));
    for seed in flags.seeds {
        bench.cycle(seed, &base)?;
    }
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

fn explore_options(flags: &Flags) -> Explore {
    let default = Explore { tokens_max: 96, ..Explore::default() };
    Explore {
        samples: flags.samples.unwrap_or(default.samples),
        temperatures: flags.temperatures.clone().unwrap_or(default.temperatures.clone()),
        ..default
    }
}

fn optimize_options(flags: &Flags) -> Optimize {
    let default = Optimize::default();
    Optimize {
        algorithm: if flags.grpo { Algorithm::Grpo } else { default.algorithm },
        rounds: flags.rounds.unwrap_or(default.rounds),
        epochs: flags.epochs.unwrap_or(default.epochs),
        prompts_per_step: flags.prompts_per_step.unwrap_or(default.prompts_per_step),
        learning_rate: flags.learning_rate.unwrap_or(default.learning_rate),
        oapl_beta_value: flags.beta_value.unwrap_or(default.oapl_beta_value),
        oapl_beta_policy: flags.beta_policy.unwrap_or(default.oapl_beta_policy),
        ..default
    }
}

impl Bench {
    fn cycle(&self, seed: u64, base: &Marks) -> anyhow::Result<()> {
        let begun = Instant::now();
        let cancelled = AtomicBool::new(false);
        let watch = Watch::new(&|_| {}, &cancelled);
        let prompts: Vec<Prompt> = self.train.iter().map(prompt).collect();
        let messages: HashMap<PromptHash, Vec<ChatMessage>> =
            prompts.iter().map(|p| (p.hash, p.messages.clone())).collect();
        let mut adapter: Option<Lora> = None;
        for round in 0..self.optimize.rounds {
            let seed = rng_seed(&[seed, u64::from(round)]);
            let at = Instant::now();
            let mut explored = explore(&self.model, adapter.as_ref(), &prompts, &self.explore, seed, &watch)?;
            let explore_s = at.elapsed().as_secs_f64();
            let at = Instant::now();
            let summary = self.scorer.score(&messages, &mut explored.candidates)?;
            println!(
                "seed {seed:016x} round {round}: explore {explore_s:.0} s, score {:.0} s, {summary:?}",
                at.elapsed().as_secs_f64()
            );
            self.diagnose(&explored.candidates);
            if self.score_only {
                return Ok(());
            }
            let at = Instant::now();
            let task = Task {
                model: &self.model,
                start: adapter.as_ref(),
                prompts: &explored.prompt_tokens,
                candidates: &explored.candidates,
            };
            let trained = optimize(&task, &self.lora, &self.optimize, seed, &watch)?;
            let (first, last) = (trained.steps.first(), trained.steps.last());
            println!(
                "  optimize {:.0} s, {:?}, first {first:?}, last {last:?}",
                at.elapsed().as_secs_f64(),
                trained.counts
            );
            adapter = Some(trained.adapter);
        }
        let tuned = self.mark(adapter.as_ref())?;
        let (low, high) = interval(&base.right, &tuned.right);
        let (reward_low, reward_high) = interval(&base.reward, &tuned.reward);
        println!(
            "  accuracy {:.3} -> {:.3} [{low:+.3}, {high:+.3}], reward {:.3} -> {:.3} [{reward_low:+.3}, {reward_high:+.3}], {:.0} s",
            mean(&base.right),
            mean(&tuned.right),
            mean(&base.reward),
            mean(&tuned.reward),
            begun.elapsed().as_secs_f64()
        );
        Ok(())
    }

    fn mark(&self, adapter: Option<&Lora>) -> anyhow::Result<Marks> {
        let conversations: Vec<_> = self.holdout.iter().map(Question::messages).collect();
        let answers = answer_greedily(&self.model, adapter, &conversations, &self.explore)?;
        let pairs: Vec<_> = answers.iter().zip(&self.holdout).map(|((a, _), q)| (a.as_str(), q.sql.as_str())).collect();
        let judged: Vec<_> = conversations.iter().zip(&answers).map(|(c, (a, _))| (c.as_slice(), a.as_str())).collect();
        let right = self.scorer.is_correct(&pairs).into_iter().map(|r| f64::from(u8::from(r))).collect();
        Ok(Marks { right, reward: self.scorer.judge(&judged) })
    }

    /// How well the reward tells right from wrong, by the truth that it never saw.
    fn diagnose(&self, candidates: &[Candidate]) {
        let truth: HashMap<PromptHash, &Question> = self.train.iter().map(|q| (q.hash(), q)).collect();
        let pairs: Vec<_> = candidates.iter().map(|c| (c.text.as_str(), truth[&c.prompt].sql.as_str())).collect();
        let right = self.scorer.is_correct(&pairs);
        let reward = |i: usize| candidates[i].reward.unwrap_or(0.0);
        let (mut ordered, mut pairs_of_groups, mut best, mut any, mut groups) = (0.0, 0.0, 0, 0, 0);
        let mut fooled: Vec<(usize, f64)> = Vec::new();
        let mut at = 0;
        while at < candidates.len() {
            let end = (at..candidates.len())
                .find(|&i| candidates[i].prompt != candidates[at].prompt)
                .unwrap_or(candidates.len());
            for i in (at..end).filter(|&i| right[i]) {
                for j in (at..end).filter(|&j| !right[j]) {
                    pairs_of_groups += 1.0;
                    ordered += if reward(i) > reward(j) {
                        1.0
                    } else if reward(i) == reward(j) {
                        0.5
                    } else {
                        0.0
                    };
                }
            }
            let top = (at..end).max_by(|&a, &b| reward(a).total_cmp(&reward(b)).then(b.cmp(&a))).unwrap_or(at);
            groups += 1;
            best += usize::from(right[top]);
            any += usize::from((at..end).any(|i| right[i]));
            if !right[top] {
                fooled.push((top, reward(top)));
            }
            at = end;
        }
        let of = |n: usize| n as f64 / f64::from(groups);
        println!(
            "  samples right {:.3}, best by reward {:.3}, any right {:.3}, right above wrong within a prompt {:.3}",
            right.iter().filter(|r| **r).count() as f64 / right.len() as f64,
            of(best),
            of(any),
            ordered / pairs_of_groups
        );
        fooled.sort_by(|a, b| b.1.total_cmp(&a.1));
        for (i, reward) in fooled.into_iter().take(self.show) {
            let question = truth[&candidates[i].prompt];
            println!("  {reward:.2} {}\n       {}\n       {}", question.text, candidates[i].text, question.sql);
        }
    }
}

fn prompt(question: &Question) -> Prompt {
    let (hash, messages) = (question.hash(), question.messages());
    Prompt { request_id: hash.to_string(), hash, messages, request_time: Timestamp::EPOCH }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The 95 % interval of the mean paired difference, from 4,000 resamples.
fn interval(before: &[f64], after: &[f64]) -> (f64, f64) {
    let differences: Vec<f64> = after.iter().zip(before).map(|(a, b)| a - b).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut resample = || {
        mean(&(0..differences.len()).map(|_| differences[rng.random_range(0..differences.len())]).collect::<Vec<_>>())
    };
    let mut means: Vec<f64> = (0..4000).map(|_| resample()).collect();
    means.sort_by(f64::total_cmp);
    (means[100], means[3900])
}
