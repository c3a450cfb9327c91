//! The base that all recipes start from: made from nothing on the first labels, or a given model fine-tuned on them.

use crate::data::{Data, Question};
use crate::tokenizer::{self, ASSISTANT, BOS, EOS, USER};
use crate::{Flags, arm};
use candle_core::Device;
use pelton::config::{Lora as LoraSection, Optimize};
use pelton::model::{
    AdamW, AdamWConfig, Decoder, LayerConfig, Lora, Model, ModelConfig, Options, Precision, PromptGroup, Rope, Weights,
};
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

/// A Llama of 3 million parameters; its tokenizer sees all questions, but SQL of the labels only.
fn from_nothing(flags: &Flags, data: &Data) -> anyhow::Result<Base> {
    let folder = flags.out.parent().unwrap_or(&flags.out).join("uplift-base");
    std::fs::create_dir_all(&folder)?;
    let words = data.labelled.iter().chain(&data.unlabelled).map(|q| q.question.clone());
    let texts: Vec<String> = words.chain(data.labelled.iter().map(|q| q.sql.clone())).collect();
    let tokenizer = tokenizer::train(&texts, 800, &folder)?;
    let config = shape(tokenizer.get_vocab_size(true));
    std::fs::write(folder.join("config.json"), config.to_json()?)?;
    let encode = |text: String| -> anyhow::Result<Vec<u32>> {
        Ok(tokenizer.encode(text, false).map_err(|e| anyhow::anyhow!("{e}"))?.get_ids().to_vec())
    };
    let example = |q: &Question| -> anyhow::Result<PromptGroup> {
        let prompt = encode(format!("{BOS}{USER}{}{ASSISTANT}", q.question))?;
        Ok(PromptGroup { prompt, completions: vec![encode(format!("{}{EOS}", q.sql))?] })
    };
    let examples: Vec<PromptGroup> = data.labelled.iter().map(example).collect::<anyhow::Result<_>>()?;
    let weights = train(flags, &config, &examples)?;
    weights.write(&folder, Precision::F32)?;
    Ok(Base { model: Model::load(&folder, &Device::Cpu)?, adapter: None })
}

fn shape(vocab_size: usize) -> ModelConfig {
    ModelConfig {
        model_type: "llama".to_owned(),
        hidden_size: 224,
        intermediate_size: 576,
        layers: vec![LayerConfig::PLAIN; 6],
        heads: 8,
        kv_heads: 2,
        head_dim: 28,
        rms_norm_eps: 1e-5,
        rope: Rope::plain(10_000.0),
        local_rope: None,
        options: Options::llama(28),
        tie_word_embeddings: true,
        vocab_size,
        max_position_embeddings: 320,
        bos_token_id: Some(0),
        eos_token_ids: vec![1],
    }
}

/// Minimises the mean negative log-probability of the answers' tokens.
fn train(flags: &Flags, config: &ModelConfig, examples: &[PromptGroup]) -> anyhow::Result<Weights> {
    let mut weights = Weights::random(config, 1, &Device::Cpu)?;
    let mut optimizer = AdamW::new(AdamWConfig { beta2: 0.98, weight_decay: 0.1, ..AdamWConfig::default() });
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for step in 0..flags.base_steps {
        let batch: Vec<PromptGroup> = examples.choose_multiple(&mut rng, BATCH).cloned().collect();
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
