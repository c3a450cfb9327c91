//! Makes the demo's base model `models/sql-tiny` from nothing: `cargo run --release --example pretrain`.
//!
//! A Llama of 3 million parameters that turns questions about the shop into SQL, taught with few labels, so that it is
//! right about half of the time: the head-room that a TAO cycle harvests. Everything derives from one seed. What it
//! sees: labelled questions of the labelled side only, SQL without questions, and each value of the database with the
//! literal that it becomes. It never sees a question that the demo's users ask.

mod card;
mod shape;
mod tokenizer;

use anyhow::Context;
use candle_core::Device;
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use pelton::config::Explore;
use pelton::demo::questions::{Dial, Question, Side, questions, statements};
use pelton::demo::shop::{SHOP_SEED, Shop};
use pelton::domain::{Prompt, Timestamp};
use pelton::model::{AdamW, AdamWConfig, Decoder, Model, ModelConfig, Precision, PromptGroup, Weights};
use pelton::tao::explore::{answer_greedily, explore};
use pelton::tao::score::{Limits, Scorer};
use pelton::tao::{Watch, rng_seed};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// What the model is made from; the defaults made the one in the repository.
#[derive(Debug, Clone, Parser)]
pub struct Recipe {
    /// Where the model is written.
    #[arg(long, default_value = "models/sql-tiny")]
    pub out: PathBuf,
    /// The seed of everything.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Labelled questions.
    #[arg(long, default_value_t = 300)]
    pub labels: usize,
    /// Updates.
    #[arg(long, default_value_t = 340)]
    pub steps: usize,
    /// Examples of one update.
    #[arg(long, default_value_t = 48)]
    pub batch: usize,
    /// The peak learning rate of AdamW.
    #[arg(long, default_value_t = 2e-3)]
    pub learning_rate: f64,
    /// The share of examples that are labelled questions; the rest is SQL and literals.
    #[arg(long, default_value_t = 0.55)]
    pub labelled_share: f64,
    /// Tokens in the vocabulary.
    #[arg(long, default_value_t = 800)]
    pub vocabulary: usize,
    /// Held-out questions that the score is measured on.
    #[arg(long, default_value_t = 200)]
    pub held_out: usize,
}

/// What was measured on held-out questions.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// The share of greedy answers with the right result.
    pub greedy: f64,
    /// The share of samples at temperature 1 with the right result.
    pub pass_1: f64,
    /// The share of questions with a right result among 8 samples at temperature 1.
    pub pass_8: f64,
    /// Seconds of training.
    pub seconds: f64,
    /// The last updates' mean loss on labelled questions, in nats a token.
    pub loss: f64,
}

fn main() -> anyhow::Result<()> {
    let recipe = Recipe::parse();
    let shop = Shop::generate(SHOP_SEED);
    let data = Data::make(&shop, &recipe)?;
    let config = shape::shape(data.tokens(), 256);
    std::fs::write(recipe.out.join("config.json"), config.to_json()?)?;
    println!(
        "{} parameters, {} labels, {} tokens in the vocabulary",
        config.parameters(),
        recipe.labels,
        data.tokens()
    );
    let begun = Instant::now();
    let (weights, loss) = train(&recipe, &config, &data)?;
    let seconds = begun.elapsed().as_secs_f64();
    weights.write(&recipe.out, Precision::F16)?;
    let measured = Measured { seconds, loss, ..measure(&recipe, &shop)? };
    println!("{measured:?}");
    std::fs::write(recipe.out.join("README.md"), card::text(&recipe, &config, &measured))?;
    Ok(())
}

/// Examples as tokens: a prompt and what follows it.
struct Data {
    labelled: Vec<PromptGroup>,
    unlabelled: Vec<PromptGroup>,
    tokens: usize,
}

impl Data {
    fn make(shop: &Shop, recipe: &Recipe) -> anyhow::Result<Self> {
        let dial = Dial::default();
        let labels = questions(shop, rng_seed(&[recipe.seed, 1]), recipe.labels, Side::Labelled, dial);
        let sql = statements(shop, rng_seed(&[recipe.seed, 2]), 3000, dial);
        let literals = literals(shop);
        let wordings = questions(shop, rng_seed(&[recipe.seed, 3]), 3000, Side::Labelled, dial);
        let texts: Vec<String> = wordings.into_iter().map(|q| q.text).chain(sql.iter().cloned()).collect();
        let tokenizer = tokenizer::train(&texts, recipe.vocabulary, &recipe.out)?;
        let encode = |text: String| -> anyhow::Result<Vec<u32>> {
            Ok(tokenizer.encode(text, false).map_err(|e| anyhow::anyhow!("{e}"))?.get_ids().to_vec())
        };
        let example = |prompt: String, answer: &str| -> anyhow::Result<PromptGroup> {
            let completion = encode(format!("{answer}{}", tokenizer::EOS))?;
            Ok(PromptGroup { prompt: encode(prompt)?, completions: vec![completion] })
        };
        use tokenizer::{ASSISTANT, BOS, USER};
        let ask = |text: &str| format!("{BOS}{USER}{text}{ASSISTANT}");
        let labelled = labels.iter().map(|q| example(ask(&q.text), &q.sql)).collect::<anyhow::Result<_>>()?;
        let plain = sql.iter().map(|sql| example(format!("{BOS}{ASSISTANT}"), sql));
        let linked = literals.iter().map(|(value, literal)| example(ask(value), literal));
        let unlabelled = plain.chain(linked.cycle().take(2000)).collect::<anyhow::Result<_>>()?;
        Ok(Self { labelled, unlabelled, tokens: tokenizer.get_vocab_size(true) })
    }

    fn tokens(&self) -> usize {
        self.tokens
    }

    /// A random batch: so many labelled examples, the rest unlabelled.
    fn batch(&self, recipe: &Recipe, rng: &mut ChaCha8Rng) -> Vec<PromptGroup> {
        let pick = |rng: &mut ChaCha8Rng| {
            let from = if rng.random_bool(recipe.labelled_share) { &self.labelled } else { &self.unlabelled };
            from.choose(rng).expect("the data is not empty").clone()
        };
        (0..recipe.batch).map(|_| pick(rng)).collect()
    }
}

/// Every text value of the database, and the condition that it becomes: read off the tables, without any question.
fn literals(shop: &Shop) -> Vec<(String, String)> {
    let condition = |column: &str, value: &str| (value.to_owned(), format!("{column} = '{value}'"));
    let mut all: Vec<(String, String)> = Vec::new();
    all.extend(
        shop.customers
            .iter()
            .flat_map(|c| [condition("name", &c.name), condition("city", &c.city), condition("country", &c.country)]),
    );
    all.extend(shop.products.iter().flat_map(|p| [condition("name", &p.name), condition("category", &p.category)]));
    all.extend(shop.suppliers.iter().map(|s| condition("name", &s.name)));
    all.extend(shop.employees.iter().flat_map(|e| [condition("name", &e.name), condition("role", &e.role)]));
    all.extend(shop.orders.iter().take(20).map(|o| condition("status", &o.status)));
    all
}

/// Minimises the mean negative log-probability of the answers' tokens.
fn train(recipe: &Recipe, config: &ModelConfig, data: &Data) -> anyhow::Result<(Weights, f64)> {
    let mut weights = Weights::random(config, rng_seed(&[recipe.seed, 4]), &Device::Cpu)?;
    let mut optimizer = AdamW::new(AdamWConfig { beta2: 0.98, weight_decay: 0.05, ..AdamWConfig::default() });
    let mut rng = ChaCha8Rng::seed_from_u64(rng_seed(&[recipe.seed, 5]));
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} loss {msg}, {eta} left")?;
    let bar = ProgressBar::new(recipe.steps as u64).with_style(style);
    let mut smooth = f64::NAN;
    for step in 0..recipe.steps {
        let batch = data.batch(recipe, &mut rng);
        let decoder = Decoder::trainable(config, &weights)?;
        let pass = decoder.forward(&batch, 1.0)?;
        let logprobs: Vec<f32> = pass.tokens().to_vec1()?;
        let share = -1.0 / logprobs.len() as f32;
        let loss = logprobs.iter().map(|l| f64::from(l * share)).sum::<f64>();
        let gradients = pass.backward_from(&vec![share; logprobs.len()])?;
        optimizer.step(&mut weights.tensors, &gradients, rate(recipe, step) as f32)?;
        smooth = if smooth.is_nan() { loss } else { 0.95 * smooth + 0.05 * loss };
        bar.set_message(format!("{smooth:.3}"));
        bar.inc(1);
        if step % 50 == 49 && bar.is_hidden() {
            println!("step {} loss {smooth:.3}", step + 1);
        }
    }
    bar.finish();
    Ok((weights, smooth))
}

/// Up over the first twentieth, then along a cosine to a twentieth.
fn rate(recipe: &Recipe, step: usize) -> f64 {
    let at = (step + 1) as f64 / recipe.steps as f64;
    let factor = if at < 0.05 { at / 0.05 } else { 0.05 + 0.95 * 0.5 * (1.0 + (std::f64::consts::PI * at).cos()) };
    recipe.learning_rate * factor
}

/// Greedy accuracy and pass@8 on questions of the asked side.
fn measure(recipe: &Recipe, shop: &Shop) -> anyhow::Result<Measured> {
    let folder = std::env::temp_dir().join(format!("pelton-pretrain-{}", std::process::id()));
    shop.write_parquet(&folder)?;
    let scorer = Scorer::open(&folder, Limits::default())?;
    let model = Model::load(&recipe.out, &Device::Cpu).context("the model that was just written")?;
    let asked = questions(shop, rng_seed(&[recipe.seed, 6]), recipe.held_out, Side::Asked, Dial::default());
    let sampling = Explore { temperatures: vec![1.0], tokens_max: 96, ..Explore::default() };
    let conversations: Vec<_> = asked.iter().map(Question::messages).collect();
    let answers = answer_greedily(&model, None, &conversations, &sampling)?;
    let pairs: Vec<_> = answers.iter().zip(&asked).map(|((text, _), q)| (text.as_str(), q.sql.as_str())).collect();
    let right = scorer.is_correct(&pairs);
    for ((given, truth), right) in pairs.iter().zip(&right).take(12) {
        println!("{} {given}\n      {truth}", if *right { "right" } else { "wrong" });
    }
    let prompts: Vec<Prompt> = asked.iter().map(prompt).collect();
    let cancelled = AtomicBool::new(false);
    let explored = explore(&model, None, &prompts, &sampling, recipe.seed, &Watch::new(&|_| {}, &cancelled))?;
    let truth = |c: &pelton::domain::Candidate| {
        &asked[prompts.iter().position(|p| p.hash == c.prompt).expect("its prompt")].sql
    };
    let sampled: Vec<_> = explored.candidates.iter().map(|c| (c.text.as_str(), truth(c).as_str())).collect();
    let sampled = scorer.is_correct(&sampled);
    let share = |right: &mut dyn Iterator<Item = bool>| {
        let all: Vec<bool> = right.collect();
        all.iter().filter(|r| **r).count() as f64 / all.len() as f64
    };
    remove(&folder);
    Ok(Measured {
        greedy: share(&mut right.into_iter()),
        pass_1: share(&mut sampled.iter().copied()),
        pass_8: share(&mut sampled.chunks(8).map(|some| some.contains(&true))),
        seconds: 0.0,
        loss: 0.0,
    })
}

fn prompt(question: &Question) -> Prompt {
    Prompt {
        request_id: question.hash().to_string(),
        hash: question.hash(),
        messages: question.messages(),
        request_time: Timestamp::EPOCH,
    }
}

fn remove(folder: &Path) {
    if let Err(error) = std::fs::remove_dir_all(folder) {
        eprintln!("{} is left behind: {error}", folder.display());
    }
}
