//! SwiGLU (Shazeer 2020): `silu(gate) ∘ up`, on rows that hold gate and up side by side.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::host::{Slice, matrix};
use super::math::{sigmoid, vectorised};

const ROWS_PER_TASK: usize = 16;

/// `[n, 2f]` (gate, then up) to `[n, f]`.
pub fn forward(gate_up: &Tensor) -> Result<Tensor> {
    let width = gate_up.dim(1)? / 2;
    let rows = Slice::of(gate_up)?;
    let mut out = vec![0f32; rows.len() / 2];
    let tasks = out.par_chunks_mut(ROWS_PER_TASK * width).zip(rows.par_chunks(ROWS_PER_TASK * 2 * width));
    tasks.for_each(|(out, rows)| {
        vectorised(
            #[inline(always)]
            || {
                for (out, row) in out.chunks_exact_mut(width).zip(rows.chunks_exact(2 * width)) {
                    let (gate, up) = row.split_at(width);
                    for (out, (gate, up)) in out.iter_mut().zip(gate.iter().zip(up)) {
                        *out = gate * sigmoid(*gate) * up;
                    }
                }
            },
        );
    });
    matrix(out, width, gate_up.device())
}

/// The gradient with respect to `gate_up`, `[n, 2f]`, given the one of the output, `[n, f]`.
///
/// With `σ = sigmoid(gate)`: `dgate = dy·up·σ·(1 + gate·(1 − σ))`, `dup = dy·gate·σ`.
pub fn backward(gate_up: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let width = gate_up.dim(1)? / 2;
    let (rows, dy) = (Slice::of(gate_up)?, Slice::of(dy)?);
    let mut out = vec![0f32; rows.len()];
    let size = ROWS_PER_TASK * width;
    let inputs = rows.par_chunks(2 * size).zip(dy.par_chunks(size));
    out.par_chunks_mut(2 * size).zip(inputs).for_each(|(out, (rows, dy))| {
        vectorised(
            #[inline(always)]
            || {
                let each =
                    out.chunks_exact_mut(2 * width).zip(rows.chunks_exact(2 * width).zip(dy.chunks_exact(width)));
                for (out, (row, dy)) in each {
                    row_backward(out, row, dy);
                }
            },
        );
    });
    matrix(out, 2 * width, gate_up.device())
}

#[inline(always)]
fn row_backward(out: &mut [f32], row: &[f32], dy: &[f32]) {
    let ((dgate, dup), (gate, up)) = (out.split_at_mut(dy.len()), row.split_at(dy.len()));
    let inputs = gate.iter().zip(up).zip(dy);
    for ((dgate, dup), ((gate, up), dy)) in dgate.iter_mut().zip(dup).zip(inputs) {
        let sigma = sigmoid(*gate);
        *dgate = dy * up * sigma * (1.0 + gate * (1.0 - sigma));
        *dup = dy * gate * sigma;
    }
}
