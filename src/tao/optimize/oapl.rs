//! OAPL, optimal advantage-based policy optimisation with lagged inference (arXiv 2602.19362): the default.
//!
//! The optimum of the KL-regularised objective satisfies `β ln π*/π_beh = r − V*`. OAPL regresses on that equation, so
//! samples of an older policy need no ratio, no clipping and no reference model:
//!
//! - `V̂ = β₁ · ln(1/G · Σᵢ exp(rᵢ/β₁))` over a prompt's G samples ([`value`])
//! - `L = 1/N · Σᵢ (β₂ · (ln π(yᵢ|x) − ln π_beh(yᵢ|x)) − (rᵢ − V̂))²` ([`loss`])
//!
//! Departs from the paper in β₂: a target of `(r − V̂)/β₂` nats is out of reach at the paper's 1e-3, so that the loss is a
//! policy gradient that nothing stops. With LoRA and rewards in [0, 1], 0.1 paid most of what was tried
//! (`models/sql-tiny/UPLIFT.md`).

/// The two temperatures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Oapl {
    /// β₁: how optimistic the value is; towards 0 it is the best reward, towards ∞ the mean. Paper: 1.
    pub beta_value: f64,
    /// β₂: how strongly a reward moves a log-probability; nats are `advantage / β₂`. Paper: 1e-3.
    pub beta_policy: f64,
}

/// `V̂` of one prompt's rewards; the log-sum-exp is shifted by its maximum, so that no β overflows.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "a prompt has few samples")]
pub fn value(rewards: &[f64], beta: f64) -> f64 {
    let top = rewards.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = rewards.iter().map(|r| ((r - top) / beta).exp()).sum();
    top + beta * (sum / rewards.len() as f64).ln()
}

/// `rᵢ − V̂` for each sample of one prompt.
#[must_use]
pub fn advantages(rewards: &[f64], beta: f64) -> Vec<f64> {
    let value = value(rewards, beta);
    rewards.iter().map(|r| r - value).collect()
}

/// One sample's share of the loss, before the division by N, and its derivative by the sequence's log-probability.
///
/// `drift` is `ln π − ln π_beh` of the sequence, in nats.
#[must_use]
pub fn loss(drift: f64, advantage: f64, beta: f64) -> (f64, f64) {
    let residual = beta * drift - advantage;
    (residual * residual, 2.0 * beta * residual)
}
