//! Projections that read the same input, fused into one matrix product, with three ways to train: not at all, by the
//! weight, by LoRA.
//!
//! LoRA (Hu et al. 2021) is applied by adding `α/r · B·A` to the weight once a step, not to every activation: one
//! matrix product forward and one backward, as without an adapter. Its gradients need only two thin products:
//! `dB = α/r · gᵀ·(x·Aᵀ)` and `dA = α/r · (g·B)ᵀ·x`, so that no gradient of a frozen weight is ever formed.

use candle_core::Tensor;
use rayon::prelude::*;

use super::error::Result;
use super::lora::Lora;
use super::ops::host::Slice;
use super::weights::{Tensors, Weights};

/// One or more projections of the same input, stacked by output rows.
#[derive(Debug, Clone)]
pub(super) struct Linear {
    parts: Vec<Part>,
    /// As loaded, `[out, in]`.
    base: Tensor,
    /// In effect: the base, or the base with the adapter added.
    weight: Tensor,
    /// The same as `[in, out]`: a view, or a copy that spares products of few rows the rearranging.
    turned: Tensor,
    /// `[out]`; adapters leave it alone.
    bias: Option<Tensor>,
    trains: bool,
}

/// One projection by its Hugging Face module name, without `.weight`.
#[derive(Debug, Clone)]
struct Part {
    module: String,
    start: usize,
    width: usize,
    adapter: Option<Adapter>,
}

#[derive(Debug, Clone)]
struct Adapter {
    /// `[rank, in]`
    a: Tensor,
    /// `[out, rank]`
    b: Tensor,
    scale: f64,
}

impl Linear {
    /// Stacks the projections of `modules`, with their biases where `biased`.
    pub(super) fn new(weights: &Weights, modules: &[String], biased: bool, trains: bool) -> Result<Self> {
        let mut parts = Vec::new();
        let (mut tensors, mut biases) = (Vec::new(), Vec::new());
        let mut start = 0;
        for module in modules {
            let tensor = weights.get(&format!("{module}.weight"))?;
            let width = tensor.dim(0)?;
            parts.push(Part { module: module.clone(), start, width, adapter: None });
            tensors.push(tensor);
            if biased {
                biases.push(weights.get(&format!("{module}.bias"))?);
            }
            start += width;
        }
        let base = if tensors.len() == 1 { tensors.swap_remove(0) } else { Tensor::cat(&tensors, 0)? };
        let bias = if biased { Some(Tensor::cat(&biases, 0)?) } else { None };
        Ok(Self { parts, turned: base.t()?, weight: base.clone(), base, bias, trains })
    }

    /// The same projections with an adapter added; the base stays shared and untouched.
    pub(super) fn with_adapter(&self, lora: &Lora) -> Result<Self> {
        let weight = self.base.clone();
        let mut adapted = Self { turned: weight.t()?, weight, trains: false, ..self.clone() };
        let inputs = self.base.dim(1)?;
        let mut values: Option<Vec<f32>> = None;
        for part in &mut adapted.parts {
            part.adapter = lora.matrices(&part.module).map(|(a, b)| Adapter { a, b, scale: lora.config.scale() });
            if let Some(adapter) = &part.adapter {
                let change = adapter.b.affine(adapter.scale, 0.0)?.matmul(&adapter.a)?;
                if values.is_none() {
                    values = Some(Slice::of(&self.base)?.to_vec());
                }
                let rows = part.start * inputs..(part.start + part.width) * inputs;
                if let Some(values) = &mut values {
                    add(&mut values[rows], &Slice::of(&change)?);
                }
            }
        }
        if let Some(values) = values {
            adapted.weight = Tensor::from_vec(values, self.base.shape(), self.base.device())?;
            adapted.turned = adapted.weight.t()?;
        }
        Ok(adapted)
    }

    /// `x [n, in]` to `[n, out]`.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = x.matmul(&self.turned)?;
        Ok(match &self.bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        })
    }

    /// The same projections, arranged for products of few rows: the weight is held twice.
    pub(super) fn for_few_rows(&self) -> Result<Self> {
        Ok(Self { turned: self.turned.contiguous()?, ..self.clone() })
    }

    /// The gradient with respect to the input, `[n, in]`, given the one of the output, `[n, out]`.
    pub(super) fn input_gradient(&self, dy: &Tensor) -> Result<Tensor> {
        Ok(dy.matmul(&self.weight)?)
    }

    /// Whether [`Linear::parameter_gradients`] would give anything.
    pub(super) fn has_parameters(&self) -> bool {
        self.trains || self.parts.iter().any(|part| part.adapter.is_some())
    }

    /// Adds the gradients of whatever trains here to `gradients`, given input and gradient of the output.
    pub(super) fn parameter_gradients(&self, x: &Tensor, dy: &Tensor, gradients: &mut Tensors) -> Result<()> {
        if self.trains {
            let dweight = dy.t()?.matmul(x)?;
            for part in &self.parts {
                let own = dweight.narrow(0, part.start, part.width)?.contiguous()?;
                gradients.insert(format!("{}.weight", part.module), own);
                if self.bias.is_some() {
                    let own = dy.narrow(1, part.start, part.width)?.sum(0)?;
                    gradients.insert(format!("{}.bias", part.module), own);
                }
            }
        }
        for part in &self.parts {
            if let Some(adapter) = &part.adapter {
                let dy = dy.narrow(1, part.start, part.width)?;
                let da = dy.matmul(&adapter.b)?.t()?.matmul(x)?.affine(adapter.scale, 0.0)?;
                let db = dy.t()?.matmul(&x.matmul(&adapter.a.t()?)?)?.affine(adapter.scale, 0.0)?;
                gradients.insert(Lora::name_a(&part.module), da);
                gradients.insert(Lora::name_b(&part.module), db);
            }
        }
        Ok(())
    }
}

fn add(values: &mut [f32], change: &[f32]) {
    const CHUNK: usize = 16 * 1024;
    values.par_chunks_mut(CHUNK).zip(change.par_chunks(CHUNK)).for_each(|(values, change)| {
        for (value, change) in values.iter_mut().zip(change) {
            *value += change;
        }
    });
}
