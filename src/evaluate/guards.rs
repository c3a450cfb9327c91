//! Signs of a reward that was hacked instead of earned: length, repetition, one answer for all, distance from the base, and a
//! training reward that rises while the gate's does not.

use super::{interval_text, mean, paired_interval};
use crate::config;
use crate::domain::{Answer, Comparison, Guards, Interval, PartGain, Sides, Signs, Wins};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Answers this many times as long, or as short, are worth a look.
const LENGTH_RATIO: f64 = 1.5;
/// So much more of one answer for all, or of repetition, is worth a look.
const SHARE_RISE: f64 = 0.1;
/// Nats a token from the base beyond which little of it is left.
const KL: f64 = 1.0;
/// Words in a run.
const RUN: usize = 4;
/// Steps at either end of the training that its reward is averaged over.
const STEPS: usize = 5;

/// What is known beside the comparisons.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Watched {
    /// Champion's and challenger's rewards by the scorers that training maximised, where the gate has others.
    pub training: Option<Vec<(f64, f64)>>,
    /// The mean reward of each step of training.
    pub training_curve: Vec<f64>,
    /// The challenger's distance from the base in nats a token.
    pub kl_to_base: Option<f64>,
    /// The base's mean reward on the same prompts.
    pub base_reward: Option<f64>,
    /// Champion's and challenger's rewards on each pinned suite, by its name.
    pub suites: BTreeMap<String, Vec<(f64, f64)>>,
    /// The base's mean reward on each pinned suite, where another serves.
    pub suites_base: BTreeMap<String, f64>,
    /// The how manyth comparison since the last promotion this is, from 1; 0 where nobody counts.
    pub comparison: u32,
    /// The shares of answers that refuse.
    pub refusals: Option<Sides>,
    /// Prompts that one side has no verdict on.
    pub unjudged: usize,
    /// Of each prompt, what a judge who sees both answers gives the challenger's: 1, 0, or a half; nothing without a verdict.
    pub wins: Option<Vec<Option<f64>>>,
}

pub(super) fn guards(
    comparisons: &[Comparison],
    watched: &Watched,
    gate: &config::Gate,
    gain: Interval,
    seed: u64,
) -> Guards {
    let both = |figure: &dyn Fn(Vec<&Answer>) -> f64| Sides {
        champion: figure(comparisons.iter().map(|c| &c.champion).collect()),
        challenger: figure(comparisons.iter().map(|c| &c.challenger).collect()),
    };
    let training_gain = watched.training.as_ref().map(|pairs| {
        let gains: Vec<f64> = pairs.iter().map(|(before, after)| after - before).collect();
        paired_interval(&gains, gate.resamples, gate.confidence, seed)
    });
    let mut guards = Guards {
        words: both(&|answers| mean(answers.iter().map(|a| to_f64(a.text.split_whitespace().count())))),
        repetition: both(&|answers| mean(answers.iter().map(|a| repeated(&a.text)))),
        constant_share: both(&|answers| constant_share(&answers)),
        kl_to_base: watched.kl_to_base,
        training_gain,
        training_reward: ends(&watched.training_curve),
        base_reward: watched.base_reward,
        signs: signs(comparisons),
        suites: suites(watched, gate, seed),
        slices: slices(comparisons, gate, seed),
        tokens: both(&|answers| mean(answers.iter().map(|a| f64::from(a.tokens)))),
        refusals: watched.refusals,
        unjudged: watched.unjudged,
        wins: wins(watched, gate, seed),
        comparison: watched.comparison,
        warnings: Vec::new(),
    };
    guards.warnings = warnings(&guards, gain);
    guards
}

/// McNemar's exact test, where every reward is 0 or 1 (Q. McNemar, Psychometrika 12, 1947, as a binomial test): of the prompts
/// that the two answer differently, chance gives each to either side alike.
fn signs(comparisons: &[Comparison]) -> Option<Signs> {
    let yes_no = |c: &Comparison| [c.champion.reward, c.challenger.reward].iter().all(|r| *r == 0.0 || *r == 1.0);
    if comparisons.is_empty() || !comparisons.iter().all(yes_no) {
        return None;
    }
    let gains = comparisons.iter().filter(|c| c.challenger.reward > c.champion.reward).count();
    let losses = comparisons.iter().filter(|c| c.challenger.reward < c.champion.reward).count();
    Some(Signs { gains, losses, chance: two_sided(gains, losses) })
}

/// The probability of a split of `a + b` fair coins that is at least as uneven.
fn two_sided(a: usize, b: usize) -> f64 {
    let (all, few) = (a + b, a.min(b));
    // Logarithms, because 2^-n of thousands of prompts is no double.
    let mut term = -to_f64(all) * std::f64::consts::LN_2;
    let mut tail = 0.0;
    for k in 0..=few {
        tail += term.exp();
        term += (to_f64(all - k) / to_f64(k + 1)).ln();
    }
    (2.0 * tail).min(1.0)
}

fn suites(watched: &Watched, gate: &config::Gate, seed: u64) -> Vec<PartGain> {
    let base = |name: &String| watched.suites_base.get(name).copied();
    let bound = |name: &String| Some(gate.suites.get(name).map_or(0.0, |suite| suite.regression_max));
    let one = |(name, pairs): (&String, &Vec<(f64, f64)>)| PartGain {
        base: base(name),
        regression_max: bound(name),
        ..part(name, pairs, gate, seed)
    };
    watched.suites.iter().map(one).collect()
}

fn slices(comparisons: &[Comparison], gate: &config::Gate, seed: u64) -> Vec<PartGain> {
    let mut pairs: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for c in comparisons {
        if let Some(slice) = &c.slice {
            pairs.entry(slice).or_default().push((c.champion.reward, c.challenger.reward));
        }
    }
    pairs.iter().map(|(name, pairs)| part(name, pairs, gate, seed)).collect()
}

fn part(name: &str, pairs: &[(f64, f64)], gate: &config::Gate, seed: u64) -> PartGain {
    let gains: Vec<f64> = pairs.iter().map(|(before, after)| after - before).collect();
    let side = |of: fn(&(f64, f64)) -> f64| mean(pairs.iter().map(of));
    PartGain {
        name: name.to_owned(),
        prompts: pairs.len(),
        reward: Sides { champion: side(|p| p.0), challenger: side(|p| p.1) },
        gain: paired_interval(&gains, gate.resamples, gate.confidence, seed),
        base: None,
        regression_max: None,
    }
}

/// The share of prompts that the challenger's answer wins.
fn wins(watched: &Watched, gate: &config::Gate, seed: u64) -> Option<Wins> {
    let won: Vec<f64> = watched.wins.as_ref()?.iter().flatten().copied().collect();
    Some(Wins { prompts: won.len(), share: paired_interval(&won, gate.resamples, gate.confidence, seed) })
}

fn warnings(guards: &Guards, gain: Interval) -> Vec<String> {
    let mut warnings = Vec::new();
    let Sides { champion, challenger } = guards.words;
    if champion > 0.0 && !(1.0 / LENGTH_RATIO..=LENGTH_RATIO).contains(&(challenger / champion)) {
        warnings.push(format!("answers went from {champion:.1} to {challenger:.1} words"));
    }
    let mut rises = |what: &str, sides: Sides| {
        if sides.challenger > sides.champion + SHARE_RISE {
            let (before, after) = (sides.champion * 100.0, sides.challenger * 100.0);
            warnings.push(format!("{what} went from {before:.0} % to {after:.0} %"));
        }
    };
    rises("the share of prompts that one and the same answer was given to", guards.constant_share);
    rises("the share of an answer that repeats itself", guards.repetition);
    rises("the share of answers that refuse or are empty", guards.refusals.unwrap_or_default());
    for slice in guards.slices.iter().filter(|slice| slice.gain.high < 0.0) {
        let (name, prompts, gain) = (&slice.name, slice.prompts, interval_text(slice.gain));
        warnings.push(format!("the slice `{name}` is answered worse: {gain} on {prompts} prompts"));
    }
    if let Some(kl) = guards.kl_to_base.filter(|kl| *kl > KL) {
        warnings.push(format!("the challenger is {kl:.2} nats a token away from the base"));
    }
    let unproven = gain.low <= 0.0;
    if let Some(training) = guards.training_gain.filter(|t| unproven && t.low > 0.0) {
        warnings.push(format!(
            "by the scorers that training maximised the gain is {}, by the gate's it is {}: the reward may be hacked",
            interval_text(training),
            interval_text(gain)
        ));
    }
    if let Some((first, last)) = guards.training_reward.filter(|(first, last)| unproven && *last > first + SHARE_RISE) {
        warnings.push(format!(
            "the training's reward rose from {first:.3} to {last:.3}, and the gate's gain is {}",
            interval_text(gain)
        ));
    }
    warnings
}

/// The share of a text's runs of words that were there before.
fn repeated(text: &str) -> f64 {
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut seen = HashSet::new();
    let again: Vec<f64> = words.windows(RUN).map(|run| f64::from(u8::from(!seen.insert(run)))).collect();
    mean(again.into_iter())
}

fn constant_share(answers: &[&Answer]) -> f64 {
    let mut given: HashMap<&str, usize> = HashMap::new();
    for answer in answers {
        *given.entry(answer.text.trim()).or_default() += 1;
    }
    given.values().max().map_or(0.0, |most| to_f64(*most) / to_f64(answers.len()))
}

/// The mean over the first and over the last steps.
fn ends(curve: &[f64]) -> Option<(f64, f64)> {
    let steps = STEPS.min(curve.len() / 2);
    (steps > 0).then(|| (mean(curve[..steps].iter().copied()), mean(curve[curve.len() - steps..].iter().copied())))
}

#[expect(clippy::cast_precision_loss, reason = "counts of words and prompts are far below 2^53")]
fn to_f64(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mcnemars_test_is_the_binomial_one() {
        let check =
            |a, b, expected: f64| assert!((two_sided(a, b) - expected).abs() < 1e-9, "{a} {b}: {}", two_sided(a, b));
        check(0, 0, 1.0);
        check(5, 5, 1.0);
        check(0, 5, 0.0625);
        check(5, 0, 0.0625);
        check(1, 9, 0.021_484_375);
        check(2, 10, 0.038_574_218_75);
        assert!(two_sided(1000, 3000) < 1e-200 && two_sided(1990, 2010) > 0.7);
    }
}
