//! One evaluation's rows and figures, as JSON, and two of them side by side.

use super::answers::Answered;
use super::prompts::Asked;
use crate::domain::Interval;
use crate::evaluate::paired_interval;
use crate::tao::score::Verdict;
use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Bootstrap resamples.
const RESAMPLES: u32 = 10_000;

/// One answer with its numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The prompt's id.
    pub id: String,
    /// The last user turn.
    pub question: String,
    /// The answer; absent where there is none.
    pub answer: Option<String>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Its tokens, where they are known.
    pub tokens: Option<u32>,
    /// Whether it reached the limit.
    pub truncated: bool,
    /// Each number by name: `reward`, `correct`, and each scorer's.
    pub scores: BTreeMap<String, f64>,
}

impl Row {
    pub(super) fn new(asked: &Asked, answered: &Answered, verdict: Option<(Verdict, Option<bool>)>) -> Self {
        let mut scores = BTreeMap::new();
        if let Some((verdict, correct)) = verdict {
            scores.extend(verdict.components.into_iter().map(|c| (c.name, c.value)));
            scores.extend(verdict.reward.map(|reward| ("reward".to_owned(), reward)));
            scores.extend(correct.map(|right| ("correct".to_owned(), f64::from(u8::from(right)))));
        }
        Self {
            id: asked.id.clone(),
            question: asked
                .messages
                .iter()
                .rev()
                .find(|m| m.role == "user")
                .map_or_else(String::new, |m| m.content.clone()),
            answer: answered.text.clone(),
            problem: answered.problem.clone(),
            tokens: answered.tokens,
            truncated: answered.truncated,
            scores,
        }
    }
}

/// The mean of one number over the prompts, with its interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// The mean; of several answers to a prompt their mean counts.
    pub mean: f64,
    /// The interval's lower end.
    pub low: f64,
    /// The interval's upper end.
    pub high: f64,
    /// Prompts that have it.
    pub prompts: usize,
}

/// One evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The version of this format: 1.
    pub format: u32,
    /// Who answered.
    pub model: String,
    /// Prompts asked.
    pub prompts: usize,
    /// Answers that there are none of.
    pub unanswered: usize,
    /// Answers that reached the limit.
    pub truncated: usize,
    /// Seconds that answering took.
    pub seconds: f64,
    /// Tokens of all answers, where they are known.
    pub tokens: u64,
    /// The confidence of the intervals.
    pub confidence: f64,
    /// Each number's mean by name.
    pub scores: BTreeMap<String, Score>,
    /// Every answer.
    pub rows: Vec<Row>,
}

/// A number of two runs, over the prompts that both have it for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gain {
    /// The mean before.
    pub before: f64,
    /// The mean after.
    pub after: f64,
    /// Their difference with its interval.
    pub gain: Interval,
    /// Prompts that both have it for.
    pub prompts: usize,
}

impl Run {
    pub(super) fn sum_up(model: &str, rows: Vec<Row>, seconds: f64, confidence: f64, seed: u64) -> Self {
        let mut run = Self {
            format: 1,
            model: model.to_owned(),
            prompts: rows.iter().map(|r| &r.id).collect::<BTreeSet<_>>().len(),
            unanswered: rows.iter().filter(|r| r.answer.is_none()).count(),
            truncated: rows.iter().filter(|r| r.truncated).count(),
            seconds,
            tokens: rows.iter().filter_map(|r| r.tokens).map(u64::from).sum(),
            confidence,
            scores: BTreeMap::new(),
            rows,
        };
        for name in run.names() {
            let values: Vec<f64> = run.by_prompt(&name).into_values().collect();
            let Interval { mean, low, high } = paired_interval(&values, RESAMPLES, confidence, seed);
            run.scores.insert(name, Score { mean, low, high, prompts: values.len() });
        }
        run
    }

    /// Reads what was written.
    ///
    /// # Errors
    /// The file that cannot be read, or is no evaluation.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let run: Self = serde_json::from_str(&text)
            .with_context(|| format!("{} is no evaluation; `pelton eval --output` writes one", path.display()))?;
        if run.format != 1 {
            bail!("{} has format {}; this Pelton reads format 1", path.display(), run.format);
        }
        Ok(run)
    }

    fn names(&self) -> BTreeSet<String> {
        self.rows.iter().flat_map(|r| r.scores.keys().cloned()).collect()
    }

    /// A number's mean for each prompt.
    fn by_prompt(&self, name: &str) -> BTreeMap<&str, f64> {
        let mut sums: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
        for row in &self.rows {
            if let Some(value) = row.scores.get(name) {
                let sum = sums.entry(&row.id).or_default();
                *sum = (sum.0 + value, sum.1 + 1.0);
            }
        }
        sums.into_iter().map(|(id, (sum, count))| (id, sum / count)).collect()
    }
}

/// Two runs, prompt by prompt: every number that both have, for the prompts that both have it for.
///
/// # Errors
/// Where they have no prompt in common.
pub fn compare(before: &Run, after: &Run, seed: u64) -> Result<BTreeMap<String, Gain>> {
    let mut gains = BTreeMap::new();
    for name in before.names().intersection(&after.names()) {
        let (old, new) = (before.by_prompt(name), after.by_prompt(name));
        let pairs: Vec<(f64, f64)> = old.iter().filter_map(|(id, old)| Some((*old, *new.get(id)?))).collect();
        if pairs.is_empty() {
            continue;
        }
        #[expect(clippy::cast_precision_loss, reason = "prompts are counted in thousands")]
        let mean = |side: fn(&(f64, f64)) -> f64| pairs.iter().map(side).sum::<f64>() / pairs.len() as f64;
        let differences: Vec<f64> = pairs.iter().map(|(old, new)| new - old).collect();
        let gain = paired_interval(&differences, RESAMPLES, after.confidence, seed);
        let (before, after) = (mean(|p| p.0), mean(|p| p.1));
        gains.insert(name.clone(), Gain { before, after, gain, prompts: pairs.len() });
    }
    if gains.is_empty() {
        bail!(
            "the two runs have no prompt in common that both have a number for; they are paired by id, or by the prompt itself"
        );
    }
    Ok(gains)
}
