//! DPO, direct preference optimization (arXiv 2305.18290, eq. 7), on pairs that the rewards of a prompt's samples make.
//!
//! - `m = β · ((ln π(y_w|x) − ln π_ref(y_w|x)) − (ln π(y_l|x) − ln π_ref(y_l|x)))`
//! - `L = −1/N · Σ ln σ(m)` over pairs of a better and a worse response ([`pair_loss`])
//!
//! Departs from the paper in where pairs come from: not people, but rewards that are at least a margin apart. The
//! reference is the policy that drew the responses, or the base model.

/// What pairs are made, and how sharply they count.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dpo {
    /// β: how far from the reference a preference may move; the paper's default is 0.1.
    pub beta: f64,
    /// Rewards that are less apart make no pair.
    pub margin_min: f64,
    /// Which pairs a prompt gives.
    pub pairs: Pairs,
    /// Whether the base is the reference; otherwise it is the policy that drew the response.
    pub from_base: bool,
}

/// Which pairs a prompt gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairs {
    /// The best response against the worst.
    Extremes,
    /// Every better response against every worse one; together they count as one pair.
    All,
}

/// A preference among a prompt's responses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pair {
    /// The better response's index.
    pub chosen: usize,
    /// The worse one's.
    pub rejected: usize,
    /// What it counts: a prompt's pairs sum to 1.
    pub weight: f64,
}

/// The pairs of one prompt's rewards; of equal rewards the first stands for all where extremes are asked for.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "a prompt has few samples")]
pub fn pairs(rewards: &[f64], dpo: Dpo) -> Vec<Pair> {
    let apart = |(w, l): &(usize, usize)| rewards[*w] > rewards[*l] && rewards[*w] - rewards[*l] >= dpo.margin_min;
    let indices = || 0..rewards.len();
    let found: Vec<(usize, usize)> = match dpo.pairs {
        Pairs::All => indices().flat_map(|w| indices().map(move |l| (w, l))).filter(apart).collect(),
        Pairs::Extremes => {
            let best = indices().reduce(|best, i| if rewards[i] > rewards[best] { i } else { best });
            let worst = indices().reduce(|worst, i| if rewards[i] < rewards[worst] { i } else { worst });
            best.zip(worst).into_iter().filter(apart).collect()
        }
    };
    let weight = 1.0 / found.len().max(1) as f64;
    found.into_iter().map(|(chosen, rejected)| Pair { chosen, rejected, weight }).collect()
}

/// A pair's loss and its derivative by the chosen sequence's log-probability; by the rejected one's it is the negative.
///
/// `chosen` and `rejected` are `ln π − ln π_ref` of the sequences, in nats.
#[must_use]
pub fn pair_loss(chosen: f64, rejected: f64, beta: f64) -> (f64, f64) {
    let margin = beta * (chosen - rejected);
    // −ln σ(m) = ln(1 + e^−m), without an overflow where m is far below zero.
    let loss = (-margin).max(0.0) + (-margin.abs()).exp().ln_1p();
    (loss, -beta / (1.0 + margin.exp()))
}
