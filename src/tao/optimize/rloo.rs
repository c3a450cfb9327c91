//! RLOO, REINFORCE with a leave-one-out baseline (arXiv 2402.14740, eq. 7, and the KL-shaped reward of its eq. 1).
//!
//! - `Rᵢ = rᵢ − β · (ln π_beh(yᵢ|x) − ln π_ref(yᵢ|x))`, a number: no gradient goes through it ([`shaped`])
//! - `Aᵢ = Rᵢ − 1/(G − 1) · Σ_{j≠i} Rⱼ` ([`advantages`])
//! - `ρᵢ = π(yᵢ|x)/π_beh(yᵢ|x)` of the whole sequence, `L = −1/N · Σᵢ min(ρᵢ·Aᵢ, clip(ρᵢ, 1 − ε_low, 1 + ε_high)·Aᵢ)`
//!   ([`loss`])
//!
//! Departs from the paper in the ratio: it is 1 on the first pass, where this is the paper's estimator, and keeps later
//! passes over the same samples honest, as TRL's trainer does. The reference is the base model, the adapter switched off.

use super::grpo::{Clip, token_loss};

/// The constants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rloo {
    /// β: what a nat of distance from the base costs in reward. Paper: 0.03 to 0.1.
    pub beta: f64,
    /// The clip range of the sequence's ratio.
    pub clip: Clip,
}

/// The reward less what the distance from the reference costs; `distance` is `ln π_beh − ln π_ref` of the sequence.
#[must_use]
pub fn shaped(reward: f64, distance: f64, beta: f64) -> f64 {
    reward - beta * distance
}

/// Each sample's reward over the mean of the others; zero where there are no others.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "a prompt has few samples")]
pub fn advantages(rewards: &[f64]) -> Vec<f64> {
    if rewards.len() < 2 {
        return vec![0.0; rewards.len()];
    }
    let (sum, others) = (rewards.iter().sum::<f64>(), rewards.len() as f64 - 1.0);
    rewards.iter().map(|r| r - (sum - r) / others).collect()
}

/// One sample's share of the loss, before the division by N, and its derivative by the sequence's log-probability, which
/// is the derivative by each of its tokens'.
///
/// `drift` is `ln π − ln π_beh` of the sequence, in nats. The formula is GRPO's, of a sequence in place of a token.
#[must_use]
pub fn loss(drift: f64, advantage: f64, clip: Clip) -> (f64, f64) {
    token_loss(drift, advantage, clip)
}
