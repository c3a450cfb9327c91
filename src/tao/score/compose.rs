//! Scorers together: each one's number, by weight and threshold, to one reward.
//!
//! `reward = tied · varied · (1 − w + w · agreement)`. `tied` is the mean of the scorers' numbers by weight, or 0 where a hard
//! threshold is missed, or what the calibration makes of the numbers. `varied` is 0 for one text that many prompts were given.
//! Agreement is the share of the prompt's `tied` weight on samples with the same answer, so that what is not tied to the
//! question agrees with nothing. SQL alone is scored by its own rule, which is of the same form.

use super::calibrate::Mapping;
use super::case::{Case, Finding, Verdict};
use super::feedback::Rated;
use super::member::{Member, members};
use super::rules::Answer;
use super::sql::{self, ConstantGuard, Constants, Limits};
use super::{Error, reward};
use crate::config::{self, Share};
use crate::domain::{Candidate, ChatMessage, Component, PromptHash};
use crate::tao::Watch;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::Duration;

/// The largest share of prompts that one text may be given to, where no SQL is scored.
const CONSTANT_SHARE_MAX: f64 = 0.5;

/// All scorers of one configuration.
#[derive(Debug)]
pub struct Composition {
    sql: Option<(sql::Scorer, Share)>,
    members: Vec<Member>,
    answer: Option<(Answer, f64)>,
    guard: ConstantGuard,
    mapping: Option<Mapping>,
}

/// Figures of one scoring, for the log and the report.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Candidates scored.
    pub candidates: usize,
    /// Their mean reward.
    pub reward_mean: f64,
    /// The mean of each scorer's number, by name.
    pub means: BTreeMap<String, f64>,
    /// Candidates about which a scorer said nothing.
    pub without_verdict: usize,
    /// The largest share of prompts that were given one and the same text: near 1, the model answers with a constant.
    pub constant_share: f64,
    /// What was spent on judges so far.
    pub spent: Vec<String>,
}

impl Composition {
    /// Sets up all scorers; `resolve` makes paths of the configuration absolute, `rated` are logged answers that users rated.
    ///
    /// # Errors
    /// [`Error`], naming the scorer, what is wrong with it and what would be right.
    pub fn open(score: &config::Score, resolve: &dyn Fn(&str) -> PathBuf, rated: &[Rated]) -> Result<Self, Error> {
        let members = members(score, resolve, rated)?;
        let sql = score.sql.as_ref().map(|s| open_sql(s, resolve)).transpose()?;
        if members.is_empty() && sql.is_none() {
            return Err(Error::Nothing);
        }
        let answer = score.answer.as_ref().filter(|a| a.agreement_weight > 0.0);
        let answer = answer.map(|a| Ok::<_, Error>((Answer::open(a)?, a.agreement_weight))).transpose()?;
        let standard = if sql.is_some() { ConstantGuard::default().share_max } else { CONSTANT_SHARE_MAX };
        let share_max = score.constant_share_max.unwrap_or(standard);
        let guard = ConstantGuard { share_max, ..ConstantGuard::default() };
        Ok(Self { sql, members, answer, guard, mapping: None })
    }

    /// The same with a calibrated mapping from numbers to reward.
    #[must_use]
    pub fn with_mapping(self, mapping: Option<Mapping>) -> Self {
        Self { mapping, ..self }
    }

    /// The SQL scorer, where there is one.
    #[must_use]
    pub fn sql(&self) -> Option<&sql::Scorer> {
        self.sql.as_ref().map(|(scorer, _)| scorer)
    }

    /// Sets reward and components of every candidate; `prompts` gives each prompt's messages.
    ///
    /// A candidate about which a scorer says nothing gets the mean of its prompt's other samples for it.
    ///
    /// # Errors
    /// [`Error`].
    pub fn score(
        &self,
        prompts: &HashMap<PromptHash, Vec<ChatMessage>>,
        candidates: &mut [Candidate],
        watch: &Watch<'_>,
    ) -> Result<Summary, Error> {
        if let (Some((scorer, _)), true, None) = (&self.sql, self.members.is_empty(), &self.mapping) {
            let summary = scorer.score(prompts, candidates)?;
            return Ok(self.summary(candidates, 0, summary.constant_share));
        }
        let groups = groups(candidates);
        let mut findings = self.findings(prompts, candidates, &groups, watch)?;
        let without_verdict = fill(&mut findings, &groups);
        let texts: Vec<String> = candidates.iter().map(|c| c.text.trim().to_owned()).collect();
        let constants = Constants::count(candidates, &texts);
        let each = (0..candidates.len()).map(|at| self.numbers(&findings, at));
        let numbers: Vec<Vec<(&str, Share, f64)>> = each.collect();
        let varied: Vec<f64> = texts.iter().map(|text| constants.varied(text, self.guard)).collect();
        let tied: Vec<f64> = numbers.iter().zip(&varied).map(|(n, varied)| self.tied(n) * varied).collect();
        let agreement = self.agreement(candidates, &groups, &tied);
        for (at, candidate) in candidates.iter_mut().enumerate() {
            let weight = self.answer.as_ref().map_or(0.0, |(_, weight)| *weight);
            candidate.reward = Some(reward::reward(tied[at], agreement[at], weight));
            candidate.components = self.components(&findings, at);
            let ours = [("varied", varied[at]), ("agreement", agreement[at]), ("tied", tied[at])];
            candidate.components.extend(ours.map(|(name, value)| component(name, value)));
        }
        let constant_share = texts.iter().map(|text| constants.share(text)).fold(0.0, f64::max);
        Ok(self.summary(candidates, without_verdict, constant_share))
    }

    /// Judges single responses, one a prompt, without agreement: what the gate, `pelton eval` and the calibration see.
    ///
    /// # Errors
    /// [`Error`].
    pub fn judge(&self, cases: &[Case<'_>], watch: &Watch<'_>) -> Result<Vec<Verdict>, Error> {
        let mut findings = Vec::new();
        if let Some((scorer, share)) = &self.sql {
            let answers: Vec<_> = cases.iter().map(|c| (c.messages, c.response)).collect();
            let found = scorer.inspect(&answers).into_iter();
            let found = found.map(|p| Finding { value: Some(p.tied()), parts: p.named().to_vec() });
            findings.push(("sql", *share, found.collect()));
        }
        for member in &self.members {
            findings.push((member.name.as_str(), member.share, member.measure.measure(cases, watch)?));
        }
        let verdict = |at: usize| {
            let numbers = self.numbers(&findings, at);
            let silent = findings.iter().any(|(_, share, f)| share.weight > 0.0 && f[at].value.is_none());
            Verdict { reward: (!silent).then(|| self.tied(&numbers)), components: self.components(&findings, at) }
        };
        Ok((0..cases.len()).map(verdict).collect())
    }

    fn findings<'a, 'c>(
        &'a self,
        prompts: &'c HashMap<PromptHash, Vec<ChatMessage>>,
        candidates: &'c [Candidate],
        groups: &[Vec<usize>],
        watch: &Watch<'_>,
    ) -> Result<Vec<Found<'a>>, Error> {
        let unknown = |c: &Candidate| Error::UnknownPrompt { prompt: c.prompt, sample: c.sample };
        let case = |c: &'c Candidate| Ok(Case::new(prompts.get(&c.prompt).ok_or_else(|| unknown(c))?, &c.text));
        let cases = candidates.iter().map(case).collect::<Result<Vec<_>, Error>>()?;
        let mut findings = Vec::new();
        if let Some((scorer, share)) = &self.sql {
            let mut own = candidates.to_vec();
            scorer.score(prompts, &mut own)?;
            let found = own.iter().map(|c| Finding { value: c.reward, parts: Vec::new() }).collect();
            findings.push(("sql", *share, found));
        }
        for member in &self.members {
            findings.push((&member.name, member.share, member.measure.compare(&cases, groups, watch)?));
        }
        Ok(findings)
    }

    fn numbers<'a>(&self, findings: &[Found<'a>], at: usize) -> Vec<(&'a str, Share, f64)> {
        findings.iter().filter_map(|(name, share, found)| Some((*name, *share, found[at].value?))).collect()
    }

    fn components(&self, findings: &[Found<'_>], at: usize) -> Vec<Component> {
        let mut components = Vec::new();
        for (name, _, found) in findings {
            components.extend(found[at].value.map(|value| component(*name, value)));
            components.extend(found[at].parts.iter().map(|(part, value)| component(format!("{name}.{part}"), *value)));
        }
        components
    }

    fn tied(&self, numbers: &[(&str, Share, f64)]) -> f64 {
        let shares: Vec<(Share, f64)> = numbers.iter().map(|(_, share, value)| (*share, *value)).collect();
        let plain = combine(&shares);
        match &self.mapping {
            Some(mapping) if plain > 0.0 => mapping.apply(plain, &|name| number_of(numbers, name)),
            _ => plain,
        }
    }

    fn agreement(&self, candidates: &[Candidate], groups: &[Vec<usize>], tied: &[f64]) -> Vec<f64> {
        let mut all = vec![0.0; candidates.len()];
        let Some((answer, _)) = &self.answer else { return all };
        let mut known: HashMap<String, u128> = HashMap::new();
        for members in groups {
            let mut key = |at: &usize| {
                let text = answer.key(&candidates[*at].text)?;
                let next = known.len() as u128;
                Some(*known.entry(text).or_insert(next))
            };
            let keys: Vec<Option<u128>> = members.iter().map(&mut key).collect();
            let weights: Vec<f64> = members.iter().map(|&at| tied[at]).collect();
            for (&at, agreement) in members.iter().zip(reward::agreement(&keys, &weights)) {
                all[at] = agreement;
            }
        }
        all
    }

    #[expect(clippy::cast_precision_loss, reason = "candidates are counted in thousands")]
    fn summary(&self, candidates: &[Candidate], without_verdict: usize, constant_share: f64) -> Summary {
        let count = candidates.len().max(1) as f64;
        let mut means: BTreeMap<String, f64> = BTreeMap::new();
        for part in candidates.iter().flat_map(|c| &c.components) {
            *means.entry(part.name.clone()).or_default() += part.value / count;
        }
        Summary {
            candidates: candidates.len(),
            reward_mean: candidates.iter().filter_map(|c| c.reward).sum::<f64>() / count,
            means,
            without_verdict,
            constant_share,
            spent: self.members.iter().filter_map(|m| m.measure.spent()).collect(),
        }
    }
}

/// What a scorer says of all cases.
type Found<'a> = (&'a str, Share, Vec<Finding>);

/// The mean by weight, or zero where a hard threshold is missed. A number that has reached a soft threshold counts as 1, below
/// it by its share of the threshold. Without any weight, thresholds alone decide: 1 or 0.
#[must_use]
pub fn combine(numbers: &[(Share, f64)]) -> f64 {
    let (mut sum, mut weights) = (0.0, 0.0);
    for (share, value) in numbers {
        let value = match share.threshold {
            Some(threshold) if share.hard && *value < threshold => return 0.0,
            Some(threshold) if !share.hard && threshold > 0.0 => (value / threshold).min(1.0),
            _ => *value,
        };
        sum += share.weight * value;
        weights += share.weight;
    }
    if weights > 0.0 { sum / weights } else { 1.0 }
}

fn number_of(numbers: &[(&str, Share, f64)], name: &str) -> Option<f64> {
    numbers.iter().find(|(n, _, _)| *n == name).map(|(_, _, value)| *value)
}

fn component(name: impl Into<String>, value: f64) -> Component {
    Component { name: name.into(), value }
}

/// The candidates of each prompt, in the order of hashes.
fn groups(candidates: &[Candidate]) -> Vec<Vec<usize>> {
    let mut groups: BTreeMap<PromptHash, Vec<usize>> = BTreeMap::new();
    for (at, candidate) in candidates.iter().enumerate() {
        groups.entry(candidate.prompt).or_default().push(at);
    }
    groups.into_values().collect()
}

/// Gives a candidate without a verdict what its prompt's other samples got on average, or all prompts' samples where the
/// prompt has none. A scorer that says nothing of anyone stays silent. Returns how many were without.
fn fill(findings: &mut [Found<'_>], groups: &[Vec<usize>]) -> usize {
    let mut without = vec![false; findings.first().map_or(0, |(_, _, f)| f.len())];
    for (_, _, found) in findings {
        let Some(overall) = mean(found.iter().filter_map(|f| f.value)) else { continue };
        for members in groups {
            let own = mean(members.iter().filter_map(|&at| found[at].value)).unwrap_or(overall);
            for &at in members {
                if found[at].value.is_none() {
                    found[at].value = Some(own);
                    without[at] = true;
                }
            }
        }
    }
    without.iter().filter(|w| **w).count()
}

#[expect(clippy::cast_precision_loss, reason = "candidates are counted in thousands")]
fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (count, sum) = values.fold((0usize, 0.0), |(count, sum), v| (count + 1, sum + v));
    (count > 0).then(|| sum / count as f64)
}

fn open_sql(score: &config::SqlScore, resolve: &dyn Fn(&str) -> PathBuf) -> Result<(sql::Scorer, Share), Error> {
    let limits = Limits {
        time: Duration::from_millis(score.query_ms_max),
        memory_bytes_max: score.memory_bytes_max,
        rows_max: score.rows_max,
        ..Limits::default()
    };
    let scorer = sql::Scorer::open(&resolve(&score.database), limits)?.with_agreement_weight(score.agreement_weight);
    Ok((scorer, Share { weight: score.weight, threshold: None, hard: true }))
}
