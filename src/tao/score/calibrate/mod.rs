//! The mapping from scorers' numbers to reward, fitted to what users said: isotonic over the combined number, or logistic over
//! the single ones.
//!
//! Promises that a mapping is only given where it predicts users better than the plain number does *and* better than always
//! saying how often users are content, both in cross-validation with all answers to a prompt in one fold; that the same samples
//! and seed give the same mapping; and that all figures are reported, whatever is chosen.
//!
//! Isotonic: R. E. Barlow et al., *Statistical Inference under Order Restrictions* (1972), pool adjacent violators; read between
//! the blocks' centres by straight lines, because steps would tie rewards that differ. Logistic: iteratively reweighted least
//! squares on standardised numbers with a ridge of 1.

mod figures;
mod isotonic;
mod logistic;

pub use figures::Figures;

use crate::runtime::derive_seed;
use isotonic::Isotonic;
use logistic::Logistic;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Folds of the cross-validation.
const FOLDS: usize = 5;
/// Fewer samples than this say too little.
pub const SAMPLES_MIN: usize = 50;
/// Fewer of either kind, content or not, than this say too little.
pub const EACH_KIND_MIN: usize = 10;

/// One answer that a user rated.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Identifies its prompt: answers to one prompt stand in one fold.
    pub prompt: u64,
    /// The plain reward.
    pub plain: f64,
    /// Each scorer's number by name, where it has one.
    pub numbers: BTreeMap<String, f64>,
    /// Whether the user was content.
    pub content: bool,
}

/// A fitted mapping.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Mapping {
    /// From the plain reward.
    Isotonic(Isotonic),
    /// From the scorers' numbers.
    Logistic(Logistic),
}

impl Mapping {
    /// The probability that users are content.
    #[must_use]
    pub fn apply(&self, plain: f64, number_of: &dyn Fn(&str) -> Option<f64>) -> f64 {
        match self {
            Self::Isotonic(isotonic) => isotonic.apply(plain),
            Self::Logistic(logistic) => logistic.apply(number_of),
        }
    }

    fn predict(&self, sample: &Sample) -> f64 {
        self.apply(sample.plain, &|name| sample.numbers.get(name).copied())
    }
}

/// What a calibration found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Rated answers.
    pub samples: usize,
    /// Those that users were content with.
    pub content: usize,
    /// Figures in cross-validation by way: `base_rate`, `uncalibrated`, `isotonic`, `logistic`.
    pub figures: BTreeMap<String, Figures>,
    /// What is used: a name of `figures`.
    pub chosen: String,
    /// Why.
    pub reason: String,
    /// The mapping, fitted to all samples; absent where the plain reward is used.
    pub mapping: Option<Mapping>,
}

impl fmt::Display for Calibration {
    /// One paragraph with all figures, for the report.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { samples, content, chosen, reason, .. } = self;
        write!(f, "{chosen} is used ({reason}); {samples} rated answers, {content} of them liked")?;
        for (way, Figures { auc, brier, ece }) in &self.figures {
            write!(f, "; {way}: AUC {auc:.3}, Brier {brier:.4}, ECE {ece:.3}")?;
        }
        Ok(())
    }
}

/// Fits, compares and chooses.
#[must_use]
pub fn calibrate(samples: &[Sample], seed: u64) -> Calibration {
    let content = samples.iter().filter(|s| s.content).count();
    let plain = |reason: String, figures| Calibration {
        samples: samples.len(),
        content,
        figures,
        chosen: "uncalibrated".to_owned(),
        reason,
        mapping: None,
    };
    if samples.len() < SAMPLES_MIN || content.min(samples.len() - content) < EACH_KIND_MIN {
        let reason = format!(
            "{} rated answers, {content} of them liked: at least {SAMPLES_MIN} with {EACH_KIND_MIN} of each kind are needed",
            samples.len()
        );
        return plain(reason, BTreeMap::new());
    }
    let figures = cross_validate(samples, seed);
    let (uncalibrated, base) = (figures["uncalibrated"], figures["base_rate"]);
    let ways = ["isotonic", "logistic"].into_iter().filter_map(|way| Some((way, figures.get(way)?)));
    let best = ways.min_by(|a, b| a.1.brier.total_cmp(&b.1.brier));
    match best {
        Some((way, found)) if found.brier < uncalibrated.brier && found.brier < base.brier => Calibration {
            samples: samples.len(),
            content,
            chosen: way.to_owned(),
            reason: format!(
                "in cross-validation its Brier score, {:.4}, is below the plain reward's, {:.4}, and the base rate's, {:.4}",
                found.brier, uncalibrated.brier, base.brier
            ),
            mapping: fit(way, &samples.iter().collect::<Vec<_>>()),
            figures,
        },
        _ => plain("no mapping predicts users better than the plain reward and the base rate do".to_owned(), figures),
    }
}

fn fit(way: &str, samples: &[&Sample]) -> Option<Mapping> {
    match way {
        "isotonic" => {
            let pairs: Vec<(f64, f64)> = samples.iter().map(|s| (s.plain, f64::from(u8::from(s.content)))).collect();
            Some(Mapping::Isotonic(Isotonic::fit(&pairs)))
        }
        _ => Logistic::fit(samples).map(Mapping::Logistic),
    }
}

/// Every way's predictions of samples that it has not seen.
fn cross_validate(samples: &[Sample], seed: u64) -> BTreeMap<String, Figures> {
    let folds = folds(samples, seed);
    let several = samples.iter().flat_map(|s| s.numbers.keys()).collect::<std::collections::BTreeSet<_>>().len() > 1;
    let mut predictions: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let mut labels = Vec::new();
    for fold in 0..FOLDS {
        let side = |inside: bool| -> Vec<&Sample> {
            samples.iter().zip(&folds).filter(|(_, f)| (**f == fold) == inside).map(|(s, _)| s).collect()
        };
        let (test, train) = (side(true), side(false));
        #[expect(clippy::cast_precision_loss, reason = "samples are counted in thousands")]
        let rate = train.iter().filter(|s| s.content).count() as f64 / train.len().max(1) as f64;
        labels.extend(test.iter().map(|s| s.content));
        predictions.entry("base_rate").or_default().extend(test.iter().map(|_| rate));
        predictions.entry("uncalibrated").or_default().extend(test.iter().map(|s| s.plain));
        for way in ["isotonic", "logistic"].into_iter().filter(|way| *way == "isotonic" || several) {
            let fitted = fit(way, &train);
            let of = |s: &&Sample| fitted.as_ref().map_or(rate, |m| m.predict(s));
            predictions.entry(way).or_default().extend(test.iter().map(of));
        }
    }
    predictions.into_iter().map(|(way, p)| (way.to_owned(), Figures::of(&p, &labels))).collect()
}

/// Each sample's fold; prompts are dealt out in an order that the seed decides.
fn folds(samples: &[Sample], seed: u64) -> Vec<usize> {
    let mut prompts: Vec<u64> = samples.iter().map(|s| s.prompt).collect();
    prompts.sort_unstable();
    prompts.dedup();
    prompts.sort_by_key(|prompt| derive_seed(seed, "fold", &[*prompt]));
    let fold: BTreeMap<u64, usize> = prompts.into_iter().enumerate().map(|(i, prompt)| (prompt, i % FOLDS)).collect();
    samples.iter().map(|s| fold[&s.prompt]).collect()
}
