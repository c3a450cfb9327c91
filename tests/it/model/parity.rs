//! The same numbers as Hugging Face transformers and PEFT (a committed fixture), and as candle-transformers.

use std::collections::HashMap;

use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama;
use pelton::model::{Decoder, PromptGroup, Tensors, Weights, read_safetensors};

use super::{
    CPU, check_close, fixture, fixture_adapter, fixture_config, fixture_decoder, fixture_weights, largest_difference,
    small_config, values,
};

const TOLERANCE: f32 = 1e-4;
/// Folders of `tests/fixtures/hf`: together they use every option of the decoder, with windows shorter than the text.
const FAMILIES: [&str; 8] =
    ["llama_tied", "llama_untied", "llama_biased", "mistral", "qwen2", "qwen3", "smollm3", "gemma3"];
/// As in `scripts/fixtures/hf_models.py`.
const TEMPERATURE: f32 = 0.7;

struct Expected {
    tensors: Tensors,
    rows: Vec<Vec<u32>>,
    prompt_lengths: Vec<usize>,
}

impl Expected {
    fn read(name: &str) -> Self {
        let tensors = read_safetensors(&fixture(name).join("expected.safetensors"), &CPU).unwrap();
        let ids = tensors["ids"].to_vec2::<f32>().unwrap();
        let lengths = values(&tensors["lengths"]);
        let row = |(ids, length): (&Vec<f32>, &f32)| ids[..*length as usize].iter().map(|id| *id as u32).collect();
        let rows = ids.iter().zip(&lengths).map(row).collect();
        let prompt_lengths = values(&tensors["prompt_lengths"]).iter().map(|length| *length as usize).collect();
        Self { tensors, rows, prompt_lengths }
    }

    fn groups(&self) -> Vec<PromptGroup> {
        let split = |(row, at): (&Vec<u32>, &usize)| PromptGroup {
            prompt: row[..*at].to_vec(),
            completions: vec![row[*at..].to_vec()],
        };
        self.rows.iter().zip(&self.prompt_lengths).map(split).collect()
    }

    fn check_logits(&self, decoder: &Decoder, name: &str) {
        for (index, found) in decoder.logits(&self.rows).unwrap().iter().enumerate() {
            let expected = self.tensors[name].get(index).unwrap().narrow(0, 0, self.rows[index].len()).unwrap();
            let difference = largest_difference(&values(found), &values(&expected));
            assert!(difference < TOLERANCE, "{name} of row {index} differs by {difference}");
        }
    }

    /// The tensors whose names begin with `prefix`, without it.
    fn named(&self, prefix: &str) -> Tensors {
        let strip = |(name, tensor): (&String, &Tensor)| Some((name.strip_prefix(prefix)?.to_owned(), tensor.clone()));
        self.tensors.iter().filter_map(strip).collect()
    }
}

#[test]
fn logits_are_those_of_hugging_face() {
    for name in FAMILIES {
        let expected = Expected::read(name);
        let base = fixture_decoder(name);
        expected.check_logits(&base, "logits");
        expected.check_logits(&base.with_adapter(&fixture_adapter(name)).unwrap(), "adapter_logits");
    }
}

#[test]
fn logprobs_and_adapter_gradients_are_those_of_hugging_face() {
    for name in FAMILIES {
        let expected = Expected::read(name);
        let decoder = fixture_decoder(name).with_adapter(&fixture_adapter(name)).unwrap();
        let pass = decoder.forward(&expected.groups(), TEMPERATURE).unwrap();
        let found = values(pass.tokens());
        for (index, range) in pass.completions().iter().enumerate() {
            let at = expected.prompt_lengths[index] - 1;
            let row = expected.tensors["logprobs"].get(index).unwrap();
            let row = values(&row.narrow(0, at, range.len()).unwrap());
            assert!(largest_difference(&found[range.clone()], &row) < TOLERANCE, "{name}, row {index}");
        }
        let loss = pass.tokens().sum_all().unwrap().neg().unwrap();
        check_close(&pass.backward(&loss).unwrap(), &expected.named("gradient."), TOLERANCE);
    }
}

#[test]
fn gradients_of_all_weights_are_those_of_hugging_face() {
    for name in FAMILIES {
        let config = fixture_config(name);
        let expected = Expected::read(name);
        // The script writes them for tied models: there the embedding's gradient comes from both of its uses.
        if !config.tie_word_embeddings {
            continue;
        }
        let decoder = Decoder::trainable(&config, &fixture_weights(name)).unwrap();
        let pass = decoder.forward(&expected.groups(), TEMPERATURE).unwrap();
        let loss = pass.sequences().unwrap().sum_all().unwrap().neg().unwrap();
        check_close(&pass.backward(&loss).unwrap(), &expected.named("full_gradient."), TOLERANCE);
    }
}

#[test]
fn logits_are_those_of_candle_transformers() {
    for tied in [true, false] {
        let config = pelton::model::ModelConfig { tie_word_embeddings: tied, ..small_config() };
        let mut weights = Weights::random(&config, 5, &CPU).unwrap();
        for tensor in weights.tensors.values_mut().filter(|tensor| tensor.rank() == 2) {
            *tensor = (&*tensor * 12.0).unwrap();
        }
        let row: Vec<u32> = (0..17).map(|i| (i * 7 + 3) % 50).collect();
        let found = Decoder::frozen(&config, &weights).unwrap().logits(std::slice::from_ref(&row)).unwrap();
        let found = found[0].to_vec2::<f32>().unwrap();
        let peer = candle_llama(&config, &weights);
        // candle-transformers gives the logits of the last position only.
        for (at, found) in found.iter().enumerate() {
            let ids = Tensor::new(&row[..=at], &CPU).unwrap().unsqueeze(0).unwrap();
            let mut cache = llama::Cache::new(false, DType::F32, &candle_config(&config), &CPU).unwrap();
            let expected = values(&peer.forward(&ids, 0, &mut cache).unwrap());
            let difference = largest_difference(found, &expected);
            assert!(difference < TOLERANCE, "position {at} differs by {difference}");
        }
    }
}

fn candle_config(config: &pelton::model::ModelConfig) -> llama::Config {
    llama::Config {
        hidden_size: config.hidden_size,
        intermediate_size: config.intermediate_size,
        vocab_size: config.vocab_size,
        num_hidden_layers: config.layers.len(),
        num_attention_heads: config.heads,
        num_key_value_heads: config.kv_heads,
        use_flash_attn: false,
        rms_norm_eps: config.rms_norm_eps,
        rope_theta: config.rope.theta as f32,
        bos_token_id: None,
        eos_token_id: None,
        rope_scaling: None,
        max_position_embeddings: config.max_position_embeddings,
        tie_word_embeddings: config.tie_word_embeddings,
    }
}

fn candle_llama(config: &pelton::model::ModelConfig, weights: &Weights) -> llama::Llama {
    let tensors: HashMap<String, Tensor> = weights.tensors.clone().into_iter().collect();
    llama::Llama::load(VarBuilder::from_tensors(tensors, DType::F32, &CPU), &candle_config(config)).unwrap()
}
