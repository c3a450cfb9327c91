//! The losses behind one face: what they need, what a step's loss is divided by, and each token's derivative.
//!
//! Pure functions over one prompt's responses; the formulas are in the files of the algorithms.

use super::groups::Group;
use super::{dpo, grpo, oapl, rloo, sft};
use crate::config::{Algorithm, DpoPairs, DpoReference, Optimize};
use dpo::{Dpo, Pairs};
use grpo::{Clip, Grpo, Variant};
use oapl::Oapl;
use rloo::Rloo;
use sft::Choice;

/// The loss with its constants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Loss {
    /// [`oapl`].
    Oapl(Oapl),
    /// [`grpo`].
    Grpo(Grpo),
    /// [`rloo`].
    Rloo(Rloo),
    /// [`dpo`].
    Dpo(Dpo),
    /// [`sft`].
    Sft(Choice),
}

impl Loss {
    /// The loss that the configuration asks for.
    #[must_use]
    pub fn of(options: &Optimize) -> Self {
        let clip = Clip { low: options.grpo_clip_low, high: options.grpo_clip_high };
        match options.algorithm {
            Algorithm::Oapl => {
                Self::Oapl(Oapl { beta_value: options.oapl_beta_value, beta_policy: options.oapl_beta_policy })
            }
            Algorithm::Grpo => Self::Grpo(Grpo { clip, variant: Variant::Dapo }),
            Algorithm::DrGrpo => {
                let tokens = f64::from(options.dr_grpo_tokens);
                Self::Grpo(Grpo { clip, variant: Variant::DrGrpo { tokens } })
            }
            Algorithm::Rloo => Self::Rloo(Rloo { beta: options.rloo_beta, clip }),
            Algorithm::Dpo => Self::Dpo(Dpo {
                beta: options.dpo_beta,
                margin_min: options.dpo_margin_min,
                pairs: match options.dpo_pairs {
                    DpoPairs::Extremes => Pairs::Extremes,
                    DpoPairs::All => Pairs::All,
                },
                from_base: options.dpo_reference == DpoReference::Base,
            }),
            Algorithm::BestOfN => {
                Self::Sft(Choice::Best { top_k: options.best_of_n_top_k, reward_min: options.best_of_n_reward_min })
            }
            Algorithm::ZeroLabel => Self::Sft(Choice::Agreed { share_min: options.zero_label_share_min }),
        }
    }

    /// Whether responses must have been scored.
    #[must_use]
    pub fn needs_rewards(&self) -> bool {
        !matches!(self, Self::Sft(Choice::Agreed { .. } | Choice::All))
    }

    /// Whether the base's log-probabilities of the responses are needed.
    #[must_use]
    pub fn needs_base(&self) -> bool {
        match self {
            Self::Rloo(rloo) => rloo.beta > 0.0,
            Self::Dpo(dpo) => dpo.from_base,
            Self::Oapl(_) | Self::Grpo(_) | Self::Sft(_) => false,
        }
    }

    /// What a step's loss is divided by: samples, tokens or pairs.
    #[must_use]
    pub fn scale(&self, members: &[&Group]) -> f64 {
        let responses = || members.iter().flat_map(|g| &g.responses);
        let samples = || responses().map(|r| r.weight).sum::<f64>();
        match self {
            Self::Oapl(_) | Self::Rloo(_) => samples(),
            Self::Grpo(Grpo { variant: Variant::DrGrpo { tokens }, .. }) => samples() * tokens,
            Self::Grpo(_) | Self::Sft(_) => responses().map(|r| r.weight * super::count(r.tokens.len())).sum(),
            Self::Dpo(_) => members.iter().flat_map(|g| &g.pairs).map(|pair| pair.weight).sum(),
        }
    }

    /// Each response's share of the loss, undivided, and its derivatives by its tokens' log-probabilities.
    ///
    /// `now` holds every response's token log-probabilities under the policy that trains. A pair's loss is its chosen
    /// response's share.
    #[must_use]
    pub fn shares(&self, group: &Group, now: &[&[f32]]) -> Vec<Share> {
        if let Self::Dpo(dpo) = self {
            return preferences(*dpo, group, now);
        }
        let one = |(response, now): (&super::groups::Response, &&[f32])| {
            let drift = || now.iter().zip(&response.behaviour).map(|(now, then)| f64::from(*now) - then);
            let (loss, slopes) = match self {
                Self::Oapl(oapl) => {
                    // The sequence's log-probability is the sum of its tokens', so every token has its derivative.
                    let (loss, slope) = oapl::loss(drift().sum(), response.advantage, oapl.beta_policy);
                    (loss, vec![slope; now.len()])
                }
                Self::Rloo(rloo) => {
                    let (loss, slope) = rloo::loss(drift().sum(), response.advantage, rloo.clip);
                    (loss, vec![slope; now.len()])
                }
                Self::Grpo(grpo) => sum(drift().map(|d| grpo::token_loss(d, response.advantage, grpo.clip))),
                Self::Sft(_) | Self::Dpo(_) => sum(now.iter().map(|now| sft::token_loss(f64::from(*now)))),
            };
            Share { loss: loss * response.weight, slopes: slopes.iter().map(|s| s * response.weight).collect() }
        };
        group.responses.iter().zip(now).map(one).collect()
    }
}

/// One response's part in a group's loss.
#[derive(Debug, Clone, PartialEq)]
pub struct Share {
    /// Its loss, times its weight.
    pub loss: f64,
    /// The derivative of the group's loss by each of its tokens' log-probabilities.
    pub slopes: Vec<f64>,
}

fn sum(tokens: impl Iterator<Item = (f64, f64)>) -> (f64, Vec<f64>) {
    let all: Vec<_> = tokens.collect();
    (all.iter().map(|(loss, _)| loss).sum(), all.into_iter().map(|(_, slope)| slope).collect())
}

fn preferences(dpo: Dpo, group: &Group, now: &[&[f32]]) -> Vec<Share> {
    // ln π − ln π_ref of each sequence.
    let moved = group.responses.iter().zip(now).map(|(response, now)| {
        let drift = now.iter().zip(&response.behaviour).map(|(now, then)| f64::from(*now) - then).sum::<f64>();
        drift + response.from_base
    });
    let moved: Vec<f64> = moved.collect();
    let mut shares = vec![(0.0, 0.0); moved.len()];
    for pair in &group.pairs {
        let (loss, slope) = dpo::pair_loss(moved[pair.chosen], moved[pair.rejected], dpo.beta);
        shares[pair.chosen].0 += loss * pair.weight;
        shares[pair.chosen].1 += slope * pair.weight;
        shares[pair.rejected].1 -= slope * pair.weight;
    }
    let share = |((loss, slope), now): (&(f64, f64), &&[f32])| Share { loss: *loss, slopes: vec![*slope; now.len()] };
    shares.iter().zip(now).map(share).collect()
}
