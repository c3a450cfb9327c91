//! Gated units (Shazeer 2020): `act(gate) ∘ up`, on rows that hold gate and up side by side.
//!
//! Both activations have the form `x · σ(u(x))`: with `u = x` it is SiLU, with `u = 2√(2/π)·(x + 0.044715·x³)` the tanh form of
//! GELU (Hendrycks and Gimpel 2016), because `(1 + tanh(a)) / 2 = σ(2a)`.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::host::{Slice, matrix};
use super::math::{sigmoid, vectorised};
use crate::model::config::Activation;

const ROWS_PER_TASK: usize = 16;

/// `[n, 2f]` (gate, then up) to `[n, f]`.
pub fn forward(gate_up: &Tensor, activation: Activation) -> Result<Tensor> {
    match activation {
        Activation::Silu => forward_by(gate_up, silu),
        Activation::GeluTanh => forward_by(gate_up, gelu_tanh),
    }
}

#[inline(always)]
fn forward_by(gate_up: &Tensor, inner: impl Fn(f32) -> (f32, f32) + Sync) -> Result<Tensor> {
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
                        *out = gate * sigmoid(inner(*gate).0) * up;
                    }
                }
            },
        );
    });
    matrix(out, width, gate_up.device())
}

/// The gradient with respect to `gate_up`, `[n, 2f]`, given the one of the output, `[n, f]`.
///
/// With `σ = sigmoid(u(gate))`: `dgate = dy·up·σ·(1 + gate·(1 − σ)·u'(gate))`, `dup = dy·gate·σ`.
pub fn backward(gate_up: &Tensor, dy: &Tensor, activation: Activation) -> Result<Tensor> {
    match activation {
        Activation::Silu => backward_by(gate_up, dy, silu),
        Activation::GeluTanh => backward_by(gate_up, dy, gelu_tanh),
    }
}

#[inline(always)]
fn backward_by(gate_up: &Tensor, dy: &Tensor, inner: impl Fn(f32) -> (f32, f32) + Sync) -> Result<Tensor> {
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
                    row_backward(out, row, dy, &inner);
                }
            },
        );
    });
    matrix(out, 2 * width, gate_up.device())
}

#[inline(always)]
fn row_backward(out: &mut [f32], row: &[f32], dy: &[f32], inner: &impl Fn(f32) -> (f32, f32)) {
    let ((dgate, dup), (gate, up)) = (out.split_at_mut(dy.len()), row.split_at(dy.len()));
    let inputs = gate.iter().zip(up).zip(dy);
    for ((dgate, dup), ((gate, up), dy)) in dgate.iter_mut().zip(dup).zip(inputs) {
        let (u, slope) = inner(*gate);
        let sigma = sigmoid(u);
        *dgate = dy * up * sigma * (1.0 + gate * (1.0 - sigma) * slope);
        *dup = dy * gate * sigma;
    }
}

/// `u` and its derivative for SiLU.
#[inline(always)]
fn silu(x: f32) -> (f32, f32) {
    (x, 1.0)
}

/// `u` and its derivative for the tanh form of GELU.
#[inline(always)]
fn gelu_tanh(x: f32) -> (f32, f32) {
    const CUBE: f32 = 0.044_715;
    // 2√(2/π)
    const SCALE: f32 = 1.595_769;
    let square = x * x;
    (SCALE * x * (1.0 + CUBE * square), SCALE * (1.0 + 3.0 * CUBE * square))
}
