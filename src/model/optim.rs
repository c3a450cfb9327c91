//! AdamW (Loshchilov and Hutter 2019) on named tensors: f32 state, clipping by the global norm, no step on a gradient
//! that is not finite. The same parameters, gradients and state give the same bits.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;
use rayon::prelude::*;

use super::error::{Error, Result};
use super::ops::host::Slice;
use super::ops::math::vectorised;
use super::weights::{Precision, Tensors, read_safetensors, write_safetensors};

/// The constants of the update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the mean of gradients.
    pub beta1: f32,
    /// Decay of the mean of squared gradients.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decay of the matrices' values a step, times the learning rate; vectors (norms) never decay.
    pub weight_decay: f32,
    /// Gradients are scaled down to this global norm; `None` leaves them.
    pub norm_max: Option<f32>,
}

impl Default for AdamWConfig {
    /// 0.9, 0.999, 1e-8, no decay, norm 1.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, norm_max: Some(1.0) }
    }
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// The global norm of the gradients before clipping.
    pub gradient_norm: f32,
    /// Whether they were scaled down.
    pub clipped: bool,
    /// Whether the step was left out because the norm was not finite.
    pub skipped: bool,
}

/// The optimiser and its state.
#[derive(Debug, Clone, Default)]
pub struct AdamW {
    config: AdamWConfig,
    steps: u64,
    moments: BTreeMap<String, Moments>,
}

#[derive(Debug, Clone)]
struct Moments {
    first: Vec<f32>,
    second: Vec<f32>,
}

const CHUNK: usize = 16 * 1024;

impl AdamW {
    /// A fresh optimiser.
    pub fn new(config: AdamWConfig) -> Self {
        Self { config, steps: 0, moments: BTreeMap::new() }
    }

    /// Steps taken; skipped ones do not count.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Replaces each parameter that has a gradient by its updated value.
    ///
    /// # Errors
    /// A gradient without a parameter or of another shape; nothing has changed then.
    pub fn step(&mut self, parameters: &mut Tensors, gradients: &Tensors, learning_rate: f32) -> Result<StepReport> {
        check(parameters, gradients)?;
        let gradient_norm = global_norm(gradients)?;
        if !gradient_norm.is_finite() {
            return Ok(StepReport { gradient_norm, clipped: false, skipped: true });
        }
        let clip = self.config.norm_max.filter(|max| gradient_norm > *max).map_or(1.0, |max| max / gradient_norm);
        self.steps += 1;
        for (name, gradient) in gradients {
            let Some(parameter) = parameters.get_mut(name) else { continue };
            let moments = self.moments.entry(name.clone()).or_insert_with(|| Moments::zero(gradient.elem_count()));
            *parameter = moments.update(parameter, gradient, clip, learning_rate, self.steps, &self.config)?;
        }
        Ok(StepReport { gradient_norm, clipped: clip < 1.0, skipped: false })
    }

    /// The state as tensors: `NAME.first`, `NAME.second` and `steps`.
    ///
    /// # Errors
    /// Only a failing device.
    pub fn state(&self) -> Result<Tensors> {
        let device = candle_core::Device::Cpu;
        let mut tensors = Tensors::new();
        for (name, moments) in &self.moments {
            for (kind, values) in [("first", &moments.first), ("second", &moments.second)] {
                tensors.insert(format!("{name}.{kind}"), Tensor::new(values.as_slice(), &device)?);
            }
        }
        // Two exact halves: an f32 holds whole numbers only up to 2^24.
        let steps = [(self.steps >> 24) as f32, (self.steps & 0xff_ffff) as f32];
        tensors.insert("steps".to_owned(), Tensor::new(&steps, &device)?);
        Ok(tensors)
    }

    /// Writes [`AdamW::state`] as safetensors.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn save(&self, path: &Path) -> Result<()> {
        write_safetensors(path, &self.state()?, Precision::F32)
    }

    /// Reads a state that [`AdamW::save`] wrote.
    ///
    /// # Errors
    /// A missing or damaged file, or a moment without its partner.
    pub fn load(config: AdamWConfig, path: &Path) -> Result<Self> {
        Self::from_state(config, &read_safetensors(path, &candle_core::Device::Cpu)?, path)
    }

    /// The optimiser with a state of [`AdamW::state`]; `path` is named in errors.
    ///
    /// # Errors
    /// A moment without its partner, or no number of steps.
    pub fn from_state(config: AdamWConfig, tensors: &Tensors, path: &Path) -> Result<Self> {
        let get = |name: &str| {
            let missing = || Error::MissingTensor { path: path.to_owned(), name: name.to_owned(), expected: vec![] };
            Ok::<_, Error>(tensors.get(name).ok_or_else(missing)?.flatten_all()?.to_vec1::<f32>()?)
        };
        let steps = get("steps")?;
        let steps = steps.iter().fold(0u64, |total, half| (total << 24) | *half as u64);
        let mut moments = BTreeMap::new();
        for name in tensors.keys().filter_map(|name| name.strip_suffix(".first")) {
            let (first, second) = (get(&format!("{name}.first"))?, get(&format!("{name}.second"))?);
            moments.insert(name.to_owned(), Moments { first, second });
        }
        Ok(Self { config, steps, moments })
    }
}

impl Moments {
    fn zero(count: usize) -> Self {
        Self { first: vec![0.0; count], second: vec![0.0; count] }
    }

    /// Moves the moments by a gradient and gives the parameter's new value.
    fn update(
        &mut self,
        parameter: &Tensor,
        gradient: &Tensor,
        clip: f32,
        learning_rate: f32,
        step: u64,
        config: &AdamWConfig,
    ) -> Result<Tensor> {
        let mut values = Slice::of(parameter)?.to_vec();
        let gradient = Slice::of(gradient)?;
        let decay = if parameter.rank() > 1 { 1.0 - learning_rate * config.weight_decay } else { 1.0 };
        let correction = |beta: f32| (1.0 - f64::from(beta).powf(step as f64)) as f32;
        let rate = learning_rate / correction(config.beta1);
        let root = correction(config.beta2).sqrt();
        let (beta1, beta2, eps) = (config.beta1, config.beta2, config.eps);
        let moments = self.first.par_chunks_mut(CHUNK).zip(self.second.par_chunks_mut(CHUNK));
        values.par_chunks_mut(CHUNK).zip(gradient.par_chunks(CHUNK)).zip(moments).for_each(|((values, g), (m, v))| {
            vectorised(
                #[inline(always)]
                || {
                    for ((value, g), (m, v)) in values.iter_mut().zip(g).zip(m.iter_mut().zip(v)) {
                        let g = g * clip;
                        *m = beta1 * *m + (1.0 - beta1) * g;
                        *v = beta2 * *v + (1.0 - beta2) * g * g;
                        *value = *value * decay - rate * *m / (v.sqrt() / root + eps);
                    }
                },
            );
        });
        Ok(Tensor::from_vec(values, parameter.shape(), parameter.device())?)
    }
}

/// The Euclidean norm of all gradients together, summed in f64 in the order of names.
fn global_norm(gradients: &Tensors) -> Result<f32> {
    let mut total = 0f64;
    for gradient in gradients.values() {
        total += Slice::of(gradient)?.iter().map(|g| f64::from(*g) * f64::from(*g)).sum::<f64>();
    }
    Ok(total.sqrt() as f32)
}

fn check(parameters: &Tensors, gradients: &Tensors) -> Result<()> {
    for (name, gradient) in gradients {
        let expected = parameters.get(name).map(|parameter| format!("{:?}", parameter.dims()));
        if expected.as_deref() != Some(format!("{:?}", gradient.dims()).as_str()) {
            let found = format!("{name} {:?}", gradient.dims());
            let expected = expected.unwrap_or_else(|| "the name of a parameter".to_owned());
            return Err(Error::Argument { what: "gradient", found, expected });
        }
    }
    Ok(())
}
