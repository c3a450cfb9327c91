//! What a cycle would take from a window now, for a person to read.

use super::choose::{last_user_turn, shorten};
use crate::config;
use crate::domain::{Exclusion, LeftOut, Prompt, TrainingSet};
use std::collections::BTreeMap;

/// Characters of a prompt in a sample.
const SAMPLE_CHARS_MAX: usize = 160;

/// A prompt, shortened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// The call.
    pub request_id: String,
    /// Its time, RFC 3339.
    pub request_time: String,
    /// The prompt's hash.
    pub hash: String,
    /// The last user turn, shortened.
    pub prompt: String,
}

/// A summary of a training set.
#[derive(Debug, Clone, PartialEq)]
pub struct Preview<'a> {
    /// The set.
    pub set: &'a TrainingSet,
    /// Rows that the SQL returned.
    pub rows: usize,
    /// Rows left out, by reason.
    pub left_out: BTreeMap<Exclusion, usize>,
    /// Why a cycle would not run on it; `None` where it would.
    pub shortage: Option<String>,
}

impl<'a> Preview<'a> {
    /// Counts a set.
    #[must_use]
    pub fn of(set: &'a TrainingSet, window: &config::Window) -> Self {
        let mut left_out = BTreeMap::new();
        for row in &set.left_out {
            *left_out.entry(row.why.clone()).or_insert(0) += 1;
        }
        let rows = set.train.len() + set.holdout.len() + set.left_out.len();
        let shortage = super::enough(set, window, 1).err().map(|e| e.to_string());
        Self { set, rows, left_out, shortage }
    }

    /// Up to `count` prompts of a side, spread evenly over time.
    #[must_use]
    pub fn samples(prompts: &[Prompt], count: usize) -> Vec<Sample> {
        let step = prompts.len().div_ceil(count.max(1)).max(1);
        prompts.iter().step_by(step).take(count).map(sample).collect()
    }

    /// Up to `count` rows left out for this reason.
    #[must_use]
    pub fn left_out_samples(&self, why: &Exclusion, count: usize) -> Vec<&LeftOut> {
        self.set.left_out.iter().filter(|row| row.why == *why).take(count).collect()
    }
}

fn sample(prompt: &Prompt) -> Sample {
    Sample {
        request_id: prompt.request_id.clone(),
        request_time: prompt.request_time.to_string(),
        hash: prompt.hash.to_string(),
        prompt: shorten(last_user_turn(prompt), SAMPLE_CHARS_MAX),
    }
}
