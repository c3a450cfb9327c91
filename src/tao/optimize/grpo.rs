//! GRPO (DeepSeekMath, arXiv 2402.03300, eq. 3) with DAPO's changes (arXiv 2503.14476, eq. 8), or as Dr. GRPO
//! (arXiv 2503.20783, section 3.2).
//!
//! - `Aᵢ = (rᵢ − mean)/(std + 1e-4)` over a prompt's samples, std with Bessel's correction ([`advantages`]); Dr. GRPO
//!   leaves the division out, which favours prompts that are nearly solved or nearly hopeless
//! - `ρₜ = π(yₜ)/π_beh(yₜ)`, `L = −1/T · Σₜ min(ρₜ·A, clip(ρₜ, 1 − ε_low, 1 + ε_high)·A)` over the T tokens of the
//!   whole step ([`token_loss`]); Dr. GRPO divides by samples times a constant length, so that no length is favoured
//!
//! Departs from the first paper as DAPO does: the upper clip is wider, tokens weigh the same whatever their sequence's
//! length, groups without variance are left out, truncated responses are masked, no KL term.

/// The clip range of the ratio.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Clip {
    /// ε_low: the ratio counts down to 1 − ε_low. Default 0.2.
    pub low: f64,
    /// ε_high: the ratio counts up to 1 + ε_high. DAPO: 0.28, so that rare tokens may grow.
    pub high: f64,
}

/// The constants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grpo {
    /// The clip range of a token's ratio.
    pub clip: Clip,
    /// What advantages and the loss are divided by.
    pub variant: Variant,
}

/// What advantages and the loss are divided by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Variant {
    /// Advantages by the group's deviation, the loss by the step's tokens.
    Dapo,
    /// Advantages by nothing, the loss by the step's samples times this length.
    DrGrpo {
        /// A constant; the longest response that is allowed.
        tokens: f64,
    },
}

/// Added to the standard deviation, as TRL does.
const STD_FLOOR: f64 = 1e-4;

/// The advantage of each sample in its group; zero where a group has fewer than two.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "a prompt has few samples")]
pub fn advantages(rewards: &[f64], variant: Variant) -> Vec<f64> {
    let count = rewards.len() as f64;
    if rewards.len() < 2 {
        return vec![0.0; rewards.len()];
    }
    let mean = rewards.iter().sum::<f64>() / count;
    match variant {
        Variant::DrGrpo { .. } => rewards.iter().map(|r| r - mean).collect(),
        Variant::Dapo => {
            let variance = rewards.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / (count - 1.0);
            rewards.iter().map(|r| (r - mean) / (variance.sqrt() + STD_FLOOR)).collect()
        }
    }
}

/// One token's share of the loss, before the division by T, and its derivative by the token's log-probability.
///
/// `drift` is `ln π − ln π_beh` of the token, in nats.
#[must_use]
pub fn token_loss(drift: f64, advantage: f64, clip: Clip) -> (f64, f64) {
    let ratio = drift.exp();
    let clipped = ratio.clamp(1.0 - clip.low, 1.0 + clip.high);
    let (free, bounded) = (ratio * advantage, clipped * advantage);
    // d ρ/d ln π = ρ; the bounded branch is constant where it is the smaller one.
    if free <= bounded { (-free, -free) } else { (-bounded, 0.0) }
}
