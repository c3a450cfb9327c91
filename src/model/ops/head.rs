//! The output layer fused with the log-probability of the chosen token, in chunks of rows.
//!
//! `[rows, vocabulary]` never exists as a whole: a chunk of at most 64 MB of logits is formed, reduced to one number a
//! row, and dropped; the backward pass forms it again.

use std::ops::Range;

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::host::{Slice, matrix};
use super::math::{exp, max, sum, vectorised};

/// The most logits that exist at once.
pub const CHUNK_BYTES_MAX: usize = 64 << 20;

/// `ln softmax(hidden · weightᵀ / temperature)[target]` for each row.
///
/// `hidden [n, d]`, `weight [vocabulary, d]`, `targets` has `n` entries. Returns the log-probabilities and the
/// log-sum-exp of each row, `n` values each.
pub fn forward(hidden: &Tensor, weight: &Tensor, targets: &[u32], temperature: f32) -> Result<(Vec<f32>, Vec<f32>)> {
    let vocabulary = weight.dim(0)?;
    let (mut logprobs, mut lse) = (vec![0f32; targets.len()], vec![0f32; targets.len()]);
    for chunk in chunks(targets.len(), vocabulary) {
        let logits = hidden.narrow(0, chunk.start, chunk.len())?.matmul(&weight.t()?)?;
        let logits = Slice::of(&logits)?;
        let outputs = logprobs[chunk.clone()].par_iter_mut().zip(lse[chunk.clone()].par_iter_mut());
        let rows = logits.par_chunks(vocabulary).zip(targets[chunk].par_iter());
        outputs.zip(rows).for_each(|((logprob, lse), (row, target))| {
            *lse = vectorised(
                #[inline(always)]
                || log_sum_exp(row, temperature),
            );
            *logprob = row[*target as usize] / temperature - *lse;
        });
    }
    Ok((logprobs, lse))
}

/// What the gradient is asked for, and from what.
#[derive(Debug, Clone, Copy)]
pub struct Backward<'a> {
    /// `[n, d]`.
    pub hidden: &'a Tensor,
    /// `[vocabulary, d]`.
    pub weight: &'a Tensor,
    /// The chosen token of each row.
    pub targets: &'a [u32],
    /// As in the forward pass.
    pub temperature: f32,
    /// As the forward pass returned it.
    pub lse: &'a [f32],
    /// Whether the gradient of the weight is wanted, too.
    pub weight_gradient: bool,
}

/// The gradients with respect to `hidden` and, where wanted, `weight`, given the one of each log-probability.
///
/// `dlogits = dy/τ · (onehot(target) − softmax(logits/τ))`.
pub fn backward(of: Backward<'_>, dy: &[f32]) -> Result<(Tensor, Option<Tensor>)> {
    let (vocabulary, width) = of.weight.dims2()?;
    let mut hidden_parts = Vec::new();
    let mut weight_total: Option<Tensor> = None;
    for chunk in chunks(of.targets.len(), vocabulary) {
        let hidden = of.hidden.narrow(0, chunk.start, chunk.len())?;
        let logits = hidden.matmul(&of.weight.t()?)?;
        let dlogits = matrix(logit_gradients(&of, &Slice::of(&logits)?, dy, chunk), vocabulary, logits.device())?;
        hidden_parts.push(dlogits.matmul(of.weight)?);
        if of.weight_gradient {
            let part = dlogits.t()?.matmul(&hidden)?;
            weight_total = Some(match weight_total {
                Some(total) => (total + part)?,
                None => part,
            });
        }
    }
    let dhidden = match hidden_parts.len() {
        0 => Tensor::zeros((0, width), of.hidden.dtype(), of.hidden.device())?,
        _ => Tensor::cat(&hidden_parts, 0)?,
    };
    Ok((dhidden, weight_total))
}

fn logit_gradients(of: &Backward<'_>, logits: &[f32], dy: &[f32], chunk: Range<usize>) -> Vec<f32> {
    let vocabulary = logits.len() / chunk.len();
    let inverse = 1.0 / of.temperature;
    let mut out = vec![0f32; logits.len()];
    let given = dy[chunk.clone()].par_iter().zip(of.targets[chunk.clone()].par_iter()).zip(of.lse[chunk].par_iter());
    let rows = out.par_chunks_mut(vocabulary).zip(logits.par_chunks(vocabulary));
    rows.zip(given).for_each(|((out, row), ((dy, target), lse))| {
        let factor = -dy * inverse;
        vectorised(
            #[inline(always)]
            || {
                for (out, logit) in out.iter_mut().zip(row) {
                    *out = factor * exp(logit * inverse - lse);
                }
            },
        );
        out[*target as usize] -= factor;
    });
    out
}

/// `ln Σ exp(row / temperature)`.
#[inline(always)]
pub fn log_sum_exp(row: &[f32], temperature: f32) -> f32 {
    let (largest, inverse) = (max(row), 1.0 / temperature);
    let mut total = 0f32;
    let mut exponentials = [0f32; 256];
    for part in row.chunks(exponentials.len()) {
        for (out, logit) in exponentials.iter_mut().zip(part) {
            *out = exp((logit - largest) * inverse);
        }
        total += sum(&exponentials[..part.len()]);
    }
    largest * inverse + total.ln()
}

/// Runs of rows whose logits are formed together: at most [`CHUNK_BYTES_MAX`], or one row.
pub fn chunks(rows: usize, vocabulary: usize) -> impl Iterator<Item = Range<usize>> {
    let size = (CHUNK_BYTES_MAX / (4 * vocabulary)).max(1);
    (0..rows).step_by(size).map(move |start| start..(start + size).min(rows))
}
