//! Champion against challenger on the same holdout prompts → a report, a verdict, a page.
//!
//! [`evaluate`] is a pure function of the paired answers, the gate's configuration and a seed. The challenger is promoted
//! only if the lower end of a paired bootstrap interval of its gain is above `gain_min`, on enough prompts: a gain that
//! chance explains is no gain. The reward here is the gate's own scorers', where `gate.score` names some, and never weighs
//! agreement among samples; what the training maximised is shown beside it, with other signs of a hacked reward.
//!
//! It never generates an answer and never stores one: both come in, and everything goes out as a value.

mod bootstrap;
mod gate;
mod guards;
mod json;
pub mod live;
mod normal;
pub mod page;

pub use bootstrap::paired_interval;
pub use gate::{Condition, conditions};
pub use guards::Watched;
pub use json::{report_from_json, report_to_json};

use crate::config;
use crate::domain::{Answer, Comparison, EvalReport, Interval, Verdict};

/// Compares and judges. Without comparisons all figures are 0 and the gate refuses.
///
/// The same comparisons, gate and seed give the same report.
#[must_use]
pub fn evaluate(comparisons: &[Comparison], gate: &config::Gate, seed: u64) -> EvalReport {
    evaluate_watched(comparisons, &Watched::default(), gate, seed)
}

/// As [`evaluate`], with what else is known of the training.
#[must_use]
pub fn evaluate_watched(comparisons: &[Comparison], watched: &Watched, gate: &config::Gate, seed: u64) -> EvalReport {
    let gains: Vec<f64> = comparisons.iter().map(|c| c.challenger.reward - c.champion.reward).collect();
    let confidence = confidence_of(gate, watched.comparison);
    let resamples = gate.resamples.max(resamples_for(confidence));
    let interval = |gains: &[f64]| paired_interval(gains, resamples, confidence, seed);
    let truth = accuracy_pairs(comparisons);
    let reward_gain = interval(&gains);
    let mut report = EvalReport {
        prompts: comparisons.len(),
        changed: gains.iter().filter(|gain| **gain != 0.0).count(),
        champion_reward: mean(comparisons.iter().map(|c| c.champion.reward)),
        challenger_reward: mean(comparisons.iter().map(|c| c.challenger.reward)),
        reward_gain,
        champion_accuracy: truth.as_ref().map(|pairs| mean(pairs.iter().map(|p| p.0))),
        challenger_accuracy: truth.as_ref().map(|pairs| mean(pairs.iter().map(|p| p.1))),
        accuracy_gain: truth.as_ref().map(|pairs| interval(&pairs.iter().map(|p| p.1 - p.0).collect::<Vec<_>>())),
        confidence,
        guards: guards::guards(comparisons, watched, gate, reward_gain, seed),
        verdict: Verdict::Promote,
    };
    let failed: Vec<String> = conditions(&report, gate).into_iter().filter(|c| !c.held).map(|c| c.text).collect();
    if !failed.is_empty() {
        report.verdict = Verdict::Reject(failed);
    }
    report
}

/// The confidence of the k-th comparison since the last promotion. Many challengers are compared on much the same holdout, and
/// each is another chance for luck to pass as skill: the k-th may be wrong 1/k² as often as the first.
fn confidence_of(gate: &config::Gate, comparison: u32) -> f64 {
    let k = f64::from(comparison.max(1));
    let doubt = 1.0 - gate.confidence;
    // No surer than the resamples can tell.
    if gate.multiple_testing { 1.0 - (doubt / (k * k)).max(DOUBT_MIN.min(doubt)) } else { gate.confidence }
}

/// Resamples beyond each end of the interval: with fewer the end is what the luckiest resamples happen to be.
const TAIL_RESAMPLES: f64 = 10.0;
/// What the most resamples that are drawn, a million, can still tell.
const DOUBT_MIN: f64 = 2.0 * TAIL_RESAMPLES / 1e6;

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 20 to a million")]
fn resamples_for(confidence: f64) -> u32 {
    (2.0 * TAIL_RESAMPLES / (1.0 - confidence)).ceil().clamp(1.0, 1e6) as u32
}

/// Right or wrong as 1 or 0, champion and challenger, where both are known for every prompt; `None` otherwise, because
/// an accuracy over some of the prompts would look like one over all.
fn accuracy_pairs(comparisons: &[Comparison]) -> Option<Vec<(f64, f64)>> {
    let known = |answer: &Answer| answer.correct.map(|right| f64::from(u8::from(right)));
    let pairs: Option<Vec<_>> =
        comparisons.iter().map(|c| Some((known(&c.champion)?, known(&c.challenger)?))).collect();
    pairs.filter(|pairs| !pairs.is_empty())
}

#[expect(clippy::cast_precision_loss, reason = "counts of prompts are far below 2^53")]
fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len();
    if count == 0 { 0.0 } else { values.sum::<f64>() / count as f64 }
}

/// `+0.123 [+0.045, +0.201]`: a gain with its interval, as every surface prints it.
#[must_use]
pub fn interval_text(interval: Interval) -> String {
    format!("{:+.3} [{:+.3}, {:+.3}]", interval.mean, interval.low, interval.high)
}
