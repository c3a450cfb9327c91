//! Rotary position embedding (Su et al. 2021) in Hugging Face's half-split layout, from explicit positions.
//!
//! Channel `i` and channel `i + head_dim/2` turn together by `position · frequency_i`. The backward pass is the same
//! turn by the negative angle.

use rayon::prelude::*;

const ROWS_PER_TASK: usize = 32;

/// Cosines and sines of every position up to a longest one.
#[derive(Debug, Clone)]
pub struct Angles {
    half: usize,
    /// `[positions, half]` each.
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
    /// Tabulates `positions` positions; angles are formed in f32 as Hugging Face does.
    pub fn new(inverse_frequencies: &[f32], positions: usize) -> Self {
        let half = inverse_frequencies.len();
        let angles: Vec<f32> =
            (0..positions).flat_map(|p| inverse_frequencies.iter().map(move |f| p as f32 * f)).collect();
        let cos = angles.iter().map(|a| a.cos()).collect();
        let sin = angles.iter().map(|a| a.sin()).collect();
        Self { half, cos, sin }
    }

    /// Number of positions tabulated.
    pub fn positions(&self) -> usize {
        self.cos.len() / self.half
    }

    /// Turns the first `heads` heads of each row in place; `rows` is `[n, width]`, `positions` has `n` entries.
    pub fn turn(&self, rows: &mut [f32], width: usize, heads: usize, positions: &[u32], turn: Turn) {
        let sign = if turn == Turn::Forward { 1.0 } else { -1.0 };
        let tasks = rows.par_chunks_mut(ROWS_PER_TASK * width).zip(positions.par_chunks(ROWS_PER_TASK));
        tasks.for_each(|(rows, positions)| {
            for (row, position) in rows.chunks_exact_mut(width).zip(positions) {
                self.turn_row(&mut row[..heads * 2 * self.half], *position as usize, sign);
            }
        });
    }

    #[inline(always)]
    fn turn_row(&self, row: &mut [f32], position: usize, sign: f32) {
        let at = position * self.half..(position + 1) * self.half;
        let (cos, sin) = (&self.cos[at.clone()], &self.sin[at]);
        for head in row.chunks_exact_mut(2 * self.half) {
            let (low, high) = head.split_at_mut(self.half);
            for ((low, high), (cos, sin)) in low.iter_mut().zip(high).zip(cos.iter().zip(sin)) {
                let (a, b, sin) = (*low, *high, sin * sign);
                *low = a * cos - b * sin;
                *high = b * cos + a * sin;
            }
        }
    }
}
