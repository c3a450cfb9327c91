//! RMS norm over rows: `y = x / sqrt(mean(x²) + ε) · w` (Zhang and Sennrich 2019), fused with the residual addition.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::host::{Slice, matrix};
use super::math::{dot, vectorised};

/// Rows that one task takes: enough work to pay for its start.
const ROWS_PER_TASK: usize = 32;

/// `x [n, d]`, `weight [d]` to the normed `[n, d]`.
pub fn forward(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let width = x.dim(1)?;
    let (rows, scale) = (Slice::of(x)?, Slice::of(weight)?);
    let scale: &[f32] = &scale;
    let mut out = vec![0f32; rows.len()];
    out.par_chunks_mut(ROWS_PER_TASK * width).zip(rows.par_chunks(ROWS_PER_TASK * width)).for_each(|(out, x)| {
        vectorised(
            #[inline(always)]
            || {
                for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                    normalise(out, x, scale, eps);
                }
            },
        );
    });
    matrix(out, width, x.device())
}

/// Adds `delta` to the residual stream and norms the sum: `(x + delta, norm(x + delta))`, one pass over memory.
pub fn add_forward(x: &Tensor, delta: &Tensor, weight: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
    let width = x.dim(1)?;
    let (rows, delta, scale) = (Slice::of(x)?, Slice::of(delta)?, Slice::of(weight)?);
    let scale: &[f32] = &scale;
    let (mut total, mut out) = (vec![0f32; rows.len()], vec![0f32; rows.len()]);
    let size = ROWS_PER_TASK * width;
    let inputs = rows.par_chunks(size).zip(delta.par_chunks(size));
    total.par_chunks_mut(size).zip(out.par_chunks_mut(size)).zip(inputs).for_each(|((total, out), (x, delta))| {
        vectorised(
            #[inline(always)]
            || {
                for (total, (x, delta)) in total.iter_mut().zip(x.iter().zip(delta)) {
                    *total = x + delta;
                }
                for (out, total) in out.chunks_exact_mut(width).zip(total.chunks_exact(width)) {
                    normalise(out, total, scale, eps);
                }
            },
        );
    });
    Ok((matrix(total, width, x.device())?, matrix(out, width, x.device())?))
}

/// The gradient with respect to `x`, given the one of the normed rows; `residual`, the gradient that reaches `x` beside
/// the norm, is added in the same pass. All `[n, d]`.
///
/// With `s = 1/rms`, `dx = s·(w∘dy) − x·s³/d·Σ(x∘w∘dy)`.
pub fn backward(x: &Tensor, weight: &Tensor, eps: f64, dy: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
    let width = x.dim(1)?;
    let (rows, scale, dy) = (Slice::of(x)?, Slice::of(weight)?, Slice::of(dy)?);
    let scale: &[f32] = &scale;
    let mut out = match residual {
        Some(residual) => Slice::of(residual)?.to_vec(),
        None => vec![0f32; rows.len()],
    };
    let size = ROWS_PER_TASK * width;
    let inputs = rows.par_chunks(size).zip(dy.par_chunks(size));
    out.par_chunks_mut(size).zip(inputs).for_each(|(out, (x, dy))| {
        let mut weighted = vec![0f32; width];
        vectorised(
            #[inline(always)]
            || {
                for (out, (x, dy)) in out.chunks_exact_mut(width).zip(x.chunks_exact(width).zip(dy.chunks_exact(width)))
                {
                    row_backward(out, x, dy, scale, eps, &mut weighted);
                }
            },
        );
    });
    matrix(out, width, x.device())
}

/// The gradient with respect to `weight`, `[d]`: `Σ_rows dy∘x/rms`, rows in order.
pub fn backward_weight(x: &Tensor, eps: f64, dy: &Tensor) -> Result<Tensor> {
    let width = x.dim(1)?;
    let (rows, dy) = (Slice::of(x)?, Slice::of(dy)?);
    let mut out = vec![0f32; width];
    for (x, dy) in rows.chunks_exact(width).zip(dy.chunks_exact(width)) {
        let inverse = inverse_rms(x, eps);
        for (out, (x, dy)) in out.iter_mut().zip(x.iter().zip(dy)) {
            *out += dy * x * inverse;
        }
    }
    Tensor::from_vec(out, width, x.device())
}

#[inline(always)]
pub(super) fn row_backward(out: &mut [f32], x: &[f32], dy: &[f32], weight: &[f32], eps: f64, weighted: &mut [f32]) {
    let inverse = inverse_rms(x, eps);
    for (g, (dy, w)) in weighted.iter_mut().zip(dy.iter().zip(weight)) {
        *g = dy * w;
    }
    let along = dot(x, weighted) * inverse * inverse * inverse / x.len() as f32;
    for (out, (g, x)) in out.iter_mut().zip(weighted.iter().zip(x)) {
        *out += g * inverse - x * along;
    }
}

#[inline(always)]
pub(super) fn inverse_rms(x: &[f32], eps: f64) -> f32 {
    1.0 / (dot(x, x) / x.len() as f32 + eps as f32).sqrt()
}

#[inline(always)]
pub(super) fn normalise(out: &mut [f32], x: &[f32], weight: &[f32], eps: f64) {
    let inverse = inverse_rms(x, eps);
    for (out, (x, w)) in out.iter_mut().zip(x.iter().zip(weight)) {
        *out = x * inverse * w;
    }
}
