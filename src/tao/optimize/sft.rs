//! Fine-tuning on chosen answers: `L = −1/T · Σₜ ln π(yₜ|x, y_<t)` over the T tokens of the whole step.
//!
//! What tells the recipes apart is who chooses the answers ([`choose`]):
//! - **best of N**, rejection sampling (RAFT, arXiv 2304.06767, algorithm 1; ReST, arXiv 2308.08998): the k best by
//!   reward among those that reach a threshold. For warm-up, and for scorers too weak for a policy gradient;
//! - **zero-label** learning (Large Language Models Can Self-Improve, arXiv 2210.11610, section 3.1): the answer that
//!   the model itself gives most often, where it is sure enough of it. No reward is looked at;
//! - **labelled**: the answers are given, all of them: the recipe that TAO is to beat.
//!
//! Departs from the papers in that equal responses are learned once, not as often as they were drawn.

/// Who chooses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Choice {
    /// The best by reward.
    Best {
        /// At most so many distinct responses of a prompt.
        top_k: usize,
        /// And only those with this reward at least.
        reward_min: f64,
    },
    /// The most frequent answer.
    Agreed {
        /// Only where this share of a prompt's samples gave it.
        share_min: f64,
    },
    /// Every answer that is given.
    All,
}

/// A prompt's distinct and complete responses as a choice sees them.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// Each one's reward.
    pub rewards: &'a [f64],
    /// How many samples gave each.
    pub counts: &'a [f64],
    /// All samples of the prompt, the truncated ones too.
    pub samples: f64,
}

/// The indices of the responses to learn, best first; of equals the first.
#[must_use]
pub fn choose(choice: Choice, options: Options<'_>) -> Vec<usize> {
    let mut order: Vec<usize> = (0..options.rewards.len()).collect();
    match choice {
        Choice::All => {}
        Choice::Best { top_k, reward_min } => {
            order.retain(|i| options.rewards[*i] >= reward_min);
            order.sort_by(|a, b| options.rewards[*b].total_cmp(&options.rewards[*a]).then(a.cmp(b)));
            order.truncate(top_k);
        }
        Choice::Agreed { share_min } => {
            order.sort_by(|a, b| options.counts[*b].total_cmp(&options.counts[*a]).then(a.cmp(b)));
            order.truncate(1);
            order.retain(|i| options.counts[*i] >= share_min * options.samples);
        }
    }
    order
}

/// A token's share of the loss, before the division by T, and its derivative by the token's log-probability.
#[must_use]
pub fn token_loss(logprob: f64) -> (f64, f64) {
    (-logprob, -1.0)
}
