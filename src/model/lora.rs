//! Low-rank adapters (Hu et al. 2021): which projections they change, their matrices, their first values.
//!
//! `y = x·(W + α/r · B·A)ᵀ`. `A` begins Kaiming-uniform, `B` at zero, so that a fresh adapter changes nothing. Names are
//! PEFT's, so that the tensors are written as they are.

use candle_core::{Device, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::config::ModelConfig;
use super::error::{Error, Result};
use super::weights::Tensors;

/// All projections of a layer by the last part of their names, in PEFT's terms `target_modules`.
pub const ALL_TARGETS: &[&str] = &["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// Rank, scale and reach of an adapter.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraConfig {
    /// Rank of the change to each weight.
    pub rank: usize,
    /// The change is scaled by `alpha / rank`.
    pub alpha: f64,
    /// Which projections change; a subset of [`ALL_TARGETS`].
    pub targets: Vec<String>,
}

impl Default for LoraConfig {
    /// Rank 16, alpha 32, all projections: what TAO-style tuning of small models wants.
    fn default() -> Self {
        Self { rank: 16, alpha: 32.0, targets: ALL_TARGETS.iter().map(|target| (*target).to_owned()).collect() }
    }
}

/// An adapter: its configuration and its matrices by PEFT's names.
#[derive(Debug, Clone)]
pub struct Lora {
    /// Rank, scale and reach.
    pub config: LoraConfig,
    /// `A [rank, in]` and `B [out, rank]` of each target; what the optimiser changes.
    pub tensors: Tensors,
}

impl LoraConfig {
    /// `alpha / rank`.
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }

    fn check(&self) -> Result<()> {
        if self.rank == 0 {
            let expected = "at least 1".to_owned();
            return Err(Error::Argument { what: "LoRA rank", found: "0".to_owned(), expected });
        }
        let unknown = self.targets.iter().find(|target| !ALL_TARGETS.contains(&target.as_str()));
        let found = match (unknown, self.targets.is_empty()) {
            (None, false) => return Ok(()),
            (Some(unknown), _) => unknown.clone(),
            (None, true) => "nothing".to_owned(),
        };
        Err(Error::Argument { what: "LoRA target", found, expected: format!("some of {}", ALL_TARGETS.join(", ")) })
    }
}

impl Lora {
    /// A fresh adapter that changes nothing yet. The same seed gives the same matrices.
    ///
    /// # Errors
    /// A rank of zero or an unknown target.
    pub fn new(model: &ModelConfig, config: LoraConfig, seed: u64, device: &Device) -> Result<Self> {
        config.check()?;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut tensors = Tensors::new();
        for (module, [out, input]) in adapted_modules(model, &config) {
            // Kaiming-uniform with a = sqrt(5): a bound of sqrt(6 / ((1 + 5) * fan_in)).
            let bound = 1.0 / (input as f32).sqrt();
            let values: Vec<f32> =
                (0..config.rank * input).map(|_| (2.0 * rng.random::<f32>() - 1.0) * bound).collect();
            tensors.insert(Self::name_a(&module), Tensor::from_vec(values, (config.rank, input), device)?);
            tensors.insert(Self::name_b(&module), Tensor::zeros((out, config.rank), candle_core::DType::F32, device)?);
        }
        Ok(Self { config, tensors })
    }

    /// Every tensor that an adapter of this configuration has, with its shape.
    pub fn shapes(model: &ModelConfig, config: &LoraConfig) -> Vec<(String, Vec<usize>)> {
        adapted_modules(model, config)
            .flat_map(|(module, [out, input])| {
                [(Self::name_a(&module), vec![config.rank, input]), (Self::name_b(&module), vec![out, config.rank])]
            })
            .collect()
    }

    /// Number of parameters.
    pub fn parameters(&self) -> usize {
        self.tensors.values().map(Tensor::elem_count).sum()
    }

    /// The matrices of a module, where it is adapted.
    pub(super) fn matrices(&self, module: &str) -> Option<(Tensor, Tensor)> {
        let a = self.tensors.get(&Self::name_a(module))?;
        let b = self.tensors.get(&Self::name_b(module))?;
        Some((a.clone(), b.clone()))
    }

    pub(super) fn name_a(module: &str) -> String {
        format!("base_model.model.{module}.lora_A.weight")
    }

    pub(super) fn name_b(module: &str) -> String {
        format!("base_model.model.{module}.lora_B.weight")
    }
}

/// The adapted modules with the shape `[out, in]` of their weights.
fn adapted_modules<'a>(
    model: &ModelConfig,
    config: &'a LoraConfig,
) -> impl Iterator<Item = (String, [usize; 2])> + use<'a> {
    model.weight_shapes().into_iter().filter_map(|(name, shape)| {
        let module = name.strip_suffix(".weight")?;
        let (_, last) = module.rsplit_once('.')?;
        let shape = <[usize; 2]>::try_from(shape).ok()?;
        config.targets.iter().any(|target| target == last).then(|| (module.to_owned(), shape))
    })
}
