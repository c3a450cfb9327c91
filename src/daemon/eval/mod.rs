//! `pelton eval`: a model answers prompts, scorers judge the answers, and the figures come with their intervals.
//!
//! Promises that the same model, prompts, scorers and seed give the same figures (as far as an endpoint keeps its seed); that
//! no prompt is dropped in silence; and that two runs are compared prompt by prompt, never by their means alone.

mod answers;
mod prompts;
mod run;

pub use answers::{Answered, Answerer, Sampling};
pub use prompts::{Asked, read_answers, read_prompts};
pub use run::{Gain, Row, Run, Score, compare};

use crate::runtime::derive_seed;
use crate::tao::Watch;
use crate::tao::score::{Case, Composition};
use anyhow::Result;

/// Who answers, what, and who judges.
pub struct Evaluation<'a> {
    /// Who answers.
    pub answerer: &'a Answerer,
    /// The prompts.
    pub prompts: &'a [Asked],
    /// Who judges.
    pub scorers: &'a Composition,
    /// How answers are drawn.
    pub sampling: &'a Sampling,
    /// The confidence of intervals, such as 0.95.
    pub confidence: f64,
    /// The seed of sampling and of the bootstrap.
    pub seed: u64,
}

/// Answers, judges and sums up.
///
/// # Errors
/// What a model, an endpoint or a scorer could not do.
pub fn evaluate(evaluation: &Evaluation<'_>, watch: &Watch<'_>) -> Result<Run> {
    let prompts = evaluation.prompts;
    let begun = std::time::Instant::now();
    let answers = evaluation.answerer.answer(prompts, evaluation.sampling, evaluation.seed, watch)?;
    let seconds = begun.elapsed().as_secs_f64();
    let each = || prompts.iter().zip(&answers).flat_map(|(p, given)| given.iter().map(move |a| (p, a)));
    let judged: Vec<(&Asked, &Answered)> = each().filter(|(_, a)| a.text.is_some()).collect();
    let cases: Vec<Case<'_>> =
        judged.iter().map(|(asked, answered)| asked.case(answered.text.as_deref().unwrap_or_default())).collect();
    let verdicts = evaluation.scorers.judge(&cases, watch)?;
    let correct = correct(evaluation.scorers, &judged);
    let mut verdicts = verdicts.into_iter().zip(correct);
    let rows = each().map(|(asked, answered)| {
        let verdict = answered.text.is_some().then(|| verdicts.next()).flatten();
        Row::new(asked, answered, verdict)
    });
    let rows = rows.collect();
    let seed = derive_seed(evaluation.seed, "intervals", &[]);
    Ok(Run::sum_up(evaluation.answerer.name(), rows, seconds, evaluation.confidence, seed))
}

/// Execution accuracy where the answers are SQL and the prompts carry the true one.
fn correct(scorers: &Composition, judged: &[(&Asked, &Answered)]) -> Vec<Option<bool>> {
    let mut correct = vec![None; judged.len()];
    let Some(sql) = scorers.sql() else { return correct };
    let known = judged
        .iter()
        .enumerate()
        .filter_map(|(at, (asked, answered))| Some((at, (answered.text.as_deref()?, asked.reference.as_deref()?))));
    let (places, pairs): (Vec<usize>, Vec<(&str, &str)>) = known.unzip();
    for (at, right) in places.into_iter().zip(sql.is_correct(&pairs)) {
        correct[at] = Some(right);
    }
    correct
}
