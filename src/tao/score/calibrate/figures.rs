//! How well probabilities predict what happened.

use serde::{Deserialize, Serialize};

/// Bins of the expected calibration error.
const BINS: usize = 10;

/// Figures of one way to predict.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// The probability that a liked answer is put above one that is not; 0.5 for guessing.
    pub auc: f64,
    /// The mean squared error of the probability; lower is better.
    pub brier: f64,
    /// The expected calibration error over ten bins of equal width; lower is better.
    pub ece: f64,
}

impl Figures {
    /// Of predictions and what happened.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "samples are counted in thousands")]
    pub fn of(predictions: &[f64], labels: &[bool]) -> Self {
        let count = labels.len().max(1) as f64;
        let squares = predictions.iter().zip(labels).map(|(p, l)| (p - f64::from(u8::from(*l))).powi(2));
        Self {
            auc: auc(predictions, labels),
            brier: squares.sum::<f64>() / count,
            ece: ece(predictions, labels, count),
        }
    }
}

/// By ranks; ties share theirs (Mann and Whitney's U).
#[expect(clippy::cast_precision_loss, reason = "samples are counted in thousands")]
fn auc(predictions: &[f64], labels: &[bool]) -> f64 {
    let mut order: Vec<usize> = (0..predictions.len()).collect();
    order.sort_by(|&a, &b| predictions[a].total_cmp(&predictions[b]));
    let (mut rank_sum, mut at) = (0.0, 0);
    while at < order.len() {
        let end = (at..order.len()).find(|&i| predictions[order[i]] != predictions[order[at]]).unwrap_or(order.len());
        let rank = (at + 1 + end) as f64 / 2.0;
        rank_sum += rank * order[at..end].iter().filter(|&&i| labels[i]).count() as f64;
        at = end;
    }
    let yes = labels.iter().filter(|l| **l).count() as f64;
    let no = labels.len() as f64 - yes;
    if yes == 0.0 || no == 0.0 { 0.5 } else { (rank_sum - yes * (yes + 1.0) / 2.0) / (yes * no) }
}

fn ece(predictions: &[f64], labels: &[bool], count: f64) -> f64 {
    let mut bins = [(0.0, 0.0); BINS];
    for (p, label) in predictions.iter().zip(labels) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 9 after the clamp")]
        let bin = ((p * 10.0).floor().clamp(0.0, 9.0)) as usize;
        bins[bin].0 += p;
        bins[bin].1 += f64::from(u8::from(*label));
    }
    bins.iter().map(|(predicted, happened)| (predicted - happened).abs() / count).sum()
}
