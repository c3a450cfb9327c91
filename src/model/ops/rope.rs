//! Rotary position embedding (Su et al. 2021) in Hugging Face's half-split layout, from explicit positions.
//!
//! Channel `i` and channel `i + head_dim/2` turn together by `position · frequency_i`. The backward pass is the same
//! turn by the negative angle.

use rayon::prelude::*;

use super::math::vectorised;

const ROWS_PER_TASK: usize = 32;

/// Cosines and sines of each row's position.
#[derive(Debug, Clone)]
pub struct Angles {
    half: usize,
    /// `[rows, half]` each.
    cos: Vec<f32>,
    sin: Vec<f32>,
}

/// Which way to turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// By the position's angle.
    Forward,
    /// Back, for gradients.
    Backward,
}

impl Angles {
    /// The angles of rows at `positions`; formed in f32 as Hugging Face does.
    pub fn at(inverse_frequencies: &[f32], positions: &[u32]) -> Self {
        let half = inverse_frequencies.len();
        let (mut cos, mut sin) = (vec![0f32; positions.len() * half], vec![0f32; positions.len() * half]);
        let rows = cos.par_chunks_mut(half).zip(sin.par_chunks_mut(half));
        rows.zip(positions).with_min_len(ROWS_PER_TASK).for_each(|((cos, sin), position)| {
            for ((cos, sin), frequency) in cos.iter_mut().zip(sin).zip(inverse_frequencies) {
                (*sin, *cos) = (*position as f32 * frequency).sin_cos();
            }
        });
        Self { half, cos, sin }
    }

    /// Turns the first `heads` heads of each row in place; `rows` is `[n, width]`.
    pub fn turn(&self, rows: &mut [f32], width: usize, heads: usize, turn: Turn) {
        let sign = if turn == Turn::Forward { 1.0 } else { -1.0 };
        let angles = self.cos.par_chunks(ROWS_PER_TASK * self.half).zip(self.sin.par_chunks(ROWS_PER_TASK * self.half));
        rows.par_chunks_mut(ROWS_PER_TASK * width).zip(angles).for_each(|(rows, (cos, sin))| {
            vectorised(
                #[inline(always)]
                || {
                    let angles = cos.chunks_exact(self.half).zip(sin.chunks_exact(self.half));
                    for (row, (cos, sin)) in rows.chunks_exact_mut(width).zip(angles) {
                        turn_row(&mut row[..heads * 2 * self.half], cos, sin, sign);
                    }
                },
            );
        });
    }
}

#[inline(always)]
fn turn_row(row: &mut [f32], cos: &[f32], sin: &[f32], sign: f32) {
    let half = cos.len();
    for head in row.chunks_exact_mut(2 * half) {
        let (low, high) = head.split_at_mut(half);
        for ((low, high), (cos, sin)) in low.iter_mut().zip(high).zip(cos.iter().zip(sin)) {
            let (a, b, sin) = (*low, *high, sin * sign);
            *low = a * cos - b * sin;
            *high = b * cos + a * sin;
        }
    }
}
