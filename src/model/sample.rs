//! One token from a row of logits: temperature, nucleus, and both log-probabilities. Pure functions on the host.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::constraint::Constraint;
use super::ops::head::log_sum_exp;
use super::ops::math::{exp, vectorised};

/// How tokens are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most probable token.
    pub temperature: f32,
    /// Draws only from the smallest set of tokens whose probability reaches this (Holtzman et al. 2020).
    pub top_p: Option<f32>,
}

/// A drawn token and how probable it was.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Draw {
    /// The token's id.
    pub token: u32,
    /// Its log-probability under the plain policy: temperature 1, no nucleus.
    pub logprob: f32,
    /// Its log-probability under the distribution that it was drawn from; 0 where the draw was greedy.
    pub sampling_logprob: f32,
}

/// Draws one token; equal logits and an equal generator give an equal draw.
pub fn draw(logits: &[f32], sampling: Sampling, rng: &mut ChaCha8Rng) -> Draw {
    let lse = vectorised(
        #[inline(always)]
        || log_sum_exp(logits, 1.0),
    );
    let finish =
        |token: usize, sampling_logprob| Draw { token: token as u32, logprob: logits[token] - lse, sampling_logprob };
    if sampling.temperature <= 0.0 {
        return finish(argmax(logits), 0.0);
    }
    let inverse = 1.0 / sampling.temperature;
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |logit: &f32| exp((logit - largest) * inverse);
    let weights: Vec<f32> = vectorised(
        #[inline(always)]
        || logits.iter().map(weight).collect(),
    );
    let kept = match sampling.top_p {
        Some(top_p) if top_p < 1.0 => nucleus(&weights, top_p),
        _ => (0..weights.len()).collect(),
    };
    let total: f64 = kept.iter().map(|i| f64::from(weights[*i])).sum();
    let mut left = rng.random::<f64>() * total;
    let mut chosen = kept[0];
    for index in kept {
        // A token of zero weight is never chosen, not even by the rounding of the last subtraction.
        if weights[index] > 0.0 {
            chosen = index;
        }
        left -= f64::from(weights[index]);
        if left < 0.0 {
            break;
        }
    }
    finish(chosen, (f64::from(weights[chosen]) / total).ln() as f32)
}

/// As [`draw`], from the tokens that a constraint lets follow. `logprob` is that of the plain policy all the same.
///
/// # Errors
/// What the constraint says where nothing can follow.
pub fn draw_under(
    constraint: &mut dyn Constraint,
    logits: &[f32],
    sampling: Sampling,
    rng: &mut ChaCha8Rng,
) -> Result<Draw, String> {
    let mut allowed = logits.to_vec();
    constraint.restrict(&mut allowed)?;
    // Tokens that may not follow are left out, not made improbable: none of them can be drawn.
    let may = |(_, logit): &(usize, &f32)| **logit > f32::NEG_INFINITY;
    let (tokens, logits_of_them): (Vec<usize>, Vec<f32>) =
        allowed.iter().enumerate().filter(may).map(|(token, logit)| (token, *logit)).unzip();
    if tokens.is_empty() {
        return Err("no token may follow".to_owned());
    }
    let drawn = draw(&logits_of_them, sampling, rng);
    let token = tokens[drawn.token as usize];
    let lse = vectorised(
        #[inline(always)]
        || log_sum_exp(logits, 1.0),
    );
    Ok(Draw { token: token as u32, logprob: logits[token] - lse, ..drawn })
}

/// The index of the largest value, the first of equals.
pub fn argmax(values: &[f32]) -> usize {
    let mut best = 0;
    for (index, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = index;
        }
    }
    best
}

/// The most probable tokens until their share reaches `top_p`, most probable first; at least one.
fn nucleus(weights: &[f32], top_p: f32) -> Vec<usize> {
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_unstable_by(|a, b| weights[*b].total_cmp(&weights[*a]).then(a.cmp(b)));
    let total: f64 = weights.iter().map(|w| f64::from(*w)).sum();
    let mut reached = 0f64;
    let enough = order.iter().position(|index| {
        reached += f64::from(weights[*index]);
        reached >= f64::from(top_p) * total
    });
    order.truncate(enough.map_or(order.len(), |last| last + 1));
    order
}
