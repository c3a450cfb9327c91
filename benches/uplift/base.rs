//! The base that all recipes start from: made from nothing on the few labels, or a given model fine-tuned on them.

use crate::data::{Data, Question};
use crate::shape::shape;
use crate::tokenizer::{self, ASSISTANT, BOS, EOS, USER};
use crate::{Flags, arm};
use candle_core::Device;
use pelton::config::{Lora as LoraSection, Optimize};
use pelton::model::{AdamW, AdamWConfig, Decoder, Lora, Model, ModelConfig, Precision, PromptGroup, Weights};
use rand::SeedableRng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

/// Examples of one update.
const BATCH: usize = 24;

/// A model, and the adapter that the labels gave it where the model came without them.
pub struct Base {
    pub model: Model,
    pub adapter: Option<Lora>,
}

pub fn make(flags: &Flags, data: &Data) -> anyhow::Result<Base> {
    let Some(path) = &flags.model else { return from_nothing(flags, data) };
    let model = Model::load(path, &Device::Cpu)?;
    let options = Optimize { epochs: flags.base_epochs, learning_rate: flags.learning_rate, ..Optimize::default() };
    let lora = LoraSection { rank: flags.rank, ..LoraSection::default() };
    let adapter = arm::labelled(&model, None, &data.labelled, &lora, &options, 0)?;
    Ok(Base { model, adapter: Some(adapter) })
}

/// A Llama of 3 million parameters; its tokenizer sees all questions, but SQL of the labels only. A third of what it learns
/// from is how the tables' own values become conditions: that needs no label.
fn from_nothing(flags: &Flags, data: &Data) -> anyhow::Result<Base> {
    let folder = flags.out.parent().unwrap_or(&flags.out).join("uplift-base");
    std::fs::create_dir_all(&folder)?;
    let words = data.labelled.iter().chain(&data.unlabelled).map(|q| q.question.clone());
    let literals = data.literals.iter().map(|l| l.as_question().sql);
    let texts: Vec<String> = words.chain(data.labelled.iter().map(|q| q.sql.clone())).chain(literals).collect();
    let tokenizer = tokenizer::train(&texts, 800, &folder)?;
    let config = shape(tokenizer.get_vocab_size(true), 320);
    std::fs::write(folder.join("config.json"), config.to_json()?)?;
    let encode = |text: String| -> anyhow::Result<Vec<u32>> {
        Ok(tokenizer.encode(text, false).map_err(|e| anyhow::anyhow!("{e}"))?.get_ids().to_vec())
    };
    let example = |q: &Question| -> anyhow::Result<PromptGroup> {
        let prompt = encode(format!("{BOS}{USER}{}{ASSISTANT}", q.question))?;
        Ok(PromptGroup { prompt, completions: vec![encode(format!("{}{EOS}", q.sql))?] })
    };
    let labelled: Vec<PromptGroup> = data.labelled.iter().map(example).collect::<anyhow::Result<_>>()?;
    let copied = data.literals.iter().map(|literal| example(&literal.as_question()));
    let copied: Vec<PromptGroup> = copied.collect::<anyhow::Result<_>>()?;
    let weights = train(flags, &config, &labelled, &copied)?;
    weights.write(&folder, Precision::F32)?;
    Ok(Base { model: Model::load(&folder, &Device::Cpu)?, adapter: None })
}

/// Minimises the mean negative log-probability of the answers' tokens.
fn train(
    flags: &Flags,
    config: &ModelConfig,
    labelled: &[PromptGroup],
    copied: &[PromptGroup],
) -> anyhow::Result<Weights> {
    let mut weights = Weights::random(config, 1, &Device::Cpu)?;
    let mut optimizer = AdamW::new(AdamWConfig { beta2: 0.98, weight_decay: 0.1, ..AdamWConfig::default() });
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for step in 0..flags.base_steps {
        let copies = copied.choose_multiple(&mut rng, BATCH / 3);
        let batch: Vec<PromptGroup> = copies.cloned().collect();
        let labels: Vec<PromptGroup> = labelled.choose_multiple(&mut rng, BATCH - batch.len()).cloned().collect();
        let batch = [batch, labels].concat();
        let decoder = Decoder::trainable(config, &weights)?;
        let pass = decoder.forward(&batch, 1.0)?;
        let logprobs: Vec<f32> = pass.tokens().to_vec1()?;
        let share = -1.0 / logprobs.len() as f32;
        let gradients = pass.backward_from(&vec![share; logprobs.len()])?;
        let at = (step + 1) as f64 / flags.base_steps as f64;
        let rate = if at < 0.05 { at / 0.05 } else { 0.05 + 0.95 * 0.5 * (1.0 + (std::f64::consts::PI * at).cos()) };
        optimizer.step(&mut weights.tensors, &gradients, (2e-3 * rate) as f32)?;
        if step % 50 == 49 {
            println!("base: update {}, loss {:.3}", step + 1, logprobs.iter().map(|l| l * share).sum::<f32>());
        }
    }
    Ok(weights)
}
