//! RMS norm of each head's query and key (Henry et al. 2020, as Qwen3 and Gemma 3 have it), in rows that hold queries, keys
//! and values side by side. Values pass through.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::attention::Heads;
use super::host::{Slice, matrix};
use super::math::vectorised;
use super::rms_norm::{inverse_rms, normalise, row_backward};

const ROWS_PER_TASK: usize = 16;

/// The weights of the two norms, `[head_dim]` each, and what is added to the mean square.
#[derive(Debug, Clone, Copy)]
pub struct Norms<'a> {
    /// Of queries.
    pub query: &'a Tensor,
    /// Of keys.
    pub key: &'a Tensor,
    /// ε.
    pub eps: f64,
}

/// `[n, qkv_width]` to the same with queries and keys normed.
pub fn forward(qkv: &Tensor, norms: Norms<'_>, heads: Heads) -> Result<Tensor> {
    let (rows, width) = (Slice::of(qkv)?, heads.qkv_width());
    let (query, key) = (Slice::of(norms.query)?, Slice::of(norms.key)?);
    let (query, key): (&[f32], &[f32]) = (&query, &key);
    let mut out = rows.to_vec();
    out.par_chunks_mut(ROWS_PER_TASK * width).zip(rows.par_chunks(ROWS_PER_TASK * width)).for_each(|(out, rows)| {
        vectorised(
            #[inline(always)]
            || {
                for (out, row) in out.chunks_exact_mut(width).zip(rows.chunks_exact(width)) {
                    let each = out.chunks_exact_mut(heads.dim).zip(row.chunks_exact(heads.dim));
                    for (index, (out, x)) in each.take(heads.queries + heads.keys).enumerate() {
                        normalise(out, x, if index < heads.queries { query } else { key }, norms.eps);
                    }
                }
            },
        );
    });
    matrix(out, width, qkv.device())
}

/// The gradient with respect to `qkv` before the norms, given the one after; both `[n, qkv_width]`.
pub fn backward(qkv: &Tensor, norms: Norms<'_>, heads: Heads, dy: &Tensor) -> Result<Tensor> {
    let (rows, dy, width) = (Slice::of(qkv)?, Slice::of(dy)?, heads.qkv_width());
    let (query, key) = (Slice::of(norms.query)?, Slice::of(norms.key)?);
    let (query, key): (&[f32], &[f32]) = (&query, &key);
    let normed = heads.query_width() + heads.key_width();
    let mut out = dy.to_vec();
    let size = ROWS_PER_TASK * width;
    let inputs = rows.par_chunks(size).zip(dy.par_chunks(size));
    out.par_chunks_mut(size).zip(inputs).for_each(|(out, (rows, dy))| {
        let mut weighted = vec![0f32; heads.dim];
        vectorised(
            #[inline(always)]
            || {
                let inputs = rows.chunks_exact(width).zip(dy.chunks_exact(width));
                for (out, (row, dy)) in out.chunks_exact_mut(width).zip(inputs) {
                    out[..normed].fill(0.0);
                    let inputs = row.chunks_exact(heads.dim).zip(dy.chunks_exact(heads.dim));
                    let each = out.chunks_exact_mut(heads.dim).zip(inputs).take(heads.queries + heads.keys);
                    for (index, (out, (x, dy))) in each.enumerate() {
                        let weight = if index < heads.queries { query } else { key };
                        row_backward(out, x, dy, weight, norms.eps, &mut weighted);
                    }
                }
            },
        );
    });
    matrix(out, width, qkv.device())
}

/// The gradients with respect to the two weights, `[head_dim]` each: `Σ dy∘x/rms` over rows and heads, in order.
pub fn backward_weights(qkv: &Tensor, eps: f64, heads: Heads, dy: &Tensor) -> Result<(Tensor, Tensor)> {
    let (rows, dy, width) = (Slice::of(qkv)?, Slice::of(dy)?, heads.qkv_width());
    let (mut query, mut key) = (vec![0f32; heads.dim], vec![0f32; heads.dim]);
    for (row, dy) in rows.chunks_exact(width).zip(dy.chunks_exact(width)) {
        let each = row.chunks_exact(heads.dim).zip(dy.chunks_exact(heads.dim));
        for (index, (x, dy)) in each.take(heads.queries + heads.keys).enumerate() {
            let (inverse, out) = (inverse_rms(x, eps), if index < heads.queries { &mut query } else { &mut key });
            for (out, (x, dy)) in out.iter_mut().zip(x.iter().zip(dy)) {
                *out += dy * x * inverse;
            }
        }
    }
    let device = qkv.device();
    Ok((Tensor::from_vec(query, heads.dim, device)?, Tensor::from_vec(key, heads.dim, device)?))
}
