//! Promises of `model`: parity with Hugging Face and candle-transformers, gradients, sampling, folders, the optimiser.

mod classifier;
mod folders;
mod generation;
mod gguf;
mod gradients;
mod optimiser;
mod parity;

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use pelton::model::{Decoder, Lora, LoraConfig, ModelConfig, PromptGroup, Tensors, Weights};

const CPU: Device = Device::Cpu;

/// A folder that `scripts/fixtures/hf_models.py` wrote.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hf").join(name)
}

fn fixture_config(name: &str) -> ModelConfig {
    let path = fixture(name).join("config.json");
    ModelConfig::parse(&std::fs::read_to_string(&path).unwrap(), &path).unwrap()
}

fn fixture_weights(name: &str) -> Weights {
    Weights::read(&fixture(name), &fixture_config(name), &CPU).unwrap()
}

fn fixture_decoder(name: &str) -> Decoder {
    Decoder::frozen(&fixture_config(name), &fixture_weights(name)).unwrap()
}

fn fixture_adapter(name: &str) -> Lora {
    Lora::load(&fixture(name).join("adapter"), &fixture_config(name), &CPU).unwrap()
}

/// A model of random weights that are large enough for every part to matter, and its configuration.
fn random_decoder(seed: u64) -> Decoder {
    let config = small_config();
    let mut weights = Weights::random(&config, seed, &CPU).unwrap();
    for tensor in weights.tensors.values_mut().filter(|tensor| tensor.rank() == 2) {
        *tensor = (&*tensor * 12.0).unwrap();
    }
    Decoder::frozen(&config, &weights).unwrap()
}

fn small_config() -> ModelConfig {
    let text = r#"{"model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "rope_theta": 1000.0,
        "tie_word_embeddings": true, "vocab_size": 50, "max_position_embeddings": 64}"#;
    ModelConfig::parse(text, Path::new("small")).unwrap()
}

/// A fresh adapter whose `B` is not zero.
fn random_adapter(config: &ModelConfig, seed: u64) -> Lora {
    let settings = LoraConfig { rank: 3, alpha: 6.0, ..LoraConfig::default() };
    let mut lora = Lora::new(config, settings.clone(), seed, &CPU).unwrap();
    let other = Weights::random(config, seed + 1, &CPU).unwrap();
    let pool = values(&other.tensors["model.layers.0.mlp.down_proj.weight"]);
    for (name, tensor) in &mut lora.tensors {
        if name.contains("lora_B") {
            let filled: Vec<f32> = pool.iter().cycle().take(tensor.elem_count()).map(|v| v * 20.0).collect();
            *tensor = Tensor::from_vec(filled, tensor.shape(), &CPU).unwrap();
        }
    }
    lora
}

fn group(prompt: &[u32], completions: &[&[u32]]) -> PromptGroup {
    PromptGroup { prompt: prompt.to_vec(), completions: completions.iter().map(|c| c.to_vec()).collect() }
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap()
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Every tensor of `expected` is in `found`, no other, and they differ by less than `tolerance`.
fn check_close(found: &Tensors, expected: &Tensors, tolerance: f32) {
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, expected) in expected {
        assert_eq!(found[name].dims(), expected.dims(), "{name}");
        // Relative where values are above one: f32 has no more places.
        let largest = values(expected).iter().fold(1f32, |largest, value| largest.max(value.abs()));
        let difference = largest_difference(&values(&found[name]), &values(expected)) / largest;
        assert!(difference < tolerance, "{name} differs by {difference}");
    }
}
