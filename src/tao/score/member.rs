//! A scorer among others: its name, what its number does to the reward, and how it measures.

use super::case::{Case, Finding};
use super::judge::Judge;
use super::reward_model::RewardModelMeasure;
use super::{Error, feedback, rules};
use crate::config::{Score, Share};
use crate::tao::Watch;
use std::fmt::Debug;
use std::path::PathBuf;

/// Measures responses, each from 0 to 1.
pub(super) trait Measure: Send + Sync + Debug {
    /// One finding a case.
    fn measure(&self, cases: &[Case<'_>], watch: &Watch<'_>) -> Result<Vec<Finding>, Error>;

    /// One finding a case, where `groups` are the cases of each prompt, for scorers that compare within one.
    fn compare(&self, cases: &[Case<'_>], groups: &[Vec<usize>], watch: &Watch<'_>) -> Result<Vec<Finding>, Error> {
        let _ = groups;
        self.measure(cases, watch)
    }

    /// What was spent on it so far, for the log.
    fn spent(&self) -> Option<String> {
        None
    }
}

/// A rule: one case, one finding.
#[derive(Debug)]
pub(super) struct Rule<F>(pub(super) F);

/// What a rule says of one case.
pub(super) trait Says: Send + Sync + Debug {
    fn says(&self, case: &Case<'_>) -> Finding;
}

impl<S: Says> Measure for Rule<S> {
    fn measure(&self, cases: &[Case<'_>], _: &Watch<'_>) -> Result<Vec<Finding>, Error> {
        Ok(cases.iter().map(|case| self.0.says(case)).collect())
    }
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) share: Share,
    pub(super) measure: Box<dyn Measure>,
}

impl Member {
    fn rule(name: impl Into<String>, share: Share, rule: impl Says + 'static) -> Self {
        Self { name: name.into(), share, measure: Box::new(Rule(rule)) }
    }
}

/// All scorers of a configuration but SQL, in the order in which components are stored.
pub(super) fn members(
    score: &Score,
    resolve: &dyn Fn(&str) -> PathBuf,
    rated: &[feedback::Rated],
) -> Result<Vec<Member>, Error> {
    let mut members = Vec::new();
    if let Some(s) = &score.json_schema {
        members.push(Member::rule("json_schema", s.share(), rules::JsonSchema::open(s, resolve)?));
    }
    for (name, s) in &score.regex {
        let name = format!("regex.{name}");
        let rule = rules::Pattern::compile(&name, s)?;
        members.push(Member::rule(name, s.share(), rule));
    }
    if let Some(s) = &score.answer {
        members.push(Member::rule("answer", s.share(), rules::Answer::open(s)?));
    }
    if let Some(s) = &score.grounded {
        members.push(Member::rule("grounded", s.share(), rules::Grounded(s.clone())));
    }
    if let Some(s) = &score.length {
        members.push(Member::rule("length", s.share(), rules::Length(s.clone())));
    }
    if let Some(s) = &score.refusal {
        members.push(Member::rule("refusal", s.share(), rules::Refusal::new(s)));
    }
    if let Some(s) = &score.repetition {
        members.push(Member::rule("repetition", s.share(), rules::Repetition(s.words)));
    }
    if let Some(s) = &score.feedback {
        members.push(Member::rule("feedback", s.share(), feedback::Feedback::new(s.similarity_min, rated)));
    }
    if let Some(s) = &score.judge {
        let judge = Box::new(Judge::open(s, resolve)?);
        members.push(Member { name: "judge".to_owned(), share: s.share(), measure: judge });
    }
    if let Some(s) = &score.reward_model {
        let model = Box::new(RewardModelMeasure::open(s, resolve)?);
        members.push(Member { name: "reward_model".to_owned(), share: s.share(), measure: model });
    }
    Ok(members)
}
