//! A bootstrap interval of the mean of paired differences.
//!
//! B. Efron and R. J. Tibshirani, *An Introduction to the Bootstrap* (1993): the bias-corrected and accelerated interval
//! (BCa), section 14.3, equations 14.9 to 14.15. Gains in reward are skewed (most prompts are unchanged, few change
//! much), where the plain percentile interval covers too little and BCa is second-order accurate.
//!
//! Pairing is the point: both models answer the same prompts, so how hard a prompt is cancels in the difference.

use super::normal::{cdf, quantile};
use crate::domain::Interval;
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The mean of `differences` with its BCa interval at `confidence` (such as 0.95) from `resamples` resamples.
///
/// The same arguments give the same interval on every machine. Without differences it is 0 to 0; where all are equal it
/// is that value: what the data cannot say about their spread, the interval cannot either, so a gate must ask for a
/// minimum of prompts beside it.
#[must_use]
pub fn paired_interval(differences: &[f64], resamples: u32, confidence: f64, seed: u64) -> Interval {
    let mean = mean(differences);
    let spread = differences.iter().any(|d| *d != differences[0]);
    if !spread || resamples == 0 {
        return Interval { mean, low: mean, high: mean };
    }
    let means = resampled_means(differences, resamples, seed);
    let bias = bias_correction(&means, mean);
    let acceleration = acceleration(differences, mean);
    let tail = (1.0 - confidence) / 2.0;
    let end = |probability| sorted_quantile(&means, adjusted(probability, bias, acceleration));
    Interval { mean, low: end(tail), high: end(1.0 - tail) }
}

/// Means of resamples with replacement, ascending.
fn resampled_means(differences: &[f64], resamples: u32, seed: u64) -> Vec<f64> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let count = u64::try_from(differences.len()).expect("a length fits 64 bits");
    let mut means: Vec<f64> = (0..resamples)
        .map(|_| {
            let sum: f64 = (0..count).map(|_| differences[below(&mut random, count)]).sum();
            sum / to_f64(differences.len())
        })
        .collect();
    means.sort_by(f64::total_cmp);
    means
}

/// A number below `count` by multiply and shift. Written out, because a library's way may change between versions and an
/// interval must not. The bias, `count / 2^64`, is nothing beside that of any resample.
fn below(random: &mut ChaCha8Rng, count: u64) -> usize {
    let wide = u128::from(random.next_u64()) * u128::from(count);
    usize::try_from(wide >> 64).expect("below a length, so an index")
}

/// z₀ (14.14): how far the median of the resampled means lies from the mean, in normal deviations. Means equal to it
/// count half, which matters for yes/no scores, where many are.
fn bias_correction(means: &[f64], mean: f64) -> f64 {
    let less = means.iter().filter(|m| **m < mean).count();
    let equal = means.iter().filter(|m| **m == mean).count();
    let share = (to_f64(less) + 0.5 * to_f64(equal)) / to_f64(means.len());
    let edge = 0.5 / to_f64(means.len());
    quantile(share.clamp(edge, 1.0 - edge))
}

/// â (14.15). For a mean, the jackknife's differences are the deviations up to a factor that cancels.
fn acceleration(differences: &[f64], mean: f64) -> f64 {
    let (square, cube) = differences.iter().map(|d| d - mean).fold((0.0, 0.0), |(s, c), d| (s + d * d, c + d * d * d));
    cube / (6.0 * f64::powf(square, 1.5))
}

/// The probability at which the sorted means are read instead of `probability` (14.10).
fn adjusted(probability: f64, bias: f64, acceleration: f64) -> f64 {
    let z = bias + quantile(probability);
    cdf(bias + z / (1.0 - acceleration * z))
}

/// The quantile of ascending values, linear between neighbours.
fn sorted_quantile(values: &[f64], probability: f64) -> f64 {
    let last = values.len() - 1;
    let place = probability.clamp(0.0, 1.0) * to_f64(last);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the last index")]
    let below = place.floor() as usize;
    let above = (below + 1).min(last);
    values[below] + (values[above] - values[below]) * (place - to_f64(below))
}

fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / to_f64(values.len()) }
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
fn to_f64(count: usize) -> f64 {
    count as f64
}
